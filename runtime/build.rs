//! Makes `orlop_sys::entry` the place where the command begins; elsewhere libc's own start is as good, only slower.

fn main() {
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        println!("cargo:rustc-link-arg-bin=orlop=-Wl,--entry=orlop_entry,--undefined=orlop_entry");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
