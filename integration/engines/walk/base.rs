//! What a user has before the first command: base images, and the registries of npm and PyPI. No public registry of
//! images is asked: the images are Debian's packages. The packages of the two apps are fetched once, as this machine's
//! npm and pip are configured, kept, and served on an address of the host.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use orlop_integration::{kept, mmdebstrap};
use serde_json::{Value, json};

use super::engine::Engine;
use crate::host::{Daemon, Host};

/// An address of the host that its containers reach too, whatever their network is: one that is for examples only.
const ADDRESS: &str = "192.0.2.1";

/// Where packages are served.
const PACKAGES: &str = "192.0.2.1:4873";

/// All of it on this machine, ready to be given to a host.
pub(crate) struct Base {
    node: PathBuf,
    python: PathBuf,
    packages: PathBuf,
}

impl Base {
    /// What is needed, made where it is not there yet; `None`, said, where it can't be had.
    pub(crate) fn new(topic: &str) -> Option<Self> {
        // The compiler is for the build in two stages, which has this image by another name.
        let node = image("image-node", &["nodejs", "gcc", "libc6-dev"], &[&copied(&npm_itself(topic)?)], topic)?;
        let python = image("image-python", &["python3", "python3-pip"], &[], topic)?;
        Some(Self { node, python, packages: packages(topic)? })
    }

    /// Serves the packages on a host, as long as what is returned lives.
    #[track_caller]
    pub(crate) fn serve(&self, host: &Host) -> Daemon {
        host.must(&["busybox", "ip", "addr", "add", &format!("{ADDRESS}/32"), "dev", "lo"]);
        let mut copy = Command::new("cp");
        assert!(copy.arg("-r").arg(&self.packages).arg(host.path("/srv/packages")).status().unwrap().success());
        host.daemon("packages", &["busybox", "httpd", "-f", "-p", PACKAGES, "-h", "/srv/packages"])
    }

    /// The root file system of `node:18`, and the lines of a Dockerfile that go with it.
    pub(crate) fn node(&self) -> (&Path, [String; 2]) {
        let npm = format!("ENV npm_config_registry=http://{PACKAGES}/");
        let quiet = "ENV npm_config_update_notifier=false npm_config_audit=false npm_config_fund=false";
        (&self.node, [npm, quiet.to_owned()])
    }

    /// Gives the engine its base images; what is returned serves packages while it lives.
    #[track_caller]
    pub(super) fn hand_over(&self, engine: &Engine) -> Daemon {
        let host = engine.host;
        let server = self.serve(host);
        let import = |tar: &Path, image: &str, environment: &[&str]| {
            // A line for each variable: Podman takes only one of a line.
            let variables = environment.iter().flat_map(|line| line.trim_start_matches("ENV ").split(' '));
            let changes: Vec<_> = variables.map(|variable| format!("--change=ENV {variable}")).collect();
            let changes: Vec<_> = changes.iter().map(String::as_str).collect();
            let mut command = engine.command(&[&["import"], changes.as_slice(), &["-", image]].concat());
            command.stdin(File::open(tar).unwrap());
            host.ran(command).must();
        };
        let (node, environment) = self.node();
        import(node, "node:18", &environment.each_ref().map(String::as_str));
        engine.must(&["tag", "node:18", "gcc:12"]);
        let pip = format!("ENV PIP_INDEX_URL=http://{PACKAGES}/simple/ PIP_TRUSTED_HOST={ADDRESS}");
        import(&self.python, "python:3.11", &[&pip, "ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore"]);
        busybox(engine);
        server
    }
}

/// Makes an image `busybox:1` of the host's busybox, with all of its names and users `root` and `user` (1000).
#[track_caller]
pub(crate) fn busybox(engine: &Engine) {
    let script = "mkdir -p busybox/bin busybox/etc busybox/tmp busybox/home busybox/root
        chmod 1777 busybox/tmp
        cp $(command -v busybox) busybox/bin/busybox
        for name in $(busybox --list); do [ $name = busybox ] || ln -s busybox busybox/bin/$name; done
        printf 'root:x:0:0:root:/root:/bin/sh\\nuser:x:1000:1000:user:/home:/bin/sh\\n' >busybox/etc/passwd
        printf 'root:x:0:\\nuser:x:1000:\\n' >busybox/etc/group
        tar -C busybox -cf busybox.tar .";
    engine.host.must(&["sh", "-ec", script]);
    engine.must(&["import", "--change", "ENV PATH=/bin", "--change", "CMD [\"sh\"]", "/srv/busybox.tar", "busybox:1"]);
}

