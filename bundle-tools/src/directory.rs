//! Writes a merged tree into a directory.
//!
//! Layers are merged before anything is written, so each final name is made exactly once, by its last component, below a
//! directory that is held open, and only if nothing has that name: no path of an image is ever resolved on disk. A small
//! file costs openat, write, utimensat and close, and an fchown, fchmod or fsetxattr only where what openat made differs
//! from what is wanted.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::dir::{self, Dir};
use crate::error::{At, Error, Result};
use crate::ingest;
use crate::layer::xattr::{Policy, policy};
use crate::layer::{Extent, Time};
use crate::tree::{Content, Node, Tree};

pub(crate) mod attributes;
mod owners;
mod remove;
#[cfg(test)]
pub(crate) mod scratch;

pub use owners::{IdRange, Owners, ROOTLESS_XATTR};
pub use remove::remove_tree;

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Names, the root's included.
    pub entries: u64,
    /// Bytes of files, without holes.
    pub bytes: u64,
    /// When the last of it was done, by the file system's clock. A file that has a later ctime was touched since.
    pub finished: Time,
    /// What could not be done as the image has it, and is no error: `security.capability: not set on 3 names ("bin/ping")`.
    pub notes: Vec<String>,
}

/// What a worker is to write.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// The lengths of the layers' tables, from the base up.
    pub tables: Vec<u64>,
    /// Who gets the files.
    pub owners: Owners,
}

/// [`write()`] in a worker that lives in the target, `root`. Descriptors: those of [`ingest::layers`].
pub fn work(task: &Task, fds: Vec<OwnedFd>, root: Option<&Dir>) -> Result<Written> {
    let target = root.ok_or_else(|| Error::invalid("write: no directory to write to"))?;
    let (layers, tars) = ingest::layers(&task.tables, fds)?;
    // This process is the worker's own.
    rustix::process::umask(Mode::empty());
    write(&Tree::merge(&layers)?, &tars, target, &task.owners)
}

/// Writes `tree`, whose layers have the tars `tars`, into `target`: an empty directory that nothing else writes to. The
/// target itself gets the attributes of the tree's root. Times, modes and owners are exact whatever the umask, and
/// whatever group or access list the target hands down.
///
/// On an error, what was written stays: the caller removes it ([`remove_tree`]). Attributes that a file system doesn't
/// have, or that only a more privileged writer could set, are notes; so are devices that can't be made with
/// [`Owners::Map`] and [`Owners::Rootless`], which become empty files.
pub fn write(tree: &Tree<'_>, tars: &[File], target: &Dir, owners: &Owners) -> Result<Written> {
    let maker = Maker::probe(target)?;
    let job = Job { tree, tars, target, owners, maker };
    let shared = Shared::default();
    shared.lock().directories.push((Arc::from(&b""[..]), tree.root().number));

    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(2));
    let made = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| Writer::new(&job, &shared).run())).collect();
        let mut made = Writer::new(&job, &shared).run();
        for other in others {
            let other = other.join().unwrap_or_else(|_| Err(Error::invalid("write: a thread ended early")));
            made = made.and_then(|made| Ok(made.with(other?)));
        }
        made
    })?;
    let mut made = Writer { made, ..Writer::new(&job, &shared) }.finish()?;
    let stat = rustix::fs::fstat(target).at(|| "stat the target")?;
    made.written.finished = Time { sec: stat.st_ctime, nsec: u32::try_from(stat.st_ctime_nsec).unwrap_or(0) };
    made.written.notes = made.notes.into_iter().map(|(what, (count, first))| note(what, count, &first)).collect();
    Ok(made.written)
}

fn note(what: String, count: u64, first: &[u8]) -> String {
    let names = if count == 1 { "name" } else { "names" };
    format!("{what} {count} {names} (\"{}\")", first.get(..200).unwrap_or(first).escape_ascii())
}

/// What is the same for all that is written.
struct Job<'a> {
    tree: &'a Tree<'a>,
    tars: &'a [File],
    target: &'a Dir,
    owners: &'a Owners,
    maker: Maker,
}

/// Who owns what this process makes in the target, and which permissions it can't give.
#[derive(Debug, Clone, Copy)]
struct Maker {
    uid: u32,
    gid: u32,
    umask: u32,
}

