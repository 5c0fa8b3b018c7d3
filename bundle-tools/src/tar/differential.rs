//! The scanner and the writer beside other programs: what we list is what they list, or we refuse.

#![allow(clippy::disallowed_methods, reason = "the test's own folder and programs")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::process::{Command, Stdio};

use super::tests::{ended, file, global, head, old, pax, scan_in};
use super::*;
use crate::layer::{Extent, Kind, Layer, Meta, Time, check};

/// A folder that goes away with its value.
struct Folder(String);

impl Folder {
    fn new(name: &str) -> Self {
        let path = format!("{}/orlop-tar-{name}-{}", std::env::temp_dir().display(), std::process::id());
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Runs a script in it.
    fn run(&self, script: &str) -> Vec<u8> {
        let out = Command::new("bash").args(["-euc", script]).current_dir(&self.0).output().unwrap();
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = Command::new("rm").args(["-rf", "--one-file-system", &self.0]).status();
    }
}

fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("SKIP: there is no {program}");
    }
    there
}

/// The content that `extents` mean.
fn content(tar: &[u8], size: u64, extents: &[Extent]) -> Vec<u8> {
    let mut out = vec![0; size as usize];
    for e in extents {
        out[e.at as usize..(e.at + e.len) as usize].copy_from_slice(&tar[e.from as usize..(e.from + e.len) as usize]);
    }
    out
}

const TREE: &str = r#"
    mkdir -p tree/dir/sub; cd tree
    printf hello > file; : > empty; head -c 100000 /dev/urandom > dir/large
    ln -s "../$(printf 't%.0s' {1..150})" dir/symlink; ln -s x short; ln file dir/hardlink; mkfifo dir/fifo
    truncate -s 1M dir/sparse; for at in 0 40 41 99 130 200; do printf data$at | dd of=dir/sparse bs=4096 seek=$at conv=notrunc status=none; done
    truncate -s 3M dir/hole
    long=$(printf 'n%.0s' {1..90}); mkdir -p $long/$long; printf long > $long/$long/$long
    printf odd > $'odd\xff\n name'
    chmod 4750 file; chmod 1777 dir; chmod 700 dir/sub; touch -d '@1700000000.123456789' empty; touch -d @1600000000 file dir/sub
    touch -h -d @1500000000 short
"#;

