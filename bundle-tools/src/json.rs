//! Documents from elsewhere: I-JSON with bounds (considerations.md, "JSON").

use std::collections::HashSet;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// The most that a manifest, an index or an image's configuration may have, in bytes: what registries take (4 MiB) and
/// twice that for configurations.
pub const MAX_DOCUMENT: u64 = 8 << 20;

/// How deep a document may nest.
const MAX_DEPTH: u32 = 64;

/// Reads a document: UTF-8, of at most [`MAX_DOCUMENT`] bytes, no name twice in an object at whatever depth, no
/// deeper than 64, nothing behind it. `what` names it in an error.
pub fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Error::invalid(format!("{what}: larger than {} MiB", MAX_DOCUMENT >> 20)));
    }
    let wrong = |e: serde_json::Error| Error::invalid(format!("{what}: {e}"));
    let mut strict = serde_json::Deserializer::from_slice(bytes);
    Strict { depth: 0 }.deserialize(&mut strict).map_err(wrong)?;
    strict.end().map_err(wrong)?;
    serde_json::from_slice(bytes).map_err(wrong)
}

/// Walks any value, and keeps nothing of it.
#[derive(Clone, Copy)]
struct Strict {
    depth: u32,
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        if self.depth > MAX_DEPTH {
            return Err(D::Error::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        while seq.next_element_seed(Strict { depth: self.depth + 1 })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.contains(&name) {
                return Err(A::Error::custom(format_args!("duplicate name {name:?}")));
            }
            names.insert(name);
            map.next_value_seed(Strict { depth: self.depth + 1 })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_each_name_once_and_bounds() {
        let read = |bytes: &[u8]| parse::<serde_json::Value>("x", bytes).map_err(|e| e.to_string());
        assert!(read(b"{\"a\": [1, -1, 1.5, null, true, \"b\", {}]}").is_ok());
        let deep = [vec![b'['; 100], vec![b']'; 100]].concat();
        for (bytes, word) in [
            (&b"{\"a\": 1, \"a\": 2}"[..], "duplicate name \"a\""),
            (b"{\"a\": [{\"b\": 1, \"\\u0062\": 2}]}", "duplicate name \"b\""),
            (b"{} {}", "trailing"),
            (b"{\"a\": \"\xff\"}", "invalid unicode"),
            (b"", "EOF"),
            (&deep, "nested deeper"),
            (&vec![b' '; 9 << 20], "larger than"),
        ] {
            let said = read(bytes).unwrap_err();
            assert!(said.contains(word), "{said}");
        }
    }
}
