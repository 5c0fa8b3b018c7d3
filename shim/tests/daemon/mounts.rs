//! The mounts of a root file system: what each kind shows in the container, and that nothing stays of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use orlop_shim::client::number;
use orlop_shim::wire::Message;

use crate::{Client, Place, assert_shim_answers_at_once, skipped};

fn mount(kind: &str, source: &str, options: &[&str]) -> Message {
    let message = Message::new().text(1, kind).text(2, source);
    options.iter().fold(message, |message, option| message.text(4, option))
}

/// A place whose root file system lies in `base`, and has to be mounted.
fn place(script: &str) -> Place {
    let place = Place::new(&["sh", "-c", script]);
    fs::rename(place.dir.join("t/c1/rootfs"), place.dir.join("base")).unwrap();
    for name in ["t/c1/rootfs", "upper", "work"] {
        fs::create_dir(place.dir.join(name)).unwrap();
    }
    place
}

fn bind(place: &Place, options: &[&str]) -> Message {
    mount("bind", &place.path("base"), &[&["rbind", "rw"], options].concat())
}

/// What is mounted in the bundle.
fn mounted(place: &Place) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bundle = place.bundle();
    table.lines().filter(|line| line.contains(&bundle)).map(str::to_owned).collect()
}

/// Whether this kernel can make such a mount at all; if not, that is said.
fn can(place: &mut Place, mount: &Message) -> bool {
    let mut client = place.start();
    match client.call("Create", &place.create().message(3, mount)) {
        Ok(_) => {
            client.process("Delete", "").unwrap();
            true
        }
        Err((_, why)) => {
            println!("SKIP: {why}");
            false
        }
    }
}

/// Runs the container with these mounts, deletes it, and gives what it wrote.
fn run(place: &mut Place, mounts: &[Message]) -> String {
    let mut client = place.start();
    let output = run_with(place, &mut client, mounts);
    assert_eq!(fs::read_dir(place.dir.join("t/c1/rootfs")).unwrap().count(), 0);
    output
}

fn run_with(place: &Place, client: &mut Client, mounts: &[Message]) -> String {
    let output = place.reader("out");
    let request = mounts.iter().fold(place.create(), |request, mount| request.message(3, mount));
    client.call("Create", &request).unwrap();
    client.process("Start", "").unwrap();
    assert_eq!(number(&client.process("Wait", "").unwrap(), 1), 0);
    let output = String::from_utf8(output.join().unwrap()).unwrap();
    client.process("Delete", "").unwrap();
    assert_eq!(mounted(place), [""; 0]);
    output
}

#[test]
fn a_root_file_system_of_many_layers_is_mounted_and_unmounted() {
    if skipped() {
        return;
    }
    let mut probe = place("true");
    let (upper, work) = (format!("upperdir={}", probe.path("upper")), format!("workdir={}", probe.path("work")));
    let request = mount("overlay", "overlay", &[&format!("lowerdir={}", probe.path("base")), &upper, &work]);
    if !can(&mut probe, &request) {
        return;
    }
    for count in [60, 120, 400] {
        let mut place = place(&format!("cat /l0 /l{}; echo new > /new", count - 1));
        let mut layers = vec![place.path("base")];
        for n in 0..count {
            let name = format!("a-layer-whose-path-takes-more-room-than-a-page-has-for-sixty-of-its-kind-{n}");
            let layer = place.dir.join(name);
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join(format!("l{n}")), format!("layer {n}\n")).unwrap();
            layers.push(layer.to_str().unwrap().to_owned());
        }
        let lower = format!("lowerdir={}", layers.join(":"));
        assert!(lower.len() > 4096);
        let (upper, work) = (format!("upperdir={}", place.path("upper")), format!("workdir={}", place.path("work")));
        let overlay = mount("overlay", "overlay", &[&lower, &upper, &work, "X-containerd.note=nothing to the kernel"]);
        assert_eq!(run(&mut place, &[overlay]), format!("layer 0\nlayer {}\n", count - 1));
        assert_eq!(fs::read(place.dir.join("upper/new")).unwrap(), b"new\n");
    }
}

