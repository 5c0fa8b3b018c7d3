//! The monitor: one thread that keeps one container, from its first start to its last end.
//!
//! What takes time (making, starting, stopping and deleting a container) is done by a child ([`job`]), so
//! streams and orders are served meanwhile. Whatever happens is in `state.json` before anything follows from it.

use std::time::{Duration, Instant};

use orlop::cgroup::Oom;
use orlop::container::{Container, boot_id};
use orlop::error::{At, Error, ErrorKind, Result, describe};
use orlop::store::ContainerId;
use orlop_sys::process::{adopt_fd, dead_child};
use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::fs::{Mode, OFlags, mkfifoat, openat};
use orlop_sys::rustix::io::{fcntl_dupfd_cloexec, read, write};
use orlop_sys::rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, kill_process, pidfd_open, set_child_subreaper, waitid,
};
use orlop_sys::rustix::termios::{Winsize, tcsetwinsize};
use orlop_sys::rustix::thread::set_name;
use orlop_sys::signalfd::Signals;
use orlop_sys::{AsFd, Errno, OwnedFd};

use super::attach::{Clients, Input};
use super::container::{Place, failure_status};
use super::folder::{self, ATTACH, CTL, Folder, NOTIFY, Order, Root};
use super::launch::{Mode as Launch, REPORT, Report};
use super::log::Log;
use super::notify::{Notices, is_ready, notify};
use super::record::Stream;
use super::restart::BackOff;
use super::state::{Condition, Options, Phase, Process, State, UNKNOWN};
use super::stdio::{Output, hold, new_fifo, new_input, nonblocking, null, old_fifo, take};
use super::time::Time;
use crate::job::{self, Done, Job, Outcome};
use crate::task::Exit;
use crate::ttrpc::{Code, Status};

/// How long the last output of a container that has ended is waited for: somebody outside may hold its pipes.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a full disk is waited for then.
const DISK: Duration = Duration::from_secs(10);
/// How long the lock may be held by those who only look.
const LOCK: Duration = Duration::from_secs(2);

/// The status for what could not be done.
const FAILURE: u8 = 125;

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// What goes on.
#[derive(Debug)]
enum Doing {
    /// A job makes the container and starts it.
    Making(Job),
    /// It runs.
    Running,
    /// It has ended; a job removes what is left of it.
    Clearing(Job),
    /// What it wrote last is read, until then.
    Draining(Instant),
    /// It is started again then.
    Waiting(Instant),
    /// Nothing more.
    Over,
}

/// What is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Init,
    Orders,
    Output(usize),
    Input,
    Listener,
    Client(usize),
    Notices,
}

/// See the [module](self).
struct Monitor {
    root: Root,
    folder: Folder,
    options: Options,
    state: State,
    doing: Doing,
    signals: Signals,
    orders: OwnedFd,
    /// The beginning of an order.
    order: Vec<u8>,
    clients: Clients,
    /// Word from the container, if it has any.
    notices: Option<Notices>,
    /// It has said that it is ready.
    ready: bool,
    log: Log,
    outputs: Vec<Output>,
    terminal: Option<OwnedFd>,
    /// Where input goes: a pipe, or the terminal once more.
    input: Option<OwnedFd>,
    /// Input that was not taken yet.
    typed: Vec<u8>,
    /// The input is to be closed when that is taken.
    typed_all: bool,
    pidfd: Option<OwnedFd>,
    /// It was made by a monitor before us, so we are not told how it ends.
    adopted: bool,
    oom: Option<Oom>,
    back_off: BackOff,
    /// What is made now is made again.
    is_restart: bool,
    begun: Time,
    started: Instant,
    /// After this it is killed.
    deadline: Option<Instant>,
    /// We were told to end it, and so not to start it again.
    leaving: bool,
    /// The job that stops or kills it.
    stopper: Option<Job>,
    report: Option<Report>,
    size: Option<Winsize>,
}

