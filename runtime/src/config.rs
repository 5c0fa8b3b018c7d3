//! config.json, as the runtime specification 1.3 writes it: what was said, before anything is decided.
//!
//! Values that the specification gives as names (namespace types, seccomp actions, capabilities ...) stay strings here
//! and become enums in [`plan`](crate::plan), where an unknown one can be named with its whole path. Fields that a Go
//! program would leave at their zero value have their default here, so nothing downstream asks twice. `null` means
//! absent, as it does for runc.
//!
//! The types are ours rather than the crate `oci-spec`'s because that crate refuses what runc accepts (a capability
//! that it does not know, `null` for an empty list) and lacks the place for duplicate-key and NUL checks; a test
//! compares the two on valid input.

use std::collections::BTreeMap;

use serde::de::{Deserialize as De, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The largest config.json, process.json or resources document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 16 << 20;

/// Reads a JSON document. Refused: more than [`MAX_DOCUMENT`] bytes, nesting beyond 128 (serde_json's own limit),
/// a key given twice, bytes after the end, and a NUL in any string, since every string may become a C string.
pub fn parse<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T> {
    if bytes.len() > MAX_DOCUMENT {
        return Err(Error::invalid(name, format_args!("larger than {} MiB", MAX_DOCUMENT >> 20)));
    }
    // In valid JSON a NUL can only stand inside a string, and there only as this escape; a raw NUL byte is a syntax
    // error already. `\\u0000` (an escaped backslash) is not one.
    if let Some(at) = escaped_nul(bytes) {
        return Err(Error::invalid(name, format_args!("a string contains a NUL character (byte {at})")));
    }
    // serde would also read a struct from an array of its fields.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Error::invalid(name, "not a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(name, e))
}

fn escaped_nul(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = bytes.get(at..)?.iter().position(|b| *b == b'\\') {
        let escape = bytes.get(at + found..)?;
        if escape.starts_with(b"\\u0000") {
            return Some(at + found);
        }
        at += found + 2;
    }
    None
}

/// `null` is the default, as in Go.
fn nullable<'de, D: Deserializer<'de>, T: De<'de> + Default>(d: D) -> std::result::Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A JSON object with free keys, in the order of its keys; a key given twice is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Map(pub BTreeMap<String, String>);

impl<'de> De<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Map;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> std::result::Result<Map, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = access.next_entry::<String, String>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("duplicate key `{key}`")));
                    }
                    map.insert(key, value);
                }
                Ok(Map(map))
            }
        }
        d.deserialize_map(V)
    }
}

/// Declares the structs of the document. `field: Type` has its default when absent or null.
macro_rules! document {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$attr:meta])* $field:ident : $ty:ty, )* } )*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name { $(
            #[allow(missing_docs, reason = "the specification is the documentation of its fields")]
            #[serde(default, deserialize_with = "nullable")]
            $(#[$attr])*
            pub $field: $ty,
        )* }
    )* };
}

