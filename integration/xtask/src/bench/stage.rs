//! The part of the benchmark that runs in a mount namespace of its own, with one view of the cgroups.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::bundle::Bundles;
use super::stats::Figure;
use crate::build;

/// Where everything is, on a tmpfs of this mount namespace.
pub(super) const BASE: &str = "/run/orlop-bench";
/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The layout of the cgroups that the runtimes see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum View {
    /// The machine's v1 hierarchies.
    V1,
    /// One cgroup2 mount.
    V2,
}

impl View {
    pub(crate) fn name(self) -> &'static str {
        if self == Self::V1 { "v1" } else { "v2" }
    }
}

/// What one stage is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stage {
    pub(crate) view: View,
    pub(crate) runs: usize,
    pub(crate) peer_root: Option<PathBuf>,
    /// Name and path, on the host.
    pub(crate) runtimes: Vec<(String, PathBuf)>,
    /// Names of runtimes to look for in the peer root.
    pub(crate) inside: Vec<String>,
    pub(crate) floor: PathBuf,
    /// Where to leave the results.
    pub(crate) results: PathBuf,
}

/// What a stage found: a figure, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Figure(Figure),
    Failed(String),
}

/// The results of a stage.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) view: View,
    /// Name and version line of each runtime, in the order of the table.
    pub(crate) runtimes: Vec<(String, String)>,
    /// By workload, then by runtime.
    pub(crate) outcomes: BTreeMap<String, BTreeMap<String, Outcome>>,
}

/// Everything that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    Run,
    Cycle,
    Exec,
    State,
    Kill0,
    Delete,
    SeccompCold,
    SeccompCached,
    Syscalls,
    Memory,
    PeakRss,
    Size,
}

impl Workload {
    pub(crate) const ALL: [Self; 12] = [
        Self::Run,
        Self::Cycle,
        Self::Exec,
        Self::State,
        Self::Kill0,
        Self::Delete,
        Self::SeccompCold,
        Self::SeccompCached,
        Self::Syscalls,
        Self::Memory,
        Self::PeakRss,
        Self::Size,
    ];

    /// The name in tables and files.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Run => "run /bin/true",
            Self::Cycle => "create + start + wait + delete",
            Self::Exec => "exec /bin/true",
            Self::State => "state",
            Self::Kill0 => "kill 0",
            Self::Delete => "delete --force, running",
            Self::SeccompCold => "run with seccomp, cold",
            Self::SeccompCached => "run with seccomp, cached",
            Self::Syscalls => "system calls in create",
            Self::Memory => "smallest memory limit",
            Self::PeakRss => "peak RSS of run",
            Self::Size => "size of the binary",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Syscalls => "calls",
            Self::Memory | Self::PeakRss | Self::Size => "KiB",
            _ => "ms",
        }
    }

    /// Whether it is a time, to be sampled; else it is measured once.
    pub(crate) fn is_time(self) -> bool {
        self.unit() == "ms"
    }
}

/// A runtime under measurement.
struct Runtime {
    name: String,
    path: PathBuf,
}

impl Runtime {
    fn state_dir(&self) -> PathBuf {
        Path::new(BASE).join("state").join(&self.name)
    }

    fn id(&self, what: &str) -> String {
        format!("bench-{}-{}-{what}", self.name, std::process::id())
    }

    fn pid_file(&self) -> PathBuf {
        Path::new(BASE).join(format!("{}.pid", self.name))
    }

    fn command(&self, state: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(state).args(args);
        command
    }
}

/// Does what the stage says, in a new mount namespace of this process.
pub(crate) fn run(stage: &str) -> Result<()> {
    let stage: Stage = serde_json::from_str(stage)?;
    let mut results = File::create(&stage.results).context("results")?;
    let floor = fs::read(&stage.floor).context("floor")?;
    let mut programs = vec![("floor".to_owned(), floor)];
    for (name, path) in &stage.runtimes {
        programs.push((name.clone(), fs::read(path).with_context(|| path.display().to_string())?));
    }

    enter(stage.view, stage.peer_root.as_deref()).context("entering the view")?;
    // Orphans, which is what containers are after create, come to this process to be waited for.
    nix::sys::prctl::set_child_subreaper(true)?;

    let bin = Path::new(BASE).join("bin");
    fs::create_dir_all(&bin)?;
    let mut runtimes = Vec::new();
    for (name, bytes) in programs {
        let path = bin.join(&name);
        fs::write(&path, bytes)?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        runtimes.push(Runtime { name, path });
    }
    for name in &stage.inside {
        match build::find(name) {
            Some(path) => runtimes.push(Runtime { name: name.clone(), path }),
            None => eprintln!("  the peer root has no {name}"),
        }
    }
    let order = ["orlop", "floor", "crun", "runc", "youki"];
    runtimes.sort_by_key(|rt| order.iter().position(|name| *name == rt.name).unwrap_or(order.len()));
    let bench = Bench {
        view: stage.view,
        runs: stage.runs,
        bundles: Bundles::write(Path::new(BASE))?,
        watchdog: Watchdog::start(),
        runtimes,
    };
    serde_json::to_writer_pretty(&mut results, &bench.measure()?)?;
    results.flush()?;
    Ok(())
}

