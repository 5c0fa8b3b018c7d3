//! `cargo xtask test`

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::failures::{self, Failure};

/// What `cargo xtask test` can be told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run the long forms too (the tests see ORLOP_LONG=1).
    #[arg(long)]
    long: bool,
    /// Only tests whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Install nothing, even as root.
    #[arg(long, conflicts_with = "only_install")]
    no_install: bool,
    /// Install what the tests need, and run none.
    #[arg(long)]
    only_install: bool,
}

/// A Debian package that tests need, and a path or a program that says it is there.
const PACKAGES: [(&str, &str); 23] = [
    ("libseccomp-dev", "/usr/include/seccomp.h"),
    ("crun", "crun"),
    ("runc", "runc"),
    ("busybox-static", "busybox"),
    ("strace", "strace"),
    ("uidmap", "newuidmap"),
    ("mmdebstrap", "mmdebstrap"),
    ("jq", "jq"),
    ("umoci", "umoci"),
    ("skopeo", "skopeo"),
    ("buildah", "buildah"),
    ("docker-registry", "docker-registry"),
    ("apache2-utils", "htpasswd"),
    ("containerd", "containerd"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("docker.io", "dockerd"),
    ("podman", "podman"),
    ("aardvark-dns", "/usr/lib/podman/aardvark-dns"),
    ("catatonit", "catatonit"),
    ("netavark", "/usr/lib/podman/netavark"),
    ("npm", "npm"),
    ("python3-pip", "pip3"),
    ("pkg-config", "pkg-config"),
];

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// How all suites together ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No test failed.
    Passed,
    /// At least one did.
    Failed,
}

/// Runs every suite; the last line of the output is the sum of their counts.
pub(crate) fn run(options: &Options) -> Result<Verdict> {
    let root = nix::unistd::geteuid().is_root();
    install_missing(root && !options.no_install)?;
    if options.only_install {
        return Ok(Verdict::Passed);
    }
    let built = build::release(&["orlop", "orlop-bundle", "orlop-shim", "orlop-conformance", "orlop-probe"])?;
    let orlop = build::program(&built, "orlop")?;
    let suite = build::program(&built, "orlop-conformance")?;

    // As this host mounts its cgroups; and v2 alone, if that is not the same.
    let pure_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let views: &[&str] = if pure_v2 { &["v2"] } else { &["host", "v2"] };

    let (mut sum, mut failed) = (Counts::default(), Vec::new());
    let mut cargo = build::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]).args(&options.filter);
    cargo.env("ORLOP_RUNTIME", orlop).env("ORLOP_BUNDLE", build::program(&built, "orlop-bundle")?);
    if options.long {
        cargo.env("ORLOP_LONG", "1");
    }
    sum += suite_run("workspace", &mut cargo, Judge::Libtest, &mut failed)?;

    for view in views {
        let mut command = conformance(suite, orlop, view, options);
        sum += suite_run(&format!("conformance-orlop-{view}"), &mut command, Judge::Closing, &mut failed)?;
    }
    // What the peers do with the same cases, for comparison: their failures are theirs.
    for peer in ["crun", "runc"] {
        let Some(path) = build::find(peer) else {
            println!("{peer} is not installed: not compared");
            continue;
        };
        // crun 1.8, which Debian 12 has, refuses hosts that mount v1 beside v2.
        for view in views.iter().filter(|view| peer == "runc" || **view == "v2") {
            let mut command = conformance(suite, &path, view, options);
            command.arg("--known");
            suite_run(&format!("conformance-{peer}-{view}"), &mut command, Judge::Peer, &mut failed)?;
        }
    }

    // A filter may match nothing by mistake, and a runner that runs nothing must not look like success.
    ensure!(sum.passed + sum.failed > 0, "no test ran");
    if sum.failed > 0 {
        println!("\nlogs: {}", build::scratch()?.display());
        print!("{}", failures::summary(&failed));
    }
    println!("\n{sum}");
    Ok(if sum.failed == 0 { Verdict::Passed } else { Verdict::Failed })
}

fn conformance(suite: &Path, runtime: &Path, view: &str, options: &Options) -> Command {
    let mut command = Command::new(suite);
    command.arg("--runtime").arg(runtime).args(["--tap", "--view", view]);
    if let Some(filter) = &options.filter {
        command.args(["--filter", filter]);
    }
    command
}

/// How a suite's output is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judge {
    /// cargo test's `test result:` lines; a test that skips itself prints `SKIP: reason`.
    Libtest,
    /// TAP and a closing line of counts.
    Closing,
    /// The same, of a runtime that is not ours: shown, not judged.
    Peer,
}

/// Runs one suite with its output in a log, and shows what matters of it. What failed of ours is added to `failed`.
fn suite_run(name: &str, command: &mut Command, judge: Judge, failed: &mut Vec<Failure>) -> Result<Counts> {
    println!("== {name}");
    let path = build::scratch()?.join(format!("{name}.log"));
    let mut log = File::create(&path).with_context(|| path.display().to_string())?;
    let started = Instant::now();
    // Both streams on one pipe, so that the log has them in order.
    let (output, input) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let mut child = command.spawn().with_context(|| format!("{:?}", command.get_program()))?;
    // The command holds the pipe's writing end, and would keep it open.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut text = String::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(log, "{line}")?;
        if let Some(line) = shown(&line, judge) {
            println!("   {line}");
        }
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait()?;

    let counted = if judge == Judge::Libtest { Some(libtest_counts(&text)) } else { closing_counts(&text) };
    let mut counts = counted.unwrap_or_default();
    let mut found = match judge {
        Judge::Libtest => failures::of_libtest(&text),
        Judge::Closing => failures::of_tap(name, &text),
        Judge::Peer => Vec::new(),
    };
    // A crash, a build error, or a suite without a closing line is a failure even if no test says so.
    if judge != Judge::Peer && found.is_empty() && (!status.success() || counted.is_none()) {
        println!("   {name} ended with {status}");
        found.push(Failure::of_suite(name, &text));
    }
    if judge != Judge::Peer {
        counts.failed = counts.failed.max(u32::try_from(found.len()).unwrap_or(u32::MAX));
    }
    failed.append(&mut found);
    let took = started.elapsed().as_secs_f64();
    match judge {
        Judge::Peer => {
            println!("   {} passed, {} differ, {} skipped in {took:.1} s", counts.passed, counts.failed, counts.skipped)
        }
        Judge::Libtest | Judge::Closing => println!("   {counts} in {took:.1} s"),
    }
    Ok(counts)
}

