//! `delete`: ends what is left of a container and removes every trace of it.
//!
//! The order is that of what may be lost last: processes, cgroup, poststop hooks, and then the record that names them
//! all. Each step finds done what an earlier attempt has done, so a delete that was killed is repeated.

use std::time::{Duration, Instant};

use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::process::{Pid, PidfdFlags, pidfd_open};
use orlop_sys::signal::pidfd_send_signal;
use orlop_sys::{Errno, OwnedFd};

use crate::cgroup::Cgroup;
use crate::container::{Container, Operation, Status, boot_id, recorded_cgroup};
use crate::error::{Error, ErrorKind, Result};
use crate::hooks;
use crate::state::{for_hooks, kept_config};
use crate::store::{ContainerId, Contents, Intent, StateDir, Store};

const KILL: i32 = 9;
/// How long killed processes may take to die.
const DEATH: Duration = Duration::from_secs(10);

/// How many killed processes are watched by a descriptor each.
const MAX_WATCHED: usize = 64;

/// What may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// A container that is stopped, or created and never started.
    No,
    /// Any container, in any condition; also none.
    Yes,
}

/// Deletes a container. Returns what the user should hear of although it succeeded: hooks that failed, and what was
/// done about a record that could not be read.
pub fn delete(store: &Store, id: &ContainerId, force: Force) -> Result<Vec<String>> {
    store.sweep();
    match locked(store, id) {
        Ok(dir) => delete_locked(store, dir, force),
        Err(e) if e.kind() == ErrorKind::NotFound && force == Force::Yes => Ok(vec![]),
        Err(e) => Err(e),
    }
}

fn locked(store: &Store, id: &ContainerId) -> Result<StateDir> {
    let mut dir = store.dir(id)?;
    dir.lock(store)?;
    Ok(dir)
}

fn delete_locked(store: &Store, dir: StateDir, force: Force) -> Result<Vec<String>> {
    let (why, intent) = match dir.read()? {
        Contents::Record(record) => return delete_container(store, Container::new(dir, *record), force),
        // Its creator is dead, since the lock is ours.
        Contents::Incomplete(intent) => {
            if force == Force::No {
                Status::Creating.allows(Operation::Delete, dir.id())?;
            }
            ("its creation was not finished".to_owned(), intent)
        }
        Contents::Corrupt { why, intent } => {
            if force == Force::No {
                let text = format!("container {} is corrupt (`delete --force` removes it): {why}", dir.id());
                return Err(Error::new(ErrorKind::Os, text));
            }
            (why, intent)
        }
    };
    let note = |what: &str| format!("container {}: {why}; {what}", dir.id());
    let notes = match intent {
        Some(intent) => vec![note(&undo(&intent)?)],
        None if dir.holds_only_ours()? => {
            // Nothing else says which processes were its own, and none is killed on a guess.
            vec![note("no intent either: removed its directory, and looked for no processes")]
        }
        None => {
            let text = format!("{}: no container's directory: it holds other files", dir.id());
            return Err(Error::new(ErrorKind::Os, text));
        }
    };
    store.remove(&dir)?;
    Ok(notes)
}

/// Undoes what an intent announced. Says what was done.
fn undo(intent: &Intent) -> Result<String> {
    if intent.boot_id != boot_id()? {
        return Ok("it was of another boot: removed its directory".into());
    }
    match recorded_cgroup(intent.cgroup.as_ref())? {
        Some(cgroup) => end_cgroup(&cgroup)?,
        None => return Ok("it had no cgroup: removed its directory".into()),
    }
    Ok("killed what its cgroup held, and removed cgroup and directory".into())
}

fn delete_container(store: &Store, container: Container, force: Force) -> Result<Vec<String>> {
    if force == Force::No {
        container.check(Operation::Delete)?;
    }
    if container.is_of_this_boot()? {
        end_processes(&container)?;
    }
    let notes = poststop(&container);
    store.remove(container.dir())?;
    Ok(notes)
}

fn end_processes(container: &Container) -> Result<()> {
    let record = container.record();
    let init = container.pidfd()?;
    let cgroup = container.cgroup()?;
    if let Some(init) = &init {
        match pidfd_send_signal(init, KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(e) => return Err(Error::os("unable to signal init", e)),
        }
        // With its own pid namespace everything else dies with init.
        if let Some(cgroup) = &cgroup {
            if !record.has_own_pid_namespace() {
                cgroup.kill_all()?;
            } else if cgroup.is_frozen()? {
                cgroup.thaw()?;
            }
        }
        if !wait_dead(init, Instant::now() + DEATH)? {
            let text = format!("container init still running {DEATH:?} after SIGKILL: {}", record.pid);
            return Err(Error::new(ErrorKind::Os, text));
        }
    }
    cgroup.as_ref().map_or(Ok(()), end_cgroup)
}

/// Kills what is left in a cgroup and removes it.
fn end_cgroup(cgroup: &Cgroup) -> Result<()> {
    // Mostly nothing is left in it, and this says so at once.
    if cgroup.remove(Instant::now()).is_ok() {
        return Ok(());
    }
    let deadline = Instant::now() + DEATH;
    let pids = cgroup.pids()?;
    if !pids.is_empty() {
        // The kernel tells of a cgroup that has become empty at most every 10 ms, but of a death at once. A few are
        // enough: the others die at the same time.
        let dying: Vec<_> = pids.iter().take(MAX_WATCHED).filter_map(|pid| open_process(*pid)).collect();
        cgroup.kill_all()?;
        for process in &dying {
            wait_dead(process, deadline)?;
        }
        if !cgroup.wait_empty(deadline)? {
            let left = cgroup.pids()?;
            let text = format!("container processes still running {DEATH:?} after SIGKILL: {left:?}");
            return Err(Error::new(ErrorKind::Os, text));
        }
    }
    cgroup.remove(deadline)
}

fn open_process(pid: u32) -> Option<OwnedFd> {
    pidfd_open(i32::try_from(pid).ok().and_then(Pid::from_raw)?, PidfdFlags::empty()).ok()
}

/// Waits until a process is dead; false if it lives at `deadline`.
fn wait_dead(process: &OwnedFd, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: i64::from(left.subsec_nanos()) };
        // A pidfd becomes readable when its process is dead, whether or not somebody has reaped it.
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Ok(n) => return Ok(n > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::os("wait for a process", e)),
        }
    }
}

/// Runs the poststop hooks; their failures are only told (runtime.md, "Lifecycle", step 13).
fn poststop(container: &Container) -> Vec<String> {
    let record = container.record();
    if !record.hooks.poststop {
        return vec![];
    }
    let spec = match kept_config(container.dir()) {
        Ok(spec) => spec,
        Err(e) => return vec![format!("poststop hooks were not run: {e}")],
    };
    let id = container.id();
    let state = for_hooks(&record.oci_version, id, Status::Stopped, 0, &record.bundle, &spec.annotations);
    // Where we are: the bundle may be gone.
    let mut spawn = hooks::on_the_host(None);
    hooks::run_all(&spec.hooks.poststop, "poststop", &state, &mut spawn).iter().map(ToString::to_string).collect()
}
