//! What this machine and this caller can do, found out once and handed to the plan as plain values.

use orlop_sys::creds::capget;
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, access, openat};
use orlop_sys::{OwnedFd, fs::Access};

use crate::bpf::Arch;
use crate::cgroup::Layout;
use crate::error::{At, Result};

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Host {
    /// How cgroups are mounted.
    pub layout: Layout,
    /// The capabilities that can be given away.
    pub permitted: u64,
    /// The kind of machine, for seccomp.
    pub arch: Arch,
    /// /proc/kcore exists.
    pub has_kcore: bool,
}

impl Host {
    /// Asks the kernel.
    pub fn probe() -> Result<Self> {
        Ok(Self {
            layout: Layout::probe()?,
            permitted: capget().at(|| "capget")?.permitted,
            arch: Arch::HOST,
            has_kcore: access(c"/proc/kcore", Access::EXISTS).is_ok(),
        })
    }
}

/// The host's /proc, as a handle: what is opened below it belongs to this /proc, whatever is mounted in a container.
pub fn proc() -> Result<OwnedFd> {
    openat(CWD, c"/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at(|| "open /proc")
}
