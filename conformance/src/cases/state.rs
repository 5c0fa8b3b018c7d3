//! `state`: the document that the specification fixes.

use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::check::eq;
use crate::scene::{Scene, text};

cases! {
    "runtime.md, State" => [
        the_state_has_every_field,
        the_version_of_the_state_is_semantic,
        a_stopped_container_has_no_pid,
        annotations_are_in_the_state,
        the_bundle_of_the_state_is_absolute,
        the_state_of_what_does_not_exist_is_refused,
    ],
    "runc state (Podman, BuildKit, go-runc)" => [
        the_state_names_root_and_time_of_creation,
        nothing_but_the_document_is_printed,
    ],
}

fn the_state_has_every_field(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let state = scene.state()?;
    eq("id", &state["id"], &scene.id)?;
    eq("status", &state["status"], "running")?;
    eq("pid", &state["pid"], live.pid)?;
    eq("bundle", &state["bundle"], text(&scene.bundle))
}

fn the_version_of_the_state_is_semantic(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    let state = scene.state()?;
    let version = state["ociVersion"].as_str().context("no ociVersion")?;
    let numbers: Vec<&str> = version.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    ensure!(
        numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok()),
        "expected a version of three numbers, saw {version:?}"
    );
    Ok(())
}

fn a_stopped_container_has_no_pid(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    scene.becomes("stopped")?;
    let pid = scene.state()?["pid"].clone();
    ensure!(pid.is_null() || pid == 0, "pid: expected 0 or none, saw {pid}");
    Ok(())
}

fn annotations_are_in_the_state(scene: &mut Scene) -> Result<()> {
    let annotations = json!({ "org.example.one": "1", "org.example.two": "with \"quotes\" and ☃" });
    scene.set("/annotations", annotations.clone());
    scene.create()?;
    eq("annotations", &scene.state()?["annotations"], annotations)
}

fn the_bundle_of_the_state_is_absolute(scene: &mut Scene) -> Result<()> {
    symlink("bundle", scene.path("link"))?;
    scene.save()?;
    scene.uses(&scene.id);
    scene.runtime(&["create", "--bundle", "./link", &scene.id]).cwd(&scene.dir).run()?.ok()?;
    let state = scene.state()?;
    let bundle = state["bundle"].as_str().context("no bundle")?;
    ensure!(bundle.starts_with('/'), "expected an absolute path, saw {bundle:?}");
    let same = std::fs::canonicalize(bundle)? == std::fs::canonicalize(&scene.bundle)?;
    ensure!(same, "expected the bundle's path, saw {bundle:?}");
    Ok(())
}

fn the_state_of_what_does_not_exist_is_refused(scene: &mut Scene) -> Result<()> {
    scene.runtime(&["state", &scene.id]).run()?.refused()?.complains(&["does not exist"]).map(drop)
}

fn the_state_names_root_and_time_of_creation(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    let state = scene.state()?;
    eq("rootfs", &state["rootfs"], text(&scene.rootfs("")).trim_end_matches('/'))?;
    let created = state["created"].as_str().context("no time of creation")?;
    let shape = regex_lite::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")?;
    ensure!(shape.is_match(created), "created: expected RFC 3339, saw {created:?}");
    Ok(())
}

fn nothing_but_the_document_is_printed(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    let done = scene.runtime(&["state", &scene.id]).run()?.ok()?;
    eq("standard error", &done.stderr, "")?;
    done.json().map(drop)
}
