//! Somebody at a terminal, or in a pipeline, attached to a container.

use std::io::IsTerminal;

use orlop::error::{At, Result};
use orlop_shim::alone::attach::{MAX_INPUT, MAX_OUTPUT, stream_of};
use orlop_shim::alone::folder::{Folder, Order};
use orlop_shim::alone::record::Stream;
use orlop_sys::rustix::event::{PollFd, PollFlags, poll};
use orlop_sys::rustix::io::{read, write};
use orlop_sys::rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use orlop_sys::rustix::stdio::{stderr, stdin, stdout};
use orlop_sys::rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use orlop_sys::signalfd::Signals;
use orlop_sys::{BorrowedFd, Errno, OwnedFd};

const SIGCHLD: i32 = 17;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;
/// What ends the input of a terminal.
const EOT: u8 = 4;
/// Ctrl-P Ctrl-Q.
const LEAVE: [u8; 2] = [16, 17];

/// How it is attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// Our input is the container's.
    pub(crate) input: bool,
    /// The container has a terminal.
    pub(crate) terminal: bool,
}

/// Why it is no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The container, or its monitor, has ended.
    Ended,
    /// Ctrl-P Ctrl-Q.
    Left,
    /// A signal, which nobody takes.
    Signalled(i32),
}

/// A terminal that is in raw mode as long as this lives.
struct Raw(Termios);

impl Raw {
    fn new() -> Result<Self> {
        let before = tcgetattr(stdin()).at(|| "tcgetattr")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).at(|| "tcsetattr")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing else can be done about a terminal that does not take its old mode back.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Tells a monitor the size of our terminal, if this is one.
pub(crate) fn resize(folder: &Folder) {
    if let Ok(size) = tcgetwinsize(stdin()).or_else(|_| tcgetwinsize(stdout())) {
        // The container may have ended.
        let _ = folder.order(Order::Resize { height: size.ws_row, width: size.ws_col });
    }
}

/// Relays until there is no more. Signals that come are handed to `pass`, which says whether somebody took them.
pub(crate) fn relay(socket: &OwnedFd, folder: &Folder, how: How, pass: &mut dyn FnMut(i32) -> bool) -> Result<Why> {
    let signals = Signals::block().at(|| "signalfd")?;
    let is_terminal = how.terminal && std::io::stdin().is_terminal();
    let _raw = (is_terminal && how.input).then(Raw::new).transpose()?;
    if is_terminal {
        resize(folder);
    }
    let mut input = how.input;
    let mut keys = Keys::default();
    let mut packet = vec![0; MAX_OUTPUT + 1];
    let mut typed = vec![0; MAX_INPUT];
    if !input {
        // We have nothing to say, now or later.
        let _ = shutdown(socket, Shutdown::Write);
    }
    loop {
        let mut fds = vec![PollFd::new(socket, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        if input {
            fds.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            ready => ready.at(|| "poll").map(drop)?,
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let is_ready = |at: usize| ready.get(at).copied().unwrap_or_default();
        if is_ready(1) {
            while let Some(signal) = signals.next().at(|| "read signals")? {
                match signal {
                    SIGWINCH => resize(folder),
                    SIGCHLD | SIGURG => {}
                    signal if pass(signal) => {}
                    signal => return Ok(Why::Signalled(signal)),
                }
            }
        }
        if is_ready(2) {
            match read(stdin(), &mut typed[..]) {
                Ok(0) | Err(Errno::IO) => {
                    input = false;
                    if how.terminal {
                        say(socket, &[EOT]);
                    } else {
                        let _ = shutdown(socket, Shutdown::Write);
                    }
                }
                Ok(n) => {
                    let typed = typed.get(..n).unwrap_or_default();
                    let (typed, leave) = if is_terminal { keys.pass(typed) } else { (typed.to_vec(), false) };
                    say(socket, &typed);
                    if leave {
                        return Ok(Why::Left);
                    }
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => input = false,
            }
        }
        if is_ready(0) {
            match recv(socket, &mut packet[..], RecvFlags::empty()) {
                Ok((_, 0)) => return Ok(Why::Ended),
                Ok((_, n)) => {
                    let [kind, bytes @ ..] = packet.get(..n).unwrap_or_default() else { continue };
                    let to = match stream_of(*kind) {
                        Some(Stream::Stdout) => stdout(),
                        Some(Stream::Stderr) => stderr(),
                        None => continue,
                    };
                    put(to, bytes);
                }
                Err(Errno::INTR) => {}
                Err(_) => return Ok(Why::Ended),
            }
        }
    }
}

fn say(socket: &OwnedFd, bytes: &[u8]) {
    if !bytes.is_empty() {
        // If the container has gone, the other direction says so.
        let _ = send(socket, bytes, SendFlags::NOSIGNAL);
    }
}

/// All of it; a reader who has gone wants no more, which is none of the container's business.
pub(crate) fn put(to: BorrowedFd<'_>, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        match write(to, rest) {
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}

/// Looks for the keys by which one leaves. The first is held back until it is known what follows.
#[derive(Debug, Default)]
struct Keys {
    first: bool,
}

impl Keys {
    /// What is to be passed on, and whether to leave after it.
    fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let [first, second] = LEAVE;
        let mut out = Vec::with_capacity(typed.len() + 1);
        for byte in typed {
            if self.first {
                if *byte == second {
                    return (out, true);
                }
                out.push(first);
            }
            self.first = *byte == first;
            if !self.first {
                out.push(*byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_p_ctrl_q_leaves_and_all_else_passes() {
        for (typed, want, leave) in [
            (&[&b"abc"[..]][..], &b"abc"[..], false),
            (&[&[16, 17]], b"", true),
            (&[&[16], &[17]], b"", true),
            (&[b"a", &[16, b'x', 17]], b"a\x10x\x11", false),
            (&[&[16, 16, 17, b'z']], b"\x10", true),
            (&[&[17, 16]], b"\x11", false),
        ] {
            let mut keys = Keys::default();
            let (mut out, mut left) = (Vec::new(), false);
            for piece in typed {
                let (bytes, leave) = keys.pass(piece);
                out.extend(bytes);
                left |= leave;
            }
            assert_eq!((out.as_slice(), left), (want, leave), "{typed:?}");
        }
    }
}
