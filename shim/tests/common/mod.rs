//! A bundle, and what it takes to run it, for the tests beside this folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use orlop_sys::rustix::process::{Pid, geteuid, test_kill_process};
use serde_json::{Value, json};

pub(crate) const BUSYBOX: &str = "/bin/busybox";
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// True, and said, if this machine can't do it.
pub(crate) fn skipped() -> bool {
    if !geteuid().is_root() {
        println!("SKIP: needs root");
        return true;
    }
    if !Path::new(BUSYBOX).exists() {
        println!("SKIP: needs {BUSYBOX}");
        return true;
    }
    false
}

/// Makes `dir`, with a root file system for `args`, and `config.json` after `change`.
pub(crate) fn make_bundle(dir: &Path, cgroup: &str, args: &[&str], change: impl FnOnce(&mut Value)) {
    let bin = dir.join("rootfs/bin");
    fs::create_dir_all(&bin).unwrap();
    for name in ["proc", "tmp"] {
        fs::create_dir(dir.join("rootfs").join(name)).unwrap();
    }
    fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
    for name in ["sh", "sleep", "cat", "true", "head", "tty", "seq", "stty", "id", "dd", "kill", "usleep"] {
        symlink("busybox", bin.join(name)).unwrap();
    }
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["ptmxmode=0666"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
            "cgroupsPath": cgroup,
        },
    });
    change(&mut config);
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

/// Until a process is gone, or waits for nothing but its parent.
pub(crate) fn wait_for_end(pid: impl TryInto<i32>) {
    let pid = Pid::from_raw(pid.try_into().ok().unwrap()).unwrap();
    let end = Instant::now() + PATIENCE;
    let is_zombie = |stat: String| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'));
    while test_kill_process(pid).is_ok()
        && !fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).map_or(true, is_zombie)
    {
        assert!(Instant::now() < end, "process {pid:?} is still there");
        thread::sleep(Duration::from_millis(2));
    }
}
