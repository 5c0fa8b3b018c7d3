//! `start`: a socket that is listened on, and a daemon behind it. What is printed is all that containerd hears, and it
//! hears until nobody has our stdout open any more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use orlop::selfexe;
use orlop_sys::clone::fork;
use orlop_sys::process::{close_range, dup_to};
use orlop_sys::rustix::fs::{AtFlags, CWD, Mode, OFlags, chmod, mkdirat, openat, renameat, unlinkat};
use orlop_sys::rustix::io::{read, write};
use orlop_sys::rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use orlop_sys::rustix::pipe::{PipeFlags, pipe_with};
use orlop_sys::rustix::process::{setsid, umask};
use orlop_sys::{AsFd, Errno, OwnedFd};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::args::Args;
use crate::message::{Any, Bootstrap};
use crate::options::Options;
use crate::wire::Message;

/// Where the daemon finds its socket.
pub const LISTENER: i32 = 3;
/// Where the daemon finds the address to which events go.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// Where sockets are, unless containerd says otherwise.
const SOCKETS: &str = "/run/containerd/s";
/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;
/// The largest file, or input, that is read.
const MAX_INPUT: usize = 16 << 20;

/// By which annotations containers share a shim, the first that is there.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

#[derive(Debug, Default, Deserialize)]
struct Annotations {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Starts a daemon, or finds the one that serves this container's group. What is to be printed.
///
/// # Errors
/// What went wrong, in a sentence.
pub fn start(args: &Args) -> Result<Vec<u8>, String> {
    let input = read_all(&orlop_sys::rustix::stdio::stdin()).map_err(said("read stdin"))?;
    let bootstrap = Bootstrap::read(&input).ok();
    // An Any reads as one of these too, but then it is not about us.
    let bootstrap = bootstrap.filter(|b| b.instance_id == args.id && b.namespace == args.namespace);
    let options = match &bootstrap {
        Some(bootstrap) => bootstrap.extensions.iter().map(Options::read).filter_map(Result::ok).find(is_said),
        None => Any::read(&input).ok().and_then(|any| Options::read(&any).ok()),
    };
    let options = options.unwrap_or_default();
    let directory = bootstrap.as_ref().map(|b| b.socket_dir).filter(|dir| !dir.is_empty()).unwrap_or(SOCKETS);
    let path = format!("{directory}/{}", socket_name(args, &group(args)?));
    let address = format!("unix://{path}");
    if let Some(listener) = listen_at(directory, &path).map_err(said(&path))? {
        let events = bootstrap.as_ref().map_or("", |bootstrap| bootstrap.ttrpc_address);
        if let Err(text) = leave_daemon(args, &listener, events, &options) {
            let _ = unlinkat(CWD, &path, AtFlags::empty());
            return Err(text);
        }
    }
    write_file("address", address.as_bytes()).map_err(said("address"))?;
    Ok(match bootstrap {
        Some(_) => Message::new().number(1, 3u32).text(2, &address).text(3, "ttrpc").0,
        None => address.into_bytes(),
    })
}

fn is_said(options: &Options) -> bool {
    *options != Options::default()
}

fn said(what: &str) -> impl Fn(Errno) -> String {
    move |errno| format!("{what}: {}", orlop::error::describe(errno))
}

/// Whose shim it is: the container's own, or its group's.
fn group(args: &Args) -> Result<String, String> {
    let config = match read_file("config.json") {
        Ok(config) => config,
        Err(Errno::NOENT) => return Ok(args.id.clone()),
        Err(e) => return Err(said("config.json")(e)),
    };
    let config: Annotations = serde_json::from_slice(&config).map_err(|e| format!("config.json: {e}"))?;
    let annotations = config.annotations.unwrap_or_default();
    let group = GROUPS.iter().find_map(|name| annotations.get(*name));
    Ok(group.filter(|group| !group.is_empty()).unwrap_or(&args.id).clone())
}

/// The same for the same group, wherever it is asked.
fn socket_name(args: &Args, group: &str) -> String {
    let joined = format!("{}/{}/{group}", args.address, args.namespace);
    let digest = Sha256::digest(orlop::path::clean(&joined).as_bytes());
    digest.iter().fold(String::with_capacity(64), |mut name, byte| {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// Listens at `path`; `None` if somebody does already.
fn listen_at(directory: &str, path: &str) -> Result<Option<OwnedFd>, Errno> {
    for (at, _) in directory.match_indices('/').skip(1) {
        make_directory(directory.get(..at).unwrap_or_default(), 0o711)?;
    }
    make_directory(directory, 0o700)?;
    let address = SocketAddrUnix::new(path)?;
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = new()?;
    let before = umask(Mode::from_raw_mode(0o177));
    let mut bound = bind(&socket, &address);
    if bound == Err(Errno::ADDRINUSE) {
        if connect(new()?, &address).is_ok() {
            umask(before);
            return Ok(None);
        }
        // Its owner is dead.
        unlinkat(CWD, path, AtFlags::empty())?;
        bound = bind(&socket, &address);
    }
    umask(before);
    bound?;
    chmod(path, Mode::RUSR | Mode::WUSR)?;
    listen(&socket, BACKLOG)?;
    Ok(Some(socket))
}

fn make_directory(path: &str, mode: u32) -> Result<(), Errno> {
    match mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e),
    }
}

/// A child that becomes the daemon: this program again, from where no container can write to it.
fn leave_daemon(args: &Args, listener: &OwnedFd, events: &str, options: &Options) -> Result<(), String> {
    let (complaint, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(said("pipe"))?;
    let name = std::env::args().next().unwrap_or_default();
    let mut arguments = vec![name, "-namespace".into(), args.namespace.clone(), "-id".into(), args.id.clone()];
    arguments.extend(["-address".to_owned(), args.address.clone()]);
    if args.debug {
        arguments.push("-debug".into());
    }
    let child = fork(|| {
        let text = match detach(listener) {
            Ok(()) => match selfexe::run_protected(&arguments, environment(events)) {
                Ok(never) => match never {},
                Err(e) => e.to_string(),
            },
            Err(e) => said("detach")(e),
        };
        // If even this fails, our end alone says enough.
        let _ = write(&theirs, text.as_bytes());
        1
    });
    let child = child.map_err(said("fork"))?;
    drop(theirs);
    let pid = child.pid.as_raw_nonzero().get();
    // Best effort: a daemon that is killed first is worse than one that is not.
    let _ = raise_oom_score(pid);
    if !options.shim_cgroup.is_empty() {
        join_cgroup(&options.shim_cgroup, pid).map_err(said(&options.shim_cgroup))?;
    }
    let text = read_all(&complaint).map_err(said("read from the daemon"))?;
    if text.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&text).into_owned()) }
}

