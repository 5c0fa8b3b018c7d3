//! Hooks, as seen by the host: each is started, gets the state on stdin, and is watched until it ends.
//!
//! A hook is over when its own process is over. What it leaves behind (a daemon that holds the output open) is not
//! waited for; what it leaves behind past its deadline is killed with it, as one process group. Nothing here can block
//! on a hook that does not read, and its output costs at most [`OUTPUT_TAIL`] bytes of memory for each stream.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::fs::{MemfdFlags, OFlags, SeekFrom, fcntl_setfl, memfd_create, seek};
use orlop_sys::rustix::io::{read, retry_on_intr, write};
use orlop_sys::rustix::pipe::{PipeFlags, pipe_with};
use orlop_sys::rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_open, waitid,
};
use orlop_sys::signal::name_of;
use orlop_sys::{AsFd, Errno, OwnedFd};

use crate::config::{self, Hook};
use crate::error::{At, Error, ErrorKind, Result};

/// How much of a hook's output is kept for the error message: the last bytes of stdout, and of stderr.
pub const OUTPUT_TAIL: usize = 64 << 10;

/// How long a killed hook may take to die before it is left to its parent's reaper.
const DEATH: Duration = Duration::from_secs(5);

/// What a hook is started with. The three ends belong to the child; ours are kept by [`run`].
#[derive(Debug)]
pub struct Streams {
    /// Holds the whole state already, and then ends.
    pub stdin: OwnedFd,
    /// The writing end of a pipe.
    pub stdout: OwnedFd,
    /// The writing end of a pipe.
    pub stderr: OwnedFd,
}

/// A started hook: a child of this process that leads a process group of its own, and is not reaped by anyone else.
#[derive(Debug)]
pub struct Started {
    /// Its pid, which is its process group's too.
    pub pid: Pid,
    /// The same process.
    pub pidfd: OwnedFd,
}

/// Starts a hook: its path with exactly its args and env, in a process group of its own.
pub type Spawner<'a> = dyn FnMut(&Hook, Streams) -> Result<Started> + 'a;

/// Refuses hooks that can't be meant (config.md, "POSIX-platform Hooks"): the path must be absolute, the timeout
/// greater than zero.
pub fn check(hooks: &config::Hooks) -> Result<()> {
    for (name, list) in [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ] {
        for (i, hook) in list.iter().enumerate() {
            if !hook.path.starts_with('/') {
                return Err(Error::invalid(format_args!("hooks.{name}[{i}].path"), "not an absolute path"));
            }
            if hook.timeout.is_some_and(|t| t <= 0) {
                return Err(Error::invalid(format_args!("hooks.{name}[{i}].timeout"), "not greater than zero"));
            }
        }
    }
    Ok(())
}

/// Runs the hooks of one kind (`createRuntime`, ...) in their order, up to the first that fails.
pub fn run(hooks: &[Hook], name: &str, state: &[u8], spawn: &mut Spawner<'_>) -> Result<()> {
    hooks.iter().enumerate().try_for_each(|(i, hook)| numbered(name, i, run_one(hook, state, spawn)))
}

/// Runs all hooks of one kind, whatever becomes of each: poststop hooks are only warned about (runtime.md,
/// "Lifecycle", step 13). Returns the failures.
pub fn run_all(hooks: &[Hook], name: &str, state: &[u8], spawn: &mut Spawner<'_>) -> Vec<Error> {
    let all = hooks.iter().enumerate();
    all.filter_map(|(i, hook)| numbered(name, i, run_one(hook, state, spawn)).err()).collect()
}

fn numbered(name: &str, i: usize, result: Result<()>) -> Result<()> {
    result.map_err(|e| e.context(format_args!("error running {name} hook #{i}")))
}

/// A spawner of hooks that run where we run, in `cwd` (the bundle) if given.
pub fn on_the_host(cwd: Option<&Path>) -> impl FnMut(&Hook, Streams) -> Result<Started> {
    move |hook, streams| {
        let mut command = Command::new(&hook.path);
        if let Some((name, args)) = hook.args.split_first() {
            command.arg0(name).args(args);
        }
        command.env_clear();
        // An entry without `=` is no variable: nothing could look it up.
        command.envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
        if let Some(cwd) = cwd {
            command.current_dir(cwd);
        }
        command.stdin(Stdio::from(streams.stdin)).stdout(Stdio::from(streams.stdout));
        let child = command.stderr(Stdio::from(streams.stderr)).process_group(0).spawn();
        let child = child.at(|| format!("exec {}", hook.path))?;
        // The pid can't belong to another process: nobody has reaped this one.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| lost(&hook.path))?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Started { pid, pidfd }),
            Err(e) => {
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
                Err(Error::os(format_args!("open process {}", child.id()), e))
            }
        }
    }
}

