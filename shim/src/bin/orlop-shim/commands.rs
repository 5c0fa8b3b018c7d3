//! What each command does.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use orlop::container::boot_id;
use orlop::error::{At, Error, ErrorKind, Result};
use orlop::run::Foreground;
use orlop::store::ContainerId;
use orlop::{exec, pause, selfexe};
use orlop_shim::alone::attach::attach;
use orlop_shim::alone::container;
use orlop_shim::alone::folder::{self, Folder, Root};
use orlop_shim::alone::launch::{Mode, Monitor, News};
use orlop_shim::alone::log::Log;
use orlop_shim::alone::logs::{self, Query};
use orlop_shim::alone::notify::notify;
use orlop_shim::alone::record::{Format, Stream};
use orlop_shim::alone::restart::Policy;
use orlop_shim::alone::show;
use orlop_shim::alone::state::{Condition, Options, Phase, State};
use orlop_shim::alone::stats::{Row, Sample, stats};
use orlop_shim::alone::stop::{self, Found};
use orlop_shim::alone::time::Time;
use orlop_sys::AsFd;
use orlop_sys::process::dup_to;
use orlop_sys::rustix::fs::{CWD, Mode as FileMode, OFlags, openat, renameat};
use orlop_sys::rustix::io::write;
use orlop_sys::rustix::process::geteuid;
use orlop_sys::rustix::stdio::{stderr, stdout};

use crate::cli::{self, Cli, Command, Global};
use crate::client::{How, Why, put, relay, resize};
use crate::{complain, invalid, manual, print};

const STATE: &str = "/var/lib/orlop-shim";
/// The status of a command that could not do what it was asked.
const FAILURE: u8 = 1;
/// The same for those whose status is otherwise that of a container.
const OWN_FAILURE: u8 = 125;

/// A failure, and the exit status for it.
type Failure = (u8, Error);

/// The exit status.
pub(crate) fn perform(cli: &Cli) -> u8 {
    let name = cli.command.name();
    let done = match &cli.command {
        Command::Run(args) => run(&cli.global, args),
        Command::Start(args) => start(&cli.global, args),
        Command::Exec(args) => execute(&cli.global, args).map_err(|e| (container::failure_status(&e.to_string()), e)),
        Command::Attach(args) => attach_to(&cli.global, args).map_err(|e| (FAILURE, e)),
        other => simple(&cli.global, other).map_err(|e| (FAILURE, e)),
    };
    match done {
        Ok(status) => status,
        Err((status, error)) => {
            complain(&format!("{name}: {error}"));
            status
        }
    }
}

/// Commands that succeed or fail.
fn simple(global: &Global, command: &Command) -> Result<u8> {
    match command {
        Command::Stop(args) => each(global, "stop", &args.ids, |_, found| stop::stop(&found, args.signal, args.time)),
        Command::Restart(args) => each(global, "restart", &args.ids, |root, found| {
            stop::stop(&found, args.signal, args.time)?;
            begin(root, &found.folder, Mode::Again).map(drop)
        }),
        Command::Kill(args) => each(global, "kill", &args.ids, |_, found| stop::kill(&found, args.signal)),
        Command::Pause(args) => each(global, "pause", &args.ids, |_, found| {
            found.alive()?;
            pause::pause(&found.place().store()?, found.folder.id())
        }),
        Command::Unpause(args) => each(global, "unpause", &args.ids, |_, found| {
            found.alive()?;
            pause::resume(&found.place().store()?, found.folder.id())
        }),
        Command::Rm(args) => each(global, "rm", &args.ids, |root, found| stop::remove(root, &found, args.force)),
        Command::Wait(args) => wait(global, args),
        Command::Reattach(args) => reattach(global, args),
        Command::Ps(args) => ps(global, args),
        Command::Inspect(args) => inspect(global, args),
        Command::Logs(args) => show_logs(global, args),
        Command::Stats(args) => show_stats(global, args),
        Command::Completion(args) => {
            print(&manual::completion(args));
            Ok(0)
        }
        Command::Man(args) => manual::man(args).map(|()| 0),
        Command::Run(_) | Command::Start(_) | Command::Exec(_) | Command::Attach(_) => Ok(0),
    }
}

/// The state directory that the command line names, or the environment, or the usual one.
fn root(global: &Global) -> Result<Root> {
    let named = global.state.clone().or_else(|| std::env::var("ORLOP_SHIM_STATE").ok());
    let path = named.filter(|path| !path.is_empty());
    Root::open(&absolute(path.as_deref().unwrap_or(STATE))?)
}

