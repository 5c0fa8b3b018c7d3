//! A test's own corner of the machine, and what it looks like when nothing is left in it.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Set in the process that runs again where only cgroup v2 is mounted.
const INSIDE: &str = "ORLOP_TEST_PURE_V2";
/// How long any command may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(15);

/// Says why a test did not run. `cargo xtask test` counts these lines.
pub fn skip(reason: &str) {
    eprintln!("SKIP: {reason}");
}

/// Whether the long forms are wanted.
pub fn long() -> bool {
    std::env::var("ORLOP_LONG").is_ok_and(|value| value == "1")
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Ran {
    /// Its end.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Whether it exited with 0.
    pub fn ok(&self) -> bool {
        self.status.success()
    }

    /// Ends the test unless it exited with 0.
    #[track_caller]
    pub fn must(self) -> Self {
        assert!(self.ok(), "{}: {}{}", self.status, self.out, self.err);
        self
    }
}

/// A state root, a bundle and a name that marks everything which comes from them: the processes by their arguments or
/// their environment, the cgroups and the mounts by their paths.
#[derive(Debug)]
pub struct World {
    /// Part of every id.
    pub name: String,
    /// The folder of everything else.
    pub dir: PathBuf,
    /// The state root.
    pub root: PathBuf,
    /// A bundle with the probe as its only file.
    pub bundle: PathBuf,
    runtime: PathBuf,
}

impl World {
    /// A new one, or `None`, said aloud, where there is no privilege or no program for it.
    pub fn new(topic: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            skip(&format!("{topic}: needs root"));
            return None;
        }
        let runtime = program("ORLOP_RUNTIME", "orlop", topic)?;
        let probe = program("ORLOP_PROBE", "orlop-probe", topic)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("orlop-{topic}-{}-{count}", std::process::id());
        // In memory, as /run is, where there is such a place.
        let memory = PathBuf::from("/dev/shm");
        let dir = if memory.is_dir() { memory } else { std::env::temp_dir() }.join(&name);
        let bundle = dir.join("bundle");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::copy(probe, bundle.join("rootfs/probe")).unwrap();
        let world = Self { root: dir.join("state"), name, dir, bundle, runtime };
        world.orlop(&["spec", "--bundle", world.bundle.to_str().unwrap()]).must();
        world.configure(|config| {
            config["process"]["args"] = json!(["/probe", "wait"]);
        });
        fs::create_dir(&world.root).unwrap();
        Some(world)
    }

    /// Changes the bundle's config.json.
    pub fn configure(&self, change: impl FnOnce(&mut Value)) {
        let path = self.bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        // The init of a test is found by this, and is what `runc spec` has no word for.
        config["process"]["env"] = json!(["PATH=/", format!("WORLD={}", self.name)]);
        change(&mut config);
        fs::write(path, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
    }

    /// An id of this world.
    pub fn id(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.name)
    }

    /// The arguments that come first, the program's own path included.
    pub fn argv(&self, args: &[&str]) -> Vec<String> {
        let root = ["--root", self.root.to_str().unwrap()];
        let start = std::iter::once(self.runtime.to_str().unwrap()).chain(root);
        start.chain(args.iter().copied()).map(str::to_owned).collect()
    }

    /// The arguments of a create or a run of the bundle.
    pub fn made_by<'a>(&'a self, verb: &'a str, id: &'a str) -> Vec<&'a str> {
        vec![verb, "--bundle", self.bundle.to_str().unwrap(), id]
    }

    /// A command of the runtime: nothing to read; what it and its container print goes nowhere.
    pub fn command(&self, args: &[&str]) -> Command {
        let argv = self.argv(args);
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs a command of the runtime to its end. One that hangs ends the test.
    #[track_caller]
    pub fn orlop(&self, args: &[&str]) -> Ran {
        self.ran(self.command(args), args)
    }

    /// The same for a prepared one.
    #[track_caller]
    pub fn ran(&self, mut command: Command, args: &[&str]) -> Ran {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Files, since a container that lives on would hold the other end of a pipe.
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.dir.join(format!("out.{n}")), self.dir.join(format!("err.{n}")));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let status = in_time(command.spawn().unwrap()).unwrap_or_else(|| panic!("orlop {args:?} hangs"));
        let text = |path: &Path| {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
            fs::remove_file(path).unwrap();
            text
        };
        Ran { status, out: text(&out), err: text(&err) }
    }

    /// The status that `state` shows, or its error.
    pub fn status(&self, id: &str) -> String {
        let ran = self.orlop(&["state", id]);
        let state: Value = serde_json::from_str(&ran.out).unwrap_or_default();
        state["status"].as_str().map_or(ran.err, str::to_owned)
    }

    /// Init's pid.
    pub fn pid(&self, id: &str) -> i32 {
        let state: Value = serde_json::from_str(&self.orlop(&["state", id]).must().out).unwrap();
        i32::try_from(state["pid"].as_i64().unwrap()).unwrap()
    }

    /// Everything that is there of this world and should not be, now that its containers are deleted.
    pub fn residue(&self) -> Vec<String> {
        let mut left: Vec<String> =
            self.processes().iter().map(|(pid, what)| format!("process {pid}: {what}")).collect();
        for entry in fs::read_dir(&self.root).unwrap().flatten() {
            left.push(format!("state {}", entry.path().display()));
            for inner in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                left.push(format!("state {}", inner.path().display()));
            }
        }
        left.extend(self.cgroups().iter().map(|path| format!("cgroup {path}")));
        for table in ["/proc/self/mountinfo", "/proc/1/mountinfo"] {
            let text = fs::read_to_string(table).unwrap();
            left.extend(text.lines().filter(|line| line.contains(&self.name)).map(|line| format!("mount {line}")));
        }
        left
    }

    /// Ends the test if anything is left. What the kernel is still taking apart gets a moment.
    #[track_caller]
    pub fn assert_clean(&self, after: impl std::fmt::Display) {
        let left = self.residue();
        assert!(left.is_empty(), "{after}: left behind: {left:#?}");
    }

    /// The living processes of this world.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if pid == std::process::id().cast_signed() {
                continue;
            }
            // Both are empty for one that is dead.
            let mut text = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            text.push(b' ');
            text.extend(fs::read(entry.path().join("environ")).unwrap_or_default());
            let text = String::from_utf8_lossy(&text).replace('\0', " ");
            if text.contains(&self.name) {
                found.push((pid, text));
            }
        }
        found
    }

    /// The cgroups of this world, in every hierarchy: at its top, and below the cgroup that this process is in.
    fn cgroups(&self) -> Vec<String> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own: Vec<&str> = own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut found = Vec::new();
        for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
            let mount = line.split(' ').nth(4).unwrap();
            for below in ["/"].into_iter().chain(own.iter().copied()) {
                for entry in fs::read_dir(format!("{mount}{below}")).into_iter().flatten().flatten() {
                    let path = entry.path().display().to_string();
                    if entry.file_name().to_string_lossy().contains(&self.name) && !found.contains(&path) {
                        found.push(path);
                    }
                }
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Containers of a test that failed; a test that did not has none.
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if let Some(id) = entry.file_name().to_str() {
                let _ = self.command(&["delete", "--force", id]).spawn().map(in_time);
            }
        }
        // And what they left to nobody.
        for (pid, _) in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.cgroups().iter().for_each(|path| drop(fs::remove_dir(path)));
        // Nothing is mounted there: the residue was counted. Said to the tool all the same.
        let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&self.dir).status();
    }
}

