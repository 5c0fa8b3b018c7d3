//! Nothing in config.json is skipped in silence: every field of the specification is read, refused or listed as ignored.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use orlop::config::{Spec, parse};
use orlop::plan::fields::{self, IGNORED, REFUSED};
use serde_json::{Value, json};

/// The paths of the data file.
fn paths() -> Vec<&'static str> {
    include_str!("../data/schema-paths.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect()
}

/// A document in which only the field at `path` is set.
fn document(path: &str, value: Value) -> Value {
    let step = |key: &str, value: Value| {
        // A key with lists in it, such as `args[]`; the outermost list is made last.
        let lists = key.matches("[]").count();
        let value = (0..lists).fold(value, |value, _| json!([value]));
        json!({ key.trim_end_matches("[]"): value })
    };
    path.rsplit('.').fold(value, |value, key| step(if key == "*" { "anything" } else { key }, value))
}

fn accepts(document: &Value) -> bool {
    parse::<Spec>("config.json", document.to_string().as_bytes()).is_ok()
}

/// Whether the parser knows the field: some JSON type must be wrong for it, and at least one right.
fn is_read(path: &str) -> bool {
    let values = [json!("x"), json!(1), json!(true), json!([]), json!({})];
    let accepted = values.iter().filter(|value| accepts(&document(path, (*value).clone()))).count();
    (1..values.len()).contains(&accepted)
}

fn within(path: &str, table_path: &str) -> bool {
    path.strip_prefix(table_path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// `list[value]` stands for an element of a list by its value: the list and the value.
fn element(path: &str) -> Option<(&str, &str)> {
    let (list, value) = path.strip_suffix(']')?.rsplit_once('[')?;
    (!value.is_empty()).then_some((list, value))
}

fn is_refused(path: &str) -> bool {
    REFUSED.iter().any(|refused| within(path, refused.path))
}

fn is_ignored(path: &str) -> bool {
    IGNORED.iter().any(|(ignored, _)| within(path, ignored))
}

#[test]
fn every_field_of_the_specification_is_read_or_refused_or_ignored_for_a_reason() {
    let paths = paths();
    assert!(paths.len() > 250, "only {} paths", paths.len());
    let mut lost = Vec::new();
    for path in paths {
        match (is_refused(path), is_ignored(path), is_read(path)) {
            // Refused wins over read: a refused list is read so that an empty one can be told from a wish.
            (true, false, _) | (false, true, false) | (false, false, true) => {}
            found => lost.push(format!("{path}: (refused, ignored, read) is {found:?}")),
        }
    }
    assert_eq!(lost, [""; 0]);
}

#[test]
fn the_data_file_names_every_parent_and_nothing_twice() {
    let paths = paths();
    for (at, path) in paths.iter().enumerate() {
        assert!(!paths[..at].contains(path), "{path} is there twice");
        let parent = match path.strip_suffix("[]") {
            Some(list) => list,
            None => path.rsplit_once('.').map_or("", |(parent, _)| parent),
        };
        assert!(parent.is_empty() || paths[..at].contains(&parent), "{path} comes without {parent}");
    }
}

#[test]
fn a_field_that_nobody_knows_is_noticed_by_this_test() {
    for path in ["nosuch", "process.nosuch", "mounts[].nosuch", "linux.resources.cpu.nosuch"] {
        assert!(!is_read(path) && !is_refused(path) && !is_ignored(path), "{path}");
    }
}

#[test]
fn every_entry_of_the_two_tables_concerns_a_field_of_the_specification() {
    let paths = paths();
    let known = |path: &str| paths.contains(&element(path).map_or(path, |(list, _)| list));
    for refused in REFUSED {
        assert!(known(refused.path), "{}", refused.path);
    }
    for (path, why) in IGNORED {
        assert!(known(path), "{path}");
        assert!(!why.is_empty());
    }
}

#[test]
fn every_refused_field_is_refused_by_its_own_entry_when_it_is_set() {
    for refused in REFUSED {
        let (path, value) = match element(refused.path) {
            Some((list, value)) => (list, json!([value])),
            None if refused.path.ends_with("Mappings") => (refused.path, json!([{}])),
            None => (refused.path, json!({ "anything": {} })),
        };
        let spec: Spec = parse("config.json", document(path, value).to_string().as_bytes()).unwrap();
        let place = (refused.given)(&spec).unwrap_or_else(|| panic!("{} is not noticed", refused.path));
        let error = fields::check(&spec).unwrap_err().to_string();
        assert!(error.starts_with(&place), "{error}");
        assert!(place.starts_with(&path.replace("[]", "[0]")), "{place} does not name {path}");
    }
    assert!(REFUSED.iter().all(|refused| (refused.given)(&Spec::default()).is_none()));
}
