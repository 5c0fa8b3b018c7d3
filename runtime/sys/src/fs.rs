//! Paths inside a tree that somebody else controls.
//!
//! A [`Root`] is a directory; every path given to it is resolved by the kernel as if that directory were `/`
//! (`openat2` with `RESOLVE_IN_ROOT`, Linux 5.6), so neither `..` nor a symlink leads out of it, whoever is changing
//! the tree at the same time. What is created, is created below an fd, one component at a time. (CVE-2019-19921,
//! CVE-2021-30465, CVE-2024-45310 and their relatives.)

use core::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat_raw};
use rustix::io::Errno;

pub use rustix::fs::{
    Access, AtFlags, FileType, Gid, PROC_SUPER_MAGIC, StatxFlags, Uid, fchown, fstat, fstatfs, makedev, mknodat,
    readlinkat, statat, statfs, statx, symlinkat, unlinkat,
};

/// The longest path, with its NUL.
pub const PATH_MAX: usize = 4096;

/// How often openat2 is asked again: it answers EAGAIN when anything was renamed or mounted anywhere in the meantime.
/// 128 tries fail about once in a thousand under a flood of renames on all CPUs, so this is for ever in practice.
const TRIES: usize = 4096;

/// How deep a chain of symlinks to missing targets is followed (as the kernel does for existing ones).
const MAX_LINKS: usize = 40;

/// See the [module](self).
#[derive(Debug, Clone, Copy)]
pub struct Root<'a>(BorrowedFd<'a>);

/// What to do when the path does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Fail with ENOENT.
    Fail,
    /// Make it, and what leads to it, as directories with mode 0755.
    Directory,
    /// Make the directories that lead to it, and it as an empty file with mode 0755, as runc does.
    File,
}

/// Whether symlinks in the path count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// They are followed, inside the root.
    Follow,
    /// One in any place is an error, ELOOP.
    Refuse,
}

impl<'a> Root<'a> {
    /// The tree below `directory`.
    pub fn new(directory: BorrowedFd<'a>) -> Self {
        Self(directory)
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'a> {
        self.0
    }

