//! Containers and their processes, as the task service knows them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orlop_sys::OwnedFd;
use orlop_sys::rustix::process::WaitIdStatus;

use crate::io::Uris;
use crate::message::{TaskStatus, Time};
use crate::oom::Watch;
use crate::options::Options;
use crate::server::Caller;
use crate::ttrpc::{Code, Status};
use crate::wire::Message;

/// Where a process is on its way. It only ever goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// An exec that was registered.
    Added,
    /// Init is being made. Nobody else knows the container yet.
    Creating,
    /// Init waits for its start.
    Created,
    /// It is being started. If it ends meanwhile, that is told after its start.
    Starting,
    /// The user's program runs.
    Running,
    /// It has ended, and containerd has not been told yet: something else comes first.
    Ended,
    /// It has ended, and everybody knows.
    Stopped,
}

/// The file in the bundle that says how init has ended, for `delete`.
pub const EXIT_FILE: &str = "exit-status";

/// How a process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exit {
    /// As a shell counts: 128 + n for a signal.
    pub status: u32,
    /// When.
    pub at: Time,
}

impl Exit {
    /// What wait(2) said, now.
    pub fn of(status: &WaitIdStatus) -> Self {
        let code = match status.terminating_signal() {
            Some(signal) => 128 + signal,
            None => status.exit_status().unwrap_or_default(),
        };
        Self { status: u32::try_from(code).unwrap_or_default(), at: Time::now() }
    }

    /// For [`EXIT_FILE`].
    pub fn text(&self) -> String {
        format!("{} {} {}\n", self.status, self.at.seconds, self.at.nanos)
    }

    /// What [`text`](Self::text) has written.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.strip_suffix('\n')?.split(' ');
        let mut next = || numbers.next()?.parse::<u64>().ok();
        let (status, seconds, nanos) = (u32::try_from(next()?).ok()?, next()?, u32::try_from(next()?).ok()?);
        (numbers.next().is_none() && nanos < 1_000_000_000).then_some(Self { status, at: Time { seconds, nanos } })
    }
}

/// One process.
#[derive(Debug)]
pub struct Process {
    /// Where it is.
    pub phase: Phase,
    /// Its pid, as soon as there is one.
    pub pid: u32,
    /// It is dead, and reaped.
    pub dead: bool,
    /// How it ended.
    pub exit: Exit,
    /// What the engine said of its streams.
    pub uris: Uris,
    /// Its streams.
    pub streams: Vec<u32>,
    /// Which of them is its input.
    pub input: Option<u32>,
    /// Its input was closed, maybe before it was open.
    pub input_closed: bool,
    /// The master side of its terminal.
    pub console: Option<OwnedFd>,
    /// The program that takes its output.
    pub logger: u32,
    /// The pipes that it reads.
    pub logged: Vec<OwnedFd>,
    /// Who waits for its end.
    pub waiters: Vec<Caller>,
    /// It has ended, and somebody still reads what it has said.
    pub reading: Option<Reading>,
    /// Calls of `Kill` that wait for it to have a pid.
    pub signals: Vec<(Caller, Vec<u8>)>,
    /// The document of an exec, until it is started.
    pub document: Vec<u8>,
    /// It is being deleted.
    pub deleting: bool,
}

impl Process {
    /// A process that is to be.
    pub fn new(phase: Phase, uris: Uris) -> Self {
        Self {
            phase,
            pid: 0,
            dead: false,
            exit: Exit::default(),
            uris,
            streams: Vec::new(),
            input: None,
            input_closed: false,
            console: None,
            logger: 0,
            logged: Vec::new(),
            waiters: Vec::new(),
            reading: None,
            signals: Vec::new(),
            document: Vec::new(),
            deleting: false,
        }
    }

    /// True while it, or what is becoming it, is alive.
    pub fn lives(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running)
    }

    /// True while it lives, and until its end is told.
    pub fn is_untold(&self) -> bool {
        self.lives() || self.phase == Phase::Ended
    }
}

