//! From arguments to an [`Invocation`], without any effect.

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use orlop::config::{BlockIo, Cpu, Memory, Pids, Resources};
use orlop::log::Format;

use super::table::{self, Arguments, Entry, Flag, Takes, Value};
use super::{
    Caller, CgroupManager, Command, Create, Exec, ExecArgs, ExecProcess, Global, Invocation, Limits, ListFormat,
    Refusal, Rootless, Run, SubCgroup, completion, duration, help, signal, size,
};

/// What was given, in its order: options of the table with their values, and the arguments beside them.
#[derive(Default)]
struct Given<'a> {
    flags: Vec<(&'static Flag, &'a str)>,
    arguments: Vec<&'a str>,
}

/// How far options reach.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Options {
    /// Also after arguments.
    Anywhere,
    /// Up to the first argument.
    First,
}

impl<'a> Given<'a> {
    /// Reads `args`. On an error, what was read up to there stays.
    fn read(&mut self, args: &[&'a str], known: &[&'static Flag], options: Options) -> Result<(), String> {
        let mut rest = args.iter().copied();
        while let Some(arg) = rest.next() {
            let Some(named) = arg.strip_prefix('-').filter(|named| !named.is_empty()) else {
                self.arguments.push(arg);
                if options == Options::First {
                    break;
                }
                continue;
            };
            if named == "-" {
                break;
            }
            let named = named.strip_prefix('-').unwrap_or(named);
            let (name, inline) = match named.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (named, None),
            };
            if name.is_empty() || name.starts_with('-') {
                return Err(format!("bad flag syntax: {arg}"));
            }
            let flag =
                known.iter().find(|f| f.is(name)).ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
            let value = match (flag.takes, inline) {
                (Takes::Nothing, None) => "true",
                (Takes::Nothing, Some(value)) => {
                    boolean(value).ok_or_else(|| format!("invalid boolean value {value:?} for -{name}: parse error"))?
                }
                (_, Some(value)) => value,
                (_, None) => rest.next().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
            };
            let makes_sense = match flag.value() {
                Some(Value::Number) => number(value).is_some(),
                Some(Value::Duration) => duration::nanoseconds(value).is_some(),
                _ => true,
            };
            if !makes_sense {
                return Err(format!("invalid value {value:?} for flag -{name}: parse error"));
            }
            self.flags.push((flag, value));
        }
        self.arguments.extend(rest);
        Ok(())
    }

    fn last(&self, flag: &'static Flag) -> Option<&'a str> {
        self.flags.iter().rev().find(|(given, _)| std::ptr::eq(*given, flag)).map(|(_, value)| *value)
    }

    fn text(&self, flag: &'static Flag) -> Option<String> {
        self.last(flag).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    fn all(&self, flag: &'static Flag) -> impl Iterator<Item = &'a str> {
        self.flags.iter().filter(move |(given, _)| std::ptr::eq(*given, flag)).map(|(_, value)| *value)
    }

    fn switch(&self, flag: &'static Flag) -> bool {
        self.last(flag) == Some("true")
    }

    fn number(&self, flag: &'static Flag) -> u32 {
        self.last(flag).and_then(number).unwrap_or_default()
    }

    fn argument(&self, at: usize) -> String {
        self.arguments.get(at).copied().unwrap_or_default().to_owned()
    }
}

/// The words that Go takes for a boolean.
fn boolean(text: &str) -> Option<&'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some("true"),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some("false"),
        _ => None,
    }
}

fn number(text: &str) -> Option<u32> {
    text.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok())
}

