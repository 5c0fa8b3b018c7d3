//! The living child: made, spoken with, and killed if it is dropped before it is somebody's container.

use std::collections::VecDeque;

use orlop_init::{Channel, Failure, MAX_MESSAGE, Message, Operation, Step};
use orlop_sys::clone::Cloned;
use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use orlop_sys::rustix::process::{
    Pid, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_getfd, pidfd_send_signal, waitid,
};
use orlop_sys::{AsFd, BorrowedFd, Errno, OwnedFd, fs};

use crate::error::{At, Error, ErrorKind, Result};
use crate::open::text;
use crate::plan::{Join, Plan};

/// A child that is ours to kill.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// In our pid namespace.
    pub(crate) pid: Pid,
    /// The same, for ever; nothing once it is released.
    pidfd: Option<OwnedFd>,
    channel: OwnedFd,
    /// What the child said before the process in between could say that there is a child.
    early: VecDeque<Heard>,
}

/// A message as it came: its bytes, how many they are, and an fd.
type Heard = ([u8; MAX_MESSAGE], usize, Option<OwnedFd>);

/// The two ends of a channel, until the child has one of them.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Stays here.
    pub(crate) parent: OwnedFd,
    /// Goes to the child.
    pub(crate) child: OwnedFd,
}

impl Ends {
    pub(crate) fn new() -> Result<Self> {
        let (parent, child) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).at(|| "socketpair")?;
        Ok(Self { parent, child })
    }
}

/// What a child has to say.
#[derive(Debug)]
pub(crate) enum Said {
    /// Mounts are there; it waits for the hooks.
    Mounted,
    /// Its terminal's master side.
    Terminal(OwnedFd),
    /// Its seccomp listener, fetched.
    Listener(OwnedFd),
    /// All is done but `execve`.
    Ready,
    /// It stopped.
    Failed(Failure),
    /// It is gone without a word: by a signal, or because it has become the user's program.
    Gone,
}

impl Spawned {
    /// Takes over a clone.
    pub(crate) fn new(cloned: Cloned, ends: Ends) -> Self {
        Self { pid: cloned.pid, pidfd: Some(cloned.pidfd), channel: ends.parent, early: VecDeque::new() }
    }

    /// The first process was in between: waits for the one that it has made, and for its own end.
    pub(crate) fn follow(&mut self) -> Result<std::result::Result<(), Failure>> {
        let (pid, pidfd) = loop {
            if !self.has_word()? {
                return Err(self.died());
            }
            let (bytes, length, fd) = self.channel().receive().at(|| "receive from init")?;
            match (bytes.get(..length).unwrap_or_default(), fd) {
                (&[tag, p0, p1, p2, p3], Some(pidfd)) if tag == Message::Child as u8 => {
                    match Pid::from_raw(i32::from_le_bytes([p0, p1, p2, p3])) {
                        Some(pid) => break (pid, pidfd),
                        None => return Err(self.died()),
                    }
                }
                ([], _) => {
                    let failure = self.early.iter().find_map(|(b, n, _)| Failure::decode(b.get(..*n)?));
                    return failure.map(Err).map_or_else(|| Err(self.died()), Ok);
                }
                // The child runs already, and may be the faster one.
                (_, fd) => self.early.push_back((bytes, length, fd)),
            }
        };
        let between = self.pidfd.replace(pidfd);
        self.pid = pid;
        if let Some(between) = &between {
            // It exits right after its message.
            let _ = waitid(WaitId::PidFd(between.as_fd()), WaitIdOptions::EXITED);
        }
        Ok(Ok(()))
    }

    /// Waits until there is something to receive; false if the first process is dead and there is nothing. The channel
    /// alone would not tell: the child that nobody has heard of may have the other end. (That one ends when it finds
    /// this end closed.)
    fn has_word(&self) -> Result<bool> {
        let channel = PollFd::new(&self.channel, PollFlags::IN);
        let wait = |fds: &mut [PollFd<'_>], timeout| {
            orlop_sys::rustix::io::retry_on_intr(|| poll(fds, timeout)).at(|| "poll").map(|ready| ready > 0)
        };
        let mut both = [channel.clone(), PollFd::from_borrowed_fd(self.pidfd(), PollFlags::IN)];
        wait(&mut both, None)?;
        let [channel, _] = &mut both;
        // Its last word may have come between the two looks.
        Ok(!channel.revents().is_empty() || wait(core::slice::from_mut(channel), Some(&Timespec::default()))?)
    }

