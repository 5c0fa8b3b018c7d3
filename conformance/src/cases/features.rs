//! `features`: what the runtime says of itself to containerd and Docker.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::check::{eq, lists};
use crate::scene::Scene;

cases! {
    "features.md" => [
        the_range_of_versions_is_given,
        every_hook_is_listed,
        the_mount_options_that_must_work_are_listed,
        the_namespaces_are_listed,
        the_capabilities_are_listed,
        the_cgroup_versions_are_given,
        seccomp_is_described,
    ],
    "containerd CRI: gates of features" => [
        recursive_read_only_mounts_are_announced,
        user_namespaces_with_idmapped_mounts_are_announced,
    ],
    "containerd: features without any global option" => [nothing_but_the_document_is_printed],
}

fn features(scene: &Scene) -> Result<Value> {
    scene.bare(&["features"]).run()?.ok()?.json()
}

fn the_range_of_versions_is_given(scene: &mut Scene) -> Result<()> {
    let features = features(scene)?;
    let lowest = features["ociVersionMin"].as_str().context("no ociVersionMin")?;
    let highest = features["ociVersionMax"].as_str().context("no ociVersionMax")?;
    ensure!(lowest.starts_with("1.0.0"), "ociVersionMin: expected 1.0.0, saw {lowest:?}");
    ensure!(highest.starts_with("1."), "ociVersionMax: expected 1.x, saw {highest:?}");
    Ok(())
}

fn every_hook_is_listed(scene: &mut Scene) -> Result<()> {
    let hooks = &features(scene)?["hooks"];
    for hook in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        lists("hooks", hooks, hook)?;
    }
    Ok(())
}

fn the_mount_options_that_must_work_are_listed(scene: &mut Scene) -> Result<()> {
    let options = &features(scene)?["mountOptions"];
    let must = [
        "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "iversion", "lazytime", "loud", "noatime",
        "nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "norelatime", "nostrictatime", "nosuid", "private",
        "rbind", "relatime", "remount", "ro", "rprivate", "rshared", "rslave", "runbindable", "rw", "shared", "silent", "slave",
        "strictatime", "suid", "sync", "unbindable",
    ];
    for option in must {
        lists("mountOptions", options, option)?;
    }
    Ok(())
}

fn the_namespaces_are_listed(scene: &mut Scene) -> Result<()> {
    let namespaces = &features(scene)?["linux"]["namespaces"];
    for namespace in ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"] {
        lists("namespaces", namespaces, namespace)?;
    }
    Ok(())
}

fn the_capabilities_are_listed(scene: &mut Scene) -> Result<()> {
    let capabilities = &features(scene)?["linux"]["capabilities"];
    for capability in ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"] {
        lists("capabilities", capabilities, capability)?;
    }
    Ok(())
}

fn the_cgroup_versions_are_given(scene: &mut Scene) -> Result<()> {
    let cgroup = &features(scene)?["linux"]["cgroup"];
    for key in ["v1", "v2", "systemd"] {
        ensure!(cgroup[key].is_boolean(), "cgroup.{key}: expected a boolean, saw {}", cgroup[key]);
    }
    eq("v2", &cgroup["v2"], true)
}

fn seccomp_is_described(scene: &mut Scene) -> Result<()> {
    let seccomp = &features(scene)?["linux"]["seccomp"];
    eq("enabled", &seccomp["enabled"], true)?;
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRAP"] {
        lists("actions", &seccomp["actions"], action)?;
    }
    for operator in ["EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE"] {
        lists("operators", &seccomp["operators"], format!("SCMP_CMP_{operator}"))?;
    }
    lists("archs", &seccomp["archs"], "SCMP_ARCH_X86_64")?;
    lists("archs", &seccomp["archs"], "SCMP_ARCH_AARCH64")?;
    lists("knownFlags", &seccomp["knownFlags"], "SECCOMP_FILTER_FLAG_LOG")
}

fn recursive_read_only_mounts_are_announced(scene: &mut Scene) -> Result<()> {
    lists("mountOptions", &features(scene)?["mountOptions"], "rro")
}

fn user_namespaces_with_idmapped_mounts_are_announced(scene: &mut Scene) -> Result<()> {
    let features = features(scene)?;
    lists("namespaces", &features["linux"]["namespaces"], "user")?;
    scene.needs("idmapped mounts", "/linux/mountExtensions/idmap/enabled", (1, 2))?;
    eq("idmap", &features["linux"]["mountExtensions"]["idmap"]["enabled"], true)
}

fn nothing_but_the_document_is_printed(scene: &mut Scene) -> Result<()> {
    let done = scene.bare(&["features"]).run()?.ok()?;
    eq("standard error", &done.stderr, "")?;
    ensure!(done.json()?.is_object(), "expected an object");
    Ok(())
}
