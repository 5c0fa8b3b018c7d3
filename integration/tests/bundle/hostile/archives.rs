//! Layers that a tar reader, or whoever puts layers upon each other, can be wrong about.

use orlop_images::tar::{Entry, Header, Tar, flag, records};

use super::Cases;

type Memory = Tar<Vec<u8>>;

/// A whole tar.
fn tar(write: impl for<'a> FnOnce(&'a mut Memory) -> &'a mut Memory) -> Vec<u8> {
    let mut tar = Tar::new();
    write(&mut tar);
    tar.end()
}

/// A header of this type that has what the type needs.
fn header(flag: u8, name: &[u8]) -> Header {
    let header = Header::new(flag, name);
    match flag {
        flag::HARDLINK => header.link("good"),
        flag::SYMLINK => header.link("/"),
        flag::CHAR => header.device(1, 3),
        _ => header,
    }
}

const KINDS: [(&str, u8); 6] = [
    ("file", flag::FILE),
    ("directory", flag::DIRECTORY),
    ("symlink", flag::SYMLINK),
    ("hard link", flag::HARDLINK),
    ("FIFO", flag::FIFO),
    ("device", flag::CHAR),
];

/// Names that lead outside, name the root, or are too long.
pub(super) fn names(cases: &mut Cases<'_>) {
    let outside = ["../../x", "..", "a/../../x", "/../x", "./../x", "a/b/../../../x"];
    for name in outside {
        for (kind, flag) in &KINDS[..4] {
            let layer = tar(|t| t.file("good", "").bare(header(*flag, name.as_bytes())));
            cases.refused(format!("T1 T3: {name} as a {kind}"), &[layer]);
        }
        let layer = tar(|t| t.pax(&[("path", name)]).bare(Header::new(flag::FILE, "fine")));
        cases.refused(format!("T1: {name} by PAX"), &[layer]);
        let long = tar(|t| {
            t.with(Header::new(flag::LONG_NAME, "././@LongLink").gnu(), format!("{name}\0"));
            t.bare(Header::new(flag::FILE, "fine").gnu())
        });
        cases.refused(format!("T1: {name} by a long name"), &[long]);
    }
    let prefix = tar(|t| t.bare(Header::new(flag::FILE, "x").field(345, b"../..")));
    cases.refused("T1: ../.. as a prefix", &[prefix]);
    let canary = cases.canary();
    let absolute = tar(|t| t.file(&format!("{canary}/secret"), "mine"));
    let below = &canary[1..];
    let parts: Vec<&str> = below.split('/').collect();
    let mut want: Vec<String> = (1..=parts.len()).map(|n| format!("d {}", parts[..n].join("/"))).collect();
    want.push(format!("f {below}/secret 4"));
    let want: Vec<&str> = want.iter().map(String::as_str).collect();
    cases.tree("T2: an absolute name is below the root", &[absolute], &want);

    let one = |name: &[u8]| tar(|t| t.bare(Header::new(flag::FILE, name)));
    cases.tree("T2: /abs", &[one(b"/abs")], &["f abs 0"]);
    cases.tree("T3: a/../b takes a away again", &[one(b"a/../b")], &["f b 0"]);
    cases.tree("T8: doubled slashes", &[one(b".//a///b")], &["d a", "f a/b 0"]);
    cases.refused("T8: a file whose name ends in a slash", &[one(b"a/")]);
    cases.refused("T8: a file whose name ends in a dot", &[one(b"a/.")]);
    cases.tree("T7: a newline", &[one(b"a\nb")], &["f a\\nb 0"]);
    cases.tree("T7: not UTF-8", &[one(b"\xff\xfe")], &["f \\xff\\xfe 0"]);

    for name in [".", "./", "/", "", "a/.."] {
        for (kind, flag) in KINDS.iter().filter(|(_, flag)| *flag != flag::DIRECTORY) {
            let layer = tar(|t| t.file("good", "").bare(header(*flag, name.as_bytes())));
            cases.refused(format!("T4 CVE-2021-29136: the root ({name:?}) as a {kind}"), &[layer]);
        }
        let layer = tar(|t| t.bare(Header::new(flag::DIRECTORY, name)).file("good", ""));
        cases.tree(format!("T4: the root ({name:?}) as a directory"), &[layer], &["f good 0"]);
    }

    let by_pax = |name: &str| tar(|t| t.pax(&[("path", name)]).bare(Header::new(flag::FILE, "fine")));
    cases.refused("T5: a component of 256 bytes", &[by_pax(&"n".repeat(256))]);
    cases.refused("T5: a name of 5000 bytes", &[by_pax(&"ab/".repeat(1667))]);
    cases.refused("T5: a name of a megabyte", &[by_pax(&"ab/".repeat(400_000))]);
    cases.refused("T6: a NUL in a PAX path", &[by_pax("a\0b")]);
    let link = tar(|t| t.pax(&[("linkpath", "a\0b")]).bare(Header::new(flag::SYMLINK, "l")));
    cases.refused("T6: a NUL in a PAX linkpath", &[link]);
}

