//! What bundles take on disk.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{Backend, RECORD, Record};
use crate::dir::Dir;
use crate::error::{At, ErrorKind, Result};
use crate::json;
use crate::store::{Store, Sum};
use crate::users::Users;

/// How many directories are open at a time, however deep they nest.
const OPEN: usize = 16;

/// What one bundle takes.
#[derive(Debug, Clone)]
pub struct BundleUsage {
    /// Its name in the store.
    pub id: String,
    /// What is known of it; `None` for what a crash left of one.
    pub record: Option<Record>,
    /// All that is its own: the writable layer, or the files that were written, and its volumes.
    pub sum: Sum,
    /// A process that runs in it.
    pub user: Option<u32>,
    /// True if its directory is gone: the next `prune` removes the rest.
    pub is_left: bool,
}

/// What every bundle of the store takes, in the order of their paths. Containers may run in them meanwhile. What can't be
/// read counts nothing.
pub fn usage(store: &Store) -> Result<Vec<BundleUsage>> {
    let users = Users::look();
    let mut all = Vec::new();
    for id in store.bundles().names()? {
        let Ok(home) = store.bundles().dir(&id) else { continue };
        let record = match home.read(RECORD, json::MAX_DOCUMENT) {
            Ok(bytes) => Some(json::parse::<Record>(RECORD, &bytes).map_err(|e| e.context(format!("bundle {id}")))?),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let (mut sum, mut counted) = (Sum::default(), HashSet::new());
        add(&home, &mut sum, &mut counted)?;
        let there = record.as_ref().filter(|record| record.is_there());
        let place = there.and_then(|record| Dir::at(&record.path).ok());
        if let Some(place) = &place {
            add(place, &mut sum, &mut counted)?;
        }
        let user = match record.as_ref().map(|record| record.backend) {
            Some(Backend::Mount) => home.dir("upper").ok().and_then(|upper| users.of_upper(&upper)),
            Some(Backend::Directory) => {
                place.and_then(|place| place.dir("rootfs").ok()).and_then(|root| users.of_root(&root))
            }
            None => None,
        };
        let is_left = there.is_none();
        all.push(BundleUsage { id, record, sum, user, is_left });
    }
    let path = |usage: &BundleUsage| usage.record.as_ref().map(|record| record.path.clone());
    all.sort_by_cached_key(path);
    Ok(all)
}

/// A directory on the way.
struct Level {
    /// `None` if it was closed meanwhile.
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    /// The directories in it that are still to do.
    directories: Vec<Vec<u8>>,
}

/// Adds what is below `dir`, without it: no other mount, no link; a file of several names once. `counted` has the device
/// and inode of those.
fn add(dir: &Dir, sum: &mut Sum, counted: &mut HashSet<(u64, u64)>) -> Result<()> {
    let top = dir.as_fd().try_clone_to_owned().at(|| "duplicate a descriptor")?;
    let Some(level) = Level::new(top, sum, counted) else { return Ok(()) };
    let mut levels = vec![level];
    while let Some(level) = levels.last_mut() {
        let name = level.directories.pop();
        let (Some(fd), Some(name)) = (&level.fd, name) else {
            let below = levels.pop().and_then(|level| level.fd);
            // Closed to keep few open. If it was moved meanwhile, the rest of it can't be found.
            if let (Some(level), Some(below)) = (levels.last_mut().filter(|level| level.fd.is_none()), below) {
                level.fd = open(&below, b"..").ok().filter(|fd| identity(fd).is_some_and(|is| is == level.identity));
            }
            continue;
        };
        if let Some(level) = open(fd, &name).ok().and_then(|fd| Level::new(fd, sum, counted)) {
            levels.push(level);
            if let Some(level) = levels.len().checked_sub(OPEN + 1).and_then(|at| levels.get_mut(at)) {
                level.fd = None;
            }
        }
    }
    Ok(())
}

impl Level {
    /// Counts what is in a directory. `None` if it can't be read.
    fn new(fd: OwnedFd, sum: &mut Sum, counted: &mut HashSet<(u64, u64)>) -> Option<Self> {
        let mut directories = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd).ok()? {
            let Ok(entry) = entry else { break };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push(name.to_vec());
            } else if stat.st_nlink > 1 && !counted.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            sum.files += 1;
            sum.bytes += room(&stat);
        }
        let identity = identity(&fd)?;
        Some(Self { fd: Some(fd), identity, directories })
    }
}

fn room(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

fn identity(fd: &OwnedFd) -> Option<(u64, u64)> {
    rustix::fs::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

fn open(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
            // A rename elsewhere made the kernel unsure (openat2(2)).
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::directory::scratch::Scratch;

    #[test]
    fn all_of_a_deep_tree_is_counted_once() {
        let scratch = Scratch::new();
        let dir = scratch.dir();
        let write = |dir: &Dir, name: &str| dir.create(name).unwrap().write_all(&[1; 4096]).unwrap();
        write(&dir, "file");
        dir.link_to("file", &dir, "name2").unwrap();
        rustix::fs::symlinkat("/", &dir, "link").unwrap();
        let mut at = dir.again().unwrap();
        let deep = OPEN * 3;
        for n in 0..deep {
            at = at.make_dir(&"d".repeat(100)).unwrap();
            // On the way back, too, there is something to be found.
            at.make_dir("a").and_then(|a| a.make_dir("b")).unwrap();
            at.make_dir("z").and_then(|z| z.make_dir("y")).unwrap();
            if n % 2 == 0 {
                write(&at, "file");
            }
        }
        let (mut sum, mut counted) = (Sum::default(), HashSet::new());
        add(&dir, &mut sum, &mut counted).unwrap();
        let files = 1 + deep / 2;
        assert_eq!(sum.files, u64::try_from(files + 1 + deep * 5).unwrap());
        assert!(sum.bytes >= u64::try_from(files * 4096).unwrap(), "{}", sum.bytes);
    }
}