document! {
    /// The whole of config.json (config.md).
    Spec {
        oci_version: String,
        root: Option<RootFs>,
        mounts: Vec<Mount>,
        process: Option<Process>,
        hostname: String,
        domainname: String,
        hooks: Hooks,
        annotations: Map,
        linux: Linux,
    }

    /// `root`.
    RootFs { path: String, readonly: bool, }

    /// One of `mounts`.
    Mount {
        destination: String,
        r#type: String,
        source: String,
        options: Vec<String>,
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
    }

    /// `process`, and the document that `exec --process` reads.
    Process {
        terminal: bool,
        console_size: Option<ConsoleSize>,
        user: User,
        args: Vec<String>,
        env: Vec<String>,
        cwd: String,
        capabilities: Option<Capabilities>,
        rlimits: Vec<Rlimit>,
        no_new_privileges: bool,
        apparmor_profile: String,
        selinux_label: String,
        oom_score_adj: Option<i32>,
        scheduler: Option<Scheduler>,
        #[serde(rename = "ioPriority")]
        io_priority: Option<IoPriority>,
        #[serde(rename = "execCPUAffinity")]
        exec_cpu_affinity: Option<CpuAffinity>,
    }

    /// `process.consoleSize`, in characters.
    ConsoleSize { height: u32, width: u32, }

    /// `process.user`.
    User { uid: u32, gid: u32, umask: Option<u32>, additional_gids: Vec<u32>, }

    /// `process.capabilities`.
    Capabilities {
        bounding: Vec<String>,
        effective: Vec<String>,
        inheritable: Vec<String>,
        permitted: Vec<String>,
        ambient: Vec<String>,
    }

    /// One of `process.rlimits`.
    Rlimit { r#type: String, hard: u64, soft: u64, }

    /// `process.scheduler`; times in nanoseconds.
    Scheduler {
        policy: String,
        nice: i32,
        priority: i32,
        flags: Vec<String>,
        runtime: u64,
        deadline: u64,
        period: u64,
    }

    /// `process.ioPriority`.
    IoPriority { class: String, priority: i32, }

    /// `process.execCPUAffinity`: cpu lists such as `0-3,7`.
    CpuAffinity { initial: String, r#final: String, }

    /// `hooks`.
    Hooks {
        prestart: Vec<Hook>,
        create_runtime: Vec<Hook>,
        create_container: Vec<Hook>,
        start_container: Vec<Hook>,
        poststart: Vec<Hook>,
        poststop: Vec<Hook>,
    }

    /// One hook; the timeout is in seconds.
    Hook { path: String, args: Vec<String>, env: Vec<String>, timeout: Option<i64>, }

    /// `linux` (config-linux.md).
    Linux {
        namespaces: Vec<Namespace>,
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
        time_offsets: BTreeMap<String, TimeOffset>,
        devices: Vec<Device>,
        net_devices: BTreeMap<String, serde_json::Value>,
        cgroups_path: String,
        resources: Option<Resources>,
        sysctl: Map,
        seccomp: Option<Seccomp>,
        rootfs_propagation: String,
        masked_paths: Vec<String>,
        readonly_paths: Vec<String>,
        mount_label: String,
        personality: Option<Personality>,
        intel_rdt: Option<serde_json::Value>,
        memory_policy: Option<serde_json::Value>,
    }

    /// One of `linux.namespaces`.
    Namespace { r#type: String, path: String, }

    /// One line of an id map.
    IdMapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
        size: u32,
    }

    /// One of `linux.timeOffsets`.
    TimeOffset { secs: i64, nanosecs: u32, }

    /// One of `linux.devices`. `fileMode` is absent when it is to be 0666.
    Device {
        path: String,
        r#type: String,
        major: i64,
        minor: i64,
        file_mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
    }

    /// `linux.personality`.
    Personality { domain: String, flags: Vec<String>, }

    /// `linux.resources`, and the document that `update --resources` reads.
    Resources {
        unified: Map,
        devices: Vec<DeviceRule>,
        memory: Option<Memory>,
        cpu: Option<Cpu>,
        pids: Option<Pids>,
        #[serde(rename = "blockIO")]
        block_io: Option<BlockIo>,
        hugepage_limits: Vec<HugepageLimit>,
        network: Option<Network>,
        rdma: BTreeMap<String, Rdma>,
    }

    /// One of `linux.resources.devices`.
    DeviceRule {
        allow: bool,
        r#type: String,
        major: Option<i64>,
        minor: Option<i64>,
        access: String,
    }

    /// `linux.resources.memory`, in bytes; -1 is unlimited.
    Memory {
        limit: Option<i64>,
        reservation: Option<i64>,
        swap: Option<i64>,
        kernel: Option<i64>,
        #[serde(rename = "kernelTCP")]
        kernel_tcp: Option<i64>,
        swappiness: Option<u64>,
        #[serde(rename = "disableOOMKiller")]
        disable_oom_killer: Option<bool>,
        use_hierarchy: Option<bool>,
        check_before_update: Option<bool>,
    }

    /// `linux.resources.cpu`; periods, quotas and bursts in microseconds.
    Cpu {
        shares: Option<u64>,
        quota: Option<i64>,
        burst: Option<u64>,
        period: Option<u64>,
        realtime_runtime: Option<i64>,
        realtime_period: Option<u64>,
        cpus: String,
        mems: String,
        idle: Option<i64>,
    }

    /// `linux.resources.pids`.
    Pids { limit: Option<i64>, }

    /// `linux.resources.blockIO`; rates per second.
    BlockIo {
        weight: Option<u16>,
        leaf_weight: Option<u16>,
        weight_device: Vec<WeightDevice>,
        throttle_read_bps_device: Vec<ThrottleDevice>,
        throttle_write_bps_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleReadIOPSDevice")]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleWriteIOPSDevice")]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }

    /// One of `linux.resources.blockIO.weightDevice`.
    WeightDevice { major: i64, minor: i64, weight: Option<u16>, leaf_weight: Option<u16>, }

    /// One of `linux.resources.blockIO.throttle…Device`.
    ThrottleDevice { major: i64, minor: i64, rate: u64, }

    /// One of `linux.resources.hugepageLimits`; the limit is in bytes.
    HugepageLimit { page_size: String, limit: u64, }

    /// `linux.resources.network`.
    Network {
        #[serde(rename = "classID")]
        class_id: Option<u32>,
        priorities: Vec<InterfacePriority>,
    }

    /// One of `linux.resources.network.priorities`.
    InterfacePriority { name: String, priority: u32, }

    /// One of `linux.resources.rdma`.
    Rdma { hca_handles: Option<u32>, hca_objects: Option<u32>, }

    /// `linux.seccomp`.
    Seccomp {
        default_action: String,
        default_errno_ret: Option<u32>,
        architectures: Vec<String>,
        flags: Option<Vec<String>>,
        listener_path: String,
        listener_metadata: String,
        syscalls: Vec<SyscallRule>,
    }

    /// One of `linux.seccomp.syscalls`.
    SyscallRule {
        names: Vec<String>,
        action: String,
        errno_ret: Option<u32>,
        args: Vec<SyscallArg>,
    }

    /// One of `linux.seccomp.syscalls[].args`.
    SyscallArg { index: u32, value: u64, value_two: u64, op: String, }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_null_are_the_default_and_unknown_fields_are_allowed() {
        let spec: Spec =
            parse("config.json", br#"{"ociVersion":"1.0.2","mounts":null,"process":{"args":["a"]},"vm":{"x":1}}"#)
                .unwrap();
        assert_eq!(spec.mounts, []);
        assert_eq!(spec.process.unwrap().args, ["a"]);
    }

    #[test]
    fn hostile_documents_are_refused_with_their_name() {
        let deep = "[".repeat(100_000);
        let (skipped, deep) = (format!("{{\"x\":{deep}"), format!("{{\"linux\":{{\"intelRdt\":{deep}"));
        for (bytes, want) in [
            (&b"{\"hostname\":\"a\",\"hostname\":\"b\"}"[..], "duplicate field `hostname`"),
            (b"{\"annotations\":{\"a\":\"1\",\"a\":\"2\"}}", "duplicate key `a`"),
            (b"{} x", "trailing characters"),
            (b"{\"hostname\":\"a\\u0000b\"}", "NUL character"),
            (b"{\"hostname\":\"a\0b\"}", "control character"),
            (b"{\"hostname\":\"\xff\"}", "invalid unicode"),
            (b"{\"hostname\":\"\\ud800\"}", "unexpected end of hex escape"),
            (b"{\"process\":{\"user\":{\"uid\":4294967296}}}", "invalid value: integer `4294967296`, expected u32"),
            (b"{\"process\":{\"user\":{\"uid\":1.5}}}", "expected u32"),
            (b"", "not a JSON object"),
            (b"{", "EOF"),
            (b"[]", "not a JSON object"),
            (skipped.as_bytes(), "EOF"),
            (deep.as_bytes(), "recursion limit"),
        ] {
            let e = parse::<Spec>("config.json", bytes).unwrap_err().to_string();
            assert!(e.starts_with("config.json: "), "{e}");
            assert!(e.contains(want), "{e:?} does not say {want:?}");
        }
        parse::<Spec>("config.json", br#"{"hostname":"\\u0000"}"#).unwrap();
    }
}
