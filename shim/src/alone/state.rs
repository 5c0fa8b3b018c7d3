//! What is kept of a container beside the runtime's own record: what it was told to be, and how it fares.

use orlop::container::{self, Status, boot_id};
use orlop::error::{Error, ErrorKind, Result};
use orlop::store::Store;
use orlop_sys::OwnedFd;
use orlop_sys::process::exit_status;
use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::folder::{self, Folder};
use super::record::Format;
use super::restart::Policy;
use super::time::{Time, words};
use crate::start::read_file;

/// The status of what has ended unseen.
pub const UNKNOWN: u8 = 255;

/// How long somebody else's dead child may wait for its parent.
const REAPED: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// What `run` was told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// The bundle's absolute path.
    pub bundle: String,
    /// The runtime's state root.
    pub root: String,
    /// The log's absolute path; empty is in the container's folder.
    pub log: String,
    /// How it is written.
    pub log_format: Format,
    /// A log that would be larger is put aside, in bytes; 0 is never.
    pub log_max_size: u64,
    /// How many files there are then, with the current one.
    pub log_max_files: u32,
    /// When it is started again.
    pub restart: Policy,
    /// The signal that ends it.
    pub stop_signal: i32,
    /// Milliseconds from that to SIGKILL; `u32::MAX` is for ever.
    pub stop_timeout: u32,
    /// It has an input.
    pub interactive: bool,
    /// Its input ends with that of the one who ran it.
    pub once: bool,
    /// It has a terminal.
    pub terminal: bool,
    /// Although its config.json says that it has none.
    pub add_terminal: bool,
    /// It is forgotten when it has ended.
    pub remove: bool,
    /// Who owns its pipes: its user, as the host has it.
    pub owner: (u32, u32),
    /// Its program and arguments, to be shown.
    pub command: Vec<String>,
    /// It has a network namespace of its own, so what its devices count is its own.
    pub own_network: bool,
    /// It says itself when it is ready.
    pub notify: bool,
    /// Where the service manager hears of it; empty is nowhere.
    pub notify_socket: String,
    /// The file that gets the container's pid; empty is none.
    pub pid_file: String,
}

/// A process: the number alone may be somebody else's one day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// The pid; 0 is none.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

impl Process {
    /// The process of that number.
    pub fn find(pid: i32) -> Self {
        let process = container::process(pid).ok().flatten();
        process.map_or_else(Self::default, |process| Self { pid, start_time: process.start_time })
    }

    /// Whether it is there, and not a zombie.
    pub fn lives(self) -> bool {
        let process = container::process(self.pid).ok().flatten();
        process.is_some_and(|process| process.start_time == self.start_time && !process.is_zombie)
    }

    /// How it has ended that is not our child, as a shell counts; [`UNKNOWN`] if nobody tells. As long as its parent has
    /// not asked, /proc does; afterwards the kernel may, if we had its pidfd before.
    pub fn exit_code(self, pidfd: Option<&OwnedFd>) -> u8 {
        let status = self.zombie_status().or_else(|| {
            let mut fds = [PollFd::new(pidfd?, PollFlags::empty())];
            // An error is as good as no answer.
            let _ = poll(&mut fds, Some(&REAPED));
            exit_status(pidfd?).ok().flatten()
        });
        match status.map(|status| (status & 0x7f, status >> 8 & 0xff)) {
            Some((0, code)) => u8::try_from(code).unwrap_or(UNKNOWN),
            Some((signal, _)) => u8::try_from(128 + signal).unwrap_or(UNKNOWN),
            None => UNKNOWN,
        }
    }

    /// The same as wait(2) encodes it, of a process that is dead and was not reaped.
    fn zombie_status(self) -> Option<i32> {
        let (start_time, status) = zombie(&read_file(&format!("/proc/{}/stat", self.pid)).ok()?)?;
        (start_time == self.start_time).then_some(status)
    }
}

