//! What the demo runs inside its container: it prints what a process there sees.
//!
//! `HOST_NS` in the environment carries the host's namespaces (`pid:[4026531836] net:[...]`), for comparison.

#![allow(clippy::disallowed_methods, reason = "it reads its own /proc and has no rootfs below it")]

use std::fs;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;

/// A heading and its lines: a label and what there is to say about it.
struct Section {
    title: &'static str,
    rows: Vec<(String, String)>,
}

fn main() -> ExitCode {
    // Also the `true` of benchmarks.
    if std::env::args().nth(1).as_deref() == Some("true") {
        return ExitCode::SUCCESS;
    }
    let mut out = io::stdout().lock();
    let sections =
        [process(), system(), namespaces(), cgroup(), capabilities(), seccomp(), limits(), mounts(), devices()];
    match out.write_all(render(&sections).as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Two columns; the first is as wide as its widest label.
fn render(sections: &[Section]) -> String {
    let width = sections.iter().flat_map(|s| &s.rows).map(|(label, _)| label.len()).max().unwrap_or(0);
    let mut text = String::new();
    for section in sections {
        text.push_str(&format!("\n{}\n", section.title));
        for (label, value) in &section.rows {
            text.push_str(&format!("  {label:width$}  {value}\n"));
        }
    }
    text
}

fn row(label: impl Into<String>, value: impl Into<String>) -> (String, String) {
    (label.into(), value.into())
}

/// The file's text without its last newline, or why there is none.
fn text(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.trim_end().to_owned(),
        Err(error) => format!("({error})"),
    }
}

/// The value of `key` in the lines `key: value` of /proc/self/status.
fn field(status: &str, key: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

fn process() -> Section {
    let status = text("/proc/self/status");
    let others = fs::read_dir("/proc").map_or(0, |dir| {
        dir.flatten().filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok_and(|pid| pid != 1)).count()
    });
    let ids = |key| field(&status, key).split(' ').next().unwrap_or_default().to_owned();
    let cwd = std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default();
    Section {
        title: "Process",
        rows: vec![
            row("pid", format!("{} (and {others} others in /proc)", std::process::id())),
            row("user, group", format!("{}, {}", ids("Uid"), ids("Gid"))),
            row("arguments", std::env::args().collect::<Vec<_>>().join(" ")),
            row("working directory", cwd),
            row("umask", field(&status, "Umask")),
            row("no_new_privs", field(&status, "NoNewPrivs")),
            row("oom_score_adj", text("/proc/self/oom_score_adj")),
        ],
    }
}

fn system() -> Section {
    let interfaces = fs::read_dir("/sys/class/net")
        .map(|dir| dir.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "))
        .unwrap_or_else(|error| format!("({error})"));
    let loopback = TcpListener::bind("127.0.0.1:0").and_then(|listener| TcpStream::connect(listener.local_addr()?));
    Section {
        title: "System",
        rows: vec![
            row("kernel", format!("{} {}", text("/proc/sys/kernel/ostype"), text("/proc/sys/kernel/osrelease"))),
            row("host name", text("/proc/sys/kernel/hostname")),
            row("domain name", text("/proc/sys/kernel/domainname")),
            row("network interfaces", interfaces),
            row("loopback answers", loopback.map_or_else(|error| format!("no: {error}"), |_| "yes".to_owned())),
            row("write to /", refusal(fs::write("/written", "").map_err(|e| e.to_string()))),
        ],
    }
}

/// Puts the outcome of something that should be refused into words.
fn refusal(outcome: Result<(), String>) -> String {
    outcome.map_or_else(|error| format!("refused: {error}"), |()| "allowed".to_owned())
}

fn namespaces() -> Section {
    let host = std::env::var("HOST_NS").unwrap_or_default();
    let rows = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"].map(|name| {
        let ours = fs::read_link(format!("/proc/self/ns/{name}"))
            .map_or_else(|error| format!("({error})"), |link| link.display().to_string());
        row(name, format!("{ours:22}  {}", compare(&host, name, &ours)))
    });
    Section { title: "Namespaces", rows: rows.into() }
}

