//! What a shim holds when all is deleted that it was asked for: as much as at the beginning. The short form is part of
//! every run; `cargo xtask test --long` (ORLOP_LONG=1) does a million execs and five thousand containers.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use orlop_shim::client::number;
use orlop_shim::message::any;
use orlop_shim::wire::Message;
use orlop_sys::rustix::process::test_kill_process;

use crate::{Client, Place, pid_of, skipped, wait_for_end};

/// How much more private memory may be dirty at the end, in KiB: a page here and there, however many rounds there were.
const SLACK: u64 = 32;

fn rounds(short: u32, long: u32) -> u32 {
    if std::env::var("ORLOP_LONG").is_ok_and(|value| value == "1") { long } else { short }
}

/// What a process holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// Where its descriptors lead; the numbers of pipes and sockets do not matter.
    fds: Vec<String>,
    children: String,
    mounts: usize,
    threads: usize,
}

fn held(place: &Place) -> Held {
    let process = format!("/proc/{}", place.shim());
    let target = |entry: fs::DirEntry| Some(fs::read_link(entry.path()).ok()?.to_str()?.to_owned());
    let kind = |target: String| target.split_once(":[").map_or(target.clone(), |(kind, _)| kind.to_owned());
    let mut fds: Vec<_> =
        fs::read_dir(format!("{process}/fd")).unwrap().filter_map(|e| target(e.ok()?)).map(kind).collect();
    fds.sort_unstable();
    let own = |line: &&str| line.contains(place.dir.to_str().unwrap());
    Held {
        fds,
        children: fs::read_to_string(format!("{process}/task/{}/children", place.shim())).unwrap(),
        mounts: fs::read_to_string(format!("{process}/mountinfo")).unwrap().lines().filter(own).count(),
        threads: fs::read_dir(format!("{process}/task")).unwrap().count(),
    }
}

/// KiB of it that are its own and were written.
fn dirty(place: &Place) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", place.shim())).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The same, when nothing has happened for so long that it has given back what it does not need.
fn quiet(place: &Place) -> u64 {
    thread::sleep(Duration::from_secs(4));
    dirty(place)
}

/// Does something often, and compares what is held early on and at the end.
fn repeat(place: &Place, client: &mut Client, count: u32, mut round: impl FnMut(&mut Client, u32)) {
    let early = count / 5;
    for n in 0..early {
        round(client, n);
    }
    let (before, memory) = (settled(place), quiet(place));
    for n in early..count {
        round(client, n);
    }
    assert_eq!(settled(place), before);
    let after = quiet(place);
    println!("{count} rounds: {memory} KiB, then {after} KiB");
    assert!(after <= memory + SLACK, "{memory} KiB became {after}");
}

/// A program that took output may have a moment to end.
fn settled(place: &Place) -> Held {
    let mut last = held(place);
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = held(place);
        if now == last {
            return now;
        }
        last = now;
    }
}

#[test]
fn of_execs_that_were_deleted_nothing_stays() {
    if skipped() {
        return;
    }
    let (place, mut client) = Place::sleeping(Place::listen);
    let out = place.path("err");
    let reader = fs::File::options().read(true).write(true).open(&out).unwrap();
    repeat(&place, &mut client, rounds(1000, 1_000_000), |client, n| {
        // Most end well; some do not start, some are never started, some die by a signal.
        let (name, args) = match n % 8 {
            0 => ("a name that differs", &["nothing-of-that-name"][..]),
            1 | 2 => ("e", &["sleep", "1000"][..]),
            _ => ("e", &["true"][..]),
        };
        client.exec(name, args, if n % 3 == 0 { "" } else { &out }).unwrap();
        match n % 8 {
            0 => drop(client.process("Start", name).unwrap_err()),
            1 => {}
            _ => drop(client.process("Start", name).unwrap()),
        }
        if n % 8 == 2 {
            client.call("Kill", &Message::new().text(1, "c1").text(2, name).number(3, 9u32)).unwrap();
        }
        if n % 8 != 1 {
            client.process("Wait", name).unwrap();
        }
        client.process("Delete", name).unwrap();
    });
    drop(reader);
    client.end();
}

