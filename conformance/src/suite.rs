//! The cases, each in a process of its own: what one breaks, hangs or leaks stays with it.

use std::fs;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Options;
use crate::cases::{self, Case};
use crate::check::Skip;
use crate::command::wait_until;
use crate::known;
use crate::report::{self, Count, Outcome, Verdict};
use crate::scene::{Runtime, Scene};
use crate::world;

/// After this a case is killed; its commands give up long before.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the chosen cases and reports; true when nothing failed.
pub(crate) fn run(options: &Options, path: &Path) -> Result<bool> {
    let chosen = choose(options.filter.as_deref())?;
    ensure!(rustix::process::geteuid().is_root(), "the cases need root: they make namespaces, mounts and cgroups");
    let scratch = Scratch::new()?;
    let source = options.probe.clone().map_or_else(beside, Ok)?;
    fs::copy(&source, scratch.probe()).with_context(|| format!("copy the probe {}", source.display()))?;
    fs::set_permissions(scratch.probe(), fs::Permissions::from_mode(0o755))?;
    world::isolate()?;
    world::show(options.view)?;
    world::adopt_orphans()?;
    let path = path.canonicalize().with_context(|| format!("runtime {}", path.display()))?;
    let runtime = Runtime::ask(&path, &scratch.0)?;
    if let Err(error) = control(&runtime, &scratch) {
        // Standard error may be closed; the cases go on all the same.
        let _ = writeln!(
            std::io::stderr().lock(),
            "orlop-conformance: the unchanged config does not run, so a refusal of a changed one says nothing: {error:#}"
        );
    }
    let excuses = if options.known { known::table()? } else { Vec::new() };
    let layout = if world::is_v2()? { "v2" } else { "v1" };

    let jobs = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = chosen.get(index) else { break };
                    let mut verdict = in_process(case, &runtime, &scratch, index);
                    if let (Outcome::Fail(_), Some(known)) =
                        (&verdict.outcome, known::find(&excuses, &verdict.name, &runtime, layout))
                    {
                        verdict.outcome =
                            Outcome::Todo(format!("{} {}: {}", runtime.name, runtime.version, known.seen));
                    }
                    if let Ok(mut verdicts) = verdicts.lock() {
                        verdicts.push((index, verdict.clone()));
                        if std::io::stderr().is_terminal() {
                            // Whoever closes the terminal does not want to read it.
                            let _ =
                                report::progress(&verdict, verdicts.len(), chosen.len(), &mut std::io::stderr().lock());
                        }
                    }
                }
            });
        }
    });

    let mut verdicts = verdicts.into_inner().unwrap_or_default();
    verdicts.sort_by_key(|(index, _)| *index);
    let verdicts: Vec<Verdict> = verdicts.into_iter().map(|(_, verdict)| verdict).collect();
    let mut out = std::io::stdout().lock();
    if options.json {
        report::json(&verdicts, &runtime, layout, &mut out)?;
    } else {
        report::tap(&verdicts, &mut out)?;
    }
    out.flush()?;
    Ok(Count::of(&verdicts).is_clean())
}

/// Runs the config that every case starts from.
fn control(runtime: &Runtime, scratch: &Scratch) -> Result<()> {
    let id = format!("oc{}-control", std::process::id());
    let dir = scratch.0.join(&id);
    fs::create_dir(&dir)?;
    let mut scene = Scene::new(runtime.clone(), &scratch.probe(), &dir, &id)?;
    scene.facts()?;
    scene.end()
}

/// The cases whose name fits the filter.
pub(crate) fn choose(filter: Option<&str>) -> Result<Vec<Case>> {
    let Some(filter) = filter else { return Ok(cases::all()) };
    let pattern = regex_lite::Regex::new(filter).with_context(|| format!("filter {filter:?}"))?;
    let chosen: Vec<Case> = cases::all().into_iter().filter(|case| pattern.is_match(&case.full_name())).collect();
    ensure!(!chosen.is_empty(), "no case fits {filter:?}");
    Ok(chosen)
}

/// The probe that was built with this program.
fn beside() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("orlop-probe"))
}

