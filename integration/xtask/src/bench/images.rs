//! `cargo xtask bench --bundle`: `orlop-bundle` beside umoci, containerd, buildah, skopeo and GNU tar, on the same images.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use orlop_images::layout::{Layout, Packing};
use orlop_images::recipes;
use orlop_images::tar::Tar;

use super::Options;
use super::daemons::{Containerd, Server, answers, serve, timed};
use super::report::Unit::{Gigabytes, Mebibytes, Milliseconds};
use super::report::{self, Figures, Found, Peers, Versions, Work};
use super::scratch::Scratch;
use crate::build;

/// Samples of each figure at the most: some take many seconds.
const ROUNDS: u16 = 5;

const READY_FILES: &str = "stored image to mounted bundle, 50,000 files";
const READY_LAYERS: &str = "stored image to mounted bundle, 64 layers";
const IMPORT_FILES: &str = "import of a gzip layer, 50,000 files";
const IMPORT_BIG: &str = "import of a gzip layer, three big files";
const DIRECTORY: &str = "a directory of 50,000 files";
const COMMIT: &str = "commit of 200 MB, gzip";
const COMMIT_PLAIN: &str = "commit of 200 MB, not packed";
const PULL: &str = "pull of one small missing layer";
const READ_COLD: &str = "reading 50,000 files, cold";
const READ_WARM: &str = "reading 50,000 files, warm";
const RSS_IMPORT: &str = "peak RSS of the import";
const RSS_CREATE: &str = "peak RSS of create, directory";

/// Ratios are those of the promise: ours is at most (of GB/s: at least) so many times the peer's.
const WORKS: [Work; 12] = [
    Work { title: READY_FILES, unit: Milliseconds, limit: Some(10.0), peers: Peers::All(&[]) },
    Work { title: READY_LAYERS, unit: Milliseconds, limit: Some(10.0), peers: Peers::All(&[]) },
    Work {
        title: IMPORT_FILES,
        unit: Gigabytes,
        limit: Some(0.6),
        peers: Peers::All(&[("umoci", 5.0), ("containerd", 3.0)]),
    },
    Work { title: IMPORT_BIG, unit: Gigabytes, limit: Some(0.6), peers: Peers::All(&[]) },
    Work {
        title: DIRECTORY,
        unit: Milliseconds,
        limit: None,
        peers: Peers::All(&[("tar", 1.0 / 1.5), ("umoci", 0.25)]),
    },
    Work { title: COMMIT, unit: Milliseconds, limit: None, peers: Peers::All(&[("buildah", 0.5)]) },
    Work { title: COMMIT_PLAIN, unit: Milliseconds, limit: None, peers: Peers::All(&[("buildah", 0.5)]) },
    Work { title: PULL, unit: Milliseconds, limit: Some(50.0), peers: Peers::All(&[]) },
    Work { title: READ_COLD, unit: Milliseconds, limit: None, peers: Peers::All(&[("ext4", 1.2)]) },
    Work { title: READ_WARM, unit: Milliseconds, limit: None, peers: Peers::All(&[("ext4", 1.2)]) },
    Work { title: RSS_IMPORT, unit: Mebibytes, limit: Some(64.0), peers: Peers::All(&[]) },
    Work { title: RSS_CREATE, unit: Mebibytes, limit: Some(64.0), peers: Peers::All(&[]) },
];

/// Measures, prints, writes and draws.
pub(super) fn run(options: &Options) -> Result<()> {
    let ours = if options.only_peers {
        None
    } else {
        let built = build::release(&["orlop-bundle"])?;
        Some(build::program(&built, "orlop-bundle")?.to_owned())
    };
    let scratch = Scratch::new(options.scratch)?;
    eprintln!("on {}", scratch.about());
    let found = Bench { dir: scratch.dir().to_owned(), ours, rounds: options.runs.min(ROUNDS) }.all()?;
    let versions = [vec![("measured on".to_owned(), scratch.about().to_owned())], versions()].concat();
    report::publish(options, "Image tools side by side", &WORKS, &versions, &found)
}

struct Bench {
    dir: PathBuf,
    ours: Option<PathBuf>,
    rounds: u16,
}

/// The images that all of it is measured with.
struct Inputs {
    files: Layout,
    files_tar: PathBuf,
    files_size: u64,
    big: Layout,
    big_size: u64,
    layers: Layout,
    shared: Layout,
}

