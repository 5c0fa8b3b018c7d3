//! How layers are packed: gzip and zstd, both ways, as streams with bounds.
//!
//! What is unpacked comes from anywhere, so the output is bounded by the input ([`Bound`]), checksums and lengths are checked,
//! and nothing may follow but zeros after gzip, which some writers pad with. What is packed is the same whatever the number
//! of threads.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use flate2::{Crc, Decompress, FlushDecompress, Status};
use libdeflater::{CompressionLvl, Compressor};
use zstd::stream::raw::{self as zraw, CParameter, DParameter, InBuffer, Operation as _, OutBuffer};

use crate::error::{At, Error, Result};
pub use crate::image::Compression;

/// What the first bytes of a blob say: 4 are enough. What is neither gzip nor zstd is taken as plain.
pub fn detect(first: &[u8]) -> Compression {
    match first {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// How much may come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Bytes out for every byte in, beyond the first [`Bound::FREE`]; on the way, when a file of zeros may come first, beyond
    /// [`Bound::AHEAD`]. 0 is no such bound. Deflate reaches 1032.
    pub ratio: u64,
    /// Bytes out in all.
    pub most: u64,
}

impl Bound {
    /// What may come out whatever came in: 64 MiB.
    pub const FREE: u64 = 64 << 20;

    /// What may come out before what comes in is known to be worth it: 4 GiB.
    pub const AHEAD: u64 = 4 << 30;

    /// None: for content that is trusted, or whose size is bounded by other means.
    pub const NONE: Self = Self { ratio: 0, most: u64::MAX };
}

impl Default for Bound {
    fn default() -> Self {
        Self { ratio: 100, most: u64::MAX }
    }
}

/// The largest window that a zstd frame may ask for, as a power of two: 128 MiB, what `zstd --long` makes. The memory is
/// touched only as far as the content reaches; the frames of registries have 8 MiB and less.
const WINDOW_LOG: u32 = 27;

/// How much is read at once.
const INPUT: usize = 256 << 10;

/// Unpacks a stream.
pub struct Decoder<R> {
    input: Input<R>,
    codec: Codec,
    bound: Bound,
    produced: u64,
}

enum Codec {
    Plain,
    Gzip(Box<Gunzip>),
    Zstd { decoder: Box<zraw::Decoder<'static>>, frame: Frame },
}

/// Where a zstd stream is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// Before the first, which must come.
    First,
    Inside,
    Between,
}

struct Gunzip {
    inflate: Decompress,
    crc: Crc,
    length: u32,
    stage: Member,
}

/// Where a gzip stream is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    /// Before the first, which must come.
    First,
    Inside,
    Trailer,
    Between,
    End,
}

impl<R: Read> Decoder<R> {
    /// Unpacks what `from` gives, as `compression` says.
    pub fn new(compression: Compression, from: R, bound: Bound) -> Result<Self> {
        let codec = match compression {
            Compression::None => Codec::Plain,
            Compression::Gzip => Codec::Gzip(Box::new(Gunzip {
                inflate: Decompress::new(false),
                crc: Crc::new(),
                length: 0,
                stage: Member::First,
            })),
            Compression::Zstd => {
                let mut decoder = zraw::Decoder::new().at(|| "zstd")?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).at(|| "zstd")?;
                Codec::Zstd { decoder: Box::new(decoder), frame: Frame::First }
            }
        };
        let input = Input { from, buffer: Vec::new(), at: 0, end: 0, consumed: 0 };
        Ok(Self { input, codec, bound, produced: 0 })
    }

    /// Fills `out` from its start and says how far, which is 0 only at the end of the stream (or if `out` is empty). The
    /// larger it is, the faster: 256 KiB and more.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let n = match &mut self.codec {
            Codec::Plain => self.input.read(out)?,
            Codec::Gzip(gunzip) => gunzip.read(&mut self.input, out)?,
            Codec::Zstd { decoder, frame } => unzstd(decoder, frame, &mut self.input, out)?,
        };
        self.produced = self.produced.saturating_add(n as u64);
        let Bound { ratio, most } = self.bound;
        let free = if n == 0 { Bound::FREE } else { Bound::AHEAD };
        let fair = self.input.consumed.saturating_mul(ratio).saturating_add(free);
        let is_fair = self.produced <= fair || ratio == 0 || matches!(self.codec, Codec::Plain);
        match self.produced <= most {
            true if is_fair => Ok(n),
            false if ratio == 0 => {
                Err(Error::invalid(format!("unpacked, it is larger than the {most} bytes that are allowed")))
            }
            _ => Err(Error::invalid(format!("unpacked, it is more than {ratio} times as large: a bomb"))),
        }
    }

    /// Bytes that were taken, and bytes that were given.
    pub fn counts(&self) -> (u64, u64) {
        (self.input.consumed, self.produced)
    }
}

