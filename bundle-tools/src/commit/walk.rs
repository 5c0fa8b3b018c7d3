//! Walks what a container left behind, beside the image's tree, and tells what is different.
//!
//! The container may have made anything there, and may still be running: directories are opened by their last component
//! or, again, beneath the root without links and mounts; nothing but directories and regular files is opened at all. At
//! most a few directories are open at a time, however deep they nest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Options, OverlayAttributes};
use crate::dir::{self, Dir};
use crate::directory::attributes::{self, Attributes};
use crate::directory::{Owners, ROOTLESS_XATTR};
use crate::error::{At, Error, Result};
use crate::layer::name::{self, MAX_PATH};
use crate::layer::xattr::{Policy, policy};
use crate::layer::{Extent, Kind, Meta, Time};
use crate::tree::{Content, Node, Tree};

/// How many of the directories on the way are kept open.
const OPEN: usize = 16;

/// What becomes of the differences: a layer, or lines for people.
pub(crate) trait Sink {
    /// `path` is now this. A regular file that is no hard link has its content in `body`.
    fn put(
        &mut self,
        path: &[u8],
        was: Was,
        kind: Kind<'_>,
        meta: &Meta,
        attributes: &Attributes,
        body: Option<&mut dyn Read>,
    ) -> Result<()>;

    /// These names of the image, in order, are no longer in `directory`.
    fn gone(&mut self, directory: &[u8], names: &[&[u8]], others: Others) -> Result<()>;
}

/// Whether the image has something of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Was {
    There,
    Absent,
}

/// What the image has in a directory beside the names that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// Maybe something that stays.
    Stay,
    /// Nothing that would not be put anew.
    None,
}

/// What is walked.
#[derive(Clone, Copy)]
pub(crate) enum What<'a> {
    /// The upper directory of an overlay mount: what is there is a change.
    Upper,
    /// A whole root that [`crate::directory::write`] made. What has an older ctime than `created` has been left alone.
    Whole { tars: &'a [File], created: Option<Time> },
}

/// See [`walk`].
struct Walk<'a, S> {
    root: &'a Dir,
    what: What<'a>,
    tree: &'a Tree<'a>,
    options: &'a Options,
    destinations: HashSet<Vec<u8>>,
    sink: &'a mut S,
    path: Vec<u8>,
    frames: Vec<Frame>,
    reader: attributes::Reader,
    /// The first name of each file that has several.
    firsts: HashMap<(u64, u64), Vec<u8>>,
    notes: BTreeMap<&'static str, (u64, Vec<u8>)>,
}

type Names = Vec<Vec<u8>>;

/// A directory on the way.
struct Frame {
    /// `None` if it was closed meanwhile.
    fd: Option<OwnedFd>,
    /// How long its path is.
    length: usize,
    /// What the image has in its place, if that is a directory.
    image: Option<u32>,
    /// The image's directory cannot be seen through it.
    opaque: bool,
    names: Names,
    next: usize,
    /// What is to be said of it, until it has been.
    entry: Option<(Meta, Attributes)>,
    differs: Differs,
    was: Was,
    /// Something in it, or all of it, was left out.
    left_out: bool,
}

/// How a directory differs from the image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Differs {
    No,
    /// Only in its time.
    Time,
    Yes,
    /// The image has none, though maybe something else of that name.
    New,
}