/// Moves this process into a mount namespace with the view, and with the peer root as / if there is one.
pub(super) fn enter(view: View, peer_root: Option<&Path>) -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let root = peer_root.unwrap_or(Path::new("/"));
    if peer_root.is_some() {
        mount(Some(root), root, none, MsFlags::MS_BIND, none).context("bind the root")?;
        mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), none).context("proc")?;
        mount_dev(&root.join("dev")).context("dev")?;
        mount(Some("sysfs"), &root.join("sys"), Some("sysfs"), MsFlags::empty(), none).context("sys")?;
    }
    let cgroup = root.join("sys/fs/cgroup");
    match view {
        View::V2 => {
            if peer_root.is_none() {
                // Each umount takes one layer off; lazily, as the hierarchies are in use elsewhere.
                while umount2(&cgroup, MntFlags::MNT_DETACH).is_ok() {}
            }
            mount(Some("cgroup2"), &cgroup, Some("cgroup2"), MsFlags::empty(), none).context("cgroup2")?;
        }
        View::V1 => {
            if peer_root.is_some() {
                let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
                mount(Some("/sys/fs/cgroup"), &cgroup, none, flags, none).context("cgroups")?;
            }
            // crun refuses a machine that has controllers on both layouts. Without a v2 mount there is nothing to take.
            let _ = umount2(&cgroup.join("unified"), MntFlags::MNT_DETACH);
        }
    }
    mount(Some("tmpfs"), &root.join("run"), Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755")).context("run")?;
    if peer_root.is_some() {
        nix::unistd::chdir(root)?;
        nix::unistd::pivot_root(".", ".").context("pivot_root")?;
        umount2(".", MntFlags::MNT_DETACH).context("leaving the old root")?;
        nix::unistd::chdir("/")?;
    }
    Ok(())
}

/// A /dev of its own: binding the host's would let a mistake in the root remove the host's nodes.
fn mount_dev(dev: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(Some("tmpfs"), dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755"))?;
    for node in ["null", "zero", "full", "random", "urandom", "tty"] {
        let place = dev.join(node);
        File::create(&place)?;
        mount(Some(&Path::new("/dev").join(node)), &place, none, MsFlags::MS_BIND, none)?;
    }
    fs::create_dir(dev.join("pts"))?;
    let options = "newinstance,ptmxmode=0666,mode=0620";
    mount(Some("devpts"), &dev.join("pts"), Some("devpts"), MsFlags::empty(), Some(options))?;
    std::os::unix::fs::symlink("pts/ptmx", dev.join("ptmx"))?;
    std::os::unix::fs::symlink("/proc/self/fd", dev.join("fd"))?;
    Ok(())
}

/// Kills the command that is being waited for when it hangs.
#[derive(Clone)]
pub(super) struct Watchdog(Arc<Mutex<Option<(Pid, Instant)>>>);

impl Watchdog {
    pub(super) fn start() -> Self {
        let watchdog = Self(Arc::default());
        let its = watchdog.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(500));
                let guarded = its.0.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((pid, since)) = *guarded
                    && since.elapsed() > PATIENCE
                {
                    // It is not reaped yet, as the lock is held, so the pid is still its own.
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
        });
        watchdog
    }

    pub(super) fn guard(&self, pid: Option<Pid>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pid.map(|pid| (pid, Instant::now()));
    }
}

struct Bench {
    view: View,
    runs: usize,
    bundles: Bundles,
    watchdog: Watchdog,
    runtimes: Vec<Runtime>,
}

