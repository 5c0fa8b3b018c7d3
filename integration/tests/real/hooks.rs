//! Hooks of all six kinds, with the state that they are given.

use std::fs;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::debian;

#[test]
fn hooks_of_all_six_kinds_run_in_their_order_and_place_with_the_state() {
    let Some(root) = debian::root() else { return };
    let bundle = Bundle::new("hooks", root, &["bash", "-c", "echo payload >>/tmp/log; sleep 1000"], |_| ());
    let log = bundle.path("log");
    fs::write(&log, "").unwrap();
    bundle.change(|c| {
        c["annotations"] = json!({ "org.example.key": "value" });
        let options = json!(["bind", "rw"]);
        let at = |path: &str| json!({ "destination": path, "source": log, "options": options });
        crate::bundle::push(c, "mounts", at("/tmp/log"));
        let tmp = json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" });
        c["mounts"].as_array_mut().unwrap().insert(0, tmp);
        // startContainer is resolved and runs inside; createContainer in the container's namespaces with the host's
        // root; the rest on the host.
        for (kind, file) in [
            ("prestart", log.as_str()),
            ("createRuntime", &log),
            ("createContainer", &log),
            ("startContainer", "/tmp/log"),
            ("poststart", &log),
            ("poststop", &log),
        ] {
            let script = format!("echo \"$KIND $(readlink /proc/self/ns/uts) $(cat)\" >>{file}");
            c["hooks"][kind] = json!([
                { "path": "/bin/bash", "args": ["bash", "-c", script],
                  "env": [format!("KIND={kind}"), "PATH=/usr/bin:/bin"], "timeout": 10 }
            ]);
        }
    });
    bundle.orlop(&["create", "--bundle", &bundle.path(""), &bundle.id]).ok();
    let pid = bundle.pid();
    let inside = fs::read_link(format!("/proc/{pid}/ns/uts")).unwrap().to_str().unwrap().to_owned();
    let host = fs::read_link("/proc/self/ns/uts").unwrap().to_str().unwrap().to_owned();
    bundle.orlop(&["start", &bundle.id]).ok();
    crate::bundle::until("the payload", || fs::read_to_string(&log).unwrap().contains("payload").then_some(()));
    bundle.orlop(&["delete", "--force", &bundle.id]).ok();

    let text = fs::read_to_string(&log).unwrap();
    let mut seen = Vec::new();
    for line in text.lines().filter(|l| *l != "payload") {
        let mut words = line.splitn(3, ' ');
        let (kind, namespace) = (words.next().unwrap().to_owned(), words.next().unwrap());
        let state: Value = serde_json::from_str(words.next().unwrap()).unwrap_or_else(|e| panic!("{e}: {line}"));
        let is_inside = matches!(kind.as_str(), "createContainer" | "startContainer");
        assert_eq!(namespace, if is_inside { &inside } else { &host }, "{kind}");
        assert_eq!(state["id"], bundle.id, "{kind}");
        assert_eq!(state["bundle"], bundle.dir.to_str().unwrap(), "{kind}");
        assert_eq!(state["annotations"]["org.example.key"], "value", "{kind}");
        if kind != "poststop" {
            assert_eq!(state["pid"], pid, "{kind}");
        }
        seen.push((kind, state["status"].as_str().unwrap().to_owned()));
    }
    let want = [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    assert_eq!(seen, want.map(|(kind, status)| (kind.to_owned(), status.to_owned())));
}

/// As Docker and CNI plugins do: the link is put into the container's network namespace by the pid in the state.
#[test]
fn a_hook_gives_the_container_a_network() {
    let Some(root) = debian::root() else { return };
    let hook = r#"
        read -r state; pid=${state#*\"pid\":}; pid=${pid%%[!0-9]*}
        ip link add orlop0 type veth peer name eth0 netns "$pid" &&
        nsenter -t "$pid" -n ip addr add 10.213.7.2/24 dev eth0 && nsenter -t "$pid" -n ip link set eth0 up &&
        ip addr add 10.213.7.1/24 dev orlop0 && ip link set orlop0 up"#;
    let serve =
        "import socket\ns=socket.create_server(('10.213.7.2', 80))\nc,_=s.accept(); c.sendall(b'hello\\n'); c.close()";
    let bundle = Bundle::new("veth", root, &["python3", "-c", serve], |c| {
        let hook =
            json!({ "path": "/bin/bash", "args": ["bash", "-c", hook], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] });
        c["hooks"]["createRuntime"] = json!([hook]);
    });
    // In a network namespace in the host's place, so that its own stays as it is.
    let script = r#"
        set -e
        timeout -s KILL 20 "$@" run --detach --bundle "$BUNDLE" "$ID" >/dev/null 2>&1
        for i in {1..100}; do { exec 3<>/dev/tcp/10.213.7.2/80; } 2>/dev/null && break; sleep 0.05; done
        cat <&3
        timeout -s KILL 20 "$@" delete --force "$ID"
        for i in {1..100}; do ip link show orlop0 >/dev/null 2>&1 || break; sleep 0.05; done
        ip -o link | wc -l"#;
    let mut command = std::process::Command::new("timeout");
    command.args(["-s", "KILL", "20", "unshare", "--net", "bash", "-c", script, "_"]);
    command.arg(crate::bundle::program()).arg("--root").arg(bundle.dir.join("state"));
    command.stdin(std::process::Stdio::null()).env("BUNDLE", &bundle.dir).env("ID", &bundle.id);
    // Of the two links the container's one goes with its namespace, and takes the other along.
    assert_eq!(bundle.finish(&mut command).ok(), "hello\n1\n");
}
