//! What `delete` and `kill` do to processes, in real cgroups of v2 and v1 with processes of the test's own.
//! Needs root: anybody else has no cgroup to make.

#![allow(clippy::disallowed_methods, reason = "the test prepares what an attacker or a crash would leave")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "all of this is a test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{Root, Sleeper, id, intent, record, text, wait};
use orlop::cgroup::{self, Cgroup};
use orlop::container::{Container, Status};
use orlop::delete::{Force, delete};
use orlop::kill::{Whom, kill};
use orlop::list::{Format, list};
use orlop::store::{ContainerId, Intent, Namespace, Record};

/// An empty cgroup of the test's own in one or more hierarchies.
struct Group(cgroup::Record);

impl Group {
    /// One in each combination of hierarchies that this machine has, with its name.
    fn each() -> Vec<(&'static str, Self)> {
        if !orlop_sys::rustix::process::geteuid().is_root() {
            eprintln!("not root: there is no cgroup to test with");
            return vec![];
        }
        let v2 = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let v2 = v2.into_iter().find(|mount| mount.join("cgroup.procs").exists() && !mount.join("tasks").exists());
        let v1 = Some(Path::new("/sys/fs/cgroup/freezer")).filter(|mount| mount.join("cgroup.procs").exists());
        let v2 = v2.map(|mount| ("", mount));
        let v1 = v1.map(|mount| ("freezer", mount));
        let mut all = vec![];
        all.extend(v2.map(|v2| ("v2", Self::new(&[v2]))));
        all.extend(v1.map(|v1| ("v1", Self::new(&[v1]))));
        all.extend(v1.zip(v2).map(|(v1, v2)| ("hybrid", Self::new(&[v1, v2]))));
        all
    }

    fn new(hierarchies: &[(&str, &Path)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = format!("/orlop-delete-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dirs = hierarchies.iter().map(|(controllers, mount)| cgroup::Dir {
            controllers: (*controllers).to_owned(),
            mount: mount.to_str().unwrap().to_owned(),
            path: path.clone(),
        });
        let group = Self(cgroup::Record(dirs.collect()));
        group.make();
        group
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.0.0.iter().map(|dir| PathBuf::from(dir.full()))
    }

    fn make(&self) {
        self.paths().for_each(|path| fs::create_dir(path).unwrap());
    }

    fn exists(&self) -> bool {
        self.paths().any(|path| path.exists())
    }

    fn take(&self, child: &Sleeper) {
        self.paths().for_each(|path| fs::write(path.join("cgroup.procs"), child.pid().to_string()).unwrap());
    }

    fn open(&self) -> Cgroup {
        Cgroup::open(&self.0).unwrap()
    }

    /// A container in this cgroup whose init is `child`.
    fn container(&self, root: &Root, child: &Sleeper, change: impl FnOnce(&mut Record)) -> ContainerId {
        let (store, c) = (root.store(), id("c"));
        let claim = store.claim(&c).unwrap();
        claim.intent(&Intent { cgroup: Some(self.0.clone()), ..intent("c") }).unwrap();
        self.take(child);
        let mut record = Record { cgroup: Some(self.0.clone()), ..record("c") };
        child.is_init_of(&mut record);
        change(&mut record);
        claim.record(&record).unwrap();
        claim.keep();
        c
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        let group = self.open();
        let _ = group.kill_all().and_then(|()| group.wait_empty(deadline)).and_then(|_| group.remove(deadline));
    }
}

/// Sees that something takes less than half a second. On a machine that is busy it may be late, but not each time.
#[track_caller]
fn assert_done_soon(kind: &str, mut attempt: impl FnMut() -> Duration) {
    let mut times = Vec::new();
    loop {
        let time = attempt();
        assert!(time < Duration::from_secs(5), "{kind}: {time:?}");
        if time < Duration::from_millis(500) {
            return eprintln!("{kind}: {time:?}");
        }
        times.push(time);
        assert!(times.len() < 5, "{kind}: {times:?}");
    }
}

fn shared_pid_namespace(record: &mut Record) {
    record.namespaces = vec![Namespace { kind: "pid".into(), path: Some("/proc/1/ns/pid".into()) }];
}

#[test]
fn delete_force_of_a_running_container_leaves_nothing_and_is_quick() {
    for (kind, group) in Group::each() {
        assert_done_soon(kind, || {
            let (root, child, other) = (Root::new(), Sleeper::new(), Sleeper::new());
            let c = group.container(&root, &child, |_| ());
            group.take(&other);
            let start = Instant::now();
            assert_eq!(delete(&root.store(), &c, Force::Yes).unwrap(), [""; 0]);
            let took = start.elapsed();
            assert!(!child.lives() && !other.lives() && !group.exists() && root.is_empty(), "{kind}");
            group.make();
            took
        });
    }
}

#[test]
fn a_corrupt_container_is_killed_and_removed_at_whatever_length_its_record_was_cut() {
    for (kind, group) in Group::each() {
        let root = Root::new();
        let mut cut = 0;
        loop {
            let child = Sleeper::new();
            let c = group.container(&root, &child, |_| ());
            let path = root.path("c/state.json");
            let bytes = fs::read(&path).unwrap();
            if cut >= bytes.len() {
                break;
            }
            fs::write(&path, &bytes[..cut]).unwrap();
            assert!(list(&root.store(), Format::Table).unwrap().0.contains("corrupt"));
            let notes = delete(&root.store(), &c, Force::Yes).unwrap();
            let want = "killed what its cgroup held, and removed cgroup and directory";
            assert!(notes.len() == 1 && notes[0].ends_with(want), "{kind}: {notes:?}");
            assert!(!child.lives() && !group.exists() && root.is_empty(), "{kind} cut to {cut}");
            group.make();
            // Each length is read back in another test; here a process dies for each.
            cut += 13;
        }
    }
}

