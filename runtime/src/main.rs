//! The command `orlop`: a command line, one call into the library, an exit status.

#![no_main]

mod cli;

use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use orlop::cgroup::{Layout, SubCgroup};
use orlop::config::{self, MAX_DOCUMENT};
use orlop::error::{At, Error, ErrorKind, Result};
use orlop::log::Log;
use orlop::run::Foreground;
use orlop::store::{ContainerId, Store};
use orlop::{
    create, delete, events, exec, features, kill, list, pause, ps, request, run, selfexe, spec, start, state, update,
};
use orlop_sys::AsFd;
use orlop_sys::process::close_range;
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::io::{read, retry_on_intr};
use orlop_sys::rustix::process::{geteuid, getpid};
use orlop_sys::rustix::stdio::stdin;

use cli::{CgroupManager, Command, ExecProcess, Global, Invocation, Limits};

orlop_sys::main!(command);

/// The exit status.
fn command() -> u8 {
    let arguments: Vec<OsString> = env::args_os().collect();
    let caller = cli::Caller { euid: geteuid().as_raw(), xdg_runtime_dir: env::var("XDG_RUNTIME_DIR").ok() };
    let invocation = match cli::parse(&arguments, &caller) {
        Ok(invocation) => invocation,
        Err(refusal) => {
            if let Some(screen) = &refusal.screen {
                print(screen);
            }
            log(&refusal.global).error(&refusal.message);
            return refusal.status;
        }
    };
    let Invocation { global, command } = invocation;
    let mut log = log(&global);
    let failure = if matches!(command, Command::Exec(_)) { 255 } else { 1 };
    match perform(&global, command, caller.euid, &mut log) {
        Ok(status) => status,
        Err(error) => {
            log.error(&error.to_string());
            failure
        }
    }
}

fn log(global: &Global) -> Log {
    Log { file: global.log.clone(), format: global.log_format, debug: global.debug }
}

/// To stdout, at once: nothing flushes it later. A reader that has gone away wants no more.
fn print(text: &str) {
    let _ = wants_more(text);
}

