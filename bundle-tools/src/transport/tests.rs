//! Layouts, archives and folders as images come in them, and as they should not.
#![allow(clippy::disallowed_methods, reason = "a test's own files")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::error::ErrorKind;
use crate::image::{manifest, media};
use crate::layer::{Extent, Kind, Meta};
use crate::pull::{Options, Pulled, pull};
use crate::tar::Writer;
use crate::worker::tests::Scratch;

/// A member of an archive.
pub(crate) enum Part<'a> {
    File(&'a str, &'a [u8]),
    Link(&'a str, &'a str),
}

pub(crate) fn tar(parts: &[Part<'_>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let meta = Meta { mode: 0o644, ..Meta::default() };
    for part in parts {
        match part {
            Part::File(name, content) => {
                let size = content.len() as u64;
                let extents = [Extent { at: 0, len: size, from: 0 }];
                let extents = if size > 0 { &extents[..] } else { &[] };
                let mut body = *content;
                writer.entry(name.as_bytes(), Kind::File { size, extents }, &meta, [], Some(&mut body)).unwrap();
            }
            Part::Link(name, target) => {
                writer.entry(name.as_bytes(), Kind::Symlink(target.as_bytes()), &meta, [], None).unwrap();
            }
        }
    }
    writer.finish().unwrap()
}

/// A layer with one file.
pub(crate) fn layer(content: &str) -> Vec<u8> {
    tar(&[Part::File("etc/file", content.as_bytes())])
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = crate::compress::Encoder::new(crate::image::Compression::Gzip, None, 1, Vec::new()).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn config(diff_ids: &[Digest]) -> Vec<u8> {
    let host = crate::platform::host();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    serde_json::to_vec(&json!({"os": "linux", "architecture": host.architecture, "rootfs": rootfs})).unwrap()
}

struct Place {
    dir: Scratch,
    store: Store,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = Scratch::new(name);
        let store = Store::open(&dir.path.join("store")).unwrap();
        Self { dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path.join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn pull(&self, location: &Location) -> Result<Vec<Pulled>> {
        pull(&self.store, &Access::default(), location, &Options::default(), &())
    }

    /// A layout with one image of `layers`, called `tag`; returns the index's entry.
    fn layout(&self, layers: &[Vec<u8>], tag: &str) -> Value {
        let put = |bytes: &[u8]| drop(self.file(&format!("layout/blobs/sha256/{}", Digest::of(bytes).hex()), bytes));
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let blobs: Vec<_> = layers.iter().map(|layer| gzip(layer)).collect();
        blobs.iter().for_each(|blob| put(blob));
        let config = config(&diff_ids);
        put(&config);
        let descriptors: Vec<_> = blobs.iter().map(|blob| Descriptor::of(media::LAYER_GZIP, blob)).collect();
        let manifest = manifest(&Descriptor::of(media::CONFIG, &config), &descriptors).unwrap();
        put(&manifest);
        let mut entry = serde_json::to_value(Descriptor::of(media::MANIFEST, &manifest)).unwrap();
        entry["annotations"] = json!({ layout::REF_NAME: tag });
        self.index(&[entry.clone()]);
        entry
    }

    fn index(&self, entries: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        self.file("layout/index.json", index.to_string().as_bytes());
        self.file("layout/oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    }

    fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        self.file(&format!("layout/blobs/sha256/{}", Digest::of(bytes).hex()), bytes);
        serde_json::to_value(Descriptor::of(kind, bytes)).unwrap()
    }

    fn pull_layout(&self, tag: Option<&str>) -> Result<Vec<Pulled>> {
        self.pull(&Location::Layout(self.path("layout"), tag.map(str::to_owned)))
    }

    fn nothing_published(&self) -> bool {
        self.store.refs().unwrap().is_empty()
    }
}

#[test]
fn an_image_of_a_layout_is_found_by_its_tag() {
    let place = Place::new("layout-tag");
    let one = place.layout(&[layer("a"), layer("b")], "1.0");
    let mut two = place.layout(&[layer("c")], "x");
    two["annotations"] = json!({ layout::REF_NAME: "2.0", layout::IMAGE_NAME: "r.example/team/app:2.0" });
    place.index(&[one, two, json!({"mediaType": "text/other", "digest": Digest::of(b""), "size": 0})]);
    let pulled = place.pull_layout(Some("1.0")).unwrap();
    assert_eq!(pulled[0].names, ["layout:1.0"]);
    assert!(pulled[0].runnable);
    assert_eq!(place.store.image("layout:1.0").unwrap().config.rootfs.diff_ids.len(), 2);
    let all: Vec<_> = place.pull_layout(None).unwrap().into_iter().flat_map(|p| p.names).collect();
    assert_eq!(all, ["layout:1.0", "r.example/team/app:2.0"]);
    assert_eq!(place.pull_layout(Some("3")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn an_index_in_an_index_leads_to_the_image_of_this_machine() {
    let place = Place::new("layout-nested");
    let mut entry = place.layout(&[layer("a")], "x");
    entry.as_object_mut().unwrap().remove("annotations");
    let other = json!({"mediaType": media::MANIFEST, "digest": Digest::of(b"none"), "size": 5,
        "platform": {"os": "plan9", "architecture": "mips"}});
    let mut nested = entry.clone();
    for _ in 0..3 {
        let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [other, nested]});
        nested = place.blob(media::INDEX, index.to_string().as_bytes());
    }
    place.index(&[nested.clone()]);
    let pulled = place.pull_layout(None).unwrap();
    assert_eq!(json!(pulled[0].manifest.digest), entry["digest"]);
    assert!(place.store.refs().unwrap()[0].index.is_some());
    for _ in 0..10 {
        let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [nested]});
        nested = place.blob(media::INDEX, index.to_string().as_bytes());
    }
    place.index(&[nested]);
    let said = place.pull_layout(None).unwrap_err().to_string();
    assert!(said.contains("nested deeper"), "{said}");
}

#[test]
fn a_wide_index_that_says_nothing_is_not_read_to_its_end() {
    let place = Place::new("layout-wide");
    let index = |n: usize| {
        let empty = json!({"schemaVersion": 2, "manifests": [], "annotations": {"n": n.to_string()}});
        place.blob(media::INDEX, empty.to_string().as_bytes())
    };
    let wide = json!({"schemaVersion": 2, "manifests": (0..200).map(index).collect::<Vec<_>>()});
    place.index(&[place.blob(media::INDEX, wide.to_string().as_bytes())]);
    let said = place.pull_layout(None).unwrap_err().to_string();
    assert!(said.contains("too many documents"), "{said}");
}

#[test]
fn what_is_wrong_with_a_layout_is_one_clear_error() {
    type Change = fn(&Place, &mut Value);
    fn manifest_path(place: &Place, entry: &Value) -> PathBuf {
        let digest: Digest = entry["digest"].as_str().unwrap().parse().unwrap();
        place.path(&format!("layout/blobs/sha256/{}", digest.hex()))
    }
    fn layer_path(place: &Place, entry: &Value) -> PathBuf {
        let manifest: Value = serde_json::from_slice(&std::fs::read(manifest_path(place, entry)).unwrap()).unwrap();
        manifest_path(place, &manifest["layers"][0])
    }
    let cases: [(&str, Change, &str); 15] = [
        ("digest that climbs", |_, e| e["digest"] = json!("sha256:../../../../etc/passwd"), "64 lower-case"),
        ("upper-case digest", |_, e| e["digest"] = json!(e["digest"].as_str().unwrap().to_uppercase()), "digest"),
        ("short digest", |_, e| e["digest"] = json!("sha256:abcd"), "64 lower-case"),
        ("unknown algorithm", |_, e| e["digest"] = json!("sha512:00"), "only sha256"),
        ("size smaller", |_, e| e["size"] = json!(1), "bytes"),
        ("size larger", |_, e| e["size"] = json!(1 << 20), "bytes"),
        ("size negative", |_, e| e["size"] = json!(-1), "invalid value"),
        ("size huge", |_, e| e["size"] = json!(u64::MAX), "bytes"),
        ("manifest as index", |_, e| e["mediaType"] = json!(media::INDEX), "announced"),
        ("blob missing", |p, e| std::fs::remove_file(layer_path(p, e)).unwrap(), "not in the layout"),
        (
            "blob is a link",
            |p, e| {
                let path = layer_path(p, e);
                std::fs::rename(&path, p.path("elsewhere")).unwrap();
                std::os::unix::fs::symlink(p.path("elsewhere"), path).unwrap();
            },
            "symbolic link",
        ),
        (
            "blob is a directory",
            |p, e| {
                std::fs::remove_file(layer_path(p, e)).unwrap();
                std::fs::create_dir(layer_path(p, e)).unwrap();
            },
            "Directory",
        ),
        (
            "blob is a FIFO",
            |p, e| {
                std::fs::remove_file(layer_path(p, e)).unwrap();
                let mode = rustix::fs::Mode::RUSR;
                rustix::fs::mknodat(rustix::fs::CWD, layer_path(p, e), rustix::fs::FileType::Fifo, mode, 0).unwrap();
            },
            "ifo",
        ),
        (
            "blobs is a link",
            |p, _| {
                std::fs::rename(p.path("layout/blobs"), p.path("blobs")).unwrap();
                std::os::unix::fs::symlink(p.path("blobs"), p.path("layout/blobs")).unwrap();
            },
            "symbolic link",
        ),
        ("content is another", |p, e| std::fs::write(manifest_path(p, e), b"{}").unwrap(), "bytes"),
    ];
    for (name, change, word) in cases {
        let place = Place::new("layout-wrong");
        let mut entry = place.layout(&[layer("a")], "x");
        change(&place, &mut entry);
        place.index(&[entry]);
        let said = place.pull_layout(None).unwrap_err().to_string();
        assert!(said.contains(word), "{name}: {said}");
        assert!(place.nothing_published(), "{name}");
    }
}

#[test]
fn a_manifest_that_does_not_fit_its_parts_is_refused() {
    let good = layer("a");
    let blob = gzip(&good);
    let of = |kind: &str, bytes: &[u8]| serde_json::to_value(Descriptor::of(kind, bytes)).unwrap();
    for (name, config, layers, word) in [
        ("layers and diff ids differ", config(&[]), vec![of(media::LAYER_GZIP, &blob)], "0 diff_ids for 1 layers"),
        ("wrong diff id", config(&[Digest::of(b"x")]), vec![of(media::LAYER_GZIP, &blob)], "diff id"),
        ("foreign layer", config(&[Digest::of(&good)]), vec![of(media::FOREIGN_GZIP, &blob)], "foreign"),
        ("unknown layer", config(&[Digest::of(&good)]), vec![of("application/x", &blob)], "unknown media type"),
        ("config is null", b"null".to_vec(), vec![], "image configuration"),
    ] {
        let place = Place::new("manifest-wrong");
        place.blob(media::LAYER_GZIP, &blob);
        let config = place.blob(media::CONFIG, &config);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        place.index(&[place.blob(media::MANIFEST, manifest.to_string().as_bytes())]);
        let said = place.pull_layout(None).unwrap_err().to_string();
        assert!(said.contains(word), "{name}: {said}");
        assert!(place.nothing_published(), "{name}");
    }
}

#[test]
fn an_artifact_is_copied_and_is_not_an_image() {
    let place = Place::new("artifact");
    let config = place.blob(media::EMPTY, b"{}");
    let part = place.blob("text/spdx", b"not a layer at all");
    let manifest = json!({"schemaVersion": 2, "artifactType": "text/spdx", "config": config, "layers": [part]});
    place.index(&[place.blob(media::MANIFEST, manifest.to_string().as_bytes())]);
    let pulled = place.pull_layout(None).unwrap();
    assert!(!pulled[0].runnable);
    assert!(place.store.blob(&Digest::of(b"not a layer at all")).unwrap().is_some());
    assert!(place.store.image("layout:latest").is_err());
    let inline = json!({"schemaVersion": 2, "config": {"mediaType": media::EMPTY, "data": "e30=", "size": 2,
        "digest": Digest::of(b"{}")}, "layers": []});
    place.index(&[place.blob(media::MANIFEST, inline.to_string().as_bytes())]);
    assert!(!place.pull_layout(None).unwrap()[0].runnable);
}

/// An archive as docker writes it, with what a test wants different.
struct DockerSave {
    config: Vec<u8>,
    base: Vec<u8>,
    top: Vec<u8>,
}

impl DockerSave {
    fn new() -> Self {
        let (base, top) = (layer("base"), layer("top"));
        Self { config: config(&[Digest::of(&base), Digest::of(&top)]), base, top }
    }

    /// `manifest.json` is the last, as docker has it.
    fn tar(&self, list: &Value) -> Vec<u8> {
        tar(&[
            Part::File("a/layer.tar", &self.base),
            Part::File("b/layer.tar", &self.top),
            Part::Link("c/layer.tar", "../a/layer.tar"),
            Part::Link("out/layer.tar", "../../etc/passwd"),
            Part::Link("loop", "loop"),
            Part::File("config.json", &self.config),
            Part::File("manifest.json", list.to_string().as_bytes()),
        ])
    }
}

#[test]
fn a_docker_archive_gives_all_its_images_and_tags() {
    let save = DockerSave::new();
    let place = Place::new("docker");
    let list = json!([
        {"Config": "config.json", "RepoTags": ["app:1", "r.example/app:1"], "Layers": ["c/layer.tar", "./b/layer.tar"]},
        {"Config": "config.json", "RepoTags": null, "Layers": ["a/layer.tar", "b/layer.tar"]},
    ]);
    for (file, bytes) in [("x.tar", save.tar(&list)), ("x.tar.gz", gzip(&save.tar(&list)))] {
        let path = place.file(file, &bytes);
        let pulled = place.pull(&Location::DockerArchive(path.clone(), None)).unwrap();
        assert_eq!(pulled[0].names, ["app:1", "r.example/app:1"], "{file}");
        assert_eq!(pulled[1].names.len(), 0);
        // The same layers, so the same manifest.
        assert_eq!(pulled[0].manifest, pulled[1].manifest);
        assert_eq!(pulled[0].id, Digest::of(&save.config));
        let one = Location::DockerArchive(path.clone(), Some("app:1".parse().unwrap()));
        assert_eq!(place.pull(&one).unwrap()[0].names, ["app:1"]);
        let none = Location::DockerArchive(path, Some("app:2".parse().unwrap()));
        assert_eq!(place.pull(&none).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert_eq!(place.store.image("app:1").unwrap().config.rootfs.diff_ids.len(), 2);
}

#[test]
fn names_in_a_docker_archive_are_keys_and_not_paths() {
    let save = DockerSave::new();
    let with = |layers: Value| json!([{"Config": "config.json", "RepoTags": ["a:1"], "Layers": layers}]);
    for (list, word) in [
        (with(json!(["../a/layer.tar", "b/layer.tar"])), "not in the archive"),
        (with(json!(["/etc/passwd", "b/layer.tar"])), "not in the archive"),
        (with(json!(["out/layer.tar", "b/layer.tar"])), "not in the archive"),
        (with(json!(["loop", "b/layer.tar"])), "round and round"),
        (with(json!(["gone/layer.tar", "b/layer.tar"])), "not in the archive"),
        (with(json!(["a/layer.tar"])), "2 diff_ids for 1 layers"),
        (with(json!(["b/layer.tar", "a/layer.tar"])), "sha256"),
        (json!([{"Config": "../config.json", "Layers": []}]), "not in the archive"),
        (json!([{"Config": "config.json", "RepoTags": ["A B"], "Layers": []}]), "image name"),
        (json!([]), "no image"),
        (json!({}), "manifest.json"),
        (json!((0..1001).map(|_| json!({"Config": "config.json"})).collect::<Vec<_>>()), "more than"),
    ] {
        let place = Place::new("docker-wrong");
        let path = place.file("x.tar", &save.tar(&list));
        let said = place.pull(&Location::DockerArchive(path, None)).unwrap_err().to_string();
        assert!(said.contains(word), "{list}: {said}");
        assert!(place.nothing_published());
    }
    let place = Place::new("docker-none");
    for bytes in [tar(&[]), b"no tar".to_vec(), Vec::new()] {
        let path = place.file("x.tar", &bytes);
        assert!(place.pull(&Location::DockerArchive(path.clone(), None)).is_err());
        assert!(place.pull(&Location::LayoutArchive(path, None)).is_err());
    }
}

#[test]
fn a_root_file_system_becomes_an_image_of_one_layer() {
    let place = Place::new("rootfs");
    let plain = tar(&[Part::File("etc/passwd", b"root"), Part::Link("lib", "usr/lib")]);
    for (file, bytes) in [("base.tar", plain.clone()), ("base.tar.gz", gzip(&plain))] {
        let path = place.file(file, &bytes);
        let pulled = place.pull(&Location::Rootfs(path)).unwrap().remove(0);
        assert_eq!(pulled.names, ["base:latest"]);
        let image = place.store.image("base").unwrap();
        assert_eq!(image.config.rootfs.diff_ids, [Digest::of(&plain)], "{file}");
        assert_eq!(image.manifest.layers[0].digest, Digest::of(&bytes), "{file}");
    }
}

#[test]
fn a_folder_becomes_the_layer_that_it_is() {
    let place = Place::new("folder");
    place.file("root/b/file", b"content");
    place.file("root/a", b"");
    std::fs::hard_link(place.path("root/b/file"), place.path("root/c")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", place.path("root/link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.path("root/socket")).unwrap();
    rustix::fs::setxattr(place.path("root/a"), "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    place.pull(&Location::Rootfs(place.path("root"))).unwrap();
    let image = place.store.image("root:latest").unwrap();
    let (_, layer) = place.store.layer(&image.config.rootfs.diff_ids[0]).unwrap().unwrap();
    let names: Vec<_> = layer.entries().map(|e| String::from_utf8(e.path.to_vec()).unwrap()).collect();
    assert_eq!(names, ["", "a", "b", "b/file", "c", "link"]);
    let find = |name: &str| layer.entries().find(|e| e.path == name.as_bytes()).unwrap();
    assert_eq!(find("c").kind, Kind::Hardlink(b"b/file"));
    assert_eq!(find("link").kind, Kind::Symlink(b"/etc/passwd"));
    assert_eq!(find("a").xattrs.iter().collect::<Vec<_>>(), [(&b"user.x"[..], &b"1"[..])]);
    assert!(place.pull(&Location::Rootfs(place.path("gone"))).is_err());
}

#[test]
fn what_is_saved_comes_in_again_with_the_same_digest() {
    let place = Place::new("save");
    place.layout(&[layer("a"), layer("b")], "1.0");
    let pulled = place.pull_layout(None).unwrap().remove(0);
    let found = place.store.find(&pulled.names[0]).unwrap();
    let names: Vec<Reference> = vec!["team/app:1".parse().unwrap(), "r.example/app:2".parse().unwrap()];
    let saved = [Saved { image: &found, names: names.clone(), whole: None }];
    let at =
        |location: &str| location.replace("DIR", &place.dir.path.display().to_string()).parse::<Location>().unwrap();
    for (to, from, expected) in [
        ("oci:DIR/l", "oci:DIR/l", vec!["team/app:1", "r.example/app:2"]),
        ("oci:DIR/l:new", "oci:DIR/l:new", vec!["l:new"]),
        ("oci-archive:DIR/l.tar", "oci-archive:DIR/l.tar:2", vec!["r.example/app:2"]),
        ("dir:DIR/flat", "dir:DIR/flat", vec!["flat:latest"]),
    ] {
        save(&place.store, &saved, &at(to), &()).unwrap();
        let other = Place::new("save-again");
        let again = other.pull(&at(from)).unwrap();
        assert_eq!(again.iter().flat_map(|p| &p.names).collect::<Vec<_>>(), expected, "{to}");
        assert!(again.iter().all(|p| p.manifest.digest == pulled.manifest.digest), "{to}");
    }
    // Layers are plain there, so only the configuration stays the same.
    save(&place.store, &saved, &at("docker-archive:DIR/d.tar"), &()).unwrap();
    let other = Place::new("save-docker");
    let again = other.pull(&at("docker-archive:DIR/d.tar")).unwrap().remove(0);
    assert_eq!(again.names, ["team/app:1", "r.example/app:2"]);
    assert_eq!(again.id, pulled.id);
    assert!(save(&place.store, &saved, &at("DIR/x.tar"), &()).is_err());
    assert!(!Path::new(&place.path("x.tar")).exists());
}

#[test]
fn a_tag_of_a_layout_goes_to_the_new_image() {
    let place = Place::new("save-tag");
    let to = Location::Layout(place.path("out"), None);
    let name: Reference = "app:1".parse().unwrap();
    let mut digests = Vec::new();
    for content in ["a", "b"] {
        place.layout(&[layer(content)], "x");
        let pulled = place.pull_layout(None).unwrap().remove(0);
        let found = place.store.find(&pulled.manifest.digest.to_string()).unwrap();
        save(&place.store, &[Saved { image: &found, names: vec![name.clone()], whole: None }], &to, &()).unwrap();
        digests.push(pulled.manifest.digest);
    }
    let index: Value = serde_json::from_slice(&std::fs::read(place.path("out/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(index["manifests"][0]["digest"], json!(digests[1]));
    place.file("other/file", b"");
    let found = place.store.find(&digests[1].to_string()).unwrap();
    let said = save(
        &place.store,
        &[Saved { image: &found, names: vec![], whole: None }],
        &Location::Layout(place.path("other"), None),
        &(),
    );
    assert!(said.unwrap_err().to_string().contains("not empty"));
}

#[test]
fn a_name_is_made_of_a_path() {
    for (path, tag, expected) in [
        ("/srv/Base.tar.gz", None, "base:latest"),
        ("x/app_1", Some("v2"), "app_1:v2"),
        ("/", None, "imported:latest"),
        ("/srv/--", Some("bad tag"), "imported:latest"),
        ("a b.tgz", None, "ab:latest"),
    ] {
        assert_eq!(name_of(Path::new(path), tag).to_string(), expected, "{path}");
    }
}
