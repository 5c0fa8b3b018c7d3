//! Who the process is: ids, groups and umask; and how `exec --user` reads its argument.

use std::fs;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::check::eq;
use crate::scene::Scene;

cases! {
    "config.md, POSIX-platform User" => [
        uid_and_gid_are_set_in_every_form,
        additional_groups_are_exactly_the_configured_ones,
        no_group_of_the_runtime_is_kept,
        the_umask_is_set,
        an_absent_umask_is_022,
        ids_need_no_entry_in_passwd,
        an_id_that_is_not_a_number_is_refused,
        a_negative_id_is_refused,
        an_id_beyond_32_bits_is_refused,
    ],
    "config-linux.md, User namespace mappings" => [
        an_unmapped_user_is_refused,
        an_unmapped_group_is_refused,
        a_mapped_user_is_set,
    ],
    "runc exec --user (docker exec -u)" => [
        exec_takes_a_number,
        exec_takes_a_number_and_a_group,
        exec_takes_additional_groups,
    ],
    "CVE-2016-3697: a number is never looked up as a name" => [
        a_numeric_user_is_not_a_name_in_passwd,
    ],
    "CVE-2026-30892: how exec --user reads numbers" => [
        an_odd_form_of_a_number_never_becomes_another_number,
    ],
    "runc exec --process: user" => [
        exec_takes_the_user_of_its_process_file,
        exec_takes_the_umask_of_its_process_file,
        exec_without_a_user_is_the_containers_user,
    ],
}

fn uid_and_gid_are_set_in_every_form(scene: &mut Scene) -> Result<()> {
    scene.set("/process/user", json!({ "uid": 1234, "gid": 1235 }));
    let facts = scene.facts()?;
    eq("real, effective, saved and file-system uid", &facts["uid"], [1234; 4])?;
    eq("real, effective, saved and file-system gid", &facts["gid"], [1235; 4])
}

fn additional_groups_are_exactly_the_configured_ones(scene: &mut Scene) -> Result<()> {
    scene.set("/process/user", json!({ "uid": 1234, "gid": 1235, "additionalGids": [7, 2345, 70_000] }));
    eq("groups", &scene.facts()?["groups"], [7, 2345, 70_000])
}

fn no_group_of_the_runtime_is_kept(scene: &mut Scene) -> Result<()> {
    // The runtime is started with supplementary groups of its own.
    scene.probes(&["facts"]).save()?;
    scene.uses(&scene.id);
    let setpriv = std::path::Path::new("/usr/bin/setpriv");
    if !setpriv.is_file() {
        return crate::check::skip("no setpriv on this machine");
    }
    let done = crate::command::Cmd::new(setpriv, &scene.dir)
        .args(["--groups", "3,4,5"])
        .args([scene.runtime.path.as_os_str()])
        .args(["--root", &crate::scene::text(&scene.path("root"))])
        .args(["run", "--bundle", &crate::scene::text(&scene.bundle), &scene.id])
        .run()?
        .ok()?;
    let groups = done.answers().pop().map(|facts| facts["groups"].clone()).unwrap_or_default();
    ensure!(
        groups.as_array().is_some_and(|groups| groups.iter().all(|group| *group == 0)),
        "groups: expected none but the primary, saw {groups}"
    );
    Ok(())
}

fn the_umask_is_set(scene: &mut Scene) -> Result<()> {
    scene.set("/process/user/umask", 0o027);
    let answers = scene.asks(&["facts", "then", "create", "/tmp/new", "then", "stat", "/tmp/new"])?;
    eq("umask", &answers[0]["umask"], "0027")?;
    eq("mode of a new file", &answers[2]["mode"], "0640")
}

fn an_absent_umask_is_022(scene: &mut Scene) -> Result<()> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let facts = scene.facts();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    eq("umask", &facts?["umask"], "0022")
}

fn ids_need_no_entry_in_passwd(scene: &mut Scene) -> Result<()> {
    fs::remove_file(scene.rootfs("etc/passwd"))?;
    fs::remove_file(scene.rootfs("etc/group"))?;
    scene.set("/process/user", json!({ "uid": 4_000_000_000_u32, "gid": 4_000_000_001_u32 }));
    let facts = scene.facts()?;
    eq("uid", &facts["uid"][0], 4_000_000_000_u32)?;
    eq("gid", &facts["gid"][0], 4_000_000_001_u32)
}

