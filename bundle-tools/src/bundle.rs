//! Bundles: a directory with config.json and rootfs, made from an image of the store.
//!
//! What a bundle writes is in the store, so that it is counted, collected and kept from being deleted by accident:
//!
//! ```text
//! STORE/bundles/ID/bundle.json   what the bundle is of, and where it is
//!                  upper/ work/  its writable layer, for the mount backend
//!                  lock          held while it is made, mounted, committed or removed
//! BUNDLE/.orlop-bundle           which store and which ID; removed last
//!        config.json rootfs/     for the runtime
//!        volumes/ hosts ...      what config.json binds
//! ```
//!
//! `bundle.json` is written before anything that would be left behind, and is removed after it: a process that is killed
//! leaves something that [`Bundle::remove`] or [`sweep`] finishes. No bundle is waited for until it is on disk: what is in it
//! comes from the store, which is.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::commit::document::{self, About};
use crate::commit::{self, Changes, Summary};
use crate::config::namespaces::{IdMap, Mapping};
use crate::config::{self, Context, Hook, Options};
use crate::diff::Change;
use crate::digest::Digest;
use crate::dir::Dir;
use crate::directory::{IdRange, Owners, remove_tree};
use crate::error::{At, Error, ErrorKind, Result};
use crate::image::{Compression, Descriptor};
use crate::layer::Time;
use crate::store::{Image, Store};
use crate::users::Users;
use crate::{json, mount};

mod usage;

pub use usage::{BundleUsage, usage};

/// The file in a bundle that says whose it is.
const LINK: &str = ".orlop-bundle";
/// The file in the store that says what a bundle is.
const RECORD: &str = "bundle.json";

/// How the root file system comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The image's merged index is mounted, under an overlay with a writable layer.
    Mount,
    /// Every file is written.
    Directory,
}

impl Backend {
    /// Its name, as it is given on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Directory => "directory",
        }
    }
}

/// What is known of a bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its name in the store.
    pub id: String,
    /// Where it is: an absolute path.
    pub path: PathBuf,
    /// What the user called the image.
    pub image: String,
    /// The image's manifest.
    pub manifest: Descriptor,
    /// The digests of its plain layers, from the base up.
    pub layers: Vec<Digest>,
    /// How its root file system was made.
    pub backend: Backend,
    /// When, in seconds since 1970.
    pub created: i64,
    /// When the last file of a written root file system was, by the file system's clock, in seconds and nanoseconds.
    #[serde(default)]
    pub written: Option<(i64, u32)>,
    /// How the image's owners became those on disk.
    #[serde(default)]
    pub owners: Owners,
    /// Places in the root file system that something is mounted on in the container, which leaves an empty file or directory
    /// there: no part of a commit.
    #[serde(default)]
    pub mount_points: Vec<String>,
}