/// Reads a whole command line, the program's name first.
///
/// # Errors
/// What the caller has to say, where to log it, and how to exit: see [`Refusal`].
pub(crate) fn parse(argv: &[OsString], caller: &Caller) -> Result<Invocation, Box<Refusal>> {
    let mut words = Vec::with_capacity(argv.len());
    let mut unreadable = None;
    for (at, arg) in argv.iter().enumerate() {
        words.push(arg.to_str().unwrap_or_else(|| {
            unreadable.get_or_insert(at);
            ""
        }));
    }
    let (program, words) = words.split_first().map_or(("orlop", &[][..]), |(first, rest)| (*first, rest));

    let mut given = Given::default();
    let read = given.read(words, table::GLOBAL, Options::First);
    let (global, checked) = global(&given, caller);
    let refuse = |message: String, screen: Option<String>, status: u8| {
        Box::new(Refusal { global: global.clone(), message, screen, status })
    };
    if let Some(at) = unreadable {
        return Err(refuse(format!("argument {at} is not valid UTF-8"), None, 1));
    }
    if let Err(message) = read {
        let screen = format!("Incorrect Usage. {message}\n\n{}", help::overview());
        return Err(refuse(message, Some(screen), 1));
    }
    let done = |command| Ok(Invocation { global: global.clone(), command });
    if given.switch(&table::VERSION) {
        return done(Command::Version);
    }
    if given.switch(&table::HELP) {
        return done(Command::Help(help::overview()));
    }
    let Some((&name, words)) = given.arguments.split_first().filter(|(name, _)| !name.is_empty()) else {
        return done(Command::Help(help::overview()));
    };
    // As runc: help works whatever the global options say, everything else needs them to be right.
    if matches!(name, "help" | "h") {
        return match words.first() {
            None => done(Command::Help(help::overview())),
            Some(topic) => match table::find(topic) {
                Some(entry) => done(Command::Help(help::page(entry))),
                None => Err(unknown(topic).map_or_else(|m| refuse(m, None, 3), |m| refuse(m, None, 1))),
            },
        };
    }
    if let Err(message) = checked {
        return Err(refuse(message, None, 1));
    }
    let Some(entry) = table::find(name) else {
        return Err(unknown(name).map_or_else(|m| refuse(m, None, 3), |m| refuse(m, None, 1)));
    };

    let mut given = Given::default();
    let options = if entry.arguments == Arguments::IdAndCommand { Options::First } else { Options::Anywhere };
    if let Err(message) = given.read(words, entry.flags, options) {
        let screen = format!("Incorrect Usage: {message}\n\n{}", help::page(entry));
        return Err(refuse(message, Some(screen), 1));
    }
    if given.switch(&table::HELP) {
        return done(Command::Help(help::page(entry)));
    }
    if let Err(wanted) = count(entry, given.arguments.len()) {
        let screen = format!("Incorrect Usage.\n\n{}", help::page(entry));
        return Err(refuse(format!("{program}: {name:?} requires {wanted} argument(s)"), Some(screen), 1));
    }
    match command(entry, &given) {
        Ok(command) => done(command),
        // A caller tells exec's own failures from its command's exit codes by 255.
        Err(message) if name == "exec" => Err(refuse(format!("exec failed: {message}"), None, 255)),
        Err(message) => Err(refuse(message, None, 1)),
    }
}

/// `Ok` for a command that runc has and this version has not, `Err` for one that nobody knows: what to say.
fn unknown(name: &str) -> Result<String, String> {
    if table::UNSUPPORTED.contains(&name) {
        return Ok(format!("{name}: this version of orlop does not support this command"));
    }
    Err(format!("No help topic for '{name}'"))
}

fn count(entry: &Entry, found: usize) -> Result<(), String> {
    match entry.arguments {
        Arguments::Exactly(n) if found != n => Err(format!("exactly {n}")),
        Arguments::Between(least, _) if found < least => Err(format!("a minimum of {least}")),
        Arguments::Between(_, most) if found > most => Err(format!("a maximum of {most}")),
        Arguments::IdAndCommand if found < 1 => Err("a minimum of 1".to_owned()),
        _ => Ok(()),
    }
}

