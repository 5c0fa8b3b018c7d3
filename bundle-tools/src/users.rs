//! Processes that use a bundle: containers that run.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{CWD, Mode, OFlags, Stat};

use crate::dir::{Dir, read_limited};

/// The longest table of mounts that is read, in bytes.
const MAX_TABLE: u64 = 64 << 20;

/// The processes of other mount namespaces than ours, one of each, as they were when [`Users::look`] looked. Only what
/// /proc shows us is seen.
#[derive(Debug, Default)]
pub struct Users(Vec<User>);

#[derive(Debug)]
struct User {
    pid: u32,
    /// Device and inode of its root.
    root: Option<(u64, u64)>,
    /// The writable directories of the overlays that its root has been.
    uppers: Vec<Vec<u8>>,
}

impl Users {
    /// Looks at all processes.
    pub fn look() -> Self {
        let namespace = |pid: &str| rustix::fs::readlinkat(CWD, format!("/proc/{pid}/ns/mnt"), Vec::new()).ok();
        let pids = Dir::at("/proc".as_ref()).and_then(|proc| proc.names()).unwrap_or_default();
        let mut seen: Vec<_> = namespace("self").into_iter().collect();
        let mut users = Vec::new();
        for name in pids {
            let Ok(pid) = name.parse() else { continue };
            let Some(theirs) = namespace(&name).filter(|theirs| !seen.contains(theirs)) else { continue };
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let table = rustix::fs::open(format!("/proc/{name}/mountinfo"), flags, Mode::empty()).ok();
            let table = table.and_then(|fd| read_limited(File::from(fd), "mountinfo", MAX_TABLE).ok());
            // One that has ended meanwhile says nothing for the others of its namespace.
            let Some(table) = table.filter(|table| !table.is_empty()) else { continue };
            seen.push(theirs);
            let root = rustix::fs::stat(format!("/proc/{name}/root")).ok().map(|stat| identity(&stat));
            users.push(User { pid, root, uppers: uppers(&table) });
        }
        Self(users)
    }

    /// A process whose root is an overlay with the writable directory `upper`.
    pub fn of_upper(&self, upper: &Dir) -> Option<u32> {
        let path = format!("/proc/self/fd/{}", upper.as_fd().as_raw_fd());
        let path = rustix::fs::readlinkat(CWD, path, Vec::new()).ok()?;
        self.0.iter().find(|user| user.uppers.iter().any(|upper| upper == path.to_bytes())).map(|user| user.pid)
    }

    /// A process whose root is the directory `root`.
    pub fn of_root(&self, root: &Dir) -> Option<u32> {
        let root = identity(&rustix::fs::fstat(root).ok()?);
        self.0.iter().find(|user| user.root == Some(root)).map(|user| user.pid)
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// The values of the options `upperdir` in a table of mounts, as they were before the kernel escaped them, of what is mounted
/// on the root. (Namespaces of services have copies of the host's mounts, and use none of them.)
fn uppers(table: &[u8]) -> Vec<Vec<u8>> {
    let on_root = |line: &&[u8]| line.split(|b| *b == b' ').nth(4) == Some(b"/");
    let words = table.split(|b| *b == b'\n').filter(on_root).flat_map(|line| line.split(|b| matches!(b, b' ' | b',')));
    words.filter_map(|word| word.strip_prefix(b"upperdir=")).map(unescaped).collect()
}

/// Octal escapes as their bytes: seq_escape(9) writes `\040` for a space.
fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let digit = |b: u8| matches!(b, b'0'..=b'7').then(|| u32::from(b - b'0'));
    let mut out = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        let byte = match text {
            [b'\\', a, b, c, ..] => {
                digit(*a).zip(digit(*b)).zip(digit(*c)).and_then(|((a, b), c)| u8::try_from(a * 64 + b * 8 + c).ok())
            }
            _ => None,
        };
        out.push(byte.unwrap_or(first));
        text = match byte {
            Some(_) => text.get(4..).unwrap_or_default(),
            None => rest,
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_known_by_its_upper_directory_whatever_its_name_has_in_it() {
        let table = b"36 1 0:30 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/a\\040b\\054c,workdir=/w\n\
                      37 1 8:1 / /data rw - ext4 /dev/sda1 rw\n\
                      38 1 0:31 / /x rw - overlay overlay rw,upperdir=/copy\n\
                      39 1 0:32 / / rw - overlay overlay rw,upperdir=/plain\n";
        assert_eq!(uppers(table), [&b"/a b,c"[..], b"/plain"]);
        for (text, expected) in
            [("", ""), ("a\\", "a\\"), ("\\1", "\\1"), ("\\777", "\\777"), ("\\134040", "\\040"), ("\\08", "\\08")]
        {
            assert_eq!(unescaped(text.as_bytes()), expected.as_bytes(), "{text}");
        }
    }
}
