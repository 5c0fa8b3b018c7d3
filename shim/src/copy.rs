//! Bytes between a process's pipes, or its terminal, and the FIFOs of an engine: moved by splice(2), never through our
//! memory, but for a terminal's on their way to a file. A reader that does not read holds up its own stream, and nothing
//! else.

use std::time::{Duration, Instant};

use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::io::{ioctl_fionread, read, write};
use orlop_sys::rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};
use orlop_sys::{AsFd, AsRawFd, BorrowedFd, Errno, OwnedFd};

use crate::poll::{Interest, Poll, Token};

/// How much is moved at once; a pipe holds less.
const CHUNK: usize = 1 << 20;
/// As much as this at once is more than a pipe of the usual size holds while somebody empties it...
const MUCH: usize = 64 << 10;
/// ...and then both pipes get room for this, in bytes: a quarter of the turns, so half the work. Room that is not used costs
/// the kernel 10 KiB, therefore those who say little have none.
const ROOM: usize = 1 << 20;
/// How often a stream is served before others get their turn.
const TURNS: usize = 16;
/// How often it is looked whether a late reader has come, at first and in the long run.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Which way a stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the process.
    In,
    /// From it.
    Out,
    /// From it, to a file that is appended to, which splice(2) refuses.
    Append,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    way: Way,
    /// Where bytes come from.
    pub source: OwnedFd,
    /// Where they go.
    pub sink: OwnedFd,
    /// The other end of an engine's FIFO, held so that the engine may close its own: for output a reader, for input a
    /// writer.
    pub held: Option<OwnedFd>,
    waits: Waits,
    /// Its pipes were given more room.
    wide: bool,
}

/// What a stream waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Bytes.
    Source,
    /// Room.
    Sink,
    /// The source has ended; a reader, who shall find what is in the FIFO, and the end after it.
    Reader,
}

enum Turn {
    Again,
    Waits(Waits),
    Ended,
}

impl Stream {
    /// Bytes from `source` to `sink`.
    pub fn new(way: Way, source: OwnedFd, sink: OwnedFd, held: Option<OwnedFd>) -> Self {
        Self { way, source, sink, held, waits: Waits::Source, wide: false }
    }

    fn turn(&mut self) -> Turn {
        if self.way == Way::Append {
            return self.append();
        }
        for _ in 0..TURNS {
            match splice(&self.source, None, &self.sink, None, CHUNK, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
                // EIO: the last one who had the terminal open is gone.
                Ok(0) | Err(Errno::IO) => return Turn::Ended,
                Ok(MUCH..) if !self.wide => self.widen(),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if is_ready(self.source.as_fd(), PollFlags::IN) => return Turn::Waits(Waits::Sink),
                Err(Errno::AGAIN) => return Turn::Waits(Waits::Source),
                // Nobody reads any more.
                Err(_) => return Turn::Ended,
            }
        }
        Turn::Again
    }

    fn widen(&mut self) {
        self.wide = true;
        for pipe in [&self.source, &self.sink] {
            // A terminal has no such size, and a user's share of pipes may be used up.
            let _ = fcntl_setpipe_size(pipe, ROOM);
        }
    }

    fn append(&self) -> Turn {
        let mut buffer = [0; 8 << 10];
        for _ in 0..TURNS {
            match read(&self.source, &mut buffer[..]) {
                Ok(0) | Err(Errno::IO) => return Turn::Ended,
                Ok(length) => {
                    let mut rest = buffer.get(..length).unwrap_or_default();
                    // A disk that is full loses lines; it must not stop whoever writes them.
                    while let Ok(n @ 1..) = write(&self.sink, rest) {
                        rest = rest.get(n..).unwrap_or_default();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Turn::Waits(Waits::Source),
                Err(_) => return Turn::Ended,
            }
        }
        Turn::Again
    }

    fn watched(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        match self.waits {
            Waits::Source => Some((self.source.as_fd(), Interest::IN)),
            Waits::Sink => Some((self.sink.as_fd(), Interest::OUT)),
            Waits::Reader => None,
        }
    }
}

fn is_ready(fd: BorrowedFd<'_>, what: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, what)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|n| n > 0)
}

/// Whether the write end of a FIFO has a reader.
fn has_reader(sink: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(sink, PollFlags::empty())];
    let _ = poll(&mut fds, Some(&Timespec::default()));
    !fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR))
}

/// How many bytes are in a pipe or a terminal, for their reader.
fn unread(fd: &OwnedFd) -> u64 {
    ioctl_fionread(fd).unwrap_or_default()
}

