//! `exec`: another process in a living container.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::check::{eq, skip};
use crate::command::wait_until;
use crate::scene::{Live, Scene, text};

cases! {
    "runc exec" => [
        exec_joins_every_namespace_of_the_container,
        exec_sees_the_root_of_the_container,
        exec_joins_the_cgroups_of_the_container,
        exec_exits_as_the_program_did,
        exec_exits_with_128_and_the_signal,
        exec_takes_environment_and_directory,
        exec_has_the_environment_of_the_container,
        exec_sets_no_new_privileges,
        exec_reads_standard_input,
        exec_detached_returns_at_once_and_writes_the_pid,
        options_of_the_program_are_not_the_runtimes,
    ],
    "runc exec: refusals (conmon, CRI-O: 255 is the runtime's own failure)" => [
        exec_of_a_missing_program_exits_255,
        exec_of_a_program_that_is_not_in_the_path_says_so,
        exec_in_a_stopped_container_is_refused,
        exec_in_what_does_not_exist_is_refused,
        exec_without_a_program_is_refused,
        exec_in_a_paused_container_is_refused_unless_told,
    ],
    "runc exec in a created container" => [exec_works_before_start],
    "runc exec --process (containerd, conmon)" => [
        a_process_file_gives_everything,
        a_process_file_that_is_missing_is_refused,
        a_process_file_that_is_no_json_is_refused,
        a_relative_directory_in_a_process_file_is_refused,
    ],
    "runc exec --preserve-fds" => [exec_passes_preserved_fds_on],
    "config.md, Linux Process: execCPUAffinity" => [exec_runs_on_the_final_cpus],
    "CVE-2024-21626 for exec" => [exec_passes_no_fd_of_the_runtime_on],
    "runc: exec in a user namespace" => [exec_joins_a_user_namespace],
    "runc: --cgroup" => [exec_may_join_a_cgroup_below],
}

fn exec_joins_every_namespace_of_the_container(scene: &mut Scene) -> Result<()> {
    scene.push("/linux/namespaces", json!({ "type": "cgroup" }));
    let live = scene.live()?;
    let facts = scene.exec_facts(&[])?;
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts", "user"] {
        eq(name, &facts["namespaces"][name], fs::read_link(format!("/proc/{}/ns/{name}", live.pid))?)?;
    }
    ensure!(facts["pid"].as_i64().is_some_and(|pid| pid > 1), "pid: expected more than 1, saw {}", facts["pid"]);
    Ok(())
}

fn exec_sees_the_root_of_the_container(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    fs::write(scene.rootfs("canary"), "")?;
    let answer = answer(scene, &[], &["list", "/"])?;
    ensure!(answer["names"].to_string().contains("canary"), "names in /: {}", answer["names"]);
    Ok(())
}

fn answer(scene: &Scene, options: &[&str], args: &[&str]) -> Result<Value> {
    scene.exec_with(options, args)?.ok()?.answers().pop().context("the probe said nothing")
}

fn exec_joins_the_cgroups_of_the_container(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let facts = scene.exec_facts(&[])?;
    let own = fs::read_to_string(format!("/proc/{}/cgroup", live.pid))?;
    eq("cgroups", &facts["cgroup"], own.lines().collect::<Vec<_>>())
}

fn exec_exits_as_the_program_did(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    for status in [0, 3, 254] {
        scene.exec_with(&[], &["exit", &status.to_string()])?.exits(status)?;
    }
    Ok(())
}

fn exec_exits_with_128_and_the_signal(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.exec_with(&[], &["signal", "SIGTERM"])?.exits(143)?;
    scene.exec_with(&[], &["signal", "SIGKILL"])?.exits(137).map(drop)
}

fn exec_takes_environment_and_directory(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let facts = scene.exec_facts(&["--env", "A=1", "--env", "B=2", "--cwd", "/usr/bin"])?;
    eq("A", &facts["env"]["A"], "1")?;
    eq("B", &facts["env"]["B"], "2")?;
    eq("cwd", &facts["cwd"], "/usr/bin")
}

