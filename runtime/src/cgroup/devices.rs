//! Which devices a container may open and make: the rules of `linux.resources.devices`, as entries for cgroup v1's
//! devices controller or as an eBPF program for v2. Pure.
//!
//! One meaning for both: of the rules that match a device, the last one that names an access decides on it, and what
//! no rule names is refused. Access bits are decided one by one, so a denied `w` also stops an open for reading and
//! writing.

use orlop_sys::bpf::Insn;

use crate::config::DeviceRule;
use crate::error::{Error, Result};

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// The most rules that a configuration may have; a rule for both kinds of device counts twice below.
const MAX_RULES: usize = 2048;

/// The kinds of device, by the number that the kernel uses for them in a filter's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block = 1,
    Char = 2,
}

/// One rule about devices; `None` is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

/// What an access is decided by: the rules in order, over a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    default_allow: bool,
    rules: Vec<Rule>,
}

/// What every container may use, whatever its configuration says (runc does the same): make any node, and open null,
/// zero, full, random, urandom, tty, ptmx, the pts devices and tun.
const IMPLICIT: [Rule; 11] = {
    const fn node(kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
        Rule { allow: true, kind, major, minor, access }
    }
    const fn char(major: u32, minor: Option<u32>) -> Rule {
        node(Kind::Char, Some(major), minor, ALL)
    }
    [
        node(Kind::Char, None, None, MKNOD),
        node(Kind::Block, None, None, MKNOD),
        char(1, Some(3)),
        char(1, Some(5)),
        char(1, Some(7)),
        char(1, Some(8)),
        char(1, Some(9)),
        char(5, Some(0)),
        char(5, Some(2)),
        char(10, Some(200)),
        char(136, None),
    ]
};

impl Devices {
    /// The rules of the configuration, then the implicit ones. A rule for all devices and accesses empties the list.
    ///
    /// # Errors
    /// `InvalidSpec` for an unknown type or access letter, or a number that no device has.
    pub fn new(rules: &[DeviceRule]) -> Result<Self> {
        if rules.len() > MAX_RULES {
            let what = format!("{} rules are more than {MAX_RULES}", rules.len());
            return Err(Error::invalid("linux.resources.devices", what));
        }
        let mut devices = Devices { default_allow: false, rules: Vec::with_capacity(rules.len() + IMPLICIT.len()) };
        for (i, rule) in rules.iter().enumerate() {
            let field = |name| format!("linux.resources.devices[{i}].{name}");
            let number = |value: Option<i64>, name| match value {
                None | Some(-1) => Ok(None),
                Some(n) => u32::try_from(n)
                    .map(Some)
                    .map_err(|_| Error::invalid(field(name), format_args!("no device number: {n}"))),
            };
            let (major, minor) = (number(rule.major, "major")?, number(rule.minor, "minor")?);
            let mut access = 0;
            for letter in rule.access.chars() {
                access |= match letter {
                    'r' => READ,
                    'w' => WRITE,
                    'm' => MKNOD,
                    _ => return Err(Error::invalid(field("access"), format_args!("unknown access {letter:?}"))),
                };
            }
            let any_kind = matches!(rule.r#type.as_str(), "a" | "");
            if access == 0 {
                return Err(Error::invalid(field("access"), "cannot be empty"));
            }
            let kinds: &[Kind] = match rule.r#type.as_str() {
                "b" => &[Kind::Block],
                "c" => &[Kind::Char],
                "a" | "" => &[Kind::Block, Kind::Char],
                other => return Err(Error::invalid(field("type"), format_args!("unknown device type {other:?}"))),
            };
            if any_kind && major.is_none() && minor.is_none() && access == ALL {
                devices.default_allow = rule.allow;
                devices.rules.clear();
            } else {
                devices.rules.extend(kinds.iter().map(|&kind| Rule { allow: rule.allow, kind, major, minor, access }));
            }
        }
        if !(devices.default_allow && devices.rules.is_empty()) {
            devices.rules.extend(IMPLICIT);
        }
        Ok(devices)
    }

    /// Whether everything is allowed, so that no filter is needed.
    pub fn unrestricted(&self) -> bool {
        self.default_allow && self.rules.is_empty()
    }

