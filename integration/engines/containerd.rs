//! containerd 1.6, 1.7 and the newest, by `ctr`, with the shim.
//!
//! ORLOP_PEER_SHIM=io.containerd.runc.v2 does the same with another shim, to tell whose a surprise is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orlop_images::layout::Packing;
use orlop_integration::{Ran, long};
use serde_json::Value;

use crate::host::{Daemon, Host, Release, until};
use crate::image;
use crate::pty::Terminal;

/// How containerd calls the shim.
pub(crate) static RUNTIME: LazyLock<String> =
    LazyLock::new(|| std::env::var("ORLOP_PEER_SHIM").unwrap_or_else(|_| "io.containerd.orlop.v2".into()));
/// Where containerd has the bundles of `ctr`'s containers.
const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/default";
/// The image of most tests.
pub(crate) const BUSYBOX: &str = "registry.example/busybox:1";

/// containerd on a host of its own.
#[derive(Debug)]
pub(crate) struct Containerd {
    /// The host.
    pub(crate) host: Host,
    daemon: Option<Daemon>,
}

impl Containerd {
    /// One with the image [`BUSYBOX`]. `None`, said aloud, if it can't be had.
    pub(crate) fn new(release: Release, topic: &str) -> Option<Self> {
        Self::with(release, topic, "")
    }

    /// The same with more in its configuration.
    pub(crate) fn with(release: Release, topic: &str, configuration: &str) -> Option<Self> {
        let host = Host::new(release, topic, &["containerd", "ctr"])?;
        host.write("/etc/containerd/config.toml", format!("version = 2\n{configuration}"));
        let mut containerd = Self { host, daemon: None };
        containerd.start();
        let archive = containerd.host.path("/srv/busybox.tar");
        image::archive(&archive, BUSYBOX, image::shell(), |layout| vec![image::busybox(layout)]);
        containerd.must(&["image", "import", "/srv/busybox.tar"]);
        Some(containerd)
    }

    /// Starts it, and waits until it answers.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        self.start_as("containerd");
    }

    /// The same for another containerd than the release's.
    #[track_caller]
    fn start_as(&mut self, program: &str) {
        self.daemon = Some(self.host.daemon("containerd", &[program, "--log-level", "trace"]));
        until("containerd to answer", || self.host.run(&["ctr", "version"]).ok().then_some(()));
    }

    /// Ends it by a signal.
    #[track_caller]
    pub(crate) fn stop(&mut self, signal: Signal) {
        self.daemon.take().unwrap().stop(signal);
    }

    /// Runs `ctr`.
    #[track_caller]
    pub(crate) fn ctr(&self, args: &[&str]) -> Ran {
        self.host.run(&[&["ctr"], args].concat())
    }

    /// The same, which must succeed. What it printed.
    #[track_caller]
    pub(crate) fn must(&self, args: &[&str]) -> String {
        self.host.must(&[&["ctr"], args].concat())
    }

    /// Runs a shell's script in the container `id` until it ends; `flags` are further ones of `ctr run`.
    #[track_caller]
    fn run(&self, id: &str, flags: &[&str], script: &str) -> Ran {
        let args = [&["run", "--rm", "--runtime", &RUNTIME], flags, &[BUSYBOX, id, "sh", "-c", script]].concat();
        self.ctr(&args)
    }

    /// The same, and leaves it running.
    #[track_caller]
    fn detach(&self, id: &str, flags: &[&str], script: &str) {
        let args = [&["run", "-d", "--runtime", &RUNTIME], flags, &[BUSYBOX, id, "sh", "-c", script]].concat();
        self.must(&args);
    }

    /// A container's status in containerd's words; empty if it has no task.
    #[track_caller]
    fn status(&self, id: &str) -> String {
        let tasks = self.must(&["tasks", "list"]);
        let words = tasks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.into_iter().find(|words| words[0] == id).map_or(String::new(), |words| words[2].to_owned())
    }

    /// Waits for a status.
    #[track_caller]
    fn until(&self, id: &str, status: &str) {
        until(&format!("{id} to be {status}"), || (self.status(id) == status).then_some(()));
    }

    /// Ends a container by SIGKILL, and deletes it.
    #[track_caller]
    fn remove(&self, id: &str) {
        self.must(&["tasks", "kill", "--signal", "KILL", id]);
        self.until(id, "STOPPED");
        let ran = self.ctr(&["tasks", "delete", id]);
        assert!(ran.err.contains("exit code 137"), "{}{}", ran.out, ran.err);
        self.must(&["containers", "delete", id]);
    }

    /// The topics of the events of shims so far, in the order in which containerd has had them.
    fn events(&self) -> Vec<String> {
        let log = self.host.whole_log("containerd");
        let forwarded = log.lines().filter(|line| line.contains("event forwarded"));
        let topic =
            |line: &str| line.split_once("topic=")?.1.split(' ').next().map(|topic| topic.trim_matches('"').to_owned());
        forwarded.filter_map(topic).collect()
    }

    /// Ends the test if anything is left of containers, now that all are deleted.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        self.assert_clean_within(Duration::from_secs(30));
    }

    #[track_caller]
    fn assert_clean_within(&self, patience: Duration) {
        let daemon = self.daemon.as_ref().map(|daemon| daemon.pid);
        let residue = || {
            let host = &self.host;
            let processes = host.processes().into_iter().filter(|(pid, _)| Some(*pid) != daemon);
            let mut left: Vec<_> = processes.map(|(pid, what)| format!("process {pid}: {what}")).collect();
            left.extend(host.mounts().iter().map(|mount| format!("mount {mount}")));
            // The cgroup of a namespace stays, as it does with other runtimes.
            let cgroups = host.cgroups().into_iter().filter(|path| !path.ends_with("default"));
            left.extend(cgroups.map(|path| format!("cgroup {}", path.display())));
            for folder in ["/run/containerd/s", "/run/containerd/runc/default", BUNDLES] {
                left.extend(host.list(folder).iter().map(|name| format!("{folder}/{name}")));
            }
            left
        };
        // The last shim ends after containerd has its answer.
        let until = Instant::now() + patience;
        loop {
            let left = residue();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "left behind: {left:#?}");
            sleep(Duration::from_millis(20));
        }
    }
}

