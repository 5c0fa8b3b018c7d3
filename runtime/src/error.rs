//! One error for the whole library: a kind for programs, a text for people.
//!
//! The text names the object once, at the place that knows it: `mounts[2]: mount tmpfs on /dev: EPERM (operation not
//! permitted)`. The command and the container id are put in front by the caller that knows them ([`Error::context`]).
//! Engines look for phrases in the text (`does not exist`, `executable file not found in $PATH`, `permission denied`);
//! these phrases are part of the interface and are kept in lower case.

use std::fmt::{self, Display};

use orlop_sys::Errno;

/// What a program may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// config.json, process.json, an id or an argument says something that cannot be meant.
    InvalidSpec,
    /// There is no container with this id.
    NotFound,
    /// There is already a container with this id.
    AlreadyExists,
    /// The container's status does not allow the operation.
    WrongStatus,
    /// Valid, but not something this build, or this kernel, can do.
    Unsupported,
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

    /// A field of a configuration that says something impossible: `linux.resources.pids.limit: …`.
    pub fn invalid(field: impl Display, what: impl Display) -> Self {
        Self::new(ErrorKind::InvalidSpec, format!("{field}: {what}"))
    }

    /// A field or flag that is understood but not supported.
    pub fn unsupported(field: impl Display, what: impl Display) -> Self {
        Self::new(ErrorKind::Unsupported, format!("{field}: {what}"))
    }

    /// The kernel refused `what` with `errno`.
    pub fn os(what: impl Display, errno: Errno) -> Self {
        Self::new(ErrorKind::Os, format!("{what}: {}", describe(errno)))
    }

    /// The same error with `what` in front: `create web1: …`.
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

/// Adds the object to a bare errno: `sys::mount::open_tree(…).at(|| format!("open {path}"))?`.
pub trait At<T> {
    /// Turns the errno into an [`Error`] that says what was attempted.
    fn at<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> At<T> for std::result::Result<T, Errno> {
    fn at<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|errno| Error::os(what(), errno))
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| match e.raw_os_error().map(Errno::from_raw_os_error) {
            Some(errno) => Error::os(what(), errno),
            None => Error::new(ErrorKind::Os, format!("{}: {e}", what())),
        })
    }
}

/// `EPERM (operation not permitted)`. The words are in lower case because Podman and Docker look for them so.
pub fn describe(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    format!("{} ({text})", orlop_sys::errno_name(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_is_named_and_worded_in_lower_case() {
        assert_eq!(describe(Errno::NOENT), "ENOENT (no such file or directory)");
        let e = Error::os("mount tmpfs on /dev", Errno::PERM).context("mounts[2]").context("create web1");
        assert_eq!(e.to_string(), "create web1: mounts[2]: mount tmpfs on /dev: EPERM (operation not permitted)");
        assert_eq!(e.kind(), ErrorKind::Os);
    }
}