fn lost(path: &str) -> Error {
    Error::new(ErrorKind::Os, format!("{path}: its exit status was lost (is SIGCHLD ignored?)"))
}

fn run_one(hook: &Hook, state: &[u8], spawn: &mut Spawner<'_>) -> Result<()> {
    // Before anything of the hook's can take time. A timeout beyond the clock's end is none.
    let deadline = hook.timeout.and_then(|t| Instant::now().checked_add(Duration::from_secs(t.max(0).unsigned_abs())));
    let pipe = || pipe_with(PipeFlags::CLOEXEC).at(|| "pipe");
    let (out, stdout) = pipe()?;
    let (err, stderr) = pipe()?;
    let streams = Streams { stdin: filled(state).at(|| "pass the state")?, stdout, stderr };
    let mut child = Child { started: spawn(hook, streams)?, reaped: false };

    let (mut out, mut err) = (Tail::new(out)?, Tail::new(err)?);
    let in_time = child.watch(deadline, &mut out, &mut err)?;
    let how = if in_time {
        match child.reap()?.ok_or_else(|| lost(&hook.path))? {
            End::Exited(0) => return Ok(()),
            End::Exited(status) => format!("exit status {status}"),
            End::Killed(signal) => format!("signal: {}", name_of(signal)),
        }
    } else {
        format!("hook ran past specified timeout of {:.1}s", hook.timeout.unwrap_or_default() as f64)
    };
    Err(Error::new(ErrorKind::Os, format!("{how}, stdout: {}, stderr: {}", out.text(), err.text())))
}

/// Something to read `bytes` from that needs nobody to write: a pipe that holds them already or, when they are too
/// many for one, a file in memory.
fn filled(bytes: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    if matches!(retry_on_intr(|| write(&writer, bytes)), Ok(n) if n == bytes.len()) {
        // Hooks expect a pipe that blocks.
        fcntl_setfl(&reader, OFlags::empty())?;
        return Ok(reader);
    }
    let file = memfd_create("state", MemfdFlags::CLOEXEC)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = retry_on_intr(|| write(&file, rest))?;
        rest = rest.get(n..).unwrap_or_default();
    }
    seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}

enum End {
    Exited(i32),
    Killed(i32),
}

/// A started hook that is killed with its group, and reaped, when it is dropped early.
struct Child {
    started: Started,
    reaped: bool,
}

impl Child {
    /// Waits for the end of the process and collects what it writes. False when the deadline came first; the group is
    /// dead then.
    fn watch(&mut self, deadline: Option<Instant>, out: &mut Tail, err: &mut Tail) -> Result<bool> {
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                self.kill();
                out.drain();
                err.drain();
                return Ok(false);
            }
            let left = left.map(timespec);
            // A pipe that has ended is left out: poll would report it for ever.
            let watched = std::iter::once(&self.started.pidfd).chain(&out.fd).chain(&err.fd);
            let mut fds: Vec<_> = watched.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            let n = poll(&mut fds, left.as_ref());
            match n {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::os("poll", e)),
            }
            let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
            out.read_some();
            err.read_some();
            if ended {
                out.drain();
                err.drain();
                return Ok(true);
            }
        }
    }

    /// How the process ended; it has. `None` if somebody else has reaped it.
    fn reap(&mut self) -> Result<Option<End>> {
        self.reaped = true;
        match retry_on_intr(|| {
            waitid(WaitId::PidFd(self.started.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
        }) {
            Ok(status) => Ok(status.as_ref().and_then(end)),
            Err(Errno::CHILD) => Ok(None),
            Err(e) => Err(Error::os("wait for the hook", e)),
        }
    }

    /// Kills the group. Its number can't be another's: the leader is not reaped yet.
    fn kill(&mut self) {
        let _ = kill_process_group(self.started.pid, Signal::KILL);
        let deadline = Instant::now() + DEATH;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.started.pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(left))) {
                Err(Errno::INTR) => {}
                _ => break,
            }
        }
        let _ = self.reap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
        }
    }
}

fn end(status: &WaitIdStatus) -> Option<End> {
    status.exit_status().map(End::Exited).or_else(|| status.terminating_signal().map(End::Killed))
}

fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(d.subsec_nanos()) }
}

/// The last bytes of what comes out of a pipe.
struct Tail {
    /// Absent when it has ended.
    fd: Option<OwnedFd>,
    bytes: Vec<u8>,
}

