//! A container, from the first breath of its process to `execve`.

use orlop_sys::clone::flag;
use orlop_sys::process::{exit, reset_signals, setns, unshare};
use orlop_sys::rustix::fs::{Mode, OFlags, openat};
use orlop_sys::rustix::io::{read, write};
use orlop_sys::rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use orlop_sys::rustix::process::umask;
use orlop_sys::rustix::system::{setdomainname, sethostname};
use orlop_sys::{BorrowedFd, Errno, OwnedFd, creds, process as sys};

use crate::channel::During;
use crate::{Channel, Container, Failure, Keyring, Message, Namespaces, Start, Step, User, mounts, process};

const SIGKILL: u32 = 9;

/// The recipe. Never returns: becomes the user's program, or says why not and exits.
pub fn container(job: &Container<'_>) -> ! {
    let result = match job.namespaces.inner {
        None => enter(&job.namespaces, job.channel).and_then(|()| inside(job)),
        Some(flags) => intermediate(&job.namespaces, job.channel, flags, inner, job),
    };
    die(job.channel, result)
}

fn inner(job: &Container<'_>) -> ! {
    die(job.channel, begin().and_then(|()| inside(job)))
}

/// Reports what went wrong, if anything still did, and ends.
pub(crate) fn die(channel: Channel<'_>, result: Result<(), Failure>) -> ! {
    match result {
        Ok(()) => exit(0),
        Err(failure) => {
            // If the parent is gone there is nobody to tell.
            let _ = channel.send(&failure.encode());
            exit(1)
        }
    }
}

/// Dies with its parent until it is a container of its own.
pub(crate) fn begin() -> Result<(), Failure> {
    creds::set_pdeathsig(SIGKILL).during(Step::Begin)?;
    // What is made has the mode that is said, whatever mask the caller has; the process gets its own later.
    umask(Mode::empty());
    reset_signals().during(Step::Begin)
}

/// Cgroups and namespaces.
pub(crate) fn enter(namespaces: &Namespaces<'_>, channel: Channel<'_>) -> Result<(), Failure> {
    begin()?;
    let parent = orlop_sys::AsRawFd::as_raw_fd(&namespaces.parent) as u32;
    sys::close_range(parent, parent, false).during(Step::Begin)?;
    if !matches!(namespaces.user, User::New) {
        hide()?;
    }
    join_cgroups(namespaces.tasks)?;
    // Namespaces of the host are joined while we still have its privileges; those that the joined user namespace
    // owns can be joined only from inside it.
    let mut later = 0u64;
    for (i, (fd, flags)) in namespaces.joins.iter().enumerate() {
        match setns(fd_of(fd), *flags) {
            Err(Errno::PERM) if matches!(namespaces.user, User::Join(_)) && i < 64 => later |= 1 << i,
            other => other.at(Step::Join, i)?,
        }
    }
    if let User::Join(fd) = namespaces.user {
        setns(fd, flag::NEWUSER).during(Step::JoinUser)?;
    }
    for (i, (fd, flags)) in namespaces.joins.iter().enumerate().filter(|(i, _)| *i < 64 && later & (1 << i) != 0) {
        setns(fd_of(fd), *flags).at(Step::Join, i)?;
    }
    if namespaces.inner.is_none() {
        become_root(&namespaces.user, channel)?;
    }
    Ok(())
}

/// Nobody in a container that this process joins may look into it (CVE-2016-9962). In a new user namespace only once
/// the maps are written: a parent without privileges could not open them any more.
fn hide() -> Result<(), Failure> {
    creds::set_dumpable(false).during(Step::Begin)
}

fn fd_of(fd: &OwnedFd) -> BorrowedFd<'_> {
    orlop_sys::AsFd::as_fd(fd)
}

/// Moves this process by itself: the kernel then needs no lock over all thread groups (`tasks`, a single thread).
fn join_cgroups(tasks: &[OwnedFd]) -> Result<(), Failure> {
    for (i, file) in tasks.iter().enumerate() {
        write(file, b"0").at(Step::Cgroup, i)?;
    }
    Ok(())
}

/// Uid and gid 0 of the user namespace, so that what is made belongs to its root.
pub(crate) fn become_root(user: &User<'_>, channel: Channel<'_>) -> Result<(), Failure> {
    match user {
        User::Keep => return Ok(()),
        User::New => {
            channel.expect(Message::Mapped)?;
            hide()?;
        }
        User::Join(_) => {}
    }
    creds::setgid(0).during(Step::BecomeRoot)?;
    creds::setuid(0).during(Step::BecomeRoot)?;
    // The change of ids has cleared it.
    creds::set_pdeathsig(SIGKILL).during(Step::BecomeRoot)
}

