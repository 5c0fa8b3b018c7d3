//! Mounts: order, types, sources, every option of the specification's table, propagation.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use anyhow::{Context, Result, ensure};
use rustix::mount::MountPropagationFlags;
use serde_json::{Value, json};

use crate::check::{allowed, eq, lacks, lists, refused};
use crate::scene::{Scene, text};

cases! {
    "config.md, Mounts" => [
        mounts_are_made_in_the_listed_order,
        a_tmpfs_takes_its_size_and_mode,
        a_tmpfs_without_a_mode_has_that_of_the_directory_below_or_1777,
        a_missing_destination_is_made,
        a_bound_file_gets_a_file_as_destination,
        a_bound_directory_gets_a_directory_as_destination,
        a_bind_without_a_type_is_a_bind,
        a_relative_source_counts_from_the_bundle,
        a_missing_source_of_a_bind_is_refused,
        an_unknown_file_system_is_refused,
        a_destination_through_a_symlink_stays_inside,
        a_destination_follows_a_symlink_of_the_root,
        a_destination_with_dots_stays_inside,
        a_bind_shows_what_the_host_writes_later,
        a_bind_leaves_out_what_is_mounted_below,
        a_recursive_bind_takes_what_is_mounted_below,
        file_system_data_reaches_the_file_system,
        an_option_that_nobody_knows_is_refused_by_the_file_system,
        a_later_mount_hides_an_earlier_one,
        an_overlay_with_options_of_a_kilobyte_is_mounted,
    ],
    "config.md, Mounts: Linux mount options" => [
        ro_refuses_writes,
        rw_undoes_ro,
        ro_of_a_bind_does_not_reach_the_source,
        nosuid_is_set,
        nodev_makes_devices_unusable,
        noexec_refuses_execution,
        suid_dev_and_exec_undo_their_opposites,
        noatime_is_set,
        nodiratime_is_set,
        strictatime_is_set,
        relatime_is_the_default,
        sync_and_dirsync_are_set,
        lazytime_is_set,
        nosymfollow_refuses_symlinks,
        options_that_show_nowhere_are_accepted,
        several_flags_of_a_bind_are_all_set,
        flags_of_a_bind_that_are_not_named_are_kept,
        defaults_changes_nothing,
        remount_changes_the_flags_of_an_earlier_mount,
        remount_changes_the_options_of_an_earlier_file_system,
    ],
    "config.md, Mounts: recursive options" => [
        rro_reaches_what_is_mounted_below,
        ro_does_not_reach_what_is_mounted_below,
        rnosuid_rnodev_and_rnoexec_reach_what_is_mounted_below,
        rnoatime_reaches_what_is_mounted_below,
        rrw_undoes_rro,
    ],
    "config.md, Mounts: tmpcopyup" => [tmpcopyup_fills_the_tmpfs, tmpcopyup_leaves_the_root_of_the_tmpfs_as_its_options_say],
    "config.md, Mounts: propagation" => [
        a_private_mount_shares_nothing,
        a_shared_mount_is_shared,
        a_slave_mount_is_a_slave,
        an_unbindable_mount_is_unbindable,
        rprivate_reaches_what_is_mounted_below,
    ],
    "config-linux.md, Rootfs Mount Propagation" => [
        the_root_is_private_to_the_host_by_default,
        a_shared_root_is_shared,
        a_private_or_slave_root_has_no_peers,
        an_unbindable_root_is_unbindable,
        an_unknown_root_propagation_is_refused,
    ],
    "runc: no mount of a container shows on the host" => [
        mounts_of_a_running_container_are_invisible_outside,
    ],
    "docker: sockets, files and directories of the host by bind" => [
        a_bound_socket_can_be_connected,
        resolv_conf_can_be_bound_over_a_symlink_inside,
    ],
    "config.md, Mounts: uidMappings" => [
        an_idmapped_bind_shows_mapped_owners,
        without_maps_of_its_own_a_bind_shows_the_containers_owners,
    ],
}

/// The mount at a destination, as the container's own table has it; the last one counts.
fn mount_at(facts: &Value, at: &str) -> Result<Value> {
    let mounts = facts["mounts"].as_array().context("no mount table")?;
    mounts.iter().rev().find(|mount| mount["at"] == at).cloned().with_context(|| format!("nothing is mounted at {at}"))
}

