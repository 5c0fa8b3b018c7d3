//! Events on their way to containerd: one after the other, each until it has arrived.
//!
//! containerd may be away for as long as it likes: events wait, and go out in the order in which they happened when it is
//! back. Only their number and their size are bounded; those that say that something has ended are given up last, since
//! without them a container would be taken to be running for ever. One that may have arrived is sent again, so containerd
//! may hear it twice, but never after a later one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use orlop_sys::rustix::io::{read, write};
use orlop_sys::rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use orlop_sys::{Errno, OwnedFd};

use crate::message::{Time, any};
use crate::poll::{Interest, Poll, Token};
use crate::ttrpc::{Code, HEADER, Header, MAX_MESSAGE, Request, read_answer};
use crate::wire::Message;

/// How many events wait for containerd, beyond which the oldest are given up. Most are of about 200 bytes.
const MAX_WAITING: usize = 16 << 10;
/// How many bytes they may take together.
const MAX_BYTES: usize = 4 << 20;
/// For how long an event is sent again that containerd has answered with an error: it may be just leaving, or coming.
const REFUSED: Duration = Duration::from_secs(30);
/// How long an answer may take before the connection is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before connecting again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `/tasks/exit`.
    pub topic: &'static str,
    /// `containerd.events.TaskExit`.
    pub kind: &'static str,
    /// The event's own message.
    pub body: Message,
}

/// An event in the queue.
#[derive(Debug)]
struct Waiting {
    /// The call's payload.
    payload: Box<[u8]>,
    /// It says that something has ended.
    is_end: bool,
}

/// What containerd has said to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Taken,
    /// It can't be meant, and will be no better the next time.
    Invalid,
    /// Anything else.
    Refused,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// The stream of the call, odd and rising.
    stream: u32,
    /// What is not written yet of the call.
    output: Vec<u8>,
    input: Vec<u8>,
    /// Since when the first event in the queue is under way.
    since: Option<Instant>,
}

/// The queue and the way out of it.
#[derive(Debug)]
pub struct Events {
    /// Without one nobody wants events.
    address: Option<String>,
    namespace: String,
    /// The oldest first.
    waiting: VecDeque<Waiting>,
    /// How long their payloads are together.
    bytes: usize,
    /// Since when the first is being refused.
    refused: Option<Instant>,
    connection: Option<Connection>,
    retry: Option<Instant>,
    pause: Duration,
}

impl Events {
    /// Sends to the socket at `address`; to nobody if it is empty.
    pub fn new(address: &str, namespace: &str) -> Self {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        Self {
            address: (!path.is_empty()).then(|| path.to_owned()),
            namespace: namespace.to_owned(),
            waiting: VecDeque::new(),
            bytes: 0,
            refused: None,
            connection: None,
            retry: None,
            pause: RETRY.0,
        }
    }

    /// True when all events have arrived.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When [`turn`](Self::turn) wants to be called although nothing is ready.
    pub fn deadline(&self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        match &self.connection {
            Some(connection) => connection.since.map(|since| since + PATIENCE),
            None => self.retry,
        }
    }

    /// Puts an event at the end of the queue. How many others were given up for it.
    pub fn push(&mut self, poll: &Poll, event: &Event) -> usize {
        if self.address.is_none() {
            return 0;
        }
        let envelope = Message::new()
            .message(1, &Time::now().message())
            .text(2, &self.namespace)
            .text(3, event.topic)
            .message(4, &any(event.kind, &event.body.0));
        let payload = Message::new().message(1, &envelope).0.into_boxed_slice();
        let is_end = matches!(event.topic, "/tasks/exit" | "/tasks/delete");
        self.bytes += payload.len();
        self.waiting.push_back(Waiting { payload, is_end });
        let before = self.waiting.len();
        while (self.waiting.len() > MAX_WAITING || self.bytes > MAX_BYTES) && self.give_one_up() {}
        let given_up = before - self.waiting.len();
        if self.waiting.len() == 1 && self.retry.is_none() {
            self.turn(poll, Interest::empty());
        }
        given_up
    }

    /// Gives up the oldest event that is not an end, or else the oldest; none that is under way, and not the newest.
    fn give_one_up(&mut self) -> bool {
        let first = usize::from(self.connection.as_ref().is_some_and(|connection| connection.since.is_some()));
        let others = || self.waiting.iter().enumerate().take(self.waiting.len() - 1).skip(first);
        let at = others().find(|(_, event)| !event.is_end).or_else(|| others().next()).map(|(at, _)| at);
        let Some(event) = at.and_then(|at| self.waiting.remove(at)) else { return false };
        self.bytes -= event.payload.len();
        true
    }

    /// The first is dealt with.
    fn pop(&mut self) {
        if let Some(event) = self.waiting.pop_front() {
            self.bytes -= event.payload.len();
        }
        self.refused = None;
        self.pause = RETRY.0;
    }

