//! What the store takes on disk, and what its images share.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;

use super::gc::Marks;
use super::layers::{table_name, tar_name, tree_name};
use super::{Image, Store, optional};
use crate::digest::Digest;
use crate::dir::Dir;
use crate::error::{At, Result};

/// Files and the room that they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub files: u64,
    /// Bytes on disk: the file system's blocks. A file with two names counts where it is seen first.
    pub bytes: u64,
}

/// What one image takes.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// The image.
    pub image: Image,
    /// The bytes of all files of all its layers: what Docker calls an image's (virtual) size.
    pub size: u64,
    /// The part of `size` that is in layers which another image has too.
    pub shared: u64,
    /// What would be free if it alone were removed, in bytes on disk.
    pub disk: u64,
    /// True if a bundle is of it.
    pub in_use: bool,
}

impl ImageUsage {
    /// The part of `size` that no other image has.
    pub fn unique(&self) -> u64 {
        self.size.saturating_sub(self.shared)
    }
}

/// What the store takes.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// The images, in the order of their names.
    pub images: Vec<ImageUsage>,
    /// Blobs as received.
    pub blobs: Sum,
    /// Tars and tables, as far as they are not the same file as a blob.
    pub layers: Sum,
    /// Merged indexes.
    pub trees: Sum,
    /// Partial downloads and what was left by a crash.
    pub incoming: Sum,
    /// What `prune` would free now, in bytes on disk.
    pub reclaimable: u64,
    /// What `prune -a` would free now, in bytes on disk.
    pub reclaimable_unused: u64,
}

impl Usage {
    /// All of it, without bundles.
    pub fn total(&self) -> Sum {
        let all = [self.blobs, self.layers, self.trees, self.incoming];
        Sum { files: all.iter().map(|s| s.files).sum(), bytes: all.iter().map(|s| s.bytes).sum() }
    }
}

/// Every file with its inode and room, and who is who.
struct Files {
    /// By kind and name.
    files: HashMap<(Place, String), (u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    Blobs,
    Layers,
    Trees,
    Incoming,
}

impl Store {
    /// What the store takes, counted from its files now.
    pub fn usage(&self) -> Result<Usage> {
        let _lease = self.lease()?;
        let files = self.all_files()?;
        let images = self.images()?;
        let bundles: HashSet<Digest> = self.bundle_manifests()?.iter().map(|manifest| manifest.digest).collect();
        let mut usage = Usage::default();
        let mut seen = HashSet::new();
        for (place, sum) in [
            (Place::Blobs, &mut usage.blobs),
            (Place::Layers, &mut usage.layers),
            (Place::Trees, &mut usage.trees),
            (Place::Incoming, &mut usage.incoming),
        ] {
            for (_, (inode, bytes)) in files.files.iter().filter(|((at, _), _)| *at == place) {
                if seen.insert(*inode) {
                    sum.files += 1;
                    sum.bytes += bytes;
                }
            }
        }
        let all = usage.total().bytes;
        usage.reclaimable =
            all.saturating_sub(files.room(&self.needed(|r| r.name.is_some() || bundles.contains(&r.manifest.digest))?));
        usage.reclaimable_unused =
            all.saturating_sub(files.room(&self.needed(|r| bundles.contains(&r.manifest.digest))?));
        let now = files.room(&self.needed(|_| true)?);
        let mut users: HashMap<Digest, u64> = HashMap::new();
        for image in &images {
            for diff_id in image.config.rootfs.diff_ids.iter().collect::<HashSet<_>>() {
                *users.entry(*diff_id).or_default() += 1;
            }
        }
        for image in images {
            let (mut size, mut shared) = (0u64, 0u64);
            for diff_id in &image.config.rootfs.diff_ids {
                let content = self.layer_info(diff_id)?.map_or(0, |info| info.content);
                size = size.saturating_add(content);
                if users.get(diff_id).is_some_and(|users| *users > 1) {
                    shared = shared.saturating_add(content);
                }
            }
            let others = self.needed(|r| r.manifest.digest != image.descriptor.digest)?;
            let in_use = bundles.contains(&image.descriptor.digest);
            usage.images.push(ImageUsage {
                size,
                shared,
                disk: now.saturating_sub(files.room(&others)),
                in_use,
                image,
            });
        }
        Ok(usage)
    }

    /// What a chain of layers takes as Docker counts it: the bytes of all their files.
    pub fn size(&self, diff_ids: &[Digest]) -> Result<u64> {
        let mut size = 0u64;
        for diff_id in diff_ids {
            size = size.saturating_add(self.layer_info(diff_id)?.map_or(0, |info| info.content));
        }
        Ok(size)
    }

    fn needed(&self, which: impl Fn(&super::Ref) -> bool) -> Result<Marks> {
        let mut marks = Marks::default();
        for r in self.refs()?.into_iter().filter(which) {
            marks.blobs.extend(r.index.as_ref().map(|index| index.digest));
            self.mark(&r.manifest, &mut marks)?;
        }
        for manifest in self.bundle_manifests()? {
            self.mark(&manifest, &mut marks)?;
        }
        Ok(marks)
    }

    fn all_files(&self) -> Result<Files> {
        let mut files = HashMap::new();
        for (place, dir) in [
            (Place::Blobs, &self.blobs),
            (Place::Layers, &self.layers),
            (Place::Trees, &self.trees),
            (Place::Incoming, &self.incoming),
        ] {
            for name in dir.names()? {
                if let Some(found) = room(dir, &name)? {
                    files.insert((place, name), found);
                }
            }
        }
        Ok(Files { files })
    }
}

/// A file's inode and the room that it takes; nothing if it was removed meanwhile.
fn room(dir: &Dir, name: &str) -> Result<Option<(u64, u64)>> {
    let Some(file) = optional(dir.file(name))? else { return Ok(None) };
    let metadata = file.metadata().at(|| format!("stat {name}"))?;
    Ok(Some((metadata.ino(), metadata.blocks() * 512)))
}

impl Files {
    /// The room of what is marked.
    fn room(&self, marks: &Marks) -> u64 {
        let mut seen = HashSet::new();
        let mut bytes = 0;
        let blobs = marks.blobs.iter().map(|digest| (Place::Blobs, digest.hex()));
        let tars = marks.layers.iter().map(|digest| (Place::Layers, tar_name(digest)));
        let tables = marks.layers.iter().map(|digest| (Place::Layers, table_name(digest)));
        let trees = marks.trees.iter().map(|digest| (Place::Trees, tree_name(digest)));
        for key in blobs.chain(tars).chain(tables).chain(trees) {
            if let Some((inode, room)) = self.files.get(&key)
                && seen.insert(*inode)
            {
                bytes += room;
            }
        }
        bytes
    }
}
