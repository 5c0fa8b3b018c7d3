//! What a suite's output says of the tests that failed.

use std::fmt;

/// A line of a test's output is cut after so many characters: one can be a process's whole environment.
const WIDTH: usize = 300;

/// A test that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The suite, or the test program of it.
    suite: String,
    /// The test; none where the whole suite broke off.
    test: Option<String>,
    /// What it printed.
    said: Vec<String>,
}

impl Failure {
    /// A suite that ended before it could name a failed test, with all that it printed.
    pub(crate) fn of_suite(suite: &str, output: &str) -> Self {
        let said: Vec<_> = output.lines().map(str::to_owned).collect();
        // Why it ended stands at the end.
        let said = said.get(said.len().saturating_sub(40)..).unwrap_or_default().to_vec();
        Self { suite: suite.to_owned(), test: None, said }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.test {
            Some(test) => write!(f, "{}: {test}", self.suite),
            None => write!(f, "{}: ended without a result", self.suite),
        }
    }
}

/// All failures with their output, and then their names alone: of a record that keeps the end only, the names are left.
pub(crate) fn summary(failures: &[Failure]) -> String {
    let lines = (240 / failures.len().max(1)).clamp(4, 40);
    let mut text = String::new();
    for failure in failures {
        text.push_str(&format!("\nfailed: {failure}\n"));
        for line in excerpt(&failure.said, lines) {
            let shown: String = line.chars().take(WIDTH).collect();
            text.push_str(&format!("   | {shown}\n"));
        }
    }
    text.push_str("\nfailed:\n");
    for failure in failures {
        text.push_str(&format!("   {failure}\n"));
    }
    text
}

/// At most `limit` lines, from the panic's on, or from earlier where so much fits; without the calls that led to it.
fn excerpt(said: &[String], limit: usize) -> &[String] {
    let end = said.iter().position(|line| line == "stack backtrace:").unwrap_or(said.len());
    let panic = said.iter().position(|line| line.contains(" panicked at ")).unwrap_or(0);
    let start = panic.min(end.saturating_sub(limit));
    said.get(start..end.min(start + limit)).unwrap_or_default()
}

/// The failed tests of what `cargo test` printed, of all test programs.
pub(crate) fn of_libtest(output: &str) -> Vec<Failure> {
    let mut failures = Vec::new();
    let (mut program, mut lines) = (None, Vec::new());
    for line in output.lines() {
        if let Some(next) = program_of(line) {
            failures.extend(program.map(|program: String| of_program(&program, &lines)).unwrap_or_default());
            (program, lines) = (Some(next), Vec::new());
        } else {
            lines.push(line);
        }
    }
    failures.extend(program.map(|program| of_program(&program, &lines)).unwrap_or_default());
    failures
}

/// `faults` of `Running tests/faults.rs (target/debug/deps/faults-506d7c4d60d029e9)`, `Doc-tests orlop` as it is.
fn program_of(line: &str) -> Option<String> {
    let line = line.trim();
    if line.starts_with("Doc-tests ") {
        return Some(line.to_owned());
    }
    let (_, file) = line.strip_prefix("Running ")?.strip_suffix(')')?.rsplit_once('/')?;
    Some(file.rsplit_once('-')?.0.to_owned())
}

/// The failed tests of one program. One that was killed prints no result, and names no test but those before.
fn of_program(program: &str, lines: &[&str]) -> Vec<Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    let (mut ended, mut listing) = (false, false);
    for line in lines {
        ended |= line.starts_with("test result:");
        // The list at the end has those too whose line another process's output has torn.
        let listed = line.strip_prefix("    ").filter(|_| listing);
        listing = *line == "failures:" || listed.is_some();
        let test = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")).or(listed);
        let Some(test) = test else { continue };
        if failures.iter().all(|failure| failure.test.as_deref() != Some(test)) {
            failures.push(Failure { suite: program.to_owned(), test: Some(test.to_owned()), said: said(test, lines) });
        }
    }
    if !ended {
        failures.push(Failure::of_suite(program, &lines.join("\n")));
    }
    failures
}

/// What stands below `---- TEST stdout ----`, without empty lines around it.
fn said(test: &str, lines: &[&str]) -> Vec<String> {
    let head = format!("---- {test} stdout ----");
    let block = lines.iter().skip_while(|line| **line != head).skip(1);
    let over = |line: &str| {
        matches!(line, "failures:" | "successes:") || (line.starts_with("---- ") && line.ends_with(" stdout ----"))
    };
    let block = block.take_while(|line| !over(line)).map(|line| (*line).to_owned()).collect::<Vec<_>>().join("\n");
    block.trim_matches('\n').lines().map(str::to_owned).collect()
}

/// The case of a TAP line that says `not ok`, unless it is known to.
pub(crate) fn tap_case(line: &str) -> Option<&str> {
    let (_, case) = line.strip_prefix("not ok ")?.split_once(" - ")?;
    (!case.contains(" # TODO")).then_some(case)
}

