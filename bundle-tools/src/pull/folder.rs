//! A folder as a layer: what is in it, in the order of names, with owners, times, links and attributes.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::dir::Dir;
use crate::error::{At, Error, Result};
use crate::layer::{Extent, Kind, Meta, Time};
use crate::tar::Writer;

/// The most that all attributes of a file may have, in bytes, as in a layer that comes from elsewhere.
const MAX_XATTRS: usize = 128 << 10;

/// Writes all of `folder`. Sockets are left out, as no layer has them.
pub(super) fn write<W: Write>(folder: &Dir, writer: &mut Writer<W>) -> Result<()> {
    let root: OwnedFd = folder.as_fd().try_clone_to_owned().at(|| "duplicate a descriptor")?;
    let stat = rustix::fs::fstat(&root).at(|| "stat")?;
    let xattrs = attributes(&root)?;
    entry(writer, b"", Kind::Directory, &stat, &xattrs, None)?;
    Walk { writer, links: HashMap::new() }.directory(&root, &mut Vec::new())
}

struct Walk<'a, W: Write> {
    writer: &'a mut Writer<W>,
    /// The first name of each file that has several, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Walk<'_, W> {
    fn directory(&mut self, dir: &OwnedFd, path: &mut Vec<u8>) -> Result<()> {
        let said = |path: &[u8]| format!("read directory \"{}\"", path.escape_ascii());
        let mut names: Vec<CString> = Vec::new();
        for found in rustix::fs::Dir::read_from(dir).at(|| said(path))? {
            let found = found.at(|| said(path))?;
            if !matches!(found.file_name().to_bytes(), b"." | b"..") {
                names.push(found.file_name().to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            let parent = path.len();
            if parent > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            let shown = path.escape_ascii().to_string();
            self.one(dir, &name, path).map_err(|e| e.context(format!("\"{shown}\"")))?;
            path.truncate(parent);
        }
        Ok(())
    }

    fn one(&mut self, dir: &OwnedFd, name: &CString, path: &mut Vec<u8>) -> Result<()> {
        let open = |flags: OFlags| {
            rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).at(|| "open")
        };
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).at(|| "stat")?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            match self.links.get(&(stat.st_dev, stat.st_ino)) {
                Some(first) => return entry(self.writer, path, Kind::Hardlink(&first.clone()), &stat, &[], None),
                None => drop(self.links.insert((stat.st_dev, stat.st_ino), path.clone())),
            }
        }
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        match kind {
            FileType::Directory => {
                let below = open(OFlags::RDONLY | OFlags::DIRECTORY)?;
                let xattrs = attributes(&below)?;
                entry(self.writer, path, Kind::Directory, &stat, &xattrs, None)?;
                self.directory(&below, path)
            }
            FileType::RegularFile => {
                let mut file = File::from(open(OFlags::RDONLY | OFlags::NONBLOCK)?);
                // The name may have been given to something else since.
                let stat = rustix::fs::fstat(&file).at(|| "stat")?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(Error::invalid("changed while it was read"));
                }
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                let xattrs = attributes(&file)?;
                let extents = [Extent { at: 0, len: size, from: 0 }];
                let extents = if size > 0 { &extents[..] } else { &[] };
                entry(self.writer, path, Kind::File { size, extents }, &stat, &xattrs, Some(&mut file))
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).at(|| "read link")?;
                entry(self.writer, path, Kind::Symlink(target.as_bytes()), &stat, &[], None)
            }
            FileType::CharacterDevice => entry(self.writer, path, Kind::Char { major, minor }, &stat, &[], None),
            FileType::BlockDevice => entry(self.writer, path, Kind::Block { major, minor }, &stat, &[], None),
            FileType::Fifo => entry(self.writer, path, Kind::Fifo, &stat, &[], None),
            _ => Ok(()),
        }
    }
}

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

fn entry<W: Write>(
    writer: &mut Writer<W>,
    path: &[u8],
    kind: Kind<'_>,
    stat: &Stat,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    body: Option<&mut File>,
) -> Result<()> {
    let meta = Meta {
        mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or_default(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time { sec: stat.st_mtime, nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() },
    };
    let xattrs = xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    match body {
        Some(file) => writer.entry(path, kind, &meta, xattrs, Some(file)),
        None => writer.entry(path, kind, &meta, xattrs, None),
    }
}

/// The attributes that belong to the file and not to this machine, in the order of their names.
fn attributes(file: &(impl AsFd + AsRawFd)) -> Result<Attributes> {
    let mut names = vec![0; MAX_XATTRS];
    let n = match rustix::fs::flistxattr(file, &mut names) {
        Ok(n) => n,
        // The file system has none.
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e).at(|| "list attributes"),
    };
    let mut found = Vec::new();
    let mut value = Vec::new();
    for name in names.get(..n).unwrap_or_default().split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"system.") || name.starts_with(b"trusted.overlay.") || name == b"security.selinux" {
            continue;
        }
        value.resize(64 << 10, 0);
        let n = rustix::fs::fgetxattr(file, name, &mut value).at(|| "read an attribute")?;
        found.push((name.to_vec(), value.get(..n).unwrap_or_default().to_vec()));
    }
    found.sort_unstable();
    Ok(found)
}
