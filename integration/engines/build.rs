//! Builders whose RUN steps are orlop's: buildah, which executes the runtime that its configuration names, and
//! BuildKit, which executes what is called `runc`.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::docker::{Docker, Way};
use crate::host::{Host, Release, until};
use crate::image;
use crate::podman;
use crate::walk::Builder;

/// What every image begins with.
const BUSYBOX: &str = "localhost/busybox:1";

/// Two stages, and every kind of mount that a step can have.
const STAGES: &str = "\
FROM localhost/busybox:1 AS builder
ARG WHO=world
ENV MODE=prod
WORKDIR /src
COPY file .
RUN echo hello $WHO in $MODE >out && cat file >>out
RUN --mount=type=cache,target=/cache echo $WHO >>/cache/log && wc -l </cache/log >cached
RUN --mount=type=secret,id=word cat /run/secrets/word >told
RUN --mount=type=tmpfs,target=/fast grep -c ' /fast tmpfs ' /proc/mounts >fast
RUN --mount=type=bind,target=/context cat /context/file >bound
RUN grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | cut -f 2 >powers; ls /sys/class/net >networks
FROM localhost/busybox:1
COPY --from=builder /src /src
RUN echo all >/etc/motd && mkdir -m 777 /any
USER user
RUN id -u >/any/id; touch /etc/motd 2>/dev/null || echo not written >>/any/id
CMD [\"cat\", \"/src/out\"]
";

/// The steps of these that can be taken from a cache, at least.
const CACHED: usize = 10;

/// A step that fails, and a part of what is said of it.
const FAILING: [(&str, &str); 5] = [
    ("RUN exit 3", " 3"),
    ("RUN no-such-program", " 127"),
    ("RUN [\"no-such-program\"]", "exec: \\\"no-such-program\\\": executable file not found in $PATH"),
    ("RUN [\"/no/such\"]", "stat /no/such: ENOENT (no such file or directory)"),
    ("RUN [\"/etc/passwd\"]", "exec: \\\"/etc/passwd\\\": EACCES (permission denied)"),
];

/// Who builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    /// With every step isolated by the runtime.
    Buildah,
    /// As part of dockerd.
    BuildKit,
}

/// A builder on a host, in the folder `/srv`.
#[derive(Debug, Clone, Copy)]
struct Site<'a> {
    host: &'a Host,
    tool: Tool,
}

impl Site<'_> {
    fn argv<'b>(&self, file: &'b str, options: &[&'b str]) -> Vec<&'b str> {
        match self.tool {
            Tool::Buildah => [&["buildah", "bud", "--layers", "-f", file], options, &["."]].concat(),
            Tool::BuildKit => {
                let start = ["env", "DOCKER_BUILDKIT=1", "/usr/bin/docker", "build", "--progress", "plain", "-f", file];
                [&start, options, &["."]].concat()
            }
        }
    }

    /// Builds from a file; the exit status, and all that is said.
    #[track_caller]
    fn build(&self, dockerfile: &str, options: &[&str]) -> (i32, String) {
        self.host.write("/srv/Dockerfile", dockerfile);
        let ran = self.host.run(&self.argv("Dockerfile", options));
        (ran.status.code().unwrap(), ran.out + &ran.err)
    }

    /// The same, which must succeed. What was said.
    #[track_caller]
    fn builds(&self, dockerfile: &str, options: &[&str]) -> String {
        let (code, said) = self.build(dockerfile, options);
        assert_eq!(code, 0, "{said}");
        said
    }

    /// What a command prints in an image; without one, the image's own.
    #[track_caller]
    fn run(&self, image: &str, command: &[&str]) -> String {
        let start: &[_] = match self.tool {
            Tool::Buildah => &["podman", "run", "--rm", "--network", "none"],
            Tool::BuildKit => &["/usr/bin/docker", "run", "--rm", "--network", "none"],
        };
        self.host.must(&[start, &[image], command].concat())
    }

    fn cached(&self, said: &str) -> usize {
        let mark = match self.tool {
            Tool::Buildah => "--> Using cache",
            Tool::BuildKit => " CACHED",
        };
        said.lines().filter(|line| line.contains(mark)).count()
    }
}

