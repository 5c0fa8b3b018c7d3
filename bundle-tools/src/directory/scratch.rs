//! A directory for a test, and layers to put into it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use std::fs::File;
use std::io::Read;

use crate::dir::Dir;
use crate::layer::{Kind, Layer, Meta, Time};
use crate::tar;

/// An empty directory that goes with the value.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// Below `TMPDIR`, or `/tmp`.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("orlop-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut path = std::env::temp_dir();
        path.push(name);
        Dir::make(&path).unwrap();
        Self(path)
    }

    pub(crate) fn dir(&self) -> Dir {
        Dir::at(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let name = self.0.file_name().unwrap().to_str().unwrap().to_owned();
        let parent = Dir::at(self.0.parent().unwrap()).unwrap();
        let _ = super::remove_tree(&parent, &name);
    }
}

/// An entry of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Item<'a> {
    pub(crate) path: &'a str,
    pub(crate) kind: Kind<'a>,
    pub(crate) meta: Meta,
    pub(crate) xattrs: Vec<(&'a [u8], &'a [u8])>,
    pub(crate) content: &'a [u8],
}

impl<'a> Item<'a> {
    pub(crate) fn new(path: &'a str, kind: Kind<'a>) -> Self {
        let time = if matches!(kind, Kind::Whiteout | Kind::Opaque) { 0 } else { 1_700_000_000 };
        let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: Time { sec: time, nsec: 0 } };
        Self { path, kind, meta, xattrs: Vec::new(), content: b"" }
    }

    pub(crate) fn dir(path: &'a str, mode: u16) -> Self {
        let item = Self::new(path, Kind::Directory);
        Self { meta: Meta { mode, ..item.meta }, ..item }
    }

    pub(crate) fn file(path: &'a str, mode: u16, content: &'a [u8]) -> Self {
        let item = Self::new(path, Kind::File { size: content.len() as u64, extents: &[] });
        Self { meta: Meta { mode, ..item.meta }, content, ..item }
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.meta.uid, self.meta.gid) = (uid, gid);
        self
    }

    pub(crate) fn time(mut self, sec: i64, nsec: u32) -> Self {
        self.meta.mtime = Time { sec, nsec };
        self
    }

    pub(crate) fn xattr(mut self, name: &'a str, value: &'a [u8]) -> Self {
        self.xattrs.push((name.as_bytes(), value));
        self
    }
}

/// A layer of these entries: its tar, in a file without a name, and its table.
pub(crate) fn stored(scratch: &Scratch, items: &[Item<'_>]) -> (File, Layer) {
    let mut writer = tar::Writer::new(Vec::new());
    for item in items {
        let mut content = item.content;
        let body: Option<&mut dyn Read> = if item.content.is_empty() { None } else { Some(&mut content) };
        writer.entry(item.path.as_bytes(), item.kind, &item.meta, item.xattrs.iter().copied(), body).unwrap();
    }
    let bytes = writer.finish().unwrap();
    let dir = scratch.dir();
    let file = dir.create("layer.tar").unwrap();
    dir.unlink("layer.tar").unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    (file, scanned(&bytes))
}

/// The table of a tar.
pub(crate) fn scanned(bytes: &[u8]) -> Layer {
    let mut scanner = tar::Scanner::new(tar::Limits::default());
    scanner.feed(bytes).unwrap();
    scanner.finish().unwrap()
}
