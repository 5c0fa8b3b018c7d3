//! The harness of the tests beside it: a place for bundles and state, the runtime's command line, a count of what
//! is left behind, and faults at single system calls.
//!
//! What the harness can't do ends the test, so it unwraps and panics as a test does.

#![allow(clippy::disallowed_methods, reason = "a test's own paths, on the host")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a harness of tests"
)]

mod debian;
pub mod fault;
mod world;

pub use debian::{debian, kept, mmdebstrap};
pub use world::{Ran, World, in_time, long, program, pure_v2, skip};
