//! Which of the images of an index is meant: the platform of this machine, or one that the user names.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::image::{Descriptor, Platform};

/// What BuildKit says of a manifest that is no image but words about one.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The platforms that will do, the best one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    choices: Vec<Platform>,
    /// What the user asked for, or what this machine is, for errors.
    shown: String,
}

impl Wanted {
    /// What this machine runs, its own variant before lesser ones.
    pub fn host() -> Self {
        let (architecture, variant) = machine(std::env::consts::ARCH, amd64_level());
        Self::of("linux", architecture, variant)
    }

    fn of(os: &str, architecture: &str, variant: &str) -> Self {
        let choices: Vec<Platform> = variants(architecture, variant)
            .into_iter()
            .map(|variant| normal(&platform(os, architecture, &variant)))
            .collect();
        Self {
            choices,
            shown: [os, architecture, variant].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join("/"),
        }
    }

    /// How well `platform` fits: 0 is best. `None` if it doesn't.
    pub fn rank(&self, platform: &Platform) -> Option<usize> {
        let platform = normal(platform);
        self.choices.iter().position(|choice| {
            choice.os == platform.os
                && choice.architecture == platform.architecture
                && choice.variant == platform.variant
        })
    }

    /// The first of the best of `manifests`. The specification says that the first match is to be taken
    /// (image-index.md), so variants only decide between entries that all run here. `described` is asked for entries
    /// without a platform, for what their configuration says; `None` from it means that this is not an image.
    pub fn choose<'a>(
        &self,
        manifests: &'a [Descriptor],
        mut described: impl FnMut(&Descriptor) -> Result<Option<Platform>>,
    ) -> Result<&'a Descriptor> {
        let mut best: Option<(usize, &Descriptor)> = None;
        let mut seen = Vec::new();
        for entry in manifests.iter().filter(|entry| !is_attestation(entry)) {
            let platform = match &entry.platform {
                Some(platform) => Some(platform.clone()),
                None => described(entry)?,
            };
            let Some(platform) = platform else { continue };
            match self.rank(&platform) {
                Some(rank) if best.is_none_or(|(least, _)| rank < least) => best = Some((rank, entry)),
                Some(_) => {}
                None => seen.push(shown(&platform)),
            }
        }
        best.map(|(_, entry)| entry).ok_or_else(|| {
            let there: Vec<_> = seen.iter().take(20).map(String::as_str).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            Error::not_found(format!("no image for {} (there is: {there})", self.shown))
        })
    }
}

/// `OS/ARCHITECTURE[/VARIANT]` or `ARCHITECTURE`, as `docker --platform` takes it.
impl FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let word =
            |s: &&str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [architecture] => ("linux", *architecture, ""),
            [os, architecture] => (*os, *architecture, ""),
            [os, architecture, variant] => (*os, *architecture, *variant),
            _ => ("", "", ""),
        };
        if !parts.iter().all(word) || architecture.is_empty() {
            return Err(Error::invalid(format!("platform {text:?}: not of the form OS/ARCHITECTURE[/VARIANT]")));
        }
        Ok(Self::of(&os.to_lowercase(), &architecture.to_lowercase(), &variant.to_lowercase()))
    }
}

/// The platform of images that are made here.
pub fn host() -> Platform {
    let (architecture, variant) = machine(std::env::consts::ARCH, 1);
    // That of amd64 would say that the image needs this very CPU, and that of arm64 is always v8.
    platform("linux", architecture, if architecture == "arm" { variant } else { "" })
}

fn platform(os: &str, architecture: &str, variant: &str) -> Platform {
    Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        ..Platform::default()
    }
}

/// `OS/ARCHITECTURE[/VARIANT]`.
pub fn shown(platform: &Platform) -> String {
    let parts = [&platform.os, &platform.architecture, &platform.variant];
    parts.iter().filter(|part| !part.is_empty()).map(|part| part.as_str()).collect::<Vec<_>>().join("/")
}

/// Go's name of what Rust calls `arch`, and the best variant.
fn machine(arch: &'static str, level: u8) -> (&'static str, &'static str) {
    match arch {
        "x86_64" => ("amd64", ["v1", "v1", "v2", "v3", "v4"].get(usize::from(level)).copied().unwrap_or("v1")),
        "aarch64" => ("arm64", "v8"),
        "arm" => ("arm", "v7"),
        "x86" => ("386", ""),
        "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
        "powerpc64" => ("ppc64", ""),
        other => (other, ""),
    }
}

/// The same platform by its usual name: other spellings replaced, a variant that says nothing left away.
fn normal(platform: &Platform) -> Platform {
    let mut normal = self::platform(
        &platform.os.to_lowercase(),
        &platform.architecture.to_lowercase(),
        &platform.variant.to_lowercase(),
    );
    match (normal.architecture.as_str(), normal.variant.as_str()) {
        ("x86_64" | "x86-64", _) => normal.architecture = "amd64".to_owned(),
        ("aarch64", _) => normal.architecture = "arm64".to_owned(),
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => normal.architecture = "386".to_owned(),
        ("armhf", _) => (normal.architecture, normal.variant) = ("arm".to_owned(), "v7".to_owned()),
        ("armel", _) => (normal.architecture, normal.variant) = ("arm".to_owned(), "v6".to_owned()),
        _ => {}
    }
    match (normal.architecture.as_str(), normal.variant.as_str()) {
        ("amd64", "v1") | ("arm64", "8" | "v8") => normal.variant.clear(),
        // An image for arm that names no variant is for v7, as containerd takes it.
        ("arm", "" | "7") => normal.variant = "v7".to_owned(),
        ("arm", digit @ ("5" | "6" | "8")) => normal.variant = format!("v{digit}"),
        _ => {}
    }
    normal
}