/// The reading end of a FIFO in which something is left, by its writing end: to see that, and it keeps nobody from finding
/// the end of it.
fn left_in(sink: &OwnedFd) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", sink.as_raw_fd());
    let fifo = openat(CWD, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).ok()?;
    (unread(&fifo) > 0).then_some(fifo)
}

/// A place in the table.
#[derive(Debug)]
enum Place {
    Free,
    Open(Stream),
    /// At its end; the number is its owner's until it is removed. If its reader had not read all of it, then also the FIFO.
    Ended(Option<OwnedFd>),
}

/// All streams of this process.
#[derive(Debug, Default)]
pub struct Streams {
    places: Vec<Place>,
    look: Option<Instant>,
    pause: Duration,
}

impl Streams {
    /// Starts a stream. Its number is good until [`remove`](Self::remove).
    pub fn add(&mut self, poll: &Poll, copy: Stream) -> Option<u32> {
        let at = self.places.iter().position(|place| matches!(place, Place::Free)).unwrap_or(self.places.len());
        let number = u32::try_from(at).ok()?;
        let (fd, interest) = copy.watched()?;
        poll.add(fd, Token::Stream(number), interest).ok()?;
        match self.places.get_mut(at) {
            Some(place) => *place = Place::Open(copy),
            None => self.places.push(Place::Open(copy)),
        }
        Some(number)
    }

    /// A stream is ready.
    pub fn turn(&mut self, poll: &Poll, number: u32) {
        let Some(place) = self.places.get_mut(number as usize) else { return };
        let Place::Open(copy) = place else { return };
        let waits = match copy.turn() {
            Turn::Again => return,
            Turn::Waits(waits) if waits == copy.waits => return,
            Turn::Waits(waits) => waits,
            Turn::Ended => Waits::Reader,
        };
        // Not only another interest: a pipe whose writer has gone says so for ever, whoever wants to hear it.
        if let Some((fd, _)) = copy.watched() {
            poll.remove(fd);
        }
        copy.waits = waits;
        if let Some((fd, interest)) = copy.watched() {
            if poll.add(fd, Token::Stream(number), interest).is_err() {
                *place = Place::Ended(None);
            }
            return;
        }
        copy.held = None;
        if copy.way != Way::Out {
            *place = Place::Ended(None);
        } else if has_reader(copy.sink.as_fd()) {
            *place = Place::Ended(left_in(&copy.sink));
        } else {
            self.pause = LOOK.0;
            self.look = Some(Instant::now() + self.pause);
        }
    }

