//! `cargo xtask demo`

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::build;

/// The oldest kernel with everything that the runtime rests on (mount_setattr).
const KERNEL: (u32, u32) = (5, 12);

/// Runs the payload in a container of `runtime`, else of the release build.
pub(crate) fn run(runtime: Option<PathBuf>) -> Result<()> {
    check_machine()?;
    let mut packages = vec!["orlop-payload"];
    if runtime.is_none() {
        packages.push("orlop");
    }
    let built = build::release(&packages)?;
    let runtime = match &runtime {
        Some(path) => path.as_path(),
        None => build::program(&built, "orlop")?,
    };

    let bundle = build::scratch()?.join(format!("demo-{}", std::process::id()));
    let done = run_in(&bundle, runtime, build::program(&built, "orlop-payload")?);
    // The container's mounts were in its own namespace and are gone, so these are plain files.
    let _ = fs::remove_dir_all(&bundle);
    done
}

fn run_in(bundle: &Path, runtime: &Path, payload: &Path) -> Result<()> {
    let rootfs = bundle.join("rootfs");
    for dir in ["", "proc", "dev", "sys"] {
        fs::create_dir_all(rootfs.join(dir))?;
    }
    fs::copy(payload, rootfs.join("payload"))?;

    let status = Command::new(runtime).arg("spec").current_dir(bundle).status().context("the runtime's spec")?;
    ensure!(status.success(), "{} spec: {status}", runtime.display());
    let config = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
    adapt(&mut spec, &host_namespaces()?)?;
    fs::write(&config, serde_json::to_vec_pretty(&spec)?)?;

    let id = format!("orlop-demo-{}", std::process::id());
    println!("$ {} run --bundle {} {id}", runtime.display(), bundle.display());
    let started = Instant::now();
    let status = Command::new(runtime).arg("run").arg("--bundle").arg(bundle).arg(&id).status()?;
    let took = started.elapsed();
    ensure!(status.success(), "{} run: {status}", runtime.display());
    let name = runtime.file_name().unwrap_or_default().to_string_lossy();
    println!(
        "\nThe container is gone, {:.1} ms after the command began. It ran this workspace's own",
        took.as_secs_f64() * 1e3
    );
    println!("program `payload` with the configuration that `{name} spec` writes, and on top of that limits of");
    println!("64 MiB, 32 processes and half a CPU, a cgroup namespace, a seccomp profile and a host name.");
    Ok(())
}

/// Says everything that is missing at once.
fn check_machine() -> Result<()> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("it must run as root (sudo cargo xtask demo): it makes namespaces, mounts and cgroups".to_owned());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(&release).is_some_and(|version| version < KERNEL) {
        missing.push(format!("kernel {} is too old: {}.{} or later is needed", release.trim(), KERNEL.0, KERNEL.1));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(2).is_some_and(|fstype| fstype.starts_with("cgroup"))) {
        missing.push("no cgroups are mounted (mount -t cgroup2 cgroup2 /sys/fs/cgroup)".to_owned());
    }
    for namespace in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        if fs::symlink_metadata(format!("/proc/self/ns/{namespace}")).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            missing.push(format!("this kernel has no {namespace} namespaces"));
        }
    }
    if !missing.is_empty() {
        bail!("the demo cannot run here:\n  {}", missing.join("\n  "));
    }
    Ok(())
}

/// Major and minor version of a kernel's release string.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Our namespaces in the form that the payload wants.
fn host_namespaces() -> Result<String> {
    let mut links = Vec::new();
    for entry in fs::read_dir("/proc/self/ns")? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().ends_with("_for_children") {
            links.push(fs::read_link(entry.path())?.display().to_string());
        }
    }
    Ok(links.join(" "))
}

/// Makes the default configuration that of the demo.
fn adapt(spec: &mut Value, host_namespaces: &str) -> Result<()> {
    set(spec, "/process/terminal", json!(false))?;
    set(spec, "/process/args", json!(["/payload"]))?;
    let env = spec.pointer_mut("/process/env").and_then(Value::as_array_mut).context("config.json: no process.env")?;
    env.push(json!(format!("HOST_NS={host_namespaces}")));
    set(spec, "/hostname", json!("lowest-deck"))?;
    let linux = spec.pointer_mut("/linux").and_then(Value::as_object_mut).context("config.json: no linux")?;
    let resources = linux.entry("resources").or_insert_with(|| json!({}));
    for (name, value) in [
        ("memory", json!({"limit": 64 << 20})),
        ("pids", json!({"limit": 32})),
        ("cpu", json!({"quota": 50_000, "period": 100_000})),
    ] {
        resources.as_object_mut().context("config.json: linux.resources")?.insert(name.to_owned(), value);
    }
    let namespaces =
        linux.get_mut("namespaces").and_then(Value::as_array_mut).context("config.json: no linux.namespaces")?;
    if !namespaces.iter().any(|ns| ns["type"] == "cgroup") {
        namespaces.push(json!({"type": "cgroup"}));
    }
    // EOPNOTSUPP (95) for linkat, so that the payload can tell the profile's answer from a permission check's.
    linux.insert(
        "seccomp".to_owned(),
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["linkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
                {"names": ["bpf", "keyctl", "kexec_load", "mount", "perf_event_open", "ptrace", "reboot", "swapon"],
                 "action": "SCMP_ACT_ERRNO"},
            ],
        }),
    );
    Ok(())
}

fn set(spec: &mut Value, pointer: &str, value: Value) -> Result<()> {
    *spec.pointer_mut(pointer).with_context(|| format!("config.json: no {pointer}"))? = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_compare_by_number() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert!(version("5.4.0").unwrap() < KERNEL);
        assert!(version("5.12-rc1").unwrap() >= KERNEL);
        assert_eq!(version(""), None);
    }

    #[test]
    fn a_configuration_without_an_expected_field_is_refused_by_name() {
        let mut spec = json!({"process": {"args": [], "env": []}});
        assert!(adapt(&mut spec, "").unwrap_err().to_string().contains("/process/terminal"));
    }

    #[test]
    fn the_cgroup_namespace_is_added_once() {
        let mut spec = json!({
            "process": {"args": [], "env": [], "terminal": true}, "hostname": "",
            "linux": {"namespaces": [{"type": "cgroup"}]},
        });
        adapt(&mut spec, "pid:[1]").unwrap();
        assert_eq!(spec["linux"]["namespaces"].as_array().unwrap().len(), 1);
        assert_eq!(spec["process"]["env"][0], "HOST_NS=pid:[1]");
        assert_eq!(spec["linux"]["resources"]["pids"]["limit"], 32);
    }
}
