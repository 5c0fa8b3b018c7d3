//! `process`: what the user's program finds itself to be. For the first process of a container and for `exec` alike.

use std::collections::BTreeMap;
use std::ffi::CStr;

use caps::Capability;
use orlop_init::{Filter, Process};
use orlop_sys::creds::CapSets;
use orlop_sys::process::{SchedAttr, Strings};

use super::arena::Arena;
use crate::config;
use crate::error::{Error, ErrorKind, Result};

/// What of the process depends on more than its own section.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'s> {
    /// Capabilities that can be had; all in a user namespace of its own.
    pub grantable: u64,
    /// It has, or joins, a user namespace.
    pub has_user_namespace: bool,
    /// setgroups(2) is denied in it.
    pub no_setgroups: bool,
    /// `linux.personality`.
    pub personality: Option<&'s config::Personality>,
    /// Fds from 3 on that are passed through.
    pub preserve_fds: u32,
    /// How many of them are sockets of socket activation.
    pub listen_fds: u32,
}

/// A planned process.
#[derive(Debug)]
pub struct Planned<'a> {
    /// For the child.
    pub process: Process<'a>,
    /// The program as it was named.
    pub program: &'a CStr,
    /// For the parent: resource, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// For the parent.
    pub oom_score_adj: Option<i32>,
    /// CPUs to start on, for `exec`.
    pub initial_affinity: &'a [u64],
    /// What was asked for and can't be, without being an error.
    pub warnings: Vec<String>,
}

/// Plans the section `field` (`process`, or the name of the document that `exec` reads).
pub fn plan<'a>(
    arena: &'a Arena,
    field: &str,
    process: &config::Process,
    around: &Surroundings<'_>,
    seccomp: Option<Filter<'a>>,
) -> Result<Planned<'a>> {
    let invalid = |name: &str, what: &str| Err(Error::invalid(format_args!("{field}.{name}"), what));
    if process.cwd.is_empty() {
        return invalid("cwd", "Cwd property must not be empty");
    }
    if !process.cwd.starts_with('/') {
        return invalid("cwd", "Cwd must be an absolute path");
    }
    let Some(program) = process.args.first() else { return invalid("args", "args must not be empty") };
    if program.is_empty() {
        return invalid("args[0]", "must not be empty");
    }
    if process.user.umask.is_some_and(|mask| mask > 0o777) {
        return invalid("user.umask", "is no file mode creation mask");
    }
    for (name, id) in [("user.uid", process.user.uid), ("user.gid", process.user.gid)] {
        // (uid_t)-1 means "leave it" to setresuid(2): the process would stay root.
        if id == u32::MAX {
            return invalid(name, "4294967295 is no id");
        }
    }
    let mut warnings = Vec::new();
    let environment = environment(field, &process.env)?;
    let path = environment.iter().rev().find_map(|v| v.strip_prefix("PATH=")).unwrap_or_default();
    let need_home = !environment.iter().any(|v| v.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()));
    let activation = match around.listen_fds {
        0 => Vec::new(),
        count => vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()],
    };
    let environment = environment.into_iter().filter(|v| !need_home || !v.starts_with("HOME="));
    let environment = environment.chain(activation.iter().map(String::as_str));
    let strings = |name: &str, strings: Option<Strings>| {
        strings.ok_or_else(|| Error::invalid(format_args!("{field}.{name}"), "contains a NUL character"))
    };

    let affinity = process.exec_cpu_affinity.as_ref();
    let cpus = |name: &str, list: Option<&String>| {
        list.map_or(Ok(&[][..]), |list| cpu_mask(arena, &format!("{field}.execCPUAffinity.{name}"), list))
    };
    let planned = Process {
        cwd: arena.cstr(field, &clean_cwd(&process.cwd))?,
        umask: process.user.umask.unwrap_or(0o022),
        apparmor: label(arena, "exec ", &process.apparmor_profile),
        selinux: label(arena, "", &process.selinux_label),
        scheduler: process.scheduler.as_ref().map(|s| scheduler(&format!("{field}.scheduler"), s)).transpose()?,
        io_priority: process
            .io_priority
            .as_ref()
            .map(|p| io_priority(&format!("{field}.ioPriority"), p))
            .transpose()?,
        affinity: cpus("final", affinity.map(|a| &a.r#final))?,
        personality: around.personality.map(personality).transpose()?,
        no_new_privs: process.no_new_privileges,
        seccomp,
        limited: !process.rlimits.is_empty() || process.oom_score_adj.is_some(),
        uid: process.user.uid,
        gid: process.user.gid,
        groups: (!around.no_setgroups).then(|| arena.list(process.user.additional_gids.clone())),
        own_stdio: process.user.uid != 0 || around.has_user_namespace,
        caps: capabilities(field, process.capabilities.as_ref(), around.grantable, &mut warnings),
        arguments: arena.value(strings("args", Strings::new(&process.args))?),
        environment: arena.value(strings("env", Strings::new(environment))?),
        need_home,
        candidates: candidates(arena, field, program, path)?,
        search: !program.contains('/'),
        preserve_fds: around.preserve_fds,
    };
    if around.no_setgroups && !process.user.additional_gids.is_empty() {
        return invalid("user.additionalGids", "setgroups is denied in this user namespace");
    }
    Ok(Planned {
        process: planned,
        program: arena.cstr(field, program)?,
        rlimits: rlimits(field, &process.rlimits)?,
        oom_score_adj: match process.oom_score_adj {
            Some(n) if !(-1000..=1000).contains(&n) => return invalid("oomScoreAdj", "is not between -1000 and 1000"),
            other => other,
        },
        initial_affinity: cpus("initial", affinity.map(|a| &a.initial))?,
        warnings,
    })
}

/// Without a trailing slash or empty components; `..` stays, since it may lead through a symlink.
fn clean_cwd(cwd: &str) -> String {
    let parts: Vec<&str> = cwd.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

/// The environment in which each name stands once, with the value that came last, as programs expect it.
fn environment<'e>(field: &str, env: &'e [String]) -> Result<Vec<&'e str>> {
    let mut last = BTreeMap::new();
    for (i, variable) in env.iter().enumerate() {
        match variable.split_once('=') {
            Some(("", _)) => return Err(Error::invalid(format_args!("{field}.env[{i}]"), "has no name")),
            Some((name, _)) => last.insert(name, i),
            None => return Err(Error::invalid(format_args!("{field}.env[{i}]"), "has no `=`")),
        };
    }
    let is_last = |i: usize, v: &str| v.split_once('=').is_some_and(|(name, _)| last.get(name) == Some(&i));
    Ok(env.iter().enumerate().filter(|(i, v)| is_last(*i, v)).map(|(_, v)| v.as_str()).collect())
}

