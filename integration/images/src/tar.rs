//! Tar archives: a writer of good ones, and headers of which every byte can be wrong.

use std::io::Write;

const BLOCK: usize = 512;

/// Type flags.
pub mod flag {
    #![allow(missing_docs, reason = "the names are the documentation")]
    pub const FILE: u8 = b'0';
    pub const HARDLINK: u8 = b'1';
    pub const SYMLINK: u8 = b'2';
    pub const CHAR: u8 = b'3';
    pub const BLOCK: u8 = b'4';
    pub const DIRECTORY: u8 = b'5';
    pub const FIFO: u8 = b'6';
    pub const PAX: u8 = b'x';
    pub const GLOBAL: u8 = b'g';
    pub const LONG_NAME: u8 = b'L';
    pub const LONG_LINK: u8 = b'K';
    pub const GNU_SPARSE: u8 = b'S';
}

/// One header block in the making. Nothing is checked: that is its purpose.
#[derive(Debug, Clone)]
pub struct Header([u8; BLOCK]);

impl Header {
    /// A ustar header of this type: mode 0644 (directories 0755), owner 0:0, size 0, mtime 0.
    pub fn new(flag: u8, name: impl AsRef<[u8]>) -> Self {
        let mode = if flag == flag::DIRECTORY { 0o755 } else { 0o644 };
        let header = Self([0; BLOCK]).field(257, b"ustar\x0000").field(156, &[flag]).field(0, name.as_ref());
        header.octal(100, 8, mode).octal(108, 8, 0).octal(116, 8, 0).size(0).mtime(0)
    }

    /// The same as before 1988: no magic.
    #[must_use]
    pub fn v7(self) -> Self {
        self.field(257, &[0; 8])
    }

    /// The same with GNU's magic, so that bytes 345 and on are not a prefix.
    #[must_use]
    pub fn gnu(self) -> Self {
        self.field(257, b"ustar  \0")
    }

    /// Overwrites bytes; what does not fit is cut.
    #[must_use]
    pub fn field(mut self, at: usize, bytes: &[u8]) -> Self {
        let end = (at + bytes.len()).min(BLOCK);
        self.0[at..end].copy_from_slice(&bytes[..end - at]);
        self
    }

    /// An octal number with its NUL in a field of `length` bytes.
    #[must_use]
    pub fn octal(self, at: usize, length: usize, value: u64) -> Self {
        let text = format!("{value:0width$o}\0", width = length - 1);
        self.field(at, text.as_bytes())
    }

    /// A number in base 256 in a field of `length` bytes.
    #[must_use]
    pub fn base256(self, at: usize, length: usize, value: i128) -> Self {
        let mut bytes = value.to_be_bytes()[16 - length..].to_vec();
        bytes[0] |= 0x80;
        self.field(at, &bytes)
    }

    /// The length that the header claims.
    #[must_use]
    pub fn size(self, size: u64) -> Self {
        self.octal(124, 12, size)
    }

    /// Permissions.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        self.octal(100, 8, mode.into())
    }

    /// Owner and group.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        self.octal(108, 8, uid.into()).octal(116, 8, gid.into())
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn mtime(self, seconds: u64) -> Self {
        self.octal(136, 12, seconds)
    }

    /// What a link points to.
    #[must_use]
    pub fn link(self, target: impl AsRef<[u8]>) -> Self {
        self.field(157, &target.as_ref()[..target.as_ref().len().min(100)])
    }

    /// A device's number.
    #[must_use]
    pub fn device(self, major: u32, minor: u32) -> Self {
        self.octal(329, 8, major.into()).octal(337, 8, minor.into())
    }

    /// The block with its checksum.
    pub fn seal(self) -> [u8; BLOCK] {
        let sum: u64 = self.blanked().iter().map(|b| u64::from(*b)).sum();
        self.sealed_with(sum)
    }

    /// The block with the sum of its bytes as signed ones, as some old programs made it.
    pub fn seal_signed(self) -> [u8; BLOCK] {
        let sum: i64 = self.blanked().iter().map(|b| i64::from(b.cast_signed())).sum();
        self.sealed_with(sum.unsigned_abs())
    }

    /// The block with any sum.
    pub fn sealed_with(self, sum: u64) -> [u8; BLOCK] {
        self.field(148, format!("{sum:06o}\0 ").as_bytes()).0
    }

    fn blanked(&self) -> [u8; BLOCK] {
        self.clone().field(148, &[b' '; 8]).0
    }
}

/// The body of a PAX header: records with their lengths.
pub fn records<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(N, V)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in pairs {
        let (name, value) = (name.as_ref(), value.as_ref());
        // The length counts its own digits.
        let rest = name.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        body.extend_from_slice(length.to_string().as_bytes());
        body.push(b' ');
        body.extend_from_slice(name);
        body.push(b'=');
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    body
}

/// A good entry, whatever dialect it needs.
#[derive(Debug, Clone, Default)]
pub struct Entry<'a> {
    /// Its name; a directory's without a slash at its end.
    pub name: &'a [u8],
    /// One of [`flag`].
    pub flag: u8,
    /// Permissions and more.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// What a link points to.
    pub link: &'a [u8],
    /// A device's number.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: &'a [(&'a [u8], &'a [u8])],
}

impl<'a> Entry<'a> {
    /// An entry with the usual permissions, of root, of the day that all recipes have.
    pub fn new(flag: u8, name: &'a [u8]) -> Self {
        let mode = match flag {
            flag::DIRECTORY => 0o755,
            flag::SYMLINK => 0o777,
            _ => 0o644,
        };
        Self { name, flag, mode, mtime: (1_700_000_000, 0), ..Self::default() }
    }
}