/// Says how `ours` stands to the namespace of the same kind in the host's list.
fn compare(host: &str, name: &str, ours: &str) -> String {
    let theirs = host.split(' ').find(|id| id.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')));
    match theirs {
        Some(theirs) if theirs == ours => "the host's".to_owned(),
        Some(theirs) => format!("its own; the host's is {theirs}"),
        None => String::new(),
    }
}

fn cgroup() -> Section {
    let mut rows = hierarchies(&text("/proc/self/cgroup"));
    let file = |names: &[&str]| {
        let text = names.iter().find_map(|name| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok())?;
        Some(text.trim_end().to_owned())
    };
    if let Some(bytes) = file(&["memory.max", "memory/memory.limit_in_bytes"]) {
        rows.push(row("memory limit", mebibytes(&bytes)));
    }
    if let Some(processes) = file(&["pids.max", "pids/pids.max"]) {
        rows.push(row("processes limit", processes));
    }
    let v1 = || Some(format!("{} {}", file(&["cpu/cpu.cfs_quota_us"])?, file(&["cpu/cpu.cfs_period_us"])?));
    if let Some(quota) = file(&["cpu.max"]).or_else(v1) {
        rows.push(row("CPU limit", cpus(&quota)));
    }
    Section { title: "Cgroup", rows }
}

/// The paths in /proc/self/cgroup, each with the hierarchies in which it is ours.
fn hierarchies(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let name = if controllers.is_empty() { "v2" } else { controllers };
        match found.iter_mut().find(|(other, _)| *other == path) {
            Some((_, names)) => names.push(name),
            None => found.push((path, vec![name])),
        }
    }
    found.into_iter().map(|(path, names)| row(path, format!("in {}", names.join(", ")))).collect()
}

fn mebibytes(bytes: &str) -> String {
    match bytes.parse::<u64>() {
        Ok(bytes) if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        _ => bytes.to_owned(),
    }
}

/// Puts a quota and a period in microseconds into words.
fn cpus(quota: &str) -> String {
    let mut numbers = quota.split(' ').map(str::parse::<f64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(quota)), Some(Ok(period))) if quota > 0.0 && period > 0.0 => {
            format!("{} of one CPU ({quota} µs in {period})", quota / period)
        }
        _ => "none".to_owned(),
    }
}

