//! Hosts: the packages of a Debian release on this machine's kernel, in namespaces and cgroups of their own.
//!
//! A host's first process is all that holds it: when that ends, so does everything that ever ran there, with its
//! mounts and its network. It ends when the test does, however that ends.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orlop_integration::{Ran, kept, long, mmdebstrap, program, skip};

/// How long any command may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where cgroups are, here and on a host.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Where programs are, here and on a host.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whose packages a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Debian 12, which this machine is taken for: its own packages.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// The newest there are.
    Sid,
}

/// What Debian 13 and later have.
const PACKAGES: [&str; 21] = [
    "aardvark-dns",
    "buildah",
    "busybox-static",
    "ca-certificates",
    "catatonit",
    "conmon",
    "containerd",
    "containernetworking-plugins",
    "crun",
    "curl",
    "docker-buildx",
    "docker-cli",
    "docker.io",
    "iproute2",
    "iptables",
    "netavark",
    "nftables",
    "podman",
    "procps",
    "runc",
    "util-linux",
];

impl Release {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// What the host's root file system begins with. Nobody writes to it. `None`, said, where it can't be had.
    pub(crate) fn root(self, topic: &str) -> Option<PathBuf> {
        if self == Self::Bookworm {
            return Some("/".into());
        }
        let mut hash = DefaultHasher::new();
        (self.name(), PACKAGES).hash(&mut hash);
        let include = format!("--include={}", PACKAGES.join(","));
        // Sid's list of packages is only good for a week, and the clock of a build may be elsewhere.
        let any_time = "--aptopt=Acquire::Check-Valid-Until \"false\"";
        kept(&format!("{}-{:08x}", self.name(), hash.finish() >> 32), topic, |root| {
            mmdebstrap(&["--variant=minbase", &include, any_time, self.name()], root)
        })
    }
}

/// A host. It and everything on it are gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its folder, which is on a disk.
    dir: PathBuf,
    /// Its cgroup, by hierarchy.
    cgroups: Vec<PathBuf>,
    /// What was mounted when it began.
    mounts: Vec<String>,
    /// The first process, as this machine numbers it.
    first: i32,
    /// What made the first process, and waits for it.
    maker: Child,
    /// While this is open, the host lives.
    life: Option<ChildStdin>,
}

impl Host {
    /// A new one; `None`, said aloud, if it can't be had, or if only the long form of the tests has it.
    /// `needs` are the programs that must be there.
    pub(crate) fn new(release: Release, topic: &str, needs: &[&str]) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        let topic = format!("{topic} on {}", release.name());
        if release != Release::Bookworm && !long() {
            skip(&format!("{topic}: in the long form only"));
            return None;
        }
        if !nix::unistd::geteuid().is_root() {
            skip(&format!("{topic}: needs root"));
            return None;
        }
        SWEEP.call_once(sweep);
        let runtime = program("ORLOP_RUNTIME", "orlop", &topic)?;
        let shim = program("ORLOP_SHIM", "containerd-shim-orlop-v2", &topic)?;
        let lower = release.root(&topic)?;
        let name = format!("host-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = scratch().join(&name);
        fs::create_dir_all(dir.join("bin")).unwrap();
        let beside = ["orlop-bundle", "orlop-shim"].map(|name| runtime.with_file_name(name));
        for path in [runtime, shim].into_iter().chain(beside.into_iter().filter(|path| path.is_file())) {
            fs::copy(&path, dir.join("bin").join(path.file_name().unwrap())).unwrap();
        }
        let host = Self::start(&lower, dir, &format!("orlop-{name}"));
        let missing: Vec<_> = needs.iter().copied().filter(|program| !host.has(program)).collect();
        if !missing.is_empty() {
            skip(&format!("{topic}: no {}", missing.join(", no ")));
            return None;
        }
        Some(host)
    }

