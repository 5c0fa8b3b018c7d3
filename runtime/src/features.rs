//! `features`: what this runtime knows, as the features document of the specification 1.3 (features.md).
//!
//! containerd turns functions of the CRI on by this document: recursive read-only mounts if the mount options have
//! `rro`, user namespaces if the namespaces have `user` and idmapped mounts are enabled. What is not supported says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bpf;
use crate::plan::{self, mount_options};

/// The version of the runtime specification that this library follows.
pub const SPEC_VERSION: &str = "1.3.0";

/// The oldest version whose configurations are understood.
pub const SPEC_VERSION_MIN: &str = "1.0.0";

/// The hooks, in the order in which they run.
pub const HOOKS: &[&str] = &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Annotations of config.json that change what the runtime does; an entry that ends in a dot is a prefix.
pub const UNSAFE_ANNOTATIONS: &[&str] = &[];

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the specification is the documentation of its fields")]
pub struct Features {
    pub oci_version_min: String,
    pub oci_version_max: String,
    pub hooks: Vec<String>,
    pub mount_options: Vec<String>,
    pub linux: Linux,
    pub annotations: BTreeMap<String, String>,
    pub potentially_unsafe_config_annotations: Vec<String>,
}

/// `linux`. There is no `memoryPolicy`, which would list the modes and flags that are supported: none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the specification is the documentation of its fields")]
pub struct Linux {
    pub namespaces: Vec<String>,
    pub capabilities: Vec<String>,
    pub cgroup: Cgroup,
    pub seccomp: Seccomp,
    pub apparmor: Enabled,
    pub selinux: Enabled,
    pub intel_rdt: IntelRdt,
    pub mount_extensions: MountExtensions,
    pub net_devices: Enabled,
}

/// `linux.cgroup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the specification is the documentation of its fields")]
pub struct Cgroup {
    pub v1: bool,
    pub v2: bool,
    pub systemd: bool,
    pub systemd_user: bool,
    pub rdma: bool,
}

/// `linux.seccomp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the specification is the documentation of its fields")]
pub struct Seccomp {
    pub enabled: bool,
    pub actions: Vec<String>,
    pub operators: Vec<String>,
    pub archs: Vec<String>,
    pub known_flags: Vec<String>,
    pub supported_flags: Vec<String>,
}

/// `linux.intelRdt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the specification is the documentation of its fields")]
pub struct IntelRdt {
    pub enabled: bool,
    pub schemata: bool,
    pub monitoring: bool,
}

/// `linux.mountExtensions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the specification is the documentation of its fields")]
pub struct MountExtensions {
    pub idmap: Enabled,
}

/// An object that only says whether something is supported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the specification is the documentation of its fields")]
pub struct Enabled {
    pub enabled: bool,
}

/// The document of this runtime. `flag_supported` says of each of [`SECCOMP_FLAGS`] whether the running kernel has it;
/// nothing else depends on the host, as the specification wants it.
pub fn features(flag_supported: impl Fn(&str) -> bool) -> Features {
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    Features {
        oci_version_min: SPEC_VERSION_MIN.to_owned(),
        oci_version_max: SPEC_VERSION.to_owned(),
        hooks: list(HOOKS),
        mount_options: mount_options::names().map(str::to_owned).collect(),
        linux: Linux {
            namespaces: namespaces(),
            capabilities: capabilities(),
            cgroup: Cgroup { v1: true, v2: true, systemd: false, systemd_user: false, rdma: true },
            seccomp: Seccomp {
                enabled: true,
                actions: list(&bpf::ACTIONS),
                operators: list(&bpf::OPERATORS),
                archs: list(&bpf::ARCHITECTURES),
                known_flags: list(&bpf::FLAGS),
                supported_flags: bpf::FLAGS.iter().filter(|f| flag_supported(f)).map(|&f| f.to_owned()).collect(),
            },
            apparmor: Enabled { enabled: true },
            selinux: Enabled { enabled: true },
            intel_rdt: IntelRdt { enabled: false, schemata: false, monitoring: false },
            mount_extensions: MountExtensions { idmap: Enabled { enabled: true } },
            net_devices: Enabled { enabled: false },
        },
        annotations: BTreeMap::from([
            // The key is runc's, and crun has it too: engines ask it before they offer checkpoints.
            ("org.opencontainers.runc.checkpoint.enabled".to_owned(), "false".to_owned()),
            ("orlop.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ]),
        potentially_unsafe_config_annotations: list(UNSAFE_ANNOTATIONS),
    }
}

/// The document as it is printed, with its newline.
pub fn text(features: &Features) -> String {
    let mut bytes = Vec::new();
    let mut json =
        serde_json::Serializer::with_formatter(&mut bytes, serde_json::ser::PrettyFormatter::with_indent(b"    "));
    // Neither writing to memory nor a struct of strings and booleans can fail.
    let _ = features.serialize(&mut json);
    bytes.push(b'\n');
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The namespaces, sorted, as `linux.namespaces[].type` calls them.
fn namespaces() -> Vec<String> {
    let mut names: Vec<_> = plan::NAMESPACES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    names.sort();
    names
}

/// All capabilities, by their number.
fn capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.into_iter().map(|capability| capability.to_string()).collect()
}
