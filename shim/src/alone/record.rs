//! Records of a log: what a container wrote in one piece, when, and on which stream.
//!
//! Two formats. `k8s-file` is that of conmon, Podman and the kubelet, one line a record: time, stream, `F` or `P` (full
//! line, or a part that goes on in the next record), text. `json` is that of Docker's json-file driver, whose records
//! end in a newline of their own if the line is full.

use std::borrow::Cow;

use serde::Deserialize;

use super::time::Time;

/// How much of a line one record holds, in bytes: Docker's bound.
pub const MAX_TEXT: usize = 16 << 10;

/// The longest line of a log that is read, in bytes. A byte of text takes at most six in JSON.
pub const MAX_RECORD: usize = 1 << 20;

/// How a log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// conmon's.
    #[default]
    K8sFile,
    /// Docker's.
    Json,
    /// Not at all.
    None,
}

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As logs name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"stdout" => Some(Self::Stdout),
            b"stderr" => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// A record that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was written.
    pub time: Time,
    /// Where.
    pub stream: Stream,
    /// What, without the newline that ends a full line.
    pub text: Cow<'a, [u8]>,
    /// It ends its line.
    pub full: bool,
}

/// The form in which a JSON record is read.
#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

impl Format {
    /// Appends a record to `out`: `text` without its newline, and whether the line is full with it.
    pub fn write(self, out: &mut Vec<u8>, time: Time, stream: Stream, text: &[u8], full: bool) {
        match self {
            Self::K8sFile => {
                let full = if full { "F" } else { "P" };
                out.extend_from_slice(format!("{} {} {full} ", time.long(), stream.name()).as_bytes());
                out.extend_from_slice(text);
                out.push(b'\n');
            }
            Self::Json => {
                out.extend_from_slice(b"{\"log\":\"");
                escape(text, out);
                if full {
                    out.extend_from_slice(b"\\n");
                }
                let rest = format!("\",\"stream\":\"{}\",\"time\":\"{}\"}}\n", stream.name(), time.short());
                out.extend_from_slice(rest.as_bytes());
            }
            Self::None => {}
        }
    }

    /// Reads a line of a log, without its newline; `None` if it is no record.
    pub fn read(self, line: &[u8]) -> Option<Record<'_>> {
        match self {
            Self::K8sFile => {
                let mut fields = line.splitn(4, |byte| *byte == b' ');
                let time = Time::parse(str::from_utf8(fields.next()?).ok()?)?;
                let stream = Stream::of(fields.next()?)?;
                // The kubelet's format allows for more tags, with colons between them.
                let full = match fields.next()?.split(|byte| *byte == b':').next()? {
                    b"F" => true,
                    b"P" => false,
                    _ => return None,
                };
                Some(Record { time, stream, text: Cow::Borrowed(fields.next()?), full })
            }
            Self::Json => {
                let json: Json<'_> = serde_json::from_slice(line).ok()?;
                let (time, stream) = (Time::parse(&json.time)?, Stream::of(json.stream.as_bytes())?);
                let full = json.log.ends_with('\n');
                let text = match json.log {
                    Cow::Borrowed(text) => Cow::Borrowed(text.strip_suffix('\n').unwrap_or(text).as_bytes()),
                    Cow::Owned(mut text) => {
                        text.truncate(text.len() - usize::from(full));
                        Cow::Owned(text.into_bytes())
                    }
                };
                Some(Record { time, stream, text, full })
            }
            Self::None => None,
        }
    }
}

/// A JSON string's inside, as Docker writes it: what HTML would take for its own is escaped too, and each byte that is
/// not UTF-8 becomes U+FFFD.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    out.extend_from_slice(format!("\\u{:04x}", u32::from(char)).as_bytes());
                }
                char => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// How many bytes at the end of `text` begin a character that more bytes would finish.
pub fn unfinished(text: &[u8]) -> usize {
    (1..=text.len().min(3))
        .find(|n| {
            let tail = text.get(text.len() - n..).unwrap_or_default();
            tail.first().is_some_and(|byte| *byte >= 0xc0)
                && str::from_utf8(tail).is_err_and(|error| error.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Time = Time { secs: 1_795_251_440, nanos: 5_000_000 };

    fn written(format: Format, text: &[u8], full: bool) -> String {
        let mut out = Vec::new();
        format.write(&mut out, TIME, Stream::Stderr, text, full);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn records_are_those_of_conmon_and_docker() {
        assert_eq!(written(Format::K8sFile, b"a b", true), "2026-11-21T08:57:20.005000000+00:00 stderr F a b\n");
        assert_eq!(written(Format::K8sFile, b"", false), "2026-11-21T08:57:20.005000000+00:00 stderr P \n");
        // As Docker 20.10 has written them.
        for (text, want) in [
            (&b"a\tb\"c\\d<e>&f\x01\x7f\r"[..], "a\\u0009b\\\"c\\\\d\\u003ce\\u003e\\u0026f\\u0001\x7f\\r\\n"),
            (
                b"\xff\xfe \xc3\xa4 \xe2\x80\xa8 \xf0\x9f\x98\x80 \xed\xa0\x80",
                "\\ufffd\\ufffd \u{e4} \\u2028 \u{1f600} \\ufffd\\ufffd\\ufffd\\n",
            ),
        ] {
            let want = format!("{{\"log\":\"{want}\",\"stream\":\"stderr\",\"time\":\"2026-11-21T08:57:20.005Z\"}}\n");
            assert_eq!(written(Format::Json, text, true), want);
        }
        assert!(written(Format::Json, b"end", false).starts_with("{\"log\":\"end\",\"stream\""));
        assert_eq!(written(Format::None, b"a", true), "");
    }

    #[test]
    fn what_was_written_reads_the_same() {
        for format in [Format::K8sFile, Format::Json] {
            for text in ["", " ", "plain", "a \"quoted\" \\ <b> \u{e4} \u{2028} \r\t"] {
                for full in [true, false] {
                    let line = written(format, text.as_bytes(), full);
                    let record = format.read(line.strip_suffix('\n').unwrap().as_bytes());
                    let text = Cow::Borrowed(text.as_bytes());
                    assert_eq!(record, Some(Record { time: TIME, stream: Stream::Stderr, text, full }), "{line}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_record_is_not_read() {
        let bad: [&[u8]; 8] = [
            b"",
            b"x",
            b"2026-11-21T08:57:20Z stdout",
            b"2026-11-21T08:57:20Z stdout Q x",
            b"{}",
            b"[]",
            b"\xff",
            b"{\"log\":\"x\"}",
        ];
        for line in bad {
            for format in [Format::K8sFile, Format::Json, Format::None] {
                assert_eq!(format.read(line), None);
            }
        }
    }

    #[test]
    fn a_character_is_not_cut_in_two() {
        for (text, want) in [
            (&b""[..], 0),
            (b"abc", 0),
            ("\u{e4}".as_bytes(), 0),
            (b"a\xc3", 1),
            (b"a\xe2\x82", 2),
            (b"a\xf0\x9f\x98", 3),
            (b"a\xff", 0),
            (b"a\x82", 0),
            (b"\xe2\x28", 0),
        ] {
            assert_eq!(unfinished(text), want, "{text:x?}");
        }
    }
}