/// From a line of /proc/PID/stat: when the process started, and its exit status if it is a zombie. The name, which may
/// hold any byte, ends at the last parenthesis; the state is field 3, those are 22 and 52 (proc_pid_stat(5)).
fn zombie(stat: &[u8]) -> Option<(u64, i32)> {
    let name = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = str::from_utf8(stat.get(name + 2..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    if fields.next()? != "Z" {
        return None;
    }
    let start_time = fields.nth(22 - 4)?.parse().ok()?;
    Some((start_time, fields.nth(52 - 23)?.parse().ok()?))
}

/// Where a container is, as its monitor has last said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Not started yet.
    #[default]
    Created,
    /// Started.
    Running,
    /// It has ended, and will be started again.
    Restarting,
    /// It has ended.
    Exited,
}

/// How a container fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// Where it is.
    pub phase: Phase,
    /// The boot in which this was said: processes of another one are gone.
    pub boot_id: String,
    /// Its first process.
    pub init: Process,
    /// The process that keeps it.
    pub monitor: Process,
    /// The process that holds what must not close.
    pub holder: Process,
    /// When `run` was called.
    pub created_at: String,
    /// When it was last started.
    pub started_at: String,
    /// When it last ended.
    pub finished_at: String,
    /// How it last ended, as a shell counts; 255 is not known.
    pub exit_code: u8,
    /// The kernel killed for want of memory.
    pub oom_killed: bool,
    /// How often its policy has started it again.
    pub restarts: u32,
    /// Why it could not be started, or kept.
    pub error: String,
}

fn load<T: DeserializeOwned + Default>(folder: &Folder, name: &str) -> Result<T> {
    let Some(bytes) = folder.read(name)? else { return Ok(T::default()) };
    let broken = |e| Error::new(ErrorKind::Os, format!("{}/{name}: {e}", folder.path()));
    serde_json::from_slice(&bytes).map_err(broken)
}

fn save<T: Serialize>(value: &T, folder: &Folder, name: &str) -> Result<()> {
    let broken = |e| Error::new(ErrorKind::Os, format!("{}/{name}: {e}", folder.path()));
    folder.write(name, &serde_json::to_vec(value).map_err(broken)?)
}

impl Options {
    /// Reads them.
    pub fn load(folder: &Folder) -> Result<Self> {
        load(folder, folder::OPTIONS)
    }

    /// Keeps them.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        save(self, folder, folder::OPTIONS)
    }

    /// Where the log is.
    pub fn log_path(&self, folder: &Folder) -> String {
        if self.log.is_empty() { format!("{}/{}", folder.path(), folder::LOG) } else { self.log.clone() }
    }
}

impl State {
    /// Reads it. Before the monitor has said anything there is nothing to be known.
    pub fn load(folder: &Folder) -> Result<Self> {
        load(folder, folder::STATE)
    }

    /// Keeps it.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        save(self, folder, folder::STATE)
    }
}

/// What is observed of a container, whatever was last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Not started yet.
    Created,
    /// It runs.
    Running,
    /// It runs, and stands still.
    Paused,
    /// It runs, and nobody keeps it.
    Unwatched,
    /// It has ended, and will be started again.
    Restarting,
    /// It has ended.
    Exited,
    /// It has ended or was about to be started, and nobody was there to tell.
    Lost,
}

impl Condition {
    /// Looks. With `store`, also at the freezer.
    pub fn observe(folder: &Folder, state: &State, store: Option<&Store>) -> Self {
        let same_boot = boot_id().is_ok_and(|boot| boot == state.boot_id);
        let watched = same_boot && state.monitor.lives();
        match state.phase {
            Phase::Exited => Self::Exited,
            Phase::Created if watched || state.boot_id.is_empty() => Self::Created,
            Phase::Restarting if watched => Self::Restarting,
            Phase::Created | Phase::Restarting => Self::Lost,
            Phase::Running => {
                let lives = same_boot && state.init.lives();
                let container = || container::Container::open(store?, folder.id()).ok()?.status().ok();
                match (watched, lives) {
                    (_, true) if container() == Some(Status::Paused) => Self::Paused,
                    // Dead, and its monitor is about to say so.
                    (true, _) => Self::Running,
                    (false, true) => Self::Unwatched,
                    (false, false) => Self::Lost,
                }
            }
        }
    }

