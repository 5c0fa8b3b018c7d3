//! What else Docker asks of a runtime or a shim in a container's life.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Docker;
use crate::host::until;

/// A container that does nothing.
fn idle(docker: &Docker, name: &str, options: &[&str]) {
    docker.must(&[&["run", "-d", "--name", name], options, &["busybox:1", "sleep", "1000"]].concat());
}

/// Health checks.
pub(super) fn health(docker: &Docker) {
    let health = || docker.inspect("patient", "{{.State.Health.Status}}");
    idle(docker, "patient", &["--health-cmd", "true", "--health-interval", "1h"]);
    assert_eq!(health(), "starting");
    docker.must(&["rm", "-f", "patient"]);

    let options = ["--health-cmd", "test -e /well", "--health-interval", "300ms", "--health-retries", "2"];
    idle(docker, "patient", &options);
    // Of the last five.
    let log = || docker.inspect("patient", "{{range .State.Health.Log}}{{.ExitCode}} {{end}}");
    until("an illness", || (health() == "unhealthy").then_some(()));
    let ill = log();
    assert!(ill.starts_with("1 1") && !ill.contains('0'), "{ill}");
    docker.must(&["exec", "patient", "touch", "/well"]);
    until("a recovery", || (health() == "healthy").then_some(()));
    let well = log();
    assert!(well.trim_end().ends_with('0'), "{well}");
    docker.must(&["rm", "-f", "patient"]);

    // One that hangs is killed in time, and leaves nothing running.
    let options = ["--health-cmd", "sleep 500", "--health-interval", "300ms", "--health-timeout", "300ms"];
    idle(docker, "patient", &[&options[..], &["--health-retries", "1"]].concat());
    until("an illness", || (health() == "unhealthy").then_some(()));
    let top = docker.must(&["top", "patient"]);
    assert!(top.matches("sleep 500").count() <= 2, "{top}");
    docker.must(&["rm", "-f", "patient"]);
}

/// `docker update`.
pub(super) fn update(docker: &Docker) {
    idle(docker, "small", &["--memory", "64m", "--memory-swap", "64m"]);
    let change =
        ["--memory", "128m", "--memory-swap", "256m", "--cpus", "0.5", "--pids-limit", "50", "--cpuset-cpus", "1"];
    docker.must(&[&["update"], &change[..], &["small"]].concat());
    let script = "cd /sys/fs/cgroup; if [ -e memory.max ]; then cat memory.max cpu.max pids.max cpuset.cpus;
        else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us pids/pids.max cpuset/cpuset.cpus; fi";
    let now = docker.must(&["exec", "small", "sh", "-c", script]);
    assert_eq!(now.replace('\n', " "), "134217728 50000 100000 50 1");
    // What can't be is refused, and changes nothing.
    docker.refused(&["update", "--cpuset-cpus", "99", "small"]);
    assert_eq!(docker.must(&["exec", "small", "sh", "-c", script]), now);
    docker.must(&["rm", "-f", "small"]);
}

/// `docker top` and `docker cp`.
pub(super) fn top_and_cp(docker: &Docker) {
    idle(docker, "box", &[]);
    docker.must(&["exec", "-d", "box", "sleep", "2000"]);
    until("an exec", || docker.must(&["top", "box", "-o", "pid,args"]).contains("sleep 2000").then_some(()));
    let top = docker.must(&["top", "box", "-eo", "pid,args"]);
    let pid = docker.inspect("box", "{{.State.Pid}}");
    let mut rows: Vec<_> = top.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>()).collect();
    rows.sort_by_key(|row| row[2].parse::<u32>().unwrap());
    assert_eq!(rows.len(), 2, "{top}");
    assert_eq!(rows[0], [&pid, "sleep", "1000"]);

    let host = docker.host;
    host.write("/srv/copy/file", "from the host\n");
    docker.must(&["cp", "copy", "box:/tmp"]);
    assert_eq!(docker.must(&["exec", "box", "cat", "/tmp/copy/file"]), "from the host");
    docker.must(&["exec", "box", "sh", "-c", "echo inside >/tmp/made; ln -s /etc/passwd /tmp/link"]);
    docker.must(&["stop", "-t", "0", "box"]);
    docker.must(&["cp", "box:/tmp/made", "made"]);
    assert_eq!(host.must(&["cat", "made"]), "inside\n");
    docker.must(&["cp", "-L", "box:/tmp/link", "passwd"]);
    assert!(host.must(&["cat", "passwd"]).contains("user:x:1000"));
    docker.must(&["rm", "box"]);
}

