//! What a process does to itself before it becomes another program.

extern crate alloc;

use alloc::vec::Vec;
use core::cell::Cell;
use core::ffi::{CStr, c_char};
use core::mem::size_of;
use core::ptr;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use rustix::io::Errno;

use crate::raw::{nr, syscall};

/// The strings of an argument vector or an environment, in the form that execve(2) wants, with room for one more.
#[derive(Debug)]
pub struct Strings {
    _text: Vec<u8>,
    pointers: Vec<Cell<*const c_char>>,
}

impl Strings {
    /// Copies `strings`. `None` if one of them contains a NUL.
    pub fn new<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Option<Self> {
        let mut text = Vec::new();
        let mut starts = Vec::new();
        for s in strings {
            let s = s.as_ref();
            if s.contains(&0) {
                return None;
            }
            starts.push(text.len());
            text.extend_from_slice(s);
            text.push(0);
        }
        // The text does not move any more: its heap block stays where it is when the Vec is moved.
        let mut pointers: Vec<_> =
            starts.iter().filter_map(|at| text.get(*at..)).map(|s| Cell::new(s.as_ptr().cast())).collect();
        pointers.push(Cell::new(ptr::null()));
        pointers.push(Cell::new(ptr::null()));
        Some(Self { _text: text, pointers })
    }

    /// The vector. A Cell of a pointer has the layout of the pointer.
    fn as_ptr(&self) -> usize {
        self.pointers.as_ptr() as usize
    }
}

/// Becomes the program `path`; `more` is one more string at the end of the environment. Returns only with an error.
pub fn execve(path: &CStr, arguments: &Strings, environment: &Strings, more: Option<&CStr>) -> Errno {
    let spare = environment.pointers.len().checked_sub(2).and_then(|at| environment.pointers.get(at));
    if let (Some(spare), Some(more)) = (spare, more) {
        spare.set(more.as_ptr());
    }
    let (arguments, vector) = (arguments.as_ptr(), environment.as_ptr());
    // SAFETY: both vectors end in a null pointer and their strings in a NUL, all of them alive here. Not execveat: a
    // seccomp filter that lets a program start need not allow that one.
    let result = unsafe { syscall(nr::__NR_execve, [path.as_ptr() as usize, arguments, vector, 0, 0, 0]) };
    if let Some(spare) = spare {
        spare.set(ptr::null());
    }
    result.err().unwrap_or(Errno::INVAL)
}

/// Becomes the program that the file `fd` is. Returns only with an error.
pub fn fexecve(fd: BorrowedFd<'_>, arguments: &Strings, environment: &Strings) -> Errno {
    let (fd, path) = (fd.as_raw_fd() as usize, c"".as_ptr() as usize);
    let (arguments, environment) = (arguments.as_ptr(), environment.as_ptr());
    // SAFETY: as in `execve`.
    let result =
        unsafe { syscall(nr::__NR_execveat, [fd, path, arguments, environment, nr::AT_EMPTY_PATH as usize, 0]) };
    result.err().unwrap_or(Errno::INVAL)
}

