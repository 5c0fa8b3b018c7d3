//! Control groups: where the container is, and which limits hold for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::check::{allowed, eq, lists, refused, skip};
use crate::command::wait_until;
use crate::scene::{Live, Scene};
use crate::world;

cases! {
    "config-linux.md, Cgroups Path" => [
        an_absolute_path_counts_from_the_root_of_the_hierarchy,
        a_path_may_be_deep,
        without_a_path_there_is_a_cgroup_of_the_containers_own,
        a_path_with_dots_stays_below_the_root,
        the_cgroup_is_gone_after_delete,
        two_containers_have_two_cgroups,
        the_runtime_stays_where_it_is,
    ],
    "config-linux.md, Memory" => [
        a_memory_limit_is_set,
        a_memory_reservation_is_set,
        a_memory_and_swap_limit_is_set,
        a_memory_limit_of_minus_one_is_none,
        a_process_beyond_the_memory_limit_is_killed,
        a_small_limit_leaves_room_for_the_program,
    ],
    "config-linux.md, CPU" => [
        cpu_shares_are_set,
        a_cpu_quota_and_period_are_set,
        cpus_and_memory_nodes_are_set,
        a_cpu_that_does_not_exist_is_refused,
    ],
    "config-linux.md, PIDs" => [
        a_limit_of_processes_is_set,
        a_limit_of_processes_holds,
        no_limit_of_processes_is_max,
    ],
    "config-linux.md, Block IO" => [a_block_io_weight_is_set_or_refused_by_name],
    "config-linux.md, Huge page limits" => [a_huge_page_limit_is_set],
    "config-linux.md, Unified" => [
        a_unified_file_is_written,
        an_unknown_unified_file_is_refused,
        a_unified_name_with_a_slash_is_refused,
    ],
    "config.md, Mounts: cgroup" => [
        a_cgroup_mount_shows_the_hierarchies,
        a_cgroup_mount_is_read_only_when_asked,
        a_cgroup_mount_with_a_cgroup_namespace_shows_the_containers_own,
    ],
    "config-linux.md, Cgroup ownership" => [
        the_cgroup_belongs_to_the_containers_root_when_delegated,
        the_cgroup_belongs_to_the_hosts_root_otherwise,
    ],
    "runc: a limit that can't be set" => [
        a_limit_that_the_kernel_refuses_fails_create_and_leaves_nothing,
    ],
    "runc update (containerd: --resources=-, CRI-O: --resources -, Podman: a file)" => [
        update_takes_resources_from_standard_input,
        update_takes_resources_from_a_file,
        update_takes_single_limits,
        update_takes_a_size_with_a_unit,
        update_leaves_device_rules_alone,
        an_update_that_is_refused_half_way_changes_nothing,
        update_of_a_stopped_container_is_refused,
    ],
}

/// Where a limit can be read: a file of a v1 controller, and one of the v2 hierarchy.
struct Knob {
    v1: (&'static str, &'static str),
    v2: &'static str,
}

/// The file of the container that shows a limit; ends the case where the machine has no such controller.
fn file(live: &Live, knob: &Knob) -> Result<PathBuf> {
    let path = if world::is_v2()? {
        live.cgroup("")?.context("no v2 cgroup")?.join(knob.v2)
    } else {
        let Some(dir) = live.cgroup(knob.v1.0)? else { return skip(format!("no v1 controller {:?} here", knob.v1.0)) };
        dir.join(knob.v1.1)
    };
    if path.is_file() { Ok(path) } else { skip(format!("no {} here", path.display())) }
}

fn read(path: &Path) -> Result<String> {
    Ok(fs::read_to_string(path).with_context(|| path.display().to_string())?.trim().to_owned())
}

/// Ends the case where the machine has neither the v1 controller nor, on v2 alone, the v2 one.
pub(super) fn needs(controller: &str) -> Result<()> {
    let mounts = world::cgroup_mounts()?;
    if world::is_v2()? {
        let root = mounts.get("").context("no v2 hierarchy")?;
        let controllers = read(&root.join("cgroup.controllers"))?;
        if controllers.split(' ').any(|name| name == controller) {
            return Ok(());
        }
    } else if mounts.contains_key(controller) {
        return Ok(());
    }
    skip(format!("no {controller} controller here"))
}

