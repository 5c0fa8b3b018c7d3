//! The tree that an image's layers make together (layer.md, "Applying Changesets").
//!
//! Merging happens in memory, on tables alone: no name of a layer is ever resolved by a kernel, so links that lead
//! elsewhere, `..` and races have nothing to act upon. What a layer says is applied in two steps. First its whiteouts
//! and opaque marks, which hide what is below it wherever in the archive they stand; then the rest in the archive's
//! order, of which the last entry of a name counts.
//!
//! Where the specification leaves a choice:
//! * A parent that no entry makes is a directory 0755 of root with time 0, unless a layer below has it as a directory,
//!   which it then stays.
//! * What is not a directory gives way if a later name leads through it. That is so for symbolic links too: `etc/x`
//!   beside `etc -> /elsewhere` makes a directory `etc`, as overlay file systems show a layer that was unpacked alone.
//! * A hard link is to what has its target's name at that point of the archive, in this layer or below; if nothing has
//!   it yet, to what has it when the layer ends.
//! * A whiteout makes no parents; an opaque mark makes its directory.
//! * A character device 0:0 is an error: an overlay file system takes it for a whiteout.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use hashbrown::HashTable;

use crate::error::{Error, Result};
use crate::layer::name::split;
use crate::layer::{Entry, Extent, Kind, Layer, Meta, Time, Xattrs};

/// The most names that a tree may have, counting those that a later entry removed. A bound on memory: 1 GiB.
const MAX_NAMES: usize = 1 << 24;

/// No inode, no name, no layer.
const NONE: u32 = u32::MAX;

/// The root of what is being merged, and of a tree.
const ROOT: u32 = 0;

/// What a directory has that no entry describes.
const IMPLICIT: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: Time { sec: 0, nsec: 0 } };

/// A merged tree; see the [module](self). It borrows names, attributes and extents from the layers' tables.
///
/// Inodes are numbered from 0, the root. The children of a directory have consecutive numbers, in the order of their
/// names, but for those that have an earlier name elsewhere; below them come the children of its first directory.
#[derive(Debug)]
pub struct Tree<'a> {
    layers: &'a [Layer],
    inodes: Vec<Inode>,
    names: Vec<Name<'a>>,
}

/// An inode of the tree.
#[derive(Debug, Clone, Copy)]
struct Inode {
    /// The layer and the entry that describe it; [`NONE`] for an implicit directory.
    layer: u32,
    entry: u32,
    links: u32,
    /// A directory's names.
    first: u32,
    count: u32,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
struct Name<'a> {
    name: &'a [u8],
    inode: u32,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// A directory; its names are those of [`Tree::children`].
    Directory,
    /// A regular file.
    File {
        /// The number of the layer that has the bytes.
        layer: usize,
        /// Bytes, with holes.
        size: u64,
        /// Where they are in that layer's tar.
        extents: &'a [Extent],
    },
    /// A symbolic link and its target.
    Symlink(&'a [u8]),
    /// A character device.
    Char {
        /// Its number.
        major: u32,
        /// Its number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Its number.
        major: u32,
        /// Its number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
}

/// An inode: all that its names share.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// Its number in the tree; 0 is the root.
    pub number: u32,
    /// How many names it has; for a directory two and the number of directories in it.
    pub links: u32,
    /// Mode, owner and time.
    pub meta: Meta,
    /// What it is.
    pub content: Content<'a>,
    /// The entry that describes it, by layer and number; `None` for a directory that no entry describes.
    pub entry: Option<(usize, usize)>,
    xattrs: Xattrs<'a>,
}

impl<'a> Node<'a> {
    /// True for directories.
    pub fn is_directory(&self) -> bool {
        self.content == Content::Directory
    }

    /// Names and values of the extended attributes, in the order of the names.
    pub fn xattrs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.xattrs.iter()
    }
}

impl<'a> Tree<'a> {
    /// Merges `layers`, the lowest first.
    ///
    /// Errors name the layer by its number, from 0, and the entry: a hard link whose target is missing, a directory or
    /// the link itself, a root that is not a directory, a character device 0:0. Time and memory are linear in the size
    /// of the tables (with a logarithm for sorting), whatever they say.
    pub fn merge(layers: &'a [Layer]) -> Result<Self> {
        let mut merge = Merge::new(layers)?;
        for number in 0..merge.layers.len() {
            merge.apply(number)?;
        }
        Ok(merge.finish())
    }

