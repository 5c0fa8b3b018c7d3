//! The process that the container runs: its arguments, environment, directory and lesser attributes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::check::{eq, holds, skip};
use crate::command::Cmd;
use crate::scene::Scene;

cases! {
    "config.md, Process: args" => [
        arguments_reach_the_program_unchanged,
        the_program_is_looked_up_in_the_path_of_its_own_environment,
        a_relative_program_counts_from_the_working_directory,
        a_script_is_run_by_its_interpreter,
        empty_arguments_are_refused,
    ],
    "the wording that containerd, Docker and Podman turn into 126 and 127" => [
        a_program_that_is_missing_is_refused_at_create,
        a_program_that_is_not_in_the_path_is_refused_at_create,
        a_program_that_is_a_directory_is_refused,
        a_program_without_the_permission_is_refused,
        a_program_whose_path_goes_through_a_file_is_refused,
    ],
    "config.md, Process: env" => [
        the_environment_is_the_configured_one,
        a_value_may_hold_an_equals_sign_and_newlines,
    ],
    "runc: HOME from the container's passwd" => [
        a_missing_home_comes_from_passwd,
        a_given_home_is_kept,
        a_user_without_an_entry_has_the_root_as_home,
    ],
    "config.md, Process: cwd" => [
        the_process_starts_in_its_working_directory,
        a_missing_working_directory_is_made,
        a_relative_working_directory_is_refused,
        a_working_directory_that_is_a_file_is_refused,
    ],
    "config.md, Linux Process: noNewPrivileges" => [
        no_new_privileges_are_set,
        no_new_privileges_are_not_set_unasked,
    ],
    "config.md, Linux Process: oomScoreAdj" => [
        the_oom_score_is_set,
        an_absent_oom_score_is_left_alone,
    ],
    "config.md, Linux Process: scheduler" => [
        a_batch_policy_with_a_nice_value_is_set,
        a_real_time_policy_with_its_priority_is_set,
        an_idle_policy_is_set,
        an_unknown_scheduling_policy_is_refused,
    ],
    "config.md, Linux Process: ioPriority" => [
        an_io_priority_is_set,
        an_unknown_io_class_is_refused,
    ],
    "config.md, Linux Process: apparmorProfile, selinuxLabel" => [
        an_apparmor_profile_without_apparmor_is_refused,
        a_selinux_label_without_selinux_is_refused,
    ],
    "config-linux.md, Memory policy" => [
        a_memory_policy_is_set,
        an_unknown_memory_policy_is_refused,
    ],
    "config-linux.md, Personality" => [
        a_32_bit_personality_is_set,
        an_unknown_personality_is_refused,
    ],
    "runc: the session of the process" => [
        the_process_leads_a_session,
        the_process_is_the_first_of_its_pid_namespace,
        no_signal_is_blocked,
        a_session_keyring_bears_the_containers_name,
        no_new_keyring_leaves_the_keyring_alone,
    ],
    "conmon, containerd: the three streams" => [
        standard_input_reaches_the_process,
        output_and_error_stay_apart,
    ],
}

fn arguments_reach_the_program_unchanged(scene: &mut Scene) -> Result<()> {
    let words = ["", "a b", "$HOME", "\"quoted\"", "snow ☃", "--flag", "-x"];
    let mut args = vec!["echo"];
    args.extend(words);
    eq("arguments", &scene.ask(&args)?["words"], words)
}

fn the_program_is_looked_up_in_the_path_of_its_own_environment(scene: &mut Scene) -> Result<()> {
    fs::create_dir(scene.rootfs("opt/bin"))?;
    fs::rename(scene.rootfs("usr/bin/found-by-path"), scene.rootfs("opt/bin/found-by-path"))?;
    scene.set("/process/args", json!(["found-by-path", "facts"])).set("/process/env", json!(["PATH=/nowhere:/opt/bin"]));
    let facts = scene.run()?.ok()?.answers().pop().context("no answer")?;
    eq("argv[0]", &facts["args"][0], "found-by-path")
}

