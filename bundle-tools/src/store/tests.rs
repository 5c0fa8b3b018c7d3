use std::io::Write;
use std::process::Command;

use super::*;
use crate::compress::Encoder;
use crate::image::{Compression, media};
use crate::layer::{Kind, Meta};
use crate::worker::tests::Scratch as TestDir;

/// A store of its own.
fn store(name: &str) -> (TestDir, Store) {
    let dir = TestDir::new(name);
    let store = Store::open(&dir.path).unwrap();
    (dir, store)
}

/// A tar of files with these names and contents.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = crate::tar::Writer::new(Vec::new());
    let meta = Meta { mode: 0o644, ..Meta::default() };
    for (name, content) in files {
        let extents = [crate::layer::Extent { at: 0, len: content.len() as u64, from: 0 }];
        let kind = Kind::File { size: content.len() as u64, extents: &extents };
        let mut body = *content;
        writer.entry(name.as_bytes(), kind, &meta, [], Some(&mut body)).unwrap();
    }
    writer.finish().unwrap()
}

fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(compression, None, 1, Vec::new()).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn receive(store: &Store, blob: &[u8], diff_id: Option<Digest>) -> Result<LayerInfo> {
    let descriptor = Descriptor::of(media::LAYER_GZIP, blob);
    receive_as(store, &descriptor, blob, diff_id)
}

fn receive_as(store: &Store, descriptor: &Descriptor, blob: &[u8], diff_id: Option<Digest>) -> Result<LayerInfo> {
    let lease = store.lease()?;
    let fetch = |incoming: &mut Incoming<'_>| {
        let have = usize::try_from(incoming.have()).unwrap();
        blob[have..].chunks(1000).try_for_each(|chunk| incoming.write(chunk))
    };
    store.receive_layer(&lease, descriptor, diff_id, fetch, &())
}

/// Puts an image of these layers (their blobs and diff ids) under `name`.
fn image(store: &Store, name: &str, layers: &[(Descriptor, Digest)]) -> Descriptor {
    let diff_ids: Vec<_> = layers.iter().map(|(_, diff_id)| diff_id).collect();
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64", "author": name, "rootfs": {"type": "layers", "diff_ids": diff_ids}
    });
    let config = store.put(media::CONFIG, config.to_string().as_bytes(), None).unwrap();
    let blobs: Vec<_> = layers.iter().map(|(descriptor, _)| descriptor).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": blobs
    });
    let manifest = store.put(media::MANIFEST, manifest.to_string().as_bytes(), None).unwrap();
    store.set_ref(name, &manifest).unwrap();
    manifest
}

fn no_files(dir: &Dir) -> bool {
    dir.names().unwrap().is_empty()
}

#[test]
fn a_layer_becomes_its_tar_and_table_however_it_is_packed() {
    let content = tar(&[("a", b"hello"), ("b/c", &[7; 100_000])]);
    let diff_id = Digest::of(&content);
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let (_dir, store) = store("pack");
        let blob = packed(compression, &content);
        for known in [Some(diff_id), None] {
            let info = receive(&store, &blob, known).unwrap();
            assert_eq!((info.diff_id, info.tar_size), (diff_id, content.len() as u64), "{compression:?}");
            assert_eq!((info.content, info.entries), (100_005, 2), "{compression:?}");
        }
        let (file, layer) = store.layer(&diff_id).unwrap().unwrap();
        assert_eq!(Digest::of_reader(file).unwrap(), (diff_id, content.len() as u64));
        assert_eq!(
            layer.entries().map(|entry| entry.path.to_vec()).collect::<Vec<_>>(),
            [b"a".to_vec(), b"b/c".to_vec()]
        );
        assert!(store.blob(&Digest::of(&blob)).unwrap().is_some());
        assert!(no_files(&store.incoming), "{:?}", store.incoming.names());
        assert!(store.verify(Verify::Report, &mut |finding| assert_eq!(finding.damage, None, "{finding:?}")).unwrap());
    }
}

