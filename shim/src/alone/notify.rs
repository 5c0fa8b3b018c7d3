//! Word from the container to the service manager (sd_notify(3)): a socket in the container, and what of it is passed on.

use orlop::error::{At, Error, Result};
use orlop_sys::rustix::fs::{AtFlags, Gid, Mode, Uid, chmodat, chownat};
use orlop_sys::rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use orlop_sys::{AsFd, BorrowedFd, Errno, OwnedFd};
use serde_json::{Value, json};

use super::folder::{Folder, NOTIFY};

/// Where the container finds the socket.
const INSIDE: &str = "/run/notify.sock";
/// The longest message that is read, in bytes.
const MAX_MESSAGE: usize = 4096;
/// What a container may say about its unit; whose process is the main one, and its fds, are none of its business.
const PASSED: [&str; 8] =
    ["READY", "RELOADING", "STOPPING", "STATUS", "ERRNO", "MONOTONIC_USEC", "EXTEND_TIMEOUT_USEC", "WATCHDOG"];

fn datagram_socket() -> std::result::Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Sends `text` to the service manager's socket at `address`: a path, or a name that begins with `@`.
pub fn notify(address: &[u8], text: &str) -> std::result::Result<(), Errno> {
    let address = match address {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    sendto(datagram_socket()?, text.as_bytes(), SendFlags::NOSIGNAL, &address).map(drop)
}

/// The socket to which a container speaks.
#[derive(Debug)]
pub struct Notices(OwnedFd);

impl Notices {
    /// Listens in the folder, for the container's user.
    pub fn listen(folder: &Folder, (uid, gid): (u32, u32)) -> Result<Self> {
        let at = || format!("{}/{NOTIFY}", folder.path());
        folder.remove(NOTIFY)?;
        let socket = datagram_socket().at(at)?;
        bind(&socket, &SocketAddrUnix::new(folder.short_path(NOTIFY)).at(at)?).at(at)?;
        chmodat(folder, NOTIFY, Mode::RUSR | Mode::WUSR, AtFlags::empty()).at(at)?;
        chownat(folder, NOTIFY, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
            .at(at)?;
        Ok(Self(socket))
    }

    /// The next message, as far as it is passed on; `None` if there is none.
    pub fn next(&self) -> Option<String> {
        let mut buffer = [0; MAX_MESSAGE];
        let (_, n) = recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT).ok()?;
        Some(passed(&String::from_utf8_lossy(buffer.get(..n)?)))
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The lines that are passed on.
fn passed(text: &str) -> String {
    let lines = text.lines().filter(|line| line.split_once('=').is_some_and(|(name, _)| PASSED.contains(&name)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether it is ready with this.
pub fn is_ready(text: &str) -> bool {
    text.lines().any(|line| line == "READY=1")
}

/// Adds the socket to config.json: mounted, and in the environment.
pub fn add_socket(document: &mut Value, folder: &str) -> Result<()> {
    let mount = json!({
        "destination": INSIDE,
        "type": "bind",
        "source": format!("{folder}/{NOTIFY}"),
        "options": ["bind", "nosuid", "nodev", "noexec"],
    });
    append(document, "/mounts", mount)?;
    append(document, "/process/env", json!(format!("NOTIFY_SOCKET={INSIDE}")))
}

/// Adds to a list, which may be missing.
fn append(document: &mut Value, path: &str, value: Value) -> Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or_default();
    let list = document.pointer_mut(parent).and_then(Value::as_object_mut).map(|parent| {
        let list = parent.entry(name).or_insert(Value::Null);
        if list.is_null() {
            *list = json!([]);
        }
        list
    });
    match list.and_then(Value::as_array_mut) {
        Some(list) => {
            list.push(value);
            Ok(())
        }
        None => Err(Error::invalid(format_args!("config.json: {}", path.trim_start_matches('/')), "is no list")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_speaks_of_its_state_and_of_nothing_else() {
        let text = "READY=1\nMAINPID=1\nSTATUS=all = well\nFDSTORE=1\nBARRIER=1\nnothing\n";
        assert_eq!(passed(text), "READY=1\nSTATUS=all = well");
        assert!(is_ready(&passed(text)) && !is_ready("STATUS=READY=1"));
    }

    #[test]
    fn the_socket_is_mounted_after_all_else() {
        let with = |mut document: Value| add_socket(&mut document, "/s/c1").map(|()| document);
        let document = with(json!({"process": {"env": ["A=b"]}, "mounts": [{"destination": "/run"}]})).unwrap();
        assert_eq!(document["process"]["env"], json!(["A=b", "NOTIFY_SOCKET=/run/notify.sock"]));
        assert_eq!(document["mounts"][1]["source"], "/s/c1/notify");
        assert!(with(json!({"process": {"env": null}})).unwrap().to_string().contains("NOTIFY_SOCKET"));
        assert!(with(json!({"process": {}, "mounts": {}})).is_err() && with(json!({})).is_err());
    }
}