#[test]
fn of_containers_that_were_deleted_nothing_stays() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    place.listen();
    fs::rename(place.dir.join("t/c1/rootfs"), place.dir.join("base")).unwrap();
    fs::create_dir(place.dir.join("t/c1/rootfs")).unwrap();
    let logger = place.path("logger");
    fs::write(&logger, "#!/bin/sh\nexec 5>&-; cat <&3 >/dev/null & cat <&4 >/dev/null; wait\n").unwrap();
    fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
    let config = fs::read_to_string(place.dir.join("t/c1/config.json")).unwrap();
    let with_terminal = config.replacen("\"process\":{", "\"process\":{\"terminal\":true,", 1);
    let shared = config.replacen("{\"type\":\"pid\"},", "", 1);
    let readers = ["in", "out", "err"].map(|name| {
        let open = fs::File::options().read(true).write(true).open(place.path(name)).unwrap();
        orlop_sys::rustix::fs::fcntl_setfl(&open, orlop_sys::rustix::fs::OFlags::NONBLOCK).unwrap();
        open
    });
    let mut client = place.start();
    let root = any("containerd.runc.v1.Options", &Message::new().text(7, &place.path("root")).0);
    let base = Message::new().text(1, "bind").text(2, &place.path("base")).text(4, "rbind");
    let place_ref = &place;
    repeat(place_ref, &mut client, rounds(50, 5000), |client, n| {
        let terminal = n % 5 == 1;
        let config = match n % 5 {
            1 => &with_terminal,
            2 => &shared,
            3 => "{",
            _ => &config,
        };
        fs::write(place_ref.dir.join("t/c1/config.json"), config).unwrap();
        let output = if n % 2 == 0 { place_ref.path("out") } else { format!("binary://{logger}") };
        let request = Message::new().text(1, "c1").text(2, &place_ref.bundle()).message(3, &base).flag(4, terminal);
        let request = request.text(5, &place_ref.path("in")).text(6, &output).message(10, &root);
        match client.call("Create", &request) {
            Ok(_) => assert!(n % 5 != 3),
            Err((_, why)) => return assert!(n % 5 == 3, "{why}"),
        }
        if n % 5 != 4 {
            client.process("Start", "").unwrap();
            assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
        }
        client.process("Delete", "").unwrap_or_else(|why| panic!("round {n}: {why:?}"));
    });
    drop(readers);
    assert_eq!(fs::read_dir(place.dir.join("root/test")).unwrap().count(), 0);
}

#[test]
fn of_clients_that_have_left_nothing_stays() {
    if skipped() {
        return;
    }
    let (place, mut client) = Place::sleeping(|_| {});
    let place_ref = &place;
    repeat(place_ref, &mut client, rounds(500, 100_000), |client, n| {
        let mut other = place_ref.connect();
        other.process("State", "").unwrap();
        other.send("Wait", &Message::new().text(1, "c1"));
        if n % 2 == 0 {
            // It leaves in the middle of a message.
            place_ref.raw().write_all(&[0, 0, 1, 0, 0]).unwrap();
        }
        client.process("Stats", "").unwrap();
    });
    client.end();
}

#[test]
fn a_shim_that_is_given_nothing_ends() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    // Whoever asked for it stays connected, and has forgotten it.
    let client = place.start();
    thread::sleep(Duration::from_secs(15));
    assert!(test_kill_process(pid_of(place.shim())).is_ok());
    thread::sleep(Duration::from_secs(14));
    wait_for_end(place.shim());
    drop(client);
    assert_eq!(fs::read_dir(place.dir.join("s")).unwrap().count(), 0);
}