#[test]
fn the_size_of_a_layer_is_that_of_its_files_and_of_the_names_in_its_links() {
    use crate::transport::tests::{Part, tar};
    let (_dir, store) = store("size");
    let content = tar(&[Part::File("a", b"hello"), Part::Link("b", "a/name")]);
    assert_eq!(receive(&store, &content, None).unwrap().content, 5 + 6);
}

#[test]
fn a_plain_layer_takes_its_room_once() {
    let (_dir, store) = store("plain");
    let content = tar(&[("a", &[1; 1_000_000])]);
    receive(&store, &content, None).unwrap();
    let usage = store.usage().unwrap();
    assert!(usage.total().bytes < 1_100_000, "{usage:?}");
    assert_eq!(usage.reclaimable, usage.total().bytes);
    let freed = store.prune(Prune::Unnamed).unwrap();
    assert_eq!(freed.bytes, usage.total().bytes);
    assert_eq!(store.usage().unwrap().total(), Sum::default());
}

#[test]
fn bad_blobs_give_one_error_and_leave_nothing() {
    let content = tar(&[("a", b"hello")]);
    let blob = packed(Compression::Gzip, &content);
    let good = Descriptor::of(media::LAYER_GZIP, &blob);
    let other = Digest::of(b"other");
    let bomb = packed(Compression::Gzip, &tar(&[("zeros", &vec![0; 80 << 20])]));
    let truncated = &blob[..blob.len() - 20];
    let not_a_tar = packed(Compression::Gzip, &[b'x'; 2000]);
    // Refused at its first block, while much more of it is announced.
    let noise: Vec<u8> = (0..8 << 20u32)
        .scan(1u32, |x, _| {
            *x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*x >> 24) as u8)
        })
        .collect();
    for (what, descriptor, blob, diff_id, word) in [
        ("noise", Descriptor::of(media::LAYER_GZIP, &noise), &noise[..], None, "not a tar"),
        ("short", good.clone(), truncated, None, "ends after"),
        ("long", Descriptor { size: good.size - 1, ..good.clone() }, &blob[..], None, "longer than"),
        ("another digest", Descriptor { digest: other, ..good.clone() }, &blob[..], None, "has the digest"),
        ("another diff id", good.clone(), &blob[..], Some(other), "promises the diff id"),
        ("truncated gzip", Descriptor::of(media::LAYER_GZIP, truncated), truncated, None, "layer:"),
        ("a bomb", Descriptor::of(media::LAYER_GZIP, &bomb), &bomb[..], None, "bomb"),
        ("no tar", Descriptor::of(media::LAYER_GZIP, &not_a_tar), &not_a_tar[..], None, "layer:"),
        (
            "foreign",
            Descriptor { media_type: media::FOREIGN_GZIP.to_owned(), ..good.clone() },
            &blob[..],
            None,
            "not to be",
        ),
        ("unknown", Descriptor { media_type: "text/html".to_owned(), ..good.clone() }, &blob[..], None, "media type"),
    ] {
        let (_dir, store) = store("bad");
        let said = receive_as(&store, &descriptor, blob, diff_id).unwrap_err().to_string();
        assert!(said.contains(word), "{what}: {said}");
        assert!(no_files(&store.layers), "{what}");
        let left = store.incoming.names().unwrap();
        // Only what can be continued stays.
        assert!(left.is_empty() || what == "short" || what == "long", "{what}: {left:?}");
        store.prune(Prune::Unnamed).unwrap();
        assert!(no_files(&store.incoming) && no_files(&store.blobs), "{what}");
    }
}

