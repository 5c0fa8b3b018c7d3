//! The streams of a process: FIFOs, files and logging programs, in good times and bad.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

use orlop_shim::client::number;
use orlop_shim::message::any;
use orlop_shim::wire::Message;
use orlop_sys::rustix::io::ioctl_fionread;
use serde_json::{Value as Json, json};

use crate::{Client, Place, assert_shim_answers_at_once, skipped};

/// How long a delete waits for output that nobody reads.
const DRAIN: Duration = Duration::from_secs(10);

#[test]
fn much_output_arrives_whole_and_a_reader_that_stalls_holds_nobody_else_up() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["head", "-c", "3000000", "/dev/zero"]);
    let mut client = place.start();
    client.call("Create", &place.create()).unwrap();
    let mut fifo = fs::File::open(place.path("out")).unwrap();
    client.process("Start", "").unwrap();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(number(&client.process("State", "").unwrap(), 4), 2);
    let mut output = Vec::new();
    fifo.read_to_end(&mut output).unwrap();
    assert_eq!(output.len(), 3_000_000);
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
    client.process("Delete", "").unwrap();
}

#[test]
fn input_ends_when_containerd_says_so() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["cat"]);
    let mut client = place.start();
    let output = place.reader("out");
    client.call("Create", &place.create().text(5, &place.path("in"))).unwrap();
    client.process("Start", "").unwrap();
    fs::write(place.path("in"), "one\n").unwrap();
    // Its writer has gone, but that is not the end: another may come.
    thread::sleep(Duration::from_millis(100));
    assert_eq!(number(&client.process("State", "").unwrap(), 4), 2);
    fs::write(place.path("in"), "two\n").unwrap();
    client.call("CloseIO", &Message::new().text(1, "c1").flag(3, true)).unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
    assert_eq!(output.join().unwrap(), b"one\ntwo\n");
    client.process("Delete", "").unwrap();
}

/// A Create whose streams go where these say.
fn create(place: &Place, stdout: &str, stderr: &str, terminal: bool) -> Message {
    let options = any("containerd.runc.v1.Options", &Message::new().text(7, &place.path("root")).0);
    let message = Message::new().text(1, "c1").text(2, &place.bundle()).flag(4, terminal);
    message.text(6, stdout).text(7, stderr).message(10, &options)
}

fn run(client: &mut Client, request: &Message) -> u64 {
    client.call("Create", request).unwrap();
    client.process("Start", "").unwrap();
    let status = number(&client.process("Wait", "").unwrap(), 1);
    client.process("Delete", "").unwrap();
    status
}

