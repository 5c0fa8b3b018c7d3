//! epoll, with names for what it watches.

use std::mem::MaybeUninit;
use std::time::Duration;

use orlop_sys::rustix::event::{Timespec, epoll};
use orlop_sys::{AsFd, Errno, OwnedFd};

pub use epoll::EventFlags as Interest;

/// What has become ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// The socket that engines connect to.
    Listener,
    /// Signals: a child has ended, or we are to end.
    Signals,
    /// containerd's socket for events.
    Events,
    /// A connection, by its place.
    Connection(u32),
    /// A stream of a process, by its place.
    Stream(u32),
    /// The memory of a container, by its number.
    Memory(u32),
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, place) = match self {
            Self::Listener => (0, 0),
            Self::Signals => (1, 0),
            Self::Events => (2, 0),
            Self::Connection(place) => (3, place),
            Self::Stream(place) => (4, place),
            Self::Memory(place) => (5, place),
        };
        kind << 32 | u64::from(place)
    }

    fn decode(number: u64) -> Option<Self> {
        let place = (number & u64::from(u32::MAX)) as u32;
        Some(match number >> 32 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Events,
            3 => Self::Connection(place),
            4 => Self::Stream(place),
            5 => Self::Memory(place),
            _ => return None,
        })
    }
}

/// The set of what is watched.
#[derive(Debug)]
pub struct Poll(OwnedFd);

impl Poll {
    /// An empty set.
    pub fn new() -> Result<Self, Errno> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(Self)
    }

    /// Watches `fd`.
    pub fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> Result<(), Errno> {
        epoll::add(&self.0, fd, epoll::EventData::new_u64(token.encode()), interest)
    }

    /// Watches it for something else.
    pub fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) -> Result<(), Errno> {
        epoll::modify(&self.0, fd, epoll::EventData::new_u64(token.encode()), interest)
    }

    /// Watches it no more. An fd that is closed needs this too when a child may hold a copy of it.
    pub fn remove(&self, fd: impl AsFd) {
        // It fails only for what was not watched.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits, and puts what is ready into `ready`.
    pub fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<(Token, Interest)>) -> Result<(), Errno> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let mut events = [MaybeUninit::uninit(); 32];
        ready.clear();
        match epoll::wait(&self.0, &mut events[..], timeout.as_ref()) {
            Ok((events, _)) => {
                let known = |event: &epoll::Event| Some((Token::decode(event.data.u64())?, event.flags));
                ready.extend(events.iter().filter_map(known));
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for token in [Token::Listener, Token::Events, Token::Connection(7), Token::Stream(u32::MAX), Token::Memory(0)] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }
}
