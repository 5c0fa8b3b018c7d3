//! The streams of a process, from what an engine says of them: FIFOs, files, a logging program, or nothing.

use orlop_sys::process::{Strings, borrow_fd, close_range, dup_to, execve, reset_signals};
use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, mkdirat, openat};
use orlop_sys::rustix::io::{fcntl_dupfd_cloexec, read, write};
use orlop_sys::rustix::pipe::{PipeFlags, pipe_with};
use orlop_sys::rustix::process::set_parent_process_death_signal;
use orlop_sys::{AsFd, BorrowedFd, Errno, OwnedFd};

use crate::copy::{Stream, Way};
use crate::job;
use crate::ttrpc::{Code, Status};

/// How long a logging program may take to be ready.
const READY: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What an engine says of a process's streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uris {
    /// Where input comes from.
    pub stdin: String,
    /// Where output goes.
    pub stdout: String,
    /// Where errors go.
    pub stderr: String,
    /// All three are one terminal.
    pub terminal: bool,
}

/// Who owns the pipes of a process: then it can open /dev/stdout again, whoever it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user, as the host has it.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A URI that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place<'a> {
    Nowhere,
    Fifo(&'a str),
    File(String),
    Binary(Binary),
}

/// A program that takes the output (`binary://`).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Binary {
    path: String,
    arguments: Vec<String>,
    /// The second form: to end without a byte is to fail.
    strict: bool,
}

/// A logging program that is to be started before the process, by a job that has its streams.
#[derive(Debug)]
pub struct Logger {
    binary: Binary,
    /// What it reads: the process's output, and its errors.
    streams: [OwnedFd; 2],
}

/// Streams that are open.
#[derive(Debug)]
pub struct Stdio {
    /// The process's own.
    pub process: [OwnedFd; 3],
    /// From and to pipes; they begin at once.
    pub streams: Vec<Stream>,
    logger: Option<Logger>,
    /// With a terminal: what is joined to it when it is there.
    terminal: Option<Ends>,
    /// Which of `streams` is the input.
    pub has_input: bool,
}

/// An end for each way, and the one that is held beside it.
#[derive(Debug, Default)]
struct Ends {
    input: Option<(OwnedFd, OwnedFd)>,
    output: Option<(Way, OwnedFd, Option<OwnedFd>)>,
}

fn failed(uri: &str) -> impl Fn(Errno) -> Status {
    move |errno| Status::new(Code::Unknown, format!("{uri}: {}", orlop::error::describe(errno)))
}

impl Stdio {
    /// Opens what `uris` name. FIFOs are opened at both ends, so nothing waits for the engine.
    pub fn open(uris: &Uris, owner: Owner) -> Result<Self, Status> {
        let null = || null().map_err(failed("/dev/null"));
        let mut stdio = Self {
            process: [null()?, null()?, null()?],
            streams: Vec::new(),
            logger: None,
            terminal: None,
            has_input: false,
        };
        let stdout = Place::parse(&uris.stdout)?;
        if uris.terminal {
            stdio.open_terminal(uris, &stdout)?;
            return Ok(stdio);
        }
        let [process_in, process_out, process_err] = &mut stdio.process;
        if let Place::Fifo(path) = Place::parse(&uris.stdin)? {
            let (reader, writer) = fifo(path).map_err(failed(path))?;
            let (theirs, ours) = pipe(owner).map_err(failed("pipe"))?;
            *process_in = theirs;
            nonblocking(&ours).map_err(failed("pipe"))?;
            stdio.streams.push(Stream::new(Way::In, reader, ours, Some(writer)));
            stdio.has_input = true;
        }
        if let Place::Binary(binary) = &stdout {
            // Both go to the program that the first names.
            let (out_reader, out) = pipe(owner).map_err(failed("pipe"))?;
            let (err_reader, err) = pipe(owner).map_err(failed("pipe"))?;
            (*process_out, *process_err) = (out, err);
            stdio.logger = Some(Logger { binary: binary.clone(), streams: [out_reader, err_reader] });
            return Ok(stdio);
        }
        let stderr = Place::parse(&uris.stderr)?;
        for (place, process, uri) in [(&stdout, process_out, &uris.stdout), (&stderr, process_err, &uris.stderr)] {
            match place {
                Place::Nowhere => {}
                Place::Fifo(path) => match fifo(path) {
                    Ok((reader, writer)) => {
                        let (ours, theirs) = pipe(owner).map_err(failed("pipe"))?;
                        *process = theirs;
                        nonblocking(&ours).map_err(failed("pipe"))?;
                        stdio.streams.push(Stream::new(Way::Out, ours, writer, Some(reader)));
                    }
                    // No FIFO but a file, which needs nobody in between.
                    Err(Errno::NOTUNIQ) => *process = file(path).map_err(failed(path))?,
                    Err(e) => return Err(failed(path)(e)),
                },
                Place::File(path) => *process = file(path).map_err(failed(path))?,
                Place::Binary(_) => {
                    let text = format!("{uri}: a program takes both streams, or none");
                    return Err(Status::new(Code::InvalidArgument, text));
                }
            }
        }
        Ok(stdio)
    }

