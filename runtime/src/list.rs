//! `list`: all containers of a state root, as a table, in JSON, or their ids alone.

use std::fmt::Write;

use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::io::{read, retry_on_intr};

use crate::container::{Container, Status};
use crate::error::{ErrorKind, Result};
use crate::state::State;
use crate::store::{Contents, StateDir, Store};

/// What `list` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Columns, with a header.
    Table,
    /// An array of what `state` prints; `null` when there is no container, as runc has it.
    Json,
    /// The ids, one on each line.
    Quiet,
}

/// The time of a container of which nothing is known: Go's zero time, which its JSON readers can parse.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// The largest /etc/passwd that owners are looked up in, in bytes.
const MAX_PASSWD: usize = 4 << 20;

/// `list`: the text to print as it is, and what can't be shown in it (one line for each container that could not be read).
pub fn list(store: &Store, format: Format) -> Result<(String, Vec<String>)> {
    let mut states = vec![];
    let mut problems = vec![];
    let mut owners = Owners::default();
    for id in store.ids()? {
        match store.dir(&id).and_then(|dir| row(dir, format, &mut owners)) {
            Ok(row) => states.extend(row),
            // Deleted since the root was read.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => problems.push(format!("load container {id}: {e}")),
        }
    }
    let text = match format {
        Format::Quiet => states.iter().map(|s| format!("{}\n", s.id)).collect(),
        Format::Json if states.is_empty() => "null\n".into(),
        Format::Json => format!("[{}]\n", states.iter().map(State::compact).collect::<Vec<_>>().join(",")),
        Format::Table => table(&states),
    };
    Ok((text, problems))
}

/// A container's state, whatever condition it is in; `None` for a directory that is none.
fn row(dir: StateDir, format: Format, owners: &mut Owners) -> Result<Option<State>> {
    let contents = dir.read()?;
    if !dir.is_container(&contents)? {
        return Ok(None);
    }
    let bare = |status: String| State { id: dir.id().to_string(), status, created: NEVER.into(), ..State::default() };
    let owner = dir.owner()?;
    let state = match contents {
        _ if format == Format::Quiet => bare(String::new()),
        Contents::Record(record) => State::of(&Container::new(dir, *record))?,
        Contents::Incomplete(_) => bare(Status::Creating.to_string()),
        Contents::Corrupt { .. } => bare("corrupt".into()),
    };
    Ok(Some(State { owner: owners.name(owner), ..state }))
}

/// The table as Go's tabwriter sets it with the parameters that runc gives: a column is three characters wider than
/// its longest cell, and at least twelve wide; the last is as wide as it is.
fn table(states: &[State]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(states.iter().map(|s| {
        [s.id.clone(), s.pid.to_string(), s.status.clone(), s.bundle.clone(), s.created.clone(), s.owner.clone()]
    }));
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (cell.chars().count() + 3).max(12).max(*width);
        }
    }
    widths[5] = 0;
    let mut out = String::new();
    for row in &rows {
        for (width, cell) in widths.iter().zip(row) {
            // Writing to a String can't fail.
            let _ = write!(out, "{cell:<width$}");
        }
        out.push('\n');
    }
    out
}

/// The names of users, from /etc/passwd: a static program has no NSS.
#[derive(Default)]
struct Owners {
    passwd: Option<Vec<u8>>,
}

impl Owners {
    /// `root` for 0, and `#1234` for a user without a name.
    fn name(&mut self, uid: u32) -> String {
        let passwd = self.passwd.get_or_insert_with(read_passwd);
        user_name(passwd, uid).unwrap_or_else(|| format!("#{uid}"))
    }
}

fn user_name(passwd: &[u8], uid: u32) -> Option<String> {
    passwd.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = str::from_utf8(line).ok()?.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Without the file nobody has a name.
fn read_passwd() -> Vec<u8> {
    let mut bytes = vec![];
    let Ok(fd) = openat(CWD, "/etc/passwd", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) else {
        return bytes;
    };
    let mut buffer = [0; 4096];
    while let Ok(n) = retry_on_intr(|| read(&fd, &mut buffer)) {
        if n == 0 || bytes.len() > MAX_PASSWD {
            break;
        }
        bytes.extend_from_slice(buffer.get(..n).unwrap_or_default());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_without_a_name_is_a_number() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbroken\n\xff:x:1:\n\nweb:x:33:33::/:/x\nalias:x:33::::\n";
        for (uid, want) in [(0, Some("root")), (33, Some("web")), (1, None), (4, None)] {
            assert_eq!(user_name(passwd, uid).as_deref(), want);
        }
    }
}