fn label<'a>(arena: &'a Arena, before: &str, text: &str) -> &'a [u8] {
    if text.is_empty() { &[] } else { arena.bytes(format!("{before}{text}").as_bytes()) }
}

/// Where the program may be: as named, or in the directories of the container's PATH. An empty directory would be the
/// working directory; it is passed over, as Go's LookPath does.
fn candidates<'a>(arena: &'a Arena, field: &str, program: &str, path: &str) -> Result<&'a [&'a CStr]> {
    if program.contains('/') {
        return Ok(arena.list(vec![arena.cstr(field, program)?]));
    }
    let directories = path.split(':').filter(|directory| directory.starts_with('/'));
    let found: Result<Vec<_>> = directories.map(|directory| arena.concat(field, &[directory, "/", program])).collect();
    Ok(arena.list(found?))
}

/// The five sets as masks. A name that is unknown, or a capability that can't be granted, is left out with a warning
/// (config.md, since 1.1).
fn capabilities(
    field: &str,
    sets: Option<&config::Capabilities>,
    grantable: u64,
    warnings: &mut Vec<String>,
) -> CapSets {
    let Some(sets) = sets else { return CapSets::default() };
    let mut mask = |set: &str, names: &[String]| {
        let mut mask = 0;
        for name in names {
            match name.parse::<Capability>() {
                Ok(capability) if grantable & capability.bitmask() != 0 || set == "bounding" => {
                    mask |= capability.bitmask();
                }
                Ok(_) => warnings.push(format!("{field}.capabilities.{set}: {name} can't be granted")),
                Err(_) => warnings.push(format!("{field}.capabilities.{set}: unknown capability {name}")),
            }
        }
        mask
    };
    let mut planned = CapSets {
        bounding: mask("bounding", &sets.bounding),
        effective: mask("effective", &sets.effective),
        inheritable: mask("inheritable", &sets.inheritable),
        permitted: mask("permitted", &sets.permitted),
        ambient: mask("ambient", &sets.ambient),
    };
    let possible = planned.permitted & planned.inheritable;
    // Without any inheritable one the set means nothing: so buildah 1.28 runs every RUN step, since it took CVE-2022-27651
    // to heart. That is not worth a line in every build.
    if planned.ambient & !possible != 0 && planned.inheritable != 0 {
        warnings.push(format!("{field}.capabilities.ambient: only what is permitted and inheritable can be ambient"));
    }
    planned.ambient &= possible;
    planned
}

