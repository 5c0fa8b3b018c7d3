//! Golden plans: every decision about the container that `runc spec` describes, on machines of two kinds.
//!
//! The plans are in data/plan-*.txt. After a change that is meant, `BLESS=1 cargo test -p orlop-tests --test plan`
//! writes them anew; the difference is then part of the change.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]
#![allow(clippy::disallowed_methods, reason = "the golden files of this package")]

use orlop::bpf::Arch;
use orlop::cgroup::Layout;
use orlop::config::{Spec, parse};
use orlop::host::Host;
use orlop::plan::{Arena, Plan};
use orlop::request::{Cgroups, Create};
use orlop::store::ContainerId;

const CONFIG: &str = include_str!("../data/runc-1.3.6-spec.json");

fn request() -> Create {
    Create {
        id: ContainerId::parse("web1").unwrap(),
        bundle: "/srv/web".into(),
        console_socket: Some("/run/console.sock".into()),
        pidfd_socket: None,
        pid_file: None,
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
        listen_fds: 0,
        foreground: false,
        cgroups: Cgroups::Cgroupfs,
    }
}

fn host(layout: Layout) -> Host {
    Host { layout, permitted: (1 << 41) - 1, arch: Arch::X86_64, has_kcore: true }
}

fn v2() -> Host {
    host(Layout::pure_v2("/sys/fs/cgroup", "0::/system.slice/containerd.service\n"))
}

/// A hybrid host: some of its controllers are on v1, with a v2 tree beside them.
fn hybrid() -> Host {
    let mountinfo = "30 20 0:30 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        31 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 30 0:32 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
        33 30 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        34 30 0:34 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    host(Layout::parse(mountinfo, "4:memory:/\n3:devices:/\n2:cpu,cpuacct:/user\n0::/user\n"))
}

/// The plan, a field a line: what `{:#?}` breaks further is put together again, but for the parts of the cgroup.
fn render(host: &Host, config: &str) -> String {
    let arena = Arena::new();
    let spec: Spec = parse("config.json", config.as_bytes()).unwrap();
    let plan = Plan::new(&arena, &spec, &request(), host).unwrap();
    let (mut text, mut deepest) = (String::new(), 0);
    for line in format!("{plan:#?}").lines() {
        let (depth, word) = (line.len() - line.trim_start().len(), line.trim_start());
        let closes = word.starts_with(['}', ']', ')']);
        if depth <= 4 {
            deepest = match word.split(':').next() {
                Some("cgroup") => 16,
                Some("hostname" | "domainname") => 4,
                _ => 8,
            };
        }
        if depth > deepest || closes && depth > 4 {
            if closes && text.ends_with(',') {
                text.pop();
            }
            text.push_str(if closes || text.ends_with(['(', '[']) { "" } else { " " });
        } else {
            text.push('\n');
            text.push_str(&line[..depth]);
        }
        text.push_str(word);
    }
    text.trim_start().lines().map(|line| strings(line) + "\n").collect()
}

/// The bytes of C strings as text, and nothing about where they happen to be.
fn strings(line: &str) -> String {
    let Some((before, rest)) = line.split_once("Strings { _text: [") else { return line.to_owned() };
    let bytes: Vec<u8> = rest.split(']').next().unwrap().split(", ").map(|byte| byte.parse().unwrap()).collect();
    format!("{before}{:?},", String::from_utf8(bytes).unwrap())
}

fn check(name: &str, host: &Host, config: &str) {
    let path = format!("{}/data/plan-{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let plan = render(host, config);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &plan).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let different = golden.lines().zip(plan.lines()).enumerate().find(|(_, (golden, plan))| golden != plan);
    assert!(golden == plan, "{path} (golden, planned; BLESS=1 rewrites it): {different:?}");
}

#[test]
fn the_plan_on_a_v2_host_is_the_golden_one() {
    check("v2", &v2(), CONFIG);
}

#[test]
fn the_plan_on_a_hybrid_host_is_the_golden_one() {
    check("hybrid", &hybrid(), CONFIG);
}

#[test]
fn maps_of_mounts_are_checked_and_made_once() {
    let maps = r#""uidMappings": [{"containerID": 0, "hostID": 7, "size": 9}], "gidMappings": [{"containerID": 0, "hostID": 7, "size": 9}]"#;
    let mounts = |mounts: &str| {
        let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
        config["mounts"] = serde_json::from_str(mounts).unwrap();
        let spec: Spec = parse("config.json", config.to_string().as_bytes()).unwrap();
        let arena = Arena::new();
        Plan::new(&arena, &spec, &request(), &v2()).map(|plan| plan.id_maps.len()).map_err(|e| e.to_string())
    };
    let bind = format!(r#"{{"destination": "/a", "type": "bind", "source": "/a", {maps}}}"#);
    assert_eq!(mounts(&format!("[{bind}, {bind}]")), Ok(1));
    for (mount, want) in [
        (
            format!(r#"{{"destination": "/a", "type": "tmpfs", {maps}}}"#),
            "mounts[0].uidMappings: id-mapped mounts are ",
        ),
        (
            bind.replace("gidMappings", "options").replace(r#"[{"containerID": 0, "hostID": 7, "size": 9}]}"#, "[]}"),
            "mounts[0].uidMappings: without gidMappings",
        ),
        (bind.replace(r#""size": 9"#, r#""size": 0"#), "mounts[0].uidMappings[0].size: must not be 0"),
        (
            r#"{"destination": "/a", "type": "bind", "source": "/a", "options": ["idmap"]}"#.into(),
            "mounts[0].options: an id-mapped mount needs",
        ),
        (
            r#"{"destination": "/a", "type": "bind", "source": "/a", "options": ["idmap=uids=0-1-2"]}"#.into(),
            "mounts[0].options: `idmap` means nothing",
        ),
    ] {
        let refused = mounts(&format!("[{mount}]")).unwrap_err();
        assert!(refused.starts_with(want), "{refused}");
    }
}

#[test]
fn a_plan_depends_on_nothing_but_what_it_is_given() {
    assert_eq!(render(&v2(), CONFIG), render(&v2(), CONFIG));
    assert_ne!(render(&v2(), CONFIG), render(&hybrid(), CONFIG));
    assert_ne!(render(&v2(), CONFIG), render(&v2(), &CONFIG.replace("\"runc\"", "\"deck\"")));
}
