//! Images from Dockerfiles: layers, the cache, stages, history.

use super::engine::Engine;

const DOCKERFILE: &str = include_str!("web/Dockerfile");
const SERVER: &str = include_str!("web/server.js");

/// Builds the folder `/srv/NAME` as an image. What the build said.
#[track_caller]
pub(super) fn build(engine: &Engine, image: &str, folder: &str, options: &[&str]) -> String {
    let ran = engine.run(&[&["build", "-t", image], options, &[folder]].concat()).must();
    ran.out + &ran.err
}

/// A Node app, with express from npm.
pub(super) fn web(engine: &Engine) {
    let host = engine.host;
    host.write("/srv/web/Dockerfile", DOCKERFILE);
    host.write("/srv/web/package.json", include_str!("web/package.json"));
    host.write("/srv/web/server.js", SERVER);
    host.write("/srv/web/public/index.html", include_str!("web/public/index.html"));
    host.write("/srv/web/.dockerignore", "node_modules\n*.log\n");
    host.write("/srv/web/debug.log", "not for the image\n");
    build(engine, "web:1.0", "web", &[]);
    let version = "require('express/package.json').version.split('.')[0]";
    assert_eq!(engine.must(&["run", "--rm", "web:1.0", "node", "-p", version]), "5");
    let files = engine.must(&["run", "--rm", "web:1.0", "ls"]);
    assert_eq!(files, "Dockerfile\nnode_modules\npackage-lock.json\npackage.json\npublic\nserver.js");
    assert_eq!(engine.inspect("web:1.0", "{{json .Config.Cmd}}"), r#"["node","server.js"]"#);
    assert_eq!(
        engine.inspect("web:1.0", "{{.Config.WorkingDir}} {{json .Config.ExposedPorts}}"),
        r#"/app {"3000/tcp":{}}"#
    );
}

/// A Python app, with Flask from PyPI.
pub(super) fn api(engine: &Engine) {
    let host = engine.host;
    host.write("/srv/api/Dockerfile", include_str!("api/Dockerfile"));
    host.write("/srv/api/requirements.txt", include_str!("api/requirements.txt"));
    host.write("/srv/api/app.py", include_str!("api/app.py"));
    build(engine, "api:1.0", "api", &[]);
    engine.must(&["run", "-d", "--name", "api", "-p", "5001:5000", "api:1.0"]);
    engine.answers(5001, "/", "{\"answer\":42,\"python\":\"3.11.2\"}");
    engine.remove(&["api"]);
}

/// Names of one image.
pub(super) fn tags(engine: &Engine) {
    engine.must(&["tag", "web:1.0", "web:latest"]);
    engine.must(&["tag", "web:1.0", "registry.example/team/web:1.0"]);
    let id = engine.image_id("web:1.0");
    assert_eq!(engine.image_id("web"), id);
    assert_eq!(engine.image_id("registry.example/team/web:1.0"), id);
    engine.must(&["rmi", "registry.example/team/web:1.0"]);
    engine.refused(&["image", "inspect", "registry.example/team/web:1.0"]);
    assert_eq!(engine.image_id("web:1.0"), id, "the image went with one of its names");
}

/// What has not changed is not built again, and what comes after a change is.
pub(super) fn cache(engine: &Engine) {
    let (kind, host) = (engine.kind, engine.host);
    let all = kind.steps(DOCKERFILE);
    let id = engine.image_id("web:1.0");
    let said = build(engine, "web:1.0", "web", &[]);
    assert_eq!(kind.cached(&said), all, "{said}");
    assert_eq!(engine.image_id("web:1.0"), id, "nothing has changed");

    // The app's file is copied after the packages are installed.
    host.write("/srv/web/server.js", SERVER.replace("listening", "waiting"));
    let said = build(engine, "web:changed", "web", &[]);
    let before = DOCKERFILE.split("COPY . .").next().unwrap();
    assert_eq!(kind.cached(&said), kind.steps(before), "{said}");
    assert_ne!(engine.image_id("web:changed"), id);
    let package = include_str!("web/package.json");
    host.write("/srv/web/package.json", package.replace("1.0.0", "1.0.1"));
    let said = build(engine, "web:changed", "web", &[]);
    let before = DOCKERFILE.split("COPY package.json").next().unwrap();
    assert_eq!(kind.cached(&said), kind.steps(before), "{said}");

    host.write("/srv/web/server.js", SERVER);
    host.write("/srv/web/package.json", package);
    let said = build(engine, "web:1.0", "web", &[]);
    assert_eq!(kind.cached(&said), all, "{said}");
    assert_eq!(engine.image_id("web:1.0"), id, "everything is as it was");
    engine.must(&["rmi", "web:changed"]);
}

/// A compiler in the first stage, nothing but the program in the last.
pub(super) fn stages(engine: &Engine) {
    engine.host.write("/srv/greet/Dockerfile", include_str!("greet/Dockerfile"));
    engine.host.write("/srv/greet/greet.c", include_str!("greet/greet.c"));
    build(engine, "greet:1.0", "greet", &[]);
    assert_eq!(engine.must(&["run", "--rm", "greet:1.0"]), "Ahoy, world");
    assert_eq!(engine.must(&["run", "--rm", "greet:1.0", "crew"]), "Ahoy, crew");
    let size = |image| engine.inspect(image, "{{.Size}}").parse::<u64>().unwrap();
    assert!(size("greet:1.0") < 1_500_000 && size("gcc:12") > 100_000_000);
    // All of it anew.
    let id = engine.image_id("greet:1.0");
    let said = build(engine, "greet:1.0", "greet", &["--no-cache"]);
    assert_eq!(engine.kind.cached(&said), engine.kind.always_cached(include_str!("greet/Dockerfile")), "{said}");
    assert_ne!(engine.image_id("greet:1.0"), id);
    // The first stage as an image of its own.
    build(engine, "greet:builder", "greet", &["--target", "builder"]);
    assert_eq!(engine.must(&["run", "--rm", "greet:builder", "./greet", "mate"]), "Ahoy, mate");
    engine.must(&["rmi", "greet:builder"]);
}

/// Lists, with sizes.
pub(super) fn history(engine: &Engine) {
    let images = engine.must(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    for image in ["web:1.0", "web:latest", "api:1.0", "greet:1.0", "node:18", "gcc:12", "python:3.11", "busybox:1"] {
        let image = engine.kind.listed(image);
        assert_eq!(images.lines().filter(|line| **line == image).count(), 1, "{image} in\n{images}");
    }
    // Newest first: each step of the Dockerfile, with what it has added, upon the base.
    let history = engine.history("web:1.0");
    let row = |text: &str| {
        let found = history.iter().position(|step| step.by.contains(text));
        found.unwrap_or_else(|| panic!("no {text:?} in {history:#?}"))
    };
    let order = ["server.js", "EXPOSE", "COPY", "npm install", "WORKDIR"].map(row);
    assert!(order.is_sorted(), "{history:#?}");
    assert_eq!(history[row("server.js")].size, 0, "a setting takes no room");
    assert!(history[row("npm install")].size > 1_000_000, "{history:#?}");
    let is_size_of = |layers: u64, image: &str| {
        let size = engine.inspect(image, "{{.Size}}").parse::<u64>().unwrap();
        (layers..=layers + engine.kind.documents()).contains(&size)
    };
    assert!(is_size_of(history.iter().map(|step| step.size).sum(), "web:1.0"), "{history:#?}");
    assert!(is_size_of(history.last().unwrap().size, "node:18"), "the base is one layer: {history:#?}");
}
