//! The ttrpc server: connections, frames in, answers out. Nothing here waits.

use std::path::Path;

use orlop_sys::rustix::io::{read, write};
use orlop_sys::rustix::net::sockopt::socket_peercred;
use orlop_sys::rustix::net::{SocketFlags, accept_with};
use orlop_sys::rustix::process::geteuid;
use orlop_sys::{Errno, OwnedFd};

use crate::poll::{Interest, Poll, Token};
use crate::ttrpc::{self, HEADER, Header, MAX_MESSAGE, Status};
use crate::wire::Message;

/// More engines than this don't speak with one shim.
const MAX_CONNECTIONS: usize = 256;

/// An engine that reads none of its answers is left.
const MAX_OUTPUT: usize = 4 * MAX_MESSAGE;

/// How many bytes are held for all engines together, before one that wants more and holds much already is left.
const MAX_HELD: usize = 64 << 20;

/// How much is read of one that has much to say, before others get their turn.
const GREED: usize = 64 << 10;

/// Who is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    place: u32,
    /// Of the connection: its place may be another's by the time of the answer.
    serial: u64,
    stream: u32,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    serial: u64,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    path: Option<String>,
    connections: Vec<Option<Connection>>,
    serial: u64,
}

impl Server {
    /// Serves `listener`, which is bound to `path`.
    pub fn new(poll: &Poll, listener: OwnedFd, path: Option<String>) -> Result<Self, Errno> {
        poll.add(&listener, Token::Listener, Interest::IN)?;
        Ok(Self { listener, path, connections: Vec::new(), serial: 0 })
    }

    /// Takes a new connection.
    pub fn accept(&mut self, poll: &Poll) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        // Who may connect, decides over containers.
        if !socket_peercred(&socket).is_ok_and(|peer| peer.uid == geteuid()) {
            return;
        }
        let place = match self.connections.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.connections.len() < MAX_CONNECTIONS => {
                self.connections.push(None);
                self.connections.len() - 1
            }
            None => return,
        };
        let Ok(number) = u32::try_from(place) else { return };
        if poll.add(&socket, Token::Connection(number), Interest::IN).is_err() {
            return;
        }
        self.serial += 1;
        let connection = Connection { socket, serial: self.serial, input: Vec::new(), output: Vec::new() };
        if let Some(place) = self.connections.get_mut(place) {
            *place = Some(connection);
        }
    }

    /// Reads what has come, and hands out the requests that are whole.
    pub fn receive(&mut self, poll: &Poll, place: u32, ready: Interest) -> Vec<(Caller, Vec<u8>)> {
        let mut requests = Vec::new();
        let is_full = self.is_full();
        let Some(connection) = self.connection(place) else { return requests };
        let mut alive = !(is_full && connection.held() > GREED);
        if ready.contains(Interest::OUT) {
            alive = alive && connection.flush(poll, place);
        }
        if ready.intersects(Interest::IN | Interest::HUP | Interest::ERR) {
            alive = alive
                && connection.fill(if is_full { GREED } else { MAX_MESSAGE })
                && connection.split(place, &mut requests);
        }
        if !alive {
            self.close(poll, place);
        }
        requests
    }

    /// Answers. A caller that has gone wants none.
    pub fn answer(&mut self, poll: &Poll, caller: Caller, result: Result<&Message, &Status>) {
        let is_full = self.is_full();
        let Some(connection) = self.connection(caller.place).filter(|c| c.serial == caller.serial) else { return };
        let was_empty = connection.output.is_empty();
        connection.output.extend_from_slice(&ttrpc::answer(caller.stream, result));
        let is_deaf = connection.output.len() > if is_full { GREED } else { MAX_OUTPUT };
        let alive = !is_deaf && (!was_empty || connection.flush(poll, caller.place));
        if !alive {
            self.close(poll, caller.place);
        }
    }

    /// Whether the connection of a caller is open.
    pub fn is_there(&self, caller: Caller) -> bool {
        let connection = self.connections.get(caller.place as usize).and_then(Option::as_ref);
        connection.is_some_and(|connection| connection.serial == caller.serial)
    }

    /// Whether all connections together hold more than they may.
    fn is_full(&self) -> bool {
        self.connections.iter().flatten().map(Connection::held).sum::<usize>() > MAX_HELD
    }

    fn connection(&mut self, place: u32) -> Option<&mut Connection> {
        self.connections.get_mut(place as usize)?.as_mut()
    }

    fn close(&mut self, poll: &Poll, place: u32) {
        if let Some(place) = self.connections.get_mut(place as usize)
            && let Some(connection) = place.take()
        {
            poll.remove(&connection.socket);
        }
    }

    /// Nobody shall find the socket any more.
    pub fn unlink(&mut self) {
        if let Some(path) = self.path.take() {
            // Whoever comes next replaces it.
            let _ = orlop_sys::rustix::fs::unlink(Path::new(&path));
        }
    }
}

impl Connection {
    fn held(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// Reads what there is, as far as the message that has begun (or `most` of it), or a little beyond; false at the end.
    fn fill(&mut self, most: usize) -> bool {
        let begun = self.input.first_chunk().map_or(0, |header| Header::read(header).length.min(most));
        let enough = (HEADER + begun).max(GREED);
        let mut buffer = [0; 16 << 10];
        loop {
            match read(&self.socket, &mut buffer[..]) {
                Ok(0) => return false,
                Ok(n) => {
                    self.input.extend_from_slice(buffer.get(..n).unwrap_or_default());
                    if n < buffer.len() || self.input.len() >= enough {
                        return true;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Takes whole messages off the input; false for one that is too long to be one.
    fn split(&mut self, place: u32, requests: &mut Vec<(Caller, Vec<u8>)>) -> bool {
        let mut at = 0;
        while let Some((header, rest)) = self.input.get(at..).and_then(|input| input.split_first_chunk::<HEADER>()) {
            let header = Header::read(header);
            if header.length > MAX_MESSAGE {
                return false;
            }
            let Some(message) = rest.get(..header.length) else { break };
            if header.is_request() {
                let caller = Caller { place, serial: self.serial, stream: header.stream };
                requests.push((caller, message.to_vec()));
            }
            at += HEADER + header.length;
        }
        if at >= self.input.len() {
            // No buffer stays while nobody speaks.
            self.input = Vec::new();
        } else {
            self.input.drain(..at);
        }
        true
    }

    /// Writes what it takes; false if it is gone.
    fn flush(&mut self, poll: &Poll, place: u32) -> bool {
        let mut at = 0;
        while let Some(rest) = self.output.get(at..).filter(|rest| !rest.is_empty()) {
            match write(&self.socket, rest) {
                Ok(n) => at += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.output.drain(..at);
                    let both = Interest::IN | Interest::OUT;
                    return poll.modify(&self.socket, Token::Connection(place), both).is_ok();
                }
                Err(_) => return false,
            }
        }
        self.output = Vec::new();
        poll.modify(&self.socket, Token::Connection(place), Interest::IN).is_ok()
    }
}
