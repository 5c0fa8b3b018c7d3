//! What the parent prepares for the child: fds in hand, strings ready for the kernel, lists in order.

use core::ffi::CStr;

use orlop_sys::creds::CapSets;
use orlop_sys::fs::Links;
use orlop_sys::mount::Attr;
use orlop_sys::process::{SchedAttr, Strings};
use orlop_sys::seccomp::Instruction;
use orlop_sys::{BorrowedFd, OwnedFd};

use crate::Channel;

/// A container to make.
#[derive(Debug)]
pub struct Container<'a> {
    /// To the parent.
    pub channel: Channel<'a>,
    /// The host's /proc.
    pub proc: BorrowedFd<'a>,
    /// What it joins and makes.
    pub namespaces: Namespaces<'a>,
    /// Bring up `lo`, in a new network namespace.
    pub loopback: bool,
    /// The session keyring to make.
    pub keyring: Option<Keyring<'a>>,
    /// Its mounts and root.
    pub filesystem: Filesystem<'a>,
    /// Hooks run when the mounts are there: tell the parent, and wait.
    pub hooks: bool,
    /// The host name; empty to leave it.
    pub hostname: &'a [u8],
    /// The NIS domain name; empty to leave it.
    pub domainname: &'a [u8],
    /// Kernel parameters: the path below /proc/sys, and the value.
    pub sysctls: &'a [(&'a CStr, &'a [u8])],
    /// Whether and how it gets a terminal.
    pub terminal: Option<Terminal>,
    /// Make the working directory if it is missing.
    pub make_cwd: bool,
    /// What it becomes.
    pub process: &'a Process<'a>,
    /// When.
    pub start: Start<'a>,
}

/// A process to start in a container that exists.
#[derive(Debug)]
pub struct Exec<'a> {
    /// To the parent.
    pub channel: Channel<'a>,
    /// The host's /proc.
    pub proc: BorrowedFd<'a>,
    /// What it joins.
    pub namespaces: Namespaces<'a>,
    /// The container's root, where it is not the root of the joined mount namespace.
    pub root: Option<BorrowedFd<'a>>,
    /// The session keyring to join.
    pub keyring: Option<Keyring<'a>>,
    /// CPUs to run on until the end; see `Process::affinity`.
    pub affinity: &'a [u64],
    /// Whether and how it gets a terminal.
    pub terminal: Option<Terminal>,
    /// What it becomes.
    pub process: &'a Process<'a>,
}

/// A hook to run in a container's namespaces.
#[derive(Debug)]
pub struct Hook<'a> {
    /// To the parent.
    pub channel: Channel<'a>,
    /// What it joins.
    pub namespaces: Namespaces<'a>,
    /// fds 0, 1 and 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// The program.
    pub path: &'a CStr,
    /// Its arguments.
    pub arguments: &'a Strings,
    /// Its whole environment.
    pub environment: &'a Strings,
}

/// Which namespaces to leave the parent's for. New ones are in the clone flags, except where said.
#[derive(Debug)]
pub struct Namespaces<'a> {
    /// The parent's end of the channel: while it is open here, this process would not see that the parent is gone.
    pub parent: BorrowedFd<'a>,
    /// Files that take a "0" to move the writer: cgroup version 1 `tasks`, version 2 `cgroup.procs`.
    pub tasks: &'a [OwnedFd],
    /// To join, in this order: an fd and its `CLONE_NEW*` flag (or a pidfd and several).
    pub joins: &'a [(OwnedFd, u64)],
    /// The user namespace.
    pub user: User<'a>,
    /// Make a new cgroup namespace, once in the cgroup.
    pub unshare_cgroup: bool,
    /// Make a new time namespace with these offsets (the text for /proc/self/timens_offsets).
    pub time: Option<&'a [u8]>,
    /// A pid or time namespace takes effect for children only, and namespaces of the host must be joined before the
    /// privileges over them are lost: then this process makes the one that counts, with these `CLONE_*` flags.
    pub inner: Option<u64>,
}

/// The user namespace.
#[derive(Debug)]
pub enum User<'a> {
    /// The parent's.
    Keep,
    /// A new one, by the clone flags; the parent writes its maps.
    New,
    /// That one.
    Join(BorrowedFd<'a>),
}

/// A session keyring.
#[derive(Debug)]
pub struct Keyring<'a> {
    /// `_ses.ID`.
    pub name: &'a CStr,
    /// Its permissions.
    pub permissions: u32,
}

/// Mounts and root.
#[derive(Debug)]
pub struct Filesystem<'a> {
    /// `MS_*` for all mounts at the start; 0 to leave them.
    pub propagation: u64,
    /// The detached clone of the rootfs; without it, the root is `place` as it is (no mount namespace).
    pub tree: Option<BorrowedFd<'a>>,
    /// The rootfs's path on the host.
    pub place: &'a CStr,
    /// In this order.
    pub operations: &'a [Operation<'a>],
    /// How the root changes.
    pub root: Root,
    /// `MS_*` for the root in the end; 0 to leave it.
    pub final_propagation: u64,
    /// The root becomes read-only in the end.
    pub readonly: bool,
    /// Paths that become read-only.
    pub readonly_paths: &'a [&'a CStr],
    /// Paths that become empty.
    pub masked_paths: &'a [&'a CStr],
}