    /// How many inodes there are.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Never: there is always a root.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// How many names there are, without the root's.
    pub fn names(&self) -> usize {
        self.names.len()
    }

    /// The layers that were merged.
    pub fn layers(&self) -> &'a [Layer] {
        self.layers
    }

    /// All inodes, in the order of their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'a>> + '_ {
        self.inodes.iter().zip(0..).map(|(inode, number)| self.describe(number, inode))
    }

    /// The root directory.
    pub fn root(&self) -> Node<'a> {
        self.node(ROOT)
    }

    /// The names in a directory, in the order of their bytes, and the number of what has each; nothing for what is not a
    /// directory.
    pub fn children(&self, number: u32) -> impl ExactSizeIterator<Item = (&'a [u8], u32)> + Clone + '_ {
        self.list(number).iter().map(|name| (name.name, name.inode))
    }

    /// The inode with this number, which the tree gave: an other number is the root's.
    pub fn node(&self, number: u32) -> Node<'a> {
        let root = Inode { layer: NONE, entry: NONE, links: 2, first: 0, count: 0 };
        match self.inodes.get(number as usize) {
            Some(inode) => self.describe(number, inode),
            None => self.describe(ROOT, self.inodes.first().unwrap_or(&root)),
        }
    }

    /// What is in `directory` by this name.
    pub fn child(&self, directory: u32, name: &[u8]) -> Option<u32> {
        let list = self.list(directory);
        let at = list.binary_search_by(|probe| probe.name.cmp(name)).ok()?;
        list.get(at).map(|name| name.inode)
    }

    /// What has this path: clean names with slashes between them, the empty path for the root. Symbolic links are not
    /// followed.
    pub fn find(&self, path: &[u8]) -> Option<Node<'a>> {
        let mut at = ROOT;
        for name in components(path) {
            at = self.child(at, name)?;
        }
        Some(self.node(at))
    }

    fn list(&self, directory: u32) -> &[Name<'a>] {
        let Some(inode) = self.inodes.get(directory as usize) else { return &[] };
        let (first, count) = (inode.first as usize, inode.count as usize);
        self.names.get(first..first + count).unwrap_or_default()
    }

    fn describe(&self, number: u32, inode: &Inode) -> Node<'a> {
        let entry = self.layers.get(inode.layer as usize).and_then(|layer| layer.get(inode.entry as usize));
        let (meta, xattrs, content) = match entry {
            None => (IMPLICIT, Xattrs::EMPTY, Content::Directory),
            Some(entry) => (entry.meta, entry.xattrs, content(&entry, inode.layer as usize)),
        };
        let entry = entry.map(|_| (inode.layer as usize, inode.entry as usize));
        Node { number, links: inode.links, meta, content, entry, xattrs }
    }
}

/// What an entry that made an inode describes.
fn content<'a>(entry: &Entry<'a>, layer: usize) -> Content<'a> {
    match entry.kind {
        Kind::File { size, extents } => Content::File { layer, size, extents },
        Kind::Symlink(target) => Content::Symlink(target),
        Kind::Char { major, minor } => Content::Char { major, minor },
        Kind::Block { major, minor } => Content::Block { major, minor },
        Kind::Fifo => Content::Fifo,
        // The other kinds make no inode of their own.
        Kind::Directory | Kind::Hardlink(_) | Kind::Whiteout | Kind::Opaque => Content::Directory,
    }
}

/// The names of a path; none for the root.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

/// A tree in the making.
struct Merge<'a> {
    layers: &'a [Layer],
    slots: Vec<Slot>,
    /// Slots that are no inode any more. A directory's is not used again: names that it once had still mention it.
    free: Vec<u32>,
    names: Vec<Link<'a>>,
    /// Finds a name by its directory and its bytes.
    table: HashTable<u32>,
    hasher: RandomState,
    /// The directories on the way to the last parent that was looked up, and where in its path each one's name ends.
    way: Vec<(usize, u32)>,
    way_path: &'a [u8],
    /// Names of this layer that are hard links to nothing yet.
    pending: Vec<u32>,
}