/// Flags of a gzip member's header.
const HCRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// What is read, with a buffer.
struct Input<R> {
    from: R,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    /// Bytes that were used.
    consumed: u64,
}

impl<R: Read> Input<R> {
    /// What is there; more is read if there is nothing. Empty at the end.
    fn fill(&mut self) -> Result<&[u8]> {
        if self.at == self.end {
            self.buffer.resize(INPUT, 0);
            self.at = 0;
            self.end = fetch(&mut self.from, &mut self.buffer)?;
        }
        Ok(self.buffer.get(self.at..self.end).unwrap_or_default())
    }

    fn used(&mut self, n: usize) {
        self.at += n;
        self.consumed = self.consumed.saturating_add(n as u64);
    }

    /// Passes bytes on as they are.
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let n = fetch(&mut self.from, out)?;
        self.consumed = self.consumed.saturating_add(n as u64);
        Ok(n)
    }

    fn byte(&mut self) -> Result<Option<u8>> {
        let byte = self.fill()?.first().copied();
        self.used(usize::from(byte.is_some()));
        Ok(byte)
    }

    /// A byte that must be there.
    fn must(&mut self) -> Result<u8> {
        self.byte()?.ok_or_else(cut)
    }

    fn little_endian(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes([self.must()?, self.must()?, self.must()?, self.must()?]))
    }
}

fn fetch(from: &mut impl Read, out: &mut [u8]) -> Result<usize> {
    loop {
        match from.read(out) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.at(|| "read"),
        }
    }
}

fn cut() -> Error {
    Error::invalid("the compressed data ends before its end")
}

fn corrupt(what: impl Display) -> Error {
    Error::invalid(format!("the compressed data is damaged: {what}"))
}

impl Gunzip {
    fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<usize> {
        loop {
            match self.stage {
                Member::First | Member::Between => {
                    self.stage = self.start(input)?;
                }
                Member::Inside => {
                    let n = self.inflate(input, out)?;
                    if n > 0 {
                        return Ok(n);
                    }
                }
                Member::Trailer => {
                    if input.little_endian()? != self.crc.sum() {
                        return Err(corrupt("a gzip member's checksum is wrong"));
                    }
                    if input.little_endian()? != self.length {
                        return Err(corrupt("a gzip member's length is wrong"));
                    }
                    self.stage = Member::Between;
                }
                Member::End => return Ok(0),
            }
        }
    }

    /// A member's header (RFC 1952, 2.3), or the end. Its own checksum, which is rare, is passed over.
    fn start<R: Read>(&mut self, input: &mut Input<R>) -> Result<Member> {
        let further = self.stage == Member::Between;
        match input.byte()? {
            Some(0x1f) => {}
            None if further => return Ok(Member::End),
            None => return Err(cut()),
            Some(0) if further => return zeros(input),
            Some(_) if further => return Err(corrupt("something follows the last gzip member")),
            Some(_) => return Err(corrupt("not gzip")),
        }
        if (input.must()?, input.must()?) != (0x8b, 8) {
            return Err(corrupt("not gzip"));
        }
        let flags = input.must()?;
        if flags & RESERVED != 0 {
            return Err(corrupt("a gzip header with unknown flags"));
        }
        // Time, level and system.
        for _ in 0..6 {
            input.must()?;
        }
        if flags & EXTRA != 0 {
            for _ in 0..u16::from_le_bytes([input.must()?, input.must()?]) {
                input.must()?;
            }
        }
        for text in [NAME, COMMENT] {
            while flags & text != 0 && input.must()? != 0 {}
        }
        if flags & HCRC != 0 {
            input.must()?;
            input.must()?;
        }
        self.inflate.reset(false);
        self.crc.reset();
        self.length = 0;
        Ok(Member::Inside)
    }

