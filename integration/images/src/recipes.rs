//! The images that speed, layers and fidelity are tried with.
//!
//! A: many small files. B: few big ones. C: many layers. D: several images upon one base. And a layer with one of
//! everything that a tar can say.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};

use crate::layout::{Layer, Layout, Packing};
use crate::random::Random;
use crate::tar::{Entry, Header, Tar, flag, records};

/// The configuration of an image that starts a shell.
pub fn shell() -> Value {
    json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/"})
}

/// Recipe A: `dirs` folders of `files` files, whose sizes are log-normal with a median of 1.2 KB and a mean of 2 KB. With
/// 400 and 125 it is 50,000 files in a tar of some 135 MB.
pub fn small_files(tar: &mut Tar<&mut dyn Write>, dirs: u32, files: u32) {
    let mut random = Random::new(0xA);
    tar.dir("app");
    for dir in 0..dirs {
        // Four levels of folders, as packages of packages are.
        if dir % 20 == 0 {
            tar.dir(&format!("app/group{:02}", dir / 20));
        }
        let name = format!("app/group{:02}/package{dir:03}", dir / 20);
        tar.dir(&name);
        for file in 0..files {
            let size = random.log_normal(7.1, 1.0).min(200_000.0) as usize;
            let body = random.text(size);
            tar.file(&format!("{name}/module{file:03}.js"), body);
        }
    }
}

/// Recipe B: a file of zeros, which compresses to a thousandth, two of text and one of noise.
pub fn big_files(tar: &mut Tar<&mut dyn Write>, zeros: u64, other: usize) {
    let mut random = Random::new(0xB);
    tar.dir("big");
    tar.head(&Entry::new(flag::FILE, b"big/zeros"), zeros);
    let block = vec![0; 1 << 20];
    let mut left = zeros;
    while left > 0 {
        let now = left.min(block.len() as u64);
        tar.raw(&block[..now as usize]);
        left -= now;
    }
    tar.pad(zeros);
    for name in ["big/text", "big/more-text"] {
        tar.file(name, random.text(other));
    }
    tar.file("big/noise", random.bytes(other));
}

/// The content of every file of recipe C's image, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Recipe C: `count` layers. Each adds files of its own, rewrites `var/status`, and takes one file of the layer below
/// away; one in ten replaces a file of all by a link, and the middle one makes `cache` opaque, in which all layers
/// write. Also what must be there in the end.
pub fn many_layers(layout: &Layout, count: u32, packing: Packing) -> (Vec<Layer>, Files) {
    let mut random = Random::new(0xC);
    let mut files = Files::new();
    let mut layers = Vec::new();
    for i in 0..count {
        let layer = layout.layer(packing, |tar| {
            if i == 0 {
                for dir in ["var", "cache", "layer"] {
                    tar.dir(dir);
                }
            }
            let mut put = |tar: &mut Tar<&mut dyn Write>, name: String, body: Vec<u8>| {
                tar.file(&name, &body);
                files.insert(name, body);
            };
            put(tar, "var/status".to_owned(), random.text(4000 + i as usize));
            tar.dir(&format!("layer/{i}"));
            for file in 0..8 {
                let size = random.below(3000) as usize;
                put(tar, format!("layer/{i}/{file}"), random.text(size));
            }
            put(tar, format!("cache/{i}"), random.text(100));
            if i > 0 {
                tar.file(&format!("layer/{}/.wh.{}", i - 1, i % 8), b"");
                files.remove(&format!("layer/{}/{}", i - 1, i % 8));
            }
            if i > 0 && i == count / 2 {
                // Behind what this layer has in the folder: the place of the mark means nothing.
                tar.file("cache/.wh..wh..opq", b"");
                let own = format!("cache/{i}");
                files.retain(|name, _| !name.starts_with("cache/") || *name == own);
            }
            if i > 0 && i % 10 == 0 {
                // Last seen as a folder with files.
                let (old, gone) = (format!("layer/{}", i - 5), format!("layer/{}/", i - 5));
                tar.file(&old, b"replaced");
                files.retain(|name, _| !name.starts_with(&gone));
                files.insert(old, b"replaced".to_vec());
            }
        });
        layers.push(layer);
    }
    (layers, files)
}

/// Recipe D: five images upon one base, tagged `app0` to `app4`. The base, and the tops.
pub fn shared_base(layout: &mut Layout, packing: Packing, dirs: u32, files: u32) -> (Layer, Vec<Layer>) {
    let base = layout.layer(packing, |tar| small_files(tar, dirs, files));
    let mut tops = Vec::new();
    for app in 0..5u64 {
        let top = layout.layer(packing, |tar| {
            tar.dir("srv").file(&format!("srv/app{app}"), Random::new(0xD + app).text(20_000));
        });
        layout.image(&format!("app{app}"), &[base.clone(), top.clone()], shell());
        tops.push(top);
    }
    (base, tops)
}