    fn channel(&self) -> Channel<'_> {
        Channel(self.channel.as_fd())
    }

    /// Tells it something. A child that is gone has left its reason in the channel, or has none: that is no error.
    ///
    /// # Errors
    /// Whatever else the kernel says: the child would wait for ever, and so would we.
    pub(crate) fn tell(&self, message: Message) -> Result<()> {
        sent(self.channel().tell(message))
    }

    /// Hands it the source of a mount. Errors as those of [`tell`](Self::tell).
    pub(crate) fn hand(&self, tree: BorrowedFd<'_>) -> Result<()> {
        sent(self.channel().send_fd(&[Message::Source as u8], tree))
    }

    /// Waits for its next word.
    pub(crate) fn listen(&mut self) -> Result<Said> {
        let (bytes, length, fd) = match self.early.pop_front() {
            Some(heard) => heard,
            None => self.channel().receive().at(|| "receive from init")?,
        };
        let message = bytes.get(..length.min(MAX_MESSAGE)).unwrap_or_default();
        if let Some(failure) = Failure::decode(message) {
            return Ok(Said::Failed(failure));
        }
        match (message, fd) {
            ([], _) => Ok(Said::Gone),
            ([tag], _) if *tag == Message::Mounted as u8 => Ok(Said::Mounted),
            ([tag], _) if *tag == Message::Ready as u8 => Ok(Said::Ready),
            ([tag], Some(fd)) if *tag == Message::Terminal as u8 => Ok(Said::Terminal(fd)),
            (&[tag, n0, n1, n2, n3], _) if tag == Message::Listener as u8 => {
                let number = i32::from_le_bytes([n0, n1, n2, n3]);
                let listener = pidfd_getfd(self.pidfd(), number, PidfdGetfdFlags::empty());
                Ok(Said::Listener(listener.at(|| "fetch the seccomp listener")?))
            }
            _ => Err(Error::new(ErrorKind::Os, "init sent something that is no message")),
        }
    }

    /// Why it is gone without a word: the signal, if it was one. Reaps it.
    pub(crate) fn died(&self) -> Error {
        match waitid(WaitId::PidFd(self.pidfd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => Error::new(ErrorKind::Os, format!("init died unexpectedly ({})", outcome(&status))),
            _ => Error::new(ErrorKind::Os, "init died unexpectedly"),
        }
    }

    /// The process. (It has a pidfd until it is released, which is the end of this value.)
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_ref().unwrap_or(&self.channel).as_fd()
    }

    /// It is a process of its own now: somebody else's to wait for, or the caller's by what is returned.
    pub(crate) fn release(mut self) -> Result<(Pid, OwnedFd)> {
        let pidfd = self.pidfd.take().ok_or_else(|| Error::new(ErrorKind::Os, "init was released twice"))?;
        Ok((self.pid, pidfd))
    }
}

fn sent(result: std::result::Result<(), Errno>) -> Result<()> {
    match result {
        Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
        other => other.at(|| "send to init"),
    }
}