/// A directory of the case on the host, as a source.
fn source(scene: &Scene) -> Result<String> {
    let dir = scene.path("source");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("file"), "content")?;
    Ok(text(&dir))
}

/// A source that has a mount of its own below it, at `sub`.
fn nested_source(scene: &Scene) -> Result<String> {
    let dir = scene.mount_tmpfs("source")?;
    scene.mount_tmpfs("source/sub")?;
    fs::write(dir.join("sub/file"), "content")?;
    Ok(text(&dir))
}

fn tmpfs(scene: &mut Scene, options: &[&str]) -> Result<Value> {
    scene.mounts("/mnt", "tmpfs", "tmpfs", options);
    mount_at(&scene.facts()?, "/mnt")
}

fn mounts_are_made_in_the_listed_order(scene: &mut Scene) -> Result<()> {
    scene.mounts("/a", "tmpfs", "tmpfs", &[]).mounts("/a/b", "tmpfs", "tmpfs", &[]).mounts("/a/b/c", "tmpfs", "tmpfs", &[]);
    let facts = scene.facts()?;
    let (a, b, c) = (mount_at(&facts, "/a")?, mount_at(&facts, "/a/b")?, mount_at(&facts, "/a/b/c")?);
    eq("parent of /a/b", &b["parent"], &a["id"])?;
    eq("parent of /a/b/c", &c["parent"], &b["id"])
}

fn a_tmpfs_takes_its_size_and_mode(scene: &mut Scene) -> Result<()> {
    scene.mounts("/mnt", "tmpfs", "tmpfs", &["size=128k", "mode=1770", "nosuid"]);
    let answers = scene.asks(&["facts", "then", "stat", "/mnt"])?;
    let mount = mount_at(&answers[0], "/mnt")?;
    lists("super block options", &mount["super"], "size=128k")?;
    lists("options", &mount["options"], "nosuid")?;
    eq("mode", &answers[1]["mode"], "1770")
}

fn a_tmpfs_without_a_mode_has_that_of_the_directory_below_or_1777(scene: &mut Scene) -> Result<()> {
    fs::create_dir(scene.rootfs("private"))?;
    fs::set_permissions(scene.rootfs("private"), fs::Permissions::from_mode(0o700))?;
    scene.mounts("/private", "tmpfs", "tmpfs", &[]).mounts("/new", "tmpfs", "tmpfs", &[]);
    let answers = scene.asks(&["stat", "/private", "then", "stat", "/new"])?;
    eq("mode of one that covers a directory", &answers[0]["mode"], "0700")?;
    eq("mode of one that covers nothing", &answers[1]["mode"], "1777")
}

fn a_missing_destination_is_made(scene: &mut Scene) -> Result<()> {
    scene.mounts("/made/on/the/way", "tmpfs", "tmpfs", &[]);
    mount_at(&scene.facts()?, "/made/on/the/way").map(drop)
}

fn a_bound_file_gets_a_file_as_destination(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    scene.mounts("/made/file", "bind", &format!("{source}/file"), &["bind"]);
    let answers = scene.asks(&["stat", "/made/file", "then", "read", "/made/file"])?;
    eq("kind", &answers[0]["kind"], "file")?;
    eq("content", &answers[1]["text"], "content")
}

fn a_bound_directory_gets_a_directory_as_destination(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    scene.mounts("/made/dir", "bind", &source, &["rbind"]);
    eq("names", &scene.ask(&["list", "/made/dir"])?["names"], ["file"])
}

fn a_bind_without_a_type_is_a_bind(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    scene.push("/mounts", json!({ "destination": "/mnt", "source": source, "options": ["rbind"] }));
    eq("names", &scene.ask(&["list", "/mnt"])?["names"], ["file"])
}

fn a_relative_source_counts_from_the_bundle(scene: &mut Scene) -> Result<()> {
    fs::create_dir(scene.bundle.join("volume"))?;
    fs::write(scene.bundle.join("volume/file"), "")?;
    scene.mounts("/mnt", "bind", "volume", &["bind"]);
    eq("names", &scene.ask(&["list", "/mnt"])?["names"], ["file"])
}

fn a_missing_source_of_a_bind_is_refused(scene: &mut Scene) -> Result<()> {
    let missing = text(&scene.path("missing"));
    scene.mounts("/mnt", "bind", &missing, &["bind"]);
    scene.try_create()?.refused()?.complains(&["no such file or directory", "No such file or directory"]).map(drop)
}

