//! `create`: from a bundle to a container whose init waits to be started. And the first half of `run`, whose init
//! does not wait.
//!
//! Read [`make`] downwards. Each value undoes what it stands for when a later line fails: the claim removes the state
//! directory, the cgroup its directories, the child is killed and reaped.

use std::path::Path;

use orlop_init::{Container as Job, Filesystem, Message, Namespaces, Start, User, container};
use orlop_sys::clone::flag;
use orlop_sys::process::prlimit;
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, RenameFlags, mkfifoat, openat, renameat_with, unlinkat};
use orlop_sys::rustix::process::Pid;
use orlop_sys::{AsFd, BorrowedFd, OwnedFd};

use crate::cgroup::Cgroup;
use crate::config::{self, Spec};
use crate::container::{self, Status};
use crate::error::{At, Error, ErrorKind, Result};
use crate::hooks;
use crate::host::Host;
use crate::open::{self, Opened, text};
use crate::plan::{Arena, NAMESPACES, Plan, rlimit_name};
use crate::request::Create;
use crate::socket;
use crate::spawn::{Ends, Said, Spawned, explain, oom_hint, write_proc};
use crate::state;
use crate::store::{self, Claim, FIFO, Intent, NEW_FIFO, Record, Store};

/// When init becomes the user's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// When `start` says so.
    Started,
    /// At once.
    Now,
}

/// A container that was made.
#[derive(Debug)]
pub struct Created {
    /// Init's pid.
    pub pid: Pid,
    /// Init.
    pub pidfd: OwnedFd,
    /// The master side of its terminal, if it has one and no console socket took it.
    pub terminal: Option<OwnedFd>,
    /// What was asked for and can't be, without being an error.
    pub warnings: Vec<String>,
    /// poststart hooks are to be run.
    pub(crate) has_poststart: bool,
}

/// Makes a container from the bytes of its config.json.
///
/// # Errors
/// Whatever the kernel refuses or the configuration gets wrong; nothing is left then.
pub fn create(store: &Store, request: &Create, config: &[u8]) -> Result<Created> {
    make(store, request, config, When::Started)
}

pub(crate) fn make(store: &Store, request: &Create, config: &[u8], when: When) -> Result<Created> {
    let spec: Spec = config::parse("config.json", config)?;
    hooks::check(&spec.hooks)?;
    let host = Host::probe()?;
    let arena = Arena::new();
    let plan = Plan::new(&arena, &spec, request, &host)?;
    let opened = Opened::new(&plan, request)?;
    check_terminal(plan.terminal.is_some(), opened.console.is_some(), request.foreground)?;

    let claim = store.claim(&request.id)?;
    let mut record = record(&spec, request, &plan, when)?;
    claim.intent(&Intent { id: record.id.clone(), boot_id: record.boot_id.clone(), cgroup: record.cgroup.clone() })?;
    let mut cgroup = plan.cgroup.as_ref().map(Cgroup::create).transpose()?;
    let wait = (when == When::Started).then(|| Wait::new(&claim)).transpose()?;
    // While the child works; but the device rules of version 1 change one by one, and it would find itself without
    // some of them.
    let limits_later = host.layout.is_v2();
    if let (Some(cgroup), Some(plan), false) = (&mut cgroup, &plan.cgroup, limits_later) {
        cgroup.apply(plan)?;
    }

    let init = spawn(&plan, &opened, cgroup.as_ref(), wait.as_ref())?;
    drop(wait);
    let ahead = when == When::Now && may_go_ahead(&plan, &spec, request);
    let mut setup =
        Setup { plan: &plan, spec: &spec, request, opened, init, record: &mut record, ahead, terminal: None };
    if let Err(error) = setup.serve(&claim, config, cgroup.as_mut().filter(|_| limits_later)) {
        let kills = cgroup.as_ref().map_or(0, Cgroup::oom_kills);
        setup.run_poststop();
        return Err(oom_hint(error, kills));
    }
    let Setup { mut init, terminal, .. } = setup;

    if let Some(path) = &request.pid_file {
        write_pid_file(path, init.pid)?;
    }
    if !ahead {
        init.tell(Message::Go)?;
    }
    if when == When::Now {
        // Its end of the channel closes with execve.
        match init.listen()? {
            Said::Gone => {}
            Said::Failed(failure) => return Err(explain(&plan, &failure)),
            _ => return Err(init.died()),
        }
    }
    let (pid, pidfd) = init.release()?;
    if let Some(cgroup) = &mut cgroup {
        cgroup.keep();
    }
    claim.keep();
    Ok(Created { pid, pidfd, terminal, warnings: plan.warnings, has_poststart: record.hooks.poststart })
}