impl Tail {
    fn new(fd: OwnedFd) -> Result<Self> {
        fcntl_setfl(&fd, OFlags::NONBLOCK).at(|| "make a pipe non-blocking")?;
        Ok(Self { fd: Some(fd), bytes: vec![] })
    }

    /// Reads once, if there is anything.
    fn read_some(&mut self) -> usize {
        let Some(fd) = &self.fd else { return 0 };
        let mut buffer = [0; 16 << 10];
        match read(fd, &mut buffer) {
            Ok(n) if n > 0 => {
                self.bytes.extend_from_slice(buffer.get(..n).unwrap_or_default());
                // Twice the tail at most, so that a flood isn't moved for each piece of it.
                if self.bytes.len() > 2 * OUTPUT_TAIL {
                    self.bytes.drain(..self.bytes.len() - OUTPUT_TAIL);
                }
                n
            }
            Err(Errno::AGAIN | Errno::INTR) => 0,
            // The end. An error of a pipe can only be that there is nothing to read any more.
            Ok(_) | Err(_) => {
                self.fd = None;
                0
            }
        }
    }

    /// Reads what is in the pipe now; a survivor that goes on writing is not listened to for ever.
    fn drain(&mut self) {
        let mut seen = 0;
        while seen < (1 << 20) {
            match self.read_some() {
                0 => break,
                n => seen += n,
            }
        }
    }

