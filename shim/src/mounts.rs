//! The mounts of a container's root file system, made with the mount API of Linux 5.2, whose options are told one by one
//! and so may be as long as they like.

use std::ffi::CString;

use orlop::plan::mount_options::{self, Options};
use orlop_sys::fs::{Links, Missing, Root};
use orlop_sys::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, attr,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_setattr, move_mount,
    open_tree, unmount,
};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::process::chdir;
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
        let root = openat(CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let place = match self.target.trim_matches('/') {
            "" => root,
            target => {
                let target = CString::new(format!("/{target}")).map_err(|_| Errno::INVAL)?;
                Root::new(root.as_fd()).place(&target, Missing::Directory, Links::Follow)?
            }
        };
        let mount = if options.bind.is_some() || self.kind == "bind" {
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            if options.bind == Some(true) {
                flags |= OpenTreeFlags::AT_RECURSIVE;
            }
            open_tree(CWD, self.source.as_str(), flags)?
        } else {
            match self.make(&options) {
                // Before Linux 6.5 overlay knows no `lowerdir+`.
                Err(Errno::INVAL) if self.kind == "overlay" => return overlay_by_names(&options, &place),
                made => made?,
            }
        };
        for (attr, recursive) in [(&options.recursive, true), (&options.attr, false)] {
            if !attr.is_empty() {
                mount_setattr(&mount, recursive, attr)?;
            }
        }
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
        if options.attr.set & attr::RDONLY != 0 && self.kind != "overlay" {
            // The file system itself too: else it can't be opened on a device that is read-only.
            fsconfig_set_flag(context.as_fd(), "ro")?;
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }
}

/// Mounts an overlay by mount(2), which takes a page of options: the layers are named from the directory that leads to
/// all of them.
fn overlay_by_names(options: &Options<'_>, place: &OwnedFd) -> Result<(), Errno> {
    let lower = options.data.iter().find_map(|(key, value)| value.filter(|_| *key == "lowerdir"));
    let layers = split_layers(lower.unwrap_or_default());
    let directory = common_directory(&layers);
    let escape = |layer: &str| layer.replace('\\', "\\\\").replace(':', "\\:");
    let names = layers.iter().map(|layer| escape(layer.strip_prefix(directory).unwrap_or(layer)));
    let mut data = format!("lowerdir={}", names.collect::<Vec<_>>().join(":"));
    for (key, value) in options.data.iter().filter(|(key, _)| *key != "lowerdir") {
        data.push(',');
        data.push_str(key);
        if let Some(value) = value {
            data.push('=');
            data.push_str(value);
        }
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let target = format!("/proc/self/fd/{}", place.as_raw_fd());
    let words = [
        (attr::RDONLY, MountFlags::RDONLY),
        (attr::NOSUID, MountFlags::NOSUID),
        (attr::NODEV, MountFlags::NODEV),
        (attr::NOEXEC, MountFlags::NOEXEC),
        (attr::NOATIME, MountFlags::NOATIME),
        (attr::NODIRATIME, MountFlags::NODIRATIME),
    ];
    let flags = words.into_iter().filter(|(bit, _)| options.attr.set & bit != 0).map(|(_, flag)| flag).collect();
    // The job's own; nobody else's.
    chdir(if directory.is_empty() { "/" } else { directory })?;
    let mounted = mount("overlay", target.as_str(), "overlay", flags, Some(data.as_c_str()));
    chdir("/")?;
    mounted
}

/// The longest directory that leads to all of them, with the slash at its end; none unless all are absolute.
fn common_directory(paths: &[String]) -> &str {
    let Some((first, rest)) = paths.split_first() else { return "" };
    let leads = |directory: &&str| rest.iter().all(|path| path.starts_with(*directory) && path.len() > directory.len());
    let directories = first.rmatch_indices('/').map(|(at, _)| first.get(..=at).unwrap_or_default());
    directories
        .filter(|directory| directory.starts_with('/') && directory.len() < first.len())
        .find(leads)
        .unwrap_or("")
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

    #[test]
    fn layers_are_named_from_the_directory_that_leads_to_all() {
        for (paths, want) in [
            (&["/s/1/fs", "/s/2/fs", "/s/30/fs"][..], "/s/"),
            (&["/s/1/fs"], "/s/1/"),
            (&["/a/b", "/a/b/c"], "/a/"),
            (&["/a/b/", "/a/b/"], "/a/"),
            (&["/a", "/b"], "/"),
            (&["a/b", "a/c"], ""),
            (&[], ""),
        ] {
            let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
            assert_eq!(common_directory(&paths), want, "{paths:?}");
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the paths are the test's own")]
    fn a_kernel_that_does_not_know_lowerdir_plus_has_its_overlay_too() {
        use orlop_sys::mount::{MountPropagationFlags, mount_change};
        use std::fs;
        if !orlop_sys::rustix::process::geteuid().is_root() {
            return println!("skipped: needs root");
        }
        let dir = std::path::PathBuf::from(format!("/tmp/orlop-overlay-{}", std::process::id()));
        let layers: Vec<_> = (0..40).map(|n| dir.join(format!("{n}:{}", "long".repeat(20)))).collect();
        for (n, layer) in layers.iter().enumerate() {
            fs::create_dir_all(layer).unwrap();
            fs::write(layer.join(format!("l{n}")), "").unwrap();
        }
        for name in ["upper", "work", "root"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let lower: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap().replace(':', "\\:")).collect();
        let words = [
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", path("upper")),
            format!("workdir={}", path("work")),
            "nodev".to_owned(),
        ];
        assert!(words[0].len() > 4096);
        // A mount namespace, and a working directory, of this thread's own.
        orlop_sys::process::unshare(orlop_sys::clone::flag::NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let place = openat(CWD, path("root"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let options = mount_options::parse(words.iter().map(String::as_str));
        overlay_by_names(&options, &place).unwrap();
        for n in [0, 39] {
            assert!(fs::metadata(dir.join(format!("root/l{n}"))).is_ok());
        }
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        assert!(mounts.lines().any(|line| line.contains(&path("root")) && line.contains("nodev")), "{mounts}");
        assert!(unmount_all(&path("root")));
        fs::remove_dir_all(&dir).unwrap();
    }
}
