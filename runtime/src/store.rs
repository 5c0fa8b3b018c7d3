//! The state root: one directory per container, and what is in it.
//!
//! ```text
//! ROOT/ID/              the claim: mkdir decides who creates ID; flock on the directory itself is the lock
//!     intent            symlink: what is about to be made (id, boot id, cgroup), before anything is made;
//!                       if it is long, it goes on in intent.1, ..., which are written first
//!     config.json       the configuration, byte for byte
//!     state.json        header with length and checksum, then the record; written last, atomically
//!     exec.fifo         where init waits for `start`
//! ROOT/.orlop-deleted/  containers that are being deleted; whoever comes next finishes the job
//! ```
//!
//! A `kill -9` between any two steps leaves a claim with an intent or with a record, and `delete --force` removes
//! what either names. Everything below the root is reached through directory fds, one component at a time, and no
//! symlink is followed; only the path of the root itself is resolved as the caller gave it.

use std::fmt::{self, Display};
use std::mem::MaybeUninit;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use orlop_sys::rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, flock, fstat, mkdirat,
    openat, openat2, readlinkat_raw, renameat, renameat_with, statat, symlinkat, unlinkat,
};
use orlop_sys::rustix::io::retry_on_intr;
use orlop_sys::rustix::process::geteuid;
use orlop_sys::{AsFd, BorrowedFd, Errno, OwnedFd, rustix};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::config::MAX_DOCUMENT;
use crate::container::recorded_cgroup;
use crate::error::{At, Error, ErrorKind, Result};

/// The name of the intent's symlink.
pub const INTENT: &str = "intent";
/// The name of the record.
pub const STATE: &str = "state.json";
/// The name of the kept configuration.
pub const CONFIG: &str = "config.json";
/// The name of the fifo at which init waits for `start`.
pub const FIFO: &str = "exec.fifo";
/// The same until init is ready: under this name nobody starts it.
pub const NEW_FIFO: &str = "exec.fifo.new";
/// Where init leaves word when it can't become the user's program.
pub const REPORT: &str = "report";

