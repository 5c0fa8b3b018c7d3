//! A node: a host with containerd, an image, a network for pods, and the handlers that lead to orlop. And what a
//! kubelet asks of it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use orlop_integration::skip;
use orlop_shim::wire::Message;
use serde_json::json;

use super::client::{Client, Reply};
use super::stream::Stream;
use crate::host::{Daemon, Host, Release, until};
use crate::image;

/// The shim by its own name.
pub(crate) const ORLOP: &str = "orlop";
/// The shim in the place of runc's, whose options it is given.
pub(crate) const IN_RUNCS_PLACE: &str = "runcs";
/// The shim as the keeper of pods too, without a pause container. containerd 2 knows it.
pub(crate) const SANDBOXER: &str = "sandboxer";

const CONFIG: &str = "/etc/containerd/config.toml";
const SHIM: &str = "/usr/local/bin/containerd-shim-orlop-v2";

/// Where pods' logs are.
pub(crate) const LOGS: &str = "/srv/logs";

/// The pods' network: a bridge, without a word to the firewall.
const NETWORK: &str = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [
    {"type": "bridge", "bridge": "pods0", "isGateway": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}"#;

/// The one image is busybox, and it is the pause image too.
const IMAGE: &str = "registry.example/busybox:1";

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Node {
    /// The host.
    pub(crate) host: Host,
    release: Release,
    client: Client,
    containerd: Option<Daemon>,
}

impl Node {
    /// A new one, whose containerd has begun; `None`, said aloud, where it can't be had.
    pub(crate) fn new(release: Release, topic: &str) -> Option<Self> {
        let host = Host::new(release, topic, &["containerd", "ctr"])?;
        if host.list("/usr/lib/cni").is_empty() {
            skip(&format!("{topic}: no containernetworking-plugins"));
            return None;
        }
        host.write("/etc/cni/net.d/10-pods.conflist", NETWORK);
        host.write(CONFIG, config(release));
        let client = Client::new(host.path("/run/containerd/containerd.sock"));
        let mut node = Self { host, release, client, containerd: None };
        node.start_containerd();
        // For the pause container, which has no shell's input to wait for.
        let command = json!({"Cmd": ["sleep", "1000000"], "Env": ["PATH=/bin"]});
        image::archive(&node.host.path("/srv/image.tar"), IMAGE, command, |layout| vec![image::busybox(layout)]);
        node.host.must(&["ctr", "-n", "k8s.io", "images", "import", "/srv/image.tar"]);
        Some(node)
    }

    /// Starts containerd, and waits until it answers.
    #[track_caller]
    pub(crate) fn start_containerd(&mut self) {
        self.containerd = Some(self.host.daemon("containerd", &["containerd", "--config", CONFIG]));
        until("containerd to be ready", || {
            // Conditions of the runtime and of the network, which it reads soon after.
            let status = self.client.call("Status", &Message::new()).ok()?.message(1);
            status.messages(1).iter().all(|condition| condition.number(2) == 1).then_some(())
        });
    }

    /// Ends containerd.
    #[track_caller]
    pub(crate) fn stop_containerd(&mut self) {
        self.containerd.take().unwrap().stop(Signal::SIGTERM);
    }

    /// The handlers that containerd has for all pods: 1.6 does not heed `runtime_path`, and before 2 nobody but
    /// itself keeps pods.
    pub(crate) fn handlers(&self) -> &'static [&'static str] {
        match self.release {
            Release::Bookworm => &[ORLOP],
            Release::Trixie => &[ORLOP, IN_RUNCS_PLACE],
            Release::Sid => &[ORLOP, IN_RUNCS_PLACE, SANDBOXER],
        }
    }

    /// A call that is answered.
    #[track_caller]
    pub(crate) fn call(&self, method: &str, request: &Message) -> Reply {
        self.try_call(method, request).unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
    }

    /// A call.
    pub(crate) fn try_call(&self, method: &str, request: &Message) -> Result<Reply, String> {
        self.client.call(method, request)
    }

    /// A call about one pod or container.
    #[track_caller]
    pub(crate) fn about(&self, method: &str, id: &str) -> Reply {
        self.call(method, &Message::new().text(1, id))
    }

    /// Runs a pod. Its id.
    #[track_caller]
    pub(crate) fn run(&self, pod: &Pod<'_>) -> String {
        let request = Message::new().message(1, &pod.message()).text(2, pod.handler);
        self.call("RunPodSandbox", &request).text(1)
    }

    /// Makes a container in a pod. Its id.
    #[track_caller]
    pub(crate) fn create(&self, id: &str, pod: &Pod<'_>, container: &Container<'_>) -> String {
        self.try_create(id, pod, container).unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
    }

    /// The same, which may fail.
    pub(crate) fn try_create(&self, id: &str, pod: &Pod<'_>, container: &Container<'_>) -> Result<String, String> {
        let request = Message::new().text(1, id).message(2, &container.message(pod)).message(3, &pod.message());
        Ok(self.try_call("CreateContainer", &request)?.text(1))
    }

    /// Makes a container in a pod and starts it. Its id.
    #[track_caller]
    pub(crate) fn start(&self, id: &str, pod: &Pod<'_>, container: &Container<'_>) -> String {
        let container = self.create(id, pod, container);
        self.about("StartContainer", &container);
        container
    }

    /// Runs a shell's script in a container to its end. What it printed, on both, and its status.
    #[track_caller]
    pub(crate) fn exec(&self, id: &str, script: &str) -> (String, String, u64) {
        let request =
            ["sh", "-c", script].iter().fold(Message::new().text(1, id), |m, word| m.bytes(2, word.as_bytes()));
        let answer = self.call("ExecSync", &request.number(3, 20u32));
        (answer.text(1), answer.text(2), answer.number(3))
    }

    /// The output of a script that succeeds.
    #[track_caller]
    pub(crate) fn sh(&self, id: &str, script: &str) -> String {
        let (out, err, status) = self.exec(id, script);
        assert_eq!((err.as_str(), status), ("", 0), "{script}: {out}");
        out
    }

    /// A stream to a command in a container (`Exec`), or to its first process (`Attach`, whose request lacks `cmd`).
    #[track_caller]
    pub(crate) fn stream(&self, method: &str, request: &Message) -> Stream {
        Stream::open(self.host.network(), &self.call(method, request).text(1))
    }

    /// A container's status.
    #[track_caller]
    pub(crate) fn status(&self, container: &str) -> Status {
        let status = self.about("ContainerStatus", container).message(1);
        Status { state: status.number(3), exit_code: status.number(7), reason: status.text(10) }
    }

    /// Waits for a container's end.
    #[track_caller]
    pub(crate) fn end(&self, container: &str) -> Status {
        until("the container's end", || Some(self.status(container)).filter(|status| status.state == EXITED))
    }

    /// Stops a pod and removes it.
    #[track_caller]
    pub(crate) fn remove(&self, pod: &str) {
        self.about("StopPodSandbox", pod);
        self.about("RemovePodSandbox", pod);
    }

    /// The pids of all shims.
    pub(crate) fn shims(&self) -> Vec<i32> {
        let is_shim = |(pid, arguments): (i32, String)| arguments.contains("containerd-shim-orlop-v2").then_some(pid);
        self.host.processes().into_iter().filter_map(is_shim).collect()
    }

    /// Waits until nothing is left of any pod: no process, no mount, no cgroup, no socket, no state.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let left = || {
            let processes = self.host.processes().into_iter().map(|(pid, arguments)| format!("{pid} {arguments}"));
            let processes = processes.filter(|process| !process.contains("containerd --config"));
            let mut left: Vec<_> = processes.chain(self.host.mounts()).collect();
            // The parent of all pods' stays.
            let cgroups = self.host.cgroups().into_iter().filter(|path| !path.ends_with("k8s.io"));
            left.extend(cgroups.map(|path| path.display().to_string()));
            let task = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
            for folder in ["/run/containerd/s", "/run/containerd/orlop/k8s.io", "/run/containerd/runc/k8s.io", task] {
                left.extend(self.host.list(folder).iter().map(|name| format!("{folder}/{name}")));
            }
            left
        };
        let patience = Instant::now() + Duration::from_secs(30);
        while !left().is_empty() {
            assert!(Instant::now() < patience, "left behind: {:#?}\n{}", left(), self.log());
            sleep(Duration::from_millis(50));
        }
    }

    /// The end of what containerd and the shims have said.
    pub(crate) fn log(&self) -> String {
        self.host.log("containerd")
    }
}

