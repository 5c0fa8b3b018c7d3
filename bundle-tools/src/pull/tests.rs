//! Whole pulls from a registry that counts what it gives.
#![allow(clippy::disallowed_methods, reason = "a test's own files")]

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::registry::Patience;
use crate::registry::stub::{Answer, Asked, Stub};
use crate::transport::tests::{Part, config, gzip, layer, tar};
use crate::worker::tests::Scratch;

/// What a registry has: by path, the media type and the bytes.
#[derive(Default, Clone)]
struct Shelf(HashMap<String, (String, Vec<u8>)>);

impl Shelf {
    fn blob(&mut self, kind: &str, bytes: &[u8]) -> Descriptor {
        self.0.insert(format!("/v2/app/blobs/{}", Digest::of(bytes)), (kind.to_owned(), bytes.to_vec()));
        Descriptor::of(kind, bytes)
    }

    fn manifest(&mut self, tag: &str, kind: &str, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        for selector in [tag, &digest.to_string()] {
            self.0.insert(format!("/v2/app/manifests/{selector}"), (kind.to_owned(), bytes.to_vec()));
        }
        Descriptor::of(kind, bytes)
    }

    /// An image of plain layers.
    fn image(&mut self, tag: &str, layers: &[Vec<u8>]) -> Descriptor {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let layers: Vec<_> = layers.iter().map(|layer| self.blob(media::LAYER_GZIP, &gzip(layer))).collect();
        let config = self.blob(media::CONFIG, &config(&diff_ids));
        self.manifest(tag, media::MANIFEST, &image::manifest(&config, &layers).unwrap())
    }

    fn answer(&self, asked: &Asked) -> Answer {
        match self.0.get(asked.path.as_str()) {
            Some((kind, bytes)) => {
                let from = asked.header("range").map_or(0, |range| range[6..range.len() - 1].parse().unwrap());
                let answer = Answer::new(if from > 0 { 206 } else { 200 }, &bytes[from..]).with("content-type", kind);
                match from {
                    0 => answer,
                    _ => answer.with("content-range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
                }
            }
            None => Answer::new(404, ""),
        }
    }

    fn serve(self) -> Stub {
        Stub::new(move |asked| self.answer(asked))
    }
}

struct Place {
    dir: Scratch,
    store: Store,
    access: Access,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = Scratch::new(name);
        let store = Store::open(&dir.path.join("store")).unwrap();
        let quick = Patience {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(5),
            attempts: 3,
            pause: Duration::from_millis(1),
        };
        Self { dir, store, access: Access { patience: quick, ..Access::default() } }
    }

    fn pull(&self, name: &str) -> Result<Pulled> {
        self.pull_with(name, &Options::default(), &())
    }

    fn pull_with(&self, name: &str, options: &Options, progress: &dyn Progress) -> Result<Pulled> {
        Ok(pull(&self.store, &self.access, &name.parse()?, options, progress)?.remove(0))
    }

    fn settings(&mut self, text: &str) {
        let path = self.dir.path.join("registries.toml");
        std::fs::write(&path, text).unwrap();
        self.access.settings = Settings::from_files(&[path]).unwrap();
    }
}

/// Remembers what it hears.
#[derive(Default)]
struct Heard {
    moved: AtomicUsize,
    said: Mutex<Vec<(&'static str, Digest)>>,
}

impl Heard {
    fn count(&self, what: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|(said, _)| *said == what).count()
    }

    fn say(&self, what: &'static str, digest: &Digest) {
        self.said.lock().unwrap().push((what, *digest));
    }
}

impl Progress for Heard {
    fn announced(&self, layer: &Descriptor) {
        self.say("announced", &layer.digest);
    }

    fn present(&self, layer: &Digest) {
        self.say("present", layer);
    }

    fn moved(&self, _: &Digest, bytes: u64) {
        self.moved.fetch_add(usize::try_from(bytes).unwrap(), Ordering::SeqCst);
    }

    fn done(&self, layer: &Digest) {
        self.say("done", layer);
    }
}

/// A layer that doesn't compress.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let bytes: Vec<u8> = (0..size).map(|_| next()).collect();
    tar(&[Part::File("noise", &bytes)])
}

