//! `--security-opt`.

use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// One `--security-opt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityFlag {
    /// Which system calls may be made.
    Seccomp(Seccomp),
    /// If programs may have more rights than what started them.
    NoNewPrivileges(bool),
    /// A profile; None: no confinement.
    AppArmor(Option<String>),
    /// No label of SELinux, which is what a bundle has anyway.
    NoLabel,
    /// Nothing of /proc and /sys is masked or read-only.
    OpenSystemPaths,
}

/// Which system calls may be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// Those of [`seccomp`](super::seccomp)'s table.
    #[default]
    Builtin,
    /// All.
    Unconfined,
    /// Those of a profile in Docker's form, or of `linux.seccomp` in the runtime's.
    File(PathBuf),
}

impl FromStr for SecurityFlag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // Docker once wrote a colon.
        let (name, value) = match text.split_once(['=', ':']) {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        match (name, value) {
            ("seccomp", Some("builtin")) => Ok(Self::Seccomp(Seccomp::Builtin)),
            ("seccomp", Some("unconfined")) => Ok(Self::Seccomp(Seccomp::Unconfined)),
            ("seccomp", Some(path)) if !path.is_empty() => Ok(Self::Seccomp(Seccomp::File(path.into()))),
            ("no-new-privileges", None | Some("true")) => Ok(Self::NoNewPrivileges(true)),
            ("no-new-privileges", Some("false")) => Ok(Self::NoNewPrivileges(false)),
            ("apparmor", Some("unconfined")) => Ok(Self::AppArmor(None)),
            ("apparmor", Some(profile)) if !profile.is_empty() => Ok(Self::AppArmor(Some(profile.to_owned()))),
            ("label", Some("disable")) => Ok(Self::NoLabel),
            ("label", _) => Err(Error::unsupported("label: of SELinux only label=disable")),
            ("systempaths", Some("unconfined")) => Ok(Self::OpenSystemPaths),
            _ => Err(Error::invalid(
                "none of seccomp=, no-new-privileges, apparmor=, label=disable and systempaths=unconfined",
            )),
        }
    }
}

/// What all of them say together; the last of a kind wins.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Security {
    pub(super) seccomp: Seccomp,
    pub(super) no_new_privileges: bool,
    pub(super) apparmor: Option<String>,
    pub(super) open_system_paths: bool,
}

impl Security {
    pub(super) fn of(flags: &[SecurityFlag], privileged: bool) -> Self {
        let seccomp = if privileged { Seccomp::Unconfined } else { Seccomp::Builtin };
        let mut all = Self { seccomp, open_system_paths: privileged, ..Self::default() };
        for flag in flags {
            match flag {
                SecurityFlag::Seccomp(which) => all.seccomp = which.clone(),
                SecurityFlag::NoNewPrivileges(yes) => all.no_new_privileges = *yes,
                SecurityFlag::AppArmor(profile) => all.apparmor.clone_from(profile),
                SecurityFlag::NoLabel => {}
                SecurityFlag::OpenSystemPaths => all.open_system_paths = true,
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_security_is_one_of_a_few() {
        for (text, meant) in [
            ("seccomp=unconfined", Some(SecurityFlag::Seccomp(Seccomp::Unconfined))),
            ("seccomp:unconfined", Some(SecurityFlag::Seccomp(Seccomp::Unconfined))),
            ("seccomp=/x.json", Some(SecurityFlag::Seccomp(Seccomp::File("/x.json".into())))),
            ("no-new-privileges", Some(SecurityFlag::NoNewPrivileges(true))),
            ("no-new-privileges=false", Some(SecurityFlag::NoNewPrivileges(false))),
            ("apparmor=mine", Some(SecurityFlag::AppArmor(Some("mine".to_owned())))),
            ("apparmor=unconfined", Some(SecurityFlag::AppArmor(None))),
            ("label=disable", Some(SecurityFlag::NoLabel)),
            ("systempaths=unconfined", Some(SecurityFlag::OpenSystemPaths)),
            ("label=type:x", None),
            ("no-new-privileges=maybe", None),
            ("seccomp=", None),
            ("seccomp", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<SecurityFlag>().ok(), meant, "{text}");
        }
    }
}