    fn inflate<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<usize> {
        let there = input.fill()?;
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(there, out, FlushDecompress::None).map_err(corrupt)?;
        let at_end = there.is_empty();
        let used = (self.inflate.total_in() - before_in) as usize;
        let n = (self.inflate.total_out() - before_out) as usize;
        input.used(used);
        self.crc.update(out.get(..n).unwrap_or_default());
        self.length = self.length.wrapping_add(n as u32);
        match status {
            Status::StreamEnd => self.stage = Member::Trailer,
            _ if used == 0 && n == 0 && at_end => return Err(cut()),
            _ if used == 0 && n == 0 => return Err(corrupt("deflate stands still")),
            _ => {}
        }
        Ok(n)
    }
}

/// What some writers pad the last gzip member with, up to the end.
fn zeros<R: Read>(input: &mut Input<R>) -> Result<Member> {
    loop {
        let there = input.fill()?;
        let n = there.len();
        if n == 0 {
            return Ok(Member::End);
        }
        if there.iter().any(|byte| *byte != 0) {
            return Err(corrupt("something follows the last gzip member"));
        }
        input.used(n);
    }
}

fn unzstd<R: Read>(
    decoder: &mut zraw::Decoder<'static>,
    frame: &mut Frame,
    input: &mut Input<R>,
    out: &mut [u8],
) -> Result<usize> {
    loop {
        let there = input.fill()?;
        let at_end = there.is_empty();
        match *frame {
            Frame::Between if at_end => return Ok(0),
            Frame::First if at_end => return Err(cut()),
            _ => {}
        }
        let (mut from, mut to) = (InBuffer::around(there), OutBuffer::around(out));
        let left = decoder.run(&mut from, &mut to).map_err(|e| corrupt(format!("zstd: {e}")))?;
        let (used, n) = (from.pos(), to.pos());
        input.used(used);
        *frame = if left == 0 { Frame::Between } else { Frame::Inside };
        if n > 0 {
            return Ok(n);
        }
        match used {
            0 if at_end => return Err(cut()),
            0 if left > 0 => return Err(corrupt("zstd stands still")),
            _ => {}
        }
    }
}

/// How much becomes a gzip member, which is packed by one thread.
const PIECE: usize = 1 << 20;

/// What zstd packs by one thread at a time.
const ZSTD_JOB: u32 = 4 << 20;

/// Packs a stream. Nothing of it is whole before [`Encoder::finish`].
///
/// gzip is a member for every 1 MiB, packed side by side, whose headers have no time and no name; that none knows what was
/// before it is 1 % of bytes. zstd is one frame with a checksum.
pub struct Encoder<W> {
    to: W,
    codec: Packer,
}

enum Packer {
    Plain,
    Gzip(Box<Gzip>),
    Zstd { encoder: Box<zraw::Encoder<'static>>, buffer: Vec<u8> },
}

impl<W: Write> Encoder<W> {
    /// Packs into `to` with up to `threads` threads (at least one, which is started). Levels are 1 to 9 for gzip, 1 to 19
    /// for zstd; `None` is 1 for gzip, which is 5 % more bytes than zlib's 6 in a quarter of its time, and 3 for zstd.
    pub fn new(compression: Compression, level: Option<i32>, threads: usize, to: W) -> Result<Self> {
        let level = |default: i32, most: i32| match level.unwrap_or(default) {
            level if (1..=most).contains(&level) => Ok(level),
            other => Err(Error::invalid(format!("compression level {other}: not one of 1 to {most}"))),
        };
        let codec = match compression {
            Compression::None => Packer::Plain,
            Compression::Gzip => {
                let level = level(1, 9)?;
                let known = CompressionLvl::new(level);
                let known = known.map_err(|_| Error::invalid(format!("compression level {level}")))?;
                Packer::Gzip(Box::new(Gzip::new(known, threads)?))
            }
            Compression::Zstd => {
                let mut encoder = zraw::Encoder::new(level(3, 19)?).at(|| "zstd")?;
                // With no worker at all the result would be another one than with any number of them.
                let threads = u32::try_from(threads.clamp(1, 64)).unwrap_or(1);
                for parameter in
                    [CParameter::ChecksumFlag(true), CParameter::NbWorkers(threads), CParameter::JobSize(ZSTD_JOB)]
                {
                    encoder.set_parameter(parameter).at(|| "zstd")?;
                }
                Packer::Zstd { encoder: Box::new(encoder), buffer: vec![0; 128 << 10] }
            }
        };
        Ok(Self { to, codec })
    }

