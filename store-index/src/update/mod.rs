//! Brings an index up to date with its root: reads what is new, drops what is gone.

mod directories;
mod folder;
mod hints;
mod known;
mod medium;
mod pool;
mod session;
mod store;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::directory_links;
use crate::index_writer::{IndexWriter, WriteError};
use crate::key::KeySet;
use crate::mounts::{hanging_below, warning_of_hanging};
use crate::root::{Root, RootKind};
use crate::segment::SegmentError;
use crate::watch::{Unit, Watch};

use pool::Pool;
use session::Session;

/// Threads for each core when nothing is said: a cold disk gains from more requests in flight than there are cores.
const JOBS_PER_CORE: usize = 4;

/// The most threads when nothing is said; more gained nothing on any disk that was measured.
const MAX_DEFAULT_JOBS: usize = 16;

/// The most threads that can be asked for: each has a buffer of 256 KiB and an open file.
pub const MAX_JOBS: usize = 256;

/// The most unreadable places that are named; the rest is counted.
const MAX_NAMED_PROBLEMS: usize = 20;

/// What an update shall do.
#[derive(Clone, Debug)]
pub struct Update {
    /// What is indexed.
    pub root: Root,
    /// Where its files are read: a store's real directory, a folder's path.
    pub real: PathBuf,
    /// Where the index is written.
    pub index_dir: PathBuf,
    /// The key kinds to keep; those that the index keeps already are kept too, unless it is rebuilt. `None` means
    /// those that it keeps, or SHA-256 alone.
    pub kinds: Option<KeySet>,
    /// How many threads read.
    pub jobs: usize,
    /// Start from nothing.
    pub rebuild: bool,
    /// Which files of a medium are read. Of stores and folders all are that are not known yet.
    pub reading: Reading,
    /// What the root holds cannot have changed since it was indexed, so that it need not be walked again.
    pub unchanging: bool,
}

/// Which files of a medium are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Those that no checksum list on it names.
    #[default]
    Unlisted,
    /// All.
    All,
    /// None: only what lists say is entered.
    Nothing,
}

impl Update {
    /// Takes the defaults for a root that is read where it says and indexed there.
    pub fn new(root: Root, index_dir: PathBuf) -> Self {
        Self {
            real: root.path().to_owned(),
            root,
            index_dir,
            kinds: None,
            jobs: default_jobs(),
            rebuild: false,
            reading: Reading::default(),
            unchanging: false,
        }
    }
}

/// Returns how many threads read when nothing is said.
pub fn default_jobs() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores * JOBS_PER_CORE).min(MAX_DEFAULT_JOBS)
}

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Objects that are new, changed ones included.
    pub added: u64,
    /// Objects that are gone or were replaced.
    pub removed: u64,
    /// Objects that were known and not read again.
    pub unchanged: u64,
    /// Bytes read and hashed.
    pub hashed_bytes: u64,
    /// Files and directories that could not be read.
    pub unreadable: u64,
    /// Files that changed while they were read, and are left for the next update.
    pub changing: u64,
    /// Store items that are not valid yet, and are left for the next update.
    pub unfinished_items: u64,
    /// The first of the places that could not be read, and what was wrong with the old index.
    pub warnings: Vec<String>,
    /// Links in the index now.
    pub links: u64,
    /// Files in the index now, those of `.links` left out.
    pub files: u64,
    /// Those of them that nobody has read: a checksum list says what they are.
    pub hints: u64,
    /// False for a medium that cannot have changed since it was indexed.
    pub walked: bool,
    /// Links to whole directories in the index now.
    pub directories: u64,
    /// What only those want to know who ask for details.
    pub notes: Vec<String>,
    /// Segments of the index now.
    pub segments: usize,
    /// Length of the index in bytes.
    pub index_bytes: u64,
    /// True if the whole root has been seen under the algorithms that are kept.
    pub finished: bool,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// Why an update failed or was broken off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The root cannot be listed.
    #[error("cannot read {}: {source}", .path.display())]
    Root {
        /// Its real path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The index cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// What the index held cannot be read.
    #[error("the index in {} cannot be used: {error}", .directory.display())]
    Index {
        /// The index directory.
        directory: PathBuf,
        /// Which file and how.
        error: SegmentError,
    },
    /// Told to stop. What had been hashed is in the index.
    #[error("interrupted")]
    Interrupted,
}

