//! The features document: its form is the specification's, and it promises what can be held.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::BTreeSet;

use orlop::features::{Features, features, text};
use serde_json::Value;

/// The options that the specification 1.3 says a runtime MUST, SHOULD and MAY know (config.md, Linux mount options).
const MUST: &str = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime \
                    noexec noiversion nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro \
                    rprivate rshared rslave runbindable rw shared silent slave strictatime suid sync unbindable";
const SHOULD: &str = "nosymfollow symfollow rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnoatime ratime rrelatime \
                      rnorelatime rstrictatime rnostrictatime rnodiratime rdiratime rnosymfollow rsymfollow idmap ridmap";
const MAY: &str = "mand nomand tmpcopyup";

fn document() -> Value {
    serde_json::from_str(&text(&features(|_| true))).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

#[test]
fn the_document_has_the_form_of_the_specification() {
    let document = document();
    // Sorted here: another package of the workspace may have asked serde_json to keep the order of the text.
    let keys = |value: &Value| {
        let keys: BTreeSet<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.into_iter().collect::<Vec<_>>().join(" ")
    };
    for (pointer, want) in [
        ("", "annotations hooks linux mountOptions ociVersionMax ociVersionMin potentiallyUnsafeConfigAnnotations"),
        ("/linux", "apparmor capabilities cgroup intelRdt mountExtensions namespaces netDevices seccomp selinux"),
        ("/linux/cgroup", "rdma systemd systemdUser v1 v2"),
        ("/linux/seccomp", "actions archs enabled knownFlags operators supportedFlags"),
        ("/linux/intelRdt", "enabled monitoring schemata"),
        ("/linux/mountExtensions", "idmap"),
        ("/linux/mountExtensions/idmap", "enabled"),
        ("/linux/apparmor", "enabled"),
        ("/linux/selinux", "enabled"),
        ("/linux/netDevices", "enabled"),
    ] {
        assert_eq!(keys(document.pointer(pointer).unwrap()), want, "{pointer}");
    }
    assert_eq!((&document["ociVersionMin"], &document["ociVersionMax"]), (&"1.0.0".into(), &"1.3.0".into()));
    for annotation in document["annotations"].as_object().unwrap().values() {
        assert!(annotation.is_string());
    }
    let typed: Features = serde_json::from_value(document).unwrap();
    assert_eq!(typed, features(|_| true));
}

#[test]
fn every_mount_option_of_the_specification_is_listed() {
    let listed: BTreeSet<_> = orlop::plan::mount_options::names().collect();
    let wanted: BTreeSet<_> = [MUST, SHOULD, MAY].into_iter().flat_map(str::split_whitespace).collect();
    assert_eq!(listed, wanted);
    // containerd looks for this one before it makes a mount read-only recursively.
    assert!(strings(&document()["mountOptions"]).contains(&"rro"));
}

#[test]
fn what_is_refused_in_config_json_is_not_promised() {
    let document = document();
    let promised = |pointer: &str| document.pointer(pointer).is_some_and(|value| *value != Value::Bool(false));
    for (field, pointers) in [
        ("linux.intelRdt", &["/linux/intelRdt/enabled", "/linux/intelRdt/schemata", "/linux/intelRdt/monitoring"][..]),
        ("linux.netDevices", &["/linux/netDevices/enabled"]),
        ("linux.memoryPolicy", &["/linux/memoryPolicy"]),
        ("mounts[].uidMappings", &["/linux/mountExtensions/idmap/enabled"]),
    ] {
        let refused = orlop::plan::fields::REFUSED.iter().any(|refused| refused.path == field);
        for pointer in pointers {
            assert_eq!(promised(pointer), !refused, "{field} and {pointer}");
        }
    }
}

#[test]
fn lists_are_sorted_and_name_nothing_twice() {
    let document = document();
    let seccomp = &document["linux"]["seccomp"];
    for list in [
        &document["mountOptions"],
        &document["linux"]["namespaces"],
        &seccomp["actions"],
        &seccomp["operators"],
        &seccomp["archs"],
    ] {
        let list = strings(list);
        assert!(!list.is_empty() && list.windows(2).all(|pair| pair[0] < pair[1]), "{list:?}");
    }
}

#[test]
fn capabilities_are_the_kernels_in_the_order_of_their_numbers() {
    let document = document();
    let names = strings(&document["linux"]["capabilities"]);
    assert_eq!(names.len(), 41);
    for (at, name) in [(0, "CAP_CHOWN"), (21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (40, "CAP_CHECKPOINT_RESTORE")] {
        assert_eq!(names[at], name);
    }
}

#[test]
fn a_seccomp_flag_that_the_kernel_lacks_is_known_but_not_supported() {
    let seccomp = features(|flag| flag != "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV").linux.seccomp;
    assert_eq!(seccomp.known_flags, orlop::bpf::FLAGS);
    assert_eq!(seccomp.supported_flags, orlop::bpf::FLAGS[..3]);
}

/// From the output of runc 1.3.6, which is for specification 1.2.1.
#[test]
fn everything_that_runc_lists_is_listed() {
    let document = document();
    let runc: Value = serde_json::from_str(include_str!("../data/runc-1.3.6-features.json")).unwrap();
    for pointer in [
        "/hooks",
        "/mountOptions",
        "/linux/namespaces",
        "/linux/capabilities",
        "/linux/seccomp/actions",
        "/linux/seccomp/operators",
        "/linux/seccomp/archs",
        "/linux/seccomp/knownFlags",
    ] {
        let ours = strings(document.pointer(pointer).unwrap());
        for name in strings(runc.pointer(pointer).unwrap()) {
            assert!(ours.contains(&name), "{pointer} lacks {name}");
        }
    }
}
