//! The cases by topic. A file has one readable function a case; its list at the top says what each stands for.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON indexes to null, the probe's answers are counted, and a panic fails its case alone"
)]

use anyhow::Result;

use crate::scene::Scene;

/// One promise of the specification or of runc's command line.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// The module it is in.
    pub(crate) module: &'static str,
    /// The function's name: the promise as a sentence.
    pub(crate) name: &'static str,
    /// The section of the specification, or the caller, that relies on it.
    pub(crate) stands_for: &'static str,
    /// Plays the case: an error is a failure, unless it is a [`crate::check::Skip`].
    pub(crate) run: fn(&mut Scene) -> Result<()>,
}

impl Case {
    /// Topic and name.
    pub(crate) fn full_name(&self) -> String {
        let topic = self.module.rsplit("::").next().unwrap_or_default();
        format!("{topic}/{}", self.name)
    }
}

/// A topic's list: what a group of functions stands for, and the functions.
macro_rules! cases {
    ($($stands_for:literal => [$($case:ident),* $(,)?]),* $(,)?) => {
        pub(super) const CASES: &[$crate::cases::Case] = &[$($(
            $crate::cases::Case {
                module: module_path!(),
                name: stringify!($case),
                stands_for: $stands_for,
                run: $case,
            }
        ),*),*];
    };
}

/// Declares the topics and the list of all their cases.
macro_rules! topics {
    ($($topic:ident),* $(,)?) => {
        $(mod $topic;)*

        /// Every case, by topic.
        pub(crate) fn all() -> Vec<Case> {
            [$($topic::CASES),*].concat()
        }
    };
}

topics![
    root,
    process,
    user,
    capabilities,
    rlimits,
    namespaces,
    mounts,
    hooks,
    paths,
    sysctl,
    devices,
    seccomp,
    cgroup,
    terminal,
    lifecycle,
    cli_create,
    cli_exec,
    cli_kill,
    cli_delete,
    state,
    list,
    events,
    log,
    features,
    spec,
    errors,
    security
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_cases_share_a_name() {
        let mut names: Vec<String> = all().iter().map(Case::full_name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