    /// The writes that bring a v1 cgroup from any state to this one: `(file, entry)`.
    ///
    /// # Errors
    /// `Unsupported` where a rule takes away a part of what a wildcard gave: a v1 list has no exceptions to exceptions.
    pub fn v1(&self) -> Result<Vec<(&'static str, String)>> {
        let mut list: Vec<Rule> = Vec::new();
        for rule in &self.rules {
            if rule.allow == self.default_allow {
                for held in &mut list {
                    if held.access & rule.access != 0 && covers(rule, held) {
                        held.access &= !rule.access;
                    } else if held.access & rule.access != 0 && overlaps(rule, held) {
                        return Err(Error::unsupported(
                            "linux.resources.devices",
                            format_args!("cgroup v1 cannot make an exception {} to {}", entry(rule), entry(held)),
                        ));
                    }
                }
            } else if let Some(held) =
                list.iter_mut().find(|h| (h.kind, h.major, h.minor) == (rule.kind, rule.major, rule.minor))
            {
                held.access |= rule.access;
            } else {
                list.push(*rule);
            }
        }
        let (first, then) =
            if self.default_allow { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
        let mut writes = Vec::with_capacity(list.len() + 1);
        writes.push((first, "a".to_owned()));
        writes.extend(list.iter().filter(|r| r.access != 0).map(|r| (then, entry(r))));
        Ok(writes)
    }

    /// The filter for a v2 cgroup (kernel 4.15): 1 allows, 0 refuses with EPERM.
    ///
    /// Rules are asked from the last to the first, which makes the last one win. Neighbours that say the same about
    /// the same accesses are asked together, by kind, major and minor number, and share their verdict: the kernel's
    /// verifier then takes 70 us for the usual rules, where a test and a verdict for each rule takes it 270.
    pub fn program(&self) -> Vec<Insn> {
        let mut code = vec![
            load(KIND, 0),
            alu(AND, KIND, 0xffff),
            load(ACCESSES, 0),
            alu(RIGHT, ACCESSES, 16),
            load(MAJOR, 4),
            load(MINOR, 8),
        ];
        for run in self.rules.chunk_by(|a, b| (a.allow, a.access) == (b.allow, b.access)).rev() {
            let Some(&Rule { allow, access, .. }) = run.first() else { continue };
            if access == ALL && matches_all(run) {
                // The verifier refuses code that nothing leads to.
                code.extend([set(RESULT, allow.into()), EXIT]);
                return code;
            }
            let start = code.len();
            matches(run, &mut code);
            let hit = code.len();
            match (allow, access) {
                (_, ALL) => {}
                // Strike what is granted; go on while something is left to ask for.
                (true, _) => {
                    code.extend([alu(AND, ACCESSES, (!access & ALL).into()), branch(NOT_EQUAL, ACCESSES, 0, NEXT)])
                }
                (false, _) => code.extend([
                    copy(RESULT, ACCESSES),
                    alu(AND, RESULT, access.into()),
                    branch(EQUAL, RESULT, 0, NEXT),
                ]),
            }
            code.extend([set(RESULT, allow.into()), EXIT]);
            let next = code.len();
            for (i, insn) in code.iter_mut().enumerate().skip(start) {
                match insn.offset {
                    HIT => insn.offset = distance(i, hit),
                    NEXT => insn.offset = distance(i, next),
                    _ => {}
                }
            }
        }
        code.extend([set(RESULT, self.default_allow.into()), EXIT]);
        code
    }
}

fn matches_all(rules: &[Rule]) -> bool {
    let whole = |kind| rules.iter().any(|r| r.kind == kind && r.major.is_none() && r.minor.is_none());
    whole(Kind::Char) && whole(Kind::Block)
}

/// Code that goes to HIT, or falls through to it, when the device is one of the rules', and else to NEXT.
fn matches(rules: &[Rule], code: &mut Vec<Insn>) {
    if matches_all(rules) {
        return;
    }
    for kind in [Kind::Char, Kind::Block] {
        let mut rules: Vec<&Rule> = rules.iter().filter(|r| r.kind == kind).collect();
        if rules.is_empty() {
            continue;
        }
        // Rules for any major come first, since of the others only one major's are asked.
        rules.sort_by_key(|r| (r.major, r.minor));
        let kind_test = code.len();
        code.push(branch(NOT_EQUAL, KIND, kind as u32, 0));
        if rules.first().is_some_and(|r| r.major.is_none() && r.minor.is_none()) {
            code.push(go(HIT));
            land(code, kind_test);
            continue;
        }
        for same_major in rules.chunk_by(|a, b| a.major == b.major) {
            let Some(Rule { major, minor, .. }) = same_major.first() else { continue };
            match (major, minor) {
                (None, None) => {}
                (Some(n), None) => code.push(branch(EQUAL, MAJOR, *n, HIT)),
                (major, Some(_)) => {
                    let major_test = code.len();
                    code.extend(major.map(|n| branch(NOT_EQUAL, MAJOR, n, 0)));
                    code.extend(same_major.iter().filter_map(|r| r.minor).map(|n| branch(EQUAL, MINOR, n, HIT)));
                    if major.is_some() {
                        code.push(go(NEXT));
                        land(code, major_test);
                    }
                }
            }
        }
        code.push(go(NEXT));
        land(code, kind_test);
    }
    // Neither kind: there is no such device.
    code.push(go(NEXT));
}

/// Makes the jump at `from` lead to what is written next.
fn land(code: &mut [Insn], from: usize) {
    let to = code.len();
    if let Some(insn) = code.get_mut(from) {
        insn.offset = distance(from, to);
    }
}

/// Whether every device of `b` is one of `a`.
fn covers(a: &Rule, b: &Rule) -> bool {
    a.kind == b.kind && (a.major.is_none() || a.major == b.major) && (a.minor.is_none() || a.minor == b.minor)
}

/// Whether some device is in both.
fn overlaps(a: &Rule, b: &Rule) -> bool {
    let meets = |x: Option<u32>, y: Option<u32>| x.is_none() || y.is_none() || x == y;
    a.kind == b.kind && meets(a.major, b.major) && meets(a.minor, b.minor)
}

/// `c 1:3 rwm`, as v1's devices.allow takes it.
fn entry(rule: &Rule) -> String {
    let mut text = String::from(if rule.kind == Kind::Block { "b " } else { "c " });
    for (number, end) in [(rule.major, ':'), (rule.minor, ' ')] {
        match number {
            Some(n) => text.push_str(&n.to_string()),
            None => text.push('*'),
        }
        text.push(end);
    }
    text.extend(
        [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| rule.access & bit != 0).map(|b| b.1),
    );
    text
}

// Registers: the context comes in 1; the result leaves in 0.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESSES: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const LOAD32: u8 = 0x61; // BPF_LDX | BPF_W | BPF_MEM
const ALU32: u8 = 0x04; // with an immediate operand
const FROM_REGISTER: u8 = 0x08;
const JUMP32: u8 = 0x06; // BPF_JMP32 (5.1) with an immediate operand
const JUMP: u8 = 0x05; // BPF_JMP | BPF_JA
const AND: u8 = 0x50;
const RIGHT: u8 = 0x70;
const MOVE: u8 = 0xb0;
const EQUAL: u8 = 0x10;
const NOT_EQUAL: u8 = 0x50;
const EXIT: Insn = Insn { code: 0x95, registers: 0, offset: 0, immediate: 0 };

const fn load(to: u8, offset: i16) -> Insn {
    Insn { code: LOAD32, registers: CONTEXT << 4 | to, offset, immediate: 0 }
}

const fn alu(operation: u8, register: u8, operand: u32) -> Insn {
    Insn { code: ALU32 | operation, registers: register, offset: 0, immediate: operand as i32 }
}

const fn set(register: u8, value: u32) -> Insn {
    alu(MOVE, register, value)
}

const fn copy(to: u8, from: u8) -> Insn {
    Insn { code: ALU32 | MOVE | FROM_REGISTER, registers: from << 4 | to, offset: 0, immediate: 0 }
}

const fn branch(condition: u8, register: u8, operand: u32, to: i16) -> Insn {
    Insn { code: JUMP32 | condition, registers: register, offset: to, immediate: operand as i32 }
}

const fn go(to: i16) -> Insn {
    Insn { code: JUMP, registers: 0, offset: to, immediate: 0 }
}

/// Stands for a distance that is known later; jumps never lead back.
const HIT: i16 = -1;
const NEXT: i16 = -2;

/// [`MAX_RULES`] keeps it in range: a rule takes three instructions at most, and jumps stay within neighbours.
const fn distance(from: usize, to: usize) -> i16 {
    (to - from - 1) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cheap generator of numbers, so that a failure repeats.
    struct Random(u64);
    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % n
        }
    }

    fn rule(text: &str) -> DeviceRule {
        let mut words = text.split(' ');
        let (allow, kind) = (words.next() == Some("allow"), words.next().unwrap());
        let (major, minor) = words.next().unwrap().split_once(':').unwrap();
        let number = |n: &str| (n != "*").then(|| n.parse().unwrap());
        DeviceRule {
            allow,
            r#type: kind.into(),
            major: number(major),
            minor: number(minor),
            access: words.next().unwrap_or_default().into(),
        }
    }

    fn devices(rules: &[&str]) -> Devices {
        Devices::new(&rules.iter().map(|r| rule(r)).collect::<Vec<_>>()).unwrap()
    }

    /// What the rules mean, said in the shortest way.
    fn meaning(d: &Devices, kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        [MKNOD, READ, WRITE].iter().filter(|bit| access & **bit != 0).all(|bit| {
            let matches = |r: &&Rule| {
                r.kind == kind
                    && r.access & bit != 0
                    && r.major.is_none_or(|n| n == major)
                    && r.minor.is_none_or(|n| n == minor)
            };
            d.rules.iter().rev().find(matches).map_or(d.default_allow, |r| r.allow)
        })
    }

    /// The kernel's semantics of the instructions that we use.
    fn run(program: &[Insn], context: [u32; 3]) -> bool {
        let (mut r, mut at) = ([0u32; 11], 0usize);
        loop {
            let i = program[at];
            let (to, from, operand) = ((i.registers & 15) as usize, (i.registers >> 4) as usize, i.immediate as u32);
            at += 1;
            match i.code {
                0x61 => r[to] = context[i.offset as usize / 4],
                0x54 => r[to] &= operand,
                0x74 => r[to] >>= operand,
                0xb4 => r[to] = operand,
                0xbc => r[to] = r[from],
                0x16 if r[to] == operand => at += i.offset as usize,
                0x56 if r[to] != operand => at += i.offset as usize,
                0x16 | 0x56 => {}
                0x05 => at += i.offset as usize,
                0x95 => return r[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// How many instructions some path leads to; the kernel wants that to be all.
    fn reached(program: &[Insn]) -> usize {
        let (mut seen, mut todo) = (vec![false; program.len()], vec![0]);
        while let Some(at) = todo.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let jump = at + 1 + program[at].offset as usize;
            match program[at].code {
                0x95 => {}
                0x05 => todo.push(jump),
                0x16 | 0x56 => todo.extend([at + 1, jump]),
                _ => todo.push(at + 1),
            }
        }
        seen.iter().filter(|s| **s).count()
    }

    #[test]
    fn the_program_means_what_the_rules_mean() {
        let mut random = Random(7);
        for _ in 0..3000 {
            let rules: Vec<DeviceRule> = (0..random.below(9))
                .map(|_| DeviceRule {
                    allow: random.below(2) == 0,
                    r#type: ["a", "b", "c", "c", "b", ""][random.below(6) as usize].into(),
                    major: (random.below(3) > 0).then(|| random.below(3) as i64),
                    minor: (random.below(3) > 0).then(|| random.below(3) as i64),
                    access: ["rwm", "rw", "r", "w", "m", "rm"][random.below(6) as usize].into(),
                })
                .collect();
            let d = Devices::new(&rules).unwrap();
            let program = d.program();
            assert_eq!(reached(&program), program.len(), "{rules:?}: code that nothing leads to");
            for _ in 0..60 {
                let kind = if random.below(2) == 0 { Kind::Block } else { Kind::Char };
                let (major, minor, access) =
                    (random.below(4) as u32, random.below(4) as u32, random.below(7) as u8 + 1);
                assert_eq!(
                    run(&program, [u32::from(access) << 16 | kind as u32, major, minor]),
                    meaning(&d, kind, major, minor, access),
                    "{rules:?}: {kind:?} {major}:{minor} {access}"
                );
            }
        }
    }

    #[test]
    fn the_longest_list_still_has_its_jumps_in_range() {
        let rules: Vec<DeviceRule> = (0..MAX_RULES).map(|n| rule(&format!("allow a {n}:{n} rw"))).collect();
        let program = Devices::new(&rules).unwrap().program();
        assert!(program.iter().all(|i| i.offset >= 0));
        let read = u32::from(READ) << 16;
        assert!(run(&program, [read | 2, 2047, 2047]));
        assert!(!run(&program, [read | 2, 2047, 2046]));
        assert!(Devices::new(&[rules.as_slice(), &[rule("allow c 1:1 r")]].concat()).is_err());
    }

    #[test]
    fn the_usual_list_denies_all_but_the_implicit_devices() {
        let d = devices(&["deny a *:* rwm"]);
        for (kind, major, minor, access, want) in [
            (Kind::Char, 1, 3, READ | WRITE, true),
            (Kind::Char, 136, 77, ALL, true),
            (Kind::Char, 10, 200, READ | WRITE, true),
            (Kind::Char, 1, 1, READ, false),
            (Kind::Char, 1, 1, MKNOD, true),
            (Kind::Block, 8, 0, READ, false),
            (Kind::Block, 8, 0, MKNOD | READ, false),
            (Kind::Block, 8, 0, MKNOD, true),
        ] {
            assert_eq!(run(&d.program(), [u32::from(access) << 16 | kind as u32, major, minor]), want);
        }
        let v1 = d.v1().unwrap();
        assert_eq!(v1[0], ("devices.deny", "a".into()));
        let allowed: Vec<_> = v1[1..].iter().map(|(file, entry)| (*file, entry.as_str())).collect();
        // The list that runc leaves in devices.list for the same configuration.
        assert_eq!(
            allowed,
            [
                "c *:* m",
                "b *:* m",
                "c 1:3 rwm",
                "c 1:5 rwm",
                "c 1:7 rwm",
                "c 1:8 rwm",
                "c 1:9 rwm",
                "c 5:0 rwm",
                "c 5:2 rwm",
                "c 10:200 rwm",
                "c 136:* rwm"
            ]
            .map(|e| ("devices.allow", e))
        );
        assert_eq!(devices(&[]), d);
    }

    #[test]
    fn a_privileged_container_needs_no_filter() {
        let d = devices(&["deny a *:* rwm", "allow c 1:1 r", "allow a *:* rwm"]);
        assert!(d.unrestricted());
        assert_eq!(d.v1().unwrap(), [("devices.allow", "a".to_owned())]);
    }

    #[test]
    fn a_v1_list_merges_removes_and_says_what_it_cannot_express() {
        let list = |rules: &[&str]| devices(rules).v1().map(|w| w[1..].iter().map(|w| w.1.clone()).collect::<Vec<_>>());
        assert_eq!(list(&["allow b 8:0 r", "allow b 8:0 w"]).unwrap()[0], "b 8:0 rw");
        assert_eq!(list(&["allow b 8:0 rw", "deny b 8:0 w"]).unwrap()[0], "b 8:0 r");
        assert_eq!(list(&["allow b 8:0 rw", "deny b *:* rwm"]).unwrap()[0], "c *:* m");
        assert_eq!(list(&["allow a *:* rwm", "deny b 8:0 rwm"]).unwrap(), ["b 8:0 rw"]);
        let e = list(&["allow b 8:* rw", "deny b 8:0 w"]).unwrap_err().to_string();
        assert!(e.contains("exception b 8:0 w to b 8:* rw"), "{e}");
    }

    #[test]
    fn odd_rules_are_refused_with_their_place() {
        for (text, want) in [
            ("allow p 1:3 rwm", "linux.resources.devices[0].type: unknown device type \"p\""),
            ("allow u 1:3 r", "linux.resources.devices[0].type: unknown device type \"u\""),
            ("allow c 1:3 rx", "linux.resources.devices[0].access: unknown access 'x'"),
            ("allow c 1:3", "linux.resources.devices[0].access: cannot be empty"),
            ("allow c -2:3 r", "linux.resources.devices[0].major: no device number: -2"),
            ("allow c 1:4294967296 r", "linux.resources.devices[0].minor: no device number: 4294967296"),
        ] {
            assert_eq!(Devices::new(&[rule(text)]).unwrap_err().to_string(), want);
        }
    }
}