impl UpdateError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Root { .. } => Some("see that it is there and can be read"),
            Self::Write(error) => error.hint(),
            Self::Index { .. } => Some("make it again with --rebuild"),
            Self::Interrupted => Some("run it again: it goes on where it was"),
        }
    }
}

/// Brings the index of a root up to date.
pub fn run(update: &Update, watch: Watch<'_>) -> Result<Summary, UpdateError> {
    let begun = Instant::now();
    check_root(&update.real)?;
    let mut writer = IndexWriter::open(
        &update.index_dir,
        &update.root,
        update.kinds,
        update.rebuild,
        watch,
    )
    .map_err(|error| match error {
        WriteError::Interrupted => UpdateError::Interrupted,
        error => error.into(),
    })?;
    writer.record_real(&update.real);
    let (kinds, mut warnings) = (writer.kinds(), writer.warnings().to_vec());
    warnings.extend(warning_of_hanging(
        &update.real,
        &hanging_below(&update.real),
    ));
    watch.progress.begin(
        &format!("indexing {}", crate::path_text::printable(&update.real)),
        None,
        Unit::Bytes,
    );
    let jobs = update.jobs.clamp(1, MAX_JOBS);
    let known = writer.manifest().is_whole()
        && (update.reading != Reading::All || live_hints(&writer, update)? == 0);
    let mut summary = if update.unchanging && known {
        writer.publish_notes()?;
        Summary {
            warnings,
            ..Summary::default()
        }
    } else {
        Pool::run(&update.real, kinds, jobs, watch, |pool| {
            let mut session = Session::new(&mut writer, pool, update, watch, warnings);
            let outcome = match update.root.kind() {
                RootKind::Store => store::scan(&mut session),
                RootKind::Folder => folder::scan(&mut session),
                RootKind::Medium => medium::scan(&mut session),
            };
            session.end(outcome)
        })
        .map_err(|source| root_error(&update.real, source))
        .flatten()
        .inspect_err(|_| watch.progress.end())?
    };
    watch.progress.end();
    if summary.walked {
        directories::update(update, &writer, &mut summary, watch)?;
    } else {
        summary.directories = directory_links::count(&update.index_dir);
    }
    let manifest = writer.manifest();
    for (segment, entry) in writer.segments().iter().zip(&manifest.segments) {
        let live = segment
            .live_counts()
            .map_err(|error| index_error(update, error))?;
        summary.links += live.links;
        summary.files += live.files;
        summary.index_bytes += entry.bytes + entry.dead.as_ref().map_or(0, |dead| dead.bytes);
    }
    summary.hints = live_hints(&writer, update)?;
    summary.unchanged = (summary.links + summary.files).saturating_sub(summary.added);
    summary.segments = manifest.segments.len();
    summary.finished = manifest.finished;
    summary.milliseconds = begun.elapsed().as_millis() as u64;
    Ok(summary)
}

/// Sees that the root can be listed before an index directory is made for it.
fn check_root(real: &Path) -> Result<(), UpdateError> {
    fs_err::read_dir(real)
        .map(drop)
        .map_err(|source| root_error(real, source))
}

/// Counts the files that are known from lists alone.
fn live_hints(writer: &IndexWriter, update: &Update) -> Result<u64, UpdateError> {
    if update.root.kind() != RootKind::Medium {
        return Ok(0);
    }
    let segments = writer.segments().iter();
    segments
        .map(|segment| segment.live_hints())
        .sum::<Result<u64, SegmentError>>()
        .map_err(|error| index_error(update, error))
}

fn root_error(real: &Path, source: io::Error) -> UpdateError {
    UpdateError::Root {
        path: real.to_owned(),
        source,
    }
}

fn index_error(update: &Update, error: SegmentError) -> UpdateError {
    UpdateError::Index {
        directory: update.index_dir.clone(),
        error,
    }
}