/// Away from our caller: a session of its own, nothing of its fds but the socket.
fn detach(listener: &OwnedFd) -> Result<(), Errno> {
    setsid()?;
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for fd in 0..3 {
        dup_to(null.as_fd(), fd, false)?;
    }
    // The pipe for complaints closes with a successful execve.
    close_range(3, u32::MAX, true)?;
    // It was opened before the pipe, so what has this number is not that.
    dup_to(listener.as_fd(), LISTENER, false)
}

fn environment(events: &str) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        // The one is the engine's own business; the other was told anew.
        if name == "NOTIFY_SOCKET" || (name == TTRPC_ADDRESS && !events.is_empty()) {
            continue;
        }
        let mut entry = name.into_vec();
        entry.push(b'=');
        entry.extend(value.into_vec());
        environment.push(entry);
    }
    if !events.is_empty() {
        environment.push(format!("{TTRPC_ADDRESS}={events}").into_bytes());
    }
    environment
}

/// One more than ours: of the two, the kernel kills the daemon before containerd.
fn raise_oom_score(pid: i32) -> Result<(), Errno> {
    let ours = read_file("/proc/self/oom_score_adj")?;
    let ours: i32 = String::from_utf8_lossy(&ours).trim().parse().map_err(|_| Errno::INVAL)?;
    write_existing(&format!("/proc/{pid}/oom_score_adj"), &(ours + 1).min(1000).to_string())
}

/// Puts the daemon into a cgroup, in each hierarchy that has it; version 2 makes it.
fn join_cgroup(cgroup: &str, pid: i32) -> Result<(), Errno> {
    const MOUNT: &str = "/sys/fs/cgroup";
    let cgroup = cgroup.trim_start_matches('/');
    if read_file(&format!("{MOUNT}/cgroup.controllers")).is_ok() {
        let path = format!("{MOUNT}/{cgroup}");
        for (at, _) in path.match_indices('/').skip(3) {
            make_directory(path.get(..at).unwrap_or_default(), 0o755)?;
        }
        make_directory(&path, 0o755)?;
        return write_existing(&format!("{path}/cgroup.procs"), &pid.to_string());
    }
    let mut joined = Err(Errno::NOENT);
    for hierarchy in std::fs::read_dir(Path::new(MOUNT)).map_err(|_| Errno::NOENT)?.flatten() {
        let name = hierarchy.file_name();
        let path = format!("{MOUNT}/{}/{cgroup}/cgroup.procs", name.to_string_lossy());
        match write_existing(&path, &pid.to_string()) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            other => joined = other,
        }
    }
    joined
}

fn write_existing(path: &str, text: &str) -> Result<(), Errno> {
    let file = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(&file, text.as_bytes()).map(drop)
}

/// Reads a file of the host's, up to a limit.
pub fn read_file(path: &str) -> Result<Vec<u8>, Errno> {
    // A FIFO in its place must not make us wait.
    read_all(&openat(CWD, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

fn read_all(file: &impl AsFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        match read(file, &mut chunk[..]) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > MAX_INPUT => return Err(Errno::FBIG),
            Ok(n) => bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Writes a file of ours in a bundle: there at once, or not at all.
pub fn write_file(path: &str, bytes: &[u8]) -> Result<(), Errno> {
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    let temporary = format!("{directory}/.{name}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = write(&file, rest)?;
        rest = rest.get(n..).unwrap_or_default();
    }
    renameat(CWD, &temporary, CWD, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_group_has_the_same_socket() {
        let args = |namespace: &str| Args {
            address: "/run/containerd/containerd.sock".into(),
            namespace: namespace.into(),
            ..Args::default()
        };
        let name = socket_name(&args("default"), "a");
        assert_eq!(name.len(), 64);
        assert_eq!(name, socket_name(&args("default"), "a"));
        assert_ne!(name, socket_name(&args("k8s.io"), "a"));
        assert_ne!(name, socket_name(&args("default"), "b"));
    }
}