    fn text(&self) -> String {
        let tail = self.bytes.len().saturating_sub(OUTPUT_TAIL);
        String::from_utf8_lossy(self.bytes.get(tail..).unwrap_or_default().trim_ascii_end()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Option<i64>) -> Hook {
        Hook { path: "/bin/sh".into(), args: vec!["sh".into(), "-c".into(), script.into()], env: vec![], timeout }
    }

    /// The error's text, and how long it took.
    fn outcome(hook: Hook, state: &[u8]) -> (String, Duration) {
        let start = Instant::now();
        let result = run(&[sh("true", None), hook], "createRuntime", state, &mut on_the_host(None));
        (result.err().map(|e| e.to_string()).unwrap_or_default(), start.elapsed())
    }

    #[test]
    fn a_failing_hook_is_reported_with_its_kind_its_place_and_its_last_words() {
        let (text, _) = outcome(sh("echo out; echo err >&2; exit 3", None), b"{}");
        assert_eq!(text, "error running createRuntime hook #1: exit status 3, stdout: out, stderr: err");
        let (text, _) = outcome(sh("kill -SEGV $$", None), b"{}");
        assert_eq!(text, "error running createRuntime hook #1: signal: SIGSEGV, stdout: , stderr: ");
        let (text, _) = outcome(Hook { path: "/nope".into(), ..Hook::default() }, b"{}");
        assert_eq!(text, "error running createRuntime hook #1: exec /nope: ENOENT (no such file or directory)");
    }

    #[test]
    fn a_hook_gets_the_state_its_args_and_exactly_its_environment() {
        let mut hook = sh("read -r state; echo $state; echo $0 $1; /usr/bin/env; exit 1", None);
        hook.args.extend(["zero".into(), "one".into()]);
        hook.env = vec!["PATH=/x".into(), "A=b=c".into(), "EMPTY=".into()];
        let (text, _) = outcome(hook, b"{\"id\":\"x\"}");
        let (_, words) = text.split_once("stdout: ").unwrap();
        let mut lines: Vec<_> = words.split_once(", stderr").unwrap().0.lines().collect();
        assert_eq!(lines.drain(..2).collect::<Vec<_>>(), ["{\"id\":\"x\"}", "zero one"]);
        // What a shell adds itself.
        lines.retain(|l| !["PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|own| l.starts_with(own)));
        lines.sort_unstable();
        assert_eq!(lines, ["A=b=c", "EMPTY=", "PATH=/x"]);
    }

    #[test]
    fn the_first_arg_is_argv_0_and_the_directory_is_the_one_given() {
        let mut hook = sh("", None);
        hook.args = ["weird", "-c", "echo $0; pwd; exit 1"].map(String::from).to_vec();
        let e = run(&[hook], "poststop", b"", &mut on_the_host(Some(Path::new("/usr")))).unwrap_err().to_string();
        assert!(e.contains("stdout: weird\n/usr, stderr"), "{e}");
    }

    #[test]
    fn a_hook_that_does_not_read_blocks_nobody_however_long_the_state() {
        for size in [0, 100, 65_536, 65_537, 5 << 20] {
            let state = vec![b'x'; size];
            let (text, took) = outcome(sh("true", Some(20)), &state);
            assert!(text.is_empty() && took < Duration::from_secs(5), "{size}: {text} {took:?}");
            let (text, _) = outcome(sh(&format!("test \"$(wc -c)\" = {size}"), None), &state);
            assert_eq!(text, "", "{size}");
        }
    }

    #[test]
    fn a_deadline_ends_the_hook_and_what_it_has_started() {
        let (text, took) = outcome(sh("echo begun; sleep 60 & echo $!; wait", Some(1)), b"{}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        let words = text
            .strip_prefix(
                "error running createRuntime hook #1: hook ran past specified timeout of 1.0s, stdout: begun\n",
            )
            .unwrap();
        let grandchild: i32 = words.split_once(',').unwrap().0.parse().unwrap();
        let dead = |pid| crate::container::process(pid).unwrap().is_none_or(|p| p.is_zombie);
        let give_up = Instant::now() + Duration::from_secs(5);
        while !dead(grandchild) {
            assert!(Instant::now() < give_up, "the grandchild {grandchild} outlived the deadline");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_daemon_that_holds_the_output_open_is_not_waited_for() {
        for timeout in [None, Some(20)] {
            let (text, took) = outcome(sh("sleep 8 & exit 0", timeout), b"{}");
            assert!(text.is_empty() && took < Duration::from_secs(4), "{text} {took:?}");
        }
    }

    #[test]
    fn a_hook_that_closes_its_output_is_waited_for() {
        let (text, took) = outcome(sh("exec >&- 2>&-; sleep 0.3; exit 4", Some(20)), b"{}");
        assert_eq!(text, "error running createRuntime hook #1: exit status 4, stdout: , stderr: ");
        assert!(took >= Duration::from_millis(300));
    }

    #[test]
    fn of_a_flood_the_end_is_kept() {
        let (text, _) =
            outcome(sh("dd if=/dev/zero bs=1M count=8 2>/dev/null | tr '\\0' x; echo last; exit 1", Some(60)), b"");
        assert!(text.contains("xxlast, stderr: "), "{}", text.len());
        assert!(text.len() < OUTPUT_TAIL + 200, "{}", text.len());
        // A survivor that floods for ever neither.
        let (text, took) = outcome(sh("yes & echo $! >&2; exit 1", Some(20)), b"");
        assert!(took < Duration::from_secs(10), "{took:?}");
        let survivor: i32 = text.rsplit_once("stderr: ").unwrap().1.parse().unwrap();
        let _ = orlop_sys::rustix::process::kill_process(Pid::from_raw(survivor).unwrap(), Signal::KILL);
    }

    #[test]
    fn the_first_failure_stops_the_rest_except_after_the_end() {
        let hooks = [sh("exit 1", None), sh("exit 2", None)];
        let e = run(&hooks, "poststart", b"", &mut on_the_host(None)).unwrap_err().to_string();
        assert!(e.starts_with("error running poststart hook #0: exit status 1"), "{e}");
        let all = run_all(&hooks, "poststop", b"", &mut on_the_host(None));
        assert_eq!(all.len(), 2);
        assert!(all[1].to_string().starts_with("error running poststop hook #1: exit status 2"));
    }

    #[test]
    fn no_hook_is_left_behind_as_a_zombie_or_an_open_file() {
        let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let once = || drop(run(&[sh("exit 1", Some(5)), sh("true", None)], "x", b"s", &mut on_the_host(None)));
        once();
        let before = fds();
        (0..20).for_each(|_| once());
        // Tests beside this one open files, too, but not hundreds.
        assert!(fds() < before + 40, "{} -> {}", before, fds());
    }

    #[test]
    fn a_hook_that_cannot_be_meant_is_refused_with_its_path() {
        let hook = |path: &str, timeout| Hook { path: path.into(), timeout, ..Hook::default() };
        let ok = hook("/bin/true", Some(1));
        let with = |bad| config::Hooks { poststop: vec![ok.clone(), bad], ..config::Hooks::default() };
        check(&with(ok.clone())).unwrap();
        for (bad, want) in [
            (hook("bin/true", None), "hooks.poststop[1].path: not an absolute path"),
            (hook("", None), "hooks.poststop[1].path: not an absolute path"),
            (hook("/bin/true", Some(0)), "hooks.poststop[1].timeout: not greater than zero"),
            (hook("/bin/true", Some(-1)), "hooks.poststop[1].timeout: not greater than zero"),
        ] {
            assert_eq!(check(&with(bad)).unwrap_err().to_string(), want);
        }
        // The clock's end is no deadline.
        run(&[hook("/bin/true", Some(i64::MAX))], "x", b"", &mut on_the_host(None)).unwrap();
    }
}