/// Keeps the container `id`, until it ends for good.
///
/// # Errors
/// What makes it impossible to begin. What happens later is in the state.
pub fn run(state: &str, id: &str, launch: Launch) -> Result<()> {
    let _ = set_name(c"orlop-monitor");
    let report = Report::new(adopt_fd(REPORT).at(|| "the launcher's socket")?)?;
    let begun = Monitor::new(state, id);
    let mut monitor = match begun {
        Ok(monitor) => monitor,
        Err(error) => {
            report.failed(FAILURE, &error.to_string());
            return Ok(());
        }
    };
    let begun = monitor.begin(launch, &report);
    match begun {
        Ok(()) => {
            monitor.report = Some(report);
            monitor.serve();
        }
        Err(error) => {
            report.failed(FAILURE, &error.to_string());
            monitor.fail(&error.to_string());
        }
    }
    monitor.finish();
    Ok(())
}

fn lock(folder: &Folder) -> Result<()> {
    let until = Instant::now() + LOCK;
    loop {
        match folder.lock()? {
            true => return Ok(()),
            false if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            false => {
                let text = format!("{}: another monitor keeps this container", folder.id());
                return Err(Error::new(ErrorKind::AlreadyExists, text));
            }
        }
    }
}

fn make_orders(folder: &Folder) -> Result<OwnedFd> {
    let at = || format!("{}/{CTL}", folder.path());
    folder.remove(CTL)?;
    mkfifoat(folder, CTL, Mode::RUSR | Mode::WUSR).at(at)?;
    // Both ways, so that it has no end when a client leaves.
    openat(folder, CTL, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).at(at)
}

impl Monitor {
    fn new(state: &str, id: &str) -> Result<Self> {
        set_child_subreaper(Some(getpid())).at(|| "prctl PR_SET_CHILD_SUBREAPER")?;
        let signals = Signals::block().at(|| "signalfd")?;
        let root = Root::open(state)?;
        let folder = root.folder(&ContainerId::parse(id)?)?;
        lock(&folder)?;
        let options = Options::load(&folder)?;
        let mut state = State::load(&folder)?;
        state.monitor = Process::find(getpid().as_raw_nonzero().get());
        let path = options.log_path(&folder);
        let log = Log::open(&path, options.log_format, options.log_max_size, options.log_max_files)
            .map_err(|text| Error::new(ErrorKind::Os, text))?;
        Ok(Self {
            orders: make_orders(&folder)?,
            notices: options.notify.then(|| Notices::listen(&folder, options.owner)).transpose()?,
            clients: Clients::listen(&folder)?,
            ready: false,
            root,
            folder,
            options,
            state,
            doing: Doing::Over,
            signals,
            order: Vec::new(),
            log,
            outputs: Vec::new(),
            terminal: None,
            input: None,
            typed: Vec::new(),
            typed_all: false,
            pidfd: None,
            adopted: false,
            oom: None,
            back_off: BackOff::default(),
            is_restart: false,
            begun: Time::now(),
            started: Instant::now(),
            deadline: None,
            leaving: false,
            stopper: None,
            report: None,
            size: None,
        })
    }

