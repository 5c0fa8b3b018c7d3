//! Attempts: each verb does one thing and reports how it went.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{AtFlags, FileType, Mode};
use serde_json::{Map, Value, json};

/// What a verb comes to.
pub(crate) enum Answer {
    /// One line of output.
    Say(Value),
    /// End here with this exit status.
    Exit(u8),
}

/// The result of an attempt: facts to add to the answer, or why it failed.
type Attempt = io::Result<Value>;

/// Performs one verb. An unknown verb or a missing argument is answered with `"errno":"EINVAL"`.
///
/// | verb | does |
/// |---|---|
/// | `facts` | everything of [`crate::facts::all`] |
/// | `echo WORDS` | repeats its words |
/// | `exit N`, `signal NAME` | ends with that status; kills itself |
/// | `stat PATH`, `list PATH`, `read PATH`, `readlink PATH` | looks |
/// | `write PATH TEXT`, `create PATH`, `mkdir PATH`, `mknod PATH`, `symlink TARGET PATH`, `remove PATH`, `chmod PATH MODE`, `chown PATH UID GID` | changes |
/// | `open PATH` | opens for reading without reading |
/// | `exec PATH ARGS` | runs a program and reports its status and output |
/// | `stdin` | reads standard input to its end |
/// | `stderr TEXT`, `print TEXT` | writes bare text to that stream |
/// | `wait` | says "ready", then reports signals until SIGTERM, SIGINT, SIGHUP or SIGQUIT |
/// | `sleep SECONDS` | sleeps |
/// | `children N` | starts N children that sleep for a minute |
/// | `orphan` | starts a child that starts a sleeper and ends: the sleeper loses its parent |
/// | `alloc MIB` | touches that much memory |
/// | `call NAME ARGS` | one system call: see [`call`] |
/// | `hook OUT [NAME VALUE]...` | acts as a hook: see [`hook`] |
/// | `hunt SECONDS` | looks for processes of the runtime: see [`hunt`] |
/// | `connect PATH` | connects to a Unix socket |
pub(crate) fn perform(words: &[String]) -> Answer {
    let mut words = words.iter().map(String::as_str);
    let verb = words.next().unwrap_or("facts");
    let args: Vec<&str> = words.collect();
    let arg = |index: usize| args.get(index).copied().ok_or_else(|| io::Error::from(Errno::EINVAL));
    let attempt = || -> Attempt {
        match verb {
            "facts" => Ok(crate::facts::all()),
            "echo" => Ok(json!({ "words": args })),
            "stat" => stat(arg(0)?),
            "list" => list(arg(0)?),
            "read" => fs::read(arg(0)?).map(|bytes| json!({ "text": String::from_utf8_lossy(&bytes) })),
            "readlink" => fs::read_link(arg(0)?).map(|target| json!({ "target": target })),
            "open" => fs::File::open(arg(0)?).map(|_| json!({})),
            "write" => OpenOptions::new().write(true).open(arg(0)?)?.write_all(arg(1)?.as_bytes()).map(|()| json!({})),
            "create" => OpenOptions::new().write(true).create(true).truncate(true).open(arg(0)?).map(|_| json!({})),
            "mkdir" => fs::create_dir(arg(0)?).map(|()| json!({})),
            "mknod" => mknod(arg(0)?),
            "symlink" => std::os::unix::fs::symlink(arg(0)?, arg(1)?).map(|()| json!({})),
            "remove" => fs::remove_file(arg(0)?).map(|()| json!({})),
            "chmod" => fs::set_permissions(arg(0)?, fs::Permissions::from_mode(octal(arg(1)?)?)).map(|()| json!({})),
            "chown" => {
                std::os::unix::fs::chown(arg(0)?, Some(number(arg(1)?)?), Some(number(arg(2)?)?)).map(|()| json!({}))
            }
            "exec" => execute(arg(0)?, args.get(1..).unwrap_or_default()),
            "stdin" => {
                let mut text = Vec::new();
                io::stdin().read_to_end(&mut text)?;
                Ok(json!({ "text": String::from_utf8_lossy(&text), "bytes": text.len() }))
            }
            "print" => io::stdout().write_all(arg(0)?.as_bytes()).map(|()| json!({})),
            "stderr" => io::stderr().write_all(arg(0)?.as_bytes()).map(|()| json!({})),
            "wait" => wait(),
            "sleep" => {
                std::thread::sleep(Duration::from_secs_f64(arg(0)?.parse().unwrap_or(0.0)));
                Ok(json!({}))
            }
            "children" => children(number(arg(0)?)?),
            "orphan" => orphan(),
            "alloc" => Ok(json!({ "bytes": alloc(number(arg(0)?)?) })),
            "call" => call(arg(0)?, args.get(1..).unwrap_or_default()),
            "hook" => hook(arg(0)?, args.get(1..).unwrap_or_default()),
            "hunt" => Ok(hunt(Duration::from_secs_f64(arg(0)?.parse().unwrap_or(1.0)))),
            "connect" => std::os::unix::net::UnixStream::connect(arg(0)?).map(|_| json!({})),
            "signal" => {
                let signal = arg(0)?.parse::<Signal>()?;
                nix::sys::signal::raise(signal)?;
                Ok(json!({}))
            }
            _ => Err(Errno::EINVAL.into()),
        }
    };
    if verb == "exit" {
        return Answer::Exit(args.first().and_then(|text| text.parse().ok()).unwrap_or(0));
    }
    let outcome = attempt();
    if let (Ok(answer), "hook") = (&outcome, verb)
        && let Some(status) = answer["exit"].as_u64()
    {
        return Answer::Exit(u8::try_from(status).unwrap_or(u8::MAX));
    }
    Answer::Say(answer(verb, outcome))
}

