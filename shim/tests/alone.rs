//! Containers without an engine, as a user has them: the program is called, and its monitors are killed. Needs root and a
//! static busybox.

#![allow(clippy::disallowed_methods, reason = "the paths are the test's own")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is a test"
)]

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::process::{Pid, Signal, kill_process};
use orlop_sys::rustix::pty::{OpenptFlags, grantpt, openpt, unlockpt};
use orlop_sys::rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};

use common::{PATIENCE, make_bundle, skipped, wait_for_end};

mod common;

const SHIM: &str = env!("CARGO_BIN_EXE_orlop-shim");

/// A place with a bundle, and state of its own.
struct Place {
    dir: PathBuf,
}

impl Place {
    /// Whose container runs a script.
    fn new(script: &str) -> Self {
        Self::with(script, |_| {})
    }

    fn with(script: &str, change: impl FnOnce(&mut Value)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/orlop-alone-{}-{n}", std::process::id()));
        let cgroup = format!("/orlop-alone-test-{}-{n}", std::process::id());
        make_bundle(&dir.join("b"), &cgroup, &["sh", "-c", script], change);
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SHIM);
        command.args(["--root", &self.path("r"), "--state", &self.path("s")]).args(args).stdin(Stdio::null());
        command.env_remove("NOTIFY_SOCKET");
        command
    }

    fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command prints, which succeeds.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command complains about, which fails.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// `run` with these options.
    fn run(&self, options: &[&str]) -> Output {
        let bundle = self.path("b");
        let mut args = vec!["run", "-b", &bundle];
        args.extend(options);
        args.push("c1");
        self.call(&args)
    }

    fn detached(&self, options: &[&str]) {
        let mut all = vec!["-d"];
        all.extend(options);
        let output = self.run(&all);
        assert!(output.status.success() && output.stdout == b"c1\n", "{output:?}");
    }

    fn inspect(&self) -> Value {
        let documents: Value = serde_json::from_str(&self.ok(&["inspect", "c1"])).unwrap();
        documents[0].clone()
    }

    fn status(&self) -> String {
        self.inspect()["State"]["Status"].as_str().unwrap().to_owned()
    }

    fn pid(&self, name: &str) -> i32 {
        i32::try_from(self.inspect()["State"][name].as_i64().unwrap()).unwrap()
    }

    fn wait_for(&self, what: &str, mut is: impl FnMut(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let document = self.inspect();
            if is(&document) {
                return document;
            }
            assert!(Instant::now() < end, "{what}: {document:#}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Until it is over, monitor and all.
    fn wait(&self) -> Value {
        self.wait_for("the end", |d| d["State"]["Status"] == "exited" && d["State"]["MonitorPid"] == 0)
    }

    /// Until a container that ends at once waits for its next start, for more than three seconds: there is time to do
    /// something on a busy machine, too.
    fn wait_for_long_pause(&self) {
        self.wait_for("a long pause", |d| {
            d["RestartCount"].as_u64() >= Some(5) && d["State"]["Status"] == "restarting"
        });
    }

    fn wait_for_log(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.ok(&["logs", "c1"]).contains(text) {
            assert!(Instant::now() < end, "no {text:?} in {:?}", self.ok(&["logs", "c1"]));
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill_monitor(&self) {
        let monitor = self.pid("MonitorPid");
        kill_process(Pid::from_raw(monitor).unwrap(), Signal::KILL).unwrap();
        wait_for_end(monitor);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let output = self.call(&["rm", "-f", "c1"]);
        if !thread::panicking() {
            let gone = String::from_utf8_lossy(&output.stderr).contains("no such container");
            assert!(output.status.success() || gone, "{output:?}");
            let left = |name: &str| fs::read_dir(self.dir.join(name)).map_or(0, |entries| entries.count());
            assert_eq!((left("s"), left("r/c1")), (0, 0));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

#[test]
fn a_container_in_the_foreground_has_our_streams_and_gives_us_its_status() {
    if skipped() {
        return;
    }
    let place = Place::new("echo out; echo err >&2; exit 7");
    let output = place.run(&[]);
    assert_eq!((text(&output.stdout), text(&output.stderr), output.status.code()), ("out\n", "err\n", Some(7)));
    let document = place.inspect();
    assert_eq!((&document["State"]["Status"], &document["State"]["ExitCode"]), (&json!("exited"), &json!(7)));
    assert_eq!(fs::read_to_string(place.dir.join("s/c1/exit")).unwrap(), "7");
    assert_eq!(place.ok(&["ps"]).lines().count(), 1);
    let all = place.ok(&["ps", "-a"]);
    assert!(all.contains("c1") && all.contains("Exited (7) "), "{all}");
    assert_eq!(place.ok(&["wait", "c1"]), "7\n");
    assert!(text(&place.run(&[]).stderr).contains("c1: the id is in use"));
    place.ok(&["rm", "c1"]);
    assert!(place.refused(&["inspect", "c1"]).contains("inspect c1: no such container"));
}

#[test]
fn input_reaches_the_container_and_so_does_its_end() {
    if skipped() {
        return;
    }
    let place = Place::new("cat; echo over");
    let bundle = place.path("b");
    let mut child = place
        .command(&["run", "--rm", "-i", "-b", &bundle, "c1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = lines.clone();
    let writer = thread::spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    assert!(text(&output.stdout) == lines + "over\n", "{} bytes came back", output.stdout.len());
    assert!(place.refused(&["inspect", "c1"]).contains("no such container"));
}

#[test]
fn what_can_not_be_run_leaves_nothing_and_has_dockers_status() {
    if skipped() {
        return;
    }
    for (args, status, why) in
        [(json!(["nope"]), 127, "executable file not found in $PATH"), (json!(["/bin"]), 126, "is a directory")]
    {
        let place = Place::with("", |config| config["process"]["args"] = args);
        for options in [&[][..], &["-d"], &["-d", "--restart", "always"]] {
            let output = place.run(options);
            assert_eq!(output.status.code(), Some(status), "{output:?}");
            assert!(text(&output.stderr).contains(why), "{output:?}");
        }
    }
    let place = Place::with("", |config| config["mounts"][0]["type"] = json!("nope"));
    assert_eq!(place.run(&["-d"]).status.code(), Some(125));
    assert_eq!(place.run(&["--log", "/nowhere/log"]).status.code(), Some(125));
}

#[test]
fn stop_asks_first_and_kills_when_the_time_is_over() {
    if skipped() {
        return;
    }
    let place = Place::new("trap 'echo asked; exit 5' TERM; echo up; while true; do usleep 10000; done");
    place.detached(&["--restart", "always"]);
    place.wait_for_log("up");
    place.ok(&["stop", "c1"]);
    // The intent is stronger than the policy.
    let document = place.wait();
    assert_eq!((&document["State"]["ExitCode"], &document["RestartCount"]), (&json!(5), &json!(0)));
    assert!(place.ok(&["logs", "c1"]).ends_with("asked\n"));
    place.ok(&["stop", "c1"]);
    place.ok(&["start", "c1"]);
    assert_eq!(place.status(), "running");
    assert!(place.refused(&["rm", "c1"]).contains("rm c1: the container is running"));

    let deaf = Place::new("trap '' TERM; echo up; while true; do usleep 10000; done");
    deaf.detached(&["--stop-timeout", "1"]);
    deaf.wait_for_log("up");
    let before = Instant::now();
    deaf.ok(&["stop", "c1"]);
    assert!((900..5000).contains(&before.elapsed().as_millis()), "{:?}", before.elapsed());
    assert_eq!(deaf.wait()["State"]["ExitCode"], 137);
}

#[test]
fn the_signal_of_the_image_ends_it() {
    if skipped() {
        return;
    }
    let script =
        "trap 'echo int; exit 0' INT; trap 'echo usr1; exit 0' USR1; echo up; while true; do usleep 10000; done";
    let place = Place::with(script, |config| {
        config["annotations"] = json!({"org.opencontainers.image.stopSignal": "SIGINT"});
    });
    place.detached(&[]);
    place.wait_for_log("up");
    place.ok(&["stop", "c1"]);
    assert!(place.ok(&["logs", "c1"]).ends_with("int\n"));
    place.ok(&["rm", "c1"]);
    place.detached(&["--stop-signal", "USR1"]);
    place.wait_for_log("up");
    // To its monitor, as a service manager does.
    kill_process(Pid::from_raw(place.pid("MonitorPid")).unwrap(), Signal::TERM).unwrap();
    place.wait();
    assert!(place.ok(&["logs", "c1"]).ends_with("usr1\n"));
}

#[test]
fn a_policy_starts_it_again_with_growing_pauses_and_a_count() {
    if skipped() {
        return;
    }
    let place = Place::new("echo run; exit 3");
    place.detached(&["--restart", "on-failure:4"]);
    let document = place.wait();
    assert_eq!((&document["RestartCount"], &document["State"]["ExitCode"]), (&json!(4), &json!(3)));
    assert_eq!(place.ok(&["logs", "c1"]), "run\n".repeat(5));
    let log = fs::read_to_string(place.dir.join("s/c1/container.log")).unwrap();
    // Pauses of 100, 200, 400 and 800 ms.
    let second = |line: &str| {
        let at = |from: usize, to: usize| line[from..to].parse::<f64>().unwrap();
        at(11, 13) * 3600.0 + at(14, 16) * 60.0 + at(17, 29)
    };
    let times: Vec<f64> = log.lines().map(second).collect();
    for (pair, least) in times.windows(2).zip([0.1, 0.2, 0.4, 0.8]) {
        let pause = (pair[1] - pair[0]).rem_euclid(86400.0);
        assert!(pause >= least && pause < least + 2.0, "{pause} s instead of {least}");
    }

    let place = Place::new("echo run");
    place.detached(&["--restart", "on-failure"]);
    assert_eq!(place.wait()["RestartCount"], 0);
}

#[test]
fn a_container_that_waits_for_its_next_start_is_stopped_at_once() {
    if skipped() {
        return;
    }
    let place = Place::new("exit 1");
    place.detached(&["--restart", "always"]);
    place.wait_for_long_pause();
    assert!(place.ok(&["ps"]).contains("Restarting (1) "));
    place.ok(&["stop", "c1"]);
    assert_eq!(place.status(), "exited");
}

#[test]
fn who_is_killed_by_the_user_stays_dead_and_who_crashes_does_not() {
    if skipped() {
        return;
    }
    let place = Place::new("echo up; sleep 1000");
    place.detached(&["--restart", "unless-stopped"]);
    place.wait_for_log("up");
    let init = place.pid("Pid");
    kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
    let again = place.wait_for("a restart", |d| d["RestartCount"] == 1 && d["State"]["Status"] == "running");
    assert_ne!(again["State"]["Pid"], init);
    place.ok(&["restart", "-t", "0", "c1"]);
    assert_eq!((place.status().as_str(), &place.inspect()["RestartCount"]), ("running", &json!(0)));
    place.ok(&["kill", "c1"]);
    assert_eq!(place.wait()["State"]["ExitCode"], 137);
}

#[test]
fn a_container_outlives_its_monitor_and_the_next_one_goes_on_with_its_log() {
    if skipped() {
        return;
    }
    // It is silent while the monitor dies: what has been read and not been written is lost with it.
    let place = Place::new(
        "trap 'exit 9' TERM; i=0; while true; do echo $i; i=$((i+1)); \
         while [ $i = 21 ] && ! [ -e /tmp/go ]; do usleep 1000; done; usleep 2000; done",
    );
    place.detached(&["--restart", "on-failure:1"]);
    place.wait_for_log("20\n");
    let init = place.pid("Pid");
    place.kill_monitor();
    fs::write(place.dir.join("b/rootfs/tmp/go"), "").unwrap();
    assert!(place.ok(&["ps"]).contains("(Unwatched)"));
    assert!(place.refused(&["attach", "c1"]).contains("reattach"));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(place.ok(&["reattach", "c1"]), "c1\n");
    assert_eq!(place.pid("Pid"), init);
    let before = place.ok(&["logs", "c1"]).lines().count();
    place.wait_for_log(&format!("\n{}\n", before + 20));
    let logs = place.ok(&["logs", "c1"]);
    // What was in the pipe is there, all of it and once.
    let numbers: Vec<usize> = logs.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(0..numbers.len()), "{numbers:?}");
    place.ok(&["stop", "c1"]);
    // The kernel tells strangers since 6.15.
    assert_eq!(place.wait()["State"]["ExitCode"], if kernel() >= (6, 15) { 9 } else { 255 });
}

#[test]
fn what_ended_unseen_is_said_to_be_unknown_and_its_policy_holds() {
    if skipped() {
        return;
    }
    let place = Place::new("echo run; sleep 1000");
    place.detached(&["--restart", "always"]);
    place.wait_for_log("run");
    place.kill_monitor();
    let init = place.pid("Pid");
    kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
    wait_for_end(init);
    assert!(place.ok(&["ps", "-a"]).contains("Dead"));
    place.ok(&["reattach", "--all"]);
    place.wait_for("a restart", |d| d["RestartCount"] == 1 && d["State"]["Status"] == "running");
    place.kill_monitor();
    // Without a monitor the command does what there is to be done.
    place.ok(&["stop", "-t", "0", "c1"]);
    let document = place.inspect();
    let code = if kernel() >= (6, 15) { 137 } else { 255 };
    assert_eq!((&document["State"]["Status"], &document["State"]["ExitCode"]), (&json!("exited"), &json!(code)));
    place.ok(&["start", "c1"]);
    place.kill_monitor();
    place.ok(&["rm", "-f", "c1"]);
}

#[test]
fn an_input_stays_open_when_a_monitor_dies_and_reaches_the_container_through_the_next() {
    if skipped() {
        return;
    }
    let place = Place::new("while read line; do echo got $line; done; echo end");
    place.detached(&["-i"]);
    place.kill_monitor();
    thread::sleep(Duration::from_millis(100));
    place.ok(&["reattach", "c1"]);
    let mut child = place.command(&["attach", "c1"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
    place.wait_for_log("got one\ngot two\n");
    // The end of one client's input is not that of the container's.
    assert_eq!(place.status(), "running");
    assert!(!place.ok(&["logs", "c1"]).contains("end"));
    place.ok(&["kill", "c1"]);
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "got one\ngot two\n");
}

#[test]
fn a_pause_before_a_restart_is_taken_up_by_the_next_monitor() {
    if skipped() {
        return;
    }
    let place = Place::new("echo run; exit 1");
    place.detached(&["--restart", "on-failure:6"]);
    place.wait_for_long_pause();
    place.kill_monitor();
    assert_eq!(place.status(), "dead");
    place.ok(&["reattach", "--all"]);
    assert_eq!(place.wait()["RestartCount"], 6);
    assert_eq!(place.ok(&["logs", "c1"]), "run\n".repeat(7));
}

#[test]
fn two_commands_do_not_keep_the_same_container_twice() {
    if skipped() {
        return;
    }
    let place = Place::new("sleep 1000");
    place.detached(&["--stop-timeout", "0"]);
    place.kill_monitor();
    let all: Vec<Child> = (0..4)
        .map(|_| place.command(&["reattach", "c1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    let kept = all.into_iter().filter_map(|mut child| child.wait().ok()).filter(|status| status.success()).count();
    assert!(kept >= 1);
    let monitor = place.pid("MonitorPid");
    let locks = fs::read_to_string("/proc/locks").unwrap();
    assert_eq!(locks.lines().filter(|line| line.contains(&format!(" {monitor} "))).count(), 1, "{locks}");
}

#[test]
fn who_follows_sees_every_line_over_all_rotations() {
    if skipped() {
        return;
    }
    for format in ["k8s-file", "json"] {
        let place = Place::new("for i in $(seq 1 3000); do echo line $i; [ $((i % 50)) = 0 ] && usleep 5000; done");
        let log = place.path("web.log");
        let options = ["--log", &log, "--log-format", format, "--log-max-size", "4k", "--log-max-files", "200"];
        place.detached(&options);
        let follow = place.ok(&["logs", "-f", "c1"]);
        let lines: Vec<String> = (1..=3000).map(|i| format!("line {i}")).collect();
        assert!(follow.lines().eq(lines.iter().map(String::as_str)), "{format}: {} lines", follow.lines().count());
        place.wait();
        assert!(place.ok(&["logs", "c1"]) == follow);
        assert_eq!(place.ok(&["logs", "--tail", "2", "c1"]), "line 2999\nline 3000\n");
        for entry in fs::read_dir(&place.dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            assert!(!name.starts_with("web.log") || entry.metadata().unwrap().len() <= 4096, "{name}");
        }
        assert!(place.dir.join("web.log.10").exists());
    }
}

#[test]
fn a_log_holds_the_last_files_only() {
    if skipped() {
        return;
    }
    let place = Place::new("for i in $(seq 1 1000); do echo line $i; done");
    place.detached(&["--log-max-size", "4096", "--log-max-files", "3", "--log-format", "json"]);
    place.wait();
    let logs = place.ok(&["logs", "c1"]);
    let numbers: Vec<u32> = logs.lines().map(|line| line[5..].parse().unwrap()).collect();
    assert!(numbers.last() == Some(&1000) && numbers.len() < 200, "{}", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert!(place.dir.join("s/c1/container.log.2").exists() && !place.dir.join("s/c1/container.log.3").exists());
}

/// A terminal of ours, at which a command is run.
struct Terminal {
    master: fs::File,
    child: Child,
    seen: Vec<u8>,
}

impl Terminal {
    fn new(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = orlop_sys::rustix::pty::ptsname(&master, Vec::new()).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 30, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let slave = || Stdio::from(openat(CWD, &name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        drop(command);
        Self { master: fs::File::from(master), child, seen: Vec::new() }
    }

    fn type_in(&mut self, text: &[u8]) {
        self.master.write_all(text).unwrap();
    }

    fn expect(&mut self, text: &str) {
        let mut buffer = [0; 1024];
        while !String::from_utf8_lossy(&self.seen).contains(text) {
            let n = self.master.read(&mut buffer).unwrap_or(0);
            assert!(n > 0, "{text:?} is not in {:?}", String::from_utf8_lossy(&self.seen));
            self.seen.extend_from_slice(&buffer[..n]);
        }
    }

    fn status(mut self) -> Option<i32> {
        drop(self.master);
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_terminal_has_our_size_and_is_left_and_joined_again() {
    if skipped() {
        return;
    }
    for terminal in ["config", "option"] {
        terminal_by(terminal);
    }
}

/// With a terminal of config.json, or of the command line.
fn terminal_by(whom: &str) {
    let place = Place::with("stty size; while read line; do echo got $line; done; exit 4", |config| {
        config["process"]["terminal"] = json!(whom == "config");
    });
    let bundle = place.path("b");
    let options = if whom == "config" { "-i" } else { "-it" };
    let mut first = Terminal::new(place.command(&["run", options, "-b", &bundle, "c1"]));
    first.expect("30 99");
    first.type_in(b"one\r");
    first.expect("got one");
    first.type_in(&[16, 17]);
    first.expect("read escape sequence");
    assert_eq!(first.status(), Some(0));
    assert_eq!(place.status(), "running");
    // Its terminal stays when its monitor dies.
    place.kill_monitor();
    place.ok(&["reattach", "c1"]);
    let mut second = Terminal::new(place.command(&["attach", "c1"]));
    second.type_in(b"two\r");
    second.expect("got two");
    second.type_in(&[4]);
    let document = place.wait();
    let code = if kernel() >= (6, 15) { 4 } else { 255 };
    assert_eq!((second.status(), &document["State"]["ExitCode"]), (Some(code), &json!(code)));
    let logs = place.ok(&["logs", "c1"]);
    let raw = || fs::read_to_string(place.dir.join("s/c1/container.log"));
    assert!(logs.contains("got one") && logs.contains("got two"), "{logs:?}, {:?}", raw());
}

#[test]
fn many_attach_and_all_see_the_same() {
    if skipped() {
        return;
    }
    let place = Place::new(
        "while ! [ -e /tmp/go ]; do usleep 10000; done; for i in $(seq 1 5000); do echo line $i; done; exit 2",
    );
    place.detached(&[]);
    let fds = format!("/proc/{}/fd", place.pid("MonitorPid"));
    let fds = || fs::read_dir(&fds).unwrap().count();
    let before = fds();
    let clients: Vec<Child> = (0..4)
        .map(|_| place.command(&["attach", "c1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let end = Instant::now() + PATIENCE;
    while fds() < before + 4 {
        assert!(Instant::now() < end, "not all have attached");
        thread::sleep(Duration::from_millis(2));
    }
    fs::write(place.dir.join("b/rootfs/tmp/go"), "").unwrap();
    let lines: String = (1..=5000).map(|i| format!("line {i}\n")).collect();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        assert!(output.status.code() == Some(2) && text(&output.stdout) == lines, "{:?}", output.status);
    }
}

#[test]
fn a_reader_that_does_not_read_is_waited_for_and_nothing_is_lost() {
    if skipped() {
        return;
    }
    // So much that it has to wait; and so little that it ends, with the rest of it in its pipes.
    slow_reader("dd if=/dev/zero bs=64k count=64 2>/dev/null", 4 << 20);
    slow_reader("head -c 250000 /dev/zero", 250_000);
}

fn slow_reader(script: &str, total: usize) {
    let place = Place::new(script);
    let bundle = place.path("b");
    let mut child = place
        .command(&["run", "--log-format", "none", "-b", &bundle, "c1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Longer than the last output of a container is waited for.
    thread::sleep(Duration::from_secs(6));
    assert!(place.refused(&["logs", "c1"]).contains("--log-format none"));
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!((bytes.len(), child.wait().unwrap().code()), (total, Some(0)));
}

#[test]
fn what_is_written_by_another_user_can_be_opened_again() {
    if skipped() {
        return;
    }
    let place = Place::with("id -u; echo again > /proc/self/fd/1; echo error > /proc/self/fd/2", |config| {
        config["process"]["user"] = json!({"uid": 33, "gid": 33});
    });
    let output = place.run(&[]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("33\nagain\n", "error\n"));
}

#[test]
fn a_paused_container_stands_still_and_is_still_stopped() {
    if skipped() {
        return;
    }
    let place = Place::new("trap 'exit 6' TERM; echo up; while true; do usleep 10000; done");
    place.detached(&[]);
    place.wait_for_log("up");
    let paused = place.call(&["pause", "c1"]);
    if text(&paused.stderr).contains("freezer") {
        println!("SKIP: {}", text(&paused.stderr));
        return;
    }
    assert_eq!(place.status(), "paused");
    assert!(place.ok(&["ps"]).contains("(Paused)"));
    assert!(place.refused(&["attach", "c1"]).contains("paused"));
    place.ok(&["unpause", "c1"]);
    assert_eq!(place.status(), "running");
    place.ok(&["pause", "c1"]);
    place.ok(&["stop", "c1"]);
    assert_eq!(place.wait()["State"]["ExitCode"], 6);
}

#[test]
fn another_program_runs_in_the_container_and_its_status_is_ours() {
    if skipped() {
        return;
    }
    let place = Place::new("sleep 1000");
    place.detached(&["--stop-timeout", "0"]);
    let output = place.call(&["exec", "-e", "A=b", "-w", "/tmp", "c1", "sh", "-c", "echo $A $PWD; exit 8"]);
    assert_eq!((text(&output.stdout), output.status.code()), ("b /tmp\n", Some(8)));
    assert_eq!(place.call(&["exec", "c1", "nope"]).status.code(), Some(127));
    let mut child =
        place.command(&["exec", "-i", "c1", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through");
    let stats = place.ok(&["stats", "--no-stream"]);
    assert!(stats.starts_with("CONTAINER ID   CPU %") && stats.contains("c1 "), "{stats}");
    let stats: Value = serde_json::from_str(&place.ok(&["stats", "--no-stream", "--json", "c1"])).unwrap();
    assert!(stats["PIDs"].as_u64() >= Some(1), "{stats}");
    place.ok(&["stop", "c1"]);
    assert!(place.refused(&["exec", "c1", "true"]).contains("the container is not running"));
}

#[test]
fn a_service_manager_hears_when_it_runs_and_finds_who_keeps_it() {
    if skipped() {
        return;
    }
    let place = Place::new("sleep 1000");
    let socket = std::os::unix::net::UnixDatagram::bind(place.path("notify")).unwrap();
    let (bundle, pid_file, own) = (place.path("b"), place.path("pid"), place.path("own"));
    let args = ["run", "-d", "-b", &bundle, "--monitor-pid-file", &own, "--pid-file", &pid_file, "c1"];
    let output = place.command(&args).env("NOTIFY_SOCKET", place.path("notify")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut buffer = [0; 256];
    let n = socket.recv(&mut buffer).unwrap();
    let monitor = place.pid("MonitorPid");
    assert_eq!(text(&buffer[..n]), format!("READY=1\nMAINPID={monitor}\nSTATUS=container c1"));
    assert_eq!(fs::read_to_string(own).unwrap().trim(), monitor.to_string());
    assert_eq!(fs::read_to_string(pid_file).unwrap().trim(), place.pid("Pid").to_string());
    let environment = fs::read(format!("/proc/{monitor}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"));
}

#[test]
fn a_container_says_itself_when_it_is_ready() {
    if skipped() {
        return;
    }
    // busybox has nothing that speaks to a socket of datagrams: this test does it from outside, through the container's root.
    let place = Place::new(
        "echo $NOTIFY_SOCKET; while ! [ -S /run/notify.sock ]; do usleep 1000; done; echo there; sleep 1000",
    );
    let socket = std::os::unix::net::UnixDatagram::bind(place.path("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let bundle = place.path("b");
    let mut child = place
        .command(&["run", "-d", "--notify", "-b", &bundle, "c1"])
        .env("NOTIFY_SOCKET", place.path("notify"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    while !place.dir.join("s/c1/notify").exists() || place.pid("Pid") == 0 {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(10));
    }
    place.wait_for_log("/run/notify.sock\nthere\n");
    assert!(child.try_wait().unwrap().is_none());
    let inside = format!("/proc/{}/root/run/notify.sock", place.pid("Pid"));
    let container = std::os::unix::net::UnixDatagram::unbound().unwrap();
    container.send_to(b"STATUS=warming up\nMAINPID=1", &inside).unwrap();
    let mut buffer = [0; 256];
    let n = socket.recv(&mut buffer).unwrap();
    assert_eq!(text(&buffer[..n]), "STATUS=warming up");
    container.send_to(b"READY=1", &inside).unwrap();
    let n = socket.recv(&mut buffer).unwrap();
    assert!(text(&buffer[..n]).starts_with("READY=1\nMAINPID="), "{}", text(&buffer[..n]));
    assert!(child.wait().unwrap().success());

    let place = Place::new("echo too early; exit 3");
    let output = place.run(&["-d", "--notify"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("c1: the container has ended before it was ready"), "{output:?}");
    assert_eq!(place.ok(&["logs", "c1"]), "too early\n");
}

#[test]
fn a_monitor_holds_little_memory_and_nothing_of_its_callers() {
    if skipped() {
        return;
    }
    let place = Place::new("echo up; sleep 1000");
    place.detached(&[]);
    place.wait_for_log("up");
    let monitor = place.pid("MonitorPid");
    let rollup = fs::read_to_string(format!("/proc/{monitor}/smaps_rollup")).unwrap();
    let dirty: u32 = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    println!("{dirty} KiB private dirty");
    // A build for release has a third of it.
    assert!(dirty < 1024, "{rollup}");
    let fds = fs::read_dir(format!("/proc/{monitor}/fd")).unwrap().count();
    assert!(fds < 20, "{fds} fds");
    // And the container has nothing of the monitor's.
    let init = place.pid("Pid");
    let own: Vec<_> = fs::read_dir(format!("/proc/{init}/fd")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(own.iter().all(|fd| ["0", "1", "2", "10"].contains(&fd.to_str().unwrap())), "{own:?}");
}