/// Runs one case in a child process and reads its outcome from the child's output.
fn in_process(case: &Case, runtime: &Runtime, scratch: &Scratch, index: usize) -> Verdict {
    let began = Instant::now();
    let outcome = spawn_case(case, runtime, scratch, index).unwrap_or_else(|error| Outcome::Fail(format!("{error:#}")));
    Verdict { name: case.full_name(), stands_for: case.stands_for.to_owned(), outcome, took: began.elapsed() }
}

fn spawn_case(case: &Case, runtime: &Runtime, scratch: &Scratch, index: usize) -> Result<Outcome> {
    let id = format!("oc{}-{index:03}", std::process::id());
    let dir = scratch.0.join(&id);
    fs::create_dir(&dir)?;
    let answer = scratch.0.join(format!("{id}.json"));
    let mut child = Command::new("/proc/self/exe")
        .args(["--only-case", &case.full_name(), "--id", &id, "--probe"])
        .arg(scratch.probe())
        .arg("--runtime")
        .arg(&runtime.path)
        .arg("--dir")
        .arg(&dir)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&answer)?)
        .spawn()?;
    let ended = wait_until(PATIENCE, || Ok(child.try_wait()?))?;
    if ended.is_none() {
        let _ = child.kill();
        let _ = child.wait();
        world::remove_cgroups(&world::cgroups_named(&id)?);
        return Ok(Outcome::Fail(format!("the case hung: killed after {PATIENCE:?}")));
    }
    let said = fs::read_to_string(&answer)?;
    let outcome = serde_json::from_str(&said);
    // The mount namespace of the case is gone, so nothing is mounted below.
    fs::remove_dir_all(&dir)?;
    outcome.with_context(|| format!("the case's process ended without an outcome: {ended:?}, {said:?}"))
}

/// Runs one case in this process and prints its outcome as JSON.
pub(crate) fn run_one(options: &Options, path: &Path, name: &str) -> Result<()> {
    let case = cases::all().into_iter().find(|case| case.full_name() == name).context("no such case")?;
    let dir = options.dir.as_deref().context("no --dir")?;
    let probe = options.probe.as_deref().context("no --probe")?;
    let id = options.id.as_deref().context("no --id")?;
    world::isolate()?;
    world::adopt_orphans()?;
    let runtime = Runtime::ask(path, dir)?;
    let outcome = match play(&case, runtime, probe, dir, id) {
        Ok(()) => Outcome::Pass,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => Outcome::Skip(reason.clone()),
            None => Outcome::Fail(format!("{error:#}")),
        },
    };
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&outcome)?)?;
    Ok(())
}

fn play(case: &Case, runtime: Runtime, probe: &Path, dir: &Path, id: &str) -> Result<()> {
    let mut scene = Scene::new(runtime, probe, dir, id)?;
    (case.run)(&mut scene)?;
    scene.end()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(id)).collect();
    ensure!(left.is_empty(), "left behind in the host's mount table: {left:?}");
    Ok(())
}

/// The suite's scratch directory below `$TMPDIR` or `/tmp`, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("orlop-conformance-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        let made = Self(dir);
        fs::set_permissions(&made.0, fs::Permissions::from_mode(0o755))?;
        Ok(made)
    }

    fn probe(&self) -> PathBuf {
        self.0.join("probe")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        world::kill_children();
        // It is ours alone; what can't be removed is in the temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_regular_expression_on_topic_and_name() {
        let names = |filter: &str| choose(Some(filter)).unwrap().iter().map(Case::full_name).collect::<Vec<_>>();
        assert!(names("^root/").iter().all(|name| name.starts_with("root/")));
        assert_eq!(names("read_only_root_refuses"), ["root/a_read_only_root_refuses_writes"]);
        assert_eq!(choose(None).unwrap().len(), cases::all().len());
    }

    #[test]
    fn a_filter_that_fits_nothing_or_is_broken_is_an_error() {
        assert!(choose(Some("no such case")).is_err());
        assert!(choose(Some("(")).is_err());
    }
}
