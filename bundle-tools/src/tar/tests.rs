//! Tars of every dialect, well-formed and not, by hand and by other programs.

use std::io::Write as _;

use super::*;
use crate::layer::{Kind, Layer, Meta, Time};

/// A header that is made field by field.
pub(super) struct Head([u8; 512]);

/// An ustar header of a type, without content.
pub(super) fn head(flag: u8, name: &str) -> Head {
    Head([0; 512]).put(0, name.as_bytes()).put(156, &[flag]).put(257, b"ustar\x0000").put(100, b"0000644\0").size(0)
}

impl Head {
    pub(super) fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(super) fn size(self, size: u64) -> Self {
        self.put(124, format!("{size:011o}\0").as_bytes())
    }

    pub(super) fn link(self, target: &str) -> Self {
        self.put(157, target.as_bytes())
    }

    pub(super) fn gnu(self) -> Self {
        self.put(257, b"ustar  \0")
    }

    pub(super) fn v7(self) -> Self {
        self.put(257, &[0; 8])
    }

    pub(super) fn sum(self) -> Vec<u8> {
        let head = self.put(148, b"        ");
        let sum: u32 = head.0.iter().map(|byte| u32::from(*byte)).sum();
        head.put(148, format!("{sum:06o}\0 ").as_bytes()).0.to_vec()
    }

    /// The header with the content behind it, which its size says.
    pub(super) fn with(self, body: &[u8]) -> Vec<u8> {
        self.size(body.len() as u64).and(body)
    }

    /// The header with content of which it says nothing.
    pub(super) fn and(self, body: &[u8]) -> Vec<u8> {
        let mut out = self.sum();
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

fn records(records: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let mut len = key.len() + value.len() + 4;
        while len != key.len() + value.len() + 3 + len.to_string().len() {
            len = key.len() + value.len() + 3 + len.to_string().len();
        }
        writeln!(out, "{len} {key}={value}").unwrap();
    }
    out
}

pub(super) fn pax(pairs: &[(&str, &str)]) -> Vec<u8> {
    head(b'x', "pax").with(&records(pairs))
}

pub(super) fn global(pairs: &[(&str, &str)]) -> Vec<u8> {
    head(b'g', "pax").with(&records(pairs))
}

pub(super) fn file(name: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    head(b'0', name).with(body.as_ref())
}

pub(super) fn scan_in(tar: &[u8], chunk: usize) -> Result<Layer, String> {
    let mut scanner = Scanner::new(Limits::default());
    for chunk in tar.chunks(chunk) {
        scanner.feed(chunk).map_err(|e| e.to_string())?;
    }
    scanner.finish().map_err(|e| e.to_string())
}

/// Scans in chunks of several sizes, which must make no difference, and passes the table through its encoding.
fn scan(tar: &[u8]) -> Result<Layer, String> {
    let whole = scan_in(tar, usize::MAX);
    for chunk in [1, 511, 512, 1000] {
        assert_eq!(scan_in(tar, chunk), whole, "in chunks of {chunk} bytes");
    }
    if let Ok(layer) = &whole {
        assert_eq!(layer.tar_size, tar.len() as u64);
        assert_eq!(Layer::decode(&layer.encode()).as_ref(), Ok(layer));
    }
    whole
}

pub(super) fn ended(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), vec![0; 1024]].concat()
}

/// A line for each entry: kind, name, and what the kind has.
fn lines(layer: &Layer, tar: &[u8]) -> Vec<String> {
    let line = |entry: crate::layer::Entry<'_>| {
        let path = entry.path.escape_ascii();
        match entry.kind {
            Kind::Directory => format!("d {path}"),
            Kind::File { size, extents } => {
                let pieces: Vec<String> = extents
                    .iter()
                    .map(|e| {
                        let content = &tar[e.from as usize..(e.from + e.len) as usize];
                        format!("{}:{}", e.at, content.escape_ascii())
                    })
                    .collect();
                format!("f {path} {size} {}", pieces.join(",")).trim_end().to_owned()
            }
            Kind::Symlink(target) => format!("l {path} {}", target.escape_ascii()),
            Kind::Hardlink(target) => format!("h {path} {}", target.escape_ascii()),
            Kind::Char { major, minor } => format!("c {path} {major}:{minor}"),
            Kind::Block { major, minor } => format!("b {path} {major}:{minor}"),
            Kind::Fifo => format!("p {path}"),
            Kind::Whiteout => format!("w {path}"),
            Kind::Opaque => format!("o {path}"),
        }
    };
    layer.entries().map(line).collect()
}

