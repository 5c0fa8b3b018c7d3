//! An engine as its users have it: a command line. What differs between the two is said here, and nowhere else.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use orlop_integration::Ran;
use serde_json::Value;

use crate::host::Host;
use crate::pty::Terminal;

/// Whose command line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Docker, which builds images in this way.
    Docker(Builder),
    /// Podman.
    Podman,
}

/// What builds Docker's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builder {
    /// The daemon: a container for each step.
    Classic,
    /// BuildKit, as a part of the daemon.
    BuildKit,
}

/// An engine on a host, ready for commands.
#[derive(Debug)]
pub(crate) struct Engine<'a> {
    /// Where it is.
    pub(crate) host: &'a Host,
    /// Whose command line it has.
    pub(crate) kind: Kind,
    /// The program, and the arguments that come before each command's own.
    pub(crate) argv: Vec<String>,
}

/// A row of an image's history.
#[derive(Debug)]
pub(super) struct Step {
    /// What it has added, in bytes.
    pub(super) size: u64,
    /// What has made it.
    pub(super) by: String,
}

impl Kind {
    /// How many bytes of an image's size may be those of its documents.
    pub(super) fn documents(self) -> u64 {
        match self {
            Self::Docker(_) => 0,
            Self::Podman => 64 << 10,
        }
    }

    /// Arguments for a registry that speaks plain HTTP on loopback.
    pub(super) fn insecure(self) -> &'static [&'static str] {
        match self {
            Self::Docker(_) => &[],
            Self::Podman => &["--tls-verify=false"],
        }
    }

    /// How many documents a pull fetches though the engine has them.
    pub(super) fn fetched_again(self) -> usize {
        match self {
            Self::Docker(_) => 0,
            // The configuration.
            Self::Podman => 1,
        }
    }

    /// Arguments for a commit with a message.
    pub(super) fn commit(self) -> &'static [&'static str] {
        match self {
            Self::Docker(_) => &[],
            // Images of the OCI's format have no place for one.
            Self::Podman => &["--format", "docker"],
        }
    }

    /// What `inspect` may say of a container that ended for want of memory.
    pub(super) fn out_of_memory(self) -> &'static [&'static str] {
        match self {
            Self::Docker(_) => &["true"],
            // conmon 2.1 does not hear of it with version 1 of cgroups, whatever the runtime.
            Self::Podman => &["true", "false"],
        }
    }

    /// How an image that was made here is listed.
    pub(super) fn listed(self, image: &str) -> String {
        match self {
            Self::Docker(_) => image.to_owned(),
            Self::Podman => format!("localhost/{image}"),
        }
    }

    /// How many steps a build says that it took from its cache.
    pub(super) fn cached(self, said: &str) -> usize {
        let mark = match self {
            Self::Docker(Builder::Classic) => "---> Using cache",
            Self::Docker(Builder::BuildKit) => " CACHED",
            Self::Podman => "--> Using cache",
        };
        said.lines().filter(|line| line.contains(mark)).count()
    }

    /// How many steps of a Dockerfile can be taken from a cache.
    pub(super) fn steps(self, dockerfile: &str) -> usize {
        let is = |line: &&str| match self {
            Self::Docker(Builder::Classic) => !line.starts_with("FROM"),
            // Steps without a file system of their own are no steps.
            Self::Docker(Builder::BuildKit) => ["WORKDIR", "COPY", "RUN"].iter().any(|word| line.starts_with(word)),
            Self::Podman => !line.starts_with("FROM"),
        };
        dockerfile.lines().filter(|line| !line.is_empty()).filter(is).count()
    }

    /// How many steps of a Dockerfile are said to be from the cache even if none shall be.
    pub(super) fn always_cached(self, dockerfile: &str) -> usize {
        match self {
            // A folder is nothing to make anew.
            Self::Docker(Builder::BuildKit) => dockerfile.lines().filter(|line| line.starts_with("WORKDIR")).count(),
            Self::Docker(Builder::Classic) | Self::Podman => 0,
        }
    }

    /// 512 MiB as `stats` prints a limit.
    pub(super) fn half_a_gibibyte(self) -> &'static str {
        match self {
            Self::Docker(_) => "512MiB",
            Self::Podman => "536.9MB",
        }
    }

    /// The beginning of `ps`'s status of a paused container.
    pub(super) fn is_paused(self, status: &str) -> bool {
        match self {
            Self::Docker(_) => status.starts_with("Up ") && status.ends_with("(Paused)"),
            Self::Podman => status == "Paused",
        }
    }
}

