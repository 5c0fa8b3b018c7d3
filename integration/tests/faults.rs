//! Whatever happens to a command, at whatever instant, `delete --force` removes all that it made, and the id can be
//! used again. In this machine's own cgroup layout, and with cgroup v2 alone.

#![allow(clippy::disallowed_methods, reason = "a test's own paths, on the host")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use orlop_integration::fault::{self, CAN_FAIL_CALLS, Fault, Outcome, Point};
use orlop_integration::{World, in_time, long, pure_v2, skip};
use serde_json::json;

/// The errors that a sweep tries in turn.
const ERRORS: [Errno; 6] = [Errno::EINTR, Errno::ENOMEM, Errno::EMFILE, Errno::ENOSPC, Errno::EIO, Errno::EPERM];

/// One at a time: they measure time, and two cores are enough for one.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A sweep's command and what surrounds it.
struct Case<'a> {
    world: &'a World,
    id: &'a str,
    /// What the command is called in messages.
    verb: &'a str,
    argv: Vec<String>,
}

impl<'a> Case<'a> {
    fn new(world: &'a World, id: &'a str, verb: &'a str) -> Self {
        let mut words = world.made_by(verb, id);
        match verb {
            "create" | "run" => {}
            "delete" => words = vec!["delete", "--force", id],
            "exec" => words = vec!["exec", id, "/probe", "exit", "0"],
            _ => words = vec![verb, id],
        }
        Self { world, id, verb, argv: world.argv(&words) }
    }

    fn prepare(&self) {
        match self.verb {
            "start" => self.create(),
            "exec" | "delete" => {
                self.create();
                self.world.orlop(&["start", self.id]).must();
            }
            _ => {}
        }
    }

    fn create(&self) {
        self.world.orlop(&self.world.made_by("create", self.id)).must();
    }

    fn delete(&self, after: &str) {
        reap_orphans();
        let deleted = self.world.orlop(&["delete", "--force", self.id]);
        assert!(deleted.ok(), "{after}: {}{:#?}", deleted.err, self.world.residue());
    }

    fn perform(&self, fault: Option<(Point, Fault)>) -> (Outcome, String) {
        let log = self.world.dir.join("log");
        let outcome = fault::run(&self.argv, &log, fault);
        (outcome, fs::read_to_string(log).unwrap())
    }

    /// Every call of every process, or about `limit` of them, evenly spread.
    fn points(&self, limit: usize) -> Vec<Point> {
        self.prepare();
        let (outcome, log) = self.perform(None);
        assert!(outcome.status.success() && !outcome.hung, "{} without a fault: {log}", self.verb);
        self.delete("without a fault");
        self.world.assert_clean(format_args!("{} without a fault", self.verb));
        let calls = &outcome.calls;
        let all = |process: usize| (0..calls[process]).map(move |call| Point { process, call });
        let all: Vec<Point> = (0..calls.len()).flat_map(all).collect();
        assert!(all.len() > 20, "{} makes only {calls:?} calls", self.verb);
        if long() {
            return all;
        }
        let count = limit.min(all.len());
        (0..count).map(|i| all[i * all.len() / count]).collect()
    }

    /// The number of points at which a kill was not borne.
    fn kill_at_every_call(&self, limit: usize) -> usize {
        let points = self.points(limit);
        let (hit, failed) = self.each(points.iter().map(|point| move || self.kill_at(*point)));
        eprintln!("{}: killed at {hit} of {} points", self.verb, points.len());
        assert!(hit > 0);
        failed
    }

    fn kill_at(&self, point: Point) -> bool {
        let what = format!("{} killed at {point:?}", self.verb);
        self.prepare();
        let (outcome, log) = self.perform(Some((point, Fault::Kill)));
        assert!(!outcome.hung, "{what}: hangs: {log}");
        match self.verb {
            // Whether the byte was written or not: the container is created or running, and can be started once.
            "start" => {
                let again = self.world.orlop(&["start", self.id]);
                let refused = again.err.contains("cannot start an already running container");
                assert!(again.ok() || refused, "{what}: start again: {}", again.err);
            }
            "exec" => self.only_init_is_left(&what),
            _ => {}
        }
        self.delete(&what);
        self.world.assert_clean(&what);
        // The id is free again.
        self.create();
        self.delete(&what);
        self.world.assert_clean(format_args!("create after {what}"));
        outcome.hit.is_some()
    }

