//! Removes a tree that someone else made.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{At, Error, ErrorKind, Result};

/// How many levels are open at a time. What is deeper is moved up first: a container can nest directories deeper than any
/// path can name.
const LEVELS: usize = 64;

/// Removes `name` in `dir` and, if it is a directory, everything in it. No link is followed and no mount is entered: one
/// found in the tree is an error (`InUse`), and what was removed until then stays removed. Directories that their owner
/// may not enter are made enterable. Nothing of that name is an error too (`NotFound`).
pub fn remove_tree(dir: &Dir, name: &str) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(e) => return Err(e).at(|| format!("remove {name}")),
    }
    let top = enter(dir, name.as_bytes())?;
    let mut moved = 0;
    loop {
        let before = moved;
        empty(&top, &mut moved)?;
        if moved == before {
            break;
        }
    }
    drop(top);
    dir.remove_dir(name)
}

/// A directory that is being emptied.
struct Level {
    fd: OwnedFd,
    name: Vec<u8>,
    /// The directories in it that are still to do.
    directories: Vec<Vec<u8>>,
}

impl Level {
    /// Opens what is in it and removes all that is no directory.
    fn new(fd: OwnedFd, name: Vec<u8>) -> Result<Self> {
        let mut directories = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd).at(|| "read directory")? {
            let entry = entry.at(|| "read directory")?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                directories.push(name.to_vec());
                continue;
            }
            match rustix::fs::unlinkat(&fd, name, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR) => directories.push(name.to_vec()),
                Err(e) => return Err(failed(e, name)),
            }
        }
        Ok(Self { fd, name, directories })
    }
}

/// Removes everything in `top`, but what is too deep: that is moved into `top`, and `moved` counts it.
fn empty(top: &OwnedFd, moved: &mut u64) -> Result<()> {
    let again = top.try_clone().at(|| "duplicate a descriptor")?;
    let mut levels = vec![Level::new(again, Vec::new())?];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(()) };
        let Some(name) = level.directories.pop() else {
            let done = levels.pop();
            if let (Some(done), Some(parent)) = (done, levels.last()) {
                rustix::fs::unlinkat(&parent.fd, &*done.name, AtFlags::REMOVEDIR).map_err(|e| failed(e, &done.name))?;
            }
            continue;
        };
        if rustix::fs::unlinkat(&level.fd, &*name, AtFlags::REMOVEDIR).is_ok() {
            continue;
        }
        let fd = enter(&level.fd, &name)?;
        if depth < LEVELS {
            levels.push(Level::new(fd, name)?);
        } else {
            let up = format!(".deep-{}-{moved}", std::process::id());
            rustix::fs::renameat(&level.fd, &*name, top, &*up).map_err(|e| failed(e, &name))?;
            *moved += 1;
        }
    }
}

/// Opens the directory `name`, and gives its owner all rights first if that is what it takes.
fn enter(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let open = |flags: OFlags| loop {
        let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(&parent, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    };
    let all = Mode::from_raw_mode(0o700);
    match open(OFlags::RDONLY) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd).map_err(|e| failed(e, name))?;
            // Readable but not to be written or searched: of no use to an owner without privileges.
            if stat.st_mode & 0o700 != 0o700 {
                let _ = rustix::fs::fchmod(&fd, all);
            }
            Ok(fd)
        }
        Err(Errno::ACCESS) => {
            let path = open(OFlags::PATH).map_err(|e| failed(e, name))?;
            // fchmod refuses such a descriptor, and the name could have become a link.
            let proc = format!("/proc/self/fd/{}", path.as_raw_fd());
            rustix::fs::chmodat(rustix::fs::CWD, proc, all, AtFlags::empty()).map_err(|e| failed(e, name))?;
            open(OFlags::RDONLY).map_err(|e| failed(e, name))
        }
        Err(e) => Err(failed(e, name)),
    }
}

fn failed(e: Errno, name: &[u8]) -> Error {
    let shown = name.escape_ascii();
    match e {
        Errno::XDEV | Errno::BUSY => {
            Error::new(ErrorKind::InUse, format!("remove \"{shown}\": something is mounted there"))
        }
        e => match Err::<(), _>(e).at(|| format!("remove \"{shown}\"")) {
            Err(e) => e,
            Ok(()) => Error::new(ErrorKind::Os, "remove"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::scratch::Scratch;

    #[test]
    fn a_tree_deeper_than_any_path_goes_and_a_links_target_stays() {
        let scratch = Scratch::new();
        let dir = scratch.dir();
        dir.make_dir("canary").unwrap();
        dir.create("canary/file").unwrap();
        let top = dir.make_dir("tree").unwrap();
        rustix::fs::symlinkat("../canary", &top, "link").unwrap();
        rustix::fs::mkfifoat(&top, "fifo", Mode::from_raw_mode(0o600)).unwrap();
        let mut at = top.again().unwrap();
        for _ in 0..200 {
            at = at.make_dir(&"d".repeat(100)).unwrap();
            rustix::fs::symlinkat("/", &at, "root").unwrap();
        }
        drop((top, at));
        remove_tree(&dir, "tree").unwrap();
        assert_eq!(dir.names().unwrap(), ["canary"]);
        assert_eq!(dir.dir("canary").unwrap().names().unwrap(), ["file"]);
        assert_eq!(remove_tree(&dir, "tree").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_name_that_is_a_link_loses_the_link_alone() {
        let scratch = Scratch::new();
        let dir = scratch.dir();
        dir.make_dir("canary").unwrap();
        rustix::fs::symlinkat("canary", &dir, "link").unwrap();
        remove_tree(&dir, "link").unwrap();
        assert_eq!(dir.names().unwrap(), ["canary"]);
    }
}