/// The verb's name and how it went, over the facts that it found.
fn answer(verb: &str, outcome: Attempt) -> Value {
    let mut answer = Map::new();
    answer.insert("verb".into(), verb.into());
    match outcome {
        Ok(Value::Object(facts)) => {
            answer.insert("ok".into(), true.into());
            answer.extend(facts);
        }
        Ok(fact) => {
            answer.insert("ok".into(), true.into());
            answer.insert("fact".into(), fact);
        }
        Err(error) => {
            answer.insert("ok".into(), false.into());
            answer.insert("errno".into(), errno(&error).into());
        }
    }
    Value::Object(answer)
}

/// `ENOENT`, or the number where the kernel's answer has no name (a seccomp filter may return any).
fn errno(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => match Errno::from_raw(number) {
            Errno::UnknownErrno => format!("E{number}"),
            known => format!("{known:?}"),
        },
        None => error.to_string(),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| Errno::EINVAL.into())
}

fn octal(text: &str) -> io::Result<u32> {
    u32::from_str_radix(text, 8).map_err(|_| Errno::EINVAL.into())
}

fn stat(path: &str) -> Attempt {
    let own = fs::symlink_metadata(path)?;
    let kind = own.file_type();
    let kind = if kind.is_symlink() {
        "symlink"
    } else if kind.is_dir() {
        "dir"
    } else if kind.is_char_device() {
        "char"
    } else if kind.is_block_device() {
        "block"
    } else if kind.is_fifo() {
        "fifo"
    } else if kind.is_socket() {
        "socket"
    } else {
        "file"
    };
    // A masked file is a device behind the same name, so what the path leads to matters as much as the name itself.
    let target = fs::metadata(path).ok();
    let rdev = target.as_ref().map_or(own.rdev(), MetadataExt::rdev);
    Ok(json!({
        "kind": kind,
        "mode": format!("{:04o}", own.mode() & 0o7777),
        "uid": own.uid(),
        "gid": own.gid(),
        "size": own.size(),
        "major": rustix::fs::major(rdev),
        "minor": rustix::fs::minor(rdev),
        "device": format!("{}:{}", rustix::fs::major(own.dev()), rustix::fs::minor(own.dev())),
        "inode": own.ino(),
        "target": fs::read_link(path).ok(),
    }))
}

fn list(path: &str) -> Attempt {
    let mut names: Vec<String> =
        fs::read_dir(path)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(json!({ "names": names }))
}

/// Makes a null device.
fn mknod(path: &str) -> Attempt {
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), null)?;
    Ok(json!({}))
}

fn execute(path: &str, args: &[&str]) -> Attempt {
    let output = Command::new(path).args(args).stdin(Stdio::null()).output()?;
    Ok(json!({
        "status": output.status.code(),
        "signal": output.status.signal(),
        "stdout": String::from_utf8_lossy(&output.stdout),
        "stderr": String::from_utf8_lossy(&output.stderr),
    }))
}

/// A blocked signal stays pending even for the first process of a pid namespace, for which an unhandled one is lost.
fn wait() -> Attempt {
    let mut awaited = SigSet::all();
    awaited.remove(Signal::SIGCHLD);
    awaited.thread_block()?;
    crate::say(&json!({ "verb": "wait", "ready": true, "pid": std::process::id() }));
    loop {
        let signal = awaited.wait()?;
        let size = rustix::termios::tcgetwinsize(io::stdin()).ok();
        crate::say(&json!({
            "verb": "wait", "signal": signal.as_str(),
            "rows": size.map(|size| size.ws_row), "columns": size.map(|size| size.ws_col),
        }));
        if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT) {
            return Ok(json!({ "done": true }));
        }
    }
}

