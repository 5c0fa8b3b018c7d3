//! Signals as bytes of an fd.

use core::mem::MaybeUninit;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::{Errno, read};

use crate::raw::{nr, syscall};

const SIGSET: usize = 8;
const SIG_SETMASK: usize = 2;
/// Faults of our own stay what they are.
const FAULTS: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];

/// Blocks signals of the calling thread and reads them from an fd, until it is dropped.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
    before: u64,
}

fn set_mask(mask: u64) -> Result<u64, Errno> {
    let mut before = 0u64;
    let (new, old) = (&raw const mask as usize, &raw mut before as usize);
    // SAFETY: the kernel reads and writes 8 bytes each.
    unsafe { syscall(nr::__NR_rt_sigprocmask, [SIG_SETMASK, new, old, SIGSET, 0, 0])? };
    Ok(before)
}

impl Signals {
    /// Blocks all but faults.
    pub fn block() -> Result<Self, Errno> {
        const SFD_CLOEXEC: usize = 0o2_000_000;
        const SFD_NONBLOCK: usize = 0o4_000;
        let mask = FAULTS.iter().fold(u64::MAX, |mask, signal| mask & !(1 << (signal - 1)));
        // SAFETY: the kernel reads 8 bytes.
        let fd = unsafe {
            let mask = &raw const mask as usize;
            syscall(nr::__NR_signalfd4, [usize::MAX, mask, SIGSET, SFD_CLOEXEC | SFD_NONBLOCK, 0, 0])?
        };
        // SAFETY: a new fd that is ours.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let before = set_mask(mask)?;
        Ok(Self { fd, before })
    }

    /// The next one that has arrived.
    pub fn next(&self) -> Result<Option<i32>, Errno> {
        // struct signalfd_siginfo: 128 bytes that begin with the number.
        let mut info = [MaybeUninit::<u8>::uninit(); 128];
        loop {
            match read(&self.fd, &mut info[..]) {
                Ok((&mut [n0, n1, n2, n3, ..], _)) => return Ok(Some(i32::from_ne_bytes([n0, n1, n2, n3]))),
                Ok(_) | Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // It was a valid mask before.
        let _ = set_mask(self.before);
    }
}
