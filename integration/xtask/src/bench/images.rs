//! `cargo xtask bench --bundle`: `orlop-bundle` beside umoci, containerd, buildah, skopeo and GNU tar, on the same images.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use orlop_images::layout::{Layout, Packing};
use orlop_images::recipes;
use orlop_images::tar::Tar;
use serde_json::{Value, json};

use super::stats::Figure;
use super::{Options, machine, svg};
use crate::build;

/// Samples of each figure at the most: some take many seconds.
const ROUNDS: u16 = 5;

/// What is measured.
struct Work {
    title: &'static str,
    unit: Unit,
    /// Our promise: at most this much, or this many times the peer.
    limit: Option<f64>,
    peers: &'static [(&'static str, f64)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Milliseconds,
    /// Of the plain tar, per second: more is better.
    Gigabytes,
    Mebibytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Gigabytes => "GB/s",
            Self::Mebibytes => "MiB",
        }
    }

    /// Whether `value` is as good as `bound`.
    fn holds(self, value: f64, bound: f64) -> bool {
        if self == Self::Gigabytes { value >= bound } else { value <= bound }
    }
}

use Unit::{Gigabytes, Mebibytes, Milliseconds};

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
    Work { title: READY_FILES, unit: Milliseconds, limit: Some(10.0), peers: &[] },
    Work { title: READY_LAYERS, unit: Milliseconds, limit: Some(10.0), peers: &[] },
    Work { title: IMPORT_FILES, unit: Gigabytes, limit: Some(0.6), peers: &[("umoci", 5.0), ("containerd", 3.0)] },
    Work { title: IMPORT_BIG, unit: Gigabytes, limit: Some(0.6), peers: &[] },
    Work { title: DIRECTORY, unit: Milliseconds, limit: None, peers: &[("tar", 1.0 / 1.5), ("umoci", 0.25)] },
    Work { title: COMMIT, unit: Milliseconds, limit: None, peers: &[("buildah", 0.5)] },
    Work { title: COMMIT_PLAIN, unit: Milliseconds, limit: None, peers: &[("buildah", 0.5)] },
    Work { title: PULL, unit: Milliseconds, limit: Some(50.0), peers: &[] },
    Work { title: READ_COLD, unit: Milliseconds, limit: None, peers: &[("ext4", 1.2)] },
    Work { title: READ_WARM, unit: Milliseconds, limit: None, peers: &[("ext4", 1.2)] },
    Work { title: RSS_IMPORT, unit: Mebibytes, limit: Some(64.0), peers: &[] },
    Work { title: RSS_CREATE, unit: Mebibytes, limit: Some(64.0), peers: &[] },
];

/// Figures, or why there are none, by tool.
type Figures = Vec<(String, Result<Figure, String>)>;

/// The same by work.
type Found = BTreeMap<&'static str, Figures>;