/// What is read of `parts`, the last line being the error if there is one.
fn read(parts: &[Vec<u8>]) -> String {
    let tar = ended(parts);
    match scan(&tar) {
        Ok(layer) => lines(&layer, &tar).join("; "),
        Err(why) => format!("refused: {why}"),
    }
}

/// Each line of what is read must be as said; an error must contain what follows `refused: `.
fn table(cases: Vec<(&str, Vec<Vec<u8>>, &str)>) {
    for (what, parts, expected) in cases {
        let got = read(&parts);
        match expected.strip_prefix("refused: ") {
            Some(word) => assert!(got.starts_with("refused: ") && got.contains(word), "{what}: {got}"),
            None => assert_eq!(got, expected, "{what}"),
        }
    }
}

#[test]
fn all_dialects_say_the_same() {
    let long = format!("{}/{}", "d".repeat(150), "n".repeat(90));
    let long_line = format!("f {long} 2 0:hi");
    let (prefix, last) = long.split_once('/').unwrap();
    let other = "x".repeat(80);
    table(vec![
        ("v7", vec![head(0, "a").v7().with(b"hi")], "f a 2 0:hi"),
        ("v7 directory", vec![head(0, "a/").v7().sum()], "d a"),
        ("v7 has no prefix", vec![head(0, "a").v7().put(345, b"p").with(b"hi")], "f a 2 0:hi"),
        ("ustar", vec![head(b'0', "a").with(b"hi"), head(b'7', "b").with(b"")], "f a 2 0:hi; f b 0"),
        ("ustar prefix", vec![head(b'0', last).put(345, prefix.as_bytes()).with(b"hi")], &long_line),
        (
            "star's shorter prefix",
            vec![head(b'0', "a").put(345, &[b'p'; 131]).put(476, b"1").put(508, b"tar\0").sum()],
            &format!("f {}/a 0", "p".repeat(131)),
        ),
        ("GNU has no prefix", vec![head(b'0', "a").gnu().put(345, b"01234567012").with(b"hi")], "f a 2 0:hi"),
        (
            "GNU long name",
            vec![head(b'L', "././@LongLink").gnu().with(format!("{long}\0").as_bytes()), file("x", "hi")],
            &long_line,
        ),
        (
            "GNU long link",
            vec![head(b'K', "././@LongLink").gnu().with(b"target\0"), head(b'2', "x").sum()],
            "l x target",
        ),
        ("PAX", vec![pax(&[("path", &long)]), file("x", "hi")], &long_line),
        ("PAX link", vec![pax(&[("linkpath", "t")]), head(b'2', "x").sum()], "l x t"),
        ("x, L, file", vec![pax(&[("uid", "7")]), head(b'L', "l").gnu().with(b"n\0"), file("x", "hi")], "f n 2 0:hi"),
        ("L, x, file", vec![head(b'L', "l").gnu().with(b"n\0"), pax(&[("uid", "7")]), file("x", "hi")], "f n 2 0:hi"),
        (
            "a PAX size is not the long name's",
            vec![pax(&[("size", "2")]), head(b'L', "l").gnu().with(b"longer\0"), file("x", "hi")],
            "f longer 2 0:hi",
        ),
        (
            "L and the same path",
            vec![head(b'L', "l").gnu().with(b"n\0"), pax(&[("path", "n")]), file("x", "hi")],
            "f n 2 0:hi",
        ),
        (
            "PAX size over 0",
            vec![pax(&[("size", "2")]), head(b'0', "a").and(b"hi"), file("b", "")],
            "f a 2 0:hi; f b 0",
        ),
        (
            "PAX size over more",
            vec![pax(&[("size", "2")]), head(b'0', "a").size(99_999).and(b"hi"), file("b", "")],
            "f a 2 0:hi; f b 0",
        ),
        (
            "PAX size 0 over more",
            vec![pax(&[("size", "0")]), head(b'0', "a").size(512).sum(), file("b", "")],
            "f a 0; f b 0",
        ),
        (
            "hdrcharset and unknown keys",
            vec![pax(&[("hdrcharset", "BINARY"), ("VENDOR.x", "\n="), ("comment", "")]), file("a", "")],
            "f a 0",
        ),
        ("the last record counts", vec![pax(&[("path", "a"), ("path", "b")]), file("x", "")], "f b 0"),
        ("global comment", vec![global(&[("comment", "0123")]), file("a", "")], "f a 0"),
        ("base 256", vec![head(b'0', "a").put(124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]).and(b"hi")], "f a 2 0:hi"),
        ("blanks before and behind numbers", vec![head(b'0', "a").put(124, b"         2 \0").and(b"hi")], "f a 2 0:hi"),
        ("no end", vec![], ""),
        (
            "devices",
            vec![
                head(b'3', "c").put(329, b"0000001\0").put(337, b"0000003\0").sum(),
                head(b'4', "b").sum(),
                head(b'6', "p").sum(),
            ],
            "c c 1:3; b b 0:0; p p",
        ),
        (
            "a hard link's size",
            vec![file("a", "hi"), head(b'1', "b").link("./a").size(2).sum(), file("c", "")],
            "f a 2 0:hi; h b a; f c 0",
        ),
        ("non-UTF-8", vec![head(b'0', "").put(0, b"\xff\n").sum()], "f \\xff\\n 0"),
        ("duplicates", vec![file("a", "1"), file("a", "2")], "f a 1 0:1; f a 1 0:2"),
        ("long symbolic link", vec![head(b'2', "s").link(&other).sum()], &format!("l s {other}")),
    ]);
}

