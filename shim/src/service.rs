//! The task service: each method of containerd's versions 2 and 3.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orlop::cgroup::Cgroup;
use orlop::kill;
use orlop::store::ContainerId;
use orlop_sys::rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open};
use orlop_sys::rustix::termios::{Winsize, tcsetwinsize};
use orlop_sys::signal::pidfd_send_signal;
use orlop_sys::{BorrowedFd, Errno, OwnedFd, rustix};

use crate::daemon::Daemon;
use crate::events::Event;
use crate::io::{Ours, Stdio, Uris, to_nowhere};
use crate::job::{self, Done, Job, Outcome};
use crate::log;
use crate::message::{self, TaskStatus, any};
use crate::mounts::{self, Mount};
use crate::oom::Watch;
use crate::options::Options;
use crate::poll::Token;
use crate::runtime::Runtime;
use crate::sandbox;
use crate::server::Caller;
use crate::start::{read_file, write_file};
use crate::stats;
use crate::task::{self, Container, Drain, Exit, Logger, Memory, Pause, Phase, Process, Reading, Wish};
use crate::ttrpc::{Code, Request, Status};
use crate::wire::Message;

/// How long a delete waits for output that is on its way.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a program that takes output may go on after its process's end, before it is asked to end, and then killed.
const LOGGER: Duration = Duration::from_secs(12);

/// How many calls may wait for the end of a create.
const MAX_EARLY: usize = 64;
/// How many processes a container may have beside init, dead ones too.
const MAX_EXECS: usize = 16 << 10;
/// How long the documents of those may be together that were not started.
const MAX_DOCUMENTS: usize = 16 << 20;
/// How many may wait for the end of one process.
const MAX_WAITERS: usize = 4096;
/// How many processes of a create that is given up are looked for. The rest dies with its cgroup.
const MAX_FAMILY: usize = 1024;

const TERM: i32 = 15;
const KILL: i32 = 9;

/// What a method says: an answer now, or later.
pub(crate) type Reply = Result<Option<Message>, Status>;

/// A job, and what becomes of its outcome.
#[derive(Debug)]
pub struct Pending {
    /// The job.
    pub job: Job,
    id: String,
    exec: String,
    what: What,
    caller: Option<Caller>,
    /// The streams that wait for a terminal.
    ours: Option<Ours>,
}

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Create,
    Start,
    Exec,
    Delete,
    Kill,
    Pause,
    Resume,
    Update,
    /// Of a create.
    Undo,
}

fn precondition(text: impl Into<String>) -> Status {
    Status::new(Code::FailedPrecondition, text)
}

fn too_many() -> Status {
    Status::new(Code::ResourceExhausted, "too many wait for this already")
}

fn no_fork(errno: Errno) -> Status {
    Status::new(Code::Unknown, format!("fork: {}", orlop::error::describe(errno)))
}

fn died() -> Status {
    Status::new(Code::Unknown, "the runtime died unexpectedly")
}

/// Kills a child of ours and all that it has started, as far as the kernel still knows whose they are.
fn end_family(first: Pid) {
    let mut family = vec![first];
    let mut at = 0;
    while let Some(pid) = family.get(at).copied() {
        // One that is stopped starts nobody else. Gone already, if it fails.
        let _ = kill_process(pid, Signal::STOP);
        let number = pid.as_raw_nonzero();
        let children = read_file(&format!("/proc/{number}/task/{number}/children")).unwrap_or_default();
        let children = String::from_utf8_lossy(&children);
        family.extend(children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)));
        at += 1;
        if at >= MAX_FAMILY {
            break;
        }
    }
    for pid in family {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Sends a signal to a child of ours, which nobody else can have reaped.
fn signal(pid: u32, number: i32) -> Result<(), Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_send_signal(pidfd_open(pid, PidfdFlags::empty())?, number)
}

impl Daemon {
    /// Answers a call.
    pub fn call(&mut self, caller: Caller, message: &[u8]) {
        let reply = match Request::read(message) {
            Ok(request) => self.dispatch(caller, &request),
            Err(malformed) => Err(malformed.into()),
        };
        self.reply(caller, reply);
    }

    fn reply(&mut self, caller: Caller, reply: Reply) {
        match reply {
            Ok(None) => {}
            Ok(Some(answer)) => self.server.answer(&self.poll, caller, Ok(&answer)),
            Err(status) => self.server.answer(&self.poll, caller, Err(&status)),
        }
    }

    fn dispatch(&mut self, caller: Caller, request: &Request<'_>) -> Reply {
        let unknown = || {
            let text = format!("/{}/{} is not supported", request.service, request.method);
            Err(Status::new(Code::Unimplemented, text))
        };
        let payload = request.payload;
        if request.service == sandbox::SERVICE {
            return self.sandbox(caller, request.method, payload).unwrap_or_else(unknown);
        }
        if !matches!(request.service, "containerd.task.v2.Task" | "containerd.task.v3.Task") {
            return unknown();
        }
        if self.level <= log::DEBUG {
            // All but one of them begin with the two names.
            let of = message::Process::read(payload).unwrap_or_default();
            self.log(log::DEBUG, &format!("{} {} {}", request.method, of.id, of.exec_id));
        }
        match request.method {
            "State" => self.state(payload),
            "Create" => self.create(caller, payload),
            "Start" => self.start(caller, payload),
            "Delete" => self.delete(caller, payload),
            "Pids" => self.pids(payload),
            "Pause" => self.pause(caller, payload),
            "Resume" => self.resume(caller, payload),
            "Checkpoint" => Err(no_checkpoint()),
            "Kill" => self.kill(caller, payload),
            "Exec" => self.exec(payload),
            "ResizePty" => self.resize(payload),
            "CloseIO" => self.close_io(payload),
            "Update" => self.update(caller, payload),
            "Wait" => self.wait(caller, payload),
            "Stats" => self.stats(payload),
            "Connect" => self.connect(payload),
            "Shutdown" => self.shutdown(payload),
            _ => unknown(),
        }
    }

