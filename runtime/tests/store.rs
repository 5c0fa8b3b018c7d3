//! The state root under attack, in a race and after a crash. No container is needed: records are written as a create
//! would write them, about processes of the test's own.

#![allow(clippy::disallowed_methods, reason = "the test prepares what an attacker or a crash would leave")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "all of this is a test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{Root, Sleeper, id, intent, record, text, wait};
use orlop::ErrorKind;
use orlop::container::{Container, Operation, Status};
use orlop::delete::{Force, delete};
use orlop::kill::{Whom, kill, parse_signal};
use orlop::list::{Format, list};
use orlop::state::state;
use orlop::store::{Contents, Hooks, Intent, Record, Store};

/// A generator of the same numbers each time (SplitMix64).
fn numbers(mut seed: u64) -> impl Iterator<Item = u64> {
    std::iter::repeat_with(move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[test]
fn a_container_goes_through_its_life_as_it_is_observed() {
    let root = Root::on_disk();
    let store = root.store();
    let child = Sleeper::new();
    let id = root.container("web1", |r| {
        child.is_init_of(r);
        r.waits_on_fifo = true;
    });
    let status = || Container::open(&store, &id).unwrap().status().unwrap();
    assert_eq!(status(), Status::Creating);

    assert!(Command::new("mkfifo").arg(root.path("web1/exec.fifo")).status().unwrap().success());
    assert_eq!(status(), Status::Running, "nobody waits at the fifo");
    let waiting = fs::File::options().read(true).write(true).open(root.path("web1/exec.fifo")).unwrap();
    assert_eq!(status(), Status::Created);
    drop(waiting);
    // A child that another test has just forked may hold the fifo a moment longer.
    wait(|| status() == Status::Running);
    assert_eq!(
        text(Container::open(&store, &id).unwrap().check(Operation::Start)),
        "cannot start an already running container"
    );

    kill(&store, &id, 0, Whom::Init).unwrap();
    assert_eq!(text(kill(&store, &id, 99, Whom::Init)), "unable to signal init: EINVAL (invalid argument)");
    assert_eq!(text(delete(&store, &id, Force::No)), "cannot delete container web1 that is not stopped: running");
    assert!(child.lives());
    kill(&store, &id, parse_signal("TERM").unwrap(), Whom::Init).unwrap();
    wait(|| status() == Status::Stopped);
    // A zombie is stopped: its parent may take its time.
    let e = kill(&store, &id, 15, Whom::Init).unwrap_err();
    assert_eq!((e.kind(), e.to_string().as_str()), (ErrorKind::WrongStatus, "container not running"));
    kill(&store, &id, 15, Whom::All).unwrap();
    assert_eq!(delete(&store, &id, Force::No).unwrap(), [""; 0]);
    assert!(root.is_empty());
    let e = delete(&store, &id, Force::No).unwrap_err();
    assert_eq!((e.kind(), e.to_string().as_str()), (ErrorKind::NotFound, "container does not exist"));
    assert_eq!(delete(&store, &id, Force::Yes).unwrap(), [""; 0]);
}

#[test]
fn a_created_container_is_deleted_without_force_and_a_running_one_with_it() {
    let root = Root::new();
    let child = Sleeper::new();
    let id = root.container("a", |r| {
        child.is_init_of(r);
        r.waits_on_fifo = true;
    });
    assert!(Command::new("mkfifo").arg(root.path("a/exec.fifo")).status().unwrap().success());
    let waiting = fs::File::options().read(true).write(true).open(root.path("a/exec.fifo")).unwrap();
    delete(&root.store(), &id, Force::No).unwrap();
    drop(waiting);
    assert!(!child.lives() && root.is_empty());

    let child = Sleeper::new();
    let id = root.container("b", |r| child.is_init_of(r));
    delete(&root.store(), &id, Force::Yes).unwrap();
    assert!(!child.lives() && root.is_empty());
}

#[test]
fn a_process_that_has_got_the_pid_later_is_neither_shown_nor_signalled() {
    let root = Root::new();
    let store = root.store();
    let child = Sleeper::new();
    for (name, change) in [
        ("start", (|r| r.start_time += 1) as fn(&mut Record)),
        ("boot", |r| r.boot_id = "00000000-0000-0000-0000-000000000000".into()),
    ] {
        let id = root.container(name, |r| {
            child.is_init_of(r);
            change(r);
        });
        let container = Container::open(&store, &id).unwrap();
        assert_eq!(container.status().unwrap(), Status::Stopped);
        assert!(container.pidfd().unwrap().is_none());
        assert!(state(&store, &id).unwrap().contains("\"pid\": 0,\n  \"status\": \"stopped\""));
        assert_eq!(text(kill(&store, &id, 9, Whom::Init)), "container not running");
        kill(&store, &id, 9, Whom::All).unwrap();
        delete(&store, &id, Force::Yes).unwrap();
        assert!(child.lives(), "{name}");
    }
    for pid in [0, -1, i32::MIN, 1 << 30] {
        let id = root.container("odd", |r| r.pid = pid);
        assert_eq!(Container::open(&store, &id).unwrap().status().unwrap(), Status::Stopped, "{pid}");
        delete(&store, &id, Force::Yes).unwrap();
    }
}

/// Whatever was done to the record: it is never believed, `list` says so, and `delete --force` removes it.
fn check_corrupt(root: &Root, bytes: &[u8], what: &str) {
    let store = root.store();
    let id = root.container("c", |_| ());
    let path = root.path("c/state.json");
    assert_ne!(fs::read(&path).unwrap(), bytes, "{what}");
    fs::write(&path, bytes).unwrap();
    assert!(matches!(store.dir(&id).unwrap().read().unwrap(), Contents::Corrupt { intent: Some(_), .. }), "{what}");
    let e = text(state(&store, &id));
    assert!(e.starts_with("container c is corrupt (`delete --force` removes it): state.json "), "{what}: {e}");
    let (table, problems) = list(&store, Format::Table).unwrap();
    assert!(table.contains("c           0           corrupt     "), "{what}: {table}");
    assert_eq!(problems, [""; 0]);
    assert!(text(delete(&store, &id, Force::No)).starts_with("container c is corrupt"), "{what}");
    let notes = delete(&store, &id, Force::Yes).unwrap();
    assert!(notes.len() == 1 && notes[0].contains("removed its directory"), "{what}: {notes:?}");
    assert!(root.is_empty(), "{what}");
}

fn whole(root: &Root) -> Vec<u8> {
    let id = root.container("c", |_| ());
    let bytes = fs::read(root.path("c/state.json")).unwrap();
    delete(&root.store(), &id, Force::Yes).unwrap();
    bytes
}

#[test]
fn a_record_cut_at_any_length_is_found_corrupt_and_deleted() {
    let root = Root::new();
    let bytes = whole(&root);
    for len in 0..bytes.len() {
        check_corrupt(&root, &bytes[..len], &format!("cut to {len}"));
    }
}

#[test]
fn a_record_with_any_bit_flipped_is_found_corrupt_and_deleted() {
    let root = Root::new();
    let bytes = whole(&root);
    for n in numbers(1).take(1000) {
        let bit = usize::try_from(n).unwrap() % (bytes.len() * 8);
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        check_corrupt(&root, &flipped, &format!("bit {bit}"));
    }
}

#[test]
fn garbage_is_found_corrupt_and_deleted() {
    let root = Root::new();
    let bytes = whole(&root);
    let mut longer = bytes.clone();
    longer.push(b'\n');
    for garbage in [
        &b"{}"[..],
        b"null",
        b"orlop-state 1 2 a3830348\n{}",
        b"orlop-state 2 0 00000000\n",
        b"orlop-state 1 99999999999999999999999999 00000000\n",
        &[0; 4096],
        &[0xff; 4096],
        &vec![b'['; 1 << 20],
        &vec![b' '; (1 << 20) + 1],
        &longer,
    ] {
        check_corrupt(&root, garbage, &String::from_utf8_lossy(&garbage[..garbage.len().min(40)]));
    }
}

#[test]
fn what_is_no_file_is_not_opened_and_a_record_of_another_container_is_not_believed() {
    let root = Root::new();
    let store = root.store();
    let secret = root.path("secret");
    fs::write(&secret, whole(&root)).unwrap();
    for kind in ["symlink", "fifo", "directory", "other"] {
        let id = root.container("c", |_| ());
        let path = root.path("c/state.json");
        fs::remove_file(&path).unwrap();
        match kind {
            "symlink" => symlink(&secret, &path).unwrap(),
            "fifo" => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
            "directory" => fs::create_dir(&path).unwrap(),
            _ => {
                root.container("d", |_| ());
                fs::copy(root.path("d/state.json"), &path).unwrap();
                delete(&store, &self::id("d"), Force::Yes).unwrap();
            }
        }
        let e = text(state(&store, &id));
        let want =
            if kind == "other" { "state.json is that of container \"d\"" } else { "state.json is not a regular file" };
        assert!(e.ends_with(want), "{kind}: {e}");
        delete(&store, &id, Force::Yes).unwrap();
        assert!(secret.exists() && !root.path("c").exists(), "{kind}");
    }
}

#[test]
fn without_record_and_intent_only_our_own_files_are_removed() {
    let root = Root::new();
    let store = root.store();
    for files in [&[][..], &["config.json"], &["state.json", "config.json", "exec.fifo"], &["state.json", "intent"]] {
        fs::create_dir(root.path("c")).unwrap();
        files.iter().for_each(|f| fs::write(root.path("c").join(f), "x").unwrap());
        let notes = delete(&store, &id("c"), Force::Yes).unwrap();
        assert!(
            notes[0].ends_with("no intent either: removed its directory, and looked for no processes"),
            "{notes:?}"
        );
        assert!(root.is_empty());
    }
    for target in ["/etc/passwd", "{\"id\":\"another\",\"bootId\":\"\",\"cgroup\":null}"] {
        let c = root.container("c", |_| ());
        fs::write(root.path("c/state.json"), "x").unwrap();
        fs::remove_file(root.path("c/intent")).unwrap();
        symlink(target, root.path("c/intent")).unwrap();
        assert!(delete(&store, &c, Force::Yes).unwrap()[0].ends_with("and looked for no processes"), "{target}");
        assert!(root.is_empty());
    }
    // As with a --root that is somebody's home.
    for file in ["letter.txt", "state.json"] {
        fs::create_dir(root.path("home")).unwrap();
        fs::write(root.path("home/diary"), "dear").unwrap();
        fs::write(root.path("home").join(file), "x").unwrap();
        assert_eq!(
            text(delete(&store, &id("home"), Force::Yes)),
            "home: no container's directory: it holds other files"
        );
        assert_eq!(list(&store, Format::Json).unwrap(), ("null\n".into(), vec![]));
        assert_eq!(fs::read_to_string(root.path("home/diary")).unwrap(), "dear");
        fs::remove_dir_all(root.path("home")).unwrap();
    }
}

#[test]
fn a_symlink_in_the_root_is_no_container_and_is_not_followed() {
    let (root, victim) = (Root::new(), Root::new());
    let store = root.store();
    victim.container("c", |_| ());
    fs::write(victim.path("c/precious"), "x").unwrap();
    symlink(victim.path("c"), root.path("c")).unwrap();
    let c = id("c");
    assert_eq!(store.claim(&c).unwrap_err().kind(), ErrorKind::AlreadyExists);
    for e in [text(state(&store, &c)), text(kill(&store, &c, 0, Whom::Init)), text(delete(&store, &c, Force::Yes))] {
        assert_eq!(e, "container c: not a directory in the state root");
    }
    assert_eq!(list(&store, Format::Quiet).unwrap().0, "");
    assert!(victim.path("c/precious").exists() && victim.path("c/state.json").exists());

    // Nor below a container's directory, nor as the place for deleted ones.
    let d = root.container("d", |_| ());
    symlink(victim.path("c"), root.path("d/link")).unwrap();
    fs::create_dir_all(root.path("d/sub/sub")).unwrap();
    symlink("/", root.path("d/sub/sub/root")).unwrap();
    symlink(&victim.0, root.path(".orlop-deleted")).unwrap();
    let e = text(delete(&store, &d, Force::Yes));
    assert_eq!(e, "remove the state of container d: ENOTDIR (not a directory)");
    assert!(victim.path("c/precious").exists() && root.path("d/state.json").exists());
    fs::remove_file(root.path(".orlop-deleted")).unwrap();
    delete(&store, &d, Force::Yes).unwrap();
    assert!(victim.path("c/precious").exists() && !root.path("d").exists());
}

#[test]
fn nobody_acts_on_what_another_user_has_written() {
    // Only root can make such a directory; anybody else is refused by the kernel anyway.
    if !orlop_sys::rustix::process::geteuid().is_root() {
        return;
    }
    let root = Root::new();
    let child = Sleeper::new();
    let id = root.container("c", |r| child.is_init_of(r));
    std::os::unix::fs::chown(root.path("c"), Some(1000), Some(1000)).unwrap();
    for result in [kill(&root.store(), &id, 9, Whom::Init), delete(&root.store(), &id, Force::Yes).map(drop)] {
        assert_eq!(text(result), "container c belongs to user 1000");
    }
    assert!(child.lives());
}

#[test]
fn the_root_is_made_with_its_parents_for_its_owner_alone() {
    let base = Root::new();
    let deep = base.path("a/b/c");
    let empty = Store::open(&deep).unwrap();
    assert_eq!(list(&empty, Format::Quiet).unwrap().0, "");
    assert_eq!(text(state(&empty, &id("x"))), "container does not exist");
    delete(&empty, &id("x"), Force::Yes).unwrap();
    Store::create(&deep).unwrap();
    let sticky = if orlop_sys::rustix::process::geteuid().is_root() { 0 } else { 0o1000 };
    assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o7777, 0o700 | sticky);
    assert_eq!(fs::metadata(base.path("a")).unwrap().permissions().mode() & 0o7777, 0o700);
    let (store, x) = (Store::create(&deep).unwrap(), id("x"));
    let claim = store.claim(&x).unwrap();
    assert_eq!(fs::metadata(base.path("a/b/c/x")).unwrap().permissions().mode() & 0o7777, 0o711);
    drop(claim);
    fs::write(base.path("file"), "").unwrap();
    let e = text(Store::create(&base.path("file/root")).map(drop));
    assert!(e.starts_with("open the state root ") && e.ends_with("ENOTDIR (not a directory)"), "{e}");
}

#[test]
fn a_create_that_fails_leaves_nothing_and_one_that_is_killed_leaves_what_delete_force_removes() {
    let root = Root::on_disk();
    let (store, c) = (root.store(), id("c"));
    let claim = store.claim(&c).unwrap();
    claim.intent(&intent("c")).unwrap();
    claim.config(b"{}").unwrap();
    claim.record(&record("c")).unwrap();
    drop(claim);
    assert!(root.is_empty());

    for steps in 0..3 {
        let claim = store.claim(&c).unwrap();
        if steps > 0 {
            claim.intent(&intent("c")).unwrap();
        }
        if steps > 1 {
            claim.config(b"{}").unwrap();
        }
        // As a SIGKILL would: the lock ends with the process, the rest stays.
        claim.leave();
        let shown = list(&store, Format::Table).unwrap().0.lines().count();
        assert_eq!(shown, if steps > 0 { 2 } else { 1 });
        assert!(text(state(&store, &c)).contains("its creator was killed (`delete --force` removes it)"));
        assert_eq!(text(delete(&store, &c, Force::No)), "cannot delete container c that is not stopped: creating");
        delete(&store, &c, Force::Yes).unwrap();
        assert!(root.is_empty());
    }
}

#[test]
fn an_intent_of_any_length_reads_back_or_is_refused() {
    let root = Root::new();
    let (store, c) = (root.store(), id("c"));
    let fixed = serde_json::to_string(&Intent { boot_id: String::new(), ..intent("c") }).unwrap().len();
    let long = |n: usize| Intent { boot_id: "b".repeat(n - fixed), ..intent("c") };
    for n in [fixed, 1022, 1023, 1024, 2046, 2047, 5000, 16 * 1023 - 1] {
        let claim = store.claim(&c).unwrap();
        claim.intent(&long(n)).unwrap();
        assert_eq!(store.dir(&c).unwrap().intent(), Some(long(n)), "{n}");
        claim.leave();
        // Killed between two parts: nothing was begun, and nothing is left.
        if n > 1023 {
            fs::remove_file(root.path("c/intent")).unwrap();
            assert_eq!(store.dir(&c).unwrap().read().unwrap(), Contents::Incomplete(None));
        }
        delete(&store, &c, Force::Yes).unwrap();
        assert!(root.is_empty());
    }
    let claim = store.claim(&c).unwrap();
    assert_eq!(text(claim.intent(&long(16 * 1023))), "linux.cgroupsPath: too long to record (16369 bytes)");
}

#[test]
fn a_deletion_that_was_killed_is_finished_by_the_next_command() {
    let root = Root::new();
    let store = root.store();
    for finish in [|s: &Store| drop(s.claim(&id("new")).unwrap()), |s: &Store| drop(delete(s, &id("none"), Force::Yes))]
    {
        root.container("c", |_| ());
        fs::create_dir(root.path(".orlop-deleted")).unwrap();
        fs::rename(root.path("c"), root.path(".orlop-deleted/77")).unwrap();
        fs::create_dir(root.path(".orlop-deleted/78")).unwrap();
        assert_eq!(list(&store, Format::Quiet).unwrap().0, "");
        finish(&store);
        assert!(root.is_empty());
    }
}

#[test]
fn of_racing_threads_exactly_one_claims_an_id() {
    let root = Root::new();
    for round in 0..200 {
        let (start, end) = (Barrier::new(8), Barrier::new(8));
        let wins = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let (store, c) = (root.store(), id("c"));
                        start.wait();
                        let claim = store.claim(&c);
                        end.wait();
                        match claim {
                            Ok(claim) => {
                                claim.intent(&intent("c")).unwrap();
                                1
                            }
                            Err(e) => {
                                assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e}");
                                assert_eq!(e.to_string(), "container with given ID already exists");
                                0
                            }
                        }
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum::<u32>()
        });
        assert_eq!(wins, 1, "round {round}");
        assert!(root.is_empty());
    }
}

