//! The life of a container: created, running, stopped, gone; and how its end is told.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::check::{eq, holds, skip};
use crate::command::wait_until;
use crate::scene::{Scene, text};
use crate::world;

cases! {
    "runtime.md, Lifecycle" => [
        create_does_not_run_the_program,
        a_container_is_created_running_and_stopped_in_turn,
        start_runs_the_program,
        a_change_of_the_config_after_create_has_no_effect,
        the_containers_process_is_the_one_of_the_pid_file,
        the_process_is_handed_to_the_caller,
        an_id_can_be_used_again_after_delete,
        two_containers_live_side_by_side,
    ],
    "runtime.md, Start" => [
        starting_twice_is_refused,
        starting_a_stopped_container_is_refused,
        starting_what_does_not_exist_is_refused,
    ],
    "runtime.md, Create" => [
        creating_an_id_twice_is_refused_and_harmless,
        of_two_creates_at_once_one_wins,
    ],
    "runc run (BuildKit: its exit status is the step's)" => [
        run_exits_as_the_program_did,
        run_exits_with_128_and_the_signal,
        run_deletes_the_container,
        run_with_keep_leaves_it_stopped,
        run_detached_returns_while_the_container_runs,
        run_forwards_signals,
        run_collects_orphans_and_waits_for_the_first_process_alone,
        a_second_run_of_the_same_id_is_refused,
    ],
    "runc: what is left when the first process ends" => [
        other_processes_end_with_the_pid_namespace,
    ],
    "runc pause, resume and ps" => [
        a_paused_container_says_so_and_resumes,
        a_paused_process_does_not_react,
        pausing_twice_and_resuming_what_runs_are_refused,
        ps_lists_the_host_pids_as_json,
        ps_prints_a_table_with_a_head,
        ps_hands_options_to_the_hosts_ps,
    ],
}

fn create_does_not_run_the_program(scene: &mut Scene) -> Result<()> {
    scene.probes(&["create", "/ran"]);
    scene.create()?;
    eq("status", scene.status()?, "created")?;
    std::thread::sleep(Duration::from_millis(50));
    ensure!(!scene.rootfs("ran").exists(), "the program ran before start");
    Ok(())
}

fn a_container_is_created_running_and_stopped_in_turn(scene: &mut Scene) -> Result<()> {
    scene.probes(&["wait"]);
    let live = scene.create()?;
    eq("status after create", scene.status()?, "created")?;
    scene.start()?;
    eq("status after start", scene.status()?, "running")?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    scene.becomes("stopped")?;
    scene.delete()?.ok()?;
    scene.runtime(&["state", &scene.id]).run()?.refused().map(drop)
}

fn start_runs_the_program(scene: &mut Scene) -> Result<()> {
    scene.probes(&["create", "/ran", "then", "exit", "7"]);
    let live = scene.create()?;
    scene.start()?;
    eq("exit status", live.ends()?, 7)?;
    ensure!(scene.rootfs("ran").exists(), "the program did not run");
    Ok(())
}

fn a_change_of_the_config_after_create_has_no_effect(scene: &mut Scene) -> Result<()> {
    scene.probes(&["create", "/first"]);
    let live = scene.create()?;
    scene.probes(&["create", "/second"]).save()?;
    scene.start()?;
    live.ends()?;
    ensure!(scene.rootfs("first").exists() && !scene.rootfs("second").exists(), "the later config was used");
    Ok(())
}

fn the_containers_process_is_the_one_of_the_pid_file(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let line = fs::read(format!("/proc/{}/cmdline", live.pid))?;
    eq("its command line", String::from_utf8_lossy(&line), "/probe\0wait\0")?;
    eq("pid of state", &scene.state()?["pid"], live.pid)
}

fn the_process_is_handed_to_the_caller(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let stat = fs::read_to_string(format!("/proc/{}/stat", live.pid))?;
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)).context("no parent")?;
    eq("parent, once create has returned", parent, std::process::id().to_string())
}

fn an_id_can_be_used_again_after_delete(scene: &mut Scene) -> Result<()> {
    for _ in 0..2 {
        let live = scene.live()?;
        scene.kill("KILL")?.ok()?;
        live.ends()?;
        scene.becomes("stopped")?;
        scene.delete()?.ok()?;
    }
    Ok(())
}