fn an_unknown_file_system_is_refused(scene: &mut Scene) -> Result<()> {
    scene.mounts("/mnt", "nosuchfs", "nosuchfs", &[]);
    scene.try_create()?.refused().map(drop)
}

fn a_destination_through_a_symlink_stays_inside(scene: &mut Scene) -> Result<()> {
    let outside = scene.path("outside");
    fs::create_dir(&outside)?;
    symlink(&outside, scene.rootfs("link"))?;
    scene.mounts("/link/mnt", "tmpfs", "tmpfs", &[]);
    // The link dangles inside; to make what it names is as good as to refuse it.
    let done = scene.probes(&["facts"]).run()?;
    if let Some(facts) = done.answers().pop() {
        mount_at(&facts, &format!("{}/mnt", text(&outside)))?;
    } else {
        done.refused()?;
    }
    eq("entries outside", fs::read_dir(outside)?.count(), 0)
}

fn a_destination_follows_a_symlink_of_the_root(scene: &mut Scene) -> Result<()> {
    symlink("/run", scene.rootfs("var/run"))?;
    scene.mounts("/var/run/service", "tmpfs", "tmpfs", &[]);
    mount_at(&scene.facts()?, "/run/service").map(drop)
}

fn a_destination_with_dots_stays_inside(scene: &mut Scene) -> Result<()> {
    scene.mounts("/tmp/../../../mnt", "tmpfs", "tmpfs", &[]);
    mount_at(&scene.facts()?, "/mnt")?;
    ensure!(!scene.path("mnt").exists(), "a directory was made outside the root");
    Ok(())
}

fn a_bind_shows_what_the_host_writes_later(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    scene.mounts("/mnt", "bind", &source, &["bind"]);
    scene.live()?;
    fs::write(format!("{source}/later"), "")?;
    let answer = scene.exec_with(&[], &["stat", "/mnt/later"])?.ok()?.answers().pop().unwrap_or_default();
    allowed("stat", &answer)
}

fn a_bind_leaves_out_what_is_mounted_below(scene: &mut Scene) -> Result<()> {
    let source = nested_source(scene)?;
    scene.mounts("/mnt", "bind", &source, &["bind"]);
    eq("names", &scene.ask(&["list", "/mnt/sub"])?["names"], json!([]))
}

fn a_recursive_bind_takes_what_is_mounted_below(scene: &mut Scene) -> Result<()> {
    let source = nested_source(scene)?;
    scene.mounts("/mnt", "bind", &source, &["rbind"]);
    eq("names", &scene.ask(&["list", "/mnt/sub"])?["names"], ["file"])
}

fn file_system_data_reaches_the_file_system(scene: &mut Scene) -> Result<()> {
    let mount = tmpfs(scene, &["nr_inodes=123", "uid=7"])?;
    lists("super block options", &mount["super"], "nr_inodes=123")?;
    lists("super block options", &mount["super"], "uid=7")
}

fn an_option_that_nobody_knows_is_refused_by_the_file_system(scene: &mut Scene) -> Result<()> {
    scene.mounts("/mnt", "tmpfs", "tmpfs", &["nosuchoption=1"]);
    scene.try_create()?.refused().map(drop)
}

fn a_later_mount_hides_an_earlier_one(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    scene.mounts("/mnt", "bind", &source, &["bind"]).mounts("/mnt", "tmpfs", "tmpfs", &[]);
    eq("names", &scene.ask(&["list", "/mnt"])?["names"], json!([]))
}

fn ro_refuses_writes(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    scene.mounts("/a", "tmpfs", "tmpfs", &["ro"]).mounts("/b", "bind", &source, &["bind", "ro"]);
    for answer in scene.asks(&["create", "/a/new", "then", "create", "/b/new", "then", "write", "/b/file", "x"])? {
        refused("a write to a read-only mount", &answer, &["EROFS"])?;
    }
    Ok(())
}

fn rw_undoes_ro(scene: &mut Scene) -> Result<()> {
    scene.mounts("/mnt", "tmpfs", "tmpfs", &["ro", "rw"]);
    allowed("create", &scene.ask(&["create", "/mnt/new"])?)
}

fn ro_of_a_bind_does_not_reach_the_source(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    scene.mounts("/mnt", "bind", &source, &["bind", "ro"]);
    scene.live()?;
    fs::write(format!("{source}/file"), "changed").context("write to the source while it is mounted read-only inside")
}

