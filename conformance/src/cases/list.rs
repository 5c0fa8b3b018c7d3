//! `list`: the containers below `--root`, as a table, as ids, as JSON.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::check::eq;
use crate::scene::{Scene, text};

cases! {
    "runc list (go-runc)" => [
        an_empty_list_as_json_is_null_or_empty,
        an_empty_list_as_a_table_is_its_head,
        the_json_list_has_the_fields_of_the_state,
        the_table_has_a_line_for_each_container,
        quiet_prints_the_ids_alone,
        an_unknown_format_is_refused,
    ],
}

fn an_empty_list_as_json_is_null_or_empty(scene: &mut Scene) -> Result<()> {
    let list = scene.runtime(&["list", "--format", "json"]).run()?.ok()?.json()?;
    ensure!(list.is_null() || list == json!([]), "expected null or [], saw {list}");
    Ok(())
}

fn an_empty_list_as_a_table_is_its_head(scene: &mut Scene) -> Result<()> {
    let table = scene.runtime(&["list"]).run()?.ok()?.stdout;
    eq("lines", table.lines().count(), 1)
}

fn the_json_list_has_the_fields_of_the_state(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let list = scene.runtime(&["list", "--format", "json"]).run()?.ok()?.json()?;
    eq("containers", list.as_array().map(Vec::len), 1)?;
    let entry = &list[0];
    eq("id", &entry["id"], &scene.id)?;
    eq("pid", &entry["pid"], live.pid)?;
    eq("status", &entry["status"], "running")?;
    eq("bundle", &entry["bundle"], text(&scene.bundle))
}

fn the_table_has_a_line_for_each_container(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    let table = scene.runtime(&["list"]).run()?.ok()?.stdout;
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().context("no head")?.split_whitespace().collect();
    eq("head", head.get(..4), ["ID", "PID", "STATUS", "BUNDLE"])?;
    let line: Vec<&str> = lines.next().context("no line for the container")?.split_whitespace().collect();
    eq("id", line.first(), &scene.id)?;
    eq("status", line.get(2), "created")
}

fn quiet_prints_the_ids_alone(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    eq("ids", scene.runtime(&["list", "--quiet"]).run()?.ok()?.stdout, format!("{}\n", scene.id))?;
    eq("ids", scene.runtime(&["list", "-q"]).run()?.ok()?.stdout, format!("{}\n", scene.id))
}

fn an_unknown_format_is_refused(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    scene.runtime(&["list", "--format", "xml"]).run()?.refused().map(drop)
}
