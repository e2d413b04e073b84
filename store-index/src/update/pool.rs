//! The threads that read and hash. The thread of the update feeds them and takes what they make.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender};

use crate::beneath::Beneath;
use crate::hash_file::{BUFFER_LEN, Hashed, NotHashed, Purpose, hash};
use crate::key::KeySet;
use crate::links::LinkName;
use crate::watch::Watch;

/// How many jobs may wait for each thread: enough that none runs dry while the update writes a segment header,
/// few enough that their names take no memory to speak of.
const QUEUE_PER_THREAD: usize = 64;

/// A file to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// An entry of `.links`.
    Link(LinkName),
    /// A file of a store item, relative to the store.
    StoreFile(Vec<u8>),
    /// A file of a folder, relative to it.
    FolderFile(Vec<u8>),
}

impl Job {
    pub(super) fn relative_path(&self) -> PathBuf {
        match self {
            Self::Link(name) => name.relative_path(),
            Self::StoreFile(path) | Self::FolderFile(path) => {
                PathBuf::from(OsStr::from_bytes(path))
            }
        }
    }

    const fn purpose(&self) -> Purpose {
        match self {
            Self::Link(_) => Purpose::Link,
            Self::StoreFile(_) => Purpose::Immutable,
            Self::FolderFile(_) => Purpose::Mutable,
        }
    }
}

/// What became of a job.
pub(super) type Outcome = (Job, Result<Hashed, NotHashed>);

/// The feeding end of the threads.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Sender<Job>,
    outcomes: Receiver<Outcome>,
    outstanding: usize,
}

impl Pool {
    /// Runs `work` with `threads` threads that read below a root.
    pub(super) fn run<R>(
        root: &Path,
        kinds: KeySet,
        threads: usize,
        watch: Watch<'_>,
        work: impl FnOnce(&mut Self) -> R,
    ) -> std::io::Result<R> {
        let beneath = Beneath::open(root)?;
        let (jobs, queue) = crossbeam_channel::bounded::<Job>(threads * QUEUE_PER_THREAD);
        let (finished, outcomes) = crossbeam_channel::unbounded::<Outcome>();
        Ok(std::thread::scope(|scope| {
            for _ in 0..threads {
                let (queue, finished, beneath) = (queue.clone(), finished.clone(), &beneath);
                scope.spawn(move || {
                    let mut buffer = vec![0; BUFFER_LEN];
                    for job in queue {
                        let outcome = read(&job, beneath, kinds, &mut buffer, watch);
                        if finished.send((job, outcome)).is_err() {
                            break;
                        }
                    }
                });
            }
            // Dropped at the end of the scope's closure, which ends the threads.
            work(&mut Self {
                jobs,
                outcomes,
                outstanding: 0,
            })
        }))
    }

    /// Hands a job to the threads, waiting if they have enough to do.
    pub(super) fn submit(&mut self, job: Job) {
        // The threads live as long as the pool, so that sending cannot fail.
        if self.jobs.send(job).is_ok() {
            self.outstanding += 1;
        }
    }

    /// Returns an outcome that is there already.
    pub(super) fn take_finished(&mut self) -> Option<Outcome> {
        let outcome = self.outcomes.try_recv().ok()?;
        self.outstanding -= 1;
        Some(outcome)
    }

    /// Waits for an outcome; `None` when all jobs are done.
    pub(super) fn wait(&mut self) -> Option<Outcome> {
        if self.outstanding == 0 {
            return None;
        }
        let outcome = self.outcomes.recv().ok()?;
        self.outstanding -= 1;
        Some(outcome)
    }
}

fn read(
    job: &Job,
    beneath: &Beneath,
    kinds: KeySet,
    buffer: &mut [u8],
    watch: Watch<'_>,
) -> Result<Hashed, NotHashed> {
    if watch.interrupted() {
        return Err(NotHashed::Interrupted);
    }
    let file = beneath
        .open_file(&job.relative_path())
        .map_err(NotHashed::Unreadable)?;
    hash(file, job.purpose(), kinds, buffer, watch)
}