fn exit_codes_and_streams_reach_the_caller(release: Release) {
    let Some(containerd) = Containerd::new(release, "exit codes") else { return };
    for (script, code) in [("exit 7", 7), ("sh -c 'kill -9 $$'; exit $?", 137), ("exit 255", 255)] {
        let ran = containerd.run("c1", &[], script);
        assert_eq!(ran.status.code(), Some(code), "{script}: {}{}", ran.out, ran.err);
    }
    let ran = containerd.run("c1", &[], "echo out; echo err >&2").must();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
    let run = format!("ctr run --rm --runtime {} {BUSYBOX} c1", *RUNTIME);
    let piped = containerd.host.must(&["sh", "-c", &format!("head -c 3000000 /dev/zero | {run} wc -c")]);
    assert_eq!(piped, "3000000\n");
    let piped = containerd.host.must(&["sh", "-c", &format!("{run} head -c 3000000 /dev/zero | wc -c")]);
    assert_eq!(piped, "3000000\n");
    let ran = containerd.run("c1", &["--cwd", "/tmp"], "pwd").must();
    assert_eq!(ran.out, "/tmp\n");
    let ran = containerd.ctr(&["run", "--rm", "--runtime", &RUNTIME, BUSYBOX, "c1", "nothing"]);
    assert!(ran.err.contains("exec: \"nothing\": executable file not found in $PATH"), "{}", ran.err);
    containerd.assert_clean();
}

