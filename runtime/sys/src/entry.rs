//! What runs before anything else does: before libc, before Rust's runtime.
//!
//! A command that makes containers has to run from a mount that is read-only (CVE-2019-5736), so it executes itself a
//! second time. Done in `main`, that costs a whole start of a program: on a virtual machine most of it goes to the
//! CPUID instructions of libc's start-up, each of which traps. Done here, it costs five system calls and an `execve`.
//!
//! This is a short cut and no more: `main` asks [`ran_protected`] and does the same in its own way if it must.

use core::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(debug_assertions))]
use core::{ffi::CStr, mem::MaybeUninit};

use crate::raw::{nr, syscall};

static PROTECTED: AtomicBool = AtomicBool::new(false);

/// Whether the short cut has found this process on a read-only mount.
pub fn ran_protected() -> bool {
    PROTECTED.load(Ordering::Relaxed)
}

/// Declares `main` without Rust's own start-up around it (which installs handlers for stack overflow, and reads
/// /proc/self/maps for them), and with the short cut before libc's.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        /// Called by libc, once.
        #[unsafe(no_mangle)]
        extern "C" fn main(_argc: core::ffi::c_int, _argv: *const *const core::ffi::c_char) -> core::ffi::c_int {
            $crate::entry::prepare();
            core::ffi::c_int::from($main())
        }
    };
}

/// What Rust's start-up would have done and is needed: a closed stdin, stdout or stderr becomes /dev/null, so that no
/// file of ours gets its number; and a reader that has gone away is an error, not a signal.
#[doc(hidden)]
pub fn prepare() {
    const SIGPIPE: usize = 13;
    let ignore: [usize; 4] = [1, 0, 0, 0];
    // SAFETY: the kernel reads one structure of four words.
    let _ = unsafe { syscall(nr::__NR_rt_sigaction, [SIGPIPE, ignore.as_ptr() as usize, 0, 8, 0, 0]) };
    for fd in 0..3usize {
        // SAFETY: no pointers, and a string with its NUL. The lowest free number is the one that is closed.
        unsafe {
            if syscall(nr::__NR_fcntl, [fd, nr::F_GETFD as usize, 0, 0, 0, 0]).is_err() {
                let path = c"/dev/null".as_ptr() as usize;
                let _ = syscall(nr::__NR_openat, [nr::AT_FDCWD as usize, path, nr::O_RDWR as usize, 0, 0, 0]);
            }
        }
    }
}

// Without optimisation even the few lines of `protect` call functions through tables that nobody has relocated yet.
#[cfg(all(target_arch = "x86_64", debug_assertions))]
core::arch::global_asm!(".globl orlop_entry", ".type orlop_entry, @function", "orlop_entry:", "jmp _start");

// The kernel starts a program with the stack pointer at argc and rdx at a function for libc to register.
#[cfg(all(target_arch = "x86_64", not(debug_assertions)))]
core::arch::global_asm!(
    ".globl orlop_entry",
    ".type orlop_entry, @function",
    "orlop_entry:",
    "mov rbx, rsp",
    "mov r12, rdx",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {protect}",
    "mov rsp, rbx",
    "mov rdx, r12",
    "xor ebp, ebp",
    "jmp _start",
    protect = sym protect,
);

/// Executes this program again from a detached read-only mount of its file, if its command makes containers and it
/// does not run from such a mount yet.
///
/// Nothing is relocated yet and libc's functions can't be called: no memcpy, no memcmp, no panic.
///
/// # Safety
/// `stack` is what the kernel left: argc, the arguments, null, the environment, null.
#[cfg(all(target_arch = "x86_64", not(debug_assertions)))]
unsafe extern "C" fn protect(stack: *const usize) {
    // SAFETY: the layout above.
    unsafe {
        let argc = *stack;
        let arguments = stack.add(1);
        let mut makes_containers = false;
        let mut i = 1;
        // An id may be named like a command too; then a little time is lost and nothing else.
        while i < argc && !makes_containers {
            let argument = *arguments.add(i) as *const u8;
            makes_containers = is(argument, c"create") || is(argument, c"run") || is(argument, c"exec");
            i += 1;
        }
        if !makes_containers {
            return;
        }
        let exe = c"/proc/self/exe".as_ptr() as usize;
        let flags = (nr::O_PATH | nr::O_CLOEXEC) as usize;
        let Ok(fd) = syscall(nr::__NR_openat, [nr::AT_FDCWD as usize, exe, flags, 0, 0, 0]) else { return };
        let mut stat = MaybeUninit::<nr::statfs64>::zeroed();
        let read = syscall(nr::__NR_fstatfs, [fd, stat.as_mut_ptr() as usize, 0, 0, 0, 0]);
        let _ = syscall(nr::__NR_close, [fd, 0, 0, 0, 0, 0]);
        const ST_RDONLY: nr::__kernel_long_t = 1;
        if read.is_ok() && stat.assume_init_ref().f_flags & ST_RDONLY != 0 {
            PROTECTED.store(true, Ordering::Relaxed);
            return;
        }
        let flags = (nr::OPEN_TREE_CLONE | nr::O_CLOEXEC) as usize;
        let Ok(tree) = syscall(nr::__NR_open_tree, [nr::AT_FDCWD as usize, exe, flags, 0, 0, 0]) else { return };
        let attr = nr::mount_attr { attr_set: nr::MOUNT_ATTR_RDONLY as u64, attr_clr: 0, propagation: 0, userns_fd: 0 };
        let (empty, size) = (c"".as_ptr() as usize, size_of::<nr::mount_attr>());
        let at = [tree, empty, nr::AT_EMPTY_PATH as usize, &raw const attr as usize, size, 0];
        if syscall(nr::__NR_mount_setattr, at).is_ok() {
            let environment = arguments.add(argc + 1);
            let at = [tree, empty, arguments as usize, environment as usize, nr::AT_EMPTY_PATH as usize, 0];
            let _ = syscall(nr::__NR_execveat, at);
        }
        // Still here: `main` will see.
        let _ = syscall(nr::__NR_close, [tree, 0, 0, 0, 0, 0]);
    }
}

/// Whether the C string `text` is `word`, byte by byte and without a call.
///
/// # Safety
/// `text` ends in a NUL.
#[cfg(all(target_arch = "x86_64", not(debug_assertions)))]
#[inline(always)]
unsafe fn is(text: *const u8, word: &CStr) -> bool {
    let word = word.as_ptr().cast::<u8>();
    let mut i = 0;
    loop {
        // SAFETY: neither is read beyond its NUL: at the first difference, or the common NUL, this ends. Volatile, so
        // that it does not become a call of memcmp.
        let (a, b) = unsafe { (word.add(i).read_volatile(), text.add(i).read_volatile()) };
        if a != b {
            return false;
        }
        if a == 0 {
            return true;
        }
        i += 1;
    }
}