impl Engine<'_> {
    fn argv<'b>(&'b self, args: &[&'b str]) -> Vec<&'b str> {
        let environment: &[_] = match self.kind {
            Kind::Docker(Builder::Classic) => &["env", "DOCKER_BUILDKIT=0"],
            Kind::Docker(Builder::BuildKit) => &["env", "DOCKER_BUILDKIT=1"],
            Kind::Podman => &[],
        };
        let argv = self.argv.iter().map(String::as_str).chain(args.iter().copied());
        environment.iter().copied().chain(argv).collect()
    }

    /// A command that is not run yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.host.command(&self.argv(args))
    }

    /// Runs one to its end.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.host.ran(self.command(args))
    }

    /// The same, which must succeed. What it printed, without the last line's end.
    #[track_caller]
    pub(crate) fn must(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert!(ran.ok(), "{args:?}: {}: {}{}", ran.status, ran.out, ran.err);
        ran.out.trim_end().to_owned()
    }

    /// The same, which must be refused. What it said.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert!(!ran.ok(), "{args:?} is not refused: {}{}", ran.out, ran.err);
        ran.err
    }

    /// The exit status of a command, whatever it is, and all that it printed.
    #[track_caller]
    pub(crate) fn code(&self, args: &[&str]) -> (i32, String) {
        let argv = [&["sh", "-c", "\"$@\" 2>&1; code=$?; echo; echo $code", "sh"], self.argv(args).as_slice()].concat();
        let out = self.host.must(&argv);
        let (said, code) = out.trim_end().rsplit_once('\n').unwrap();
        (code.parse().unwrap(), said.trim_end().to_owned())
    }

    /// A command as a word for a shell. The arguments need no quotes, or have them.
    pub(super) fn shell(&self, args: &[&str]) -> String {
        self.argv(args).join(" ")
    }

    /// A command at a terminal.
    pub(crate) fn terminal(&self, args: &[&str]) -> Terminal {
        Terminal::run(&self.host.interactive(&self.argv(args)))
    }

    /// One value of a container or an image, by a template.
    #[track_caller]
    pub(crate) fn inspect(&self, name: &str, template: &str) -> String {
        self.must(&["inspect", "--format", template, name])
    }

    /// A container's status.
    #[track_caller]
    pub(crate) fn status(&self, name: &str) -> String {
        self.inspect(name, "{{.State.Status}}")
    }

    /// The pid of a container's init, as the host numbers it.
    #[track_caller]
    pub(crate) fn pid(&self, name: &str) -> i32 {
        self.inspect(name, "{{.State.Pid}}").parse().unwrap()
    }

    /// An image's id.
    #[track_caller]
    pub(crate) fn image_id(&self, name: &str) -> String {
        self.must(&["image", "inspect", "--format", "{{.Id}}", name])
    }

    /// What a port of the host answers, for which it has time; `None` if who listens ends without a word.
    pub(crate) fn get(&self, port: u16, path: &str) -> Option<String> {
        self.get_within(20, port, path)
    }

    /// Whether nothing is heard of a port for two seconds, or nobody listens there.
    pub(crate) fn is_silent(&self, port: u16) -> bool {
        self.get_within(2, port, "/").is_none()
    }

    fn get_within(&self, seconds: u32, port: u16, path: &str) -> Option<String> {
        let script = "exec 3<>/dev/tcp/127.0.0.1/$0 && printf 'GET %s HTTP/1.0\\r\\n\\r\\n' $1 >&3 && cat <&3";
        let ran = self.host.run(&["timeout", &seconds.to_string(), "bash", "-c", script, &port.to_string(), path]);
        let (head, body) = ran.out.split_once("\r\n\r\n")?;
        head.lines().next()?.contains(" 200 ").then(|| body.trim_end().to_owned())
    }

    /// Waits until a port of the host answers so.
    #[track_caller]
    pub(crate) fn answers(&self, port: u16, path: &str, want: &str) {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            let got = self.get(port, path);
            if got.as_deref() == Some(want) {
                return;
            }
            assert!(Instant::now() < give_up, "port {port}, {path}: {got:?} and not {want:?}");
            sleep(Duration::from_millis(30));
        }
    }

    /// Lets go of images without a name, and of layers that only the builder still has.
    #[track_caller]
    pub(super) fn forget_builds(&self) {
        self.must(&["image", "prune", "-f"]);
        if self.kind == Kind::Docker(Builder::BuildKit) {
            self.must(&["builder", "prune", "-a", "-f"]);
        }
    }

    /// An image's history, the newest first.
    #[track_caller]
    pub(super) fn history(&self, image: &str) -> Vec<Step> {
        let history = |format: &str| self.must(&["history", "--human=false", "--no-trunc", "--format", format, image]);
        match self.kind {
            Kind::Docker(_) => {
                let row = |line: &str| {
                    let (size, by) = line.split_once('|').unwrap();
                    Step { size: size.parse().unwrap(), by: by.to_owned() }
                };
                history("{{.Size}}|{{.CreatedBy}}").lines().map(row).collect()
            }
            // Its sizes are rounded in every other form.
            Kind::Podman => {
                let rows: Vec<Value> = serde_json::from_str(&history("json")).unwrap();
                let row = |row: &Value| Step {
                    size: row["size"].as_u64().unwrap(),
                    by: row["CreatedBy"].as_str().unwrap_or_default().to_owned(),
                };
                rows.iter().map(row).collect()
            }
        }
    }

    /// Removes containers, running or not.
    #[track_caller]
    pub(crate) fn remove(&self, names: &[&str]) {
        self.must(&[&["rm", "--force"], names].concat());
    }
}