/// Where deleted containers wait for their removal. No id begins with a dot.
const DELETED: &str = ".orlop-deleted";
/// The name under which a record is written before it is renamed to [`STATE`].
const STATE_TEMP: &str = ".state.json.tmp";
/// The largest state.json that is read, in bytes.
const MAX_STATE: usize = 1 << 20;
/// What one symlink holds of an intent, in bytes: as much as XFS allows, which allows the least.
const INTENT_PART: usize = 1023;
/// How many symlinks an intent may take: 13 hierarchies of cgroup v1 with paths of 1,000 bytes fit.
const MAX_INTENT_PARTS: usize = 16;
/// The deepest tree that is removed below a container's directory; ours is one level deep.
const MAX_DEPTH: u32 = 16;
/// How long an operation waits for another one on the same container.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const OPEN_FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// A container's id: 1 to 255 bytes of `[A-Za-z0-9_+.-]` of which the first is neither `.` nor `-`, hence always one
/// plain path component, and never a flag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks an id.
    pub fn parse(id: &str) -> Result<Self> {
        if id.is_empty() {
            return Err(Error::new(ErrorKind::InvalidSpec, "container id cannot be empty"));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+.-".contains(&b);
        if id.len() > 255 || id.starts_with(['.', '-']) || !id.bytes().all(allowed) {
            let shown: String = id.chars().take(64).collect();
            return Err(Error::new(ErrorKind::InvalidSpec, format!("invalid container ID format: {shown:?}")));
        }
        Ok(Self(id.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a create is about to make. It is written before the first side effect, and is enough to undo them all.
///
/// The cgroup that it names is killed empty by `delete --force`, so an intent is only written while that cgroup does not
/// exist or has no process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// The container's id.
    pub id: String,
    /// The boot during which it is made ([`boot_id`](crate::container::boot_id)): nothing but files outlives it.
    pub boot_id: String,
    /// The cgroup, and the driver that makes it; absent when the container gets none of its own.
    pub cgroup: Option<cgroup::Record>,
}

/// What is known of a created container. Its status is not: that is observed
/// ([`Container::status`](crate::container::Container::status)).
///
/// A container outlives an upgrade of this program, so a field that an older version did not write has its default,
/// and one that a newer version added is passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The container's id.
    pub id: String,
    /// `ociVersion` of its config.json.
    pub oci_version: String,
    /// The boot that it lives in.
    pub boot_id: String,
    /// The pid of init, as seen by the host.
    pub pid: i32,
    /// When init started, in clock ticks since boot (/proc/PID/stat, field 22): with the pid and the boot id it names
    /// one process for ever.
    pub start_time: u64,
    /// The bundle's absolute path.
    pub bundle: String,
    /// The root filesystem's absolute path.
    pub rootfs: String,
    /// When it was created: RFC 3339 in UTC with nanoseconds ([`now`](crate::container::now)). For display only.
    pub created: String,
    /// The namespaces of init, in the order of config.json.
    pub namespaces: Vec<Namespace>,
    /// Its cgroup; absent when it has none of its own.
    pub cgroup: Option<cgroup::Record>,
    /// config.json has annotations: `state` reads them there.
    pub annotations_in_config: bool,
    /// Which of the hooks that run after create config.json has.
    pub hooks: Hooks,
    /// Init waits at [`FIFO`] until `start`; it holds the fifo open until its execve. Otherwise it runs already.
    pub waits_on_fifo: bool,
    /// Init keeps the session keyring of its creator (--no-new-keyring), and so do processes that join.
    pub no_new_keyring: bool,
}

impl Record {
    /// Init is process 1 of a pid namespace that was made for it, so the kernel ends every other process with it.
    pub fn has_own_pid_namespace(&self) -> bool {
        self.namespaces.iter().any(|n| n.kind == "pid" && n.path.is_none())
    }
}

/// A namespace of init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// The type, as config.json names it (`pid`, `network`, ...).
    #[serde(rename = "type")]
    pub kind: String,
    /// The path it was joined by; absent when it was made for the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Whether config.json has hooks of these kinds, so that nobody reads it for nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// `hooks.startContainer`.
    pub start_container: bool,
    /// `hooks.poststart`.
    pub poststart: bool,
    /// `hooks.poststop`.
    pub poststop: bool,
}

/// What a container's directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// A whole record.
    Record(Box<Record>),
    /// No record: the container is being created, or its creator died.
    Incomplete(Option<Intent>),
    /// A record that says nothing reliable.
    Corrupt {
        /// What is wrong with it, beginning with the file's name.
        why: String,
        /// The intent, which survives whatever happens to the record's bytes.
        intent: Option<Intent>,
    },
}

/// The state root.
#[derive(Debug)]
pub struct Store {
    /// Absent when the root does not exist, which is the same as an empty one.
    root: Option<OwnedFd>,
}

impl Store {
    /// Opens the state root for everything but creating; a root that does not exist holds no container.
    pub fn open(root: &Path) -> Result<Self> {
        // The root's own path is the caller's: /var/run is a symlink on most systems.
        match openat(CWD, root, OPEN_DIR.difference(OFlags::NOFOLLOW), Mode::empty()) {
            Ok(fd) => Ok(Self { root: Some(fd) }),
            Err(Errno::NOENT) => Ok(Self { root: None }),
            Err(e) => Err(Error::os(format_args!("open the state root {}", root.display()), e)),
        }
    }

