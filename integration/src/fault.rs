//! Faults at single system calls: a command runs under ptrace(2) until one of its processes is about to make the call
//! that was asked for, and there it is killed, or the call fails.
//!
//! Only the process that the fault is meant for stops at its calls, the others run freely, so a fault costs
//! milliseconds. A process is counted from the execve that makes it the runtime's (the shell before it is ours) to the
//! one that makes it the container's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What happens to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, before the call.
    Kill,
    /// The call is not made and fails so. close(2) is made: it takes the fd away however it ends.
    Error(Errno),
}

/// A system call of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The command itself is 0, the first process that it makes is 1, ...
    pub process: usize,
    /// The calls of that process count from 0.
    pub call: usize,
}

/// How a command with a fault ended.
#[derive(Debug)]
pub struct Outcome {
    /// The command's own end.
    pub status: ExitStatus,
    /// The calls that each of its processes made; with a fault only those of the one it was meant for.
    pub calls: Vec<usize>,
    /// The number of the call that was hit (of the kernel's table), if it was reached and can fail.
    pub hit: Option<u64>,
    /// It had to be killed since it took too long.
    pub hung: bool,
}

/// One process under ptrace.
struct Tracee {
    index: usize,
    /// It has become the runtime, and not yet the container's program.
    counts: bool,
    /// Its call under way is to end with this error.
    failing: Option<Errno>,
}

struct Tracer {
    main: Pid,
    program: PathBuf,
    fault: Option<(Point, Fault)>,
    tracees: BTreeMap<Pid, Tracee>,
    /// For the watchdog.
    alive: Arc<Mutex<Vec<Pid>>>,
    calls: Vec<usize>,
    hit: Option<u64>,
}

/// Runs a command with a fault, or counts its calls without one. Its standard error goes to the file `log`.
///
/// The calling thread must have no other children.
#[allow(clippy::zombie_processes, reason = "waitpid(2), which also tells of its stops")]
pub fn run(argv: &[String], log: &Path, fault: Option<(Point, Fault)>) -> Outcome {
    // The shell waits until it is attached, and is no more.
    let script = "read attached; exec \"$@\" </dev/null";
    let mut child = Command::new("/bin/sh")
        .args(["-c", script, "sh"])
        .args(argv)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(File::create(log).unwrap())
        .spawn()
        .unwrap();
    let main = Pid::from_raw(child.id().cast_signed());
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK;
    ptrace::seize(main, options).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();

    let alive = Arc::new(Mutex::new(vec![main]));
    let (done, watched) = channel::<()>();
    let watchdog = std::thread::spawn({
        let alive = Arc::clone(&alive);
        move || {
            let late = watched.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if late {
                // None of them is reaped but by the tracer, which takes it out of the list.
                alive.lock().unwrap().iter().for_each(|pid| {
                    let _ = kill(*pid, Signal::SIGKILL);
                });
            }
            late
        }
    });
    let first = Tracee { index: 0, counts: false, failing: None };
    let mut tracer = Tracer {
        main,
        program: argv[0].clone().into(),
        fault,
        tracees: BTreeMap::from([(main, first)]),
        alive,
        calls: vec![0],
        hit: None,
    };
    let status = tracer.until_main_ends();
    tracer.release();
    drop(done);
    let hung = watchdog.join().unwrap();
    Outcome { status, calls: tracer.calls, hit: tracer.hit, hung }
}

