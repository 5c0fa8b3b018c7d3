//! To a registry and from it.

use super::build::build;
use super::engine::Engine;
use super::registry::{LOG, REGISTRY, USER, serve};
use crate::host::until;

/// Requests that its log tells of, from a mark on.
fn requests<'a>(log: &'a str, method: &'a str, path: &'a str) -> impl Iterator<Item = &'a str> {
    let method = format!("\"{method} ");
    // Each is told of twice; this form has the request as it came.
    log.lines().filter(move |line| line.contains(&method) && line.contains(path) && !line.contains("level="))
}

/// login, push, pull, logout.
pub(super) fn registry(engine: &Engine) {
    let host = engine.host;
    let Some(_server) = serve(host) else { return };
    let log = || host.read(LOG);
    // How often one command makes the registry do something, which it tells of after it has answered.
    let moves = |args: &[&str], method: &str, path: &str, want: usize, why: &str| {
        let before = log().len();
        engine.must(args);
        let count = || requests(&log()[before..], method, path).count();
        until(why, || (count() >= want).then_some(()));
        assert_eq!(count(), want, "{why}");
    };
    let insecure = engine.kind.insecure();
    let with = |verb, rest: &[&'static str]| [&[verb], insecure, rest].concat();

    host.write("/srv/site/Dockerfile", include_str!("site/Dockerfile"));
    host.write("/srv/site/index.html", include_str!("site/index.html"));
    const ONE: &str = "127.0.0.1:5000/team/site:1.0";
    const TWO: &str = "127.0.0.1:5000/team/site:1.1";
    build(engine, ONE, "site", &[]);
    host.write("/srv/site/index.html", "<h1>Two</h1>\n");
    build(engine, TWO, "site", &[]);

    // Nobody, a stranger, a friend.
    engine.refused(&with("push", &[ONE]));
    let said = engine.refused(&with("login", &["-u", USER.0, "-p", "wrong", REGISTRY]));
    assert!(said.to_lowercase().contains("unauthorized") || said.contains("invalid username/password"), "{said}");
    assert!(engine.must(&with("login", &["-u", USER.0, "-p", USER.1, REGISTRY])).contains("Login Succeeded"));
    const UPLOADS: &str = "/blobs/uploads/";
    moves(&with("push", &[ONE]), "PUT", UPLOADS, 4, "three layers and a configuration");
    moves(&with("push", &[ONE]), "PUT", UPLOADS, 0, "nothing was missing");
    moves(&with("push", &[TWO]), "PUT", UPLOADS, 2, "one layer and a configuration were missing");

    let ids = [ONE, TWO].map(|name| engine.image_id(name));
    engine.must(&["rmi", ONE, TWO]);
    engine.forget_builds();
    const BLOBS: &str = "/blobs/sha256:";
    moves(&with("pull", &[ONE]), "GET", BLOBS, 3, "all but the base");
    moves(&with("pull", &[TWO]), "GET", BLOBS, 2, "one layer and a configuration were missing");
    moves(&with("pull", &[TWO]), "GET", BLOBS, engine.kind.fetched_again(), "nothing was missing");
    assert_eq!([ONE, TWO].map(|name| engine.image_id(name)), ids);
    engine.must(&["run", "-d", "--name", "site", "-p", "8080:80", TWO]);
    engine.answers(8080, "/index.html", "<h1>Two</h1>");
    engine.remove(&["site"]);
    engine.must(&["logout", REGISTRY]);
    engine.refused(&with("push", &[ONE]));
    engine.must(&["rmi", ONE, TWO]);
    engine.refused(&with("pull", &[ONE]));
}
