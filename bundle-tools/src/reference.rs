//! Names of images, and the places that images come from and go to.
//!
//! A [`Reference`] is docker's grammar (distribution's `reference`): `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`. No registry
//! is the default: a name without one is a name in the store, or is looked up by the user's own configuration.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// The most that registry and repository may have together, in bytes.
const MAX_NAME: usize = 255;

/// The most that a tag may have, in bytes.
const MAX_TAG: usize = 128;

/// The tag of a name that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host and port, if the name has one: the part before the first slash, if there is a `.`, a `:` or an upper-case
    /// letter in it, or if it is `localhost`.
    pub registry: Option<String>,
    /// One or more components with slashes between them.
    pub repository: String,
    /// What a tag says may change.
    pub tag: Option<String>,
    /// What a digest says may not. If both are there, the digest is what counts.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The same name, with the tag `latest` if there is neither tag nor digest.
    #[must_use]
    pub fn tagged(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        match &self.registry {
            Some(registry) => format!("{registry}/{}", self.repository),
            None => self.repository.clone(),
        }
    }

    /// What a registry is asked for: the digest, or the tag, or `latest`.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The same repository in another place: `registry`, with `prefix` (components and a slash, or nothing) in front.
    #[must_use]
    pub fn moved(&self, registry: &str, prefix: &str) -> Self {
        let repository = format!("{prefix}{}", self.repository);
        Self { registry: Some(registry.to_owned()), repository, ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let shown: String = text.chars().take(300).collect();
            Error::invalid(format!("image name {shown:?}: {why}"))
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|e: Error| wrong(&e.to_string()))?)),
            None => (text, None),
        };
        let (registry, path) = match rest.split_once('/') {
            Some((first, path)) if is_registry(first) => (Some(first), path),
            _ => (None, rest),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if let Some(registry) = registry.filter(|registry| !valid_registry(registry)) {
            return Err(wrong(&format!("{registry:?} is not a host with or without a port")));
        }
        if repository.is_empty() {
            return Err(wrong("no repository"));
        }
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(wrong("a repository is in lower case"));
        }
        if !repository.split('/').all(valid_component) {
            return Err(wrong(
                "a repository is letters and digits, with \".\", \"_\", \"__\" or dashes between them, and slashes",
            ));
        }
        if registry.is_none() && repository.len() == 64 && repository.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong("64 hexadecimal digits are an id, not a name"));
        }
        if registry.map_or(0, |registry| registry.len() + 1) + repository.len() > MAX_NAME {
            return Err(wrong("longer than 255 bytes"));
        }
        if tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(wrong(
                "a tag is letters, digits, \"_\", \".\" and \"-\", at most 128, the first not \".\" or \"-\"",
            ));
        }
        Ok(Self {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// True if the first component of a name is a registry.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// True for `HOST[:PORT]`, the host being a name, an IPv4 address, or an IPv6 address in brackets.
pub(crate) fn valid_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, rest))) => {
            let Ok(_) = address.parse::<std::net::Ipv6Addr>() else { return false };
            match (rest.is_empty(), rest.strip_prefix(':')) {
                (true, _) => return true,
                (false, Some(port)) => return valid_port(port),
                (false, None) => return false,
            }
        }
        Some(None) => return false,
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(valid_port)
}

fn valid_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// True for letters and digits with separators between them: one `.`, one or two `_`, any number of `-`.
fn valid_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = component.split(|c: char| c.is_ascii() && word(c as u8)).filter(|piece| !piece.is_empty());
    let bytes = component.as_bytes();
    bytes.first().is_some_and(|b| word(*b))
        && bytes.last().is_some_and(|b| word(*b))
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

