//! `create` and what it shares with `run`: its options, the pid file, preserved fds, ids.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::check::{eq, skip};
use crate::command::{Cmd, inheritable};
use crate::scene::{Scene, text};

cases! {
    "containerd, conmon: --pid-file" => [
        the_pid_file_is_digits_alone,
        a_pid_file_of_a_detached_run_is_written,
        a_pid_file_that_can_not_be_written_fails_create,
    ],
    "runc: --bundle" => [
        the_bundle_is_the_working_directory_by_default,
        a_relative_bundle_counts_from_the_working_directory,
        a_missing_bundle_is_refused,
    ],
    "runc: odd command lines of callers" => [
        options_may_follow_the_id,
        a_long_option_may_have_one_dash,
        an_option_may_have_its_value_after_an_equals_sign,
        an_unknown_option_is_refused,
        an_unknown_command_is_refused,
        a_missing_id_is_refused,
        too_many_arguments_are_refused,
        help_of_every_command_succeeds,
        global_options_of_callers_are_accepted,
    ],
    "runc: --root" => [
        the_state_is_below_the_root,
        another_root_does_not_know_the_container,
        the_root_is_made_if_missing,
    ],
    "systemd socket activation: LISTEN_FDS" => [
        listen_fds_are_passed_on,
        preserved_fds_are_passed_on,
        preserved_fds_that_are_not_open_are_refused,
        preserved_fds_count_after_the_listen_fds,
        other_fds_are_not_passed_on,
    ],
    "runc: container ids" => [
        ids_of_letters_digits_and_a_few_signs_are_accepted,
        ids_that_would_leave_the_root_are_refused,
        ids_with_other_signs_are_refused,
        an_id_that_is_too_long_is_refused_in_every_command,
    ],
    "Docker, nerdctl: --version" => [
        the_version_is_three_words_on_the_first_line,
        the_version_names_the_specification,
    ],
    "Podman: an environment of PATH alone" => [create_works_in_an_environment_of_path_alone],
    "runc create --pidfd-socket" => [a_pidfd_is_sent_to_the_socket],
}

fn the_pid_file_is_digits_alone(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    let text = fs::read(scene.path("pid"))?;
    ensure!(!text.is_empty() && text.iter().all(u8::is_ascii_digit), "expected digits alone, saw {text:?}");
    let mode = fs::metadata(scene.path("pid"))?.permissions().mode() & 0o777;
    ensure!(mode & 0o022 == 0, "the pid file can be written by others: {mode:o}");
    Ok(())
}

fn a_pid_file_of_a_detached_run_is_written(scene: &mut Scene) -> Result<()> {
    scene.probes(&["wait"]);
    let file = scene.path("pid");
    scene.run_with(&["--detach", "--pid-file", &text(&file)])?.ok()?;
    eq("pid", fs::read_to_string(file)?, scene.state()?["pid"].to_string())
}

fn a_pid_file_that_can_not_be_written_fails_create(scene: &mut Scene) -> Result<()> {
    scene.save()?;
    scene.uses(&scene.id);
    let file = text(&scene.path("no/such/dir/pid"));
    let create = scene.runtime(&["create", "--bundle", &text(&scene.bundle), "--pid-file", &file, &scene.id]);
    create.run()?.refused()?;
    ensure!(!scene.is_known(&scene.id), "the container is still there");
    Ok(())
}

fn the_bundle_is_the_working_directory_by_default(scene: &mut Scene) -> Result<()> {
    scene.save()?;
    scene.uses(&scene.id);
    scene.runtime(&["create", &scene.id]).cwd(&scene.bundle).run()?.ok()?;
    eq("bundle", &scene.state()?["bundle"], text(&scene.bundle))
}

fn a_relative_bundle_counts_from_the_working_directory(scene: &mut Scene) -> Result<()> {
    scene.save()?;
    scene.uses(&scene.id);
    scene.runtime(&["create", "--bundle", "bundle", &scene.id]).cwd(&scene.dir).run()?.ok()?;
    eq("bundle", &scene.state()?["bundle"], text(&scene.bundle))
}

