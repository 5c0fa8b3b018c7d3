//! The library leaves its caller as it found it, works beside other threads, and nothing that its caller has open
//! gets into a container.

#![allow(clippy::disallowed_methods, reason = "a test's own paths, on the host")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use orlop::create::create;
use orlop::delete::{Force, delete};
use orlop::request::{Cgroups, Create};
use orlop::start::start;
use orlop::store::{ContainerId, Store};
use orlop_integration::{World, long, pure_v2};
use serde_json::{Value, json};

/// One at a time: they look at their own process, which they share.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(world: &World, id: &str) -> Create {
    Create {
        id: ContainerId::parse(id).unwrap(),
        bundle: world.bundle.to_str().unwrap().to_owned(),
        console_socket: None,
        pidfd_socket: None,
        pid_file: None,
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
        listen_fds: 0,
        foreground: false,
        cgroups: Cgroups::Cgroupfs,
    }
}

/// Of a container that says nothing: it has our standard output.
fn config(world: &World) -> Vec<u8> {
    world.configure(|config| config["process"]["args"] = json!(["/probe", "sleep", "600"]));
    fs::read(world.bundle.join("config.json")).unwrap()
}

/// What /proc says of this process, by file, line and fd. What differs without anybody's doing is left out.
fn snapshot() -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let passing =
        ["Vm", "Rss", "Hugetlb", "voluntary_ctxt_switches", "SigQ", "nonvoluntary_ctxt_switches", "State", "Threads"];
    // The thread's own files, not those of the main thread.
    let own = "/proc/thread-self";
    for line in fs::read_to_string(format!("{own}/status")).unwrap().lines() {
        let (key, value) = line.split_once(':').unwrap();
        if !passing.iter().any(|start| key.starts_with(start)) {
            facts.insert(format!("status {key}"), value.trim().to_owned());
        }
    }
    for file in [
        "limits",
        "mountinfo",
        "cgroup",
        "environ",
        "oom_score_adj",
        "personality",
        "uid_map",
        "gid_map",
        "setgroups",
        "attr/current",
        "attr/exec",
        "attr/fscreate",
        "attr/keycreate",
        "loginuid",
        "comm",
        "cmdline",
        "children",
        "timens_offsets",
        "coredump_filter",
        "autogroup",
    ] {
        let text = fs::read(format!("{own}/{file}")).or_else(|_| fs::read(format!("/proc/self/{file}")));
        let text = text.map_or_else(|e| e.to_string(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
        facts.insert(file.to_owned(), text);
    }
    // Session, process group, terminal, nice value, scheduling policy: fields 5 to 8, 18, 19, 40 and 41.
    let stat = fs::read_to_string(format!("{own}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    for field in [5, 6, 7, 8, 18, 19, 40, 41] {
        facts.insert(format!("stat {field}"), fields[field - 3].to_owned());
    }
    for link in ["cwd", "root", "exe"] {
        facts.insert(link.to_owned(), fs::read_link(format!("{own}/{link}")).unwrap().display().to_string());
    }
    for entry in fs::read_dir(format!("{own}/ns")).unwrap().flatten() {
        let name = format!("ns {}", entry.file_name().to_string_lossy());
        facts.insert(name, fs::read_link(entry.path()).unwrap().display().to_string());
    }
    for entry in fs::read_dir(format!("{own}/fd")).unwrap().flatten() {
        let number = entry.file_name().to_string_lossy().into_owned();
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        // This walk's own.
        if target.starts_with("/proc/") {
            continue;
        }
        let info = fs::read_to_string(format!("{own}/fdinfo/{number}")).unwrap_or_default();
        // Standard output moves on when another test reports.
        let info: String = info.lines().filter(|line| !line.starts_with("pos:")).collect();
        facts.insert(format!("fd {number}"), format!("{target} {info}"));
    }
    // Set by prctl(2), and shown nowhere.
    let prctl = format!(
        "dumpable {:?} subreaper {:?} pdeathsig {:?} keepcaps {:?} slack {:?}",
        nix::sys::prctl::get_dumpable(),
        nix::sys::prctl::get_child_subreaper(),
        nix::sys::prctl::get_pdeathsig(),
        nix::sys::prctl::get_keepcaps(),
        nix::sys::prctl::get_timerslack(),
    );
    facts.insert("prctl".to_owned(), prctl);
    facts
}

#[track_caller]
fn assert_same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>, what: &str) {
    for key in before.keys().chain(after.keys()) {
        assert_eq!(before.get(key), after.get(key), "{what} changed {key} of its caller");
    }
}

#[test]
fn making_a_container_leaves_the_calling_process_as_it_was() {
    let turn = alone();
    let Some(world) = World::new("caller") else { return };
    let (id, _) = (ContainerId::parse(&world.id("a")).unwrap(), config(&world));
    // Everything that a container can be made to differ in from its creator.
    world.configure(|config| {
        let process = &mut config["process"];
        process["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 100 }]);
        process["user"] = json!({ "uid": 1000, "gid": 1000, "umask": 0o27, "additionalGids": [5] });
        process["oomScoreAdj"] = json!(100);
        process["noNewPrivileges"] = json!(true);
        config["hostname"] = json!("inside");
    });
    let config = fs::read(world.bundle.join("config.json")).unwrap();
    let store = Store::create(&world.root).unwrap();
    let request = request(&world, id.as_str());
    let before = snapshot();
    let created = create(&store, &request, &config).unwrap();
    let mut made = snapshot();
    // The container itself, and the fd of it that was asked for.
    made.insert("children".into(), before["children"].clone());
    made.remove(&format!("fd {}", created.pidfd.as_raw_fd()));
    assert_same(&before, &made, "create");
    start(&store, &id).unwrap();
    let mut started = snapshot();
    started.insert("children".into(), before["children"].clone());
    started.remove(&format!("fd {}", created.pidfd.as_raw_fd()));
    assert_same(&before, &started, "start");
    delete(&store, &id, Force::Yes).unwrap();
    waitpid(Pid::from_raw(created.pid.as_raw_nonzero().get()), None).unwrap();
    drop(created);
    assert_same(&before, &snapshot(), "delete");

    // Nor does a failure, late in the making.
    let mut broken: Value = serde_json::from_slice(&config).unwrap();
    broken["process"]["args"] = json!(["/none"]);
    create(&store, &request, &serde_json::to_vec(&broken).unwrap()).unwrap_err();
    assert_same(&before, &snapshot(), "a create that failed");
    world.assert_clean("the caller's test");
    drop((world, turn));
    pure_v2("making_a_container_leaves_the_calling_process_as_it_was");
}

#[test]
fn containers_are_made_beside_eight_allocating_threads_without_a_deadlock() {
    let turn = alone();
    let Some(world) = World::new("threads") else { return };
    let store = Store::create(&world.root).unwrap();
    let (id, config) = (ContainerId::parse(&world.id("a")).unwrap(), config(&world));
    let request = request(&world, id.as_str());
    let rounds = if long() { 10_000 } else { 200 };
    let (finished, done) = (AtomicBool::new(false), AtomicU32::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for seed in 0..8usize {
            let finished = &finished;
            scope.spawn(move || {
                let mut kept: Vec<Vec<u8>> = Vec::new();
                let mut n = seed;
                while !finished.load(Ordering::Relaxed) {
                    n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    kept.push(vec![1; n >> 50]);
                    if kept.len() > 64 {
                        kept.swap_remove(n % 64);
                        kept.truncate(n % 65);
                    }
                }
            });
        }
        // A child that is stuck on a lock of the allocator, or a parent that waits for it.
        scope.spawn(|| {
            let (mut last, mut since) = (0, Instant::now());
            while !finished.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                let now = done.load(Ordering::Relaxed);
                if now != last {
                    (last, since) = (now, Instant::now());
                }
                if since.elapsed() > Duration::from_secs(20) {
                    eprintln!("deadlock after {now} creates: {:?}", world.processes());
                    std::process::abort();
                }
            }
        });
        // Ends the other threads whatever happens here.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let end = End(&finished);
        for _ in 0..rounds {
            let created = create(&store, &request, &config).unwrap();
            delete(&store, &id, Force::Yes).unwrap();
            waitpid(Pid::from_raw(created.pid.as_raw_nonzero().get()), None).unwrap();
            done.fetch_add(1, Ordering::Relaxed);
        }
        drop(end);
    });
    eprintln!("{rounds} containers made and deleted in {:.1} s", started.elapsed().as_secs_f64());
    world.assert_clean("creates beside threads");
    drop((world, turn));
    pure_v2("containers_are_made_beside_eight_allocating_threads_without_a_deadlock");
}

