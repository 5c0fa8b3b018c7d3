//! `cargo xtask bench`: runtimes side by side, on the same bundles, in the same minutes.

mod bundle;
mod daemons;
pub(crate) mod images;
mod report;
mod scratch;
pub(crate) mod shim;
pub(crate) mod stage;
mod stats;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::build;
use stage::{Outcome, Results, Stage, View, Workload};

/// What `cargo xtask bench` can be told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Samples of each time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// The layout of the cgroups: the machine's own (v1), one cgroup2 mount (v2), or each in turn.
    #[arg(long, default_value = "v2", value_parser = ["v1", "v2", "both"])]
    view: String,
    /// Where to write all figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to draw them.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Runtimes to compare with, instead of the crun, runc and youki in PATH.
    #[arg(long, value_name = "PATH,...", value_delimiter = ',')]
    peers: Vec<PathBuf>,
    /// A root (of `cargo xtask peers`) to run in, with the crun and runc that it has.
    #[arg(long, value_name = "DIR")]
    peer_root: Option<PathBuf>,
    /// Leave our program out.
    #[arg(long)]
    only_peers: bool,
    /// Measure orlop-bundle instead of the runtime, five samples at the most.
    #[arg(long, conflicts_with_all = ["view", "peers", "peer_root"])]
    bundle: bool,
    /// Of --bundle, what the images lie on: an ext4 of its own in memory (where that suffices) or on disk, or a folder.
    #[arg(long, value_enum, requires = "bundle")]
    scratch: Option<scratch::Backing>,
    /// Measure containerd-shim-orlop-v2 instead of the runtime, beside containerd's shim and conmon.
    #[arg(long, conflicts_with_all = ["bundle", "peers"])]
    shim: bool,
    /// Of --shim, only these parts: memory, lives, crashes, output, growth, ctr, many.
    #[arg(long, value_name = "STEP,...", value_delimiter = ',', requires = "shim")]
    steps: Vec<String>,
}

/// A promise: at most `ratio` times what `peer` needs.
struct Target {
    workload: Workload,
    view: Option<View>,
    peer: &'static str,
    ratio: f64,
}

const TARGETS: [Target; 10] = [
    Target { workload: Workload::Run, view: Some(View::V2), peer: "crun", ratio: 0.5 },
    Target { workload: Workload::Run, view: Some(View::V2), peer: "floor", ratio: 1.6 },
    Target { workload: Workload::Run, view: Some(View::V1), peer: "crun", ratio: 0.6 },
    Target { workload: Workload::Cycle, view: None, peer: "crun", ratio: 0.5 },
    Target { workload: Workload::Exec, view: None, peer: "crun", ratio: 0.5 },
    Target { workload: Workload::State, view: None, peer: "crun", ratio: 0.35 },
    Target { workload: Workload::Kill0, view: None, peer: "crun", ratio: 0.35 },
    Target { workload: Workload::Delete, view: None, peer: "crun", ratio: 0.6 },
    Target { workload: Workload::SeccompCold, view: None, peer: "crun", ratio: 0.5 },
    Target { workload: Workload::Memory, view: None, peer: "crun", ratio: 1.0 },
];

/// Promises in absolute numbers, in the workload's unit.
const LIMITS: [(Workload, f64); 4] = [
    (Workload::Syscalls, 350.0),
    (Workload::Memory, 512.0),
    (Workload::PeakRss, 3.8 * 1024.0),
    (Workload::Size, 3.0 * 1024.0),
];

