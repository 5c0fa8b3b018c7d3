//! `linux.seccomp` as a BPF program for seccomp(2). Pure: nothing here looks at the machine.
//!
//! A filter is a function from a system call to an action. It is built in three steps, and each is a plain value:
//!
//! 1. every entry of the profile is checked and put in the kernel's terms (`rules`: action, conditions);
//! 2. for every architecture that this machine runs, a table says what happens to each system call number, and the
//!    table becomes a list of ranges with the same verdict (`Section`);
//! 3. the ranges become a program (`assemble`): dispatch by architecture, a binary tree over the ranges, and at its
//!    leaves an action or the tests of the arguments.
//!
//! The verdicts are those of runc with libseccomp, which the engines' profiles were written for; a test runs our program
//! and libseccomp's in an interpreter and compares them. What differs on purpose:
//!
//! * errnoRet on an action that takes none is refused, as the specification asks; runc ignores it;
//! * libseccomp 2.5 gets some profiles wrong that have several rules for one system call, one of them with several
//!   conditions (a stale accumulator), or `SCMP_CMP_LE` behind another condition on a 32-bit architecture (inverted),
//!   or as the first rule of x86 a part of `socketcall` (the number is not loaded). Here the rules mean what they say;
//! * of several rules that match with different actions the same one decides for every value of the arguments, and
//!   fewer such rules are refused (`rules::ordered`).

mod assemble;
mod rules;
mod syscalls;

use orlop_sys::seccomp::Instruction;

use crate::config::Seccomp;
use crate::error::{Error, Result};
use assemble::{Assembler, Range, Verdict, Width};
pub use rules::{ACTIONS, OPERATORS};
use rules::{Condition, Rule};
use syscalls::{Number, Syscall};

/// The largest program that the kernel takes, in instructions (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Unknown names that are warned of one by one.
const MAX_WARNINGS: usize = 32;

/// `SECCOMP_FILTER_FLAG_LOG` (4.14).
pub const FLAG_LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW` (4.17).
pub const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` (5.0).
pub const FLAG_NEW_LISTENER: u32 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (5.19).
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// The names of the flags, as `features` lists them. TSYNC is accepted and means nothing here: the filter is loaded
/// by a process with one thread.
pub const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// The names of the architectures, as `features` lists them.
pub const ARCHITECTURES: [&str; 18] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// The kind of machine that the program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86_64, which also runs programs for x86 and x32.
    X86_64,
    /// aarch64, which may also run programs for arm.
    Aarch64,
    /// riscv64.
    Riscv64,
}

impl Arch {
    /// The machine that this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const HOST: Self = Self::X86_64;
    /// The machine that this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub const HOST: Self = Self::Aarch64;
    /// The machine that this program was built for.
    #[cfg(target_arch = "riscv64")]
    pub const HOST: Self = Self::Riscv64;

    /// The system call tables of its kernel with their `AUDIT_ARCH_*`, its own first.
    fn sections(self) -> &'static [(u32, Abi)] {
        match self {
            Self::X86_64 => &[(0xc000_003e, Abi::X86_64), (0xc000_003e, Abi::X32), (0x4000_0003, Abi::X86)],
            Self::Aarch64 => &[(0xc000_00b7, Abi::Aarch64), (0x4000_0028, Abi::Arm)],
            Self::Riscv64 => &[(0xc000_00f3, Abi::Riscv64)],
        }
    }
}

/// A way to make system calls, with its own numbers: a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abi {
    X86_64,
    /// Reported by the kernel as x86_64; its numbers have [`X32_BIT`] set.
    X32,
    X86,
    Arm,
    Aarch64,
    Riscv64,
}

/// `__X32_SYSCALL_BIT`.
const X32_BIT: u32 = 1 << 30;

impl Abi {
    fn width(self) -> Width {
        match self {
            Self::X86_64 | Self::Aarch64 | Self::Riscv64 => Width::Double,
            // libseccomp looks at the low words of x32 too, though its registers have 64 bits.
            Self::X32 | Self::X86 | Self::Arm => Width::Word,
        }
    }

