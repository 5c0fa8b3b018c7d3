//! Podman as root with conmon, and orlop as its only runtime: the guide's walk-through, and what else Podman's users
//! rely on.

mod files;
mod flags;
mod life;
mod monitor;
mod pods;

use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use orlop_integration::{Ran, skip};

use crate::host::{Host, Release, until};
use crate::image;
use crate::walk::{Base, Engine, Kind, walk};

/// The image of most tests.
const BUSYBOX: &str = "localhost/busybox:1";

/// What `containers.conf` says. Podman's own limits would be above this machine's, and to raise those takes a
/// capability that root may lack.
const CONFIGURATION: &str = r#"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "orlop"
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime_supports_json = ["orlop"]
runtime_supports_nocgroup = ["orlop"]
[engine.runtimes]
orlop = ["/usr/local/bin/orlop"]
"#;

/// Podman on a host.
#[derive(Debug, Clone, Copy)]
struct Podman<'a> {
    host: &'a Host,
}

impl<'a> Podman<'a> {
    /// With networks of a backend: `netavark` or `cni`.
    #[track_caller]
    fn new(host: &'a Host, backend: &str) -> Self {
        configure(host, backend);
        let this = Self { host };
        assert_eq!(
            this.must(&["info", "-f", "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Path}}"]),
            "orlop /usr/local/bin/orlop"
        );
        this
    }

    fn engine(self) -> Engine<'a> {
        // Podman 5 says at each command that it will give up version 1 of cgroups.
        let argv = ["env", "PODMAN_IGNORE_CGROUPSV1_WARNING=1", "podman"].map(str::to_owned).to_vec();
        Engine { host: self.host, kind: Kind::Podman, argv }
    }

    #[track_caller]
    fn run(self, args: &[&str]) -> Ran {
        self.engine().run(args)
    }

    #[track_caller]
    fn must(self, args: &[&str]) -> String {
        self.engine().must(args)
    }

    #[track_caller]
    fn inspect(self, name: &str, template: &str) -> String {
        self.engine().inspect(name, template)
    }

    /// A container that does nothing, and ends at once when it is asked to.
    #[track_caller]
    fn idle(self, name: &str, options: &[&str]) {
        let script = "trap 'exit 143' TERM; echo idle; while :; do sleep 0.1; done";
        self.must(&[&["run", "-d", "--name", name], options, &[BUSYBOX, "sh", "-c", script]].concat());
        // An init without a handler is not ended by a signal.
        until("its handler", || (self.must(&["logs", name]) == "idle").then_some(()));
    }

    /// Removes a container, whatever it does.
    #[track_caller]
    fn remove(self, name: &str) {
        self.must(&["rm", "--force", "--time", "0", name]);
    }

    /// What a command prints that is given an input.
    #[track_caller]
    fn fed(self, input: &str, args: &[&str]) -> String {
        let file = self.host.path("/srv/input");
        std::fs::write(&file, input).unwrap();
        let mut command = self.engine().command(args);
        command.stdin(Stdio::from(std::fs::File::open(file).unwrap()));
        self.host.ran(command).must().out
    }

    /// Ends the test if anything is left of containers and pods, now that all are removed.
    #[track_caller]
    fn assert_clean(self) {
        assert_eq!(self.must(&["ps", "--all", "--quiet"]), "");
        let residue = || {
            let mut left: Vec<_> =
                self.host.list("/run/orlop").into_iter().map(|name| format!("state {name}")).collect();
            // The name servers of networks are Podman's own.
            let processes = self.host.processes().into_iter().filter(|(_, what)| !what.contains("aardvark-dns"));
            left.extend(processes.map(|(pid, what)| format!("process {pid}: {what}")));
            // So are the stores' own mounts, and the cgroups that containers are put into; those of pods are forgotten in
            // hierarchies without a controller.
            let mounts = self.host.mounts().into_iter();
            let mounts = mounts.filter(|mount| mount.contains("/merged") || mount.contains("/shm"));
            left.extend(mounts.map(|mount| format!("mount {mount}")));
            let is_ours = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("libpod-");
            let cgroups = self.host.cgroups().into_iter().filter(is_ours);
            left.extend(cgroups.map(|path| format!("cgroup {}", path.display())));
            left
        };
        // Podman's last cleanup may still be at work.
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            let left = residue();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < give_up, "left behind: {left:#?}");
            sleep(Duration::from_millis(50));
        }
    }
}

