//! Pods, Kubernetes' files, and networks.

use super::{BUSYBOX, Podman};
use crate::host::until;

/// A web server that answers with one word.
fn serves(word: &str) -> String {
    format!("mkdir /www; echo {word} >/www/index.html; exec httpd -f -p 80 -h /www")
}

/// Containers that share namespaces with the one that holds them.
pub(super) fn pods(podman: Podman) {
    podman.must(&["pod", "create", "--name", "ship", "--publish", "18080:80", "--share", "net,ipc,uts"]);
    podman.must(&["run", "-d", "--pod", "ship", "--name", "server", BUSYBOX, "sh", "-c", &serves("aboard")]);
    podman.engine().answers(18080, "/", "aboard");
    let in_pod = ["run", "--rm", "--pod", "ship", BUSYBOX];
    assert_eq!(podman.must(&[&in_pod[..], &["wget", "-q", "-O", "-", "http://127.0.0.1/"]].concat()), "aboard");
    let status = |pod: &str| podman.must(&["pod", "ps", "--filter", &format!("name={pod}"), "--format", "{{.Status}}"]);
    assert_eq!(status("ship"), "Running");
    podman.must(&["pod", "pause", "ship"]);
    assert_eq!(status("ship"), "Paused");
    podman.must(&["pod", "unpause", "ship"]);
    let top = podman.must(&["pod", "top", "ship", "comm"]);
    assert!(top.contains("httpd") && top.contains("catatonit"), "{top}");
    podman.must(&["pod", "kill", "ship"]);
    until("the end of the pod", || (status("ship") == "Exited").then_some(()));
    podman.must(&["pod", "start", "ship"]);
    podman.engine().answers(18080, "/", "aboard");
    podman.must(&["pod", "stop", "--time", "1", "ship"]);
    podman.must(&["pod", "rm", "ship"]);

    // With one pid namespace.
    podman.must(&["pod", "create", "--name", "crew", "--share", "pid"]);
    podman.idle("mate", &["--pod", "crew"]);
    let seen = podman.must(&["run", "--rm", "--pod", "crew", BUSYBOX, "ps", "-o", "comm"]);
    let sees = |what: &str| seen.lines().any(|line| line == what);
    assert!(sees("catatonit") && sees("sh"), "{seen}");
    podman.must(&["pod", "rm", "--force", "--time", "0", "crew"]);
}

/// A pod from a file that was made from a container.
pub(super) fn kube(podman: Podman) {
    podman.idle("model", &["--publish", "18082:80", "--memory", "64m"]);
    let file = podman.must(&["generate", "kube", "model"]);
    podman.remove("model");
    podman.host.write("/srv/pod.yaml", file);
    podman.must(&["play", "kube", "/srv/pod.yaml"]);
    let list = podman.must(&["ps", "--format", "{{.Names}} {{.State}}"]);
    assert!(list.lines().any(|line| line.starts_with("model-pod-model ")), "{list}");
    podman.must(&["play", "kube", "--down", "/srv/pod.yaml"]);
    assert_eq!(podman.must(&["pod", "ps", "--quiet"]), "");
}

/// A published port, on the backend's own network.
pub(super) fn published(podman: Podman) {
    podman.must(&["run", "-d", "--name", "web", "--publish", "18081:80", BUSYBOX, "sh", "-c", &serves("published")]);
    podman.engine().answers(18081, "/", "published");
    assert!(podman.must(&["port", "web"]).contains("80/tcp -> 0.0.0.0:18081"));
    let beside = ["run", "--rm", "--network", "container:web", BUSYBOX, "wget", "-q", "-O", "-", "http://127.0.0.1/"];
    assert_eq!(podman.must(&beside), "published");
    podman.remove("web");
    assert_eq!(podman.engine().get(18081, "/"), None);
}

/// Networks that users make.
pub(super) fn networks(podman: Podman) {
    published(podman);
    podman.must(&["network", "create", "--subnet", "10.99.0.0/24", "inner"]);
    let options = ["--name", "far", "--network", "inner", "--ip", "10.99.0.7"];
    podman.must(&[&["run", "-d"], &options[..], &[BUSYBOX, "sh", "-c", &serves("far")]].concat());
    let near = ["run", "--rm", "--network", "inner", BUSYBOX];
    until("the other container", || {
        let ran = podman.run(&[&near[..], &["wget", "-q", "-O", "-", "http://10.99.0.7/"]].concat());
        (ran.out == "far\n").then_some(())
    });
    podman.must(&["network", "disconnect", "inner", "far"]);
    assert_eq!(podman.must(&["exec", "far", "ls", "/sys/class/net"]), "lo");
    podman.must(&["network", "connect", "inner", "far"]);
    assert_eq!(podman.must(&["exec", "far", "ls", "/sys/class/net"]), "eth0\nlo");
    podman.remove("far");
    podman.must(&["network", "rm", "inner"]);
}
