//! Giving an image to a registry: the blobs that it hasn't got, as they are, and last the manifest.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Descriptor, LayerType};
use crate::reference::Reference;
use crate::registry::{Access, Uploaded};
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
    if to.registry.is_none() {
        return Err(Error::invalid(format!("{to}: push where? The name has no registry")));
    }
    if to.digest.is_some_and(|digest| digest != image.descriptor.digest) {
        return Err(Error::invalid(format!("{to}: the image has the digest {}", image.descriptor.digest)));
    }
    let _lease = store.lease()?;
    let repository = access.repository(to)?;
    let elsewhere = repositories(store, access, to)?;
    let none = BTreeSet::new();
    let mut seen = HashSet::new();
    let parts = image.manifest.layers.iter().chain([&image.manifest.config]);
    // A layer that is not to be distributed stays where its URLs say (manifest.md).
    let parts = parts.filter(|part| LayerType::of(&part.media_type).is_none_or(|kind| !kind.foreign));
    let parts: Vec<_> = parts.filter(|part| seen.insert(part.digest)).collect();
    for part in &parts {
        progress.announced(part);
    }
    in_parallel(jobs.max(1), &parts, |part, _| {
        let digest = part.digest;
        let file = store.blob(&digest)?;
        let file = file.ok_or_else(|| Error::not_found(format!("blob {digest}: is not in the store")))?;
        let mount: Vec<_> = elsewhere.get(&digest).unwrap_or(&none).iter().take(MAX_MOUNTS).cloned().collect();
        match repository.upload(part, &file, &mount, &|bytes| progress.moved(&digest, bytes))? {
            Uploaded::Present => progress.present(&digest),
            Uploaded::Mounted => progress.mounted(&digest),
            Uploaded::Sent => progress.done(&digest),
        }
        Ok(())
    })?;
    let kind = &image.descriptor.media_type;
    repository.put_manifest(&to.selector(), kind, &image.bytes)?;
    Ok(image.descriptor.clone())
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