/// The order of events.
pub(super) fn events(docker: &Docker) {
    let since = docker.host.must(&["date", "+%s.%N"]);
    let told = |format: &str| {
        let until = docker.host.must(&["date", "+%s.%N"]);
        let time = ["--since", since.trim(), "--until", until.trim()];
        let filter = ["--filter", "container=told", "--filter", "type=container", "--format", format];
        docker.must(&[&["events"], &time[..], &filter].concat())
    };
    // Who executes hears of the end before who listens to events.
    let dead =
        |count| until("an exec's end", || (told("{{.Action}}").matches("exec_die").count() == count).then_some(()));
    docker.must(&["create", "--name", "told", "busybox:1", "sleep", "1000"]);
    docker.must(&["start", "told"]);
    docker.must(&["exec", "told", "true"]);
    dead(1);
    assert_eq!(docker.engine().code(&["exec", "told", "sh", "-c", "exit 5"]).0, 5);
    dead(2);
    docker.must(&["pause", "told"]);
    docker.must(&["unpause", "told"]);
    docker.must(&["kill", "told"]);
    docker.must(&["wait", "told"]);
    docker.must(&["rm", "told"]);
    let actions = told("{{.Action}}");
    let words: Vec<_> = actions.lines().map(|line| line.split(':').next().unwrap()).collect();
    let exec = ["exec_create", "exec_start", "exec_die"];
    let want = [&["create", "start"][..], &exec, &exec, &["pause", "unpause", "kill", "die", "destroy"]].concat();
    assert_eq!(words, want);
    let codes = told("{{.Action}} {{.Actor.Attributes.exitCode}}");
    let codes: Vec<_> = codes.lines().filter(|line| line.contains("die")).collect();
    assert_eq!(codes, ["exec_die 0", "exec_die 5", "die 137"]);
}

