//! One update under way: what the scans call, and what they have in common.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pool::{Job, Outcome, Pool};
use super::{MAX_NAMED_PROBLEMS, Reading, Summary, Update, UpdateError, index_error, root_error};
use crate::hash_file::{Hashed, NotHashed};
use crate::index_writer::IndexWriter;
use crate::key::{Digests, KeySet};
use crate::path_text;
use crate::segment::SegmentError;
use crate::segment::batch::Batch;
use crate::segment::reader::{IndexedFile, Segment};
use crate::store_path::PATH_DIGEST_LEN;
use crate::watch::Watch;

/// A segment is written when what waits in memory takes so many bytes.
const MAX_BATCH_MEMORY: usize = 96 * 1024 * 1024;

/// A segment is written at least so often, so that a long build that is killed loses little.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(120);

/// An update under way.
pub(super) struct Session<'s> {
    writer: &'s mut IndexWriter,
    pool: &'s mut Pool,
    update: &'s Update,
    pub(super) watch: Watch<'s>,
    batch: Batch,
    last_checkpoint: Instant,
    pub(super) summary: Summary,
    /// False once something could not be indexed that is there.
    pub(super) complete: bool,
    /// Items of which something could not be read; they are looked at again next time.
    broken_items: HashSet<Vec<u8>>,
    /// Items whose files have all been handed out: name, digest, inode.
    walked_items: Vec<(Vec<u8>, [u8; PATH_DIGEST_LEN], u64)>,
    keep_inodes: bool,
    /// Entries that go once their file has been read, by path.
    superseded: HashMap<Vec<u8>, (Arc<Segment>, u32)>,
}

impl<'s> Session<'s> {
    pub(super) fn new(
        writer: &'s mut IndexWriter,
        pool: &'s mut Pool,
        update: &'s Update,
        watch: Watch<'s>,
        warnings: Vec<String>,
    ) -> Self {
        Self {
            batch: Batch::new(writer.kinds()),
            writer,
            pool,
            update,
            watch,
            last_checkpoint: Instant::now(),
            summary: Summary {
                walked: true,
                warnings,
                ..Summary::default()
            },
            complete: true,
            broken_items: HashSet::new(),
            walked_items: Vec::new(),
            keep_inodes: true,
            superseded: HashMap::new(),
        }
    }

