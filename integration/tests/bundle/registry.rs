//! A registry between push and pull: Debian's docker-registry on loopback, open and with a password; skopeo on the other
//! side.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use orlop_images::layout::{self, Layout, Packing, media};
use orlop_images::recipes;
use orlop_images::tree::Rules;
use serde_json::json;

use crate::tool::{Backend, Tool, have, wait_until};

pub(crate) struct Registry {
    server: Child,
    /// Host and port.
    pub(crate) host: String,
    log: PathBuf,
}

/// A name and a password.
pub(crate) const USER: (&str, &str) = ("deck", "a pass: word");

impl Registry {
    /// Starts one, with a password if it is `closed`; `None`, said, where it is not installed.
    fn new(tool: &Tool, closed: bool) -> Option<Self> {
        if !closed {
            return Self::with(tool, "registry", "", "");
        }
        have("a registry with a password", &["htpasswd"]).then_some(())?;
        let file = tool.path("htpasswd");
        fs::write(&file, tool.other(&["htpasswd", "-Bbn", USER.0, USER.1]).trim_end()).unwrap();
        Self::with(tool, "registry-closed", "", &format!("htpasswd: {{realm: orlop, path: {file}}}"))
    }

    /// Starts one in the folder `name`, which serves with `http` and asks for `auth`, in the words of its settings; `None`,
    /// said, where it is not installed.
    pub(crate) fn with(tool: &Tool, name: &str, http: &str, auth: &str) -> Option<Self> {
        have("a registry", &["docker-registry"]).then_some(())?;
        let dir = tool.dir.join(name);
        fs::create_dir(&dir).unwrap();
        // A port that was free a moment ago.
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\n\
             storage: {{filesystem: {{rootdirectory: {}/data}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"{host}\"{http}}}\n",
            dir.display()
        );
        if !auth.is_empty() {
            config += &format!("auth: {{{auth}}}\n");
        }
        fs::write(dir.join("config.yml"), config).unwrap();
        let log = dir.join("log");
        let output = fs::File::create(&log).unwrap();
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let this = Self { server, host, log };
        wait_until("the registry answers", || std::net::TcpStream::connect(&this.host).is_ok());
        Some(this)
    }

    /// How many requests of this method, for a path with this in it, were answered since `from` bytes of the log.
    fn requests(&self, from: usize, method: &str, path: &str) -> usize {
        let log = fs::read_to_string(&self.log).unwrap();
        let is = |line: &&str| line.contains(&format!("\"{method} ")) && line.contains(path);
        log[from..].lines().filter(is).count()
    }

    fn mark(&self) -> usize {
        fs::metadata(&self.log).unwrap().len().try_into().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn what_was_pushed_is_pulled_as_the_same_image() {
    let Some(tool) = Tool::new("registry") else { return };
    let Some(registry) = Registry::new(&tool, false) else { return };
    for packing in Packing::ALL {
        let mut layout = Layout::new(tool.dir.join(format!("layout{packing:?}")));
        let below = layout.layer(packing, recipes::everything);
        let above = layout.layer(packing, recipes::everything_changed);
        let image = layout.image("t", &[below, above], recipes::shell());
        tool.must(&["pull", "--name", "x:1", &layout.name("t")]);
        let want = tool.tree("x:1", Backend::Mount);
        let name = format!("{}/x/{packing:?}:1", registry.host).to_lowercase();
        tool.must(&["push", "x:1", &name]);
        let second = tool.with_store(format!("second{packing:?}"));
        second.must(&["pull", &name]);
        assert_eq!(second.images().concat().trim_start_matches("sha256:"), image.id);
        let differences = want.differences(&second.tree(&name, Backend::Directory), &Rules::default());
        assert!(differences.is_empty(), "{packing:?}: {differences:#?}");
        second.assert_sound();
        // The digest is that of the layout.
        let digest = image.manifest["digest"].as_str().unwrap();
        let by_digest = format!("{}/x/{}@{digest}", registry.host, format!("{packing:?}").to_lowercase());
        tool.with_store(format!("third{packing:?}")).must(&["pull", &by_digest]);
        if have("pulled by skopeo", &["skopeo"]) {
            let out = format!("oci:{}:t", tool.path(&format!("skopeo{packing:?}")));
            let from = format!("docker://{name}");
            tool.other(&["skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", &from, &out]);
        }
    }
}

#[test]
fn only_layers_that_are_missing_move() {
    let Some(tool) = Tool::new("missing") else { return };
    let Some(registry) = Registry::new(&tool, false) else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    recipes::shared_base(&mut layout, Packing::Gzip, 20, 20);
    let name = |app: u32| format!("{}/apps/app{app}:1", registry.host);
    for app in 0..5 {
        tool.must(&["pull", "--name", &name(app), &layout.name(&format!("app{app}"))]);
    }
    let mark = registry.mark();
    tool.must(&["push", &name(0)]);
    // Two layers and a configuration.
    assert_eq!(registry.requests(mark, "PUT", "/blobs/uploads/"), 3);
    let mark = registry.mark();
    tool.must(&["push", &name(0)]);
    assert_eq!(registry.requests(mark, "PUT", "/blobs/uploads/"), 0, "nothing was missing");
    let mark = registry.mark();
    tool.must(&["push", &name(1)]);
    // The base is mounted from the other repository, or not asked for.
    assert_eq!(registry.requests(mark, "PUT", "/blobs/uploads/"), 2, "the base was sent again");

    let second = tool.with_store("second");
    let mark = registry.mark();
    second.must(&["pull", &name(0)]);
    assert_eq!(registry.requests(mark, "GET", "/blobs/"), 3);
    let mark = registry.mark();
    second.must(&["pull", &name(1)]);
    assert_eq!(registry.requests(mark, "GET", "/blobs/"), 2, "the base was fetched again");
    let mark = registry.mark();
    second.must(&["pull", &name(1)]);
    assert_eq!(registry.requests(mark, "GET", "/blobs/"), 0, "nothing was missing");
    second.assert_sound();
}

/// An index of images for two architectures, with words about one of them, as BuildKit makes it. Its digest.
pub(crate) fn two_platforms(layout: &mut Layout) -> String {
    let platforms = ["amd64", "arm64"].map(|architecture| {
        let layer = layout.layer(Packing::Gzip, |tar| {
            tar.file("architecture", architecture);
        });
        let mut config = layout::config(std::slice::from_ref(&layer), recipes::shell());
        config["architecture"] = architecture.into();
        let mut manifest = layout.image_with(architecture, &[layer], &config).manifest;
        manifest["platform"] = json!({ "os": "linux", "architecture": architecture });
        manifest
    });
    let words = layout.layer_of(Packing::Plain, b"words about it");
    let config = layout.blob("application/vnd.oci.image.config.v1+json", b"{}");
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": [words.descriptor] });
    let mut attestation = layout.manifest("words", &manifest);
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let [one, two] = platforms;
    let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [one, two, attestation] });
    let index = layout.blob(media::INDEX, &serde_json::to_vec(&index).unwrap());
    layout.entry("all", index.clone());
    index["digest"].as_str().unwrap().to_owned()
}

#[test]
fn an_index_goes_out_whole_if_it_came_in_whole() {
    let Some(tool) = Tool::new("index") else { return };
    let Some(registry) = Registry::new(&tool, false) else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let digest = two_platforms(&mut layout);
    let name = format!("{}/x:1", registry.host);
    tool.must(&["pull", "--platform", "linux/amd64", "--name", &name, &layout.name("all")]);
    let mark = registry.mark();
    let said = tool.refused(&["push", "--all-platforms", &name]);
    assert!(said.contains("linux/arm64") && said.contains("--all-platforms"), "{said}");
    assert_eq!(registry.requests(mark, "PUT", ""), 0, "something was sent");

    tool.must(&["pull", "--all-platforms", "--platform", "linux/amd64", "--name", &name, &layout.name("all")]);
    // What is kept for another platform is not unpacked, and stays when what nothing needs goes.
    tool.must(&["prune", "-f"]);
    assert_eq!(fs::read_dir(tool.store.join("layers")).unwrap().count(), 2);
    assert!(tool.must(&["push", "--all-platforms", &name]).contains(&digest));
    let again = tool.path("skopeo");
    if have("pulled by skopeo", &["skopeo"]) {
        let (from, to) = (format!("docker://{name}"), format!("oci:{again}:t"));
        tool.other(&["skopeo", "copy", "-q", "--all", "--insecure-policy", "--src-tls-verify=false", &from, &to]);
    }
    for (platform, word) in [("linux/amd64", "amd64"), ("linux/arm64/v8", "arm64")] {
        let second = tool.with_store(word);
        second.must(&["pull", "--platform", platform, &name]);
        let tree = second.tree(&name, Backend::Mount);
        assert_eq!(tree.nodes[&b"architecture"[..]].size, 5);
        assert_eq!(second.must(&["inspect", "-f", "{{.Architecture}}", &name]).trim(), word);
        // One of them is sent alone still.
        let alone = format!("{}/{word}:1", registry.host);
        second.must(&["push", &name, &alone]);
        assert!(!tool.with_store("alone").must(&["pull", "--platform", platform, &alone]).contains(&digest));
    }

    // By way of a layout, and by another name, it is the same index.
    tool.must(&["tag", &name, "other:1"]);
    tool.must(&["rmi", &name]);
    let out = format!("oci:{}:t", tool.path("out"));
    tool.must(&["push", "--all", "other:1", &out]);
    let third = tool.with_store("third");
    third.must(&["pull", "--all", "--platform", "linux/amd64", "--name", &name, &out]);
    assert!(third.must(&["push", "--all", &name]).contains(&digest));
    third.assert_sound();
    assert!(tool.refused(&["push", "--all", "other:1", &format!("dir:{}", tool.path("dir"))]).contains("one platform"));
    tool.must(&["rmi", "other:1"]);
    assert_eq!(
        fs::read_dir(tool.store.join("blobs/sha256")).unwrap().count(),
        0,
        "what was for another platform is left"
    );
}

#[test]
fn a_closed_registry_opens_for_a_login() {
    let Some(tool) = Tool::new("login") else { return };
    let Some(registry) = Registry::new(&tool, true) else { return };
    let mut layout = Layout::new(tool.dir.join("layout"));
    let layer = layout.layer(Packing::Gzip, |tar| {
        tar.file("a", "content");
    });
    layout.image("t", &[layer], recipes::shell());
    let name = format!("{}/x:1", registry.host);
    tool.must(&["pull", "--name", &name, &layout.name("t")]);
    let said = tool.refused(&["push", &name]);
    assert!(said.contains(&registry.host), "{said}");

    let login = |password: &str| {
        let mut command = tool.command(&["login", "-u", USER.0, "--password-stdin", &registry.host]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait_with_output().unwrap().status.success()
    };
    assert!(!login("wrong"), "a wrong password was taken");
    tool.refused(&["push", &name]);
    assert!(login(USER.1));
    tool.must(&["push", &name]);
    let second = tool.with_store("second");
    second.must(&["pull", &name]);
    second.must(&["logout", &registry.host]);
    tool.with_store("third").refused(&["pull", &name]);
    // What was said about it names no password.
    let file = fs::read_to_string(tool.dir.join(".docker/config.json")).unwrap_or_default();
    assert!(!file.contains(USER.1), "{file}");
}
