//! Events on their way to containerd: one after the other, each until it has arrived.
//!
//! containerd may be away for as long as it likes: events wait, and go out in the order in which they happened when it is
//! back. Only their number is bounded.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use orlop_sys::rustix::io::{read, write};
use orlop_sys::rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use orlop_sys::{Errno, OwnedFd};

use crate::message::{Time, any};
use crate::poll::{Interest, Poll, Token};
use crate::ttrpc::{HEADER, Header, MAX_MESSAGE, Request, read_answer};
use crate::wire::Message;

/// How many events wait for containerd, beyond which the oldest are given up. One is about 200 bytes.
const MAX_WAITING: usize = 16 << 10;
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
    /// The calls' payloads, the oldest first.
    waiting: VecDeque<Vec<u8>>,
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

    /// Puts an event at the end of the queue.
    pub fn push(&mut self, poll: &Poll, event: &Event) {
        if self.address.is_none() {
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            // The first may be under way.
            self.waiting.remove(1);
        }
        let envelope = Message::new()
            .message(1, &Time::now().message())
            .text(2, &self.namespace)
            .text(3, event.topic)
            .message(4, &any(event.kind, &event.body.0));
        self.waiting.push_back(Message::new().message(1, &envelope).0);
        if self.waiting.len() == 1 && self.retry.is_none() {
            self.turn(poll, Interest::empty());
        }
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
        if let Some(connection) = &mut self.connection {
            if ready.intersects(Interest::IN | Interest::HUP | Interest::ERR) {
                while connection.answered()? {
                    self.waiting.pop_front();
                    self.pause = RETRY.0;
                }
            }
            if connection.since.is_some_and(|since| since.elapsed() > PATIENCE) {
                return Err(Errno::TIMEDOUT);
            }
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
            connection.begin(first);
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

    /// Whether the call was answered. An event that containerd refuses is not better the next time.
    fn answered(&mut self) -> Result<bool, Errno> {
        let mut buffer = [0; 4096];
        loop {
            if let Some((header, rest)) = self.input.split_first_chunk::<HEADER>() {
                let header = Header::read(header);
                if header.length > MAX_MESSAGE {
                    return Err(Errno::PROTO);
                }
                if let Some(message) = rest.get(..header.length) {
                    let is_answer = header.is_response() && header.stream.wrapping_add(2) == self.stream;
                    if is_answer && read_answer(message).is_err() {
                        return Err(Errno::PROTO);
                    }
                    self.input.drain(..HEADER + header.length);
                    if is_answer {
                        self.since = None;
                        self.input = Vec::new();
                        return Ok(true);
                    }
                    continue;
                }
            }
            match read(&self.socket, &mut buffer[..]) {
                Ok(0) => return Err(Errno::CONNRESET),
                Ok(n) => self.input.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }
}