/// True for a tag of a registry.
pub(crate) fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// Where an image is, as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `[docker://]REFERENCE`: in a registry (or, without the prefix, in the store).
    Registry(Reference),
    /// `oci:DIRECTORY[:TAG]`: an image layout. The tag is what `org.opencontainers.image.ref.name` says, which may
    /// be a whole reference.
    Layout(PathBuf, Option<String>),
    /// `oci-archive:FILE[:TAG]`: a tar of an image layout.
    LayoutArchive(PathBuf, Option<String>),
    /// `docker-archive:FILE[:REFERENCE]`: what `docker save` writes.
    DockerArchive(PathBuf, Option<Reference>),
    /// `dir:DIRECTORY`: blobs by their digits beside `manifest.json`, as skopeo keeps them.
    Flat(PathBuf),
    /// A path with a slash in front, `./` or `../`, or one that ends as tars do: the tar of a root file system, plain or
    /// compressed, or a folder that is one.
    Rootfs(PathBuf),
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The path ends at the first colon, as a reference behind it may have further ones.
        let split = |rest: &str| -> Result<(PathBuf, Option<String>)> {
            let (path, tag) = match rest.split_once(':') {
                Some((path, tag)) => (path, Some(tag.to_owned())),
                None => (rest, None),
            };
            if path.is_empty() || tag.as_ref().is_some_and(String::is_empty) {
                return Err(Error::invalid(format!("{text:?}: not of the form TRANSPORT:PATH[:NAME]")));
            }
            Ok((path.into(), tag))
        };
        let transport = text.split_once(':');
        match transport {
            Some(("docker", rest)) if rest.starts_with("//") => {
                Ok(Self::Registry(rest.trim_start_matches('/').parse()?))
            }
            Some(("oci", rest)) => split(rest).map(|(path, tag)| Self::Layout(path, tag)),
            Some(("oci-archive", rest)) => split(rest).map(|(path, tag)| Self::LayoutArchive(path, tag)),
            Some(("docker-archive", rest)) => {
                let (path, name) = split(rest)?;
                Ok(Self::DockerArchive(path, name.map(|name| name.parse()).transpose()?))
            }
            Some(("dir", "")) => Err(Error::invalid("\"dir:\": no path")),
            Some(("dir", rest)) => Ok(Self::Flat(rest.into())),
            _ if is_path(text) => Ok(Self::Rootfs(text.into())),
            _ => Ok(Self::Registry(text.parse()?)),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, name) = match self {
            Self::Registry(reference) => return reference.fmt(f),
            Self::Rootfs(path) => return path.display().fmt(f),
            Self::Layout(path, tag) => ("oci", path, tag.clone()),
            Self::LayoutArchive(path, tag) => ("oci-archive", path, tag.clone()),
            Self::DockerArchive(path, name) => ("docker-archive", path, name.as_ref().map(Reference::to_string)),
            Self::Flat(path) => ("dir", path, None),
        };
        write!(f, "{transport}:{}", path.display())?;
        name.map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

