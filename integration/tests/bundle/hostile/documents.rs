//! Layouts, manifests and configurations that say something else than what is there.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use orlop_images::layout::{self, Layer, Layout, Packing, media};
use orlop_images::recipes;
use orlop_images::tar::Tar;
use serde_json::{Value, json};

use super::{Cases, Want, inside, listings};

fn good(layout: &Layout) -> Layer {
    let mut tar = Tar::new();
    tar.file("a", "content");
    layout.layer_of(Packing::Plain, &tar.end())
}

fn image(layout: &mut Layout) -> (Layer, Value) {
    let layer = good(layout);
    let image = layout.image("t", std::slice::from_ref(&layer), recipes::shell());
    (layer, image.manifest)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

pub(super) fn all(cases: &mut Cases<'_>) {
    cases.layout("an image that is fine", listings(&[&["f a 7"]]), |l| drop(image(l)));
    blobs(cases);
    layouts(cases);
    descriptors(cases);
    manifests(cases);
    configurations(cases);
}

/// Blobs that are not what they are called.
fn blobs(cases: &mut Cases<'_>) {
    let canary = cases.canary();
    for which in ["layer", "manifest", "config"] {
        let path = move |layout: &mut Layout| {
            let (layer, manifest) = image(layout);
            let of_manifest = layout.path(text(&manifest, "digest"));
            match which {
                "layer" => layout.path(text(&layer.descriptor, "digest")),
                "manifest" => of_manifest,
                _ => {
                    let manifest: Value = serde_json::from_slice(&fs::read(of_manifest).unwrap()).unwrap();
                    layout.path(text(&manifest["config"], "digest"))
                }
            }
        };
        let mut case = |what: &str, harm: Box<dyn Fn(&std::path::Path)>| {
            cases.layout(format!("T50 T52: the {which} {what}"), Want::Refused, move |layout| harm(&path(layout)));
        };
        case(
            "has a byte changed",
            Box::new(|path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[5] ^= 1;
                fs::write(path, bytes).unwrap();
            }),
        );
        case(
            "is cut",
            Box::new(|path| {
                let bytes = fs::read(path).unwrap();
                fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
            }),
        );
        case(
            "has more bytes",
            Box::new(|path| fs::write(path, [fs::read(path).unwrap(), vec![0; 512]].concat()).unwrap()),
        );
        case("is empty", Box::new(|path| fs::write(path, "").unwrap()));
        case("is missing", Box::new(|path| fs::remove_file(path).unwrap()));
        case(
            "is a folder",
            Box::new(|path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
        );
        case(
            "is a FIFO",
            Box::new(|path| {
                fs::remove_file(path).unwrap();
                assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
            }),
        );
        let target = format!("{canary}/secret");
        case(
            "is a link to what is outside",
            Box::new(move |path| {
                fs::remove_file(path).unwrap();
                symlink(&target, path).unwrap();
            }),
        );
    }
}

/// Folders that are no layouts.
fn layouts(cases: &mut Cases<'_>) {
    for (what, name, content) in [
        ("index.json is not JSON", "index.json", "{"),
        ("index.json is a list", "index.json", "[]"),
        ("index.json is of version 1", "index.json", r#"{"schemaVersion": 1, "manifests": []}"#),
        ("index.json has no images", "index.json", r#"{"schemaVersion": 2, "manifests": []}"#),
        ("index.json has a name twice", "index.json", r#"{"schemaVersion": 2, "manifests": [], "manifests": []}"#),
        ("the layout is of another version", "oci-layout", r#"{"imageLayoutVersion": "9.0.0"}"#),
        ("oci-layout is empty", "oci-layout", ""),
    ] {
        cases.layout(what, Want::Refused, move |layout| {
            image(layout);
            fs::write(inside(layout, name), content).unwrap();
        });
    }
    cases.layout("T48: index.json of 20 MiB", Want::Refused, |layout| {
        image(layout);
        let text = fs::read_to_string(inside(layout, "index.json")).unwrap();
        fs::write(inside(layout, "index.json"), format!("{}{text}", " ".repeat(20 << 20))).unwrap();
    });
    cases.layout("T48: index.json nested deeply", Want::Refused, |layout| {
        image(layout);
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let text = format!(r#"{{"schemaVersion": 2, "manifests": [], "x": {deep}}}"#);
        fs::write(inside(layout, "index.json"), text).unwrap();
    });
    for name in ["index.json", "oci-layout"] {
        cases.layout(format!("T52: {name} is a FIFO"), Want::Refused, move |layout| {
            image(layout);
            fs::remove_file(inside(layout, name)).unwrap();
            assert!(Command::new("mkfifo").arg(inside(layout, name)).status().unwrap().success());
        });
    }
}

/// Descriptors in index.json.
fn descriptors(cases: &mut Cases<'_>) {
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for digest in [
        "sha256:../../../../../../../../etc/passwd".to_owned(),
        "../../canary:secret".to_owned(),
        format!("sha256:{}", hex.to_uppercase()),
        format!("sha256:{}", &hex[..63]),
        format!("sha256:{hex}0"),
        format!("sha256:{}/", &hex[..63]),
        format!("sha512:{hex}{hex}"),
        format!("md5:{}", &hex[..32]),
        hex.to_owned(),
        String::new(),
    ] {
        cases.layout(format!("T51: the digest {digest:?}"), Want::Refused, move |layout| {
            layout.entry("t", json!({"mediaType": media::MANIFEST, "digest": digest, "size": 0}));
        });
    }
    for size in [json!(-1), json!(0), json!(1), json!(1u64 << 40), json!(u64::MAX), json!(1.5), json!("9"), Value::Null]
    {
        cases.layout(format!("T50: the size {size}"), Want::Refused, move |layout| {
            let layer = good(layout);
            let mut manifest = layout.image("other", &[layer], recipes::shell()).manifest;
            manifest["size"] = size.clone();
            layout.entry("t", manifest);
        });
    }
    cases.layout("a descriptor whose data is something else", Want::Refused, |layout| {
        let layer = good(layout);
        let mut manifest = layout.image("other", &[layer], recipes::shell()).manifest;
        manifest["data"] = json!("eyJzY2hlbWFWZXJzaW9uIjoyfQ==");
        layout.entry("t", manifest);
    });
    cases.layout("an index in itself 1000 deep", Want::Refused, |layout| {
        let (_, mut inner) = image(layout);
        for _ in 0..1000 {
            let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [inner]});
            inner = layout.blob(media::INDEX, &serde_json::to_vec(&index).unwrap());
        }
        fs::write(inside(layout, "index.json"), r#"{"schemaVersion": 2, "manifests": []}"#).unwrap();
        *layout = Layout::new(layout.dir.clone());
        layout.entry("t", inner);
    });
    cases.layout("an index for other machines only", Want::Refused, |layout| {
        let layer = good(layout);
        let mut manifest = layout.image("other", &[layer], recipes::shell()).manifest;
        manifest["platform"] = json!({"os": "plan9", "architecture": "mips"});
        let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [manifest]});
        let index = layout.blob(media::INDEX, &serde_json::to_vec(&index).unwrap());
        layout.entry("t", index);
    });
}

/// Manifests.
fn manifests(cases: &mut Cases<'_>) {
    type Change = fn(&mut Value, &Layout);
    let changes: [(&str, Change); 17] = [
        ("T54 CVE-2021-41190: is an index too", |m, _| m["manifests"] = json!([])),
        ("T54: says that it is an index", |m, _| m["mediaType"] = json!(media::INDEX)),
        ("T54: has the configuration of another kind", |m, _| m["config"]["mediaType"] = json!("application/x-chart")),
        ("T54: has the empty configuration", |m, l| {
            m["config"] = l.blob("application/vnd.oci.empty.v1+json", b"{}");
            m["artifactType"] = json!("application/x-thing");
        }),
        ("T54: has null for a configuration", |m, _| m["config"] = Value::Null),
        ("T54: has a list of configurations", |m, _| m["config"] = json!([m["config"]])),
        ("is of version 1", |m, _| m["schemaVersion"] = json!(1)),
        ("is of no version", |m, _| drop(m.as_object_mut().unwrap().remove("schemaVersion"))),
        ("T53: has fewer layers than diff ids", |m, _| m["layers"] = json!([])),
        ("T53: has more layers than diff ids", |m, _| m["layers"] = json!([m["layers"][0], m["layers"][0]])),
        ("T48: has 100,000 layers", |m, _| m["layers"] = json!(vec![m["layers"][0].clone(); 20_000])),
        ("has a layer of an unknown kind", |m, _| m["layers"][0]["mediaType"] = json!("application/x-cpio")),
        ("has a layer of negative size", |m, _| m["layers"][0]["size"] = json!(-7)),
        ("has a layer of a larger size", |m, _| m["layers"][0]["size"] = json!(1 << 30)),
        ("has a layer of a smaller size", |m, _| m["layers"][0]["size"] = json!(512)),
        ("has a layer whose digest is a path", |m, _| m["layers"][0]["digest"] = json!("sha256:../../index.json")),
        ("CVE-2020-15157: has a layer that is elsewhere", |m, l| {
            let digest = text(&m["layers"][0], "digest").to_owned();
            fs::remove_file(l.path(&digest)).unwrap();
            m["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
            m["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]);
        }),
    ];
    for (what, change) in changes {
        // What is no image can be kept and copied, and not be run.
        let artifact = what.contains("the configuration of another") || what.contains("the empty configuration");
        let want = if artifact { Want::NotCreated } else { Want::Refused };
        cases.layout(format!("a manifest that {what}"), want, move |layout| {
            let (_, manifest) = image(layout);
            let bytes = fs::read(layout.path(text(&manifest, "digest"))).unwrap();
            let mut document: Value = serde_json::from_slice(&bytes).unwrap();
            change(&mut document, layout);
            *layout = Layout::new(layout.dir.clone());
            layout.manifest("t", &document);
        });
    }
    cases.layout("a manifest of 9 MiB", Want::Refused, |layout| {
        let (_, manifest) = image(layout);
        let bytes = fs::read(layout.path(text(&manifest, "digest"))).unwrap();
        let descriptor = layout.blob(media::MANIFEST, &[bytes, vec![b' '; 9 << 20]].concat());
        *layout = Layout::new(layout.dir.clone());
        layout.entry("t", descriptor);
    });
    cases.layout("a manifest with a name twice", Want::Refused, |layout| {
        let (_, manifest) = image(layout);
        let text = fs::read_to_string(layout.path(text(&manifest, "digest"))).unwrap();
        let twice = text.replacen('{', r#"{"layers": [], "#, 1);
        let descriptor = layout.blob(media::MANIFEST, twice.as_bytes());
        *layout = Layout::new(layout.dir.clone());
        layout.entry("t", descriptor);
    });
}

/// Configurations.
fn configurations(cases: &mut Cases<'_>) {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 8] = [
        ("T53: a diff id that is another", |c| c["rootfs"]["diff_ids"][0] = json!(layout::digest(b"other"))),
        ("T53: a diff id that is a path", |c| c["rootfs"]["diff_ids"][0] = json!("sha256:../../x")),
        ("T53: no diff ids", |c| c["rootfs"]["diff_ids"] = json!([])),
        ("T53: a root file system of another type", |c| c["rootfs"]["type"] = json!("base")),
        ("T53: no root file system", |c| drop(c.as_object_mut().unwrap().remove("rootfs"))),
        ("T54: a list", |c| *c = json!([c.clone()])),
        ("T54: null", |c| *c = Value::Null),
        ("an environment that is no list", |c| c["config"]["Env"] = json!({"A": "b"})),
    ];
    for (what, change) in changes {
        cases.layout(format!("a configuration with {what}"), Want::Refused, move |layout| {
            let layer = good(layout);
            let mut config = layout::config(std::slice::from_ref(&layer), recipes::shell());
            change(&mut config);
            layout.image_with("t", &[layer], &config);
        });
    }
}