/// The body of the processes below: claims each id as fast as it can and says which it got.
#[test]
#[ignore = "run by of_racing_processes_exactly_one_claims_an_id"]
fn racer() {
    let Some(root) = std::env::var_os("ORLOP_TEST_RACE") else { return };
    let store = Store::open(Path::new(&root)).unwrap();
    for round in 0..200 {
        if let Ok(claim) = store.claim(&id(&format!("c{round}"))) {
            claim.record(&record(&format!("c{round}"))).unwrap();
            claim.keep();
            println!("won {round}");
        }
    }
}

#[test]
fn of_racing_processes_exactly_one_claims_an_id() {
    let root = Root::new();
    let racers: Vec<_> = (0..4)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "racer", "--ignored", "--nocapture"])
                .env("ORLOP_TEST_RACE", &root.0)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut wins: BTreeMap<String, u32> = BTreeMap::new();
    for racer in racers {
        let out = racer.wait_with_output().unwrap();
        assert!(out.status.success());
        let out = String::from_utf8(out.stdout).unwrap();
        // The harness's own `test racer ... ` may stand before the first.
        for line in out.lines().filter_map(|l| l.split_once("won ")) {
            *wins.entry(line.1.into()).or_default() += 1;
        }
    }
    assert_eq!(wins.len(), 200);
    assert!(wins.values().all(|n| *n == 1), "{wins:?}");
    assert_eq!(list(&root.store(), Format::Quiet).unwrap().0.lines().count(), 200);
}

