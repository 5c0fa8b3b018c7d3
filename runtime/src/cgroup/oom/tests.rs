//! With real cgroups, in the hierarchies that this machine has.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use orlop_sys::rustix::event::{PollFd, Timespec, poll};
use orlop_sys::rustix::fs::{AtFlags, unlinkat};

use super::*;

/// A cgroup that is removed at the end.
struct Scratch(String);

impl Scratch {
    /// None, with a word why, where it can't be made.
    fn new(mount: &str, name: &str) -> Option<Self> {
        let dir = format!("{mount}/orlop-{name}-{}", std::process::id());
        match rfs::mkdir(&dir, Mode::from_raw_mode(0o755)) {
            Ok(()) => Some(Self(dir)),
            Err(errno) => {
                println!("SKIP: mkdir {dir}: {errno}");
                None
            }
        }
    }

    fn write(&self, file: &str, value: &str) {
        let fd = rfs::open(format!("{}/{file}", self.0), OFlags::WRONLY, Mode::empty()).unwrap();
        write(&fd, value.as_bytes()).unwrap();
    }

    /// Too little for what the tests use.
    fn limit_memory(&self) {
        self.write("memory.limit_in_bytes", "8388608");
        // Else it would be swapped out where there is swap.
        if rfs::stat(format!("{}/memory.memsw.limit_in_bytes", self.0)).is_ok() {
            self.write("memory.memsw.limit_in_bytes", "8388608");
        }
    }

    /// Runs a shell's script in the cgroup to its end.
    fn run(&self, script: &str) {
        let script = format!("echo 0 > {}/cgroup.procs; {script}", self.0);
        let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for _ in 0..100 {
            if unlinkat(CWD, &self.0, AtFlags::REMOVEDIR) != Err(Errno::BUSY) {
                return;
            }
            sleep(Duration::from_millis(5));
        }
    }
}

fn is_ready(oom: &Oom) -> bool {
    is_ready_within(oom, 0)
}

/// The kernel may take a moment: v2 gathers the changes of some milliseconds, v1 removes a cgroup in the background.
fn becomes_ready(oom: &Oom) -> bool {
    is_ready_within(oom, 5)
}

fn is_ready_within(oom: &Oom, seconds: i64) -> bool {
    let mut fds = [PollFd::new(oom, oom.interest())];
    poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).unwrap() > 0
}

#[test]
fn a_kill_on_v1_makes_the_fd_ready_and_is_counted_once() {
    let Some(cgroup) = Scratch::new("/sys/fs/cgroup/memory", "oom") else { return };
    cgroup.limit_memory();
    let mut oom = Oom::v1(&cgroup.0).unwrap();
    assert!(!is_ready(&oom));
    assert_eq!(oom.count(), Ok(Some(0)));
    assert!(!oom.expects_more());

    cgroup.run("exec dd if=/dev/zero of=/dev/null bs=64M count=1");
    assert!(becomes_ready(&oom));
    assert_eq!(oom.count(), Ok(Some(1)));
    assert!(!is_ready(&oom));
    assert_eq!(oom.count(), Ok(Some(0)));

    // Begun anew, it has nothing old to tell.
    assert_eq!(Oom::v1(&cgroup.0).unwrap().count(), Ok(Some(0)));
}

#[test]
fn a_kill_below_on_v1_is_counted_as_on_v2() {
    let Some(cgroup) = Scratch::new("/sys/fs/cgroup/memory", "above") else { return };
    cgroup.limit_memory();
    let below = Scratch::new(&cgroup.0, "below").unwrap();
    let mut oom = Oom::v1(&cgroup.0).unwrap();
    below.run("exec dd if=/dev/zero of=/dev/null bs=64M count=1");
    assert!(becomes_ready(&oom));
    assert_eq!(oom.count(), Ok(Some(1)));
    // What a cgroup has counted goes with it, and is not counted down.
    drop(below);
    assert_eq!(oom.count(), Ok(Some(0)));
    cgroup.run("exec dd if=/dev/zero of=/dev/null bs=64M count=1");
    assert!(becomes_ready(&oom));
    assert_eq!(oom.count(), Ok(Some(1)));
}

#[test]
fn an_announcement_on_v1_without_a_kill_is_given_up_after_a_while() {
    let Some(cgroup) = Scratch::new("/sys/fs/cgroup/memory", "announced") else { return };
    let mut oom = Oom::v1(&cgroup.0).unwrap();
    write(&oom.v1.as_ref().unwrap().announcements, &1u64.to_ne_bytes()).unwrap();
    assert!(is_ready(&oom));
    let mut calls = 0;
    while oom.count() == Ok(Some(0)) && oom.expects_more() {
        assert!(!is_ready(&oom));
        calls += 1;
        assert!(calls < 1000);
    }
    assert_eq!(calls, u32::from(TRIES));
}

#[test]
fn v1_tells_that_the_cgroup_is_gone() {
    let Some(cgroup) = Scratch::new("/sys/fs/cgroup/memory", "gone") else { return };
    let mut oom = Oom::v1(&cgroup.0).unwrap();
    drop(cgroup);
    assert!(becomes_ready(&oom));
    assert_eq!(oom.count(), Ok(None));
    assert!(!oom.expects_more());
}

/// memory.events needs the controller; the kernel notifies of every file with counters the same way.
#[test]
fn a_change_on_v2_makes_the_fd_ready_until_it_is_read() {
    let mount = if rfs::stat("/sys/fs/cgroup/cgroup.controllers").is_ok() { "" } else { "/unified" };
    let Some(cgroup) = Scratch::new(&format!("/sys/fs/cgroup{mount}"), "events") else { return };
    let mut watch = Oom::v2(&format!("{}/cgroup.events", cgroup.0), "populated").unwrap();
    assert!(!is_ready(&watch));
    let mut child = Command::new("sleep").arg("100").spawn().unwrap();
    cgroup.write("cgroup.procs", &child.id().to_string());
    assert!(becomes_ready(&watch));
    assert_eq!(watch.count(), Ok(Some(1)));
    assert!(!is_ready(&watch));
    assert_eq!(watch.count(), Ok(Some(0)));
    assert!(!watch.expects_more());
    child.kill().unwrap();
    child.wait().unwrap();
    drop(cgroup);
    assert!(becomes_ready(&watch));
    assert_eq!(watch.count(), Ok(None));
}

#[test]
fn without_the_controller_it_is_refused_as_unsupported() {
    for error in [Oom::v1("/sys/fs/cgroup/none"), Oom::v2("/sys/fs/cgroup/none/memory.events", KILLS)] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
