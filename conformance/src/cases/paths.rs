//! Masked and read-only paths.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::check::{allowed, eq, refused};
use crate::command::answers;
use crate::scene::Scene;

cases! {
    "config-linux.md, Masked Paths" => [
        a_masked_file_is_the_null_device,
        a_masked_directory_is_empty_and_read_only,
        a_masked_file_of_procfs_can_not_be_read,
        a_masked_path_that_is_missing_is_ignored,
        a_masked_path_can_be_below_a_mount,
        several_masked_directories_are_all_empty,
        a_masked_path_can_not_be_unmounted_inside,
    ],
    "config-linux.md, Readonly Paths" => [
        a_read_only_path_refuses_writes,
        a_read_only_file_refuses_writes,
        a_read_only_path_below_proc_refuses_writes,
        a_read_only_path_that_is_missing_is_ignored,
        what_is_beside_a_read_only_path_is_writable,
    ],
    "CVE-2025-31133: the null device of the root is not trusted for masking" => [
        a_false_null_device_never_unmasks,
        a_null_device_that_is_a_symlink_never_unmasks,
    ],
}

fn a_masked_file_is_the_null_device(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/maskedPaths", json!(["/etc/passwd"]));
    let answers = scene.asks(&["stat", "/etc/passwd", "then", "read", "/etc/passwd"])?;
    eq("kind", &answers[0]["kind"], "char")?;
    eq("device", [&answers[0]["major"], &answers[0]["minor"]], [1, 3])?;
    eq("content", &answers[1]["text"], "")
}

fn a_masked_directory_is_empty_and_read_only(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/maskedPaths", json!(["/etc"]));
    let answers = scene.asks(&["list", "/etc", "then", "create", "/etc/new"])?;
    eq("names", &answers[0]["names"], json!([]))?;
    refused("create a file", &answers[1], &["EROFS"])
}

fn a_masked_file_of_procfs_can_not_be_read(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/maskedPaths", json!(["/proc/keys", "/proc/timer_list", "/proc/kcore"]));
    for path in ["/proc/keys", "/proc/timer_list"] {
        let answer = scene.ask(&["read", path])?;
        eq(path, &answer["text"], "")?;
    }
    Ok(())
}

fn a_masked_path_that_is_missing_is_ignored(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/maskedPaths", json!(["/no/such/path", "/proc/no-such-file"]));
    scene.facts().map(drop)
}

fn a_masked_path_can_be_below_a_mount(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/maskedPaths", json!(["/sys/kernel"]));
    eq("names", &scene.ask(&["list", "/sys/kernel"])?["names"], json!([]))
}

fn several_masked_directories_are_all_empty(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/maskedPaths", json!(["/etc", "/usr", "/sys/kernel"]));
    for answer in scene.asks(&["list", "/etc", "then", "list", "/usr", "then", "list", "/sys/kernel"])? {
        eq("names", &answer["names"], json!([]))?;
    }
    Ok(())
}

fn a_masked_path_can_not_be_unmounted_inside(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/maskedPaths", json!(["/etc/passwd"]));
    refused("umount", &scene.ask(&["call", "umount", "/etc/passwd"])?, &["EPERM"])
}

fn a_read_only_path_refuses_writes(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/readonlyPaths", json!(["/etc"]));
    for answer in scene.asks(&["create", "/etc/new", "then", "write", "/etc/passwd", "x", "then", "mkdir", "/etc/dir"])? {
        refused("write below a read-only path", &answer, &["EROFS"])?;
    }
    Ok(())
}

fn a_read_only_file_refuses_writes(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/readonlyPaths", json!(["/etc/passwd"]));
    refused("write", &scene.ask(&["write", "/etc/passwd", "x"])?, &["EROFS"])
}

fn a_read_only_path_below_proc_refuses_writes(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/readonlyPaths", json!(["/proc/sys"]));
    // A value that the container could change otherwise: it is of its own namespace.
    refused("write", &scene.ask(&["write", "/proc/sys/kernel/domainname", "x"])?, &["EROFS"])
}

fn a_read_only_path_that_is_missing_is_ignored(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/readonlyPaths", json!(["/no/such/path"]));
    scene.facts().map(drop)
}

fn what_is_beside_a_read_only_path_is_writable(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/readonlyPaths", json!(["/etc"]));
    allowed("create", &scene.ask(&["create", "/opt/new"])?)
}

/// Whatever the root has as null device: the masked file does not show its content.
fn stays_masked(scene: &mut Scene) -> Result<()> {
    scene.unmounts("/dev/pts").unmounts("/dev/shm").unmounts("/dev/mqueue").unmounts("/dev");
    scene.set("/linux/maskedPaths", json!(["/etc/secret"]));
    fs::write(scene.rootfs("etc/secret"), "secret")?;
    // Standard output may lead to what the runtime takes for the null device.
    scene.push("/process/env", "PROBE_OUT=/tmp/answers");
    let done = scene.probes(&["read", "/etc/secret", "then", "stat", "/etc/secret"]).run()?;
    if done.status != 0 {
        return done.refused().map(drop);
    }
    let answers = answers(&fs::read_to_string(scene.rootfs("tmp/answers"))?);
    ensure!(answers.len() == 2, "expected two answers of the probe, saw {answers:?}");
    eq("content", &answers[0]["text"], "")?;
    eq("device", [&answers[1]["major"], &answers[1]["minor"]], [1, 3])
}

fn a_false_null_device_never_unmasks(scene: &mut Scene) -> Result<()> {
    fs::write(scene.rootfs("dev/null"), "not a device")?;
    stays_masked(scene)
}

fn a_null_device_that_is_a_symlink_never_unmasks(scene: &mut Scene) -> Result<()> {
    symlink("/etc/group", scene.rootfs("dev/null"))?;
    stays_masked(scene)
}