/// The variants that a machine of `variant` runs, the best one first.
fn variants(architecture: &str, variant: &str) -> Vec<String> {
    let name = normal(&platform("", architecture, variant));
    let down = |from: u8, to: u8| (to..=from).rev().map(|n| format!("v{n}")).collect();
    let level = name.variant.strip_prefix('v').and_then(|n| n.parse::<u8>().ok()).filter(|n| *n < 10);
    match (name.architecture.as_str(), level) {
        ("amd64", Some(level)) => down(level, 1),
        ("arm", Some(level)) => down(level, 5),
        // v9 runs v8; later minor versions ("v8.2") run what is before them, which nobody distributes.
        ("arm64", Some(level)) => down(level, 8),
        _ => vec![name.variant],
    }
}

/// The level of the x86-64 psABI that this CPU has.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> u8 {
    macro_rules! all { ($($feature:tt),*) => { $( std::arch::is_x86_feature_detected!($feature) )&&* } }
    let v2 = all!("cmpxchg16b", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3");
    let v3 = v2 && all!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe");
    let v4 = v3 && all!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
    1 + u8::from(v2) + u8::from(v3) + u8::from(v4)
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> u8 {
    1
}

/// True for what BuildKit puts beside images: provenance, and lists of parts.
fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == "attestation-manifest")
        || entry.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::image::media;

    fn entry(platform: &str) -> Descriptor {
        let mut entry = Descriptor::new(media::MANIFEST, Digest::of(platform.as_bytes()), 1);
        let mut parts = platform.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        entry.platform = Some(Platform { os: next(), architecture: next(), variant: next(), ..Platform::default() });
        entry
    }

    fn chosen(wanted: &str, entries: &[&str]) -> Option<usize> {
        let wanted: Wanted = wanted.parse().unwrap();
        let entries: Vec<_> = entries.iter().map(|p| entry(p)).collect();
        let found = wanted.choose(&entries, |_| Ok(None)).ok()?;
        entries.iter().position(|entry| std::ptr::eq(entry, found))
    }

    #[test]
    fn the_first_of_the_best_is_chosen() {
        for (wanted, entries, expected) in [
            ("linux/amd64", &["windows/amd64", "linux/arm64", "linux/amd64"][..], Some(2)),
            ("linux/amd64", &["linux/amd64", "linux/amd64"], Some(0)),
            ("linux/amd64", &["linux/x86_64"], Some(0)),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"], Some(2)),
            ("linux/amd64/v2", &["linux/amd64/v3", "linux/amd64/v1"], Some(1)),
            ("linux/amd64", &["linux/amd64/v2"], None),
            ("arm64", &["linux/arm64/v8"], Some(0)),
            ("linux/arm64/v8", &["linux/arm", "linux/aarch64"], Some(1)),
            ("linux/arm64/v9", &["linux/arm64"], Some(0)),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some(1)),
            ("linux/arm/v7", &["linux/arm/v6", "linux/arm"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7"], None),
            ("linux/arm/v6", &["linux/arm/v7", "linux/armel"], Some(1)),
            ("linux/riscv64", &["linux/riscv64"], Some(0)),
            ("LINUX/AMD64", &["linux/amd64"], Some(0)),
            ("linux/amd64", &["unknown/unknown", "linux/amd64"], Some(1)),
            ("unknown/unknown", &["unknown/unknown"], None),
            ("linux/amd64", &[], None),
        ] {
            assert_eq!(chosen(wanted, entries), expected, "{wanted} in {entries:?}");
        }
    }

    #[test]
    fn an_attestation_is_not_an_image() {
        let mut words = entry("linux/amd64");
        words.annotations.insert(REFERENCE_TYPE.into(), "attestation-manifest".into());
        let wanted: Wanted = "linux/amd64".parse().unwrap();
        assert!(wanted.choose(std::slice::from_ref(&words), |_| Ok(None)).is_err());
        assert_eq!(wanted.choose(&[words, entry("linux/amd64")], |_| Ok(None)).unwrap(), &entry("linux/amd64"));
    }

    #[test]
    fn an_entry_without_a_platform_is_asked_for_its_configuration() {
        let wanted: Wanted = "linux/s390x".parse().unwrap();
        let bare = |n: u8| Descriptor::new(media::MANIFEST, Digest::of(&[n]), 1);
        let entries = [bare(0), bare(1), bare(2)];
        let config = |d: &Descriptor| {
            Ok(match () {
                () if d.digest == Digest::of(&[0]) => None,
                () if d.digest == Digest::of(&[1]) => Some(platform("linux", "amd64", "")),
                () => Some(platform("linux", "s390x", "")),
            })
        };
        assert_eq!(wanted.choose(&entries, config).unwrap().digest, Digest::of(&[2]));
        let said = wanted.choose(&entries[..2], config).unwrap_err().to_string();
        assert_eq!(said, "no image for linux/s390x (there is: linux/amd64)");
    }

    #[test]
    fn this_machine_runs_its_own_images_and_a_wrong_platform_is_refused() {
        assert!(Wanted::host().rank(&host()).is_some());
        for wrong in ["", "/", "linux/", "linux//v8", "a/b/c/d", "linux/amd 64"] {
            assert!(wrong.parse::<Wanted>().is_err(), "{wrong:?}");
        }
        assert_eq!(machine("aarch64", 1), ("arm64", "v8"));
        assert_eq!(machine("x86_64", 3), ("amd64", "v3"));
    }
}
