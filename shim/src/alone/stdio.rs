//! The streams of a container, such that the death of whoever reads them is not noticed by who writes.
//!
//! Output goes through FIFOs that the container itself has open at both ends (`O_RDWR`): it never gets SIGPIPE, and what
//! is in a FIFO stays there until somebody reads it again. A terminal's master side, and the writing end of an input,
//! must not close either; the container must not have those, so a process that does nothing else holds them too.

use orlop::error::{At, Result};
use orlop_sys::process::{borrow_fd, close_range, dup_to};
use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, fchown, fcntl_getfl, fcntl_setfl, mkfifoat, openat};
use orlop_sys::rustix::io::{fcntl_dupfd_cloexec, read};
use orlop_sys::rustix::pipe::{PipeFlags, pipe_with};
use orlop_sys::rustix::process::{Gid, Pid, PidfdFlags, PidfdGetfdFlags, Uid, pidfd_getfd, pidfd_open};
use orlop_sys::rustix::thread::set_name;
use orlop_sys::{AsFd, BorrowedFd, Errno, OwnedFd};

use super::attach::Clients;
use super::folder::Folder;
use super::log::Log;
use super::record::{MAX_TEXT, Stream, unfinished};
use super::state::Process;

/// How often a stream is read before others get their turn.
const TURNS: usize = 8;
/// Where the process that holds an fd has it.
const HELD: i32 = 3;
/// Where it has the container's pidfd.
const HELD_PIDFD: i32 = 4;

/// /dev/null.
pub fn null() -> Result<OwnedFd> {
    openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at(|| "/dev/null")
}

/// Reads and writes no longer wait.
pub fn nonblocking(fd: &OwnedFd) -> Result<()> {
    fcntl_getfl(fd).and_then(|flags| fcntl_setfl(fd, flags | OFlags::NONBLOCK)).at(|| "fcntl")
}

/// Who may open a pipe of the container's again, as `/dev/stdout`: its user.
fn give(pipe: &OwnedFd, (uid, gid): (u32, u32)) -> Result<()> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).at(|| "give a pipe to the container's user")
}

/// A new FIFO in the folder: our end, and the container's.
pub fn new_fifo(folder: &Folder, stream: Stream, owner: (u32, u32)) -> Result<(OwnedFd, OwnedFd)> {
    let name = stream.name();
    let at = || format!("{}/{name}", folder.path());
    folder.remove(name)?;
    mkfifoat(folder, name, Mode::RUSR | Mode::WUSR).at(at)?;
    let ours = old_fifo(folder, stream)?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let theirs = openat(folder, name, flags, Mode::empty()).at(at)?;
    give(&theirs, owner)?;
    Ok((ours, theirs))
}

/// Our end of a FIFO that is there.
pub fn old_fifo(folder: &Folder, stream: Stream) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, stream.name(), flags, Mode::empty()).at(|| format!("{}/{}", folder.path(), stream.name()))
}

/// An input: the container's end, and ours.
pub fn new_input(owner: (u32, u32)) -> Result<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).at(|| "pipe")?;
    give(&theirs, owner)?;
    nonblocking(&ours)?;
    Ok((theirs, ours))
}

/// Leaves a process behind that holds `fd` until the one behind `pidfd` has ended.
pub fn hold(fd: &OwnedFd, pidfd: &OwnedFd) -> Result<Process> {
    let child = orlop_sys::clone::fork(|| {
        let hold = || -> std::result::Result<(), Errno> {
            let _ = set_name(c"orlop-hold");
            // Out of the way of the numbers that they get.
            let away = [fcntl_dupfd_cloexec(fd, 64)?, fcntl_dupfd_cloexec(pidfd, 64)?];
            for (to, fd) in (HELD..).zip(&away) {
                dup_to(fd.as_fd(), to, true)?;
            }
            close_range(HELD_PIDFD.unsigned_abs() + 1, u32::MAX, false)?;
            // The fds are gone, whatever their owners here think.
            std::mem::forget(away);
            let pidfd = borrow_fd(HELD_PIDFD)?;
            while poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], None) == Err(Errno::INTR) {}
            Ok(())
        };
        u8::from(hold().is_err())
    });
    Ok(Process::find(child.at(|| "fork")?.pid.as_raw_nonzero().get()))
}

/// Gets what a process holds (needs Linux 5.6).
pub fn take(holder: Process) -> Result<OwnedFd> {
    let at = || format!("take the container's terminal or input from process {}", holder.pid);
    let pid = Pid::from_raw(holder.pid).ok_or(Errno::SRCH).at(at)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).at(at)?;
    if !holder.lives() {
        return Err(Errno::SRCH).at(at);
    }
    pidfd_getfd(&pidfd, HELD, PidfdGetfdFlags::empty()).at(at)
}

/// What a container writes on one stream.
#[derive(Debug)]
pub struct Output {
    fd: OwnedFd,
    stream: Stream,
    /// The beginning of a line, which is not in the log yet.
    rest: Vec<u8>,
    ended: bool,
}

impl Output {
    /// Of our end of a pipe, or of a terminal.
    pub fn new(fd: OwnedFd, stream: Stream) -> Self {
        Self { fd, stream, rest: Vec::new(), ended: false }
    }

    /// Whether there is nothing more to come.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Reads what is there, as far as the log and the clients take it.
    pub fn turn(&mut self, log: &mut Log, clients: &mut Clients) {
        let mut buffer = [0; MAX_TEXT];
        for _ in 0..TURNS {
            match read(&self.fd, &mut buffer[..]) {
                // EIO: the last one who had the terminal open is gone.
                Ok(0) | Err(Errno::IO) => {
                    self.end(log);
                    break;
                }
                Ok(n) => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    self.put(bytes, log);
                    let taken = log.flush();
                    // Afterwards: whole lines that somebody has seen are in the log, even if we die now.
                    clients.send(self.stream, bytes);
                    if !taken || clients.are_behind() {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        // A prompt is not followed by anything. But a line in two pieces is one line if the second is there already.
        if !self.rest.is_empty() && !self.is_ready() {
            let keep = unfinished(&self.rest);
            self.part(self.rest.len() - keep, log);
        }
        log.flush();
    }

    fn is_ready(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|n| n > 0)
    }

    fn put(&mut self, bytes: &[u8], log: &mut Log) {
        let mut bytes = bytes;
        while let Some(newline) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, after) = bytes.split_at(newline);
            if self.rest.is_empty() && line.len() <= MAX_TEXT {
                log.put(self.stream, line, true);
            } else {
                self.add(line, log);
                log.put(self.stream, &self.rest, true);
                self.rest.clear();
            }
            bytes = after.get(1..).unwrap_or_default();
        }
        self.add(bytes, log);
    }

    /// More of a line, whose parts are written when they are as long as a record may be.
    fn add(&mut self, bytes: &[u8], log: &mut Log) {
        self.rest.extend_from_slice(bytes);
        while self.rest.len() > MAX_TEXT {
            let keep = unfinished(self.rest.get(..MAX_TEXT).unwrap_or_default());
            self.part(MAX_TEXT - keep, log);
        }
    }

    fn part(&mut self, length: usize, log: &mut Log) {
        if length > 0 {
            log.put(self.stream, self.rest.get(..length).unwrap_or_default(), false);
            self.rest.drain(..length);
            self.rest.shrink_to(0);
        }
    }

    /// The end, now or because nobody waits for it any longer.
    pub fn end(&mut self, log: &mut Log) {
        self.part(self.rest.len(), log);
        self.ended = true;
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
