//! `cargo xtask bench --shim`: `containerd-shim-orlop-v2` beside containerd's own shim with runc and with crun, and beside
//! conmon, on the same bundles, in the same minutes.

mod conmon;
mod engine;
mod left;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use orlop_images::layout::{Layout, Packing};
use orlop_images::tar::{Entry, flag};
use serde::{Deserialize, Serialize};

use super::Options;
use super::bundle::POURED;
use super::daemons::{Containerd, timed};
use super::report::Unit::{Gigabytes, Kibibytes, Mebibytes, Milliseconds, Things};
use super::report::{self, Figures, Found, Peers, Versions, Work};
use super::stage::{BASE, View, enter};
use crate::build;
use conmon::Conmon;
use engine::{Engine, Memory, Shim, Tool};
use left::Left;

/// How many containers are running while memory is measured.
const IDLE: usize = 20;
/// How many are made at once, and how many a shim has in its life.
const MANY: usize = 200;
/// Samples of what takes long, at the most.
const FEW: usize = 3;
/// Samples of what takes a little long, at the most.
const SOME: usize = 40;
/// How long a process has to come to rest.
const REST: Duration = Duration::from_secs(3);

const DIRTY: &str = "a shim with 20 running idle: private and dirty";
const PSS: &str = "a shim with 20 running idle: PSS";
const RSS: &str = "a shim with 20 running idle: RSS";
const START: &str = "start, until the address is printed";
const CREATE: &str = "create + start, through ttrpc";
const EXEC: &str = "exec /bin/true, through ttrpc";
const DELETE: &str = "kill + wait + delete, through ttrpc";
const LIFE: &str = "a container's life, from start to delete";
const CRASH: &str = "delete after a kill -9 of the shim";
const CTR: &str = "ctr run --rm /bin/true";
const MANY_START: &str = "200 containers at once, until all are started";
const MANY_MEMORY: &str = "200 containers at once: PSS of all shims";
const MANY_DELETE: &str = "200 containers at once, until all are deleted";
const LEFT: &str = "left behind by 200 containers";
const GROWTH: &str = "growth of a shim by 200 containers, one by one";
const STDOUT: &str = "stdout through a FIFO";

const WORKS: [Work; 16] = [
    Work { title: DIRTY, unit: Mebibytes, limit: Some(0.6), peers: Peers::All(&[]) },
    Work { title: PSS, unit: Mebibytes, limit: Some(1.0), peers: Peers::All(&[]) },
    Work { title: RSS, unit: Mebibytes, limit: Some(2.5), peers: Peers::All(&[]) },
    Work { title: START, unit: Milliseconds, limit: Some(3.0), peers: Peers::All(&[]) },
    Work { title: CREATE, unit: Milliseconds, limit: None, peers: Peers::All(&[("runc", 0.35), ("crun", 0.6)]) },
    Work { title: EXEC, unit: Milliseconds, limit: None, peers: Peers::All(&[("runc", 0.4)]) },
    Work { title: DELETE, unit: Milliseconds, limit: None, peers: Peers::All(&[]) },
    Work { title: LIFE, unit: Milliseconds, limit: None, peers: Peers::All(&[]) },
    Work { title: CRASH, unit: Milliseconds, limit: Some(500.0), peers: Peers::All(&[]) },
    Work { title: CTR, unit: Milliseconds, limit: None, peers: Peers::All(&[("runc", 0.6)]) },
    Work { title: MANY_START, unit: Milliseconds, limit: None, peers: Peers::All(&[]) },
    Work { title: MANY_MEMORY, unit: Mebibytes, limit: None, peers: Peers::All(&[]) },
    Work { title: MANY_DELETE, unit: Milliseconds, limit: None, peers: Peers::All(&[]) },
    Work { title: LEFT, unit: Things, limit: Some(0.0), peers: Peers::All(&[]) },
    Work { title: GROWTH, unit: Kibibytes, limit: Some(16.0), peers: Peers::All(&[]) },
    Work { title: STDOUT, unit: Gigabytes, limit: None, peers: Peers::One(&[("runc", 2.0), ("pipe", 1.0)]) },
];

/// What the part that runs in namespaces of its own is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    view: View,
    runs: usize,
    steps: Vec<String>,
    peer_root: Option<PathBuf>,
    /// The cgroup for all containers.
    cgroups: String,
    /// Our shim and our runtime, unless they are left out.
    ours: Option<[PathBuf; 2]>,
    /// Where to leave the results.
    results: PathBuf,
}

