//! Reads a tar from whatever pieces it arrives in, and keeps what the headers say.
//!
//! Understood are v7, ustar, GNU (long names, base-256 numbers, old sparse files) and PAX with the keys that Go, GNU tar
//! and libarchive write. Docker and containerd read with Go's `archive/tar`, and most people look with GNU tar. Where these
//! two would list different files from the same bytes, the layer is refused: that is how files are smuggled past
//! whoever looked (CVE-2025-62518, CVE-2026-33055). So refused are:
//!
//! * contents behind what has none (directories, links' PAX sizes, devices), a single zero block that something follows;
//! * two PAX headers, two long names, or a long name and another PAX path, for one entry; global PAX headers that change
//!   entries (Go passes over them), or that stand between a header and its entry;
//! * a regular file (type `0`) whose name ends in a slash; sparse maps that say less, or more, than the content has.
//!
//! `..` that leaves the root is refused as well, and absolute names are below the root ([`name::clean`]). What is left
//! out is what [`xattr::policy`] says, and aufs's own `.wh..wh.{aufs,orph,plnk}` with all below. What follows the end of the
//! archive is not looked at, as nobody does. A missing end is fine where an entry ends.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::mem;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{BLOCK, padding};
use crate::error::{Error, Result};
use crate::layer::{Extent, Kind, Layer, Meta, Time, name, xattr};

/// What a tar may ask for. Everything else is bounded by names of 4095 bytes and Linux's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries, global headers included.
    pub entries: u64,
    /// Bytes of PAX headers, long names and sparse map of one entry.
    pub pax: u64,
    /// Bytes of all attributes, names and values, of one entry.
    pub xattrs: u64,
    /// Pieces of one sparse file (CVE-2025-58183, CVE-2026-32288).
    pub regions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 5_000_000, pax: 1 << 20, xattrs: 128 << 10, regions: 1 << 16 }
    }
}

/// Why an entry is refused; its number and name are put in front.
type Why = Cow<'static, str>;
type Checked<T> = std::result::Result<T, Why>;

/// A parser that is fed: any chunks, in order. Contents are passed over by count, without a look.
#[derive(Debug)]
pub struct Scanner {
    limits: Limits,
    layer: Layer,
    /// How many bytes were fed.
    at: u64,
    /// How many bytes of content are still to be passed over.
    skip: u64,
    /// What comes next, and how many bytes it has.
    next: Next,
    want: usize,
    /// What of it came already, if not all.
    held: Vec<u8>,
    entries: u64,
    /// The entry that `skip` belongs to, for an error at the end.
    pending: Pending,
    /// Attributes that a host's administrator has given and that are no image's: how often, and where first.
    trusted: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
}

#[derive(Debug)]
enum Next {
    Header,
    /// The second zero block.
    End,
    Pax,
    Global,
    LongName,
    LongLink,
    /// A block of further regions of an old GNU sparse file.
    Regions(Box<Sparse>),
    /// A block of the map that a sparse file of PAX 1.0 begins with.
    Map(Box<Sparse>, MapText),
    /// What follows the archive's end.
    Rest,
    /// An error was returned.
    Refused,
}

/// What came before an entry and is about it.
#[derive(Debug, Default)]
struct Pending {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// Bytes of all that.
    bytes: u64,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.name.is_none() && self.link.is_none()
    }
}

/// A sparse file whose map is still to come.
#[derive(Debug)]
struct Sparse {
    raw: Vec<u8>,
    path: Vec<u8>,
    meta: Meta,
    xattrs: Attributes,
    /// The size with holes.
    size: u64,
    /// Bytes in the tar that are still to come, map included.
    stored: u64,
    regions: Vec<(u64, u64)>,
}

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

