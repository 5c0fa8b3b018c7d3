//! `state`: the state of a container in JSON, as the specification has it (runtime.md, "State") and runc prints it.

use std::fmt::Write;

use crate::config;
use crate::config::{Map, Spec};
use crate::container::{Container, Status};
use crate::error::{Error, Result};
use crate::store::{CONFIG, ContainerId, Record, StateDir, Store};

/// What `state` and `list` say about a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// `ociVersion` of config.json.
    pub oci_version: String,
    /// The id.
    pub id: String,
    /// Init's pid; 0 when it is dead.
    pub pid: i32,
    /// A [`Status`], or `corrupt`.
    pub status: String,
    /// The bundle's absolute path.
    pub bundle: String,
    /// The root filesystem's absolute path.
    pub rootfs: String,
    /// RFC 3339.
    pub created: String,
    /// From config.json.
    pub annotations: Map,
    /// The name of the user who created it; runc fills it in for `list` only.
    pub owner: String,
}

impl State {
    /// Looks at a container.
    pub fn of(container: &Container) -> Result<Self> {
        let record = container.record();
        let status = container.status()?;
        let mut state = Self::from_record(record, status);
        if record.annotations_in_config {
            state.annotations = kept_config(container.dir())?.annotations;
        }
        Ok(state)
    }

    fn from_record(record: &Record, status: Status) -> Self {
        Self {
            oci_version: record.oci_version.clone(),
            id: record.id.clone(),
            pid: if status == Status::Stopped { 0 } else { record.pid },
            status: status.to_string(),
            bundle: record.bundle.clone(),
            rootfs: record.rootfs.clone(),
            created: record.created.clone(),
            annotations: Map::default(),
            owner: String::new(),
        }
    }

    /// As `state` prints it: indented by two spaces, without a line break at the end.
    pub fn pretty(&self) -> String {
        self.write(Some("\n  "))
    }

    /// As `list --format json` has it in its array.
    pub fn compact(&self) -> String {
        self.write(None)
    }

    fn write(&self, line: Option<&str>) -> String {
        let mut object = Object::new(line);
        object.string("ociVersion", &self.oci_version);
        object.string("id", &self.id);
        object.raw("pid", &self.pid.to_string());
        object.string("status", &self.status);
        object.string("bundle", &self.bundle);
        object.string("rootfs", &self.rootfs);
        object.string("created", &self.created);
        object.annotations(&self.annotations);
        object.string("owner", &self.owner);
        object.end()
    }
}

/// The state that a hook reads from its stdin: the specification's fields only. `pid` is left out when it is 0.
pub fn for_hooks(
    oci_version: &str,
    id: &ContainerId,
    status: Status,
    pid: i32,
    bundle: &str,
    annotations: &Map,
) -> Vec<u8> {
    let mut object = Object::new(None);
    object.string("ociVersion", oci_version);
    object.string("id", id.as_str());
    object.string("status", &status.to_string());
    if pid != 0 {
        object.raw("pid", &pid.to_string());
    }
    object.string("bundle", bundle);
    object.annotations(annotations);
    object.end().into_bytes()
}

/// `state ID`.
pub fn state(store: &Store, id: &ContainerId) -> Result<String> {
    Ok(State::of(&Container::open(store, id)?)?.pretty())
}

/// The parts of the kept config.json that are needed after create.
pub(crate) fn kept_config(dir: &StateDir) -> Result<Spec> {
    let bytes = dir.config()?;
    config::parse(CONFIG, &bytes).map_err(|e: Error| e.context(format_args!("container {}", dir.id())))
}

/// Writes a JSON object byte for byte as Go's encoding/json does, which some callers compare with.
pub(crate) struct Object<'a> {
    out: String,
    /// A line break with its indentation, when there are lines.
    line: Option<&'a str>,
}

impl<'a> Object<'a> {
    pub(crate) fn new(line: Option<&'a str>) -> Self {
        Self { out: "{".into(), line }
    }

    fn key(&mut self, key: &str) {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        self.out.push_str(self.line.unwrap_or_default());
        go_string(&mut self.out, key);
        self.out.push_str(if self.line.is_some() { ": " } else { ":" });
    }

    pub(crate) fn raw(&mut self, key: &str, value: &str) {
        self.key(key);
        self.out.push_str(value);
    }

    pub(crate) fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        go_string(&mut self.out, value);
    }

    /// Left out when there are none.
    fn annotations(&mut self, annotations: &Map) {
        if annotations.0.is_empty() {
            return;
        }
        let deeper = self.line.map(|line| format!("{line}  "));
        let mut object = Object::new(deeper.as_deref());
        for (key, value) in &annotations.0 {
            object.string(key, value);
        }
        if let Some(line) = self.line {
            object.out.push_str(line);
        }
        object.out.push('}');
        self.raw("annotations", &object.out);
    }

    pub(crate) fn end(mut self) -> String {
        if self.line.is_some() {
            self.out.push('\n');
        }
        self.out.push('}');
        self.out
    }
}

/// Go escapes what HTML and JavaScript would trip over: `<`, `>`, `&` and the two line separators.
fn go_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing to a String can't fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> State {
        State {
            oci_version: "1.0.2-dev".into(),
            id: "x1".into(),
            pid: 17774,
            status: "created".into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-11-21T08:57:20.252939962Z".into(),
            annotations: Map([("b<>&", "1\u{2028}"), ("a", "x\"y\u{7}\n\u{7f}\u{8}\u{c}\\")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into()),
            owner: String::new(),
        }
    }

    #[test]
    fn the_state_is_printed_as_runc_prints_it() {
        assert_eq!(
            example().pretty(),
            r#"{
  "ociVersion": "1.0.2-dev",
  "id": "x1",
  "pid": 17774,
  "status": "created",
  "bundle": "/b",
  "rootfs": "/b/rootfs",
  "created": "2026-11-21T08:57:20.252939962Z",
  "annotations": {
    "a": "x\"y\u0007\n@\b\f\\",
    "b\u003c\u003e\u0026": "1\u2028"
  },
  "owner": ""
}"#
            .replace('@', "\u{7f}")
        );
        let plain = State { annotations: Map::default(), owner: "root".into(), ..example() };
        assert_eq!(
            plain.compact(),
            r#"{"ociVersion":"1.0.2-dev","id":"x1","pid":17774,"status":"created","bundle":"/b","rootfs":"/b/rootfs","created":"2026-11-21T08:57:20.252939962Z","owner":"root"}"#
        );
    }

    #[test]
    fn a_hook_reads_the_fields_of_the_specification() {
        let id = ContainerId::parse("x1").unwrap();
        let annotations = Map([("k".to_owned(), "v".to_owned())].into());
        assert_eq!(
            for_hooks("1.3.0", &id, Status::Creating, 5, "/b", &annotations),
            br#"{"ociVersion":"1.3.0","id":"x1","status":"creating","pid":5,"bundle":"/b","annotations":{"k":"v"}}"#
        );
        assert_eq!(
            for_hooks("1.3.0", &id, Status::Stopped, 0, "/b", &Map::default()),
            br#"{"ociVersion":"1.3.0","id":"x1","status":"stopped","bundle":"/b"}"#
        );
    }

    #[test]
    fn what_is_printed_is_json() {
        let all: String = (0..0x3000).filter_map(char::from_u32).collect();
        let state = State { bundle: all.clone(), ..example() };
        for text in [state.pretty(), state.compact()] {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["bundle"], all);
        }
    }
}
