//! Blobs on their way in: written to `incoming/`, hashed meanwhile, and published once they are what was promised.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Store;
use super::behind::Behind;
use super::lock::{self, Lease};
use crate::digest::{Digest, Hasher};
use crate::error::{At, Error, Result};
use crate::image::Descriptor;

/// A blob that is being received. Dropped before [`Incoming::finish`], it is kept as far as it came, and the next
/// [`Store::incoming`] of the same descriptor goes on from there.
#[derive(Debug)]
pub struct Incoming<'s> {
    store: &'s Store,
    expected: Option<Digest>,
    size: Option<u64>,
    state: State,
    shared: Arc<Shared>,
    /// Writes what comes; not there before the first byte.
    behind: Option<Behind>,
    fed: Option<Fed>,
    _lease: Lease,
}

#[derive(Debug)]
enum State {
    /// It was in the store already.
    Present(File),
    Partial {
        file: File,
        /// In `incoming/`; gone once it is published.
        name: Option<String>,
        hasher: Hasher,
        have: u64,
    },
}

/// The reader that makes a layer of the blob while it comes in, seen from the writer.
#[derive(Debug)]
struct Fed {
    to: File,
    /// How many bytes it has got.
    at: u64,
    /// The digest of these, if they come in once more.
    again: Option<Digest>,
}

/// A blob in the store, verified.
#[derive(Debug)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its content, for reading.
    pub file: File,
}

/// What reader and writer tell each other.
#[derive(Debug, Default)]
struct Progress {
    /// Set once: that the whole is there and right, or that it never will be.
    end: Option<Result<(Digest, u64)>>,
    /// Why the reader has no use for the rest.
    refused: Option<Error>,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what became of it, unless that was said.
    fn end(&self, end: Result<(Digest, u64)>) {
        self.lock().end.get_or_insert(end);
        self.changed.notify_all();
    }
}

impl Store {
    /// Begins, or continues, to receive the blob that `descriptor` names. If another process receives it at this
    /// moment, this waits until that one is done or gives up. Check [`Incoming::is_complete`] first.
    pub fn incoming(&self, descriptor: &Descriptor) -> Result<Incoming<'_>> {
        let lease = self.lease()?;
        let name = format!("blob-{}", descriptor.digest.hex());
        let incoming = |state| Incoming {
            store: self,
            expected: Some(descriptor.digest),
            size: Some(descriptor.size),
            state,
            shared: Arc::default(),
            behind: None,
            fed: None,
            _lease: lease,
        };
        if let Some(file) = self.blob(&descriptor.digest)? {
            return incoming(State::Present(file)).present(descriptor.size);
        }
        let mut file = lock::claim(&self.incoming, &name)?;
        // The lock may have been waited for.
        if let Some(there) = self.blob(&descriptor.digest)? {
            self.incoming.unlink(&name)?;
            return incoming(State::Present(there)).present(descriptor.size);
        }
        if file.metadata().at(|| "stat a partial blob")?.len() > descriptor.size {
            file.set_len(0).at(|| "empty a partial blob")?;
        }
        let mut hasher = Hasher::default();
        let have = hash_rest(&mut file, &mut hasher)?;
        Ok(incoming(State::Partial { file, name: Some(name), hasher, have }))
    }

    /// Begins to receive a blob of which only the `size` may be known: a file of the user's own.
    pub fn incoming_unnamed(&self, size: Option<u64>) -> Result<Incoming<'_>> {
        let lease = self.lease()?;
        let (name, file) = lock::Scratch::new(&self.incoming)?.into_parts()?;
        let state = State::Partial { file, name: Some(name), hasher: Hasher::default(), have: 0 };
        Ok(Incoming {
            store: self,
            expected: None,
            size,
            state,
            shared: Arc::default(),
            behind: None,
            fed: None,
            _lease: lease,
        })
    }
}

fn hash_rest(file: &mut File, hasher: &mut Hasher) -> Result<u64> {
    let (mut have, mut buffer) = (0u64, vec![0; 256 << 10]);
    loop {
        let n = file.read(&mut buffer).at(|| "read a partial blob")?;
        let Some(read) = buffer.get(..n).filter(|read| !read.is_empty()) else { return Ok(have) };
        hasher.update(read);
        have += n as u64;
    }
}

