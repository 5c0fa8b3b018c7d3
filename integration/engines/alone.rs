//! The guide's walk-through without any engine: orlop-bundle keeps images and makes bundles, orlop runs them, and orlop-shim
//! stays with those that are to be watched. What takes an engine is left out: building from a Dockerfile, and ports that
//! are published; containers have the host's network here, and a port each.

use std::fs;
use std::time::{Duration, Instant};

use orlop_integration::Ran;
use serde_json::Value;

use crate::host::{Host, Release, until};
use crate::pty::Terminal;
use crate::walk::registry::{REGISTRY, USER, serve};
use crate::walk::{Base, Follower};

/// The steps in their order: later ones use the images that earlier ones have made.
const STEPS: [(&str, Step); 17] = [
    ("an image of an app, made in a container", web),
    ("images, tags, history and sizes", images),
    ("three containers of one image", three),
    ("a container's states, with the runtime alone", states),
    ("a container's states, watched", watched),
    ("exit statuses", statuses),
    ("change a file in a container, and lose it with the container", lost),
    ("environment variables and users", settings),
    ("folders of the host, and volumes", volumes),
    ("limits of processors and memory", limits),
    ("restart after a crash", restart),
    ("inspect", inspect),
    ("logs, and logs that are followed", logs),
    ("stats", stats),
    ("a shell at a terminal", terminal),
    ("log in, push and pull", registry),
    ("prune", prune),
];

/// What a user does, and what is promised.
type Step = fn(&Alone<'_>);

#[test]
fn the_guide_without_an_engine() {
    let topic = "the daemonless way";
    let needs = ["orlop-bundle", "orlop-shim", "busybox", "bash"];
    let Some(host) = Host::new(Release::Bookworm, topic, &needs) else { return };
    let Some(base) = Base::new(topic) else { return };
    let alone = Alone { host: &host };
    let _packages = base.serve(&host);
    let (tar, environment) = base.node();
    let changes: Vec<_> = environment.iter().flat_map(|line| ["-c", line]).collect();
    let mut import = host.command(&[&["orlop-bundle", "import"], &changes[..], &["-", "node:18"]].concat());
    import.stdin(fs::File::open(tar).unwrap());
    host.ran(import).must();
    for (what, step) in STEPS {
        let started = Instant::now();
        step(&alone);
        eprintln!("{:5.1} s: {what}", started.elapsed().as_secs_f64());
    }
    assert_eq!(host.mounts(), [""; 0]);
    until("the end of all processes", || host.processes().iter().all(|(_, argv)| argv.contains("httpd")).then_some(()));
}

/// The three programs on a host.
struct Alone<'a> {
    host: &'a Host,
}

