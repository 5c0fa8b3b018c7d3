//! Layers and merged indexes: made by workers, checked and published here.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use super::behind::Behind;
use super::incoming::{Feed, Incoming};
use super::lock::{self, Lease, Scratch};
use super::{Store, optional};
use crate::digest::{Digest, Hasher};
use crate::dir::Dir;
use crate::directory::{self, Owners, Written};
use crate::error::{At, Error, ErrorKind, Result};
use crate::image::{Compression, Descriptor, LayerType};
use crate::ingest;
use crate::layer::{Kind, Layer};
use crate::worker::{Heard, Jail, Task, Worker};

/// Hears of a layer that comes in.
pub trait Watch: Sync {
    /// So many bytes of its plain tar are there by now.
    fn unpacked(&self, _bytes: u64) {}
    /// Something of it was left out that somebody may miss.
    fn noted(&self, _note: &str) {}
}

/// Nobody listens.
impl Watch for () {}

/// What is known of a layer without reading its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its name: the digest of its tar.
    pub diff_id: Digest,
    /// The length of the tar, in bytes.
    pub tar_size: u64,
    /// The bytes of all its files and of the targets of its symbolic links, as Docker counts a layer's size.
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
            let size = match entry.kind {
                Kind::File { size, .. } => size,
                Kind::Symlink(target) => target.len() as u64,
                _ => 0,
            };
            content = content.saturating_add(size);
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
pub(super) fn chain_id(diff_ids: &[Digest]) -> Digest {
    diff_ids.iter().fold(None, |parent, diff| Some(diff.chained(parent))).unwrap_or_else(|| Digest::of(b""))
}

