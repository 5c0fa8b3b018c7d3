//! `linux.seccomp`: the built-in profile, Docker's default as a table of facts (`seccomp.txt`); or one of the user's,
//! in Docker's form or the runtime specification's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::dir::read_limited;
use crate::error::{At, Error, Result};
use crate::json;

const TABLE: &str = include_str!("seccomp.txt");

/// `EPERM`, the answer to a call that is not allowed.
const EPERM: u32 = 1;

/// What the conditions of a profile are about.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The capabilities that the container has.
    pub capabilities: &'a BTreeSet<&'static str>,
    /// The architecture in Go's names: `amd64`.
    pub arch: &'a str,
    /// The kernel: 6 and 18.
    pub kernel: (u32, u32),
}

/// An architecture in Go's names, and in seccomp's with those whose programs it runs too.
const ARCHITECTURES: [(&str, &[&str]); 5] = [
    ("amd64", &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    ("arm64", &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
    ("ppc64le", &["SCMP_ARCH_PPC64LE"]),
    ("riscv64", &["SCMP_ARCH_RISCV64"]),
    ("s390x", &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"]),
];

/// The architecture of this program, which is the kernel's, in Go's names.
pub fn native() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// A comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    Equal(u32, u64),
    NotEqual(u32, u64),
    /// Index, mask, value.
    Masked(u32, u64, u64),
}

/// A line of the table that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rule<'a> {
    errno: Option<u32>,
    name: &'a str,
    test: Option<Test>,
}

/// The rules of `table` whose condition holds. None: a line that is none.
fn rules<'a>(table: &'a str, facts: &Facts<'_>) -> Option<BTreeSet<Rule<'a>>> {
    let mut all = BTreeSet::new();
    let (mut holds, mut errno) = (false, None);
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(calls) = line.strip_prefix("    ") {
            let entries: Vec<Rule<'_>> = match calls.split_once(" if ") {
                Some((name, test)) => vec![Rule { errno, name, test: Some(parse_test(test)?) }],
                None => calls.split_whitespace().map(|name| Rule { errno, name, test: None }).collect(),
            };
            all.extend(entries.into_iter().filter(|_| holds));
        } else {
            (holds, errno) = condition(line.strip_suffix(':')?, facts)?;
        }
    }
    Some(all)
}

fn condition(text: &str, facts: &Facts<'_>) -> Option<(bool, Option<u32>)> {
    let (mut holds, mut errno) = (true, None);
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        holds &= match word {
            "always" => true,
            "arch" => words.next()? == facts.arch,
            "not" => words.next()? != facts.arch,
            "without" => !facts.capabilities.contains(words.next()?),
            "errno" => {
                errno = Some(words.next()?.parse().ok()?);
                true
            }
            capability if capability.starts_with("CAP_") => facts.capabilities.contains(capability),
            _ => return None,
        };
    }
    Some((holds, errno))
}

fn parse_test(text: &str) -> Option<Test> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let words: Vec<_> = text.split(' ').collect();
    let (argument, rest) = words.split_first()?;
    let index = argument.strip_prefix("arg")?.parse().ok()?;
    match rest {
        ["==", value] => Some(Test::Equal(index, number(value)?)),
        ["!=", value] => Some(Test::NotEqual(index, number(value)?)),
        ["&", mask, "==", value] => Some(Test::Masked(index, number(mask)?, number(value)?)),
        _ => None,
    }
}

fn argument(test: Test) -> Value {
    match test {
        Test::Equal(index, value) => json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"}),
        Test::NotEqual(index, value) => json!({"index": index, "value": value, "op": "SCMP_CMP_NE"}),
        Test::Masked(index, mask, value) => {
            json!({"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"})
        }
    }
}

fn architectures(arch: &str) -> Result<&'static [&'static str]> {
    let known = ARCHITECTURES.iter().find(|(name, _)| *name == arch);
    known.map(|(_, names)| *names).ok_or_else(|| Error::unsupported(format!("seccomp: architecture {arch:?}")))
}