/// RLIMIT_* by number (asm-generic/resource.h; the same on x86, ARM and RISC-V).
const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// The name of a resource.
pub fn rlimit_name(resource: u32) -> &'static str {
    RLIMITS.get(resource as usize).copied().unwrap_or("RLIMIT_?")
}

fn rlimits(field: &str, limits: &[config::Rlimit]) -> Result<Vec<(u32, u64, u64)>> {
    let mut planned: Vec<(u32, u64, u64)> = Vec::with_capacity(limits.len());
    for (i, limit) in limits.iter().enumerate() {
        let field = format!("{field}.rlimits[{i}]");
        let Some(resource) = RLIMITS.iter().position(|name| *name == limit.r#type) else {
            return Err(Error::invalid(field, format_args!("invalid rlimit type: {}", limit.r#type)));
        };
        let resource = resource as u32;
        if planned.iter().any(|(other, ..)| *other == resource) {
            return Err(Error::invalid(field, format_args!("duplicated rlimit {}", limit.r#type)));
        }
        if limit.soft > limit.hard {
            return Err(Error::invalid(field, "the soft limit is higher than the hard limit"));
        }
        planned.push((resource, limit.soft, limit.hard));
    }
    Ok(planned)
}

/// sched(7): policies by number.
const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

/// sched_setattr(2): flags.
const SCHED_FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

fn scheduler(field: &str, s: &config::Scheduler) -> Result<SchedAttr> {
    let invalid = |name: &str, what: &str| Err(Error::invalid(format_args!("{field}.{name}"), what));
    let Some((_, policy)) = POLICIES.iter().find(|(name, _)| *name == s.policy) else {
        return invalid("policy", &format!("unknown value \"{}\"", s.policy));
    };
    let mut flags = 0;
    for flag in &s.flags {
        match SCHED_FLAGS.iter().find(|(name, _)| name == flag) {
            Some((_, bit)) => flags |= bit,
            None => return invalid("flags", &format!("unknown value \"{flag}\"")),
        }
    }
    if !(-20..=19).contains(&s.nice) {
        return invalid("nice", "is not between -20 and 19");
    }
    let priority = match u32::try_from(s.priority) {
        Ok(0) => 0,
        Ok(p) if matches!(policy, 1 | 2) && p <= 99 => p,
        Ok(_) if !matches!(policy, 1 | 2) => {
            return invalid("priority", "can only be specified for SCHED_FIFO or SCHED_RR policy");
        }
        _ => return invalid("priority", "is not between 0 and 99"),
    };
    if *policy != 6 && (s.runtime, s.deadline, s.period) != (0, 0, 0) {
        return invalid("runtime", "runtime/deadline/period can only be specified for SCHED_DEADLINE policy");
    }
    let (runtime, deadline, period) = (s.runtime, s.deadline, s.period);
    Ok(SchedAttr { size: 0, policy: *policy, flags, nice: s.nice, priority, runtime, deadline, period })
}

/// ioprio_set(2): class and level in one number.
fn io_priority(field: &str, p: &config::IoPriority) -> Result<u16> {
    let class = match p.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(Error::invalid(format_args!("{field}.class"), format_args!("unknown value \"{other}\""))),
    };
    match u16::try_from(p.priority) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(Error::invalid(format_args!("{field}.priority"), "is not between 0 and 7")),
    }
}

fn personality(p: &config::Personality) -> Result<u64> {
    if let Some(flag) = p.flags.first() {
        return Err(Error::unsupported("linux.personality.flags", format_args!("\"{flag}\": flags are reserved")));
    }
    match p.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::invalid("linux.personality.domain", format_args!("unknown value \"{other}\""))),
    }
}

/// The largest CPU number taken, so that a list can't ask for a mask of any size.
const MAX_CPU: u32 = 1 << 16;

/// A list such as `0-3,7` as a bit mask.
fn cpu_mask<'a>(arena: &'a Arena, field: &str, list: &str) -> Result<&'a [u64]> {
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = first.trim().parse::<u32>().ok().zip(last.trim().parse::<u32>().ok());
        let Some((first, last)) = range.filter(|(first, last)| first <= last && *last < MAX_CPU) else {
            return Err(Error::new(ErrorKind::InvalidSpec, format!("{field}: \"{part}\" is no range of CPUs")));
        };
        for cpu in first..=last {
            let word = (cpu / 64) as usize;
            if mask.len() <= word {
                mask.resize(word + 1, 0);
            }
            if let Some(word) = mask.get_mut(word) {
                *word |= 1u64 << (cpu % 64);
            }
        }
    }
    Ok(arena.list(mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_variable_counts() {
        let env = ["A=1", "B=2", "A=3", "C==x"].map(String::from);
        assert_eq!(environment("process", &env).unwrap(), ["B=2", "A=3", "C==x"]);
        let e = |v: &str| environment("process", &[v.to_owned()]).unwrap_err().to_string();
        assert_eq!(e("A"), "process.env[0]: has no `=`");
        assert_eq!(e("=x"), "process.env[0]: has no name");
    }

    #[test]
    fn a_program_without_a_slash_is_searched_in_absolute_directories_of_path() {
        let arena = Arena::new();
        let found = |program: &str, path: &str| {
            candidates(&arena, "process", program, path)
                .unwrap()
                .iter()
                .map(|c| c.to_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(found("sh", "/usr/bin::.:/bin"), ["/usr/bin/sh", "/bin/sh"]);
        assert_eq!(found("./sh", "/bin"), ["./sh"]);
        assert_eq!(found("sh", ""), [""; 0]);
    }

    #[test]
    fn cpu_lists() {
        let arena = Arena::new();
        let mask = |list: &str| cpu_mask(&arena, "cpus", list).map(<[u64]>::to_vec);
        assert_eq!(mask("0-3,7").unwrap(), [0x8f]);
        assert_eq!(mask("64").unwrap(), [0, 1]);
        assert_eq!(mask("").unwrap(), [0_u64; 0]);
        for bad in ["3-1", "x", "1-", "-1", "65536", "0-4294967295"] {
            assert!(mask(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities_that_cannot_be_had_are_left_out_with_a_warning() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let sets = config::Capabilities {
            bounding: names(&["CAP_KILL", "CAP_NONSENSE"]),
            effective: names(&["CAP_KILL", "CAP_CHOWN"]),
            permitted: names(&["CAP_KILL"]),
            inheritable: names(&["CAP_SETUID"]),
            ambient: names(&["CAP_KILL"]),
        };
        let mut warnings = Vec::new();
        let planned = capabilities("process", Some(&sets), 1 << 5 | 1 << 7, &mut warnings);
        assert_eq!(planned, CapSets { bounding: 32, effective: 32, permitted: 32, inheritable: 128, ambient: 0 });
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }

    #[test]
    fn ambient_capabilities_without_any_inheritable_are_left_out_in_silence() {
        let names = || vec!["CAP_KILL".to_owned()];
        let sets = config::Capabilities { permitted: names(), ambient: names(), ..Default::default() };
        let mut warnings = Vec::new();
        let planned = capabilities("process", Some(&sets), 1 << 5, &mut warnings);
        assert_eq!(planned, CapSets { permitted: 32, ..CapSets::default() });
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn schedulers_are_checked() {
        let s = |policy: &str, priority| config::Scheduler { policy: policy.into(), priority, ..Default::default() };
        assert_eq!(scheduler("s", &s("SCHED_FIFO", 10)).unwrap().priority, 10);
        assert!(scheduler("s", &s("SCHED_OTHER", 10)).is_err());
        assert!(scheduler("s", &s("SCHED_RR", 100)).is_err());
        assert!(scheduler("s", &s("SCHED_RR", -1)).is_err());
        assert_eq!(scheduler("s", &s("X", 0)).unwrap_err().to_string(), "s.policy: unknown value \"X\"");
    }
}
