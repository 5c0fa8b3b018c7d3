//! Mounts, devices, and the change of root.

use core::ffi::CStr;

use orlop_sys::fs::{
    AtFlags, FileType, Gid, Links, Missing, PROC_SUPER_MAGIC, Root as Tree, Uid, fchown, fstat, fstatfs, makedev,
    mknodat, statat, symlinkat, unlinkat,
};
use orlop_sys::mount::{
    Attr, FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, attr, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, fspick, mount_change, mount_setattr, move_mount, ms, open_tree, pivot_root, unmount,
};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, chownat, fchmod, openat};
use orlop_sys::rustix::process::{chroot, fchdir};
use orlop_sys::{AsFd, BorrowedFd, Errno, OwnedFd, tty};

use crate::channel::During;
use crate::{Channel, Failure, Filesystem, Message, Mount, Operation, Root, Step, Terminal, What, copyup};

/// The root of the container's tree while it is being prepared.
pub(crate) enum Prepared<'a> {
    /// The attached clone of the rootfs.
    Tree(BorrowedFd<'a>),
    /// The directory itself.
    Directory(OwnedFd),
}

impl Prepared<'_> {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tree(fd) => *fd,
            Self::Directory(fd) => fd.as_fd(),
        }
    }
}

/// Puts the rootfs in its place and everything into it.
pub(crate) fn prepare<'a>(fs: &Filesystem<'a>, channel: Channel<'_>) -> Result<Prepared<'a>, Failure> {
    if fs.propagation != 0 {
        mount_change(c"/", propagation(fs.propagation)).during(Step::RootPropagation)?;
    }
    let root = match fs.tree {
        Some(tree) => {
            attach_rootfs(fs, tree)?;
            Prepared::Tree(tree)
        }
        None => Prepared::Directory(open_rootfs(fs.place).during(Step::RootfsPlace)?),
    };
    let mut held = Held(None);
    for (i, operation) in fs.operations.iter().enumerate() {
        operate(Tree::new(root.fd()), operation, i, channel, &mut held)?;
    }
    Ok(root)
}

fn propagation(flags: u64) -> MountPropagationFlags {
    MountPropagationFlags::from_bits_retain(flags as u32)
}

fn open_rootfs(path: &CStr) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn attach_rootfs(fs: &Filesystem<'_>, tree: BorrowedFd<'_>) -> Result<(), Failure> {
    let place = match open_rootfs(fs.place) {
        // A user namespace that may not walk to the rootfs: `/` does as well, since the root changes anyway.
        Err(Errno::ACCESS) => open_rootfs(c"/"),
        other => other,
    }
    .during(Step::RootfsPlace)?;
    if fs.propagation & ms::SHARED != 0 {
        // The rootfs would appear on the host too, and pivot_root refuses a shared parent.
        make_parent_private(&place).during(Step::ParentPrivate)?;
        // And it refuses a shared new root that is also the place of the old one; it is shared again in the end, then
        // with nobody outside.
        let attr = Attr { propagation: ms::PRIVATE, ..Attr::default() };
        mount_setattr(tree, false, &attr).during(Step::RootfsAttach)?;
    } else {
        let attr = Attr {
            propagation: if fs.propagation & ms::PRIVATE != 0 { ms::PRIVATE } else { ms::SLAVE },
            ..Attr::default()
        };
        mount_setattr(tree, true, &attr).during(Step::RootfsAttach)?;
    }
    attach(tree, place.as_fd()).during(Step::RootfsAttach)
}

/// The mount that holds `directory`: attributes can be changed only at its root, so upwards until that is it.
fn make_parent_private(directory: &OwnedFd) -> Result<(), Errno> {
    let attr = Attr { propagation: ms::PRIVATE, ..Attr::default() };
    let mut above: Option<OwnedFd> = None;
    loop {
        let here = above.as_ref().unwrap_or(directory);
        match mount_setattr(here, false, &attr) {
            Err(Errno::INVAL) => {}
            other => return other,
        }
        let (inode, up) = (fstat(here)?.st_ino, openat(here, c"..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
        if fstat(&up)?.st_ino == inode {
            return Err(Errno::INVAL);
        }
        above = Some(up);
    }
}

fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

/// The directory that the last operation worked in: most nodes and symlinks are made in /dev.
struct Held<'a>(Option<(&'a CStr, OwnedFd)>);

impl<'a> Held<'a> {
    fn open(&mut self, tree: Tree<'_>, path: &'a CStr) -> Result<&OwnedFd, Errno> {
        if self.0.as_ref().is_none_or(|(held, _)| *held != path) {
            self.0 = Some((path, tree.place(path, Missing::Directory, Links::Follow)?));
        }
        self.0.as_ref().map(|(_, fd)| fd).ok_or(Errno::NOENT)
    }
}

