//! The six hooks: when, where and with what they run, and what their failure means.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::check::eq;
use crate::command::wait_until;
use crate::scene::{Scene, text};

cases! {
    "config.md, POSIX-platform Hooks" => [
        hooks_run_in_the_order_of_the_lifecycle,
        hooks_of_one_kind_run_in_the_listed_order,
        create_runs_its_hooks_before_it_returns,
        start_hooks_wait_for_start,
        stop_hooks_wait_for_delete,
        prestart_sees_the_runtimes_namespaces,
        create_runtime_sees_the_runtimes_namespaces,
        create_container_runs_in_the_containers_namespaces,
        start_container_runs_inside_the_root,
        poststart_and_poststop_see_the_runtimes_namespaces,
        a_hook_has_only_the_environment_that_is_listed,
        a_hooks_arguments_include_the_first,
        a_hook_without_arguments_gets_its_path,
        the_network_namespace_exists_for_create_runtime,
    ],
    "runtime.md, State: passed to hooks on standard input" => [
        each_hook_gets_the_state,
        each_hook_gets_the_bundle,
        the_status_that_a_hook_gets_fits_its_time,
        a_hook_sees_the_annotations,
        a_hook_that_ignores_its_input_does_no_harm,
    ],
    "config.md, Hooks: timeout" => [
        a_hook_that_takes_too_long_fails_the_container,
        a_hook_within_its_time_does_not,
        a_timeout_that_is_not_positive_is_refused_or_harmless,
    ],
    "runtime.md, Lifecycle: a failing hook" => [
        a_failing_prestart_hook_fails_create_and_leaves_nothing,
        a_failing_create_runtime_hook_fails_create_and_leaves_nothing,
        a_failing_create_container_hook_fails_create_and_leaves_nothing,
        a_failing_start_container_hook_keeps_the_program_from_running,
        a_failing_poststart_hook_stops_the_container,
        a_failing_poststop_hook_does_not_fail_delete,
        poststop_hooks_run_after_a_failed_one,
        a_hook_that_is_missing_fails_create,
    ],
    "config.md, Hooks: path" => [a_relative_hook_path_is_refused],
}

/// Adds a hook of a kind that notes what it sees in the case's file `seen`.
fn noted(scene: &mut Scene, kind: &str, name: &str, more: &[&str]) {
    let mut options = vec!["name", name];
    options.extend(more);
    let hook = if kind == "startContainer" {
        // Its path and its file are the container's.
        let mut args = vec!["probe", "hook", "/tmp/seen"];
        args.extend(&options);
        json!({ "path": "/probe", "args": args })
    } else {
        scene.hook("seen", &options)
    };
    scene.push(&format!("/hooks/{kind}"), hook);
}

/// What the hooks saw: those of the runtime's side, and the startContainer hooks.
fn seen(scene: &Scene) -> Result<(Vec<Value>, Vec<Value>)> {
    let inside = fs::read_to_string(scene.rootfs("tmp/seen")).unwrap_or_default();
    Ok((scene.seen_by_hooks("seen"), crate::command::answers(&inside)))
}

fn names(seen: &[Value]) -> Vec<String> {
    seen.iter().map(|seen| seen["name"].as_str().unwrap_or_default().to_owned()).collect()
}

const OUTSIDE: [&str; 5] = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];

fn hooks_run_in_the_order_of_the_lifecycle(scene: &mut Scene) -> Result<()> {
    for kind in OUTSIDE.into_iter().rev().chain(["startContainer"]) {
        noted(scene, kind, kind, &[]);
    }
    scene.live()?;
    scene.force_delete()?.ok()?;
    let (outside, inside) = seen(scene)?;
    eq("hooks", names(&outside), OUTSIDE)?;
    eq("hooks inside", names(&inside), ["startContainer"])
}

fn hooks_of_one_kind_run_in_the_listed_order(scene: &mut Scene) -> Result<()> {
    for name in ["a", "b", "c"] {
        noted(scene, "createRuntime", name, &[]);
    }
    scene.facts()?;
    eq("hooks", names(&seen(scene)?.0), ["a", "b", "c"])
}

