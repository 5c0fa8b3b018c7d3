//! A Debian root, made once by mmdebstrap and kept.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::scratch;

/// apt and its friends, python3 with its library, bash, ps, ip.
const PACKAGES: &str = "--include=python3,procps,bash,iproute2";

/// Where it is; `None`, said once, when it can't be had. Nobody writes to it: see [`copy`].
pub(crate) fn root() -> Option<&'static Path> {
    static ROOT: OnceLock<Option<PathBuf>> = OnceLock::new();
    ROOT.get_or_init(|| match make() {
        Ok(root) => Some(root),
        Err(why) => {
            println!("SKIP: no Debian root: {why}");
            None
        }
    })
    .as_deref()
}

fn make() -> Result<PathBuf, String> {
    if !fs::read_to_string("/proc/self/status").unwrap().lines().any(|l| l.starts_with("Uid:\t0\t0")) {
        return Err("needs root".into());
    }
    let root = std::env::var_os("ORLOP_DEBIAN_ROOT").map_or_else(|| scratch().join("debian"), PathBuf::from);
    fs::create_dir_all(root.parent().unwrap()).unwrap();
    // Another test program may be making it.
    let lock = File::create(root.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if root.join("usr/bin/python3").exists() {
        return Ok(root);
    }
    let partial = root.with_extension("partial");
    remove(&partial);
    let log = root.with_extension("log");
    let output = File::create(&log).unwrap();
    let made = Command::new("timeout")
        .args(["-s", "KILL", "500", "mmdebstrap", "--variant=apt", PACKAGES, "bookworm"])
        .arg(&partial)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status();
    match made {
        Ok(status) if status.success() => {
            fs::rename(&partial, &root).unwrap();
            Ok(root)
        }
        Ok(status) => {
            let text = fs::read_to_string(&log).unwrap_or_default();
            Err(format!("mmdebstrap: {status}: {}", text.lines().last().unwrap_or_default()))
        }
        Err(e) => Err(format!("mmdebstrap: {e}")),
    }
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