/// The capability of ping: `cap_net_raw=ep` as a version 2 attribute.
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A layer with one of everything. GNU tar reads it too.
pub fn everything(tar: &mut Tar<&mut dyn Write>) {
    let long = "n".repeat(255);
    let deep = format!("deep/{}", vec!["folder-with-a-name"; 50].join("/"));
    let root = Entry { mode: 0o751, mtime: (1_234_567_890, 0), ..Entry::new(flag::DIRECTORY, b".") };
    tar.entry(&root, b"");

    // Permissions and owners.
    tar.entry(&Entry { mode: 0o1777, ..Entry::new(flag::DIRECTORY, b"tmp") }, b"");
    tar.entry(&Entry { mode: 0o2750, uid: 7, gid: 8, ..Entry::new(flag::DIRECTORY, b"setgid") }, b"");
    tar.entry(&Entry { mode: 0o4755, uid: 12, gid: 13, ..Entry::new(flag::FILE, b"setuid") }, b"#!/bin/sh\n");
    tar.entry(&Entry { mode: 0o6711, gid: 13, ..Entry::new(flag::FILE, b"setboth") }, b"x");
    tar.entry(&Entry { mode: 0, ..Entry::new(flag::FILE, b"no-permissions") }, b"secret");
    tar.entry(&Entry { uid: 3_000_000, gid: 4_294_967_294, ..Entry::new(flag::FILE, b"far-owner") }, b"x");
    tar.entry(&Entry { mode: 0o500, ..Entry::new(flag::DIRECTORY, b"read-only") }, b"");
    tar.file("read-only/inside", b"written before the folder was closed");

    // Attributes.
    let xattrs: &[(&[u8], &[u8])] = &[(b"security.capability", &CAPABILITY)];
    tar.entry(&Entry { mode: 0o755, uid: 9, xattrs, ..Entry::new(flag::FILE, b"ping") }, b"ELF");
    let value = vec![b'v'; 3000];
    let xattrs: &[(&[u8], &[u8])] =
        &[(b"user.binary", b"\x00\xff\n="), (b"user.long", &value), (b"user.mime_type", b"text/plain")];
    tar.entry(&Entry { xattrs, ..Entry::new(flag::FILE, b"attributes") }, b"a");
    let xattrs: &[(&[u8], &[u8])] = &[(b"user.on", b"a folder")];
    tar.entry(&Entry { xattrs, ..Entry::new(flag::DIRECTORY, b"attributed") }, b"");

    // Times.
    for (name, mtime) in [
        (&b"time-nanoseconds"[..], (1_700_000_001, 123_456_789)),
        (b"time-zero", (0, 0)),
        (b"time-before-1970", (-2, 750_000_000)),
        (b"time-after-2038", (4_000_000_000, 999_999_999)),
    ] {
        tar.entry(&Entry { mtime, ..Entry::new(flag::FILE, name) }, name);
    }
    tar.entry(&Entry { mtime: (1_600_000_000, 5), ..Entry::new(flag::DIRECTORY, b"time-of-a-folder") }, b"");
    tar.file("time-of-a-folder/written-later", b"x");

    // Kinds.
    tar.entry(&Entry { device: (1, 3), mode: 0o666, ..Entry::new(flag::CHAR, b"null") }, b"");
    tar.entry(&Entry { device: (7, 300), mode: 0o660, gid: 6, ..Entry::new(flag::BLOCK, b"loop") }, b"");
    tar.entry(&Entry { mode: 0o622, uid: 5, ..Entry::new(flag::FIFO, b"fifo") }, b"");
    tar.entry(&Entry { device: (1, 5), mode: 0o6755, uid: 5, ..Entry::new(flag::CHAR, b"zero-setid") }, b"");
    tar.entry(&Entry { device: (7, 1), mode: 0o1660, gid: 6, ..Entry::new(flag::BLOCK, b"loop-sticky") }, b"");
    tar.entry(&Entry { mode: 0o2751, gid: 6, ..Entry::new(flag::FIFO, b"fifo-setgid") }, b"");
    tar.entry(&Entry { mode: 0o7000, ..Entry::new(flag::FIFO, b"fifo-bits-alone") }, b"");
    tar.symlink("link", "setuid").symlink("link-nowhere", "/no/such/../file").symlink("link-self", "link-self");
    tar.entry(&Entry { uid: 33, gid: 44, link: b"..", ..Entry::new(flag::SYMLINK, b"link-owned") }, b"");
    let target = vec![b't'; 3000];
    tar.entry(&Entry { link: &target, ..Entry::new(flag::SYMLINK, b"link-long") }, b"");
    tar.file("hard/one", b"three names").hardlink("hard/two", "hard/one").hardlink("hard3", "hard/two");
    tar.file("empty", b"");

    // Names.
    for name in [
        &b"new\nline"[..],
        b"sp ace",
        b"-dash",
        b"back\\slash",
        b"\xff\xfe not UTF-8",
        b"\xc3\xa9",
        b"...",
        b".wh",
        b"wh.x",
        b"*",
    ] {
        tar.entry(&Entry::new(flag::FILE, name), name);
    }
    tar.entry(&Entry::new(flag::FILE, long.as_bytes()), b"a name of 255 bytes");
    tar.entry(
        &Entry::new(flag::FILE, format!("{deep}/file").as_bytes()),
        b"50 folders down, none of them with an entry",
    );

    // Dialects: v7, GNU's long name, ustar's prefix, type NUL.
    tar.with(Header::new(b'\0', "v7").v7().mtime(1), b"old");
    let name = format!("gnu/{}", "g".repeat(150));
    tar.with(Header::new(flag::LONG_NAME, "././@LongLink").gnu(), [name.as_bytes(), b"\0"].concat());
    tar.with(Header::new(flag::FILE, &name.as_bytes()[..100]).gnu().mtime(2), b"long");
    tar.with(Header::new(flag::FILE, "suffix").field(345, b"prefix/of/folders").mtime(3), b"split");
}