    /// Opens the state root, and makes it with its parents when it does not exist: mode 0700, and sticky for a user
    /// who is not root, so that a cleaner of `XDG_RUNTIME_DIR` leaves it alone (XDG base directory specification).
    pub fn create(root: &Path) -> Result<Self> {
        let store = Self::open(root)?;
        if store.root.is_some() {
            return Ok(store);
        }
        let at = |e| Error::os(format_args!("make the state root {}", root.display()), e);
        let mut missing = vec![];
        let mut path = root;
        loop {
            match mkdirat(CWD, path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => match missing.pop() {
                    Some(child) => path = child,
                    None => break,
                },
                Err(Errno::NOENT) => {
                    missing.push(path);
                    path = path.parent().filter(|p| !p.as_os_str().is_empty()).ok_or_else(|| at(Errno::NOENT))?;
                }
                Err(e) => return Err(at(e)),
            }
        }
        let store = Self::open(root)?;
        if let Some(fd) = &store.root
            && !geteuid().is_root()
        {
            rustix::fs::fchmod(fd, Mode::RWXU | Mode::SVTX).map_err(at)?;
        }
        Ok(store)
    }

    /// Makes the directory of a new container and locks it. Of several claims on one id exactly one succeeds.
    pub fn claim(&self, id: &ContainerId) -> Result<Claim<'_>> {
        self.sweep();
        let root = self.root.as_ref().ok_or_else(not_found)?;
        mkdirat(root, id.as_str(), Mode::RWXU | Mode::XGRP | Mode::XOTH).map_err(|e| match e {
            Errno::EXIST => exists(),
            e => Error::os(format_args!("make the directory of container {id}"), e),
        })?;
        let claimed = self.dir(id).and_then(|mut dir| {
            // A delete may come in between here, and another create after it: then whoever has the lock first goes on.
            dir.lock(self)?;
            match statat(&dir.fd, INTENT, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(Claim { store: self, dir, kept: false }),
                Ok(_) => Err(exists()),
                Err(e) => Err(Error::os(format_args!("stat {id}/{INTENT}"), e)),
            }
        });
        claimed.map_err(|e| {
            if e.kind() == ErrorKind::Os {
                // For want of an fd, say. Only an empty directory goes.
                let _ = unlinkat(root, id.as_str(), AtFlags::REMOVEDIR);
            }
            deleted_meanwhile(e)
        })
    }

    /// The directory of an existing container.
    pub fn dir(&self, id: &ContainerId) -> Result<StateDir> {
        let root = self.root.as_ref().ok_or_else(not_found)?;
        match openat(root, id.as_str(), OPEN_DIR, Mode::empty()) {
            Ok(fd) => Ok(StateDir { id: id.clone(), fd, locked: false }),
            Err(Errno::NOENT) => Err(not_found()),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(Error::new(ErrorKind::Os, format!("container {id}: not a directory in the state root")))
            }
            Err(e) => Err(Error::os(format_args!("open the directory of container {id}"), e)),
        }
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        let Some(root) = &self.root else { return Ok(vec![]) };
        let mut ids = vec![];
        for entry in Dir::read_from(root).at(|| "read the state root")? {
            let entry = entry.at(|| "read the state root")?;
            // What is no directory, or has another name than an id, is not ours.
            if let (FileType::Directory | FileType::Unknown, Ok(name)) = (entry.file_type(), entry.file_name().to_str())
                && let Ok(id) = ContainerId::parse(name)
            {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// Removes a container's directory: moved out of the way in one step, then emptied. The directory is locked.
    pub fn remove(&self, dir: &StateDir) -> Result<()> {
        let root = self.root.as_ref().ok_or_else(not_found)?;
        let what = || format!("remove the state of container {}", dir.id);
        // Unique among the directories that exist.
        let name = format!("{:x}", fstat(&dir.fd).at(what)?.st_ino);
        let deleted = loop {
            match mkdirat(root, DELETED, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(Error::os(what(), e)),
            }
            // Others who are done take the place away: then once more. The container itself is locked, so it stays.
            let moved = openat(root, DELETED, OPEN_DIR, Mode::empty()).and_then(|deleted| {
                renameat_with(root, dir.id.as_str(), &deleted, &name, RenameFlags::NOREPLACE)?;
                Ok(deleted)
            });
            match moved {
                Ok(deleted) => break deleted,
                Err(Errno::NOENT) if dir.is_current(self)? => {}
                Err(e) => return Err(Error::os(what(), e)),
            }
        };
        empty(dir.fd.as_fd(), MAX_DEPTH).at(what)?;
        unlinkat(&deleted, &name, AtFlags::REMOVEDIR).or_else(gone_is_fine).at(what)?;
        // Not empty when others are deleting, too.
        let _ = unlinkat(root, DELETED, AtFlags::REMOVEDIR);
        Ok(())
    }

    /// Finishes deletions whose command was killed. Best effort: what can't be removed now is in nobody's way.
    pub fn sweep(&self) {
        let Some(root) = &self.root else { return };
        // Almost always there is none.
        let Ok(deleted) = openat(root, DELETED, OPEN_DIR, Mode::empty()) else { return };
        let _ = empty(deleted.as_fd(), MAX_DEPTH);
        let _ = unlinkat(root, DELETED, AtFlags::REMOVEDIR);
    }
}

/// A new container's directory, locked. Dropping it removes the directory with everything in it.
#[derive(Debug)]
pub struct Claim<'a> {
    store: &'a Store,
    dir: StateDir,
    kept: bool,
}