/// A logging program of the place's own; the URI without its scheme.
fn logger(place: &Place, script: &str) -> String {
    let path = place.path("logger");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// What is in a file, as soon as it is what it should be.
fn wait_for(path: &str, is_it: impl Fn(&str) -> bool) -> String {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if is_it(&text) || Instant::now() > end {
            return text;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn terminal(config: &mut Json) {
    config["process"]["terminal"] = json!(true);
}

#[test]
fn a_logging_program_has_both_streams_its_arguments_and_no_more() {
    if skipped() {
        return;
    }
    for (scheme, ready) in [("binary", "exec 5>&-"), ("binary-v2", "echo >&5; exec 5>&-")] {
        let mut place = Place::new(&["sh", "-c", "echo to out; echo to err >&2"]);
        let (log, told) = (place.path("log"), place.path("told"));
        let script = format!(
            "echo \"$*\" > {told}; tr '\\0' '\\n' < /proc/$$/environ | sort >> {told}\n\
             ls /proc/self/fd | tr '\\n' ' ' >> {told}\n{ready}\n\
             sed s/^/1:/ <&3 >> {log} & sed s/^/2:/ <&4 >> {log}; wait; sleep 0.3; echo end >> {log}"
        );
        let uri = format!("{scheme}://{}?key=a+b&other=%2fx", logger(&place, &script));
        let mut client = place.start();
        assert_eq!(run(&mut client, &create(&place, &uri, &uri, false)), 0);
        let said = wait_for(&log, |text| text.ends_with("end\n"));
        let mut lines: Vec<_> = said.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["1:to out", "2:to err", "end"]);
        let told = fs::read_to_string(told).unwrap();
        // The last descriptor is that of `ls`.
        let want = "key a b other /x\nCONTAINER_ID=c1\nCONTAINER_NAMESPACE=test\n0 1 2 3 4 5 6 ";
        assert_eq!(told, want);
    }
}

#[test]
fn a_logging_program_that_is_not_ready_fails_the_create() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    let mut client = place.start();
    let silent = format!("binary-v2://{}", logger(&place, "exit 0"));
    for (uri, why) in [(silent.as_str(), "ended without being ready"), ("binary:///nowhere", "/nowhere: ENOENT")] {
        let (_, said) = client.call("Create", &create(&place, uri, uri, false)).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    // Nor does one hold anybody up that says nothing and does not end.
    let uri = format!("binary://{}", logger(&place, "exec sleep 1000"));
    let began = Instant::now();
    let hangs = client.send("Create", &create(&place, &uri, &uri, false));
    assert_shim_answers_at_once(place.shim(), || assert_eq!(number(&client.process("State", "").unwrap(), 4), 1));
    let (_, said) = client.receive(hangs).unwrap_err();
    assert!(said.contains("ETIMEDOUT") && began.elapsed() < Duration::from_secs(12), "{said}");
    assert_eq!(client.process("State", "").unwrap_err().0, 5);
}

#[test]
fn a_logging_program_that_dies_takes_nobody_with_it() {
    if skipped() {
        return;
    }
    for kind in [false, true] {
        // More than any pipe holds, before and after.
        let script = "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 5";
        let mut place = Place::with(&["sh", "-c", script], |config| config["process"]["terminal"] = json!(kind));
        let uri = format!("binary://{}", logger(&place, "exec 5>&-; head -c 1000 <&3 >/dev/null; exit 1"));
        let mut client = place.start();
        assert_eq!(run(&mut client, &create(&place, &uri, &uri, kind)), 5);
    }
}

#[test]
fn a_file_takes_both_streams_and_what_a_terminal_shows() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["sh", "-c", "echo to out; echo to err >&2"]);
    let file = place.path("new/folder/a file");
    let uri = format!("file://{}", file.replace(' ', "%20"));
    let mut client = place.start();
    for count in 1..3 {
        assert_eq!(run(&mut client, &create(&place, &uri, &uri, false)), 0);
        assert_eq!(fs::read_to_string(&file).unwrap(), "to out\nto err\n".repeat(count));
    }

    let mut place = Place::with(&["sh", "-c", "head -c 300000 /dev/zero | busybox tr '\\0' x; echo; tty"], terminal);
    let file = place.path("out.log");
    fs::write(&file, "before\n").unwrap();
    let mut client = place.start();
    let request = create(&place, &format!("file://{file}"), "", true);
    assert_eq!(run(&mut client, &request), 0);
    let shown = fs::read_to_string(&file).unwrap();
    let want = format!("before\n{}\r\n/dev/", "x".repeat(300_000));
    assert!(shown.starts_with(&want), "{} bytes: {:?}", shown.len(), shown.get(..20));
}

#[test]
fn a_terminal_is_shown_to_a_logging_program() {
    if skipped() {
        return;
    }
    let mut place = Place::with(&["sh", "-c", "tty; echo to err >&2"], terminal);
    let log = place.path("log");
    let uri = format!("binary://{}", logger(&place, &format!("exec 5>&-; cat <&3 > {log}; echo end >> {log}")));
    let mut client = place.start();
    assert_eq!(run(&mut client, &create(&place, &uri, "", true)), 0);
    assert_eq!(wait_for(&log, |text| text.ends_with("end\n")), "/dev/pts/0\r\nto err\r\nend\n");
}

#[test]
fn nothing_is_lost_when_a_process_ends_before_its_output_is_read() {
    if skipped() {
        return;
    }
    // As much as a pipe holds also for a user who has too many of them (pipe(7), pipe-user-pages-soft).
    let mut place = Place::new(&["sh", "-c", "head -c 4000 /dev/zero; echo to err >&2"]);
    let mut client = place.start();
    for _ in 0..5 {
        client.call("Create", &create(&place, &place.path("out"), &place.path("err"), false)).unwrap();
        let [mut out, mut err] = ["out", "err"].map(|name| fs::File::open(place.path(name)).unwrap());
        client.process("Start", "").unwrap();
        assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
        let delete = client.send("Delete", &Message::new().text(1, "c1"));
        thread::sleep(Duration::from_millis(100));
        let (mut output, mut errors) = (Vec::new(), String::new());
        out.read_to_end(&mut output).unwrap();
        err.read_to_string(&mut errors).unwrap();
        assert_eq!((output.len(), errors.as_str()), (4000, "to err\n"));
        client.receive(delete).unwrap();
    }
}