/// The global options, with the default where one makes no sense, so that the complaint can be logged.
fn global(given: &Given<'_>, caller: &Caller) -> (Global, Result<(), String>) {
    let mut checked = Ok(());
    let mut complain = |message: String| {
        if checked.is_ok() {
            checked = Err(message);
        }
    };
    let log_format = match given.last(&table::LOG_FORMAT) {
        None | Some("" | "text") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => {
            complain(format!("invalid log-format: {other}"));
            Format::Text
        }
    };
    let root = given.text(&table::ROOT);
    if root.as_deref().is_some_and(|root| root.bytes().all(|b| b == b'/')) {
        complain("Option --root argument should not be set to /".to_owned());
    }
    let root_given = root.is_some();
    let root = root.unwrap_or_else(|| match &caller.xdg_runtime_dir {
        Some(dir) if caller.euid != 0 && !dir.is_empty() => format!("{dir}/orlop"),
        _ => "/run/orlop".to_owned(),
    });
    let mut cgroup_manager = CgroupManager::Cgroupfs;
    for (flag, value) in &given.flags {
        if std::ptr::eq(*flag, &table::SYSTEMD_CGROUP) {
            cgroup_manager = if *value == "true" { CgroupManager::Systemd } else { CgroupManager::Cgroupfs };
        } else if std::ptr::eq(*flag, &table::CGROUP_MANAGER) {
            cgroup_manager = match *value {
                "cgroupfs" => CgroupManager::Cgroupfs,
                "systemd" => CgroupManager::Systemd,
                "disabled" => CgroupManager::Disabled,
                other => {
                    complain(format!("invalid cgroup-manager: {other}"));
                    cgroup_manager
                }
            };
        }
    }
    let rootless = match given.last(&table::ROOTLESS) {
        None | Some("auto") => Rootless::Auto,
        Some(value) => match boolean(value) {
            Some("true") => Rootless::True,
            Some(_) => Rootless::False,
            None => {
                complain(format!("invalid rootless value: {value}"));
                Rootless::Auto
            }
        },
    };
    let global = Global {
        root,
        root_given,
        log: given.text(&table::LOG),
        log_format,
        debug: given.switch(&table::DEBUG),
        cgroup_manager,
        rootless,
    };
    (global, checked)
}

fn command(entry: &Entry, given: &Given<'_>) -> Result<Command, String> {
    let id = given.argument(0);
    Ok(match entry.name {
        "create" => Command::Create(create(given)),
        "start" => Command::Start { id },
        "run" => Command::Run(Run {
            create: create(given),
            detach: given.switch(&table::DETACH),
            keep: given.switch(&table::KEEP),
            no_subreaper: given.switch(&table::NO_SUBREAPER),
        }),
        "exec" => Command::Exec(exec(given)?),
        "state" => Command::State { id },
        "kill" => {
            let text = given.arguments.get(1).copied().unwrap_or("SIGTERM");
            let signal = signal::number(text).ok_or_else(|| format!("unknown signal {text:?}"))?;
            Command::Kill { id, signal, all: given.switch(&table::ALL) }
        }
        "delete" => Command::Delete { id, force: given.switch(&table::FORCE) },
        "list" => Command::List { format: format(given)?, quiet: given.switch(&table::QUIET) },
        "ps" => {
            let args = given.arguments.iter().skip(1).map(|&word| word.to_owned()).collect();
            Command::Ps { id, format: format(given)?, args }
        }
        "events" => Command::Events { id, interval: interval(given)? },
        "pause" => Command::Pause { id },
        "resume" => Command::Resume { id },
        "update" => Command::Update { id, limits: limits(given)? },
        "spec" => Command::Spec {
            bundle: given.text(&table::BUNDLE).unwrap_or_else(|| ".".to_owned()),
            rootless: given.switch(&table::SPEC_ROOTLESS),
        },
        "features" => Command::Features,
        "completion" => {
            Command::Completion(completion::Shell::named(&id).ok_or_else(|| format!("unknown shell {id:?}"))?)
        }
        "man" => Command::Man { dir: id },
        other => return Err(format!("{other}: a command of the table that nothing implements")),
    })
}