fn operate<'a>(
    tree: Tree<'_>,
    operation: &Operation<'a>,
    i: usize,
    channel: Channel<'_>,
    held: &mut Held<'a>,
) -> Result<(), Failure> {
    match operation {
        Operation::Mount(mount) => {
            // It may cover what is held.
            held.0 = None;
            put(tree, mount, i, channel)
        }
        Operation::Symlink { directory, name, target, replace } => {
            let directory = held.open(tree, directory).at(Step::Symlink, i)?;
            match symlinkat(*target, directory, *name) {
                Err(Errno::EXIST) if *replace => {
                    unlinkat(directory, *name, AtFlags::empty()).at(Step::Symlink, i)?;
                    symlinkat(*target, directory, *name).at(Step::Symlink, i)
                }
                Err(Errno::EXIST) => Ok(()),
                other => other.at(Step::Symlink, i),
            }
        }
        Operation::Node { directory, name, mode, device, uid, gid } => {
            let directory = held.open(tree, directory).at(Step::Device, i)?;
            let kind = FileType::from_raw_mode(*mode);
            match mknodat(directory, *name, kind, Mode::from_raw_mode(*mode), *device) {
                Err(Errno::EXIST) => {
                    let there = statat(directory, *name, AtFlags::SYMLINK_NOFOLLOW).at(Step::Device, i)?;
                    let same = FileType::from_raw_mode(there.st_mode) == kind
                        && (kind == FileType::Fifo || there.st_rdev == *device);
                    if same { Ok(()) } else { Err(Errno::EXIST).at(Step::DeviceWrong, i) }
                }
                Err(e) => Err(e).at(Step::Device, i),
                Ok(()) if (*uid, *gid) == (0, 0) => Ok(()),
                Ok(()) => {
                    let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                    chownat(directory, *name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at(Step::Device, i)
                }
            }
        }
        Operation::Attributes { path, attr } => {
            let fd = tree.open(path, OFlags::PATH, Links::Follow).at(Step::MountAttributes, i)?;
            mount_setattr(&fd, false, attr).at(Step::MountAttributes, i)
        }
    }
}

fn put(tree: Tree<'_>, mount: &Mount<'_>, i: usize, channel: Channel<'_>) -> Result<(), Failure> {
    let from = match &mount.what {
        What::Source => {
            let from = channel.expect(Message::Source)?;
            Some(from.ok_or(Errno::PROTO).at(Step::Protocol, i)?)
        }
        What::New { fstype, source, options } => Some(make(mount, fstype, source, options, i)?),
        What::Classic { .. } | What::Remount { .. } => None,
    };
    let missing = match (&mount.what, &from) {
        (What::Remount { .. }, _) => Missing::Fail,
        (What::Source, Some(fd)) if !is_directory(fd).at(Step::MountTarget, i)? => Missing::File,
        _ => Missing::Directory,
    };
    // One that is made here covers nothing, so it has no mode to keep.
    let covers = mount.copy_mode && tree.open(mount.target, OFlags::PATH, mount.links).is_ok();
    let target = tree.place(mount.target, missing, mount.links).at(Step::MountTarget, i)?;
    if !mount.on_proc && fstatfs(&target).at(Step::MountTarget, i)?.f_type == PROC_SUPER_MAGIC {
        // However the path got there (CVE-2019-16884).
        return Err(Errno::PERM).at(Step::MountOnProc, i);
    }
    let from = match (&mount.what, from) {
        (What::Classic { fstype, source, data }, _) => {
            // By the working directory, since mount(2) takes no fd.
            fchdir(&target).at(Step::MountTarget, i)?;
            let flags = MountFlags::empty();
            orlop_sys::mount::mount(*source, c".", *fstype, flags, *data).at(Step::MountCreate, i)?;
            let mounted = tree.place(mount.target, Missing::Fail, mount.links).at(Step::MountAttributes, i)?;
            return set(&mounted, mount.attr, mount, i);
        }
        (What::Remount { options }, _) => {
            if !options.is_empty() {
                reconfigure(&target, options, i)?;
            }
            return set(&target, mount.attr, mount, i);
        }
        (_, Some(from)) => from,
        (_, None) => return Err(Errno::PROTO).at(Step::Protocol, i),
    };
    if covers {
        let below = fstat(&target).at(Step::MountTarget, i)?;
        chmod_root(&from, below.st_mode & 0o7777).at(Step::MountAttributes, i)?;
    }
    if mount.copy_up {
        // Before it covers what is to be copied.
        copyup::copy(target.as_fd(), from.as_fd()).at(Step::MountCopyUp, i)?;
    }
    let rest = if created_with_attributes(mount) { Attr { set: 0, clear: 0, ..mount.attr } } else { mount.attr };
    set(&from, rest, mount, i)?;
    attach(from.as_fd(), target.as_fd()).at(Step::MountAttach, i)
}

/// A new mount has its attributes from the start, unless it is written to first.
fn created_with_attributes(mount: &Mount<'_>) -> bool {
    matches!(mount.what, What::New { .. }) && !mount.copy_up && !mount.copy_mode
}

/// Sets attributes of all below the mount and of itself, one call for each kind that there is.
fn set(fd: &OwnedFd, own: Attr, mount: &Mount<'_>, i: usize) -> Result<(), Failure> {
    if !mount.recursive.is_empty() {
        mount_setattr(fd, true, &mount.recursive).at(Step::MountAttributes, i)?;
    }
    if !own.is_empty() {
        mount_setattr(fd, false, &own).at(Step::MountAttributes, i)?;
    }
    Ok(())
}

fn is_directory(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}

/// fchmod of a mount's root, which fsmount opens as a handle only.
fn chmod_root(fd: &OwnedFd, mode: u32) -> Result<(), Errno> {
    let directory = openat(fd, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fchmod(&directory, Mode::from_raw_mode(mode))
}

/// A new file system, mounted nowhere yet.
fn make(
    mount: &Mount<'_>,
    fstype: &CStr,
    source: &CStr,
    options: &[(&CStr, Option<&CStr>)],
    i: usize,
) -> Result<OwnedFd, Failure> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).at(Step::MountType, i)?;
    if !source.is_empty() {
        fsconfig_set_string(context.as_fd(), c"source", source).at(Step::MountCreate, i)?;
    }
    configure(&context, options, i)?;
    fsconfig_create(context.as_fd()).at(Step::MountCreate, i)?;
    let attr = if created_with_attributes(mount) { mount.attr.set } else { 0 };
    let attr = MountAttrFlags::from_bits_retain(attr as u32);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attr).at(Step::MountCreate, i)
}