    /// When [`look`](Self::look) wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.look
    }

    /// Lets go of what was waiting for a reader that has come.
    pub fn look(&mut self) {
        if self.look.is_none_or(|at| at > Instant::now()) {
            return;
        }
        let mut waiting = false;
        for place in &mut self.places {
            match place {
                Place::Open(copy) if copy.waits == Waits::Reader && has_reader(copy.sink.as_fd()) => {
                    *place = Place::Ended(left_in(&copy.sink));
                }
                Place::Open(copy) => waiting |= copy.waits == Waits::Reader,
                Place::Free | Place::Ended(_) => {}
            }
        }
        self.pause = (self.pause * 2).min(LOOK.1);
        self.look = waiting.then(|| Instant::now() + self.pause);
    }

    /// Whether the source may have more to say.
    pub fn is_flowing(&self, number: u32) -> bool {
        matches!(self.places.get(number as usize), Some(Place::Open(copy)) if copy.waits != Waits::Reader)
    }

    /// How many bytes the source has said and nobody has read yet, be they still here or in the engine's FIFO.
    pub fn unread(&self, number: u32) -> u64 {
        match self.places.get(number as usize) {
            Some(Place::Open(copy)) if copy.way == Way::Out => unread(&copy.source) + unread(&copy.sink),
            Some(Place::Open(copy)) if copy.way == Way::Append => unread(&copy.source),
            Some(Place::Ended(Some(fifo))) => unread(fifo),
            _ => 0,
        }
    }

    /// Gives up the end of the FIFO that is held; for input, the engine alone decides now when it ends.
    pub fn release(&mut self, number: u32) {
        if let Some(Place::Open(copy)) = self.places.get_mut(number as usize) {
            copy.held = None;
        }
    }

    /// Ends a stream, whatever is still in it.
    pub fn remove(&mut self, poll: &Poll, number: u32) {
        let Some(place) = self.places.get_mut(number as usize) else { return };
        if let Place::Open(copy) = std::mem::replace(place, Place::Free)
            && let Some((fd, _)) = copy.watched()
        {
            poll.remove(fd);
        }
        while let Some(Place::Free) = self.places.last() {
            self.places.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sys::rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
    }

    /// Serves what is ready until nothing is.
    fn settle(poll: &Poll, streams: &mut Streams) {
        let mut ready = Vec::new();
        loop {
            poll.wait(Some(Duration::ZERO), &mut ready).unwrap();
            if ready.is_empty() {
                return;
            }
            for (token, _) in &ready {
                if let Token::Stream(number) = token {
                    streams.turn(poll, *number);
                }
            }
        }
    }

    #[test]
    fn a_reader_that_does_not_read_holds_its_stream_up_and_loses_nothing() {
        let (poll, mut streams) = (Poll::new().unwrap(), Streams::default());
        let ((source, writer), (reader, sink)) = (pipe(), pipe());
        let number = streams.add(&poll, Stream::new(Way::Out, source, sink, None)).unwrap();
        let (mut written, mut got) = (0, 0);
        let block = [7; 4096];
        // Both pipes full: whoever writes has to wait.
        for _ in 0..3 {
            while let Ok(n) = write(&writer, &block) {
                written += n;
            }
            settle(&poll, &mut streams);
        }
        assert!(written >= 128 << 10 && write(&writer, &block).is_err());
        drop(writer);
        settle(&poll, &mut streams);
        assert!(streams.is_flowing(number));
        let mut buffer = [0; 8192];
        loop {
            match read(&reader, &mut buffer[..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(_) => settle(&poll, &mut streams),
            }
        }
        assert_eq!(got, written);
        assert!(!streams.is_flowing(number));
    }

    #[test]
    fn the_pipes_of_a_stream_become_wide_when_it_has_much_to_say() {
        let (poll, mut streams) = (Poll::new().unwrap(), Streams::default());
        let ((source, writer), (reader, sink)) = (pipe(), pipe());
        let number = streams.add(&poll, Stream::new(Way::Out, source, sink, None)).unwrap();
        let usual = fcntl_getpipe_size(&writer).unwrap();
        write(&writer, &[7; 4096]).unwrap();
        settle(&poll, &mut streams);
        assert_eq!([&writer, &reader].map(|fd| fcntl_getpipe_size(fd).unwrap()), [usual; 2]);
        let mut buffer = vec![0; ROOM];
        read(&reader, &mut buffer[..]).unwrap();
        write(&writer, &buffer[..MUCH]).unwrap();
        settle(&poll, &mut streams);
        assert_eq!([&writer, &reader].map(|fd| fcntl_getpipe_size(fd).unwrap()), [ROOM; 2]);
        assert!(streams.is_flowing(number));
        assert_eq!(read(&reader, &mut buffer[..]), Ok(MUCH));
    }

    #[test]
    fn a_reader_that_comes_late_finds_all_and_the_end() {
        use orlop_sys::rustix::fs::{CWD, Mode, OFlags, mkfifoat, openat, unlink};
        let path = format!("/tmp/orlop-fifo-{}", std::process::id());
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let open = |flags| openat(CWD, &path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let (poll, mut streams) = (Poll::new().unwrap(), Streams::default());
        let (source, writer) = pipe();
        let held = open(OFlags::RDONLY);
        let number = streams.add(&poll, Stream::new(Way::Out, source, open(OFlags::WRONLY), Some(held))).unwrap();
        write(&writer, b"last words").unwrap();
        drop(writer);
        settle(&poll, &mut streams);
        // A delete need not wait for it, but nothing is lost yet.
        assert!(!streams.is_flowing(number) && streams.deadline().is_some());
        let reader = open(OFlags::RDONLY);
        std::thread::sleep(LOOK.0 * 2);
        streams.look();
        assert!(streams.deadline().is_none());
        let mut buffer = [0; 64];
        assert_eq!(read(&reader, &mut buffer[..]), Ok(10));
        assert_eq!(read(&reader, &mut buffer[..]), Ok(0));
        unlink(&path).unwrap();
    }

    #[test]
    fn the_number_of_a_stream_that_ended_stays_its_owners() {
        let (poll, mut streams) = (Poll::new().unwrap(), Streams::default());
        let ((source, writer), (_reader, sink)) = (pipe(), pipe());
        let first = streams.add(&poll, Stream::new(Way::Out, source, sink, None)).unwrap();
        drop(writer);
        settle(&poll, &mut streams);
        let ((source, _writer), (_reader, sink)) = (pipe(), pipe());
        let second = streams.add(&poll, Stream::new(Way::Out, source, sink, None)).unwrap();
        assert!(first != second && !streams.is_flowing(first) && streams.is_flowing(second));
    }
}
