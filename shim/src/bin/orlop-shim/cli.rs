//! The command line: what there is to say.

use clap::{Args, Parser, Subcommand};
use orlop_shim::alone::container::parse_signal;
use orlop_shim::alone::record::Format;
use orlop_shim::alone::restart::Policy;

/// Containers without an engine: one process keeps one container, its log, and its restarts.
#[derive(Debug, Parser)]
#[command(name = "orlop-shim", version, max_term_width = 110, disable_help_subcommand = true, after_help = START)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const START: &str = "\
A first round:
  orlop-bundle create registry.example/web:1 web
  orlop-shim run -d --restart unless-stopped -b web web1
  orlop-shim ps
  orlop-shim logs -f web1
  orlop-shim exec web1 ps
  orlop-shim stop web1
  orlop-shim rm web1";

/// What every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the state of containers is kept, and their logs; else $ORLOP_SHIM_STATE, or /var/lib/orlop-shim
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) state: Option<String>,
    /// The runtime's own state, as orlop --root has it, for containers that are run
    #[arg(long, value_name = "DIR", global = true, default_value = "/run/orlop")]
    pub(crate) root: String,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a container of a bundle
    Run(Run),
    /// Start containers that have ended
    Start(Start),
    /// Stop containers: their stop signal, and SIGKILL when their time is over
    Stop(Stop),
    /// Stop containers, and start them again
    Restart(Stop),
    /// Send a signal to containers
    Kill(Kill),
    /// Stop all processes of containers, until unpause
    Pause(Ids),
    /// Let paused containers go on
    #[command(visible_alias = "resume")]
    Unpause(Ids),
    /// Forget containers, and what was logged in their folders
    Rm(Rm),
    /// List containers
    #[command(visible_aliases = ["list", "ls"])]
    Ps(Ps),
    /// Show what a container has written
    Logs(Logs),
    /// Show what containers use
    Stats(Stats),
    /// Join the streams of a running container; Ctrl-P Ctrl-Q leaves a terminal again
    Attach(Attach),
    /// Run one more program in a container
    Exec(Exec),
    /// Show all that is known of containers, in JSON
    Inspect(Ids),
    /// Wait until containers have ended, and print their exit status
    Wait(Ids),
    /// Keep containers again whose monitor has died, and start those that are to run after a boot
    Reattach(Reattach),
    /// Print a completion script for a shell
    Completion(Completion),
    /// Write the manual pages into a folder
    Man(Man),
}

/// `run`
#[derive(Debug, Args)]
#[command(after_help = "\
A bundle is a folder with config.json and a root file system, as orlop-bundle makes it. The exit status is that of the
container; 125 if it could not be made, 126 if its program can't be run, 127 if there is none.

Example:
  orlop-shim run -d --restart on-failure:5 --log /var/log/web.log --log-max-size 10m --log-max-files 3 -b web web1")]
pub(crate) struct Run {
    /// The bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: String,
    /// Leave it alone when it runs, and print its id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Give it an input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal, whatever its config.json says
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Forget it when it has ended
    #[arg(long = "rm")]
    pub(crate) remove: bool,
    /// The log; else container.log in the folder of its state
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<String>,
    /// How the log is written: as conmon does, as Docker does, or not
    #[arg(long, value_name = "k8s-file|json|none", default_value = "k8s-file", value_parser = format)]
    pub(crate) log_format: Format,
    /// Put a log aside that would be larger: bytes, or with k, m or g
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) log_max_size: Option<u64>,
    /// How many files there may be then, with the current one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) log_max_files: u32,
    /// When it is started again: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value_t)]
    pub(crate) restart: Policy,
    /// The signal that ends it; else the image's own, or SIGTERM
    #[arg(long, value_name = "SIGNAL", value_parser = parse_signal)]
    pub(crate) stop_signal: Option<i32>,
    /// Seconds from that to SIGKILL; -1 is for ever
    #[arg(long, value_name = "SECONDS", default_value = "10", allow_negative_numbers = true, value_parser = grace)]
    pub(crate) stop_timeout: u32,
    /// A file that gets the container's pid
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<String>,
    /// A file that gets the pid of the process that keeps it: PIDFile= of a unit of Type=forking
    #[arg(long, value_name = "FILE")]
    pub(crate) monitor_pid_file: Option<String>,
    /// Let it say itself when it is ready (sd_notify(3)), and wait for that
    #[arg(long, requires = "detach")]
    pub(crate) notify: bool,
    /// The container's id
    pub(crate) id: String,
}

/// Commands about containers, without options.
#[derive(Debug, Args)]
pub(crate) struct Ids {
    /// The containers
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<String>,
}

/// `start`
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Attach to it; one container only
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// The containers
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<String>,
}

/// `stop` and `restart`
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Seconds until SIGKILL; -1 is for ever
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", allow_negative_numbers = true, value_parser = grace)]
    pub(crate) time: Option<u32>,
    /// The signal
    #[arg(short, long, value_parser = parse_signal)]
    pub(crate) signal: Option<i32>,
    /// The containers
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<String>,
}

/// `kill`
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The signal
    #[arg(short, long, default_value = "KILL", value_parser = parse_signal)]
    pub(crate) signal: i32,
    /// The containers
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<String>,
}

