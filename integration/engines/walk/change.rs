//! What is written in a container.

use super::engine::Engine;

/// It is the container's own, and goes with it.
pub(super) fn lost(engine: &Engine) {
    let run = || {
        engine.must(&["run", "-d", "-p", "8080:3000", "--name", "web", "web:1.0"]);
        engine.answers(8080, "/", "<h1>Ahoy</h1>");
    };
    run();
    let script = "echo '<h1>Changed</h1>' > public/index.html && rm package-lock.json && touch new && pwd && id -u";
    assert_eq!(engine.must(&["exec", "web", "sh", "-c", script]), "/app\n0");
    engine.answers(8080, "/", "<h1>Changed</h1>");
    // There is an image of this name, too.
    let diff = engine.must(&["container", "diff", "web"]);
    for line in ["C /app/public/index.html", "A /app/new", "D /app/package-lock.json"] {
        assert!(diff.lines().any(|l| l == line), "{line:?} is not in\n{diff}");
    }
    // A stop keeps it ...
    engine.must(&["restart", "web"]);
    engine.answers(8080, "/", "<h1>Changed</h1>");
    // ... and an end does not.
    engine.remove(&["web"]);
    run();
    assert_eq!(engine.must(&["exec", "web", "sh", "-c", "ls new 2>/dev/null | wc -l"]), "0");
    engine.remove(&["web"]);
}

/// It becomes an image.
pub(super) fn commit(engine: &Engine) {
    engine.must(&["run", "-d", "--name", "workshop", "node:18", "sleep", "1000"]);
    engine.must(&["exec", "workshop", "mkdir", "/app"]);
    engine.refused(&["exec", "-w", "/app", "workshop", "node", "-e", "require('express')"]);
    let said = engine.must(&["exec", "-w", "/app", "workshop", "npm", "install", "express"]);
    assert!(said.contains("added "), "{said}");
    let diff = engine.must(&["diff", "workshop"]);
    assert!(diff.lines().any(|line| line == "A /app/node_modules/express"), "{diff}");

    let command = "CMD [\"node\", \"-p\", \"require('express/package.json').name\"]";
    let options =
        [&["commit", "-m", "with express", "-c", "WORKDIR /app", "-c", command], engine.kind.commit()].concat();
    engine.must(&[options.as_slice(), &["workshop", "node-express:1.0"]].concat());
    engine.remove(&["workshop"]);
    assert_eq!(engine.must(&["run", "--rm", "node-express:1.0"]), "express");
    let history = engine.history("node-express:1.0");
    assert!(history[0].size > 1_000_000, "{history:#?}");
    assert_eq!(history.len(), 2, "one layer upon the base");
    assert_eq!(engine.inspect("node-express:1.0", "{{.Comment}}"), "with express");
}
