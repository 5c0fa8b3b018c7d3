//! Writes a tar: ustar headers, and PAX where those have no room.
//!
//! The same entries give the same bytes: nothing is written that was not given, no names of users, no times but the
//! content's.

use std::io::{Read, Write};

use super::{BLOCK, padding};
use crate::error::{At, Error, Result};
use crate::layer::{Kind, Meta, check_hardlink, check_symlink, name};

/// The largest numbers that fit octal fields of 8 and of 12 bytes.
const SMALL: u64 = 0o777_7777;
const LARGE: u64 = 0o777_7777_7777;

/// See the [module](self). Contents are streamed; 128 KiB are held at a time.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes to `to`, in pieces of a block up to 128 KiB: give it a buffer if calls cost.
    pub fn new(to: W) -> Self {
        Self { to, buffer: vec![0; 128 << 10] }
    }

    /// Writes an entry. Names are those of a [`Layer`](crate::layer::Layer), where a whiteout is called like what it hides.
    /// A file's content is read from `body`, which must have as many bytes as the kind says (sparse files are written with
    /// their zeros, so the extents are not looked at); nothing else has one. The time is written with its nanoseconds; the
    /// attributes as they are given.
    pub fn entry<'x>(
        &mut self,
        path: &[u8],
        kind: Kind<'_>,
        meta: &Meta,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
        body: Option<&mut dyn Read>,
    ) -> Result<()> {
        let named = |why: &str| Error::invalid(format!("\"{}\": {why}", path.escape_ascii()));
        name::check(path).map_err(named)?;
        let (parent, last) = name::split(path);
        let within = |parent: &[u8], last: &[&[u8]]| {
            let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
            [parent, slash, &last.concat()].concat()
        };
        let mut target: &[u8] = b"";
        let mut device: Option<(u32, u32)> = None;
        let mut size = 0;
        let (raw, flag) = match kind {
            Kind::Directory if path.is_empty() => (b"./".to_vec(), b'5'),
            Kind::Opaque => (within(path, &[name::OPAQUE]), b'0'),
            _ if path.is_empty() => return Err(named("the root can only be a directory")),
            Kind::Whiteout => (within(parent, &[name::WHITEOUT, last]), b'0'),
            Kind::Directory => ([path, b"/"].concat(), b'5'),
            Kind::File { size: bytes, .. } => {
                size = bytes;
                (path.to_vec(), b'0')
            }
            Kind::Symlink(to) => {
                check_symlink(to).map_err(named)?;
                target = to;
                (path.to_vec(), b'2')
            }
            Kind::Hardlink(to) => {
                check_hardlink(path, to).map_err(named)?;
                target = to;
                (path.to_vec(), b'1')
            }
            Kind::Char { major, minor } => {
                device = Some((major, minor));
                (path.to_vec(), b'3')
            }
            Kind::Block { major, minor } => {
                device = Some((major, minor));
                (path.to_vec(), b'4')
            }
            Kind::Fifo => (path.to_vec(), b'6'),
        };

        let mut pax = Records::default();
        let mut header = Header::new(flag);
        if !header.name(&raw) {
            pax.add(b"path", &raw);
        }
        if !header.text(157, 100, target) {
            pax.add(b"linkpath", target);
        }
        header.octal(100, 8, u64::from(meta.mode));
        for (at, key, number) in [(108, b"uid", meta.uid), (116, b"gid", meta.gid)] {
            if !header.octal(at, 8, u64::from(number)) {
                pax.add(key, number.to_string().as_bytes());
            }
        }
        if !header.octal(124, 12, size) {
            pax.add(b"size", size.to_string().as_bytes());
        }
        let whole = meta.mtime.nsec == 0 && u64::try_from(meta.mtime.sec).is_ok_and(|sec| sec <= LARGE);
        header.octal(136, 12, u64::try_from(meta.mtime.sec).unwrap_or(0).min(LARGE));
        if !whole {
            pax.add(b"mtime", decimal(meta).as_bytes());
        }
        let fits = |(major, minor)| header.octal(329, 8, u64::from(major)) && header.octal(337, 8, u64::from(minor));
        if !device.is_none_or(fits) {
            return Err(named("the device's number is not one that Linux has"));
        }
        for (key, value) in xattrs {
            if key.is_empty() || key.contains(&b'=') || key.contains(&0) {
                return Err(named("an attribute whose name a tar can't have"));
            }
            pax.add(&[b"SCHILY.xattr.", key].concat(), value);
        }

        let failed = || format!("write \"{}\"", path.escape_ascii());
        if !pax.0.is_empty() {
            let len = pax.0.len() as u64;
            let mut extended = Header::new(b'x');
            extended.name(b"././@PaxHeader");
            if !extended.octal(124, 12, len) {
                return Err(named("its attributes are too large"));
            }
            self.to.write_all(&extended.finished()).at(failed)?;
            self.to.write_all(&pax.0).at(failed)?;
            self.pad(len).at(failed)?;
        }
        self.to.write_all(&header.finished()).at(failed)?;
        match body {
            Some(body) => self.body(body, size, failed)?,
            None if size > 0 => return Err(named("there is no content")),
            None => {}
        }
        self.pad(size).at(failed)
    }

    /// Ends the archive with two blocks of zeros.
    pub fn finish(mut self) -> Result<W> {
        self.to.write_all(&[0; 2 * BLOCK]).at(|| "write the archive's end")?;
        Ok(self.to)
    }

    fn body(&mut self, body: &mut dyn Read, size: u64, failed: impl Fn() -> String) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let room = self.buffer.get_mut(..most).unwrap_or_default();
            let n = body.read(room).at(|| format!("{}: read", failed()))?;
            let read = room.get(..n).unwrap_or_default();
            if read.is_empty() {
                return Err(Error::invalid(format!("{}: the content is shorter than {size} bytes", failed())));
            }
            self.to.write_all(read).at(&failed)?;
            left -= read.len() as u64;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> std::io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let n = padding(size) as usize;
        self.to.write_all(ZEROS.get(..n).unwrap_or_default())
    }
}