fn absolute(path: &str) -> Result<String> {
    let absolute = std::path::absolute(path).at(|| path)?;
    let text = absolute.to_str().ok_or_else(|| invalid(format!("{path}: is not UTF-8")))?;
    Ok(orlop::path::clean(text))
}

fn find(root: &Root, id: &str) -> Result<Found> {
    Found::new(root.folder(&ContainerId::parse(id)?)?)
}

/// Does the same for each container, and prints the ids of those for which it was done.
fn each(global: &Global, name: &str, ids: &[String], mut work: impl FnMut(&Root, Found) -> Result<()>) -> Result<u8> {
    let root = root(global)?;
    let mut status = 0;
    for id in ids {
        match find(&root, id).and_then(|found| work(&root, found)) {
            Ok(()) => {
                print(&format!("{id}\n"));
            }
            Err(error) => {
                complain(&about(name, id, &error));
                status = FAILURE;
            }
        }
    }
    Ok(status)
}

/// `stop web: why`: the container is named once.
fn about(name: &str, id: &str, error: &Error) -> String {
    let text = error.to_string();
    match text.strip_prefix(id).is_some_and(|rest| rest.starts_with(':')) {
        true => format!("{name} {text}"),
        false => format!("{name} {id}: {text}"),
    }
}

fn with(status: u8) -> impl Fn(Error) -> Failure {
    move |error| (status, error)
}

fn run(global: &Global, args: &cli::Run) -> std::result::Result<u8, Failure> {
    let own = with(OWN_FAILURE);
    let (root, folder) = prepare(global, args).map_err(&own)?;
    let options = Options::load(&folder).map_err(&own)?;
    let monitor = Monitor::launch(&root, folder.id(), Mode::New).map_err(&own)?;
    let failed = |(status, error): Failure| {
        // Until it has cleared away what there was of a container that never ran; then nothing is left.
        last_status(&monitor);
        if State::load(&folder).is_ok_and(|state| state.started_at.is_empty()) {
            let _ = root.remove(&folder);
        }
        (status, Error::new(error.kind(), format!("{}: {error}", args.id)))
    };
    if args.detach {
        monitor.go(false);
        warn(&monitor.started().map_err(failed)?);
        announce(args, &monitor, true).map_err(&own)?;
        print(&format!("{}\n", folder.id()));
        return Ok(0);
    }
    let socket = match monitor.news() {
        News::Ready => attach(&folder).map_err(&own).map_err(failed)?,
        News::Failed(status, text) => return Err(failed((status, Error::new(ErrorKind::Os, text)))),
        _ => return Err(failed((OWN_FAILURE, Error::new(ErrorKind::Os, "the monitor died unexpectedly")))),
    };
    if options.terminal {
        resize(&folder);
    }
    monitor.go(true);
    warn(&monitor.started().map_err(failed)?);
    announce(args, &monitor, false).map_err(&own)?;
    let how = How { input: options.interactive, terminal: options.terminal };
    let mut pass = |signal| find(&root, &args.id).and_then(|found| stop::kill(&found, signal)).is_ok();
    match relay(&socket, &folder, how, &mut pass).map_err(&own)? {
        Why::Ended => Ok(last_status(&monitor)),
        Why::Left => {
            complain("read escape sequence; the container goes on");
            Ok(0)
        }
        Why::Signalled(signal) => Ok(signalled(signal)),
    }
}

fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| complain(&format!("warning: {warning}")));
}