/// The process in between: joins what counts for children only, makes the one that counts as its own sibling, hands
/// its pidfd to the parent and is gone.
pub(crate) fn intermediate<J>(
    namespaces: &Namespaces<'_>,
    channel: Channel<'_>,
    flags: u64,
    recipe: fn(&J) -> !,
    job: &J,
) -> Result<(), Failure> {
    enter(namespaces, channel)?;
    if let Some(offsets) = namespaces.time {
        unshare(flag::NEWTIME).during(Step::TimeNamespace)?;
        if !offsets.is_empty() {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(orlop_sys::rustix::fs::CWD, c"/proc/self/timens_offsets", flags, Mode::empty())
                .during(Step::TimeOffsets)?;
            write(&file, offsets).during(Step::TimeOffsets)?;
        }
    }
    let child = crate::spawn(flags | flag::PARENT, None, recipe, job).during(Step::Clone)?;
    let mut message = [Message::Child as u8, 0, 0, 0, 0];
    let [_, number @ ..] = &mut message;
    *number = child.pid.as_raw_nonzero().get().to_le_bytes();
    channel.send_fd(&message, fd_of(&child.pidfd)).during(Step::Clone)
}

/// In all namespaces but that of cgroups.
fn inside(job: &Container<'_>) -> Result<(), Failure> {
    let channel = job.channel;
    if job.namespaces.inner.is_some() {
        become_root(&job.namespaces.user, channel)?;
    }
    if job.namespaces.unshare_cgroup {
        // Not by the clone flags: its root is the cgroup of the process at that moment.
        unshare(flag::NEWCGROUP).during(Step::CgroupNamespace)?;
    }
    orlop_sys::rustix::process::setsid().during(Step::Session)?;
    if let Some(keyring) = &job.keyring {
        join_keyring(keyring)?;
    }
    if job.loopback {
        let socket =
            socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).during(Step::Loopback)?;
        sys::interface_up(&socket, c"lo").during(Step::Loopback)?;
    }

    let root = mounts::prepare(&job.filesystem, channel)?;
    if job.process.limited {
        channel.expect(Message::Limited)?;
    }
    if let Some(terminal) = &job.terminal {
        mounts::terminal(root.fd(), terminal, channel)?;
    }
    if job.hooks {
        channel.tell(Message::Mounted).during(Step::Protocol)?;
        channel.expect(Message::Hooked)?;
    }
    mounts::change_root(&job.filesystem, root.fd())?;

    if !job.hostname.is_empty() {
        sethostname(job.hostname).during(Step::Hostname)?;
    }
    if !job.domainname.is_empty() {
        setdomainname(job.domainname).during(Step::Domainname)?;
    }
    for (i, (path, value)) in job.sysctls.iter().enumerate() {
        // /proc/sys shows the namespaces of whoever opens it, so the host's /proc serves, and no mount of the
        // container's can stand in its place (CVE-2025-52881).
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(job.proc, *path, flags, Mode::empty()).at(Step::Sysctl, i)?;
        write(&file, value).at(Step::Sysctl, i)?;
    }
    if job.make_cwd {
        process::make_working_directory(job.process)?;
    }
    mounts::protect_paths(&job.filesystem)?;

    let mut home = process::HOME;
    match &job.start {
        Start::Go => {
            let program = process::finish(job.process, job.proc, channel, [channel.0], &mut home)?;
            process::start(job.process, &program, channel)
        }
        Start::Fifo { fifo, report } => {
            let keep = [channel.0, *fifo, *report];
            let program = process::finish(job.process, job.proc, channel, keep, &mut home)?;
            channel.tell(Message::Ready).during(Step::Protocol)?;
            // Nothing is "created" whose parent died before it had said so.
            channel.expect_plain(Message::Go)?;
            wait_for_start(*fifo)?;
            let failure = process::execute(job.process, &program);
            // `start` reads it; if it can't be written, `start` still sees that the process is gone.
            let _ = write(report, &failure.encode());
            exit(1)
        }
    }
}

/// Until `start` writes a byte.
fn wait_for_start(fifo: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut byte = [0];
    loop {
        match read(fifo, &mut byte[..]) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(Failure::new(Step::Wait, Errno::PIPE)),
            other => return other.map(drop).during(Step::Wait),
        }
    }
}

pub(crate) fn join_keyring(keyring: &Keyring<'_>) -> Result<(), Failure> {
    let serial = match sys::join_session_keyring(keyring.name) {
        // No keyrings in this kernel, or forbidden by an outer seccomp filter: a container needs none, as in runc.
        Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => return Ok(()),
        other => other.during(Step::Keyring)?,
    };
    match sys::key_setperm(serial, keyring.permissions) {
        Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => Ok(()),
        other => other.during(Step::Keyring),
    }
}