#[test]
fn where_programs_differ_the_layer_is_refused() {
    table(vec![
        (
            "two x",
            vec![pax(&[("uid", "1")]), pax(&[("gid", "1")]), file("a", "")],
            "refused: two headers of the same kind",
        ),
        (
            "two L",
            vec![head(b'L', "l").with(b"a\0"), head(b'L', "l").with(b"b\0"), file("a", "")],
            "refused: two headers",
        ),
        ("x and g", vec![pax(&[("uid", "1")]), global(&[("comment", "")]), file("a", "")], "refused: two headers"),
        (
            "L and another path",
            vec![head(b'L', "l").with(b"n\0"), pax(&[("path", "m")]), file("x", "")],
            "refused: entry 1 of the tar, \"m\": has a long name and another",
        ),
        ("global path", vec![global(&[("path", "x")]), file("a", "")], "refused: global"),
        ("global size", vec![global(&[("size", "512")]), file("a", "")], "refused: global"),
        ("global uid", vec![global(&[("uid", "0")]), file("a", "")], "refused: global"),
        ("directory with content", vec![head(b'5', "d").with(&[b'x'; 512])], "refused: has content"),
        ("symbolic link with content", vec![head(b'2', "d").link("x").with(b"y")], "refused: has content"),
        (
            "hard link with a PAX size",
            vec![pax(&[("size", "3")]), head(b'1', "d").link("x").and(b"abc")],
            "refused: has content",
        ),
        ("file with a slash", vec![file("a/", "")], "refused: a directory's"),
        ("file with a dot", vec![file("a/.", "")], "refused: a directory's"),
        ("unknown type", vec![head(b'V', "a").sum()], "refused: of the unknown type 'V'"),
        (
            "stray zeros",
            vec![file("a", ""), vec![0; 512], file("b", "")],
            "refused: byte 512 of the tar: a single block of zeros",
        ),
    ]);
}