    fn base(self) -> u32 {
        if self == Self::X32 { X32_BIT } else { 0 }
    }
}

/// What a name of `linux.seccomp.architectures` means here.
enum Named {
    Abi(Abi),
    /// An architecture that is none of the host's, but could stand in its filter: no system call of it can ever occur.
    Foreign,
    /// libseccomp refuses to mix byte orders in one filter, and all hosts that are supported are little endian.
    BigEndian,
}

fn architecture(name: &str) -> Option<Named> {
    Some(match name {
        "SCMP_ARCH_X86_64" => Named::Abi(Abi::X86_64),
        "SCMP_ARCH_X32" => Named::Abi(Abi::X32),
        "SCMP_ARCH_X86" => Named::Abi(Abi::X86),
        "SCMP_ARCH_ARM" => Named::Abi(Abi::Arm),
        "SCMP_ARCH_AARCH64" => Named::Abi(Abi::Aarch64),
        "SCMP_ARCH_RISCV64" => Named::Abi(Abi::Riscv64),
        "SCMP_ARCH_LOONGARCH64"
        | "SCMP_ARCH_MIPSEL"
        | "SCMP_ARCH_MIPSEL64"
        | "SCMP_ARCH_MIPSEL64N32"
        | "SCMP_ARCH_PPC64LE" => Named::Foreign,
        "SCMP_ARCH_MIPS"
        | "SCMP_ARCH_MIPS64"
        | "SCMP_ARCH_MIPS64N32"
        | "SCMP_ARCH_PPC"
        | "SCMP_ARCH_PPC64"
        | "SCMP_ARCH_S390"
        | "SCMP_ARCH_S390X" => Named::BigEndian,
        _ => return None,
    })
}

/// What seccomp(2) is to be called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The filter.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`, with NEW_LISTENER if `notify`. runc calls prctl(2) when there are none.
    pub flags: u32,
    /// Some system call is answered by a listener: the call returns its fd, which goes to `listenerPath`.
    pub notify: bool,
    /// What was ignored, each naming its field.
    pub warnings: Vec<String>,
}

/// Compiles a profile; `field` is its place in the configuration, for errors. `None`: there is neither a default action
/// nor any rule, which means no filter (runc).
///
/// # Errors
///
/// `InvalidSpec`, naming the field: an unknown action, operator, architecture or flag, an argument's index beyond 5, an
/// errno that does not fit, or for an action that takes none (config-linux.md), two rules that contradict each other,
/// `SCMP_ACT_NOTIFY` as the default, for `write` (the runtime itself must still write to pass the listener on) or
/// without a `listenerPath`; a profile that takes more than [`MAX_INSTRUCTIONS`].
pub fn compile(seccomp: &Seccomp, field: &str, host: Arch) -> Result<Option<Compiled>> {
    if seccomp.default_action.is_empty() && seccomp.syscalls.is_empty() {
        return Ok(None);
    }
    let default = rules::action(
        &seccomp.default_action,
        seccomp.default_errno_ret,
        format_args!("{field}.defaultAction"),
        format_args!("{field}.defaultErrnoRet"),
    )?;
    if default == rules::NOTIFY {
        return Err(Error::invalid(format_args!("{field}.defaultAction"), "SCMP_ACT_NOTIFY cannot be the default"));
    }
    let mut warnings = Vec::new();
    let mut flags = flags(seccomp, field)?;
    let mut sections = sections(seccomp, field, host)?;
    let notify = collect(seccomp, field, default, &mut sections, &mut warnings)?;
    if notify {
        if seccomp.listener_path.is_empty() {
            return Err(Error::invalid(format_args!("{field}.listenerPath"), "missing, SCMP_ACT_NOTIFY needs it"));
        }
        flags |= FLAG_NEW_LISTENER;
    } else if flags & FLAG_WAIT_KILLABLE_RECV != 0 {
        // EINVAL without a listener (seccomp(2)).
        flags &= !FLAG_WAIT_KILLABLE_RECV;
        warnings.push(format!("{field}.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV ignored, nothing notifies"));
    }
    let program = program(sections, default, field)?;
    Ok(Some(Compiled { program, flags, notify, warnings }))
}