impl Alone<'_> {
    /// orlop-bundle, which must succeed. What it printed, without the last line's end.
    #[track_caller]
    fn bundle(&self, args: &[&str]) -> String {
        self.must("orlop-bundle", args)
    }

    /// orlop.
    #[track_caller]
    fn runtime(&self, args: &[&str]) -> String {
        self.must("orlop", args)
    }

    /// orlop-shim.
    #[track_caller]
    fn shim(&self, args: &[&str]) -> String {
        self.must("orlop-shim", args)
    }

    #[track_caller]
    fn must(&self, program: &str, args: &[&str]) -> String {
        let ran = self.ran(program, args);
        assert!(ran.ok(), "{program} {args:?}: {}: {}{}", ran.status, ran.out, ran.err);
        ran.out.trim_end().to_owned()
    }

    /// Any of them, which must be refused. What it said.
    #[track_caller]
    fn refused(&self, program: &str, args: &[&str]) -> String {
        let ran = self.ran(program, args);
        assert!(!ran.ok(), "{program} {args:?} is not refused: {}{}", ran.out, ran.err);
        ran.err
    }

    fn ran(&self, program: &str, args: &[&str]) -> Ran {
        self.host.run(&[&[program], args].concat())
    }

    /// Makes a bundle in `/srv/bundles`, in the host's network, and runs it as a container of the same name.
    #[track_caller]
    fn run(&self, name: &str, options: &[&str], image: &[&str], shim: &[&str]) {
        let path = format!("bundles/{name}");
        let (image, command) = image.split_first().unwrap();
        self.bundle(&[&["create", "--network", "host"], options, &[image, &path], command].concat());
        assert_eq!(self.shim(&[&["run", "-d"], shim, &["-b", &path, name]].concat()), name);
    }

    /// Removes containers with their bundles.
    #[track_caller]
    fn remove(&self, names: &[&str]) {
        for name in names {
            self.shim(&["rm", "--force", name]);
            self.bundle(&["rm", &format!("bundles/{name}")]);
        }
    }

    /// inspect's document of a container.
    #[track_caller]
    fn inspect(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.shim(&["inspect", name])).unwrap();
        all[0].clone()
    }

    #[track_caller]
    fn status(&self, name: &str) -> String {
        self.inspect(name)["State"]["Status"].as_str().unwrap().to_owned()
    }

    /// Runs a script in a container.
    #[track_caller]
    fn exec(&self, name: &str, script: &str) -> String {
        self.shim(&["exec", name, "sh", "-c", script])
    }

    /// What a port of the host answers, if it does within two seconds.
    fn get(&self, port: u16, path: &str) -> Option<String> {
        let script = "exec 3<>/dev/tcp/127.0.0.1/$0 && printf 'GET %s HTTP/1.0\\r\\n\\r\\n' $1 >&3 && cat <&3";
        let ran = self.host.run(&["timeout", "2", "bash", "-c", script, &port.to_string(), path]);
        let (head, body) = ran.out.split_once("\r\n\r\n")?;
        head.lines().next()?.contains(" 200 ").then(|| body.trim_end().to_owned())
    }

    #[track_caller]
    fn answers(&self, port: u16, path: &str, want: &str) {
        until(&format!("{want:?} from port {port}"), || (self.get(port, path)? == want).then_some(()));
    }
}

/// What a Dockerfile would say, done by hand.
fn web(alone: &Alone<'_>) {
    let server = include_str!("walk/web/server.js").replace("app.listen(3000,", "app.listen(process.env.PORT || 3000,");
    alone.host.write("/srv/web/server.js", server);
    alone.host.write("/srv/web/package.json", include_str!("walk/web/package.json"));
    alone.host.write("/srv/web/public/index.html", include_str!("walk/web/public/index.html"));
    let script = "cp -r /src/. . && npm install && ls node_modules | grep -c express";
    let options = ["--network", "host", "-v", "/srv/web:/src:ro", "-w", "/app"];
    alone.bundle(&[&["create"], &options[..], &["node:18", "bundles/workshop", "sh", "-c", script]].concat());
    let said = alone.runtime(&["run", "-b", "bundles/workshop", "workshop"]);
    assert!(said.contains("added ") && said.ends_with("\n1"), "{said}");
    let diff = alone.bundle(&["diff", "bundles/workshop"]);
    assert!(diff.lines().any(|line| line == "A /app/node_modules/express"), "{diff}");
    let changes = ["WORKDIR /app", "ENV VERSION=none", "EXPOSE 3000", "CMD [\"node\", \"server.js\"]"];
    let changes: Vec<_> = changes.iter().flat_map(|change| ["-c", change]).collect();
    alone.bundle(&[&["commit", "-m", "with express"], &changes[..], &["bundles/workshop", "web:1.0"]].concat());
    alone.bundle(&["rm", "bundles/workshop"]);
}

