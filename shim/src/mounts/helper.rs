//! File systems in user space that another program mounts: `mount.fuse` and `mount.fuse3`.
//!
//! The program becomes a server that lives as long as its mount. It sees nothing of us: no environment but PATH, no
//! descriptors but /dev/null and a file in memory for what it says, a session of its own. What it can't do without is
//! root's right to mount; that is its purpose.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use orlop_sys::OwnedFd;
use orlop_sys::rustix::fs::{
    AtFlags, CWD, MemfdFlags, Mode, OFlags, SeekFrom, StatxFlags, memfd_create, openat, seek, statx,
};
use orlop_sys::rustix::io::{Errno, fcntl_dupfd_cloexec, read};

use super::{Why, real_path};

/// How much of what a helper says is passed on, in bytes.
const MAX_TEXT: usize = 4096;

/// The program that mounts this type, and the type as that program knows it.
pub(super) fn of(kind: &str) -> Option<(&'static str, &str)> {
    let programs = [("fuse.", "mount.fuse"), ("fuse3.", "mount.fuse3")];
    programs.into_iter().find_map(|(prefix, program)| Some((program, kind.strip_prefix(prefix)?)))
}

/// Mounts `source` on `place` by `program`. The mount, by its root.
pub(super) fn mount(
    program: &str,
    kind: &str,
    source: &str,
    options: &[String],
    place: &OwnedFd,
) -> Result<OwnedFd, Why> {
    // It is another process, and has to be told by name.
    let target = real_path(place)?;
    let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
    let said = memfd_create("said", MemfdFlags::CLOEXEC)?;
    let mut command = Command::new(program);
    command.arg(source).arg(target);
    for option in options.iter().filter(|option| !option.starts_with("X-containerd.")) {
        command.args(["-o", option]);
    }
    command.args(["-t", kind]).env_clear().current_dir("/").process_group(0);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.stdin(Stdio::null()).stdout(Stdio::from(fcntl_dupfd_cloexec(&said, 3)?));
    command.stderr(Stdio::from(fcntl_dupfd_cloexec(&said, 3)?));
    let status = command.status().map_err(|e| Why(format!("{program}: {e}")))?;
    if !status.success() {
        return Err(Why(format!("{program}: {status}: {}", text(&said).trim())));
    }
    let mounted = openat(CWD, target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if mount_of(&mounted)? == mount_of(place)? {
        return Err(Why(format!("{program}: it mounted nothing: {}", text(&said).trim())));
    }
    Ok(mounted)
}

/// Which mount this is on (Linux 5.8).
fn mount_of(fd: &OwnedFd) -> Result<u64, Errno> {
    Ok(statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

fn text(said: &OwnedFd) -> String {
    let mut buffer = [0; MAX_TEXT];
    let length = seek(said, SeekFrom::Start(0)).and_then(|_| read(said, &mut buffer[..])).unwrap_or(0);
    String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_names_its_program() {
        assert_eq!(of("fuse3.fuse-overlayfs"), Some(("mount.fuse3", "fuse-overlayfs")));
        assert_eq!(of("fuse.sshfs"), Some(("mount.fuse", "sshfs")));
        assert_eq!(of("fuse"), None);
        assert_eq!(of("overlay"), None);
    }
}