    /// Goes on as far as it can.
    pub fn turn(&mut self, poll: &Poll, ready: Interest) {
        if self.retry.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.retry = None;
        match self.advance(poll, ready) {
            Ok(()) => {}
            Err(_) => {
                if let Some(connection) = self.connection.take() {
                    poll.remove(&connection.socket);
                }
                if !self.waiting.is_empty() {
                    self.retry = Some(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(RETRY.1);
                }
            }
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to_fit();
        }
    }

    fn advance(&mut self, poll: &Poll, ready: Interest) -> Result<(), Errno> {
        let is_ready = ready.intersects(Interest::IN | Interest::HUP | Interest::ERR);
        match self.connection.as_mut().filter(|_| is_ready).map_or(Ok(Said::Nothing), Connection::answer)? {
            Said::Nothing => {}
            Said::Taken | Said::Invalid => self.pop(),
            Said::Refused if self.refused.get_or_insert_with(Instant::now).elapsed() < REFUSED => {
                return Err(Errno::AGAIN);
            }
            Said::Refused => self.pop(),
        }
        let since = self.connection.as_ref().and_then(|connection| connection.since);
        if since.is_some_and(|since| since.elapsed() > PATIENCE) {
            return Err(Errno::TIMEDOUT);
        }
        let Some(first) = self.waiting.front() else { return Ok(()) };
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let connection = Connection::new(self.address.as_deref().unwrap_or_default())?;
                poll.add(&connection.socket, Token::Events, Interest::IN)?;
                self.connection.insert(connection)
            }
        };
        if connection.since.is_none() {
            connection.begin(&first.payload);
        }
        let before = connection.output.len();
        connection.flush()?;
        let full = !connection.output.is_empty();
        if full || before == 0 {
            let interest = if full { Interest::IN | Interest::OUT } else { Interest::IN };
            poll.modify(&connection.socket, Token::Events, interest)?;
        }
        Ok(())
    }
}

