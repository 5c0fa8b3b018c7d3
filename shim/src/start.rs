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
use orlop_sys::rustix::process::{Signal, kill_process, setsid, umask};
use orlop_sys::{AsFd, Errno, OwnedFd};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::args::Args;
use crate::log;
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

/// What `start` is told beside its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    /// The runtime's options.
    options: Options,
    /// Where sockets are made.
    directory: String,
    /// Where events go; empty for what the environment says.
    events: String,
    /// How important the daemon's words have to be.
    level: i32,
    answer: Form,
}

/// How the address is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As it is: every containerd before 2.3 reads it, as version 2.
    Plain,
    /// `BootstrapResult`.
    Bootstrap,
}

impl Told {
    /// Reads stdin: `BootstrapParams` of containerd 2.3 and later, or an `Any` with the options, or nothing.
    fn read(args: &Args, input: &[u8]) -> Result<Self, String> {
        let read = |any: &Any<'_>| Options::read(any).map_err(|status| status.message);
        let bootstrap = Bootstrap::read(input).ok();
        // An Any reads as one of these too, but then it is not about us.
        let Some(bootstrap) = bootstrap.filter(|b| b.instance_id == args.id && b.namespace == args.namespace) else {
            let options = Any::read(input).ok().map(|any| read(&any)).transpose()?.flatten().unwrap_or_default();
            let directory = SOCKETS.to_owned();
            return Ok(Self { options, directory, events: String::new(), level: args.level, answer: Form::Plain });
        };
        let options = bootstrap.extensions.iter().find_map(|any| read(any).transpose()).transpose()?;
        let directory = if bootstrap.socket_dir.is_empty() { SOCKETS } else { bootstrap.socket_dir };
        if !directory.starts_with('/') {
            return Err(format!("socket_dir: {directory}: not an absolute path"));
        }
        Ok(Self {
            options: options.unwrap_or_default(),
            directory: directory.trim_end_matches('/').to_owned(),
            events: bootstrap.ttrpc_address.to_owned(),
            // -debug says more, whatever else is said.
            level: match (args.level, bootstrap.log_level.cast_signed()) {
                (log::INFO, level) => level,
                (flag, level) => flag.min(level),
            },
            answer: Form::Bootstrap,
        })
    }
}

