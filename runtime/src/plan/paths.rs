//! Sysctls, masked and read-only paths, propagation.

use std::ffi::CStr;

use orlop_sys::clone::flag;
use orlop_sys::mount::ms;

use super::Context;
use super::namespaces::Namespaces;
use crate::error::{Error, Result};
use crate::path::clean;

/// `linux.rootfsPropagation`: what all mounts are at the start, and what the root is in the end.
pub(super) fn propagation(word: &str) -> Result<(u64, u64)> {
    let (kind, recursive) = match word {
        "" => return Ok((ms::SLAVE | ms::REC, 0)),
        "shared" => (ms::SHARED, 0),
        "rshared" => (ms::SHARED, ms::REC),
        "slave" => (ms::SLAVE, 0),
        "rslave" => (ms::SLAVE, ms::REC),
        "private" => (ms::PRIVATE, 0),
        "rprivate" => (ms::PRIVATE, ms::REC),
        "unbindable" => (ms::UNBINDABLE, 0),
        "runbindable" => (ms::UNBINDABLE, ms::REC),
        other => {
            let what = format_args!("rootfsPropagation={other} is not supported");
            return Err(Error::invalid("linux.rootfsPropagation", what));
        }
    };
    // All mounts at the start, also for the words that mean one: none of them may lead back to the host.
    let start = if kind == ms::UNBINDABLE { ms::SLAVE } else { kind };
    Ok((start | ms::REC, kind | recursive))
}

/// `linux.maskedPaths` and `linux.readonlyPaths`.
pub(super) fn paths<'a>(cx: &Context<'a, '_>, field: &str, paths: &[String]) -> Result<&'a [&'a CStr]> {
    let mut planned = Vec::with_capacity(paths.len());
    for (i, path) in paths.iter().enumerate() {
        if !path.starts_with('/') {
            let what = format_args!("\"{path}\" is not an absolute path");
            return Err(Error::invalid(format_args!("{field}[{i}]"), what));
        }
        planned.push(cx.arena.cstr(format_args!("{field}[{i}]"), &clean(path))?);
    }
    Ok(cx.arena.list(planned))
}

/// Parameters of the IPC namespace that have no common prefix.
const IPC: [&str; 9] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "kernel/auto_msgmni",
];

/// `linux.sysctl`: only what belongs to a namespace of the container's own. The wording is runc's.
pub(super) fn sysctls<'a>(cx: &Context<'a, '_>, namespaces: &Namespaces<'_>) -> Result<&'a [(&'a CStr, &'a [u8])]> {
    let mut planned = Vec::with_capacity(cx.spec.linux.sysctl.0.len());
    for (key, value) in &cx.spec.linux.sysctl.0 {
        let field = format!("linux.sysctl[\"{key}\"]");
        let path = sysctl_path(key);
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::invalid(field, "is no kernel parameter"));
        }
        let needs = |flag: u64, name: &str| {
            if namespaces.own & flag != 0 {
                return Ok(());
            }
            Err(Error::invalid(&field, format_args!("sysctl \"{key}\" is not allowed in the hosts {name} namespace")))
        };
        if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
            needs(flag::NEWIPC, "ipc")?;
        } else if path.starts_with("net/") {
            needs(flag::NEWNET, "network")?;
        } else if path == "kernel/domainname" {
            needs(flag::NEWUTS, "uts")?;
        } else if path == "kernel/hostname" {
            return Err(Error::invalid(field, format_args!("sysctl \"{key}\" conflicts with the field hostname")));
        } else if path.starts_with("user/") {
            needs(flag::NEWUSER, "user")?;
        } else {
            return Err(Error::invalid(field, format_args!("sysctl \"{key}\" is not in a separate kernel namespace")));
        }
        planned.push((cx.arena.concat(&field, &["sys/", &path])?, cx.arena.bytes(value.as_bytes())));
    }
    Ok(cx.arena.list(planned))
}

/// sysctl(8): a key has either slashes, or dots, in which case a slash in it is a dot of a name (an interface
/// `eth0.1`).
fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.get(at..=at) == Some("/") => key.to_owned(),
        _ => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_keys_are_written_with_dots_or_slashes() {
        for (key, want) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eno2/100.rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
            ("net/ipv4/conf/eno2.100/rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
        ] {
            assert_eq!(sysctl_path(key), want);
        }
    }

    #[test]
    fn propagation_never_begins_shared_unless_asked() {
        assert_eq!(propagation("").unwrap(), (ms::SLAVE | ms::REC, 0));
        assert_eq!(propagation("private").unwrap(), (ms::PRIVATE | ms::REC, ms::PRIVATE));
        assert_eq!(propagation("rshared").unwrap(), (ms::SHARED | ms::REC, ms::SHARED | ms::REC));
        assert_eq!(propagation("runbindable").unwrap(), (ms::SLAVE | ms::REC, ms::UNBINDABLE | ms::REC));
        assert!(propagation("x").is_err());
    }
}