/// Starts a container with these resources and reads a limit of it.
fn limit(scene: &mut Scene, resources: &Value, controller: &str, knob: &Knob) -> Result<String> {
    needs(controller)?;
    scene.set("/linux/resources", resources.clone());
    let live = scene.live()?;
    read(&file(&live, knob)?)
}

/// A hierarchy that every container is in here, v1 or v2, and the container's directory below its mount.
fn place(live: &Live) -> Result<(PathBuf, PathBuf)> {
    let mut mounts = world::cgroup_mounts()?;
    let controller = if world::is_v2()? { "" } else { "pids" };
    let Some(mount) = mounts.remove(controller) else { return skip("no cgroups here") };
    Ok((mount, live.cgroup(controller)?.context("no cgroup")?))
}

fn an_absolute_path_counts_from_the_root_of_the_hierarchy(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let (mount, dir) = place(&live)?;
    eq("directory", &dir, mount.join(&scene.id))?;
    eq("members", read(&dir.join("cgroup.procs"))?, live.pid.to_string())
}

fn a_path_may_be_deep(scene: &mut Scene) -> Result<()> {
    let id = scene.id.clone();
    scene.set("/linux/cgroupsPath", format!("/{id}/a/b"));
    let live = scene.live()?;
    let (mount, dir) = place(&live)?;
    eq("directory", &dir, mount.join(format!("{id}/a/b")))?;
    scene.force_delete()?.ok()?;
    ensure!(!dir.exists(), "the container's directory is left");
    // The parents may be the engine's.
    world::remove_cgroups(&world::cgroups_named(&id)?);
    Ok(())
}

fn without_a_path_there_is_a_cgroup_of_the_containers_own(scene: &mut Scene) -> Result<()> {
    scene.unset("/linux/cgroupsPath");
    let live = scene.live()?;
    let (_, dir) = place(&live)?;
    eq("members", read(&dir.join("cgroup.procs"))?, live.pid.to_string())?;
    ensure!(dir.to_string_lossy().contains(&scene.id), "expected a directory named after the id, saw {}", dir.display());
    Ok(())
}

fn a_path_with_dots_stays_below_the_root(scene: &mut Scene) -> Result<()> {
    let id = scene.id.clone();
    scene.set("/linux/cgroupsPath", format!("/../../../{id}"));
    let done = scene.try_create()?;
    if done.status != 0 {
        return done.refused().map(drop);
    }
    let pid = i32::try_from(scene.state()?["pid"].as_i64().context("no pid")?)?;
    let controller = if world::is_v2()? { "" } else { "pids" };
    let dir = world::cgroup_of(pid, controller)?.context("no cgroup")?;
    let mount = world::cgroup_mounts()?.remove(controller).context("no mount")?;
    eq("directory", dir, mount.join(id))
}

fn the_cgroup_is_gone_after_delete(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    ensure!(!world::cgroups_named(&scene.id)?.is_empty(), "the container has no cgroup of that name");
    scene.force_delete()?.ok()?;
    let left = world::cgroups_named(&scene.id)?;
    ensure!(left.is_empty(), "cgroups are left: {left:?}");
    Ok(())
}

fn two_containers_have_two_cgroups(scene: &mut Scene) -> Result<()> {
    let first = scene.live()?;
    let id = scene.id.clone();
    scene.id = format!("{id}-b");
    scene.set("/linux/cgroupsPath", format!("/{}", scene.id));
    let second = scene.live()?;
    ensure!(place(&first)?.1 != place(&second)?.1, "both are in {}", place(&first)?.1.display());
    Ok(())
}

fn the_runtime_stays_where_it_is(scene: &mut Scene) -> Result<()> {
    let own = || fs::read_to_string("/proc/self/cgroup");
    let before = own()?;
    scene.live()?;
    scene.exec_facts(&[])?;
    eq("cgroups of the caller", own()?, before)
}