    fn place(&self) -> Place<'_> {
        Place { options: &self.options, id: self.folder.id(), folder: self.folder.path() }
    }

    /// What is kept can't be written when the disk is full; the container goes on, and the next change tries again.
    fn save(&self) {
        let _ = self.state.save(&self.folder);
    }

    fn fail(&mut self, text: &str) {
        text.clone_into(&mut self.state.error);
    }

    fn begin(&mut self, launch: Launch, report: &Report) -> Result<()> {
        match launch {
            Launch::New => {
                self.state.boot_id = boot_id()?.to_owned();
                self.save();
                report.ready();
                match report.wait() {
                    Some(true) => self.clients.accept(true),
                    Some(false) => {}
                    // Nobody wants it any more.
                    None => {
                        self.options.remove = true;
                        return Ok(());
                    }
                }
                // How large its terminal is to be, perhaps.
                self.read_orders();
                self.make()
            }
            Launch::Again => {
                self.state.restarts = 0;
                self.make()
            }
            Launch::Adopt => {
                self.adopt()?;
                report.started(self.state.init.pid);
                Ok(())
            }
        }
    }

    /// Takes over a container whose monitor has died; or tells how it ended, as far as that is known.
    fn adopt(&mut self) -> Result<()> {
        let condition =
            Condition::observe(&self.folder, &State { monitor: Process::default(), ..self.state.clone() }, None);
        self.state.boot_id = boot_id()?.to_owned();
        self.adopted = true;
        if condition == Condition::Exited {
            return self.make();
        }
        if !condition.is_alive() {
            if self.state.phase == Phase::Running {
                self.ended(self.state.init.exit_code(None));
            } else {
                self.clear();
            }
            return Ok(());
        }
        let container = self.place().open()?;
        self.pidfd = container.pidfd()?;
        self.watch_memory(&container);
        self.doing = Doing::Running;
        if self.options.terminal {
            let terminal = take(self.state.holder)?;
            self.use_terminal(terminal)?;
        } else {
            for stream in [Stream::Stdout, Stream::Stderr] {
                self.outputs.push(Output::new(old_fifo(&self.folder, stream)?, stream));
            }
            if self.options.interactive && self.state.holder.lives() {
                self.input = Some(take(self.state.holder)?);
            }
        }
        self.save();
        Ok(())
    }

    /// Begins to make the container.
    fn make(&mut self) -> Result<()> {
        self.adopted = false;
        // A little early: nothing that it writes is older.
        self.begun = Time::now();
        self.state.error.clear();
        self.state.boot_id = boot_id()?.to_owned();
        self.save();
        let owner = self.options.owner;
        let (mut stdin, mut stdout, mut stderr) = (null()?, null()?, null()?);
        self.outputs.clear();
        self.close_input();
        if !self.options.terminal {
            for (stream, theirs) in [(Stream::Stdout, &mut stdout), (Stream::Stderr, &mut stderr)] {
                let (ours, fifo) = new_fifo(&self.folder, stream, owner)?;
                *theirs = fifo;
                self.outputs.push(Output::new(ours, stream));
            }
            if self.options.interactive {
                let (theirs, ours) = new_input(owner)?;
                stdin = theirs;
                self.input = Some(ours);
            }
        }
        let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let job = Job::start(stdio, &[], || self.place().make(self.size)).at(|| "fork")?;
        self.doing = Doing::Making(job);
        Ok(())
    }

    /// The job that made the container has ended.
    fn made(&mut self, outcome: Outcome) {
        // Not before: one that dies with us half made is no restart.
        if std::mem::take(&mut self.is_restart) {
            self.state.restarts += 1;
        }
        let done = match outcome {
            Ok(done) => done,
            Err(status) => {
                let code = failure_status(&status.message);
                if self.state.started_at.is_empty() {
                    if let Some(report) = &self.report {
                        report.failed(code, &status.message);
                    }
                    self.leaving = true;
                }
                self.ended(code);
                self.fail(&status.message);
                self.save();
                return;
            }
        };
        self.doing = Doing::Running;
        self.started = Instant::now();
        if let Some(report) = &self.report {
            done.notes.iter().for_each(|note| report.warning(note));
        }
        if let Err(error) = self.look_after(&done) {
            self.fail(&error.to_string());
            self.kill();
        }
        self.state.phase = Phase::Running;
        self.state.started_at = self.begun.short();
        self.state.oom_killed = false;
        // Best effort: what of an earlier run is there is no news.
        for name in [folder::EXIT, folder::OOM] {
            let _ = self.folder.remove(name);
        }
        self.save();
        if !self.options.notify {
            self.report_start();
        }
        if self.leaving {
            self.stop(self.options.stop_signal, self.options.stop_timeout);
        }
    }

    fn report_start(&self) {
        if let Some(report) = &self.report {
            report.started(self.state.init.pid);
        }
    }

    /// Passes on what the container says. That it is ready, its launcher says, who is the one that is heard at first.
    fn read_notices(&mut self) {
        while let Some(text) = self.notices.as_ref().and_then(Notices::next) {
            if is_ready(&text) {
                self.ready = true;
                self.report_start();
            }
            let rest: Vec<&str> = text.lines().filter(|line| *line != "READY=1").collect();
            if !rest.is_empty() && !self.options.notify_socket.is_empty() {
                // A service manager that does not listen misses it.
                let _ = notify(self.options.notify_socket.as_bytes(), &rest.join("\n"));
            }
        }
    }

    /// What is needed of a container that was made.
    fn look_after(&mut self, done: &Done) -> Result<()> {
        let number = i32::try_from(done.pid).unwrap_or_default();
        let pid = Pid::from_raw(number).ok_or(Errno::SRCH).at(|| "init")?;
        // Dead or not, it is our child and nobody has reaped it.
        self.state.init = Process::find(number);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).at(|| "init")?;
        if let Some(terminal) = &done.terminal {
            self.state.holder = hold(terminal, &pidfd)?;
            self.use_terminal(fcntl_dupfd_cloexec(terminal, 3).at(|| "the terminal")?)?;
        } else if let Some(input) = &self.input {
            self.state.holder = hold(input, &pidfd)?;
        }
        self.pidfd = Some(pidfd);
        if let Ok(container) = self.place().open() {
            self.watch_memory(&container);
        }
        Ok(())
    }

    fn use_terminal(&mut self, terminal: OwnedFd) -> Result<()> {
        let dup = || fcntl_dupfd_cloexec(&terminal, 3).at(|| "the terminal");
        nonblocking(&terminal)?;
        self.outputs = vec![Output::new(dup()?, Stream::Stdout)];
        self.input = Some(dup()?);
        self.terminal = Some(terminal);
        Ok(())
    }

    /// Best effort: without the controller nobody knows.
    fn watch_memory(&mut self, container: &Container) {
        self.oom = container.cgroup().ok().flatten().and_then(|cgroup| Oom::new(&cgroup).ok());
    }

    /// No more input: who holds the pipe with us must let go of it too.
    fn close_input(&mut self) {
        self.input = None;
        self.typed = Vec::new();
        self.typed_all = false;
        if self.terminal.is_none() {
            self.end_holder();
        }
    }

    fn end_holder(&mut self) {
        if self.state.holder.lives()
            && let Some(pid) = Pid::from_raw(self.state.holder.pid)
        {
            // Nobody else would: it sleeps.
            let _ = kill_process(pid, Signal::KILL);
        }
        self.state.holder = Process::default();
    }

    /// The container has ended, or could not be made.
    fn ended(&mut self, code: u8) {
        // First of all: its pipes are ours alone now, and would die with us.
        if self.log.again().is_none() && !self.clients.are_behind() {
            for output in self.outputs.iter_mut().filter(|output| !output.is_ended()) {
                output.turn(&mut self.log, &mut self.clients);
            }
        }
        self.pidfd = None;
        self.deadline = None;
        if let Some(mut oom) = self.oom.take() {
            self.state.oom_killed = oom.count().is_ok_and(|kills| kills.is_some_and(|kills| kills > 0));
        }
        self.state.exit_code = code;
        self.state.finished_at = Time::now().short();
        self.state.phase = if self.restarts() { Phase::Restarting } else { Phase::Exited };
        self.state.init = Process::default();
        self.end_holder();
        self.save();
        // As those who know conmon look for them; the state has them too.
        let _ = self.folder.write(folder::EXIT, code.to_string().as_bytes());
        if self.state.oom_killed {
            let _ = self.folder.write(folder::OOM, b"");
        }
        self.clear();
    }

    fn restarts(&self) -> bool {
        let stopped = self.leaving || self.folder.has(folder::STOP);
        self.options.restart.restarts(self.state.exit_code, stopped, self.state.restarts)
    }

    /// Begins to remove what is left of the container.
    fn clear(&mut self) {
        match self.job(|place| place.delete().map(|notes| Done { notes, ..Done::default() })) {
            Ok(job) => self.doing = Doing::Clearing(job),
            Err(error) => {
                self.fail(&error.to_string());
                self.doing = Doing::Over;
            }
        }
    }

    fn job(&self, work: impl FnOnce(Place<'_>) -> Result<Done>) -> Result<Job> {
        let null = null()?;
        let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
        Job::start(stdio, &[], || work(self.place()).map_err(|error| job::status(&error))).at(|| "fork")
    }

    /// Nothing is left of the container.
    fn cleared(&mut self, outcome: Outcome) {
        match outcome {
            Ok(done) if done.notes.is_empty() => {}
            Ok(done) => self.fail(&done.notes.join("; ")),
            Err(status) => self.fail(&status.message),
        }
        self.doing = Doing::Draining(Instant::now() + DRAIN);
        self.drain();
    }

    /// Goes on when all that it wrote is in the log.
    fn drain(&mut self) {
        let Doing::Draining(until) = self.doing else { return };
        let now = Instant::now();
        if self.clients.are_behind() {
            // There is more to read, and nobody outside is to blame.
            self.doing = Doing::Draining(now + DRAIN);
            return;
        }
        if now >= until {
            for output in &mut self.outputs {
                output.end(&mut self.log);
            }
        }
        if !self.outputs.iter().all(Output::is_ended) {
            return;
        }
        if !self.log.flush() && now < until + DISK {
            return;
        }
        if let Some(trouble) = self.log.trouble() {
            self.fail(&trouble);
        }
        self.outputs.clear();
        self.terminal = None;
        self.close_input();
        if self.restarts() {
            let pause = self.back_off.next(now.saturating_duration_since(self.started));
            self.state.phase = Phase::Restarting;
            self.doing = Doing::Waiting(now + pause);
        } else {
            self.state.phase = Phase::Exited;
            self.doing = Doing::Over;
        }
        self.save();
    }

    /// The pause is over.
    fn again(&mut self) {
        if !self.restarts() {
            self.state.phase = Phase::Exited;
            self.doing = Doing::Over;
            return;
        }
        self.is_restart = true;
        if let Err(error) = self.make() {
            self.fail(&error.to_string());
            self.state.phase = Phase::Exited;
            self.doing = Doing::Over;
        }
    }

    /// Asks the container to end; after `grace` milliseconds it is killed.
    fn stop(&mut self, signal: i32, grace: u32) {
        match self.doing {
            Doing::Running => {
                match self.job(|place| place.signal(signal).map(|()| Done::default())) {
                    Ok(job) => self.stopper = Some(job),
                    Err(error) => self.fail(&error.to_string()),
                }
                self.set_deadline(grace);
            }
            Doing::Making(_) => {
                self.leaving = true;
                self.set_deadline(grace);
            }
            Doing::Waiting(_) => self.doing = Doing::Waiting(Instant::now()),
            Doing::Clearing(_) | Doing::Draining(_) | Doing::Over => {}
        }
    }

    fn set_deadline(&mut self, grace: u32) {
        if grace != u32::MAX {
            self.deadline = Some(Instant::now() + Duration::from_millis(grace.into()));
        }
    }

    /// The grace is over.
    fn kill(&mut self) {
        self.deadline = None;
        match &self.doing {
            // A hook hangs, perhaps: what there is of the container is cleared away when the job is dead.
            Doing::Making(job) => drop(kill_process(job.pid, Signal::KILL)),
            Doing::Running => match self.job(|place| place.kill().map(|()| Done::default())) {
                Ok(job) => self.stopper = Some(job),
                Err(error) => self.fail(&error.to_string()),
            },
            _ => {}
        }
    }

    fn serve(&mut self) {
        let mut ready = Vec::new();
        while !matches!(self.doing, Doing::Over) {
            if let Err(errno) = self.poll(&mut ready) {
                self.fail(&format!("poll: {}", describe(errno)));
                return;
            }
            for (source, what) in ready.drain(..) {
                self.turn(source, what);
            }
            self.clients.sweep();
            let now = Instant::now();
            if self.log.again().is_some_and(|again| again <= now) {
                self.log.flush();
            }
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                self.kill();
            }
            match self.doing {
                Doing::Draining(_) => self.drain(),
                Doing::Waiting(until) if until <= now => self.again(),
                _ => {}
            }
        }
    }

    fn poll(&self, ready: &mut Vec<(Source, PollFlags)>) -> std::result::Result<(), Errno> {
        let mut sources = vec![Source::Signals, Source::Orders];
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.orders, PollFlags::IN)];
        if let (Some(pidfd), true) = (&self.pidfd, self.adopted) {
            sources.push(Source::Init);
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        // Who has not taken what there is gets no more.
        if self.log.again().is_none() && !self.clients.are_behind() {
            for (at, output) in self.outputs.iter().enumerate().filter(|(_, output)| !output.is_ended()) {
                sources.push(Source::Output(at));
                fds.push(PollFd::new(output, PollFlags::IN));
            }
        }
        if let (Some(input), false) = (&self.input, self.typed.is_empty()) {
            sources.push(Source::Input);
            fds.push(PollFd::new(input, PollFlags::OUT));
        }
        if let Some(notices) = &self.notices {
            sources.push(Source::Notices);
            fds.push(PollFd::new(notices, PollFlags::IN));
        }
        sources.push(Source::Listener);
        sources.extend((0..self.clients.count()).map(Source::Client));
        fds.extend(self.clients.watch(self.typed.is_empty()));
        let timeout = self.timeout();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        let found = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.extend(found.map(|(source, fd)| (*source, fd.revents())));
        Ok(())
    }

    /// Until when to sleep, if nothing happens.
    fn timeout(&self) -> Option<Timespec> {
        let doing = match self.doing {
            Doing::Draining(until) if self.log.again().is_none() => Some(until),
            Doing::Waiting(until) => Some(until),
            _ => None,
        };
        let all = [doing, self.deadline, self.log.again(), self.clients.deadline()];
        let next = all.into_iter().flatten().min()?;
        // A little late rather than a little early, and again.
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let secs = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        Some(Timespec { tv_sec: secs, tv_nsec: left.subsec_nanos().into() })
    }

    fn turn(&mut self, source: Source, what: PollFlags) {
        match source {
            Source::Signals => self.read_signals(),
            Source::Init => {
                if matches!(self.doing, Doing::Running)
                    && let Some(pidfd) = &self.pidfd
                {
                    self.ended(self.state.init.exit_code(Some(pidfd)));
                }
            }
            Source::Orders => self.read_orders(),
            Source::Output(at) => {
                if let Some(output) = self.outputs.get_mut(at) {
                    output.turn(&mut self.log, &mut self.clients);
                }
            }
            Source::Input => self.type_on(),
            Source::Notices => self.read_notices(),
            Source::Listener => self.clients.accept(false),
            Source::Client(at) => match self.clients.turn(at, what) {
                Input::Bytes(bytes) if self.input.is_some() => {
                    self.typed.extend_from_slice(&bytes);
                    self.type_on();
                }
                Input::End if self.options.once => {
                    self.typed_all = true;
                    self.type_on();
                }
                Input::Bytes(_) | Input::End | Input::None => {}
            },
        }
    }

    /// Hands input to the container, as far as it takes it.
    fn type_on(&mut self) {
        let Some(input) = &self.input else { return };
        match write(input, &self.typed) {
            Ok(n) => drop(self.typed.drain(..n)),
            Err(Errno::AGAIN | Errno::INTR) => return,
            // It has closed its end.
            Err(_) => self.typed.clear(),
        }
        if self.typed.is_empty() {
            self.typed = Vec::new();
            if self.typed_all && self.terminal.is_none() {
                self.close_input();
                self.save();
            }
        }
    }

    fn read_orders(&mut self) {
        let mut buffer = [0; 4096];
        let Ok(n) = read(&self.orders, &mut buffer[..]) else { return };
        self.order.extend_from_slice(buffer.get(..n).unwrap_or_default());
        while let Some(end) = self.order.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.order.drain(..=end).collect();
            match Order::parse(String::from_utf8_lossy(&line).trim_end()) {
                Some(Order::Resize { height, width }) => {
                    let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
                    self.size = Some(size);
                    if let Some(terminal) = &self.terminal {
                        // A terminal whose last user has gone has no size.
                        let _ = tcsetwinsize(terminal, size);
                    }
                }
                Some(Order::Reopen) => {
                    if let Err(e) = self.log.reopen() {
                        self.fail(&format!("reopen the log: {}", describe(e)));
                        self.save();
                    }
                }
                Some(Order::Stop { signal, grace }) => self.stop(signal, grace),
                None => {}
            }
        }
        // No order is so long.
        if self.order.len() > 4096 {
            self.order.clear();
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.next() {
            match signal {
                SIGCHLD => self.reap(),
                SIGTERM | SIGINT => {
                    self.leaving = true;
                    self.stop(self.options.stop_signal, self.options.stop_timeout);
                }
                _ => {}
            }
        }
    }

    /// Reaps whoever is dead. What a job has made becomes ours at the moment in which the job ends, so jobs go first.
    fn reap(&mut self) {
        self.finish_jobs();
        while let Ok(Some(pid)) = dead_child() {
            self.finish_jobs();
            let Ok(Some(status)) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) else {
                continue;
            };
            if matches!(self.doing, Doing::Running) && pid.as_raw_nonzero().get() == self.state.init.pid {
                self.ended(u8::try_from(Exit::of(&status).status).unwrap_or(UNKNOWN));
            }
        }
    }

    fn finish_jobs(&mut self) {
        if let Some(job) = self.stopper.take_if(|job| is_over(job))
            && let Err(status) = outcome(job)
            && status.code != Code::FailedPrecondition
        {
            self.fail(&status.message);
        }
        let (Doing::Making(job) | Doing::Clearing(job)) = &mut self.doing else { return };
        if !is_over(job) {
            return;
        }
        match std::mem::replace(&mut self.doing, Doing::Over) {
            Doing::Making(job) => self.made(outcome(job)),
            Doing::Clearing(job) => self.cleared(outcome(job)),
            other => self.doing = other,
        }
    }

    /// The last thing: nobody finds a door that leads nowhere.
    fn finish(mut self) {
        self.state.monitor = Process::default();
        if !matches!(self.doing, Doing::Running) {
            self.state.phase = Phase::Exited;
        }
        self.save();
        for name in [ATTACH, CTL, NOTIFY, Stream::Stdout.name(), Stream::Stderr.name()] {
            // They are harmless.
            let _ = self.folder.remove(name);
        }
        if self.options.remove {
            let _ = self.root.remove(&self.folder);
        }
        match &self.report {
            Some(report) if self.options.notify && !self.ready => {
                report.failed(self.state.exit_code.max(1), "the container has ended before it was ready");
            }
            Some(report) => report.exited(self.state.exit_code),
            None => {}
        }
    }
}

fn outcome(job: Job) -> Outcome {
    job.outcome().unwrap_or_else(|| Err(Status::new(Code::Unknown, "the runtime died unexpectedly")))
}

fn is_over(job: &Job) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(job.pid), options), Ok(None) | Err(Errno::INTR))
}
