//! One error for the whole library: a kind for programs, a text for people.
//!
//! The text names the object once, at the place that knows it: `layer sha256:4f…: entry 12 "etc/x": name longer than
//! 255 bytes`. What was being done with it is put in front by the caller that knows ([`Error::context`]).

use std::fmt::{self, Display};
use std::io;

/// What a program may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Bytes, a document or an argument that say something that cannot be meant, or that are not what their digest says.
    Invalid,
    /// There is no such image, bundle, blob or file.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// In use by something else: an image by a bundle, a bundle by a mount.
    InUse,
    /// Valid, but not something this build, or this kernel, can do.
    Unsupported,
    /// A registry wants credentials, or other ones.
    Denied,
    /// A registry did not answer, or answered with something that it should not.
    Network,
    /// The kernel, or something outside of us, refused.
    Os,
}

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with its whole text.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Bytes or arguments that cannot be meant.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Understood, but not supported.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// No such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// The same error with `what` in front: `pull a:1: …`.
    #[must_use]
    pub fn context(self, what: impl Display) -> Self {
        Self { kind: self.kind, message: format!("{what}: {}", self.message) }
    }

    /// The kind, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Adds the object to a bare error of the system: `openat(…).at(|| format!("open {name}"))?`.
pub trait At<T> {
    /// Turns the error into an [`Error`] that says what was attempted.
    fn at<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| {
            let e: io::Error = e.into();
            let kind = match e.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
                _ => ErrorKind::Os,
            };
            let text = e.to_string();
            let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
            Error::new(kind, format!("{}: {text}", what()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_names_the_object_and_keeps_its_kind() {
        let e = Err::<(), _>(rustix::io::Errno::NOENT).at(|| "open blobs").unwrap_err().context("pull a:1");
        assert_eq!(e.to_string(), "pull a:1: open blobs: no such file or directory");
        assert_eq!(e.kind(), ErrorKind::NotFound);
    }
}