/// `CONTAINER_RUNNING`.
pub(crate) const RUNNING: u64 = 1;
/// `CONTAINER_EXITED`.
pub(crate) const EXITED: u64 = 2;

/// What is said of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) state: u64,
    pub(crate) exit_code: u64,
    pub(crate) reason: String,
}

/// Whose namespace.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Whose {
    #[default]
    Pod = 0,
    Container = 1,
    Node = 2,
}

/// A pod that is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pod<'a> {
    pub(crate) name: &'a str,
    pub(crate) handler: &'a str,
    pub(crate) network: Whose,
    /// [`Whose::Pod`] is one for all containers; the kubelet's default is one for each.
    pub(crate) pids: Whose,
    /// Where on the host ids of the pod's user namespace begin.
    pub(crate) users: Option<u32>,
    /// Who resolves its names; the host's resolvers if there is nobody.
    pub(crate) dns: &'a [&'a str],
    pub(crate) sysctls: &'a [(&'a str, &'a str)],
    pub(crate) cgroup: &'a str,
}

fn map(message: Message, field: u32, entries: &[(&str, &str)]) -> Message {
    entries.iter().fold(message, |m, (key, value)| m.message(field, &Message::new().text(1, key).text(2, value)))
}

impl Pod<'_> {
    fn mapping(&self) -> Option<Message> {
        self.users.map(|host| Message::new().number(1, host).number(2, 0u32).number(3, 65536u32))
    }

    fn namespaces(&self) -> Message {
        let message = Message::new().number(1, self.network as u64).number(2, self.pids as u64);
        match self.mapping() {
            Some(map) => message.message(5, &Message::new().message(2, &map).message(3, &map)),
            None => message,
        }
    }

    fn message(&self) -> Message {
        let metadata = Message::new().text(1, self.name).text(2, self.name).text(3, "default");
        let security = Message::new().message(1, &self.namespaces());
        let linux = map(Message::new().text(1, self.cgroup).message(2, &security), 3, self.sysctls);
        let hostname = if matches!(self.network, Whose::Node) { "" } else { self.name };
        let message = Message::new().message(1, &metadata).text(2, hostname).text(3, LOGS);
        let dns = self.dns.iter().fold(Message::new(), |dns, server| dns.text(1, server));
        map(message.message(4, &dns), 6, &[("app", self.name)]).message(8, &linux)
    }
}

