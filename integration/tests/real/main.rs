//! What users do with a runtime, done with the program itself and a Debian root: shells, packages, servers, daemons,
//! limits, volumes, hooks, pods. Needs root, mmdebstrap and a network for the first time; says so when one is missing.
//!
//! ORLOP_RUNTIME names the program, ORLOP_KEPT a folder that has the root or is to have it.

#![allow(clippy::disallowed_methods, reason = "a test's own paths, on the host")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

mod bundle;
mod debian;
mod files;
mod hooks;
mod limits;
mod namespaces;
mod network;
mod processes;
mod pty;
mod seccomp;
mod sockets;
mod terminal;

use std::path::PathBuf;

/// Where the tests keep what they make, below cargo's target folder.
fn scratch() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    here.ancestors().nth(3).unwrap().join("orlop-real")
}
