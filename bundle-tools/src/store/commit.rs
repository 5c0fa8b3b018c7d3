//! A container's changes become a layer of the store.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use super::behind::Behind;
use super::layers::{self, seal_table, table_name, tar_name};
use super::lock::Scratch;
use super::{Lease, Store};
use crate::commit::document::NewLayer;
use crate::commit::{self, Changes, Options, Output, Summary, Target};
use crate::diff::Change;
use crate::digest::Digest;
use crate::dir::Dir;
use crate::error::{At, Result};
use crate::image::Compression;
use crate::worker::{Jail, Task, Worker};

/// The longest list of changes that is read, in bytes.
const MAX_DIFF: u64 = 1 << 30;

impl Store {
    /// Has a worker read what is different in `root` from the image of the layers `below`, and makes a layer and its blob
    /// of it. `None` if nothing is different.
    #[allow(clippy::too_many_arguments, reason = "each is one choice of the user's")]
    pub fn commit_layer(
        &self,
        _lease: &Lease,
        below: &[Digest],
        root: &Dir,
        changes: Changes,
        options: &Options,
        compression: Compression,
        level: Option<i32>,
    ) -> Result<(Option<NewLayer>, Summary)> {
        let (tar, mut table, blob) =
            (Scratch::new(&self.incoming)?, Scratch::new(&self.incoming)?, Scratch::new(&self.incoming)?);
        let (from, to) = layers::pipe()?;
        let to_table = table.append()?;
        let worker =
            self.start_commit(below, root, changes, options, Output::Layer, &[to.as_fd(), to_table.as_fd()])?;
        drop((to, to_table));
        let (mut to_tar, mut to_blob) = (Behind::new(&tar.file, 0)?, Behind::new(&blob.file, 0)?);
        let sealed = commit::seal(from, &mut to_tar, Target { compression, level, to: &mut to_blob });
        let sealed = sealed.and_then(|sealed| to_tar.finish().and_then(|()| to_blob.finish()).map(|()| sealed));
        // If the worker has failed, that is why the tar ends early; if not, it has to be gone before what it wrote is read.
        let summary: Summary = match &sealed {
            Ok(_) => worker.wait()?,
            // It may wait for a reader that there isn't any more.
            Err(_) => {
                drop(worker);
                Summary::default()
            }
        };
        let sealed = sealed?;
        if summary.entries == 0 {
            return Ok((None, summary));
        }
        let layer = NewLayer { diff_id: sealed.diff_id, digest: sealed.digest, size: sealed.size, compression };
        let info = seal_table(&mut table, sealed.diff_id, sealed.tar_size)?;
        tar.sync()?;
        let blob = if compression == Compression::None { tar.again()? } else { blob };
        blob.sync()?;
        blob.publish(&self.blobs, &layer.digest.hex())?;
        self.blobs.sync()?;
        if self.layer_info(&info.diff_id)?.is_none() {
            tar.publish(&self.layers, &tar_name(&info.diff_id))?;
            // A layer is there when its table is, so the table is the last.
            self.layers.sync()?;
            table.publish(&self.layers, &table_name(&info.diff_id))?;
            self.layers.sync()?;
        }
        Ok((Some(layer), summary))
    }

    /// Has a worker list what is different in `root` from the image of the layers `below`, in the order of the paths.
    pub fn diff(&self, below: &[Digest], root: &Dir, changes: Changes, options: &Options) -> Result<Vec<Change>> {
        let (from, to) = layers::pipe()?;
        let worker = self.start_commit(below, root, changes, options, Output::Diff, &[to.as_fd()])?;
        drop(to);
        let mut bytes = Vec::new();
        from.take(MAX_DIFF).read_to_end(&mut bytes).at(|| "read the changes")?;
        worker.wait::<Summary>()?;
        crate::diff::decode(&bytes)
    }

    fn start_commit(
        &self,
        below: &[Digest],
        root: &Dir,
        changes: Changes,
        options: &Options,
        output: Output,
        outputs: &[BorrowedFd<'_>],
    ) -> Result<Worker> {
        let (tables, files) = self.parts(below)?;
        let task = Task::Commit(commit::Task { tables, changes, options: options.clone(), output });
        let fds: Vec<_> = outputs.iter().copied().chain(files.iter().map(AsFd::as_fd)).collect();
        Worker::start(&task, &fds, Jail::Into(root))
    }
}
