//! The structures of EROFS on disk, as the kernel's `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst` have
//! them. All numbers are little-endian.

use crate::layer::Meta;

/// Blocks of 512 bytes, so that a tar's data, which starts at a multiple of that, is made of whole blocks.
pub(super) const BLOCK: u64 = 512;
pub(super) const BLOCK_BITS: u32 = 9;

/// Where the superblock is, and how long it is.
pub(super) const SUPER_AT: u64 = 1024;
pub(super) const SUPER_LEN: u64 = 128;

/// The length of a slot of the device table.
pub(super) const SLOT: u64 = 128;

/// The length of an extended inode.
pub(super) const INODE: u64 = 64;

/// Inodes are named by their place, in units of this many bytes.
pub(super) const INODE_UNIT: u64 = 32;

/// The length of a chunk's index.
pub(super) const CHUNK_INDEX: u64 = 8;

/// The address of a chunk that is a hole.
pub(super) const HOLE: u32 = u32::MAX;

/// The most that a chunk's size may be shifted by, from a block's.
pub(super) const MAX_CHUNK_SHIFT: u32 = 31;

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED_FILE: u32 = 4;
const INCOMPAT_DEVICE_TABLE: u32 = 8;

/// With chunk indexes, which name a device, and not block numbers alone.
const CHUNK_WITH_INDEXES: u32 = 0x20;

/// How an inode's data lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// None, or in whole blocks from this one.
    Blocks(u32),
    /// In whole blocks from this one, but for the last, which follows the inode.
    Inline(u32),
    /// In chunks of a block's size shifted so much, whose indexes follow the inode.
    Chunks(u32),
    /// The number of a device.
    Device(u32),
}

/// A type of file: its bits in a mode, and in a directory's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Regular,
    Directory,
    Char,
    Block,
    Fifo,
    Symlink,
}

impl Type {
    fn mode(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Char => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }

    fn entry(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::Char => 3,
            Self::Block => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }
}

/// What an inode says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode {
    pub(super) kind: Type,
    pub(super) meta: Meta,
    pub(super) links: u32,
    pub(super) size: u64,
    pub(super) data: Data,
    /// The length of what [`xattrs`] made.
    pub(super) xattrs: u64,
    /// Shown where inode numbers have 32 bits.
    pub(super) number: u32,
}

impl Inode {
    /// The extended form: the compact one has neither a time of its own nor 32-bit owners.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (layout, union) = match self.data {
            Data::Blocks(at) => (0, at),
            Data::Inline(at) => (2, at),
            Data::Chunks(shift) => (4, shift | CHUNK_WITH_INDEXES),
            Data::Device(number) => (0, number),
        };
        // The first unit of the count stands for the header of 12 bytes, the others for 4 bytes each.
        let count = if self.xattrs == 0 { 0 } else { (self.xattrs - 12) / 4 + 1 };
        let mut bytes = Bytes::with_capacity(INODE as usize);
        bytes.u16(1 | layout << 1);
        bytes.u16(count as u16);
        bytes.u16(self.kind.mode() | self.meta.mode & 0o7777);
        bytes.u16(0);
        bytes.u64(self.size);
        bytes.u32(union);
        bytes.u32(self.number);
        bytes.u32(self.meta.uid);
        bytes.u32(self.meta.gid);
        bytes.u64(self.meta.mtime.sec.cast_unsigned());
        bytes.u32(self.meta.mtime.nsec);
        bytes.u32(self.links);
        bytes.zeros(16);
        bytes.0
    }
}

/// A device's number as an inode has it: the kernel's `new_encode_dev`, 12 bits and 20. `None` if it doesn't fit.
pub(super) fn device(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

/// The most bytes of attributes that an inode's 16-bit count can stand for.
const MAX_XATTRS: usize = 12 + 4 * (u16::MAX as usize - 1);

/// The attributes that follow an inode: a header without filter and shared ones, then the entries. Nothing if there are
/// none. The error says what doesn't fit.
pub(super) fn xattrs<'x>(list: impl Iterator<Item = (&'x [u8], &'x [u8])>) -> Result<Vec<u8>, String> {
    let mut bytes = Bytes(Vec::new());
    for (name, value) in list {
        let wrong = |what: &str| format!("extended attribute {}: {what}", name.escape_ascii());
        let (index, rest) = split_name(name).ok_or_else(|| wrong("a name that EROFS does not know"))?;
        let length = u8::try_from(rest.len()).map_err(|_| wrong("a name of more than 255 bytes"))?;
        let size = u16::try_from(value.len()).map_err(|_| wrong("a value of more than 65535 bytes"))?;
        if bytes.0.is_empty() {
            bytes.zeros(12);
        }
        bytes.u8(length);
        bytes.u8(index);
        bytes.u16(size);
        bytes.0.extend_from_slice(rest);
        bytes.0.extend_from_slice(value);
        bytes.align(4);
        if bytes.0.len() > MAX_XATTRS {
            return Err(wrong("with it there are more than 256 KiB of them"));
        }
    }
    Ok(bytes.0)
}