#[test]
fn bytes_that_are_no_tar_are_refused() {
    let bad_sum = || {
        let mut block = file("b", "");
        block[0] ^= 1;
        block
    };
    let nul = [b'a', 0, b'b'];
    let nul = std::str::from_utf8(&nul).unwrap();
    table(vec![
        ("checksum", vec![bad_sum()], "refused: not a tar"),
        (
            "later checksum",
            vec![file("a", ""), bad_sum()],
            "refused: entry 2 of the tar: the header's checksum is wrong",
        ),
        ("octal", vec![head(b'0', "a").put(124, b"0000000009\0").sum()], "refused: not a number"),
        ("NUL first", vec![head(b'0', "a").put(124, b"\x0000000001\0").sum()], "refused: not a number"),
        ("sign", vec![head(b'0', "a").put(124, b"-0000000001").sum()], "refused: not a number"),
        ("negative size", vec![head(b'0', "a").put(124, &[0xff; 12]).sum()], "refused: the size is negative"),
        (
            "size of 2^63",
            vec![head(b'0', "a").put(124, &[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]).sum()],
            "refused: too large",
        ),
        ("base 256 with other first bytes", vec![head(b'0', "a").put(124, &[0x81; 12]).sum()], "refused: not a number"),
        (
            "PAX size of 2^63",
            vec![pax(&[("size", "9223372036854775808")]), file("a", "")],
            "refused: PAX size: is not a number",
        ),
        ("PAX size with a sign", vec![pax(&[("size", "+1")]), file("a", "")], "refused: PAX size"),
        ("PAX path with a NUL", vec![pax(&[("path", nul)]), file("a", "")], "refused: PAX path: has a NUL"),
        ("empty PAX path", vec![pax(&[("path", "")]), file("a", "")], "refused: PAX path: is empty"),
        (
            "PAX length too large",
            vec![head(b'x', "p").with(b"99 path=a\n"), file("a", "")],
            "refused: a PAX header that is not one",
        ),
        (
            "PAX length too small",
            vec![head(b'x', "p").with(b"5 path=a\n"), file("a", "")],
            "refused: a PAX header that is not one",
        ),
        (
            "PAX without newline",
            vec![head(b'x', "p").with(b"9 path=ab"), file("a", "")],
            "refused: a PAX header that is not one",
        ),
        ("PAX without equals", vec![head(b'x', "p").with(b"7 path\n"), file("a", "")], "refused: without a value"),
        (
            "PAX padded with NULs",
            vec![head(b'x', "p").with(b"10 path=ab\n\0\0"), file("a", "")],
            "refused: a PAX header",
        ),
        ("8 GiB of PAX", vec![head(b'x', "p").size(8 << 30).sum()], "refused: larger than 1048576 bytes"),
        ("8 GiB of name", vec![head(b'L', "p").size(8 << 30).sum()], "refused: larger than 1048576 bytes"),
        ("empty long name", vec![head(b'L', "p").with(b"\0"), file("a", "")], "refused: empty"),
        ("nothing after PAX", vec![pax(&[("uid", "1")])], "refused: ends within entry 1"),
        ("owner", vec![pax(&[("uid", "4294967296")]), file("a", "")], "refused: an owner"),
        ("no owner", vec![pax(&[("gid", "4294967295")]), file("a", "")], "refused: an owner"),
        ("time", vec![pax(&[("mtime", "1.5x")]), file("a", "")], "refused: PAX mtime"),
    ]);
    let whole = file("a", "hi");
    for len in 1..whole.len() {
        assert!(scan_in(&whole[..len], 100).unwrap_err().contains("ends within entry"), "{len}");
    }
}

#[test]
fn an_archive_ends_at_its_end_or_where_an_entry_ends() {
    let entry = file("a", "hi");
    for tail in [&[][..], &[0; 512], &[0; 1024], &[0; 10_240], &[&[0; 1024][..], b"garbage"].concat()] {
        let tar = [&entry[..], tail].concat();
        assert_eq!(scan(&tar).unwrap().len(), 1, "{} bytes", tail.len());
    }
    assert_eq!(scan(&[]).unwrap().len(), 0);
    assert!(scan(&[&entry[..], &[0; 100]].concat()).is_err());
    assert!(scan(&[&entry[..], &[0; 512], b"garbage"].concat()).is_err());
}

