//! Where images come from and go to, other than registries: layouts, archives, folders.
//!
//! A [`Source`] gives documents, which it verifies, and blobs, which whoever stores them verifies. Names in an archive
//! are keys, and never paths; in a directory they are opened without following links.

mod archive;
mod docker;
mod flat;
mod layout;
mod save;
#[cfg(test)]
pub(crate) mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt;

use base64::Engine as _;

use crate::digest::Digest;
use crate::error::{At, Error, Result};
use crate::image::Descriptor;
use crate::reference::{Location, Reference};
use crate::registry::{Access, Download, Repository};
use crate::store::Store;

pub use archive::Archive;
pub use save::{Saved, save};

/// An image, or an index of images, that a source has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// What it is called, best name first; perhaps nothing.
    pub names: Vec<Reference>,
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Content on its way in.
#[derive(Debug)]
pub enum Body<'a> {
    /// From a registry.
    Network(Box<Download<'a>>),
    /// From this machine.
    Local(PieceReader),
}

impl Body<'_> {
    /// The next bytes, at least one; 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Network(download) => download.read(buffer),
            Self::Local(reader) => reader.read(buffer),
        }
    }
}

/// Something that images are taken from. Several threads take from it at the same time.
pub trait Source: Sync {
    /// What there is.
    fn roots(&self) -> Result<Vec<Root>>;

    /// A document, which is what `descriptor` says; `limit` is the most bytes that it may have.
    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>>;

    /// A blob from the byte `from` on, unverified.
    fn blob(&self, descriptor: &Descriptor, from: u64) -> Result<Body<'_>>;
}

/// Opens `location`, which is not a root file system. A compressed archive is inflated by way of `store`, and stays
/// there until it is collected.
pub fn open(store: &Store, access: &Access, location: &Location) -> Result<Box<dyn Source>> {
    match location {
        Location::Registry(name) => Ok(Box::new(Remote::open(access, name)?)),
        Location::Layout(path, tag) => Ok(Box::new(layout::Layout::open(path, tag.clone())?)),
        Location::LayoutArchive(path, tag) => {
            Ok(Box::new(layout::Layout::in_archive(Archive::open(store, path)?, path, tag.clone())?))
        }
        Location::DockerArchive(path, name) => {
            let archive = Archive::open(store, path)?;
            // Since version 25 docker writes a layout with its own list beside it, which alone has all tags.
            Ok(Box::new(docker::DockerArchive::open(archive, name.clone())?))
        }
        Location::Flat(path) => Ok(Box::new(flat::Flat::open(path)?)),
        Location::Rootfs(path) => {
            Err(Error::unsupported(format!("{}: a root file system has no manifest", path.display())))
        }
    }
}

/// A repository by way of its mirrors.
struct Remote {
    name: Reference,
    /// The one that answered, then those after it.
    repositories: Vec<Repository>,
    root: Root,
}

impl Remote {
    fn open(access: &Access, name: &Reference) -> Result<Self> {
        let mut places = access.places(name).into_iter();
        let selector = name.selector();
        let (first, root) = loop {
            let Some(place) = places.next() else { return Err(Error::invalid(format!("{name}: no registry"))) };
            let asked = access.open(place).and_then(|repository| {
                let (descriptor, bytes) = repository.manifest(&selector, None)?;
                Ok((repository, Root { names: vec![name.clone()], descriptor, bytes }))
            });
            match asked {
                Ok(found) => break found,
                // A mirror may be down, or not have it; what the registry itself says is what counts.
                Err(_) if places.len() > 0 => {}
                Err(e) => return Err(e),
            }
        };
        // Those that are left are connected to when they are needed, which is hardly ever.
        let rest = places.filter_map(|place| access.open(place).ok());
        Ok(Self { name: name.clone(), repositories: std::iter::once(first).chain(rest).collect(), root })
    }

    fn first(&self) -> Result<&Repository> {
        self.repositories.first().ok_or_else(|| Error::invalid(format!("{}: no registry", self.name)))
    }
}

