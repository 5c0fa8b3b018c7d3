//! A root that is not written to, and volumes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::bundle::{Bundle, push};
use crate::debian;

#[test]
fn a_read_only_root_has_volumes_that_are_written_to_and_some_that_are_not() {
    let Some(root) = debian::root() else { return };
    let script = "
        touch /etc/x 2>&1; touch /srv/ro/x 2>&1; touch /srv/file 2>&1
        echo rw >/srv/rw/made && echo tmp >/tmp/made && echo deep >/srv/rw/sub/made && cat /srv/file
        echo sub >/srv/ro/sub/made && echo bad; stat -f -c %T /tmp; stat -c %a /tmp; ls /var/lib/new
        cp /bin/true /tmp/ && /tmp/true || echo noexec=$?; exit 0";
    let bundle = Bundle::new("volumes", root, &["bash", "-c", script], |_| ());
    for dir in ["rw/sub", "ro/sub"] {
        fs::create_dir_all(bundle.dir.join(dir)).unwrap();
    }
    fs::write(bundle.dir.join("file"), "one file\n").unwrap();
    fs::set_permissions(bundle.dir.join("file"), PermissionsExt::from_mode(0o644)).unwrap();
    bundle.change(|c| {
        // Mount points below a tmpfs, so that the shared root is not changed.
        for dir in ["/srv", "/tmp", "/var/lib"] {
            let options = json!(["nosuid", "noexec", "mode=1750", "size=8m"]);
            push(c, "mounts", json!({ "destination": dir, "type": "tmpfs", "source": "tmpfs", "options": options }));
        }
        for (to, from, options) in [
            ("/srv/rw", "rw", json!(["rbind", "rw"])),
            ("/srv/ro", "ro", json!(["rbind", "rro"])),
            ("/srv/file", "file", json!(["bind", "ro"])),
            ("/var/lib/new/deep", "ro", json!(["bind", "ro", "nosuid", "nodev"])),
        ] {
            push(c, "mounts", json!({ "destination": to, "source": bundle.dir.join(from), "options": options }));
        }
    });
    let out = bundle.run().ok();
    let refused = |path: &str| format!("touch: cannot touch '{path}': Read-only file system\n");
    let want = refused("/etc/x") + &refused("/srv/ro/x") + &refused("/srv/file");
    assert_eq!(out, want + "one file\ntmpfs\n1750\ndeep\nnoexec=126\n");
    assert_eq!(fs::read_to_string(bundle.dir.join("rw/made")).unwrap(), "rw\n");
    assert_eq!(fs::read_to_string(bundle.dir.join("rw/sub/made")).unwrap(), "deep\n");
}