impl Claim<'_> {
    /// The directory, for what else belongs in it (the fifo).
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.fd.as_fd()
    }

    /// Writes the intent: its first part last, in one system call that can't be torn. To be done before the first side
    /// effect. `WrongStatus` when the cgroup has processes: they are somebody else's.
    pub fn intent(&self, intent: &Intent) -> Result<()> {
        if let Some(cgroup) = recorded_cgroup(intent.cgroup.as_ref())?
            && let count @ 1.. = cgroup.pids()?.len()
        {
            let text = format!("container's cgroup is not empty: {count} process(es) found");
            return Err(Error::new(ErrorKind::WrongStatus, text));
        }
        let what = || format!("write {}/{INTENT}", self.dir.id);
        let mut text = serde_json::to_vec(intent).map_err(|e| Error::new(ErrorKind::Os, format!("{}: {e}", what())))?;
        // A full part says that another one follows.
        if text.len().is_multiple_of(INTENT_PART) {
            text.push(b' ');
        }
        if text.len() > INTENT_PART * MAX_INTENT_PARTS {
            let n = text.len();
            return Err(Error::invalid("linux.cgroupsPath", format_args!("too long to record ({n} bytes)")));
        }
        for (n, part) in text.chunks(INTENT_PART).enumerate().rev() {
            symlinkat(part, &self.dir.fd, intent_part(n)).at(what)?;
        }
        Ok(())
    }

    /// Keeps config.json as it was given.
    pub fn config(&self, bytes: &[u8]) -> Result<()> {
        let what = || format!("write {}/{CONFIG}", self.dir.id);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.dir.fd, CONFIG, flags, Mode::RUSR | Mode::WUSR).at(what)?;
        write_all(fd.as_fd(), bytes).at(what)
    }

    /// Writes the record, atomically.
    pub fn record(&self, record: &Record) -> Result<()> {
        self.dir.record(record)
    }

    /// Success: the directory stays and the lock is released.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// Failure that could not be undone: the directory stays with its intent, for `delete --force` to try again.
    pub fn leave(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What stays behind has an intent, so `delete --force` finds it.
            let _ = self.store.remove(&self.dir);
        }
    }
}

/// A container's directory, held open. The lock, when taken, is released when it is dropped.
#[derive(Debug)]
pub struct StateDir {
    id: ContainerId,
    fd: OwnedFd,
    locked: bool,
}

impl StateDir {
    /// The container's id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The uid of who made it.
    pub fn owner(&self) -> Result<u32> {
        Ok(fstat(&self.fd).at(|| format!("stat the directory of container {}", self.id))?.st_uid)
    }

    /// Refuses a container that another user than root made: a record of theirs could make us kill any process.
    pub fn check_owner(&self) -> Result<()> {
        self.refuse_owner(self.owner()?)
    }