/// Measures, prints, writes and draws.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the benchmark must run as root: it runs containers");
    if options.bundle {
        return images::run(options);
    }
    if options.shim {
        return shim::run(options);
    }
    let mut packages = vec!["orlop-floor"];
    if !options.only_peers {
        packages.push("orlop");
    }
    let built = build::release(&packages)?;
    let mut runtimes = Vec::new();
    if !options.only_peers {
        runtimes.push(("orlop".to_owned(), build::program(&built, "orlop")?.to_owned()));
    }
    let peers: Vec<_> = if !options.peers.is_empty() {
        options.peers.clone()
    } else {
        // A peer root's own crun and runc are newer than the machine's.
        let names: &[&str] = if options.peer_root.is_some() { &["youki"] } else { &["crun", "runc", "youki"] };
        names.iter().filter_map(|name| build::find(name)).collect()
    };
    for peer in peers {
        let name = peer.file_name().context("a peer without a name")?.to_string_lossy().into_owned();
        ensure!(runtimes.iter().all(|(other, _)| *other != name), "two runtimes named {name}");
        let path = peer.canonicalize().with_context(|| peer.display().to_string())?;
        runtimes.push((name, path));
    }
    let inside: Vec<String> = match options.peer_root {
        Some(_) => ["crun", "runc"].map(str::to_owned).into(),
        None => Vec::new(),
    };

    let views: &[View] = match options.view.as_str() {
        "v1" => &[View::V1],
        "v2" => &[View::V2],
        _ => &[View::V2, View::V1],
    };
    let mut all = Vec::new();
    for view in views {
        if *view == View::V1 && !Path::new("/sys/fs/cgroup/memory").is_dir() {
            eprintln!("v1: this machine has no v1 layout; left out");
            continue;
        }
        let stage = Stage {
            view: *view,
            runs: usize::from(options.runs),
            peer_root: options.peer_root.clone().map(|dir| dir.canonicalize()).transpose().context("peer root")?,
            runtimes: runtimes.clone(),
            inside: inside.clone(),
            floor: build::program(&built, "orlop-floor")?.to_owned(),
            results: build::scratch()?.join(format!("bench-{}-{}.json", view.name(), std::process::id())),
        };
        all.push(run_stage(&stage)?);
    }
    ensure!(!all.is_empty(), "nothing was measured");

    let machine = machine();
    println!("{machine}");
    for results in &all {
        print!("{}", table(results));
        print!("{}", verdicts(results));
    }
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(&report(&machine, &all))?)
            .with_context(|| path.display().to_string())?;
        println!("\nwrote {}", path.display());
    }
    if let Some(path) = &options.svg {
        fs::write(path, svg::draw(&machine, &all)).with_context(|| path.display().to_string())?;
        println!("drew {}", path.display());
    }
    Ok(())
}

/// Runs the stage in a process of its own, whose mount namespace ends with it.
fn run_stage(stage: &Stage) -> Result<Results> {
    eprintln!("{} view, {} runs", stage.view.name(), stage.runs);
    let status = Command::new(std::env::current_exe()?)
        .arg("bench-view")
        .arg(serde_json::to_string(stage)?)
        .stdin(Stdio::null())
        .status()?;
    let bytes = fs::read(&stage.results).unwrap_or_default();
    // The results were read; the file was only the way here.
    let _ = fs::remove_file(&stage.results);
    if !status.success() {
        bail!("the {} view: {status}", stage.view.name());
    }
    serde_json::from_slice(&bytes).context("the stage's results")
}

/// The machine that the figures are of, in a line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1)).unwrap_or("?");
    format!("Linux {}, {cpus} CPUs ({})", read("/proc/sys/kernel/osrelease").trim(), model.trim())
}

fn outcome<'a>(results: &'a Results, workload: Workload, runtime: &str) -> Option<&'a Outcome> {
    results.outcomes.get(workload.title())?.get(runtime)
}

fn median(results: &Results, workload: Workload, runtime: &str) -> Option<f64> {
    match outcome(results, workload, runtime)? {
        Outcome::Figure(figure) => Some(figure.median),
        Outcome::Failed(_) => None,
    }
}

/// Two decimals for small times, none for counts.
fn number(value: f64, workload: Workload) -> String {
    if workload.is_time() { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// All figures of a view, a line for each workload and a column for each runtime.
fn table(results: &Results) -> String {
    let mut text = format!("\n{} view\n", results.view.name());
    for (name, version) in &results.runtimes {
        text.push_str(&format!("  {name}: {version}\n"));
    }
    let mut failures = String::new();
    let mut rows = vec![
        std::iter::once("median (p10 .. p90)".to_owned())
            .chain(results.runtimes.iter().map(|(name, _)| name.clone()))
            .collect::<Vec<_>>(),
    ];
    for workload in Workload::ALL {
        let mut cells = vec![format!("{}, {}", workload.title(), workload.unit())];
        for (name, _) in &results.runtimes {
            cells.push(match outcome(results, workload, name) {
                Some(Outcome::Figure(figure)) if workload.is_time() => {
                    format!("{:.2} ({:.2} .. {:.2})", figure.median, figure.p10, figure.p90)
                }
                Some(Outcome::Figure(figure)) => number(figure.median, workload),
                Some(Outcome::Failed(why)) => {
                    failures.push_str(&format!("  {name}, {}: {why}\n", workload.title()));
                    "-".to_owned()
                }
                None => String::new(),
            });
        }
        rows.push(cells);
    }
    let columns = results.runtimes.len() + 1;
    let widths: Vec<_> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0))
        .collect();
    text.push('\n');
    for row in rows {
        let line: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(&format!("  {}\n", line.join("  ").trim_end()));
    }
    if !failures.is_empty() {
        text.push_str(&format!("\n  not measured:\n{failures}"));
    }
    text
}