const MIB: u64 = 1 << 20;
const MEMORY: Knob = Knob { v1: ("memory", "memory.limit_in_bytes"), v2: "memory.max" };

fn a_memory_limit_is_set(scene: &mut Scene) -> Result<()> {
    let seen = limit(scene, &json!({ "memory": { "limit": 64 * MIB } }), "memory", &MEMORY)?;
    eq("limit", seen, (64 * MIB).to_string())
}

fn a_memory_reservation_is_set(scene: &mut Scene) -> Result<()> {
    let knob = Knob { v1: ("memory", "memory.soft_limit_in_bytes"), v2: "memory.low" };
    let seen = limit(scene, &json!({ "memory": { "reservation": 32 * MIB } }), "memory", &knob)?;
    eq("reservation", seen, (32 * MIB).to_string())
}

fn a_memory_and_swap_limit_is_set(scene: &mut Scene) -> Result<()> {
    let knob = Knob { v1: ("memory", "memory.memsw.limit_in_bytes"), v2: "memory.swap.max" };
    let resources = json!({ "memory": { "limit": 64 * MIB, "swap": 96 * MIB } });
    let expected = if world::is_v2()? { 32 * MIB } else { 96 * MIB };
    let seen = limit(scene, &resources, "memory", &knob)?;
    eq("swap", seen, expected.to_string())
}

fn a_memory_limit_of_minus_one_is_none(scene: &mut Scene) -> Result<()> {
    let seen = limit(scene, &json!({ "memory": { "limit": -1 } }), "memory", &MEMORY)?;
    // The greatest multiple of a page on v1.
    let none = seen == "max" || seen.parse::<u64>().is_ok_and(|bytes| bytes > 1 << 60);
    ensure!(none, "limit: expected none, saw {seen}");
    Ok(())
}

fn a_process_beyond_the_memory_limit_is_killed(scene: &mut Scene) -> Result<()> {
    needs("memory")?;
    scene.set("/linux/resources", json!({ "memory": { "limit": 32 * MIB, "swap": 32 * MIB } }));
    scene.probes(&["alloc", "256"]).run()?.exits(137)?;
    scene.probes(&["alloc", "4"]).run()?.exits(0).map(drop)
}

fn a_small_limit_leaves_room_for_the_program(scene: &mut Scene) -> Result<()> {
    needs("memory")?;
    // The least that Docker accepts: what the runtime itself needs in the container's cgroup must be less.
    scene.set("/linux/resources", json!({ "memory": { "limit": 6 * MIB } }));
    scene.probes(&["exit", "0"]).run()?.exits(0).map(drop)
}

fn cpu_shares_are_set(scene: &mut Scene) -> Result<()> {
    let knob = Knob { v1: ("cpu", "cpu.shares"), v2: "cpu.weight" };
    let seen = limit(scene, &json!({ "cpu": { "shares": 512 } }), "cpu", &knob)?;
    if world::is_v2()? {
        // 59 by runc's formula since 1.3.2; 20 by the linear one of before.
        ensure!(["59", "20"].contains(&&*seen), "weight: expected 59, saw {seen}");
        return Ok(());
    }
    eq("shares", seen, "512")
}

fn a_cpu_quota_and_period_are_set(scene: &mut Scene) -> Result<()> {
    let resources = json!({ "cpu": { "quota": 20_000, "period": 50_000 } });
    let knob = Knob { v1: ("cpu", "cpu.cfs_quota_us"), v2: "cpu.max" };
    let seen = limit(scene, &resources, "cpu", &knob)?;
    eq("quota", seen, if world::is_v2()? { "20000 50000" } else { "20000" })
}

fn cpus_and_memory_nodes_are_set(scene: &mut Scene) -> Result<()> {
    needs("cpuset")?;
    scene.set("/linux/resources", json!({ "cpu": { "cpus": "0", "mems": "0" } }));
    let facts = scene.facts()?;
    eq("cpus", &facts["cpus"], "0")?;
    eq("memory nodes", &facts["mems"], "0")
}

fn a_cpu_that_does_not_exist_is_refused(scene: &mut Scene) -> Result<()> {
    needs("cpuset")?;
    scene.set("/linux/resources", json!({ "cpu": { "cpus": "4000" } }));
    scene.try_create()?.refused().map(drop)
}

