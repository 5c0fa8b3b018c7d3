//! The mounts of a container's root file system, made with the mount API of Linux 5.2, whose options are told one by one
//! and so may be as long as they like.

use std::ffi::CString;

use orlop::path::clean;
use orlop::plan::mount_options::{self, Options};
use orlop_sys::clone::flag;
use orlop_sys::fs::{Links, Missing, Root};
use orlop_sys::loops;
use orlop_sys::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, attr, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change,
    mount_idmap, mount_setattr, move_mount, open_tree, unmount,
};
use orlop_sys::process::{setns, unshare};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use orlop_sys::rustix::process::chdir;
use orlop_sys::{AsFd, AsRawFd, Errno, OwnedFd};

use crate::start::read_file;
use crate::ttrpc::{Code, Status};

mod helper;
mod idmap;

/// The longest value that the kernel takes for one option, without its NUL.
const LONGEST: usize = 255;
/// How much mount(2) takes of a file system's own options, without the NUL.
const LONGEST_DATA: usize = 4095;
/// How often a free loop device is looked for, while others do the same.
const TRIES: usize = 100;

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

/// Why a mount failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why(pub String);

impl From<Errno> for Why {
    fn from(errno: Errno) -> Self {
        Self(orlop::error::describe(errno))
    }
}

/// Mounts all on `rootfs`, or nothing.
pub fn mount_all(mounts: &[Mount], rootfs: &str) -> Result<(), Status> {
    let mut done = Vec::new();
    for mount in mounts {
        match mount.on(rootfs) {
            Ok(mounted) => done.push(mounted),
            Err(Why(why)) => {
                for mounted in done.iter().rev() {
                    // There is nobody to be told of a second failure. The path leads to the mount itself.
                    let _ = unmount(path_of(mounted), UnmountFlags::DETACH);
                }
                let Mount { source, kind, .. } = mount;
                let text = format!("failed to mount rootfs component: mount {source} ({kind}) on {rootfs}: {why}");
                return Err(Status::new(Code::Unknown, text));
            }
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
    // What was mounted below it went with it; without it, something may be mounted there all the same, if there is a
    // place for that. Mostly there is none.
    if std::fs::read_dir(rootfs).is_ok_and(|mut entries| entries.next().is_some()) {
        let table = read_file("/proc/self/mountinfo").unwrap_or_default();
        for point in below(&String::from_utf8_lossy(&table), rootfs).iter().rev() {
            found |= unmount(point.as_str(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok();
        }
    }
    found
}

/// The mount points below a directory, as /proc/self/mountinfo has them, in its order.
fn below(table: &str, directory: &str) -> Vec<String> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points.filter(|point| point.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))).collect()
}

/// Blanks, tabs, line feeds and backslashes are `\040` and the like in mountinfo.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

/// A path that leads to where a descriptor stands.
fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A mount's options, sorted out: those that are the shim's to heed, and the rest.
#[derive(Debug, Default)]
struct Words<'a> {
    /// The source is a file, which is to be a device.
    is_loop: bool,
    /// That device shall keep no second copy of the file's pages.
    is_direct: bool,
    /// How users are to be seen: both or none.
    uid_map: Option<&'a str>,
    gid_map: Option<&'a str>,
    rest: Options<'a>,
}

impl<'a> Words<'a> {
    fn of(options: &'a [String]) -> Result<Self, Why> {
        let mut words = Self::default();
        let mut rest = Vec::with_capacity(options.len());
        for option in options {
            match option.as_str() {
                "loop" => words.is_loop = true,
                "direct-io" => words.is_direct = true,
                // What containerd's parts tell one another; no file system knows it.
                word if word.starts_with("X-containerd.") => {}
                word => match (word.strip_prefix("uidmap="), word.strip_prefix("gidmap=")) {
                    (None, None) => rest.push(word),
                    (uid, gid) => {
                        words.uid_map = uid.or(words.uid_map);
                        words.gid_map = gid.or(words.gid_map);
                    }
                },
            }
        }
        if words.is_direct && !words.is_loop {
            rest.push("direct-io");
        }
        words.rest = mount_options::parse(rest);
        match words.rest.id_map {
            Some(_) => Err(Why("idmap, ridmap: id maps are told by uidmap= and gidmap=".to_owned())),
            None => Ok(words),
        }
    }