/// Ends this process at once.
pub fn exit(code: u8) -> ! {
    loop {
        // SAFETY: no pointers; does not return.
        let _ = unsafe { syscall(nr::__NR_exit_group, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Closes, or with `cloexec` marks close-on-exec, every fd from `first` on. Linux 5.9 (5.11 for the mark).
pub fn close_range(first: u32, last: u32, cloexec: bool) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    let flags = if cloexec { CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: no pointers. Closing an fd that somebody else owns is the caller's affair: it is done in a process that
    // is about to execve, or before anything is open.
    unsafe { syscall(nr::__NR_close_range, [first as usize, last as usize, flags, 0, 0, 0]) }.map(drop)
}

/// Makes `fd` the number `to`, close-on-exec or not, and closes what `to` was.
pub fn dup_to(fd: BorrowedFd<'_>, to: i32, cloexec: bool) -> Result<(), Errno> {
    let from = fd.as_raw_fd();
    if from == to {
        let flags = if cloexec { rustix::io::FdFlags::CLOEXEC } else { rustix::io::FdFlags::empty() };
        return rustix::io::fcntl_setfd(fd, flags);
    }
    let flags = if cloexec { nr::O_CLOEXEC } else { 0 };
    // SAFETY: no pointers; see close_range about ownership of `to`.
    unsafe { syscall(nr::__NR_dup3, [from as usize, to as usize, flags as usize, 0, 0, 0]) }.map(drop)
}

/// The fd with this number, for as long as the caller says.
///
/// # Errors
/// EBADF if it is not open.
pub fn borrow_fd<'a>(fd: i32) -> Result<BorrowedFd<'a>, Errno> {
    // SAFETY: no pointers.
    unsafe { syscall(nr::__NR_fcntl, [fd as usize, nr::F_GETFD as usize, 0, 0, 0, 0])? };
    // SAFETY: it is open, as the kernel has just said; callers use it for fds that they inherited and never close.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Takes over an inherited fd.
///
/// # Errors
/// EBADF if it is not open.
pub fn adopt_fd(fd: i32) -> Result<crate::OwnedFd, Errno> {
    borrow_fd(fd)?;
    // SAFETY: open, and inherited: nothing in this program has wrapped it, since it was opened by whoever started us.
    Ok(unsafe { FromRawFd::from_raw_fd(fd) })
}

/// The pid of a child that is dead and waits to be reaped, without reaping it: the number stays its own until then.
///
/// # Errors
/// ECHILD without children.
pub fn dead_child() -> Result<Option<rustix::process::Pid>, Errno> {
    const P_ALL: usize = 0;
    let mut info = [0u32; 32];
    let options = (nr::WEXITED | nr::WNOHANG | nr::WNOWAIT) as usize;
    // SAFETY: siginfo_t is 128 bytes, which the kernel fills in.
    unsafe { syscall(nr::__NR_waitid, [P_ALL, 0, info.as_mut_ptr() as usize, options, 0, 0])? };
    // After signo, errno and code and, on 64 bits, what aligns the rest; 0 if there was none.
    let [_, _, _, _, pid, ..] = info;
    Ok(rustix::process::Pid::from_raw(pid as i32))
}

/// How a process has ended that is not our child, as wait(2) encodes it (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux
/// 6.15). Known from the moment in which it is reaped, for those who had opened its pidfd before.
///
/// # Errors
/// ENOTTY and EINVAL in an older kernel.
pub fn exit_status(pidfd: impl AsFd) -> Result<Option<i32>, Errno> {
    /// `struct pidfd_info` as it was first published.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xff, 11, struct pidfd_info), which is 64 bytes long.
    const PIDFD_GET_INFO: usize = 3 << 30 | 64 << 16 | 0xff << 8 | 11;
    let mut info = Info { mask: PIDFD_INFO_EXIT, ..Info::default() };
    let at = &raw mut info as usize;
    // SAFETY: the kernel reads and writes at most the 64 bytes of `info` that are part of the request's number.
    match unsafe { syscall(nr::__NR_ioctl, [pidfd.as_fd().as_raw_fd() as usize, PIDFD_GET_INFO, at, 0, 0, 0]) } {
        Ok(_) => Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)),
        // Reaped, and nobody kept word of it.
        Err(Errno::SRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

/// personality(2).
pub fn personality(persona: u64) -> Result<(), Errno> {
    // SAFETY: no pointers.
    unsafe { syscall(nr::__NR_personality, [persona as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// ioprio_set(2) for this thread: `class << 13 | level`.
pub fn ioprio_set(value: u16) -> Result<(), Errno> {
    const WHO_PROCESS: usize = 1;
    // SAFETY: no pointers.
    unsafe { syscall(nr::__NR_ioprio_set, [WHO_PROCESS, 0, value as usize, 0, 0, 0]) }.map(drop)
}

/// The structure of sched_setattr(2), in its first version (48 bytes); times in nanoseconds.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's names")]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// sched_setattr(2) for this thread.
pub fn sched_setattr(attr: &SchedAttr) -> Result<(), Errno> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..*attr };
    // SAFETY: the structure outlives the call and says its own size.
    unsafe { syscall(nr::__NR_sched_setattr, [0, &raw const attr as usize, 0, 0, 0, 0]) }.map(drop)
}

/// sched_setaffinity(2) for this thread; one bit a CPU.
pub fn sched_setaffinity(mask: &[u64]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as it is told.
    unsafe { syscall(nr::__NR_sched_setaffinity, [0, size_of_val(mask), mask.as_ptr() as usize, 0, 0, 0]) }.map(drop)
}

/// prlimit64(2) on `pid` (0 is this process): raw numbers, so that no resource is unknown here.
pub fn prlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = [soft, hard];
    // SAFETY: the kernel reads two 64-bit numbers.
    unsafe { syscall(nr::__NR_prlimit64, [pid as usize, resource as usize, limit.as_ptr() as usize, 0, 0, 0]) }
        .map(drop)
}

/// Joins the session keyring `name`, or makes it, and returns its serial number. The keyring belongs to the user
/// namespace.
pub fn join_session_keyring(name: &CStr) -> Result<i32, Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: the kernel reads a NUL-terminated string.
    unsafe { syscall(nr::__NR_keyctl, [KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr() as usize, 0, 0, 0, 0]) }
        .map(|serial| serial as i32)
}

/// Sets the permissions of a key (keyctl(2), KEYCTL_SETPERM).
pub fn key_setperm(serial: i32, permissions: u32) -> Result<(), Errno> {
    const KEYCTL_SETPERM: usize = 5;
    // SAFETY: no pointers.
    unsafe { syscall(nr::__NR_keyctl, [KEYCTL_SETPERM, serial as usize, permissions as usize, 0, 0, 0]) }.map(drop)
}

/// getcwd(2) into `buffer`; the length without the NUL. A directory that cannot be reached from the root begins with
/// `(unreachable)`.
pub fn getcwd(buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most as many bytes as it is told.
    unsafe { syscall(nr::__NR_getcwd, [buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0, 0]) }
        .map(|n| n.saturating_sub(1))
}

/// faccessat2(2) with the effective ids: may this be executed? Linux 5.8.
pub fn may_execute(path: &CStr) -> Result<(), Errno> {
    const X_OK: usize = 1;
    // SAFETY: the kernel reads a NUL-terminated string.
    unsafe {
        syscall(
            nr::__NR_faccessat2,
            [nr::AT_FDCWD as usize, path.as_ptr() as usize, X_OK, nr::AT_EACCESS as usize, 0, 0],
        )
    }
    .map(drop)
}

/// Brings an interface up, or sees that it is: SIOCGIFFLAGS and SIOCSIFFLAGS through `socket`.
pub fn interface_up(socket: impl AsFd, name: &CStr) -> Result<(), Errno> {
    const SIOCGIFFLAGS: usize = 0x8913;
    const SIOCSIFFLAGS: usize = 0x8914;
    const IFF_UP: u16 = 1;
    let mut request = [0u8; 40];
    for (to, from) in request.iter_mut().take(15).zip(name.to_bytes()) {
        *to = *from;
    }
    let fd = socket.as_fd().as_raw_fd() as usize;
    // SAFETY: struct ifreq is 40 bytes: 16 of name and a union that begins with 16 bits of flags.
    unsafe { syscall(nr::__NR_ioctl, [fd, SIOCGIFFLAGS, request.as_mut_ptr() as usize, 0, 0, 0])? };
    if let [low, high] = &mut request[16..18] {
        let flags = u16::from_ne_bytes([*low, *high]) | IFF_UP;
        [*low, *high] = flags.to_ne_bytes();
    }
    // SAFETY: as above.
    unsafe { syscall(nr::__NR_ioctl, [fd, SIOCSIFFLAGS, request.as_ptr() as usize, 0, 0, 0]) }.map(drop)
}

/// Leaves the namespaces of these `CLONE_NEW*` flags for new ones.
pub fn unshare(flags: u64) -> Result<(), Errno> {
    // SAFETY: no pointers. The flags are namespaces only, never CLONE_FILES or CLONE_FS, which rustix warns of.
    unsafe { syscall(nr::__NR_unshare, [flags as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// Joins the namespace that `fd` is; with a pidfd (Linux 5.8), those of `flags` of that process, all or none.
pub fn setns(fd: BorrowedFd<'_>, flags: u64) -> Result<(), Errno> {
    // SAFETY: no pointers.
    unsafe { syscall(nr::__NR_setns, [fd.as_raw_fd() as usize, flags as usize, 0, 0, 0, 0]) }.map(drop)
}

/// An empty signal mask, and the default action for the two signals that a parent may leave ignored: SIGPIPE (every
/// Rust program ignores it) and SIGCHLD.
pub fn reset_signals() -> Result<(), Errno> {
    const SIG_SETMASK: usize = 2;
    const SIGSET: usize = 8;
    const SIGPIPE: usize = 13;
    const SIGCHLD: usize = 17;
    let none = 0u64;
    // struct kernel_sigaction, all zero: SIG_DFL, no flags, an empty mask.
    let default = [0usize; 4];
    for signal in [SIGPIPE, SIGCHLD] {
        // SAFETY: the kernel reads one structure of at most four words.
        unsafe { syscall(nr::__NR_rt_sigaction, [signal, default.as_ptr() as usize, 0, SIGSET, 0, 0])? };
    }
    // SAFETY: the kernel reads 8 bytes.
    unsafe { syscall(nr::__NR_rt_sigprocmask, [SIG_SETMASK, &raw const none as usize, 0, SIGSET, 0, 0]) }.map(drop)
}

/// The `CLONE_NEW*` flag of the namespace that `fd` is (NS_GET_NSTYPE, Linux 4.11).
///
/// # Errors
/// ENOTTY if it is none.
pub fn namespace_type(fd: impl AsFd) -> Result<u64, Errno> {
    const NS_GET_NSTYPE: usize = 0xb703;
    // SAFETY: this request takes no argument.
    unsafe { syscall(nr::__NR_ioctl, [fd.as_fd().as_raw_fd() as usize, NS_GET_NSTYPE, 0, 0, 0, 0]) }.map(|n| n as u64)
}

/// The user namespace that a namespace belongs to: whose users have power over it. Linux 4.9.
///
/// # Errors
/// EPERM for one beyond the caller's own; EINVAL, or ENOTTY, if `fd` is no namespace.
pub fn user_namespace_of(fd: impl AsFd) -> Result<crate::OwnedFd, Errno> {
    const NS_GET_USERNS: usize = 0xb701;
    // SAFETY: the request takes no argument.
    let owner = unsafe { syscall(nr::__NR_ioctl, [fd.as_fd().as_raw_fd() as usize, NS_GET_USERNS, 0, 0, 0, 0])? };
    // SAFETY: a new fd that is ours; the kernel opens it with O_CLOEXEC.
    Ok(unsafe { crate::OwnedFd::from_raw_fd(owner as i32) })
}
