//! From a process of ours in the right place to the user's program: what it gives up, in an order in which each step
//! is still allowed.

use core::ffi::CStr;

use orlop_sys::creds::{self, CapSets};
use orlop_sys::fs::{AtFlags, FileType, Links, Missing, PATH_MAX, Root as Tree, statat};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::io::{read, write};
use orlop_sys::rustix::process::{chdir, umask};
use orlop_sys::{AsFd, AsRawFd, BorrowedFd, Errno, process as sys, seccomp};

use crate::channel::During;
use crate::{Channel, Failure, Message, Process, Step, mounts};

/// What [`execute`] needs beside the job: found before the filter, which may forbid looking.
pub(crate) struct Program<'a> {
    path: &'a CStr,
    home: Option<&'a CStr>,
}

/// Room for `HOME=` and a path.
pub(crate) const HOME: [u8; PATH_MAX + 5] = [0; PATH_MAX + 5];

/// The working directory, made if it is missing.
pub(crate) fn make_working_directory(process: &Process<'_>) -> Result<(), Failure> {
    if process.cwd == c"/" || chdir(process.cwd) != Err(Errno::NOENT) {
        return Ok(());
    }
    let root = openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during(Step::MakeCwd)?;
    Tree::new(root.as_fd()).place(process.cwd, Missing::Directory, Links::Follow).during(Step::MakeCwd).map(drop)
}

/// Everything up to the moment where only the wait and `execve` are left. Of our fds only `keep` stay open.
pub(crate) fn finish<'a, const N: usize>(
    process: &Process<'a>,
    proc: BorrowedFd<'_>,
    channel: Channel<'_>,
    keep: [BorrowedFd<'_>; N],
    home: &'a mut [u8; PATH_MAX + 5],
) -> Result<Program<'a>, Failure> {
    umask(Mode::from_raw_mode(process.umask));
    attribute(proc, c"self/attr/apparmor/exec", c"self/attr/exec", process.apparmor).during(Step::Apparmor)?;
    attribute(proc, c"self/attr/exec", c"self/attr/exec", process.selinux).during(Step::Selinux)?;
    if let Some(scheduler) = &process.scheduler {
        sys::sched_setattr(scheduler).during(Step::Scheduler)?;
    }
    if let Some(priority) = process.io_priority {
        sys::ioprio_set(priority).during(Step::IoPriority)?;
    }
    if !process.affinity.is_empty() {
        sys::sched_setaffinity(process.affinity).during(Step::Affinity)?;
    }
    if let Some(personality) = process.personality {
        sys::personality(personality).during(Step::Personality)?;
    }
    if process.own_stdio {
        mounts::own_stdio(process.uid).during(Step::Uid)?;
    }

    creds::limit_bounding_set(process.caps.bounding).during(Step::Bounding)?;
    // Before the working directory is entered: it can't be one that was open (CVE-2024-21626).
    close_all_but(3 + process.preserve_fds, keep).during(Step::Files)?;
    // Entering the directory comes before the change of user, who may not be allowed to, and again after it, for a
    // directory that root may not enter (NFS, a mode of the user's own).
    let entered = chdir(process.cwd);
    become_user(process)?;
    if entered.is_err() {
        chdir(process.cwd).during(Step::Cwd)?;
    }
    inside_root()?;
    let path = locate(process)?;
    let home = if process.need_home { self::home(process.uid, home) } else { None };
    // From here on the end of the channel tells that the parent is gone.
    creds::set_pdeathsig(0).during(Step::Begin)?;

    // A filter needs no_new_privs or CAP_SYS_ADMIN, so without the first it is loaded before capabilities go, and has
    // to allow capset and prctl.
    if process.no_new_privs {
        creds::set_no_new_privs().during(Step::NoNewPrivs)?;
        capabilities(&process.caps)?;
        filter(process, channel)?;
    } else {
        filter(process, channel)?;
        capabilities(&process.caps)?;
    }
    Ok(Program { path, home })
}

fn become_user(process: &Process<'_>) -> Result<(), Failure> {
    if let Some(groups) = process.groups {
        creds::setgroups(groups).during(Step::Groups)?;
    }
    creds::setgid(process.gid).during(Step::Gid)?;
    if process.uid == 0 {
        // From 0 to 0 keeps all capabilities.
        return creds::setuid(0).during(Step::Uid);
    }
    creds::set_keepcaps(true).during(Step::Uid)?;
    creds::setuid(process.uid).during(Step::Uid)?;
    creds::set_keepcaps(false).during(Step::Uid)?;
    // The change of ids has emptied the effective set, and what follows needs some of it.
    let sets = creds::capget().during(Step::Capabilities)?;
    creds::capset(&CapSets { effective: sets.permitted, ..sets }).during(Step::Capabilities)
}

fn capabilities(caps: &CapSets) -> Result<(), Failure> {
    creds::capset(caps).during(Step::Capabilities)?;
    creds::raise_ambient(caps.ambient).during(Step::Ambient)
}

fn filter(process: &Process<'_>, channel: Channel<'_>) -> Result<(), Failure> {
    let Some(filter) = &process.seccomp else { return Ok(()) };
    if let Some(listener) = seccomp::load(filter.program, filter.flags).during(Step::Seccomp)? {
        let mut message = [Message::Listener as u8, 0, 0, 0, 0];
        let [_, number @ ..] = &mut message;
        *number = listener.as_raw_fd().to_le_bytes();
        channel.send(&message).during(Step::Seccomp)?;
        channel.expect_plain(Message::Fetched)?;
    }
    Ok(())
}

