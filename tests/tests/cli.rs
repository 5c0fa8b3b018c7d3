//! The command line, as runc's callers use it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

// The command line belongs to the program, not to the library, so its source is compiled here once more.
#[allow(dead_code, reason = "the program uses the rest")]
#[path = "../../runtime/src/cli/mod.rs"]
mod cli;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use cli::{
    Caller, CgroupManager, Command, Create, Exec, ExecArgs, ExecProcess, Global, Invocation, Limits, ListFormat,
    Refusal, Rootless, Run, SubCgroup,
};
use orlop::config::{BlockIo, Cpu, Memory, Pids, Resources};
use orlop::log::Format;

fn root_user() -> Caller {
    Caller { euid: 0, xdg_runtime_dir: Some("/run/user/0".to_owned()) }
}

fn parse_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Invocation, Box<Refusal>> {
    let argv: Vec<OsString> = std::iter::once("orlop").chain(words).map(OsString::from).collect();
    cli::parse(&argv, &root_user())
}

/// Splits at blanks; `''` is an empty word.
fn parse(line: &str) -> Result<Invocation, Box<Refusal>> {
    parse_words(line.split_whitespace().map(|word| if word == "''" { "" } else { word }))
}

fn command(line: &str) -> Command {
    parse(line).unwrap_or_else(|refusal| panic!("{line}: {refusal}")).command
}