/// Measures, prints, writes and draws.
pub(super) fn run(options: &Options) -> Result<()> {
    let ours = if options.only_peers {
        None
    } else {
        let built = build::release(&["orlop-bundle"])?;
        Some(build::program(&built, "orlop-bundle")?.to_owned())
    };
    // Mounts end with this process.
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).context("/")?;
    let dir = build::scratch()?.join(format!("images-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let found = Bench { dir: dir.clone(), ours, rounds: options.runs.min(ROUNDS) }.all();
    let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&dir).status();
    let found = found?;

    let (machine, versions) = (machine(), versions());
    println!("{machine}");
    for (name, version) in &versions {
        println!("  {name}: {version}");
    }
    print!("\n{}", table(&found));
    let targets = judged(&found);
    for (title, text, met) in &targets {
        println!("    {:4}  {title:46}  {text}", if *met { "met" } else { "MISS" });
    }
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(&report(&machine, &versions, &found, &targets))?)?;
        println!("\nwrote {}", path.display());
    }
    if let Some(path) = &options.svg {
        let groups: Vec<_> = WORKS
            .iter()
            .map(|work| {
                let bars = found.get(work.title).into_iter().flatten();
                let bars = bars.filter_map(|(tool, figure)| Some((tool.clone(), *figure.as_ref().ok()?)));
                (format!("{} ({})", work.title, work.unit.name()), bars.collect())
            })
            .collect();
        fs::write(path, svg::draw_groups("Image tools side by side", &machine, &versions, &groups))?;
        println!("drew {}", path.display());
    }
    Ok(())
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
        let containerd = Containerd::start(&self.dir);
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
                found.insert(RSS_IMPORT, peaks);
            }
            found.insert(title, figures);
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
            found.insert(title, figures);
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
        found.insert(DIRECTORY, figures);
        let figures = turns(self.rounds, RSS_CREATE, &mut [("orlop", &mut rss)]);
        found.insert(RSS_CREATE, figures);
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
                // Its own storage is not packed, a layout is.
                let to = if compression == "gzip" { oci.as_str() } else { "localhost/new:1" };
                timed(buildah.command().args(["commit", "-q", "--format", "oci", container, to]))
            };
            let figures = turns(self.rounds, title, &mut [("orlop", &mut orlop), ("buildah", &mut peer)]);
            found.insert(title, figures);
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
                found.insert(PULL, vec![("orlop".to_owned(), Err(format!("{why:#}")))]);
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
        found.insert(PULL, figures);
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
            found.insert(title, figures);
        }
        if let Some(mut rm) = self.orlop("store", &["rm", &bundle]) {
            timed(&mut rm)?;
        }
        Ok(found)
    }
}

/// Samples of several tools in turns. A tool that fails once is left out from then on, with its reason.
fn turns(rounds: u16, title: &str, tools: &mut [(&str, &mut dyn FnMut() -> Result<f64>)]) -> Figures {
    eprintln!("{title}");
    let mut samples: Vec<Result<Vec<f64>, String>> = tools.iter().map(|_| Ok(Vec::new())).collect();
    for _ in 0..rounds {
        for ((_, tool), samples) in tools.iter_mut().zip(&mut samples) {
            let Ok(list) = samples else { continue };
            settle();
            match tool() {
                Ok(value) => list.push(value),
                Err(why) => *samples = Err(format!("{why:#}")),
            }
        }
    }
    let figure = |samples: Result<Vec<f64>, String>| {
        samples.and_then(|list| Figure::of(list).ok_or_else(|| "no sample".to_owned()))
    };
    tools.iter().zip(samples).map(|((name, _), samples)| ((*name).to_owned(), figure(samples))).collect()
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

/// Runs a command that must succeed, and says how many milliseconds it took.
fn timed(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}: {}", command.get_program(), output.status, said.trim());
    Ok(ms)
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

/// A server that ends with its value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(command: &mut Command, log: &Path) -> Result<Server> {
    let output = fs::File::create(log)?;
    let child = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn();
    Ok(Server(child.with_context(|| format!("{:?}", command.get_program()))?))
}

