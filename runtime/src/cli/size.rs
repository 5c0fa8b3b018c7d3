//! Sizes as people write them: `512m`, `1.5 GiB`.

/// Bytes. Binary multiples all of them (`1kb` is 1024), in either case, with an optional `b` or `ib` and a blank before
/// the unit; a fraction is cut off to whole bytes. -1 is unlimited. These are the forms that `runc update` takes.
pub(super) fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let (whole, fraction) = match number.split_once('.') {
        // A dot stands between digits.
        Some((whole, fraction)) if !whole.is_empty() && !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (number, "0"),
    };
    // Beyond 18 digits a fraction of the largest unit is less than a byte.
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let whole = u128::from(whole.parse::<u64>().ok()?) << shift;
    let fraction = (u128::from(fraction.parse::<u64>().ok()?) << shift) / scale;
    i64::try_from(whole.checked_add(fraction)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_runc_takes_are_taken_and_mean_the_same() {
        for (text, want) in [
            ("-1", Some(-1)),
            ("0", Some(0)),
            ("010", Some(10)),
            ("10485760", Some(10 << 20)),
            ("10b", Some(10)),
            ("10k", Some(10 << 10)),
            ("10K", Some(10 << 10)),
            ("10kb", Some(10 << 10)),
            ("10M", Some(10 << 20)),
            ("10MiB", Some(10 << 20)),
            ("10 M", Some(10 << 20)),
            ("1.5g", Some(3 << 29)),
            ("0.5k", Some(512)),
            ("0.3333333333333333333333333333k", Some(341)),
            ("1.9", Some(1)),
            ("1t", Some(1 << 40)),
            ("1p", Some(1 << 50)),
            ("8191p", Some(8191 << 50)),
            ("8192p", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("18446744073709551616p", None),
            ("", None),
            ("m", None),
            (" 1", None),
            ("1 ", Some(1)),
            ("1  m", None),
            ("-5", None),
            ("-1m", None),
            ("+1", None),
            ("10x", None),
            ("10kk", None),
            ("10kib!", None),
            ("10bb", None),
            ("1e3", None),
            (".5m", None),
            ("5.", None),
            ("1.2.3", None),
            (".", None),
            ("0x10", None),
            ("\u{661}m", None),
            ("1\u{212a}", None),
        ] {
            assert_eq!(bytes(text), want, "{text:?}");
        }
    }
}
