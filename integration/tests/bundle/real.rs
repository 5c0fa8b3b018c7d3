//! A Debian root as a user has it: imported, run, changed, committed; and what became of it runs in Docker, Podman and
//! containerd.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use orlop_integration::{debian, program, skip};

use crate::oracle::Containerd;
use crate::tool::{Backend, Tool, have, wait_until};

/// What a container is asked for. Its answer is the same wherever it runs.
const QUESTIONS: &str = "id -un; pwd; echo $MODE; ls /usr/share/doc; test ! -e /usr/share/man && echo no manual; \
    stat -c '%h %U' /app/two; find / -xdev -name '.wh.*' 2>/dev/null | wc -l; \
    python3 -c 'import json, sqlite3; print(sqlite3.connect(\":memory:\").execute(\"select 6 * 7\").fetchone())'";

/// What is changed: a folder replaced, one deleted, a user made, a file with two names.
const CHANGES: &str = "rm -rf /usr/share/man /usr/share/doc && mkdir /usr/share/doc /app && echo x > /usr/share/doc/x && \
    useradd -r -m web && echo one > /app/one && ln /app/one /app/two && dpkg --version > /dev/null";

/// What follows from these.
const ANSWER: &str = "web\n/app\nprod\nx\nno manual\n2 root\n0\n(42,)\n";

/// A store that has it as `debian:bookworm`.
fn with_debian(topic: &str) -> Option<Tool> {
    let tool = Tool::new(topic)?;
    let tar = debian("debian-python3", &["python3"], topic)?;
    tool.must(&["import", "-c", "CMD [\"bash\"]", tar.to_str().unwrap(), "debian:bookworm"]);
    Some(tool)
}

/// Runs a new bundle of `image` once, under `runtime`. What it printed.
#[track_caller]
fn run(tool: &Tool, runtime: &Path, create: &[&str], image: &str, script: &str) -> String {
    let bundle = tool.path("once");
    tool.must(&[&["create"], create, &[image, &bundle, "sh", "-c", script]].concat());
    let out = start(tool, runtime, &bundle);
    tool.must(&["rm", &bundle]);
    out
}