#[test]
fn creating_and_deleting_one_id_at_once_leaves_nothing() {
    let root = Root::new();
    let winners = AtomicU32::new(0);
    let end = Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (store, c) = (root.store(), id("c"));
                while Instant::now() < end {
                    match store.claim(&c) {
                        Ok(claim) => {
                            let winner = winners.fetch_add(1, Ordering::SeqCst);
                            assert_eq!(winner, 0, "two hold one id");
                            claim.intent(&intent("c")).unwrap();
                            claim.record(&record("c")).unwrap();
                            winners.fetch_sub(1, Ordering::SeqCst);
                            claim.keep();
                        }
                        Err(e) => {
                            let expected = matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound);
                            assert!(expected, "{e}");
                        }
                    }
                }
            });
            scope.spawn(|| {
                let (store, c) = (root.store(), id("c"));
                while Instant::now() < end {
                    delete(&store, &c, Force::Yes).unwrap();
                    match state(&store, &c) {
                        Ok(text) => assert!(text.contains("stopped")),
                        Err(e) => assert!(matches!(e.kind(), ErrorKind::NotFound | ErrorKind::WrongStatus), "{e}"),
                    }
                    list(&store, Format::Json).unwrap();
                }
            });
        }
    });
    delete(&root.store(), &id("c"), Force::Yes).unwrap();
    assert!(root.is_empty());
}