/// Leaves orlop as the only runtime on a host, and makes Podman and buildah use it.
#[track_caller]
pub(crate) fn configure(host: &Host, backend: &str) {
    host.must(&[
        "sh",
        "-ec",
        "rm -f /usr/bin/runc /usr/sbin/runc /usr/bin/crun; mkdir -p /etc/cni/net.d; rm -f /etc/cni/net.d/*",
    ]);
    let networks = format!("[network]\nnetwork_backend = \"{backend}\"\nfirewall_driver = \"iptables\"\n");
    host.write("/etc/containers/containers.conf", format!("{CONFIGURATION}{networks}"));
    host.write("/etc/containers/policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#);
    host.write("/etc/containers/storage.conf", "[storage]\ndriver = \"overlay\"\nrunroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n");
    // Users of automatic user namespaces.
    host.write("/etc/subuid", "containers:200000:1000000\n");
    host.write("/etc/subgid", "containers:200000:1000000\n");
}

/// A host with all that Podman needs; `None`, said, without.
#[track_caller]
fn host(release: Release, topic: &str) -> Option<Host> {
    let host = Host::new(release, topic, &["podman", "conmon", "catatonit", "iptables"])?;
    for program in ["netavark", "aardvark-dns"] {
        if !host.path("/usr/lib/podman").join(program).exists() {
            skip(&format!("{topic}: no {program}"));
            return None;
        }
    }
    Some(host)
}

/// Podman on a host of a release, with the image [`BUSYBOX`]: some promises, and nothing left behind.
#[track_caller]
fn keeps(release: Release, what: &str, promises: &[Promise]) {
    let topic = format!("Podman: {what}");
    let Some(host) = host(release, &topic) else { return };
    let podman = Podman::new(&host, "netavark");
    load(podman);
    for (what, promise) in promises {
        let started = Instant::now();
        promise(podman);
        eprintln!("{:5.1} s: {what}", started.elapsed().as_secs_f64());
    }
    podman.assert_clean();
}

/// Loads the image [`BUSYBOX`].
#[track_caller]
fn load(podman: Podman) {
    image::archive(&podman.host.path("/srv/busybox.tar"), BUSYBOX, image::shell(), |layout| {
        vec![image::busybox(layout)]
    });
    podman.must(&["load", "--quiet", "--input", "/srv/busybox.tar"]);
}

/// What is promised, and a test of it.
type Promise = (&'static str, fn(Podman<'_>));

const CONTAINERS: [Promise; 12] = [
    ("flags", flags::all),
    ("refusals", flags::refusals),
    ("a life", life::states),
    ("exit statuses", life::statuses),
    ("exec", life::exec),
    ("terminals", life::terminals),
    ("streams", life::streams),
    ("signals", life::signals),
    ("restart policies", life::restarts),
    ("health checks", life::health),
    ("limits that change", life::update),
    ("what is not supported is refused", life::refused),
];

const REST: [Promise; 8] = [
    ("cp, diff, commit, mount, export", files::changes),
    ("volumes and secrets", files::volumes),
    ("user namespaces", files::users),
    ("file descriptors and readiness", files::descriptors),
    ("pods", pods::pods),
    ("kube play and generate", pods::kube),
    ("networks", pods::networks),
    ("conmon as CRI-O calls it", monitor::alone),
];

#[test]
fn containers_of_podman_4_3() {
    keeps(Release::Bookworm, "containers", &CONTAINERS);
}

#[test]
fn containers_of_podman_5_4() {
    keeps(Release::Trixie, "containers", &CONTAINERS);
}

#[test]
fn files_pods_and_networks_of_podman_4_3() {
    keeps(Release::Bookworm, "files, pods and networks", &REST);
}

#[test]
fn files_pods_and_networks_of_podman_5_4() {
    keeps(Release::Trixie, "files, pods and networks", &REST);
}

#[test]
fn networks_of_cni_with_podman_4_3() {
    let Some(host) = Host::new(Release::Bookworm, "Podman: CNI", &["podman", "conmon", "iptables"]) else { return };
    if !host.path("/usr/lib/cni/bridge").exists() {
        skip("Podman: CNI: no /usr/lib/cni/bridge");
        return;
    }
    let podman = Podman::new(&host, "cni");
    load(podman);
    pods::published(podman);
    podman.assert_clean();
}

/// The guide's walk-through.
#[track_caller]
fn the_walk(release: Release) {
    let topic = "the walk-through with Podman";
    let Some(host) = host(release, topic) else { return };
    let Some(base) = Base::new(topic) else { return };
    let podman = Podman::new(&host, "netavark");
    walk(&podman.engine(), &base);
    podman.assert_clean();
}

#[test]
fn the_walk_through_with_podman_4_3() {
    the_walk(Release::Bookworm);
}

#[test]
fn the_walk_through_with_podman_5_4() {
    the_walk(Release::Trixie);
}
