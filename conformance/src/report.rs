//! What a suite came to: TAP 14, JSON, or a line a case for a person.

use std::io::{self, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::scene::Runtime;

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// As it should.
    Pass,
    /// Not as it should: what was expected and what was seen.
    Fail(String),
    /// It can't be judged here, and why.
    Skip(String),
    /// It failed, and this runtime is known for it.
    Todo(String),
}

/// A case's end.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    /// Topic and name.
    pub(crate) name: String,
    /// The section of the specification or the caller that it stands for.
    pub(crate) stands_for: String,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// How long it took.
    pub(crate) took: Duration,
}

/// How many ended in each way. A known deviation counts as skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Count {
    /// Counts verdicts.
    pub(crate) fn of(verdicts: &[Verdict]) -> Self {
        let mut count = Self::default();
        for verdict in verdicts {
            match verdict.outcome {
                Outcome::Pass => count.passed += 1,
                Outcome::Fail(_) => count.failed += 1,
                Outcome::Skip(_) | Outcome::Todo(_) => count.skipped += 1,
            }
        }
        count
    }

    /// True when nothing failed.
    pub(crate) fn is_clean(self) -> bool {
        self.failed == 0
    }

    /// The closing line.
    pub(crate) fn line(self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Writes the verdicts as TAP 14.
pub(crate) fn tap(verdicts: &[Verdict], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "TAP version 14\n1..{}", verdicts.len())?;
    for (index, verdict) in verdicts.iter().enumerate() {
        let number = index + 1;
        let name = &verdict.name;
        match &verdict.outcome {
            Outcome::Pass => writeln!(out, "ok {number} - {name}")?,
            Outcome::Skip(reason) => writeln!(out, "ok {number} - {name} # SKIP {}", one_line(reason))?,
            Outcome::Todo(reason) => writeln!(out, "not ok {number} - {name} # TODO {}", one_line(reason))?,
            Outcome::Fail(reason) => {
                writeln!(out, "not ok {number} - {name}")?;
                // JSON strings are YAML strings.
                writeln!(
                    out,
                    "  ---\n  stands_for: {}\n  reason: {}\n  ...",
                    json!(verdict.stands_for),
                    json!(reason)
                )?;
            }
        }
    }
    writeln!(out, "{}", Count::of(verdicts).line())
}

/// Writes the verdicts as one JSON document.
pub(crate) fn json(verdicts: &[Verdict], runtime: &Runtime, view: &str, out: &mut impl Write) -> io::Result<()> {
    let count = Count::of(verdicts);
    let results: Vec<_> = verdicts
        .iter()
        .map(|verdict| {
            let (outcome, reason) = match &verdict.outcome {
                Outcome::Pass => ("pass", None),
                Outcome::Fail(reason) => ("fail", Some(reason)),
                Outcome::Skip(reason) => ("skip", Some(reason)),
                Outcome::Todo(reason) => ("todo", Some(reason)),
            };
            json!({
                "case": verdict.name, "stands_for": verdict.stands_for, "outcome": outcome, "reason": reason,
                "milliseconds": u64::try_from(verdict.took.as_millis()).unwrap_or(u64::MAX),
            })
        })
        .collect();
    let document = json!({
        "runtime": { "path": runtime.path, "name": runtime.name, "version": runtime.version },
        "view": view,
        "passed": count.passed, "failed": count.failed, "skipped": count.skipped,
        "cases": results,
    });
    writeln!(out, "{document:#}")
}

/// A word on a case that has just ended, for a person who waits.
pub(crate) fn progress(verdict: &Verdict, number: usize, total: usize, out: &mut impl Write) -> io::Result<()> {
    let (word, reason) = match &verdict.outcome {
        Outcome::Pass => ("pass", None),
        Outcome::Fail(reason) => ("FAIL", Some(reason)),
        Outcome::Skip(reason) => ("skip", Some(reason)),
        Outcome::Todo(reason) => ("todo", Some(reason)),
    };
    write!(out, "{number:>4}/{total} {word} {}", verdict.name)?;
    match reason {
        Some(reason) => writeln!(out, "\n              {}", one_line(reason)),
        None => writeln!(out),
    }
}

/// Line breaks and the sign that starts a TAP directive would end the description early.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('#', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(name: &str, outcome: Outcome) -> Verdict {
        Verdict { name: name.into(), stands_for: "config.md, Root".into(), outcome, took: Duration::from_millis(7) }
    }

    fn sample() -> Vec<Verdict> {
        vec![
            verdict("root/a", Outcome::Pass),
            verdict("root/b", Outcome::Fail("uid: expected 1,\nsaw \"2\"".into())),
            verdict("root/c", Outcome::Skip("no #AppArmor\nhere".into())),
            verdict("root/d", Outcome::Todo("warns only".into())),
        ]
    }

    #[test]
    fn tap_has_a_line_a_case_and_the_reasons_as_yaml() {
        let mut out = Vec::new();
        tap(&sample(), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "TAP version 14\n1..4\nok 1 - root/a\nnot ok 2 - root/b\n  ---\n  stands_for: \"config.md, Root\"\n  \
             reason: \"uid: expected 1,\\nsaw \\\"2\\\"\"\n  ...\nok 3 - root/c # SKIP no AppArmor here\n\
             not ok 4 - root/d # TODO warns only\n1 passed, 1 failed, 2 skipped\n"
        );
    }

    #[test]
    fn json_keeps_reason_and_section_of_each_case() {
        let runtime = Runtime { path: "/usr/bin/rt".into(), name: "rt".into(), version: "1".into() };
        let mut out = Vec::new();
        json(&sample(), &runtime, "v2", &mut out).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(document["failed"], 1);
        assert_eq!(document["cases"][0]["outcome"], "pass");
        assert_eq!(document["cases"][2]["reason"], "no #AppArmor\nhere");
    }

    #[test]
    fn a_single_failure_makes_the_suite_fail() {
        assert!(!Count::of(&sample()).is_clean());
        assert!(Count::of(&[verdict("root/d", Outcome::Todo("x".into()))]).is_clean());
    }
}