impl Store {
    /// Receives the layer `descriptor` whole: its blob, by what `fetch` writes (it is not called if the blob is there), and
    /// at the same time the tar and the table of it. `watch` hears of it from another thread.
    pub fn receive_layer(
        &self,
        lease: &Lease,
        descriptor: &Descriptor,
        diff_id: Option<Digest>,
        fetch: impl FnOnce(&mut Incoming<'_>) -> Result<()>,
        watch: &dyn Watch,
    ) -> Result<LayerInfo> {
        let kind = LayerType::of(&descriptor.media_type)
            .ok_or_else(|| Error::unsupported(format!("layer of the media type {:?}", descriptor.media_type)))?;
        if kind.foreign {
            return Err(Error::unsupported(format!("layer {}: is not to be distributed", descriptor.digest)));
        }
        let mut incoming = self.incoming(descriptor)?;
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
            let added = scope.spawn(|| self.add_layer(lease, feed, diff_id, watch));
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
        mut blob: Feed,
        diff_id: Option<Digest>,
        watch: &dyn Watch,
    ) -> Result<LayerInfo> {
        let added = self.try_add_layer(&mut blob, diff_id, watch).map_err(|e| match diff_id {
            Some(diff_id) => e.context(format!("layer {diff_id}")),
            None => e.context("layer"),
        });
        if let Err(e) = &added {
            blob.refuse(e);
        }
        added
    }

    fn try_add_layer(&self, blob: &mut Feed, diff_id: Option<Digest>, watch: &dyn Watch) -> Result<LayerInfo> {
        // Held to the end, by whoever is first. What it says is nothing, but that it is locked.
        let claim = diff_id.map(|diff_id| Claim::of(self, format!("layer-{}", diff_id.hex()))).transpose()?;
        if let Some(there) = diff_id.map(|diff_id| self.layer_info(&diff_id)).transpose()?.flatten() {
            return Ok(there);
        }
        let (tar, mut table) = (Scratch::new(&self.incoming)?, Scratch::new(&self.incoming)?);
        let task = ingest::Task::of(blob.size, self.max_layer);
        let (done, digest, size) = self.inflate(task, blob, &tar, &table, watch)?;
        // The worker is gone, so what is read from here on stays as it is.
        let (blob_digest, blob_size) = blob.verified()?;
        let plain = done.compression == Compression::None;
        let (digest, size) = if plain { (blob_digest, blob_size) } else { (digest, size) };
        if let Some(expected) = diff_id.filter(|expected| *expected != digest) {
            return Err(Error::invalid(format!("the image promises the diff id {expected}, the content has {digest}")));
        }
        if let Some(there) = self.layer_info(&digest)? {
            return Ok(there);
        }
        done.notes.iter().for_each(|note| watch.noted(note));
        let info = seal_table(&mut table, digest, size)?;
        let tar = if plain { Scratch::link(&self.incoming, &self.blobs, &blob_digest.hex())? } else { tar };
        tar.sync()?;
        tar.publish(&self.layers, &tar_name(&digest))?;
        // A layer is there when its table is, so the table is the last.
        self.layers.sync()?;
        table.publish(&self.layers, &table_name(&digest))?;
        self.layers.sync()?;
        drop(claim);
        Ok(info)
    }

    /// Has a worker inflate a blob and write its table, and writes and hashes the tar that comes of it. That of a plain blob
    /// is the blob itself, and nothing is written.
    fn inflate(
        &self,
        task: ingest::Task,
        blob: &mut Feed,
        tar: &Scratch,
        table: &Scratch,
        watch: &dyn Watch,
    ) -> Result<(ingest::Done, Digest, u64)> {
        let most = task.max_output;
        let ((from, to), to_table) = (pipe()?, table.append()?);
        let bytes = blob.bytes()?;
        let mut worker = Worker::start(&Task::Ingest(task), &[&bytes, &to, &to_table].map(AsFd::as_fd), Jail::Nothing)?;
        drop((bytes, to, to_table));
        let done = receive(from, &tar.file, most, watch).and_then(|(digest, size)| {
            loop {
                match worker.hear()? {
                    Heard::Progress(scanned) => watch.unpacked(scanned),
                    Heard::Done(done) => return Ok((done, digest, size)),
                }
            }
        });
        // Of a blob that did not arrive, or is another, the worker's complaint is not the cause.
        done.map_err(|e| blob.failure().unwrap_or(e))
    }

    /// A table, made anew from a plain tar of this digest.
    pub(super) fn scan_again(&self, mut tar: Feed) -> Result<Scratch> {
        let (none, mut table) = (Scratch::new(&self.incoming)?, Scratch::new(&self.incoming)?);
        self.inflate(ingest::Task::again(), &mut tar, &none, &table, &())?;
        let (digest, size) = tar.verified()?;
        seal_table(&mut table, digest, size)?;
        Ok(table)
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
        let Some((table, _)) = self.table(diff_id)? else { return Ok(None) };
        Ok(Some((self.layers.file(&tar_name(diff_id))?, Layer::decode(&table)?)))
    }

    /// The table's bytes.
    pub(super) fn table(&self, diff_id: &Digest) -> Result<Option<(Vec<u8>, LayerInfo)>> {
        let Some(file) = optional(self.layers.file(&table_name(diff_id)))? else { return Ok(None) };
        let len = file.metadata().at(|| "stat a table")?.len();
        let mut bytes = crate::dir::read_limited(file, "table", MAX_TABLE)?;
        let trailer = bytes.split_off(bytes.len().saturating_sub(TRAILER));
        let (info, _) = LayerInfo::read(*diff_id, &trailer, len).ok_or_else(|| damaged(diff_id))?;
        Ok(Some((bytes, info)))
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
        let _lease = self.lease()?;
        let _claim = Claim::of(self, format!("tree-{name}"))?;
        if let Some(there) = optional(self.trees.file(&name))? {
            return Ok(there);
        }
        let scratch = self.merge(diff_ids)?;
        scratch.sync()?;
        scratch.publish(&self.trees, &name)?;
        self.trees.sync()?;
        self.trees.file(&name)
    }

    /// Has a worker merge the tables.
    pub(super) fn merge(&self, diff_ids: &[Digest]) -> Result<Scratch> {
        let scratch = Scratch::new(&self.incoming)?;
        let (tables, files) = self.parts(diff_ids)?;
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(&scratch.file).chain(&files).map(AsFd::as_fd).collect();
        Worker::start(&Task::Merge(ingest::Merge { tables }), &fds, Jail::Nothing)?.wait::<()>()?;
        Ok(scratch)
    }

    /// Has a worker write the merged layers into an empty directory, as [`directory::write`] does.
    pub fn write_directory(&self, diff_ids: &[Digest], target: &Dir, owners: &Owners) -> Result<Written> {
        let (tables, files) = self.parts(diff_ids)?;
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let task = Task::Directory(directory::Task { tables, owners: owners.clone() });
        Worker::start(&task, &fds, Jail::Into(target))?.wait()
    }

    /// What a worker needs to merge layers: the lengths of their tables, and the files that [`ingest::layers`] wants.
    pub(crate) fn parts(&self, diff_ids: &[Digest]) -> Result<(Vec<u64>, Vec<File>)> {
        let (mut files, mut tables) = (Vec::new(), Vec::new());
        for diff_id in diff_ids {
            let file = self.layers.file(&table_name(diff_id)).map_err(|e| no_layer(e, diff_id))?;
            let len = file.metadata().at(|| "stat a table")?.len();
            tables.push(len.checked_sub(TRAILER as u64).ok_or_else(|| damaged(diff_id))?);
            files.push(file);
        }
        files.extend(self.tars(diff_ids)?);
        Ok((tables, files))
    }
}

/// The right to make one object, which only one process has at a time.
#[derive(Debug)]
struct Claim<'s> {
    store: &'s Store,
    name: String,
    _file: File,
}

