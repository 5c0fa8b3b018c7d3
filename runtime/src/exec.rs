//! `exec`: one more process in a container, by a recipe shorter than that of its first.

use orlop_init::{Channel, Exec as Job, Failure, Hook as HookJob, Keyring, Message, Namespaces, User};
use orlop_sys::clone::flag;
use orlop_sys::creds::capget;
use orlop_sys::process::Strings;
use orlop_sys::rustix::fs::{Mode, OFlags, openat};
use orlop_sys::rustix::process::Pid;
use orlop_sys::{AsFd, BorrowedFd, Errno, OwnedFd};

use crate::cgroup::{Join, SubCgroup};
use crate::config::{self, Hook, Process, Spec};
use crate::container::{Container, Operation, Status};
use crate::create::{check_terminal, limits, own_namespaces, pass_listener, write_pid_file};
use crate::error::{At, Error, ErrorKind, Result};
use crate::hooks::{Started, Streams};
use crate::plan::{self, Arena, Surroundings, keyring, plan_process};
use crate::spawn::{Ends, Said, Spawned, explain_process, oom_hint};
use crate::state::{for_hooks, kept_config};
use crate::store::{ContainerId, Store};
use crate::{bpf, host, socket};

/// What is asked of `exec`.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// What to run.
    pub process: What,
    /// Where the terminal's master goes.
    pub console_socket: Option<String>,
    /// Where the pidfd goes.
    pub pidfd_socket: Option<String>,
    /// The file that gets the pid.
    pub pid_file: Option<String>,
    /// How many fds from 3 on the process gets.
    pub preserve_fds: u32,
    /// Cgroups below the container's.
    pub cgroups: Vec<SubCgroup>,
    /// Also in a paused container.
    pub ignore_paused: bool,
    /// It is left alone: then its terminal needs a console socket.
    pub detach: bool,
}

/// What to run.
#[derive(Debug, Clone)]
pub enum What {
    /// A whole process document.
    Document(Box<Process>),
    /// The container's own process, changed.
    Changed(Changes),
}

impl Default for What {
    fn default() -> Self {
        Self::Changed(Changes::default())
    }
}

/// Changes to the container's own process.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// Another working directory.
    pub cwd: Option<String>,
    /// More environment.
    pub env: Vec<String>,
    /// Another user, and group.
    pub user: Option<(u32, Option<u32>)>,
    /// More supplementary groups.
    pub additional_gids: Vec<u32>,
    /// More capabilities.
    pub caps: Vec<String>,
    /// Another no_new_privs.
    pub no_new_privs: Option<bool>,
    /// Another AppArmor profile.
    pub apparmor: Option<String>,
    /// Another SELinux label.
    pub process_label: Option<String>,
}

/// A process that was started.
#[derive(Debug)]
pub struct Executed {
    /// Its pid.
    pub pid: Pid,
    /// The same.
    pub pidfd: OwnedFd,
    /// The master side of its terminal, if it has one and no console socket took it.
    pub terminal: Option<OwnedFd>,
    /// What was asked for and can't be, without being an error.
    pub warnings: Vec<String>,
}

