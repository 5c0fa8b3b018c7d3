//! Streams of `Exec` and `Attach`: a WebSocket whose messages begin with the number of a channel, the protocol
//! `v4.channel.k8s.io` of Kubernetes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// Nothing for this long is a hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a message is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    /// The last: how it ended, in JSON.
    End = 3,
    Resize = 4,
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
}

impl Stream {
    /// Opens the URL that the engine gave, in the network of its host.
    pub(crate) fn open(network: File, url: &str) -> Self {
        let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut socket = std::thread::scope(|scope| {
            // A socket keeps the network in which it was made; only this thread enters it.
            let connect = || {
                setns(network, CloneFlags::CLONE_NEWNET).unwrap();
                TcpStream::connect(address).unwrap()
            };
            scope.spawn(connect).join().unwrap()
        });
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            socket,
            "GET /{path} HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { socket }
    }

    /// Sends a message. What a client sends is masked; by zeros, which change nothing.
    pub(crate) fn send(&mut self, channel: Channel, bytes: &[u8]) {
        let length = u16::try_from(bytes.len() + 1).unwrap();
        let mut frame = vec![0x82];
        match u8::try_from(length) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.push(channel as u8);
        frame.extend(bytes);
        self.socket.write_all(&frame).unwrap();
    }

    /// The next message with anything in it; `None` at the end.
    pub(crate) fn receive(&mut self) -> Option<(Channel, Vec<u8>)> {
        loop {
            let mut head = [0; 2];
            self.socket.read_exact(&mut head).ok()?;
            let length = match head[1] {
                126 => u64::from(u16::from_be_bytes(self.take())),
                127 => u64::from_be_bytes(self.take()),
                length => u64::from(length),
            };
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            self.socket.read_exact(&mut bytes).unwrap();
            let channels = [Channel::Stdin, Channel::Stdout, Channel::Stderr, Channel::End, Channel::Resize];
            match (head[0] & 0xf, bytes.split_first()) {
                (1 | 2, Some((channel, rest))) if !rest.is_empty() => {
                    return Some((channels[usize::from(*channel)], rest.to_vec()));
                }
                (8, _) => return None,
                _ => {}
            }
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.socket.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// What comes of one channel, until it has `text` in it.
    pub(crate) fn expect(&mut self, channel: Channel, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let Some((from, bytes)) = self.receive() else { panic!("ends before {text:?}: {seen:?}") };
            if from == channel {
                seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        seen
    }

    /// All that comes until the end: output, errors, and the end's own words.
    pub(crate) fn rest(&mut self) -> [String; 3] {
        let mut all = [const { Vec::new() }; 3];
        while let Some((channel, bytes)) = self.receive() {
            all[channel as usize - 1].extend(bytes);
        }
        all.map(|bytes| String::from_utf8(bytes).unwrap())
    }
}
