//! Building this workspace's programs, and the folders that they go to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The workspace's top folder.
pub(crate) fn root() -> PathBuf {
    // integration/xtask
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}

/// The cargo that runs this program, else the one in PATH.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Where xtask keeps logs and results.
pub(crate) fn scratch() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let dir = root().join(target).join("xtask");
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}

/// Builds the programs of `packages` as they are shipped, and returns where each is, by name.
pub(crate) fn release(packages: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    eprintln!("building {} (release, static)", packages.join(", "));
    let mut command = cargo();
    command.args(["build", "--release", "--bins", "--message-format=json-render-diagnostics"]);
    for package in packages {
        command.args(["--package", package]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cargo")?;
    ensure!(output.status.success(), "cargo build: {}", output.status);
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The programs that cargo's JSON messages name.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let path = PathBuf::from(message.get("executable")?.as_str()?);
        Some((path.file_name()?.to_str()?.to_owned(), path))
    };
    messages.lines().filter_map(program).collect()
}

/// The program that `release` built under `name`.
pub(crate) fn program<'a>(built: &'a BTreeMap<String, PathBuf>, name: &str) -> Result<&'a Path> {
    built.get(name).map(PathBuf::as_path).with_context(|| format!("cargo built no program named {name}"))
}

/// The first program of that name in PATH, or in the folders where runtimes are that a user's PATH may lack.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_with_an_executable_name_programs() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\nnoise\n\
            {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/orlop\"}\n";
        let found = executables(messages);
        assert_eq!(found.len(), 1);
        assert_eq!(program(&found, "orlop").unwrap(), Path::new("/t/release/orlop"));
        assert!(program(&found, "other").is_err());
    }

    #[test]
    fn the_top_folder_holds_the_workspace_manifest() {
        assert!(root().join("Cargo.lock").is_file());
    }
}