/// True if nothing is left to be done for the child, or might fail here, after its record: it is told to go on before it
/// asks, and two wake-ups less are waited for.
fn may_go_ahead(plan: &Plan<'_>, spec: &Spec, request: &Create) -> bool {
    let listener = spec.linux.seccomp.as_ref().is_some_and(|seccomp| !seccomp.listener_path.is_empty());
    let asks = plan.hooks || listener || plan.terminal.is_some();
    !asks && spec.hooks.start_container.is_empty() && request.pid_file.is_none()
}

/// Who has the other side of the terminal: a socket, or the caller in the foreground. The wording is runc's.
pub(crate) fn check_terminal(terminal: bool, console: bool, foreground: bool) -> Result<()> {
    let text = match (terminal, console) {
        (true, false) if !foreground => "cannot allocate tty if runc will detach without setting console socket",
        (_, true) if foreground || !terminal => "cannot use console socket if runc will not detach or allocate tty",
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::InvalidSpec, text))
}

fn record(spec: &Spec, request: &Create, plan: &Plan<'_>, when: When) -> Result<Record> {
    let namespaces = spec.linux.namespaces.iter();
    Ok(Record {
        id: request.id.to_string(),
        oci_version: spec.oci_version.clone(),
        boot_id: container::boot_id()?.to_string(),
        bundle: request.bundle.clone(),
        rootfs: text(plan.rootfs).into_owned(),
        created: container::now(),
        namespaces: namespaces
            .map(|n| store::Namespace { kind: n.r#type.clone(), path: (!n.path.is_empty()).then(|| n.path.clone()) })
            .collect(),
        cgroup: plan.cgroup.as_ref().map(crate::cgroup::Plan::record),
        annotations_in_config: !spec.annotations.0.is_empty(),
        hooks: store::Hooks {
            start_container: !spec.hooks.start_container.is_empty(),
            poststart: !spec.hooks.poststart.is_empty(),
            poststop: !spec.hooks.poststop.is_empty(),
        },
        waits_on_fifo: when == When::Started,
        no_new_keyring: request.no_new_keyring,
        ..Record::default()
    })
}

/// Where init waits, and where it leaves word when it can't be started.
struct Wait {
    fifo: OwnedFd,
    report: OwnedFd,
}

impl Wait {
    fn new(claim: &Claim<'_>) -> Result<Self> {
        // Under this name nobody waits for `start` yet; see `publish`.
        mkfifoat(claim.dir(), NEW_FIFO, Mode::RUSR | Mode::WUSR).at(|| "make the exec fifo")?;
        // Both ways, so that it opens at once and never ends.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fifo = openat(claim.dir(), NEW_FIFO, flags, Mode::empty()).at(|| "open the exec fifo")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let report =
            openat(claim.dir(), store::REPORT, flags, Mode::RUSR | Mode::WUSR).at(|| "make the report file")?;
        Ok(Self { fifo, report })
    }

    /// From now on the container is created: `start` finds the FIFO.
    fn publish(claim: &Claim<'_>) -> Result<()> {
        let at = || "publish the exec fifo";
        renameat_with(claim.dir(), NEW_FIFO, claim.dir(), FIFO, RenameFlags::NOREPLACE).at(at)
    }
}

fn spawn(plan: &Plan<'_>, opened: &Opened, cgroup: Option<&Cgroup>, wait: Option<&Wait>) -> Result<Spawned> {
    let ends = Ends::new()?;
    let tasks = cgroup.map_or_else(|| Ok(Vec::new()), Cgroup::tasks)?;
    let (flags, inner) = plan.clone_flags;
    let new = |flag| plan.namespaces.new & flag != 0;
    let job = Job {
        channel: orlop_init::Channel(ends.child.as_fd()),
        proc: opened.proc.as_fd(),
        namespaces: Namespaces {
            parent: ends.parent.as_fd(),
            tasks: &tasks,
            joins: &opened.joins,
            user: match &opened.join_user {
                Some(fd) => User::Join(fd.as_fd()),
                None if new(flag::NEWUSER) => User::New,
                None => User::Keep,
            },
            unshare_cgroup: new(flag::NEWCGROUP),
            time: plan.namespaces.time,
            inner,
        },
        loopback: new(flag::NEWNET),
        keyring: plan.keyring(),
        filesystem: Filesystem {
            propagation: plan.propagation,
            tree: opened.tree.as_ref().map(AsFd::as_fd),
            place: plan.rootfs,
            operations: plan.operations,
            root: plan.root,
            final_propagation: plan.final_propagation,
            readonly: plan.readonly,
            readonly_paths: plan.readonly_paths,
            masked_paths: plan.masked_paths,
        },
        hooks: plan.hooks,
        hostname: plan.hostname,
        domainname: plan.domainname,
        sysctls: plan.sysctls,
        terminal: plan.terminal,
        make_cwd: true,
        process: &plan.process,
        start: match wait {
            Some(wait) => Start::Fifo { fifo: wait.fifo.as_fd(), report: wait.report.as_fd() },
            None => Start::Go,
        },
    };
    let cloned = orlop_init::spawn(flags, cgroup.and_then(Cgroup::dir_v2), container, &job).at(|| "clone3")?;
    let mut init = Spawned::new(cloned, ends);
    if inner.is_some() {
        init.follow()?.map_err(|failure| explain(plan, &failure))?;
    }
    Ok(init)
}

/// The parent's part while the child works.
struct Setup<'a, 's> {
    plan: &'a Plan<'a>,
    spec: &'s Spec,
    request: &'s Create,
    opened: Opened,
    init: Spawned,
    record: &'a mut Record,
    /// See [`may_go_ahead`].
    ahead: bool,
    terminal: Option<OwnedFd>,
}

impl Setup<'_, '_> {
    /// Does for the child what it can't do itself, until it is ready. `cgroup` is one whose limits are still to be set.
    fn serve(&mut self, claim: &Claim<'_>, config: &[u8], cgroup: Option<&mut Cgroup>) -> Result<()> {
        let proc = self.opened.proc.as_fd();
        if let Some(maps) = &self.plan.namespaces.maps {
            write_proc(proc, self.init.pid, "uid_map", &maps.uid)?;
            write_proc(proc, self.init.pid, "gid_map", &maps.gid)?;
            self.init.tell(Message::Mapped)?;
        }
        for source in &self.plan.sources {
            self.init.hand(open::source(source, &self.opened, self.init.pid)?.as_fd())?;
        }
        if let (Some(cgroup), Some(plan)) = (cgroup, &self.plan.cgroup) {
            cgroup.apply(plan)?;
        }
        limits(proc, self.init.pid, &self.plan.rlimits, self.plan.oom_score_adj, "process")?;
        if self.plan.process.limited {
            self.init.tell(Message::Limited)?;
        }

        let process = container::process(self.init.pid.as_raw_nonzero().get())?.ok_or_else(|| self.init.died())?;
        (self.record.pid, self.record.start_time) = (self.init.pid.as_raw_nonzero().get(), process.start_time);
        claim.config(config)?;
        claim.record(self.record)?;
        if let Some(socket) = &self.opened.pidfd_socket {
            socket::send_fd(socket, b"pidfd", self.init.pidfd()).at(|| "pidfd socket: send")?;
        }
        if self.ahead {
            self.init.tell(Message::Go)?;
        }
        loop {
            match self.init.listen()? {
                Said::Mounted => {
                    self.run_hooks()?;
                    self.init.tell(Message::Hooked)?;
                }
                Said::Terminal(master) => match &self.opened.console {
                    Some(socket) => {
                        socket::send_fd(socket, b"/dev/ptmx", master.as_fd()).at(|| "console socket: send")?;
                    }
                    None => self.terminal = Some(master),
                },
                Said::Listener(listener) => {
                    if let Some(to) = &self.spec.linux.seccomp {
                        let state = self.state(Status::Creating);
                        pass_listener(&listener, to, &self.spec.oci_version, self.init.pid, &state)?;
                    }
                    self.init.tell(Message::Fetched)?;
                }
                Said::Ready => break,
                Said::Failed(failure) => return Err(explain(self.plan, &failure)),
                Said::Gone => return Err(self.init.died()),
            }
        }
        if self.record.waits_on_fifo {
            return Wait::publish(claim);
        }
        let mut inside = in_container(self.init.pidfd(), self.plan.namespaces.own);
        hooks::run(&self.spec.hooks.start_container, "startContainer", &self.state(Status::Created), &mut inside)
    }

    fn state(&self, status: Status) -> Vec<u8> {
        let spec = self.spec;
        let pid = self.record.pid;
        state::for_hooks(&spec.oci_version, &self.request.id, status, pid, &self.request.bundle, &spec.annotations)
    }

    /// After a hook's failure the container is destroyed, poststop hooks included (runtime.md, "Lifecycle").
    fn run_poststop(&self) {
        let mut host = hooks::on_the_host(Some(Path::new(&self.request.bundle)));
        // The failure that led here is what is reported.
        let _ = hooks::run_all(&self.spec.hooks.poststop, "poststop", &self.state(Status::Stopped), &mut host);
    }

    /// The hooks before the root changes: two kinds on the host, one in the container's namespaces.
    fn run_hooks(&self) -> Result<()> {
        let state = self.state(Status::Creating);
        let list = &self.spec.hooks;
        let mut host = hooks::on_the_host(Some(Path::new(&self.request.bundle)));
        hooks::run(&list.prestart, "prestart", &state, &mut host)?;
        hooks::run(&list.create_runtime, "createRuntime", &state, &mut host)?;
        let mut inside = in_container(self.init.pidfd(), self.plan.namespaces.own);
        hooks::run(&list.create_container, "createContainer", &state, &mut inside)
    }
}

/// Gives a seccomp listener to whoever is to answer (config-linux.md, "The Container Process State").
pub(crate) fn pass_listener(
    listener: &OwnedFd,
    to: &config::Seccomp,
    oci_version: &str,
    pid: Pid,
    state: &[u8],
) -> Result<()> {
    let state: serde_json::Value = serde_json::from_slice(state).unwrap_or_default();
    let message = serde_json::json!({
        "ociVersion": oci_version,
        "fds": ["seccompFd"],
        "pid": pid.as_raw_nonzero().get(),
        "metadata": to.listener_metadata,
        "state": state,
    });
    let socket = socket::connect_to("linux.seccomp.listenerPath", &to.listener_path)?;
    let at = || format!("linux.seccomp.listenerPath {}: send", to.listener_path);
    socket::send_fd(&socket, message.to_string().as_bytes(), listener.as_fd()).at(at)
}

/// A spawner of hooks that run in the namespaces of `init`.
pub(crate) fn in_container(
    init: BorrowedFd<'_>,
    namespaces: u64,
) -> impl FnMut(&config::Hook, hooks::Streams) -> Result<hooks::Started> {
    move |hook, streams| crate::exec::spawn_hook(init, namespaces, hook, &streams)
}

/// Limits that the parent sets, since the child may lack the privilege by then.
pub(crate) fn limits(
    proc: BorrowedFd<'_>,
    pid: Pid,
    rlimits: &[(u32, u64, u64)],
    oom_score_adj: Option<i32>,
    field: &str,
) -> Result<()> {
    for (resource, soft, hard) in rlimits {
        let what = || format!("{field}.rlimits: set {}", rlimit_name(*resource));
        prlimit(pid.as_raw_nonzero().get(), *resource, *soft, *hard).at(what)?;
    }
    match oom_score_adj {
        Some(adjustment) => write_proc(proc, pid, "oom_score_adj", &adjustment.to_string())
            .map_err(|e| e.context(format_args!("{field}.oomScoreAdj"))),
        None => Ok(()),
    }
}

/// The pid as digits, without a newline (callers parse the whole file), there at once or not at all.
pub(crate) fn write_pid_file(path: &str, pid: Pid) -> Result<()> {
    let what = || format!("write the pid file {path}");
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    let directory = if directory.is_empty() { "/" } else { directory };
    let temporary = format!("{directory}/.{name}.{}", pid.as_raw_nonzero());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, temporary.as_str(), flags, Mode::from_raw_mode(0o644)).at(what)?;
    let written = orlop_sys::rustix::io::write(&file, pid.as_raw_nonzero().to_string().as_bytes())
        .and_then(|_| orlop_sys::rustix::fs::renameat(CWD, temporary.as_str(), CWD, path));
    if written.is_err() {
        // The first error is what the caller wants to know.
        let _ = unlinkat(CWD, temporary.as_str(), orlop_sys::fs::AtFlags::empty());
    }
    written.at(what)
}

/// The namespaces of a record that are not ours, as flags.
pub(crate) fn own_namespaces(record: &Record) -> u64 {
    let flag = |kind: &str| NAMESPACES.iter().find(|(name, ..)| *name == kind).map_or(0, |(_, flag, _)| *flag);
    record.namespaces.iter().map(|n| flag(&n.kind)).fold(0, |all, flag| all | flag)
}
