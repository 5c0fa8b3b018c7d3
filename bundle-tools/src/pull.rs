//! Taking an image into the store: its documents, then the layers that are missing, several at a time, and last its name.
//!
//! A pull that is interrupted publishes nothing; what has come of its blobs is taken up by the next one.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::commit::change;
use crate::config::process::DEFAULT_PATH;
use crate::digest::Digest;
use crate::error::{At, Error, ErrorKind, Result};
use crate::format::units::rfc3339;
use crate::image::{self, Descriptor, Document, ImageConfig, LayerType, Manifest, Platform, is_document, media};
use crate::index::{self, MAX_ENTRIES, MAX_NESTING};
use crate::json::{self, MAX_DOCUMENT};
use crate::layer::Time;
use crate::platform::{self, Wanted};
use crate::reference::{Location, Reference};
use crate::registry::Access;
use crate::registry::settings::Settings;
use crate::store::{Blob, Found, Incoming, LayerInfo, Lease, Store, Watch};
use crate::tar;
use crate::transfer::{JOBS, Progress, Stop, in_parallel};
use crate::transport::{self, Root, Source, name_of};

mod folder;
#[cfg(test)]
mod tests;

/// How many documents are read to find the one for a platform.
const MAX_LOOKUPS: u32 = 64;

/// What a user may say about a pull.
#[derive(Debug, Clone)]
pub struct Options {
    /// Another platform than this machine's. If one is named, an image for another one is an error.
    pub platform: Option<Wanted>,
    /// The images of all other platforms too, as blobs, so that the index can be pushed whole.
    pub all_platforms: bool,
    /// The name to give, if the source has one image.
    pub name: Option<Reference>,
    /// How many layers at a time.
    pub jobs: usize,
    /// What an image becomes that wasn't one.
    pub made: Made,
}

/// What is said of an image that is made of a root file system.
#[derive(Debug, Clone)]
pub struct Made {
    /// When: now, or `SOURCE_DATE_EPOCH`.
    pub created: Time,
    /// Lines of a Dockerfile for its configuration ([`change::apply`]).
    pub changes: Vec<String>,
    /// The comment in its history; else where it came from.
    pub message: Option<String>,
}

impl Default for Made {
    fn default() -> Self {
        Self { created: Time::now(), changes: Vec::new(), message: None }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { platform: None, all_platforms: false, name: None, jobs: JOBS, made: Made::default() }
    }
}

/// What has come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its names in the store; none if nothing says one.
    pub names: Vec<String>,
    /// Its manifest.
    pub manifest: Descriptor,
    /// The digest of its configuration: the image's id.
    pub id: Digest,
    /// False for an artifact, which is stored, tagged and pushed, but can't be run.
    pub runnable: bool,
    /// What it runs on, if it is an image.
    pub platform: Option<Platform>,
}