fn create_runs_its_hooks_before_it_returns(scene: &mut Scene) -> Result<()> {
    for kind in OUTSIDE.into_iter().chain(["startContainer"]) {
        noted(scene, kind, kind, &[]);
    }
    scene.create()?;
    let (outside, inside) = seen(scene)?;
    eq("hooks", names(&outside), ["prestart", "createRuntime", "createContainer"])?;
    eq("hooks inside", names(&inside), json!([]))
}

fn start_hooks_wait_for_start(scene: &mut Scene) -> Result<()> {
    noted(scene, "startContainer", "startContainer", &[]);
    noted(scene, "poststart", "poststart", &[]);
    scene.live()?;
    let (outside, inside) = seen(scene)?;
    eq("hooks", names(&outside), ["poststart"])?;
    eq("hooks inside", names(&inside), ["startContainer"])
}

fn stop_hooks_wait_for_delete(scene: &mut Scene) -> Result<()> {
    noted(scene, "poststop", "poststop", &[]);
    let live = scene.live()?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    scene.becomes("stopped")?;
    eq("hooks before delete", names(&seen(scene)?.0), json!([]))?;
    scene.delete()?.ok()?;
    eq("hooks after delete", names(&seen(scene)?.0), ["poststop"])
}

fn own_namespace(name: &str) -> Result<String> {
    Ok(fs::read_link(format!("/proc/self/ns/{name}"))?.to_string_lossy().into_owned())
}

/// Runs a hook of this kind and demands that its namespaces are the runtime's, all but one of which may be private.
fn in_the_runtimes_namespaces(scene: &mut Scene, kind: &str) -> Result<()> {
    noted(scene, kind, kind, &[]);
    scene.facts()?;
    let seen = seen(scene)?.0.pop().context("the hook did not run")?;
    for name in ["net", "ipc", "uts", "pid", "user", "mnt"] {
        eq(&format!("{kind}: {name} namespace"), &seen["namespaces"][name], own_namespace(name)?)?;
    }
    Ok(())
}

fn prestart_sees_the_runtimes_namespaces(scene: &mut Scene) -> Result<()> {
    in_the_runtimes_namespaces(scene, "prestart")
}

fn create_runtime_sees_the_runtimes_namespaces(scene: &mut Scene) -> Result<()> {
    in_the_runtimes_namespaces(scene, "createRuntime")
}

fn poststart_and_poststop_see_the_runtimes_namespaces(scene: &mut Scene) -> Result<()> {
    in_the_runtimes_namespaces(scene, "poststart")?;
    scene.unset("/hooks/poststart");
    in_the_runtimes_namespaces(scene, "poststop")
}

fn create_container_runs_in_the_containers_namespaces(scene: &mut Scene) -> Result<()> {
    // Before pivot_root: paths are still the host's.
    let bundle = text(&scene.bundle);
    noted(scene, "createContainer", "createContainer", &["look", &bundle]);
    let facts = scene.facts()?;
    let seen = seen(scene)?.0.pop().context("the hook did not run")?;
    for name in ["net", "ipc", "uts", "mnt"] {
        eq(name, &seen["namespaces"][name], &facts["namespaces"][name])?;
    }
    eq("the bundle is there", &seen["look"][&bundle], true)
}

fn start_container_runs_inside_the_root(scene: &mut Scene) -> Result<()> {
    let bundle = text(&scene.bundle);
    noted(scene, "startContainer", "startContainer", &["look", &bundle, "look", "/probe"]);
    let facts = scene.facts()?;
    let seen = seen(scene)?.1.pop().context("the hook did not run")?;
    for name in ["net", "ipc", "uts", "mnt", "pid"] {
        eq(name, &seen["namespaces"][name], &facts["namespaces"][name])?;
    }
    eq("the bundle is there", &seen["look"][&bundle], false)?;
    eq("/probe is there", &seen["look"]["/probe"], true)
}

fn a_hook_has_only_the_environment_that_is_listed(scene: &mut Scene) -> Result<()> {
    let mut hook = scene.hook("seen", &[]);
    hook["env"] = json!(["A=1", "B=two words"]);
    scene.push("/hooks/createRuntime", hook);
    scene.facts()?;
    let seen = seen(scene)?.0.pop().context("the hook did not run")?;
    eq("environment", &seen["env"], json!({ "A": "1", "B": "two words" }))
}

