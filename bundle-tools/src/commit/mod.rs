//! From a bundle back to an image: what its container changed becomes a layer, and the image's documents say so.
//!
//! [`upper`] reads the upper directory of an overlay mount, [`compare`] a whole root that was written as a directory; both
//! write a tar. [`seal`] makes a stored layer and a blob of it while it is written. [`document::image`] writes the new
//! image's documents.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::diff;
use crate::dir::Dir;
use crate::directory::Owners;
use crate::directory::attributes::Attributes;
use crate::error::{At, Error, Result};
use crate::ingest;
use crate::layer::{Kind, Meta, Time};
use crate::tar;
use crate::tree::Tree;

pub mod change;
pub mod document;
mod seal;
#[cfg(test)]
mod tests;
pub(crate) mod walk;

pub use seal::{Scanned, Sealed, Target, seal};
use walk::{Others, Sink, Was, What};

/// In which name space an overlay mount keeps its own attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OverlayAttributes {
    /// `trusted.overlay.`; reading them takes CAP_SYS_ADMIN outside of user namespaces.
    #[default]
    Trusted,
    /// `user.overlay.`, of a mount with the option `userxattr`.
    User,
}

/// How a container's changes are read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Options {
    /// How the image's owners became those on disk.
    pub owners: Owners,
    /// Where the runtime mounts something: paths in the container. An empty file or directory there that the
    /// image doesn't have was made to be mounted on, and is left out, as are new directories with nothing else in them.
    pub destinations: BTreeSet<String>,
    /// `SOURCE_DATE_EPOCH`: no time in the layer is later.
    pub epoch: Option<i64>,
    /// For [`upper`].
    pub overlay: OverlayAttributes,
}

/// What a layer says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Entries, whiteouts included. If there are none, nothing was changed.
    pub entries: u64,
    /// Names that are removed.
    pub removed: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// What is odd and no error: sockets that were left out, files that changed while they were read.
    pub notes: Vec<String>,
}

/// Where the changes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changes {
    /// In the upper directory of an overlay mount ([`upper`]).
    Upper,
    /// In a whole root ([`compare`]).
    Whole {
        /// When it was written, in seconds and nanoseconds, if that is known.
        created: Option<(i64, u32)>,
    },
}

/// What is made of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// A layer's tar and its table.
    Layer,
    /// A list, for [`diff::decode`].
    Diff,
}

/// What a worker is to read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// The lengths of the tables of the image's layers, from the base up.
    pub tables: Vec<u64>,
    /// Where the changes are.
    pub changes: Changes,
    /// How they are read.
    pub options: Options,
    /// What is made of them.
    pub output: Output,
}

/// Reads the changes in a worker that lives in their directory, `root`. Descriptors: where the output goes, a pipe; with
/// [`Output::Layer`] the file for the table; then those of [`ingest::layers`].
pub fn work(task: &Task, mut fds: Vec<OwnedFd>, root: Option<&Dir>) -> Result<Summary> {
    let root = root.ok_or_else(|| Error::invalid("commit: no directory to read"))?;
    let outputs = if task.output == Output::Layer { 2 } else { 1 };
    if fds.len() < outputs {
        return Err(Error::invalid("commit: nowhere to write to"));
    }
    let (layers, tars) = ingest::layers(&task.tables, fds.split_off(outputs))?;
    let mut outputs = fds.into_iter().map(File::from);
    let tree = Tree::merge(&layers)?;
    let created = match task.changes {
        Changes::Upper => None,
        Changes::Whole { created } => created.map(|(sec, nsec)| Time { sec, nsec }),
    };
    let what = match task.changes {
        Changes::Upper => What::Upper,
        Changes::Whole { .. } => What::Whole { tars: &tars, created },
    };
    match (task.output, outputs.next(), outputs.next()) {
        (Output::Layer, Some(to), Some(mut table)) => {
            let scanned = Scanned::new(std::io::BufWriter::with_capacity(256 << 10, to));
            let mut writer = tar::Writer::new(scanned);
            let summary = layer(root, what, &tree, &mut writer, &task.options)?;
            let (mut to, scanned) = writer.finish()?.finish()?;
            to.flush().at(|| "write the layer")?;
            table.write_all(&scanned.encode()).at(|| "write the table")?;
            Ok(summary)
        }
        (_, Some(mut to), _) => {
            let changes = diff::changes(root, what, &tree, &task.options)?;
            to.write_all(&diff::encode(&changes)).at(|| "write the changes")?;
            Ok(Summary::default())
        }
        _ => Err(Error::invalid("commit: nowhere to write to")),
    }
}

/// Writes what an overlay mount's upper directory says to `writer`; `tree` is what the mount has below it. The upper
/// directory must speak for itself: mounted without `redirect_dir` and `metacopy`.
///
/// The same changes give the same bytes: names in the order of their bytes, whiteouts before their siblings and explicit
/// but where a directory hides many names, times in whole seconds. Names that begin with `.wh.` are an error, as they
/// would hide something in the image (T62).
pub fn upper<W: Write>(
    upper: &Dir,
    tree: &Tree<'_>,
    writer: &mut tar::Writer<W>,
    options: &Options,
) -> Result<Summary> {
    layer(upper, What::Upper, tree, writer, options)
}

/// Writes to `writer` how `rootfs` differs from `tree`, whose layers have the tars `tars`. `created` is what
/// [`directory::write`](crate::directory::write) said when it was done: a file with an older ctime is known by its status
/// alone, and only others are opened, and read if nothing but the content can be different.
pub fn compare<W: Write>(
    rootfs: &Dir,
    tree: &Tree<'_>,
    tars: &[File],
    created: Option<Time>,
    writer: &mut tar::Writer<W>,
    options: &Options,
) -> Result<Summary> {
    layer(rootfs, What::Whole { tars, created }, tree, writer, options)
}

fn layer<W: Write>(
    root: &Dir,
    what: What<'_>,
    tree: &Tree<'_>,
    writer: &mut tar::Writer<W>,
    options: &Options,
) -> Result<Summary> {
    let mut into = Into { writer, summary: Summary::default() };
    let notes = walk::walk(root, what, tree, options, &mut into)?;
    Ok(Summary { notes, ..into.summary })
}

/// How many names a directory may hide one by one. The specification asks for explicit whiteouts (layer.md, "Opaque
/// Whiteout"), and everyone reads both.
const EXPLICIT: usize = 64;

struct Into<'a, W> {
    writer: &'a mut tar::Writer<W>,
    summary: Summary,
}

impl<W: Write> Sink for Into<'_, W> {
    fn put(
        &mut self,
        path: &[u8],
        _: Was,
        kind: Kind<'_>,
        meta: &Meta,
        attributes: &Attributes,
        body: Option<&mut dyn Read>,
    ) -> Result<()> {
        self.summary.entries += 1;
        if let Kind::File { size, .. } = kind {
            self.summary.bytes += size;
        }
        let attributes = attributes.iter().map(|(name, value)| (&**name, &**value));
        self.writer.entry(path, kind, meta, attributes, body)
    }

    fn gone(&mut self, directory: &[u8], names: &[&[u8]], others: Others) -> Result<()> {
        self.summary.removed += names.len() as u64;
        if names.len() > EXPLICIT && others == Others::None {
            self.summary.entries += 1;
            return self.writer.entry(directory, Kind::Opaque, &Meta::default(), [], None);
        }
        for name in names {
            self.summary.entries += 1;
            let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
            self.writer.entry(&[directory, slash, name].concat(), Kind::Whiteout, &Meta::default(), [], None)?;
        }
        Ok(())
    }
}
