//! What `orlop-bundle` promises, from outside: images in every format become the same trees in both backends, as other
//! programs unpack them; hostile ones touch nothing; what was written is what others read.
//!
//! Needs root, for owners and devices. ORLOP_BUNDLE names the program. Where another program is missing, a test says
//! so.

#![allow(clippy::disallowed_methods, reason = "a test's own paths, on the host")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

mod formats;
mod hostile;
mod layers;
mod oracle;
mod real;
mod registry;
mod secure;
mod sharing;
mod tool;
mod trees;
