use super::*;

/// A layer of a word and a name an entry: `d` directory, `f` file, `l` symbolic link, `h` hard link, `c` and `b` device,
/// `p` FIFO, `w` whiteout, `o` opaque mark. The number of the entry is its user, its layer is its group.
fn layer(number: u32, text: &str) -> Layer {
    let mut layer = Layer::default();
    for (line, uid) in text.split(';').map(str::trim).filter(|line| !line.is_empty()).zip(1..) {
        let mut words = line.split(' ');
        let (kind, path) = (words.next().unwrap(), words.next().unwrap_or("").as_bytes());
        let target = words.next().unwrap_or("").as_bytes();
        let extents = [Extent { at: 0, len: 1, from: 512 }];
        let kind = match kind {
            "d" => Kind::Directory,
            "f" => Kind::File { size: 1, extents: &extents },
            "l" => Kind::Symlink(target),
            "h" => Kind::Hardlink(target),
            "c" => Kind::Char { major: 0, minor: target.len() as u32 },
            "b" => Kind::Block { major: 8, minor: 1 },
            "p" => Kind::Fifo,
            "w" => Kind::Whiteout,
            "o" => Kind::Opaque,
            other => panic!("{other}"),
        };
        let meta = Meta { mode: 0o700, uid, gid: number, mtime: Time { sec: 1, nsec: 0 } };
        layer.push(path, kind, meta, []).unwrap();
    }
    layer
}

fn layers(texts: &[&str]) -> Vec<Layer> {
    texts.iter().zip(0..).map(|(text, number)| layer(number, text)).collect()
}

/// `path=layer.entry` of everything below the root, with a letter for the type; `-` for a directory that no entry
/// describes; the number of links behind it if it isn't one.
fn shown(tree: &Tree<'_>) -> String {
    fn walk(tree: &Tree<'_>, directory: u32, path: &str, out: &mut Vec<String>) {
        for (name, number) in tree.children(directory) {
            let node = tree.node(number);
            let path = format!("{path}{}", String::from_utf8_lossy(name));
            let by = if node.entry.is_some() { format!("{}.{}", node.meta.gid, node.meta.uid) } else { "-".into() };
            let (kind, links) = match node.content {
                Content::Directory => ("/", String::new()),
                Content::Symlink(_) => ("@", format!("x{}", node.links)),
                _ => ("", format!("x{}", node.links)),
            };
            out.push(format!("{path}{kind}={by}{}", links.replace("x1", "")));
            if node.is_directory() {
                walk(tree, number, &format!("{path}/"), out);
            }
        }
    }
    let mut out = Vec::new();
    walk(tree, tree.root().number, "", &mut out);
    out.join(" ")
}

fn merged(texts: &[&str]) -> String {
    match Tree::merge(&layers(texts)) {
        Ok(tree) => shown(&tree),
        Err(e) => format!("! {e}"),
    }
}

