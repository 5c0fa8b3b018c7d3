//! Writing a log: records that are on their way to the disk, and files that are put aside when they are large.
//!
//! Nothing is dropped. While the disk takes nothing (it is full, say), records wait here, nothing more is read from the
//! container, and when its pipes are full it waits too.

use std::time::{Duration, Instant};

use orlop::error::describe;
use orlop_sys::rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom, fstat, openat, renameat, seek};
use orlop_sys::rustix::io::{pread, write};
use orlop_sys::{Errno, OwnedFd};

use super::record::{Format, Stream};
use super::time::Time;

/// How soon a disk that took nothing is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// The most files that there may be.
pub const MAX_FILES: u32 = 1000;

/// A log that is written.
#[derive(Debug)]
pub struct Log {
    path: String,
    format: Format,
    max_size: u64,
    max_files: u32,
    file: Option<OwnedFd>,
    /// Of the file, with what waits.
    size: u64,
    waiting: Vec<u8>,
    again: Option<Instant>,
    trouble: Option<Errno>,
}

impl Log {
    /// Opens a log to append to it. With `max_size` 0 it grows for ever.
    ///
    /// # Errors
    /// What went wrong, in a sentence.
    pub fn open(path: &str, format: Format, max_size: u64, max_files: u32) -> Result<Self, String> {
        let max_files = max_files.clamp(1, MAX_FILES);
        let mut log = Self {
            path: path.to_owned(),
            format,
            max_size,
            max_files,
            file: None,
            size: 0,
            waiting: Vec::new(),
            again: None,
            trouble: None,
        };
        log.reopen().map_err(|e| format!("log {path}: {}", describe(e)))?;
        Ok(log)
    }