    /// A user namespace with the maps, if there are any.
    fn user_namespace(&self) -> Result<Option<OwnedFd>, Why> {
        match (self.uid_map, self.gid_map) {
            (None, None) => Ok(None),
            (Some(uid), Some(gid)) => idmap::user_namespace(uid, gid).map(Some),
            _ => Err(Why("uidmap= and gidmap= go together".to_owned())),
        }
    }

    fn is_read_only(&self) -> bool {
        self.rest.attr.set & attr::RDONLY != 0
    }
}

impl Mount {
    /// Mounts it. Where it stands, by its root.
    fn on(&self, rootfs: &str) -> Result<OwnedFd, Why> {
        let place = self.place(rootfs)?;
        if let Some((program, kind)) = helper::of(&self.kind) {
            return helper::mount(program, kind, &self.source, &self.options, &place);
        }
        let words = Words::of(&self.options)?;
        let options = &words.rest;
        let users = words.user_namespace()?;
        let mount = if options.bind.is_some() || self.kind == "bind" {
            clone_of(&self.source, options.bind == Some(true))?
        } else {
            let made = match &users {
                Some(users) if self.kind == "overlay" => self.make_upon_mapped(&words, users),
                _ => self.make(&words),
            };
            match made {
                // Before Linux 6.5 overlay knows no `lowerdir+`.
                Err(Errno::INVAL) if self.kind == "overlay" && users.is_none() => {
                    overlay_by_names(options, &place)?;
                    // Through the parent's name the place is looked up anew, and is the new mount's root.
                    return Ok(openat(CWD, real_path(&place)?, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
                }
                made => made?,
            }
        };
        for (attr, recursive) in [(&options.recursive, true), (&options.attr, false)] {
            if !attr.is_empty() {
                mount_setattr(&mount, recursive, attr)?;
            }
        }
        if let Some(users) = users.filter(|_| self.kind != "overlay") {
            mount_idmap(&mount, options.bind == Some(true), users)?;
        }
        attach(&mount, &place)?;
        Ok(mount)
    }

    /// The directory to mount on, made if it is missing. Links in the image lead nowhere else than into it.
    fn place(&self, rootfs: &str) -> Result<OwnedFd, Errno> {
        let root = openat(CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        match clean(&self.target).as_str() {
            "/" => Ok(root),
            target => {
                let target = CString::new(target).map_err(|_| Errno::INVAL)?;
                Root::new(root.as_fd()).place(&target, Missing::Directory, Links::Follow)
            }
        }
    }

    /// An overlay whose layers' owners are seen through the maps of `users`. In a mount namespace of its own, where the
    /// name of each layer leads to its mapped clone, and which ends with this call.
    fn make_upon_mapped(&self, words: &Words<'_>, users: &OwnedFd) -> Result<OwnedFd, Errno> {
        let here = openat(CWD, "/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        unshare(flag::NEWNS)?;
        let make = || {
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            let lower = words.rest.data.iter().find_map(|(key, value)| value.filter(|_| *key == "lowerdir"));
            for layer in split_layers(lower.ok_or(Errno::INVAL)?) {
                let mapped = clone_of(&layer, false)?;
                mount_idmap(&mapped, false, users)?;
                let place = openat(CWD, layer.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                attach(&mapped, &place)?;
            }
            self.make(words)
        };
        let made = make();
        setns(here.as_fd(), flag::NEWNS)?;
        made
    }

    /// A new mount of a file system, attached to nothing.
    fn make(&self, words: &Words<'_>) -> Result<OwnedFd, Errno> {
        let options = &words.rest;
        let context = fsopen(self.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
        let device = words.is_loop.then(|| Loop::attach(&self.source, words)).transpose()?;
        let source = device.as_ref().map_or(self.source.as_str(), |device| &device.path);
        if !source.is_empty() {
            fsconfig_set_string(context.as_fd(), "source", source)?;
        }
        // Long paths are told by a descriptor's, which has to live until all is told.
        let mut held = Vec::new();
        let mut path = |path: &str| -> Result<String, Errno> {
            if path.len() <= LONGEST {
                return Ok(path.to_owned());
            }
            let fd = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let short = path_of(&fd);
            held.push(fd);
            Ok(short)
        };
        for (key, value) in &options.data {
            let set = |key: &str, value: &str| fsconfig_set_string(context.as_fd(), key, value);
            match (*key, *value) {
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
        if words.is_read_only() && self.kind != "overlay" {
            // The file system itself too: else it can't be opened on a device that is read-only.
            fsconfig_set_flag(context.as_fd(), "ro")?;
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }
}

/// A detached copy of the mount that `source` is on, from there on.
fn clone_of(source: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, source, flags)
}

fn attach(mount: &OwnedFd, place: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags)
}

/// The path of a place, as it is now.
fn real_path(place: &OwnedFd) -> Result<CString, Errno> {
    readlinkat(CWD, path_of(place), Vec::new())
}

/// A loop device, which is there as long as it is open or mounted.
#[derive(Debug)]
struct Loop {
    path: String,
    _device: OwnedFd,
}

impl Loop {
    fn attach(file: &str, words: &Words<'_>) -> Result<Self, Errno> {
        let (access, mut flags) =
            if words.is_read_only() { (OFlags::RDONLY, loops::flag::READ_ONLY) } else { (OFlags::RDWR, 0) };
        flags |= loops::flag::AUTOCLEAR | if words.is_direct { loops::flag::DIRECT_IO } else { 0 };
        let open = |path: &str, access| openat(CWD, path, access | OFlags::CLOEXEC, Mode::empty());
        let file = open(file, access)?;
        let control = open("/dev/loop-control", OFlags::RDWR)?;
        for _ in 0..TRIES {
            let path = format!("/dev/loop{}", loops::free(&control)?);
            let device = open(&path, access)?;
            match loops::configure(&device, &file, flags) {
                // Somebody was faster.
                Err(Errno::BUSY) => {}
                done => return done.map(|()| Self { path, _device: device }),
            }
        }
        Err(Errno::BUSY)
    }
}

/// Mounts an overlay by mount(2), which takes a page of options: the layers are named from the directory that leads to
/// all of them or, if that is too long still, by the numbers of descriptors.
fn overlay_by_names(options: &Options<'_>, place: &OwnedFd) -> Result<(), Errno> {
    let lower = options.data.iter().find_map(|(key, value)| value.filter(|_| *key == "lowerdir"));
    let layers = split_layers(lower.unwrap_or_default());
    let mut directory = common_directory(&layers);
    let escape = |layer: &str| layer.replace('\\', "\\\\").replace(':', "\\:");
    let names = layers.iter().map(|layer| escape(layer.strip_prefix(directory).unwrap_or(layer)));
    let mut data = overlay_data(options, names);
    // They have to live until they have been looked up.
    let mut held = Vec::new();
    if data.len() > LONGEST_DATA {
        for layer in &layers {
            held.push(openat(CWD, layer.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
        }
        directory = "/proc/self/fd";
        data = overlay_data(options, held.iter().map(|fd| fd.as_raw_fd().to_string()));
    }
    if data.len() > LONGEST_DATA {
        // The kernel would cut it, and say something about the rest.
        return Err(Errno::TOOBIG);
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let target = path_of(place);
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

/// The options of an overlay whose layers have these names.
fn overlay_data(options: &Options<'_>, names: impl Iterator<Item = String>) -> String {
    let mut data = format!("lowerdir={}", names.collect::<Vec<_>>().join(":"));
    for (key, value) in options.data.iter().filter(|(key, _)| *key != "lowerdir") {
        data.push(',');
        data.push_str(key);
        if let Some(value) = value {
            data.push('=');
            data.push_str(value);
        }
    }
    data
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
        use std::fs;
        if !orlop_sys::rustix::process::geteuid().is_root() {
            return println!("SKIP: needs root");
        }
        // A mount namespace, and a working directory, of this thread's own.
        unshare(flag::NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        // The names of the second are too long also from the directory that leads to them.
        for (count, long) in [(40, 20), (400, 10), (400, 50)] {
            let dir = std::path::PathBuf::from(format!("/tmp/orlop-overlay-{}-{count}-{long}", std::process::id()));
            let layers: Vec<_> = (0..count).map(|n| dir.join(format!("{n}:{}", "long".repeat(long)))).collect();
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
            let place = openat(CWD, path("root"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
            let options = mount_options::parse(words.iter().map(String::as_str));
            overlay_by_names(&options, &place).unwrap();
            for n in [0, count - 1] {
                assert!(fs::metadata(dir.join(format!("root/l{n}"))).is_ok());
            }
            let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
            assert!(mounts.lines().any(|line| line.contains(&path("root")) && line.contains("nodev")), "{mounts}");
            assert!(unmount_all(&path("root")));
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}