    /// Opens `path` with `flags` (close-on-exec is added).
    pub fn open(&self, path: &CStr, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        let resolve = match links {
            Links::Follow => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            Links::Refuse => ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
        };
        for _ in 0..TRIES {
            match openat2(self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A handle (`O_PATH`) on `path`, made first if it is missing and `missing` says so. `path` must be absolute and
    /// clean (no `.`, `..` or empty component): it comes out of a plan.
    pub fn place(&self, path: &CStr, missing: Missing, links: Links) -> Result<OwnedFd, Errno> {
        match self.open(path, OFlags::PATH, links) {
            Err(Errno::NOENT) if missing != Missing::Fail => {}
            other => return other,
        }
        let mut buffer = Path::new(path)?;
        for _ in 0..MAX_LINKS {
            match self.make(&mut buffer, missing)? {
                Some(fd) => return Ok(fd),
                None if links == Links::Refuse => return Err(Errno::LOOP),
                None => {}
            }
        }
        Err(Errno::LOOP)
    }

    /// Makes what is missing of `path`. `None`: a component is a symlink to something missing; `path` is now the path
    /// with the link's target in its place.
    fn make(&self, path: &mut Path, missing: Missing) -> Result<Option<OwnedFd>, Errno> {
        // From the deepest prefix that exists (the root does) ...
        let (mut parent, mut done) = self.existing(path)?;
        // ... downwards, each component below the fd of the last.
        while let Some(next) = path.next(done) {
            let last = path.next(next.end).is_none();
            let made = path.component(&next, |name| {
                let made = if last && missing == Missing::File {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    openat(&parent, name, flags, Mode::from_raw_mode(0o755)).map(drop)
                } else {
                    mkdirat(&parent, name, Mode::from_raw_mode(0o755))
                };
                match made {
                    // Somebody else was faster, or it is a symlink to nowhere; opening it tells.
                    Ok(()) | Err(Errno::EXIST) => {
                        openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                    }
                    Err(e) => Err(e),
                }
            })?;
            if FileType::from_raw_mode(fstat(&made)?.st_mode) == FileType::Symlink {
                path.substitute(&next, &made)?;
                return Ok(None);
            }
            (parent, done) = (made, next.end);
        }
        Ok(Some(parent))
    }

    /// The deepest directory on the way to `path` that can be opened, and the length of its path.
    fn existing(&self, path: &mut Path) -> Result<(OwnedFd, usize), Errno> {
        let mut end = path.length;
        loop {
            end = path.parent(end);
            let found = path.prefix(end, |prefix| self.open(prefix, OFlags::PATH | OFlags::DIRECTORY, Links::Follow));
            match found {
                Ok(fd) => return Ok((fd, end)),
                Err(Errno::NOENT) if end > 0 => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// An absolute path being worked on, on the stack.
struct Path {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl Path {
    fn new(path: &CStr) -> Result<Self, Errno> {
        let mut this = Self { bytes: [0; PATH_MAX], length: 0 };
        this.push(path.to_bytes())?;
        Ok(this)
    }

    fn push(&mut self, more: &[u8]) -> Result<(), Errno> {
        let end = self.length.saturating_add(more.len());
        // One byte is left for the NUL.
        let room = self.bytes.get_mut(self.length..end).filter(|_| end < PATH_MAX).ok_or(Errno::NAMETOOLONG)?;
        room.copy_from_slice(more);
        self.length = end;
        Ok(())
    }

    /// The component that begins at or after `from`.
    fn next(&self, from: usize) -> Option<core::ops::Range<usize>> {
        let rest = self.bytes.get(from..self.length)?;
        let start = from + rest.iter().position(|b| *b != b'/')?;
        let rest = self.bytes.get(start..self.length)?;
        Some(start..start + rest.iter().position(|b| *b == b'/').unwrap_or(rest.len()))
    }

    /// Where the parent of the prefix that ends at `end` ends.
    fn parent(&self, end: usize) -> usize {
        let prefix = self.bytes.get(..end).unwrap_or_default();
        let name = prefix.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
        let prefix = prefix.get(..name).unwrap_or_default();
        prefix.iter().rposition(|b| *b == b'/').unwrap_or(0)
    }

    /// Calls `f` with the path up to `end`, `/` if that is nothing.
    fn prefix<T>(&mut self, end: usize, f: impl FnOnce(&CStr) -> Result<T, Errno>) -> Result<T, Errno> {
        if end == 0 { f(c"/") } else { self.component(&(0..end), f) }
    }

    /// Calls `f` with the bytes of `range`, which a NUL follows for that long.
    fn component<T>(
        &mut self,
        range: &core::ops::Range<usize>,
        f: impl FnOnce(&CStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let saved = self.bytes.get(range.end).copied().ok_or(Errno::NAMETOOLONG)?;
        if let Some(end) = self.bytes.get_mut(range.end) {
            *end = 0;
        }
        let result = match self.bytes.get(range.start..=range.end).map(CStr::from_bytes_with_nul) {
            Some(Ok(name)) if name.to_bytes() == b".." || name.to_bytes() == b"." => Err(Errno::INVAL),
            Some(Ok(name)) => f(name),
            _ => Err(Errno::INVAL),
        };
        if let Some(end) = self.bytes.get_mut(range.end) {
            *end = saved;
        }
        result
    }

    /// Puts the target of the symlink `link` in the place of the component that it is.
    fn substitute(&mut self, component: &core::ops::Range<usize>, link: &OwnedFd) -> Result<(), Errno> {
        let mut target = [0u8; PATH_MAX];
        let length = readlinkat_raw(link.as_fd(), c"", &mut target[..])?;
        let target = target.get(..length).unwrap_or_default();
        let mut changed = Self { bytes: [0; PATH_MAX], length: 0 };
        if !target.starts_with(b"/") {
            changed.push(self.bytes.get(..component.start).unwrap_or_default())?;
        }
        changed.push(target)?;
        changed.push(self.bytes.get(component.end..self.length).unwrap_or_default())?;
        *self = changed;
        Ok(())
    }
}

/// Opens a directory or file of the host by its path, as a handle (`O_PATH`).
pub fn open_path(path: &CStr) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Opens an existing file below `directory` for writing.
pub fn open_for_writing(directory: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    openat(directory, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}
