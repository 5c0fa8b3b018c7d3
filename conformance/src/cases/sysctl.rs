//! Kernel parameters of the container's namespaces.

use std::fs;

use anyhow::Result;
use serde_json::json;

use crate::check::eq;
use crate::scene::Scene;

cases! {
    "config-linux.md, Sysctl" => [
        a_network_parameter_is_set_inside_alone,
        an_ipc_parameter_is_set_inside_alone,
        a_message_queue_parameter_is_set,
        several_parameters_are_set,
        slashes_may_separate_a_name,
        a_parameter_that_does_not_exist_is_refused,
        a_value_that_the_kernel_refuses_is_refused,
    ],
    "runc: only parameters of the container's own namespaces" => [
        a_parameter_of_the_whole_machine_is_refused,
        a_network_parameter_without_a_network_namespace_is_refused,
        an_ipc_parameter_without_an_ipc_namespace_is_refused,
    ],
}

fn inside(scene: &mut Scene, name: &str) -> Result<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    Ok(scene.ask(&["read", &path])?["text"].as_str().unwrap_or_default().trim().to_owned())
}

fn outside(name: &str) -> Result<String> {
    Ok(fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")))?.trim().to_owned())
}

/// Sets a parameter inside and demands that the host's own stays as it is.
fn set_inside_alone(scene: &mut Scene, name: &str, value: &str) -> Result<()> {
    let before = outside(name)?;
    scene.set("/linux/sysctl", json!({ name: value }));
    eq(name, inside(scene, name)?, value)?;
    eq("the host's", outside(name)?, before)
}

fn a_network_parameter_is_set_inside_alone(scene: &mut Scene) -> Result<()> {
    set_inside_alone(scene, "net.ipv4.ip_forward", "1")
}

fn an_ipc_parameter_is_set_inside_alone(scene: &mut Scene) -> Result<()> {
    set_inside_alone(scene, "kernel.shmmni", "1234")
}

fn a_message_queue_parameter_is_set(scene: &mut Scene) -> Result<()> {
    set_inside_alone(scene, "fs.mqueue.queues_max", "77")
}

fn several_parameters_are_set(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/sysctl", json!({ "net.ipv4.ip_default_ttl": "77", "kernel.msgmni": "1000" }));
    eq("net.ipv4.ip_default_ttl", inside(scene, "net.ipv4.ip_default_ttl")?, "77")?;
    eq("kernel.msgmni", inside(scene, "kernel.msgmni")?, "1000")
}

fn slashes_may_separate_a_name(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/sysctl", json!({ "net/ipv4/ip_default_ttl": "78" }));
    eq("net.ipv4.ip_default_ttl", inside(scene, "net.ipv4.ip_default_ttl")?, "78")
}

fn a_parameter_that_does_not_exist_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/sysctl", json!({ "net.ipv4.no_such_parameter": "1" }));
    scene.try_create()?.refused().map(drop)
}

fn a_value_that_the_kernel_refuses_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "perhaps" }));
    scene.try_create()?.refused().map(drop)
}

/// Asks for the value that the machine has already, in case a runtime sets it.
fn refuses_what_the_host_has(scene: &mut Scene, name: &str) -> Result<()> {
    let value = outside(name)?;
    scene.set("/linux/sysctl", json!({ name: value }));
    scene.try_create()?.refused().map(drop)
}

fn a_parameter_of_the_whole_machine_is_refused(scene: &mut Scene) -> Result<()> {
    refuses_what_the_host_has(scene, "vm.swappiness")
}

fn a_network_parameter_without_a_network_namespace_is_refused(scene: &mut Scene) -> Result<()> {
    scene.shares("network");
    refuses_what_the_host_has(scene, "net.ipv4.ip_default_ttl")
}

fn an_ipc_parameter_without_an_ipc_namespace_is_refused(scene: &mut Scene) -> Result<()> {
    scene.shares("ipc").unmounts("/dev/mqueue");
    refuses_what_the_host_has(scene, "kernel.shmmni")
}