fn global(line: &str) -> Global {
    parse(line).unwrap_or_else(|refusal| panic!("{line}: {refusal}")).global
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn create(id: &str) -> Create {
    Create {
        id: text(id),
        bundle: text("."),
        config: None,
        console_socket: None,
        pidfd_socket: None,
        pid_file: None,
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
    }
}

fn run(id: &str) -> Run {
    Run { create: create(id), detach: false, keep: false, no_subreaper: false }
}

fn exec(id: &str, process: ExecProcess) -> Exec {
    Exec {
        id: text(id),
        process,
        detach: false,
        console_socket: None,
        pidfd_socket: None,
        pid_file: None,
        preserve_fds: 0,
        cgroups: Vec::new(),
        ignore_paused: false,
    }
}

fn args(words: &[&str]) -> ExecArgs {
    ExecArgs { args: words.iter().map(|word| text(word)).collect(), ..ExecArgs::default() }
}

#[test]
fn create_and_run_take_their_options_in_every_spelling() {
    let bundle = Create { bundle: text("/b"), ..create("c1") };
    let quick = |run: Run| Command::Run(run);
    for (line, want) in [
        ("create c1", Command::Create(create("c1"))),
        ("create --bundle /b c1", Command::Create(bundle.clone())),
        ("create --bundle=/b c1", Command::Create(bundle.clone())),
        ("create -bundle /b c1", Command::Create(bundle.clone())),
        ("create -bundle=/b c1", Command::Create(bundle.clone())),
        ("create -b /b c1", Command::Create(bundle.clone())),
        ("create -b=/b c1", Command::Create(bundle.clone())),
        ("create --b /b c1", Command::Create(bundle.clone())),
        ("create c1 --bundle /b", Command::Create(bundle.clone())),
        ("create c1 -b /b", Command::Create(bundle.clone())),
        ("create --bundle /a --bundle /b c1", Command::Create(bundle.clone())),
        ("create --bundle /b -- c1", Command::Create(bundle.clone())),
        ("create --bundle '' c1", Command::Create(create("c1"))),
        ("create -- -c1", Command::Create(create("-c1"))),
        ("create -", Command::Create(create("-"))),
        ("create help", Command::Create(create("help"))),
        ("create --bundle --no-pivot c1", Command::Create(Create { bundle: text("--no-pivot"), ..create("c1") })),
        ("create --config /c.json c1", Command::Create(Create { config: some("/c.json"), ..create("c1") })),
        ("create -f /c.json c1", Command::Create(Create { config: some("/c.json"), ..create("c1") })),
        ("create --no-pivot c1", Command::Create(Create { no_pivot: true, ..create("c1") })),
        ("create c1 --no-pivot", Command::Create(Create { no_pivot: true, ..create("c1") })),
        ("create --no-pivot=true c1", Command::Create(Create { no_pivot: true, ..create("c1") })),
        ("create --no-pivot=1 c1", Command::Create(Create { no_pivot: true, ..create("c1") })),
        ("create --no-pivot --no-pivot=false c1", Command::Create(create("c1"))),
        ("create --no-pivot=F c1", Command::Create(create("c1"))),
        ("create --no-subreaper c1", Command::Create(create("c1"))),
        ("create --preserve-fds 3 c1", Command::Create(Create { preserve_fds: 3, ..create("c1") })),
        ("create --pidfd-socket /p c1", Command::Create(Create { pidfd_socket: some("/p"), ..create("c1") })),
        ("run r1", quick(run("r1"))),
        ("run -d r1", quick(Run { detach: true, ..run("r1") })),
        ("run --detach --keep r1", quick(Run { detach: true, keep: true, ..run("r1") })),
        ("run -no-subreaper r1", quick(Run { no_subreaper: true, ..run("r1") })),
        ("run r1 -no-subreaper -d", quick(Run { detach: true, no_subreaper: true, ..run("r1") })),
    ] {
        assert_eq!(command(line), want, "{line}");
    }
}

#[test]
fn the_engines_own_command_lines_are_understood() {
    // containerd's shim
    let line = "--root /run/containerd/runc/k8s.io --log /b/log.json --log-format json create --bundle /b --pid-file \
                /b/init.pid --console-socket /tmp/p.sock --no-pivot --no-new-keyring --preserve-fds 2 c1";
    let Invocation { global, command: found } = parse(line).unwrap();
    assert_eq!(
        (global.root.as_str(), global.root_given, global.log.as_deref(), global.log_format),
        ("/run/containerd/runc/k8s.io", true, Some("/b/log.json"), Format::Json)
    );
    let whole = Create {
        bundle: text("/b"),
        pid_file: some("/b/init.pid"),
        console_socket: some("/tmp/p.sock"),
        no_pivot: true,
        no_new_keyring: true,
        preserve_fds: 2,
        ..create("c1")
    };
    assert_eq!(found, Command::Create(whole));
    let by_file = |id: &str, file: &str| exec(id, ExecProcess::File(text(file)));
    for (line, want) in [
        (
            "exec --process /tmp/runc-process1 --console-socket /s --detach --pid-file /b/e1.pid c1",
            Command::Exec(Exec {
                detach: true,
                console_socket: some("/s"),
                pid_file: some("/b/e1.pid"),
                ..by_file("c1", "/tmp/runc-process1")
            }),
        ),
        ("kill --all c1 9", Command::Kill { id: text("c1"), signal: 9, all: true }),
        ("kill c1 15", Command::Kill { id: text("c1"), signal: 15, all: false }),
        ("delete --force c1", Command::Delete { id: text("c1"), force: true }),
        ("features", Command::Features),
        // conmon
        (
            "exec --pid-file /p --process /s --detach c1",
            Command::Exec(Exec { detach: true, pid_file: some("/p"), ..by_file("c1", "/s") }),
        ),
        // CRI-O
        ("--root /r --systemd-cgroup kill -a c1 9", Command::Kill { id: text("c1"), signal: 9, all: true }),
        ("exec --process /f c1", Command::Exec(by_file("c1", "/f"))),
        ("pause c1", Command::Pause { id: text("c1") }),
        ("resume c1", Command::Resume { id: text("c1") }),
        ("ps --format json c1", ps(ListFormat::Json, &[])),
        ("update --resources=- c1", Command::Update { id: text("c1"), limits: Limits::File(text("-")) }),
        ("update --resources - c1", Command::Update { id: text("c1"), limits: Limits::File(text("-")) }),
        ("update --resources=/tmp/r c1", Command::Update { id: text("c1"), limits: Limits::File(text("/tmp/r")) }),
        // BuildKit
        (
            "--log /r/runc-log.json --log-format json run --bundle /b --no-pivot --keep b1",
            Command::Run(Run {
                create: Create { bundle: text("/b"), no_pivot: true, ..create("b1") },
                keep: true,
                ..run("b1")
            }),
        ),
        ("state b1", Command::State { id: text("b1") }),
        ("delete b1", Command::Delete { id: text("b1"), force: false }),
        // Podman, Docker, nerdctl
        ("--version", Command::Version),
        ("-v", Command::Version),
        ("-version", Command::Version),
        ("--log-format=json --log /r/oci-log start c1", Command::Start { id: text("c1") }),
    ] {
        assert_eq!(command(line), want, "{line}");
    }
}

#[test]
fn what_follows_the_container_of_exec_belongs_to_its_command() {
    let given = |args: ExecArgs| Command::Exec(exec("c1", ExecProcess::Args(args)));
    for (line, want) in [
        ("exec c1 ls", given(args(&["ls"]))),
        ("exec c1 ls -la --tty", given(args(&["ls", "-la", "--tty"]))),
        ("exec c1 ls -h", given(args(&["ls", "-h"]))),
        ("exec c1 -- ls -la", given(args(&["ls", "-la"]))),
        ("exec -- c1 ls", given(args(&["ls"]))),
        ("exec c1 sh -- --", given(args(&["sh", "--", "--"]))),
        ("exec c1 -t", given(args(&["-t"]))),
        ("exec -t c1 ls", given(ExecArgs { tty: true, ..args(&["ls"]) })),
        ("exec --tty=false c1 ls", given(args(&["ls"]))),
        (
            "exec -e A=b --env=C=d=e -e F c1 ls",
            given(ExecArgs { env: vec![text("A=b"), text("C=d=e"), text("F")], ..args(&["ls"]) }),
        ),
        (
            "exec --cwd /tmp -u 1000 c1 ls",
            given(ExecArgs { cwd: some("/tmp"), user: Some((1000, None)), ..args(&["ls"]) }),
        ),
        ("exec --user 0:4294967295 c1 ls", given(ExecArgs { user: Some((0, Some(u32::MAX))), ..args(&["ls"]) })),
        ("exec -g 1 -g 2,3 c1 ls", given(ExecArgs { additional_gids: vec![1, 2, 3], ..args(&["ls"]) })),
        (
            "exec -c CAP_KILL --cap cap_chown c1 ls",
            given(ExecArgs { caps: vec![text("CAP_KILL"), text("cap_chown")], ..args(&["ls"]) }),
        ),
        (
            "exec --no-new-privs --apparmor p --process-label l c1 ls",
            given(ExecArgs {
                no_new_privs: Some(true),
                apparmor: some("p"),
                process_label: some("l"),
                ..args(&["ls"])
            }),
        ),
        ("exec --no-new-privs=false c1 ls", given(ExecArgs { no_new_privs: Some(false), ..args(&["ls"]) })),
        ("exec -p /f c1 ls", Command::Exec(exec("c1", ExecProcess::File(text("/f"))))),
        (
            "exec --ignore-paused --preserve-fds 1 --pidfd-socket /p c1 ls",
            Command::Exec(Exec {
                ignore_paused: true,
                preserve_fds: 1,
                pidfd_socket: some("/p"),
                ..exec("c1", ExecProcess::Args(args(&["ls"])))
            }),
        ),
        (
            "exec --cgroup sub c1 ls",
            Command::Exec(Exec {
                cgroups: vec![SubCgroup { controller: None, path: text("sub") }],
                ..exec("c1", ExecProcess::Args(args(&["ls"])))
            }),
        ),
        (
            "exec --cgroup cpu,cpuacct:/a --cgroup memory:b c1 ls",
            Command::Exec(Exec {
                cgroups: [("cpu", "/a"), ("cpuacct", "/a"), ("memory", "b")]
                    .map(|(controller, path)| SubCgroup { controller: some(controller), path: text(path) })
                    .to_vec(),
                ..exec("c1", ExecProcess::Args(args(&["ls"])))
            }),
        ),
    ] {
        assert_eq!(command(line), want, "{line}");
    }
}

#[test]
fn the_smaller_commands_take_their_options_before_and_after_their_arguments() {
    let kill = |signal, all| Command::Kill { id: text("c1"), signal, all };
    let list = |format, quiet| Command::List { format, quiet };
    let delete = |force| Command::Delete { id: text("c1"), force };
    let spec = |bundle: &str, rootless| Command::Spec { bundle: text(bundle), rootless };
    for (line, want) in [
        ("start c1", Command::Start { id: text("c1") }),
        ("state -- c1", Command::State { id: text("c1") }),
        ("-- state c1", Command::State { id: text("c1") }),
        ("state ''", Command::State { id: text("") }),
        ("kill c1", kill(15, false)),
        ("kill c1 0", kill(0, false)),
        ("kill c1 KILL", kill(9, false)),
        ("kill c1 SIGHUP", kill(1, false)),
        ("kill c1 sigusr1", kill(10, false)),
        ("kill c1 RTMIN", kill(34, false)),
        ("kill c1 SIGRTMIN+3", kill(37, false)),
        ("kill c1 RTMAX-1", kill(63, false)),
        ("kill c1 64", kill(64, false)),
        ("kill c1 9 --all", kill(9, true)),
        ("kill c1 --all 9", kill(9, true)),
        ("kill c1 -a", kill(15, true)),
        ("delete c1", delete(false)),
        ("delete -f c1", delete(true)),
        ("delete c1 --force", delete(true)),
        ("delete c1 --force=false", delete(false)),
        ("list", list(ListFormat::Table, false)),
        ("list --format json", list(ListFormat::Json, false)),
        ("list -f=json -q", list(ListFormat::Json, true)),
        ("spec", spec(".", false)),
        ("spec -b /b --rootless", spec("/b", true)),
        ("man /tmp/m", Command::Man { dir: text("/tmp/m") }),
        ("completion fish", Command::Completion(cli::completion::Shell::Fish)),
    ] {
        assert_eq!(command(line), want, "{line}");
    }
}

fn ps(format: ListFormat, args: &[&str]) -> Command {
    Command::Ps { id: text("c1"), format, args: args.iter().map(|arg| text(arg)).collect() }
}

#[test]
fn events_are_printed_every_five_seconds_every_interval_or_once() {
    let every = |milliseconds| Some(Duration::from_millis(milliseconds));
    for (line, interval) in [
        ("events c1", every(5_000)),
        ("events --interval 500ms c1", every(500)),
        ("events c1 -interval=1m30s", every(90_000)),
        ("events --stats c1", None),
        ("events --stats=false --interval=1s c1", every(1_000)),
        ("events --interval 1s --stats c1", None),
    ] {
        assert_eq!(command(line), Command::Events { id: text("c1"), interval }, "{line}");
    }
}

#[test]
fn what_follows_the_container_of_ps_belongs_to_the_hosts_ps() {
    for (line, want) in [
        ("ps c1", ps(ListFormat::Table, &[])),
        ("ps -f json c1", ps(ListFormat::Json, &[])),
        ("ps c1 -f", ps(ListFormat::Table, &["-f"])),
        ("ps c1 --format json", ps(ListFormat::Table, &["--format", "json"])),
        ("ps --format table c1 -o pid,args", ps(ListFormat::Table, &["-o", "pid,args"])),
    ] {
        assert_eq!(command(line), want, "{line}");
    }
}

#[test]
fn update_takes_a_file_or_single_limits() {
    let given = |memory: Memory, cpu: Cpu, pids: Pids, block_io: BlockIo| {
        let (memory, cpu, pids, block_io) = (Some(memory), Some(cpu), Some(pids), Some(block_io));
        Limits::Given(Box::new(Resources { memory, cpu, pids, block_io, ..Resources::default() }))
    };
    let memory = |memory| given(memory, Cpu::default(), Pids::default(), BlockIo::default());
    let cpu = |cpu| given(Memory::default(), cpu, Pids::default(), BlockIo::default());
    for (line, want) in [
        ("-r /f --memory nonsense c1", Limits::File(text("/f"))),
        ("c1", cpu(Cpu::default())),
        ("--memory '' --cpu-quota '' c1", cpu(Cpu::default())),
        (
            "--memory 10M --memory-swap -1 --memory-reservation=5k c1",
            memory(Memory { limit: Some(10 << 20), swap: Some(-1), reservation: Some(5 << 10), ..Memory::default() }),
        ),
        (
            "--kernel-memory 1 --kernel-memory-tcp 2 c1",
            memory(Memory { kernel: Some(1), kernel_tcp: Some(2), ..Memory::default() }),
        ),
        (
            "--cpu-share 1 --cpu-quota -1 --cpu-burst 3 --cpu-period 4 --cpu-rt-runtime 5 --cpu-rt-period 6 --cpuset-cpus \
             0-1 --cpuset-mems 0 --cpu-idle 1 c1",
            cpu(Cpu {
                shares: Some(1),
                quota: Some(-1),
                burst: Some(3),
                period: Some(4),
                realtime_runtime: Some(5),
                realtime_period: Some(6),
                cpus: text("0-1"),
                mems: text("0"),
                idle: Some(1),
            }),
        ),
        (
            "c1 --pids-limit -1 --blkio-weight 500",
            given(
                Memory::default(),
                Cpu::default(),
                Pids { limit: Some(-1) },
                BlockIo { weight: Some(500), ..BlockIo::default() },
            ),
        ),
    ] {
        assert_eq!(command(&format!("update {line}")), Command::Update { id: text("c1"), limits: want }, "{line}");
    }
}

#[test]
fn global_options_have_runcs_defaults_and_the_last_one_wins() {
    let want = Global {
        root: text("/run/orlop"),
        root_given: false,
        log: None,
        log_format: Format::Text,
        debug: false,
        cgroup_manager: CgroupManager::Cgroupfs,
        rootless: Rootless::Auto,
    };
    for (line, want) in [
        ("list", want.clone()),
        ("--root /a --root=/b list", Global { root: text("/b"), root_given: true, ..want.clone() }),
        ("--log '' list", want.clone()),
        ("--log /l list", Global { log: some("/l"), ..want.clone() }),
        ("--log-format text list", want.clone()),
        ("--debug -log-format json list", Global { debug: true, log_format: Format::Json, ..want.clone() }),
        ("--systemd-cgroup list", Global { cgroup_manager: CgroupManager::Systemd, ..want.clone() }),
        ("--systemd-cgroup=false list", want.clone()),
        ("--cgroup-manager systemd list", Global { cgroup_manager: CgroupManager::Systemd, ..want.clone() }),
        (
            "--systemd-cgroup --cgroup-manager disabled list",
            Global { cgroup_manager: CgroupManager::Disabled, ..want.clone() },
        ),
        (
            "--cgroup-manager cgroupfs --systemd-cgroup list",
            Global { cgroup_manager: CgroupManager::Systemd, ..want.clone() },
        ),
        ("--rootless true list", Global { rootless: Rootless::True, ..want.clone() }),
        ("--rootless=false list", Global { rootless: Rootless::False, ..want.clone() }),
    ] {
        assert_eq!(global(line), want, "{line}");
    }
    let user = |dir: Option<&str>| Caller { euid: 1000, xdg_runtime_dir: dir.map(text) };
    for (caller, root) in [
        (user(Some("/run/user/1000")), "/run/user/1000/orlop"),
        (user(Some("")), "/run/orlop"),
        (user(None), "/run/orlop"),
        (root_user(), "/run/orlop"),
    ] {
        let found = cli::parse(&["orlop".into(), "list".into()], &caller).unwrap().global.root;
        assert_eq!(found, root, "{caller:?}");
    }
}

#[test]
fn mistakes_are_worded_as_runc_words_them() {
    for (line, status, message) in [
        ("create", 1, "orlop: \"create\" requires exactly 1 argument(s)"),
        ("create a b", 1, "orlop: \"create\" requires exactly 1 argument(s)"),
        ("run", 1, "orlop: \"run\" requires exactly 1 argument(s)"),
        ("start", 1, "orlop: \"start\" requires exactly 1 argument(s)"),
        ("state a -- --b", 1, "orlop: \"state\" requires exactly 1 argument(s)"),
        ("delete a b", 1, "orlop: \"delete\" requires exactly 1 argument(s)"),
        ("list x", 1, "orlop: \"list\" requires exactly 0 argument(s)"),
        ("features x", 1, "orlop: \"features\" requires exactly 0 argument(s)"),
        ("spec x --bundle /b", 1, "orlop: \"spec\" requires exactly 0 argument(s)"),
        ("kill", 1, "orlop: \"kill\" requires a minimum of 1 argument(s)"),
        ("kill a b c", 1, "orlop: \"kill\" requires a maximum of 2 argument(s)"),
        ("exec", 1, "orlop: \"exec\" requires a minimum of 1 argument(s)"),
        ("exec -p f", 1, "orlop: \"exec\" requires a minimum of 1 argument(s)"),
        ("exec --env A --env c1", 1, "orlop: \"exec\" requires a minimum of 1 argument(s)"),
        ("exec c1", 255, "exec failed: process args cannot be empty"),
        ("exec c1 --", 255, "exec failed: process args cannot be empty"),
        ("exec -u x c1 ls", 255, "exec failed: parsing x as int for uid failed: invalid number"),
        ("exec -u 1: c1 ls", 255, "exec failed: parsing  as int for gid failed: invalid number"),
        ("exec -u -1 c1 ls", 255, "exec failed: parsing -1 as int for uid failed: invalid number"),
        ("exec -g x c1 ls", 255, "exec failed: parsing x as int for additional gid failed: invalid number"),
        (
            "exec --cgroup a --cgroup cpu:b c1 ls",
            255,
            "exec failed: invalid --cgroup argument: a (missing <controller>: prefix)",
        ),
        ("exec --cgroup a:b:c c1 ls", 255, "exec failed: invalid --cgroup argument: a:b:c"),
        ("exec --cgroup :b c1 ls", 255, "exec failed: invalid --cgroup argument: :b (empty <controller> prefix)"),
        (
            "exec --cgroup a:b --cgroup a:c c1 ls",
            255,
            "exec failed: invalid --cgroup argument(s): controller a specified multiple times",
        ),
        ("exec -eX=y c1 ls", 1, "flag provided but not defined: -eX"),
        ("create -x c1", 1, "flag provided but not defined: -x"),
        ("create c1 --bogus", 1, "flag provided but not defined: -bogus"),
        ("create --root /r c1", 1, "flag provided but not defined: -root"),
        ("kill c1 -9", 1, "flag provided but not defined: -9"),
        ("-x", 1, "flag provided but not defined: -x"),
        ("---root / list", 1, "bad flag syntax: ---root"),
        ("--=x list", 1, "bad flag syntax: --=x"),
        ("create -=x c1", 1, "bad flag syntax: -=x"),
        ("--log", 1, "flag needs an argument: -log"),
        ("create --bundle", 1, "flag needs an argument: -bundle"),
        ("create c1 -b", 1, "flag needs an argument: -b"),
        ("create --preserve-fds x c1", 1, "invalid value \"x\" for flag -preserve-fds: parse error"),
        ("create --preserve-fds=-1 c1", 1, "invalid value \"-1\" for flag -preserve-fds: parse error"),
        (
            "create --preserve-fds 99999999999 c1",
            1,
            "invalid value \"99999999999\" for flag -preserve-fds: parse error",
        ),
        ("create --no-pivot=maybe c1", 1, "invalid boolean value \"maybe\" for -no-pivot: parse error"),
        ("kill c1 NOSIG", 1, "unknown signal \"NOSIG\""),
        ("kill c1 65", 1, "unknown signal \"65\""),
        ("kill c1 99999999999999", 1, "unknown signal \"99999999999999\""),
        ("kill c1 ''", 1, "unknown signal \"\""),
        ("kill c1 RTMIN-1", 1, "unknown signal \"RTMIN-1\""),
        ("kill c1 RTMAX-99", 1, "unknown signal \"RTMAX-99\""),
        ("list --format xml", 1, "invalid format option"),
        ("--root / list", 1, "Option --root argument should not be set to /"),
        ("--root // list", 1, "Option --root argument should not be set to /"),
        ("--log-format xml list", 1, "invalid log-format: xml"),
        ("--rootless maybe list", 1, "invalid rootless value: maybe"),
        ("--cgroup-manager x list", 1, "invalid cgroup-manager: x"),
        ("nosuch", 3, "No help topic for 'nosuch'"),
        ("help nosuch", 3, "No help topic for 'nosuch'"),
        ("ps", 1, "orlop: \"ps\" requires a minimum of 1 argument(s)"),
        ("ps --format xml c1", 1, "invalid format option"),
        ("pause", 1, "orlop: \"pause\" requires exactly 1 argument(s)"),
        ("resume a b", 1, "orlop: \"resume\" requires exactly 1 argument(s)"),
        ("update --memory 1g", 1, "orlop: \"update\" requires exactly 1 argument(s)"),
        ("update --memory 10x c1", 1, "invalid value for memory: \"10x\""),
        ("update --cpu-share -1 c1", 1, "invalid value for cpu-share: \"-1\""),
        ("update --cpu-quota 9223372036854775808 c1", 1, "invalid value for cpu-quota: \"9223372036854775808\""),
        ("update --blkio-weight 65536 c1", 1, "invalid value for blkio-weight: \"65536\""),
        ("update --pids-limit x c1", 1, "invalid value for pids-limit: \"x\""),
        ("update --l3-cache-schema x c1", 1, "--l3-cache-schema: this version of orlop does not support Intel RDT"),
        ("checkpoint c1", 1, "checkpoint: this version of orlop does not support this command"),
        ("events", 1, "orlop: \"events\" requires exactly 1 argument(s)"),
        ("events --interval 5 c1", 1, "invalid value \"5\" for flag -interval: parse error"),
        ("events --interval 0s c1", 1, "duration interval must be greater than 0"),
        ("events --stats --interval -1s c1", 1, "duration interval must be greater than 0"),
        ("completion tcsh", 1, "unknown shell \"tcsh\""),
    ] {
        let refusal = parse(line).expect_err(line);
        assert_eq!((refusal.status, refusal.message.as_str()), (status, message), "{line}");
    }
}

#[test]
fn a_mistake_is_logged_where_the_line_asked_for_and_shows_the_help_of_its_command() {
    let refusal = parse("--log /l --log-format json create -x c1").unwrap_err();
    assert_eq!((refusal.global.log.as_deref(), refusal.global.log_format), (Some("/l"), Format::Json));
    let screen = refusal.screen.unwrap();
    assert!(
        screen.starts_with("Incorrect Usage: flag provided but not defined: -x\n\nNAME:\n   orlop create"),
        "{screen}"
    );
    let screen = parse("create").unwrap_err().screen.unwrap();
    assert!(screen.starts_with("Incorrect Usage.\n\nNAME:\n   orlop create"), "{screen}");
    let refusal = parse("--log /l -x").unwrap_err();
    assert_eq!(refusal.global.log.as_deref(), Some("/l"));
    assert!(refusal.screen.unwrap().starts_with("Incorrect Usage. flag provided"));
    assert_eq!(parse("nosuch").unwrap_err().screen, None);
}

#[test]
fn a_word_that_is_not_utf_8_is_an_error_and_not_a_guess() {
    let argv = vec!["orlop".into(), "state".into(), OsString::from_vec(vec![b'a', 0xff])];
    assert_eq!(cli::parse(&argv, &root_user()).unwrap_err().message, "argument 2 is not valid UTF-8");
    assert!(matches!(cli::parse(&[], &root_user()).unwrap().command, Command::Help(_)));
}

#[test]
fn any_three_words_are_either_a_command_or_one_line_of_complaint() {
    const WORDS: &[&str] = &[
        "",
        "-",
        "--",
        "---",
        "-=",
        "--=",
        "-h",
        "--help",
        "help",
        "-v",
        "--root",
        "--root=/r",
        "--log=",
        "--debug",
        "--debug=x",
        "--rootless",
        "create",
        "start",
        "run",
        "exec",
        "state",
        "kill",
        "delete",
        "list",
        "spec",
        "features",
        "completion",
        "man",
        "ps",
        "nosuch",
        "c1",
        "9",
        "-9",
        "--all",
        "--force",
        "--bundle",
        "-b=",
        "--preserve-fds",
        "--cgroup",
        ":",
        "-u",
        "-g",
        "--format",
        "json",
        "\u{1f980}",
        "a\nb",
        "\u{0}",
    ];
    let mut accepted = 0;
    for first in WORDS {
        for second in WORDS {
            for third in WORDS {
                match parse_words([*first, *second, *third]) {
                    Ok(_) => accepted += 1,
                    Err(refusal) => {
                        assert!(matches!(refusal.status, 1 | 3 | 255), "{refusal:?}");
                        assert!(!refusal.message.is_empty());
                        let line = orlop::log::line(Format::Json, orlop::log::Level::Error, &refusal.message, 0);
                        assert_eq!(line.lines().count(), 1, "{line}");
                    }
                }
            }
        }
    }
    assert!(accepted > 10_000, "{accepted}");
}

#[test]
fn a_command_that_is_not_there_does_not_answer_to_help_either() {
    // Podman takes the success of `checkpoint --help` for the promise that checkpoints work.
    for name in ["checkpoint", "restore"] {
        for line in [format!("{name} --help"), format!("help {name}")] {
            assert_eq!(parse(&line).expect_err(&line).status, 1);
        }
    }
}

const COMMANDS: [&str; 15] = [
    "create", "start", "run", "exec", "state", "kill", "delete", "pause", "resume", "update", "ps", "events", "list",
    "spec", "features",
];

fn help(line: &str) -> String {
    match command(line) {
        Command::Help(text) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn every_way_to_ask_for_help_gives_the_same_page() {
    for line in ["", "''", "help", "h", "--help", "-h", "-help", "--debug --help"] {
        assert_eq!(help(line), help("--help"), "{line}");
    }
    for name in COMMANDS {
        let page = help(&format!("help {name}"));
        for line in [format!("{name} --help"), format!("{name} -h"), format!("{name} -help"), format!("h {name}")] {
            assert_eq!(help(&line), page, "{line}");
        }
        assert!(page.starts_with(&format!("NAME:\n   orlop {name} - ")));
    }
    assert_eq!(help("create c1 -h"), help("create --help"));
    assert!(help("-h").contains("COMMANDS:") && help("-h").contains("GLOBAL OPTIONS:"));
}

/// Compares with tests/data/NAME; `BLESS=1` writes the file instead.
fn golden(name: &str, found: &str) {
    let path = format!("{}/data/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        #[allow(clippy::disallowed_methods, reason = "a file of this package")]
        std::fs::write(&path, found).unwrap();
    }
    #[allow(clippy::disallowed_methods, reason = "a file of this package")]
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == found, "{path} differs; BLESS=1 writes it anew. Found:\n{found}");
}

#[test]
fn the_pages_are_those_that_were_last_looked_at() {
    let mut pages = help("--help");
    for name in COMMANDS {
        pages.push_str(&format!("\n======== orlop {name} --help\n"));
        pages.push_str(&help(&format!("{name} --help")));
    }
    golden("help.txt", &pages.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    for (number, line) in pages.lines().enumerate() {
        assert!(line.chars().count() <= 100, "line {number} is too long: {line}");
        assert_eq!(line.trim_end(), line, "line {number} ends in blanks");
    }
}

#[test]
fn the_version_can_be_read_by_docker_and_nerdctl() {
    let version = cli::version();
    let lines: Vec<_> = version.lines().collect();
    let words: Vec<_> = lines[0].split(' ').collect();
    assert_eq!(words, ["orlop", "version", env!("CARGO_PKG_VERSION")]);
    assert!(lines[1].strip_prefix("commit: ").is_some_and(|commit| !commit.is_empty() && !commit.contains(' ')));
    assert_eq!(lines[2..], ["spec: 1.3.0"]);
}

#[test]
fn there_is_a_manual_page_for_every_command_and_roff_has_nothing_to_trip_over() {
    let pages: Vec<_> = cli::man::pages().collect();
    for name in COMMANDS.iter().map(|name| format!("orlop-{name}.8")).chain([text("orlop.8")]) {
        assert!(pages.iter().any(|(file, _)| *file == name), "{name} is missing");
    }
    let macros = [".TH ", ".nh", ".SH ", ".TP", ".PP", ".B ", ".BR ", ".I ", ".br"];
    for (name, page) in pages {
        assert!(page.starts_with(".TH ORLOP"), "{name}");
        for line in page.lines() {
            assert!(!line.is_empty() && !line.starts_with('\''), "{name}: {line:?}");
            assert!(!line.starts_with('.') || macros.iter().any(|known| line.starts_with(known)), "{name}: {line}");
        }
    }
}

#[test]
fn the_completion_scripts_are_those_that_were_last_looked_at() {
    use cli::completion::{Shell, script};
    for (shell, name) in
        [(Shell::Bash, "completion.bash"), (Shell::Zsh, "completion.zsh"), (Shell::Fish, "completion.fish")]
    {
        golden(name, &script(shell));
    }
}
