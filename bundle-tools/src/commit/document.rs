//! The documents of an image that is another one and a layer more.
//!
//! The parent's configuration is edited as JSON and not written again from types, so what Docker and others keep there
//! (health checks, `ArgsEscaped`, `OnBuild`, `Shell`) survives.

use serde_json::{Map, Value, json};

use super::change;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Compression, Descriptor, MAX_LAYERS, Manifest, media};
use crate::json;
use crate::layer::Time;

/// What the user says about the new image.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Who made it; the parent's author stays if this is `None`.
    pub author: Option<String>,
    /// Why: the comment of the new step of the history.
    pub message: Option<String>,
    /// The command that made the change, for the history.
    pub created_by: String,
    /// Lines of a Dockerfile ([`change::apply`]).
    pub changes: Vec<String>,
    /// When: now, or `SOURCE_DATE_EPOCH`.
    pub created: Time,
}

/// The layer that comes on top.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// The digest of the plain tar.
    pub diff_id: Digest,
    /// The digest of the blob.
    pub digest: Digest,
    /// The length of the blob, in bytes.
    pub size: u64,
    /// How the blob is packed.
    pub compression: Compression,
}

/// A new image's documents, to be put into the store as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The configuration's bytes.
    pub config: Vec<u8>,
    /// Its descriptor; its digest is the image's id.
    pub config_descriptor: Descriptor,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Its descriptor.
    pub manifest_descriptor: Descriptor,
}

/// The image that is the one of `manifest` and `config` with `layer` on top; without a layer, only the configuration
/// changes and the step is marked as empty.
///
/// The new documents have the types of the parent's, Docker's or the specification's; a zstd layer makes the image one of
/// the specification's, as Docker's schema 2 has no type for it. Members of the parent's configuration that speak of the
/// container it was made in (`container`, `container_config`, `id`, `parent`) go, as do the manifest's annotations and
/// subject: they were said about another image. The same arguments give the same bytes.
pub fn image(manifest: &Manifest, config: &[u8], layer: Option<&NewLayer>, about: &About) -> Result<Documents> {
    let docker = match layer.map(|layer| layer.compression) {
        Some(Compression::Zstd) => false,
        _ => manifest.media_type == media::DOCKER_MANIFEST || manifest.config.media_type == media::DOCKER_CONFIG,
    };
    let mut layers = manifest.layers.clone();
    if let Some(layer) = layer {
        if layers.len() >= MAX_LAYERS {
            return Err(Error::invalid(format!("image: has {MAX_LAYERS} layers already, which is the most")));
        }
        layers.push(Descriptor::new(layer_type(docker, layer.compression), layer.digest, layer.size));
    }
    for layer in &mut layers {
        layer.media_type = retyped(docker, &layer.media_type).to_owned();
    }

    let config = edited(config, manifest.layers.len(), layer.map(|layer| layer.diff_id), about)?;
    let config_type = if docker { media::DOCKER_CONFIG } else { media::CONFIG };
    let config_descriptor = Descriptor::of(config_type, &config);
    let manifest_type = if docker { media::DOCKER_MANIFEST } else { media::MANIFEST };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": config_descriptor,
        "layers": layers,
    });
    let manifest = bytes_of(&manifest)?;
    let manifest_descriptor = Descriptor::of(manifest_type, &manifest);
    Ok(Documents { config, config_descriptor, manifest, manifest_descriptor })
}

fn bytes_of(value: &Value) -> Result<Vec<u8>> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::invalid(format!("image: {e}")))?;
    if bytes.len() as u64 > json::MAX_DOCUMENT {
        return Err(Error::invalid(format!("image: a document larger than {} MiB", json::MAX_DOCUMENT >> 20)));
    }
    Ok(bytes)
}

/// The media type of a layer of ours.
fn layer_type(docker: bool, compression: Compression) -> &'static str {
    match (docker, compression) {
        (true, Compression::None) => media::DOCKER_LAYER,
        (true, _) => media::DOCKER_LAYER_GZIP,
        (false, Compression::None) => media::LAYER,
        (false, Compression::Gzip) => media::LAYER_GZIP,
        (false, Compression::Zstd) => media::LAYER_ZSTD,
    }
}

/// The type of the same bytes in a manifest of the other family; a type that has no other stays.
fn retyped(docker: bool, old: &str) -> &str {
    const PAIRS: [(&str, &str); 4] = [
        (media::DOCKER_LAYER, media::LAYER),
        (media::DOCKER_LAYER_GZIP, media::LAYER_GZIP),
        (media::DOCKER_FOREIGN, media::FOREIGN),
        (media::DOCKER_FOREIGN_GZIP, media::FOREIGN_GZIP),
    ];
    let other = PAIRS.iter().find_map(|&(a, b)| match docker {
        true => (b == old).then_some(a),
        false => (a == old).then_some(b),
    });
    other.unwrap_or(old)
}

