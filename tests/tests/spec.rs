//! `spec` writes what `runc spec` writes.

use orlop::config::{Spec, parse};
use orlop::plan::fields;
use orlop::spec::{Cgroups, Variant, config_json, write};

/// Written by runc 1.3.6 as root, without and with `--rootless`.
const ROOT: &str = include_str!("../data/runc-1.3.6-spec.json");
const ROOTLESS: &str = include_str!("../data/runc-1.3.6-spec-rootless.json");

#[test]
fn the_default_configuration_is_runcs_byte_for_byte() {
    assert_eq!(config_json(Variant::Root, Cgroups::V1), ROOT);
    assert_eq!(config_json(Variant::Rootless { uid: 0, gid: 0 }, Cgroups::V1), ROOTLESS);
}

#[test]
fn the_rootless_configuration_maps_the_caller() {
    let text = config_json(Variant::Rootless { uid: 1000, gid: 100 }, Cgroups::V1);
    let spec: Spec = parse("config.json", text.as_bytes()).unwrap();
    let (uid, gid) = (&spec.linux.uid_mappings[0], &spec.linux.gid_mappings[0]);
    assert_eq!((uid.container_id, uid.host_id, uid.size), (0, 1000, 1));
    assert_eq!((gid.container_id, gid.host_id, gid.size), (0, 100, 1));
}

#[test]
fn what_spec_writes_is_supported() {
    for variant in [Variant::Root, Variant::Rootless { uid: 1000, gid: 1000 }] {
        let spec: Spec = parse("config.json", config_json(variant, Cgroups::V2).as_bytes()).unwrap();
        fields::check(&spec).unwrap();
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a directory that this test made")]
fn a_config_json_that_is_there_is_left_alone() {
    let bundle = format!("{}/orlop-spec-{}", std::env::temp_dir().display(), std::process::id());
    std::fs::create_dir(&bundle).unwrap();
    let path = format!("{bundle}/config.json");
    write(&bundle, Variant::Root, Cgroups::V1).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), ROOT);
    let error = write(&bundle, Variant::Rootless { uid: 0, gid: 0 }, Cgroups::V1).unwrap_err();
    assert_eq!(error.to_string(), "File config.json exists. Remove it first");
    assert_eq!(error.kind(), orlop::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), ROOT);
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_dir(&bundle).unwrap();
    let error = write(&bundle, Variant::Root, Cgroups::V1).unwrap_err().to_string();
    assert_eq!(error, format!("create {path}: ENOENT (no such file or directory)"));
}
