//! Regressions of published weaknesses of the field's runtimes, by class: a hostile root, leaked fds, the runtime's own binary.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::check::{eq, refused, skip};
use crate::command::inheritable;
use crate::scene::{Scene, text};

cases! {
    "CVE-2019-19921, CVE-2023-27561, CVE-2025-54867: /proc and /sys of the root" => [
        proc_as_a_symlink_is_refused,
        proc_as_a_symlink_to_a_directory_of_the_root_is_refused,
        sys_as_a_symlink_is_refused,
        a_mount_below_proc_is_refused,
        a_mount_over_proc_is_refused,
        the_files_that_lxcfs_binds_below_proc_are_accepted,
    ],
    "CVE-2026-41579, CVE-2026-47766: /dev of the root" => [
        dev_as_an_absolute_symlink_leaves_the_host_alone,
        dev_as_a_relative_symlink_leaves_the_host_alone,
        dev_as_a_symlink_without_a_mount_leaves_the_host_alone,
        dev_as_a_file_leaves_the_host_alone,
        names_below_dev_as_symlinks_leave_the_host_alone,
        names_below_dev_as_dangling_and_looping_symlinks_are_survived,
    ],
    "CVE-2019-18837, CVE-2021-30465, CVE-2024-45310: mount destinations" => [
        a_destination_through_symlinks_leaves_the_host_alone,
        a_missing_destination_is_not_made_outside,
        a_device_through_a_symlink_leaves_the_host_alone,
        a_working_directory_through_a_symlink_is_not_made_outside,
    ],
    "CVE-2024-21626: leaked fds and the working directory" => [
        a_working_directory_in_the_fds_of_a_process_is_refused,
        exec_with_a_working_directory_in_the_fds_is_refused,
        a_program_in_the_fds_of_a_process_is_refused,
        directories_that_the_caller_leaks_do_not_reach_the_program,
        the_created_process_holds_no_directory_of_the_host,
    ],
    "CVE-2016-9962, CVE-2019-5736: the runtime's own process and binary" => [
        the_runtime_can_not_be_written_from_inside_during_exec,
        the_runtimes_fds_can_not_be_listed_from_inside_during_exec,
        the_binary_is_unchanged_after_many_execs,
    ],
    "CVE-2025-31133, CVE-2025-52565: masks and the console" => [
        masked_files_are_the_true_null_device_in_a_hostile_root,
    ],
}

/// A directory of the host that nobody may touch, with a file in it.
fn canary(scene: &Scene) -> Result<String> {
    let dir = scene.path("canary");
    fs::create_dir(&dir)?;
    for name in ["ptmx", "null", "file"] {
        fs::write(dir.join(name), name)?;
    }
    Ok(text(&dir))
}

fn is_untouched(canary: &str) -> Result<()> {
    let mut names: Vec<String> =
        fs::read_dir(canary)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    eq("names in a directory of the host", names, ["file", "null", "ptmx"])?;
    for name in ["ptmx", "null", "file"] {
        let file = Path::new(canary).join(name);
        ensure!(file.symlink_metadata()?.is_file(), "{name} of the host is no plain file any more");
        eq(name, fs::read_to_string(&file)?, name)?;
    }
    Ok(())
}

/// Replaces a directory of the root by a symlink.
fn link(scene: &Scene, name: &str, target: &str) -> Result<()> {
    fs::remove_dir(scene.rootfs(name))?;
    Ok(symlink(target, scene.rootfs(name))?)
}

/// Runs the container, which may be refused, and demands that the directory is as it was.
fn leaves_alone(scene: &mut Scene, canary: &str) -> Result<()> {
    scene.probes(&["exit", "0"]);
    let done = scene.run()?;
    ensure!(!done.killed, "the runtime died by signal {}", done.status - 128);
    is_untouched(canary)?;
    // The other way to the same code.
    if scene.try_create()?.status == 0 {
        scene.start()?;
        scene.force_delete()?.ok()?;
    }
    is_untouched(canary)
}

fn proc_as_a_symlink_is_refused(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    link(scene, "proc", &canary)?;
    scene.try_create()?.refused()?;
    is_untouched(&canary)
}

fn proc_as_a_symlink_to_a_directory_of_the_root_is_refused(scene: &mut Scene) -> Result<()> {
    fs::create_dir(scene.rootfs("other"))?;
    link(scene, "proc", "other")?;
    scene.try_create()?.refused().map(drop)
}

fn sys_as_a_symlink_is_refused(scene: &mut Scene) -> Result<()> {
    fs::create_dir(scene.rootfs("other"))?;
    link(scene, "sys", "other")?;
    scene.try_create()?.refused().map(drop)
}

fn a_mount_below_proc_is_refused(scene: &mut Scene) -> Result<()> {
    scene.mounts("/proc/sys", "tmpfs", "tmpfs", &[]);
    scene.try_create()?.refused().map(drop)
}

