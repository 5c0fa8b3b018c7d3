//! The fields of config.json that are not acted on: the refused ones and the ignored ones. A test walks all fields of
//! the specification and fails for one that is neither read nor listed here, so that nothing is skipped in silence.

use crate::config::Spec;
use crate::error::{Error, Result};

/// A field that asks for something that this version can't do.
#[derive(Debug)]
pub struct Refused {
    /// Its path; `[]` stands for each element of a list, and `[name]` for an element with that value.
    pub path: &'static str,
    /// Where the configuration says it, if it does.
    pub given: fn(&Spec) -> Option<String>,
}

/// The refused fields.
pub static REFUSED: &[Refused] = &[
    Refused { path: "linux.intelRdt", given: |spec| named(spec.linux.intel_rdt.is_some(), "linux.intelRdt") },
    Refused { path: "linux.netDevices", given: |spec| named(!spec.linux.net_devices.is_empty(), "linux.netDevices") },
    Refused {
        path: "linux.memoryPolicy",
        given: |spec| named(spec.linux.memory_policy.is_some(), "linux.memoryPolicy"),
    },
];

fn named(given: bool, path: &str) -> Option<String> {
    given.then(|| path.to_owned())
}

/// Refuses a configuration that asks for what this version can't do.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with the path of the first such field.
pub fn check(spec: &Spec) -> Result<()> {
    match REFUSED.iter().find_map(|refused| (refused.given)(spec)) {
        Some(path) => Err(Error::unsupported(path, "not supported by this version of orlop")),
        None => Ok(()),
    }
}

/// The ignored fields, with those below them, and why that is right.
pub static IGNORED: &[(&str, &str)] = &[
    ("windows", "for another platform (config.md, platform-specific configuration)"),
    ("solaris", "for another platform"),
    ("freebsd", "for another platform"),
    ("zos", "for another platform"),
    ("vm", "for runtimes that make virtual machines"),
    ("process.commandLine", "Windows only: what args is elsewhere (config.md, process)"),
    ("process.user.username", "Windows only (config.md, user)"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::error::ErrorKind;

    #[test]
    fn what_cannot_be_done_is_refused_by_its_path_and_an_empty_wish_is_none() {
        for (document, want) in [
            (r#"{"linux":{"intelRdt":{"closID":"a"}}}"#, Some("linux.intelRdt: ")),
            (r#"{"linux":{"netDevices":{"eth0":{}}}}"#, Some("linux.netDevices: ")),
            (r#"{"linux":{"memoryPolicy":{"mode":"MPOL_BIND"}}}"#, Some("linux.memoryPolicy: ")),
            (r#"{"linux":{"intelRdt":null,"netDevices":{},"memoryPolicy":null},"vm":{"kernel":{}}}"#, None),
        ] {
            let spec: Spec = parse("config.json", document.as_bytes()).unwrap();
            match (check(&spec), want) {
                (Ok(()), None) => {}
                (Err(e), Some(want)) => {
                    assert_eq!(e.kind(), ErrorKind::Unsupported);
                    assert!(e.to_string().starts_with(want), "{e}");
                }
                (got, want) => panic!("{document}: {got:?} instead of {want:?}"),
            }
        }
    }
}