/// An inode, or what was one.
#[derive(Debug, Clone, Copy)]
struct Slot {
    layer: u32,
    entry: u32,
    links: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A directory, and the last name that was put into it.
    Directory { last: u32 },
    /// Anything else that is whole.
    Other,
    /// A hard link to nothing yet.
    Pending,
    /// The same, on the way to its target at the moment.
    Seeking,
    /// The same, and what it turned out to be.
    Found(u32),
}

/// A name that a directory has or had.
#[derive(Debug, Clone, Copy)]
struct Link<'a> {
    name: &'a [u8],
    directory: u32,
    /// What has the name; [`NONE`] if nothing has.
    inode: u32,
    /// The name that was put into the directory before; [`NONE`] for the first, [`UNLISTED`] if it isn't in the list.
    previous: u32,
}

/// A name that must be put into its directory's list when something has it again.
const UNLISTED: u32 = u32::MAX - 1;

impl<'a> Merge<'a> {
    fn new(layers: &'a [Layer]) -> Result<Self> {
        if layers.len() >= NONE as usize || layers.iter().any(|layer| layer.len() >= NONE as usize) {
            return Err(Error::unsupported("an image with 2^32 layers or entries"));
        }
        let mut merge = Self {
            layers,
            slots: Vec::new(),
            free: Vec::new(),
            names: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            way: vec![(0, ROOT)],
            way_path: &[],
            pending: Vec::new(),
        };
        merge.new_slot(NONE, NONE, State::Directory { last: NONE });
        Ok(merge)
    }

    /// Puts the layer with this number on top.
    fn apply(&mut self, number: usize) -> Result<()> {
        let Some(layer) = self.layers.get(number) else { return Ok(()) };
        // Nothing is below the first.
        if number > 0 {
            for entry in layer.entries() {
                match entry.kind {
                    Kind::Whiteout => self.hide(entry.path),
                    Kind::Opaque => self.hide_children(entry.path),
                    _ => {}
                }
            }
        }
        for (entry, at) in layer.entries().zip(0..) {
            self.add(number as u32, at, &entry).map_err(|e| named(e, number, entry.path))?;
        }
        self.settle()
    }

    /// Removes a name, and with a directory everything in it.
    fn hide(&mut self, path: &'a [u8]) {
        if let Some(name) = self.lookup(path) {
            self.vacate(name);
        }
    }

    /// Empties a directory, if that has the name.
    fn hide_children(&mut self, path: &'a [u8]) {
        let inode = if path.is_empty() { Some(ROOT) } else { self.lookup(path).map(|name| self.inode_of(name)) };
        if let Some(inode) = inode.filter(|inode| self.is_directory(*inode)) {
            self.empty(inode);
        }
    }

    fn add(&mut self, layer: u32, at: u32, entry: &Entry<'a>) -> Result<()> {
        let path = entry.path;
        if path.is_empty() {
            return match entry.kind {
                Kind::Directory => {
                    self.describe(ROOT, layer, at);
                    Ok(())
                }
                Kind::Opaque => Ok(()),
                _ => Err(Error::invalid("the root is not a directory")),
            };
        }
        match entry.kind {
            Kind::Whiteout => Ok(()),
            Kind::Opaque => {
                let name = self.name(path)?;
                if !self.is_directory(self.inode_of(name)) {
                    self.put_directory(name, NONE, NONE);
                }
                Ok(())
            }
            Kind::Directory => {
                let name = self.name(path)?;
                let inode = self.inode_of(name);
                if self.is_directory(inode) {
                    self.describe(inode, layer, at);
                } else {
                    self.put_directory(name, layer, at);
                }
                Ok(())
            }
            Kind::Hardlink(target) => self.link(layer, at, path, target),
            Kind::Char { major: 0, minor: 0 } => {
                Err(Error::invalid("character device 0:0, which an overlay file system takes for a whiteout"))
            }
            Kind::File { .. } | Kind::Symlink(_) | Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo => {
                let name = self.name(path)?;
                self.vacate(name);
                let inode = self.new_slot(layer, at, State::Other);
                self.occupy(name, inode);
                Ok(())
            }
        }
    }

