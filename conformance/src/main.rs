//! `orlop-conformance`: what the OCI runtime specification 1.3 and runc's command line fix, written once and run against
//! any runtime.
//!
//! ```text
//! orlop-conformance --runtime /usr/bin/runc
//! orlop-conformance --runtime crun --view v2 --known
//! orlop-conformance --runtime target/debug/orlop --filter mounts/ --json
//! orlop-conformance --list
//! ```
//!
//! A case drives the runtime's executable as an engine would and looks at the container from inside, through the program
//! `orlop-probe`, which is the only file in its root. It names the section of the specification, or the caller, that it stands
//! for. Nothing of any runtime is linked in. Root is needed, and nothing else: no image, no network.
//!
//! Every case runs in a process of its own, with its own mount namespace, `--root` and bundle. It deletes what it made whatever
//! happens, and fails if the runtime left a process, a cgroup or a mount behind. The scratch space is below `$TMPDIR` or `/tmp`.
//!
//! `--view v2` gives the cases cgroup v2 alone on a machine that mounts it otherwise, in the suite's own mount namespace.
//! `--known` turns failures that a peer is known for into TAP's `# TODO`; the table is `known.json`. Standard output has TAP 14
//! or JSON and, in TAP, the closing line `N passed, N failed, N skipped`; the exit status is 0 if nothing failed, 1 if
//! something did, 2 if the suite could not run.
//!
//! To add a case, write a function in the file of its topic below `cases/` and name it in the list at the top of the file.

#![allow(clippy::disallowed_methods, reason = "it works on host paths in a scratch directory of its own")]

mod cases;
mod check;
mod command;
mod known;
mod report;
mod scene;
mod socket;
mod suite;
mod world;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

/// Black-box cases of the OCI runtime specification for any runtime.
///
/// Runs every case against the runtime and prints TAP 14. Needs root; makes containers without any image.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// The runtime's executable: a path, or a name that is looked up in PATH.
    #[arg(long, value_name = "PATH", required_unless_present = "list")]
    runtime: Option<PathBuf>,
    /// Only cases whose topic/name fits this regular expression (a plain word fits as a substring).
    #[arg(long, value_name = "REGEX")]
    filter: Option<String>,
    /// Print TAP 14; the default.
    #[arg(long, conflicts_with = "json")]
    tap: bool,
    /// Print one JSON document instead.
    #[arg(long)]
    json: bool,
    /// Print the cases and what they stand for, and run nothing.
    #[arg(long)]
    list: bool,
    /// How many cases to run at a time [default: one for each CPU].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// The cgroup layout that the cases see.
    #[arg(long, value_enum, default_value = "host")]
    view: world::View,
    /// Mark failures that a peer is known for as TODO.
    #[arg(long)]
    known: bool,
    /// The program inside the container [default: orlop-probe beside this program].
    #[arg(long, value_name = "PATH")]
    probe: Option<PathBuf>,
    /// Run this case in this process and print its outcome: how the suite starts itself for each case.
    #[arg(long, hide = true, requires_all = ["dir", "id"])]
    only_case: Option<String>,
    /// Scratch directory for `--only-case`.
    #[arg(long, hide = true)]
    dir: Option<PathBuf>,
    /// Container id for `--only-case`.
    #[arg(long, hide = true)]
    id: Option<String>,
}

fn main() -> ExitCode {
    match perform(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "orlop-conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn perform(options: &Options) -> Result<bool> {
    if options.list {
        let mut out = std::io::stdout().lock();
        for case in suite::choose(options.filter.as_deref())? {
            writeln!(out, "{}\t{}", case.full_name(), case.stands_for)?;
        }
        return Ok(true);
    }
    let runtime = options.runtime.as_deref().context("no runtime")?;
    let runtime = find(runtime)?;
    match &options.only_case {
        Some(name) => suite::run_one(options, &runtime, name).map(|()| true),
        None => suite::run(options, &runtime),
    }
}

/// A name without a slash is looked up in PATH, as a shell would.
fn find(runtime: &std::path::Path) -> Result<PathBuf> {
    if runtime.components().count() > 1 || runtime.is_file() {
        return Ok(runtime.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(runtime))
        .find(|file| file.is_file())
        .with_context(|| format!("{}: not found in PATH", runtime.display()))
}
