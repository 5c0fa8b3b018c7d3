//! containerd 1.6, 1.7 and the newest, by `ctr`, with the shim.

use nix::sys::signal::Signal;
use orlop_integration::Ran;

use crate::host::{Daemon, Host, Release, until};
use crate::image;
use crate::pty::Terminal;

/// How containerd calls the shim.
pub(crate) const RUNTIME: &str = "io.containerd.orlop.v2";
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
        self.daemon = Some(self.host.daemon("containerd", &["containerd", "--log-level", "debug"]));
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

    /// Ends the test if anything is left of containers, now that all are deleted.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let daemon = self.daemon.as_ref().map(|daemon| daemon.pid);
        let residue = || {
            let host = &self.host;
            let processes = host.processes().into_iter().filter(|(pid, _)| Some(*pid) != daemon);
            let mut left: Vec<_> = processes.map(|(pid, what)| format!("process {pid}: {what}")).collect();
            left.extend(host.mounts().iter().map(|mount| format!("mount {mount}")));
            // The cgroup of a namespace stays, as it does with other runtimes.
            let cgroups = host.cgroups().into_iter().filter(|path| !path.ends_with("default"));
            left.extend(cgroups.map(|path| format!("cgroup {}", path.display())));
            for folder in ["/run/containerd/s", "/run/orlop", "/run/containerd/io.containerd.runtime.v2.task/default"] {
                left.extend(host.list(folder).iter().map(|name| format!("{folder}/{name}")));
            }
            left
        };
        // The last shim ends after containerd has its answer.
        let mut left = residue();
        for _ in 0..100 {
            if left.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            left = residue();
        }
        panic!("left behind: {left:#?}");
    }
}

fn exit_codes_reach_the_caller(release: Release) {
    let Some(containerd) = Containerd::new(release, "exit codes") else { return };
    for (script, code) in
        [("echo out; echo err >&2", 0), ("exit 7", 7), ("sh -c 'kill -9 $$'; exit $?", 137), ("exit 255", 255)]
    {
        let run = ["run", "--rm", "--runtime", RUNTIME, BUSYBOX, "c1", "sh", "-c", script];
        let ran = containerd.ctr(&run);
        assert_eq!(ran.status.code(), Some(code), "{script}: {}{}", ran.out, ran.err);
        if code == 0 {
            assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
        }
    }
    containerd.assert_clean();
}

fn a_terminal_is_the_containers_own(release: Release) {
    let Some(containerd) = Containerd::new(release, "terminal") else { return };
    let run = ["ctr", "run", "--rm", "-t", "--runtime", RUNTIME, BUSYBOX, "c1", "sh"];
    let mut terminal = Terminal::run(&containerd.host.interactive(&run));
    terminal.expect("/ # ");
    terminal.type_in("tty; stty size; echo $((6 * 7))\n");
    let shown = terminal.expect("\n42\r");
    // ctr leaves our terminal a newline more.
    assert!(shown.replace("\r\r", "\r").contains("/dev/pts/0\r\n30 100\r"), "{shown:?}");
    terminal.type_in("sh -c 'echo asleep; exec sleep 60'\n");
    terminal.expect("\nasleep\r");
    terminal.type_in("\x03");
    terminal.expect("/ # ");
    terminal.type_in("exit 5\n");
    assert_eq!(terminal.wait(), 5);
    containerd.assert_clean();
}

fn an_exit_while_containerd_is_down_is_seen_after(release: Release) {
    let Some(mut containerd) = Containerd::new(release, "restart") else { return };
    for (id, script) in [("ends", "while [ ! -e /end ]; do sleep 0.1; done; exit 9"), ("stays", "sleep 1000")] {
        containerd.must(&["run", "-d", "--runtime", RUNTIME, BUSYBOX, id, "sh", "-c", script]);
    }
    let root = containerd.host.path("/run/containerd/io.containerd.runtime.v2.task/default/ends/rootfs");
    containerd.stop(Signal::SIGKILL);
    std::fs::write(root.join("end"), "").unwrap();
    until("the container's end", || {
        (!containerd.host.processes().iter().any(|(_, what)| what.contains("/end"))).then_some(())
    });
    containerd.start();
    let tasks = containerd.must(&["tasks", "list"]);
    let status = |id: &str| {
        tasks.lines().find(|line| line.starts_with(id)).unwrap().split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!((status("ends"), status("stays")), ("STOPPED".into(), "RUNNING".into()), "{tasks}");
    assert!(containerd.ctr(&["tasks", "delete", "ends"]).err.contains("exit code 9"));
    containerd.must(&["tasks", "kill", "--signal", "KILL", "stays"]);
    until("its end", || containerd.must(&["tasks", "list"]).contains("STOPPED").then_some(()));
    assert!(containerd.ctr(&["tasks", "delete", "stays"]).err.contains("exit code 137"));
    containerd.must(&["containers", "delete", "ends", "stays"]);
    containerd.assert_clean();
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
    exit_codes_reach_the_caller
    a_terminal_is_the_containers_own
    an_exit_while_containerd_is_down_is_seen_after
}
