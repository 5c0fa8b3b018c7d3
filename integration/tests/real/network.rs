//! The host's network.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::json;

use crate::bundle::{Bundle, join_namespace, push, until, without_namespace};
use crate::debian;

#[test]
fn a_web_server_is_reached_over_the_hosts_loopback() {
    let Some(root) = debian::root() else { return };
    for joined in [false, true] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let command = ["python3", "-m", "http.server", "--directory", "/etc", "--bind", "127.0.0.1", &port.to_string()];
        let bundle = Bundle::new(&format!("web-{joined}"), root, &command, |c| match joined {
            true => join_namespace(c, "network", &format!("/proc/{}/ns/net", std::process::id())),
            false => without_namespace(c, "network"),
        });
        bundle.detach();
        let mut connection = until("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
        connection.write_all(b"GET /debian_version HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.contains("\r\n\r\n12."), "{answer}");
        bundle.orlop(&["kill", &bundle.id, "KILL"]).ok();
        until("its end", || (bundle.state()["status"] == "stopped").then_some(()));
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
}

#[test]
fn packages_are_installed_with_the_hosts_network() {
    let Some(root) = debian::root() else { return };
    let script = "timeout -s KILL 15 apt-get -qq update && timeout -s KILL 15 apt-get -qq install --no-install-recommends hello && hello";
    let bundle = Bundle::new("apt", root, &["bash", "-c", script], |_| ());
    let copy = bundle.dir.join("rootfs");
    debian::copy(root, &copy);
    fs::copy("/etc/resolv.conf", copy.join("etc/resolv.conf")).unwrap();
    bundle.change(|c| {
        c["root"] = json!({ "path": copy, "readonly": false });
        without_namespace(c, "network");
        push(&mut c["process"], "env", json!("DEBIAN_FRONTEND=noninteractive"));
        // What Docker gives by default: apt gives up its privileges, dpkg makes files of others.
        let caps = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FSETID",
            "CAP_FOWNER",
            "CAP_MKNOD",
            "CAP_NET_RAW",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SETFCAP",
            "CAP_SETPCAP",
            "CAP_NET_BIND_SERVICE",
            "CAP_SYS_CHROOT",
            "CAP_KILL",
            "CAP_AUDIT_WRITE",
        ];
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(caps);
        }
    });
    let done = bundle.run();
    if done.err.contains("Could not resolve") || done.err.contains("Unable to connect") {
        return println!("SKIP: no network: {}", done.err);
    }
    assert!(done.code == 0 && done.out.ends_with("Hello, world!\n"), "{done:?}");
}