/// Gives options to a file system that is being made or changed.
fn configure(context: &OwnedFd, options: &[(&CStr, Option<&CStr>)], i: usize) -> Result<(), Failure> {
    for (part, (key, value)) in options.iter().enumerate() {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), *key, *value),
            None => fsconfig_set_flag(context.as_fd(), *key),
        }
        .map_err(|errno| Failure {
            step: Step::MountOption,
            item: i as u32,
            part: part.min(255) as u8,
            errno,
        })?;
    }
    Ok(())
}

/// Other options for the file system that is mounted there.
fn reconfigure(mounted: &OwnedFd, options: &[(&CStr, Option<&CStr>)], i: usize) -> Result<(), Failure> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = fspick(mounted, c"", flags).at(Step::MountType, i)?;
    configure(&context, options, i)?;
    fsconfig_reconfigure(context.as_fd()).at(Step::MountCreate, i)
}

/// A terminal of the container's devpts: the master goes to the parent, the terminal becomes /dev/console and fds 0,
/// 1 and 2.
pub(crate) fn terminal(root: BorrowedFd<'_>, terminal: &Terminal, channel: Channel<'_>) -> Result<(), Failure> {
    let tree = Tree::new(root);
    let pts = tree.open(c"/dev/pts", OFlags::PATH | OFlags::DIRECTORY, Links::Follow).during(Step::Terminal)?;
    let (master, side) = tty::open_terminal(&pts).during(Step::Terminal)?;
    if let Some((rows, columns)) = terminal.size {
        let size = tty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tty::tcsetwinsize(&master, size).during(Step::Terminal)?;
    }
    if terminal.console {
        let console = tree.place(c"/dev/console", Missing::File, Links::Refuse).during(Step::Console)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        // From the fd: a name like /dev/pts/0 could be replaced (CVE-2025-52565).
        let clone = open_tree(&side, c"", flags).during(Step::Console)?;
        attach(clone.as_fd(), console.as_fd()).during(Step::Console)?;
    }
    channel.send_fd(&[Message::Terminal as u8], master.as_fd()).during(Step::Terminal)?;
    tty::ioctl_tiocsctty(&side).during(Step::Terminal)?;
    for fd in 0..3 {
        orlop_sys::process::dup_to(side.as_fd(), fd, false).during(Step::Terminal)?;
    }
    Ok(())
}

