//! What the user says about registries: where short names are looked for, mirrors, and where plain HTTP will do.
//!
//! `/etc/orlop/registries.toml`, and `$XDG_CONFIG_HOME/orlop/registries.toml` (or `~/.config/...`) over it:
//!
//! ```toml
//! search = ["registry.example"]            # where a name without a registry is looked for, in this order
//!
//! [aliases]
//! base = "registry.example/team/base"      # what a short name means before anything is searched
//!
//! [registry."registry.example"]
//! endpoint = "front.registry.example"      # the host to talk to, if it is not the name
//! namespace = "library"                    # where repositories of one component are
//! mirrors = ["cache.example:5000/proxy"]   # asked first when pulling
//! plain-http = true                        # no TLS
//! ```
//!
//! No registry is built in. A file that says something unknown is refused, as a setting that is silently ignored is worse.
#![allow(
    clippy::disallowed_methods,
    reason = "the files are the user's own or the administrator's, at the host's paths"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{At, Error, ErrorKind, Result};
use crate::reference::{Reference, valid_registry};

/// The most that a file of settings may have, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// See the [module](self).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Registries in which a name without one is looked for.
    #[serde(default)]
    pub search: Vec<String>,
    /// Whole names for short ones.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
    /// By the registry's name.
    #[serde(default)]
    pub registry: BTreeMap<String, One>,
}

/// What is said about one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct One {
    /// `HOST[:PORT]` to talk to instead of the name.
    pub endpoint: Option<String>,
    /// Put before repositories of a single component.
    pub namespace: Option<String>,
    /// `HOST[:PORT][/PREFIX]`, asked before the registry when pulling.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Talk HTTP without TLS.
    #[serde(default)]
    pub plain_http: bool,
}

impl Settings {
    /// The administrator's settings with the user's over them.
    pub fn load() -> Result<Self> {
        let mut files = vec![PathBuf::from("/etc/orlop/registries.toml")];
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(config) = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")))
        {
            files.push(config.join("orlop/registries.toml"));
        }
        Self::from_files(&files)
    }

    /// The settings in `files`, later ones over earlier ones; a file that isn't there says nothing.
    pub fn from_files(files: &[PathBuf]) -> Result<Self> {
        files.iter().try_fold(Self::default(), |settings, file| {
            Ok(match read(file)? {
                Some(text) => settings.under(Self::parse(&text).map_err(|e| e.context(file.display()))?),
                None => settings,
            })
        })
    }

    fn parse(text: &str) -> Result<Self> {
        let settings: Self = toml::from_str(text).map_err(|e| Error::invalid(e.to_string().trim_end().to_owned()))?;
        let registries = settings.registry.keys().chain(&settings.search);
        let endpoints = settings.registry.values().flat_map(|one| one.endpoint.iter().chain(&one.mirrors));
        for place in registries.chain(endpoints) {
            if !valid_registry(split_place(place).0) {
                return Err(Error::invalid(format!("{place:?} is not HOST[:PORT]")));
            }
        }
        for (short, whole) in &settings.aliases {
            let whole: Reference = whole.parse().map_err(|e: Error| e.context(format!("aliases.{short}")))?;
            if whole.registry.is_none() {
                return Err(Error::invalid(format!("aliases.{short}: \"{whole}\" has no registry")));
            }
        }
        Ok(settings)
    }

    /// `over` decides where both say something.
    fn under(mut self, over: Self) -> Self {
        if !over.search.is_empty() {
            self.search = over.search;
        }
        self.aliases.extend(over.aliases);
        self.registry.extend(over.registry);
        self
    }

    /// The names in registries that `name` may mean, in the order in which they are to be tried: itself if it has a
    /// registry, else its alias, else one for each registry that is searched.
    pub fn candidates(&self, name: &Reference) -> Result<Vec<Reference>> {
        if name.registry.is_some() {
            return Ok(vec![name.clone()]);
        }
        if let Some(whole) = self.aliases.get(&name.repository) {
            let whole: Reference = whole.parse()?;
            let (tag, digest) = (name.tag.clone().or(whole.tag.clone()), name.digest.or(whole.digest));
            return Ok(vec![Reference { tag, digest, ..whole }]);
        }
        if self.search.is_empty() {
            return Err(Error::not_found(format!(
                "{name}: not in the store, and no registry to look in: write REGISTRY/{name}, or `search = \
                 [\"REGISTRY\"]` in /etc/orlop/registries.toml or ~/.config/orlop/registries.toml"
            )));
        }
        Ok(self.search.iter().map(|registry| name.moved(registry, "")).collect())
    }

    /// What is said about `registry`.
    fn of(&self, registry: &str) -> One {
        self.registry.get(registry).cloned().unwrap_or_default()
    }