#[test]
fn names_stay_below_the_root() {
    let deep = "a/".repeat(100_000);
    let root = "refused: the root can only be a directory";
    table(vec![
        ("absolute", vec![file("/abs", "")], "f abs 0"),
        ("dots inside", vec![file("a/./b//../c", "")], "f a/c 0"),
        ("leaving", vec![file("../../x", "")], "refused: entry 1 of the tar, \"../../x\": the name leaves the root"),
        ("leaving later", vec![file("a/../../x", "")], "refused: leaves the root"),
        ("root", vec![head(b'5', "./").sum(), head(b'5', ".").sum(), head(b'5', "/").sum()], "d ; d ; d "),
        ("root as a file", vec![file(".", "")], root),
        ("root as a file by dots", vec![file("a/..", "")], root),
        ("root as a symbolic link", vec![head(b'2', "./.").link("/tmp").sum()], root),
        ("root as a hard link", vec![head(b'1', ".").link("a").sum()], root),
        ("root as a FIFO", vec![head(b'6', "").sum()], root),
        ("dots as a directory", vec![head(b'5', "..").sum()], "refused: leaves the root"),
        ("5000 bytes", vec![pax(&[("path", &"a/".repeat(2500))]), head(b'5', "x").sum()], "refused: longer than 4095"),
        ("deep", vec![pax(&[("path", &deep)]), head(b'5', "x").sum()], "refused: longer than 4095"),
        ("256 bytes", vec![pax(&[("path", &"a".repeat(256))]), file("x", "")], "refused: more than 255"),
        ("slashes", vec![head(b'5', "a//b/").sum()], "d a/b"),
        ("link leaving", vec![head(b'1', "a").link("../../canary").sum()], "refused: leaves the root"),
        ("absolute link", vec![head(b'1', "a").link("/canary").sum()], "h a canary"),
        ("link to itself", vec![head(b'1', "a").link("./a").sum()], "refused: to itself"),
        ("link to the root", vec![head(b'1', "a").link("/").sum()], "refused: to the root"),
        ("link without target", vec![head(b'1', "a").sum()], "refused: to the root"),
        ("link to a whiteout", vec![head(b'1', "a").link(".wh.b").sum()], "refused: hard link's target"),
        ("symbolic link without target", vec![head(b'2', "a").sum()], "refused: no target"),
        ("symbolic link's target is kept", vec![head(b'2', "a").link("../../../x//").sum()], "l a ../../../x//"),
        ("char 0:0", vec![head(b'3', "c").sum()], "refused: 0:0 would be a whiteout"),
        ("large device", vec![head(b'4', "c").put(329, b"0010000\0").sum()], "refused: device's number"),
    ]);
}

#[test]
fn whiteouts_are_told_from_names() {
    let longest = format!(".wh.{}", "n".repeat(255));
    table(vec![
        ("file", vec![file("d/.wh.a", "")], "w d/a"),
        ("root", vec![file(".wh.a", "")], "w a"),
        ("directory", vec![head(b'5', ".wh.a/").sum()], "w a"),
        ("symbolic link", vec![head(b'2', ".wh.a").link("x").sum()], "w a"),
        ("aufs's hard link", vec![head(b'1', ".wh.a").link(".wh..wh.aufs").sum()], "w a"),
        ("char 0:0", vec![head(b'3', ".wh.a").sum()], "w a"),
        ("content", vec![file(".wh.a", "hello"), file("b", "")], "w a; f b 0"),
        ("the longest", vec![pax(&[("path", &longest)]), file("x", "")], &format!("w {}", &longest[4..])),
        ("longer", vec![pax(&[("path", &format!("{longest}n"))]), file("x", "")], "refused: more than 255"),
        ("opaque", vec![file("d/.wh..wh..opq", "")], "o d"),
        ("opaque root", vec![file("./.wh..wh..opq", "")], "o "),
        ("nothing", vec![file("a/.wh.", "")], "refused: a whiteout of no name"),
        ("dot", vec![file(".wh..", "")], "refused: a whiteout of no name"),
        ("dots", vec![file(".wh...", "")], "refused: a whiteout of no name"),
        ("three dots", vec![file(".wh....", "")], "w ..."),
        ("like opaque", vec![file("a/.wh..wh..opqX", "")], "refused: begins with .wh."),
        ("below a whiteout", vec![file(".wh.a/b", "")], "refused: begins with .wh."),
        (
            "aufs",
            vec![
                head(b'5', ".wh..wh.plnk/").sum(),
                file(".wh..wh.plnk/12.34", "hello"),
                file(".wh..wh.aufs", ""),
                file("a", ""),
            ],
            "f a 0",
        ),
        ("aufs elsewhere", vec![head(b'5', "d/.wh..wh.plnk").sum()], "refused: begins with .wh."),
    ]);
}