fn what_is_asked_for_is_what_the_container_has(release: Release) {
    let Some(containerd) = Containerd::new(release, "flags") else { return };
    containerd.host.write("/srv/data/file", "of the host\n");
    let mount = "type=bind,src=/srv/data,dst=/data,options=rbind:ro";
    let flags = ["--env", "A=b", "--read-only", "--mount", mount, "--seccomp", "--net-host"];
    let ran = containerd.run("c1", &flags, "echo $A; cat /data/file; ! touch /x /data/x").must();
    assert_eq!(ran.out, "b\nof the host\n");
    assert_eq!(ran.err.matches("Read-only file system").count(), 2, "{}", ran.err);

    containerd.detach("c1", &["--memory-limit", "67108864", "--cpus", "0.5"], "sleep 1000");
    let limit = |names: [&str; 2]| {
        let files = containerd.host.cgroups().into_iter().flat_map(|dir| names.map(|name| dir.join(name)));
        files.filter_map(|file| fs::read_to_string(file).ok()).map(|text| text.trim().to_owned()).collect::<Vec<_>>()
    };
    assert!(limit(["memory.limit_in_bytes", "memory.max"]).contains(&"67108864".to_owned()));
    assert!(
        limit(["cpu.cfs_quota_us", "cpu.max"]).iter().any(|limit| ["50000", "50000 100000"].contains(&limit.as_str()))
    );
    containerd.remove("c1");

    let ran = containerd.run("c1", &["--privileged", "--cap-drop", "CAP_NET_RAW"], "grep Cap /proc/self/status").must();
    assert!(!ran.out.contains("CapEff:\t00000000"), "{}", ran.out);

    // Nothing but the shim ends what a container leaves in a pid namespace that is not its own.
    let ran = containerd.run("c1", &["--with-ns", "pid:/proc/1/ns/pid"], "sleep 1000 & sleep 1000 & exit 4");
    assert_eq!(ran.status.code(), Some(4), "{}{}", ran.out, ran.err);
    containerd.assert_clean();
}

fn a_terminal_is_the_containers_own(release: Release) {
    let Some(containerd) = Containerd::new(release, "terminal") else { return };
    let run = ["ctr", "run", "--rm", "-t", "--runtime", &RUNTIME, BUSYBOX, "c1", "sh"];
    let mut terminal = Terminal::run(&containerd.host.interactive(&run));
    terminal.expect("/ # ");
    terminal.type_in("tty; stty size; echo $((6 * 7))\n");
    let shown = terminal.expect("\n42\r");
    // ctr leaves our terminal a newline more.
    assert!(shown.replace("\r\r", "\r").contains("/dev/pts/0\r\n30 100\r"), "{shown:?}");
    terminal.resize(50, 120);
    until("the new size", || {
        terminal.type_in("stty size\n");
        terminal.expect("/ # ").contains("50 120").then_some(())
    });
    terminal.type_in("sh -c 'echo asleep; exec sleep 60'\n");
    terminal.expect("\nasleep\r");
    terminal.type_in("\x03");
    terminal.expect("/ # ");
    terminal.type_in("exit 5\n");
    assert_eq!(terminal.wait(), 5);
    containerd.assert_clean();
}

fn a_terminal_is_left_and_attached_to_again(release: Release) {
    let Some(containerd) = Containerd::new(release, "attach") else { return };
    let script = "while read line; do echo got $line; done; exit 6";
    let run = ["ctr", "run", "-d", "-t", "--runtime", &RUNTIME, BUSYBOX, "c1", "sh", "-c", script];
    assert_eq!(Terminal::run(&containerd.host.interactive(&run)).wait(), 0);
    let attach = || Terminal::run(&containerd.host.interactive(&["ctr", "tasks", "attach", "c1"]));
    for word in ["one", "two"] {
        let mut terminal = attach();
        terminal.type_in(&format!("{word}\n"));
        terminal.expect(&format!("got {word}\r"));
        terminal.close();
        assert_eq!(containerd.status("c1"), "RUNNING");
    }
    let mut terminal = attach();
    terminal.type_in("three\n");
    terminal.expect("got three\r");
    terminal.type_in("\x04");
    assert_eq!(terminal.wait(), 6);
    containerd.must(&["containers", "delete", "c1"]);
    containerd.assert_clean();
}