#[test]
fn a_download_that_was_cut_off_is_continued() {
    let (_dir, store) = store("resume");
    let content = tar(&[("a", &(0..200_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>())]);
    let blob = packed(Compression::Gzip, &content);
    let descriptor = Descriptor::of(media::LAYER_GZIP, &blob);
    let half = blob.len() / 2;
    {
        let mut incoming = store.incoming(&descriptor).unwrap();
        incoming.write(&blob[..half]).unwrap();
    }
    let lease = store.lease().unwrap();
    let info = store.receive_layer(
        &lease,
        &descriptor,
        Some(Digest::of(&content)),
        |incoming| {
            assert_eq!(incoming.have(), half as u64);
            incoming.write(&blob[half..])
        },
        &(),
    );
    assert_eq!(info.unwrap().tar_size, content.len() as u64);
    // Once more there is nothing to fetch.
    let again = store.receive_layer(&lease, &descriptor, None, |_| Err(Error::invalid("fetched")), &());
    assert_eq!(again.unwrap(), info_of(&store, &content));
}

fn info_of(store: &Store, content: &[u8]) -> LayerInfo {
    store.layer_info(&Digest::of(content)).unwrap().unwrap()
}

#[test]
fn a_server_that_cannot_continue_starts_over() {
    let (_dir, store) = store("restart");
    let content = tar(&[("a", &[9; 70_000])]);
    let descriptor = Descriptor::of(media::LAYER, &content);
    {
        let mut incoming = store.incoming(&descriptor).unwrap();
        incoming.write(&[0; 100]).unwrap();
    }
    let lease = store.lease().unwrap();
    let info = store.receive_layer(
        &lease,
        &descriptor,
        None,
        |incoming| {
            incoming.restart()?;
            incoming.write(&content)
        },
        &(),
    );
    assert_eq!(info.unwrap().diff_id, Digest::of(&content));
}

#[test]
fn a_server_that_starts_over_in_the_middle_has_to_say_the_same_again() {
    let content = tar(&[("a", &vec![7; 3_000_000])]);
    let mut other = content.clone();
    // The file's mode, early in what was said already.
    other[100..108].copy_from_slice(b"0004755\0");
    let sum: u32 =
        other[..512].iter().enumerate().map(|(i, b)| u32::from(if (148..156).contains(&i) { b' ' } else { *b })).sum();
    other[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for (first, right) in [(&content, true), (&other, false)] {
        let (_dir, store) = store("again");
        let lease = store.lease().unwrap();
        let fetch = |incoming: &mut Incoming<'_>| {
            incoming.write(&first[..1_500_000])?;
            incoming.restart()?;
            incoming.write(&content[..10])?;
            incoming.write(&content[10..])
        };
        let descriptor = Descriptor::of(media::LAYER, &content);
        let got = store.receive_layer(&lease, &descriptor, Some(Digest::of(&content)), fetch, &());
        match right {
            true => assert_eq!(got.unwrap(), info_of(&store, &content)),
            false => {
                let said = got.unwrap_err().to_string();
                assert!(said.ends_with("has other bytes than before"), "{said}");
                assert!(no_files(&store.layers));
            }
        }
    }
}

#[test]
fn several_at_once_make_a_layer_once() {
    let (dir, _) = store("race");
    let content = tar(&[("a", &vec![3; 3_000_000])]);
    let blob = packed(Compression::Gzip, &content);
    let fetched = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let store = Store::open(&dir.path).unwrap();
                let lease = store.lease().unwrap();
                let descriptor = Descriptor::of(media::LAYER_GZIP, &blob);
                let fetch = |incoming: &mut Incoming<'_>| {
                    fetched.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    incoming.write(&blob)
                };
                store.receive_layer(&lease, &descriptor, Some(Digest::of(&content)), fetch, &()).unwrap();
            });
        }
    });
    assert_eq!(fetched.into_inner(), 1);
}

#[test]
fn images_are_found_by_name_digest_and_id() {
    let (_dir, store) = store("names");
    let a = image(&store, "r.example/a:latest", &[]);
    let b = image(&store, "zed:1", &[]);
    let id = store.image("zed:1").unwrap().id().hex();
    for (what, manifest) in [
        ("r.example/a:latest", &a),
        ("r.example/a", &a),
        ("zed:1", &b),
        (&*format!("zed@{}", b.digest), &b),
        (&*format!("@{}", b.digest), &b),
        (&*b.digest.to_string(), &b),
        (&*b.digest.short(), &b),
        (&*id, &b),
        (&id[..12], &b),
        (&*format!("sha256:{}", &id[..20]), &b),
    ] {
        assert_eq!(store.image(what).unwrap().descriptor.digest, manifest.digest, "{what}");
    }
    for (what, kind) in [
        ("zed", ErrorKind::NotFound),
        ("zed:2", ErrorKind::NotFound),
        ("", ErrorKind::NotFound),
        ("sha256:", ErrorKind::NotFound),
        (&*format!("r.example/a@{}", b.digest), ErrorKind::NotFound),
        ("zed@sha256:zz", ErrorKind::Invalid),
    ] {
        assert_eq!(store.image(what).unwrap_err().kind(), kind, "{what}");
    }
    // Of seventeen ids two begin with the same digit.
    for i in 0..17 {
        image(&store, &format!("many:{i}"), &[]);
    }
    let ambiguous = "0123456789abcdef"
        .chars()
        .filter(|c| store.image(&c.to_string()).is_err_and(|e| e.to_string().contains("more than one")));
    assert!(ambiguous.count() > 0);
}

