//! Docker, with orlop as its only runtime.

use crate::host::{Daemon, Host, Release, until};
use crate::walk::{Base, Builder, Engine, Kind, walk};

/// How Docker comes to orlop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `runtimes` has the path of orlop, which containerd's own shim executes.
    Path,
    /// Our shim, under the name of containerd's: what Docker before 23 can be given.
    InPlace,
    /// `runtimes` has the type of our shim.
    Type,
}

/// A daemon on a host.
struct Docker<'a> {
    host: &'a Host,
    daemon: Option<Daemon>,
}

impl<'a> Docker<'a> {
    /// Takes all other runtimes away, and starts it.
    #[track_caller]
    fn new(host: &'a Host, way: Way, settings: &[(&str, serde_json::Value)]) -> Self {
        let script = "rm -f /usr/bin/runc /usr/sbin/runc /usr/bin/crun; ln -s orlop /usr/local/bin/runc";
        host.must(&["sh", "-ec", script]);
        let runtime = match way {
            Way::Path => serde_json::json!({"path": "/usr/local/bin/orlop"}),
            Way::InPlace => serde_json::json!({"path": "orlop"}),
            Way::Type => serde_json::json!({"runtimeType": "io.containerd.orlop.v2"}),
        };
        if way != Way::Path {
            let script = "rm -f /usr/bin/containerd-shim* && cd /usr/local/bin && ln containerd-shim-orlop-v2 containerd-shim-runc-v2";
            host.must(&["sh", "-ec", script]);
        }
        let mut config = serde_json::json!({
            "runtimes": {"orlop": runtime},
            "default-runtime": "orlop",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "storage-driver": "overlay2",
        });
        for (name, value) in settings {
            config[*name] = value.clone();
        }
        host.write("/etc/docker/daemon.json", config.to_string());
        let mut this = Self { host, daemon: None };
        this.start();
        this
    }

    /// Starts the daemon, and waits until it answers.
    #[track_caller]
    fn start(&mut self) {
        self.daemon = Some(self.host.daemon("dockerd", &["dockerd"]));
        until("Docker", || self.host.run(&[CLIENT, "version"]).ok().then_some(()));
    }

    fn engine(&self, builder: Builder) -> Engine<'a> {
        Engine { host: self.host, kind: Kind::Docker(builder), argv: vec![CLIENT.to_owned()] }
    }
}

/// The release's own: there may be another before it on the PATH.
const CLIENT: &str = "/usr/bin/docker";

#[track_caller]
fn the_walk(release: Release, way: Way, builder: Builder) {
    let topic = format!("the walk-through with Docker by {way:?} and {builder:?}");
    let Some(host) = Host::new(release, &topic, &["dockerd", "docker"]) else { return };
    let Some(base) = Base::new(&topic) else { return };
    let docker = Docker::new(&host, way, &[]);
    walk(&docker.engine(builder), &base);
}

#[test]
fn the_walk_through_with_docker_20_10() {
    the_walk(Release::Bookworm, Way::Path, Builder::Classic);
}
