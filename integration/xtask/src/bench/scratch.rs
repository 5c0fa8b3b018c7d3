//! Where images are made, unpacked and stored while they are measured: a file system of its own, the same for all tools, so
//! that neither the journal of the machine's disk nor what else is written there decides.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::daemons::timed;
use crate::build;

/// What the file system can hold, in GiB; its file is sparse, and the benchmark needs about half of it.
const SIZE: u64 = 12;
/// What must be free for it to lie in memory: all of it, and as much as the tools and the page cache need.
const ROOM: u64 = SIZE + 4;

/// What the file system's blocks lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Backing {
    /// A file on a tmpfs.
    Memory,
    /// A file in the build's folder.
    Disk,
    /// No file system of its own: a folder.
    Folder,
}

/// A folder that is gone with its value. Its mounts are in this process's mount namespace alone, its loop device is
/// detached by the kernel with the last of them, and its file on a disk has no name: a kill leaves an empty folder.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: PathBuf,
    about: String,
    /// Where something was mounted for it, in this order.
    mounts: Vec<PathBuf>,
}

impl Scratch {
    /// Moves this process to a mount namespace of its own, and makes the scratch there: on `wanted`, or else on the first
    /// that this machine allows.
    pub(super) fn new(wanted: Option<Backing>) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).context("/")?;
        let dir = build::scratch()?.join(format!("images-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let mut scratch = Self { dir, about: String::new(), mounts: Vec::new() };
        let info = fs::read_to_string("/proc/meminfo")?;
        let mut refused = Vec::new();
        for backing in order(wanted, available(&info).unwrap_or(0)) {
            match scratch.settle_on(backing) {
                Ok(()) => {
                    scratch.about = about(backing, &refused);
                    scratch.take_temporary_files()?;
                    return Ok(scratch);
                }
                Err(why) => {
                    scratch.unmount();
                    let why = format!("{why:#}");
                    if !refused.contains(&why) {
                        refused.push(why);
                    }
                }
            }
        }
        bail!(refused.join("; "))
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it lies on, and why not on what would be better, for the report.
    pub(super) fn about(&self) -> &str {
        &self.about
    }

    fn settle_on(&mut self, backing: Backing) -> Result<()> {
        let file = match backing {
            // On itself, so that what is mounted below goes with it.
            Backing::Folder => return self.bind(self.dir.clone(), self.dir.clone()),
            // Beside the folder, since what is in it will be covered.
            Backing::Disk => self.dir.with_extension("ext4"),
            Backing::Memory => {
                let size = format!("size={SIZE}g");
                mount(Some("scratch"), &self.dir, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
                    .context("tmpfs")?;
                self.mounts.push(self.dir.clone());
                self.dir.join("disk")
            }
        };
        let mounted = mount_image(&file, &self.dir);
        // The loop device holds the file; on a tmpfs it is covered, and goes with it.
        let _ = fs::remove_file(&file);
        mounted?;
        self.mounts.push(self.dir.clone());
        Ok(())
    }

    /// Tools that work elsewhere first do that in /var/tmp, buildah with whole layers: here it lies on the scratch.
    fn take_temporary_files(&mut self) -> Result<()> {
        let temporary = self.dir.join("tmp");
        fs::create_dir(&temporary)?;
        self.bind(temporary, "/var/tmp".into())
    }

    fn bind(&mut self, from: PathBuf, to: PathBuf) -> Result<()> {
        mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| to.display().to_string())?;
        self.mounts.push(to);
        Ok(())
    }

    fn unmount(&mut self) {
        for at in self.mounts.drain(..).rev() {
            // With all that is mounted below. Whatever still uses it ends soon, or with the namespace.
            let _ = umount2(&at, MntFlags::MNT_DETACH);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.unmount();
        let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&self.dir).status();
    }
}

/// An ext4 as mke2fs makes it, in a sparse file, mounted by a loop device.
fn mount_image(file: &Path, dir: &Path) -> Result<()> {
    for program in ["mke2fs", "losetup", "mount"] {
        ensure!(build::find(program).is_some(), "{program} is not installed");
    }
    let program = |name: &str| Command::new(build::find(name).unwrap_or_else(|| name.into()));
    timed(program("mke2fs").args(["-q", "-t", "ext4"]).arg(file).arg(format!("{SIZE}G")))?;
    // Past the page cache, which is the file system's own: else every byte would be copied and kept twice.
    let attached =
        program("losetup").args(["--find", "--show", "--direct-io=on"]).arg(file).output().context("losetup")?;
    let device = String::from_utf8_lossy(&attached.stdout).trim().to_owned();
    ensure!(attached.status.success(), "losetup: {}", String::from_utf8_lossy(&attached.stderr).trim());
    // Without noinit_itable, a thread of the kernel would write inode tables while others are measured.
    let mounted = timed(program("mount").args(["-o", "noinit_itable", &device]).arg(dir));
    // Detached now, or with the mount.
    timed(program("losetup").args(["--detach", &device]))?;
    mounted.map(drop)
}

/// What to try, best first. What is asked for is not replaced.
fn order(wanted: Option<Backing>, available: u64) -> Vec<Backing> {
    match wanted {
        Some(wanted) => vec![wanted],
        None if available >= ROOM << 30 => vec![Backing::Memory, Backing::Disk, Backing::Folder],
        None => vec![Backing::Disk, Backing::Folder],
    }
}

/// What is measured on, and why on nothing better.
fn about(backing: Backing, refused: &[String]) -> String {
    let backing = match backing {
        Backing::Memory => format!("an ext4 of {SIZE} GiB of its own, in memory"),
        Backing::Disk => format!("an ext4 of {SIZE} GiB of its own, in a file on disk"),
        Backing::Folder => "a folder".to_owned(),
    };
    if refused.is_empty() { backing } else { format!("{backing}, since: {}", refused.join("; ")) }
}

/// Bytes of the line `MemAvailable:  1234 kB` of /proc/meminfo.
fn available(info: &str) -> Option<u64> {
    let kib = info.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB"))?;
    Some(kib.trim().parse::<u64>().ok()?.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_chosen_where_there_is_enough_and_what_is_asked_for_is_not_replaced() {
        use Backing::{Disk, Folder, Memory};
        let cases: [(_, u64, &[Backing]); 4] = [
            (None, 16 << 30, &[Memory, Disk, Folder]),
            (None, (16 << 30) - 1, &[Disk, Folder]),
            (Some(Memory), 0, &[Memory]),
            (Some(Folder), 64 << 30, &[Folder]),
        ];
        for (wanted, available, want) in cases {
            assert_eq!(order(wanted, available), want);
        }
    }

    #[test]
    fn what_was_refused_is_told() {
        let refused = ["no loop device", "no memory"].map(str::to_owned);
        assert_eq!(about(Backing::Folder, &refused), "a folder, since: no loop device; no memory");
        assert_eq!(about(Backing::Memory, &[]), "an ext4 of 12 GiB of its own, in memory");
    }

    #[test]
    fn the_available_memory_is_read_in_bytes() {
        assert_eq!(available("MemTotal:  9 kB\nMemAvailable:   22000000 kB\n"), Some(22_000_000 << 10));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
    }
}
