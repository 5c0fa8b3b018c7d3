//! Unix sockets of a caller: something is sent to them, with a deadline.

use std::mem::MaybeUninit;
use std::time::Duration;

use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::io::IoSlice;
use orlop_sys::rustix::net::sockopt::{Timeout, set_socket_timeout};
use orlop_sys::rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use orlop_sys::{AsRawFd, BorrowedFd, Errno, OwnedFd};

use crate::error::{At, Result};

/// How long a listener may take to accept and to read.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest path of a socket address, with its NUL.
const LONGEST: usize = 108;

/// Connects to the stream socket at `path`; `name` is what it is, for messages.
pub(crate) fn connect_to(name: &str, path: &str) -> Result<OwnedFd> {
    let what = || format!("{name} {path}: connect");
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).at(what)?;
    // A full backlog would block for ever.
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE)).at(what)?;
    // A path that does not fit is reached through its directory's fd.
    let (directory, file) = path.rsplit_once('/').unwrap_or((".", path));
    let mut held = None;
    let address = if path.len() < LONGEST {
        SocketAddrUnix::new(path)
    } else {
        let directory = if directory.is_empty() { "/" } else { directory };
        let fd = openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at(what)?;
        let fd = held.insert(fd);
        SocketAddrUnix::new(format!("/proc/self/fd/{}/{file}", fd.as_raw_fd()))
    };
    connect(&socket, &address.at(what)?).at(what)?;
    Ok(socket)
}

/// Sends `bytes` with `fd` attached.
pub(crate) fn send_fd(socket: &OwnedFd, bytes: &[u8], fd: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); orlop_sys::rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    let mut rest = bytes;
    loop {
        match sendmsg(socket, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
            Ok(sent) => {
                rest = rest.get(sent..).unwrap_or_default();
                if rest.is_empty() {
                    return Ok(());
                }
                // The fd travels with the first bytes only.
                ancillary = SendAncillaryBuffer::new(&mut []);
            }
        }
    }
}