/// Prints, and tells whether somebody still reads.
fn wants_more(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

fn perform(global: &Global, command: Command, euid: u32, log: &mut Log) -> Result<u8> {
    if matches!(command, Command::Create(_) | Command::Run(_) | Command::Exec(_)) {
        if euid != 0 {
            let what = "rootless operation is not supported by this version of orlop; run it as root";
            return Err(Error::unsupported(format_args!("uid {euid}"), what));
        }
        protect()?;
    }
    if !matches!(command, Command::Version | Command::Help(_)) {
        log.prepare()?;
        let version = env!("CARGO_PKG_VERSION");
        log.debug(&format!("orlop {version}, process {}, root {}", std::process::id(), global.root));
    }
    let root = Path::new(&global.root);
    match command {
        Command::Create(args) => {
            let request = request(global, &args)?;
            let created = document(&args).and_then(|config| create::create(&Store::create(root)?, &request, &config));
            let created = created.map_err(|e| e.context(format_args!("create {}", args.id)))?;
            created.warnings.iter().for_each(|warning| log.warning(warning));
        }
        Command::Run(args) => {
            let request = request::Create { foreground: !args.detach, ..request(global, &args.create)? };
            let options = run::Options { detach: args.detach, keep: args.keep, no_subreaper: args.no_subreaper };
            let status = document(&args.create).and_then(|config| {
                run::run(&Store::create(root)?, &request, &config, options, &mut |w| log.warning(w))
            });
            return status.map_err(|e| e.context(format_args!("run {}", args.create.id)));
        }
        Command::Start { id } => {
            let started = id_and_store(root, &id).and_then(|(id, store)| start::start(&store, &id));
            started.map_err(|e| e.context(format_args!("start {id}")))?;
        }
        Command::Exec(args) => {
            let id = args.id.clone();
            let status = execute(root, args, log);
            return status.map_err(|e| e.context(format_args!("exec failed: {id}")));
        }
        Command::State { id } => {
            let text = id_and_store(root, &id).and_then(|(id, store)| state::state(&store, &id));
            print(&text.map_err(|e| e.context(format_args!("state {id}")))?);
            print("\n");
        }
        Command::Kill { id, signal, all } => {
            let whom = if all { kill::Whom::All } else { kill::Whom::Init };
            let killed = id_and_store(root, &id).and_then(|(id, store)| kill::kill(&store, &id, signal, whom));
            killed.map_err(|e| e.context(format_args!("kill {id}")))?;
        }
        Command::Delete { id, force } => {
            let force = if force { delete::Force::Yes } else { delete::Force::No };
            let deleted = id_and_store(root, &id).and_then(|(id, store)| delete::delete(&store, &id, force));
            let notes = deleted.map_err(|e| e.context(format_args!("delete {id}")))?;
            notes.iter().for_each(|note| log.warning(note));
        }
        Command::List { format, quiet } => {
            let format = match format {
                _ if quiet => list::Format::Quiet,
                cli::ListFormat::Table => list::Format::Table,
                cli::ListFormat::Json => list::Format::Json,
            };
            let (text, problems) = list::list(&Store::open(root)?, format)?;
            print(&text);
            problems.iter().for_each(|problem| log.warning(problem));
        }
        Command::Events { id, interval } => {
            let shown = id_and_store(root, &id).and_then(|(id, store)| match interval {
                None => events::stats(&store, &id).map(|line| print(&line)),
                Some(interval) => events::follow(&store, &id, interval, &mut wants_more),
            });
            shown.map_err(|e| e.context(format_args!("events {id}")))?;
        }
        Command::Pause { id } => {
            let paused = id_and_store(root, &id).and_then(|(id, store)| pause::pause(&store, &id));
            paused.map_err(|e| e.context(format_args!("pause {id}")))?;
        }
        Command::Resume { id } => {
            let resumed = id_and_store(root, &id).and_then(|(id, store)| pause::resume(&store, &id));
            resumed.map_err(|e| e.context(format_args!("resume {id}")))?;
        }
        Command::Update { id, limits } => {
            let updated = id_and_store(root, &id).and_then(|(id, store)| {
                let resources = match limits {
                    Limits::File(path) => config::parse("resources", &read_resources(&path)?)?,
                    Limits::Given(resources) => *resources,
                };
                update::update(&store, &id, resources)
            });
            let warnings = updated.map_err(|e| e.context(format_args!("update {id}")))?;
            warnings.iter().for_each(|warning| log.warning(warning));
        }
        Command::Ps { id, format, args } => {
            let pids = id_and_store(root, &id).and_then(|(id, store)| ps::pids(&store, &id));
            let text = pids.and_then(|pids| match format {
                cli::ListFormat::Json => Ok(ps::json(&pids)),
                cli::ListFormat::Table => ps::table(&pids, &args),
            });
            print(&text.map_err(|e| e.context(format_args!("ps {id}")))?);
        }
        Command::Spec { bundle, rootless } => {
            let variant = match rootless {
                true => spec::Variant::Rootless { uid: euid, gid: orlop_sys::rustix::process::getegid().as_raw() },
                false => spec::Variant::Root,
            };
            let cgroups = if Layout::probe()?.is_v2() { spec::Cgroups::V2 } else { spec::Cgroups::V1 };
            spec::write(&bundle, variant, cgroups)?;
        }
        Command::Features => {
            let supported = orlop_sys::seccomp::supported_flags();
            let known = |name: &str| orlop::bpf::flag(name).is_some_and(|bit| supported & bit == bit);
            print(&features::text(&features::features(known)));
        }
        Command::Version => print(&cli::version()),
        Command::Help(text) => print(&text),
        Command::Completion(shell) => print(&cli::completion::script(shell)),
        Command::Man { dir } => {
            cli::man::write(&dir).map_err(|(page, e)| Error::new(ErrorKind::Os, format!("write {page}: {e}")))?;
        }
    }
    Ok(0)
}

/// Runs this program again where a container can't write to it, unless it is there already.
fn protect() -> Result<()> {
    if selfexe::is_protected()? {
        return Ok(());
    }
    let environment = env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let bytes = |strings: Vec<OsString>| strings.into_iter().map(|s| s.as_bytes().to_vec()).collect::<Vec<_>>();
    selfexe::run_protected(bytes(env::args_os().collect()), bytes(environment.collect())).map(|never| match never {})
}

fn id_and_store(root: &Path, id: &str) -> Result<(ContainerId, Store)> {
    Ok((ContainerId::parse(id)?, Store::open(root)?))
}

fn request(global: &Global, args: &cli::Create) -> Result<request::Create> {
    let cgroups = match global.cgroup_manager {
        CgroupManager::Cgroupfs => request::Cgroups::Cgroupfs,
        CgroupManager::Disabled => request::Cgroups::Disabled,
        CgroupManager::Systemd => {
            let what = "the systemd cgroup driver is not supported by this version of orlop";
            return Err(Error::unsupported("--systemd-cgroup", what));
        }
    };
    let listen_fds = listen_fds();
    pass_fds(listen_fds.saturating_add(args.preserve_fds))?;
    Ok(request::Create {
        id: ContainerId::parse(&args.id)?,
        bundle: absolute(&args.bundle)?,
        console_socket: args.console_socket.clone(),
        pidfd_socket: args.pidfd_socket.clone(),
        pid_file: args.pid_file.clone(),
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        preserve_fds: args.preserve_fds,
        listen_fds,
        foreground: false,
        cgroups,
    })
}

/// Sees that the fds which are passed through are there; what our caller has left open beyond them is none of the
/// container's business, nor of a hook's.
fn pass_fds(count: u32) -> Result<()> {
    request::check_preserved_fds(count)?;
    close_range(count.saturating_add(3), u32::MAX, true).at(|| "close_range")
}

/// How many sockets were passed to this process by socket activation (sd_listen_fds(3)).
fn listen_fds() -> u32 {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    match number("LISTEN_PID") {
        Some(pid) if i32::try_from(pid) == Ok(getpid().as_raw_nonzero().get()) => number("LISTEN_FDS").unwrap_or(0),
        _ => 0,
    }
}

/// An absolute, clean path.
fn absolute(path: &str) -> Result<String> {
    let absolute = std::path::absolute(path).at(|| format!("bundle {path}"))?;
    let text = absolute.to_str().ok_or_else(|| Error::invalid("--bundle", "is not UTF-8"))?;
    Ok(orlop::path::clean(text))
}

fn document(args: &cli::Create) -> Result<Vec<u8>> {
    match &args.config {
        Some(path) => read_document(path),
        None => read_document(&format!("{}/config.json", args.bundle)),
    }
}

fn read_document(path: &str) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let what = || format!("JSON specification file {path}");
    let file = openat(CWD, path, flags, Mode::empty()).at(what)?;
    read_all(&file, what)
}

