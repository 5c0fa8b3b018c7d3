//! Pods that are left to the shim: the sandbox service.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use orlop_shim::message::any;
use orlop_shim::sandbox::SERVICE;
use orlop_shim::wire::Message;
use orlop_sys::rustix::process::{Signal, kill_process};
use serde_json::{Value as Json, json};

use crate::{Answer, Client, PATIENCE, Place, SHIM, bytes, number, pid_of, skipped, text, wait_for_end};

/// A place with a container `c1`, whose shim keeps a pod.
struct Pod {
    place: Place,
    client: Client,
    id: String,
}

impl Pod {
    fn new(args: &[&str]) -> Self {
        let mut place = Place::new(args);
        place.listen();
        let client = place.start();
        let id = format!("pod-{}", place.dir.file_name().unwrap().to_str().unwrap());
        fs::create_dir_all(place.path("t/pod/rootfs")).unwrap();
        Self { place, client, id }
    }

    fn call(&mut self, method: &str) -> Answer {
        self.tell(method, &Message::new().text(1, &self.id.clone()))
    }

    fn tell(&mut self, method: &str, request: &Message) -> Answer {
        let stream = self.client.send_to(SERVICE, method, request);
        self.client.receive(stream)
    }

    /// In a network of its own.
    fn create(&mut self) -> Answer {
        let dns = Message::new().text(1, "192.0.2.1").text(2, "pods.example");
        let linux = Message::new().text(1, &format!("/{}", self.id));
        let config = Message::new().text(2, "web").message(4, &dns).message(8, &linux);
        let request = Message::new().text(1, &self.id).text(2, &self.place.path("t/pod"));
        self.tell("CreateSandbox", &request.message(4, &any("runtime.v1.PodSandboxConfig", &config.0)))
    }

    /// Lets `c1` join the pod, and starts it.
    fn start_container(&mut self, pid: u64) {
        let path = self.place.path("t/c1/config.json");
        let mut config: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let join = |kind: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{kind}")});
        config["linux"]["namespaces"] = json!([{"type": "mount"}, join("pid"), join("ipc"), join("uts")]);
        fs::write(path, config.to_string()).unwrap();
        self.client.call("Create", &self.place.create()).unwrap();
        self.client.process("Start", "").unwrap();
    }

    fn delete(&self) -> Command {
        let bundle = self.place.path("t/pod");
        let mut command = Command::new(SHIM);
        command
            .args(["-namespace", "test", "-address", &self.place.path("c.sock"), "-id", &self.id])
            .args(["-bundle", &bundle, "delete"])
            .current_dir(&bundle)
            .stdin(Stdio::null());
        command
    }

    fn mounts(&self) -> usize {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(&self.place.path("t/pod"))).count()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Of a test that failed; the shim itself is the place's to end.
        let _ = kill_process(pid_of(self.place.shim()), Signal::KILL);
        let _ = self.delete().output();
        // Its parent was the pod's to make, as a kubelet's is the kubelet's.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&self.id));
        }
    }
}

