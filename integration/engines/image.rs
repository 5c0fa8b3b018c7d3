//! Images that every engine can load: the bytes are the same in every run.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use orlop_images::layout::{Layer, Layout, Packing};
use orlop_images::tar::{Entry, flag};
use serde_json::{Value, json};

/// What a shell's user expects to find.
const APPLETS: [&str; 36] = [
    "awk", "cat", "chmod", "cut", "date", "dd", "df", "echo", "env", "false", "grep", "head", "hostname", "httpd",
    "id", "ip", "kill", "ls", "mkdir", "mount", "nc", "ps", "pwd", "readlink", "rm", "sed", "seq", "sh", "sleep",
    "stat", "stty", "tail", "touch", "true", "wc", "wget",
];

/// A layer with busybox, its usual names, and users `root` and `user` (1000).
pub(crate) fn busybox(layout: &Layout) -> Layer {
    layout.layer(Packing::Gzip, |tar| {
        for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "home"] {
            tar.dir(dir);
        }
        let program = fs::read("/bin/busybox").unwrap();
        tar.entry(&Entry { mode: 0o755, ..Entry::new(flag::FILE, b"bin/busybox") }, &program);
        for name in APPLETS {
            tar.symlink(&format!("bin/{name}"), "busybox");
        }
        tar.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n");
        tar.file("etc/group", "root:x:0:\nuser:x:1000:\n");
        tar.raw([0; 1024]);
    })
}

/// The configuration of an image whose command is a shell.
pub(crate) fn shell() -> Value {
    json!({"Cmd": ["sh"], "Env": ["PATH=/bin"], "WorkingDir": "/"})
}

/// Writes an archive of one image: an image layout with the manifest.json of `docker save` beside its index. `run` is
/// the `config` of the image's configuration.
pub(crate) fn archive(to: &Path, name: &str, run: Value, layers: impl FnOnce(&Layout) -> Vec<Layer>) {
    let folder = to.with_extension("layout");
    let mut layout = Layout::new(&folder);
    let layers = layers(&layout);
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let image = layout.image(tag, &layers, run);

    // containerd takes the whole name from here, Podman and Docker from there.
    let mut manifest = image.manifest;
    manifest["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    let path = |digest: &str| format!("blobs/{}", digest.replacen(':', "/", 1));
    let layers: Vec<_> = layers.iter().map(|layer| path(layer.descriptor["digest"].as_str().unwrap())).collect();
    let docker = json!([{"Config": path(&format!("sha256:{}", image.id)), "RepoTags": [name], "Layers": layers}]);
    fs::write(folder.join("manifest.json"), docker.to_string()).unwrap();

    let status = Command::new("tar")
        .args(["--sort=name", "--mtime=@1700000000", "--owner=0", "--group=0", "--numeric-owner", "-cC"])
        .args([&folder, Path::new(".")])
        .args(["--transform=s,^\\./,,"])
        .stdout(File::create(to).unwrap())
        .status()
        .unwrap();
    assert!(status.success(), "tar: {status}");
    fs::remove_dir_all(folder).unwrap();
}
