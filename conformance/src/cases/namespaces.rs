//! Namespaces: new, shared, joined; hostname and domainname; id maps and clock offsets.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::check::{allowed, eq, lacks, lists, refused, skip};
use crate::command::Cmd;
use crate::scene::{Live, Scene};

cases! {
    "config-linux.md, Namespaces" => [
        a_listed_namespace_is_new,
        a_namespace_that_is_not_listed_is_the_runtimes,
        a_new_cgroup_namespace_starts_at_the_container,
        a_new_user_namespace_has_the_configured_maps,
        a_new_time_namespace_has_the_configured_offsets,
        a_network_namespace_is_joined_by_path,
        an_ipc_namespace_is_joined_by_path,
        a_uts_namespace_is_joined_by_path,
        a_pid_namespace_is_joined_by_path,
        a_user_namespace_is_joined_by_path,
        a_cgroup_namespace_is_joined_by_path,
        a_path_of_another_type_is_refused,
        a_path_that_is_no_namespace_is_refused,
        a_path_that_is_missing_is_refused,
        a_type_listed_twice_is_refused,
        an_unknown_type_is_refused,
        the_runtimes_own_namespaces_stay_as_they_are,
    ],
    "containerd, CRI-O: a user namespace by path together with mappings" => [
        mappings_may_stand_beside_a_joined_user_namespace,
    ],
    "runc: the loopback of a new network namespace" => [a_new_network_namespace_has_its_loopback_up],
    "config-linux.md, Network Devices" => [a_network_device_is_moved_into_the_container],
    "config.md, Hostname and Domainname" => [
        the_hostname_is_set,
        the_domainname_is_set,
        a_hostname_without_a_uts_namespace_is_refused,
        the_hosts_name_stays_as_it_is,
    ],
    "config-linux.md, User namespace mappings" => [
        root_inside_is_the_mapped_user_outside,
        files_of_unmapped_users_belong_to_nobody,
        several_ranges_may_be_mapped,
    ],
}

const KINDS: [(&str, &str); 5] =
    [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("mount", "mnt")];

fn host_namespace(name: &str) -> Result<String> {
    Ok(fs::read_link(format!("/proc/self/ns/{name}"))?.to_string_lossy().into_owned())
}

fn a_listed_namespace_is_new(scene: &mut Scene) -> Result<()> {
    scene.push("/linux/namespaces", json!({ "type": "cgroup" }));
    let facts = scene.facts()?;
    for (kind, name) in KINDS.into_iter().chain([("cgroup", "cgroup")]) {
        let (own, seen) = (host_namespace(name)?, &facts["namespaces"][name]);
        ensure!(seen.is_string() && *seen != own, "{kind}: expected a new namespace, saw {seen}, the runtime's is {own}");
    }
    Ok(())
}

fn a_namespace_that_is_not_listed_is_the_runtimes(scene: &mut Scene) -> Result<()> {
    scene.unset("/hostname");
    // A mqueue or a sysfs can't be mounted without a namespace of its own.
    scene.unmounts("/dev/mqueue");
    for kind in ["network", "ipc", "uts", "pid"] {
        scene.shares(kind);
    }
    let facts = scene.facts()?;
    for name in ["net", "ipc", "uts", "pid", "user", "cgroup", "time"] {
        eq(name, &facts["namespaces"][name], host_namespace(name)?)?;
    }
    Ok(())
}

fn a_new_cgroup_namespace_starts_at_the_container(scene: &mut Scene) -> Result<()> {
    scene.push("/linux/namespaces", json!({ "type": "cgroup" }));
    let facts = scene.facts()?;
    let lines = facts["cgroup"].as_array().context("no cgroups")?;
    let id = scene.id.clone();
    for line in lines {
        ensure!(!line.to_string().contains(&id), "expected paths below the container's own cgroup, saw {line}");
    }
    ensure!(lines.iter().any(|line| line.as_str().is_some_and(|line| line.ends_with(":/"))), "saw {lines:?}");
    Ok(())
}

fn a_new_user_namespace_has_the_configured_maps(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?;
    let facts = scene.facts()?;
    eq("uid_map", &facts["uid_map"], [[0, 100_000, 65_536]])?;
    eq("gid_map", &facts["gid_map"], [[0, 100_000, 65_536]])?;
    eq("uid", &facts["uid"], [0; 4])
}

