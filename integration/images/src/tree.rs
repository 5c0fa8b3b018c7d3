//! What is in a folder, to be compared with what is in another.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// The most differences that are listed.
const SHOWN: usize = 20;

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `d f l c b p s`.
    pub kind: char,
    /// Permissions, and the set-id and sticky bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// A device's number.
    pub rdev: u64,
    /// A file's length.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// A file's digest, a link's target.
    pub content: Vec<u8>,
    /// How many names it has; of what is not a directory.
    pub names: u64,
    /// The first of its names in this tree.
    pub first: Vec<u8>,
    /// The bytes on disk; only compared when asked for.
    pub blocks: u64,
}

/// What counts as a difference.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Owners and groups.
    pub owners: bool,
    /// Times to the nanosecond, to the second, or not at all.
    pub times: Times,
    /// The times of directories too. Not all writers put them back after writing into a directory.
    pub directory_times: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// Which names are one file, and how many it has.
    pub links: bool,
    /// The root's own attributes, on which programs do not agree when no layer has an entry for it.
    pub root: bool,
    /// Names to leave out, with all below.
    pub without: Vec<&'static str>,
}

/// How exactly times are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Whole.
    Nanoseconds,
    /// Go's writers keep no more.
    Seconds,
    /// Not at all.
    Ignored,
}

impl Default for Rules {
    /// Everything counts.
    fn default() -> Self {
        Self {
            owners: true,
            times: Times::Nanoseconds,
            directory_times: true,
            xattrs: true,
            links: true,
            root: true,
            without: Vec::new(),
        }
    }
}

/// A folder's whole content, by name; the root's is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// The names, without a slash in front.
    pub nodes: BTreeMap<Vec<u8>, Node>,
}

impl Tree {
    /// Reads all of `dir`. Symbolic links are not followed, FIFOs and devices are not opened.
    pub fn of(dir: &Path) -> Self {
        let mut tree = Self::default();
        let mut first = HashMap::new();
        tree.add(dir, Vec::new(), &mut first);
        tree
    }

    fn add(&mut self, path: &Path, name: Vec<u8>, first: &mut HashMap<(u64, u64), Vec<u8>>) {
        let meta = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let kind = kind(&meta);
        let key = (meta.dev(), meta.ino());
        let known = if kind == 'd' { None } else { first.get(&key).cloned() };
        let content = match kind {
            // A second name of a file has its content.
            'f' => known.as_ref().map_or_else(|| hash(path), |other| self.nodes[other].content.clone()),
            'l' => fs::read_link(path).unwrap().into_os_string().into_vec(),
            _ => Vec::new(),
        };
        let node = Node {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            rdev: if matches!(kind, 'c' | 'b') { meta.rdev() } else { 0 },
            size: if kind == 'f' { meta.size() } else { 0 },
            xattrs: xattrs(path),
            content,
            names: if kind == 'd' { 1 } else { meta.nlink() },
            first: known.unwrap_or_else(|| first.entry(key).or_insert_with(|| name.clone()).clone()),
            blocks: if kind == 'f' { meta.blocks() * 512 } else { 0 },
        };
        self.nodes.insert(name.clone(), node);
        if kind == 'd' {
            let mut children: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            children.sort();
            for child in children {
                let below = if name.is_empty() {
                    child.as_bytes().to_vec()
                } else {
                    [name.as_slice(), b"/", child.as_bytes()].concat()
                };
                self.add(&path.join(child), below, first);
            }
        }
    }

    /// How `other` differs: the first 20 differences, and the number of the rest. Empty if it does not.
    pub fn differences(&self, other: &Self, rules: &Rules) -> Vec<String> {
        let counts = |name: &&Vec<u8>| {
            !rules.without.iter().any(|out| {
                let out = out.as_bytes();
                name.as_slice() == out || (name.starts_with(out) && name.get(out.len()) == Some(&b'/'))
            })
        };
        let mut lines = Vec::new();
        for (name, node) in self.nodes.iter().filter(|(name, _)| counts(name)) {
            let shown = shown(name);
            match other.nodes.get(name) {
                None => lines.push(format!("{shown}: {} is missing", node.kind)),
                Some(second) => {
                    lines.extend(node.differences(second, name, rules).into_iter().map(|d| format!("{shown}: {d}")));
                }
            }
        }
        for (name, node) in other.nodes.iter().filter(|(name, _)| counts(name) && !self.nodes.contains_key(*name)) {
            lines.push(format!("{}: {} is too many", shown(name), node.kind));
        }
        let rest = lines.len().saturating_sub(SHOWN);
        lines.truncate(SHOWN);
        if rest > 0 {
            lines.push(format!("and {rest} more"));
        }
        lines
    }

    /// One line a name, in order, without the root: `d etc`, `f etc/x 5`, `l a -> b`, `h b = a` (a further name of a
    /// file), `c null 1:3`, `p fifo`.
    pub fn listing(&self) -> Vec<String> {
        self.nodes
            .iter()
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, node)| {
                let shown = shown(name);
                match node.kind {
                    _ if node.first != *name => format!("h {shown} = {}", self::shown(&node.first)),
                    'f' => format!("f {shown} {}", node.size),
                    'l' => format!("l {shown} -> {}", self::shown(&node.content)),
                    'c' | 'b' => format!("{} {shown} {}:{}", node.kind, major(node.rdev), minor(node.rdev)),
                    kind => format!("{kind} {shown}"),
                }
            })
            .collect()
    }
}

