//! Images on their way out to files: `oci:`, `oci-archive:`, `docker-archive:` and `dir:`.
//!
//! Blobs go out as they came in, so digests stay, but for `docker-archive:`, which has plain layers by its nature.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::dir::Dir;
use crate::error::{At, Error, ErrorKind, Result};
use crate::image::{Descriptor, media};
use crate::index::Part;
use crate::json::{self as document, MAX_DOCUMENT};
use crate::layer::{Extent, Kind, Meta};
use crate::push;
use crate::reference::{Location, Reference};
use crate::store::{Found, Store};
use crate::tar::Writer;
use crate::transfer::Progress;

use super::layout::{IMAGE_NAME, REF_NAME, is_layout};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An image, and what it is to be called.
#[derive(Debug, Clone)]
pub struct Saved<'a> {
    /// From the store.
    pub image: &'a Found,
    /// Its names in the file; perhaps none.
    pub names: Vec<Reference>,
    /// The index to write in its place, with the images of all platforms; for layouts.
    pub whole: Option<Descriptor>,
}

impl Saved<'_> {
    /// What is written: the index, or the one manifest.
    pub fn root(&self) -> &Descriptor {
        self.whole.as_ref().unwrap_or(&self.image.descriptor)
    }
}

/// Writes `images` to `location`. A layout that is there gets them in addition, and a tag that it has goes to the new
/// image; archives and `dir:` are made anew.
pub fn save(store: &Store, images: &[Saved<'_>], location: &Location, progress: &dyn Progress) -> Result<()> {
    let _lease = store.lease()?;
    let save = Save { store, progress };
    let is_layout = matches!(location, Location::Layout(..) | Location::LayoutArchive(..));
    if images.iter().any(|image| image.whole.is_some()) && !is_layout {
        return Err(Error::unsupported(format!("{location}: has one platform; oci: and oci-archive: have all")));
    }
    let written = match location {
        Location::Layout(path, tag) => save.layout(&tagged(images, tag.as_deref())?, path),
        Location::LayoutArchive(path, tag) => {
            let images = tagged(images, tag.as_deref())?;
            archive(path, |writer| save.layout_archive(&images, writer))
        }
        Location::DockerArchive(path, name) => {
            let mut images = images.to_vec();
            if let Some(name) = name {
                only(&mut images)?.names = vec![name.clone().tagged()];
            }
            archive(path, |writer| save.docker_archive(&images, writer))
        }
        Location::Flat(path) => save.flat(only(&mut images.to_vec())?.image, path),
        Location::Registry(_) => Err(Error::unsupported("not a file; a registry is pushed to")),
        Location::Rootfs(_) => {
            Err(Error::unsupported("write oci:, oci-archive:, docker-archive: or dir: in front of the path"))
        }
    };
    written.map_err(|e| e.context(location))
}

/// The only one of `images`.
fn only<'a, 'i>(images: &'a mut [Saved<'i>]) -> Result<&'a mut Saved<'i>> {
    let n = images.len();
    match images {
        [one] => Ok(one),
        _ => Err(Error::invalid(format!("takes one image, not {n}"))),
    }
}

/// The entries of a layout's index: one for each name, and one for an image without any.
fn tagged(images: &[Saved<'_>], tag: Option<&str>) -> Result<Vec<Descriptor>> {
    if tag.is_some() && images.len() != 1 {
        return Err(Error::invalid(format!("one tag for {} images", images.len())));
    }
    let mut entries = Vec::new();
    for saved in images {
        let (plain, names) = (saved.root(), &saved.names);
        let entry = |annotations: BTreeMap<String, String>| Descriptor {
            annotations,
            ..Descriptor::new(&plain.media_type, plain.digest, plain.size)
        };
        match (tag, names.is_empty()) {
            (Some(tag), _) => entries.push(entry([(REF_NAME.to_owned(), tag.to_owned())].into())),
            (None, true) => entries.push(entry(BTreeMap::new())),
            (None, false) => entries.extend(names.iter().map(|name| {
                let short = name.tag.clone().unwrap_or_else(|| name.to_string());
                entry([(REF_NAME.to_owned(), short), (IMAGE_NAME.to_owned(), name.to_string())].into())
            })),
        }
    }
    Ok(entries)
}

/// Makes the file `path` of what `write` puts into a tar; it has its name only when it is whole.
fn archive(path: &Path, write: impl FnOnce(&mut Writer<BufWriter<File>>) -> Result<()>) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::invalid("not the path of a file"));
    };
    let dir = Dir::at(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
    let temporary = format!(".{name}.{}", std::process::id());
    let made = || -> Result<()> {
        let mut writer = Writer::new(BufWriter::with_capacity(256 << 10, dir.create(&temporary)?));
        write(&mut writer)?;
        let file = writer.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error).at(|| "write")?;
        file.sync_all().at(|| "sync")?;
        dir.rename(&temporary, name)
    };
    let done = made();
    if done.is_err() {
        let _ = dir.unlink(&temporary);
    }
    done
}