fn a_mount_over_proc_is_refused(scene: &mut Scene) -> Result<()> {
    let dir = scene.path("false-proc");
    fs::create_dir(&dir)?;
    scene.unmounts("/proc").mounts("/proc", "bind", &text(&dir), &["bind"]);
    scene.try_create()?.refused().map(drop)
}

fn the_files_that_lxcfs_binds_below_proc_are_accepted(scene: &mut Scene) -> Result<()> {
    let file = scene.path("cpuinfo");
    fs::write(&file, "of the engine")?;
    scene.mounts("/proc/cpuinfo", "bind", &text(&file), &["bind"]);
    eq("content", &scene.ask(&["read", "/proc/cpuinfo"])?["text"], "of the engine")
}

fn dev_as_an_absolute_symlink_leaves_the_host_alone(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    link(scene, "dev", &canary)?;
    leaves_alone(scene, &canary)
}

fn dev_as_a_relative_symlink_leaves_the_host_alone(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    link(scene, "dev", "../../canary")?;
    leaves_alone(scene, &canary)
}

fn without_dev(scene: &mut Scene) -> &mut Scene {
    scene.unmounts("/dev/pts").unmounts("/dev/shm").unmounts("/dev/mqueue").unmounts("/dev")
}

fn dev_as_a_symlink_without_a_mount_leaves_the_host_alone(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    without_dev(scene);
    link(scene, "dev", &canary)?;
    leaves_alone(scene, &canary)?;
    fs::remove_file(scene.rootfs("dev"))?;
    symlink("../../canary", scene.rootfs("dev"))?;
    leaves_alone(scene, &canary)
}

fn dev_as_a_file_leaves_the_host_alone(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    fs::remove_dir(scene.rootfs("dev"))?;
    fs::write(scene.rootfs("dev"), "")?;
    leaves_alone(scene, &canary)
}

fn names_below_dev_as_symlinks_leave_the_host_alone(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    without_dev(scene);
    for name in ["null", "ptmx", "console", "fd", "stdin", "tty", "pts", "shm", "mqueue"] {
        symlink(format!("{canary}/{}", if name == "pts" { "" } else { "file" }), scene.rootfs("dev").join(name))?;
    }
    leaves_alone(scene, &canary)
}

fn names_below_dev_as_dangling_and_looping_symlinks_are_survived(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    without_dev(scene);
    symlink("null", scene.rootfs("dev/null"))?;
    symlink(format!("{canary}/made"), scene.rootfs("dev/zero"))?;
    symlink("../../../../../../../../nowhere", scene.rootfs("dev/ptmx"))?;
    leaves_alone(scene, &canary)
}

fn a_destination_through_symlinks_leaves_the_host_alone(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    symlink(&canary, scene.rootfs("absolute"))?;
    symlink("../../canary", scene.rootfs("relative"))?;
    symlink("/absolute", scene.rootfs("second"))?;
    for name in ["absolute", "relative", "second"] {
        let before = scene.config.clone();
        scene.mounts(&format!("/{name}"), "tmpfs", "tmpfs", &[]);
        leaves_alone(scene, &canary).with_context(|| name.to_owned())?;
        scene.config = before;
    }
    Ok(())
}

fn a_missing_destination_is_not_made_outside(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    symlink("../../canary", scene.rootfs("link"))?;
    let file = scene.path("file");
    fs::write(&file, "")?;
    scene.mounts("/link/made/dir", "tmpfs", "tmpfs", &[]).mounts("/link/made-file", "bind", &text(&file), &["bind"]);
    leaves_alone(scene, &canary)
}

fn a_device_through_a_symlink_leaves_the_host_alone(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    symlink("../../canary", scene.rootfs("link"))?;
    scene.push("/linux/devices", json!({ "path": "/link/made", "type": "c", "major": 1, "minor": 3 }));
    leaves_alone(scene, &canary)
}

fn a_working_directory_through_a_symlink_is_not_made_outside(scene: &mut Scene) -> Result<()> {
    let canary = canary(scene)?;
    symlink("../../canary", scene.rootfs("link"))?;
    scene.set("/process/cwd", "/link/made");
    leaves_alone(scene, &canary)
}

fn a_working_directory_in_the_fds_of_a_process_is_refused(scene: &mut Scene) -> Result<()> {
    // The caller leaks a directory under each of these numbers.
    let dir = fs::File::open("/")?;
    let _leaked: Vec<_> = (0..16).map(|_| inheritable(&dir, 3)).collect::<Result<_>>()?;
    for number in 3..24 {
        let cwd = format!("/proc/self/fd/{number}");
        scene.set("/process/cwd", cwd.clone());
        let done = scene.probes(&["list", "."]).run()?;
        ensure!(done.status != 0, "cwd {cwd}: the program ran, and saw {:?}", done.stdout);
    }
    Ok(())
}

fn exec_with_a_working_directory_in_the_fds_is_refused(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let dir = fs::File::open("/")?;
    let _leaked: Vec<_> = (0..16).map(|_| inheritable(&dir, 3)).collect::<Result<_>>()?;
    for number in 3..24 {
        let cwd = format!("/proc/self/fd/{number}");
        let done = scene.exec_with(&["--cwd", &cwd], &["list", "."])?;
        ensure!(done.status != 0, "cwd {cwd}: the program ran, and saw {:?}", done.stdout);
    }
    Ok(())
}