#[test]
fn gnu_tars_formats_all_give_the_tree_that_was_packed() {
    if !is_there("tar") {
        return;
    }
    let folder = Folder::new("gnu");
    folder.run(TREE);
    for (format, sub_seconds, long_names) in [
        ("--format=v7", false, false),
        ("--format=ustar", false, false),
        ("--format=oldgnu -S", false, true),
        ("--format=gnu", false, true),
        ("--format=gnu -S", false, true),
        ("--format=posix", true, true),
        ("--format=posix -S --sparse-version=0.0", true, true),
        ("--format=posix -S --sparse-version=0.1", true, true),
        ("--format=posix -S --sparse-version=1.0", true, true),
    ] {
        let keep = if long_names { "" } else { "--exclude='nnn*' --exclude=dir/symlink" };
        let special = if format.contains("v7") { "--exclude=dir/fifo" } else { "" };
        let tar = folder.run(&format!("tar {format} {keep} {special} -C tree -cf - ."));
        let layer = scan_in(&tar, 4096).unwrap();
        let mut seen = Vec::new();
        for entry in layer.entries() {
            let name = entry.path;
            let path = std::ffi::OsString::from(format!("{}/tree/", folder.0));
            let path = std::path::PathBuf::from([path.as_encoded_bytes(), name].concat().into_os_string());
            let there = fs::symlink_metadata(&path).unwrap();
            let what = format!("{format} {}", name.escape_ascii());
            let same_file = |linked: bool| {
                assert!(!linked || there.nlink() > 1, "{what}");
                if !linked {
                    assert_eq!(u32::from(entry.meta.mode), there.mode() & 0o7777, "{what}");
                    assert_eq!((entry.meta.uid, entry.meta.gid), (there.uid(), there.gid()), "{what}");
                    assert_eq!(entry.meta.mtime.sec, there.mtime(), "{what}");
                    let nsec = if sub_seconds { there.mtime_nsec() } else { 0 };
                    assert_eq!(i64::from(entry.meta.mtime.nsec), nsec, "{what}");
                }
            };
            same_file(matches!(entry.kind, Kind::Hardlink(_)));
            match entry.kind {
                Kind::Directory => assert!(there.is_dir(), "{what}"),
                Kind::File { size, extents } => {
                    assert_eq!(content(&tar, size, extents), fs::read(&path).unwrap(), "{what}");
                    let packed: u64 = extents.iter().map(|e| e.len).sum();
                    let sparse = format.contains("-S") && (name.ends_with(b"sparse") || name.ends_with(b"hole"));
                    assert_eq!(packed < size, sparse, "{what}");
                }
                Kind::Symlink(target) => {
                    assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes(), target, "{what}");
                }
                Kind::Hardlink(target) => assert!(target == b"file" || target == b"dir/hardlink", "{what}"),
                Kind::Fifo => assert!(there.file_type().is_fifo(), "{what}"),
                other => panic!("{what}: {other:?}"),
            }
            seen.push(name.to_vec());
        }
        let expected = if long_names { 16 } else { 12 } - usize::from(format.contains("v7"));
        assert_eq!(
            seen.len(),
            expected,
            "{format}: {:?}",
            seen.iter().map(|n| n.escape_ascii().to_string()).collect::<Vec<_>>()
        );
    }
}

trait IntoOsString {
    fn into_os_string(self) -> std::ffi::OsString;
}

impl IntoOsString for Vec<u8> {
    fn into_os_string(self) -> std::ffi::OsString {
        std::os::unix::ffi::OsStringExt::from_vec(self)
    }
}

