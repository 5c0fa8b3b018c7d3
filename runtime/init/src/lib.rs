//! What runs between `clone3` and `execve`: straight recipes over data that the parent prepared.
//!
//! The package is `no_std` and does not link `alloc`, so nothing here *can* allocate, format or log: the child is a
//! copy of a process in which another thread may hold any lock. It decides nothing either. A failure is twelve bytes
//! ([`Failure`]): which step, which item of the list that the step works through, and the errno; the parent, which
//! still has the plan, words the message.
//!
//! Read [`container`] for the order in which a container comes to be, [`exec`] for how a process joins one.

#![no_std]

mod channel;
mod container;
mod copyup;
mod exec;
mod job;
mod mounts;
mod process;

pub use channel::{Channel, Failure, MAX_MESSAGE, Message, Step};
pub use container::container;
pub use exec::{exec, hook};
pub use job::*;

use orlop_sys::clone::{Cloned, clone3};
use orlop_sys::{BorrowedFd, Errno};

/// Makes the process that runs `recipe(job)`, with `CLONE_*` flags and in a cgroup (version 2) if one is given.
///
/// # Errors
/// As [`clone3`].
pub fn spawn<J>(flags: u64, cgroup: Option<BorrowedFd<'_>>, recipe: fn(&J) -> !, job: &J) -> Result<Cloned, Errno> {
    // SAFETY: the recipes are this package's, which cannot allocate and makes no call into libc; they never return.
    #[allow(unsafe_code, reason = "the one place where the process is doubled")]
    unsafe {
        clone3(flags, cgroup, recipe, job)
    }
}
