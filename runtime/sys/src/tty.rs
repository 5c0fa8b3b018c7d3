//! Pseudo-terminals, reached without a path that a container could have changed.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, fstat, major, minor, openat};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

pub use rustix::process::ioctl_tiocsctty;
pub use rustix::termios::{Winsize, tcsetwinsize};

/// Opens a new terminal of the devpts whose `ptmx` lies in `pts`: the master, and the terminal itself by TIOCGPTPEER
/// (Linux 4.13) rather than by its name (CVE-2025-52565).
///
/// # Errors
/// ENODEV if `pts` is no devpts or its `ptmx` is not the character device 5:2.
pub fn open_terminal(pts: impl AsFd) -> Result<(OwnedFd, OwnedFd), Errno> {
    const DEVPTS_SUPER_MAGIC: rustix::fs::FsWord = 0x1cd1;
    if rustix::fs::fstatfs(&pts)?.f_type != DEVPTS_SUPER_MAGIC {
        return Err(Errno::NODEV);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = openat(pts, c"ptmx", flags, Mode::empty())?;
    let rdev = fstat(&master)?.st_rdev;
    if (major(rdev), minor(rdev)) != (5, 2) {
        return Err(Errno::NODEV);
    }
    unlockpt(&master)?;
    let terminal = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((master, terminal))
}
