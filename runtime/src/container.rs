//! A container as it is found: its record, and its status, which is observed each time and never stored.

use std::fmt::{self, Display};
use std::sync::OnceLock;

use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::io::{read, retry_on_intr};
use orlop_sys::rustix::process::{Pid, PidfdFlags, pidfd_open};
use orlop_sys::rustix::time::{ClockId, clock_gettime};
use orlop_sys::{Errno, OwnedFd};

use crate::cgroup::{self, Cgroup};
use crate::error::{At, Error, ErrorKind, Result};
use crate::store::{ContainerId, Contents, Fifo, Record, StateDir, Store};

/// The status of a container (runtime.md, "State"; `paused` is runc's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Being created, or its creator was killed.
    Creating,
    /// Init waits for `start`.
    Created,
    /// Init runs its program.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// Init is dead.
    Stopped,
}

impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What may be asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `start`.
    Start,
    /// `exec`.
    Exec,
    /// `exec --ignore-paused`.
    ExecIgnoringPaused,
    /// `kill`.
    Kill,
    /// `delete`.
    Delete,
    /// `delete --force`.
    ForceDelete,
    /// `pause`.
    Pause,
    /// `resume`.
    Resume,
    /// `update`.
    Update,
}

impl Status {
    /// Whether container `id` in this status can do `operation`. The refusals are worded as runc words them, since
    /// engines look for the words.
    pub fn allows(self, operation: Operation, id: &ContainerId) -> Result<()> {
        use Operation as Op;
        use Status as Is;
        let refusal = match (operation, self) {
            (Op::Start, Is::Created) => return Ok(()),
            (Op::Start, Is::Running) => "cannot start an already running container".to_owned(),
            (Op::Start, Is::Stopped) => "cannot start a container that has stopped".to_owned(),
            (Op::Start, Is::Creating | Is::Paused) => format!("cannot start a container in the {self} state"),

            (Op::Exec | Op::ExecIgnoringPaused, Is::Created | Is::Running) => return Ok(()),
            (Op::ExecIgnoringPaused, Is::Paused) => return Ok(()),
            (Op::Exec, Is::Paused) => "cannot exec in a paused container (use --ignore-paused to override)".to_owned(),
            (Op::Exec | Op::ExecIgnoringPaused, Is::Creating | Is::Stopped) => {
                format!("cannot exec in a {self} container")
            }

            (Op::Kill, Is::Created | Is::Running | Is::Paused) => return Ok(()),
            (Op::Pause, Is::Created | Is::Running) => return Ok(()),
            (Op::Update, Is::Created | Is::Running | Is::Paused) => return Ok(()),
            (Op::Kill | Op::Update, Is::Creating | Is::Stopped) => "container not running".to_owned(),
            (Op::Pause, Is::Creating | Is::Paused | Is::Stopped) => "container not running".to_owned(),

            (Op::Resume, Is::Paused) => return Ok(()),
            (Op::Resume, Is::Creating | Is::Created | Is::Running | Is::Stopped) => "container not paused".to_owned(),

            (Op::Delete, Is::Created | Is::Stopped) | (Op::ForceDelete, _) => return Ok(()),
            (Op::Delete, Is::Creating | Is::Running | Is::Paused) => {
                format!("cannot delete container {id} that is not stopped: {self}")
            }
        };
        Err(Error::new(ErrorKind::WrongStatus, refusal))
    }
}

/// A container whose record could be read.
#[derive(Debug)]
pub struct Container {
    dir: StateDir,
    record: Record,
}

impl Container {
    /// A container from what its directory says.
    pub fn new(dir: StateDir, record: Record) -> Self {
        Self { dir, record }
    }

    /// Opens a container to look at it. `NotFound` when there is none; other errors for one that has no record (yet)
    /// or a corrupt one.
    pub fn open(store: &Store, id: &ContainerId) -> Result<Self> {
        Self::read(store.dir(id)?)
    }

    /// Opens a container to change it: no other changing operation is under way while this value lives.
    pub fn open_locked(store: &Store, id: &ContainerId) -> Result<Self> {
        let mut dir = store.dir(id)?;
        dir.lock(store)?;
        Self::read(dir)
    }

    fn read(dir: StateDir) -> Result<Self> {
        match dir.read()? {
            Contents::Record(record) => Ok(Self::new(dir, *record)),
            Contents::Incomplete(_) => Err(Error::new(
                ErrorKind::WrongStatus,
                format!(
                    "container {} is being created, or its creator was killed (`delete --force` removes it)",
                    dir.id()
                ),
            )),
            Contents::Corrupt { why, .. } => Err(Error::new(
                ErrorKind::Os,
                format!("container {} is corrupt (`delete --force` removes it): {why}", dir.id()),
            )),
        }
    }