fn a_relative_program_counts_from_the_working_directory(scene: &mut Scene) -> Result<()> {
    scene.set("/process/args", json!(["./found-by-path", "facts"])).set("/process/cwd", "/usr/bin");
    let facts = scene.run()?.ok()?.answers().pop().context("no answer")?;
    eq("argv[0]", &facts["args"][0], "./found-by-path")
}

fn a_script_is_run_by_its_interpreter(scene: &mut Scene) -> Result<()> {
    fs::write(scene.rootfs("script"), "#!/probe echo\n")?;
    fs::set_permissions(scene.rootfs("script"), fs::Permissions::from_mode(0o755))?;
    scene.set("/process/args", json!(["/script", "word"]));
    let answer = scene.run()?.ok()?.answers().pop().context("no answer")?;
    eq("the interpreter's arguments", &answer["words"], ["/script", "word"])
}

fn empty_arguments_are_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/args", json!([]));
    scene.try_create()?.refused().map(drop)
}

fn a_program_that_is_missing_is_refused_at_create(scene: &mut Scene) -> Result<()> {
    scene.set("/process/args", json!(["/no/such/program"]));
    scene.try_create()?.refused()?.complains(&["no such file or directory", "No such file or directory"]).map(drop)
}

fn a_program_that_is_not_in_the_path_is_refused_at_create(scene: &mut Scene) -> Result<()> {
    scene.set("/process/args", json!(["no-such-program"]));
    scene.try_create()?.refused()?.complains(&["not found in $PATH"]).map(drop)
}

fn a_program_that_is_a_directory_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/args", json!(["/etc"]));
    let words = ["is a directory", "permission denied", "Permission denied", "Operation not permitted"];
    scene.try_create()?.refused()?.complains(&words).map(drop)
}

fn a_program_without_the_permission_is_refused(scene: &mut Scene) -> Result<()> {
    fs::write(scene.rootfs("plain"), "#!/probe\n")?;
    scene.set("/process/args", json!(["/plain"]));
    scene.try_create()?.refused()?.complains(&["permission denied", "Permission denied", "Operation not permitted"]).map(drop)
}

fn a_program_whose_path_goes_through_a_file_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/args", json!(["/probe/x"]));
    scene.try_create()?.refused()?.complains(&["not a directory", "Not a directory"]).map(drop)
}

fn the_environment_is_the_configured_one(scene: &mut Scene) -> Result<()> {
    scene.set("/process/env", json!(["PATH=/bin", "HOME=/root", "EMPTY=", "A=1"]));
    let expected = json!({ "PATH": "/bin", "HOME": "/root", "EMPTY": "", "A": "1" });
    scene.probes(&["facts"]).save()?;
    scene.uses(&scene.id);
    let bundle = crate::scene::text(&scene.bundle);
    let run = scene.runtime(&["run", "--bundle", &bundle, &scene.id]).env("FROM_THE_HOST", "1");
    let facts = run.run()?.ok()?.answers().pop().context("no answer")?;
    eq("environment", &facts["env"], expected)
}

fn a_value_may_hold_an_equals_sign_and_newlines(scene: &mut Scene) -> Result<()> {
    scene.push("/process/env", "ODD=a=b\nc");
    eq("ODD", &scene.facts()?["env"]["ODD"], "a=b\nc")
}

fn home_of(scene: &mut Scene, uid: u32) -> Result<Value> {
    scene.set("/process/user/uid", uid);
    Ok(scene.facts()?["env"]["HOME"].clone())
}

fn a_missing_home_comes_from_passwd(scene: &mut Scene) -> Result<()> {
    eq("HOME", home_of(scene, 1234)?, "/home/alice")
}

fn a_given_home_is_kept(scene: &mut Scene) -> Result<()> {
    scene.push("/process/env", "HOME=/somewhere");
    eq("HOME", home_of(scene, 1234)?, "/somewhere")
}