/// Takes what `location` means into the store: one image from a registry, all that an archive or layout has if none is
/// named.
pub fn pull(
    store: &Store,
    access: &Access,
    location: &Location,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Pulled>> {
    let lease = store.lease()?;
    let (names, source) = match location {
        Location::Rootfs(path) => return Ok(vec![rootfs(store, &lease, path, options, progress)?]),
        Location::Registry(name) => {
            let (name, source) = ask(store, access, name)?;
            (Some(name), source)
        }
        other => (None, transport::open(store, access, other)?),
    };
    let roots = source.roots()?;
    if options.name.is_some() && roots.len() > 1 {
        return Err(Error::invalid(format!("{location}: has {} images, and there is one name", roots.len())));
    }
    let pull = Pull { store, lease: &lease, source: &*source, options, progress, lookups: Cell::new(MAX_LOOKUPS) };
    let one = |root: &Root| {
        let said = names.as_ref().map_or_else(|| location.to_string(), Reference::to_string);
        pull.root(root).map_err(|e| e.context(said))
    };
    roots.iter().map(one).collect()
}

/// Opens the registry that has `name`: its own, or the first of those that are searched.
fn ask(store: &Store, access: &Access, name: &Reference) -> Result<(Reference, Box<dyn Source>)> {
    let mut candidates = access.settings.candidates(&name.clone().tagged())?.into_iter();
    loop {
        let Some(candidate) = candidates.next() else { return Err(Error::not_found(format!("{name}: no registry"))) };
        match transport::open(store, access, &Location::Registry(candidate.clone())) {
            Ok(source) => return Ok((candidate, source)),
            // Many registries deny what isn't there. One that can't be asked might have it: then another's must not be
            // taken instead.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Denied) && candidates.len() > 0 => {}
            Err(e) => return Err(e),
        }
    }
}

/// What a user means by `name`: what the store has under it, or, if that is nothing, under the names that it would
/// be pulled by.
pub fn find(store: &Store, settings: &Settings, name: &str) -> Result<Found> {
    let missing = match store.find(name) {
        Err(e) if e.kind() == ErrorKind::NotFound => e,
        found => return found,
    };
    let Ok(reference) = name.parse::<Reference>() else { return Err(missing) };
    let candidates = match settings.candidates(&reference.tagged()) {
        Ok(candidates) => candidates,
        Err(_) => return Err(missing),
    };
    let mut found = candidates.iter().map(|candidate| store.find(&candidate.to_string())).filter_map(Result::ok);
    found.next().ok_or(missing)
}

struct Pull<'a> {
    store: &'a Store,
    lease: &'a Lease,
    source: &'a dyn Source,
    options: &'a Options,
    progress: &'a dyn Progress,
    /// How many more documents may be read to find the right one.
    lookups: Cell<u32>,
}

/// The manifest that is meant.
struct Chosen {
    descriptor: Descriptor,
    bytes: Vec<u8>,
    manifest: Manifest,
}

/// A layer that is to be there in the end.
struct Wants<'a> {
    layer: &'a Descriptor,
    diff_id: Digest,
}

