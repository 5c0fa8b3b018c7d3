//! Our parser reads valid configurations as the crate `oci-spec` does.
//!
//! What that crate has read it can write again. The two texts must mean the same to our parser, and each field must
//! mean something to both.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use oci_spec::runtime::Spec as Theirs;
use orlop::config::{Spec as Ours, parse};
use orlop::plan::fields::IGNORED;
use serde_json::Value;

/// Every field of the specification that concerns Linux, none with the value that it has when it is absent.
const WHOLE: &str = include_str!("../data/whole-config.json");

fn whole() -> Value {
    serde_json::from_str(WHOLE).unwrap()
}

fn ours(document: &Value) -> Result<Ours, String> {
    parse("config.json", document.to_string().as_bytes()).map_err(|error| error.to_string())
}

fn theirs(document: &Value) -> Result<Value, String> {
    let read: Theirs = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(read).unwrap())
}

/// Whether the document has a field that `path` of the list of fields stands for.
fn has(value: &Value, path: &str) -> bool {
    let Some((key, rest)) = path.split_once('.').or((!path.is_empty()).then_some((path, ""))) else { return true };
    let (name, lists) = (key.trim_end_matches("[]"), key.matches("[]").count());
    let found: Vec<&Value> = match value {
        Value::Object(map) if name == "*" => map.values().collect(),
        other => other.get(name).into_iter().collect(),
    };
    found.into_iter().any(|value| match lists {
        0 => has(value, rest),
        _ => value.as_array().is_some_and(|list| list.iter().any(|element| has(element, rest))),
    })
}

/// A JSON pointer to every field and every element of a list, the outer ones first.
fn fields(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut inner = |key: &str, value: &Value| {
        let pointer = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        found.push(pointer.clone());
        fields(value, &pointer, found);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| inner(key, value)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, value)| inner(&i.to_string(), value)),
        _ => {}
    }
}

fn without(document: &Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut document = document.clone();
    match document.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.remove(&key.replace("~1", "/").replace("~0", "~"))),
        Value::Array(list) => drop(list.remove(key.parse().unwrap())),
        _ => panic!("{pointer}"),
    }
    document
}

#[test]
fn what_oci_spec_reads_and_writes_means_the_same_to_our_parser() {
    assert_eq!(ours(&theirs(&whole()).unwrap()).unwrap(), ours(&whole()).unwrap());
}

#[test]
fn every_field_of_the_document_means_something_to_both() {
    let whole = whole();
    let mut pointers = Vec::new();
    fields(&whole, "", &mut pointers);
    assert!(pointers.len() > 250, "only {} fields", pointers.len());
    let (our_whole, their_whole) = (ours(&whole), theirs(&whole));
    let mut lost = Vec::new();
    for pointer in pointers {
        let document = without(&whole, &pointer);
        match (ours(&document) != our_whole, theirs(&document) != their_whole) {
            (true, true) => {}
            found => lost.push(format!("{pointer}: (ours, theirs) is {found:?}")),
        }
    }
    assert_eq!(lost, [""; 0]);
}

#[test]
fn the_document_has_every_field_that_is_not_ignored() {
    let whole = whole();
    let paths = include_str!("../data/schema-paths.txt").lines().filter(|line| !line.starts_with('#'));
    let ignored = |path: &str| IGNORED.iter().any(|(ignored, _)| path.starts_with(ignored));
    let missing: Vec<_> = paths.filter(|path| !has(&whole, path) && !ignored(path)).collect();
    assert_eq!(missing, [""; 0]);
}