fn a_missing_bundle_is_refused(scene: &mut Scene) -> Result<()> {
    let missing = text(&scene.path("missing"));
    scene.runtime(&["create", "--bundle", &missing, &scene.id]).run()?.refused().map(drop)
}

fn options_may_follow_the_id(scene: &mut Scene) -> Result<()> {
    scene.save()?;
    scene.uses(&scene.id);
    scene.runtime(&["create", &scene.id, "--bundle", &text(&scene.bundle)]).run()?.ok()?;
    eq("status", scene.status()?, "created")?;
    scene.runtime(&["delete", &scene.id, "--force"]).run()?.ok()?;
    ensure!(!scene.is_known(&scene.id), "the container is still there");
    Ok(())
}

fn a_long_option_may_have_one_dash(scene: &mut Scene) -> Result<()> {
    scene.probes(&["facts"]);
    let done = scene.run_with(&["-no-subreaper"])?.ok()?;
    eq("answers", done.answers().len(), 1)
}

fn an_option_may_have_its_value_after_an_equals_sign(scene: &mut Scene) -> Result<()> {
    scene.save()?;
    scene.uses(&scene.id);
    scene.runtime(&["create", &format!("--bundle={}", text(&scene.bundle)), &scene.id]).run()?.ok()?;
    eq("status", scene.status()?, "created")
}

fn an_unknown_option_is_refused(scene: &mut Scene) -> Result<()> {
    scene.runtime(&["state", "--no-such-option", "x"]).run()?.refused().map(drop)
}

fn an_unknown_command_is_refused(scene: &mut Scene) -> Result<()> {
    scene.runtime(&["no-such-command"]).run()?.refused().map(drop)
}

fn a_missing_id_is_refused(scene: &mut Scene) -> Result<()> {
    for command in ["create", "start", "run", "state", "kill", "delete", "exec"] {
        scene.runtime(&[command]).run()?.refused()?;
    }
    Ok(())
}

fn too_many_arguments_are_refused(scene: &mut Scene) -> Result<()> {
    for command in ["create", "start", "state"] {
        scene.runtime(&[command, "a", "b"]).run()?.refused()?;
    }
    Ok(())
}

fn help_of_every_command_succeeds(scene: &mut Scene) -> Result<()> {
    scene.bare(&["--help"]).run()?.ok()?;
    for command in ["create", "start", "run", "state", "kill", "delete", "exec", "list", "spec", "features"] {
        let done = scene.bare(&[command, "--help"]).run()?.ok()?;
        ensure!(!done.stdout.is_empty(), "{command} --help says nothing on standard output");
    }
    Ok(())
}

fn global_options_of_callers_are_accepted(scene: &mut Scene) -> Result<()> {
    let log = text(&scene.path("log"));
    for options in [&["--rootless", "auto"][..], &["--rootless=false"], &["--debug"], &["--log", &log, "--log-format", "text"]] {
        scene.runtime(options).args(["list", "--quiet"]).run()?.ok()?;
    }
    Ok(())
}

fn the_state_is_below_the_root(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    ensure!(scene.is_known(&scene.id), "nothing of that id below --root");
    let mode = fs::metadata(scene.path("root").join(&scene.id))?.permissions().mode() & 0o777;
    ensure!(mode & 0o066 == 0, "others can look into the state directory: {mode:o}");
    Ok(())
}

fn another_root_does_not_know_the_container(scene: &mut Scene) -> Result<()> {
    scene.create()?;
    let other = text(&scene.path("other"));
    scene.bare(&["--root", &other, "state", &scene.id]).run()?.refused().map(drop)
}

fn the_root_is_made_if_missing(scene: &mut Scene) -> Result<()> {
    fs::remove_dir(scene.path("root"))?;
    scene.create()?;
    eq("status", scene.status()?, "created")
}

