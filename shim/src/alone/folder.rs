//! The folder of a container, and what is in it.
//!
//! ```text
//! STATE/ID/          the claim: mkdir decides who has ID; the monitor holds a lock on the directory
//!     options.json   what `run` was told
//!     state.json     what the monitor knows
//!     stop           somebody has stopped the container: no policy starts it again
//!     exit, oom      its last exit status, and whether the kernel killed for want of memory, as conmon has them
//!     attach         a socket: the container's streams
//!     ctl            a FIFO: orders, a line each
//!     notify         a socket: the container's word to the service manager, if it has one
//!     stdout, stderr FIFOs, which the container holds open at both ends
//!     container.log  its log, unless it is elsewhere
//! ```
//!
//! Files are replaced in one step, so a reader finds one or the other. All is reached through the folder's fd; only the
//! path of the state directory is resolved as the caller gave it.

use orlop::error::{At, Error, ErrorKind, Result};
use orlop::store::ContainerId;
use orlop_sys::rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat, renameat, unlinkat,
};
use orlop_sys::rustix::io::{read, retry_on_intr, write};
use orlop_sys::{AsFd, AsRawFd, BorrowedFd, Errno, OwnedFd};

/// What `run` was told.
pub const OPTIONS: &str = "options.json";
/// What the monitor knows.
pub const STATE: &str = "state.json";
/// Somebody's intent that the container stay stopped.
pub const STOP: &str = "stop";
/// The last exit status.
pub const EXIT: &str = "exit";
/// It was killed for want of memory.
pub const OOM: &str = "oom";
/// Where clients attach.
pub const ATTACH: &str = "attach";
/// Where orders go.
pub const CTL: &str = "ctl";
/// Where the container speaks to the service manager.
pub const NOTIFY: &str = "notify";
/// The log, unless it is elsewhere.
pub const LOG: &str = "container.log";

/// The largest file of ours that is read, in bytes.
const MAX_FILE: usize = 1 << 20;

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The state directory.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: String,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    id: ContainerId,
    path: String,
}

/// What a monitor is told through its FIFO. The first two are conmon's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The terminal has this size.
    Resize {
        /// In lines.
        height: u16,
        /// In characters.
        width: u16,
    },
    /// The log file has another name now: open it again.
    Reopen,
    /// Stop the container: this signal, and after so many milliseconds SIGKILL.
    Stop {
        /// The signal.
        signal: i32,
        /// Milliseconds; `u32::MAX` is for ever.
        grace: u32,
    },
}

impl Order {
    /// The line.
    pub fn line(self) -> String {
        match self {
            Self::Resize { height, width } => format!("1 {height} {width}\n"),
            Self::Reopen => "2 0 0\n".to_owned(),
            Self::Stop { signal, grace } => format!("3 {signal} {grace}\n"),
        }
    }

    /// Reads a line without its newline; `None` for what is no order.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (kind, a, b) = (words.next()?, words.next()?, words.next()?);
        match kind {
            "1" => Some(Self::Resize { height: a.parse().ok()?, width: b.parse().ok()? }),
            "2" => Some(Self::Reopen),
            "3" => Some(Self::Stop { signal: a.parse().ok()?, grace: b.parse().ok()? }),
            _ => None,
        }
    }
}

impl Root {
    /// Opens the state directory, and makes it with its parents if it is not there: nobody but its owner looks inside.
    pub fn open(path: &str) -> Result<Self> {
        let at = || format!("state directory {path}");
        for (end, _) in path.match_indices('/').skip(1) {
            make(path.get(..end).unwrap_or_default(), 0o711).at(at)?;
        }
        make(path, 0o700).at(at)?;
        let fd = openat(CWD, path, OPEN_DIR, Mode::empty()).at(at)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes an id that nobody has.
    pub fn claim(&self, id: &ContainerId) -> Result<Folder> {
        match mkdirat(&self.fd, id.as_str(), Mode::RWXU) {
            Err(Errno::EXIST) => {
                Err(Error::new(ErrorKind::AlreadyExists, format!("{id}: the id is in use; see orlop-shim ps -a")))
            }
            made => made.at(|| format!("make {}/{id}", self.path)).and_then(|()| self.folder(id)),
        }
    }

    /// The folder of a container.
    pub fn folder(&self, id: &ContainerId) -> Result<Folder> {
        let path = format!("{}/{id}", self.path);
        match openat(&self.fd, id.as_str(), OPEN_DIR | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Folder { fd, id: id.clone(), path }),
            Err(Errno::NOENT) => Err(Error::new(ErrorKind::NotFound, format!("{id}: no such container"))),
            Err(e) => Err(Error::os(path, e)),
        }
    }