impl Record {
    /// False if its directory is no more, or is another one now. What can't be found out is no reason to say so.
    fn is_there(&self) -> bool {
        match Dir::at(&self.path).and_then(|dir| dir.read(LINK, json::MAX_DOCUMENT)) {
            Ok(link) => json::parse::<Link>(LINK, &link).is_ok_and(|link| link.id == self.id),
            Err(e) => e.kind() != ErrorKind::NotFound,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Link {
    store: PathBuf,
    id: String,
}

/// A bundle, held: no other process makes, mounts, commits or removes it meanwhile.
#[derive(Debug)]
pub struct Bundle {
    /// What is known of it.
    pub record: Record,
    /// The bundle's directory.
    dir: Dir,
    /// Its directory in the store.
    home: Dir,
    _lock: File,
}

impl Bundle {
    /// Begins a bundle of `image`, which the user called `name`, in the directory `path`: a new or an empty one. The caller
    /// holds a lease.
    pub fn begin(store: &Store, image: &Image, name: &str, path: &Path, backend: Backend) -> Result<Self> {
        let path = absolute(path)?;
        let dir = Dir::make(&path)?;
        if let Some(there) = dir.names()?.first() {
            let text = format!("{}: is not empty (it has {there:?})", path.display());
            return Err(Error::new(ErrorKind::AlreadyExists, text));
        }
        let id = new_id()?;
        let home = store.bundles().make_dir(&id)?;
        let lock = lock(&home)?;
        let record = Record {
            id,
            path,
            image: name.to_owned(),
            manifest: image.descriptor.clone(),
            layers: image.config.rootfs.diff_ids.clone(),
            backend,
            created: Time::now().sec,
            written: None,
            owners: Owners::Keep,
            mount_points: Vec::new(),
        };
        let bundle = Self { record, dir, home, _lock: lock };
        bundle.save()?;
        let link = Link { store: store.path().to_owned(), id: bundle.record.id.clone() };
        let link = serde_json::to_vec(&link).at(|| LINK)?;
        let begun = bundle.dir.write(LINK, &link).and_then(|()| bundle.dir.make_dir("rootfs").map(drop));
        match begun {
            Ok(()) => Ok(bundle),
            Err(e) => Err(bundle.undo(e)),
        }
    }

    /// The bundle in the directory `path`, with the store that it is of.
    pub fn open(path: &Path) -> Result<(Self, Store)> {
        let what = &path.display().to_string();
        let dir = Dir::at(path)?;
        let link = dir.read(LINK, json::MAX_DOCUMENT).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::not_found(format!("{what}: not a bundle of this program (no {LINK})")),
            _ => e.context(what),
        })?;
        let link: Link = json::parse(LINK, &link).map_err(|e| e.context(what))?;
        if link.id.is_empty() || !link.id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::invalid(format!("{what}: {LINK}: id {:?}", link.id)));
        }
        let store = Store::open(&link.store)?;
        let home = store.bundles().dir(&link.id).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::not_found(format!("{what}: the store {} has no such bundle", link.store.display()))
            }
            _ => e.context(what),
        })?;
        let lock = lock(&home)?;
        let record: Record =
            json::parse(RECORD, &home.read(RECORD, json::MAX_DOCUMENT)?).map_err(|e| e.context(what))?;
        if record.id != link.id {
            return Err(Error::invalid(format!("{what}: {RECORD} is that of another bundle")));
        }
        Ok((Self { record, dir, home, _lock: lock }, store))
    }

    /// The bundle's directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The writable layer, for the mount backend.
    pub fn upper(&self) -> Result<Dir> {
        self.home.dir("upper")
    }

    /// Its root file system.
    pub fn rootfs(&self) -> Result<Dir> {
        self.dir.dir("rootfs")
    }

    /// Writes down what has changed in the record.
    pub fn save(&self) -> Result<()> {
        self.home.write(RECORD, &serde_json::to_vec_pretty(&self.record).at(|| RECORD)?)
    }

    /// Makes config.json and what it binds. Returns what the user should hear of.
    fn configure(&mut self, image: &Image, options: &Options, context: &Context<'_>) -> Result<Vec<String>> {
        let root = self.rootfs()?;
        let converted = config::convert(&image.config, options, &root, context)?;
        let mounts = converted.spec.get("mounts").and_then(serde_json::Value::as_array);
        let places = mounts.into_iter().flatten().filter_map(|mount| mount.get("destination")?.as_str());
        self.record.mount_points = places.map(str::to_owned).collect();
        self.save()?;
        converted.publish(&root, &self.dir)?;
        let left = &converted.labels_left;
        let note = (!left.is_empty()).then(|| format!("labels that became no annotations: {}", left.join(", ")));
        Ok(note.into_iter().collect())
    }

    /// Makes the root file system. Returns what could not be done as the image has it.
    fn fill(&mut self, store: &Store, mapping: &Mapping) -> Result<Vec<String>> {
        match self.record.backend {
            Backend::Mount => self.mount(store).map(|()| Vec::new()),
            Backend::Directory => {
                let rootfs = self.rootfs()?;
                let written = store.write_directory(&self.record.layers, &rootfs, &owners(mapping))?;
                self.record.written = Some((written.finished.sec, written.finished.nsec));
                self.record.owners = owners(mapping);
                self.save()?;
                Ok(written.notes)
            }
        }
    }

    /// True if its root file system is mounted, in this mount namespace.
    pub fn is_mounted(&self) -> Result<bool> {
        let id = |name: &str| {
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let statx = rustix::fs::statx(&self.dir, name, flags, StatxFlags::MNT_ID);
            statx.map(|statx| statx.stx_mnt_id).at(|| format!("stat {}/{name}", self.record.path.display()))
        };
        match id("rootfs") {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            rootfs => Ok(rootfs? != id(LINK)?),
        }
    }

    /// Mounts the root file system, if it isn't: after a restart of the machine, say.
    pub fn mount(&self, store: &Store) -> Result<()> {
        if self.record.backend != Backend::Mount || self.is_mounted()? {
            return Ok(());
        }
        let index = store.tree(&self.record.layers)?;
        let lower = mount::image(&index, &store.tars(&self.record.layers)?)?;
        let fresh = match self.home.dir("upper") {
            Ok(_) => false,
            Err(e) if e.kind() == ErrorKind::NotFound => true,
            Err(e) => return Err(e),
        };
        let work = self.home.make_dir("work")?;
        if fresh {
            // Whole before it has its name: what a crash leaves is made again.
            let _ = remove_tree(&self.home, "upper.new");
            let upper = self.home.make_dir("upper.new")?;
            like_root(&lower, &upper)?;
            self.home.rename("upper.new", "upper")?;
        }
        let root = mount::overlay(&lower, &self.upper()?, &work)?;
        mount::attach(root, &self.rootfs()?)
    }

    /// Unmounts the root file system, if it is mounted. Containers that run keep what they have.
    pub fn unmount(&self) -> Result<()> {
        // Asked first: who may not unmount gets an error also where nothing is mounted.
        while self.is_mounted()? {
            mount::detach(&self.dir, "rootfs").map_err(|e| e.context(self.record.path.display()))?;
        }
        Ok(())
    }

    /// Where its changes are, and how they are to be read.
    fn changes(&self) -> Result<(Dir, Changes, commit::Options)> {
        let destinations = self.record.mount_points.iter().cloned().collect();
        let options = commit::Options { owners: self.record.owners.clone(), destinations, ..Default::default() };
        match self.record.backend {
            Backend::Mount => Ok((self.upper()?, Changes::Upper, options)),
            Backend::Directory => Ok((self.rootfs()?, Changes::Whole { created: self.record.written }, options)),
        }
    }

    /// What was changed in it, in the order of the paths.
    pub fn diff(&self, store: &Store) -> Result<Vec<Change>> {
        let _lease = store.lease()?;
        let (root, changes, options) = self.changes()?;
        store.diff(&self.record.layers, &root, changes, &options)
    }

    /// Makes an image of what was changed in it.
    pub fn commit(&self, store: &Store, wish: &Commit<'_>) -> Result<Committed> {
        let lease = store.lease()?;
        let image = store.image_of(&self.record.manifest)?;
        let (root, changes, mut options) = self.changes()?;
        options.epoch = wish.reproducible.then_some(wish.about.created.sec);
        let (compression, level) = (wish.compression, wish.level);
        let below = &self.record.layers;
        let (layer, summary) = store.commit_layer(&lease, below, &root, changes, &options, compression, level)?;
        let made = document::image(&image.manifest, &image.config_bytes, layer.as_ref(), &wish.about)?;
        store.put(&made.config_descriptor.media_type, &made.config, Some(&made.config_descriptor))?;
        let manifest =
            store.put(&made.manifest_descriptor.media_type, &made.manifest, Some(&made.manifest_descriptor))?;
        // Its first bundle should not have to wait.
        store.tree(&store.image_of(&manifest)?.config.rootfs.diff_ids)?;
        match wish.name {
            Some(name) => store.set_ref(name, &manifest)?,
            None => store.keep_nameless(&manifest)?,
        }
        Ok(Committed { manifest, id: made.config_descriptor.digest, summary })
    }

    /// A process that has its root file system, beside this one's mount namespace: a container that runs.
    pub fn user(&self) -> Option<u32> {
        let users = Users::look();
        match self.record.backend {
            Backend::Mount => users.of_upper(&self.upper().ok()?),
            Backend::Directory => users.of_root(&self.rootfs().ok()?),
        }
    }

    /// Removes the bundle: its mount, its writable layer, its directory. A running container's is removed only by `force`.
    pub fn remove(self, force: bool) -> Result<()> {
        if let Some(pid) = self.user().filter(|_| !force) {
            let text = format!("{}: in use by the container of process {pid}", self.record.path.display());
            return Err(Error::new(ErrorKind::InUse, text));
        }
        self.unmount()?;
        // The root first: what keeps it from being removed leaves the bundle as it is.
        for name in ["rootfs", "config.json", "volumes", "hosts", "hostname", "resolv.conf"] {
            gone(remove_tree(&self.dir, name))?;
        }
        for name in ["upper.new", "upper", "work"] {
            gone(remove_tree(&self.home, name))?;
        }
        gone(self.dir.unlink(LINK))?;
        // What else is in it is the user's own, and stays with it.
        let path = &self.record.path;
        if self.dir.names()?.is_empty() {
            gone(rustix::fs::rmdir(path).at(|| format!("remove {}", path.display())))?;
        }
        gone(self.home.unlink(RECORD))?;
        gone(self.home.unlink("lock"))?;
        let home =
            rustix::fs::openat(&self.home, "..", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, Mode::empty());
        gone(Dir::from(home.at(|| "open the store's bundles")?).remove_dir(&self.record.id))
    }

    /// Removes what was begun; `why` is what the user hears, whatever becomes of that.
    pub fn undo(self, why: Error) -> Error {
        match self.remove(true) {
            Ok(()) => why,
            Err(e) => Error::new(why.kind(), format!("{why} (and what was begun is still there: {e})")),
        }
    }
}

