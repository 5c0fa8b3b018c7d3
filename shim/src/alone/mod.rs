//! Containers without an engine: one process keeps one container.
//!
//! `orlop-shim run` makes a folder for the container ([`folder`]) and leaves a monitor behind ([`monitor`]), which makes
//! the container with the runtime's library ([`container`]), reads what it writes ([`stdio`]) into a log ([`log`]),
//! serves those who attach ([`attach`]), starts it again when it ends and its policy says so ([`restart`]), and ends
//! with it. All other commands look at the folder ([`state`], [`show`], [`logs`], [`stats`]), ask the library, or say a
//! line to the monitor ([`folder::Order`]).
//!
//! A monitor may die at any moment, and the container does not notice: its streams are FIFOs that it holds open itself,
//! and what must not close (its terminal, its input) is held by another process too. A new monitor then takes over.

pub mod attach;
pub mod container;
pub mod folder;
pub mod launch;
pub mod log;
pub mod logs;
pub mod monitor;
pub mod notify;
pub mod record;
pub mod restart;
pub mod show;
pub mod state;
pub mod stats;
pub mod stdio;
pub mod stop;
pub mod time;
