//! The command `orlop-bundle`: a command line, a few calls into the library, an exit status.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use orlop_bundle::error::Result;

use cli::screen::{Screen, tell};
use cli::{Cli, Command, manual};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == "--worker") {
        return orlop_bundle::worker::main();
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
            tell(&format!("orlop-bundle: {}", e.context(cli.command.subject())));
            ExitCode::FAILURE
        }
    }
}

fn perform(cli: &Cli) -> Result<ExitCode> {
    let mut screen = Screen::new();
    match &cli.command {
        Command::Completion(args) => screen.print(&manual::completion(args))?,
        Command::Man(args) => manual::man(args)?,
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}
