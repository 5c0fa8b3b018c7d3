//! Images: from what a user calls one to its documents.

use std::path::PathBuf;

use super::layers::{chain_id, tar_name, tree_name};
use super::refs::Ref;
use super::{Store, optional};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Descriptor, Document, ImageConfig, Manifest, media};
use crate::index::{self, Part};
use crate::json::MAX_DOCUMENT;

/// A manifest in the store, an image's or another artifact's.
#[derive(Debug, Clone)]
pub struct Found {
    /// The refs that mean it.
    pub refs: Vec<Ref>,
    /// What names it.
    pub descriptor: Descriptor,
    /// Its bytes, as they came.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
}

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The refs that mean it; those of its names come first.
    pub refs: Vec<Ref>,
    /// What names its manifest.
    pub descriptor: Descriptor,
    /// The bytes of its manifest, as they came.
    pub manifest_bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
    /// The bytes of its configuration, as they came.
    pub config_bytes: Vec<u8>,
    /// What they say.
    pub config: ImageConfig,
}

impl Image {
    /// The image's id: the digest of its configuration.
    pub fn id(&self) -> Digest {
        self.manifest.config.digest
    }

    /// Its names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.refs.iter().filter_map(|r| r.name.as_deref())
    }
}

impl Found {
    /// True if the configuration is an image's.
    pub fn is_image(&self) -> bool {
        matches!(self.manifest.config.media_type.as_str(), media::CONFIG | media::DOCKER_CONFIG)
    }
}

impl Store {
    /// The manifest that `what` means: a name (with or without `:latest`), a name or nothing and `@` with a digest (of the
    /// manifest, or of the index that it was chosen from), or a digest or the beginning of one, of the configuration or of the manifest.
    /// An error of the kind [`ErrorKind::NotFound`] if there is none, and [`ErrorKind::Invalid`] if there are several.
    pub fn find(&self, what: &str) -> Result<Found> {
        let refs = self.refs()?;
        let named = |name: &str| refs.iter().find(|r| r.name.as_deref() == Some(name));
        if let Some(found) = named(what).or_else(|| named(&format!("{what}:latest"))) {
            return self.found(&found.manifest, &refs);
        }
        if let Some((repository, digest)) = what.split_once('@') {
            let digest: Digest = digest.parse()?;
            let means =
                |r: &&Ref| r.manifest.digest == digest || r.index.as_ref().is_some_and(|index| index.digest == digest);
            let is_of = |r: &&Ref| {
                repository.is_empty() || r.name.as_deref().is_some_and(|name| self::repository(name) == repository)
            };
            return match refs.iter().filter(means).find(is_of) {
                Some(found) => self.found(&found.manifest, &refs),
                None => Err(Error::not_found(format!("{what}: no such image"))),
            };
        }
        self.by_prefix(what, &refs)
    }

    fn by_prefix(&self, what: &str, refs: &[Ref]) -> Result<Found> {
        let prefix = what.strip_prefix("sha256:").unwrap_or(what);
        let is_prefix =
            (1..=64).contains(&prefix.len()) && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut found: Option<Found> = None;
        for r in refs.iter().filter(|_| is_prefix) {
            if found.as_ref().is_some_and(|found| found.descriptor.digest == r.manifest.digest) {
                continue;
            }
            let candidate = self.found(&r.manifest, refs)?;
            let ids = [candidate.descriptor.digest, candidate.manifest.config.digest];
            if !ids.iter().any(|id| id.hex().starts_with(prefix)) {
                continue;
            }
            // Two manifests of one configuration are one image to people; the first by name is as good as the other.
            match &found {
                Some(other) if other.manifest.config.digest != candidate.manifest.config.digest => {
                    return Err(Error::invalid(format!("{what}: is the beginning of more than one image's id")));
                }
                Some(_) => {}
                None => found = Some(candidate),
            }
        }
        found.ok_or_else(|| Error::not_found(format!("{what}: no such image")))
    }

    fn found(&self, descriptor: &Descriptor, refs: &[Ref]) -> Result<Found> {
        let bytes = self.read_blob(descriptor)?;
        match Document::parse(&descriptor.media_type, &bytes)? {
            Document::Manifest(manifest) => Ok(Found {
                refs: refs.iter().filter(|r| r.manifest.digest == descriptor.digest).cloned().collect(),
                descriptor: descriptor.clone(),
                bytes,
                manifest,
            }),
            Document::Index(_) => Err(Error::invalid(format!("{}: is an index", descriptor.digest))),
        }
    }

