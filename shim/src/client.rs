//! The engine's side of the conversation, for tests and measurements: calls to a shim, and an ear for its events. It
//! waits, which the shim itself never does.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crate::ttrpc::{HEADER, Header, MAX_MESSAGE, Request, answer, read_answer};
use crate::wire::{Fields, Malformed, Message, Value};

/// What a call came to: the answer's payload, or a code and its message.
pub type Answer = std::result::Result<Vec<u8>, (u64, String)>;

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        Self::new(ErrorKind::InvalidData, "malformed message")
    }
}

fn frame(stream: &mut UnixStream) -> Result<(Header, Vec<u8>)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let header = Header::read(&header);
    if header.length > MAX_MESSAGE {
        return Err(Malformed.into());
    }
    let mut message = vec![0; header.length];
    stream.read_exact(&mut message)?;
    Ok((header, message))
}

/// The value of a field; the last, if it is there more than once, as Protocol Buffers have it.
pub fn field(message: &[u8], number: u32) -> Option<Value<'_>> {
    Fields::of(message).filter_map(std::result::Result::ok).filter(|(n, _)| *n == number).last().map(|(_, value)| value)
}

/// A field that is a number; 0 if it is not there.
pub fn number(message: &[u8], at: u32) -> u64 {
    field(message, at).and_then(|value| value.number().ok()).unwrap_or_default()
}

/// A field that is bytes, or a message; empty if it is not there.
pub fn bytes(message: &[u8], at: u32) -> &[u8] {
    field(message, at).and_then(|value| value.bytes().ok()).unwrap_or_default()
}

/// A field that is text; empty if it is not there.
pub fn text(message: &[u8], at: u32) -> &str {
    field(message, at).and_then(|value| value.text().ok()).unwrap_or_default()
}

/// A connection to a shim.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    next: u32,
    /// Answers that came before they were asked for.
    early: BTreeMap<u32, Vec<u8>>,
}

impl Client {
    /// Connects to the address that `start` printed. No answer may take longer than `patience`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(address: &str, patience: Duration) -> Result<Self> {
        let stream = UnixStream::connect(address.strip_prefix("unix://").unwrap_or(address))?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { stream, next: 1, early: BTreeMap::new() })
    }

    /// Sends a call, and does not wait for its answer. Its stream.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub fn send(&mut self, service: &str, method: &str, payload: &Message) -> Result<u32> {
        let stream = self.next;
        self.next = self.next.wrapping_add(2);
        let request = Request { service, method, payload: &payload.0, timeout: 0 };
        self.stream.write_all(&request.frame(stream))?;
        Ok(stream)
    }

    /// Waits for the answer to a call.
    ///
    /// # Errors
    /// When there is none, or none that can be read.
    pub fn receive(&mut self, stream: u32) -> Result<Answer> {
        loop {
            if let Some(message) = self.early.remove(&stream) {
                let read = read_answer(&message)?;
                return Ok(read.map(<[u8]>::to_vec).map_err(|(code, text)| (code, text.to_owned())));
            }
            let (header, message) = frame(&mut self.stream)?;
            self.early.insert(header.stream, message);
        }
    }
}

/// Takes the events of one shim after the other, with a thread for each, and answers each at once. For each event
/// `heard` gets its topic and what it says.
///
/// # Errors
/// When the socket can't be listened on any more.
pub fn hear(listener: &UnixListener, heard: impl Fn(&str, &[u8]) + Clone + Send + 'static) -> Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        let heard = heard.clone();
        std::thread::spawn(move || hear_one(stream, heard));
    }
}

/// Until the shim hangs up, or says something that is no event.
fn hear_one(mut stream: UnixStream, heard: impl Fn(&str, &[u8])) -> Result<()> {
    loop {
        let (header, message) = frame(&mut stream)?;
        let request = Request::read(&message)?;
        if (request.service, request.method) != ("containerd.services.events.ttrpc.v1.Events", "Forward") {
            return Err(Malformed.into());
        }
        let envelope = bytes(request.payload, 1);
        heard(text(envelope, 3), bytes(bytes(envelope, 4), 2));
        stream.write_all(&answer(header.stream, Ok(&Message::new())))?;
    }
}