fn flags(seccomp: &Seccomp, field: &str) -> Result<u32> {
    let Some(names) = &seccomp.flags else {
        // Without it the kernel mitigates speculative store bypass for the process, which can halve its speed.
        return Ok(FLAG_SPEC_ALLOW);
    };
    let mut flags = 0;
    for (i, name) in names.iter().enumerate() {
        let unknown = || Error::invalid(format_args!("{field}.flags[{i}]"), format_args!("unknown flag {name:?}"));
        flags |= flag(name).ok_or_else(unknown)?;
    }
    Ok(flags)
}

/// A flag by its name; 0 for TSYNC, which means nothing to a process with one thread.
pub fn flag(name: &str) -> Option<u32> {
    Some(match name {
        "SECCOMP_FILTER_FLAG_TSYNC" => 0,
        "SECCOMP_FILTER_FLAG_LOG" => FLAG_LOG,
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => FLAG_SPEC_ALLOW,
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => FLAG_WAIT_KILLABLE_RECV,
        _ => return None,
    })
}

/// The tables to fill: the machine's own, and of its others those that the profile names.
fn sections(seccomp: &Seccomp, field: &str, host: Arch) -> Result<Vec<Section>> {
    let mut wanted = Vec::with_capacity(4);
    for (i, name) in seccomp.architectures.iter().enumerate() {
        let field = format_args!("{field}.architectures[{i}]");
        match architecture(name) {
            Some(Named::Abi(abi)) => wanted.push(abi),
            Some(Named::Foreign) => {}
            Some(Named::BigEndian) => {
                return Err(Error::invalid(field, format_args!("{name} has another byte order than this machine")));
            }
            None => return Err(Error::invalid(field, format_args!("unknown architecture {name:?}"))),
        }
    }
    let own = host.sections().first().map(|(_, abi)| *abi);
    let here = |abi| Some(abi) == own || wanted.contains(&abi);
    Ok(host.sections().iter().filter(|(_, abi)| here(*abi)).map(|(audit, abi)| Section::new(*audit, *abi)).collect())
}

/// Puts every entry of the profile into every table. Tells whether one of them notifies.
fn collect(
    seccomp: &Seccomp,
    field: &str,
    default: u32,
    sections: &mut [Section],
    warnings: &mut Vec<String>,
) -> Result<bool> {
    let (mut notify, mut unknown) = (false, 0usize);
    for (i, entry) in seccomp.syscalls.iter().enumerate() {
        let at = || format!("{field}.syscalls[{i}]");
        let action = rules::action(
            &entry.action,
            entry.errno_ret,
            format_args!("{field}.syscalls[{i}].action"),
            format_args!("{field}.syscalls[{i}].errnoRet"),
        )?;
        let alternatives = rules::alternatives(&entry.args, at)?;
        for (j, name) in entry.names.iter().enumerate() {
            let Some(syscall) = syscalls::find(name) else {
                if name.is_empty() {
                    return Err(Error::invalid(format_args!("{}.names[{j}]", at()), "empty"));
                }
                unknown += 1;
                if unknown <= MAX_WARNINGS {
                    warnings.push(format!("{}.names[{j}]: unknown system call {name:?} ignored", at()));
                }
                continue;
            };
            if action == rules::NOTIFY && name == "write" {
                return Err(Error::invalid(
                    format_args!("{}.names[{j}]", at()),
                    "SCMP_ACT_NOTIFY cannot be used for write",
                ));
            }
            for section in &mut *sections {
                section.mention(syscall);
                if action == default {
                    continue;
                }
                for conditions in &alternatives {
                    section.add(syscall, conditions, action, i);
                }
                // Every rule takes two instructions at least. Checked early: memory, and quadratic time to order them.
                if section.rule_count > MAX_INSTRUCTIONS / 2 {
                    return Err(too_long(field, section.rule_count.saturating_mul(2)));
                }
            }
        }
        notify |= action == rules::NOTIFY && !entry.names.is_empty();
    }
    if unknown > MAX_WARNINGS {
        warnings.push(format!("{field}.syscalls: {} more unknown system calls ignored", unknown - MAX_WARNINGS));
    }
    Ok(notify)
}

