//! Pulls and pushes with a real registry (Debian's `docker-registry`), and `skopeo` as the other side.
#![allow(clippy::disallowed_methods, reason = "a test's own files")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "the helpers are of the tests")]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use orlop_bundle::digest::Digest;
use orlop_bundle::error::ErrorKind;
use orlop_bundle::image::Descriptor;
use orlop_bundle::layer::{Extent, Kind, Meta};
use orlop_bundle::pull::{Options, Pulled, pull};
use orlop_bundle::push::push;
use orlop_bundle::reference::{Location, Reference};
use orlop_bundle::registry::Access;
use orlop_bundle::registry::credentials::Files;
use orlop_bundle::store::Store;
use orlop_bundle::transfer::{JOBS, Progress};
use orlop_bundle::transport::{Saved, save};

/// A folder of its own, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("orlop-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A registry on this machine.
struct Registry {
    child: Child,
    host: String,
    _dir: Scratch,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("SKIP: there is no {program}");
    }
    there
}

impl Registry {
    /// `auth` lets in `me` with `secret` only. `None` if there is no registry here.
    fn start(auth: bool) -> Option<Self> {
        if !there("docker-registry") || (auth && !there("htpasswd")) {
            return None;
        }
        let dir = Scratch::new("docker-registry");
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let root = dir.0.join("data").display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp: {{addr: {host}}}\n"
        );
        if auth {
            let line = Command::new("htpasswd").args(["-Bbn", "me", "secret"]).output().unwrap().stdout;
            std::fs::write(dir.0.join("htpasswd"), line).unwrap();
            let path = dir.0.join("htpasswd").display().to_string();
            config.push_str(&format!("auth: {{htpasswd: {{realm: here, path: {path}}}}}\n"));
        }
        std::fs::write(dir.0.join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.0.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect(&host).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { child, host, _dir: dir })
    }

    fn name(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }
}

struct Place {
    store: Store,
    access: Access,
    dir: Scratch,
}

impl Place {
    fn new(name: &str) -> Self {
        orlop_bundle::worker::set_program(env!("CARGO_BIN_EXE_orlop-bundle").into());
        let dir = Scratch::new(name);
        let credentials = Files::at([dir.0.join("config.json")]);
        let store = Store::open(&dir.0.join("store")).unwrap();
        Self { store, access: Access { credentials, ..Access::default() }, dir }
    }

    fn pull(&self, location: &str, progress: &dyn Progress) -> orlop_bundle::error::Result<Vec<Pulled>> {
        let location: Location = location.parse()?;
        pull(&self.store, &self.access, &location, &Options::default(), progress)
    }

    fn push(&self, image: &str, to: &Reference, progress: &dyn Progress) -> orlop_bundle::error::Result<Descriptor> {
        push(&self.store, &self.access, &self.store.find(image)?, to, JOBS, progress)
    }

    /// An image of these layers, called `name`, by way of an archive as docker writes it.
    fn image(&self, name: &str, layers: &[Vec<u8>]) -> Pulled {
        let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let platform = orlop_bundle::platform::host();
        let config = serde_json::json!({"os": "linux", "architecture": platform.architecture,
            "rootfs": {"type": "layers", "diff_ids": ids}});
        let names: Vec<_> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
        let list = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
        let (config, list) = (config.to_string(), list.to_string());
        let mut parts: Vec<(&str, &[u8])> =
            names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice)).collect();
        parts.extend([("config.json", config.as_bytes()), ("manifest.json", list.as_bytes())]);
        let path = self.dir.0.join("image.tar");
        std::fs::write(&path, tar(&parts)).unwrap();
        self.pull(&format!("docker-archive:{}", path.display()), &()).unwrap().remove(0)
    }
}

fn tar(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = orlop_bundle::tar::Writer::new(Vec::new());
    for (name, content) in parts {
        let extents = [Extent { at: 0, len: content.len() as u64, from: 0 }];
        let kind = Kind::File { size: content.len() as u64, extents: &extents };
        let meta = Meta { mode: 0o644, ..Meta::default() };
        let mut body = *content;
        writer.entry(name.as_bytes(), kind, &meta, [], Some(&mut body)).unwrap();
    }
    writer.finish().unwrap()
}

