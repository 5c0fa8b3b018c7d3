//! What is seen of a container from outside, and a shell in it.

use serde_json::Value;

use super::engine::Engine;
use super::follow::Follower;
use crate::host::until;

/// inspect's document.
pub(super) fn inspect(engine: &Engine) {
    let options =
        ["-p", "8080:3000", "-e", "GREETING=x", "-v", "/srv/shared:/shared:ro", "--memory", "256m", "-l", "a=b"];
    let id = engine.must(&[&["run", "-d", "--name", "web"], &options[..], &["web:1.0"]].concat());
    engine.answers(8080, "/", "<h1>Ahoy</h1>");
    let document: Value = serde_json::from_str(&engine.must(&["inspect", "web"])).unwrap();
    let web = &document[0];
    assert_eq!(web["Id"], id.as_str());
    assert_eq!(web["Name"].as_str().unwrap().trim_start_matches('/'), "web");
    assert_eq!((&web["State"]["Status"], &web["State"]["Running"]), (&"running".into(), &true.into()));
    assert_eq!(web["Config"]["Labels"]["a"], "b");
    let env = web["Config"]["Env"].as_array().unwrap();
    assert!(env.contains(&"GREETING=x".into()) && env.contains(&"VERSION=none".into()), "{env:?}");
    assert_eq!(web["HostConfig"]["Memory"], 256 << 20);
    assert_eq!(web["NetworkSettings"]["Ports"]["3000/tcp"][0]["HostPort"], "8080");
    let mount = web["Mounts"].as_array().unwrap().iter().find(|mount| mount["Destination"] == "/shared").unwrap();
    assert_eq!((&mount["Source"], &mount["RW"]), (&"/srv/shared".into(), &false.into()));
    // Its first process is the app.
    let arguments = engine.host.must(&["cat", &format!("/proc/{}/cmdline", web["State"]["Pid"])]);
    assert_eq!(arguments, "node\0server.js\0");
    let top = engine.must(&["top", "web"]);
    assert_eq!(top.lines().filter(|line| line.ends_with("node server.js")).count(), 1, "{top}");
    engine.remove(&["web"]);
}

/// logs, and -f.
pub(super) fn logs(engine: &Engine) {
    engine.must(&["run", "-d", "-p", "8080:3000", "--name", "web", "web:1.0"]);
    engine.answers(8080, "/", "<h1>Ahoy</h1>");
    // The answer may be here before the line that tells of it.
    let lines = || engine.must(&["logs", "web"]);
    until("the log of the answer", || lines().contains("GET /").then_some(()));
    assert_eq!(lines(), "listening on 3000\nGET /", "each line once");
    assert_eq!(engine.must(&["logs", "--tail", "1", "web"]), "GET /");
    let dated = engine.must(&["logs", "--timestamps", "web"]);
    assert!(dated.starts_with("20") && dated.ends_with(" GET /"), "{dated}");

    let follower = Follower::new(engine.command(&["logs", "-f", "web"]));
    assert_eq!((follower.line().as_str(), follower.line().as_str()), ("listening on 3000", "GET /"));
    engine.get(8080, "/name");
    assert_eq!(follower.line(), "GET /name");
    engine.get(8080, "/version");
    assert_eq!(follower.line(), "GET /version");
    // It ends with the container.
    engine.must(&["stop", "web"]);
    assert_eq!(follower.line(), "closing");
    follower.end();
    engine.remove(&["web"]);

    // Both streams, and all of what comes just before the end.
    let script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; echo last >&2";
    let ran = engine.run(&["run", "--name", "talker", "busybox:1", "sh", "-c", script]).must();
    let want: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    assert!(ran.out == want && ran.err == "last\n", "{} bytes, {:?}", ran.out.len(), ran.err);
    let ran = engine.run(&["logs", "talker"]).must();
    assert!(ran.out == want && ran.err == "last\n", "{} bytes, {:?}", ran.out.len(), ran.err);
    engine.remove(&["talker"]);
}