fn a_user_without_an_entry_has_the_root_as_home(scene: &mut Scene) -> Result<()> {
    eq("HOME", home_of(scene, 4321)?, "/")
}

fn the_process_starts_in_its_working_directory(scene: &mut Scene) -> Result<()> {
    scene.set("/process/cwd", "/usr/bin");
    eq("cwd", &scene.facts()?["cwd"], "/usr/bin")
}

fn a_missing_working_directory_is_made(scene: &mut Scene) -> Result<()> {
    scene.set("/process/cwd", "/made/for/me");
    eq("cwd", &scene.facts()?["cwd"], "/made/for/me")
}

fn a_relative_working_directory_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/cwd", "usr");
    scene.try_create()?.refused().map(drop)
}

fn a_working_directory_that_is_a_file_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/cwd", "/etc/passwd");
    scene.run()?.refused().map(drop)
}

fn no_new_privileges_are_set(scene: &mut Scene) -> Result<()> {
    scene.set("/process/noNewPrivileges", true);
    eq("NoNewPrivs", &scene.facts()?["no_new_privs"], "1")
}

fn no_new_privileges_are_not_set_unasked(scene: &mut Scene) -> Result<()> {
    scene.unset("/process/noNewPrivileges");
    eq("NoNewPrivs", &scene.facts()?["no_new_privs"], "0")
}

fn the_oom_score_is_set(scene: &mut Scene) -> Result<()> {
    scene.set("/process/oomScoreAdj", 345);
    eq("oom_score_adj", &scene.facts()?["oom_score_adj"], "345")
}

fn an_absent_oom_score_is_left_alone(scene: &mut Scene) -> Result<()> {
    fs::write("/proc/self/oom_score_adj", "123")?;
    eq("oom_score_adj", &scene.facts()?["oom_score_adj"], "123")
}

/// Policies by number: sched(7).
fn schedule(scene: &mut Scene, policy: &str, more: &Value) -> Result<Value> {
    scene.set("/process/scheduler", more.clone()).set("/process/scheduler/policy", policy);
    Ok(scene.facts()?["schedule"].clone())
}

fn a_batch_policy_with_a_nice_value_is_set(scene: &mut Scene) -> Result<()> {
    let seen = schedule(scene, "SCHED_BATCH", &json!({ "nice": 7 }))?;
    eq("policy", &seen["policy"], 3)?;
    eq("nice", &seen["nice"], 7)
}

fn a_real_time_policy_with_its_priority_is_set(scene: &mut Scene) -> Result<()> {
    let cpu = crate::world::cgroup_mounts()?.remove("cpu");
    if cpu.is_some_and(|mount| mount.join("cpu.rt_runtime_us").is_file()) {
        return skip("a new cgroup of the v1 cpu controller has no real-time budget");
    }
    let seen = schedule(scene, "SCHED_FIFO", &json!({ "priority": 12 }))?;
    eq("policy", &seen["policy"], 1)?;
    eq("rt_priority", &seen["rt_priority"], 12)
}

fn an_idle_policy_is_set(scene: &mut Scene) -> Result<()> {
    eq("policy", &schedule(scene, "SCHED_IDLE", &json!({}))?["policy"], 5)
}

fn an_unknown_scheduling_policy_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/scheduler", json!({ "policy": "SCHED_WHENEVER" }));
    scene.try_create()?.refused().map(drop)
}

fn an_io_priority_is_set(scene: &mut Scene) -> Result<()> {
    scene.set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 }));
    let live = scene.live()?;
    let ionice = std::path::Path::new("/usr/bin/ionice");
    if !ionice.is_file() {
        return skip("no ionice on this machine");
    }
    let said = Cmd::new(ionice, &scene.dir).args(["-p", &live.pid.to_string()]).run()?.ok()?.stdout;
    eq("ionice -p", said.trim(), "best-effort: prio 6")
}

fn an_unknown_io_class_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_SOON", "priority": 6 }));
    scene.try_create()?.refused().map(drop)
}