fn interval(given: &Given<'_>) -> Result<Option<Duration>, String> {
    let nanoseconds = given.last(&table::INTERVAL).map_or(Some(5_000_000_000), duration::nanoseconds);
    match nanoseconds.and_then(|n| u64::try_from(n).ok()) {
        None | Some(0) => Err("duration interval must be greater than 0".to_owned()),
        Some(_) if given.switch(&table::STATS) => Ok(None),
        Some(nanoseconds) => Ok(Some(Duration::from_nanos(nanoseconds))),
    }
}

fn format(given: &Given<'_>) -> Result<ListFormat, String> {
    match given.last(&table::FORMAT) {
        None | Some("table") => Ok(ListFormat::Table),
        Some("json") => Ok(ListFormat::Json),
        Some(_) => Err("invalid format option".to_owned()),
    }
}

/// The single options of `update`; one that is given but empty changes nothing.
fn limits(given: &Given<'_>) -> Result<Limits, String> {
    /// A number as the file has it, with the words of runc if it is none.
    fn read<T: FromStr>(given: &Given<'_>, flag: &'static Flag) -> Result<Option<T>, String> {
        let parse = |text: String| text.parse().map_err(|_| format!("invalid value for {}: {text:?}", flag.name));
        given.text(flag).map(parse).transpose()
    }
    let bytes = |flag: &'static Flag| {
        let parse =
            |text: String| size::bytes(&text).ok_or_else(|| format!("invalid value for {}: {text:?}", flag.name));
        given.text(flag).map(parse).transpose()
    };
    if let Some(file) = given.text(&table::RESOURCES) {
        return Ok(Limits::File(file));
    }
    if let Some(flag) = [&table::L3_CACHE_SCHEMA, &table::MEM_BW_SCHEMA].into_iter().find(|f| given.text(f).is_some()) {
        return Err(format!("--{}: this version of orlop does not support Intel RDT", flag.name));
    }
    let memory = Memory {
        limit: bytes(&table::MEMORY)?,
        reservation: bytes(&table::MEMORY_RESERVATION)?,
        swap: bytes(&table::MEMORY_SWAP)?,
        kernel: bytes(&table::KERNEL_MEMORY)?,
        kernel_tcp: bytes(&table::KERNEL_MEMORY_TCP)?,
        ..Memory::default()
    };
    let cpu = Cpu {
        shares: read(given, &table::CPU_SHARE)?,
        quota: read(given, &table::CPU_QUOTA)?,
        burst: read(given, &table::CPU_BURST)?,
        period: read(given, &table::CPU_PERIOD)?,
        realtime_runtime: read(given, &table::CPU_RT_RUNTIME)?,
        realtime_period: read(given, &table::CPU_RT_PERIOD)?,
        cpus: given.text(&table::CPUSET_CPUS).unwrap_or_default(),
        mems: given.text(&table::CPUSET_MEMS).unwrap_or_default(),
        idle: read(given, &table::CPU_IDLE)?,
    };
    Ok(Limits::Given(Box::new(Resources {
        memory: Some(memory),
        cpu: Some(cpu),
        pids: Some(Pids { limit: read(given, &table::PIDS_LIMIT)? }),
        block_io: Some(BlockIo { weight: read(given, &table::BLKIO_WEIGHT)?, ..BlockIo::default() }),
        ..Resources::default()
    })))
}

fn create(given: &Given<'_>) -> Create {
    Create {
        id: given.argument(0),
        bundle: given.text(&table::BUNDLE).unwrap_or_else(|| ".".to_owned()),
        config: given.text(&table::CONFIG),
        console_socket: given.text(&table::CONSOLE_SOCKET),
        pidfd_socket: given.text(&table::PIDFD_SOCKET),
        pid_file: given.text(&table::PID_FILE),
        no_pivot: given.switch(&table::NO_PIVOT),
        no_new_keyring: given.switch(&table::NO_NEW_KEYRING),
        preserve_fds: given.number(&table::PRESERVE_FDS),
    }
}

