//! The same image in every format that it can come in, and go out in.

use std::fs;

use orlop_images::layout::{Image, Layout, Packing};
use orlop_images::recipes;
use orlop_images::tree::{Rules, Times, Tree};

use crate::oracle;
use crate::registry::two_platforms;
use crate::tool::{Backend, Tool, have};

fn make(tool: &Tool, packing: Packing) -> (Layout, Image) {
    let mut layout = Layout::new(tool.dir.join(format!("layout-{packing:?}")));
    let below = layout.layer(packing, recipes::everything);
    let above = layout.layer(packing, recipes::everything_changed);
    let image = layout.image("t", &[below, above], recipes::shell());
    (layout, image)
}

#[track_caller]
fn same(what: &str, one: &Tree, other: &Tree) {
    let differences = one.differences(other, &Rules::default());
    assert!(differences.is_empty(), "{what}: {differences:#?}");
}

#[test]
fn every_packing_is_the_same_tree_and_the_same_diff_ids() {
    let Some(tool) = Tool::new("packings") else { return };
    let mut first: Option<Tree> = None;
    for packing in Packing::ALL {
        let (layout, image) = make(&tool, packing);
        tool.must(&["pull", &layout.name("t")]);
        let tree = tool.tree(&image.id, Backend::Mount);
        match &first {
            Some(first) => same(&format!("{packing:?}"), first, &tree),
            None => first = Some(tree),
        }
    }
    // Three manifests of one configuration: one image, its layers stored once.
    assert_eq!(fs::read_dir(tool.store.join("layers")).unwrap().count(), 4, "two tars and two tables");
    tool.assert_sound();
    let ids = tool.images();
    assert_eq!(ids.len(), 1);
    assert!(tool.refused(&["rmi", &ids[0]]).contains("has 3 names"));
    let said = tool.must(&["rmi", "--force", &ids[0][..19]]);
    assert_eq!(said.matches("Untagged: ").count(), 3, "{said}");
    assert!(said.ends_with(&format!("Deleted: {}\n", ids[0])), "{said}");
    assert_eq!(fs::read_dir(tool.store.join("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn what_skopeo_makes_of_an_image_is_the_same_image() {
    let Some(tool) = Tool::new("skopeo") else { return };
    if !have("skopeo's formats", &["skopeo"]) {
        return;
    }
    let (layout, image) = make(&tool, Packing::Gzip);
    let source = layout.name("t");
    tool.must(&["pull", &source]);
    let want = tool.tree(&image.id, Backend::Mount);
    let path = |name: &str| tool.path(name);
    let formats: [(&str, String, &[&str]); 7] = [
        ("an oci-archive", format!("oci-archive:{}:t", path("oci.tar")), &[]),
        ("a docker-archive", format!("docker-archive:{}:registry.example/x:1", path("docker.tar")), &[]),
        ("a dir of Docker's manifest", format!("dir:{}", path("v2s2")), &["--format", "v2s2"]),
        ("a dir of OCI's manifest", format!("dir:{}", path("dir")), &["--format", "oci"]),
        ("zstd", format!("oci:{}:t", path("zstd")), &["--dest-compress-format", "zstd", "--dest-compress"]),
        ("a dir uncompressed", format!("dir:{}", path("plain")), &["--dest-decompress"]),
        ("a dir with zstd", format!("dir:{}", path("dz")), &["--dest-compress", "--dest-compress-format", "zstd"]),
    ];
    for (what, place, options) in formats {
        tool.other(&[&["skopeo", "copy", "-q", "--insecure-policy"], options, &[&source, &place]].concat());
        let own = tool.with_store(format!("store-{}", what.replace(' ', "-")));
        own.must(&["pull", "--name", "x:1", &place]);
        same(what, &want, &own.tree("x:1", Backend::Directory));
        own.assert_sound();
    }
}

#[test]
fn what_is_written_is_read_by_skopeo_and_umoci() {
    let Some(tool) = Tool::new("written") else { return };
    let (layout, image) = make(&tool, Packing::Gzip);
    tool.must(&["pull", &layout.name("t")]);
    let out = Layout::new(tool.dir.join("out"));
    tool.must(&["push", &image.id, &out.name("t")]);
    if let (Some(theirs), Some(again)) = (oracle::umoci(&tool, &layout, "t"), oracle::umoci(&tool, &out, "t")) {
        let differences = theirs.differences(&again, &Rules { times: Times::Ignored, ..Rules::default() });
        assert!(differences.is_empty(), "umoci of the layout that was pushed: {differences:#?}");
    }
    if !have("read by skopeo", &["skopeo"]) {
        return;
    }
    for place in [
        out.name("t"),
        format!("oci-archive:{}:t", tool.path("out.oci.tar")),
        format!("docker-archive:{}:registry.example/x:1", tool.path("out.docker.tar")),
        format!("dir:{}", tool.path("out.dir")),
    ] {
        tool.must(&["push", &image.id, &place]);
        let text = tool.other(&["skopeo", "inspect", "--raw", "--config", &place]);
        assert_eq!(orlop_images::layout::digest(text.trim_end().as_bytes())[7..], image.id, "{place}");
    }
}

#[test]
fn a_saved_image_is_loaded_as_the_same_image() {
    let Some(tool) = Tool::new("saved") else { return };
    let (layout, image) = make(&tool, Packing::Zstd);
    tool.must(&["pull", &layout.name("t")]);
    let want = tool.tree(&image.id, Backend::Mount);
    tool.must(&["tag", &image.id, "saved:1"]);
    let file = tool.path("saved.tar");
    tool.must(&["save", "-o", &file, "saved:1"]);
    let second = tool.with_store("second");
    second.must(&["load", "-i", &file]);
    assert_eq!(second.images(), tool.images()[..1]);
    same("the loaded image", &want, &second.tree("saved:1", Backend::Mount));
    second.assert_sound();
}

#[test]
fn an_index_is_saved_and_loaded_whole() {
    let Some(tool) = Tool::new("saved-index") else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let digest = two_platforms(&mut layout);
    let only = &["pull", "--platform", "linux/amd64", "--name", "saved:1", &layout.name("all")];
    tool.must(only);
    let file = tool.path("saved.tar");
    let save = ["save", "-o", &file, "--format", "oci-archive", "--all-platforms", "saved:1"];
    // Nothing is made of what is here in part, nor in a form that has one platform.
    assert!(tool.refused(&save).contains("linux/arm64"));
    tool.must(&[only, &["--all-platforms"][..]].concat());
    assert!(tool.refused(&["save", "-o", &file, "--all-platforms", "saved:1"]).contains("oci-archive"));
    assert!(!tool.dir.join("saved.tar").exists());

    // Two names of one index are one index.
    tool.must(&["tag", "saved:1", "saved:2"]);
    tool.must(&[&save[..], &["saved:2"]].concat());
    let second = tool.with_store("second");
    assert_eq!(second.must(&["load", "--all-platforms", "-i", &file]).matches("Loaded image: saved:").count(), 2);
    let again = Layout::new(tool.dir.join("again"));
    assert!(second.must(&["push", "--all-platforms", "saved:2", &again.name("t")]).contains(&digest));
    second.assert_sound();
    // Who asks for no more gets the one of this machine, which is no whole index.
    let third = tool.with_store("third");
    third.must(&["load", "-i", &file]);
    assert!(third.refused(&["push", "--all-platforms", "saved:2", &again.name("u")]).contains("--all-platforms"));
}

#[test]
fn a_folder_and_a_tar_are_images_of_one_layer() {
    let Some(tool) = Tool::new("rootfs") else { return };
    let folder = tool.dir.join("folder");
    fs::create_dir_all(folder.join("etc")).unwrap();
    fs::write(folder.join("etc/hostname"), "orlop\n").unwrap();
    fs::hard_link(folder.join("etc/hostname"), folder.join("etc/second")).unwrap();
    let want = Tree::of(&folder);
    let tar = tool.path("folder.tar");
    tool.other(&["tar", "--numeric-owner", "--format=posix", "-C", folder.to_str().unwrap(), "-cf", &tar, "."]);
    for (name, source) in [("folder:1", folder.to_str().unwrap()), ("tar:1", &tar)] {
        tool.must(&["import", "-c", "CMD [\"/bin/sh\"]", source, name]);
        for backend in Backend::BOTH {
            same(source, &want, &tool.tree(name, backend));
        }
    }
}

#[test]
fn an_import_with_changes_is_one_step_and_leaves_nothing_over() {
    let Some(tool) = Tool::new("import") else { return };
    fs::create_dir(tool.dir.join("folder")).unwrap();
    let blobs = || fs::read_dir(tool.store.join("blobs/sha256")).map_or(0, Iterator::count);
    tool.refused(&["import", "-c", "NOSUCH x", "folder", "app:1"]);
    assert_eq!(blobs(), 0);
    tool.must(&["import", "-c", "CMD [\"/app\"]", "-c", "ENV A=1 B=$A", "-m", "the first", "folder", "app:1"]);
    tool.must(&["import", "folder", "app:2"]);
    // Two configurations, two manifests, one layer.
    assert_eq!(blobs(), 5);
    for (name, comment) in [("app:1", "the first"), ("app:2", "Imported from folder")] {
        let steps = tool.must(&["history", "--format", "{{.CreatedBy}}|{{.Comment}}", name]);
        assert_eq!(steps, format!("|{comment}\n"));
    }
    let run = tool.must(&["inspect", "-f", "{{.Config.Cmd}} {{slice .Config.Env 1}}", "app:1"]);
    assert_eq!(run, "[/app] [A=1 B=]\n");
}
