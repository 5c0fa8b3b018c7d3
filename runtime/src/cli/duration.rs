//! Spans of time as Go writes them: `5s`, `1m30s`, `1.5h`.

/// Nanoseconds. These are the forms that Go's flags take: numbers with a unit each, in any order, a sign before all of
/// them, or a plain `0`; a fraction is cut off to whole nanoseconds.
pub(super) fn nanoseconds(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum: i64 = 0;
    loop {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        sum = sum.checked_add(part(number, unit)?)?;
        if after.is_empty() {
            return Some(if negative { -sum } else { sum });
        }
        rest = after;
    }
}

fn part(number: &str, unit: &str) -> Option<i64> {
    let unit: u128 = match unit {
        "ns" => 1,
        // Both micro signs that Unicode has.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let read = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok().map(u128::from) };
    // Beyond 18 digits a fraction of an hour is less than a nanosecond.
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    i64::try_from(read(whole)? * unit + read(fraction)? * unit / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_go_takes_are_taken_and_mean_the_same() {
        const S: i64 = 1_000_000_000;
        for (text, want) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("5s", Some(5 * S)),
            ("+5s", Some(5 * S)),
            ("-5s", Some(-5 * S)),
            ("500ms", Some(S / 2)),
            ("1m30s", Some(90 * S)),
            ("30s1m", Some(90 * S)),
            ("1.5h", Some(5400 * S)),
            (".5s", Some(S / 2)),
            ("5.s", Some(5 * S)),
            ("1us", Some(1_000)),
            ("1\u{b5}s", Some(1_000)),
            ("1\u{3bc}s", Some(1_000)),
            ("1.9ns", Some(1)),
            ("0.3333333333333333333h", Some(1_199_999_999_999)),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("9223372036854775808ns", None),
            ("2562048h", None),
            ("99999999999999999999s", None),
            ("5", None),
            ("", None),
            ("-", None),
            ("s", None),
            (".s", None),
            ("5 s", None),
            ("5S", None),
            ("5x", None),
            ("1..2s", None),
            ("1s ", None),
            ("--1s", None),
            ("\u{661}s", None),
        ] {
            assert_eq!(nanoseconds(text), want, "{text:?}");
        }
    }
}
