//! `cargo xtask install`

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build;

/// What people call: each prints its own completions and writes its own manual pages.
const PROGRAMS: [&str; 3] = ["orlop", "orlop-bundle", "orlop-shim"];

/// What containerd calls.
const SHIM: &str = "containerd-shim-orlop-v2";

/// Shell, and where its completions are looked for below the prefix: the folder, and what stands around the name.
const COMPLETIONS: [(&str, &str, &str, &str); 3] = [
    ("bash", "share/bash-completion/completions", "", ""),
    ("zsh", "share/zsh/site-functions", "_", ""),
    ("fish", "share/fish/vendor_completions.d", "", ".fish"),
];

/// Installs the release build below `destdir`/`prefix`.
pub(crate) fn run(prefix: &Path, destdir: Option<&Path>) -> Result<()> {
    let built = build::release(&["orlop", "orlop-bundle", "orlop-shim"])?;
    let base = staged(prefix, destdir);
    place(&fs::read(build::program(&built, SHIM)?)?, &base.join("bin").join(SHIM), 0o755)?;
    let man = base.join("share/man/man8");
    fs::create_dir_all(&man).with_context(|| man.display().to_string())?;
    for name in PROGRAMS {
        let program = build::program(&built, name)?;
        place(&fs::read(program)?, &base.join("bin").join(name), 0o755)?;
        for (shell, folder, before, after) in COMPLETIONS {
            let output = Command::new(program).args(["completion", shell]).output();
            let output = output.with_context(|| format!("{name} completion"))?;
            ensure!(output.status.success(), "{name} completion {shell}: {}", output.status);
            place(&output.stdout, &base.join(folder).join(format!("{before}{name}{after}")), 0o644)?;
        }
        let status = Command::new(program).arg("man").arg(&man).status().with_context(|| format!("{name} man"))?;
        ensure!(status.success(), "{name} man: {status}");
    }
    println!("{}/", man.display());
    Ok(())
}

/// `prefix` as seen from outside the package's root.
fn staged(prefix: &Path, destdir: Option<&Path>) -> PathBuf {
    destdir.map_or_else(|| prefix.to_owned(), |dir| dir.join(prefix.strip_prefix("/").unwrap_or(prefix)))
}

/// Writes the file beside its place and renames it, so that a runtime in use is replaced, not written into (ETXTBSY).
fn place(bytes: &[u8], path: &Path, mode: u32) -> Result<()> {
    let written = (|| {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        let new = path.with_extension("new");
        fs::write(&new, bytes)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
        fs::rename(&new, path)
    })();
    written.with_context(|| path.display().to_string())?;
    println!("{}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_prefix_stays_below_the_staging_folder() {
        assert_eq!(staged(Path::new("/usr"), Some(Path::new("/tmp/p"))), Path::new("/tmp/p/usr"));
        assert_eq!(staged(Path::new("/usr"), None), Path::new("/usr"));
    }
}