impl Maker {
    /// Found out by making a file: the owner depends on mount options (`grpid`), and asking for the umask means setting it.
    fn probe(target: &Dir) -> Result<Self> {
        const NAME: &str = ".orlop-probe";
        // A set-group-id bit or a default access list would be inherited by everything.
        rustix::fs::fchmod(target, Mode::from_raw_mode(0o700)).at(|| "chmod the target")?;
        match rustix::fs::fremovexattr(target, "system.posix_acl_default") {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e).at(|| "remove the target's default access list"),
        }
        let file = rustix::fs::openat(target, NAME, NEW, Mode::from_raw_mode(0o777)).at(|| "make a file")?;
        let stat = rustix::fs::fstat(&file).at(|| "stat a file")?;
        target.unlink(NAME)?;
        Ok(Self { uid: stat.st_uid, gid: stat.st_gid, umask: !stat.st_mode & 0o777 })
    }
}

const NEW: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory of the tree: its path and its number.
type Place = (Arc<[u8]>, u32);

/// A second name, to be made when the first is: its directory, its name, and the first's path.
type Link = (Arc<[u8]>, Vec<u8>, Arc<[u8]>);

/// What the threads share.
#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    /// The first path of each inode that has several.
    firsts: Mutex<HashMap<u32, Arc<[u8]>>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Queue {
    /// Made, and to be filled. The last comes first, which keeps the list short.
    directories: Vec<Place>,
    busy: usize,
    failed: bool,
}

/// What a thread has made, and what has to wait for all.
#[derive(Default)]
struct Made {
    written: Written,
    links: Vec<Link>,
    /// Directories whose attributes would be in the way, or be changed, until all is there.
    late: Vec<Place>,
    notes: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Made {
    fn with(mut self, other: Self) -> Self {
        self.written.entries += other.written.entries;
        self.written.bytes += other.written.bytes;
        self.links.extend(other.links);
        self.late.extend(other.late);
        for (what, (count, first)) in other.notes {
            self.notes.entry(what).or_insert((0, first)).0 += count;
        }
        self
    }

    /// Counts a note; after some dozens of different ones, further ones are no news.
    fn note(&mut self, what: String, path: &[u8]) {
        if self.notes.len() < 50 || self.notes.contains_key(&what) {
            self.notes.entry(what).or_insert_with(|| (0, path.to_vec())).0 += 1;
        }
    }
}

/// One thread's work.
struct Writer<'a> {
    job: &'a Job<'a>,
    shared: &'a Shared,
    source: Source<'a>,
    made: Made,
}

impl<'a> Writer<'a> {
    fn new(job: &'a Job<'a>, shared: &'a Shared) -> Self {
        Self { job, shared, source: Source::new(job.tars), made: Made::default() }
    }

    fn run(mut self) -> Result<Made> {
        while let Some((path, node)) = self.next() {
            let done = self.fill(&path, node);
            let mut queue = self.shared.lock();
            queue.busy -= 1;
            queue.failed |= done.is_err();
            self.shared.more.notify_all();
            queue.directories.extend(done?);
        }
        Ok(self.made)
    }

