//! Reading a log: its end, a part of it, and what is still to come, over all the files that it was put aside into.
//!
//! A file that is put aside keeps its inode, and is complete when another one has its name. So who follows reads the
//! file that it has to its end, looks for it among the names, and goes on with the next younger one.

use orlop::error::{At, Result};
use orlop_sys::OwnedFd;
use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use orlop_sys::rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use orlop_sys::rustix::io::{Errno, pread, read, retry_on_intr};

use super::log::MAX_FILES;
use super::record::{Format, MAX_RECORD, Stream};
use super::time::Time;

/// How much is read at once.
const BLOCK: usize = 64 << 10;
/// How soon it is looked again although nothing was announced.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// For the two renames between which a log has no file.
const MOMENT: std::time::Duration = std::time::Duration::from_millis(5);

/// What of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Nothing older.
    pub since: Option<Time>,
    /// Nothing younger.
    pub until: Option<Time>,
    /// So many lines from the end; all if absent.
    pub tail: Option<u64>,
    /// Also what is still to come.
    pub follow: bool,
    /// With the time in front of each line.
    pub times: bool,
}

/// One file of a log.
#[derive(Debug)]
struct File {
    fd: OwnedFd,
    id: (u64, u64),
}

/// A log that is read.
#[derive(Debug)]
pub struct Logs<'a> {
    path: &'a str,
    format: Format,
    query: &'a Query,
    /// The last record of this stream did not end its line.
    open_lines: [bool; 2],
    /// What is to be handed on, in one piece: of this stream.
    ready: (Stream, Vec<u8>),
}

/// Who takes the lines: a stream's bytes. `false` if he wants no more.
pub type Sink<'a> = dyn FnMut(Stream, &[u8]) -> bool + 'a;

impl<'a> Logs<'a> {
    /// The log at `path`.
    pub fn new(path: &'a str, format: Format, query: &'a Query) -> Self {
        Self { path, format, query, open_lines: [false; 2], ready: (Stream::Stdout, Vec::new()) }
    }

    /// Hands what is wanted to `sink`. Who follows does so until `alive` says that nothing more will come; `folder` is
    /// where that is announced by a change.
    ///
    /// # Errors
    /// What can't be read.
    pub fn read(&mut self, folder: &str, alive: &dyn Fn() -> bool, sink: &mut Sink<'_>) -> Result<()> {
        let mut files = self.files()?;
        let (first, start) = match self.query.tail {
            Some(lines) => self.tail(&files, lines)?,
            None => (0, 0),
        };
        let Some(last) = files.len().checked_sub(1) else { return Ok(()) };
        for (at, file) in files.iter().enumerate().take(last).skip(first) {
            let mut reader = Reader::at(if at == first { start } else { 0 });
            if !reader.lines(file, self, sink)? {
                return Ok(());
            }
        }
        let Some(mut file) = files.pop() else { return Ok(()) };
        let mut reader = Reader::at(if last == first { start } else { 0 });
        let watch = self.query.follow.then(|| Watch::new(folder)).transpose()?;
        loop {
            let more = alive();
            let (aside, announced) = match &watch {
                Some(watch) => (self.id()?.is_some_and(|id| id != file.id), watch.on(self.path)),
                None => (false, false),
            };
            // What was written before we asked is read after it.
            if !reader.lines(&file, self, sink)? {
                return Ok(());
            }
            if aside {
                if let Some(next) = self.after(&file)? {
                    (file, reader) = (next, Reader::at(0));
                }
                continue;
            }
            let Some(watch) = &watch else { return Ok(()) };
            if !more {
                return Ok(());
            }
            watch.wait(announced);
        }
    }

    /// All files, the oldest first.
    fn files(&self) -> Result<Vec<File>> {
        let mut files: Vec<File> = Vec::new();
        let mut missing = 0;
        // From the youngest on: a file that is renamed meanwhile is seen twice rather than never.
        for number in 0..=MAX_FILES {
            let path = if number == 0 { self.path.to_owned() } else { format!("{}.{number}", self.path) };
            let mut file = open(&path)?;
            if file.is_none() && number == 0 {
                std::thread::sleep(MOMENT);
                file = open(&path)?;
            }
            match file {
                Some(file) if files.iter().any(|known| known.id == file.id) => {}
                Some(file) => files.push(file),
                None => missing += 1,
            }
            // One gap is where a rename is under way.
            if missing > 1 {
                break;
            }
        }
        files.reverse();
        Ok(files)
    }