fn nosuid_is_set(scene: &mut Scene) -> Result<()> {
    lists("options", &tmpfs(scene, &["nosuid"])?["options"], "nosuid")
}

fn nodev_makes_devices_unusable(scene: &mut Scene) -> Result<()> {
    scene.mounts("/mnt", "tmpfs", "tmpfs", &["nodev"]);
    let answers = scene.asks(&["mknod", "/mnt/null", "then", "open", "/mnt/null", "then", "open", "/dev/null"])?;
    allowed("make a device", &answers[0])?;
    refused("open a device on a nodev mount", &answers[1], &["EACCES"])?;
    allowed("open /dev/null", &answers[2])
}

fn noexec_refuses_execution(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    fs::copy(&scene.probe, format!("{source}/probe"))?;
    scene.mounts("/a", "bind", &source, &["bind", "noexec"]).mounts("/b", "bind", &source, &["bind"]);
    let answers = scene.asks(&["exec", "/a/probe", "exit", "3", "then", "exec", "/b/probe", "exit", "3"])?;
    refused("execute on a noexec mount", &answers[0], &["EACCES"])?;
    eq("status on another", &answers[1]["status"], 3)
}

fn suid_dev_and_exec_undo_their_opposites(scene: &mut Scene) -> Result<()> {
    let options = tmpfs(scene, &["nosuid", "nodev", "noexec", "suid", "dev", "exec"])?["options"].clone();
    for option in ["nosuid", "nodev", "noexec"] {
        lacks("options", &options, option)?;
    }
    Ok(())
}

fn noatime_is_set(scene: &mut Scene) -> Result<()> {
    lists("options", &tmpfs(scene, &["noatime"])?["options"], "noatime")
}

fn nodiratime_is_set(scene: &mut Scene) -> Result<()> {
    lists("options", &tmpfs(scene, &["nodiratime"])?["options"], "nodiratime")
}

fn strictatime_is_set(scene: &mut Scene) -> Result<()> {
    let options = tmpfs(scene, &["strictatime"])?["options"].clone();
    lacks("options", &options, "relatime")?;
    lacks("options", &options, "noatime")
}

fn relatime_is_the_default(scene: &mut Scene) -> Result<()> {
    lists("options", &tmpfs(scene, &[])?["options"], "relatime")
}

fn sync_and_dirsync_are_set(scene: &mut Scene) -> Result<()> {
    let mount = tmpfs(scene, &["sync", "dirsync"])?;
    lists("super block options", &mount["super"], "sync")?;
    lists("super block options", &mount["super"], "dirsync")
}

fn lazytime_is_set(scene: &mut Scene) -> Result<()> {
    lists("super block options", &tmpfs(scene, &["lazytime"])?["super"], "lazytime")
}

fn nosymfollow_refuses_symlinks(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    symlink("file", format!("{source}/link"))?;
    scene.mounts("/mnt", "bind", &source, &["bind", "nosymfollow"]);
    let answers = scene.asks(&["read", "/mnt/link", "then", "read", "/mnt/file"])?;
    refused("follow a symlink", &answers[0], &["ELOOP"])?;
    allowed("read a file", &answers[1])
}

fn options_that_show_nowhere_are_accepted(scene: &mut Scene) -> Result<()> {
    let quiet = [
        "async", "atime", "diratime", "iversion", "loud", "noiversion", "nolazytime", "norelatime", "nostrictatime",
        "silent", "symfollow",
    ];
    for option in quiet {
        let before = scene.config.clone();
        scene.mounts("/mnt", "tmpfs", "tmpfs", &[option]);
        scene.facts().with_context(|| format!("option {option:?}"))?;
        scene.config = before;
    }
    Ok(())
}

fn several_flags_of_a_bind_are_all_set(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    scene.mounts("/mnt", "bind", &source, &["bind", "ro", "nosuid", "nodev", "noexec", "noatime"]);
    let mount = mount_at(&scene.facts()?, "/mnt")?;
    for option in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
        lists("options", &mount["options"], option)?;
    }
    Ok(())
}

fn flags_of_a_bind_that_are_not_named_are_kept(scene: &mut Scene) -> Result<()> {
    let source = scene.mount_tmpfs("source")?;
    let hardened = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::BIND;
    rustix::mount::mount_remount(&source, hardened, "")?;
    scene.mounts("/mnt", "bind", &text(&source), &["bind"]);
    let options = mount_at(&scene.facts()?, "/mnt")?["options"].clone();
    lists("options", &options, "nosuid")?;
    lists("options", &options, "nodev")
}