impl Bench {
    fn measure(&self) -> Result<Results> {
        let mut outcomes = BTreeMap::new();
        for workload in Workload::ALL {
            eprintln!("  {}: {}", self.view.name(), workload.title());
            let found = if workload.is_time() { self.sample(workload) } else { self.once(workload) };
            outcomes.insert(workload.title().to_owned(), found);
        }
        let runtimes = self.runtimes.iter().map(|rt| (rt.name.clone(), self.version(rt))).collect();
        Ok(Results { view: self.view, runtimes, outcomes })
    }

    fn version(&self, rt: &Runtime) -> String {
        if rt.name == "floor" {
            return "the kernel calls alone".to_owned();
        }
        let output = Command::new(&rt.path).arg("--version").stderr(Stdio::null()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or("unknown").to_owned()
    }

    /// Runs the command to its end and returns how long it took; a failure carries what it said.
    fn time(&self, command: &mut Command) -> Result<Duration> {
        let said = Path::new(BASE).join("stderr");
        let stderr = File::create(&said)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("{:?}", command.get_program()))?;
        self.watchdog.guard(i32::try_from(child.id()).ok().map(Pid::from_raw));
        let status = child.wait()?;
        let took = started.elapsed();
        self.watchdog.guard(None);
        if !status.success() {
            let said = fs::read_to_string(&said).unwrap_or_default();
            bail!("{status}: {}", message(&said));
        }
        Ok(took)
    }

    /// Samples a time of all runtimes in turn, so that they share the machine's noise; who starts rotates.
    fn sample(&self, workload: Workload) -> BTreeMap<String, Outcome> {
        let mut found: BTreeMap<String, Outcome> = BTreeMap::new();
        let mut live = Vec::new();
        for rt in self.runtimes.iter().filter(|rt| rt.name != "floor" || workload == Workload::Run) {
            let ready = self.prepare(rt, workload).and_then(|()| self.warm_up(rt, workload));
            match ready {
                Ok(()) => live.push((rt, Vec::with_capacity(self.runs))),
                Err(error) => {
                    found.insert(rt.name.clone(), Outcome::Failed(format!("{error:#}")));
                    self.rescue(rt);
                }
            }
        }
        for round in 0..self.runs {
            for turn in 0..live.len() {
                let index = (round + turn) % live.len();
                let Some((rt, samples)) = live.get_mut(index) else { continue };
                match self.one(rt, workload) {
                    Ok(took) => samples.push(took.as_secs_f64() * 1e3),
                    Err(error) => {
                        found.entry(rt.name.clone()).or_insert_with(|| Outcome::Failed(format!("{error:#}")));
                        self.rescue(rt);
                    }
                }
            }
        }
        for (rt, samples) in live {
            self.finish(rt, workload);
            if let Some(figure) = Figure::of(samples) {
                found.entry(rt.name.clone()).or_insert(Outcome::Figure(figure));
            }
        }
        found
    }

    fn warm_up(&self, rt: &Runtime, workload: Workload) -> Result<()> {
        (0..3).try_for_each(|_| self.one(rt, workload).map(|_| ()))
    }

    /// Starts the container that the workload needs.
    fn prepare(&self, rt: &Runtime, workload: Workload) -> Result<()> {
        fs::create_dir_all(rt.state_dir())?;
        match workload {
            Workload::Exec | Workload::State | Workload::Kill0 => self.start_paused(rt),
            _ => Ok(()),
        }
    }

    fn start_paused(&self, rt: &Runtime) -> Result<()> {
        self.create(rt, "pause", "pause")?;
        self.time(&mut rt.command(&rt.state_dir(), &["start", &rt.id("pause")]))?;
        Ok(())
    }

    fn create(&self, rt: &Runtime, bundle: &str, what: &str) -> Result<()> {
        let mut command = rt.command(&rt.state_dir(), &["create", "--bundle"]);
        command.arg(self.bundles.get(bundle)).arg("--pid-file").arg(rt.pid_file()).arg(rt.id(what));
        self.time(&mut command)?;
        Ok(())
    }

    /// Waits for the init of the runtime's last container, which is this process's child by now.
    fn reap(&self, rt: &Runtime) -> Result<()> {
        let pid = fs::read_to_string(rt.pid_file())?.trim().parse().map(Pid::from_raw)?;
        self.watchdog.guard(Some(pid));
        let waited = waitpid(pid, None);
        self.watchdog.guard(None);
        waited.map(|_| ()).context("waiting for the container's init")
    }

