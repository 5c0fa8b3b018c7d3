//! Volumes of a bundle: directories that begin as copies of what the image has at their place.
//!
//! The image is hostile: the place is resolved as if the image were the root of everything, and below it nothing is
//! followed (CVE-2022-23648, CVE-2018-15664's shape).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{At, Error, Result};

/// How deep a volume's content may nest: a descriptor of each end is held for each level.
const MAX_DEPTH: u32 = 256;

/// Fills the empty directory `to` with what the directory `place`, an absolute path in `root`, has: files, directories,
/// links and FIFOs, with owner, mode, times and extended attributes. Devices and sockets are left out. If there is no
/// such directory, `to` becomes one of `owner` with mode 0755.
///
/// # Errors
/// A tree deeper than 256 directories, one of over five million entries, or what the kernel refuses.
pub fn seed(root: &Dir, place: &str, to: &Dir, owner: (u32, u32)) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let relative = place.trim_start_matches('/');
    let found = loop {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, relative, flags, Mode::empty(), resolve) {
            Ok(fd) => break Some(fd),
            Err(Errno::AGAIN) => {}
            // A loop of links, or a file: the runtime will say so when it mounts there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => break None,
            Err(e) => return Err(e).at(|| format!("volume {place}: open")),
        }
    };
    let mut copy = Copy { place, left: 5_000_000 };
    match found {
        Some(from) => copy.directory(&from, to.as_fd(), 0),
        None => {
            rustix::fs::fchmod(to, Mode::from_raw_mode(0o755)).at(|| format!("volume {place}: chmod"))?;
            own(rustix::fs::fchown(to, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1))))
                .at(|| format!("volume {place}: chown"))
        }
    }
}

struct Copy<'a> {
    place: &'a str,
    /// How many entries more are copied.
    left: u64,
}

/// Without root's rights every file is the caller's, and that is not an error.
fn own(done: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match done {
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        other => other,
    }
}

impl Copy<'_> {
    fn directory(&mut self, from: &OwnedFd, to: impl AsFd, depth: u32) -> Result<()> {
        let place = self.place;
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!("volume {place}: deeper than {MAX_DEPTH} directories")));
        }
        let to = to.as_fd();
        for entry in rustix::fs::Dir::read_from(from).at(|| format!("volume {place}: read"))? {
            let entry = entry.at(|| format!("volume {place}: read"))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.left = self.left.checked_sub(1).ok_or_else(|| Error::invalid(format!("volume {place}: too large")))?;
            let what = || format!("volume {place}: {:?}", name.to_string_lossy());
            let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).at(what)?;
            let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let source = rustix::fs::openat(from, name, read | OFlags::DIRECTORY, Mode::empty()).at(what)?;
                    rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)).at(what)?;
                    let target = rustix::fs::openat(to, name, read | OFlags::DIRECTORY, Mode::empty()).at(what)?;
                    self.directory(&source, &target, depth + 1)?;
                }
                FileType::RegularFile => {
                    let source: File = rustix::fs::openat(from, name, read, Mode::empty()).at(what)?.into();
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let target: File = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600)).at(what)?.into();
                    // copy_file_range(2) where it can be.
                    std::io::copy(&mut &source, &mut &target).at(what)?;
                    attributes(&source, &target, &stat).at(what)?;
                }
                FileType::Symlink => {
                    let link = rustix::fs::readlinkat(from, name, Vec::new()).at(what)?;
                    rustix::fs::symlinkat(&link, to, name).at(what)?;
                    outside(to, name, &stat).at(what)?;
                }
                FileType::Fifo => {
                    rustix::fs::mknodat(to, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0).at(what)?;
                    outside(to, name, &stat).at(what)?;
                    rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty()).at(what)?;
                }
                _ => {}
            }
        }
        let stat = rustix::fs::fstat(from).at(|| format!("volume {place}: stat"))?;
        attributes(from, to, &stat).at(|| format!("volume {place}: set attributes"))
    }
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or_default() };
    Timestamps { last_access: time, last_modification: time }
}