    /// The container's id.
    pub fn id(&self) -> &ContainerId {
        self.dir.id()
    }

    /// Its directory.
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }

    /// What is known of it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Gives up the record and keeps the directory, with its lock.
    pub fn into_parts(self) -> (StateDir, Record) {
        (self.dir, self.record)
    }

    /// Its cgroup, when it has one of its own; it may be gone.
    pub fn cgroup(&self) -> Result<Option<Cgroup>> {
        recorded_cgroup(self.record.cgroup.as_ref())
    }

    /// Whether it was created since the machine was booted. If not, its pid and its cgroup are somebody else's.
    pub fn is_of_this_boot(&self) -> Result<bool> {
        Ok(self.record.boot_id == boot_id()?)
    }

    /// Looks at the process, the freezer and the fifo, in this order.
    pub fn status(&self) -> Result<Status> {
        if !init_lives(&self.record)? {
            return Ok(Status::Stopped);
        }
        if let Some(cgroup) = self.cgroup()?
            && cgroup.is_frozen()?
        {
            return Ok(Status::Paused);
        }
        if !self.record.waits_on_fifo {
            return Ok(Status::Running);
        }
        Ok(match self.dir.fifo()? {
            Fifo::Waiting(_) => Status::Created,
            Fifo::Unread => Status::Running,
            Fifo::Absent => Status::Creating,
        })
    }

    /// The status, unless it forbids the operation.
    pub fn check(&self, operation: Operation) -> Result<Status> {
        let status = self.status()?;
        status.allows(operation, self.id())?;
        Ok(status)
    }

    /// Init, if it lives. The pidfd is opened first and the process behind the number compared afterwards, so what is
    /// returned is this container's init or nothing, however fast the kernel gives the number to another process.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>> {
        let Some(pid) = pid(self.record.pid) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // EINVAL, and since 6.15 ENOENT: the number is now that of a thread.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
            Err(e) => return Err(Error::os(format_args!("open process {}", self.record.pid), e)),
        };
        Ok(init_lives(&self.record)?.then_some(pidfd))
    }
}

/// The cgroup of a record; none when it names no directory.
pub(crate) fn recorded_cgroup(record: Option<&cgroup::Record>) -> Result<Option<Cgroup>> {
    record.filter(|record| !record.0.is_empty()).map(Cgroup::open).transpose()
}

/// Whether the process that the record names still is that process, and not a zombie.
fn init_lives(record: &Record) -> Result<bool> {
    if record.boot_id != boot_id()? {
        return Ok(false);
    }
    Ok(process(record.pid)?.is_some_and(|p| p.start_time == record.start_time && !p.is_zombie))
}

/// What /proc says about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// Dead, and not reaped yet.
    pub is_zombie: bool,
}

/// Looks a process up in /proc; `None` when there is none.
pub fn process(raw_pid: i32) -> Result<Option<Process>> {
    let Some(pid) = pid(raw_pid) else { return Ok(None) };
    let path = format!("/proc/{raw_pid}/stat");
    let mut buffer = [0; 1024];
    match read_small(&path, &mut buffer) {
        Ok(stat) => parse_stat(stat)
            .map(Some)
            .ok_or_else(|| Error::new(ErrorKind::Os, format!("{path}: not in the form of proc_pid_stat(5)"))),
        Err(Errno::SRCH) => Ok(None),
        // A /proc mounted with hidepid looks as if the process were gone; a living one must not be taken for dead.
        Err(Errno::NOENT) => match pidfd_open(pid, PidfdFlags::empty()) {
            Err(_) => Ok(None),
            // It may have been started just now, under a number that is free again.
            Ok(_) => match read_small(&path, &mut buffer) {
                Ok(stat) => Ok(parse_stat(stat)),
                Err(e) => Err(Error::os(format_args!("open {path} of a living process"), e)),
            },
        },
        Err(e) => Err(Error::os(format_args!("read {path}"), e)),
    }
}

/// The name of the process stands in parentheses and may hold any byte, these too; the last one ends it.
fn parse_stat(stat: &[u8]) -> Option<Process> {
    let after_name = stat.get(stat.iter().rposition(|b| *b == b')')? + 2..)?;
    let mut fields = str::from_utf8(after_name).ok()?.split(' ');
    let is_zombie = matches!(fields.next()?, "Z" | "X" | "x");
    // Fields are counted from 1; the state is the third.
    Some(Process { start_time: fields.nth(22 - 4)?.parse().ok()?, is_zombie })
}