const PIDS: Knob = Knob { v1: ("pids", "pids.max"), v2: "pids.max" };

fn a_limit_of_processes_is_set(scene: &mut Scene) -> Result<()> {
    eq("limit", limit(scene, &json!({ "pids": { "limit": 123 } }), "pids", &PIDS)?, "123")
}

fn a_limit_of_processes_holds(scene: &mut Scene) -> Result<()> {
    needs("pids")?;
    scene.set("/linux/resources", json!({ "pids": { "limit": 8 } }));
    let answer = scene.ask(&["children", "20"])?;
    eq("stopped by", &answer["stopped_by"], "EAGAIN")?;
    ensure!(answer["started"].as_u64().is_some_and(|count| count < 8), "started {}", answer["started"]);
    Ok(())
}

fn no_limit_of_processes_is_max(scene: &mut Scene) -> Result<()> {
    eq("limit", limit(scene, &json!({ "pids": { "limit": -1 } }), "pids", &PIDS)?, "max")
}

fn a_block_io_weight_is_set_or_refused_by_name(scene: &mut Scene) -> Result<()> {
    needs("blkio")?;
    scene.set("/linux/resources", json!({ "blockIO": { "weight": 500 } })).probes(&["wait"]);
    let done = scene.try_create()?;
    if done.status != 0 {
        // A scheduler without weights has no such file.
        return done.refused()?.complains(&["weight"]).map(drop);
    }
    let pid = i32::try_from(scene.state()?["pid"].as_i64().context("no pid")?)?;
    let dir = world::cgroup_of(pid, "blkio")?.context("no blkio cgroup")?;
    let seen = ["blkio.weight", "blkio.bfq.weight"].into_iter().find_map(|name| read(&dir.join(name)).ok());
    match seen {
        Some(seen) => ensure!(seen.ends_with("500"), "weight: expected 500, saw {seen}"),
        None => return skip("no weights on this machine"),
    }
    Ok(())
}

fn a_huge_page_limit_is_set(scene: &mut Scene) -> Result<()> {
    let knob = Knob { v1: ("hugetlb", "hugetlb.2MB.limit_in_bytes"), v2: "hugetlb.2MB.max" };
    let resources = json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 * MIB }] });
    eq("limit", limit(scene, &resources, "hugetlb", &knob)?, (4 * MIB).to_string())
}

fn needs_v2() -> Result<()> {
    if world::is_v2()? { Ok(()) } else { skip("for cgroup v2 alone") }
}

fn a_unified_file_is_written(scene: &mut Scene) -> Result<()> {
    needs_v2()?;
    scene.set("/linux/resources", json!({ "unified": { "cgroup.max.descendants": "17" } }));
    let live = scene.live()?;
    eq("cgroup.max.descendants", read(&place(&live)?.1.join("cgroup.max.descendants"))?, "17")
}

fn an_unknown_unified_file_is_refused(scene: &mut Scene) -> Result<()> {
    needs_v2()?;
    scene.set("/linux/resources", json!({ "unified": { "no.such.file": "1" } }));
    scene.try_create()?.refused().map(drop)
}

fn a_unified_name_with_a_slash_is_refused(scene: &mut Scene) -> Result<()> {
    needs_v2()?;
    scene.set("/linux/resources", json!({ "unified": { "../cgroup.max.descendants": "max" } }));
    scene.try_create()?.refused().map(drop)
}

fn mount_cgroups(scene: &mut Scene, options: &[&str]) {
    scene.mounts("/sys/fs/cgroup", "cgroup", "cgroup", options);
}

fn a_cgroup_mount_shows_the_hierarchies(scene: &mut Scene) -> Result<()> {
    mount_cgroups(scene, &["nosuid", "noexec", "nodev", "ro"]);
    let names = scene.ask(&["list", "/sys/fs/cgroup"])?["names"].clone();
    if world::is_v2()? {
        return lists("names", &names, "cgroup.procs");
    }
    for controller in world::cgroup_mounts()?.keys().filter(|name| !name.is_empty() && !name.starts_with("name=")) {
        lists("names", &names, controller)?;
    }
    Ok(())
}

