//! A container's life: states, statuses, processes beside the first, terminals, streams, and who notices its end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{BUSYBOX, Podman};
use crate::host::until;

/// From `create` to `rm`, by way of every state.
pub(super) fn states(podman: Podman) {
    let status = || podman.inspect("web", "{{.State.Status}}");
    podman.must(&[
        "create",
        "--name",
        "web",
        BUSYBOX,
        "sh",
        "-c",
        "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done",
    ]);
    assert_eq!(status(), "created");
    podman.must(&["init", "web"]);
    assert_eq!(status(), "initialized");
    podman.must(&["start", "web"]);
    assert_eq!(status(), "running");
    assert_eq!(podman.inspect("web", "{{.OCIRuntime}}"), "orlop");
    until("its first words", || (podman.must(&["logs", "web"]) == "up").then_some(()));

    podman.must(&["pause", "web"]);
    assert_eq!(status(), "paused");
    assert!(podman.engine().refused(&["exec", "web", "true"]).contains("container state improper"));
    podman.must(&["unpause", "web"]);
    assert_eq!(status(), "running");

    assert!(podman.engine().refused(&["rm", "web"]).contains("cannot be removed without force"));
    podman.must(&["stop", "--time", "20", "web"]);
    assert_eq!(podman.inspect("web", "{{.State.Status}} {{.State.ExitCode}}"), "exited 3");
    podman.must(&["start", "web"]);
    let pid = podman.engine().pid("web");
    podman.must(&["restart", "--time", "0", "web"]);
    assert_ne!(podman.engine().pid("web"), pid);
    podman.must(&["kill", "web"]);
    assert_eq!(podman.must(&["wait", "web"]), "137");
    assert!(podman.engine().refused(&["kill", "web"]).contains("can only kill running containers"));
    podman.must(&["rm", "web"]);
    assert!(podman.engine().refused(&["inspect", "--type", "container", "web"]).contains("web"));

    // Nothing waits for one that can't begin.
    podman.must(&["create", "--name", "never", BUSYBOX, "no-such-program"]);
    let said = podman.engine().refused(&["start", "never"]);
    assert!(said.contains("exec: \"no-such-program\": executable file not found in $PATH"), "{said}");
    assert_eq!(podman.inspect("never", "{{.State.Status}}"), "created");
    podman.must(&["rm", "never"]);
}

