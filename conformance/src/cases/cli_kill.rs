//! `kill`: signals by name and number, and what it says when there is nobody to kill.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::check::eq;
use crate::command::wait_until;
use crate::scene::{Live, Scene};

cases! {
    "runc kill (containerd, Podman, CRI-O)" => [
        a_signal_may_be_a_number,
        a_signal_may_be_a_name_with_or_without_sig,
        the_default_signal_is_term,
        a_created_container_can_be_killed,
        signal_zero_tests_for_life,
        all_reaches_every_process,
        a_frozen_container_can_be_killed,
    ],
    "runc kill: refusals" => [
        an_unknown_signal_is_refused,
        killing_a_stopped_container_says_that_it_is_not_running,
        killing_what_does_not_exist_says_so,
        kill_all_of_a_stopped_container_is_accepted,
    ],
}

fn hears_signal(scene: &Scene, live: &Live, argument: &str, name: &str) -> Result<()> {
    scene.kill(argument)?.ok()?;
    live.hears(name, |answer| answer["signal"] == name).map(drop)
}

fn a_signal_may_be_a_number(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    hears_signal(scene, &live, "10", "SIGUSR1")?;
    scene.kill("9")?.ok()?;
    eq("end", live.ends()?, 137)
}

fn a_signal_may_be_a_name_with_or_without_sig(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    hears_signal(scene, &live, "SIGUSR1", "SIGUSR1")?;
    hears_signal(scene, &live, "USR2", "SIGUSR2")?;
    hears_signal(scene, &live, "SIGWINCH", "SIGWINCH")
}

fn the_default_signal_is_term(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    scene.runtime(&["kill", &scene.id]).run()?.ok()?;
    live.hears("SIGTERM", |answer| answer["signal"] == "SIGTERM").map(drop)
}

fn a_created_container_can_be_killed(scene: &mut Scene) -> Result<()> {
    let live = scene.create()?;
    scene.kill("KILL")?.ok()?;
    eq("end", live.ends()?, 137)?;
    scene.becomes("stopped")
}

fn signal_zero_tests_for_life(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    scene.kill("0")?.ok()?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    scene.becomes("stopped")?;
    scene.kill("0")?.refused().map(drop)
}

fn members(live: &Live) -> Result<impl Fn() -> usize + use<>> {
    let dir = live.cgroup("pids")?.or(live.cgroup("")?).context("no cgroup")?;
    Ok(move || fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines().count())
}

fn all_reaches_every_process(scene: &mut Scene) -> Result<()> {
    // Without a pid namespace the end of the first process does not end the others.
    scene.shares("pid");
    scene.probes(&["children", "4", "then", "wait"]);
    let live = scene.create()?;
    scene.start()?;
    live.hears("ready", |answer| answer["ready"] == true)?;
    let members = members(&live)?;
    eq("processes", members(), 5)?;
    scene.runtime(&["kill", "--all", &scene.id, "KILL"]).run()?.ok()?;
    let gone = wait_until(Duration::from_secs(5), || {
        crate::world::reap();
        Ok((members() == 0).then_some(()))
    })?;
    gone.with_context(|| format!("{} processes are left", members()))
}

fn a_frozen_container_can_be_killed(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    scene.runtime(&["pause", &scene.id]).run()?.ok()?;
    scene.kill("KILL")?.ok()?;
    eq("end", live.ends()?, 137)
}

fn an_unknown_signal_is_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    for signal in ["SIGNONSENSE", "99999", "-1"] {
        scene.runtime(&["kill", &scene.id, signal]).run()?.refused()?;
    }
    eq("status", scene.status()?, "running")
}

fn stop(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    scene.becomes("stopped")
}

fn killing_a_stopped_container_says_that_it_is_not_running(scene: &mut Scene) -> Result<()> {
    stop(scene)?;
    let words = ["container not running", "process already finished", "no such process", "No such process"];
    scene.kill("TERM")?.refused()?.complains(&words).map(drop)
}

fn killing_what_does_not_exist_says_so(scene: &mut Scene) -> Result<()> {
    scene.kill("TERM")?.refused()?.complains(&["does not exist"]).map(drop)
}

fn kill_all_of_a_stopped_container_is_accepted(scene: &mut Scene) -> Result<()> {
    stop(scene)?;
    scene.runtime(&["kill", "--all", &scene.id, "KILL"]).run()?.ok().map(drop)
}
