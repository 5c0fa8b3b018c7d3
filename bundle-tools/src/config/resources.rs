//! Limits: `linux.resources` and `process.rlimits`.

use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::config::Options;
use crate::error::{Error, Result};

/// The least memory that a container starts with, as Docker's.
const MIN_MEMORY: i64 = 6 << 20;

/// Microseconds in a period, where `--cpus` gives a quota.
const PERIOD: u64 = 100_000;

/// A number of bytes: `512m`, `1.5g`, `1024`; k, m, g, t and p are powers of 1024, a `b` or `ib` behind them changes
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub i64);

impl FromStr for Bytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid("not a size like 512m or 1.5g");
        let lower = text.to_ascii_lowercase();
        let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at_checked(end).ok_or_else(wrong)?;
        let shift = match unit.trim_start() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            "p" | "pb" | "pib" => 50,
            _ => return Err(wrong()),
        };
        let millions = decimals(number, 6).ok_or_else(wrong)?;
        let bytes = (u128::from(millions) << shift) / 1_000_000;
        i64::try_from(bytes).map(Self).map_err(|_| wrong())
    }
}

/// `text`, a decimal number without sign and exponent, times 10 to the power of `places`; digits behind those places are
/// refused.
fn decimals(text: &str, places: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) || fraction.len() > places {
        return None;
    }
    format!("{whole}{fraction:0<places$}").parse().ok()
}

/// A limit of memory and swap together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapLimit {
    /// As much as the host has: -1.
    Unlimited,
    /// At most.
    Bytes(i64),
}

impl FromStr for SwapLimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(if text == "-1" { Self::Unlimited } else { Self::Bytes(text.parse::<Bytes>()?.0) })
    }
}

/// Processor time in thousandths of a millisecond a period of 100 ms: 1.5 processors are 150000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(pub i64);

impl FromStr for Cpus {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid("not a number of processors like 1.5, at least 0.01");
        let quota = decimals(text, 9).ok_or_else(wrong)?.checked_mul(PERIOD).ok_or_else(wrong)? / 1_000_000_000;
        // The kernel takes no quota below one millisecond.
        i64::try_from(quota).ok().filter(|quota| *quota >= 1000).map(Self).ok_or_else(wrong)
    }
}

/// Numbers of processors or memory nodes: `0-3,7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdList(pub String);

impl FromStr for IdList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = super::namespaces::decimal;
            matches!((number(first), number(last)), (Some(a), Some(b)) if a <= b && b < 8192)
        };
        if text.split(',').all(range) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid("not a list like 0-3,7"))
        }
    }
}

/// The limits of setrlimit(2) by name.
const LIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// A limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Its name in capitals, `RLIMIT_` before it.
    pub name: String,
    /// What is in force; `u64::MAX` is no limit.
    pub soft: u64,
    /// What the process may raise it to.
    pub hard: u64,
}

impl FromStr for Ulimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid("not NAME=SOFT[:HARD]");
        let (name, values) = text.split_once('=').ok_or_else(wrong)?;
        if !LIMITS.contains(&name) {
            return Err(Error::invalid(format!("{name:?} is none of {}", LIMITS.join(" "))));
        }
        let number = |text: &str| match text {
            "-1" | "unlimited" => Some(u64::MAX),
            _ if text.starts_with('+') => None,
            _ => text.parse().ok(),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (number(soft).ok_or_else(wrong)?, number(hard).ok_or_else(wrong)?);
        if soft > hard {
            return Err(Error::invalid("the soft limit is above the hard one"));
        }
        Ok(Self { name: format!("RLIMIT_{}", name.to_uppercase()), soft, hard })
    }
}

/// A rule of the device cgroup: `c 1:3 rwm`, `*` for any number, `a` for all kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// `a`, `b` or `c`.
    pub kind: char,
    /// None: any.
    pub major: Option<u32>,
    /// None: any.
    pub minor: Option<u32>,
    /// Of `r`, `w` and `m`.
    pub access: String,
}

impl FromStr for DeviceRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid("not a rule like c 1:3 rwm");
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        let &[kind, numbers, access] = words.as_slice() else { return Err(wrong()) };
        let kind = match kind {
            "a" => 'a',
            "b" => 'b',
            "c" => 'c',
            _ => return Err(wrong()),
        };
        let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
        let number = |text: &str| match text {
            "*" => Some(None),
            _ => super::namespaces::decimal(text).map(Some),
        };
        let (major, minor) = (number(major).ok_or_else(wrong)?, number(minor).ok_or_else(wrong)?);
        if !is_access(access) {
            return Err(wrong());
        }
        Ok(Self { kind, major, minor, access: access.to_owned() })
    }
}

