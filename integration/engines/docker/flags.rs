//! `docker run`'s flags, each by what a container sees of it.

use super::Docker;

/// Options, a script, and what it prints.
type Case = (&'static [&'static str], &'static str, &'static str);

/// Who runs.
const USERS: [Case; 8] = [
    (&[], "id -u; id -g; pwd; echo $HOME", "0\n0\n/\n/root"),
    (&["--user", "1000"], "id -u; id -g; echo $HOME", "1000\n1000\n/home"),
    (&["--user", "user"], "id -un; id -gn", "user\nuser"),
    (&["--user", "1234:5678"], "id -u; id -g; echo $HOME", "1234\n5678\n/"),
    (&["--user", "user", "--group-add", "7", "--group-add", "8"], "id -G", "1000 7 8"),
    (&["--user", "user"], "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | cut -f 2 | sort -u", NO_CAPABILITIES),
    (&["-w", "/made/for/it"], "pwd", "/made/for/it"),
    (&["--entrypoint", "echo"], "not a script", "-c not a script"),
];

const NO_CAPABILITIES: &str = "0000000000000000";

/// What it may do.
const POWERS: [Case; 16] = [
    (&[], "grep CapEff /proc/self/status | cut -f 2", "00000000a80425fb"),
    (&["--cap-drop", "ALL"], "grep Cap /proc/self/status | cut -f 2 | sort -u", NO_CAPABILITIES),
    (
        &["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"],
        "grep CapEff /proc/self/status | cut -f 2",
        "0000000000000400",
    ),
    (&[], "mount -t tmpfs x /tmp 2>&1", "mount: permission denied (are you root?)"),
    (&["--cap-add", "SYS_ADMIN"], "mount -t tmpfs x /tmp && echo mounted", "mounted"),
    (
        &["--privileged"],
        "mount -t tmpfs x /tmp && echo mounted; echo 1 >/proc/sys/kernel/hostname; hostname",
        "mounted\n1",
    ),
    (&[], "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | cut -f 2", "0\n2"),
    (&["--privileged"], "grep Seccomp: /proc/self/status | cut -f 2", "0"),
    (&["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status | cut -f 2", "0"),
    (&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status | cut -f 2", "1"),
    (
        &["--security-opt", "seccomp=/srv/profile.json"],
        "grep Seccomp: /proc/self/status | cut -f 2; mkdir /new 2>&1; echo $?",
        "2\nmkdir: can't create directory '/new': Operation not permitted\n1",
    ),
    (&[], "cat /proc/keys /proc/timer_list 2>&1 | wc -c; ls /proc/acpi /sys/firmware | grep -v :$ | wc -w", "0\n0"),
    (&[], "echo 60 2>&1 >/proc/sys/vm/swappiness", "sh: can't create /proc/sys/vm/swappiness: Read-only file system"),
    (&["--read-only"], "touch /x 2>&1; touch /dev/shm/x && echo shm", "touch: /x: Read-only file system\nshm"),
    (&["--read-only", "--tmpfs", "/tmp:size=1m"], "touch /tmp/x && df -k /tmp | tail -1 | awk '{print $2}'", "1024"),
    (
        &["--sysctl", "net.ipv4.ip_local_port_range=2000 3000"],
        "cat /proc/sys/net/ipv4/ip_local_port_range",
        "2000\t3000",
    ),
];

/// Devices and limits.
const MEANS: [Case; 14] = [
    (&[], "ls /dev", "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero"),
    (&[], "mknod /fuse c 10 229 && cat /fuse 2>&1", "cat: can't open '/fuse': Operation not permitted"),
    (&["--device", "/dev/fuse"], "exec 3<>/dev/fuse && echo open", "open"),
    (
        &["--device", "/dev/fuse:/dev/other:r"],
        "exec 3</dev/other && echo read; exec 3<>/dev/other && echo write",
        "read",
    ),
    (&["--privileged"], "exec 3<>/dev/fuse && echo open", "open"),
    (&["--ulimit", "nofile=100:200", "--ulimit", "core=0"], "ulimit -n; ulimit -H -n; ulimit -c", "100\n200\n0"),
    (&["--shm-size", "1m"], "df -k /dev/shm | tail -1 | awk '{print $2}'", "1024"),
    (&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj", "500"),
    (&["--cpuset-cpus", "0"], "grep Cpus_allowed_list /proc/self/status | cut -f 2", "0"),
    (
        &["--pids-limit", "20"],
        "i=0; while [ $i -lt 30 ]; do sleep 1 & i=$((i+1)); done 2>&1 | head -1 | cut -d : -f 2-",
        " can't fork: Resource temporarily unavailable",
    ),
    (&["--init"], "cat /proc/1/comm", "docker-init"),
    (&["--hostname", "deck", "--domainname", "ship"], "hostname; cat /proc/sys/kernel/domainname", "deck\nship"),
    (&["--add-host", "mate:192.0.2.9"], "grep mate /etc/hosts", "192.0.2.9\tmate"),
    (&["--dns", "192.0.2.53"], "grep ^nameserver /etc/resolv.conf", "nameserver 192.0.2.53"),
];

/// Whose namespaces it is in. The other container is called `other`, and its host name is `far`.
const PLACES: [Case; 13] = [
    (&[], "echo /proc/[0-9]*; cat /proc/1/comm; true", "/proc/1\nsh"),
    (&["--pid", "container:other"], "cat /proc/1/cmdline | tr '\\0' ' '", "sleep 1000 "),
    (&["--pid", "host"], "cat /proc/1/cmdline | tr '\\0' ' '", "bash -c read -r _ host "),
    (&["--uts", "host"], "hostname", "the-host"),
    (&["--network", "container:other"], "hostname; wget -q -O - http://127.0.0.1:80/", "far\nfrom other"),
    (&["--network", "none"], "ls /sys/class/net", "lo"),
    (&["--network", "host"], "ls -d /sys/class/net/docker0", "/sys/class/net/docker0"),
    (&[], "ls /sys/class/net", "eth0\nlo"),
    (&["--ipc", "container:other"], "cat /dev/shm/mark", "shared"),
    (&["--ipc", "private"], "ls /dev/shm", ""),
    (&["--ipc", "host"], "cat /dev/shm/of-the-host", "the host's"),
    (&["--cgroupns", "private"], "cut -d : -f 3 /proc/self/cgroup | sort -u", "/"),
    (&["--volumes-from", "other"], "cat /volume/file", "in the volume"),
];

/// Where other things come from.
const MOUNTS: [Case; 5] = [
    (&["-v", "/srv/folder:/in"], "cat /in/file && echo new >/in/new && cat /in/new", "a file\nnew"),
    (
        &["-v", "/srv/folder/file:/etc/one-file:ro"],
        "cat /etc/one-file; echo x 2>&1 >/etc/one-file",
        "a file\nsh: can't create /etc/one-file: Read-only file system",
    ),
    (
        &["--mount", "type=bind,source=/srv/folder,target=/in,readonly"],
        "touch /in/x 2>&1",
        "touch: /in/x: Read-only file system",
    ),
    (
        &["--mount", "type=bind,source=/srv/folder,target=/in,bind-propagation=rshared"],
        "grep ' /in ' /proc/self/mountinfo | grep -c shared:",
        "1",
    ),
    (&["--mount", "type=tmpfs,target=/fast,tmpfs-size=1048576,tmpfs-mode=700"], "stat -c %a /fast", "700"),
];

/// Each flag of the tables.
pub(super) fn all(docker: &Docker) {
    let host = docker.host;
    host.write("/srv/folder/file", "a file\n");
    host.write("/dev/shm/of-the-host", "the host's\n");
    host.must(&["busybox", "hostname", "the-host"]);
    host.must(&["mount", "--make-shared", "/srv"]);
    let denied = r#"{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}"#;
    host.write("/srv/profile.json", format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{denied}]}}"#));
    let script = "echo shared >/dev/shm/mark; echo in the volume >/volume/file; mkdir /www
        echo from other >/www/index.html; httpd -h /www; exec sleep 1000";
    let other = ["--ipc", "shareable", "--hostname", "far", "-v", "/volume", "--name", "other"];
    docker.must(&[&["run", "-d"], &other[..], &["busybox:1", "sh", "-c", script]].concat());

    let mut broken = Vec::new();
    for (options, script, want) in USERS.iter().chain(&POWERS).chain(&MEANS).chain(&PLACES).chain(&MOUNTS) {
        // An entrypoint takes the place of the shell.
        let ran =
            docker.run(&[&["run", "--rm", "--entrypoint", "sh"], *options, &["busybox:1", "-c", script]].concat());
        let got = ran.out.trim_end_matches('\n');
        if got != *want {
            broken.push(format!("{options:?} {script:?}: {got:?} and not {want:?}: {} {}", ran.status, ran.err));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    docker.must(&["rm", "--force", "--volumes", "other"]);
}