    /// Tries each, and goes on after one that fails the test: the rest of the sweep is as much worth knowing. How many
    /// faults were met, and how many not borne.
    fn each(&self, tries: impl Iterator<Item = impl Fn() -> bool>) -> (usize, usize) {
        let (mut hit, mut failed) = (0, 0);
        for one in tries {
            match catch_unwind(AssertUnwindSafe(one)) {
                Ok(met) => hit += usize::from(met),
                Err(_) => {
                    failed += 1;
                    self.world.orlop(&["delete", "--force", self.id]);
                }
            }
        }
        (hit, failed)
    }

    /// What a killed exec had started is gone, or has come to its own end. This process inherits it and must reap it:
    /// until then the kernel does not let the container's init go, and `delete` waits for that.
    fn only_init_is_left(&self, what: &str) {
        let give_up = Instant::now() + Duration::from_secs(5);
        while self.world.processes().len() != 1 {
            reap_orphans();
            assert!(Instant::now() < give_up, "{what}: {:?}", self.world.processes());
            sleep(Duration::from_millis(1));
        }
        assert_eq!(self.world.status(self.id), "running", "{what}");
    }

    /// The number of calls whose failure was not borne.
    fn fail_every_call(&self, limit: usize) -> usize {
        let points = self.points(limit);
        let some = |n: usize| if long() { &ERRORS[..] } else { &ERRORS[n % ERRORS.len()..][..1] };
        let all = points.iter().enumerate().flat_map(|(n, point)| some(n).iter().map(|errno| (*point, *errno)));
        let (hit, failed) = self.each(all.map(|(point, errno)| move || self.fail_call(point, errno)));
        eprintln!("{}: {hit} calls failed", self.verb);
        assert!(hit > 0);
        failed
    }

    fn fail_call(&self, point: Point, errno: Errno) -> bool {
        self.prepare();
        let (outcome, log) = self.perform(Some((point, Fault::Error(errno))));
        let call = outcome.hit.unwrap_or_default();
        let what = format!("{} with {errno:?} from call {call} at {point:?}: {} {log}", self.verb, outcome.status);
        assert!(!outcome.hung, "{what}: hangs");
        self.check_answer(point, &outcome, &what);
        self.delete(&what);
        self.world.assert_clean(&what);
        outcome.hit.is_some()
    }

    /// There is no such container. Where deleted ones are put to be emptied, one may be left to whoever comes next.
    fn assert_gone(&self, what: &str) {
        let mut left = self.world.residue();
        left.retain(|object| !object.contains("/.orlop-deleted"));
        assert!(left.is_empty(), "{what}: left behind: {left:#?}");
    }

    /// Success means that it is so, and a refusal that nothing has changed.
    fn check_answer(&self, point: Point, outcome: &Outcome, what: &str) {
        // An abort for want of memory is as good as a kill: only `delete` is left to say.
        let Some(status) = outcome.status.code() else { return };
        match (self.verb, status) {
            ("create", 0) => {
                let started = self.world.orlop(&["start", self.id]);
                // A container whose init died once it was created, as it can at any time, is stopped.
                let stopped = point.process > 0 && self.world.status(self.id) == "stopped";
                assert!(started.ok() || stopped, "{what}: start: {}", started.err);
            }
            ("create", 1) => self.world.assert_clean(what),
            // The container has run, and it was its deletion that failed: `delete` has all that it needs.
            ("run", 1) if self.world.status(self.id) == "stopped" => {}
            ("run", 1) => self.assert_gone(what),
            ("run", 0) => {}
            ("start", 0) => assert_eq!(self.world.status(self.id), "running", "{what}"),
            ("exec", _) => self.only_init_is_left(what),
            ("delete", 0) => self.assert_gone(what),
            ("start" | "delete", 1) => {}
            // The C library's own refusal, before main.
            ("create" | "run", 127) => self.world.assert_clean(what),
            ("start" | "delete", 127) => {}
            _ => panic!("{what}: unexpected status"),
        }
    }
}