const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The names of the bits of a mask in hexadecimal, as /proc/self/status shows it.
fn capability_names(mask: &str) -> String {
    let Ok(mask) = u64::from_str_radix(mask, 16) else {
        return mask.to_owned();
    };
    let names: Vec<_> = (0u32..64)
        .filter(|bit| mask >> bit & 1 == 1)
        .map(|bit| CAPABILITIES.get(bit as usize).map_or_else(|| bit.to_string(), |name| (*name).to_owned()))
        .collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

fn capabilities() -> Section {
    let status = text("/proc/self/status");
    let sets = [
        ("bounding", "CapBnd"),
        ("effective", "CapEff"),
        ("permitted", "CapPrm"),
        ("inheritable", "CapInh"),
        ("ambient", "CapAmb"),
    ];
    let rows = sets.map(|(label, key)| row(label, capability_names(&field(&status, key))));
    Section { title: "Capabilities", rows: rows.into() }
}

fn seccomp() -> Section {
    let status = text("/proc/self/status");
    let mode = match field(&status, "Seccomp").as_str() {
        "0" => "off".to_owned(),
        "1" => "strict".to_owned(),
        "2" => format!("filter ({} installed)", field(&status, "Seccomp_filters")),
        other => other.to_owned(),
    };
    let link = fs::write("/dev/shm/file", "").and_then(|()| fs::hard_link("/dev/shm/file", "/dev/shm/link"));
    Section {
        title: "Seccomp",
        rows: vec![row("mode", mode), row("linkat, which it denies", refusal(link.map_err(|e| e.to_string())))],
    }
}

/// Name, soft and hard limit and unit of a line of /proc/self/limits. Columns start at bytes 0, 26, 47 and 68.
fn limit(line: &str) -> Option<(String, String)> {
    let (name, rest) = (line.get(..26)?.trim(), line.get(26..)?);
    let mut values = rest.split_whitespace();
    let (soft, hard, unit) = (values.next()?, values.next()?, values.next().unwrap_or_default());
    Some(row(name, format!("{soft:>12} {hard:>12} {unit}").trim_end()))
}

fn limits() -> Section {
    let mut rows = vec![row("", format!("{:>12} {:>12}", "soft", "hard"))];
    rows.extend(text("/proc/self/limits").lines().skip(1).filter_map(limit));
    Section { title: "Limits", rows }
}

/// Where and what: of a line of /proc/self/mountinfo.
fn mount(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(" - ")?;
    let (place, options) = (left.split(' ').nth(4)?, left.split(' ').nth(5)?);
    Some(row(place, format!("{:8} {options}", right.split(' ').next()?)))
}

fn mounts() -> Section {
    Section { title: "Mounts", rows: text("/proc/self/mountinfo").lines().filter_map(mount).collect() }
}

fn devices() -> Section {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut rows: Vec<_> = fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let meta = fs::symlink_metadata(&path).ok()?;
            let what = if meta.file_type().is_symlink() {
                format!("-> {}", fs::read_link(&path).ok()?.display())
            } else if meta.file_type().is_char_device() {
                let (major, minor) = (meta.rdev() >> 8 & 0xfff, meta.rdev() & 0xff);
                format!("c {major}:{minor} mode {:o}", meta.mode() & 0o7777)
            } else {
                format!("directory, mode {:o}", meta.mode() & 0o7777)
            };
            Some(row(path.display().to_string(), what))
        })
        .collect();
    rows.sort();
    Section { title: "Devices", rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_status_is_found_by_its_whole_name() {
        let status = "Seccomp_filters:\t3\nSeccomp:\t2\nUid:\t1\t2\t3\t4\n";
        assert_eq!(field(status, "Seccomp"), "2");
        assert_eq!(field(status, "Uid"), "1 2 3 4");
        assert_eq!(field(status, "Gid"), "");
    }

    #[test]
    fn a_mask_is_spelled_out_and_an_unknown_bit_keeps_its_number() {
        assert_eq!(capability_names("0000000020000420"), "KILL NET_BIND_SERVICE AUDIT_WRITE");
        assert_eq!(capability_names("0"), "none");
        assert_eq!(capability_names("200000000000"), "45");
        assert_eq!(capability_names("what"), "what");
    }

    #[test]
    fn hierarchies_with_the_same_path_share_a_line() {
        let text = "12:pids:/\n11:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/\n";
        assert_eq!(hierarchies(text), [row("/", "in pids, name=systemd, v2"), row("/a:b", "in cpu,cpuacct")]);
    }

    #[test]
    fn limits_of_cgroups_are_told_in_human_units() {
        assert_eq!(mebibytes("67108864"), "64 MiB");
        assert_eq!(mebibytes("max"), "max");
        assert_eq!(cpus("50000 100000"), "0.5 of one CPU (50000 µs in 100000)");
        assert_eq!(cpus("max 100000"), "none");
        assert_eq!(cpus("-1 100000"), "none");
    }

    #[test]
    fn a_namespace_is_compared_with_the_hosts_of_the_same_kind() {
        let host = "pid:[1] user:[2]";
        assert_eq!(compare(host, "pid", "pid:[1]"), "the host's");
        assert_eq!(compare(host, "user", "user:[3]"), "its own; the host's is user:[2]");
        assert_eq!(compare(host, "net", "net:[3]"), "");
    }

    #[test]
    fn a_limit_without_a_unit_is_read_too() {
        let files = "Max open files            1024                 4096                 files     ";
        let nice = "Max nice priority         0                    0                    ";
        assert_eq!(limit(files).unwrap(), row("Max open files", "        1024         4096 files"));
        assert_eq!(limit(nice).unwrap(), row("Max nice priority", "           0            0"));
        assert_eq!(limit(""), None);
    }

    #[test]
    fn a_mount_is_read_past_its_optional_fields() {
        let line = "22 1 0:20 / /proc rw,nosuid shared:5 master:1 - proc proc rw";
        assert_eq!(mount(line).unwrap(), row("/proc", "proc     rw,nosuid"));
        assert_eq!(mount("garbage"), None);
    }

    #[test]
    fn values_stand_in_one_column() {
        let section = Section { title: "T", rows: vec![row("a", "1"), row("long", "2")] };
        assert_eq!(render(&[section]), "\nT\n  a     1\n  long  2\n");
    }
}