    fn refuse_owner(&self, uid: u32) -> Result<()> {
        if uid == 0 || uid == geteuid().as_raw() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Os, format!("container {} belongs to user {uid}", self.id)))
    }

    /// Whether nothing is in it that a container's directory would not hold.
    pub fn holds_only_ours(&self) -> Result<bool> {
        let what = || format!("read the directory of container {}", self.id);
        for entry in Dir::read_from(&self.fd).at(what)? {
            let entry = entry.at(what)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") && !is_ours(name) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the lock that every changing operation holds, waiting up to 10 s for the one that has it.
    /// `NotFound` when that one deleted the container.
    pub fn lock(&mut self, store: &Store) -> Result<()> {
        let give_up = Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                // flock has no timeout of its own.
                Err(Errno::WOULDBLOCK) if Instant::now() < give_up => sleep(Duration::from_millis(1)),
                Err(Errno::WOULDBLOCK) => {
                    let text = format!("container {} is locked by another operation", self.id);
                    return Err(Error::new(ErrorKind::WrongStatus, text));
                }
                Err(e) => return Err(Error::os(format_args!("lock the directory of container {}", self.id), e)),
            }
        }
        self.locked = true;
        if self.is_current(store)? { Ok(()) } else { Err(not_found()) }
    }

    /// Whether the id still leads to this directory: whoever had the lock before may have deleted it.
    fn is_current(&self, store: &Store) -> Result<bool> {
        let what = || format!("stat the directory of container {}", self.id);
        let root = store.root.as_ref().ok_or_else(not_found)?;
        let here = fstat(&self.fd).at(what)?;
        self.refuse_owner(here.st_uid)?;
        match statat(root, self.id.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(Error::os(what(), e)),
        }
    }

    /// Whether this is the directory of a container rather than something else that lies in the root.
    pub fn is_container(&self, contents: &Contents) -> Result<bool> {
        match contents {
            Contents::Record(_) => Ok(true),
            Contents::Incomplete(intent) => Ok(intent.is_some()),
            Contents::Corrupt { intent: Some(_), .. } => Ok(true),
            Contents::Corrupt { intent: None, .. } => self.holds_only_ours(),
        }
    }

    /// Reads what is known. Errors are the kernel's; bytes that say nothing reliable are [`Contents::Corrupt`].
    pub fn read(&self) -> Result<Contents> {
        let why = match self.read_file(STATE, MAX_STATE) {
            Ok(bytes) => match decode(&bytes) {
                Ok(record) if record.id == self.id.as_str() => return Ok(Contents::Record(Box::new(record))),
                Ok(record) => format!("{STATE} is that of container {:?}", record.id),
                Err(why) => why,
            },
            Err(Unread::Missing) => return Ok(Contents::Incomplete(self.intent())),
            Err(Unread::Unfit(why)) => why,
            Err(Unread::Os(e)) => return Err(Error::os(format_args!("read {}/{STATE}", self.id), e)),
        };
        Ok(Contents::Corrupt { why, intent: self.intent() })
    }

    /// The intent, if there is one that can be read and is this container's.
    pub fn intent(&self) -> Option<Intent> {
        let mut text = vec![];
        for n in 0..MAX_INTENT_PARTS {
            let mut target = [MaybeUninit::uninit(); INTENT_PART + 1];
            let (part, _) = readlinkat_raw(&self.fd, intent_part(n), &mut target).ok()?;
            text.extend_from_slice(part);
            if part.len() != INTENT_PART {
                break;
            }
        }
        serde_json::from_slice::<Intent>(&text).ok().filter(|intent| intent.id == self.id.as_str())
    }

    /// The kept config.json.
    pub fn config(&self) -> Result<Vec<u8>> {
        self.read_file(CONFIG, MAX_DOCUMENT).map_err(|unread| match unread {
            Unread::Missing => Error::os(format_args!("read {}/{CONFIG}", self.id), Errno::NOENT),
            Unread::Unfit(why) => Error::new(ErrorKind::Os, format!("read {}/{why}", self.id)),
            Unread::Os(e) => Error::os(format_args!("read {}/{CONFIG}", self.id), e),
        })
    }

    /// Whether init waits at the fifo.
    pub fn fifo(&self) -> Result<Fifo> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.fd, FIFO, flags, Mode::empty()) {
            Ok(fd) => Ok(Fifo::Waiting(fd)),
            Err(Errno::NXIO) => Ok(Fifo::Unread),
            Err(Errno::NOENT) => Ok(Fifo::Absent),
            Err(e) => Err(Error::os(format_args!("open {}/{FIFO}", self.id), e)),
        }
    }

    /// What init left in [`REPORT`]; nothing if it had nothing to say.
    pub fn report(&self) -> Result<Vec<u8>> {
        match self.read_file(REPORT, 64) {
            Ok(bytes) => Ok(bytes),
            Err(Unread::Missing | Unread::Unfit(_)) => Ok(vec![]),
            Err(Unread::Os(e)) => Err(Error::os(format_args!("read {}/{REPORT}", self.id), e)),
        }
    }

    fn record(&self, record: &Record) -> Result<()> {
        let what = || format!("write {}/{STATE}", self.id);
        let bytes = encode(record).map_err(|e| Error::new(ErrorKind::Os, format!("{}: {e}", what())))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, STATE_TEMP, flags, Mode::RUSR | Mode::WUSR).at(what)?;
        write_all(fd.as_fd(), &bytes).at(what)?;
        // Not synced: no container outlives a power failure, and after one the boot id says so, in the intent too, when
        // this file is torn.
        renameat(&self.fd, STATE_TEMP, &self.fd, STATE).at(what)
    }

    fn read_file(&self, name: &str, limit: usize) -> std::result::Result<Vec<u8>, Unread> {
        let fd = match openat(&self.fd, name, OPEN_FILE, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Err(Unread::Missing),
            Err(Errno::LOOP | Errno::NXIO) => return Err(Unread::Unfit(format!("{name} is not a regular file"))),
            Err(e) => return Err(Unread::Os(e)),
        };
        let stat = fstat(&fd).map_err(Unread::Os)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Unread::Unfit(format!("{name} is not a regular file")));
        }
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        if size > limit {
            return Err(Unread::Unfit(format!("{name} is larger than {limit} bytes")));
        }
        let mut bytes = vec![0; size];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match retry_on_intr(|| rustix::io::read(&fd, &mut *rest)).map_err(Unread::Os)? {
                0 => break,
                n => filled += n,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

impl AsFd for StateDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if self.locked {
            // Said aloud, since a child that has inherited the fd would otherwise keep the lock.
            let _ = flock(&self.fd, FlockOperation::Unlock);
        }
    }
}

