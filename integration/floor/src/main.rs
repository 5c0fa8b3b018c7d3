//! The floor under every runtime: the kernel calls that a container of `runc spec`'s configuration needs, in the order
//! in which a runtime makes them, with constants for everything that a runtime would have to read, check or record.
//! The benchmark measures runtimes against it.
//!
//!     orlop-floor v1|v2 ROOTFS
//!
//! runs ROOTFS/bin/true in a container whose cgroups are on the given layout, mounted below /sys/fs/cgroup, and exits
//! as it does. A call that fails ends the program with status 100 and a line that names the call.
//!
//! Left out of that configuration are the terminal, the device rules and the rlimit, as in the benchmark's bundle.

use core::ffi::CStr;
use std::ffi::CString;
use std::process::ExitCode;

use orlop_sys::Errno;
use orlop_sys::raw::{nr, syscall};

/// What failed, and how.
type Step = Result<usize, (&'static str, Errno)>;

/// Makes a system call; its failure carries its name.
macro_rules! call {
    ($name:literal, $n:ident $(, $arg:expr)* $(,)?) => {{
        let list = [$($arg as usize),*];
        let mut args = [0usize; 6];
        for (to, from) in args.iter_mut().zip(list) {
            *to = from;
        }
        // SAFETY: every pointer that this program passes is a C string or a struct that lives until the call returns.
        unsafe { syscall(nr::$n, args) }.map_err(|errno| ($name, errno))
    }};
}

/// A filesystem to mount: where below the rootfs, type, source, flags, data.
type Mount = (&'static CStr, &'static CStr, u32, &'static CStr);

const LOCKED: u32 = nr::MS_NOSUID | nr::MS_NOEXEC | nr::MS_NODEV;

const PROC_AND_DEV: [Mount; 2] =
    [(c"proc", c"proc", 0, c""), (c"dev", c"tmpfs", nr::MS_NOSUID | nr::MS_STRICTATIME, c"mode=755,size=65536k")];

const BELOW_DEV_AND_SYS: [Mount; 4] = [
    (c"dev/pts", c"devpts", nr::MS_NOSUID | nr::MS_NOEXEC, c"newinstance,ptmxmode=0666,mode=0620,gid=5"),
    (c"dev/shm", c"tmpfs", LOCKED, c"mode=1777,size=65536k"),
    (c"dev/mqueue", c"mqueue", LOCKED, c""),
    (c"sys", c"sysfs", LOCKED | nr::MS_RDONLY, c""),
];

/// The controllers of v1 that have a hierarchy each, as the data of their mounts.
const HIERARCHIES: [(&CStr, &CStr); 9] = [
    (c"sys/fs/cgroup/cpu", c"cpu"),
    (c"sys/fs/cgroup/cpuacct", c"cpuacct"),
    (c"sys/fs/cgroup/cpuset", c"cpuset"),
    (c"sys/fs/cgroup/memory", c"memory"),
    (c"sys/fs/cgroup/devices", c"devices"),
    (c"sys/fs/cgroup/freezer", c"freezer"),
    (c"sys/fs/cgroup/blkio", c"blkio"),
    (c"sys/fs/cgroup/pids", c"pids"),
    (c"sys/fs/cgroup/systemd", c"name=systemd"),
];

/// Name, major and minor number.
const NODES: [(&CStr, u32, u32); 6] = [
    (c"dev/null", 1, 3),
    (c"dev/zero", 1, 5),
    (c"dev/full", 1, 7),
    (c"dev/random", 1, 8),
    (c"dev/urandom", 1, 9),
    (c"dev/tty", 5, 0),
];

const LINKS: [(&CStr, &CStr); 6] = [
    (c"/proc/self/fd", c"dev/fd"),
    (c"/proc/self/fd/0", c"dev/stdin"),
    (c"/proc/self/fd/1", c"dev/stdout"),
    (c"/proc/self/fd/2", c"dev/stderr"),
    (c"/proc/kcore", c"dev/core"),
    (c"pts/ptmx", c"dev/ptmx"),
];

const READ_ONLY: [&CStr; 5] = [c"proc/bus", c"proc/fs", c"proc/irq", c"proc/sys", c"proc/sysrq-trigger"];

const MASKED_FILES: [&CStr; 6] =
    [c"proc/kcore", c"proc/keys", c"proc/latency_stats", c"proc/timer_list", c"proc/timer_stats", c"proc/sched_debug"];

const MASKED_DIRS: [&CStr; 4] = [c"proc/acpi", c"proc/asound", c"sys/firmware", c"proc/scsi"];

/// CAP_KILL, CAP_NET_BIND_SERVICE and CAP_AUDIT_WRITE.
const CAPABILITIES: u32 = 1 << 5 | 1 << 10 | 1 << 29;
const CAP_LAST: u32 = 40;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let layout = args.next();
    let rootfs = args.next().and_then(|path| CString::new(path).ok());
    let done = match (layout.as_deref(), rootfs) {
        (Some("v1"), Some(rootfs)) => run_v1(&rootfs),
        (Some("v2"), Some(rootfs)) => run_v2(&rootfs),
        _ => {
            eprintln!("usage: orlop-floor v1|v2 ROOTFS");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(failure) => report(failure),
    }
}

fn report((name, errno): (&str, Errno)) -> ExitCode {
    eprintln!("orlop-floor: {name}: {errno}");
    ExitCode::from(100)
}

/// One cgroup, entered by the clone itself.
fn run_v2(rootfs: &CStr) -> Step {
    let cgroup = cgroup_path("/sys/fs/cgroup");
    call!("mkdir cgroup", __NR_mkdir, cgroup.as_ptr(), 0o755)?;
    let dir = call!("open cgroup", __NR_open, cgroup.as_ptr(), nr::O_RDONLY | nr::O_DIRECTORY | nr::O_CLOEXEC)?;
    let status = clone_and_wait(Some(dir), || child(rootfs, None));
    call!("rmdir cgroup", __NR_rmdir, cgroup.as_ptr())?;
    status
}

/// A cgroup in each hierarchy, entered by the child.
fn run_v1(rootfs: &CStr) -> Step {
    let cgroups = HIERARCHIES.map(|(dir, _)| cgroup_path(&format!("/{}", dir.to_string_lossy())));
    let mut tasks = [0; HIERARCHIES.len()];
    for (cgroup, tasks) in cgroups.iter().zip(&mut tasks) {
        call!("mkdir cgroup", __NR_mkdir, cgroup.as_ptr(), 0o755)?;
        let dir = call!("open cgroup", __NR_open, cgroup.as_ptr(), nr::O_RDONLY | nr::O_DIRECTORY | nr::O_CLOEXEC)?;
        // A new cpuset is empty, and nothing can join it until it has CPUs and memory nodes.
        if cgroup.to_bytes().starts_with(b"/sys/fs/cgroup/cpuset/") {
            for file in [c"cpuset.cpus", c"cpuset.mems"] {
                inherit(dir, file)?;
            }
        }
        *tasks = call!("open tasks", __NR_openat, dir, c"tasks".as_ptr(), nr::O_WRONLY | nr::O_CLOEXEC)?;
        call!("close", __NR_close, dir)?;
    }
    let status = clone_and_wait(None, || child(rootfs, Some(&tasks)));
    for cgroup in &cgroups {
        call!("rmdir cgroup", __NR_rmdir, cgroup.as_ptr())?;
    }
    status
}

fn cgroup_path(hierarchy: &str) -> CString {
    CString::new(format!("{hierarchy}/orlop-floor-{}", std::process::id())).unwrap_or_default()
}

/// Copies `file` of the root cgroup to the cgroup `dir`, its child.
fn inherit(dir: usize, file: &CStr) -> Step {
    let mut parent = *b"../cpuset.xxxx\0";
    for (to, from) in parent.iter_mut().skip(3).zip(file.to_bytes()) {
        *to = *from;
    }
    let from = call!("open cpuset", __NR_openat, dir, parent.as_ptr(), nr::O_RDONLY | nr::O_CLOEXEC)?;
    let to = call!("open cpuset", __NR_openat, dir, file.as_ptr(), nr::O_WRONLY | nr::O_CLOEXEC)?;
    let mut text = [0u8; 256];
    let len = call!("read cpuset", __NR_read, from, text.as_mut_ptr(), text.len())?;
    call!("write cpuset", __NR_write, to, text.as_ptr(), len)?;
    call!("close", __NR_close, from)?;
    call!("close", __NR_close, to)
}

/// Runs `child` in new namespaces, in the cgroup when one is given, and returns its exit status.
fn clone_and_wait(cgroup: Option<usize>, child: impl FnOnce() -> Step) -> Step {
    let mut namespaces =
        nr::CLONE_NEWPID | nr::CLONE_NEWNET | nr::CLONE_NEWIPC | nr::CLONE_NEWUTS | nr::CLONE_NEWNS | nr::CLONE_PIDFD;
    let mut flags = 0;
    if cgroup.is_some() {
        namespaces |= nr::CLONE_NEWCGROUP;
        flags = nr::CLONE_INTO_CGROUP;
    }
    let mut pidfd = -1i32;
    // SAFETY: clone_args is plain integers, for which zero is "not asked for".
    let mut args: nr::clone_args = unsafe { core::mem::zeroed() };
    args.flags = u64::from(namespaces) | flags;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = u64::from(nr::SIGCHLD);
    args.cgroup = cgroup.unwrap_or(0) as u64;
    if call!("clone3", __NR_clone3, &raw const args, size_of::<nr::clone_args>())? == 0 {
        let failure = child();
        if let Err(failure) = failure {
            report(failure);
        }
        call!("exit", __NR_exit_group, 101)?;
    }
    let mut info = [0i32; 32];
    const P_PIDFD: usize = 3;
    call!("waitid", __NR_waitid, P_PIDFD, pidfd, info.as_mut_ptr(), nr::WEXITED, 0)?;
    // siginfo_t of a SIGCHLD: signo, errno, code, padding, pid, uid, status.
    let [_, _, _, _, _, _, status, ..] = info;
    Ok(status as usize)
}

/// From the first instruction to execve. Returns only on failure.
fn child(rootfs: &CStr, tasks: Option<&[usize]>) -> Step {
    let none = core::ptr::null::<u8>();
    if let Some(tasks) = tasks {
        for tasks in tasks {
            // "0" is the writer. In `tasks` it moves one thread, for which the kernel doesn't stop all clones and exits
            // with an RCU grace period, as it does for cgroup.procs.
            call!("join cgroup", __NR_write, *tasks, c"0".as_ptr(), 1)?;
        }
        call!("unshare", __NR_unshare, nr::CLONE_NEWCGROUP)?;
    }
    call!("setsid", __NR_setsid)?;
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    call!("keyctl", __NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, c"_ses.floor".as_ptr())?;
    loopback_up()?;
    call!("sethostname", __NR_sethostname, c"runc".as_ptr(), 4)?;
    call!("mount", __NR_mount, none, c"/".as_ptr(), none, nr::MS_REC | nr::MS_SLAVE, none)?;
    call!("mount", __NR_mount, rootfs.as_ptr(), rootfs.as_ptr(), none, nr::MS_BIND | nr::MS_REC, none)?;
    call!("mount", __NR_mount, none, rootfs.as_ptr(), none, nr::MS_PRIVATE, none)?;
    call!("chdir", __NR_chdir, rootfs.as_ptr())?;

    PROC_AND_DEV.iter().try_for_each(mount)?;
    for dir in [c"dev/pts", c"dev/shm", c"dev/mqueue"] {
        call!("mkdir", __NR_mkdir, dir.as_ptr(), 0o755)?;
    }
    BELOW_DEV_AND_SYS.iter().try_for_each(mount)?;
    mount_cgroups(tasks.is_some())?;

    call!("umask", __NR_umask, 0)?;
    for (path, major, minor) in NODES {
        call!("mknod", __NR_mknod, path.as_ptr(), nr::S_IFCHR | 0o666, major << 8 | minor)?;
    }
    for (target, path) in LINKS {
        call!("symlink", __NR_symlink, target.as_ptr(), path.as_ptr())?;
    }
    for path in READ_ONLY {
        if exists(call!("bind", __NR_mount, path.as_ptr(), path.as_ptr(), none, nr::MS_BIND | nr::MS_REC, none))? {
            let flags = nr::MS_REMOUNT | nr::MS_BIND | nr::MS_RDONLY;
            call!("remount", __NR_mount, none, path.as_ptr(), none, flags, none)?;
        }
    }
    for path in MASKED_FILES {
        exists(call!("mask", __NR_mount, c"dev/null".as_ptr(), path.as_ptr(), none, nr::MS_BIND, none))?;
    }
    mask_dirs()?;

    call!("pivot_root", __NR_pivot_root, c".".as_ptr(), c".".as_ptr())?;
    call!("umount", __NR_umount2, c".".as_ptr(), nr::MNT_DETACH)?;
    call!("chdir", __NR_chdir, c"/".as_ptr())?;
    call!("remount", __NR_mount, none, c"/".as_ptr(), none, nr::MS_REMOUNT | nr::MS_BIND | nr::MS_RDONLY, none)?;

    call!("umask", __NR_umask, 0o022)?;
    drop_capabilities()?;
    call!("close_range", __NR_close_range, 3, u32::MAX, 0)?;
    let path = c"/bin/true".as_ptr();
    let argv = [path, core::ptr::null()];
    let envp = [
        c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".as_ptr(),
        c"TERM=xterm".as_ptr(),
        core::ptr::null(),
    ];
    call!("execve", __NR_execve, path, argv.as_ptr(), envp.as_ptr())
}

fn loopback_up() -> Step {
    const AF_INET: usize = 2;
    const SOCK_DGRAM_CLOEXEC: usize = 2 | 0o2_000_000;
    const SIOCSIFFLAGS: usize = 0x8914;
    let socket = call!("socket", __NR_socket, AF_INET, SOCK_DGRAM_CLOEXEC, 0)?;
    // struct ifreq: the name in 16 bytes, then the flags IFF_UP (1) and IFF_RUNNING (0x40).
    let mut request = [0u8; 40];
    for (to, from) in request.iter_mut().zip(*b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x41") {
        *to = from;
    }
    call!("loopback up", __NR_ioctl, socket, SIOCSIFFLAGS, request.as_ptr())?;
    call!("close", __NR_close, socket)
}

fn mount(&(path, fstype, flags, data): &Mount) -> Result<(), (&'static str, Errno)> {
    call!("mount", __NR_mount, fstype.as_ptr(), path.as_ptr(), fstype.as_ptr(), flags, data.as_ptr()).map(|_| ())
}

fn mount_cgroups(v1: bool) -> Result<(), (&'static str, Errno)> {
    let read_only = LOCKED | nr::MS_RELATIME | nr::MS_RDONLY;
    if !v1 {
        return mount(&(c"sys/fs/cgroup", c"cgroup2", read_only, c""));
    }
    mount(&(c"sys/fs/cgroup", c"tmpfs", LOCKED, c"mode=755"))?;
    for (path, data) in HIERARCHIES {
        call!("mkdir", __NR_mkdir, path.as_ptr(), 0o755)?;
        mount(&(path, c"cgroup", read_only, data))?;
    }
    mount(&(c"sys/fs/cgroup", c"", nr::MS_REMOUNT | nr::MS_BIND | LOCKED | nr::MS_RDONLY, c""))
}

/// One empty read-only tmpfs serves all masked directories.
fn mask_dirs() -> Result<(), (&'static str, Errno)> {
    const FSCONFIG_CMD_CREATE: usize = 6;
    let none = core::ptr::null::<u8>();
    let context = call!("fsopen", __NR_fsopen, c"tmpfs".as_ptr(), nr::FSOPEN_CLOEXEC)?;
    call!("fsconfig", __NR_fsconfig, context, FSCONFIG_CMD_CREATE, none, none, 0)?;
    let tmpfs = call!("fsmount", __NR_fsmount, context, nr::FSMOUNT_CLOEXEC, nr::MOUNT_ATTR_RDONLY)?;
    for path in MASKED_DIRS {
        let flags = nr::OPEN_TREE_CLONE | nr::OPEN_TREE_CLOEXEC | nr::AT_EMPTY_PATH;
        let mask = call!("open_tree", __NR_open_tree, tmpfs, c"".as_ptr(), flags)?;
        let here = nr::AT_FDCWD as isize;
        exists(call!("mask", __NR_move_mount, mask, c"".as_ptr(), here, path.as_ptr(), nr::MOVE_MOUNT_F_EMPTY_PATH))?;
    }
    Ok(())
}

/// Whether the path that the call was given is there.
fn exists(done: Step) -> Result<bool, (&'static str, Errno)> {
    match done {
        Ok(_) => Ok(true),
        Err((_, Errno::NOENT)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn drop_capabilities() -> Step {
    for capability in (0..=CAP_LAST).filter(|n| *n >= 32 || CAPABILITIES & 1 << n == 0) {
        const PR_CAPBSET_DROP: usize = 24;
        call!("drop capability", __NR_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0)?;
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    // Effective, permitted and inheritable set of the lower 32, then of the upper ones.
    let sets = [CAPABILITIES, CAPABILITIES, 0, 0, 0, 0];
    call!("capset", __NR_capset, header.as_ptr(), sets.as_ptr())?;
    const PR_SET_NO_NEW_PRIVS: usize = 38;
    call!("no_new_privs", __NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}
