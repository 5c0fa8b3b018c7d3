//! The containerd shim of orlop: one process for a container, or for a pod, with one thread.
//!
//! `start` ([`start`]) binds a socket and leaves a daemon behind. The daemon ([`daemon`]) sleeps in epoll until one of
//! these has something for it: the socket and its connections ([`server`]), whose calls [`service`] answers; SIGCHLD;
//! the streams of its containers ([`copy`]); containerd's socket for events ([`events`]). Whatever may take time is done
//! by a child that is forked for it and runs the runtime's library ([`job`]), so each call that only asks is answered at
//! once, and the library's memory ends with the child.
//!
//! [`alone`] is another program, for containers that no engine looks after.

pub mod alone;
pub mod args;
pub mod client;
pub mod copy;
pub mod daemon;
pub mod delete;
pub mod events;
pub mod info;
pub mod io;
pub mod job;
pub mod log;
pub mod message;
pub mod mounts;
pub mod oom;
pub mod options;
pub mod pod;
pub mod poll;
pub mod runtime;
pub mod sandbox;
pub mod server;
pub mod service;
pub mod start;
pub mod stats;
pub mod task;
pub mod toml;
pub mod ttrpc;
pub mod wire;
