//! A filter's decisions as BPF instructions.
//!
//! Jumps only go forward, so the program is written from its end: the place that a jump leads to is always known
//! already. A [`Label`] counts instructions from the end.

use orlop_sys::seccomp::Instruction;

use super::rules::{Condition, Op, Rule};

/// `BPF_LD | BPF_W | BPF_ABS`: load a word of `struct seccomp_data`.
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`.
const GREATER: u16 = 0x25;
/// `BPF_JMP | BPF_JGE | BPF_K`.
const GREATER_EQUAL: u16 = 0x35;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// How far a conditional jump reaches.
const REACH: usize = 255;
/// More instructions than are ever written between choosing a label and the last jump to it: one rule has at most six
/// conditions of at most six instructions.
const NEAR: usize = REACH - 64;

/// A place in the program: the length of the program from there on.
#[derive(Clone, Copy)]
pub(super) struct Label(usize);

/// The start of a rule, or what follows the last one.
#[derive(Clone, Copy)]
struct Entry {
    /// Where to go with anything in the accumulator; `None` while nobody needs to.
    label: Option<Label>,
    /// Where to go with this word of `struct seccomp_data` in the accumulator.
    loaded: Option<(u32, Label)>,
}

impl Entry {
    fn with(self, word: u32) -> Label {
        match self.loaded {
            Some((wanted, label)) if wanted == word => label,
            _ => self.without(),
        }
    }

    fn without(self) -> Label {
        self.label.or(self.loaded.map(|(_, label)| label)).unwrap_or(Label(0))
    }
}

/// What happens to the system calls from one number on, up to the next range's start.
pub(super) struct Range<'a> {
    pub(super) start: u32,
    pub(super) verdict: Verdict<'a>,
}

/// What happens to a system call.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Verdict<'a> {
    /// It gets this action, a `SECCOMP_RET_*` with its data.
    Return(u32),
    /// The first rule that matches decides, else the default action.
    Rules(&'a [Rule], Width),
}

/// How much of an argument is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    /// The low word.
    Word,
    /// All 64 bits.
    Double,
}

/// A program under construction, last instruction first.
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    /// The nearest return of each action.
    returns: Vec<(u32, Label)>,
    default: u32,
}

impl Assembler {
    pub(super) fn new(default: u32) -> Self {
        Self { reversed: Vec::with_capacity(1024), returns: Vec::new(), default }
    }

    /// The program, first instruction first.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    /// Looks the system call up in the ranges. They are in order and the first starts at 0.
    pub(super) fn section(&mut self, ranges: &[Range<'_>]) -> Label {
        let tree = self.tree(ranges);
        if self.distance(tree) > 0 {
            self.jump(tree);
        }
        self.load(NR)
    }

    /// Chooses a section by the architecture that the kernel reports (`AUDIT_ARCH_*`).
    pub(super) fn dispatch(&mut self, sections: &[(u32, Label)], otherwise: u32) {
        let mut next = self.action(otherwise);
        for (arch, section) in sections.iter().rev() {
            let section = self.near(*section);
            next = self.branch(EQUAL, *arch, section, next);
        }
        self.load(ARCH);
    }

    /// A balanced binary tree.
    fn tree(&mut self, ranges: &[Range<'_>]) -> Label {
        match ranges {
            [] => self.action(self.default),
            [range] => self.verdict(range.verdict),
            [before, one, after] if before.verdict == after.verdict && after.start == one.start.wrapping_add(1) => {
                let (other, this) = (self.verdict(before.verdict), self.verdict(one.verdict));
                let (other, this) = (self.near(other), self.near(this));
                self.branch(EQUAL, one.start, this, other)
            }
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let at = high.first().map_or(0, |range| range.start);
                let (high, low) = (self.tree(high), self.tree(low));
                let (high, low) = (self.near(high), self.near(low));
                self.branch(GREATER_EQUAL, at, high, low)
            }
        }
    }

    fn verdict(&mut self, verdict: Verdict<'_>) -> Label {
        match verdict {
            Verdict::Return(action) => self.action(action),
            Verdict::Rules(rules, width) => {
                let default = self.action(self.default);
                let mut next = Entry { label: Some(default), loaded: None };
                for rule in rules.iter().rev() {
                    next = self.rule(rule, width, next);
                }
                self.entered(&mut next)
            }
        }
    }

    /// Returns the rule's action if all conditions hold, else goes to `next`.
    fn rule(&mut self, rule: &Rule, width: Width, mut next: Entry) -> Entry {
        // The next rule may find its first word loaded already: in a list of values for one argument all rules do.
        if next.loaded.is_none_or(|(word, _)| leaves_word(rule, width) != Some(word)) {
            self.entered(&mut next);
        }
        let action = self.action(rule.action);
        let mut start = Entry { label: Some(action), loaded: None };
        for condition in rule.conditions.iter().rev() {
            let matched = self.entered(&mut start);
            start = self.condition(condition, width, matched, next);
        }
        start
    }

    /// Goes to `yes` if the condition holds, else to `no`.
    fn condition(&mut self, condition: &Condition, width: Width, yes: Label, no: Entry) -> Entry {
        let Condition { arg, op, mask, value } = *condition;
        let (low, high) = (low_word(arg), low_word(arg) + 4);
        let ([mask_low, mask_high], [value_low, value_high]) = (words(mask), words(value));
        if op == Op::MaskedEq {
            return match width {
                Width::Double if mask_high != 0 && mask_low != 0 => {
                    let mut equal = self.masked(low, mask_low, value_low, yes, no);
                    let equal = self.entered(&mut equal);
                    self.masked(high, mask_high, value_high, equal, no)
                }
                Width::Double if mask_high != 0 => self.masked(high, mask_high, value_high, yes, no),
                _ => self.masked(low, mask_low, value_low, yes, no),
            };
        }
        // Every operator is one of three tests, or the opposite of one.
        let (test, inverted) = match op {
            Op::Eq | Op::MaskedEq => (EQUAL, false),
            Op::Ne => (EQUAL, true),
            Op::Gt => (GREATER, false),
            Op::Le => (GREATER, true),
            Op::Ge => (GREATER_EQUAL, false),
            Op::Lt => (GREATER_EQUAL, true),
        };
        let sides = |no: Label| if inverted { (no, yes) } else { (yes, no) };
        let (if_so, if_not) = sides(no.with(low));
        let decided = self.branch(test, value_low, if_so, if_not);
        if width == Width::Word {
            return Entry { label: None, loaded: Some((low, decided)) };
        }
        let low = self.load(low);
        let (if_so, if_not) = sides(no.with(high));
        let mut decided = self.branch(EQUAL, value_high, low, if_not);
        if test != EQUAL {
            decided = self.branch(GREATER, value_high, if_so, decided);
        }
        Entry { label: None, loaded: Some((high, decided)) }
    }

    fn masked(&mut self, word: u32, mask: u32, value: u32, yes: Label, no: Entry) -> Entry {
        if mask == u32::MAX {
            let decided = self.branch(EQUAL, value, yes, no.with(word));
            return Entry { label: None, loaded: Some((word, decided)) };
        }
        self.branch(EQUAL, value, yes, no.without());
        Entry { label: None, loaded: Some((word, self.push(AND, 0, 0, mask))) }
    }

    /// Makes sure that the place can be reached with any word in the accumulator.
    fn entered(&mut self, entry: &mut Entry) -> Label {
        match (entry.label, entry.loaded) {
            (Some(label), _) => label,
            (None, Some((word, _))) => *entry.label.insert(self.load(word)),
            (None, None) => *entry.label.insert(self.action(self.default)),
        }
    }

    /// A return of this action within reach of whatever is written next.
    fn action(&mut self, action: u32) -> Label {
        let known = self.returns.iter().position(|(of, _)| *of == action);
        if let Some((_, label)) = known.and_then(|at| self.returns.get(at))
            && self.distance(*label) < NEAR
        {
            return *label;
        }
        let label = self.push(RETURN, 0, 0, action);
        match known.and_then(|at| self.returns.get_mut(at)) {
            Some(entry) => entry.1 = label,
            None => self.returns.push((action, label)),
        }
        label
    }

    /// The same place, through an unconditional jump if it is far.
    fn near(&mut self, label: Label) -> Label {
        if self.distance(label) < NEAR { label } else { self.jump(label) }
    }

    fn jump(&mut self, label: Label) -> Label {
        let distance = self.distance(label);
        self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX))
    }

    fn load(&mut self, offset: u32) -> Label {
        self.push(LOAD, 0, 0, offset)
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let (yes, no) = (self.distance(yes), self.distance(no));
        debug_assert!(yes <= REACH && no <= REACH);
        self.push(code, u8::try_from(yes).unwrap_or(u8::MAX), u8::try_from(no).unwrap_or(u8::MAX), k)
    }

    /// How many instructions lie between the next one to be written and the label.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len().saturating_sub(label.0)
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        Label(self.reversed.len())
    }
}

fn low_word(arg: u8) -> u32 {
    ARGS + 8 * u32::from(arg)
}

/// The word that is in the accumulator wherever the rule fails, if it is always the same.
fn leaves_word(rule: &Rule, width: Width) -> Option<u32> {
    match rule.conditions.as_slice() {
        [one] if width == Width::Word && (one.op != Op::MaskedEq || one.mask == u64::from(u32::MAX)) => {
            Some(low_word(one.arg))
        }
        _ => None,
    }
}

/// The low and the high word.
fn words(value: u64) -> [u32; 2] {
    let low = u32::try_from(value & 0xffff_ffff).unwrap_or_default();
    [low, u32::try_from(value >> 32).unwrap_or_default()]
}
