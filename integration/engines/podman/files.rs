//! What a container has of files, users and descriptors.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::{BUSYBOX, Podman};

/// `cp`, `diff`, `commit`, `mount`, `export`, `rename`.
pub(super) fn changes(podman: Podman) {
    let host = podman.host;
    podman.idle("first", &[]);
    host.write("/srv/copied", "from the host\n");
    podman.must(&["cp", "/srv/copied", "first:/tmp/copied"]);
    podman.must(&["exec", "first", "sh", "-c", "cat /tmp/copied >/etc/motd"]);
    podman.must(&["cp", "first:/etc/motd", "/srv/back"]);
    assert_eq!(host.read("/srv/back"), "from the host\n");
    let diff = podman.must(&["diff", "first"]);
    assert!(diff.contains("A /etc/motd") && diff.contains("C /etc"), "{diff}");
    podman.must(&["commit", "--quiet", "first", "changed:1"]);
    assert_eq!(podman.must(&["run", "--rm", "localhost/changed:1", "cat", "/etc/motd"]), "from the host");
    podman.must(&["rename", "first", "second"]);
    let root = podman.must(&["mount", "second"]);
    assert_eq!(host.read(&format!("{root}/etc/motd")), "from the host\n");
    podman.must(&["umount", "second"]);
    podman.must(&["export", "--output", "/srv/exported.tar", "second"]);
    assert_eq!(host.must(&["tar", "xOf", "/srv/exported.tar", "etc/motd"]), "from the host\n");
    podman.remove("second");
    podman.must(&["rmi", "localhost/changed:1"]);

    // A folder of the host as the root file system, without an image.
    host.must(&["sh", "-ec", "mkdir -p root/bin && cp $(command -v busybox) root/bin/sh"]);
    assert_eq!(podman.must(&["run", "--rm", "--rootfs", "/srv/root", "sh", "-c", "echo $0"]), "sh");
}

/// Named volumes, and secrets in their three forms.
pub(super) fn volumes(podman: Podman) {
    let run = |options: &[&str], script: &str| {
        podman.must(&[&["run", "--rm", "--network", "none"], options, &[BUSYBOX, "sh", "-c", script]].concat())
    };
    run(&["-v", "kept:/data"], "echo kept >/data/file");
    assert_eq!(
        run(&["-v", "kept:/data:ro"], "cat /data/file; touch /data/x 2>/dev/null || echo not written"),
        "kept\nnot written"
    );
    // A new volume begins with what the image has there.
    assert_eq!(run(&["-v", "new:/etc"], "head -1 /etc/passwd"), "root:x:0:0:root:/root:/bin/sh");
    podman.must(&["volume", "rm", "kept", "new"]);

    podman.host.write("/srv/word", "told nobody");
    podman.must(&["secret", "create", "whisper", "/srv/word"]);
    assert_eq!(run(&["--secret", "whisper"], "cat /run/secrets/whisper"), "told nobody");
    assert_eq!(run(&["--secret", "whisper,type=env,target=WORD"], "echo $WORD"), "told nobody");
    assert_eq!(run(&["--secret", "whisper,uid=1000,mode=400"], "stat -c '%u %a' /run/secrets/whisper"), "1000 400");
    podman.must(&["secret", "rm", "whisper"]);
}

/// User namespaces: given, and found.
pub(super) fn users(podman: Podman) {
    let run = |options: &[&str], script: &str| {
        podman.must(&[&["run", "--rm", "--network", "none"], options, &[BUSYBOX, "sh", "-c", script]].concat())
    };
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let map = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    assert_eq!(words(run(&map, "cat /proc/self/uid_map; id -u; touch /x; stat -c %u /x")), "0 100000 65536 0 0");
    assert_eq!(words(run(&["--userns", "auto:size=4096"], "cat /proc/self/uid_map")), "0 200000 4096");
    assert_eq!(words(run(&["--userns", "host"], "cat /proc/self/uid_map")), "0 0 4294967295");
    // A volume changes its owner with the namespace.
    podman.host.must(&["mkdir", "/srv/theirs"]);
    run(&[&map[..], &["-v", "/srv/theirs:/in:U"]].concat(), "touch /in/file");
    assert_eq!(podman.host.must(&["stat", "-c", "%u", "/srv/theirs/file"]), "100000\n");
    // Or its mount is mapped, and it keeps them.
    podman.host.must(&["mkdir", "/srv/mapped"]);
    let options = ["--userns", "auto", "-v", "/srv/mapped:/in:idmap"];
    assert_eq!(run(&options, "touch /in/file; stat -c %u /in/file"), "0");
    assert_eq!(podman.host.must(&["stat", "-c", "%u", "/srv/mapped/file"]), "0\n");
}

/// `--preserve-fds`, socket activation, and who says that a container is ready.
pub(super) fn descriptors(podman: Podman) {
    let bash = |script: &str| podman.host.must(&["bash", "-c", script]);
    let run = format!("podman run --rm --network none {{}} {BUSYBOX} sh -c");
    let given = run.replace("{}", "--preserve-fds 2");
    assert_eq!(bash(&format!("{given} 'cat <&3; cat <&4' 3< <(echo three) 4< <(echo four)")), "three\nfour\n");
    let run = run.replace("{}", "");
    let activated = format!(
        "export LISTEN_FDS=2 LISTEN_FDNAMES=a:b; (LISTEN_PID=$BASHPID exec {run} 'echo $LISTEN_PID $LISTEN_FDS $LISTEN_FDNAMES; cat <&3; cat <&4') 3< <(echo three) 4< <(echo four)"
    );
    assert_eq!(bash(&activated), "1 2 a:b\nthree\nfour\n");

    // It is conmon that says it, or the container, over a socket that is Podman's.
    let listens = UnixDatagram::bind(podman.host.path("/srv/notify")).unwrap();
    listens.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let run = |mode: &str| {
        let notify =
            ["env", "NOTIFY_SOCKET=/srv/notify", "podman", "run", "--rm", "--network", "none", "--sdnotify", mode];
        podman.host.must(&[&notify[..], &[BUSYBOX, "sh", "-c", "echo ${NOTIFY_SOCKET:+given}"]].concat())
    };
    assert_eq!(run("conmon"), "\n");
    let mut told = String::new();
    while !told.contains("READY=1") {
        let mut buffer = [0; 4096];
        let length = listens.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}, after {told:?}"));
        told.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(told.contains("MAINPID="), "{told}");
    assert_eq!(run("container"), "given\n");
}
