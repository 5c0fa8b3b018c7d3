//! The shim as containerd sees it: its program is started, spoken to over its socket, and heard by a stand-in for
//! containerd's own. Needs root and a static busybox.

#![allow(clippy::disallowed_methods, reason = "the paths are the test's own")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is a test"
)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use orlop_shim::client::{self, Answer, bytes, number, text};
use orlop_shim::message::any;
use orlop_shim::wire::{Fields, Message};
use orlop_sys::rustix::fs::{CWD, Mode, mkfifoat};
use orlop_sys::rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};

use common::{BUSYBOX, PATIENCE, make_bundle, skipped, wait_for_end};

#[path = "../common/mod.rs"]
mod common;
mod creating;
mod delete;
mod events;
mod hostile;
mod inside;
mod io;
mod leaks;
mod mounts;
mod pods;
mod start;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-orlop-v2");

/// What was heard of: topics, and what the events say.
type Heard = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A place with a bundle, and a shim for it.
struct Place {
    dir: PathBuf,
    heard: Heard,
    pids: Vec<u32>,
}

impl Place {
    fn new(args: &[&str]) -> Self {
        Self::with(args, |_| {})
    }

    fn with(args: &[&str], change: impl FnOnce(&mut Json)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: a socket's path has room for 107 bytes, and its name takes 64.
        let dir = PathBuf::from(format!("/tmp/orlop-{}-{n}", std::process::id()));
        let cgroup = format!("/orlop-shim-test-{}-{n}", std::process::id());
        make_bundle(&dir.join("t/c1"), &cgroup, args, change);
        for name in ["in", "out", "err"] {
            mkfifoat(CWD, dir.join(name), Mode::RUSR | Mode::WUSR).unwrap();
        }
        Self { dir, heard: Heard::default(), pids: Vec::new() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn bundle(&self) -> String {
        self.path("t/c1")
    }

    /// Stands in for containerd: answers events, and keeps them.
    fn listen(&self) {
        let listener = UnixListener::bind(self.dir.join("events")).unwrap();
        let heard = Arc::clone(&self.heard);
        let keep = move |topic: &str, body: &[u8]| heard.lock().unwrap().push((topic.to_owned(), body.to_vec()));
        thread::spawn(move || client::hear(&listener, keep));
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new(SHIM);
        let socket = self.path("c.sock");
        // Helpers of a test's own come first.
        let path = format!("{}:{}", self.path("bin"), std::env::var("PATH").unwrap_or_default());
        command
            .env("PATH", path)
            .args(["-namespace", "test", "-address", socket.as_str(), "-publish-binary", "/none", "-id", "c1", word])
            .current_dir(self.bundle())
            .env("TTRPC_ADDRESS", self.path("events"));
        command
    }

    /// One with a container that sleeps, and a client. `prepare` comes before the shim.
    fn sleeping(prepare: impl FnOnce(&Self)) -> (Self, Client) {
        let mut place = Self::new(&["sleep", "1000000"]);
        prepare(&place);
        let mut client = place.start();
        client.call("Create", &place.create()).unwrap();
        client.process("Start", "").unwrap();
        (place, client)
    }

    /// Runs `start` as containerd 2.3 does, which tells where sockets go. A client of the daemon.
    fn start(&mut self) -> Client {
        self.start_by(self.command("start"), &Message::new())
    }

    /// What containerd 2.3 says to `start`.
    fn bootstrap(&self) -> Message {
        Message::new().text(1, "c1").text(2, "test").text(9, &self.path("s"))
    }

    /// The same by a command of one's own, which is told `more` on its stdin.
    fn start_by(&mut self, command: Command, more: &Message) -> Client {
        let output = tell(command, &[self.bootstrap().0, more.0.clone()].concat());
        assert!(output.status.success(), "{output:?}");
        assert_eq!((number(&output.stdout, 1), text(&output.stdout, 3)), (3, "ttrpc"));
        let address = text(&output.stdout, 2);
        assert_eq!(fs::read_to_string(self.dir.join("t/c1/address")).unwrap(), address);
        let mut client = Client::new(address);
        let connected = client.call("Connect", &Message::new().text(1, "c1")).unwrap();
        self.pids.push(number(&connected, 1) as u32);
        client
    }

    fn address(&self) -> String {
        fs::read_to_string(self.dir.join("t/c1/address")).unwrap()
    }

    /// One more client of the daemon.
    fn connect(&self) -> Client {
        Client::new(&self.address())
    }

    /// A connection to it without a client.
    fn raw(&self) -> UnixStream {
        UnixStream::connect(self.address().strip_prefix("unix://").unwrap()).unwrap()
    }

    fn create(&self) -> Message {
        self.create_by("")
    }

    /// By another runtime, if one is named.
    fn create_by(&self, runtime: &str) -> Message {
        let root = Message::new().text(6, runtime).text(7, &self.path("root"));
        Message::new()
            .text(1, "c1")
            .text(2, &self.bundle())
            .text(6, &self.path("out"))
            .message(10, &any("containerd.runc.v1.Options", &root.0))
    }

    /// Waits for events, and gives their topics.
    fn events(&self, count: usize) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        while self.heard.lock().unwrap().len() < count && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        self.heard.lock().unwrap().iter().map(|(topic, _)| topic.clone()).collect()
    }

    /// All that a reader of a FIFO gets until its end.
    fn reader(&self, name: &str) -> thread::JoinHandle<Vec<u8>> {
        let path = self.path(name);
        thread::spawn(move || fs::read(path).unwrap())
    }

    fn shim(&self) -> u32 {
        *self.pids.last().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in &self.pids {
            let _ = kill_process(pid_of(*pid), Signal::KILL);
        }
        let delete = self.command("delete").stdin(Stdio::null()).output();
        let _ = fs::remove_dir_all(&self.dir);
        if !thread::panicking() {
            assert!(delete.unwrap().status.success());
        }
    }
}

/// How long a process, or rather its first thread, has waited for a processor (nothing, where the kernel does not count).
fn waited(process: &str) -> Duration {
    let counts = fs::read_to_string(format!("/proc/{process}/schedstat")).unwrap_or_default();
    Duration::from_nanos(counts.split_whitespace().nth(1).map_or(0, |count| count.parse().unwrap()))
}

/// Sees that a question is answered at once, as often as it is asked: containerd gives up after two seconds, but nothing
/// may hold an answer up at all. The time that the shim or we wait for a processor does not count.
fn assert_shim_answers_at_once(shim: u32, mut ask: impl FnMut()) {
    let all_waited = || waited("thread-self") + waited(&shim.to_string());
    let time = |_| {
        let (asked, before) = (Instant::now(), all_waited());
        ask();
        let answered = asked.elapsed().saturating_sub(all_waited() - before);
        thread::sleep(Duration::from_millis(20));
        answered
    };
    let mut times: Vec<_> = (0..20).map(time).collect();
    times.sort_unstable();
    assert!(times[14] < Duration::from_millis(50) && times[19] < Duration::from_millis(500), "{times:?}");
}

/// Sees that something takes less than half a second, where containerd waits for five. On a machine that is busy it may
/// be late, but not each time.
fn assert_done_soon(mut attempt: impl FnMut() -> Duration) {
    let mut times = Vec::new();
    while times.len() < 5 {
        let time = attempt();
        assert!(time < Duration::from_secs(5), "{time:?}");
        if time < Duration::from_millis(500) {
            return;
        }
        times.push(time);
    }
    panic!("{times:?}");
}

/// Runs a command with something on its stdin.
fn tell(mut command: Command, input: &[u8]) -> Output {
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// A client that speaks both versions of the service, in turns.
struct Client(client::Client);

impl Client {
    fn new(address: &str) -> Self {
        Self(client::Client::new(address, PATIENCE).unwrap())
    }

    fn send(&mut self, method: &str, payload: &Message) -> u32 {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let turn = COUNT.fetch_add(1, Ordering::Relaxed);
        let service = if turn.is_multiple_of(2) { "containerd.task.v2.Task" } else { "containerd.task.v3.Task" };
        self.send_to(service, method, payload)
    }

    fn send_to(&mut self, service: &str, method: &str, payload: &Message) -> u32 {
        self.0.send(service, method, payload).unwrap()
    }

    fn receive(&mut self, stream: u32) -> Answer {
        self.0.receive(stream).unwrap()
    }

    fn call(&mut self, method: &str, payload: &Message) -> Answer {
        let stream = self.send(method, payload);
        self.receive(stream)
    }

    fn process(&mut self, method: &str, exec: &str) -> Answer {
        self.call(method, &Message::new().text(1, "c1").text(2, exec))
    }

    fn kill(&mut self, signal: u32) -> Answer {
        self.call("Kill", &Message::new().text(1, "c1").number(3, signal))
    }

    /// Ends a container by force, and deletes it.
    fn end(&mut self) {
        self.kill(9).unwrap();
        assert_eq!(number(&self.process("Wait", "").unwrap(), 1), 137);
        self.process("Delete", "").unwrap();
    }

    fn exec(&mut self, name: &str, args: &[&str], out: &str) -> Answer {
        let process = json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        let spec = any("types.containerd.io/opencontainers/runtime-spec/1/Process", process.to_string().as_bytes());
        let request = Message::new().text(1, "c1").text(2, name).text(5, out).message(7, &spec);
        self.call("Exec", &request)
    }
}

#[test]
fn a_container_lives_and_dies_and_containerd_hears_of_it_in_order() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["sh", "-c", "echo hello; exit 7"]);
    place.listen();
    let mut client = place.start();
    assert_eq!(client.process("State", "").unwrap_err().0, 5);
    let output = place.reader("out");
    let pid = number(&client.call("Create", &place.create()).unwrap(), 1);
    let state = client.process("State", "").unwrap();
    assert_eq!((number(&state, 3), number(&state, 4), text(&state, 6)), (pid, 1, place.path("out").as_str()));
    assert_eq!(client.call("Create", &place.create()).unwrap_err().0, 6);
    let waits =
        [client.send("Wait", &Message::new().text(1, "c1")), client.send("Wait", &Message::new().text(1, "c1"))];
    assert_eq!(number(&client.process("Start", "").unwrap(), 1), pid);
    for wait in waits {
        assert_eq!(number(&client.receive(wait).unwrap(), 1), 7);
    }
    // The end comes without a Delete.
    assert_eq!(output.join().unwrap(), b"hello\n");
    let state = client.process("State", "").unwrap();
    assert_eq!((number(&state, 4), number(&state, 9)), (3, 7));
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 7);
    assert_eq!(client.kill(15).unwrap_err().0, 5);
    // While there is a container, this is not meant.
    client.call("Shutdown", &Message::new().text(1, "c1")).unwrap();
    assert_eq!(number(&client.process("Delete", "").unwrap(), 2), 7);
    assert_eq!(client.process("Delete", "").unwrap_err().0, 5);
    assert_eq!(place.events(4), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    let heard = place.heard.lock().unwrap().clone();
    let exit = &heard[2].1;
    assert_eq!((text(exit, 1), text(exit, 2), number(exit, 3), number(exit, 4)), ("c1", "c1", pid, 7));
    // Field 2 is "at once" here, and no name.
    client.call("Shutdown", &Message::new().text(1, "c1").flag(2, true)).unwrap();
    wait_for_end(place.shim());
    assert_eq!(fs::read_dir(place.dir.join("s")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.dir.join("root/test")).unwrap().count(), 0);
}

