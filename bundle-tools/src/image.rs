//! The documents of an image: descriptors, indexes, manifests and configurations (image-spec 1.1), and Docker's of the
//! same shape.
//!
//! They are read tolerantly, as the specification asks: unknown properties and `null` are no error. A document is
//! never written again from these types: its bytes are its identity, so they are kept and copied as they came.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::json;

/// Media types by name.
pub mod media {
    #![allow(missing_docs, reason = "the names are the documentation")]
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    pub const FOREIGN_GZIP: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    pub const FOREIGN_ZSTD: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    pub const DOCKER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    pub const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
}

/// How a layer's bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, of one member or many (RFC 1952).
    Gzip,
    /// zstd, of one frame or many, skippable ones included (RFC 8878).
    Zstd,
}

/// What a layer's media type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerType {
    /// What the type promises. The first bytes have the last word (`compress::detect`), as Docker's types are used
    /// for every compression.
    pub compression: Compression,
    /// A layer that is not in the registry but at a URL ("foreign", "nondistributable").
    pub foreign: bool,
}

impl LayerType {
    /// The layer that `media_type` means, if it means one.
    pub fn of(media_type: &str) -> Option<Self> {
        use Compression::{Gzip, None as Plain, Zstd};
        let (compression, foreign) = match media_type {
            media::LAYER | media::DOCKER_LAYER => (Plain, false),
            media::LAYER_GZIP | media::DOCKER_LAYER_GZIP => (Gzip, false),
            media::LAYER_ZSTD | media::DOCKER_LAYER_ZSTD => (Zstd, false),
            media::FOREIGN | media::DOCKER_FOREIGN => (Plain, true),
            media::FOREIGN_GZIP | media::DOCKER_FOREIGN_GZIP => (Gzip, true),
            media::FOREIGN_ZSTD => (Zstd, true),
            _ => return None,
        };
        Some(Self { compression, foreign })
    }
}

/// `null` is the default, as in Go.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> std::result::Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A reference to content (descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes. A negative number is not read at all.
    pub size: u64,
    /// Where a foreign layer would be. Never fetched (CVE-2020-15157).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free words about it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, in base64; must be what the digest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What it runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The kind of artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// A descriptor with nothing but what it must have.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }
}

/// What an image runs on, in Go's names (image-index.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, ...
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    /// `linux`.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// `v8`, `v7`, ...
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Of Windows.
    #[serde(default, rename = "os.version", deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Of Windows.
    #[serde(default, rename = "os.features", deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// A list of manifests (image-index.md); Docker's manifest list reads the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Should be there, and in Docker's documents is.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The manifests, or further indexes.
    #[serde(default, deserialize_with = "nullable")]
    pub manifests: Vec<Descriptor>,
    /// Free words about it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image's, or another artifact's, list of parts (manifest.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Should be there, and in Docker's documents is.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The kind of artifact, if it is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, from the base up.
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
    /// What this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free words about it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A document that was reached by a digest or a tag: one or the other, never both (CVE-2021-41190).
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one at a time")]
pub enum Document {
    /// A choice by platform.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// The most layers that an image may have. Docker stops at 127; the merged tree has no such bound, so this one only keeps
/// hostile lists small.
pub const MAX_LAYERS: usize = 1024;

impl Document {
    /// Reads `bytes`, which were announced as `media_type`. The type decides, and the document must agree with it: its
    /// own `mediaType` if it has one, and its members.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            schema_version: Option<u32>,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let shape: Shape = json::parse("manifest", bytes)?;
        if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
            return Err(Error::unsupported("manifest: schema version 1 has no content that can be verified"));
        }
        if shape.schema_version != Some(2) {
            return Err(Error::invalid("manifest: schemaVersion is not 2"));
        }
        if let Some(own) = shape.media_type.filter(|own| !own.is_empty() && own != media_type) {
            return Err(Error::invalid(format!(
                "manifest: says that it is {own:?} and was announced as {media_type:?}"
            )));
        }
        let (is_index, is_manifest) = (shape.manifests.is_some(), shape.layers.is_some() || shape.config.is_some());
        if is_index && is_manifest {
            return Err(Error::invalid("manifest: has the members of a manifest and of an index (CVE-2021-41190)"));
        }
        match media_type {
            media::INDEX | media::DOCKER_LIST if !is_manifest => Ok(Self::Index(json::parse("index", bytes)?)),
            media::MANIFEST | media::DOCKER_MANIFEST if !is_index => {
                let manifest: Manifest = json::parse("manifest", bytes)?;
                if manifest.layers.len() > MAX_LAYERS {
                    return Err(Error::invalid(format!("manifest: more than {MAX_LAYERS} layers")));
                }
                Ok(Self::Manifest(manifest))
            }
            media::INDEX | media::DOCKER_LIST | media::MANIFEST | media::DOCKER_MANIFEST => {
                Err(Error::invalid(format!("manifest: announced as {media_type:?}, which it is not")))
            }
            _ => Err(Error::unsupported(format!("media type {media_type:?}: neither an image nor an index"))),
        }
    }
}

