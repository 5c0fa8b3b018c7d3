//! A layer's table: what its tar says, entry by entry, in the tar's order.
//!
//! The table is made once, while the layer comes in, and is kept beside the tar; from then on no tar header is read
//! again. Names are relative to the layer's root and clean: no empty, `.` or `..` component, no leading or trailing
//! slash, no NUL, at most 255 bytes a component and 4095 in all. The root itself is the empty name.

pub mod name;
mod table;
pub mod xattr;

pub use table::check;
pub(crate) use table::{check_hardlink, check_symlink};

/// A time, as a tar has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Time {
    /// Seconds since 1970; negative before.
    pub sec: i64,
    /// Nanoseconds, below 10^9.
    pub nsec: u32,
}

impl Time {
    /// This moment.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nsec: since.subsec_nanos() }
    }
}

/// What all kinds of entries have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permissions, and the set-id and sticky bits: at most 0o7777.
    pub mode: u16,
    /// The owner, as a number; names in a tar mean nothing here.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When the content last changed.
    pub mtime: Time,
}

/// A piece of a file's content. What no extent covers is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file, in bytes.
    pub at: u64,
    /// How many bytes; never 0.
    pub len: u64,
    /// Where in the tar.
    pub from: u64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory.
    Directory,
    /// A regular file of `size` bytes; the extents are in order, apart, and within the size and the tar.
    File {
        /// Bytes, with holes.
        size: u64,
        /// Where the bytes are. One extent that starts at 0, but for sparse files; none for empty ones.
        extents: &'a [Extent],
    },
    /// A symbolic link; the target is kept as it is, and never empty.
    Symlink(&'a [u8]),
    /// Another name of what is called so in this layer or in one below: a clean name.
    Hardlink(&'a [u8]),
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
    /// The entry's name (without `.wh.`) is not in the layers below (layer.md, "Whiteouts").
    Whiteout,
    /// The entry's name is a directory, and nothing in it is from the layers below (`.wh..wh..opq`).
    Opaque,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name; empty for the root, which is a directory or opaque.
    pub path: &'a [u8],
    /// What it is.
    pub kind: Kind<'a>,
    /// Zero for whiteouts and opaque marks, and without meaning for hard links.
    pub meta: Meta,
    /// Extended attributes: names without NUL and values, in the order of the names, each name once.
    pub xattrs: Xattrs<'a>,
}

/// The extended attributes of an entry.
#[derive(Clone, Copy)]
pub struct Xattrs<'a> {
    spans: &'a [(Span, Span)],
    bytes: &'a [u8],
}

impl<'a> Xattrs<'a> {
    /// None.
    pub const EMPTY: Xattrs<'static> = Xattrs { spans: &[], bytes: &[] };

    /// Names and values, in the order of the names.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.spans.iter().map(move |(name, value)| (name.of(self.bytes), value.of(self.bytes)))
    }

    /// How many.
    pub fn len(self) -> usize {
        self.spans.len()
    }

    /// True if there are none.
    pub fn is_empty(self) -> bool {
        self.spans.is_empty()
    }
}

impl PartialEq for Xattrs<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Xattrs<'_> {}

impl std::fmt::Debug for Xattrs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(
                self.iter().map(|(name, value)| (name.escape_ascii().to_string(), value.escape_ascii().to_string())),
            )
            .finish()
    }
}

/// A piece of the table's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    at: u32,
    len: u32,
}

impl Span {
    /// The bytes. A span is made only by `Layer::push`, so it is inside; if it were not, it would be empty.
    fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.at as usize..).and_then(|rest| rest.get(..self.len as usize)).unwrap_or_default()
    }
}

/// An entry as it is kept: everything of varying length is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    path: Span,
    kind: RowKind,
    meta: Meta,
    xattrs: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RowKind {
    Directory,
    File { size: u64, extents: Span },
    Symlink(Span),
    Hardlink(Span),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Whiteout,
    Opaque,
}

/// See the [module](self).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    rows: Vec<Row>,
    extents: Vec<Extent>,
    xattrs: Vec<(Span, Span)>,
    bytes: Vec<u8>,
    /// The length of the tar, in bytes.
    pub tar_size: u64,
}

