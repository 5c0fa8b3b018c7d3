//! What containerd does with a shim: it runs `start`, calls its methods, hears its events, and runs `delete` when it is
//! gone. Only faster, so that what is measured is the shim.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use orlop_shim::client::{self, Client, number};
use orlop_shim::message::any;
use orlop_shim::wire::Message;
use serde_json::Value;

use super::super::bundle::Bundles;

/// A call that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);
const KILL: u32 = 9;

/// A shim under measurement, with its runtime.
#[derive(Debug, Clone)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) shim: PathBuf,
    /// What the shim is to run; nothing for one that has the runtime in it.
    pub(super) runtime: Option<PathBuf>,
}

/// The stand-in for containerd.
#[derive(Debug)]
pub(super) struct Engine {
    base: PathBuf,
    pub(super) bundles: Bundles,
    /// The cgroup below which all containers have theirs; nobody else's.
    cgroups: String,
}

/// A shim that serves, with a container or none.
#[derive(Debug)]
pub(super) struct Shim<'a> {
    engine: &'a Engine,
    tool: &'a Tool,
    id: String,
    service: &'static str,
    client: Client,
    pub(super) pid: Pid,
    /// How long `start` took until its output had ended.
    pub(super) started: Duration,
    /// What it has to say, which nobody reads.
    _log: File,
    /// It ends in order.
    ended: bool,
}

impl Engine {
    /// One that works below `base`, and hears of events from now on. Its containers have cgroups below `cgroups`.
    pub(super) fn new(base: &Path, cgroups: &str) -> Result<Self> {
        let engine = Self { base: base.to_owned(), bundles: Bundles::write(base)?, cgroups: cgroups.to_owned() };
        let listener = UnixListener::bind(engine.events())?;
        // Until this process ends.
        std::thread::spawn(move || client::hear(&listener, |_, _| {}));
        Ok(engine)
    }

    /// Writes a bundle with the program that its container is to run.
    pub(super) fn bundle(&self, id: &str, program: &str) -> Result<PathBuf> {
        self.bundles.container(id, program, &self.cgroups)
    }

    fn events(&self) -> PathBuf {
        self.base.join("events")
    }

    /// Where the runtime of a tool keeps its state.
    pub(super) fn state(&self, tool: &str) -> PathBuf {
        self.base.join("state").join(tool.replace(", ", "-"))
    }

    fn command(&self, tool: &Tool, id: &str) -> Command {
        let mut command = Command::new(&tool.shim);
        // The address is part of the socket's name only.
        command.args(["-namespace", "bench", "-address"]).arg(self.base.join("containerd.sock"));
        command.args(["-publish-binary", "/bin/true", "-id", id]).current_dir(self.bundles.get(id));
        command.env("GOMAXPROCS", "2").env("TTRPC_ADDRESS", self.events());
        command
    }

    fn options(&self, tool: &Tool) -> Message {
        let runtime = tool.runtime.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let state = self.state(&tool.name).display().to_string();
        any("containerd.runc.v1.Options", &Message::new().text(6, &runtime).text(7, &state).0)
    }

    /// Starts a shim for the container `id`, whose bundle is written with the program that it is to run.
    pub(super) fn start<'a>(&'a self, tool: &'a Tool, id: &str, program: &str) -> Result<Shim<'a>> {
        let log = self.bundle(id, program)?.join("log");
        match nix::unistd::mkfifo(&log, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(why) => return Err(why.into()),
        }
        let log = File::options().read(true).write(true).open(log)?;
        let mut command = self.command(tool, id);
        command.arg("start").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let options = self.options(tool);
        let since = Instant::now();
        let mut child = command.spawn().with_context(|| tool.shim.display().to_string())?;
        child.stdin.take().context("stdin")?.write_all(&options.0)?;
        let output = child.wait_with_output()?;
        let started = since.elapsed();
        ensure!(output.status.success(), "start: {}", String::from_utf8_lossy(&output.stderr).trim());
        let (address, service) = parse_address(&String::from_utf8_lossy(&output.stdout));
        let client = Client::new(&address, PATIENCE).context(address)?;
        // Until it has said who it is there is nothing to be killed.
        let mut shim = Shim {
            engine: self,
            tool,
            id: id.to_owned(),
            service,
            client,
            pid: Pid::this(),
            started,
            _log: log,
            ended: true,
        };
        let connected = shim.call("Connect", &Message::new().text(1, id))?;
        shim.pid = Pid::from_raw(i32::try_from(number(&connected, 1))?);
        shim.ended = false;
        Ok(shim)
    }
}

/// The address in what `start` printed, and the service behind it.
fn parse_address(printed: &str) -> (String, &'static str) {
    let said: Value = serde_json::from_str(printed).unwrap_or_default();
    let address = said.get("address").and_then(Value::as_str).unwrap_or(printed.trim()).to_owned();
    let newer = said.get("version").and_then(Value::as_u64).is_some_and(|version| version >= 3);
    (address, if newer { "containerd.task.v3.Task" } else { "containerd.task.v2.Task" })
}

