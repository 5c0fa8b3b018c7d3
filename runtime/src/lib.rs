//! orlop: a low-level OCI runtime, as a library.
//!
//! # The story of a container
//!
//! [`create::create`] is given the bytes of a config.json, a [`request::Create`] (who asks, and for what) and a
//! [`store::Store`] (the directory that remembers containers).
//!
//! 1. **Said.** [`config::parse`] turns the bytes into a [`config::Spec`]: what was said, nothing more.
//! 2. **Decided.** [`plan::Plan::new`] is pure. It takes the `Spec`, the request and a [`host::Host`] (what this machine
//!    can do), and writes every decision down in the child's own terms: C strings, lists, a BPF program. What it can't
//!    mean, it refuses by the field's path.
//! 3. **In hand.** The plan's namespaces, its rootfs and its sockets are opened. Nothing is made yet, so what is missing
//!    is found before there is anything to undo.
//! 4. **Claimed.** One `mkdir` decides who makes the container of this id; the intent (which cgroup will be made) is
//!    written before the first effect, so whatever dies when, [`delete::delete`] finds what there is.
//! 5. **Alive.** The cgroup is made, and one `clone3` the process, in its namespaces and its cgroup. It follows the
//!    recipe in `orlop-init`, which can't allocate, while the parent hands it mount sources, writes limits and the
//!    record, and runs hooks.
//! 6. **Created.** The child says that it is ready, and waits at a FIFO. [`start::start`] writes the byte that it waits
//!    for, and sees the other end close with `execve`.
//!
//! [`run::run`] is the same without the wait at the FIFO, in the foreground. [`exec::exec`] is the shorter recipe for one
//! more process. What a container is doing is never stored: [`container::Container::status`] looks.
//!
//! The library changes nothing of its caller's process but what [`run`] says. Errors are one type, [`Error`], with a kind
//! for programs and a text for people.

pub mod bpf;
pub mod cgroup;
pub mod config;
pub mod container;
pub mod create;
pub mod delete;
pub mod error;
pub mod events;
pub mod exec;
pub mod features;
pub mod hooks;
pub mod host;
pub mod idmap;
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