    fn link(&mut self, layer: u32, at: u32, path: &'a [u8], target: &'a [u8]) -> Result<()> {
        if path == target {
            return Err(Error::invalid("hard link to itself"));
        }
        let found = self.lookup(target).map(|name| self.inode_of(name)).filter(|inode| !self.is_directory(*inode));
        let inode = match found {
            Some(inode) => inode,
            None => self.new_slot(layer, at, State::Pending),
        };
        // Held before the name is made: that may remove the target's own name, which lies above or below.
        self.hold(inode);
        let name = self.name(path)?;
        self.vacate(name);
        self.occupy(name, inode);
        self.release(inode);
        if self.state(inode) == State::Pending {
            self.pending.push(name);
        }
        Ok(())
    }

    /// Finds the targets of the links that had none when they came.
    fn settle(&mut self) -> Result<()> {
        for name in std::mem::take(&mut self.pending) {
            let from = self.inode_of(name);
            if from == NONE || matches!(self.state(from), State::Other | State::Directory { .. }) {
                // Replaced or removed since.
                continue;
            }
            let to = self.seek(from)?;
            self.hold(to);
            self.occupy(name, to);
            self.release(to);
            self.release(from);
        }
        Ok(())
    }

    /// What a pending link leads to, by way of other links.
    fn seek(&mut self, from: u32) -> Result<u32> {
        let (mut chain, mut at) = (Vec::new(), from);
        let found = loop {
            match self.state(at) {
                State::Found(found) => break Ok(found),
                State::Other => break Ok(at),
                State::Directory { .. } => break Err("a directory"),
                State::Seeking => break Err("a link to this link"),
                State::Pending => {}
            }
            self.set_state(at, State::Seeking);
            chain.push(at);
            let next = self.target(at).and_then(|target| self.lookup(target));
            let Some(next) = next else { break Err("missing") };
            at = self.inode_of(next);
        };
        let found = found.map_err(|why| {
            let last = chain.last().copied().unwrap_or(from);
            let target = self.target(last).unwrap_or_default().escape_ascii();
            let (layer, path) = self.described_by(last);
            named(Error::invalid(format!("hard link to \"{target}\", which is {why}")), layer, path)
        })?;
        for inode in chain {
            self.set_state(inode, State::Found(found));
        }
        Ok(found)
    }

