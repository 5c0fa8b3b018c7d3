//! Room: sizes, and what nobody needs any more.

use super::build::build;
use super::engine::Engine;

fn images(engine: &Engine) -> Vec<String> {
    let listed = engine.must(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    listed.lines().map(str::to_owned).collect()
}

/// The largest last.
pub(super) fn sorted(engine: &Engine) {
    let argv = engine.shell(&["images", "--format", "'{{.Size}} {{.Repository}}:{{.Tag}}'"]);
    // "595 MB" and "595MB" are both in use; kB is not a unit of sort's.
    let script = format!("{argv} | sed 's/^\\([0-9.]*\\) \\([kMG]*B\\)/\\1\\2/; s/kB/KB/' | sort -h");
    let rows = engine.host.must(&["sh", "-c", &script]);
    let names: Vec<_> = rows.lines().map(|row| row.rsplit(' ').next().unwrap()).collect();
    let sizes: Vec<u64> = names.iter().map(|name| engine.inspect(name, "{{.Size}}").parse().unwrap()).collect();
    // What rounds to the same size may come in any order.
    assert!(sizes.windows(2).all(|pair| pair[0] <= pair[1] + pair[1] / 50), "{rows}{sizes:?}");
    let place = |name: &str| names.iter().position(|n| *n == engine.kind.listed(name)).unwrap();
    assert!(place("greet:1.0") < place("busybox:1") && place("busybox:1") < place("python:3.11"), "{rows}");
    assert!(place("python:3.11") < place("api:1.0") && place("node:18") < place("web:1.0"), "{rows}");
}

/// Those that have ended.
pub(super) fn containers(engine: &Engine) {
    engine.must(&["run", "-d", "--name", "stays", "busybox:1", "sleep", "1000"]);
    engine.must(&["run", "--name", "ended", "busybox:1", "true"]);
    engine.must(&["create", "--name", "never-started", "busybox:1", "true"]);
    let ids = ["ended", "never-started"].map(|name| engine.inspect(name, "{{.Id}}"));
    let said = engine.must(&["container", "prune", "-f"]);
    assert!(ids.iter().all(|id| said.contains(id.as_str())), "{said}");
    assert_eq!(engine.must(&["ps", "-a", "--format", "{{.Names}}"]), "stays");
}

/// Those whose name another has taken.
pub(super) fn dangling(engine: &Engine) {
    let dangling = || engine.must(&["images", "-q", "--filter", "dangling=true"]);
    engine.must(&["image", "prune", "-f"]);
    assert_eq!(dangling(), "");
    let before = images(engine);
    let old = engine.image_id("shop:1.0.0");
    engine.host.write("/srv/web/public/index.html", "<h1>New</h1>\n");
    build(engine, "shop:1.0.0", "web", &["--build-arg", "VERSION=1.0.0"]);
    let digest = old.trim_start_matches("sha256:");
    assert!(dangling().lines().any(|id| digest.starts_with(id)), "{}", dangling());
    engine.must(&["image", "prune", "-f"]);
    assert_eq!(dangling(), "");
    engine.refused(&["image", "inspect", digest]);
    assert_eq!(images(engine).len(), before.len(), "an image with a name went, too");
}

/// All but what a container has.
pub(super) fn all(engine: &Engine) {
    let said = engine.must(&["image", "prune", "-a", "-f"]);
    assert!(!said.is_empty());
    assert_eq!(images(engine), [engine.kind.listed("busybox:1")]);
    assert_eq!(engine.status("stays"), "running");
    engine.remove(&["stays"]);
    engine.must(&["image", "prune", "-a", "-f"]);
    assert!(images(engine).is_empty());
}