fn edited(config: &[u8], layers: usize, diff_id: Option<Digest>, about: &About) -> Result<Vec<u8>> {
    let mut root: Map<String, Value> = json::parse("image configuration", config)?;
    for stale in ["container", "container_config", "id", "parent"] {
        root.remove(stale);
    }
    let created = rfc3339(about.created)?;
    root.insert("created".into(), created.clone().into());
    if let Some(author) = &about.author {
        root.insert("author".into(), author.as_str().into());
    }

    let mut step = Map::new();
    step.insert("created".into(), created.into());
    let author = about.author.as_deref().unwrap_or_default();
    let words = [("created_by", about.created_by.as_str()), ("author", author)];
    for (name, text) in words.into_iter().chain([("comment", about.message.as_deref().unwrap_or_default())]) {
        if !text.is_empty() {
            step.insert(name.into(), text.into());
        }
    }
    if diff_id.is_none() {
        step.insert("empty_layer".into(), true.into());
    }
    member(&mut root, "history", || Value::Array(Vec::new()))?
        .as_array_mut()
        .ok_or_else(|| wrong("history", "a list"))?
        .push(step.into());

    let rootfs = member(&mut root, "rootfs", || json!({"type": "layers"}))?;
    let rootfs = rootfs.as_object_mut().ok_or_else(|| wrong("rootfs", "an object"))?;
    let ids = member(rootfs, "diff_ids", || Value::Array(Vec::new()))?;
    let ids = ids.as_array_mut().ok_or_else(|| wrong("rootfs.diff_ids", "a list"))?;
    if ids.len() != layers {
        return Err(Error::invalid(format!(
            "image configuration: rootfs.diff_ids: {} of them for {layers} layers",
            ids.len()
        )));
    }
    ids.extend(diff_id.map(|id| Value::from(id.to_string())));

    let run = member(&mut root, "config", || Value::Object(Map::new()))?;
    change::apply(run.as_object_mut().ok_or_else(|| wrong("config", "an object"))?, &about.changes)?;
    bytes_of(&Value::Object(root))
}

/// The member `name`, made if it isn't there or is `null`.
fn member<'a>(of: &'a mut Map<String, Value>, name: &str, new: impl FnOnce() -> Value) -> Result<&'a mut Value> {
    let value = of.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = new();
    }
    Ok(value)
}

fn wrong(name: &str, what: &str) -> Error {
    Error::invalid(format!("image configuration: {name}: is not {what}"))
}