impl Scanner {
    /// One that has seen nothing.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            layer: Layer::default(),
            at: 0,
            skip: 0,
            next: Next::Header,
            want: BLOCK,
            held: Vec::new(),
            entries: 0,
            pending: Pending::default(),
            trusted: BTreeMap::new(),
        }
    }

    /// What was left out that somebody may miss: `trusted.x: not kept on 3 names ("etc/x")`. Other attributes that are the
    /// host's business ([`xattr::policy`]) are in every archive of some hosts, and nobody misses them.
    pub fn left_out(&self) -> Vec<String> {
        let shown = |text: &[u8], most| text.get(..most).unwrap_or(text).escape_ascii().to_string();
        let line = |(name, (count, first)): (&Vec<u8>, &(u64, Vec<u8>))| {
            let names = if *count == 1 { "name" } else { "names" };
            format!("{}: not kept on {count} {names} (\"{}\")", shown(name, 64), shown(first, 200))
        };
        self.trusted.iter().map(line).collect()
    }

    /// Takes the next bytes. After an error nothing but errors follow.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<()> {
        let done = self.advance(chunk);
        if done.is_err() {
            self.next = Next::Refused;
        }
        done
    }

    /// The table, if the tar may end here.
    pub fn finish(mut self) -> Result<Layer> {
        let whole = self.skip == 0 && self.held.is_empty() && self.pending.is_empty();
        match self.next {
            Next::Refused => Err(Error::invalid("the tar was refused already")),
            Next::Header | Next::End | Next::Rest if whole => {
                self.layer.tar_size = self.at;
                Ok(self.layer)
            }
            _ => Err(Error::invalid(format!("the tar ends within entry {}, after {} bytes", self.entries, self.at))),
        }
    }

    fn advance(&mut self, mut chunk: &[u8]) -> Result<()> {
        loop {
            if self.skip > 0 {
                let n = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
                self.take(&mut chunk, n);
                self.skip -= n as u64;
                if self.skip > 0 {
                    return Ok(());
                }
            }
            match self.next {
                Next::Rest => {
                    self.at += chunk.len() as u64;
                    return Ok(());
                }
                Next::Refused => return Err(Error::invalid("the tar was refused already")),
                _ => {}
            }
            let missing = self.want - self.held.len();
            let n = missing.min(chunk.len());
            let there = self.take(&mut chunk, n);
            if there.len() < missing {
                self.held.extend_from_slice(there);
                return Ok(());
            }
            if self.held.is_empty() {
                self.piece(there)?;
            } else {
                let mut held = mem::take(&mut self.held);
                held.extend_from_slice(there);
                self.piece(&held)?;
            }
        }
    }

    /// The first `n` bytes of `chunk`, which has them.
    fn take<'a>(&mut self, chunk: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (there, rest) = chunk.split_at_checked(n).unwrap_or_default();
        *chunk = rest;
        self.at += n as u64;
        there
    }

    /// Acts on what was waited for.
    fn piece(&mut self, piece: &[u8]) -> Result<()> {
        self.want = BLOCK;
        match mem::replace(&mut self.next, Next::Header) {
            Next::Header => self.block(piece),
            Next::End if is_zero(piece) => {
                self.next = Next::Rest;
                Ok(())
            }
            Next::End => {
                let zeros = self.at - 2 * BLOCK as u64;
                Err(Error::invalid(format!("byte {zeros} of the tar: a single block of zeros that is not the end")))
            }
            Next::Regions(sparse) => self.more_regions(sparse, piece),
            Next::Map(sparse, map) => self.more_map(sparse, map, piece),
            Next::Rest | Next::Refused => Ok(()),
            Next::Pax => self.about(piece, |pending, body| {
                pending.pax = Some(Pax::parse(body)?);
                Ok(())
            }),
            Next::Global => self.about(piece, |_, body| Pax::parse(body)?.check_global()),
            Next::LongName => self.about(piece, |pending, body| {
                pending.name = Some(long(body)?);
                Ok(())
            }),
            Next::LongLink => self.about(piece, |pending, body| {
                pending.link = Some(long(body)?);
                Ok(())
            }),
        }
    }

    /// Reads something about the next entry, and passes over its padding.
    fn about(&mut self, body: &[u8], read: impl FnOnce(&mut Pending, &[u8]) -> Checked<()>) -> Result<()> {
        self.skip = padding(body.len() as u64);
        read(&mut self.pending, body).map_err(|why| self.refuse(b"", &why))
    }

    /// The error for the entry that was counted last.
    fn refuse(&self, raw: &[u8], why: &str) -> Error {
        let shown = raw.get(..100).unwrap_or(raw).escape_ascii();
        let more = if raw.len() > 100 { "..." } else { "" };
        let number = self.entries;
        if raw.is_empty() {
            return Error::invalid(format!("entry {number} of the tar: {why}"));
        }
        Error::invalid(format!("entry {number} of the tar, \"{shown}{more}\": {why}"))
    }

    fn block(&mut self, block: &[u8]) -> Result<()> {
        let Some(header) = block.first_chunk().map(Header) else { return Ok(()) };
        if is_zero(block) {
            self.next = Next::End;
            return Ok(());
        }
        if self.pending.is_empty() {
            self.entries += 1;
        }
        if !header.checksum_is_right() {
            return Err(match self.entries {
                1 => Error::invalid("not a tar: the first header's checksum is wrong"),
                _ => self.refuse(b"", "the header's checksum is wrong"),
            });
        }
        if self.entries > self.limits.entries {
            return Err(Error::invalid(format!("the tar has more than {} entries", self.limits.entries)));
        }
        let (twice, next) = match header.kind() {
            b'x' => (self.pending.pax.is_some(), Next::Pax),
            b'g' => (!self.pending.is_empty(), Next::Global),
            b'L' => (self.pending.name.is_some(), Next::LongName),
            b'K' => (self.pending.link.is_some(), Next::LongLink),
            _ => {
                let pending = mem::take(&mut self.pending);
                let raw = pending.raw_name(&header).into_owned();
                return self.entry(&header, pending, &raw).map_err(|why| self.refuse(&raw, &why));
            }
        };
        let size = header.size().map_err(|why| self.refuse(b"", why))?;
        self.pending.bytes = self.pending.bytes.saturating_add(size);
        if twice {
            return Err(self.refuse(b"", "two headers of the same kind are about it, or one that is about all"));
        }
        if self.pending.bytes > self.limits.pax {
            return Err(self.refuse(b"", &format!("the headers about it are larger than {} bytes", self.limits.pax)));
        }
        if matches!(next, Next::Global) {
            self.pending.bytes = 0;
        }
        self.want = usize::try_from(size).unwrap_or(usize::MAX);
        self.next = next;
        Ok(())
    }

    fn entry(&mut self, header: &Header<'_>, pending: Pending, raw: &[u8]) -> Checked<()> {
        let Pending { pax, name: long_name, link, bytes } = pending;
        let pax = pax.unwrap_or_default();
        agree(&long_name, &pax.path)?;
        agree(&link, &pax.linkpath)?;
        let kind = match header.kind() {
            0 if raw.ends_with(b"/") => b'5',
            0 | b'7' => b'0',
            kind => kind,
        };
        let size = match (kind, pax.size) {
            // POSIX has contents behind hard links; GNU tar and Go have none, whatever the header's size says, and
            // differ where PAX says it.
            (b'1', None) => 0,
            // GNU tar refuses a header whose own size is no number, though nobody goes by it.
            (_, Some(size)) => header.size().map(|_| size)?,
            (_, None) => header.size()?,
        };
        match kind {
            b'0' | b'S' if raw.ends_with(b"/") || raw.ends_with(b"/.") => {
                return Err("a regular file whose name is a directory's".into());
            }
            b'0' | b'S' => {}
            b'1'..=b'6' if size > 0 => return Err("has content, and is not a regular file".into()),
            b'1'..=b'6' => {}
            other => return Err(format!("of the unknown type '{}'", other.escape_ascii()).into()),
        }
        let layout = Layout::of(header, kind, &pax)?;
        self.skip = size.checked_add(padding(size)).ok_or("is too large")?;

        let mut path = name::clean(raw)?;
        if path.split(|byte| *byte == b'/').next().is_some_and(is_aufs) {
            return if layout.is_plain() { Ok(()) } else { Err("a sparse file of aufs".into()) };
        }
        let (parent, last) = name::split(&path);
        if let Some(hidden) = last.strip_prefix(name::WHITEOUT) {
            if !layout.is_plain() {
                return Err("a whiteout that is a sparse file".into());
            }
            let directory = parent.len();
            let kind = match hidden {
                b".wh..opq" => Kind::Opaque,
                b"" | b"." | b".." => return Err("a whiteout of no name".into()),
                _ => Kind::Whiteout,
            };
            match kind {
                Kind::Opaque => path.truncate(directory),
                _ => {
                    let at = path.len() - last.len();
                    path.drain(at..at + name::WHITEOUT.len());
                }
            }
            name::check(&path)?;
            return self.push(&path, kind, Meta::default(), &Vec::new());
        }
        name::check(&path)?;
        if path.is_empty() && kind != b'5' {
            return Err("the root can only be a directory".into());
        }

        let plain = matches!(kind, b'0' | b'5' | b'S');
        let meta = Meta {
            mode: (header.number(100, 8)? & 0o7777) as u16,
            uid: owner(pax.uid, header.number(108, 8))?,
            gid: owner(pax.gid, header.number(116, 8))?,
            mtime: match pax.mtime {
                Some(time) => time,
                None => Time { sec: header.number(136, 12)?, nsec: 0 },
            },
        };
        for attribute in pax.xattrs.iter().filter(|attribute| attribute.name.starts_with(b"trusted.")) {
            // After some different ones, further ones are no news.
            if self.trusted.len() < 10 || self.trusted.contains_key(&attribute.name) {
                self.trusted.entry(attribute.name.clone()).or_insert_with(|| (0, path.clone())).0 += 1;
            }
        }
        let xattrs = self.attributes(pax.xattrs, plain)?;
        let target = || match (&link, &pax.linkpath) {
            (Some(target), _) | (None, Some(target)) => &target[..],
            (None, None) => header.text(157, 100),
        };
        let kind = match kind {
            b'1' => {
                let target = name::clean(target())?;
                crate::layer::check_hardlink(&path, &target)?;
                return self.push(&path, Kind::Hardlink(&target), Meta::default(), &Vec::new());
            }
            b'2' => {
                crate::layer::check_symlink(target())?;
                Kind::Symlink(target())
            }
            b'3' => match header.device()? {
                (0, 0) => return Err("a character device with the number 0:0 would be a whiteout".into()),
                (major, minor) => Kind::Char { major, minor },
            },
            b'4' => {
                let (major, minor) = header.device()?;
                Kind::Block { major, minor }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => {
                return self.file(
                    layout,
                    bytes,
                    Sparse { raw: raw.to_vec(), path, meta, xattrs, size, stored: size, regions: Vec::new() },
                );
            }
        };
        self.push(&path, kind, meta, &xattrs)
    }
}