impl Connection {
    fn new(path: &str) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket, stream: 1, output: Vec::new(), input: Vec::new(), since: None })
    }

    fn begin(&mut self, payload: &[u8]) {
        let timeout = u64::try_from(PATIENCE.as_nanos()).unwrap_or(0);
        self.output = Request { service: SERVICE, method: "Forward", payload, timeout }.frame(self.stream);
        self.stream = self.stream.wrapping_add(2);
        self.since = Some(Instant::now());
    }

    fn flush(&mut self) -> Result<(), Errno> {
        let mut at = 0;
        while let Some(rest) = self.output.get(at..).filter(|rest| !rest.is_empty()) {
            match write(&self.socket, rest) {
                Ok(n) => at += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e),
            }
        }
        self.output.drain(..at);
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        Ok(())
    }

    /// How the call was answered.
    fn answer(&mut self) -> Result<Said, Errno> {
        let mut buffer = [0; 4096];
        loop {
            if let Some((header, rest)) = self.input.split_first_chunk::<HEADER>() {
                let header = Header::read(header);
                if header.length > MAX_MESSAGE {
                    return Err(Errno::PROTO);
                }
                if let Some(message) = rest.get(..header.length) {
                    let is_answer = header.is_response() && header.stream.wrapping_add(2) == self.stream;
                    let said = match read_answer(message) {
                        Ok(Ok(_)) => Said::Taken,
                        Ok(Err((code, _))) if code == Code::InvalidArgument as u64 => Said::Invalid,
                        Ok(Err(_)) => Said::Refused,
                        Err(_) => return Err(Errno::PROTO),
                    };
                    self.input.drain(..HEADER + header.length);
                    if is_answer {
                        self.since = None;
                        self.input = Vec::new();
                        return Ok(said);
                    }
                    continue;
                }
            }
            match read(&self.socket, &mut buffer[..]) {
                Ok(0) => return Err(Errno::CONNRESET),
                Ok(n) => self.input.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Said::Nothing),
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the paths are the test's own")]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::thread;

    use super::*;
    use crate::ttrpc::{Status, answer};
    use crate::wire::Fields;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn path(name: &str) -> PathBuf {
        let path = PathBuf::from(format!("/tmp/orlop-events-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn numbered(topic: &'static str, number: u32) -> Event {
        Event { topic, kind: "k", body: Message::new().number(1, number) }
    }

    /// The number of an event, as it arrives.
    fn number(payload: &[u8]) -> u64 {
        let field = |message: &[u8], at| {
            let value = Fields::of(message).map(Result::unwrap).find(|(number, _)| *number == at).unwrap().1;
            value.bytes().unwrap().to_vec()
        };
        let body = field(&field(&field(payload, 1), 4), 2);
        Fields::of(&body).next().map_or(0, |value| value.unwrap().1.number().unwrap())
    }

    fn call(stream: &mut UnixStream) -> Option<(u32, u64)> {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).ok()?;
        let header = Header::read(&header);
        let mut message = vec![0; header.length];
        stream.read_exact(&mut message).ok()?;
        Some((header.stream, number(Request::read(&message).unwrap().payload)))
    }

    /// Turns until nothing waits any more.
    fn settle(poll: &Poll, events: &mut Events) {
        let end = Instant::now() + DEADLINE;
        let mut ready = Vec::new();
        while !events.is_empty() {
            assert!(Instant::now() < end, "{} events are left", events.waiting.len());
            poll.wait(Some(Duration::from_millis(10)), &mut ready).unwrap();
            let interest = ready.first().map_or(Interest::empty(), |(_, interest)| *interest);
            events.turn(poll, interest);
        }
    }

    /// Whatever containerd does, it hears everything, and each for the first time in the right order.
    #[test]
    fn events_arrive_in_order_at_a_containerd_that_is_away_slow_and_confused() {
        let path = path("order");
        let poll = Poll::new().unwrap();
        let mut events = Events::new(path.to_str().unwrap(), "ns");
        for n in 1..=20 {
            assert_eq!(events.push(&poll, &numbered("/tasks/start", n)), 0);
        }
        let containerd = thread::spawn({
            let path = path.clone();
            move || {
                // Away at first.
                thread::sleep(Duration::from_millis(300));
                let mut heard = Vec::new();
                let mut listener = UnixListener::bind(&path).unwrap();
                let mut turn = 0;
                while heard.iter().max() != Some(&40) {
                    let (mut stream, _) = listener.accept().unwrap();
                    while let Some((id, number)) = call(&mut stream) {
                        turn += 1;
                        heard.push(number);
                        let fine = answer(id, Ok(&Message::new()));
                        match turn {
                            // Leaves without a word, though it has heard it, and comes back after a while.
                            3 => {
                                drop(listener);
                                std::fs::remove_file(&path).unwrap();
                                drop(stream);
                                thread::sleep(Duration::from_millis(300));
                                listener = UnixListener::bind(&path).unwrap();
                                break;
                            }
                            // Refuses, twice.
                            6 | 7 => {
                                let status = Status::new(Code::Unavailable, "not now");
                                stream.write_all(&answer(id, Err(&status))).unwrap();
                            }
                            // Is no containerd.
                            9 => stream.write_all(&[0xff; 64]).unwrap(),
                            // Slow, byte by byte, after an answer to something else.
                            11 => {
                                stream.write_all(&answer(id + 2, Ok(&Message::new()))).unwrap();
                                for byte in fine {
                                    thread::sleep(Duration::from_millis(10));
                                    stream.write_all(&[byte]).unwrap();
                                }
                            }
                            _ => stream.write_all(&fine).unwrap(),
                        }
                    }
                }
                heard
            }
        });
        settle(&poll, &mut events);
        for n in 21..=40 {
            events.push(&poll, &numbered("/tasks/start", n));
        }
        settle(&poll, &mut events);
        assert_eq!((events.bytes, events.waiting.capacity()), (0, 0));
        drop(events);
        let mut heard = containerd.join().unwrap();
        assert!(heard.is_sorted(), "{heard:?}");
        // Four of them had no answer that says that it was heard.
        assert_eq!(heard.len(), 44, "{heard:?}");
        heard.dedup();
        assert_eq!(heard, (1..=40).collect::<Vec<_>>());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_event_that_can_not_be_meant_is_not_sent_again() {
        let path = path("invalid");
        let listener = UnixListener::bind(&path).unwrap();
        let containerd = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            while let Some((id, number)) = call(&mut stream) {
                heard.push(number);
                stream.write_all(&answer(id, Err(&Status::new(Code::InvalidArgument, "no")))).unwrap();
            }
            heard
        });
        let poll = Poll::new().unwrap();
        let mut events = Events::new(&format!("unix://{}", path.display()), "ns");
        for n in 1..=3 {
            events.push(&poll, &numbered("/tasks/start", n));
        }
        settle(&poll, &mut events);
        drop(events);
        assert_eq!(containerd.join().unwrap(), [1, 2, 3]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_waits_is_bounded_and_ends_are_given_up_last() {
        let poll = Poll::new().unwrap();
        let mut events = Events::new("/nowhere/events", "ns");
        let numbers = |events: &Events| events.waiting.iter().map(|w| number(&w.payload)).collect::<Vec<_>>();
        let mut given_up = 0;
        let count = u32::try_from(MAX_WAITING).unwrap();
        // Every fourth is an end.
        for n in 1..=count * 2 {
            given_up += events.push(&poll, &numbered(if n % 4 == 0 { "/tasks/exit" } else { "/tasks/start" }, n));
        }
        assert_eq!((events.waiting.len(), given_up), (MAX_WAITING, MAX_WAITING));
        let left = numbers(&events);
        assert!(left.is_sorted());
        assert_eq!(left.iter().filter(|n| **n % 4 == 0).count(), MAX_WAITING / 2);
        // By size, too; and then the newest is the last to go.
        let big =
            Event { body: Message::new().number(1, 7u32).bytes(2, &vec![0; MAX_BYTES]), ..numbered("/tasks/start", 0) };
        assert_eq!(events.push(&poll, &big), MAX_WAITING);
        assert_eq!(numbers(&events), [7]);
        assert_eq!(events.push(&poll, &numbered("/tasks/exit", 8)), 1);
        assert_eq!(numbers(&events), [8]);
        assert_eq!(events.bytes, events.waiting[0].payload.len());
        assert_eq!(Events::new("", "ns").push(&poll, &big), 0);
    }
}
