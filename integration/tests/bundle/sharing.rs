//! What images share is there once; what nobody needs goes; many at once, and an end at any time, do no harm.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use orlop_images::layout::{Layout, Packing};
use orlop_images::recipes;
use orlop_images::tree::{Rules, Tree};
use orlop_integration::long;

use crate::oracle;
use crate::tool::{Backend, Tool};

fn tars(tool: &Tool) -> usize {
    let names = fs::read_dir(tool.store.join("layers")).unwrap().flatten();
    names.filter(|entry| entry.path().extension().is_some_and(|e| e == "tar")).count()
}

#[test]
fn five_images_upon_one_base_have_it_once_and_give_it_back_at_last() {
    let Some(tool) = Tool::new("shared") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let (base, _) = recipes::shared_base(&mut layout, Packing::Gzip, 20, 20);
    for app in 0..5 {
        tool.must(&["pull", "--name", &format!("app{app}:1"), &layout.name(&format!("app{app}"))]);
    }
    assert_eq!(tars(&tool), 6);
    assert_eq!(tool.images().len(), 5);
    for app in 0..4 {
        tool.must(&["rmi", &format!("app{app}:1")]);
    }
    tool.must(&["prune", "-f"]);
    assert_eq!(tars(&tool), 2);
    let digest = base.diff_id.trim_start_matches("sha256:");
    assert!(tool.store.join(format!("layers/{digest}.tar")).exists());
    tool.assert_sound();
    assert!(tool.tree("app4:1", Backend::Mount).nodes.contains_key(&b"srv/app4"[..]));
    tool.must(&["rmi", "app4:1"]);
    tool.must(&["prune", "-f"]);
    assert_eq!(tars(&tool), 0);
    assert_eq!(fs::read_dir(tool.store.join("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn an_image_stays_while_a_bundle_is_made_of_it() {
    let Some(tool) = Tool::new("in-use") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    recipes::shared_base(&mut layout, Packing::Gzip, 2, 2);
    tool.must(&["pull", "--name", "app:1", &layout.name("app0")]);
    let bundle = tool.path("bundle");
    tool.must(&["create", "--backend", "mount", "app:1", &bundle]);
    tool.run(&["rmi", "app:1"]);
    tool.must(&["prune", "-a", "-f"]);
    // All of it can still be read.
    assert!(Tree::of(&Path::new(&bundle).join("rootfs")).nodes.contains_key(&b"srv/app0"[..]));
    tool.must(&["rm", &bundle]);
    tool.run(&["rmi", "app:1"]);
    tool.must(&["prune", "-a", "-f"]);
    assert_eq!(tars(&tool), 0);
}

/// Changes of every kind to a root of [`recipes::everything`].
fn change(root: &Path) {
    fs::remove_file(root.join("setuid")).unwrap();
    fs::remove_dir_all(root.join("hard")).unwrap();
    fs::create_dir(root.join("hard")).unwrap();
    fs::write(root.join("hard/new"), "anew").unwrap();
    fs::remove_file(root.join("empty")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("empty/x"), "x").unwrap();
    fs::write(root.join("attributes"), "written over").unwrap();
    fs::set_permissions(root.join("ping"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(root.join("ping"), root.join("ping2")).unwrap();
    symlink("new/../target", root.join("new-link")).unwrap();
    fs::rename(root.join("time-zero"), root.join("moved")).unwrap();
    fs::write(root.join("big"), vec![b'z'; 3 << 20]).unwrap();
    std::os::unix::fs::lchown(root.join("link"), Some(77), Some(78)).unwrap();
}

#[test]
fn a_committed_bundle_becomes_an_image_of_the_same_tree() {
    let Some(tool) = Tool::new("commit") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer(Packing::Gzip, recipes::everything);
    layout.image("t", &[layer], recipes::shell());
    tool.must(&["pull", "--name", "base:1", &layout.name("t")]);
    // Layers keep times to the second, and a folder's time changes with what is made in it.
    let rules = Rules { times: orlop_images::tree::Times::Seconds, directory_times: false, ..Rules::default() };
    for backend in Backend::BOTH {
        let bundle = tool.path(backend.name());
        tool.must(&["create", "--backend", backend.name(), "base:1", &bundle]);
        let root = Path::new(&bundle).join("rootfs");
        change(&root);
        let want = Tree::of(&root);
        let diff = tool.must(&["diff", &bundle]);
        for line in ["D /setuid", "A /new-link", "A /moved", "D /time-zero", "C /attributes", "A /hard/new"] {
            assert!(diff.lines().any(|l| l == line), "{} backend: no {line:?} in {diff}", backend.name());
        }
        for (compression, name) in [("gzip", "mine:gzip"), ("zstd", "mine:zstd"), ("none", "mine:none")] {
            tool.must(&["commit", "--compression", compression, "-m", "changed", &bundle, name]);
            // An overlay that has copied a file up counts the names that it has below, and not those that it has above.
            let rules = Rules { links: backend == Backend::Directory, ..rules.clone() };
            for again in Backend::BOTH {
                let differences = want.differences(&tool.tree(name, again), &rules);
                assert!(
                    differences.is_empty(),
                    "{} committed, {name} {}: {differences:#?}",
                    backend.name(),
                    again.name()
                );
            }
        }
        let out = Layout::new(tool.dir.join(format!("out-{}", backend.name())));
        tool.must(&["push", "mine:gzip", &out.name("t")]);
        if let Some(other) = oracle::umoci(&tool, &out, "t") {
            let rules = Rules { without: vec!["deep", "gnu", "prefix", "hard"], ..oracle::as_umoci() };
            let rules = Rules { directory_times: false, links: backend == Backend::Directory, ..rules };
            let differences = want.differences(&other, &rules);
            assert!(differences.is_empty(), "umoci of what the {} became: {differences:#?}", backend.name());
        }
        tool.must(&["rm", &bundle]);
    }
    tool.assert_sound();
}

#[test]
fn the_same_changes_make_the_same_layer() {
    let Some(tool) = Tool::new("reproducible") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer(Packing::Gzip, recipes::everything);
    layout.image("t", &[layer], recipes::shell());
    tool.must(&["pull", "--name", "base:1", &layout.name("t")]);
    for round in ["one", "two"] {
        let bundle = tool.path(round);
        tool.must(&["create", "--backend", "mount", "base:1", &bundle]);
        change(&Path::new(&bundle).join("rootfs"));
        let mut command = tool.command(&["commit", &bundle, &format!("{round}:1")]);
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        tool.ran(command).must();
        tool.must(&["rm", &bundle]);
    }
    let id = |name: &str| tool.must(&["images", "--quiet", "--no-trunc", name]);
    assert_eq!(id("one:1"), id("two:1"));
}

#[test]
fn a_name_that_means_a_whiteout_is_not_committed() {
    let Some(tool) = Tool::new("commit-wh") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer(Packing::Gzip, |tar| {
        tar.file("x", "");
    });
    layout.image("t", &[layer], recipes::shell());
    tool.must(&["pull", "--name", "base:1", &layout.name("t")]);
    for backend in Backend::BOTH {
        let bundle = tool.path(backend.name());
        tool.must(&["create", "--backend", backend.name(), "base:1", &bundle]);
        fs::write(Path::new(&bundle).join("rootfs/.wh.x"), "").unwrap();
        let said = tool.refused(&["commit", &bundle, "mine:1"]);
        assert!(said.contains(".wh.x"), "{said}");
        tool.must(&["rm", &bundle]);
    }
    assert_eq!(tool.images().len(), 1);
}

#[test]
fn many_pulls_at_once_leave_one_sound_store() {
    let Some(tool) = Tool::new("at-once") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    recipes::shared_base(&mut layout, Packing::Gzip, 20, 20);
    let mut children = Vec::new();
    for n in 0..10 {
        let name = format!("app{}:{n}", n % 5);
        let mut command = tool.command(&["pull", "--quiet", "--name", &name, &layout.name(&format!("app{}", n % 5))]);
        children.push(command.stdin(std::process::Stdio::null()).spawn().unwrap());
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(tars(&tool), 6);
    tool.assert_sound();
    assert_eq!(fs::read_dir(tool.store.join("incoming")).unwrap().count(), 0);
}

#[test]
fn a_pull_that_is_killed_at_any_time_leaves_a_store_that_works() {
    let Some(tool) = Tool::new("killed") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    recipes::shared_base(&mut layout, Packing::Gzip, 40, 40);
    let rounds = if long() { 100 } else { 20 };
    for round in 0..rounds {
        let own = tool.with_store(format!("store{round}"));
        let mut command = own.command(&["pull", "--quiet", "--name", "app:1", &layout.name("app0")]);
        // `timeout` is the child: its group is killed, the program's worker with it.
        use std::os::unix::process::CommandExt;
        let mut child = command.process_group(0).stdin(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 4));
        let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = child.wait();
        own.assert_sound();
        own.must(&["pull", "--quiet", "--name", "app:1", &layout.name("app0")]);
        own.assert_sound();
        if round % 5 == 0 {
            assert!(own.tree("app:1", Backend::Mount).nodes.len() > 1600);
        }
        own.must(&["rmi", "app:1"]);
        own.must(&["prune", "-a", "-f"]);
        for dir in ["blobs/sha256", "layers", "trees", "incoming"] {
            let left: Vec<_> = fs::read_dir(own.store.join(dir)).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "{dir} after a kill at {} ms: {left:?}", round * 4);
        }
    }
}

#[test]
fn verify_finds_a_changed_byte_and_a_repair_with_a_pull_mends_it() {
    let Some(tool) = Tool::new("verify") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    recipes::shared_base(&mut layout, Packing::Gzip, 4, 4);
    let pull = || tool.must(&["pull", "--name", "app:1", &layout.name("app0")]);
    pull();
    let want = tool.tree("app:1", Backend::Mount);
    for folder in ["blobs/sha256", "layers"] {
        for entry in fs::read_dir(tool.store.join(folder)).unwrap().flatten() {
            let path = entry.path();
            let Ok(mut bytes) = fs::read(&path) else { continue };
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
            let ran = tool.run(&["verify"]);
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(!ran.ok(), "{} changed and verify is content", path.display());
            assert!((ran.out + &ran.err).contains(&name[..12]), "verify does not name {name}");
            tool.run(&["verify", "--repair"]);
            pull();
            tool.assert_sound();
        }
    }
    let differences = want.differences(&tool.tree("app:1", Backend::Mount), &Rules::default());
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn nothing_stays_mounted() {
    let Some(tool) = Tool::new("mounts") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    recipes::shared_base(&mut layout, Packing::Gzip, 2, 2);
    tool.must(&["pull", "--name", "app:1", &layout.name("app0")]);
    let mounts = || {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(tool.dir.to_str().unwrap())).count()
    };
    assert_eq!(mounts(), 0);
    let bundle = tool.path("bundle");
    tool.must(&["create", "--backend", "mount", "app:1", &bundle]);
    assert_eq!(mounts(), 1, "one mount a bundle");
    assert_eq!(
        fs::metadata(&bundle).unwrap().mode() & 0o7777,
        0o700,
        "others on the host must not reach its setuid files"
    );
    tool.must(&["unmount", &bundle]);
    assert_eq!(mounts(), 0);
    tool.must(&["rm", &bundle]);
    assert!(!Path::new(&bundle).exists());
}
