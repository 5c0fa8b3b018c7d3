//! Image layouts (image-layout.md): a small writer that says what it is told to, true or not.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::tar::Tar;

/// Media types.
pub mod media {
    #![allow(missing_docs, reason = "the names are the documentation")]
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, of one member.
    Gzip,
    /// zstd, of one frame.
    Zstd,
}

impl Packing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Gzip, Self::Zstd];

    /// What is appended to a layer's media type.
    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// A layer that is in a layout.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its descriptor.
    pub descriptor: Value,
    /// The digest of the plain tar.
    pub diff_id: String,
    /// The length of the plain tar.
    pub tar_size: u64,
}

/// An image that is in a layout.
#[derive(Debug, Clone)]
pub struct Image {
    /// The descriptor of its manifest.
    pub manifest: Value,
    /// Its id: the digest of its configuration, without the algorithm.
    pub id: String,
}

/// `sha256:` and the digits.
pub fn digest(bytes: &[u8]) -> String {
    text(Sha256::digest(bytes).as_slice())
}

fn text(hash: &[u8]) -> String {
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// A folder with an image layout.
#[derive(Debug)]
pub struct Layout {
    /// Where.
    pub dir: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// An empty one in a new folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = Self { dir, manifests: Vec::new() };
        layout.write_index();
        layout
    }

    /// Where the blob of a digest is.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replacen(':', "/", 1))
    }

    /// A blob, and its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.path(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// A layer of what `write` writes, which goes through to the disk, however much it is.
    pub fn layer(&self, packing: Packing, write: impl FnOnce(&mut Tar<&mut dyn Write>)) -> Layer {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let partial = self.dir.join(format!("partial.{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let blob = Hashed::new(BufWriter::with_capacity(256 << 10, File::create(&partial).unwrap()));
        let plain = |packer: &mut dyn Write| {
            let mut hashed = Hashed::new(BufWriter::with_capacity(256 << 10, packer));
            let mut tar = Tar::to(&mut hashed as &mut dyn Write);
            write(&mut tar);
            hashed.flush().unwrap();
            (text(hashed.hash.finalize().as_slice()), hashed.length)
        };
        let ((diff_id, tar_size), mut blob) = match packing {
            Packing::Plain => {
                let mut blob = blob;
                (plain(&mut blob), blob)
            }
            Packing::Gzip => {
                let mut packer = flate2::write::GzEncoder::new(blob, flate2::Compression::new(6));
                (plain(&mut packer), packer.finish().unwrap())
            }
            Packing::Zstd => {
                let mut packer = zstd::Encoder::new(blob, 3).unwrap();
                (plain(&mut packer), packer.finish().unwrap())
            }
        };
        blob.flush().unwrap();
        let (digest, size) = (text(blob.hash.finalize().as_slice()), blob.length);
        fs::rename(partial, self.path(&digest)).unwrap();
        let media_type = format!("{}{}", media::LAYER, packing.suffix());
        Layer { descriptor: json!({"mediaType": media_type, "digest": digest, "size": size}), diff_id, tar_size }
    }

    /// A layer of these bytes.
    pub fn layer_of(&self, packing: Packing, tar: &[u8]) -> Layer {
        self.layer(packing, |out| {
            out.raw(tar);
        })
    }

    /// An image of `layers`. `run` is the `config` of its configuration.
    pub fn image(&mut self, tag: &str, layers: &[Layer], run: Value) -> Image {
        let config = config(layers, run);
        self.image_with(tag, layers, &config)
    }

    /// An image of `layers` with any configuration.
    pub fn image_with(&mut self, tag: &str, layers: &[Layer], config: &Value) -> Image {
        let config = self.blob(media::CONFIG, &serde_json::to_vec(config).unwrap());
        let descriptors: Vec<_> = layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let id = config["digest"].as_str().unwrap()["sha256:".len()..].to_owned();
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": descriptors});
        Image { manifest: self.manifest(tag, &manifest), id }
    }

    /// Any manifest under a tag; its descriptor.
    pub fn manifest(&mut self, tag: &str, manifest: &Value) -> Value {
        let descriptor = self.blob(media::MANIFEST, &serde_json::to_vec(manifest).unwrap());
        self.entry(tag, descriptor.clone());
        descriptor
    }

    /// Any descriptor under a tag.
    pub fn entry(&mut self, tag: &str, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.manifests.push(descriptor);
        self.write_index();
    }

    /// Where it is, as transports write it.
    pub fn name(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.dir.display())
    }

    fn write_index(&self) {
        let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": self.manifests});
        fs::write(self.dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    }
}

/// The configuration of an image of `layers`, with one line of history for each.
pub fn config(layers: &[Layer], run: Value) -> Value {
    let history: Vec<_> = (0..layers.len())
        .map(|i| json!({"created": "2023-11-14T22:13:20Z", "created_by": format!("layer {i}")}))
        .collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
    json!({
        "created": "2023-11-14T22:13:20Z", "architecture": machine(), "os": "linux", "config": run,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
    })
}

/// This machine in Go's words.
fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What goes through is hashed and counted.
struct Hashed<W> {
    out: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Hashed<W> {
    fn new(out: W) -> Self {
        Self { out, hash: Sha256::new(), length: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// The path of a layout's folder, for those that take one.
impl AsRef<Path> for Layout {
    fn as_ref(&self) -> &Path {
        &self.dir
    }
}