#[test]
fn of_two_threads_that_create_the_same_container_exactly_one_wins() {
    let turn = alone();
    let Some(world) = World::new("threads-race") else { return };
    let store = Store::create(&world.root).unwrap();
    let config = config(&world);
    for round in 0..if long() { 2000 } else { 100 } {
        let id = world.id(&round.to_string());
        let request = request(&world, &id);
        let racer = || create(&store, &request, &config);
        let (one, two) = std::thread::scope(|scope| {
            let other = scope.spawn(racer);
            (racer(), other.join().unwrap())
        });
        let (winner, loser) = match (one, two) {
            (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
            other => panic!("round {round}: {other:?}"),
        };
        assert_eq!(loser.to_string(), "container with given ID already exists");
        let id = ContainerId::parse(&id).unwrap();
        start(&store, &id).unwrap();
        delete(&store, &id, Force::Yes).unwrap();
        waitpid(Pid::from_raw(winner.pid.as_raw_nonzero().get()), None).unwrap();
    }
    world.assert_clean("races of threads");
    drop((world, turn));
}

/// Directories of the host that are passed on to every child, from fd `first` on, until they are dropped.
fn leak(count: usize) -> Vec<File> {
    let leaked: Vec<File> =
        (0..count).map(|n| File::open(["/", "/etc", "/proc", "/etc/passwd"][n % 4]).unwrap()).collect();
    for file in &leaked {
        fcntl(file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    leaked
}

/// The number and the target of every fd of a process.
fn fds(pid: i32) -> BTreeMap<i32, String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    entries
        .map(|entry| {
            let number = entry.file_name().to_str().unwrap().parse().unwrap();
            (number, fs::read_link(entry.path()).unwrap().display().to_string())
        })
        .collect()
}

#[test]
fn nothing_that_the_caller_has_open_gets_into_a_container() {
    let turn = alone();
    let Some(world) = World::new("fds") else { return };
    let leaked = leak(32);
    let id = world.id("a");

    // The init that waits holds its standard streams, and what it waits with.
    world.orlop(&world.made_by("create", &id)).must();
    let waiting = fds(world.pid(&id));
    assert!(waiting.len() <= 6, "{waiting:?}");
    let state = world.root.join(&id).display().to_string();
    let sockets = waiting.values().filter(|target| target.starts_with("socket:")).count();
    assert!(sockets <= 1, "more than the channel to its creator, whose other end is closed: {waiting:?}");
    for (number, target) in &waiting {
        let ours = [format!("{state}/exec.fifo"), format!("{state}/exec.fifo.new"), format!("{state}/report")];
        let allowed = *number <= 2 || ours.contains(target) || target.starts_with("socket:");
        assert!(allowed, "{number}: {target} of {waiting:?}");
    }
    world.orlop(&["start", &id]).must();
    let give_up = Instant::now() + Duration::from_secs(5);
    let keys = |pid| fds(pid).into_keys().collect::<Vec<_>>();
    while keys(world.pid(&id)) != [0, 1, 2] {
        assert!(Instant::now() < give_up, "{:?}", fds(world.pid(&id)));
    }
    let seen = |ran: orlop_integration::Ran| -> Vec<i32> {
        let facts: Value = serde_json::from_str(ran.must().out.trim()).unwrap();
        let mut seen: Vec<i32> = facts["fds"].as_object().unwrap().keys().map(|n| n.parse().unwrap()).collect();
        seen.sort_unstable();
        seen
    };
    assert_eq!(seen(world.orlop(&["exec", &id, "/probe", "facts"])), [0, 1, 2]);
    world.orlop(&["delete", "--force", &id]).must();

    world.configure(|config| config["process"]["args"] = json!(["/probe", "facts"]));
    assert_eq!(seen(world.orlop(&world.made_by("run", &id))), [0, 1, 2]);
    // What is passed on by name is there, and no more: 6 is not.
    let args = ["run", "--preserve-fds", "3", "--bundle", world.bundle.to_str().unwrap(), &id];
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec \"$@\" 3</ 4</etc 5</proc 6</sys", "sh"]).args(world.argv(&args)).stdin(Stdio::null());
    assert_eq!(seen(world.ran(shell, &args)), [0, 1, 2, 3, 4, 5]);
    world.assert_clean("leaked fds");
    drop((leaked, world, turn));
    pure_v2("nothing_that_the_caller_has_open_gets_into_a_container");
}

