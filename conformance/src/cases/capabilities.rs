//! The five capability sets, for the container's process and for `exec`.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::check::{capabilities, capabilities_are, eq, holds, skip};
use crate::scene::Scene;

cases! {
    "config.md, Linux Process: capabilities" => [
        each_set_is_exactly_the_configured_one,
        absent_capabilities_are_none,
        another_user_keeps_what_is_ambient,
        another_user_loses_what_is_not_ambient,
        all_sets_may_be_empty,
        a_name_that_nobody_knows_does_not_stop_the_container,
        a_capability_that_cannot_be_granted_does_not_stop_the_container,
    ],
    "CVE-2022-29162: nothing inheritable unasked" => [
        nothing_is_inheritable_unasked,
        exec_with_a_capability_makes_nothing_inheritable,
    ],
    "runc exec --cap" => [
        exec_has_the_capabilities_of_the_container,
        exec_adds_a_capability,
        exec_takes_the_capabilities_of_its_process_file,
    ],
}

const SETS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];

fn each_set_is_exactly_the_configured_one(scene: &mut Scene) -> Result<()> {
    let configured = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID", "CAP_SYS_CHROOT"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "effective": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
        "ambient": ["CAP_KILL"],
    });
    scene.set("/process/capabilities", configured.clone()).set("/process/user", json!({ "uid": 1234, "gid": 1235 }));
    let seen = scene.facts()?["capabilities"].clone();
    capabilities_are("bounding", &seen["bounding"], &["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID", "CAP_SYS_CHROOT"])?;
    capabilities_are("inheritable", &seen["inheritable"], &["CAP_KILL", "CAP_NET_RAW"])?;
    capabilities_are("ambient", &seen["ambient"], &["CAP_KILL"])?;
    // execve(2) of an ordinary file leaves another user than root its ambient set.
    capabilities_are("permitted", &seen["permitted"], &["CAP_KILL"])?;
    capabilities_are("effective", &seen["effective"], &["CAP_KILL"])
}

fn absent_capabilities_are_none(scene: &mut Scene) -> Result<()> {
    scene.unset("/process/capabilities");
    let seen = scene.facts()?["capabilities"].clone();
    for set in SETS {
        capabilities_are(set, &seen[set], &[])?;
    }
    Ok(())
}

fn another_user_keeps_what_is_ambient(scene: &mut Scene) -> Result<()> {
    let names = json!(["CAP_NET_BIND_SERVICE"]);
    for set in SETS {
        scene.set(&format!("/process/capabilities/{set}"), names.clone());
    }
    scene.set("/process/user/uid", 1234);
    let seen = scene.facts()?["capabilities"].clone();
    for set in SETS {
        capabilities_are(set, &seen[set], &["CAP_NET_BIND_SERVICE"])?;
    }
    Ok(())
}

fn another_user_loses_what_is_not_ambient(scene: &mut Scene) -> Result<()> {
    scene.set("/process/user/uid", 1234);
    let seen = scene.facts()?["capabilities"].clone();
    capabilities_are("effective", &seen["effective"], &[])?;
    capabilities_are("permitted", &seen["permitted"], &[])?;
    ensure!(!capabilities(&seen["bounding"])?.is_empty(), "bounding: expected the configured set, saw none");
    Ok(())
}

fn all_sets_may_be_empty(scene: &mut Scene) -> Result<()> {
    for set in SETS {
        scene.set(&format!("/process/capabilities/{set}"), json!([]));
    }
    let seen = scene.facts()?["capabilities"].clone();
    for set in SETS {
        capabilities_are(set, &seen[set], &[])?;
    }
    Ok(())
}

fn a_name_that_nobody_knows_does_not_stop_the_container(scene: &mut Scene) -> Result<()> {
    for set in ["bounding", "effective", "permitted"] {
        scene.set(&format!("/process/capabilities/{set}"), json!(["CAP_KILL", "CAP_WHAT_NOBODY_KNOWS"]));
    }
    capabilities_are("effective", &scene.facts()?["capabilities"]["effective"], &["CAP_KILL"])
}

fn a_capability_that_cannot_be_granted_does_not_stop_the_container(scene: &mut Scene) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let own = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default().trim().to_owned();
    let own = capabilities(&json!(own))?;
    let wanted = ["CAP_SYS_RESOURCE", "CAP_SYS_MODULE", "CAP_SYS_BOOT", "CAP_MAC_ADMIN"];
    let Some(missing) = wanted.into_iter().find(|name| !own.contains(name)) else {
        return skip("the suite has every capability that it could ask for in vain");
    };
    for set in ["bounding", "effective", "permitted"] {
        scene.set(&format!("/process/capabilities/{set}"), json!(["CAP_KILL", missing]));
    }
    capabilities_are("effective", &scene.facts()?["capabilities"]["effective"], &["CAP_KILL"])
}

fn nothing_is_inheritable_unasked(scene: &mut Scene) -> Result<()> {
    let seen = scene.facts()?["capabilities"].clone();
    capabilities_are("inheritable", &seen["inheritable"], &[])?;
    capabilities_are("ambient", &seen["ambient"], &[])
}

fn exec_with_a_capability_makes_nothing_inheritable(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let facts = scene.exec_facts(&["--cap", "CAP_NET_RAW"])?;
    capabilities_are("inheritable", &facts["capabilities"]["inheritable"], &[])
}

fn exec_has_the_capabilities_of_the_container(scene: &mut Scene) -> Result<()> {
    let own = scene.live()?;
    let facts = scene.exec_facts(&[])?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", own.pid))?;
    for (set, key) in [("effective", "CapEff"), ("permitted", "CapPrm"), ("bounding", "CapBnd")] {
        let seen = facts["capabilities"][set].as_str().unwrap_or_default();
        holds(key, &status, &format!("{key}:\t{seen}"))?;
    }
    eq("ambient", &facts["capabilities"]["ambient"], "0000000000000000")
}

fn exec_adds_a_capability(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let facts = scene.exec_facts(&["--cap", "CAP_NET_RAW"])?;
    for set in ["bounding", "effective", "permitted"] {
        ensure!(
            capabilities(&facts["capabilities"][set])?.contains("CAP_NET_RAW"),
            "{set}: expected CAP_NET_RAW, saw {}",
            facts["capabilities"][set]
        );
    }
    Ok(())
}

fn exec_takes_the_capabilities_of_its_process_file(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let mut process = scene.process(&["facts"]);
    process["capabilities"] = json!({ "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"] });
    let facts = scene.exec_process(&process)?.ok()?.answers().pop().unwrap_or_default();
    for set in ["bounding", "effective", "permitted"] {
        capabilities_are(set, &facts["capabilities"][set], &["CAP_KILL"])?;
    }
    Ok(())
}
