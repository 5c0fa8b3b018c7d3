//! Layers and merged indexes: made by workers, checked and published here.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;

use super::incoming::{Feed, Incoming, News};
use super::lock::{self, Lease, Scratch};
use super::{Store, optional};
use crate::digest::{Digest, Hasher};
use crate::error::{At, Error, ErrorKind, Result};
use crate::image::{Descriptor, LayerType};
use crate::layer::{Kind, Layer};

/// What is known of a layer without reading its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its name: the digest of its tar.
    pub diff_id: Digest,
    /// The length of the tar, in bytes.
    pub tar_size: u64,
    /// The bytes of all its files, as Docker counts a layer's size.
    pub content: u64,
    /// How many entries it has.
    pub entries: u64,
}

/// The end of a table's file: a mark and four numbers.
const TRAILER: usize = 40;
const MARK: &[u8; 8] = b"orlopix1";
/// The longest table that is read. The scanner's bound on entries comes first.
const MAX_TABLE: u64 = 2 << 30;

impl LayerInfo {
    fn of(diff_id: Digest, layer: &Layer) -> Self {
        let mut content = 0u64;
        for entry in layer.entries() {
            if let Kind::File { size, .. } = entry.kind {
                content = content.saturating_add(size);
            }
        }
        Self { diff_id, tar_size: layer.tar_size, content, entries: layer.len() as u64 }
    }

    fn trailer(&self, table: u64) -> [u8; TRAILER] {
        let mut trailer = [0; TRAILER];
        let words = [u64::from_le_bytes(*MARK), self.tar_size, self.content, self.entries, table];
        for (place, word) in trailer.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        trailer
    }

    /// Reads the trailer of a table's file of `len` bytes; the table's length is what is in front of it.
    fn read(diff_id: Digest, trailer: &[u8], len: u64) -> Option<(Self, u64)> {
        let mut words = trailer.chunks_exact(8).map(|word| word.try_into().map(u64::from_le_bytes).unwrap_or_default());
        let [mark, tar_size, content, entries, table] = std::array::from_fn(|_| words.next().unwrap_or_default());
        let right = mark == u64::from_le_bytes(*MARK) && table.checked_add(TRAILER as u64) == Some(len);
        right.then_some((Self { diff_id, tar_size, content, entries }, table))
    }
}

/// A layer's two files.
pub(super) fn tar_name(diff_id: &Digest) -> String {
    format!("{}.tar", diff_id.hex())
}

pub(super) fn table_name(diff_id: &Digest) -> String {
    format!("{}.idx", diff_id.hex())
}

pub(super) fn tree_name(chain: &Digest) -> String {
    format!("{}.erofs", chain.hex())
}

/// The name of a chain's merged index: the chain id of its last layer. The chain of no layers has the digest of nothing.
pub fn chain_id(diff_ids: &[Digest]) -> Digest {
    diff_ids.iter().fold(None, |parent, diff| Some(diff.chained(parent))).unwrap_or_else(|| Digest::of(b""))
}

impl Store {
    /// Receives the layer `descriptor` whole: its blob, by what `fetch` writes (it is not called if the blob is there), and
    /// at the same time the tar and the table of it. `progress` hears of the bytes of the tar, from another thread.
    pub fn receive_layer(
        &self,
        lease: &Lease,
        descriptor: &Descriptor,
        diff_id: Option<Digest>,
        fetch: impl FnOnce(&mut Incoming<'_>) -> Result<()>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<LayerInfo> {
        let kind = LayerType::of(&descriptor.media_type)
            .ok_or_else(|| Error::unsupported(format!("layer of the media type {:?}", descriptor.media_type)))?;
        if kind.foreign {
            return Err(Error::unsupported(format!("layer {}: is not to be distributed", descriptor.digest)));
        }
        let incoming = self.incoming(descriptor)?;
        let receive = |mut incoming: Incoming<'_>| {
            if !incoming.is_complete() {
                fetch(&mut incoming)?;
            }
            incoming.finish()
        };
        if let Some(there) = diff_id.map(|diff_id| self.layer_info(&diff_id)).transpose()?.flatten() {
            receive(incoming)?;
            return Ok(there);
        }
        let feed = incoming.feed()?;
        std::thread::scope(|scope| {
            let added = scope.spawn(|| self.add_layer(lease, &feed, diff_id, progress));
            let received = receive(incoming);
            let added = added.join().unwrap_or_else(|_| Err(Error::invalid("a thread failed")));
            received.and(added)
        })
    }

    /// Makes the tar and the table of a layer's blob, which may still be growing, and gives them their names once the blob
    /// is verified and the tar is what `diff_id` says, if that is known. If another process does the same at this
    /// moment, waits for that one.
    pub fn add_layer(
        &self,
        _lease: &Lease,
        blob: &Feed,
        diff_id: Option<Digest>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<LayerInfo> {
        let added = self.try_add_layer(blob, diff_id, progress).map_err(|e| match diff_id {
            Some(diff_id) => e.context(format!("layer {diff_id}")),
            None => e.context("layer"),
        });
        if let Err(e) = &added {
            blob.refuse(e);
        }
        added
    }

    fn try_add_layer(
        &self,
        _blob: &Feed,
        diff_id: Option<Digest>,
        _progress: &(dyn Fn(u64) + Sync),
    ) -> Result<LayerInfo> {
        match diff_id.map(|diff_id| self.layer_info(&diff_id)).transpose()?.flatten() {
            Some(there) => Ok(there),
            None => Err(Error::unsupported("layers are not unpacked yet")),
        }
    }

    /// What is known of a layer, if it is there.
    pub fn layer_info(&self, diff_id: &Digest) -> Result<Option<LayerInfo>> {
        let Some(mut file) = optional(self.layers.file(&table_name(diff_id)))? else { return Ok(None) };
        let len = file.metadata().at(|| "stat a table")?.len();
        let mut trailer = [0; TRAILER];
        let start = len.checked_sub(TRAILER as u64).ok_or_else(|| damaged(diff_id))?;
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut trailer)).at(|| "read a table")?;
        let (info, _) = LayerInfo::read(*diff_id, &trailer, len).ok_or_else(|| damaged(diff_id))?;
        Ok(Some(info))
    }

    /// A layer's plain tar and its table, if it is there.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<(File, Layer)>> {
        match self.layer_info(diff_id)? {
            Some(_) => Err(Error::unsupported("layers are not unpacked yet")),
            None => Ok(None),
        }
    }

    /// The plain tars of layers, for reading.
    pub fn tars(&self, diff_ids: &[Digest]) -> Result<Vec<File>> {
        diff_ids.iter().map(|diff_id| self.layers.file(&tar_name(diff_id)).map_err(|e| no_layer(e, diff_id))).collect()
    }

    /// The merged index of a chain of layers, from the base up; made now if it isn't there.
    pub fn tree(&self, diff_ids: &[Digest]) -> Result<File> {
        let name = tree_name(&chain_id(diff_ids));
        if let Some(there) = optional(self.trees.file(&name))? {
            return Ok(there);
        }
        Err(Error::unsupported("layers are not merged yet"))
    }
}

fn damaged(diff_id: &Digest) -> Error {
    Error::invalid(format!("layer {diff_id}: table damaged; `verify --repair` makes it anew"))
}

fn no_layer(e: Error, diff_id: &Digest) -> Error {
    match e.kind() {
        ErrorKind::NotFound => Error::not_found(format!("layer {diff_id}: not in the store")),
        _ => e,
    }
}
