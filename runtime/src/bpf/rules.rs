//! The rules of a profile: their words, and which of several rules for one system call decides.

use std::cmp::Ordering;
use std::fmt::Display;

use super::assemble::Width;
use crate::config::SyscallArg;
use crate::error::{Error, Result};

/// `SECCOMP_RET_KILL_THREAD`: also what a system call of an architecture that the profile does not name gets.
pub(super) const KILL_THREAD: u32 = 0;
const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
/// `SECCOMP_RET_USER_NOTIF`.
pub(super) const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

const EPERM: u32 = 1;
/// An error of 38, "function not implemented".
pub(super) const ENOSYS: u32 = ERRNO | 38;

/// The names of the actions, as `features` lists them.
pub const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// The names of the operators, as `features` lists them.
pub const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

/// A comparison of an argument with a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    MaskedEq,
}

/// One of `linux.seccomp.syscalls[].args`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which argument, 0 to 5.
    pub(super) arg: u8,
    pub(super) op: Op,
    /// [`Op::MaskedEq`] only; all ones otherwise.
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// All conditions must hold; they are for different arguments, in the arguments' order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    /// A `SECCOMP_RET_*` with its data.
    pub(super) action: u32,
    /// Its index in `linux.seccomp.syscalls`.
    pub(super) source: usize,
}

/// The action of that name as the kernel takes it. `errno` is `errnoRet` or `defaultErrnoRet`, EPERM if absent.
pub(super) fn action(name: &str, errno: Option<u32>, field: impl Display, errno_field: impl Display) -> Result<u32> {
    let action = match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        "SCMP_ACT_TRACE" => TRACE,
        "SCMP_ACT_TRAP" => TRAP,
        _ => return Err(Error::invalid(field, format_args!("unknown action {name:?}"))),
    };
    match errno {
        // The kernel would return MAX_ERRNO instead.
        Some(4096..) if action == ERRNO => Err(Error::invalid(errno_field, "larger than 4095")),
        // `SECCOMP_RET_DATA` has 16 bits.
        Some(0x1_0000..) if action == TRACE => Err(Error::invalid(errno_field, "larger than 65535")),
        Some(errno) if matches!(action, ERRNO | TRACE) => Ok(action | errno),
        // config-linux.md: "When the action doesn't support an errno, the runtime MUST print and error and fail."
        Some(_) => Err(Error::invalid(errno_field, format_args!("{name} takes no errno"))),
        None if matches!(action, ERRNO | TRACE) => Ok(action | EPERM),
        None => Ok(action),
    }
}

/// Whether a system call that is newer than the profile gets the default action. It gets ENOSYS where the default
/// refuses: a C library falls back to an older call then, while EPERM would be final. A tracer answers for itself.
pub(super) fn is_permissive(action: u32) -> bool {
    matches!(action & 0xffff_0000, ALLOW | LOG | TRACE)
}

/// The conditions of one entry of the profile, as alternatives. Conditions for different arguments must all hold; as
/// soon as two are for the same argument, each condition of the entry is an alternative of its own (runc).
pub(super) fn alternatives(args: &[SyscallArg], field: impl Fn() -> String) -> Result<Vec<Vec<Condition>>> {
    let mut conditions = Vec::with_capacity(args.len());
    let mut seen = [false; 6];
    let mut repeated = false;
    for (i, arg) in args.iter().enumerate() {
        let op = match arg.op.as_str() {
            "SCMP_CMP_EQ" => Op::Eq,
            "SCMP_CMP_NE" => Op::Ne,
            "SCMP_CMP_LT" => Op::Lt,
            "SCMP_CMP_LE" => Op::Le,
            "SCMP_CMP_GT" => Op::Gt,
            "SCMP_CMP_GE" => Op::Ge,
            "SCMP_CMP_MASKED_EQ" => Op::MaskedEq,
            op => {
                return Err(Error::invalid(
                    format_args!("{}.args[{i}].op", field()),
                    format_args!("unknown operator {op:?}"),
                ));
            }
        };
        let index = usize::try_from(arg.index).unwrap_or(usize::MAX);
        let Some(seen) = seen.get_mut(index) else {
            let field = format_args!("{}.args[{i}].index", field()).to_string();
            return Err(Error::invalid(field, format_args!("{index} is not an argument, these are 0 to 5")));
        };
        repeated |= std::mem::replace(seen, true);
        let (mask, value) = match op {
            Op::MaskedEq => (arg.value, arg.value_two & arg.value),
            _ => (u64::MAX, arg.value),
        };
        conditions.push(Condition { arg: u8::try_from(index).unwrap_or(u8::MAX), op, mask, value });
    }
    if repeated {
        return Ok(conditions.into_iter().map(|condition| vec![condition]).collect());
    }
    conditions.sort_by_key(|condition| condition.arg);
    Ok(vec![conditions])
}

