//! Signals by number and name, and those that rustix does not send.

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;

use crate::raw::{nr, syscall};

/// The first real-time signal that programs may use: glibc keeps 32 and 33 for its threads.
const RTMIN: i32 = 34;
/// The last signal that there is.
const RTMAX: i32 = 64;

/// The names of signals 1 to 31 (asm-generic/signal.h: x86, ARM and RISC-V alike).
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// pidfd_send_signal(2) (kernel 5.1), with any number: 0 asks only whether the process is there, and the kernel
/// refuses what is no signal with `EINVAL`.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the third argument, the only pointer, is null, for which the kernel fills in the information itself.
    unsafe { syscall(nr::__NR_pidfd_send_signal, [fd as usize, signal as usize, 0, 0, 0, 0]) }.map(|_| ())
}

/// `SIGTERM` for 15. Real-time signals have no name of their own.
pub fn name_of(signal: i32) -> &'static str {
    let standard = usize::try_from(signal).ok().and_then(|n| n.checked_sub(1)).and_then(|n| NAMES.get(n));
    standard.copied().unwrap_or("a real-time signal")
}

/// The number of `TERM`, `SIGTERM` or `sigterm`, of `RTMIN+n` and `RTMAX-n`, and of the aliases `CLD`, `IOT` and
/// `POLL`.
pub fn number_of(name: &str) -> Option<i32> {
    let name = match name.split_at_checked(3) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("SIG") => rest,
        _ => name,
    };
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    if let Some(at) = NAMES.iter().position(|known| known.get(3..).is_some_and(is)) {
        return i32::try_from(at + 1).ok();
    }
    match name.split_at_checked(5) {
        _ if is("IOT") => Some(6),
        _ if is("CLD") => Some(17),
        _ if is("POLL") => Some(29),
        Some((base, offset)) if base.eq_ignore_ascii_case("RTMIN") => real_time(RTMIN, '+', offset),
        Some((base, offset)) if base.eq_ignore_ascii_case("RTMAX") => real_time(RTMAX, '-', offset),
        _ => None,
    }
}

fn real_time(base: i32, sign: char, offset: &str) -> Option<i32> {
    let distance = match offset.strip_prefix(sign) {
        None if offset.is_empty() => 0,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    let number = if sign == '+' { base.checked_add(distance)? } else { base.checked_sub(distance)? };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_one_number_however_it_is_written() {
        for (name, number) in [
            ("TERM", Some(15)),
            ("SIGTERM", Some(15)),
            ("sigterm", Some(15)),
            ("Kill", Some(9)),
            ("HUP", Some(1)),
            ("SYS", Some(31)),
            ("STKFLT", Some(16)),
            ("CLD", Some(17)),
            ("SIGIOT", Some(6)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("rtmax-1", Some(63)),
            ("RTMAX", Some(64)),
            ("RTMIN+31", None),
            ("RTMIN-1", None),
            ("RTMIN+", None),
            ("RTMIN+99999999999", None),
            ("RTMAX-31", None),
            ("", None),
            ("SIG", None),
            ("FOO", None),
            ("SIGSIGTERM", None),
            ("TERM ", None),
            ("é", None),
        ] {
            assert_eq!(number_of(name), number, "{name}");
        }
        for number in 1..32 {
            assert_eq!(number_of(name_of(number)), Some(number));
        }
        for number in [i32::MIN, -1, 0, 32, 64, 65, i32::MAX] {
            assert_eq!(name_of(number), "a real-time signal");
        }
    }
}
