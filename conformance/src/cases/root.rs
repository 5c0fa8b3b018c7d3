//! The container's root: what it holds, whether it can be written, how it is resolved.

use std::fs;

use anyhow::{Context, Result};
use serde_json::json;

use crate::check::{allowed, eq, refused};
use crate::scene::{Scene, text};

cases! {
    "config.md, Root" => [
        a_writable_root_keeps_what_is_written,
        a_read_only_root_refuses_writes,
        a_read_only_root_leaves_mounts_writable,
        a_read_only_root_is_not_read_only_outside,
        an_absolute_root_path_is_used_as_it_is,
        a_relative_root_path_counts_from_the_bundle,
        a_root_that_is_missing_is_refused,
        a_root_that_is_a_file_is_refused,
        the_host_is_not_seen,
        the_root_is_a_mount_of_its_own,
        nothing_is_left_of_the_old_root,
    ],
    "runc create --no-pivot (containerd's NoPivotRoot)" => [no_pivot_gives_the_same_root],
}

fn a_writable_root_keeps_what_is_written(scene: &mut Scene) -> Result<()> {
    allowed("create /kept", &scene.ask(&["create", "/kept"])?)?;
    fs::metadata(scene.rootfs("kept")).context("the file in the bundle")?;
    Ok(())
}

fn a_read_only_root_refuses_writes(scene: &mut Scene) -> Result<()> {
    scene.set("/root/readonly", true);
    let answers = scene.asks(&["create", "/new", "then", "mkdir", "/tmp/new", "then", "write", "/etc/passwd", "x"])?;
    for answer in &answers {
        refused(&answer["verb"].to_string(), answer, &["EROFS"])?;
    }
    Ok(())
}

fn a_read_only_root_leaves_mounts_writable(scene: &mut Scene) -> Result<()> {
    scene.set("/root/readonly", true).mounts("/tmp", "tmpfs", "tmpfs", &["mode=1777"]);
    for answer in scene.asks(&["create", "/tmp/new", "then", "create", "/dev/shm/new", "then", "create", "/dev/new"])? {
        allowed("create", &answer)?;
    }
    Ok(())
}

fn a_read_only_root_is_not_read_only_outside(scene: &mut Scene) -> Result<()> {
    scene.set("/root/readonly", true);
    scene.live()?;
    fs::write(scene.rootfs("written-by-the-host"), "").context("write to the bundle while the container runs")
}

fn an_absolute_root_path_is_used_as_it_is(scene: &mut Scene) -> Result<()> {
    let elsewhere = scene.path("elsewhere");
    fs::rename(scene.rootfs(""), &elsewhere)?;
    scene.set("/root/path", text(&elsewhere));
    scene.facts().map(drop)
}

fn a_relative_root_path_counts_from_the_bundle(scene: &mut Scene) -> Result<()> {
    fs::create_dir(scene.bundle.join("deep"))?;
    fs::rename(scene.rootfs(""), scene.bundle.join("deep/root"))?;
    scene.set("/root/path", "deep/root");
    scene.facts().map(drop)
}

fn a_root_that_is_missing_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/root/path", "nowhere");
    scene.try_create()?.refused()?.complains(&["nowhere"]).map(drop)
}

fn a_root_that_is_a_file_is_refused(scene: &mut Scene) -> Result<()> {
    fs::write(scene.bundle.join("file"), "")?;
    scene.set("/root/path", "file");
    scene.try_create()?.refused().map(drop)
}

fn the_host_is_not_seen(scene: &mut Scene) -> Result<()> {
    let answer = scene.ask(&["list", "/"])?;
    let expected =
        ["bin", "dev", "etc", "home", "opt", "probe", "proc", "root", "run", "sys", "tmp", "usr", "var"];
    eq("names in /", &answer["names"], expected)
}

fn the_root_is_a_mount_of_its_own(scene: &mut Scene) -> Result<()> {
    let facts = scene.facts()?;
    let roots = facts["mounts"].as_array().map_or(0, |mounts| mounts.iter().filter(|mount| mount["at"] == "/").count());
    eq("mounts at /", roots, 1)
}

fn nothing_is_left_of_the_old_root(scene: &mut Scene) -> Result<()> {
    let facts = scene.facts()?;
    let expected = json!(["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"]);
    let seen: Vec<_> = facts["mounts"].as_array().into_iter().flatten().map(|mount| mount["at"].clone()).collect();
    eq("mount points", seen, expected)
}

fn no_pivot_gives_the_same_root(scene: &mut Scene) -> Result<()> {
    scene.probes(&["list", "/"]);
    let done = scene.run_with(&["--no-pivot"])?.ok()?;
    let answer = done.answers().pop().context("no answer")?;
    eq("/probe is there", answer["names"].as_array().is_some_and(|names| names.contains(&json!("probe"))), true)?;
    eq("names in /", answer["names"].as_array().map(Vec::len), 13)
}