/// How our figures stand to what was promised: workload, what is compared, and whether it holds.
fn judged(results: &Results) -> Vec<(Workload, String, bool)> {
    let mut lines = Vec::new();
    for target in TARGETS.iter().filter(|target| target.view.is_none_or(|view| view == results.view)) {
        if let (Some(ours), Some(theirs)) =
            (median(results, target.workload, "orlop"), median(results, target.workload, target.peer))
        {
            let ratio = ours / theirs;
            let text = format!("{ratio:.2} x {}, target {:.2}", target.peer, target.ratio);
            lines.push((target.workload, text, ratio <= target.ratio));
        }
    }
    for (workload, limit) in LIMITS {
        if let Some(ours) = median(results, workload, "orlop") {
            let text = format!("{} {unit}, target {limit:.0} {unit}", number(ours, workload), unit = workload.unit());
            lines.push((workload, text, ours <= limit));
        }
    }
    lines
}

fn verdicts(results: &Results) -> String {
    let lines = judged(results);
    if lines.is_empty() {
        return String::new();
    }
    let mut text = "\n  targets\n".to_owned();
    for (workload, line, holds) in lines {
        text.push_str(&format!("    {:4}  {:31}  {line}\n", if holds { "met" } else { "MISS" }, workload.title()));
    }
    text
}

fn report(machine: &str, all: &[Results]) -> Value {
    let views: Vec<_> = all
        .iter()
        .map(|results| {
            let targets: Vec<_> = judged(results)
                .into_iter()
                .map(|(workload, text, met)| json!({"workload": workload.title(), "result": text, "met": met}))
                .collect();
            let workloads: serde_json::Map<_, _> = Workload::ALL
                .iter()
                .map(|workload| {
                    let mut found = serde_json::Map::new();
                    for (name, _) in &results.runtimes {
                        match outcome(results, *workload, name) {
                            Some(Outcome::Figure(figure)) => found.insert(name.clone(), json!(figure)),
                            Some(Outcome::Failed(why)) => found.insert(name.clone(), json!({"failed": why})),
                            None => None,
                        };
                    }
                    let entry = json!({"unit": workload.unit(), "runtimes": found});
                    (workload.title().to_owned(), entry)
                })
                .collect();
            let versions: serde_json::Map<_, _> =
                results.runtimes.iter().map(|(name, version)| (name.clone(), json!(version))).collect();
            json!({"view": results.view.name(), "versions": versions, "workloads": workloads, "targets": targets})
        })
        .collect();
    json!({"machine": machine, "views": views})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::stats::Figure;
    use super::*;

    fn results(view: View, workload: Workload, figures: &[(&str, f64)]) -> Results {
        let figure = |value: f64| Outcome::Figure(Figure { median: value, p10: value, p90: value, samples: 1 });
        let found: BTreeMap<_, _> = figures.iter().map(|(name, value)| ((*name).to_owned(), figure(*value))).collect();
        Results {
            view,
            runtimes: figures.iter().map(|(name, _)| ((*name).to_owned(), "1".to_owned())).collect(),
            outcomes: [(workload.title().to_owned(), found)].into(),
        }
    }

    #[test]
    fn a_ratio_on_its_target_is_met_and_above_it_is_missed() {
        let met = judged(&results(View::V2, Workload::Run, &[("orlop", 2.5), ("crun", 5.0), ("floor", 1.0)]));
        assert_eq!(met.iter().map(|(_, _, met)| *met).collect::<Vec<_>>(), [true, false]);
        let v1 = judged(&results(View::V1, Workload::Run, &[("orlop", 3.0), ("crun", 5.0), ("floor", 1.0)]));
        assert_eq!(v1.len(), 1);
        assert!(v1[0].2);
    }

    #[test]
    fn without_a_figure_of_ours_nothing_is_judged() {
        assert!(judged(&results(View::V2, Workload::Run, &[("crun", 5.0)])).is_empty());
    }

    #[test]
    fn a_failure_stands_below_the_table_with_its_reason() {
        let mut results = results(View::V2, Workload::Run, &[("crun", 5.0)]);
        let failed = Outcome::Failed("no such file".to_owned());
        results.outcomes.insert(Workload::Exec.title().to_owned(), [("crun".to_owned(), failed)].into());
        assert!(table(&results).contains("crun, exec /bin/true: no such file"));
    }
}
