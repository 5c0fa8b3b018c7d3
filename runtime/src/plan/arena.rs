//! The memory of a plan: C strings and lists that live until the child has read them.

use std::ffi::CStr;
use std::fmt::Display;

use bumpalo::Bump;

use crate::error::{Error, Result};

/// Allocates, and frees everything at once.
#[derive(Debug, Default)]
pub struct Arena(Bump);

impl Arena {
    /// An empty one.
    pub fn new() -> Self {
        Self(Bump::with_capacity(16 << 10))
    }

    /// `text` as a C string; an error that names `field` if it contains a NUL.
    pub fn cstr(&self, field: impl Display, text: &str) -> Result<&CStr> {
        self.concat(field, &[text])
    }

    /// The pieces, one after the other, as a C string.
    pub fn concat(&self, field: impl Display, pieces: &[&str]) -> Result<&CStr> {
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let mut bytes = pieces.iter().flat_map(|piece| piece.bytes());
        let copy = self.0.alloc_slice_fill_with(length + 1, |_| bytes.next().unwrap_or(0));
        CStr::from_bytes_with_nul(copy).map_err(|_| Error::invalid(field, "contains a NUL character"))
    }

    /// A list.
    pub fn list<T>(&self, items: Vec<T>) -> &[T] {
        self.0.alloc_slice_fill_iter(items)
    }

    /// Bytes.
    pub fn bytes(&self, bytes: &[u8]) -> &[u8] {
        self.0.alloc_slice_copy(bytes)
    }

    /// A value.
    pub fn value<T>(&self, value: T) -> &T {
        self.0.alloc(value)
    }
}
