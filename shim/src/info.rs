//! `-info` and `-v`: who we are.

use orlop::features;

use crate::message::any;
use crate::wire::Message;

/// Our name in containerd's configuration.
const NAME: &str = "io.containerd.orlop.v2";

/// The type of the features document.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// `containerd.runtime.v1.RuntimeInfo`.
///
/// It has no annotation `containerd.io/runtime-allow-mounts`, by which a shim takes types of mounts and their templates
/// away from containerd's mount manager, as those do that hand files to a virtual machine. Here the manager's way is the
/// better one: what it prepares outlives a shim that is killed, and what is left for the shim are mounts of the system.
pub fn info() -> Vec<u8> {
    let supported = orlop_sys::seccomp::supported_flags();
    let known = |name: &str| orlop::bpf::flag(name).is_some_and(|bit| supported & bit == bit);
    let features = features::text(&features::features(known));
    let version = Message::new().text(1, env!("CARGO_PKG_VERSION"));
    Message::new().text(1, NAME).message(2, &version).message(4, &any(FEATURES, features.as_bytes())).0
}

/// For people.
pub fn version() -> String {
    format!("containerd-shim-orlop-v2:\n  Version:  {}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{bytes, field, text};

    #[test]
    fn a_program_learns_name_version_and_features() {
        let info = info();
        assert_eq!(text(&info, 1), "io.containerd.orlop.v2");
        assert_eq!(text(bytes(&info, 2), 1), env!("CARGO_PKG_VERSION"));
        let features = bytes(&info, 4);
        assert_eq!(text(features, 1), FEATURES);
        let features: serde_json::Value = serde_json::from_slice(bytes(features, 2)).unwrap();
        assert!(features["linux"]["namespaces"].as_array().unwrap().iter().any(|name| name == "mount"));
        assert_eq!(field(&info, 5), None);
    }
}
