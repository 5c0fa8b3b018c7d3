//! orlop: a low-level OCI runtime.

pub mod bpf;
pub mod cgroup;
pub mod config;
pub mod container;
pub mod create;
pub mod delete;
pub mod error;
pub mod exec;
pub mod features;
pub mod hooks;
pub mod host;
pub mod kill;
pub mod list;
pub mod log;
mod open;
pub mod path;
pub mod pause;
pub mod plan;
pub mod ps;
pub mod request;
pub mod run;
pub mod selfexe;
mod socket;
mod spawn;
pub mod spec;
pub mod start;
pub mod state;
pub mod store;
pub mod update;

pub use error::{Error, ErrorKind, Result};