/// Starts a process in a container. When this returns, `execve` has happened.
///
/// # Errors
/// `WrongStatus` in a container that is not there to be entered; whatever the kernel refuses; nothing is left then.
pub fn exec(store: &Store, id: &ContainerId, request: &Request) -> Result<Executed> {
    let container = Container::open(store, id)?;
    container.dir().check_owner()?;
    container.check(if request.ignore_paused { Operation::ExecIgnoringPaused } else { Operation::Exec })?;
    let gone = || Error::new(ErrorKind::WrongStatus, "cannot exec in a stopped container");
    let init = container.pidfd()?.ok_or_else(gone)?;
    let record = container.record();
    let spec = kept_config(container.dir())?;
    let process = process(&spec, &request.process)?;
    let own = own_namespaces(record);

    let arena = Arena::new();
    let compiled = spec.linux.seccomp.as_ref().map(|s| bpf::compile(s, "linux.seccomp", bpf::Arch::HOST));
    let compiled = compiled.transpose()?.flatten();
    let mut warnings = Vec::new();
    let filter = compiled.map(|compiled| {
        warnings.extend(compiled.warnings);
        orlop_init::Filter { program: arena.list(compiled.program), flags: compiled.flags }
    });
    let has_user_namespace = own & flag::NEWUSER != 0;
    let around = Surroundings {
        grantable: if has_user_namespace { u64::MAX } else { capget().at(|| "capget")?.permitted },
        has_user_namespace,
        no_setgroups: false,
        personality: spec.linux.personality.as_ref(),
        preserve_fds: request.preserve_fds,
        listen_fds: 0,
    };
    let mut planned = plan_process(&arena, "process", &process, &around, filter)?;
    warnings.append(&mut planned.warnings);
    let console =
        request.console_socket.as_deref().map(|path| socket::connect_to("console socket", path)).transpose()?;
    check_terminal(process.terminal, console.is_some(), !request.detach)?;
    let pidfd_socket =
        request.pidfd_socket.as_deref().map(|path| socket::connect_to("pidfd socket", path)).transpose()?;

    let cgroup = container.cgroup()?;
    let join = match &cgroup {
        Some(cgroup) => cgroup.join(&request.cgroups)?,
        None => Join { v2: None, tasks: Vec::new() },
    };
    let proc = host::proc()?;
    // Without a mount namespace of its own the container's root is only its init's.
    let root = (own & flag::NEWNS == 0).then(|| root_of(proc.as_fd(), record.pid)).transpose()?;
    let keyring = (!record.no_new_keyring).then(|| keyring(&arena, id.as_str(), has_user_namespace)).transpose()?;

    let ends = Ends::new()?;
    let joins = join_list(init.as_fd(), own)?;
    let job = Job {
        channel: Channel(ends.child.as_fd()),
        proc: proc.as_fd(),
        namespaces: inside(&ends, &join.tasks, &joins, init.as_fd(), own),
        root: root.as_ref().map(AsFd::as_fd),
        keyring: keyring.map(|(name, permissions)| Keyring { name, permissions }),
        affinity: planned.initial_affinity,
        terminal: plan::terminal(&process, false),
        process: &planned.process,
    };
    let explain = |failure| explain_process(&planned.process, &planned.program.to_string_lossy(), &failure);
    let spawn = |v2: Option<&OwnedFd>| orlop_init::spawn(0, v2.map(AsFd::as_fd), orlop_init::exec, &job);
    let cloned = match (spawn(join.v2.as_ref()), &cgroup) {
        // A systemd inside has moved its processes below the cgroup, which may hold none itself then.
        (Err(Errno::BUSY), Some(cgroup)) => {
            let beside = cgroup.join_beside(record.pid.unsigned_abs())?;
            spawn(beside.v2.as_ref())
        }
        (other, _) => other,
    };
    let in_between = job.namespaces.inner.is_some();
    let mut child = Spawned::new(cloned.at(|| "clone3")?, ends);
    if in_between {
        child.follow()?.map_err(explain)?;
    }
    limits(proc.as_fd(), child.pid, &planned.rlimits, planned.oom_score_adj, "process")?;
    if planned.process.limited {
        child.tell(Message::Limited)?;
    }
    let mut terminal = None;
    loop {
        match child.listen()? {
            Said::Terminal(master) => match &console {
                Some(socket) => socket::send_fd(socket, b"/dev/ptmx", master.as_fd()).at(|| "console socket: send")?,
                None => terminal = Some(master),
            },
            Said::Listener(listener) => {
                if let Some(to) = &spec.linux.seccomp {
                    let status = Status::Running;
                    let (version, bundle) = (&record.oci_version, &record.bundle);
                    let state = for_hooks(version, id, status, record.pid, bundle, &spec.annotations);
                    pass_listener(&listener, to, version, child.pid, &state)?;
                }
                child.tell(Message::Fetched)?;
            }
            Said::Ready => break,
            Said::Failed(failure) => return Err(explain(failure)),
            _ => return Err(oom_hint(child.died(), cgroup.as_ref().map_or(0, |c| c.oom_kills()))),
        }
    }
    if let Some(socket) = &pidfd_socket {
        socket::send_fd(socket, b"pidfd", child.pidfd()).at(|| "pidfd socket: send")?;
    }
    if let Some(path) = &request.pid_file {
        write_pid_file(path, child.pid)?;
    }
    child.tell(Message::Go)?;
    match child.listen()? {
        Said::Gone => {}
        Said::Failed(failure) => return Err(explain(failure)),
        _ => return Err(child.died()),
    }
    let (pid, pidfd) = child.release()?;
    Ok(Executed { pid, pidfd, terminal, warnings })
}

