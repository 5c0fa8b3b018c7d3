//! Bytes that no engine sends: the shim survives them, holds little of them, and serves the others meanwhile.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use orlop_shim::client::number;
use orlop_shim::message::{
    Any, Bootstrap, Create, Exec, GenericOptions, Kill, Process, Resize, RuncOptions, Update, any,
};
use orlop_shim::ttrpc::{Request, read_answer};
use orlop_shim::wire::{Fields, Message};

use crate::{Client, Place, skipped};

/// Numbers that are the same each time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        // xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.throw() % bound as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.throw() as u8).collect()
    }

    /// A few changes to what was good.
    fn spoil(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.throw() as u8),
                2 => {
                    let again = bytes[at..].to_vec();
                    bytes.extend(again);
                }
                // The largest varint, where a length or a number may be.
                3 => drop(bytes.splice(at..at, [0xff; 9])),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        bytes
    }
}

/// One of each message.
fn samples() -> Vec<Message> {
    let mount = Message::new().text(1, "overlay").text(2, "o").text(3, "/t").text(4, "ro");
    let options = Message::new().flag(1, true).text(3, "/g").number(4, 5u32).text(6, "runc").text(7, "/r");
    let options = any("containerd.runc.v1.Options", &options.0);
    let toml = any("runtimeoptions.v1.Options", &Message::new().text(1, "t").bytes(3, b"Root = \"/r\"\n").0);
    let id = || Message::new().text(1, "c1");
    vec![
        id().text(2, "e1"),
        id().text(2, "/b").message(3, &mount).flag(4, true).text(5, "/in").text(6, "file:///out").message(10, &options),
        id().text(2, "/b").message(10, &toml),
        id().text(2, "e1").text(5, "/out").message(7, &any("Process", br#"{"args":["true"],"cwd":"/"}"#)),
        id().number(3, 80u32).number(4, 24u32),
        id().text(2, "e1").number(3, 9u32).flag(4, true),
        id().message(2, &any("LinuxResources", br#"{"pids":{"limit":7}}"#)),
        id().text(2, "ns").number(3, u64::MAX - 7).message(8, &Message::new().message(1, &options)).text(9, "/s"),
    ]
}

#[test]
fn a_decoder_survives_whatever_it_is_given() {
    let mut dice = Dice(0x0dd_ba11);
    let samples = samples();
    let mut good = 0;
    for round in 0..200_000 {
        let bytes = match round % 4 {
            0 => {
                let length = dice.below(64);
                dice.bytes(length)
            }
            _ => {
                let sample = dice.below(samples.len());
                dice.spoil(&samples[sample].0)
            }
        };
        good += usize::from(Create::read(&bytes).is_ok());
        let reads = [
            Process::read(&bytes).is_ok(),
            Exec::read(&bytes).is_ok(),
            Resize::read(&bytes).is_ok(),
            Kill::read(&bytes).is_ok(),
            Update::read(&bytes).is_ok(),
            Bootstrap::read(&bytes).is_ok(),
            RuncOptions::read(&bytes).is_ok(),
            GenericOptions::read(&bytes).is_ok(),
            Request::read(&bytes).is_ok(),
            read_answer(&bytes).is_ok(),
        ];
        // Whoever reads fields by their types can't be content with bytes that have no fields.
        if Fields::of(&bytes).any(|field| field.is_err()) {
            assert_eq!(reads, [false; 10], "{bytes:?}");
        }
        if let Ok(any) = Any::read(&bytes) {
            let _ = orlop_shim::options::Options::read(&any);
        }
    }
    // Neither all of it, nor none.
    assert!((1000..199_000).contains(&good), "{good}");
}

fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn raw(place: &Place) -> UnixStream {
    let stream = place.raw();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    stream
}

/// How long a process has been on a processor, by its `utime` and `stime` in ticks (fields 14 and 15).
fn worked(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
}

/// A client that asks something while others are at their worst.
struct Witness {
    client: Client,
    /// What an answer took at the most: in all, and of the shim's own time, of which others on the machine take none.
    slowest: Duration,
    work: Duration,
    most: u64,
}

impl Witness {
    fn ask(&mut self, shim: u32) {
        let (asked, before) = (Instant::now(), worked(shim));
        self.client.process("Connect", "").expect("an answer");
        self.slowest = self.slowest.max(asked.elapsed());
        self.work = self.work.max(worked(shim) - before);
        self.most = self.most.max(memory(shim));
    }
}

#[test]
fn a_shim_survives_whatever_comes_over_its_socket() {
    if skipped() {
        return;
    }
    let (place, client) = Place::sleeping(|_| {});
    let shim = place.shim();
    let before = memory(shim);
    let mut witness = Witness { client, slowest: Duration::ZERO, work: Duration::ZERO, most: 0 };
    let mut dice = Dice(0x5eed);
    let methods = [
        "State",
        "Start",
        "Delete",
        "Pids",
        "Pause",
        "Resume",
        "Checkpoint",
        "Kill",
        "Exec",
        "ResizePty",
        "CloseIO",
        "Update",
        "Wait",
        "Stats",
        "Connect",
        "Shutdown",
        "",
        "create",
        "Nothing",
    ];
    let samples = samples();

    // Calls of every method, with what was good and is not any more. The container may not live through them.
    for _ in 0..30 {
        let mut stream = raw(&place);
        let mut bytes = Vec::new();
        for call in 0..50u32 {
            let (method, sample) = (methods[dice.below(methods.len())], dice.below(samples.len()));
            let payload = dice.spoil(&samples[sample].0);
            let request = Request { service: "containerd.task.v2.Task", method, payload: &payload, timeout: 0 };
            bytes.extend(request.frame(call * 2 + 1));
        }
        let _ = stream.write_all(&bytes);
        let _ = stream.read(&mut [0; 65536]);
        witness.ask(shim);
    }

    // Frames that are none, whole ones that are spoilt, and ends in the middle.
    let request = Request { service: "containerd.task.v3.Task", method: "State", payload: &samples[0].0, timeout: 7 };
    let frame = request.frame(1);
    for round in 0..300 {
        let mut stream = raw(&place);
        let bytes = match round % 3 {
            0 => {
                let length = dice.below(4096);
                dice.bytes(length)
            }
            1 => dice.spoil(&frame),
            _ => frame[..dice.below(frame.len())].to_vec(),
        };
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read(&mut [0; 4096]);
        witness.ask(shim);
    }

    // More connections than there are places, each with almost all of a message of the greatest length.
    let mut crowd = Vec::new();
    let almost = vec![0u8; (4 << 20) - 1];
    for _ in 0..280 {
        let mut stream = raw(&place);
        let header = [&(4u32 << 20).to_be_bytes()[..], &1u32.to_be_bytes(), &[1, 0]].concat();
        let _ = stream.write_all(&header).and_then(|()| stream.write_all(&almost));
        crowd.push(stream);
        witness.ask(shim);
    }
    drop(crowd);

    // One that asks and asks, and never listens.
    let mut deaf = raw(&place);
    let many = frame.repeat(10_000);
    for _ in 0..50 {
        let sent = deaf.write_all(&many);
        witness.ask(shim);
        if sent.is_err() {
            break;
        }
    }
    drop(deaf);

    // What waits for others in the shim waits for ever. containerd gives up after two seconds.
    let (slowest, work) = (witness.slowest, witness.work);
    assert!(work < Duration::from_millis(100) && slowest < Duration::from_secs(2), "{work:?} of {slowest:?}");
    assert!(witness.most < 160, "{} MiB", witness.most);
    let end = Instant::now() + Duration::from_secs(10);
    while memory(shim) > before + 4 {
        assert!(Instant::now() < end, "{before} MiB became {}", memory(shim));
        witness.ask(shim);
    }
    println!("the slowest answer took {slowest:?}, {work:?} of work, {} MiB at most", witness.most);
    assert!(number(&witness.client.process("Connect", "").unwrap(), 1) == u64::from(shim));
}

#[test]
fn a_create_that_can_not_be_meant_changes_nothing() {
    if skipped() {
        return;
    }
    let mut place = Place::new(&["true"]);
    let mut client = place.start();
    let long = "x".repeat(300);
    let bundle = place.bundle();
    let with = |id: &str, bundle: &str| Message::new().text(1, id).text(2, bundle);
    let fine = || with("c1", &bundle);
    for (request, why) in [
        (with("", &bundle), "no id"),
        (with("..", &bundle), "a parent"),
        (with("../x", &bundle), "a path"),
        (with("a/b", &bundle), "a path"),
        (with(&long, &bundle), "long"),
        (with("c\0", &bundle), "a NUL"),
        (with("c1", ""), "no bundle"),
        (with("c1", "t/c1"), "a relative bundle"),
        (with("c1", "/nowhere/at/all"), "a bundle that is not there"),
        (fine().text(6, "gopher://x"), "a scheme"),
        (fine().text(6, "/nowhere/at/all"), "a FIFO that is not there"),
        (fine().text(5, &bundle), "a directory"),
        (fine().text(6, "binary:///bin/true").text(7, "file:///x").flag(4, true).bytes(6, b"binary://%"), "no URI"),
        (fine().message(3, &Message::new().text(1, "nofs\0").text(2, "x")), "a file system"),
        (fine().message(3, &Message::new().text(1, "tmpfs").text(3, "a\0b")), "a target"),
        (fine().message(10, &any("containerd.runc.v1.Options", b"\xff")), "options"),
    ] {
        client.call("Create", &request).expect_err(why);
        assert_eq!(client.process("State", "").unwrap_err().0, 5, "{why}");
    }
    let shim = place.shim();
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    assert_eq!(children, "");
}
