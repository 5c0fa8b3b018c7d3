//! Identity and capabilities of the calling thread, by plain masks and plain numbers: libc's versions of these calls
//! signal every thread of a process that the child does not have any more.

use core::mem::size_of;

use rustix::io::Errno;

use crate::raw::{nr, syscall};

/// The capability sets of capset(2), one bit a capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the specification's names")]
pub struct CapSets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

const PR_CAPBSET_READ: usize = 23;
const PR_CAPBSET_DROP: usize = 24;
const PR_CAP_AMBIENT: usize = 47;
const PR_CAP_AMBIENT_RAISE: usize = 2;
const PR_SET_KEEPCAPS: usize = 8;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_PDEATHSIG: usize = 1;
const PR_SET_NO_NEW_PRIVS: usize = 38;

fn prctl(a: [usize; 5]) -> Result<usize, Errno> {
    let [a0, a1, a2, a3, a4] = a;
    // SAFETY: none of the options used in this module takes a pointer.
    unsafe { syscall(nr::__NR_prctl, [a0, a1, a2, a3, a4, 0]) }
}

/// Drops from the bounding set what is not in `keep`, up to the last capability that the kernel has.
pub fn limit_bounding_set(keep: u64) -> Result<(), Errno> {
    for cap in 0..64 {
        if keep & (1 << cap) == 0 {
            match prctl([PR_CAPBSET_DROP, cap, 0, 0, 0]) {
                // Beyond the last one.
                Err(Errno::INVAL) => break,
                other => other?,
            };
        }
    }
    Ok(())
}

/// The bounding set of this thread.
pub fn bounding_set() -> u64 {
    (0..64)
        .map_while(|cap| prctl([PR_CAPBSET_READ, cap, 0, 0, 0]).ok().map(|has| (has as u64 & 1) << cap))
        .fold(0, |set, bit| set | bit)
}

/// capset(2): effective, permitted and inheritable.
pub fn capset(sets: &CapSets) -> Result<(), Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let (low, high) = (|set: u64| set as u32, |set: u64| (set >> 32) as u32);
    let data = [
        [low(sets.effective), low(sets.permitted), low(sets.inheritable)],
        [high(sets.effective), high(sets.permitted), high(sets.inheritable)],
    ];
    // SAFETY: version 3 reads two structures of three 32-bit words.
    unsafe { syscall(nr::__NR_capset, [&raw const header as usize, data.as_ptr() as usize, 0, 0, 0, 0]) }.map(drop)
}

/// The effective, permitted and inheritable sets of this thread.
pub fn capget() -> Result<CapSets, Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mut data = [[0u32; 3]; 2];
    // SAFETY: version 3 writes two structures of three 32-bit words.
    unsafe { syscall(nr::__NR_capget, [&raw const header as usize, data.as_mut_ptr() as usize, 0, 0, 0, 0])? };
    let [[e0, p0, i0], [e1, p1, i1]] = data;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapSets { effective: join(e0, e1), permitted: join(p0, p1), inheritable: join(i0, i1), ..CapSets::default() })
}

/// Raises `set` in the ambient set; each must be permitted and inheritable. Linux 4.3.
pub fn raise_ambient(set: u64) -> Result<(), Errno> {
    for cap in 0..64 {
        if set & (1 << cap) != 0 {
            prctl([PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0])?;
        }
    }
    Ok(())
}

/// Whether the permitted set survives the change from uid 0 to another.
pub fn set_keepcaps(keep: bool) -> Result<(), Errno> {
    prctl([PR_SET_KEEPCAPS, keep.into(), 0, 0, 0]).map(drop)
}

/// Whether other processes of the same user may look into this one (and own its files in /proc).
pub fn set_dumpable(dumpable: bool) -> Result<(), Errno> {
    prctl([PR_SET_DUMPABLE, dumpable.into(), 0, 0, 0]).map(drop)
}

/// The signal that arrives when the parent (thread) dies; 0 for none. A change of uid clears it.
pub fn set_pdeathsig(signal: u32) -> Result<(), Errno> {
    prctl([PR_SET_PDEATHSIG, signal as usize, 0, 0, 0]).map(drop)
}

/// No program that this one becomes gains privileges. Can't be undone.
pub fn set_no_new_privs() -> Result<(), Errno> {
    prctl([PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0]).map(drop)
}

/// setgroups(2).
pub fn setgroups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many gid_t (32 bits) as it is told.
    unsafe { syscall(nr::__NR_setgroups, [groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0]) }.map(drop)
}

/// setresgid(2), all three alike.
pub fn setgid(gid: u32) -> Result<(), Errno> {
    let gid = gid as usize;
    // SAFETY: no pointers.
    unsafe { syscall(nr::__NR_setresgid, [gid, gid, gid, 0, 0, 0]) }.map(drop)
}

/// setresuid(2), all three alike.
pub fn setuid(uid: u32) -> Result<(), Errno> {
    let uid = uid as usize;
    // SAFETY: no pointers.
    unsafe { syscall(nr::__NR_setresuid, [uid, uid, uid, 0, 0, 0]) }.map(drop)
}

const _: () = assert!(size_of::<[[u32; 3]; 2]>() == 24);