    fn shutdown(&mut self, payload: &[u8]) -> Reply {
        let request = message::Shutdown::read(payload)?;
        // Who has given up waiting for a create wants no more of it; else it would keep us for as long as it likes.
        let is_given_up = |id: &str, container: &Container| id == request.id && container.init.phase == Phase::Creating;
        self.leaving |= self.containers.0.iter().all(|(id, container)| is_given_up(id, container));
        if self.containers.0.get(request.id).is_some_and(|container| is_given_up(request.id, container)) {
            self.give_up(request.id, None)?;
        }
        Ok(Some(Message::new()))
    }

    /// Ends a create that is under way, at the wish of `by`, who is answered when nothing is left of it.
    fn give_up(&mut self, id: &str, by: Option<(Caller, Wish)>) -> Reply {
        let Some(container) = self.containers.0.get_mut(id) else { return Ok(None) };
        let wishes = container.given_up.get_or_insert_default();
        if wishes.len() >= MAX_EARLY {
            return Err(too_many());
        }
        wishes.extend(by);
        self.end_job(What::Create, id, "");
        Ok(None)
    }

    /// Kills a job, with all that it has started.
    fn end_job(&self, what: What, id: &str, exec: &str) {
        let is_it = |pending: &&Pending| (pending.what, pending.id.as_str(), pending.exec.as_str()) == (what, id, exec);
        for pending in self.jobs.iter().filter(is_it) {
            // It is ours until it is reaped.
            end_family(pending.job.pid);
        }
    }

    fn state(&self, payload: &[u8]) -> Reply {
        let request = message::Process::read(payload)?;
        // One that is being made is seen too, without a pid: else nobody could find, and end, a create that hangs.
        let container = self.containers.any(request.id)?;
        let missing = || Status::new(Code::NotFound, format!("process {} does not exist: not found", request.exec_id));
        let process = container.process(request.exec_id).ok_or_else(missing)?;
        let status = container.status(process);
        let mut answer = Message::new()
            .text(1, request.id)
            .text(2, &container.bundle)
            .number(3, process.pid)
            .number(4, status as u64)
            .text(5, &process.uris.stdin)
            .text(6, &process.uris.stdout)
            .text(7, &process.uris.stderr)
            .flag(8, process.uris.terminal);
        if status == TaskStatus::Stopped {
            answer = answer.number(9, process.exit.status).message(10, &process.exit.at.message());
        }
        Ok(Some(answer.text(11, request.exec_id)))
    }

    pub(crate) fn create(&mut self, caller: Caller, payload: &[u8]) -> Reply {
        let request = message::Create::read(payload)?;
        let id = ContainerId::parse(request.id).map_err(|e| job::status(&e))?;
        if self.containers.0.contains_key(request.id) {
            return Err(Status::new(Code::AlreadyExists, format!("container {id}: already exists")));
        }
        if !request.checkpoint.is_empty() {
            return Err(no_checkpoint());
        }
        if self.leaving {
            return Err(Status::new(Code::Unavailable, "this shim is shutting down"));
        }
        if !request.bundle.starts_with('/') {
            return Err(Status::new(Code::InvalidArgument, "bundle: not an absolute path"));
        }
        let options = request.options.as_ref().map(Options::read).transpose()?.flatten().unwrap_or_default();
        options.check()?;
        let mounts: Vec<_> = request.rootfs.iter().map(Mount::of).collect();
        let uris = Uris {
            stdin: request.stdin.to_owned(),
            stdout: request.stdout.to_owned(),
            stderr: request.stderr.to_owned(),
            terminal: request.terminal,
        };
        let stdio = Stdio::open(&uris, options.owner())?;
        let runtime = Runtime { options: &options, namespace: &self.namespace, id: request.id, bundle: request.bundle };
        let job = Job::start(stdio.process(), &stdio.for_logger(), || {
            let _held = match &self.pod {
                Some(pod) if pod.id == request.id => {
                    pod.prepare(&self.namespace, &std::env::args().next().unwrap_or_default())?
                }
                Some(pod) => pod.share(request.bundle).map(|()| None)?,
                None => None,
            };
            runtime.create(&mounts, &stdio, request.terminal)
        });
        let io = Message::new().text(1, &uris.stdin).text(2, &uris.stdout).text(3, &uris.stderr).flag(4, uris.terminal);
        let mut created = Message::new().text(1, request.id).text(2, request.bundle);
        for mount in &mounts {
            created = created.message(3, &mount.message());
        }
        let container = Container {
            bundle: request.bundle.to_owned(),
            options,
            init: Process::new(Phase::Creating, uris),
            execs: BTreeMap::new(),
            pause: Pause::No,
            has_own_pid_namespace: false,
            mounted: !mounts.is_empty(),
            created: created.message(4, &io),
            memory: None,
            has_untold_kill: false,
            given_up: None,
        };
        self.containers.0.insert(request.id.to_owned(), container);
        let begun = self.begin(job, What::Create, request.id, "", caller, Some(stdio));
        if begun.is_err() {
            self.containers.0.remove(request.id);
        }
        begun
    }