fn a_hooks_arguments_include_the_first(scene: &mut Scene) -> Result<()> {
    let mut hook = scene.hook("seen", &["name", "x"]);
    hook["args"][0] = json!("a-name-of-its-own");
    scene.push("/hooks/createRuntime", hook);
    scene.facts()?;
    let seen = seen(scene)?.0.pop().context("the hook did not run")?;
    eq("argv[0]", &seen["args"][0], "a-name-of-its-own")
}

fn a_hook_without_arguments_gets_its_path(scene: &mut Scene) -> Result<()> {
    let script = scene.path("hook.sh");
    fs::write(&script, format!("#!/bin/sh\necho \"$0 $#\" > {}\n", text(&scene.path("said"))))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    scene.push("/hooks/createRuntime", json!({ "path": text(&script) }));
    scene.facts()?;
    eq("$0 $#", fs::read_to_string(scene.path("said"))?.trim(), format!("{} 0", text(&script)))
}

fn the_network_namespace_exists_for_create_runtime(scene: &mut Scene) -> Result<()> {
    let script = scene.path("hook.sh");
    let said = text(&scene.path("said"));
    let find = r#"pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')"#;
    fs::write(&script, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{find}\nreadlink /proc/$pid/ns/net > {said}\n"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    scene.push("/hooks/createRuntime", json!({ "path": text(&script) }));
    let facts = scene.facts()?;
    eq("namespace", fs::read_to_string(scene.path("said"))?.trim(), &facts["namespaces"]["net"])
}

/// Runs a container with a hook of every kind, and gives the state that each got, by kind; and the container's pid.
fn states(scene: &mut Scene) -> Result<(Vec<(String, Value)>, i32)> {
    for kind in OUTSIDE.into_iter().chain(["startContainer"]) {
        noted(scene, kind, kind, &[]);
    }
    let live = scene.live()?;
    scene.force_delete()?.ok()?;
    let (outside, inside) = seen(scene)?;
    let states: Vec<(String, Value)> = outside
        .iter()
        .chain(&inside)
        .map(|seen| (seen["name"].as_str().unwrap_or_default().to_owned(), seen["state"].clone()))
        .collect();
    eq("hooks that ran", states.len(), 6)?;
    Ok((states, live.pid))
}

fn each_hook_gets_the_state(scene: &mut Scene) -> Result<()> {
    let (states, pid) = states(scene)?;
    for (kind, state) in states {
        eq(&format!("{kind}: id"), &state["id"], &scene.id)?;
        ensure!(state["ociVersion"].is_string(), "{kind}: expected ociVersion, saw {state}");
        if ["prestart", "createRuntime", "poststart"].contains(&&*kind) {
            eq(&format!("{kind}: pid"), &state["pid"], pid)?;
        }
    }
    Ok(())
}

fn each_hook_gets_the_bundle(scene: &mut Scene) -> Result<()> {
    for (kind, state) in states(scene)?.0 {
        eq(&format!("{kind}: bundle"), &state["bundle"], text(&scene.bundle))?;
    }
    Ok(())
}

fn the_status_that_a_hook_gets_fits_its_time(scene: &mut Scene) -> Result<()> {
    for (kind, state) in states(scene)?.0 {
        let expected = match &*kind {
            "prestart" | "createRuntime" | "createContainer" => &["creating", "created"][..],
            "startContainer" => &["created"],
            "poststart" => &["running"],
            _ => &["stopped"],
        };
        let seen = state["status"].as_str().unwrap_or_default();
        ensure!(expected.contains(&seen), "{kind}: expected status {}, saw {seen:?}", expected.join(" or "));
    }
    Ok(())
}

fn a_hook_sees_the_annotations(scene: &mut Scene) -> Result<()> {
    scene.set("/annotations", json!({ "org.example.key": "value" }));
    noted(scene, "createRuntime", "x", &[]);
    scene.facts()?;
    let seen = seen(scene)?.0.pop().context("the hook did not run")?;
    eq("annotation", &seen["state"]["annotations"]["org.example.key"], "value")
}

fn a_hook_that_ignores_its_input_does_no_harm(scene: &mut Scene) -> Result<()> {
    // More than a pipe holds.
    scene.set("/annotations", json!({ "org.example.long": "x".repeat(200_000) }));
    noted(scene, "createRuntime", "blind", &["blind", "yes"]);
    scene.facts()?;
    eq("hooks", names(&seen(scene)?.0), ["blind"])
}

fn a_hook_that_takes_too_long_fails_the_container(scene: &mut Scene) -> Result<()> {
    let mut hook = scene.hook("seen", &["sleep", "30"]);
    hook["timeout"] = json!(1);
    scene.push("/hooks/createRuntime", hook);
    let done = scene.try_create()?.refused()?;
    ensure!(done.took < Duration::from_secs(5), "the hook's second of time took {:?}", done.took);
    Ok(())
}

fn a_hook_within_its_time_does_not(scene: &mut Scene) -> Result<()> {
    let mut hook = scene.hook("seen", &["name", "quick"]);
    hook["timeout"] = json!(10);
    scene.push("/hooks/createRuntime", hook);
    scene.facts()?;
    eq("hooks", names(&seen(scene)?.0), ["quick"])
}

fn a_timeout_that_is_not_positive_is_refused_or_harmless(scene: &mut Scene) -> Result<()> {
    let mut hook = scene.hook("seen", &["name", "x"]);
    hook["timeout"] = json!(0);
    scene.push("/hooks/createRuntime", hook);
    let done = scene.probes(&["facts"]).run()?;
    if done.status == 0 {
        return eq("hooks", names(&seen(scene)?.0), ["x"]);
    }
    done.refused().map(drop)
}

fn fails_create(scene: &mut Scene, kind: &str) -> Result<()> {
    noted(scene, kind, kind, &["exit", "7"]);
    scene.try_create()?.refused()?;
    ensure!(!scene.is_known(&scene.id), "the container still has a state directory");
    scene.runtime(&["state", &scene.id]).run()?.refused().map(drop)
}

fn a_failing_prestart_hook_fails_create_and_leaves_nothing(scene: &mut Scene) -> Result<()> {
    fails_create(scene, "prestart")
}

fn a_failing_create_runtime_hook_fails_create_and_leaves_nothing(scene: &mut Scene) -> Result<()> {
    fails_create(scene, "createRuntime")
}

fn a_failing_create_container_hook_fails_create_and_leaves_nothing(scene: &mut Scene) -> Result<()> {
    fails_create(scene, "createContainer")
}

fn a_failing_start_container_hook_keeps_the_program_from_running(scene: &mut Scene) -> Result<()> {
    noted(scene, "startContainer", "startContainer", &["exit", "7"]);
    scene.probes(&["create", "/ran"]);
    let live = scene.create()?;
    // Whether start itself can tell is not fixed: the hook runs in the container's process.
    scene.runtime(&["start", &scene.id]).run()?;
    live.ends()?;
    ensure!(!scene.rootfs("ran").exists(), "the program ran");
    Ok(())
}

fn a_failing_poststart_hook_stops_the_container(scene: &mut Scene) -> Result<()> {
    noted(scene, "poststart", "poststart", &["exit", "7"]);
    scene.probes(&["wait"]);
    let live = scene.create()?;
    scene.runtime(&["start", &scene.id]).run()?.refused()?;
    live.ends().context("the container goes on").map(drop)
}

fn a_failing_poststop_hook_does_not_fail_delete(scene: &mut Scene) -> Result<()> {
    noted(scene, "poststop", "poststop", &["exit", "7"]);
    scene.live()?;
    scene.force_delete()?.ok()?;
    eq("hooks", names(&seen(scene)?.0), ["poststop"])?;
    ensure!(!scene.is_known(&scene.id), "the container still has a state directory");
    Ok(())
}

fn poststop_hooks_run_after_a_failed_one(scene: &mut Scene) -> Result<()> {
    noted(scene, "poststop", "first", &["exit", "7"]);
    noted(scene, "poststop", "second", &[]);
    scene.live()?;
    scene.force_delete()?.ok()?;
    let both = wait_until(Duration::from_secs(2), || Ok((seen(scene)?.0.len() == 2).then_some(())))?;
    both.with_context(|| format!("expected both hooks to run, saw {:?}", seen(scene).map(|seen| names(&seen.0))))
}

fn a_hook_that_is_missing_fails_create(scene: &mut Scene) -> Result<()> {
    scene.push("/hooks/createRuntime", json!({ "path": "/no/such/hook" }));
    scene.try_create()?.refused().map(drop)
}

fn a_relative_hook_path_is_refused(scene: &mut Scene) -> Result<()> {
    scene.push("/hooks/createRuntime", json!({ "path": "no/such/hook" }));
    scene.try_create()?.refused().map(drop)
}