fn exec_has_the_environment_of_the_container(scene: &mut Scene) -> Result<()> {
    scene.push("/process/env", "FROM_THE_CONFIG=1").set("/process/cwd", "/tmp");
    scene.live()?;
    let facts = scene.exec_facts(&[])?;
    eq("FROM_THE_CONFIG", &facts["env"]["FROM_THE_CONFIG"], "1")?;
    eq("cwd", &facts["cwd"], "/tmp")
}

fn exec_sets_no_new_privileges(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    eq("NoNewPrivs", &scene.exec_facts(&[])?["no_new_privs"], "0")?;
    eq("NoNewPrivs", &scene.exec_facts(&["--no-new-privs"])?["no_new_privs"], "1")
}

fn exec_reads_standard_input(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let done = scene.runtime(&["exec", &scene.id, "/probe", "stdin"]).stdin("hello")?.run()?.ok()?;
    eq("standard input", &done.answers().pop().context("no answer")?["text"], "hello")
}

fn exec_detached_returns_at_once_and_writes_the_pid(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let file = scene.path("exec-pid");
    scene.exec_with(&["--detach", "--pid-file", &text(&file)], &["sleep", "60"])?.ok()?;
    let pid = fs::read_to_string(&file)?;
    ensure!(!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()), "expected digits alone, saw {pid:?}");
    let same = |name: &str| -> Result<bool> {
        Ok(fs::read_link(format!("/proc/{pid}/ns/{name}"))? == fs::read_link(format!("/proc/{}/ns/{name}", live.pid))?)
    };
    ensure!(same("mnt")? && same("net")?, "the process of the pid file is not in the container");
    Ok(())
}

fn options_of_the_program_are_not_the_runtimes(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let answer = answer(scene, &[], &["echo", "--user", "-x", "--help"])?;
    eq("words", &answer["words"], ["--user", "-x", "--help"])
}

fn exec_of_a_missing_program_exits_255(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let done = scene.runtime(&["exec", &scene.id, "/no/such/program"]).run()?;
    done.exits(255)?.complains(&["no such file or directory", "No such file or directory"]).map(drop)
}

fn exec_of_a_program_that_is_not_in_the_path_says_so(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let done = scene.runtime(&["exec", &scene.id, "no-such-program"]).run()?;
    done.refused()?.complains(&["not found in $PATH"]).map(drop)
}

fn stopped(scene: &mut Scene) -> Result<Live> {
    let live = scene.live()?;
    scene.kill("KILL")?.ok()?;
    live.ends()?;
    scene.becomes("stopped")?;
    Ok(live)
}

fn exec_in_a_stopped_container_is_refused(scene: &mut Scene) -> Result<()> {
    stopped(scene)?;
    scene.exec_with(&[], &["facts"])?.refused().map(drop)
}

fn exec_in_what_does_not_exist_is_refused(scene: &mut Scene) -> Result<()> {
    scene.exec_with(&[], &["facts"])?.refused()?.complains(&["does not exist"]).map(drop)
}

fn exec_without_a_program_is_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.runtime(&["exec", &scene.id]).run()?.refused().map(drop)
}

fn exec_in_a_paused_container_is_refused_unless_told(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    scene.runtime(&["pause", &scene.id]).run()?.ok()?;
    scene.exec_with(&[], &["facts"])?.refused()?;
    scene.runtime(&["resume", &scene.id]).run()?.ok()?;
    scene.exec_facts(&[]).map(drop)
}

fn exec_works_before_start(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    scene.exec_facts(&[]).map(drop)
}