#[test]
fn an_operation_waits_for_the_one_before_it() {
    let root = Root::new();
    let c = root.container("c", |_| ());
    let store = root.store();
    let held = Container::open_locked(&store, &c).unwrap();
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            delete(&root.store(), &c, Force::No).unwrap();
            released.load(Ordering::Relaxed)
        });
        std::thread::sleep(Duration::from_millis(150));
        // Looking needs no lock.
        assert!(state(&store, &c).unwrap().contains("stopped"));
        released.store(true, Ordering::Relaxed);
        drop(held);
        assert!(waiter.join().unwrap(), "deleted while another held it");
    });
    assert!(root.is_empty());
}

#[test]
fn a_lock_ends_with_its_holder_although_a_child_has_inherited_it() {
    let root = Root::new();
    let (store, c) = (root.store(), id("c"));
    let claim = store.claim(&c).unwrap();
    claim.record(&record("c")).unwrap();
    let inherited = claim.dir().try_clone_to_owned().unwrap();
    claim.keep();
    // Else it would be refused as busy.
    delete(&store, &c, Force::No).unwrap();
    drop(inherited);
}

#[test]
fn poststop_hooks_get_the_state_and_their_failures_are_only_told() {
    let root = Root::new();
    let store = root.store();
    let out = root.path("out");
    let c = id("c");
    let claim = store.claim(&c).unwrap();
    let config = serde_json::json!({
        "ociVersion": "1.3.0",
        "annotations": {"k": "<v>"},
        "hooks": {"poststop": [
            {"path": "/bin/sh", "args": ["sh", "-c", "echo bad >&2; exit 7"]},
            {"path": "/bin/sh", "args": ["sh", "-c", format!("cat > {}", out.display())], "env": ["PATH=/bin:/usr/bin"]},
        ]},
    });
    claim.config(config.to_string().as_bytes()).unwrap();
    let hooks = Hooks { poststop: true, ..Hooks::default() };
    claim.record(&Record { hooks, annotations_in_config: true, ..record("c") }).unwrap();
    claim.keep();
    assert!(state(&store, &c).unwrap().contains(r#""k": "\u003cv\u003e""#));
    let notes = delete(&store, &c, Force::No).unwrap();
    assert_eq!(notes, ["error running poststop hook #0: exit status 7, stdout: , stderr: bad"]);
    assert_eq!(
        fs::read_to_string(&out).unwrap(),
        r#"{"ociVersion":"1.3.0","id":"c","status":"stopped","bundle":"/bundle","annotations":{"k":"\u003cv\u003e"}}"#
    );
    assert!(!root.path("c").exists());
}

#[test]
fn a_list_is_printed_as_runc_prints_it() {
    let root = Root::on_disk();
    let store = root.store();
    let header = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
    assert_eq!(list(&store, Format::Table).unwrap().0, header);
    assert_eq!(list(&store, Format::Json).unwrap().0, "null\n");
    assert_eq!(list(&store, Format::Quiet).unwrap().0, "");

    let created = "2026-11-21T08:57:20.252939962Z";
    for name in ["x1", "a-much-longer-name"] {
        root.container(name, |r| {
            r.created = created.into();
            r.bundle = "/containers/example/b1".into();
        });
    }
    let uid = fs::metadata(&root.0).unwrap().uid();
    let owner = Command::new("id").args(["-un", &uid.to_string()]).output().unwrap().stdout;
    let owner = String::from_utf8(owner).unwrap();
    let owner = owner.trim();
    assert_eq!(
        list(&store, Format::Table).unwrap().0,
        format!(
            "ID                   PID         STATUS      BUNDLE                   CREATED                          OWNER\n\
             a-much-longer-name   0           stopped     /containers/example/b1   {created}   {owner}\n\
             x1                   0           stopped     /containers/example/b1   {created}   {owner}\n"
        )
    );
    let json: serde_json::Value = serde_json::from_str(&list(&store, Format::Json).unwrap().0).unwrap();
    assert_eq!((json[1]["id"].as_str(), json[1]["owner"].as_str()), (Some("x1"), Some(owner)));
    assert_eq!(list(&store, Format::Quiet).unwrap().0, "a-much-longer-name\nx1\n");
}

#[test]
fn a_signal_is_read_as_runc_reads_it() {
    for (text, number) in [("9", 9), ("0", 0), ("KILL", 9), ("sigterm", 15), ("-1", -1), ("64", 64), ("RTMIN+1", 35)] {
        assert_eq!(parse_signal(text).unwrap(), number);
    }
    assert_eq!(text(parse_signal("FOO")), "unknown signal \"FOO\"");
    assert_eq!(text(parse_signal("")), "unknown signal \"\"");
}