    /// Where `name`, which has a registry, is asked for: its mirrors (if `mirrored`), then its registry.
    pub(crate) fn places(&self, name: &Reference, mirrored: bool) -> Vec<Place> {
        let registry = name.registry.clone().unwrap_or_default();
        let said = self.of(&registry);
        let repository = match &said.namespace {
            Some(namespace) if !name.repository.contains('/') => format!("{namespace}/{}", name.repository),
            _ => name.repository.clone(),
        };
        let mirrors = said.mirrors.iter().filter(|_| mirrored).map(|mirror| {
            let (host, prefix) = split_place(mirror);
            Place {
                registry: host.to_owned(),
                host: host.to_owned(),
                repository: format!("{prefix}{repository}"),
                plain: self.of(host).plain_http,
            }
        });
        let host = said.endpoint.clone().unwrap_or_else(|| registry.clone());
        let plain = said.plain_http || self.of(&host).plain_http;
        mirrors.chain([Place { registry, host, repository: repository.clone(), plain }]).collect()
    }
}

/// A repository, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The name by which credentials are kept.
    pub(crate) registry: String,
    /// `HOST[:PORT]` to talk to.
    pub(crate) host: String,
    pub(crate) repository: String,
    /// HTTP without TLS.
    pub(crate) plain: bool,
}

/// `HOST[:PORT]`, and `PREFIX/` or nothing.
fn split_place(place: &str) -> (&str, String) {
    match place.split_once('/') {
        Some((host, prefix)) => (host, format!("{}/", prefix.trim_matches('/'))),
        None => (place, String::new()),
    }
}

/// The text of `file`, if it is there.
fn read(file: &Path) -> Result<Option<String>> {
    let bytes = match std::fs::File::open(file).at(|| format!("open {}", file.display())) {
        Ok(open) => crate::dir::read_limited(open, &file.display().to_string(), MAX_FILE)?,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let text = String::from_utf8(bytes).map_err(|_| Error::invalid(format!("{}: not UTF-8", file.display())))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    const TEXT: &str = r#"
        search = ["one.example", "two.example:5000"]
        [aliases]
        base = "one.example/team/base:9"
        [registry."one.example"]
        endpoint = "front.one.example"
        namespace = "library"
        mirrors = ["127.0.0.1:5000/proxy/", "cache.example"]
        [registry."two.example:5000"]
        plain-http = true
    "#;

    #[test]
    fn a_short_name_means_its_alias_or_what_is_searched() {
        let settings = Settings::parse(TEXT).unwrap();
        let candidates = |text: &str| -> Vec<String> {
            settings.candidates(&name(text)).unwrap().iter().map(Reference::to_string).collect()
        };
        assert_eq!(candidates("a:1"), ["one.example/a:1", "two.example:5000/a:1"]);
        assert_eq!(candidates("x.example/a"), ["x.example/a"]);
        assert_eq!(candidates("base"), ["one.example/team/base:9"]);
        assert_eq!(candidates("base:8"), ["one.example/team/base:8"]);
        let none = Settings::default().candidates(&name("debian:12")).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::NotFound);
        assert!(none.to_string().contains("REGISTRY/debian:12"), "{none}");
    }

    #[test]
    fn a_mirror_is_asked_before_the_registry_and_only_for_pulls() {
        let settings = Settings::parse(TEXT).unwrap();
        let places = |text: &str, mirrored| -> Vec<String> {
            let places = settings.places(&name(text), mirrored);
            places.iter().map(|p| format!("{} {}/{} {}", p.registry, p.host, p.repository, p.plain)).collect()
        };
        assert_eq!(
            places("one.example/a", true),
            [
                "127.0.0.1:5000 127.0.0.1:5000/proxy/library/a false",
                "cache.example cache.example/library/a false",
                "one.example front.one.example/library/a false"
            ]
        );
        assert_eq!(places("one.example/a/b", false), ["one.example front.one.example/a/b false"]);
        assert_eq!(places("two.example:5000/a", true), ["two.example:5000 two.example:5000/a true"]);
    }

    #[test]
    fn the_users_settings_are_over_the_administrators() {
        let mut merged = Settings::parse(TEXT).unwrap();
        merged = merged.under(Settings::parse("search = [\"mine.example\"]\n[registry.\"two.example:5000\"]").unwrap());
        assert_eq!(merged.search, ["mine.example"]);
        assert!(!merged.of("two.example:5000").plain_http);
        assert_eq!(merged.aliases.len(), 1);
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused() {
        for wrong in [
            "serach = []",
            "search = [\"https://a.example\"]",
            "search = \"a\"",
            "[aliases]\nx = \"short\"",
            "[aliases]\nx = \"A B\"",
            "[registry.\"a b\"]",
            "[registry.\"a.example\"]\nplain_http = true",
            "[registry.\"a.example\"]\nmirrors = [\"http://x\"]",
        ] {
            assert!(Settings::parse(wrong).is_err(), "{wrong}");
        }
    }
}