/// Two stages, the cache, and mounts.
fn stages(site: Site) {
    site.host.write("/srv/file", "from the context\n");
    site.host.write("/srv/word", "told nobody\n");
    let options = ["--secret", "id=word,src=word", "-t", "staged:1"];
    site.builds(STAGES, &options);
    assert_eq!(site.run("staged:1", &[]), "hello world in prod\nfrom the context\n");
    let files = ["cached", "told", "fast", "bound", "powers"].map(|name| format!("/src/{name}"));
    let cat: Vec<_> = std::iter::once("cat").chain(files.iter().map(String::as_str)).collect();
    assert_eq!(site.run("staged:1", &cat), "1\ntold nobody\n1\nfrom the context\n0\n2\n");
    assert_eq!(site.run("staged:1", &["cat", "/src/networks"]), "eth0\nlo\n");
    assert_eq!(site.run("staged:1", &["cat", "/etc/motd", "/any/id"]), "all\n1000\nnot written\n");

    let again = site.builds(STAGES, &options);
    assert!(site.cached(&again) >= CACHED, "{again}");
    let options = ["--secret", "id=word,src=word", "-t", "staged:2", "--build-arg", "WHO=you"];
    let other = site.builds(STAGES, &options);
    assert!(site.cached(&other) < CACHED, "{other}");
    assert_eq!(site.run("staged:2", &[]), "hello you in prod\nfrom the context\n");
    assert_eq!(site.run("staged:2", &["cat", "/src/cached"]), "2\n");
}

/// Steps that fail: the status, and the runtime's words.
fn failing(site: Site) {
    for (step, text) in FAILING {
        let (code, said) = site.build(&format!("FROM {BUSYBOX}\n{step}\n"), &[]);
        // buildah quotes what it was told; BuildKit passes it on.
        let plain = text.replace('\\', "");
        assert!(said.contains(text) || said.contains(&plain), "{step}: {said}");
        let want = match (site.tool, text.trim().parse::<i32>()) {
            (Tool::Buildah, Ok(status)) => status,
            _ => 1,
        };
        assert_eq!(code, want, "{step}: {said}");
    }
}

/// Networks, and what else options give to the steps.
fn options(site: Site) {
    let file = |step: &str| format!("FROM {BUSYBOX}\nRUN {step}\n");
    let networks = file("echo networks: $(ls /sys/class/net)");
    assert!(site.builds(&networks, &["--network", "none"]).contains("networks: lo\n"));
    site.host.must(&["busybox", "ip", "link", "add", "mark", "type", "bridge"]);
    let (_, said) = site.build(&networks, &["--network", "host", "--no-cache"]);
    assert!(said.contains(" mark"), "{said}");
    site.host.must(&["busybox", "ip", "link", "del", "mark"]);
    let said =
        site.builds(&file("grep mate /etc/hosts; cat /proc/self/oom_score_adj"), &["--add-host", "mate:192.0.2.9"]);
    assert!(said.contains("192.0.2.9\tmate"), "{said}");
    if site.tool == Tool::Buildah {
        let limits = ["--memory", "64m", "--ulimit", "nofile=55:66", "--shm-size", "2m"];
        let memory = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
        let said =
            site.builds(&file(&format!("ulimit -n; {memory}; df -k /dev/shm | tail -1 | awk '{{print $2}}'")), &limits);
        assert!(said.contains("55\n67108864\n2048\n"), "{said}");
        let map = ["--userns-uid-map", "0:100000:65536", "--userns-gid-map", "0:100000:65536", "--userns", "container"];
        let said = site.builds(&file("echo $(cat /proc/self/uid_map)"), &map);
        assert!(said.contains("0 100000 65536"), "{said}");
        // The other form of isolation needs no runtime.
        assert!(site.builds(&file("echo in a chroot"), &["--isolation", "chroot"]).contains("in a chroot"));
    }
}

/// What newer frontends know: scripts in the file, and networks of single steps.
fn newer(site: Site) {
    let script = format!("FROM {BUSYBOX}\nRUN <<EOF\nset -e\necho first >/x\necho and $(cat /x)\nEOF\n");
    assert!(site.builds(&script, &[]).contains("and first"));
    let network = format!("FROM {BUSYBOX}\nRUN --network=none echo networks: $(ls /sys/class/net)\n");
    assert!(site.builds(&network, &["--no-cache"]).contains("networks: lo\n"));
}

/// A build that its user breaks off ends, with all that its step has started.
fn broken_off(site: Site) {
    site.host.write("/srv/Slow", format!("FROM {BUSYBOX}\nRUN sleep 1717 & sleep 1717\n"));
    let steps = || site.host.processes().into_iter().filter(|(_, what)| what == "sleep 1717").count();
    let builder = match site.tool {
        Tool::Buildah => "buildah bud",
        Tool::BuildKit => "/usr/bin/docker build",
    };
    let mut build = site.host.command(&site.argv("Slow", &["--network", "none"])).spawn().unwrap();
    until("the step", || (steps() == 2).then_some(()));
    let is_builder = |what: &String| what.starts_with(builder) || what.starts_with("buildx");
    for (pid, _) in site.host.processes().into_iter().filter(|(_, what)| is_builder(what)) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
    }
    build.wait().unwrap();
    until("the end of the step", || (steps() == 0).then_some(()));
}

