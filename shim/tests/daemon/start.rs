//! `start`, and the options that it and Create are given.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use orlop_shim::client::number;
use orlop_shim::message::any;
use orlop_shim::wire::Message;
use orlop_sys::rustix::fs::{CWD, Mode, mkfifoat};
use orlop_sys::rustix::process::{Pid, Signal, kill_process};
use orlop_sys::rustix::thread::{CoreSchedulingScope, core_scheduling_cookie, create_core_scheduling_cookie};
use serde_json::json;

use crate::{PATIENCE, Place, SHIM, pid_of, skipped, tell, wait_for_end};

/// As one of the extensions of `BootstrapParams`.
fn extension(options: &Message) -> Message {
    Message::new().message(8, &Message::new().message(1, options))
}

fn runc(options: &Message) -> Message {
    any("containerd.runc.v1.Options", &options.0)
}

/// The daemons of a place, by the socket of containerd that is in their arguments.
fn daemons(place: &Place) -> Vec<Pid> {
    let socket = place.path("c.sock");
    let is_one = |pid: &Pid| {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        line.split('\0').next().is_some_and(|name| name.contains("shim")) && line.split('\0').any(|word| word == socket)
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw).filter(is_one).collect()
}

/// Runs `start` where /run, and maybe more, is of its own, and says what it printed.
fn start_apart(place: &Place, before: &str, after: &str, input: &Message) -> (String, String) {
    let (bundle, socket) = (place.bundle(), place.path("c.sock"));
    let script = format!(
        "mount -t tmpfs run /run && {before} cd {bundle} && \
         {SHIM} -namespace test -address {socket} -id c1 start && echo && {after}"
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    let output = tell(command, &input.0);
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn an_older_containerd_is_told_the_bare_address() {
    if skipped() {
        return;
    }
    let place = Place::new(&["true"]);
    let options = runc(&Message::new().text(7, &place.path("root")));
    let (said, errors) = start_apart(&place, "", "stat -c %a /run/containerd/s/* && cat address", &options);
    for daemon in daemons(&place) {
        kill_process(daemon, Signal::KILL).unwrap();
    }
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("unix:///run/containerd/s/") && lines[0].len() == 25 + 64, "{said} {errors}");
    assert_eq!((&lines[1..], errors.as_str()), (&["600", lines[0]][..], ""));
}

#[test]
fn the_shim_is_put_into_the_cgroup_that_is_named_on_version_1() {
    if skipped() {
        return;
    }
    let name = format!("/orlop-shim-own-{}", std::process::id());
    let cgroup = format!("/sys/fs/cgroup/pids{name}");
    if fs::create_dir(&cgroup).is_err() {
        return println!("SKIP: no v1 pids hierarchy");
    }
    let mut place = Place::new(&["true"]);
    let options = runc(&Message::new().text(3, &name));
    let client = place.start_by(place.command("start"), &extension(&options));
    let own = fs::read_to_string(format!("/proc/{}/cgroup", place.shim())).unwrap();
    drop((client, place));
    let end = Instant::now() + Duration::from_secs(5);
    while fs::remove_dir(&cgroup).is_err() {
        assert!(Instant::now() < end, "{cgroup} is still used");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(own.lines().any(|line| line.ends_with(&format!(":pids:{name}"))), "{own}");
    assert!(!own.lines().any(|line| line.ends_with(&format!(":memory:{name}"))), "{own}");
}

#[test]
fn the_shim_is_put_into_the_cgroup_that_is_named_on_version_2_and_makes_it() {
    if skipped() {
        return;
    }
    let place = Place::new(&["true"]);
    let name = format!("orlop-shim-own-{}", std::process::id());
    // Only version 2, in a mount namespace.
    let before = "umount -R -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup &&";
    let after = format!("cat /sys/fs/cgroup/{name}/below/cgroup.procs");
    let options = runc(&Message::new().text(3, &format!("{name}/../{name}/below")));
    let (said, errors) = start_apart(&place, before, &after, &options);
    let daemons = daemons(&place);
    for daemon in &daemons {
        kill_process(*daemon, Signal::KILL).unwrap();
    }
    if errors.contains("mount") {
        return println!("SKIP: no cgroup v2: {errors}");
    }
    let pids: Vec<_> = daemons.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect();
    assert_eq!(said.lines().skip(1).collect::<Vec<_>>(), pids, "{errors}");
    let clean = format!(
        "umount -R -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && cd /sys/fs/cgroup && \
         for n in 1 2 3 4 5 6 7 8 9; do rmdir {name}/below {name} && exit; sleep 0.1; done; exit 1"
    );
    let cleaned = Command::new("unshare").args(["-m", "sh", "-c", &clean]).output().unwrap();
    assert!(cleaned.status.success(), "{cleaned:?}");
}

#[test]
fn a_start_that_fails_leaves_no_daemon_and_no_socket() {
    if skipped() {
        return;
    }
    let place = Place::new(&["true"]);
    // On version 2 it can't be made either: it is no directory.
    let bad_cgroup = runc(&Message::new().text(3, "/cgroup.procs/none"));
    let bad_options = any("runtimeoptions.v1.Options", &Message::new().bytes(3, b"IoUid = true").0);
    for (options, why) in [(bad_cgroup, "ShimCgroup: "), (bad_options, "config_body: IoUid: not an id")] {
        let input = [place.bootstrap().0, extension(&options).0].concat();
        let output = tell(place.command("start"), &input);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
        assert!(said.starts_with("containerd-shim-orlop-v2: ") && said.contains(why), "{said}");
        // It was killed, and may take a moment to be dead.
        let end = Instant::now() + Duration::from_secs(5);
        while !daemons(&place).is_empty() {
            assert!(Instant::now() < end, "the daemon lives");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(fs::read_dir(place.dir.join("s")).map_or(0, Iterator::count) == 0);
    }
}

#[test]
fn a_start_that_is_killed_half_way_leaves_no_socket_after_a_delete() {
    if skipped() {
        return;
    }
    let place = Place::new(&["true"]);
    // It waits for somebody to read what it writes: the cgroup of the daemon is a FIFO.
    let held = "mount -t tmpfs held /sys/fs/cgroup && mkdir -p /sys/fs/cgroup/pids/held && \
                mkfifo /sys/fs/cgroup/pids/held/cgroup.procs && exec \"$@\"";
    let start = place.command("start");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", held, "sh", SHIM]).args(start.get_args()).current_dir(place.bundle());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let options = extension(&runc(&Message::new().text(3, "/held")));
    child.stdin.take().unwrap().write_all(&[place.bootstrap().0, options.0].concat()).unwrap();
    let end = Instant::now() + PATIENCE;
    let both = loop {
        match daemons(&place) {
            pids if pids.len() == 2 => break pids,
            pids => assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "{pids:?}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let sockets = || fs::read_dir(place.dir.join("s")).unwrap().count();
    assert_eq!(sockets(), 1);
    for pid in &both {
        kill_process(*pid, Signal::KILL).unwrap();
    }
    child.wait().unwrap();
    for pid in both {
        wait_for_end(pid.as_raw_nonzero());
    }
    assert!(place.command("delete").stdin(Stdio::null()).output().unwrap().status.success());
    assert_eq!(sockets(), 0);
}

#[test]
fn the_shim_is_killed_before_containerd_when_memory_ends() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    let client = place.start();
    let score = |pid: &str| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse::<i32>();
    assert_eq!(score(&place.shim().to_string()), Ok((score("self").unwrap() + 1).min(1000)));
    drop(client);
}

#[test]
fn containers_of_a_shim_share_cores_with_nobody_if_containerd_wants_that() {
    if skipped() {
        return;
    }
    let cookie = |pid: Pid| core_scheduling_cookie(pid, CoreSchedulingScope::Thread);
    // In a process of its own, since it is for good.
    let probe = std::thread::spawn(|| {
        create_core_scheduling_cookie(orlop_sys::rustix::thread::gettid(), CoreSchedulingScope::Thread)
    });
    if let Err(e) = probe.join().unwrap() {
        return println!("SKIP: core scheduling: {e}");
    }
    let mut place = Place::new(&["sleep", "1000"]);
    let mut command = place.command("start");
    command.env("SCHED_CORE", "1");
    let mut client = place.start_by(command, &Message::new());
    let pid = number(&client.call("Create", &place.create()).unwrap(), 1) as u32;
    let own = cookie(pid_of(place.shim())).unwrap();
    assert!(own != 0 && cookie(pid_of(pid)) == Ok(own));
    client.end();
}

#[test]
fn every_call_is_logged_if_containerd_wants_that() {
    if skipped() {
        return;
    }
    for (level, debug, wanted) in [(0, false, false), (0i64, true, true), (-4, false, true), (8, false, false)] {
        let mut place = Place::new(&["true"]);
        mkfifoat(CWD, place.dir.join("t/c1/log"), Mode::RUSR | Mode::WUSR).unwrap();
        let log = fs::File::options().read(true).write(true).open(place.dir.join("t/c1/log")).unwrap();
        let mut command = place.command("start");
        if debug {
            command.arg("-debug");
        }
        let more = Message::new().number(3, level.cast_unsigned());
        let client = place.start_by(command, &more);
        let mut buffer = [0; 4096];
        let flags = orlop_sys::rustix::fs::OFlags::NONBLOCK;
        orlop_sys::rustix::fs::fcntl_setfl(&log, flags).unwrap();
        let length = orlop_sys::rustix::io::read(&log, &mut buffer[..]).unwrap_or(0);
        let said = std::str::from_utf8(&buffer[..length]).unwrap();
        assert_eq!(said.contains(" level=debug msg=\"Connect c1 \" namespace=\"test\"\n"), wanted, "{level} {said}");
        drop(client);
    }
}

#[test]
fn the_systemd_driver_is_refused_by_its_name() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    let mut client = place.start();
    let request = Message::new().text(1, "c1").text(2, &place.bundle());
    let as_flag = runc(&Message::new().flag(9, true));
    let as_toml = any("runtimeoptions.v1.Options", &Message::new().bytes(3, b"SystemdCgroup = true").0);
    for options in [as_flag, as_toml] {
        let (code, why) = client.call("Create", &request.clone().message(10, &options)).unwrap_err();
        assert!(code == 12 && why.starts_with("SystemdCgroup: "), "{why}");
    }
    assert_eq!(client.process("State", "").unwrap_err().0, 5);
}

#[test]
fn options_come_as_toml_too_and_are_heeded() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    let mut client = place.start();
    let toml = format!("Root = '{}'\nNoPivotRoot = true\nNoNewKeyring = true\n", place.path("elsewhere"));
    let file = place.path("options.toml");
    fs::write(&file, &toml).unwrap();
    let inline = Message::new().text(1, "whatever").bytes(3, toml.as_bytes());
    for generic in [inline, Message::new().text(2, &file)] {
        let options = any("runtimeoptions.v1.Options", &generic.0);
        let request = Message::new().text(1, "c1").text(2, &place.bundle()).message(10, &options);
        client.call("Create", &request).unwrap();
        assert!(place.dir.join("elsewhere/test/c1").exists());
        client.process("Start", "").unwrap();
        assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
        client.process("Delete", "").unwrap();
    }
    let options = any("runtimeoptions.v1.Options", &Message::new().text(2, "/nowhere.toml").0);
    let (code, why) = client.call("Create", &place.create().message(10, &options)).unwrap_err();
    assert!(code == 3 && why.starts_with("/nowhere.toml: "), "{why}");
}

#[test]
fn pipes_belong_to_whom_the_options_name() {
    if skipped() {
        return;
    }
    // The runtime gives its streams to the user of the process; the group is the options'.
    let script = "busybox stat -L -c '%u %g' /proc/self/fd/1; echo again > /dev/stdout";
    let mut place = Place::with(&["sh", "-c", script], |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    let mut client = place.start();
    let options = runc(&Message::new().number(4, 1000u32).number(5, 4321u32).text(7, &place.path("root")));
    let output = place.reader("out");
    let request = Message::new().text(1, "c1").text(2, &place.bundle()).text(6, &place.path("out"));
    client.call("Create", &request.message(10, &options)).unwrap();
    client.process("Start", "").unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
    assert_eq!(String::from_utf8(output.join().unwrap()).unwrap(), "1000 4321\nagain\n");
    client.process("Delete", "").unwrap();
}

#[test]
fn another_runtime_is_told_the_options_in_its_own_words() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    let runtime = place.path("fake");
    fs::write(&runtime, format!("#!/bin/sh\necho \"$*\" >> {}\nexit 1\n", place.path("said"))).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    let mut client = place.start();
    let options = Message::new().flag(1, true).flag(2, true).text(6, &runtime).text(7, "/r").flag(9, true);
    let request = Message::new().text(1, "c1").text(2, &place.bundle()).message(10, &runc(&options));
    let (_, why) = client.call("Create", &request).unwrap_err();
    assert!(why.starts_with("OCI runtime create failed: "), "{why}");
    let bundle = place.bundle();
    let said = fs::read_to_string(place.path("said")).unwrap();
    let want = format!(
        "--root /r/test --log {bundle}/log.json --log-format json --systemd-cgroup create --bundle {bundle} --pid-file \
         {bundle}/init.pid --no-pivot --no-new-keyring c1"
    );
    assert_eq!(said.lines().next(), Some(want.as_str()));
    assert!(!Path::new("/r/test").exists());
    fs::remove_file(place.dir.join("t/c1/options.json")).unwrap();
}
