//! The mounts of a container's root file system, made with the mount API of Linux 5.2, whose options are told one by one
//! and so may be as long as they like.

use std::ffi::CString;

use orlop::idmap;
use orlop::plan::Maps;
use orlop::plan::mount_options::{self, Options};
use orlop_sys::clone::flag;
use orlop_sys::fs::{Links, Missing, Root};
use orlop_sys::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, attr, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, map_ids, mount,
    mount_change, mount_setattr, move_mount, open_tree, unmount,
};
use orlop_sys::process::{setns, unshare};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::process::{chdir, chroot, fchdir};
use orlop_sys::{AsFd, AsRawFd, Errno, OwnedFd};

use crate::ttrpc::{Code, Status};

/// The longest value that the kernel takes for one option, without its NUL.
const LONGEST: usize = 255;

/// containerd's own options for id-mapped mounts.
const ID_MAPS: [&str; 2] = ["uidmap", "gidmap"];

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
        let options = mount_options::parse(mount.options.iter().map(String::as_str));
        let mounted = id_namespace(&options).and_then(|ids| {
            let mounted = mount.on(rootfs, &options, ids.as_ref());
            mounted.map_err(orlop::error::describe)
        });
        if let Err(why) = mounted {
            if done > 0 {
                unmount_all(rootfs);
            }
            let Mount { source, kind, .. } = mount;
            let text = format!("failed to mount rootfs component: mount {source} ({kind}) on {rootfs}: {why}");
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
    /// Mounts it; with its owners shown by the ids of a user namespace, if one is given.
    fn on(&self, rootfs: &str, options: &Options<'_>, ids: Option<&OwnedFd>) -> Result<(), Errno> {
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
            let tree = open_tree(CWD, self.source.as_str(), flags)?;
            if let Some(ids) = ids {
                map_ids(&tree, options.bind == Some(true), ids)?;
            }
            tree
        } else {
            match (ids, self.kind.as_str()) {
                // An overlay itself can't be id-mapped; its layers can.
                (Some(ids), "overlay") => among_mapped(&layers(options), ids, || self.make(options))?,
                (Some(ids), _) => {
                    let made = self.make(options)?;
                    map_ids(&made, false, ids)?;
                    made
                }
                (None, kind) => match self.make(options) {
                    // Before Linux 6.5 overlay knows no `lowerdir+`.
                    Err(Errno::INVAL) if kind == "overlay" => return overlay_by_names(options, &place),
                    made => made?,
                },
            }
        };
        for (attr, recursive) in [(&options.recursive, true), (&options.attr, false)] {
            if !attr.is_empty() {
                mount_setattr(&mount, recursive, attr)?;
            }
        }
        attach(&mount, &place)
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
                (key, _) if key.starts_with("X-containerd.") || ID_MAPS.contains(&key) => {}
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
    let layers = layers(options);
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

/// The layers of an overlay below its own.
fn layers(options: &Options<'_>) -> Vec<String> {
    let lower = options.data.iter().find_map(|(key, value)| value.filter(|_| *key == "lowerdir"));
    lower.map(split_layers).unwrap_or_default()
}

/// The user namespace that `uidmap` and `gidmap` speak of, if they are there.
fn id_namespace(options: &Options<'_>) -> Result<Option<OwnedFd>, String> {
    let [uid, gid] = ID_MAPS.map(|name| options.data.iter().rfind(|(key, _)| *key == name).and_then(|(_, map)| *map));
    match (uid, gid) {
        (None, None) => Ok(None),
        (Some(uid), Some(gid)) => {
            let maps = Maps { uid: lines_of(uid), gid: lines_of(gid) };
            idmap::namespace(&maps).map(Some).map_err(|e| e.to_string())
        }
        _ => Err("uidmap and gidmap: one without the other".to_owned()),
    }
}

/// `container:host:size`, parted by commas, as the kernel has it.
fn lines_of(map: &str) -> String {
    map.split(',').map(|range| range.replace(':', " ") + "\n").collect()
}

/// Does `work` in a mount namespace of its own, in which `layers` show their owners by the ids of a user namespace. So
/// nobody else ever sees them, and nothing of them is left behind, however this ends.
fn among_mapped<T>(layers: &[String], ids: &OwnedFd, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let handle = OFlags::PATH | OFlags::CLOEXEC;
    let here = openat(CWD, "/proc/thread-self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let root = openat(CWD, "/", handle | OFlags::DIRECTORY, Mode::empty())?;
    unshare(flag::NEWNS)?;
    let cover = |layer: &String| {
        let tree = open_tree(CWD, layer.as_str(), OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        map_ids(&tree, false, ids)?;
        attach(&tree, &openat(CWD, layer.as_str(), handle, Mode::empty())?)
    };
    let done = mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .and_then(|()| layers.iter().try_for_each(cover))
        .and_then(|()| work());
    setns(here.as_fd(), flag::NEWNS)?;
    // Which is the namespace's own root now, and may have been another.
    fchdir(&root)?;
    chroot(".")?;
    done
}

fn attach(tree: &OwnedFd, place: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", place, "", flags)
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
    fn id_maps_are_lines_of_three_numbers() {
        assert_eq!(lines_of("0:1000000:65536"), "0 1000000 65536\n");
        assert_eq!(lines_of("0:1000:1,1:2000:9"), "0 1000 1\n1 2000 9\n");
        let one = mount_options::parse(["uidmap=0:1:1"]);
        assert!(id_namespace(&one).unwrap_err().contains("without"));
        assert!(id_namespace(&mount_options::parse(["ro"])).unwrap().is_none());
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the paths are the test's own")]
    fn an_overlay_with_id_maps_shows_its_layers_owners_by_them() {
        use std::fs;
        use std::os::unix::fs::MetadataExt;
        if !orlop_sys::rustix::process::geteuid().is_root() {
            return println!("skipped: needs root");
        }
        let dir = std::path::PathBuf::from(format!("/tmp/orlop-mapped-{}", std::process::id()));
        for name in ["one", "two", "upper", "work", "root"] {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::write(dir.join(name).join(name), "").unwrap();
        }
        fs::remove_file(dir.join("work/work")).unwrap();
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let mount = Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec![
                format!("lowerdir={}:{}", path("one"), path("two")),
                format!("upperdir={}", path("upper")),
                format!("workdir={}", path("work")),
                "uidmap=0:1000000:65536".to_owned(),
                "gidmap=0:2000000:65536".to_owned(),
            ],
        };
        // A mount namespace of this thread's own.
        unshare(flag::NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let mounts = || fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let before = mounts();
        mount_all(&[mount], &path("root")).unwrap();
        for name in ["one", "two"] {
            let shown = fs::metadata(dir.join("root").join(name)).unwrap();
            assert_eq!((shown.uid(), shown.gid()), (1_000_000, 2_000_000));
            assert_eq!(fs::metadata(dir.join(name).join(name)).unwrap().uid(), 0);
        }
        // What is written is not mapped: containerd gives the directory to who will write.
        assert_eq!(fs::metadata(dir.join("root/upper")).unwrap().uid(), 0);
        assert!(unmount_all(&path("root")));
        assert_eq!(mounts(), before);
        fs::remove_dir_all(&dir).unwrap();
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
        unshare(flag::NEWNS).unwrap();
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
