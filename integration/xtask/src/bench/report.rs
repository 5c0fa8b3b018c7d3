//! Figures of several tools at the same works: sampled in turns, shown as a table, judged, written and drawn.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::stats::Figure;
use super::{Options, machine, svg};

/// What is measured.
pub(super) struct Work {
    pub(super) title: &'static str,
    pub(super) unit: Unit,
    /// Our promise: at most this much. Of what should be more, at least.
    pub(super) limit: Option<f64>,
    /// Our promise: at most so many times what the peers need.
    pub(super) peers: Peers,
}

/// Peers' names, and how we promise to stand to them.
pub(super) enum Peers {
    /// Each of these shall hold.
    All(&'static [(&'static str, f64)]),
    /// One of these is enough.
    One(&'static [(&'static str, f64)]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    /// Per second: more is better.
    Gigabytes,
    Mebibytes,
    Kibibytes,
    /// Of what was left behind.
    Things,
}

impl Unit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Gigabytes => "GB/s",
            Self::Mebibytes => "MiB",
            Self::Kibibytes => "KiB",
            Self::Things => "things",
        }
    }

    /// Whether `value` is as good as `bound`.
    fn holds(self, value: f64, bound: f64) -> bool {
        if self == Self::Gigabytes { value >= bound } else { value <= bound }
    }
}

/// Figures, or why there are none, by tool.
pub(super) type Figures = Vec<(String, Result<Figure, String>)>;

/// The same by work.
pub(super) type Found = BTreeMap<String, Figures>;

/// Names and versions, in the order of the table.
pub(super) type Versions = Vec<(String, String)>;

/// A sample of each of `N` works from one tool after the other, `rounds` times; who starts rotates. The figures of each
/// work. A tool that fails once is left out from then on, with its reason.
pub(super) fn turns<'a, T, const N: usize>(
    rounds: usize,
    tools: impl IntoIterator<Item = (&'a str, T)>,
    mut sample: impl FnMut(&mut T) -> Result<[f64; N]>,
) -> [Figures; N] {
    let mut tools: Vec<_> = tools.into_iter().map(|(name, tool)| (name, tool, Ok(Vec::new()))).collect();
    for round in 0..rounds {
        let count = tools.len();
        for turn in 0..count {
            let Some((_, tool, samples)) = tools.get_mut((round + turn) % count) else { continue };
            let Ok(list) = samples else { continue };
            match sample(tool) {
                Ok(values) => list.push(values),
                Err(why) => *samples = Err(format!("{why:#}")),
            }
        }
    }
    std::array::from_fn(|work| {
        let of = |samples: &Result<Vec<[f64; N]>, String>| {
            let samples = samples.as_ref().map_err(Clone::clone)?;
            figure(samples.iter().filter_map(|values| values.get(work).copied()).collect())
        };
        tools.iter().map(|(name, _, samples)| ((*name).to_owned(), of(samples))).collect()
    })
}

/// The figure of samples; without any there is none.
pub(super) fn figure(samples: Vec<f64>) -> Result<Figure, String> {
    Figure::of(samples).ok_or_else(|| "no sample".to_owned())
}