    /// The next directory to be filled; `None` if there will be none.
    fn next(&self) -> Option<Place> {
        let mut queue = self.shared.lock();
        loop {
            if queue.failed {
                return None;
            }
            if let Some(place) = queue.directories.pop() {
                queue.busy += 1;
                return Some(place);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.shared.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Writer<'_> {
    /// Makes everything in the directory `number` and gives it its attributes. The directories in it are made, and
    /// returned to be filled.
    fn fill(&mut self, path: &Arc<[u8]>, number: u32) -> Result<Vec<Place>> {
        let tree = self.job.tree;
        let fd = dir::below(self.job.target, path).at(|| format!("open {}", shown(path, b"")))?;
        let (mut directories, links) = (Vec::new(), self.made.links.len());
        for (name, child) in tree.children(number) {
            self.made.written.entries += 1;
            let node = tree.node(child);
            if node.is_directory() {
                let mode = Mode::from_raw_mode(made_mode(&node) & 0o777);
                rustix::fs::mkdirat(&fd, name, mode).at(|| format!("make {}", shown(path, name)))?;
                directories.push((joined(path, name), child));
            } else if node.links == 1 || self.is_first(&fd, path, name, child)? {
                self.entry(fd.as_fd(), path, name, &node).map_err(|e| e.context(shown(path, name)))?;
            }
        }
        // Names that come later change the directory's mtime; a mode without rights would keep its owner out.
        let node = tree.node(number);
        if self.made.links.len() > links || node.meta.mode & 0o700 != 0o700 || path.is_empty() {
            self.made.late.push((path.clone(), number));
        } else {
            self.directory(&fd, path, &node)?;
        }
        Ok(directories)
    }

    /// True for the first name of an inode. Any other becomes a link now, if it is in the first one's directory, or
    /// later.
    fn is_first(&mut self, fd: &OwnedFd, path: &Arc<[u8]>, name: &[u8], number: u32) -> Result<bool> {
        let mut firsts = self.shared.firsts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = firsts.get(&number).cloned() else {
            firsts.insert(number, joined(path, name));
            return Ok(true);
        };
        drop(firsts);
        let (parent, last) = split(&first);
        if parent == &**path {
            rustix::fs::linkat(fd, last, fd, name, AtFlags::empty()).at(|| format!("link {}", shown(path, name)))?;
        } else {
            self.made.links.push((path.clone(), name.to_vec(), first));
        }
        Ok(false)
    }

    /// What had to wait until all names were made: links between directories, and attributes from the leaves to the root.
    fn finish(mut self) -> Result<Made> {
        for (path, name, first) in std::mem::take(&mut self.made.links) {
            let (from, last) = split(&first);
            let open = |path| dir::below(self.job.target, path).at(|| format!("open {}", shown(path, b"")));
            rustix::fs::linkat(open(from)?, last, open(&path)?, &*name, AtFlags::empty())
                .at(|| format!("link {}", shown(&path, &name)))?;
        }
        let mut late = std::mem::take(&mut self.made.late);
        late.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        for (path, number) in late {
            let fd = dir::below(self.job.target, &path).at(|| format!("open {}", shown(&path, b"")))?;
            self.directory(&fd, &path, &self.job.tree.node(number))?;
        }
        self.made.written.entries += 1;
        Ok(self.made)
    }

    fn directory(&mut self, fd: &OwnedFd, path: &[u8], node: &Node<'_>) -> Result<()> {
        // The target was not made by us.
        let mode = if path.is_empty() { 0o700 } else { made_mode(node) & 0o777 & !self.job.maker.umask };
        self.attributes(fd, path, b"", node, mode).map_err(|e| e.context(shown(path, b"")))
    }

    /// Makes `name`, which is no directory.
    fn entry(&mut self, dir: BorrowedFd<'_>, path: &[u8], name: &[u8], node: &Node<'_>) -> Result<()> {
        match node.content {
            Content::File { layer, size, extents } => {
                let made = self.file(dir, name, node)?;
                self.content(&made.fd, layer, size, extents)?;
                self.attributes(&made.fd, path, name, node, made.mode)
            }
            Content::Symlink(to) => {
                rustix::fs::symlinkat(to, dir, name).at(|| "make a link")?;
                self.attributes_of_name(dir, path, name, node, None)
            }
            Content::Fifo => self.special(dir, path, name, node, FileType::Fifo, 0),
            Content::Char { major, minor } => {
                self.special(dir, path, name, node, FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Content::Block { major, minor } => {
                self.special(dir, path, name, node, FileType::BlockDevice, rustix::fs::makedev(major, minor))
            }
            Content::Directory => Err(Error::invalid("is a directory")),
        }
    }

    /// Makes an empty file.
    fn file(&self, dir: BorrowedFd<'_>, name: &[u8], node: &Node<'_>) -> Result<New> {
        // Setting an attribute takes the right to write.
        let more = if node.xattrs().next().is_none() && *self.job.owners != Owners::Rootless { 0 } else { 0o600 };
        let mode = u32::from(node.meta.mode) & 0o777 | more;
        let fd = rustix::fs::openat(dir, name, NEW, Mode::from_raw_mode(mode)).at(|| "make a file")?;
        Ok(New { fd: fd.into(), mode: mode & !self.job.maker.umask })
    }

    fn special(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
        node: &Node<'_>,
        kind: FileType,
        device: u64,
    ) -> Result<()> {
        let mode = u32::from(node.meta.mode);
        let is_device = kind != FileType::Fifo;
        let made = match is_device && *self.job.owners == Owners::Rootless {
            true => Err(Errno::PERM),
            false => rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode & 0o777), device),
        };
        match made {
            Ok(()) => self.attributes_of_name(dir, path, name, node, Some(mode & 0o777 & !self.job.maker.umask)),
            Err(Errno::PERM) if is_device && *self.job.owners != Owners::Keep => {
                self.made.note("devices: empty files instead of".into(), &joined(path, name));
                let made = self.file(dir, name, node)?;
                self.attributes(&made.fd, path, name, node, made.mode)
            }
            Err(e) => Err(e).at(|| "make a device"),
        }
    }

    /// Gives an open file or directory, whose mode is `mode`, what it should have. The order matters: a new owner takes
    /// away set-id bits and capabilities, a new mode changes access lists, all of it the time.
    fn attributes(&mut self, fd: impl AsFd, path: &[u8], name: &[u8], node: &Node<'_>, mode: u32) -> Result<()> {
        let (job, meta) = (self.job, node.meta);
        match job.owners.on_disk(meta.uid, meta.gid)? {
            Some((uid, gid)) if (uid, gid) != (job.maker.uid, job.maker.gid) => {
                rustix::fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).at(|| "chown")?;
            }
            Some(_) => {}
            None => {
                if let Some(owner) = owners::encoded(meta.uid, meta.gid) {
                    let set = attributes::set(&fd, ROOTLESS_XATTR.as_bytes(), &owner);
                    self.noted(set, ROOTLESS_XATTR.as_bytes(), path, name)?;
                }
            }
        }
        for (key, value) in wanted(node, true).filter(|(key, _)| !attributes::is_access_list(key)) {
            self.attribute(&fd, path, name, key, value)?;
        }
        if mode != u32::from(meta.mode) {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(u32::from(meta.mode))).at(|| "chmod")?;
        }
        for (key, value) in wanted(node, true).filter(|(key, _)| attributes::is_access_list(key)) {
            self.attribute(&fd, path, name, key, value)?;
        }
        rustix::fs::futimens(&fd, &times(meta.mtime)).at(|| "set the time")
    }

    fn attribute(&mut self, fd: impl AsFd, path: &[u8], name: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
        self.noted(attributes::set(fd, key, value), key, path, name)
    }

    /// A failure to set an attribute, unless it is one that is only told.
    fn noted(&mut self, set: std::result::Result<(), Errno>, key: &[u8], path: &[u8], name: &[u8]) -> Result<()> {
        match set {
            Ok(()) => Ok(()),
            Err(e @ (Errno::OPNOTSUPP | Errno::PERM | Errno::NOENT | Errno::NOTDIR)) => {
                let why = if e == Errno::OPNOTSUPP { "the file system has none" } else { "not permitted" };
                self.made.note(format!("{}: {why}, not set on", key.escape_ascii()), &joined(path, name));
                Ok(())
            }
            Err(e) => Err(e).at(|| format!("set {}", key.escape_ascii())),
        }
    }

    /// The same for what can't be opened: `mode` is that of a FIFO or device, and `None` for a link.
    fn attributes_of_name(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
        node: &Node<'_>,
        mode: Option<u32>,
    ) -> Result<()> {
        let (job, meta) = (self.job, node.meta);
        // Only regular files and directories can have attributes of users, so a link keeps no record of its owner.
        if let Some((uid, gid)) = job.owners.on_disk(meta.uid, meta.gid)?
            && (uid, gid) != (job.maker.uid, job.maker.gid)
        {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).at(|| "chown")?;
        }
        // Set-id bits, which a new owner would have taken away.
        if let Some(mode) = mode.filter(|mode| *mode != u32::from(meta.mode)) {
            // It was made a moment ago, so it is no link; and what a link could lead to is in the target.
            let wanted = Mode::from_raw_mode(u32::from(meta.mode));
            rustix::fs::chmodat(dir, name, wanted, AtFlags::empty())
                .at(|| format!("chmod from {mode:o} to {:o}", meta.mode))?;
        }
        for (key, value) in wanted(node, false) {
            self.noted(attributes::set_of_name(dir, name, key, value), key, path, name)?;
        }
        rustix::fs::utimensat(dir, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW).at(|| "set the time")
    }
}

