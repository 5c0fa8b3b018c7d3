//! Loop devices: a file as a block device.

use core::mem::size_of;

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;

use crate::raw::{nr, syscall};

/// `LO_FLAGS_*`: what a device is to be like.
#[allow(missing_docs, reason = "the kernel's names")]
pub mod flag {
    pub const READ_ONLY: u32 = 1;
    /// Detached when nobody has it open any more, or mounted.
    pub const AUTOCLEAR: u32 = 4;
    pub const DIRECT_IO: u32 = 16;
}

/// `struct loop_config`, with the one field of its `struct loop_info64` that is told.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    /// Device, inode, rdevice, offset, size limit.
    numbers: [u64; 5],
    /// Number, encryption's type and key size.
    words: [u32; 3],
    flags: u32,
    /// Two names, a key and two numbers.
    rest: [u64; 22],
    reserved: [u64; 8],
}

/// The number of a loop device that nobody uses, as `/dev/loop-control` gives it; somebody may be faster.
///
/// # Errors
/// ENOSPC if there can't be another one.
pub fn free(control: impl AsFd) -> Result<u32, Errno> {
    const LOOP_CTL_GET_FREE: usize = 0x4c82;
    // SAFETY: the request has no argument.
    let number = unsafe { syscall(nr::__NR_ioctl, [fd(control), LOOP_CTL_GET_FREE, 0, 0, 0, 0])? };
    u32::try_from(number).map_err(|_| Errno::NOSPC)
}

/// Puts `file` behind a device. Linux 5.8.
///
/// # Errors
/// EBUSY if the device has a file already.
pub fn configure(device: impl AsFd, file: impl AsFd, flags: u32) -> Result<(), Errno> {
    const LOOP_CONFIGURE: usize = 0x4c0a;
    // The kernel's structures: 8 bytes, 232 and 64.
    const _: () = assert!(size_of::<Config>() == 8 + 232 + 64);
    let file = u32::try_from(fd(file)).map_err(|_| Errno::BADF)?;
    let config =
        Config { fd: file, block_size: 0, numbers: [0; 5], words: [0; 3], flags, rest: [0; 22], reserved: [0; 8] };
    // SAFETY: the kernel only reads the structure, whose size it knows, and which outlives the call.
    unsafe { syscall(nr::__NR_ioctl, [fd(device), LOOP_CONFIGURE, &raw const config as usize, 0, 0, 0]) }.map(drop)
}

fn fd(fd: impl AsFd) -> usize {
    fd.as_fd().as_raw_fd() as usize
}
