//! Users that are others outside, clocks that differ, pods.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, join_namespace};
use crate::debian;

#[test]
fn a_debian_of_a_user_namespace_is_root_inside_and_nobody_outside() {
    let Some(root) = debian::root() else { return };
    let script = "id -u; id -g; touch /root/made && chown 33:33 /root/made && stat -c %u:%g /root/made
        python3 -c \"import ctypes; print(ctypes.CDLL(None).mount(b'none', b'/mnt', b'tmpfs', 0, 0))\"; cat /proc/self/uid_map; hostname inside && hostname
        head -c 3 /dev/zero | od -An -tx1; setpriv --reuid 1000 --clear-groups id -u; tty; ls -ld /proc/1/fd >/dev/null && echo proc";
    let bundle = Bundle::new("userns", root, &["bash", "-c", script], |_| ());
    let copy = bundle.dir.join("rootfs");
    debian::copy(root, &copy);
    // As an engine does. What belongs to others than root is of no account here.
    let chowned = Command::new("chown").args(["-hR", "--from=0:0", "100000:100000"]).arg(&copy).status().unwrap();
    assert!(chowned.success());
    bundle.change(|c| {
        c["root"] = json!({ "path": copy, "readonly": false });
        let linux = &mut c["linux"];
        linux["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        (linux["uidMappings"], linux["gidMappings"]) = (map.clone(), map);
        let caps = ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_DAC_OVERRIDE"];
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(caps);
        }
        c["process"]["noNewPrivileges"] = json!(false);
    });
    let done = bundle.run();
    let lines: Vec<_> = done.out.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let want = ["0", "0", "33:33", "0", "0 100000 65536", "inside", "00 00 00", "1000", "not a tty", "proc"];
    assert_eq!(lines, want, "{done:?}");
    let made = fs::metadata(copy.join("root/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (100_033, 100_033));

    // Another one of its pod, which joins the user namespace that owns the network namespace. The mappings come along.
    bundle.change(|c| c["process"]["args"] = json!(["sleep", "1000"]));
    bundle.detach();
    let pid = bundle.pid();
    let script = "readlink /proc/self/ns/user; ip -o -4 addr; id -u; ls /sys/class/net";
    let other = Bundle::new("userpod", &copy, &["bash", "-c", script], |c| {
        for (kind, file) in [("user", "user"), ("network", "net")] {
            join_namespace(c, kind, &format!("/proc/{pid}/ns/{file}"));
        }
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
    });
    let out = other.run().ok();
    let namespace = fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert!(out.starts_with(namespace.to_str().unwrap()) && out.ends_with("\n0\nlo\n"), "{out}");
    let inside = bundle.exec(&["bash", "-c", "id -u; readlink /proc/self/ns/user"]).ok();
    assert_eq!(inside, format!("0\n{}\n", namespace.display()));
}

#[test]
fn the_clocks_of_a_time_namespace_are_offset() {
    let Some(root) = debian::root() else { return };
    let uptime = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())";
    let bundle = Bundle::new("time", root, &["python3", "-c", uptime], |c| {
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "time" }));
        c["linux"]["timeOffsets"] =
            json!({ "boottime": { "secs": 1_000_000, "nanosecs": 5 }, "monotonic": { "secs": 500_000 } });
    });
    let here = || -> f64 {
        let text = fs::read_to_string("/proc/uptime").unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let before = here();
    let out = bundle.run().ok();
    let there: Vec<f64> = out.split_whitespace().map(|n| n.parse().unwrap()).collect();
    for (clock, offset) in there.iter().zip([1e6, 5e5]) {
        assert!((clock - offset - before).abs() < 20.0, "{out}");
    }

    // What is executed later is in it, too.
    bundle.change(|c| c["process"]["args"] = json!(["sleep", "1000"]));
    bundle.detach();
    let done = bundle.exec(&["cat", "/proc/uptime"]).ok();
    let up: f64 = done.split(' ').next().unwrap().parse().unwrap();
    assert!((up - 1e6 - here()).abs() < 20.0, "{done}");
}

#[test]
fn the_containers_of_a_pod_share_what_they_join() {
    let Some(root) = debian::root() else { return };
    let pause = Bundle::new("pause", root, &["sleep", "1000"], |c| {
        c["hostname"] = json!("pod");
    });
    pause.detach();
    let pid = pause.pid();
    let serve = "import socket\ns=socket.create_server(('127.0.0.1', 8123))\nwhile True:\n c,_=s.accept(); c.sendall(b'hello'); c.close()";
    let join = |c: &mut serde_json::Value| {
        for (kind, file) in [("network", "net"), ("pid", "pid"), ("ipc", "ipc"), ("uts", "uts")] {
            join_namespace(c, kind, &format!("/proc/{pid}/ns/{file}"));
        }
        c.as_object_mut().unwrap().remove("hostname");
    };
    let server = Bundle::new("podserver", root, &["python3", "-c", serve], join);
    server.detach();
    let ask = "import socket,os,time
for i in range(100):
  try: s=socket.create_connection(('127.0.0.1', 8123)); break
  except OSError: time.sleep(0.05)
print(s.recv(10).decode(), os.uname().nodename, os.getpid() != 1, open('/proc/1/cmdline').read().replace('\\0',' '))";
    let client = Bundle::new("podclient", root, &["python3", "-c", ask], join);
    assert_eq!(client.run().ok(), "hello pod True sleep 1000 \n");
    let queues = server.exec(&["bash", "-c", "readlink /proc/self/ns/ipc"]).ok();
    assert_eq!(queues.trim(), fs::read_link(format!("/proc/{pid}/ns/ipc")).unwrap().to_str().unwrap());
    let others = pause.exec(&["ps", "-e", "-o", "args"]).ok();
    assert!(others.contains("create_server"), "{others}");
    // Deleted without a pid namespace of its own, and without harm to the others.
    server.orlop(&["delete", "--force", &server.id]).ok();
    assert_eq!(pause.state()["status"], "running");
    assert!(!pause.exec(&["ps", "-e", "-o", "args"]).ok().contains("create_server"));
}

#[test]
fn a_user_namespace_has_version_2_cgroups_with_and_without_a_cgroup_namespace() {
    let Some(root) = debian::root() else { return };
    for (namespaces, seen) in [(vec!["user"], "host"), (vec!["user", "cgroup"], "own")] {
        let script = "grep -o ' / /sys/fs/cgroup ro.* - cgroup2' /proc/self/mountinfo | cut -d' ' -f2,3
            test -e /sys/fs/cgroup/cgroup.type && echo own || echo host";
        let bundle = Bundle::new(&format!("v2-{}", namespaces.len()), root, &["bash", "-c", script], |c| {
            crate::bundle::without_namespace(c, "cgroup");
            for kind in &namespaces {
                c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": kind }));
            }
            let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
            (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
        });
        // A machine with version 2 alone, as far as this script sees.
        let view = r#"
            for point in $(awk '$5 ~ "^/sys/fs/cgroup" {print $5}' /proc/self/mountinfo | sort -r); do umount -l "$point"; done
            mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@""#;
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "20", "unshare", "--mount", "bash", "-c", view, "_"]);
        command.arg(crate::bundle::program()).arg("--root").arg(bundle.dir.join("state"));
        command.args(["run", "--bundle", &bundle.path(""), &bundle.id]).stdin(std::process::Stdio::null());
        assert_eq!(bundle.finish(&mut command).ok(), format!("/ /sys/fs/cgroup\n{seen}\n"));
    }
}