fn layer(n: u64, size: usize) -> Vec<u8> {
    let mut state = n * 2 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let bytes: Vec<u8> = (0..size).map(|_| next()).collect();
    tar(&[(&format!("file{n}"), &bytes)])
}

/// Counts what becomes of layers.
#[derive(Default)]
struct Heard {
    said: Mutex<Vec<&'static str>>,
    moved: Mutex<u64>,
}

impl Heard {
    fn count(&self, what: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|said| **said == what).count()
    }

    fn moved(&self) -> u64 {
        *self.moved.lock().unwrap()
    }
}

impl Progress for Heard {
    fn present(&self, _: &Digest) {
        self.said.lock().unwrap().push("present");
    }
    fn mounted(&self, _: &Digest) {
        self.said.lock().unwrap().push("mounted");
    }
    fn moved(&self, _: &Digest, bytes: u64) {
        *self.moved.lock().unwrap() += bytes;
    }
    fn done(&self, _: &Digest) {
        self.said.lock().unwrap().push("done");
    }
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back_as_it_was() {
    let Some(registry) = Registry::start(false) else { return };
    let place = Place::new("round-trip");
    let layers: Vec<_> = (0..4).map(|n| layer(n, 300_000)).collect();
    let image = place.image("app:1", &layers);
    let heard = Heard::default();
    let pushed = place.push("app:1", &registry.name("team/app:1"), &heard).unwrap();
    assert_eq!(pushed.digest, image.manifest.digest);
    assert_eq!((heard.count("done"), heard.count("present")), (5, 0));
    // Again: everything is there.
    let heard = Heard::default();
    place.push("app:1", &registry.name("team/app:other"), &heard).unwrap();
    assert_eq!((heard.count("present"), heard.moved()), (5, 0));
    let repository = place.access.repository(&registry.name("team/app")).unwrap();
    let mut tags = repository.tags().unwrap();
    tags.sort_unstable();
    assert_eq!(tags, ["1", "other"]);
    let other = Place::new("round-trip-back");
    let pulled = other.pull(&registry.name("team/app:1").to_string(), &()).unwrap().remove(0);
    assert_eq!((pulled.manifest.digest, pulled.id), (image.manifest.digest, image.id));
    // One more layer, and only that moves.
    place.image("app:2", &[layers.clone(), vec![layer(9, 1000)]].concat());
    let heard = Heard::default();
    place.push("app:2", &registry.name("team/app:2"), &heard).unwrap();
    assert_eq!((heard.count("present"), heard.count("done")), (4, 2));
    let heard = Heard::default();
    other.pull(&registry.name("team/app:2").to_string(), &heard).unwrap();
    assert_eq!((heard.count("present"), heard.count("done")), (4, 1));
    assert_eq!(heard.moved(), layer(9, 1000).len() as u64);
    let gone = other.pull(&registry.name("team/app:3").to_string(), &()).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
}

#[test]
fn a_blob_of_another_repository_is_mounted() {
    let Some(registry) = Registry::start(false) else { return };
    let place = Place::new("mount");
    place.image("app:1", &[layer(1, 100_000), layer(2, 100_000)]);
    let first = registry.name("base:1");
    place.push("app:1", &first, &()).unwrap();
    // Its name in the store is how it is known that the registry has it.
    place.store.set_ref(&first.to_string(), &place.store.find("app:1").unwrap().descriptor).unwrap();
    let heard = Heard::default();
    place.push("app:1", &registry.name("team/copy:1"), &heard).unwrap();
    assert_eq!((heard.count("mounted"), heard.count("done"), heard.moved()), (3, 0, 0));
    let other = Place::new("mount-back");
    other.pull(&registry.name("team/copy:1").to_string(), &()).unwrap();
}

#[test]
fn a_registry_with_a_password_lets_in_who_has_logged_in() {
    let Some(registry) = Registry::start(true) else { return };
    let place = Place::new("password");
    place.image("app:1", &[layer(1, 1000)]);
    let name = registry.name("app:1");
    assert_eq!(place.push("app:1", &name, &()).unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(place.pull(&name.to_string(), &()).unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(place.access.login(&registry.host, "me", "wrong").unwrap_err().kind(), ErrorKind::Denied);
    place.access.login(&registry.host, "me", "secret").unwrap();
    place.push("app:1", &name, &()).unwrap();
    place.pull(&name.to_string(), &()).unwrap();
    assert!(place.access.logout(&registry.host).unwrap());
    assert_eq!(place.pull(&name.to_string(), &()).unwrap_err().kind(), ErrorKind::Denied);
}

fn skopeo(arguments: &[&str]) {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "--src-tls-verify=false"]);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn skopeo_reads_what_is_written_and_what_it_writes_is_read() {
    let Some(registry) = Registry::start(false) else { return };
    if !there("skopeo") {
        return;
    }
    let place = Place::new("skopeo");
    let layers = [layer(1, 100_000), layer(2, 1000)];
    let diff_ids = [Digest::of(&layers[0]), Digest::of(&layers[1])];
    let image = place.image("app:1", &layers);
    let at = |path: &str| place.dir.0.join(path).display().to_string();
    let remote = registry.name("app:1");
    place.push("app:1", &remote, &()).unwrap();
    let found = place.store.find("app:1").unwrap();
    let saved = [Saved { image: &found, names: vec!["app:1".parse().unwrap()], whole: None }];
    let out = |transport: &str| -> String {
        let location = format!("{transport}:{}", at(transport));
        save(&place.store, &saved, &location.parse().unwrap(), &()).unwrap();
        location
    };
    // What is written here.
    for (n, from) in [
        format!("docker://{remote}"),
        format!("{}:1", out("oci")),
        format!("{}:1", out("oci-archive")),
        format!("{}:app:1", out("docker-archive")),
        out("dir"),
    ]
    .iter()
    .enumerate()
    {
        let to = format!("oci:{}:x", at(&format!("skopeo{n}")));
        skopeo(&[from, &to]);
        let other = Place::new("skopeo-back");
        let pulled = other.pull(&to, &()).unwrap().remove(0);
        assert_eq!(other.store.image(&pulled.names[0]).unwrap().config.rootfs.diff_ids, diff_ids, "{from}");
        // skopeo writes another configuration for what has no manifest.
        assert_eq!(pulled.id == image.id, !from.starts_with("docker-archive:"), "{from}");
    }
    // What skopeo writes.
    let source = format!("docker://{remote}");
    for (to, options) in [
        ("dir:DIR/v2s2", vec!["--format", "v2s2"]),
        ("oci:DIR/zstd:1", vec!["--dest-compress-format", "zstd"]),
        ("oci:DIR/gzip:1", vec!["--dest-compress-format", "gzip"]),
        ("oci-archive:DIR/a.tar:1", vec![]),
        ("docker-archive:DIR/d.tar:app:1", vec![]),
        ("docker://HOST/v2s2:1", vec!["--format", "v2s2"]),
    ] {
        let to = to.replace("DIR", &at("")).replace("HOST", &registry.host);
        skopeo(&[&options[..], &[&source, &to]].concat());
        let other = Place::new("skopeo-in");
        let pulled = other.pull(&to, &()).unwrap().remove(0);
        assert!(pulled.runnable, "{to}");
        let found = other.store.image(&pulled.names[0]).unwrap();
        assert_eq!(found.config.rootfs.diff_ids, diff_ids, "{to}");
    }
}

#[test]
fn what_is_there_already_costs_no_time() {
    let Some(registry) = Registry::start(false) else { return };
    let place = Place::new("time");
    let mut layers: Vec<_> = (0..20).map(|n| layer(n, 1_000_000)).collect();
    place.image("app:1", &layers);
    layers.push(layer(99, 10_000));
    place.image("app:2", &layers);
    for tag in ["1", "2"] {
        place.push(&format!("app:{tag}"), &registry.name(&format!("app:{tag}")), &()).unwrap();
    }
    let other = Place::new("time-pull");
    other.pull(&registry.name("app:1").to_string(), &()).unwrap();
    let start = Instant::now();
    other.pull(&registry.name("app:2").to_string(), &()).unwrap();
    let took = start.elapsed();
    writeln!(std::io::stderr(), "one small layer of 21: {took:?}").unwrap();
    // Far from what it takes here: a limit for a machine that does other things too.
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(Path::new(&other.dir.0).is_dir());
}