    /// Which file has the log's name; the one that we know, while none has.
    fn id(&self) -> Result<Option<(u64, u64)>> {
        Ok(open(self.path)?.map(|file| file.id))
    }

    /// The file that was begun when this one was put aside; the oldest that is left, if this one is not there any more.
    fn after(&self, file: &File) -> Result<Option<File>> {
        let files = self.files()?;
        let next = files.iter().position(|other| other.id == file.id).map_or(0, |at| at + 1);
        Ok(files.into_iter().nth(next))
    }

    /// Where the last `lines` lines begin: which file, and at which byte of it.
    fn tail(&self, files: &[File], lines: u64) -> Result<(usize, u64)> {
        let mut begin = (files.len().saturating_sub(1), 0);
        let (mut count, mut is_last) = (0, true);
        for (at, file) in files.iter().enumerate().rev() {
            let mut end = size(&file.fd).at(|| self.path)?;
            if at + 1 == files.len() {
                begin = (at, end);
            }
            // What stands between `end` and the newline behind it.
            let mut rest: Vec<u8> = Vec::new();
            while end > 0 {
                let from = end.saturating_sub(BLOCK as u64);
                let mut block = vec![0; usize::try_from(end - from).unwrap_or(BLOCK)];
                read_at(&file.fd, &mut block, from).at(|| self.path)?;
                block.append(&mut rest);
                let mut tail = block.len();
                while let Some(newline) =
                    block.get(..tail.saturating_sub(1)).and_then(|head| head.iter().rposition(|byte| *byte == b'\n'))
                {
                    let line = block.get(newline + 1..tail).unwrap_or_default();
                    if self.is_end(line, &mut is_last, &mut count, lines) {
                        return Ok(begin);
                    }
                    tail = newline + 1;
                    begin = (at, from + tail as u64);
                }
                block.truncate(tail);
                rest = if block.len() > MAX_RECORD { Vec::new() } else { block };
                end = from;
            }
            if !rest.is_empty() {
                if self.is_end(&rest, &mut is_last, &mut count, lines) {
                    return Ok(begin);
                }
                begin = (at, 0);
            }
        }
        Ok(begin)
    }

    /// Counts a record, from the last on; whether the `lines` that are wanted begin behind it.
    fn is_end(&self, line: &[u8], is_last: &mut bool, count: &mut u64, lines: u64) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let ends_line = self.format.read(line).is_none_or(|record| record.full);
        // A line that has no end yet is one, too.
        if ends_line || *is_last {
            if *count == lines {
                return true;
            }
            *count += 1;
        }
        *is_last = false;
        false
    }

    /// Adds what is wanted to what is handed on together, which is of one stream.
    fn give(&mut self, stream: Stream, parts: &[&[u8]], sink: &mut Sink<'_>) -> bool {
        let wanted = self.ready.0 == stream || self.flush(sink);
        self.ready.0 = stream;
        parts.iter().for_each(|part| self.ready.1.extend_from_slice(part));
        wanted
    }

    /// Hands on what has been gathered.
    fn flush(&mut self, sink: &mut Sink<'_>) -> bool {
        let wanted = self.ready.1.is_empty() || sink(self.ready.0, &self.ready.1);
        self.ready.1.clear();
        wanted
    }

    /// Takes a record, if it is wanted; `false` if no more is.
    fn show(&mut self, line: &[u8], sink: &mut Sink<'_>) -> bool {
        let Some(record) = self.format.read(line) else {
            // Half a record, or somebody else's line: shown as it is, since it may be what is looked for.
            return self.give(Stream::Stdout, &[line, b"\n"], sink);
        };
        let Query { since, until, times, .. } = self.query;
        if since.is_some_and(|since| record.time < since) || until.is_some_and(|until| record.time > until) {
            return true;
        }
        let [stdout, stderr] = &mut self.open_lines;
        let open = if record.stream == Stream::Stdout { stdout } else { stderr };
        let time = if *times && !*open { record.time.long().replace("+00:00", "Z ") } else { String::new() };
        *open = !record.full;
        let end: &[u8] = if record.full { b"\n" } else { b"" };
        self.give(record.stream, &[time.as_bytes(), &record.text, end], sink)
    }
}