fn a_process_file_gives_everything(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let process = json!({
        "args": ["/usr/bin/found-by-path", "facts"], "cwd": "/tmp", "env": ["ONLY=this"], "noNewPrivileges": true,
        "user": { "uid": 7, "gid": 8 },
    });
    let facts = scene.exec_process(&process)?.ok()?.answers().pop().context("no answer")?;
    eq("args", &facts["args"][0], "/usr/bin/found-by-path")?;
    eq("cwd", &facts["cwd"], "/tmp")?;
    eq("ONLY", &facts["env"]["ONLY"], "this")?;
    eq("PATH", &facts["env"]["PATH"], json!(null))?;
    eq("NoNewPrivs", &facts["no_new_privs"], "1")?;
    eq("uid", &facts["uid"][0], 7)
}

fn a_process_file_that_is_missing_is_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let file = text(&scene.path("missing.json"));
    scene.runtime(&["exec", "--process", &file, &scene.id]).run()?.refused().map(drop)
}

fn a_process_file_that_is_no_json_is_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let file = scene.path("broken.json");
    fs::write(&file, "{\"args\": [")?;
    scene.runtime(&["exec", "--process", &text(&file), &scene.id]).run()?.refused().map(drop)
}

fn a_relative_directory_in_a_process_file_is_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let mut process = scene.process(&["facts"]);
    process["cwd"] = json!("tmp");
    scene.exec_process(&process)?.refused().map(drop)
}

fn exec_passes_preserved_fds_on(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let file = text(&scene.path("kept"));
    fs::write(&file, "")?;
    let script = format!("exec 3<{file}; exec \"$@\"");
    let root = text(&scene.path("root"));
    let done = crate::command::Cmd::new(std::path::Path::new("/bin/sh"), &scene.dir)
        .args(["-c", &script, "sh", &text(&scene.runtime.path), "--root", &root])
        .args(["exec", "--preserve-fds", "1", &scene.id, "/probe", "facts"])
        .run()?
        .ok()?;
    eq("fd 3", &done.answers().pop().context("no answer")?["fds"]["3"], file)
}

fn exec_runs_on_the_final_cpus(scene: &mut Scene) -> Result<()> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skip("one CPU alone");
    }
    scene.set("/process/execCPUAffinity", json!({ "initial": "0", "final": "1" }));
    scene.live()?;
    eq("cpus of exec", &scene.exec_facts(&[])?["cpus"], "1")?;
    let mut process = scene.process(&["facts"]);
    process["execCPUAffinity"] = json!({ "final": "0" });
    let facts = scene.exec_process(&process)?.ok()?.answers().pop().context("no answer")?;
    eq("cpus of exec --process", &facts["cpus"], "0")
}

fn exec_passes_no_fd_of_the_runtime_on(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let facts = scene.exec_facts(&[])?;
    let seen: Vec<&String> = facts["fds"].as_object().context("no fds")?.keys().collect();
    eq("fds", seen, ["0", "1", "2"])
}

fn exec_joins_a_user_namespace(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?;
    scene.live()?;
    let facts = scene.exec_facts(&["--user", "1000"])?;
    eq("uid", &facts["uid"][0], 1000)?;
    eq("uid_map", &facts["uid_map"], [[0, 100_000, 65_536]])
}

fn exec_may_join_a_cgroup_below(scene: &mut Scene) -> Result<()> {
    let live = scene.live()?;
    let (option, dir) = match (live.cgroup("pids")?, live.cgroup("")?) {
        (Some(dir), _) => ("pids:sub", dir),
        (None, Some(dir)) => ("sub", dir),
        (None, None) => return skip("no cgroups here"),
    };
    fs::create_dir(dir.join("sub"))?;
    scene.exec_with(&["--detach", "--cgroup", option], &["sleep", "60"])?.ok()?;
    let members = || fs::read_to_string(dir.join("sub/cgroup.procs")).unwrap_or_default().lines().count();
    let joined = wait_until(std::time::Duration::from_secs(2), || Ok((members() == 1).then_some(())))?;
    joined.context("the process is not in the cgroup below")
}