/// The document of `update --resources`: a file, or stdin as `-`.
fn read_resources(path: &str) -> Result<Vec<u8>> {
    match path {
        "-" => read_all(&stdin(), || "read stdin"),
        path => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            read_all(&openat(CWD, path, flags, Mode::empty()).at(|| format!("open {path}"))?, || format!("read {path}"))
        }
    }
}

fn read_all<D: Display>(file: &impl AsFd, what: impl Fn() -> D) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    // One byte more than is taken, so that the parser can say that it is too large.
    while bytes.len() <= MAX_DOCUMENT {
        match retry_on_intr(|| read(file, &mut chunk[..])).at(&what)? {
            0 => break,
            n => bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
    }
    Ok(bytes)
}

fn execute(root: &Path, args: cli::Exec, log: &Log) -> Result<u8> {
    pass_fds(args.preserve_fds)?;
    let (id, store) = id_and_store(root, &args.id)?;
    let process = match args.process {
        ExecProcess::File(path) => {
            let bytes = read_document(&path)?;
            exec::What::Document(config::parse(&path, &bytes)?)
        }
        ExecProcess::Args(a) => exec::What::Changed(exec::Changes {
            args: a.args,
            tty: a.tty,
            cwd: a.cwd,
            env: a.env,
            user: a.user,
            additional_gids: a.additional_gids,
            caps: a.caps,
            no_new_privs: a.no_new_privs,
            apparmor: a.apparmor,
            process_label: a.process_label,
        }),
    };
    let cgroups = args.cgroups.iter().map(|c| match &c.controller {
        Some(controller) => SubCgroup::parse(&format!("{controller}:{}", c.path)),
        None => SubCgroup::parse(&c.path),
    });
    let request = exec::Request {
        process,
        console_socket: args.console_socket,
        pidfd_socket: args.pidfd_socket,
        pid_file: args.pid_file,
        preserve_fds: args.preserve_fds,
        cgroups: cgroups.collect::<Result<_>>()?,
        ignore_paused: args.ignore_paused,
        detach: args.detach,
    };
    let foreground = (!args.detach).then(Foreground::new).transpose()?;
    let executed = exec::exec(&store, &id, &request)?;
    executed.warnings.iter().for_each(|warning| log.warning(warning));
    match foreground {
        Some(mut foreground) => foreground.wait(executed.pid, &executed.pidfd, executed.terminal),
        None => Ok(0),
    }
}
