//! `linux.devices`, and the rules of the device cgroup.

#![allow(clippy::disallowed_methods, reason = "the devices are the host's own, at paths that the user names")]

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Value, json};

use crate::config::Options;
use crate::config::process::clean;
use crate::config::resources::{DeviceRule, is_access};
use crate::error::{At, Error, Result};

/// `--device`: a device of the host, or a directory of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFlag {
    /// On the host.
    pub host: PathBuf,
    /// In the container.
    pub path: String,
    /// Of `r`, `w` and `m`.
    pub access: String,
}

impl FromStr for DeviceFlag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<_> = text.split(':').collect();
        let (host, path, access) = match *parts.as_slice() {
            [host] => (host, host, "rwm"),
            [host, access] if is_access(access) => (host, host, access),
            [host, path] => (host, path, "rwm"),
            [host, path, access] => (host, path, access),
            _ => return Err(Error::invalid("not HOST[:PATH][:rwm]")),
        };
        if !host.starts_with('/') || !is_access(access) {
            return Err(Error::invalid("not HOST[:PATH][:rwm] with absolute paths"));
        }
        let path = clean(path).map_err(|why| Error::invalid(format!("{path:?} {why}")))?;
        Ok(Self { host: host.into(), path, access: access.to_owned() })
    }
}

/// A node.
struct Node {
    path: String,
    kind: char,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Node {
    fn json(&self) -> Value {
        json!({
            "path": self.path, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid,
        })
    }

    fn rule(&self, access: &str) -> DeviceRule {
        DeviceRule { kind: self.kind, major: Some(self.major), minor: Some(self.minor), access: access.to_owned() }
    }
}

/// The devices at `host`, or in it and below, named as if that were `path`.
fn nodes(host: &Path, path: &str, into: &mut Vec<Node>, depth: u32) -> Result<()> {
    let meta = std::fs::metadata(host).at(|| format!("device {}", host.display()))?;
    let kind = meta.file_type();
    if kind.is_dir() && depth < 8 {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(host).at(|| format!("read {}", host.display()))? {
            let entry = entry.at(|| format!("read {}", host.display()))?;
            // A link is another name for what is there anyway, or leads out.
            let real = entry.file_type().is_ok_and(|kind| kind.is_dir() || is_device(&kind));
            let name = entry.file_name().into_string().ok().filter(|_| real);
            // What Docker leaves out too: they are the host's file systems, or its terminal.
            names.extend(name.filter(|name| !matches!(name.as_str(), "pts" | "shm" | "fd" | "mqueue" | "console")));
        }
        names.sort_unstable();
        return names.iter().try_for_each(|name| nodes(&host.join(name), &format!("{path}/{name}"), into, depth + 1));
    }
    if !is_device(&kind) {
        return Err(Error::invalid(format!("device {}: is none", host.display())));
    }
    into.push(Node {
        path: path.to_owned(),
        kind: if kind.is_block_device() { 'b' } else { 'c' },
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
    });
    Ok(())
}

fn is_device(kind: &std::fs::FileType) -> bool {
    kind.is_block_device() || kind.is_char_device()
}

/// `linux.devices` and `linux.resources.devices`. Nothing is allowed but what is listed, and what every runtime allows
/// besides: null, zero, full, random, urandom, tty and the terminals. A privileged container may use all, and has the
/// nodes that the host has now.
pub(super) fn devices(options: &Options, rootless: bool) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut list = Vec::new();
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    // Making any node is allowed, as CAP_MKNOD is; using it is not.
    for kind in ['c', 'b'] {
        rules.push(DeviceRule { kind, major: None, minor: None, access: "m".to_owned() }.allow());
    }
    if options.privileged {
        rules = vec![json!({"allow": true, "access": "rwm"})];
        nodes(Path::new("/dev"), "/dev", &mut list, 0)?;
    }
    for flag in &options.device {
        let mut found = Vec::new();
        nodes(&flag.host, &flag.path, &mut found, 0)?;
        if !options.privileged {
            rules.extend(found.iter().map(|node| node.rule(&flag.access).allow()));
        }
        list.extend(found);
    }
    rules.extend(options.device_cgroup_rule.iter().map(DeviceRule::allow));
    // Without root's rights there is no device cgroup to set; the user namespace forbids what it would.
    if rootless {
        rules.clear();
    }
    // A node given again, under the same name, is meant to replace the first.
    let mut seen = std::collections::HashSet::new();
    let mut last: Vec<_> = list.iter().rev().filter(|node| seen.insert(node.path.as_str())).map(Node::json).collect();
    last.reverse();
    Ok((last, rules))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::options;

    #[test]
    fn a_device_flag_is_two_paths_and_an_access() {
        for (text, meant) in [
            ("/dev/null", Some(("/dev/null", "/dev/null", "rwm"))),
            ("/dev/null:r", Some(("/dev/null", "/dev/null", "r"))),
            ("/dev/null:/dev/x", Some(("/dev/null", "/dev/x", "rwm"))),
            ("/dev/null:/dev/../x:rw", Some(("/dev/null", "/x", "rw"))),
            ("/dev/null:/dev/x:rx", None),
            ("/dev/null:x", None),
            ("null", None),
            ("a:b:c:d", None),
        ] {
            let made = text.parse::<DeviceFlag>().ok();
            let parts = made.as_ref().map(|f| (f.host.to_str().unwrap(), f.path.as_str(), f.access.as_str()));
            assert_eq!(parts, meant, "{text}");
        }
    }

    #[test]
    fn a_device_is_made_and_allowed() {
        let (list, rules) = devices(&options("--device /dev/null:/dev/nil:rw"), false).unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!(
            (&list[0]["path"], &list[0]["major"], &list[0]["minor"]),
            (&json!("/dev/nil"), &json!(1), &json!(3))
        );
        assert_eq!(rules.last().unwrap(), &json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}));
        assert_eq!(rules[0], json!({"allow": false, "access": "rwm"}));
        assert!(devices(&options("--device /etc/passwd"), false).unwrap_err().to_string().contains("is none"));
        let (all, rules) = devices(&options("--privileged"), false).unwrap();
        assert!(all.iter().any(|node| node["path"] == "/dev/null"));
        assert_eq!(rules, [json!({"allow": true, "access": "rwm"})]);
    }
}
