//! A blob or a layer's tar on its way to the disk: written by a thread of its own, behind who makes it.
//!
//! All of it is on disk before it gets a name, so a large file goes past the page cache: copying it there, and then waiting
//! until it has gone on from there, takes longer than inflating it does. The start stays cached, as far as a first container
//! is likely to read soon.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{At, Error, Result};

/// So much of a file goes through the page cache, in bytes.
const CACHED: u64 = 16 << 20;
/// How much is written at once, in bytes: what a disk is busy with for as long as it takes to ask it.
const BUFFER: usize = 1 << 20;
/// How many buffers there are.
const BUFFERS: usize = 4;
/// What addresses, offsets and lengths are multiples of where the page cache is passed by, in bytes: the largest logical
/// block that Linux has without large folios (open(2), `O_DIRECT`).
const ALIGNED: usize = 4096;

/// A file that is being written. Dropped, it is written as far as it was filled.
#[derive(Debug)]
pub(super) struct Behind {
    buffer: Buffer,
    empty: Receiver<Buffer>,
    /// Gone after the end, or an error.
    writer: Option<(SyncSender<Buffer>, JoinHandle<Result<()>>)>,
}

impl Behind {
    /// Writes to `file` from the byte `at` on.
    pub(super) fn new(file: &File, at: u64) -> Result<Self> {
        Self::with(file, at, CACHED)
    }

    fn with(file: &File, at: u64, cached: u64) -> Result<Self> {
        let (full, to_write) = mpsc::sync_channel(BUFFERS);
        let (back, empty) = mpsc::channel();
        for _ in 1..BUFFERS {
            // Its other end is here.
            let _ = back.send(Buffer::new());
        }
        let file = file.try_clone().at(|| "duplicate a descriptor")?;
        let writer = Writer { file, cached, at, past: false, flush: None };
        let writer = std::thread::spawn(move || writer.run(&to_write, &back));
        Ok(Self { buffer: Buffer::new(), empty, writer: Some((full, writer)) })
    }

    /// Reads what comes next from `from`, as far as there is room, and gives it back once it is on its way into the file;
    /// nothing, if there is no more.
    pub(super) fn fill(&mut self, mut from: impl Read) -> Result<&[u8]> {
        if self.buffer.room().is_empty() {
            self.pass_on()?;
        }
        let n = loop {
            match from.read(self.buffer.room()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => break done.at(|| "read")?,
            }
        };
        Ok(self.buffer.add(n))
    }

    /// Waits until all is in the file. It is not on disk by that.
    pub(super) fn finish(mut self) -> Result<()> {
        self.end()
    }

    fn pass_on(&mut self) -> Result<()> {
        let Some((full, _)) = &self.writer else { return Err(Error::invalid("write: ended early")) };
        let filled = std::mem::replace(&mut self.buffer, Buffer { bytes: Vec::new(), start: 0, len: 0 });
        match full.send(filled).ok().and_then(|()| self.empty.recv().ok()) {
            Some(empty) => {
                self.buffer = empty;
                Ok(())
            }
            None => self.end(),
        }
    }

    fn end(&mut self) -> Result<()> {
        let Some((full, writer)) = self.writer.take() else { return Ok(()) };
        if self.buffer.len > 0 {
            let last = std::mem::replace(&mut self.buffer, Buffer { bytes: Vec::new(), start: 0, len: 0 });
            // If nobody takes it, the writer says why.
            let _ = full.send(last);
        }
        drop(full);
        joined(writer)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        // Who wants to know has called finish.
        let _ = self.end();
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(Error::invalid("a thread failed")))
}