impl<'s> Claim<'s> {
    fn of(store: &'s Store, name: String) -> Result<Self> {
        let file = lock::claim(&store.incoming, &name)?;
        Ok(Self { store, name, _file: file })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Before the lock goes: who waits for it sees that the name is gone, and makes it anew.
        let _ = self.store.incoming.unlink(&self.name);
    }
}

/// Checks the table that a worker wrote, which is gone, and completes its file.
pub(super) fn seal_table(scratch: &mut Scratch, diff_id: Digest, tar_size: u64) -> Result<LayerInfo> {
    scratch.file.seek(SeekFrom::Start(0)).at(|| "read the table")?;
    let bytes = crate::dir::read_limited(&scratch.file, "table", MAX_TABLE)?;
    let layer = Layer::decode(&bytes)?;
    if layer.tar_size != tar_size {
        let said = layer.tar_size;
        return Err(Error::invalid(format!("the table is of a tar of {said} bytes, and this one has {tar_size}")));
    }
    let info = LayerInfo::of(diff_id, &layer);
    scratch.file.write_all(&info.trailer(bytes.len() as u64)).at(|| "write the table")?;
    scratch.sync()?;
    Ok(info)
}

/// How much a pipe between the worker and this process holds, in bytes. The kernel has a bound of its own, often below.
const PIPE: usize = 256 << 10;

/// A pipe for what a worker writes: its end for reading, and the one for writing. It is made of sockets, whose memory comes
/// by 32 KiB and not by the page: an import takes 6 % less of the processors.
pub(super) fn pipe() -> Result<(File, File)> {
    let what = || "make a pipe";
    let (from, to) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).at(what)?;
    rustix::net::shutdown(&to, Shutdown::Read).at(what)?;
    // It is only slower without.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&to, PIPE);
    Ok((from.into(), to.into()))
}

/// Takes in the tar that a worker writes, up to `most` bytes: its digest and its length.
fn receive(from: File, tar: &File, most: u64, watch: &dyn Watch) -> Result<(Digest, u64)> {
    let mut behind = Behind::new(tar, 0)?;
    let (mut hasher, mut size) = (Hasher::default(), 0);
    loop {
        let bytes = behind.fill(&from)?;
        if bytes.is_empty() {
            behind.finish()?;
            return Ok((hasher.finish(), size));
        }
        hasher.update(bytes);
        size += bytes.len() as u64;
        if size > most {
            // The worker's own bound comes first, unless it is not itself any more.
            return Err(Error::invalid(format!("the layer is longer than {most} bytes")));
        }
        watch.unpacked(size);
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
