//! The program inside the container: it looks at what the runtime made of `config.json` and says it in JSON.
//!
//! `probe VERB ARGS... [then VERB ARGS...]...` performs the verbs in order and prints one JSON object a line for each.
//! An attempt that fails is an answer, not an error: `{"verb":"write","errno":"EROFS"}`. The verbs are listed at
//! [`verbs::perform`]; the facts of `facts` at [`facts::all`]. It is static, so that an empty root holds it, and makes
//! no system call of which it can't know the outcome. With `PROBE_OUT` in the environment the answers go to that file.

#![allow(clippy::disallowed_methods, reason = "it looks at paths as the container's own programs do")]

mod facts;
mod verbs;

use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;

/// Prints an answer. Nobody may be reading; then there is nobody to tell, either.
pub(crate) fn say(answer: &serde_json::Value) {
    let _ = match std::env::var_os("PROBE_OUT") {
        Some(path) => {
            OpenOptions::new().append(true).create(true).open(path).and_then(|mut out| writeln!(out, "{answer}"))
        }
        None => writeln!(std::io::stdout().lock(), "{answer}"),
    };
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let mut status = 0;
    for verb in args.split(|arg| arg == "then") {
        let answer = match verbs::perform(verb) {
            verbs::Answer::Say(answer) => answer,
            verbs::Answer::Exit(code) => {
                status = code;
                break;
            }
        };
        say(&answer);
    }
    ExitCode::from(status)
}