impl Shim<'_> {
    fn send(&mut self, method: &str, payload: &Message) -> Result<u32> {
        Ok(self.client.send(self.service, method, payload)?)
    }

    fn receive(&mut self, stream: u32, method: &str) -> Result<Vec<u8>> {
        let answer = self.client.receive(stream).with_context(|| method.to_owned())?;
        answer.map_err(|(code, text)| anyhow!("{method}: {text} (code {code})"))
    }

    fn call(&mut self, method: &str, payload: &Message) -> Result<Vec<u8>> {
        let stream = self.send(method, payload)?;
        self.receive(stream, method)
    }

    /// Makes the container, with FIFOs for its output and its errors or none.
    pub(super) fn create(&mut self, fifos: Option<[&Path; 2]>) -> Result<()> {
        self.create_more(&self.id.clone(), fifos)
    }

    /// Makes another container, as for a pod. Its bundle is there.
    pub(super) fn create_more(&mut self, id: &str, fifos: Option<[&Path; 2]>) -> Result<()> {
        let bundle = self.engine.bundles.get(id).display().to_string();
        let [stdout, stderr] = fifos.map(|paths| paths.map(|path| path.display().to_string())).unwrap_or_default();
        let request = Message::new().text(1, id).text(2, &bundle).text(6, &stdout).text(7, &stderr);
        self.call("Create", &request.message(10, &self.engine.options(self.tool)))?;
        Ok(())
    }

    pub(super) fn start(&mut self) -> Result<()> {
        self.start_more(&self.id.clone())
    }

    pub(super) fn start_more(&mut self, id: &str) -> Result<()> {
        self.call("Start", &Message::new().text(1, id))?;
        Ok(())
    }

    /// Runs `program` in the container, to its end, and forgets it.
    pub(super) fn exec(&mut self, program: &str) -> Result<()> {
        let process = self.engine.bundles.process(program).to_string();
        let spec = any("types.containerd.io/opencontainers/runtime-spec/1/Process", process.as_bytes());
        let exec = Message::new().text(1, &self.id).text(2, "e");
        self.call("Exec", &exec.clone().message(7, &spec))?;
        let wait = self.send("Wait", &exec)?;
        self.call("Start", &exec)?;
        let waited = self.receive(wait, "Wait")?;
        ensure!(number(&waited, 1) == 0, "exec: exit status {}", number(&waited, 1));
        self.call("Delete", &exec)?;
        Ok(())
    }

    /// Waits until the container has ended by itself.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.call("Wait", &Message::new().text(1, &self.id))?;
        Ok(())
    }

    /// Kills the container's first process, waits for its end and deletes the container.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.kill_more(&self.id.clone())
    }

    pub(super) fn kill_more(&mut self, id: &str) -> Result<()> {
        let container = Message::new().text(1, id);
        let wait = self.send("Wait", &container)?;
        self.call("Kill", &container.clone().number(3, KILL))?;
        self.receive(wait, "Wait")?;
        self.call("Delete", &container)?;
        Ok(())
    }

    /// Deletes the container, which has ended.
    pub(super) fn delete(&mut self) -> Result<()> {
        self.call("Delete", &Message::new().text(1, &self.id))?;
        Ok(())
    }

    /// Lets the shim end, and runs `delete` after it, as containerd does for each container.
    pub(super) fn end(mut self) -> Result<()> {
        let shutdown = self.send("Shutdown", &Message::new().text(1, &self.id).flag(2, true))?;
        // A shim may be gone before its answer is.
        let _ = self.client.receive(shutdown);
        let hung = Instant::now() + PATIENCE;
        while waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).context("waiting for the shim")? == WaitStatus::StillAlive {
            ensure!(Instant::now() < hung, "the shim does not end");
            std::thread::sleep(Duration::from_micros(100));
        }
        self.ended = true;
        self.clean()
    }

    /// Kills the shim and runs `delete`, which then has a container to end. How long that took.
    pub(super) fn crash(mut self) -> Result<Duration> {
        kill(self.pid, Signal::SIGKILL)?;
        waitpid(self.pid, None).context("waiting for the shim")?;
        self.ended = true;
        let since = Instant::now();
        self.clean()?;
        Ok(since.elapsed())
    }

    fn clean(&self) -> Result<()> {
        let mut command = self.engine.command(self.tool, &self.id);
        command.arg("-bundle").arg(self.engine.bundles.get(&self.id)).arg("delete").stdin(Stdio::null());
        let output = command.output()?;
        if !output.status.success() {
            bail!("delete: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Drop for Shim<'_> {
    /// After a failure.
    fn drop(&mut self) {
        if !self.ended {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
            let _ = self.clean();
        }
    }
}

/// The size of a process in memory, in KiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Memory {
    pub(super) dirty: f64,
    pub(super) pss: f64,
    pub(super) rss: f64,
}

impl Memory {
    pub(super) fn of(pid: Pid) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        Self::parse(&fs::read_to_string(&path).with_context(|| path.clone())?).context(path)
    }

    fn parse(rollup: &str) -> Option<Self> {
        let kib = |name: &str| -> Option<f64> {
            rollup.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok())
        };
        Some(Self { dirty: kib("Private_Dirty:")?, pss: kib("Pss:")?, rss: kib("Rss:")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_plain_or_in_json() {
        for (printed, want) in [
            ("unix:///run/s/a\n", ("unix:///run/s/a", "containerd.task.v2.Task")),
            (r#"{"version":2,"address":"unix:///a","protocol":"ttrpc"}"#, ("unix:///a", "containerd.task.v2.Task")),
            (r#"{"version":3,"address":"unix:///a","protocol":"ttrpc"}"#, ("unix:///a", "containerd.task.v3.Task")),
        ] {
            let (address, service) = parse_address(printed);
            assert_eq!((address.as_str(), service), want);
        }
    }

    #[test]
    fn memory_is_read_from_the_sums_of_all_mappings() {
        let rollup = "00400000-7ffc r--p 0 0 0 [rollup]\nRss:    1368 kB\nPss:   246 kB\nPss_Dirty:  99 kB\n\
            Private_Dirty:       164 kB\n";
        assert_eq!(Memory::parse(rollup), Some(Memory { dirty: 164.0, pss: 246.0, rss: 1368.0 }));
        assert_eq!(Memory::parse(""), None);
    }
}