impl Source for Remote {
    fn roots(&self) -> Result<Vec<Root>> {
        Ok(vec![self.root.clone()])
    }

    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        if let Some(bytes) = inline(descriptor)? {
            return Ok(bytes);
        }
        let manifest = crate::image::is_document(&descriptor.media_type);
        let fetch = |repository: &Repository| match manifest {
            true => repository.manifest(&descriptor.digest.to_string(), Some(descriptor)).map(|(_, bytes)| bytes),
            false => repository.document(descriptor, limit),
        };
        let mut last = fetch(self.first()?);
        for repository in self.repositories.iter().skip(1) {
            if last.is_ok() {
                break;
            }
            last = fetch(repository);
        }
        last
    }

    fn blob(&self, descriptor: &Descriptor, from: u64) -> Result<Body<'_>> {
        // A mirror that answered by tag but lost a blob is rare: only then is a question asked for nothing.
        for repository in self.repositories.iter().take(self.repositories.len().saturating_sub(1)) {
            if repository.has_blob(&descriptor.digest).unwrap_or(false) {
                return Ok(Body::Network(Box::new(repository.blob(descriptor, from))));
            }
        }
        let last = self.repositories.last().ok_or_else(|| Error::invalid(format!("{}: no registry", self.name)))?;
        Ok(Body::Network(Box::new(last.blob(descriptor, from))))
    }
}

/// The content that a descriptor carries itself (descriptor.md, `data`), verified.
fn inline(descriptor: &Descriptor) -> Result<Option<Vec<u8>>> {
    let Some(data) = &descriptor.data else { return Ok(None) };
    let bytes = base64::engine::general_purpose::STANDARD.decode(data);
    let bytes = bytes.map_err(|_| Error::invalid(format!("data of {}: not base64", descriptor.digest)))?;
    verified(descriptor, bytes).map(Some)
}

/// `bytes`, if they are what `descriptor` says.
fn verified(descriptor: &Descriptor, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let (digest, size) = (descriptor.digest, descriptor.size);
    if bytes.len() as u64 != size {
        return Err(Error::invalid(format!("blob {digest}: has {} bytes, not {size}", bytes.len())));
    }
    if Digest::of(&bytes) != digest {
        return Err(Error::invalid(format!("blob {digest}: the content has another digest")));
    }
    Ok(bytes)
}

/// A part of a file.
#[derive(Debug)]
pub struct Piece {
    file: File,
    from: u64,
    len: u64,
}

impl Piece {
    /// All of `file`.
    fn whole(file: File) -> Result<Self> {
        let len = file.metadata().at(|| "stat")?.len();
        Ok(Self { file, from: 0, len })
    }

    fn reader(self, skip: u64) -> PieceReader {
        let skip = skip.min(self.len);
        PieceReader { file: self.file, at: self.from.saturating_add(skip), left: self.len - skip }
    }

    /// All bytes, which are at most `limit`.
    fn bytes(self, what: &str, limit: u64) -> Result<Vec<u8>> {
        if self.len > limit {
            return Err(Error::invalid(format!("{what}: larger than {limit} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, self.from).at(|| format!("read {what}"))?;
        Ok(bytes)
    }

    /// The blob `descriptor`, which must have its size.
    fn blob(self, descriptor: &Descriptor, from: u64) -> Result<Body<'static>> {
        if self.len != descriptor.size {
            let (digest, size) = (descriptor.digest, descriptor.size);
            return Err(Error::invalid(format!("blob {digest}: has {} bytes, not {size}", self.len)));
        }
        Ok(Body::Local(self.reader(from)))
    }
}

/// Reads a part of a file, whose offset it leaves alone.
#[derive(Debug)]
pub struct PieceReader {
    file: File,
    at: u64,
    left: u64,
}

impl PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at).at(|| "read")?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

impl std::io::Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        Self::read(self, buffer).map_err(std::io::Error::other)
    }
}

/// A name for what is at `path` and was not called anything there: its last component, without what tars end with, as far
/// as it may be a repository; and `tag`, if it may be one.
pub(crate) fn name_of(path: &std::path::Path, tag: Option<&str>) -> Reference {
    let last = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let last = last.split(".tar").next().unwrap_or_default();
    let last = last.strip_suffix(".tgz").or(last.strip_suffix(".tzst")).unwrap_or(last);
    let usable = |text: &str| text.parse::<Reference>().ok().filter(|r| r.tag.is_none() && r.registry.is_none());
    let plain: String = last.chars().filter(|c| c.is_ascii_alphanumeric()).take(128).collect();
    let mut name = usable(last).or_else(|| usable(&plain)).unwrap_or_else(|| Reference {
        registry: None,
        repository: "imported".to_owned(),
        tag: None,
        digest: None,
    });
    name.tag = tag.filter(|tag| crate::reference::valid_tag(tag)).map(str::to_owned);
    name.tagged()
}