    /// Ends what `prepare` began.
    fn finish(&self, rt: &Runtime, workload: Workload) {
        if matches!(workload, Workload::Exec | Workload::State | Workload::Kill0) && self.delete_paused(rt).is_err() {
            self.rescue(rt);
        }
    }

    /// Removes whatever containers a failure left behind; mostly there are none, so failing is expected.
    fn rescue(&self, rt: &Runtime) {
        for what in ["run", "cycle", "pause"] {
            let _ = self.time(&mut rt.command(&rt.state_dir(), &["delete", "--force", &rt.id(what)]));
        }
    }

    fn delete_paused(&self, rt: &Runtime) -> Result<Duration> {
        let took = self.time(&mut rt.command(&rt.state_dir(), &["delete", "--force", &rt.id("pause")]))?;
        self.reap(rt)?;
        Ok(took)
    }

    /// One sample.
    fn one(&self, rt: &Runtime, workload: Workload) -> Result<Duration> {
        let state = rt.state_dir();
        match workload {
            Workload::Run if rt.name == "floor" => {
                self.time(Command::new(&rt.path).arg(self.view.name()).arg(self.bundles.rootfs()))
            }
            Workload::Run => self.run_bundle(rt, &state, &self.bundles.get("true")),
            Workload::SeccompCached => self.run_bundle(rt, &state, &self.bundles.get("seccomp")),
            Workload::SeccompCold => {
                // What a runtime caches is below its state directory; a new one is cold.
                let state = Path::new(BASE).join("state/cold");
                fs::create_dir(&state)?;
                let took = self.run_bundle(rt, &state, &self.bundles.get("seccomp"));
                fs::remove_dir_all(&state)?;
                took
            }
            Workload::Cycle => {
                let started = Instant::now();
                self.create(rt, "true", "cycle")?;
                self.time(&mut rt.command(&state, &["start", &rt.id("cycle")]))?;
                self.reap(rt)?;
                self.time(&mut rt.command(&state, &["delete", &rt.id("cycle")]))?;
                Ok(started.elapsed())
            }
            Workload::Exec => self.time(&mut rt.command(&state, &["exec", &rt.id("pause"), "/bin/true"])),
            Workload::State => self.time(&mut rt.command(&state, &["state", &rt.id("pause")])),
            Workload::Kill0 => self.time(&mut rt.command(&state, &["kill", &rt.id("pause"), "0"])),
            Workload::Delete => {
                self.start_paused(rt)?;
                self.delete_paused(rt)
            }
            Workload::Syscalls | Workload::Memory | Workload::PeakRss | Workload::Size => {
                bail!("{} is not a time", workload.title())
            }
        }
    }

    fn run_bundle(&self, rt: &Runtime, state: &Path, bundle: &Path) -> Result<Duration> {
        let mut command = rt.command(state, &["run", "--bundle"]);
        self.time(command.arg(bundle).arg(rt.id("run")))
    }

    /// Measures what is no time.
    fn once(&self, workload: Workload) -> BTreeMap<String, Outcome> {
        let mut found = BTreeMap::new();
        for rt in self.runtimes.iter().filter(|rt| rt.name != "floor") {
            let value = match workload {
                Workload::Syscalls => self.syscalls(rt),
                Workload::Memory => self.smallest_limit(rt),
                Workload::PeakRss => self.peak_rss(rt),
                _ => fs::metadata(&rt.path).map(|meta| meta.len() as f64 / 1024.0).map_err(Into::into),
            };
            let outcome = match value {
                Ok(value) => Outcome::Figure(Figure { median: value, p10: value, p90: value, samples: 1 }),
                Err(error) => Outcome::Failed(format!("{error:#}")),
            };
            found.insert(rt.name.clone(), outcome);
        }
        found
    }