    /// The target of a link, as its entry has it.
    fn target(&self, inode: u32) -> Option<&'a [u8]> {
        let slot = self.slots.get(inode as usize)?;
        match self.layers.get(slot.layer as usize)?.get(slot.entry as usize)?.kind {
            Kind::Hardlink(target) => Some(target),
            _ => None,
        }
    }

    /// The layer and the path of the entry that made an inode.
    fn described_by(&self, inode: u32) -> (usize, &'a [u8]) {
        let Some(slot) = self.slots.get(inode as usize) else { return (0, &[]) };
        let layer = slot.layer as usize;
        let entry = self.layers.get(layer).and_then(|layer| layer.get(slot.entry as usize));
        (layer, entry.map(|entry| entry.path).unwrap_or_default())
    }

    /// The name that `path` leads to, if something has it.
    fn lookup(&mut self, path: &'a [u8]) -> Option<u32> {
        let (parent, name) = split(path);
        let directory = self.walk(parent)?;
        self.named_in(directory, name).filter(|name| self.inode_of(*name) != NONE)
    }

    /// The name that `path` leads to, made with its parents if need be.
    fn name(&mut self, path: &'a [u8]) -> Result<u32> {
        let (parent, name) = split(path);
        if self.walk(parent).is_none() {
            self.make_way(parent)?;
        }
        let directory = self.way.last().map_or(ROOT, |(_, directory)| *directory);
        self.intern(directory, name)
    }

    /// The directory `path`. Starts where the last walk and this one part, so that a directory's files, which follow each
    /// other in most archives, cost one look each.
    fn walk(&mut self, path: &'a [u8]) -> Option<u32> {
        let common = path.iter().zip(self.way_path).take_while(|(a, b)| a == b).count();
        while let Some((end, _)) = self.way.last() {
            let whole = *end == 0 || (*end <= common && path.get(*end).is_none_or(|&byte| byte == b'/'));
            if whole {
                break;
            }
            self.way.pop();
        }
        self.way_path = path;
        let (mut end, mut directory) = self.way.last().copied().unwrap_or((0, ROOT));
        for name in components(path.get(end..).unwrap_or_default()) {
            let inode = self.named_in(directory, name).map_or(NONE, |name| self.inode_of(name));
            if !self.is_directory(inode) {
                return None;
            }
            end += name.len() + usize::from(end > 0);
            directory = inode;
            self.way.push((end, directory));
        }
        Some(directory)
    }

    /// Makes the directories from where the walk to `path` ended.
    fn make_way(&mut self, path: &'a [u8]) -> Result<()> {
        let (mut end, mut directory) = self.way.last().copied().unwrap_or((0, ROOT));
        for name in components(path.get(end..).unwrap_or_default()) {
            let link = self.intern(directory, name)?;
            directory = self.put_directory(link, NONE, NONE);
            end += name.len() + usize::from(end > 0);
            self.way.push((end, directory));
        }
        Ok(())
    }

    /// Puts a new directory in the place of whatever has the name.
    fn put_directory(&mut self, name: u32, layer: u32, entry: u32) -> u32 {
        self.vacate(name);
        let inode = self.new_slot(layer, entry, State::Directory { last: NONE });
        self.occupy(name, inode);
        inode
    }

    fn hash(&self, directory: u32, name: &[u8]) -> u64 {
        self.hasher.hash_one((directory, name))
    }

    fn named_in(&self, directory: u32, name: &[u8]) -> Option<u32> {
        let same = |at: &u32| {
            self.names.get(*at as usize).is_some_and(|link| link.directory == directory && link.name == name)
        };
        self.table.find(self.hash(directory, name), same).copied()
    }

    fn intern(&mut self, directory: u32, name: &'a [u8]) -> Result<u32> {
        if let Some(at) = self.named_in(directory, name) {
            return Ok(at);
        }
        let at = u32::try_from(self.names.len()).unwrap_or(NONE);
        if self.names.len() >= MAX_NAMES {
            return Err(Error::unsupported(format!("more than {MAX_NAMES} names in an image")));
        }
        self.names.push(Link { name, directory, inode: NONE, previous: UNLISTED });
        let (names, hasher) = (&self.names, &self.hasher);
        let rehash = |at: &u32| names.get(*at as usize).map_or(0, |link| hasher.hash_one((link.directory, link.name)));
        self.table.insert_unique(hasher.hash_one((directory, name)), at, rehash);
        Ok(at)
    }

    /// Gives a name to an inode; nothing else has it, or that goes on without it.
    fn occupy(&mut self, name: u32, inode: u32) {
        self.hold(inode);
        let Some(link) = self.names.get_mut(name as usize) else { return };
        link.inode = inode;
        if link.previous == UNLISTED
            && let Some(Slot { state: State::Directory { last }, .. }) = self.slots.get_mut(link.directory as usize)
        {
            link.previous = *last;
            *last = name;
        }
    }

    /// Takes a name from what has it.
    fn vacate(&mut self, name: u32) {
        let Some(link) = self.names.get_mut(name as usize) else { return };
        let inode = std::mem::replace(&mut link.inode, NONE);
        if self.is_directory(inode) {
            self.empty(inode);
        }
        self.release(inode);
    }

    /// Takes all names from a directory, and from the directories in it. Each name is paid for when it is put in: a
    /// directory that was emptied costs nothing to empty again.
    fn empty(&mut self, directory: u32) {
        self.way.truncate(1);
        self.way_path = &[];
        let mut directories = vec![directory];
        while let Some(directory) = directories.pop() {
            let Some(Slot { state: State::Directory { last }, .. }) = self.slots.get_mut(directory as usize) else {
                continue;
            };
            let mut name = std::mem::replace(last, NONE);
            while let Some(link) = self.names.get_mut(name as usize) {
                name = std::mem::replace(&mut link.previous, UNLISTED);
                let inode = std::mem::replace(&mut link.inode, NONE);
                if self.is_directory(inode) {
                    directories.push(inode);
                }
                self.release(inode);
            }
        }
    }

    fn new_slot(&mut self, layer: u32, entry: u32, state: State) -> u32 {
        let slot = Slot { layer, entry, links: 0, state };
        if let Some(at) = self.free.pop()
            && let Some(free) = self.slots.get_mut(at as usize)
        {
            *free = slot;
            return at;
        }
        self.slots.push(slot);
        // There are never more inodes than names, and of those not 2^32.
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    /// Says which entry describes an inode from now on.
    fn describe(&mut self, inode: u32, layer: u32, entry: u32) {
        if let Some(slot) = self.slots.get_mut(inode as usize) {
            (slot.layer, slot.entry) = (layer, entry);
        }
    }

    fn hold(&mut self, inode: u32) {
        if let Some(slot) = self.slots.get_mut(inode as usize) {
            slot.links += 1;
        }
    }

    fn release(&mut self, inode: u32) {
        if let Some(slot) = self.slots.get_mut(inode as usize) {
            slot.links -= 1;
            if slot.links == 0 && !matches!(slot.state, State::Directory { .. }) {
                self.free.push(inode);
            }
        }
    }

    fn inode_of(&self, name: u32) -> u32 {
        self.names.get(name as usize).map_or(NONE, |link| link.inode)
    }

    fn state(&self, inode: u32) -> State {
        self.slots.get(inode as usize).map_or(State::Other, |slot| slot.state)
    }

    fn set_state(&mut self, inode: u32, state: State) {
        if let Some(slot) = self.slots.get_mut(inode as usize) {
            slot.state = state;
        }
    }

    fn is_directory(&self, inode: u32) -> bool {
        matches!(self.state(inode), State::Directory { .. })
    }

    /// Numbers what is left in the order of the directories.
    fn finish(self) -> Tree<'a> {
        let Self { layers, slots, names: links, table, .. } = self;
        drop(table);
        let mut inodes = Vec::with_capacity(slots.len());
        let mut names = Vec::with_capacity(links.len());
        let mut numbers = vec![NONE; slots.len()];
        let mut number = |at: u32, inodes: &mut Vec<Inode>| {
            let (Some(number), Some(slot)) = (numbers.get_mut(at as usize), slots.get(at as usize)) else {
                return ROOT;
            };
            if *number == NONE {
                *number = inodes.len() as u32;
                let links = if matches!(slot.state, State::Directory { .. }) { 2 } else { slot.links };
                inodes.push(Inode { layer: slot.layer, entry: slot.entry, links, first: 0, count: 0 });
            }
            *number
        };
        number(ROOT, &mut inodes);
        let mut directories = vec![(ROOT, ROOT)];
        while let Some((directory, at)) = directories.pop() {
            let Some(Slot { state: State::Directory { last }, .. }) = slots.get(directory as usize) else { continue };
            let first = names.len();
            let mut name = *last;
            while let Some(link) = links.get(name as usize) {
                if link.inode != NONE {
                    names.push(Name { name: link.name, inode: link.inode });
                }
                name = link.previous;
            }
            let list = names.get_mut(first..).unwrap_or_default();
            list.sort_unstable_by_key(|name| name.name);
            let below = directories.len();
            for name in list.iter_mut() {
                let slot = name.inode;
                name.inode = number(slot, &mut inodes);
                if matches!(slots.get(slot as usize), Some(Slot { state: State::Directory { .. }, .. })) {
                    directories.push((slot, name.inode));
                }
            }
            if let (Some(inode), Some(found)) = (inodes.get_mut(at as usize), directories.get_mut(below..)) {
                (inode.first, inode.count) = (first as u32, list.len() as u32);
                inode.links += found.len() as u32;
                found.reverse();
            }
        }
        names.shrink_to_fit();
        inodes.shrink_to_fit();
        Tree { layers, inodes, names }
    }
}

/// Puts the layer and the entry in front.
fn named(e: Error, layer: usize, path: &[u8]) -> Error {
    e.context(format!("layer {layer}: \"{}\"", path.escape_ascii()))
}

#[cfg(test)]
mod tests;
