//! The containerd shim of orlop.

pub mod message;
pub mod oom;
pub mod stats;
pub mod ttrpc;
pub mod wire;
