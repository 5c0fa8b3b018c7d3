//! bpf(2), as far as a cgroup v2 device filter needs it: load a program, attach, replace, detach and list.

use core::mem::size_of_val;

use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::Errno;

use crate::raw::{nr, syscall};

const BPF_PROG_LOAD: usize = 5;
const BPF_PROG_ATTACH: usize = 8;
const BPF_PROG_DETACH: usize = 9;
const BPF_PROG_GET_FD_BY_ID: usize = 13;
const BPF_PROG_QUERY: usize = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// The kernel's limit of programs on one cgroup (`BPF_CGROUP_MAX_PROGS`).
pub const MAX_PROGRAMS: usize = 64;

/// One instruction (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Class, operation and operand kind.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Jump distance, or byte offset of a load.
    pub offset: i16,
    /// Immediate operand.
    pub immediate: i32,
}

#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct Attach {
    target_fd: RawFd,
    attach_bpf_fd: RawFd,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: RawFd,
}

#[repr(C)]
struct Query {
    target_fd: RawFd,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// # Safety
/// Pointers stored in `attr` must be valid for what `command` does with them.
unsafe fn bpf<T>(command: usize, attr: &mut T) -> Result<usize, Errno> {
    let size = size_of_val(attr);
    // SAFETY: `attr` is valid for reads and writes of `size` bytes during the call; what it points at is the caller's
    // promise. The kernel takes any size up to its own structure's and reads the rest as zero.
    unsafe { syscall(nr::__NR_bpf, [command, core::ptr::from_mut(attr) as usize, size, 0, 0, 0]) }
}

/// Loads a cgroup device filter. The descriptor is close-on-exec (the kernel makes all of bpf's so).
///
/// # Errors
/// EPERM without CAP_BPF (or CAP_SYS_ADMIN); EINVAL or EACCES for a program that the verifier refuses.
pub fn load_device_filter(program: &[Insn]) -> Result<OwnedFd, Errno> {
    let mut prog_name = [0; 16];
    for (to, from) in prog_name.iter_mut().zip(b"orlop_devices") {
        *to = *from;
    }
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: 0,
    };
    // SAFETY: `insns` points at `insn_cnt` instructions and `license` at a C string; both are copied during the call.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attr)? };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches `program` beside whatever is attached already: every program of the cgroup and its ancestors must allow an
/// access. With `replace`, takes that program's place instead, in one step (kernel 5.6).
pub fn attach_device_filter(cgroup: impl AsFd, program: impl AsFd, replace: Option<&OwnedFd>) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: cgroup.as_fd().as_raw_fd(),
        attach_bpf_fd: program.as_fd().as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | if replace.is_some() { BPF_F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(0, AsRawFd::as_raw_fd),
    };
    // SAFETY: the structure holds no pointers.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }.map(drop)
}

/// Detaches `program` from the cgroup.
pub fn detach_device_filter(cgroup: impl AsFd, program: impl AsFd) -> Result<(), Errno> {
    let mut attr = Attach {
        target_fd: cgroup.as_fd().as_raw_fd(),
        attach_bpf_fd: program.as_fd().as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
        replace_bpf_fd: 0,
    };
    // SAFETY: the structure holds no pointers.
    unsafe { bpf(BPF_PROG_DETACH, &mut attr) }.map(drop)
}

/// The ids of the device filters that are attached to this very cgroup; returns how many of `ids` were filled.
pub fn query_device_filters(cgroup: impl AsFd, ids: &mut [u32; MAX_PROGRAMS]) -> Result<usize, Errno> {
    let mut attr = Query {
        target_fd: cgroup.as_fd().as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        padding: 0,
    };
    // SAFETY: `prog_ids` points at `prog_cnt` writable numbers.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr)? };
    Ok((attr.prog_cnt as usize).min(MAX_PROGRAMS))
}

/// Opens a loaded program by its id. ENOENT: it is gone already.
pub fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    let mut attr = ById { id, next_id: 0, open_flags: 0 };
    // SAFETY: the structure holds no pointers.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr)? };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
