//! To be written.

pub mod fields;
