//! The worker's jail: what a process that reads hostile bytes gives up before it reads the first.
//!
//! In this order: all descriptors but its own, resource limits, namespaces (mount, network, IPC, UTS, and user if it isn't
//! root), the file tree (an empty read-only tmpfs, or the directory that it works in), its user and capabilities, new
//! privileges, Landlock, and last all system calls but those of its kind of work. Closing, limits, capabilities and the filter must succeed;
//! namespaces and Landlock are left out where the kernel has none for us, and the [`Report`] says so.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::libc;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
use serde::{Deserialize, Serialize};

use crate::dir::Dir;
use crate::error::{At, Error, ErrorKind, Result};

/// The kinds of work, each with its own system calls and capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Reads one file, writes to a pipe and appends to a file, at most `max_output` bytes.
    Ingest {
        /// In bytes.
        max_output: u64,
    },
    /// Reads and writes files that are open.
    Merge,
    /// Makes a tree of files.
    Directory,
    /// Reads a tree of files.
    Commit,
}

/// What a jail is made of, besides what it is always made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Why it has no namespaces and no file tree of its own, if it hasn't.
    pub namespaces: Option<String>,
    /// Why Landlock does not, or not wholly, hold it.
    pub landlock: Option<String>,
}

/// Closes all descriptors above 2.
pub(crate) fn close_all() -> Result<()> {
    // The listing has one of its own, which is in the list and closed when it is tried.
    let listed = Dir::at("/proc/self/fd".as_ref())?.names()?;
    for name in listed {
        let fd: i32 = name.parse().map_err(|_| Error::invalid(format!("/proc/self/fd/{name}: no number")))?;
        if fd > 2 {
            // EBADF: the listing's own.
            let _ = nix::unistd::close(fd);
        }
    }
    let left = Dir::at("/proc/self/fd".as_ref())?.names()?;
    // 0 to 2 and the listing's own.
    if left.len() > 5 {
        return Err(Error::new(ErrorKind::Os, "worker: files are left open"));
    }
    Ok(())
}

/// Shuts the process in, which has one thread. `root` becomes its file tree; it comes back as the directory to work
/// in. `parent` is who may not die before it, `fds` is how many descriptors it works on.
pub(crate) fn enter(work: Work, root: Option<Dir>, parent: i32, fds: usize) -> Result<(Option<Dir>, Report)> {
    let mut report = Report::default();
    limit(work, fds)?;
    let root = match namespaces() {
        Ok(()) => Some(into_tree(root)?),
        Err(why) => {
            report.namespaces = Some(why.to_string());
            root
        }
    };
    give_up_powers(work)?;
    tie_to(parent)?;
    rustix::thread::set_no_new_privs(true).at(|| "set no_new_privs")?;
    let works_in = root.filter(|_| matches!(work, Work::Directory | Work::Commit));
    report.landlock = landlock(works_in.as_ref())?;
    filter(work)?;
    Ok((works_in, report))
}

fn limit(work: Work, fds: usize) -> Result<()> {
    let set = |resource, value: u64| {
        let old = rustix::process::getrlimit(resource);
        let value = old.maximum.map_or(value, |maximum| value.min(maximum));
        rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
            .at(|| format!("limit {resource:?}"))
    };
    set(Resource::Core, 0)?;
    // Tables of the largest layers that are taken, their encoding, stacks and arenas.
    set(Resource::As, 4 << 30)?;
    // A tree needs one descriptor a level of what is walked.
    let own = if matches!(work, Work::Directory | Work::Commit) { 4096 } else { 64 };
    set(Resource::Nofile, own + fds as u64)?;
    if let Work::Ingest { max_output } = work {
        // The table of a tar is shorter than the tar, and this is for the case that all else fails.
        set(Resource::Fsize, max_output)?;
    }
    Ok(())
}

/// New namespaces, or why there are none.
fn namespaces() -> Result<()> {
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() || nix::sched::unshare(own).is_err() {
        nix::sched::unshare(own | CloneFlags::CLONE_NEWUSER).map_err(std::io::Error::from).at(|| "unshare")?;
        tell_proc("setgroups", "deny")?;
        tell_proc("uid_map", &format!("0 {uid} 1"))?;
        tell_proc("gid_map", &format!("0 {gid} 1"))?;
    }
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .at(|| "make the mounts private")
}

