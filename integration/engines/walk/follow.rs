//! What a command prints while it runs, as `logs -f` does.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

/// How long a line is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A command that goes on.
#[derive(Debug)]
pub(crate) struct Follower {
    child: Child,
    lines: Receiver<String>,
    reader: JoinHandle<()>,
}

impl Follower {
    /// Begins it.
    pub(crate) fn new(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        let reader = spawn(move || {
            // Who has let go of the other end wants no more.
            let _ = output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
        });
        Self { child, lines, reader }
    }

    /// The next line that it prints.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }

    /// Sees it end by itself and well, without another line.
    #[track_caller]
    pub(crate) fn end(mut self) {
        assert_eq!(self.lines.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
        self.reader.join().unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}