fn an_apparmor_profile_without_apparmor_is_refused(scene: &mut Scene) -> Result<()> {
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|enabled| enabled.starts_with('Y')) {
        return skip("this machine has AppArmor");
    }
    scene.set("/process/apparmorProfile", "some-profile");
    scene.run()?.refused().map(drop)
}

fn a_selinux_label_without_selinux_is_refused(scene: &mut Scene) -> Result<()> {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return skip("this machine has SELinux");
    }
    scene.set("/process/selinuxLabel", "system_u:system_r:svirt_lxc_net_t:s0:c124,c675");
    scene.run()?.refused().map(drop)
}

fn a_memory_policy_is_set(scene: &mut Scene) -> Result<()> {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        return skip("this kernel knows no memory policies");
    }
    scene.needs("memory policies", "/linux/memoryPolicy/modes", (1, 3))?;
    scene.set("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "0" }));
    let maps = scene.ask(&["read", "/proc/self/numa_maps"])?["text"].to_string();
    holds("/proc/self/numa_maps", &maps, " bind:0")
}

fn an_unknown_memory_policy_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/memoryPolicy", json!({ "mode": "MPOL_BEST", "nodes": "0" }));
    scene.try_create()?.refused().map(drop)
}

fn a_32_bit_personality_is_set(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/personality", json!({ "domain": "LINUX32" }));
    let facts = scene.facts()?;
    // PER_LINUX32 of <linux/personality.h>.
    eq("personality", &facts["personality"], "00000008")?;
    ensure!(facts["machine"] != "x86_64", "machine: expected a 32-bit name, saw x86_64");
    Ok(())
}

fn an_unknown_personality_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/personality", json!({ "domain": "BSD" }));
    scene.try_create()?.refused().map(drop)
}

fn the_process_leads_a_session(scene: &mut Scene) -> Result<()> {
    let facts = scene.facts()?;
    eq("session", &facts["sid"], &facts["pid"])
}

fn the_process_is_the_first_of_its_pid_namespace(scene: &mut Scene) -> Result<()> {
    let facts = scene.facts()?;
    eq("pid", &facts["pid"], 1)?;
    eq("ppid", &facts["ppid"], 0)
}

fn no_signal_is_blocked(scene: &mut Scene) -> Result<()> {
    let facts = scene.facts()?;
    eq("SigBlk", &facts["signals_blocked"], "0000000000000000")
}

fn a_session_keyring_bears_the_containers_name(scene: &mut Scene) -> Result<()> {
    let facts = scene.facts()?;
    holds("/proc/keys", &facts["keys"].to_string(), &format!("{}:", scene.id))
}

fn no_new_keyring_leaves_the_keyring_alone(scene: &mut Scene) -> Result<()> {
    scene.probes(&["facts"]);
    let facts = scene.run_with(&["--no-new-keyring"])?.ok()?.answers().pop().context("no answer")?;
    let keys = facts["keys"].to_string();
    ensure!(!keys.contains(&scene.id), "expected no keyring of the container, saw {keys}");
    Ok(())
}

fn standard_input_reaches_the_process(scene: &mut Scene) -> Result<()> {
    scene.probes(&["stdin"]).save()?;
    scene.uses(&scene.id);
    let bundle = crate::scene::text(&scene.bundle);
    let run = scene.runtime(&["run", "--bundle", &bundle, &scene.id]).stdin("a line\nand \0 more")?;
    let answer = run.run()?.ok()?.answers().pop().context("no answer")?;
    eq("standard input", &answer["text"], "a line\nand \0 more")
}

fn output_and_error_stay_apart(scene: &mut Scene) -> Result<()> {
    scene.probes(&["print", "to stdout\n", "then", "stderr", "to stderr\n"]);
    let done = scene.run()?.ok()?;
    holds("stdout", &done.stdout, "to stdout")?;
    eq("stderr", done.stderr, "to stderr\n")
}