#[test]
fn an_exec_has_a_life_of_its_own_that_ends_before_that_of_its_container() {
    if skipped() {
        return;
    }
    let (place, mut client) = Place::sleeping(Place::listen);

    let output = place.reader("err");
    client.exec("e1", &["sh", "-c", "echo in e1; exit 3"], &place.path("err")).unwrap();
    assert_eq!(client.exec("e1", &["true"], "").unwrap_err().0, 6);
    assert_eq!(number(&client.process("State", "e1").unwrap(), 4), 1);
    assert!(number(&client.process("Start", "e1").unwrap(), 1) > 0);
    assert_eq!(number(&client.process("Wait", "e1").unwrap(), 1), 3);
    assert_eq!(output.join().unwrap(), b"in e1\n");
    client.process("Delete", "e1").unwrap();
    assert_eq!(client.process("State", "e1").unwrap_err().0, 5);

    client.exec("e2", &["nope"], "").unwrap();
    let (code, why) = client.process("Start", "e2").unwrap_err();
    assert!(code == 2 && why.contains("exec: \"nope\": executable file not found in $PATH"), "{why}");
    assert_eq!(number(&client.process("Wait", "e2").unwrap(), 1), 127);
    client.process("Delete", "e2").unwrap();

    client.exec("e3", &["sleep", "1000"], "").unwrap();
    let e3 = number(&client.process("Start", "e3").unwrap(), 1);
    let pids = client.process("Pids", "").unwrap();
    let pids: Vec<_> = Fields::of(&pids).map(|f| f.unwrap().1.bytes().unwrap().to_vec()).collect();
    assert!(pids.len() == 2 && pids.iter().any(|p| number(p, 1) == e3 && text(bytes(bytes(p, 2), 2), 1) == "e3"));
    assert_eq!(client.process("Delete", "e3").unwrap_err().0, 9);
    client.kill(9).unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 137);
    assert_eq!(number(&client.process("Wait", "e3").unwrap(), 1), 137);
    client.exec("e4", &["true"], "").unwrap();
    assert_eq!(client.process("Start", "e4").unwrap_err().0, 9);
    client.process("Delete", "").unwrap();
    place.events(12);
    let heard = place.heard.lock().unwrap().clone();
    let exits: Vec<_> = heard.iter().filter(|(topic, _)| topic == "/tasks/exit").map(|(_, e)| text(e, 2)).collect();
    assert_eq!(exits, ["e1", "e3", "c1"]);
    assert_eq!(heard.last().unwrap().0, "/tasks/delete");
}

