//! Reads the files of a walk ahead of it, in bounded memory.
//!
//! One thread lists, one reads, and the caller's visits: hashing is the slowest of the three when everything is in
//! the page cache, and more readers would only take the processor from it. Once reads are seen to wait for the disk,
//! more readers join, since a disk with several requests is faster than with one, and leave when that is over.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::plan::{End, Plan, Planner, Step, open};
use super::{Obstacle, Skip, TreeError};
use crate::beneath::Reach;
use crate::watch::Watch;

/// How much is handed over at a time, in bytes: small files together, large ones in parts.
pub(super) const CHUNK_LEN: usize = 128 * 1024;

/// How many chunks of one batch may wait to be visited.
const CHUNKS_AHEAD: usize = 2;

/// How many batches may be listed and read ahead: one for each reader. With the chunks of each, and those in hand, it
/// bounds the memory: some 10 × 3 × 128 KiB.
const BATCHES_AHEAD: usize = 8;

/// How many threads read once the disk is seen to be waited for. Measured: 4 to 8 cold; when warm, 8 are slower than
/// none at all.
const MAX_READERS: u32 = 8;

/// How many reads must have waited for the disk before more readers join.
const COLD_READS: u32 = 4;

/// After so many reads in a row that did not wait, what there is to read is taken to be in the page cache.
const WARM_READS: u32 = 64;

/// Where the kernel cannot say whether a read would wait: a read that took so long did.
const SLOW_READ: Duration = Duration::from_millis(1);

/// Some bytes of one file, in a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// With the first part: the executable bit, and the size in bytes.
    pub(super) start: Option<(bool, u64)>,
    /// Where in the chunk it ends; it begins where the one before ended.
    end: usize,
    pub(super) is_last: bool,
}

/// Parts of files, one after another.
#[derive(Debug, Default)]
struct Chunk {
    buffer: Vec<u8>,
    parts: Vec<Part>,
}

impl Chunk {
    fn len(&self) -> usize {
        self.parts.last().map_or(0, |part| part.end)
    }
}

/// The next chunk, or what is in the way of the file behind the last one.
type Filled = Result<Chunk, Obstacle>;

/// Some steps of a walk, and from where the bytes of their files come.
#[derive(Debug)]
pub(super) struct Batch {
    steps: Arc<[Step]>,
    chunks: Receiver<Filled>,
    /// With the last batch.
    pub(super) end: Option<End>,
}

impl Batch {
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// The files of a batch, to be read.
#[derive(Debug)]
pub(super) struct Job {
    steps: Arc<[Step]>,
    chunks: Sender<Filled>,
}

/// Makes a batch, and the job of reading its files.
pub(super) fn batch(steps: Vec<Step>, end: Option<End>) -> (Batch, Job) {
    let (sender, chunks) = crossbeam_channel::bounded(CHUNKS_AHEAD);
    let steps: Arc<[Step]> = steps.into();
    let job = Job {
        steps: Arc::clone(&steps),
        chunks: sender,
    };
    (Batch { steps, chunks, end }, job)
}

/// What has been read ahead, for the visiting thread.
#[derive(Debug)]
pub(super) struct Ahead {
    batches: Receiver<Batch>,
    used: Sender<Chunk>,
    chunk: Chunk,
    /// The next part of the chunk.
    next: usize,
}

impl Ahead {
    /// Returns the next batch; `None` only if the planner is gone without a word.
    pub(super) fn next(&mut self) -> Option<Batch> {
        self.batches.recv().ok()
    }

    /// Returns the next part of the batch's files.
    pub(super) fn next_part(&mut self, batch: &Batch) -> Result<(Part, &[u8]), Obstacle> {
        if self.next == self.chunk.parts.len() {
            let chunk = batch.chunks.recv().unwrap_or(Err(Obstacle::Interrupted))?;
            // Lets a reader use it again.
            self.used
                .send(std::mem::replace(&mut self.chunk, chunk))
                .ok();
            self.next = 0;
        }
        let parts = &self.chunk.parts;
        let begin = self
            .next
            .checked_sub(1)
            .map_or(0, |before| parts[before].end);
        let part = parts[self.next];
        self.next += 1;
        Ok((part, &self.chunk.buffer[begin..part.end]))
    }
}

/// Runs `visit` while other threads list and read the tree.
pub(super) fn run(
    root: OwnedFd,
    (skip, reach): (Skip, Reach),
    watch: Watch<'_>,
    visit: impl FnOnce(&mut Ahead) -> Result<u64, TreeError>,
) -> Result<u64, TreeError> {
    let (batches, batches_out) = crossbeam_channel::bounded(BATCHES_AHEAD);
    // Neither can grow far beyond the batches.
    let (jobs, jobs_out) = crossbeam_channel::unbounded();
    let (used, used_out) = crossbeam_channel::unbounded();
    let planner = Planner {
        skip,
        reach,
        watch,
        batches,
        jobs,
        plan: Plan::default(),
        entries: 0,
        metadata: 0,
    };
    let readers = Readers {
        jobs: jobs_out,
        used: used_out,
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
            batches: batches_out,
            used,
            chunk: Chunk::default(),
            next: 0,
        };
        visit(&mut ahead)
    })
}