    /// Whether there are processes to be signalled.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Unwatched)
    }

    /// One word, as Docker's `State.Status` has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running | Self::Unwatched => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Lost => "dead",
        }
    }

    /// A few words, as `docker ps` has them.
    pub fn words(self, state: &State, now: Time) -> String {
        let since = |text: &str| words(Time::parse(text).map_or(0, |then| now.seconds_since(then)));
        match self {
            Self::Created => "Created".to_owned(),
            Self::Running => format!("Up {}", since(&state.started_at)),
            Self::Paused => format!("Up {} (Paused)", since(&state.started_at)),
            Self::Unwatched => format!("Up {} (Unwatched)", since(&state.started_at)),
            Self::Restarting => format!("Restarting ({}) {} ago", state.exit_code, since(&state.finished_at)),
            Self::Exited if state.finished_at.is_empty() => format!("Exited ({})", state.exit_code),
            Self::Exited => format!("Exited ({}) {} ago", state.exit_code, since(&state.finished_at)),
            Self::Lost => "Dead".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_sys::rustix::process::{Pid, PidfdFlags, pidfd_open};

    #[test]
    fn a_condition_is_worded_as_docker_words_it() {
        let state = State {
            started_at: "2026-11-21T10:00:00Z".to_owned(),
            finished_at: "2026-11-21T10:03:00.9Z".to_owned(),
            exit_code: 137,
            ..State::default()
        };
        let now = Time::parse("2026-11-21T10:05:00Z").unwrap();
        for (condition, want) in [
            (Condition::Created, "Created"),
            (Condition::Running, "Up 5 minutes"),
            (Condition::Paused, "Up 5 minutes (Paused)"),
            (Condition::Unwatched, "Up 5 minutes (Unwatched)"),
            (Condition::Restarting, "Restarting (137) About a minute ago"),
            (Condition::Exited, "Exited (137) About a minute ago"),
            (Condition::Lost, "Dead"),
        ] {
            assert_eq!(condition.words(&state, now), want);
        }
    }

    #[test]
    fn a_zombie_says_how_it_ended() {
        let fields = "1 12 12 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0";
        assert_eq!(zombie(format!("12 (a) Z) Z {fields} 2304\n").as_bytes()), Some((987, 2304)));
        assert_eq!(zombie(format!("12 (a) Z) S {fields} 0\n").as_bytes()), None);
        for broken in ["", "12 (x)", "12 (x) Z", "12 (x) Z 1 2"] {
            assert_eq!(zombie(broken.as_bytes()), None);
        }
        let mut child = std::process::Command::new("false").spawn().unwrap();
        let process = Process::find(i32::try_from(child.id()).unwrap());
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while process.lives() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        let pid = Pid::from_raw(process.pid).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert_eq!((process.zombie_status(), process.exit_code(None)), (Some(1 << 8), 1));
        child.wait().unwrap();
        assert_eq!((process.zombie_status(), process.exit_code(None)), (None, UNKNOWN));
        match exit_status(&pidfd) {
            Err(e) => println!("SKIP: PIDFD_GET_INFO: {e}"),
            Ok(_) => assert_eq!(process.exit_code(Some(&pidfd)), 1),
        }
    }

    #[test]
    fn a_process_is_more_than_its_number() {
        let own = Process::find(i32::try_from(std::process::id()).unwrap());
        assert!(own.lives());
        assert!(!Process { start_time: own.start_time + 1, ..own }.lives());
        assert!(!Process::default().lives());
    }
}