// containerd's client closes its FIFOs as soon as it hears of the end. A reader that is kept from reading for too long is not
// waited for, which on a busy machine may happen, but not each time.
#[test]
fn an_end_is_told_when_a_reader_has_all_that_was_said_before_it() {
    if skipped() {
        return;
    }
    // As much as both pipes hold: it has ended long before that is read.
    let mut place = Place::new(&["head", "-c", "100000", "/dev/zero"]);
    place.listen();
    let mut client = place.start();
    let mut unread = Vec::new();
    for round in 1..=5 {
        client.call("Create", &place.create()).unwrap();
        let mut fifo = fs::File::open(place.path("out")).unwrap();
        let seen = fifo.try_clone().unwrap();
        client.process("Start", "").unwrap();
        let reader = thread::spawn(move || {
            let (mut buffer, mut got) = ([0; 4096], 0);
            while let Ok(n @ 1..) = fifo.read(&mut buffer) {
                got += n;
                thread::sleep(Duration::from_millis(2));
            }
            got
        });
        assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
        let left = ioctl_fionread(&seen).unwrap();
        assert_eq!(place.events(4 * round - 1).last().unwrap(), "/tasks/exit");
        assert_eq!(reader.join().unwrap(), 100_000);
        client.process("Delete", "").unwrap();
        if left == 0 {
            return;
        }
        unread.push(left);
    }
    panic!("bytes that were not read when the end was told: {unread:?}");
}

#[test]
fn an_end_is_told_also_if_nobody_reads_and_a_delete_does_not_wait_for_it() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["head", "-c", "4000", "/dev/zero"]);
    place.listen();
    let mut client = place.start();
    client.call("Create", &place.create()).unwrap();
    client.process("Start", "").unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
    client.process("Delete", "").unwrap();

    // A second one is deleted as soon as it has ended, whether that was told or not.
    client.call("Create", &place.create()).unwrap();
    client.process("Start", "").unwrap();
    let wait = client.send("Wait", &Message::new().text(1, "c1"));
    while number(&client.process("State", "").unwrap(), 4) != 3 {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(number(&client.process("Delete", "").unwrap(), 2), 0);
    assert_eq!(number(&client.receive(wait).unwrap(), 1), 0);
    let told = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
    assert_eq!(place.events(8), [told, told].concat());
}

#[test]
fn a_reader_may_leave_and_another_one_come() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["sh", "-c", "echo one; sleep 0.4; echo two; sleep 0.4; echo three"]);
    let mut client = place.start();
    client.call("Create", &create(&place, &place.path("out"), "", false)).unwrap();
    let mut first = fs::File::open(place.path("out")).unwrap();
    client.process("Start", "").unwrap();
    let mut buffer = [0; 64];
    let length = first.read(&mut buffer).unwrap();
    drop(first);
    thread::sleep(Duration::from_millis(600));
    let rest = place.reader("out").join().unwrap();
    assert_eq!((&buffer[..length], &rest[..]), (&b"one\n"[..], &b"two\nthree\n"[..]));
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
    client.process("Delete", "").unwrap();
}

#[test]
fn a_fifo_that_nobody_reads_holds_a_delete_up_for_a_while_and_nothing_else() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["sh", "-c", "head -c 3000000 /dev/zero & sleep 1000"]);
    place.listen();
    let mut client = place.start();
    client.call("Create", &create(&place, &place.path("out"), &place.path("err"), false)).unwrap();
    client.process("Start", "").unwrap();
    thread::sleep(Duration::from_millis(300));
    let killed = Instant::now();
    client.kill(9).unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 137);
    assert_eq!(place.events(3).last().unwrap(), "/tasks/exit");
    assert!(killed.elapsed() < DRAIN / 2);
    let delete = client.send("Delete", &Message::new().text(1, "c1"));
    assert_shim_answers_at_once(place.shim(), || assert_eq!(number(&client.process("State", "").unwrap(), 4), 3));
    client.receive(delete).unwrap();
    assert!(killed.elapsed() < DRAIN + Duration::from_secs(2), "{:?}", killed.elapsed());
}

#[test]
fn much_input_arrives_whole_at_a_process_that_takes_its_time() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["sh", "-c", "sleep 0.3; busybox wc -c"]);
    let mut client = place.start();
    let output = place.reader("out");
    client.call("Create", &create(&place, &place.path("out"), "", false).text(5, &place.path("in"))).unwrap();
    client.process("Start", "").unwrap();
    let mut input = fs::File::options().write(true).open(place.path("in")).unwrap();
    let writer = thread::spawn(move || input.write_all(&vec![7; 3_000_000]).unwrap());
    client.call("CloseIO", &Message::new().text(1, "c1").flag(3, true)).unwrap();
    writer.join().unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
    assert_eq!(output.join().unwrap(), b"3000000\n");
    client.process("Delete", "").unwrap();
}
