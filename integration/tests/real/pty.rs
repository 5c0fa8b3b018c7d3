//! A person at a terminal: what is typed, and what is seen.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use orlop_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use orlop_sys::rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use orlop_sys::rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

/// A terminal, and the command that it controls if there is one.
pub(crate) struct Terminal {
    master: File,
    slave: Option<File>,
    child: Option<Child>,
    unread: String,
    /// The modes of the terminal before the command had it, as text to compare.
    pub(crate) mode_before: String,
}

impl Terminal {
    /// Runs `command` as the leader of a session on a new terminal of 30 rows and 100 columns.
    pub(crate) fn run(command: &Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let noctty = i32::try_from(orlop_sys::rustix::fs::OFlags::NOCTTY.bits()).unwrap();
        let slave = OpenOptions::new().read(true).write(true).custom_flags(noctty).open(name).unwrap();
        let mut terminal = Self::over(master);
        terminal.resize(30, 100);
        terminal.mode_before = mode(&slave);
        let mut leader = Command::new("setsid");
        leader.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        let stdio = || slave.try_clone().unwrap();
        terminal.child = Some(leader.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap());
        terminal.slave = Some(slave);
        terminal
    }

    /// The master side of a terminal that somebody else has made.
    pub(crate) fn over(master: OwnedFd) -> Self {
        Self { master: master.into(), slave: None, child: None, unread: String::new(), mode_before: String::new() }
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    /// The modes of the terminal now.
    pub(crate) fn mode(&self) -> String {
        mode(self.slave.as_ref().unwrap())
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` appears, and takes everything up to its end; what came before it.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(at) = self.unread.find(text) {
                let before = self.unread[..at].to_owned();
                self.unread.drain(..at + text.len());
                return before;
            }
            assert!(Instant::now() < give_up, "{text:?} does not appear; there is {:?}", self.unread);
            let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
            if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap() == 1 {
                let mut buffer = [0; 4096];
                let n = self.master.read(&mut buffer).unwrap_or(0);
                self.unread.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        }
    }

    /// As when a window is closed.
    pub(crate) fn close(&mut self) {
        self.slave = None;
        self.master = File::open("/dev/null").unwrap();
    }

    /// The exit status of the command as a shell counts.
    pub(crate) fn wait(&mut self) -> i32 {
        let status = self.child.take().unwrap().wait().unwrap();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }
}

fn mode(terminal: &File) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}