impl Write for Behind {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.fill(bytes).map(<[u8]>::len).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other side.
#[derive(Debug)]
struct Writer {
    file: File,
    cached: u64,
    at: u64,
    /// True while the file is written past the page cache.
    past: bool,
    /// What went into the page cache is written to disk while the rest comes.
    flush: Option<JoinHandle<Result<()>>>,
}

impl Writer {
    fn run(mut self, full: &Receiver<Buffer>, back: &Sender<Buffer>) -> Result<()> {
        for mut buffer in full {
            if self.at >= self.cached && self.flush.is_none() {
                let file = self.file.try_clone().at(|| "duplicate a descriptor")?;
                self.flush = Some(std::thread::spawn(move || file.sync_data().at(|| "write to disk")));
                self.past = self.turn(OFlags::DIRECT).is_ok();
            }
            self.write(buffer.filled()).at(|| "write")?;
            buffer.len = 0;
            // Nobody wants it back after the last one.
            let _ = back.send(buffer);
        }
        if self.past {
            self.turn(OFlags::empty()).at(|| "write")?;
        }
        self.flush.map_or(Ok(()), joined)
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.past && !bytes.len().is_multiple_of(ALIGNED) {
                // The end of the file, or a disk that is full.
                self.past = false;
                self.turn(OFlags::empty())?;
            }
            match self.file.write_at(bytes, self.at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.at += n as u64;
                    bytes = bytes.get(n..).unwrap_or_default();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A file system with larger blocks, or without another way.
                Err(e) if self.past && e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    self.past = false;
                    self.turn(OFlags::empty())?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Sets the file's flag for its way to the disk, or takes it away. EINVAL where the file system has one way only.
    fn turn(&self, direct: OFlags) -> rustix::io::Result<()> {
        let others = rustix::fs::fcntl_getfl(&self.file)?.difference(OFlags::DIRECT);
        rustix::fs::fcntl_setfl(&self.file, others.union(direct))
    }
}

/// Bytes at an aligned address.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; BUFFER + ALIGNED];
        // A start that can't be found is unaligned, and writes of it go the other way.
        let start = Some(bytes.as_ptr().align_offset(ALIGNED)).filter(|start| *start < ALIGNED).unwrap_or_default();
        Self { bytes, start, len: 0 }
    }

    fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start + self.len..self.start + BUFFER).unwrap_or_default()
    }

    /// Counts `n` more bytes as filled, and gives them.
    fn add(&mut self, n: usize) -> &[u8] {
        let from = self.start + self.len;
        self.len += n;
        self.bytes.get(from..from + n).unwrap_or_default()
    }

    fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    /// A file on the disk that the tests are built on, and one in memory.
    fn files() -> [File; 2] {
        let target = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        [target, "/dev/shm".into()].map(|dir| {
            let flags = OFlags::TMPFILE | OFlags::RDWR;
            File::from(rustix::fs::open(&dir, flags, rustix::fs::Mode::from_raw_mode(0o600)).unwrap())
        })
    }

    #[test]
    fn what_is_written_is_there_whatever_its_length_and_its_way() {
        for file in files() {
            for len in [0, 1, 4095, 4096, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 4096, 6 * BUFFER + 12_345] {
                for cached in [0, BUFFER as u64, CACHED] {
                    let content = content(len);
                    file.set_len(0).unwrap();
                    let mut behind = Behind::with(&file, 0, cached).unwrap();
                    let (mut read, typed) = content.split_at(len / 2);
                    while !behind.fill(&mut read).unwrap().is_empty() {}
                    behind.write_all(typed).unwrap();
                    behind.finish().unwrap();
                    let mut back = Vec::new();
                    (&file).rewind().unwrap();
                    (&file).read_to_end(&mut back).unwrap();
                    assert!(back == content, "{len} bytes, {cached} of them cached");
                    assert!(!rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
                }
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_says_why() {
        let read_only = File::open("/proc/self/exe").unwrap();
        let content = content(9 * BUFFER);
        let mut behind = Behind::new(&read_only, 0).unwrap();
        let said = behind.write_all(&content).unwrap_err().to_string();
        assert_eq!(said, "write: bad file descriptor");
        assert_eq!(behind.write_all(&content).unwrap_err().to_string(), "write: ended early");
        let mut behind = Behind::new(&read_only, 0).unwrap();
        behind.write_all(b"little").unwrap();
        assert_eq!(behind.finish().unwrap_err().to_string(), "write: bad file descriptor");
    }

    #[test]
    fn what_was_begun_is_kept_and_gone_on_with_at_any_byte() {
        let content = content(2 * BUFFER + 100);
        for file in files() {
            let (first, rest) = content.split_at(BUFFER + 77);
            drop(Behind::new(&file, 0).unwrap().write_all(first));
            assert_eq!(file.metadata().unwrap().len(), first.len() as u64);
            let mut behind = Behind::with(&file, first.len() as u64, 0).unwrap();
            behind.write_all(rest).unwrap();
            behind.finish().unwrap();
            let mut back = Vec::new();
            (&file).rewind().unwrap();
            (&file).read_to_end(&mut back).unwrap();
            assert!(back == content);
        }
    }
}
