//! The mount option `tmpcopyup`: a tmpfs that begins as a copy of what it covers.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use orlop_sys::fs::{AtFlags, FileType, Gid, Uid, fchown, mknodat, statat, symlinkat};
use orlop_sys::rustix::fs::{Mode, OFlags, RawDir, Timespec, Timestamps, chownat, fchmod, mkdirat, openat, utimensat};
use orlop_sys::rustix::io::{read, write};
use orlop_sys::{AsFd, BorrowedFd, Errno};

/// How deep directories may lie in one another: each level has its buffers on the stack.
const MAX_DEPTH: usize = 128;

/// Copies what is in the directory `from` to the directory `to`: files, directories, symlinks, FIFOs and devices with
/// their owners, modes and times. The two themselves stay as they are: the options of a tmpfs say whose its root is.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = openat(from, c".", flags, Mode::empty())?;
    let to = openat(to, c".", flags, Mode::empty())?;
    directory(from.as_fd(), to.as_fd(), 0)
}

fn directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Errno> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let follow = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let below = openat(from, name, OFlags::RDONLY | OFlags::DIRECTORY | follow, Mode::empty())?;
            let copy = openat(to, name, OFlags::RDONLY | OFlags::DIRECTORY | follow, Mode::empty())?;
            directory(below.as_fd(), copy.as_fd(), depth + 1)?;
            fchown(&copy, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
            fchmod(&copy, mode)?;
        }
        FileType::RegularFile => {
            let source = openat(from, name, OFlags::RDONLY | follow, Mode::empty())?;
            let copy = openat(to, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | follow, Mode::RWXU)?;
            contents(source.as_fd(), copy.as_fd())?;
            fchown(&copy, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
            // After the owner: a change of owner clears setuid.
            fchmod(&copy, mode)?;
        }
        FileType::Symlink => {
            let mut target = [MaybeUninit::uninit(); orlop_sys::fs::PATH_MAX];
            let (target, _) = orlop_sys::rustix::fs::readlinkat_raw(from, name, &mut target)?;
            let mut text = [0; orlop_sys::fs::PATH_MAX];
            text.get_mut(..target.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(target);
            let text = CStr::from_bytes_until_nul(&text).map_err(|_| Errno::NAMETOOLONG)?;
            symlinkat(text, to, name)?;
        }
        kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
            mknodat(to, name, kind, mode, stat.st_rdev)?;
        }
        // A socket without its process is nothing.
        _ => return Ok(()),
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory | FileType::RegularFile) {
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    };
    utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut buffer = [0; 16 << 10];
    loop {
        let length = read(from, &mut buffer[..])?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let written = write(to, rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
    }
}
