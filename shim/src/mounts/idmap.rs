//! User namespaces that exist for their maps: a mount that has one shows the owners of its files through them.

use orlop_sys::clone::{flag, fork};
use orlop_sys::process::unshare;
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use orlop_sys::rustix::io::{read, write};
use orlop_sys::rustix::pipe::{PipeFlags, pipe_with};
use orlop_sys::rustix::process::{Signal, WaitId, WaitIdOptions, set_parent_process_death_signal, waitid};
use orlop_sys::{AsFd, Errno, OwnedFd};

use super::Why;

/// As many lines as the kernel takes.
const MAX_LINES: usize = 340;

/// A user namespace with the maps `uid` and `gid`: `INSIDE:OUTSIDE:SIZE`, more of them after commas. Made by a child
/// that lives in it for as long as it takes to get hold of it.
pub(super) fn user_namespace(uid: &str, gid: &str) -> Result<OwnedFd, Why> {
    let (uid, gid) = (lines(uid).ok_or_else(|| bad("uidmap", uid))?, lines(gid).ok_or_else(|| bad("gidmap", gid))?);
    made(&uid, &gid).map_err(|errno| Why(format!("id maps: {}", orlop::error::describe(errno))))
}

fn bad(key: &str, map: &str) -> Why {
    Why(format!("{key}={map}: not a map"))
}

/// The text of /proc/PID/uid_map.
fn lines(map: &str) -> Option<String> {
    let mut text = String::new();
    let entries = || map.split(',');
    if entries().count() > MAX_LINES {
        return None;
    }
    for entry in entries() {
        let mut numbers = entry.split(':').map(str::parse::<u32>);
        let (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(size @ 1..)), None) =
            (numbers.next(), numbers.next(), numbers.next(), numbers.next())
        else {
            return None;
        };
        text.push_str(&format!("{inside} {outside} {size}\n"));
    }
    Some(text)
}

fn made(uid: &str, gid: &str) -> Result<OwnedFd, Errno> {
    let (is_there, say_there) = pipe_with(PipeFlags::CLOEXEC)?;
    let (may_go, let_go) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = fork(|| {
        let live = || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            unshare(flag::NEWUSER)?;
            write(&say_there, &[1])?;
            read(&may_go, &mut [0])
        };
        u8::from(live().is_err())
    })?;
    drop((say_there, may_go));
    let take = || {
        if read(&is_there, &mut [0])? == 0 {
            return Err(Errno::PERM);
        }
        let directory = format!("/proc/{}", child.pid.as_raw_nonzero());
        for (name, text) in [("uid_map", uid), ("gid_map", gid)] {
            let file = openat(CWD, format!("{directory}/{name}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            write(&file, text.as_bytes())?;
        }
        openat(CWD, format!("{directory}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    let taken = take();
    // It waits for this byte; if it is dead already, so much the better.
    let _ = write(&let_go, &[1]);
    let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_three_numbers_and_maybe_more_of_them() {
        for (map, want) in [
            ("0:100000:65536", Some("0 100000 65536\n")),
            ("0:1:1,5:7:9", Some("0 1 1\n5 7 9\n")),
            ("", None),
            ("0:1", None),
            ("0:1:0", None),
            ("0:1:2:3", None),
            ("0:-1:2", None),
            ("0:1:2,", None),
            ("0:4294967296:1", None),
        ] {
            assert_eq!(lines(map).as_deref(), want, "{map}");
        }
        assert_eq!(lines(&["0:1:1"; 400].join(",")), None);
    }
}
