//! Compressed layers: cut, mixed, endless.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use orlop_images::layout::{Layer, Layout, digest};
use orlop_images::recipes;
use orlop_images::tar::{Entry, Tar, flag};

use super::{Cases, Want, listings};

/// An image with one layer of any bytes, whose tar has the diff id of `plain`.
fn layer(layout: &mut Layout, suffix: &str, packed: &[u8], plain: &[u8]) {
    let descriptor = layout.blob(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), packed);
    let layer = Layer { descriptor, diff_id: digest(plain), tar_size: plain.len() as u64 };
    layout.image("t", &[layer], recipes::shell());
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tar() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.file("a", "content");
    tar.end()
}

pub(super) fn all(cases: &mut Cases<'_>) {
    let fine = || listings(&[&["f a 7"]]);
    let mut case = |name: &str, want: Want, suffix: &'static str, packed: Vec<u8>| {
        cases.layout(name, want, move |layout| layer(layout, suffix, &packed, &tar()));
    };
    let (zipped, zstd) = (gzip(&tar()), zstd_of(&tar()));
    let skippable =
        |length: u32| [&0x184d_2a5e_u32.to_le_bytes()[..], &length.to_le_bytes(), &vec![7; length as usize]].concat();
    let (first, second) = (gzip(&tar()[..700]), gzip(&tar()[700..]));

    case("gzip", fine(), "+gzip", zipped.clone());
    case("zstd", fine(), "+zstd", zstd.clone());
    case("gzip of two members", fine(), "+gzip", [first.clone(), second.clone()].concat());
    case("T46: gzip with 100,000 empty members", fine(), "+gzip", [gzip(b"").repeat(100_000), zipped.clone()].concat());
    case("zstd with skippable frames", fine(), "+zstd", [skippable(100), zstd.clone(), skippable(3)].concat());
    case("zstd of two frames", fine(), "+zstd", [zstd_of(&tar()[..700]), zstd_of(&tar()[700..])].concat());
    case("zeros behind gzip", fine(), "+gzip", [zipped.clone(), vec![0; 512]].concat());

    case("T44: garbage behind gzip", Want::Refused, "+gzip", [zipped.clone(), b"garbage".repeat(9)].concat());
    case("gzip that is cut", Want::Refused, "+gzip", zipped[..zipped.len() - 9].to_vec());
    case("gzip without its sum", Want::Refused, "+gzip", zipped[..zipped.len() - 8].to_vec());
    case("gzip with a wrong sum", Want::Refused, "+gzip", changed(&zipped, zipped.len() - 6));
    case("gzip with a wrong length", Want::Refused, "+gzip", changed(&zipped, zipped.len() - 1));
    case("gzip with a wrong byte", Want::Refused, "+gzip", changed(&zipped, 20));
    case("gzip whose second member is missing", Want::Refused, "+gzip", first);
    case("zstd that is cut", Want::Refused, "+zstd", zstd[..zstd.len() - 3].to_vec());
    case("T46: zstd of nothing but skippable frames", Want::Refused, "+zstd", skippable(1000));
    // Magic, a descriptor without a single segment, and the largest window: 3.75 TiB. 2 GiB: 0xa8.
    for (what, window) in [("2 GiB", 0xa8), ("3.75 TiB", 0xff)] {
        let frame = [&0xfd2f_b528_u32.to_le_bytes()[..], &[0, window], &[1, 0, 0]].concat();
        case(&format!("T46: zstd with a window of {what}"), Want::Refused, "+zstd", frame);
    }
    case("xz under gzip's name", Want::Refused, "+gzip", [b"\xfd7zXZ\0".to_vec(), vec![0; 600]].concat());

    cases.layout("T46: 400 MB of zeros in 400 KB", Want::Refused, |layout| {
        let size = 400 << 20;
        let image = layout.layer(orlop_images::layout::Packing::Gzip, |tar| {
            tar.head(&Entry::new(flag::FILE, b"zeros"), size);
            let block = vec![0; 1 << 20];
            (0..size >> 20).for_each(|_| {
                tar.raw(&block);
            });
            tar.raw([0; 1024]);
        });
        layout.image("t", &[image], recipes::shell());
    });
    cases.layout("CVE superlinear: 20,000 opaque marks of a folder of 20,000 files", Want::Survived, |layout| {
        let below = layout.layer(orlop_images::layout::Packing::Gzip, |tar| {
            (0..20_000).for_each(|i| {
                tar.file(&format!("d/{i}"), "");
            });
        });
        let above = layout.layer(orlop_images::layout::Packing::Gzip, |tar| {
            (0..20_000).for_each(|_| {
                tar.file("d/.wh..wh..opq", "");
            });
        });
        layout.image("t", &[below, above], recipes::shell());
    });
    cases.layout("T49: a name 100,000 times", listings(&[&["f a 1"]]), |layout| {
        let layer = layout.layer(orlop_images::layout::Packing::Gzip, |tar| {
            (0..100_000).for_each(|_| {
                tar.file("a", "1");
            });
        });
        layout.image("t", &[layer], recipes::shell());
    });
    cases.layout("T47: a folder 2000 deep, 20,000 times", Want::Survived, |layout| {
        let layer = layout.layer(orlop_images::layout::Packing::Gzip, |tar| {
            let deep = "d/".repeat(2000);
            (0..2000).for_each(|i| {
                tar.file(&format!("{deep}{i}"), "");
            });
        });
        layout.image("t", &[layer], recipes::shell());
    });
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn changed(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x55;
    bytes
}