/// Tells `sink` what is different below `root`, directories before what is in them, names in the order of their bytes.
/// Returns what was odd and is no error.
pub(crate) fn walk(
    root: &Dir,
    what: What<'_>,
    tree: &Tree<'_>,
    options: &Options,
    sink: &mut impl Sink,
) -> Result<Vec<String>> {
    if let (What::Upper, OverlayAttributes::Trusted) = (what, options.overlay) {
        // Without the privilege these attributes are not refused but invisible, and what was opaque would not be.
        if rustix::fs::fremovexattr(root, "trusted.orlop.none") == Err(Errno::PERM) {
            return Err(Error::unsupported(
                "upper directory: its trusted attributes can't be read without CAP_SYS_ADMIN",
            ));
        }
    }
    let mut walk = Walk {
        root,
        what,
        tree,
        options,
        destinations: options.destinations.iter().filter_map(|path| name::clean(path.as_bytes()).ok()).collect(),
        sink,
        path: Vec::new(),
        frames: Vec::new(),
        reader: attributes::Reader::default(),
        firsts: HashMap::new(),
        notes: BTreeMap::new(),
    };
    let fd = root.as_fd().try_clone_to_owned().at(|| "duplicate a descriptor")?;
    let stat = rustix::fs::fstat(&fd).at(|| "stat the root")?;
    walk.enter(fd, &stat, Some(tree.root().number), false)?;
    while let Some(frame) = walk.frames.last_mut() {
        let name = frame.names.get_mut(frame.next).map(std::mem::take);
        frame.next += 1;
        match name {
            Some(name) => walk.visit(&name)?,
            None => walk.leave()?,
        }
    }
    let shown = |(what, (count, first)): (&str, (u64, Vec<u8>))| {
        let names = if count == 1 { "name" } else { "names" };
        format!("{count} {names} {what} (\"{}\")", first.get(..200).unwrap_or(&first).escape_ascii())
    };
    Ok(walk.notes.into_iter().map(shown).collect())
}