#[test]
fn owners_are_seen_through_the_maps_of_a_mount() {
    if skipped() {
        return;
    }
    let maps = ["uidmap=0:1000:1", "gidmap=0:2000:1"];
    let show = "busybox stat -c '%u %g' /bin/busybox";
    let mut bound = place(show);
    // Whoever has no place in the maps can't make it.
    fs::create_dir(bound.dir.join("base/dev")).unwrap();
    let request = bind(&bound, &maps);
    if !can(&mut bound, &request) {
        return;
    }
    assert_eq!(run(&mut bound, &[request]), "1000 2000\n");

    let script = format!("{show} /second; echo new > /new; busybox stat -c %u /new");
    let mut layered = place(&script);
    fs::create_dir(layered.dir.join("layer")).unwrap();
    fs::write(layered.dir.join("layer/second"), "").unwrap();
    let dirs = [
        format!("lowerdir={}:{}", layered.path("layer"), layered.path("base")),
        format!("upperdir={}", layered.path("upper")),
        format!("workdir={}", layered.path("work")),
    ];
    let options: Vec<_> = dirs.iter().map(String::as_str).chain(maps).collect();
    let request = mount("overlay", "overlay", &options);
    // The upper layer is as it is.
    assert_eq!(run(&mut layered, &[request]), "1000 2000\n1000 2000\n0\n");

    let mut client = bound.start();
    for (options, why) in [
        (&["uidmap=0:1000:1"][..], "uidmap= and gidmap= go together"),
        (&["uidmap=0:x:1", "gidmap=0:1:1"], "uidmap=0:x:1: not a map"),
    ] {
        let request = bound.create().message(3, &bind(&bound, options));
        let (_, said) = client.call("Create", &request).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(mounted(&bound), [""; 0]);
}

/// The loop devices that have this file.
fn devices_of(file: &str) -> usize {
    let backing = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("loop/backing_file")).ok();
    fs::read_dir("/sys/block").unwrap().filter_map(|entry| backing(entry.unwrap())).filter(|f| f.trim() == file).count()
}

