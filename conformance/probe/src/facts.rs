//! What a process can learn about itself and its surroundings without changing them.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;

use rustix::process::{Resource, getrlimit};
use serde_json::{Map, Value, json};

/// Every fact, as one object. What can't be read (there may be no `/proc`) is null.
pub(crate) fn all() -> Value {
    // Before anything is opened here.
    let fds = fds();
    let status = status();
    let text = |key: &str| status.get(key).cloned();
    let ids = |key: &str| text(key).map(|line| numbers(&line));
    let uname = rustix::system::uname();
    json!({
        "args": std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "env": std::env::vars_os().map(|(key, value)| (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())).collect::<BTreeMap<_, _>>(),
        "cwd": std::env::current_dir().ok(),
        "exe": fs::read_link("/proc/self/exe").ok(),
        "pid": rustix::process::getpid().as_raw_nonzero().get(),
        "ppid": rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()),
        // Zero if the session's leader is in an outer pid namespace.
        "sid": stat_field(6),
        // Real, effective, saved and file-system id.
        "uid": ids("Uid"),
        "gid": ids("Gid"),
        "groups": ids("Groups"),
        "umask": text("Umask"),
        "capabilities": {
            "inheritable": text("CapInh"), "permitted": text("CapPrm"), "effective": text("CapEff"),
            "bounding": text("CapBnd"), "ambient": text("CapAmb"),
        },
        "no_new_privs": text("NoNewPrivs"),
        "seccomp": text("Seccomp"),
        "seccomp_filters": text("Seccomp_filters"),
        "signals_blocked": text("SigBlk"),
        "signals_ignored": text("SigIgn"),
        "cpus": text("Cpus_allowed_list"),
        "mems": text("Mems_allowed_list"),
        "rlimits": rlimits(),
        "namespaces": namespaces(),
        "mounts": mounts(),
        "fds": fds,
        "hostname": uname.nodename().to_string_lossy(),
        "domainname": uname.domainname().to_string_lossy(),
        "machine": uname.machine().to_string_lossy(),
        "personality": read("/proc/self/personality"),
        "oom_score_adj": read("/proc/self/oom_score_adj"),
        "cgroup": read("/proc/self/cgroup").map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()),
        "uid_map": read("/proc/self/uid_map").map(|text| text.lines().map(numbers).collect::<Vec<_>>()),
        "gid_map": read("/proc/self/gid_map").map(|text| text.lines().map(numbers).collect::<Vec<_>>()),
        "setgroups": read("/proc/self/setgroups"),
        "time_offsets": read("/proc/self/timens_offsets"),
        "boot_seconds": boot_seconds(),
        "attr": read("/proc/self/attr/current"),
        "schedule": schedule(),
        "tty": tty(),
        "keys": read("/proc/keys").map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()),
    })
}

fn read(path: &str) -> Option<String> {
    fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn numbers(line: &str) -> Vec<u64> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn status() -> BTreeMap<String, String> {
    let text = read("/proc/self/status").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// Number and target of every open fd, but not the one that reads the list.
fn fds() -> Option<BTreeMap<String, String>> {
    let mut fds = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let target =
            fs::read_link(entry.path()).map(|target| target.to_string_lossy().into_owned()).unwrap_or_default();
        // procfs names the list by the reader's pid, whatever path it was opened by.
        if !(target.ends_with("/fd") && target.contains("proc")) {
            fds.insert(name, target);
        }
    }
    Some(fds)
}

fn rlimits() -> Map<String, Value> {
    let all = [
        ("RLIMIT_AS", Resource::As),
        ("RLIMIT_CORE", Resource::Core),
        ("RLIMIT_CPU", Resource::Cpu),
        ("RLIMIT_DATA", Resource::Data),
        ("RLIMIT_FSIZE", Resource::Fsize),
        ("RLIMIT_LOCKS", Resource::Locks),
        ("RLIMIT_MEMLOCK", Resource::Memlock),
        ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
        ("RLIMIT_NICE", Resource::Nice),
        ("RLIMIT_NOFILE", Resource::Nofile),
        ("RLIMIT_NPROC", Resource::Nproc),
        ("RLIMIT_RSS", Resource::Rss),
        ("RLIMIT_RTPRIO", Resource::Rtprio),
        ("RLIMIT_RTTIME", Resource::Rttime),
        ("RLIMIT_SIGPENDING", Resource::Sigpending),
        ("RLIMIT_STACK", Resource::Stack),
    ];
    all.into_iter()
        .map(|(name, resource)| {
            let limit = getrlimit(resource);
            // Null is "unlimited".
            (name.to_owned(), json!({ "soft": limit.current, "hard": limit.maximum }))
        })
        .collect()
}

/// The inode number of every namespace, which is its identity.
fn namespaces() -> Map<String, Value> {
    ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
        .into_iter()
        .map(|kind| {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok();
            (kind.to_owned(), json!(link))
        })
        .collect()
}

/// The mount table: proc_pid_mountinfo(5), a mount an object.
fn mounts() -> Option<Vec<Value>> {
    let text = read("/proc/self/mountinfo")?;
    Some(text.lines().filter_map(mount).collect())
}

fn mount(line: &str) -> Option<Value> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let (id, parent, device, root, at, options) =
        (left.next()?, left.next()?, left.next()?, left.next()?, left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, source, superblock) = (right.next()?, right.next()?, right.next()?);
    Some(json!({
        "id": id, "parent": parent, "device": device, "root": root, "at": at,
        "options": options.split(',').collect::<Vec<_>>(),
        "propagation": left.collect::<Vec<_>>(),
        "type": kind, "source": source,
        "super": superblock.split(',').collect::<Vec<_>>(),
    }))
}

fn boot_seconds() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec
}

/// A number of proc_pid_stat(5), counted from 1 as there.
fn stat_field(number: usize) -> Option<i64> {
    let stat = read("/proc/self/stat")?;
    // The name, field 2, may hold spaces; it ends with the last parenthesis.
    let (_, after) = stat.rsplit_once(") ")?;
    after.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
}

fn schedule() -> Value {
    json!({ "priority": stat_field(18), "nice": stat_field(19), "rt_priority": stat_field(40), "policy": stat_field(41) })
}

fn tty() -> Value {
    let size = rustix::termios::tcgetwinsize(std::io::stdin()).ok();
    json!({
        "stdin": std::io::stdin().is_terminal(),
        "stdout": std::io::stdout().is_terminal(),
        "stderr": std::io::stderr().is_terminal(),
        "rows": size.map(|size| size.ws_row),
        "columns": size.map(|size| size.ws_col),
        // Opens only for a process that has a controlling terminal.
        "controlling": fs::File::open("/dev/tty").is_ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_line_with_optional_fields_is_taken_apart() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let mount = mount(line).unwrap();
        assert_eq!(mount["at"], "/mnt2");
        assert_eq!(mount["options"], json!(["rw", "noatime"]));
        assert_eq!(mount["propagation"], json!(["master:1", "shared:2"]));
        assert_eq!(mount["type"], "ext3");
        assert_eq!(mount["super"], json!(["rw", "errors=continue"]));
    }

    #[test]
    fn a_short_mount_line_is_left_out() {
        assert_eq!(mount("36 35 98:0 /mnt1 - ext3"), None);
    }
}