#[test]
fn a_container_that_was_never_started_is_deleted_and_its_end_is_told() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    place.listen();
    let mut client = place.start();
    let pid = number(&client.call("Create", &place.create()).unwrap(), 1) as u32;
    let deleted = client.process("Delete", "").unwrap();
    assert_eq!((number(&deleted, 1) as u32, number(&deleted, 2)), (pid, 137));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(place.events(3), ["/tasks/create", "/tasks/exit", "/tasks/delete"]);
}

#[test]
fn a_terminal_has_the_size_that_it_is_given() {
    if skipped() {
        return;
    }
    let script = "tty; cat >/dev/null; busybox stty size";
    let mut place = Place::with(&["sh", "-c", script], |config| config["process"]["terminal"] = json!(true));
    let mut client = place.start();
    let output = place.reader("out");
    client.call("Create", &place.create().flag(4, true).text(5, &place.path("in"))).unwrap();
    client.process("Start", "").unwrap();
    client.call("ResizePty", &Message::new().text(1, "c1").number(3, 91u32).number(4, 17u32)).unwrap();
    fs::write(place.path("in"), "\u{4}").unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
    let output = String::from_utf8(output.join().unwrap()).unwrap();
    assert!(output.starts_with("/dev/pts/0\r\n") && output.contains("17 91\r\n"), "{output:?}");
    client.process("Delete", "").unwrap();
}

