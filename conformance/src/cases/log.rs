//! `--log`: how a failure is told to an engine.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::check::{eq, holds};
use crate::scene::{Scene, text};

cases! {
    "containerd, Podman: --log FILE --log-format json" => [
        a_failure_is_exactly_one_line_of_json,
        a_success_writes_nothing,
        the_log_is_appended_to,
        a_message_with_odd_characters_stays_one_line,
        a_failure_of_exec_is_logged,
    ],
    "runc --log-format text" => [a_text_line_has_level_and_message],
    "runc: the error is on standard error, too" => [the_error_is_on_standard_error],
    "runc: options" => [
        an_unknown_format_is_refused,
        a_log_that_can_not_be_opened_is_refused,
        debug_writes_more,
    ],
}

/// Runs a command that fails, with its log in a file, and gives the file's lines.
fn failure(scene: &Scene, format: &str) -> Result<Vec<String>> {
    let log = scene.path("log");
    scene.runtime(&["--log", &text(&log), "--log-format", format, "start", "never-created"]).run()?.refused()?;
    Ok(fs::read_to_string(log)?.lines().map(str::to_owned).collect())
}

fn entry(line: &str) -> Result<Value> {
    let entry: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line:?}"))?;
    eq("level", &entry["level"], "error")?;
    ensure!(entry["msg"].as_str().is_some_and(|text| !text.is_empty()), "expected a message, saw {entry}");
    let time = entry["time"].as_str().context("no time")?;
    let shape = regex_lite::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")?;
    ensure!(shape.is_match(time), "time: expected RFC 3339, saw {time:?}");
    Ok(entry)
}

fn a_failure_is_exactly_one_line_of_json(scene: &mut Scene) -> Result<()> {
    let lines = failure(scene, "json")?;
    eq("lines", lines.len(), 1)?;
    holds("message", &entry(&lines[0])?["msg"].to_string(), "does not exist")
}

fn a_success_writes_nothing(scene: &mut Scene) -> Result<()> {
    scene.probes(&["facts"]).save()?;
    scene.uses(&scene.id);
    let (log, bundle) = (scene.path("log"), text(&scene.bundle));
    scene.runtime(&["--log", &text(&log), "--log-format", "json", "run", "--bundle", &bundle, &scene.id]).run()?.ok()?;
    eq("log", fs::read_to_string(log)?, "")
}

fn the_log_is_appended_to(scene: &mut Scene) -> Result<()> {
    fs::write(scene.path("log"), "earlier\n")?;
    failure(scene, "json")?;
    let lines = failure(scene, "json")?;
    eq("lines", lines.len(), 3)?;
    eq("first", &lines[0], "earlier")?;
    entry(&lines[1])?;
    entry(&lines[2]).map(drop)
}

fn a_message_with_odd_characters_stays_one_line(scene: &mut Scene) -> Result<()> {
    let log = scene.path("log");
    let odd = "/no/\"such\"\n\\program\t☃";
    scene.set("/process/args", serde_json::json!([odd])).save()?;
    scene.uses(&scene.id);
    let create = ["--log", &text(&log), "--log-format", "json", "create", "--bundle", &text(&scene.bundle), &scene.id];
    scene.runtime(&create).run()?.refused()?;
    let lines = fs::read_to_string(log)?;
    eq("lines", lines.lines().count(), 1)?;
    entry(lines.trim_end()).map(drop)
}

fn a_failure_of_exec_is_logged(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let log = scene.path("log");
    scene
        .runtime(&["--log", &text(&log), "--log-format", "json", "exec", &scene.id, "/no/such/program"])
        .run()?
        .refused()?;
    let lines = fs::read_to_string(log)?;
    eq("lines", lines.lines().count(), 1)?;
    let message = entry(lines.trim_end())?["msg"].to_string();
    ensure!(
        ["no such file or directory", "No such file or directory"].iter().any(|text| message.contains(text)),
        "saw {message}"
    );
    Ok(())
}

fn a_text_line_has_level_and_message(scene: &mut Scene) -> Result<()> {
    let lines = failure(scene, "text")?;
    eq("lines", lines.len(), 1)?;
    holds("line", &lines[0], "level=error")?;
    holds("line", &lines[0], "msg=")
}

fn the_error_is_on_standard_error(scene: &mut Scene) -> Result<()> {
    let done = scene.runtime(&["start", "never-created"]).run()?.refused()?;
    holds("stderr", &done.stderr, "does not exist")?;
    eq("stdout", done.stdout, "")?;
    let log = text(&scene.path("log"));
    let done = scene.runtime(&["--log", &log, "start", "never-created"]).run()?.refused()?;
    holds("stderr beside --log", &done.stderr, "does not exist")
}

fn an_unknown_format_is_refused(scene: &mut Scene) -> Result<()> {
    scene.runtime(&["--log-format", "xml", "list"]).run()?.refused().map(drop)
}

fn a_log_that_can_not_be_opened_is_refused(scene: &mut Scene) -> Result<()> {
    let log = text(&scene.path("no/such/dir/log"));
    scene.runtime(&["--log", &log, "list"]).run()?.refused().map(drop)
}

fn debug_writes_more(scene: &mut Scene) -> Result<()> {
    scene.probes(&["facts"]).save()?;
    scene.uses(&scene.id);
    let (log, bundle) = (scene.path("log"), text(&scene.bundle));
    scene.runtime(&["--debug", "--log", &text(&log), "run", "--bundle", &bundle, &scene.id]).run()?.ok()?;
    ensure!(fs::metadata(log)?.len() > 0, "--debug wrote nothing to the log");
    Ok(())
}
