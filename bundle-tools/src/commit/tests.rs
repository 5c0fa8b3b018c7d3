//! Real overlay mounts and real directories, changed by a shell, with GNU tar as the oracle of what is there.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::Command;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::*;
use crate::diff;
use crate::digest::Digest;
use crate::directory::scratch::{Item, Scratch, scanned, stored};
use crate::directory::{self, remove_tree};
use crate::layer::Layer;
use crate::tree::Content;

/// An overlay mount of the directories `lower`, `upper` and `work` in the scratch directory, attached nowhere. `None`
/// where that is not possible.
fn overlay(scratch: &Scratch) -> Option<OwnedFd> {
    let mount = || {
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
            rustix::mount::fsconfig_set_string(&fs, key, format!("{}/{name}", scratch.0.display()))?;
        }
        rustix::mount::fsconfig_create(&fs)?;
        rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: mounting needs root");
        return None;
    }
    mount().inspect_err(|e| eprintln!("SKIP: no overlay mount here: {e}")).ok()
}

/// Runs `script` in a directory.
fn shell(at: &impl AsRawFd, script: &str) {
    let run =
        Command::new("sh").args(["-euc", script]).current_dir(format!("/proc/self/fd/{}", at.as_raw_fd())).output();
    let out = run.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// What GNU tar finds in a directory.
fn seen(at: &impl AsRawFd) -> (Layer, Vec<u8>) {
    let tar = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "--format=pax", "-cf", "-", "."])
        .current_dir(format!("/proc/self/fd/{}", at.as_raw_fd()))
        .output()
        .unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    (scanned(&tar.stdout), tar.stdout)
}

/// A line for each name of a tree: everything that an image says of it, times in seconds.
fn lines(layers: &[Layer], tars: &[Vec<u8>]) -> Vec<String> {
    let tree = Tree::merge(layers).unwrap();
    let (mut lines, mut todo) = (Vec::new(), vec![(String::from("."), 0)]);
    while let Some((path, number)) = todo.pop() {
        let node = tree.node(number);
        let what = match node.content {
            Content::Directory => "directory".to_owned(),
            Content::File { layer, size, extents } => {
                let mut content = vec![0; size as usize];
                for extent in extents {
                    let (at, from, len) = (extent.at as usize, extent.from as usize, extent.len as usize);
                    content[at..at + len].copy_from_slice(&tars[layer][from..from + len]);
                }
                format!("file {size} {} links {}", Digest::of(&content).short(), node.links)
            }
            other => format!("{other:?}"),
        };
        let attributes: Vec<_> =
            node.xattrs().map(|(n, v)| format!("{}={}", n.escape_ascii(), v.escape_ascii())).collect();
        let m = node.meta;
        lines.push(format!("{path} {what} {:o} {}:{} {} {attributes:?}", m.mode, m.uid, m.gid, m.mtime.sec));
        let name = |name: &[u8]| format!("{path}/{}", name.escape_ascii());
        todo.extend(tree.children(number).map(|(child, number)| (name(child), number)));
    }
    lines.sort();
    lines
}

fn base() -> Vec<Item<'static>> {
    vec![
        Item::dir("", 0o755),
        Item::dir("bin", 0o755),
        Item::file("bin/tool", 0o755, b"tool").xattr("user.k", b"old"),
        Item::file("bin/other", 0o755, b"other"),
        Item::file("bin/same", 0o755, b"same"),
        Item::dir("etc", 0o755),
        Item::file("etc/config", 0o644, b"a=1"),
        Item::file("etc/gone", 0o644, b"x"),
        Item::dir("etc/gone.d", 0o755),
        Item::file("etc/gone.d/x", 0o644, b"x"),
        Item::file("etc/linked", 0o644, b"linked"),
        Item::new("etc/linked2", Kind::Hardlink(b"etc/linked")),
        Item::dir("etc/opaque", 0o755),
        Item::file("etc/opaque/old", 0o644, b"x"),
        Item::file("etc/opaque/kept", 0o644, b"x"),
        Item::dir("etc/opaque/deep", 0o755),
        Item::file("etc/opaque/deep/old", 0o644, b"x"),
        Item::dir("many", 0o755),
        Item::file("many/one", 0o644, b"1"),
        Item::new("link", Kind::Symlink(b"bin")),
        Item::new("null", Kind::Char { major: 1, minor: 3 }),
        Item::dir("quiet", 0o700).owner(5, 5),
        Item::file("quiet/file", 0o600, b"quiet").owner(5, 5),
        Item::file("swap-file", 0o644, b"x"),
        Item::dir("swap-dir", 0o755),
        Item::file("swap-dir/x", 0o644, b"x"),
        Item::dir("tmp", 0o1777),
    ]
}