/// What that part has found.
#[derive(Debug, Serialize, Deserialize)]
struct Results {
    versions: Versions,
    found: Found,
}

/// Measures, prints, writes and draws.
pub(super) fn run(options: &Options) -> Result<()> {
    let view = match options.view.as_str() {
        "v1" => View::V1,
        "v2" => View::V2,
        _ => bail!("--shim measures one view at a time"),
    };
    let ours = if options.only_peers {
        None
    } else {
        let built = build::release(&["orlop-shim", "orlop"])?;
        let program = |name| build::program(&built, name).map(Path::to_owned);
        Some([program("containerd-shim-orlop-v2")?, program("orlop")?])
    };
    let all: Vec<_> = STEPS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for step in &options.steps {
        ensure!(all.contains(step), "no step {step:?}; there are {}", all.join(", "));
    }
    let plan = Plan {
        view,
        runs: usize::from(options.runs),
        steps: if options.steps.is_empty() { all } else { options.steps.clone() },
        peer_root: options.peer_root.as_ref().map(|dir| dir.canonicalize()).transpose().context("peer root")?,
        cgroups: format!("/orlop-bench-{}", std::process::id()),
        ours,
        results: build::scratch()?.join(format!("bench-shim-{}.json", std::process::id())),
    };
    // With its first process all others of the namespace end, whatever they are.
    unshare(CloneFlags::CLONE_NEWPID).context("unshare")?;
    let status = Command::new(std::env::current_exe()?)
        .arg("bench-shim")
        .arg(serde_json::to_string(&plan)?)
        .stdin(Stdio::null())
        .status()?;
    let bytes = fs::read(&plan.results).unwrap_or_default();
    // The results were read; the file was only the way here.
    let _ = fs::remove_file(&plan.results);
    ensure!(status.success(), "{status}");
    let results: Results = serde_json::from_slice(&bytes).context("results")?;
    let title = format!("Container shims side by side, cgroup {} view", view.name());
    report::publish(options, &title, &WORKS, &results.versions, &results.found)
}

/// The hidden command `bench-shim`: does what the plan says, in new namespaces. It is the first process of its own of
/// pids, so shims, which leave their parents, come to it to be waited for.
pub(crate) fn run_plan(plan: &str) -> Result<()> {
    let plan: Plan = serde_json::from_str(plan)?;
    let results = File::create(&plan.results).context("results")?;
    let ours = plan.ours.as_ref().map(|paths| paths.each_ref().map(fs::read));
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // The view of /sys is that of this namespace; and containerd's sockets are nobody else's.
    unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
    enter(plan.view, plan.peer_root.as_deref()).context("entering the view")?;
    if plan.peer_root.is_none() {
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).context("proc")?;
    }
    let bin = Path::new(BASE).join("bin");
    fs::create_dir_all(&bin)?;
    let engine = Engine::new(Path::new(BASE), &plan.cgroups)?;
    let mut bench = Bench { engine, cgroups: plan.cgroups, runs: plan.runs, tools: Vec::new(), conmons: Vec::new() };
    if let Some([shim, runtime]) = ours {
        let put = |name: &str, bytes: std::io::Result<Vec<u8>>| -> Result<PathBuf> {
            let path = bin.join(name);
            fs::write(&path, bytes?)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            Ok(path)
        };
        let shim = put("containerd-shim-orlop-v2", shim)?;
        bench.tools.push(Tool { name: "orlop".to_owned(), shim, runtime: None });
        bench.conmons.push(Conmon { name: "conmon, orlop".to_owned(), runtime: put("orlop", runtime)? });
    }
    if let Some(shim) = build::find("containerd-shim-runc-v2") {
        for name in ["runc", "crun"] {
            let Some(runtime) = build::find(name) else { continue };
            bench.tools.push(Tool { name: name.to_owned(), shim: shim.clone(), runtime: Some(runtime) });
        }
    }
    if let Some(runtime) = build::find("crun") {
        bench.conmons.push(Conmon { name: "conmon, crun".to_owned(), runtime });
    }
    let mut found = Found::new();
    for (name, step) in STEPS.iter().filter(|(name, _)| plan.steps.iter().any(|step| step == name)) {
        eprintln!("  {name}");
        found.append(&mut step(&bench));
    }
    left::remove_cgroups(&bench.cgroups)?;
    serde_json::to_writer(results, &Results { versions: bench.versions(), found })?;
    Ok(())
}

