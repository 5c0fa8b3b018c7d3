//! Checking that everything is what its name says.
//!
//! Blobs and tars are hashed. Tables and merged indexes are made anew by a worker from what they were made of, and compared byte by
//! byte: both are functions of their inputs.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

use super::layers::{chain_id, table_name, tar_name, tree_name};
use super::lock::Sweep;
use super::{Blob, Feed, Store, optional};
use crate::digest::Digest;
use crate::error::{At, ErrorKind, Result};

/// What to do about damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Report it.
    Report,
    /// Remove what is damaged, so that the next pull brings it back; tables and indexes are made anew.
    Repair,
}

/// One object, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is: `blob`, `layer`, `table`, `tree`, `ref`, `image`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What is wrong with it; `None` if nothing is.
    pub damage: Option<String>,
    /// True if the damage was repaired: removed or made anew.
    pub repaired: bool,
}

impl Store {
    /// Checks everything and tells `report` object by object. Says if all was well, or has been repaired.
    pub fn verify(&self, verify: Verify, report: &mut dyn FnMut(&Finding)) -> Result<bool> {
        // Repairing takes files away, so nobody may be using them.
        let (_lease, _sweep) = match verify {
            Verify::Report => (Some(self.lease()?), None),
            Verify::Repair => (None, Some(Sweep::take(&self.root)?)),
        };
        let mut check = Check { store: self, verify, report, well: true };
        check.blobs()?;
        check.layers()?;
        check.trees()?;
        check.images()?;
        Ok(check.well)
    }
}

struct Check<'a> {
    store: &'a Store,
    verify: Verify,
    report: &'a mut dyn FnMut(&Finding),
    well: bool,
}