/// This program again; by its path, because `/proc` may be missing.
fn myself() -> Command {
    let mut command = Command::new("/probe");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn children(count: u32) -> Attempt {
    let mut started = Vec::new();
    for _ in 0..count {
        match myself().args(["sleep", "60"]).spawn() {
            Ok(child) => started.push(child.id()),
            Err(error) => return Ok(json!({ "started": started.len(), "stopped_by": errno(&error) })),
        }
    }
    Ok(json!({ "started": started.len(), "pids": started }))
}

fn orphan() -> Attempt {
    // The child starts the sleeper and ends without waiting for it.
    myself().args(["children", "1"]).spawn()?.wait()?;
    Ok(json!({}))
}

fn alloc(mib: usize) -> usize {
    const PAGE: usize = 4096;
    let mut memory = vec![0_u8; mib.saturating_mul(1 << 20)];
    // Zeroed memory is not charged before it is written to.
    for page in memory.chunks_mut(PAGE) {
        if let Some(first) = page.first_mut() {
            *first = 1;
        }
    }
    std::hint::black_box(&memory).len()
}

/// One system call by name, chosen so that each can be made without consequences.
///
/// `socket DOMAIN`, `seek OFFSET` (of standard input: its 64-bit second argument), `getcwd`, `sethostname NAME`,
/// `setdomainname`-like calls by their files, `unshare user|mount|uts|net|ipc|pid`, `mount PATH` (a tmpfs), `umount PATH`,
/// `chroot PATH`, `personality HEX`, `memfd`, `sched_yield`, `setuid N`, `setgid N`, `openat2 PATH`, `nice N`, `chmod`-like
/// ones by their verbs, `kill PID`, `setsid`.
fn call(name: &str, args: &[&str]) -> Attempt {
    let arg = |index: usize| args.get(index).copied().ok_or_else(|| io::Error::from(Errno::EINVAL));
    match name {
        "socket" => {
            let family = rustix::net::AddressFamily::from_raw(number(arg(0)?)?);
            rustix::net::socket(family, rustix::net::SocketType::STREAM, None)?;
        }
        "seek" => {
            let at = rustix::fs::seek(io::stdin(), rustix::fs::SeekFrom::Start(number(arg(0)?)?))?;
            return Ok(json!({ "at": at }));
        }
        "getcwd" => return Ok(json!({ "cwd": std::env::current_dir()? })),
        "sethostname" => nix::unistd::sethostname(arg(0)?)?,
        "unshare" => nix::sched::unshare(match arg(0)? {
            "user" => CloneFlags::CLONE_NEWUSER,
            "mount" => CloneFlags::CLONE_NEWNS,
            "uts" => CloneFlags::CLONE_NEWUTS,
            "net" => CloneFlags::CLONE_NEWNET,
            "ipc" => CloneFlags::CLONE_NEWIPC,
            "pid" => CloneFlags::CLONE_NEWPID,
            _ => return Err(Errno::EINVAL.into()),
        })?,
        "mount" => rustix::mount::mount("tmpfs", arg(0)?, "tmpfs", rustix::mount::MountFlags::empty(), None)?,
        "umount" => rustix::mount::unmount(arg(0)?, rustix::mount::UnmountFlags::DETACH)?,
        "remount_rw" => rustix::mount::mount_remount(arg(0)?, rustix::mount::MountFlags::BIND, "")?,
        "chroot" => rustix::process::chroot(arg(0)?)?,
        "personality" => {
            let bits = number::<u32>(arg(0)?)?;
            let persona = nix::sys::personality::Persona::from_bits_retain(bits.cast_signed());
            nix::sys::personality::set(persona)?;
        }
        "memfd" => {
            rustix::fs::memfd_create("probe", rustix::fs::MemfdFlags::CLOEXEC)?;
        }
        "sched_yield" => rustix::thread::sched_yield(),
        "setuid" => nix::unistd::setuid(nix::unistd::Uid::from_raw(number(arg(0)?)?))?,
        "setgid" => nix::unistd::setgid(nix::unistd::Gid::from_raw(number(arg(0)?)?))?,
        "openat2" => {
            let none = rustix::fs::ResolveFlags::empty();
            let read = rustix::fs::OFlags::RDONLY;
            rustix::fs::openat2(rustix::fs::CWD, arg(0)?, read, Mode::empty(), none)?;
        }
        "kill" => {
            let pid = rustix::process::Pid::from_raw(number(arg(0)?)?).ok_or(Errno::EINVAL)?;
            rustix::process::test_kill_process(pid)?;
        }
        "setsid" => {
            rustix::process::setsid()?;
        }
        "access" => {
            rustix::fs::accessat(rustix::fs::CWD, arg(0)?, rustix::fs::Access::EXISTS, AtFlags::empty())?;
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(json!({}))
}

/// Appends what a hook sees to the file OUT as one line of JSON: its standard input, arguments, environment, namespaces, and
/// whether the paths in `look` exist.
///
/// Options: `look PATH` (repeatable), `exit N`, `sleep SECONDS`, `fork SECONDS` (leaves a child behind that holds the
/// pipes), `name TEXT`, `blind` with any value (does not read its standard input).
fn hook(out: &str, options: &[&str]) -> Attempt {
    let pairs: Vec<(&str, &str)> = options
        .chunks(2)
        .filter_map(|pair| match pair {
            [key, value] => Some((*key, *value)),
            _ => None,
        })
        .collect();
    let option = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let mut input = String::new();
    if option("blind").is_none() {
        io::stdin().read_to_string(&mut input)?;
    }
    let mut seen = crate::facts::all();
    if let Some(facts) = seen.as_object_mut() {
        let looks: Map<String, Value> = pairs
            .iter()
            .filter(|(key, _)| *key == "look")
            .map(|(_, path)| ((*path).to_owned(), fs::symlink_metadata(path).is_ok().into()))
            .collect();
        facts.insert("name".into(), option("name").into());
        facts.insert("state".into(), serde_json::from_str(&input).unwrap_or(Value::Null));
        facts.insert("look".into(), looks.into());
    }
    let mut file = OpenOptions::new().append(true).create(true).open(out)?;
    writeln!(file, "{seen}")?;
    drop(file);
    if let Some(seconds) = option("fork") {
        let me = std::env::current_exe()?;
        Command::new(me).args(["sleep", seconds]).spawn()?;
    }
    if let Some(seconds) = option("sleep") {
        std::thread::sleep(Duration::from_secs_f64(seconds.parse().unwrap_or(0.0)));
    }
    Ok(json!({ "exit": option("exit").and_then(|text| text.parse::<u8>().ok()).unwrap_or(0) }))
}

/// Looks for a while at every process that appears, and tries on each what a hostile container would: open its executable
/// for writing, read its list of fds.
///
/// The answer has the executables that were opened for writing, and those of processes that are not this program whose
/// fds could be listed, by name; and how many foreign processes were seen at all, without which the rest says nothing.
fn hunt(time: Duration) -> Value {
    let mine = fs::metadata("/proc/self/exe").map(|exe| (exe.dev(), exe.ino())).ok();
    let end = Instant::now() + time;
    let (mut writable, mut listed, mut seen) = (Vec::new(), Vec::new(), 0_u64);
    while Instant::now() < end {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let exe = format!("/proc/{name}/exe");
            let owner = fs::metadata(&exe).map(|exe| (exe.dev(), exe.ino())).ok();
            let stranger = owner.is_none() || owner != mine;
            if !stranger {
                continue;
            }
            seen += 1;
            if OpenOptions::new().write(true).open(&exe).is_ok() {
                writable.push(name.clone());
            }
            // The program that is started has its standard streams by right.
            let fds = fs::read_dir(format!("/proc/{name}/fd")).into_iter().flatten().flatten();
            let fds: Vec<_> = fds
                .filter(|fd| !["0", "1", "2"].iter().any(|stream| fd.file_name() == *stream))
                .filter_map(|fd| fs::read_link(fd.path()).ok())
                .collect();
            // It may have become the program in the meantime.
            if owner == fs::metadata(&exe).map(|exe| (exe.dev(), exe.ino())).ok() {
                listed.extend(fds);
            }
        }
    }
    json!({ "seen": seen, "writable": writable, "fds": listed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str]) -> Value {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        match perform(&words) {
            Answer::Say(value) => value,
            Answer::Exit(status) => panic!("ended with {status}"),
        }
    }

    #[test]
    fn an_attempt_that_fails_is_an_answer_with_the_errno_by_name() {
        assert_eq!(said(&["read", "/nowhere/at/all"]), json!({ "verb": "read", "ok": false, "errno": "ENOENT" }));
    }

    #[test]
    fn an_unknown_verb_and_a_missing_argument_are_answered_with_einval() {
        assert_eq!(said(&["juggle"])["errno"], "EINVAL");
        assert_eq!(said(&["read"])["errno"], "EINVAL");
    }

    #[test]
    fn an_errno_without_a_name_is_given_by_number() {
        assert_eq!(errno(&io::Error::from_raw_os_error(1234)), "E1234");
    }

    #[test]
    fn exit_ends_with_the_status_asked_for() {
        assert!(matches!(perform(&["exit".into(), "7".into()]), Answer::Exit(7)));
    }
}