#[test]
fn pythons_formats_all_give_the_same_list() {
    if !is_there("python3") {
        return;
    }
    let script = r#"
import io, sys, tarfile
for fmt in tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT:
    b = io.BytesIO()
    with tarfile.open(fileobj=b, mode="w", format=fmt) as t:
        def add(name, kind, **more):
            i = tarfile.TarInfo(name); i.type = kind; i.mtime = 1700000000
            body = more.pop("body", b""); i.size = len(body)
            for k, v in more.items(): setattr(i, k, v)
            t.addfile(i, io.BytesIO(body))
        add("d", tarfile.DIRTYPE, mode=0o755)
        add("d/" + "p" * 80 + "/" + "n" * 80, tarfile.REGTYPE, body=b"hello", uid=2097151, gid=5)
        add("d/ä", tarfile.REGTYPE, mode=0o4711)
        add("s", tarfile.SYMTYPE, linkname="l" * 100)
        add("h", tarfile.LNKTYPE, linkname="d/ä")
        add("c", tarfile.CHRTYPE, devmajor=1, devminor=3)
        if fmt != tarfile.USTAR_FORMAT:
            add("x" * 200, tarfile.SYMTYPE, linkname="l" * 300, uid=3000000, mtime=-5)
        if fmt == tarfile.PAX_FORMAT:
            add("t", tarfile.REGTYPE, mtime=1.5, pax_headers={"SCHILY.xattr.user.a": "b"})
    sys.stdout.buffer.write(len(b.getvalue()).to_bytes(8, "little") + b.getvalue())
"#;
    let out = Command::new("python3").args(["-c", script]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut rest = &out.stdout[..];
    for more in 0..3 {
        let (len, tail) = rest.split_first_chunk::<8>().unwrap();
        let (tar, tail) = tail.split_at(u64::from_le_bytes(*len) as usize);
        rest = tail;
        let layer = scan_in(tar, 1000).unwrap();
        let long = format!("d/{}/{}", "p".repeat(80), "n".repeat(80));
        let at = |n: usize| layer.get(n).unwrap();
        let time = Time { sec: 1_700_000_000, nsec: 0 };
        assert_eq!(layer.len(), 6 + more);
        assert_eq!((at(0).path, at(0).kind, at(0).meta.mode), (&b"d"[..], Kind::Directory, 0o755));
        let Kind::File { size, extents } = at(1).kind else { panic!() };
        assert_eq!((at(1).path, &content(tar, size, extents)[..]), (long.as_bytes(), &b"hello"[..]));
        assert_eq!(at(1).meta, Meta { mode: 0o644, uid: 2_097_151, gid: 5, mtime: time });
        assert_eq!((at(2).path, at(2).meta.mode), ("d/ä".as_bytes(), 0o4711));
        assert_eq!(at(3).kind, Kind::Symlink(&[b'l'; 100]));
        assert_eq!(at(4).kind, Kind::Hardlink("d/ä".as_bytes()));
        assert_eq!(at(5).kind, Kind::Char { major: 1, minor: 3 });
        if more > 0 {
            assert_eq!((at(6).path, at(6).kind), (&[b'x'; 200][..], Kind::Symlink(&[b'l'; 300])));
            assert_eq!((at(6).meta.uid, at(6).meta.mtime.sec), (3_000_000, -5));
        }
        if more > 1 {
            assert_eq!(at(7).meta.mtime, Time { sec: 1, nsec: 500_000_000 });
            assert_eq!(at(7).xattrs.iter().collect::<Vec<_>>(), [(&b"user.a"[..], &b"b"[..])]);
        }
    }
}

/// A table with everything that a tar can say.
fn everything() -> (Layer, Vec<u8>) {
    let long = |len: usize| vec![b'n'; len];
    let deep = [long(150), b"/".to_vec(), long(99)].concat();
    let deeper = [long(150), b"/".to_vec(), long(100), b"/".to_vec(), long(255)].concat();
    let meta = Meta { mode: 0o6755, uid: 0, gid: 2_097_151, mtime: Time { sec: 1_700_000_000, nsec: 0 } };
    let odd = Meta { mode: 0, uid: 2_097_152, gid: u32::MAX - 1, mtime: Time { sec: -5, nsec: 20 } };
    let fraction = Meta { mtime: Time { sec: 8_589_934_592, nsec: 999_999_999 }, ..meta };
    let file = Kind::File { size: 5, extents: &[] };
    let none: Vec<(&[u8], &[u8])> = Vec::new();
    let some: Vec<(&[u8], &[u8])> =
        vec![(b"security.capability", b"\x01\0\n"), (b"user.empty", b""), (b"user.x", b"=")];
    let entries = [
        (b"".to_vec(), Kind::Directory, meta, some.clone()),
        (b"".to_vec(), Kind::Opaque, Meta::default(), none.clone()),
        (b"a".to_vec(), file, meta, some.clone()),
        (b"b".to_vec(), Kind::File { size: 0, extents: &[] }, odd, none.clone()),
        (deep.clone(), file, fraction, none.clone()),
        (deep.clone(), Kind::Directory, Meta { mtime: Time { sec: -1, nsec: 0 }, ..meta }, none.clone()),
        (deeper.clone(), file, odd, some.clone()),
        ([&deeper[..], b"/\xff"].concat(), Kind::Symlink(b"../..//x\xfe"), odd, vec![some[0]]),
        (b"l".to_vec(), Kind::Symlink(&[b'x'; 4095]), meta, none.clone()),
        (b"h".to_vec(), Kind::Hardlink(&deeper), Meta::default(), none.clone()),
        (b"c".to_vec(), Kind::Char { major: 4095, minor: 1_048_575 }, meta, none.clone()),
        (b"d/e".to_vec(), Kind::Block { major: 0, minor: 0 }, meta, none.clone()),
        (b"d/f".to_vec(), Kind::Fifo, meta, none.clone()),
        (b"d/w".to_vec(), Kind::Whiteout, Meta::default(), none.clone()),
        ([&b"d/"[..], &long(255)].concat(), Kind::Whiteout, Meta::default(), none.clone()),
        (b"d".to_vec(), Kind::Opaque, Meta::default(), none.clone()),
    ];
    let mut writer = Writer::new(Vec::new());
    let mut layer = Layer::default();
    let mut at = Vec::new();
    for (path, kind, meta, xattrs) in &entries {
        let mut body = &b"hello"[..];
        let is_file = matches!(kind, Kind::File { size: 5, .. });
        writer.entry(path, *kind, meta, xattrs.iter().copied(), is_file.then_some(&mut body)).unwrap();
        at.push((path, *kind, meta, xattrs));
    }
    let tar = writer.finish().unwrap();
    let scanned = scan_in(&tar, 777).unwrap();
    layer.tar_size = tar.len() as u64;
    for ((path, kind, meta, xattrs), found) in at.into_iter().zip(scanned.entries()) {
        // Where the content is, is the scanner's word; that it is there, is looked at here.
        let kind = match (kind, found.kind) {
            (Kind::File { size, .. }, Kind::File { extents, .. }) => {
                assert_eq!(content(&tar, size, extents), b"hello"[..size as usize]);
                Kind::File { size, extents }
            }
            _ => kind,
        };
        layer.push(path, kind, *meta, xattrs.iter().copied()).unwrap();
    }
    assert_eq!(layer, scanned);
    (layer, tar)
}

#[test]
fn what_is_written_is_read_back_and_the_same_each_time() {
    let (layer, tar) = everything();
    assert_eq!(everything().1, tar);
    assert_eq!(Layer::decode(&layer.encode()), Ok(layer));
    let mut writer = Writer::new(Vec::new());
    let mut short = &b"1234"[..];
    let mut body = |path: &[u8], kind| {
        short = b"1234";
        writer.entry(path, kind, &Meta::default(), [], Some(&mut short)).map_err(|e| e.to_string())
    };
    for (path, kind, word) in [
        (&b".wh.x"[..], Kind::Fifo, "begins with .wh."),
        (b"a/../b", Kind::Fifo, "not clean"),
        (b"", Kind::Fifo, "root"),
        (b"a", Kind::Symlink(b""), "no target"),
        (b"a", Kind::Hardlink(b"a"), "itself"),
        (b"a", Kind::Char { major: 1 << 21, minor: 0 }, "number"),
        (b"a", Kind::File { size: 5, extents: &[] }, "shorter than 5 bytes"),
    ] {
        let said = body(path, kind).unwrap_err();
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn gnu_tar_and_python_read_what_is_written() {
    if !is_there("tar") || !is_there("python3") {
        return;
    }
    let (layer, tar) = everything();
    let folder = Folder::new("written");
    fs::write(format!("{}/a.tar", folder.0), &tar).unwrap();
    let listed = String::from_utf8(folder.run("tar --quoting-style=escape -tf a.tar 2>&1")).unwrap();
    assert_eq!(listed.lines().count(), layer.len(), "{listed}");
    let count = folder.run("python3 -c 'import tarfile; print(len(tarfile.open(\"a.tar\").getmembers()))'");
    assert_eq!(String::from_utf8(count).unwrap().trim(), layer.len().to_string());
}

/// The next of a fixed series (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Archives to be damaged.
fn seeds() -> Vec<Vec<u8>> {
    let sparse = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "100"),
        ("GNU.sparse.name", "real"),
    ];
    let map = [&b"2\n1\n2\n9\n3\n"[..], &[0; 502], b"abcde"].concat();
    vec![
        ended(&[
            head(b'5', "d/").sum(),
            file("d/a", "hello"),
            head(b'2', "d/s").link("a").sum(),
            head(b'1', "d/h").link("d/a").sum(),
        ]),
        ended(&[pax(&[("path", "long"), ("size", "5"), ("mtime", "1.5")]), file("x", "hello"), file("b", [b'x'; 600])]),
        ended(&[
            head(b'L', "L").gnu().with(b"longer\0"),
            file("x", "hello"),
            head(b'K', "K").gnu().with(b"target\0"),
            head(b'2', "l").gnu().sum(),
        ]),
        ended(&[
            pax(&[("uid", "1"), ("linkpath", "t")]),
            head(b'L', "L").gnu().with(b"n\0"),
            head(b'2', "x").sum(),
            file("z", "1"),
        ]),
        ended(&[old(100, &[(1, 2), (9, 3)]).with(b"abcde"), file("b", "x")]),
        ended(&[pax(&sparse), file("x", map), file("b", "x")]),
        ended(&[
            global(&[("comment", "x")]),
            file("a", "x"),
            head(b'3', "c").put(329, b"0000001\0").sum(),
            head(b'6', "p").sum(),
        ]),
        ended(&[head(0, "v7").v7().with(b"hello"), head(0, "v7d/").v7().sum(), file("a", "")]),
    ]
}

/// A damaged archive: a few changes to bytes or blocks, after which most headers have right checksums again.
fn damaged(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(3) {
        let blocks = tar.len() / 512;
        let (one, other) = (512 * dice.below(blocks), 512 * dice.below(blocks));
        match dice.below(12) {
            0 => tar.truncate(dice.below(tar.len())),
            1 => drop(tar.drain(one..one + 512)),
            2 => tar.extend_from_within(one..one + 512),
            3 => {
                let block = tar[one..one + 512].to_vec();
                tar.splice(other..other, block);
            }
            4 => tar[one..one + 512].fill(0),
            5 => tar[one + 156] = b"01234567xgLKSV\0"[dice.below(15)],
            6 => tar[one + 124 + dice.below(12)] = b"01237 \0\x80\xff"[dice.below(9)],
            7 => tar[one + 257 + dice.below(8)] = b"ustar 0\0"[dice.below(8)],
            8 => {
                let at = one + dice.below(512);
                tar[at] = b"0123456789 =\n/.\0"[dice.below(16)];
            }
            _ => {
                let at = one + dice.below(512);
                tar[at] ^= 1 << dice.below(8);
            }
        }
        if tar.len() < 512 {
            break;
        }
    }
    if dice.below(8) > 0 {
        for block in tar.chunks_exact_mut(512) {
            // Blocks that look like headers: with an octal checksum and something in the name.
            if block[0] != 0 && block[148..153].iter().all(|byte| matches!(byte, b'0'..=b'7')) {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
    }
    tar
}

/// What tar-core lists: type, clean name, size. `None` if it refuses.
fn listed_by_tar_core(tar: &[u8]) -> Option<Vec<(u8, Vec<u8>, u64)>> {
    use tar_core::parse::{ParseEvent, Parser};
    let mut parser = Parser::with_defaults();
    let (mut at, mut list) = (0usize, Vec::new());
    loop {
        let (consumed, entry, size) = match parser.parse(tar.get(at..)?).ok()? {
            ParseEvent::NeedData { .. } if at == tar.len() => return Some(list),
            ParseEvent::NeedData { .. } => return None,
            ParseEvent::End { .. } => return Some(list),
            ParseEvent::GlobalExtensions { consumed, .. } => {
                at += consumed;
                continue;
            }
            ParseEvent::SparseEntry { consumed, entry, real_size, .. } => (consumed, entry, real_size),
            ParseEvent::Entry { consumed, entry } => {
                let size = entry.size;
                (consumed, entry, size)
            }
        };
        let kind = match entry.header.as_bytes()[156] {
            0 if entry.path.ends_with(b"/") => b'5',
            0 | b'7' | b'S' => b'0',
            kind @ b'0'..=b'6' => kind,
            // It lists what it does not know, and long names that are not GNU tar's.
            _ => return None,
        };
        list.push((kind, crate::layer::name::clean(&entry.path).ok()?, size));
        at = at.checked_add(consumed)?.checked_add(usize::try_from(entry.size.next_multiple_of(512)).ok()?)?;
    }
}

#[test]
fn damaged_archives_are_refused_or_read_as_others_read_them() {
    let seeds = seeds();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut compared) = (0, 0);
    for round in 0..20_000 {
        let tar = damaged(&mut dice, &seeds);
        let whole = scan_in(&tar, usize::MAX);
        assert_eq!(scan_in(&tar, 1 + dice.below(700)), whole, "round {round}");
        let Ok(layer) = whole else { continue };
        accepted += 1;
        for entry in layer.entries() {
            assert_eq!(check(&entry, tar.len() as u64), Ok(()), "round {round}: {entry:?}");
        }
        assert_eq!(Layer::decode(&layer.encode()).as_ref(), Ok(&layer), "round {round}");
        let Some(theirs) = listed_by_tar_core(&tar) else { continue };
        let ours: Vec<_> = layer
            .entries()
            .map(|entry| match entry.kind {
                Kind::File { size, .. } => (b'0', entry.path.to_vec(), size),
                Kind::Hardlink(_) => (b'1', entry.path.to_vec(), 0),
                Kind::Symlink(_) => (b'2', entry.path.to_vec(), 0),
                Kind::Char { .. } => (b'3', entry.path.to_vec(), 0),
                Kind::Block { .. } => (b'4', entry.path.to_vec(), 0),
                Kind::Directory => (b'5', entry.path.to_vec(), 0),
                Kind::Fifo => (b'6', entry.path.to_vec(), 0),
                Kind::Whiteout | Kind::Opaque => (b'w', entry.path.to_vec(), 0),
            })
            .collect();
        compared += 1;
        assert_eq!(ours, theirs, "round {round}");
    }
    eprintln!("{accepted} accepted, {compared} compared");
    assert!(accepted > 2_000 && compared > 1_000, "{accepted} accepted, {compared} compared");
}

#[test]
fn gnu_tar_lists_what_is_accepted_of_damaged_archives() {
    if !is_there("tar") {
        return;
    }
    let seeds = seeds();
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let mut compared = 0;
    while compared < 300 {
        let tar = damaged(&mut dice, &seeds);
        let Ok(layer) = scan_in(&tar, usize::MAX) else { continue };
        if layer.entries().any(|entry| matches!(entry.kind, Kind::Whiteout | Kind::Opaque)) {
            continue;
        }
        compared += 1;
        let mut child = Command::new("tar")
            .args(["-tvf", "-", "--numeric-owner", "--quoting-style=escape"])
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end before it has read all: an archive's end is one.
        let _ = child.stdin.take().unwrap().write_all(&tar);
        let out = child.wait_with_output().unwrap();
        let theirs: Vec<(char, u64)> = String::from_utf8(out.stdout)
            .unwrap()
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                // "C" is a contiguous file, type 7, which is a file like others here.
                match line.chars().next().unwrap() {
                    '-' | 'C' => ('-', words[2].parse().unwrap()),
                    kind => (kind, 0),
                }
            })
            .collect();
        let ours: Vec<(char, u64)> = layer
            .entries()
            .map(|entry| match entry.kind {
                Kind::File { size, .. } => ('-', size),
                Kind::Hardlink(_) => ('h', 0),
                Kind::Symlink(_) => ('l', 0),
                Kind::Char { .. } => ('c', 0),
                Kind::Block { .. } => ('b', 0),
                Kind::Directory => ('d', 0),
                _ => ('p', 0),
            })
            .collect();
        assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(&out.stderr));
    }
}
