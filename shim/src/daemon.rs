//! The daemon: one thread that sleeps until something is ready, and does a little of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use orlop_sys::process::{adopt_fd, dead_child};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::io::write;
use orlop_sys::rustix::net::{SocketAddrUnix, getsockname};
use orlop_sys::rustix::process::{Pid, WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};
use orlop_sys::rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie, set_name};
use orlop_sys::signalfd::Signals;
use orlop_sys::{Errno, OwnedFd};

use crate::args::Args;
use crate::copy::Streams;
use crate::events::Events;
use crate::log;
use crate::pod::Pod;
use crate::poll::{Interest, Poll, Token};
use crate::server::Server;
use crate::service::Pending;
use crate::start::{LISTENER, TTRPC_ADDRESS};
use crate::task::{Containers, Drain, Exit, Logger};

/// How long the last events may take when all else is over.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long nothing has to happen before memory that was needed is given back.
const QUIET: Duration = Duration::from_secs(3);
/// For how long a daemon stays that has nothing to keep: an engine that was killed between `start` and a create, or between
/// a delete and Shutdown, may not know of it any more, and nobody else would end it.
const IDLE: Duration = Duration::from_secs(30);

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// See the [module](self). Its methods that answer calls are in [`service`](crate::service).
#[derive(Debug)]
pub struct Daemon {
    pub(crate) poll: Poll,
    pub(crate) server: Server,
    pub(crate) containers: Containers,
    pub(crate) streams: Streams,
    pub(crate) events: Events,
    pub(crate) jobs: Vec<Pending>,
    /// The pod that this shim keeps, if it was asked to.
    pub(crate) pod: Option<Pod>,
    pub(crate) drains: Vec<Drain>,
    /// Processes whose ends are told when their output is read.
    pub(crate) readings: BTreeSet<(String, String)>,
    pub(crate) loggers: Vec<Logger>,
    pub(crate) namespace: String,
    /// The last number that was given to a container's memory.
    pub(crate) memories: u32,
    /// Nothing is left to be done but to go.
    pub(crate) leaving: bool,
    /// When to give memory back, if nothing happens before.
    trim_at: Option<Instant>,
    /// When there has been nothing to keep for too long.
    idle_until: Option<Instant>,
    /// What is less important than this is not said.
    pub(crate) level: i32,
    signals: Signals,
    log: Option<OwnedFd>,
}

/// Serves on the socket that `start` has left us, until an engine wants no more.
///
/// # Errors
/// What the kernel refuses at the beginning.
pub fn run(args: &Args) -> Result<(), Errno> {
    orlop_sys::heap::give_back();
    // By the name under which people look for it; the file that we run from has none.
    let _ = set_name(c"containerd-shim");
    let listener = adopt_fd(LISTENER)?;
    orlop_sys::rustix::io::fcntl_setfd(&listener, orlop_sys::rustix::io::FdFlags::CLOEXEC)?;
    let address = std::env::var(TTRPC_ADDRESS).unwrap_or_default();
    let mut daemon = Daemon::new(listener, &args.namespace, &address)?;
    daemon.level = args.level;
    // Containers inherit it: each shim's are alone on a core with hyperthreads.
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty())
        && let Err(e) = create_core_scheduling_cookie(getpid(), CoreSchedulingScope::ThreadGroup)
    {
        daemon.log(log::WARN, &format!("core scheduling: {}", orlop::error::describe(e)));
    }
    daemon.serve()
}

impl Daemon {
    /// A daemon without containers, on `listener`. From now on this process reaps its orphans and reads its signals from
    /// an fd.
    pub fn new(listener: OwnedFd, namespace: &str, events: &str) -> Result<Self, Errno> {
        set_child_subreaper(Some(getpid()))?;
        let signals = Signals::block()?;
        let poll = Poll::new()?;
        poll.add(&signals, Token::Signals, Interest::IN)?;
        let bound = SocketAddrUnix::try_from(getsockname(&listener)?)?;
        let path = bound.path().and_then(|path| path.to_str().ok().map(str::to_owned));
        Ok(Self {
            server: Server::new(&poll, listener, path)?,
            poll,
            containers: Containers::default(),
            streams: Streams::default(),
            events: Events::new(events, namespace),
            jobs: Vec::new(),
            pod: None,
            drains: Vec::new(),
            readings: BTreeSet::new(),
            loggers: Vec::new(),
            namespace: namespace.to_owned(),
            memories: 0,
            leaving: false,
            trim_at: None,
            idle_until: None,
            level: log::INFO,
            signals,
            log: None,
        })
    }