#[test]
fn only_missing_layers_move() {
    let mut shelf = Shelf::default();
    let base: Vec<_> = (0..4).map(|n| noise(n, 50_000)).collect();
    shelf.image("1", &base);
    let top = layer("top");
    let second = shelf.image("2", &[base, vec![top.clone()]].concat());
    let stub = shelf.serve();
    let place = Place::new("pull-missing");
    let name = format!("{}/app", stub.host);
    place.pull(&format!("{name}:1")).unwrap();
    assert_eq!(stub.count("GET", "blobs"), 5);
    let heard = Heard::default();
    let pulled = place.pull_with(&format!("{name}:2"), &Options::default(), &heard).unwrap();
    assert_eq!(pulled.manifest, second);
    // Configurations are asked for, and then this layer.
    assert_eq!(stub.count("GET", "blobs"), 7);
    assert_eq!(heard.moved.load(Ordering::SeqCst), gzip(&top).len());
    assert_eq!((heard.count("announced"), heard.count("present"), heard.count("done")), (5, 4, 1));
    place.pull(&format!("{name}:2")).unwrap();
    assert_eq!(stub.count("GET", "blobs"), 7);
    assert_eq!(place.store.image(&format!("{name}:2")).unwrap().config.rootfs.diff_ids.len(), 5);
}

#[test]
fn a_pull_that_failed_is_taken_up_by_the_next() {
    let mut shelf = Shelf::default();
    let image = shelf.image("1", &[noise(1, 3_000_000)]);
    let broken = shelf.clone();
    let stub = Stub::new(move |asked| {
        let answer = broken.answer(asked);
        match asked.path.contains("/blobs/") && answer.body.len() > 1_000_000 {
            true => Answer::new(200, &answer.body[..1_000_000]).with("content-length", answer.body.len()),
            false => answer,
        }
    });
    let place = Place::new("pull-again");
    let said = place.pull(&format!("{}/app:1", stub.host)).unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Invalid, "{said}");
    assert!(place.store.refs().unwrap().is_empty());
    let whole = shelf.serve();
    let pulled = place.pull(&format!("{}/app:1", whole.host)).unwrap();
    assert_eq!(pulled.manifest, image);
    let range = whole.log().iter().find_map(|asked| asked.header("range").map(str::to_owned)).unwrap();
    assert_eq!(range, "bytes=1000000-");
}

#[test]
fn a_layer_of_another_content_publishes_nothing() {
    let mut shelf = Shelf::default();
    let good = layer("good");
    shelf.image("1", std::slice::from_ref(&good));
    let path = format!("/v2/app/blobs/{}", Digest::of(&gzip(&good)));
    let mut bytes = gzip(&good);
    *bytes.last_mut().unwrap() ^= 1;
    shelf.0.get_mut(&path).unwrap().1 = bytes;
    let stub = shelf.serve();
    let place = Place::new("pull-wrong");
    let said = place.pull(&format!("{}/app:1", stub.host)).unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Invalid);
    assert!(said.to_string().starts_with(&format!("{}/app:1: ", stub.host)), "{said}");
    assert!(place.store.refs().unwrap().is_empty());
    assert!(place.store.layer_info(&Digest::of(&good)).unwrap().is_none());
}