struct Bench {
    engine: Engine,
    cgroups: String,
    runs: usize,
    tools: Vec<Tool>,
    conmons: Vec<Conmon>,
}

/// Part of the measurement.
type Step = fn(&Bench) -> Found;

/// All parts, by the names that `--steps` has for them.
const STEPS: [(&str, Step); 7] = [
    ("memory", Bench::memory),
    ("lives", Bench::lives),
    ("crashes", Bench::crashes),
    ("output", Bench::output),
    ("growth", Bench::growth),
    ("ctr", Bench::ctr_run),
    ("many", Bench::many),
];

impl Bench {
    fn named(&self) -> impl Iterator<Item = (&str, &Tool)> {
        self.tools.iter().map(|tool| (tool.name.as_str(), tool))
    }

    /// The memory of shims, each with one container that does nothing.
    fn memory(&self) -> Found {
        let measure = |pids: Vec<nix::unistd::Pid>| -> Result<Vec<Memory>> {
            std::thread::sleep(REST);
            pids.into_iter().map(Memory::of).collect()
        };
        let mut all = Vec::new();
        for tool in &self.tools {
            let ids: Vec<_> = (0..IDLE).map(|n| format!("idle{n}")).collect();
            let shims: Result<Vec<_>> = ids.iter().map(|id| self.running(tool, id)).collect();
            let sizes = shims.and_then(|shims| {
                let sizes = measure(shims.iter().map(|shim| shim.pid).collect())?;
                shims.into_iter().try_for_each(|mut shim| {
                    shim.kill()?;
                    shim.end()
                })?;
                Ok(sizes)
            });
            all.push((tool.name.clone(), sizes));
        }
        for conmon in &self.conmons {
            let monitors: Result<Vec<_>> =
                (0..IDLE).map(|n| conmon.run(&self.engine, &format!("idle{n}"), "/bin/pause")).collect();
            let sizes = monitors.and_then(|monitors| measure(monitors.iter().map(|monitor| monitor.pid).collect()));
            all.push((conmon.name.clone(), sizes));
        }
        let figures = |of: fn(&Memory) -> f64| -> Figures {
            let figure = |sizes: &Result<Vec<Memory>>| match sizes {
                Ok(sizes) => report::figure(sizes.iter().map(|memory| of(memory) / 1024.0).collect()),
                Err(why) => Err(format!("{why:#}")),
            };
            all.iter().map(|(name, sizes)| (name.clone(), figure(sizes))).collect()
        };
        [
            (DIRTY.to_owned(), figures(|memory| memory.dirty)),
            (PSS.to_owned(), figures(|memory| memory.pss)),
            (RSS.to_owned(), figures(|memory| memory.rss)),
        ]
        .into()
    }

    /// A container that does nothing, with its shim.
    fn running<'a>(&'a self, tool: &'a Tool, id: &str) -> Result<Shim<'a>> {
        let mut shim = self.engine.start(tool, id, "/bin/pause")?;
        shim.create(None)?;
        shim.start()?;
        Ok(shim)
    }

    /// Containers one after the other, each with its own shim: what each part of their lives takes.
    fn lives(&self) -> Found {
        let life = |tool: &mut &Tool| -> Result<[f64; 5]> {
            let born = Instant::now();
            let mut shim = self.engine.start(tool, "life", "/bin/pause")?;
            let started = shim.started;
            let created = taken(|| {
                shim.create(None)?;
                shim.start()
            })?;
            let executed = taken(|| shim.exec("/bin/true"))?;
            let deleted = taken(|| shim.kill())?;
            shim.end()?;
            Ok([ms(started), created, executed, deleted, ms(born.elapsed())])
        };
        // The first ones read programs from the disk.
        let _ = report::turns(3, self.named(), life);
        let figures = report::turns(self.runs, self.named(), life);
        [START, CREATE, EXEC, DELETE, LIFE].map(str::to_owned).into_iter().zip(figures).collect()
    }

