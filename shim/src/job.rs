//! Work that takes time, done by a child that is a copy of this process.
//!
//! The child has the runtime's library, this process's memory as it was, and nothing else of it: of its fds only the
//! three streams that it is given, and the socket on which it says how it ended. What it starts becomes ours when it
//! ends, since this process is the reaper of its orphans.

use std::mem::MaybeUninit;

use orlop::{Error, ErrorKind};
use orlop_sys::clone::fork;
use orlop_sys::process::{close_range, dup_to};
use orlop_sys::rustix::io::{IoSlice, IoSliceMut, fcntl_dupfd_cloexec};
use orlop_sys::rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use orlop_sys::rustix::process::{Pid, Signal, set_parent_process_death_signal};
use orlop_sys::{AsFd, BorrowedFd, Errno, OwnedFd};

use crate::ttrpc::{Code, Status};

/// The longest text of a failure that is passed on, in bytes.
const MAX_TEXT: usize = 32 << 10;

/// Where the child finds its socket.
const SOCKET: i32 = 3;

/// Where it finds what else it is given, one after the other.
pub const MORE: i32 = 4;

/// Beyond the numbers that have a meaning.
const AWAY: i32 = 64;

/// What a job has to show.
#[derive(Debug, Default)]
pub struct Done {
    /// The process that it made.
    pub pid: u32,
    /// The process that reads its output.
    pub logger: u32,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Whatever a yes or no is about.
    pub flag: bool,
    /// What should be told although all went well.
    pub notes: Vec<String>,
}

/// Its result.
pub type Outcome = Result<Done, Status>;

/// A job under way.
#[derive(Debug)]
pub struct Job {
    /// The child.
    pub pid: Pid,
    socket: OwnedFd,
}

impl Job {
    /// Lets a child do `work`, with the streams `stdio`, and with `more` from [`MORE`] on.
    pub fn start(
        stdio: [BorrowedFd<'_>; 3],
        more: &[BorrowedFd<'_>],
        work: impl FnOnce() -> Outcome,
    ) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let child = fork(|| match enter(stdio, theirs.as_fd(), more) {
            Ok(()) => report(work()),
            Err(_) => 1,
        })?;
        Ok(Self { pid: child.pid, socket: ours })
    }

    /// What it said; it has ended. `None` if it died without a word.
    pub fn outcome(self) -> Option<Outcome> {
        let mut text = vec![0; MAX_TEXT + 16];
        let mut space = [MaybeUninit::uninit(); orlop_sys::rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        let received = received.ok()?;
        let terminal = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let message = text.get(..received.bytes).unwrap_or_default();
        let [code, flag, p0, p1, p2, p3, l0, l1, l2, l3, text @ ..] = message else { return None };
        let text = String::from_utf8_lossy(text).into_owned();
        if *code != 0 {
            return Some(Err(Status::new(code_of(*code), text)));
        }
        Some(Ok(Done {
            pid: u32::from_le_bytes([*p0, *p1, *p2, *p3]),
            logger: u32::from_le_bytes([*l0, *l1, *l2, *l3]),
            terminal,
            flag: *flag != 0,
            notes: text.lines().map(str::to_owned).collect(),
        }))
    }
}

fn code_of(byte: u8) -> Code {
    let codes = [Code::NotFound, Code::AlreadyExists, Code::FailedPrecondition, Code::Unimplemented];
    codes.into_iter().find(|code| *code as u8 == byte).unwrap_or(Code::Unknown)
}

/// The first thing that the child does.
fn enter(stdio: [BorrowedFd<'_>; 3], socket: BorrowedFd<'_>, more: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    // Half a container with nobody to finish it helps nobody: `delete` cleans up after both of us.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let away = std::iter::once(&socket).chain(more).map(|fd| fcntl_dupfd_cloexec(fd, AWAY));
    let away = away.collect::<Result<Vec<OwnedFd>, Errno>>()?;
    // None of these is below 3: there, this process has /dev/null.
    for (to, fd) in (0..).zip(stdio) {
        dup_to(fd, to, false)?;
    }
    let mut next = SOCKET;
    for fd in away {
        dup_to(fd.as_fd(), next, true)?;
        next += 1;
    }
    close_range(next.unsigned_abs(), u32::MAX, false)
}

/// The last thing that it does.
fn report(outcome: Outcome) -> u8 {
    let (code, done, text) = match outcome {
        Ok(done) => {
            let text = done.notes.join("\n");
            (0, done, text)
        }
        Err(status) => (status.code as u8, Done::default(), status.message),
    };
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut message = vec![code, u8::from(done.flag)];
    message.extend_from_slice(&done.pid.to_le_bytes());
    message.extend_from_slice(&done.logger.to_le_bytes());
    message.extend_from_slice(text.get(..end).unwrap_or_default().as_bytes());
    let mut space = [MaybeUninit::uninit(); orlop_sys::rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = done.terminal.as_ref().map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds
        && !ancillary.push(SendAncillaryMessage::ScmRights(fds))
    {
        return 1;
    }
    let Ok(socket) = orlop_sys::process::borrow_fd(SOCKET) else { return 1 };
    u8::from(sendmsg(socket, &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL).is_err())
}

/// How a failure of the library is told to an engine.
pub fn status(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::WrongStatus => Code::FailedPrecondition,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::InvalidSpec | ErrorKind::Os => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};

    #[test]
    fn a_process_with_threads_is_not_doubled() {
        // The harness runs each test in a thread of its own.
        let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
        assert_eq!(Job::start(stdio, &[], || Ok(Done::default())).unwrap_err(), Errno::BUSY);
    }
}