    fn start(lower: &Path, dir: PathBuf, cgroup: &str) -> Self {
        let hierarchies = hierarchies();
        let cgroups: Vec<_> = hierarchies.iter().map(|h| Path::new(CGROUPS).join(&h.dir).join(cgroup)).collect();
        cgroups.iter().for_each(|cgroup| make_cgroup(cgroup));
        // The new cgroup namespace begins where the process is that makes it.
        let mut script = String::new();
        for cgroup in &cgroups {
            writeln!(script, "echo $$ >{}/cgroup.procs", cgroup.display()).unwrap();
        }
        script.push_str("exec unshare --mount --net --pid --ipc --uts --cgroup --fork sh -c \"$0\" host \"$@\"");
        let log = File::create(dir.join("host.log")).unwrap();
        let table: Vec<_> = hierarchies.iter().map(|h| format!("{} {} {}", h.dir, h.kind, h.options)).collect();
        let mut maker = Command::new("sh")
            .args(["-ec", &script, include_str!("host.sh")])
            .args([&dir, lower])
            .env_clear()
            .env("PATH", &PATH["PATH=".len()..])
            .env("HIERARCHIES", table.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(maker.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let life = maker.stdin.take();
        let mut host = Self { dir, cgroups, mounts: Vec::new(), first: 0, maker, life };
        host.first = pid.trim().parse().unwrap_or_else(|_| panic!("no host: {}", host.log("host")));
        host.mounts = mounts(host.first);
        // It can't say so itself: in its pid namespace its maker has no number.
        for cgroup in &host.cgroups {
            fs::write(cgroup.join("host/cgroup.procs"), host.maker.id().to_string()).unwrap();
        }
        host
    }

    /// The path of something on the host, as this machine sees it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/{}", self.first, path.trim_start_matches('/')))
    }

    /// The host's network namespace.
    pub(crate) fn network(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.first)).unwrap()
    }

    /// What is in a file on the host.
    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Writes a file on the host, and makes its folders.
    #[track_caller]
    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// Whether there is such a program.
    pub(crate) fn has(&self, program: &str) -> bool {
        ["usr/local/bin", "usr/local/sbin", "usr/bin", "usr/sbin", "bin", "sbin"]
            .iter()
            .any(|dir| self.path(dir).join(program).is_file())
    }

    /// What is in a folder on the host; nothing if there is none.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A command on the host, in its folder `/srv`, with nothing of our environment. It ends after some time.
    pub(crate) fn command(&self, argv: &[&str]) -> Command {
        let mut command = self.enter(&["timeout", "-k", "5", &PATIENCE.as_secs().to_string()]);
        command.args(argv).stdin(Stdio::null());
        command
    }

    /// The same for somebody at a terminal.
    pub(crate) fn interactive(&self, argv: &[&str]) -> Command {
        let mut command = self.enter(&["timeout", "--foreground", "-k", "5", &PATIENCE.as_secs().to_string()]);
        command.args(argv);
        command
    }

    fn enter(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--root", "--wdns=/srv"]);
        command.args([
            "--mount",
            "--net",
            "--pid",
            "--ipc",
            "--uts",
            "--cgroup",
            "--",
            "env",
            "-i",
            "HOME=/root",
            PATH,
        ]);
        let mut script = String::new();
        for hierarchy in hierarchies() {
            writeln!(script, "echo 0 >{CGROUPS}/{}/host/cgroup.procs", hierarchy.dir).unwrap();
        }
        script.push_str("exec \"$@\"");
        command.args(["sh", "-ec", &script, "sh"]).args(argv);
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub(crate) fn run(&self, argv: &[&str]) -> Ran {
        self.ran(self.command(argv))
    }

    /// The same, which must succeed. What it printed.
    #[track_caller]
    pub(crate) fn must(&self, argv: &[&str]) -> String {
        let ran = self.run(argv);
        assert!(ran.ok(), "{argv:?}: {}: {}{}", ran.status, ran.out, ran.err);
        ran.out
    }

    /// The same for a prepared command, whatever comes of it but that it hangs.
    #[track_caller]
    pub(crate) fn ran(&self, mut command: Command) -> Ran {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        // Files, since a daemon that lives on would hold the other end of a pipe.
        let (out, err) = (self.dir.join(format!("out.{n}")), self.dir.join(format!("err.{n}")));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let started = Instant::now();
        let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let text = |path: &Path| {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
            fs::remove_file(path).unwrap();
            text
        };
        let ran = Ran { status, out: text(&out), err: text(&err) };
        assert!(started.elapsed() < PATIENCE, "{command:?} hangs: {}{}", ran.out, ran.err);
        ran
    }

    /// Starts a daemon. What it says goes to a log of its name.
    pub(crate) fn daemon(&self, name: &'static str, argv: &[&str]) -> Daemon {
        let path = self.dir.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(path).unwrap();
        let mut command = self.enter(argv);
        let entered = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", entered.id());
        let pid = until(&format!("{name} to start"), || {
            let children = fs::read_to_string(&children).unwrap_or_default();
            children.split_whitespace().next().and_then(|pid| pid.parse().ok())
        });
        Daemon { name, pid, entered: Some(entered) }
    }

    /// What a daemon has said, and those of its name before it.
    pub(crate) fn whole_log(&self, name: &str) -> String {
        let text = fs::read(self.dir.join(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The end of it.
    pub(crate) fn log(&self, name: &str) -> String {
        let text = self.whole_log(name);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The processes on the host but the first, dead ones too: their pids on this machine, and their arguments.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let is_here = || {
                let cgroup = self.cgroups.first()?.file_name()?.to_str()?;
                let status = fs::read_to_string(entry.path().join("status")).ok()?;
                // It has a number in this machine's namespace, in the host's, and perhaps in a container's.
                let numbers = status.lines().find(|line| line.starts_with("NSpid:"))?.split_whitespace().count();
                let cgroups = fs::read_to_string(entry.path().join("cgroup")).ok()?;
                Some(numbers > 2 && cgroups.contains(cgroup) && pid != self.first)
            };
            if is_here() == Some(true) {
                let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&arguments).trim_end_matches('\0').replace('\0', " ")));
            }
        }
        found
    }

    /// The mounts of the host's own namespace that were not there when it began.
    pub(crate) fn mounts(&self) -> Vec<String> {
        mounts(self.first).into_iter().filter(|mount| !self.mounts.contains(mount)).collect()
    }

    /// The cgroups that were made on the host, as paths on this machine.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let below = |cgroup: &PathBuf| below(cgroup).into_iter().filter(|path| !path.ends_with("host"));
        self.cgroups.iter().flat_map(below).collect()
    }
}

