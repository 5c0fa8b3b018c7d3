//! What pulling and pushing have in common: several blobs at a time, and somebody who watches.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::Descriptor;

/// How many layers are on their way at the same time, unless the user says otherwise.
pub const JOBS: usize = 3;

/// Hears what becomes of each layer, from several threads. Layers are announced in the image's order, before anything else
/// is said of them, and each ends with one of `present`, `mounted` and `done`, unless all ends with an error.
pub trait Progress: Sync {
    /// The layer will be looked at.
    fn announced(&self, _layer: &Descriptor) {}
    /// It was there already.
    fn present(&self, _layer: &Digest) {}
    /// The registry takes it from another of its repositories.
    fn mounted(&self, _layer: &Digest) {}
    /// `bytes` more of its blob have come or gone; the first time, what an interrupted transfer had left.
    fn moved(&self, _layer: &Digest, _bytes: u64) {}
    /// So many bytes of its plain tar are written by now.
    fn unpacked(&self, _layer: &Digest, _bytes: u64) {}
    /// Something of it was left out that somebody may miss.
    fn noted(&self, _layer: &Digest, _note: &str) {}
    /// It is whole, verified and stored.
    fn done(&self, _layer: &Digest) {}
}

/// Nobody watches.
impl Progress for () {}

/// Set when there is no use in going on.
#[derive(Debug, Default)]
pub(crate) struct Stop(AtomicBool);

impl Stop {
    /// An error if another job has failed. It is never seen, as the other one's is the first.
    pub(crate) fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Error::invalid("stopped")),
            false => Ok(()),
        }
    }
}

/// Does `work` for all `items`, `jobs` at a time, in order. The first error ends it.
pub(crate) fn in_parallel<T: Sync>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T, &Stop) -> Result<()> + Sync,
) -> Result<()> {
    let (next, stop, failed) = (AtomicUsize::new(0), Stop::default(), Mutex::new(None));
    let one = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.check().is_err() {
                return;
            }
            if let Err(e) = work(item, &stop) {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(e);
                stop.0.store(true, Ordering::Relaxed);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.min(items.len()) {
            scope.spawn(one);
        }
        one();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_ends_the_work_and_is_the_one_that_is_said() {
        let items: Vec<usize> = (0..100).collect();
        let done = AtomicUsize::new(0);
        let said = in_parallel(3, &items, |item, stop| {
            if *item == 5 {
                return Err(Error::invalid("five"));
            }
            // What comes after it is under way when it fails, and ends by it.
            if *item > 5 {
                loop {
                    stop.check()?;
                    std::thread::yield_now();
                }
            }
            done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        assert_eq!(said.unwrap_err().to_string(), "five");
        assert_eq!(done.load(Ordering::SeqCst), 5);
        in_parallel(3, &items, |_, _| {
            done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 105);
    }
}