/// Contents of regular files.
impl Scanner {
    /// Appends a file, or waits for its map.
    fn file(&mut self, layout: Layout, about: u64, mut sparse: Sparse) -> Checked<()> {
        match layout {
            Layout::Plain => {
                let whole = [Extent { at: 0, len: sparse.size, from: self.at }];
                let extents = if sparse.size > 0 { &whole[..] } else { &[] };
                self.push(&sparse.path, Kind::File { size: sparse.size, extents }, sparse.meta, &sparse.xattrs)
            }
            Layout::Listed { size, regions, more } => {
                sparse.size = size;
                sparse.regions = regions;
                if more {
                    self.skip = 0;
                    self.next = Next::Regions(Box::new(sparse));
                    return Ok(());
                }
                self.sparse(&sparse, 0)
            }
            Layout::Inside { size } => {
                sparse.size = size;
                self.skip = 0;
                self.next = Next::Map(Box::new(sparse), MapText { bytes: about, ..MapText::default() });
                Ok(())
            }
        }
    }

    /// Appends a sparse file whose map is known, and passes over its contents, of which the map was `map` bytes.
    fn sparse(&mut self, sparse: &Sparse, map: u64) -> Checked<()> {
        if sparse.regions.len() > self.limits.regions {
            return Err(format!("a sparse file of more than {} pieces", self.limits.regions).into());
        }
        let content = sparse.stored.checked_sub(map).ok_or("a sparse file with a map longer than its content")?;
        let (mut from, mut end, mut extents) = (self.at, 0u64, Vec::<Extent>::new());
        for &(at, len) in &sparse.regions {
            if at < end {
                return Err("a sparse file whose pieces overlap or are not in order".into());
            }
            // Some programs begin each piece at a block, some write them back to back.
            if len > 0 && !(from - self.at).is_multiple_of(BLOCK as u64) {
                return Err("a sparse file with a piece that is no multiple of 512 bytes before its last".into());
            }
            end = at.checked_add(len).filter(|end| *end <= sparse.size).ok_or("a sparse file with a piece outside")?;
            match extents.last_mut() {
                _ if len == 0 => {}
                Some(last) if last.at + last.len == at => last.len += len,
                _ => extents.push(Extent { at, len, from }),
            }
            from = from.checked_add(len).ok_or("is too large")?;
        }
        if from - self.at != content {
            return Err("a sparse file whose map says another size than its header".into());
        }
        self.skip = content.checked_add(padding(content)).ok_or("is too large")?;
        let kind = Kind::File { size: sparse.size, extents: &extents };
        self.push(&sparse.path, kind, sparse.meta, &sparse.xattrs)
    }

