//! Reads the files of a walk ahead of it, in bounded memory.
//!
//! One thread lists, one reads, and the caller's visits: hashing is the slowest of the three when everything is in
//! the page cache, and more readers would only take the processor from it. Once reads are seen to wait for the disk,
//! more readers join, since a disk with several requests is faster than with one, and leave when that is over.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::plan::{Planner, Step, open};
use super::{Obstacle, Skip, TreeError};
use crate::beneath::Reach;
use crate::watch::Watch;

/// How much is read at a time, in bytes: nearly all files of source trees are smaller.
pub(super) const PART_LEN: usize = 128 * 1024;

/// How many parts of one file may wait to be visited.
const PARTS_AHEAD: usize = 2;

/// How many files may be read ahead. With the parts of each it bounds the memory: 64 × 3 × 128 KiB.
const FILES_AHEAD: usize = 64;

/// How many steps the listing may be ahead: names, so that memory is no question.
const STEPS_AHEAD: usize = 4096;

/// How many threads read once the disk is seen to be waited for. Measured: 4 to 8 cold; when warm, 8 are slower than
/// none at all.
const MAX_READERS: u32 = 8;

/// How many reads must have waited for the disk before more readers join.
const COLD_READS: u32 = 4;

/// After so many reads in a row that did not wait, what there is to read is taken to be in the page cache.
const WARM_READS: u32 = 64;

/// Where the kernel cannot say whether a read would wait: a read that took so long did.
const SLOW_READ: Duration = Duration::from_millis(1);

/// The next part of a file, or what is in the way.
pub(super) type FilePart = Result<Part, Obstacle>;

/// Some bytes of a file.
#[derive(Debug)]
pub(super) struct Part {
    /// With the first part: the executable bit, and the size in bytes.
    pub(super) start: Option<(bool, u64)>,
    pub(super) buffer: Vec<u8>,
    len: usize,
    pub(super) is_last: bool,
}

impl Part {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

/// A file to be read ahead.
#[derive(Debug)]
pub(super) struct Job {
    directory: Arc<OwnedFd>,
    name: CString,
    parts: Sender<FilePart>,
}

impl Job {
    pub(super) fn new(directory: &Arc<OwnedFd>, name: &CStr) -> (Self, Receiver<FilePart>) {
        let (parts, receiver) = crossbeam_channel::bounded(PARTS_AHEAD);
        let job = Self {
            directory: Arc::clone(directory),
            name: name.to_owned(),
            parts,
        };
        (job, receiver)
    }
}

/// What has been read ahead, for the visiting thread.
#[derive(Debug)]
pub(super) struct Ahead {
    steps: Receiver<Step>,
    tokens: Receiver<()>,
    buffers: Sender<Vec<u8>>,
}

impl Ahead {
    pub(super) fn step(&mut self) -> Step {
        // The planner says how it ended; were it gone without, nothing more would be known.
        self.steps
            .recv()
            .unwrap_or(Step::Stop(None, Obstacle::Interrupted))
    }

    /// Another file may be read ahead.
    pub(super) fn file_done(&self) {
        // Empty only if the planner is gone.
        self.tokens.try_recv().ok();
    }

    /// Lets a reader use the buffer again.
    pub(super) fn give_back(&self, part: Part) {
        self.buffers.send(part.buffer).ok();
    }
}

/// Runs `visit` while other threads list and read the tree.
pub(super) fn run(
    root: OwnedFd,
    (skip, reach): (Skip, Reach),
    watch: Watch<'_>,
    visit: impl FnOnce(&mut Ahead) -> Result<u64, TreeError>,
) -> Result<u64, TreeError> {
    let (steps, steps_out) = crossbeam_channel::bounded(STEPS_AHEAD);
    let (tokens, tokens_out) = crossbeam_channel::bounded(FILES_AHEAD);
    // Neither can grow beyond the tokens.
    let (jobs, jobs_out) = crossbeam_channel::unbounded();
    let (buffers, buffers_out) = crossbeam_channel::unbounded();
    let planner = Planner {
        skip,
        reach,
        watch,
        steps,
        jobs,
        tokens,
        entries: 0,
        metadata: 0,
    };
    let readers = Readers {
        jobs: jobs_out,
        buffers: buffers_out,
        cold_reads: AtomicU32::new(0),
        running: AtomicU32::new(1),
        reach,
    };
    std::thread::scope(|scope| {
        scope.spawn(move || planner.run(root));
        let readers = &readers;
        scope.spawn(move || readers.run(scope, Role::Steady));
        // Dropped when the visit ends, however it does: then nobody waits for the other threads' work, and they end.
        let mut ahead = Ahead {
            steps: steps_out,
            tokens: tokens_out,
            buffers,
        };
        visit(&mut ahead)
    })
}

/// What the reading threads share.
struct Readers {
    jobs: Receiver<Job>,
    buffers: Receiver<Vec<u8>>,
    /// Reads that waited for the disk, since the last time that many in a row did not.
    cold_reads: AtomicU32,
    running: AtomicU32,
    reach: Reach,
}

/// Whether a reader stays when the disk is no longer waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Steady,
    Helper,
}