fn open(path: &str) -> Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        fd => fd.at(|| path)?,
    };
    let stat = fstat(&fd).at(|| path)?;
    Ok(Some(File { fd, id: (stat.st_dev, stat.st_ino) }))
}

fn size(fd: &OwnedFd) -> std::result::Result<u64, Errno> {
    Ok(u64::try_from(fstat(fd)?.st_size).unwrap_or_default())
}

fn read_at(fd: &OwnedFd, buffer: &mut [u8], at: u64) -> std::result::Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match retry_on_intr(|| pread(fd, &mut *rest, at + done as u64))? {
            0 => break,
            n => done += n,
        }
    }
    Ok(())
}

/// Lines of one file.
#[derive(Debug)]
struct Reader {
    at: u64,
    rest: Vec<u8>,
}

impl Reader {
    fn at(at: u64) -> Self {
        Self { at, rest: Vec::new() }
    }

    /// Hands on all lines that are there, the last only with its newline; `false` if no more are wanted.
    fn lines(&mut self, file: &File, logs: &mut Logs<'_>, sink: &mut Sink<'_>) -> Result<bool> {
        let mut block = vec![0; BLOCK];
        loop {
            let n = retry_on_intr(|| pread(&file.fd, &mut block[..], self.at)).at(|| logs.path)?;
            if n == 0 {
                // Shorter than it was: somebody has emptied it.
                if size(&file.fd).at(|| logs.path)? < self.at {
                    *self = Self::at(0);
                    continue;
                }
                return Ok(true);
            }
            self.at += n as u64;
            let mut new = block.get(..n).unwrap_or_default();
            while let Some(newline) = new.iter().position(|byte| *byte == b'\n') {
                let (line, after) = new.split_at(newline);
                let wanted = if self.rest.is_empty() {
                    logs.show(line, sink)
                } else {
                    self.rest.extend_from_slice(line);
                    let line = std::mem::take(&mut self.rest);
                    logs.show(&line, sink)
                };
                if !wanted {
                    return Ok(false);
                }
                new = after.get(1..).unwrap_or_default();
            }
            self.rest.extend_from_slice(new);
            if self.rest.len() > MAX_RECORD {
                let line = std::mem::take(&mut self.rest);
                if !logs.show(&line, sink) {
                    return Ok(false);
                }
            }
            if !logs.flush(sink) {
                return Ok(false);
            }
        }
    }
}

/// Changes of the log, and of the folder, where the end of a monitor shows.
#[derive(Debug)]
struct Watch(OwnedFd);

