//! Extended attributes, read and written by descriptor.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Names and values, in the order of the names.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// The longest value and the longest list of names that Linux has, in bytes (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const MAX: usize = 64 << 10;

/// True for an access list, which is a second form of the mode: it is set after the mode, which would change it.
pub(crate) fn is_access_list(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// Reads attributes, with buffers that are made once.
#[derive(Debug)]
pub(crate) struct Reader {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { names: vec![0; MAX], value: vec![0; MAX] }
    }
}

impl Reader {
    /// All attributes of an open file or directory. A file system without attributes has none.
    pub(crate) fn of(&mut self, fd: impl AsFd) -> Result<Attributes, Errno> {
        let listed = rustix::fs::flistxattr(&fd, self.names.as_mut_slice());
        collect(&self.names, listed, |name| {
            let n = rustix::fs::fgetxattr(&fd, name, self.value.as_mut_slice())?;
            Ok(self.value.get(..n).unwrap_or_default().to_vec())
        })
    }

    /// The attributes of `name` in `dir`, which cannot be opened: a link, a FIFO, a device. They are reached through
    /// `/proc`; where that is not mounted, there are none.
    pub(crate) fn of_name(&mut self, dir: impl AsFd, name: &[u8]) -> Result<Attributes, Errno> {
        let path = in_proc(dir, name);
        match rustix::fs::llistxattr(&*path, self.names.as_mut_slice()) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Vec::new()),
            listed => collect(&self.names, listed, |name| {
                let n = rustix::fs::lgetxattr(&*path, name, self.value.as_mut_slice())?;
                Ok(self.value.get(..n).unwrap_or_default().to_vec())
            }),
        }
    }
}

/// What `/proc` calls `name` in the open directory `dir`.
fn in_proc(dir: impl AsFd, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).as_bytes(), name].concat()
}

fn collect(
    names: &[u8],
    listed: Result<usize, Errno>,
    mut value: impl FnMut(&[u8]) -> Result<Vec<u8>, Errno>,
) -> Result<Attributes, Errno> {
    let len = match listed {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let mut attributes = Attributes::new();
    for name in names.get(..len).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match value(name) {
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            read => attributes.push((name.to_vec(), read?)),
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

/// Sets an attribute of an open file or directory.
pub(crate) fn set(fd: impl AsFd, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
}

/// Sets an attribute of `name` in `dir` itself, through `/proc`.
pub(crate) fn set_of_name(dir: impl AsFd, file: &[u8], name: &[u8], value: &[u8]) -> Result<(), Errno> {
    rustix::fs::lsetxattr(in_proc(dir, file), name, value, XattrFlags::empty())
}
