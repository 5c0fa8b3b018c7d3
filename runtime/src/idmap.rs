//! User namespaces that nobody is in: id-mapped mounts show the owners of files by their maps.

use orlop_sys::OwnedFd;
use orlop_sys::clone::hold_user_namespace;
use orlop_sys::rustix::fs::{Mode, OFlags, openat};
use orlop_sys::rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use orlop_sys::{AsFd, BorrowedFd};

use crate::error::{At, Result};
use crate::host;
use crate::plan::Maps;
use crate::spawn::write_proc;

/// A user namespace with these maps.
///
/// # Errors
/// What the kernel refuses: maps that overlap, or no more user namespaces.
pub fn namespace(maps: &Maps) -> Result<OwnedFd> {
    let holder = hold_user_namespace().at(|| "clone3")?;
    let proc = host::proc()?;
    let made = write_proc(proc.as_fd(), holder.pid, "uid_map", &maps.uid)
        .and_then(|()| write_proc(proc.as_fd(), holder.pid, "gid_map", &maps.gid))
        .and_then(|()| of(proc.as_fd(), holder.pid));
    // It is our child and not reaped yet, so neither can fail.
    let _ = pidfd_send_signal(&holder.pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(holder.pidfd.as_fd()), WaitIdOptions::EXITED);
    made
}

/// The user namespace of a process.
pub(crate) fn of(proc: BorrowedFd<'_>, pid: Pid) -> Result<OwnedFd> {
    let path = format!("{}/ns/user", pid.as_raw_nonzero());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(proc, path.as_str(), flags, Mode::empty()).at(|| format!("open /proc/{path}"))
}
