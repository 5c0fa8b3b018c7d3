//! Signals by name.

/// Names by number, from 1; x86-64, aarch64, riscv64, s390x and powerpc64 number them alike (signal(7)).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// glibc keeps the first two real-time signals for itself, so its SIGRTMIN is 34; SIGRTMAX is the kernel's last.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of `15`, `TERM`, `SIGTERM`, `sigterm`, `RTMIN+1` or `RTMAX-1`.
pub(super) fn number(text: &str) -> Option<i32> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().filter(|n| (0..=RTMAX).contains(n));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        None if rest.is_empty() => Some(0),
        Some(digits) if digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<i32>().ok(),
        _ => None,
    };
    let real_time = |n: i32| (RTMIN..=RTMAX).contains(&n).then_some(n);
    match name {
        "IOT" => Some(6),
        "POLL" => Some(29),
        _ => {
            if let Some(rest) = name.strip_prefix("RTMIN") {
                return real_time(RTMIN + offset(rest, '+')?);
            }
            if let Some(rest) = name.strip_prefix("RTMAX") {
                return real_time(RTMAX - offset(rest, '-')?);
            }
            NAMES.iter().position(|known| *known == name).and_then(|at| i32::try_from(at + 1).ok())
        }
    }
}

/// The names without `SIG`, for completions.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter()
}
