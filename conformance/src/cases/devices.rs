//! Device nodes, the symlinks of `/dev`, and which devices may be used.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::check::{allowed, eq, refused, skip};
use crate::scene::Scene;

cases! {
    "config-linux.md, Default Devices" => [
        the_default_devices_are_there,
        the_default_devices_work,
        the_default_symlinks_are_there,
        ptmx_is_of_the_containers_own_terminals,
        there_is_no_console_without_a_terminal,
        the_default_devices_are_there_without_a_mount_on_dev,
    ],
    "config-linux.md, Devices" => [
        a_character_device_is_made,
        a_block_device_is_made,
        a_fifo_is_made,
        an_unbuffered_device_is_a_character_device,
        owner_and_mode_of_a_device_are_set,
        a_device_may_lie_deep_below_dev,
        a_default_device_may_be_listed_with_another_mode,
        an_unknown_device_type_is_refused,
        a_device_below_another_mount_is_made_there,
    ],
    "config-linux.md, Devices in a user namespace" => [the_default_devices_work_in_a_user_namespace],
    "config-linux.md, Allowed Device list" => [
        a_device_that_is_not_allowed_can_not_be_opened,
        an_allowed_device_can_be_opened,
        a_device_may_be_allowed_for_reading_alone,
        a_later_rule_wins,
        the_default_devices_are_always_allowed,
    ],
    "runc update leaves, and exec obeys, the device rules" => [exec_obeys_the_device_rules],
}

fn the_default_devices_are_there(scene: &mut Scene) -> Result<()> {
    let devices = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let mut args = Vec::new();
    let paths: Vec<String> = devices.iter().map(|(name, ..)| format!("/dev/{name}")).collect();
    for path in &paths {
        args.extend(["stat", path, "then"]);
    }
    args.pop();
    for (answer, (name, major, minor)) in scene.asks(&args)?.iter().zip(devices) {
        eq(&format!("{name}: kind"), &answer["kind"], "char")?;
        eq(&format!("{name}: numbers"), [&answer["major"], &answer["minor"]], [major, minor])?;
        eq(&format!("{name}: mode"), &answer["mode"], "0666")?;
        eq(&format!("{name}: owner"), [&answer["uid"], &answer["gid"]], [0, 0])?;
    }
    Ok(())
}

fn work(scene: &mut Scene) -> Result<()> {
    let answers = scene.asks(&["read", "/dev/null", "then", "write", "/dev/null", "x", "then", "write", "/dev/full", "x"])?;
    eq("/dev/null", &answers[0]["text"], "")?;
    allowed("write to /dev/null", &answers[1])?;
    refused("write to /dev/full", &answers[2], &["ENOSPC"])?;
    for path in ["/dev/zero", "/dev/random", "/dev/urandom"] {
        allowed(path, &scene.ask(&["open", path])?)?;
    }
    Ok(())
}

fn the_default_devices_work(scene: &mut Scene) -> Result<()> {
    work(scene)
}

fn the_default_devices_work_in_a_user_namespace(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?;
    work(scene)
}

fn the_default_symlinks_are_there(scene: &mut Scene) -> Result<()> {
    let links =
        [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")];
    for (name, target) in links {
        let answer = scene.ask(&["readlink", &format!("/dev/{name}")])?;
        eq(name, &answer["target"], target)?;
    }
    Ok(())
}

fn ptmx_is_of_the_containers_own_terminals(scene: &mut Scene) -> Result<()> {
    let answers = scene.asks(&["stat", "/dev/ptmx", "then", "open", "/dev/ptmx", "then", "list", "/dev/pts"])?;
    eq("numbers", [&answers[0]["major"], &answers[0]["minor"]], [5, 2])?;
    allowed("open", &answers[1])?;
    // The terminal made by the open above is gone again; none of the host's is there.
    eq("terminals", &answers[2]["names"], ["ptmx"])
}

fn there_is_no_console_without_a_terminal(scene: &mut Scene) -> Result<()> {
    let answer = scene.ask(&["open", "/dev/console"])?;
    refused("open", &answer, &["ENOENT", "ENXIO", "EIO", "EPERM"])
}

fn the_default_devices_are_there_without_a_mount_on_dev(scene: &mut Scene) -> Result<()> {
    for at in ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev"] {
        scene.unmounts(at);
    }
    let answer = scene.ask(&["stat", "/dev/null"])?;
    eq("numbers", [&answer["major"], &answer["minor"]], [1, 3])
}

fn device(scene: &mut Scene, device: Value) -> Result<Value> {
    let path = device["path"].as_str().unwrap_or_default().to_owned();
    scene.push("/linux/devices", device);
    scene.ask(&["stat", &path])
}

fn a_character_device_is_made(scene: &mut Scene) -> Result<()> {
    let seen = device(scene, json!({ "path": "/dev/made", "type": "c", "major": 1, "minor": 11 }))?;
    eq("kind", &seen["kind"], "char")?;
    eq("numbers", [&seen["major"], &seen["minor"]], [1, 11])
}

fn a_block_device_is_made(scene: &mut Scene) -> Result<()> {
    let seen = device(scene, json!({ "path": "/dev/made", "type": "b", "major": 7, "minor": 300 }))?;
    eq("kind", &seen["kind"], "block")?;
    eq("numbers", [&seen["major"], &seen["minor"]], [7, 300])
}