fn defaults_changes_nothing(scene: &mut Scene) -> Result<()> {
    let options = tmpfs(scene, &["defaults"])?["options"].clone();
    eq("options", options, ["rw", "relatime"])
}

fn remount_changes_the_flags_of_an_earlier_mount(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    scene.mounts("/mnt", "bind", &source, &["bind"]).mounts("/mnt", "bind", &source, &["bind", "remount", "ro"]);
    refused("create", &scene.ask(&["create", "/mnt/new"])?, &["EROFS"])
}

fn remount_changes_the_options_of_an_earlier_file_system(scene: &mut Scene) -> Result<()> {
    scene.mounts("/mnt", "tmpfs", "tmpfs", &["size=64k"]).mounts("/mnt", "tmpfs", "tmpfs", &["remount", "size=128k", "nodev"]);
    let mount = mount_at(&scene.facts()?, "/mnt")?;
    lists("super block options", &mount["super"], "size=128k")?;
    lists("options", &mount["options"], "nodev")
}

/// More than fsconfig(2) takes as one value: engines list an image's layers so.
fn an_overlay_with_options_of_a_kilobyte_is_mounted(scene: &mut Scene) -> Result<()> {
    let mut lower = Vec::new();
    for n in 0..8 {
        let dir = scene.path(&format!("layer-{n}-{}", "x".repeat(100)));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("from-{n}")), "content")?;
        lower.push(text(&dir));
    }
    scene.mounts("/mnt", "overlay", "overlay", &[&format!("lowerdir={}", lower.join(":")), "ro", "nosuid"]);
    let answers = scene.asks(&["facts", "then", "stat", "/mnt/from-7"])?;
    let mount = mount_at(&answers[0], "/mnt")?;
    eq("type", &mount["type"], "overlay")?;
    lists("options", &mount["options"], "ro")?;
    lists("options", &mount["options"], "nosuid")?;
    eq("size", &answers[1]["size"], 7)
}

fn nested(scene: &mut Scene, options: &[&str]) -> Result<(Value, Value)> {
    let source = nested_source(scene)?;
    scene.mounts("/mnt", "bind", &source, options);
    let facts = scene.facts()?;
    Ok((mount_at(&facts, "/mnt")?, mount_at(&facts, "/mnt/sub")?))
}

fn rro_reaches_what_is_mounted_below(scene: &mut Scene) -> Result<()> {
    let (top, below) = nested(scene, &["rbind", "rro"])?;
    lists("options", &top["options"], "ro")?;
    lists("options below", &below["options"], "ro")
}

fn ro_does_not_reach_what_is_mounted_below(scene: &mut Scene) -> Result<()> {
    let (top, below) = nested(scene, &["rbind", "ro"])?;
    lists("options", &top["options"], "ro")?;
    lists("options below", &below["options"], "rw")
}

fn rnosuid_rnodev_and_rnoexec_reach_what_is_mounted_below(scene: &mut Scene) -> Result<()> {
    let (_, below) = nested(scene, &["rbind", "rnosuid", "rnodev", "rnoexec"])?;
    for option in ["nosuid", "nodev", "noexec"] {
        lists("options below", &below["options"], option)?;
    }
    Ok(())
}

fn rnoatime_reaches_what_is_mounted_below(scene: &mut Scene) -> Result<()> {
    let (_, below) = nested(scene, &["rbind", "rnoatime"])?;
    lists("options below", &below["options"], "noatime")
}

fn rrw_undoes_rro(scene: &mut Scene) -> Result<()> {
    let (_, below) = nested(scene, &["rbind", "rro", "rrw"])?;
    lists("options below", &below["options"], "rw")
}

fn tmpcopyup_fills_the_tmpfs(scene: &mut Scene) -> Result<()> {
    fs::create_dir_all(scene.rootfs("opt/data/deep"))?;
    fs::write(scene.rootfs("opt/data/deep/file"), "content")?;
    fs::set_permissions(scene.rootfs("opt/data/deep/file"), fs::Permissions::from_mode(0o640))?;
    symlink("deep", scene.rootfs("opt/data/link"))?;
    scene.mounts("/opt/data", "tmpfs", "tmpfs", &["tmpcopyup"]);
    let answers = scene.asks(&[
        "read", "/opt/data/deep/file", "then", "stat", "/opt/data/deep/file", "then", "readlink", "/opt/data/link", "then",
        "facts",
    ])?;
    eq("content", &answers[0]["text"], "content")?;
    eq("mode", &answers[1]["mode"], "0640")?;
    eq("symlink", &answers[2]["target"], "deep")?;
    eq("type", &mount_at(&answers[3], "/opt/data")?["type"], "tmpfs")
}

