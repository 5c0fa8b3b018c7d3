//! The functions that templates may call: Go's own (text/template, "Functions") and Docker's.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::Functions;
use super::value::Value;

/// All of them.
pub(super) const NAMES: [&str; 25] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not", "or", "pad", "print",
    "printf", "println", "slice", "split", "title", "truncate", "upper", "urlquery", "html",
];

/// The widest field and the greatest precision that `printf` and `pad` take.
const MAX_WIDTH: usize = 100_000;

type Outcome = Result<Value, String>;

/// The value of `name` for `arguments`; the error lacks the function's name.
pub(super) fn call(name: &str, arguments: Vec<Value>, functions: Functions) -> Outcome {
    if functions == Functions::Headings
        && matches!(name, "json" | "join" | "lower" | "split" | "title" | "truncate" | "upper")
    {
        // Over a table stands the column's name, whatever is done to the values below it.
        return Ok(arguments.into_iter().next().unwrap_or(Value::Absent));
    }
    match (name, arguments.as_slice()) {
        ("json", [value]) => Ok(value.json().into()),
        ("lower", [Value::Text(text)]) => Ok(text.to_lowercase().into()),
        ("upper", [Value::Text(text)]) => Ok(text.to_uppercase().into()),
        ("title", [Value::Text(text)]) => Ok(title(text).into()),
        ("split", [Value::Text(text), Value::Text(by)]) if by.is_empty() => {
            Ok(Value::list(text.chars().map(String::from)))
        }
        ("split", [Value::Text(text), Value::Text(by)]) => Ok(Value::list(text.split(by.as_str()))),
        ("join", [Value::List(items), Value::Text(between)]) => {
            Ok(items.iter().map(print).collect::<Vec<_>>().join(between).into())
        }
        ("join", [Value::Null(_), Value::Text(_)]) => Ok("".into()),
        ("pad", [Value::Text(text), Value::Int(before), Value::Int(after)]) => {
            let [before, after] = [before, after].map(|n| usize::try_from(*n).unwrap_or(0).min(MAX_WIDTH));
            if text.is_empty() {
                return Ok("".into());
            }
            Ok(format!("{}{text}{}", " ".repeat(before), " ".repeat(after)).into())
        }
        ("truncate", [Value::Text(text), Value::Int(length)]) => {
            Ok(text.chars().take(usize::try_from(*length).unwrap_or(0)).collect::<String>().into())
        }
        ("print", arguments) => Ok(print_all(arguments).into()),
        ("println", arguments) => {
            let words: Vec<_> = arguments.iter().map(print).collect();
            Ok(format!("{}\n", words.join(" ")).into())
        }
        ("printf", [Value::Text(format), arguments @ ..]) => Ok(printf(format, arguments).into()),
        ("html", arguments) => Ok(html(&print_all(arguments)).into()),
        ("urlquery", arguments) => Ok(urlquery(&print_all(arguments)).into()),
        ("not", [value]) => Ok((!value.truth()).into()),
        ("len", [value]) => match value {
            Value::Text(text) => Ok(text.len().into()),
            Value::List(items) => Ok(items.len().into()),
            Value::Map(map) => Ok(map.len().into()),
            Value::Null(_) => Ok(0_i64.into()),
            other => Err(format!("{} has no length", other.kind())),
        },
        ("index", [value, keys @ ..]) => index(value, keys),
        ("slice", [value, bounds @ ..]) if bounds.len() <= 2 => slice(value, bounds),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            for other in others {
                if equal(first, other)? {
                    return Ok(true.into());
                }
            }
            Ok(false.into())
        }
        ("ne", [a, b]) => Ok((!equal(a, b)?).into()),
        ("lt", [a, b]) => Ok((order(a, b)? == Ordering::Less).into()),
        ("le", [a, b]) => Ok((order(a, b)? != Ordering::Greater).into()),
        ("gt", [a, b]) => Ok((order(a, b)? == Ordering::Greater).into()),
        ("ge", [a, b]) => Ok((order(a, b)? != Ordering::Less).into()),
        (_, arguments) => {
            let kinds: Vec<_> = arguments.iter().map(Value::kind).collect();
            let kinds = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") };
            Err(format!("cannot take {kinds}"))
        }
    }
}