/// Seconds with a fraction, without zeros at its end.
fn decimal(meta: &Meta) -> String {
    let (sec, nsec) = (meta.mtime.sec, meta.mtime.nsec);
    let (sign, whole, fraction) = match (sec, nsec) {
        (0.., _) => ("", sec.unsigned_abs(), nsec),
        (_, 0) => ("-", sec.unsigned_abs(), 0),
        _ => ("-", sec.unsigned_abs() - 1, 1_000_000_000u32.saturating_sub(nsec)),
    };
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The body of a PAX header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        // The length counts its own digits.
        let bare = key.len() + value.len() + 3;
        let mut len = bare + 1;
        while len != bare + len.to_string().len() {
            len = bare + len.to_string().len();
        }
        self.0.extend_from_slice(len.to_string().as_bytes());
        for part in [&b" "[..], key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(flag: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.put(156, &[flag]);
        header.put(257, b"ustar\x0000");
        for (at, len) in [(100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (329, 8), (337, 8)] {
            header.octal(at, len, 0);
        }
        header
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Puts a number; false, and nothing, if it does not fit.
    fn octal(&mut self, at: usize, len: usize, number: u64) -> bool {
        let fits = number <= if len == 8 { SMALL } else { LARGE };
        if fits {
            self.put(at, format!("{number:0width$o}\0", width = len - 1).as_bytes());
        }
        fits
    }

    /// Puts a text; false, and as much as there is room for, if it does not fit.
    fn text(&mut self, at: usize, len: usize, text: &[u8]) -> bool {
        self.put(at, text.get(..len).unwrap_or(text));
        text.len() <= len
    }

    /// Puts a name, the first part of it in the prefix if it has to be.
    fn name(&mut self, raw: &[u8]) -> bool {
        if raw.len() > 100 {
            // The slash between the two is not written, and the one at a directory's end is not between.
            let inside = raw.strip_suffix(b"/").unwrap_or(raw);
            let split = inside.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            let mut fitting = split.filter(|at| (1..=155).contains(at) && raw.len() - at - 1 <= 100);
            if let Some((prefix, name)) = fitting.next_back().and_then(|at| raw.split_at_checked(at)) {
                self.put(345, prefix);
                return self.text(0, 100, name.get(1..).unwrap_or_default());
            }
        }
        self.text(0, 100, raw)
    }

    fn finished(mut self) -> [u8; BLOCK] {
        self.put(148, &[b' '; 8]);
        let sum = self.0.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}
