//! The mount API of Linux 5.2 to 5.12: rustix's calls, and mount_setattr(2).

use core::ffi::CStr;
use core::mem::size_of;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::io::Errno;

use crate::raw::{nr, syscall};

pub use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, fspick, mount, mount_change, move_mount, open_tree, unmount,
};
pub use rustix::process::pivot_root;

/// Propagation types of mount(2), and `MS_REC`.
#[allow(missing_docs, reason = "the kernel's names")]
pub mod ms {
    pub const REC: u64 = 1 << 14;
    pub const UNBINDABLE: u64 = 1 << 17;
    pub const PRIVATE: u64 = 1 << 18;
    pub const SLAVE: u64 = 1 << 19;
    pub const SHARED: u64 = 1 << 20;
}

/// `MOUNT_ATTR_*` of mount_setattr(2).
#[allow(missing_docs, reason = "the kernel's names")]
pub mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    /// The whole access time mode, one of the following three.
    pub const ATIME: u64 = 0x70;
    pub const RELATIME: u64 = 0x0;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// What [`mount_setattr`] changes; see mount_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attr {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` bits to clear; an access time mode is set only together with clearing `MOUNT_ATTR__ATIME`.
    pub clear: u64,
    /// One of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
}

impl Attr {
    /// Whether there is anything to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Changes the attributes of the mount that `fd` stands on the root of, and of those below it if `recursive`.
/// Linux 5.12.
///
/// # Errors
/// EINVAL if `fd` is not at the root of a mount; EPERM for a locked attribute in a user namespace.
pub fn mount_setattr(fd: impl AsFd, recursive: bool, attr: &Attr) -> Result<(), Errno> {
    let (attr_set, attr_clr) = (attr.set, attr.clear);
    change(fd.as_fd(), recursive, &nr::mount_attr { attr_set, attr_clr, propagation: attr.propagation, userns_fd: 0 })
}

/// Lets the owners of files below the mount that `fd` stands on the root of be seen through the maps of the user
/// namespace `userns`: MOUNT_ATTR_IDMAP. The mount may not be attached anywhere yet. Linux 5.12.
///
/// # Errors
/// EINVAL for a file system that can't, or a mount that others may have seen; EPERM for a map that is there already.
pub fn mount_idmap(fd: impl AsFd, recursive: bool, userns: impl AsFd) -> Result<(), Errno> {
    const IDMAP: u64 = 0x10_0000;
    let userns_fd = u64::try_from(userns.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
    change(fd.as_fd(), recursive, &nr::mount_attr { attr_set: IDMAP, attr_clr: 0, propagation: 0, userns_fd })
}

fn change(fd: BorrowedFd<'_>, recursive: bool, attr: &nr::mount_attr) -> Result<(), Errno> {
    const EMPTY: &CStr = c"";
    let flags = nr::AT_EMPTY_PATH | if recursive { nr::AT_RECURSIVE } else { 0 };
    // SAFETY: the path and the structure outlive the call and the kernel only reads them.
    unsafe {
        syscall(
            nr::__NR_mount_setattr,
            [
                fd.as_raw_fd() as usize,
                EMPTY.as_ptr() as usize,
                flags as usize,
                &raw const *attr as usize,
                size_of::<nr::mount_attr>(),
                0,
            ],
        )?;
    }
    Ok(())
}