impl Bench {
    fn all(&self) -> Result<Found> {
        eprintln!("making images");
        let inputs = self.inputs()?;
        let mut found = self.imports(&inputs)?;
        for step in [Self::ready, Self::directory, Self::commit, Self::pull, Self::reading] {
            found.append(&mut step(self, &inputs)?);
        }
        Ok(found)
    }

    fn inputs(&self) -> Result<Inputs> {
        let mut files = Layout::new(self.dir.join("files"));
        let layer = files.layer(Packing::Gzip, |tar| recipes::small_files(tar, 400, 125));
        let files_size = layer.tar_size;
        files.image("t", &[layer], recipes::shell());
        let files_tar = self.dir.join("files.tar");
        let mut out = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(&files_tar)?);
        let mut tar = Tar::to(&mut out as &mut dyn Write);
        recipes::small_files(&mut tar, 400, 125);
        tar.end();
        drop(out);
        let mut big = Layout::new(self.dir.join("big"));
        let layer = big.layer(Packing::Gzip, |tar| recipes::big_files(tar, 64 << 20, 128 << 20));
        let big_size = layer.tar_size;
        big.image("t", &[layer], recipes::shell());
        let mut layers = Layout::new(self.dir.join("layers"));
        let (many, _) = recipes::many_layers(&layers, 64, Packing::Gzip);
        layers.image("t", &many, recipes::shell());
        let mut shared = Layout::new(self.dir.join("shared"));
        recipes::shared_base(&mut shared, Packing::Gzip, 100, 100);
        Ok(Inputs { files, files_tar, files_size, big, big_size, layers, shared })
    }

    /// Our program with a store.
    fn orlop(&self, store: &str, args: &[&str]) -> Option<Command> {
        let mut command = Command::new(self.ours.as_ref()?);
        command.arg("--store").arg(self.dir.join(store)).arg("--quiet").args(args);
        Some(command)
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn imports(&self, inputs: &Inputs) -> Result<Found> {
        let mut found = Found::new();
        let containerd = Containerd::start(&self.dir, None);
        for (title, layout, size) in
            [(IMPORT_FILES, &inputs.files, inputs.files_size), (IMPORT_BIG, &inputs.big, inputs.big_size)]
        {
            let archive = self.path(&format!("{size}.tar"));
            timed(Command::new("tar").args(["-C", &self.path_of(layout), "-cf", &archive, "."]))?;
            let speed = |ms: f64| size as f64 / 1e6 / ms;
            let (bundle, image) = (self.path("unpacked"), format!("{}:t", layout.dir.display()));
            let name = layout.name("t");
            let pull = || self.orlop("store-import", &["pull", "--name", "x:1", &name]);
            let mut orlop = || {
                remove(&self.path("store-import"));
                Ok(speed(timed(&mut pull().context("left out")?)?))
            };
            let mut umoci = || {
                remove(&bundle);
                let mut command = Command::new("umoci");
                Ok(speed(timed(command.args(["--log", "error", "unpack", "--image", &image, &bundle]))?))
            };
            let mut ctr = || {
                let containerd = containerd.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
                containerd.forget();
                Ok(speed(timed(containerd.ctr().args(["images", "import", &archive]))?))
            };
            let figures = turns(
                self.rounds,
                title,
                &mut [("orlop", &mut orlop), ("umoci", &mut umoci), ("containerd", &mut ctr)],
            );
            let mut rss = || {
                remove(&self.path("store-import"));
                peak(&mut pull().context("left out")?)
            };
            let mut rss_umoci = || {
                remove(&bundle);
                let mut command = Command::new("umoci");
                peak(command.args(["--log", "error", "unpack", "--image", &image, &bundle]))
            };
            if title == IMPORT_BIG {
                let peaks = turns(self.rounds, RSS_IMPORT, &mut [("orlop", &mut rss), ("umoci", &mut rss_umoci)]);
                found.insert(RSS_IMPORT.to_owned(), peaks);
            }
            found.insert(title.to_owned(), figures);
            remove(&bundle);
            remove(&self.path("store-import"));
        }
        Ok(found)
    }

    fn path_of(&self, layout: &Layout) -> String {
        layout.dir.display().to_string()
    }

    /// A store with all images.
    fn stock(&self, inputs: &Inputs) -> Result<()> {
        for (name, layout) in [("files:1", &inputs.files), ("layers:1", &inputs.layers)] {
            if let Some(mut command) = self.orlop("store", &["pull", "--name", name, &layout.name("t")]) {
                timed(&mut command)?;
            }
        }
        Ok(())
    }

    fn ready(&self, inputs: &Inputs) -> Result<Found> {
        let mut found = Found::new();
        self.stock(inputs)?;
        for (title, image, layout) in
            [(READY_FILES, "files:1", &inputs.files), (READY_LAYERS, "layers:1", &inputs.layers)]
        {
            let (bundle, unpacked) = (self.path("ready"), self.path("unpacked"));
            let source = format!("{}:t", layout.dir.display());
            let create = ["create", "--backend", "mount", image, &bundle];
            let mut orlop = || {
                let ms = timed(&mut self.orlop("store", &create).context("left out")?)?;
                timed(&mut self.orlop("store", &["rm", &bundle]).context("left out")?)?;
                Ok(ms)
            };
            let mut umoci = || {
                remove(&unpacked);
                timed(Command::new("umoci").args(["--log", "error", "unpack", "--image", &source, &unpacked]))
            };
            let figures = turns(self.rounds, title, &mut [("orlop", &mut orlop), ("umoci", &mut umoci)]);
            found.insert(title.to_owned(), figures);
            remove(&unpacked);
        }
        Ok(found)
    }

    fn directory(&self, inputs: &Inputs) -> Result<Found> {
        let mut found = Found::new();
        let (folder, archive) = (self.path("folder"), inputs.files_tar.display().to_string());
        let source = format!("{}:t", inputs.files.dir.display());
        let unpack = || self.orlop("store", &["unpack", "--rootfs-only", "files:1", &folder]);
        let mut orlop = || {
            remove(&folder);
            timed(&mut unpack().context("left out")?)
        };
        let mut tar = || {
            remove(&folder);
            fs::create_dir(&folder)?;
            timed(Command::new("tar").args(["--numeric-owner", "-xpf", &archive, "-C", &folder]))
        };
        let mut umoci = || {
            remove(&folder);
            timed(Command::new("umoci").args(["--log", "error", "unpack", "--image", &source, &folder]))
        };
        let mut rss = || {
            remove(&folder);
            peak(&mut unpack().context("left out")?)
        };
        let figures =
            turns(self.rounds, DIRECTORY, &mut [("orlop", &mut orlop), ("tar", &mut tar), ("umoci", &mut umoci)]);
        found.insert(DIRECTORY.to_owned(), figures);
        let figures = turns(self.rounds, RSS_CREATE, &mut [("orlop", &mut rss)]);
        found.insert(RSS_CREATE.to_owned(), figures);
        remove(&folder);
        Ok(found)
    }

    fn commit(&self, inputs: &Inputs) -> Result<Found> {
        let mut found = Found::new();
        // 200 files of a megabyte of text.
        let change = |root: &Path| -> Result<()> {
            let mut random = orlop_images::random::Random::new(200);
            fs::create_dir_all(root.join("new"))?;
            for i in 0..200 {
                fs::write(root.join(format!("new/{i}")), random.text(1_000_000))?;
            }
            Ok(())
        };
        let bundle = self.path("commit");
        if let Some(mut create) = self.orlop("store", &["create", "--backend", "mount", "layers:1", &bundle]) {
            timed(&mut create)?;
            change(&Path::new(&bundle).join("rootfs"))?;
        }
        let buildah = Buildah::new(&self.dir);
        let container = buildah.from(&inputs.layers.name("t"), &change);
        let out = self.path("committed");
        for (title, compression) in [(COMMIT, "gzip"), (COMMIT_PLAIN, "none")] {
            let mut orlop = || {
                let commit = ["commit", "--compression", compression, &bundle, "new:1"];
                let ms = timed(&mut self.orlop("store", &commit).context("left out")?)?;
                timed(&mut self.orlop("store", &["rmi", "new:1"]).context("left out")?)?;
                Ok(ms)
            };
            let mut peer = || {
                let container = container.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
                remove(&out);
                let oci = format!("oci:{out}:t");
                // Nothing is packed in its own storage; nor in a layout, unless it is told to.
                let how = match compression {
                    "gzip" => ["--disable-compression=false", container, oci.as_str()],
                    _ => ["--disable-compression=true", container, "localhost/new:1"],
                };
                timed(buildah.command().args(["commit", "-q", "--format", "oci"]).args(how))
            };
            let figures = turns(self.rounds, title, &mut [("orlop", &mut orlop), ("buildah", &mut peer)]);
            found.insert(title.to_owned(), figures);
        }
        if let Some(mut rm) = self.orlop("store", &["rm", &bundle]) {
            timed(&mut rm)?;
        }
        buildah.end();
        Ok(found)
    }

    fn pull(&self, inputs: &Inputs) -> Result<Found> {
        let mut found = Found::new();
        let registry = match Registry::start(&self.dir) {
            Ok(registry) => registry,
            Err(why) => {
                found.insert(PULL.to_owned(), vec![("orlop".to_owned(), Err(format!("{why:#}")))]);
                return Ok(found);
            }
        };
        for app in ["app0", "app1"] {
            let to = format!("docker://{}/{app}:1", registry.host);
            let from = inputs.shared.name(app);
            let copy = ["copy", "-q", "--insecure-policy", "--dest-tls-verify=false", &from, &to];
            timed(Command::new("skopeo").args(copy))?;
        }
        let name = |app: u32| format!("{}/app{app}:1", registry.host);
        let mut orlop = || {
            remove(&self.path("store-pull"));
            timed(&mut self.orlop("store-pull", &["pull", &name(0)]).context("left out")?)?;
            settle();
            timed(&mut self.orlop("store-pull", &["pull", &name(1)]).context("left out")?)
        };
        let out = self.path("skopeo");
        let copy = |app: u32| {
            let (from, to) = (format!("docker://{}", name(app)), format!("oci:{out}:{app}"));
            timed(Command::new("skopeo").args([
                "copy",
                "-q",
                "--insecure-policy",
                "--src-tls-verify=false",
                &from,
                &to,
            ]))
        };
        let mut skopeo = || {
            remove(&out);
            copy(0)?;
            settle();
            copy(1)
        };
        let figures = turns(self.rounds, PULL, &mut [("orlop", &mut orlop), ("skopeo", &mut skopeo)]);
        found.insert(PULL.to_owned(), figures);
        Ok(found)
    }

    fn reading(&self, inputs: &Inputs) -> Result<Found> {
        let mut found = Found::new();
        let (bundle, folder) = (self.path("read"), self.path("read-folder"));
        fs::create_dir(&folder)?;
        timed(Command::new("tar").args([
            "--numeric-owner",
            "-xpf",
            &inputs.files_tar.display().to_string(),
            "-C",
            &folder,
        ]))?;
        if let Some(mut create) = self.orlop("store", &["create", "--backend", "mount", "files:1", &bundle]) {
            timed(&mut create)?;
        }
        let rootfs = Path::new(&bundle).join("rootfs");
        let here = self.ours.is_some();
        let mut reader = |root: &Path, cold: bool| -> Result<f64> {
            ensure!(here || root != rootfs, "left out");
            if cold {
                // Written pages can't be dropped.
                nix::unistd::sync();
                fs::write("/proc/sys/vm/drop_caches", "3")?;
            } else {
                read_all(root)?;
            }
            let started = Instant::now();
            let files = read_all(root)?;
            ensure!(files == 50_000, "{files} files");
            Ok(started.elapsed().as_secs_f64() * 1e3)
        };
        for (title, cold) in [(READ_COLD, true), (READ_WARM, false)] {
            let reader = std::cell::RefCell::new(&mut reader);
            let mut mounted = || (reader.borrow_mut())(&rootfs, cold);
            let mut ext4 = || (reader.borrow_mut())(Path::new(&folder), cold);
            let figures = turns(self.rounds, title, &mut [("orlop", &mut mounted), ("ext4", &mut ext4)]);
            found.insert(title.to_owned(), figures);
        }
        if let Some(mut rm) = self.orlop("store", &["rm", &bundle]) {
            timed(&mut rm)?;
        }
        Ok(found)
    }
}

