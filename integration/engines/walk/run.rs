//! Containers: ports, many of one image, each state that they can be in.

use std::time::{Duration, Instant};

use super::engine::Engine;

/// A published port.
pub(super) fn published(engine: &Engine) {
    let id = engine.must(&["run", "-d", "-p", "8080:3000", "--name", "web", "web:1.0"]);
    assert_eq!(id.len(), 64, "{id}");
    engine.answers(8080, "/", "<h1>Ahoy</h1>");
    assert_eq!(engine.get(8080, "/name").as_deref(), Some(&id[..12]), "its host name is its id's beginning");
    let row = engine.must(&["ps", "--filter", "name=web", "--format", "{{.Names}}|{{.Image}}|{{.Status}}|{{.Ports}}"]);
    let fields: Vec<_> = row.split('|').collect();
    assert_eq!(fields[..2], ["web", &engine.kind.listed("web:1.0")]);
    assert!(fields[2].starts_with("Up ") && fields[3].contains("0.0.0.0:8080->3000/tcp"), "{row}");
    assert!(engine.must(&["port", "web"]).lines().any(|line| line == "3000/tcp -> 0.0.0.0:8080"));
    engine.remove(&["web"]);
    assert!(engine.is_silent(8080), "the port is still open");
}

/// Three of one image.
pub(super) fn three(engine: &Engine) {
    let names = ["web1", "web2", "web3"];
    let ports = [8081, 8082, 8083];
    let ids = std::array::from_fn::<_, 3, _>(|n| {
        engine.must(&["run", "-d", "-p", &format!("{}:3000", ports[n]), "--name", names[n], "web:1.0"])
    });
    for (port, id) in ports.into_iter().zip(&ids) {
        engine.answers(port, "/name", &id[..12]);
    }
    let images = names.map(|name| engine.inspect(name, "{{.Image}}"));
    assert!(images.iter().all(|image| image.ends_with(engine.image_id("web:1.0").trim_start_matches("sha256:"))));
    // One falls, the others stand.
    engine.remove(&["web2"]);
    assert!(engine.is_silent(8082));
    engine.answers(8081, "/name", &ids[0][..12]);
    engine.answers(8083, "/name", &ids[2][..12]);
    engine.remove(&["web1", "web3"]);
    assert_eq!(engine.must(&["ps", "-q"]), "");
}

/// From create to rm.
pub(super) fn states(engine: &Engine) {
    let status = || engine.status("life");
    let listed = || engine.must(&["ps", "-a", "--filter", "name=life", "--format", "{{.Status}}"]);
    let silent = || engine.is_silent(8090);
    engine.must(&["create", "-p", "8090:3000", "--name", "life", "web:1.0"]);
    assert_eq!((status().as_str(), listed().as_str(), silent()), ("created", "Created", true));
    engine.refused(&["pause", "life"]);

    engine.must(&["start", "life"]);
    engine.answers(8090, "/", "<h1>Ahoy</h1>");
    assert_eq!(status(), "running");
    assert!(listed().starts_with("Up "));

    engine.must(&["pause", "life"]);
    assert_eq!((status().as_str(), silent()), ("paused", true));
    assert!(engine.kind.is_paused(&listed()), "{}", listed());
    engine.refused(&["exec", "life", "true"]);
    engine.refused(&["pause", "life"]);
    engine.must(&["unpause", "life"]);
    assert_eq!(status(), "running");
    engine.answers(8090, "/", "<h1>Ahoy</h1>");

    // It is asked to end, and does before it would be killed.
    let asked = Instant::now();
    engine.must(&["stop", "-t", "60", "life"]);
    assert!(asked.elapsed() < Duration::from_secs(55), "killed after {:?}", asked.elapsed());
    assert_eq!((status().as_str(), silent()), ("exited", true));
    assert_eq!(engine.inspect("life", "{{.State.ExitCode}} {{.State.Running}} {{.State.Pid}}"), "0 false 0");
    assert!(listed().starts_with("Exited (0) "), "{}", listed());
    assert!(engine.must(&["logs", "life"]).ends_with("closing"));
    engine.refused(&["exec", "life", "true"]);

    // It can be asked to end once it runs; before, as the first process, it would not hear of it.
    engine.must(&["start", "life"]);
    engine.answers(8090, "/", "<h1>Ahoy</h1>");
    let pid = engine.pid("life");
    engine.must(&["restart", "-t", "60", "life"]);
    assert_eq!(status(), "running");
    assert_ne!(engine.pid("life"), pid);
    engine.answers(8090, "/", "<h1>Ahoy</h1>");

    engine.refused(&["rm", "life"]);
    assert_eq!(status(), "running");
    engine.must(&["kill", "life"]);
    assert_eq!(engine.must(&["wait", "life"]), "137");
    assert_eq!(status(), "exited");
    engine.must(&["rm", "life"]);
    engine.refused(&["inspect", "--type", "container", "life"]);
    assert_eq!(listed(), "");
}

/// What `run` exits with.
pub(super) fn statuses(engine: &Engine) {
    let run = |command: &[&str]| engine.code(&[&["run", "--rm", "busybox:1"], command].concat());
    assert_eq!(run(&["true"]), (0, String::new()));
    assert_eq!(run(&["sh", "-c", "echo done; exit 7"]), (7, "done".to_owned()));
    let (code, said) = run(&["/tmp"]);
    assert!(code == 126 && said.contains("permission denied"), "{code} {said}");
    let (code, said) = run(&["no-such-program"]);
    assert!(code == 127 && said.contains("executable file not found in $PATH"), "{code} {said}");
    let (code, said) = run(&["/no/such/program"]);
    assert!(code == 127 && said.contains("no such file or directory"), "{code} {said}");
    let (code, _) = engine.code(&["run", "--rm", "--no-such-option", "busybox:1", "true"]);
    assert_eq!(code, 125);

    engine.must(&["run", "-d", "--name", "host", "busybox:1", "sleep", "1000"]);
    let exec = |command: &[&str]| engine.code(&[&["exec", "host"], command].concat()).0;
    assert_eq!(exec(&["true"]), 0);
    assert_eq!(exec(&["sh", "-c", "exit 9"]), 9);
    assert_eq!(exec(&["/tmp"]), 126);
    // Docker 20.10 says 126 of all that an exec can't run.
    assert!([126, 127].contains(&exec(&["no-such-program"])));
    // Nobody handles TERM in it, and init is not ended by what it does not handle: it is killed.
    let asked = Instant::now();
    engine.must(&["stop", "-t", "1", "host"]);
    assert!(asked.elapsed() >= Duration::from_secs(1));
    assert_eq!(engine.inspect("host", "{{.State.ExitCode}}"), "137");
    engine.remove(&["host"]);
}
