//! The machine as a case sees it: a private mount table, one layout of cgroups, no process left behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::command::{self, wait_until};

/// Where every Linux system mounts its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Which cgroup layout the cases run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum View {
    /// As the machine has it.
    Host,
    /// Cgroup v1 hierarchies, perhaps with a v2 one beside them; an error if the machine has none.
    V1,
    /// Cgroup v2 alone: mounted so in the private mount namespace of the suite, if the machine has it otherwise.
    V2,
}

/// Leaves the machine's mount table: what is mounted from now on is gone with this process and its children.
pub(crate) fn isolate() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).context("unshare the mount namespace (the cases need root)")?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("make every mount private")
}

/// Makes the cgroup mounts what `view` asks for. For a private mount namespace only.
pub(crate) fn show(view: View) -> Result<()> {
    let mounts = cgroup_mounts()?;
    match view {
        View::Host => Ok(()),
        View::V1 if mounts.keys().any(|controller| !controller.is_empty()) => Ok(()),
        View::V1 => bail!("this machine has no cgroup v1 hierarchy"),
        View::V2 => {
            let text = fs::read_to_string("/proc/self/mountinfo")?;
            // The last mounted first, or a mount would hide the one to be removed.
            for at in text.lines().rev().filter_map(mount_point).filter(|at| at.starts_with(CGROUPS)) {
                rustix::mount::unmount(at, UnmountFlags::DETACH).with_context(|| format!("unmount {at}"))?;
            }
            let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("cgroup2", CGROUPS, "cgroup2", plain, None).context("mount cgroup2")
        }
    }
}

fn mount_point(line: &str) -> Option<&str> {
    line.split(' ').nth(4)
}

/// Mount point of every v1 controller by name, and of the v2 hierarchy under the empty name, as `/proc/PID/cgroup` has it.
pub(crate) fn cgroup_mounts() -> Result<BTreeMap<String, PathBuf>> {
    Ok(cgroup_mounts_in(&fs::read_to_string("/proc/self/mountinfo")?))
}

fn cgroup_mounts_in(mountinfo: &str) -> BTreeMap<String, PathBuf> {
    let mut mounts = BTreeMap::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(at), Some(kind), Some(options)) =
            (mount_point(left), right.split(' ').next(), right.split(' ').nth(2))
        else {
            continue;
        };
        match kind {
            "cgroup2" => {
                mounts.insert(String::new(), at.into());
            }
            "cgroup" => {
                for controller in options.split(',').filter(|option| !["rw", "ro", "xattr"].contains(option)) {
                    mounts.insert(controller.to_owned(), at.into());
                }
            }
            _ => {}
        }
    }
    mounts
}

/// True when cgroup v2 is mounted alone.
pub(crate) fn is_v2() -> Result<bool> {
    Ok(cgroup_mounts()?.get("").is_some_and(|at| at == Path::new(CGROUPS)))
}

/// The directory of a process in a v1 controller's hierarchy, or with an empty name in the v2 one.
pub(crate) fn cgroup_of(pid: i32, controller: &str) -> Result<Option<PathBuf>> {
    let Some(mount) = cgroup_mounts()?.remove(controller) else { return Ok(None) };
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).with_context(|| format!("cgroup of {pid}"))?;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (fields.next(), fields.next())
            && controllers.split(',').any(|name| name == controller)
        {
            return Ok(Some(mount.join(path.trim_start_matches('/'))));
        }
    }
    Ok(None)
}

/// Every cgroup directory whose name holds `mark`, in every hierarchy, children before parents.
pub(crate) fn cgroups_named(mark: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for mount in cgroup_mounts()?.into_values() {
        for child in directories(&mount) {
            if child.to_string_lossy().contains(mark) {
                collect(&child, &mut found);
            } else {
                // A runtime may put the container below a directory of its own.
                for grandchild in directories(&child).filter(|path| path.to_string_lossy().contains(mark)) {
                    collect(&grandchild, &mut found);
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found.reverse();
    Ok(found)
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    directories(dir).for_each(|child| collect(&child, found));
    found.push(dir.to_owned());
}

fn directories(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// Kills what lives in these cgroups and removes them.
pub(crate) fn remove_cgroups(dirs: &[PathBuf]) {
    for dir in dirs {
        // Thawed first: a frozen process does not die on v1.
        let _ = fs::write(dir.join("freezer.state"), "THAWED");
        let _ = fs::write(dir.join("cgroup.freeze"), "0");
        let removed = wait_until(Duration::from_secs(2), || {
            let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            members.lines().filter_map(|line| line.parse().ok()).for_each(kill);
            reap();
            Ok(fs::remove_dir(dir).is_ok().then_some(()))
        });
        // A cgroup that can't be removed is reported by the case; here is nothing more to do.
        let _ = removed;
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may be gone already.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Becomes the parent of every orphan among the descendants.
pub(crate) fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become the subreaper")
}

/// How adopted processes ended that were collected before anybody asked.
static ENDED: Mutex<BTreeMap<i32, i32>> = Mutex::new(BTreeMap::new());

/// Waits for an adopted process, and gives its exit status, or 128 and the number of the signal that ended it.
pub(crate) fn wait_for(pid: i32, time: Duration) -> Result<i32> {
    let ended = wait_until(time, || {
        reap();
        Ok(ENDED.lock().ok().and_then(|ended| ended.get(&pid).copied()))
    })?;
    ended.with_context(|| format!("process {pid} still runs after {time:?}"))
}

/// Collects every adopted process that has ended. A pid namespace does not end before its processes are collected, so this is
/// done while commands run; those are not touched, for their owner waits for them.
pub(crate) fn reap() {
    for (pid, state) in own_children() {
        if state != 'Z' || command::is_running(pid) {
            continue;
        }
        let Some(id) = Pid::from_raw(pid) else { continue };
        if let Ok(Some((_, status))) = rustix::process::waitpid(Some(id), WaitOptions::NOHANG)
            && let Ok(mut ended) = ENDED.lock()
        {
            let status = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
            ended.insert(pid, status.unwrap_or(-1));
        }
    }
}

/// Process id and state of every child of this process.
fn own_children() -> Vec<(i32, char)> {
    let mut children = Vec::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in text.split_whitespace().filter_map(|word| word.parse::<i32>().ok()) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            children.push((pid, state.unwrap_or('X')));
        }
    }
    children
}

/// The living children of this process, by process id and name.
pub(crate) fn children() -> Vec<(i32, String)> {
    let living = own_children().into_iter().filter(|(_, state)| !['Z', 'X'].contains(state));
    living
        .map(|(pid, _)| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned())
        })
        .collect()
}

/// Kills every descendant. Those of a killed process become children of this one, hence the rounds.
pub(crate) fn kill_children() {
    let _ = wait_until(Duration::from_secs(5), || {
        reap();
        let left = children();
        left.iter().for_each(|(pid, _)| kill(*pid));
        Ok(left.is_empty().then_some(()))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_by_the_options_of_their_mounts() {
        let mounts = cgroup_mounts_in(
            "30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             32 30 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(mounts["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(mounts["cpuacct"], mounts["cpu"]);
        assert_eq!(mounts[""], Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mounts.len(), 3);
    }
}