    fn more_regions(&mut self, mut sparse: Box<Sparse>, block: &[u8]) -> Result<()> {
        let (regions, more) = block.split_at_checked(504).unwrap_or_default();
        let more = more.first() != Some(&0);
        let mut read = || -> Checked<()> {
            old_regions(regions, more, &mut sparse.regions)?;
            if !more {
                return self.sparse(&sparse, 0);
            }
            if sparse.regions.len() > self.limits.regions {
                return Err(format!("a sparse file of more than {} pieces", self.limits.regions).into());
            }
            Ok(())
        };
        read().map_err(|why| self.refuse(&sparse.raw, &why))?;
        if more {
            self.next = Next::Regions(sparse);
        }
        Ok(())
    }

    fn more_map(&mut self, mut sparse: Box<Sparse>, mut map: MapText, block: &[u8]) -> Result<()> {
        map.bytes += block.len() as u64;
        map.blocks += block.len() as u64;
        let whole = match map.read(block, self.limits.regions) {
            Ok(false) if map.bytes > self.limits.pax => Err("a sparse file with a map that is too large".into()),
            other => other,
        };
        let refused = match whole {
            Ok(false) => {
                self.next = Next::Map(sparse, map);
                return Ok(());
            }
            Ok(true) => {
                sparse.regions = map.regions();
                self.sparse(&sparse, map.blocks)
            }
            Err(why) => Err(why),
        };
        refused.map_err(|why| self.refuse(&sparse.raw, &why))
    }

