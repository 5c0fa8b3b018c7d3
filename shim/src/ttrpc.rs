//! ttrpc: containerd's small RPC protocol over unix sockets. A frame is a header of ten bytes and a message: requests and
//! responses, one of each a call. Streams are refused; nothing that the shim serves has them.

use crate::wire::{Fields, Malformed, Message, Result};

/// The header's length in bytes.
pub const HEADER: usize = 10;

/// The longest message (ttrpc's own bound), in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// gRPC's status codes, as far as they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Anything else. containerd shows the message.
    Unknown = 2,
    /// An argument that cannot be meant.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// No such task or process. Engines read it as "gone already".
    NotFound = 5,
    /// The id is taken.
    AlreadyExists = 6,
    /// More is not kept.
    ResourceExhausted = 8,
    /// Not in this state.
    FailedPrecondition = 9,
    /// No such method, or not in this version.
    Unimplemented = 12,
    /// Not now.
    Unavailable = 14,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What a program looks at.
    pub code: Code,
    /// What people, and Docker, read.
    pub message: String,
}

impl Status {
    /// A status.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<Malformed> for Status {
    fn from(_: Malformed) -> Self {
        Self::new(Code::InvalidArgument, "malformed message")
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many bytes follow it.
    pub length: usize,
    /// Which call it is of; odd, and rising, for a client's.
    pub stream: u32,
    kind: u8,
}

impl Header {
    /// Reads ten bytes.
    pub fn read(bytes: &[u8; HEADER]) -> Self {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *bytes;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        Self { length, stream: u32::from_be_bytes([s0, s1, s2, s3]), kind }
    }

    /// True for a request.
    pub fn is_request(&self) -> bool {
        self.kind == REQUEST
    }

    /// True for a response.
    pub fn is_response(&self) -> bool {
        self.kind == RESPONSE
    }
}

fn frame(stream: u32, kind: u8, message: &Message) -> Vec<u8> {
    // A message of ours is never near 4 GiB; a longer one than MAX_MESSAGE is refused by the other side.
    let length = u32::try_from(message.0.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + message.0.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(&message.0);
    bytes
}

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// `containerd.task.v2.Task`.
    pub service: &'a str,
    /// `Create`.
    pub method: &'a str,
    /// The method's own message.
    pub payload: &'a [u8],
    /// How long the caller waits, in nanoseconds; 0 for ever.
    pub timeout: u64,
}

impl<'a> Request<'a> {
    /// Reads a request's message.
    pub fn read(message: &'a [u8]) -> Result<Self> {
        let mut request = Self { service: "", method: "", payload: &[], timeout: 0 };
        for field in Fields::of(message) {
            match field? {
                (1, value) => request.service = value.text()?,
                (2, value) => request.method = value.text()?,
                (3, value) => request.payload = value.bytes()?,
                (4, value) => request.timeout = value.number()?,
                _ => {}
            }
        }
        Ok(request)
    }

    /// The frame of a request of ours.
    pub fn frame(&self, stream: u32) -> Vec<u8> {
        let message = Message::new().text(1, self.service).text(2, self.method).bytes(3, self.payload);
        frame(stream, REQUEST, &message.number(4, self.timeout))
    }
}

/// The frame of an answer.
pub fn answer(stream: u32, result: std::result::Result<&Message, &Status>) -> Vec<u8> {
    let message = match result {
        Ok(payload) => Message::new().message(2, payload),
        Err(status) => {
            let status = Message::new().number(1, status.code as u64).text(2, &status.message);
            Message::new().message(1, &status)
        }
    };
    frame(stream, RESPONSE, &message)
}

/// What an answer says: the payload, or a code and its message.
pub fn read_answer(message: &[u8]) -> Result<std::result::Result<&[u8], (u64, &str)>> {
    let (mut payload, mut code, mut text) = (&[][..], 0, "");
    for field in Fields::of(message) {
        match field? {
            (1, status) => {
                for field in Fields::of(status.bytes()?) {
                    match field? {
                        (1, value) => code = value.number()?,
                        (2, value) => text = value.text()?,
                        _ => {}
                    }
                }
            }
            (2, value) => payload = value.bytes()?,
            _ => {}
        }
    }
    Ok(if code == 0 { Ok(payload) } else { Err((code, text)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_framed_and_read_back() {
        let request =
            Request { service: "containerd.task.v2.Task", method: "State", payload: b"\x0a\x01a", timeout: 5 };
        let bytes = request.frame(3);
        let (header, message) = bytes.split_first_chunk::<HEADER>().unwrap();
        let header = Header::read(header);
        assert!(header.is_request() && header.stream == 3 && header.length == message.len());
        assert_eq!(Request::read(message), Ok(request));
    }

    #[test]
    fn an_answer_is_a_payload_or_a_status() {
        let payload = Message::new().number(1, 7u32);
        let good = answer(1, Ok(&payload));
        assert_eq!(read_answer(&good[HEADER..]).unwrap(), Ok(&payload.0[..]));
        let bad = answer(1, Err(&Status::new(Code::NotFound, "no such task")));
        assert_eq!(read_answer(&bad[HEADER..]).unwrap(), Err((5, "no such task")));
        let empty = answer(1, Ok(&Message::new()));
        assert_eq!(read_answer(&empty[HEADER..]).unwrap(), Ok(&[][..]));
    }
}