impl Incoming<'_> {
    /// A blob that is there. Its name was verified when it came in; a descriptor that gives it another length is wrong.
    fn present(self, size: u64) -> Result<Self> {
        let (State::Present(file), Some(digest)) = (&self.state, self.expected) else { return Ok(self) };
        let len = file.metadata().at(|| "stat a blob")?.len();
        if len != size {
            return Err(Error::invalid(format!("{digest}: announced with {size} bytes, has {len}")));
        }
        self.shared.end(Ok((digest, len)));
        Ok(self)
    }

    /// True if there is nothing to receive: [`Incoming::finish`] is all that is left.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Present(_))
    }

    /// How many bytes are there already: where a `Range` request starts.
    pub fn have(&self) -> u64 {
        match &self.state {
            State::Present(_) => self.size.unwrap_or_default(),
            State::Partial { have, .. } => *have,
        }
    }

    /// Takes the next bytes in. More bytes than were announced are an error, as is what a reader of the layer found in
    /// those that it has seen.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let named = self.named();
        self.feed_what_is_there()?;
        let State::Partial { file, hasher, have, .. } = &mut self.state else {
            return Err(Error::invalid(format!("{named}: is complete")));
        };
        if let Some(refused) = self.shared.lock().refused.clone() {
            return Err(refused);
        }
        let before = *have;
        let after = before.saturating_add(bytes.len() as u64);
        if let Some(size) = self.size.filter(|size| after > *size) {
            return Err(Error::invalid(format!("{named}: longer than the announced {size} bytes")));
        }
        let known = self.fed.as_ref().map_or(0, |fed| fed.at.clamp(before, after) - before);
        let (known, new) = bytes.split_at_checked(usize::try_from(known).unwrap_or_default()).unwrap_or((&[], bytes));
        hasher.update(known);
        if let Some(fed) = self.fed.as_mut().filter(|fed| after >= fed.at)
            && let Some(again) = fed.again.take()
            && hasher.clone().finish() != again
        {
            return Err(Error::invalid(format!("{named}: has other bytes than before")));
        }
        hasher.update(new);
        let behind = match &mut self.behind {
            Some(behind) => behind,
            None => self.behind.insert(Behind::new(file, before)?),
        };
        behind.write_all(bytes).at(|| format!("write {named}"))?;
        *have = after;
        if let Some(fed) = &mut self.fed {
            fed.at = fed.at.max(after);
            if fed.to.write_all(new).is_err() {
                // It has all that it wants, or says later why not.
                self.fed = None;
            }
        }
        Ok(())
    }

    /// Starts over at the first byte, for a server that can't continue.
    pub fn restart(&mut self) -> Result<()> {
        self.written()?;
        let State::Partial { hasher, have, .. } = &mut self.state else { return Ok(()) };
        let seen = std::mem::take(hasher);
        if let Some(fed) = self.fed.as_mut().filter(|fed| fed.at == *have && fed.at > 0) {
            fed.again = Some(seen.finish());
        }
        *have = 0;
        Ok(())
    }

    /// Ends it: checks length and digest, makes the blob durable and gives it its name. If it is too short, what is there
    /// can be continued later; if its digest is another, nothing of it stays.
    pub fn finish(mut self) -> Result<Blob> {
        // The reader learns of the end of what is no blob after it has learned why.
        let done = self.check().inspect_err(|e| self.shared.end(Err(e.clone()))).and_then(|digest| {
            self.feed_what_is_there()?;
            self.fed = None;
            self.publish(digest)
        });
        self.shared.end(done.as_ref().map(|blob| (blob.digest, blob.size)).map_err(Error::clone));
        done
    }

    /// The digest of what came, if it is what was announced.
    fn check(&mut self) -> Result<Digest> {
        self.written()?;
        let named = self.named();
        let State::Partial { name, hasher, have, .. } = &mut self.state else {
            return Ok(self.expected.unwrap_or_else(|| Digest::of(b"")));
        };
        if let Some(announced) = self.size.filter(|announced| announced != have) {
            return Err(Error::invalid(format!("{named}: ends after {have} of {announced} bytes")));
        }
        let digest = hasher.clone().finish();
        match self.expected.filter(|expected| *expected != digest) {
            None => Ok(digest),
            Some(expected) => {
                // Not to be continued: the next attempt starts from nothing.
                if let Some(name) = name.take() {
                    let _ = self.store.incoming.unlink(&name);
                }
                Err(Error::invalid(format!("{expected}: the content has the digest {digest}")))
            }
        }
    }

    /// Waits until what came is in the file.
    fn written(&mut self) -> Result<()> {
        self.behind.take().map_or(Ok(()), |behind| behind.finish().map_err(|e| e.context(self.named())))
    }

    fn publish(&mut self, digest: Digest) -> Result<Blob> {
        let (named, size) = (self.named(), self.have());
        let State::Partial { file, name, .. } = &mut self.state else {
            let file = self.store.blobs.file(&digest.hex())?;
            return Ok(Blob { digest, size, file });
        };
        // A restart may have left old bytes behind the end.
        file.set_len(size).and_then(|()| file.sync_all()).at(|| format!("write {named}"))?;
        if let Some(name) = name.take() {
            self.store.incoming.move_to(&name, &self.store.blobs, &digest.hex())?;
        }
        self.store.blobs.sync()?;
        // The descriptor for reading is a new one: this one's lock ends with it.
        Ok(Blob { digest, size, file: self.store.blobs.file(&digest.hex())? })
    }

    /// What a layer can be made of while the bytes come in. Who holds it has to read: writing waits for it.
    pub fn feed(&mut self) -> Result<Feed> {
        let bytes = match &self.state {
            State::Present(file) => file.try_clone().at(|| "duplicate a descriptor")?,
            State::Partial { .. } => {
                let (bytes, to) = super::layers::pipe()?;
                self.fed = Some(Fed { to, at: 0, again: None });
                bytes
            }
        };
        Ok(Feed { bytes: Some(bytes), size: self.size, shared: Arc::clone(&self.shared) })
    }

    /// Gives the reader what had come before it was there.
    fn feed_what_is_there(&mut self) -> Result<()> {
        let State::Partial { file, have, .. } = &self.state else { return Ok(()) };
        let Some(fed) = self.fed.as_mut().filter(|fed| fed.at < *have) else { return Ok(()) };
        let mut buffer = vec![0; 256 << 10];
        while fed.at < *have {
            let n = file.read_at(&mut buffer, fed.at).at(|| "read a partial blob")?;
            let left = usize::try_from(*have - fed.at).unwrap_or(usize::MAX);
            let part = buffer.get(..n.min(left)).unwrap_or_default();
            if part.is_empty() || fed.to.write_all(part).is_err() {
                self.fed = None;
                break;
            }
            fed.at += part.len() as u64;
        }
        Ok(())
    }

    fn named(&self) -> String {
        self.expected.map_or_else(|| "blob".to_owned(), |digest| digest.to_string())
    }

    fn discard(&mut self) {
        if let State::Partial { name, .. } = &mut self.state
            && let Some(name) = name.take()
        {
            // What stays after a failure here is swept later.
            let _ = self.store.incoming.unlink(&name);
        }
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        self.shared.end(Err(Error::invalid("the blob did not arrive")));
        let refused = self.shared.lock().refused.is_some();
        // What a reader could not make sense of is not continued: it may be what a crash left of a file.
        if refused || self.expected.is_none() {
            self.discard();
        }
    }
}

