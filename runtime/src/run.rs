//! `run`, and what `run` and `exec` do in the foreground: a terminal that behaves, signals passed on, orphans reaped.
//!
//! What is here changes the calling process (signal mask, terminal mode, subreaper), as a command in the foreground
//! must. A program that makes containers for itself uses [`create`](crate::create) and [`start`](crate::start).

use std::io::IsTerminal;

use orlop_sys::rustix::event::{PollFd, PollFlags, poll};
use orlop_sys::rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use orlop_sys::rustix::io::{read, write};
use orlop_sys::rustix::process::{Pid, WaitOptions, WaitStatus, getpid, set_child_subreaper, wait};
use orlop_sys::rustix::stdio::{stdin, stdout};
use orlop_sys::rustix::termios::{
    LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};
use orlop_sys::signal::pidfd_send_signal;
use orlop_sys::signalfd::Signals;
use orlop_sys::{AsFd, Errno, OwnedFd};

use crate::container::Container;
use crate::create::{Created, When, make};
use crate::delete::{self, Force};
use crate::error::{At, Error, Result};
use crate::request::Create;
use crate::start::{poststart, stop};
use crate::store::Store;

const SIGCHLD: i32 = 17;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;

/// What a user types to end the input.
const EOT: u8 = 4;

/// How `run` goes on when the container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Leave it alone.
    pub detach: bool,
    /// Do not delete it in the end.
    pub keep: bool,
    /// Do not become the reaper of its orphans.
    pub no_subreaper: bool,
}

/// Makes a container, starts it, waits for it and deletes it. The exit status as a shell counts: 128 + n for a signal.
/// Warnings are handed to `warn` as soon as they are known.
///
/// # Errors
/// As [`create`](crate::create::create) and [`start`](crate::start::start).
pub fn run(store: &Store, request: &Create, config: &[u8], options: Options, warn: &mut dyn FnMut(&str)) -> Result<u8> {
    let mut foreground = None;
    if !options.detach {
        if !options.no_subreaper {
            set_child_subreaper(Some(getpid())).at(|| "prctl PR_SET_CHILD_SUBREAPER")?;
        }
        // Blocked before there is a child, so that none of its signals, nor one for it, is lost.
        foreground = Some(Foreground::new()?);
    }
    let created = make(store, request, config, When::Now)?;
    created.warnings.iter().for_each(|warning| warn(warning));
    if created.has_poststart {
        let container = Container::open(store, &request.id)?;
        if let Err(error) = poststart(&container) {
            return Err(stop(store, container, error));
        }
    }
    let Some(mut foreground) = foreground else { return Ok(0) };
    let Created { pid, pidfd, terminal, .. } = created;
    let status = foreground.wait(pid, &pidfd, terminal);
    // Also if it is not known how it ended, or whether: nobody is left to wait for it.
    if !options.keep || status.is_err() {
        delete::delete(store, &request.id, Force::Yes)?.iter().for_each(|note| warn(note));
    }
    status
}

/// A process in the foreground: signals are read from an fd until it is dropped.
#[derive(Debug)]
pub struct Foreground {
    signals: Signals,
}

impl Foreground {
    /// Blocks all signals that can be passed on.
    pub fn new() -> Result<Self> {
        Ok(Self { signals: Signals::block().at(|| "signalfd")? })
    }

    /// Waits for `pid`, with its terminal if it has one. The exit status as a shell counts.
    pub fn wait(&mut self, pid: Pid, pidfd: &OwnedFd, terminal: Option<OwnedFd>) -> Result<u8> {
        let mut relay = terminal.map(Relay::new).transpose()?;
        loop {
            let (signalled, ready) = self.poll(relay.as_ref())?;
            if let Some(relay) = &mut relay {
                relay.turn(&ready)?;
            }
            if !signalled {
                continue;
            }
            while let Some(signal) = self.signals.next().at(|| "read signals")? {
                match signal {
                    SIGCHLD => {
                        if let Some(status) = reap(pid)? {
                            if let Some(relay) = &mut relay {
                                relay.drain()?;
                            }
                            return Ok(status);
                        }
                    }
                    SIGWINCH => {
                        if let Some(relay) = &relay {
                            relay.resize();
                        }
                    }
                    // Used by runtimes' schedulers, never meant for us.
                    SIGURG => {}
                    // It may be gone already.
                    signal => drop(pidfd_send_signal(pidfd, signal)),
                }
            }
        }
    }

    fn poll(&self, relay: Option<&Relay>) -> Result<(bool, Ready)> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(relay) = relay {
            relay.watch(&mut fds);
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => return Ok((false, Ready::default())),
            other => other.at(|| "poll").map(drop)?,
        }
        let [signals, rest @ ..] = fds.as_slice() else { return Ok((false, Ready::default())) };
        let ready = |i: usize| rest.get(i).is_some_and(|fd| fd.revents().intersects(!PollFlags::OUT));
        let ready = Ready { master: ready(0), input: ready(1) };
        Ok((!signals.revents().is_empty(), ready))
    }
}

