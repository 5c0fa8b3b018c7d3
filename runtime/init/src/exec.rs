//! A process in a container that exists, and hooks.

use orlop_sys::process::dup_to;
use orlop_sys::rustix::process::{chroot, fchdir, setpgid, setsid};

use crate::channel::During;
use crate::container::{become_root, begin, die, enter, intermediate, join_keyring};
use crate::{Exec, Failure, Hook, Message, Step, mounts, process};

/// The recipe of `exec`: the parent has made this process in the container's cgroup.
pub fn exec(job: &Exec<'_>) -> ! {
    let result = match job.namespaces.inner {
        None => enter(&job.namespaces, job.channel).and_then(|()| inside(job)),
        Some(flags) => intermediate(&job.namespaces, job.channel, flags, inner, job),
    };
    die(job.channel, result)
}

fn inner(job: &Exec<'_>) -> ! {
    die(job.channel, begin().and_then(|()| inside(job)))
}

fn inside(job: &Exec<'_>) -> Result<(), Failure> {
    let channel = job.channel;
    if job.namespaces.inner.is_some() {
        become_root(&job.namespaces.user, channel)?;
    }
    if let Some(root) = job.root {
        fchdir(root).during(Step::Chroot)?;
        chroot(c".").during(Step::Chroot)?;
    }
    setsid().during(Step::Session)?;
    if let Some(keyring) = &job.keyring {
        join_keyring(keyring)?;
    }
    if let Some(terminal) = &job.terminal {
        let root = orlop_sys::fs::open_path(c"/").during(Step::Terminal)?;
        mounts::terminal(orlop_sys::AsFd::as_fd(&root), terminal, channel)?;
    }
    if !job.affinity.is_empty() {
        orlop_sys::process::sched_setaffinity(job.affinity).during(Step::Affinity)?;
    }
    if job.process.limited {
        channel.expect(Message::Limited)?;
    }
    let mut home = process::HOME;
    let program = process::finish(job.process, job.proc, channel, [channel.0], &mut home)?;
    process::start(job.process, &program, channel)
}

/// The recipe of a hook that runs inside.
pub fn hook(job: &Hook<'_>) -> ! {
    let result = match job.namespaces.inner {
        None => enter(&job.namespaces, job.channel).and_then(|()| become_hook(job)),
        Some(flags) => intermediate(&job.namespaces, job.channel, flags, inner_hook, job),
    };
    die(job.channel, result)
}

fn inner_hook(job: &Hook<'_>) -> ! {
    die(
        job.channel,
        begin().and_then(|()| become_root(&job.namespaces.user, job.channel)).and_then(|()| become_hook(job)),
    )
}

fn become_hook(job: &Hook<'_>) -> Result<(), Failure> {
    // A group of its own: what it leaves behind can be found when its time is up.
    setpgid(None, None).during(Step::Session)?;
    for (fd, to) in job.stdio.iter().zip(0..) {
        dup_to(*fd, to, false).during(Step::Files)?;
    }
    orlop_sys::process::close_range(3, u32::MAX, true).during(Step::Files)?;
    let errno = orlop_sys::process::execve(job.path, job.arguments, job.environment, None);
    Err(Failure::new(Step::Exec, errno))
}
