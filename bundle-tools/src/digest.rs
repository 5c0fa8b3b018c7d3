//! Digests: the only names that content has here.
//!
//! A digest is parsed into 32 bytes before it is used for anything, so what came from a manifest never becomes a path
//! (CVE-2024-3727). SHA-256 is the only algorithm that is consumed: the specification asks for no other (descriptor.md),
//! and content that can't be verified is not used.

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::error::{At, Error, Result};

/// A SHA-256 digest: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest and the number of the bytes that `from` has left.
    pub fn of_reader(mut from: impl Read) -> Result<(Self, u64)> {
        let (mut hasher, mut size, mut buffer) = (Hasher::default(), 0u64, vec![0; 256 << 10]);
        loop {
            let n = from.read(&mut buffer).at(|| "read")?;
            let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else { break };
            hasher.update(read);
            size += n as u64;
        }
        Ok((hasher.finish(), size))
    }

    /// The 64 digits, without the algorithm: a file's name.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first twelve digits: what people are shown.
    pub fn short(&self) -> String {
        self.hex().chars().take(12).collect()
    }

    /// The digest of 64 lower-case digits.
    pub fn from_hex(hex: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("digest {:?}: not 64 lower-case hexadecimal digits", shown(hex)));
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return Err(wrong());
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digit = |b: u8| match b {
                b'0'..=b'9' => Ok(b - b'0'),
                b'a'..=b'f' => Ok(b - b'a' + 10),
                _ => Err(wrong()),
            };
            let [high, low] = pair else { return Err(wrong()) };
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(bytes))
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The chain id of a layer with this diff id upon `parent` (config.md, "Layer ChainID").
    #[must_use]
    pub fn chained(&self, parent: Option<Digest>) -> Self {
        match parent {
            None => *self,
            Some(parent) => Self::of(format!("{parent} {self}").as_bytes()),
        }
    }
}

/// What is quoted of a hostile string.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("sha256", hex)) => Self::from_hex(hex),
            Some((algorithm, _)) if !algorithm.is_empty() && !text.contains('/') => {
                Err(Error::unsupported(format!("digest {:?}: only sha256 can be verified", shown(text))))
            }
            _ => Err(Error::invalid(format!("digest {:?}: not of the form sha256:DIGITS", shown(text)))),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A digest in the making.
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_lower_case_sha256_is_a_digest() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty.parse::<Digest>().unwrap(), Digest::of(b""));
        assert_eq!(Digest::of(b"").to_string(), empty);
        for wrong in [
            "",
            "sha256:",
            "sha256:e3b0",
            &empty.to_uppercase(),
            &empty.replace("e3b0", "E3B0"),
            &format!("{empty}0"),
            "sha256:../../../../../../etc/passwd",
            "sha512:00",
            "../x:y",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_chain_id_is_that_of_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(a.chained(None), a);
        assert_eq!(b.chained(Some(a)), Digest::of(format!("{a} {b}").as_bytes()));
    }
}
