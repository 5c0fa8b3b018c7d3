//! Tests that need no privileges and no kernel: the command line, the configuration's schema, golden plans, and the
//! documents that engines read. They are in tests/, their data in data/.
//!
//! Here is what they share.

pub mod bpf;
