//! Refs: names for manifests. Each is a small file in `refs/`, replaced atomically.
//!
//! A name is any text without control characters; the file's name is made from it by escaping, and the file says the
//! name itself. An image that lost its last name to another one keeps a ref without a name until it is pruned or removed.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Store;
use super::lock::Scratch;
use crate::digest::Digest;
use crate::error::{At, Error, ErrorKind, Result};
use crate::image::Descriptor;
use crate::json;

/// A name and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// The name, as it was set; `None` for an image whose names were all given to others.
    pub name: Option<String>,
    /// The manifest, with the platform that it was chosen for, if it was.
    pub manifest: Descriptor,
    /// The index that it was chosen from: what the registry knows by the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Descriptor>,
    /// True if the images of all its platforms are to be kept, as blobs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// When the name was set: seconds since 1970.
    pub time: u64,
}

/// The longest name.
const MAX_NAME: usize = 4096;
/// A ref's file is no longer than this: the name, two descriptors.
const MAX_FILE: u64 = 1 << 20;

impl Store {
    /// Gives `manifest`, which is in the store, the name `name`; of whatever had it, the name is taken.
    pub fn set_ref(&self, name: &str, manifest: &Descriptor) -> Result<()> {
        self.give(name, manifest, None, false)
    }

    /// The same as [`Self::set_ref_from`], and all that the index leads to is kept too, as far as it is there.
    pub fn set_ref_whole(&self, name: &str, manifest: &Descriptor, index: &Descriptor) -> Result<()> {
        self.give(name, manifest, Some(index), true)
    }

    /// The same for a manifest that was chosen from `index` (whose bytes should be in the store too, for what it is
    /// pushed to or verified against).
    pub fn set_ref_from(&self, name: &str, manifest: &Descriptor, index: Option<&Descriptor>) -> Result<()> {
        self.give(name, manifest, index, false)
    }

    fn give(&self, name: &str, manifest: &Descriptor, index: Option<&Descriptor>, whole: bool) -> Result<()> {
        let file = file_name(name)?;
        let _lease = self.lease()?;
        if self.blob(&manifest.digest)?.is_none() {
            return Err(Error::not_found(format!("{name}: manifest {} is not in the store", manifest.digest)));
        }
        let bare = |d: &Descriptor| Descriptor {
            platform: d.platform.clone(),
            ..Descriptor::new(&d.media_type, d.digest, d.size)
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (manifest, index) = (bare(manifest), index.map(bare));
        let new = Ref { name: Some(name.to_owned()), manifest, index, whole, time: now };
        let old = self.read_ref(&file)?;
        // Before the name is moved, so that at no instant the old image has neither.
        if let Some(old) = old.filter(|old| old.manifest.digest != new.manifest.digest)
            && !self.refs()?.iter().any(|r| r.manifest.digest == old.manifest.digest && r.name.as_deref() != Some(name))
        {
            self.write_ref(&nameless(&old.manifest.digest), &Ref { name: None, ..old })?;
        }
        self.write_ref(&file, &new)?;
        match self.refs.unlink(&nameless(&new.manifest.digest)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Keeps `manifest`, which is in the store, without a name, unless it has one.
    pub fn keep_nameless(&self, manifest: &Descriptor) -> Result<()> {
        let _lease = self.lease()?;
        if self.refs()?.iter().any(|r| r.manifest.digest == manifest.digest) {
            return Ok(());
        }
        if self.blob(&manifest.digest)?.is_none() {
            return Err(Error::not_found(format!("manifest {} is not in the store", manifest.digest)));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let kept = Ref { name: None, manifest: manifest.clone(), index: None, whole: false, time: now };
        self.write_ref(&nameless(&manifest.digest), &kept)
    }

    /// All refs, by name; those without one are last.
    pub fn refs(&self) -> Result<Vec<Ref>> {
        let mut refs = Vec::new();
        for file in self.refs.names()? {
            // One that was removed meanwhile is none.
            refs.extend(self.read_ref(&file)?);
        }
        refs.sort_by(|a, b| {
            (a.name.is_none(), &a.name, a.manifest.digest).cmp(&(b.name.is_none(), &b.name, b.manifest.digest))
        });
        Ok(refs)
    }

    /// The ref of this name.
    pub fn get_ref(&self, name: &str) -> Result<Option<Ref>> {
        self.read_ref(&file_name(name)?)
    }

    /// Removes a name, and says whether it was there. What it meant stays until it is collected.
    pub fn remove_ref(&self, name: &str) -> Result<bool> {
        self.remove_ref_file(&file_name(name)?)
    }

    /// Removes the ref without a name of this manifest.
    pub fn remove_nameless(&self, manifest: &Digest) -> Result<bool> {
        self.remove_ref_file(&nameless(manifest))
    }

    fn remove_ref_file(&self, file: &str) -> Result<bool> {
        match self.refs.unlink(file) {
            Ok(()) => self.refs.sync().map(|()| true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn read_ref(&self, file: &str) -> Result<Option<Ref>> {
        let bytes = match self.refs.read(file, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.context("refs")),
        };
        let read: Ref = json::parse("ref", &bytes).map_err(|e| e.context(format!("refs/{file}")))?;
        let expected = match &read.name {
            Some(name) => file_name(name)?,
            None => nameless(&read.manifest.digest),
        };
        if expected != file {
            return Err(Error::invalid(format!("refs/{file}: says that its name is {:?}", read.name)));
        }
        Ok(Some(read))
    }

    fn write_ref(&self, file: &str, value: &Ref) -> Result<()> {
        use std::io::Write;
        let bytes = serde_json::to_vec(value).at(|| "write a ref")?;
        let mut scratch = Scratch::new(&self.incoming)?;
        scratch.file.write_all(&bytes).at(|| "write a ref")?;
        scratch.sync()?;
        scratch.publish(&self.refs, file)?;
        self.refs.sync()
    }
}

/// The file of an image without a name. No name is escaped to this form.
fn nameless(manifest: &Digest) -> String {
    format!("@{}", manifest.hex())
}

/// The file for a name: letters, digits, `-`, `_` and inner dots as they are, other bytes as `%` and two digits; for one
/// that would be too long, `~` and the digest of the name.
fn file_name(name: &str) -> Result<String> {
    use std::fmt::Write;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let shown: String = name.chars().take(80).collect();
        return Err(Error::invalid(format!("name {shown:?}: empty, too long or with control characters")));
    }
    let mut file = String::new();
    for (i, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => file.push(char::from(byte)),
            b'.' if i > 0 => file.push('.'),
            // Writing to a string does not fail.
            _ => drop(write!(file, "%{byte:02X}")),
        }
    }
    if file.len() > 250 {
        return Ok(format!("~{}", Digest::of(name.as_bytes()).hex()));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_own_safe_file() {
        let long = "x/".repeat(200);
        let names = [
            "a",
            "a:1",
            "a%3A1",
            "A:1",
            "..",
            ".",
            "../x",
            "/etc/passwd",
            "127.0.0.1:5000/a/b:c",
            "a@sha256:00",
            "ä",
            "~",
            "@00",
            &long,
            &long[1..],
        ];
        let files: Vec<_> = names.iter().map(|name| file_name(name).unwrap()).collect();
        for (name, file) in names.iter().zip(&files) {
            assert!(file.len() <= 255 && !file.contains('/') && !file.starts_with(['.', '@']), "{name}: {file}");
            assert_eq!(files.iter().filter(|other| *other == file).count(), 1, "{name}: {file}");
        }
        for wrong in ["", "a\nb", "a\0b", &"x".repeat(5000)] {
            assert!(file_name(wrong).is_err());
        }
    }
}