/// True for one to three of `r`, `w` and `m`, none twice.
pub(super) fn is_access(text: &str) -> bool {
    let mut seen = String::new();
    !text.is_empty()
        && text.chars().all(|c| {
            let fresh = matches!(c, 'r' | 'w' | 'm') && !seen.contains(c);
            seen.push(c);
            fresh
        })
}

impl DeviceRule {
    /// Its entry of `linux.resources.devices`.
    pub(super) fn allow(&self) -> Value {
        let mut rule = Map::new();
        rule.insert("allow".to_owned(), true.into());
        rule.insert("type".to_owned(), self.kind.to_string().into());
        // A number that is not there means any; -1 does too, but not to every runtime.
        for (name, number) in [("major", self.major), ("minor", self.minor)] {
            if let Some(number) = number {
                rule.insert(name.to_owned(), number.into());
            }
        }
        rule.insert("access".to_owned(), self.access.clone().into());
        rule.into()
    }
}

/// `linux.resources`, with these `devices`; None if nothing is limited.
pub(super) fn resources(options: &Options, devices: Vec<Value>) -> Result<Option<Value>> {
    let mut all = Map::new();
    let mut put = |name: &str, value: Map<String, Value>| {
        if !value.is_empty() {
            all.insert(name.to_owned(), value.into());
        }
    };
    put("memory", memory(options)?);

    let mut cpu = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            cpu.insert(name.to_owned(), value);
        }
    };
    set("shares", options.cpu_shares.map(Value::from));
    set("quota", options.cpus.map(|cpus| cpus.0).or(options.cpu_quota).map(Value::from));
    set("period", options.cpus.map(|_| PERIOD).or(options.cpu_period).map(Value::from));
    set("cpus", options.cpuset_cpus.as_ref().map(|list| list.0.clone().into()));
    set("mems", options.cpuset_mems.as_ref().map(|list| list.0.clone().into()));
    put("cpu", cpu);

    let pids = options.pids_limit.filter(|limit| *limit > 0);
    put("pids", pids.map(|limit| ("limit".to_owned(), limit.into())).into_iter().collect());
    put("blockIO", options.blkio_weight.map(|weight| ("weight".to_owned(), weight.into())).into_iter().collect());
    if !devices.is_empty() {
        all.insert("devices".to_owned(), devices.into());
    }
    Ok((!all.is_empty()).then(|| all.into()))
}

fn memory(options: &Options) -> Result<Map<String, Value>> {
    let (limit, reservation) = (options.memory.map(|b| b.0), options.memory_reservation.map(|b| b.0));
    let wrong = |text: &str| Err(Error::invalid(text));
    if limit.is_some_and(|limit| limit < MIN_MEMORY) {
        return wrong("--memory: a container needs 6m at least");
    }
    if let (Some(limit), Some(reservation)) = (limit, reservation)
        && reservation > limit
    {
        return wrong("--memory-reservation: is above --memory");
    }
    let swap = match (limit, options.memory_swap) {
        (None, None) => None,
        (None, Some(_)) => return wrong("--memory-swap: wants --memory too"),
        (Some(limit), None) => Some(limit.saturating_mul(2)),
        (Some(_), Some(SwapLimit::Unlimited)) => Some(-1),
        (Some(limit), Some(SwapLimit::Bytes(both))) if both < limit => {
            return wrong("--memory-swap: is memory and swap together, so not below --memory");
        }
        (Some(_), Some(SwapLimit::Bytes(both))) => Some(both),
    };
    let entries = [("limit", limit), ("swap", swap), ("reservation", reservation)];
    Ok(entries.into_iter().filter_map(|(name, n)| Some((name.to_owned(), n?.into()))).collect())
}

