//! Docker, with orlop as its only runtime: the guide's walk-through, and what else Docker's users rely on.

mod flags;
mod life;
mod remap;
mod restart;

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use orlop_integration::{Ran, long, skip};
use serde_json::{Value, json};

use crate::host::{Daemon, Host, Release, until};
use crate::walk::{Base, Builder, Engine, Kind, busybox, walk};

/// The release's own: there may be another before it on the PATH.
const CLIENT: &str = "/usr/bin/docker";

/// How Docker comes to orlop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `runtimes` has the path of orlop, which containerd's own shim executes.
    Path,
    /// Our shim has the name of containerd's: what Docker before 23 can be given.
    InPlace,
    /// `runtimes` has the type of our shim: since 24.
    Type,
}

/// A daemon on a host.
pub(crate) struct Docker<'a> {
    host: &'a Host,
    daemon: Option<Daemon>,
}

impl<'a> Docker<'a> {
    /// Takes all other runtimes away, and starts it.
    #[track_caller]
    pub(crate) fn new(host: &'a Host, way: Way, settings: Value) -> Self {
        // BuildKit executes what is called runc.
        let mut script = "rm -f /usr/bin/runc /usr/sbin/runc /usr/bin/crun; ln -s orlop /usr/local/bin/runc".to_owned();
        let runtime = match way {
            Way::Path => json!({"path": "/usr/local/bin/orlop"}),
            Way::InPlace => json!({"path": "orlop"}),
            Way::Type => json!({"runtimeType": "io.containerd.orlop.v2"}),
        };
        if way != Way::Path {
            script.push_str("; rm -f /usr/bin/containerd-shim*");
        }
        if way == Way::InPlace {
            script.push_str("; ln -s containerd-shim-orlop-v2 /usr/local/bin/containerd-shim-runc-v2");
        }
        host.must(&["sh", "-ec", &script]);
        let mut config = json!({
            "runtimes": {"orlop": runtime},
            "default-runtime": "orlop",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "storage-driver": "overlay2",
        });
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
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

    /// Ends the daemon.
    #[track_caller]
    fn stop(&mut self, signal: Signal) {
        self.daemon.take().unwrap().stop(signal);
    }

    pub(crate) fn built_by(&self, builder: Builder) -> Engine<'a> {
        Engine { host: self.host, kind: Kind::Docker(builder), argv: vec![CLIENT.to_owned()] }
    }

    fn engine(&self) -> Engine<'a> {
        self.built_by(Builder::Classic)
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Ran {
        self.engine().run(args)
    }

    #[track_caller]
    fn must(&self, args: &[&str]) -> String {
        self.engine().must(args)
    }

    #[track_caller]
    fn refused(&self, args: &[&str]) -> String {
        self.engine().refused(args)
    }

    #[track_caller]
    fn inspect(&self, name: &str, template: &str) -> String {
        self.engine().inspect(name, template)
    }

    /// Ends the test if anything is left of any container, now that all are removed.
    #[track_caller]
    fn assert_clean(&self) {
        assert_eq!(self.must(&["ps", "-aq"]), "");
        let left = || {
            let shims = self.host.processes().into_iter().map(|(_, arguments)| arguments);
            let shims = shims.filter(|arguments| arguments.contains("shim") || arguments.ends_with("sleep 1000"));
            let mounts = self.host.mounts().into_iter();
            let mounts = mounts.filter(|mount| mount.contains("/merged") || mount.contains("/rootfs"));
            let cgroups = self.host.cgroups().into_iter().map(|path| path.display().to_string());
            let cgroups = cgroups.filter(|path| path.rsplit('/').next().is_some_and(|name| name.len() == 64));
            let states = ["runtime-runc", "runtime-orlop"].map(|name| format!("/run/docker/{name}/moby"));
            let states = states.into_iter().flat_map(|dir| self.host.list(&dir));
            shims.chain(mounts).chain(cgroups).chain(states).collect::<Vec<_>>()
        };
        // A shim ends a moment after its container.
        let give_up = Instant::now() + Duration::from_secs(30);
        while !left().is_empty() {
            assert!(Instant::now() < give_up, "left behind: {:#?}", left());
            sleep(Duration::from_millis(50));
        }
    }
}

