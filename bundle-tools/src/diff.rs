//! What a container changed, as `docker diff` prints it.

use std::fmt;
use std::fs::File;
use std::io::Read;

use crate::commit::Options;
use crate::commit::walk::{self, Others, Sink, Was, What};
use crate::dir::Dir;
use crate::directory::attributes::Attributes;
use crate::error::{Error, Result};
use crate::layer::{Kind, Meta, Time, name};
use crate::tree::Tree;

/// What happened to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It is new.
    Added,
    /// It, or something in it, is different.
    Changed,
    /// It is not there any more; with a directory everything in it, which is not told one by one.
    Deleted,
}

/// A changed name. It prints as `A /etc/new`, with control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub action: Action,
    /// The clean path, without a leading slash.
    pub path: Vec<u8>,
}

impl Action {
    /// `A`, `C` or `D`.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names are the container's choice and must not speak to the terminal.
        let shown: String = String::from_utf8_lossy(&self.path)
            .chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
            .collect();
        write!(f, "{} /{shown}", self.action.letter())
    }
}

/// What the upper directory of an overlay mount says; see [`commit::upper`](crate::commit::upper). In the order of the
/// paths.
pub fn upper(upper: &Dir, tree: &Tree<'_>, options: &Options) -> Result<Vec<Change>> {
    changes(upper, What::Upper, tree, options)
}

/// How a whole root differs from `tree`; see [`commit::compare`](crate::commit::compare). In the order of the paths.
pub fn compare(
    rootfs: &Dir,
    tree: &Tree<'_>,
    tars: &[File],
    created: Option<Time>,
    options: &Options,
) -> Result<Vec<Change>> {
    changes(rootfs, What::Whole { tars, created }, tree, options)
}

pub(crate) fn changes(root: &Dir, what: What<'_>, tree: &Tree<'_>, options: &Options) -> Result<Vec<Change>> {
    let mut into = Into(Vec::new());
    walk::walk(root, what, tree, options, &mut into)?;
    into.0.sort_unstable_by(|a, b| a.path.split(|b| *b == b'/').cmp(b.path.split(|b| *b == b'/')));
    Ok(into.0)
}

/// A list of changes as [`decode`] reads it: a letter, the path and a NUL each.
pub(crate) fn encode(changes: &[Change]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for change in changes {
        bytes.extend(change.action.letter().to_string().bytes().chain(change.path.iter().copied()).chain([0]));
    }
    bytes
}

/// Reads a list of changes, which a worker wrote: names are clean, or it is an error.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Change>> {
    let wrong = || Error::invalid("the list of changes is damaged");
    let mut changes = Vec::new();
    let mut rest = bytes;
    while let Some((letter, behind)) = rest.split_first() {
        let action = match letter {
            b'A' => Action::Added,
            b'C' => Action::Changed,
            b'D' => Action::Deleted,
            _ => return Err(wrong()),
        };
        let end = behind.iter().position(|byte| *byte == 0).ok_or_else(wrong)?;
        let (path, behind) = behind.split_at_checked(end).ok_or_else(wrong)?;
        name::check(path).map_err(|_| wrong())?;
        changes.push(Change { action, path: path.to_vec() });
        rest = behind.get(1..).unwrap_or_default();
    }
    Ok(changes)
}

struct Into(Vec<Change>);

impl Sink for Into {
    fn put(
        &mut self,
        path: &[u8],
        was: Was,
        _: Kind<'_>,
        _: &Meta,
        _: &Attributes,
        _: Option<&mut dyn Read>,
    ) -> Result<()> {
        // The root is not told of: that something in it has changed is seen below.
        if !path.is_empty() {
            let action = if was == Was::There { Action::Changed } else { Action::Added };
            self.0.push(Change { action, path: path.to_vec() });
        }
        Ok(())
    }

    fn gone(&mut self, directory: &[u8], names: &[&[u8]], _: Others) -> Result<()> {
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        let deleted = |name: &&[u8]| Change { action: Action::Deleted, path: [directory, slash, name].concat() };
        self.0.extend(names.iter().map(deleted));
        Ok(())
    }
}
