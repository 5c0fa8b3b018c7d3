//! A container that is being made: seen, asked, signalled and given up, while its create takes as long as it likes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use orlop_shim::client::number;
use orlop_shim::wire::Message;
use orlop_sys::rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::{BUSYBOX, Client, Place, assert_done_soon, assert_shim_answers_at_once, pid_of, skipped, wait_for_end};

/// A number of seconds that no other process on this machine sleeps for: by it a hook is found.
fn seconds(about: &str) -> String {
    format!("{about}{:07}", std::process::id())
}

/// A container whose create takes this many seconds, in a hook.
fn slow(seconds: &str) -> Place {
    Place::with(&["sleep", "1000"], |config| {
        config["hooks"] = json!({"createRuntime": [{"path": BUSYBOX, "args": ["sleep", seconds]}]});
    })
}

/// The process that sleeps for them.
fn sleeper(seconds: &str) -> Option<u32> {
    let wanted = format!("sleep\0{seconds}\0");
    let is_it =
        |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(wanted.as_bytes()));
    let mut pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.find(is_it)
}

fn runs(seconds: &str) -> bool {
    sleeper(seconds).is_some()
}

/// Sends Create, and waits until its hook runs.
fn begin(place: &Place, client: &mut Client, seconds: &str) -> u32 {
    let create = client.send("Create", &place.create());
    let end = Instant::now() + Duration::from_secs(10);
    while !runs(seconds) {
        assert!(Instant::now() < end, "the hook does not run");
        thread::sleep(Duration::from_millis(5));
    }
    create
}