/// A volume of a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Volume<'a> {
    pub(crate) host: &'a str,
    pub(crate) container: &'a str,
    pub(crate) readonly: bool,
    /// Also what is mounted below.
    pub(crate) recursively: bool,
}

/// A container that is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Container<'a> {
    pub(crate) name: &'a str,
    /// A shell's script; empty for what the image has.
    pub(crate) script: &'a str,
    pub(crate) stdin: bool,
    pub(crate) terminal: bool,
    pub(crate) volumes: &'a [Volume<'a>],
    /// In bytes; 0 for no limit.
    pub(crate) memory: u64,
    pub(crate) privileged: bool,
}

impl Container<'_> {
    fn message(&self, pod: &Pod<'_>) -> Message {
        let security = Message::new().flag(2, self.privileged).message(3, &pod.namespaces());
        let resources = Message::new().number(3, 512u32).number(4, self.memory).number(10, self.memory);
        let mut message = Message::new()
            .message(1, &Message::new().text(1, self.name))
            .message(2, &Message::new().text(1, IMAGE))
            .text(11, &format!("{}.log", self.name))
            .flag(12, self.stdin)
            .flag(13, self.stdin)
            .flag(14, self.terminal)
            .message(15, &Message::new().message(1, &resources).message(2, &security));
        if !self.script.is_empty() {
            message = ["sh", "-c", self.script].iter().fold(message, |m, word| m.bytes(3, word.as_bytes()));
        }
        for volume in self.volumes {
            let mut mount = Message::new().text(1, volume.container).text(2, volume.host).flag(3, volume.readonly);
            if let Some(map) = pod.mapping() {
                mount = mount.message(6, &map).message(7, &map);
            }
            message = message.message(7, &mount.flag(8, volume.recursively));
        }
        message
    }
}

/// containerd's configuration. The shim that is found by name is in containerd's PATH.
fn config(release: Release) -> String {
    // 2.0 renamed and parted the plugin.
    let (version, cri, image, cni) = match release {
        Release::Bookworm | Release::Trixie => (
            2,
            "io.containerd.grpc.v1.cri",
            format!("[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = '{IMAGE}'\n"),
            "bin_dir = '/usr/lib/cni'",
        ),
        Release::Sid => (
            3,
            "io.containerd.cri.v1.runtime",
            format!(
                "[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{IMAGE}'\n[plugins.'io.containerd.cri.v1.runtime']\n"
            ),
            "bin_dirs = ['/usr/lib/cni']",
        ),
    };
    let mut text = format!("version = {version}\n{image}");
    // This machine's root may not protect a process from the OOM killer.
    text.push_str("restrict_oom_score_adj = true\n");
    text.push_str(&format!("[plugins.'{cri}'.cni]\n{cni}\n"));
    text.push_str(&format!("[plugins.'{cri}'.containerd]\ndefault_runtime_name = '{ORLOP}'\n"));
    let handler = |name| format!("[plugins.'{cri}'.containerd.runtimes.{name}]\n");
    text.push_str(&format!("{}runtime_type = 'io.containerd.orlop.v2'\n", handler(ORLOP)));
    text.push_str(&format!(
        "{}runtime_type = 'io.containerd.runc.v2'\nruntime_path = '{SHIM}'\n",
        handler(IN_RUNCS_PLACE)
    ));
    if release == Release::Sid {
        text.push_str(&format!("{}runtime_type = 'io.containerd.orlop.v2'\nsandboxer = 'shim'\n", handler(SANDBOXER)));
    }
    text
}