/// Runs the container for its fds, with these fds of the suite open in the runtime from number 3 on.
fn fds(scene: &mut Scene, open: usize, options: &[&str], listen: Option<usize>) -> Result<crate::command::Done> {
    scene.probes(&["facts"]).save()?;
    scene.uses(&scene.id);
    // The shell opens them in order; the runtime takes its place.
    let mut script = String::new();
    for number in 0..open {
        let file = text(&scene.path(&format!("fd{number}")));
        fs::write(&file, "")?;
        script.push_str(&format!("exec {}<{file}; ", number + 3));
    }
    if let Some(count) = listen {
        script.push_str(&format!("export LISTEN_FDS={count} LISTEN_PID=$$; "));
    }
    script.push_str("exec \"$@\"");
    let (root, bundle) = (text(&scene.path("root")), text(&scene.bundle));
    Cmd::new(std::path::Path::new("/bin/sh"), &scene.dir)
        .args(["-c", &script, "sh", &text(&scene.runtime.path), "--root", &root, "run", "--bundle", &bundle])
        .args(options)
        .args([&scene.id])
        .run()
}

fn seen_fds(done: &crate::command::Done) -> Result<serde_json::Value> {
    done.answers().pop().context("no answer")
}

fn listen_fds_are_passed_on(scene: &mut Scene) -> Result<()> {
    let done = fds(scene, 2, &[], Some(2))?.ok()?;
    let facts = seen_fds(&done)?;
    eq("fd 3", &facts["fds"]["3"], text(&scene.path("fd0")))?;
    eq("fd 4", &facts["fds"]["4"], text(&scene.path("fd1")))?;
    eq("LISTEN_FDS", &facts["env"]["LISTEN_FDS"], "2")?;
    eq("LISTEN_PID", &facts["env"]["LISTEN_PID"], "1")
}

fn preserved_fds_are_passed_on(scene: &mut Scene) -> Result<()> {
    let done = fds(scene, 2, &["--preserve-fds", "2"], None)?.ok()?;
    let facts = seen_fds(&done)?;
    eq("fd 3", &facts["fds"]["3"], text(&scene.path("fd0")))?;
    eq("fd 4", &facts["fds"]["4"], text(&scene.path("fd1")))?;
    eq("number of fds", facts["fds"].as_object().map(serde_json::Map::len), 5)
}

fn preserved_fds_that_are_not_open_are_refused(scene: &mut Scene) -> Result<()> {
    fds(scene, 1, &["--preserve-fds", "3"], None)?.refused().map(drop)
}

fn preserved_fds_count_after_the_listen_fds(scene: &mut Scene) -> Result<()> {
    let done = fds(scene, 3, &["--preserve-fds", "2"], Some(1))?.ok()?;
    let facts = seen_fds(&done)?;
    for number in 0..3 {
        eq("fd", &facts["fds"][(number + 3).to_string()], text(&scene.path(&format!("fd{number}"))))?;
    }
    eq("LISTEN_FDS", &facts["env"]["LISTEN_FDS"], "1")
}

fn other_fds_are_not_passed_on(scene: &mut Scene) -> Result<()> {
    let dir = fs::File::open("/")?;
    let leaked: Vec<_> = (0..32).map(|_| inheritable(&dir, 3)).collect::<Result<_>>()?;
    let facts = scene.facts()?;
    let seen: Vec<&String> = facts["fds"].as_object().context("no fds")?.keys().collect();
    eq("fds", seen, ["0", "1", "2"])?;
    ensure!(leaked.iter().all(|fd| fd.as_raw_fd() > 2), "the suite's own fds");
    Ok(())
}

fn ids_of_letters_digits_and_a_few_signs_are_accepted(scene: &mut Scene) -> Result<()> {
    for suffix in ["-a", "_b", ".c", "+d", "A9"] {
        let id = format!("{}{suffix}", scene.id);
        scene.set("/linux/cgroupsPath", format!("/{id}")).save()?;
        scene.uses(&id);
        scene.runtime(&["create", "--bundle", &text(&scene.bundle), &id]).run()?.ok()?;
        eq("id", &scene.runtime(&["state", &id]).run()?.ok()?.json()?["id"], &id)?;
        scene.runtime(&["delete", "--force", &id]).run()?.ok()?;
    }
    Ok(())
}

