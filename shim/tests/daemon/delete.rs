//! `delete`, after a shim that was killed.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use orlop_sys::rustix::process::{Signal, kill_process};

use orlop_shim::client::number;

use crate::{Place, pid_of, skipped, wait_for_end};

/// How long a delete may take; containerd waits for five seconds.
const SOON: Duration = Duration::from_millis(500);

/// Kills the shim and deletes. What `delete` says: the pid and the exit status.
fn kill_and_delete(place: &Place, limit: Duration) -> (u64, u64) {
    kill_process(pid_of(place.shim()), Signal::KILL).unwrap();
    wait_for_end(place.shim());
    let began = Instant::now();
    let output = place.command("delete").stdin(Stdio::null()).output().unwrap();
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(fs::read_dir(place.dir.join("s")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.dir.join("root/test")).map_or(0, Iterator::count), 0);
    (number(&output.stdout, 1), number(&output.stdout, 2))
}

#[test]
fn what_a_killed_shim_leaves_is_removed() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["sh", "-c", "sleep 1000 & sleep 1000 & sleep 1000"]);
    let mut client = place.start();
    let pid = number(&client.call("Create", &place.create()).unwrap(), 1);
    client.process("Start", "").unwrap();
    assert_eq!(kill_and_delete(&place, SOON), (pid, 137));
    wait_for_end(pid as u32);
    // And once more, of what is not there.
    let output = place.command("delete").stdin(Stdio::null()).output().unwrap();
    assert_eq!((number(&output.stdout, 1), number(&output.stdout, 2)), (pid, 137));
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
    assert_eq!(kill_and_delete(&place, SOON), (pid, 7));

    // One of an earlier container says nothing of the next one.
    let mut client = place.start();
    let pid = number(&client.call("Create", &place.create()).unwrap(), 1);
    drop(client);
    assert_eq!(kill_and_delete(&place, SOON), (pid, 137));
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
    assert_eq!(kill_and_delete(&place, Duration::from_secs(5)), (pid, 137));
    wait_for_end(exec as u32);
}