/// Each word with its first letter in upper case.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || c == '_' || (!c.is_ascii() && !c.is_whitespace());
    }
    out
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn urlquery(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn index(value: &Value, keys: &[Value]) -> Outcome {
    let mut value = value;
    for key in keys {
        value = match (value, key) {
            (Value::List(items), Value::Int(n)) => usize::try_from(*n)
                .ok()
                .and_then(|n| items.get(n))
                .ok_or_else(|| format!("{n} is out of range: there are {}", items.len()))?,
            (Value::Text(text), Value::Int(n)) => {
                let byte = usize::try_from(*n).ok().and_then(|n| text.as_bytes().get(n));
                let byte = byte.ok_or_else(|| format!("{n} is out of range: there are {} bytes", text.len()))?;
                return Ok(i64::from(*byte).into());
            }
            (Value::Map(_) | Value::Record(_) | Value::Null(_), Value::Text(name)) => {
                value.field(name).ok_or_else(|| format!("there is no {name:?} in {}", value.kind()))?
            }
            (value, key) => return Err(format!("cannot look up {} in {}", key.kind(), value.kind())),
        };
    }
    Ok(value.clone())
}

fn slice(value: &Value, bounds: &[Value]) -> Outcome {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        other => return Err(format!("cannot take a piece of {}", other.kind())),
    };
    let mut ends = [0, length];
    for (end, bound) in ends.iter_mut().zip(bounds) {
        let Value::Int(n) = bound else { return Err(format!("{} is no position", bound.kind())) };
        *end = usize::try_from(*n)
            .ok()
            .filter(|n| *n <= length)
            .ok_or_else(|| format!("{n} is out of range: the length is {length}"))?;
    }
    let [from, to] = ends;
    let range = from..to;
    match value {
        Value::Text(text) => text.get(range).map(Value::from),
        Value::List(items) => items.get(range).map(|items| Value::List(items.to_vec())),
        _ => None,
    }
    .ok_or_else(|| format!("{from} to {to} is not a piece"))
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Null(_) | Value::Absent, Value::Null(_) | Value::Absent) => Ok(true),
        (Value::Null(_) | Value::Absent, _) | (_, Value::Null(_) | Value::Absent) => Ok(false),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        _ => Ok(order(a, b)? == Ordering::Equal),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, String> {
    let known = match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        _ => None,
    };
    known.ok_or_else(|| format!("cannot compare {} with {}", a.kind(), b.kind()))
}

