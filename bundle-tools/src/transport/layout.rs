//! An image layout (image-layout.md), in a directory or in an archive.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::dir::Dir;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Descriptor, Document, is_document, media};
use crate::json::{self, MAX_DOCUMENT};
use crate::reference::Reference;

use super::{Archive, Body, Piece, Root, Source, inline, name_of, verified};

/// The tag of a manifest in `index.json`.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The whole name, as containerd and docker write it beside the tag.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Layout {
    files: Files,
    /// Where it is, for names and errors.
    path: PathBuf,
    tag: Option<String>,
}

#[derive(Debug)]
enum Files {
    Directory(Dir),
    Archive(Archive),
}

impl Layout {
    pub(super) fn open(path: &Path, tag: Option<String>) -> Result<Self> {
        Self::of(Files::Directory(Dir::at(path)?), path, tag)
    }

    pub(super) fn in_archive(archive: Archive, path: &Path, tag: Option<String>) -> Result<Self> {
        Self::of(Files::Archive(archive), path, tag)
    }

    fn of(files: Files, path: &Path, tag: Option<String>) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Mark {
            image_layout_version: String,
        }
        let layout = Self { files, path: path.to_owned(), tag };
        let check = || -> Result<()> {
            let bytes = match layout.piece("oci-layout") {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    return Err(Error::invalid("not an image layout: there is no oci-layout"));
                }
                piece => piece?.bytes("oci-layout", MAX_DOCUMENT)?,
            };
            let mark: Mark = json::parse("oci-layout", &bytes)?;
            match mark.image_layout_version.as_str() {
                version if version.starts_with("1.") => Ok(()),
                other => Err(Error::unsupported(format!("image layout of version {other:?}"))),
            }
        };
        check().map_err(|e| layout.said(e))?;
        Ok(layout)
    }

    fn piece(&self, name: &str) -> Result<Piece> {
        match &self.files {
            Files::Directory(dir) => Piece::whole(dir.file(name)?),
            Files::Archive(archive) => archive.piece(name),
        }
    }

    fn said(&self, e: Error) -> Error {
        e.context(self.path.display())
    }

    fn content(&self, descriptor: &Descriptor) -> Result<Piece> {
        // The digits of a parsed digest: nothing of the document becomes a path.
        self.piece(&format!("blobs/sha256/{}", descriptor.digest.hex())).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::not_found(format!("blob {}: is not in the layout", descriptor.digest)),
            _ => e,
        })
    }

    /// What the entry is called: by its annotations, or by where it is.
    fn names(&self, entry: &Descriptor) -> Vec<Reference> {
        let whole = entry.annotations.get(IMAGE_NAME).and_then(|name| name.parse::<Reference>().ok());
        let tag = entry.annotations.get(REF_NAME).map(String::as_str);
        // skopeo and buildah put whole names where the specification has tags.
        let by_tag = tag.filter(|tag| tag.contains([':', '/'])).and_then(|tag| tag.parse::<Reference>().ok());
        let name = whole.or(by_tag).unwrap_or_else(|| name_of(&self.path, tag));
        vec![name.tagged()]
    }

    fn means(&self, entry: &Descriptor, tag: &str) -> bool {
        [REF_NAME, IMAGE_NAME].iter().any(|key| entry.annotations.get(*key).is_some_and(|name| name == tag))
    }
}

impl Source for Layout {
    fn roots(&self) -> Result<Vec<Root>> {
        let read = || -> Result<Vec<Root>> {
            let bytes = self.piece("index.json")?.bytes("index.json", MAX_DOCUMENT)?;
            let Document::Index(index) = Document::parse(media::INDEX, &bytes).map_err(|e| e.context("index.json"))?
            else {
                return Err(Error::invalid("index.json: not an index"));
            };
            // Other tools keep other things in their layouts; the specification has them passed over.
            let mut entries: Vec<_> = index.manifests.iter().filter(|entry| is_document(&entry.media_type)).collect();
            if let Some(tag) = &self.tag {
                entries.retain(|entry| self.means(entry, tag));
                if entries.is_empty() {
                    return Err(Error::not_found(format!("no image {tag:?} in the layout")));
                }
            }
            if entries.is_empty() {
                return Err(Error::not_found("no image in the layout"));
            }
            let mut roots: Vec<Root> = Vec::new();
            let mut seen = HashSet::new();
            for entry in entries {
                let names = self.names(entry);
                if !seen.insert(entry.digest) {
                    roots
                        .iter_mut()
                        .filter(|r| r.descriptor.digest == entry.digest)
                        .for_each(|r| r.names.extend(names.clone()));
                    continue;
                }
                let bytes = self.document(entry, MAX_DOCUMENT)?;
                let descriptor = Descriptor::new(&entry.media_type, entry.digest, entry.size);
                roots.push(Root { names, descriptor, bytes });
            }
            Ok(roots)
        };
        read().map_err(|e| self.said(e))
    }

    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        if let Some(bytes) = inline(descriptor)? {
            return Ok(bytes);
        }
        let name = format!("blob {}", descriptor.digest);
        verified(descriptor, self.content(descriptor)?.bytes(&name, limit)?)
    }

    fn blob(&self, descriptor: &Descriptor, from: u64) -> Result<Body<'_>> {
        self.content(descriptor)?.blob(descriptor, from)
    }
}

/// True if `dir` is an image layout; false if it is empty and may become one. Anything else is an error.
pub(super) fn is_layout(dir: &Dir) -> Result<bool> {
    match dir.file("oci-layout") {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound && dir.names()?.is_empty() => Ok(false),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(Error::invalid("not an image layout, and not empty")),
        Err(e) => Err(e),
    }
}