/// What bundle to make.
#[derive(Debug)]
pub struct Create<'a> {
    /// The image: a name, an id, a digest.
    pub image: &'a str,
    /// Where the bundle is to be: a new or an empty directory.
    pub path: &'a Path,
    /// How its root file system is made; `None` for a mount where that can be.
    pub backend: Option<Backend>,
    /// What the container is to be like.
    pub options: &'a Options,
}

/// A bundle that was made.
#[derive(Debug)]
pub struct Created {
    /// The bundle.
    pub record: Record,
    /// What the user should hear of although it is no error.
    pub notes: Vec<String>,
}

/// Makes a bundle.
///
/// # Errors
/// Nothing is left of it then.
pub fn create(store: &Store, wish: &Create<'_>) -> Result<Created> {
    let _lease = store.lease()?;
    let image = store.image(wish.image)?;
    let path = absolute(wish.path)?;
    let text = path.to_str().ok_or_else(|| Error::invalid(format!("{}: is not UTF-8", path.display())))?;
    let mut context = Context::here("", text, "rootfs");
    let mapping = Mapping::of(wish.options, &context)?;
    let (backend, mut why) = choose(wish.backend, &mapping)?;
    let mut bundle = Bundle::begin(store, &image, wish.image, &path, backend)?;
    let id = bundle.record.id.clone();
    context.id = &id;
    context.remove = wish.options.rm_on_delete.then(|| removal(text)).transpose()?;
    let mut filled = bundle.fill(store, &mapping);
    if let (Err(_), None, Backend::Mount) = (&filled, wish.backend, bundle.record.backend) {
        // What is wrong is asked only now: when nothing is, the question costs more than the mount.
        if let Err(e) = mount::probe(store.bundles()) {
            why = Some(format!("all files are written: {e}"));
            bundle.record.backend = Backend::Directory;
            filled = bundle.save().and_then(|()| bundle.fill(store, &mapping));
        }
    }
    match filled.and_then(|notes| Ok([notes, bundle.configure(&image, wish.options, &context)?].concat())) {
        Ok(notes) => Ok(Created { record: bundle.record.clone(), notes: why.into_iter().chain(notes).collect() }),
        Err(e) => Err(bundle.undo(e)),
    }
}

