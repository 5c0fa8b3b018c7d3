//! The system calls of orlop, and its only unsafe code.
//!
//! rustix where it has the call; a raw system call where it has not, or where its form would allocate. Every function
//! here is safe to call and usable between `clone3` and `execve`: nothing allocates, locks or touches libc (but for
//! [`heap`], which is about libc). Functions keep the kernel's names.

#![no_std]

pub mod bpf;
pub mod clone;
pub mod creds;
pub mod entry;
mod errno;
pub mod fs;
pub mod heap;
pub mod loops;
pub mod mount;
pub mod process;
pub mod raw;
pub mod seccomp;
pub mod signal;
pub mod signalfd;
pub mod tty;

pub use errno::errno_name;
pub use rustix;
pub use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
pub use rustix::io::Errno;
