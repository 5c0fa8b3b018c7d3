//! The tar around images: `docker save` and archived layouts. Its table says where in the file each name's content is.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::compress;
use crate::digest::Digest;
use crate::error::{At, Error, Result};
use crate::image::Compression;
use crate::layer::{Kind, Layer};
use crate::store::Store;
use crate::tar::{Limits, Scanner};

use super::Piece;

/// The most entries of an archive: each image has two and each layer three, where the old format is used.
const MAX_ENTRIES: u64 = 100_000;

/// How many links are followed from one to the next.
const MAX_LINKS: usize = 8;

/// See the [module](self).
#[derive(Debug)]
pub struct Archive {
    file: File,
    members: HashMap<Vec<u8>, Member>,
}

#[derive(Debug)]
enum Member {
    Content {
        from: u64,
        len: u64,
    },
    /// The clean name of what it means.
    Link(Vec<u8>),
}

impl Archive {
    /// Reads the table of the archive at `path`. The scan is memory-safe code with bounds and looks at nothing but
    /// headers. What is compressed is inflated by the store's worker, as if it were a layer.
    pub fn open(store: &Store, path: &Path) -> Result<Self> {
        Self::read(store, path).map_err(|e| e.context(path.display()))
    }

    fn read(store: &Store, path: &Path) -> Result<Self> {
        let mut file = File::open(path).at(|| "open")?;
        if !file.metadata().at(|| "stat")?.is_file() {
            return Err(Error::invalid("not a regular file"));
        }
        let mut buffer = vec![0; 256 << 10];
        let mut n = file.read(&mut buffer).at(|| "read")?;
        if compress::detect(buffer.get(..n).unwrap_or_default()) != Compression::None {
            let (tar, table) = inflated(store, path)?;
            return Self::of(tar, &table);
        }
        let mut scanner = Scanner::new(Limits { entries: MAX_ENTRIES, ..Limits::default() });
        while n > 0 {
            scanner.feed(buffer.get(..n).unwrap_or_default())?;
            n = file.read(&mut buffer).at(|| "read")?;
        }
        Self::of(file, &scanner.finish()?)
    }

    fn of(file: File, table: &Layer) -> Result<Self> {
        if table.len() as u64 > MAX_ENTRIES {
            return Err(Error::invalid(format!("more than {MAX_ENTRIES} entries")));
        }
        let mut members = HashMap::new();
        for entry in table.entries() {
            let member = match entry.kind {
                Kind::File { size: 0, .. } => Member::Content { from: 0, len: 0 },
                Kind::File { size, extents } => match extents {
                    [one] if one.at == 0 && one.len == size => Member::Content { from: one.from, len: size },
                    _ => return Err(Error::invalid(format!("\"{}\": is sparse", entry.path.escape_ascii()))),
                },
                Kind::Hardlink(target) => Member::Link(target.to_vec()),
                Kind::Symlink(target) => match within(entry.path, target) {
                    Some(target) => Member::Link(target),
                    // Not inside: as good as not there, which is an error where it is asked for.
                    None => continue,
                },
                _ => continue,
            };
            members.insert(entry.path.to_vec(), member);
        }
        Ok(Self { file, members })
    }

    /// True if there is a member of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name.as_bytes())
    }

    /// The content of the member `name`, or of what it links to.
    pub(super) fn piece(&self, name: &str) -> Result<Piece> {
        // A name may be written with a dot in front.
        let mut key = name.trim_start_matches("./").as_bytes();
        for _ in 0..MAX_LINKS {
            match self.members.get(key) {
                Some(Member::Content { from, len }) => {
                    let file = self.file.try_clone().at(|| "duplicate a descriptor")?;
                    return Ok(Piece { file, from: *from, len: *len });
                }
                Some(Member::Link(target)) => key = target,
                None => return Err(Error::not_found(format!("{name:?} is not in the archive"))),
            }
        }
        Err(Error::invalid(format!("{name:?} links round and round")))
    }
}

/// The clean name that the symbolic link `path` to `target` means, if that is inside.
fn within(path: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    parts.pop();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// The plain tar of the compressed one at `path`, and its table.
fn inflated(store: &Store, path: &Path) -> Result<(File, Layer)> {
    let diff_id: Digest = crate::pull::add_file(store, path, &())?.1.diff_id;
    store.layer(&diff_id)?.ok_or_else(|| Error::not_found("collected while it was read"))
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn a_link_is_resolved_by_its_name_alone() {
        for (path, target, expected) in [
            ("a/layer.tar", "../b/layer.tar", Some("b/layer.tar")),
            ("a/b/c", "../../d", Some("d")),
            ("a", "./b//c", Some("b/c")),
            ("a/layer.tar", "../../b", None),
            ("a", "/etc/passwd", None),
            ("a", "..", None),
        ] {
            let found = within(path.as_bytes(), target.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{path} -> {target}");
        }
    }
}