/// What Go's `%v` makes of a value.
pub(super) fn print(value: &Value) -> String {
    match value {
        Value::Absent => "<no value>".to_owned(),
        Value::Null(shown) => (*shown).to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(n) => general(*n, None, false),
        Value::Text(text) => text.clone(),
        Value::List(items) => format!("[{}]", items.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Record(fields) => {
            format!("{{{}}}", fields.iter().map(|(_, value)| print(value)).collect::<Vec<_>>().join(" "))
        }
        Value::Map(map) => {
            let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}:{}", print(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
    }
}

/// Go's `Sprint`: a space between two operands of which neither is a string.
fn print_all(values: &[Value]) -> String {
    let mut out = String::new();
    let mut before: Option<&Value> = None;
    for value in values {
        if before.is_some_and(|before| !matches!((before, value), (Value::Text(_), _) | (_, Value::Text(_)))) {
            out.push(' ');
        }
        out.push_str(&print(value));
        before = Some(value);
    }
    out
}

/// The flags, width and precision of a verb.
#[derive(Default, Clone, Copy)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Go's `Sprintf`, which has no errors: what is wrong is said in the text (`%!d(string=x)`).
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = rest.next_if(|c| "-+# 0".contains(*c)) {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                _ => spec.zero = true,
            }
        }
        let mut number = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Option<i64> {
            if rest.next_if_eq(&'*').is_some() {
                return match arguments.next() {
                    Some(Value::Int(n)) => Some(*n),
                    _ => None,
                };
            }
            let mut n = None;
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                let digit = i64::from(digit.to_digit(10).unwrap_or(0));
                n = Some(n.unwrap_or(0i64).saturating_mul(10).saturating_add(digit));
            }
            n
        };
        let bounded = |n: i64| usize::try_from(n.unsigned_abs()).unwrap_or(MAX_WIDTH).min(MAX_WIDTH);
        if let Some(width) = number(&mut rest) {
            spec.minus |= width < 0;
            spec.width = Some(bounded(width));
        }
        if rest.next_if_eq(&'.').is_some() {
            spec.precision = Some(bounded(number(&mut rest).unwrap_or(0).max(0)));
        }
        let Some(verb) = rest.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = arguments.next() else {
            let _ = write!(out, "%!{verb}(MISSING)");
            continue;
        };
        out.push_str(&formatted(verb, spec, value));
    }
    let extra: Vec<_> = arguments.map(|value| format!("{}={}", go_type(value), print(value))).collect();
    if !extra.is_empty() {
        let _ = write!(out, "%!(EXTRA {})", extra.join(", "));
    }
    out
}

/// The name of its type in Go.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Absent | Value::Null(_) => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::Text(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Record(_) => "struct",
        Value::Map(_) => "map[string]interface {}",
    }
}

fn formatted(verb: char, spec: Spec, value: &Value) -> String {
    match (verb, value) {
        ('T', value) => return fill(go_type(value).to_owned(), spec, false),
        ('v' | 's' | 'd' | 'x' | 'X' | 'q', Value::List(items)) => {
            let items: Vec<_> = items.iter().map(|item| formatted(verb, spec, item)).collect();
            return format!("[{}]", items.join(" "));
        }
        ('v' | 's' | 'd' | 'q', Value::Map(map)) => {
            let key = |key: &String| formatted(verb, spec, &key.as_str().into());
            let pairs: Vec<_> = map.iter().map(|(k, v)| format!("{}:{}", key(k), formatted(verb, spec, v))).collect();
            return format!("map[{}]", pairs.join(" "));
        }
        ('v' | 's' | 'd' | 'q', Value::Record(fields)) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| {
                    let value = formatted(verb, spec, value);
                    if spec.plus && verb == 'v' { format!("{name}:{value}") } else { value }
                })
                .collect();
            return format!("{{{}}}", fields.join(" "));
        }
        _ => {}
    }
    let signed = |n: i64, digits: String| {
        let sign = if n < 0 {
            "-"
        } else if spec.plus {
            "+"
        } else if spec.space {
            " "
        } else {
            ""
        };
        let short = spec.precision.unwrap_or(0).saturating_sub(digits.len());
        format!("{sign}{}{digits}", "0".repeat(short))
    };
    let (text, numeric) = match (verb, value) {
        ('v', Value::Text(text)) if spec.sharp => (quote(text), false),
        ('v' | 's', Value::Text(text)) => (cut(text, spec.precision), false),
        ('q', Value::Text(text)) if spec.sharp && !text.contains('`') => (format!("`{text}`"), false),
        ('q', Value::Text(text)) => (quote(&cut(text, spec.precision)), false),
        ('x' | 'X', Value::Text(text)) => {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            (if verb == 'X' { hex.to_uppercase() } else { hex }, false)
        }
        ('v' | 't', Value::Bool(b)) => (b.to_string(), false),
        ('v' | 'd', Value::Int(n)) => (signed(*n, n.unsigned_abs().to_string()), true),
        ('b', Value::Int(n)) => (signed(*n, format!("{:b}", n.unsigned_abs())), true),
        ('o', Value::Int(n)) => {
            (signed(*n, format!("{}{:o}", if spec.sharp { "0" } else { "" }, n.unsigned_abs())), true)
        }
        ('O', Value::Int(n)) => (signed(*n, format!("0o{:o}", n.unsigned_abs())), true),
        ('x', Value::Int(n)) => {
            (signed(*n, format!("{}{:x}", if spec.sharp { "0x" } else { "" }, n.unsigned_abs())), true)
        }
        ('X', Value::Int(n)) => {
            (signed(*n, format!("{}{:X}", if spec.sharp { "0X" } else { "" }, n.unsigned_abs())), true)
        }
        ('c' | 'q' | 'U', Value::Int(n)) => {
            let c = u32::try_from(*n).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
            match verb {
                'c' => (c.to_string(), false),
                'q' => (format!("'{c}'"), false),
                _ => (format!("U+{n:04X}"), false),
            }
        }
        ('v' | 'g' | 'G' | 'f' | 'F' | 'e' | 'E', Value::Float(n)) => {
            let text = match verb {
                'f' | 'F' => format!("{n:.*}", spec.precision.unwrap_or(6)),
                'e' | 'E' => exponent(*n, Some(spec.precision.unwrap_or(6))),
                _ => general(*n, spec.precision, spec.sharp),
            };
            let text = if spec.plus && !text.starts_with('-') { format!("+{text}") } else { text };
            (if verb.is_ascii_uppercase() { text.to_uppercase() } else { text }, true)
        }
        ('v', Value::Null(_) | Value::Absent) => ("<nil>".to_owned(), false),
        (verb, Value::Null(_) | Value::Absent) => (format!("%!{verb}(<nil>)"), false),
        (verb, value) => (format!("%!{verb}({}={})", go_type(value), print(value)), false),
    };
    fill(text, spec, numeric)
}