impl Tracer {
    fn until_main_ends(&mut self) -> ExitStatus {
        loop {
            // Of this thread only: other tests have children, too.
            match waitpid(None::<Pid>, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).unwrap() {
                WaitStatus::Exited(pid, code) => {
                    self.forget(pid);
                    if pid == self.main {
                        return ExitStatus::from_raw(code << 8);
                    }
                }
                WaitStatus::Signaled(pid, signal, _) => {
                    self.forget(pid);
                    if pid == self.main {
                        return ExitStatus::from_raw(signal as i32);
                    }
                }
                WaitStatus::PtraceEvent(pid, _, event) => self.event(pid, event),
                WaitStatus::PtraceSyscall(pid) => self.call(pid),
                WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal)),
                _ => {}
            }
        }
    }

    fn forget(&mut self, pid: Pid) {
        self.tracees.remove(&pid);
        self.alive.lock().unwrap().retain(|other| *other != pid);
    }

    /// A process is known from its first stop, which may come before or after its parent's word of it.
    fn tracee(&mut self, pid: Pid) -> &mut Tracee {
        let calls = &mut self.calls;
        let alive = &self.alive;
        self.tracees.entry(pid).or_insert_with(|| {
            calls.push(0);
            alive.lock().unwrap().push(pid);
            Tracee { index: calls.len() - 1, counts: true, failing: None }
        })
    }

    fn event(&mut self, pid: Pid, event: i32) {
        let is_main = pid == self.main;
        let exec = event == libc::PTRACE_EVENT_EXEC;
        self.tracee(pid);
        if exec && is_main {
            // The shell's own execve may still be under way when it is attached.
            let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let runs = exe.file_name() == self.program.file_name();
            self.tracee(pid).counts |= runs;
        } else if exec {
            // The container's program, or a hook.
            self.forget(pid);
            let _ = ptrace::detach(pid, None);
            return;
        }
        if [libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_CLONE].contains(&event) {
            // Known from now on, so that it is let go even if its parent dies before it has come to its first stop.
            if let Ok(child) = ptrace::getevent(pid) {
                self.tracee(Pid::from_raw(i32::try_from(child).unwrap()));
            }
        }
        self.resume(pid, None);
    }

    fn call(&mut self, pid: Pid) {
        let Ok(info) = ptrace::syscall_info(pid) else { return };
        let entry = info.op == libc::PTRACE_SYSCALL_INFO_ENTRY;
        let wanted = self.fault;
        let tracee = self.tracee(pid);
        if !entry {
            if let Some(errno) = tracee.failing.take() {
                set_result(pid, errno);
            }
            return self.resume(pid, None);
        }
        let index = tracee.index;
        if !tracee.counts {
            return self.resume(pid, None);
        }
        let call = self.calls[index];
        self.calls[index] += 1;
        if let Some((point, fault)) = wanted
            && point == (Point { process: index, call })
        {
            let number = call_number(pid);
            match fault {
                Fault::Kill => {
                    self.hit = Some(number);
                    let _ = kill(pid, Signal::SIGKILL);
                    return;
                }
                Fault::Error(errno) if can_fail(number) => {
                    self.hit = Some(number);
                    if number != libc::SYS_close.cast_unsigned() {
                        leave_out(pid);
                    }
                    self.tracee(pid).failing = Some(errno);
                }
                Fault::Error(_) => {}
            }
        }
        self.resume(pid, None);
    }

    /// With stops at its calls only if there is something to see at them.
    fn resume(&self, pid: Pid, signal: Option<Signal>) {
        let stops = self.tracees.get(&pid).is_some_and(|tracee| {
            tracee.failing.is_some()
                || self.fault.is_none_or(|(point, _)| point.process == tracee.index && self.hit.is_none())
        });
        // It may have been killed meanwhile.
        let _ = if stops { ptrace::syscall(pid, signal) } else { ptrace::cont(pid, signal) };
    }

    /// Lets go of the processes that outlive the command: also of those that nobody has told of, because their parent
    /// was killed in the middle of the call that made them. Each comes to a stop, now or at its birth.
    fn release(&mut self) {
        for pid in self.tracees.keys() {
            let _ = ptrace::interrupt(*pid);
        }
        let give_up = Instant::now() + PATIENCE;
        loop {
            match waitpid(None::<Pid>, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Stopped(pid, signal)) => self.let_go(pid, Some(signal)),
                Ok(WaitStatus::PtraceEvent(pid, ..) | WaitStatus::PtraceSyscall(pid)) => self.let_go(pid, None),
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => self.forget(pid),
                Ok(_) => {
                    assert!(Instant::now() < give_up, "a process neither stops nor ends: {:?}", self.alive);
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(_) => return,
            }
        }
    }

    fn let_go(&mut self, pid: Pid, signal: Option<Signal>) {
        // The stop that was asked for is no signal of its own.
        let _ = ptrace::detach(pid, signal.filter(|signal| *signal != Signal::SIGTRAP && *signal != Signal::SIGSTOP));
        self.forget(pid);
    }
}

/// What does not return can't fail.
fn can_fail(number: u64) -> bool {
    [libc::SYS_exit, libc::SYS_exit_group, libc::SYS_rt_sigreturn].iter().all(|n| n.cast_unsigned() != number)
}

#[cfg(target_arch = "x86_64")]
fn call_number(pid: Pid) -> u64 {
    ptrace::getregs(pid).map_or(u64::MAX, |regs| regs.orig_rax)
}

#[cfg(target_arch = "x86_64")]
fn leave_out(pid: Pid) {
    let Ok(mut regs) = ptrace::getregs(pid) else { return };
    regs.orig_rax = u64::MAX;
    let _ = ptrace::setregs(pid, regs);
}

#[cfg(target_arch = "x86_64")]
fn set_result(pid: Pid, errno: Errno) {
    let Ok(mut regs) = ptrace::getregs(pid) else { return };
    regs.rax = i64::from(-(errno as i32)).cast_unsigned();
    let _ = ptrace::setregs(pid, regs);
}

/// Whether calls can be made to fail on this architecture.
pub const CAN_FAIL_CALLS: bool = cfg!(target_arch = "x86_64");

#[cfg(not(target_arch = "x86_64"))]
fn call_number(_: Pid) -> u64 {
    u64::MAX
}

#[cfg(not(target_arch = "x86_64"))]
fn leave_out(_: Pid) {}

#[cfg(not(target_arch = "x86_64"))]
fn set_result(_: Pid, _: Errno) {}
