//! What `docker save` writes: `manifest.json` with configurations and layers by name, and no manifests in the sense of
//! the specification. Those are made here, from what is there.

use std::collections::HashMap;

use serde::Deserialize;

use crate::compress;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::image::{Compression, Descriptor, ImageConfig, MAX_LAYERS, media};
use crate::json::{self, MAX_DOCUMENT};
use crate::reference::Reference;

use super::{Archive, Body, Root, Source, verified};

/// The most images of an archive.
const MAX_IMAGES: usize = 1000;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct DockerArchive {
    archive: Archive,
    roots: Vec<Root>,
    /// Which member of the archive has a digest.
    members: HashMap<Digest, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// True if `wanted` means `name`. Some tools write short names out in full (`docker://app` is `HOST/library/app` to
/// them), so one without a registry is compared without it.
fn is_called(name: &Reference, wanted: &Reference) -> bool {
    let (there, asked) = (&name.repository, &wanted.repository);
    let written_out = if asked.contains('/') { there == asked } else { there.strip_prefix("library/") == Some(asked) };
    let short = wanted.registry.is_none() && written_out;
    name.tag == wanted.tag && (name == wanted || short)
}

impl DockerArchive {
    /// All images of `archive`, or the one called `wanted`.
    pub(super) fn open(archive: Archive, wanted: Option<Reference>) -> Result<Self> {
        if !archive.has("manifest.json") {
            return Err(Error::invalid("not what docker save writes: there is no manifest.json"));
        }
        let list = archive.piece("manifest.json")?.bytes("manifest.json", MAX_DOCUMENT)?;
        let list: Vec<Listed> = json::parse("manifest.json", &list)?;
        if list.len() > MAX_IMAGES {
            return Err(Error::invalid(format!("manifest.json: more than {MAX_IMAGES} images")));
        }
        let mut source = Self { archive, roots: Vec::new(), members: HashMap::new() };
        let wanted = wanted.map(Reference::tagged);
        for (n, image) in list.iter().enumerate() {
            let mut names = Vec::new();
            for tag in image.repo_tags.iter().flatten() {
                names.push(tag.parse::<Reference>().map_err(|e| e.context("manifest.json"))?.tagged());
            }
            if let Some(wanted) = &wanted {
                names.retain(|name| is_called(name, wanted));
                if names.is_empty() {
                    continue;
                }
            }
            let root = source.root(image, names).map_err(|e| e.context(format!("manifest.json: image {n}")))?;
            source.roots.push(root);
        }
        match (source.roots.is_empty(), wanted) {
            (true, Some(wanted)) => Err(Error::not_found(format!("no image {wanted} in the archive"))),
            (true, None) => Err(Error::not_found("no image in the archive")),
            (false, _) => Ok(source),
        }
    }

    /// Makes the manifest of one image. A layer that is plain has its diff id as its digest, so nothing is hashed for it.
    fn root(&mut self, image: &Listed, names: Vec<Reference>) -> Result<Root> {
        let config = self.archive.piece(&image.config)?.bytes(&image.config, MAX_DOCUMENT)?;
        let layers = image.layers.as_deref().unwrap_or_default();
        if layers.len() > MAX_LAYERS {
            return Err(Error::invalid(format!("more than {MAX_LAYERS} layers")));
        }
        let parsed = ImageConfig::parse(&config, layers.len())?;
        let mut descriptors = Vec::new();
        for (name, diff_id) in layers.iter().zip(&parsed.rootfs.diff_ids) {
            let piece = self.archive.piece(name)?;
            let size = piece.len;
            let mut reader = piece.reader(0);
            let mut buffer = vec![0; 64 << 10];
            let mut n = reader.read(&mut buffer)?;
            let (kind, digest) = match compress::detect(buffer.get(..n).unwrap_or_default()) {
                Compression::None => (media::LAYER, *diff_id),
                compressed => {
                    let mut hasher = Hasher::default();
                    while n > 0 {
                        hasher.update(buffer.get(..n).unwrap_or_default());
                        n = reader.read(&mut buffer)?;
                    }
                    let kind = if compressed == Compression::Gzip { media::LAYER_GZIP } else { media::LAYER_ZSTD };
                    (kind, hasher.finish())
                }
            };
            self.members.insert(digest, name.clone());
            descriptors.push(Descriptor::new(kind, digest, size));
        }
        // Docker's configuration is the specification's with more in it.
        let config_descriptor = Descriptor::of(media::CONFIG, &config);
        self.members.insert(config_descriptor.digest, image.config.clone());
        let manifest = crate::image::manifest(&config_descriptor, &descriptors)?;
        Ok(Root { names, descriptor: Descriptor::of(media::MANIFEST, &manifest), bytes: manifest })
    }

    fn member(&self, descriptor: &Descriptor) -> Result<super::Piece> {
        let name = self.members.get(&descriptor.digest);
        self.archive.piece(name.ok_or_else(|| Error::not_found(format!("blob {}", descriptor.digest)))?)
    }
}

impl Source for DockerArchive {
    fn roots(&self) -> Result<Vec<Root>> {
        Ok(self.roots.clone())
    }

    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        verified(descriptor, self.member(descriptor)?.bytes(&format!("blob {}", descriptor.digest), limit)?)
    }

    fn blob(&self, descriptor: &Descriptor, from: u64) -> Result<Body<'_>> {
        self.member(descriptor)?.blob(descriptor, from)
    }
}