/// A container from its creation to its end, with all that `ctr tasks` can do to it.
fn live(containerd: &Containerd, flags: &[&str]) {
    let run = [&["run", "-d"], flags, &[BUSYBOX, "c1", "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.1; done"]];
    containerd.must(&run.concat());
    assert_eq!(containerd.status("c1"), "RUNNING");
    let exec = |id: &str, flags: &[&str], argv: &[&str]| {
        containerd.ctr(&[&["tasks", "exec", "--exec-id", id], flags, &["c1"], argv].concat())
    };

    let ran = exec("e1", &[], &["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((ran.status.code(), ran.out.as_str(), ran.err.as_str()), (Some(3), "out\n", "err\n"));
    let ran = exec("e1", &["--user", "user", "--cwd", "/tmp"], &["sh", "-c", "id -u; pwd"]).must();
    assert_eq!(ran.out, "1000\n/tmp\n");
    let ran = exec("e1", &[], &["nothing"]);
    assert!(!ran.ok() && ran.err.contains("executable file not found in $PATH"), "{}", ran.err);
    let exec_t = ["ctr", "tasks", "exec", "-t", "--exec-id", "e1", "c1", "sh", "-c", "tty; exit 4"];
    let mut terminal = Terminal::run(&containerd.host.interactive(&exec_t));
    terminal.expect("/dev/pts/");
    assert_eq!(terminal.wait(), 4);

    exec("e2", &["-d"], &["sleep", "1000"]).must();
    let processes = containerd.must(&["tasks", "ps", "c1"]);
    assert!(processes.lines().count() >= 3 && processes.contains("e2"), "{processes}");
    containerd.must(&["tasks", "kill", "--exec-id", "e2", "--signal", "KILL", "c1"]);

    let metrics = containerd.must(&["tasks", "metrics", "--format", "json", "c1"]);
    let metrics: Value = serde_json::from_str(&metrics).unwrap();
    assert!(metrics["pids"]["current"].as_u64() >= Some(1), "{metrics}");
    assert!(metrics["memory"]["usage"].is_object() || metrics["memory"]["usage"].as_u64() > Some(0), "{metrics}");

    containerd.must(&["tasks", "pause", "c1"]);
    assert_eq!(containerd.status("c1"), "PAUSED");
    assert!(!exec("e3", &[], &["true"]).ok());
    containerd.must(&["tasks", "resume", "c1"]);
    assert_eq!(containerd.status("c1"), "RUNNING");
    exec("e3", &[], &["true"]).must();

    assert!(!containerd.ctr(&["tasks", "delete", "c1"]).ok(), "a running container is not deleted");
    containerd.must(&["tasks", "kill", "c1"]);
    containerd.until("c1", "STOPPED");
    assert!(containerd.ctr(&["tasks", "delete", "c1"]).err.contains("exit code 9"));
    // The same container once more.
    containerd.must(&["tasks", "start", "-d", "c1"]);
    containerd.remove("c1");
    containerd.assert_clean();
}

fn a_container_lives(release: Release) {
    let Some(containerd) = Containerd::new(release, "life") else { return };
    live(&containerd, &["--runtime", &RUNTIME]);
}

fn our_shim_stands_in_for_containerds_and_calls_runc(release: Release) {
    let Some(containerd) = Containerd::new(release, "runc under our shim") else { return };
    let bin = containerd.host.path("/usr/local/bin");
    fs::rename(bin.join("containerd-shim-orlop-v2"), bin.join("containerd-shim-runc-v2")).unwrap();
    live(&containerd, &["--runtime", "io.containerd.runc.v2", "--runc-binary", "runc"]);
    live(&containerd, &["--runtime", "io.containerd.runc.v2"]);
}

fn a_container_of_ours_lives_under_containerds_shim(release: Release) {
    let Some(containerd) = Containerd::new(release, "our runtime under containerd's shim") else { return };
    live(&containerd, &["--runtime", "io.containerd.runc.v2", "--runc-binary", "/usr/local/bin/orlop"]);
}

fn an_exit_while_containerd_is_down_is_seen_after(release: Release) {
    let Some(mut containerd) = Containerd::new(release, "restart") else { return };
    containerd.detach("ends", &[], "while [ ! -e /end ]; do sleep 0.1; done; exit 9");
    containerd.detach("stays", &[], "sleep 1000");
    let root = containerd.host.path(&format!("{BUNDLES}/ends/rootfs"));
    containerd.stop(Signal::SIGKILL);
    fs::write(root.join("end"), "").unwrap();
    let running = || containerd.host.processes().iter().any(|(_, what)| what.contains("/end"));
    until("the container's end", || (!running()).then_some(()));
    if long() {
        // Longer than those that give up after a number of tries.
        sleep(Duration::from_secs(30));
    }
    containerd.start();
    until("the event", || containerd.events().contains(&"/tasks/exit".to_owned()).then_some(()));
    assert_eq!(containerd.status("stays"), "RUNNING");
    assert_eq!(containerd.status("ends"), "STOPPED");
    assert!(containerd.ctr(&["tasks", "delete", "ends"]).err.contains("exit code 9"));
    containerd.must(&["containers", "delete", "ends"]);
    let ran = containerd.ctr(&["tasks", "exec", "--exec-id", "e1", "stays", "sh", "-c", "echo here; exit 2"]);
    assert_eq!((ran.status.code(), ran.out.as_str()), (Some(2), "here\n"), "{}", ran.err);
    containerd.remove("stays");
    containerd.assert_clean();
}

fn a_shim_that_is_killed_leaves_nothing(release: Release) {
    let Some(containerd) = Containerd::new(release, "killed shim") else { return };
    for _ in 0..2 {
        containerd.detach("c1", &[], "sleep 1000 & sleep 1000");
        let processes = containerd.host.processes();
        let shim = processes.iter().find(|(_, what)| what.contains("containerd-shim-") && what.contains("-id c1"));
        kill(Pid::from_raw(shim.unwrap().0), Signal::SIGKILL).unwrap();
        until("the task's end", || matches!(containerd.status("c1").as_str(), "" | "STOPPED").then_some(()));
        // containerd has cleaned up by itself, or does so now.
        let _ = containerd.ctr(&["tasks", "delete", "c1"]);
        containerd.must(&["containers", "delete", "c1"]);
        containerd.assert_clean();
        assert!(containerd.events().iter().filter(|topic| *topic == "/tasks/oom").count() == 0);
    }
}

fn many_containers_at_once_leave_nothing(release: Release) {
    let Some(containerd) = Containerd::new(release, "many") else { return };
    let many = if long() { 100 } else { 20 };
    let all = |what: &str| {
        let script = format!("for i in $(seq {many}); do ( {what} ) & done; wait");
        containerd.host.must(&["sh", "-c", &script])
    };
    all(&format!("ctr run -d --runtime {} {BUSYBOX} c$i sleep 1000 || echo failed", *RUNTIME));
    let running = || containerd.must(&["tasks", "list"]).matches("RUNNING").count();
    assert_eq!(running(), many);
    let ran = all("ctr tasks exec --exec-id e c$i sh -c 'echo hello'");
    assert_eq!(ran.matches("hello\n").count(), many);
    all("ctr tasks kill -s KILL c$i");
    until("their end", || (running() == 0).then_some(()));
    all("ctr tasks delete c$i; ctr containers delete c$i");
    containerd.assert_clean();
}

fn an_oom_kill_is_told_before_the_exit_that_it_explains(release: Release) {
    let Some(containerd) = Containerd::new(release, "oom") else { return };
    // tail keeps what has no newline.
    let ran = containerd.run("c1", &["--memory-limit", "16777216"], "tail /dev/zero; exit $?");
    assert_eq!(ran.status.code(), Some(137), "{}{}", ran.out, ran.err);
    let told = ["create", "start", "oom", "exit", "delete"].map(|topic| format!("/tasks/{topic}"));
    // Who deletes hears of it before who listens to events.
    until("the last event", || (containerd.events().len() >= told.len()).then_some(()));
    assert_eq!(containerd.events(), told);
    containerd.assert_clean();
}

fn an_image_may_have_more_layers_than_a_page_of_options_names(release: Release) {
    let Some(containerd) = Containerd::new(release, "layers") else { return };
    let name = "registry.example/layers:1";
    image::archive(&containerd.host.path("/srv/layers.tar"), name, image::shell(), |layout| {
        let small = |n: u32| {
            layout.layer(Packing::Plain, |tar| {
                tar.dir("layers").file(&format!("layers/{n}"), format!("{n}\n")).raw([0; 1024]);
            })
        };
        std::iter::once(image::busybox(layout)).chain((1..125).map(small)).collect()
    });
    containerd.must(&["image", "import", "/srv/layers.tar"]);
    let script = "cat /layers/* | sort -n | tail -n 1; ls /layers | wc -l; echo written > /layers/1";
    let ran = containerd.ctr(&["run", "--rm", "--runtime", &RUNTIME, name, "c1", "sh", "-c", script]).must();
    assert_eq!(ran.out, "124\n124\n");
    containerd.assert_clean();
}

fn output_goes_to_files_and_to_programs(release: Release) {
    let Some(containerd) = Containerd::new(release, "logs") else { return };
    let host = &containerd.host;
    let run = |uri: &str| {
        containerd.detach("c1", &["--log-uri", uri], "echo out; echo err >&2; exit 3");
        containerd.until("c1", "STOPPED");
        assert!(containerd.ctr(&["tasks", "delete", "c1"]).err.contains("exit code 3"));
        containerd.must(&["containers", "delete", "c1"]);
    };
    run("file:///srv/of/a/log");
    run("file:///srv/of/a/log");
    assert_eq!(host.read("/srv/of/a/log").lines().filter(|line| *line == "out").count(), 2);
    assert_eq!(host.read("/srv/of/a/log").lines().filter(|line| *line == "err").count(), 2);

    let logger = "#!/bin/sh\necho $* >/srv/args; env >/srv/env\ncat <&3 >/srv/out 5>&- & cat <&4 >/srv/err 5>&- & exec 5>&-; wait\n";
    host.write("/srv/logger", logger);
    fs::set_permissions(host.path("/srv/logger"), fs::Permissions::from_mode(0o755)).unwrap();
    run("binary:///srv/logger?colour=blue");
    // It makes its files when it likes.
    let has = |name: &str, text: &str| fs::read_to_string(host.path(name)).is_ok_and(|log| log == text);
    until("the log", || (has("/srv/out", "out\n") && has("/srv/err", "err\n")).then_some(()));
    assert_eq!(host.read("/srv/args"), "colour blue\n");
    let environment = host.read("/srv/env");
    assert!(environment.contains("CONTAINER_ID=c1\n") && environment.contains("CONTAINER_NAMESPACE=default\n"));
    containerd.assert_clean();
}

fn ids_are_mapped(release: Release) {
    let Some(containerd) = Containerd::new(release, "id maps") else { return };
    let maps = ["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];
    let script =
        "awk '{ print $1, $2, $3 }' /proc/self/uid_map /proc/self/gid_map; id -u; touch /x; stat -c %u:%g /bin /x;
        while [ ! -e /end ]; do sleep 0.1; done; exit 9";
    let log = ["--log-uri", "file:///srv/log"];
    containerd.detach("c1", &[maps, [log[0], log[1], "--env", "A=b"]].concat(), script);
    let want = "0 100000 65536\n0 200000 65536\n0\n0:0\n0:0\n";
    until("its words", || (containerd.host.read("/srv/log") == want).then_some(()));
    let processes = containerd.host.processes();
    let (init, _) = processes.iter().find(|(_, what)| what.starts_with("sh -c awk")).unwrap();
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    assert!(status.contains("Uid:\t100000\t100000") && status.contains("Gid:\t200000\t200000"), "{status}");
    let ran =
        containerd.ctr(&["tasks", "exec", "--exec-id", "e", "c1", "sh", "-c", "id -u; cat /proc/self/uid_map"]).must();
    assert!(ran.out.starts_with("0\n") && ran.out.contains("100000"), "{}", ran.out);
    // A user that is mapped opens its streams again.
    let exec = [
        "tasks",
        "exec",
        "--exec-id",
        "e",
        "--user",
        "user",
        "c1",
        "sh",
        "-c",
        "id -u >/dev/stdout; id -g >/dev/stderr",
    ];
    let ran = containerd.ctr(&exec).must();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("1000\n", "1000\n"));
    containerd.remove("c1");
    containerd.assert_clean();
}

fn layers_are_mapped_where_containerd_can_have_it(release: Release) {
    let Some(containerd) = Containerd::new(release, "mapped layers") else { return };
    let flags = ["--remap-labels", "--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];
    let ran = containerd.run("c1", &flags, "touch /x; stat -c %u:%g /bin /bin/busybox /x");
    if release == Release::Bookworm {
        // It gives the root to nobody but the host's own.
        assert!(ran.err.contains("EACCES (permission denied)"), "{}", ran.err);
    } else {
        assert_eq!(ran.must().out, "0:0\n0:0\n0:0\n");
    }
    containerd.assert_clean();
}

fn containerd_may_die_at_any_moment_with_its_shims_or_without(release: Release) {
    let Some(mut containerd) = Containerd::new(release, "crashes") else { return };
    let rounds = if long() { 6 } else { 2 };
    for round in 0..rounds {
        // In the middle of it: some are created, some run, some are deleted.
        let script = format!(
            "for i in $(seq 8); do (ctr run -d --runtime {0} {BUSYBOX} c$i sleep 1000; ctr run --rm --runtime {0} \
                {BUSYBOX} d$i true) & done; wait",
            *RUNTIME
        );
        let mut many = containerd.host.command(&["sh", "-c", &script]).stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(150 + 150 * round));
        containerd.stop(Signal::SIGKILL);
        if round % 2 == 1 {
            for (pid, what) in containerd.host.processes() {
                if what.contains("containerd-shim-") {
                    // One that has ended meanwhile is as good.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
        }
        many.wait().unwrap();
        containerd.start();
        let all = "for t in $(ctr tasks list -q); do ctr tasks kill -s KILL $t; ctr tasks delete -f $t; done;
            ctr containers list -q | xargs -r ctr containers delete; ctr tasks list -q; ctr containers list -q";
        until("all to be deleted", || containerd.host.must(&["sh", "-c", all]).trim().is_empty().then_some(()));
        // A shim that was started and then given nothing ends by itself, which containerd 1.6 would not do for it.
        containerd.assert_clean_within(Duration::from_secs(40));
    }
}

fn what_is_paused_can_be_killed(release: Release) {
    let Some(containerd) = Containerd::new(release, "killed while paused") else { return };
    containerd.detach("c1", &[], "sleep 1000");
    containerd.must(&["tasks", "pause", "c1"]);
    containerd.remove("c1");
    containerd.detach("c1", &[], "sleep 1000");
    containerd.must(&["tasks", "pause", "c1"]);
    containerd.must(&["tasks", "delete", "--force", "c1"]);
    containerd.must(&["containers", "delete", "c1"]);
    containerd.assert_clean();
}

fn many_execs_at_once_all_end_as_they_should(release: Release) {
    let Some(containerd) = Containerd::new(release, "execs") else { return };
    containerd.detach("c1", &[], "sleep 1000");
    let one = "ctr tasks exec --exec-id e$i c1 sh -c 'seq 5000 | tail -n 1; exit 7' 2>&1 || echo exit $?";
    for _ in 0..2 {
        let out = containerd.host.must(&["sh", "-c", &format!("for i in $(seq 30); do ( {one} ) & done; wait")]);
        assert_eq!((out.matches("5000\n").count(), out.matches("exit 7\n").count()), (30, 30), "{out}");
    }
    // Who waits for an exec hears of its end before who listens to events.
    until("all execs to be told of", || {
        let events = containerd.events();
        let count = |topic: &str| events.iter().filter(|event| *event == topic).count();
        let told = ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"].map(count);
        (told == [60, 60, 60]).then_some(())
    });
    containerd.remove("c1");
    containerd.assert_clean();
}

fn a_root_file_system_may_be_a_folder_and_a_cgroup_anywhere(release: Release) {
    let Some(containerd) = Containerd::new(release, "rootfs") else { return };
    let rootfs = containerd.host.path("/srv/rootfs");
    for dir in ["bin", "dev", "proc", "sys"] {
        fs::create_dir_all(rootfs.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/sh")).unwrap();
    let run = |how: &str, flags: &[&str], script: &str| {
        let argv = ["--rootfs", "/srv/rootfs", "c1", "/bin/sh", "-c", script];
        containerd.must(&[&["run", how, "--runtime", &RUNTIME], flags, &argv].concat())
    };
    run("--rm", &[], "echo written >/file");
    assert_eq!(containerd.host.read("/srv/rootfs/file"), "written\n");
    // Without a path, it is below the shim's, or with version 2 beside it.
    for (cgroup, want) in [("", "c1"), ("/where", "where")] {
        run("-d", &["--cgroup", cgroup], "read -r line");
        let cgroups = containerd.host.cgroups();
        assert!(cgroups.iter().any(|path| path.ends_with(want)), "{cgroup:?}: {cgroups:?}");
        containerd.remove("c1");
    }
    containerd.assert_clean();
}

fn what_is_not_supported_says_so(release: Release) {
    let Some(containerd) = Containerd::new(release, "checkpoint") else { return };
    containerd.detach("c1", &[], "sleep 1000");
    let ran = containerd.ctr(&["tasks", "checkpoint", "c1"]);
    assert!(!ran.ok() && ran.err.contains("checkpoint and restore are not supported"), "{}", ran.err);
    // containerd pauses for it.
    until("it to run on", || (containerd.status("c1") == "RUNNING").then_some(()));
    containerd.remove("c1");
    containerd.assert_clean();
}

#[test]
fn containers_outlive_an_update_of_containerd_and_the_step_back() {
    let Some(mut containerd) = Containerd::new(Release::Sid, "update") else { return };
    let mut programs = Vec::new();
    for (release, version) in [(Release::Bookworm, "1.6"), (Release::Trixie, "1.7"), (Release::Sid, "2")] {
        let Some(root) = release.root("update") else { return };
        for program in ["containerd", "ctr"] {
            let copy = containerd.host.path(&format!("/srv/{program}-{version}"));
            fs::copy(root.join("usr/bin").join(program), copy).unwrap();
        }
        programs.push((format!("/srv/containerd-{version}"), format!("/srv/ctr-{version}")));
    }
    containerd.detach("c2", &[], "sleep 1000");
    // Up and down again, with a container of each on the way.
    let order = [0, 1, 2, 1, 0];
    for (n, i) in order.into_iter().enumerate() {
        let (daemon, ctr) = &programs[i];
        containerd.stop(Signal::SIGKILL);
        containerd.start_as(daemon);
        for old in 0..n {
            let exec = [ctr, "tasks", "exec", "--exec-id", "e", &format!("n{old}"), "sh", "-c", "echo here; exit 3"];
            let ran = containerd.host.run(&exec);
            assert_eq!((ran.status.code(), ran.out.as_str()), (Some(3), "here\n"), "n{old} of {daemon}: {}", ran.err);
        }
        let id = format!("n{n}");
        containerd.host.must(&[ctr, "run", "-d", "--runtime", &RUNTIME, BUSYBOX, &id, "sleep", "1000"]);
    }
    let (_, ctr) = &programs[0];
    for id in (0..order.len()).map(|n| format!("n{n}")).chain(["c2".to_owned()]) {
        containerd.host.must(&[ctr, "tasks", "kill", "-s", "KILL", &id]);
        until("its end", || {
            containerd.host.run(&[ctr, "tasks", "delete", &id]).err.contains("exit code 137").then_some(())
        });
        containerd.host.must(&[ctr, "containers", "delete", &id]);
    }
    containerd.assert_clean();
}

#[test]
fn the_newest_containerd_asks_what_the_runtime_can_do() {
    let Some(containerd) = Containerd::new(Release::Sid, "info") else { return };
    let info = containerd.must(&["plugins", "inspect-runtime", "--runtime", &RUNTIME]);
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["Name"], RUNTIME.as_str(), "{info}");
    let features = &info["Features"];
    assert_eq!(
        features["linux"]["namespaces"].as_array().map(|names| names.contains(&"time".into())),
        Some(true),
        "{info}"
    );
}

/// Makes each of the functions a test of each release.
macro_rules! tests {
    ($($name:ident)*) => {
        mod bookworm { $(#[test] fn $name() { super::$name(crate::host::Release::Bookworm) })* }
        mod trixie { $(#[test] fn $name() { super::$name(crate::host::Release::Trixie) })* }
        mod sid { $(#[test] fn $name() { super::$name(crate::host::Release::Sid) })* }
    };
}

tests! {
    exit_codes_and_streams_reach_the_caller
    what_is_asked_for_is_what_the_container_has
    a_terminal_is_the_containers_own
    a_terminal_is_left_and_attached_to_again
    a_container_lives
    our_shim_stands_in_for_containerds_and_calls_runc
    a_container_of_ours_lives_under_containerds_shim
    an_exit_while_containerd_is_down_is_seen_after
    a_shim_that_is_killed_leaves_nothing
    many_containers_at_once_leave_nothing
    an_oom_kill_is_told_before_the_exit_that_it_explains
    an_image_may_have_more_layers_than_a_page_of_options_names
    output_goes_to_files_and_to_programs
    ids_are_mapped
    layers_are_mapped_where_containerd_can_have_it
    containerd_may_die_at_any_moment_with_its_shims_or_without
    what_is_paused_can_be_killed
    many_execs_at_once_all_end_as_they_should
    a_root_file_system_may_be_a_folder_and_a_cgroup_anywhere
    what_is_not_supported_says_so
}