/// Reaps what this process has inherited. No command of its own may be running.
fn reap_orphans() {
    while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// While it lives, this process inherits orphans, so that a sweep does not depend on how soon the host's pid 1 reaps.
struct Reaper;

impl Reaper {
    fn new() -> Self {
        set_child_subreaper(true).unwrap();
        Self
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        set_child_subreaper(false).unwrap();
        reap_orphans();
    }
}

/// Runs `each` for every command, on a world of its own, whose container ends by itself under `run`. `each` says how
/// often it failed.
fn sweep(test: &str, each: impl Fn(&Case<'_>, usize) -> usize) {
    let turn = alone();
    let Some(world) = World::new("sweep") else { return };
    let reaper = Reaper::new();
    let mut failed = 0;
    // The short form's number of points; about a tenth of all.
    for (verb, limit) in [("create", 60), ("start", 15), ("exec", 25), ("delete", 25), ("run", 35)] {
        world.configure(|config| {
            let args = if verb == "run" { json!(["/probe", "exit", "0"]) } else { json!(["/probe", "wait"]) };
            config["process"]["args"] = args;
        });
        failed += each(&Case::new(&world, &world.id("a"), verb), limit);
    }
    assert_eq!(failed, 0, "faults that were not borne; see above");
    drop((world, reaper, turn));
    pure_v2(test);
}

#[test]
fn a_command_that_is_killed_at_any_system_call_leaves_nothing_that_delete_does_not_remove() {
    let name = "a_command_that_is_killed_at_any_system_call_leaves_nothing_that_delete_does_not_remove";
    sweep(name, |case, limit| case.kill_at_every_call(limit));
}

#[test]
fn a_command_of_which_any_system_call_fails_succeeds_or_refuses_and_leaves_nothing() {
    let name = "a_command_of_which_any_system_call_fails_succeeds_or_refuses_and_leaves_nothing";
    if !CAN_FAIL_CALLS {
        return skip("making calls fail: not written for this architecture");
    }
    sweep(name, |case, limit| case.fail_every_call(limit));
}

/// A number below `limit` that differs each time, the same in each run.
fn draw(limit: u32) -> u32 {
    static SEED: AtomicU32 = AtomicU32::new(12345);
    let next = |n: u32| n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    let n = SEED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(next(n))).unwrap();
    (n >> 8) % limit
}

#[test]
fn a_create_that_is_killed_or_told_to_end_at_any_time_leaves_nothing_that_delete_does_not_remove() {
    let name = "a_create_that_is_killed_or_told_to_end_at_any_time_leaves_nothing_that_delete_does_not_remove";
    let turn = alone();
    let Some(world) = World::new("signals") else { return };
    let id = world.id("a");
    let before = Instant::now();
    world.orlop(&world.made_by("create", &id)).must();
    let usual = u32::try_from(before.elapsed().as_micros()).unwrap();
    world.orlop(&["delete", "--force", &id]).must();
    let rounds = if long() { 1000 } else { 100 };
    for round in 0..rounds {
        // SIGKILL every other time.
        let signal =
            [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT, Signal::SIGKILL, Signal::SIGHUP, Signal::SIGKILL]
                [round % 6];
        let after = Duration::from_micros(draw(usual + usual / 4).into());
        let child = world.command(&world.made_by("create", &id)).spawn().unwrap();
        sleep(after);
        // Not reaped yet, so the number is still its own.
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert!(in_time(child).is_some(), "hangs after {signal} at {after:?}");
        world.orlop(&["delete", "--force", &id]).must();
        world.assert_clean(format_args!("{signal} at {after:?}"));
    }
    world.orlop(&world.made_by("create", &id)).must();
    world.orlop(&["delete", "--force", &id]).must();
    drop((world, turn));
    pure_v2(name);
}

#[test]
fn of_two_racing_creates_exactly_one_wins() {
    let turn = alone();
    let Some(world) = World::new("race") else { return };
    let rounds = if long() { 1000 } else { 60 };
    for round in 0..rounds {
        let id = world.id(&round.to_string());
        let racer = || {
            let args = world.made_by("create", &id);
            world.orlop(&args)
        };
        let (one, two) = std::thread::scope(|scope| {
            let other = scope.spawn(racer);
            (racer(), other.join().unwrap())
        });
        assert!(one.ok() != two.ok(), "round {round}: {one:?} {two:?}");
        let loser = if one.ok() { two } else { one };
        assert!(loser.err.contains("container with given ID already exists"), "{}", loser.err);
        assert_eq!(world.status(&id), "created");
        world.orlop(&["start", &id]).must();
        world.orlop(&["delete", "--force", &id]).must();
    }
    world.assert_clean("races");
    drop((world, turn));
    pure_v2("of_two_racing_creates_exactly_one_wins");
}

#[test]
fn verbs_that_run_at_the_same_time_on_few_ids_neither_hang_nor_leave_anything() {
    let turn = alone();
    let Some(world) = World::new("verbs") else { return };
    let ids: Vec<String> = (0..4).map(|n| world.id(&n.to_string())).collect();
    let rounds = if long() { 2000 } else { 40 };
    let created = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let id = &ids[draw(4) as usize];
                    let args = match draw(8) {
                        0 | 1 => world.made_by("create", id),
                        2 => vec!["start", id],
                        3 => vec!["kill", id, "KILL"],
                        4 => vec!["delete", "--force", id],
                        5 => vec!["exec", id, "/probe", "exit", "0"],
                        6 => vec!["state", id],
                        _ => vec!["list"],
                    };
                    // A refusal is an answer; a hang or a signal is none.
                    let ran = world.orlop(&args);
                    assert!(ran.status.code().is_some(), "{args:?}: {ran:?}");
                    assert!(!ran.err.contains("panicked"), "{args:?}: {ran:?}");
                    created.fetch_add(u32::from(args[0] == "create" && ran.ok()), Ordering::Relaxed);
                }
            });
        }
    });
    ids.iter().for_each(|id| drop(world.orlop(&["delete", "--force", id]).must()));
    world.assert_clean("concurrent verbs");
    assert!(created.into_inner() > 0);
    drop((world, turn));
    pure_v2("verbs_that_run_at_the_same_time_on_few_ids_neither_hang_nor_leave_anything");
}

