//! Collecting what nothing names.
//!
//! Roots are the refs and the bundles. From a manifest are kept its blobs, the layers of its configuration, and the merged
//! index of all of them. The whole runs under the exclusive lock, so whoever makes something holds a lease and is waited for.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;

use serde::Deserialize;

use super::layers::{chain_id, table_name, tar_name, tree_name};
use super::lock::Sweep;
use super::{Ref, Store, optional};
use crate::digest::Digest;
use crate::dir::Dir;
use crate::error::{At, Error, Result};
use crate::image::{Descriptor, Document, ImageConfig, media};
use crate::json;

/// How much is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// What no ref and no bundle needs: what was left by [`Store::remove_ref`], or by a pull that failed.
    Garbage,
    /// Images without a name too, if no bundle is of them.
    Unnamed,
    /// All images, if no bundle is of them.
    Unused,
}

/// What was collected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// Names that were removed.
    pub names: Vec<String>,
    /// The manifests of images that are no more.
    pub manifests: Vec<Digest>,
    /// How many files.
    pub files: u64,
    /// The room that they took on disk, in bytes.
    pub bytes: u64,
}

/// All that is needed.
#[derive(Debug, Default)]
pub(super) struct Marks {
    manifests: HashSet<Digest>,
    pub(super) blobs: HashSet<Digest>,
    pub(super) layers: HashSet<Digest>,
    pub(super) trees: HashSet<Digest>,
}

impl Store {
    /// Removes what is not needed, and says what that was. Waits for leases to end, and fails with the kind
    /// [`InUse`](crate::error::ErrorKind::InUse) if that takes too long: the caller holds none.
    pub fn prune(&self, prune: Prune) -> Result<Freed> {
        self.prune_where(prune, &|_| Ok(true))
    }

    /// The same, but of the names and nameless images only those that `may` go.
    pub fn prune_where(&self, prune: Prune, may: &dyn Fn(&Ref) -> Result<bool>) -> Result<Freed> {
        let _sweep = Sweep::take(&self.root)?;
        let mut freed = Freed::default();
        let used: HashSet<Digest> = self.bundle_manifests()?.iter().map(|manifest| manifest.digest).collect();
        for r in self.refs()? {
            let goes = match prune {
                Prune::Garbage => false,
                Prune::Unnamed => r.name.is_none(),
                Prune::Unused => true,
            };
            if !goes || used.contains(&r.manifest.digest) || !may(&r)? {
                continue;
            }
            match r.name {
                Some(name) => {
                    self.remove_ref(&name)?;
                    freed.names.push(name);
                }
                None => drop(self.remove_nameless(&r.manifest.digest)?),
            }
            if !freed.manifests.contains(&r.manifest.digest) {
                freed.manifests.push(r.manifest.digest);
            }
        }
        let refs = self.refs()?;
        freed.manifests.retain(|digest| !refs.iter().any(|r| r.manifest.digest == *digest));
        self.sweep(&self.marks()?, &mut freed)?;
        Ok(freed)
    }

    /// Does something while nobody holds a lease, and nobody gets one. The caller holds none either.
    pub fn alone<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let _sweep = Sweep::take(&self.root)?;
        act()
    }

    /// The manifests that bundles are of. A bundle that can't be read is an error: what it needs can't be known. A
    /// directory without `bundle.json` is not a bundle yet, or no longer.
    pub fn bundle_manifests(&self) -> Result<Vec<Descriptor>> {
        #[derive(Deserialize)]
        struct Bundle {
            manifest: Descriptor,
        }
        let mut manifests = Vec::new();
        for id in self.bundles.names()? {
            let Some(bytes) = optional(self.bundles.read(&format!("{id}/bundle.json"), json::MAX_DOCUMENT))? else {
                continue;
            };
            let bundle: Bundle = json::parse("bundle.json", &bytes).map_err(|e| e.context(format!("bundle {id}")))?;
            manifests.push(bundle.manifest);
        }
        Ok(manifests)
    }

    pub(super) fn marks(&self) -> Result<Marks> {
        let mut marks = Marks::default();
        for r in self.refs()? {
            self.mark_ref(&r, &mut marks)?;
        }
        for manifest in self.bundle_manifests()? {
            self.mark(&manifest, &mut marks)?;
        }
        Ok(marks)
    }

    /// Marks what a name needs.
    pub(super) fn mark_ref(&self, r: &Ref, marks: &mut Marks) -> Result<()> {
        if let Some(index) = &r.index {
            marks.blobs.insert(index.digest);
            if r.whole {
                for part in self.index_parts(index, &mut |_| Ok(()))? {
                    marks.blobs.insert(part.descriptor.digest);
                    marks.blobs.extend(part.blobs.iter().map(|blob| blob.digest));
                }
            }
        }
        self.mark(&r.manifest, marks)
    }

    /// Marks what a manifest needs. A document that is missing or damaged is an error: without it, it can't be known what
    /// else is needed, and `verify` says so with more words.
    pub(super) fn mark(&self, manifest: &Descriptor, marks: &mut Marks) -> Result<()> {
        if !marks.manifests.insert(manifest.digest) {
            return Ok(());
        }
        marks.blobs.insert(manifest.digest);
        let bytes = self.read_blob(manifest)?;
        let Document::Manifest(manifest) = Document::parse(&manifest.media_type, &bytes)? else {
            return Err(Error::invalid(format!("{}: is an index", manifest.digest)));
        };
        marks.blobs.insert(manifest.config.digest);
        marks.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
        if matches!(manifest.config.media_type.as_str(), media::CONFIG | media::DOCKER_CONFIG) {
            let config = ImageConfig::parse(&self.read_blob(&manifest.config)?, manifest.layers.len())?;
            marks.trees.insert(chain_id(&config.rootfs.diff_ids));
            marks.layers.extend(config.rootfs.diff_ids);
        }
        Ok(())
    }

    fn sweep(&self, marks: &Marks, freed: &mut Freed) -> Result<()> {
        let names =
            |of: &HashSet<Digest>, name: &dyn Fn(&Digest) -> String| of.iter().map(name).collect::<HashSet<_>>();
        let layers = &names(&marks.layers, &tar_name) | &names(&marks.layers, &table_name);
        // A layer goes with its table first: what is left of it at any moment is no layer.
        sweep_dir(&self.trees, &names(&marks.trees, &tree_name), freed)?;
        sweep_dir(&self.layers, &layers, freed)?;
        sweep_dir(&self.blobs, &names(&marks.blobs, &Digest::hex), freed)?;
        sweep_dir(&self.incoming, &HashSet::new(), freed)
    }
}

fn sweep_dir(dir: &Dir, keep: &HashSet<String>, freed: &mut Freed) -> Result<()> {
    // Sorted: `.idx` is before `.tar`.
    for name in dir.names()?.into_iter().filter(|name| !keep.contains(name)) {
        let metadata = dir.file(&name)?.metadata().at(|| format!("stat {name}"))?;
        dir.unlink(&name)?;
        freed.files += 1;
        // The room is free when the last name is gone.
        if metadata.nlink() == 1 {
            freed.bytes += metadata.blocks() * 512;
        }
    }
    dir.sync()
}