#[test]
fn owners_times_and_modes_are_kept() {
    let one = |parts: &[Vec<u8>]| scan(&ended(parts)).unwrap().get(0).unwrap().meta;
    let base =
        head(b'0', "a").put(100, b"0104755\0").put(108, b"0001750\0").put(116, b"0000001\0").put(136, b"14524770400\0");
    assert_eq!(
        one(&[base.sum()]),
        Meta { mode: 0o4755, uid: 1000, gid: 1, mtime: Time { sec: 0o14524770400, nsec: 0 } }
    );
    let times = [
        ("1.5", 1, 500_000_000),
        ("1", 1, 0),
        ("1.", 1, 0),
        ("1.0000000019", 1, 1),
        ("-1", -1, 0),
        ("-1.5", -2, 500_000_000),
        ("-0.25", -1, 750_000_000),
        ("-1.0000000001", -2, 999_999_999),
        ("9223372036854775807.999999999", i64::MAX, 999_999_999),
    ];
    for (text, sec, nsec) in times {
        assert_eq!(one(&[pax(&[("mtime", text)]), file("a", "")]).mtime, Time { sec, nsec }, "{text}");
    }
    let negative = head(b'0', "a").put(136, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]);
    assert_eq!(one(&[negative.sum()]).mtime, Time { sec: -2, nsec: 0 });
    let owners = one(&[pax(&[("uid", "4294967294"), ("gid", "3000000")]), file("a", "")]);
    assert_eq!((owners.uid, owners.gid), (4_294_967_294, 3_000_000));
    let signed = {
        let head = head(b'0', "").put(0, b"\xff\xfe").put(148, b"        ");
        let sum: i32 = head.0.iter().map(|byte| i32::from(byte.cast_signed())).sum();
        head.put(148, format!("{sum:06o}\0 ").as_bytes()).0.to_vec()
    };
    assert_eq!(read(&[signed]), "f \\xff\\xfe 0");
}