/// A time of the years 1 to 9999 as RFC 3339 has it, in UTC, with nanoseconds if there are any.
fn rfc3339(time: Time) -> Result<String> {
    let (days, second) = (time.sec.div_euclid(86_400), time.sec.rem_euclid(86_400));
    // Years that begin in March, in eras of 400 years: a leap day is then the last of its year.
    let days = days.checked_add(719_468).ok_or_else(|| Error::invalid("created: no such time"))?;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, after) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + after;
    if !(1..=9999).contains(&year) {
        return Err(Error::invalid(format!("created: year {year} has no name in RFC 3339")));
    }
    let fraction = match time.nsec {
        0 => String::new(),
        nsec => format!(".{nsec:09}"),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Ok(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Document, ImageConfig};

    fn parent(docker: bool) -> (Manifest, Vec<u8>) {
        let config = json!({
            "created": "2020-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "author": "them",
            "container": "abc", "container_config": {"Cmd": ["old"]}, "docker_version": "20.10",
            "config": {
                "Env": ["PATH=/bin"], "Cmd": ["sh"], "ArgsEscaped": true, "OnBuild": ["RUN x"], "Shell": ["/bin/bash", "-c"],
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 30_000_000_000u64}, "Labels": null,
            },
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"tar")]},
            "history": [{"created_by": "base"}],
            "x.of.somebody": [1, {"deep": 1.5}],
        });
        let config = serde_json::to_vec(&config).unwrap();
        let types = if docker {
            [media::DOCKER_MANIFEST, media::DOCKER_CONFIG, media::DOCKER_LAYER_GZIP]
        } else {
            [media::MANIFEST, media::CONFIG, media::LAYER_GZIP]
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": types[0], "config": Descriptor::of(types[1], &config),
            "layers": [Descriptor::of(types[2], b"gz")], "annotations": {"a": "b"},
        });
        match Document::parse(types[0], &serde_json::to_vec(&manifest).unwrap()).unwrap() {
            Document::Manifest(manifest) => (manifest, config),
            Document::Index(_) => panic!("not an index"),
        }
    }

    fn layer(compression: Compression) -> NewLayer {
        NewLayer { diff_id: Digest::of(b"new tar"), digest: Digest::of(b"new blob"), size: 8, compression }
    }

    fn about() -> About {
        About {
            author: None,
            message: Some("why".into()),
            created_by: "sh -c make".into(),
            changes: vec!["ENV PATH=/x:$PATH".into(), "CMD run".into()],
            created: Time { sec: 1_700_000_000, nsec: 0 },
        }
    }

    #[test]
    fn the_new_image_is_the_old_one_and_a_layer() {
        let (manifest, config) = parent(false);
        let made = image(&manifest, &config, Some(&layer(Compression::Gzip)), &about()).unwrap();
        let got: Value = serde_json::from_slice(&made.config).unwrap();
        let expected = json!({
            "created": "2023-11-14T22:13:20Z", "architecture": "amd64", "os": "linux", "author": "them",
            "docker_version": "20.10",
            "config": {
                "Env": ["PATH=/x:/bin"], "Cmd": ["/bin/bash", "-c", "run"], "ArgsEscaped": true, "OnBuild": ["RUN x"],
                "Shell": ["/bin/bash", "-c"], "Healthcheck": {"Test": ["CMD", "x"], "Interval": 30_000_000_000u64},
                "Labels": null,
            },
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"tar"), Digest::of(b"new tar")]},
            "history": [
                {"created_by": "base"},
                {"created": "2023-11-14T22:13:20Z", "created_by": "sh -c make", "comment": "why"},
            ],
            "x.of.somebody": [1, {"deep": 1.5}],
        });
        assert_eq!(got, expected);

        let Document::Manifest(read) = Document::parse(media::MANIFEST, &made.manifest).unwrap() else { panic!() };
        assert_eq!(read.config, Descriptor::of(media::CONFIG, &made.config));
        assert_eq!(read.layers[0], manifest.layers[0]);
        assert_eq!(read.layers[1], Descriptor::new(media::LAYER_GZIP, Digest::of(b"new blob"), 8));
        assert_eq!(read.layers.len(), 2);
        assert!(read.annotations.is_empty());
        assert_eq!(made.manifest_descriptor, Descriptor::of(media::MANIFEST, &made.manifest));
        ImageConfig::parse(&made.config, read.layers.len()).unwrap();
        assert_eq!(image(&manifest, &config, Some(&layer(Compression::Gzip)), &about()).unwrap(), made);
    }

    #[test]
    fn documents_have_the_types_of_the_parents_unless_the_layer_has_none_there() {
        use Compression::{Gzip, None as Plain, Zstd};
        let oci = [media::MANIFEST, media::CONFIG, media::LAYER_GZIP];
        let docker = [media::DOCKER_MANIFEST, media::DOCKER_CONFIG, media::DOCKER_LAYER_GZIP];
        for (from_docker, compression, types, top) in [
            (false, Gzip, oci, media::LAYER_GZIP),
            (false, Zstd, oci, media::LAYER_ZSTD),
            (false, Plain, oci, media::LAYER),
            (true, Gzip, docker, media::DOCKER_LAYER_GZIP),
            (true, Plain, docker, media::DOCKER_LAYER),
            (true, Zstd, oci, media::LAYER_ZSTD),
        ] {
            let (manifest, config) = parent(from_docker);
            let made = image(&manifest, &config, Some(&layer(compression)), &about()).unwrap();
            let Document::Manifest(read) = Document::parse(types[0], &made.manifest).unwrap() else { panic!() };
            let got: Vec<_> = read.layers.iter().map(|layer| layer.media_type.as_str()).collect();
            assert_eq!((read.config.media_type.as_str(), got), (types[1], vec![types[2], top]));
        }
    }

    #[test]
    fn without_a_layer_only_the_configuration_changes() {
        let (manifest, config) = parent(true);
        let about = About { author: Some("me".into()), ..about() };
        let made = image(&manifest, &config, None, &about).unwrap();
        let read = ImageConfig::parse(&made.config, 1).unwrap();
        assert_eq!(read.author, "me");
        assert!(read.history[1].empty_layer);
        assert_eq!(read.history[1].author, "me");
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused() {
        let (manifest, config) = parent(false);
        let text = String::from_utf8(config).unwrap();
        for (config, word) in [
            (text.replace("\"history\":[{\"created_by\":\"base\"}]", "\"history\":{}"), "history: is not a list"),
            (text.replace("\"diff_ids\":[", "\"diff_ids\":[\"x\","), "2 of them for 1 layers"),
            (text.replace("\"config\":{", "\"config\":[],\"y\":{"), "config: is not an object"),
            (text.replace('}', ""), "image configuration"),
        ] {
            let said = image(&manifest, config.as_bytes(), None, &about()).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
        let nulls = text.replace("\"history\":[{\"created_by\":\"base\"}]", "\"history\":null");
        image(&manifest, nulls.as_bytes(), None, &about()).unwrap();
    }

    #[test]
    fn a_time_is_written_as_rfc_3339_has_it() {
        for (sec, nsec, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
            (951_782_399, 0, "2000-02-28T23:59:59Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000000001Z"),
            (951_868_800, 0, "2000-03-01T00:00:00Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(Time { sec, nsec }).unwrap(), text);
        }
        assert!(rfc3339(Time { sec: 253_402_300_800, nsec: 0 }).is_err());
        assert!(rfc3339(Time { sec: i64::MAX, nsec: 0 }).is_err());
        assert!(rfc3339(Time { sec: i64::MIN, nsec: 0 }).is_err());
    }
}