/// Adds a file to an archive: the same bytes for the same images, so there are no times and owners.
fn add<W: Write>(writer: &mut Writer<W>, name: &str, size: u64, mut body: &mut dyn std::io::Read) -> Result<()> {
    let extents = [Extent { at: 0, len: size, from: 0 }];
    let extents = if size > 0 { &extents[..] } else { &[] };
    let meta = Meta { mode: 0o644, ..Meta::default() };
    writer.entry(name.as_bytes(), Kind::File { size, extents }, &meta, [], Some(&mut body))
}

fn add_bytes<W: Write>(writer: &mut Writer<W>, name: &str, bytes: &[u8]) -> Result<()> {
    add(writer, name, bytes.len() as u64, &mut &*bytes)
}

fn to_json(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::invalid(e.to_string()))
}

struct Save<'a> {
    store: &'a Store,
    progress: &'a dyn Progress,
}

impl Save<'_> {
    /// The blobs of manifests and of indexes, each once, with all documents.
    fn blobs(&self, roots: &[Descriptor]) -> Result<Vec<Descriptor>> {
        let mut seen = HashSet::new();
        let mut blobs = Vec::new();
        for root in roots {
            for Part { descriptor, blobs: parts, .. } in self.store.index_parts(root, &mut push::missing)? {
                // As in a manifest that is alone: what it is made of, and then itself.
                let (config, layers) =
                    parts.split_first().map_or((None, &[][..]), |(config, rest)| (Some(config), rest));
                let all = layers.iter().chain(config).chain([&descriptor]);
                blobs.extend(all.filter(|blob| seen.insert(blob.digest)).cloned());
            }
        }
        for blob in &blobs {
            self.progress.announced(blob);
        }
        Ok(blobs)
    }

    fn open(&self, blob: &Descriptor) -> Result<File> {
        let file = self.store.blob(&blob.digest)?;
        file.ok_or_else(|| Error::not_found(format!("blob {}: is not in the store", blob.digest)))
    }

    /// Puts a blob into a directory, unless it is there.
    fn put(&self, dir: &Dir, name: &str, blob: &Descriptor) -> Result<()> {
        match dir.file(name) {
            Ok(there) if there.metadata().at(|| format!("stat {name}"))?.len() == blob.size => {
                self.progress.present(&blob.digest);
                return Ok(());
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let temporary = format!(".{name}.{}", std::process::id());
        let write = || -> Result<()> {
            let (mut from, mut to) = (self.open(blob)?, dir.create(&temporary)?);
            // From file to file the kernel copies, or shares where the file system can.
            std::io::copy(&mut from, &mut to).at(|| format!("write {name}"))?;
            to.sync_all().at(|| format!("sync {name}"))?;
            dir.rename(&temporary, name)
        };
        let written = write();
        if written.is_err() {
            let _ = dir.unlink(&temporary);
        }
        written?;
        self.progress.moved(&blob.digest, blob.size);
        self.progress.done(&blob.digest);
        Ok(())
    }

    fn layout(&self, entries: &[Descriptor], path: &Path) -> Result<()> {
        let root = Dir::make(path)?;
        let there = is_layout(&root)?;
        let blobs = root.make_dir("blobs")?.make_dir("sha256")?;
        for blob in self.blobs(entries)? {
            self.put(&blobs, &blob.digest.hex(), &blob)?;
        }
        blobs.sync()?;
        let mut index = match there {
            true => document::parse("index.json", &root.read("index.json", MAX_DOCUMENT)?)?,
            false => json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [] }),
        };
        let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
        let manifests = manifests.ok_or_else(|| Error::invalid("index.json: has no manifests"))?;
        for entry in entries {
            let name = |key: &str| entry.annotations.get(key).map(String::as_str);
            let said = |old: &Value, key: &str| {
                old.pointer("/annotations").and_then(|all| all.get(key)).and_then(Value::as_str).map(str::to_owned)
            };
            // What had the name has it no more; what has none is replaced by itself.
            manifests.retain(|old| {
                let keys = [IMAGE_NAME, REF_NAME];
                let named = keys.iter().find(|key| name(key).is_some());
                match named {
                    Some(key) => said(old, key).as_deref() != name(key),
                    None => old.get("digest").and_then(Value::as_str) != Some(&entry.digest.to_string()),
                }
            });
            manifests.push(serde_json::to_value(entry).map_err(|e| Error::invalid(e.to_string()))?);
        }
        root.replace("index.json", &to_json(&index)?)?;
        if !there {
            root.replace("oci-layout", LAYOUT)?;
        }
        root.sync()
    }

    fn layout_archive<W: Write>(&self, entries: &[Descriptor], writer: &mut Writer<W>) -> Result<()> {
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries });
        add_bytes(writer, "oci-layout", LAYOUT)?;
        add_bytes(writer, "index.json", &to_json(&index)?)?;
        for blob in self.blobs(entries)? {
            let name = format!("blobs/sha256/{}", blob.digest.hex());
            add(writer, &name, blob.size, &mut self.open(&blob)?)?;
            self.progress.moved(&blob.digest, blob.size);
            self.progress.done(&blob.digest);
        }
        Ok(())
    }

    fn docker_archive<W: Write>(&self, images: &[Saved<'_>], writer: &mut Writer<W>) -> Result<()> {
        let (mut list, mut written) = (Vec::new(), BTreeSet::new());
        for Saved { image, names, .. } in images {
            let image = self.store.to_image((*image).clone())?;
            let diff_ids = &image.config.rootfs.diff_ids;
            let file = |digest: &Digest, end: &str| format!("{}.{end}", digest.hex());
            for (diff_id, tar) in diff_ids.iter().zip(self.store.tars(diff_ids)?) {
                if written.insert(file(diff_id, "tar")) {
                    let size = tar.metadata().at(|| format!("stat layer {diff_id}"))?.len();
                    let layer = Descriptor::new(media::LAYER, *diff_id, size);
                    self.progress.announced(&layer);
                    add(writer, &file(diff_id, "tar"), size, &mut &tar)?;
                    self.progress.moved(diff_id, size);
                    self.progress.done(diff_id);
                }
            }
            let config = file(&image.id(), "json");
            if written.insert(config.clone()) {
                add_bytes(writer, &config, &image.config_bytes)?;
            }
            let layers: Vec<_> = diff_ids.iter().map(|diff_id| file(diff_id, "tar")).collect();
            // Docker loads no digest as a tag.
            let names: Vec<_> = names.iter().filter(|name| name.digest.is_none()).map(Reference::to_string).collect();
            list.push(json!({ "Config": config, "RepoTags": names, "Layers": layers }));
        }
        add_bytes(writer, "manifest.json", &to_json(&Value::Array(list))?)
    }

    fn flat(&self, image: &Found, path: &Path) -> Result<()> {
        let dir = Dir::make(path)?;
        let names = dir.names()?;
        if !names.is_empty() && !names.iter().any(|name| name == "manifest.json") {
            return Err(Error::invalid("has something else in it"));
        }
        for blob in self.blobs(std::slice::from_ref(&image.descriptor))? {
            if blob.digest != image.descriptor.digest {
                self.put(&dir, &blob.digest.hex(), &blob)?;
            }
        }
        dir.replace("manifest.json", &image.bytes)?;
        dir.replace("version", b"Directory Transport Version: 1.1\n")?;
        dir.sync()
    }
}
