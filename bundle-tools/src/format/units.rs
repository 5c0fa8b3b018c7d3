//! Sizes and ages in words, as Docker's go-units has them.

/// Bytes in powers of 1000 with `digits` significant digits and no trailing zeros: `78.2MB`, `1.84kB`, `0B`. Docker
/// takes three for images and layers and four for `df`. A number that rounding makes 1000 becomes 1 of the next unit,
/// where Docker shows `1e+03kB`.
pub fn size(bytes: u64, digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut units = UNITS.iter().peekable();
    while let Some(unit) = units.next() {
        let whole = if value < 10.0 {
            1
        } else if value < 100.0 {
            2
        } else {
            3
        };
        let rounded = format!("{value:.*}", digits.saturating_sub(whole));
        if rounded.parse().is_ok_and(|n: f64| n < 1000.0) || units.peek().is_none() {
            let text =
                if rounded.contains('.') { rounded.trim_end_matches('0').trim_end_matches('.') } else { &rounded };
            return format!("{text}{unit}");
        }
        value /= 1000.0;
    }
    String::new()
}

/// How long `seconds` are, roughly: `About a minute`, `3 months`.
pub fn duration(seconds: i64) -> String {
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

/// Seconds since 1970 of an RFC 3339 time; `None` if it is none.
pub fn parse_time(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, any: &[u8]| text.as_bytes().get(at).is_some_and(|b| any.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let zone = text.get(19..)?;
    let zone = match zone.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => zone,
    };
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), a, b, b':', c, d] if [a, b, c, d].iter().all(|b| b.is_ascii_digit()) => {
            let [a, b, c, d] = [a, b, c, d].map(|digit| i64::from(digit - b'0'));
            let seconds = (a * 10 + b) * 3600 + (c * 10 + d) * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    Some(days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar: years begin in March, so that the leap day is their last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

/// Year, month, day, hour, minute and second of `seconds` since 1970, in UTC. A time beyond the year 9999 is cut to it.
fn civil(seconds: i64) -> [i64; 6] {
    let seconds = seconds.clamp(-62_167_219_200, 253_402_300_799);
    let (day, rest) = (seconds.div_euclid(86400) + 719_468, seconds.rem_euclid(86400));
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    [year, month, day, rest / 3600, rest / 60 % 60, rest % 60]
}

/// `2026-11-21T11:52:24Z`.
pub fn rfc3339(seconds: i64) -> String {
    let [year, month, day, hour, minute, second] = civil(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `2026-11-21 11:52:24 +0000 UTC`: Go's way to print a time.
pub fn go_time(seconds: i64) -> String {
    let [year, month, day, hour, minute, second] = civil(seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_go_units() {
        for (bytes, three, four) in [
            (0, "0B", "0B"),
            (5, "5B", "5B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1kB"),
            (1840, "1.84kB", "1.84kB"),
            (10_070, "10.1kB", "10.07kB"),
            (78_150_000, "78.2MB", "78.15MB"),
            (124_000_000, "124MB", "124MB"),
            (1_100_000_000, "1.1GB", "1.1GB"),
            (999_960, "1MB", "1MB"),
            (999_499, "999kB", "999.5kB"),
            (9_999, "10kB", "9.999kB"),
            (u64::MAX, "18.4EB", "18.45EB"),
        ] {
            assert_eq!((size(bytes, 3).as_str(), size(bytes, 4).as_str()), (three, four), "{bytes}");
        }
    }

    #[test]
    fn durations_are_those_of_go_units() {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        for (seconds, words) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (180, "3 minutes"),
            (59 * 60 + 59, "59 minutes"),
            (HOUR, "About an hour"),
            (HOUR + 1799, "About an hour"),
            (HOUR + 1800, "2 hours"),
            (24 * HOUR, "24 hours"),
            (47 * HOUR, "47 hours"),
            (2 * DAY, "2 days"),
            (13 * DAY, "13 days"),
            (14 * DAY, "2 weeks"),
            (59 * DAY, "8 weeks"),
            (60 * DAY, "2 months"),
            (729 * DAY, "24 months"),
            (730 * DAY, "2 years"),
            (i64::MAX, "292471208677 years"),
        ] {
            assert_eq!(duration(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn times_are_read_and_written_back() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-11-21T11:52:24.123456789Z", 1_795_261_944),
            ("2026-11-21T12:52:24+01:00", 1_795_261_944),
            ("2026-11-21T07:22:24.5-04:30", 1_795_261_944),
            ("1969-12-31T23:59:59Z", -1),
            ("0001-01-01T00:00:00Z", -62_135_596_800),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(parse_time(text), Some(seconds), "{text}");
            assert_eq!(parse_time(&rfc3339(seconds)), Some(seconds), "{text}");
        }
        assert_eq!(rfc3339(1_795_261_944), "2026-11-21T11:52:24Z");
        assert_eq!(go_time(951_868_799), "2000-02-29 23:59:59 +0000 UTC");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59Z");
        for wrong in
            ["", "2026", "2026-13-01T00:00:00Z", "2026-11-21T11:52:24", "2026-11-21T11:52:24+1", "é026-11-21T11:52:24Z"]
        {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }
}