#[test]
fn an_image_that_loses_its_name_is_kept_until_it_is_pruned() {
    let (_dir, store) = store("dangling");
    let old = image(&store, "a:1", &[]);
    let config = serde_json::json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    let config = store.put(media::CONFIG, config.to_string().as_bytes(), None).unwrap();
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []});
    let new = store.put(media::MANIFEST, manifest.to_string().as_bytes(), None).unwrap();
    store.set_ref("a:1", &new).unwrap();
    let refs = store.refs().unwrap();
    assert_eq!(
        refs.iter().map(|r| (r.name.as_deref(), r.manifest.digest)).collect::<Vec<_>>(),
        [(Some("a:1"), new.digest), (None, old.digest)]
    );
    store.set_ref("zed:1", &old).unwrap();
    assert_eq!(store.refs().unwrap().len(), 2, "the name takes the place of none");
    store.remove_ref("zed:1").unwrap();
    store.keep_nameless(&old).unwrap();
    let freed = store.prune(Prune::Unnamed).unwrap();
    assert_eq!((freed.manifests, freed.files), (vec![old.digest], 2));
    assert!(store.image("a:1").is_ok());
}

#[test]
fn pruning_keeps_what_names_and_bundles_need() {
    let (_dir, store) = store("prune");
    let layers: Vec<_> = (0..3u8)
        .map(|i| {
            let content = tar(&[("x", &[i; 50_000])]);
            let blob = packed(Compression::Gzip, &content);
            receive(&store, &blob, None).unwrap();
            (Descriptor::of(media::LAYER_GZIP, &blob), Digest::of(&content))
        })
        .collect();
    image(&store, "base:1", &layers[..1]);
    image(&store, "top:1", &layers[..2]);
    let bundled = image(&store, "bundled:1", &layers[2..]);
    let bundle = store.bundles().make_dir("b1").unwrap();
    bundle.replace("bundle.json", serde_json::json!({"manifest": bundled}).to_string().as_bytes()).unwrap();
    store.bundles().make_dir("not-yet").unwrap();

    let usage = store.usage().unwrap();
    let of = |name: &str| usage.images.iter().find(|i| i.image.names().any(|n| n == name)).unwrap();
    assert_eq!((of("base:1").size, of("base:1").shared, of("base:1").unique()), (50_000, 50_000, 0));
    assert_eq!((of("top:1").size, of("top:1").shared, of("top:1").unique()), (100_000, 50_000, 50_000));
    assert!(of("bundled:1").in_use && !of("top:1").in_use);
    assert_eq!(usage.reclaimable, 0);

    store.remove_ref("top:1").unwrap();
    let freed = store.prune(Prune::Unnamed).unwrap();
    assert_eq!(freed.bytes, of("top:1").disk);
    assert!(store.layer_info(&layers[0].1).unwrap().is_some() && store.layer_info(&layers[1].1).unwrap().is_none());
    let freed = store.prune(Prune::Unused).unwrap();
    assert_eq!(freed.names, ["base:1"]);
    assert!(store.image("bundled:1").is_ok() && store.layer_info(&layers[0].1).unwrap().is_none());
    assert!(store.layer_info(&layers[2].1).unwrap().is_some());
}

