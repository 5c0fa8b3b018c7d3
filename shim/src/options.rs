//! The runtime's options, as an engine hands them on.

use serde::{Deserialize, Serialize};

use crate::io::Owner;
use crate::message::{Any, GenericOptions, RuncOptions};
use crate::toml::{self, Value};
use crate::ttrpc::{Code, Status};

/// Where the state of containers is, below which each namespace has its directory.
const ROOT: &str = "/run/containerd/orlop";

/// The file in the bundle that keeps them for `delete`.
pub const FILE: &str = "options.json";

/// See the [module](self).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", default)]
pub struct Options {
    /// The state root; empty for our own.
    pub root: String,
    /// A cgroup for the shim.
    pub shim_cgroup: String,
    /// Don't pivot_root.
    pub no_pivot_root: bool,
    /// Don't make a session keyring.
    pub no_new_keyring: bool,
    /// The systemd cgroup driver.
    pub systemd_cgroup: bool,
    /// Who owns the pipes.
    pub io_uid: u32,
    /// Their group.
    pub io_gid: u32,
    /// Another runtime.
    pub binary_name: String,
}

fn invalid(name: &str, why: &str) -> Status {
    Status::new(Code::InvalidArgument, format!("{name}: {why}"))
}

impl Options {
    /// Reads what an engine sent; `None` if it is of a type that is not known.
    ///
    /// # Errors
    /// What can't be understood, by its name.
    pub fn read(any: &Any<'_>) -> Result<Option<Self>, Status> {
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.runc.v1.Options" => {
                let o = RuncOptions::read(any.value)?;
                Ok(Some(Self {
                    root: o.root.to_owned(),
                    shim_cgroup: o.shim_cgroup.to_owned(),
                    no_pivot_root: o.no_pivot_root,
                    no_new_keyring: o.no_new_keyring,
                    systemd_cgroup: o.systemd_cgroup,
                    io_uid: o.io_uid,
                    io_gid: o.io_gid,
                    binary_name: o.binary_name.to_owned(),
                }))
            }
            "runtimeoptions.v1.Options" => {
                let o = GenericOptions::read(any.value)?;
                if !o.config_body.is_empty() {
                    let text = std::str::from_utf8(o.config_body).map_err(|_| crate::wire::Malformed)?;
                    return Self::from_toml("config_body", text).map(Some);
                }
                if o.config_path.is_empty() {
                    return Ok(Some(Self::default()));
                }
                let bytes = crate::start::read_file(o.config_path)
                    .map_err(|e| invalid(o.config_path, &orlop::error::describe(e)))?;
                Self::from_toml(o.config_path, &String::from_utf8_lossy(&bytes)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The words that containerd's own configuration has for them. What is not ours is passed over.
    fn from_toml(name: &str, text: &str) -> Result<Self, Status> {
        let mut options = Self::default();
        let settings = toml::settings(text).map_err(|line| invalid(name, &format!("line {line}: not TOML")))?;
        for (key, value) in settings {
            let wrong = |what: &str| invalid(name, &format!("{key}: not {what}"));
            let (mut text, mut flag, mut number) = (None, None, None);
            match key.as_str() {
                "Root" => text = Some(&mut options.root),
                "ShimCgroup" => text = Some(&mut options.shim_cgroup),
                "BinaryName" => text = Some(&mut options.binary_name),
                "NoPivotRoot" => flag = Some(&mut options.no_pivot_root),
                "NoNewKeyring" => flag = Some(&mut options.no_new_keyring),
                "SystemdCgroup" => flag = Some(&mut options.systemd_cgroup),
                "IoUid" => number = Some(&mut options.io_uid),
                "IoGid" => number = Some(&mut options.io_gid),
                // For checkpoints, which are refused (CriuPath, CriuImagePath, CriuWorkPath), or somebody else's.
                _ => {}
            }
            match (text, flag, number, value) {
                (Some(text), _, _, Value::Text(value)) => *text = value,
                (_, Some(flag), _, Value::Flag(value)) => *flag = value,
                (_, _, Some(number), Value::Number(value)) => {
                    *number = u32::try_from(value).map_err(|_| wrong("an id"))?;
                }
                (Some(_), ..) => return Err(wrong("a string")),
                (_, Some(_), ..) => return Err(wrong("a boolean")),
                (_, _, Some(_), _) => return Err(wrong("an id")),
                _ => {}
            }
        }
        Ok(options)
    }

    /// The state root of a namespace.
    pub fn root(&self, namespace: &str) -> String {
        let root = if self.root.is_empty() { ROOT } else { self.root.trim_end_matches('/') };
        format!("{root}/{namespace}")
    }

    /// Who owns pipes.
    pub fn owner(&self) -> Owner {
        Owner { uid: self.io_uid, gid: self.io_gid }
    }

    /// The runtime, if it is not ours.
    pub fn other_binary(&self) -> Option<&str> {
        let name = self.binary_name.rsplit('/').next().unwrap_or_default();
        (!matches!(name, "" | "orlop" | "containerd-shim-orlop-v2")).then_some(&self.binary_name)
    }

    /// Sees whether all of it can be done.
    ///
    /// # Errors
    /// What this version of our own runtime can't do.
    pub fn check(&self) -> Result<(), Status> {
        if self.systemd_cgroup && self.other_binary().is_none() {
            let what = "SystemdCgroup: the systemd cgroup driver is not supported by this version of orlop";
            return Err(Status::new(Code::Unimplemented, what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Message;

    #[test]
    fn options_come_in_three_forms() {
        let runc = Message::new().flag(1, true).number(4, 7u32).text(7, "/r/");
        let read = |url: &str, value: &[u8]| {
            let any = crate::message::any(url, value);
            Options::read(&Any::read(&any.0).unwrap())
        };
        // CriuPath and what stands beyond systemd_cgroup is passed over.
        let runc = runc.text(8, "/usr/bin/criu").text(10, "/i").text(11, "/w").text(12, "unix:///t").number(13, 3u32);
        let options = read("containerd.runc.v1.Options", &runc.0).unwrap().unwrap();
        assert!(options.no_pivot_root && options.owner().uid == 7);
        assert_eq!(options.root("k8s.io"), "/r/k8s.io");

        let generic = |toml: &str| {
            let generic = Message::new().text(1, "t").bytes(3, toml.as_bytes());
            read("types.containerd.io/runtimeoptions.v1.Options", &generic.0)
        };
        let toml = "# comment\nRoot = \"/x\" # why\nSystemdCgroup = true\nIoGid=3\nCriuPath = 7\n[other]\nIoUid = 5\n";
        let options = generic(toml).unwrap().unwrap();
        assert!(options.systemd_cgroup && options.root == "/x" && (options.io_uid, options.io_gid) == (0, 3));
        assert_eq!(options.check().unwrap_err().code, Code::Unimplemented);
        assert_eq!(Options { binary_name: "runc".into(), ..options }.check(), Ok(()));
        for (toml, why) in [
            ("Root = 7", "config_body: Root: not a string"),
            ("\nSystemdCgroup = \"true\"", "config_body: SystemdCgroup: not a boolean"),
            ("IoUid = -1", "config_body: IoUid: not an id"),
            ("Root", "config_body: line 1: not TOML"),
        ] {
            assert_eq!(generic(toml).unwrap_err(), Status::new(Code::InvalidArgument, why));
        }

        assert_eq!(read("something.else", b"\xff"), Ok(None));
        let nothing = read("runtimeoptions.v1.Options", b"").unwrap();
        assert_eq!(nothing, Some(Options::default()));
        assert_eq!(Options::default().root("default"), "/run/containerd/orlop/default");
    }
}
