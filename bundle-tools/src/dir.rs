//! Directories held by descriptors. Everything that this program makes or reads on disk is reached from one of them,
//! name by name, without following links.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{At, Error, Result};

/// A directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl Dir {
    /// The directory at `path`, a path of the user's own: links are followed.
    pub fn at(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).at(|| format!("open {}", path.display()))?;
        Ok(Self { fd })
    }

    /// The same, made with its parents if it isn't there, for the owner alone (mode 0700).
    pub fn make(path: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).at(|| format!("make {}", path.display()))?;
        Self::at(path)
    }

    /// Another descriptor of the same directory.
    pub fn again(&self) -> Result<Self> {
        Ok(Self { fd: self.fd.try_clone().at(|| "duplicate a descriptor")? })
    }

    /// The directory `name` below: one or more components, no links, nothing outside.
    pub fn dir(&self, name: &str) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        Ok(Self { fd: self.open(name, flags).at(|| format!("open directory {name}"))? })
    }

    /// The same, made if it isn't there (mode 0700; its parent must be there).
    pub fn make_dir(&self, name: &str) -> Result<Self> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => self.dir(name),
            Err(e) => Err(e).at(|| format!("make directory {name}")),
        }
    }

    /// `name` below, for reading: a regular file, or an error. A FIFO or device is not waited for.
    pub fn file(&self, name: &str) -> Result<File> {
        let file =
            self.open(name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK).at(|| format!("open {name}"))?;
        let stat = rustix::fs::fstat(&file).at(|| format!("stat {name}"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(file.into()),
            other => Err(Error::invalid(format!("{name}: is not a regular file but a {other:?}"))),
        }
    }

    /// A new file `name` (mode 0600), readable and writable; an error if there is something of that name.
    pub fn create(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600)).at(|| format!("create {name}"))?;
        Ok(fd.into())
    }

    /// The regular file `name`, readable and writable; made empty (mode 0600) if it isn't there.
    pub fn open_or_create(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600)).at(|| format!("open {name}"))?;
        let stat = rustix::fs::fstat(&fd).at(|| format!("stat {name}"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(fd.into()),
            other => Err(Error::invalid(format!("{name}: is not a regular file but a {other:?}"))),
        }
    }

    /// The file `name`, for writing at its end and for nothing else: through such a descriptor nothing that was written
    /// can be changed or read.
    pub fn append(&self, name: &str) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(self.open(name, flags).at(|| format!("open {name}"))?.into())
    }

    fn open(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.fd, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // A rename elsewhere made the kernel unsure (openat2(2)).
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// The whole of the file `name`, of at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        read_limited(self.file(name)?, name, limit)
    }

    /// Puts `bytes` in the place of `name`: readers see the old content or the new one, also after a crash of the machine.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.exchange(name, bytes, File::sync_all)
    }

    /// The same, but for a crash of the machine: for what is made again then. Waiting for a disk costs milliseconds, and
    /// seconds if many files were made before.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.exchange(name, bytes, |_| Ok(()))
    }

    fn exchange(&self, name: &str, bytes: &[u8], settle: impl FnOnce(&File) -> std::io::Result<()>) -> Result<()> {
        let temporary = format!(".{name}.{}", std::process::id());
        let _ = self.unlink(&temporary);
        let mut file = self.create(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| settle(&file));
        let done = written.at(|| format!("write {name}")).and_then(|()| self.rename(&temporary, name));
        if done.is_err() {
            let _ = self.unlink(&temporary);
        }
        done
    }

    /// Gives `old` the name `new`, in place of what has it.
    pub fn rename(&self, old: &str, new: &str) -> Result<()> {
        rustix::fs::renameat(&self.fd, old, &self.fd, new).at(|| format!("rename {old} to {new}"))
    }

    /// Moves `old` to `new` in another directory of the same file system, in place of what has that name.
    pub fn move_to(&self, old: &str, to: &Dir, new: &str) -> Result<()> {
        rustix::fs::renameat(&self.fd, old, to, new).at(|| format!("rename {old} to {new}"))
    }

    /// Gives the file `old` a second name, `new`, in another directory of the same file system.
    pub fn link_to(&self, old: &str, to: &Dir, new: &str) -> Result<()> {
        rustix::fs::linkat(&self.fd, old, to, new, AtFlags::empty()).at(|| format!("link {old} as {new}"))
    }

    /// Removes the name of a file.
    pub fn unlink(&self, name: &str) -> Result<()> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).at(|| format!("remove {name}"))
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &str) -> Result<()> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).at(|| format!("remove directory {name}"))
    }

    /// The names in it, but `.` and `..`, sorted. A name that is not UTF-8 is not one of ours and is shown with its odd
    /// bytes replaced.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).at(|| "read directory")? {
            let name = entry.at(|| "read directory")?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name).to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Makes what was created, renamed and removed in it last.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).at(|| "sync directory")
    }
}

/// The directory `path` below `root`, which is the root itself if the path is empty: no links, no other mount, nothing
/// outside, whoever renames what meanwhile.
pub(crate) fn below(root: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = if path.is_empty() { b"." } else { path };
    loop {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            // A rename elsewhere made the kernel unsure (openat2(2)).
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// All bytes of `from`, which `what` names in an error; more than `limit` bytes are an error.
pub fn read_limited(from: impl Read, what: &str, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = from.take(limit.saturating_add(1)).read_to_end(&mut bytes).at(|| format!("read {what}"))?;
    if read as u64 > limit {
        return Err(Error::invalid(format!("{what}: larger than {limit} bytes")));
    }
    Ok(bytes)
}