impl Pull<'_> {
    fn root(&self, root: &Root) -> Result<Pulled> {
        let wanted = self.options.platform.clone().unwrap_or_else(Wanted::host);
        let chosen = self.choose(&wanted, &root.descriptor, &root.bytes, MAX_NESTING)?;
        let (manifest, descriptor) = (&chosen.manifest, &chosen.descriptor);
        let platform = match is_image(manifest) {
            true => Some(self.image(manifest)?),
            false => {
                self.blobs(std::iter::once(&manifest.config).chain(&manifest.layers))?;
                None
            }
        };
        let manifest_descriptor = self.store.put(&descriptor.media_type, &chosen.bytes, Some(descriptor))?;
        let index = match root.descriptor.digest == descriptor.digest {
            true => None,
            false => Some(self.store.put(&root.descriptor.media_type, &root.bytes, Some(&root.descriptor))?),
        };
        if index.is_some() && self.options.all_platforms {
            self.others(root, descriptor.digest)?;
        }
        let names: Vec<String> = match &self.options.name {
            Some(name) => vec![name.clone().tagged().to_string()],
            None => root.names.iter().map(Reference::to_string).collect(),
        };
        // The name is the last, so what has one is whole.
        for name in &names {
            match &index {
                Some(index) if self.options.all_platforms => {
                    self.store.set_ref_whole(name, &manifest_descriptor, index)?;
                }
                index => self.store.set_ref_from(name, &manifest_descriptor, index.as_ref())?,
            }
        }
        if names.is_empty() {
            self.store.keep_nameless(&manifest_descriptor)?;
        }
        let (id, runnable) = (manifest.config.digest, platform.is_some());
        Ok(Pulled { names, manifest: manifest_descriptor, id, runnable, platform })
    }

    /// Brings what else the index `root` leads to than the manifest `chosen`: blobs, as they are.
    fn others(&self, root: &Root, chosen: Digest) -> Result<()> {
        let parts = index::parts(&root.descriptor, root.bytes.clone(), &mut |entry| {
            if has_blob(self.store, entry)? {
                return self.store.read_blob(entry).map(Some);
            }
            self.source.document(entry, MAX_DOCUMENT).map(Some)
        })?;
        for part in parts.iter().filter(|part| part.descriptor.digest != chosen) {
            let said = || part.descriptor.platform.as_ref().map_or_else(String::new, platform::shown);
            self.blobs(&part.blobs).map_err(|e| e.context(said()))?;
            self.store.put(&part.descriptor.media_type, &part.bytes, Some(&part.descriptor))?;
        }
        Ok(())
    }

    /// The manifest that `descriptor` means: itself, or the one for the platform.
    fn choose(&self, wanted: &Wanted, descriptor: &Descriptor, bytes: &[u8], depth: u32) -> Result<Chosen> {
        let index = match Document::parse(&descriptor.media_type, bytes)? {
            Document::Manifest(manifest) => {
                let descriptor = Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size);
                return Ok(Chosen { descriptor, bytes: bytes.to_vec(), manifest });
            }
            Document::Index(index) => index,
        };
        if depth == 0 {
            return Err(Error::invalid(format!("index: nested deeper than {MAX_NESTING}")));
        }
        if index.manifests.len() > MAX_ENTRIES {
            return Err(Error::invalid(format!("index: more than {MAX_ENTRIES} entries")));
        }
        // What is of an unknown type is passed over (image-index.md).
        let entries: Vec<_> = index.manifests.into_iter().filter(|entry| is_document(&entry.media_type)).collect();
        let entry = wanted.choose(&entries, |entry| self.platform_of(wanted, entry, depth - 1))?;
        let bytes = self.lookup(entry)?;
        self.choose(wanted, entry, &bytes, depth - 1)
    }

    fn lookup(&self, entry: &Descriptor) -> Result<Vec<u8>> {
        let left = self.lookups.get().checked_sub(1);
        self.lookups.set(left.ok_or_else(|| Error::invalid("index: too many documents to look at"))?);
        self.source.document(entry, MAX_DOCUMENT)
    }

    /// What an entry that doesn't say it is for: what its configuration says, or what can be chosen from it.
    fn platform_of(&self, wanted: &Wanted, entry: &Descriptor, depth: u32) -> Result<Option<Platform>> {
        let bytes = self.lookup(entry)?;
        let chosen = match self.choose(wanted, entry, &bytes, depth) {
            Ok(chosen) => chosen,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        match is_image(&chosen.manifest) {
            true => Ok(Some(json::parse("image configuration", &self.lookup(&chosen.manifest.config)?)?)),
            false => Ok(None),
        }
    }

    /// Brings configuration and layers; returns what the image runs on.
    fn image(&self, manifest: &Manifest) -> Result<Platform> {
        for (n, layer) in manifest.layers.iter().enumerate() {
            let kind = LayerType::of(&layer.media_type)
                .ok_or_else(|| Error::unsupported(format!("layer {n}: unknown media type {:?}", layer.media_type)))?;
            if kind.foreign {
                return Err(Error::unsupported(format!(
                    "layer {n}: is not in the registry but at a URL (\"foreign\"), from where nothing is fetched"
                )));
            }
        }
        let bytes = match has_blob(self.store, &manifest.config)? {
            true => self.store.read_blob(&manifest.config)?,
            false => self.source.document(&manifest.config, MAX_DOCUMENT)?,
        };
        let config = ImageConfig::parse(&bytes, manifest.layers.len())?;
        if let Some(wanted) = &self.options.platform
            && wanted.rank(&config.platform).is_none()
        {
            return Err(Error::not_found(format!("the image is for {}", platform::shown(&config.platform))));
        }
        self.store.put(&manifest.config.media_type, &bytes, Some(&manifest.config))?;
        let mut seen = HashSet::new();
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids);
        let wants: Vec<_> = layers
            .filter(|(layer, diff_id)| seen.insert((layer.digest, **diff_id)))
            .map(|(layer, diff_id)| Wants { layer, diff_id: *diff_id })
            .collect();
        for want in &wants {
            self.progress.announced(want.layer);
        }
        let (source, store, lease, progress) = (self.source, self.store, self.lease, self.progress);
        in_parallel(self.options.jobs.max(1), &wants, |want, stop| {
            let Wants { layer, diff_id } = want;
            let digest = layer.digest;
            if store.layer_info(diff_id)?.is_some() && has_blob(store, layer)? {
                progress.present(&digest);
                return Ok(());
            }
            let fetch = |incoming: &mut Incoming<'_>| copy(source, layer, incoming, stop, progress);
            store.receive_layer(lease, layer, Some(*diff_id), fetch, &Arriving { progress, digest })?;
            progress.done(&digest);
            Ok(())
        })?;
        // Layers that don't fit together make no image; and its first bundle should not have to wait.
        store.tree(&config.rootfs.diff_ids)?;
        Ok(config.platform)
    }

    /// Brings blobs as they are.
    fn blobs<'a>(&self, blobs: impl IntoIterator<Item = &'a Descriptor>) -> Result<()> {
        let mut seen = HashSet::new();
        let blobs: Vec<_> = blobs.into_iter().filter(|b| seen.insert(b.digest)).collect();
        for blob in &blobs {
            self.progress.announced(blob);
        }
        let (source, store, progress) = (self.source, self.store, self.progress);
        in_parallel(self.options.jobs.max(1), &blobs, |blob, stop| {
            let mut incoming = store.incoming(blob)?;
            if incoming.is_complete() {
                progress.present(&blob.digest);
                return Ok(());
            }
            copy(source, blob, &mut incoming, stop, progress)?;
            incoming.finish()?;
            progress.done(&blob.digest);
            Ok(())
        })
    }
}