#[test]
fn nothing_is_pruned_under_a_lease() {
    let (dir, store) = store("lease");
    let lease = store.lease().unwrap();
    assert!(Sweep::try_take(&store.root).unwrap().is_none());
    let second = Store::open(&dir.path).unwrap();
    let (also, third) = (second.lease().unwrap(), store.lease().unwrap());
    drop((lease, third));
    assert!(Sweep::try_take(&store.root).unwrap().is_none());
    drop(also);
    assert!(Sweep::try_take(&store.root).unwrap().is_some());
}

#[test]
fn damage_is_found_and_repaired() {
    let (dir, store) = store("verify");
    let content = tar(&[("x", &[1; 50_000])]);
    let blob = packed(Compression::Gzip, &content);
    let diff_id = Digest::of(&content);
    receive(&store, &blob, None).unwrap();
    image(&store, "a:1", &[(Descriptor::of(media::LAYER_GZIP, &blob), diff_id)]);
    store.tree(&[diff_id]).unwrap();
    let damage = |name: String| {
        #[allow(clippy::disallowed_methods, reason = "a test's own directory")]
        let path = dir.path.join(name);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"!", 70).unwrap();
    };
    let bad = |verify| {
        let mut bad = Vec::new();
        let well =
            store.verify(verify, &mut |finding| bad.extend(finding.damage.as_ref().map(|_| finding.kind))).unwrap();
        (well, bad)
    };
    assert_eq!(bad(Verify::Report), (true, vec![]));
    damage(format!("layers/{}.idx", diff_id.hex()));
    assert_eq!(bad(Verify::Report), (false, vec!["table"]));
    assert_eq!(bad(Verify::Repair), (true, vec!["table"]));
    assert_eq!(bad(Verify::Report), (true, vec![]));
    damage(format!("layers/{}.tar", diff_id.hex()));
    assert_eq!(bad(Verify::Repair), (false, vec!["layer", "image"]));
    assert!(no_files(&store.layers));
    receive(&store, &blob, Some(diff_id)).unwrap();
    assert_eq!(bad(Verify::Report), (true, vec![]));
    damage(format!("blobs/sha256/{}", Digest::of(&blob).hex()));
    assert_eq!(bad(Verify::Repair), (false, vec!["blob", "image"]));
}

#[test]
fn a_tar_that_a_crash_left_without_its_table_is_no_damage_unless_an_image_needs_it() {
    let (_dir, store) = store("begun");
    let content = tar(&[("a", b"hello")]);
    let blob = packed(Compression::Gzip, &content);
    let diff_id = receive(&store, &blob, None).unwrap().diff_id;
    store.layers.unlink(&layers::table_name(&diff_id)).unwrap();
    assert!(store.verify(Verify::Report, &mut |finding| assert_eq!(finding.damage, None, "{finding:?}")).unwrap());
    image(&store, "app:1", &[(Descriptor::of(media::LAYER_GZIP, &blob), diff_id)]);
    assert!(!store.verify(Verify::Report, &mut |_| ()).unwrap());
}

#[test]
fn only_a_store_is_opened() {
    let dir = TestDir::new("open");
    dir.dir.create("letter").unwrap();
    assert!(Store::open(&dir.path).unwrap_err().to_string().contains("not empty"));
    let (dir, _) = store("version");
    dir.dir.replace("version", b"2\n").unwrap();
    let e = Store::open(&dir.path).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("newer"), "{e}");
}

/// What the killed processes of the next test do: receive layers, name images, prune, over and over.
#[test]
#[ignore = "the child of another test, started by it"]
fn work_until_killed() {
    let Some(path) = std::env::var_os("ORLOP_TEST_STORE") else { return };
    let store = Store::open(path.as_ref()).unwrap();
    for i in 0u32.. {
        let content = tar(&[("x", &vec![u8::try_from(i % 5).unwrap(); 200_000]), ("y", b"y")]);
        let blob = packed(if i % 3 == 0 { Compression::None } else { Compression::Gzip }, &content);
        let lease = store.lease().unwrap();
        receive(&store, &blob, (i % 2 == 0).then(|| Digest::of(&content))).unwrap();
        let layer = (Descriptor::of(media::LAYER_GZIP, &blob), Digest::of(&content));
        store.tree(&[layer.1]).unwrap();
        image(&store, &format!("i:{}", i % 3), &[layer]);
        drop(lease);
        if i % 4 == 3 {
            store.prune(Prune::Unnamed).unwrap();
        }
    }
}