/// The mode with which a directory is made: its own, with all rights for the one who fills it.
fn made_mode(node: &Node<'_>) -> u32 {
    u32::from(node.meta.mode) | 0o700
}

/// The attributes that a file gets, `plain` for files and directories.
fn wanted<'a>(node: &Node<'a>, plain: bool) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    node.xattrs().filter(move |(name, _)| policy(name, plain) == Policy::Keep)
}

/// An empty file that was just made, and the mode that it got.
struct New {
    fd: File,
    mode: u32,
}

fn times(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// The path of `name` in `path`, the directory itself if the name is empty.
fn joined(path: &[u8], name: &[u8]) -> Arc<[u8]> {
    let slash: &[u8] = if path.is_empty() || name.is_empty() { b"" } else { b"/" };
    [path, slash, name].concat().into()
}

/// The directory and the name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

/// The path as an error shows it.
fn shown(path: &[u8], name: &[u8]) -> String {
    format!("\"{}\"", joined(path, name).escape_ascii())
}

impl Writer<'_> {
    /// Fills an empty file.
    fn content(&mut self, file: &File, layer: usize, size: u64, extents: &[Extent]) -> Result<()> {
        let mut end = 0;
        for extent in extents {
            self.source.copy(layer, extent, file)?;
            self.made.written.bytes += extent.len;
            end = extent.at.saturating_add(extent.len);
        }
        if end < size { file.set_len(size).at(|| "set the size") } else { Ok(()) }
    }
}

