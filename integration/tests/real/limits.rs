//! Limits that are seen to bite.

use std::fs;

use serde_json::json;

use crate::bundle::Bundle;
use crate::debian;

/// Fills memory until it is stopped.
const EATER: &str = "x=[]\nfor i in range(200): x.append(bytearray(b'x'*(1<<20)))\nprint('alive')";

fn has_v1(controller: &str) -> bool {
    let there = fs::exists(format!("/sys/fs/cgroup/{controller}/tasks")).unwrap();
    if !there {
        println!("SKIP: no v1 controller {controller}");
    }
    there
}

#[test]
fn a_process_out_of_memory_is_killed_and_its_container_lives_on() {
    let Some(root) = debian::root().filter(|_| has_v1("memory")) else { return };
    let script = format!("python3 -c \"{EATER}\"; echo status=$? >/tmp/said; sleep 1000");
    let bundle = Bundle::new("oom", root, &["bash", "-c", &script], |c| {
        c["linux"]["resources"]["memory"] = json!({ "limit": 32 << 20, "swap": 32 << 20 });
        crate::bundle::push(c, "mounts", json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" }));
    });
    bundle.detach();
    let said = crate::bundle::until("the end of python", || {
        let done = bundle.exec(&["cat", "/tmp/said"]);
        (done.out.ends_with('\n')).then_some(done.out)
    });
    assert_eq!(said, "status=137\n");
    assert_eq!(bundle.cgroup_file("memory", "memory.limit_in_bytes").trim(), "33554432");
    let control = bundle.cgroup_file("memory", "memory.oom_control");
    assert!(control.contains("oom_kill 1\n"), "{control}");
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn an_init_out_of_memory_ends_its_container_with_137() {
    let Some(root) = debian::root().filter(|_| has_v1("memory")) else { return };
    let bundle = Bundle::new("oominit", root, &["python3", "-c", EATER], |c| {
        c["linux"]["resources"]["memory"] = json!({ "limit": 32 << 20, "swap": 32 << 20 });
    });
    let done = bundle.run();
    assert_eq!((done.code, done.out.as_str()), (137, ""), "{done:?}");
}

#[test]
fn a_limit_too_small_for_the_start_is_named_as_the_cause() {
    let Some(root) = debian::root().filter(|_| has_v1("memory")) else { return };
    for limit in [4 << 10, 32 << 10, 64 << 10] {
        let bundle = Bundle::new(&format!("tiny-{limit}"), root, &["true"], |c| {
            c["linux"]["resources"]["memory"] = json!({ "limit": limit, "swap": limit });
        });
        let done = bundle.run();
        println!("limit {limit}: {done:?}");
        assert!(done.code != 0, "{done:?}");
        // Killed before it was the user's program: the reason is said. After: the status says it.
        assert!(done.code == 137 || done.err.contains("OOM-killed"), "{limit}: {done:?}");
        assert!(!done.err.contains("timeout"), "{done:?}");
    }
}

#[test]
fn a_quota_of_a_fifth_of_a_cpu_is_kept() {
    let Some(root) = debian::root().filter(|_| has_v1("cpu")) else { return };
    let spin = "import time\nt=time.monotonic()\nwhile time.monotonic()-t < 3: pass\nprint(time.process_time()/(time.monotonic()-t))";
    let bundle = Bundle::new("quota", root, &["python3", "-c", spin], |c| {
        c["linux"]["resources"]["cpu"] = json!({ "quota": 20_000, "period": 100_000 });
    });
    let share: f64 = bundle.run().ok().trim().parse().unwrap();
    println!("0.2 CPU: used {share:.3}");
    assert!((0.05..0.30).contains(&share), "{share}");
}

#[test]
fn the_limit_of_processes_stops_a_fork_bomb() {
    let Some(root) = debian::root().filter(|_| has_v1("pids")) else { return };
    let bomb = "import os,time\nn=0\ntry:\n for i in range(100):\n  if os.fork()==0: time.sleep(100)\n  n+=1\nexcept BlockingIOError as e: print(n, e)";
    let bundle = Bundle::new("pids", root, &["python3", "-c", bomb], |c| {
        c["linux"]["resources"]["pids"] = json!({ "limit": 10 });
    });
    assert_eq!(bundle.run().ok(), "9 [Errno 11] Resource temporarily unavailable\n");
}