impl Check<'_> {
    /// Reports one object; what is damaged is repaired by `repair`, if that is wanted and can be.
    fn say(
        &mut self,
        kind: &'static str,
        name: &str,
        damage: Option<String>,
        repair: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let repaired = damage.is_some() && self.verify == Verify::Repair && repair()?;
        self.well &= damage.is_none() || repaired;
        (self.report)(&Finding { kind, name: name.to_owned(), damage, repaired });
        Ok(())
    }

    fn blobs(&mut self) -> Result<()> {
        let dir = &self.store.blobs;
        for name in dir.names()? {
            let damage = hashed(&name, optional(dir.file(&name))?)?;
            self.say("blob", &name, damage, || dir.unlink(&name).map(|()| true))?;
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<()> {
        let dir = &self.store.layers;
        let names = dir.names()?;
        // When it can't be known what is needed, everything is.
        let needed = self.store.marks().ok().map(|marks| marks.layers);
        for name in names.iter().filter_map(|name| name.strip_suffix(".tar")) {
            let damage = hashed(name, optional(dir.file(&format!("{name}.tar")))?)?;
            let is_whole = damage.is_none();
            self.say("layer", name, damage, || {
                // The table first: a table alone would say that the layer is there.
                for part in [format!("{name}.idx"), format!("{name}.tar")] {
                    match dir.unlink(&part) {
                        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                        _ => {}
                    }
                }
                Ok(true)
            })?;
            if is_whole && let Ok(diff_id) = Digest::from_hex(name) {
                // A crash between a tar and its table leaves a layer that isn't there yet; prune takes it.
                let begun = !names.contains(&format!("{name}.idx"));
                if !begun || needed.as_ref().is_none_or(|needed| needed.contains(&diff_id)) {
                    self.table(&diff_id)?;
                }
            }
        }
        for name in names.iter().filter(|name| !name.ends_with(".tar")) {
            let tar = name.strip_suffix(".idx").map(|stem| format!("{stem}.tar"));
            if tar.is_none_or(|tar| !names.contains(&tar)) {
                let damage = Some("a table without a layer, or nothing of ours".to_owned());
                self.say("table", name, damage, || dir.unlink(name).map(|()| true))?;
            }
        }
        Ok(())
    }

    fn table(&mut self, diff_id: &Digest) -> Result<()> {
        let store = self.store;
        let made = store.table_again(diff_id)?;
        let kept = optional(store.layers.file(&table_name(diff_id)))?;
        let damage = match kept {
            None => Some("not there".to_owned()),
            Some(kept) if same(&kept, &made.file)? => None,
            Some(_) => Some("not what the layer says".to_owned()),
        };
        self.say("table", &diff_id.hex(), damage, || {
            made.publish(&store.layers, &table_name(diff_id))?;
            store.layers.sync().map(|()| true)
        })
    }

    fn trees(&mut self) -> Result<()> {
        let store = self.store;
        let mut checked = HashSet::new();
        for image in store.images().unwrap_or_default() {
            let diff_ids = &image.config.rootfs.diff_ids;
            let chain = chain_id(diff_ids);
            let name = tree_name(&chain);
            let Some(kept) = optional(store.trees.file(&name))? else { continue };
            if !checked.insert(chain) {
                continue;
            }
            let (damage, made) = match store.merge(diff_ids) {
                Ok(made) => (
                    same(&kept, &made.file).map(|same| (!same).then(|| "not what the layers say".to_owned()))?,
                    Some(made),
                ),
                // Said already; and the layers may come back.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => (Some(e.to_string()), None),
            };
            self.say("tree", &chain.hex(), damage, || match made {
                Some(made) => {
                    made.sync()?;
                    made.publish(&store.trees, &name)?;
                    store.trees.sync().map(|()| true)
                }
                None => store.trees.unlink(&name).map(|()| true),
            })?;
        }
        // What no image asks for is not compared: it is made anew if one does, and pruned until then.
        Ok(())
    }

    /// What refs and images need is there.
    fn images(&mut self) -> Result<()> {
        let store = self.store;
        let refs = match store.refs() {
            Ok(refs) => refs,
            Err(e) => return self.say("ref", "refs", Some(e.to_string()), || Ok(false)),
        };
        for r in refs {
            let name = r.name.clone().unwrap_or_else(|| r.manifest.digest.to_string());
            let damage = self.missing(&r.manifest).err().map(|e| e.to_string());
            // The next pull of the name brings back what is missing.
            self.say("image", &name, damage, || Ok(false))?;
        }
        Ok(())
    }

    fn missing(&self, manifest: &crate::image::Descriptor) -> Result<()> {
        let mut marks = super::gc::Marks::default();
        self.store.mark(manifest, &mut marks)?;
        for digest in &marks.blobs {
            if self.store.blob(digest)?.is_none() {
                return Err(crate::error::Error::not_found(format!("blob {digest}: not in the store")));
            }
        }
        for diff_id in &marks.layers {
            if self.store.layer_info(diff_id)?.is_none() {
                return Err(crate::error::Error::not_found(format!("layer {diff_id}: not in the store")));
            }
            self.store.layers.file(&tar_name(diff_id))?;
        }
        Ok(())
    }
}

/// What is wrong with a file whose name is the digest of its content.
fn hashed(name: &str, file: Option<File>) -> Result<Option<String>> {
    let (Ok(digest), Some(file)) = (Digest::from_hex(name), file) else {
        return Ok(Some("nothing of ours".to_owned()));
    };
    let (found, size) = Digest::of_reader(file)?;
    Ok((found != digest).then(|| format!("its {size} bytes have the digest {found}")))
}

/// True if both files have the same bytes.
fn same(a: &File, b: &File) -> Result<bool> {
    use std::io::{Seek, SeekFrom};
    let length = |file: &File| file.metadata().map(|m| m.len()).at(|| "stat");
    if length(a)? != length(b)? {
        return Ok(false);
    }
    let (mut a, mut b) = (a, b);
    let (mut left, mut right) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    a.seek(SeekFrom::Start(0)).at(|| "read")?;
    b.seek(SeekFrom::Start(0)).at(|| "read")?;
    loop {
        let n = a.read(&mut left).at(|| "read")?;
        let (Some(l), Some(r)) = (left.get(..n), right.get_mut(..n)) else { return Ok(false) };
        if n == 0 {
            return Ok(true);
        }
        b.read_exact(r).at(|| "read")?;
        if l != r {
            return Ok(false);
        }
    }
}

impl Store {
    /// A layer's table, made anew from its tar, which is what its name says.
    fn table_again(&self, diff_id: &Digest) -> Result<super::lock::Scratch> {
        let file = self.layers.file(&tar_name(diff_id))?;
        let size = file.metadata().at(|| "stat a layer")?.len();
        self.scan_again(Feed::of(Blob { digest: *diff_id, size, file }))
    }
}