/// How long an end is not told while nobody reads on...
const STALLED: Duration = Duration::from_millis(250);
/// ...and while somebody does. What outlives a process may hold its output, and never stop to say something.
const READ: Duration = Duration::from_secs(2);

/// Somebody reads what a process has said before its end. containerd's client closes its FIFOs as soon as it hears of an
/// end (`Cancel` of its package `cio`, before `Wait`), so it hears of it when it has read them.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    unread: u64,
    began: Instant,
    /// When there was less to read than before, or more.
    moved: Instant,
}

impl Reading {
    /// Nobody has looked yet.
    pub fn new(unread: u64, now: Instant) -> Self {
        Self { unread, began: now, moved: now }
    }

    /// So much is not read now. Whether the end can be told.
    pub fn is_over(&mut self, unread: u64, now: Instant) -> bool {
        if unread != self.unread {
            (self.unread, self.moved) = (unread, now);
        }
        unread == 0 || now >= self.moved + STALLED || now >= self.began + READ
    }

    /// When to look again: often at first, for most have read all at once.
    pub fn again(&self, now: Instant) -> Instant {
        now + (now.saturating_duration_since(self.began) / 8).min(Duration::from_millis(10))
    }
}

/// Whether a container is paused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pause {
    /// It is not.
    #[default]
    No,
    /// It will be.
    Pausing,
    /// It is.
    Paused,
    /// It won't be.
    Resuming,
}

/// The memory of a container, watched.
#[derive(Debug)]
pub struct Memory {
    /// The watch.
    pub watch: Watch,
    /// By which epoll knows it.
    pub number: u32,
    /// When to look although nothing is ready.
    pub again: Option<Instant>,
}

/// One container.
#[derive(Debug)]
pub struct Container {
    /// Its bundle's path.
    pub bundle: String,
    /// The runtime's options.
    pub options: Options,
    /// Its first process.
    pub init: Process,
    /// The others that engines have added, by their names.
    pub execs: BTreeMap<String, Process>,
    /// Whether it is paused.
    pub pause: Pause,
    /// The kernel ends all its processes with init.
    pub has_own_pid_namespace: bool,
    /// Its root file system was mounted by us.
    pub mounted: bool,
    /// The event that says that it was created, but for the pid.
    pub created: Message,
    /// Its memory, which is watched for kills.
    pub memory: Option<Memory>,
    /// A kill for want of memory that containerd has not been told of.
    pub has_untold_kill: bool,
    /// Nobody wants it any more, though it is being made still: who is to be told when nothing is left of it.
    pub given_up: Option<Vec<(Caller, Wish)>>,
}

/// By which call a container was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Its deletion.
    Delete,
    /// SIGKILL.
    Kill,
}

impl Container {
    /// A process by its name; init has none.
    pub fn process(&self, exec: &str) -> Option<&Process> {
        if exec.is_empty() { Some(&self.init) } else { self.execs.get(exec) }
    }

    /// The same, to change it.
    pub fn process_mut(&mut self, exec: &str) -> Option<&mut Process> {
        if exec.is_empty() { Some(&mut self.init) } else { self.execs.get_mut(exec) }
    }

    /// What a process is doing, in containerd's words.
    pub fn status(&self, process: &Process) -> TaskStatus {
        match process.phase {
            Phase::Added | Phase::Creating | Phase::Created | Phase::Starting => TaskStatus::Created,
            Phase::Ended | Phase::Stopped => TaskStatus::Stopped,
            Phase::Running => match self.pause {
                Pause::No => TaskStatus::Running,
                Pause::Pausing => TaskStatus::Pausing,
                Pause::Paused | Pause::Resuming => TaskStatus::Paused,
            },
        }
    }
}

/// All containers.
#[derive(Debug, Default)]
pub struct Containers(pub BTreeMap<String, Container>);

impl Containers {
    /// A container, also one that is being made.
    pub fn any(&self, id: &str) -> Result<&Container, Status> {
        self.0.get(id).ok_or_else(not_created)
    }