/// Runs a bundle's container to its end.
#[track_caller]
fn start(tool: &Tool, runtime: &Path, bundle: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let id = format!("orlop-bundle-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    tool.other(&[runtime.to_str().unwrap(), "--root", &tool.path("state"), "run", "-b", bundle, &id])
}

/// This project's runtime.
fn orlop(topic: &str) -> Option<PathBuf> {
    program("ORLOP_RUNTIME", "orlop", topic)
}

/// An image `app:1` made by [`CHANGES`] in a container.
#[track_caller]
fn commit_app(tool: &Tool, runtime: &Path, backend: Backend) {
    let bundle = tool.path("app");
    tool.must(&["create", "--backend", backend.name(), "debian:bookworm", &bundle, "sh", "-c", CHANGES]);
    assert_eq!(start(tool, runtime, &bundle), "");
    let settings = ["USER web", "WORKDIR /app", "ENV MODE=prod", "CMD [\"python3\"]", "LABEL made=here"];
    let settings = settings.map(|setting| ["-c", setting]).concat();
    tool.must(&[&["commit", "-m", "changed"], settings.as_slice(), &[&bundle, "app:1"]].concat());
    tool.must(&["rm", &bundle]);
}

#[test]
fn a_debian_root_runs_is_changed_and_runs_again_with_both_backends() {
    let Some(tool) = with_debian("debian") else { return };
    let Some(orlop) = orlop("debian") else { return };
    for backend in Backend::BOTH {
        commit_app(&tool, &orlop, backend);
        let options = ["--backend", backend.name()];
        assert_eq!(run(&tool, &orlop, &options, "app:1", QUESTIONS), ANSWER, "{} backend", backend.name());
        if have("run by runc", &["runc"]) {
            assert_eq!(run(&tool, Path::new("runc"), &options, "app:1", QUESTIONS), ANSWER, "runc");
        }
    }
    tool.assert_sound();
}

#[test]
fn what_a_container_writes_is_counted_and_its_bundle_stays_while_it_runs() {
    const WRITTEN: u64 = 3 << 20;
    let Some(tool) = with_debian("df") else { return };
    let Some(orlop) = orlop("df") else { return };
    let state = tool.path("state");
    let call = |args: &[&str]| tool.other(&[&[orlop.to_str().unwrap(), "--root", &state], args].concat());
    for backend in Backend::BOTH {
        let bundle = tool.path(backend.name());
        let script = format!("head -c {WRITTEN} /dev/urandom > /big && ln /big /again && touch /ready && sleep 100");
        tool.must(&["create", "--backend", backend.name(), "debian:bookworm", &bundle, "sh", "-c", &script]);
        let df = || -> (u64, serde_json::Value) {
            let document: serde_json::Value = serde_json::from_str(&tool.must(&["df", "--json"])).unwrap();
            let row = document["Usage"].as_array().unwrap().iter().find(|row| row["Type"] == "Bundles").unwrap();
            let of = &document["Bundles"][0];
            assert_eq!((&row["TotalCount"], &row["Size"]), (&1.into(), &of["Disk"]));
            let reclaimable = if of["Pid"].is_null() { of["Disk"].clone() } else { 0.into() };
            assert_eq!(row["Reclaimable"], reclaimable);
            (of["Disk"].as_u64().unwrap(), of["Pid"].clone())
        };
        let (before, pid) = df();
        assert!(pid.is_null());
        // A written root is all there; of a mounted one there is nothing yet.
        assert_eq!(before < WRITTEN, backend == Backend::Mount, "{before}");
        let id = format!("orlop-df-{}-{}", backend.name(), std::process::id());
        call(&["create", "-b", &bundle, &id]);
        call(&["start", &id]);
        let root = Path::new(&bundle).join("rootfs");
        wait_until("the container has written", || root.join("ready").exists());
        let (after, pid) = df();
        assert!((before + WRITTEN..before + WRITTEN + (1 << 20)).contains(&after), "{before}, then {after}");
        let state: serde_json::Value = serde_json::from_str(&call(&["state", &id])).unwrap();
        assert_eq!(pid, state["pid"], "{} backend", backend.name());
        let table = tool.must(&["df", "-v"]);
        let line = table.lines().find(|line| line.ends_with(&bundle)).unwrap();
        assert!(line.contains("debian:bookworm") && line.contains(&format!("Up (process {pid})")), "{line}");
        assert!(tool.refused(&["rm", &bundle]).contains("in use"), "{} backend", backend.name());
        call(&["delete", "--force", &id]);
        assert!(df().1.is_null());
        tool.must(&["rm", &bundle]);
    }
}

/// A Docker daemon of a test's own, in namespaces of its own.
struct Docker {
    server: Child,
    /// Where its sockets are.
    run: String,
}

impl Docker {
    /// Starts it; `None`, said, without one.
    fn new(tool: &Tool) -> Option<Self> {
        have("run by Docker", &["dockerd", "docker"]).then_some(())?;
        let dir = tool.dir.join("docker");
        fs::create_dir(&dir).unwrap();
        // A path of a socket has at most 107 bytes.
        let run = format!("/tmp/orlop-docker-{}", std::process::id());
        let log = File::create(dir.join("log")).unwrap();
        let server = Command::new("unshare")
            .args(["-n", "-m", "--propagation", "private", "sh", "-c", "mount -t tmpfs run /run && exec \"$@\"", "sh"])
            .args(["dockerd", "--bridge", "none", "--iptables=false", "--storage-driver", "overlay2", "--data-root"])
            .arg(dir.join("data"))
            .args(["--exec-root", &format!("{run}/exec"), "--pidfile", &format!("{run}/pid")])
            .args(["--host", &format!("unix://{run}/socket")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let this = Self { server, run };
        wait_until("Docker answers", || this.command(&["version"]).output().is_ok_and(|o| o.status.success()));
        Some(this)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        let host = format!("unix://{}/socket", self.run);
        command.args(["-s", "KILL", "100", "docker", "--host", &host]).args(args).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn must(&self, tool: &Tool, args: &[&str]) -> String {
        let ran = tool.ran(self.command(args));
        assert!(ran.ok(), "docker {args:?}: {}{}", ran.out, ran.err);
        ran.out
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Its containerd ends with it only if it is asked to.
        let _ = Command::new("kill").arg(self.server.id().to_string()).status();
        let _ = self.server.wait();
        let _ = Command::new("rm").args(["-rf", "--one-file-system", &self.run]).status();
    }
}

/// Where `inspect` does not say what Docker says, but for what has to be different.
fn differences(theirs: &serde_json::Value, ours: &serde_json::Value) -> Vec<String> {
    // A build's container; where files are; when it was loaded; what no registry knows yet.
    const OTHER: [&str; 5] = ["Container", "ContainerConfig", "GraphDriver", "Metadata", "RepoDigests"];
    let members = |of: &serde_json::Value, prefix: &str| -> Vec<(String, serde_json::Value)> {
        let config = of.as_object().unwrap().iter();
        config.map(|(key, value)| (format!("{prefix}{key}"), value.clone())).collect()
    };
    let top = members(theirs, "").into_iter().filter(|(key, _)| key != "Config" && !OTHER.contains(&key.as_str()));
    let of = |key: &str| ours.pointer(&format!("/{}", key.replace('.', "/"))).cloned();
    top.chain(members(&theirs["Config"], "Config."))
        .filter(|(key, value)| of(key).as_ref() != Some(value))
        .map(|(key, value)| format!("{key}: docker {value}, here {:?}", of(&key)))
        .collect()
}

#[test]
fn a_committed_image_runs_in_docker_podman_and_containerd() {
    let Some(tool) = with_debian("engines") else { return };
    let Some(orlop) = orlop("engines") else { return };
    commit_app(&tool, &orlop, Backend::Mount);
    tool.must(&["tag", "app:1", "registry.example/app:1"]);
    let name = "registry.example/app:1";
    let archive = tool.path("app.tar");
    tool.must(&["save", "-o", &archive, "app:1", name]);

    if let Some(docker) = Docker::new(&tool) {
        docker.must(&tool, &["load", "-q", "-i", &archive]);
        let answer = docker.must(&tool, &["run", "--rm", "--network", "none", name, "sh", "-c", QUESTIONS]);
        assert_eq!(answer, ANSWER, "docker");
        // And both say the same of it.
        let theirs: serde_json::Value = serde_json::from_str(&docker.must(&tool, &["inspect", name])).unwrap();
        let ours: serde_json::Value = serde_json::from_str(&tool.must(&["inspect", name])).unwrap();
        assert_eq!(differences(&theirs[0], &ours[0]), [""; 0]);
        for format in ["{{.Id}} {{.Size}} {{.VirtualSize}}", "{{.Config.Cmd}} {{.Config.Healthcheck}} {{.Parent}}"] {
            let theirs = docker.must(&tool, &["inspect", "--type", "image", "-f", format, name]);
            assert_eq!(tool.must(&["inspect", "-f", format, name]), theirs, "inspect {format}");
        }
        for format in ["{{.ID}} {{.CreatedBy}} {{.Size}} {{.Comment}}", "table {{.ID}}\t{{.CreatedAt}}"] {
            let theirs = docker.must(&tool, &["history", "--no-trunc", "--format", format, name]);
            assert_eq!(tool.must(&["history", "--no-trunc", "--format", format, name]), theirs, "history {format}");
        }
    }
    if have("run by Podman", &["podman", "runc"]) {
        // It allows this path 50 bytes.
        let run = format!("/tmp/orlop-podman-{}", std::process::id());
        let storage = ["--root", &tool.path("podman"), "--runroot", &run];
        let other = ["--tmpdir", &tool.path("podman-tmp"), "--cgroup-manager", "cgroupfs", "--runtime", "runc"];
        let policy = tool.path("policy.json");
        fs::write(&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
        let podman = [&["podman"], &storage[..], &other].concat();
        tool.other(&[&podman[..], &["load", "-q", "--signature-policy", &policy, "-i", &archive]].concat());
        // Its defaults are above what this test may be allowed.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
        let command = [&podman[..], &["run", "--rm", "--network", "none"], &limits, &[name, "sh", "-c", QUESTIONS]];
        assert_eq!(tool.other(&command.concat()), ANSWER, "podman");
        // It leaves its store mounted on itself.
        let _ = Command::new("umount").arg(tool.dir.join("podman/overlay")).stderr(Stdio::null()).status();
        let _ = Command::new("rm").args(["-rf", "--one-file-system", &run]).status();
    }
    if let Some(containerd) = Containerd::new(&tool) {
        let archive = tool.path("app.oci.tar");
        tool.must(&["push", name, &format!("oci-archive:{archive}:{name}")]);
        containerd.must(&["images", "import", &archive]);
        let id = format!("orlop-{}", std::process::id());
        assert_eq!(containerd.must(&["run", "--rm", name, &id, "sh", "-c", QUESTIONS]), ANSWER, "containerd");
    }
}

/// The room that the files of a folder take.
fn room(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries.fold(0, |sum, entry| {
        let metadata = entry.metadata().unwrap();
        // A plain layer is its own tar: one file with two names.
        let own = metadata.blocks() * 512 / if metadata.is_file() { metadata.nlink() } else { 1 };
        sum + own + if metadata.is_dir() { room(&entry.path()) } else { 0 }
    })
}

#[test]
fn five_images_of_a_debian_root_take_their_own_changes_and_give_them_back() {
    let Some(tool) = with_debian("five") else { return };
    let bundle = tool.path("bundle");
    tool.must(&["create", "--backend", "mount", "debian:bookworm", &bundle]);
    tool.must(&["prune", "-f"]);
    let before = room(&tool.store);
    for n in 1..=5 {
        fs::write(Path::new(&bundle).join(format!("rootfs/own{n}")), vec![b'0' + n; usize::from(n) * 1_000_000])
            .unwrap();
        tool.must(&["commit", "--compression", "none", &bundle, &format!("own:{n}")]);
        fs::remove_file(Path::new(&bundle).join(format!("rootfs/own{n}"))).unwrap();
    }
    let base = tool.must(&["images", "--format", "{{.VirtualSize}}", "debian:bookworm"]);
    for n in 1..=5 {
        let sizes = tool.must(&["images", "--format", "{{.SharedSize}} {{.UniqueSize}}", &format!("own:{n}")]);
        assert_eq!(sizes, format!("{} {n}MB\n", base.trim()));
    }
    // The changes, and for each image an index of all files.
    let grown = room(&tool.store) - before;
    assert!((15_000_000..30_000_000).contains(&grown), "five images upon one base take {grown} bytes");
    for n in 1..=5 {
        tool.must(&["rmi", &format!("own:{n}")]);
    }
    tool.must(&["prune", "-f"]);
    assert_eq!(room(&tool.store), before);
    tool.must(&["rm", &bundle]);
}

#[test]
fn an_unprivileged_user_pulls_makes_a_bundle_commits_and_removes_it() {
    let Some(tool) = with_debian("unprivileged") else { return };
    if !have("an unprivileged user", &["setpriv"]) {
        return;
    }
    let layout = format!("oci:{}:1", tool.path("layout"));
    tool.must(&["push", "debian:bookworm", &layout]);
    let own = tool.path("own");
    fs::create_dir(&own).unwrap();
    tool.other(&["chown", "-R", "65534:65534", &own, &tool.path("layout")]);
    let program = program("ORLOP_BUNDLE", "orlop-bundle", "unprivileged").unwrap();
    let store = format!("{own}/store");
    let user = |args: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "100", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.args(["--bounding-set=-all", "--no-new-privs"]).arg(&program).args(["--store", &store]).args(args);
        command.env("HOME", &own).env("XDG_RUNTIME_DIR", &own).env_remove("ORLOP_STORE").current_dir("/");
        tool.ran(command)
    };
    let may = tool.ran({
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "test", "-x"]).arg(&program);
        command
    });
    if !may.ok() {
        return skip("an unprivileged user: the program is where only root may go");
    }
    let must = |args: &[&str]| {
        let ran = user(args);
        assert!(ran.ok(), "{args:?}: {}{}", ran.out, ran.err);
        ran.out
    };
    must(&["pull", "--name", "debian:1", &layout]);
    let bundle = format!("{own}/bundle");
    let mounted = user(&["create", "--backend", "mount", "debian:1", &bundle]);
    assert!(mounted.err.contains("only root"), "{}", mounted.err);
    assert!(!Path::new(&bundle).exists());
    must(&["create", "debian:1", &bundle]);
    let shadow = fs::symlink_metadata(Path::new(&bundle).join("rootfs/etc/shadow")).unwrap();
    assert_eq!((shadow.uid(), shadow.mode() & 0o777), (65534, 0o640));
    fs::write(Path::new(&bundle).join("rootfs/etc/new"), "new").unwrap();
    assert_eq!(must(&["diff", &bundle]), "C /etc\nA /etc/new\n");
    must(&["commit", &bundle, "debian:2"]);
    must(&["rm", &bundle]);
    assert!(!Path::new(&bundle).exists());
    must(&["verify"]);
    // The owners that only root could give are still those of the image.
    must(&["save", "-o", &format!("{own}/saved.tar"), "debian:2"]);
    tool.must(&["load", "-i", &format!("{own}/saved.tar")]);
    let tree = tool.tree("debian:2", Backend::Mount);
    assert_eq!(tree.nodes[&b"etc/shadow"[..]].owner, (0, 42));
}