/// Reaps whoever is dead; the status of `pid` if it was among them.
fn reap(pid: Pid) -> Result<Option<u8>> {
    let mut found = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((dead, status))) if dead == pid => found = Some(exit_status(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(found),
            Err(e) => return Err(Error::os("wait for the container", e)),
        }
    }
}

fn exit_status(status: WaitStatus) -> u8 {
    let status = match status.terminating_signal() {
        Some(signal) => 128 + signal,
        None => status.exit_status().unwrap_or_default(),
    };
    // Both are below 256 by the kernel's encoding.
    u8::try_from(status).unwrap_or(u8::MAX)
}

/// What poll found to be readable, or at its end.
#[derive(Debug, Default)]
struct Ready {
    master: bool,
    input: bool,
}

/// Bytes between our terminal and the container's.
#[derive(Debug)]
struct Relay {
    master: OwnedFd,
    /// Our terminal's mode before, to be put back.
    before: Option<Termios>,
    /// Read from our input, not yet taken by the container.
    pending: Vec<u8>,
    input_ended: bool,
    /// The end of the input was last said to a terminal that edits lines itself.
    end_is_in_line: bool,
    master_ended: bool,
}

impl Relay {
    fn new(master: OwnedFd) -> Result<Self> {
        // A program that does not read must not keep us from reading what it writes.
        let flags = fcntl_getfl(&master).at(|| "fcntl")?;
        fcntl_setfl(&master, flags | OFlags::NONBLOCK).at(|| "fcntl")?;
        let mut relay = Self {
            master,
            before: None,
            pending: Vec::new(),
            input_ended: false,
            end_is_in_line: false,
            master_ended: false,
        };
        relay.resize();
        if std::io::stdin().is_terminal() {
            let before = tcgetattr(stdin()).at(|| "tcgetattr")?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(stdin(), OptionalActions::Now, &raw).at(|| "tcsetattr")?;
            relay.before = Some(before);
        }
        Ok(relay)
    }

    /// Gives the container's terminal the size of ours. Best effort: ours may be none.
    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(stdin()).or_else(|_| tcgetwinsize(stdout())) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if self.master_ended {
            return;
        }
        let want = if self.pending.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        fds.push(PollFd::new(&self.master, want));
        // No more is read than the container takes.
        if !self.input_ended && self.pending.is_empty() {
            fds.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
    }

    fn turn(&mut self, ready: &Ready) -> Result<()> {
        if ready.input {
            let mut buffer = [0; 4096];
            match read(stdin(), &mut buffer[..]) {
                Ok(0) | Err(Errno::IO) => {
                    self.input_ended = true;
                    self.end_is_in_line = self.edits_lines();
                    self.pending.push(EOT);
                }
                Ok(n) => self.pending.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(e) => return Err(Error::os("read stdin", e)),
            }
        }
        if !self.pending.is_empty() {
            match write(&self.master, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Nobody has the terminal open any more.
                Err(_) => self.pending.clear(),
            }
        }
        if ready.master {
            self.copy_out()?;
            self.say_end_again();
        }
        Ok(())
    }

    /// Whether the container's terminal edits lines itself (and so takes EOT for the end of the input).
    fn edits_lines(&self) -> bool {
        tcgetattr(&self.master).is_ok_and(|mode| mode.local_modes.contains(LocalModes::ICANON))
    }

    /// A program that edits lines by itself, as a shell before its prompt, takes the terminal out of its own editing,
    /// and the kernel forgets the meaning of an EOT that waits in a line. What it writes next says that it has done so.
    fn say_end_again(&mut self) {
        if self.input_ended {
            let edits_lines = self.edits_lines();
            if self.end_is_in_line && !edits_lines {
                self.pending.push(EOT);
            }
            self.end_is_in_line = edits_lines;
        }
    }

    /// Copies one bufferful to stdout; whether there was one.
    fn copy_out(&mut self) -> Result<bool> {
        let mut buffer = [0; 16 << 10];
        match read(&self.master, &mut buffer[..]) {
            // The last one who had it open is gone.
            Ok(0) | Err(Errno::IO) => {
                self.master_ended = true;
                Ok(false)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(e) => Err(Error::os("read the terminal", e)),
            Ok(n) => {
                let mut rest = buffer.get(..n).unwrap_or_default();
                while !rest.is_empty() {
                    match write(stdout(), rest) {
                        Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                        Err(Errno::INTR) => {}
                        Err(Errno::AGAIN) => {
                            let mut fds = [PollFd::from_borrowed_fd(stdout(), PollFlags::OUT)];
                            let _ = poll(&mut fds, None);
                        }
                        // Our reader has gone; the container need not care.
                        Err(_) => break,
                    }
                }
                Ok(true)
            }
        }
    }

    /// What the container wrote before it ended.
    fn drain(&mut self) -> Result<()> {
        while !self.master_ended && self.copy_out()? {}
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing else can be done about a terminal that does not take its old mode back.
            let _ = tcsetattr(stdin(), OptionalActions::Flush, before);
        }
    }
}

impl AsFd for Foreground {
    fn as_fd(&self) -> orlop_sys::BorrowedFd<'_> {
        self.signals.as_fd()
    }
}