/// stats.
pub(super) fn stats(engine: &Engine) {
    let options = ["--memory", "512m", "--cpus", "1.5"];
    engine.must(
        &[&["run", "-d", "--name", "busy"], &options[..], &["busybox:1", "sh", "-c", "while :; do :; done"]].concat(),
    );
    engine.must(&["run", "-d", "--name", "idle", "busybox:1", "sleep", "1000"]);
    let row = |name: &str| {
        let format = "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.PIDs}}";
        let row = engine.must(&["stats", "--no-stream", "--format", format, name]);
        let mut fields = row.split('|').map(str::to_owned);
        std::array::from_fn::<_, 4, _>(|_| fields.next().unwrap())
    };
    let busy = row("busy");
    let share = |row: &[String; 4]| row[1].trim_end_matches('%').parse::<f64>().unwrap();
    assert!(busy[0] == "busy" && share(&busy) > 2.0 && busy[3] == "1", "{busy:?}");
    let (used, limit) = busy[2].split_once(" / ").unwrap();
    assert!(limit == engine.kind.half_a_gibibyte() && !used.starts_with("0B"), "{busy:?}");
    // Podman's share is the mean of the whole life, its beginning too: what only sleeps falls below any limit.
    let idle = || Some(row("idle")).filter(|idle| share(idle) < 2.0);
    let idle = until("an idle container to show no load", idle);
    assert!(idle[0] == "idle" && idle[3] == "1", "{idle:?}");
    engine.remove(&["busy", "idle"]);
}

/// exec -it.
pub(super) fn terminal(engine: &Engine) {
    engine.must(&["run", "-d", "--name", "web", "web:1.0"]);
    let mut shell = engine.terminal(&["exec", "-it", "-e", "PS1=ready> ", "web", "sh"]);
    shell.expect("ready> ");
    let mut ask = |question: &str| {
        shell.type_in(&format!("{question}\n"));
        shell.expect("\r\n");
        let answer = shell.expect("ready> ");
        answer.trim_end().to_owned()
    };
    assert_eq!(ask("pwd; tty"), "/app\r\n/dev/pts/0");
    assert_eq!(ask("stty size"), "30 100");
    assert_eq!(ask("ls"), "Dockerfile  node_modules  package-lock.json  package.json  public  server.js");
    assert_eq!(ask("test -t 0 && test -t 1 && test -t 2 && echo three"), "three");
    // Keys become signals of what runs in front.
    shell.type_in("sleep 1000\n");
    shell.expect("sleep 1000");
    let asleep = || engine.must(&["top", "web"]).lines().any(|line| line.ends_with(" sleep 1000"));
    until("the command to run", || asleep().then_some(()));
    shell.type_in("\x03");
    shell.expect("ready> ");
    // A window's new size arrives.
    shell.resize(40, 120);
    until("the new size", || {
        shell.type_in("stty size\n");
        shell.expect("stty size\r\n");
        (shell.expect("ready> ").trim_end() == "40 120").then_some(())
    });
    shell.type_in("exit 3\n");
    assert_eq!(shell.wait(), 3);
    engine.remove(&["web"]);

    let mut shell = engine.terminal(&["run", "--rm", "-it", "--name", "visit", "busybox:1"]);
    shell.expect("/ # ");
    shell.type_in("echo $((6 * 7))\n");
    shell.expect("\n42\r\n");
    shell.type_in("exit 4\n");
    assert_eq!(shell.wait(), 4);
    engine.refused(&["inspect", "--type", "container", "visit"]);
    // Without a terminal, what is piped in is read to its end.
    let piped = engine.shell(&["run", "--rm", "-i", "busybox:1", "wc", "-c"]);
    assert_eq!(engine.host.must(&["sh", "-c", &format!("head -c 300000 /dev/zero | {piped}")]), "300000\n");
}