const CHANGES: &str = r#"
echo new > added
ln added added2
ln added etc/added3
printf x >> bin/tool
chmod 4711 bin/other
printf longer > etc/config
rm etc/gone
rm -r etc/gone.d
printf more >> etc/linked
rm -r etc/opaque
mkdir etc/opaque etc/opaque/deep
echo y > etc/opaque/kept
echo z > etc/opaque/deep/new
rm link
ln -s /elsewhere link
mkfifo fifo
mknod zero c 1 5
mknod loop b 7 0
rm null
mkdir -p new/er/est
chmod 2750 new/er
chown 7:8 new/er
printf 'secret' > new/er/est/file
chmod 0000 new/er/est/file
chown 100000:100001 new/er/est/file
touch -d @1600000000.5 new/er/est/file
rm swap-file
mkdir swap-file
echo in > swap-file/in
rm -r swap-dir
echo flat > swap-dir
truncate -s 1000000 sparse
printf end >> sparse
touch "odd
name" "$(printf 'by\377te')"
touch tmp/file
rm tmp/file
"#;

const DIFF: &str = "\
A /added
A /added2
C /bin
C /bin/other
C /bin/tool
C /etc
A /etc/added3
C /etc/config
D /etc/gone
D /etc/gone.d
C /etc/linked
C /etc/linked2
C /etc/opaque
C /etc/opaque/deep
A /etc/opaque/deep/new
D /etc/opaque/deep/old
C /etc/opaque/kept
D /etc/opaque/old
A /fifo
C /link
A /loop
A /new
A /new/er
A /new/er/est
A /new/er/est/file
D /null
A /odd\\nname
A /sparse
C /swap-dir
C /swap-file
A /swap-file/in
C /tmp
A /zero";

fn shown(changes: &[diff::Change]) -> String {
    let odd = |line: &String| !line.contains("by\u{fffd}te");
    changes.iter().map(ToString::to_string).filter(odd).collect::<Vec<_>>().join("\n")
}

/// The layer of changes that `write` writes, as bytes.
fn committed(
    write: impl FnOnce(&mut tar::Writer<Scanned<Vec<u8>>>) -> Result<Summary>,
) -> Result<(Vec<u8>, Layer, Summary)> {
    let mut writer = tar::Writer::new(Scanned::new(Vec::new()));
    let summary = write(&mut writer)?;
    let (bytes, layer) = writer.finish()?.finish()?;
    assert_eq!(scanned(&bytes), layer);
    Ok((bytes, layer, summary))
}

/// A base in a directory of the scratch directory, and its tar and table.
fn base_in(scratch: &Scratch, name: &str) -> (Dir, Vec<u8>, File, Layer, Time) {
    let (tar, table) = stored(scratch, &base());
    let mut bytes = vec![0; usize::try_from(table.tar_size).unwrap()];
    tar.read_exact_at(&mut bytes, 0).unwrap();
    let target = scratch.dir().make_dir(name).unwrap();
    let layers = [table];
    let written =
        directory::write(&Tree::merge(&layers).unwrap(), std::slice::from_ref(&tar), &target, &Owners::Keep).unwrap();
    let [table] = layers;
    (target, bytes, tar, table, written.finished)
}

