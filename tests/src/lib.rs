//! What the unprivileged tests share.

pub mod bpf;
