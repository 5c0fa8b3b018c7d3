//! Standard output and standard error.

use std::io::{self, ErrorKind, Write};

use orlop_bundle::error::{At, Result};

/// Standard output. A reader that has gone away (`| head`) wants no more, which is no error.
pub(crate) struct Screen {
    out: io::StdoutLock<'static>,
    gone: bool,
}

impl Screen {
    /// Takes standard output for the whole run.
    pub(crate) fn new() -> Self {
        Self { out: io::stdout().lock(), gone: false }
    }

    /// Writes `text` at once.
    pub(crate) fn print(&mut self, text: &str) -> Result<()> {
        if self.gone {
            return Ok(());
        }
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            other => other.at(|| "standard output"),
        }
    }

    /// Writes all of `from`.
    pub(crate) fn copy(&mut self, mut from: impl io::Read) -> Result<()> {
        match io::copy(&mut from, &mut self.out).and_then(|_| self.out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            other => other.at(|| "standard output"),
        }
    }

    /// Writes `text` and an end of line.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        self.print(&format!("{text}\n"))
    }
}

/// Tells people something on standard error. Where that is closed, there is nobody to tell.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Asks something on standard error; the answer is typed behind it.
pub(crate) fn ask(question: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(question.as_bytes()).and_then(|()| out.flush());
}