/// Tells of a layer by the name of its blob.
struct Arriving<'a> {
    progress: &'a dyn Progress,
    digest: Digest,
}

impl Watch for Arriving<'_> {
    fn unpacked(&self, bytes: u64) {
        self.progress.unpacked(&self.digest, bytes);
    }

    fn noted(&self, note: &str) {
        self.progress.noted(&self.digest, note);
    }
}

/// Keeps what is to be told of a layer until its blob has a name.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Watch for Notes {
    fn noted(&self, note: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(note.to_owned());
    }
}

/// True if the configuration is an image's.
fn is_image(manifest: &Manifest) -> bool {
    matches!(manifest.config.media_type.as_str(), media::CONFIG | media::DOCKER_CONFIG)
}

/// True if the blob is there. One of another length than its descriptor says is an error.
fn has_blob(store: &Store, blob: &Descriptor) -> Result<bool> {
    let Some(file) = store.blob(&blob.digest)? else { return Ok(false) };
    let len = file.metadata().at(|| format!("stat blob {}", blob.digest))?.len();
    if len != blob.size {
        return Err(Error::invalid(format!("blob {}: announced with {} bytes, has {len}", blob.digest, blob.size)));
    }
    Ok(true)
}

/// Moves what is missing of a blob into the store.
fn copy(
    source: &dyn Source,
    blob: &Descriptor,
    incoming: &mut Incoming<'_>,
    stop: &Stop,
    progress: &dyn Progress,
) -> Result<()> {
    let have = incoming.have();
    if have > 0 {
        progress.moved(&blob.digest, have);
    }
    let mut body = source.blob(blob, have)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        stop.check()?;
        let n = body.read(&mut buffer)?;
        let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else { return Ok(()) };
        incoming.write(read)?;
        progress.moved(&blob.digest, n as u64);
    }
}

/// Makes a layer of the file at `path`: a tar, compressed or not.
pub(crate) fn add_file(store: &Store, path: &Path, watch: &dyn Watch) -> Result<(Blob, LayerInfo)> {
    let mut file = File::open(path).at(|| "open")?;
    let size = file.metadata().at(|| "stat")?.len();
    add_layer(store, Some(size), watch, |incoming| {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = file.read(&mut buffer).at(|| "read")?;
            let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else { return Ok(()) };
            incoming.write(read)?;
        }
    })
}