#[test]
fn an_image_and_a_commits_layer_are_what_the_overlay_mount_showed() {
    let scratch = Scratch::new();
    scratch.dir().make_dir("work").unwrap();
    let upper_dir = scratch.dir().make_dir("upper").unwrap();
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIP: mounting needs root");
    }
    let (lower, base_bytes, _, table, _) = base_in(&scratch, "lower");
    // As the mounter must: the upper directory's attributes are the root's.
    rustix::fs::fchmod(&upper_dir, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    drop(lower);
    let Some(mount) = overlay(&scratch) else { return };
    shell(&mount, CHANGES);
    let root = Dir::from(mount.try_clone().unwrap());
    let file = root.file("bin/tool").unwrap();
    rustix::fs::fsetxattr(&file, "user.k", b"new", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::fsetxattr(&file, "security.capability", CAPABILITY, rustix::fs::XattrFlags::empty()).unwrap();
    drop((file, root));
    let (view, view_bytes) = seen(&mount);
    drop(mount);

    let layers = [table];
    let tree = Tree::merge(&layers).unwrap();
    let options = Options::default();
    let (bytes, layer, summary) = committed(|writer| upper(&upper_dir, &tree, writer, &options)).unwrap();
    // A file that is written has its own inode from then on.
    let expected = DIFF.replace("C /etc/linked2\n", "");
    assert_eq!(shown(&diff::upper(&upper_dir, &tree, &options).unwrap()), expected);
    assert_eq!(summary.notes, Vec::<String>::new());
    let (again, _, _) = committed(|writer| upper(&upper_dir, &tree, writer, &options)).unwrap();
    assert_eq!(bytes, again);
    let [table] = layers;
    assert_eq!(lines(&[table, layer], &[base_bytes, bytes]), lines(&[view], &[view_bytes]));
}

const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
fn an_image_and_the_layer_of_a_changed_directory_are_that_directory() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIP: making devices and giving files away needs root");
    }
    let scratch = Scratch::new();
    let (root, base_bytes, tar, table, finished) = base_in(&scratch, "root");
    let layers = [table];
    let tree = Tree::merge(&layers).unwrap();
    let tars = [tar];
    let options = Options::default();
    for created in [Some(finished), None] {
        let (_, layer, summary) = committed(|writer| compare(&root, &tree, &tars, created, writer, &options)).unwrap();
        assert_eq!((layer.len(), summary.entries), (0, 0), "{:?}", layer.entries().collect::<Vec<_>>());
    }

    shell(&std::os::fd::AsFd::as_fd(&root), CHANGES);
    // The size and the time are the old ones.
    shell(
        &std::os::fd::AsFd::as_fd(&root),
        "printf SAME > bin/same; touch -d @1700000000 bin/same; touch -d @1700000000 bin",
    );
    // Touched, and as it was.
    shell(&std::os::fd::AsFd::as_fd(&root), "chmod 0644 quiet/file; chmod 0600 quiet/file");
    let (view, view_bytes) = seen(&std::os::fd::AsFd::as_fd(&root));
    for created in [Some(finished), None] {
        let (bytes, layer, _) = committed(|writer| compare(&root, &tree, &tars, created, writer, &options)).unwrap();
        let found = shown(&diff::compare(&root, &tree, &tars, created, &options).unwrap());
        assert_eq!(found, DIFF.replace("C /bin/tool", "C /bin/same\nC /bin/tool"));
        let merged = lines(&[layers[0].clone(), layer], &[base_bytes.clone(), bytes]);
        assert_eq!(merged, lines(std::slice::from_ref(&view), std::slice::from_ref(&view_bytes)));
    }
}

#[test]
fn what_was_made_to_be_mounted_on_is_no_change() {
    let scratch = Scratch::new();
    let (_, table) =
        stored(&scratch, &[Item::dir("", 0o755), Item::dir("etc", 0o755), Item::file("etc/hostname", 0o644, b"")]);
    let root = scratch.dir().make_dir("upper").unwrap();
    shell(
        &std::os::fd::AsFd::as_fd(&root),
        "mkdir -p etc run/secrets proc data; touch etc/hosts etc/hostname run/secrets/key; echo > proc/own; chmod 755 . etc
         touch -d @1700000001 etc .; [ $(id -u) != 0 ] || chown 0:0 . etc",
    );
    let names = ["etc/hosts", "etc/hostname", "run/secrets/key", "proc", "data"];
    let destinations = names.iter().map(|name| format!("/{name}")).collect();
    let owners = Owners::Rootless;
    let layers = [table];
    let tree = Tree::merge(&layers).unwrap();
    let options = Options { destinations, owners, overlay: OverlayAttributes::User, ..Options::default() };
    assert_eq!(shown(&diff::upper(&root, &tree, &options).unwrap()), "C /etc\nC /etc/hostname\nA /proc\nA /proc/own");
    shell(&std::os::fd::AsFd::as_fd(&root), "rm etc/hostname proc/own");
    assert_eq!(shown(&diff::upper(&root, &tree, &options).unwrap()), "");
    let (_, layer, _) = committed(|writer| upper(&root, &tree, writer, &options)).unwrap();
    assert!(layer.is_empty());
}