    fn push(&mut self, path: &[u8], kind: Kind<'_>, meta: Meta, xattrs: &Attributes) -> Checked<()> {
        let xattrs = xattrs.iter().map(|(key, value)| (&key[..], &value[..]));
        self.layer.push(path, kind, meta, xattrs).ok_or_else(|| "the layer's table is full".into())
    }

    /// The attributes that are for the file, in order. Where libarchive wrote both of its forms, they say the same; the one
    /// that Go and GNU tar know goes first.
    fn attributes(&self, found: Vec<Attribute>, plain: bool) -> Checked<Attributes> {
        let mut kept: Vec<_> =
            found.into_iter().filter(|x| xattr::policy(&x.name, plain) == xattr::Policy::Keep).collect();
        // Stable: the last of a form is the last still.
        kept.sort_by(|a, b| (&a.name, a.form).cmp(&(&b.name, b.form)));
        let mut all = Attributes::with_capacity(kept.len());
        let mut bytes = 0;
        for Attribute { name, value, .. } in kept {
            if name.len() > xattr::MAX_NAME || name.contains(&0) {
                return Err("an attribute's name is longer than 255 bytes or has a NUL in it".into());
            }
            if value.len() > xattr::MAX_VALUE {
                return Err("an attribute's value is larger than 64 KiB".into());
            }
            bytes += (name.len() + value.len()) as u64;
            match all.last_mut() {
                Some(last) if last.0 == name => last.1 = value,
                _ => all.push((name, value)),
            }
        }
        if bytes > self.limits.xattrs {
            return Err(format!("has more than {} bytes of attributes", self.limits.xattrs).into());
        }
        Ok(all)
    }
}

impl Pending {
    /// The name as the last header that has one says it.
    fn raw_name<'a>(&'a self, header: &Header<'a>) -> Cow<'a, [u8]> {
        let pax = self.pax.as_ref();
        match pax.and_then(|pax| pax.sparse.name.as_ref().or(pax.path.as_ref())).or(self.name.as_ref()) {
            Some(name) => Cow::Borrowed(name),
            None => header.name(),
        }
    }
}

/// A long name and a PAX record must say the same: Go believes the first, GNU tar the second.
fn agree(long: &Option<Vec<u8>>, pax: &Option<Vec<u8>>) -> Checked<()> {
    match (long, pax) {
        (Some(long), Some(pax)) if long != pax => Err("has a long name and another one by PAX".into()),
        _ => Ok(()),
    }
}

/// The content of an `L` or `K` header: a string that ends with a NUL.
fn long(body: &[u8]) -> Checked<Vec<u8>> {
    match until_nul(body) {
        b"" => Err("a long name that is empty".into()),
        name => Ok(name.to_vec()),
    }
}

