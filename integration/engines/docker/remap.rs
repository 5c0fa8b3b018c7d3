//! Containers whose root is nobody on the host.

use super::Docker;

/// The daemon's setting, and who root becomes.
pub(super) const SETTING: &str = "nobody:nogroup";

/// What its owners are on the host.
pub(super) fn mapped(docker: &Docker) {
    let host = docker.host;
    host.must(&["sh", "-ec", "mkdir -m 777 /srv/open; echo secret >/srv/secret; chmod 600 /srv/secret"]);
    let map = "cat /proc/self/uid_map /proc/self/gid_map | awk '{print $1, $2, $3}' | sort -u";
    let run = ["run", "-d", "--name", "mapped", "-v", "/srv:/srv", "-p", "8080:80", "--memory", "64m"];
    let script = "mkdir /www; echo mapped >/www/index.html; exec httpd -f -p 80 -h /www";
    docker.must(&[&run[..], &["busybox:1", "sh", "-c", script]].concat());
    docker.engine().answers(8080, "/index.html", "mapped");
    let sh = |script: &str| docker.must(&["exec", "mapped", "sh", "-c", script]);
    assert_eq!(sh(map), "0 100000 65536");
    assert_eq!(sh("id -u; touch /srv/open/made; stat -c %u /srv/open/made"), "0\n0");
    assert_eq!(host.must(&["stat", "-c", "%u:%g", "/srv/open/made"]), "100000:100000\n");
    assert!(sh("cat /srv/secret 2>&1; true").contains("Permission denied"));
    assert!(sh("echo 60 2>&1 >/proc/sys/vm/swappiness; true").contains("Read-only file system"));
    assert_eq!(docker.must(&["exec", "--user", "user", "mapped", "id", "-u"]), "1000");
    let pid = docker.inspect("mapped", "{{.State.Pid}}");
    assert_eq!(host.must(&["stat", "-c", "%u", &format!("/proc/{pid}")]), "100000\n");

    docker.must(&["pause", "mapped"]);
    docker.must(&["unpause", "mapped"]);
    docker.must(&["update", "--memory", "128m", "--memory-swap", "128m", "mapped"]);
    docker.must(&["restart", "-t", "1", "mapped"]);
    docker.engine().answers(8080, "/index.html", "mapped");
    let mut user = docker.engine().terminal(&["exec", "-it", "mapped", "sh"]);
    user.expect("# ");
    user.type_in("stat -c '%u' $(tty)\n");
    user.expect("\n0\r\n");
    user.type_in("exit 3\n");
    assert_eq!(user.wait(), 3);
    docker.must(&["rm", "-f", "mapped"]);
    // And one that is not.
    let own = docker.must(&["run", "--rm", "--userns", "host", "busybox:1", "sh", "-c", map]);
    assert_eq!(own, "0 0 4294967295");
}
