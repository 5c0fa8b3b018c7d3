//! `spec`: the config to start from.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::check::eq;
use crate::scene::{Scene, text};

cases! {
    "runc spec (what is scripted on it)" => [
        spec_writes_the_config_of_a_bundle,
        spec_writes_into_the_working_directory,
        spec_does_not_overwrite,
        the_written_config_runs,
        the_written_config_is_a_hardened_shell,
        rootless_maps_the_caller,
    ],
}

fn written(scene: &Scene, options: &[&str]) -> Result<Value> {
    let bundle = text(&scene.bundle);
    scene.bare(&["spec", "--bundle", &bundle]).args(options).run()?.ok()?;
    let bytes = fs::read(scene.bundle.join("config.json")).context("spec wrote no config.json")?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn spec_writes_the_config_of_a_bundle(scene: &mut Scene) -> Result<()> {
    let config = written(scene, &[])?;
    ensure!(config["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "saw {}", config["ociVersion"]);
    eq("root", &config["root"]["path"], "rootfs")
}

fn spec_writes_into_the_working_directory(scene: &mut Scene) -> Result<()> {
    scene.bare(&["spec"]).cwd(&scene.dir).run()?.ok()?;
    ensure!(scene.path("config.json").is_file(), "spec wrote no config.json");
    Ok(())
}

fn spec_does_not_overwrite(scene: &mut Scene) -> Result<()> {
    fs::write(scene.bundle.join("config.json"), "precious")?;
    scene.bare(&["spec", "--bundle", &text(&scene.bundle)]).run()?.refused()?;
    eq("config.json", fs::read_to_string(scene.bundle.join("config.json"))?, "precious")
}

fn the_written_config_runs(scene: &mut Scene) -> Result<()> {
    scene.config = written(scene, &[])?;
    scene.set("/process/terminal", false).unset("/linux/resources").unset("/process/rlimits");
    scene.unmounts("/sys/fs/cgroup");
    let id = scene.id.clone();
    scene.set("/linux/cgroupsPath", format!("/{id}"));
    let facts = scene.facts()?;
    eq("pid", &facts["pid"], 1)
}

fn the_written_config_is_a_hardened_shell(scene: &mut Scene) -> Result<()> {
    let config = written(scene, &[])?;
    eq("args", &config["process"]["args"], ["sh"])?;
    eq("terminal", &config["process"]["terminal"], true)?;
    eq("noNewPrivileges", &config["process"]["noNewPrivileges"], true)?;
    eq("cwd", &config["process"]["cwd"], "/")?;
    eq("readonly root", &config["root"]["readonly"], true)?;
    let kinds = |list: &Value, key: &str| -> Vec<Value> {
        list.as_array().into_iter().flatten().map(|entry| entry[key].clone()).collect()
    };
    let mounts = kinds(&config["mounts"], "destination");
    for at in ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"] {
        ensure!(mounts.contains(&json!(at)), "expected a mount at {at}, saw {mounts:?}");
    }
    let namespaces = kinds(&config["linux"]["namespaces"], "type");
    for kind in ["pid", "network", "ipc", "uts", "mount"] {
        ensure!(namespaces.contains(&json!(kind)), "expected a {kind} namespace, saw {namespaces:?}");
    }
    let masked = config["linux"]["maskedPaths"].as_array().context("no masked paths")?;
    ensure!(masked.contains(&json!("/proc/kcore")), "expected /proc/kcore to be masked, saw {masked:?}");
    let set = config["process"]["capabilities"]["bounding"].as_array().context("no capabilities")?;
    ensure!(set.len() <= 3, "expected three capabilities at most, saw {set:?}");
    Ok(())
}

fn rootless_maps_the_caller(scene: &mut Scene) -> Result<()> {
    let config = written(scene, &["--rootless"])?;
    let map = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
    eq("uidMappings", &config["linux"]["uidMappings"], &map)?;
    eq("gidMappings", &config["linux"]["gidMappings"], &map)?;
    let namespaces = config["linux"]["namespaces"].to_string();
    ensure!(namespaces.contains("\"user\""), "expected a user namespace, saw {namespaces}");
    ensure!(!namespaces.contains("\"network\""), "expected the caller's network, saw {namespaces}");
    Ok(())
}
