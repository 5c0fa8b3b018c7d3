//! The worker: this program, started once more, in a jail, for one task with hostile bytes.
//!
//! The parent starts `/proc/self/exe --worker` with one end of a socket as its standard input and sends the task and the
//! descriptors that it is about. The worker shuts itself in ([`crate::jail`]), does the task, and answers with the result
//! or an error. Nothing that it says is trusted beyond its type: what it made is checked by the parent.
//!
//! Messages (`SOCK_SEQPACKET`, so each is whole): from the parent the task as JSON with up to 253 descriptors, further
//! descriptors with messages of one byte; from the worker a letter and a payload.

use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::dir::Dir;
use crate::error::{At, Error, ErrorKind, Result};
use crate::jail::{self, Work};
use crate::{commit, directory, ingest, json};

/// What a worker does. Each has its descriptors, in the order that its `work` function documents.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Task {
    /// A layer's blob becomes a tar and a table ([`ingest::work`]).
    Ingest(ingest::Task),
    /// Tables become a merged index ([`ingest::merge`]).
    Merge(ingest::Merge),
    /// Merged layers become files ([`directory::work`]).
    Directory(directory::Task),
    /// A container's changes become a layer, or lines ([`commit::work`]).
    Commit(commit::Task),
    /// Nothing: says what the jail is made of on this machine.
    Probe,
    /// Tries to get out.
    #[cfg(test)]
    Escape(tests::Attempt),
}

impl Task {
    /// What kind of jail it needs.
    fn work(&self) -> Work {
        match self {
            Self::Ingest(task) => Work::Ingest { max_output: task.max_output },
            Self::Merge(_) | Self::Probe => Work::Merge,
            Self::Directory(_) => Work::Directory,
            Self::Commit(_) => Work::Commit,
            #[cfg(test)]
            Self::Escape(attempt) => attempt.work,
        }
    }

    fn run(&self, fds: Vec<OwnedFd>, root: Option<Dir>, parent: &Parent, report: &jail::Report) -> Result<Vec<u8>> {
        match self {
            Self::Ingest(task) => answer(&ingest::work(task, fds, parent)?),
            Self::Merge(task) => answer(&ingest::merge(task, fds)?),
            Self::Directory(task) => answer(&directory::work(task, fds, root.as_ref())?),
            Self::Commit(task) => answer(&commit::work(task, fds, root.as_ref())?),
            Self::Probe => answer(report),
            #[cfg(test)]
            Self::Escape(attempt) => answer(&attempt.make()),
        }
    }
}

fn answer(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).at(|| "write the result")
}

/// Where the worker lives.
#[derive(Debug, Clone, Copy)]
pub enum Jail<'a> {
    /// In an empty directory: it has nothing but its descriptors.
    Nothing,
    /// In this directory, which is its root.
    Into(&'a Dir),
}

/// The first message.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    task: Task,
    /// How many descriptors come, this message's included; with `into`, the first is the root.
    fds: usize,
    into: bool,
    parent: i32,
}

/// The most descriptors that one message can carry (unix(7), `SCM_MAX_FD`).
const FDS_A_MESSAGE: usize = 253;
/// The longest message.
const MAX_MESSAGE: usize = 64 << 10;
/// The most descriptors that a task can have.
const MAX_FDS: usize = 4096;

const PROGRESS: u8 = b'p';
const RESULT: u8 = b'r';
const ERROR: u8 = b'e';

/// The program that is started as the worker, for programs that use this library and don't enter [`main`] themselves:
/// the path of `orlop-bundle`. Without it, it is the program that runs.
pub fn set_program(path: PathBuf) {
    // The first one stays.
    let _ = PROGRAM.set(path);
}

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// A worker, seen from its parent. Dropped, it is killed and reaped. It also ends when the thread that started it does
/// (prctl(2), `PR_SET_PDEATHSIG`).
#[derive(Debug)]
pub struct Worker {
    child: Child,
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// What a worker says.
#[derive(Debug)]
pub enum Heard<T> {
    /// So far it is; what is counted depends on the task.
    Progress(u64),
    /// It is done, and its process is gone.
    Done(T),
}

impl Worker {
    /// Starts a worker with `task`, which works on `fds`.
    pub fn start(task: &Task, fds: &[BorrowedFd<'_>], jail: Jail<'_>) -> Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .at(|| "make a socket for the worker")?;
        let program = PROGRAM.get().map_or_else(|| "/proc/self/exe".into(), |path| path.clone().into_os_string());
        let mut command = Command::new::<OsString>(program);
        command.args(ARGUMENTS).env_clear().current_dir("/").stdin(theirs).stdout(Stdio::null());
        // Words of a worker are for whoever debugs it; to others they may be an attack on their terminal.
        command.stderr(if cfg!(debug_assertions) { Stdio::inherit() } else { Stdio::null() });
        let child = command.spawn().at(|| "start the worker")?;
        // The command holds the worker's end of the socket.
        drop(command);
        let worker = Self { child, socket: ours, buffer: vec![0; MAX_MESSAGE] };
        let mut all = Vec::new();
        if let Jail::Into(dir) = jail {
            all.push(dir.as_fd());
        }
        all.extend_from_slice(fds);
        if all.len() > MAX_FDS {
            return Err(Error::unsupported(format!("worker: more than {MAX_FDS} files")));
        }
        let start = Start {
            task: task.clone(),
            fds: all.len(),
            into: matches!(jail, Jail::Into(_)),
            parent: rustix::process::getpid().as_raw_pid(),
        };
        let start = serde_json::to_vec(&start).at(|| "write the task")?;
        let mut chunks = all.chunks(FDS_A_MESSAGE);
        worker.send_fds(&start, chunks.next().unwrap_or_default())?;
        for chunk in chunks {
            worker.send_fds(b"f", chunk)?;
        }
        Ok(worker)
    }

