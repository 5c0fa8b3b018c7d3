//! An image becomes one tree, whoever unpacks it: both backends, GNU tar, umoci, containerd.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use orlop_images::layout::{Layout, Packing};
use orlop_images::recipes;
use orlop_images::tar::{Entry, Tar, flag};
use orlop_images::tree::{Rules, Tree};
use orlop_integration::{long, skip};

use crate::oracle::{self, Containerd};
use crate::tool::{Backend, Tool, have};

#[track_caller]
fn same(what: &str, one: &Tree, other: &Tree, rules: &Rules) {
    let differences = one.differences(other, rules);
    assert!(differences.is_empty(), "{what}: {differences:#?}");
}

/// An archive of its own.
fn write(path: &Path, content: impl FnOnce(&mut Tar<&mut dyn Write>)) {
    let mut file = fs::File::create(path).unwrap();
    let mut tar = Tar::to(&mut file as &mut dyn Write);
    content(&mut tar);
    tar.end();
}

/// Folders of [`recipes::everything`] without an entry: other programs give them the time at which they were made.
const MADE: [&str; 4] = ["deep", "gnu", "prefix", "hard"];

fn without_made(mut rules: Rules) -> Rules {
    rules.without.extend(MADE);
    rules
}

/// Both trees of an image, which are the same.
#[track_caller]
fn both(tool: &Tool, image: &str) -> Tree {
    let mounted = tool.tree(image, Backend::Mount);
    same("the directory and the mount", &mounted, &tool.tree(image, Backend::Directory), &Rules::default());
    mounted
}

#[test]
fn everything_that_a_tar_can_say_is_there_in_both_backends_as_gnu_tar_has_it() {
    let Some(tool) = Tool::new("everything") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let content = |tar: &mut Tar<&mut dyn Write>| {
        recipes::everything(tar);
        recipes::sparse(tar);
    };
    let layer = layout.layer(Packing::Gzip, content);
    let image = layout.image("t", &[layer], recipes::shell());
    tool.must(&["pull", &layout.name("t")]);
    let tree = both(&tool, &image.id);
    assert!(tree.nodes.len() > 90, "{}", tree.nodes.len());

    if let Some(other) = oracle::fsck_erofs(&tool, &image.id) {
        same("fsck.erofs", &tree, &other, &oracle::as_fsck_erofs());
    }
    let archive = tool.dir.join("everything.tar");
    write(&archive, content);
    let rules = Rules { without: MADE.to_vec(), ..Rules::default() };
    if let Some(other) = oracle::gnu_tar(&tool, &archive) {
        same("GNU tar", &other, &tree, &rules);
    }
    tool.assert_sound();
}

#[test]
fn a_layer_upon_another_is_what_umoci_and_containerd_make_of_it() {
    let Some(tool) = Tool::new("upon") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let below = layout.layer(Packing::Gzip, recipes::everything);
    let above = layout.layer(Packing::Gzip, recipes::everything_changed);
    let image = layout.image("t", &[below, above], recipes::shell());
    tool.must(&["pull", &layout.name("t")]);
    let tree = both(&tool, &image.id);
    for gone in ["setuid", "hard/one", "time-of-a-folder/written-later"] {
        assert!(!tree.nodes.contains_key(gone.as_bytes()), "{gone} is still there");
    }
    assert_eq!(tree.nodes[&b"linked-from-above"[..]].first, b"linked-from-above");
    assert_eq!(tree.nodes[&b"ping"[..]].names, 2);
    if let Some(other) = oracle::fsck_erofs(&tool, &image.id) {
        same("fsck.erofs", &tree, &other, &oracle::as_fsck_erofs());
    }
    if let Some(other) = oracle::umoci(&tool, &layout, "t") {
        same("umoci", &other, &tree, &without_made(oracle::as_umoci()));
    }
    if let Some(containerd) = Containerd::new(&tool) {
        same("containerd", &containerd.tree(&tool, &layout), &tree, &without_made(oracle::as_containerd()));
    }
}