/// Waits for a child for a while; one that hangs is killed, and `None`.
pub fn in_time(mut child: Child) -> Option<ExitStatus> {
    let give_up = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > give_up {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

/// A program of this workspace: named by a variable, or a release build beside the build of this test.
pub fn program(variable: &str, name: &str, topic: &str) -> Option<PathBuf> {
    let default = || {
        let test = std::env::current_exe().ok()?;
        // target/TRIPLE/PROFILE/deps/TEST
        let target = test.ancestors().nth(3)?;
        let beside = std::env::var_os("ORLOP_RUNTIME").map(PathBuf::from).and_then(|p| Some(p.parent()?.join(name)));
        beside.into_iter().chain([target.join("release").join(name)]).find(|path| path.is_file())
    };
    let found = std::env::var_os(variable).map(PathBuf::from).or_else(default).filter(|path| path.is_file());
    if found.is_none() {
        skip(&format!("{topic}: no {name}: `cargo build --release -p {name}`, or say where it is by {variable}"));
    }
    found
}

/// Runs the test `name` of this program again, in a mount namespace where only cgroup v2 is mounted.
#[track_caller]
pub fn pure_v2(name: &str) {
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return skip(&format!("{name} with cgroup v2 alone: needs root"));
    }
    let view = "mount --make-rprivate / && grep -o ' /sys/fs/cgroup[^ ]*' /proc/self/mountinfo | sort -r |
        while read m; do umount -l $m; done; mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "/bin/sh", "-c", view]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(INSIDE, "1").stdin(Stdio::null());
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprintln!("with cgroup v2 alone: {}", err.trim_end());
    assert!(output.status.success() && out.contains("1 passed"), "{:?} {out}{err}", output.status.signal());
}