fn an_id_that_is_not_a_number_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/user/uid", "alice");
    scene.try_create()?.refused().map(drop)
}

fn a_negative_id_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/user/uid", -1);
    scene.try_create()?.refused().map(drop)
}

fn an_id_beyond_32_bits_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/process/user/uid", 1_u64 << 32);
    scene.try_create()?.refused().map(drop)
}

fn an_unmapped_user_is_refused(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?.set("/process/user/uid", 200_000);
    scene.run()?.refused().map(drop)
}

fn an_unmapped_group_is_refused(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?.set("/process/user/gid", 200_000);
    scene.run()?.refused().map(drop)
}

fn a_mapped_user_is_set(scene: &mut Scene) -> Result<()> {
    scene.maps_users()?.set("/process/user", json!({ "uid": 1000, "gid": 1001, "additionalGids": [1002] }));
    let facts = scene.facts()?;
    eq("uid", &facts["uid"], [1000; 4])?;
    eq("gid", &facts["gid"], [1001; 4])?;
    eq("groups", &facts["groups"], [1002])
}

fn exec_takes_a_number(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let facts = scene.exec_facts(&["--user", "1"])?;
    eq("uid", &facts["uid"], [1; 4])
}

fn exec_takes_a_number_and_a_group(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let facts = scene.exec_facts(&["--user", "1234:77"])?;
    eq("uid", &facts["uid"], [1234; 4])?;
    eq("gid", &facts["gid"], [77; 4])
}

fn exec_takes_additional_groups(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let facts = scene.exec_facts(&["--additional-gids", "100", "--additional-gids", "65534"])?;
    eq("groups", &facts["groups"], [100, 65_534])
}

fn a_numeric_user_is_not_a_name_in_passwd(scene: &mut Scene) -> Result<()> {
    fs::write(scene.rootfs("etc/passwd"), "1000:x:0:0:trap:/:/probe\n")?;
    scene.live()?;
    let facts = scene.exec_facts(&["--user", "1000"])?;
    eq("uid", &facts["uid"], [1000; 4])
}

fn an_odd_form_of_a_number_never_becomes_another_number(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let odd = ["1", "1:", "-1", "4294967295", "4294967296", "18446744073709551616", "0x1", " 1", "1 ", "1:1:1", "+1", "1.0"];
    for form in odd {
        let done = scene.exec_with(&["--user", form], &["facts"])?;
        if let Some(facts) = done.answers().pop() {
            ensure!(facts["uid"][0] != 0 && facts["uid"][1] != 0, "exec --user {form:?} ran as root: {}", facts["uid"]);
        } else if done.status == 0 {
            bail!("exec --user {form:?} succeeded without running anything");
        }
    }
    Ok(())
}

fn run_process(scene: &Scene, process: &Value) -> Result<Value> {
    Ok(scene.exec_process(process)?.ok()?.answers().pop().unwrap_or_default())
}

fn exec_takes_the_user_of_its_process_file(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let mut process = scene.process(&["facts"]);
    process["user"] = json!({ "uid": 1234, "gid": 1235, "additionalGids": [9] });
    let facts = run_process(scene, &process)?;
    eq("uid", &facts["uid"], [1234; 4])?;
    eq("gid", &facts["gid"], [1235; 4])?;
    eq("groups", &facts["groups"], [9])
}

fn exec_takes_the_umask_of_its_process_file(scene: &mut Scene) -> Result<()> {
    scene.live()?;
    let mut process = scene.process(&["facts"]);
    process["user"]["umask"] = json!(0o077);
    eq("umask", &run_process(scene, &process)?["umask"], "0077")
}

fn exec_without_a_user_is_the_containers_user(scene: &mut Scene) -> Result<()> {
    scene.set("/process/user", json!({ "uid": 1234, "gid": 1235 }));
    scene.live()?;
    let facts = scene.exec_facts(&[])?;
    eq("uid", &facts["uid"], [1234; 4])?;
    eq("gid", &facts["gid"], [1235; 4])
}