/// Samples of several tools in turns, each after the disk has come to rest.
fn turns(rounds: u16, title: &str, tools: &mut [(&str, &mut dyn FnMut() -> Result<f64>)]) -> Figures {
    eprintln!("{title}");
    let tools = tools.iter_mut().map(|(name, tool)| (*name, tool));
    let [figures] = report::turns(usize::from(rounds), tools, |tool| {
        settle();
        Ok([tool()?])
    });
    figures
}

/// Reads all files below, and counts them.
fn read_all(dir: &Path) -> Result<u64> {
    let (mut files, mut buffer) = (0, vec![0; 256 << 10]);
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                let mut file = fs::File::open(entry.path())?;
                while std::io::Read::read(&mut file, &mut buffer)? > 0 {}
                files += 1;
            }
        }
    }
    Ok(files)
}

/// Lets the journal drain, so that one run does not pay for the one before.
fn settle() {
    nix::unistd::sync();
    std::thread::sleep(Duration::from_millis(1500));
}

fn remove(path: &str) {
    let _ = Command::new("rm").args(["-rf", "--one-file-system", path]).status();
}

/// The peak RSS of a command and all its children, in MiB, each process for itself.
fn peak(command: &mut Command) -> Result<f64> {
    let mut wrapped = Command::new(std::env::current_exe()?);
    wrapped.arg("bench-peak").arg(command.get_program()).args(command.get_args());
    let output = wrapped.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    let kib: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("bench-peak")?;
    Ok(kib / 1024.0)
}