    fn crashes(&self) -> Found {
        let [figures] =
            report::turns(self.runs.min(SOME), self.named(), |tool| Ok([ms(self.running(tool, "crash")?.crash()?)]));
        [(CRASH.to_owned(), figures)].into()
    }

    /// Output that flows as fast as it is read.
    fn output(&self) -> Found {
        let [fifo, errors] = ["output", "errors"].map(|name| Path::new(BASE).join(name));
        let tools = self.named().map(|(name, tool)| (name, Some(tool))).chain([("pipe", None)]);
        let pour = |tool: &mut Option<&Tool>| -> Result<[f64; 1]> {
            // Open for both, a FIFO waits for nobody; it is closed when the others have it.
            let open = |path| -> Result<File> {
                let _ = fs::remove_file(path);
                nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
                Ok(File::options().read(true).write(true).open(path)?)
            };
            let (both, _errors) = (open(&fifo)?, open(&errors)?);
            let reader = File::open(&fifo)?;
            let sink = std::thread::spawn(move || drain(reader));
            match tool {
                Some(tool) => {
                    let mut shim = self.engine.start(tool, "pour", "/bin/pour")?;
                    shim.create(Some([&fifo, &errors]))?;
                    drop(both);
                    shim.start()?;
                    shim.wait()?;
                    shim.delete()?;
                    shim.end()?;
                }
                None => {
                    let program = self.engine.bundles.rootfs().join("bin/pour");
                    let status = Command::new(program).stdout(both).status()?;
                    ensure!(status.success(), "{status}");
                }
            }
            let (bytes, took) = sink.join().ok().context("the reader died")??;
            ensure!(bytes == POURED, "{bytes} of {POURED} bytes came through");
            Ok([bytes as f64 / 1e9 / took.as_secs_f64()])
        };
        let [figures] = report::turns(self.runs.min(FEW), tools, pour);
        [(STDOUT.to_owned(), figures)].into()
    }

    /// One shim, many containers, one after the other.
    fn growth(&self) -> Found {
        let [figures] = report::turns(1, self.named(), |tool| {
            let mut shim = self.engine.start(tool, "group", "/bin/pause")?;
            // Until it has all that it keeps.
            self.pass_through(&mut shim, IDLE)?;
            let before = Memory::of(shim.pid)?;
            self.pass_through(&mut shim, MANY)?;
            let after = Memory::of(shim.pid)?;
            shim.end()?;
            Ok([after.dirty - before.dirty])
        });
        [(GROWTH.to_owned(), figures)].into()
    }

    /// Lets containers come and go in one shim.
    fn pass_through(&self, shim: &mut Shim<'_>, count: usize) -> Result<()> {
        (0..count).try_for_each(|n| {
            let id = format!("group{}", n % 10);
            self.engine.bundle(&id, "/bin/pause")?;
            shim.create_more(&id, None)?;
            shim.start_more(&id)?;
            shim.kill_more(&id)
        })
    }

    /// Many containers, each with a shim and a thread of ours that does what has to be done for it.
    fn many(&self) -> Found {
        let ids: Vec<_> = (0..MANY).map(|n| format!("many{n}")).collect();
        let rounds = self.runs.min(FEW);
        let figures = report::turns(rounds, self.named(), |tool| {
            let before = Left::now(&self.cgroups)?;
            let tool: &Tool = tool;
            let since = Instant::now();
            let shims = at_once(ids.iter(), |id| self.running(tool, id))?;
            let started = ms(since.elapsed());
            std::thread::sleep(REST);
            let sizes: Result<Vec<_>> = shims.iter().map(|shim| Memory::of(shim.pid)).collect();
            let memory = sizes?.iter().map(|memory| memory.pss).sum::<f64>() / 1024.0;
            let since = Instant::now();
            at_once(shims, |mut shim| {
                shim.kill()?;
                shim.end()
            })?;
            let deleted = ms(since.elapsed());
            Ok([started, memory, deleted, Left::now(&self.cgroups)?.beyond(&before, &self.engine.state(&tool.name))?])
        });
        [MANY_START, MANY_MEMORY, MANY_DELETE, LEFT].map(str::to_owned).into_iter().zip(figures).collect()
    }