    /// Serves until it is time to leave.
    pub fn serve(mut self) -> Result<(), Errno> {
        let mut ready = Vec::new();
        let mut farewell = None;
        loop {
            self.leave_if_idle(Instant::now());
            if self.leaving {
                let until = *farewell.get_or_insert_with(|| Instant::now() + FAREWELL);
                if self.jobs.is_empty() && (self.events.is_empty() || until <= Instant::now()) {
                    self.server.unlink();
                    return Ok(());
                }
            }
            self.poll.wait(self.timeout(farewell), &mut ready)?;
            if !ready.is_empty() {
                self.trim_at = Some(Instant::now() + QUIET);
            } else if self.trim_at.is_some_and(|at| at <= Instant::now()) {
                self.trim_at = None;
                orlop_sys::heap::trim();
            }
            for (token, what) in ready.drain(..) {
                self.turn(token, what);
            }
            self.streams.look();
            let now = Instant::now();
            self.look_at_memory(|memory| memory.again.is_some_and(|again| again <= now));
            self.events.turn(&self.poll, Interest::empty());
            self.settle_all();
            self.drain();
            self.end_loggers();
        }
    }

    fn leave_if_idle(&mut self, now: Instant) {
        let has_nothing = self.containers.0.is_empty() && self.pod.is_none();
        if !has_nothing || !self.jobs.is_empty() || !self.events.is_empty() {
            self.idle_until = None;
        } else if *self.idle_until.get_or_insert(now + IDLE) <= now && !self.leaving {
            self.log(log::WARN, "nothing has been left to this shim to keep, so it ends");
            self.leaving = true;
        }
    }

    fn turn(&mut self, token: Token, what: Interest) {
        match token {
            Token::Listener => self.server.accept(&self.poll),
            Token::Connection(place) => {
                for (caller, request) in self.server.receive(&self.poll, place, what) {
                    self.call(caller, &request);
                }
            }
            Token::Signals => self.read_signals(),
            Token::Stream(number) => self.streams.turn(&self.poll, number),
            Token::Events => self.events.turn(&self.poll, what),
            Token::Memory(number) => self.look_at_memory(|memory| memory.number == number),
        }
    }

    /// Until when to sleep, if nothing happens.
    fn timeout(&self, farewell: Option<Instant>) -> Option<Duration> {
        let drains = self.drains.iter().map(|drain| drain.deadline);
        let loggers = self.loggers.iter().map(|logger| logger.until);
        let memories = self.containers.0.values().filter_map(|container| container.memory.as_ref()?.again);
        let now = Instant::now();
        let reading =
            |(id, exec): &(String, String)| Some(self.containers.0.get(id)?.process(exec)?.reading?.again(now));
        let readings = self.readings.iter().filter_map(reading);
        let others = [self.streams.deadline(), self.events.deadline(), self.trim_at, self.idle_until, farewell];
        let next = drains.chain(loggers).chain(memories).chain(readings).chain(others.into_iter().flatten()).min()?;
        // A little late rather than a little early, and again.
        Some(next.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.next() {
            match signal {
                SIGCHLD => self.reap(),
                SIGTERM | SIGINT => self.leaving = true,
                _ => {}
            }
        }
    }

    /// Reaps whoever is dead. A child keeps its number until it is reaped, so whose it was is looked up before.
    fn reap(&mut self) {
        while let Ok(Some(pid)) = dead_child() {
            let number = pid.as_raw_nonzero().get().unsigned_abs();
            // What a job has made becomes ours at the moment in which the job ends: if this is such a process, its job is
            // dead too, and says so.
            self.finish_jobs();
            match self.containers.whose(number) {
                Some((id, exec)) => self.reap_now(number, &id, &exec),
                None => {
                    // A job that was finished just now, a program that took output, or an orphan.
                    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
                    self.loggers.retain(|logger| logger.pid != number);
                    if let Some((id, exec)) = self.containers.forget_logger(number) {
                        self.lost_logger(&id, &exec);
                    }
                }
            }
        }
    }

    /// Reaps a process of a container, which is dead.
    pub(crate) fn reap_now(&mut self, number: u32, id: &str, exec: &str) {
        let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else { return };
        if let Ok(Some(status)) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            self.exited(id, exec, Exit::of(&status));
        }
    }

    fn finish_jobs(&mut self) {
        let mut at = 0;
        while let Some(pending) = self.jobs.get(at) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            match waitid(WaitId::Pid(pending.job.pid), options) {
                Ok(None) | Err(Errno::INTR) => at += 1,
                Ok(Some(_)) | Err(_) => {
                    let pending = self.jobs.remove(at);
                    self.finish(pending);
                }
            }
        }
    }

    /// Says something where containerd reads it: the FIFO `log` in the bundle that we were started in. Nobody reads while
    /// containerd is away, and then it is lost rather than waited for.
    pub(crate) fn log(&mut self, level: i32, text: &str) {
        if level < self.level {
            return;
        }
        if self.log.is_none() {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            self.log = openat(CWD, "log", flags, Mode::empty()).ok();
        }
        let line = log::line(level, text, &self.namespace);
        if let Some(log) = &self.log
            && matches!(write(log, line.as_bytes()), Err(Errno::PIPE))
        {
            self.log = None;
        }
    }
}