    pub(crate) fn start(&mut self, caller: Caller, payload: &[u8]) -> Reply {
        let request = message::Process::read(payload)?;
        if !request.exec_id.is_empty() {
            return self.start_exec(caller, request.id, request.exec_id);
        }
        let init = self.containers.process_mut(request.id, "")?;
        match init.phase {
            Phase::Created if !init.deleting => {}
            Phase::Ended | Phase::Stopped => return Err(precondition("cannot start a stopped process")),
            _ => return Err(precondition("cannot start a running process")),
        }
        init.phase = Phase::Starting;
        let runtime = self.runtime(request.id)?;
        let job = Job::start(null(), &[], || runtime.start());
        self.begin(job, What::Start, request.id, "", caller, None).inspect_err(|_| {
            if let Ok(init) = self.containers.process_mut(request.id, "") {
                init.phase = Phase::Created;
            }
        })
    }

    fn start_exec(&mut self, caller: Caller, id: &str, name: &str) -> Reply {
        let container = self.containers.get_mut(id)?;
        let owner = container.options.owner();
        if container.init.phase >= Phase::Ended {
            return Err(precondition(format!("container {id} init process is not running")));
        }
        let process = self.containers.process_mut(id, name)?;
        if process.phase != Phase::Added || process.deleting {
            return Err(precondition("cannot start a process twice"));
        }
        let stdio = Stdio::open(&process.uris, owner)?;
        process.phase = Phase::Starting;
        let document = std::mem::take(&mut process.document);
        let terminal = process.uris.terminal;
        let runtime = self.runtime(id)?;
        let job = Job::start(stdio.process(), &stdio.for_logger(), || runtime.exec(&document, &stdio, terminal));
        self.begin(job, What::Exec, id, name, caller, Some(stdio)).inspect_err(|_| {
            if let Ok(process) = self.containers.process_mut(id, name) {
                process.phase = Phase::Stopped;
            }
        })
    }

    fn delete(&mut self, caller: Caller, payload: &[u8]) -> Reply {
        let request = message::Process::read(payload)?;
        if self.containers.any(request.id)?.init.phase == Phase::Creating && request.exec_id.is_empty() {
            return self.give_up(request.id, Some((caller, Wish::Delete)));
        }
        let process = self.containers.process_mut(request.id, request.exec_id)?;
        let may = match process.phase {
            Phase::Stopped => true,
            // It was told as an end already: State says so.
            Phase::Ended => process.reading.is_some(),
            Phase::Added => !request.exec_id.is_empty(),
            Phase::Created => request.exec_id.is_empty(),
            _ => false,
        };
        if !may || process.deleting {
            return Err(precondition("cannot delete a running process"));
        }
        process.deleting = true;
        let (id, exec) = (request.id.to_owned(), request.exec_id.to_owned());
        self.drains.push(Drain { id, exec, caller, deadline: Instant::now() + DRAIN });
        Ok(None)
    }

    /// Goes on with deletes whose processes have nothing more to say, or had their time.
    pub fn drain(&mut self) {
        let mut at = 0;
        while let Some(drain) = self.drains.get(at) {
            let process = self.containers.get(&drain.id).ok().and_then(|c| c.process(&drain.exec));
            let output = |p: &Process, number: &u32| p.input != Some(*number) && self.streams.is_flowing(*number);
            let flows = process.is_some_and(|p| p.phase != Phase::Created && p.streams.iter().any(|n| output(p, n)));
            if flows && drain.deadline > Instant::now() {
                at += 1;
                continue;
            }
            let drain = self.drains.swap_remove(at);
            // What was said is on its way, and who deletes knows of the end. Init's may have waited for that of an exec.
            self.tell_end(&drain.id, &drain.exec);
            self.settle(&drain.id, "");
            let reply = if drain.exec.is_empty() {
                self.delete_container(&drain.id, drain.caller)
            } else {
                self.delete_exec(&drain.id, &drain.exec).map(Some)
            };
            self.reply(drain.caller, reply);
        }
    }

    fn delete_exec(&mut self, id: &str, exec: &str) -> Result<Message, Status> {
        let missing = || Status::new(Code::NotFound, format!("process {exec} does not exist: not found"));
        let process = self.containers.get_mut(id)?.execs.remove(exec).ok_or_else(missing)?;
        let answer = deleted(&process);
        self.end_streams(process);
        Ok(answer)
    }

    pub(crate) fn delete_container(&mut self, id: &str, caller: Caller) -> Reply {
        let runtime = self.runtime(id)?;
        let mounted = self.containers.get(id)?.mounted;
        let job = Job::start(null(), &[], || {
            let done = runtime.delete()?;
            if mounted {
                mounts::unmount_all(&runtime.rootfs());
            }
            Ok(done)
        });
        self.begin(job, What::Delete, id, "", caller, None)
    }

    fn pids(&self, payload: &[u8]) -> Reply {
        let request = message::Process::read(payload)?;
        let container = self.containers.get(request.id)?;
        let pids = if container.init.phase < Phase::Ended {
            self.runtime(request.id)?.pids(container.init.pid)?
        } else {
            // containerd 1.7 and later, when it starts, takes a task without processes for one that was never made, and
            // deletes it with its exit status. So it has its first process until it is deleted.
            vec![container.init.pid]
        };
        let mut answer = Message::new();
        for pid in pids {
            let exec = container.execs.iter().find(|(_, process)| process.pid == pid && process.lives());
            let mut process = Message::new().number(1, pid);
            if let Some((name, _)) = exec {
                let details = Message::new().text(1, name);
                process = process.message(2, &any("containerd.runc.v1.ProcessDetails", &details.0));
            }
            answer = answer.message(1, &process);
        }
        Ok(Some(answer))
    }

    fn pause(&mut self, caller: Caller, payload: &[u8]) -> Reply {
        let request = message::Process::read(payload)?;
        let container = self.containers.get_mut(request.id)?;
        if container.init.phase != Phase::Running || container.pause != Pause::No {
            return Err(precondition("cannot pause a container that is not running"));
        }
        container.pause = Pause::Pausing;
        let runtime = self.runtime(request.id)?;
        let job = Job::start(null(), &[], || runtime.pause());
        self.begin(job, What::Pause, request.id, "", caller, None)
    }