/// True for what can only be meant as a path.
fn is_path(text: &str) -> bool {
    let endings = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"];
    text == "."
        || text == ".."
        || ["/", "./", "../"].iter().any(|start| text.starts_with(start))
        || endings.iter().any(|end| text.len() > end.len() && text.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_name_is_read_as_docker_reads_it() {
        let long_tag = "t".repeat(128);
        let long = "a".repeat(255);
        for (text, registry, repository, tag, digest) in [
            ("debian", None, "debian", None, false),
            ("debian:bookworm", None, "debian", Some("bookworm"), false),
            ("team/app", None, "team/app", None, false),
            ("localhost/app", Some("localhost"), "app", None, false),
            ("localhost:5000/app:1", Some("localhost:5000"), "app", Some("1"), false),
            ("127.0.0.1:5000/a/b/c:1.2-x_y", Some("127.0.0.1:5000"), "a/b/c", Some("1.2-x_y"), false),
            ("[::1]:5000/a", Some("[::1]:5000"), "a", None, false),
            ("[2001:db8::1]/a:b", Some("[2001:db8::1]"), "a", Some("b"), false),
            ("registry.example/a__b/c--d.e_f", Some("registry.example"), "a__b/c--d.e_f", None, false),
            ("Host/app", Some("Host"), "app", None, false),
            ("app.example:5000", None, "app.example", Some("5000"), false),
            ("a:_x", None, "a", Some("_x"), false),
            (&format!("a@sha256:{HEX}"), None, "a", None, true),
            (&format!("r.example/a:1@sha256:{HEX}"), Some("r.example"), "a", Some("1"), true),
            (&format!("a:{long_tag}"), None, "a", Some(&long_tag), false),
            (&long, None, &long, None, false),
            (&format!("r.example/{HEX}"), Some("r.example"), HEX, None, false),
        ] {
            let read: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read.registry.as_deref(), registry, "{text}");
            assert_eq!(read.repository, repository, "{text}");
            assert_eq!(read.tag.as_deref(), tag, "{text}");
            assert_eq!(read.digest.is_some(), digest, "{text}");
            assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for text in [
            "",
            ":tag",
            "a:",
            "a:.x",
            "a:-x",
            "a:b c",
            "A",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "a_",
            "-a",
            "a..b",
            "a___b",
            "a._b",
            "../etc",
            "a/../b",
            "a b",
            "ä",
            "a\nb",
            "localhost:port/a",
            "localhost:99999/a",
            "localhost:0/a",
            "-x.example/a",
            "x..example/a",
            "[::1/a",
            "[::g]/a",
            "[::1]x/a",
            "a@",
            "a@sha256:abc",
            &format!("a@sha256:{}", HEX.to_uppercase()),
            &format!("a@sha256:{HEX}@sha256:{HEX}"),
            HEX,
            &"a".repeat(256),
            &format!("a:{}", "t".repeat(129)),
            "user@host.example/a",
            "https://registry.example/a",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_without_tag_and_digest_means_latest() {
        let name = |text: &str| text.parse::<Reference>().unwrap().tagged();
        assert_eq!(name("a").to_string(), "a:latest");
        assert_eq!(name("a:1").to_string(), "a:1");
        assert_eq!(name(&format!("a@sha256:{HEX}")).to_string(), format!("a@sha256:{HEX}"));
        assert_eq!(name(&format!("a:1@sha256:{HEX}")).selector(), format!("sha256:{HEX}"));
        assert_eq!(name("a").moved("r.example", "library/").to_string(), "r.example/library/a:latest");
    }

    #[test]
    fn a_location_is_a_transport_a_path_or_a_name() {
        let location = |text: &str| text.parse::<Location>().map_err(|e| e.to_string());
        let reference = |text: &str| text.parse::<Reference>().unwrap();
        for (text, expected) in [
            ("oci:dir", Location::Layout("dir".into(), None)),
            ("oci:/a/dir:1.0", Location::Layout("/a/dir".into(), Some("1.0".into()))),
            ("oci:d:r.example/a:1", Location::Layout("d".into(), Some("r.example/a:1".into()))),
            ("oci-archive:f.tar:x", Location::LayoutArchive("f.tar".into(), Some("x".into()))),
            ("docker-archive:f.tar", Location::DockerArchive("f.tar".into(), None)),
            ("docker-archive:f.tar:a:1", Location::DockerArchive("f.tar".into(), Some(reference("a:1")))),
            ("dir:/x:y", Location::Flat("/x:y".into())),
            ("docker://r.example/a", Location::Registry(reference("r.example/a"))),
            ("r.example/a:1", Location::Registry(reference("r.example/a:1"))),
            ("debian:bookworm", Location::Registry(reference("debian:bookworm"))),
            ("./rootfs", Location::Rootfs("./rootfs".into())),
            ("/srv/root", Location::Rootfs("/srv/root".into())),
            ("base.tar.zst", Location::Rootfs("base.tar.zst".into())),
        ] {
            assert_eq!(location(text).as_ref(), Ok(&expected), "{text}");
            assert_eq!(location(&expected.to_string()), Ok(expected), "{text}");
        }
        for wrong in ["oci:", "oci:dir:", "oci-archive::x", "docker-archive:f:A B", "dir:", "docker://", "x://y/z"] {
            assert!(location(wrong).is_err(), "{wrong}");
        }
    }
}