fn tell_proc(name: &str, text: &str) -> Result<()> {
    use std::io::Write;
    let what = || format!("write /proc/self/{name}");
    let fd =
        rustix::fs::open(format!("/proc/self/{name}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).at(what)?;
    File::from(fd).write_all(text.as_bytes()).at(what)
}

/// Makes `root`, or an empty tmpfs, the file tree, and detaches the old one.
fn into_tree(root: Option<Dir>) -> Result<Dir> {
    match root {
        // /proc is a mount point that is always there: this process was started from it.
        None => {
            let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("tmpfs", "/proc", "tmpfs", flags, Some(c"size=4k,nr_inodes=2,mode=0555"))
                .at(|| "mount the empty root")?;
            rustix::process::chdir("/proc").at(|| "enter the empty root")?;
        }
        Some(root) => {
            let tree = clone_here(&root)?;
            rustix::mount::move_mount(&tree, "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .at(|| "mount the root")?;
            rustix::process::fchdir(&tree).at(|| "enter the root")?;
        }
    }
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH).at(|| "detach the old root")?,
        // The first file system of an initramfs can't be left this way (pivot_root(2)).
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_move(".", "/").at(|| "move the root")?;
            rustix::process::chroot(".").at(|| "change the root")?;
        }
        Err(e) => return Err(e).at(|| "pivot the root"),
    }
    rustix::process::chdir("/").at(|| "enter the root")?;
    Dir::at("/".as_ref())
}

/// A detached mount of the directory. The descriptor is of the parent's mount namespace, whose mounts can't be cloned
/// here, so it is looked up again, and must be the same.
fn clone_here(root: &Dir) -> Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", root.as_fd().as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new()).at(|| "find the root")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::open(&path, flags, Mode::empty()).at(|| "open the root")?;
    let (a, b) = (rustix::fs::fstat(root).at(|| "stat the root")?, rustix::fs::fstat(&found).at(|| "stat the root")?);
    if (a.st_dev, a.st_ino) != (b.st_dev, b.st_ino) {
        return Err(Error::new(ErrorKind::Os, "worker: the root is at another place now"));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(&found, "", flags).at(|| "clone the root's mount")
}

/// Capabilities that a kind of work needs, if it has them to begin with.
fn needed(work: Work) -> CapabilitySet {
    match work {
        Work::Ingest { .. } | Work::Merge => CapabilitySet::empty(),
        // chown, chmod and utimensat of what is others' by then, entries of directories without a right for anyone,
        // setgid bits for others' groups, device nodes, security.capability.
        Work::Directory => {
            CapabilitySet::CHOWN
                | CapabilitySet::FOWNER
                | CapabilitySet::DAC_OVERRIDE
                | CapabilitySet::FSETID
                | CapabilitySet::MKNOD
                | CapabilitySet::SETFCAP
        }
        // Whatever the mode of what is read, without changing access times; SYS_ADMIN shows trusted.overlay.*.
        Work::Commit => CapabilitySet::DAC_READ_SEARCH | CapabilitySet::FOWNER | CapabilitySet::SYS_ADMIN,
    }
}

/// The user that works for root where root isn't needed ("nobody" in most systems, and never the owner of anything).
const NOBODY: u32 = 65534;

fn give_up_powers(work: Work) -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    let keep = needed(work);
    let have = rustix::thread::capabilities(None).at(|| "get capabilities")?;
    // Without CAP_SETPCAP there is nothing in the bounding set that could be got: no program is executed.
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(keep).iter() {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // A capability that this kernel does not know.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(e) => return Err(e).at(|| "drop a capability"),
            }
        }
    }
    // In a user namespace of our own there is but one user, whom root's number stands for.
    if is_root && keep.is_empty() && nix::unistd::setgroups(&[]).is_ok() {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        nix::unistd::setresgid(gid, gid, gid).map_err(std::io::Error::from).at(|| "set the group")?;
        nix::unistd::setresuid(uid, uid, uid).map_err(std::io::Error::from).at(|| "set the user")?;
    }
    let kept = have.permitted & keep;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).at(|| "drop capabilities")
}

/// Dies with its parent. A change of the user takes that back (prctl(2)), so this comes after it.
fn tie_to(parent: i32) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).at(|| "tie to the parent")?;
    if rustix::process::getppid().map(Pid::as_raw_pid) != Some(parent) {
        return Err(Error::invalid("the parent is gone"));
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).at(|| "set not dumpable")
}

/// No files but those below `root`, no network, no signals to others. The reason, if the kernel does not do all of it.
fn landlock(root: Option<&Dir>) -> Result<Option<String>> {
    // The newest of what the crate knows to be about files, network and scopes; older kernels do a part of it.
    let abi = ABI::V6;
    let refused = |e: landlock::RulesetError| Error::new(ErrorKind::Os, format!("landlock: {e}"));
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|r| r.handle_access(AccessNet::from_all(abi)))
        .and_then(|r| r.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .map_err(refused)?;
    let ruleset = match root {
        Some(root) => ruleset.add_rule(PathBeneath::new(root.as_fd(), AccessFs::from_all(abi))).map_err(refused)?,
        None => ruleset,
    };
    Ok(match ruleset.restrict_self().map_err(refused)?.ruleset {
        RulesetStatus::FullyEnforced => None,
        RulesetStatus::PartiallyEnforced => Some("landlock: this kernel knows a part of it".to_owned()),
        RulesetStatus::NotEnforced => Some("landlock: this kernel has none, or not for us".to_owned()),
    })
}

/// The rules for the arguments of one system call: any of them must hold, and all conditions of it.
type Rules = Vec<SeccompRule>;

/// A condition on an argument: its number, its length, how, and with what.
fn when(argument: u8, len: SeccompCmpArgLen, how: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    SeccompCondition::new(argument, len, how, value).map_err(unfilterable)
}