    /// Packs what is left, ends the stream, and gives back what it was written to.
    pub fn finish(mut self) -> Result<W> {
        match &mut self.codec {
            Packer::Plain => {}
            Packer::Gzip(gzip) => gzip.finish(&mut self.to).at(|| "compress")?,
            Packer::Zstd { encoder, buffer } => loop {
                let mut out = OutBuffer::around(&mut buffer[..]);
                let left = encoder.finish(&mut out, true).at(|| "compress")?;
                self.to.write_all(out.as_slice()).at(|| "write")?;
                if left == 0 {
                    break;
                }
            },
        }
        self.to.flush().at(|| "write")?;
        Ok(self.to)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.codec {
            Packer::Plain => self.to.write(bytes),
            Packer::Gzip(gzip) => gzip.write(bytes, &mut self.to),
            Packer::Zstd { encoder, buffer } => {
                let mut from = InBuffer::around(bytes);
                while from.pos() < bytes.len() {
                    let mut out = OutBuffer::around(&mut buffer[..]);
                    encoder.run(&mut from, &mut out)?;
                    self.to.write_all(out.as_slice())?;
                }
                Ok(bytes.len())
            }
        }
    }

    /// Hands on what is packed; what waits for more to be packed with stays.
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

struct Gzip {
    pool: Pool,
    /// What is not handed out yet, up to a piece.
    piece: Piece,
    /// True once a member was begun: there has to be one.
    begun: bool,
    /// Pieces that were written out, to be filled again.
    spare: Vec<Piece>,
}

impl Gzip {
    fn new(level: CompressionLvl, threads: usize) -> Result<Self> {
        let pool = Pool::new(level, threads).at(|| "start a thread")?;
        Ok(Self { pool, piece: Piece::default(), begun: false, spare: Vec::new() })
    }

    fn write(&mut self, bytes: &[u8], to: &mut impl Write) -> io::Result<usize> {
        if self.piece.bytes.len() == PIECE {
            self.hand_out(to)?;
        }
        self.piece.bytes.reserve_exact(PIECE - self.piece.bytes.len());
        let n = bytes.len().min(PIECE - self.piece.bytes.len());
        self.piece.bytes.extend_from_slice(bytes.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn finish(&mut self, to: &mut impl Write) -> io::Result<()> {
        if !self.begun || !self.piece.bytes.is_empty() {
            self.hand_out(to)?;
        }
        while let Some(packed) = self.pool.next() {
            to.write_all(&packed?.packed)?;
        }
        Ok(())
    }

    fn hand_out(&mut self, to: &mut impl Write) -> io::Result<()> {
        self.begun = true;
        if self.pool.is_full()
            && let Some(packed) = self.pool.next()
        {
            let packed = packed?;
            to.write_all(&packed.packed)?;
            self.spare.push(packed);
        }
        let mut next = self.spare.pop().unwrap_or_default();
        next.bytes.clear();
        self.pool.give(std::mem::replace(&mut self.piece, next))
    }
}

/// What becomes a gzip member.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    packed: Vec<u8>,
}

impl Piece {
    /// Fills `packed`. The header has no flags, no time, and an unknown system.
    fn pack(&mut self, deflate: &mut Compressor) -> io::Result<()> {
        self.packed.resize(deflate.gzip_compress_bound(self.bytes.len()), 0);
        let n = deflate.gzip_compress(&self.bytes, &mut self.packed).map_err(io::Error::other)?;
        self.packed.truncate(n);
        Ok(())
    }
}

/// A piece and where it goes when it is packed.
type Job = (Piece, SyncSender<io::Result<Piece>>);

/// Threads that pack; what they made comes back in the order in which it was given.
struct Pool {
    jobs: Option<Sender<Job>>,
    given: VecDeque<Receiver<io::Result<Piece>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn new(level: CompressionLvl, threads: usize) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Self { jobs: Some(jobs), given: VecDeque::new(), threads: Vec::new() };
        for _ in 0..threads.clamp(1, 64) {
            let queue = Arc::clone(&queue);
            let work = move || {
                let mut deflate = Compressor::new(level);
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((mut piece, answer)) = job else { return };
                    // Nobody waits for it any more if the encoder was dropped.
                    let _ = answer.send(piece.pack(&mut deflate).map(|()| piece));
                }
            };
            pool.threads.push(thread::Builder::new().name("gzip".into()).spawn(work)?);
        }
        Ok(pool)
    }