/// Brings `text` to the width: with zeros between sign and digits where they are asked for and it is a number.
fn fill(text: String, spec: Spec, numeric: bool) -> String {
    let missing = spec.width.unwrap_or(0).saturating_sub(text.chars().count());
    if missing == 0 {
        return text;
    }
    if spec.minus {
        return format!("{text}{}", " ".repeat(missing));
    }
    // A precision says how many digits a whole number has.
    if spec.zero && numeric && (spec.precision.is_none() || text.contains('.')) {
        let digits = text.trim_start_matches(['+', '-', ' ']);
        let sign = text.get(..text.len() - digits.len()).unwrap_or_default();
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    format!("{}{text}", " ".repeat(missing))
}

fn cut(text: &str, precision: Option<usize>) -> String {
    match precision {
        None => text.to_owned(),
        Some(most) => text.chars().take(most).collect(),
    }
}

/// A Go string literal.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `1.5e+06`: Rust writes no sign and as few digits as it can.
fn exponent(n: f64, precision: Option<usize>) -> String {
    if !n.is_finite() {
        return infinite(n);
    }
    let text = match precision {
        Some(digits) => format!("{n:.digits$e}"),
        None => format!("{n:e}"),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn infinite(n: f64) -> String {
    let text = if n.is_nan() {
        "NaN"
    } else if n > 0.0 {
        "+Inf"
    } else {
        "-Inf"
    };
    text.to_owned()
}

/// Go's `%g`: as few digits as say the number, or `precision` of them; with an exponent where it is small or large.
fn general(n: f64, precision: Option<usize>, keep_zeros: bool) -> String {
    if !n.is_finite() {
        return infinite(n);
    }
    let precision = precision.map(|digits| digits.max(1));
    let scientific = exponent(n, precision.map(|digits| digits - 1));
    let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let limit = precision.map_or(6, |digits| i32::try_from(digits).unwrap_or(i32::MAX));
    let trimmed = |text: String| match text.contains('.') && !keep_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    if power < -4 || power >= limit {
        let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        return format!("{}e{power}", trimmed(mantissa.to_owned()));
    }
    match precision {
        None => format!("{n}"),
        Some(_) => trimmed(format!("{n:.*}", usize::try_from(limit - 1 - power).unwrap_or(0))),
    }
}