fn unfilterable(e: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Os, format!("seccomp: {e}"))
}

fn any_of(argument: u8, values: &[u64]) -> Result<Rules> {
    values
        .iter()
        .map(|value| {
            SeccompRule::new(vec![when(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value)?])
                .map_err(unfilterable)
        })
        .collect()
}

/// What glibc's allocator and threads, and reading and writing of open files, are made of.
const COMMON: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_sendto,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
    // Answered with ENOSYS by the filter before, so that glibc falls back to clone, whose flags can be looked at.
    libc::SYS_clone3,
    // Answered with EACCES where no tree is worked in, by the filter before.
    libc::SYS_openat,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
];

/// What reads a tree.
const TREE: &[libc::c_long] = &[
    libc::SYS_openat2,
    libc::SYS_getdents64,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_getxattr,
    libc::SYS_listxattr,
    libc::SYS_lgetxattr,
    libc::SYS_llistxattr,
    // Also asks if trusted attributes can be seen, of one that there isn't.
    libc::SYS_fremovexattr,
    libc::SYS_fadvise64,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
];

/// What makes one, besides.
const MAKE: &[libc::c_long] = &[
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    // fchmodat2 (Linux 6.6)
    452,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_umask,
    libc::SYS_geteuid,
    libc::SYS_getegid,
];

fn allowed(work: Work) -> Result<BTreeMap<i64, Rules>> {
    let mut rules: BTreeMap<i64, Rules> = COMMON.iter().map(|call| (*call, Vec::new())).collect();
    // What clone(2) is called with for a thread, and nothing else: no process, no namespace.
    let thread = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    rules.insert(libc::SYS_clone, any_of(0, &[u64::from(thread.cast_unsigned())])?);
    // Memory is not made executable.
    let not_executable = || -> Result<Rules> {
        let exec = SeccompCmpOp::MaskedEq(u64::from(libc::PROT_EXEC.cast_unsigned()));
        Ok(vec![SeccompRule::new(vec![when(2, SeccompCmpArgLen::Dword, exec, 0)?]).map_err(unfilterable)?])
    };
    rules.insert(libc::SYS_mmap, not_executable()?);
    rules.insert(libc::SYS_mprotect, not_executable()?);
    // Flags are asked for and descriptors doubled; above all, O_APPEND is not taken away.
    let asks = [libc::F_GETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC].map(|op| u64::from(op.cast_unsigned()));
    rules.insert(libc::SYS_fcntl, any_of(1, &asks)?);
    // Limits are asked for (by pthread_getattr_np), not set: the new value is no pointer.
    let asked = when(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![asked]).map_err(unfilterable)?]);
    // A thread's name, and the name of an arena (glibc 2.38).
    let names = [libc::PR_SET_NAME.cast_unsigned(), libc::PR_SET_VMA.cast_unsigned()].map(u64::from);
    rules.insert(libc::SYS_prctl, any_of(0, &names)?);
    // abort(3): signals to itself.
    let own = u64::from(rustix::process::getpid().as_raw_pid().cast_unsigned());
    rules.insert(libc::SYS_tgkill, any_of(0, &[own])?);
    // ... for which it takes its handler back.
    // Of the C library's own signals, 32 and 33, pthread_create sets up the second with the first thread.
    rules.insert(libc::SYS_rt_sigaction, any_of(0, &[u64::from(libc::SIGABRT.cast_unsigned()), 32, 33])?);
    match work {
        Work::Ingest { .. } => {}
        Work::Merge => drop(rules.insert(libc::SYS_pwrite64, Vec::new())),
        Work::Commit => rules.extend(TREE.iter().map(|call| (*call, Vec::new()))),
        Work::Directory => rules.extend(TREE.iter().chain(MAKE).map(|call| (*call, Vec::new()))),
    }
    Ok(rules)
}

/// Ends the process at the first system call that is not one of its work.
fn filter(work: Work) -> Result<()> {
    let install = |rules, mismatch, matched| -> Result<()> {
        let arch = std::env::consts::ARCH.try_into().map_err(unfilterable)?;
        let filter = SeccompFilter::new(rules, mismatch, matched, arch).map_err(unfilterable)?;
        let program: seccompiler::BpfProgram = filter.try_into().map_err(unfilterable)?;
        seccompiler::apply_filter(&program).map_err(unfilterable)
    };
    let allowed = allowed(work)?;
    let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    install([(libc::SYS_clone3, Vec::new())].into(), SeccompAction::Allow, missing)?;
    if matches!(work, Work::Ingest { .. } | Work::Merge) {
        // Refused, but no crime: glibc's allocator looks at /proc/sys/vm/overcommit_memory before it shrinks an arena.
        let refused = SeccompAction::Errno(libc::EACCES.cast_unsigned());
        install([(libc::SYS_openat, Vec::new())].into(), SeccompAction::Allow, refused)?;
    }
    install(allowed, SeccompAction::KillProcess, SeccompAction::Allow)
}