/// The hidden command `bench-peak`: runs another and prints the largest RSS of it and its children, in KiB.
pub(crate) fn print_peak(argv: &[String]) -> Result<()> {
    let (program, args) = argv.split_first().context("no program")?;
    let status = Command::new(program).args(args).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{program}: {status}");
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    println!("{}", usage.max_rss());
    Ok(())
}

struct Buildah {
    dir: PathBuf,
}

impl Buildah {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.join("buildah") }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.dir.join("root")).arg("--runroot").arg(self.dir.join("run"));
        command.args(["--storage-driver", "overlay"]);
        command
    }

    /// A container of an image, with its changes.
    fn from(&self, image: &str, change: &dyn Fn(&Path) -> Result<()>) -> Result<String> {
        let policy = self.dir.join("policy.json");
        fs::create_dir_all(&self.dir)?;
        fs::write(&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)?;
        let answer = |command: &mut Command| -> Result<String> {
            let output = command.stdin(Stdio::null()).output().context("buildah")?;
            ensure!(output.status.success(), "buildah: {}", String::from_utf8_lossy(&output.stderr).trim());
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let container = answer(self.command().arg("from").arg("--signature-policy").arg(policy).arg(image))?;
        let root = answer(self.command().args(["mount", &container]))?;
        change(Path::new(&root))?;
        Ok(container)
    }

    fn end(&self) {
        let _ = timed(self.command().args(["rm", "-a"]));
        let _ = timed(self.command().args(["rmi", "-a", "-f"]));
    }
}