#[test]
fn no_mount_of_a_container_is_seen_on_the_host() {
    let Some(root) = debian::root() else { return };
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bundle = Bundle::new("mounts", root, &["sleep", "1000"], |_| ());
    bundle.detach();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    bundle.orlop(&["delete", "--force", &bundle.id]).ok();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

/// What a bundle made by `runc spec`, changed in nothing, has to have: a folder named rootfs with a sh.
#[test]
fn the_config_of_runc_spec_runs_unchanged() {
    if debian::root().is_none() {
        return;
    }
    if !fs::exists("/bin/busybox").unwrap() {
        return println!("SKIP: no busybox");
    }
    let bundle = Bundle::empty("unchanged");
    let bin = bundle.dir.join("rootfs/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    fs::hard_link(bin.join("busybox"), bin.join("sh")).unwrap();
    let spec = std::process::Command::new("runc").args(["spec", "--bundle", &bundle.path("")]).status();
    if !spec.is_ok_and(|s| s.success()) {
        return println!("SKIP: no runc");
    }
    let mut terminal = crate::pty::Terminal::run(bundle.command().args(["run", "-b", &bundle.path(""), &bundle.id]));
    terminal.expect("# ");
    terminal.type_in("busybox hostname; busybox touch /x; exit 4\n");
    terminal.expect("runc");
    terminal.expect("Read-only file system");
    assert_eq!(terminal.wait(), 4);
}

#[test]
fn the_hosts_own_root_serves_as_a_read_only_root() {
    if debian::root().is_none() {
        return;
    }
    let script = "echo pid $$; cat /proc/1/comm; touch /etc/made-by-a-test 2>/dev/null || echo read-only";
    let bundle = Bundle::new("hostroot", "/".as_ref(), &["/bin/sh", "-c", script], |_| ());
    assert_eq!(bundle.run().ok(), "pid 1\nsh\nread-only\n");
}

/// runc refuses it.
#[test]
fn the_rootfs_may_be_a_symbolic_link() {
    let Some(root) = debian::root() else { return };
    let bundle = Bundle::new("symlink", "rootfs".as_ref(), &["cat", "/etc/debian_version"], |_| ());
    std::os::unix::fs::symlink(root, bundle.dir.join("rootfs")).unwrap();
    assert!(bundle.run().ok().starts_with("12."));
}

/// What Kubernetes calls bidirectional: a storage driver in a container mounts for the host.
#[test]
fn what_is_mounted_in_a_shared_volume_is_seen_on_both_sides() {
    let Some(root) = debian::root() else { return };
    let bundle = Bundle::new("propagation", root, &["sleep", "1000"], |_| ());
    let volume = bundle.dir.join("volume");
    fs::create_dir_all(&volume).unwrap();
    bundle.change(|c| {
        c["linux"]["rootfsPropagation"] = json!("rshared");
        push(c, "mounts", json!({ "destination": "/srv", "type": "tmpfs", "source": "tmpfs" }));
        for kind in ["shared", "slave", "private"] {
            let options = json!(["rbind", format!("r{kind}")]);
            let at = format!("/srv/{kind}");
            push(c, "mounts", json!({ "destination": at, "source": volume, "options": options }));
        }
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
    });
    // A host like one with systemd, in a mount namespace that goes with this script.
    let script = r#"
        set -e
        mount --make-rshared /; mount -t tmpfs volume "$VOLUME"; mkdir "$VOLUME"/{a,b,c,d}
        before=$(grep -c . /proc/self/mountinfo)
        orlop() { timeout -s KILL 20 "$@"; }
        orlop "$@" run --detach --bundle "$BUNDLE" "$ID" >/dev/null 2>&1
        mount -t tmpfs host "$VOLUME/a"
        inside() { orlop "$@" exec "$ID" bash -c "$RUN"; }
        RUN='grep -o "/srv/.* - tmpfs host" /proc/self/mountinfo | cut -d" " -f1 | sort' inside "$@"
        mounts='import ctypes; f=ctypes.CDLL(None).mount'
        RUN="python3 -c \"$mounts; [print(f(b'inner', p, b'tmpfs', 0, 0)) for p in (b'/srv/shared/b', b'/srv/slave/c', b'/srv/private/d')]\"" inside "$@"
        grep -o "/[abcd] .* - tmpfs inner" /proc/self/mountinfo | cut -d" " -f1
        orlop "$@" delete --force "$ID"
        umount "$VOLUME/a" "$VOLUME/b"
        test "$before" = "$(grep -c . /proc/self/mountinfo)" && echo nothing else"#;
    let mut command = std::process::Command::new("timeout");
    command.args(["-s", "KILL", "20", "unshare", "--mount", "bash", "-c", script, "_"]);
    command.arg(crate::bundle::program()).arg("--root").arg(bundle.dir.join("state"));
    command.stdin(std::process::Stdio::null());
    command.env("VOLUME", &volume).env("BUNDLE", &bundle.dir).env("ID", &bundle.id);
    let out = bundle.finish(&mut command).ok();
    assert_eq!(out, "/srv/shared/a\n/srv/slave/a\n0\n0\n0\n/b\nnothing else\n");
}