#[test]
fn attributes_of_a_hosts_administrator_are_left_out_in_both_backends_and_it_is_said() {
    let Some(tool) = Tool::new("trusted") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer(Packing::Gzip, |tar| {
        let xattrs: &[(&[u8], &[u8])] = &[(b"trusted.md5", b"x"), (b"user.kept", b"y"), (b"security.selinux", b"z")];
        tar.entry(&Entry { xattrs, ..Entry::new(flag::FILE, b"one") }, b"");
        tar.entry(&Entry { xattrs, ..Entry::new(flag::FILE, b"two") }, b"");
    });
    let image = layout.image("t", &[layer], recipes::shell());
    let said = tool.run(&["pull", &layout.name("t")]).must().err;
    let notes: Vec<_> = said.lines().filter(|line| line.contains("not kept")).collect();
    assert!(
        matches!(notes.as_slice(), [one] if one.ends_with(": trusted.md5: not kept on 2 names (\"one\")")),
        "{said}"
    );
    let tree = both(&tool, &image.id);
    assert_eq!(tree.nodes[&b"one"[..]].xattrs.keys().collect::<Vec<_>>(), ["user.kept"]);
    assert!(!tool.run(&["pull", "-q", &layout.name("t")]).must().err.contains("not kept"));
    // An import says it too.
    let archive = tool.path("trusted.tar");
    write(Path::new(&archive), |tar| {
        let xattrs: &[(&[u8], &[u8])] = &[(b"trusted.overlay.opaque", b"y")];
        tar.entry(&Entry { xattrs, ..Entry::new(flag::DIRECTORY, b"dir") }, b"");
    });
    let said = tool.run(&["import", &archive, "x:1"]).must().err;
    assert!(said.contains("trusted.overlay.opaque: not kept on 1 name (\"dir\")"), "{said}");
}

#[test]
fn holes_stay_holes_in_a_directory() {
    let Some(tool) = Tool::new("holes") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer(Packing::Zstd, recipes::sparse);
    let image = layout.image("t", &[layer], recipes::shell());
    tool.must(&["pull", &layout.name("t")]);
    let tree = tool.tree(&image.id, Backend::Directory);
    for name in ["sparse-1.0", "sparse-0.1", "sparse-0.0", "sparse-old"] {
        let node = &tree.nodes[name.as_bytes()];
        assert_eq!(node.size, 8 << 20, "{name}");
        assert!(node.blocks < 1 << 20, "{name} takes {} bytes", node.blocks);
        assert_eq!(node.content, tree.nodes[&b"sparse-1.0"[..]].content, "{name}");
    }
}

#[test]
fn many_small_files_are_what_gnu_tar_reads() {
    let Some(tool) = Tool::new("small") else { return };
    let (dirs, files) = if long() { (400, 125) } else { (80, 50) };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer(Packing::Gzip, |tar| recipes::small_files(tar, dirs, files));
    let image = layout.image("t", &[layer], recipes::shell());
    tool.must(&["pull", &layout.name("t")]);
    let tree = both(&tool, &image.id);
    let archive = tool.dir.join("small.tar");
    write(&archive, |tar| recipes::small_files(tar, dirs, files));
    if let Some(other) = oracle::gnu_tar(&tool, &archive) {
        same("GNU tar", &other, &tree, &Rules { root: false, ..Rules::default() });
    }
    if let Some(other) = oracle::umoci(&tool, &layout, "t") {
        same("umoci", &other, &tree, &oracle::as_umoci());
    }
}