fn a_new_time_namespace_has_the_configured_offsets(scene: &mut Scene) -> Result<()> {
    scene.push("/linux/namespaces", json!({ "type": "time" }));
    scene.set("/linux/timeOffsets", json!({ "boottime": { "secs": 864_000, "nanosecs": 0 }, "monotonic": { "secs": 3600 } }));
    let facts = scene.facts()?;
    let own = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    let ahead = facts["boot_seconds"].as_i64().unwrap_or_default() - own;
    ensure!((863_900..=864_000).contains(&ahead), "boot time: expected 864000 s ahead, saw {ahead}");
    Ok(())
}

/// A second container that joins a namespace of a first one; both as the probe sees them.
fn joined(scene: &mut Scene, kind: &str, name: &str, change: impl Fn(&mut Scene)) -> Result<(Live, Value)> {
    let first = scene.live()?;
    scene.uses(&scene.id);
    scene.id = format!("{}-b", scene.id);
    scene.set("/linux/cgroupsPath", format!("/{}", scene.id));
    scene.shares(kind);
    scene.push("/linux/namespaces", json!({ "type": kind, "path": format!("/proc/{}/ns/{name}", first.pid) }));
    change(scene);
    let facts = scene.facts()?;
    let expected = fs::read_link(format!("/proc/{}/ns/{name}", first.pid))?;
    eq(kind, &facts["namespaces"][name], expected)?;
    Ok((first, facts))
}

fn a_network_namespace_is_joined_by_path(scene: &mut Scene) -> Result<()> {
    joined(scene, "network", "net", |_| {}).map(drop)
}

fn an_ipc_namespace_is_joined_by_path(scene: &mut Scene) -> Result<()> {
    joined(scene, "ipc", "ipc", |_| {}).map(drop)
}

fn a_uts_namespace_is_joined_by_path(scene: &mut Scene) -> Result<()> {
    let (_, facts) = joined(scene, "uts", "uts", |scene| {
        scene.unset("/hostname");
    })?;
    eq("hostname", &facts["hostname"], "conformance")
}

fn a_pid_namespace_is_joined_by_path(scene: &mut Scene) -> Result<()> {
    let (_, facts) = joined(scene, "pid", "pid", |_| {})?;
    ensure!(facts["pid"].as_i64().is_some_and(|pid| pid > 1), "pid: expected another than 1, saw {}", facts["pid"]);
    Ok(())
}

fn a_user_namespace_is_joined_by_path(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?;
    let (_, facts) = joined(scene, "user", "user", |scene| {
        scene.unset("/linux/uidMappings").unset("/linux/gidMappings");
    })?;
    eq("uid_map", &facts["uid_map"], [[0, 100_000, 65_536]])
}

fn a_cgroup_namespace_is_joined_by_path(scene: &mut Scene) -> Result<()> {
    scene.push("/linux/namespaces", json!({ "type": "cgroup" }));
    joined(scene, "cgroup", "cgroup", |_| {}).map(drop)
}

fn mappings_may_stand_beside_a_joined_user_namespace(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?;
    let (_, facts) = joined(scene, "user", "user", |_| {})?;
    eq("uid", &facts["uid"], [0; 4])
}

fn refuses_path(scene: &mut Scene, kind: &str, path: &str) -> Result<()> {
    scene.shares(kind);
    scene.push("/linux/namespaces", json!({ "type": kind, "path": path }));
    scene.try_create()?.refused().map(drop)
}

fn a_path_of_another_type_is_refused(scene: &mut Scene) -> Result<()> {
    refuses_path(scene, "network", "/proc/self/ns/uts")
}

fn a_path_that_is_no_namespace_is_refused(scene: &mut Scene) -> Result<()> {
    refuses_path(scene, "network", "/proc/self/status")
}

fn a_path_that_is_missing_is_refused(scene: &mut Scene) -> Result<()> {
    refuses_path(scene, "ipc", "/proc/self/ns/none")
}

fn a_type_listed_twice_is_refused(scene: &mut Scene) -> Result<()> {
    scene.push("/linux/namespaces", json!({ "type": "uts" }));
    scene.try_create()?.refused().map(drop)
}

fn an_unknown_type_is_refused(scene: &mut Scene) -> Result<()> {
    scene.push("/linux/namespaces", json!({ "type": "weather" }));
    scene.try_create()?.refused().map(drop)
}