/// True for the media types of manifests and indexes.
pub fn is_document(media_type: &str) -> bool {
    matches!(media_type, media::INDEX | media::DOCKER_LIST | media::MANIFEST | media::DOCKER_MANIFEST)
}

/// The bytes of a new manifest.
pub fn manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<Vec<u8>> {
    let document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "config": config,
        "layers": layers,
    });
    serde_json::to_vec(&document).map_err(|e| Error::invalid(format!("manifest: {e}")))
}

/// An image's configuration (config.md), as far as it is acted on. What Docker adds to it (health checks, `ArgsEscaped`)
/// survives a commit because that edits the JSON value and not this.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339.
    #[serde(default)]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, deserialize_with = "nullable")]
    pub author: String,
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// How to run it.
    #[serde(default, deserialize_with = "nullable")]
    pub config: RunConfig,
    /// Its layers.
    pub rootfs: RootFs,
    /// What made them.
    #[serde(default, deserialize_with = "nullable")]
    pub history: Vec<History>,
}

/// `rootfs` of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`, and nothing else.
    #[serde(rename = "type")]
    pub kind: String,
    /// The digests of the plain tars, from the base up.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Free words.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// True if the step made no layer.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// `config` of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "config.md is the documentation of its fields")]
pub struct RunConfig {
    #[serde(default, deserialize_with = "nullable")]
    pub user: String,
    #[serde(default, deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub working_dir: String,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub stop_signal: String,
}

impl ImageConfig {
    /// Reads the configuration `bytes` of a manifest with `layers` layers.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self> {
        let config: Self = json::parse("image configuration", bytes)?;
        if config.rootfs.kind != "layers" {
            return Err(Error::invalid(format!("image configuration: rootfs.type is {:?}", config.rootfs.kind)));
        }
        if config.rootfs.diff_ids.len() != layers {
            let n = config.rootfs.diff_ids.len();
            return Err(Error::invalid(format!("image configuration: {n} diff_ids for {layers} layers")));
        }
        Ok(config)
    }

    /// The chain ids of the layers, from the base up (config.md, "Layer ChainID").
    pub fn chain(&self) -> Vec<Digest> {
        let mut parent = None;
        let chain = self.rootfs.diff_ids.iter().map(|diff| *parent.insert(diff.chained(parent)));
        chain.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_what_its_media_type_says_and_nothing_besides() {
        let config = r#""config": {"mediaType": "a", "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "size": 2}"#;
        let manifest = format!(r#"{{"schemaVersion": 2, {config}, "layers": null}}"#);
        assert!(matches!(Document::parse(media::MANIFEST, manifest.as_bytes()), Ok(Document::Manifest(_))));
        let index = r#"{"schemaVersion": 2, "manifests": [], "unknown": 1}"#;
        assert!(matches!(Document::parse(media::INDEX, index.as_bytes()), Ok(Document::Index(_))));
        for (kind, text, word) in [
            (media::INDEX, manifest.clone(), "which it is not"),
            (media::MANIFEST, index.to_owned(), "which it is not"),
            (media::MANIFEST, format!(r#"{{"schemaVersion": 2, {config}, "layers": [], "manifests": []}}"#), "41190"),
            (media::INDEX, r#"{"schemaVersion": 2, "manifests": [], "layers": []}"#.to_owned(), "41190"),
            (media::MANIFEST, r#"{"schemaVersion": 1, "fsLayers": []}"#.to_owned(), "version 1"),
            (media::MANIFEST, manifest.replace("\"size\": 2", "\"size\": -2"), "invalid value"),
            (
                media::MANIFEST,
                format!(r#"{{"schemaVersion": 2, "mediaType": "{}", {config}}}"#, media::INDEX),
                "announced",
            ),
            ("text/html", manifest, "neither"),
        ] {
            let said = Document::parse(kind, text.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn a_chain_starts_with_the_first_diff_id() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let text = format!(
            r#"{{"os": "linux", "architecture": "amd64", "rootfs": {{"type": "layers", "diff_ids": ["{a}", "{b}"]}}}}"#
        );
        let config = ImageConfig::parse(text.as_bytes(), 2).unwrap();
        assert_eq!(config.chain(), [a, b.chained(Some(a))]);
        assert!(ImageConfig::parse(text.as_bytes(), 1).is_err());
        assert!(ImageConfig::parse(text.replace("\"layers\"", "\"other\"").as_bytes(), 2).is_err());
    }
}