fn a_fifo_is_made(scene: &mut Scene) -> Result<()> {
    let seen = device(scene, json!({ "path": "/dev/made", "type": "p", "fileMode": 0o640 }))?;
    eq("kind", &seen["kind"], "fifo")?;
    eq("mode", &seen["mode"], "0640")
}

fn an_unbuffered_device_is_a_character_device(scene: &mut Scene) -> Result<()> {
    let seen = device(scene, json!({ "path": "/dev/made", "type": "u", "major": 1, "minor": 5 }))?;
    eq("kind", &seen["kind"], "char")?;
    eq("numbers", [&seen["major"], &seen["minor"]], [1, 5])
}

fn owner_and_mode_of_a_device_are_set(scene: &mut Scene) -> Result<()> {
    let wanted = json!({
        "path": "/dev/made", "type": "c", "major": 1, "minor": 5, "fileMode": 0o642, "uid": 1234, "gid": 1235,
    });
    let seen = device(scene, wanted)?;
    eq("mode", &seen["mode"], "0642")?;
    eq("owner", [&seen["uid"], &seen["gid"]], [1234, 1235])
}

fn a_device_may_lie_deep_below_dev(scene: &mut Scene) -> Result<()> {
    let seen = device(scene, json!({ "path": "/dev/bus/usb/001", "type": "c", "major": 189, "minor": 0 }))?;
    eq("kind", &seen["kind"], "char")
}

fn a_default_device_may_be_listed_with_another_mode(scene: &mut Scene) -> Result<()> {
    let seen = device(scene, json!({ "path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o600 }))?;
    eq("mode", &seen["mode"], "0600")
}

fn an_unknown_device_type_is_refused(scene: &mut Scene) -> Result<()> {
    scene.push("/linux/devices", json!({ "path": "/dev/made", "type": "x", "major": 1, "minor": 3 }));
    scene.try_create()?.refused().map(drop)
}

fn a_device_below_another_mount_is_made_there(scene: &mut Scene) -> Result<()> {
    scene.mounts("/mnt", "tmpfs", "tmpfs", &[]);
    let seen = device(scene, json!({ "path": "/mnt/made", "type": "c", "major": 1, "minor": 5 }))?;
    eq("numbers", [&seen["major"], &seen["minor"]], [1, 5])?;
    ensure!(!scene.rootfs("mnt/made").exists(), "the device is in the root, below the mount");
    Ok(())
}

/// The kernel's log, a device that every machine has and no container gets.
fn kernel_log(scene: &mut Scene, rules: &Value) -> Result<()> {
    let Ok(log) = fs::metadata("/dev/kmsg") else { return skip("no /dev/kmsg here") };
    eq("numbers of /dev/kmsg", [rustix::fs::major(log.rdev()), rustix::fs::minor(log.rdev())], [1, 11])?;
    scene.push("/linux/devices", json!({ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }));
    // Without this the kernel's own restriction of its log would refuse, too.
    for set in ["bounding", "effective", "permitted"] {
        scene.push(&format!("/process/capabilities/{set}"), "CAP_SYSLOG");
    }
    scene.set("/linux/resources/devices", rules.clone());
    Ok(())
}

fn a_device_that_is_not_allowed_can_not_be_opened(scene: &mut Scene) -> Result<()> {
    kernel_log(scene, &json!([{ "allow": false, "access": "rwm" }]))?;
    refused("open /dev/kmsg", &scene.ask(&["open", "/dev/kmsg"])?, &["EPERM"])
}

fn an_allowed_device_can_be_opened(scene: &mut Scene) -> Result<()> {
    let allow = json!({ "allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm" });
    kernel_log(scene, &json!([{ "allow": false, "access": "rwm" }, allow]))?;
    let answers = scene.asks(&["open", "/dev/kmsg", "then", "write", "/dev/kmsg", ""])?;
    allowed("open for reading", &answers[0])?;
    allowed("open for writing", &answers[1])
}

fn a_device_may_be_allowed_for_reading_alone(scene: &mut Scene) -> Result<()> {
    let allow = json!({ "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" });
    kernel_log(scene, &json!([{ "allow": false, "access": "rwm" }, allow]))?;
    let answers = scene.asks(&["open", "/dev/kmsg", "then", "write", "/dev/kmsg", ""])?;
    allowed("open for reading", &answers[0])?;
    refused("open for writing", &answers[1], &["EPERM"])
}

fn a_later_rule_wins(scene: &mut Scene) -> Result<()> {
    let rule = |allow: bool| json!({ "allow": allow, "type": "c", "major": 1, "minor": 11, "access": "rwm" });
    kernel_log(scene, &json!([{ "allow": false, "access": "rwm" }, rule(true), rule(false)]))?;
    refused("open /dev/kmsg", &scene.ask(&["open", "/dev/kmsg"])?, &["EPERM"])
}

fn the_default_devices_are_always_allowed(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/resources/devices", json!([{ "allow": false, "access": "rwm" }]));
    work(scene)?;
    // Any node may be made, though not opened: that is what runc and its engines rely on.
    allowed("mknod", &scene.ask(&["mknod", "/tmp/null"])?)
}

fn exec_obeys_the_device_rules(scene: &mut Scene) -> Result<()> {
    kernel_log(scene, &json!([{ "allow": false, "access": "rwm" }]))?;
    scene.live()?;
    let answer = scene.exec_with(&[], &["open", "/dev/kmsg"])?.ok()?.answers().pop().unwrap_or_default();
    refused("open /dev/kmsg", &answer, &["EPERM"])
}