struct Registry {
    host: String,
    _server: Server,
}

impl Registry {
    fn start(dir: &Path) -> Result<Self> {
        if build::find("skopeo").is_none() {
            bail!("skopeo is not installed");
        }
        let host = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
            dir.join("registry").display()
        );
        let file = dir.join("registry.yml");
        fs::write(&file, config)?;
        let server = serve(Command::new("docker-registry").arg("serve").arg(file), &dir.join("registry.log"))?;
        answers("docker-registry", || TcpStream::connect(&host).is_ok())?;
        Ok(Self { host, _server: server })
    }
}

/// The peers' versions, of those that are there.
fn versions() -> Versions {
    let ask = |name: &str, argv: &[&str]| {
        let output = Command::new(argv.first()?).args(argv.get(1..)?).stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some((name.to_owned(), text.lines().next()?.trim().to_owned()))
    };
    [
        ask("orlop", &["true"]).map(|_| ("orlop".to_owned(), format!("orlop-bundle {}", env!("CARGO_PKG_VERSION")))),
        ask("umoci", &["umoci", "--version"]),
        ask("containerd", &["containerd", "--version"]),
        ask("buildah", &["buildah", "--version"]),
        ask("skopeo", &["skopeo", "--version"]),
        ask("tar", &["tar", "--version"]),
    ]
    .into_iter()
    .flatten()
    .collect()
}
