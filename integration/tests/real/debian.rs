//! A Debian root, made once by mmdebstrap and kept.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use orlop_integration::{kept, mmdebstrap, skip};

/// apt and its friends, python3 with its library, bash, ps, ip.
const PACKAGES: &str = "--include=python3,procps,bash,iproute2";

/// Where it is; `None`, said once, when it can't be had. Nobody writes to it: see [`copy`].
pub(crate) fn root() -> Option<&'static Path> {
    static ROOT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        if !nix::unistd::geteuid().is_root() {
            skip("Debian root: needs root");
            return None;
        }
        kept("debian-python3", "Debian root", |root| mmdebstrap(&["--variant=apt", PACKAGES, "bookworm"], root))
    };
    ROOT.get_or_init(make).as_deref()
}

/// A copy to write to. It goes with the test's folder.
pub(crate) fn copy(root: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--reflink=auto"]).arg(root).arg(to).status().unwrap();
    assert!(status.success(), "cp: {status}");
}

/// Removes a tree, but nothing that is mounted in it.
pub(crate) fn remove(tree: &Path) {
    let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(tree).status();
}