fn images(alone: &Alone<'_>) {
    alone.bundle(&["tag", "web:1.0", "web:latest"]);
    let listed = alone.bundle(&["images", "--format", "{{.Repository}}:{{.Tag}}", "--sort", "name"]);
    assert_eq!(listed, "node:18\nweb:1.0\nweb:latest");
    let id = |name: &str| alone.bundle(&["images", "-q", "--no-trunc", name]);
    assert_eq!(id("web:1.0"), id("web:latest"));
    let steps = alone.bundle(&["history", "--human=false", "--format", "{{.Size}} {{.Comment}}", "web:1.0"]);
    let sizes: Vec<u64> = steps.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(steps.lines().count() == 2 && steps.contains(" with express"), "{steps}");
    let size = alone.bundle(&["inspect", "-f", "{{.Size}}", "web:1.0"]);
    assert_eq!(size.parse::<u64>().unwrap(), sizes.iter().sum::<u64>());
    assert!(sizes[0] > 1_000_000 && sizes[1] > 50 * sizes[0], "{sizes:?}");
    let shared = alone.bundle(&["images", "--json", "web"]);
    let shared: Value = serde_json::from_str(&shared).unwrap();
    assert_eq!(shared[0]["SharedSize"], sizes[1], "all but its own layer");
}

fn three(alone: &Alone<'_>) {
    let (names, ports) = (["web1", "web2", "web3"], [8081, 8082, 8083]);
    for (name, port) in names.iter().zip(ports) {
        alone.run(name, &["-e", &format!("PORT={port}")], &["web:1.0"], &[]);
    }
    for port in ports {
        alone.answers(port, "/", "<h1>Ahoy</h1>");
    }
    let used: Value = serde_json::from_str(&alone.bundle(&["df", "--json"])).unwrap();
    let row = used["Usage"].as_array().unwrap().iter().find(|row| row["Type"] == "Bundles").unwrap();
    assert_eq!((&row["TotalCount"], &row["Active"], &row["Reclaimable"]), (&3.into(), &3.into(), &0.into()));
    assert!(row["Size"].as_u64().unwrap() < 1 << 20, "what they share is theirs once: {row}");
    assert_eq!(alone.shim(&["ps", "-q"]).lines().count(), 3);
    // One falls, the others stand.
    alone.remove(&["web2"]);
    assert_eq!(ports.map(|port| alone.get(port, "/").is_some()), [true, false, true]);
    alone.remove(&["web1", "web3"]);
    assert_eq!(alone.shim(&["ps", "-a", "-q"]), "");
}

fn states(alone: &Alone<'_>) {
    alone.bundle(&["create", "--network", "host", "-e", "PORT=8090", "web:1.0", "bundles/life"]);
    let state = || -> Value { serde_json::from_str(&alone.runtime(&["state", "life"])).unwrap() };
    alone.runtime(&["create", "-b", "bundles/life", "life"]);
    assert_eq!((&state()["status"], alone.get(8090, "/")), (&"created".into(), None));
    alone.runtime(&["start", "life"]);
    alone.answers(8090, "/", "<h1>Ahoy</h1>");
    alone.runtime(&["pause", "life"]);
    assert_eq!((&state()["status"], alone.get(8090, "/")), (&"paused".into(), None));
    alone.runtime(&["resume", "life"]);
    assert_eq!(state()["status"], "running");
    assert_eq!(alone.runtime(&["exec", "life", "pwd"]), "/app");
    assert!(alone.refused("orlop-bundle", &["rm", "bundles/life"]).contains("in use"));
    alone.runtime(&["kill", "life", "TERM"]);
    until("its end", || (state()["status"] == "stopped").then_some(()));
    alone.runtime(&["delete", "life"]);
    alone.refused("orlop", &["state", "life"]);
    alone.bundle(&["rm", "bundles/life"]);
}

