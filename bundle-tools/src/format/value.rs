//! What a template works on.

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, Serializer};

/// A value, as Go's templates and Go's JSON would see it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// What a map has not: printed as `<no value>`.
    Absent,
    /// `nil`, `null` in JSON, and how it is printed: a slice that is `nil` is `[]` to Go's templates, a map `map[]`, and
    /// what has no type `<no value>`.
    Null(&'static str),
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// A string.
    Text(String),
    /// A slice.
    List(Vec<Value>),
    /// A struct: its fields are known, in this order, and asking for another one is an error.
    Record(Vec<(String, Value)>),
    /// A map: any key may be asked for.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// A record of `fields`, in their order.
    pub fn record<const N: usize>(fields: [(&str, Value); N]) -> Self {
        Self::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// A list of what `items` are.
    pub fn list<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }

    /// The record's field `name`. Go knows a field by its name in the program and Docker also by the one in its JSON
    /// (`.ID` and `.Id`), so that upper and lower case don't matter where nothing matches exactly.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Record(fields) => {
                let exact = fields.iter().find(|(have, _)| have == name);
                exact.or_else(|| fields.iter().find(|(have, _)| have.eq_ignore_ascii_case(name))).map(|(_, v)| v)
            }
            Self::Map(map) => Some(map.get(name).unwrap_or(&Value::Absent)),
            Self::Null(_) | Self::Absent => Some(&Value::Absent),
            _ => None,
        }
    }

    /// True unless it is the zero value of its type (text/template, "if").
    pub(crate) fn truth(&self) -> bool {
        match self {
            Self::Absent | Self::Null(_) => false,
            Self::Bool(b) => *b,
            Self::Int(n) => *n != 0,
            Self::Float(n) => *n != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::Record(_) => true,
        }
    }

    /// What it is called in an error.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "no value",
            Self::Null(_) => "nil",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::List(_) => "list",
            Self::Record(_) => "object",
            Self::Map(_) => "map",
        }
    }

    /// The JSON of it on one line, as Go's encoder writes it without its escapes for HTML.
    pub fn json(&self) -> String {
        // Serializing this type into memory can't fail: all keys are strings.
        let text = serde_json::to_string(self).unwrap_or_default();
        text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
    }

    /// The JSON of it over several lines, indented by four spaces as `docker inspect` does.
    pub fn json_pretty(&self) -> String {
        let mut out = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let written = self.serialize(&mut serde_json::Serializer::with_formatter(&mut out, format));
        // As above: nothing in it can fail, and JSON is UTF-8.
        written.ok().and_then(|()| String::from_utf8(out).ok()).unwrap_or_default()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent | Self::Null(_) => s.serialize_unit(),
            Self::Bool(b) => s.serialize_bool(*b),
            Self::Int(n) => s.serialize_i64(*n),
            Self::Float(n) => s.serialize_f64(*n),
            Self::Text(text) => s.serialize_str(text),
            Self::List(items) => s.collect_seq(items),
            Self::Record(fields) => {
                let mut map = s.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
            Self::Map(map) => s.collect_map(map),
        }
    }
}

impl From<serde_json::Value> for Value {
    /// Objects become maps.
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null("<no value>"),
            serde_json::Value::Bool(b) => Self::Bool(b),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(n) => Self::Int(n),
                None => Self::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Self::Text(text),
            serde_json::Value::Array(items) => Self::list(items),
            serde_json::Value::Object(map) => Self::Map(map.into_iter().map(|(k, v)| (k, v.into())).collect()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl From<u64> for Value {
    /// What no `int64` holds is its greatest.
    fn from(n: u64) -> Self {
        Self::Int(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Self {
        Self::from(n as u64)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    /// `nil` for nothing.
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null("<nil>"), Into::into)
    }
}