#[test]
fn attributes_are_those_of_the_file_and_in_order() {
    let of = |pairs: &[(&str, &str)], flag: u8| {
        let tar = ended(&[pax(pairs), head(flag, "a").link("t").sum()]);
        scan(&tar).map(|layer| format!("{:?}", layer.get(0).unwrap().xattrs))
    };
    let raw = [
        ("SCHILY.xattr.user.b", "2=\n3"),
        ("SCHILY.xattr.security.capability", "\x01\0\0\x02"),
        ("SCHILY.xattr.user.a", ""),
        ("SCHILY.xattr.security.selinux", "x"),
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ("SCHILY.xattr.user.overlay.whiteout", "y"),
    ];
    assert_eq!(
        of(&raw, b'0').unwrap(),
        r#"{"security.capability": "\\x01\\x00\\x00\\x02", "user.a": "", "user.b": "2=\\n3"}"#
    );
    assert_eq!(of(&raw, b'2').unwrap(), r#"{"security.capability": "\\x01\\x00\\x00\\x02"}"#);
    let both = [
        ("SCHILY.xattr.user.x y", "raw"),
        ("LIBARCHIVE.xattr.user.x%20y", "ZW5j"),
        ("LIBARCHIVE.xattr.user.z", "/w=="),
    ];
    assert_eq!(of(&both, b'0').unwrap(), r#"{"user.x y": "raw", "user.z": "\\xff"}"#);
    assert!(of(&[("LIBARCHIVE.xattr.user.z", "!")], b'0').unwrap_err().contains("not base64"));
    assert!(of(&[("LIBARCHIVE.xattr.user.%z", "")], b'0').unwrap_err().contains("URL-encoded"));
    let large = "v".repeat(65_536);
    assert!(of(&[("SCHILY.xattr.user.z", &large)], b'0').is_ok());
    assert!(of(&[("SCHILY.xattr.user.z", &format!("{large}v"))], b'0').unwrap_err().contains("64 KiB"));
    assert!(
        of(&[("SCHILY.xattr.user.y", &large), ("SCHILY.xattr.user.z", &large)], b'0').unwrap_err().contains("131072")
    );
    let long = format!("SCHILY.xattr.user.{}", "n".repeat(251));
    assert!(of(&[(&long, "")], b'0').unwrap_err().contains("255 bytes"));
    let names: Vec<String> = (0..1000).map(|n| format!("SCHILY.xattr.user.{n:04}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (&name[..], "v")).collect();
    assert_eq!(scan(&ended(&[pax(&many), file("a", "")])).unwrap().get(0).unwrap().xattrs.len(), 1000);
}

/// An old GNU header with regions, of a file of `size` bytes.
pub(super) fn old(size: u64, regions: &[(u64, u64)]) -> Head {
    let mut head = head(b'S', "s").gnu().put(483, format!("{size:011o}\0").as_bytes());
    for (n, (at, len)) in regions.iter().enumerate() {
        head = head.put(386 + 24 * n, format!("{at:011o}\0{len:011o}\0").as_bytes());
    }
    head
}

fn block(regions: &[(u64, u64)], more: u8) -> Vec<u8> {
    let mut out: Vec<u8> =
        regions.iter().flat_map(|(at, len)| format!("{at:011o}\0{len:011o}\0").into_bytes()).collect();
    out.resize(504, 0);
    out.push(more);
    out.resize(512, 0);
    out
}

#[test]
fn sparse_files_keep_their_holes() {
    let four = [(0, 1), (10, 1), (20, 1), (30, 1)];
    let sizes = [("GNU.sparse.size", "100"), ("GNU.sparse.numblocks", "2")];
    let zero = [
        &sizes[..],
        &[
            ("GNU.sparse.offset", "1"),
            ("GNU.sparse.numbytes", "2"),
            ("GNU.sparse.offset", "9"),
            ("GNU.sparse.numbytes", "3"),
        ],
    ]
    .concat();
    let one = [&sizes[..], &[("GNU.sparse.map", "1,2,9,3"), ("GNU.sparse.name", "real")]].concat();
    let inside = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "100"),
        ("GNU.sparse.name", "real"),
    ];
    let map = |text: &str, body: &str| {
        let mut out = text.as_bytes().to_vec();
        out.resize(out.len().next_multiple_of(512), 0);
        [&out[..], body.as_bytes()].concat()
    };
    let many: String = (0..200).map(|n| format!("{}\n1\n", 2 * n)).collect();
    let (mut much, mut read_much) =
        (old(5_000, &four).put(482, b"\x01").size(4 + 21 + 1).sum(), vec!["0:0,10:0,20:0,30:0".to_owned()]);
    let (further, last): (Vec<_>, _) = ((0..21).map(|n| (100 + 10 * n, 1)).collect(), [(400, 1)]);
    much.extend([block(&further, 1), block(&last, 0), vec![b'0'; 26], vec![0; 486]].concat());
    read_much.extend(further.iter().map(|(at, _)| format!("{at}:0")));
    read_much.push("400:0".to_owned());
    table(vec![
        ("old", vec![old(100, &[(1, 2), (9, 3)]).with(b"abcde"), file("b", "")], "f s 100 1:ab,9:cde; f b 0"),
        ("old with a hole at the end", vec![old(100, &[(0, 2), (100, 0)]).with(b"ab")], "f s 100 0:ab"),
        ("old, all a hole", vec![old(100, &[(100, 0)]).sum()], "f s 100"),
        ("old with touching pieces", vec![old(4, &[(0, 2), (2, 2)]).with(b"abcd")], "f s 4 0:abcd"),
        ("old with further blocks", vec![much, file("b", "")], &format!("f s 5000 {}; f b 0", read_much.join(","))),
        ("old without GNU", vec![old(100, &[(0, 1)]).put(257, b"ustar\x0000").with(b"a")], "refused: not GNU tar's"),
        ("old, overlapping", vec![old(100, &[(0, 2), (1, 2)]).with(b"abcd")], "refused: overlap"),
        ("old, outside", vec![old(3, &[(2, 2)]).with(b"ab")], "refused: outside"),
        ("old, other size", vec![old(100, &[(0, 2)]).with(b"abc")], "refused: another size"),
        ("old, half a piece", vec![old(100, &[(0, 2)]).put(410, b"1").with(b"ab")], "refused: half a piece"),
        (
            "old, more after the end",
            vec![old(100, &[(0, 2)]).put(482, b"1").size(2).sum()],
            "refused: ends before its end",
        ),
        ("0.0", vec![pax(&zero), file("x", "abcde"), file("b", "")], "f x 100 1:ab,9:cde; f b 0"),
        ("0.1", vec![pax(&one), file("x", "abcde")], "f real 100 1:ab,9:cde"),
        (
            "0.1, other count",
            vec![
                pax(&[("GNU.sparse.size", "9"), ("GNU.sparse.numblocks", "2"), ("GNU.sparse.map", "0,1")]),
                file("x", "a"),
            ],
            "refused: another length",
        ),
        (
            "0.1, odd",
            vec![pax(&[("GNU.sparse.size", "9"), ("GNU.sparse.map", "0,1,2")]), file("x", "a")],
            "refused: another length",
        ),
        (
            "0.0, unordered",
            vec![pax(&[("GNU.sparse.numbytes", "1")]), file("x", "a")],
            "refused: not where it should be",
        ),
        (
            "1.0",
            vec![pax(&inside), file("x", map("2\n1\n2\n9\n3\n", "abcde")), file("b", "")],
            "f real 100 1:ab,9:cde; f b 0",
        ),
        ("1.0, nothing", vec![pax(&inside), file("x", map("0\n", "")), file("b", "")], "f real 100; f b 0"),
        (
            "1.0, map of several blocks",
            vec![
                pax(&[&inside[..3], &[("GNU.sparse.realsize", "1000")]].concat()),
                file("x", map(&format!("200\n{many}"), &"z".repeat(200))),
                file("b", ""),
            ],
            &format!("f x 1000 {}; f b 0", (0..200).map(|n| format!("{}:z", 2 * n)).collect::<Vec<_>>().join(",")),
        ),
        ("1.0, 10^7 pieces", vec![pax(&inside), file("x", map("10000000\n", ""))], "refused: more than 65536 pieces"),
        ("1.0, not a map", vec![pax(&inside), file("x", map("1\n-1\n2\n", ""))], "refused: not one"),
        ("1.0, map longer than the file", vec![pax(&inside), file("x", "2\n0\n1\n"), file("b", "")], "refused: "),
        ("1.0, other size", vec![pax(&inside), file("x", map("1\n0\n1\n", "ab"))], "refused: another size"),
        ("no map", vec![pax(&sizes), file("x", "")], "refused: without a map"),
        (
            "unknown version",
            vec![
                pax(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "1")]),
                file("x", ""),
            ],
            "refused: unknown version",
        ),
        ("not a file", vec![pax(&inside), head(b'5', "x").sum()], "refused: not a regular file"),
    ]);
    let endless: Vec<u8> =
        [old(u64::pow(8, 11) - 1, &four).put(482, b"1").size(4).sum(), block(&[(40, 0); 21], 1).repeat(10_000)]
            .concat();
    assert!(scan_in(&endless, 4096).unwrap_err().contains("more than 65536 pieces"));
}

