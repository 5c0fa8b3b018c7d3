//! The log that engines read: `--log FILE --log-format text|json`.
//!
//! An error is one line. containerd decodes the file as a stream of JSON objects and shows the last one of level
//! `error`; Podman decodes the whole file as a single object, so a second line, even a warning, would hide the error.
//! Warnings and debugging lines therefore reach a file only with `--debug`.
//!
//! The rule for stderr is runc's: without a log file the formatted line goes there; with one, the bare message does
//! as well, since conmon and people read that.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{At, Result};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `time="2026-11-21T08:55:19Z" level=error msg="container does not exist"`
    #[default]
    Text,
    /// `{"level":"error","msg":"container does not exist","time":"2026-11-21T08:55:19Z"}`
    Json,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The command failed.
    Error,
    /// It went on, but somebody may want to know.
    Warning,
    /// For those who look for a fault.
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Debug => "debug",
        }
    }
}

/// Where and how to log. The file is opened for each line, at the line's time, so that no container can inherit it.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// The file that is appended to, made with mode 0644 if it isn't there; stderr if absent.
    pub file: Option<String>,
    /// How a line looks.
    pub format: Format,
    /// Also what is less than an error.
    pub debug: bool,
}

impl Log {
    /// Makes the file if it isn't there: an engine may read it after a success too, and that a log can't be written is
    /// better known before anything is done.
    ///
    /// # Errors
    /// `Os`, naming the file. From then on the log is stderr.
    pub fn prepare(&mut self) -> Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let opened = open(path).map(drop).at(|| format!("open log file {path}"));
        if opened.is_err() {
            self.file = None;
        }
        opened
    }

    /// The command failed. Logging can't fail: what the file does not take, stderr gets.
    pub fn error(&self, message: &str) {
        self.write(Level::Error, message);
    }

    /// Something was left out, or looks wrong. In a file only with `--debug`, see the [module](self).
    pub fn warning(&self, message: &str) {
        if self.debug || self.file.is_none() {
            self.write(Level::Warning, message);
        }
    }

    /// What is being done; only with `--debug`.
    pub fn debug(&self, message: &str) {
        if self.debug {
            self.write(Level::Debug, message);
        }
    }

    fn write(&self, level: Level, message: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let line = line(self.format, level, message, now);
        let Some(path) = &self.file else {
            // A person gets the sentence, a program the format that it knows.
            let text = if io::stderr().is_terminal() { format!("orlop: {message}\n") } else { line };
            return to_stderr(&text);
        };
        match append(path, &line) {
            // Only an error is worth saying twice.
            Ok(()) if level != Level::Error => {}
            Ok(()) => to_stderr(&format!("{message}\n")),
            Err(error) => to_stderr(&format!("{message}\nopen log file {path}: {error}\n")),
        }
    }
}

/// One write, so that the lines of two commands in the same file don't mix.
fn append(path: &str, line: &str) -> io::Result<()> {
    open(path)?.write_all(line.as_bytes())
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o644).open(path)
}

fn to_stderr(text: &str) {
    // Nobody is left to be told.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// One line, with its newline; `now` in seconds since 1970.
pub fn line(format: Format, level: Level, message: &str, now: u64) -> String {
    let (level, time) = (level.name(), rfc3339(now));
    match format {
        Format::Text => {
            let mut line = format!("time=\"{time}\" level={level} msg=");
            if message.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b)) {
                line.push_str(message);
            } else {
                quote(&mut line, message);
            }
            line.push('\n');
            line
        }
        Format::Json => format!("{}\n", serde_json::json!({ "level": level, "msg": message, "time": time })),
    }
}

/// A Go string literal, as logrus writes it.
fn quote(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_ascii_control() => {
                let _ = write!(line, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

/// `2026-11-21T08:55:19Z` for a number of seconds since 1970.
pub fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from March 1st, so that the leap day is a year's last; 719,468 days lie between the March of
    // year 0 and 1970, and an era of 400 years has 146,097.
    let days = days.saturating_add(719_468);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era.saturating_mul(400) + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3_600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_the_date_that_everybody_else_sees() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_251_319, "2026-11-21T08:55:19Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), want);
        }
    }

    #[test]
    fn a_line_is_what_logrus_would_write() {
        for (format, message, want) in [
            (
                Format::Text,
                "container does not exist",
                "time=\"1970-01-01T00:00:00Z\" level=error msg=\"container does not exist\"\n",
            ),
            (Format::Text, "EPERM", "time=\"1970-01-01T00:00:00Z\" level=error msg=EPERM\n"),
            (
                Format::Text,
                "a \"b\" \\ \n\u{1}\u{85}é",
                "time=\"1970-01-01T00:00:00Z\" level=error msg=\"a \\\"b\\\" \\\\ \\n\\x01\\u0085é\"\n",
            ),
            (
                Format::Json,
                "a \"b\"\n",
                "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\\n\",\"time\":\"1970-01-01T00:00:00Z\"}\n",
            ),
        ] {
            assert_eq!(line(format, Level::Error, message, 0), want);
        }
    }

    #[test]
    fn a_file_gets_one_line_per_error_and_warnings_only_with_debug() {
        let path = format!("{}/orlop-log-{}", std::env::temp_dir().display(), std::process::id());
        let mut log = Log { file: Some(path.clone()), format: Format::Json, debug: false };
        log.prepare().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        log.warning("w");
        log.debug("d");
        log.error("e");
        #[allow(clippy::disallowed_methods, reason = "a file that this test made")]
        let lines = || std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines().lines().count(), 1, "{}", lines());
        log.debug = true;
        log.warning("w");
        log.debug("d");
        assert_eq!(lines().lines().count(), 3);
        std::fs::remove_file(&path).unwrap();
        log.file = Some(format!("{path}/no/such/directory"));
        let refusal = log.prepare().unwrap_err().to_string();
        assert!(refusal.ends_with(": ENOENT (no such file or directory)"), "{refusal}");
        assert_eq!(log.file, None);
    }
}
