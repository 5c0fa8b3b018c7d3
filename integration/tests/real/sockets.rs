//! What is passed through sockets, and sockets that are passed.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

use orlop_sys::rustix::cmsg_space;
use orlop_sys::rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::bundle::{Bundle, until};
use crate::debian;

/// A socket on which the runtime is to call.
pub(crate) struct Listener {
    pub(crate) path: String,
    socket: UnixListener,
}

impl Listener {
    pub(crate) fn new(bundle: &Bundle) -> Self {
        // Short enough for a socket, however long the path of cargo's target folder is.
        let path = std::env::temp_dir().join(format!("{}.sock", bundle.id)).to_str().unwrap().to_owned();
        let socket = UnixListener::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { path, socket }
    }

    /// The first message of the next call, and the fds that came with it.
    pub(crate) fn receive(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        let (connection, _) = until("a connection", || self.socket.accept().ok());
        connection.set_nonblocking(false).unwrap();
        receive_fds(&connection)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One message and the fds that came with it.
fn receive_fds(connection: &UnixStream) -> (Vec<u8>, Vec<OwnedFd>) {
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(connection, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fds = control.drain().filter_map(|m| match m {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = fds.flatten().collect();
    buffer.truncate(got.bytes);
    (buffer, fds)
}

#[test]
fn activation_sockets_and_preserved_files_are_passed_on() {
    let Some(root) = debian::root() else { return };
    let script = "echo pid=$LISTEN_PID me=$$ n=$LISTEN_FDS; readlink /proc/self/fd/3; cat <&4; ls /proc/$$/fd | wc -w";
    let bundle = Bundle::new("listen", root, &["bash", "-c", script], |_| ());
    let file = bundle.path("file");
    std::fs::write(&file, "through fd 4\n").unwrap();
    // LISTEN_PID has to be the pid of the program itself, so the shell becomes it.
    let command = bundle.command();
    let args: Vec<_> = command.get_args().skip(4).map(|a| a.to_str().unwrap()).collect();
    let run = format!("run --preserve-fds 1 --bundle {} {}", bundle.path(""), bundle.id);
    let line =
        format!("exec 3</dev/null 4<{file} 5</dev/zero; LISTEN_FDS=1 LISTEN_PID=$$ exec {} {run}", args.join(" "));
    let done = bundle.finish(Command::new("timeout").args(["-s", "KILL", "20", "bash", "-c", &line]));
    // 0, 1, 2, the two that were passed, and 255 is the script's own.
    let want = "pid=1 me=1 n=1\n/dev/null\nthrough fd 4\n";
    assert!(done.code == 0 && done.out.starts_with(want), "{done:?}");
    assert!(done.out.ends_with("\n5\n") || done.out.ends_with("\n6\n"), "{done:?}");
}
