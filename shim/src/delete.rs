//! `delete`: what is left of a container whose daemon is gone. Mostly nothing is, and that is seen at once.

use std::path::Path;

use orlop_sys::rustix::fs::{AtFlags, CWD, unlinkat};
use orlop_sys::rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::args::Args;
use crate::message::Time;
use crate::mounts::unmount_all;
use crate::options::{self, Options};
use crate::runtime::Runtime;
use crate::start::read_file;
use crate::task::{EXIT_FILE, Exit};
use crate::wire::Message;

/// 128 + SIGKILL: how a container ends whose daemon did not live to see it.
const KILLED: u32 = 137;

/// Cleans up. What is to be printed, and what should be told beside it.
///
/// # Errors
/// What went wrong, in a sentence.
pub fn delete(args: &Args) -> Result<(Vec<u8>, Vec<String>), String> {
    let bundle = if args.bundle.is_empty() {
        let here = std::env::current_dir().map_err(|e| e.to_string())?;
        // We are in the bundle, or in that of another container of the group.
        let parent = here.parent().and_then(Path::to_str).ok_or("the working directory is no bundle")?;
        format!("{parent}/{}", args.id)
    } else {
        args.bundle.clone()
    };
    let kept = read_file(&format!("{bundle}/{}", options::FILE)).unwrap_or_default();
    let options: Options = serde_json::from_slice(&kept).unwrap_or_default();
    let runtime = Runtime { options: &options, namespace: &args.namespace, id: &args.id, bundle: &bundle };
    let done = runtime.delete().map_err(|status| format!("delete {}: {}", args.id, status.message))?;
    for mounted in ["rootfs", "shm"] {
        unmount_all(&format!("{bundle}/{mounted}"));
    }
    remove_socket(&bundle);
    let pid = read_file(&format!("{bundle}/init.pid")).unwrap_or_default();
    let pid = String::from_utf8_lossy(&pid).trim().parse().unwrap_or(0u32);
    let exit = read_file(&format!("{bundle}/{EXIT_FILE}")).unwrap_or_default();
    let exit = std::str::from_utf8(&exit).ok().and_then(Exit::parse);
    let exit = exit.unwrap_or_else(|| Exit { status: KILLED, at: Time::now() });
    let answer = Message::new().number(1, pid).number(2, exit.status).message(3, &exit.at.message());
    Ok((answer.0, done.notes))
}

/// The socket, if nobody is behind it any more: the daemon may serve others of its group.
fn remove_socket(bundle: &str) {
    let address = read_file(&format!("{bundle}/address")).unwrap_or_default();
    let Some(path) = std::str::from_utf8(&address).ok().and_then(|address| address.trim().strip_prefix("unix://"))
    else {
        return;
    };
    let refused = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()?;
        connect(&socket, &SocketAddrUnix::new(path).ok()?).err()
    };
    if refused() == Some(orlop_sys::Errno::CONNREFUSED) {
        // Whoever needs the name next removes it otherwise.
        let _ = unlinkat(CWD, path, AtFlags::empty());
    }
}