/// How the root changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// pivot_root(2).
    Pivot,
    /// Move the rootfs over `/`, for a root on which pivot_root fails (initramfs).
    Move,
    /// chroot(2), without a mount namespace.
    Chroot,
}

/// One thing to do in the rootfs.
#[derive(Debug)]
pub enum Operation<'a> {
    /// Mount something.
    Mount(Mount<'a>),
    /// Make a symlink, in the place of an existing one or file if `replace`.
    Symlink {
        /// The directory, made if missing.
        directory: &'a CStr,
        /// The name in it.
        name: &'a CStr,
        /// What it points to.
        target: &'a CStr,
        /// What to do with what is there.
        replace: bool,
    },
    /// Make a device node or FIFO.
    Node {
        /// The directory, made if missing.
        directory: &'a CStr,
        /// The name in it.
        name: &'a CStr,
        /// Type and permissions.
        mode: u32,
        /// Major and minor.
        device: u64,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Change the attributes of what is mounted there.
    Attributes {
        /// Where.
        path: &'a CStr,
        /// How.
        attr: Attr,
    },
}

/// A mount.
#[derive(Debug)]
pub struct Mount<'a> {
    /// Where: absolute, clean, in the rootfs.
    pub target: &'a CStr,
    /// Whether symlinks on the way are followed.
    pub links: Links,
    /// Whether it may lie on a proc file system.
    pub on_proc: bool,
    /// What.
    pub what: What<'a>,
    /// Attributes of the mount itself.
    pub attr: Attr,
    /// Attributes of it and all below it.
    pub recursive: Attr,
    /// Copy what is below it into it.
    pub copy_up: bool,
    /// Give its root the mode of the directory that it covers, if there was one: a tmpfs without a mode of its own.
    pub copy_mode: bool,
}

/// What is mounted.
#[derive(Debug)]
pub enum What<'a> {
    /// The next tree that the parent sends.
    Source,
    /// A file system: its type, source and options.
    New {
        /// Its name in /proc/filesystems.
        fstype: &'a CStr,
        /// What /proc/self/mountinfo shows as its source.
        source: &'a CStr,
        /// Its options, each with or without a value.
        options: &'a [(&'a CStr, Option<&'a CStr>)],
    },
    /// A file system with an option that is too long for fsconfig(2): mount(2) takes a page of them.
    Classic {
        /// Its name in /proc/filesystems.
        fstype: &'a CStr,
        /// What /proc/self/mountinfo shows as its source.
        source: &'a CStr,
        /// All options, with commas between them.
        data: &'a CStr,
    },
    /// What is there already: its attributes change, and its file system's options if there are any.
    Remount {
        /// As those of `New`.
        options: &'a [(&'a CStr, Option<&'a CStr>)],
    },
}

/// A terminal from the container's devpts.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// Rows and columns.
    pub size: Option<(u16, u16)>,
    /// Bind it on /dev/console.
    pub console: bool,
}

/// What a process becomes, and the order in which it gives up what it was.
#[derive(Debug)]
pub struct Process<'a> {
    /// Working directory.
    pub cwd: &'a CStr,
    /// File mode creation mask.
    pub umask: u32,
    /// Text for the AppArmor `exec` attribute.
    pub apparmor: &'a [u8],
    /// Text for the SELinux `exec` attribute.
    pub selinux: &'a [u8],
    /// Scheduling.
    pub scheduler: Option<SchedAttr>,
    /// I/O priority as ioprio_set(2) takes it.
    pub io_priority: Option<u16>,
    /// CPUs to run on, one bit each; empty to leave them.
    pub affinity: &'a [u64],
    /// Execution domain.
    pub personality: Option<u64>,
    /// No new privileges.
    pub no_new_privs: bool,
    /// The seccomp filter.
    pub seccomp: Option<Filter<'a>>,
    /// The parent sets limits, which it may not any more once this process is another user's.
    pub limited: bool,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups; `None` where setgroups(2) is denied.
    pub groups: Option<&'a [u32]>,
    /// Give fds 0, 1 and 2 to the user.
    pub own_stdio: bool,
    /// Capabilities.
    pub caps: CapSets,
    /// Arguments.
    pub arguments: &'a Strings,
    /// Environment.
    pub environment: &'a Strings,
    /// The environment has no HOME: look it up.
    pub need_home: bool,
    /// Where the program may be, best first.
    pub candidates: &'a [&'a CStr],
    /// The program was named without a slash: what is not executable is passed over.
    pub search: bool,
    /// How many fds from 3 on the program gets.
    pub preserve_fds: u32,
}

/// A compiled filter.
#[derive(Debug)]
pub struct Filter<'a> {
    /// The program.
    pub program: &'a [Instruction],
    /// `SECCOMP_FILTER_FLAG_*`; with NEW_LISTENER the parent fetches the listener.
    pub flags: u32,
}

/// When the program starts.
#[derive(Debug)]
pub enum Start<'a> {
    /// When the parent says so.
    Go,
    /// When a byte arrives in the FIFO; a failure after that is left in the file.
    Fifo {
        /// The read end.
        fifo: BorrowedFd<'a>,
        /// For a [`Failure`](crate::Failure).
        report: BorrowedFd<'a>,
    },
}