fn watched(alone: &Alone<'_>) {
    alone.run("life", &["-e", "PORT=8090"], &["web:1.0"], &[]);
    alone.answers(8090, "/", "<h1>Ahoy</h1>");
    let pid = alone.inspect("life")["State"]["Pid"].clone();
    alone.shim(&["pause", "life"]);
    assert_eq!((alone.status("life").as_str(), alone.get(8090, "/")), ("paused", None));
    alone.refused("orlop-shim", &["exec", "life", "true"]);
    alone.shim(&["unpause", "life"]);
    alone.answers(8090, "/", "<h1>Ahoy</h1>");
    // It is asked to end, and does before it would be killed.
    let asked = Instant::now();
    alone.shim(&["stop", "-t", "10", "life"]);
    assert!(asked.elapsed() < Duration::from_secs(9), "killed after {:?}", asked.elapsed());
    let state = &alone.inspect("life")["State"];
    assert_eq!((&state["Status"], &state["ExitCode"], &state["Pid"]), (&"exited".into(), &0.into(), &0.into()));
    assert!(alone.shim(&["logs", "life"]).ends_with("closing"));
    alone.shim(&["start", "life"]);
    alone.answers(8090, "/", "<h1>Ahoy</h1>");
    let again = alone.inspect("life")["State"]["Pid"].clone();
    assert_ne!(again, pid);
    alone.shim(&["restart", "life"]);
    alone.answers(8090, "/", "<h1>Ahoy</h1>");
    assert_ne!(alone.inspect("life")["State"]["Pid"], again);
    alone.refused("orlop-shim", &["rm", "life"]);
    alone.remove(&["life"]);
}

fn statuses(alone: &Alone<'_>) {
    for (script, status) in [("exit 7", 7), ("sh -c 'kill -9 $$'", 137), ("true", 0)] {
        alone.bundle(&["create", "node:18", "bundles/once", "sh", "-c", script]);
        let ran = alone.ran("orlop", &["run", "-b", "bundles/once", "once"]);
        assert_eq!(ran.status.code(), Some(status), "orlop: {script}: {}", ran.err);
        let ran = alone.ran("orlop-shim", &["run", "--rm", "-b", "bundles/once", "once"]);
        assert_eq!(ran.status.code(), Some(status), "orlop-shim: {script}: {}", ran.err);
        alone.bundle(&["rm", "bundles/once"]);
    }
}

fn lost(alone: &Alone<'_>) {
    let run = || {
        alone.run("web", &["-e", "PORT=8080"], &["web:1.0"], &[]);
        alone.answers(8080, "/", "<h1>Ahoy</h1>");
    };
    run();
    let script = "echo '<h1>Changed</h1>' > public/index.html && rm package.json && touch new && pwd && id -u";
    assert_eq!(alone.exec("web", script), "/app\n0");
    alone.answers(8080, "/", "<h1>Changed</h1>");
    let diff = alone.bundle(&["diff", "bundles/web"]);
    for line in ["C /app/public/index.html", "A /app/new", "D /app/package.json"] {
        assert!(diff.lines().any(|l| l == line), "{line:?} is not in\n{diff}");
    }
    // A restart keeps it, and an end does not.
    alone.shim(&["restart", "web"]);
    alone.answers(8080, "/", "<h1>Changed</h1>");
    alone.remove(&["web"]);
    run();
    assert_eq!(alone.exec("web", "ls new 2>/dev/null | wc -l"), "0");
    alone.remove(&["web"]);
}

fn settings(alone: &Alone<'_>) {
    alone.host.write("/srv/variables", "FROM_FILE=yes\n# a comment\n");
    let options = ["-e", "GREETING=Moin", "--env-file", "variables", "-e", "PORT=8080", "-u", "www-data"];
    alone.run("web", &options, &["web:1.0"], &[]);
    alone.answers(8080, "/greeting", "Moin");
    assert_eq!(alone.exec("web", "echo $FROM_FILE $VERSION $PWD; id -un"), "yes none /app\nwww-data");
    alone.remove(&["web"]);
}

fn volumes(alone: &Alone<'_>) {
    alone.host.write("/srv/shared/a", "from the host\n");
    alone.host.must(&["mkdir", "-p", "data"]);
    let options = ["-v", "/srv/shared:/shared:ro", "-v", "/srv/data:/data", "--tmpfs", "/scratch", "-v", "/app/public"];
    alone.run("keeper", &options, &["web:1.0", "sleep", "1000"], &[]);
    assert_eq!(
        alone.exec("keeper", "cat /shared/a; echo kept > /data/x; ls public; touch public/made /scratch/x"),
        "from the host\nindex.html"
    );
    assert_ne!(alone.ran("orlop-shim", &["exec", "keeper", "touch", "/shared/b"]).status.code(), Some(0));
    // The writable layer has nothing of it.
    let diff = alone.bundle(&["diff", "bundles/keeper"]);
    assert!(!diff.contains("/shared/") && !diff.contains("/data/") && !diff.contains("made"), "{diff}");
    alone.remove(&["keeper"]);
    assert_eq!(alone.host.read("/srv/data/x"), "kept\n");
}