/// The failed cases of a TAP suite, each with its reason.
pub(crate) fn of_tap(suite: &str, output: &str) -> Vec<Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    let mut lines = output.lines();
    while let Some(line) = lines.next() {
        let Some(case) = tap_case(line) else { continue };
        // The block of YAML behind it ends with three dots; the reason is a JSON string.
        let block = lines.clone().take_while(|line| line.starts_with("  ") && *line != "  ...");
        let reason = block.filter_map(|line| serde_json::from_str::<String>(line.strip_prefix("  reason: ")?).ok());
        let said = reason.flat_map(|reason| reason.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        failures.push(Failure { suite: suite.to_owned(), test: Some(case.to_owned()), said });
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(suite: &str, test: &str, said: &[&str]) -> Failure {
        let said = said.iter().map(|line| (*line).to_owned()).collect();
        Failure { suite: suite.to_owned(), test: Some(test.to_owned()), said }
    }

    #[test]
    fn the_failed_tests_of_every_program_are_found_with_their_output() {
        let cases: [(&str, &[Failure]); 5] = [
            ("", &[]),
            (
                "     Running tests/good.rs (target/debug/deps/good-0a)\n\nrunning 1 test\ntest a ... ok\n\n\
                successes:\n\n---- a stdout ----\nshown\n\nsuccesses:\n    a\n\ntest result: ok. 1 passed\n",
                &[],
            ),
            (
                "     Running tests/two.rs (/t/deps/two-words-0a)\n\nrunning 3 tests\ntest a ... FAILED\ntest b ... ok\n\
                test m::c ... FAILED\n\nsuccesses:\n\n---- b stdout ----\nfine\n\n\nsuccesses:\n    b\n\nfailures:\n\n\
                ---- a stdout ----\nfirst\n\nthread 'a' panicked at x.rs:1:1:\nno\n\n---- m::c stdout ----\nError: 7\n\n\n\
                failures:\n    a\n    m::c\n\ntest result: FAILED. 1 passed; 2 failed\n\n\
                error: test failed, to rerun pass `--test two`\n   \
                Doc-tests orlop\n\nrunning 1 test\ntest src/lib.rs - f (line 3) ... FAILED\n\nfailures:\n\n\
                ---- src/lib.rs - f (line 3) stdout ----\nhm\n\nfailures:\n    src/lib.rs - f (line 3)\n\n\
                test result: FAILED. 0 passed; 1 failed\n",
                &[
                    failure("two-words", "a", &["first", "", "thread 'a' panicked at x.rs:1:1:", "no"]),
                    failure("two-words", "m::c", &["Error: 7"]),
                    failure("Doc-tests orlop", "src/lib.rs - f (line 3)", &["hm"]),
                ],
            ),
            // Another process wrote into the line of the test, and the list alone has its name.
            (
                "     Running tests/torn.rs (deps/torn-0a)\ntest a ... noise\nFAILED\nfailures:\n\n---- a stdout ----\nno\n\n\
                failures:\n    a\n\ntest result: FAILED.\n",
                &[failure("torn", "a", &["no"])],
            ),
            // Killed half way.
            (
                "     Running tests/dies.rs (deps/dies-0a)\nrunning 2 tests\ntest a ... FAILED\n\
                error: test failed\nCaused by: signal: 11\n",
                &[
                    failure("dies", "a", &[]),
                    Failure {
                        suite: "dies".to_owned(),
                        test: None,
                        said: ["running 2 tests", "test a ... FAILED", "error: test failed", "Caused by: signal: 11"]
                            .map(str::to_owned)
                            .into(),
                    },
                ],
            ),
        ];
        for (output, want) in cases {
            assert_eq!(of_libtest(output), want, "{output}");
        }
    }

    #[test]
    fn a_failed_case_of_tap_has_its_reason_and_a_known_one_is_none() {
        let cases: [(&str, &[Failure]); 3] = [
            ("ok 1 - a/b\nok 2 - a/c # SKIP not ok 3 - x\n", &[]),
            ("not ok 1 - a/b # TODO known\n", &[]),
            (
                "not ok 1 - a/b\n  ---\n  stands_for: \"S\"\n  reason: \"one\\ntwo\"\n  ...\nnot ok 2 - a/c\nok 3 - a/d\n  reason: \"x\"\n",
                &[failure("s", "a/b", &["one", "two"]), failure("s", "a/c", &[])],
            ),
        ];
        for (output, want) in cases {
            assert_eq!(of_tap("s", output), want, "{output}");
        }
    }

    #[test]
    fn of_a_long_output_the_lines_from_the_panic_on_are_kept() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let with_panic = |before: usize, after: usize| {
            let mut all = vec!["before".to_owned(); before];
            all.push("thread 'a' panicked at x.rs:1:1:".to_owned());
            all.extend(vec!["after".to_owned(); after]);
            all.extend(["stack backtrace:".to_owned(), "0: main".to_owned()]);
            all
        };
        for (said, limit, want) in [
            (lines("a b c"), 4, (0, 3)),
            (lines("a b c"), 2, (0, 2)),
            (with_panic(9, 9), 4, (9, 13)),
            (with_panic(9, 1), 4, (7, 11)),
            (with_panic(1, 1), 4, (0, 3)),
            (Vec::new(), 4, (0, 0)),
        ] {
            assert_eq!(excerpt(&said, limit), &said[want.0..want.1], "{said:?}");
        }
    }

    #[test]
    fn the_names_of_all_that_failed_stand_at_the_end() {
        let long = vec!["x".repeat(1000); 100];
        let one = Failure { said: long, ..failure("s", "a", &[]) };
        let text = summary(&[one.clone(), Failure::of_suite("t", "why")]);
        assert!(text.ends_with("\nfailed:\n   s: a\n   t: ended without a result\n"), "{text}");
        assert!(text.contains("failed: t: ended without a result\n   | why\n"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("   | x")).count(), 40);
        assert!(text.lines().all(|line| line.len() <= WIDTH + 5));
        // However many fail, the names are within reach.
        assert!(summary(&vec![one; 100]).lines().count() < 1000);
    }
}