    /// The same, to change it.
    pub fn any_mut(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.0.get_mut(id).ok_or_else(not_created)
    }

    /// A container that was created.
    pub fn get(&self, id: &str) -> Result<&Container, Status> {
        self.0.get(id).filter(|container| container.init.phase > Phase::Creating).ok_or_else(not_created)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.0.get_mut(id).filter(|container| container.init.phase > Phase::Creating).ok_or_else(not_created)
    }

    /// A process of it.
    pub fn process_mut(&mut self, id: &str, exec: &str) -> Result<&mut Process, Status> {
        let missing = || Status::new(Code::NotFound, format!("process {exec} does not exist: not found"));
        self.get_mut(id)?.process_mut(exec).ok_or_else(missing)
    }

    /// Whose process this is: the container's id and the exec's.
    pub fn whose(&self, pid: u32) -> Option<(String, String)> {
        let is_it = |process: &Process| process.pid == pid && !process.dead;
        self.0.iter().find_map(|(id, container)| {
            if is_it(&container.init) {
                return Some((id.clone(), String::new()));
            }
            let exec = container.execs.iter().find(|(_, process)| is_it(process));
            exec.map(|(exec, _)| (id.clone(), exec.clone()))
        })
    }

    /// A program that took output has ended: its pid is nobody's. Whose output it was.
    pub fn forget_logger(&mut self, pid: u32) -> Option<(String, String)> {
        let has_it = |process: &Process| process.logger == pid;
        let (id, exec) = self.0.iter().find_map(|(id, container)| {
            if has_it(&container.init) {
                return Some((id.clone(), String::new()));
            }
            let exec = container.execs.iter().find(|(_, process)| has_it(process));
            exec.map(|(exec, _)| (id.clone(), exec.clone()))
        })?;
        self.0.get_mut(&id)?.process_mut(&exec)?.logger = 0;
        Some((id, exec))
    }
}

fn not_created() -> Status {
    Status::new(Code::NotFound, "container not created: not found")
}

/// A program that took the output of a process that is no more.
#[derive(Debug, Clone, Copy)]
pub struct Logger {
    /// Its pid.
    pub pid: u32,
    /// Until when it is left alone.
    pub until: Instant,
    /// What it is sent then.
    pub then: i32,
}

/// A delete that waits until what the process has written is on its way.
#[derive(Debug)]
pub struct Drain {
    /// The container.
    pub id: String,
    /// The process.
    pub exec: String,
    /// Who asked.
    pub caller: Caller,
    /// Until when.
    pub deadline: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_over_when_all_is_read_or_nothing_moves_or_it_takes_too_long() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        // What is not read at which time, in milliseconds, and whether it is over then.
        let all_read = [(0, 9, false), (1, 5, false), (2, 0, true)];
        let stalls = [(0, 9, false), (100, 5, false), (349, 5, false), (350, 5, true)];
        let more_comes = [(0, 9, false), (200, 99, false), (400, 9, false), (651, 9, true)];
        for steps in [&all_read[..], &stalls, &more_comes, &[(0, 0, true)]] {
            let mut reading = Reading::new(9, begin);
            for (ms, unread, over) in steps {
                assert_eq!(reading.is_over(*unread, at(*ms)), *over, "{steps:?} at {ms}");
            }
        }
        let mut reading = Reading::new(9, begin);
        let ends = (0..).find(|ms| reading.is_over(ms + 1, at(*ms)));
        assert_eq!(ends, Some(2000));
    }

    #[test]
    fn an_exit_is_written_and_read_again() {
        let exit = Exit { status: 137, at: Time { seconds: 1_700_000_000, nanos: 999_999_999 } };
        assert_eq!(Exit::parse(&exit.text()), Some(exit));
        for text in ["", "1 2", "1 2 3", "1 2 3 4\n", "1 2 1000000000\n", "-1 2 3\n", "x\n"] {
            assert_eq!(Exit::parse(text), None, "{text:?}");
        }
    }
}