fn program(mut sections: Vec<Section>, default: u32, field: &str) -> Result<Vec<Instruction>> {
    for section in &mut sections {
        section.order(field)?;
    }
    let mut assembler = Assembler::new(default);
    let mut dispatch = Vec::with_capacity(sections.len());
    let mut rest = sections.as_slice();
    while let [section, tail @ ..] = rest {
        let x32;
        (x32, rest) = match tail {
            [x32, tail @ ..] if x32.abi == Abi::X32 => (Some(x32), tail),
            _ => (None, tail),
        };
        let ranges = ranges(section, x32, default);
        dispatch.push((section.audit, assembler.section(&ranges)));
    }
    assembler.dispatch(&dispatch, rules::KILL_THREAD);
    let program = assembler.finish();
    if program.len() > MAX_INSTRUCTIONS { Err(too_long(field, program.len())) } else { Ok(program) }
}

fn too_long(field: &str, least: usize) -> Error {
    let what =
        format_args!("takes {least} BPF instructions or more, the kernel's limit is {MAX_INSTRUCTIONS}").to_string();
    Error::invalid(field, what)
}

/// What happens to one system call of a table.
#[derive(Clone, Copy)]
enum Slot {
    Default,
    Return(u32),
    /// An index of [`Section::rules`].
    Rules(u16),
}

/// What happens to the system calls of one architecture.
struct Section {
    audit: u32,
    abi: Abi,
    /// By [`Number::index`].
    slots: Vec<Slot>,
    rules: Vec<Vec<Rule>>,
    /// How many there are in `rules`.
    rule_count: usize,
    /// The largest number that the profile mentions, whatever for.
    newest: Option<Number>,
}

impl Section {
    fn new(audit: u32, abi: Abi) -> Self {
        Self { audit, abi, slots: vec![Slot::Default; Number::COUNT], rules: Vec::new(), rule_count: 0, newest: None }
    }

    /// Takes note of how new the profile is. Like runc this leaves out the parts of combined calls, which libseccomp
    /// resolves to numbers of its own.
    fn mention(&mut self, syscall: &Syscall) {
        if syscall.part(self.abi).is_none() {
            self.newest = self.newest.max(syscall.number(self.abi));
        }
    }

    fn add(&mut self, syscall: &Syscall, conditions: &[Condition], action: u32, source: usize) {
        let conditions: Vec<Condition> = rules::narrowed(conditions, self.abi.width()).collect();
        if let Some(part) = syscall.part(self.abi) {
            // The arguments of a combined call are which call it is and a pointer. libseccomp replaces a condition on
            // the first argument by which call it is, and leaves the others as they are, though they make no sense.
            let which = Condition { arg: 0, op: rules::Op::Eq, mask: u32::MAX.into(), value: part.call };
            let others = conditions.iter().copied().filter(|condition| condition.arg != 0);
            let conditions = std::iter::once(which).chain(others).collect();
            self.add_rule(part.of, Rule { conditions, action, source });
        }
        if let Some(number) = syscall.number(self.abi) {
            self.add_rule(number, Rule { conditions, action, source });
        }
    }