fn two_containers_live_side_by_side(scene: &mut Scene) -> Result<()> {
    let first = scene.live()?;
    let id = scene.id.clone();
    scene.id = format!("{id}-b");
    scene.set("/linux/cgroupsPath", format!("/{}", scene.id));
    let second = scene.live()?;
    ensure!(first.pid != second.pid, "one process for both");
    scene.force_delete()?.ok()?;
    scene.id = id;
    eq("status of the other", scene.status()?, "running")
}

fn starting_twice_is_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.runtime(&["start", &scene.id]).run()?.refused()?;
    eq("status", scene.status()?, "running")
}

fn starting_a_stopped_container_is_refused(scene: &mut Scene) -> Result<()> {
    scene.probes(&["exit", "0"]);
    let live = scene.create()?;
    scene.start()?;
    live.ends()?;
    scene.becomes("stopped")?;
    scene.runtime(&["start", &scene.id]).run()?.refused().map(drop)
}

fn starting_what_does_not_exist_is_refused(scene: &mut Scene) -> Result<()> {
    scene.runtime(&["start", "never-created"]).run()?.refused()?.complains(&["does not exist"]).map(drop)
}

fn creating_an_id_twice_is_refused_and_harmless(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    scene.try_create()?.refused()?;
    eq("status of the first", scene.status()?, "running")?;
    eq("pid of the first", &scene.state()?["pid"], live.pid)
}

fn of_two_creates_at_once_one_wins(scene: &mut Scene) -> Result<()> {
    scene.save()?;
    scene.uses(&scene.id);
    let bundle = text(&scene.bundle);
    for round in 0..5 {
        let create = || scene.runtime(&["create", "--bundle", &bundle, &scene.id]).spawn();
        let both = [create()?, create()?];
        let ended: Vec<i32> =
            both.into_iter().map(|running| running.finish().map(|done| done.status)).collect::<Result<_>>()?;
        let winners = ended.iter().filter(|status| **status == 0).count();
        ensure!(winners == 1, "round {round}: expected one winner, saw exit statuses {ended:?}");
        eq("status", scene.status()?, "created")?;
        scene.force_delete()?.ok()?;
    }
    Ok(())
}

fn run_exits_as_the_program_did(scene: &mut Scene) -> Result<()> {
    for status in [0, 1, 42, 255] {
        scene.probes(&["exit", &status.to_string()]).run()?.exits(status)?;
    }
    Ok(())
}

fn run_exits_with_128_and_the_signal(scene: &mut Scene) -> Result<()> {
    // The first process of a pid namespace is not killed by its own signals; one outside of such a namespace is.
    scene.shares("pid");
    for (signal, status) in [("SIGKILL", 137), ("SIGTERM", 143), ("SIGUSR1", 138)] {
        scene.probes(&["signal", signal]).run()?.exits(status)?;
    }
    Ok(())
}

fn run_deletes_the_container(scene: &mut Scene) -> Result<()> {
    scene.facts()?;
    ensure!(!scene.is_known(&scene.id), "the container still has a state directory");
    let left = world::cgroups_named(&scene.id)?;
    ensure!(left.is_empty(), "cgroups are left: {left:?}");
    Ok(())
}

fn run_with_keep_leaves_it_stopped(scene: &mut Scene) -> Result<()> {
    scene.probes(&["exit", "3"]);
    scene.run_with(&["--keep"])?.exits(3)?;
    eq("status", scene.status()?, "stopped")
}

fn run_detached_returns_while_the_container_runs(scene: &mut Scene) -> Result<()> {
    scene.probes(&["wait"]);
    scene.run_with(&["--detach"])?.ok()?;
    eq("status", scene.status()?, "running")
}

fn run_forwards_signals(scene: &mut Scene) -> Result<()> {
    scene.probes(&["wait"]).save()?;
    scene.uses(&scene.id);
    let running = scene.runtime(&["run", "--bundle", &text(&scene.bundle), &scene.id]).spawn()?;
    let output = running.stdout.clone();
    let said = |part: &str| {
        let heard = wait_until(Duration::from_secs(5), || {
            Ok(fs::read_to_string(&output).unwrap_or_default().contains(part).then_some(()))
        });
        heard?.with_context(|| format!("expected the container to report {part:?}"))
    };
    said("ready")?;
    running.signal(rustix::process::Signal::USR1)?;
    said("SIGUSR1")?;
    running.signal(rustix::process::Signal::TERM)?;
    said("SIGTERM")?;
    running.finish()?.exits(0).map(drop)
}

