//! Learning that the kernel has killed for want of memory.
//!
//! v2 notifies whoever polls memory.events for POLLPRI; inotify would say the same, but of its instances a user has 128
//! (fs.inotify.max_user_instances), and each container's keeper would take one. v1 writes to an eventfd.

use orlop_sys::rustix::event::{EventfdFlags, PollFlags, eventfd};
use orlop_sys::rustix::fs::{self as rfs, CWD, Mode, OFlags};
use orlop_sys::rustix::io::{pread, read, write};
use orlop_sys::{AsFd, AsRawFd, BorrowedFd, Errno, OwnedFd};

use super::Cgroup;
use super::live::{MAX_DEPTH, children, read_one};
use super::stats::Keyed;
use crate::error::{At, Error, ErrorKind, Result};

/// How often [`Oom::count`] is worth another try when a kill was announced and isn't counted yet.
const TRIES: u8 = 50;
/// The counter, in memory.events and in memory.oom_control.
const KILLS: &str = "oom_kill";

/// Counts the kills in a cgroup as they happen.
///
/// Poll its fd for [`interest`](Self::interest) and call [`count`](Self::count) when it is ready. Once more when the
/// container has ended makes the answer complete: the kernel counts before it kills.
#[derive(Debug)]
pub struct Oom {
    /// The file with the counter; on v2 the one that is polled too.
    counter: OwnedFd,
    key: &'static str,
    v1: Option<V1>,
    seen: u64,
    tries: u8,
}

/// What v1 needs beside the counter.
#[derive(Debug)]
struct V1 {
    /// The eventfd.
    announcements: OwnedFd,
    /// The cgroup: its counter leaves out those below it, which v2's counts.
    dir: String,
}

impl Oom {
    /// Begins to count: kills before this are not new.
    ///
    /// # Errors
    /// `Unsupported` without the memory controller; `Os`.
    pub fn new(cgroup: &Cgroup) -> Result<Self> {
        if let Some(dir) = cgroup.v1_path("memory") {
            return Self::v1(&dir);
        }
        match cgroup.v2_path() {
            Some(dir) => Self::v2(&format!("{dir}/memory.events"), KILLS),
            None => Err(unsupported()),
        }
    }

    fn v1(dir: &str) -> Result<Self> {
        let counter = open(&format!("{dir}/memory.oom_control"))?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let announcements = eventfd(0, flags).at(|| "eventfd")?;
        let file = format!("{dir}/cgroup.event_control");
        let control =
            rfs::open(&file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).at(|| format!("open {file}"))?;
        let line = format!("{} {}", announcements.as_raw_fd(), counter.as_raw_fd());
        write(&control, line.as_bytes()).at(|| format!("write {line:?} to {file}"))?;
        let v1 = V1 { announcements, dir: dir.to_owned() };
        Self { counter, key: KILLS, v1: Some(v1), seen: 0, tries: 0 }.started()
    }

    fn v2(file: &str, key: &'static str) -> Result<Self> {
        Self { counter: open(file)?, key, v1: None, seen: 0, tries: 0 }.started()
    }

    fn started(mut self) -> Result<Self> {
        self.seen = self.total()?.unwrap_or(0);
        Ok(self)
    }

    /// What to poll the fd for. POLLERR comes with it on v2 and means nothing more.
    pub fn interest(&self) -> PollFlags {
        if self.v1.is_some() { PollFlags::IN } else { PollFlags::PRI }
    }

    /// How many processes have been killed since the last call; `None` when the cgroup is gone: poll it no more.
    pub fn count(&mut self) -> Result<Option<u64>> {
        let announced = self.take_announcements()?;
        let Some(total) = self.total()? else {
            self.tries = 0;
            return Ok(None);
        };
        let new = total.saturating_sub(self.seen);
        self.seen = total;
        self.tries = match new {
            0 if announced => TRIES,
            0 => self.tries.saturating_sub(1),
            _ => 0,
        };
        Ok(Some(new))
    }

    /// Whether a kill was announced that is not counted yet: v1 announces first, and writes to the kernel's log before
    /// it kills, so call [`count`](Self::count) again in some milliseconds. It ends, for an announcement may also be
    /// of a parent's limit, and the killed process another container's.
    pub fn expects_more(&self) -> bool {
        self.tries > 0
    }

    /// Whether the eventfd was written to; it is not any more.
    fn take_announcements(&self) -> Result<bool> {
        let Some(V1 { announcements: fd, .. }) = &self.v1 else { return Ok(false) };
        let mut count = [0; 8];
        loop {
            match read(fd, &mut count) {
                Ok(_) => return Ok(true),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::os("read the eventfd of memory.oom_control", errno)),
            }
        }
    }

    fn total(&self) -> Result<Option<u64>> {
        let mut text = [0; 1024];
        loop {
            match pread(&self.counter, &mut text, 0) {
                Ok(n) => {
                    let text = String::from_utf8_lossy(text.get(..n).unwrap_or_default());
                    let below = self.v1.as_ref().map_or(0, |v1| kills_below(&v1.dir, MAX_DEPTH));
                    return Ok(Some(Keyed::new(text).get(self.key).saturating_add(below)));
                }
                Err(Errno::NODEV) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::os(format_args!("read {}", self.key), errno)),
            }
        }
    }
}

impl AsFd for Oom {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.v1.as_ref().map_or(&self.counter, |v1| &v1.announcements).as_fd()
    }
}

/// What the cgroups below one have counted; those that go away meanwhile have counted nothing.
fn kills_below(dir: &str, depth: usize) -> u64 {
    let below = if depth == 0 { Vec::new() } else { children(dir).unwrap_or_default() };
    let kills = below.iter().map(|dir| {
        let text = read_one(CWD, &format!("{dir}/memory.oom_control")).unwrap_or_default();
        Keyed::new(text).get(KILLS).saturating_add(kills_below(dir, depth - 1))
    });
    kills.fold(0, u64::saturating_add)
}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "the cgroup controller memory is not available")
}

fn open(file: &str) -> Result<OwnedFd> {
    match rfs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => Err(unsupported()),
        fd => fd.at(|| format!("open {file}")),
    }
}

#[cfg(test)]
mod tests;