/// Reads tars. Small files are neighbours there, so one read serves many of them.
struct Source<'a> {
    tars: &'a [File],
    layer: usize,
    /// Where `buffer` is from.
    at: u64,
    buffer: Vec<u8>,
    len: usize,
    /// How much is read at the next miss: doubles while reads go on where they were.
    window: usize,
}

/// How much is read at once.
const WINDOW: usize = 256 << 10;
/// What is too long to be read through the window.
const LONG: u64 = 128 << 10;

impl<'a> Source<'a> {
    fn new(tars: &'a [File]) -> Self {
        Self { tars, layer: 0, at: 0, buffer: vec![0; WINDOW], len: 0, window: 0 }
    }

    /// Writes an extent to its place in `to`.
    fn copy(&mut self, layer: usize, extent: &Extent, to: &File) -> Result<()> {
        let tar = self.tars.get(layer).ok_or_else(|| Error::invalid("content is in a layer that is not there"))?;
        if extent.len <= LONG {
            let bytes = self.read(layer, tar, extent)?;
            return to.write_all_at(bytes, extent.at).at(|| "write");
        }
        let (mut from, mut at, mut left) = (extent.from, extent.at, extent.len);
        self.len = 0;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let room = self.buffer.get_mut(..most).unwrap_or_default();
            tar.read_exact_at(room, from).at(|| "read the layer")?;
            to.write_all_at(room, at).at(|| "write")?;
            (from, at, left) = (from + most as u64, at + most as u64, left - most as u64);
        }
        Ok(())
    }

    /// The bytes of a short extent.
    fn read(&mut self, layer: usize, tar: &File, extent: &Extent) -> Result<&[u8]> {
        let len = usize::try_from(extent.len).unwrap_or(usize::MAX);
        let inside = |source: &Self| {
            let offset = usize::try_from(extent.from.checked_sub(source.at)?).ok()?;
            (layer == source.layer && offset.checked_add(len)? <= source.len).then_some(offset)
        };
        let offset = match inside(self) {
            Some(offset) => offset,
            None => {
                let ahead = extent.from.checked_sub(self.at).filter(|ahead| *ahead <= 2 * WINDOW as u64);
                self.window = match ahead.filter(|_| layer == self.layer) {
                    Some(_) => (self.window * 2).min(WINDOW),
                    None => 8 << 10,
                };
                let room = self.buffer.get_mut(..self.window.max(len)).unwrap_or_default();
                (self.layer, self.at, self.len) = (layer, extent.from, 0);
                while self.len < len {
                    let free = room.get_mut(self.len..).unwrap_or_default();
                    let n = tar.read_at(free, extent.from + self.len as u64).at(|| "read the layer")?;
                    if n == 0 {
                        return Err(Error::invalid("read the layer: its tar ends early"));
                    }
                    self.len += n;
                }
                0
            }
        };
        Ok(self.buffer.get(offset..offset + len).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::scratch::{Item, Scratch, stored};
    use super::*;
    use crate::layer::Kind;

    fn stat(dir: &Dir, path: &str) -> rustix::fs::Stat {
        rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW).unwrap()
    }

    /// Writes layers to `root` in a scratch directory.
    fn written(scratch: &Scratch, layers: &[&[Item<'_>]], owners: &Owners) -> Result<(Dir, Written)> {
        let (tars, tables): (Vec<_>, Vec<_>) = layers.iter().map(|items| stored(scratch, items)).unzip();
        let target = scratch.dir().make_dir("root").unwrap();
        let written = write(&Tree::merge(&tables).unwrap(), &tars, &target, owners)?;
        Ok((target, written))
    }

    #[test]
    fn every_kind_of_file_has_what_the_image_says() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIP: making devices and giving files away needs root");
        }
        let scratch = Scratch::new();
        let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let big = vec![7u8; 300_000];
        let items = [
            Item::dir("", 0o1775).time(-5, 250),
            Item::dir("a", 0o2555).owner(3, 4),
            Item::file("a/setuid", 0o6755, b"x").owner(1000, 1001).xattr("security.capability", capability),
            Item::file("a/plain", 0o644, b"hello").xattr("user.k", b""),
            Item::file("a/secret", 0o000, b"s").owner(7, 0).xattr("user.k", b"v"),
            Item::file("big", 0o600, &big),
            Item::file("empty", 0o644, b""),
            Item::new("a/link", Kind::Symlink(b"/nowhere/..")).owner(5, 6),
            Item::new("a/one", Kind::Hardlink(b"a/plain")),
            Item::dir("b", 0o000),
            Item::new("b/two", Kind::Hardlink(b"a/plain")),
            Item::new("null", Kind::Char { major: 1, minor: 3 }),
            Item::new("disk", Kind::Block { major: 259, minor: 1000 }),
            Item::new("fifo", Kind::Fifo),
            Item::file("odd\n\u{fe}name", 0o644, b"o"),
        ];
        let old = rustix::process::umask(Mode::from_raw_mode(0o022));
        let (root, made) = written(&scratch, &[&items], &Owners::Keep).unwrap();
        rustix::process::umask(old);
        assert_eq!(made.entries, items.len() as u64);
        assert_eq!(made.notes, Vec::<String>::new());
        for item in &items {
            let path = if item.path.is_empty() { "." } else { item.path };
            let stat = stat(&root, path);
            let item = match item.kind {
                Kind::Hardlink(_) => &items[3],
                _ => item,
            };
            if !matches!(item.kind, Kind::Symlink(_)) {
                assert_eq!(stat.st_mode & 0o7777, u32::from(item.meta.mode), "mode of {path}");
            }
            assert_eq!((stat.st_uid, stat.st_gid), (item.meta.uid, item.meta.gid), "owner of {path}");
            let time = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap());
            assert_eq!(time, (item.meta.mtime.sec, item.meta.mtime.nsec), "time of {path}");
            let mut attributes = attributes::Reader::default();
            if let Kind::File { .. } = item.kind {
                let file = root.file(path).unwrap();
                assert_eq!(dir::read_limited(&file, path, 1 << 20).unwrap(), item.content, "content of {path}");
                let expected: Vec<_> = item.xattrs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
                assert_eq!(attributes.of(&file).unwrap(), expected, "attributes of {path}");
            }
        }
        assert_eq!(rustix::fs::readlinkat(&root, "a/link", Vec::new()).unwrap().as_bytes(), b"/nowhere/..");
        assert_eq!(stat(&root, "a/plain").st_ino, stat(&root, "b/two").st_ino);
        assert_eq!(stat(&root, "a/plain").st_nlink, 3);
        assert_eq!(stat(&root, "disk").st_rdev, rustix::fs::makedev(259, 1000));
        assert_eq!(FileType::from_raw_mode(stat(&root, "fifo").st_mode), FileType::Fifo);
    }

    #[test]
    fn what_upper_layers_replace_is_never_made_and_directories_keep_their_times() {
        let scratch = Scratch::new();
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let own = |item: Item<'static>| item.owner(me.0, me.1);
        let lower =
            [own(Item::dir("d", 0o755)), own(Item::file("d/a", 0o644, b"1")), own(Item::file("d/b", 0o644, b"1"))];
        let upper = [own(Item::file("d/a", 0o600, b"22")), Item::new("d/b", Kind::Whiteout)];
        let (root, made) = written(&scratch, &[&lower, &upper], &Owners::Rootless).unwrap();
        assert_eq!((made.entries, made.bytes), (3, 2));
        assert_eq!(root.dir("d").unwrap().names().unwrap(), ["a"]);
        assert_eq!(stat(&root, "d").st_mtime, 1_700_000_000);
        assert!(made.finished.sec > 1_700_000_000);
    }

    #[test]
    fn without_privileges_owners_are_recorded_and_devices_are_files() {
        let scratch = Scratch::new();
        let items = [
            Item::dir("shut", 0o000).owner(1, 2),
            Item::file("shut/file", 0o400, b"x").owner(300, 0),
            Item::new("null", Kind::Char { major: 1, minor: 3 }),
            Item::new("link", Kind::Symlink(b"x")).owner(9, 9),
        ];
        let (root, made) = written(&scratch, &[&items], &Owners::Rootless).unwrap();
        assert_eq!(made.notes, ["devices: empty files instead of 1 name (\"null\")"]);
        let me = rustix::process::geteuid().as_raw();
        for (path, owner) in
            [("shut", Some(&b"\x08\x01\x10\x02"[..])), ("shut/file", Some(b"\x08\xac\x02")), ("null", None)]
        {
            assert_eq!(stat(&root, path).st_uid, me);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
            let fd = rustix::fs::openat(&root, path, flags, Mode::empty()).unwrap();
            let read = attributes::Reader::default().of(fd).unwrap();
            assert_eq!(read.iter().map(|(_, value)| &**value).next(), owner, "{path}");
        }
        assert_eq!(FileType::from_raw_mode(stat(&root, "null").st_mode), FileType::RegularFile);
        drop(root);
        remove_tree(&scratch.dir(), "root").unwrap();
    }

    #[test]
    fn holes_stay_holes() {
        let scratch = Scratch::new();
        let mut layer = crate::layer::Layer::default();
        let extents = [Extent { at: 1 << 20, len: 5, from: 3 }, Extent { at: 2 << 20, len: 4, from: 0 }];
        let meta = crate::layer::Meta { mode: 0o644, ..Default::default() };
        layer.push(b"sparse", Kind::File { size: 64 << 20, extents: &extents }, meta, []).unwrap();
        layer.push(b"void", Kind::File { size: 1 << 30, extents: &[] }, meta, []).unwrap();
        let tar = scratch.dir().create("tar").unwrap();
        tar.write_all_at(b"abcdefgh", 0).unwrap();
        let target = scratch.dir().make_dir("root").unwrap();
        write(&Tree::merge(&[layer]).unwrap(), &[tar], &target, &Owners::Rootless).unwrap();
        let (sparse, void) = (stat(&target, "sparse"), stat(&target, "void"));
        assert_eq!((sparse.st_size, void.st_size), (64 << 20, 1 << 30));
        assert!(sparse.st_blocks * 512 < 1 << 20 && void.st_blocks * 512 < 1 << 20);
        let mut piece = [9; 7];
        target.file("sparse").unwrap().read_exact_at(&mut piece, (1 << 20) - 1).unwrap();
        assert_eq!(&piece, b"\0defgh\0");
    }

    #[test]
    fn nothing_that_is_there_is_written_through() {
        let scratch = Scratch::new();
        scratch.dir().make_dir("canary").unwrap();
        let root = scratch.dir().make_dir("root").unwrap();
        for (name, item) in [
            ("link", Item::file("link", 0o644, b"x")),
            ("way", Item::dir("way", 0o777)),
            ("deep", Item::new("deep", Kind::Symlink(b"x"))),
        ] {
            rustix::fs::symlinkat("../canary", &root, name).unwrap();
            let (tar, table) = stored(&scratch, &[item]);
            let said = write(&Tree::merge(&[table]).unwrap(), &[tar], &root, &Owners::Rootless).unwrap_err();
            assert_eq!(said.kind(), crate::error::ErrorKind::AlreadyExists, "{said}");
            root.unlink(name).unwrap();
        }
        assert!(scratch.dir().dir("canary").unwrap().names().unwrap().is_empty());
    }

    #[test]
    fn a_tar_that_ends_early_is_an_error_that_names_the_file() {
        let scratch = Scratch::new();
        let (tar, table) = stored(&scratch, &[Item::file("etc/x", 0o644, b"content")]);
        tar.set_len(512).unwrap();
        let target = scratch.dir().make_dir("root").unwrap();
        let said = write(&Tree::merge(&[table]).unwrap(), &[tar], &target, &Owners::Rootless).unwrap_err();
        assert_eq!(said.to_string(), "\"etc/x\": read the layer: its tar ends early");
    }
}