#[test]
fn what_a_killed_create_has_begun_is_ended_by_its_intent() {
    for (kind, group) in Group::each() {
        let (root, child) = (Root::new(), Sleeper::new());
        let c = group.container(&root, &child, |_| ());
        fs::remove_file(root.path("c/state.json")).unwrap();
        assert!(list(&root.store(), Format::Table).unwrap().0.contains("creating"));
        assert_eq!(
            text(delete(&root.store(), &c, Force::No)),
            "cannot delete container c that is not stopped: creating"
        );
        assert!(child.lives());
        delete(&root.store(), &c, Force::Yes).unwrap();
        assert!(!child.lives() && !group.exists() && root.is_empty(), "{kind}");
    }
}

#[test]
fn after_another_boot_a_cgroup_of_the_same_name_is_left_alone() {
    for (kind, group) in Group::each() {
        let (root, child) = (Root::new(), Sleeper::new());
        let c = group.container(&root, &child, |r| r.boot_id = "another".into());
        delete(&root.store(), &c, Force::Yes).unwrap();
        assert!(child.lives() && group.exists() && root.is_empty(), "{kind}: by the record");

        let store = root.store();
        let claim = store.claim(&c).unwrap();
        let paths = Some(group.0.clone());
        assert_eq!(
            text(claim.intent(&Intent { cgroup: paths.clone(), ..intent("c") })),
            "container's cgroup is not empty: 1 process(es) found"
        );
        group.open().kill_all().unwrap();
        assert!(group.open().wait_empty(Instant::now() + Duration::from_secs(5)).unwrap());
        claim.intent(&Intent { cgroup: paths, boot_id: "another".into(), ..intent("c") }).unwrap();
        claim.leave();
        let child = Sleeper::new();
        group.take(&child);
        let notes = delete(&store, &c, Force::Yes).unwrap();
        assert!(notes[0].ends_with("it was of another boot: removed its directory"), "{notes:?}");
        assert!(child.lives() && group.exists() && root.is_empty(), "{kind}: by the intent");
    }
}

#[test]
fn in_a_shared_pid_namespace_the_processes_beside_init_die_too() {
    for (kind, group) in Group::each() {
        // kill KILL reaches them while init lives.
        let (root, init, other) = (Root::new(), Sleeper::new(), Sleeper::new());
        let c = group.container(&root, &init, shared_pid_namespace);
        group.take(&other);
        kill(&root.store(), &c, 15, Whom::Init).unwrap();
        let container = || Container::open(&root.store(), &c).unwrap();
        wait(|| container().status().unwrap() == Status::Stopped);
        assert!(other.lives());
        // kill --all reaches them afterwards, and delete in any case.
        kill(&root.store(), &c, 0, Whom::All).unwrap();
        kill(&root.store(), &c, 12, Whom::All).unwrap();
        wait(|| !other.lives());
        let other = Sleeper::new();
        group.take(&other);
        delete(&root.store(), &c, Force::No).unwrap();
        assert!(!other.lives() && !group.exists() && root.is_empty(), "{kind}");

        group.make();
        let (init, other) = (Sleeper::new(), Sleeper::new());
        group.container(&root, &init, shared_pid_namespace);
        group.take(&other);
        kill(&root.store(), &c, 9, Whom::Init).unwrap();
        wait(|| !init.lives() && !other.lives());
    }
}

#[test]
fn a_paused_container_is_seen_killed_and_deleted() {
    for (kind, group) in Group::each() {
        let (root, child) = (Root::new(), Sleeper::new());
        let c = group.container(&root, &child, |_| ());
        group.open().freeze().unwrap();
        assert_eq!(Container::open(&root.store(), &c).unwrap().status().unwrap(), Status::Paused);
        assert_eq!(text(delete(&root.store(), &c, Force::No)), "cannot delete container c that is not stopped: paused");
        assert!(child.lives());
        kill(&root.store(), &c, 9, Whom::Init).unwrap();
        wait(|| !child.lives());
        delete(&root.store(), &c, Force::No).unwrap();
        assert!(!group.exists() && root.is_empty(), "{kind}");

        assert_done_soon(kind, || {
            group.make();
            let child = Sleeper::new();
            let c = group.container(&root, &child, |_| ());
            group.open().freeze().unwrap();
            let start = Instant::now();
            delete(&root.store(), &c, Force::Yes).unwrap();
            let took = start.elapsed();
            assert!(!child.lives() && !group.exists() && root.is_empty(), "{kind}");
            took
        });
    }
}

#[test]
fn a_delete_that_was_killed_after_any_step_is_repeated() {
    for (kind, group) in Group::each() {
        let root = Root::new();
        for steps in 0..3 {
            let child = Sleeper::new();
            let c = group.container(&root, &child, |_| ());
            // What an earlier delete has done already.
            if steps > 0 {
                kill(&root.store(), &c, 9, Whom::All).unwrap();
                assert!(group.open().wait_empty(Instant::now() + Duration::from_secs(5)).unwrap());
            }
            if steps > 1 {
                group.open().remove(Instant::now() + Duration::from_secs(5)).unwrap();
            }
            assert_eq!(delete(&root.store(), &c, Force::Yes).unwrap(), [""; 0]);
            assert!(!child.lives() && !group.exists() && root.is_empty(), "{kind} after step {steps}");
            group.make();
        }
    }
}