/// Symbolic and hard links that something is then written through.
pub(super) fn links(cases: &mut Cases<'_>) {
    let canary = &cases.canary();
    let secret = &format!("{canary}/secret");
    let up = &format!("{}{}", "../".repeat(12), &canary[1..]);

    for (how, target) in [("absolute", canary), ("relative", up)] {
        let line = &format!("l etc -> {target}");
        let link = tar(|t| t.symlink("etc", target));
        let same = |t: &mut Memory| {
            t.symlink("etc", target);
        };
        let replaced = ["d etc", "f etc/secret 4"];
        let layer = tar(|t| {
            same(t);
            t.file("etc/secret", "mine")
        });
        cases.tree(format!("T9: a file through an {how} link of its layer"), &[layer], &replaced);
        let above = tar(|t| t.file("etc/secret", "mine"));
        cases.tree(format!("T9: a file through an {how} link of the layer below"), &[link.clone(), above], &replaced);
        let above = tar(|t| t.dir("etc").file("etc/secret", "mine"));
        cases.tree(format!("T11 CVE-2026-33056: a folder upon an {how} link"), &[link.clone(), above], &replaced);
        let layer = tar(|t| {
            same(t);
            t.entry(&Entry { mode: 0o777, uid: 1, mtime: (9, 0), ..Entry::new(flag::DIRECTORY, b"etc") }, b"")
        });
        cases.tree(format!("T11 CVE-2026-33056: a folder upon an {how} link, same layer"), &[layer], &["d etc"]);
        let layer = tar(|t| {
            same(t);
            t.bare(Header::new(flag::DIRECTORY, "etc/.").mode(0o777))
        });
        cases.tree(format!("T14: etc/. upon an {how} link"), &[layer], &["d etc"]);
        let layer = tar(|t| {
            same(t);
            t.file("etc", "a file")
        });
        cases.tree(format!("T12: a file upon an {how} link"), &[layer], &["f etc 6"]);
        let above = tar(|t| t.file("etc/.wh.secret", ""));
        cases.either(format!("T13: a whiteout through an {how} link"), &[link.clone(), above], &[&[line], &["d etc"]]);
        let above = tar(|t| t.file("etc/.wh..wh..opq", ""));
        cases.either(
            format!("T13: an opaque mark through an {how} link"),
            &[link.clone(), above],
            &[&[line], &["d etc"]],
        );
        let above = tar(|t| t.bare(header(flag::CHAR, b"etc/null")));
        cases.tree(
            format!("T13: a device through an {how} link"),
            &[link.clone(), above],
            &["d etc", "c etc/null 1:3"],
        );
        let above = tar(|t| t.hardlink("mine", "etc/secret"));
        cases.not_made(format!("T13 T15: a hard link to what is behind an {how} link"), &[link.clone(), above]);
        let layer = tar(|t| {
            same(t);
            t.hardlink("second", "etc").file("second", "over it")
        });
        cases.tree(format!("T16: a file upon a hard link to an {how} link"), &[layer], &[line, "f second 7"]);
    }
    let layer = tar(|t| {
        t.symlink("link0", secret);
        for i in 1..50 {
            t.symlink(&format!("link{i}"), &format!("link{}", i - 1));
        }
        t.file("link49", "mine")
    });
    cases.check("T10: a file upon a chain of 50 links", &[layer], |tree| tree.iter().any(|line| line == "f link49 4"));
    let layer = tar(|t| t.symlink("a", "b").symlink("b", "a").file("a/x", ""));
    cases.tree("T10: a file through a loop", &[layer], &["d a", "f a/x 0", "l b -> a"]);

    for (what, target) in [
        ("a name outside", "../../canary/secret"),
        ("an absolute name", secret.as_str()),
        ("a name of the working directory", "Cargo.toml"),
        ("nothing", "no/such"),
        ("a directory", "dir"),
        ("itself", "link"),
        ("the root", "."),
        ("an empty name", ""),
    ] {
        let layer = tar(|t| t.dir("dir").bare(Header::new(flag::HARDLINK, "link").link(target)));
        cases.not_made(format!("T15 T18 CVE-2026-50163: a hard link to {what}"), &[layer]);
    }
    let layer = tar(|t| t.hardlink("a", "b").hardlink("b", "a"));
    cases.not_made("T18: two hard links to each other", &[layer]);
    let layer = tar(|t| t.hardlink("a", "z").file("z", "later"));
    cases.tree("T18: a hard link before its target", &[layer], &["f a 5", "h z = a"]);
    let layer = tar(|t| t.bare(Header::new(flag::HARDLINK, "b").link("a").size(512)).file("a", "x"));
    cases.either("T19: a hard link that claims a size", &[layer], &[&["f a 1", "h b = a"]]);
    let layer = tar(|t| {
        t.file("a", "x").raw(Header::new(flag::HARDLINK, "b").link("a").size(512).seal());
        t.raw(Header::new(flag::FILE, "smuggled").seal())
    });
    cases.check("T19: a header within a hard link's content", &[layer], |tree| {
        // GNU tar and Go list it: a hard link has no content.
        tree.iter().any(|line| line.contains("smuggled"))
    });
    let below = tar(|t| t.file("a", "below"));
    let above = tar(|t| t.hardlink("b", "a").file("a", "changed"));
    cases.tree("T17: a rewritten name of a file of below", &[below, above], &["f a 7", "f b 5"]);
    let below = tar(|t| t.file("a", "below").file("gone", ""));
    let above = tar(|t| t.file(".wh.gone", "").hardlink("b", "gone"));
    cases.survived("T17: a hard link to what its layer whites out", &[below, above]);
}