/// The container's own directory as its mount shows it, with or without a cgroup namespace.
fn inside(scene: &mut Scene) -> Result<String> {
    if world::is_v2()? {
        return Ok("/sys/fs/cgroup".to_owned());
    }
    needs("pids")?;
    scene.push("/linux/namespaces", json!({ "type": "cgroup" }));
    Ok("/sys/fs/cgroup/pids".to_owned())
}

fn a_cgroup_mount_is_read_only_when_asked(scene: &mut Scene) -> Result<()> {
    mount_cgroups(scene, &["nosuid", "noexec", "nodev", "ro"]);
    let dir = inside(scene)?;
    refused("mkdir", &scene.ask(&["mkdir", &format!("{dir}/made")])?, &["EROFS"])
}

fn a_cgroup_mount_with_a_cgroup_namespace_shows_the_containers_own(scene: &mut Scene) -> Result<()> {
    mount_cgroups(scene, &["nosuid", "noexec", "nodev"]);
    let dir = inside(scene)?;
    if world::is_v2()? {
        scene.push("/linux/namespaces", json!({ "type": "cgroup" }));
    }
    let answers =
        scene.asks(&["read", &format!("{dir}/cgroup.procs"), "then", "mkdir", &format!("{dir}/made"), "then", "facts"])?;
    eq("members", answers[0]["text"].as_str().map(str::trim), "1")?;
    allowed("mkdir", &answers[1])
}

fn the_cgroup_belongs_to_the_containers_root_when_delegated(scene: &mut Scene) -> Result<()> {
    needs_v2()?;
    scene.maps_users()?.push("/linux/namespaces", json!({ "type": "cgroup" }));
    mount_cgroups(scene, &["rw"]);
    let live = scene.live()?;
    let (_, dir) = place(&live)?;
    let owner = |path: &Path| fs::metadata(path).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
    eq("owner of the directory", owner(&dir)?, 100_000)?;
    for name in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        eq(name, owner(&dir.join(name))?, 100_000)?;
    }
    eq("owner of cgroup.freeze, which is not delegated", owner(&dir.join("cgroup.freeze"))?, 0)
}

fn the_cgroup_belongs_to_the_hosts_root_otherwise(scene: &mut Scene) -> Result<()> {
    needs_v2()?;
    scene.maps_users()?.push("/linux/namespaces", json!({ "type": "cgroup" }));
    mount_cgroups(scene, &["ro"]);
    let live = scene.live()?;
    let (_, dir) = place(&live)?;
    eq("owner of the directory", std::os::unix::fs::MetadataExt::uid(&fs::metadata(dir)?), 0)
}

fn a_limit_that_the_kernel_refuses_fails_create_and_leaves_nothing(scene: &mut Scene) -> Result<()> {
    needs("cpuset")?;
    scene.set("/linux/resources", json!({ "cpu": { "cpus": "not-a-list" } }));
    scene.try_create()?.refused()?;
    let left = world::cgroups_named(&scene.id)?;
    ensure!(left.is_empty(), "cgroups are left: {left:?}");
    ensure!(!scene.is_known(&scene.id), "a state directory is left");
    Ok(())
}

/// Updates the limit of processes of a running container and waits for it to show.
fn update(scene: &mut Scene, update: impl Fn(&Scene) -> Result<()>) -> Result<()> {
    needs("pids")?;
    scene.set("/linux/resources", json!({ "pids": { "limit": 100 } }));
    let live = scene.live()?;
    let file = file(&live, &PIDS)?;
    eq("before", read(&file)?, "100")?;
    update(scene)?;
    let changed = wait_until(Duration::from_secs(1), || Ok((read(&file)? == "77").then_some(())))?;
    changed.with_context(|| format!("limit after the update: expected 77, saw {:?}", read(&file)))
}

