//! `-info` and `-v`: who we are.

use orlop::features;

use crate::message::any;
use crate::wire::Message;

/// Our name in containerd's configuration.
const NAME: &str = "io.containerd.orlop.v2";

/// The type of the features document.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// `containerd.runtime.v1.RuntimeInfo`.
pub fn info() -> Vec<u8> {
    let supported = orlop_sys::seccomp::supported_flags();
    let known = |name: &str| orlop::bpf::flag(name).is_some_and(|bit| supported & bit == bit);
    let features = features::text(&features::features(known));
    let version = Message::new().text(1, env!("CARGO_PKG_VERSION"));
    Message::new().text(1, NAME).message(2, &version).message(4, &any(FEATURES, features.as_bytes())).0
}

/// For people.
pub fn version() -> String {
    format!("containerd-shim-orlop-v2:\n  Version:  {}\n", env!("CARGO_PKG_VERSION"))
}