/// The built-in profile.
pub fn builtin(facts: &Facts<'_>) -> Result<Value> {
    let rules = rules(TABLE, facts).ok_or_else(|| Error::invalid("seccomp: the built-in table"))?;
    // A call that is allowed as it is needs no tests: a rule of each would contradict the other to some runtimes.
    let plain: BTreeSet<_> = rules.iter().filter(|r| r.test.is_none() && r.errno.is_none()).map(|r| r.name).collect();
    let mut calls = vec![json!({"names": plain, "action": "SCMP_ACT_ALLOW"})];
    let mut refused: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| !plain.contains(rule.name)) {
        match (rule.errno, rule.test) {
            (Some(errno), _) => refused.entry(errno).or_default().push(rule.name),
            (None, Some(test)) => {
                calls.push(json!({"names": [rule.name], "action": "SCMP_ACT_ALLOW", "args": [argument(test)]}));
            }
            (None, None) => {}
        }
    }
    for (errno, names) in refused {
        calls.push(json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno}));
    }
    Ok(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures(facts.arch)?,
        "syscalls": calls,
    }))
}

/// What a profile in Docker's form has beyond the runtime's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    flags: Vec<String>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Call>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Filter {
    /// For each of its conditions, if it holds: all of `caps`, one of `arches`, the kernel.
    fn conditions(&self, facts: &Facts<'_>) -> Result<[Option<bool>; 3]> {
        let named = |list: &Option<Vec<String>>| list.as_ref().filter(|list| !list.is_empty()).cloned();
        let kernel = self.min_kernel.as_deref().filter(|text| !text.is_empty()).map(|text| {
            let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
            let numbers = (major.parse::<u32>(), minor.parse::<u32>());
            match numbers {
                (Ok(major), Ok(minor)) => Ok(facts.kernel >= (major, minor)),
                _ => Err(Error::invalid(format!("minKernel {text:?} is no version"))),
            }
        });
        Ok([
            named(&self.caps).map(|caps| caps.iter().all(|cap| facts.capabilities.contains(cap.as_str()))),
            named(&self.arches).map(|arches| arches.iter().any(|arch| arch == facts.arch)),
            kernel.transpose()?,
        ])
    }
}

/// The profile at `path`: Docker's form, with conditions, or the runtime's own. What names a file in an error.
#[allow(clippy::disallowed_methods, reason = "a path of the user's own")]
pub fn from_file(path: &Path, facts: &Facts<'_>) -> Result<Value> {
    let what = format!("--security-opt seccomp={}", path.display());
    let file = std::fs::File::open(path).at(|| &what)?;
    let bytes = read_limited(file, &what, json::MAX_DOCUMENT)?;
    from_bytes(&what, &bytes, facts)
}

fn from_bytes(what: &str, bytes: &[u8], facts: &Facts<'_>) -> Result<Value> {
    let profile: Profile = json::parse(what, bytes)?;
    let mut made = Map::new();
    made.insert("defaultAction".to_owned(), profile.default_action.into());
    if let Some(errno) = profile.default_errno_ret {
        made.insert("defaultErrnoRet".to_owned(), errno.into());
    }
    let mut architectures_named = profile.architectures;
    if !profile.arch_map.is_empty() {
        let native = architectures(facts.arch)?.first().copied().unwrap_or_default();
        for map in profile.arch_map.into_iter().filter(|map| map.architecture == native) {
            architectures_named.push(map.architecture);
            architectures_named.extend(map.sub_architectures.unwrap_or_default());
        }
    }
    if !architectures_named.is_empty() {
        made.insert("architectures".to_owned(), architectures_named.into());
    }
    if !profile.flags.is_empty() {
        made.insert("flags".to_owned(), profile.flags.into());
    }
    for (name, text) in [("listenerPath", profile.listener_path), ("listenerMetadata", profile.listener_metadata)] {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            made.insert(name.to_owned(), text.into());
        }
    }
    let mut calls = Vec::new();
    for call in profile.syscalls.unwrap_or_default() {
        let context = |e: Error| e.context(what);
        let included = call.includes.unwrap_or_default().conditions(facts).map_err(context)?;
        let excluded = call.excludes.unwrap_or_default().conditions(facts).map_err(context)?;
        if included.contains(&Some(false)) || excluded.contains(&Some(true)) {
            continue;
        }
        let names: Vec<_> = call.names.into_iter().chain(call.name.filter(|name| !name.is_empty())).collect();
        if names.is_empty() {
            return Err(Error::invalid(format!("{what}: a rule names no system call")));
        }
        let mut entry = Map::new();
        entry.insert("names".to_owned(), names.into());
        entry.insert("action".to_owned(), call.action.into());
        if let Some(errno) = call.errno_ret {
            entry.insert("errnoRet".to_owned(), errno.into());
        }
        let arguments = call.args.unwrap_or_default();
        if !arguments.is_empty() {
            entry.insert("args".to_owned(), json!(arguments));
        }
        calls.push(entry.into());
    }
    made.insert("syscalls".to_owned(), Value::Array(calls));
    Ok(made.into())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "paths of the test's own")]