fn limits(alone: &Alone<'_>) {
    let limits = ["--cpus", "1.5", "--memory", "512m"];
    alone.run("small", &limits, &["node:18", "sleep", "1000"], &[]);
    let script = "cd /sys/fs/cgroup; if [ -e memory.max ]; then cat memory.max cpu.max
        else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us; fi";
    assert_eq!(alone.exec("small", script).replace('\n', " "), "536870912 150000 100000");
    let script = format!(
        "pid={}; of() {{ sed -n \"s/^[0-9]*:\\(.*,\\)\\?$1\\(,.*\\)\\?://p\" /proc/$pid/cgroup; }}; cd /sys/fs/cgroup
        if [ -n \"$(of memory)\" ]; then cat memory$(of memory)/memory.limit_in_bytes
            cat cpu$(of cpu)/cpu.cfs_quota_us cpu$(of cpu)/cpu.cfs_period_us
        else cat .$(sed -n s/^0:://p /proc/$pid/cgroup)/memory.max .$(sed -n s/^0:://p /proc/$pid/cgroup)/cpu.max; fi",
        alone.inspect("small")["State"]["Pid"]
    );
    let outside = alone.host.must(&["sh", "-ec", &script]);
    assert_eq!(outside.trim_end().replace('\n', " "), "536870912 150000 100000");
    alone.remove(&["small"]);

    // 64 MiB are less than this program wants.
    let hungry = "const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1))";
    let limit = ["--memory", "64m", "--memory-swap", "64m"];
    alone.run("hungry", &limit, &["node:18", "node", "-e", hungry], &[]);
    assert_eq!(alone.shim(&["wait", "hungry"]), "137");
    let state = &alone.inspect("hungry")["State"];
    assert_eq!((&state["OOMKilled"], &state["ExitCode"]), (&true.into(), &137.into()));
    alone.remove(&["hungry"]);
}

fn restart(alone: &Alone<'_>) {
    alone.run("phoenix", &["-e", "PORT=8080"], &["web:1.0"], &["--restart", "always"]);
    alone.answers(8080, "/", "<h1>Ahoy</h1>");
    for crashes in 1..=2 {
        assert_eq!(alone.get(8080, "/crash"), None);
        until("a restart", || (alone.inspect("phoenix")["RestartCount"] == crashes).then_some(()));
        alone.answers(8080, "/", "<h1>Ahoy</h1>");
    }
    // One that is stopped stays so.
    alone.shim(&["stop", "phoenix"]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(alone.status("phoenix"), "exited");
    alone.remove(&["phoenix"]);

    let command = ["node:18", "sh", "-c", "echo again; exit 3"];
    alone.run("stubborn", &[], &command, &["--restart", "on-failure:2"]);
    until("its last end", || {
        let now = alone.inspect("stubborn");
        (now["State"]["Status"] == "exited" && now["State"]["ExitCode"] == 3 && now["RestartCount"] == 2).then_some(())
    });
    assert_eq!(alone.shim(&["logs", "stubborn"]), "again\nagain\nagain");
    alone.remove(&["stubborn"]);
}

fn inspect(alone: &Alone<'_>) {
    let options = ["-e", "PORT=8080", "-v", "/srv/shared:/shared:ro", "--hostname", "deck"];
    alone.run("web", &options, &["web:1.0"], &["--restart", "unless-stopped", "--stop-timeout", "3"]);
    alone.answers(8080, "/", "<h1>Ahoy</h1>");
    let web = alone.inspect("web");
    assert_eq!((&web["Id"], &web["State"]["Running"]), (&"web".into(), &true.into()));
    assert_eq!(web["HostConfig"]["RestartPolicy"]["Name"], "unless-stopped");
    assert_eq!((&web["Config"]["StopTimeout"], &web["Config"]["StopSignal"]), (&3.into(), &"SIGTERM".into()));
    let arguments = alone.host.must(&["cat", &format!("/proc/{}/cmdline", web["State"]["Pid"])]);
    assert_eq!(arguments, "node\0server.js\0");
    // The rest is in the bundle.
    let config: Value =
        serde_json::from_str(&alone.host.read(&format!("{}/config.json", web["Bundle"].as_str().unwrap()))).unwrap();
    let mounts = config["mounts"].as_array().unwrap();
    assert!(mounts.iter().any(|mount| mount["destination"] == "/shared" && mount["source"] == "/srv/shared"));
    alone.remove(&["web"]);
}

fn logs(alone: &Alone<'_>) {
    alone.run("web", &["-e", "PORT=8080"], &["web:1.0"], &[]);
    alone.answers(8080, "/", "<h1>Ahoy</h1>");
    let lines = alone.shim(&["logs", "web"]);
    assert_eq!(lines, "listening on 3000\nGET /", "each line once");
    assert_eq!(alone.shim(&["logs", "--tail", "1", "web"]), "GET /");
    let dated = alone.shim(&["logs", "--timestamps", "web"]);
    assert!(dated.starts_with("20") && dated.ends_with(" GET /"), "{dated}");

    let follower = Follower::new(alone.host.command(&["orlop-shim", "logs", "-f", "web"]));
    assert_eq!((follower.line().as_str(), follower.line().as_str()), ("listening on 3000", "GET /"));
    alone.get(8080, "/name");
    assert_eq!(follower.line(), "GET /name");
    // It ends with the container.
    alone.shim(&["stop", "web"]);
    assert_eq!(follower.line(), "closing");
    follower.end();
    alone.remove(&["web"]);

    // Both streams, and all of what comes just before the end.
    let script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; echo last >&2";
    alone.run("talker", &[], &["node:18", "sh", "-c", script], &["--log-format", "json"]);
    assert_eq!(alone.shim(&["wait", "talker"]), "0");
    let want: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    let ran = alone.ran("orlop-shim", &["logs", "talker"]).must();
    assert!(ran.out == want && ran.err == "last\n", "{} bytes, {:?}", ran.out.len(), ran.err);
    alone.remove(&["talker"]);
}

fn stats(alone: &Alone<'_>) {
    let limits = ["--memory", "512m", "--cpus", "1.5"];
    alone.run("busy", &limits, &["node:18", "sh", "-c", "while :; do :; done"], &[]);
    alone.run("idle", &[], &["node:18", "sleep", "1000"], &[]);
    let rows = || -> [Vec<String>; 2] {
        let table = alone.shim(&["stats", "--no-stream", "busy", "idle"]);
        let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{table}"));
        ["busy", "idle"].map(|name| row(name).split_whitespace().map(str::to_owned).collect())
    };
    let share = |row: &[String]| row[1].trim_end_matches('%').parse::<f64>().unwrap();
    // A machine with much to do may have little for it, at the moment.
    let [busy, idle] = until("a share of the processor", || Some(rows()).filter(|[busy, _]| share(busy) > 10.0));
    assert!(share(&idle) < 2.0, "{idle:?}");
    assert_eq!((busy[4].as_str(), busy.last().unwrap().as_str()), ("512MiB", "1"), "{busy:?}");
    alone.remove(&["busy", "idle"]);
}

fn terminal(alone: &Alone<'_>) {
    alone.run("web", &["-e", "PORT=8080"], &["web:1.0"], &[]);
    let argv = ["orlop-shim", "exec", "-it", "-e", "PS1=ready> ", "web", "sh"];
    let mut shell = Terminal::run(&alone.host.interactive(&argv));
    shell.expect("ready> ");
    let mut ask = |question: &str| {
        shell.type_in(&format!("{question}\n"));
        shell.expect("\r\n");
        shell.expect("ready> ").trim_end().to_owned()
    };
    assert_eq!(ask("pwd; tty"), "/app\r\n/dev/pts/0");
    assert_eq!(ask("stty size"), "30 100");
    shell.type_in("exit 3\n");
    assert_eq!(shell.wait(), 3);
    alone.remove(&["web"]);
}

fn registry(alone: &Alone<'_>) {
    const NAME: &str = "127.0.0.1:5000/team/web:1.0";
    let host = alone.host;
    let Some(_server) = serve(host) else { return };
    alone.bundle(&["tag", "web:1.0", NAME]);
    alone.refused("orlop-bundle", &["push", NAME]);
    alone.refused("orlop-bundle", &["login", "-u", USER.0, "-p", "wrong", REGISTRY]);
    assert!(alone.bundle(&["login", "-u", USER.0, "-p", USER.1, REGISTRY]).contains("Login Succeeded"));
    let arrived = |ran: Ran| {
        ran.must().err.lines().filter(|line| line.ends_with(": Pushed") || line.ends_with(": Pull complete")).count()
    };
    assert_eq!(arrived(alone.ran("orlop-bundle", &["push", NAME])), 3, "two layers and a configuration");
    assert_eq!(arrived(alone.ran("orlop-bundle", &["push", NAME])), 0, "nothing was missing");
    let id = alone.bundle(&["images", "-q", "--no-trunc", NAME]);
    // Somebody else, who has the base.
    let other = ["--store", "/var/lib/orlop/other"];
    alone.bundle(&["save", "-o", "node.tar", "node:18"]);
    alone.bundle(&[&other[..], &["load", "-i", "node.tar"]].concat());
    assert_eq!(arrived(alone.ran("orlop-bundle", &[&other[..], &["pull", NAME]].concat())), 1, "all but the base");
    assert_eq!(alone.bundle(&[&other[..], &["images", "-q", "--no-trunc", NAME]].concat()), id);
    alone.bundle(&["logout", REGISTRY]);
    alone.refused("orlop-bundle", &["push", NAME]);
    host.must(&["rm", "-r", "/var/lib/orlop/other", "/srv/registry", "/srv/node.tar"]);
    alone.bundle(&["rmi", NAME]);
}

fn prune(alone: &Alone<'_>) {
    alone.run("stays", &[], &["node:18", "sleep", "1000"], &[]);
    alone.run("ended", &[], &["web:1.0", "true"], &[]);
    alone.shim(&["wait", "ended"]);
    let ended = alone.shim(&["ps", "-a", "--json"]);
    let ended: Value = serde_json::from_str(&ended).unwrap();
    for container in ended.as_array().unwrap().iter().filter(|container| container["State"]["Running"] == false) {
        alone.remove(&[container["Id"].as_str().unwrap()]);
    }
    assert_eq!(alone.shim(&["ps", "-a", "-q"]), "stays");

    let images = || alone.bundle(&["images", "--format", "{{.Repository}}:{{.Tag}}", "--sort", "size"]);
    let dangling = || alone.bundle(&["images", "-q", "--filter", "dangling=true"]);
    // A name that another takes.
    alone.bundle(&["create", "web:1.0", "bundles/next", "true"]);
    alone.runtime(&["run", "-b", "bundles/next", "next"]);
    alone.bundle(&["commit", "bundles/next", "web:2.0"]);
    alone.bundle(&["commit", "-c", "ENV VERSION=2", "bundles/next", "web:2.0"]);
    alone.bundle(&["rm", "bundles/next"]);
    assert_eq!(dangling().lines().count(), 1);
    alone.bundle(&["prune", "-f"]);
    assert_eq!(dangling(), "");
    assert_eq!(images().lines().count(), 4, "{}", images());
    assert_eq!(images().lines().last(), Some("node:18"), "the smallest is the last");
    alone.bundle(&["prune", "-a", "-f"]);
    assert_eq!(images(), "node:18");
    assert_eq!(alone.status("stays"), "running");
    alone.remove(&["stays"]);
    alone.bundle(&["prune", "-a", "-f"]);
    assert_eq!(images(), "");
    assert!(alone.host.list("/var/lib/orlop/layers").is_empty(), "layers are left");
}
