//! A layer's table as bytes: what the worker hands over, and what is kept beside the tar.
//!
//! ```text
//! "orlopidx"  version: u32 LE  crc32 of all that follows: u32 LE
//! tar size, number of entries
//! each entry: kind, name (bytes shared with the one before, then the rest),
//!             mode, uid, gid, seconds, nanoseconds                (not for whiteouts and opaque marks)
//!             size and extents | target | major and minor        (as the kind has them)
//!             attributes: how many, then names and values        (not for whiteouts and opaque marks)
//! ```
//! Numbers are LEB128; seconds are zigzag. There are no offsets to be out of range: what is read is pushed, as the
//! scanner does it. The checksum is for disks; against whoever writes a table with intent there is [`check`].

use super::{Entry, Extent, Kind, Layer, Meta, Time, name, xattr};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"orlopidx";
const VERSION: u32 = 1;

/// The largest device numbers that Linux has: 12 and 20 bits.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

impl Layer {
    /// The table as bytes, for [`Layer::decode`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() / 2 + self.rows.len() * 32 + 64);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        put(&mut out, self.tar_size);
        put(&mut out, self.rows.len() as u64);
        let mut before: &[u8] = b"";
        for entry in self.entries() {
            put_entry(&mut out, before, &entry);
            before = entry.path;
        }
        let sum = crc32(out.get(16..).unwrap_or_default()).to_le_bytes();
        if let Some(place) = out.get_mut(12..16) {
            place.copy_from_slice(&sum);
        }
        out
    }

    /// Reads what [`Layer::encode`] made, and trusts nothing of it but `tar_size`, which the caller compares with the tar's
    /// length: every entry passes [`check`], there are no more entries and names than such a tar has room for, and nothing
    /// follows. Linear in `bytes` and in that size.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes).map_err(|why| Error::invalid(format!("layer's table: {why}")))
    }
}

fn decode(bytes: &[u8]) -> std::result::Result<Layer, String> {
    let magic: &[u8; 8] = bytes.first_chunk().ok_or("too short")?;
    let [version, sum] =
        [8, 12].map(|at| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes));
    if magic != MAGIC {
        return Err("not one".into());
    }
    if version != Some(VERSION) {
        return Err("of another version".into());
    }
    let body = bytes.get(16..).ok_or("too short")?;
    if sum != Some(crc32(body)) {
        return Err("its checksum is wrong".into());
    }
    let mut from = Source(body);
    let tar_size = from.number().ok_or("too short")?;
    let count = from.number().ok_or("too short")?;
    let mut layer = Layer { tar_size, ..Layer::default() };
    // Each entry has a header of 512 bytes in the tar, and every name and value was in it.
    if count > tar_size / 512 {
        return Err("it has more entries than the tar has room for".into());
    }
    // An entry has three bytes at least.
    layer.rows.reserve(usize::try_from(count).unwrap_or(usize::MAX).min(body.len() / 3));
    let mut scratch = Scratch::default();
    for number in 0..count {
        scratch.entry(&mut from, &mut layer).map_err(|why| format!("entry {number}: {why}"))?;
        if layer.bytes.len() as u64 > tar_size {
            return Err("its names are longer than the tar".into());
        }
    }
    if from.0.is_empty() { Ok(layer) } else { Err("something follows its end".into()) }
}