/// The container's tree becomes `/`, and the host's is gone.
pub(crate) fn change_root(fs: &Filesystem<'_>, root: BorrowedFd<'_>) -> Result<(), Failure> {
    match fs.root {
        Root::Pivot => {
            fchdir(root).during(Step::Pivot)?;
            let shared = fs.propagation & ms::SHARED != 0;
            let old = shared.then(|| open_rootfs(c"/")).transpose().during(Step::Pivot)?;
            // Onto itself: afterwards the old root lies over the new one, where "." still finds it.
            pivot_root(c".", c".").during(Step::Pivot)?;
            if let Some(old) = &old {
                // Else the unmount would reach the host. To all calls but umount2 "." is what lies below: the new root.
                let attr = Attr { propagation: ms::SLAVE, ..Attr::default() };
                mount_setattr(old, true, &attr).during(Step::DetachOldRoot)?;
            }
            unmount(c".", UnmountFlags::DETACH).during(Step::DetachOldRoot)?;
            // The working directory is the new root already.
        }
        Root::Move => {
            fchdir(root).during(Step::Chroot)?;
            let host = open_rootfs(c"/").during(Step::Chroot)?;
            attach(root, host.as_fd()).during(Step::Chroot)?;
            chroot(c".").during(Step::Chroot)?;
        }
        Root::Chroot => {
            fchdir(root).during(Step::Chroot)?;
            chroot(c".").during(Step::Chroot)?;
        }
    }
    if fs.final_propagation != 0 {
        mount_change(c"/", propagation(fs.final_propagation)).during(Step::RootfsPropagation)?;
    }
    Ok(())
}

/// Read-only root, read-only paths, masked paths. Paths that are not there are passed over.
pub(crate) fn protect_paths(fs: &Filesystem<'_>) -> Result<(), Failure> {
    let readonly = Attr { set: attr::RDONLY, ..Attr::default() };
    let root = openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during(Step::RootfsReadonly)?;
    let tree = Tree::new(root.as_fd());
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;

    for (i, path) in fs.readonly_paths.iter().enumerate() {
        let Some(target) = existing(tree, path).at(Step::ReadonlyPath, i)? else { continue };
        // Clone, change, attach: never a moment at which the path is mounted and writable, and no second look-up
        // (GHSA-3q8j-pf29-vwv8).
        let mount = open_tree(&target, c"", clone | OpenTreeFlags::AT_RECURSIVE).at(Step::ReadonlyPath, i)?;
        mount_setattr(&mount, true, &readonly).at(Step::ReadonlyPath, i)?;
        attach(mount.as_fd(), target.as_fd()).at(Step::ReadonlyPath, i)?;
    }

    let (mut null, mut empty) = (None, None);
    for (i, path) in fs.masked_paths.iter().enumerate() {
        let Some(target) = existing(tree, path).at(Step::MaskedPath, i)? else { continue };
        let directory = is_directory(&target).at(Step::MaskedPath, i)?;
        let cover = if directory { &mut empty } else { &mut null };
        // All masked directories share one file system: what is attached already can be cloned again.
        let mount = match cover {
            Some(cover) => open_tree(&*cover, c"", clone),
            None if directory => empty_directory(),
            None => null_device(tree).and_then(|fd| open_tree(&fd, c"", clone)),
        }
        .at(Step::MaskedPath, i)?;
        attach(mount.as_fd(), target.as_fd()).at(Step::MaskedPath, i)?;
        *cover = Some(mount);
    }

    if fs.readonly {
        mount_setattr(&root, false, &readonly).during(Step::RootfsReadonly)?;
    }
    Ok(())
}

fn existing(tree: Tree<'_>, path: &CStr) -> Result<Option<OwnedFd>, Errno> {
    match tree.open(path, OFlags::PATH, Links::Follow) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        other => other.map(Some),
    }
}

fn empty_directory() -> Result<OwnedFd, Errno> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), c"nr_inodes", c"1")?;
    fsconfig_set_flag(context.as_fd(), c"ro")?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// The container's /dev/null, if that is what it is: else the mask would be whatever the image put there
/// (CVE-2025-31133).
fn null_device(tree: Tree<'_>) -> Result<OwnedFd, Errno> {
    let null = tree.open(c"/dev/null", OFlags::PATH | OFlags::NOFOLLOW, Links::Follow)?;
    let stat = fstat(&null)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3);
    if is_null { Ok(null) } else { Err(Errno::NODEV) }
}

/// Fds 0, 1 and 2 belong to the user, so that it can open them again as /dev/stdout and the like. Best effort, as in
/// runc: they may lie on a file system that refuses, or belong to somebody outside the user namespace.
pub(crate) fn own_stdio(uid: u32) -> Result<(), Errno> {
    for fd in 0..3 {
        let Ok(fd) = orlop_sys::process::borrow_fd(fd) else { continue };
        let stat = fstat(fd)?;
        let is_null =
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3);
        if stat.st_uid != uid && !is_null {
            let _ = fchown(fd, Some(Uid::from_raw(uid)), None);
        }
    }
    Ok(())
}
