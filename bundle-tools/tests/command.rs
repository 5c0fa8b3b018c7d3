//! The program as scripts see it: what goes to which stream, and with which status it ends.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers are part of the tests; the paths are their own"
)]

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A store of its own for one test, removed at its end.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("orlop-bundle-command-{}-{name}", std::process::id()));
        Self(path)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orlop-bundle"));
        command.args(line.split(' ').filter(|word| !word.is_empty()));
        command.env("ORLOP_STORE", &self.0).env("HOME", &self.0).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Nothing is mounted in it. What can't be removed stays in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn an_empty_store_has_tables_with_heads_and_documents_with_nothing_in_them() {
    let home = Home::new("empty");
    for (line, out) in [
        ("images", "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n"),
        ("images --digests", "REPOSITORY   TAG       DIGEST    IMAGE ID   CREATED   SIZE\n"),
        ("images --json", "[]\n"),
        ("images -q", ""),
        ("images --format {{.ID}}", ""),
        ("prune -f", "Total reclaimed space: 0B\n"),
        ("verify -q", ""),
    ] {
        let done = home.run(line);
        assert_eq!((text(&done.stdout), text(&done.stderr)), (out, ""), "{line}");
        assert!(done.status.success(), "{line}");
    }
}

#[test]
fn an_error_is_one_line_on_standard_error_with_status_1() {
    let home = Home::new("errors");
    for (line, said) in [
        ("inspect nosuch", "orlop-bundle: inspect nosuch: no such image\n"),
        ("history nosuch:1", "orlop-bundle: history nosuch:1: no such image\n"),
        ("tag nosuch b", "orlop-bundle: tag nosuch: no such image\n"),
        ("images --format {{.ID", "orlop-bundle: images: format: 1:3: the action has no end: }} is missing\n"),
        ("prune", "orlop-bundle: prune: standard input is no terminal to ask on; use -f\n"),
        ("import - ", "orlop-bundle: import -: standard input has no name; give one\n"),
        (
            "login registry.example",
            "orlop-bundle: login registry.example: standard input is no terminal to ask on; use -u and --password-stdin\n",
        ),
    ] {
        let done = home.run(line);
        assert_eq!((text(&done.stdout), text(&done.stderr)), ("", said), "{line}");
        assert_eq!(done.status.code(), Some(1), "{line}");
    }
    // Of several, each is told of.
    let done = home.run("rmi a b");
    assert_eq!(text(&done.stderr), "orlop-bundle: rmi a: no such image\norlop-bundle: rmi b: no such image\n");
    assert!(home.run("rmi -f a b").status.success());
}

#[test]
fn a_command_line_that_cannot_be_meant_ends_with_status_2_and_help_with_0() {
    let home = Home::new("usage");
    for line in ["", "nosuch", "tag a", "images --nosuch", "history --format x --json a"] {
        let done = home.run(line);
        assert_eq!(done.status.code(), Some(2), "{line}");
        assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{line}");
    }
    for line in ["--help", "images --help", "--version", "completion zsh"] {
        let done = home.run(line);
        assert_eq!(done.status.code(), Some(0), "{line}");
        assert!(!done.stdout.is_empty() && done.stderr.is_empty(), "{line}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = Home::new("reader");
    let mut child = home.command("completion bash").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Closed before anything is read of it.
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((said.as_str(), child.wait().unwrap().code()), ("", Some(0)));
}

#[test]
fn manual_pages_are_put_into_a_folder_for_everybody_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new("manual");
    assert!(home.run("images").status.success());
    let folder = home.0.to_str().unwrap();
    let done = home.run(&format!("man {folder}"));
    assert_eq!((text(&done.stderr), done.status.code()), ("", Some(0)));
    for page in ["orlop-bundle.8", "orlop-bundle-pull.8", "orlop-bundle-history.8"] {
        let found = std::fs::metadata(home.0.join(page)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o644, "{page}");
    }
}