    /// The system calls of one create: the command's, and its children's until they wait for start.
    fn syscalls(&self, rt: &Runtime) -> Result<f64> {
        let strace = build::find("strace").context("strace is not installed here")?;
        let log = Path::new(BASE).join("strace");
        let mut command = Command::new(strace);
        command.args(["-f", "-q", "-e", "signal=none", "-o"]).arg(&log).arg(&rt.path);
        command.arg("--root").arg(rt.state_dir()).args(["create", "--bundle"]).arg(self.bundles.get("pause"));
        command.arg("--pid-file").arg(rt.pid_file()).arg(rt.id("pause"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        // strace stays with the container's init, so the command's end is seen in the log.
        let deadline = Instant::now() + PATIENCE;
        let counted = loop {
            std::thread::sleep(Duration::from_millis(50));
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let Some(calls) = count_calls(&text) {
                break Ok(calls);
            }
            if Instant::now() > deadline {
                break Err(anyhow!("create did not end under strace"));
            }
        };
        let deleted = self.time(&mut rt.command(&rt.state_dir(), &["delete", "--force", &rt.id("pause")]));
        if counted.is_err() || deleted.is_err() {
            let _ = child.kill();
        }
        child.wait()?;
        let _ = self.reap(rt);
        deleted?;
        counted.map(|calls| calls as f64)
    }

    /// By bisection, in KiB, to 64 KiB; a limit counts when /bin/true starts three times out of three.
    fn smallest_limit(&self, rt: &Runtime) -> Result<f64> {
        ensure!(self.view == View::V1, "no memory controller on this view");
        const STEP: u64 = 64;
        let starts = |steps: u64| -> Result<bool> {
            let bundle = self.bundles.limited(steps * STEP * 1024)?;
            Ok((0..3).all(|_| {
                let started = self.run_bundle(rt, &rt.state_dir(), &bundle).is_ok();
                if !started {
                    self.rescue(rt);
                }
                started
            }))
        };
        let (mut fails, mut works) = (0, 32 * 1024 / STEP);
        ensure!(starts(works)?, "does not start with 32 MiB");
        while works - fails > 1 {
            let middle = (fails + works) / 2;
            if starts(middle)? { works = middle } else { fails = middle }
        }
        Ok((works * STEP) as f64)
    }

    /// The high-water mark of the command while its container runs: all of its work but the end is done.
    fn peak_rss(&self, rt: &Runtime) -> Result<f64> {
        let _ = fs::remove_file(rt.pid_file());
        let mut command = rt.command(&rt.state_dir(), &["run", "--bundle"]);
        command.arg(self.bundles.get("pause")).arg("--pid-file").arg(rt.pid_file()).arg(rt.id("pause"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while fs::read_to_string(rt.pid_file()).unwrap_or_default().is_empty() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let _ = child.kill();
                child.wait()?;
                bail!("run wrote no pid file");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(50));
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let deleted = self.time(&mut rt.command(&rt.state_dir(), &["delete", "--force", &rt.id("pause")]));
        if deleted.is_err() {
            let _ = child.kill();
        }
        child.wait()?;
        high_water_mark(&status?).context("no VmHWM")
    }
}

/// The line that says what went wrong: the first with "error" in it, else the last.
fn message(said: &str) -> &str {
    let line = said.lines().find(|line| line.to_ascii_lowercase().contains("error")).or(said.lines().last());
    line.unwrap_or("no message").trim()
}

/// KiB of the line `VmHWM:  1234 kB`.
fn high_water_mark(status: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok())
}

/// The calls in a log of `strace -f`, once the first process has ended.
fn count_calls(log: &str) -> Option<usize> {
    let first = log.split_whitespace().next()?;
    let text = |line: &str| line.split_once(' ').map(|(pid, text)| (pid.to_owned(), text.trim_start().to_owned()));
    let lines: Vec<_> = log.lines().filter_map(text).collect();
    lines.iter().find(|(pid, text)| pid == first && text.starts_with("+++"))?;
    // A call that another process interrupts is two lines; the second starts with "<...".
    Some(lines.iter().filter(|(_, text)| text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_resumed_counts_once_and_the_log_must_be_complete() {
        let log =
            "10 execve(\"/x\") = 0\n10 wait4(-1,  <unfinished ...>\n11 getpid() = 1\n10 <... wait4 resumed>) = 11\n";
        assert_eq!(count_calls(log), None);
        let ended = format!("{log}11 +++ exited with 0 +++\n10 exit_group(0) = ?\n10 +++ exited with 0 +++\n");
        assert_eq!(count_calls(&ended), Some(4));
        assert_eq!(count_calls(""), None);
    }

    #[test]
    fn the_line_with_the_error_is_the_message() {
        assert_eq!(message("INFO x\nError: no cgroup\n  at y\n"), "Error: no cgroup");
        assert_eq!(message("one\ntwo\n"), "two");
        assert_eq!(message(""), "no message");
    }

    #[test]
    fn the_high_water_mark_is_read_in_kib() {
        assert_eq!(high_water_mark("VmPeak:\t 9 kB\nVmHWM:\t    3796 kB\n"), Some(3796.0));
        assert_eq!(high_water_mark("Name: x\n"), None);
    }
}