impl Write for Incoming<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Incoming::write(self, bytes).map(|()| bytes.len()).map_err(std::io::Error::other)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A blob to make a layer of, complete or on its way.
#[derive(Debug)]
pub struct Feed {
    /// A file, or a pipe; gone once it is handed on, so that the writer learns that nobody reads any more.
    bytes: Option<File>,
    /// The announced length, if there is one.
    pub(crate) size: Option<u64>,
    shared: Arc<Shared>,
}

impl Feed {
    /// The feed of a blob in the store.
    pub fn of(blob: Blob) -> Self {
        let shared = Arc::new(Shared::default());
        shared.end(Ok((blob.digest, blob.size)));
        Self { bytes: Some(blob.file), size: Some(blob.size), shared }
    }

    /// The bytes, from the first one to the last; to be had once.
    pub(crate) fn bytes(&mut self) -> Result<File> {
        self.bytes.take().ok_or_else(|| Error::invalid("the blob was read before"))
    }

    /// Waits for the end: the digest and the length of the blob, or why there is none and what was there must not be used.
    pub(crate) fn verified(&self) -> Result<(Digest, u64)> {
        let mut progress = self.shared.lock();
        loop {
            match &progress.end {
                Some(end) => return end.clone(),
                None => progress = self.shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Why the blob is not, and won't be, what it should.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.shared.lock().end.clone()?.err()
    }

    /// Tells the writer that the rest is of no use, and why.
    pub(crate) fn refuse(&self, why: &Error) {
        self.shared.lock().refused.get_or_insert_with(|| why.clone());
    }
}