#[test]
fn another_runtime_is_run_if_it_is_named() {
    if skipped() {
        return;
    }
    let Some(runc) = ["/usr/sbin/runc", "/usr/bin/runc"].into_iter().find(|path| Path::new(path).exists()) else {
        return println!("SKIP: needs runc");
    };
    let mut place = Place::with(&["sleep", "1000"], |config| config["process"]["terminal"] = json!(true));
    place.listen();
    let mut client = place.start();
    let output = place.reader("out");
    let request = place.create_by(runc).flag(4, true);
    if let Err((_, why)) = client.call("Create", &request) {
        return println!("SKIP: {why}");
    }
    client.process("Start", "").unwrap();
    let errors = place.reader("err");
    client.exec("e1", &["sh", "-c", "echo by runc; exit 4"], &place.path("err")).unwrap();
    client.process("Start", "e1").unwrap();
    assert_eq!(number(&client.process("Wait", "e1").unwrap(), 1), 4);
    assert_eq!(errors.join().unwrap(), b"by runc\n");
    client.exec("e2", &["nope"], "").unwrap();
    let (_, why) = client.process("Start", "e2").unwrap_err();
    assert!(why.starts_with("OCI runtime exec failed: ") && why.contains("executable file not found"), "{why}");
    assert_eq!(Fields::of(&client.process("Pids", "").unwrap()).count(), 1);
    client.process("Delete", "e1").unwrap();
    client.end();
    assert_eq!(output.join().unwrap(), b"");
    assert_eq!(place.events(8).last().unwrap(), "/tasks/delete");
    assert_eq!(fs::read_dir(place.dir.join("root/test")).unwrap().count(), 0);
}

