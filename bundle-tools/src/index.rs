//! All that an index leads to: the images of every platform, and what is said about them.

use std::collections::HashSet;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Descriptor, Document, LayerType, is_document};

/// How deep indexes may be in indexes.
pub const MAX_NESTING: u32 = 4;

/// The most entries of an index, and the most documents that one leads to.
pub const MAX_ENTRIES: usize = 4096;

/// The most that all documents together may have, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// A document, and the blobs that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What names it, with its platform if the index says one.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// A manifest's configuration and layers, without those that are not to be distributed; nothing for an index.
    pub blobs: Vec<Descriptor>,
}

/// The documents that the index `root` leads to, each once, those that are pointed at before those that point: so it is
/// itself the last. `read` gives a document, or `None` for one that is to be passed over. What is of an unknown type is
/// passed over too (image-index.md).
pub fn parts(
    root: &Descriptor,
    bytes: Vec<u8>,
    read: &mut dyn FnMut(&Descriptor) -> Result<Option<Vec<u8>>>,
) -> Result<Vec<Part>> {
    let mut walk = Walk { read, seen: HashSet::from([root.digest]), bytes: 0, parts: Vec::new() };
    walk.document(root, bytes, MAX_NESTING)?;
    Ok(walk.parts)
}

struct Walk<'a> {
    read: &'a mut dyn FnMut(&Descriptor) -> Result<Option<Vec<u8>>>,
    seen: HashSet<Digest>,
    bytes: u64,
    parts: Vec<Part>,
}

impl Walk<'_> {
    fn document(&mut self, descriptor: &Descriptor, bytes: Vec<u8>, depth: u32) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_BYTES {
            return Err(Error::invalid(format!("index: its documents have more than {} MiB", MAX_BYTES >> 20)));
        }
        let blobs = match Document::parse(&descriptor.media_type, &bytes)? {
            Document::Manifest(manifest) => {
                let is_kept = |blob: &Descriptor| LayerType::of(&blob.media_type).is_none_or(|kind| !kind.foreign);
                std::iter::once(manifest.config).chain(manifest.layers).filter(is_kept).collect()
            }
            Document::Index(index) => {
                let below = depth.checked_sub(1);
                let below = below.ok_or_else(|| Error::invalid(format!("index: nested deeper than {MAX_NESTING}")))?;
                for entry in index.manifests.iter().filter(|entry| is_document(&entry.media_type)) {
                    if !self.seen.insert(entry.digest) {
                        continue;
                    }
                    if self.seen.len() > MAX_ENTRIES {
                        return Err(Error::invalid(format!("index: more than {MAX_ENTRIES} entries")));
                    }
                    if let Some(bytes) = (self.read)(entry)? {
                        self.document(entry, bytes, below)?;
                    }
                }
                Vec::new()
            }
        };
        self.parts.push(Part { descriptor: descriptor.clone(), bytes, blobs });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::image::media;

    /// Documents by their digests.
    #[derive(Default)]
    struct Shelf(HashMap<Digest, Vec<u8>>);

    impl Shelf {
        fn put(&mut self, kind: &str, document: &Value) -> Value {
            let bytes = serde_json::to_vec(document).unwrap();
            let descriptor = Descriptor::of(kind, &bytes);
            self.0.insert(descriptor.digest, bytes);
            serde_json::to_value(descriptor).unwrap()
        }

        fn manifest(&mut self, layer: &str) -> Value {
            let blob = |kind: &str, text: &str| serde_json::to_value(Descriptor::of(kind, text.as_bytes())).unwrap();
            let layers = [blob(media::LAYER, layer), blob(media::FOREIGN, "elsewhere")];
            let config = blob(media::CONFIG, "{}");
            self.put(media::MANIFEST, &json!({ "schemaVersion": 2, "config": config, "layers": layers }))
        }

        fn index(&mut self, manifests: &[Value]) -> Value {
            self.put(media::INDEX, &json!({ "schemaVersion": 2, "manifests": manifests }))
        }

        fn parts(&self, root: &Value, without: Option<&Value>) -> Result<Vec<Part>> {
            let root: Descriptor = serde_json::from_value(root.clone()).unwrap();
            let without = without.map(|gone| gone["digest"].as_str().unwrap().to_owned());
            parts(&root, self.0[&root.digest].clone(), &mut |entry| {
                let is_gone = without.as_deref() == Some(&entry.digest.to_string());
                Ok((!is_gone).then(|| self.0[&entry.digest].clone()))
            })
        }
    }

    #[test]
    fn documents_come_once_and_before_those_that_point_at_them() {
        let mut shelf = Shelf::default();
        let (one, two) = (shelf.manifest("one"), shelf.manifest("two"));
        let inner = shelf.index(&[two.clone(), one.clone()]);
        let other = json!({ "mediaType": "text/plain", "digest": Digest::of(b"x"), "size": 1 });
        let root = shelf.index(&[one.clone(), other, inner.clone(), one.clone()]);
        let digests = |parts: Vec<Part>| -> Vec<Value> {
            parts.iter().map(|part| part.descriptor.digest.to_string().into()).collect()
        };
        let all = shelf.parts(&root, None).unwrap();
        assert_eq!(all[0].blobs.iter().map(|blob| blob.size).collect::<Vec<_>>(), [2, 3], "no foreign layer");
        assert_eq!(digests(all), [&one, &two, &inner, &root].map(|part| part["digest"].clone()));
        let some = shelf.parts(&root, Some(&two)).unwrap();
        assert_eq!(digests(some), [&one, &inner, &root].map(|part| part["digest"].clone()));
    }

    #[test]
    fn an_index_that_is_too_deep_or_too_long_is_refused() {
        let mut shelf = Shelf::default();
        let mut at = shelf.manifest("one");
        for depth in 1..=MAX_NESTING + 1 {
            at = shelf.index(&[at]);
            assert_eq!(shelf.parts(&at, None).is_ok(), depth <= MAX_NESTING, "{depth}");
        }
        let many: Vec<_> = (0..=MAX_ENTRIES).map(|n| shelf.manifest(&n.to_string())).collect();
        let long = shelf.index(&many);
        assert!(shelf.parts(&long, None).unwrap_err().to_string().contains("entries"));
    }
}
