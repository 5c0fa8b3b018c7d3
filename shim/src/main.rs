//! `containerd-shim-orlop-v2`: what containerd runs for each container, or each pod.

#![no_main]

use std::io::Write as _;

use orlop_shim::args::{Action, Args};
use orlop_shim::{daemon, delete, info, pod, start};
use orlop_sys::rustix::process::{getpid, set_child_subreaper};

orlop_sys::main!(command);

/// The exit status.
fn command() -> u8 {
    if pod::is_asked_for() {
        return u8::from(pod::pause().is_err());
    }
    match Args::parse(std::env::args().skip(1)).and_then(|args| perform(&args)) {
        Ok(()) => 0,
        Err(text) => {
            complain(&text);
            1
        }
    }
}

fn perform(args: &Args) -> Result<(), String> {
    match args.action {
        Action::Serve => daemon::run(args).map_err(orlop::error::describe),
        Action::Start => start::start(args).and_then(|address| print(&address)),
        Action::Delete => {
            // The library waits for those that it kills, and some are not its children.
            set_child_subreaper(Some(getpid())).map_err(orlop::error::describe)?;
            let (answer, notes) = delete::delete(args)?;
            notes.iter().for_each(|note| complain(note));
            print(&answer)
        }
        Action::Info => print(&info::info()),
        Action::Version => print(info::version().as_bytes()),
    }
}

fn print(bytes: &[u8]) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| e.to_string())
}

/// To stderr, which containerd puts into its log. Nobody can be told that it failed.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "containerd-shim-orlop-v2: {text}");
}