fn answers(what: &str, mut so: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        ensure!(Instant::now() < end, "{what} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A containerd of our own.
struct Containerd {
    socket: String,
    _server: Server,
}

impl Containerd {
    fn start(dir: &Path) -> Result<Self> {
        let dir = dir.join("containerd");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("config.toml"), "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")?;
        // A socket's path has at most 107 bytes.
        let socket = format!("/tmp/orlop-bench-{}.sock", std::process::id());
        let mut command = Command::new("containerd");
        command.arg("--config").arg(dir.join("config.toml")).arg("--root").arg(dir.join("root"));
        command.arg("--state").arg(dir.join("state")).args(["--address", &socket]);
        let server = serve(&mut command, &dir.join("log"))?;
        let this = Self { socket, _server: server };
        answers("containerd", || this.ctr().arg("version").output().is_ok_and(|o| o.status.success()))?;
        Ok(this)
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.socket]);
        command
    }

    /// Removes all images with what was unpacked of them.
    fn forget(&self) {
        let names = self.ctr().args(["images", "ls", "-q"]).output().map(|o| o.stdout).unwrap_or_default();
        for name in String::from_utf8_lossy(&names).lines() {
            // What can't be removed makes the next figure better, if anything.
            let _ = timed(self.ctr().args(["images", "rm", "--sync", name]));
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
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
fn versions() -> Vec<(String, String)> {
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

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn table(found: &Found) -> String {
    let (mut text, mut failures) = (String::from("  median (p10 .. p90)\n"), String::new());
    for work in &WORKS {
        let Some(tools) = found.get(work.title) else { continue };
        text.push_str(&format!("  {}, {}\n", work.title, work.unit.name()));
        for (tool, figure) in tools {
            match figure {
                Ok(Figure { median, p10, p90, .. }) => {
                    let range = format!("({} .. {})", number(*p10), number(*p90));
                    text.push_str(&format!("      {tool:12} {:>10}  {range}\n", number(*median)));
                }
                Err(why) => failures.push_str(&format!("  {tool}, {}: {why}\n", work.title)),
            }
        }
    }
    if !failures.is_empty() {
        text.push_str(&format!("\n  not measured:\n{failures}"));
    }
    text.push('\n');
    text
}

/// How our figures stand to what was promised.
fn judged(found: &Found) -> Vec<(&'static str, String, bool)> {
    let mut lines = Vec::new();
    for work in &WORKS {
        let of = |tool: &str| {
            let (_, figure) = found.get(work.title)?.iter().find(|(name, _)| name == tool)?;
            figure.as_ref().ok().map(|figure| figure.median)
        };
        let Some(ours) = of("orlop") else { continue };
        if let Some(limit) = work.limit {
            let text = format!("{} {unit}, target {limit} {unit}", number(ours), unit = work.unit.name());
            lines.push((work.title, text, work.unit.holds(ours, limit)));
        }
        for (peer, target) in work.peers {
            if let Some(theirs) = of(peer) {
                let ratio = ours / theirs;
                lines.push((
                    work.title,
                    format!("{ratio:.2} x {peer}, target {target:.2}"),
                    work.unit.holds(ratio, *target),
                ));
            }
        }
    }
    lines
}

fn report(
    machine: &str,
    versions: &[(String, String)],
    found: &Found,
    targets: &[(&'static str, String, bool)],
) -> Value {
    let works: serde_json::Map<_, _> = WORKS
        .iter()
        .filter_map(|work| {
            let tools: serde_json::Map<_, _> = found
                .get(work.title)?
                .iter()
                .map(|(tool, figure)| match figure {
                    Ok(figure) => (tool.clone(), json!(figure)),
                    Err(why) => (tool.clone(), json!({"failed": why})),
                })
                .collect();
            Some((work.title.to_owned(), json!({"unit": work.unit.name(), "tools": tools})))
        })
        .collect();
    let targets: Vec<_> =
        targets.iter().map(|(work, text, met)| json!({"workload": work, "result": text, "met": met})).collect();
    let versions: serde_json::Map<_, _> = versions.iter().map(|(name, v)| (name.clone(), json!(v))).collect();
    json!({"machine": machine, "versions": versions, "workloads": works, "targets": targets})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(median: f64) -> Result<Figure, String> {
        Ok(Figure { median, p10: median, p90: median, samples: 1 })
    }

    #[test]
    fn of_a_speed_more_is_better_and_of_a_time_less() {
        let mut found = Found::new();
        found.insert(IMPORT_FILES, vec![("orlop".to_owned(), figure(0.7)), ("umoci".to_owned(), figure(0.2))]);
        found.insert(READY_FILES, vec![("orlop".to_owned(), figure(11.0))]);
        let met: Vec<_> = judged(&found).into_iter().map(|(_, _, met)| met).collect();
        // 11 ms of 10; 0.7 GB/s of 0.6; 3.5 times umoci, of 5.
        assert_eq!(met, [false, true, false]);
    }

    #[test]
    fn a_failure_stands_below_the_table_with_its_reason() {
        let mut found = Found::new();
        found.insert(PULL, vec![("orlop".to_owned(), figure(3.0)), ("skopeo".to_owned(), Err("no skopeo".to_owned()))]);
        assert!(table(&found).contains("skopeo, pull of one small missing layer: no skopeo"));
    }
}
