//! What a caller asks of `create`, `run` and `exec`, beside the configuration.

use orlop_sys::process::borrow_fd;

use crate::error::{At, Error, ErrorKind, Result};
use crate::store::ContainerId;

/// `create` and `run`.
#[derive(Debug, Clone)]
pub struct Create {
    /// The container's id.
    pub id: ContainerId,
    /// The bundle's absolute path.
    pub bundle: String,
    /// Where the terminal's master goes; `None` with a terminal is for `run` in the foreground.
    pub console_socket: Option<String>,
    /// Where a pidfd of init goes.
    pub pidfd_socket: Option<String>,
    /// The file that gets init's pid.
    pub pid_file: Option<String>,
    /// Do not use pivot_root(2).
    pub no_pivot: bool,
    /// Leave init in the caller's session keyring.
    pub no_new_keyring: bool,
    /// How many fds beyond those of socket activation init gets.
    pub preserve_fds: u32,
    /// How many of the fds before those are sockets of socket activation (sd_listen_fds(3)).
    pub listen_fds: u32,
    /// The caller relays the terminal itself, so it needs no console socket.
    pub foreground: bool,
    /// How the cgroups are managed.
    pub cgroups: Cgroups,
}

/// `--cgroup-manager`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// By the cgroup file system itself.
    Cgroupfs,
    /// Not at all: the container stays in the caller's cgroup.
    Disabled,
}

/// Sees that every fd that is to be passed through is there: `count` of them from 3 on. To be asked before anything
/// else is opened, which would take a missing one's number.
///
/// # Errors
/// EBADF, with the fd's number.
pub fn check_preserved_fds(count: u32) -> Result<()> {
    for fd in 3..count.saturating_add(3) {
        let number = i32::try_from(fd).map_err(|_| Error::new(ErrorKind::InvalidSpec, "--preserve-fds: too many"))?;
        borrow_fd(number).at(|| format!("unable to preserve fd {fd} (--preserve-fds={count})"))?;
    }
    Ok(())
}