fn ids_that_would_leave_the_root_are_refused(scene: &mut Scene) -> Result<()> {
    scene.save()?;
    let outside = scene.path("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("canary"), "")?;
    let bundle = text(&scene.bundle);
    for id in ["../outside", "..", ".", "", "a/b", "/abs", "../../outside"] {
        scene.runtime(&["create", "--bundle", &bundle, id]).run()?.refused()?;
        for command in ["start", "state"] {
            scene.runtime(&[command, id]).run()?.refused()?;
        }
        // Whatever it answers: it must not touch what lies there.
        scene.runtime(&["kill", id, "KILL"]).run()?;
        scene.runtime(&["delete", "--force", id]).run()?;
    }
    ensure!(outside.join("canary").exists(), "delete --force with an id of dots removed a file outside the root");
    ensure!(scene.bundle.join("config.json").exists(), "delete --force with an id of dots removed the bundle");
    ensure!(scene.path("root").is_dir(), "delete --force with an id of dots removed the root");
    Ok(())
}

fn ids_with_other_signs_are_refused(scene: &mut Scene) -> Result<()> {
    scene.save()?;
    let bundle = text(&scene.bundle);
    for id in ["a b", "a\nb", "a:b", "a*", "ä", "a\u{7f}"] {
        scene.uses(id);
        scene.runtime(&["create", "--bundle", &bundle, id]).run()?.refused()?;
    }
    Ok(())
}

fn an_id_that_is_too_long_is_refused_in_every_command(scene: &mut Scene) -> Result<()> {
    scene.save()?;
    let id = "x".repeat(4096);
    scene.runtime(&["create", "--bundle", &text(&scene.bundle), &id]).run()?.refused()?;
    for command in ["start", "state", "delete"] {
        scene.runtime(&[command, &id]).run()?.refused()?;
    }
    Ok(())
}

fn the_version_is_three_words_on_the_first_line(scene: &mut Scene) -> Result<()> {
    let said = scene.bare(&["--version"]).run()?.ok()?.stdout;
    let words: Vec<&str> = said.lines().next().unwrap_or_default().split(' ').collect();
    ensure!(words.len() == 3 && words[1] == "version", "expected NAME version X, saw {words:?}");
    eq("-v", scene.bare(&["-v"]).run()?.ok()?.stdout, said)
}

fn the_version_names_the_specification(scene: &mut Scene) -> Result<()> {
    let said = scene.bare(&["--version"]).run()?.ok()?.stdout;
    for key in ["commit: ", "spec: "] {
        ensure!(said.lines().any(|line| line.starts_with(key)), "expected a line {key:?} in {said:?}");
    }
    Ok(())
}

fn create_works_in_an_environment_of_path_alone(scene: &mut Scene) -> Result<()> {
    scene.probes(&["facts"]).save()?;
    scene.uses(&scene.id);
    let run = scene.runtime(&["run", "--bundle", &text(&scene.bundle), &scene.id]);
    let done = run.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").run()?.ok()?;
    eq("answers", done.answers().len(), 1)
}

fn a_pidfd_is_sent_to_the_socket(scene: &mut Scene) -> Result<()> {
    let help = scene.bare(&["create", "--help"]).run()?.ok()?;
    if !help.stdout.contains("--pidfd-socket") {
        return skip("the runtime has no --pidfd-socket");
    }
    let path = scene.path("pidfd");
    let listener = crate::socket::Listener::bind(&path)?;
    let live = scene.create_with(&["--pidfd-socket", &text(&path)])?;
    let (_, fds) = listener.accept()?;
    eq("number of fds", fds.len(), 1)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fds[0].as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    eq("process of the pidfd", json!(pid), live.pid.to_string())
}