    pub(super) fn real(&self) -> &'s Path {
        &self.update.real
    }

    pub(super) fn index_dir(&self) -> &'s Path {
        &self.update.index_dir
    }

    /// Inodes say nothing here, or change from mount to mount.
    pub(super) const fn ignore_inodes(&mut self) {
        self.keep_inodes = false;
    }

    pub(super) fn update(&self) -> &'s Update {
        self.update
    }

    pub(super) fn kinds(&self) -> KeySet {
        self.writer.kinds()
    }

    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.writer.current_segments()
    }

    pub(super) fn index_error(&self, error: SegmentError) -> UpdateError {
        index_error(self.update, error)
    }

    pub(super) fn root_error(&self, source: std::io::Error) -> UpdateError {
        root_error(&self.update.real, source)
    }

    /// Has a file read; takes what has been read meanwhile, and writes it when it is much.
    pub(super) fn submit(&mut self, job: Job) -> Result<(), UpdateError> {
        if self.watch.interrupted() {
            return Err(UpdateError::Interrupted);
        }
        self.pool.submit(job);
        while let Some(outcome) = self.pool.take_finished() {
            self.take(outcome);
        }
        let full = self.batch.memory() >= MAX_BATCH_MEMORY;
        if full || self.last_checkpoint.elapsed() >= CHECKPOINT_EVERY {
            self.checkpoint()
        } else {
            Ok(())
        }
    }

    /// Has a file read that the index may have as a hint, which stays until then.
    pub(super) fn submit_file(
        &mut self,
        path: Vec<u8>,
        hint: Option<(Arc<Segment>, u32)>,
    ) -> Result<(), UpdateError> {
        if let Some(hint) = hint {
            self.superseded.insert(path.clone(), hint);
        }
        self.submit(Job::FolderFile(path))
    }

    /// Enters a file by what is known of it without reading it.
    pub(super) fn enter_unread(
        &mut self,
        file: IndexedFile,
        digests: &Digests,
    ) -> Result<(), UpdateError> {
        self.summary.added += 1;
        self.batch.push_file(file, digests);
        if self.batch.memory() >= MAX_BATCH_MEMORY {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Something is not as it should be, and the index is none the worse for it.
    pub(super) fn warn(&mut self, what: &str) {
        if self.summary.warnings.len() < MAX_NAMED_PROBLEMS {
            self.summary.warnings.push(what.to_owned());
        }
    }

    /// Remembers a store item once all its files have been read.
    pub(super) fn item_walked(&mut self, name: Vec<u8>, digest: [u8; PATH_DIGEST_LEN], inode: u64) {
        self.walked_items.push((name, digest, inode));
    }

    /// An item cannot be indexed as a whole.
    pub(super) fn item_broken(&mut self, name: &[u8]) {
        self.broken_items.insert(name.to_owned());
    }

    /// Something below the root cannot be read.
    pub(super) fn unreadable(&mut self, what: &str) {
        self.complete = false;
        self.summary.unreadable += 1;
        if self.summary.unreadable <= MAX_NAMED_PROBLEMS as u64 {
            self.summary.warnings.push(what.to_owned());
        }
    }

    pub(super) fn declare_dead(&mut self, segment: &Segment, objects: Vec<u32>) {
        self.summary.removed += objects.len() as u64;
        self.writer.declare_dead(segment, objects);
    }

    /// Drops items that are no longer listed; their files are counted, not they.
    pub(super) fn forget_items(&mut self, segment: &Segment, items: Vec<u32>) {
        self.writer.declare_dead(segment, items);
    }

    /// Waits until everything that was handed out has been read, and writes it.
    pub(super) fn checkpoint(&mut self) -> Result<(), UpdateError> {
        while let Some(outcome) = self.pool.wait() {
            self.take(outcome);
        }
        if self.watch.interrupted() {
            return Err(UpdateError::Interrupted);
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), UpdateError> {
        for (name, digest, inode) in std::mem::take(&mut self.walked_items) {
            if !self.broken_items.contains(&name) {
                self.batch.push_item(digest, inode);
            }
        }
        let batch = std::mem::replace(&mut self.batch, Batch::new(self.writer.kinds()));
        self.writer.append(&batch)?;
        self.last_checkpoint = Instant::now();
        Ok(())
    }

    /// Writes what is left. `outcome` is the store directory's time if the scan came to its end.
    pub(super) fn end(
        mut self,
        outcome: Result<Option<i64>, UpdateError>,
    ) -> Result<Summary, UpdateError> {
        let outcome = outcome.and_then(|mtime| self.checkpoint().map(|()| mtime));
        match outcome {
            Ok(_) if self.update.reading == Reading::Nothing => {
                self.writer.note_whole(false);
                self.writer.suspend()?;
            }
            Ok(store_mtime_ns) => {
                self.writer.note_whole(self.complete);
                self.writer
                    .finish(store_mtime_ns.filter(|_| self.complete))?;
            }
            Err(UpdateError::Interrupted) => {
                // The threads stop at their next buffer; what they had finished is kept.
                while let Some(outcome) = self.pool.wait() {
                    self.take(outcome);
                }
                self.walked_items.clear();
                self.flush()?;
                self.writer.suspend()?;
                return Err(UpdateError::Interrupted);
            }
            Err(error) => return Err(error),
        }
        Ok(self.summary)
    }

    fn take(&mut self, (job, result): Outcome) {
        match result {
            Ok(hashed) => self.enter(job, hashed),
            Err(NotHashed::Interrupted) => self.item_of_job_broken(&job),
            Err(NotHashed::Changed) => {
                self.summary.changing += 1;
                self.complete = false;
                self.item_of_job_broken(&job);
            }
            // Gone since it was listed: no longer our business.
            Err(NotHashed::Unreadable(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                // The file of a link that vanished just now may still be there in an item.
                self.complete &= !matches!(job, Job::Link(_));
                self.item_of_job_broken(&job);
            }
            Err(NotHashed::Unreadable(error)) => {
                let path = path_text::printable(&self.update.real.join(job.relative_path()));
                self.unreadable(&match error.raw_os_error() {
                    Some(_) => format!("cannot read {path}: {error}"),
                    // Errors of opening name the path themselves.
                    None => path_text::printable(Path::new(&error.to_string())),
                });
                self.item_of_job_broken(&job);
            }
        }
    }

    fn enter(&mut self, job: Job, hashed: Hashed) {
        self.summary.added += 1;
        self.summary.hashed_bytes += hashed.size;
        let (mtime_ns, inode) = match job {
            Job::FolderFile(_) => (
                hashed.mtime_ns,
                if self.keep_inodes { hashed.inode } else { 0 },
            ),
            Job::Link(_) | Job::StoreFile(_) => (hashed.mtime_ns, 0),
        };
        match job {
            Job::Link(name) => self.batch.push_link(name, hashed.size, &hashed.digests),
            Job::StoreFile(path) | Job::FolderFile(path) => {
                let file = IndexedFile {
                    path,
                    size: hashed.size,
                    mtime_ns,
                    inode,
                    hint: false,
                };
                if let Some((segment, object)) = self.superseded.remove(&file.path) {
                    self.declare_dead(&segment, vec![object]);
                }
                self.batch.push_file(file, &hashed.digests);
            }
        }
    }

    fn item_of_job_broken(&mut self, job: &Job) {
        if let Job::StoreFile(path) = job
            && let Some(item) = path.split(|&byte| byte == b'/').next()
        {
            self.broken_items.insert(item.to_owned());
        }
    }
}