/// A tar of a minimal Debian 12 with some packages but nothing to be read, as images of it are made.
fn image(name: &str, packages: &[&str], more: &[&str], topic: &str) -> Option<PathBuf> {
    const UNREAD: [&str; 3] = [
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
    ];
    let include = format!("--include={}", packages.join(","));
    let arguments = [&["--variant=minbase", &include], &UNREAD[..], more, &["bookworm"]].concat();
    kept(&format!("{name}.tar"), topic, |tar| mmdebstrap(&arguments, tar))
}

/// npm as it installs itself. That of Debian has ten times the files, each a package's.
fn npm_itself(topic: &str) -> Option<PathBuf> {
    kept("npm-9", topic, |prefix| {
        tried(Command::new("npm").args(["install", "--silent", "--global", "npm@9", "--prefix"]).arg(prefix))
    })
}

/// What makes mmdebstrap copy what was installed below a prefix.
fn copied(prefix: &Path) -> String {
    let prefix = prefix.display();
    format!("--customize-hook=copy-in '{prefix}/bin' '{prefix}/lib' /usr/local")
}

/// A folder that a web server makes a registry of npm's and one of PyPI's.
fn packages(topic: &str) -> Option<PathBuf> {
    kept("packages", topic, |folder| {
        fs::create_dir_all(folder.join("-")).unwrap();
        npm(folder)?;
        pip(folder)
    })
}

/// What one program says of its failure.
fn tried(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{name}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{name}: {}", said.trim_end()))
}

/// npm's form: a document for each name, and archives.
fn npm(folder: &Path) -> Result<(), String> {
    let project = folder.join("project");
    fs::create_dir_all(&project).unwrap();
    fs::write(project.join("package.json"), include_str!("web/package.json")).unwrap();
    let npm = |args: &[&str]| tried(Command::new("npm").args(args).arg("--silent").current_dir(&project));
    npm(&["install", "--package-lock-only"])?;
    let lock: Value = serde_json::from_reader(File::open(project.join("package-lock.json")).unwrap()).unwrap();
    let mut documents = BTreeMap::new();
    let mut archives = Vec::new();
    for (place, entry) in lock["packages"].as_object().unwrap() {
        let Some((_, name)) = place.rsplit_once("node_modules/") else { continue };
        let version = entry["version"].as_str().unwrap();
        archives.push(format!("{name}@{version}"));
        let archive = format!("{}-{version}.tgz", name.trim_start_matches('@').replace('/', "-"));
        let document = documents.entry(name).or_insert_with(|| json!({"name": name, "versions": {}}));
        document["dist-tags"] = json!({"latest": version});
        let mut known = json!({"name": name, "version": version});
        for key in ["dependencies", "bin", "engines"] {
            known[key] = entry[key].clone();
        }
        known["dist"] = json!({"tarball": format!("http://{PACKAGES}/-/{archive}"), "integrity": entry["integrity"]});
        document["versions"][version] = known;
    }
    let names: Vec<_> = archives.iter().map(String::as_str).collect();
    npm(&[&["pack", "--pack-destination", "../-"], names.as_slice()].concat())?;
    for (name, document) in documents {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, document.to_string()).unwrap();
    }
    Ok(())
}

/// pip's form: a page of links for each name.
fn pip(folder: &Path) -> Result<(), String> {
    let wheels = folder.join("wheels");
    fs::create_dir_all(&wheels).unwrap();
    fs::write(folder.join("requirements.txt"), include_str!("api/requirements.txt")).unwrap();
    // Those of the image's interpreter and not of this machine's.
    let wanted = ["--only-binary=:all:", "--python-version=3.11", "--platform=manylinux2014_x86_64", "--platform=any"];
    tried(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--dest", "wheels", "-r", "requirements.txt"])
            .args(wanted)
            .current_dir(folder),
    )?;
    for wheel in fs::read_dir(wheels).unwrap().flatten() {
        let file = wheel.file_name().into_string().unwrap();
        let name = file.split('-').next().unwrap().to_lowercase().replace(['_', '.'], "-");
        let page = folder.join("simple").join(name);
        fs::create_dir_all(&page).unwrap();
        fs::write(page.join("index.html"), format!("<a href=\"/wheels/{file}\">{file}</a>\n")).unwrap();
    }
    Ok(())
}