fn run_collects_orphans_and_waits_for_the_first_process_alone(scene: &mut Scene) -> Result<()> {
    // The child outlives the program in the host's pid namespace.
    scene.shares("pid");
    let done = scene.probes(&["children", "1", "then", "exit", "5"]).run()?.exits(5)?;
    ensure!(done.took < Duration::from_secs(10), "run waited {:?} for a process that is not the first", done.took);
    Ok(())
}

fn a_second_run_of_the_same_id_is_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.run()?.refused()?;
    eq("status of the first", scene.status()?, "running")
}

fn other_processes_end_with_the_pid_namespace(scene: &mut Scene) -> Result<()> {
    scene.probes(&["children", "5", "then", "wait"]);
    let live = scene.create()?;
    scene.start()?;
    live.hears("ready", |answer| answer["ready"] == true)?;
    let dir = live.cgroup("pids")?.or(live.cgroup("")?).context("no cgroup")?;
    let members = || fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines().count();
    eq("processes", members(), 6)?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    let gone = wait_until(Duration::from_secs(5), || Ok((members() == 0).then_some(())))?;
    gone.with_context(|| format!("{} processes are left", members()))
}

fn a_paused_container_says_so_and_resumes(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.runtime(&["pause", &scene.id]).run()?.ok()?;
    eq("status", scene.status()?, "paused")?;
    scene.runtime(&["resume", &scene.id]).run()?.ok()?;
    eq("status", scene.status()?, "running")
}

fn a_paused_process_does_not_react(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    scene.runtime(&["pause", &scene.id]).run()?.ok()?;
    scene.kill("USR1")?.ok()?;
    let heard = || live.answers().iter().any(|answer| answer.to_string().contains("SIGUSR1"));
    let early = wait_until(Duration::from_millis(200), || Ok(heard().then_some(())))?;
    ensure!(early.is_none(), "the process of a paused container got a signal");
    scene.runtime(&["resume", &scene.id]).run()?.ok()?;
    live.hears("SIGUSR1", |answer| answer.to_string().contains("SIGUSR1")).map(drop)
}

fn pausing_twice_and_resuming_what_runs_are_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.runtime(&["resume", &scene.id]).run()?.refused()?;
    scene.runtime(&["pause", &scene.id]).run()?.ok()?;
    scene.runtime(&["pause", &scene.id]).run()?.refused()?;
    eq("status", scene.status()?, "paused")
}

fn ps_lists_the_host_pids_as_json(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let done = scene.runtime(&["ps", "--format", "json", &scene.id]).run()?.ok()?;
    eq("ps", done.json()?, json!([live.pid]))
}

fn needs_ps() -> Result<()> {
    match ["/bin/ps", "/usr/bin/ps"].iter().any(|path| std::path::Path::new(path).is_file()) {
        true => Ok(()),
        false => skip("no ps on this machine"),
    }
}

fn ps_hands_options_to_the_hosts_ps(scene: &mut Scene) -> Result<()> {
    needs_ps()?;
    let live = scene.live()?;
    let table = scene.runtime(&["ps", &scene.id, "-e", "-o", "ppid,pid"]).run()?.ok()?.stdout;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    eq("head of the table", lines.first(), ["PPID", "PID"])?;
    eq("rows", lines.len(), 2)?;
    eq("pid", lines.last().and_then(|row| row.last()), live.pid.to_string())
}

fn ps_prints_a_table_with_a_head(scene: &mut Scene) -> Result<()> {
    needs_ps()?;
    let live = scene.live()?;
    let table = scene.runtime(&["ps", &scene.id]).run()?.ok()?.stdout;
    let mut lines = table.lines();
    holds("head of the table", lines.next().unwrap_or_default(), "PID")?;
    holds("ps", lines.next().unwrap_or_default(), &live.pid.to_string())
}