/// Whether this is the long form; said if not.
fn long_form_only(topic: &str) -> bool {
    if !long() {
        skip(&format!("{topic}: in the long form only"));
    }
    long()
}

#[track_caller]
fn the_walk(release: Release, way: Way, builder: Builder) {
    let topic = format!("the walk-through with Docker, {way:?}, {builder:?}");
    let Some(host) = Host::new(release, &topic, &["dockerd", "docker"]) else { return };
    let Some(base) = Base::new(&topic) else { return };
    let docker = Docker::new(&host, way, json!({}));
    walk(&docker.built_by(builder), &base);
    docker.assert_clean();
}

#[test]
fn the_walk_through_with_docker_20_10() {
    the_walk(Release::Bookworm, Way::InPlace, Builder::Classic);
}

/// Something that is done with a daemon, and asserted.
type Promise = fn(&Docker);

/// All promises but the walk-through's, on one daemon.
#[track_caller]
fn the_promises(release: Release, way: Way) {
    let topic = format!("the promises of Docker, {way:?}");
    let Some(host) = Host::new(release, &topic, &["dockerd", "docker"]) else { return };
    let mut docker = Docker::new(&host, way, json!({"live-restore": true}));
    busybox(&docker.engine());
    let promises: [(&str, Promise); 10] = [
        ("flags", flags::all),
        ("health checks", life::health),
        ("update", life::update),
        ("top and cp", life::top_and_cp),
        ("events", life::events),
        ("out of memory", life::out_of_memory),
        ("--init", life::init),
        ("attach, rename, export", life::odds_and_ends),
        ("thirty at once", life::many),
        ("the death of a shim", life::shim_killed),
    ];
    for (what, promise) in promises {
        eprintln!("{what}");
        promise(&docker);
        docker.assert_clean();
    }
    eprintln!("restarts of the daemon");
    // With containerd's own shim, Docker 26 knows no status of an end that it has missed; so it is with runc, too.
    let missed = if (release, way) == (Release::Trixie, Way::Path) { 255 } else { 5 };
    restart::restored(&mut docker, missed);
    docker.assert_clean();
}

#[test]
fn the_walk_through_with_docker_20_10_buildkit_and_a_path() {
    if long_form_only("the walk-through with Docker, Path, BuildKit") {
        the_walk(Release::Bookworm, Way::Path, Builder::BuildKit);
    }
}

#[test]
fn the_walk_through_with_docker_26() {
    the_walk(Release::Trixie, Way::Type, Builder::BuildKit);
}

#[test]
fn docker_20_10_keeps_its_promises_by_a_path() {
    if long_form_only("the promises of Docker, Path") {
        the_promises(Release::Bookworm, Way::Path);
    }
}

#[test]
fn docker_20_10_keeps_its_promises_with_our_shim_in_place() {
    the_promises(Release::Bookworm, Way::InPlace);
}

#[test]
fn docker_26_keeps_its_promises_by_a_path() {
    the_promises(Release::Trixie, Way::Path);
}

#[test]
fn docker_26_keeps_its_promises_by_our_shims_type() {
    the_promises(Release::Trixie, Way::Type);
}

#[track_caller]
fn with_mapped_users(release: Release, way: Way) {
    let topic = format!("Docker with userns-remap, {way:?}");
    let Some(host) = Host::new(release, &topic, &["dockerd", "docker"]) else { return };
    host.write("/etc/subuid", "nobody:100000:65536\n");
    host.write("/etc/subgid", "nobody:100000:65536\n");
    let docker = Docker::new(&host, way, json!({"userns-remap": remap::SETTING}));
    busybox(&docker.engine());
    remap::mapped(&docker);
    docker.assert_clean();
}

#[test]
fn docker_20_10_maps_users() {
    with_mapped_users(Release::Bookworm, Way::InPlace);
}

#[test]
fn docker_26_maps_users() {
    with_mapped_users(Release::Trixie, Way::Type);
}
