//! Watching a container for OOM kills, as a part of the event loop.

use std::time::Duration;

use orlop::cgroup::{Cgroup, Oom};
use orlop::error::{ErrorKind, Result};
use orlop_sys::rustix::event::epoll::EventFlags;
use orlop_sys::{AsFd, BorrowedFd};

/// How soon to look again when the kernel has announced a kill.
const SOON: Duration = Duration::from_millis(20);

/// Counts the OOM kills of a container. Made after its creation and before its start, and asked once more when its
/// first process has ended, it misses none; and the event of a kill that ends the container comes before that of its
/// end.
#[derive(Debug)]
pub struct Watch(Oom);

/// What a look has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// How many processes were killed since the last look.
    pub kills: u64,
    /// Look again after this time, though the fd is not ready: a kill was announced.
    pub again: Option<Duration>,
    /// There will be nothing more: take the fd out of the event loop, where it would be ready for ever.
    pub is_over: bool,
}

impl Watch {
    /// Begins; `None` where the kernel does not count the container's memory.
    pub fn new(cgroup: &Cgroup) -> Result<Option<Self>> {
        match Oom::new(cgroup) {
            Ok(oom) => Ok(Some(Self(oom))),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What epoll is to wait for: the fd of v2 is always readable, and only an exception is news.
    pub fn interest(&self) -> EventFlags {
        EventFlags::from_bits_retain(self.0.interest().bits().into())
    }

    /// Looks. Never blocks.
    pub fn look(&mut self) -> Found {
        match self.0.count() {
            Ok(Some(kills)) => Found { kills, again: self.0.expects_more().then_some(SOON), is_over: false },
            // The cgroup is gone; or it can't be read, and a later try would end in the same way.
            Ok(None) | Err(_) => Found { is_over: true, ..Found::default() },
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use orlop::cgroup::{Dir, Record};
    use orlop_sys::rustix::buffer::spare_capacity;
    use orlop_sys::rustix::event::Timespec;
    use orlop_sys::rustix::event::epoll::{CreateFlags, EventData, add, create, wait};
    use orlop_sys::rustix::fs::{Mode, mkdir};

    use super::*;

    fn dir(path: &str, controllers: &str) -> Dir {
        let mount = if controllers.is_empty() { "unified" } else { controllers };
        Dir { controllers: controllers.into(), mount: format!("/sys/fs/cgroup/{mount}"), path: path.into() }
    }

    /// Removed at the end.
    struct Scratch(String);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    #[test]
    fn a_kill_on_v1_wakes_the_event_loop_and_is_told_once() {
        let dir = dir(&format!("/orlop-shim-oom-{}", std::process::id()), "memory");
        let scratch = Scratch(dir.full());
        if let Err(error) = mkdir(&scratch.0, Mode::from_raw_mode(0o755)) {
            println!("SKIP: mkdir {}: {error}", scratch.0);
            return;
        }
        let mut watch = Watch::new(&Cgroup::open(&Record(vec![dir])).unwrap()).unwrap().unwrap();
        assert_eq!(watch.interest(), EventFlags::IN);
        let epoll = create(CreateFlags::CLOEXEC).unwrap();
        add(&epoll, &watch, EventData::new_u64(7), watch.interest()).unwrap();
        let ready = |milliseconds: i64| {
            let time = Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 };
            let mut events = Vec::with_capacity(4);
            wait(&epoll, spare_capacity(&mut events), Some(&time)).unwrap();
            events.len()
        };
        assert_eq!((ready(0), watch.look()), (0, Found::default()));

        let limits =
            "for f in memory.limit_in_bytes memory.memsw.limit_in_bytes; do echo 8388608 > $f; done 2>/dev/null";
        let script =
            format!("cd {}; {limits}; echo 0 > cgroup.procs; exec dd if=/dev/zero of=/dev/null bs=64M", scratch.0);
        let status = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().unwrap();
        assert!(!status.success());
        assert_eq!(ready(5000), 1);
        assert_eq!(watch.look(), Found { kills: 1, ..Found::default() });
        assert_eq!((ready(0), watch.look()), (0, Found::default()));

        drop(scratch);
        assert_eq!(ready(5000), 1);
        assert_eq!(watch.look(), Found { is_over: true, ..Found::default() });
    }

    #[test]
    fn without_the_memory_controller_there_is_nothing_to_watch() {
        let cgroup = Cgroup::open(&Record(vec![dir("/orlop-shim-none", "")])).unwrap();
        assert!(Watch::new(&cgroup).unwrap().is_none());
    }
}
