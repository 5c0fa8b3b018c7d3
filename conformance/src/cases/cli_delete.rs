//! `delete`: what it demands, what it removes, and what `--force` forgives.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::check::eq;
use crate::scene::Scene;
use crate::world;

cases! {
    "runtime.md, Delete" => [
        deleting_a_running_container_is_refused_and_harmless,
        deleting_a_stopped_container_removes_everything,
        deleting_what_does_not_exist_is_refused,
        delete_does_not_remove_the_bundle,
        deleting_twice_is_refused,
    ],
    "runc delete of a created container (containerd, Podman)" => [a_created_container_is_deleted_without_force],
    "runc delete --force (engines' clean-up)" => [
        force_deletes_a_running_container,
        force_deletes_a_created_container,
        force_of_what_does_not_exist_succeeds,
        force_deletes_a_paused_container,
        force_deletes_a_container_of_many_processes,
        force_deletes_all_processes_without_a_pid_namespace,
        force_leaves_other_containers_alone,
        delete_removes_cgroups_that_the_container_made,
    ],
    "containerd shim: clean-up omits --systemd-cgroup" => [options_of_create_are_not_needed_to_delete],
}

fn nothing_is_left(scene: &Scene) -> Result<()> {
    ensure!(!scene.is_known(&scene.id), "the state directory is left");
    let cgroups = world::cgroups_named(&scene.id)?;
    ensure!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
    world::reap();
    let processes = world::children();
    ensure!(processes.is_empty(), "processes are left: {processes:?}");
    Ok(())
}

fn deleting_a_running_container_is_refused_and_harmless(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.delete()?.refused()?;
    eq("status", scene.status()?, "running")
}

fn deleting_a_stopped_container_removes_everything(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    scene.becomes("stopped")?;
    scene.delete()?.ok()?;
    nothing_is_left(scene)
}

fn deleting_what_does_not_exist_is_refused(scene: &mut Scene) -> Result<()> {
    scene.delete()?.refused()?.complains(&["does not exist"]).map(drop)
}

fn delete_does_not_remove_the_bundle(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.force_delete()?.ok()?;
    ensure!(scene.rootfs("probe").exists() && scene.bundle.join("config.json").exists(), "the bundle is gone");
    Ok(())
}

fn deleting_twice_is_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.force_delete()?.ok()?;
    scene.delete()?.refused().map(drop)
}

fn a_created_container_is_deleted_without_force(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    scene.delete()?.ok()?;
    nothing_is_left(scene)
}

fn force_deletes_a_running_container(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.force_delete()?.ok()?;
    nothing_is_left(scene)
}

fn force_deletes_a_created_container(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    scene.force_delete()?.ok()?;
    nothing_is_left(scene)
}

fn force_of_what_does_not_exist_succeeds(scene: &mut Scene) -> Result<()> {
    scene.force_delete()?.ok().map(drop)
}

fn force_deletes_a_paused_container(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.runtime(&["pause", &scene.id]).run()?.ok()?;
    scene.force_delete()?.ok()?;
    nothing_is_left(scene)
}

fn crowd(scene: &mut Scene, count: &str) -> Result<()> {
    scene.probes(&["children", count, "then", "wait"]);
    let live = scene.create()?;
    scene.start()?;
    live.hears("ready", |answer| answer["ready"] == true).map(drop)
}

fn force_deletes_a_container_of_many_processes(scene: &mut Scene) -> Result<()> {
    crowd(scene, "200")?;
    scene.force_delete()?.ok()?;
    nothing_is_left(scene)
}

fn force_deletes_all_processes_without_a_pid_namespace(scene: &mut Scene) -> Result<()> {
    scene.shares("pid");
    crowd(scene, "20")?;
    scene.force_delete()?.ok()?;
    nothing_is_left(scene)
}

fn force_leaves_other_containers_alone(scene: &mut Scene) -> Result<()> {
    let first = scene.live()?;
    let id = scene.id.clone();
    scene.id = format!("{id}-b");
    scene.set("/linux/cgroupsPath", format!("/{}", scene.id));
    scene.live()?;
    scene.force_delete()?.ok()?;
    scene.id = id;
    eq("status of the other", scene.status()?, "running")?;
    eq("its pid", &scene.state()?["pid"], first.pid)
}

fn delete_removes_cgroups_that_the_container_made(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let dir = live.cgroup("pids")?.or(live.cgroup("")?).context("no cgroup")?;
    fs::create_dir_all(dir.join("made/inside"))?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    scene.becomes("stopped")?;
    scene.delete()?.ok()?;
    nothing_is_left(scene)
}

fn options_of_create_are_not_needed_to_delete(scene: &mut Scene) -> Result<()> {
    let log = crate::scene::text(&scene.path("log"));
    scene.save()?;
    scene.uses(&scene.id);
    let bundle = crate::scene::text(&scene.bundle);
    scene
        .runtime(&["--log", &log, "--log-format", "json", "create", "--bundle", &bundle, "--no-new-keyring", &scene.id])
        .run()?
        .ok()?;
    eq("status", scene.status()?, "created")?;
    scene.force_delete()?.ok()?;
    nothing_is_left(scene)
}