/// The exit status of `run`, and that of `wait`.
pub(super) fn statuses(podman: Podman) {
    let status = |options: &[&str], command: &[&str]| {
        let start = ["run", "--rm", "--network", "none"];
        podman.engine().code(&[&start, options, &[BUSYBOX], command].concat()).0
    };
    assert_eq!(status(&[], &["true"]), 0);
    assert_eq!(status(&[], &["sh", "-c", "exit 7"]), 7);
    assert_eq!(status(&["--init"], &["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(status(&["--init"], &["sh", "-c", "kill -SEGV $$"]), 139);
    assert_eq!(status(&["--timeout", "1"], &["sleep", "1000"]), 255);
    // A file in memory is charged to its writer.
    let dd = ["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=40"];
    assert_eq!(status(&["--memory", "16m", "--memory-swap", "16m", "--shm-size", "64m"], &dd), 137);
}

/// Processes beside the first.
pub(super) fn exec(podman: Podman) {
    podman.idle("box", &["--env", "FROM=run"]);
    let exec =
        |options: &[&str], script: &str| podman.must(&[&["exec"], options, &["box", "sh", "-c", script]].concat());
    assert_eq!(exec(&[], "echo $FROM; id -u"), "run\n0");
    assert_eq!(exec(&["--user", "user", "-w", "/tmp", "--env", "A=b"], "id -un; pwd; echo $A"), "user\n/tmp\nb");
    let all = podman.host.must(&["grep", "CapBnd", "/proc/self/status"]);
    let has = exec(&["--privileged"], "grep CapBnd /proc/self/status; grep CapEff /proc/self/status | cut -f 2");
    assert_eq!(has.lines().map(|line| line.trim_start_matches("CapBnd:	")).collect::<Vec<_>>(), [all[8..].trim(); 2]);
    assert_eq!(podman.fed("to be read\n", &["exec", "-i", "box", "cat"]), "to be read\n");
    assert_eq!(exec(&["--preserve-fds", "0"], "ls /proc/self/fd | wc -l"), "4");
    exec(&["--detach"], "sleep 1000");
    until("the detached one", || podman.must(&["top", "box", "args"]).contains("sleep 1000").then_some(()));

    let code =
        |options: &[&str], command: &[&str]| podman.engine().code(&[&["exec"], options, &["box"], command].concat());
    assert_eq!(code(&[], &["sh", "-c", "exit 9"]).0, 9);
    assert_eq!(code(&[], &["sh", "-c", "kill -9 $$"]).0, 137);
    let (status, said) = code(&[], &["no-such-program"]);
    assert!(status == 127 && said.contains("exec: \"no-such-program\": executable file not found in $PATH"), "{said}");
    let (status, said) = code(&[], &["/etc/passwd"]);
    assert!(status == 126 && said.contains("permission denied"), "{said}");
    let (status, said) = code(&["-w", "/no/such"], &["true"]);
    assert!(status == 127 && said.contains("chdir to cwd (\"/no/such\") set in config.json failed"), "{said}");

    let stats = podman.must(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "box"]);
    let pids = stats.strip_prefix("box ").and_then(|pids| pids.parse::<u32>().ok());
    assert!(pids.is_some_and(|pids| (2..=4).contains(&pids)), "{stats}");
    podman.remove("box");
}

/// Terminals: of `run`, of `exec`, and attached.
pub(super) fn terminals(podman: Podman) {
    let engine = podman.engine();
    let mut user = engine.terminal(&["run", "-it", "--name", "window", BUSYBOX]);
    user.expect("/ # ");
    user.type_in("stty size\n");
    user.expect("30 100");
    user.resize(44, 88);
    until("the new size", || {
        user.type_in("stty size\n");
        user.expect("stty size\r\n");
        (user.expect("/ # ").trim_end() == "44 88").then_some(())
    });
    user.type_in("exit 5\n");
    assert_eq!(user.wait(), 5);

    podman.must(&["start", "window"]);
    let mut user = engine.terminal(&["exec", "-it", "window", "sh"]);
    user.expect("/ # ");
    user.type_in("readlink /proc/self/fd/0\n");
    user.expect("/dev/pts/");
    user.type_in("exit 6\n");
    assert_eq!(user.wait(), 6);

    // Of several keys, Podman has to read each by itself.
    let mut user = engine.terminal(&["attach", "--detach-keys", "ctrl-q", "window"]);
    user.type_in("echo $((6 * 7))\n");
    user.expect("\n42\r\n");
    user.type_in("\x11");
    assert_eq!(user.wait(), 0);
    assert_eq!(engine.status("window"), "running");
    podman.remove("window");
}

/// What goes through conmon's pipes.
pub(super) fn streams(podman: Podman) {
    let run = |options: &[&str], script: &str| {
        podman.must(&[&["run", "--rm", "--network", "none"], options, &[BUSYBOX, "sh", "-c", script]].concat())
    };
    let start = ["run", "--rm", "-i", "--network", "none", BUSYBOX];
    assert_eq!(
        podman.fed("a\nb\n", &[&start[..], &["sh", "-c", "while read x; do echo got $x; done; echo end"]].concat()),
        "got a\ngot b\nend\n"
    );
    assert_eq!(podman.fed(&"0123456789".repeat(300_000), &[&start[..], &["wc", "-c"]].concat()), "3000000\n");
    assert_eq!(run(&["--log-driver", "none"], "busybox yes | head -c 3000000").len(), 2_999_999);

    // The file is conmon's; its words are ours.
    podman.must(&[
        "run",
        "-d",
        "--name",
        "talks",
        BUSYBOX,
        "sh",
        "-c",
        "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.2; done",
    ]);
    let ran = podman.run(&["logs", "--follow", "talks"]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out 1\nout 2\nout 3\n", "err 1\nerr 2\nerr 3\n"));
    assert_eq!(podman.run(&["logs", "--tail", "1", "talks"]).err, "err 3\n");
    podman.must(&["rm", "talks"]);
}

/// Signals that `run` passes on, and those of `kill` and `stop`.
pub(super) fn signals(podman: Podman) {
    let script = "trap 'echo user' USR1; trap 'echo term; exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let argv = podman.engine().command(&["run", "--name", "hears", BUSYBOX, "sh", "-c", script]);
    let mut command = argv;
    let mut ran = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    until("its first words", || podman.run(&["logs", "hears"]).out.contains("up").then_some(()));
    podman.must(&["kill", "--signal", "USR1", "hears"]);
    until("its answer", || podman.must(&["logs", "hears"]).contains("user").then_some(()));
    let processes = podman.host.processes();
    let (client, _) = processes.iter().find(|(_, what)| what.starts_with("podman run --name hears")).unwrap();
    // It has begun to pass signals on when one of them arrives.
    until("a signal through it", || {
        kill(Pid::from_raw(*client), Signal::SIGUSR1).unwrap();
        (podman.must(&["logs", "hears"]).matches("user").count() > 1).then_some(())
    });
    kill(Pid::from_raw(*client), Signal::SIGTERM).unwrap();
    assert_eq!(ran.wait().unwrap().code(), Some(9));
    podman.must(&["rm", "hears"]);

    // One that does not listen is killed in the end, with all that it has started, though pids are the host's.
    podman.must(&[
        "run",
        "-d",
        "--pid",
        "host",
        "--name",
        "deaf",
        BUSYBOX,
        "sh",
        "-c",
        "trap '' TERM; sleep 1111 & sleep 1111 & wait; sleep 1111",
    ]);
    podman.must(&["stop", "--time", "1", "deaf"]);
    assert_eq!(podman.inspect("deaf", "{{.State.ExitCode}}"), "137");
    podman.must(&["rm", "deaf"]);
    until("the end of all", || {
        podman.host.processes().iter().all(|(_, what)| !what.contains("sleep 1111")).then_some(())
    });
}

/// conmon's exit command starts it again.
pub(super) fn restarts(podman: Podman) {
    podman.must(&[
        "run",
        "-d",
        "--restart",
        "on-failure:2",
        "--name",
        "fails",
        BUSYBOX,
        "sh",
        "-c",
        "echo run; exit 4",
    ]);
    until("its last end", || {
        (podman.inspect("fails", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}") == "exited 4 2")
            .then_some(())
    });
    assert_eq!(podman.must(&["logs", "fails"]), "run\nrun\nrun");
    podman.must(&["rm", "fails"]);

    podman.idle("always", &["--restart", "always"]);
    let pid = podman.engine().pid("always");
    podman.host.must(&["sh", "-c", &format!("kill -TERM {pid}")]);
    until("another life", || {
        let now = podman.inspect("always", "{{.State.Status}} {{.State.Pid}}");
        (now.starts_with("running ") && now != format!("running {pid}")).then_some(())
    });
    podman.must(&["exec", "always", "true"]);
    podman.remove("always");
}

/// Health checks are execs.
pub(super) fn health(podman: Podman) {
    podman.idle("patient", &["--health-cmd", "test -e /well", "--health-interval", "disable", "--health-retries", "1"]);
    assert_eq!(podman.engine().code(&["healthcheck", "run", "patient"]).0, 1);
    podman.must(&["exec", "patient", "touch", "/well"]);
    podman.must(&["healthcheck", "run", "patient"]);
    assert_eq!(podman.inspect("patient", "{{.State.Health.Status}}"), "healthy");
    podman.remove("patient");
}

/// Limits, and `podman update`.
pub(super) fn update(podman: Podman) {
    podman.idle("small", &["--memory", "64m", "--memory-swap", "64m", "--cpus", "1.5", "--pids-limit", "50"]);
    let limits = || {
        let script = "cd /sys/fs/cgroup; if [ -e memory.max ]; then cat memory.max cpu.max pids.max;
            else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us pids/pids.max; fi";
        podman.must(&["exec", "small", "sh", "-c", script]).replace('\n', " ")
    };
    assert_eq!(limits(), "67108864 150000 100000 50");
    podman.must(&["update", "--memory", "128m", "--memory-swap", "256m", "--cpus", "0.5", "small"]);
    assert_eq!(limits(), "134217728 50000 100000 50");
    let said = podman.engine().refused(&["update", "--cpuset-cpus", "99", "small"]);
    assert!(said.contains("orlop update"), "{said}");
    assert_eq!(limits(), "134217728 50000 100000 50");
    podman.remove("small");
}

/// What orlop can't do yet changes nothing, and says so.
pub(super) fn refused(podman: Podman) {
    podman.idle("stays", &[]);
    for verb in ["checkpoint", "restore"] {
        let said = podman.engine().refused(&["container", verb, "stays"]);
        assert!(said.contains("does not support checkpoint/restore") || said.contains("criu"), "{verb}: {said}");
    }
    assert_eq!(podman.engine().status("stays"), "running");
    podman.remove("stays");
}