/// A security label for the next `execve`, written to the process's own attribute in the host's /proc.
fn attribute(proc: BorrowedFd<'_>, path: &CStr, older: &CStr, text: &[u8]) -> Result<(), Errno> {
    if text.is_empty() {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = match openat(proc, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => openat(proc, older, flags, Mode::empty()),
        other => other,
    }?;
    write(&file, text).map(drop)
}

/// The working directory can be reached from the root: it is not a leaked directory of the host, entered as
/// `/proc/self/fd/7` (CVE-2024-21626).
fn inside_root() -> Result<(), Failure> {
    let mut buffer = [0; PATH_MAX];
    let length = sys::getcwd(&mut buffer).during(Step::Cwd)?;
    match buffer.get(..length).and_then(<[u8]>::first) {
        Some(b'/') => Ok(()),
        _ => Err(Failure::new(Step::CwdOutside, Errno::NOENT)),
    }
}

/// The first candidate that can be executed.
fn locate<'a>(process: &Process<'a>) -> Result<&'a CStr, Failure> {
    let mut why = Failure::new(Step::NotFound, Errno::NOENT);
    for candidate in process.candidates {
        match executable(candidate) {
            Ok(()) => return Ok(candidate),
            Err(errno) if !process.search => why = Failure::new(Step::NotExecutable, errno),
            // As a shell does: what can't be executed here may be found further on.
            Err(_) => {}
        }
    }
    Err(why)
}

fn executable(path: &CStr) -> Result<(), Errno> {
    let stat = statat(CWD, path, AtFlags::empty())?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    // Also false on a mount without exec.
    sys::may_execute(path)
}

/// Closes every fd from `first` on but `keep`.
fn close_all_but<const N: usize>(first: u32, keep: [BorrowedFd<'_>; N]) -> Result<(), Errno> {
    let mut keep = keep.map(|fd| fd.as_raw_fd() as u32);
    keep.sort_unstable();
    let mut from = first;
    for fd in keep {
        if from < fd {
            sys::close_range(from, fd - 1, false)?;
        }
        from = from.max(fd + 1);
    }
    sys::close_range(from, u32::MAX, false)
}

/// Tells that all is ready, and becomes the program when the parent says so.
pub(crate) fn start(process: &Process<'_>, program: &Program<'_>, channel: Channel<'_>) -> Result<(), Failure> {
    channel.tell(Message::Ready).during(Step::Protocol)?;
    channel.expect_plain(Message::Go)?;
    Err(execute(process, program))
}

/// Becomes the program; or says why not.
pub(crate) fn execute(process: &Process<'_>, program: &Program<'_>) -> Failure {
    Failure::new(Step::Exec, sys::execve(program.path, process.arguments, process.environment, program.home))
}

/// `HOME=` and the user's home directory by the container's /etc/passwd, `/` if it does not say.
fn home(uid: u32, buffer: &mut [u8; PATH_MAX + 5]) -> Option<&CStr> {
    const NAME: &[u8] = b"HOME=";
    let mut length = NAME.len();
    buffer.get_mut(..length)?.copy_from_slice(NAME);
    let found = passwd_home(uid, buffer.get_mut(length..PATH_MAX)?).unwrap_or(0);
    if found == 0 {
        *buffer.get_mut(length)? = b'/';
        length += 1;
    } else {
        length += found;
    }
    *buffer.get_mut(length)? = 0;
    CStr::from_bytes_with_nul(buffer.get(..=length)?).ok()
}

/// Writes the home directory of `uid` to `home` and returns its length.
fn passwd_home(uid: u32, home: &mut [u8]) -> Option<usize> {
    // Not blocking: the image may have put a FIFO there.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(CWD, c"/etc/passwd", flags, Mode::empty()).ok()?;
    if FileType::from_raw_mode(orlop_sys::fs::fstat(&file).ok()?.st_mode) != FileType::RegularFile {
        return None;
    }
    // name:password:uid:gid:gecos:home:shell
    let mut chunk = [0; 4096];
    let (mut field, mut number, mut valid, mut length) = (0, 0u32, true, 0);
    loop {
        let n = read(&file, &mut chunk[..]).ok()?;
        if n == 0 {
            return (field >= 5 && valid && number == uid).then_some(length);
        }
        for byte in chunk.iter().take(n) {
            match (byte, field) {
                (b'\n', _) => {
                    if field >= 5 && valid && number == uid {
                        return Some(length);
                    }
                    (field, number, valid, length) = (0, 0, true, 0);
                }
                (b':', _) => {
                    // An empty uid is none.
                    field += 1;
                    if field == 3 && length == 0 {
                        valid = false;
                    }
                    length = if field == 6 { length } else { 0 };
                }
                (digit, 2) => {
                    match number.checked_mul(10).and_then(|n| n.checked_add(u32::from(digit.wrapping_sub(b'0')))) {
                        Some(n) if digit.is_ascii_digit() => (number, length) = (n, length + 1),
                        _ => valid = false,
                    }
                }
                (byte, 5) => {
                    // A NUL, or more than fits: not a path.
                    match home.get_mut(length) {
                        Some(to) if *byte != 0 => *to = *byte,
                        _ => valid = false,
                    }
                    length += 1;
                }
                _ => {}
            }
        }
    }
}