#[test]
fn a_platform_is_chosen_or_asked_for() {
    let mut shelf = Shelf::default();
    let entry = |descriptor: &Descriptor, architecture: Option<&str>| {
        let mut entry = serde_json::to_value(descriptor).unwrap();
        if let Some(architecture) = architecture {
            entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        }
        entry
    };
    let (one, two) = (shelf.image("one", &[layer("1")]), shelf.image("two", &[layer("2")]));
    let host = platform::host().architecture;
    let index = |entries: &[serde_json::Value]| {
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap()
    };
    let all = shelf.manifest("all", media::INDEX, &index(&[entry(&one, Some("riscv64")), entry(&two, Some(&host))]));
    // Without platforms the configurations say it.
    shelf.manifest("bare", media::DOCKER_LIST, &index(&[entry(&one, None), entry(&two, None)]));
    shelf.manifest("none", media::INDEX, &index(&[entry(&one, Some("riscv64"))]));
    let stub = shelf.serve();
    let place = Place::new("pull-platform");
    let pull = |tag: &str, platform: Option<&str>| {
        let options = Options { platform: platform.map(|p| p.parse().unwrap()), ..Options::default() };
        place.pull_with(&format!("{}/app:{tag}", stub.host), &options, &())
    };
    assert_eq!(pull("all", None).unwrap().manifest, two);
    let kept = place.store.get_ref(&format!("{}/app:all", stub.host)).unwrap().unwrap();
    assert_eq!(kept.index.map(|index| index.digest), Some(all.digest));
    assert_eq!(pull("bare", None).unwrap().manifest, one);
    assert_eq!(pull("none", None).unwrap_err().kind(), ErrorKind::NotFound);
    // The index promises what the image is not.
    assert_eq!(pull("all", Some("linux/riscv64")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(pull("one", Some("linux/s390x")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_short_name_is_searched_and_found_again() {
    let mut shelf = Shelf::default();
    let image = shelf.image("1", &[layer("1")]);
    let (empty, full) = (Shelf::default().serve(), shelf.serve());
    let mut place = Place::new("pull-short");
    let said = place.pull("app:1").unwrap_err();
    assert!(said.to_string().contains("no registry to look in"), "{said}");
    place.settings(&format!("search = [\"{}\", \"{}\"]", empty.host, full.host));
    let pulled = place.pull("app:1").unwrap();
    assert_eq!(pulled.names, [format!("{}/app:1", full.host)]);
    assert_eq!(find(&place.store, &place.access.settings, "app:1").unwrap().descriptor, image);
    assert_eq!(find(&place.store, &Settings::default(), "app:1").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(place.pull("app:2").unwrap_err().kind(), ErrorKind::NotFound);
    // Somebody else's image must not come in the place of one that can't be asked for now.
    place.settings(&format!("search = [\"127.0.0.1:1\", \"{}\"]", full.host));
    assert_eq!(place.pull("app:1").unwrap_err().kind(), ErrorKind::Network);
}

#[test]
fn a_mirror_is_asked_first_and_may_fail() {
    let mut shelf = Shelf::default();
    let image = shelf.image("1", &[layer("1")]);
    let (mirror, registry) = (shelf.clone().serve(), shelf.clone().serve());
    let mut place = Place::new("pull-mirror");
    let mirrors = |at: &str| format!("[registry.\"{}\"]\nmirrors = [\"{at}\"]", registry.host);
    place.settings(&mirrors(&mirror.host));
    assert_eq!(place.pull(&format!("{}/app:1", registry.host)).unwrap().manifest, image);
    assert_eq!(registry.log().len(), 0);
    for down in ["127.0.0.1:1".to_owned(), Shelf::default().serve().host] {
        let mut place = Place::new("pull-mirror-down");
        place.settings(&mirrors(&down));
        assert_eq!(place.pull(&format!("{}/app:1", registry.host)).unwrap().manifest, image);
    }
    assert_eq!(registry.count("GET", "manifests"), 2);
}

#[test]
fn a_digest_is_asked_for_and_verified() {
    let mut shelf = Shelf::default();
    let image = shelf.image("1", &[layer("1")]);
    let other = Digest::of(b"other");
    let bytes = shelf.0["/v2/app/manifests/1"].clone();
    shelf.0.insert(format!("/v2/app/manifests/{other}"), bytes);
    let stub = shelf.serve();
    let place = Place::new("pull-digest");
    let name = format!("{}/app@{}", stub.host, image.digest);
    assert_eq!(place.pull(&name).unwrap().names, [name]);
    assert_eq!(place.pull(&format!("{}/app@{other}", stub.host)).unwrap_err().kind(), ErrorKind::Invalid);
    let named = Options { name: Some("mine:2.0".parse().unwrap()), ..Options::default() };
    assert_eq!(place.pull_with(&format!("{}/app:1", stub.host), &named, &()).unwrap().names, ["mine:2.0"]);
}