/// Marks of layers upon each other.
pub(super) fn whiteouts(cases: &mut Cases<'_>) {
    for name in [".wh.", "a/.wh.", ".wh..", ".wh...", ".wh..wh..opqX", ".wh..wh.a", ".wh.a/b", "a/.wh.b/c"] {
        cases.refused(format!("T20: {name}"), &[tar(|t| t.bare(Header::new(flag::FILE, name)))]);
    }
    let below = || tar(|t| t.dir("d").file("d/a", "1").file("d/b", "22").file("x", ""));
    for (what, kind) in KINDS.iter().filter(|(_, kind)| *kind != flag::HARDLINK) {
        let above = tar(|t| t.bare(header(*kind, b".wh.x")));
        cases.tree(format!("T21: a whiteout that is a {what}"), &[below(), above], &["d d", "f d/a 1", "f d/b 2"]);
    }
    let above = tar(|t| t.file(".wh.x", "with content"));
    cases.tree("T21: a whiteout with content", &[below(), above], &["d d", "f d/a 1", "f d/b 2"]);
    let above = tar(|t| t.file(".wh.none", "").file("no/.wh.such", ""));
    cases.check("T21: whiteouts of nothing", &[below(), above], |tree| {
        tree.iter().filter(|line| *line != "d no").eq(["d d", "f d/a 1", "f d/b 2", "f x 0"].iter())
    });
    for (order, names) in [("before", [".wh.x", "x"]), ("after", ["x", ".wh.x"])] {
        let above = tar(|t| t.file(names[0], "").file(names[1], ""));
        cases.tree(
            format!("T22 T26: a whiteout {order} the name in one layer"),
            &[below(), above],
            &["d d", "f d/a 1", "f d/b 2", "f x 0"],
        );
        let above = tar(|t| {
            for name in names {
                match name {
                    "x" => t.dir("d").file("d/new", ""),
                    _ => t.file(".wh.d", ""),
                };
            }
            t
        });
        cases.tree(
            format!("T24: a whiteout {order} the folder in one layer"),
            &[below(), above],
            &["d d", "f d/new 0", "f x 0"],
        );
    }
    let whole = ["d/.wh..wh..opq", "d/c", "d/a"];
    for start in 0..3 {
        let above = tar(|t| (0..3).fold(t, |t, i| t.file(whole[(start + i) % 3], "")));
        let at = ["first", "last", "in the middle"][start];
        cases.tree(
            format!("T23: an opaque mark that comes {at}"),
            &[below(), above],
            &["d d", "f d/a 0", "f d/c 0", "f x 0"],
        );
    }
    let above = tar(|t| t.file(".wh..wh..opq", "").file("only", ""));
    cases.tree("T20: an opaque root", &[below(), above], &["f only 0"]);
    let above = tar(|t| t.file("d/.wh..wh..opq", "").file("d/.wh.a", "").file("d/a", "3\n3"));
    cases.tree("containerd#6991: opaque, whiteout and name", &[below(), above], &["d d", "f d/a 3", "f x 0"]);
    let above = tar(|t| t.file(".wh.d", ""));
    let third = tar(|t| t.file("d/z", ""));
    cases.tree(
        "T24: a child of what the layer below took away",
        &[below(), above, third],
        &["d d", "f d/z 0", "f x 0"],
    );
    let above = tar(|t| t.file("x/.wh.a", ""));
    cases.either(
        "T24: a whiteout within a file",
        &[below(), above],
        &[&["d d", "f d/a 1", "f d/b 2", "f x 0"], &["d d", "d x", "f d/a 1", "f d/b 2"]],
    );
    let above = tar(|t| t.dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", ""));
    cases.tree("T20: aufs's own names", &[below(), above], &["d d", "f d/a 1", "f d/b 2", "f x 0"]);
    let above = tar(|t| t.file("d", "now a file"));
    cases.tree("T34: a file upon a folder", &[below(), above], &["f d 10", "f x 0"]);
    let above = tar(|t| t.dir("x").file("x/y", ""));
    cases.tree("T34: a folder upon a file", &[below(), above], &["d d", "d x", "f d/a 1", "f d/b 2", "f x/y 0"]);
    let above = tar(|t| t.file("x/y", ""));
    cases.tree("T34: a file's name within a file", &[below(), above], &["d d", "d x", "f d/a 1", "f d/b 2", "f x/y 0"]);
}

/// Kinds and attributes that mean something to an overlay.
pub(super) fn kinds(cases: &mut Cases<'_>) {
    let below = || tar(|t| t.dir("d").file("d/a", "1").file("x", "content"));
    let same = ["d d", "f d/a 1", "f x 7"];
    cases.refused("T28: a character device 0:0", &[below(), tar(|t| t.bare(Header::new(flag::CHAR, "x")))]);
    let devices = tar(|t| {
        t.bare(header(flag::CHAR, b"c")).bare(header(flag::FIFO, b"p"));
        t.bare(Header::new(flag::BLOCK, "b").device(7, 300))
    });
    cases.tree("T29: devices and a FIFO", &[devices], &["b b 7:300", "c c 1:3", "p p"]);
    let far = tar(|t| t.bare(Header::new(flag::CHAR, "c").device(0x1fffff, 1)));
    cases.refused("T29: a device number that Linux has not", &[far]);
    for namespace in ["trusted", "user"] {
        for (name, value) in [
            ("opaque", "y"),
            ("opaque", "x"),
            ("redirect", "/d"),
            ("metacopy", ""),
            ("whiteout", "y"),
            ("origin", "\0\0"),
            ("overlay.opaque", "y"),
        ] {
            let key = format!("{namespace}.overlay.{name}");
            let xattrs: &[(&[u8], &[u8])] = &[(key.as_bytes(), value.as_bytes())];
            let above = tar(|t| {
                t.entry(&Entry { xattrs, ..Entry::new(flag::DIRECTORY, b"d") }, b"");
                t.entry(&Entry { xattrs, ..Entry::new(flag::FILE, b"x") }, b"content")
            });
            cases.tree(format!("T32: {key}={value:?}"), &[below(), above], &same);
        }
    }
    let layer = |key: &str, value: &[u8]| {
        let xattrs: &[(&[u8], &[u8])] = &[(key.as_bytes(), value)];
        tar(|t| t.entry(&Entry { xattrs, ..Entry::new(flag::FILE, b"x") }, b""))
    };
    cases.refused("T33: an attribute of more than 64 KiB", &[layer("user.x", &[b'v'; (64 << 10) + 1])]);
    cases.refused("T33: an attribute's name of 300 bytes", &[layer(&format!("user.{}", "n".repeat(300)), b"v")]);
    cases.tree("T33: an empty value", &[layer("user.x", b"")], &["f x 0"]);
    cases.tree("T33: labels of a host", &[layer("security.selinux", b"system_u\0")], &["f x 0"]);
    for kind in [b'9', b'A', b'V', b'M', b'D', b'N', 0xff] {
        let layer = tar(|t| t.bare(Header::new(kind, "x")));
        cases.refused(format!("an unknown type {:?}", char::from(kind)), &[layer]);
    }
    for (what, kind) in KINDS.iter().filter(|(_, kind)| !matches!(*kind, flag::FILE | flag::HARDLINK)) {
        let layer = tar(|t| {
            t.raw(header(*kind, b"x").size(512).seal());
            t.raw(Header::new(flag::FILE, "smuggled").seal())
        });
        cases.refused(format!("T36: a {what} with content"), &[layer]);
    }
}

/// Headers that two programs may read as two different archives.
pub(super) fn dialects(cases: &mut Cases<'_>) {
    let smuggled = Header::new(flag::FILE, "smuggled").seal();
    let layer = tar(|t| t.pax(&[("size", "512")]).bare(Header::new(flag::FILE, "a")).raw(smuggled));
    cases.tree("T36 CVE-2025-62518: a PAX size upon 0", &[layer], &["f a 512"]);
    let layer = tar(|t| t.pax(&[("size", "0")]).bare(Header::new(flag::FILE, "a").size(512)).raw(smuggled));
    cases.tree("T36 CVE-2026-33055: a PAX size of 0 upon 512", &[layer], &["f a 0", "f smuggled 0"]);
    let long = |t: &mut Memory, name: &str| {
        t.with(Header::new(flag::LONG_NAME, "././@LongLink").gnu(), format!("{name}\0"));
    };
    let file = || Header::new(flag::FILE, "short").gnu();
    let layer = tar(|t| {
        t.pax(&[("size", "512")]);
        long(t, "long");
        t.bare(file()).raw(smuggled)
    });
    cases.tree("T37 GHSA-3cv2-h65g-fgmm: PAX, long name, file", &[layer], &["f long 512"]);
    let layer = tar(|t| {
        long(t, "long");
        t.pax(&[("size", "512")]).bare(file()).raw(smuggled)
    });
    cases.tree("T37: long name, PAX, file", &[layer], &["f long 512"]);
    let layer = tar(|t| {
        long(t, "long");
        t.pax(&[("path", "other")]).bare(file())
    });
    cases.refused("T37: a long name and another by PAX", &[layer]);
    let twice = tar(|t| t.pax(&[("path", "a")]).pax(&[("path", "b")]).bare(file()));
    cases.refused("T38: two PAX headers", &[twice]);
    let twice = tar(|t| {
        long(t, "a");
        long(t, "b");
        t.bare(file())
    });
    cases.refused("T38: two long names", &[twice]);
    for (key, value) in [("path", "b"), ("size", "512"), ("linkpath", "b"), ("SCHILY.xattr.user.x", "y")] {
        let layer = tar(|t| t.with(Header::new(flag::GLOBAL, "g"), records(&[(key, value)])).file("a", ""));
        cases.refused(format!("T39: a global {key}"), &[layer]);
    }
    let layer = tar(|t| t.with(Header::new(flag::GLOBAL, "g"), records(&[("comment", "c")])).file("a", ""));
    cases.tree("T39: a global comment", &[layer], &["f a 0"]);

    for (what, body) in [
        ("no length", &b"path=x\n"[..]),
        ("a length of 0", b"0 path=x\n"),
        ("a length beyond it", b"99 path=x\n"),
        ("a length within the record", b"5 path=x\n"),
        ("a huge length", b"99999999999999999999999 path=x\n"),
        ("a negative length", b"-9 path=x\n"),
        ("no newline", b"9 path=xy"),
        ("no value", b"8 path\n\n"),
        ("no name", b"5 =x\n"),
        ("an mtime that is none", b"13 mtime=NaN\n"),
        ("a negative size", b"11 size=-1\n"),
        ("a size beyond 63 bits", b"28 size=9223372036854775808\n"),
        ("an owner beyond 32 bits", b"18 uid=4294967296\n"),
        ("an owner that means nobody", b"18 uid=4294967295\n"),
        ("a path that is empty", b"8 path=\n"),
    ] {
        let layer = tar(|t| t.with(Header::new(flag::PAX, "x"), body).file("a", ""));
        cases.refused(format!("a PAX header with {what}"), &[layer]);
    }
    sparse(cases);
    numbers_and_ends(cases);
}

fn sparse(cases: &mut Cases<'_>) {
    let by_map = |size: &str, count: &str, map: &str, body: &[u8]| {
        tar(|t| {
            t.pax(&[("GNU.sparse.size", size), ("GNU.sparse.numblocks", count), ("GNU.sparse.map", map)]);
            t.with(Header::new(flag::FILE, "s"), body)
        })
    };
    for (what, layer) in [
        ("claims ten million pieces", by_map("10", "10000000", "0,5", b"12345")),
        ("has pieces that overlap", by_map("10", "2", "0,5,3,2", b"1234567")),
        ("has pieces out of order", by_map("10", "2", "5,5,0,2", b"1234567")),
        ("has a piece beyond its end", by_map("10", "1", "8,5", b"12345")),
        ("has a piece beyond 64 bits", by_map("10", "1", "18446744073709551615,5", b"12345")),
        ("has half a piece", by_map("10", "1", "0", b"12345")),
        ("has a map of words", by_map("10", "1", "a,b", b"12345")),
        ("has less content than its map", by_map("10", "1", "0,5", b"123")),
        ("has more content than its map", by_map("10", "1", "0,5", b"1234567")),
        ("has a negative size", by_map("-10", "1", "0,5", b"12345")),
    ] {
        cases.refused(format!("T40: a sparse file that {what}"), &[layer]);
    }
    let by_text = |text: &[u8]| {
        tar(|t| {
            let pairs = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")];
            t.pax(&pairs).with(Header::new(flag::FILE, "s"), text)
        })
    };
    for (what, text) in [
        ("claims 10^7 pieces", &b"10000000\n"[..]),
        ("claims 10^30 pieces", b"1000000000000000000000000000000\n"),
        ("is words", b"one\n0\n5\n"),
        ("ends early", b"3\n0\n1\n"),
        ("is negative", b"1\n-5\n5\n"),
    ] {
        cases.refused(format!("T40 CVE-2025-58183: a map within the content that {what}"), &[by_text(text)]);
    }
    let old = |change: &dyn Fn(Header) -> Header| {
        let header = Header::new(flag::GNU_SPARSE, "s").gnu().octal(483, 12, 100).octal(386, 12, 0).octal(398, 12, 5);
        tar(|t| t.with(change(header), b"12345"))
    };
    cases.refused("T40: an old map with a negative piece", &[old(&|h| h.base256(386, 12, -5))]);
    cases.refused("T40: an old map that goes on for ever", &[old(&|h| h.field(482, b"\x01"))]);
    cases.refused("T40: an old map with a negative size", &[old(&|h| h.base256(483, 12, -1))]);
    cases.tree("T40: an old map that is fine", &[old(&|h| h)], &["f s 100"]);
    // 2^60 bytes, of which none is there.
    let huge = by_map("1152921504606846976", "1", "0,0", b"");
    cases.survived("T40: a hole of an exbibyte", &[huge]);
}

fn numbers_and_ends(cases: &mut Cases<'_>) {
    for (what, size) in [("-1", -1), ("2^63", 1i128 << 63), ("2^63 - 1", (1 << 63) - 1), ("2^94", 1 << 94)] {
        let layer = tar(|t| t.bare(Header::new(flag::FILE, "a").base256(124, 12, size)));
        cases.refused(format!("T41: a size of {what}"), &[layer]);
    }
    let layer = tar(|t| t.bare(Header::new(flag::FILE, "a").base256(136, 12, -100)));
    cases.tree("T41: a time before 1970 in base 256", &[layer], &["f a 0"]);
    let layer = tar(|t| t.bare(Header::new(flag::FILE, "a").base256(108, 8, 1 << 32)));
    cases.refused("T41: an owner beyond 32 bits", &[layer]);
    let layer = tar(|t| t.bare(Header::new(flag::FILE, "a").field(124, b"99999999999\0")));
    cases.refused("T41: a size that is not octal", &[layer]);
    for kind in [flag::PAX, flag::GLOBAL, flag::LONG_NAME, flag::LONG_LINK] {
        let layer = Tar::new().bare(Header::new(kind, "x").base256(124, 12, 8 << 30)).file("a", "").raw([]).take();
        cases.refused(format!("T42: a header of type {:?} that claims 8 GiB", char::from(kind)), &[layer]);
    }
    let wrong = tar(|t| t.file("a", "").raw(Header::new(flag::FILE, "b").sealed_with(1)));
    cases.refused("T43: a wrong checksum", &[wrong]);
    let signed = tar(|t| t.raw(Header::new(flag::FILE, b"\xff\xff\xff").seal_signed()));
    cases.tree("T43: a checksum of signed bytes", &[signed], &["f \\xff\\xff\\xff 0"]);
    let blank = Header::new(flag::FILE, "a").field(148, b"        ");
    cases.refused("T43: no checksum", &[Tar::new().raw(header_bytes(&blank)).raw([0; 1024]).take()]);

    let stray = tar(|t| t.file("a", "").raw([0; 512]).file("b", ""));
    cases.refused("T44: a single empty block and more", &[stray]);
    cases.tree("T44: no end", &[Tar::new().file("a", "x").take()], &["f a 1"]);
    let garbage = tar(|t| t.file("a", "x")).into_iter().chain([b'g'; 10_000]).collect::<Vec<_>>();
    cases.tree("T44: garbage behind the end", &[garbage], &["f a 1"]);
    let second = [tar(|t| t.file("a", "x")), tar(|t| t.file("b", "x"))].concat();
    cases.tree("T44: a second archive behind the end", &[second], &["f a 1"]);
    let padded = [tar(|t| t.file("a", "x")), vec![0; 10_240]].concat();
    cases.tree("T44: more zeros than needed", &[padded], &["f a 1"]);
    let whole = tar(|t| t.file("a", vec![b'x'; 5000]));
    for (what, length) in [("a header", 300), ("a body", 2000), ("a body's padding", 512 + 5000)] {
        cases.refused(format!("T44: an end within {what}"), &[whole[..length].to_vec()]);
    }
    let dangling = tar(|t| t.pax(&[("path", "b")]));
    cases.refused("T44: a PAX header for no entry", &[dangling]);
    cases.refused("no tar at all", &[b"#!/bin/sh\necho no archive\n".repeat(100)]);
    cases.tree("nothing", &[Vec::new()], &[]);
    let twice = tar(|t| t.file("a", "1").file("a", "22"));
    cases.tree("a name twice: the last counts", &[twice], &["f a 2"]);
}

/// The block without a checksum of its own.
fn header_bytes(header: &Header) -> Vec<u8> {
    let mut block = header.clone().seal().to_vec();
    block[148..156].copy_from_slice(b"        ");
    block
}