/// Says why `entry` is not one that a table of a tar of `tar_size` bytes may have. What the scanner makes always may.
pub fn check(entry: &Entry<'_>, tar_size: u64) -> std::result::Result<(), &'static str> {
    name::check(entry.path)?;
    if entry.path.is_empty() && !matches!(entry.kind, Kind::Directory | Kind::Opaque) {
        return Err("the root can only be a directory");
    }
    let plain = match entry.kind {
        Kind::Directory => true,
        Kind::File { size, extents } => {
            check_extents(size, extents, tar_size)?;
            true
        }
        Kind::Symlink(target) => {
            check_symlink(target)?;
            false
        }
        Kind::Hardlink(target) => {
            check_hardlink(entry.path, target)?;
            false
        }
        Kind::Char { major, minor } => {
            check_device(major, minor)?;
            // Below an overlay mount this is how a whiteout looks.
            if (major, minor) == (0, 0) {
                return Err("a character device with the number 0:0 would be a whiteout");
            }
            false
        }
        Kind::Block { major, minor } => {
            check_device(major, minor)?;
            false
        }
        Kind::Fifo => false,
        Kind::Whiteout | Kind::Opaque => {
            let bare = entry.meta == Meta::default() && entry.xattrs.is_empty();
            return if bare { Ok(()) } else { Err("a whiteout has neither owner nor attributes") };
        }
    };
    let Meta { mode, uid, gid, mtime } = entry.meta;
    if mode > 0o7777 {
        return Err("the mode has bits that are not permissions");
    }
    // chown(2) takes -1 for "leave it".
    if uid == u32::MAX || gid == u32::MAX {
        return Err("4294967295 is nobody's number");
    }
    if mtime.nsec >= 1_000_000_000 {
        return Err("the time has a second or more of nanoseconds");
    }
    let mut before: &[u8] = b"";
    for (key, value) in entry.xattrs.iter() {
        if key <= before {
            return Err("the attributes are not in order, or one is there twice");
        }
        check_xattr(key, value, plain)?;
        before = key;
    }
    Ok(())
}

/// The extents must be in order, apart, not empty, and within the file and the tar.
fn check_extents(size: u64, extents: &[Extent], tar_size: u64) -> std::result::Result<(), &'static str> {
    let mut end = 0;
    for extent in extents {
        if extent.len == 0 || extent.at < end {
            return Err("the extents are empty, overlap or are not in order");
        }
        end = extent.at.checked_add(extent.len).filter(|end| *end <= size).ok_or("an extent is outside of the file")?;
        extent.from.checked_add(extent.len).filter(|end| *end <= tar_size).ok_or("an extent is outside of the tar")?;
    }
    Ok(())
}

pub(crate) fn check_symlink(target: &[u8]) -> std::result::Result<(), &'static str> {
    match target {
        b"" => Err("the symbolic link has no target"),
        _ if target.len() > name::MAX_PATH => Err("the symbolic link's target is longer than 4095 bytes"),
        _ if target.contains(&0) => Err("the symbolic link's target has a NUL in it"),
        _ => Ok(()),
    }
}

pub(crate) fn check_hardlink(path: &[u8], target: &[u8]) -> std::result::Result<(), &'static str> {
    name::check(target).map_err(|_| "the hard link's target is not a name that a file can have")?;
    match target {
        b"" => Err("the hard link is to the root"),
        _ if target == path => Err("the hard link is to itself"),
        _ => Ok(()),
    }
}

fn check_device(major: u32, minor: u32) -> std::result::Result<(), &'static str> {
    if major > MAX_MAJOR || minor > MAX_MINOR { Err("the device's number is not one that Linux has") } else { Ok(()) }
}