#[test]
fn layers_are_merged_as_the_specification_says() {
    for (what, texts, tree) in [
        ("nothing", &[][..], ""),
        ("one layer", &["d a; f a/b; f c"], "a/=0.1 a/b=0.2 c=0.3"),
        ("names are sorted by their bytes", &["f b; f a.b; d a; f a/x; f B"], "B=0.5 a/=0.3 a/x=0.4 a.b=0.2 b=0.1"),
        ("the last entry of a name counts", &["f a; f a; f a"], "a=0.3"),
        ("a file replaces a file", &["f a", "f a"], "a=1.1"),
        ("a directory's attributes are replaced and its content stays", &["d a; f a/b", "d a"], "a/=1.1 a/b=0.2"),
        ("a file replaces a directory", &["d a; f a/b; d a/c; f a/c/d", "f a"], "a=1.1"),
        ("a directory replaces a file", &["f a", "d a; f a/b"], "a/=1.1 a/b=1.2"),
        ("and so within a layer", &["d a; f a/b; f a; d a; f a/c"], "a/=0.4 a/c=0.5"),
        ("a directory replaces a link to one", &["d a; f a/x; l b a", "d b; f b/y"], "a/=0.1 a/x=0.2 b/=1.1 b/y=1.2"),
        ("a file replaces a link", &["f a; l b a", "f b"], "a=0.1 b=1.1"),
        // Parents.
        ("missing parents are made", &["f a/b/c"], "a/=- a/b/=- a/b/c=0.1"),
        ("and described later", &["f a/b/c; d a/b"], "a/=- a/b/=0.2 a/b/c=0.1"),
        ("a lower layer's parent keeps its attributes", &["d a", "f a/b"], "a/=0.1 a/b=1.1"),
        ("a file in the way gives way", &["f a", "f a/b"], "a/=- a/b=1.1"),
        ("a link in the way is not followed", &["d x; l a x", "f a/b"], "a/=- a/b=1.1 x/=0.1"),
        ("nor in the same layer", &["d x; l a x; f a/b"], "a/=- a/b=0.3 x/=0.1"),
        ("nor one that leads out", &["l etc /canary", "f etc/x; w etc/y; o etc"], "etc/=- etc/x=1.1"),
        // Whiteouts.
        ("a whiteout hides what is below", &["f a; f b", "w a"], "b=0.2"),
        ("a whiteout of a directory hides all in it", &["d a; d a/b; f a/b/c; f d", "w a"], "d=0.4"),
        ("a whiteout of nothing", &["f a", "w b; w c/d"], "a=0.1"),
        ("a whiteout in the first layer", &["w a; f a"], "a=0.2"),
        ("a whiteout before the name", &["f a", "w a; f a"], "a=1.2"),
        ("a whiteout behind the name", &["f a", "f a; w a"], "a=1.1"),
        ("a whiteout of a directory that comes again", &["d a; f a/b", "d a; f a/c; w a"], "a/=1.1 a/c=1.2"),
        ("a whiteout of a parent whose child comes again", &["d a; f a/b", "w a; f a/c"], "a/=- a/c=1.2"),
        ("a whiteout below a link", &["d x; f x/y; l a x", "w a/y"], "a@=0.3 x/=0.1 x/y=0.2"),
        ("a whiteout below a file", &["f a", "w a/b"], "a=0.1"),
        ("a whiteout makes no parents", &["f a", "w b/c/d"], "a=0.1"),
        ("two layers later", &["f a", "w a", "f b"], "b=2.1"),
        ("and back again", &["d a; f a/b", "w a", "d a; f a/c"], "a/=2.1 a/c=2.2"),
        // Opaque marks.
        ("an opaque mark hides what is below", &["d a; f a/b; d a/c; f a/c/d", "d a; o a; f a/e"], "a/=1.1 a/e=1.3"),
        ("wherever it stands", &["d a; f a/b", "d a; f a/e; o a"], "a/=1.1 a/e=1.2"),
        ("also first", &["d a; f a/b", "o a; d a; f a/e"], "a/=1.2 a/e=1.3"),
        ("without an entry the directory keeps its attributes", &["d a; f a/b", "o a; f a/e"], "a/=0.1 a/e=1.2"),
        ("in the root", &["d a; f b", "o ; f c"], "c=1.2"),
        ("with whiteouts beside", &["d a; f a/x; f a/y", "d a; o a; w a/x; f a/x"], "a/=1.1 a/x=1.4"),
        ("of nothing", &["f b", "o a"], "a/=- b=0.1"),
        ("of a file", &["f a", "o a; f a/b"], "a/=- a/b=1.2"),
        ("of a link", &["d x; f x/y; l a x", "o a"], "a/=- x/=0.1 x/y=0.2"),
        ("below a whiteout", &["d a; f a/b", "w a; o a/c"], "a/=- a/c/=-"),
        // Hard links.
        ("a hard link", &["f a; h b a"], "a=0.1x2 b=0.1x2"),
        ("to a lower layer's file", &["f a", "h b a"], "a=0.1x2 b=0.1x2"),
        ("which is then replaced", &["f a", "h b a", "f a"], "a=2.1 b=0.1"),
        ("or removed", &["f a; h b a", "w a"], "b=0.1"),
        ("and the other way round", &["f a; h b a", "f b"], "a=0.1 b=1.1"),
        ("of a link to a link", &["f a; h b a; h c b"], "a=0.1x3 b=0.1x3 c=0.1x3"),
        ("to a symbolic link", &["l a /etc; h b a; f b2"], "a@=0.1x2 b@=0.1x2 b2=0.3"),
        ("whose new entry does not change the target", &["l a /etc; h b a; f b"], "a@=0.1 b=0.3"),
        ("to a device", &["c a x; h b a"], "a=0.1x2 b=0.1x2"),
        ("before its target", &["h b a; f a"], "a=0.2x2 b=0.2x2"),
        ("a chain before its target", &["h c b; h b a; h d c; f a"], "a=0.4x4 b=0.4x4 c=0.4x4 d=0.4x4"),
        ("before its target, and replaced", &["h b a; f a; f b"], "a=0.2 b=0.3"),
        ("twice", &["f a; h b a; h b a"], "a=0.1x2 b=0.1x2"),
        ("over its own directory", &["d a; f a/b; f a/c; h a a/b"], "a=0.2"),
        ("below its own target", &["f a; h a/b a"], "a/=- a/b=0.1"),
        (
            "to what this layer hides",
            &["f a; f c", "w a; h b a"],
            "! layer 1: \"b\": hard link to \"a\", which is missing",
        ),
        ("to nothing", &["h b a"], "! layer 0: \"b\": hard link to \"a\", which is missing"),
        ("to a directory", &["d a; h b a"], "! layer 0: \"b\": hard link to \"a\", which is a directory"),
        ("to itself", &["f a; h a a"], "! layer 0: \"a\": hard link to itself"),
        ("in a circle", &["h a b; h b a"], "! layer 0: \"a\": hard link to \"b\", which is a link to this link"),
        ("through a link", &["d x; f x/y; l l x; h b l/y"], "! layer 0: \"b\": hard link to \"l/y\", which is missing"),
        ("behind a link to nothing", &["h a b; h b c"], "! layer 0: \"b\": hard link to \"c\", which is missing"),
        // Types.
        ("devices and FIFOs", &["c a x; b b; p c"], "a=0.1 b=0.2 c=0.3"),
        (
            "a whiteout device",
            &["f b; c a"],
            "! layer 0: \"a\": character device 0:0, which an overlay file system takes for a whiteout",
        ),
        ("a root that is a file", &["f "], "! layer 0: \"\": the root is not a directory"),
        ("a root that is a link", &["l  /canary"], "! layer 0: \"\": the root is not a directory"),
    ] {
        assert_eq!(merged(texts), tree, "{what}: {texts:?}");
    }
}

