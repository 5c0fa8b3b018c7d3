//! What takes long to make or to fetch, and is kept between runs: below cargo's target folder, not in memory, nor on an
//! overlay.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::skip;

/// A file or a folder that is made once: `make` makes it at the path that it is given, or says why it can't. `None`,
/// said, where that fails. `ORLOP_KEPT` names another folder for all of them.
pub fn kept(name: &str, topic: &str, make: impl FnOnce(&Path) -> Result<(), String>) -> Option<PathBuf> {
    let here = || std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("orlop-kept");
    let folder = std::env::var_os("ORLOP_KEPT").map_or_else(here, PathBuf::from);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    // Another test may be making it.
    let lock = File::create(folder.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if path.exists() {
        return Some(path);
    }
    let partial = folder.join(format!("partial-{name}"));
    let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&partial).status();
    if let Err(why) = make(&partial) {
        skip(&format!("{topic}: no {name}: {why}"));
        return None;
    }
    fs::rename(partial, &path).unwrap();
    Some(path)
}

/// A tar of a minimal Debian 12 with these packages; `None`, said, where it can't be had.
pub fn debian(name: &str, packages: &[&str], topic: &str) -> Option<PathBuf> {
    let include = format!("--include={}", packages.join(","));
    kept(&format!("{name}.tar"), topic, |tar| mmdebstrap(&["--variant=minbase", &include, "bookworm"], tar))
}

/// Makes a Debian root, in a folder or as a tar, which takes a network.
///
/// # Errors
/// Why there is none.
pub fn mmdebstrap(arguments: &[&str], target: &Path) -> Result<(), String> {
    let log = target.with_extension("log");
    let output = File::create(&log).unwrap();
    let made = Command::new("timeout")
        .args(["-s", "KILL", "900", "mmdebstrap"])
        .args(arguments)
        .arg(target)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status();
    match made {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let text = fs::read_to_string(&log).unwrap_or_default();
            Err(format!("mmdebstrap: {status}: {}", text.lines().last().unwrap_or_default()))
        }
        Err(e) => Err(format!("mmdebstrap: {e}")),
    }
}