    /// containerd itself, with each shim.
    fn ctr_run(&self) -> Found {
        let ready = || -> Result<_> {
            let dir = Path::new(BASE).join("image");
            let containerd = Containerd::start(Path::new(BASE), Some(&Path::new(BASE).join("bin")))?;
            let archive = self.image(&dir)?;
            timed(containerd.ctr().args(["images", "import", "--base-name", "bench"]).arg(archive))?;
            let names = containerd.ctr().args(["images", "ls", "-q"]).output()?;
            let image = String::from_utf8(names.stdout)?.lines().next().context("no image")?.to_owned();
            Ok((containerd, image))
        };
        let (containerd, image) = match ready() {
            Ok(ready) => ready,
            Err(why) => {
                let failed = self.named().map(|(name, _)| (name.to_owned(), Err(format!("{why:#}"))));
                return [(CTR.to_owned(), failed.collect())].into();
            }
        };
        let mut count = 0;
        let mut run = |tool: &mut &Tool| {
            // By the same name, the shim of the one before would be found, on its way out.
            count += 1;
            let id = format!("bench{count}");
            let cgroup = format!("{}/{id}", self.cgroups);
            let mut ctr = containerd.ctr();
            ctr.args(["run", "--rm", "--runtime"]);
            match &tool.runtime {
                Some(runtime) => ctr.args(["io.containerd.runc.v2", "--runc-binary"]).arg(runtime),
                None => ctr.arg("io.containerd.orlop.v2"),
            };
            // ctr asks for 1024 otherwise, and the v2 view of a machine with v1 has no controller for it.
            Ok([timed(ctr.args(["--cpu-shares", "0", "--cgroup", &cgroup, &image, &id, "/bin/true"]))?])
        };
        let _ = report::turns(3, self.named(), &mut run);
        let [figures] = report::turns(self.runs.min(SOME), self.named(), &mut run);
        [(CTR.to_owned(), figures)].into()
    }

    /// An image of the programs, in an archive.
    fn image(&self, dir: &Path) -> Result<PathBuf> {
        let program = fs::read(self.engine.bundles.rootfs().join("bin/true"))?;
        let mut layout = Layout::new(dir);
        let layer = layout.layer(Packing::Gzip, |tar| {
            for name in ["bin", "dev", "proc", "run", "sys"] {
                tar.dir(name);
            }
            tar.entry(&Entry { mode: 0o755, ..Entry::new(flag::FILE, b"bin/true") }, &program);
        });
        layout.image("1", &[layer], orlop_images::recipes::shell());
        let archive = dir.with_extension("tar");
        timed(Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(&archive).arg("."))?;
        Ok(archive)
    }

    fn versions(&self) -> Versions {
        let line = |program: &Path, argument: &str| {
            let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        };
        let first = |program: &Path| line(program, "--version").lines().next().unwrap_or("?").trim().to_owned();
        let shim = |path: &Path| {
            let said = line(path, "-v");
            let version = said.lines().find_map(|line| line.trim().strip_prefix("Version:")).unwrap_or("?").trim();
            format!("{} {version}", path.file_name().unwrap_or_default().display())
        };
        let tools = self.tools.iter().map(|tool| {
            let with = tool.runtime.as_deref().map_or_else(String::new, |runtime| format!(" with {}", first(runtime)));
            (tool.name.clone(), shim(&tool.shim) + &with)
        });
        let conmon = first(Path::new("conmon"));
        let conmons = self.conmons.iter().map(|c| (c.name.clone(), format!("{conmon} with {}", first(&c.runtime))));
        let containerd = ("containerd".to_owned(), first(Path::new("containerd")));
        tools.chain(conmons).chain([containerd]).collect()
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// How many milliseconds it took.
fn taken(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let since = Instant::now();
    work()?;
    Ok(ms(since.elapsed()))
}

/// Does the same for all, with a thread for each.
fn at_once<T: Send, R: Send>(all: impl IntoIterator<Item = T>, work: impl Fn(T) -> Result<R> + Sync) -> Result<Vec<R>> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = all.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        // All of them end before the first failure is told.
        let done: Vec<_> = threads.into_iter().map(|thread| thread.join().ok().context("a thread died")?).collect();
        done.into_iter().collect()
    })
}

/// Reads to the end: how much, and how long it took from the first byte on.
fn drain(mut file: File) -> Result<(u64, Duration)> {
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = file.read(&mut buffer)?;
    let since = Instant::now();
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes as u64, since.elapsed())),
            more => bytes += more,
        }
    }
}
