//! conmon, which keeps Podman's and CRI-O's containers, as they run it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::super::daemons::timed;
use super::engine::Engine;

/// conmon with a runtime.
#[derive(Debug, Clone)]
pub(super) struct Conmon {
    pub(super) name: String,
    pub(super) runtime: PathBuf,
}

/// A container that runs, and its conmon.
pub(super) struct Monitor<'a> {
    engine: &'a Engine,
    conmon: &'a Conmon,
    id: String,
    pub(super) pid: Pid,
}

impl Conmon {
    /// Creates and starts a container.
    pub(super) fn run<'a>(&'a self, engine: &'a Engine, id: &str, program: &str) -> Result<Monitor<'a>> {
        let bundle = engine.bundle(id, program)?;
        let file = |name: &str| bundle.join(name);
        for stale in ["pid", "conmon.pid"] {
            // Of a conmon before, if there was one.
            let _ = fs::remove_file(file(stale));
        }
        let mut command = Command::new("conmon");
        command.args(["-c", id, "-u", id, "-n", id, "-b"]).arg(&bundle);
        command.arg("-r").arg(&self.runtime).arg("-p").arg(file("pid")).arg("-P").arg(file("conmon.pid"));
        command.arg("--exit-dir").arg(&bundle).arg("--socket-dir-path").arg(&bundle);
        command.arg("-l").arg(format!("k8s-file:{}", file("k8s.log").display()));
        command.args(["--runtime-arg", "--root", "--runtime-arg"]).arg(engine.state(&self.name));
        // What it leaves behind keeps these streams.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        ensure!(status.context("conmon")?.success(), "conmon failed");
        let end = Instant::now() + Duration::from_secs(10);
        while fs::read_to_string(file("pid")).unwrap_or_default().is_empty() {
            ensure!(Instant::now() < end, "conmon made no container");
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = fs::read_to_string(file("conmon.pid"))?.trim().parse().map(Pid::from_raw)?;
        let monitor = Monitor { engine, conmon: self, id: id.to_owned(), pid };
        timed(monitor.runtime("start").arg(id))?;
        Ok(monitor)
    }
}

impl Monitor<'_> {
    fn runtime(&self, command: &str) -> Command {
        let mut runtime = Command::new(&self.conmon.runtime);
        runtime.arg("--root").arg(self.engine.state(&self.conmon.name)).arg(command);
        runtime
    }
}

impl Drop for Monitor<'_> {
    /// Ends the container, and conmon with it.
    fn drop(&mut self) {
        let deleted = timed(self.runtime("delete").args(["--force", &self.id]));
        if deleted.is_err() {
            let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = waitpid(self.pid, None);
    }
}
