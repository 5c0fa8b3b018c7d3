//! The commands of this workspace: `cargo xtask demo|test|bench|peers|install`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "talking to the person at the terminal is its purpose")]
#![allow(clippy::disallowed_methods, reason = "it works on this workspace's and its own scratch folders only")]

mod bench;
mod build;
mod demo;
mod failures;
mod install;
mod peers;
mod suites;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The commands of this workspace")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the runtime, run a container with it and show what the container sees.
    Demo {
        /// Another runtime to run it with.
        #[arg(long, value_name = "PATH")]
        runtime: Option<PathBuf>,
    },
    /// Install what the tests need (as root, with apt), and run every suite.
    Test(suites::Options),
    /// Compare the runtime with the peers that are installed, and with the kernel's own share of the work.
    Bench(bench::Options),
    /// Make a root with the newest crun, runc, containerd and conmon, for `bench --peer-root`.
    Peers {
        /// Where; must not exist, or be empty.
        dir: PathBuf,
    },
    /// Install the runtime, its manual pages and its completions.
    Install {
        /// What the installed files are below.
        #[arg(long, default_value = "/usr/local")]
        prefix: PathBuf,
        /// A folder that stands for / while a package is built.
        #[arg(long, value_name = "DIR")]
        destdir: Option<PathBuf>,
    },
    /// The part of `bench --bundle` whose children are measured.
    #[command(hide = true)]
    BenchPeak {
        /// A program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        argv: Vec<String>,
    },
    /// The part of `bench --shim` that runs in its own namespaces.
    #[command(hide = true)]
    BenchShim {
        /// The plan, as JSON.
        plan: String,
    },
    /// The part of `bench` that runs in its own mount namespace.
    #[command(hide = true)]
    BenchView {
        /// The stage, as JSON.
        stage: String,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo { runtime } => demo::run(runtime),
        Command::Test(options) => match suites::run(&options) {
            Ok(suites::Verdict::Passed) => Ok(()),
            // The closing line has said so, and stays the last one.
            Ok(suites::Verdict::Failed) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::Bench(options) => bench::run(&options),
        Command::Peers { dir } => peers::make(&dir),
        Command::Install { prefix, destdir } => install::run(&prefix, destdir.as_deref()),
        Command::BenchPeak { argv } => bench::images::print_peak(&argv),
        Command::BenchShim { plan } => bench::shim::run_plan(&plan),
        Command::BenchView { stage } => bench::stage::run(&stage),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