    fn open_terminal(&mut self, uris: &Uris, stdout: &Place<'_>) -> Result<(), Status> {
        let mut ends = Ends::default();
        if let Place::Fifo(path) = Place::parse(&uris.stdin)? {
            ends.input = Some(fifo(path).map_err(failed(path))?);
        }
        match stdout {
            Place::Nowhere => {}
            Place::Fifo(path) => match fifo(path) {
                Ok((reader, writer)) => ends.output = Some((Way::Out, writer, Some(reader))),
                Err(Errno::NOTUNIQ) => ends.output = Some((Way::Append, file(path).map_err(failed(path))?, None)),
                Err(e) => return Err(failed(path)(e)),
            },
            Place::File(path) => ends.output = Some((Way::Append, file(path).map_err(failed(path))?, None)),
            Place::Binary(binary) => {
                let (out_reader, out) = pipe(Owner::default()).map_err(failed("pipe"))?;
                let (err_reader, _) = pipe(Owner::default()).map_err(failed("pipe"))?;
                self.logger = Some(Logger { binary: binary.clone(), streams: [out_reader, err_reader] });
                nonblocking(&out).map_err(failed("pipe"))?;
                ends.output = Some((Way::Out, out, None));
            }
        }
        self.terminal = Some(ends);
        Ok(())
    }

    /// What the parent keeps: the streams, and the ends that wait for a terminal. The process has its own by now.
    pub fn into_ours(self) -> Ours {
        let spare = self.logger.into_iter().flat_map(|logger| logger.streams).collect();
        Ours { streams: self.streams, terminal: self.terminal, has_input: self.has_input, spare }
    }

    /// What is to be started before the process.
    pub fn logger(&self) -> Option<&Logger> {
        self.logger.as_ref()
    }

    /// What has to be given to the job that starts it.
    pub fn for_logger(&self) -> Vec<BorrowedFd<'_>> {
        self.logger.iter().flat_map(|logger| &logger.streams).map(AsFd::as_fd).collect()
    }

    /// The process's streams.
    pub fn process(&self) -> [BorrowedFd<'_>; 3] {
        self.process.each_ref().map(AsFd::as_fd)
    }
}

/// The engine's side of a process's streams.
#[derive(Debug)]
pub struct Ours {
    /// They run already.
    pub streams: Vec<Stream>,
    terminal: Option<Ends>,
    /// The first of them is input.
    pub has_input: bool,
    /// What a logging program reads, held so that its death is not that of the process.
    pub spare: Vec<OwnedFd>,
}

/// Lets what is written to a pipe go nowhere, now that the program that read it is dead.
pub fn to_nowhere(reader: OwnedFd) -> Result<Stream, Errno> {
    nonblocking(&reader)?;
    Ok(Stream::new(Way::Out, reader, null()?, None))
}

impl Ours {
    /// Joins what was waiting for the terminal to its master side. The input is first, if there is one.
    pub fn attach(&mut self, master: &OwnedFd) -> Result<(), Errno> {
        let Some(ends) = self.terminal.take() else { return Ok(()) };
        nonblocking(master)?;
        if let Some((reader, writer)) = ends.input {
            self.streams.push(Stream::new(Way::In, reader, fcntl_dupfd_cloexec(master, 3)?, Some(writer)));
            self.has_input = true;
        }
        if let Some((way, sink, held)) = ends.output {
            self.streams.push(Stream::new(way, fcntl_dupfd_cloexec(master, 3)?, sink, held));
        }
        Ok(())
    }
}

