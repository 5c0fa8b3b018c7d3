//! Where peers are known to differ: data about other runtimes, never about this project's own.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::scene::Runtime;

/// One deviation that was looked at twice.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deviation {
    /// Topics and names of the cases that show it.
    pub(crate) cases: Vec<String>,
    /// First word of the peer's `--version`.
    pub(crate) peer: String,
    /// What its version starts with; empty for every version.
    #[serde(default)]
    pub(crate) version: String,
    /// The cgroup layout that it needs to show; every layout if absent.
    pub(crate) view: Option<String>,
    /// What it was seen to do.
    pub(crate) seen: String,
}

/// The runtime that is judged without excuses.
const OURS: &str = "orlop";

/// The whole table.
pub(crate) fn table() -> Result<Vec<Deviation>> {
    serde_json::from_str(include_str!("known.json")).context("known.json")
}

/// The deviation that a runtime is known for in a case, on a layout of cgroups ("v1" or "v2").
pub(crate) fn find<'a>(table: &'a [Deviation], case: &str, runtime: &Runtime, layout: &str) -> Option<&'a Deviation> {
    if runtime.name == OURS {
        return None;
    }
    table.iter().find(|known| {
        known.cases.iter().any(|name| name == case)
            && known.peer == runtime.name
            && runtime.version.starts_with(&known.version)
            && known.view.as_deref().is_none_or(|view| view == layout)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(name: &str, version: &str) -> Runtime {
        Runtime { path: name.into(), name: name.into(), version: version.into() }
    }

    fn deviation(peer: &str, view: Option<&str>) -> Deviation {
        Deviation {
            cases: vec!["root/x".into()],
            peer: peer.into(),
            version: "1.1".into(),
            view: view.map(str::to_owned),
            seen: "nothing".into(),
        }
    }

    #[test]
    fn a_deviation_counts_for_its_case_peer_version_and_layout_alone() {
        let table = [deviation("runc", Some("v1"))];
        assert!(find(&table, "root/x", &runtime("runc", "1.1.5"), "v1").is_some());
        assert!(find(&table, "root/x", &runtime("runc", "1.1.5"), "v2").is_none());
        assert!(find(&table, "root/x", &runtime("runc", "1.3.6"), "v1").is_none());
        assert!(find(&table, "root/x", &runtime("crun", "1.1.5"), "v1").is_none());
        assert!(find(&table, "root/y", &runtime("runc", "1.1.5"), "v1").is_none());
    }

    #[test]
    fn our_own_runtime_is_never_excused() {
        assert!(find(&[deviation(OURS, None)], "root/x", &runtime(OURS, "1.1"), "v1").is_none());
        assert!(table().unwrap().iter().all(|known| known.peer != OURS));
    }

    #[test]
    fn every_known_deviation_is_of_a_case_that_exists() {
        let names: Vec<String> = crate::cases::all().iter().map(|case| case.full_name()).collect();
        for known in table().unwrap() {
            for case in known.cases {
                assert!(names.contains(&case), "no case {case}");
            }
        }
    }
}
