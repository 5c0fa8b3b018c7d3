//! Locks. All are flock(2) locks on open files, so the kernel drops them with the process.
//!
//! * `lock` in the store's root: shared by whoever makes or uses objects ([`Lease`]), exclusive for the sweep.
//! * a file in `incoming/` that is named for an object, by whoever makes the object: a second process that wants the same
//!   one waits for it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{At, Error, ErrorKind, Result};

/// While it lives, nothing is collected from the store: neither what was there nor what is added. Many processes, and
/// many places of one process, may hold one at once. What was added is kept after that if a ref or a bundle names it.
#[derive(Debug)]
pub struct Lease {
    _file: File,
}

/// How long a sweep waits for leases to end.
const PATIENCE: Duration = Duration::from_secs(10);

impl Lease {
    pub(super) fn take(root: &Dir) -> Result<Self> {
        let file = root.open_or_create("lock")?;
        lock(&file, FlockOperation::LockShared)?;
        Ok(Self { _file: file })
    }
}

/// The sweep's lock: nobody else holds a lease while it lives.
#[derive(Debug)]
pub(super) struct Sweep {
    _file: File,
}

impl Sweep {
    /// The lock, or an error of the kind [`ErrorKind::InUse`] if leases are held for too long.
    pub(super) fn take(root: &Dir) -> Result<Self> {
        let start = Instant::now();
        loop {
            match Self::try_take(root)? {
                Some(sweep) => return Ok(sweep),
                None if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
                None => {
                    return Err(Error::new(ErrorKind::InUse, "store: in use by a pull, create, commit or push"));
                }
            }
        }
    }

    /// The lock, if nobody holds a lease at this moment.
    pub(super) fn try_take(root: &Dir) -> Result<Option<Self>> {
        let file = root.open_or_create("lock")?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e).at(|| "lock the store"),
        }
    }
}

/// Opens or makes `name`, and waits until no other process writes it. The file is the one that has the name then: who had
/// the lock before may have moved it to where it is complete.
pub(super) fn claim(dir: &Dir, name: &str) -> Result<File> {
    loop {
        let file = dir.open_or_create(name)?;
        lock(&file, FlockOperation::LockExclusive)?;
        if is_named(dir, name, &file)? {
            return Ok(file);
        }
    }
}

fn lock(file: &File, operation: FlockOperation) -> Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            done => return done.at(|| "lock"),
        }
    }
}

fn is_named(dir: &Dir, name: &str, file: &File) -> Result<bool> {
    let held = file.metadata().at(|| format!("stat {name}"))?;
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok(named.st_ino == held.ino() && named.st_dev == held.dev()),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e).at(|| format!("stat {name}")),
    }
}

/// A file in `incoming/` that goes away again unless it is moved to its place.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: Dir,
    name: String,
    /// The file, readable and writable.
    pub(super) file: File,
    kept: bool,
}

impl Scratch {
    /// A new, empty file.
    pub(super) fn new(incoming: &Dir) -> Result<Self> {
        Self::with(incoming, |name| incoming.create(name))
    }

    /// Another name for the file `name` in `from`.
    pub(super) fn link(incoming: &Dir, from: &Dir, name: &str) -> Result<Self> {
        Self::with(incoming, |new| from.link_to(name, incoming, new).and_then(|()| incoming.file(new)))
    }

    fn with(incoming: &Dir, make: impl Fn(&str) -> Result<File>) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("{SCRATCH}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            match make(&name) {
                Ok(file) => return Ok(Self { dir: incoming.again()?, name, file, kept: false }),
                // Left by a process of the same number that was killed.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// A second name for the same file.
    pub(super) fn again(&self) -> Result<Self> {
        Self::link(&self.dir, &self.dir, &self.name)
    }

    /// Another descriptor of the file, which can only be appended to.
    pub(super) fn append(&self) -> Result<File> {
        self.dir.append(&self.name)
    }

    /// Makes the content durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().at(|| "write to disk")
    }

    /// Gives the file its place, atomically. The content is durable ([`Scratch::sync`]) already; the name is once `to` is
    /// synced.
    pub(super) fn publish(mut self, to: &Dir, name: &str) -> Result<()> {
        self.dir.move_to(&self.name, to, name)?;
        // If both names were of one file, rename(2) did nothing, and this one is still to go.
        self.kept = self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 1);
        Ok(())
    }

    /// The name and the file, which is no longer removed by itself.
    pub(super) fn into_parts(mut self) -> Result<(String, File)> {
        let file = self.file.try_clone().at(|| "duplicate a descriptor")?;
        self.kept = true;
        Ok((std::mem::take(&mut self.name), file))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept {
            // What stays after a failure here is swept later.
            let _ = self.dir.unlink(&self.name);
        }
    }
}

/// What the names of files in `incoming/` begin with that are of no use to another process.
pub(super) const SCRATCH: &str = "tmp-";