impl<S: Sink> Walk<'_, S> {
    fn note(&mut self, what: &'static str, name: &[u8]) {
        let path = joined(&self.path, name);
        self.notes.entry(what).or_insert((0, path)).0 += 1;
    }

    fn error(&self, name: &[u8], why: impl std::fmt::Display) -> Error {
        Error::invalid(format!("\"{}\": {why}", joined(&self.path, name).escape_ascii()))
    }

    /// What an error says of `name` in the directory that is walked.
    fn here(&self, what: &str, name: &[u8]) -> String {
        format!("{what} \"{}\"", joined(&self.path, name).escape_ascii())
    }

    /// Begins with the directory that `path` names and `fd` is. `below` means that it is in one that is opaque.
    fn enter(&mut self, fd: OwnedFd, stat: &Stat, image: Option<u32>, below: bool) -> Result<()> {
        let found = self.reader.of(&fd).at(|| self.here("read attributes of", b""))?;
        let opaque = below || self.is_opaque(&found)?;
        let meta = self.meta(stat, &found)?;
        let was = if image.is_some() { Was::There } else { Was::Absent };
        let node = image.map(|number| self.tree.node(number)).filter(Node::is_directory);
        let attributes = kept(found, true);
        let differs = node.as_ref().map_or(Differs::New, |node| differs(node, stat, &meta, &attributes));
        let (names, removed) = self.list(&fd)?;
        let image = node.map(|node| node.number);
        let gone: Vec<&[u8]> = match image {
            None => Vec::new(),
            Some(image) => {
                let is_gone = |name: &&[u8]| match self.what {
                    What::Upper if !opaque => removed.binary_search_by(|r| (**r).cmp(name)).is_ok(),
                    _ => names.binary_search_by(|n| (**n).cmp(name)).is_err(),
                };
                self.tree.children(image).map(|(name, _)| name).filter(is_gone).collect()
            }
        };
        let is_stub = was == Was::Absent && self.is_destination(&self.path);
        self.frames.push(Frame {
            fd: Some(fd),
            length: self.path.len(),
            image,
            opaque,
            names,
            next: 0,
            entry: Some((meta, attributes)),
            differs,
            was,
            left_out: is_stub,
        });
        if !gone.is_empty() {
            self.flush()?;
            self.sink.gone(&self.path, &gone, if opaque { Others::None } else { Others::Stay })?;
        }
        // Those that are deeper are needed sooner.
        if let Some(frame) = self.frames.len().checked_sub(OPEN + 1).and_then(|at| self.frames.get_mut(at)) {
            frame.fd = None;
        }
        Ok(())
    }

    /// Ends with the directory that was entered last.
    fn leave(&mut self) -> Result<()> {
        let (is_root, is_upper) = (self.frames.len() == 1, matches!(self.what, What::Upper));
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let said = match frame.differs {
            // It is there for what was left out.
            Differs::New if frame.left_out && frame.was == Was::Absent => false,
            Differs::Time | Differs::No if frame.left_out => false,
            Differs::No => is_upper && !is_root,
            Differs::Time | Differs::Yes | Differs::New => true,
        };
        if said {
            self.flush()?;
        }
        let done = self.frames.pop();
        if let Some(parent) = self.frames.last_mut() {
            self.path.truncate(parent.length);
            parent.left_out |= done.is_some_and(|done| done.left_out && done.entry.is_some());
        }
        Ok(())
    }

    /// Says what was not yet said of the directories on the way.
    fn flush(&mut self) -> Result<()> {
        let first = self.frames.iter().rposition(|frame| frame.entry.is_none()).map_or(0, |at| at + 1);
        for frame in self.frames.get_mut(first..).unwrap_or_default() {
            let path = self.path.get(..frame.length).unwrap_or_default();
            if let Some((meta, attributes)) = frame.entry.take() {
                // What is only on the way, and is as in the image, is in the layer all the same: whoever unpacks it alone
                // needs the directory as it is. But for the root, which is always there.
                if !(path.is_empty() && frame.differs == Differs::No) {
                    self.sink.put(path, frame.was, Kind::Directory, &meta, &attributes, None)?;
                }
            }
        }
        Ok(())
    }

    /// The names in a directory, and those that are marked as removed, both in order. Sockets count as neither: they mean
    /// nothing without the process that listens.
    fn list(&mut self, fd: &OwnedFd) -> Result<(Names, Names)> {
        let (mut names, mut removed) = (Vec::new(), Vec::new());
        for entry in rustix::fs::Dir::read_from(fd).at(|| self.here("read", b""))? {
            let entry = entry.at(|| self.here("read", b""))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let (mut kind, mut device) = (entry.file_type(), None);
            if matches!(kind, FileType::Unknown | FileType::CharacterDevice) {
                match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => (kind, device) = (FileType::from_raw_mode(stat.st_mode), Some(stat.st_rdev)),
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(e).at(|| self.here("stat", name)),
                }
            }
            match (kind, self.what) {
                (FileType::CharacterDevice, What::Upper) if device == Some(0) => removed.push(name.to_vec()),
                (FileType::CharacterDevice, _) if device == Some(0) => {
                    self.note("left out: a character device 0:0 would be a whiteout", name);
                }
                (FileType::Socket, what) => {
                    self.note("left out: a socket can't be in an image", name);
                    if matches!(what, What::Upper) {
                        // What it has replaced is not there any more.
                        removed.push(name.to_vec());
                    }
                }
                _ => names.push(name.to_vec()),
            }
        }
        names.sort_unstable();
        removed.sort_unstable();
        Ok((names, removed))
    }

    /// Looks at `name` in the directory that was entered last.
    fn visit(&mut self, name: &[u8]) -> Result<()> {
        name::check(name).map_err(|why| self.error(name, why))?;
        if self.path.len() + 1 + name.len() > MAX_PATH {
            return Err(self.error(name, format!("its name is longer than {MAX_PATH} bytes")));
        }
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let fd = match frame.fd.take() {
            Some(fd) => fd,
            None => match dir::below(self.root, &self.path) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    frame.next = frame.names.len();
                    self.note("vanished while it was read", b"");
                    return Ok(());
                }
                Err(e) => return Err(e).at(|| self.here("open", b"")),
            },
        };
        let (image, opaque) = (frame.image.and_then(|image| self.tree.child(image, name)), frame.opaque);
        let at = self.frames.len() - 1;
        let done = self.look(&fd, name, image, opaque);
        // What was entered has this one open above it.
        let stays = at + OPEN >= self.frames.len();
        if let Some(frame) = self.frames.get_mut(at).filter(|_| stays) {
            frame.fd = Some(fd);
        }
        match done {
            Ok(()) => Ok(()),
            Err(Failed::Vanished) => {
                self.note("vanished while it was read", name);
                Ok(())
            }
            Err(Failed::Error(e)) => Err(e),
        }
    }

    fn look(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        image: Option<u32>,
        opaque: bool,
    ) -> std::result::Result<(), Failed> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).or_vanished(|| self.here("stat", name))?;
        let was = if image.is_some() { Was::There } else { Was::Absent };
        let path = joined(&self.path, name);
        let node = image.map(|number| self.tree.node(number));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let fd = match dir::below(dir, name) {
                    Err(Errno::XDEV) => {
                        self.note("left out: something is mounted there", name);
                        if let Some(frame) = self.frames.last_mut() {
                            frame.left_out = true;
                        }
                        return Ok(());
                    }
                    opened => opened.or_vanished(|| self.here("open", name))?,
                };
                let stat = rustix::fs::fstat(&fd).or_vanished(|| self.here("stat", name))?;
                self.path = path;
                Ok(self.enter(fd, &stat, image, opaque)?)
            }
            FileType::RegularFile => {
                if stat.st_size == 0 && image.is_none() && self.is_destination(&path) {
                    if let Some(frame) = self.frames.last_mut() {
                        frame.left_out = true;
                    }
                    return Ok(());
                }
                Ok(self.file(dir, name, path, &stat, node, was)?)
            }
            kind => {
                let target;
                let kind = match kind {
                    FileType::Symlink => {
                        let read = rustix::fs::readlinkat(dir, name, Vec::new());
                        target = read.or_vanished(|| self.here("read link", name))?.into_bytes();
                        Kind::Symlink(&target)
                    }
                    FileType::Fifo => Kind::Fifo,
                    FileType::CharacterDevice => {
                        Kind::Char { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) }
                    }
                    FileType::BlockDevice => {
                        Kind::Block { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) }
                    }
                    _ => return Ok(()),
                };
                let found = self.reader.of_name(dir, name).or_vanished(|| self.here("read attributes of", name))?;
                let meta = self.meta(&stat, &found)?;
                let attributes = kept(found, false);
                if let (What::Whole { .. }, Some(node)) = (self.what, &node)
                    && is_kind(node, kind)
                    && self.is_like(node, &stat, &meta, &attributes)
                {
                    return Ok(());
                }
                Ok(self.put(path, was, kind, &meta, &attributes, &stat, None)?)
            }
        }
    }

    /// Looks at a regular file.
    fn file(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: Vec<u8>,
        stat: &Stat,
        node: Option<Node<'_>>,
        was: Was,
    ) -> std::result::Result<(), Failed> {
        if node.as_ref().is_some_and(|node| self.is_untouched(node, stat)) {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            // It is something else now.
            Err(Errno::LOOP | Errno::NXIO) => return Err(Failed::Vanished),
            opened => opened.or_vanished(|| self.here("open", name))?,
        };
        let stat = rustix::fs::fstat(&opened).or_vanished(|| self.here("stat", name))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Failed::Vanished);
        }
        let found = self.reader.of(&opened).or_vanished(|| self.here("read attributes of", name))?;
        if matches!(self.what, What::Upper) && self.is_removed(name, &stat, &found)? {
            if was == Was::There {
                self.flush()?;
                self.sink.gone(&self.path, &[name], Others::Stay)?;
            }
            return Ok(());
        }
        let meta = self.meta(&stat, &found)?;
        let attributes = kept(found, true);
        let file = File::from(opened);
        if let (What::Whole { tars, .. }, Some(node)) = (self.what, &node)
            && self.is_like(node, &stat, &meta, &attributes)
        {
            match node.content {
                Content::File { layer, extents, .. } => {
                    let tar = tars.get(layer).ok_or_else(|| self.error(name, "its layer is not there"))?;
                    if same_content(&file, tar, extents, stat.st_size).at(|| self.here("compare", name))? {
                        return Ok(());
                    }
                }
                // Stands for a device.
                _ if stat.st_size == 0 => return Ok(()),
                _ => {}
            }
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut body = (&file).take(size);
        self.put(path, was, Kind::File { size, extents: &[] }, &meta, &attributes, &stat, Some(&mut body))?;
        let after = rustix::fs::fstat(&file).or_vanished(|| self.here("stat", name))?;
        if ctime(&after) != ctime(&stat) || after.st_size != stat.st_size {
            self.note("changed while it was read", name);
        }
        Ok(())
    }

    /// Says what `path` is; a further name of what was said already is a hard link.
    #[allow(clippy::too_many_arguments, reason = "what a file is")]
    fn put(
        &mut self,
        path: Vec<u8>,
        was: Was,
        kind: Kind<'_>,
        meta: &Meta,
        attributes: &Attributes,
        stat: &Stat,
        body: Option<&mut dyn Read>,
    ) -> Result<()> {
        self.flush()?;
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.firsts.get(&inode) {
                return self.sink.put(&path, was, Kind::Hardlink(first), meta, &Attributes::new(), None);
            }
            self.firsts.insert(inode, path.clone());
        }
        self.sink.put(&path, was, kind, meta, attributes, body)
    }

    /// True for where the runtime mounts something: what is empty there was made to be mounted on.
    fn is_destination(&self, path: &[u8]) -> bool {
        self.destinations.contains(path)
    }

    /// What the image says of a file with this status: seconds only, as all who read layers expect.
    fn meta(&self, stat: &Stat, attributes: &Attributes) -> Result<Meta> {
        let recorded = attributes.iter().find(|(name, _)| name == ROOTLESS_XATTR.as_bytes()).map(|(_, value)| &**value);
        let owner = self.options.owners.in_image(stat.st_uid, stat.st_gid, recorded);
        let (uid, gid) = owner.map_err(|e| e.context(format!("\"{}\"", self.path.escape_ascii())))?;
        let sec = self.options.epoch.map_or(stat.st_mtime, |epoch| epoch.min(stat.st_mtime));
        Ok(Meta { mode: (stat.st_mode & 0o7777) as u16, uid, gid, mtime: Time { sec, nsec: 0 } })
    }

    /// True if the file has not been touched since the bundle was made, as far as its status alone can tell: a change of
    /// whatever kind sets the ctime, which nobody can set back.
    fn is_untouched(&self, node: &Node<'_>, stat: &Stat) -> bool {
        let What::Whole { created: Some(created), .. } = self.what else { return false };
        if ctime(stat) >= created || !is_status(node, stat) {
            return false;
        }
        let owners = &self.options.owners;
        let owner = owners.on_disk(node.meta.uid, node.meta.gid).ok().flatten();
        let is_owner = owner.is_none_or(|owner| owner == (stat.st_uid, stat.st_gid));
        let size = match node.content {
            Content::File { size, .. } => size,
            // An empty file stands for it.
            Content::Char { .. } | Content::Block { .. } if *owners != Owners::Keep => 0,
            _ => return false,
        };
        is_owner && u64::try_from(stat.st_size) == Ok(size)
    }

    /// True if all but the content is as the image has it.
    fn is_like(&self, node: &Node<'_>, stat: &Stat, meta: &Meta, attributes: &Attributes) -> bool {
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let size = match node.content {
            Content::File { size, .. } => regular.then_some(size),
            Content::Char { .. } | Content::Block { .. } if regular && self.options.owners != Owners::Keep => Some(0),
            Content::Directory => None,
            _ => (!regular).then_some(u64::try_from(stat.st_size).unwrap_or(0)),
        };
        size == u64::try_from(stat.st_size).ok()
            && is_status(node, stat)
            && is_owner(node, meta)
            && has(node, attributes)
    }

    /// What overlayfs has noted at a file or directory.
    fn overlays<'x>(&self, attributes: &'x Attributes, name: &str) -> Option<&'x [u8]> {
        if !matches!(self.what, What::Upper) {
            return None;
        }
        let prefix: &[u8] = match self.options.overlay {
            OverlayAttributes::Trusted => b"trusted.overlay.",
            OverlayAttributes::User => b"user.overlay.",
        };
        let found = attributes.iter().find(|(key, _)| key.strip_prefix(prefix) == Some(name.as_bytes()));
        found.map(|(_, value)| &**value)
    }

    fn is_opaque(&self, attributes: &Attributes) -> Result<bool> {
        if self.overlays(attributes, "redirect").is_some() {
            let why = "was moved by an overlay mount with redirect_dir, which its upper directory alone doesn't tell";
            return Err(Error::unsupported(format!("\"{}\": {why}", self.path.escape_ascii())));
        }
        // The value "x" only says that there may be whiteouts that are attributes.
        Ok(self.overlays(attributes, "opaque") == Some(b"y"))
    }

    fn is_removed(&self, name: &[u8], stat: &Stat, attributes: &Attributes) -> Result<bool> {
        if self.overlays(attributes, "metacopy").is_some() {
            let why = "has its content in a lower layer, because of the option metacopy";
            return Err(Error::unsupported(format!("\"{}\": {why}", joined(&self.path, name).escape_ascii())));
        }
        Ok(stat.st_size == 0 && self.overlays(attributes, "whiteout").is_some())
    }
}

