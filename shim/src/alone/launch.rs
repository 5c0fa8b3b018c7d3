//! Leaving a monitor behind, and what the two say to each other until it is on its own.

use orlop::error::{At, Error, ErrorKind, Result};
use orlop::selfexe;
use orlop_sys::clone::fork;
use orlop_sys::process::{close_range, dup_to};
use orlop_sys::rustix::io::{FdFlags, fcntl_setfd};
use orlop_sys::rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use orlop_sys::rustix::process::setsid;
use orlop_sys::{AsFd, Errno, OwnedFd};

use super::folder::Root;
use super::stdio::null;
use orlop::store::ContainerId;

/// Where a monitor finds its socket.
pub const REPORT: i32 = 3;

/// The word by which this program knows that it is to be a monitor: `monitor STATE ID MODE`.
pub const WORD: &str = "monitor";

/// The launcher's word to begin, when it has attached.
const ATTACHED: &str = "go attached";

/// How a monitor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// With a new container, when the launcher says so.
    New,
    /// With one that has run before.
    Again,
    /// With one that runs, or has ended unseen.
    Adopt,
}

impl Mode {
    const ALL: [(Self, &'static str); 3] = [(Self::New, "new"), (Self::Again, "again"), (Self::Adopt, "adopt")];

    /// Reads it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, name)| *name == text).map(|(mode, _)| mode)
    }

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(mode, _)| *mode == self).map_or("", |(_, name)| name)
    }
}

/// The monitor's end.
#[derive(Debug)]
pub struct Report(OwnedFd);

impl Report {
    /// Of a socket that was inherited.
    pub fn new(socket: OwnedFd) -> Result<Self> {
        fcntl_setfd(&socket, FdFlags::CLOEXEC).at(|| "fcntl")?;
        Ok(Self(socket))
    }

    /// Clients can attach.
    pub fn ready(&self) {
        self.say("ready");
    }

    /// Waits for the word to begin; whether the launcher has attached before it. `None` if it has gone.
    pub fn wait(&self) -> Option<bool> {
        hear(&self.0).map(|word| word == ATTACHED)
    }

    /// The container runs.
    pub fn started(&self, pid: i32) {
        self.say(&format!("started {pid}"));
    }

    /// What is to be said although all goes well.
    pub fn warning(&self, text: &str) {
        self.say(&format!("warning {text}"));
    }

    /// It could not be made, or kept.
    pub fn failed(&self, status: u8, text: &str) {
        self.say(&format!("failed {status} {text}"));
    }

    /// It has ended for good.
    pub fn exited(&self, status: u8) {
        self.say(&format!("exited {status}"));
    }

    fn say(&self, text: &str) {
        // The launcher may be gone, and need not know.
        let _ = send(&self.0, text.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

/// The next word of the other side; `None` if it has gone.
fn hear(socket: &OwnedFd) -> Option<String> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            Ok((_, n)) if n > 0 => return Some(String::from_utf8_lossy(buffer.get(..n)?).into_owned()),
            Ok(_) | Err(_) => return None,
        }
    }
}

/// What a monitor has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Clients can attach; it waits for [`Monitor::go`].
    Ready,
    /// The container runs.
    Started,
    /// Something that is to be said although all goes well.
    Warning(String),
    /// It could not be made, or kept: the exit status for that, and why.
    Failed(u8, String),
    /// It has ended for good.
    Exited(u8),
    /// It has died.
    Gone,
}

/// A monitor that was left behind.
#[derive(Debug)]
pub struct Monitor {
    /// Its pid.
    pub pid: i32,
    socket: OwnedFd,
}

impl Monitor {
    /// Leaves one behind: this program again, from where no container can write to it.
    pub fn launch(root: &Root, id: &ContainerId, mode: Mode) -> Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).at(|| "socketpair")?;
        let name = std::env::args().next().unwrap_or_default();
        let arguments = [&name, WORD, root.path(), id.as_str(), mode.name()];
        let child = fork(|| {
            let text = match detach(&theirs) {
                Ok(()) => match selfexe::run_protected(arguments, environment()) {
                    Ok(never) => match never {},
                    Err(e) => e.to_string(),
                },
                Err(e) => e.to_string(),
            };
            Report(theirs).failed(125, &text);
            1
        });
        Ok(Self { pid: child.at(|| "fork")?.pid.as_raw_nonzero().get(), socket: ours })
    }

    /// Lets it begin; `attached` if it is to take a client first.
    pub fn go(&self, attached: bool) {
        let word = if attached { ATTACHED } else { "go" };
        // If it is gone, the next news says so.
        let _ = send(&self.socket, word.as_bytes(), SendFlags::NOSIGNAL);
    }

    /// Waits for news.
    pub fn news(&self) -> News {
        let Some(text) = hear(&self.socket) else { return News::Gone };
        let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
        match word {
            "ready" => News::Ready,
            "started" => News::Started,
            "warning" => News::Warning(rest.to_owned()),
            "exited" => News::Exited(rest.parse().unwrap_or(255)),
            _ => {
                let (status, text) = rest.split_once(' ').unwrap_or((rest, ""));
                News::Failed(status.parse().unwrap_or(125), text.to_owned())
            }
        }
    }

    /// Waits until the container runs; what is to be said although it does.
    ///
    /// # Errors
    /// Why it does not, and the exit status for that.
    pub fn started(&self) -> std::result::Result<Vec<String>, (u8, Error)> {
        let mut warnings = Vec::new();
        loop {
            match self.news() {
                News::Ready => {}
                News::Warning(text) => warnings.push(text),
                // It may have been a short life.
                News::Started | News::Exited(_) => return Ok(warnings),
                News::Failed(status, text) => return Err((status, Error::new(ErrorKind::Os, text))),
                News::Gone => return Err((125, Error::new(ErrorKind::Os, "the monitor died unexpectedly"))),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> orlop_sys::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Away from our caller: a session of its own, nothing of its fds but the socket.
fn detach(socket: &OwnedFd) -> Result<()> {
    setsid().at(|| "setsid")?;
    let null = null()?;
    for fd in 0..3 {
        dup_to(null.as_fd(), fd, false).at(|| "dup")?;
    }
    close_range(3, u32::MAX, true).at(|| "close_range")?;
    dup_to(socket.as_fd(), REPORT, false).at(|| "dup")
}

/// Ours, less what is between the service manager and us.
fn environment() -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    let ours = std::env::vars_os().filter(|(name, _)| name != "NOTIFY_SOCKET");
    let entry =
        |(name, value): (std::ffi::OsString, std::ffi::OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
    ours.map(entry).collect()
}
