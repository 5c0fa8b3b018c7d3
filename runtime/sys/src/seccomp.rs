//! seccomp(2).

use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::Errno;

use crate::raw::{nr, syscall};

/// One instruction of a classic BPF program (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's names")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`: [`load`] returns the fd on which notifications arrive.
pub const FLAG_NEW_LISTENER: u32 = 8;

/// Loads a filter, for ever, into this thread. The listener if `flags` ask for one.
///
/// # Errors
/// EACCES without CAP_SYS_ADMIN or no_new_privs; EINVAL for a program or flags that this kernel does not take.
pub fn load(program: &[Instruction], flags: u32) -> Result<Option<OwnedFd>, Errno> {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    #[repr(C)]
    struct Fprog {
        length: u16,
        filter: *const Instruction,
    }
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let fprog = Fprog { length, filter: program.as_ptr() };
    // SAFETY: the kernel copies the program before it returns (seccomp(2)); the length is that of the slice.
    let fd = unsafe {
        syscall(nr::__NR_seccomp, [SECCOMP_SET_MODE_FILTER, flags as usize, &raw const fprog as usize, 0, 0, 0])?
    };
    // SAFETY: with this flag the value is a new fd that is ours.
    Ok((flags & FLAG_NEW_LISTENER != 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}

/// Which filter flags this kernel knows: it checks them before it looks at the program, so a program that is not there
/// (EFAULT) is told from a flag that is unknown (EINVAL).
pub fn supported_flags() -> u32 {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    (0..32)
        .map(|bit| 1u32 << bit)
        .filter(|flag| {
            // WAIT_KILLABLE_RECV goes with NEW_LISTENER only.
            let flags = if *flag == 1 << 5 { flag | FLAG_NEW_LISTENER } else { *flag };
            // SAFETY: a null program is what is asked about: the kernel answers EFAULT and does nothing.
            let answer = unsafe { syscall(nr::__NR_seccomp, [SECCOMP_SET_MODE_FILTER, flags as usize, 0, 0, 0, 0]) };
            answer == Err(Errno::FAULT)
        })
        .fold(0, |all, flag| all | flag)
}
