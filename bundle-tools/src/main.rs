//! The command `orlop-bundle`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == "--worker") {
        return orlop_bundle::worker::main();
    }
    ExitCode::SUCCESS
}