#[test]
fn big_files_come_through_whole() {
    let Some(tool) = Tool::new("big") else { return };
    let (zeros, other) = if long() { (2 << 30, 200 << 20) } else { (40 << 20, 20 << 20) };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer(Packing::Gzip, |tar| recipes::big_files(tar, zeros, other));
    let image = layout.image("t", &[layer], recipes::shell());
    tool.must(&["pull", &layout.name("t")]);
    let tree = both(&tool, &image.id);
    assert_eq!(tree.nodes[&b"big/zeros"[..]].size, zeros);
    if let Some(other) = oracle::umoci(&tool, &layout, "t") {
        same("umoci", &other, &tree, &oracle::as_umoci());
    }
}

#[test]
fn a_hole_of_more_than_four_gibibytes_is_read_from_both_ends() {
    const SIZE: u64 = 5 << 30;
    let Some(tool) = Tool::new("large-hole") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer(Packing::Gzip, |tar| {
        let map = format!("2\n0\n512\n{}\n3\n", SIZE - 3);
        let mut body = map.into_bytes();
        body.resize(512, 0);
        body.extend_from_slice(b"start");
        body.resize(1024, 0);
        body.extend_from_slice(b"end");
        let size = SIZE.to_string();
        tar.pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", &size)]);
        tar.entry(&Entry::new(flag::FILE, b"hole"), &body);
    });
    let image = layout.image("t", &[layer], recipes::shell());
    tool.must(&["pull", &layout.name("t")]);
    for backend in Backend::BOTH {
        let bundle = tool.path(backend.name());
        tool.must(&["create", "--backend", backend.name(), &image.id, &bundle]);
        let file = PathBuf::from(&bundle).join("rootfs/hole");
        assert_eq!(fs::metadata(&file).unwrap().len(), SIZE);
        let piece = |at: u64| {
            use std::os::unix::fs::FileExt;
            let mut bytes = [1; 5];
            fs::File::open(&file).unwrap().read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        assert_eq!(piece(0), *b"start");
        assert_eq!(piece(4 << 30), [0; 5]);
        assert_eq!(piece(SIZE - 5), *b"\0\0end");
        tool.must(&["rm", &bundle]);
    }
}

/// A Debian root as a tar, made once by mmdebstrap.
fn debian(tool: &Tool) -> Option<PathBuf> {
    have("a Debian root", &["mmdebstrap"]).then_some(())?;
    let tar = tool.dir.parent().unwrap().join("debian.tar");
    let lock = fs::File::create(tar.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !tar.exists() {
        let partial = tar.with_extension("partial.tar");
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "400", "mmdebstrap", "--variant=minbase", "bookworm"]).arg(&partial);
        let ran = tool.ran(command);
        if !ran.ok() {
            skip(&format!("a Debian root: mmdebstrap: {}", ran.err.lines().last().unwrap_or_default()));
            return None;
        }
        fs::rename(partial, &tar).unwrap();
    }
    Some(tar)
}

#[test]
fn a_debian_root_is_what_gnu_tar_umoci_and_containerd_unpack() {
    let Some(tool) = Tool::new("debian") else { return };
    let Some(archive) = debian(&tool) else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer_of(Packing::Gzip, &fs::read(&archive).unwrap());
    let image = layout.image("t", &[layer], recipes::shell());
    tool.must(&["pull", &layout.name("t")]);
    let tree = both(&tool, &image.id);
    assert!(tree.nodes.len() > 2000);
    if let Some(other) = oracle::gnu_tar(&tool, &archive) {
        same("GNU tar", &other, &tree, &Rules { root: false, ..Rules::default() });
    }
    if let Some(other) = oracle::umoci(&tool, &layout, "t") {
        same("umoci", &other, &tree, &oracle::as_umoci());
    }
    if let Some(containerd) = Containerd::new(&tool) {
        same("containerd", &containerd.tree(&tool, &layout), &tree, &oracle::as_containerd());
    }
    // The tar alone is an image too.
    tool.must(&["import", "-c", "CMD [\"/bin/sh\"]", archive.to_str().unwrap(), "debian:1"]);
    same("the tar as an image", &tree, &tool.tree("debian:1", Backend::Mount), &Rules::default());
}