#[test]
fn a_name_that_would_hide_another_is_refused() {
    let scratch = Scratch::new();
    let root = scratch.dir().make_dir("upper").unwrap();
    let tree = Tree::merge(&[]).unwrap();
    let options = Options { overlay: OverlayAttributes::User, ..Options::default() };
    for name in [".wh.x", ".wh..wh..opq", ".wh."] {
        let dir = root.make_dir("a").unwrap();
        dir.create(name).unwrap();
        let said = committed(|writer| upper(&root, &tree, writer, &options)).unwrap_err().to_string();
        assert!(said.starts_with(&format!("\"a/{name}\": no file can")), "{said}");
        remove_tree(&root, "a").unwrap();
    }
}

#[test]
fn whiteouts_may_be_attributes_and_many_are_one_mark() {
    let scratch = Scratch::new();
    let names: Vec<String> = (0..100).map(|n| format!("d/{n:03}")).collect();
    let mut items = vec![Item::dir("d", 0o755), Item::file("kept", 0o644, b"x"), Item::file("other", 0o644, b"x")];
    items.extend(names.iter().map(|name| Item::file(name, 0o644, b"x")));
    let (_, table) = stored(&scratch, &items);
    let root = scratch.dir().make_dir("upper").unwrap();
    let set = |at: &Dir, name: &str, value: &[u8]| {
        rustix::fs::fsetxattr(at, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    let dir = root.make_dir("d").unwrap();
    set(&dir, "user.overlay.opaque", b"y");
    set(&dir, "user.mine", b"1");
    dir.create("050").unwrap();
    for (name, value) in [("other", &b""[..]), ("never", b"")] {
        let file = root.create(name).unwrap();
        rustix::fs::fsetxattr(&file, "user.overlay.whiteout", value, rustix::fs::XattrFlags::empty()).unwrap();
    }
    let layers = [table];
    let tree = Tree::merge(&layers).unwrap();
    let options = Options { overlay: OverlayAttributes::User, ..Options::default() };
    let (_, layer, summary) = committed(|writer| upper(&root, &tree, writer, &options)).unwrap();
    let found: Vec<_> = layer.entries().map(|entry| (entry.path.escape_ascii().to_string(), entry.kind)).collect();
    assert_eq!(found.len(), 5, "{found:?}");
    assert_eq!(found[1], ("d".to_owned(), Kind::Directory));
    assert_eq!(found[2], ("d".to_owned(), Kind::Opaque));
    assert_eq!(found[3].0, "d/050");
    assert_eq!(found[4], ("other".to_owned(), Kind::Whiteout));
    assert_eq!(layer.get(1).unwrap().xattrs.iter().collect::<Vec<_>>(), [(&b"user.mine"[..], &b"1"[..])]);
    assert_eq!(summary.removed, 100);

    set(&dir, "user.overlay.redirect", b"/x");
    let said = committed(|writer| upper(&root, &tree, writer, &options)).unwrap_err();
    assert_eq!(said.kind(), crate::error::ErrorKind::Unsupported);
}

#[test]
fn hostile_things_are_left_out_or_refused_and_nothing_is_followed() {
    let scratch = Scratch::new();
    let root = scratch.dir().make_dir("upper").unwrap();
    let dir = root.make_dir("d").unwrap();
    rustix::fs::symlinkat("/etc", &root, "out").unwrap();
    rustix::fs::symlinkat("loop", &root, "loop").unwrap();
    rustix::fs::mkfifoat(&root, "fifo", rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(format!("{}/upper/sock", scratch.0.display())).unwrap();
    let tree = Tree::merge(&[]).unwrap();
    let options = Options { overlay: OverlayAttributes::User, epoch: Some(1000), ..Options::default() };
    let (_, layer, summary) = committed(|writer| upper(&root, &tree, writer, &options)).unwrap();
    let names: Vec<_> = layer.entries().map(|entry| entry.path.escape_ascii().to_string()).collect();
    assert_eq!(names, ["", "d", "fifo", "loop", "out"]);
    assert!(layer.entries().all(|entry| entry.meta.mtime == Time { sec: 1000, nsec: 0 }));
    assert_eq!(summary.notes, ["1 name left out: a socket can't be in an image (\"sock\")"]);

    let mut at = dir;
    for _ in 0..60 {
        at = at.make_dir(&"d".repeat(100)).unwrap();
    }
    let said = committed(|writer| upper(&root, &tree, writer, &options)).unwrap_err().to_string();
    assert!(said.ends_with("its name is longer than 4095 bytes"), "{said}");
}

#[test]
fn directories_are_opened_again_when_too_many_were_open() {
    let scratch = Scratch::new();
    let root = scratch.dir().make_dir("upper").unwrap();
    let mut at = root.again().unwrap();
    for depth in 0..100 {
        at.create("z").unwrap();
        at.create("a").unwrap();
        if depth % 2 == 0 {
            at.make_dir("c").unwrap().create("x").unwrap();
        }
        at = at.make_dir("b").unwrap();
    }
    let tree = Tree::merge(&[]).unwrap();
    let options = Options { overlay: OverlayAttributes::User, ..Options::default() };
    let (_, layer, summary) = committed(|writer| upper(&root, &tree, writer, &options)).unwrap();
    assert_eq!(layer.len(), 1 + 100 * 3 + 50 * 2);
    assert_eq!(summary.notes, Vec::<String>::new());
}

#[test]
fn a_sealed_layer_has_the_digests_of_what_was_written() {
    let tar: Vec<u8> = (0..600_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    for compression in
        [crate::image::Compression::None, crate::image::Compression::Gzip, crate::image::Compression::Zstd]
    {
        let (mut stored, mut blob) = (Vec::new(), Vec::new());
        let sealed = seal(&*tar, &mut stored, Target { compression, level: None, to: &mut blob }).unwrap();
        assert!(stored == tar);
        assert_eq!((sealed.diff_id, sealed.tar_size), (Digest::of(&tar), tar.len() as u64));
        if compression == crate::image::Compression::None {
            assert!(blob.is_empty());
            assert_eq!((sealed.digest, sealed.size), (sealed.diff_id, sealed.tar_size));
            continue;
        }
        assert_eq!((sealed.digest, sealed.size), (Digest::of(&blob), blob.len() as u64));
        assert!(blob.len() < tar.len());
        let bound = crate::compress::Bound::NONE;
        let mut decoder = crate::compress::Decoder::new(compression, &*blob, bound).unwrap();
        let (mut unpacked, mut buffer) = (Vec::new(), vec![0; 65536]);
        loop {
            let n = decoder.read(&mut buffer).unwrap();
            if n == 0 {
                break;
            }
            unpacked.extend_from_slice(&buffer[..n]);
        }
        assert!(unpacked == tar);
    }
}

#[test]
fn a_tar_that_cannot_be_stored_is_an_error() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(rustix::io::Errno::NOSPC)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let tar = vec![1; 20 << 20];
    for room in [0, 1 << 20] {
        let target = Target { compression: crate::image::Compression::Gzip, level: Some(1), to: Vec::new() };
        let said = seal(&*tar, Full(room), target).unwrap_err().to_string();
        assert_eq!(said, "write the layer's tar: no space left on device");
    }
    let target = Target { compression: crate::image::Compression::Gzip, level: Some(1), to: Full(10) };
    let said = seal(&*tar, Vec::new(), target).unwrap_err().to_string();
    assert!(said.ends_with("no space left on device"), "{said}");
}