/// The same file with holes in four dialects: 8 MiB, of which three pieces are there. umoci refuses the oldest. The pieces are
/// whole blocks: of others, GNU tar pads each and Go none.
pub fn sparse(tar: &mut Tar<&mut dyn Write>) {
    const SIZE: u64 = 8 << 20;
    let pieces: [(u64, Vec<u8>); 3] =
        [(0, vec![b'a'; 1024]), (1 << 20, vec![b'b'; 137 * 512]), (SIZE - 4096, vec![b'c'; 4096])];
    let data: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let size = SIZE.to_string();

    let mut map = format!("{}\n", pieces.len());
    for (at, bytes) in &pieces {
        map.push_str(&format!("{at}\n{}\n", bytes.len()));
    }
    let mut body = map.into_bytes();
    body.resize(512, 0);
    body.extend_from_slice(&data);
    tar.pax(&[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "sparse-1.0"),
        ("GNU.sparse.realsize", &size),
    ]);
    tar.with(Header::new(flag::FILE, "GNUSparseFile.0/sparse-1.0").mtime(4), body);

    let map: Vec<_> = pieces.iter().map(|(at, bytes)| format!("{at},{}", bytes.len())).collect();
    tar.pax(&[
        ("GNU.sparse.size", size.as_str()),
        ("GNU.sparse.numblocks", "3"),
        ("GNU.sparse.name", "sparse-0.1"),
        ("GNU.sparse.map", &map.join(",")),
    ]);
    tar.with(Header::new(flag::FILE, "GNUSparseFile.0/sparse-0.1").mtime(4), &data);

    let mut header = Header::new(flag::GNU_SPARSE, "sparse-old").gnu().mtime(4).octal(483, 12, SIZE);
    for (i, (at, bytes)) in pieces.iter().enumerate() {
        header = header.octal(386 + 24 * i, 12, *at).octal(398 + 24 * i, 12, bytes.len() as u64);
    }
    tar.with(header, &data);

    // 0.0 repeats its records.
    let mut pairs = vec![("GNU.sparse.size".to_owned(), size), ("GNU.sparse.numblocks".to_owned(), "3".to_owned())];
    for (at, bytes) in &pieces {
        pairs.push(("GNU.sparse.offset".to_owned(), at.to_string()));
        pairs.push(("GNU.sparse.numbytes".to_owned(), bytes.len().to_string()));
    }
    tar.with(Header::new(flag::PAX, "x"), records(&pairs));
    tar.with(Header::new(flag::FILE, "sparse-0.0").mtime(4), &data);
}

/// A layer upon [`everything`]: takes away, replaces, links to files below.
pub fn everything_changed(tar: &mut Tar<&mut dyn Write>) {
    tar.file(".wh.setuid", b"").file("hard/.wh.one", b"");
    tar.dir("empty").file("empty/now-a-folder", b"x");
    tar.file("attributed", b"now a file");
    tar.hardlink("linked-from-above", "ping");
    tar.file("time-of-a-folder/.wh..wh..opq", b"").file("time-of-a-folder/only", b"x");
    tar.entry(&Entry { mode: 0o700, mtime: (5, 0), ..Entry::new(flag::DIRECTORY, b"read-only") }, b"");
    tar.symlink("tmp", "/somewhere").file("fifo", b"no FIFO any more");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_the_same_in_every_run_and_of_the_size_that_they_say() {
        let make = || {
            let mut bytes = Vec::new();
            small_files(&mut Tar::to(&mut bytes), 40, 25);
            bytes
        };
        let (one, two) = (make(), make());
        assert!(one == two);
        // 1000 files of about 2 KB, each with a header and padding.
        assert!((2 << 20..5 << 20).contains(&one.len()), "{}", one.len());
    }
}
