//! `pause` and `resume`: the container's processes stopped by the freezer, all of them or none.

use crate::cgroup::Cgroup;
use crate::container::{Container, Operation};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{ContainerId, Store};

/// Stops every process of a created or running container until [`resume`]; when this returns, they have stopped.
///
/// # Errors
/// `WrongStatus` ("container not running") in any other status, paused included; `Unsupported` without a freezer.
pub fn pause(store: &Store, id: &ContainerId) -> Result<()> {
    let container = Container::open_locked(store, id)?;
    container.dir().check_owner()?;
    container.check(Operation::Pause)?;
    own_cgroup(&container)?.freeze()
}

/// Lets a paused container go on.
///
/// # Errors
/// `WrongStatus` ("container not paused") in any other status.
pub fn resume(store: &Store, id: &ContainerId) -> Result<()> {
    let container = Container::open_locked(store, id)?;
    container.dir().check_owner()?;
    container.check(Operation::Resume)?;
    own_cgroup(&container)?.thaw()
}

/// The cgroup that is this container's and nobody else's.
pub(crate) fn own_cgroup(container: &Container) -> Result<Cgroup> {
    let none = || Error::new(ErrorKind::Unsupported, "the container has no cgroup of its own");
    container.cgroup()?.ok_or_else(none)
}