#[test]
fn an_image_file_is_mounted_by_a_loop_device_that_goes_with_its_mount() {
    if skipped() {
        return;
    }
    if fs::metadata("/dev/loop-control").is_err() {
        return println!("SKIP: no loop devices");
    }
    let mut place = place("cat /proc/mounts | head -n 1; cat /hello; echo x > /new && exit 1; exit 0");
    fs::write(place.dir.join("base/hello"), "from an image\n").unwrap();
    fs::create_dir(place.dir.join("base/dev")).unwrap();
    let image = place.path("image");
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d", &place.path("base"), &image, "16M"]).output();
    if !made.is_ok_and(|made| made.status.success()) {
        return println!("SKIP: needs mke2fs");
    }
    for options in [&["loop", "ro"][..], &["ro", "loop", "direct-io"]] {
        let output = run(&mut place, &[mount("ext4", &image, options)]);
        let (first, rest) = output.split_once('\n').unwrap();
        assert!(first.starts_with("/dev/loop") && first.contains(" ext4 ro"), "{first}");
        assert_eq!(rest, "from an image\n");
        let end = Instant::now() + Duration::from_secs(5);
        while devices_of(&image) > 0 {
            assert!(Instant::now() < end, "the device still has its file");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_mount_below_the_root_stays_within_it_and_goes_with_it() {
    if skipped() {
        return;
    }
    let mut place = place("cat /proc/mounts");
    symlink("/../../../../../../../tmp", place.dir.join("base/way-out")).unwrap();
    let below = |target: &str| mount("tmpfs", "tmpfs", &["size=64k"]).text(3, target);
    let mounts = [bind(&place, &[]), below("/a/b/../c"), below("way-out/d")];
    let output = run(&mut place, &mounts);
    for point in [" /a/c tmpfs ", " /tmp/d tmpfs "] {
        assert!(output.contains(point), "{output}");
    }
    // In the root's own directory, when nothing is mounted on that.
    let mut client = place.start();
    client.call("Create", &place.create().message(3, &below("bin")).message(3, &below("proc"))).unwrap_err();
    assert_eq!(mounted(&place), [""; 0]);
}

#[test]
fn of_mounts_of_which_one_fails_none_stays() {
    if skipped() {
        return;
    }
    let mut place = place("true");
    let mut client = place.start();
    let tmpfs = |target: &str| mount("tmpfs", "tmpfs", &[]).text(3, target);
    let bad = [mount("bind", "/nowhere", &["rbind"]), mount("nofs", "x", &[]), mount("tmpfs", "t", &["nonsense=1"])];
    for bad in bad {
        for first in [&[bind(&place, &[]), tmpfs("x")][..], &[tmpfs("x"), tmpfs("x"), tmpfs("y/z")]] {
            let request = first.iter().fold(place.create(), |request, mount| request.message(3, mount));
            let (code, why) = client.call("Create", &request.message(3, &bad)).unwrap_err();
            assert!(code == 2 && why.starts_with("failed to mount rootfs component: mount "), "{why}");
            assert_eq!(mounted(&place), [""; 0]);
        }
    }
    // Nor when it is the container that fails.
    fs::write(place.dir.join("t/c1/config.json"), "{").unwrap();
    client.call("Create", &place.create().message(3, &bind(&place, &[])).message(3, &tmpfs("x"))).unwrap_err();
    assert_eq!(mounted(&place), [""; 0]);
}

#[test]
fn a_file_system_in_user_space_is_mounted_by_its_helper() {
    if skipped() {
        return;
    }
    let mut place = place("cat /seen");
    fs::create_dir(place.dir.join("bin")).unwrap();
    let helper = place.dir.join("bin/mount.fuse3");
    let write = |text: &str| {
        fs::write(&helper, format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let fuse = |place: &Place| mount("fuse3.some-fs", &place.path("base"), &["a=b", "X-containerd.x=1", "ro"]);
    // What it is told, what it has of ours, and what it mounts.
    write(
        "echo \"$*\" > $1/seen; env | grep -v -e ^PWD= -e ^PATH= -e ^SHLVL= -e ^_= >> $1/seen\n\
        ls /proc/self/fd | tr '\\n' ' ' >> $1/seen; mount --bind $1 $2",
    );
    let (base, root) = (place.path("base"), place.path("t/c1/rootfs"));
    let request = fuse(&place);
    let output = run(&mut place, &[request]);
    // The last descriptor is that of `ls`.
    assert_eq!(output, format!("{base} {root} -o a=b -o ro -t some-fs\n0 1 2 3 "));

    let mut client = place.start();
    for (text, why) in [
        ("echo no such thing >&2; exit 3", "mount.fuse3: exit status: 3: no such thing"),
        ("exit 0", "mount.fuse3: it mounted nothing"),
    ] {
        write(text);
        let (_, said) = client.call("Create", &place.create().message(3, &fuse(&place))).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    let other = mount("fuse.other", "x", &[]);
    let (_, said) = client.call("Create", &place.create().message(3, &other)).unwrap_err();
    assert!(said.contains("mount.fuse: "), "{said}");
    assert_eq!(mounted(&place), [""; 0]);
}

#[test]
fn a_mount_that_hangs_holds_up_its_own_create_and_nothing_else() {
    use orlop_sys::mount::{MountFlags, UnmountFlags, mount as kernel_mount, unmount};
    use std::os::fd::AsRawFd as _;
    if skipped() {
        return;
    }
    let mut place = place("true");
    let Ok(device) = fs::File::options().read(true).write(true).open("/dev/fuse") else {
        return println!("SKIP: no FUSE");
    };
    // A file system whose server never answers.
    let silent = place.path("silent");
    fs::create_dir(&silent).unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let data = std::ffi::CString::new(data).unwrap();
    kernel_mount("silent", silent.as_str(), "fuse", MountFlags::empty(), Some(data.as_c_str())).unwrap();
    let mut client = place.start();
    let hung = mount("bind", &format!("{silent}/x"), &["rbind"]);
    let create = client.send("Create", &place.create().message(3, &bind(&place, &[])).message(3, &hung));
    assert_shim_answers_at_once(place.shim(), || assert_eq!(number(&client.process("State", "").unwrap(), 4), 1));
    let asked = Instant::now();
    assert_eq!(number(&client.process("Delete", "").unwrap(), 2), 137);
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert!(client.receive(create).unwrap_err().1.contains("given up"));
    assert_eq!(mounted(&place), [""; 0]);
    unmount(silent.as_str(), UnmountFlags::DETACH).unwrap();
    drop(device);
}