/// aufs's own files at the root of old layers: they are nobody's.
fn is_aufs(component: &[u8]) -> bool {
    matches!(component, b".wh..wh.aufs" | b".wh..wh.orph" | b".wh..wh.plnk")
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// An owner: what PAX says, else the header. 2^32-1 means "no change" to chown(2).
fn owner(pax: Option<u64>, header: std::result::Result<i64, &'static str>) -> Checked<u32> {
    let number = match pax {
        Some(number) => number,
        None => u64::try_from(header?).unwrap_or(u64::MAX),
    };
    match u32::try_from(number) {
        Ok(number) if number != u32::MAX => Ok(number),
        _ => Err("an owner that Linux does not have".into()),
    }
}

/// A header's 512 bytes.
struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    fn field(&self, at: usize, len: usize) -> &'a [u8] {
        self.0.get(at..at + len).unwrap_or_default()
    }

    fn text(&self, at: usize, len: usize) -> &'a [u8] {
        until_nul(self.field(at, len))
    }

    fn number(&self, at: usize, len: usize) -> std::result::Result<i64, &'static str> {
        number(self.field(at, len))
    }

    fn kind(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or_default()
    }

    /// The sum of all bytes, its own field taken as blanks. Old programs summed signed bytes.
    fn checksum_is_right(&self) -> bool {
        // A header is too short for a sum to wrap; without the check for it the sum is four times as fast.
        let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        let high = |bytes: &[u8]| bytes.iter().filter(|byte| **byte >= 0x80).count() as i64;
        let field = self.field(148, 8);
        let Ok(stored) = number(field) else { return false };
        let unsigned = i64::from(sum(self.0)) - i64::from(sum(field)) + 8 * i64::from(b' ');
        stored == unsigned || stored == unsigned - 256 * (high(self.0) - high(field))
    }

    fn size(&self) -> std::result::Result<u64, &'static str> {
        u64::try_from(self.number(124, 12)?).map_err(|_| "the size is negative")
    }

    fn is_gnu(&self) -> bool {
        self.field(257, 8) == b"ustar  \0"
    }

    fn name(&self) -> Cow<'a, [u8]> {
        let name = self.text(0, 100);
        if self.field(257, 6) != b"ustar\0" {
            return name.into();
        }
        // star keeps times behind a shorter prefix.
        let star = self.field(508, 4) == b"tar\0";
        match self.text(345, if star { 131 } else { 155 }) {
            b"" => name.into(),
            prefix => [prefix, b"/", name].concat().into(),
        }
    }

    fn device(&self) -> Checked<(u32, u32)> {
        let [major, minor] = [(329, 0xfff), (337, 0xf_ffff)].map(|(at, most)| {
            let number = self.number(at, 8)?;
            u32::try_from(number).ok().filter(|n| *n <= most).ok_or("the device's number is not one that Linux has")
        });
        Ok((major?, minor?))
    }
}

/// A header's number: octal digits between blanks, up to a NUL; or base 256 with the first byte 0x80, or 0xff for negative
/// ones, as GNU tar writes what does not fit. Nothing is 0.
fn number(field: &[u8]) -> std::result::Result<i64, &'static str> {
    const WRONG: &str = "a field of the header is not a number";
    let base256 = |first: i64, rest: &[u8]| {
        rest.iter()
            .try_fold(first, |n, byte| n.checked_mul(256)?.checked_add(i64::from(*byte)))
            .ok_or("a number in the header is too large")
    };
    match field.split_first() {
        Some((0x80, rest)) => return base256(0, rest),
        Some((0xff, rest)) => return base256(-1, rest),
        _ => {}
    }
    let digits = until_nul(field).trim_ascii();
    if digits.is_empty() && !field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Err(WRONG);
    }
    digits.iter().try_fold(0, |n, byte| match byte {
        b'0'..=b'7' => Ok(n * 8 + i64::from(byte - b'0')),
        _ => Err(WRONG),
    })
}

/// How a regular file's content is laid out.
enum Layout {
    Plain,
    /// The regions are known, but for more that follow the header.
    Listed {
        size: u64,
        regions: Vec<(u64, u64)>,
        more: bool,
    },
    /// The content begins with the map.
    Inside {
        size: u64,
    },
}

