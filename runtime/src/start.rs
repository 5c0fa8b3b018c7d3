//! `start`: a created container's init becomes the user's program.

use std::path::Path;

use orlop_init::{Failure, Step};
use orlop_sys::rustix::event::{PollFd, PollFlags, poll};
use orlop_sys::rustix::io::write;
use orlop_sys::{AsFd, Errno, OwnedFd};

use crate::container::{Container, Operation, Status};
use crate::create::{in_container, own_namespaces};
use crate::delete::{self, Force};
use crate::error::{At, Error, ErrorKind, Result};
use crate::hooks;
use crate::state::{for_hooks, kept_config};
use crate::store::{ContainerId, Fifo, Store};

/// Starts a created container. When this returns, `execve` has happened.
///
/// # Errors
/// `WrongStatus` when it is not created; what init says when its program can't be executed; a hook's failure, after
/// which the container is stopped (since version 1.3 of the specification for poststart hooks too).
pub fn start(store: &Store, id: &ContainerId) -> Result<()> {
    let container = Container::open_locked(store, id)?;
    container.dir().check_owner()?;
    container.check(Operation::Start)?;
    let gone = || Error::new(ErrorKind::WrongStatus, "cannot start a container that has stopped");
    let init = container.pidfd()?.ok_or_else(gone)?;

    let record = container.record();
    if record.hooks.start_container {
        let spec = kept_config(container.dir())?;
        let state = for_hooks(&record.oci_version, id, Status::Created, record.pid, &record.bundle, &spec.annotations);
        let mut inside = in_container(init.as_fd(), own_namespaces(record));
        if let Err(error) = hooks::run(&spec.hooks.start_container, "startContainer", &state, &mut inside) {
            return Err(stop(store, container, error));
        }
    }
    let Fifo::Waiting(fifo) = container.dir().fifo()? else { return Err(gone()) };
    write(&fifo, b"0").at(|| "write to the exec fifo")?;
    wait_for_exec(&container, &fifo)?;
    if record.hooks.poststart
        && let Err(error) = poststart(&container)
    {
        return Err(stop(store, container, error));
    }
    Ok(())
}

/// Init holds the other end of the FIFO until `execve` closes it, or death.
fn wait_for_exec(container: &Container, fifo: &OwnedFd) -> Result<()> {
    loop {
        // Only the error condition is asked for, which is always reported: the last reader is gone.
        match poll(&mut [PollFd::new(fifo, PollFlags::empty())], None) {
            Err(Errno::INTR) => {}
            other => break other.at(|| "wait for the exec fifo").map(drop)?,
        }
    }
    let report = container.dir().report()?;
    if let Some(failure) = Failure::decode(&report) {
        let program = kept_config(container.dir())?.process.and_then(|p| p.args.into_iter().next()).unwrap_or_default();
        let what = if failure.step == Step::Exec { format!("exec {program}") } else { format!("{:?}", failure.step) };
        return Err(Error::os(what, failure.errno));
    }
    // Without a report it was executed (and may have ended already), or killed by somebody else before it could be.
    Ok(())
}

/// Runs the poststart hooks.
pub(crate) fn poststart(container: &Container) -> Result<()> {
    let record = container.record();
    let spec = kept_config(container.dir())?;
    let (id, pid) = (container.id(), record.pid);
    let state = for_hooks(&record.oci_version, id, Status::Running, pid, &record.bundle, &spec.annotations);
    let mut host = hooks::on_the_host(Some(Path::new(&record.bundle)));
    hooks::run(&spec.hooks.poststart, "poststart", &state, &mut host)
}

/// After a hook's failure the container is destroyed (runtime.md, "Lifecycle"). The hook's error is what is said.
pub(crate) fn stop(store: &Store, container: Container, error: Error) -> Error {
    let id = container.id().clone();
    // Its lock is taken again by `delete`.
    drop(container);
    match delete::delete(store, &id, Force::Yes) {
        Ok(_) => error,
        Err(also) => Error::new(error.kind(), format!("{error}; and the container could not be removed: {also}")),
    }
}
