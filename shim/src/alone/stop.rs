//! Ending containers, and forgetting them: what a command does itself, and what it leaves to the monitor.

use orlop::container::boot_id;
use orlop::error::{At, Error, ErrorKind, Result};
use orlop::kill::{self, Whom};
use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::process::{Pid, PidfdFlags, pidfd_open};
use orlop_sys::{Errno, OwnedFd};
use std::time::{Duration, Instant};

use super::container::Place;
use super::folder::{self, Folder, Order, Root};
use super::state::{Condition, Options, Phase, Process, State, UNKNOWN};
use super::time::Time;

const SIGKILL: i32 = 9;
/// How long what follows a death may take: hooks, unmounts, the last output.
const AFTER: Duration = Duration::from_secs(30);

/// A container as a command finds it.
#[derive(Debug)]
pub struct Found {
    /// Its folder.
    pub folder: Folder,
    /// What `run` was told.
    pub options: Options,
    /// How it fares.
    pub state: State,
    /// What is observed.
    pub condition: Condition,
}

impl Found {
    /// Finds it.
    pub fn new(folder: Folder) -> Result<Self> {
        let (options, state) = (Options::load(&folder)?, State::load(&folder)?);
        let store = Place { options: &options, id: folder.id(), folder: folder.path() }.store()?;
        let condition = Condition::observe(&folder, &state, Some(&store));
        Ok(Self { folder, options, state, condition })
    }

    /// For the library.
    pub fn place(&self) -> Place<'_> {
        Place { options: &self.options, id: self.folder.id(), folder: self.folder.path() }
    }

    /// Its monitor, if there is one.
    pub fn monitor(&self) -> Option<OwnedFd> {
        let boot = boot_id().ok()?;
        if boot == self.state.boot_id { open(self.state.monitor) } else { None }
    }

    /// Refuses what needs a running container.
    pub fn alive(&self) -> Result<()> {
        if self.condition.is_alive() {
            return Ok(());
        }
        let text = format!("{}: the container is not running", self.folder.id());
        Err(Error::new(ErrorKind::WrongStatus, text))
    }
}

/// A process that is certainly that one.
fn open(process: Process) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    process.lives().then_some(pidfd)
}

/// Waits for the end of a process; `false` if it did not come in time.
pub fn wait(pidfd: &OwnedFd, time: Option<Duration>) -> Result<bool> {
    let until = time.map(|time| Instant::now() + time);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return ready.at(|| "wait").map(|n| n > 0),
        }
    }
}

/// Stops a container, so that no policy starts it again: its stop signal (or `signal`), and SIGKILL after `grace`
/// milliseconds (its own if absent).
pub fn stop(found: &Found, signal: Option<i32>, grace: Option<u32>) -> Result<()> {
    let signal = signal.unwrap_or(found.options.stop_signal);
    let grace = grace.unwrap_or(found.options.stop_timeout);
    found.folder.write(folder::STOP, b"")?;
    let patience = (grace != u32::MAX).then(|| Duration::from_millis(grace.into()));
    if let Some(monitor) = found.monitor() {
        // One that hears no more is about to leave.
        found.folder.order(Order::Stop { signal, grace })?;
        if wait(&monitor, patience.map(|grace| grace + AFTER))? {
            return Ok(());
        }
        return Err(Error::new(ErrorKind::Os, format!("{}: it does not end", found.folder.id())));
    }
    let mut code = UNKNOWN;
    if found.condition.is_alive() {
        let init = found.place().open()?.pidfd()?;
        found.place().signal(signal)?;
        if let Some(init) = init {
            if !wait(&init, patience)? {
                found.place().kill()?;
                wait(&init, Some(AFTER))?;
            }
            code = found.state.init.exit_code(Some(&init));
        }
    }
    settle(found, code)
}

/// Writes down the end of a container that no monitor has seen.
fn settle(found: &Found, code: u8) -> Result<()> {
    if matches!(found.condition, Condition::Created | Condition::Exited) {
        return Ok(());
    }
    let notes = found.place().delete()?;
    let mut state = State::load(&found.folder)?;
    if state.phase == Phase::Running {
        state.exit_code = code;
        state.finished_at = Time::now().short();
        found.folder.write(folder::EXIT, code.to_string().as_bytes())?;
    }
    state.phase = Phase::Exited;
    state.error = notes.join("; ");
    (state.init, state.monitor, state.holder) = Default::default();
    state.save(&found.folder)
}

/// Sends a signal. One that is meant to end the container is an intent that it stay ended.
pub fn kill(found: &Found, signal: i32) -> Result<()> {
    found.alive()?;
    if signal == SIGKILL || signal == found.options.stop_signal {
        found.folder.write(folder::STOP, b"")?;
    }
    kill::kill(&found.place().store()?, found.folder.id(), signal, Whom::Init)
}

/// Forgets a container; one that is not stopped only by force.
pub fn remove(root: &Root, found: &Found, force: bool) -> Result<()> {
    let busy = matches!(found.condition, Condition::Restarting) || found.condition.is_alive();
    if busy && !force {
        let id = found.folder.id();
        let text = format!("{id}: the container is {}: stop it first, or use rm -f", found.condition.word());
        return Err(Error::new(ErrorKind::WrongStatus, text));
    }
    if busy {
        stop(found, Some(SIGKILL), Some(0))?;
    } else if let Some(monitor) = found.monitor() {
        // It is about to leave, or about to begin.
        if !wait(&monitor, Some(AFTER))? {
            return Err(Error::new(ErrorKind::WrongStatus, format!("{}: its monitor is busy", found.folder.id())));
        }
    } else {
        settle(found, found.state.init.exit_code(None))?;
    }
    root.remove(&found.folder)
}