    fn send_fds(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_A_MESSAGE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::invalid("worker: too many files for one message"));
        }
        retry(|| rustix::net::sendmsg(&self.socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL))
            .at(|| "send to the worker")?;
        Ok(())
    }

    /// Waits for what it says next.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<Heard<T>> {
        // A worker that ends before it took all that it was told resets the connection, which is reported once, before what
        // it said last.
        let n = loop {
            match retry(|| rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())) {
                Err(Errno::CONNRESET) => {}
                got => break got.map(|(n, _)| n),
            }
        };
        let message = self.buffer.get(..n.at(|| "hear the worker")?).unwrap_or_default();
        match message {
            [PROGRESS, count @ ..] => match count.try_into() {
                Ok(count) => Ok(Heard::Progress(u64::from_le_bytes(count))),
                Err(_) => Err(odd()),
            },
            [RESULT, value @ ..] => {
                let value = json::parse("the worker's result", value)?;
                let status = self.child.wait().at(|| "wait for the worker")?;
                if status.success() { Ok(Heard::Done(value)) } else { Err(ended(status)) }
            }
            [ERROR, value @ ..] => {
                let (kind, text): (String, String) = json::parse("the worker's error", value)?;
                Err(Error::new(kind_of(&kind), readable(&text)))
            }
            [] => Err(ended(self.child.wait().at(|| "wait for the worker")?)),
            _ => Err(odd()),
        }
    }

    /// Waits for its result, and doesn't listen to progress.
    pub fn wait<T: DeserializeOwned>(mut self) -> Result<T> {
        loop {
            if let Heard::Done(value) = self.hear()? {
                return Ok(value);
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Gone already, in most cases.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The parent, seen from the worker: its standard input.
#[derive(Debug)]
pub struct Parent(());

impl Parent {
    /// Says how far the task is.
    pub fn progress(&self, count: u64) -> Result<()> {
        self.say(PROGRESS, &count.to_le_bytes())
    }

    fn say(&self, letter: u8, payload: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(1 + payload.len());
        message.push(letter);
        message.extend_from_slice(payload);
        retry(|| rustix::net::send(std::io::stdin(), &message, SendFlags::NOSIGNAL)).at(|| "answer")?;
        Ok(())
    }
}

/// What `--worker` runs: one task, from the socket that is the standard input.
pub fn main() -> ExitCode {
    let parent = Parent(());
    let done = work(&parent);
    let said = match &done {
        Ok(result) => parent.say(RESULT, result),
        Err(e) => {
            let text: String = e.to_string().chars().take(4096).collect();
            answer(&(kind_name(e.kind()), text)).and_then(|value| parent.say(ERROR, &value))
        }
    };
    if done.is_ok() && said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(parent: &Parent) -> Result<Vec<u8>> {
    // Before anything is received: what was inherited is not for us.
    jail::close_all()?;
    let (start, mut fds) = receive()?;
    let root = if start.into {
        if fds.is_empty() {
            return Err(Error::invalid("worker: no root"));
        }
        Some(Dir::from(fds.remove(0)))
    } else {
        None
    };
    let (root, report) = jail::enter(start.task.work(), root, start.parent, fds.len())?;
    start.task.run(fds, root, parent, &report)
}

fn receive() -> Result<(Start, Vec<OwnedFd>)> {
    let (mut message, mut fds) = (vec![0; MAX_MESSAGE], Vec::new());
    let n = receive_part(&mut message, &mut fds)?;
    let start: Start = json::parse("the task", message.get(..n).unwrap_or_default())?;
    while fds.len() < start.fds {
        let before = fds.len();
        receive_part(&mut [0; 1], &mut fds)?;
        if fds.len() == before {
            return Err(Error::invalid("worker: files are missing"));
        }
    }
    Ok((start, fds))
}

fn receive_part(message: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_A_MESSAGE))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let stdin = std::io::stdin();
    let mut buffers = [IoSliceMut::new(message)];
    let got = retry(|| rustix::net::recvmsg(&stdin, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC))
        .at(|| "receive the task")?;
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Error::invalid("worker: the task is cut off"));
    }
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(got.bytes)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn odd() -> Error {
    Error::new(ErrorKind::Os, "worker: said something odd")
}

/// Why a worker ended without a result.
fn ended(status: std::process::ExitStatus) -> Error {
    let text = match (status.signal(), status.code()) {
        (Some(31), _) => "worker: stopped by its system call filter".to_owned(),
        (Some(signal), _) => format!("worker: ended by signal {signal}"),
        (None, code) => format!("worker: ended with status {}", code.unwrap_or_default()),
    };
    Error::new(ErrorKind::Os, text)
}

/// The worker's words may be an attacker's: one line, no control characters.
fn readable(text: &str) -> String {
    text.chars().take(4096).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

const KINDS: [(ErrorKind, &str); 8] = [
    (ErrorKind::Invalid, "invalid"),
    (ErrorKind::NotFound, "not-found"),
    (ErrorKind::AlreadyExists, "already-exists"),
    (ErrorKind::InUse, "in-use"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::Denied, "denied"),
    (ErrorKind::Network, "network"),
    (ErrorKind::Os, "os"),
];

fn kind_name(kind: ErrorKind) -> &'static str {
    KINDS.iter().find(|(k, _)| *k == kind).map_or("os", |(_, name)| name)
}

fn kind_of(name: &str) -> ErrorKind {
    KINDS.iter().find(|(_, n)| *n == name).map_or(ErrorKind::Os, |(kind, _)| *kind)
}

/// What the jail is made of on this machine: which of its layers are missing, for people who debug.
pub fn probe() -> Result<jail::Report> {
    Worker::start(&Task::Probe, &[], Jail::Nothing)?.wait()
}

#[cfg(not(test))]
const ARGUMENTS: [&str; 1] = ["--worker"];
/// In unit tests the program that runs is the test harness, and the worker is one of its tests; with one thread, that is run
/// on the main one.
#[cfg(test)]
const ARGUMENTS: [&str; 5] =
    ["worker::tests::the_worker_of_these_tests", "--exact", "--ignored", "--test-threads=1", "--nocapture"];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A way out of the jail.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Attempt {
        pub(super) work: Work,
        way: Way,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    enum Way {
        /// Nothing: shows that the task itself gets through.
        Stay,
        /// Opens a file of the machine.
        Open,
        /// Opens one through `..`.
        OpenAbove,
        /// Makes a socket.
        Socket,
        /// Starts a program.
        Execute,
        /// Signals its parent.
        Kill,
        /// Mounts something.
        Mount,
        /// Becomes root.
        BecomeRoot,
        /// Raises a limit.
        RaiseLimit,
        /// Makes a descriptor that can only be appended to one that can do more.
        Rewrite,
        /// Makes a user namespace.
        UserNamespace,
        /// Looks into another process.
        Ptrace,
    }

    impl Attempt {
        /// Says how it went, if it is still there to do so.
        pub(super) fn make(self) -> String {
            let went = match self.way {
                Way::Stay => return "stayed".to_owned(),
                Way::Open => std::fs::File::open("/etc/passwd").map(drop).map_err(|e| e.to_string()),
                Way::OpenAbove => {
                    std::fs::File::open("../../../../../../etc/passwd").map(drop).map_err(|e| e.to_string())
                }
                Way::Socket => rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)
                    .map(drop)
                    .map_err(|e| e.to_string()),
                Way::Execute => Command::new("/bin/true").status().map(drop).map_err(|e| e.to_string()),
                Way::Kill => rustix::process::kill_process(
                    rustix::process::getppid().unwrap_or(rustix::process::Pid::INIT),
                    rustix::process::Signal::CONT,
                )
                .map_err(|e| e.to_string()),
                Way::Mount => rustix::mount::mount("tmpfs", "/", "tmpfs", rustix::mount::MountFlags::empty(), None)
                    .map_err(|e| e.to_string()),
                Way::BecomeRoot => nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).map_err(|e| e.to_string()),
                Way::RaiseLimit => rustix::process::setrlimit(
                    rustix::process::Resource::Nofile,
                    rustix::process::Rlimit { current: Some(1), maximum: Some(1) },
                )
                .map_err(|e| e.to_string()),
                Way::Rewrite => {
                    rustix::fs::fcntl_setfl(std::io::stdin(), rustix::fs::OFlags::empty()).map_err(|e| e.to_string())
                }
                Way::UserNamespace => {
                    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(|e| e.to_string())
                }
                Way::Ptrace => {
                    rustix::process::pidfd_open(rustix::process::Pid::INIT, rustix::process::PidfdFlags::empty())
                        .map(drop)
                        .map_err(|e| e.to_string())
                }
            };
            match went {
                Ok(()) => "out".to_owned(),
                Err(e) => e,
            }
        }
    }

    #[test]
    #[ignore = "the worker of the other tests, started by them"]
    fn the_worker_of_these_tests() {
        if rustix::net::sockopt::socket_type(std::io::stdin()) != Ok(SocketType::SEQPACKET) {
            return;
        }
        // Not std::process::exit: it takes away what the harness's other thread stands on. What failed was told.
        let _ = main();
    }

    fn attempt(work: Work, way: Way, root: Option<&Dir>) -> Result<String> {
        let jail = root.map_or(Jail::Nothing, Jail::Into);
        Worker::start(&Task::Escape(Attempt { work, way }), &[], jail)?.wait()
    }

    /// Ways out that end the worker.
    const FATAL: [Way; 9] = [
        Way::Socket,
        Way::Execute,
        Way::Kill,
        Way::Mount,
        Way::BecomeRoot,
        Way::RaiseLimit,
        Way::Rewrite,
        Way::UserNamespace,
        Way::Ptrace,
    ];

    #[test]
    fn a_worker_without_a_tree_has_no_way_out() {
        for work in [Work::Ingest { max_output: 1 << 20 }, Work::Merge] {
            assert_eq!(attempt(work, Way::Stay, None).unwrap(), "stayed");
            for way in [Way::Open, Way::OpenAbove] {
                assert!(attempt(work, way, None).unwrap().starts_with("Permission denied"), "{work:?} {way:?}");
            }
            for way in FATAL {
                let said = attempt(work, way, None).unwrap_err().to_string();
                assert_eq!(said, "worker: stopped by its system call filter", "{work:?} {way:?}");
            }
        }
    }

    #[test]
    fn a_worker_in_a_tree_sees_that_tree_alone() {
        let tree = Scratch::new("jail");
        // The harness has threads, so it gets no user namespace, which others than root need for the rest: then it is
        // Landlock that says no.
        let no = if probe().unwrap().namespaces.is_none() { "No such file" } else { "Permission denied" };
        for work in [Work::Directory, Work::Commit] {
            assert_eq!(attempt(work, Way::Stay, Some(&tree.dir)).unwrap(), "stayed");
            for way in [Way::Open, Way::OpenAbove] {
                assert!(attempt(work, way, Some(&tree.dir)).unwrap().starts_with(no), "{work:?} {way:?}");
            }
            for way in FATAL {
                let said = attempt(work, way, Some(&tree.dir)).unwrap_err().to_string();
                assert_eq!(said, "worker: stopped by its system call filter", "{work:?} {way:?}");
            }
        }
    }

    #[test]
    fn this_machine_says_what_its_jails_are_made_of() {
        let report = probe().unwrap();
        let powers = rustix::thread::capabilities(None).unwrap().effective;
        if powers.contains(rustix::thread::CapabilitySet::SYS_ADMIN) {
            assert_eq!(report.namespaces, None);
        } else {
            eprintln!("SKIP: needs CAP_SYS_ADMIN; {report:?}");
        }
    }

    #[test]
    fn what_a_worker_says_is_one_readable_line() {
        assert_eq!(readable("a\u{1b}[31m\nb"), "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(readable(&"x".repeat(10_000)).len(), 4096);
        for (kind, name) in KINDS {
            assert_eq!((kind_of(name), kind_name(kind)), (kind, name));
        }
        assert_eq!(kind_of("nonsense"), ErrorKind::Os);
    }

    /// A directory that goes away again.
    pub(crate) struct Scratch {
        pub(crate) path: PathBuf,
        pub(crate) dir: Dir,
    }

    #[allow(clippy::disallowed_methods, reason = "a test's own directory")]
    impl Scratch {
        pub(crate) fn new(name: &str) -> Self {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("orlop-{name}-{}-{number}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            let dir = Dir::make(&path).unwrap();
            Self { path, dir }
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a test's own directory")]
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
