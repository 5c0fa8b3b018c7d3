//! Who is attached to a container: conmon's protocol over a socket of packets.
//!
//! To a client: a byte that says which stream (2 is output, 3 errors), and up to 8192 bytes of it. From a client: input
//! as it is; a client that shuts its side down has no more. Any number of clients may come and go.
//!
//! All that is attached sees all. A client that does not read holds the container up, as a terminal would; but only for
//! a while, and then it is let go: the log has everything. The one who ran the container is waited for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use orlop::error::{At, Result};
use orlop_sys::rustix::event::{PollFd, PollFlags};
use orlop_sys::rustix::fs::chmodat;
use orlop_sys::rustix::fs::{AtFlags, Mode};
use orlop_sys::rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    recv, send, socket_with,
};
use orlop_sys::{AsFd, Errno, OwnedFd};

use super::folder::{ATTACH, Folder};
use super::record::Stream;

/// The most of a stream in one packet, in bytes.
pub const MAX_OUTPUT: usize = 8192;
/// The most of an input in one packet.
pub const MAX_INPUT: usize = 32 << 10;
/// How many clients there may be.
const MAX_CLIENTS: usize = 64;
/// How long a client that does not read holds the container up.
const PATIENCE: Duration = Duration::from_secs(10);

const OUTPUT: u8 = 2;
const ERRORS: u8 = 3;

/// Which stream a packet is of.
pub fn stream_of(byte: u8) -> Option<Stream> {
    match byte {
        OUTPUT => Some(Stream::Stdout),
        ERRORS => Some(Stream::Stderr),
        _ => None,
    }
}

fn packet_socket() -> std::result::Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// A client's side.
pub fn attach(folder: &Folder) -> Result<OwnedFd> {
    let at = || format!("attach to {}/{ATTACH}", folder.path());
    let address = SocketAddrUnix::new(folder.short_path(ATTACH)).at(at)?;
    let socket = packet_socket().at(at)?;
    connect(&socket, &address).at(at)?;
    Ok(socket)
}

/// One client.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// Packets that it has not taken yet.
    waiting: VecDeque<Vec<u8>>,
    /// Since when.
    since: Option<Instant>,
    /// It has no more input.
    silent: bool,
    /// It ran the container.
    first: bool,
    gone: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Clients {
    listener: OwnedFd,
    clients: Vec<Client>,
}

/// What a client has for the container.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes.
    Bytes(Vec<u8>),
    /// The one who ran it has no more.
    End,
    /// Nothing.
    None,
}

impl Clients {
    /// Listens in the folder.
    pub fn listen(folder: &Folder) -> Result<Self> {
        let at = || format!("{}/{ATTACH}", folder.path());
        folder.remove(ATTACH)?;
        let listener = packet_socket().at(at)?;
        bind(&listener, &SocketAddrUnix::new(folder.short_path(ATTACH)).at(at)?).at(at)?;
        chmodat(folder, ATTACH, Mode::RUSR | Mode::WUSR, AtFlags::empty()).at(at)?;
        listen(&listener, 16).at(at)?;
        Ok(Self { listener, clients: Vec::new() })
    }

    /// Takes a client. The `first` one is waited for.
    pub fn accept(&mut self, first: bool) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        if let Ok(socket) = accept_with(&self.listener, flags)
            && self.clients.len() < MAX_CLIENTS
        {
            let client = Client { socket, waiting: VecDeque::new(), since: None, silent: false, first, gone: false };
            self.clients.push(client);
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.clients.len()
    }

    /// What is to be polled: the socket that they come to, and each of them. Input is asked for only if it is `wanted`.
    pub fn watch(&self, wanted: bool) -> impl Iterator<Item = PollFd<'_>> {
        let clients = self.clients.iter().map(move |client| {
            let mut what = PollFlags::empty();
            what.set(PollFlags::IN, wanted && !client.silent);
            what.set(PollFlags::OUT, !client.waiting.is_empty());
            PollFd::new(&client.socket, what)
        });
        std::iter::once(PollFd::new(&self.listener, PollFlags::IN)).chain(clients)
    }

    /// Sends what the container has written to all.
    pub fn send(&mut self, stream: Stream, bytes: &[u8]) {
        if self.clients.is_empty() {
            return;
        }
        let kind = if stream == Stream::Stdout { OUTPUT } else { ERRORS };
        for chunk in bytes.chunks(MAX_OUTPUT) {
            let packet = [&[kind], chunk].concat();
            for client in &mut self.clients {
                client.waiting.push_back(packet.clone());
            }
        }
        self.clients.iter_mut().for_each(Client::flush);
        self.sweep();
    }

    /// Whether somebody has not taken all yet: then nothing more is read from the container.
    pub fn are_behind(&self) -> bool {
        self.clients.iter().any(|client| !client.waiting.is_empty())
    }

    /// Something is ready at a client, by its place.
    pub fn turn(&mut self, at: usize, what: PollFlags) -> Input {
        let Some(client) = self.clients.get_mut(at) else { return Input::None };
        if what.contains(PollFlags::OUT) {
            client.flush();
        }
        let mut input = Input::None;
        if what.contains(PollFlags::IN) {
            input = client.receive();
        } else if what.intersects(PollFlags::HUP | PollFlags::ERR) {
            client.gone = true;
        }
        input
    }

    /// Forgets who has gone. Places change.
    pub fn sweep(&mut self) {
        let now = Instant::now();
        let late = |client: &Client| !client.first && client.since.is_some_and(|since| now >= since + PATIENCE);
        self.clients.retain(|client| !client.gone && !late(client));
    }

    /// When [`sweep`](Self::sweep) is worth a call.
    pub fn deadline(&self) -> Option<Instant> {
        let waited_for = self.clients.iter().filter(|client| !client.first);
        waited_for.filter_map(|client| client.since).min().map(|since| since + PATIENCE)
    }
}

impl Client {
    fn flush(&mut self) {
        while let Some(packet) = self.waiting.front() {
            match send(&self.socket, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => {
                    self.waiting.pop_front();
                    self.since = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.since.get_or_insert_with(Instant::now);
                    return;
                }
                Err(_) => {
                    self.gone = true;
                    self.waiting.clear();
                }
            }
        }
        self.since = None;
    }

    fn receive(&mut self) -> Input {
        let mut buffer = vec![0; MAX_INPUT];
        match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {
                self.silent = true;
                if self.first { Input::End } else { Input::None }
            }
            Ok((_, n)) => {
                buffer.truncate(n);
                Input::Bytes(buffer)
            }
            Err(Errno::AGAIN | Errno::INTR) => Input::None,
            Err(_) => {
                self.gone = true;
                Input::None
            }
        }
    }
}

impl AsFd for Clients {
    fn as_fd(&self) -> orlop_sys::BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
