//! The mounts of a container's root file system, made with the mount API of Linux 5.2, whose options are told one by one
//! and so may be as long as they like.

use std::ffi::CString;

use orlop::plan::mount_options::{self, Options};
use orlop_sys::fs::{Links, Missing, Root};
use orlop_sys::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_setattr, move_mount, open_tree, unmount,
};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::{AsFd, AsRawFd, Errno, OwnedFd};

use crate::ttrpc::{Code, Status};

/// The longest value that the kernel takes for one option, without its NUL.
const LONGEST: usize = 255;

/// A mount, as an engine asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The file system.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Where below the root file system; empty for the root itself.
    pub target: String,
    /// As mount(8) has them.
    pub options: Vec<String>,
}

/// Mounts all on `rootfs`, or nothing.
pub fn mount_all(mounts: &[Mount], rootfs: &str) -> Result<(), Status> {
    for (done, mount) in mounts.iter().enumerate() {
        if let Err(errno) = mount.on(rootfs) {
            if done > 0 {
                unmount_all(rootfs);
            }
            let text = format!(
                "failed to mount rootfs component: mount {} ({}) on {rootfs}: {}",
                mount.source,
                mount.kind,
                orlop::error::describe(errno)
            );
            return Err(Status::new(Code::Unknown, text));
        }
    }
    Ok(())
}

/// Unmounts whatever is mounted on `rootfs`, and all below it. Whether there was anything.
pub fn unmount_all(rootfs: &str) -> bool {
    let mut found = false;
    // As many as may lie one upon the other; not for ever, should somebody else be mounting.
    for _ in 0..64 {
        if unmount(rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_err() {
            break;
        }
        found = true;
    }
    found
}

impl Mount {
    fn on(&self, rootfs: &str) -> Result<(), Errno> {
        let options = mount_options::parse(self.options.iter().map(String::as_str));
        if options.id_map.is_some() || self.kind.starts_with("fuse") || self.kind.starts_with("mount.") {
            return Err(Errno::OPNOTSUPP);
        }
        let mount = if options.bind.is_some() || self.kind == "bind" {
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            if options.bind == Some(true) {
                flags |= OpenTreeFlags::AT_RECURSIVE;
            }
            open_tree(CWD, self.source.as_str(), flags)?
        } else {
            self.make(&options)?
        };
        for (attr, recursive) in [(&options.recursive, true), (&options.attr, false)] {
            if !attr.is_empty() {
                mount_setattr(&mount, recursive, attr)?;
            }
        }
        let root = openat(CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let place = match self.target.trim_matches('/') {
            "" => root,
            target => {
                let target = CString::new(format!("/{target}")).map_err(|_| Errno::INVAL)?;
                Root::new(root.as_fd()).place(&target, Missing::Directory, Links::Follow)?
            }
        };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount, "", &place, "", flags)
    }

    /// A new mount of a file system, attached to nothing.
    fn make(&self, options: &Options<'_>) -> Result<OwnedFd, Errno> {
        let context = fsopen(self.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
        if !self.source.is_empty() {
            fsconfig_set_string(context.as_fd(), "source", self.source.as_str())?;
        }
        // Long paths are told by a descriptor's, which has to live until all is told.
        let mut held = Vec::new();
        let mut path = |path: &str| -> Result<String, Errno> {
            if path.len() <= LONGEST {
                return Ok(path.to_owned());
            }
            let fd = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let short = format!("/proc/self/fd/{}", fd.as_raw_fd());
            held.push(fd);
            Ok(short)
        };
        for (key, value) in &options.data {
            let set = |key: &str, value: &str| fsconfig_set_string(context.as_fd(), key, value);
            match (*key, *value) {
                // Ours to heed, or to pass over.
                (key, _) if key.starts_with("X-containerd.") => {}
                ("loop", _) => return Err(Errno::OPNOTSUPP),
                (key, None) => fsconfig_set_flag(context.as_fd(), key)?,
                ("lowerdir", Some(layers)) if self.kind == "overlay" && layers.len() > LONGEST => {
                    // Linux 6.5.
                    for layer in split_layers(layers) {
                        set("lowerdir+", &path(&layer)?)?;
                    }
                }
                (key @ ("upperdir" | "workdir"), Some(value)) => set(key, &path(value)?)?,
                (key, Some(value)) => set(key, value)?,
            }
        }
        for flag in &options.flags {
            fsconfig_set_flag(context.as_fd(), *flag)?;
        }
        if options.attr.set & orlop_sys::mount::attr::RDONLY != 0 && self.kind != "overlay" {
            // The file system itself too: else it can't be opened on a device that is read-only.
            fsconfig_set_flag(context.as_fd(), "ro")?;
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }
}

/// The layers of overlay's `lowerdir`: colons part them, unless a backslash stands before.
fn split_layers(layers: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut characters = layers.chars();
    while let Some(character) = characters.next() {
        let next = match character {
            ':' => {
                found.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            character => character,
        };
        if let Some(layer) = found.last_mut() {
            layer.push(next);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_parted_by_colons_that_are_not_escaped() {
        for (layers, want) in [
            ("/a", &["/a"][..]),
            ("/a:/b", &["/a", "/b"]),
            (r"/a\:b:/c", &["/a:b", "/c"]),
            (r"/a\\:/c\", &[r"/a\", r"/c\"]),
        ] {
            assert_eq!(split_layers(layers), want);
        }
    }
}