impl Layout {
    fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    fn of(header: &Header<'_>, kind: u8, pax: &Pax) -> Checked<Self> {
        let sparse = &pax.sparse;
        if sparse.is_empty() {
            return if kind == b'S' { Self::old(header) } else { Ok(Self::Plain) };
        }
        if kind != b'0' {
            return Err("sparse by PAX, but not a regular file".into());
        }
        let size = match (sparse.size, sparse.realsize) {
            (Some(a), Some(b)) if a != b => return Err("a sparse file of two sizes".into()),
            (a, b) => a.or(b).ok_or("a sparse file without a size")?,
        };
        let regions = match (sparse.version, &sparse.map, &sparse.pairs[..]) {
            ((Some(1), Some(0)), None, []) => return Ok(Self::Inside { size }),
            ((None, None) | (Some(0), Some(0 | 1)), Some(map), []) => map,
            ((None, None) | (Some(0), Some(0 | 1)), None, pairs @ [_, ..]) => pairs,
            _ => return Err("a sparse file of an unknown version, or without a map".into()),
        };
        let mut pairs = regions.chunks_exact(2);
        let regions: Vec<_> = pairs.by_ref().filter_map(|pair| Some((*pair.first()?, *pair.last()?))).collect();
        if !pairs.remainder().is_empty() || sparse.count.is_some_and(|count| count != regions.len() as u64) {
            return Err("a sparse file whose map has another length than it says".into());
        }
        Ok(Self::Listed { size, regions, more: false })
    }

    /// Old GNU: four regions in the header.
    fn old(header: &Header<'_>) -> Checked<Self> {
        if !header.is_gnu() {
            return Err("an old sparse file that is not GNU tar's".into());
        }
        let size = u64::try_from(header.number(483, 12)?).map_err(|_| "the size is negative")?;
        let more = header.field(482, 1) != [0];
        let mut regions = Vec::new();
        old_regions(header.field(386, 96), more, &mut regions)?;
        Ok(Self::Listed { size, regions, more })
    }
}

/// Regions of 12 + 12 bytes. The list ends at one whose fields are empty; GNU tar then reads no further block, Go does, so
/// there must be none (`more`).
fn old_regions(mut fields: &[u8], more: bool, regions: &mut Vec<(u64, u64)>) -> Checked<()> {
    while let Some((at, rest)) = fields.split_at_checked(12) {
        let Some((len, rest)) = rest.split_at_checked(12) else { break };
        fields = rest;
        match (at.first(), len.first()) {
            (Some(0), Some(0)) if more => return Err("a sparse file whose map ends before its end".into()),
            (Some(0), Some(0)) => return Ok(()),
            (Some(0), _) | (_, Some(0)) => return Err("a sparse file with half a piece".into()),
            _ => {}
        }
        let [at, len] = [at, len].map(|field| {
            number(field).and_then(|n| u64::try_from(n).map_err(|_| "a sparse file with a negative number"))
        });
        regions.push((at?, len?));
    }
    Ok(())
}

/// The map at the start of a sparse file of PAX 1.0: a count, then twice as many numbers, a line each.
#[derive(Debug, Default)]
struct MapText {
    numbers: Vec<u64>,
    line: Option<u64>,
    /// Bytes of it, and of all that was read about the entry.
    blocks: u64,
    bytes: u64,
}

impl MapText {
    /// Reads a block; true if the map is whole.
    fn read(&mut self, block: &[u8], most: usize) -> Checked<bool> {
        const WRONG: &str = "a sparse file with a map that is not one";
        for byte in block {
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let line = self.line.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit));
                    self.line = Some(line.ok_or(WRONG)?);
                }
                b'\n' => self.numbers.push(self.line.take().ok_or(WRONG)?),
                _ => return Err(WRONG.into()),
            }
            let Some(&count) = self.numbers.first() else { continue };
            if count > most as u64 {
                return Err(format!("a sparse file of more than {most} pieces").into());
            }
            if self.numbers.len() as u64 == 1 + 2 * count {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn regions(&self) -> Vec<(u64, u64)> {
        let numbers = self.numbers.get(1..).unwrap_or_default();
        numbers.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?))).collect()
    }
}

/// What a PAX header says that matters here.
#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<Attribute>,
    sparse: PaxSparse,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct PaxSparse {
    version: (Option<u64>, Option<u64>),
    name: Option<Vec<u8>>,
    size: Option<u64>,
    realsize: Option<u64>,
    count: Option<u64>,
    /// 0.1: all numbers in one record.
    map: Option<Vec<u64>>,
    /// 0.0: a record for each number.
    pairs: Vec<u64>,
}

impl PaxSparse {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug)]
struct Attribute {
    name: Vec<u8>,
    form: Form,
    value: Vec<u8>,
}

/// In the order in which they are believed: the later more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// `LIBARCHIVE.xattr.`: the name URL-encoded, the value in base64.
    Encoded,
    /// `SCHILY.xattr.`: both as they are.
    Raw,
}