/// The id of this boot: pids and cgroups of another one mean nothing. Read once in the life of the process.
pub fn boot_id() -> Result<&'static str> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id);
    }
    let mut buffer = [0; 64];
    let text = read_small(PATH, &mut buffer).at(|| format!("read {PATH}"))?;
    Ok(BOOT_ID.get_or_init(|| String::from_utf8_lossy(text.trim_ascii()).into_owned()))
}

fn read_small<'a>(path: &str, buffer: &'a mut [u8]) -> std::result::Result<&'a [u8], Errno> {
    let fd = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let n = retry_on_intr(|| read(&fd, &mut *buffer))?;
    Ok(buffer.get(..n).unwrap_or_default())
}

fn pid(raw: i32) -> Option<Pid> {
    if raw > 0 { Pid::from_raw(raw) } else { None }
}

/// Now, as `created` has it: RFC 3339 in UTC with nanoseconds of which the trailing zeros are left out (Go's
/// RFC3339Nano).
pub fn now() -> String {
    let now = clock_gettime(ClockId::Realtime);
    rfc3339(now.tv_sec, now.tv_nsec)
}

/// A time since 1970 in the form of [`now`].
pub fn rfc3339(secs: i64, nanos: i64) -> String {
    let (days, second) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    // Years are counted from March, so that the leap day is their last, and in eras of 400 years, which are equally
    // long; 719,468 days lie between 0000-03-01 and 1970-01-01.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let fraction = format!(".{nanos:09}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_allows_what_runc_allows_and_refuses_in_its_words() {
        use Operation as Op;
        use Status as Is;
        let id = ContainerId::parse("web1").unwrap();
        let table: &[(Op, [&str; 5])] = &[
            //            creating, created, running, paused, stopped
            (
                Op::Start,
                [
                    "cannot start a container in the creating state",
                    "",
                    "cannot start an already running container",
                    "cannot start a container in the paused state",
                    "cannot start a container that has stopped",
                ],
            ),
            (
                Op::Exec,
                [
                    "cannot exec in a creating container",
                    "",
                    "",
                    "cannot exec in a paused container (use --ignore-paused to override)",
                    "cannot exec in a stopped container",
                ],
            ),
            (
                Op::ExecIgnoringPaused,
                ["cannot exec in a creating container", "", "", "", "cannot exec in a stopped container"],
            ),
            (Op::Kill, ["container not running", "", "", "", "container not running"]),
            (
                Op::Delete,
                [
                    "cannot delete container web1 that is not stopped: creating",
                    "",
                    "cannot delete container web1 that is not stopped: running",
                    "cannot delete container web1 that is not stopped: paused",
                    "",
                ],
            ),
            (Op::ForceDelete, ["", "", "", "", ""]),
            (Op::Pause, ["container not running", "", "", "container not running", "container not running"]),
            (
                Op::Resume,
                ["container not paused", "container not paused", "container not paused", "", "container not paused"],
            ),
            (Op::Update, ["container not running", "", "", "", "container not running"]),
        ];
        for (operation, wants) in table {
            for (status, want) in [Is::Creating, Is::Created, Is::Running, Is::Paused, Is::Stopped].iter().zip(wants) {
                let got = status.allows(*operation, &id).map_err(|e| e.to_string()).err().unwrap_or_default();
                assert_eq!(got, *want, "{operation:?} when {status}");
            }
        }
    }

    #[test]
    fn a_process_is_found_by_its_number_whatever_its_name() {
        let stat = b"12 (a) Z) R 1) S 1 12 12 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(parse_stat(stat), Some(Process { start_time: 987_654, is_zombie: false }));
        let stat = b"12 (x) Z 1 12 12 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 5 1 2";
        assert_eq!(parse_stat(stat), Some(Process { start_time: 5, is_zombie: true }));
        for broken in [&b""[..], b"12 (x)", b"12 (x) ", b"12 (x) R 1", b")"] {
            assert_eq!(parse_stat(broken), None);
        }
        let me = process(i32::try_from(std::process::id()).unwrap()).unwrap().unwrap();
        assert!(me.start_time > 0 && !me.is_zombie);
        assert_eq!((process(0).unwrap(), process(-1).unwrap(), process(i32::MIN).unwrap()), (None, None, None));
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (secs, nanos, want) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_795_251_440, 252_939_962, "2026-11-21T08:57:20.252939962Z"),
            (951_782_399, 500_000_000, "2000-02-28T23:59:59.5Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000000001Z"),
            (4_107_542_400, 120, "2100-03-01T00:00:00.00000012Z"),
        ] {
            assert_eq!(rfc3339(secs, nanos), want);
        }
    }
}