/// Why nothing was said of a name.
enum Failed {
    /// It is not there any more, or is something else.
    Vanished,
    Error(Error),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

trait OrVanished<T> {
    fn or_vanished(self, what: impl FnOnce() -> String) -> std::result::Result<T, Failed>;
}

impl<T> OrVanished<T> for std::result::Result<T, Errno> {
    fn or_vanished(self, what: impl FnOnce() -> String) -> std::result::Result<T, Failed> {
        match self {
            Err(Errno::NOENT | Errno::STALE) => Err(Failed::Vanished),
            other => Ok(other.at(what)?),
        }
    }
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.is_empty() || name.is_empty() { b"" } else { b"/" };
    [path, slash, name].concat()
}

fn ctime(stat: &Stat) -> Time {
    Time { sec: stat.st_ctime, nsec: u32::try_from(stat.st_ctime_nsec).unwrap_or(0) }
}

/// The attributes that belong into an image.
fn kept(mut attributes: Attributes, plain: bool) -> Attributes {
    attributes.retain(|(name, _)| policy(name, plain) == Policy::Keep);
    attributes
}

/// True if mode, time and number of names are as the image has them. A file system that has no fractions of seconds is
/// believed.
fn is_status(node: &Node<'_>, stat: &Stat) -> bool {
    let time = node.meta.mtime;
    let is_link = matches!(node.content, Content::Symlink(_));
    let nsec = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    (is_link || stat.st_mode & 0o7777 == u32::from(node.meta.mode))
        && stat.st_mtime == time.sec
        && (nsec == time.nsec || nsec == 0)
        && (node.is_directory() || u128::from(stat.st_nlink) == node.links.into())
}

fn is_owner(node: &Node<'_>, meta: &Meta) -> bool {
    (node.meta.uid, node.meta.gid) == (meta.uid, meta.gid)
}

/// True if the attributes are those of the image.
fn has(node: &Node<'_>, attributes: &Attributes) -> bool {
    let plain = matches!(node.content, Content::Directory | Content::File { .. });
    let wanted = node.xattrs().filter(|(name, _)| policy(name, plain) == Policy::Keep);
    wanted.eq(attributes.iter().map(|(name, value)| (&**name, &**value)))
}

fn differs(node: &Node<'_>, stat: &Stat, meta: &Meta, attributes: &Attributes) -> Differs {
    if stat.st_mode & 0o7777 != u32::from(node.meta.mode) || !is_owner(node, meta) || !has(node, attributes) {
        Differs::Yes
    } else if is_status(node, stat) {
        Differs::No
    } else {
        Differs::Time
    }
}

fn is_kind(node: &Node<'_>, kind: Kind<'_>) -> bool {
    match (node.content, kind) {
        (Content::Symlink(a), Kind::Symlink(b)) => a == b,
        (Content::Fifo, Kind::Fifo) => true,
        (Content::Char { major, minor }, Kind::Char { major: a, minor: b }) => (major, minor) == (a, b),
        (Content::Block { major, minor }, Kind::Block { major: a, minor: b }) => (major, minor) == (a, b),
        _ => false,
    }
}

/// True if a file of `size` bytes has the content that the extents have in the tar, and zeros elsewhere.
fn same_content(file: &File, tar: &File, extents: &[Extent], size: i64) -> std::io::Result<bool> {
    let size = u64::try_from(size).unwrap_or(0);
    let (mut ours, mut theirs) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    let mut at = 0;
    let end = Extent { at: size, len: 0, from: 0 };
    for extent in extents.iter().chain([&end]) {
        for (tar, until) in [(None, extent.at), (Some(tar), extent.at.saturating_add(extent.len))] {
            while at < until {
                let n = usize::try_from(until - at).unwrap_or(usize::MAX).min(ours.len());
                let (Some(ours), Some(theirs)) = (ours.get_mut(..n), theirs.get_mut(..n)) else { return Ok(false) };
                match tar {
                    Some(tar) => tar.read_exact_at(theirs, extent.from.saturating_add(at - extent.at))?,
                    None => theirs.fill(0),
                }
                match file.read_exact_at(ours, at) {
                    Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
                    other => other?,
                }
                if ours != theirs {
                    return Ok(false);
                }
                at += n as u64;
            }
        }
    }
    Ok(true)
}