#[test]
fn a_pod_is_kept_and_its_containers_share_what_is_its_own() {
    if skipped() {
        return;
    }
    let script = "cat /etc/hostname /etc/resolv.conf; echo shared >/dev/shm/file; sleep 1000";
    let mut pod = Pod::new(&["sh", "-c", script]);
    for method in ["PingSandbox", "SandboxStatus", "StartSandbox", "StopSandbox", "WaitSandbox"] {
        assert_eq!(pod.call(method).unwrap_err().0, 5, "{method}");
    }
    assert!(pod.create().unwrap().is_empty());
    assert_eq!(pod.create().unwrap_err().0, 6);
    assert_eq!(text(&pod.call("SandboxStatus").unwrap(), 3), "SANDBOX_NOTREADY");
    let started = pod.call("StartSandbox").unwrap();
    let pid = number(&started, 1);
    assert!(number(bytes(&started, 2), 1) > 1_700_000_000);
    pod.call("PingSandbox").unwrap();
    let status = pod.call("SandboxStatus").unwrap();
    assert_eq!((text(&status, 1), number(&status, 2), text(&status, 3)), (pod.id.as_str(), pid, "SANDBOX_READY"));
    assert_eq!(text(bytes(&pod.call("Platform").unwrap(), 1), 1), "linux");
    assert_eq!(text(bytes(&pod.call("SandboxMetrics").unwrap(), 1), 2), pod.id);
    assert_eq!(pod.tell("UpdateSandbox", &Message::new()).unwrap_err().0, 12);

    // Its process is nobody, with an empty world.
    assert_eq!(fs::read(format!("/proc/{pid}/cmdline")).unwrap(), b"/pause\0");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["Uid:\t65535\t65535\t65535\t65535", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Threads:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    let mut world: Vec<_> =
        fs::read_dir(format!("/proc/{pid}/root")).unwrap().map(|e| e.unwrap().file_name()).collect();
    world.sort();
    assert_eq!(world, ["dev", "pause", "proc"]);

    let output = pod.place.reader("out");
    pod.start_container(pid);
    let shared = pod.place.path("t/pod/shm/file");
    let patience = Instant::now() + PATIENCE;
    while fs::read_to_string(&shared).unwrap_or_default() != "shared\n" {
        assert!(Instant::now() < patience, "nothing is shared");
        sleep(Duration::from_millis(2));
    }
    let waits = pod.client.send_to(SERVICE, "WaitSandbox", &Message::new().text(1, &pod.id.clone()));
    pod.call("StopSandbox").unwrap();
    assert_eq!(number(&pod.client.receive(waits).unwrap(), 1), 137);
    // The pod's processes are the container's too.
    assert_eq!(number(&pod.client.process("Wait", "").unwrap(), 1), 137);
    assert_eq!(output.join().unwrap(), b"web\nsearch pods.example\nnameserver 192.0.2.1\n");
    let status = pod.call("SandboxStatus").unwrap();
    assert_eq!(text(&status, 3), "SANDBOX_NOTREADY");
    assert!(number(bytes(&status, 6), 1) > 1_700_000_000);
    pod.client.process("Delete", "").unwrap();
    // While there is a pod, this is not meant.
    pod.client.call("Shutdown", &Message::new().text(1, "c1")).unwrap();
    pod.call("PingSandbox").unwrap();
    pod.call("ShutdownSandbox").unwrap();
    wait_for_end(pod.place.shim());
    assert_eq!(pod.mounts(), 0);
    assert_eq!(fs::read_dir(pod.place.dir.join("s")).unwrap().count(), 0);
    // containerd removes it only if it is.
    assert_eq!(fs::read_dir(pod.place.path("t/pod/rootfs")).unwrap().count(), 0);
}

#[test]
fn a_pod_that_lives_ends_when_it_is_shut_down() {
    if skipped() {
        return;
    }
    let mut pod = Pod::new(&["true"]);
    pod.create().unwrap();
    let pid = number(&pod.call("StartSandbox").unwrap(), 1) as u32;
    assert!(pod.call("ShutdownSandbox").unwrap().is_empty());
    wait_for_end(pid);
    wait_for_end(pod.place.shim());
    assert_eq!(pod.mounts(), 0);
    // Whoever has no pod can be shut down too: it may not have come to be.
    let mut pod = Pod::new(&["true"]);
    pod.call("ShutdownSandbox").unwrap();
    wait_for_end(pod.place.shim());
}

#[test]
fn what_a_killed_shim_leaves_of_a_pod_is_removed() {
    if skipped() {
        return;
    }
    let mut pod = Pod::new(&["true"]);
    pod.create().unwrap();
    let pid = number(&pod.call("StartSandbox").unwrap(), 1) as u32;
    assert_eq!(pod.mounts(), 1);
    kill_process(pid_of(pod.place.shim()), Signal::KILL).unwrap();
    wait_for_end(pod.place.shim());
    let output = pod.delete().output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!((number(&output.stdout, 1), number(&output.stdout, 2)), (u64::from(pid), 137));
    wait_for_end(pid);
    assert_eq!(pod.mounts(), 0);
}

#[test]
fn a_pods_process_buries_the_dead_and_ends_when_asked_to() {
    if skipped() {
        return;
    }
    // The grandchild outlives its parent, and its end is nobody's business but the pod's.
    let mut pod = Pod::new(&["sh", "-c", "(sleep 1000 &) ; exec sleep 1000"]);
    pod.create().unwrap();
    let pid = number(&pod.call("StartSandbox").unwrap(), 1);
    pod.start_container(pid);
    let orphan = || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let sleeps = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.contains("sleep"));
        let mut children = children.split_whitespace().map(|child| child.parse().unwrap());
        children.find(sleeps)
    };
    let patience = Instant::now() + PATIENCE;
    let orphan = loop {
        match orphan() {
            Some(orphan) => break orphan,
            None => assert!(Instant::now() < patience, "nobody is left to the pod"),
        }
        sleep(Duration::from_millis(2));
    };
    kill_process(pid_of(orphan), Signal::KILL).unwrap();
    while Path::new(&format!("/proc/{orphan}")).exists() {
        assert!(Instant::now() < patience, "not buried");
        sleep(Duration::from_millis(2));
    }
    kill_process(pid_of(pid as u32), Signal::TERM).unwrap();
    assert_eq!(number(&pod.call("WaitSandbox").unwrap(), 1), 0);
    assert_eq!(number(&pod.client.process("Wait", "").unwrap(), 1), 137);
    pod.client.process("Delete", "").unwrap();
    pod.call("ShutdownSandbox").unwrap();
    wait_for_end(pod.place.shim());
}