/// `rm`
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Kill those that run
    #[arg(short, long)]
    pub(crate) force: bool,
    /// The containers
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<String>,
}

/// `ps`
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Also those that have ended
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Whole commands
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// JSON for programs, as inspect has it
    #[arg(long)]
    pub(crate) json: bool,
}

/// `logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Also what is still to come, until the container has ended for good
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Nothing older: an RFC 3339 time, seconds since 1970, or a span before now (10m)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Nothing younger
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// So many lines from the end, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", allow_negative_numbers = true)]
    pub(crate) tail: String,
    /// With the time in front of each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// The container
    pub(crate) id: String,
}

/// `stats`
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Once, and no more
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// JSON for programs: numbers, one document a container and moment
    #[arg(long)]
    pub(crate) json: bool,
    /// The containers; else all that run
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
}

/// `attach`
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Give it no input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Pass no signals on
    #[arg(long)]
    pub(crate) no_sig_proxy: bool,
    /// The container
    pub(crate) id: String,
}

/// `exec`
#[derive(Debug, Args)]
#[command(after_help = "The exit status is that of the program.")]
pub(crate) struct Exec {
    /// Leave it alone
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Give it our input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// More of the environment
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// As another user
    #[arg(short, long, value_name = "UID[:GID]", value_parser = user)]
    pub(crate) user: Option<(u32, Option<u32>)>,
    /// In another directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The container
    pub(crate) id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// `reattach`
#[derive(Debug, Args)]
#[command(after_help = "\
A container goes on when its monitor is killed; what it writes waits in its pipes. If it ended meanwhile, its exit status
is not known, and 255. At boot, `reattach --all` starts again what ran, and what was to run always.")]
pub(crate) struct Reattach {
    /// All that need it
    #[arg(short, long, conflicts_with = "ids")]
    pub(crate) all: bool,
    /// The containers
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub(crate) ids: Vec<String>,
}

/// `completion`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  orlop-shim completion bash > /etc/bash_completion.d/orlop-shim")]
pub(crate) struct Completion {
    /// For which shell
    pub(crate) shell: clap_complete::Shell,
}

/// `man`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  orlop-shim man /usr/local/share/man/man8")]
pub(crate) struct Man {
    /// Where the pages are put: orlop-shim.8 and one for each command
    #[arg(value_name = "DIR")]
    pub(crate) folder: String,
}

impl Command {
    /// Its name, for errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Start(_) => "start",
            Self::Stop(_) => "stop",
            Self::Restart(_) => "restart",
            Self::Kill(_) => "kill",
            Self::Pause(_) => "pause",
            Self::Unpause(_) => "unpause",
            Self::Rm(_) => "rm",
            Self::Ps(_) => "ps",
            Self::Logs(_) => "logs",
            Self::Stats(_) => "stats",
            Self::Attach(_) => "attach",
            Self::Exec(_) => "exec",
            Self::Inspect(_) => "inspect",
            Self::Wait(_) => "wait",
            Self::Reattach(_) => "reattach",
            Self::Completion(_) => "completion",
            Self::Man(_) => "man",
        }
    }
}

fn format(text: &str) -> Result<Format, String> {
    match text {
        "k8s-file" => Ok(Format::K8sFile),
        "json" | "json-file" => Ok(Format::Json),
        "none" => Ok(Format::None),
        _ => Err("not one of k8s-file, json, none".to_owned()),
    }
}

/// Milliseconds.
fn grace(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(u32::MAX),
        Ok(seconds @ 0..=4_000_000) => Ok(u32::try_from(seconds).unwrap_or_default() * 1000),
        _ => Err("not a number of seconds".to_owned()),
    }
}

/// Bytes; units are powers of 1024, as Docker takes them here.
fn size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches('b');
    let (number, shift) = match number.strip_suffix(['k', 'm', 'g']) {
        Some(rest) if number.ends_with('k') => (rest, 10),
        Some(rest) if number.ends_with('m') => (rest, 20),
        Some(rest) => (rest, 30),
        None => (number, 0),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "not a size".to_owned())
}

fn user(text: &str) -> Result<(u32, Option<u32>), String> {
    let number = |text: &str| text.parse().map_err(|_| "not UID[:GID] in numbers".to_owned());
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(text)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_table_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_times_and_users_are_read_as_docker_reads_them() {
        for (text, want) in [("100", 100), ("10k", 10 << 10), ("5M", 5 << 20), ("1gb", 1 << 30), ("7b", 7)] {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        for bad in ["", "0", "-1", "k", "1.5m", "99999999999g", "1t"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!((grace("-1"), grace("0"), grace("10")), (Ok(u32::MAX), Ok(0), Ok(10_000)));
        assert!(grace("-2").is_err() && grace("x").is_err() && grace("4294968").is_err());
        assert_eq!((user("33"), user("33:4")), (Ok((33, None)), Ok((33, Some(4)))));
        assert!(user("web").is_err());
    }

    #[test]
    fn what_follows_the_id_of_exec_is_the_programs() {
        let cli = Cli::try_parse_from(["orlop-shim", "exec", "-i", "web", "ls", "-l", "--all"]).unwrap();
        let Command::Exec(exec) = cli.command else { panic!("{cli:?}") };
        assert_eq!((exec.interactive, exec.command), (true, vec!["ls".to_owned(), "-l".into(), "--all".into()]));
    }
}