/// Owner and times of what is not opened.
fn outside(to: impl AsFd, name: &std::ffi::CStr, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = owner(stat);
    own(rustix::fs::chownat(&to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
    rustix::fs::utimensat(&to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner, mode, extended attributes and times, in that order: chown takes setuid bits and capabilities away, and what
/// is written last decides the time.
fn attributes(from: impl AsFd, to: impl AsFd, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = owner(stat);
    own(rustix::fs::fchown(&to, uid, gid))?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode))?;
    let mut names = vec![0_u8; 65_536];
    let length = match rustix::fs::flistxattr(&from, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(e) => return Err(e),
    };
    let mut value = Vec::new();
    for name in names.get(..length).unwrap_or_default().split(|b| *b == 0).filter(|name| !name.is_empty()) {
        // Labels are the host's to give, and the overlay's own marks mean nothing here.
        let kept = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if !kept && name != b"security.capability" && !name.starts_with(b"system.posix_acl_") {
            continue;
        }
        value.resize(65_536, 0);
        let length = rustix::fs::fgetxattr(&from, name, &mut value)?;
        match rustix::fs::fsetxattr(&to, name, value.get(..length).unwrap_or_default(), XattrFlags::empty()) {
            Err(Errno::NOTSUP) => {}
            other => own(other)?,
        }
    }
    rustix::fs::futimens(&to, &times(stat))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "paths of the test's own")]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::config::tests::Folder;

    #[test]
    fn a_volume_begins_as_what_the_image_has_there() {
        let (image, volume) = (Folder::new(), Folder::new());
        image.write("data/a/b/file", b"hello");
        image.write("data/tool", b"x");
        std::fs::set_permissions(image.at("data/tool"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        std::fs::set_permissions(image.at("data"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc/passwd", image.at("data/link")).unwrap();
        rustix::fs::mknodat(image.dir(), "data/fifo", FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        File::options()
            .write(true)
            .open(image.at("data/a/b/file"))
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        let root = rustix::process::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(image.at("data/a"), Some(7), Some(8)).unwrap();
        }
        seed(&image.dir(), "/data", &volume.dir(), (0, 0)).unwrap();
        assert_eq!(std::fs::read(volume.at("a/b/file")).unwrap(), b"hello");
        assert_eq!(std::fs::metadata(volume.at("a/b/file")).unwrap().mtime(), 0);
        assert_eq!(std::fs::metadata(volume.at("tool")).unwrap().mode(), 0o104_755);
        assert_eq!(std::fs::metadata(volume.path()).unwrap().mode(), 0o41_777);
        assert_eq!(std::fs::read_link(volume.at("link")).unwrap().to_str(), Some("/etc/passwd"));
        assert_eq!(std::fs::symlink_metadata(volume.at("fifo")).unwrap().mode(), 0o10_640);
        if root {
            let meta = std::fs::metadata(volume.at("a")).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (7, 8));
        } else {
            eprintln!("SKIP: owners, which take root");
        }
    }

    #[test]
    fn a_place_is_never_outside_of_the_image() {
        let canary = Folder::new();
        canary.write("secret", b"canary");
        let outside = canary.path().display().to_string();
        for target in [outside.clone(), format!("../../../../../..{outside}"), "/proc/self/root".to_owned()] {
            let (image, volume) = (Folder::new(), Folder::new());
            symlink(&target, image.at("data")).unwrap();
            seed(&image.dir(), "/data", &volume.dir(), (0, 0)).unwrap();
            assert_eq!(volume.dir().names().unwrap(), Vec::<String>::new(), "{target}");
        }
        // A link within is followed, as the runtime will when it mounts there.
        let (image, volume) = (Folder::new(), Folder::new());
        image.write("real/x", b"1");
        symlink("/real", image.at("data")).unwrap();
        seed(&image.dir(), "/data", &volume.dir(), (0, 0)).unwrap();
        assert_eq!(volume.dir().names().unwrap(), ["x"]);
        symlink("loop", image.at("loop")).unwrap();
        let none = Folder::new();
        seed(&image.dir(), "/loop", &none.dir(), (0, 0)).unwrap();
        assert_eq!(std::fs::metadata(none.path()).unwrap().mode(), 0o40_755);
    }

    #[test]
    fn a_tree_without_end_is_refused() {
        let (image, volume) = (Folder::new(), Folder::new());
        let mut deep = image.dir();
        for _ in 0..300 {
            deep = deep.make_dir("d").unwrap();
        }
        let said = seed(&image.dir(), "/d", &volume.dir(), (0, 0)).unwrap_err().to_string();
        assert_eq!(said, "volume /d: deeper than 256 directories");
    }
}