fn exec(given: &Given<'_>) -> Result<Exec, String> {
    let process = match given.text(&table::PROCESS) {
        Some(file) => ExecProcess::File(file),
        None => ExecProcess::Args(exec_args(given)?),
    };
    Ok(Exec {
        id: given.argument(0),
        process,
        detach: given.switch(&table::DETACH),
        console_socket: given.text(&table::CONSOLE_SOCKET),
        pidfd_socket: given.text(&table::PIDFD_SOCKET),
        pid_file: given.text(&table::PID_FILE),
        preserve_fds: given.number(&table::PRESERVE_FDS),
        cgroups: sub_cgroups(given.all(&table::CGROUP))?,
        ignore_paused: given.switch(&table::IGNORE_PAUSED),
    })
}

fn exec_args(given: &Given<'_>) -> Result<ExecArgs, String> {
    // `exec ID -- ls` is what people know from other tools; no program is called `--`.
    let command = given.arguments.get(1..).unwrap_or_default();
    let command = command.strip_prefix(&["--"]).unwrap_or(command);
    if command.is_empty() {
        return Err("process args cannot be empty".to_owned());
    }
    let id = |text: &str, what: &str| {
        text.parse::<u32>().map_err(|_| format!("parsing {text} as int for {what} failed: invalid number"))
    };
    let user = match given.last(&table::USER).filter(|user| !user.is_empty()) {
        None => None,
        Some(user) => Some(match user.split_once(':') {
            Some((uid, gid)) => (id(uid, "uid")?, Some(id(gid, "gid")?)),
            None => (id(user, "uid")?, None),
        }),
    };
    let additional_gids = given
        .all(&table::ADDITIONAL_GIDS)
        .flat_map(|list| list.split(','))
        .map(|gid| id(gid.trim(), "additional gid"))
        .collect::<Result<_, _>>()?;
    Ok(ExecArgs {
        args: command.iter().map(|&word| word.to_owned()).collect(),
        tty: given.switch(&table::TTY),
        cwd: given.text(&table::CWD),
        env: given.all(&table::ENV).map(str::to_owned).collect(),
        user,
        additional_gids,
        caps: given.all(&table::CAP).map(str::to_owned).collect(),
        no_new_privs: given.last(&table::NO_NEW_PRIVS).map(|value| value == "true"),
        apparmor: given.text(&table::APPARMOR),
        process_label: given.text(&table::PROCESS_LABEL),
    })
}

/// `--cgroup path` alone, or `--cgroup controller[,controller]:path` for several.
fn sub_cgroups<'a>(given: impl Iterator<Item = &'a str>) -> Result<Vec<SubCgroup>, String> {
    let mut cgroups: Vec<SubCgroup> = Vec::new();
    let mut plain = None;
    let mut options = 0;
    for text in given {
        options += 1;
        let Some((controllers, path)) = text.split_once(':') else {
            plain = Some(text);
            cgroups.push(SubCgroup { controller: None, path: text.to_owned() });
            continue;
        };
        if path.contains(':') {
            return Err(format!("invalid --cgroup argument: {text}"));
        }
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return Err(format!("invalid --cgroup argument: {text} (empty <controller> prefix)"));
            }
            if cgroups.iter().any(|known| known.controller.as_deref() == Some(controller)) {
                return Err(format!("invalid --cgroup argument(s): controller {controller} specified multiple times"));
            }
            cgroups.push(SubCgroup { controller: Some(controller.to_owned()), path: path.to_owned() });
        }
    }
    match plain {
        Some(text) if options > 1 => Err(format!("invalid --cgroup argument: {text} (missing <controller>: prefix)")),
        _ => Ok(cgroups),
    }
}
