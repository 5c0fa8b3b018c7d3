//! The command `orlop-shim`: a command line, a few calls into the library, an exit status.

// Tests have a main function of their own.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code, reason = "nothing calls `command` there"))]

mod cli;
mod client;
mod commands;
mod manual;

use std::io::Write as _;

use clap::Parser;
use orlop::error::{Error, ErrorKind};
use orlop_shim::alone::launch::{Mode, WORD};
use orlop_shim::alone::monitor;

use cli::Cli;

#[cfg(not(test))]
orlop_sys::main!(command);

/// The exit status.
fn command() -> u8 {
    let arguments: Vec<String> = match std::env::args_os().map(|argument| argument.into_string()).collect() {
        Ok(arguments) => arguments,
        Err(odd) => {
            complain(&format!("{odd:?}: not UTF-8"));
            return 2;
        }
    };
    // Before the command line is looked at: a monitor needs no memory for what it is not asked.
    if let [_, word, state, id, mode] = arguments.as_slice()
        && word == WORD
        && let Some(mode) = Mode::parse(mode)
    {
        return keep(state, id, mode);
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(refused) => {
            // Help and versions come this way too. Where the stream is closed, nobody reads.
            let _ = refused.print();
            return u8::try_from(refused.exit_code()).unwrap_or(2);
        }
    };
    drop(arguments);
    commands::perform(&cli)
}

fn keep(state: &str, id: &str, mode: Mode) -> u8 {
    match monitor::run(state, id, mode) {
        Ok(()) => 0,
        Err(error) => {
            complain(&error.to_string());
            1
        }
    }
}

/// To stderr. Nobody can be told that it failed.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "orlop-shim: {text}");
}

/// To stdout, at once. A reader that has gone away wants no more.
pub(crate) fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// An argument that can't be meant.
pub(crate) fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidSpec, text)
}