impl Pax {
    fn parse(mut body: &[u8]) -> Checked<Self> {
        let mut pax = Self::default();
        while !body.is_empty() {
            let (record, rest) = record(body).ok_or("a PAX header that is not one")?;
            body = rest;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or("a PAX record without a value")?;
            let (key, value) = record.split_at_checked(equals).unwrap_or_default();
            let value = value.get(1..).unwrap_or_default();
            if key.is_empty() || key.contains(&0) {
                return Err("a PAX record without a name, or with a NUL in it".into());
            }
            pax.set(key, value).map_err(|why| -> Why { format!("PAX {}: {why}", shown(key)).into() })?;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> std::result::Result<(), &'static str> {
        let text = |value: &[u8]| match value {
            b"" => Err("is empty"),
            _ if value.contains(&0) => Err("has a NUL in it"),
            _ => Ok(Some(value.to_vec())),
        };
        let number = |value| decimal(value).map(Some).ok_or("is not a number");
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.linkpath = text(value)?,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => self.mtime = Some(time(value).ok_or("is not a time")?),
            b"GNU.sparse.major" => self.sparse.version.0 = number(value)?,
            b"GNU.sparse.minor" => self.sparse.version.1 = number(value)?,
            b"GNU.sparse.name" => self.sparse.name = text(value)?,
            b"GNU.sparse.size" => self.sparse.size = number(value)?,
            b"GNU.sparse.realsize" => self.sparse.realsize = number(value)?,
            b"GNU.sparse.numblocks" => self.sparse.count = number(value)?,
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>();
                self.sparse.map = Some(numbers.ok_or("is not a list of numbers")?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let is_len = key == b"GNU.sparse.numbytes";
                if is_len != (self.sparse.pairs.len() % 2 == 1) {
                    return Err("is not where it should be");
                }
                self.sparse.pairs.push(decimal(value).ok_or("is not a number")?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push(Attribute { name: name.to_vec(), form: Form::Raw, value: value.to_vec() });
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = url_decoded(name).ok_or("is not URL-encoded")?;
                    let value = BASE64.decode(value).map_err(|_| "is not base64")?;
                    self.xattrs.push(Attribute { name, form: Form::Encoded, value });
                }
                // The rest is of no use for an image: comment, charset, hdrcharset, uname, gname, atime, ctime, and what
                // vendors add.
            }
        }
        Ok(())
    }

    /// What a global header may say: nothing that is acted on.
    fn check_global(&self) -> Checked<()> {
        let Self { path, linkpath, size, uid, gid, mtime, xattrs, sparse } = self;
        let text = path.is_none() && linkpath.is_none() && xattrs.is_empty() && sparse.is_empty();
        if text && size.is_none() && uid.is_none() && gid.is_none() && mtime.is_none() {
            return Ok(());
        }
        Err("a global PAX header that changes entries: some programs pass over it".into())
    }
}

/// libarchive writes no padding; others may.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The first record's `name=value`, and what follows: `length name=value\n`, where the length is that of all of it.
fn record(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = body.iter().take(21).position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(body.get(..blank)?)?).ok()?;
    let (record, rest) = body.split_at_checked(len)?;
    Some((record.strip_suffix(b"\n")?.get(blank + 1..)?, rest))
}

/// A number below 2^63, with nothing but digits.
fn decimal(text: &[u8]) -> Option<u64> {
    let number = text.iter().try_fold(0u64, |n, byte| match byte {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })?;
    (!text.is_empty() && i64::try_from(number).is_ok()).then_some(number)
}

/// Seconds with a fraction. What is below a nanosecond is cut off, towards the past.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let sec = i64::try_from(decimal(text.get(..dot)?)?).ok()?;
    let fraction = text.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nsec = digits.fold(0, |n, digit| n * 10 + u32::from(digit - b'0'));
    if !negative {
        return Some(Time { sec, nsec });
    }
    let finer = fraction.iter().skip(9).any(|digit| *digit != b'0');
    match nsec + u32::from(finer) {
        0 => Some(Time { sec: -sec, nsec: 0 }),
        below => Some(Time { sec: -sec - 1, nsec: 1_000_000_000 - below }),
    }
}

fn url_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let [high, low] = [rest.next()?, rest.next()?].map(|digit| char::from(*digit).to_digit(16));
        out.push(u8::try_from(high? * 16 + low?).ok()?);
    }
    Some(out)
}

/// A PAX key for an error.
fn shown(key: &[u8]) -> impl std::fmt::Display {
    key.get(..60).unwrap_or(key).escape_ascii()
}