    /// Opens the file of that name, which may be another one now.
    pub fn reopen(&mut self) -> Result<(), Errno> {
        if self.format == Format::None {
            return Ok(());
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(CWD, &self.path, flags, Mode::from_raw_mode(0o640))?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        self.size = seek(&file, SeekFrom::End(0))? + self.waiting.len() as u64;
        // Half a record, by a monitor that was killed: what follows is not to become its end.
        let mut last = [b'\n'];
        let half = self.waiting.is_empty() && self.size > 0 && pread(&file, &mut last, self.size - 1)? == 1;
        if half && last != *b"\n" {
            self.waiting.push(b'\n');
            self.size += 1;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Adds a record, to be written by [`flush`](Self::flush).
    pub fn put(&mut self, stream: Stream, text: &[u8], full: bool) {
        let before = self.waiting.len();
        self.format.write(&mut self.waiting, Time::now(), stream, text, full);
        let length = (self.waiting.len() - before) as u64;
        if self.max_size > 0 && self.size > 0 && self.size + length > self.max_size {
            let record = self.waiting.split_off(before);
            // While the disk takes nothing the file grows beyond its bound.
            if self.flush() && self.put_aside().is_ok() {
                self.size = 0;
            }
            self.waiting.extend_from_slice(&record);
        }
        self.size += length;
    }

    /// Writes what waits. `false` if some of it still does.
    pub fn flush(&mut self) -> bool {
        let Some(file) = &self.file else {
            self.waiting.clear();
            return true;
        };
        let mut written = 0;
        let trouble = loop {
            let rest = self.waiting.get(written..).unwrap_or_default();
            if rest.is_empty() {
                break None;
            }
            match write(file, rest) {
                Ok(n) => written += n,
                Err(Errno::INTR) => {}
                Err(e) => break Some(e),
            }
        };
        self.waiting.drain(..written);
        if self.waiting.is_empty() {
            // A burst's memory is given back.
            self.waiting.shrink_to(4096);
        }
        self.trouble = trouble;
        self.again = trouble.map(|_| Instant::now() + AGAIN);
        trouble.is_none()
    }

    /// When [`flush`](Self::flush) is worth another try; while there is such a time, nothing more is to be put.
    pub fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Why the disk takes nothing.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.map(|e| format!("log {}: {}; {} bytes wait", self.path, describe(e), self.waiting.len()))
    }

    /// Begins another file: `log` becomes `log.1`, that `log.2`, and so on. With one file, the new one takes its place.
    /// Each file keeps its inode, so whoever reads it finds its end.
    fn put_aside(&mut self) -> Result<(), Errno> {
        let path = &self.path;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND | OFlags::CLOEXEC;
        let new = format!("{path}.new");
        let file = openat(CWD, &new, flags, Mode::from_raw_mode(0o640))?;
        for number in (1..self.max_files).rev() {
            let from = if number == 1 { path.clone() } else { format!("{path}.{}", number - 1) };
            match renameat(CWD, from, CWD, format!("{path}.{number}")) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
        renameat(CWD, new, CWD, path)?;
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the paths are the test's own")]
mod tests {
    use super::*;
    use std::fs;

    fn scratch(name: &str) -> String {
        let dir = format!("/tmp/orlop-log-{name}-{}", std::process::id());
        fs::create_dir_all(&dir).unwrap();
        format!("{dir}/log")
    }

    fn texts(path: &str) -> Vec<String> {
        let bytes = fs::read(path).unwrap_or_default();
        let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| String::from_utf8_lossy(&Format::K8sFile.read(line).unwrap().text).into_owned()).collect()
    }

    #[test]
    fn files_are_put_aside_whole_and_in_order_and_only_as_many_as_there_may_be() {
        let path = scratch("aside");
        let mut log = Log::open(&path, Format::K8sFile, 150, 3).unwrap();
        for n in 0..10 {
            log.put(Stream::Stdout, format!("record {n}").as_bytes(), true);
        }
        assert!(log.flush());
        assert_eq!(texts(&path), ["record 8", "record 9"]);
        assert_eq!(texts(&format!("{path}.1")), ["record 6", "record 7"]);
        assert_eq!(texts(&format!("{path}.2")), ["record 4", "record 5"]);
        assert!(fs::metadata(format!("{path}.3")).is_err() && fs::metadata(format!("{path}.new")).is_err());
        // One that is too large for any file has one for itself.
        log.put(Stream::Stdout, &[b'x'; 500], true);
        assert!(log.flush());
        assert_eq!(texts(&path).len(), 1);
        fs::remove_dir_all(path.trim_end_matches("/log")).unwrap();
    }

    #[test]
    fn with_one_file_the_new_takes_the_place_of_the_old() {
        let path = scratch("one");
        let mut log = Log::open(&path, Format::K8sFile, 150, 1).unwrap();
        for n in 0..5 {
            log.put(Stream::Stdout, format!("record {n}").as_bytes(), true);
        }
        assert!(log.flush());
        assert_eq!(texts(&path), ["record 4"]);
        assert!(fs::metadata(format!("{path}.1")).is_err());
        fs::remove_dir_all(path.trim_end_matches("/log")).unwrap();
    }

    #[test]
    fn a_half_record_stays_alone_on_its_line() {
        let path = scratch("half");
        fs::write(&path, "half").unwrap();
        let mut log = Log::open(&path, Format::K8sFile, 0, 1).unwrap();
        log.put(Stream::Stdout, b"whole", true);
        assert!(log.flush());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("half\n20") && text.ends_with(" stdout F whole\n"), "{text}");
        fs::remove_dir_all(path.trim_end_matches("/log")).unwrap();
    }

    #[test]
    fn what_a_full_disk_does_not_take_waits_for_it() {
        let path = scratch("full");
        let mut log = Log::open(&path, Format::K8sFile, 0, 1).unwrap();
        log.file = Some(openat(CWD, "/dev/full", OFlags::WRONLY, Mode::empty()).unwrap());
        log.put(Stream::Stdout, b"patience", true);
        assert!(!log.flush() && log.again().is_some());
        assert!(log.trouble().unwrap().contains("ENOSPC"));
        log.reopen().unwrap();
        assert!(log.flush() && log.again().is_none());
        assert_eq!(texts(&path), ["patience"]);
        fs::remove_dir_all(path.trim_end_matches("/log")).unwrap();
    }

    #[test]
    fn only_files_are_logs() {
        assert!(Log::open("/dev/null", Format::Json, 0, 1).unwrap_err().contains("EINVAL"));
        assert!(Log::open("/nowhere/log", Format::Json, 0, 1).unwrap_err().contains("ENOENT"));
        assert!(Log::open("/nowhere/log", Format::None, 0, 1).is_ok());
    }
}
