//! The worker as it is started in earnest: the program itself, whose first thread is made in the jail.
#![allow(clippy::disallowed_methods, reason = "a test's own directory")]

use std::io::Write;
use std::path::PathBuf;

use orlop_bundle::compress::Encoder;
use orlop_bundle::digest::Digest;
use orlop_bundle::image::{Compression, Descriptor, media};
use orlop_bundle::layer::{Extent, Kind, Meta};
use orlop_bundle::store::{Store, Verify};
use orlop_bundle::{tar, worker};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        worker::set_program(env!("CARGO_BIN_EXE_orlop-bundle").into());
        Self(std::env::temp_dir().join(format!("orlop-{name}-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_program_unpacks_and_merges_in_its_jail() {
    let scratch = Scratch::new("worker");
    let store = Store::open(&scratch.0).unwrap();
    let lease = store.lease().unwrap();
    let mut chain = Vec::new();
    for (i, compression) in [Compression::Gzip, Compression::Zstd, Compression::None].into_iter().enumerate() {
        let mut writer = tar::Writer::new(Vec::new());
        let content: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 28) as u8).collect();
        let extents = [Extent { at: 0, len: content.len() as u64, from: 0 }];
        let kind = Kind::File { size: content.len() as u64, extents: &extents };
        writer.entry(format!("f{i}").as_bytes(), kind, &Meta::default(), [], Some(&mut &content[..])).unwrap();
        let plain = writer.finish().unwrap();
        let mut encoder = Encoder::new(compression, None, 1, Vec::new()).unwrap();
        encoder.write_all(&plain).unwrap();
        let blob = encoder.finish().unwrap();
        let descriptor = Descriptor::of(media::LAYER_GZIP, &blob);
        let fetch = |incoming: &mut orlop_bundle::store::Incoming<'_>| incoming.write(&blob);
        let info = store.receive_layer(&lease, &descriptor, Some(Digest::of(&plain)), fetch, &()).unwrap();
        assert_eq!((info.content, info.entries), (3_000_000, 1), "{compression:?}");
        chain.push(info.diff_id);
    }
    assert!(store.tree(&chain).unwrap().metadata().unwrap().len() > 0);
    assert!(store.verify(Verify::Report, &mut |finding| assert_eq!(finding.damage, None, "{finding:?}")).unwrap());
}

#[test]
fn the_program_has_namespaces_where_the_kernel_has_them_for_everyone() {
    let _scratch = Scratch::new("probe");
    let report = worker::probe().unwrap();
    let allowed = std::process::Command::new("unshare").args(["--user", "--mount", "true"]).status();
    if allowed.is_ok_and(|status| status.success()) {
        assert_eq!(report.namespaces, None);
    } else {
        eprintln!("SKIP: no user namespaces here; {report:?}");
    }
}