/// The backend to try, and why it is not the better one.
fn choose(wanted: Option<Backend>, mapping: &Mapping) -> Result<(Backend, Option<String>)> {
    let why_not = if !rustix::process::geteuid().is_root() {
        Some("mount backend: only root may mount it")
    } else if mapping.is_some() {
        Some("mount backend: owners can't be mapped")
    } else {
        None
    };
    match (wanted, why_not) {
        (Some(Backend::Mount) | None, None) => Ok((Backend::Mount, None)),
        (Some(Backend::Mount), Some(why)) => Err(Error::unsupported(why)),
        (None, Some(why)) => Ok((Backend::Directory, Some(format!("all files are written: {why}")))),
        (Some(Backend::Directory), _) => Ok((Backend::Directory, None)),
    }
}

/// What image to make of a bundle.
#[derive(Debug)]
pub struct Commit<'a> {
    /// The image's name in the store; it has only an id without one.
    pub name: Option<&'a str>,
    /// How the layer is packed.
    pub compression: Compression,
    /// How hard, from 1; `None` for the usual.
    pub level: Option<i32>,
    /// What is said about it. Its time is also the latest that a file of the layer has, if `reproducible`.
    pub about: About,
    /// `SOURCE_DATE_EPOCH` is set.
    pub reproducible: bool,
}