    /// The image that `what` means, as in [`Store::find`]; an artifact that is none is an error of the kind
    /// [`ErrorKind::Unsupported`].
    pub fn image(&self, what: &str) -> Result<Image> {
        self.find(what).and_then(|found| self.to_image(found)).map_err(|e| match e.kind() {
            ErrorKind::NotFound => e,
            _ => e.context(what),
        })
    }

    /// The image of a manifest that is in the store, with or without a ref.
    pub fn image_of(&self, manifest: &Descriptor) -> Result<Image> {
        self.to_image(self.found(manifest, &self.refs()?)?)
    }

    /// What was found, as an image.
    pub fn to_image(&self, found: Found) -> Result<Image> {
        let Found { refs, descriptor, bytes, manifest } = found;
        if !matches!(manifest.config.media_type.as_str(), media::CONFIG | media::DOCKER_CONFIG) {
            let kind = manifest.artifact_type.as_ref().unwrap_or(&manifest.config.media_type);
            return Err(Error::unsupported(format!("an artifact of the type {kind:?}, not an image")));
        }
        let config_bytes = self.read_blob(&manifest.config)?;
        let config = ImageConfig::parse(&config_bytes, manifest.layers.len())?;
        Ok(Image { refs, descriptor, manifest_bytes: bytes, manifest, config_bytes, config })
    }

    /// Every manifest that a ref means, once, with all its refs; in the order of the names.
    pub fn manifests(&self) -> Result<Vec<Found>> {
        let refs = self.refs()?;
        let mut seen = std::collections::HashSet::new();
        refs.iter().filter(|r| seen.insert(r.manifest.digest)).map(|r| self.found(&r.manifest, &refs)).collect()
    }

    /// Every image that a ref means, once; in the order of the names. Artifacts are left out.
    pub fn images(&self) -> Result<Vec<Image>> {
        self.manifests()?.into_iter().filter(Found::is_image).map(|found| self.to_image(found)).collect()
    }

    /// Where a plain layer is, for people: what is read is opened from the store's directory.
    pub fn tar_path(&self, diff_id: &Digest) -> PathBuf {
        self.place(&format!("layers/{}", tar_name(diff_id)))
    }

    /// Where the merged index of a chain of layers is, if it has been made.
    pub fn tree_path(&self, diff_ids: &[Digest]) -> Result<Option<PathBuf>> {
        let name = tree_name(&chain_id(diff_ids));
        Ok(optional(self.trees.file(&name))?.map(|_| self.place(&format!("trees/{name}"))))
    }

    #[allow(clippy::disallowed_methods, reason = "a path to be shown, not to be opened")]
    fn place(&self, name: &str) -> PathBuf {
        std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone()).join(name)
    }

    /// What an index in the store leads to ([`index::parts`]). `missing` decides about documents that are not here: whether
    /// that is an error.
    pub fn index_parts(
        &self,
        index: &Descriptor,
        missing: &mut dyn FnMut(&Descriptor) -> Result<()>,
    ) -> Result<Vec<Part>> {
        index::parts(index, self.read_blob(index)?, &mut |entry| match self.blob(&entry.digest)? {
            Some(_) => self.read_blob(entry).map(Some),
            None => missing(entry).map(|()| None),
        })
    }

    /// The bytes of a document: at most [`MAX_DOCUMENT`], and what the descriptor says.
    pub fn read_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = descriptor.digest;
        let missing = || Error::not_found(format!("blob {digest}: not in the store"));
        let bytes = crate::dir::read_limited(self.blob(&digest)?.ok_or_else(missing)?, "blob", MAX_DOCUMENT)?;
        if bytes.len() as u64 != descriptor.size || Digest::of(&bytes) != digest {
            return Err(Error::invalid(format!("blob {digest}: damaged; `verify --repair` removes it")));
        }
        Ok(bytes)
    }
}

/// A name without its tag and digest: `host:5000/a/b:c` is `host:5000/a/b`.
fn repository(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or_default();
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        for (name, expected) in [
            ("a", "a"),
            ("a:1", "a"),
            ("h:5000/a", "h:5000/a"),
            ("h:5000/a:1", "h:5000/a"),
            ("h:5000/a:1@sha256:00", "h:5000/a"),
        ] {
            assert_eq!(repository(name), expected);
        }
    }
}
