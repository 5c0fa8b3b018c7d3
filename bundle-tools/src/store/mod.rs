//! The store: what was pulled, imported and committed, on disk.
//!
//! ```text
//! version            the layout's number
//! lock               leases and sweeps (flock)
//! blobs/sha256/HEX   blobs as received: manifests, configurations, layers
//! layers/HEX.tar     a layer's plain tar, by diff id; the same file as the blob if that is plain too
//! layers/HEX.idx     its table, and a trailer with its sizes
//! trees/HEX.erofs    the merged index of a chain of layers, by chain id
//! refs/NAME          names of manifests
//! bundles/ID/        what bundles write; bundle.json there names the manifest
//! incoming/          what is on its way: partial blobs, temporary files
//! ```
//!
//! An object gets its name when it is whole, verified and durable, by rename(2), so a crash at any instant leaves a store
//! that works, and at most files in `incoming/` that nobody needs. All files are reached from directories that are held
//! open.

mod behind;
mod commit;
mod gc;
mod images;
mod incoming;
mod layers;
mod lock;
mod refs;
#[cfg(test)]
mod tests;
mod usage;
mod verify;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

pub use gc::{Freed, Prune};
pub use images::{Found, Image};
pub use incoming::{Blob, Feed, Incoming};
pub use layers::{LayerInfo, Watch};
pub use lock::Lease;
pub use refs::Ref;
pub use usage::{ImageUsage, Sum, Usage};
pub use verify::{Finding, Verify};

use crate::digest::Digest;
use crate::dir::Dir;
use crate::error::{At, Error, ErrorKind, Result};
use crate::image::Descriptor;
use lock::{SCRATCH, Scratch, Sweep};

/// The layout that this program writes.
const VERSION: u32 = 1;

/// See the [module](self).
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    root: Dir,
    blobs: Dir,
    layers: Dir,
    trees: Dir,
    refs: Dir,
    bundles: Dir,
    incoming: Dir,
    max_layer: Option<u64>,
}

impl Store {
    /// The store in the directory `path`, made if it isn't there (mode 0700). A directory that has something else in it is
    /// refused, and so is a store of a layout that a newer version of this program wrote.
    pub fn open(path: &Path) -> Result<Self> {
        let root = Dir::make(path)?;
        Self::in_dir(path, root).map_err(|e| e.context(format!("store {}", path.display())))
    }

    /// The store that is used if none is named: `/var/lib/orlop` for root, `$XDG_DATA_HOME/orlop` or
    /// `$HOME/.local/share/orlop` for others.
    pub fn open_default() -> Result<Self> {
        Self::open(&default_path()?)
    }

    fn in_dir(path: &Path, root: Dir) -> Result<Self> {
        match root.read("version", 64) {
            Ok(text) => check_version(&text)?,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if root.names()?.iter().any(|name| name != "lost+found" && !name.starts_with(".version")) {
                    return Err(Error::invalid("not a store, and not empty"));
                }
                root.replace("version", format!("{VERSION}\n").as_bytes())?;
            }
            Err(e) => return Err(e),
        }
        let store = Self {
            path: path.to_owned(),
            blobs: root.make_dir("blobs")?.make_dir("sha256")?,
            layers: root.make_dir("layers")?,
            trees: root.make_dir("trees")?,
            refs: root.make_dir("refs")?,
            bundles: root.make_dir("bundles")?,
            incoming: root.make_dir("incoming")?,
            root,
            max_layer: None,
        };
        store.sweep_scratch()?;
        Ok(store)
    }

    /// Bounds what one layer may be when inflated, in bytes, in place of 100 times its compressed length and 64 MiB.
    #[must_use]
    pub fn with_max_layer(mut self, bytes: u64) -> Self {
        self.max_layer = Some(bytes);
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory with one directory for each bundle. A bundle says in `bundle.json` there what it is of: an object
    /// whose member `manifest` is the descriptor of a manifest. It is written before the lease ends under which the bundle is made.
    pub fn bundles(&self) -> &Dir {
        &self.bundles
    }

    /// Keeps everything that is there, and that comes in, from being collected.
    pub fn lease(&self) -> Result<Lease> {
        Lease::take(&self.root)
    }

    /// The blob of this name, for reading, if it is there.
    pub fn blob(&self, digest: &Digest) -> Result<Option<File>> {
        optional(self.blobs.file(&digest.hex()))
    }

    /// Puts a document into the store. What is `expected` must agree with it in length and digest.
    pub fn put(&self, media_type: &str, bytes: &[u8], expected: Option<&Descriptor>) -> Result<Descriptor> {
        let descriptor = Descriptor::of(media_type, bytes);
        if let Some(expected) = expected {
            if expected.size != descriptor.size {
                let (announced, size) = (expected.size, descriptor.size);
                return Err(Error::invalid(format!(
                    "{}: announced with {announced} bytes, has {size}",
                    expected.digest
                )));
            }
            if expected.digest != descriptor.digest {
                let digest = descriptor.digest;
                return Err(Error::invalid(format!("{}: the content has the digest {digest}", expected.digest)));
            }
        }
        let _lease = self.lease()?;
        let name = descriptor.digest.hex();
        if self.blob(&descriptor.digest)?.is_none() {
            let mut scratch = Scratch::new(&self.incoming)?;
            scratch.file.write_all(bytes).at(|| format!("write blob {}", descriptor.digest))?;
            scratch.sync()?;
            scratch.publish(&self.blobs, &name)?;
            self.blobs.sync()?;
        }
        Ok(descriptor)
    }

    /// Removes what killed processes left, if nobody uses the store at this moment. Partial blobs stay, to be continued.
    fn sweep_scratch(&self) -> Result<()> {
        let is_left = |name: &String| name.starts_with(SCRATCH);
        if !self.incoming.names()?.iter().any(is_left) {
            return Ok(());
        }
        if let Some(_sweep) = Sweep::try_take(&self.root)? {
            for name in self.incoming.names()?.iter().filter(|name| is_left(name)) {
                self.incoming.unlink(name)?;
            }
        }
        Ok(())
    }
}

fn check_version(text: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(text);
    match text.trim().parse::<u32>() {
        Ok(VERSION) => Ok(()),
        Ok(newer) if newer > VERSION => {
            Err(Error::unsupported(format!("layout {newer} is of a newer program; this one knows {VERSION}")))
        }
        _ => Err(Error::invalid(format!("version: {:?} is no layout's number", text.trim()))),
    }
}

#[allow(clippy::disallowed_methods, reason = "paths of the user's own, not of an image")]
fn default_path() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/orlop".into());
    }
    let of = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = of("XDG_DATA_HOME").or_else(|| of("HOME").map(|home| home.join(".local/share")));
    let data = data.ok_or_else(|| Error::invalid("store: neither XDG_DATA_HOME nor HOME says where; use --store"))?;
    Ok(data.join("orlop"))
}

/// What isn't there is `None`.
fn optional<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
