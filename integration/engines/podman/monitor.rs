//! conmon with the arguments that CRI-O gives it, without an engine.

use serde_json::{Value, json};

use super::Podman;
use crate::host::until;

/// The runtime's, as a user of CRI-O types it.
const ORLOP: [&str; 3] = ["orlop", "--root", "/run/cri"];

/// A container with conmon over it, and two more processes.
pub(super) fn alone(podman: Podman) {
    let host = podman.host;
    host.must(&[
        "sh",
        "-ec",
        "mkdir -p /run/crio bundle/rootfs/bin exits persist; cp $(command -v busybox) bundle/rootfs/bin/sh
        for name in echo readlink sleep; do ln -sf sh bundle/rootfs/bin/$name; done",
    ]);
    host.must(&["orlop", "spec", "--bundle", "/srv/bundle"]);
    let mut config: Value = serde_json::from_str(&host.read("/srv/bundle/config.json")).unwrap();
    let script = "trap 'exit 3' TERM; echo to out; echo to err >&2; while :; do sleep 0.1; done";
    config["process"]["args"] = json!(["sh", "-c", script]);
    config["process"]["terminal"] = json!(false);
    config["process"]["rlimits"] = json!([]);
    host.write("/srv/bundle/config.json", config.to_string());

    let start = ["conmon", "-c", "whale", "-u", "4b825dc6", "-n", "whale", "-r", "/usr/local/bin/orlop"];
    let runtime =
        ["--runtime-arg=--root=/run/cri", "--runtime-arg=--log-format=json", "--runtime-arg=--log=/srv/oci-log"];
    let common = [&start[..], &runtime, &["--log-level", "info"]].concat();
    let places = [
        "-b",
        "/srv/bundle",
        "--persist-dir",
        "/srv/persist",
        "--exit-dir",
        "/srv/exits",
        "-l",
        "/srv/log",
        "-p",
        "/srv/pid",
        "-P",
        "/srv/conmon-pid",
    ];
    host.must(&[&common[..], &places].concat());
    let state = || -> Value { serde_json::from_str(&host.must(&[&ORLOP[..], &["state", "whale"]].concat())).unwrap() };
    // conmon has gone to the background at once, and nobody reads what it says of the runtime's end.
    let made = until("a container", || {
        let said = host.run(&[&ORLOP[..], &["state", "whale"]].concat()).out;
        let made: Value = serde_json::from_str(&said).ok()?;
        (made["status"] == "created" && host.path("/srv/pid").exists()).then_some(made)
    });
    assert_eq!(made["pid"].to_string(), host.read("/srv/pid"));
    assert_eq!((&made["id"], &made["bundle"]), (&json!("whale"), &json!("/srv/bundle")));
    host.must(&[&ORLOP[..], &["start", "whale"]].concat());
    assert_eq!(state()["status"], "running");
    let log = || {
        let log = host.read("/srv/log");
        let mut lines: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect();
        lines.sort();
        lines
    };
    until("its words", || (log() == ["stderr F to err", "stdout F to out"]).then_some(()));

    // As for a probe: conmon waits, and passes the status on.
    let exec = |process: &Value, options: &[&str]| {
        host.write("/srv/process.json", process.to_string());
        let places = [
            "-b",
            "/srv/bundle",
            "-l",
            "/srv/exec-log",
            "-p",
            "/srv/exec-pid",
            "--exec-process-spec",
            "/srv/process.json",
        ];
        let _ = std::fs::remove_file(host.path("/srv/exec-log"));
        let ran = host.run(&[&common[..], &["-e", "--sync", "-T", "60"], options, &places].concat());
        (ran.status.code(), std::fs::read_to_string(host.path("/srv/exec-log")).unwrap_or_default())
    };
    let mut process = config["process"].clone();
    process["args"] = json!(["sh", "-c", "echo probed; exit 5"]);
    let (code, said) = exec(&process, &[]);
    assert!(code == Some(5) && said.ends_with(" stdout F probed\n"), "{code:?} {said}");
    // Its terminal comes over the console socket.
    process["args"] = json!(["sh", "-c", "readlink /proc/self/fd/0; exit 6"]);
    process["terminal"] = json!(true);
    let (code, said) = exec(&process, &["-t"]);
    assert!(code == Some(6) && said.contains(" stdout F /dev/pts/"), "{code:?} {said}");
    // What can't be executed is said as the engines read it: one object, with the runtime's words.
    process["args"] = json!(["no-such-program"]);
    process["terminal"] = json!(false);
    exec(&process, &[]);
    let error: Value = serde_json::from_str(&host.read("/srv/oci-log")).unwrap();
    assert_eq!(error["level"], "error");
    let words = error["msg"].as_str().unwrap();
    assert!(words.contains("exec: \"no-such-program\": executable file not found in $PATH"), "{words}");

    host.must(&[&ORLOP[..], &["kill", "whale", "TERM"]].concat());
    until("its exit status", || host.path("/srv/exits/whale").exists().then_some(()));
    assert_eq!(host.read("/srv/exits/whale"), "3");
    assert_eq!(state()["status"], "stopped");
    host.must(&[&ORLOP[..], &["delete", "whale"]].concat());

    // The driver that is not there yet is refused before anything is made.
    let systemd = [&common[..], &["-s"], &places].concat();
    host.run(&systemd);
    let refusal = "the systemd cgroup driver is not supported";
    until("its refusal", || host.read("/srv/oci-log").lines().last()?.contains(refusal).then_some(()));
    assert!(!host.run(&[&ORLOP[..], &["state", "whale"]].concat()).ok());
}