#[test]
fn the_root_is_0755_of_root_unless_an_entry_says_otherwise() {
    let without = layers(&["f a"]);
    let root = Tree::merge(&without).unwrap().root();
    assert_eq!((root.meta, root.entry, root.links), (IMPLICIT, None, 2));
    let with = layers(&["d ; f a", "d b; d ; d c"]);
    let tree = Tree::merge(&with).unwrap();
    assert_eq!((tree.root().meta.gid, tree.root().meta.uid, tree.root().links), (1, 2, 4));
}

#[test]
fn inodes_are_numbered_directory_by_directory() {
    let layers = layers(&["d b; f b/x; d b/d; f b/d/y; f a; f c; h b/z c"]);
    let tree = Tree::merge(&layers).unwrap();
    let number = |path: &[u8]| tree.find(path).unwrap().number;
    let paths: [&[u8]; 7] = [b"", b"a", b"b", b"c", b"b/d", b"b/x", b"b/d/y"];
    assert_eq!(paths.map(number), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!((number(b"b/z"), tree.len(), tree.names()), (3, 7, 7));
    assert_eq!(tree.nodes().map(|node| node.links).collect::<Vec<_>>(), [3, 1, 3, 2, 2, 1, 1]);
    assert!(tree.find(b"b/x/y").is_none() && tree.find(b"q").is_none());
}

/// Runs for a second at most in a debug build; anything quadratic would take hours.
#[test]
fn hostile_shapes_take_linear_time() {
    let n = 100_000;
    let path = |i: u32| format!("d/{i}");
    let mut below = Layer::default();
    let file = Kind::File { size: 0, extents: &[] };
    let push = |layer: &mut Layer, path: &str, kind: Kind<'_>| {
        layer.push(path.as_bytes(), kind, Meta::default(), []).unwrap();
    };
    (0..n).for_each(|i| push(&mut below, &path(i), file));
    // An opaque mark for each file of a directory, again and again.
    let mut opaque = Layer::default();
    (0..n).for_each(|_| push(&mut opaque, "d", Kind::Opaque));
    (0..n).for_each(|i| push(&mut opaque, &path(i), file));
    // A name that is a directory with a file, then a file, then a directory.
    let mut turns = Layer::default();
    for _ in 0..n {
        push(&mut turns, "t/x", file);
        push(&mut turns, "t", file);
    }
    let mut same = Layer::default();
    (0..n).for_each(|_| push(&mut same, "same", file));
    // A chain of links from the end.
    let mut chain = Layer::default();
    (1..n).for_each(|i| push(&mut chain, &format!("l{i}"), Kind::Hardlink(format!("l{}", i - 1).as_bytes())));
    push(&mut chain, "l0", file);
    // Names of two thousand directories.
    let mut deep = Layer::default();
    let parents = "p/".repeat(2000);
    (0..1000).for_each(|i| push(&mut deep, &format!("{parents}{i}"), file));
    let layers = [below, opaque.clone(), opaque, turns, same, chain, deep];
    let tree = Tree::merge(&layers).unwrap();
    assert_eq!(tree.names() as u32, 1 + n + 1 + 1 + n + 2000 + 1000);
    assert_eq!(tree.find(b"l7").unwrap().links, n);
}
