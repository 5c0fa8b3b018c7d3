//! Giving an image to a registry: the blobs that it hasn't got, as they are, and last the manifest.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Descriptor, LayerType};
use crate::platform;
use crate::reference::Reference;
use crate::registry::{Access, Repository, Uploaded};
use crate::store::{Found, Store};
use crate::transfer::{Progress, in_parallel};

/// How many repositories are asked whether they have a blob. A registry that doesn't mount says so each time.
const MAX_MOUNTS: usize = 3;

/// Sends what the store calls `image` to the registry of `to`. Returns the manifest's descriptor; its digest is the same
/// there as here.
pub fn push(
    store: &Store,
    access: &Access,
    image: &Found,
    to: &Reference,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Descriptor> {
    let _lease = store.lease()?;
    let sender = Sender::new(store, access, to, &image.descriptor, jobs, progress)?;
    let parts = image.manifest.layers.iter().chain([&image.manifest.config]);
    // A layer that is not to be distributed stays where its URLs say (manifest.md).
    sender.send(parts.filter(|part| LayerType::of(&part.media_type).is_none_or(|kind| !kind.foreign)))?;
    sender.name(&image.descriptor, &image.bytes)
}

/// Sends an index of the store, with the images of all of its platforms, to the registry of `to`. Returns its descriptor.
/// Everything that it leads to must be in the store; nothing is sent else.
pub fn push_whole(
    store: &Store,
    access: &Access,
    index: &Descriptor,
    to: &Reference,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Descriptor> {
    let _lease = store.lease()?;
    let parts = store.index_parts(index, &mut missing)?;
    for part in &parts {
        for blob in &part.blobs {
            if store.blob(&blob.digest)?.is_none() {
                missing(&part.descriptor)?;
            }
        }
    }
    let sender = Sender::new(store, access, to, index, jobs, progress)?;
    sender.send(parts.iter().flat_map(|part| &part.blobs))?;
    let Some((last, others)) = parts.split_last() else { return Err(Error::invalid("index: is empty")) };
    for part in others {
        let selector = part.descriptor.digest.to_string();
        sender.repository.put_manifest(&selector, &part.descriptor.media_type, &part.bytes)?;
    }
    sender.name(index, &last.bytes)
}

/// What is wrong with an index of which `part` is not here.
pub(crate) fn missing(part: &Descriptor) -> Result<()> {
    let platform = part.platform.as_ref().map_or_else(|| part.digest.to_string(), platform::shown);
    Err(Error::not_found(format!("the image for {platform} is not in the store; pull with --all-platforms first")))
}

/// A repository that is sent to.
struct Sender<'a> {
    store: &'a Store,
    to: &'a Reference,
    repository: Repository,
    /// The other repositories of the registry that have had a blob.
    elsewhere: BTreeMap<Digest, BTreeSet<String>>,
    jobs: usize,
    progress: &'a dyn Progress,
}

impl<'a> Sender<'a> {
    fn new(
        store: &'a Store,
        access: &Access,
        to: &'a Reference,
        what: &Descriptor,
        jobs: usize,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        if to.registry.is_none() {
            return Err(Error::invalid(format!("{to}: push where? The name has no registry")));
        }
        if to.digest.is_some_and(|digest| digest != what.digest) {
            return Err(Error::invalid(format!("{to}: the image has the digest {}", what.digest)));
        }
        let repository = access.repository(to)?;
        Ok(Self { store, to, repository, elsewhere: repositories(store, access, to)?, jobs, progress })
    }

    /// Sends blobs, each once.
    fn send<'b>(&self, blobs: impl Iterator<Item = &'b Descriptor>) -> Result<()> {
        let mut seen = HashSet::new();
        let blobs: Vec<_> = blobs.filter(|blob| seen.insert(blob.digest)).collect();
        for blob in &blobs {
            self.progress.announced(blob);
        }
        let (store, progress, none) = (self.store, self.progress, BTreeSet::new());
        in_parallel(self.jobs.max(1), &blobs, |blob, _| {
            let digest = blob.digest;
            let file = store.blob(&digest)?;
            let file = file.ok_or_else(|| Error::not_found(format!("blob {digest}: is not in the store")))?;
            let mount = self.elsewhere.get(&digest).unwrap_or(&none);
            let mount: Vec<_> = mount.iter().take(MAX_MOUNTS).cloned().collect();
            match self.repository.upload(blob, &file, &mount, &|bytes| progress.moved(&digest, bytes))? {
                Uploaded::Present => progress.present(&digest),
                Uploaded::Mounted => progress.mounted(&digest),
                Uploaded::Sent => progress.done(&digest),
            }
            Ok(())
        })
    }

    /// Gives the document the name that is pushed to.
    fn name(&self, what: &Descriptor, bytes: &[u8]) -> Result<Descriptor> {
        self.repository.put_manifest(&self.to.selector(), &what.media_type, bytes)?;
        Ok(what.clone())
    }
}

/// The other repositories of the registry of `to` that have had a blob, by what the names in the store say.
fn repositories(store: &Store, access: &Access, to: &Reference) -> Result<BTreeMap<Digest, BTreeSet<String>>> {
    let mut found: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
    for other in store.manifests()? {
        let names = other.refs.iter().filter_map(|r| r.name.as_deref()?.parse::<Reference>().ok());
        let here = |name: &Reference| name.registry == to.registry && name.repository != to.repository;
        for name in names.filter(here) {
            let Some(place) = access.settings.places(&name, false).pop() else { continue };
            for part in other.manifest.layers.iter().chain([&other.manifest.config]) {
                found.entry(part.digest).or_default().insert(place.repository.clone());
            }
        }
    }
    Ok(found)
}