    /// The first rule without conditions decides alone, wherever in the profile it stands.
    fn add_rule(&mut self, number: Number, rule: Rule) {
        let Some(slot) = self.slots.get_mut(number.index()) else { return };
        match *slot {
            Slot::Return(_) => {}
            Slot::Default if rule.conditions.is_empty() => *slot = Slot::Return(rule.action),
            Slot::Rules(at) if rule.conditions.is_empty() => {
                *slot = Slot::Return(rule.action);
                if let Some(rules) = self.rules.get_mut(usize::from(at)) {
                    self.rule_count -= rules.len();
                    rules.clear();
                }
            }
            Slot::Default => {
                *slot = Slot::Rules(u16::try_from(self.rules.len()).unwrap_or(u16::MAX));
                self.rules.push(vec![rule]);
                self.rule_count += 1;
            }
            Slot::Rules(at) => {
                if let Some(rules) = self.rules.get_mut(usize::from(at)) {
                    rules.push(rule);
                    self.rule_count += 1;
                }
            }
        }
    }

    fn order(&mut self, field: &str) -> Result<()> {
        for rules in &mut self.rules {
            *rules = rules::ordered(std::mem::take(rules), self.abi.width()).map_err(|source| {
                Error::invalid(format_args!("{field}.syscalls[{source}]"), "contradicts an earlier rule")
            })?;
        }
        Ok(())
    }

    fn verdict(&self, slot: Slot, default: u32) -> Verdict<'_> {
        match slot {
            Slot::Default => Verdict::Return(default),
            Slot::Return(action) => Verdict::Return(action),
            Slot::Rules(at) => {
                Verdict::Rules(self.rules.get(usize::from(at)).map_or(&[], Vec::as_slice), self.abi.width())
            }
        }
    }

    /// The number beyond which a system call is newer than the profile, if that makes a difference. Number 0 is as
    /// good as none (runc).
    fn newest(&self, default: u32) -> Option<Number> {
        self.newest.filter(|newest| !rules::is_permissive(default) && (newest.index() > 0 || self.abi == Abi::X32))
    }
}

