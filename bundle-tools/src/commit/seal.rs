//! Makes a stored layer and a blob of a tar while it is written.
//!
//! Whoever reads the container's files is jailed and writes the tar to a pipe ([`Scanned`] makes the layer's table on the
//! way); the parent reads the pipe, looks at no header, and takes both digests itself ([`seal`]).

use std::io::{self, Read, Write};
use std::sync::mpsc;

use crate::compress::Encoder;
use crate::digest::{Digest, Hasher};
use crate::error::{At, Error, Result};
use crate::image::Compression;
use crate::layer::Layer;
use crate::tar::{Limits, Scanner};

/// A writer that makes a layer's table of the tar that passes through it. The table is that of a scan because it is one.
pub struct Scanned<W> {
    to: W,
    scanner: Scanner,
}

impl<W: Write> Scanned<W> {
    /// Passes everything on to `to`.
    pub fn new(to: W) -> Self {
        Self { to, scanner: Scanner::new(Limits::default()) }
    }

    /// What is behind it, and the table.
    pub fn finish(self) -> Result<(W, Layer)> {
        Ok((self.to, self.scanner.finish()?))
    }
}

impl<W: Write> Write for Scanned<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.scanner.feed(bytes.get(..n).unwrap_or_default()).map_err(io::Error::other)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Where a blob goes.
#[derive(Debug)]
pub struct Target<W> {
    /// How it is packed; with [`Compression::None`] the tar is the blob, and nothing is written here.
    pub compression: Compression,
    /// How hard, from 1; `None` for the usual.
    pub level: Option<i32>,
    /// The file.
    pub to: W,
}

/// A layer that was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The digest of the tar.
    pub diff_id: Digest,
    /// The length of the tar, in bytes.
    pub tar_size: u64,
    /// The digest of the blob.
    pub digest: Digest,
    /// The length of the blob, in bytes.
    pub size: u64,
}

/// How much is read at once, and how many of such buffers there are.
const BUFFER: usize = 256 << 10;
const BUFFERS: usize = 8;

/// Reads the tar that `from` is, to its end, and writes it to `tar` and packed to `blob`. Hashing and writing the tar go
/// on beside the packing.
pub fn seal<T: Write + Send, B: Write>(mut from: impl Read, tar: T, blob: Target<B>) -> Result<Sealed> {
    let (full, arriving) = mpsc::sync_channel::<Vec<u8>>(BUFFERS);
    let (empty, free) = mpsc::channel();
    std::thread::scope(|scope| {
        let stored = scope.spawn(move || store(tar, &arriving, &empty));
        let packed = pack(&mut from, blob, full, &free);
        let stored = stored.join().unwrap_or_else(|_| Err(Error::invalid("store a layer: a thread ended early")));
        // If the tar could not be written, that is why nobody takes buffers any more.
        let (diff_id, tar_size) = stored?;
        let (digest, size) = packed?.unwrap_or((diff_id, tar_size));
        Ok(Sealed { diff_id, tar_size, digest, size })
    })
}

/// Writes the tar, and hashes it.
fn store(
    mut tar: impl Write,
    arriving: &mpsc::Receiver<Vec<u8>>,
    empty: &mpsc::Sender<Vec<u8>>,
) -> Result<(Digest, u64)> {
    let (mut hasher, mut size) = (Hasher::default(), 0);
    while let Ok(buffer) = arriving.recv() {
        hasher.update(&buffer);
        tar.write_all(&buffer).at(|| "write the layer's tar")?;
        size += buffer.len() as u64;
        // Nobody wants it back after the last one.
        let _ = empty.send(buffer);
    }
    tar.flush().at(|| "write the layer's tar")?;
    Ok((hasher.finish(), size))
}

/// Reads the tar, hands it on, and packs it; `None` if that makes nothing new of it.
fn pack<B: Write>(
    from: &mut impl Read,
    blob: Target<B>,
    full: mpsc::SyncSender<Vec<u8>>,
    free: &mpsc::Receiver<Vec<u8>>,
) -> Result<Option<(Digest, u64)>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    let mut encoder = match blob.compression {
        Compression::None => None,
        compression => Some(Encoder::new(compression, blob.level, threads, Hashed::new(blob.to))?),
    };
    let mut made = 0;
    loop {
        let mut buffer = match free.try_recv() {
            Ok(buffer) => buffer,
            Err(_) if made < BUFFERS => {
                made += 1;
                Vec::new()
            }
            Err(_) => match free.recv() {
                Ok(buffer) => buffer,
                // The other side has given up, and says why.
                Err(_) => return Ok(None),
            },
        };
        buffer.resize(BUFFER, 0);
        let mut len = 0;
        while len < BUFFER {
            let read = from.read(buffer.get_mut(len..).unwrap_or_default());
            match read {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).at(|| "read the layer's tar"),
                Ok(0) => break,
                Ok(n) => len += n,
            }
        }
        buffer.truncate(len);
        if len == 0 {
            break;
        }
        if let Some(encoder) = &mut encoder {
            encoder.write_all(&buffer).at(|| "write the layer's blob")?;
        }
        if full.send(buffer).is_err() {
            return Ok(None);
        }
    }
    drop(full);
    let Some(encoder) = encoder else { return Ok(None) };
    let mut hashed = encoder.finish()?;
    hashed.flush().at(|| "write the layer's blob")?;
    Ok(Some((hashed.hasher.finish(), hashed.size)))
}

/// A writer that takes the digest of what passes.
struct Hashed<W> {
    to: W,
    hasher: Hasher,
    size: u64,
}

impl<W> Hashed<W> {
    fn new(to: W) -> Self {
        Self { to, hasher: Hasher::default(), size: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hasher.update(bytes.get(..n).unwrap_or_default());
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
