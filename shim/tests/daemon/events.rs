//! What containerd hears, and in which order. The queue itself has its tests beside it.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use orlop_shim::client::number;

use crate::{BUSYBOX, Client, Place, skipped};

#[test]
fn events_wait_for_a_containerd_that_is_away() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    let mut client = place.start();
    client.call("Create", &place.create()).unwrap();
    client.process("Start", "").unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
    thread::sleep(Duration::from_millis(300));
    place.listen();
    assert_eq!(place.events(3), ["/tasks/create", "/tasks/start", "/tasks/exit"]);
    client.process("Delete", "").unwrap();
    assert_eq!(place.events(4).last().unwrap(), "/tasks/delete");
}

/// A container that may use little memory and wants much, created; `None`, said, where memory has no limits.
fn greedy(script: &str, change: impl FnOnce(&mut Value)) -> Option<(Place, Client)> {
    let mut place = Place::with(&["sh", "-c", script], |config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 8 << 20, "swap": 8 << 20}});
        change(config);
    });
    place.listen();
    let mut client = place.start();
    if let Err((_, why)) = client.call("Create", &place.create()) {
        println!("SKIP: no memory limits: {why}");
        return None;
    }
    Some((place, client))
}

/// Starts what is killed for want of memory, and hears of it in the order in which it is to be told.
fn assert_told_in_order(place: &Place, client: &mut Client) {
    client.process("Start", "").unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 137);
    assert_eq!(place.events(4), ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit"]);
    client.process("Delete", "").unwrap();
}

#[test]
fn an_oom_kill_is_told_before_the_end_that_it_explains() {
    if skipped() {
        return;
    }
    for _ in 0..5 {
        let Some((place, mut client)) = greedy("exec dd if=/dev/zero of=/dev/null bs=64M", |_| {}) else { return };
        assert_told_in_order(&place, &mut client);
    }
}

#[test]
fn what_happens_before_a_start_is_told_is_told_after_it() {
    if skipped() {
        return;
    }
    // The start takes its time, in a hook, when the program has run and is dead.
    let slow = |config: &mut Value| {
        config["hooks"] = json!({"poststart": [{"path": BUSYBOX, "args": ["sleep", "0.5"]}]});
    };
    let Some((place, mut client)) = greedy("exec dd if=/dev/zero of=/dev/null bs=64M", slow) else { return };
    assert_told_in_order(&place, &mut client);
}

#[test]
fn an_oom_kill_of_another_process_is_told_while_init_lives() {
    if skipped() {
        return;
    }
    let script = "dd if=/dev/zero of=/dev/null bs=64M; sleep 1000";
    let Some((place, mut client)) = greedy(script, |_| {}) else { return };
    client.process("Start", "").unwrap();
    assert_eq!(place.events(3), ["/tasks/create", "/tasks/start", "/tasks/oom"]);
    client.end();
    assert_eq!(place.events(5)[3..], ["/tasks/exit", "/tasks/delete"]);
}
