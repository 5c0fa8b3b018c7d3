//! Daemons to measure with, which end with their values.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Runs a command that must succeed, and says how many milliseconds it took.
pub(super) fn timed(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}: {}", command.get_program(), output.status, said.trim());
    Ok(ms)
}

/// A server that ends with its value.
pub(super) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn serve(command: &mut Command, log: &Path) -> Result<Server> {
    let output = fs::File::create(log)?;
    let child = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn();
    Ok(Server(child.with_context(|| format!("{:?}", command.get_program()))?))
}

pub(super) fn answers(what: &str, mut so: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        ensure!(Instant::now() < end, "{what} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A containerd of our own.
pub(super) struct Containerd {
    socket: String,
    _server: Server,
}

impl Containerd {
    /// One that works below `dir`, and looks for shims in `programs` first.
    pub(super) fn start(dir: &Path, programs: Option<&Path>) -> Result<Self> {
        let dir = dir.join("containerd");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("config.toml"), "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")?;
        // A socket's path has at most 107 bytes.
        let socket = format!("/tmp/orlop-bench-{}.sock", std::process::id());
        let mut command = Command::new("containerd");
        command.arg("--config").arg(dir.join("config.toml")).arg("--root").arg(dir.join("root"));
        command.arg("--state").arg(dir.join("state")).args(["--address", &socket]);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = programs.map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(path)?);
        let this = Self { socket, _server: serve(&mut command, &dir.join("log"))? };
        answers("containerd", || this.ctr().arg("version").output().is_ok_and(|o| o.status.success()))?;
        Ok(this)
    }

    pub(super) fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.socket]);
        command
    }

    /// Removes all images with what was unpacked of them.
    pub(super) fn forget(&self) {
        let names = self.ctr().args(["images", "ls", "-q"]).output().map(|o| o.stdout).unwrap_or_default();
        for name in String::from_utf8_lossy(&names).lines() {
            // What can't be removed makes the next figure better, if anything.
            let _ = timed(self.ctr().args(["images", "rm", "--sync", name]));
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for end in ["", ".ttrpc"] {
            let _ = fs::remove_file(format!("{}{end}", self.socket));
        }
    }
}