/// buildah's own containers.
fn containers(site: Site) {
    let host = site.host;
    let from = || host.must(&["buildah", "from", BUSYBOX]).trim().to_owned();
    let name = from();
    let run =
        |options: &[&str], command: &[&str]| host.run(&[&["buildah", "run"], options, &[&name], command].concat());
    assert_eq!(run(&[], &["id", "-un"]).must().out, "root\n");
    assert_eq!(run(&["--user", "user"], &["id", "-un"]).must().out, "user\n");
    assert_eq!(run(&["--env", "A=b"], &["sh", "-c", "echo $A"]).must().out, "b\n");
    assert_eq!(run(&["--network", "none"], &["ls", "/sys/class/net"]).must().out, "lo\n");
    assert_eq!(
        run(&["--terminal"], &["sh", "-c", "tty 2>&1 || readlink /proc/self/fd/0"]).must().out.trim(),
        "/dev/pts/0"
    );
    assert_eq!(run(&["--mount", "type=tmpfs,dst=/fast"], &["grep", "-c", "/fast", "/proc/mounts"]).must().out, "1\n");
    assert_eq!(run(&["--isolation", "chroot"], &["echo", "chroot"]).must().out, "chroot\n");
    assert_eq!(run(&["--runtime", "/usr/local/bin/orlop"], &["echo", "named"]).must().out, "named\n");
    let flags = ["--runtime-flag", "log-format=json", "--runtime-flag", "log=/srv/runtime-log"];
    let ran = run(&flags, &["no-such-program"]);
    assert!(!ran.ok());
    assert!(host.read("/srv/runtime-log").contains(r#"exec: \"no-such-program\": executable file not found in $PATH"#));
    assert_eq!(run(&[], &["sh", "-c", "exit 42"]).status.code(), Some(42));
    // No step says more than its own words.
    assert_eq!(run(&[], &["true"]).err, "");
    host.must(&["buildah", "rm", &name]);
}

/// Runs the parts, and sees that nothing of a container is left.
#[track_caller]
fn keeps(site: Site, parts: &[Part]) {
    image::archive(&site.host.path("/srv/busybox.tar"), BUSYBOX, image::shell(), |layout| vec![image::busybox(layout)]);
    let load: &[_] = match site.tool {
        Tool::Buildah => &["podman", "load", "-i", "busybox.tar"],
        Tool::BuildKit => &["/usr/bin/docker", "load", "-i", "busybox.tar"],
    };
    site.host.must(load);
    for (what, part) in parts {
        let started = Instant::now();
        part(site);
        eprintln!("{:5.1} s: {what}", started.elapsed().as_secs_f64());
    }
    let give_up = Instant::now() + Duration::from_secs(30);
    while !site.host.list("/run/orlop").is_empty() {
        assert!(Instant::now() < give_up, "left behind: {:?}", site.host.list("/run/orlop"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn with_buildah(release: Release, parts: &[Part]) {
    let Some(host) = Host::new(release, "buildah", &["buildah", "podman"]) else { return };
    podman::configure(&host, "netavark");
    let site = Site { host: &host, tool: Tool::Buildah };
    keeps(site, parts);
    keeps(site, &[("containers", containers)]);
}

#[track_caller]
fn with_buildkit(release: Release, parts: &[Part]) {
    let Some(host) = Host::new(release, "BuildKit", &["dockerd", "docker"]) else { return };
    let docker = Docker::new(&host, Way::Path, serde_json::json!({}));
    assert_eq!(docker.built_by(Builder::BuildKit).must(&["images", "--quiet"]), "");
    keeps(Site { host: &host, tool: Tool::BuildKit }, parts);
}

/// A part of what builders do, and a test of it.
type Part = (&'static str, fn(Site<'_>));

const PARTS: [Part; 4] =
    [("stages", stages), ("failing steps", failing), ("options", options), ("a build that is broken off", broken_off)];

const NEWER: [Part; 5] = [PARTS[0], PARTS[1], PARTS[2], PARTS[3], ("newer instructions", newer)];

#[test]
fn steps_of_buildah_1_28() {
    with_buildah(Release::Bookworm, &PARTS);
}

#[test]
fn steps_of_buildah_1_39() {
    with_buildah(Release::Trixie, &NEWER);
}

#[test]
fn steps_of_buildkit_in_docker_20_10() {
    with_buildkit(Release::Bookworm, &PARTS);
}

#[test]
fn steps_of_buildkit_in_docker_26() {
    with_buildkit(Release::Trixie, &NEWER);
}