impl Watch {
    fn new(folder: &str) -> Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).at(|| "inotify")?;
        inotify::add_watch(&fd, folder, WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::DELETE_SELF)
            .at(|| format!("watch {folder}"))?;
        Ok(Self(fd))
    }

    /// Watches the file that has the log's name now; more than once is the same. `false` while there is none.
    fn on(&self, path: &str) -> bool {
        inotify::add_watch(&self.0, path, WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::ATTRIB).is_ok()
    }

    fn wait(&self, announced: bool) {
        let soon = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        // Whatever it says, it is looked again.
        let _ = poll(&mut fds, Some(if announced { &LOOK } else { &soon }));
        let mut events = [0; 4096];
        while read(&self.0, &mut events[..]).is_ok_and(|n| n > 0) {}
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the paths are the test's own")]
mod tests {
    use super::*;
    use crate::alone::log::Log;
    use std::cell::Cell;
    use std::fs;

    struct Scratch(String);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = format!("/tmp/orlop-logs-{name}-{}", std::process::id());
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn log(&self) -> String {
            format!("{}/log", self.0)
        }

        fn read(&self, format: Format, query: &Query) -> String {
            let mut text = Vec::new();
            let mut sink = |_: Stream, bytes: &[u8]| {
                text.extend_from_slice(bytes);
                true
            };
            Logs::new(&self.log(), format, query).read(&self.0, &|| false, &mut sink).unwrap();
            String::from_utf8(text).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_last_lines_are_found_over_all_files_and_parts() {
        for format in [Format::K8sFile, Format::Json] {
            let scratch = Scratch::new(&format!("tail-{format:?}"));
            let mut log = Log::open(&scratch.log(), format, 200, 10).unwrap();
            for n in 0..6 {
                log.put(Stream::Stdout, b"a", false);
                log.put(Stream::Stdout, format!("b{n}").as_bytes(), true);
            }
            assert!(log.flush() && fs::metadata(format!("{}.2", scratch.log())).is_ok());
            let all = "ab0\nab1\nab2\nab3\nab4\nab5\n";
            let tail = |tail| scratch.read(format, &Query { tail, ..Query::default() });
            assert_eq!(tail(None), all);
            for lines in 0..8 {
                let from = 6usize.saturating_sub(lines as usize) * 4;
                assert_eq!(tail(Some(lines)), all[from..], "{lines}");
            }
            log.put(Stream::Stdout, b"prompt> ", false);
            log.flush();
            assert_eq!((tail(Some(1)), tail(Some(2))), ("prompt> ".to_owned(), "ab5\nprompt> ".to_owned()));
        }
    }

    #[test]
    fn only_what_was_written_in_time_is_shown() {
        let scratch = Scratch::new("since");
        let text = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n\
                    broken\n2026-01-01T00:00:03Z stdout F three\n";
        fs::write(scratch.log(), text).unwrap();
        let at = |second: &str| Time::parse(&format!("2026-01-01T00:00:0{second}Z"));
        let query = Query { since: at("2"), until: at("2.5"), times: true, ..Query::default() };
        assert_eq!(scratch.read(Format::K8sFile, &query), "2026-01-01T00:00:02.000000000Z two\nbroken\n");
    }

    #[test]
    fn who_follows_misses_nothing_however_often_files_are_put_aside() {
        let scratch = Scratch::new("follow");
        let path = scratch.log();
        let mut log = Log::open(&path, Format::K8sFile, 4000, 50).unwrap();
        log.put(Stream::Stdout, b"0", true);
        log.flush();
        let writer = std::thread::spawn(move || {
            for n in 1..2000 {
                log.put(Stream::Stdout, n.to_string().as_bytes(), true);
                if n % 7 == 0 {
                    log.flush();
                }
                if n % 100 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(3));
                }
            }
            log.flush();
        });
        let (seen, query) = (Cell::new(0), Query { follow: true, ..Query::default() });
        let mut sink = |_: Stream, bytes: &[u8]| {
            for line in str::from_utf8(bytes).unwrap().lines() {
                assert_eq!(line.parse(), Ok(seen.get()));
                seen.set(seen.get() + 1);
            }
            true
        };
        let alive = || seen.get() < 2000;
        Logs::new(&path, Format::K8sFile, &query).read(&scratch.0, &alive, &mut sink).unwrap();
        writer.join().unwrap();
        assert_eq!(seen.get(), 2000);
    }

    #[test]
    fn a_line_without_an_end_takes_a_bounded_memory() {
        let scratch = Scratch::new("long");
        fs::write(scratch.log(), vec![b'x'; 3 << 20]).unwrap();
        let mut longest = 0;
        let mut sink = |_: Stream, bytes: &[u8]| {
            longest = longest.max(bytes.len());
            true
        };
        let query = Query { tail: Some(5), ..Query::default() };
        Logs::new(&scratch.log(), Format::Json, &query).read(&scratch.0, &|| false, &mut sink).unwrap();
        assert!(longest < MAX_RECORD + 2 * BLOCK, "{longest}");
    }
}
