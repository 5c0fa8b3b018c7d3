//! Mounts a merged image and a writable layer upon it, without a loop device and without anything that shows before it is
//! whole: file systems are made detached (fsopen(2), Linux 5.2) and attached in the end.
//!
//! What it takes: EROFS mounted from files (Linux 6.12), and a store on a file system of its own, as the kernel refuses
//! files that lie on another stacked file system. [`probe`] finds out.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::dir::Dir;
use crate::error::{At, Error, ErrorKind, Result};
use crate::layer::Layer;
use crate::tree::Tree;

/// Mounts the image in `index`, whose files lie in `tars`: one for each device of its table, in that order. Read-only and
/// detached: closing the descriptor takes it away again. /proc must be mounted.
pub fn image(index: &File, tars: &[File]) -> Result<OwnedFd> {
    let fs = Context::open("erofs")?;
    // The kernel opens the files once more: nothing of these descriptors is needed when the mount is made. A path of a
    // descriptor is short, while a value may have no more than 255 bytes, and it is surely the file that was checked.
    fs.set("source", &path_of(index.as_fd()))?;
    for tar in tars {
        fs.set("device", &path_of(tar.as_fd()))?;
    }
    fs.flag("ro")?;
    fs.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// Mounts `lower` with `upper` upon it, where all changes go; `work` is an empty directory on the same file system.
/// Detached, as [`image`] is. What changes is whole in `upper`: without redirects and without files that have only
/// attributes, which a layer could not express.
pub fn overlay(lower: &OwnedFd, upper: &Dir, work: &Dir) -> Result<OwnedFd> {
    match overlay_by(Layers::Descriptors, lower, upper, work) {
        // Before Linux 6.13 layers are paths, and a detached mount has none: it is attached for a moment.
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            attach(lower, work)?;
            let made = overlay_by(Layers::Paths, lower, upper, work);
            // The overlay has a mount of its own by now.
            let _ = unmount(path_of(lower.as_fd()), UnmountFlags::DETACH);
            made
        }
        other => other,
    }
}

/// How the overlay file system is told its directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layers {
    Descriptors,
    Paths,
}

fn overlay_by(how: Layers, lower: &OwnedFd, upper: &Dir, work: &Dir) -> Result<OwnedFd> {
    let fs = Context::open("overlay")?;
    for (key, layer) in [("lowerdir+", lower.as_fd()), ("upperdir", upper.as_fd()), ("workdir", work.as_fd())] {
        match how {
            Layers::Paths => fs.set(key, &path_of(layer))?,
            Layers::Descriptors => match fsconfig_set_fd(&fs.fd, key, layer) {
                Err(Errno::INVAL) => return Err(Error::unsupported("overlay: layers by descriptor")),
                other => other.map_err(|e| fs.explain(e, key))?,
            },
        }
    }
    for (key, value) in [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off"), ("xino", "auto")] {
        fs.set(key, value)?;
    }
    fs.mount(MountAttrFlags::empty())
}

/// Puts a detached mount upon `target`.
pub fn attach(mount: impl AsFd, target: &Dir) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).at(|| "attach mount")
}

/// Takes away the mount upon `name` in `parent`: false if there is none. A mount in use is an error of the kind
/// [`ErrorKind::InUse`], and stays. A link of that name is not followed.
pub fn detach(parent: &Dir, name: &str) -> Result<bool> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(Error::invalid(format!("unmount {name:?}: not a name")));
    }
    match unmount(format!("{}/{name}", path_of(parent.as_fd())), UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        // Not a mount, or not there.
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(Errno::BUSY) => Err(Error::new(ErrorKind::InUse, format!("unmount {name}: in use"))),
        Err(e) => Err(e).at(|| format!("unmount {name}")),
    }
}

/// Finds out whether [`image`] and [`overlay`] work here, with the store in `store`, by mounting an empty image. Nothing
/// shows of it outside. The error, of the kind [`ErrorKind::Unsupported`], says what is missing.
pub fn probe(store: &Dir) -> Result<()> {
    let missing = |e: Error| Error::unsupported(format!("mount backend: {e}"));
    let layers = [Layer::default()];
    let (mut index, tar) = (nameless(store).map_err(missing)?, nameless(store).map_err(missing)?);
    let tars = [tar];
    crate::erofs::write(&Tree::merge(&layers)?, &tars, &mut index)?;
    let lower = image(&index, &tars).map_err(missing)?;
    let name = format!(".probe.{}", std::process::id());
    let room = store.make_dir(&name)?;
    let made = room.make_dir("upper").and_then(|upper| overlay(&lower, &upper, &room.make_dir("work")?));
    // Gone before its directories are.
    let tried = made.map(drop).map_err(missing);
    // Made by the overlay file system. What is left over here would be found by the next one that cleans the store.
    let _ = room.dir("work").and_then(|work| work.remove_dir("work"));
    let _ = room.remove_dir("work").and_then(|()| room.remove_dir("upper")).and_then(|()| store.remove_dir(&name));
    tried
}

/// A file without a name on the file system of `dir`.
fn nameless(dir: &Dir) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, ".", flags, Mode::from_raw_mode(0o600)).at(|| "create file without a name")?.into())
}

/// A path that leads to what a descriptor has open.
fn path_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A file system to be mounted.
struct Context {
    name: &'static str,
    fd: OwnedFd,
}

impl Context {
    fn open(name: &'static str) -> Result<Self> {
        let fd = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| match e {
            Errno::NODEV => Error::unsupported(format!("{name}: this kernel does not have it")),
            Errno::PERM => {
                Error::unsupported(format!("{name}: mounting needs privileges that this process does not have"))
            }
            other => Error::new(ErrorKind::Os, format!("{name}: {other}")),
        })?;
        Ok(Self { name, fd })
    }

    fn set(&self, key: &str, value: &str) -> Result<()> {
        fsconfig_set_string(&self.fd, key, value).map_err(|e| self.explain(e, key))
    }

    fn flag(&self, key: &str) -> Result<()> {
        fsconfig_set_flag(&self.fd, key).map_err(|e| self.explain(e, key))
    }

    fn mount(self, attributes: MountAttrFlags) -> Result<OwnedFd> {
        fsconfig_create(&self.fd).map_err(|e| match (self.name, e) {
            ("erofs", Errno::NOTBLK) => Error::unsupported(
                "erofs: this kernel does not mount it from files (Linux 6.12), or not from the file system that the store is on",
            ),
            ("erofs", Errno::PERM) => {
                Error::unsupported("erofs: mounting needs privileges that this process does not have")
            }
            _ => self.explain(e, "mount"),
        })?;
        fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| self.explain(e, "mount"))
    }

    /// An error with what the kernel wrote about it, which can be read from the descriptor.
    fn explain(&self, e: Errno, what: &str) -> Error {
        let mut said = String::new();
        let mut message = [0; 1024];
        let file = self.fd.try_clone().map(File::from);
        if let Ok(mut file) = file {
            // One message a read, with its class and a space in front.
            while let Ok(length) = file.read(&mut message) {
                let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
                if length == 0 {
                    break;
                }
                said = format!("{said} ({})", text.trim_end().split_once(' ').map_or("", |(_, text)| text));
            }
        }
        let e = Err::<(), _>(e).at(|| format!("{}: {what}", self.name)).map_err(|e| (e.kind(), e.to_string()));
        match e {
            Err((kind, text)) => Error::new(kind, format!("{text}{said}")),
            Ok(()) => Error::new(ErrorKind::Os, said),
        }
    }
}
