//! The command `orlop-bundle`: a command line, a few calls into the library, an exit status.

mod cli;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use orlop_bundle::error::{Error, Result};
use orlop_bundle::store::Store;
use orlop_bundle::worker;

use cli::screen::{Screen, tell};
use cli::{Cli, Command, Global, bundles, manual, shown, stored, transfer};

fn main() -> ExitCode {
    // Before the command line is looked at: what a worker is told comes through its socket.
    if std::env::args_os().nth(1).is_some_and(|first| first == "--worker") {
        return worker::main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => {
            // Help and versions come this way too. Where the stream is closed, nobody reads.
            let _ = refused.print();
            return ExitCode::from(u8::try_from(refused.exit_code()).unwrap_or(2));
        }
    };
    match perform(&cli) {
        Ok(status) => status,
        Err(e) => {
            tell(&cli.command.failed(&e));
            ExitCode::FAILURE
        }
    }
}

fn perform(cli: &Cli) -> Result<ExitCode> {
    let (global, mut screen) = (&cli.global, Screen::new());
    match &cli.command {
        Command::Images(args) => shown::images(args, global, &store(global)?, &mut screen)?,
        Command::History(args) => shown::history(args, global, &store(global)?, &mut screen)?,
        Command::Inspect(args) => shown::inspect(args, &store(global)?, &mut screen)?,
        Command::Df(args) => shown::df(args, global, &store(global)?, &mut screen)?,
        Command::Tag(args) => stored::tag(args, &store(global)?)?,
        Command::Rmi(args) => stored::rmi(args, &store(global)?, &mut screen)?,
        Command::Prune(args) => stored::prune(args, global, &store(global)?, &mut screen)?,
        Command::Verify(args) => return stored::verify(args, global, &store(global)?, &mut screen),
        Command::Pull(args) => transfer::pull(args, global, &store(global)?, &mut screen)?,
        Command::Import(args) => transfer::import(args, global, &store(global)?, &mut screen)?,
        Command::Load(args) => transfer::load(args, global, &store(global)?, &mut screen)?,
        Command::Push(args) => transfer::push(args, global, &store(global)?, &mut screen)?,
        Command::Save(args) => transfer::save(args, global, &store(global)?, &mut screen)?,
        Command::Create(args) => bundles::create(args, global, &store(global)?, &mut screen)?,
        Command::Unpack(args) => bundles::unpack(args, global, &store(global)?, &mut screen)?,
        Command::Diff(args) => bundles::diff(args, global, &mut screen)?,
        Command::Commit(_) => return Err(Error::unsupported("committing is not part of this build")),
        Command::Mount(args) => bundles::mount(args)?,
        Command::Unmount(args) => bundles::unmount(args)?,
        Command::Rm(args) => bundles::rm(args)?,
        Command::Login(args) => transfer::login(args, &mut screen)?,
        Command::Logout(args) => transfer::logout(args, &mut screen)?,
        Command::Completion(args) => screen.print(&manual::completion(args))?,
        Command::Man(args) => manual::man(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The store that the command line names, or the environment, or the usual one.
fn store(global: &Global) -> Result<Store> {
    if global.debug {
        let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
        tell(&format!("orlop-bundle: debug: version {version}, process {pid}"));
    }
    let named = global.store.clone().or_else(|| std::env::var_os("ORLOP_STORE").map(PathBuf::from));
    let store = match named.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => Store::open(&path),
        None => Store::open_default(),
    }?;
    if global.debug {
        tell(&format!("orlop-bundle: debug: store {}", store.path().display()));
        match worker::probe() {
            Ok(report) => tell(&format!("orlop-bundle: debug: worker {report:?}")),
            Err(e) => tell(&format!("orlop-bundle: debug: worker: {e}")),
        }
    }
    Ok(store)
}
