//! Resource limits of the process.

use anyhow::Result;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::check::eq;
use crate::scene::Scene;

cases! {
    "config.md, POSIX process: rlimits" => [
        soft_and_hard_limits_are_set,
        several_limits_are_set_at_once,
        a_limit_may_be_infinite,
        a_limit_that_is_not_listed_is_the_runtimes,
        a_type_listed_twice_is_refused,
        an_unknown_type_is_refused,
        a_soft_limit_above_the_hard_one_is_refused,
    ],
    "runc exec --process: rlimits" => [
        exec_takes_the_limits_of_its_process_file,
        exec_has_the_limits_of_the_container,
    ],
}

fn limit(kind: &str, soft: u64, hard: u64) -> Value {
    json!({ "type": kind, "soft": soft, "hard": hard })
}

fn soft_and_hard_limits_are_set(scene: &mut Scene) -> Result<()> {
    scene.set("/process/rlimits", json!([limit("RLIMIT_NOFILE", 500, 600)]));
    eq("RLIMIT_NOFILE", &scene.facts()?["rlimits"]["RLIMIT_NOFILE"], json!({ "soft": 500, "hard": 600 }))
}

fn several_limits_are_set_at_once(scene: &mut Scene) -> Result<()> {
    let kinds = ["AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "NPROC", "RSS", "SIGPENDING", "STACK"];
    // Large enough for the process to live, and below what any machine starts with.
    let of = |index: usize| 4_000_000_000_u64 + index as u64;
    let mut wanted = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        let value = match *kind {
            "MEMLOCK" => 60_000,
            "NPROC" | "SIGPENDING" => 900,
            _ => of(index),
        };
        wanted.push((format!("RLIMIT_{kind}"), value));
    }
    scene.set("/process/rlimits", wanted.iter().map(|(kind, value)| limit(kind, *value, *value)).collect::<Vec<_>>());
    let facts = scene.facts()?;
    for (kind, value) in wanted {
        eq(&kind, &facts["rlimits"][&kind], json!({ "soft": value, "hard": value }))?;
    }
    Ok(())
}

fn a_limit_may_be_infinite(scene: &mut Scene) -> Result<()> {
    scene.set("/process/rlimits", json!([limit("RLIMIT_FSIZE", u64::MAX, u64::MAX)]));
    eq("RLIMIT_FSIZE", &scene.facts()?["rlimits"]["RLIMIT_FSIZE"], json!({ "soft": null, "hard": null }))
}

fn a_limit_that_is_not_listed_is_the_runtimes(scene: &mut Scene) -> Result<()> {
    scene.unset("/process/rlimits");
    let own = getrlimit(Resource::Stack);
    eq("RLIMIT_STACK", &scene.facts()?["rlimits"]["RLIMIT_STACK"], json!({ "soft": own.current, "hard": own.maximum }))
}

fn a_type_listed_twice_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/rlimits", json!([limit("RLIMIT_NOFILE", 500, 600), limit("RLIMIT_NOFILE", 400, 600)]));
    scene.try_create()?.refused().map(drop)
}

fn an_unknown_type_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/rlimits", json!([limit("RLIMIT_PATIENCE", 1, 1)]));
    scene.try_create()?.refused().map(drop)
}

fn a_soft_limit_above_the_hard_one_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/rlimits", json!([limit("RLIMIT_NOFILE", 600, 500)]));
    scene.run()?.refused().map(drop)
}

fn exec_takes_the_limits_of_its_process_file(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let mut process = scene.process(&["facts"]);
    process["rlimits"] = json!([limit("RLIMIT_NOFILE", 123, 124)]);
    let facts = scene.exec_process(&process)?.ok()?.answers().pop().unwrap_or_default();
    eq("RLIMIT_NOFILE", &facts["rlimits"]["RLIMIT_NOFILE"], json!({ "soft": 123, "hard": 124 }))
}

fn exec_has_the_limits_of_the_container(scene: &mut Scene) -> Result<()> {
    scene.set("/process/rlimits", json!([limit("RLIMIT_NOFILE", 500, 600)]));
    scene.live()?;
    let facts = scene.exec_facts(&[])?;
    eq("RLIMIT_NOFILE", &facts["rlimits"]["RLIMIT_NOFILE"], json!({ "soft": 500, "hard": 600 }))
}