/// A process that was killed may take a moment to be dead.
fn assert_ends(seconds: &str) {
    let end = Instant::now() + Duration::from_secs(5);
    while runs(seconds) {
        assert!(Instant::now() < end, "the hook still runs");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Nothing of it is left, but the shim.
fn assert_gone(place: &Place, seconds: &str) {
    assert_ends(seconds);
    assert_eq!(fs::read_dir(place.dir.join("root/test")).unwrap().count(), 0);
    let shim = place.shim();
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    let is_dead = |pid: &str| !Path::new(&format!("/proc/{pid}/exe")).exists();
    assert!(children.split_whitespace().all(is_dead), "{children}");
}

#[test]
fn questions_are_answered_at_once_while_a_create_takes_its_time() {
    if skipped() {
        return;
    }
    // It takes until its hook is woken: on a busy machine, too, that is after all questions.
    let seconds = &seconds("25.125");
    let script = format!("{BUSYBOX} sleep {seconds}; true");
    let mut place = Place::with(&["sleep", "1000"], |config| {
        config["hooks"] = json!({"createRuntime": [{"path": BUSYBOX, "args": ["sh", "-c", script]}]});
    });
    let mut client = place.start();
    let create = begin(&place, &mut client, seconds);
    assert_shim_answers_at_once(place.shim(), || {
        let state = client.process("State", "").unwrap();
        // Created, and without a pid.
        assert_eq!((number(&state, 3), number(&state, 4)), (0, 1));
        assert_eq!(client.process("State", "e").unwrap_err().0, 5);
        assert_eq!(client.process("Pids", "").unwrap_err().0, 5);
        client.process("Connect", "").unwrap();
    });
    kill_process(pid_of(sleeper(seconds).unwrap()), Signal::KILL).unwrap();
    let pid = number(&client.receive(create).unwrap(), 1);
    assert_eq!(number(&client.process("State", "").unwrap(), 3), pid);
    client.end();
}

#[test]
fn a_signal_that_comes_before_there_is_a_process_is_sent_when_there_is_one() {
    if skipped() {
        return;
    }
    let seconds = &seconds("0.53125");
    let mut place = slow(seconds);
    let mut client = place.start();
    let create = begin(&place, &mut client, seconds);
    // SIGCONT: nothing comes of it, but that it is answered.
    let wait = client.send("Wait", &Message::new().text(1, "c1"));
    let kill = client.send("Kill", &Message::new().text(1, "c1").number(3, 18u32));
    assert!(number(&client.receive(create).unwrap(), 1) > 0);
    client.receive(kill).unwrap();
    client.kill(9).unwrap();
    assert_eq!(number(&client.receive(wait).unwrap(), 1), 137);
    client.process("Delete", "").unwrap();
}

#[test]
fn a_container_that_is_killed_while_it_is_made_is_not_made() {
    if skipped() {
        return;
    }
    let seconds = &seconds("21.125");
    let mut place = slow(seconds);
    place.listen();
    let mut client = place.start();
    let create = begin(&place, &mut client, seconds);
    let wait = client.send("Wait", &Message::new().text(1, "c1"));
    let term = client.send("Kill", &Message::new().text(1, "c1").number(3, 15u32));
    let began = Instant::now();
    client.kill(9).unwrap();
    assert!(client.receive(create).unwrap_err().1.contains("given up"));
    assert_eq!(number(&client.receive(wait).unwrap(), 1), 137);
    assert_eq!(client.receive(term).unwrap_err().0, 5);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(client.process("State", "").unwrap_err().0, 5);
    assert_gone(&place, seconds);
    assert!(place.heard.lock().unwrap().is_empty());
}

#[test]
fn a_create_that_hangs_is_given_up_by_delete_and_its_id_is_free_again() {
    if skipped() {
        return;
    }
    let seconds = &seconds("22.125");
    let mut place = slow(seconds);
    let mut client = place.start();
    for _ in 0..2 {
        let create = begin(&place, &mut client, seconds);
        let deletes = [
            client.send("Delete", &Message::new().text(1, "c1")),
            client.send("Delete", &Message::new().text(1, "c1")),
        ];
        let [first, second] = deletes.map(|delete| client.receive(delete));
        let deleted = first.unwrap();
        assert_eq!((number(&deleted, 1), number(&deleted, 2)), (0, 137));
        // The same, or that it came too late.
        assert!(second.is_ok_and(|second| second == deleted) || client.process("State", "").unwrap_err().0 == 5);
        assert!(client.receive(create).unwrap_err().1.contains("given up"));
        assert_eq!(client.process("Delete", "").unwrap_err().0, 5);
        assert_gone(&place, seconds);
    }
}

#[test]
fn a_create_that_hangs_is_given_up_with_the_shim() {
    if skipped() {
        return;
    }
    let seconds = &seconds("20.125");
    assert_done_soon(|| {
        let mut place = slow(seconds);
        let mut client = place.start();
        let create = begin(&place, &mut client, seconds);
        // Of another container this says nothing.
        client.call("Shutdown", &Message::new().text(1, "c2")).unwrap();
        thread::sleep(Duration::from_millis(100));
        assert!(runs(seconds));
        client.call("Shutdown", &Message::new().text(1, "c1")).unwrap();
        assert!(client.receive(create).unwrap_err().1.contains("given up"));
        wait_for_end(place.shim());
        let began = Instant::now();
        assert!(place.command("delete").stdin(Stdio::null()).output().unwrap().status.success());
        let time = began.elapsed();
        assert_eq!(fs::read_dir(place.dir.join("root/test")).unwrap().count(), 0);
        assert_ends(seconds);
        time
    });
}

#[test]
fn a_create_whose_worker_dies_leaves_nothing() {
    if skipped() {
        return;
    }
    let seconds = &seconds("23.125");
    let mut place = slow(seconds);
    let mut client = place.start();
    let create = begin(&place, &mut client, seconds);
    let shim = place.shim();
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    let worker = children.trim().parse().unwrap();
    kill_process(pid_of(worker), Signal::KILL).unwrap();
    assert!(client.receive(create).unwrap_err().1.contains("died unexpectedly"));
    assert_eq!(client.process("State", "").unwrap_err().0, 5);
    assert_eq!(fs::read_dir(place.dir.join("root/test")).unwrap().count(), 0);
    assert!(Path::new("/proc").join(shim.to_string()).exists());
}

#[test]
fn an_exec_is_killed_also_while_it_is_being_started() {
    if skipped() {
        return;
    }
    let (place, mut client) = Place::sleeping(Place::listen);
    // What takes its time is the program that is to take the output.
    let logger = place.path("logger");
    let uri = format!("binary://{logger}");
    let mut kill_while_starting = |script: &str, signal: u32| {
        fs::write(&logger, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
        client.exec("e", &["sleep", "1000"], &uri).unwrap();
        let start = client.send("Start", &Message::new().text(1, "c1").text(2, "e"));
        let began = Instant::now();
        let kill = client.send("Kill", &Message::new().text(1, "c1").text(2, "e").number(3, signal));
        let answers = (client.receive(start), client.receive(kill));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        let status = number(&client.process("Wait", "e").unwrap(), 1);
        client.process("Delete", "e").unwrap();
        (answers, status)
    };
    let seconds = &seconds("24.125");
    let ((start, kill), status) = kill_while_starting(&format!("exec sleep {seconds}"), 9);
    assert_eq!((kill.unwrap_err().0, status), (5, 137));
    assert!(start.unwrap_err().1.contains("died unexpectedly"));
    assert_ends(seconds);
    let ((start, kill), status) = kill_while_starting("sleep 0.3; exec 5>&-; cat <&3 >/dev/null", 15);
    assert!(start.is_ok() && kill.is_ok());
    assert_eq!(status, 143);
    client.end();
}
