//! The containerd shim of orlop.

pub mod message;
pub mod ttrpc;
pub mod wire;