/// What of a line is shown while the suite runs. A peer's failure is worded so that nobody takes it for one of ours.
fn shown(line: &str, judge: Judge) -> Option<String> {
    let line = line.trim();
    let worth = match judge {
        Judge::Libtest => {
            ["Running ", "Doc-tests ", "test result:", "SKIP: ", "error:", "error["]
                .iter()
                .any(|start| line.starts_with(start))
                || (line.starts_with("test ") && line.ends_with("FAILED"))
        }
        Judge::Closing => line.starts_with("not ok") || line.contains("# SKIP") || line.starts_with("SKIP: "),
        Judge::Peer => return failures::tap_case(line).map(|case| format!("peer differs: {case}")),
    };
    worth.then(|| line.to_owned())
}

/// Sums the `test result:` lines. A test that skips itself passes for libtest; here it counts as skipped.
fn libtest_counts(text: &str) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        counts.passed += number_before(line, "passed");
        counts.failed += number_before(line, "failed");
        counts.skipped += number_before(line, "ignored");
    }
    let skips = text.lines().filter(|line| line.starts_with("SKIP: ")).count();
    let skips = u32::try_from(skips).unwrap_or(u32::MAX).min(counts.passed);
    counts.passed -= skips;
    counts.skipped += skips;
    counts
}

/// The last line that is nothing but counts.
fn closing_counts(text: &str) -> Option<Counts> {
    text.lines().rev().map(str::trim).find_map(|line| {
        let counts = Counts {
            passed: number_before(line, "passed"),
            failed: number_before(line, "failed"),
            skipped: number_before(line, "skipped"),
        };
        (line == counts.to_string()).then_some(counts)
    })
}

/// The number right before `word`, as in `3 passed`; 0 without one.
fn number_before(line: &str, word: &str) -> u32 {
    let mut previous = "";
    for part in line.split([' ', ',', ';', '.']).filter(|part| !part.is_empty()) {
        if part == word {
            return previous.parse().unwrap_or(0);
        }
        previous = part;
    }
    0
}

/// Installs the packages that are missing, or says that they are.
fn install_missing(may_install: bool) -> Result<()> {
    let there =
        |probe: &str| if probe.starts_with('/') { PathBuf::from(probe).exists() } else { build::find(probe).is_some() };
    let missing: Vec<_> = PACKAGES.iter().filter(|(_, probe)| !there(probe)).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !may_install || build::find("apt-get").is_none() {
        println!("not installed: {} (tests that need them will say so)", missing.join(" "));
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let apt = |args: &[&str]| {
        Command::new("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("apt-get")
    };
    let install = [&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat();
    // With the lists that are there first: mostly they will do.
    if !apt(&install)?.success() {
        ensure!(apt(&["update", "-qq"])?.success(), "apt-get update failed");
        ensure!(apt(&install)?.success(), "apt-get install {} failed", missing.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_test_programs_are_added_and_skips_moved() {
        let text = "test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            SKIP: not root\n\
            test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.10s\n";
        assert_eq!(libtest_counts(text), Counts { passed: 7, failed: 3, skipped: 2 });
        assert_eq!(libtest_counts(""), Counts::default());
    }

    #[test]
    fn a_line_is_shown_by_what_it_says_of_whom() {
        for (line, judge, want) in [
            ("test a ... FAILED", Judge::Libtest, Some("test a ... FAILED")),
            ("test a ... ok", Judge::Libtest, None),
            ("     Running tests/a.rs (deps/a-0)", Judge::Libtest, Some("Running tests/a.rs (deps/a-0)")),
            ("not ok 3 - a/b", Judge::Closing, Some("not ok 3 - a/b")),
            ("ok 3 - a/b", Judge::Closing, None),
            ("ok 3 - a/b # SKIP why", Judge::Closing, Some("ok 3 - a/b # SKIP why")),
            ("not ok 3 - a/b", Judge::Peer, Some("peer differs: a/b")),
            ("not ok 3 - a/b # TODO known", Judge::Peer, None),
            ("ok 3 - a/b # SKIP why", Judge::Peer, None),
        ] {
            assert_eq!(shown(line, judge).as_deref(), want, "{line}");
        }
    }

    #[test]
    fn only_a_line_that_is_nothing_but_counts_closes_a_suite() {
        let counts = Counts { passed: 3, failed: 0, skipped: 1 };
        assert_eq!(closing_counts("ok 1\n3 passed, 0 failed, 1 skipped\n"), Some(counts));
        assert_eq!(closing_counts("# 3 passed, 0 failed, 1 skipped so far\n"), None);
        assert_eq!(closing_counts(""), None);
    }
}