/// Makes a layer of what `write` writes, which is unpacked meanwhile.
fn add_layer(
    store: &Store,
    size: Option<u64>,
    watch: &dyn Watch,
    write: impl FnOnce(&mut Incoming<'_>) -> Result<()>,
) -> Result<(Blob, LayerInfo)> {
    let lease = store.lease()?;
    let mut incoming = store.incoming_unnamed(size)?;
    let feed = incoming.feed()?;
    std::thread::scope(|scope| {
        let added = scope.spawn(|| store.add_layer(&lease, feed, None, watch));
        let received = write(&mut incoming).and_then(|()| incoming.finish());
        let added = added.join().unwrap_or_else(|_| Err(Error::invalid("a thread failed")));
        Ok((received?, added?))
    })
}

/// Makes an image of one layer of a root file system: a tar, or a folder.
fn rootfs(store: &Store, _: &Lease, path: &Path, options: &Options, progress: &dyn Progress) -> Result<Pulled> {
    let make = || -> Result<Pulled> {
        // containerd finds no program by its name in an image without it; Docker and Podman add it themselves.
        let env = format!("PATH={DEFAULT_PATH}");
        let mut run: serde_json::Map<_, _> = [("Env".to_owned(), vec![env].into())].into_iter().collect();
        change::apply(&mut run, &options.made.changes)?;
        let is_folder = std::fs::metadata(path).at(|| "open")?.is_dir();
        let notes = Notes::default();
        let (blob, layer) = match is_folder {
            true => add_layer(store, None, &notes, |incoming| {
                let mut writer = tar::Writer::new(std::io::BufWriter::with_capacity(256 << 10, incoming));
                folder::write(&crate::dir::Dir::at(path)?, &mut writer)?;
                let buffered = writer.finish()?;
                buffered.into_inner().map(drop).map_err(|e| e.into_error()).at(|| "write the layer")
            })?,
            false => add_file(store, path, &notes)?,
        };
        let mut head = [0; 8];
        let n = std::os::unix::fs::FileExt::read_at(&blob.file, &mut head, 0).at(|| "read the layer")?;
        let kind = match crate::compress::detect(head.get(..n).unwrap_or_default()) {
            image::Compression::None => media::LAYER,
            image::Compression::Gzip => media::LAYER_GZIP,
            image::Compression::Zstd => media::LAYER_ZSTD,
        };
        let descriptor = Descriptor::new(kind, blob.digest, blob.size);
        progress.announced(&descriptor);
        progress.done(&blob.digest);
        notes.0.into_inner().unwrap_or_default().iter().for_each(|note| progress.noted(&blob.digest, note));
        store.tree(&[layer.diff_id])?;
        let platform = options.platform.as_ref().map_or_else(platform::host, Wanted::best);
        let created = rfc3339(options.made.created.sec);
        let last = || path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let comment = options.made.message.clone().unwrap_or_else(|| format!("Imported from {}", last()));
        let mut config = serde_json::json!({
            "created": created,
            "architecture": platform.architecture,
            "os": platform.os,
            "config": run,
            "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
            "history": [{ "created": created, "comment": comment }],
        });
        if let (false, Some(config)) = (platform.variant.is_empty(), config.as_object_mut()) {
            config.insert("variant".to_owned(), platform.variant.clone().into());
        }
        let config = serde_json::to_vec(&config).map_err(|e| Error::invalid(e.to_string()))?;
        let config = store.put(media::CONFIG, &config, None)?;
        let manifest = store.put(media::MANIFEST, &image::manifest(&config, &[descriptor])?, None)?;
        let name = options.name.clone().map_or_else(|| name_of(path, None), Reference::tagged).to_string();
        store.set_ref(&name, &manifest)?;
        Ok(Pulled { names: vec![name], manifest, id: config.digest, runnable: true, platform: Some(platform) })
    };
    make().map_err(|e| e.context(path.display()))
}