#[test]
fn no_working_directory_leads_out_through_an_fd() {
    let turn = alone();
    let Some(world) = World::new("cwd") else { return };
    let leaked = leak(64);
    let inner = world.id("inner");
    world.orlop(&world.made_by("create", &inner)).must();
    world.orlop(&["start", &inner]).must();
    let id = world.id("a");
    for number in 3..64 {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/proc/thread-self/fd/{number}/..")] {
            world.configure(|config| {
                config["process"]["args"] = json!(["/probe", "list", "."]);
                config["process"]["cwd"] = json!(cwd);
            });
            let ran = world.orlop(&world.made_by("run", &id));
            assert!(!ran.ok() && ran.out.is_empty(), "run in {cwd}: {ran:?}");
            let ran = world.orlop(&["exec", "--cwd", &cwd, &inner, "/probe", "list", "."]);
            assert!(!ran.ok() && ran.out.is_empty(), "exec in {cwd}: {ran:?}");
        }
    }
    // Even what the container may have does not become its working directory.
    let cwd = "/proc/self/fd/3";
    world.configure(|config| {
        config["process"]["args"] = json!(["/probe", "list", "."]);
        config["process"]["cwd"] = json!(cwd);
    });
    let args = ["run", "--preserve-fds", "40", "--bundle", world.bundle.to_str().unwrap(), &id];
    let ran = world.orlop(&args);
    assert!(!ran.ok() && ran.out.is_empty(), "{ran:?}");
    // And no fd is a program.
    world.configure(|config| config["process"]["args"] = json!(["/proc/self/fd/3"]));
    assert!(!world.orlop(&world.made_by("run", &id)).ok());
    world.orlop(&["delete", "--force", &inner]).must();
    world.assert_clean("working directories");
    drop((leaked, world, turn));
}