#[test]
fn limits_name_the_entry() {
    let scan_with = |limits: Limits, parts: &[Vec<u8>]| {
        let mut scanner = Scanner::new(limits);
        let fed = scanner.feed(&ended(parts));
        fed.and_then(|()| scanner.finish()).map_err(|e| e.to_string())
    };
    let three = [file("a", ""), file("b", ""), file("c", "")];
    assert!(scan_with(Limits { entries: 3, ..Limits::default() }, &three).is_ok());
    assert_eq!(
        scan_with(Limits { entries: 2, ..Limits::default() }, &three).unwrap_err(),
        "the tar has more than 2 entries"
    );
    let small = Limits { pax: 100, xattrs: 10, ..Limits::default() };
    let long = head(b'L', "l").with(&[b'n'; 60]);
    let two = [head(b'K', "l").with(&[b'n'; 60]), long, head(b'2', "s").sum()];
    assert!(
        scan_with(small, &two).unwrap_err().contains("entry 1 of the tar: the headers about it are larger than 100")
    );
    let two = [file("a", ""), pax(&[("SCHILY.xattr.user.a", "12345")]), file("b", "")];
    assert_eq!(scan_with(small, &two).unwrap_err(), "entry 2 of the tar, \"b\": has more than 10 bytes of attributes");
    let mut scanner = Scanner::new(Limits::default());
    assert!(scanner.feed(&[1; 512]).is_err());
    assert!(scanner.feed(&[]).is_err());
    assert!(scanner.finish().is_err());
}
