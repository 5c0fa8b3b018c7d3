//! clone3(2).

use core::cell::Cell;
use core::mem::size_of;

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::raw::{nr, syscall};

/// `CLONE_*` flags, with the kernel's names. All are 32 bits wide but `CLONE_INTO_CGROUP`.
pub mod flag {
    use crate::raw::nr;
    /// New mount namespace.
    pub const NEWNS: u64 = nr::CLONE_NEWNS as u64;
    /// New cgroup namespace.
    pub const NEWCGROUP: u64 = nr::CLONE_NEWCGROUP as u64;
    /// New UTS namespace.
    pub const NEWUTS: u64 = nr::CLONE_NEWUTS as u64;
    /// New IPC namespace.
    pub const NEWIPC: u64 = nr::CLONE_NEWIPC as u64;
    /// New user namespace.
    pub const NEWUSER: u64 = nr::CLONE_NEWUSER as u64;
    /// New pid namespace.
    pub const NEWPID: u64 = nr::CLONE_NEWPID as u64;
    /// New network namespace.
    pub const NEWNET: u64 = nr::CLONE_NEWNET as u64;
    /// New time namespace.
    pub const NEWTIME: u64 = nr::CLONE_NEWTIME as u64;
    /// The child becomes a sibling: its parent is the caller's parent.
    pub const PARENT: u64 = nr::CLONE_PARENT as u64;
}

/// A child as its creator sees it.
#[derive(Debug)]
pub struct Cloned {
    /// The pid in the creator's own pid namespace.
    pub pid: Pid,
    /// Refers to this process for ever, however often the number is used again.
    pub pidfd: OwnedFd,
}

const SIGCHLD: u64 = 17;

/// Makes a process that runs `child(argument)` on a copy of this memory, in the cgroup `cgroup` (a directory of a
/// version 2 hierarchy, Linux 5.7) if one is given.
///
/// # Errors
/// Those of clone3(2): EAGAIN and ENOSPC for limits on processes and namespaces, EBUSY for a cgroup that may not hold
/// processes, EPERM.
///
/// # Safety
/// The child owns a copy of a process in which other threads may have held locks. So `child` must not allocate, must
/// not take a lock and must not touch libc; and it must not run code that expects to return to this caller.
pub unsafe fn clone3<T>(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: fn(&T) -> !,
    argument: &T,
) -> Result<Cloned, Errno> {
    let mut pidfd: i32 = -1;
    let parent = flags & flag::PARENT != 0;
    let args = nr::clone_args {
        flags: flags | nr::CLONE_PIDFD as u64 | if cgroup.is_some() { nr::CLONE_INTO_CGROUP } else { 0 },
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        // A sibling inherits its signal; clone3 refuses to be told another one.
        exit_signal: if parent { 0 } else { SIGCHLD },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM the child has its own copy of the stack, so returning twice is sound; `args` and
    // `pidfd` outlive the call. That the child keeps to what is safe there is the caller's promise.
    let pid = unsafe { syscall(nr::__NR_clone3, [&raw const args as usize, size_of::<nr::clone_args>(), 0, 0, 0, 0])? };
    match Pid::from_raw(pid as i32) {
        None => child(argument),
        // SAFETY: CLONE_PIDFD made this fd for us and nobody else knows it.
        Some(pid) => Ok(Cloned { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Makes a process in a new user namespace, which does nothing until it is killed; the end of this thread kills it too.
///
/// # Errors
/// Those of [`clone3`]; EPERM, or EUSERS, where the host allows no more user namespaces.
pub fn hold_user_namespace() -> Result<Cloned, Errno> {
    fn child(parent: &Pid) -> ! {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        // Its maker may have ended before that.
        if rustix::process::getppid() == Some(*parent) {
            loop {
                rustix::event::pause();
            }
        }
        crate::process::exit(0)
    }
    // SAFETY: the child only makes system calls, and does not return.
    unsafe { clone3(flag::NEWUSER, None, child, &rustix::process::getpid()) }
}

/// Makes a process that does `work` on a copy of this memory and ends with the status that it returns. Unlike a child
/// of [`clone3`] it may do whatever this process may: allocate, lock, call libc.
///
/// # Errors
/// EBUSY when this process has other threads, whose locks would never be released in the copy; ENOENT without /proc;
/// those of [`clone3`].
pub fn fork<F: FnOnce() -> u8>(work: F) -> Result<Cloned, Errno> {
    fn child<F: FnOnce() -> u8>(work: &Cell<Option<F>>) -> ! {
        let status = work.take().map_or(u8::MAX, |work| work());
        crate::process::exit(status)
    }
    // One entry a thread, beside `.` and `..`.
    if rustix::fs::stat(c"/proc/self/task")?.st_nlink != 3 {
        return Err(Errno::BUSY);
    }
    let work = Cell::new(Some(work));
    // SAFETY: the only thread is here, so nobody holds a lock, and nobody can have started another one meanwhile; the
    // child ends in `exit` and never returns to this caller.
    unsafe { clone3(0, None, child::<F>, &work) }
}
