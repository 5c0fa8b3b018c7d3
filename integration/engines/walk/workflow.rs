//! How people work with it.

use super::build::build;
use super::engine::Engine;

/// The source is on the host, the packages are the image's, and a change is seen at once.
pub(super) fn development(engine: &Engine) {
    let host = engine.host;
    let volumes = ["-v", "/srv/web:/app", "-v", "/app/node_modules"];
    let command = ["web:1.0", "node", "--watch", "server.js"];
    engine.must(&[&["run", "-d", "--name", "dev", "-p", "8100:3000"], &volumes[..], &command].concat());
    engine.answers(8100, "/", "<h1>Ahoy</h1>");
    host.write("/srv/web/public/index.html", "<h1>Edited</h1>\n");
    engine.answers(8100, "/", "<h1>Edited</h1>");
    // The app itself: it is started again in the same container.
    let pid = engine.pid("dev");
    let source = include_str!("web/server.js");
    host.write("/srv/web/server.js", source.replace("process.env.VERSION || 'none'", "'edited'"));
    engine.answers(8100, "/version", "edited");
    assert_eq!(engine.pid("dev"), pid);
    // And what the container writes is on the host, but not what is in the other volume.
    engine.must(&["exec", "dev", "touch", "made-inside"]);
    assert!(host.list("/srv/web").contains(&"made-inside".to_owned()));
    assert!(engine.must(&["exec", "dev", "ls", "node_modules"]).contains("express"));
    assert!(host.list("/srv/web/node_modules").is_empty());
    engine.must(&["rm", "--force", "--volumes", "dev"]);
    assert_eq!(engine.must(&["volume", "ls", "-q"]), "", "the volume without a name stays");
    host.must(&["rm", "-r", "/srv/web/made-inside", "/srv/web/node_modules"]);
    host.write("/srv/web/server.js", source);
    host.write("/srv/web/public/index.html", include_str!("web/public/index.html"));
}

/// Names that move, and one that does not.
pub(super) fn production(engine: &Engine) {
    let release = |version: &str| {
        let name = format!("shop:{version}");
        // The packages are the last release's. Without a change of the source, Podman 4.3 takes `ENV NAME=$ARGUMENT` from
        // its cache too, whatever the argument is.
        engine.host.write("/srv/web/public/release", version);
        build(engine, &name, "web", &["--build-arg", &format!("VERSION={version}")]);
        let (minor, _) = version.rsplit_once('.').unwrap();
        let (major, _) = minor.rsplit_once('.').unwrap();
        for tag in [minor, major, "latest"] {
            engine.must(&["tag", &name, &format!("shop:{tag}")]);
        }
    };
    let deploy = |tag: &str, version: &str| {
        engine.must(&["rm", "--force", "prod"]);
        let options = ["--restart", "unless-stopped", "--memory", "256m", "-p", "8110:3000"];
        engine.must(&[&["run", "-d", "--name", "prod"], &options[..], &[&format!("shop:{tag}")]].concat());
        engine.answers(8110, "/version", version);
    };
    release("1.0.0");
    engine.must(&["create", "--name", "prod", "shop:1"]);
    deploy("1", "1.0.0");
    release("1.0.1");
    release("1.1.0");
    // Each name is of the newest release that it includes.
    let id = |tag: &str| engine.image_id(&format!("shop:{tag}"));
    assert_eq!([id("1"), id("latest"), id("1.0")], [id("1.1.0"), id("1.1"), id("1.0.1")]);
    assert_ne!(id("1.0.0"), id("1.0.1"));
    assert_eq!(engine.get(8110, "/version").as_deref(), Some("1.0.0"), "what runs does not change with a name");
    deploy("1", "1.1.0");
    // Back.
    deploy("1.0.0", "1.0.0");
    engine.remove(&["prod"]);
}
