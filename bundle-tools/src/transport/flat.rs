//! `dir:`: blobs by their digits beside `manifest.json`, as skopeo keeps them. One image and no name.

use std::path::{Path, PathBuf};

use crate::dir::Dir;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Descriptor, is_document};
use crate::json::MAX_DOCUMENT;
use crate::registry::own_type;

use super::{Body, Piece, Root, Source, inline, name_of, verified};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Flat {
    dir: Dir,
    path: PathBuf,
}

impl Flat {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { dir: Dir::at(path)?, path: path.to_owned() })
    }

    fn content(&self, descriptor: &Descriptor) -> Result<Piece> {
        let hex = descriptor.digest.hex();
        // The manifests of a list have a name of their own kind.
        let found = match is_document(&descriptor.media_type) {
            true => self.dir.file(&format!("{hex}.manifest.json")),
            false => self.dir.file(&hex),
        };
        let missing = |e: Error| match e.kind() {
            ErrorKind::NotFound => Error::not_found(format!("blob {}: is not in the directory", descriptor.digest)),
            _ => e,
        };
        Piece::whole(found.map_err(missing)?)
    }
}

impl Source for Flat {
    fn roots(&self) -> Result<Vec<Root>> {
        let read = || -> Result<Root> {
            let bytes = self.dir.read("manifest.json", MAX_DOCUMENT)?;
            let kind =
                own_type(&bytes)?.ok_or_else(|| Error::invalid("manifest.json: neither a manifest nor an index"))?;
            let descriptor = Descriptor::of(&kind, &bytes);
            Ok(Root { names: vec![name_of(&self.path, None)], descriptor, bytes })
        };
        Ok(vec![read().map_err(|e| e.context(self.path.display()))?])
    }

    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        if let Some(bytes) = inline(descriptor)? {
            return Ok(bytes);
        }
        verified(descriptor, self.content(descriptor)?.bytes(&format!("blob {}", descriptor.digest), limit)?)
    }

    fn blob(&self, descriptor: &Descriptor, from: u64) -> Result<Body<'_>> {
        self.content(descriptor)?.blob(descriptor, from)
    }
}
