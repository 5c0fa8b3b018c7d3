//! `cargo xtask peers`

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::build;

/// Makes a Debian sid root with the runtimes and shims that it has, and strace.
pub(crate) fn make(dir: &Path) -> Result<()> {
    if build::find("mmdebstrap").is_none() {
        bail!("mmdebstrap is not installed (apt-get install mmdebstrap)");
    }
    let status = Command::new("mmdebstrap")
        .args(["--variant=minbase", "--include=conmon,containerd,crun,runc,strace"])
        // sid's release file can be past its date on a mirror; only its date is not checked, its signature is.
        .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
        .arg("sid")
        .arg(dir)
        .status()
        .context("mmdebstrap")?;
    ensure!(status.success(), "mmdebstrap: {status}");
    println!("now: cargo xtask bench [--shim] --peer-root {}", dir.display());
    Ok(())
}