    fn resume(&mut self, caller: Caller, payload: &[u8]) -> Reply {
        let request = message::Process::read(payload)?;
        let container = self.containers.get_mut(request.id)?;
        if container.pause != Pause::Paused {
            return Err(precondition("cannot resume a container that is not paused"));
        }
        container.pause = Pause::Resuming;
        let runtime = self.runtime(request.id)?;
        let job = Job::start(null(), &[], || runtime.resume());
        self.begin(job, What::Resume, request.id, "", caller, None)
    }

    pub(crate) fn kill(&mut self, caller: Caller, payload: &[u8]) -> Reply {
        let request = message::Kill::read(payload)?;
        let number = i32::try_from(request.signal).map_err(|_| Status::new(Code::InvalidArgument, "no such signal"))?;
        let container = self.containers.any_mut(request.id)?;
        let own = container.has_own_pid_namespace && container.pause == Pause::No;
        if container.init.phase == Phase::Creating && request.exec_id.is_empty() && number == KILL {
            return self.give_up(request.id, Some((caller, Wish::Kill)));
        }
        let missing = || Status::new(Code::NotFound, format!("process {} does not exist: not found", request.exec_id));
        let process = container.process_mut(request.exec_id).ok_or_else(missing)?;
        if matches!(process.phase, Phase::Creating | Phase::Starting) && process.pid == 0 {
            // "Not found" would be heard as "gone already", and it would come alive after it.
            if process.signals.len() >= MAX_EARLY {
                return Err(too_many());
            }
            process.signals.push((caller, payload.to_vec()));
            if number == KILL {
                self.end_job(What::Exec, request.id, request.exec_id);
            }
            return Ok(None);
        }
        let finished = || Status::new(Code::NotFound, "process already finished: not found");
        match process.phase {
            Phase::Added => return Err(precondition("cannot kill a process that was not started")),
            // `all` also means those who outlived init.
            Phase::Ended | Phase::Stopped if !request.all => return Err(finished()),
            _ => {}
        }
        let is_init = request.exec_id.is_empty();
        // These two are more than a signal to one process.
        let more = request.all || is_init && number == KILL && !own;
        if !more {
            return match signal(process.pid, number) {
                Ok(()) => Ok(Some(Message::new())),
                Err(Errno::SRCH) => Err(finished()),
                Err(e) => Err(Status::new(Code::Unknown, format!("kill: {}", orlop::error::describe(e)))),
            };
        }
        let whom = if request.all { kill::Whom::All } else { kill::Whom::Init };
        let runtime = self.runtime(request.id)?;
        let job = Job::start(null(), &[], || runtime.kill(number, whom));
        self.begin(job, What::Kill, request.id, "", caller, None)
    }

    fn exec(&mut self, payload: &[u8]) -> Reply {
        let request = message::Exec::read(payload)?;
        let container = self.containers.get_mut(request.id)?;
        if request.exec_id.is_empty() || request.exec_id.len() > 255 {
            return Err(Status::new(Code::InvalidArgument, "exec_id: not an id"));
        }
        if container.execs.contains_key(request.exec_id) {
            return Err(Status::new(Code::AlreadyExists, format!("id {}: already exists", request.exec_id)));
        }
        let Some(spec) = &request.spec else {
            return Err(Status::new(Code::InvalidArgument, "spec: missing"));
        };
        let uris = Uris {
            stdin: request.stdin.to_owned(),
            stdout: request.stdout.to_owned(),
            stderr: request.stderr.to_owned(),
            terminal: request.terminal,
        };
        let documents: usize = container.execs.values().map(|process| process.document.len()).sum();
        if container.execs.len() >= MAX_EXECS || documents + spec.value.len() > MAX_DOCUMENTS {
            return Err(Status::new(Code::ResourceExhausted, "too many processes were added and never deleted"));
        }
        let mut process = Process::new(Phase::Added, uris);
        process.document = spec.value.to_vec();
        container.execs.insert(request.exec_id.to_owned(), process);
        let body = Message::new().text(1, request.id).text(2, request.exec_id);
        self.tell("/tasks/exec-added", "containerd.events.TaskExecAdded", body);
        Ok(Some(Message::new()))
    }