/// Running out of memory is told before the end that it explains.
pub(super) fn out_of_memory(docker: &Docker) {
    let since = docker.host.must(&["date", "+%s.%N"]);
    // A file in memory is charged to its writer.
    let options = ["--name", "hungry", "--memory", "16m", "--memory-swap", "16m", "--shm-size", "64m"];
    let command = ["busybox:1", "dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=40"];
    docker.refused(&[&["run"], &options[..], &command].concat());
    assert_eq!(docker.inspect("hungry", "{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137");
    docker.must(&["rm", "hungry"]);
    let until = docker.host.must(&["date", "+%s.%N"]);
    let filter = ["--filter", "container=hungry", "--filter", "type=container", "--format", "{{.Action}}"];
    let told = docker.must(&[&["events", "--since", since.trim(), "--until", until.trim()], &filter[..]].concat());
    assert_eq!(told, "create\nattach\nstart\noom\ndie\ndestroy");
}

/// `--init`: it reaps, and passes signals on.
pub(super) fn init(docker: &Docker) {
    let script = "(sleep 0.1 & sleep 0.1 &); echo orphaned; sleep 1000";
    docker.must(&["run", "-d", "--init", "--name", "orphans", "busybox:1", "sh", "-c", script]);
    until("orphans", || (docker.must(&["logs", "orphans"]) == "orphaned").then_some(()));
    let states = "grep -h -e ^Name: -e ^State: /proc/[0-9]*/status | paste - - | cut -f 2,4";
    until("their end, and their burial", || {
        let states = docker.must(&["exec", "orphans", "sh", "-c", states]);
        // The one that is left is the script's own.
        (states.matches("sleep\t").count() == 1 && !states.contains('Z')).then_some(())
    });
    docker.must(&["stop", "-t", "20", "orphans"]);
    assert_eq!(docker.inspect("orphans", "{{.State.ExitCode}}"), "143");
    docker.must(&["rm", "orphans"]);
}

/// Attaching, detaching, renaming, exporting, signals.
pub(super) fn odds_and_ends(docker: &Docker) {
    let script = "trap 'echo hup' HUP; trap 'echo quit; exit 6' QUIT; echo up; while :; do sleep 0.1; done";
    let options = ["--name", "before", "--stop-signal", "QUIT"];
    docker.must(&[&["run", "-d"], &options[..], &["busybox:1", "sh", "-c", script]].concat());
    docker.must(&["rename", "before", "after"]);
    until("the program", || (docker.must(&["logs", "after"]) == "up").then_some(()));
    docker.must(&["kill", "-s", "HUP", "after"]);
    until("its answer", || (docker.must(&["logs", "after"]) == "up\nhup").then_some(()));
    docker.must(&["stop", "after"]);
    assert_eq!(docker.inspect("after", "{{.State.ExitCode}}"), "6");
    let script = format!("{} export after | tar t | grep -c '^bin/busybox$'", super::CLIENT);
    assert_eq!(docker.host.must(&["sh", "-c", &script]), "1\n");
    let root = docker.inspect("after", "{{.GraphDriver.Data.MergedDir}}");
    docker.must(&["rm", "after"]);
    // Docker 26 never lets go of what it has exported (moby issue 48516); with others nothing is mounted there now.
    let _ = docker.host.run(&["umount", &root]);

    let mut user = docker.engine().terminal(&["run", "-it", "--name", "window", "busybox:1"]);
    user.expect("/ # ");
    user.type_in("\x10\x11");
    assert_eq!(user.wait(), 0);
    assert_eq!(docker.inspect("window", "{{.State.Status}}"), "running");
    let mut user = docker.engine().terminal(&["attach", "window"]);
    user.type_in("echo $((6 * 7))\n");
    user.expect("\n42\r\n");
    user.type_in("exit 8\n");
    assert_eq!(user.wait(), 8);
    docker.must(&["rm", "window"]);
}

/// Thirty containers that begin, are used and end at the same time.
pub(super) fn many(docker: &Docker) {
    let names: Vec<_> = (0..30).map(|n| format!("many-{n}")).collect();
    let on_all = |args: &dyn Fn(&str) -> Vec<String>| {
        let spawned: Vec<_> = names
            .iter()
            .map(|name| {
                let args = args(name);
                let args: Vec<_> = args.iter().map(String::as_str).collect();
                docker.engine().command(&args).stdout(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let outputs = spawned.into_iter().map(|child| child.wait_with_output().unwrap());
        outputs
            .map(|output| {
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).unwrap()
            })
            .collect::<Vec<_>>()
    };
    let owned = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let options = ["--network", "none", "--memory", "32m"];
    on_all(&|name| owned(&[&["run", "-d", "--name", name], &options[..], &["busybox:1", "sleep", "1000"]].concat()));
    let heard = on_all(&|name| owned(&["exec", name, "echo", name]));
    assert!(heard.iter().zip(&names).all(|(heard, name)| heard.trim_end() == name), "{heard:?}");
    let rows = docker.must(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]);
    assert_eq!(rows.lines().filter(|row| row.starts_with("many-") && row.ends_with(" 1")).count(), 30, "{rows}");
    on_all(&|name| owned(&["rm", "-f", name]));
}

/// The shim is killed: the container is, too, and Docker hears of it.
pub(super) fn shim_killed(docker: &Docker) {
    idle(docker, "bereft", &[]);
    let id = docker.inspect("bereft", "{{.Id}}");
    let shims = || {
        docker
            .host
            .processes()
            .into_iter()
            .filter(|(_, arguments)| arguments.contains("shim") && arguments.contains(&id))
    };
    let (pid, _) = shims().next().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    until("the end", || (docker.inspect("bereft", "{{.State.Status}}") == "exited").then_some(()));
    assert!(shims().all(|(other, _)| other != pid));
    assert_ne!(docker.inspect("bereft", "{{.State.ExitCode}}"), "0");
    docker.must(&["start", "bereft"]);
    docker.must(&["exec", "bereft", "true"]);
    docker.must(&["rm", "-f", "bereft"]);
}