/// The verdicts of all 2^32 numbers of one architecture, as ranges: neighbours with the same verdict are one.
fn ranges<'a>(section: &'a Section, x32: Option<&'a Section>, default: u32) -> Vec<Range<'a>> {
    let mut ranges: Vec<Range<'a>> = Vec::with_capacity(256);
    let mut push = |start, verdict| match ranges.last() {
        Some(range) if range.verdict == verdict => {}
        _ => ranges.push(Range { start, verdict }),
    };
    let mut table = |section: &'a Section| {
        let base = section.abi.base();
        let newest = section.newest(default).map_or(usize::MAX, Number::index);
        for (index, slot) in section.slots.iter().enumerate().take(newest.saturating_add(1)) {
            push(base + Number::at(index), section.verdict(*slot, default));
        }
        let beyond = if newest == usize::MAX { default } else { rules::ENOSYS };
        push(base + Number::at(newest.min(Number::COUNT - 1)) + 1, Verdict::Return(beyond));
        beyond
    };
    let beyond = table(section);
    if section.abi != Abi::X86_64 {
        return ranges;
    }
    // A number is of x32 if it has the bit, whatever other bits it has. Without x32 in the profile libseccomp kills at
    // any number from the bit on but -1, which a tracer sets to skip a system call; and runc still says ENOSYS to what
    // is too large and lacks the bit.
    let (x32_beyond, skipped) = match x32 {
        Some(x32) => {
            let beyond = table(x32);
            (beyond, beyond)
        }
        None => {
            push(X32_BIT, Verdict::Return(rules::KILL_THREAD));
            (rules::KILL_THREAD, default)
        }
    };
    let too_large = if beyond == rules::ENOSYS { rules::ENOSYS } else { x32.map_or(rules::KILL_THREAD, |_| default) };
    push(2 * X32_BIT, Verdict::Return(too_large));
    push(3 * X32_BIT, Verdict::Return(x32_beyond));
    push(u32::MAX, Verdict::Return(skipped));
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn profile(json: &str) -> Seccomp {
        serde_json::from_str(json).unwrap()
    }

    fn compiled(json: &str) -> Compiled {
        compile(&profile(json), "linux.seccomp", Arch::X86_64).unwrap().unwrap()
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_field() {
        let rule = |rest: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{{rest}}}]}}"#);
        let default = |action: &str, rest: &str| format!(r#"{{"defaultAction":"{action}"{rest}}}"#);
        let arg = |arg: &str| rule(&format!(r#""names":["read"],"action":"SCMP_ACT_KILL","args":[{arg}]"#));
        for (json, want) in [
            (default("ALLOW", ""), r#"defaultAction: unknown action "ALLOW""#),
            (default("", r#","syscalls":[{}]"#), r#"defaultAction: unknown action """#),
            (default("SCMP_ACT_NOTIFY", ""), "defaultAction: SCMP_ACT_NOTIFY cannot be the default"),
            (default("SCMP_ACT_ALLOW", r#","defaultErrnoRet":1"#), "defaultErrnoRet: SCMP_ACT_ALLOW takes no errno"),
            (default("SCMP_ACT_ERRNO", r#","defaultErrnoRet":4096"#), "defaultErrnoRet: larger than 4095"),
            (default("SCMP_ACT_TRACE", r#","defaultErrnoRet":65536"#), "defaultErrnoRet: larger than 65535"),
            (default("SCMP_ACT_ALLOW", r#","flags":["X"]"#), r#"flags[0]: unknown flag "X""#),
            (default("SCMP_ACT_ALLOW", r#","architectures":["X"]"#), r#"architectures[0]: unknown architecture "X""#),
            (
                default("SCMP_ACT_ALLOW", r#","architectures":["SCMP_ARCH_X86","SCMP_ARCH_S390X"]"#),
                "architectures[1]: SCMP_ARCH_S390X has another byte order than this machine",
            ),
            (rule(r#""names":["read"],"action":"KILL""#), r#"syscalls[0].action: unknown action "KILL""#),
            (
                rule(r#""names":["read"],"action":"SCMP_ACT_KILL","errnoRet":1"#),
                "syscalls[0].errnoRet: SCMP_ACT_KILL takes no errno",
            ),
            (rule(r#""names":["read",""],"action":"SCMP_ACT_KILL""#), "syscalls[0].names[1]: empty"),
            (
                rule(r#""names":["read","write"],"action":"SCMP_ACT_NOTIFY""#),
                "syscalls[0].names[1]: SCMP_ACT_NOTIFY cannot be used for write",
            ),
            (rule(r#""names":["read"],"action":"SCMP_ACT_NOTIFY""#), "listenerPath: missing, SCMP_ACT_NOTIFY needs it"),
            (arg(r#"{"index":6,"op":"SCMP_CMP_EQ"}"#), "syscalls[0].args[0].index: 6 is not an argument"),
            (arg(r#"{"index":4294967295,"op":"SCMP_CMP_EQ"}"#), "args[0].index: 4294967295 is not an argument"),
            (arg(r#"{"index":5,"op":"EQ"}"#), r#"syscalls[0].args[0].op: unknown operator "EQ""#),
        ] {
            let e = compile(&profile(&json), "linux.seccomp", Arch::X86_64).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidSpec);
            let e = e.to_string();
            assert!(e.starts_with("linux.seccomp.") && e.contains(want), "{e:?} does not say {want:?}");
        }
    }

    #[test]
    fn rules_that_contradict_each_other_are_refused() {
        let rule = |errno, args: &str| {
            format!(r#"{{"names":["ioctl"],"action":"SCMP_ACT_ERRNO","errnoRet":{errno},"args":[{args}]}}"#)
        };
        let (one, two) = (r#"{"index":1,"op":"SCMP_CMP_EQ"}"#, r#"{"index":2,"op":"SCMP_CMP_EQ"}"#);
        let both = format!("{one},{two}");
        for (first, second, refused) in [(one, one, true), (one, both.as_str(), false), (&both, one, false)] {
            let rules = [rule(1, first), rule(2, second)].join(",");
            let json = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rules}]}}"#);
            match compile(&profile(&json), "linux.seccomp", Arch::X86_64) {
                Ok(_) => assert!(!refused, "{json}"),
                Err(e) => assert_eq!(e.to_string(), "linux.seccomp.syscalls[1]: contradicts an earlier rule"),
            }
        }
    }

    #[test]
    fn no_action_and_no_rule_is_no_filter() {
        assert_eq!(compile(&profile("{}"), "linux.seccomp", Arch::X86_64).unwrap(), None);
    }

    #[test]
    fn flags_are_spec_allow_unless_the_profile_says_otherwise() {
        for (flags, want) in [
            ("", FLAG_SPEC_ALLOW),
            (r#","flags":null"#, FLAG_SPEC_ALLOW),
            (r#","flags":[]"#, 0),
            (r#","flags":["SECCOMP_FILTER_FLAG_TSYNC"]"#, 0),
            (r#","flags":["SECCOMP_FILTER_FLAG_LOG"]"#, FLAG_LOG),
            (r#","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#, FLAG_LOG | FLAG_SPEC_ALLOW),
            (r#","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#, 0),
        ] {
            let compiled = compiled(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{flags}}}"#));
            assert_eq!(compiled.flags, want, "{flags}");
            assert_eq!(compiled.warnings.len(), usize::from(flags.contains("KILLABLE")));
        }
    }

    #[test]
    fn a_rule_that_notifies_asks_for_a_listener() {
        let compiled = compiled(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/l","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        );
        assert!(compiled.notify);
        assert_eq!(compiled.flags, FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV);
    }

    #[test]
    fn unknown_names_are_ignored_with_a_warning_and_foreign_ones_silently() {
        let compiled = compiled(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"names":["read","s390_runtime_instr","set_tls","frobnicate"],"action":"SCMP_ACT_KILL"}]}"#,
        );
        assert_eq!(
            compiled.warnings,
            [r#"linux.seccomp.syscalls[0].names[3]: unknown system call "frobnicate" ignored"#]
        );
        let names = vec![r#""x""#; 40].join(",");
        let rule = format!(r#"{{"names":[{names}],"action":"SCMP_ACT_KILL"}}"#);
        let warnings = self::compiled(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#)).warnings;
        assert_eq!(warnings.len(), 33);
        assert_eq!(warnings[32], "linux.seccomp.syscalls: 8 more unknown system calls ignored");
    }

    #[test]
    fn a_program_beyond_the_kernels_limit_is_refused() {
        let rules = |count: usize| {
            let rule = |i| {
                let args = format!(r#"{{"index":0,"op":"SCMP_CMP_EQ","value":{}}}"#, i << 31);
                format!(r#"{{"names":["ioctl"],"action":"SCMP_ACT_KILL","args":[{args}]}}"#)
            };
            let rules = (0..count).map(rule).collect::<Vec<_>>().join(",");
            compile(
                &profile(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rules}]}}"#)),
                "linux.seccomp",
                Arch::X86_64,
            )
        };
        assert!(rules(1000).unwrap().unwrap().program.len() <= MAX_INSTRUCTIONS);
        for count in [1200, 30_000] {
            let e = rules(count).unwrap_err().to_string();
            assert!(e.starts_with("linux.seccomp: takes ") && e.ends_with("limit is 4096"), "{e}");
        }
    }

    #[test]
    fn the_same_profile_gives_the_same_program() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[
            {"names":["read","write","openat","clone3"],"action":"SCMP_ACT_ALLOW"},
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"op":"SCMP_CMP_NE","value":40}]}]}"#;
        assert_eq!(compiled(json), compiled(json));
    }

    #[test]
    fn every_name_that_features_lists_is_known() {
        for name in ACTIONS {
            assert!(rules::action(name, None, "", "").is_ok(), "{name}");
        }
        for name in ARCHITECTURES {
            assert!(architecture(name).is_some(), "{name}");
        }
        for op in OPERATORS {
            let arg = crate::config::SyscallArg { op: op.into(), ..Default::default() };
            assert!(rules::alternatives(&[arg], String::new).is_ok(), "{op}");
        }
        let seccomp = Seccomp { flags: Some(FLAGS.map(str::to_owned).into()), ..Seccomp::default() };
        assert!(flags(&seccomp, "").is_ok());
    }
}
