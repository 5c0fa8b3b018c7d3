//! Real engines over orlop: each test has a [host](host) of its own, with the packages of a Debian release, on which
//! it does what users do. Needs root and the engines of Debian 12; other releases are made by mmdebstrap, and are
//! tried in the long form (ORLOP_LONG=1) only. What is missing is said.
//!
//! ORLOP_RUNTIME and ORLOP_SHIM name the programs, ORLOP_KEPT a folder that has or is to have the other releases.

#![allow(clippy::disallowed_methods, reason = "a test's own paths, on the host")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

mod alone;
mod build;
mod containerd;
mod cri;
mod docker;
mod host;
mod image;
mod podman;
// One of the tests beside these needs more of it.
#[allow(dead_code)]
#[path = "../tests/real/pty.rs"]
mod pty;
mod walk;
