//! The command line: one static table ([`table`]) that the parser, `--help`, the completions and the man pages share.
//!
//! The syntax is that of runc, since engines were written against it: `--flag value`, `--flag=value`, long names after
//! a single dash (`-no-subreaper`), `--switch=false`, options also after the container id, the last of a repeated
//! option wins. Only `exec` reads no options after the id: what stands there belongs to the container's process.

use std::fmt;
use std::time::Duration;

use orlop::config::Resources;
use orlop::log;

pub(crate) mod completion;
mod duration;
pub(crate) mod help;
pub(crate) mod man;
mod parse;
mod signal;
mod size;
mod table;

pub(crate) use parse::parse;

/// What the defaults depend on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    /// The effective user id.
    pub(crate) euid: u32,
    /// `$XDG_RUNTIME_DIR`.
    pub(crate) xdg_runtime_dir: Option<String>,
}

/// A command line that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invocation {
    /// The options before the command.
    pub(crate) global: Global,
    /// What to do.
    pub(crate) command: Command,
}

/// A command line that does not: print [`screen`](Self::screen) to stdout, log [`message`](Self::message), exit with
/// [`status`](Self::status).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The global options that had been read: they say where to log.
    pub(crate) global: Global,
    /// One line for the log.
    pub(crate) message: String,
    /// What a person at a terminal is shown: the help of the command in question, if that helps.
    pub(crate) screen: Option<String>,
    /// The exit code, as runc's.
    pub(crate) status: u8,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The options before the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Global {
    /// The directory that holds a directory for each container; never `/`.
    pub(crate) root: String,
    /// Whether `root` was given, rather than being the default.
    pub(crate) root_given: bool,
    /// The log file; stderr if absent.
    pub(crate) log: Option<String>,
    /// How a line of the log looks.
    pub(crate) log_format: log::Format,
    /// Log warnings and debugging lines too.
    pub(crate) debug: bool,
    /// Who makes the container's cgroup: the last of `--systemd-cgroup` and `--cgroup-manager`.
    pub(crate) cgroup_manager: CgroupManager,
    /// Whether cgroup permission errors are forgiven.
    pub(crate) rootless: Rootless,
}

/// `--cgroup-manager`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CgroupManager {
    /// Directories made in the cgroup file system.
    Cgroupfs,
    /// A transient unit asked of systemd.
    Systemd,
    /// The container stays in the caller's cgroup.
    Disabled,
}

/// `--rootless`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rootless {
    /// By the effective user id and the user namespace.
    Auto,
    /// Yes.
    True,
    /// No.
    False,
}

/// A command with its options. Container ids are as given; the library checks them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// `create`.
    Create(Create),
    /// `start`.
    Start {
        /// The container.
        id: String,
    },
    /// `run`.
    Run(Run),
    /// `exec`.
    Exec(Exec),
    /// `state`.
    State {
        /// The container.
        id: String,
    },
    /// `kill`.
    Kill {
        /// The container.
        id: String,
        /// The signal's number, 0 to 64.
        signal: i32,
        /// Every process of the container, not only the init process.
        all: bool,
    },
    /// `delete`.
    Delete {
        /// The container.
        id: String,
        /// Kill it first; and a container that does not exist is a success.
        force: bool,
    },
    /// `list`.
    List {
        /// How it is printed.
        format: ListFormat,
        /// Only the ids.
        quiet: bool,
    },
    /// `ps`.
    Ps {
        /// The container.
        id: String,
        /// How it is printed.
        format: ListFormat,
        /// For the host's ps.
        args: Vec<String>,
    },
    /// `events`.
    Events {
        /// The container.
        id: String,
        /// Between two lines of statistics; absent for one line and no more (`--stats`).
        interval: Option<Duration>,
    },
    /// `pause`.
    Pause {
        /// The container.
        id: String,
    },
    /// `resume`.
    Resume {
        /// The container.
        id: String,
    },
    /// `update`.
    Update {
        /// The container.
        id: String,
        /// What is to change.
        limits: Limits,
    },
    /// `spec`.
    Spec {
        /// Where config.json is to be written.
        bundle: String,
        /// The variant for a caller who is not root.
        rootless: bool,
    },
    /// `features`.
    Features,
    /// `--version`.
    Version,
    /// `--help`, `help`, no command at all; the text.
    Help(String),
    /// `completion SHELL`.
    Completion(completion::Shell),
    /// `man DIR`.
    Man {
        /// Where the pages are to be written.
        dir: String,
    },
}