/// An archive in the making.
#[derive(Debug)]
pub struct Tar<W> {
    out: W,
}

impl Tar<Vec<u8>> {
    /// One in memory.
    pub fn new() -> Self {
        Self { out: Vec::new() }
    }

    /// What was written so far, without an end.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

impl Default for Tar<Vec<u8>> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: Write> Tar<W> {
    /// One that goes to `out`.
    pub fn to(out: W) -> Self {
        Self { out }
    }

    /// Any bytes.
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.out.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// A body with its padding.
    pub fn body(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.raw(bytes);
        self.pad(bytes.len() as u64)
    }

    /// The padding of a body of `length` bytes.
    pub fn pad(&mut self, length: u64) -> &mut Self {
        let over = (length % BLOCK as u64) as usize;
        if over > 0 {
            self.raw(&[0; BLOCK][over..]);
        }
        self
    }

    /// A header and a body, whose length goes into the header.
    pub fn with(&mut self, header: Header, body: impl AsRef<[u8]>) -> &mut Self {
        let size = body.as_ref().len() as u64;
        self.raw(header.size(size).seal()).body(body)
    }

    /// A header as it is, without a body.
    pub fn bare(&mut self, header: Header) -> &mut Self {
        self.raw(header.seal())
    }

    /// A PAX header for the next entry.
    pub fn pax<N: AsRef<[u8]>, V: AsRef<[u8]>>(&mut self, pairs: &[(N, V)]) -> &mut Self {
        self.with(Header::new(flag::PAX, "PaxHeaders/x"), records(pairs))
    }

    /// A directory.
    pub fn dir(&mut self, name: &str) -> &mut Self {
        self.entry(&Entry::new(flag::DIRECTORY, name.as_bytes()), b"")
    }

    /// A file.
    pub fn file(&mut self, name: &str, content: impl AsRef<[u8]>) -> &mut Self {
        self.entry(&Entry::new(flag::FILE, name.as_bytes()), content.as_ref())
    }

    /// A symbolic link.
    pub fn symlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(&Entry { link: target.as_bytes(), ..Entry::new(flag::SYMLINK, name.as_bytes()) }, b"")
    }

    /// A hard link.
    pub fn hardlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(&Entry { link: target.as_bytes(), ..Entry::new(flag::HARDLINK, name.as_bytes()) }, b"")
    }

    /// An entry and its body.
    pub fn entry(&mut self, entry: &Entry<'_>, body: &[u8]) -> &mut Self {
        self.head(entry, body.len() as u64).body(body)
    }

    /// An entry's headers, with PAX records for what ustar can't say. The body of `size` bytes is up to the caller.
    pub fn head(&mut self, entry: &Entry<'_>, size: u64) -> &mut Self {
        let mut name = entry.name.to_vec();
        if entry.flag == flag::DIRECTORY {
            name.push(b'/');
        }
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut say = |key: &str, value: &[u8]| pairs.push((key.as_bytes().to_vec(), value.to_vec()));
        if name.len() > 100 {
            say("path", &name);
        }
        if entry.link.len() > 100 {
            say("linkpath", entry.link);
        }
        if size >= 1 << 33 {
            say("size", size.to_string().as_bytes());
        }
        for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
            if id >= 1 << 21 {
                say(key, id.to_string().as_bytes());
            }
        }
        let (seconds, nanoseconds) = entry.mtime;
        if nanoseconds > 0 || seconds < 0 {
            say("mtime", decimal(seconds, nanoseconds).as_bytes());
        }
        for (key, value) in entry.xattrs {
            let key = [b"SCHILY.xattr.", *key].concat();
            pairs.push((key, value.to_vec()));
        }
        if !pairs.is_empty() {
            self.pax(&pairs);
        }
        let fits = |id: u32| if id < 1 << 21 { id } else { 0 };
        let header = Header::new(entry.flag, &name[..name.len().min(100)])
            .mode(entry.mode)
            .owner(fits(entry.uid), fits(entry.gid))
            .mtime(seconds.try_into().unwrap_or(0))
            .size(if size < 1 << 33 { size } else { 0 })
            .link(entry.link)
            .device(entry.device.0, entry.device.1);
        self.bare(header)
    }

    /// The end: two empty blocks, and what was written.
    pub fn end(mut self) -> W {
        self.raw([0; 2 * BLOCK]);
        self.out
    }
}

/// A time as PAX has it: a decimal number, of which the fraction counts away from zero.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
    } else {
        format!("{seconds}.{nanoseconds:09}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_length_counts_its_own_digits() {
        assert_eq!(records(&[("a", "b")]), b"6 a=b\n");
        // One byte more than makes 99 takes a third digit.
        assert_eq!(records(&[("a", "b".repeat(93))])[..3], *b"99 ");
        assert_eq!(records(&[("a", "b".repeat(94))])[..4], *b"101 ");
    }

    #[test]
    fn times_before_1970_are_negative_numbers() {
        assert_eq!(decimal(-2, 750_000_000), "-1.250000000");
        assert_eq!(decimal(5, 1), "5.000000001");
    }

    #[test]
    fn numbers_fill_their_fields() {
        let block = Header::new(flag::FILE, "a").base256(124, 12, -1).seal();
        assert_eq!(block[124..136], [0xff; 12]);
        assert_eq!(block[100..108], *b"0000644\0");
    }
}
