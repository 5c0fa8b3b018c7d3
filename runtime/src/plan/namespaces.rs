//! `linux.namespaces`, id maps and time offsets: what is made by the clone, what is joined, and by which process.

use std::fmt::Write as _;

use orlop_sys::clone::flag;

use super::Context;
use crate::config;
use crate::error::{Error, ErrorKind, Result};

/// The namespace types of config-linux.md: name, `CLONE_NEW*` flag, name in /proc/PID/ns.
pub const TYPES: [(&str, u64, &str); 8] = [
    ("pid", flag::NEWPID, "pid"),
    ("network", flag::NEWNET, "net"),
    ("mount", flag::NEWNS, "mnt"),
    ("ipc", flag::NEWIPC, "ipc"),
    ("uts", flag::NEWUTS, "uts"),
    ("user", flag::NEWUSER, "user"),
    ("cgroup", flag::NEWCGROUP, "cgroup"),
    ("time", flag::NEWTIME, "time"),
];

/// How the container's namespaces come about.
#[derive(Debug, Default)]
pub struct Namespaces<'a> {
    /// `CLONE_NEW*` of all that the container does not share with us, new or joined.
    pub own: u64,
    /// `CLONE_NEW*` of the new ones.
    pub new: u64,
    /// To be joined, the user namespace excepted.
    pub joins: Vec<Join<'a>>,
    /// The user namespace to be joined.
    pub join_user: Option<Join<'a>>,
    /// The maps of the new user namespace.
    pub maps: Option<Maps>,
    /// Text for timens_offsets, if there is a new time namespace.
    pub time: Option<&'a [u8]>,
}

/// A namespace to be joined.
#[derive(Debug, Clone, Copy)]
pub struct Join<'a> {
    /// `CLONE_NEW*`.
    pub flag: u64,
    /// Its file.
    pub path: &'a std::ffi::CStr,
    /// Its place in the configuration.
    pub index: usize,
}

/// The text of uid_map and gid_map.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Maps {
    /// Lines of `container host size`.
    pub uid: String,
    /// Lines of `container host size`.
    pub gid: String,
}

impl Namespaces<'_> {
    /// The flags of the first clone, and, if that process is only in between, of the second one.
    pub fn clone_flags(&self) -> (u64, Option<u64>) {
        // Cgroup and time namespaces are unshared where they can be right.
        let flags = self.new & !(flag::NEWCGROUP | flag::NEWTIME);
        let joins_for_children = self.joins.iter().any(|j| j.flag & (flag::NEWPID | flag::NEWTIME) != 0);
        let in_between = joins_for_children
            || self.join_user.is_some()
            || self.time.is_some()
            // Joined with the privileges of the host, before the new user namespace takes them away.
            || self.new & flag::NEWUSER != 0 && !self.joins.is_empty();
        if in_between { (0, Some(flags)) } else { (flags, None) }
    }
}

/// Plans `linux.namespaces`.
pub(super) fn plan<'a>(cx: &Context<'a, '_>, linux: &config::Linux) -> Result<Namespaces<'a>> {
    let mut planned = Namespaces::default();
    for (index, namespace) in linux.namespaces.iter().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        let Some((_, flag, _)) = TYPES.iter().find(|(name, ..)| *name == namespace.r#type) else {
            let what = format_args!("namespace \"{}\" does not exist", namespace.r#type);
            return Err(Error::invalid(format_args!("{field}.type"), what));
        };
        if planned.own & flag != 0 {
            let what = format_args!("duplicated namespace \"{}\"", namespace.r#type);
            return Err(Error::invalid(format_args!("{field}.type"), what));
        }
        planned.own |= flag;
        if namespace.path.is_empty() {
            planned.new |= flag;
            continue;
        }
        if !namespace.path.starts_with('/') {
            let what = format_args!("\"{}\" is not an absolute path", namespace.path);
            return Err(Error::invalid(format_args!("{field}.path"), what));
        }
        let join = Join { flag: *flag, path: cx.arena.cstr(&field, &namespace.path)?, index };
        if *flag == flag::NEWUSER { planned.join_user = Some(join) } else { planned.joins.push(join) }
    }
    // After the pid namespace nothing else would be joined in a mount namespace that has another /proc; its root and
    // the paths in it change everything, so it comes last.
    planned.joins.sort_by_key(|join| join.flag == flag::NEWNS);

    if planned.new & flag::NEWUSER != 0 {
        let maps = Maps {
            uid: map("linux.uidMappings", &linux.uid_mappings)?,
            gid: map("linux.gidMappings", &linux.gid_mappings)?,
        };
        for (text, kind) in [(&maps.uid, "uid"), (&maps.gid, "gid")] {
            if text.is_empty() {
                let what = format!("user namespaces enabled, but no {kind} mappings found");
                return Err(Error::new(ErrorKind::InvalidSpec, format!("linux.{kind}Mappings: {what}")));
            }
        }
        planned.maps = Some(maps);
    } else if planned.join_user.is_none() && !(linux.uid_mappings.is_empty() && linux.gid_mappings.is_empty()) {
        // With a joined one engines name the mappings too: they are what it has already.
        return Err(Error::invalid("linux.uidMappings", "mappings without a user namespace"));
    }
    planned.time = time(cx, linux, planned.new & flag::NEWTIME != 0)?;
    Ok(planned)
}

/// The text of a map.
pub(super) fn map(field: &str, mappings: &[config::IdMapping]) -> Result<String> {
    let mut text = String::new();
    for (i, m) in mappings.iter().enumerate() {
        if m.size == 0 {
            return Err(Error::invalid(format_args!("{field}[{i}].size"), "must not be 0"));
        }
        for (name, start) in [("containerID", m.container_id), ("hostID", m.host_id)] {
            // The last id is no id ((uid_t)-1).
            if u64::from(start) + u64::from(m.size) > u64::from(u32::MAX) {
                return Err(Error::invalid(format_args!("{field}[{i}].{name}"), "the range ends beyond the last id"));
            }
        }
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} {} {}", m.container_id, m.host_id, m.size);
    }
    Ok(text)
}

fn time<'a>(cx: &Context<'a, '_>, linux: &config::Linux, new: bool) -> Result<Option<&'a [u8]>> {
    let mut text = String::new();
    for (clock, offset) in &linux.time_offsets {
        let field = format!("linux.timeOffsets.{clock}");
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::invalid(field, "is no clock of a time namespace (monotonic, boottime)"));
        }
        if offset.nanosecs > 999_999_999 {
            return Err(Error::invalid(format_args!("{field}.nanosecs"), "is a second or more"));
        }
        let _ = writeln!(text, "{clock} {} {}", offset.secs, offset.nanosecs);
    }
    if !text.is_empty() && !new {
        return Err(Error::invalid("linux.timeOffsets", "time offsets without a new time namespace"));
    }
    Ok(new.then(|| cx.arena.bytes(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_map_is_written_line_by_line_and_checked() {
        let m = |container_id, host_id, size| config::IdMapping { container_id, host_id, size };
        assert_eq!(map("u", &[m(0, 100_000, 65536), m(65536, 1, 1)]).unwrap(), "0 100000 65536\n65536 1 1\n");
        assert_eq!(map("u", &[m(0, 1, 0)]).unwrap_err().to_string(), "u[0].size: must not be 0");
        assert!(map("u", &[m(u32::MAX, 0, 1)]).is_err());
        assert!(map("u", &[m(0, u32::MAX - 1, 2)]).is_err());
    }
}