    fn resize(&mut self, payload: &[u8]) -> Reply {
        let request = message::Resize::read(payload)?;
        let process = self.containers.process_mut(request.id, request.exec_id)?;
        if let Some(console) = &process.console {
            let cells = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
            let size =
                Winsize { ws_row: cells(request.height), ws_col: cells(request.width), ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(console, size).map_err(|e| Status::new(Code::Unknown, orlop::error::describe(e)))?;
        }
        Ok(Some(Message::new()))
    }

    fn close_io(&mut self, payload: &[u8]) -> Reply {
        let request = message::CloseIo::read(payload)?;
        let process = self.containers.process_mut(request.id, request.exec_id)?;
        process.input_closed |= request.stdin;
        if let (true, Some(input)) = (request.stdin, process.input) {
            self.streams.release(input);
        }
        Ok(Some(Message::new()))
    }

    fn update(&mut self, caller: Caller, payload: &[u8]) -> Reply {
        let request = message::Update::read(payload)?;
        let container = self.containers.get(request.id)?;
        if container.init.phase >= Phase::Ended {
            return Err(precondition("cannot update a stopped container"));
        }
        let document = request.resources.map(|any| any.value).unwrap_or_default();
        let runtime = self.runtime(request.id)?;
        let job = Job::start(null(), &[], || runtime.update(document));
        self.begin(job, What::Update, request.id, "", caller, None)
    }

    pub(crate) fn wait(&mut self, caller: Caller, payload: &[u8]) -> Reply {
        let request = message::Process::read(payload)?;
        let missing = || Status::new(Code::NotFound, format!("process {} does not exist: not found", request.exec_id));
        let process = self.containers.any_mut(request.id)?.process_mut(request.exec_id).ok_or_else(missing)?;
        if process.phase == Phase::Stopped {
            return Ok(Some(waited(process)));
        }
        // Engines come and go while a container lives.
        process.waiters.retain(|waiter| self.server.is_there(*waiter));
        if process.waiters.len() >= MAX_WAITERS {
            return Err(too_many());
        }
        process.waiters.push(caller);
        Ok(None)
    }

    pub(crate) fn stats(&self, payload: &[u8]) -> Reply {
        let request = message::Process::read(payload)?;
        let init = self.containers.get(request.id)?.init.pid;
        let cgroup = self.runtime(request.id)?.cgroup(init).map_err(|e| job::status(&e))?;
        stats::response(cgroup.as_ref()).map(Some)
    }

    fn connect(&self, payload: &[u8]) -> Reply {
        let request = message::Process::read(payload)?;
        let task = self.containers.get(request.id).map_or(0, |container| container.init.pid);
        Ok(Some(Message::new().number(1, getpid().as_raw_nonzero().get().unsigned_abs()).number(2, task)))
    }

    fn runtime<'a>(&'a self, id: &'a str) -> Result<Runtime<'a>, Status> {
        let container = self.containers.any(id)?;
        let Container { options, bundle, .. } = container;
        Ok(Runtime { options, namespace: &self.namespace, id, bundle })
    }

    fn begin(
        &mut self,
        job: Result<Job, Errno>,
        what: What,
        id: &str,
        exec: &str,
        caller: Caller,
        stdio: Option<Stdio>,
    ) -> Reply {
        let job = job.map_err(no_fork)?;
        // The process has its own ends now; ours would keep the end of its output from being seen.
        let ours = stdio.map(Stdio::into_ours);
        let mut pending = Pending { job, id: id.to_owned(), exec: exec.to_owned(), what, caller: Some(caller), ours };
        if let Some(ours) = &mut pending.ours {
            self.flow(id, exec, ours);
            if let Some(process) = self.containers.0.get_mut(id).and_then(|c| c.process_mut(exec)) {
                process.logged = std::mem::take(&mut ours.spare);
            }
        }
        self.jobs.push(pending);
        Ok(None)
    }

    /// Lets the streams flow that are open.
    fn flow(&mut self, id: &str, exec: &str, ours: &mut Ours) {
        let Some(process) = self.containers.0.get_mut(id).and_then(|c| c.process_mut(exec)) else { return };
        for (at, stream) in ours.streams.drain(..).enumerate() {
            let number = self.streams.add(&self.poll, stream);
            if at == 0 && ours.has_input {
                process.input = number;
                if let (true, Some(input)) = (process.input_closed, number) {
                    self.streams.release(input);
                }
            }
            process.streams.extend(number);
        }
        ours.has_input = false;
    }

    /// A job has ended.
    pub fn finish(&mut self, pending: Pending) {
        let Pending { job, id, exec, what, caller, ours } = pending;
        let outcome = job.outcome();
        if what == What::Create && (outcome.is_none() || self.is_given_up(&id)) {
            let logger = outcome.and_then(Result::ok).map_or(0, |done| done.logger);
            return self.undo(&id, logger, caller);
        }
        let mut outcome = outcome.unwrap_or_else(|| Err(died()));
        if let Ok(done) = &mut outcome {
            for note in std::mem::take(&mut done.notes) {
                self.log(log::WARN, &format!("{id}: {note}"));
            }
            if let (Some(ours), Some(master)) = (ours, done.terminal.take()) {
                self.attach(&id, &exec, ours, master);
            }
        }
        let reply = match what {
            What::Create => self.created(&id, outcome),
            What::Start => self.started(&id, outcome),
            What::Exec => self.exec_started(&id, &exec, outcome),
            What::Delete => self.deleted(&id, outcome),
            What::Kill | What::Update => outcome.map(|_| Message::new()),
            What::Undo => Err(self.undone(&id, outcome)),
            What::Pause => self.paused(&id, outcome, Pause::Paused, Pause::No),
            What::Resume => self.paused(&id, outcome, Pause::No, Pause::Paused),
        };
        let is_pod = self.pod.as_ref().is_some_and(|pod| pod.id == id);
        let reply = reply.map(|answer| if is_pod { self.for_a_pod(what, answer) } else { answer });
        match (caller, &reply) {
            (Some(caller), reply) => self.server.answer(&self.poll, caller, reply.as_ref()),
            (None, Err(status)) => self.log(log::ERROR, &format!("{id}: {}", status.message)),
            (None, Ok(_)) => {}
        }
        if matches!(what, What::Create | What::Exec) {
            self.send_early(&id, &exec);
        }
        self.settle(&id, &exec);
    }

    fn is_given_up(&self, id: &str) -> bool {
        self.containers.0.get(id).is_some_and(|container| container.given_up.is_some())
    }

    /// Removes what a create has left that did not come to its end.
    fn undo(&mut self, id: &str, logger: u32, caller: Option<Caller>) {
        if let Some(container) = self.containers.0.get_mut(id) {
            container.init.logger = logger;
        }
        let job = self.runtime(id).and_then(|runtime| {
            let work = || {
                let done = runtime.delete()?;
                mounts::unmount_all(&runtime.rootfs());
                Ok(done)
            };
            Job::start(null(), &[], work).map_err(no_fork)
        });
        match job {
            Ok(job) => {
                let (id, exec) = (id.to_owned(), String::new());
                self.jobs.push(Pending { job, id, exec, what: What::Undo, caller, ours: None });
            }
            Err(status) => {
                let why = self.undone(id, Err(status));
                if let Some(caller) = caller {
                    self.server.answer(&self.poll, caller, Err(&why));
                }
            }
        }
    }

    /// Forgets a container whose create did not come to its end. What its caller is told.
    fn undone(&mut self, id: &str, outcome: Outcome) -> Status {
        let Some(mut container) = self.containers.0.remove(id) else { return died() };
        let gone =
            || Status::new(Code::NotFound, format!("container {id}: its creation did not come to its end: not found"));
        container.init.exit = Exit { status: 128 + KILL.unsigned_abs(), at: message::Time::now() };
        let (dead, ended) = (deleted(&container.init), waited(&container.init));
        let wishes = container.given_up.take();
        for waiter in std::mem::take(&mut container.init.waiters) {
            match &wishes {
                Some(_) => self.server.answer(&self.poll, waiter, Ok(&ended)),
                None => self.server.answer(&self.poll, waiter, Err(&gone())),
            }
        }
        for (caller, _) in std::mem::take(&mut container.init.signals) {
            self.server.answer(&self.poll, caller, Err(&gone()));
        }
        let why = match &wishes {
            Some(_) => Status::new(Code::Unknown, "OCI runtime create failed: it was given up before its end"),
            None => died(),
        };
        for (caller, wish) in wishes.into_iter().flatten() {
            let answer = match (&outcome, wish) {
                (Err(status), _) => Err(status),
                (Ok(_), Wish::Delete) => Ok(&dead),
                (Ok(_), Wish::Kill) => Ok(&Message::new()),
            };
            self.server.answer(&self.poll, caller, answer);
        }
        if let Err(status) = &outcome {
            self.log(log::ERROR, &format!("{id}: {}", status.message));
        }
        self.end_streams(container.init);
        why
    }

    /// Sends the signals that came before there was a process, or says that there never was one.
    fn send_early(&mut self, id: &str, exec: &str) {
        let Some(process) = self.containers.0.get_mut(id).and_then(|c| c.process_mut(exec)) else { return };
        for (caller, payload) in std::mem::take(&mut process.signals) {
            let reply = self.kill(caller, &payload);
            self.reply(caller, reply);
        }
    }

    fn attach(&mut self, id: &str, exec: &str, mut ours: Ours, master: OwnedFd) {
        if let Err(e) = ours.attach(&master) {
            self.log(log::ERROR, &format!("{id}: terminal: {}", orlop::error::describe(e)));
        }
        self.flow(id, exec, &mut ours);
        if let Some(process) = self.containers.0.get_mut(id).and_then(|c| c.process_mut(exec)) {
            process.console = Some(master);
        }
    }

    fn created(&mut self, id: &str, outcome: Outcome) -> Result<Message, Status> {
        let done = match outcome {
            Ok(done) => done,
            Err(status) => {
                self.undone(id, Ok(Done::default()));
                return Err(status);
            }
        };
        let Some(container) = self.containers.0.get_mut(id) else { return Ok(Message::new()) };
        container.init.phase = Phase::Created;
        container.init.pid = done.pid;
        container.init.logger = done.logger;
        container.has_own_pid_namespace = done.flag;
        let body = std::mem::take(&mut container.created).number(6, done.pid);
        self.tell("/tasks/create", "containerd.events.TaskCreate", body);
        // From before the start on, so that no kill is missed.
        self.watch_memory(id, done.pid);
        Ok(Message::new().number(1, done.pid))
    }

    fn started(&mut self, id: &str, outcome: Outcome) -> Result<Message, Status> {
        let Some(container) = self.containers.0.get_mut(id) else { return outcome.map(|_| Message::new()) };
        let pid = container.init.pid;
        // Its end may be known already; it is told after this.
        container.init.phase = match (container.init.dead, &outcome) {
            (true, _) => Phase::Ended,
            (false, Ok(_)) => Phase::Running,
            (false, Err(_)) => Phase::Created,
        };
        outcome?;
        self.tell("/tasks/start", "containerd.events.TaskStart", Message::new().text(1, id).number(2, pid));
        self.look_at_memory(|_| false);
        Ok(Message::new().number(1, pid))
    }

    fn exec_started(&mut self, id: &str, name: &str, outcome: Outcome) -> Result<Message, Status> {
        let container = self.containers.0.get_mut(id);
        let Some(process) = container.and_then(|c| c.execs.get_mut(name)) else {
            return outcome.map(|_| Message::new());
        };
        match outcome {
            Ok(done) => {
                (process.phase, process.pid, process.logger) = (Phase::Running, done.pid, done.logger);
                let body = Message::new().text(1, id).text(2, name).number(3, done.pid);
                self.tell("/tasks/exec-started", "containerd.events.TaskExecStarted", body);
                Ok(Message::new().number(1, done.pid))
            }
            Err(status) => {
                // There was no start, so there is no end to be told; but who waits, waits for this.
                process.phase = Phase::Stopped;
                let is_kill =
                    |payload: &[u8]| message::Kill::read(payload).is_ok_and(|kill| kill.signal == KILL.unsigned_abs());
                let killed = process.signals.iter().any(|(_, payload)| is_kill(payload));
                let code = if killed { 128 + KILL.unsigned_abs() } else { shell_status(&status.message) };
                process.exit = Exit { status: code, at: message::Time::now() };
                let streams = std::mem::take(&mut process.streams);
                process.input = None;
                let (waiters, answer) = (std::mem::take(&mut process.waiters), waited(process));
                for number in streams {
                    self.streams.remove(&self.poll, number);
                }
                for waiter in waiters {
                    self.server.answer(&self.poll, waiter, Ok(&answer));
                }
                Err(status)
            }
        }
    }

    fn paused(&mut self, id: &str, outcome: Outcome, now: Pause, before: Pause) -> Result<Message, Status> {
        let Ok(container) = self.containers.get_mut(id) else { return outcome.map(|_| Message::new()) };
        container.pause = if outcome.is_ok() { now } else { before };
        outcome?;
        let body = Message::new().text(1, id);
        match now {
            Pause::Paused => self.tell("/tasks/paused", "containerd.events.TaskPaused", body),
            _ => self.tell("/tasks/resumed", "containerd.events.TaskResumed", body),
        }
        Ok(Message::new())
    }

    fn deleted(&mut self, id: &str, outcome: Outcome) -> Result<Message, Status> {
        if let Err(status) = outcome {
            if let Ok(init) = self.containers.process_mut(id, "") {
                init.deleting = false;
            }
            return Err(status);
        }
        // Killed by the delete itself, if it was not dead before.
        if let Some(container) = self.containers.0.get(id)
            && container.init.phase < Phase::Ended
        {
            self.reap_now(container.init.pid, id, "");
        }
        // There is no later.
        self.tell_end(id, "");
        let Some(mut container) = self.containers.0.remove(id) else { return Ok(Message::new()) };
        for (_, process) in std::mem::take(&mut container.execs) {
            self.end_streams(process);
        }
        if let Some(memory) = &container.memory {
            self.poll.remove(&memory.watch);
        }
        let init = container.init;
        let body = Message::new()
            .text(1, id)
            .number(2, init.pid)
            .number(3, init.exit.status)
            .message(4, &init.exit.at.message());
        self.tell("/tasks/delete", "containerd.events.TaskDelete", body);
        let answer = deleted(&init);
        self.end_streams(init);
        Ok(answer)
    }

    /// A process of ours has ended.
    pub fn exited(&mut self, id: &str, exec: &str, exit: Exit) {
        let Some(container) = self.containers.0.get_mut(id) else { return };
        let shares = exec.is_empty() && !container.has_own_pid_namespace;
        let Some(process) = container.process_mut(exec) else { return };
        (process.exit, process.dead) = (exit, true);
        // The start is told first.
        if process.phase != Phase::Starting {
            process.phase = Phase::Ended;
        }
        if exec.is_empty() {
            container.pause = Pause::No;
            // Should we be killed before anybody has heard of it, `delete` tells it. Without, it says 137.
            let _ = write_file(&format!("{}/{}", container.bundle, task::EXIT_FILE), exit.text().as_bytes());
        }
        if shares {
            // Init's end is the end of all, though the kernel does not see to it.
            let Ok(runtime) = self.runtime(id) else { return };
            let job = Job::start(null(), &[], || runtime.kill(KILL, kill::Whom::All));
            if let Ok(job) = job {
                let (id, exec) = (id.to_owned(), String::new());
                self.jobs.push(Pending { job, id, exec, what: What::Kill, caller: None, ours: None });
            }
        }
        self.settle(id, exec);
    }

    /// Tells of a process's end, when everything that comes before it has been told, and heard.
    fn settle(&mut self, id: &str, exec: &str) {
        if self.is_read(id, exec) {
            self.tell_end(id, exec);
        }
        // Init's end is the container's last.
        if !exec.is_empty() && self.is_read(id, "") {
            self.tell_end(id, "");
        }
    }

    /// Goes on with ends that were not told yet because somebody still read.
    pub(crate) fn settle_all(&mut self) {
        for (id, exec) in std::mem::take(&mut self.readings) {
            self.settle(&id, &exec);
        }
    }

    /// Whether all is read that a process has said before its end, or nobody reads on; if not, it is looked at again.
    fn is_read(&mut self, id: &str, exec: &str) -> bool {
        let Some(container) = self.containers.0.get_mut(id) else { return false };
        let others_first = exec.is_empty() && container.execs.values().any(Process::is_untold);
        let Some(process) = container.process_mut(exec) else { return false };
        if process.phase != Phase::Ended || others_first {
            return false;
        }
        let output = process.streams.iter().filter(|number| process.input != Some(**number));
        let unread = output.map(|number| self.streams.unread(*number)).sum();
        let now = Instant::now();
        if process.reading.get_or_insert_with(|| Reading::new(unread, now)).is_over(unread, now) {
            return true;
        }
        self.readings.insert((id.to_owned(), exec.to_owned()));
        false
    }

    /// Tells of a process's end, if it has ended and that was not told.
    fn tell_end(&mut self, id: &str, exec: &str) {
        let Some(container) = self.containers.0.get(id) else { return };
        if container.process(exec).is_none_or(|process| process.phase != Phase::Ended) {
            return;
        }
        if exec.is_empty() {
            // A kill that explains it comes first.
            let number = container.memory.as_ref().map(|memory| memory.number);
            self.look_at_memory(|memory| Some(memory.number) == number);
        }
        let Some(process) = self.containers.0.get_mut(id).and_then(|c| c.process_mut(exec)) else { return };
        process.phase = Phase::Stopped;
        let (waiters, answer) = (std::mem::take(&mut process.waiters), waited(process));
        let (pid, exit) = (process.pid, process.exit);
        self.tell_exit(id, if exec.is_empty() { id } else { exec }, pid, exit, waiters, &answer);
    }

    fn watch_memory(&mut self, id: &str, pid: u32) {
        let cgroup = self.runtime(id).map(|runtime| runtime.cgroup(pid));
        let watch = |cgroup: Option<Cgroup>| cgroup.map_or(Ok(None), |cgroup| Watch::new(&cgroup));
        match cgroup.map_or(Ok(None), |cgroup| cgroup.and_then(watch)) {
            Ok(Some(watch)) => {
                self.memories = self.memories.wrapping_add(1);
                let number = self.memories;
                if self.poll.add(&watch, Token::Memory(number), watch.interest()).is_ok()
                    && let Some(container) = self.containers.0.get_mut(id)
                {
                    container.memory = Some(Memory { watch, number, again: None });
                }
            }
            // The kernel does not count its memory.
            Ok(None) => {}
            Err(e) => self.log(log::WARN, &format!("{id}: watch for OOM kills: {e}")),
        }
    }

    /// Looks whether containers had processes killed for want of memory, and says so, also of what was found before.
    pub fn look_at_memory(&mut self, which: impl Fn(&Memory) -> bool) {
        let mut killed = Vec::new();
        for (id, container) in &mut self.containers.0 {
            if let Some(memory) = container.memory.as_mut().filter(|memory| which(memory)) {
                let found = memory.watch.look();
                memory.again = found.again.map(|again| Instant::now() + again);
                container.has_untold_kill |= found.kills > 0;
                if found.is_over {
                    self.poll.remove(&memory.watch);
                    container.memory = None;
                }
            }
            // Its start is told first.
            if container.init.phase != Phase::Starting && std::mem::take(&mut container.has_untold_kill) {
                killed.push(id.clone());
            }
        }
        for id in killed {
            self.tell("/tasks/oom", "containerd.events.TaskOOM", Message::new().text(1, &id));
        }
    }

    fn tell_exit(&mut self, id: &str, process: &str, pid: u32, exit: Exit, waiters: Vec<Caller>, answer: &Message) {
        let body = Message::new()
            .text(1, id)
            .text(2, process)
            .number(3, pid)
            .number(4, exit.status)
            .message(5, &exit.at.message());
        self.tell("/tasks/exit", "containerd.events.TaskExit", body);
        for waiter in waiters {
            self.server.answer(&self.poll, waiter, Ok(answer));
        }
    }

    fn tell(&mut self, topic: &'static str, kind: &'static str, body: Message) {
        let given_up = self.events.push(&self.poll, &Event { topic, kind, body });
        if given_up > 0 {
            self.log(log::WARN, &format!("events that nobody heard were given up: {given_up}"));
        }
    }

    fn end_streams(&mut self, process: Process) {
        for number in process.streams {
            self.streams.remove(&self.poll, number);
        }
        if process.logger != 0 {
            // It has found the end of its input, or will; what it has not dealt with yet shall not be lost.
            self.loggers.push(Logger { pid: process.logger, until: Instant::now() + LOGGER, then: TERM });
        }
    }

    /// The program that took the output of a process has died. The process neither dies of that nor waits for ever: what
    /// it says is lost.
    pub(crate) fn lost_logger(&mut self, id: &str, exec: &str) {
        let Some(process) = self.containers.0.get_mut(id).and_then(|c| c.process_mut(exec)) else { return };
        let logged = std::mem::take(&mut process.logged);
        if process.dead {
            return;
        }
        let streams = logged.into_iter().filter_map(|reader| to_nowhere(reader).ok());
        process.streams.extend(streams.filter_map(|stream| self.streams.add(&self.poll, stream)));
        self.log(log::WARN, &format!("{id} {exec}: the logging program has ended, and output is lost"));
    }

    /// Ends programs that took output and have had their time.
    pub fn end_loggers(&mut self) {
        let now = Instant::now();
        self.loggers.retain_mut(|logger| {
            if logger.until > now {
                return true;
            }
            // Gone, if it fails.
            let lives = signal(logger.pid, logger.then).is_ok();
            let asked = logger.then == TERM;
            (logger.until, logger.then) = (now + LOGGER, KILL);
            lives && asked
        });
    }
}

impl Mount {
    fn of(mount: &message::Mount<'_>) -> Self {
        Self {
            kind: mount.kind.to_owned(),
            source: mount.source.to_owned(),
            target: mount.target.to_owned(),
            options: mount.options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    fn message(&self) -> Message {
        let message = Message::new().text(1, &self.kind).text(2, &self.source).text(3, &self.target);
        self.options.iter().fold(message, |message, option| message.bytes(4, option.as_bytes()))
    }
}

fn null() -> [BorrowedFd<'static>; 3] {
    [rustix::stdio::stdin(); 3]
}

fn no_checkpoint() -> Status {
    Status::new(Code::Unimplemented, "checkpoint and restore are not supported by this version of orlop")
}

fn deleted(process: &Process) -> Message {
    let message = Message::new().number(1, process.pid).number(2, process.exit.status);
    message.message(3, &process.exit.at.message())
}

fn waited(process: &Process) -> Message {
    Message::new().number(1, process.exit.status).message(2, &process.exit.at.message())
}

/// The status that a shell would give for a program that can't be executed.
fn shell_status(text: &str) -> u32 {
    let says = |phrase| text.contains(phrase);
    match () {
        () if says("executable file not found") || says("no such file or directory") => 127,
        () if says("permission denied") => 126,
        () => 255,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_can_not_be_executed_has_a_shells_status() {
        for (text, want) in [
            ("exec: \"x\": executable file not found in $PATH", 127),
            ("exec /x: ENOENT (no such file or directory)", 127),
            ("exec: \"x\": EACCES (permission denied)", 126),
            ("clone3: EAGAIN (resource temporarily unavailable)", 255),
        ] {
            assert_eq!(shell_status(text), want);
        }
    }
}
