//! Many processes, and processes that nobody waits for.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bundle::{Bundle, until, without_namespace};
use crate::debian;

/// The host's pids of processes whose command line contains `text`, zombies included as far as they have one.
fn pids_with(text: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    processes
        .filter(|pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text) && !String::from_utf8_lossy(&line).contains("orlop")
        })
        .collect()
}

/// A number for sleep that no other process has.
fn nap() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("{}.{}", 1_000_000 + std::process::id(), NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

#[test]
fn daemons_live_in_the_background_and_end_with_their_container() {
    let Some(root) = debian::root() else { return };
    for own_pids in [true, false] {
        let nap = nap();
        let daemon =
            "start-stop-daemon --start --background --make-pidfile --pidfile /dev/shm/pid --exec /bin/sleep --";
        let script = format!("{daemon} {nap}; (setsid sleep {nap} &); sleep {nap}");
        let bundle = Bundle::new(&format!("daemons-{own_pids}"), root, &["bash", "-c", &script], |c| {
            if !own_pids {
                without_namespace(c, "pid");
            }
        });
        bundle.detach();
        until("three sleeps", || (pids_with(&nap).len() == 3).then_some(()));
        bundle.orlop(&["delete", "--force", &bundle.id]).ok();
        assert_eq!(pids_with(&nap), [0; 0], "own_pids: {own_pids}");
    }
}

#[test]
fn a_container_without_pid_namespace_whose_init_has_gone_is_deleted_with_its_daemons() {
    let Some(root) = debian::root() else { return };
    let nap = nap();
    let bundle = Bundle::new("orphans", root, &["bash", "-c", &format!("setsid sleep {nap} & exit 6")], |c| {
        without_namespace(c, "pid");
    });
    let done = bundle.run();
    assert_eq!(done.code, 6, "{done:?}");
    assert_eq!(pids_with(&nap), [0; 0]);
}

#[test]
fn a_thousand_children_are_gone_when_delete_returns() {
    let Some(root) = debian::root() else { return };
    let nap = nap();
    for own_pids in [true, false] {
        let script = "import os,sys,time\nfor i in range(1000):\n if os.fork() == 0: time.sleep(1000)\nprint('all', flush=True)\ntime.sleep(1000)";
        let bundle = Bundle::new(&format!("thousand-{own_pids}"), root, &["python3", "-c", script, &nap], |c| {
            c["process"]["rlimits"] = json!([]);
            if !own_pids {
                without_namespace(c, "pid");
            }
        });
        bundle.detach();
        until("a thousand processes", || (pids_with(&nap).len() == 1001).then_some(()));
        let start = Instant::now();
        bundle.orlop(&["delete", "--force", &bundle.id]).ok();
        let took = start.elapsed();
        println!("1,000 children, own pid namespace: {own_pids}: deleted in {took:?}");
        assert_eq!(pids_with(&nap), [0; 0]);
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
}

#[test]
fn signals_are_passed_on_and_exit_statuses_come_back() {
    let Some(root) = debian::root() else { return };
    let bundle = Bundle::new(
        "signals",
        root,
        &["bash", "-c", "trap 'exit 42' TERM; echo up; while :; do sleep 0.1; done"],
        |_| (),
    );
    let mut command = bundle.command();
    command.args(["run", "--bundle", &bundle.path(""), &bundle.id]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut up = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut up).unwrap();
    assert_eq!(up, "up\n");
    assert_eq!(bundle.state()["status"], "running");
    // timeout passes it on, too.
    let pid = orlop_sys::rustix::process::Pid::from_child(&child);
    orlop_sys::rustix::process::kill_process(pid, orlop_sys::rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    // timeout --foreground itself says 124 only when the time was up.
    assert_eq!(status.code(), Some(42));
}

/// The process that joins the container's pid namespace makes another one and then says so. That one may be faster.
#[test]
fn exec_does_not_mind_which_of_its_processes_speaks_first() {
    let Some(root) = debian::root() else { return };
    let bundle = Bundle::new("order", root, &["sleep", "1000"], |_| ());
    bundle.detach();
    for (program, code) in [("true", 0), ("nosuch", 255)] {
        let mut strace = std::process::Command::new("strace");
        let command = bundle.command();
        // What carries an fd comes late; what is only a word does not.
        strace.args(["-f", "-o", "/dev/null", "-e", "trace=sendmsg", "-e", "inject=sendmsg:delay_enter=300000"]);
        strace.arg(command.get_program()).args(command.get_args()).args(["exec", &bundle.id, program]);
        let done = bundle.finish(strace.stdin(Stdio::null()));
        assert_eq!(done.code, code, "{done:?}");
        assert_eq!(done.err.contains("executable file not found"), code != 0, "{done:?}");
    }
}

/// Docker and Podman make 126 and 127 of these phrases, and 125 of any other.
#[test]
fn the_words_for_what_is_no_program_are_those_that_engines_look_for() {
    let Some(root) = debian::root() else { return };
    for (program, phrase) in [
        ("/etc", "permission denied"),
        ("/etc/passwd", "permission denied"),
        ("/no/such", "no such file or directory"),
        ("/etc/passwd/below", "not a directory"),
        ("nosuch", "executable file not found in $PATH"),
    ] {
        let bundle = Bundle::new("words", root, &[program], |_| ());
        let done = bundle.run();
        assert!(done.code != 0, "{done:?}");
        let (_, why) = done.err.split_once("exec: ").unwrap_or_else(|| panic!("{done:?}"));
        assert!(why.contains(program) && why.contains(phrase), "{done:?}");
    }
}