/// Prints, writes and draws.
pub(super) fn publish(
    options: &Options,
    title: &str,
    works: &[Work],
    versions: &Versions,
    found: &Found,
) -> Result<()> {
    let machine = machine();
    println!("{machine}");
    for (name, version) in versions {
        println!("  {name}: {version}");
    }
    print!("\n{}", table(works, found));
    let targets = judged(works, found);
    for (title, text, met) in &targets {
        println!("    {:4}  {title:46}  {text}", if *met { "met" } else { "MISS" });
    }
    if let Some(path) = &options.json {
        let report = report(works, &machine, versions, found, &targets);
        fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
        println!("\nwrote {}", path.display());
    }
    if let Some(path) = &options.svg {
        let groups: Vec<_> = works
            .iter()
            .map(|work| {
                let bars = found.get(work.title).into_iter().flatten();
                let bars = bars.filter_map(|(tool, figure)| Some((tool.clone(), *figure.as_ref().ok()?)));
                (format!("{} ({})", work.title, work.unit.name()), bars.collect())
            })
            .collect();
        fs::write(path, svg::draw_groups(title, &machine, versions, &groups))
            .with_context(|| path.display().to_string())?;
        println!("drew {}", path.display());
    }
    Ok(())
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn table(works: &[Work], found: &Found) -> String {
    let (mut text, mut failures) = (String::from("  median (p10 .. p90)\n"), String::new());
    for work in works {
        let Some(tools) = found.get(work.title) else { continue };
        text.push_str(&format!("  {}, {}\n", work.title, work.unit.name()));
        for (tool, figure) in tools {
            match figure {
                Ok(Figure { median, p10, p90, .. }) => {
                    let range = format!("({} .. {})", number(*p10), number(*p90));
                    text.push_str(&format!("      {tool:15} {:>10}  {range}\n", number(*median)));
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
fn judged(works: &[Work], found: &Found) -> Vec<(&'static str, String, bool)> {
    let mut lines = Vec::new();
    for work in works {
        let of = |tool: &str| {
            let (_, figure) = found.get(work.title)?.iter().find(|(name, _)| name == tool)?;
            figure.as_ref().ok().map(|figure| figure.median)
        };
        let Some(ours) = of("orlop") else { continue };
        if let Some(limit) = work.limit {
            let text = format!("{} {unit}, target {limit} {unit}", number(ours), unit = work.unit.name());
            lines.push((work.title, text, work.unit.holds(ours, limit)));
        }
        let (Peers::All(peers) | Peers::One(peers)) = work.peers;
        let compared: Vec<_> = peers
            .iter()
            .filter_map(|(peer, target)| {
                let ratio = ours / of(peer)?;
                Some((format!("{ratio:.2} x {peer}, target {target:.2}"), work.unit.holds(ratio, *target)))
            })
            .collect();
        match work.peers {
            Peers::All(_) => lines.extend(compared.into_iter().map(|(text, met)| (work.title, text, met))),
            Peers::One(_) if compared.is_empty() => {}
            Peers::One(_) => {
                let met = compared.iter().any(|(_, met)| *met);
                let texts: Vec<_> = compared.into_iter().map(|(text, _)| text).collect();
                lines.push((work.title, texts.join("; or "), met));
            }
        }
    }
    lines
}

fn report(
    works: &[Work],
    machine: &str,
    versions: &Versions,
    found: &Found,
    targets: &[(&'static str, String, bool)],
) -> Value {
    let works: serde_json::Map<_, _> = works
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

    const SPEED: Work =
        Work { title: "speed", unit: Unit::Gigabytes, limit: Some(0.6), peers: Peers::All(&[("one", 5.0)]) };
    const TIME: Work = Work { title: "time", unit: Unit::Milliseconds, limit: Some(10.0), peers: Peers::All(&[]) };

    fn of(median: f64) -> Result<Figure, String> {
        Ok(Figure { median, p10: median, p90: median, samples: 1 })
    }

    fn found(title: &str, tools: &[(&str, f64)]) -> Found {
        let tools = tools.iter().map(|(tool, median)| ((*tool).to_owned(), of(*median))).collect();
        [(title.to_owned(), tools)].into()
    }

    #[test]
    fn of_a_speed_more_is_better_and_of_a_time_less() {
        let mut found = found("speed", &[("orlop", 0.7), ("one", 0.2)]);
        found.insert("time".to_owned(), vec![("orlop".to_owned(), of(11.0))]);
        let met: Vec<_> = judged(&[TIME, SPEED], &found).into_iter().map(|(_, _, met)| met).collect();
        // 11 ms of 10; 0.7 GB/s of 0.6; 3.5 times one, of 5.
        assert_eq!(met, [false, true, false]);
    }

    #[test]
    fn where_one_peer_is_enough_the_other_may_be_missed_or_missing() {
        let work = || Work { peers: Peers::One(&[("one", 2.0), ("two", 1.0)]), limit: None, ..SPEED };
        for (tools, want) in [
            (&[("orlop", 1.0), ("one", 0.4), ("two", 3.0)][..], Some(true)),
            (&[("orlop", 1.0), ("one", 0.9), ("two", 1.0)], Some(true)),
            (&[("orlop", 1.0), ("one", 0.9), ("two", 3.0)], Some(false)),
            (&[("orlop", 1.0), ("two", 0.5)], Some(true)),
            (&[("orlop", 1.0)], None),
        ] {
            let lines = judged(&[work()], &found("speed", tools));
            assert_eq!(lines.first().map(|(_, _, met)| *met), want, "{tools:?}");
        }
    }

    #[test]
    fn a_failure_stands_below_the_table_with_its_reason() {
        let mut found = found("time", &[("orlop", 3.0)]);
        found.entry("time".to_owned()).or_default().push(("one".to_owned(), Err("no such program".to_owned())));
        assert!(table(&[TIME], &found).contains("one, time: no such program"));
    }

    #[test]
    fn a_tool_that_failed_once_is_not_tried_again() {
        let mut tries = 0;
        let [figures] = turns(5, [("good", true), ("bad", false)], |good| {
            if *good {
                return Ok([1.0]);
            }
            tries += 1;
            anyhow::bail!("broken")
        });
        assert_eq!(tries, 1);
        assert_eq!(figures[0].1.as_ref().unwrap().samples, 5);
        assert_eq!(figures[1].1, Err("broken".to_owned()));
    }
}