/// As a shell counts.
fn signalled(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// How the container has ended, from its monitor, which is about to say it.
fn last_status(monitor: &Monitor) -> u8 {
    loop {
        match monitor.news() {
            News::Exited(status) | News::Failed(status, _) => return status,
            News::Gone => return u8::MAX,
            News::Ready | News::Started | News::Warning(_) => {}
        }
    }
}

/// All that can be checked before anything is there; and then the folder.
fn prepare(global: &Global, args: &cli::Run) -> Result<(Root, Folder)> {
    if !geteuid().is_root() {
        return Err(Error::unsupported("rootless", "not supported by this version of orlop; run it as root"));
    }
    let id = ContainerId::parse(&args.id)?;
    if args.remove && args.restart != Policy::No {
        return Err(invalid("--rm and --restart: one forgets the container when it ends, the other starts it again"));
    }
    let path = |path: &Option<String>| path.as_deref().map_or(Ok(String::new()), absolute);
    let mut options = Options {
        bundle: absolute(&args.bundle)?,
        root: absolute(&global.root)?,
        log: path(&args.log)?,
        log_format: args.log_format,
        log_max_size: args.log_max_size.unwrap_or(0),
        log_max_files: args.log_max_files,
        restart: args.restart,
        stop_signal: args.stop_signal.unwrap_or(0),
        stop_timeout: args.stop_timeout,
        interactive: args.interactive,
        once: args.interactive && !args.detach,
        remove: args.remove,
        add_terminal: args.tty,
        pid_file: path(&args.pid_file)?,
        notify: args.notify,
        notify_socket: std::env::var("NOTIFY_SOCKET").unwrap_or_default(),
        ..Options::default()
    };
    container::read(&mut options)?;
    if !options.log.is_empty() {
        let opened = Log::open(&options.log, options.log_format, options.log_max_size, options.log_max_files);
        opened.map_err(|text| Error::new(ErrorKind::Os, text))?;
    }
    let root = root(global)?;
    let folder = root.claim(&id)?;
    options.save(&folder)?;
    State { created_at: Time::now().short(), ..State::default() }.save(&folder)?;
    Ok((root, folder))
}

/// To whom it may concern: a file, and a service manager that waits for word (sd_notify(3)).
fn announce(args: &cli::Run, monitor: &Monitor, is_main: bool) -> Result<()> {
    if let Some(path) = &args.monitor_pid_file {
        let at = || path.clone();
        let new = format!("{path}.new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(CWD, &new, flags, FileMode::from_raw_mode(0o644)).at(at)?;
        write(&file, format!("{}\n", monitor.pid).as_bytes()).at(at)?;
        renameat(CWD, &new, CWD, path).at(at)?;
    }
    if let Some(address) = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) {
        let main = if is_main { format!("\nMAINPID={}", monitor.pid) } else { String::new() };
        notify(address.as_bytes(), &format!("READY=1{main}\nSTATUS=container {}", args.id)).at(|| "NOTIFY_SOCKET")?;
    }
    Ok(())
}

/// Leaves a monitor behind for a container that is there.
fn begin(root: &Root, folder: &Folder, mode: Mode) -> Result<Monitor> {
    if mode != Mode::Adopt {
        folder.remove(folder::STOP)?;
    }
    let monitor = Monitor::launch(root, folder.id(), mode)?;
    warn(&monitor.started().map_err(|(_, error)| error)?);
    Ok(monitor)
}

fn start(global: &Global, args: &cli::Start) -> std::result::Result<u8, Failure> {
    let failure = with(FAILURE);
    if args.attach && args.ids.len() != 1 {
        return Err((FAILURE, invalid("--attach: one container only")));
    }
    let status = each(global, "start", &args.ids, |root, found| {
        if found.condition.is_alive() || found.condition == Condition::Restarting {
            return Ok(());
        }
        // The one before may be on its way out.
        if let Some(monitor) = found.monitor() {
            stop::wait(&monitor, Some(Duration::from_secs(10)))?;
        }
        begin(root, &found.folder, Mode::Again).map(drop)
    });
    let status = status.map_err(&failure)?;
    match args.ids.as_slice() {
        [id] if args.attach && status == 0 => {
            let args = cli::Attach { no_stdin: false, no_sig_proxy: false, id: id.clone() };
            attach_to(global, &args).map_err(failure)
        }
        _ => Ok(status),
    }
}

fn attach_to(global: &Global, args: &cli::Attach) -> Result<u8> {
    let root = root(global)?;
    let found = find(&root, &args.id)?;
    found.alive()?;
    if found.condition == Condition::Paused {
        return Err(Error::new(
            ErrorKind::WrongStatus,
            format!("{}: the container is paused: unpause it first", args.id),
        ));
    }
    let Some(monitor) = found.monitor() else {
        let text = format!("{}: nobody keeps the container: orlop-shim reattach {}", args.id, args.id);
        return Err(Error::new(ErrorKind::WrongStatus, text));
    };
    let socket = attach(&found.folder)?;
    let has_input = found.options.interactive || found.options.terminal;
    let how = How { input: has_input && !args.no_stdin, terminal: found.options.terminal };
    let mut pass = |signal| {
        let pass = || stop::kill(&find(&root, &args.id)?, signal);
        !args.no_sig_proxy && pass().is_ok()
    };
    match relay(&socket, &found.folder, how, &mut pass)? {
        Why::Ended => {
            stop::wait(&monitor, Some(Duration::from_secs(30)))?;
            // One that is forgotten when it has ended is not there any more.
            Ok(State::load(&found.folder).map_or(0, |state| state.exit_code))
        }
        Why::Left => {
            complain("read escape sequence; the container goes on");
            Ok(0)
        }
        Why::Signalled(signal) => Ok(signalled(signal)),
    }
}

fn wait(global: &Global, args: &cli::Ids) -> Result<u8> {
    let root = root(global)?;
    let mut status = 0;
    for id in &args.ids {
        let code = find(&root, id).and_then(|found| {
            match found.monitor() {
                Some(monitor) => stop::wait(&monitor, None).map(drop)?,
                None if found.condition == Condition::Unwatched => {
                    let init = found.place().open()?.pidfd()?;
                    init.as_ref().map(|init| stop::wait(init, None)).transpose()?;
                    return Ok(found.state.init.exit_code(init.as_ref()));
                }
                None => {}
            }
            State::load(&found.folder).map(|state| state.exit_code)
        });
        match code {
            Ok(code) => {
                print(&format!("{code}\n"));
            }
            Err(error) => {
                complain(&about("wait", id, &error));
                status = FAILURE;
            }
        }
    }
    Ok(status)
}

fn reattach(global: &Global, args: &cli::Reattach) -> Result<u8> {
    if !args.all {
        return each(global, "reattach", &args.ids, |root, found| {
            if found.monitor().is_some() {
                return Ok(());
            }
            match found.condition {
                Condition::Unwatched | Condition::Paused | Condition::Lost => {
                    begin(root, &found.folder, Mode::Adopt).map(drop)
                }
                condition => {
                    let text = format!("{}: the container is {}", found.folder.id(), condition.word());
                    Err(Error::new(ErrorKind::WrongStatus, text))
                }
            }
        });
    }
    let root = root(global)?;
    let boot = boot_id()?;
    let mut status = 0;
    for id in root.ids()? {
        let again = find(&root, id.as_str()).and_then(|found| {
            let lost = matches!(found.condition, Condition::Unwatched | Condition::Lost)
                || (found.condition == Condition::Paused && found.monitor().is_none());
            let stopped = found.folder.has(folder::STOP);
            let booted = found.state.phase == Phase::Exited
                && found.state.boot_id != boot
                && found.options.restart.starts_at_boot(stopped);
            let mode = if booted { Mode::Again } else { Mode::Adopt };
            (lost || booted).then(|| begin(&root, &found.folder, mode)).transpose()
        });
        match again {
            Ok(None) => {}
            Ok(Some(_)) => {
                print(&format!("{id}\n"));
            }
            Err(error) => {
                complain(&about("reattach", id.as_str(), &error));
                status = FAILURE;
            }
        }
    }
    Ok(status)
}

/// All containers; one that can't be read is complained about.
fn all(root: &Root) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for id in root.ids()? {
        match find(root, id.as_str()) {
            Ok(found) => all.push(found),
            // Removed since.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => complain(&about("ps", id.as_str(), &e)),
        }
    }
    Ok(all)
}

