//! Running a program with a limit on its time and keeping what it said.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::world;

/// How long a command may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(15);

/// A command that takes longer may be waiting for an adopted process to be collected.
const PROMPT: Duration = Duration::from_millis(50);

/// The commands that have not been waited for.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// True for the process of a command that has not been waited for.
pub(crate) fn is_running(pid: i32) -> bool {
    let pid = u32::try_from(pid).unwrap_or(0);
    RUNNING.lock().is_ok_and(|running| running.contains(&pid))
}

/// A command line to be run. Its output goes to files, not pipes: a container that outlives the command holds them open.
#[derive(Debug)]
pub(crate) struct Cmd {
    command: Command,
    line: String,
    /// Where the output files go.
    dir: PathBuf,
}

/// What became of a command.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    line: String,
    /// The exit status, or 128 and the number of the signal.
    pub(crate) status: i32,
    /// True when a signal ended the command itself.
    pub(crate) killed: bool,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
    /// From start to end.
    pub(crate) took: Duration,
}

/// A command that still runs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    line: String,
    began: Instant,
    /// Where its standard output goes.
    pub(crate) stdout: PathBuf,
    stderr: PathBuf,
}

impl Cmd {
    /// A command with empty standard input, in its own process group, in the directory `dir`, where its output goes as well.
    pub(crate) fn new(program: &Path, dir: &Path) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0).current_dir(dir);
        let line = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { command, line, dir: dir.to_owned() }
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        for arg in args {
            let arg = arg.as_ref();
            self.line.push(' ');
            self.line.push_str(&arg.to_string_lossy().replace(&*self.dir.to_string_lossy(), "."));
            self.command.arg(arg);
        }
        self
    }

    /// Adds an environment variable.
    pub(crate) fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.command.env(key, value.into());
        self
    }

    /// Empties the environment.
    pub(crate) fn env_clear(mut self) -> Self {
        self.command.env_clear();
        self
    }

    /// Sets the working directory.
    pub(crate) fn cwd(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Gives the command these bytes as standard input.
    pub(crate) fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Result<Self> {
        let path = self.fresh("in");
        std::fs::write(&path, bytes)?;
        self.command.stdin(File::open(path)?);
        Ok(self)
    }

    /// Connects standard input, output and error to a terminal. The output is then read from its other end.
    pub(crate) fn run_on(mut self, terminal: &OwnedFd) -> Result<Running> {
        self.command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal.try_clone()?);
        let (stdout, stderr) = (self.fresh("out"), self.fresh("err"));
        File::create(&stdout)?;
        File::create(&stderr)?;
        self.launch(stdout, stderr)
    }

    /// Starts the command.
    pub(crate) fn spawn(mut self) -> Result<Running> {
        let (stdout, stderr) = (self.fresh("out"), self.fresh("err"));
        self.command.stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        self.launch(stdout, stderr)
    }

    fn launch(mut self, stdout: PathBuf, stderr: PathBuf) -> Result<Running> {
        let began = Instant::now();
        // Under the lock, so that nobody takes the new child for an adopted one.
        let mut running = RUNNING.lock().map_err(|_| anyhow::anyhow!("the list of commands is lost"))?;
        let child = self.command.spawn().with_context(|| self.line.clone())?;
        running.insert(child.id());
        Ok(Running { child, line: self.line, began, stdout, stderr })
    }

    /// Runs the command to its end, whatever that is; a hang is an error.
    pub(crate) fn run(self) -> Result<Done> {
        self.spawn()?.finish()
    }

    fn fresh(&self, kind: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.dir.join(format!("{}.{kind}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Running {
    /// The process id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid()).context("no pid")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// The JSON objects that it has printed so far.
    pub(crate) fn answers(&self) -> Vec<Value> {
        answers(&self.said().0)
    }

    /// Waits for the end; kills what has not ended in time, and says so.
    pub(crate) fn finish(mut self) -> Result<Done> {
        let ended = wait_until(PATIENCE, || {
            if self.began.elapsed() > PROMPT {
                world::reap();
            }
            Ok(self.child.try_wait()?)
        })?;
        let Some(status) = ended else {
            let said = self.said();
            bail!("{}: still running after {PATIENCE:?}; stderr {:?}", self.line, said.1);
        };
        let took = self.began.elapsed();
        let (stdout, stderr) = self.said();
        let killed = status.signal().is_some();
        let status = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        Ok(Done { line: self.line.clone(), status, killed, stdout, stderr, took })
    }

    fn said(&self) -> (String, String) {
        let read = |path: &Path| {
            std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        };
        (read(&self.stdout), read(&self.stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It may end in between; there is nothing else to do about it here.
            let _ = Pid::from_raw(self.pid()).map(|pid| rustix::process::kill_process_group(pid, Signal::KILL));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if let Ok(mut running) = RUNNING.lock() {
            running.remove(&self.child.id());
        }
    }
}

impl Done {
    /// Demands exit status 0.
    pub(crate) fn ok(self) -> Result<Self> {
        ensure!(
            self.status == 0,
            "{}: expected success, saw exit status {}: {}",
            self.line,
            self.status,
            self.complaint()
        );
        Ok(self)
    }

    /// Demands that the command refused by itself: an exit status other than 0, and not death by a signal.
    pub(crate) fn refused(self) -> Result<Self> {
        ensure!(self.status != 0, "{}: expected a refusal, saw success", self.line);
        ensure!(!self.killed, "{}: expected a refusal, saw death by signal {}", self.line, self.status - 128);
        Ok(self)
    }

    /// Demands an exact exit status.
    pub(crate) fn exits(self, status: i32) -> Result<Self> {
        ensure!(
            self.status == status && !self.killed,
            "{}: expected exit status {status}, saw {}{}: {}",
            self.line,
            self.status,
            if self.killed { " by signal" } else { "" },
            self.complaint()
        );
        Ok(self)
    }

    /// Demands that one of these texts is in the complaint.
    pub(crate) fn complains(self, texts: &[&str]) -> Result<Self> {
        ensure!(
            texts.iter().any(|text| self.stderr.contains(text)),
            "{}: expected stderr with {}, saw {:?}",
            self.line,
            texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" or "),
            self.stderr
        );
        Ok(self)
    }

    fn complaint(&self) -> &str {
        if self.stderr.is_empty() { self.stdout.trim() } else { self.stderr.trim() }
    }

    /// The answers of the probe: every line that is a JSON object.
    pub(crate) fn answers(&self) -> Vec<Value> {
        answers(&self.stdout)
    }

    /// The whole output as one JSON document.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("{}: expected JSON, saw {:?}", self.line, self.stdout))
    }
}

/// The JSON object at the end of each line that has one. A terminal may have echoed something before it.
pub(crate) fn answers(text: &str) -> Vec<Value> {
    let objects = text.lines().filter_map(|line| line.get(line.find('{')?..));
    objects.filter_map(|object| serde_json::from_str(object).ok()).collect()
}

/// Asks until there is an answer or the time is up.
pub(crate) fn wait_until<T>(time: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let end = Instant::now() + time;
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An fd that the next command inherits under the same number.
pub(crate) fn inheritable(fd: impl AsFd, at_least: i32) -> Result<OwnedFd> {
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, at_least)?;
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(status: i32, killed: bool) -> Done {
        let said = String::new();
        Done { line: "rt".into(), status, killed, stdout: said.clone(), stderr: said, took: Duration::ZERO }
    }

    #[test]
    fn death_by_a_signal_is_neither_success_nor_refusal() {
        assert!(done(137, true).refused().is_err());
        assert!(done(137, true).exits(137).is_err());
        assert!(done(137, false).exits(137).is_ok());
        assert!(done(1, false).refused().is_ok());
        assert!(done(0, false).refused().is_err());
    }

    #[test]
    fn only_lines_that_are_objects_are_answers() {
        assert_eq!(answers("hello\n^C{\"ok\":true}\n3\n{half\n"), [serde_json::json!({ "ok": true })]);
    }

    #[test]
    fn waiting_ends_when_the_time_is_up() {
        assert!(wait_until(Duration::from_millis(5), || Ok(None::<()>)).unwrap().is_none());
    }
}
