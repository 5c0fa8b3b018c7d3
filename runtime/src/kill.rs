//! `kill`: a signal to a container.

use orlop_sys::Errno;
use orlop_sys::rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use orlop_sys::signal::{number_of, pidfd_send_signal};

use crate::container::{Container, Operation, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{ContainerId, Store};

const KILL: i32 = 9;

/// Who gets the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// Init alone.
    Init,
    /// Every process in the container's cgroup (--all). Fine when there is none left.
    All,
}

/// Reads a signal as the command line has it: a number, or a name with or without `SIG`, in either case.
pub fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || Error::new(ErrorKind::InvalidSpec, format!("unknown signal {text:?}"));
    // A number is the kernel's to judge; 0 asks whether there is somebody.
    text.parse().ok().or_else(|| number_of(text)).ok_or_else(unknown)
}

/// Sends a signal. Needs no lock: what it finds is this container's init, held by a pidfd, or nothing.
pub fn kill(store: &Store, id: &ContainerId, signal: i32, whom: Whom) -> Result<()> {
    let container = Container::open(store, id)?;
    container.dir().check_owner()?;
    match whom {
        Whom::Init => kill_init(&container, signal),
        Whom::All => kill_all(&container, signal),
    }
}

fn kill_init(container: &Container, signal: i32) -> Result<()> {
    let not_running = || Status::Stopped.allows(Operation::Kill, container.id());
    let Some(init) = container.pidfd()? else { return not_running() };
    match pidfd_send_signal(&init, signal) {
        Ok(()) => {}
        Err(Errno::SRCH) => return not_running(),
        Err(e) => return Err(Error::os("unable to signal init", e)),
    }
    if signal == KILL {
        // A process that shares its pid namespace is not taken along when init dies; a cgroup of v1 that is frozen
        // keeps the signal waiting.
        if let Some(cgroup) = container.cgroup()? {
            if !container.record().has_own_pid_namespace() {
                cgroup.kill_all()?;
            } else if cgroup.is_frozen()? {
                cgroup.thaw()?;
            }
        }
    }
    Ok(())
}

fn kill_all(container: &Container, signal: i32) -> Result<()> {
    if !container.is_of_this_boot()? {
        return Ok(());
    }
    let Some(cgroup) = container.cgroup()? else {
        // Without a cgroup of its own the container is its init.
        return if container.pidfd()?.is_some() { kill_init(container, signal) } else { Ok(()) };
    };
    match Signal::from_named_raw(signal) {
        Some(Signal::KILL) => cgroup.kill_all(),
        Some(signal) => cgroup.signal_all(signal),
        None => cgroup.pids()?.into_iter().try_for_each(|pid| signal_one(pid, signal)),
    }
}

/// Sends 0 or a real-time signal, which are for asking and for those who wait for it: nobody is stopped meanwhile.
fn signal_one(pid: u32, signal: i32) -> Result<()> {
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    match pidfd_open(process, PidfdFlags::empty()).and_then(|pidfd| pidfd_send_signal(pidfd, signal)) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => Err(Error::os(format_args!("unable to signal process {pid}"), e)),
    }
}