fn ps(global: &Global, args: &cli::Ps) -> Result<u8> {
    let mut found = all(&root(global)?)?;
    found.retain(|found| args.all || found.condition.is_alive() || found.condition == Condition::Restarting);
    // The youngest first.
    found.sort_by(|a, b| b.state.created_at.cmp(&a.state.created_at));
    let now = Time::now();
    let text = if args.json {
        let documents: Vec<_> = found.iter().map(|found| show::document(found, now)).collect();
        pretty(&documents.into())
    } else if args.quiet {
        found.iter().map(|found| format!("{}\n", found.folder.id())).collect()
    } else {
        show::ps(&found, args.no_trunc, now)
    };
    print(&text);
    Ok(0)
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

fn inspect(global: &Global, args: &cli::Ids) -> Result<u8> {
    let root = root(global)?;
    let (mut documents, mut status, now) = (Vec::new(), 0, Time::now());
    for id in &args.ids {
        match find(&root, id) {
            Ok(found) => documents.push(show::document(&found, now)),
            Err(error) => {
                complain(&about("inspect", id, &error));
                status = FAILURE;
            }
        }
    }
    print(&pretty(&documents.into()));
    Ok(status)
}

fn show_logs(global: &Global, args: &cli::Logs) -> Result<u8> {
    let now = Time::now();
    let time = |name: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => match Time::parse_since(text, now) {
            None => Err(invalid(format!("--{name}: {text:?} is no time, no number of seconds and no span"))),
            time => Ok(time),
        },
    };
    let query = Query {
        since: time("since", &args.since)?,
        until: time("until", &args.until)?,
        tail: match args.tail.as_str() {
            "all" => None,
            // As Docker has it: a negative number is no bound.
            text if text.starts_with('-') && text.parse::<i64>().is_ok() => None,
            text => Some(text.parse().map_err(|_| invalid(format!("--tail: {text:?} is no number")))?),
        },
        follow: args.follow,
        times: args.timestamps,
    };
    let root = root(global)?;
    let folder = root.folder(&ContainerId::parse(&args.id)?)?;
    let options = Options::load(&folder)?;
    if options.log_format == Format::None {
        return Err(Error::unsupported(&args.id, "it was run with --log-format none"));
    }
    let path = options.log_path(&folder);
    let alive = || {
        let now = root.folder(folder.id()).is_ok_and(|now| now.is(&folder));
        now && State::load(&folder)
            .is_ok_and(|state| state.monitor.lives() || Condition::observe(&folder, &state, None).is_alive())
    };
    let mut sink = |stream: Stream, bytes: &[u8]| match stream {
        Stream::Stdout => put(stdout(), bytes),
        Stream::Stderr => put(stderr(), bytes),
    };
    logs::Logs::new(&path, options.log_format, &query).read(folder.path(), &alive, &mut sink)?;
    Ok(0)
}

