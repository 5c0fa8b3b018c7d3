//! The runtime's options, as an engine hands them on.

use serde::{Deserialize, Serialize};

use crate::io::Owner;
use crate::message::{Any, GenericOptions, RuncOptions};
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

impl Options {
    /// Reads what an engine sent. Options of a type that is not known are none.
    pub fn read(any: &Any<'_>) -> Result<Self, Status> {
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.runc.v1.Options" => {
                let o = RuncOptions::read(any.value)?;
                Ok(Self {
                    root: o.root.to_owned(),
                    shim_cgroup: o.shim_cgroup.to_owned(),
                    no_pivot_root: o.no_pivot_root,
                    no_new_keyring: o.no_new_keyring,
                    systemd_cgroup: o.systemd_cgroup,
                    io_uid: o.io_uid,
                    io_gid: o.io_gid,
                    binary_name: o.binary_name.to_owned(),
                })
            }
            "runtimeoptions.v1.Options" => {
                let o = GenericOptions::read(any.value)?;
                if !o.config_body.is_empty() {
                    let text = std::str::from_utf8(o.config_body);
                    return Ok(Self::from_toml(text.map_err(|_| crate::wire::Malformed)?));
                }
                if o.config_path.is_empty() {
                    return Ok(Self::default());
                }
                let bytes = crate::start::read_file(o.config_path).map_err(|e| {
                    let text = format!("{}: {}", o.config_path, orlop::error::describe(e));
                    Status::new(Code::InvalidArgument, text)
                })?;
                Ok(Self::from_toml(&String::from_utf8_lossy(&bytes)))
            }
            _ => Ok(Self::default()),
        }
    }

    /// The words that containerd's own configuration has for them: `Key = value` on lines of their own, strings and
    /// booleans. What is not ours is passed over.
    fn from_toml(text: &str) -> Self {
        let mut options = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            let value = value.trim();
            let quoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.split(quote).next());
            let string = || quoted('"').or_else(|| quoted('\'')).unwrap_or_default().to_owned();
            let flag = value.split('#').next().is_some_and(|value| value.trim() == "true");
            let number = || value.split('#').next().and_then(|value| value.trim().parse().ok()).unwrap_or_default();
            match key.trim() {
                "Root" => options.root = string(),
                "ShimCgroup" => options.shim_cgroup = string(),
                "BinaryName" => options.binary_name = string(),
                "NoPivotRoot" => options.no_pivot_root = flag,
                "NoNewKeyring" => options.no_new_keyring = flag,
                "SystemdCgroup" => options.systemd_cgroup = flag,
                "IoUid" => options.io_uid = number(),
                "IoGid" => options.io_gid = number(),
                _ => {}
            }
        }
        options
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
            Options::read(&Any::read(&any.0).unwrap()).unwrap()
        };
        let options = read("containerd.runc.v1.Options", &runc.0);
        assert!(options.no_pivot_root && options.owner().uid == 7);
        assert_eq!(options.root("k8s.io"), "/r/k8s.io");

        let toml = b"# comment\nRoot = \"/x\" # why\nSystemdCgroup = true\n[other]\nIoGid=3\n";
        let generic = Message::new().text(1, "t").bytes(3, toml);
        let options = read("types.containerd.io/runtimeoptions.v1.Options", &generic.0);
        assert!(options.systemd_cgroup && options.root == "/x" && options.io_gid == 3);
        assert_eq!(options.check().unwrap_err().code, Code::Unimplemented);
        assert_eq!(Options { binary_name: "runc".into(), ..options }.check(), Ok(()));

        assert_eq!(read("something.else", b"\xff"), Options::default());
        assert_eq!(Options::default().root("default"), "/run/containerd/orlop/default");
    }
}