/// Starts a daemon, or finds the one that serves this container's group. What is to be printed.
///
/// # Errors
/// What went wrong, in a sentence.
pub fn start(args: &Args) -> Result<Vec<u8>, String> {
    let input = read_all(&orlop_sys::rustix::stdio::stdin()).map_err(said("read stdin"))?;
    let told = Told::read(args, &input)?;
    let path = format!("{}/{}", told.directory, socket_name(args, &group(args)?));
    let address = format!("unix://{path}");
    // Before there is a socket, so that `delete` finds that of a start which was killed half-way.
    write_file("address", address.as_bytes()).map_err(said("address"))?;
    if let Some(listener) = listen_at(&told.directory, &path).map_err(said(&path))?
        && let Err(text) = leave_daemon(args, &listener, &told)
    {
        let _ = unlinkat(CWD, &path, AtFlags::empty());
        return Err(text);
    }
    Ok(match told.answer {
        Form::Plain => address.into_bytes(),
        Form::Bootstrap => Message::new().number(1, 3u32).text(2, &address).text(3, "ttrpc").0,
    })
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
fn leave_daemon(args: &Args, listener: &OwnedFd, told: &Told) -> Result<(), String> {
    let (complaint, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(said("pipe"))?;
    let name = std::env::args().next().unwrap_or_default();
    let mut arguments = vec![name, "-namespace".into(), args.namespace.clone(), "-id".into(), args.id.clone()];
    arguments.extend(["-address".to_owned(), args.address.clone()]);
    if told.level != log::INFO {
        arguments.push(format!("-log-level={}", told.level));
    }
    let child = fork(|| {
        let text = match detach(listener) {
            Ok(()) => match selfexe::run_protected(&arguments, environment(&told.events)) {
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
    let finish = || {
        let cgroup = &told.options.shim_cgroup;
        if !cgroup.is_empty() {
            join_cgroup(cgroup, pid).map_err(|e| format!("ShimCgroup: {}", said(cgroup)(e)))?;
        }
        let text = read_all(&complaint).map_err(said("read from the daemon"))?;
        if text.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&text).into_owned()) }
    };
    finish().inspect_err(|_| {
        // Nobody would find it any more. It is our child, and its number its own until we are gone.
        let _ = kill_process(child.pid, Signal::KILL);
    })
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
    let cgroup = orlop::path::clean(cgroup);
    if read_file(&format!("{MOUNT}/cgroup.controllers")).is_ok() {
        let path = format!("{MOUNT}{cgroup}");
        for (at, _) in path.match_indices('/').skip(3) {
            make_directory(path.get(..at).unwrap_or_default(), 0o755)?;
        }
        make_directory(&path, 0o755)?;
        return write_existing(&format!("{path}/cgroup.procs"), &pid.to_string());
    }
    let mut joined = Err(Errno::NOENT);
    for hierarchy in std::fs::read_dir(Path::new(MOUNT)).map_err(|_| Errno::NOENT)?.flatten() {
        let name = hierarchy.file_name();
        let path = format!("{MOUNT}/{}{cgroup}/cgroup.procs", name.to_string_lossy());
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
    fn what_start_is_told_depends_on_who_tells_it() {
        let args = |level| Args { id: "c1".into(), namespace: "ns".into(), level, ..Args::default() };
        let runc = crate::message::any("containerd.runc.v1.Options", &Message::new().text(7, "/r").0);
        let generic = Message::new().bytes(3, b"Root = \"/g\"");
        let generic = crate::message::any("types.containerd.io/runtimeoptions.v1.Options", &generic.0);
        let other = crate::message::any("somebody.elses.Thing", b"\xff\xff");
        let extension = |any: &Message| Message::new().message(1, any);
        let params = || Message::new().text(1, "c1").text(2, "ns");
        let minus = |level: i64| level.cast_unsigned();

        let plain = |root: &str| Told {
            options: Options { root: root.into(), ..Options::default() },
            directory: SOCKETS.into(),
            events: String::new(),
            level: 0,
            answer: Form::Plain,
        };
        let new = |root: &str| Told { answer: Form::Bootstrap, ..plain(root) };
        let all = params().number(3, minus(-8)).text(4, "2.3.0").text(5, "/e.ttrpc").text(6, "/e").text(7, "/c");
        let all = all.message(8, &extension(&other)).message(8, &extension(&runc)).text(9, "/s/");
        for (name, input, want) in [
            ("1.6 without options", Message::new(), plain("")),
            ("runc's options", runc.clone(), plain("/r")),
            ("generic options", generic.clone(), plain("/g")),
            ("options of nobody", other.clone(), plain("")),
            ("noise", Message(b"\x0a\xff\x01".to_vec()), plain("")),
            ("JSON", Message(b"{\"instance_id\":\"c1\"}".to_vec()), plain("")),
            ("2.3", params(), new("")),
            ("2.3, of another container", Message::new().text(1, "c2").text(2, "ns"), plain("")),
            ("2.3, of another namespace", Message::new().text(1, "c1").text(2, "other"), plain("")),
            ("2.3, all of it", all, Told { directory: "/s".into(), events: "/e.ttrpc".into(), level: -8, ..new("/r") }),
            ("2.3, generic", params().message(8, &extension(&generic)), new("/g")),
            (
                "2.3, the first counts",
                params().message(8, &extension(&generic)).message(8, &extension(&runc)),
                new("/g"),
            ),
            ("2.3, errors only", params().number(3, 8u32), Told { level: 8, ..new("") }),
            ("2.3, from a later version", params().text(99, "x").number(98, 7u32), new("")),
        ] {
            assert_eq!(Told::read(&args(0), &input.0), Ok(want), "{name}");
        }
        assert_eq!(Told::read(&args(log::DEBUG), &params().0).unwrap().level, log::DEBUG);

        let broken = crate::message::any("runtimeoptions.v1.Options", &Message::new().bytes(3, b"Root").0);
        for (input, why) in [
            (broken.clone(), "config_body: line 1: not TOML"),
            (params().message(8, &extension(&broken)), "config_body: line 1: not TOML"),
            (params().text(9, "s"), "socket_dir: s: not an absolute path"),
        ] {
            assert_eq!(Told::read(&args(0), &input.0), Err(why.to_owned()));
        }
    }

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