/// What the reading threads share.
struct Readers {
    jobs: Receiver<Job>,
    used: Receiver<Chunk>,
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
            let mut output = Output {
                readers: self,
                chunks: &job.chunks,
                chunk: self.chunk(),
            };
            for step in job.steps.iter() {
                let Step::File(directory, name) = step else {
                    continue;
                };
                match self.read(directory, name, &mut output) {
                    Ok(true) => {
                        warm_reads = 0;
                        self.get_help(scope);
                    }
                    Ok(false) => warm_reads += 1,
                    Err(Hindrance::Obstacle(obstacle)) => {
                        output.send().ok();
                        job.chunks.send(Err(obstacle)).ok();
                        break;
                    }
                    Err(Hindrance::Unwanted) => break,
                }
            }
            output.send().ok();
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

    /// Returns an empty chunk, that may have been used before.
    fn chunk(&self) -> Chunk {
        let mut chunk = self.used.try_recv().unwrap_or_default();
        chunk.buffer.resize(CHUNK_LEN, 0);
        chunk.parts.clear();
        chunk
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
    fn read(
        &self,
        directory: &OwnedFd,
        name: &CStr,
        output: &mut Output<'_>,
    ) -> Result<bool, Hindrance> {
        let file = open(directory, name, OFlags::empty()).map_err(Obstacle::from)?;
        let mut reader = FileReader::new(file, self.reach)?;
        let mut start = Some(reader.start());
        let mut waited = false;
        loop {
            let used = output.chunk.len();
            let room = CHUNK_LEN - used;
            // What fits into one chunk is not divided, so that it is read at once.
            if room == 0 || (used > 0 && reader.wanted() > room && reader.wanted() <= CHUNK_LEN) {
                output.send()?;
                continue;
            }
            let (len, is_last) = reader.read(&mut output.chunk.buffer[used..])?;
            waited |= reader.waited;
            output.chunk.parts.push(Part {
                start: start.take(),
                end: used + len,
                is_last,
            });
            if is_last {
                return Ok(waited);
            }
        }
    }
}

/// Why a file is not read to its end.
enum Hindrance {
    Obstacle(Obstacle),
    /// Nobody listens any more.
    Unwanted,
}

impl From<Obstacle> for Hindrance {
    fn from(obstacle: Obstacle) -> Self {
        Self::Obstacle(obstacle)
    }
}

/// Where the bytes of a batch go.
struct Output<'a> {
    readers: &'a Readers,
    chunks: &'a Sender<Filled>,
    chunk: Chunk,
}

impl Output<'_> {
    /// Hands over what there is.
    fn send(&mut self) -> Result<(), Hindrance> {
        if self.chunk.parts.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, self.readers.chunk());
        self.chunks.send(Ok(chunk)).map_err(|_| Hindrance::Unwanted)
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

    /// Returns the executable bit, and the size in bytes.
    pub(super) const fn start(&self) -> (bool, u64) {
        (self.executable, self.size)
    }

    /// Returns how much is to be read yet, in bytes: one more than there should be shows that the file has grown.
    fn wanted(&self) -> usize {
        usize::try_from(self.size - self.seen).map_or(usize::MAX, |left| left.saturating_add(1))
    }

    /// Reads as much as there is room for. Returns how much that was, and whether the file is over. Not to be called
    /// after the end.
    pub(super) fn read(&mut self, room: &mut [u8]) -> Result<(usize, bool), Obstacle> {
        let wanted = self.wanted();
        let room_len = room.len().min(wanted);
        let len = self.fill(&mut room[..room_len])?;
        self.seen += len as u64;
        let at_end = len < room_len;
        if self.seen > self.size || (at_end && self.seen != self.size) {
            return Err(Obstacle::Changed);
        }
        Ok((len, at_end))
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