fn tmpcopyup_leaves_the_root_of_the_tmpfs_as_its_options_say(scene: &mut Scene) -> Result<()> {
    for name in ["a", "b"] {
        fs::create_dir_all(scene.rootfs(name).join("kept"))?;
        chown(scene.rootfs(name), Some(7), Some(7))?;
        chown(scene.rootfs(name).join("kept"), Some(7), Some(7))?;
        fs::set_permissions(scene.rootfs(name), fs::Permissions::from_mode(0o700))?;
    }
    scene.mounts("/a", "tmpfs", "tmpfs", &["tmpcopyup", "mode=1770", "uid=5"]);
    scene.mounts("/b", "tmpfs", "tmpfs", &["tmpcopyup"]);
    let answers = scene.asks(&["stat", "/a", "then", "stat", "/a/kept", "then", "stat", "/b"])?;
    eq("mode that was asked for", &answers[0]["mode"], "1770")?;
    eq("owner that was asked for", &answers[0]["uid"], 5)?;
    eq("owner of what is copied", &answers[1]["uid"], 7)?;
    eq("mode of what is covered", &answers[2]["mode"], "0700")?;
    eq("owner of a tmpfs", &answers[2]["uid"], 0)
}

fn propagation(scene: &mut Scene, options: &[&str]) -> Result<String> {
    // A source that is shared on the host, or every bind of it would be private anyhow.
    let source = scene.mount_tmpfs("source")?;
    rustix::mount::mount_change(&source, MountPropagationFlags::SHARED)?;
    scene.mounts("/mnt", "bind", &text(&source), options);
    Ok(mount_at(&scene.facts()?, "/mnt")?["propagation"].to_string())
}

fn a_private_mount_shares_nothing(scene: &mut Scene) -> Result<()> {
    eq("propagation", propagation(scene, &["bind", "private"])?, "[]")
}

fn a_shared_mount_is_shared(scene: &mut Scene) -> Result<()> {
    let seen = propagation(scene, &["bind", "shared"])?;
    ensure!(seen.contains("shared:"), "expected a peer group, saw {seen}");
    Ok(())
}

fn a_slave_mount_is_a_slave(scene: &mut Scene) -> Result<()> {
    let seen = propagation(scene, &["bind", "slave"])?;
    ensure!(seen.contains("master:") && !seen.contains("shared:"), "expected a master, saw {seen}");
    Ok(())
}

fn an_unbindable_mount_is_unbindable(scene: &mut Scene) -> Result<()> {
    eq("propagation", propagation(scene, &["bind", "unbindable"])?, "[\"unbindable\"]")
}