mod tests {
    use super::*;
    use crate::config::capabilities::{self, ALL, DEFAULT};

    fn facts<'a>(capabilities: &'a BTreeSet<&'static str>, arch: &'a str) -> Facts<'a> {
        Facts { capabilities, arch, kernel: (6, 18) }
    }

    /// The calls that are allowed at least with some arguments.
    fn allowed(profile: &Value) -> BTreeSet<String> {
        let calls = profile["syscalls"].as_array().unwrap().iter();
        let calls = calls.filter(|call| call["action"] == "SCMP_ACT_ALLOW");
        calls.flat_map(|call| call["names"].as_array().unwrap()).map(|n| n.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_line_of_the_table_is_read_and_its_names_are_sorted() {
        let names: BTreeSet<_> = DEFAULT.into();
        assert!(rules(TABLE, &facts(&names, "amd64")).is_some());
        for (arch, _) in ARCHITECTURES {
            assert!(builtin(&facts(&names, arch)).is_ok(), "{arch}");
        }
        assert!(builtin(&facts(&names, "vax")).is_err());
        for section in TABLE.split("\n\n") {
            let words: Vec<_> = section
                .lines()
                .filter(|line| line.starts_with("    ") && !line.contains(" if "))
                .flat_map(str::split_whitespace)
                .collect();
            assert!(words.is_sorted(), "{section}");
        }
        for line in TABLE.lines().filter(|line| line.contains("CAP_") && line.ends_with(':')) {
            let known = line.trim_end_matches(':').split(' ').filter(|word| word.starts_with("CAP_"));
            assert!(known.into_iter().all(|cap| ALL.contains(&cap)), "{line}");
        }
        for bad in ["sometimes:\n    read", "read", "always:\n    read if arg0 < 1", "errno x:\n"] {
            assert_eq!(rules(bad, &facts(&names, "amd64")), None, "{bad}");
        }
    }

    #[test]
    fn capabilities_and_architectures_unlock_calls() {
        let with = |add: &str, arch: &str| {
            let add: Vec<_> = add.split_whitespace().map(str::to_owned).collect();
            builtin(&facts(&capabilities::set(&add, &[], false).unwrap(), arch)).unwrap()
        };
        for (add, arch, call, meant) in [
            ("", "amd64", "read", true),
            ("", "amd64", "arch_prctl", true),
            ("", "arm64", "arch_prctl", false),
            ("", "arm64", "cacheflush", true),
            ("", "amd64", "mount", false),
            ("SYS_ADMIN", "amd64", "mount", true),
            ("SYS_ADMIN", "amd64", "clone3", true),
            ("", "amd64", "clone3", false),
            ("", "amd64", "chroot", true),
            ("", "amd64", "bpf", false),
            ("BPF", "amd64", "bpf", true),
            ("", "amd64", "keyctl", false),
            ("", "amd64", "add_key", false),
            ("", "amd64", "userfaultfd", false),
            ("", "amd64", "io_uring_setup", false),
            ("ALL", "amd64", "io_uring_setup", false),
            ("", "amd64", "kexec_load", false),
            ("ALL", "amd64", "kexec_load", false),
            ("ALL", "amd64", "reboot", true),
        ] {
            assert_eq!(allowed(&with(add, arch)).contains(call), meant, "{call} with {add} on {arch}");
        }
        let clone = |profile: &Value| {
            profile["syscalls"].as_array().unwrap().iter().find(|call| call["names"] == json!(["clone"])).cloned()
        };
        let masked =
            |index: u32| json!([{"index": index, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
        assert_eq!(clone(&with("", "amd64")).unwrap()["args"], masked(0));
        assert_eq!(clone(&with("", "s390x")).unwrap()["args"], masked(1));
        assert_eq!(clone(&with("SYS_ADMIN", "amd64")), None);
        let profile = with("", "amd64");
        let calls = profile["syscalls"].as_array().unwrap();
        assert!(calls.contains(&json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})), "{profile}");
        let vsock = json!([{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]);
        assert!(calls.iter().any(|call| call["args"] == vsock), "{profile}");
    }

    #[test]
    fn a_profile_of_the_users_keeps_what_its_conditions_let() {
        let caps: BTreeSet<_> = DEFAULT.into();
        let profile = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "unknown": [],
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}],
            "syscalls": [
                {"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {}, "excludes": {}},
                {"names": ["b"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["c"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
                {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
                {"names": ["f"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["g"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "7.0"}},
                {"name": "h", "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
                 "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]}
            ]}"#;
        let made = from_bytes("x", profile.as_bytes(), &facts(&caps, "amd64")).unwrap();
        assert_eq!(made["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
        let names: Vec<_> = made["syscalls"].as_array().unwrap().iter().map(|call| call["names"][0].clone()).collect();
        assert_eq!(names, ["a", "c", "d", "f", "h"]);
        for bad in ["{}", r#"{"defaultAction": "x", "syscalls": [{"action": "x"}]}"#, "[", "null"] {
            assert!(from_bytes("x", bad.as_bytes(), &facts(&caps, "amd64")).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_table_allows_what_the_profile_of_debians_podman_does_but_for_what_docker_does_not() {
        const PROFILE: &str = "/usr/share/containers/seccomp.json";
        let Ok(bytes) = std::fs::read(PROFILE) else {
            eprintln!("SKIP: no {PROFILE} (package golang-github-containers-common)");
            return;
        };
        // What Podman allows and Docker does not, in its own table of a container without CAP_SYS_ADMIN; and the other
        // way round, some of which are younger than that profile.
        const PODMAN: &str = "clone3 fsconfig fsmount fsopen fspick get_mempolicy keyctl mbind mount mount_setattr \
            move_mount open_tree pidfd_getfd pivot_root process_vm_readv process_vm_writev readdir reboot \
            set_mempolicy setns sigaction signal sigpending sigsuspend syscall syslog timerfd umount umount2 unshare";
        const DOCKER: &str = "cachestat fchmodat2 futex_requeue futex_wait futex_waitv futex_wake getxattrat \
            io_pgetevents io_pgetevents_time64 listmount listxattrat lsm_get_self_attr lsm_list_modules \
            lsm_set_self_attr map_shadow_stack mseal removexattrat setxattrat statmount uretprobe vmsplice";
        let caps: BTreeSet<_> = DEFAULT.into();
        let theirs = allowed(&from_bytes("x", &bytes, &facts(&caps, "amd64")).unwrap());
        let ours = allowed(&builtin(&facts(&caps, "amd64")).unwrap());
        let set = |text: &'static str| text.split_whitespace().collect::<BTreeSet<_>>();
        let (more, less): (BTreeSet<_>, BTreeSet<_>) = (
            ours.iter().map(String::as_str).filter(|name| !theirs.contains(*name)).collect(),
            theirs.iter().map(String::as_str).filter(|name| !ours.contains(*name)).collect(),
        );
        assert_eq!(less.difference(&set(PODMAN)).collect::<Vec<_>>(), Vec::<&&str>::new());
        assert_eq!(more.difference(&set(DOCKER)).collect::<Vec<_>>(), Vec::<&&str>::new());
    }
}