fn outcome(status: &WaitIdStatus) -> String {
    match status.terminating_signal() {
        Some(signal) => format!("signal {}", orlop_sys::signal::name_of(signal)),
        None => format!("exit status {}", status.exit_status().unwrap_or_default()),
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            // Either may fail only because it is gone and reaped already.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}

/// The words for a failure of the child, by the plan that it worked from.
pub(crate) fn explain(plan: &Plan<'_>, failure: &Failure) -> Error {
    let item = failure.item as usize;
    let place = || plan.operations.get(item).map(place).unwrap_or_default();
    let path = |list: &[&std::ffi::CStr]| list.get(item).map_or_else(String::new, |path| text(path).into_owned());
    let what = match failure.step {
        Step::Join => plan.namespaces.joins.get(item).map(join).unwrap_or_default(),
        Step::JoinUser => plan.namespaces.join_user.as_ref().map(join).unwrap_or_default(),
        Step::Cgroup => "join the container's cgroup".into(),
        Step::RootPropagation => "make all mounts private to the container".into(),
        Step::ParentPrivate => "make the parent mount of the rootfs private".into(),
        Step::RootfsPlace | Step::RootfsAttach => format!("mount the rootfs {}", text(plan.rootfs)),
        Step::MountTarget => format!("{}: open or make the mount point", place()),
        Step::MountOnProc => {
            let text = format!("{}: cannot be mounted because it is inside /proc", place());
            return Error::new(ErrorKind::InvalidSpec, text);
        }
        Step::MountType if failure.errno == Errno::NODEV => format!("{}: unknown file system type", place()),
        Step::MountType => place(),
        Step::MountOption => format!("{}: option `{}`", place(), option(plan, item, failure.part)),
        Step::MountCreate => format!("{}: make the file system", place()),
        Step::MountAttributes => format!("{}: set mount attributes", place()),
        Step::MountAttach => place(),
        Step::MountCopyUp => format!("{}: tmpcopyup", place()),
        Step::Symlink | Step::Device => place(),
        Step::DeviceWrong => {
            return Error::new(ErrorKind::Os, format!("{}: something else is there already", place()));
        }
        Step::Terminal => "open a terminal on the container's /dev/pts".into(),
        Step::Console => "mount the terminal on /dev/console".into(),
        Step::Pivot => "pivot_root".into(),
        Step::DetachOldRoot => "unmount the host's root".into(),
        Step::Chroot => "chroot".into(),
        Step::RootfsPropagation => "linux.rootfsPropagation".into(),
        Step::RootfsReadonly => "make the root read-only".into(),
        Step::Sysctl => {
            let sysctl = plan.sysctls.get(item).map_or_else(String::new, |(path, _)| text(path).into_owned());
            format!("linux.sysctl: write /proc/{sysctl}")
        }
        Step::ReadonlyPath => format!("make {} read-only", path(plan.readonly_paths)),
        Step::MaskedPath => format!("mask {}", path(plan.masked_paths)),
        Step::Keyring => "make the session keyring".into(),
        Step::Loopback => "bring up the loopback interface".into(),
        Step::Hostname => "set the hostname".into(),
        Step::Domainname => "set the domainname".into(),
        _ => return explain_process(&plan.process, text(plan.program).as_ref(), failure),
    };
    Error::os(what, failure.errno)
}

/// The words for a failure in what `create` and `exec` have in common. The phrases about the program are Go's, which
/// Docker and Podman look for.
pub(crate) fn explain_process(process: &orlop_init::Process<'_>, name: &str, failure: &Failure) -> Error {
    let cwd = text(process.cwd);
    let what = match failure.step {
        Step::NotFound => {
            return Error::new(ErrorKind::Os, format!("exec: \"{name}\": executable file not found in $PATH"));
        }
        Step::NotExecutable if failure.errno == Errno::NOENT => format!("exec: \"{name}\": stat {name}"),
        // execve says EACCES of a directory, too, and the engines' exit status of 126 rests on that phrase.
        Step::NotExecutable if failure.errno == Errno::ISDIR => {
            return Error::os(format!("exec: \"{name}\": is a directory"), Errno::ACCESS);
        }
        Step::NotExecutable => format!("exec: \"{name}\""),
        Step::Exec => format!("exec {name}"),
        Step::MakeCwd => format!("mkdir {cwd} (the working directory)"),
        Step::Cwd => format!("chdir to cwd (\"{cwd}\") set in config.json failed"),
        Step::CwdOutside => {
            let text = format!("cwd \"{cwd}\": current working directory is outside of container mount namespace root");
            return Error::new(ErrorKind::Os, text);
        }
        Step::Begin => "prepare the process".into(),
        Step::Protocol => "speak with the parent".into(),
        Step::BecomeRoot => "become root of the user namespace".into(),
        Step::CgroupNamespace => "make a cgroup namespace".into(),
        Step::TimeNamespace => "make a time namespace".into(),
        Step::TimeOffsets => "linux.timeOffsets: write /proc/self/timens_offsets".into(),
        Step::Clone => "clone3".into(),
        Step::Session => "setsid".into(),
        Step::Apparmor => "process.apparmorProfile: write /proc/self/attr/apparmor/exec".into(),
        Step::Selinux => "process.selinuxLabel: write /proc/self/attr/exec".into(),
        Step::Scheduler => "process.scheduler: sched_setattr".into(),
        Step::IoPriority => "process.ioPriority: ioprio_set".into(),
        Step::Affinity => "process.execCPUAffinity: sched_setaffinity".into(),
        Step::Personality => "linux.personality: personality".into(),
        Step::NoNewPrivs => "process.noNewPrivileges: prctl".into(),
        Step::Seccomp => "linux.seccomp: load the filter".into(),
        Step::Bounding => "process.capabilities.bounding: prctl".into(),
        Step::Groups => "process.user.additionalGids: setgroups".into(),
        Step::Gid => format!("process.user.gid: setgid {}", process.gid),
        Step::Uid => format!("process.user.uid: setuid {}", process.uid),
        Step::Capabilities => "process.capabilities: capset".into(),
        Step::Ambient => "process.capabilities.ambient: prctl".into(),
        Step::Files => "close file descriptors".into(),
        Step::Wait => "wait for the start".into(),
        Step::Chroot => "enter the container's root".into(),
        Step::Terminal => "open a terminal on the container's /dev/pts".into(),
        Step::Join => "join the container's namespaces".into(),
        Step::JoinUser => "join the container's user namespace".into(),
        Step::Cgroup => "join the container's cgroup".into(),
        Step::Keyring => "join the session keyring".into(),
        other => format!("{other:?}"),
    };
    Error::os(what, failure.errno)
}

fn join(join: &Join<'_>) -> String {
    format!("linux.namespaces[{}]: join {}", join.index, text(join.path))
}

/// What an operation is, for a message.
fn place(operation: &Operation<'_>) -> String {
    match operation {
        Operation::Mount(mount) => {
            let what = match &mount.what {
                orlop_init::What::New { fstype, .. } | orlop_init::What::Classic { fstype, .. } => {
                    text(fstype).into_owned()
                }
                orlop_init::What::Source => "bind".into(),
                orlop_init::What::Remount { .. } => "remount".into(),
            };
            format!("mount {what} on {}", text(mount.target))
        }
        Operation::Symlink { directory, name, target, .. } => {
            format!("symlink {} in {} to {}", text(name), text(directory), text(target))
        }
        Operation::Node { directory, name, .. } => {
            format!("linux.devices: make {}/{}", text(directory).trim_end_matches('/'), text(name))
        }
        Operation::Attributes { path, .. } => format!("mount attributes of {}", text(path)),
    }
}

fn option(plan: &Plan<'_>, item: usize, part: u8) -> String {
    match plan.operations.get(item) {
        Some(Operation::Mount(mount)) => match &mount.what {
            orlop_init::What::New { options, .. } | orlop_init::What::Remount { options } => {
                match options.get(usize::from(part)) {
                    Some((key, Some(value))) => format!("{}={}", text(key), text(value)),
                    Some((key, None)) => text(key).into_owned(),
                    None => String::new(),
                }
            }
            _ => String::new(),
        },
        _ => String::new(),
    }
}

/// Writes one of the id map files of `pid` in the host's /proc.
pub(crate) fn write_proc(proc: BorrowedFd<'_>, pid: Pid, name: &str, content: &str) -> Result<()> {
    let path = format!("{}/{name}", pid.as_raw_nonzero());
    let what = || format!("write /proc/{path}");
    let file = fs::open_for_writing(proc, &path).at(what)?;
    // One write, as these files want it.
    orlop_sys::rustix::io::write(&file, content.as_bytes()).at(what).map(drop)
}

/// An error that says what the errno means when memory is what is short.
pub(crate) fn oom_hint(error: Error, oom_kills: u64) -> Error {
    if oom_kills == 0 {
        return error;
    }
    Error::new(error.kind(), format!("{error}: init was OOM-killed (memory limit too low?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_child_that_had_not_read_all_are_heard() {
        let ends = Ends::new().unwrap();
        let failure = Failure::new(Step::NotFound, Errno::NOENT);
        Channel(ends.child.as_fd()).send(&failure.encode()).unwrap();
        Channel(ends.parent.as_fd()).tell(Message::Go).unwrap();
        drop(ends.child);
        let parent = Channel(ends.parent.as_fd());
        let (bytes, length, _) = parent.receive().unwrap();
        assert_eq!(Failure::decode(&bytes[..length]), Some(failure));
        assert_eq!(parent.receive().unwrap().1, 0);
    }
}
