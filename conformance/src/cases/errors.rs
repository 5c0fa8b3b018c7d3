//! Bad input: one clear refusal, no crash, nothing left.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::scene::{Scene, text};

cases! {
    "config.md: a config that is none" => [
        a_missing_config_is_refused,
        a_config_that_is_no_json_is_refused,
        an_empty_config_is_refused,
        a_config_that_is_cut_off_is_refused,
        a_config_that_is_a_list_is_refused,
        a_config_nested_too_deeply_is_refused,
        a_config_of_the_wrong_types_is_refused,
    ],
    "config.md, Extensibility: unknown properties" => [
        an_unknown_property_is_ignored,
        an_unknown_property_of_a_later_version_is_ignored,
    ],
    "config.md: required properties" => [
        a_config_without_a_process_can_not_be_run,
        a_config_without_a_root_is_refused,
    ],
    "config.md, Specification version" => [
        the_versions_of_the_first_series_are_accepted,
    ],
    "runtime.md, Errors: the state of the environment must be as if the operation never happened" => [
        a_refused_create_leaves_nothing,
        a_refused_run_leaves_nothing,
        an_error_names_the_field_or_the_object,
    ],
    "bad strings" => [
        a_nul_in_an_argument_is_refused,
        a_nul_in_a_mount_is_refused,
        a_very_long_argument_is_refused_or_passed_whole,
    ],
}

/// `create` with these bytes as config.
fn create(scene: &Scene, config: &[u8]) -> Result<crate::command::Done> {
    fs::write(scene.bundle.join("config.json"), config)?;
    scene.uses(&scene.id);
    scene.runtime(&["create", "--bundle", &text(&scene.bundle), &scene.id]).run()
}

fn refuses(scene: &Scene, config: &[u8]) -> Result<()> {
    let done = create(scene, config)?.refused()?;
    ensure!(!done.stderr.trim().is_empty(), "refused without a word");
    for crash in ["panicked at", "goroutine 1", "Segmentation fault"] {
        ensure!(!done.stderr.contains(crash), "a crash: {:?}", done.stderr);
    }
    ensure!(!scene.is_known(&scene.id), "the refused container has a state directory");
    Ok(())
}

fn a_missing_config_is_refused(scene: &mut Scene) -> Result<()> {
    let done = scene.runtime(&["create", "--bundle", &text(&scene.bundle), &scene.id]).run()?;
    done.refused()?.complains(&["config.json"]).map(drop)
}

fn a_config_that_is_no_json_is_refused(scene: &mut Scene) -> Result<()> {
    refuses(scene, b"hello")
}

fn an_empty_config_is_refused(scene: &mut Scene) -> Result<()> {
    refuses(scene, b"")
}

fn a_config_that_is_cut_off_is_refused(scene: &mut Scene) -> Result<()> {
    let whole = serde_json::to_vec(&scene.config)?;
    let half = whole.get(..whole.len() / 2).context("no half")?;
    refuses(scene, half)
}

fn a_config_that_is_a_list_is_refused(scene: &mut Scene) -> Result<()> {
    refuses(scene, b"[]")
}

fn a_config_nested_too_deeply_is_refused(scene: &mut Scene) -> Result<()> {
    let depth = 100_000;
    let config = format!("{{\"annotations\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    refuses(scene, config.as_bytes())
}

fn a_config_of_the_wrong_types_is_refused(scene: &mut Scene) -> Result<()> {
    let wrong: [(&str, Value); 5] = [
        ("/process", json!([])),
        ("/process/args", json!("sh")),
        ("/root", json!(7)),
        ("/mounts", json!({})),
        ("/linux/namespaces", json!("pid")),
    ];
    for (pointer, value) in wrong {
        let before = scene.config.clone();
        scene.set(pointer, value);
        let config = serde_json::to_vec(&scene.config)?;
        refuses(scene, &config).with_context(|| pointer.to_owned())?;
        scene.config = before;
    }
    Ok(())
}

fn an_unknown_property_is_ignored(scene: &mut Scene) -> Result<()> {
    scene.set("/org.example.extension", json!({ "anything": [1, null] }));
    scene.facts().map(drop)
}

fn an_unknown_property_of_a_later_version_is_ignored(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/fromTheFuture", true).set("/process/fromTheFuture", json!({ "a": 1 }));
    scene.facts().map(drop)
}

fn a_config_without_a_process_can_not_be_run(scene: &mut Scene) -> Result<()> {
    scene.unset("/process");
    scene.run()?.refused().map(drop)
}

fn a_config_without_a_root_is_refused(scene: &mut Scene) -> Result<()> {
    scene.unset("/root");
    scene.try_create()?.refused().map(drop)
}

fn the_versions_of_the_first_series_are_accepted(scene: &mut Scene) -> Result<()> {
    for version in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0"] {
        scene.set("/ociVersion", version);
        scene.facts().with_context(|| version.to_owned())?;
    }
    Ok(())
}

fn nothing_is_left(scene: &Scene) -> Result<()> {
    ensure!(!scene.is_known(&scene.id), "a state directory is left");
    let cgroups = crate::world::cgroups_named(&scene.id)?;
    ensure!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
    crate::world::reap();
    let processes = crate::world::children();
    ensure!(processes.is_empty(), "processes are left: {processes:?}");
    let names: Vec<_> = fs::read_dir(scene.path("root"))?.flatten().map(|entry| entry.file_name()).collect();
    let own: Vec<_> = names.iter().filter(|name| name.to_string_lossy().contains(&scene.id)).collect();
    ensure!(own.is_empty(), "left below --root: {own:?}");
    Ok(())
}

fn a_refused_create_leaves_nothing(scene: &mut Scene) -> Result<()> {
    scene.mounts("/mnt", "nosuchfs", "nosuchfs", &[]);
    scene.try_create()?.refused()?;
    nothing_is_left(scene)
}

fn a_refused_run_leaves_nothing(scene: &mut Scene) -> Result<()> {
    scene.set("/process/args", json!(["/no/such/program"]));
    scene.run()?.refused()?;
    nothing_is_left(scene)
}

fn an_error_names_the_field_or_the_object(scene: &mut Scene) -> Result<()> {
    scene.mounts("/mnt", "nosuchfs", "nosuchfs", &[]);
    scene.try_create()?.refused()?.complains(&["nosuchfs", "/mnt", "mounts[6]"]).map(drop)
}

fn a_nul_in_an_argument_is_refused(scene: &mut Scene) -> Result<()> {
    scene.probes(&["echo", "a\0b"]);
    let done = scene.run()?;
    ensure!(done.status != 0, "expected a refusal, saw {:?}", done.stdout);
    done.refused().map(drop)
}

fn a_nul_in_a_mount_is_refused(scene: &mut Scene) -> Result<()> {
    scene.mounts("/mnt\0/x", "tmpfs", "tmpfs", &[]);
    scene.try_create()?.refused().map(drop)
}

fn a_very_long_argument_is_refused_or_passed_whole(scene: &mut Scene) -> Result<()> {
    // Linux takes up to 128 KiB in one argument.
    let long = "x".repeat(200_000);
    let done = scene.probes(&["echo", &long]).run()?;
    if let Some(answer) = done.answers().pop() {
        ensure!(answer["words"][0].as_str().map(str::len) == Some(long.len()), "the argument was cut");
        return Ok(());
    }
    done.refused().map(drop)
}