/// The conditions as they are for a width: a 32-bit architecture compares low words only. Conditions that always hold
/// are left out.
pub(super) fn narrowed(conditions: &[Condition], width: Width) -> impl Iterator<Item = Condition> {
    let bits = match width {
        Width::Word => u64::from(u32::MAX),
        Width::Double => u64::MAX,
    };
    conditions
        .iter()
        .map(move |c| Condition { mask: c.mask & bits, value: c.value & bits, ..*c })
        .filter(|c| c.op != Op::MaskedEq || c.mask != 0)
}

/// The rules of one system call on one architecture, in the order in which they are tried. While all have the same
/// action any order will do. Otherwise it is libseccomp's, as far as it has one: what is more specific comes first, and
/// an exception to an earlier rule is ignored. An error is the entry of the profile that says otherwise under the very
/// conditions of an earlier one. libseccomp also refuses a general rule after its exception; here the exception stands,
/// because engines do write that: an argument of `socket` is none of `socketcall`, which makes a rule general.
pub(super) fn ordered(rules: Vec<Rule>, width: Width) -> std::result::Result<Vec<Rule>, usize> {
    if rules.windows(2).all(|pair| matches!(pair, [a, b] if a.action == b.action)) {
        return Ok(rules);
    }
    let mut ordered: Vec<Rule> = Vec::with_capacity(rules.len());
    'rules: for rule in rules {
        for earlier in ordered.iter().filter(|earlier| earlier.action != rule.action) {
            if rule.conditions.len() > earlier.conditions.len() && rule.conditions.starts_with(&earlier.conditions) {
                continue 'rules;
            }
            if earlier.conditions == rule.conditions {
                return Err(rule.source);
            }
        }
        let less_specific = |other: &Rule| specificity(&rule, other, width) == Ordering::Greater;
        let at = ordered.iter().position(less_specific).unwrap_or(ordered.len());
        ordered.insert(at, rule);
    }
    Ok(ordered)
}

/// Greater is more specific: conditions on later arguments, equality before an upper bound before a lower bound, and
/// of the bounds the tighter one.
fn specificity(a: &Rule, b: &Rule, width: Width) -> Ordering {
    for (a, b) in a.conditions.iter().zip(&b.conditions) {
        let class = |op| match op {
            Op::Eq | Op::Ne | Op::MaskedEq => 2,
            Op::Lt | Op::Le => 1,
            Op::Gt | Op::Ge => 0,
        };
        let order = a.arg.cmp(&b.arg).then(class(a.op).cmp(&class(b.op))).then_with(|| match a.op {
            Op::Lt | Op::Le => b.value.cmp(&a.value),
            _ if width == Width::Double => {
                let high = (a.value >> 32).cmp(&(b.value >> 32));
                // The low words are only compared below the same test of the high words.
                if a.mask >> 32 == b.mask >> 32 { high.then(a.value.cmp(&b.value)) } else { high }
            }
            _ => a.value.cmp(&b.value),
        });
        if order != Ordering::Equal || a != b {
            return order;
        }
    }
    Ordering::Equal
}
