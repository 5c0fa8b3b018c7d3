//! Times of the wall clock: as records of a log have them, and as people give them.

use orlop::container::rfc3339;
use orlop_sys::rustix::time::{ClockId, clock_gettime};

/// Since 1970, in UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds.
    pub secs: i64,
    /// And nanoseconds, fewer than a thousand million.
    pub nanos: u32,
}

impl Time {
    /// Now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Realtime);
        Self { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or_default() }
    }

    /// RFC 3339 without trailing zeros in the fraction (Go's RFC3339Nano): `2026-11-21T14:43:33.5Z`.
    pub fn short(self) -> String {
        rfc3339(self.secs, self.nanos.into())
    }

    /// RFC 3339 with all nine digits and the offset, as conmon writes it: `2026-11-21T14:43:33.500000000+00:00`.
    pub fn long(self) -> String {
        let whole = rfc3339(self.secs, 0);
        format!("{}.{:09}+00:00", whole.trim_end_matches('Z'), self.nanos)
    }

    /// Reads an RFC 3339 time. A day without a time, and a time without an offset, which is then UTC, will do.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |range: std::ops::Range<usize>| -> Option<i64> {
            let digits = text.get(range)?;
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let is = |at: usize, any: &[u8]| text.as_bytes().get(at).is_some_and(|b| any.contains(b));
        if !(is(4, b"-") && is(7, b"-")) {
            return None;
        }
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let midnight = days(year, month, day) * 86_400;
        if text.len() == 10 {
            return Some(Self { secs: midnight, nanos: 0 });
        }
        if !(is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
            return None;
        }
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let rest = text.get(19..)?;
        let (nanos, zone) = match rest.strip_prefix('.') {
            Some(rest) => {
                let (digits, zone) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
                (fraction(digits)?, zone)
            }
            None => (0, rest),
        };
        let offset = match zone.as_bytes() {
            b"" | b"Z" | b"z" => 0,
            [sign @ (b'+' | b'-'), a, b, b':', c, d] if [a, b, c, d].iter().all(|b| b.is_ascii_digit()) => {
                let [a, b, c, d] = [a, b, c, d].map(|digit| i64::from(digit - b'0'));
                let seconds = (a * 10 + b) * 3600 + (c * 10 + d) * 60;
                if *sign == b'-' { -seconds } else { seconds }
            }
            _ => return None,
        };
        Some(Self { secs: midnight + hour * 3600 + minute * 60 + second - offset, nanos })
    }

    /// Reads what `--since` takes: an RFC 3339 time, seconds since 1970, or how long before `now` (`10m`, `1h30m`).
    pub fn parse_since(text: &str, now: Self) -> Option<Self> {
        if let Some(nanos) = span(text) {
            let total = i128::from(now.secs) * 1_000_000_000 + i128::from(now.nanos) - i128::from(nanos);
            let secs = i64::try_from(total.div_euclid(1_000_000_000)).ok()?;
            return Some(Self { secs, nanos: u32::try_from(total.rem_euclid(1_000_000_000)).ok()? });
        }
        let (secs, digits) = text.split_once('.').unwrap_or((text, "0"));
        if let Ok(secs) = secs.parse() {
            return Some(Self { secs, nanos: fraction(digits)? });
        }
        Self::parse(text)
    }

    /// Whole seconds from `earlier` to this; negative if that is later.
    pub fn seconds_since(self, earlier: Self) -> i64 {
        let seconds = self.secs.saturating_sub(earlier.secs);
        if self.nanos < earlier.nanos { seconds - 1 } else { seconds }
    }
}

/// The digits behind the point, as nanoseconds; more than nine are cut off.
fn fraction(digits: &str) -> Option<u32> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nine = digits.get(..9).unwrap_or(digits);
    let scale = 10u32.pow(9 - u32::try_from(nine.len()).ok()?);
    nine.parse::<u32>().ok().map(|number| number * scale)
}

/// Nanoseconds of a span in whole numbers with units (`1h30m`, `250ms`); `None` for what is none.
pub fn span(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0u64;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let unit = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar: years begin in March, so that the leap day is their last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

/// How long `seconds` are, roughly, in the words of Docker's go-units: `About a minute`, `3 months`.
pub fn words(seconds: i64) -> String {
    let minutes = seconds / 60;
    // To the nearest hour, where all else is cut off.
    let hours = seconds.saturating_add(1800) / 3600;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_as_it_was_written() {
        for (secs, nanos, short, long) in [
            (0, 0, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000000+00:00"),
            (1_795_251_440, 5_000_000, "2026-11-21T08:57:20.005Z", "2026-11-21T08:57:20.005000000+00:00"),
            (951_782_400, 1, "2000-02-29T00:00:00.000000001Z", "2000-02-29T00:00:00.000000001+00:00"),
        ] {
            let time = Time { secs, nanos };
            assert_eq!((time.short().as_str(), time.long().as_str()), (short, long));
            assert_eq!((Time::parse(short), Time::parse(long)), (Some(time), Some(time)));
        }
        assert_eq!(Time::parse("2026-11-21T10:00:00+02:00"), Time::parse("2026-11-21T08:00:00Z"));
        assert_eq!(Time::parse("2026-11-21"), Time::parse("2026-11-21T00:00:00"));
        for bad in
            ["", "yesterday", "2026-13-01", "2026-11-21T25:00:00Z", "2026-11-21T10:00:00.Z", "2026-11-21T10:00:00+2"]
        {
            assert_eq!(Time::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn since_takes_times_seconds_and_spans() {
        let now = Time { secs: 1000, nanos: 5 };
        for (text, want) in [
            ("10s", Some((990, 5))),
            ("1m30s", Some((910, 5))),
            ("6ns", Some((999, 999_999_999))),
            ("900", Some((900, 0))),
            ("900.25", Some((900, 250_000_000))),
            ("1970-01-01T00:00:10Z", Some((10, 0))),
            ("", None),
            ("10x", None),
            ("ten", None),
            ("99999999999999999999h", None),
        ] {
            let got = Time::parse_since(text, now);
            assert_eq!(got, want.map(|(secs, nanos)| Time { secs, nanos }), "{text:?}");
        }
    }

    #[test]
    fn durations_are_worded_as_docker_does() {
        for (seconds, want) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (180, "3 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86400 * 3, "3 days"),
            (86400 * 21, "3 weeks"),
            (86400 * 100, "3 months"),
            (86400 * 800, "2 years"),
        ] {
            assert_eq!(words(seconds), want);
        }
    }
}