impl Logger {
    /// Starts it, in the job, and waits until it is ready. Its pid.
    pub fn start(&self, container: &str, namespace: &str) -> Result<u32, Status> {
        let failed = failed(&self.binary.path);
        let (ready, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(&failed)?;
        let strings = |strings: Vec<String>| Strings::new(strings).ok_or_else(|| failed(Errno::INVAL));
        let mut arguments = vec![self.binary.path.clone()];
        arguments.extend(self.binary.arguments.iter().cloned());
        let arguments = strings(arguments)?;
        let environment =
            strings(vec![format!("CONTAINER_ID={container}"), format!("CONTAINER_NAMESPACE={namespace}")])?;
        let path = std::ffi::CString::new(self.binary.path.as_str()).map_err(|_| failed(Errno::INVAL))?;
        // Closed by execve, or told why there was none.
        let (complaint, complain) = pipe_with(PipeFlags::CLOEXEC).map_err(&failed)?;
        let child = orlop_sys::clone::fork(|| {
            let become_it = || {
                let null = null()?;
                // What the job has there is the process's own: whoever holds it keeps its end from being seen.
                for fd in 0..3 {
                    dup_to(null.as_fd(), fd, false)?;
                }
                let fds = [borrow_fd(job::MORE)?, borrow_fd(job::MORE + 1)?, theirs.as_fd(), complain.as_fd()];
                // Out of the way of the numbers that it is to find.
                let [out, err, ready, complain] = fds.map(|fd| fcntl_dupfd_cloexec(fd, 64));
                for (to, fd) in (3..).zip([out, err, ready]) {
                    dup_to(fd?.as_fd(), to, false)?;
                }
                close_range(6, u32::MAX, true)?;
                reset_signals()?;
                set_parent_process_death_signal(None)?;
                let errno = execve(&path, &arguments, &environment, None);
                // If nobody listens, nobody needs to know.
                let _ = write(complain?, &errno.raw_os_error().to_ne_bytes());
                Err(errno)
            };
            let _: Result<(), Errno> = become_it();
            127
        });
        let child = child.map_err(&failed)?;
        drop((theirs, complain));
        let mut errno = [0; 4];
        if read(&complaint, &mut errno[..]).map_err(&failed)? == errno.len() {
            return Err(failed(Errno::from_raw_os_error(i32::from_ne_bytes(errno))));
        }
        let mut fds = [PollFd::new(&ready, PollFlags::IN)];
        if orlop_sys::rustix::io::retry_on_intr(|| poll(&mut fds, Some(&READY))).map_err(&failed)? == 0 {
            return Err(failed(Errno::TIMEDOUT));
        }
        let mut byte = [0];
        let said = read(&ready, &mut byte[..]).map_err(&failed)?;
        if said == 0 && self.binary.strict {
            return Err(Status::new(Code::Unknown, format!("{}: ended without being ready", self.binary.path)));
        }
        Ok(child.pid.as_raw_nonzero().get().unsigned_abs())
    }
}

/// A pipe; the container's user may open either end again.
fn pipe(owner: Owner) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    if owner != Owner::default() {
        // One inode has both ends.
        give(&reader, owner)?;
    }
    Ok((reader, writer))
}

/// Gives those of this process's own streams that are pipes to somebody else: for a job, which has a container's.
pub fn give_own(owner: Owner) -> Result<(), Errno> {
    use orlop_sys::rustix::stdio::{stderr, stdin, stdout};
    let is_pipe =
        |fd: &BorrowedFd<'_>| fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    [stdin(), stdout(), stderr()].iter().filter(|fd| is_pipe(fd)).try_for_each(|pipe| give(pipe, owner))
}

fn give(pipe: &impl AsFd, owner: Owner) -> Result<(), Errno> {
    let (uid, gid) = (orlop_sys::fs::Uid::from_raw(owner.uid), orlop_sys::fs::Gid::from_raw(owner.gid));
    orlop_sys::fs::fchown(pipe, Some(uid), Some(gid))
}

fn null() -> Result<OwnedFd, Errno> {
    openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)
}

/// Both ends of a FIFO, the reading one first. The other finds a reader then, so neither waits.
fn fifo(path: &str) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let reader = openat(CWD, path, OFlags::RDONLY | flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&reader)?.st_mode) != FileType::Fifo {
        return Err(Errno::NOTUNIQ);
    }
    let writer = openat(CWD, path, OFlags::WRONLY | flags, Mode::empty())?;
    Ok((reader, writer))
}

/// A file to append to, made with the directories that lead to it.
fn file(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    match openat(CWD, path, flags, mode) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    for (at, _) in path.match_indices('/').skip(1) {
        match mkdirat(CWD, path.get(..at).unwrap_or_default(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    openat(CWD, path, flags, mode)
}

impl<'a> Place<'a> {
    fn parse(uri: &'a str) -> Result<Self, Status> {
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Ok(if uri.is_empty() { Self::Nowhere } else { Self::Fifo(uri) });
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let bad = |why: &str| Status::new(Code::InvalidArgument, format!("{uri}: {why}"));
        let decoded = |text: &str| decode(text).ok_or_else(|| bad("not a URI"));
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(decoded(path)?)),
            "binary" | "binary-v2" => {
                let mut arguments = Vec::new();
                for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    arguments.push(decoded(&key.replace('+', " "))?);
                    arguments.push(decoded(&value.replace('+', " "))?);
                }
                Ok(Self::Binary(Binary { path: decoded(path)?, arguments, strict: scheme == "binary-v2" }))
            }
            _ => Err(bad("unknown scheme")),
        }
    }
}

/// Percent-decoding; no NUL comes out.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_says_where_a_stream_goes() {
        assert_eq!(Place::parse(""), Ok(Place::Nowhere));
        assert_eq!(Place::parse("/run/f"), Ok(Place::Fifo("/run/f")));
        assert_eq!(Place::parse("fifo:///run/f"), Ok(Place::Fifo("/run/f")));
        assert_eq!(Place::parse("file:///a%20b"), Ok(Place::File("/a b".into())));
        let binary = |arguments: &[&str], strict| {
            let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
            Ok(Place::Binary(Binary { path: "/bin/l".into(), arguments, strict }))
        };
        assert_eq!(Place::parse("binary:///bin/l"), binary(&[], false));
        assert_eq!(Place::parse("binary-v2:///bin/l?a=1+2&b=%2f"), binary(&["a", "1 2", "b", "/"], true));
        for bad in ["http://x", "file:///%", "file:///%zz", "file:///%00", "file:///%ff"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }
}