fn the_runtimes_own_namespaces_stay_as_they_are(scene: &mut Scene) -> Result<()> {
    let names = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let before: Vec<String> = names.iter().map(|name| host_namespace(name)).collect::<Result<_>>()?;
    scene.live()?;
    let after: Vec<String> = names.iter().map(|name| host_namespace(name)).collect::<Result<_>>()?;
    eq("namespaces of the caller", after, before)
}

fn a_new_network_namespace_has_its_loopback_up(scene: &mut Scene) -> Result<()> {
    let answer = scene.ask(&["read", "/sys/class/net/lo/flags"])?;
    let flags = answer["text"].as_str().unwrap_or_default().trim().trim_start_matches("0x");
    let up = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
    ensure!(up, "flags of lo: expected IFF_UP, saw {answer}");
    Ok(())
}

fn a_network_device_is_moved_into_the_container(scene: &mut Scene) -> Result<()> {
    scene.needs("network devices", "/linux/netDevices/enabled", (1, 3))?;
    let places = ["/usr/sbin/ip", "/usr/bin/ip", "/sbin/ip"].map(std::path::Path::new);
    let Some(ip) = places.into_iter().find(|path| path.is_file()) else { return skip("no ip on this machine") };
    // The devices are made in a network namespace of the case's own, which is the runtime's as well.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    let add = ["link", "add", "moved", "type", "veth", "peer", "name", "stays"];
    Cmd::new(ip, &scene.dir).args(add).run()?.ok()?;
    scene.set("/linux/netDevices", json!({ "moved": { "name": "inside0" } }));
    let names = scene.ask(&["list", "/sys/class/net"])?["names"].clone();
    lists("devices inside", &names, "inside0")?;
    lacks("devices inside", &names, "stays")
}

fn the_hostname_is_set(scene: &mut Scene) -> Result<()> {
    scene.set("/hostname", "a-name.example");
    eq("hostname", &scene.facts()?["hostname"], "a-name.example")
}

fn the_domainname_is_set(scene: &mut Scene) -> Result<()> {
    scene.set("/domainname", "domain.example");
    eq("domainname", &scene.facts()?["domainname"], "domain.example")
}

fn a_hostname_without_a_uts_namespace_is_refused(scene: &mut Scene) -> Result<()> {
    // The name that the host has, in case a runtime sets it.
    let own = fs::read_to_string("/proc/sys/kernel/hostname")?;
    scene.shares("uts").set("/hostname", own.trim());
    scene.try_create()?.refused().map(drop)
}

fn the_hosts_name_stays_as_it_is(scene: &mut Scene) -> Result<()> {
    let own = || fs::read_to_string("/proc/sys/kernel/hostname");
    let before = own()?;
    scene.facts()?;
    eq("the host's name", own()?, before)
}

fn root_inside_is_the_mapped_user_outside(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?;
    let live = scene.live()?;
    eq("owner of the process outside", fs::metadata(format!("/proc/{}", live.pid))?.uid(), 100_000)?;
    allowed("create a file", &scene.exec_with(&[], &["create", "/tmp/mine"])?.ok()?.answers().pop().unwrap_or_default())?;
    eq("owner of its file outside", fs::metadata(scene.rootfs("tmp/mine"))?.uid(), 100_000)
}

fn files_of_unmapped_users_belong_to_nobody(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?;
    let answers = scene.asks(&["stat", "/probe", "then", "write", "/etc/passwd", "x", "then", "chown", "/probe", "0", "0"])?;
    eq("owner of a file of the host's root", &answers[0]["uid"], 65_534)?;
    refused("write to it", &answers[1], &["EACCES"])?;
    refused("take it over", &answers[2], &["EPERM", "EINVAL"])
}

fn several_ranges_may_be_mapped(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?;
    let map = json!([
        { "containerID": 0, "hostID": 100_000, "size": 1 },
        { "containerID": 1, "hostID": 200_000, "size": 10 },
        { "containerID": 1000, "hostID": 300_000, "size": 5 },
    ]);
    scene.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    // The terminals' group is mapped in no range; gid 5 is.
    eq("uid_map", &scene.facts()?["uid_map"], [[0, 100_000, 1], [1, 200_000, 10], [1000, 300_000, 5]])
}