impl Layer {
    /// Appends `entry`, whose parts are clean already. `None` if the table would have more than 4 GiB of names or 2^32 of
    /// anything: limits of the table's own, beyond every limit of the scanner.
    #[must_use = "a table that is full is an error"]
    pub fn push<'x>(
        &mut self,
        path: &[u8],
        kind: Kind<'_>,
        meta: Meta,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) -> Option<()> {
        let path = self.keep(path)?;
        let kind = match kind {
            Kind::Directory => RowKind::Directory,
            Kind::File { size, extents } => {
                let at = u32::try_from(self.extents.len()).ok()?;
                self.extents.extend_from_slice(extents);
                RowKind::File { size, extents: Span { at, len: u32::try_from(extents.len()).ok()? } }
            }
            Kind::Symlink(target) => RowKind::Symlink(self.keep(target)?),
            Kind::Hardlink(target) => RowKind::Hardlink(self.keep(target)?),
            Kind::Char { major, minor } => RowKind::Char(major, minor),
            Kind::Block { major, minor } => RowKind::Block(major, minor),
            Kind::Fifo => RowKind::Fifo,
            Kind::Whiteout => RowKind::Whiteout,
            Kind::Opaque => RowKind::Opaque,
        };
        let first = self.xattrs.len();
        for (name, value) in xattrs {
            let pair = (self.keep(name)?, self.keep(value)?);
            self.xattrs.push(pair);
        }
        let xattrs = Span { at: u32::try_from(first).ok()?, len: u32::try_from(self.xattrs.len() - first).ok()? };
        self.rows.push(Row { path, kind, meta, xattrs });
        Some(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Option<Span> {
        let span = Span { at: u32::try_from(self.bytes.len()).ok()?, len: u32::try_from(bytes.len()).ok()? };
        u32::try_from(self.bytes.len() + bytes.len()).ok()?;
        self.bytes.extend_from_slice(bytes);
        Some(span)
    }

    /// The entries, in the tar's order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        self.rows.iter().map(|row| self.entry(row))
    }

    /// The entry with this number, counted from 0 in the tar's order.
    pub fn get(&self, number: usize) -> Option<Entry<'_>> {
        self.rows.get(number).map(|row| self.entry(row))
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn entry<'a>(&'a self, row: &'a Row) -> Entry<'a> {
        let kind = match &row.kind {
            RowKind::Directory => Kind::Directory,
            RowKind::File { size, extents } => Kind::File { size: *size, extents: piece(&self.extents, *extents) },
            RowKind::Symlink(target) => Kind::Symlink(target.of(&self.bytes)),
            RowKind::Hardlink(target) => Kind::Hardlink(target.of(&self.bytes)),
            RowKind::Char(major, minor) => Kind::Char { major: *major, minor: *minor },
            RowKind::Block(major, minor) => Kind::Block { major: *major, minor: *minor },
            RowKind::Fifo => Kind::Fifo,
            RowKind::Whiteout => Kind::Whiteout,
            RowKind::Opaque => Kind::Opaque,
        };
        let xattrs = Xattrs { spans: piece(&self.xattrs, row.xattrs), bytes: &self.bytes };
        Entry { path: row.path.of(&self.bytes), kind, meta: row.meta, xattrs }
    }
}

/// The part of a list that a span means.
fn piece<T>(list: &[T], span: Span) -> &[T] {
    list.get(span.at as usize..).and_then(|rest| rest.get(..span.len as usize)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_read_back() {
        let mut layer = Layer::default();
        let meta = Meta { mode: 0o755, uid: 1, gid: 2, mtime: Time { sec: -1, nsec: 5 } };
        let extents = [Extent { at: 0, len: 3, from: 512 }];
        layer.push(b"", Kind::Directory, meta, []).unwrap();
        layer.push(b"a", Kind::File { size: 3, extents: &extents }, meta, [(&b"user.x"[..], &b"y"[..])]).unwrap();
        layer.push(b"b", Kind::Hardlink(b"a"), Meta::default(), []).unwrap();
        let entries: Vec<_> = layer.entries().collect();
        assert_eq!(entries[0].path, b"");
        assert_eq!(entries[1].kind, Kind::File { size: 3, extents: &extents });
        assert_eq!(entries[1].xattrs.iter().collect::<Vec<_>>(), [(&b"user.x"[..], &b"y"[..])]);
        assert_eq!(entries[2].kind, Kind::Hardlink(b"a"));
        assert_eq!(entries[2].xattrs, Xattrs::EMPTY);
    }
}