fn update_takes_resources_from_standard_input(scene: &mut Scene) -> Result<()> {
    update(scene, |scene| {
        for option in [&["--resources=-"][..], &["--resources", "-"], &["-r", "-"]] {
            let resources = json!({ "pids": { "limit": 77 } }).to_string();
            scene.runtime(&["update"]).args(option).args([&scene.id]).stdin(resources)?.run()?.ok()?;
        }
        Ok(())
    })
}

fn update_takes_resources_from_a_file(scene: &mut Scene) -> Result<()> {
    update(scene, |scene| {
        let file = scene.path("resources.json");
        fs::write(&file, json!({ "pids": { "limit": 77 } }).to_string())?;
        scene.runtime(&["update", "--resources", &crate::scene::text(&file), &scene.id]).run()?.ok().map(drop)
    })
}

fn update_takes_single_limits(scene: &mut Scene) -> Result<()> {
    update(scene, |scene| scene.runtime(&["update", "--pids-limit", "77", &scene.id]).run()?.ok().map(drop))
}

fn update_takes_a_size_with_a_unit(scene: &mut Scene) -> Result<()> {
    needs("memory")?;
    let live = scene.live()?;
    scene.runtime(&["update", "--memory", "64M", &scene.id]).run()?.ok()?;
    eq("limit", read(&file(&live, &MEMORY)?)?, (64 << 20).to_string())
}

/// Engines hand on the whole section of the configuration; what has been allowed since has to stay.
fn update_leaves_device_rules_alone(scene: &mut Scene) -> Result<()> {
    if world::is_v2()? {
        return skip("the rules of v2 are a program that can't be read");
    }
    needs("devices")?;
    let live = scene.live()?;
    let dir = live.cgroup("devices")?.context("no devices cgroup")?;
    fs::write(dir.join("devices.allow"), "c 1:11 r")?;
    let before = read(&dir.join("devices.list"))?;
    let resources = json!({ "devices": [{ "allow": false, "access": "rwm" }] }).to_string();
    scene.runtime(&["update", "--resources", "-", &scene.id]).stdin(resources)?.run()?.ok()?;
    eq("rules", read(&dir.join("devices.list"))?, before)
}

fn an_update_that_is_refused_half_way_changes_nothing(scene: &mut Scene) -> Result<()> {
    needs("cpu")?;
    needs("memory")?;
    needs("pids")?;
    scene.set(
        "/linux/resources",
        json!({
            "memory": { "limit": 64 * MIB, "swap": 64 * MIB },
            "cpu": { "shares": 512, "quota": 20_000, "period": 50_000 },
            "pids": { "limit": 100 },
        }),
    );
    let live = scene.live()?;
    let knobs = [
        Knob { v1: ("memory", "memory.limit_in_bytes"), v2: "memory.max" },
        Knob { v1: ("memory", "memory.soft_limit_in_bytes"), v2: "memory.low" },
        Knob { v1: ("cpu", "cpu.shares"), v2: "cpu.weight" },
        Knob { v1: ("cpu", "cpu.cfs_quota_us"), v2: "cpu.max" },
        Knob { v1: ("cpu", "cpu.cfs_period_us"), v2: "cpu.max" },
        Knob { v1: ("pids", "pids.max"), v2: "pids.max" },
    ];
    let limits = || knobs.iter().map(|knob| read(&file(&live, knob)?)).collect::<Result<Vec<_>>>();
    let before = limits()?;
    // Whatever comes last of these, it is one that the kernel refuses: there is no such processor, and no such device.
    let resources = json!({
        "memory": { "limit": 128 * MIB, "swap": 128 * MIB, "reservation": 32 * MIB },
        "cpu": { "shares": 1024, "quota": 30_000, "period": 60_000, "cpus": "4095" },
        "pids": { "limit": 50 },
        "blockIO": { "throttleReadBpsDevice": [{ "major": 4095, "minor": 77, "rate": 1 }] },
    });
    let update = scene.runtime(&["update", "--resources=-", &scene.id]).stdin(resources.to_string())?;
    update.run()?.refused()?;
    eq("limits", limits()?, before)
}

fn update_of_a_stopped_container_is_refused(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    scene.becomes("stopped")?;
    scene.runtime(&["update", "--pids-limit", "77", &scene.id]).run()?.refused().map(drop)
}