fn rprivate_reaches_what_is_mounted_below(scene: &mut Scene) -> Result<()> {
    let source = nested_source(scene)?;
    rustix::mount::mount_change(&*source, MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
    scene.mounts("/mnt", "bind", &source, &["rbind", "rprivate"]);
    let facts = scene.facts()?;
    eq("propagation", &mount_at(&facts, "/mnt")?["propagation"], json!([]))?;
    eq("propagation below", &mount_at(&facts, "/mnt/sub")?["propagation"], json!([]))
}

/// Makes the root a mount that is shared with its peers, as an overlay of an engine on a systemd host is.
fn share_the_root(scene: &Scene) -> Result<()> {
    let root = scene.rootfs("");
    scene.bind_to_itself(&root)?;
    Ok(rustix::mount::mount_change(&root, MountPropagationFlags::SHARED)?)
}

fn the_root_is_private_to_the_host_by_default(scene: &mut Scene) -> Result<()> {
    share_the_root(scene)?;
    let facts = scene.facts()?;
    let seen = mount_at(&facts, "/")?["propagation"].to_string();
    ensure!(!seen.contains("shared:"), "propagation of /: expected no peers, saw {seen}");
    Ok(())
}

fn a_shared_root_is_shared(scene: &mut Scene) -> Result<()> {
    share_the_root(scene)?;
    scene.set("/linux/rootfsPropagation", "shared");
    let seen = mount_at(&scene.facts()?, "/")?["propagation"].to_string();
    ensure!(seen.contains("shared:"), "propagation of /: expected a peer group, saw {seen}");
    Ok(())
}

fn a_private_or_slave_root_has_no_peers(scene: &mut Scene) -> Result<()> {
    share_the_root(scene)?;
    for propagation in ["private", "rprivate", "slave", "rslave"] {
        scene.set("/linux/rootfsPropagation", propagation);
        let seen = mount_at(&scene.facts()?, "/")?["propagation"].to_string();
        ensure!(!seen.contains("shared:"), "{propagation}: expected no peers, saw {seen}");
    }
    Ok(())
}

fn an_unbindable_root_is_unbindable(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/rootfsPropagation", "unbindable");
    eq("propagation of /", &mount_at(&scene.facts()?, "/")?["propagation"], ["unbindable"])
}

fn an_unknown_root_propagation_is_refused(scene: &mut Scene) -> Result<()> {
    scene.set("/linux/rootfsPropagation", "viral");
    scene.try_create()?.refused().map(drop)
}

fn mounts_of_a_running_container_are_invisible_outside(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    share_the_root(scene)?;
    scene.mounts("/mnt", "bind", &source, &["bind"]);
    let table = || fs::read_to_string("/proc/self/mountinfo");
    let before = table()?;
    scene.live()?;
    eq("the host's mount table", table()?, before)
}

fn a_bound_socket_can_be_connected(scene: &mut Scene) -> Result<()> {
    let path = scene.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path)?;
    scene.mounts("/run/the.sock", "bind", &text(&path), &["bind"]);
    allowed("connect", &scene.ask(&["connect", "/run/the.sock"])?)
}

fn resolv_conf_can_be_bound_over_a_symlink_inside(scene: &mut Scene) -> Result<()> {
    let source = source(scene)?;
    fs::create_dir(scene.rootfs("run/resolve"))?;
    fs::write(scene.rootfs("run/resolve/stub"), "")?;
    symlink("../run/resolve/stub", scene.rootfs("etc/resolv.conf"))?;
    scene.mounts("/etc/resolv.conf", "bind", &format!("{source}/file"), &["bind", "ro"]);
    eq("content", &scene.ask(&["read", "/etc/resolv.conf"])?["text"], "content")
}

fn an_idmapped_bind_shows_mapped_owners(scene: &mut Scene) -> Result<()> {
    scene.needs("idmapped mounts", "/linux/mountExtensions/idmap/enabled", (1, 2))?;
    let source = scene.mount_tmpfs("source")?;
    fs::write(source.join("file"), "")?;
    chown(source.join("file"), Some(1000), Some(1000))?;
    eq("owner on the host", fs::metadata(source.join("file"))?.uid(), 1000)?;
    let map = json!([{ "containerID": 0, "hostID": 5000, "size": 65_536 }]);
    scene.push(
        "/mounts",
        json!({
            "destination": "/mnt", "type": "bind", "source": text(&source), "options": ["bind"],
            "uidMappings": map, "gidMappings": map,
        }),
    );
    let answer = scene.ask(&["stat", "/mnt/file"])?;
    eq("owner inside", &answer["uid"], 6000)?;
    eq("group inside", &answer["gid"], 6000)
}

fn without_maps_of_its_own_a_bind_shows_the_containers_owners(scene: &mut Scene) -> Result<()> {
    scene.needs("idmapped mounts", "/linux/mountExtensions/idmap/enabled", (1, 2))?;
    scene.maps_users()?;
    let source = scene.mount_tmpfs("source")?;
    let below = scene.mount_tmpfs("source/below")?;
    for dir in [&source, &below] {
        fs::write(dir.join("file"), "")?;
        chown(dir.join("file"), Some(1000), Some(1000))?;
    }
    scene.mounts("/flat", "bind", &text(&source), &["rbind", "idmap"]);
    scene.mounts("/deep", "bind", &text(&source), &["rbind", "ridmap"]);
    // 65534 is who stands for everybody without a number inside.
    for (file, owner) in
        [("/flat/file", 1000), ("/flat/below/file", 65534), ("/deep/file", 1000), ("/deep/below/file", 1000)]
    {
        let answer = scene.ask(&["stat", file])?;
        eq(file, &answer["uid"], owner)?;
        eq(file, &answer["gid"], owner)?;
    }
    Ok(())
}
