//! Blobs on their way in: written to `incoming/`, hashed meanwhile, and published once they are what was promised.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Store;
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
    /// How much of it the followers were told.
    told: u64,
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

/// What a reader that follows the growing file is told.
#[derive(Debug, Default)]
struct Progress {
    have: u64,
    /// Set once: that the whole is there and right, or that it never will be.
    end: Option<Result<(Digest, u64)>>,
    /// Why a follower has no use for the rest.
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

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Followers are told of news at this distance, in bytes.
const TELL: u64 = 256 << 10;

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
            told: 0,
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
        let mut incoming = incoming(State::Partial { file, name: Some(name), hasher, have });
        incoming.tell(0);
        Ok(incoming)
    }

    /// Begins to receive a blob of which only the `size` may be known: a file of the user's own.
    pub fn incoming_unnamed(&self, size: Option<u64>) -> Result<Incoming<'_>> {
        let lease = self.lease()?;
        let (name, file) = lock::Scratch::new(&self.incoming)?.into_parts()?;
        let state = State::Partial { file, name: Some(name), hasher: Hasher::default(), have: 0 };
        Ok(Incoming { store: self, expected: None, size, state, shared: Arc::default(), told: 0, _lease: lease })
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
        self.shared.change(|progress| {
            progress.have = len;
            progress.end = Some(Ok((digest, len)));
        });
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
        let State::Partial { file, hasher, have, .. } = &mut self.state else {
            return Err(Error::invalid(format!("{named}: is complete")));
        };
        if let Some(refused) = self.shared.lock().refused.clone() {
            return Err(refused);
        }
        let after = have.saturating_add(bytes.len() as u64);
        if let Some(size) = self.size.filter(|size| after > *size) {
            return Err(Error::invalid(format!("{named}: longer than the announced {size} bytes")));
        }
        file.write_all(bytes).at(|| format!("write {named}"))?;
        hasher.update(bytes);
        *have = after;
        self.tell(TELL);
        Ok(())
    }

    /// Starts over at the first byte, for a server that can't continue.
    pub fn restart(&mut self) -> Result<()> {
        if let State::Partial { file, hasher, have, .. } = &mut self.state {
            file.seek(SeekFrom::Start(0)).at(|| "rewind a partial blob")?;
            *hasher = Hasher::default();
            *have = 0;
        }
        Ok(())
    }

    /// Ends it: checks length and digest, makes the blob durable and gives it its name. If it is too short, what is there
    /// can be continued later; if its digest is another, nothing of it stays.
    pub fn finish(mut self) -> Result<Blob> {
        let done = self.publish();
        let end = match &done {
            Ok(blob) => Ok((blob.digest, blob.size)),
            Err(e) => Err(e.clone()),
        };
        self.shared.change(|progress| {
            progress.have = end.as_ref().map_or(0, |(_, size)| *size);
            progress.end.get_or_insert(end);
        });
        done
    }

    fn publish(&mut self) -> Result<Blob> {
        let named = self.named();
        let (file, name, digest, size) = match &mut self.state {
            State::Present(file) => {
                let file = file.try_clone().at(|| "duplicate a descriptor")?;
                return Ok(Blob { digest: self.expected.unwrap_or(Digest::of(b"")), size: self.have(), file });
            }
            State::Partial { file, name, hasher, have } => (file, name, hasher.clone().finish(), *have),
        };
        if let Some(announced) = self.size.filter(|announced| *announced != size) {
            return Err(Error::invalid(format!("{named}: ends after {size} of {announced} bytes")));
        }
        if let Some(expected) = self.expected.filter(|expected| *expected != digest) {
            // Not to be continued: the next attempt starts from nothing.
            if let Some(name) = name.take() {
                let _ = self.store.incoming.unlink(&name);
            }
            return Err(Error::invalid(format!("{expected}: the content has the digest {digest}")));
        }
        // A restart may have left old bytes behind the end.
        file.set_len(size).and_then(|()| file.sync_all()).at(|| format!("write {named}"))?;
        if let Some(name) = name.take() {
            self.store.incoming.move_to(&name, &self.store.blobs, &digest.hex())?;
        }
        self.store.blobs.sync()?;
        // The descriptor for reading is a new one: this one's lock ends with it.
        Ok(Blob { digest, size, file: self.store.blobs.file(&digest.hex())? })
    }

    /// What can follow the bytes while they come in.
    pub fn feed(&self) -> Result<Feed> {
        let (State::Present(file) | State::Partial { file, .. }) = &self.state;
        let file = file.try_clone().at(|| "duplicate a descriptor")?;
        Ok(Feed { file, size: self.size, shared: Arc::clone(&self.shared) })
    }

    fn named(&self) -> String {
        self.expected.map_or_else(|| "blob".to_owned(), |digest| digest.to_string())
    }

    fn tell(&mut self, distance: u64) {
        let have = self.have();
        if have >= self.told.saturating_add(distance) {
            self.told = have;
            self.shared.change(|progress| progress.have = progress.have.max(have));
        }
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
        let refused = {
            let mut progress = self.shared.lock();
            progress.end.get_or_insert(Err(Error::invalid("the blob did not arrive")));
            progress.refused.is_some()
        };
        self.shared.changed.notify_all();
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

/// A blob to read from, complete or still growing.
#[derive(Debug)]
pub struct Feed {
    pub(crate) file: File,
    /// The announced length, if there is one.
    pub(crate) size: Option<u64>,
    shared: Arc<Shared>,
}

/// What a follower waits for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// So many bytes can be read.
    Have(u64),
    /// All bytes are there, and they are the blob of this digest and length.
    Verified(Digest, u64),
    /// There will be no more, and what was there must not be used.
    Failed(Error),
    /// The follower itself was told to stop.
    Stopped,
}

impl Feed {
    /// The feed of a blob in the store.
    pub fn of(blob: &Blob) -> Result<Self> {
        let file = blob.file.try_clone().at(|| "duplicate a descriptor")?;
        let shared = Arc::new(Shared::default());
        shared.change(|progress| {
            progress.have = blob.size;
            progress.end = Some(Ok((blob.digest, blob.size)));
        });
        Ok(Self { file, size: Some(blob.size), shared })
    }

    /// Waits for more than `past` bytes, for the end, or until `stop` is set by [`Feed::stop`].
    pub(crate) fn wait(&self, past: u64, stop: &AtomicBool) -> News {
        let mut progress = self.shared.lock();
        loop {
            match &progress.end {
                Some(Ok((digest, size))) => return News::Verified(*digest, *size),
                Some(Err(e)) => return News::Failed(e.clone()),
                None if stop.load(Ordering::Relaxed) => return News::Stopped,
                None if progress.have > past => return News::Have(progress.have),
                None => progress = self.shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Ends the waiting of those who wait with `stop`.
    pub(crate) fn stop(&self, stop: &AtomicBool) {
        self.shared.change(|_| stop.store(true, Ordering::Relaxed));
    }

    /// Why the blob is not, and won't be, what it should.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.shared.lock().end.clone()?.err()
    }

    /// Tells the writer that the rest is of no use, and why.
    pub(crate) fn refuse(&self, why: &Error) {
        self.shared.change(|progress| {
            progress.refused.get_or_insert_with(|| why.clone());
        });
    }
}
