//! The system call instruction itself: no libc, so no errno variable, no locks and no cancellation points, which is
//! what makes the rest usable between `clone3` and `execve`.

use core::ffi::c_long;

use rustix::io::Errno;

pub use linux_raw_sys::general as nr;

/// Performs system call `n`.
///
/// # Safety
/// As the call itself demands: pointers must be valid for what the kernel reads or writes through them.
#[cfg(target_arch = "x86_64")]
#[inline]
pub unsafe fn syscall(n: u32, a: [usize; 6]) -> Result<usize, Errno> {
    let [a0, a1, a2, a3, a4, a5] = a;
    let ret: c_long;
    // SAFETY: the x86-64 ABI of the kernel: rcx and r11 are overwritten, everything else is kept; what the call does
    // with its arguments is the caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") n as c_long => ret,
            in("rdi") a0, in("rsi") a1, in("rdx") a2, in("r10") a3, in("r8") a4, in("r9") a5,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    decode(ret)
}

/// Performs system call `n`.
///
/// # Safety
/// As the call itself demands: pointers must be valid for what the kernel reads or writes through them.
#[cfg(target_arch = "aarch64")]
#[inline]
pub unsafe fn syscall(n: u32, a: [usize; 6]) -> Result<usize, Errno> {
    let [a0, a1, a2, a3, a4, a5] = a;
    let ret: c_long;
    // SAFETY: the AArch64 ABI of the kernel: only x0 is overwritten; what the call does with its arguments is the
    // caller's promise.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") n as c_long,
            inlateout("x0") a0 => ret,
            in("x1") a1, in("x2") a2, in("x3") a3, in("x4") a4, in("x5") a5,
            options(nostack)
        );
    }
    decode(ret)
}

/// The kernel returns errors as -4095..-1.
#[inline]
fn decode(ret: c_long) -> Result<usize, Errno> {
    if (-4095..0).contains(&ret) { Err(Errno::from_raw_os_error(-ret as i32)) } else { Ok(ret as usize) }
}
