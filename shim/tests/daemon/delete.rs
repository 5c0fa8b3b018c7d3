//! `delete`, after a shim that was killed.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use orlop_sys::rustix::process::{Signal, kill_process};

use orlop_shim::client::number;

use crate::{Place, assert_done_soon, pid_of, skipped, wait_for_end};

/// Kills the shim and deletes. What `delete` says, the pid and the exit status, and how long it took.
fn kill_and_delete(place: &Place) -> ((u64, u64), Duration) {
    kill_process(pid_of(place.shim()), Signal::KILL).unwrap();
    wait_for_end(place.shim());
    let began = Instant::now();
    let output = place.command("delete").stdin(Stdio::null()).output().unwrap();
    let time = began.elapsed();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(fs::read_dir(place.dir.join("s")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.dir.join("root/test")).map_or(0, Iterator::count), 0);
    ((number(&output.stdout, 1), number(&output.stdout, 2)), time)
}

#[test]
fn what_a_killed_shim_leaves_is_removed() {
    if skipped() {
        return;
    }
    assert_done_soon(|| {
        let mut place = Place::new(&["sh", "-c", "sleep 1000 & sleep 1000 & sleep 1000"]);
        let mut client = place.start();
        let pid = number(&client.call("Create", &place.create()).unwrap(), 1);
        client.process("Start", "").unwrap();
        let (said, time) = kill_and_delete(&place);
        assert_eq!(said, (pid, 137));
        wait_for_end(pid as u32);
        // And once more, of what is not there.
        let output = place.command("delete").stdin(Stdio::null()).output().unwrap();
        assert_eq!((number(&output.stdout, 1), number(&output.stdout, 2)), (pid, 137));
        time
    });
}

#[test]
fn the_exit_status_is_told_if_the_shim_has_seen_it() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["sh", "-c", "exit 7"]);
    let mut client = place.start();
    let pid = number(&client.call("Create", &place.create()).unwrap(), 1);
    client.process("Start", "").unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 7);
    assert_eq!(kill_and_delete(&place).0, (pid, 7));

    // One of an earlier container says nothing of the next one.
    let mut client = place.start();
    let pid = number(&client.call("Create", &place.create()).unwrap(), 1);
    drop(client);
    assert_eq!(kill_and_delete(&place).0, (pid, 137));
}

#[test]
fn an_exec_whose_shim_was_killed_ends_with_its_container() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["sleep", "1000"]);
    let mut client = place.start();
    let pid = number(&client.call("Create", &place.create()).unwrap(), 1);
    client.process("Start", "").unwrap();
    client.exec("e", &["sleep", "1000"], "").unwrap();
    let exec = number(&client.process("Start", "e").unwrap(), 1);
    // The end of a pid namespace waits until its last process is reaped, and this one has the host's init for a parent
    // now: how soon that reaps is not in our hands.
    let (said, time) = kill_and_delete(&place);
    assert!(said == (pid, 137) && time < Duration::from_secs(5), "{said:?}, {time:?}");
    wait_for_end(exec as u32);
}