impl Node {
    fn differences(&self, other: &Self, name: &[u8], rules: &Rules) -> Vec<String> {
        let mut lines = Vec::new();
        if self.kind != other.kind {
            return vec![format!("is {} and not {}", other.kind, self.kind)];
        }
        if self.content != other.content || self.size != other.size {
            lines.push(if self.kind == 'l' {
                format!("points to {} and not {}", shown(&other.content), shown(&self.content))
            } else {
                format!("has other content ({} bytes, {})", other.size, self.size)
            });
        }
        if self.rdev != other.rdev {
            lines.push(format!("is device {:x} and not {:x}", other.rdev, self.rdev));
        }
        if rules.links && (self.first != other.first || self.names != other.names) {
            let of = |node: &Self| format!("one of {} names of {}", node.names, shown(&node.first));
            lines.push(format!("is {} and not {}", of(other), of(self)));
        }
        if name.is_empty() && !rules.root {
            return lines;
        }
        // A symbolic link has no permissions of its own.
        if self.mode != other.mode && self.kind != 'l' {
            lines.push(format!("mode {:o} and not {:o}", other.mode, self.mode));
        }
        if rules.owners && self.owner != other.owner {
            lines.push(format!("owner {:?} and not {:?}", other.owner, self.owner));
        }
        let same_time = match rules.times {
            Times::Nanoseconds => self.mtime == other.mtime,
            Times::Seconds => self.mtime.0 == other.mtime.0,
            Times::Ignored => true,
        };
        if !same_time && (self.kind != 'd' || rules.directory_times) {
            lines.push(format!("mtime {:?} and not {:?}", other.mtime, self.mtime));
        }
        if rules.xattrs && self.xattrs != other.xattrs {
            let brief = |xattrs: &BTreeMap<OsString, Vec<u8>>| {
                let pair = |(k, v): (&OsString, &Vec<u8>)| format!("{}={}", k.display(), shown(&v[..v.len().min(40)]));
                xattrs.iter().take(5).map(pair).collect::<Vec<_>>().join(" ")
            };
            lines.push(format!("xattrs [{}] and not [{}]", brief(&other.xattrs), brief(&self.xattrs)));
        }
        lines
    }
}

fn kind(meta: &Metadata) -> char {
    let file_type = meta.file_type();
    match () {
        () if file_type.is_dir() => 'd',
        () if file_type.is_file() => 'f',
        () if file_type.is_symlink() => 'l',
        () if file_type.is_char_device() => 'c',
        () if file_type.is_block_device() => 'b',
        () if file_type.is_fifo() => 'p',
        () => 's',
    }
}

fn major(rdev: u64) -> u32 {
    rustix::fs::major(rdev)
}

fn minor(rdev: u64) -> u32 {
    rustix::fs::minor(rdev)
}

fn shown(name: &[u8]) -> String {
    let text = name.escape_ascii().to_string();
    if text.len() <= 300 { text } else { format!("{}...({} bytes)", &text[..60], name.len()) }
}

fn hash(path: &Path) -> Vec<u8> {
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        let n = file.read(&mut buffer).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if n == 0 {
            return hash.finalize().to_vec();
        }
        hash.update(&buffer[..n]);
    }
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut list = vec![0; 128 << 10];
    // A file system without attributes has none.
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let names = list[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap_or(0);
            value.truncate(length);
            (OsString::from_vec(name.to_vec()), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn every_kind_of_difference_is_seen_and_named() {
        let dir = std::env::temp_dir().join(format!("orlop-tree-{}", std::process::id()));
        for name in ["a", "b"] {
            let side = dir.join(name);
            fs::create_dir_all(side.join("d")).unwrap();
            fs::write(side.join("d/f"), "x").unwrap();
            fs::hard_link(side.join("d/f"), side.join("g")).unwrap();
            symlink("f", side.join("d/l")).unwrap();
        }
        let rules = Rules { times: Times::Ignored, ..Rules::default() };
        let (a, b) = (Tree::of(&dir.join("a")), Tree::of(&dir.join("b")));
        assert_eq!(a.differences(&b, &rules), [""; 0]);
        assert_eq!(a.listing(), ["d d", "f d/f 1", "l d/l -> f", "h g = d/f"]);

        let seen = |change: &dyn Fn(&Path), word: &str| {
            change(&dir.join("b"));
            let found = a.differences(&Tree::of(&dir.join("b")), &rules);
            assert!(found.iter().any(|line| line.contains(word)), "{word}: {found:?}");
        };
        seen(&|b| fs::write(b.join("d/f"), "y").unwrap(), "d/f: has other content (1 bytes, 1)");
        seen(&|b| fs::set_permissions(b.join("d"), fs::Permissions::from_mode(0o711)).unwrap(), "d: mode 711");
        seen(&|b| fs::write(b.join("n"), "").unwrap(), "n: f is too many");
        seen(&|b| fs::remove_file(b.join("g")).unwrap(), "g: f is missing");
        seen(&|b| symlink("q", b.join("g")).unwrap(), "g: is l and not f");
        fs::remove_dir_all(dir).unwrap();
    }
}
