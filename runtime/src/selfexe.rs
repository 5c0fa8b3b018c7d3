//! The executable can't be written from inside a container.
//!
//! While a process of ours is inside and not yet the user's program, `/proc/PID/exe` leads to our file; a container
//! that runs `/proc/self/exe` gets hold of it too (CVE-2019-5736). So whoever makes containers runs from a detached,
//! read-only mount of its file: nothing to copy, no name anywhere, and opened for writing it is EROFS.

use std::convert::Infallible;

use orlop_sys::mount::{Attr, OpenTreeFlags, attr, mount_setattr, open_tree};
use orlop_sys::process::{Strings, fexecve};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, SealFlags, StatVfsMountFlags, fcntl_get_seals, fstatvfs, openat};
use orlop_sys::{AsFd, OwnedFd};

use crate::error::{At, Error, ErrorKind, Result};

/// Whether this process's executable is out of reach: on a read-only mount, or a sealed file in memory.
pub fn is_protected() -> Result<bool> {
    if orlop_sys::entry::ran_protected() {
        return Ok(true);
    }
    let at = || "open /proc/self/exe";
    let exe = openat(CWD, c"/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(at)?;
    if fstatvfs(&exe).at(|| "statfs /proc/self/exe")?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    let exe = openat(CWD, c"/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at(at)?;
    let needed = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    Ok(fcntl_get_seals(&exe).is_ok_and(|seals| seals.contains(needed)))
}

/// Runs this program again, from a detached read-only mount of its file. Returns only with an error.
pub fn run_protected<A: AsRef<[u8]>, E: AsRef<[u8]>>(
    arguments: impl IntoIterator<Item = A>,
    environment: impl IntoIterator<Item = E>,
) -> Result<Infallible> {
    let strings = |strings: Option<Strings>| {
        strings.ok_or_else(|| Error::new(ErrorKind::InvalidSpec, "an argument contains a NUL character"))
    };
    let (arguments, environment) = (strings(Strings::new(arguments))?, strings(Strings::new(environment))?);
    let exe = read_only_exe()?;
    Err(Error::os("run from a read-only mount of this program", fexecve(exe.as_fd(), &arguments, &environment)))
}

fn read_only_exe() -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let exe = open_tree(CWD, c"/proc/self/exe", flags).at(|| "clone the mount of /proc/self/exe")?;
    let readonly = Attr { set: attr::RDONLY, ..Attr::default() };
    mount_setattr(&exe, false, &readonly).at(|| "make the mount of /proc/self/exe read-only")?;
    Ok(exe)
}