#[test]
fn a_running_container_whose_state_is_damaged_is_listed_as_corrupt_and_can_be_deleted() {
    let turn = alone();
    let Some(world) = World::new("corrupt") else { return };
    let id = world.id("a");
    let state = world.root.join(&id).join("state.json");
    let damaged = |damage: &dyn Fn(&[u8]) -> Vec<u8>| {
        world.orlop(&world.made_by("create", &id)).must();
        world.orlop(&["start", &id]).must();
        let whole = fs::read(&state).unwrap();
        let bytes = damage(&whole);
        let is_whole = bytes == whole;
        fs::write(&state, &bytes).unwrap();
        let list = world.orlop(&["list"]).must();
        let line = list.out.lines().find(|line| line.starts_with(&id)).unwrap_or_default();
        assert_eq!(
            line.contains("corrupt"),
            !is_whole,
            "{} of {} bytes: {}{}",
            bytes.len(),
            whole.len(),
            list.out,
            list.err
        );
        world.orlop(&["delete", "--force", &id]).must();
        world.assert_clean(format_args!("{} of {} bytes", bytes.len(), whole.len()));
        whole.len()
    };
    let length = damaged(&|_| b"garbage".to_vec());
    damaged(&|_| vec![0; 5000]);
    damaged(&|_| vec![b'{'; 2 << 20]);
    damaged(&|whole| [whole, b" "].concat());
    for cut in (0..length).step_by(if long() { 1 } else { length / 20 }) {
        damaged(&|whole| whole[..cut.min(whole.len())].to_vec());
    }
    for _ in 0..if long() { 1000 } else { 20 } {
        damaged(&|whole| {
            let mut bytes = whole.to_vec();
            let at = draw(u32::try_from(whole.len()).unwrap()) as usize;
            bytes[at] ^= 1 << draw(8);
            bytes
        });
    }
    // Another file in its place.
    world.orlop(&world.made_by("create", &id)).must();
    fs::remove_file(&state).unwrap();
    world.orlop(&["delete", "--force", &id]).must();
    world.assert_clean("no state.json");
    drop((world, turn));
    pure_v2("a_running_container_whose_state_is_damaged_is_listed_as_corrupt_and_can_be_deleted");
}