/// `process.rlimits`: none but the given ones, as Docker's. The last of a name wins.
pub(super) fn rlimits(options: &Options) -> Value {
    let last: std::collections::BTreeMap<_, _> = options.ulimit.iter().map(|limit| (&limit.name, limit)).collect();
    last.into_values().map(|l| json!({"type": l.name, "soft": l.soft, "hard": l.hard})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::options;

    #[test]
    fn a_size_is_a_number_and_a_power_of_1024() {
        for (text, meant) in [
            ("1024", Some(1024)),
            ("512m", Some(512 << 20)),
            ("512M", Some(512 << 20)),
            ("1.5g", Some(3 << 29)),
            ("1gib", Some(1 << 30)),
            ("1 gb", Some(1 << 30)),
            ("0", Some(0)),
            (".5k", Some(512)),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            ("", None),
            ("m", None),
            (".", None),
            ("1.2.3", None),
            ("9000p", None),
            ("99999999999999999999", None),
            ("1\u{b2}", None),
        ] {
            assert_eq!(text.parse::<Bytes>().ok().map(|b| b.0), meant, "{text}");
        }
    }

    #[test]
    fn processors_become_a_quota_of_a_tenth_of_a_second() {
        for (text, meant) in [
            ("1.5", Some(150_000)),
            ("0.01", Some(1000)),
            ("2", Some(200_000)),
            ("0.009", None),
            ("0", None),
            ("-1", None),
            ("1e9", None),
            ("99999999999", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Cpus>().ok().map(|c| c.0), meant, "{text}");
        }
    }

    #[test]
    fn a_list_of_processors_has_ranges() {
        for (text, fits) in
            [("0", true), ("0-3,7", true), ("", false), ("3-0", false), ("0,", false), ("a", false), ("0-9999", false)]
        {
            assert_eq!(text.parse::<IdList>().is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn a_limit_has_a_name_and_one_or_two_numbers() {
        for (text, meant) in [
            ("nofile=1024", Some((1024, 1024))),
            ("nofile=1:2", Some((1, 2))),
            ("core=-1", Some((u64::MAX, u64::MAX))),
            ("nproc=5:unlimited", Some((5, u64::MAX))),
            ("nofile=2:1", None),
            ("nofile=", None),
            ("nofile=-2", None),
            ("NOFILE=1", None),
            ("files=1", None),
        ] {
            assert_eq!(text.parse::<Ulimit>().ok().map(|l| (l.soft, l.hard)), meant, "{text}");
        }
    }

    #[test]
    fn a_device_rule_is_a_kind_two_numbers_and_an_access() {
        for (text, fits) in [
            ("c 1:3 rwm", true),
            ("b *:* m", true),
            ("a *:* rwm", true),
            ("c 1 rwm", false),
            ("d 1:1 r", false),
            ("c 1:1 x", false),
            ("c 1:1 rr", false),
            ("c 1:1", false),
        ] {
            assert_eq!(text.parse::<DeviceRule>().is_ok(), fits, "{text}");
        }
        let rule: DeviceRule = "c 1:* r".parse().unwrap();
        assert_eq!(rule.allow(), json!({"allow": true, "type": "c", "major": 1, "access": "r"}));
    }

    #[test]
    fn limits_go_where_the_specification_has_them() {
        for (flags, meant) in [
            ("", None),
            ("--memory 8m", Some(json!({"memory": {"limit": 8 << 20, "swap": 16 << 20}}))),
            ("-m 8m --memory-swap -1", Some(json!({"memory": {"limit": 8 << 20, "swap": -1}}))),
            ("-m 8m --memory-swap 8m", Some(json!({"memory": {"limit": 8 << 20, "swap": 8 << 20}}))),
            ("--memory-reservation 8m", Some(json!({"memory": {"reservation": 8 << 20}}))),
            ("--cpus 1.5", Some(json!({"cpu": {"quota": 150_000, "period": 100_000}}))),
            ("--cpu-quota -1 --cpu-period 2000", Some(json!({"cpu": {"quota": -1, "period": 2000}}))),
            ("--cpuset 0-1 --cpuset-mems 0", Some(json!({"cpu": {"cpus": "0-1", "mems": "0"}}))),
            ("--cpu-shares 512", Some(json!({"cpu": {"shares": 512}}))),
            ("--pids 100", Some(json!({"pids": {"limit": 100}}))),
            ("--pids-limit -1", None),
            ("--blkio-weight 500", Some(json!({"blockIO": {"weight": 500}}))),
        ] {
            assert_eq!(resources(&options(flags), Vec::new()).unwrap(), meant, "{flags}");
        }
        for (flags, word) in [
            ("-m 5m", "6m at least"),
            ("--memory-swap 8m", "wants --memory"),
            ("-m 8m --memory-swap 7m", "not below"),
            ("-m 8m --memory-reservation 9m", "above --memory"),
        ] {
            let said = resources(&options(flags), Vec::new()).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
        let limits = rlimits(&options("--ulimit nofile=1 --ulimit core=0 --ulimit nofile=2:3"));
        assert_eq!(
            limits,
            json!([
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_NOFILE", "soft": 2, "hard": 3},
            ])
        );
    }
}
