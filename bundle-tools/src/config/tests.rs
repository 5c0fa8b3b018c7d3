//! The whole configuration, and what the tests of its parts share.

use std::path::PathBuf;

use clap::Parser;

use super::*;
use crate::image::RunConfig;

/// The options that these words mean.
pub(crate) fn options(words: &str) -> Options {
    parse(words).unwrap_or_else(|e| panic!("{words}: {e}"))
}

fn parse(words: &str) -> std::result::Result<Options, clap::Error> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }
    let words = std::iter::once("x").chain(words.split_whitespace());
    Line::try_parse_from(words).map(|line| line.options)
}

/// Calls `with` with a host where the caller has the variable CALLER=mine.
pub(crate) fn context<T>(with: impl FnOnce(&Context<'_>) -> T) -> T {
    let variable = |name: &str| (name == "CALLER").then(|| "mine".to_owned());
    with(&Context {
        id: "web-1",
        bundle: "/b/",
        rootfs: "rootfs",
        cgroups: Cgroups::V2,
        rootless: None,
        kernel: (6, 18),
        variable: &variable,
        etc: &|_| None,
        remove: None,
    })
}

/// A directory for a test, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("orlop-bundle-config-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn dir(&self) -> Dir {
        Dir::at(&self.0).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A root with a few users.
fn root() -> Folder {
    let root = Folder::new();
    root.write("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:100:101::/srv:/bin/sh\n");
    root.write("etc/group", b"root:x:0:\nwww:x:101:\nmore:x:20:web\n");
    root
}

fn image(run: RunConfig) -> ImageConfig {
    ImageConfig { config: run, ..ImageConfig::default() }
}

fn sh() -> RunConfig {
    RunConfig { cmd: vec!["sh".to_owned()], ..RunConfig::default() }
}

fn made(run: RunConfig, flags: &str) -> Result<Value> {
    let root = root();
    context(|context| convert(&image(run), &options(flags), &root.dir(), context)).map(|made| made.spec)
}

#[test]
fn a_flag_that_cannot_be_meant_is_named_with_its_value() {
    for (words, parts) in [
        ("--memory lots", ["--memory", "'lots'", "not a size"]),
        ("--cpus 0", ["--cpus", "'0'", "0.01"]),
        ("--cpus 1 --cpu-quota 5", ["--cpus", "--cpu-quota", "cannot be used with"]),
        ("--cpu-shares 1", ["--cpu-shares", "1", "2..=262144"]),
        ("--cpuset-cpus x", ["--cpuset-cpus", "'x'", "list"]),
        ("--ulimit files=1", ["--ulimit", "'files=1'", "nofile"]),
        ("-v name:/x", ["--volume", "'name:/x'", "named volumes"]),
        ("--mount type=bind,dst=/x", ["--mount", "dst=/x", "no source"]),
        ("--tmpfs x", ["--tmpfs", "'x'", "absolute"]),
        ("--network bridge", ["--network", "'bridge'", "no bridge"]),
        ("--userns auto", ["--userns", "'auto'", "map"]),
        ("--uid-map 0:1", ["--uid-map", "'0:1'", "CONTAINER:HOST:SIZE"]),
        ("--security-opt x", ["--security-opt", "'x'", "none of"]),
        ("--device null", ["--device", "'null'", "absolute"]),
        ("--device-cgroup-rule x", ["--device-cgroup-rule", "'x'", "rule"]),
        ("--sysctl x", ["--sysctl", "'x'", "NAME=VALUE"]),
        ("--add-host x", ["--add-host", "'x'", "NAME:ADDRESS"]),
        ("--dns x", ["--dns", "'x'", "IP address"]),
        ("--env =x", ["--env", "'=x'", "name"]),
        ("--oom-score-adj 1001", ["--oom-score-adj", "1001", "-1000..=1000"]),
    ] {
        let said = parse(words).unwrap_err().to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{words}: {said}");
    }
}

#[test]
fn what_cannot_be_done_with_an_image_is_said_by_field_or_flag() {
    let with = |change: fn(&mut RunConfig)| {
        let mut run = sh();
        change(&mut run);
        run
    };
    for (run, flags, word) in [
        (RunConfig::default(), "", "the image has no command"),
        (with(|run| run.user = "4294967296".to_owned()), "", "config.User \"4294967296\""),
        (with(|run| run.user = "nobody".to_owned()), "", "no user \"nobody\""),
        (with(|run| run.env = vec!["A".to_owned()]), "", "config.Env: \"A\" has no ="),
        (with(|run| run.working_dir = "a".to_owned()), "", "config.WorkingDir: \"a\" is not"),
        (with(|run| run.volumes = [("/proc".to_owned(), json!({}))].into()), "", "config.Volumes: \"/proc\""),
        (with(|run| run.stop_signal = "SIGNOT".to_owned()), "", "config.StopSignal: \"SIGNOT\""),
        (sh(), "--stop-signal 65", "--stop-signal: \"65\""),
        (sh(), "--user 70000 --uid-map 0:100000:65536", "is not among the mapped ids"),
        (sh(), "--userns map", "wants --uid-map"),
        (sh(), "--gid-map 0:1:1", "wants --uid-map"),
        (sh(), "--userns host --uid-map 0:1:1", "neither"),
        (sh(), "--uid-map 0:1:2 --uid-map 1:9:1", "mapped twice"),
        (sh(), "--rm-on-delete", "--rm-on-delete"),
        (sh(), "--cap-add X", "--cap-add X"),
        (sh(), "--sysctl kernel.core_pattern=|/x", "kernel.core_pattern"),
        (sh(), "--sysctl net.core.somaxconn=1 --network host", "net.core.somaxconn"),
        (sh(), "--sysctl net/../kernel/core_pattern=x", "core_pattern"),
        (sh(), "--cgroup-parent ../x", "cgroup"),
        (sh(), "--uts host --domainname x", "--domainname"),
        (sh(), "--security-opt seccomp=/no-such-file-here", "seccomp=/no-such-file-here: no such file"),
        (sh(), "--env-file /no-such-file-here", "--env-file /no-such-file-here: no such file"),
    ] {
        let said = made(run, flags).unwrap_err().to_string();
        assert!(said.contains(word), "{flags}: {said}");
    }
    let windows = ImageConfig {
        platform: crate::image::Platform { os: "windows".to_owned(), ..Default::default() },
        ..image(sh())
    };
    let root = root();
    let said = context(|context| convert(&windows, &options(""), &root.dir(), context)).unwrap_err();
    assert!(said.to_string().contains("os is \"windows\""), "{said}");
}

#[test]
fn each_flag_is_seen_where_the_specification_has_it() {
    let caps = |spec: &Value| spec["process"]["capabilities"]["bounding"].as_array().unwrap().len();
    let plain = made(sh(), "").unwrap();
    assert_eq!((caps(&plain), caps(&made(sh(), "--privileged").unwrap())), (14, 41));
    for (flags, pointer, meant) in [
        ("", "/process/user", json!({"uid": 0, "gid": 0, "additionalGids": [0]})),
        ("-u web", "/process/user", json!({"uid": 100, "gid": 101, "additionalGids": [20, 101]})),
        ("-t", "/process/terminal", json!(true)),
        ("", "/process/terminal", Value::Null),
        ("", "/process/cwd", json!("/")),
        ("", "/process/rlimits", Value::Null),
        ("", "/process/noNewPrivileges", json!(false)),
        ("--security-opt no-new-privileges", "/process/noNewPrivileges", json!(true)),
        ("--security-opt apparmor=x", "/process/apparmorProfile", json!("x")),
        ("--oom-score-adj -5", "/process/oomScoreAdj", json!(-5)),
        ("", "/root", json!({"path": "rootfs", "readonly": false})),
        ("--read-only", "/root/readonly", json!(true)),
        ("", "/hostname", json!("web-1")),
        ("--hostname h --domainname d", "/hostname", json!("h")),
        ("--domainname d", "/domainname", json!("d")),
        ("--uts host", "/hostname", Value::Null),
        ("--cgroup-parent /a/", "/linux/cgroupsPath", json!("/a/web-1")),
        ("--cgroups-path system.slice:a:b", "/linux/cgroupsPath", json!("system.slice:a:b")),
        ("", "/linux/cgroupsPath", Value::Null),
        ("-v /etc:/x:rshared", "/linux/rootfsPropagation", json!("rshared")),
        ("-v /etc:/x:slave", "/linux/rootfsPropagation", json!("rslave")),
        ("", "/linux/rootfsPropagation", Value::Null),
        ("", "/linux/namespaces/1", json!({"type": "network"})),
        ("--network /run/netns/x", "/linux/namespaces/1", json!({"type": "network", "path": "/run/netns/x"})),
        ("--network host", "/linux/namespaces/1", json!({"type": "ipc"})),
        ("--cgroupns host", "/linux/namespaces/5", Value::Null),
        ("--uid-map 0:1000:10", "/linux/namespaces/6", json!({"type": "user"})),
        ("--uid-map 0:1000:10", "/linux/gidMappings/0", json!({"containerID": 0, "hostID": 1000, "size": 10})),
        ("--sysctl net.core.somaxconn=7", "/linux/sysctl/net.core.somaxconn", json!("7")),
        ("--network host", "/linux/sysctl", Value::Null),
        ("--privileged", "/linux/maskedPaths", Value::Null),
        ("--privileged", "/linux/seccomp", Value::Null),
        ("--security-opt seccomp=unconfined", "/linux/seccomp", Value::Null),
        ("--security-opt systempaths=unconfined", "/linux/readonlyPaths", Value::Null),
        ("", "/linux/seccomp/defaultErrnoRet", json!(1)),
        ("--memory 64m", "/linux/resources/memory/limit", json!(64 << 20)),
        ("--stop-signal SIGRTMIN+3", "/annotations", json!({"org.opencontainers.image.stopSignal": "SIGRTMIN+3"})),
        ("-l a=b", "/annotations", json!({"a": "b"})),
        ("", "/annotations", Value::Null),
        ("", "/hooks", Value::Null),
    ] {
        let spec = made(sh(), flags).unwrap();
        assert_eq!(spec.pointer(pointer).cloned().unwrap_or_default(), meant, "{flags} {pointer}");
    }
    let root = root();
    let spec = context(|context| {
        let hook = Hook { path: "/x".to_owned(), args: vec!["x".to_owned(), "rm".to_owned()] };
        let context = Context { remove: Some(hook), rootless: Some((1000, 1001)), id: context.id, ..*context };
        convert(&image(sh()), &options("--rm-on-delete"), &root.dir(), &context)
    });
    let spec = spec.unwrap().spec;
    assert_eq!(spec["hooks"], json!({"poststop": [{"path": "/x", "args": ["x", "rm"]}]}));
    assert_eq!(spec["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 1000, "size": 1}]));
    assert_eq!(spec["linux"]["gidMappings"], json!([{"containerID": 0, "hostID": 1001, "size": 1}]));
    assert_eq!(spec["linux"]["resources"], Value::Null);
    assert_eq!(spec["process"]["user"], json!({"uid": 0, "gid": 0}));
}

#[test]
fn the_same_input_gives_the_same_bytes_and_they_are_a_configuration() {
    let run = RunConfig {
        labels: [("maintainer".to_owned(), "x".to_owned())].into(),
        volumes: [("/data".to_owned(), json!({}))].into(),
        ..sh()
    };
    let flags =
        "-e A=1 -t -m 64m --cpus 1 --device /dev/null --ulimit nofile=5 --tmpfs /t --uid-map 0:1000:65536 -l a=b";
    let root = root();
    let text = || context(|c| convert(&image(run.clone()), &options(flags), &root.dir(), c)).unwrap().text();
    assert_eq!(text(), text());
    for flags in [flags, "", "--privileged", "--network host --ipc host --pid host --uts host"] {
        let text = context(|c| convert(&image(run.clone()), &options(flags), &root.dir(), c)).unwrap().text();
        let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
        // What another reader makes of it and writes again is the same but for what it adds.
        let again = serde_json::to_value(&spec).unwrap();
        let ours: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(lost(&ours, &again, ""), Vec::<String>::new(), "{flags}");
    }
}

/// What of `ours` is not in `theirs`.
fn lost(ours: &Value, theirs: &Value, at: &str) -> Vec<String> {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().flat_map(|(k, v)| lost(v, b.get(k).unwrap_or(&Value::Null), &format!("{at}/{k}"))).collect()
        }
        // A set there.
        (Value::Array(a), Value::Array(b)) if at.starts_with("/process/capabilities") => {
            a.iter().filter(|v| !b.contains(v)).map(|v| format!("{at}: {v}")).collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().flat_map(|(i, (a, b))| lost(a, b, &format!("{at}/{i}"))).collect()
        }
        (a, b) if a == b => Vec::new(),
        (a, b) => vec![format!("{at}: {a} is {b}")],
    }
}

/// What a container of busybox says under a runtime.
fn run(runtime: &Path, args: &[&str], bundle: &Folder, id: &str) -> String {
    let done = std::process::Command::new("timeout")
        .args(["-s", "KILL", "20"])
        .arg(runtime)
        .args(["--root".as_ref(), bundle.at("state").as_os_str()])
        .args(args)
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(id)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let status = if done.status.success() { String::new() } else { format!("{}\n", done.status) };
    format!("{}{}{status}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

/// The peers, and the release build beside this test or what `ORLOP` names.
fn runtimes() -> Vec<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let own = own.ancestors().nth(3).map(|triple| triple.join("release/orlop"));
    let own = std::env::var_os("ORLOP").map(PathBuf::from).or(own);
    let mut all: Vec<_> = own.into_iter().chain(["/usr/sbin/runc", "/usr/bin/crun"].map(PathBuf::from)).collect();
    all.retain(|path| {
        let there = std::fs::metadata(path).is_ok();
        if !there {
            eprintln!("SKIP: no {}", path.display());
        }
        there
    });
    all
}

#[test]
fn runtimes_run_it_and_the_container_sees_what_was_meant() {
    const SCRIPT: &str = "id; pwd; hostname; cat /etc/hosts | tail -1; echo $A $HOME; cat /data/seed; \
        grep -e CapEff -e Groups -e Seccomp: /proc/self/status; ulimit -n; unshare -U true 2>&1 | grep -c unshare; \
        touch /etc/x 2>&1 | grep -c Read-only; true";
    if !rustix::process::geteuid().is_root() || std::fs::metadata("/bin/busybox").is_err() {
        eprintln!("SKIP: takes root and /bin/busybox");
        return;
    }
    for runtime in runtimes() {
        let crun = runtime.ends_with("crun");
        if crun && std::fs::metadata("/sys/fs/cgroup/memory").is_ok() {
            eprintln!("SKIP: crun, which takes no hybrid cgroups");
            continue;
        }
        let bundle = Folder::new();
        for name in ["bin", "proc", "dev", "sys", "etc"] {
            std::fs::create_dir_all(bundle.at("rootfs").join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", bundle.at("rootfs/bin/busybox")).unwrap();
        for name in ["sh", "id", "pwd", "hostname", "cat", "tail", "grep", "unshare", "touch", "true"] {
            std::os::unix::fs::symlink("busybox", bundle.at("rootfs/bin").join(name)).unwrap();
        }
        bundle.write("rootfs/etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:100:101::/srv:/bin/sh\n");
        bundle.write("rootfs/etc/group", b"root:x:0:\nwww:x:101:\nmore:x:20:web\n");
        bundle.write("rootfs/data/seed", b"seeded\n");
        let image = image(RunConfig {
            entrypoint: vec!["sh".to_owned(), "-c".to_owned()],
            env: vec!["A=image".to_owned()],
            user: "web".to_owned(),
            working_dir: "/made/by/runtime".to_owned(),
            volumes: [("/data".to_owned(), json!({}))].into(),
            ..RunConfig::default()
        });
        let id = format!("config-{}", std::process::id());
        let path = bundle.path().to_str().unwrap().to_owned();
        let say = |flags: &str| {
            let mut options = options(flags);
            options.command = vec![SCRIPT.to_owned()];
            let root = Dir::at(&bundle.at("rootfs")).unwrap();
            let made = convert(&image, &options, &root, &Context::here(&id, &path, "rootfs")).unwrap();
            let _ = std::fs::remove_dir_all(bundle.at("volumes"));
            made.publish(&root, &bundle.dir()).unwrap();
            let said = run(&runtime, &[], &bundle, &id);
            said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        let said = say("--ulimit nofile=99");
        let meant = [
            "uid=100(web) gid=101(www) groups=20(more),101(www)",
            "/made/by/runtime",
            &id,
            &format!("127.0.1.1 {id}"),
            "image /srv",
            "seeded",
            "Groups: 20 101",
            "CapEff: 0000000000000000",
            "Seccomp: 2",
            "99",
            "1",
            "0",
        ];
        assert_eq!(said, meant, "{}", runtime.display());
        let said = say("-u 0 -e A=mine --read-only --hostname h -w / --memory 64m --cpus 0.5 --pids 50 --network host");
        // Docker's fourteen.
        let caps = "CapEff: 00000000a80425fb";
        for line in ["uid=0(root) gid=0(root) groups=0(root)", "/", "h", "mine /root", caps, "Seccomp: 2"] {
            assert!(said.iter().any(|said| said == line), "{}: {line} in {said:#?}", runtime.display());
        }
        assert_eq!(said.last().map(String::as_str), Some("1"), "{}: {said:#?}", runtime.display());
        let said = say("--privileged --uid-map 0:100000:65536 -w /");
        assert!(said.iter().any(|line| line == "Seccomp: 0"), "{}: {said:#?}", runtime.display());
    }
}
