//! What a case says: that two things are equal, that a text is in another, or that this machine can't tell.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

/// A case that can't be judged here, with the reason; travels as an error so that `?` ends the case.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends the case without a verdict.
pub(crate) fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skip(reason.into()).into())
}

/// Fails with both values unless they are equal as JSON.
pub(crate) fn eq(what: &str, seen: impl Serialize, expected: impl Serialize) -> Result<()> {
    let (seen, expected) = (serde_json::to_value(seen)?, serde_json::to_value(expected)?);
    ensure!(seen == expected, "{what}: expected {expected}, saw {seen}");
    Ok(())
}

/// Fails unless `text` holds `part`.
pub(crate) fn holds(what: &str, text: &str, part: &str) -> Result<()> {
    ensure!(text.contains(part), "{what}: expected {part:?} in {text:?}");
    Ok(())
}

/// Fails unless the JSON list holds the value.
pub(crate) fn lists(what: &str, list: &Value, item: impl Serialize) -> Result<()> {
    let item = serde_json::to_value(item)?;
    ensure!(list.as_array().is_some_and(|list| list.contains(&item)), "{what}: expected {item} among {list}");
    Ok(())
}

/// Fails if the JSON list holds the value; what is no list fails as well.
pub(crate) fn lacks(what: &str, list: &Value, item: impl Serialize) -> Result<()> {
    let item = serde_json::to_value(item)?;
    let Some(entries) = list.as_array() else { bail!("{what}: expected a list, saw {list}") };
    ensure!(!entries.contains(&item), "{what}: {item} should not be among {list}");
    Ok(())
}

/// The probe's attempt succeeded.
pub(crate) fn allowed(what: &str, answer: &Value) -> Result<()> {
    ensure!(answer["ok"] == true, "{what}: expected success, saw {}", answer["errno"]);
    Ok(())
}

/// The probe's attempt was refused with one of these errnos.
pub(crate) fn refused(what: &str, answer: &Value, errnos: &[&str]) -> Result<()> {
    let seen = answer["errno"].as_str().unwrap_or("success");
    ensure!(answer["ok"] == false && errnos.contains(&seen), "{what}: expected {}, saw {seen}", errnos.join(" or "));
    Ok(())
}

/// In the order of their numbers: capabilities(7).
const CAPABILITIES: [&str; 41] = [
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

/// The names in a set that `/proc/PID/status` gives in hexadecimal.
pub(crate) fn capabilities(set: &Value) -> Result<BTreeSet<&'static str>> {
    let Some(bits) = set.as_str().and_then(|hex| u64::from_str_radix(hex, 16).ok()) else {
        bail!("expected a capability set, saw {set}");
    };
    Ok(CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| bits.checked_shr(u32::try_from(*number).unwrap_or(64)).unwrap_or(0) & 1 == 1)
        .map(|(_, name)| *name)
        .collect())
}

/// Fails unless the set in hexadecimal holds exactly these names.
pub(crate) fn capabilities_are(what: &str, set: &Value, expected: &[&str]) -> Result<()> {
    eq(what, capabilities(set)?, expected.iter().copied().collect::<BTreeSet<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mismatch_names_the_thing_and_both_values() {
        let error = eq("uid", 1, 2).unwrap_err();
        assert_eq!(error.to_string(), "uid: expected 2, saw 1");
    }

    #[test]
    fn a_skip_is_told_apart_from_a_failure() {
        let error = skip::<()>("no AppArmor").unwrap_err();
        assert_eq!(error.downcast_ref::<Skip>().unwrap().0, "no AppArmor");
        assert!(eq("x", 1, 2).unwrap_err().downcast_ref::<Skip>().is_none());
    }

    #[test]
    fn capability_bits_become_names() {
        assert_eq!(
            capabilities(&json!("0000010000000021")).unwrap(),
            BTreeSet::from(["CAP_CHOWN", "CAP_KILL", "CAP_CHECKPOINT_RESTORE"])
        );
        assert!(capabilities(&json!(null)).is_err());
    }

    #[test]
    fn success_is_not_taken_for_a_refusal() {
        assert!(refused("write", &json!({"ok": true}), &["EROFS"]).is_err());
        assert!(refused("write", &json!({"ok": false, "errno": "EPERM"}), &["EROFS"]).is_err());
        assert!(refused("write", &json!({"ok": false, "errno": "EROFS"}), &["EROFS"]).is_ok());
        assert!(allowed("write", &json!({"ok": false, "errno": "EPERM"})).is_err());
        assert!(lacks("list", &json!(null), 1).is_err());
    }
}