/// An image that was made of a bundle.
#[derive(Debug)]
pub struct Committed {
    /// Its manifest.
    pub manifest: Descriptor,
    /// The digest of its configuration: the image's id.
    pub id: Digest,
    /// What the layer says; without entries there is no layer.
    pub summary: Summary,
}

/// What the runtime runs when the container is deleted, if the bundle is to go with it.
fn removal(bundle: &str) -> Result<Hook> {
    let program = std::env::current_exe().at(|| "find this program")?;
    let program = program.to_str().ok_or_else(|| Error::invalid("--rm-on-delete: this program's path is not UTF-8"))?;
    let args = ["orlop-bundle", "rm", "--force", bundle].map(str::to_owned).to_vec();
    Ok(Hook { path: program.to_owned(), args })
}

/// Every bundle of a store whose record can be read, in the order of their paths.
pub fn list(store: &Store) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for id in store.bundles().names()? {
        match store.bundles().read(&format!("{id}/{RECORD}"), json::MAX_DOCUMENT) {
            Ok(bytes) => {
                records.push(json::parse::<Record>(RECORD, &bytes).map_err(|e| e.context(format!("bundle {id}")))?)
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    records.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(records)
}

/// Removes from the store what belongs to bundles whose directory is no more, and what a crash left of a bundle's
/// beginning or end. Returns how many there were.
pub fn sweep(store: &Store) -> Result<usize> {
    // Whoever begins a bundle holds a lease.
    store.alone(|| sweep_alone(store))
}

fn sweep_alone(store: &Store) -> Result<usize> {
    let mut removed = 0;
    for id in store.bundles().names()? {
        let Ok(home) = store.bundles().dir(&id) else { continue };
        let Some(_lock) = try_lock(&home)? else { continue };
        let record = match home.read(RECORD, json::MAX_DOCUMENT) {
            Ok(bytes) => Some(json::parse::<Record>(RECORD, &bytes).map_err(|e| e.context(format!("bundle {id}")))?),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        if !record.is_some_and(|record| record.is_there()) {
            drop(home);
            remove_tree(store.bundles(), &id)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Root gives files to whom they belong, in the ids of the container if it has its own; for others owners are noted in
/// an attribute, since only root may give files away.
pub fn owners(mapping: &Mapping) -> Owners {
    let ranges = |maps: &[IdMap]| {
        maps.iter().map(|map| IdRange { image: map.container, disk: map.host, count: map.size }).collect()
    };
    match (rustix::process::geteuid().is_root(), mapping.is_some()) {
        (false, _) => Owners::Rootless,
        (true, false) => Owners::Keep,
        (true, true) => Owners::Map { uids: ranges(&mapping.uids), gids: ranges(&mapping.gids) },
    }
}

/// Gives the upper directory what the image's root has: it is the overlay's root from then on.
fn like_root(image: &impl AsFd, upper: &Dir) -> Result<()> {
    let what = || "copy the attributes of the image's root";
    let root = rustix::fs::openat(image, ".", rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, Mode::empty())
        .at(what)?;
    let stat = rustix::fs::fstat(&root).at(what)?;
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(&root, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e).at(what),
    };
    rustix::fs::fchown(upper, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))).at(what)?;
    rustix::fs::fchmod(upper, Mode::from_raw_mode(stat.st_mode & 0o7777)).at(what)?;
    for name in names.get(..length).unwrap_or_default().split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(&root, name, &mut value[..]).at(what)?;
        let value = value.get(..length).unwrap_or_default();
        rustix::fs::fsetxattr(upper, name, value, rustix::fs::XattrFlags::empty()).at(what)?;
    }
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    rustix::fs::futimens(upper, &Timestamps { last_access: time, last_modification: time }).at(what)
}

fn lock(home: &Dir) -> Result<File> {
    let file = home.open_or_create("lock")?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            other => return other.at(|| "lock the bundle").map(|()| file),
        }
    }
}

fn try_lock(home: &Dir) -> Result<Option<File>> {
    let file = home.open_or_create("lock")?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e).at(|| "lock the bundle"),
    }
}

/// What is not there is removed already.
fn gone(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).at(|| path.display().to_string())?;
    if path.as_os_str().as_bytes().iter().any(|b| matches!(b, b'\n' | b'\0')) {
        return Err(Error::invalid(format!("{}: has a line break in it", path.display())));
    }
    Ok(path)
}

/// 64 random bits.
fn new_id() -> Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).at(|| "getrandom")?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