fn check_xattr(key: &[u8], value: &[u8], plain: bool) -> std::result::Result<(), &'static str> {
    if key.len() > xattr::MAX_NAME || key.contains(&0) {
        return Err("an attribute's name is longer than 255 bytes or has a NUL in it");
    }
    if value.len() > xattr::MAX_VALUE {
        return Err("an attribute's value is larger than 64 KiB");
    }
    match xattr::policy(key, plain) {
        xattr::Policy::Keep => Ok(()),
        xattr::Policy::Drop => Err("an attribute is not one for an image"),
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

const DIRECTORY: u8 = 0;
const FILE: u8 = 1;
const SYMLINK: u8 = 2;
const HARDLINK: u8 = 3;
const CHAR: u8 = 4;
const BLOCK: u8 = 5;
const FIFO: u8 = 6;
const WHITEOUT: u8 = 7;
const OPAQUE: u8 = 8;

fn put_entry(out: &mut Vec<u8>, before: &[u8], entry: &Entry<'_>) {
    out.push(match entry.kind {
        Kind::Directory => DIRECTORY,
        Kind::File { .. } => FILE,
        Kind::Symlink(_) => SYMLINK,
        Kind::Hardlink(_) => HARDLINK,
        Kind::Char { .. } => CHAR,
        Kind::Block { .. } => BLOCK,
        Kind::Fifo => FIFO,
        Kind::Whiteout => WHITEOUT,
        Kind::Opaque => OPAQUE,
    });
    let shared = before.iter().zip(entry.path).take_while(|(a, b)| a == b).count();
    put(out, shared as u64);
    put_bytes(out, entry.path.get(shared..).unwrap_or_default());
    if matches!(entry.kind, Kind::Whiteout | Kind::Opaque) {
        return;
    }
    let Meta { mode, uid, gid, mtime } = entry.meta;
    for number in [u64::from(mode), u64::from(uid), u64::from(gid), zigzag(mtime.sec), u64::from(mtime.nsec)] {
        put(out, number);
    }
    match entry.kind {
        Kind::File { size, extents } => {
            put(out, size);
            put(out, extents.len() as u64);
            for extent in extents {
                put(out, extent.at);
                put(out, extent.len);
                put(out, extent.from);
            }
        }
        Kind::Symlink(target) | Kind::Hardlink(target) => put_bytes(out, target),
        Kind::Char { major, minor } | Kind::Block { major, minor } => {
            put(out, u64::from(major));
            put(out, u64::from(minor));
        }
        Kind::Directory | Kind::Fifo | Kind::Whiteout | Kind::Opaque => {}
    }
    put(out, entry.xattrs.len() as u64);
    for (key, value) in entry.xattrs.iter() {
        put_bytes(out, key);
        put_bytes(out, value);
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// What is still to be read.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.small()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn meta(&mut self) -> Option<Meta> {
        let (mode, uid, gid) = (self.small()?, self.small()?, self.small()?);
        Some(Meta { mode, uid, gid, mtime: Time { sec: unzigzag(self.number()?), nsec: self.small()? } })
    }

    fn extent(&mut self) -> Option<Extent> {
        Some(Extent { at: self.number()?, len: self.number()?, from: self.number()? })
    }
}

/// What the entry that is being read needs room for.
#[derive(Default)]
struct Scratch<'a> {
    path: Vec<u8>,
    extents: Vec<Extent>,
    xattrs: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Scratch<'a> {
    /// Reads an entry, and appends it if it may be there.
    fn entry(&mut self, from: &mut Source<'a>, layer: &mut Layer) -> std::result::Result<(), &'static str> {
        const SHORT: &str = "cut short, or with a number that is too large";
        let kind = from.byte().ok_or(SHORT)?;
        let shared: usize = from.small().ok_or(SHORT)?;
        let rest = from.bytes().ok_or(SHORT)?;
        if shared > self.path.len() || shared + rest.len() > name::MAX_PATH {
            return Err("the name is longer than 4095 bytes, or shares more than there is");
        }
        self.path.truncate(shared);
        self.path.extend_from_slice(rest);
        let bare = matches!(kind, WHITEOUT | OPAQUE);
        let meta = if bare { Meta::default() } else { from.meta().ok_or(SHORT)? };
        let kind = match kind {
            DIRECTORY => Kind::Directory,
            FILE => {
                let size = from.number().ok_or(SHORT)?;
                self.extents.clear();
                for _ in 0..from.number().ok_or(SHORT)? {
                    self.extents.push(from.extent().ok_or(SHORT)?);
                }
                Kind::File { size, extents: &self.extents }
            }
            SYMLINK => Kind::Symlink(from.bytes().ok_or(SHORT)?),
            HARDLINK => Kind::Hardlink(from.bytes().ok_or(SHORT)?),
            CHAR => Kind::Char { major: from.small().ok_or(SHORT)?, minor: from.small().ok_or(SHORT)? },
            BLOCK => Kind::Block { major: from.small().ok_or(SHORT)?, minor: from.small().ok_or(SHORT)? },
            FIFO => Kind::Fifo,
            WHITEOUT => Kind::Whiteout,
            OPAQUE => Kind::Opaque,
            _ => return Err("of no kind that there is"),
        };
        self.xattrs.clear();
        if !bare {
            for _ in 0..from.number().ok_or(SHORT)? {
                self.xattrs.push((from.bytes().ok_or(SHORT)?, from.bytes().ok_or(SHORT)?));
            }
        }
        layer.push(&self.path, kind, meta, self.xattrs.iter().copied()).ok_or("there is no more room")?;
        let pushed = layer.get(layer.len() - 1).ok_or("there is no more room")?;
        check(&pushed, layer.tar_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of one entry in a tar of `tar_size` bytes, encoded as it is.
    fn one<'x>(
        path: &[u8],
        kind: Kind<'_>,
        meta: Meta,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) -> std::result::Result<Layer, String> {
        let mut layer = Layer { tar_size: 10_240, ..Layer::default() };
        layer.push(path, kind, meta, xattrs).unwrap();
        let decoded = Layer::decode(&layer.encode()).map_err(|e| e.to_string())?;
        assert_eq!(decoded, layer);
        Ok(decoded)
    }

    #[test]
    fn kinds_that_cannot_be_are_refused() {
        let whole = Extent { at: 0, len: 512, from: 512 };
        let file = |extents| Kind::File { size: 1024, extents };
        let long = [b'a'; 256];
        for (path, kind, word) in [
            (&b""[..], Kind::Directory, ""),
            (b"", Kind::Opaque, ""),
            (b"a", file(&[whole, Extent { at: 600, len: 424, from: 9816 }]), ""),
            (b"a", file(&[whole, Extent { at: 512, len: 1, from: 0 }]), ""),
            (b"a", Kind::Whiteout, ""),
            (b"", Kind::Fifo, "root"),
            (b"", Kind::Whiteout, "root"),
            (b"/a", Kind::Fifo, "clean"),
            (b"a/..", Kind::Directory, "clean"),
            (b"a\0", Kind::Directory, "NUL"),
            (b".wh.a", Kind::Directory, ".wh."),
            (&long, Kind::Directory, "255"),
            (b"a", file(&[Extent { len: 0, ..whole }]), "empty"),
            (b"a", file(&[whole, Extent { at: 511, ..whole }]), "overlap"),
            (b"a", file(&[Extent { at: 512, ..whole }, whole]), "order"),
            (b"a", file(&[Extent { at: 513, ..whole }]), "outside of the file"),
            (b"a", file(&[Extent { at: u64::MAX, ..whole }]), "outside of the file"),
            (b"a", file(&[Extent { from: 9729, ..whole }]), "outside of the tar"),
            (b"a", file(&[Extent { from: u64::MAX, ..whole }]), "outside of the tar"),
            (b"a", Kind::Symlink(b""), "no target"),
            (b"a", Kind::Symlink(b"a\0"), "NUL"),
            (b"a", Kind::Symlink(&[b'a'; 4096]), "4095"),
            (b"a", Kind::Hardlink(b""), "to the root"),
            (b"a", Kind::Hardlink(b"a"), "itself"),
            (b"a", Kind::Hardlink(b"../a"), "hard link's target"),
            (b"a", Kind::Char { major: 0, minor: 0 }, "0:0"),
            (b"a", Kind::Char { major: 4096, minor: 0 }, "number"),
            (b"a", Kind::Block { major: 0, minor: 1 << 20 }, "number"),
        ] {
            match one(path, kind, Meta::default(), []) {
                Ok(_) => assert_eq!(word, "", "{kind:?}"),
                Err(said) => assert!(!word.is_empty() && said.contains(word), "{kind:?}: {said}"),
            }
        }
    }

    #[test]
    fn owners_modes_times_and_attributes_that_cannot_be_are_refused() {
        let fine = Meta { mode: 0o7777, uid: u32::MAX - 1, gid: 0, mtime: Time { sec: i64::MIN, nsec: 999_999_999 } };
        let meta = |meta| one(b"a", Kind::Fifo, meta, []).is_ok();
        assert!(meta(fine));
        assert!(meta(Meta { mtime: Time { sec: i64::MAX, nsec: 0 }, ..fine }));
        assert!(!meta(Meta { mode: 0o10000, ..fine }));
        assert!(!meta(Meta { uid: u32::MAX, ..fine }));
        assert!(!meta(Meta { gid: u32::MAX, ..fine }));
        assert!(!meta(Meta { mtime: Time { sec: 0, nsec: 1_000_000_000 }, ..fine }));
        let xattrs = |pairs: &[(&[u8], &[u8])]| {
            let empty = Kind::File { size: 0, extents: &[] };
            one(b"a", empty, fine, pairs.iter().copied()).is_ok()
        };
        assert!(xattrs(&[(b"security.capability", b"\0"), (b"user.a", b""), (b"user.b", b"")]));
        assert!(!xattrs(&[(b"user.b", b""), (b"user.a", b"")]));
        assert!(!xattrs(&[(b"user.a", b""), (b"user.a", b"")]));
        assert!(!xattrs(&[(b"trusted.overlay.redirect", b"/")]));
        assert!(!xattrs(&[(b"user.a\0b", b"")]));
        assert!(!xattrs(&[(&[&b"user."[..], &[b'a'; 251]].concat(), b"")]));
        assert!(xattrs(&[(&[&b"user."[..], &[b'a'; 250]].concat(), b"")]));
        let large = vec![0; xattr::MAX_VALUE + 1];
        let of_large = |value: &[u8]| {
            let mut layer = Layer { tar_size: 1 << 20, ..Layer::default() };
            layer.push(b"a", Kind::Directory, fine, [(&b"user.a"[..], value)]).unwrap();
            Layer::decode(&layer.encode()).is_ok()
        };
        assert!(of_large(&large[1..]) && !of_large(&large));
        assert!(one(b"a", Kind::Symlink(b"b"), fine, [(&b"user.a"[..], &b""[..])]).is_err());
        let mut bare = Layer { tar_size: 512, ..Layer::default() };
        bare.push(b"a", Kind::Whiteout, fine, []).unwrap();
        assert_eq!(check(&bare.get(0).unwrap(), 512), Err("a whiteout has neither owner nor attributes"));
    }

    /// Puts the right checksum to damaged bytes.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = crc32(&bytes[16..]).to_le_bytes();
        bytes[12..16].copy_from_slice(&sum);
        bytes
    }

    #[test]
    fn a_table_has_no_more_than_its_tar_has_room_for() {
        let mut layer = Layer { tar_size: 1024, ..Layer::default() };
        for _ in 0..2 {
            layer.push(&[b'a'; 255], Kind::Fifo, Meta::default(), []).unwrap();
        }
        assert!(Layer::decode(&layer.encode()).is_ok());
        layer.tar_size = 1023;
        assert!(Layer::decode(&layer.encode()).unwrap_err().to_string().contains("more entries"));
        // Each further name costs three bytes here, and 255 there.
        layer.tar_size = 512 * 2;
        let deep = [&[b'a'; 255][..], b"/", &[b'b'; 255]].concat();
        for _ in 0..2 {
            layer.push(&deep, Kind::Fifo, Meta::default(), []).unwrap();
        }
        layer.rows.drain(..2);
        assert!(Layer::decode(&layer.encode()).is_ok());
        let mut many = Layer { tar_size: 512 * 4, ..Layer::default() };
        for _ in 0..4 {
            many.push(&[&deep[..], b"/", &deep].concat(), Kind::Fifo, Meta::default(), []).unwrap();
        }
        assert!(Layer::decode(&many.encode()).unwrap_err().to_string().contains("names are longer"));
    }

    #[test]
    fn damaged_tables_are_refused_or_stay_within_the_rules() {
        let mut layer = Layer { tar_size: 100 << 10, ..Layer::default() };
        let extents = [Extent { at: 0, len: 5, from: 512 }, Extent { at: 4096, len: 700, from: 1024 }];
        let meta = Meta { mode: 0o755, uid: 1000, gid: 70_000, mtime: Time { sec: 1_700_000_000, nsec: 5 } };
        let xattrs = [(&b"security.capability"[..], &b"\x01\0\0\x02"[..]), (b"user.a", b"b")];
        layer.push(b"", Kind::Directory, meta, []).unwrap();
        layer.push(b"dir/a", Kind::File { size: 9000, extents: &extents }, meta, xattrs).unwrap();
        layer.push(b"dir/b", Kind::Symlink(b"../a"), meta, []).unwrap();
        layer.push(b"dir/c", Kind::Hardlink(b"dir/a"), Meta::default(), []).unwrap();
        layer.push(b"dir/d", Kind::Char { major: 1, minor: 3 }, meta, []).unwrap();
        layer.push(b"dir/e", Kind::Whiteout, Meta::default(), []).unwrap();
        layer.push(b"dir", Kind::Opaque, Meta::default(), []).unwrap();
        let bytes = layer.encode();
        assert_eq!(Layer::decode(&bytes).as_ref(), Ok(&layer));
        for len in 0..bytes.len() {
            assert!(Layer::decode(&bytes[..len]).is_err(), "{len}");
            assert!(len < 16 || Layer::decode(&sealed(bytes[..len].to_vec())).is_err(), "{len}");
        }
        assert!(Layer::decode(&sealed([&bytes[..], b"x"].concat())).unwrap_err().to_string().contains("follows"));
        let mut accepted = 0;
        for at in 0..bytes.len() {
            for change in 1..=255 {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                assert!(Layer::decode(&damaged).is_err(), "{at} {change}");
                if at < 16 {
                    continue;
                }
                if let Ok(other) = Layer::decode(&sealed(damaged)) {
                    accepted += 1;
                    assert!(other.entries().all(|entry| check(&entry, other.tar_size).is_ok()), "{at} {change}");
                    assert_eq!(Layer::decode(&other.encode()), Ok(other), "{at} {change}");
                }
            }
        }
        assert!(accepted > 1000, "{accepted}");
    }
}