fn root_of(proc: BorrowedFd<'_>, pid: i32) -> Result<OwnedFd> {
    let path = format!("{pid}/root");
    openat(proc, path.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(|| format!("open /proc/{path}"))
}

/// The process document: as given, with what it leaves out taken from the container; or the container's own, changed.
fn process(spec: &Spec, what: &What) -> Result<Process> {
    let own = spec.process.clone().unwrap_or_default();
    match what {
        What::Document(document) => {
            let mut process = document.as_ref().clone();
            process.capabilities = process.capabilities.or(own.capabilities);
            process.scheduler = process.scheduler.or(own.scheduler);
            process.io_priority = process.io_priority.or(own.io_priority);
            process.oom_score_adj = process.oom_score_adj.or(own.oom_score_adj);
            process.exec_cpu_affinity = process.exec_cpu_affinity.or(own.exec_cpu_affinity);
            for (given, default) in
                [(&mut process.apparmor_profile, own.apparmor_profile), (&mut process.selinux_label, own.selinux_label)]
            {
                if given.is_empty() {
                    *given = default;
                }
            }
            if process.rlimits.is_empty() {
                process.rlimits = own.rlimits;
            }
            Ok(process)
        }
        What::Changed(changes) => Ok(changed(own, changes)),
    }
}

fn changed(mut process: Process, changes: &Changes) -> Process {
    process.args.clone_from(&changes.args);
    process.terminal = changes.tty;
    process.env.extend(changes.env.iter().cloned());
    process.user.additional_gids.extend(&changes.additional_gids);
    if let Some(cwd) = &changes.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some((uid, gid)) = changes.user {
        (process.user.uid, process.user.gid) = (uid, gid.unwrap_or(process.user.gid));
    }
    if let Some(no_new_privs) = changes.no_new_privs {
        process.no_new_privileges = no_new_privs;
    }
    if let Some(profile) = &changes.apparmor {
        process.apparmor_profile.clone_from(profile);
    }
    if let Some(label) = &changes.process_label {
        process.selinux_label.clone_from(label);
    }
    if !changes.caps.is_empty() {
        let sets = process.capabilities.get_or_insert_with(config::Capabilities::default);
        // Never inheritable: CVE-2022-29162.
        let ambient = (!sets.inheritable.is_empty()).then_some(&mut sets.ambient);
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted].into_iter().chain(ambient) {
            set.extend(changes.caps.iter().cloned());
        }
    }
    process
}

/// All namespaces of `init` in `own` by one call, the user namespace excepted.
fn join_list(init: BorrowedFd<'_>, own: u64) -> Result<Vec<(OwnedFd, u64)>> {
    match own & !flag::NEWUSER {
        0 => Ok(Vec::new()),
        flags => Ok(vec![(init.try_clone_to_owned().at(|| "dup")?, flags)]),
    }
}

/// The namespaces `own` of `init`, for a process that joins them.
fn inside<'a>(
    ends: &'a Ends,
    tasks: &'a [OwnedFd],
    joins: &'a [(OwnedFd, u64)],
    init: BorrowedFd<'a>,
    own: u64,
) -> Namespaces<'a> {
    Namespaces {
        parent: ends.parent.as_fd(),
        tasks,
        joins,
        user: if own & flag::NEWUSER != 0 { User::Join(init) } else { User::Keep },
        unshare_cgroup: false,
        time: None,
        inner: (own & (flag::NEWPID | flag::NEWTIME) != 0).then_some(0),
    }
}

/// Starts a hook in the namespaces of `init`.
pub(crate) fn spawn_hook(init: BorrowedFd<'_>, namespaces: u64, hook: &Hook, streams: &Streams) -> Result<Started> {
    let arena = Arena::new();
    let nul = || Error::invalid(format_args!("hook {}", hook.path), "contains a NUL character");
    let arguments = if hook.args.is_empty() { std::slice::from_ref(&hook.path) } else { hook.args.as_slice() };
    let arguments = Strings::new(arguments).ok_or_else(nul)?;
    let environment = Strings::new(&hook.env).ok_or_else(nul)?;
    let ends = Ends::new()?;
    let joins = join_list(init, namespaces)?;
    let job = HookJob {
        channel: Channel(ends.child.as_fd()),
        namespaces: inside(&ends, &[], &joins, init, namespaces),
        stdio: [streams.stdin.as_fd(), streams.stdout.as_fd(), streams.stderr.as_fd()],
        path: arena.cstr("hook", &hook.path)?,
        arguments: &arguments,
        environment: &environment,
    };
    let cloned = orlop_init::spawn(0, None, orlop_init::hook, &job).at(|| "clone3")?;
    let explain = |failure: Failure| Error::os(format_args!("exec {}", hook.path), failure.errno);
    let in_between = job.namespaces.inner.is_some();
    let mut child = Spawned::new(cloned, ends);
    if in_between {
        child.follow()?.map_err(explain)?;
    }
    match child.listen()? {
        Said::Gone => {}
        Said::Failed(failure) => return Err(explain(failure)),
        _ => return Err(child.died()),
    }
    let (pid, pidfd) = child.release()?;
    Ok(Started { pid, pidfd })
}
