//! `podman run`'s flags, each by what a container sees of it, and what is refused, with which words and exit status.

use super::{BUSYBOX, Podman};

/// Options, a script, and what it prints.
type Case = (&'static [&'static str], &'static str, &'static str);

/// What Podman gives by default, and what flags change.
const FLAGS: &[Case] = &[
    (&[], "id -u; pwd; cat /proc/1/comm; :", "0\n/\nsh"),
    (&["--user", "user"], "id -un; id -gn", "user\nuser"),
    (&["--user", "1000", "--group-add", "33"], "id -G", "1000 33"),
    (&["--umask", "0077"], "umask", "0077"),
    (&["--hostname", "deck"], "hostname", "deck"),
    (&["-w", "/tmp"], "pwd", "/tmp"),
    (&["--env", "A=b", "--env", "C"], "echo $A$C$container", "bpodman"),
    (&["--cap-drop", "all"], "grep Cap /proc/self/status | cut -f 2 | uniq", "0000000000000000"),
    (&["--cap-drop", "all", "--cap-add", "NET_RAW"], "grep CapEff /proc/self/status | cut -f 2", "0000000000002000"),
    (&[], "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | cut -f 2", "0\n2"),
    (&["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status | cut -f 2", "0"),
    (&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status | cut -f 2", "1"),
    (&["--security-opt", "mask=/etc/group"], "wc -c </etc/group", "0"),
    (&["--security-opt", "proc-opts=hidepid=2"], "grep -c ' /proc .*hidepid=' /proc/mounts", "1"),
    (&["--privileged"], "mount -t tmpfs x /tmp && echo mounted", "mounted"),
    (&[], "mount -t tmpfs x /tmp 2>&1", "mount: permission denied (are you root?)"),
    (
        &["--read-only"],
        "touch /x 2>&1; touch /tmp/x /run/x && echo written",
        "touch: /x: Read-only file system\nwritten",
    ),
    (&["--read-only", "--read-only-tmpfs=false"], "touch /tmp/x 2>&1", "touch: /tmp/x: Read-only file system"),
    (
        &["--tmpfs", "/new:size=1m,mode=1770,noexec"],
        "stat -c %a /new; df -k /new | tail -1 | awk '{print $2}'",
        "1770\n1024",
    ),
    (&["--tmpfs", "/new"], "stat -c %a /new", "1777"),
    (&["--tmpfs", "/etc"], "head -1 /etc/passwd; stat -c %a /etc", "root:x:0:0:root:/root:/bin/sh\n755"),
    (&["--mount", "type=tmpfs,dst=/new,tmpfs-size=2m,notmpcopyup"], "df -k /new | tail -1 | awk '{print $2}'", "2048"),
    (&["--mount", "type=devpts,dst=/new"], "ls /new", "ptmx"),
    (&["--device", "/dev/null:/dev/other:rw"], "echo x >/dev/other && stat -c %t:%T /dev/other", "1:3"),
    (&["--device", "/dev/zero:/dev/other:r"], "head -c 3 /dev/other | wc -c", "3"),
    (&["--ulimit", "nofile=77:99", "--ulimit", "nproc=100"], "ulimit -n; ulimit -H -n", "77\n99"),
    (&["--ulimit", "host"], "echo started", "started"),
    (&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj", "500"),
    (&["--shm-size", "3m"], "df -k /dev/shm | tail -1 | awk '{print $2}'", "3072"),
    (&["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward", "1"),
    (&["--personality", "LINUX32"], "busybox uname -m", "i686"),
    (&["--init"], "cat /proc/1/comm; echo $$", "podman-init\n2"),
    (&["--pid", "host"], "cat /proc/1/cmdline | busybox tr '\\0' ' '", "bash -c read -r _ host "),
    (&["--uts", "host"], "hostname", "the-host"),
    (&["--ipc", "host"], "cat /dev/shm/mark", "the host's"),
    (&["--ipc", "private"], "ls /dev/shm", ""),
    (&["--network", "host"], "ls -d /sys/class/net/mark", "/sys/class/net/mark"),
    (&["--network", "none"], "ls /sys/class/net", "lo"),
    (&["--no-hosts", "--dns", "192.0.2.53"], "cat /etc/resolv.conf", "nameserver 192.0.2.53"),
    (&["--add-host", "mate:192.0.2.9"], "grep -c '192.0.2.9.mate' /etc/hosts", "1"),
    (&["--cgroupns", "private"], "cut -d : -f 3 /proc/self/cgroup | busybox sort -u", "/"),
    (&["--cgroupns", "host"], "grep -c libpod- /proc/self/cgroup | sed 's/[1-9][0-9]*/some/'", "some"),
    (&["--cgroups", "no-conmon"], "echo started", "started"),
    (&["--cgroups", "disabled"], "grep -c libpod- /proc/self/cgroup", "0"),
    (
        &["--cgroup-parent", "/deck", "--cgroupns", "host"],
        "grep -c :/deck/libpod- /proc/self/cgroup | sed 's/[1-9][0-9]*/some/'",
        "some",
    ),
    (&["--cpuset-cpus", "0"], "grep Cpus_allowed_list /proc/self/status | cut -f 2", "0"),
    (&["--entrypoint", "[\"echo\", \"entered\"]"], "", "entered sh -c "),
    (&["--hostuser", "root"], "id -u", "0"),
    (&["-v", "/srv/folder:/in:ro"], "cat /in/file; touch /in/x 2>&1", "a file\ntouch: /in/x: Read-only file system"),
    (&["-v", "/srv/folder:/in:rshared"], "grep ' /in ' /proc/self/mountinfo | grep -c shared:", "1"),
    (&["-v", "/srv/folder:/in:O"], "echo other >/in/file && cat /in/file", "other"),
    (
        &["--mount", "type=bind,src=/srv/folder,dst=/in,ro=true"],
        "touch /in/x 2>&1",
        "touch: /in/x: Read-only file system",
    ),
    (&["-v", "/srv/folder/file:/etc/one-file"], "cat /etc/one-file", "a file"),
];

/// Options and a command; the exit status, and a part of what is said.
type Refusal = (&'static [&'static str], &'static [&'static str], i32, &'static str);

const REFUSALS: &[Refusal] = &[
    (&["--no-such-flag"], &["true"], 125, "unknown flag: --no-such-flag"),
    (
        &[],
        &["no-such-program"],
        127,
        "exec: \"no-such-program\": executable file not found in $PATH: OCI runtime attempted to invoke a command that was not found",
    ),
    (&[], &["/no/such/program"], 127, "no such file or directory"),
    (&[], &["/etc/passwd"], 126, "permission denied): OCI permission denied"),
    (&[], &["/etc"], 126, "is a directory"),
    (&["-w", "/no/such"], &["true"], 126, "workdir \"/no/such\" does not exist"),
    (&["--sysctl", "net.no_such=1"], &["true"], 127, "write /proc/sys/net/no_such: ENOENT"),
    (&["--cgroup-manager=systemd"], &["true"], 126, "--systemd-cgroup: the systemd cgroup driver is not supported"),
];

/// Each flag of the table.
pub(super) fn all(podman: Podman) {
    let host = podman.host;
    host.write("/srv/folder/file", "a file\n");
    host.write("/dev/shm/mark", "the host's\n");
    host.must(&["busybox", "hostname", "the-host"]);
    host.must(&["sh", "-ec", "mount --bind /srv/folder /srv/folder; mount --make-shared /srv/folder"]);
    host.must(&["busybox", "ip", "link", "add", "mark", "type", "bridge"]);
    let mut broken = Vec::new();
    for (options, script, want) in FLAGS {
        // One network is enough to be tried, and each takes its time.
        let has_network = options.iter().any(|option| matches!(*option, "--network" | "--add-host" | "--dns"));
        let network: &[_] = if has_network { &[] } else { &["--network", "none"] };
        let ran = podman.run(&[&["run", "--rm"], network, *options, &[BUSYBOX, "sh", "-c", script]].concat());
        let got = ran.out.trim_end_matches('\n');
        if got != *want {
            broken.push(format!("{options:?} {script:?}: {got:?} and not {want:?}: {} {}", ran.status, ran.err));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    host.must(&["busybox", "ip", "link", "del", "mark"]);
    host.must(&["umount", "/srv/folder"]);
}

/// Each refusal of the table.
pub(super) fn refusals(podman: Podman) {
    let mut broken = Vec::new();
    for (options, command, want, text) in REFUSALS {
        let (global, options): (Vec<_>, Vec<_>) = options.iter().partition(|option| option.contains("manager"));
        let start = [global.as_slice(), &["run", "--rm", "--network", "none"], options.as_slice(), &[BUSYBOX]].concat();
        let (code, said) = podman.engine().code(&[start.as_slice(), command].concat());
        if code != *want || !said.contains(text) {
            broken.push(format!("{options:?} {command:?}: {code} and not {want}, {said:?} and not {text:?}"));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