/// The number of a name's prefix, and the rest of the name.
fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    [
        (1, &b"user."[..]),
        (2, b"system.posix_acl_access"),
        (3, b"system.posix_acl_default"),
        (4, b"trusted."),
        (6, b"security."),
    ]
    .into_iter()
    .find_map(|(index, prefix)| name.strip_prefix(prefix).map(|rest| (index, rest)))
}

/// Where a chunk is: a device, 0 for this image, and a block.
pub(super) fn chunk_index(device: u16, block: u32) -> [u8; CHUNK_INDEX as usize] {
    let ([d0, d1], [b0, b1, b2, b3]) = (device.to_le_bytes(), block.to_le_bytes());
    [0, 0, d0, d1, b0, b1, b2, b3]
}

/// The space that an entry of a directory takes for a name of this length.
pub(super) fn entry_space(name: usize) -> usize {
    12 + name
}

/// A block of a directory: the entries, then their names; the length is what is used of it.
pub(super) fn directory_block(entries: &[(&[u8], u64, Type)]) -> Vec<u8> {
    let mut bytes = Bytes::with_capacity(BLOCK as usize);
    let mut name_at = entries.len() * entry_space(0);
    for (name, nid, kind) in entries {
        bytes.u64(*nid);
        bytes.u16(name_at as u16);
        bytes.u8(kind.entry());
        bytes.u8(0);
        name_at += name.len();
    }
    for (name, ..) in entries {
        bytes.0.extend_from_slice(name);
    }
    bytes.0
}

/// A slot of the device table.
pub(super) fn device_slot(blocks: u32) -> Vec<u8> {
    let mut bytes = Bytes::with_capacity(SLOT as usize);
    bytes.zeros(64);
    bytes.u32(blocks);
    // Not mapped into the address space of the first device: only chunk indexes lead to it.
    bytes.u32(0);
    bytes.zeros(56);
    bytes.0
}

/// What the superblock says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Super {
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) devices: u16,
}

impl Super {
    /// Its bytes, the checksum left out.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Bytes::with_capacity(SUPER_LEN as usize);
        bytes.u32(MAGIC);
        bytes.u32(0);
        bytes.u32(COMPAT_CHECKSUM | COMPAT_MTIME);
        bytes.u8(BLOCK_BITS as u8);
        bytes.u8(0);
        bytes.u16(self.root);
        bytes.u64(self.inodes);
        // The time that compact inodes have, of which there are none.
        bytes.zeros(12);
        bytes.u32(self.blocks);
        // Inodes are counted from the image's start; there is no area of shared attributes, no UUID, no name.
        bytes.zeros(4 + 4 + 16 + 16);
        bytes.u32(INCOMPAT_CHUNKED_FILE | if self.devices == 0 { 0 } else { INCOMPAT_DEVICE_TABLE });
        bytes.u16(0);
        bytes.u16(self.devices);
        bytes.u16(if self.devices == 0 { 0 } else { ((SUPER_AT + SUPER_LEN) / SLOT) as u16 });
        bytes.zeros(38);
        bytes.0
    }
}

/// The checksum of the superblock and what follows it in its block: CRC-32C, not inverted at the end.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// Bytes in the making.
struct Bytes(Vec<u8>);

impl Bytes {
    fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn zeros(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }

    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_lengths() {
        let sb = Super { root: 36, inodes: 1, blocks: 4, devices: 1 };
        assert_eq!(sb.bytes().len() as u64, SUPER_LEN);
        assert_eq!(device_slot(1).len() as u64, SLOT);
        let inode = Inode {
            kind: Type::Regular,
            meta: Meta::default(),
            links: 1,
            size: 0,
            data: Data::Blocks(0),
            xattrs: 0,
            number: 0,
        };
        assert_eq!(inode.bytes().len() as u64, INODE);
    }

    #[test]
    fn the_checksum_is_crc32c_without_the_last_inversion() {
        // The check value of CRC-32C is that of "123456789".
        assert_eq!(checksum(b"123456789"), !0xe306_9283);
    }

    #[test]
    fn a_device_number_has_12_and_20_bits() {
        assert_eq!(device(8, 1), Some(0x801));
        assert_eq!(device(1, 0x12345), Some(0x1230_0145));
        assert_eq!(device(4095, 0xf_ffff), Some(u32::MAX));
        assert_eq!(device(4096, 0), None);
        assert_eq!(device(0, 1 << 20), None);
    }

    #[test]
    fn attributes_that_do_not_fit_are_refused() {
        let one = |name: &[u8], value: &[u8]| xattrs([(name, value)].into_iter());
        assert_eq!(one(b"user.a", b"xy").unwrap()[12..], *b"\x01\x01\x02\x00axy\x00");
        assert_eq!(one(b"system.posix_acl_access", b"").unwrap()[12..], *b"\x00\x02\x00\x00");
        assert!(one(b"user.a", &[0; 65535]).is_ok());
        assert!(one(b"user.a", &[0; 65536]).unwrap_err().contains("65535"));
        assert!(one(b"com.example", b"").is_err());
        let many = (0..5).map(|_| (&b"user.a"[..], &[0u8; 60000][..]));
        assert!(xattrs(many).unwrap_err().contains("256 KiB"));
        assert!(xattrs(std::iter::empty()).unwrap().is_empty());
    }
}
