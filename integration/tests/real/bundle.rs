//! A bundle, and the container made from it: commands run on it, and in the end nothing is left of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{debian, scratch};

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// As a shell counts; 137 also when it took too long.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// Stdout of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
}

/// A folder with a config.json; its state directory; the container of the same name, if it was made.
pub(crate) struct Bundle {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
}

impl Bundle {
    /// The config that `orlop spec` writes, without a terminal, with `rootfs` to be read only, then changed by `change`.
    pub(crate) fn new(name: &str, rootfs: &Path, args: &[&str], change: impl FnOnce(&mut Value)) -> Self {
        let bundle = Self::empty(name);
        bundle.orlop(&["spec", "--bundle", bundle.dir.to_str().unwrap()]).ok();
        bundle.change(|c| {
            c["process"]["terminal"] = json!(false);
            c["process"]["args"] = json!(args);
            c["root"] = json!({ "path": rootfs, "readonly": true });
            change(c);
        });
        bundle
    }

    /// A folder and an id.
    pub(crate) fn empty(name: &str) -> Self {
        let id = format!("real-{}-{name}", std::process::id());
        let dir = scratch().join(&id);
        fs::create_dir_all(&dir).unwrap();
        Self { id, dir }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    /// The program with this bundle's state root, before the command. Ends after 20 seconds.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "-s", "KILL", "20"]).arg(program());
        command.arg("--root").arg(self.dir.join("state")).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end. Its output goes to files, since a daemon may hold a pipe open for ever.
    pub(crate) fn finish(&self, command: &mut Command) -> Done {
        let [out, err] = ["stdout", "stderr"].map(|name| self.dir.join(name));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let status = command.status().unwrap();
        let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Done { code: code(status), out: text(out), err: text(err) }
    }

    pub(crate) fn orlop(&self, args: &[&str]) -> Done {
        self.finish(self.command().args(args))
    }

    /// `orlop run` in the foreground.
    pub(crate) fn run(&self) -> Done {
        self.orlop(&["run", "--bundle", &self.path(""), &self.id])
    }

    pub(crate) fn detach(&self) {
        self.orlop(&["run", "--detach", "--bundle", &self.path(""), &self.id]).ok();
    }

    pub(crate) fn exec(&self, args: &[&str]) -> Done {
        self.finish(self.command().args(["exec", &self.id]).args(args))
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.orlop(&["state", &self.id]).ok()).unwrap()
    }

    /// Init's pid on the host.
    pub(crate) fn pid(&self) -> i64 {
        self.state()["pid"].as_i64().unwrap()
    }

    /// What the container's memory controller and the others keep in `file`, by the cgroup of its init.
    pub(crate) fn cgroup_file(&self, controller: &str, file: &str) -> String {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", self.pid())).unwrap();
        let line = groups.lines().find(|l| l.split(':').nth(1).unwrap().split(',').any(|c| c == controller)).unwrap();
        let path = format!("/sys/fs/cgroup/{controller}{}/{file}", line.splitn(3, ':').nth(2).unwrap());
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let deleted = self.orlop(&["delete", "--force", &self.id]);
        let left: Vec<_> =
            fs::read_dir(self.dir.join("state")).into_iter().flatten().map(|e| e.unwrap().file_name()).collect();
        debian::remove(&self.dir);
        if !std::thread::panicking() {
            assert_eq!((deleted.code, left.len()), (0, 0), "{deleted:?} {left:?}");
        }
    }
}

fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The runtime: as the environment names it, or built beside this test.
pub(crate) fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("ORLOP_RUNTIME") {
        return path.into();
    }
    let here = std::env::current_exe().unwrap();
    let path = here.ancestors().nth(2).unwrap().join("orlop");
    assert!(path.exists(), "{} is missing: cargo build -p orlop", path.display());
    path
}

/// Waits until `what` is there; fails the test after a minute.
#[track_caller]
pub(crate) fn until<T>(name: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(it) = what() {
            return it;
        }
        assert!(Instant::now() < give_up, "waited in vain: {name}");
        sleep(Duration::from_millis(10));
    }
}

/// Leaves a namespace out, so that the host's is kept.
pub(crate) fn without_namespace(config: &mut Value, kind: &str) {
    let list = config["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|n| n["type"] != kind);
}

/// Joins a namespace by path.
pub(crate) fn join_namespace(config: &mut Value, kind: &str, path: &str) {
    without_namespace(config, kind);
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": kind, "path": path }));
}

pub(crate) fn push(config: &mut Value, list: &str, item: Value) {
    config[list].as_array_mut().unwrap().push(item);
}
