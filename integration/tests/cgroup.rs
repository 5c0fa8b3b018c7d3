//! Cgroups on the real kernel: made, limited, frozen, killed and removed, in this machine's own layout and in a pure
//! v2 view inside a private mount namespace. Needs root; says so when it is missing.

#![allow(clippy::disallowed_methods, reason = "a test's own paths, on the host")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use orlop::cgroup::{Cgroup, Devices, Layout, Plan, Record, SubCgroup};
use orlop::config::{self, Resources};
use orlop::error::ErrorKind;

/// Set in the process that runs again inside the private mount namespace.
const INSIDE: &str = "ORLOP_TEST_PURE_V2";
const DENY_ALL: &str = r#"{"devices":[{"allow":false,"access":"rwm"}]}"#;

/// The layout to test, or `None` when there is none to be had.
fn layout() -> Option<Layout> {
    if !is_root() {
        println!("SKIP: needs root");
        return None;
    }
    let layout = Layout::probe().unwrap();
    let usable = layout.v1.iter().any(|h| h.controllers.contains("freezer")) || layout.is_v2();
    if !usable {
        println!("SKIP: neither a v1 freezer nor a pure v2 tree is mounted");
    }
    usable.then_some(layout)
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().lines().any(|l| l.starts_with("Uid:\t0\t0"))
}

fn resources(json: &str) -> Resources {
    config::parse("resources", json.as_bytes()).unwrap()
}

fn plan(name: &str, json: &str, layout: &Layout) -> Plan {
    let id = format!("orlop-test-{}-{name}", std::process::id());
    Plan::new(&id, "", Some(&resources(json)), layout, None).unwrap()
}

