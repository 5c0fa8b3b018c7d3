//! What a container is told: variables, volumes, limits, what to do after its end.

use std::thread::sleep;
use std::time::Duration;

use super::engine::Engine;
use crate::host::until;

/// -e, and files of them.
pub(super) fn environment(engine: &Engine) {
    engine.must(&["run", "-d", "-p", "8080:3000", "-e", "GREETING=Ahoy, there", "--name", "web", "web:1.0"]);
    engine.answers(8080, "/greeting", "Ahoy, there");
    // An exec has them too, and its own.
    let script = "echo $GREETING, $OWN";
    assert_eq!(engine.must(&["exec", "-e", "OWN=mate", "web", "sh", "-c", script]), "Ahoy, there, mate");
    engine.remove(&["web"]);
    engine.host.write("/srv/prod.env", "# comment\nGREETING=from a file\nMODE=prod\n");
    let printed = engine.must(&["run", "--rm", "--env-file", "prod.env", "-e", "MODE=test", "busybox:1", "env"]);
    for line in ["GREETING=from a file", "MODE=test", "PATH=/bin", "HOME=/"] {
        assert!(printed.lines().any(|l| l.starts_with(line)), "{line:?} is not in\n{printed}");
    }
}

/// -v.
pub(super) fn volumes(engine: &Engine) {
    let sh = |volume: &str, script: &str| engine.run(&["run", "--rm", "-v", volume, "busybox:1", "sh", "-c", script]);
    // A folder of the host, both ways.
    engine.host.write("/srv/shared/from-host", "host\n");
    assert_eq!(sh("/srv/shared:/shared", "cat /shared/from-host; echo container >/shared/answer").must().out, "host\n");
    assert_eq!(engine.host.must(&["cat", "/srv/shared/answer"]), "container\n");
    let refused = sh("/srv/shared:/shared:ro", "echo x >/shared/answer");
    assert!(!refused.ok() && refused.err.contains("Read-only file system"), "{}", refused.err);

    // A named one outlives every container that has it.
    engine.must(&["volume", "create", "data"]);
    sh("data:/data", "echo kept >/data/file").must();
    assert_eq!(sh("data:/data", "cat /data/file; echo more >>/data/file").must().out, "kept\n");
    engine.must(&["run", "-d", "--name", "reader", "-v", "data:/data:ro", "busybox:1", "sleep", "1000"]);
    assert_eq!(engine.must(&["exec", "reader", "cat", "/data/file"]), "kept\nmore");
    engine.refused(&["volume", "rm", "data"]);
    engine.remove(&["reader"]);
    let place = engine.must(&["volume", "inspect", "--format", "{{.Mountpoint}}", "data"]);
    assert_eq!(engine.host.must(&["cat", &format!("{place}/file")]), "kept\nmore\n");
    // One that is made by its first use begins with what the image has there.
    let first = engine.must(&["run", "--rm", "-v", "site:/app/public", "web:1.0", "cat", "public/index.html"]);
    assert_eq!(first, "<h1>Ahoy</h1>");
    assert_eq!(engine.must(&["volume", "ls", "--format", "{{.Name}}"]), "data\nsite");
    engine.must(&["volume", "rm", "data", "site"]);
    assert_eq!(engine.must(&["volume", "ls", "-q"]), "");
}

/// --cpus and --memory: inside, in the cgroup, and when they are reached.
pub(super) fn limits(engine: &Engine) {
    engine.must(&["run", "-d", "--name", "small", "--cpus", "1.5", "--memory", "512m", "busybox:1", "sleep", "1000"]);
    assert_eq!(engine.inspect("small", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}"), "536870912 1500000000");
    // As cgroup v2 and v1 say it.
    let script = "cd /sys/fs/cgroup; if [ -e memory.max ]; then cat memory.max cpu.max;
        else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us; fi";
    let inside = engine.must(&["exec", "small", "sh", "-c", script]);
    assert_eq!(inside.replace('\n', " "), "536870912 150000 100000");
    let script = format!(
        "pid={}; of() {{ sed -n \"s/^[0-9]*:\\(.*,\\)\\?$1\\(,.*\\)\\?://p\" /proc/$pid/cgroup; }}; cd /sys/fs/cgroup
        if [ -n \"$(of memory)\" ]; then cat memory$(of memory)/memory.limit_in_bytes
            cat cpu$(of cpu)/cpu.cfs_quota_us cpu$(of cpu)/cpu.cfs_period_us
        else cat .$(sed -n s/^0:://p /proc/$pid/cgroup)/memory.max .$(sed -n s/^0:://p /proc/$pid/cgroup)/cpu.max; fi",
        engine.pid("small")
    );
    let outside = engine.host.must(&["sh", "-ec", &script]);
    assert_eq!(outside.trim_end().replace('\n', " "), "536870912 150000 100000");
    engine.remove(&["small"]);

    // 64 MiB are less than this program wants.
    let hungry = "const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1))";
    let limit = ["--memory", "64m", "--memory-swap", "64m"];
    let run = [&["run", "--name", "hungry"], &limit[..], &["node:18", "node", "-e", hungry]].concat();
    assert_eq!(engine.code(&run).0, 137);
    assert_eq!(engine.inspect("hungry", "{{.State.ExitCode}}"), "137");
    let killed = engine.inspect("hungry", "{{.State.OOMKilled}}");
    assert!(engine.kind.out_of_memory().contains(&killed.as_str()), "{killed}");
    engine.remove(&["hungry"]);
}

/// --restart.
pub(super) fn restart(engine: &Engine) {
    engine.must(&["run", "-d", "--restart", "always", "-p", "8080:3000", "--name", "phoenix", "web:1.0"]);
    engine.answers(8080, "/", "<h1>Ahoy</h1>");
    let pid = engine.pid("phoenix");
    for crashes in 1..=2 {
        assert_eq!(engine.get(8080, "/crash"), None);
        until("a restart", || (engine.inspect("phoenix", "{{.RestartCount}}") == crashes.to_string()).then_some(()));
        engine.answers(8080, "/", "<h1>Ahoy</h1>");
    }
    assert_ne!(engine.pid("phoenix"), pid);
    // One that is stopped stays so.
    engine.must(&["stop", "phoenix"]);
    sleep(Duration::from_secs(1));
    assert_eq!(engine.status("phoenix"), "exited");
    engine.remove(&["phoenix"]);

    let command = ["busybox:1", "sh", "-c", "echo again; exit 3"];
    engine.must(&[&["run", "-d", "--restart", "on-failure:2", "--name", "stubborn"], &command[..]].concat());
    until("its last end", || {
        let wanted = "exited 3 2";
        (engine.inspect("stubborn", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}") == wanted).then_some(())
    });
    assert_eq!(engine.must(&["logs", "stubborn"]), "again\nagain\nagain");
    engine.remove(&["stubborn"]);
}