#[test]
fn a_store_works_after_its_users_were_killed() {
    let (dir, first) = store("kill");
    drop(first);
    let mut images = 0;
    for round in 0..40u64 {
        let mut children: Vec<_> = (0..2)
            .map(|_| {
                Command::new("/proc/self/exe")
                    .args(["store::tests::work_until_killed", "--exact", "--ignored", "--test-threads=1"])
                    .env("ORLOP_TEST_STORE", &dir.path)
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(15 + round * 7 % 120));
        for child in &mut children {
            assert_eq!(child.try_wait().unwrap(), None, "it stopped by itself");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let store = Store::open(&dir.path).unwrap();
        let well = store.verify(Verify::Report, &mut |finding| {
            // A layer without its table yet is what a kill between two renames leaves, and no more than that.
            assert!(finding.damage.as_deref().is_none_or(|damage| damage == "not there"), "{finding:?}");
        });
        well.unwrap();
        images = images.max(store.images().unwrap().len());
        if round % 10 == 9 {
            store.prune(Prune::Unnamed).unwrap();
            assert!(no_files(&store.incoming), "{:?}", store.incoming.names());
            assert!(
                store.verify(Verify::Report, &mut |finding| assert_eq!(finding.damage, None, "{finding:?}")).unwrap()
            );
            let usage = store.usage().unwrap();
            assert_eq!(usage.reclaimable, 0);
        }
    }
    assert!(images > 0, "the children came nowhere");
}

#[test]
fn a_jailed_worker_writes_a_directory_and_commits_what_was_changed_there() {
    use crate::commit::{Changes, Options};
    use crate::directory::Owners;
    let (_dir, store) = store("commit");
    let below = TestDir::new("commit-roots");
    let roots = Dir::at(&below.path).unwrap();
    let base = tar(&[("file", b"base")]);
    let base = receive(&store, &packed(Compression::Gzip, &base), None).unwrap();
    let owners = if rustix::process::geteuid().is_root() { Owners::Keep } else { Owners::Rootless };
    let root = roots.make_dir("root").unwrap();
    let written = store.write_directory(&[base.diff_id], &root, &owners).unwrap();
    assert_eq!(root.names().unwrap(), ["file"]);
    let created = Some((written.finished.sec, written.finished.nsec));
    let options = Options { owners, ..Options::default() };
    let lease = store.lease().unwrap();
    let commit = |compression| {
        store
            .commit_layer(&lease, &[base.diff_id], &root, Changes::Whole { created }, &options, compression, None)
            .unwrap()
    };
    assert!(commit(Compression::Gzip).0.is_none());

    root.unlink("file").unwrap();
    root.create("new").unwrap().write_all(b"changed").unwrap();
    let lines = store.diff(&[base.diff_id], &root, Changes::Whole { created }, &options).unwrap();
    assert_eq!(lines.iter().map(ToString::to_string).collect::<Vec<_>>(), ["D /file", "A /new"]);
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let (layer, summary) = commit(compression);
        let layer = layer.unwrap();
        assert_eq!((summary.removed, summary.bytes), (1, 7));
        let blob = store.blob(&layer.digest).unwrap().unwrap();
        assert_eq!(Digest::of_reader(blob).unwrap(), (layer.digest, layer.size));
        assert_eq!(store.layer_info(&layer.diff_id).unwrap().unwrap().content, 7);
        let both = [base.diff_id, layer.diff_id];
        let again = roots.make_dir(&format!("{compression:?}")).unwrap();
        store.write_directory(&both, &again, &options.owners).unwrap();
        assert_eq!(again.names().unwrap(), ["new"]);
        assert_eq!(again.read("new", 10).unwrap(), b"changed");
    }
    assert!(store.verify(Verify::Report, &mut |_| {}).unwrap());
}
