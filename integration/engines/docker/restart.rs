//! Containers that outlive the daemon.

use nix::sys::signal::Signal;

use super::Docker;
use crate::host::until;

/// With live-restore the daemon may end and begin again, by a signal or by death. `missed` is the exit status that it
/// knows of a container that ended meanwhile, with 5.
pub(super) fn restored(docker: &mut Docker, missed: i32) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let clock = "i=0; while :; do i=$((i+1)); echo $i; [ ! -e /hush ] || echo $i >/last
            while [ -e /hush ]; do sleep 0.1; done; sleep 0.1; done";
        docker.must(&["run", "-d", "--name", "lives", "busybox:1", "sh", "-c", clock]);
        docker.must(&[
            "run",
            "-d",
            "--name",
            "dies",
            "busybox:1",
            "sh",
            "-c",
            "while [ ! -e /now ]; do sleep 0.1; done; exit 5",
        ]);
        let pid = |name: &str| docker.inspect(name, "{{.State.Pid}}");
        let (lives, dies) = (pid("lives"), pid("dies"));
        // What the daemon has read and not written when it ends is lost, so let nothing be on the way.
        let hush = format!("/proc/{lives}/root/hush");
        docker.host.must(&["touch", &hush]);
        let last = || docker.host.run(&["cat", &format!("/proc/{lives}/root/last")]).out;
        let last = until("its last word", || last().strip_suffix('\n').map(str::to_owned));
        until("the log of it", || (docker.must(&["logs", "lives"]).lines().last() == Some(&last)).then_some(()));
        docker.stop(signal);
        // One speaks and one ends while nobody listens.
        docker.host.must(&["rm", &hush]);
        docker.host.must(&["touch", &format!("/proc/{dies}/root/now")]);
        until("its end", || (!docker.host.run(&["test", "-e", &format!("/proc/{dies}/root/now")]).ok()).then_some(()));
        docker.host.must(&["test", "-e", &format!("/proc/{lives}/root/bin")]);
        docker.start();
        let state = |name: &str| docker.inspect(name, "{{.State.Status}} {{.State.ExitCode}}");
        until("the news", || state("dies").starts_with("exited").then_some(()));
        assert_eq!([state("dies"), state("lives")], [format!("exited {missed}"), "running 0".into()], "{signal}");
        assert_eq!(docker.inspect("lives", "{{.State.Pid}}"), lives, "{signal}: another process");
        // It is as usable as before: its output, an exec, a limit, an end.
        let lines = || docker.must(&["logs", "lives"]).lines().count();
        let before = lines();
        until("more output", || (lines() > before + 3).then_some(()));
        let numbers = docker.must(&["logs", "lives"]);
        assert!(
            numbers.lines().zip(1..).all(|(line, n)| line == n.to_string()),
            "{signal}: lost or repeated: {numbers}"
        );
        assert_eq!(docker.must(&["exec", "lives", "echo", "here"]), "here");
        docker.must(&["update", "--memory", "64m", "--memory-swap", "64m", "lives"]);
        docker.must(&["pause", "lives"]);
        docker.must(&["unpause", "lives"]);
        docker.must(&["kill", "lives"]);
        assert_eq!(docker.must(&["wait", "lives"]), "137");
        docker.must(&["rm", "lives", "dies"]);
    }
}
