//! Namespaces: which the container has of its own, which it shares, and how its ids are mapped.

use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Value, json};

use crate::config::{Cgroups, Context, Options};
use crate::error::{Error, Result};

/// Where a namespace comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Join {
    /// A new one: `private`, and `none` for the network, which then has a loopback device alone.
    #[default]
    Private,
    /// The host's: `host`.
    Host,
    /// The one at an absolute path.
    Path(PathBuf),
}

impl FromStr for Join {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "private" | "none" => Ok(Self::Private),
            "host" => Ok(Self::Host),
            path if path.starts_with('/') => Ok(Self::Path(path.into())),
            "bridge" | "default" => Err(Error::unsupported("a bundle has no bridge: none, host or a path")),
            _ => Err(Error::invalid("neither private, none or host nor an absolute path")),
        }
    }
}

/// Whose ids the container's are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Userns {
    /// The host's.
    Host,
    /// Others, by `--uid-map` and `--gid-map`.
    Map,
}

impl FromStr for Userns {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "host" => Ok(Self::Host),
            "map" => Ok(Self::Map),
            _ => Err(Error::invalid("neither host nor map")),
        }
    }
}

/// A run of ids: `CONTAINER:HOST:SIZE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// The first in the container.
    pub container: u32,
    /// The one of the host that it is.
    pub host: u32,
    /// How many, at least one.
    pub size: u32,
}

impl FromStr for IdMap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid("not CONTAINER:HOST:SIZE in numbers below 4294967295");
        let parts: Vec<_> = text.split(':').map(decimal).collect();
        let &[Some(container), Some(host), Some(size)] = parts.as_slice() else { return Err(wrong()) };
        // The last id is (uid_t)-1, which means none (user_namespaces(7)).
        let fits = |first: u32| first.checked_add(size).is_some();
        if size == 0 || !fits(container) || !fits(host) {
            return Err(wrong());
        }
        Ok(Self { container, host, size })
    }
}

/// A number of nothing but digits: no sign, no blanks.
pub(super) fn decimal(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The ids of the container in those of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Users. Empty: the host's.
    pub uids: Vec<IdMap>,
    /// Groups. Empty: the host's.
    pub gids: Vec<IdMap>,
}

impl Mapping {
    /// The mapping that `options` ask for; without root's rights, the caller's own ids are the container's root.
    pub fn of(options: &Options, context: &Context) -> Result<Self> {
        let gids = if options.gid_map.is_empty() { &options.uid_map } else { &options.gid_map };
        let given = Self { uids: options.uid_map.clone(), gids: gids.clone() };
        match options.userns {
            Some(Userns::Map) if given.uids.is_empty() => {
                Err(Error::invalid("--userns map: wants --uid-map, and --gid-map if groups differ"))
            }
            Some(Userns::Host) if !given.gids.is_empty() => {
                Err(Error::invalid("--userns host: goes with neither --uid-map nor --gid-map"))
            }
            Some(Userns::Host) => Ok(Self::default()),
            None if given.uids.is_empty() && !given.gids.is_empty() => {
                Err(Error::invalid("--gid-map: wants --uid-map too"))
            }
            None if given.uids.is_empty() => Ok(match context.rootless {
                Some((uid, gid)) => {
                    let one = |host| vec![IdMap { container: 0, host, size: 1 }];
                    Self { uids: one(uid), gids: one(gid) }
                }
                None => Self::default(),
            }),
            _ => {
                for (what, maps) in [("--uid-map", &given.uids), ("--gid-map", &given.gids)] {
                    if maps.len() > 340 {
                        return Err(Error::invalid(format!("{what}: more than the kernel's 340 lines")));
                    }
                    if overlap(maps) {
                        return Err(Error::invalid(format!("{what}: an id is mapped twice")));
                    }
                }
                Ok(given)
            }
        }
    }

    /// True if the container has its own ids.
    pub fn is_some(&self) -> bool {
        !self.uids.is_empty()
    }

    /// The host's user and group that are the container's `uid` and `gid`, if they are mapped.
    pub fn host(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((look_up(&self.uids, uid)?, look_up(&self.gids, gid)?))
    }
}

fn overlap(maps: &[IdMap]) -> bool {
    let meet = |a: u32, b: u32, n: u32, m: u32| {
        u64::from(a) < u64::from(b) + u64::from(m) && u64::from(b) < u64::from(a) + u64::from(n)
    };
    let twice =
        |a: &IdMap, b: &IdMap| meet(a.container, b.container, a.size, b.size) || meet(a.host, b.host, a.size, b.size);
    maps.iter().enumerate().any(|(i, a)| maps.iter().skip(i + 1).any(|b| twice(a, b)))
}

fn look_up(maps: &[IdMap], id: u32) -> Option<u32> {
    if maps.is_empty() {
        return Some(id);
    }
    maps.iter().find_map(|map| {
        let offset = id.checked_sub(map.container).filter(|offset| *offset < map.size)?;
        map.host.checked_add(offset)
    })
}

/// `linux.namespaces`.
pub(super) fn list(options: &Options, context: &Context, mapping: &Mapping) -> Value {
    let cgroup = options.cgroupns.clone().unwrap_or(match context.cgroups {
        Cgroups::V2 => Join::Private,
        Cgroups::V1 => Join::Host,
    });
    let user = if mapping.is_some() { Join::Private } else { Join::Host };
    let mount = Join::Private;
    let all = [
        ("pid", &options.pid),
        ("network", &options.network),
        ("ipc", &options.ipc),
        ("uts", &options.uts),
        ("mount", &mount),
        ("cgroup", &cgroup),
        ("user", &user),
    ];
    let entries = all.into_iter().filter_map(|(kind, join)| match join {
        Join::Private => Some(json!({"type": kind})),
        Join::Host => None,
        Join::Path(path) => Some(json!({"type": kind, "path": path})),
    });
    entries.collect()
}

/// `linux.uidMappings` or `linux.gidMappings`.
pub(super) fn maps(maps: &[IdMap]) -> Value {
    maps.iter().map(|m| json!({"containerID": m.container, "hostID": m.host, "size": m.size})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_three_numbers_that_fit() {
        for (text, fits) in [
            ("0:100000:65536", true),
            ("0:0:4294967295", true),
            ("1:0:4294967295", false),
            ("0:1:0", false),
            ("0:-1:1", false),
            ("0:+1:1", false),
            ("0:1", false),
            ("0:1:1:1", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<IdMap>().is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn ids_are_found_through_the_map_and_none_twice() {
        let map = |text: &str| text.split(' ').map(|m| m.parse().unwrap()).collect::<Vec<IdMap>>();
        let ids = map("0:1000:1 1:100000:10");
        let found: Vec<_> = [0, 1, 10, 11].into_iter().map(|id| look_up(&ids, id)).collect();
        assert_eq!(found, [Some(1000), Some(100_000), Some(100_009), None]);
        assert_eq!(look_up(&[], 7), Some(7));
        for (text, twice) in
            [("0:1000:1 1:100000:10", false), ("0:1000:2 1:100000:10", true), ("0:1000:2 2:1001:1", true)]
        {
            assert_eq!(overlap(&map(text)), twice, "{text}");
        }
    }

    #[test]
    fn a_namespace_is_new_the_hosts_or_at_a_path() {
        for (text, meant) in [
            ("none", Some(Join::Private)),
            ("private", Some(Join::Private)),
            ("host", Some(Join::Host)),
            ("/run/netns/a", Some(Join::Path("/run/netns/a".into()))),
            ("bridge", None),
            ("container:x", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Join>().ok(), meant, "{text}");
        }
    }
}
