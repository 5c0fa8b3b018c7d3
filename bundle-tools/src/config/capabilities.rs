//! Capabilities: Docker's default set, and what is added to it and taken away.

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// All that Linux knows, by number (capabilities(7); the last one is of 5.9).
pub const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has by default, as Docker's.
pub const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

enum Change {
    All,
    One(&'static str),
}

fn parse(flag: &str, text: &str) -> Result<Change> {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(Change::All);
    }
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let known = ALL.into_iter().find(|known| known.strip_prefix("CAP_") == Some(name));
    known.map(Change::One).ok_or_else(|| Error::invalid(format!("{flag} {text}: there is no such capability")))
}

/// The set of a container: all of them if it is privileged. Otherwise, as Docker has it: `ALL` added or dropped is the
/// set to begin with (added has the last word), then single ones are dropped, then single ones added.
pub fn set(add: &[String], drop: &[String], privileged: bool) -> Result<BTreeSet<&'static str>> {
    let (mut added, mut all) = (BTreeSet::new(), false);
    for text in add {
        match parse("--cap-add", text)? {
            Change::All => all = true,
            Change::One(name) => _ = added.insert(name),
        }
    }
    let (mut dropped, mut none) = (BTreeSet::new(), false);
    for text in drop {
        match parse("--cap-drop", text)? {
            Change::All => none = true,
            Change::One(name) => _ = dropped.insert(name),
        }
    }
    if privileged {
        return Ok(ALL.into());
    }
    let begin: BTreeSet<_> = match (all, none) {
        (true, _) => ALL.into(),
        (false, true) => BTreeSet::new(),
        (false, false) => DEFAULT.into(),
    };
    let kept = begin.into_iter().filter(|name| !dropped.contains(name));
    Ok(kept.chain(added.iter().copied().filter(|_| !all)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_and_dropped_changes_dockers_set() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let all_but = |name: &str| ALL.into_iter().filter(|n| *n != name).collect::<BTreeSet<_>>();
        for (add, drop, meant) in [
            ("", "", DEFAULT.into()),
            ("net_admin", "ALL", ["CAP_NET_ADMIN"].into()),
            ("CAP_NET_ADMIN cap_sys_time", "all", ["CAP_NET_ADMIN", "CAP_SYS_TIME"].into()),
            ("ALL", "", ALL.into()),
            ("ALL", "MKNOD", all_but("CAP_MKNOD")),
            ("ALL", "ALL", ALL.into()),
            ("", "ALL", BTreeSet::new()),
            ("CHOWN", "CHOWN", DEFAULT.into()),
        ] {
            assert_eq!(set(&words(add), &words(drop), false).unwrap(), meant, "+{add} -{drop}");
        }
        assert_eq!(set(&[], &words("ALL"), true).unwrap().len(), 41);
        for (add, drop) in [("NET", ""), ("", "CAP_"), ("CAP_CAP_KILL", "")] {
            assert!(set(&words(add), &words(drop), false).is_err(), "+{add} -{drop}");
        }
    }
}