/// `create`, and what `run` shares with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Create {
    /// The container.
    pub(crate) id: String,
    /// The bundle directory; `.` if not given.
    pub(crate) bundle: String,
    /// The configuration, if it is not the bundle's config.json.
    pub(crate) config: Option<String>,
    /// The socket that gets the terminal's master.
    pub(crate) console_socket: Option<String>,
    /// The socket that gets the init process' pidfd.
    pub(crate) pidfd_socket: Option<String>,
    /// The file that gets the init process' pid.
    pub(crate) pid_file: Option<String>,
    /// Move the root file system instead of pivoting.
    pub(crate) no_pivot: bool,
    /// Keep the caller's session keyring.
    pub(crate) no_new_keyring: bool,
    /// How many file descriptors beyond stdio and `LISTEN_FDS` the process inherits.
    pub(crate) preserve_fds: u32,
}

/// `run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// As for `create`.
    pub(crate) create: Create,
    /// Return when the container runs.
    pub(crate) detach: bool,
    /// Don't delete the container when it has ended.
    pub(crate) keep: bool,
    /// Don't reap orphans.
    pub(crate) no_subreaper: bool,
}

/// `exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exec {
    /// The container.
    pub(crate) id: String,
    /// What to run.
    pub(crate) process: ExecProcess,
    /// Return when the process runs.
    pub(crate) detach: bool,
    /// The socket that gets the terminal's master.
    pub(crate) console_socket: Option<String>,
    /// The socket that gets the process' pidfd.
    pub(crate) pidfd_socket: Option<String>,
    /// The file that gets the process' pid.
    pub(crate) pid_file: Option<String>,
    /// How many file descriptors beyond stdio and `LISTEN_FDS` the process inherits.
    pub(crate) preserve_fds: u32,
    /// Cgroups below the container's to run in.
    pub(crate) cgroups: Vec<SubCgroup>,
    /// Also into a paused container.
    pub(crate) ignore_paused: bool,
}

/// What `exec` runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExecProcess {
    /// A file with the `process` object; the options below don't matter then.
    File(String),
    /// The command line, over the container's own `process`.
    Args(ExecArgs),
}

/// A process given on the command line. What is absent is taken from the container's own process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ExecArgs {
    /// The command and its arguments; never empty.
    pub(crate) args: Vec<String>,
    /// With a terminal.
    pub(crate) tty: bool,
    /// The working directory.
    pub(crate) cwd: Option<String>,
    /// `NAME=value`, appended to the container's.
    pub(crate) env: Vec<String>,
    /// The user id, and the group id if given.
    pub(crate) user: Option<(u32, Option<u32>)>,
    /// Supplementary groups, beyond the container's.
    pub(crate) additional_gids: Vec<u32>,
    /// Capabilities, beyond the container's.
    pub(crate) caps: Vec<String>,
    /// `--no-new-privs` if given.
    pub(crate) no_new_privs: Option<bool>,
    /// The AppArmor profile.
    pub(crate) apparmor: Option<String>,
    /// The SELinux label.
    pub(crate) process_label: Option<String>,
}

/// One `exec --cgroup [controller:]path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubCgroup {
    /// The v1 controller; absent for all of them.
    pub(crate) controller: Option<String>,
    /// The path below the container's own cgroup.
    pub(crate) path: String,
}

/// What `update` is to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Limits {
    /// What this file says; `-` is stdin. The single options don't matter then.
    File(String),
    /// What the single options say.
    Given(Box<Resources>),
}

/// `list --format` and `ps --format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListFormat {
    /// Columns.
    Table,
    /// An array of states.
    Json,
}

/// What `--version` prints: engines split the first line at spaces and the second at its colon.
pub(crate) fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let commit = option_env!("ORLOP_COMMIT").unwrap_or(version);
    format!("orlop version {version}\ncommit: {commit}\nspec: {}\n", orlop::features::SPEC_VERSION)
}