#[test]
fn limits_are_changed_and_what_was_used_is_told() {
    if skipped() {
        return;
    }
    let (_place, mut client) = Place::sleeping(|_| {});
    let resources =
        any("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", br#"{"pids":{"limit":77}}"#);
    client.call("Update", &Message::new().text(1, "c1").message(2, &resources)).unwrap();
    let answer = client.process("Stats", "").unwrap();
    let (kind, metrics) = (text(bytes(&answer, 1), 1), bytes(bytes(&answer, 1), 2));
    let pids = match kind {
        "io.containerd.cgroups.v1.Metrics" => bytes(metrics, 2),
        "io.containerd.cgroups.v2.Metrics" => bytes(metrics, 1),
        other => panic!("{other}"),
    };
    assert_eq!((number(pids, 1), number(pids, 2)), (1, 77));
    let bad = Message::new().text(1, "c1").message(2, &any("x", b"{"));
    assert_eq!(client.call("Update", &bad).unwrap_err().0, 2);
    client.end();
}

#[test]
fn a_container_is_paused_and_goes_on() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["sleep", "1000"]);
    place.listen();
    let mut client = place.start();
    client.call("Create", &place.create()).unwrap();
    assert_eq!(client.process("Pause", "").unwrap_err().0, 9);
    client.process("Start", "").unwrap();
    match client.process("Pause", "") {
        Err((_, why)) if why.contains("freezer") || why.contains("cgroup") => return println!("SKIP: {why}"),
        other => drop(other.unwrap()),
    }
    assert_eq!(number(&client.process("State", "").unwrap(), 4), 4);
    assert_eq!(client.process("Pause", "").unwrap_err().0, 9);
    client.process("Resume", "").unwrap();
    assert_eq!(number(&client.process("State", "").unwrap(), 4), 2);
    client.process("Pause", "").unwrap();
    // Also a frozen one dies.
    client.end();
    assert_eq!(place.events(7).last().unwrap(), "/tasks/delete");
}

#[test]
fn what_is_no_request_of_ours_is_refused() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    let mut client = place.start();
    assert_eq!(client.call("Nothing", &Message::new()).unwrap_err().0, 12);
    assert_eq!(client.call("Checkpoint", &Message::new().text(1, "c1")).unwrap_err().0, 12);
    assert_eq!(client.call("State", &Message(b"\x0a\xff".to_vec())).unwrap_err().0, 3);
    assert_eq!(client.call("Create", &Message::new().text(1, "../x").text(2, "/b")).unwrap_err().0, 2);
    assert_eq!(client.call("Create", &place.create().text(8, "/checkpoint")).unwrap_err().0, 12);
    // A length that nothing has: the connection ends, and the shim does not.
    let mut stream = place.raw();
    stream.write_all(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 99, 1, 0]).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(place.connect().process("State", "").unwrap_err().0, 5);
}
