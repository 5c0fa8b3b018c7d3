//! A state root and records for the tests beside this folder.

#![allow(dead_code, reason = "each test program uses its part")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use orlop::Result;
use orlop::container::{boot_id, now, process};
use orlop::store::{ContainerId, Intent, Namespace, Record, Store};

/// A state root of the test's own, removed at its end.
pub(crate) struct Root(pub(crate) PathBuf);

impl Root {
    /// In memory, as /run is, where there is such a place.
    pub(crate) fn new() -> Self {
        let memory = PathBuf::from("/dev/shm");
        Self::below(if memory.is_dir() { memory } else { std::env::temp_dir() })
    }

    /// Where records are synced to the disk, unless /tmp is in memory, too.
    pub(crate) fn on_disk() -> Self {
        Self::below(std::env::temp_dir())
    }

    fn below(folder: PathBuf) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("orlop-store-{}-{n}", std::process::id()));
        Store::create(&path).unwrap();
        Self(path)
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.0).unwrap()
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }

    pub(crate) fn is_empty(&self) -> bool {
        fs::read_dir(&self.0).unwrap().next().is_none()
    }

    /// What create leaves for a container whose init is `child`.
    pub(crate) fn container(&self, name: &str, change: impl FnOnce(&mut Record)) -> ContainerId {
        let id = id(name);
        let store = self.store();
        let claim = store.claim(&id).unwrap();
        claim.intent(&intent(name)).unwrap();
        let mut record = record(name);
        change(&mut record);
        claim.record(&record).unwrap();
        claim.keep();
        id
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child of the test that is killed and reaped at its end.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn new() -> Self {
        Self(Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub(crate) fn is_init_of(&self, record: &mut Record) {
        record.pid = self.pid();
        record.start_time = process(self.pid()).unwrap().unwrap().start_time;
    }

    pub(crate) fn lives(&self) -> bool {
        !process(self.pid()).unwrap().unwrap().is_zombie
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn id(name: &str) -> ContainerId {
    ContainerId::parse(name).unwrap()
}

pub(crate) fn intent(name: &str) -> Intent {
    Intent { id: name.into(), boot_id: boot_id().unwrap().into(), cgroup: None }
}

/// The record of a container whose init is dead.
pub(crate) fn record(name: &str) -> Record {
    Record {
        id: name.into(),
        oci_version: "1.3.0".into(),
        boot_id: boot_id().unwrap().into(),
        pid: i32::MAX,
        start_time: 1,
        bundle: "/bundle".into(),
        rootfs: "/bundle/rootfs".into(),
        created: now(),
        namespaces: vec![Namespace { kind: "pid".into(), path: None }],
        ..Record::default()
    }
}

pub(crate) fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

/// Waits up to 20 s.
pub(crate) fn wait(done: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < give_up);
        std::thread::sleep(Duration::from_millis(1));
    }
}