fn show_stats(global: &Global, args: &cli::Stats) -> Result<u8> {
    use std::io::IsTerminal;
    let root = root(global)?;
    for id in &args.ids {
        find(&root, id)?;
    }
    let live = std::io::stdout().is_terminal() && !args.json && !args.no_stream;
    let mut before: Vec<(String, Option<Sample>)> = Vec::new();
    loop {
        let found: Vec<Found> = if args.ids.is_empty() {
            let mut all = all(&root)?;
            all.retain(|found| found.condition.is_alive());
            all
        } else {
            args.ids.iter().filter_map(|id| find(&root, id).ok()).collect()
        };
        let now: Vec<(String, Option<Sample>)> =
            found.iter().map(|found| (found.folder.id().to_string(), Sample::take(found))).collect();
        // The first round only says how much there was before.
        if !before.is_empty() || now.is_empty() {
            let row = |(id, now): &(String, Option<Sample>)| {
                let earlier = before.iter().find(|(earlier, _)| earlier == id).and_then(|(_, sample)| *sample);
                Row { id: id.clone(), samples: now.map(|now| (earlier.unwrap_or(now), now)).unwrap_or_default() }
            };
            let rows: Vec<Row> = now.iter().map(row).collect();
            let text = if args.json {
                rows.iter().map(|row| format!("{}\n", row.document())).collect()
            } else if live {
                // From the top, line by line, and nothing below: nothing flickers.
                format!("\x1b[H{}\x1b[J", stats(&rows).replace('\n', "\x1b[K\n"))
            } else {
                stats(&rows)
            };
            if !print(&text) || args.no_stream {
                return Ok(0);
            }
        } else if live {
            print("\x1b[H\x1b[2J");
        }
        before = now;
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Runs this program again where a container can't write to it, unless it is there already.
fn protect() -> Result<()> {
    if selfexe::is_protected()? {
        return Ok(());
    }
    let environment = std::env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='));
    selfexe::run_protected(std::env::args_os().map(OsString::into_vec), environment).map(|never| match never {})
}

fn execute(global: &Global, args: &cli::Exec) -> Result<u8> {
    let root = root(global)?;
    let found = find(&root, &args.id)?;
    found.alive()?;
    protect()?;
    if !args.interactive && !args.tty {
        let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty()).at(|| "/dev/null")?;
        dup_to(null.as_fd(), 0, false).at(|| "stdin")?;
    }
    let request = exec::Request {
        process: exec::What::Changed(exec::Changes {
            args: args.command.clone(),
            tty: args.tty && !args.detach,
            cwd: args.workdir.clone(),
            env: args.env.clone(),
            user: args.user,
            ..exec::Changes::default()
        }),
        detach: args.detach,
        ..exec::Request::default()
    };
    let foreground = (!args.detach).then(Foreground::new).transpose()?;
    let executed = exec::exec(&found.place().store()?, found.folder.id(), &request)?;
    executed.warnings.iter().for_each(|warning| complain(warning));
    match foreground {
        Some(mut foreground) => foreground.wait(executed.pid, &executed.pidfd, executed.terminal),
        None => Ok(0),
    }
}