fn a_program_in_the_fds_of_a_process_is_refused(scene: &mut Scene) -> Result<()> {
    let program = fs::File::open("/proc/self/exe")?;
    let _leaked: Vec<_> = (0..16).map(|_| inheritable(&program, 3)).collect::<Result<_>>()?;
    for number in 3..24 {
        scene.set("/process/args", json!([format!("/proc/self/fd/{number}"), "--list"]));
        let done = scene.run()?;
        ensure!(done.status != 0, "fd {number} was executed: {:?}", done.stdout.lines().next());
    }
    Ok(())
}

fn directories_that_the_caller_leaks_do_not_reach_the_program(scene: &mut Scene) -> Result<()> {
    let dir = fs::File::open("/")?;
    let _leaked: Vec<_> = (0..32).map(|_| inheritable(&dir, 3)).collect::<Result<_>>()?;
    scene.live()?;
    let facts = scene.exec_facts(&[])?;
    eq("fds of exec", facts["fds"].as_object().map(serde_json::Map::len), 3)?;
    scene.force_delete()?.ok()?;
    eq("fds of run", scene.facts()?["fds"].as_object().map(serde_json::Map::len), 3)
}

fn the_created_process_holds_no_directory_of_the_host(scene: &mut Scene) -> Result<()> {
    let dir = fs::File::open("/")?;
    let _leaked: Vec<_> = (0..32).map(|_| inheritable(&dir, 3)).collect::<Result<_>>()?;
    let live = scene.create()?;
    // Opened through its fd table, each is what it is, whatever its name reads from here.
    for entry in fs::read_dir(format!("/proc/{}/fd", live.pid))? {
        let entry = entry?;
        let Ok(file) = fs::metadata(entry.path()) else { continue };
        ensure!(
            !file.is_dir() || file.ino() != fs::metadata("/")?.ino(),
            "fd {} of the created process is the host's root",
            entry.file_name().to_string_lossy()
        );
    }
    Ok(())
}

/// What a hostile container finds in two seconds of looking at every process, while others are started in it.
fn hunted(scene: &mut Scene) -> Result<serde_json::Value> {
    scene.probes(&["hunt", "2"]);
    let live = scene.create()?;
    scene.start()?;
    for _ in 0..40 {
        scene.exec_with(&[], &["exit", "0"])?;
    }
    let found = live.hears("what it found", |answer| answer["verb"] == "hunt")?;
    if found["seen"] == 0 { skip("the runtime was too quick to be seen") } else { Ok(found) }
}

fn the_runtime_can_not_be_written_from_inside_during_exec(scene: &mut Scene) -> Result<()> {
    // With these the processes are not hidden from the container.
    for set in ["bounding", "effective", "permitted"] {
        scene.push(&format!("/process/capabilities/{set}"), "CAP_SYS_PTRACE");
        scene.push(&format!("/process/capabilities/{set}"), "CAP_DAC_READ_SEARCH");
    }
    eq("executables that could be opened for writing", &hunted(scene)?["writable"], json!([]))
}

fn the_runtimes_fds_can_not_be_listed_from_inside_during_exec(scene: &mut Scene) -> Result<()> {
    eq("fds of the runtime", &hunted(scene)?["fds"], json!([]))
}

fn the_binary_is_unchanged_after_many_execs(scene: &mut Scene) -> Result<()> {
    let before = fs::read(&scene.runtime.path)?;
    scene.live()?;
    for _ in 0..5 {
        scene.exec_with(&[], &["write", "/proc/self/exe", "#!/bin/sh"])?;
        scene.runtime(&["exec", &scene.id, "/proc/self/exe"]).run()?;
    }
    ensure!(fs::read(&scene.runtime.path)? == before, "the runtime's binary has changed");
    refused("write to it", &scene.exec_with(&[], &["write", "/proc/self/exe", "x"])?.ok()?.answers()[0], &["ETXTBSY"])
}

fn masked_files_are_the_true_null_device_in_a_hostile_root(scene: &mut Scene) -> Result<()> {
    without_dev(scene);
    scene.set("/linux/maskedPaths", json!(["/proc/timer_list", "/proc/keys"]));
    symlink("/proc/sysrq-trigger", scene.rootfs("dev/null"))?;
    scene.push("/process/env", "PROBE_OUT=/tmp/answers");
    let done = scene.probes(&["stat", "/proc/timer_list", "then", "stat", "/proc/keys"]).run()?;
    if done.status != 0 {
        return done.refused().map(drop);
    }
    let answers = crate::command::answers(&fs::read_to_string(scene.rootfs("tmp/answers"))?);
    ensure!(answers.len() == 2, "expected two answers of the probe, saw {answers:?}");
    for answer in answers {
        eq("device behind a masked file", [&answer["major"], &answer["minor"]], [1, 3])?;
    }
    Ok(())
}
