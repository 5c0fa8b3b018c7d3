//! Writes a merged tree as an EROFS image whose files lie in the layers' tars.
//!
//! The image has the superblock, a table with a device for each layer's tar, and then the inodes directory by directory:
//! the blocks of a directory are followed by the inodes of what is in it, so that reading a directory and looking at its
//! files goes through the image in one direction. A file's inode has the place of its content in a tar. Names that fit
//! behind their directory's inode, and the targets of symbolic links, are kept there.
//!
//! The same tree always makes the same bytes.

mod chunks;
mod format;

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use crate::error::{At, Error, Result};
use crate::layer::Extent;
use crate::tree::{Content, Node, Tree};
use chunks::{Chunk, Plan};
use format::{BLOCK, Data, INODE, INODE_UNIT, Inode, SUPER_AT, Super, Type};

/// The most that the pieces of sparse files may take in an image, in bytes: indexes, and content that a tar has
/// elsewhere than at multiples of 512.
const MAX_SPARSE: u64 = 256 << 20;

/// The most layers: the root's inode follows the table of devices, and its place has 16 bits.
pub const MAX_LAYERS: usize = 16_000;

/// Writes `tree` to `out`, which is at its start. `tars` are those of the tree's layers, in their order; they are read
/// only where a sparse file's content does not lie at multiples of 512.
///
/// [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported) for what the format cannot hold: a tar of 2 TiB or more,
/// more than [`MAX_LAYERS`] layers, a device number beyond 12 and 20 bits, attributes of more than 256 KiB at a file or a
/// value of more than 65535 bytes, sparse files in more pieces than fit into 256 MiB.
pub fn write<W: Write + Seek>(tree: &Tree<'_>, tars: &[File], out: &mut W) -> Result<()> {
    if tars.len() != tree.layers().len() {
        return Err(Error::invalid(format!("{} tars for {} layers", tars.len(), tree.layers().len())));
    }
    if tars.len() > MAX_LAYERS {
        return Err(Error::unsupported(format!("more than {MAX_LAYERS} layers")));
    }
    let places = vec![Place::default(); tree.len()];
    let mut image = Image { tree, tars, places, at: 0, sparse: 0, blocks: 0, out: None, head: Vec::new() };
    // Once to find each inode's place, once to write.
    image.run()?;
    let blocks = u32::try_from(image.at.div_ceil(BLOCK)).map_err(|_| Error::unsupported("an image of 2 TiB"))?;
    image = Image { at: 0, sparse: 0, blocks, out: Some(BufWriter::with_capacity(256 << 10, out)), ..image };
    image.run()?;
    image.finish()
}

/// Where an inode is, in [`INODE_UNIT`]s, and the first block of a directory's entries.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    inode: u32,
    block: u32,
}

/// An image in the making. All that writes goes through [`Image::put`]; without `out` it only counts.
struct Image<'t, 'a, W: Write> {
    tree: &'t Tree<'a>,
    tars: &'t [File],
    places: Vec<Place>,
    at: u64,
    /// What the pieces of sparse files took so far.
    sparse: u64,
    /// The length of the whole.
    blocks: u32,
    out: Option<BufWriter<W>>,
    /// The block that the superblock's checksum is about.
    head: Vec<u8>,
}

/// The entries of a directory, and which of them each of its blocks has.
struct Listing<'a> {
    entries: Vec<(&'a [u8], u64, Type)>,
    /// The number after the last entry of each block, and how many bytes it takes.
    blocks: Vec<(usize, u64)>,
}

impl<'a> Listing<'a> {
    /// The length of the directory in bytes.
    fn size(&self) -> u64 {
        let full = self.blocks.len().saturating_sub(1) as u64 * BLOCK;
        full + self.tail()
    }

    /// The length of the last block.
    fn tail(&self) -> u64 {
        self.blocks.last().map_or(0, |(_, length)| *length)
    }

    fn block(&self, number: usize) -> Vec<u8> {
        let start = number.checked_sub(1).and_then(|before| self.blocks.get(before)).map_or(0, |(end, _)| *end);
        let end = self.blocks.get(number).map_or(start, |(end, _)| *end);
        format::directory_block(self.entries.get(start..end).unwrap_or_default())
    }
}

