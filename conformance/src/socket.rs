//! Unix sockets on which a runtime hands over fds: the console, the seccomp listener, the pidfd.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::command::wait_until;

/// A socket that waits for a runtime to connect.
#[derive(Debug)]
pub(crate) struct Listener(UnixListener);

impl Listener {
    /// Binds and listens at a path.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// Takes the first connection and reads it to its end: its bytes and the fds that came with them.
    pub(crate) fn accept(&self) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        let connection = wait_until(Duration::from_secs(5), || match self.0.accept() {
            Ok((connection, _)) => Ok(Some(connection)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        let connection = connection.context("nobody connected to the socket")?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        loop {
            let mut buffer = vec![0_u8; 1 << 16];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = rustix::net::recvmsg(&connection, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            if received.bytes == 0 {
                return Ok((bytes, fds));
            }
            bytes.extend(buffer.iter().take(received.bytes));
        }
    }
}
