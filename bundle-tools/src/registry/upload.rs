//! A blob on its way out: not at all if it is there, mounted if another repository has it, else sent.

use std::fs::File;

use ureq::http::{Method, StatusCode, Uri, header};

use crate::error::{Error, ErrorKind, Result};
use crate::image::Descriptor;

use super::Repository;
use super::auth::{form, with_query};
use super::http::{Payload, Request, Response, Sent};

/// The piece that is sent at once where a registry does not take a blob whole.
const CHUNK: u64 = 16 << 20;

/// How a blob came to be in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there.
    Present,
    /// Another repository of the registry has it.
    Mounted,
    /// Its bytes were sent.
    Sent,
}

impl Repository {
    /// Sees to it that the registry has the blob in this repository. `content` is the blob; `mount` are other repositories
    /// of this registry that may have it; `sent` is told of the bytes that go out (again, if they must).
    pub fn upload(
        &self,
        descriptor: &Descriptor,
        content: &File,
        mount: &[String],
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<Uploaded> {
        let upload = || -> Result<Uploaded> {
            let mut failed = 0;
            loop {
                // Also before a further attempt: the last one may have got through.
                if self.has(&self.push_scope(), &format!("blobs/{}", descriptor.digest))? {
                    return Ok(if failed == 0 { Uploaded::Present } else { Uploaded::Sent });
                }
                match self.attempt(descriptor, content, mount, Sent(sent)) {
                    Err(e) if e.kind() == ErrorKind::Network => {
                        failed += 1;
                        let patience = &self.http.patience;
                        if failed >= patience.attempts {
                            return Err(e);
                        }
                        std::thread::sleep(patience.after(failed, None));
                    }
                    done => return done,
                }
            }
        };
        upload().map_err(|e| self.said(&format!("put blob {}", descriptor.digest), e))
    }

    fn attempt(&self, descriptor: &Descriptor, content: &File, mount: &[String], sent: Sent<'_>) -> Result<Uploaded> {
        let digest = descriptor.digest.to_string();
        for from in mount {
            let query = form(&[("mount", &digest), ("from", from)]);
            let scope = format!("{} repository:{from}:pull", self.push_scope());
            let answer = self.call(&scope, Request::new(Method::POST, self.url(&format!("blobs/uploads/?{query}"))?));
            match answer {
                Ok(response) if response.status == StatusCode::CREATED => return Ok(Uploaded::Mounted),
                // Not there, or not for us: an upload has begun instead.
                Ok(response) if response.status == StatusCode::ACCEPTED => {
                    return self.transfer(&response, descriptor, content, sent);
                }
                // Mounting spares work, and is not what was asked for.
                Ok(_) | Err(_) => {}
            }
        }
        let begun = self.begin()?;
        self.transfer(&begun, descriptor, content, sent)
    }

    fn begin(&self) -> Result<Response> {
        let response = self.call(&self.push_scope(), Request::new(Method::POST, self.url("blobs/uploads/")?))?;
        if response.status == StatusCode::ACCEPTED { Ok(response) } else { Err(response.error()) }
    }

    fn transfer(&self, begun: &Response, descriptor: &Descriptor, file: &File, sent: Sent<'_>) -> Result<Uploaded> {
        let payload = Payload::Piece { file, from: 0, len: descriptor.size, sent };
        let response = self.complete(&self.continuation(begun)?, descriptor, payload)?;
        if response.status == StatusCode::PAYLOAD_TOO_LARGE {
            return self.in_chunks(descriptor, file, sent);
        }
        if response.status.is_success() { Ok(Uploaded::Sent) } else { Err(response.error()) }
    }

    /// Sends it piece by piece, each to where the answer to the last one leads.
    fn in_chunks(&self, descriptor: &Descriptor, file: &File, sent: Sent<'_>) -> Result<Uploaded> {
        let begun = self.begin()?;
        let least = begun.header("oci-chunk-min-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let (mut at, mut url) = (0, self.continuation(&begun)?);
        while at < descriptor.size {
            let len = CHUNK.max(least).min(descriptor.size - at);
            let request = Request::new(Method::PATCH, url)
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .header(header::CONTENT_RANGE, format!("{at}-{}", at + len - 1))
                .payload(Payload::Piece { file, from: at, len, sent });
            let response = self.call_once(&self.push_scope(), request)?;
            if response.status != StatusCode::ACCEPTED {
                return Err(response.error());
            }
            url = self.continuation(&response)?;
            at += len;
        }
        let response = self.complete(&url, descriptor, Payload::Nothing)?;
        if response.status.is_success() { Ok(Uploaded::Sent) } else { Err(response.error()) }
    }

    fn complete(&self, url: &Uri, descriptor: &Descriptor, payload: Payload<'_>) -> Result<Response> {
        let url = with_query(url, &form(&[("digest", &descriptor.digest.to_string())]))?;
        let request =
            Request::new(Method::PUT, url).header(header::CONTENT_TYPE, "application/octet-stream").payload(payload);
        self.call_once(&self.push_scope(), request)
    }

    /// Where an upload goes on.
    fn continuation(&self, response: &Response) -> Result<Uri> {
        let location = response.header(header::LOCATION);
        let location = location.ok_or_else(|| Error::new(ErrorKind::Network, "no location for the upload"))?;
        self.http.target(&response.url, location)
    }
}
