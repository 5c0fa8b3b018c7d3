//! `events`: what a container uses, as lines of JSON, and that processes of it were killed for want of memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cgroup::needs;
use crate::check::{eq, skip};
use crate::command::wait_until;
use crate::scene::{Live, Scene};
use crate::world;

cases! {
    "runc events --stats (go-runc Stats)" => [
        statistics_are_one_line_of_type_and_id,
        statistics_have_all_their_parts,
        statistics_of_processor_time_are_in_nanoseconds,
        statistics_of_memory_have_usage_limit_and_all_of_memory_stat,
        statistics_of_processes_have_their_number_and_limit,
        statistics_of_a_paused_container_are_given,
        statistics_of_a_stopped_container_are_refused,
        statistics_of_an_unknown_container_are_refused,
    ],
    "runc events --interval (go-runc Events)" => [
        events_repeat_the_statistics,
        events_tell_of_a_process_that_was_killed_for_memory,
        an_interval_of_nothing_is_refused,
    ],
}

const MIB: u64 = 1 << 20;

/// The only line of `events --stats`.
fn line(scene: &Scene) -> Result<Value> {
    let done = scene.runtime(&["events", "--stats", &scene.id]).run()?.ok()?;
    eq("lines", done.stdout.lines().count(), 1)?;
    done.json()
}

fn statistics_are_one_line_of_type_and_id(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let line = line(scene)?;
    eq("type", &line["type"], "stats")?;
    eq("id", &line["id"], &scene.id)?;
    ensure!(line["data"].is_object(), "data: expected an object, saw {}", line["data"]);
    Ok(())
}

fn statistics_have_all_their_parts(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let line = line(scene)?;
    for part in ["cpu/usage", "cpu/throttling", "memory/usage", "memory/swap", "pids", "blkio", "hugetlb"] {
        let seen = line.pointer(&format!("/data/{part}"));
        ensure!(seen.is_some_and(Value::is_object), "{part}: expected an object, saw {seen:?}");
    }
    for number in ["cpu/usage/kernel", "cpu/usage/user", "memory/usage/limit", "memory/usage/failcnt"] {
        let seen = line.pointer(&format!("/data/{number}"));
        ensure!(seen.is_some_and(Value::is_u64), "{number}: expected a number, saw {seen:?}");
    }
    Ok(())
}

/// The container's processor time in nanoseconds, as the kernel has it now.
fn processor_time(live: &Live) -> Result<u64> {
    if world::is_v2()? {
        let stat = fs::read_to_string(live.cgroup("")?.context("no v2 cgroup")?.join("cpu.stat"))?;
        let time = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).context("no usage_usec")?;
        return Ok(time.parse::<u64>()? * 1000);
    }
    let Some(dir) = live.cgroup("cpuacct")? else { return skip("no v1 controller cpuacct here") };
    Ok(fs::read_to_string(dir.join("cpuacct.usage"))?.trim().parse()?)
}

fn statistics_of_processor_time_are_in_nanoseconds(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let before = processor_time(&live)?;
    let line = line(scene)?;
    let after = processor_time(&live)?;
    let seen = line["data"]["cpu"]["usage"]["total"].as_u64().context("no total")?;
    ensure!(before > 0 && (before..=after).contains(&seen), "total: expected {before} to {after}, saw {seen}");
    Ok(())
}

fn statistics_of_memory_have_usage_limit_and_all_of_memory_stat(scene: &mut Scene) -> Result<()> {
    needs("memory")?;
    scene.set("/linux/resources", json!({ "memory": { "limit": 64 * MIB } }));
    scene.live()?;
    let memory = &line(scene)?["data"]["memory"];
    eq("limit", &memory["usage"]["limit"], 64 * MIB)?;
    let usage = memory["usage"]["usage"].as_u64().context("no usage")?;
    ensure!(usage > 0 && usage <= 64 * MIB, "usage: {usage}");
    let raw = memory["raw"].as_object().context("no raw")?;
    for name in ["pgfault", "inactive_file"] {
        ensure!(raw.get(name).is_some_and(Value::is_u64), "raw: expected {name} among {:?}", raw.keys());
    }
    Ok(())
}

fn statistics_of_processes_have_their_number_and_limit(scene: &mut Scene) -> Result<()> {
    needs("pids")?;
    scene.set("/linux/resources", json!({ "pids": { "limit": 100 } }));
    scene.live()?;
    eq("pids", &line(scene)?["data"]["pids"], json!({ "current": 1, "limit": 100 }))?;
    // runc leaves a limit out that is none.
    scene.force_delete()?.ok()?;
    scene.set("/linux/resources", json!({}));
    scene.live()?;
    eq("pids without a limit", &line(scene)?["data"]["pids"], json!({ "current": 1 }))
}

fn statistics_of_a_paused_container_are_given(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.runtime(&["pause", &scene.id]).run()?.ok()?;
    let line = line(scene);
    scene.runtime(&["resume", &scene.id]).run()?.ok()?;
    eq("type", &line?["type"], "stats")
}

fn statistics_of_a_stopped_container_are_refused(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    let done = scene.runtime(&["events", "--stats", &scene.id]).run()?.refused()?;
    done.complains(&["is not running"]).map(drop)
}

fn statistics_of_an_unknown_container_are_refused(scene: &mut Scene) -> Result<()> {
    let done = scene.runtime(&["events", "--stats", "never-created"]).run()?.refused()?;
    done.complains(&["does not exist"]).map(drop)
}

fn events_repeat_the_statistics(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let events = scene.runtime(&["events", "--interval", "50ms", &scene.id]).spawn()?;
    let both = wait_until(Duration::from_secs(5), || Ok((events.answers().len() >= 2).then(|| events.answers())))?;
    for line in both.with_context(|| format!("expected two lines, saw {:?}", events.answers()))? {
        eq("type", &line["type"], "stats")?;
    }
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    // Some end with the container, some with its cgroup.
    scene.force_delete()?.ok()?;
    events.finish()?.ok().map(drop)
}

fn events_tell_of_a_process_that_was_killed_for_memory(scene: &mut Scene) -> Result<()> {
    needs("memory")?;
    scene.set("/linux/resources", json!({ "memory": { "limit": 32 * MIB, "swap": 32 * MIB } }));
    scene.live()?;
    // The first statistics say that it has begun to watch, or is about to.
    let events = scene.runtime(&["events", "--interval", "100ms", &scene.id]).spawn()?;
    wait_until(Duration::from_secs(5), || Ok(events.answers().pop()))?.context("no event at all")?;
    scene.exec_with(&[], &["alloc", "256"])?.exits(137)?;
    let oom = |line: &Value| line["type"] == "oom";
    let told = wait_until(Duration::from_secs(5), || Ok(events.answers().into_iter().find(oom)))?;
    eq("event", told.context("expected an event of the type oom")?, json!({ "type": "oom", "id": scene.id }))
}

fn an_interval_of_nothing_is_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    for interval in ["0s", "-1s", "soon"] {
        scene.runtime(&["events", "--stats", "--interval", interval, &scene.id]).run()?.refused()?;
    }
    Ok(())
}
