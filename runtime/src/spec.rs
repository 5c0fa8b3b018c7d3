//! `spec`: a config.json to begin with, byte for byte the one that `runc spec` of its 1.3 line writes, because scripts
//! edit it with `sed` and `jq`.

use std::fs::OpenOptions;
use std::io::{ErrorKind as IoErrorKind, Write as _};

use crate::error::{At as _, Error, ErrorKind, Result};

/// For whom the configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// A caller with root's rights.
    Root,
    /// A caller without: a user namespace with these ids as its root, the host's network, and no limits.
    Rootless {
        /// The caller's effective user id.
        uid: u32,
        /// The caller's effective group id.
        gid: u32,
    },
}

/// The version of the cgroups of the machine that the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// Version 1, also beside a version 2 without controllers.
    V1,
    /// Version 2 alone: the container gets a cgroup namespace.
    V2,
}

/// The text of config.json.
pub fn config_json(variant: Variant, cgroups: Cgroups) -> String {
    const TEXT: &str = include_str!("spec.json.in");
    let mappings = |uid: u32, gid: u32| {
        let map = |kind: &str, id: u32| {
            format!(
                "\"{kind}Mappings\": [\n\t\t\t{{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": {id},\n\t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t]"
            )
        };
        format!("{},\n\t\t{}", map("uid", uid), map("gid", gid))
    };
    let slots: [(&str, String); 7] = match variant {
        Variant::Root => [
            // Group 5 is `tty` on most systems; a user namespace with one id can't map it.
            ("@PTS_GROUP@", ",\n\t\t\t\t\"gid=5\"".to_owned()),
            ("@SYS_TYPE@", "\"sysfs\"".to_owned()),
            ("@SYS_SOURCE@", "\"sysfs\"".to_owned()),
            ("@SYS_BIND@", String::new()),
            (
                "@LIMITS@",
                "\"resources\": {\n\t\t\t\"devices\": [\n\t\t\t\t{\n\t\t\t\t\t\"allow\": false,\n\t\t\t\t\t\"access\": \"rwm\"\n\t\t\t\t}\n\t\t\t]\n\t\t}"
                    .to_owned(),
            ),
            ("@NETWORK@", "\t\t\t{\n\t\t\t\t\"type\": \"network\"\n\t\t\t},\n".to_owned()),
            ("@USER@", String::new()),
        ],
        Variant::Rootless { uid, gid } => [
            ("@PTS_GROUP@", String::new()),
            // The kernel mounts a new sysfs only for the owner of the network namespace.
            ("@SYS_TYPE@", "\"none\"".to_owned()),
            ("@SYS_SOURCE@", "\"/sys\"".to_owned()),
            ("@SYS_BIND@", "\n\t\t\t\t\"rbind\",".to_owned()),
            ("@LIMITS@", mappings(uid, gid)),
            ("@NETWORK@", String::new()),
            ("@USER@", ",\n\t\t\t{\n\t\t\t\t\"type\": \"user\"\n\t\t\t}".to_owned()),
        ],
    };
    let cgroup_namespace = match cgroups {
        Cgroups::V1 => "",
        Cgroups::V2 => ",\n\t\t\t{\n\t\t\t\t\"type\": \"cgroup\"\n\t\t\t}",
    };
    let text = TEXT.replace("@CGROUP@", cgroup_namespace);
    slots.into_iter().fold(text, |text, (slot, value)| text.replace(slot, &value))
}

/// Writes config.json into the directory `bundle`.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if there is one; [`ErrorKind::Os`] if it can't be written, in which case none is left.
pub fn write(bundle: &str, variant: Variant, cgroups: Cgroups) -> Result<()> {
    let path = format!("{bundle}/config.json");
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(e) if e.kind() == IoErrorKind::AlreadyExists => {
            return Err(Error::new(ErrorKind::AlreadyExists, "File config.json exists. Remove it first"));
        }
        other => other.at(|| format!("create {path}"))?,
    };
    file.write_all(config_json(variant, cgroups).as_bytes()).at(|| format!("write {path}")).inspect_err(|_| {
        // A half-written file would be worse than none, but there is nothing to do if it stays.
        let _ = std::fs::remove_file(&path);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_json_without_open_slots() {
        let rootless = Variant::Rootless { uid: 1000, gid: 100 };
        for (variant, cgroups, namespaces) in [
            (Variant::Root, Cgroups::V1, "pid network ipc uts mount"),
            (Variant::Root, Cgroups::V2, "pid network ipc uts mount cgroup"),
            (rootless, Cgroups::V1, "pid ipc uts mount user"),
            (rootless, Cgroups::V2, "pid ipc uts mount cgroup user"),
        ] {
            let text = config_json(variant, cgroups);
            assert!(!text.contains('@'), "{text}");
            let spec = crate::config::parse::<crate::config::Spec>("config.json", text.as_bytes()).unwrap();
            let kinds: Vec<_> = spec.linux.namespaces.iter().map(|n| n.r#type.as_str()).collect();
            assert_eq!(kinds.join(" "), namespaces);
        }
        assert!(config_json(rootless, Cgroups::V1).contains("\"hostID\": 1000"));
    }
}