/// What is found where init waits for `start`.
#[derive(Debug)]
pub enum Fifo {
    /// Init reads it: this is its other end, to which `start` writes one byte.
    Waiting(OwnedFd),
    /// Nobody reads it any more: init has gone on to its program, or is dead.
    Unread,
    /// There is none.
    Absent,
}

/// Why a file of ours was not read.
enum Unread {
    Missing,
    /// Of the wrong kind or size; begins with its name.
    Unfit(String),
    Os(Errno),
}

/// Everything that can be in a container's directory. A directory without a readable intent or record is only taken
/// for a container's when it holds nothing else, so that a wrong --root can't make `delete --force` remove the world.
fn is_ours(name: &[u8]) -> bool {
    [INTENT, CONFIG, STATE, FIFO, NEW_FIFO, REPORT, STATE_TEMP].iter().any(|ours| ours.as_bytes() == name)
        || (1..MAX_INTENT_PARTS).any(|n| intent_part(n).as_bytes() == name)
}

/// The name of a part of the intent.
fn intent_part(n: usize) -> String {
    if n == 0 { INTENT.to_owned() } else { format!("{INTENT}.{n}") }
}

fn exists() -> Error {
    Error::new(ErrorKind::AlreadyExists, "container with given ID already exists")
}

fn deleted_meanwhile(e: Error) -> Error {
    match e.kind() {
        ErrorKind::NotFound => Error::new(e.kind(), "container was deleted while it was being created"),
        _ => e,
    }
}

fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "container does not exist")
}

fn gone_is_fine(e: Errno) -> std::result::Result<(), Errno> {
    if e == Errno::NOENT { Ok(()) } else { Err(e) }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> std::result::Result<(), Errno> {
    while !bytes.is_empty() {
        let n = retry_on_intr(|| rustix::io::write(fd, bytes))?;
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

/// Empties a directory without following a symlink or entering another filesystem. What is already gone is fine.
fn empty(dir: BorrowedFd<'_>, depth: u32) -> std::result::Result<(), Errno> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                match openat2(dir, name, OPEN_DIR, Mode::empty(), inside) {
                    Ok(below) => empty(below.as_fd(), depth.checked_sub(1).ok_or(Errno::LOOP)?)?,
                    Err(e) => gone_is_fine(e)?,
                }
                unlinkat(dir, name, AtFlags::REMOVEDIR).or_else(gone_is_fine)?;
            }
            done => done.or_else(gone_is_fine)?,
        }
    }
    Ok(())
}

/// `orlop-state VERSION LENGTH CHECKSUM` on a line of its own, then the record in JSON.
fn encode(record: &Record) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_vec(record)?;
    let mut bytes = header(&json).into_bytes();
    bytes.extend(json);
    Ok(bytes)
}

fn header(json: &[u8]) -> String {
    format!("orlop-state 1 {} {:08x}\n", json.len(), crc32(json))
}

fn decode(bytes: &[u8]) -> std::result::Result<Record, String> {
    if bytes.is_empty() {
        return Err(format!("{STATE} is empty"));
    }
    let end = bytes.iter().take(64).position(|b| *b == b'\n').ok_or_else(|| format!("{STATE} has no header"))?;
    let (head, json) = bytes.split_at_checked(end + 1).unwrap_or_default();
    if !head.starts_with(b"orlop-state 1 ") {
        return Err(format!("{STATE} has no header of a version that this program knows"));
    }
    if head != header(json).as_bytes() {
        return Err(format!("{STATE} does not have its length and checksum"));
    }
    serde_json::from_slice(json).map_err(|e| format!("{STATE}: {e}"))
}

/// The CRC-32 of IEEE 802.3: finds every error of up to 32 bits in a row, and any three flipped bits.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_plain_path_component_and_never_a_flag() {
        for good in ["a", "web1", "A_b+c.d-e", "+", "_", "0.", &"x".repeat(255)] {
            assert_eq!(ContainerId::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(ContainerId::parse("").unwrap_err().to_string(), "container id cannot be empty");
        for bad in ["../x", ".", "..", "/abs", "a/b", "a\nb", "-rf", ".del", "a b", "é", "a\0", &"x".repeat(4096)] {
            let e = ContainerId::parse(bad).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidSpec);
            assert!(e.to_string().starts_with("invalid container ID format: \""), "{e}");
            assert!(e.to_string().len() < 300 && !e.to_string().contains('\n'), "{e}");
        }
    }

    #[test]
    fn the_checksum_is_the_crc_32_of_everyone_else() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_record_of_an_older_or_newer_version_is_read() {
        let json = br#"{"id":"a","pid":7,"startTime":8,"addedLater":{"x":[1]},"hooks":{"poststop":true}}"#;
        let record = decode(&[header(json).as_bytes(), json].concat()).unwrap();
        let hooks = Hooks { poststop: true, ..Hooks::default() };
        assert_eq!(record, Record { id: "a".into(), pid: 7, start_time: 8, hooks, ..Record::default() });
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = Record { id: "a".into(), pid: 7, start_time: u64::MAX, ..Record::default() };
        assert_eq!(decode(&encode(&record).unwrap()), Ok(record));
    }
}