    /// True if a result should be taken before another piece is given: each thread has one, and one waits.
    fn is_full(&self) -> bool {
        self.given.len() > self.threads.len()
    }

    fn give(&mut self, piece: Piece) -> io::Result<()> {
        let (answer, result) = mpsc::sync_channel(1);
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send((piece, answer)).is_ok());
        self.given.push_back(result);
        if sent { Ok(()) } else { Err(io::Error::other("the threads have ended")) }
    }

    /// The first result that was not taken yet, if anything was given.
    fn next(&mut self) -> Option<io::Result<Piece>> {
        let result = self.given.pop_front()?;
        Some(result.recv().unwrap_or_else(|_| Err(io::Error::other("a thread has ended"))))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // It has said what it had to say by its results.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text-like bytes, the same each time.
    fn sample(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut out = Vec::with_capacity(len + 16);
        while out.len() < len {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            out.extend_from_slice(format!("{:x} ", state >> (8 + state % 16)).as_bytes());
        }
        out.truncate(len);
        out
    }

    fn pack(compression: Compression, threads: usize, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(compression, None, threads, Vec::new()).unwrap();
        // Pieces that fit nothing.
        for chunk in bytes.chunks(77_777) {
            encoder.write_all(chunk).unwrap();
        }
        encoder.finish().unwrap()
    }

    /// A reader that gives `step` bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(out.len());
            self.0.read(&mut out[..n])
        }
    }

    fn unpack_by(compression: Compression, packed: &[u8], step: usize, room: usize, bound: Bound) -> Result<Vec<u8>> {
        let mut decoder = Decoder::new(compression, Slow(packed, step), bound)?;
        let (mut out, mut buffer) = (Vec::new(), vec![0; room]);
        loop {
            match decoder.read(&mut buffer)? {
                0 => {
                    assert_eq!(decoder.counts(), (packed.len() as u64, out.len() as u64));
                    assert_eq!(decoder.read(&mut buffer)?, 0);
                    return Ok(out);
                }
                n => out.extend_from_slice(&buffer[..n]),
            }
        }
    }

    fn unpack(compression: Compression, packed: &[u8]) -> std::result::Result<Vec<u8>, String> {
        unpack_by(compression, packed, usize::MAX, 256 << 10, Bound::default()).map_err(|e| e.to_string())
    }

    /// A gzip member with a header that has `flags` and `more`.
    fn member(flags: u8, more: &[u8], bytes: &[u8]) -> Vec<u8> {
        let packed = pack(Compression::Gzip, 1, bytes);
        [&[0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 5, 6], more, &packed[10..]].concat()
    }

    #[test]
    fn the_first_bytes_tell_how_a_blob_is_packed() {
        let skippable = [0x50, 0x2a, 0x4d, 0x18];
        for (bytes, expected) in [
            (&pack(Compression::Gzip, 1, b"")[..], Compression::Gzip),
            (&pack(Compression::Zstd, 1, b""), Compression::Zstd),
            (&skippable, Compression::Zstd),
            (b"etc/", Compression::None),
            (b"", Compression::None),
        ] {
            assert_eq!(detect(bytes), expected);
        }
    }

    #[test]
    fn what_was_packed_comes_out_whatever_the_threads_and_buffers() {
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 7 * PIECE / 2] {
            let bytes = sample(len);
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let packed = pack(compression, 1, &bytes);
                for threads in [2, 5] {
                    assert_eq!(pack(compression, threads, &bytes), packed, "{compression:?} {len} {threads}");
                }
                for (step, room) in [(usize::MAX, 1 << 20), (4096, 1000), (1000, 32 << 10)] {
                    let out = unpack_by(compression, &packed, step, room, Bound::default()).unwrap();
                    assert!(out == bytes, "{compression:?} {len} {step} {room}");
                }
            }
        }
        let bytes = sample(3000);
        let packed = pack(Compression::Gzip, 1, &bytes);
        assert_eq!(unpack_by(Compression::Gzip, &packed, 1, 1, Bound::default()).unwrap(), bytes);
        assert_eq!(
            unpack_by(Compression::Zstd, &pack(Compression::Zstd, 1, &bytes), 1, 1, Bound::default()).unwrap(),
            bytes
        );
    }

    #[test]
    fn other_programs_unpack_what_is_packed() {
        let bytes = sample(3 * PIECE);
        for (program, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
            let child = std::process::Command::new(program)
                .args(["-q", "-d", "-c"])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn();
            let Ok(mut child) = child else {
                eprintln!("SKIP: there is no {program}");
                continue;
            };
            let (mut input, packed) = (child.stdin.take().unwrap(), pack(compression, 2, &bytes));
            let writer = thread::spawn(move || input.write_all(&packed));
            let out = child.wait_with_output().unwrap();
            writer.join().unwrap().unwrap();
            assert!(out.status.success() && out.stdout == bytes, "{program}");
        }
    }

    #[test]
    fn every_piece_is_a_member_of_its_own() {
        let bytes = sample(2 * PIECE + 1);
        let packed = pack(Compression::Gzip, 3, &bytes);
        let alone: Vec<u8> = bytes.chunks(PIECE).flat_map(|piece| pack(Compression::Gzip, 1, piece)).collect();
        assert!(packed == alone);
        // No flags, no time, unknown system.
        assert_eq!((&packed[..8], packed[9]), (&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0][..], 255));
    }

    #[test]
    fn gzip_streams_have_many_members_and_all_headers() {
        let bytes = sample(100_000);
        let plain = pack(Compression::Gzip, 1, &bytes);
        let all = member(HCRC | EXTRA | NAME | COMMENT, b"\x03\0abcname\0comment\0\x12\x34", &bytes);
        let two = [&plain[..], &all, &pack(Compression::Gzip, 1, b"")].concat();
        let twice = bytes.repeat(2);
        assert_eq!(unpack(Compression::Gzip, &two), Ok(twice.clone()));
        assert_eq!(unpack(Compression::Gzip, &[&two[..], &[0; 700_000]].concat()), Ok(twice));
        let damaged = |at: usize| {
            let mut packed = plain.clone();
            let at = if at < 100 { at } else { packed.len() - (at - 100) };
            packed[at] ^= 1;
            packed
        };
        for (packed, word) in [
            (Vec::new(), "ends before"),
            (vec![0x1f], "ends before"),
            (vec![0; 100], "not gzip"),
            ([&plain[..], b"x"].concat(), "something follows"),
            ([&plain[..], b"\0x"].concat(), "something follows"),
            ([&plain[..], &plain[..9]].concat(), "ends before"),
            (damaged(2), "not gzip"),
            (damaged(103), "length is wrong"),
            (damaged(107), "checksum is wrong"),
            (member(0x20, b"", b""), "unknown flags"),
            (member(NAME, b"", b"")[..11].to_vec(), "ends before"),
        ] {
            let said = unpack(Compression::Gzip, &packed).unwrap_err();
            assert!(said.contains(word), "{said}, not {word}");
        }
        for len in 1..plain.len() {
            if len < 100 || len % 97 == 0 {
                assert!(unpack(Compression::Gzip, &plain[..len]).is_err(), "{len}");
            }
        }
        assert!(unpack(Compression::Gzip, &plain[..plain.len() - 1]).is_err());
    }

    #[test]
    fn zstd_streams_have_many_frames_and_skippable_ones() {
        let bytes = sample(300_000);
        let frame = pack(Compression::Zstd, 1, &bytes);
        let skippable = [&[0x51, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
        let many = [&skippable[..], &frame, &skippable, &frame, &skippable].concat();
        assert_eq!(unpack(Compression::Zstd, &many), Ok(bytes.repeat(2)));
        assert_eq!(unpack_by(Compression::Zstd, &many, 3, 1000, Bound::default()), Ok(bytes.repeat(2)));
        assert_eq!(unpack(Compression::Zstd, &skippable.repeat(10_000)), Ok(Vec::new()));
        let mut damaged = frame.clone();
        *damaged.last_mut().unwrap() ^= 1;
        // A frame that wants a window of 2 GiB: descriptor 0, window 31 - 10 in the upper five bits.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0];
        for (packed, word) in [
            (Vec::new(), "ends before"),
            (frame[..frame.len() - 1].to_vec(), "ends before"),
            (skippable[..10].to_vec(), "ends before"),
            ([&frame[..], b"x"].concat(), "damaged: zstd"),
            ([&frame[..], b"garbage"].concat(), "damaged: zstd"),
            (damaged, "damaged: zstd"),
            (window.to_vec(), "too much memory"),
        ] {
            let said = unpack(Compression::Zstd, &packed).unwrap_err();
            assert!(said.contains(word), "{said}, not {word}");
        }
    }

    #[test]
    fn bombs_stop_at_their_bound() {
        let bytes = vec![0; 80 << 20];
        for compression in [Compression::Gzip, Compression::Zstd] {
            let packed = pack(compression, 1, &bytes[..4 << 20]).repeat(20);
            assert!(unpack(compression, &packed).unwrap_err().contains("a bomb"));
            let unbound = unpack_by(compression, &packed, usize::MAX, 1 << 20, Bound::NONE).unwrap();
            assert_eq!(unbound.len(), bytes.len());
            let small = Bound { most: 1000, ..Bound::NONE };
            let said = unpack_by(compression, &packed, usize::MAX, 1 << 20, small).unwrap_err().to_string();
            assert!(said.contains("larger than the 1000 bytes"), "{said}");
        }
        assert!(unpack(Compression::None, &bytes).is_ok());
    }

    #[test]
    fn zeros_may_come_first() {
        let (zeros, rest) = (vec![0; 80 << 20], sample(1 << 20));
        for compression in [Compression::Gzip, Compression::Zstd] {
            let packed = [pack(compression, 1, &zeros), pack(compression, 1, &rest)].concat();
            assert_eq!(unpack(compression, &packed).map(|out| out.len()), Ok(81 << 20));
        }
    }

    #[test]
    fn empty_members_take_linear_time() {
        let packed = pack(Compression::Gzip, 1, b"").repeat(100_000);
        let timed = |packed: &[u8]| {
            let start = std::time::Instant::now();
            assert_eq!(unpack(Compression::Gzip, packed), Ok(Vec::new()));
            start.elapsed()
        };
        let (few, many) = (timed(&packed[..packed.len() / 10]), timed(&packed));
        assert!(many < 40 * few, "{few:?} for 10,000 and {many:?} for 100,000");
    }

    #[test]
    fn levels_are_checked() {
        for (compression, level, fine) in [
            (Compression::Gzip, 1, true),
            (Compression::Gzip, 9, true),
            (Compression::Gzip, 10, false),
            (Compression::Gzip, 0, false),
            (Compression::Zstd, 19, true),
            (Compression::Zstd, 22, false),
            (Compression::Zstd, -1, false),
        ] {
            assert_eq!(Encoder::new(compression, Some(level), 1, Vec::new()).is_ok(), fine, "{compression:?} {level}");
        }
    }
}