impl Readers {
    fn run<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, role: Role) {
        let mut warm_reads = 0;
        for job in &self.jobs {
            let waited = self.read(&job).unwrap_or_else(|obstacle| {
                job.parts.send(Err(obstacle)).ok();
                false
            });
            if waited {
                warm_reads = 0;
                self.get_help(scope);
                continue;
            }
            warm_reads += 1;
            if warm_reads >= WARM_READS {
                warm_reads = 0;
                self.cold_reads.store(0, Ordering::Relaxed);
                if role == Role::Helper {
                    self.running.fetch_sub(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    fn get_help<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        if self.cold_reads.fetch_add(1, Ordering::Relaxed) < COLD_READS {
            return;
        }
        let running = self.running.swap(MAX_READERS, Ordering::Relaxed);
        for _ in running..MAX_READERS {
            scope.spawn(move || self.run(scope, Role::Helper));
        }
    }

    /// Reads a file. Returns whether the disk was waited for.
    fn read(&self, job: &Job) -> Result<bool, Obstacle> {
        let file = open(&job.directory, &job.name, OFlags::empty())?;
        let mut reader = FileReader::new(file, self.reach)?;
        let mut waited = false;
        loop {
            let part = reader.next_part(self.buffers.try_recv().unwrap_or_default())?;
            waited |= reader.waited;
            let is_last = part.is_last;
            // Nobody listens any more if this fails.
            if job.parts.send(Ok(part)).is_err() || is_last {
                return Ok(waited);
            }
        }
    }
}

/// Reads one open file part by part and sees that it stays as long as it was.
#[derive(Debug)]
pub(super) struct FileReader {
    file: OwnedFd,
    executable: bool,
    size: u64,
    seen: u64,
    /// Whether the last read is known to have waited for the disk.
    waited: bool,
}

impl FileReader {
    pub(super) fn new(file: OwnedFd, reach: Reach) -> Result<Self, Obstacle> {
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Obstacle::Special);
        }
        reach.check(&stat)?;
        Ok(Self {
            file,
            executable: stat.st_mode & 0o100 != 0,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            seen: 0,
            waited: false,
        })
    }

    /// Returns the next part, in a buffer that may have been used before. Not to be called after the last.
    pub(super) fn next_part(&mut self, mut buffer: Vec<u8>) -> FilePart {
        let start = (self.seen == 0).then_some((self.executable, self.size));
        buffer.resize(PART_LEN, 0);
        let len = self.fill(&mut buffer)?;
        self.seen += len as u64;
        // A part that is not full ends at the end of the file.
        let is_last = len < buffer.len();
        if self.seen > self.size || (is_last && self.seen != self.size) {
            return Err(Obstacle::Changed);
        }
        Ok(Part {
            start,
            buffer,
            len,
            is_last,
        })
    }

    /// Fills a buffer as far as the file goes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Obstacle> {
        let mut filled = 0;
        self.waited = false;
        while filled < buffer.len() {
            let count = self.read_at(&mut buffer[filled..], self.seen + filled as u64)?;
            filled += count;
            // A regular file gives less than was asked for only at its end, and then has nothing more: the second
            // read that would say so is left out where the size agrees.
            if count == 0 || self.seen + filled as u64 == self.size {
                break;
            }
        }
        Ok(filled)
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let mut parts = [std::io::IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
            Err(Errno::AGAIN) => self.waited = true,
            // Kernels and file systems that cannot tell.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                let begun = Instant::now();
                let count = rustix::io::retry_on_intr(|| {
                    rustix::io::pread(&self.file, &mut *buffer, offset)
                })?;
                self.waited |= begun.elapsed() >= SLOW_READ;
                return Ok(count);
            }
            Err(Errno::INTR) => {}
            answer => return answer,
        }
        rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut *buffer, offset))
    }
}
