//! Images to test and to measure with, made from seeds: the same bytes on every machine and in every run.
//!
//! [`tar`] writes archives, as good or as bad as they are wanted; [`layout`] packs them as images; [`recipes`] are the
//! images that speed and layers are tried with; [`tree`] reads a folder and says how it differs from another.
//!
//! What it can't do ends the test, so it unwraps and panics as a test does.

#![allow(clippy::disallowed_methods, reason = "a test's own paths, on the host")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness of tests"
)]

pub mod layout;
pub mod random;
pub mod recipes;
pub mod tar;
pub mod tree;