    /// All containers, by their ids.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        let at = || format!("list {}", self.path);
        let mut ids = Vec::new();
        for entry in Dir::read_from(&self.fd).at(at)? {
            let entry = entry.at(at)?;
            ids.extend(entry.file_name().to_str().ok().and_then(|name| ContainerId::parse(name).ok()));
        }
        ids.sort();
        Ok(ids)
    }

    /// Removes a container's folder with all that we know of it.
    pub fn remove(&self, folder: &Folder) -> Result<()> {
        folder.remove_all()?;
        match unlinkat(&self.fd, folder.id.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(Error::os(format_args!("remove {}", folder.path), e)),
        }
    }
}

fn make(path: &str, mode: u32) -> std::result::Result<(), Errno> {
    match mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e),
    }
}

impl Folder {
    /// The container's id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The path, for people and for other programs.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of something in it, short enough for a socket's address however long the folder's own is; for this
    /// process only.
    pub fn short_path(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd())
    }

    /// Locks it for the one process that keeps the container; `false` if another one has the lock.
    pub fn lock(&self) -> Result<bool> {
        match flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(e) => Err(Error::os(format_args!("lock {}", self.path), e)),
        }
    }

    /// A file's bytes; `None` if there is no such file.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let at = || format!("read {}/{name}", self.path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            file => file.at(at)?,
        };
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match retry_on_intr(|| read(&file, &mut chunk[..])).at(at)? {
                0 => return Ok(Some(bytes)),
                _ if bytes.len() > MAX_FILE => return Err(Error::os(at(), Errno::FBIG)),
                n => bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            }
        }
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        orlop_sys::rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Puts a file in the place of the one that is there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let at = || format!("write {}/{name}", self.path);
        let new = format!(".{name}.{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.fd, &new, flags, Mode::RUSR | Mode::WUSR).at(at)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = retry_on_intr(|| write(&file, rest)).at(at)?;
            rest = rest.get(n..).unwrap_or_default();
        }
        renameat(&self.fd, &new, &self.fd, name).at(at)
    }

    /// Removes a file; one that is not there is fine.
    pub fn remove(&self, name: &str) -> Result<()> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(Error::os(format_args!("remove {}/{name}", self.path), e)),
        }
    }

    fn remove_all(&self) -> Result<()> {
        let at = || format!("list {}", self.path);
        for entry in Dir::read_from(&self.fd).at(at)? {
            let entry = entry.at(at)?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Gives an order to the monitor; `false` if there is none.
    pub fn order(&self, order: Order) -> Result<bool> {
        let at = || format!("{}/{CTL}", self.path);
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.fd, CTL, flags, Mode::empty()) {
            // ENXIO: nobody reads.
            Err(Errno::NXIO | Errno::NOENT) => Ok(false),
            fifo => write(&fifo.at(at)?, order.line().as_bytes()).at(at).map(|_| true),
        }
    }

    /// Whether both are the same directory, which may have been removed and made anew.
    pub fn is(&self, other: &Self) -> bool {
        let inode = |folder: &Self| fstat(&folder.fd).map(|stat| (stat.st_dev, stat.st_ino));
        inode(self).is_ok_and(|own| inode(other) == Ok(own))
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_as_it_was_written() {
        for (order, line) in [
            (Order::Resize { height: 24, width: 80 }, "1 24 80\n"),
            (Order::Reopen, "2 0 0\n"),
            (Order::Stop { signal: 15, grace: 10_000 }, "3 15 10000\n"),
        ] {
            assert_eq!(order.line(), line);
            assert_eq!(Order::parse(line.trim_end()), Some(order));
        }
        for bad in ["", "1", "1 2", "1 x 2", "1 70000 2", "4 0 0", "3 15 -1"] {
            assert_eq!(Order::parse(bad), None, "{bad}");
        }
    }
}
