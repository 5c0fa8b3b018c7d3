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
    /// What would be free if it alone were removed, in bytes on disk: no other image and no bundle needs it.
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

/// A file, and the room that it takes.
type Room = HashMap<u64, u64>;

/// What needs a file: an image, by its manifest, or any bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum User {
    Image(Digest),
    Bundles,
}

impl Store {
    /// What the store takes, counted from its files now.
    pub fn usage(&self) -> Result<Usage> {
        let _lease = self.lease()?;
        let mut usage = Usage::default();
        let mut room = Room::new();
        for (dir, sum) in [
            (&self.blobs, &mut usage.blobs),
            (&self.layers, &mut usage.layers),
            (&self.trees, &mut usage.trees),
            (&self.incoming, &mut usage.incoming),
        ] {
            for name in dir.names()? {
                if let Some((inode, bytes)) = stat(dir, &name)?
                    && room.insert(inode, bytes).is_none()
                {
                    sum.files += 1;
                    sum.bytes += bytes;
                }
            }
        }
        let bundled = self.bundle_manifests()?;
        let (mut users, mut named) = (HashMap::<u64, HashSet<User>>::new(), HashSet::new());
        let mut use_all = |user, marks: &Marks| -> Result<()> {
            for inode in self.inodes(marks)? {
                users.entry(inode).or_default().insert(user);
            }
            Ok(())
        };
        for r in self.refs()? {
            let user = User::Image(r.manifest.digest);
            if r.name.is_some() {
                named.insert(user);
            }
            let mut marks = Marks::default();
            self.mark_ref(&r, &mut marks)?;
            use_all(user, &marks)?;
        }
        for manifest in &bundled {
            let mut marks = Marks::default();
            self.mark(manifest, &mut marks)?;
            use_all(User::Bundles, &marks)?;
        }
        // What is free when only those that `stays` says are left.
        let free = |stays: &dyn Fn(&User) -> bool| -> u64 {
            let goes = |inode: &u64| !users.get(inode).is_some_and(|users| users.iter().any(stays));
            room.iter().filter(|(inode, _)| goes(inode)).map(|(_, bytes)| bytes).sum()
        };
        let in_use: HashSet<Digest> = bundled.iter().map(|manifest| manifest.digest).collect();
        usage.reclaimable = free(&|user| named.contains(user) || *user == User::Bundles);
        usage.reclaimable_unused = free(&|user| *user == User::Bundles);
        let mut alone = HashMap::<User, u64>::new();
        for (inode, users) in &users {
            if let (1, Some(user)) = (users.len(), users.iter().next()) {
                *alone.entry(*user).or_default() += room.get(inode).copied().unwrap_or_default();
            }
        }
        let images = self.images()?;
        let mut owners: HashMap<Digest, u64> = HashMap::new();
        for image in &images {
            for diff_id in image.config.rootfs.diff_ids.iter().collect::<HashSet<_>>() {
                *owners.entry(*diff_id).or_default() += 1;
            }
        }
        for image in images {
            let (mut size, mut shared) = (0u64, 0u64);
            for diff_id in &image.config.rootfs.diff_ids {
                let content = self.layer_info(diff_id)?.map_or(0, |info| info.content);
                size = size.saturating_add(content);
                if owners.get(diff_id).is_some_and(|owners| *owners > 1) {
                    shared = shared.saturating_add(content);
                }
            }
            let digest = image.descriptor.digest;
            let disk = alone.get(&User::Image(digest)).copied().unwrap_or_default();
            usage.images.push(ImageUsage { size, shared, disk, in_use: in_use.contains(&digest), image });
        }
        Ok(usage)
    }

    /// What a chain of layers takes as Docker counts it: see [`super::LayerInfo::content`].
    pub fn size(&self, diff_ids: &[Digest]) -> Result<u64> {
        let mut size = 0u64;
        for diff_id in diff_ids {
            size = size.saturating_add(self.layer_info(diff_id)?.map_or(0, |info| info.content));
        }
        Ok(size)
    }

    /// The files that are marked, as far as they are there.
    fn inodes(&self, marks: &Marks) -> Result<Vec<u64>> {
        let mut inodes = Vec::new();
        let mut see = |dir: &Dir, name: &str| -> Result<()> {
            inodes.extend(stat(dir, name)?.map(|(inode, _)| inode));
            Ok(())
        };
        marks.blobs.iter().try_for_each(|digest| see(&self.blobs, &digest.hex()))?;
        marks.layers.iter().try_for_each(|digest| {
            see(&self.layers, &tar_name(digest)).and_then(|()| see(&self.layers, &table_name(digest)))
        })?;
        marks.trees.iter().try_for_each(|digest| see(&self.trees, &tree_name(digest)))?;
        Ok(inodes)
    }
}

/// A file's inode and the room that it takes; nothing if it isn't there, or was removed meanwhile.
fn stat(dir: &Dir, name: &str) -> Result<Option<(u64, u64)>> {
    let Some(file) = optional(dir.file(name))? else { return Ok(None) };
    let metadata = file.metadata().at(|| format!("stat {name}"))?;
    Ok(Some((metadata.ino(), metadata.blocks() * 512)))
}