impl<'a, W: Write + Seek> Image<'_, 'a, W> {
    fn run(&mut self) -> Result<()> {
        let root = self.tree.root();
        self.zeros(SUPER_AT)?;
        let place = self.places.first().map_or(0, |place| place.inode);
        let devices = self.tars.len() as u16;
        // Below 2^16 by MAX_LAYERS; in the first run it isn't known yet.
        let superblock = Super { root: place as u16, inodes: self.tree.len() as u64, blocks: self.blocks, devices };
        self.put(&superblock.bytes())?;
        for (number, layer) in self.tree.layers().iter().enumerate() {
            // The last block number stands for a hole.
            let blocks = u32::try_from(layer.tar_size.div_ceil(BLOCK)).ok().filter(|blocks| *blocks < format::HOLE);
            let blocks = blocks.ok_or_else(|| Error::unsupported(format!("layer {number}: a tar of 2 TiB")))?;
            self.put(&format::device_slot(blocks))?;
        }
        self.inode(&root, root.number)?;
        let (mut next, mut directories) = (root.number + 1, vec![(root.number, root.number)]);
        while let Some((directory, parent)) = directories.pop() {
            self.directory_blocks(directory, parent)?;
            let below = directories.len();
            for (_, child) in self.tree.children(directory) {
                // One with an earlier name elsewhere is there already.
                let node = self.tree.node(child);
                if child == next {
                    self.inode(&node, directory)?;
                    next += 1;
                }
                if node.is_directory() {
                    directories.push((child, directory));
                }
            }
            if let Some(found) = directories.get_mut(below..) {
                found.reverse();
            }
        }
        self.align(BLOCK)
    }

    /// Puts the checksum in, now that all is written.
    fn finish(self) -> Result<()> {
        let Some(out) = self.out else { return Ok(()) };
        let sum = format::checksum(&self.head).to_le_bytes();
        let out = out.into_inner().map_err(std::io::IntoInnerError::into_error);
        let mut out = out.at(|| "write image")?;
        out.seek(SeekFrom::Start(SUPER_AT + 4)).and_then(|_| out.write_all(&sum)).at(|| "write image")?;
        out.seek(SeekFrom::End(0)).and_then(|_| out.flush()).at(|| "write image")
    }

    /// Writes an inode with what follows it: attributes, and a last piece or the indexes of chunks.
    fn inode(&mut self, node: &Node<'a>, parent: u32) -> Result<()> {
        let fail = |what: String| self.named(node, Error::unsupported(what));
        let xattrs = format::xattrs(node.xattrs()).map_err(fail)?;
        let behind = INODE + xattrs.len() as u64;
        let block = self.places.get(node.number as usize).map_or(0, |place| place.block);
        let (kind, size, data, tail) = match node.content {
            Content::Directory => {
                let listing = self.listing(node.number, parent);
                let inline = fits(behind, listing.tail());
                let tail = if inline { listing.block(listing.blocks.len().saturating_sub(1)) } else { Vec::new() };
                (Type::Directory, listing.size(), if inline { Data::Inline(block) } else { Data::Blocks(block) }, tail)
            }
            Content::Symlink(target) => {
                let size = target.len() as u64;
                if fits(behind, size) {
                    (Type::Symlink, size, Data::Inline(0), target.to_vec())
                } else {
                    // The target's blocks follow the inode, which has no tail then and so no need to move.
                    let at = (self.start(behind, 0) + behind).div_ceil(BLOCK) as u32;
                    (Type::Symlink, size, Data::Blocks(at), Vec::new())
                }
            }
            Content::File { size: 0, .. } => (Type::Regular, 0, Data::Blocks(0), Vec::new()),
            Content::File { size, extents, .. } => {
                (Type::Regular, size, Data::Chunks(self.plan(node, size, extents)?.shift), Vec::new())
            }
            Content::Char { major, minor } => {
                (Type::Char, 0, Data::Device(self.device(node, major, minor)?), Vec::new())
            }
            Content::Block { major, minor } => {
                (Type::Block, 0, Data::Device(self.device(node, major, minor)?), Vec::new())
            }
            Content::Fifo => (Type::Fifo, 0, Data::Device(0), Vec::new()),
        };
        let start = self.start(behind, tail.len() as u64);
        self.zeros(start - self.at)?;
        if let Some(place) = self.places.get_mut(node.number as usize) {
            place.inode = u32::try_from(start / INODE_UNIT).map_err(|_| Error::unsupported("an image of 128 GiB"))?;
        }
        let xattrs_len = xattrs.len() as u64;
        let number = node.number + 1;
        let inode = Inode { kind, meta: node.meta, links: node.links, size, data, xattrs: xattrs_len, number };
        self.put(&inode.bytes())?;
        self.put(&xattrs)?;
        self.put(&tail)?;
        match node.content {
            Content::Symlink(target) if matches!(data, Data::Blocks(_)) => {
                self.align(BLOCK)?;
                self.put(target)
            }
            Content::File { size, extents, layer } if size > 0 => {
                self.chunks(layer, size, extents).map_err(|e| self.named(node, e))
            }
            _ => Ok(()),
        }
    }

    /// Where the next inode starts if `behind` bytes of it are followed by a tail, which may not cross a block's end.
    fn start(&self, behind: u64, tail: u64) -> u64 {
        let start = self.at.next_multiple_of(INODE_UNIT);
        match (start + behind) % BLOCK + tail {
            _ if tail == 0 => start,
            end if end <= BLOCK => start,
            _ => start.next_multiple_of(BLOCK),
        }
    }

    /// Writes the blocks of a directory, without the one that follows its inode.
    fn directory_blocks(&mut self, directory: u32, parent: u32) -> Result<()> {
        let listing = self.listing(directory, parent);
        let xattrs = format::xattrs(self.tree.node(directory).xattrs()).map_or(0, |xattrs| xattrs.len() as u64);
        let blocks = listing.blocks.len() - usize::from(fits(INODE + xattrs, listing.tail()));
        if blocks == 0 {
            return Ok(());
        }
        self.align(BLOCK)?;
        let block = u32::try_from(self.at / BLOCK).map_err(|_| Error::unsupported("an image of 2 TiB"))?;
        if let Some(place) = self.places.get_mut(directory as usize) {
            place.block = block;
        }
        for number in 0..blocks {
            self.put(&listing.block(number))?;
            self.align(BLOCK)?;
        }
        Ok(())
    }

    /// What a directory has, with itself and its parent, in the order of the bytes of the names.
    fn listing(&self, directory: u32, parent: u32) -> Listing<'a> {
        let nid = |number: u32| self.places.get(number as usize).map_or(0, |place| u64::from(place.inode));
        let mut entries = vec![(&b"."[..], nid(directory), Type::Directory), (b"..", nid(parent), Type::Directory)];
        entries.extend(self.tree.children(directory).map(|(name, child)| {
            let kind = match self.tree.node(child).content {
                Content::Directory => Type::Directory,
                Content::File { .. } => Type::Regular,
                Content::Symlink(_) => Type::Symlink,
                Content::Char { .. } => Type::Char,
                Content::Block { .. } => Type::Block,
                Content::Fifo => Type::Fifo,
            };
            (name, nid(child), kind)
        }));
        entries.sort_unstable_by_key(|(name, ..)| *name);
        let (mut blocks, mut used) = (Vec::new(), 0);
        for (number, (name, ..)) in entries.iter().enumerate() {
            let space = format::entry_space(name.len()) as u64;
            if used + space > BLOCK {
                blocks.push((number, used));
                used = 0;
            }
            used += space;
        }
        blocks.push((entries.len(), used));
        Listing { entries, blocks }
    }

    fn plan(&mut self, node: &Node<'_>, size: u64, extents: &[Extent]) -> Result<Plan> {
        if size > chunks::MAX_SIZE {
            return Err(self.named(node, Error::unsupported("a file of 8 EiB")));
        }
        let plan = Plan::new(size, extents);
        if plan.count > 1 {
            self.sparse = self.sparse.saturating_add(plan.cost());
        }
        if self.sparse > MAX_SPARSE {
            let what =
                format!("a sparse file in so many pieces that more than {} MiB are needed for them", MAX_SPARSE >> 20);
            return Err(self.named(node, Error::unsupported(what)));
        }
        Ok(plan)
    }

    /// Writes the indexes of a file's chunks, and then those that are copied.
    fn chunks(&mut self, layer: usize, size: u64, extents: &[Extent]) -> Result<()> {
        self.align(format::CHUNK_INDEX)?;
        let plan = Plan::new(size, extents);
        // Devices are counted from 1; 0 is the image.
        let device = layer as u16 + 1;
        let too_large = || Error::unsupported("content beyond 2 TiB");
        let mut copy = (self.at + plan.count * format::CHUNK_INDEX).div_ceil(BLOCK);
        for chunk in plan.chunks(size, extents) {
            let (device, block) = match chunk {
                Chunk::Hole => (0, u64::from(format::HOLE)),
                Chunk::Tar(block) => (device, block),
                Chunk::Copy(start, end) => {
                    let block = copy;
                    copy += (end - start).div_ceil(BLOCK);
                    (0, block)
                }
            };
            let block = u32::try_from(block).map_err(|_| too_large())?;
            if block == format::HOLE && chunk != Chunk::Hole {
                return Err(too_large());
            }
            self.put(&format::chunk_index(device, block))?;
        }
        if plan.copied == 0 {
            return Ok(());
        }
        let mut rest = extents;
        for chunk in plan.chunks(size, extents) {
            let Chunk::Copy(start, end) = chunk else { continue };
            self.align(BLOCK)?;
            while let Some((first, others)) = rest.split_first()
                && first.at + first.len <= start
            {
                rest = others;
            }
            let mut at = start;
            for extent in rest.iter().take_while(|extent| extent.at < end) {
                let (from, to) = (extent.at.max(start), (extent.at + extent.len).min(end));
                self.zeros(from - at)?;
                self.copy(layer, extent.from + (from - extent.at), to - from)?;
                at = to;
            }
            self.zeros(end - at)?;
        }
        self.align(BLOCK)
    }

    /// Copies bytes out of a tar.
    fn copy(&mut self, layer: usize, from: u64, len: u64) -> Result<()> {
        let (Some(tar), true) = (self.tars.get(layer), self.out.is_some()) else {
            self.at += len;
            return Ok(());
        };
        let mut buffer = vec![0; len.min(64 << 10) as usize];
        let mut done = 0;
        while done < len {
            let part = buffer.len().min((len - done) as usize);
            let part = buffer.get_mut(..part).unwrap_or_default();
            tar.read_exact_at(part, from + done).at(|| format!("read tar of layer {layer}"))?;
            done += part.len() as u64;
            self.put(part)?;
        }
        Ok(())
    }

    fn device(&self, node: &Node<'_>, major: u32, minor: u32) -> Result<u32> {
        let wrong = || Error::unsupported(format!("device number {major}:{minor}, beyond 4095:1048575"));
        format::device(major, minor).ok_or_else(|| self.named(node, wrong()))
    }

    /// Puts the layer and the entry in front.
    fn named(&self, node: &Node<'_>, e: Error) -> Error {
        let Some((number, entry)) = node.entry else { return e };
        let entry = self.tree.layers().get(number).and_then(|layer| layer.get(entry));
        e.context(format!("layer {number}: \"{}\"", entry.map(|entry| entry.path).unwrap_or_default().escape_ascii()))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(out) = &mut self.out {
            out.write_all(bytes).at(|| "write image")?;
            let head = SUPER_AT..SUPER_AT + BLOCK;
            if self.at < head.end && self.at + bytes.len() as u64 > head.start {
                let skipped = head.start.saturating_sub(self.at) as usize;
                let wanted = BLOCK as usize - self.head.len();
                self.head.extend(bytes.iter().skip(skipped).take(wanted));
            }
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, mut count: u64) -> Result<()> {
        const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        if self.out.is_none() {
            self.at += count;
            return Ok(());
        }
        while count > 0 {
            let part = ZEROS.get(..count.min(BLOCK) as usize).unwrap_or_default();
            self.put(part)?;
            count -= part.len() as u64;
        }
        Ok(())
    }

    fn align(&mut self, to: u64) -> Result<()> {
        self.zeros(self.at.next_multiple_of(to) - self.at)
    }
}

/// True if a tail of this length can follow an inode in a block.
fn fits(behind: u64, tail: u64) -> bool {
    behind + tail <= BLOCK
}
