//! `features`: what this runtime knows, as the features document of the specification 1.3 (features.md).
//!
//! containerd turns functions of the CRI on by this document: recursive read-only mounts if the mount options have
//! `rro`, user namespaces if the namespaces have `user` and idmapped mounts are enabled. What is not supported says so.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the runtime specification that this library follows.
pub const SPEC_VERSION: &str = "1.3.0";

/// The oldest version whose configurations are understood.
pub const SPEC_VERSION_MIN: &str = "1.0.0";

/// The hooks, in the order in which they run.
pub const HOOKS: &[&str] = &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// The mount options that are not data for the file system, sorted.
pub const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// The namespaces, sorted, as `linux.namespaces[].type` calls them.
pub const NAMESPACES: &[&str] = &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

/// The actions of a seccomp rule, sorted.
pub const SECCOMP_ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// The operators of a seccomp rule's arguments, sorted.
pub const SECCOMP_OPERATORS: &[&str] =
    &["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

/// The architectures that a profile may name, sorted. Those that the host can't run need no filter and are passed over.
pub const SECCOMP_ARCHS: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// The flags of a seccomp profile.
pub const SECCOMP_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

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
        mount_options: list(MOUNT_OPTIONS),
        linux: Linux {
            namespaces: list(NAMESPACES),
            capabilities: capabilities(),
            cgroup: Cgroup { v1: true, v2: true, systemd: false, systemd_user: false, rdma: true },
            seccomp: Seccomp {
                enabled: true,
                actions: list(SECCOMP_ACTIONS),
                operators: list(SECCOMP_OPERATORS),
                archs: list(SECCOMP_ARCHS),
                known_flags: list(SECCOMP_FLAGS),
                supported_flags: SECCOMP_FLAGS.iter().filter(|f| flag_supported(f)).map(|&f| f.to_owned()).collect(),
            },
            apparmor: Enabled { enabled: true },
            selinux: Enabled { enabled: true },
            intel_rdt: IntelRdt { enabled: false, schemata: false, monitoring: false },
            mount_extensions: MountExtensions { idmap: Enabled { enabled: false } },
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

/// All capabilities, by their number.
fn capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.into_iter().map(|capability| capability.to_string()).collect()
}
