//! What the worker does to make layers: a blob becomes a tar and a table, tables become a merged index.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc;

use serde::{Deserialize, Serialize};

use crate::compress::{self, Bound, Decoder};
use crate::error::{At, Error, Result};
use crate::image::Compression;
use crate::layer::Layer;
use crate::tar::{Limits, Scanner};
use crate::worker::Parent;
use crate::{erofs, tree::Tree};

/// A layer's blob becomes a tar and a table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// The most that the tar may have, in bytes.
    pub max_output: u64,
    /// How many times as large as the blob it may be, beyond the first [`Bound::FREE`]; 0 is no such bound.
    pub ratio: u64,
    /// True if the blob is a plain tar, whatever its first bytes look like.
    pub plain: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// How the blob is packed. A plain one is the tar itself, and no other is written.
    pub compression: Compression,
    /// What was left out of the table that somebody may miss ([`Scanner::left_out`]).
    pub notes: Vec<String>,
}

impl Task {
    /// The task for a blob of `size` bytes, if that is known. It may inflate to a hundredfold and 64 MiB, where tars
    /// compress to a third or a tenth; what is longer is an attack, or is allowed by `most`.
    pub fn of(size: Option<u64>, most: Option<u64>) -> Self {
        let Bound { ratio, .. } = Bound::default();
        match most {
            Some(max_output) => Self { max_output, ratio: 0, plain: false },
            None => {
                let bound = |size: u64| size.saturating_mul(ratio).saturating_add(Bound::FREE);
                Self { max_output: size.map_or(u64::MAX, bound), ratio, plain: false }
            }
        }
    }

    /// The task for a tar that is in the store.
    pub fn again() -> Self {
        Self { max_output: u64::MAX, ratio: 0, plain: true }
    }
}

/// How much is handed from thread to thread at once: enough for few system calls.
const CHUNK: usize = 256 << 10;
/// How many of those there are: together what a core's cache holds.
const CHUNKS: usize = 4;

/// Descriptors: the blob, a file or a pipe that it comes out of; a pipe for the tar; the table, for appending. Progress of a
/// plain blob, of which nothing goes into the pipe, is in bytes of it.
pub fn work(task: &Task, fds: Vec<OwnedFd>, parent: &Parent) -> Result<Done> {
    let Ok([blob, tar, table]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(Error::invalid("ingest: not three files"));
    };
    let mut blob = File::from(blob);
    let mut head = Vec::new();
    Read::by_ref(&mut blob).take(512).read_to_end(&mut head).at(|| "read the blob")?;
    let compression = if task.plain { Compression::None } else { compress::detect(&head) };
    let blob = std::io::Cursor::new(head).chain(blob);
    let tar = (compression != Compression::None).then(|| File::from(tar));
    let bound = Bound { ratio: task.ratio, most: task.max_output };
    let (layer, notes) = pipeline(Decoder::new(compression, blob, bound)?, tar, parent)?;
    File::from(table).write_all(&layer.encode()).at(|| "write the table")?;
    Ok(Done { compression, notes })
}

/// This thread inflates, another one scans and writes.
fn pipeline(mut decoder: Decoder<impl Read>, tar: Option<File>, parent: &Parent) -> Result<(Layer, Vec<String>)> {
    let (full, to_scan) = mpsc::sync_channel::<Vec<u8>>(CHUNKS);
    let (empty, to_fill) = mpsc::sync_channel::<Vec<u8>>(CHUNKS);
    for _ in 0..CHUNKS {
        // There is room for all of them.
        let _ = empty.send(Vec::new());
    }
    std::thread::scope(|scope| {
        let second = scope.spawn(move || scan(to_scan, empty, tar, parent));
        let mut inflate = || -> Result<()> {
            // The other thread ends early only with an error, which is reported in the place of this one's.
            while let Ok(mut chunk) = to_fill.recv() {
                chunk.resize(CHUNK, 0);
                let mut filled = 0;
                while let Some(rest) = chunk.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                    match decoder.read(rest)? {
                        0 => break,
                        n => filled += n,
                    }
                }
                chunk.truncate(filled);
                if filled == 0 || full.send(chunk).is_err() {
                    return Ok(());
                }
            }
            Ok(())
        };
        let inflated = inflate();
        drop(full);
        let scanned = second.join().unwrap_or_else(|_| Err(Error::invalid("ingest: a thread failed")));
        // A tar that is cut off because its inflation failed is no news.
        inflated.and(scanned)
    })
}

fn scan(
    chunks: mpsc::Receiver<Vec<u8>>,
    empty: mpsc::SyncSender<Vec<u8>>,
    mut tar: Option<File>,
    parent: &Parent,
) -> Result<(Layer, Vec<String>)> {
    let mut scanner = Scanner::new(Limits::default());
    let mut scanned = 0u64;
    for chunk in chunks {
        scanner.feed(&chunk)?;
        match &mut tar {
            Some(tar) => tar.write_all(&chunk).at(|| "write the layer")?,
            None => {
                scanned += chunk.len() as u64;
                parent.progress(scanned)?;
            }
        }
        // Not taken back at the end, when nobody fills it.
        let _ = empty.send(chunk);
    }
    let notes = scanner.left_out();
    Ok((scanner.finish()?, notes))
}

/// Tables become a merged index.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Merge {
    /// The lengths of the tables, from the base up.
    pub tables: Vec<u64>,
}

/// Descriptors: the index, for writing, then those of [`layers`].
pub fn merge(task: &Merge, mut fds: Vec<OwnedFd>) -> Result<()> {
    if fds.is_empty() {
        return Err(Error::invalid("merge: no index"));
    }
    let (layers, tars) = layers(&task.tables, fds.split_off(1))?;
    let mut index = File::from(fds.swap_remove(0));
    erofs::write(&Tree::merge(&layers)?, &tars, &mut index)
}

/// The layers whose tables have these lengths, and their tars. Descriptors: the tables from the base up, then the tars in
/// the same order.
pub(crate) fn layers(tables: &[u64], fds: Vec<OwnedFd>) -> Result<(Vec<Layer>, Vec<File>)> {
    if fds.len() != 2 * tables.len() {
        return Err(Error::invalid("merge: not as many files as layers"));
    }
    let mut files = fds.into_iter().map(File::from);
    let mut layers = Vec::new();
    for (file, len) in files.by_ref().take(tables.len()).zip(tables) {
        let mut bytes = Vec::new();
        file.take(*len).read_to_end(&mut bytes).at(|| "read a table")?;
        layers.push(Layer::decode(&bytes)?);
    }
    Ok((layers, files.collect()))
}