/// A daemon on a host. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// What its log is called.
    pub(crate) name: &'static str,
    /// Its pid, as this machine numbers it.
    pub(crate) pid: i32,
    /// What has brought it to the host, and waits for it.
    entered: Option<Child>,
}

impl Daemon {
    /// Ends it by a signal, and waits until it has ended.
    #[track_caller]
    pub(crate) fn stop(mut self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap();
        let mut entered = self.entered.take().unwrap();
        until(&format!("the end of {}", self.name), || entered.try_wait().unwrap());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut entered) = self.entered.take() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            let _ = entered.wait();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The first process ends now, and the kernel ends all others of its namespace.
        drop(self.life.take());
        let _ = self.maker.wait();
        self.cgroups.iter().for_each(|cgroup| remove_cgroup(cgroup));
        if std::thread::panicking() {
            for log in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                let name = log.file_name().to_string_lossy().into_owned();
                if let Some(name) = name.strip_suffix(".log") {
                    eprintln!("the end of {name}'s log:\n{}", self.log(name));
                }
            }
            if std::env::var_os("ORLOP_KEEP").is_some() {
                eprintln!("kept: {}", self.dir.display());
                return;
            }
        }
        remove(&self.dir);
    }
}

/// A cgroup hierarchy of this machine.
struct Hierarchy {
    /// Where it is mounted, below [`CGROUPS`].
    dir: String,
    /// `cgroup` or `cgroup2`.
    kind: String,
    /// What to mount it with.
    options: String,
}