/// A shell in the cgroup: it moves itself there, then runs `script`.
fn spawn(record: &Record, script: &str) -> Child {
    let mut text = String::new();
    for dir in &record.0 {
        let file = if dir.controllers.is_empty() { "cgroup.procs" } else { "tasks" };
        text += &format!("echo 0 > {}/{file} || exit 99\n", dir.full());
    }
    text += "echo ready\n";
    text += script;
    let mut child = Command::new("/bin/sh").args(["-c", &text]).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    child
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Kills what is left and removes; fails the test if something cannot be removed.
fn finish(cgroup: &Cgroup, child: &mut Child) {
    cgroup.kill_all().unwrap();
    child.wait().unwrap();
    assert!(cgroup.wait_empty(soon()).unwrap());
    cgroup.remove(soon()).unwrap();
    for dir in &cgroup.record().0 {
        assert!(!Path::new(&dir.full()).exists(), "{} is left", dir.full());
    }
}

#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() {
    let Some(layout) = layout() else { return };
    let plan = plan("devices", DENY_ALL, &layout);
    let mut cgroup = Cgroup::create(&plan).unwrap();
    cgroup.apply(&plan).unwrap();
    let dir = std::env::temp_dir().join(format!("orlop-node-{}", std::process::id()));
    // mknod is allowed for every device, opening only for the usual ones.
    let node = dir.display();
    let script = format!(
        "mknod {node} c 1 11 || exit 1; (: < {node}) 2>/dev/null && exit 2; head -c1 /dev/zero >/dev/null || exit 3"
    );
    let status = spawn(&plan.record(), &script).wait().unwrap();
    let _ = fs::remove_file(&dir);
    assert_eq!(status.code(), Some(0));
    // The same again in place: two rules of ours never add up to none.
    let all = resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#);
    let mut later = Cgroup::open(&plan.record()).unwrap();
    later.apply(&Plan::update(&plan.record(), &all).unwrap()).unwrap();
    let mut child = spawn(&plan.record(), ": < /dev/kmsg || exit 4");
    let status = child.wait().unwrap();
    finish(&cgroup, &mut child);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_kernel_takes_every_device_program() {
    if !is_root() {
        println!("SKIP: needs root");
        return;
    }
    // Every set of up to three of these: runs, holes, rules that make others pointless.
    let rules = [
        r#"{"allow":true,"type":"c","access":"rwm"}"#,
        r#"{"allow":true,"type":"b","access":"rwm"}"#,
        r#"{"allow":false,"type":"c","major":1,"access":"w"}"#,
        r#"{"allow":true,"type":"c","minor":4,"access":"rw"}"#,
        r#"{"allow":true,"type":"c","major":4,"minor":4,"access":"rw"}"#,
        r#"{"allow":false,"type":"a","major":7,"access":"m"}"#,
        r#"{"allow":true,"access":"rwm"}"#,
    ];
    for n in 0..rules.len().pow(3) {
        let list = [n % 7, n / 7 % 7, n / 49].map(|i| rules[i]).join(",");
        let devices = Devices::new(&resources(&format!(r#"{{"devices":[{list}]}}"#)).devices).unwrap();
        match orlop_sys::bpf::load_device_filter(&devices.program()) {
            Err(orlop_sys::Errno::PERM) => return println!("SKIP: bpf(2) is not permitted"),
            loaded => drop(loaded.unwrap_or_else(|e| panic!("{e}: {list}: {:?}", devices.program()))),
        }
    }
}

#[test]
fn a_process_that_is_in_the_v1_trees_alone_is_killed_as_well() {
    let Some(layout) = layout().filter(|l| !l.v1.is_empty()) else {
        println!("SKIP: no v1 hierarchies");
        return;
    };
    let plan = plan("v1only", DENY_ALL, &layout);
    let mut cgroup = Cgroup::create(&plan).unwrap();
    cgroup.keep();
    let mut v1 = plan.record();
    v1.0.retain(|d| !d.controllers.is_empty());
    let mut child = spawn(&v1, "sleep 100; :");
    finish(&cgroup, &mut child);
}

#[test]
fn a_delegated_cgroup_belongs_to_the_containers_root() {
    use std::os::unix::fs::MetadataExt;
    let Some(layout) = layout() else { return };
    let id = format!("orlop-test-{}-owner", std::process::id());
    let plan = Plan::new(&id, "", None, &layout, Some(12345)).unwrap();
    let cgroup = Cgroup::create(&plan).unwrap();
    let dir = plan.record().0[0].full();
    let owner = |file: &str| fs::metadata(format!("{dir}/{file}")).unwrap().uid();
    // v1 is never delegated.
    let want = if layout.is_v2() { 12345 } else { 0 };
    assert_eq!((owner("."), owner("cgroup.procs")), (want, want));
    if layout.is_v2() {
        assert_eq!((owner("cgroup.subtree_control"), owner("cgroup.freeze")), (want, 0));
    }
    drop(cgroup);
    assert!(!Path::new(&dir).exists());
}

#[test]
fn a_frozen_container_stands_still_and_can_be_killed() {
    let Some(layout) = layout() else { return };
    let plan = plan("freeze", DENY_ALL, &layout);
    let mut times = Vec::new();
    // On a machine that is busy its end may be late, but not each time.
    while times.len() < 5 && times.iter().all(|time| *time >= Duration::from_millis(500)) {
        times.push(frozen_and_killed(&plan));
    }
    assert!(times.iter().any(|time| *time < Duration::from_millis(500)), "killing a frozen container took {times:?}");
}

/// How long it takes to kill what is frozen.
fn frozen_and_killed(plan: &Plan) -> Duration {
    let mut cgroup = Cgroup::create(plan).unwrap();
    let mut child = spawn(&plan.record(), "while :; do :; done");
    cgroup.keep();
    let cgroup = Cgroup::open(&plan.record()).unwrap();
    assert_eq!(cgroup.pids().unwrap(), [child.id()]);
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.split(' ').nth(13).unwrap().to_owned()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(ticks(), before);
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze().unwrap();
    let start = Instant::now();
    finish(&cgroup, &mut child);
    start.elapsed()
}

#[test]
fn no_process_of_a_fork_storm_escapes() {
    let Some(layout) = layout() else { return };
    let plan = plan("storm", DENY_ALL, &layout);
    let mut cgroup = Cgroup::create(&plan).unwrap();
    cgroup.keep();
    let storm = "for i in 1 2 3 4 5 6 7 8; do (while :; do (sleep 0.02 &) ; done) & done; wait";
    let mut child = spawn(&plan.record(), storm);
    let end = soon();
    while cgroup.pids().unwrap().len() <= 8 {
        assert!(Instant::now() < end, "no storm");
        std::thread::sleep(Duration::from_millis(5));
    }
    finish(&cgroup, &mut child);
}

#[test]
fn sub_cgroups_are_joined_listed_killed_and_removed() {
    let Some(layout) = layout() else { return };
    let plan = plan("sub", DENY_ALL, &layout);
    let mut cgroup = Cgroup::create(&plan).unwrap();
    cgroup.keep();
    let mut inner = plan.record();
    for dir in &mut inner.0 {
        dir.path.push_str("/inner");
        fs::create_dir(dir.full()).unwrap();
        // A v1 cpuset takes nobody before it has CPUs and nodes.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if dir.controllers.contains("cpuset") {
                let above = fs::read(Path::new(&dir.full()).parent().unwrap().join(file)).unwrap();
                fs::write(Path::new(&dir.full()).join(file), above).unwrap();
            }
        }
    }
    let mut child = spawn(&inner, "sleep 100; :");
    assert!(cgroup.pids().unwrap().contains(&child.id()));
    let join = cgroup.join(&[SubCgroup::parse("/inner").unwrap()]).unwrap();
    assert_eq!(join.tasks.len() + usize::from(join.v2.is_some()), plan.record().0.len());
    assert!(cgroup.join(&[SubCgroup::parse("other").unwrap()]).is_err());
    if layout.is_v2() {
        use std::os::fd::AsRawFd;
        let beside = cgroup.join_beside(child.id()).unwrap().v2.unwrap();
        let path = fs::read_link(format!("/proc/self/fd/{}", beside.as_raw_fd())).unwrap();
        assert_eq!(path, Path::new(&inner.0[0].full()));
        assert!(cgroup.join_beside(std::process::id()).is_err());
    }
    let e = Cgroup::create(&plan).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::WrongStatus);
    assert!(e.to_string().starts_with("container's cgroup is not empty: "), "{e}");
    finish(&cgroup, &mut child);
}

#[test]
fn an_abandoned_creation_leaves_nothing_and_a_missing_cgroup_is_removed_already() {
    let Some(layout) = layout() else { return };
    let id = format!("orlop-test-{}-drop", std::process::id());
    let plan = Plan::new("x", &format!("/{id}/a/b"), Some(&resources(DENY_ALL)), &layout, None).unwrap();
    let cgroup = Cgroup::create(&plan).unwrap();
    let dirs = plan.record().0;
    assert!(dirs.iter().all(|d| Path::new(&d.full()).exists()));
    drop(cgroup);
    for dir in &dirs {
        assert!(!Path::new(&format!("{}/{id}", dir.mount)).exists(), "{}/{id} is left", dir.mount);
    }
    let gone = Cgroup::open(&plan.record()).unwrap();
    gone.kill_all().unwrap();
    assert!(gone.wait_empty(Instant::now()).unwrap());
    assert!(!gone.is_frozen().unwrap());
    assert!(gone.pids().unwrap().is_empty());
    gone.remove(Instant::now()).unwrap();
}

#[test]
fn v1_limits_are_in_force_and_change_in_either_order() {
    let Some(layout) = layout().filter(|l| l.v1.iter().any(|h| h.controllers == "memory")) else {
        println!("SKIP: no v1 memory controller");
        return;
    };
    let limits = |memory: u64, quota: u32| {
        format!(
            r#"{{"memory":{{"limit":{memory},"swap":{memory},"reservation":1048576,"swappiness":10}},
                "cpu":{{"shares":512,"period":50000,"quota":{quota},"cpus":"0","mems":"0"}},"pids":{{"limit":20}}}}"#
        )
    };
    let plan = plan("limits", &limits(32 << 20, 25_000), &layout);
    let mut cgroup = Cgroup::create(&plan).unwrap();
    let record = plan.record();
    let value = |controller: &str, file: &str| {
        let dir = record.0.iter().find(|d| d.controllers == controller).unwrap();
        fs::read_to_string(format!("{}/{file}", dir.full())).unwrap_or_default().trim().to_owned()
    };
    cgroup.apply(&plan).unwrap();
    for (controller, file, want) in [
        ("memory", "memory.limit_in_bytes", "33554432"),
        ("memory", "memory.memsw.limit_in_bytes", "33554432"),
        ("memory", "memory.soft_limit_in_bytes", "1048576"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_period_us", "50000"),
        ("cpu", "cpu.cfs_quota_us", "25000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "20"),
    ] {
        assert_eq!(value(controller, file), want, "{file}");
    }
    for memory in [64 << 20, 16 << 20] {
        cgroup.apply(&Plan::update(&record, &resources(&limits(memory, 10_000))).unwrap()).unwrap();
        assert_eq!(value("memory", "memory.limit_in_bytes"), memory.to_string());
        assert_eq!(value("memory", "memory.memsw.limit_in_bytes"), memory.to_string());
    }
    let holder = "(head -c 12000000 /dev/zero; sleep 100) | tail -c 12000000 > /dev/null; :";
    let mut child = spawn(&record, holder);
    let end = soon();
    while value("memory", "memory.usage_in_bytes").parse::<u64>().unwrap() < 12_000_000 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let small = Plan::update(&record, &resources(r#"{"memory":{"limit":4194304,"swap":4194304}}"#)).unwrap();
    let e = cgroup.apply(&small).unwrap_err().to_string();
    assert!(
        e.starts_with("linux.resources.memory.limit: unable to set memory limit to 4194304 (current usage: "),
        "{e}"
    );
    cgroup.kill_all().unwrap();
    child.wait().unwrap();
    assert!(cgroup.wait_empty(soon()).unwrap());
    let eater = "head -c 60000000 /dev/zero | tail -c 60000000 > /dev/null; sleep 100";
    let mut child = spawn(&record, eater);
    let end = soon();
    while cgroup.oom_kills() == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let kills = cgroup.oom_kills();
    finish(&cgroup, &mut child);
    assert!(kills > 0);
}

#[test]
fn v2_controllers_are_handed_down_the_whole_path_and_missing_ones_are_named() {
    let Some(layout) = layout().filter(Layout::is_v2) else {
        println!("SKIP: not a pure v2 host");
        return;
    };
    let id = format!("orlop-test-{}-down", std::process::id());
    let at = |json: &str| Plan::new("x", &format!("/{id}/a/b"), Some(&resources(json)), &layout, None).unwrap();
    let plan = at(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#);
    let dir = plan.record().0[0].full();
    let mut cgroup = Cgroup::create(&plan).unwrap();
    let controllers = |dir: &str| fs::read_to_string(format!("{dir}/cgroup.controllers")).unwrap();
    assert_eq!(controllers(&dir), controllers("/sys/fs/cgroup"));
    if controllers(&dir).contains("hugetlb") && Path::new(&format!("{dir}/hugetlb.2MB.max")).exists() {
        cgroup.apply(&plan).unwrap();
        for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
            assert_eq!(fs::read_to_string(format!("{dir}/{file}")).unwrap(), "4194304\n");
        }
    } else {
        println!("skipped in part: no hugetlb controller");
    }
    let e = cgroup.apply(&at(r#"{"unified":{"nonesuch.max":"1"}}"#)).unwrap_err();
    let want = "linux.resources.unified.nonesuch.max: the cgroup controller nonesuch is not available";
    assert_eq!((e.to_string().as_str(), e.kind()), (want, ErrorKind::Unsupported));
    let e = cgroup.apply(&at(r#"{"unified":{"cgroup.max.depth":"x"}}"#)).unwrap_err().to_string();
    assert!(e.contains("cgroup.max.depth: EINVAL"), "{e}");
    drop(cgroup);
    assert!(!Path::new(&format!("/sys/fs/cgroup/{id}")).exists());
}

/// Everything above again, where v2 is all there is.
#[test]
fn a_pure_v2_view_serves_as_well() {
    if std::env::var_os(INSIDE).is_some() || !is_root() {
        return;
    }
    let view = "mount --make-rprivate / && grep -o ' /sys/fs/cgroup[^ ]*' /proc/self/mountinfo | sort -r |
        while read m; do umount -l $m; done; mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" --test-threads=1";
    let output = Command::new("unshare")
        .args(["-m", "/bin/sh", "-c", view])
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}

/// Figures: `cargo test -p orlop-integration --release --test cgroup -- --ignored --nocapture cost`.
#[test]
#[ignore = "prints figures, checks nothing"]
fn cost() {
    let Some(layout) = layout() else { return };
    let config = resources(DENY_ALL);
    let mut steps = [const { Vec::new() }; 5];
    for i in 0..200 {
        let id = format!("orlop-cost-{}-{i}", std::process::id());
        let mut at = Instant::now();
        let mut lap = |step: usize| {
            steps[step].push(at.elapsed());
            at = Instant::now();
        };
        let _ = Layout::probe().unwrap();
        lap(0);
        let plan = Plan::new(&id, "", Some(&config), &layout, None).unwrap();
        lap(1);
        let mut cgroup = Cgroup::create(&plan).unwrap();
        lap(2);
        cgroup.apply(&plan).unwrap();
        cgroup.keep();
        lap(3);
        cgroup.remove(Instant::now()).unwrap();
        lap(4);
    }
    for (name, times) in ["probe", "plan", "create", "apply", "remove"].iter().zip(&mut steps) {
        times.sort();
        println!("{name}: median {:?}, 90 % {:?}", times[100], times[180]);
    }
}
