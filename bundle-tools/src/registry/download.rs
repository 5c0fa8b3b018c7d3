//! A blob on its way in: bounded by its descriptor, and taken up again where it broke off.

use std::io::Read;

use ureq::http::{Method, StatusCode, header};

use crate::error::{Error, ErrorKind, Result};
use crate::image::Descriptor;

use super::Repository;
use super::http::{Request, Response};

/// So much must have come before earlier failures are forgiven; a server that sends a byte a connection is not.
const PROGRESS: u64 = 1 << 20;

/// See the [module](self).
#[derive(Debug)]
pub struct Download<'a> {
    repository: &'a Repository,
    descriptor: Descriptor,
    /// What has been handed out, counted from the blob's start.
    at: u64,
    open: Option<Response>,
    failures: u32,
    /// Where the blob was at the last failure.
    failed_at: u64,
}

impl Repository {
    /// The blob that `descriptor` names, from the byte `from` on. Nothing is asked for before the first read.
    pub fn blob(&self, descriptor: &Descriptor, from: u64) -> Download<'_> {
        Download {
            repository: self,
            descriptor: descriptor.clone(),
            at: from,
            open: None,
            failures: 0,
            failed_at: from,
        }
    }
}

impl Download<'_> {
    /// The next bytes, at least one; 0 at the blob's end, which is where the descriptor says.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let name = format!("blob {}", self.descriptor.digest);
        let read = self.read_bounded(buffer);
        read.map_err(|e| self.repository.said(&name, e))
    }

    fn read_bounded(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            let left = self.descriptor.size.saturating_sub(self.at);
            if left == 0 {
                return Ok(0);
            }
            if self.open.is_none() {
                match self.start() {
                    Ok(response) => self.open = Some(response),
                    Err(e) if e.kind() == ErrorKind::Network => {
                        self.failed(e)?;
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            }
            let Some(response) = &mut self.open else { continue };
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let broken = match response.body.read(buffer.get_mut(..most).unwrap_or_default()) {
                Ok(0) => format!("ended after {} of {} bytes", self.at, self.descriptor.size),
                Ok(n) => {
                    self.at += n as u64;
                    return Ok(n);
                }
                Err(e) => format!("broke off after {} of {} bytes: {e}", self.at, self.descriptor.size),
            };
            self.failed(Error::new(ErrorKind::Network, broken))?;
        }
    }

    /// Waits before the next attempt, if there is to be one.
    fn failed(&mut self, e: Error) -> Result<()> {
        self.open = None;
        if self.at.saturating_sub(self.failed_at) >= PROGRESS {
            self.failures = 0;
        }
        self.failed_at = self.at;
        self.failures += 1;
        let patience = &self.repository.http.patience;
        if self.failures >= patience.attempts {
            return Err(e);
        }
        std::thread::sleep(patience.after(self.failures, None));
        Ok(())
    }

    /// Asks for what is left.
    fn start(&self) -> Result<Response> {
        let (at, size) = (self.at, self.descriptor.size);
        let mut request = Request::new(Method::GET, self.repository.url(&format!("blobs/{}", self.descriptor.digest))?);
        if at > 0 {
            request = request.header(header::RANGE, format!("bytes={at}-"));
        }
        let mut response = self.repository.call(&self.repository.pull_scope(), request)?;
        let whole = |length: Option<u64>| length.is_none_or(|length| length == size);
        match response.status {
            StatusCode::OK if !whole(response.length()) => Err(Error::invalid(format!(
                "the registry has {} bytes of it, and its descriptor says {size}",
                response.length().unwrap_or_default()
            ))),
            StatusCode::OK => {
                // Not every server knows ranges: what is there already comes again.
                let skipped = std::io::copy(&mut response.body.by_ref().take(at), &mut std::io::sink());
                match skipped {
                    Ok(n) if n == at => Ok(response),
                    _ => Err(Error::new(ErrorKind::Network, "broke off before what is missing")),
                }
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = response.header(header::CONTENT_RANGE).and_then(content_range);
                match range {
                    Some((first, total)) if first == at && whole(total) => Ok(response),
                    _ => Err(Error::invalid("the registry sends another part of it than was asked for")),
                }
            }
            _ => Err(response.error()),
        }
    }
}

/// The first byte and the whole length of `bytes FIRST-LAST/LENGTH`; the length may be `*`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-')?.0.parse().ok()?;
    match total {
        "*" => Some((first, None)),
        total => Some((first, Some(total.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 0-0/*"), Some((0, None)));
        for wrong in ["", "bytes */10", "5-9/10", "bytes 5-9", "bytes -9/10", "bytes 5-9/x"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