fn hierarchies() -> Vec<Hierarchy> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((mount, filesystem)) = line.split_once(" - cgroup") else { continue };
        let Some(dir) = mount.split(' ').nth(4).and_then(|path| path.strip_prefix(CGROUPS)) else { continue };
        let mut words = filesystem.split(' ');
        let kind = format!("cgroup{}", words.next().unwrap());
        // A controller or a name; the rest are flags.
        let options = words.nth(1).unwrap().split(',').filter(|o| {
            !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "noprefix" | "nsdelegate" | "memory_recursiveprot")
                && (!o.contains('=') || o.starts_with("name="))
        });
        let mut options: Vec<_> = options.map(str::to_owned).collect();
        match kind.as_str() {
            "cgroup2" => options = vec!["rw".to_owned()],
            _ if options[0].starts_with("name=") => options.insert(0, "none".to_owned()),
            _ => {}
        }
        let dir = if dir.is_empty() { "." } else { dir.trim_start_matches('/') };
        found.push(Hierarchy { dir: dir.to_owned(), kind, options: options.join(",") });
    }
    found
}

/// Makes a cgroup at the top of its hierarchy, with all of the machine's controllers, processors and memory nodes.
fn make_cgroup(cgroup: &Path) {
    let parent = cgroup.parent().unwrap();
    if let Ok(controllers) = fs::read_to_string(parent.join("cgroup.controllers")) {
        for controller in controllers.split_whitespace() {
            // One that can't be given on is one that no container can have here either.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    fs::create_dir(cgroup).unwrap_or_else(|e| panic!("{}: {e}", cgroup.display()));
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !parent.join("cgroup.controllers").exists() && parent.join(file).exists() {
            fs::copy(parent.join(file), cgroup.join(file)).unwrap();
        }
    }
}

/// Removes a cgroup and those below it.
fn remove_cgroup(cgroup: &Path) {
    for path in below(cgroup).into_iter().chain([cgroup.to_owned()]) {
        // A process that was killed leaves its cgroup a moment later.
        let give_up = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&path).is_err() && path.exists() && Instant::now() < give_up {
            sleep(Duration::from_millis(5));
        }
    }
}

/// Removes what tests that were killed have left: the kernel has ended their hosts, but keeps cgroups and folders.
fn sweep() {
    let left = |name: &str| {
        let mut words = name.trim_start_matches("orlop-").split('-');
        let maker = (words.next() == Some("host")).then(|| words.next()).flatten();
        maker.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    let in_folder = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| left(&path.file_name().unwrap().to_string_lossy()))
            .collect::<Vec<_>>()
    };
    for hierarchy in hierarchies() {
        in_folder(&Path::new(CGROUPS).join(hierarchy.dir)).iter().for_each(|cgroup| remove_cgroup(cgroup));
    }
    in_folder(&scratch()).iter().for_each(|dir| remove(dir));
}

/// The cgroups below a cgroup, each after those below it.
fn below(cgroup: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&entry.path()));
            found.push(entry.path());
        }
    }
    found
}

/// Where something is mounted in the namespace of a process, and what.
fn mounts(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let mount = |line: &str| line.split(' ').skip(3).collect::<Vec<_>>().join(" ");
    text.lines().map(mount).collect()
}

/// Waits until there is something; a while.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Where hosts are, below cargo's target folder: not in memory, nor on an overlay.
fn scratch() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    here.ancestors().nth(3).unwrap().join("orlop-engines")
}

/// Removes a tree, but nothing that is mounted in it.
fn remove(tree: &Path) {
    let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(tree).status();
}
