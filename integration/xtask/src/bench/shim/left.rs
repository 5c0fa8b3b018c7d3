//! What containers leave behind when they are gone: nothing, if all is well.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Where shims have their sockets.
const SOCKETS: &str = "/run/containerd/s";
const CGROUPS: &str = "/sys/fs/cgroup";

/// All that is there at a moment and may be of a container.
#[derive(Debug, Default)]
pub(super) struct Left(BTreeSet<String>);

impl Left {
    /// The processes and mounts of these namespaces, sockets, and what is below the cgroup `cgroups`. No child of this
    /// process may be waited for elsewhere at the time.
    pub(super) fn now(cgroups: &str) -> Result<Self> {
        // Orphans come to the first process of the namespace. Whoever is dead is only not waited for.
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        let mut all = BTreeSet::new();
        let is_pid = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
        all.extend(names(Path::new("/proc"))?.into_iter().filter(is_pid).map(|pid| format!("process {pid}")));
        all.extend(fs::read_to_string("/proc/self/mountinfo")?.lines().map(str::to_owned));
        for ours in everywhere(cgroups)? {
            let below = names(&ours)?.into_iter().map(|name| ours.join(name)).filter(|path| path.is_dir());
            all.extend(below.map(|path| path.display().to_string()));
        }
        all.extend(names(Path::new(SOCKETS))?.into_iter().map(|name| format!("socket {name}")));
        Ok(Self(all))
    }

    /// How much of this was not there before, with what is in the runtime's state.
    pub(super) fn beyond(&self, before: &Self, state: &Path) -> Result<f64> {
        let new: Vec<_> = self.0.difference(&before.0).collect();
        for thing in &new {
            eprintln!("    left behind: {thing}");
        }
        let mut states = 0;
        for namespace in names(state)? {
            states += names(&state.join(namespace))?.len();
        }
        Ok((new.len() + states) as f64)
    }
}

/// The places that a cgroup may have: in one hierarchy, or in each of several.
fn everywhere(cgroup: &str) -> Result<Vec<PathBuf>> {
    let several = names(Path::new(CGROUPS))?.into_iter().map(|name| Path::new(CGROUPS).join(name));
    let roots = several.chain([PathBuf::from(CGROUPS)]);
    Ok(roots.map(|root| root.join(cgroup.trim_start_matches('/'))).filter(|path| path.is_dir()).collect())
}

/// Removes a cgroup, with what is below it and has no processes.
pub(super) fn remove_cgroups(cgroup: &str) -> Result<()> {
    for place in everywhere(cgroup)? {
        let below: Vec<_> = names(&place)?.into_iter().map(|name| place.join(name)).collect();
        for below in below.into_iter().chain([place]) {
            // Its files go with it, and are not to be removed.
            let _ = fs::remove_dir(below);
        }
    }
    Ok(())
}

/// The names in a folder; none if there is no such folder.
fn names(dir: &Path) -> Result<Vec<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(why) if matches!(why.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(why) => Err(why.into()),
    }
}
