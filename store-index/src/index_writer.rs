//! An index open for writing: one writer at a time, every step by rename, readable at any moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs_err::os::unix::fs::OpenOptionsExt as _;

use crate::index::{OpenError, read_manifest};
use crate::key::KeySet;
use crate::manifest::{
    self, DEAD_SUFFIX, DeadEntry, MAX_SEGMENTS, Manifest, SEGMENT_SUFFIX, SegmentEntry,
};
use crate::root::{Root, RootKind};
use crate::segment::batch::Batch;
use crate::segment::merge::{MergeError, merge};
use crate::segment::reader::Segment;
use crate::segment::writer::Written;
use crate::segment::{SegmentError, dead};
use crate::watch::Watch;

/// The name of the lock file.
const LOCK_NAME: &str = "lock";

/// What the names of files being written begin with.
const TEMPORARY_PREFIX: &str = ".tmp-";

/// Above this many segments the newest are merged: each one costs every lookup a little.
const MERGE_ABOVE: usize = 8;

/// While an update goes on more are put up with: its end merges them anyway.
const MERGE_ABOVE_MEANWHILE: usize = 32;

const _: () = assert!(MERGE_ABOVE_MEANWHILE + MERGE_ABOVE < MAX_SEGMENTS);

/// An older segment is taken into a merge if it is at most so many times as large as what has been taken so far;
/// so an object is rewritten a logarithmic number of times, and a big segment not for a thousand new files.
const MERGE_RATIO: u64 = 4;

/// A segment is rewritten when more than one object in so many is dead.
const REWRITE_DEAD_RATIO: u64 = 4;

/// How often a lock held by another process is tried again.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// After so long a person is told that we wait.
const LOCK_NOTE_AFTER: Duration = Duration::from_secs(1);

/// Why an index cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The operating system said no.
    #[error("cannot write the index in {}: {source}", .directory.display())]
    Io {
        /// The index directory.
        directory: PathBuf,
        /// Why; names the file.
        source: io::Error,
    },
    /// There is an index that must not be replaced.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// There is an index of something else.
    #[error("{} holds the index of {found}, not of {wanted}", .directory.display())]
    OtherRoot {
        /// The index directory.
        directory: PathBuf,
        /// What it is of.
        found: Box<Root>,
        /// What was to be indexed.
        wanted: Box<Root>,
    },
    /// An old segment cannot be read while it is merged.
    #[error("cannot write the index in {}: {error}", .directory.display())]
    Segment {
        /// The index directory.
        directory: PathBuf,
        /// Which and how.
        error: SegmentError,
    },
    /// More than fits a segment.
    #[error("cannot write the index in {}: it holds more than {} objects", .0.display(), u32::MAX)]
    TooManyObjects(PathBuf),
    /// Told to stop while waiting for another writer.
    #[error("interrupted")]
    Interrupted,
}

impl WriteError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { .. } => Some("name a directory that can be written with --index"),
            Self::Open(error) => Some(error.hint()),
            Self::OtherRoot { .. } => Some(
                "name another directory with --index, or a folder of indexes; remove it if it is in the way",
            ),
            Self::Segment { .. } => Some("make it again with --rebuild"),
            Self::TooManyObjects(_) => Some("index parts of the root as folders of their own"),
            Self::Interrupted => None,
        }
    }
}

/// An index open for writing.
#[derive(Debug)]
pub struct IndexWriter {
    directory: PathBuf,
    /// Held until drop: the one writer.
    _lock: File,
    manifest: Manifest,
    /// As in the manifest, oldest first.
    segments: Vec<Arc<Segment>>,
    /// How many of the oldest segments only serve readers until this update is over.
    outdated: usize,
    /// How many segments were there when the update began; they are merged only at its end, since it holds on to
    /// their object numbers.
    settled: usize,
    /// Whether the root had been seen as a whole before.
    was_finished: bool,
    /// Objects to be declared dead, by segment.
    dying: BTreeMap<String, Vec<u32>>,
    /// The manifest as it is on disk.
    published: Vec<u8>,
    warnings: Vec<String>,
}

impl IndexWriter {
    /// Takes the lock, waiting for it if needed, and opens what there is. Damaged parts are left out with a warning.
    /// With `rebuild` nothing of what is there is used; it goes when [`IndexWriter::finish`] is called.
    /// Without it, key kinds that the index keeps already are kept, as they are if no kinds are given.
    pub fn open(
        directory: &Path,
        root: &Root,
        kinds: Option<KeySet>,
        rebuild: bool,
        watch: Watch<'_>,
    ) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Io {
            directory: directory.to_owned(),
            source,
        };
        create_directory(directory).map_err(failed)?;
        let lock = lock(directory, watch)?;
        let mut warnings = Vec::new();
        let old = match read_manifest(directory) {
            Ok(old) if old.root.id() != root.id() => {
                return Err(WriteError::OtherRoot {
                    directory: directory.to_owned(),
                    found: Box::new(old.root),
                    wanted: Box::new(root.clone()),
                });
            }
            Ok(old) => Some(old),
            Err(error @ OpenError::NewerVersion { .. }) if !rebuild => return Err(error.into()),
            Err(OpenError::Absent(_)) => None,
            Err(error @ OpenError::Read { .. }) => return Err(error.into()),
            Err(error) => {
                warnings.push(format!("{error}; it is made again"));
                None
            }
        };
        let mut writer = Self {
            directory: directory.to_owned(),
            _lock: lock,
            published: old.as_ref().map(Manifest::encode).unwrap_or_default(),
            manifest: Manifest::new(root.clone(), KeySet::always()),
            segments: Vec::new(),
            outdated: 0,
            settled: 0,
            was_finished: false,
            dying: BTreeMap::new(),
            warnings,
        };
        writer.take_over(old, kinds, rebuild);
        writer.sweep(|name| name.starts_with(TEMPORARY_PREFIX));
        Ok(writer)
    }

    fn take_over(&mut self, old: Option<Manifest>, wanted: Option<KeySet>, rebuild: bool) {
        let Some(old) = old else {
            self.manifest.kinds = wanted.unwrap_or_default().union(KeySet::always());
            return;
        };
        let kinds = match wanted {
            Some(wanted) if rebuild => wanted,
            wanted => wanted.unwrap_or_default().union(old.kinds),
        };
        let kinds = kinds.union(KeySet::always());
        let (mut outdated, mut current) = (Vec::new(), Vec::new());
        let mut all_there = true;
        for entry in old.segments {
            let dead = entry.dead.as_ref().map(|dead| dead.file.as_str());
            match Segment::open(&self.directory, &entry.file, dead) {
                Ok(segment) if !rebuild && segment.kinds().includes(kinds) => {
                    current.push((entry, segment))
                }
                Ok(segment) => outdated.push((entry, segment)),
                Err(error) => {
                    all_there = false;
                    self.warnings
                        .push(format!("{error}; what it held is read again"));
                }
            }
        }
        self.was_finished = old.finished && all_there && outdated.is_empty() && !rebuild;
        self.outdated = outdated.len();
        self.manifest.kinds = kinds;
        self.manifest.finished = self.was_finished;
        self.manifest.whole = old.whole && self.was_finished;
        self.manifest.store_mtime_ns = old.store_mtime_ns.filter(|_| self.was_finished);
        for (entry, segment) in outdated.into_iter().chain(current) {
            self.manifest.segments.push(entry);
            self.segments.push(Arc::new(segment));
        }
        self.settled = self.segments.len();
    }

    /// Notes where the root's files are read, for checks.
    pub fn record_real(&mut self, real: &Path) {
        // A medium lies elsewhere tomorrow, and its index says nothing of the machine that made it.
        let elsewhere =
            self.manifest.root.kind() != RootKind::Medium && real != self.manifest.root.path();
        // Whoever reads it has another working directory, and asks the mount table, which knows no symbolic links.
        self.manifest.real = elsewhere.then(|| fs_err::canonicalize(real).ok()).flatten();
    }

    /// Notes whether an update of a medium left nothing out, so that one that cannot change is not walked again.
    pub fn note_whole(&mut self, whole: bool) {
        self.manifest.whole = whole && self.manifest.root.kind() == RootKind::Medium;
    }

    /// Publishes what was noted, when there is nothing else to do.
    pub fn publish_notes(&mut self) -> Result<(), WriteError> {
        self.publish()
    }

    /// Returns all segments, as in the manifest.
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Returns the key kinds that are kept.
    pub const fn kinds(&self) -> KeySet {
        self.manifest.kinds
    }

    /// Returns the index directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the manifest as it will be published next.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns what was wrong with the index that was there.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the segments whose objects count for this update, oldest first.
    pub fn current_segments(&self) -> Vec<Arc<Segment>> {
        self.segments[self.outdated..].to_vec()
    }

    /// Declares objects of a segment dead; takes effect with the next [`IndexWriter::finish`] or
    /// [`IndexWriter::suspend`].
    pub fn declare_dead(&mut self, segment: &Segment, objects: impl IntoIterator<Item = u32>) {
        self.dying
            .entry(segment.name().to_owned())
            .or_default()
            .extend(objects);
    }

    /// Writes a segment and publishes it.
    pub fn append(&mut self, batch: &Batch) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        let entry = self.write_segment(|out| batch.write(out).map_err(MergeError::Write))?;
        self.push(entry)?;
        let session = self.settled;
        self.merge_tail(session, MERGE_ABOVE_MEANWHILE)?;
        self.publish()
    }

    /// Ends an update that has seen the whole root. `store_mtime_ns` as in the manifest.
    pub fn finish(&mut self, store_mtime_ns: Option<i64>) -> Result<(), WriteError> {
        self.manifest.segments.drain(..self.outdated);
        self.segments.drain(..self.outdated);
        (self.outdated, self.settled) = (0, 0);
        self.bury()?;
        if !self.was_finished
            && (self.segments.len() > 1
                || self
                    .manifest
                    .segments
                    .iter()
                    .any(|entry| entry.dead.is_some()))
        {
            self.merge_range(0, self.segments.len())?;
        }
        self.rewrite_dead()?;
        self.merge_tail(0, MERGE_ABOVE)?;
        self.manifest.finished = true;
        self.manifest.store_mtime_ns = store_mtime_ns;
        self.publish()
    }

    /// Ends an update that was broken off.
    pub fn suspend(&mut self) -> Result<(), WriteError> {
        self.manifest.store_mtime_ns = None;
        self.bury()?;
        self.publish()
    }

    /// Writes the dead lists that have grown.
    fn bury(&mut self) -> Result<(), WriteError> {
        for (name, mut objects) in std::mem::take(&mut self.dying) {
            let Some(at) = self
                .manifest
                .segments
                .iter()
                .position(|entry| entry.file == name)
            else {
                continue;
            };
            let old = self.segments[at].dead_objects();
            objects.extend(old.map_err(|error| self.broken(error))?);
            objects.sort_unstable();
            objects.dedup();
            let entry = &mut self.manifest.segments[at];
            if objects.len() as u64 >= entry.objects() {
                self.manifest.segments.remove(at);
                self.segments.remove(at);
                self.outdated -= usize::from(at < self.outdated);
                self.settled -= usize::from(at < self.settled);
                continue;
            }
            if objects.len() as u64 == entry.dead_count() {
                continue;
            }
            let bytes = dead::encode(&objects);
            let checksum = *blake3::hash(&bytes).as_bytes();
            let file = manifest::file_name(&checksum, DEAD_SUFFIX);
            self.put_file(&file, |out| out.write_all(&bytes))?;
            let entry = &mut self.manifest.segments[at];
            entry.dead = Some(DeadEntry {
                file,
                bytes: bytes.len() as u64,
                checksum: hex::encode(checksum),
                count: objects.len() as u64,
            });
            let reopened = self.open_segment(&self.manifest.segments[at])?;
            self.segments[at] = reopened;
        }
        Ok(())
    }

    fn rewrite_dead(&mut self) -> Result<(), WriteError> {
        for at in (0..self.segments.len()).rev() {
            let entry = &self.manifest.segments[at];
            if entry.dead_count() > entry.objects() / REWRITE_DEAD_RATIO {
                self.merge_range(at, at + 1)?;
            }
        }
        Ok(())
    }

    /// Merges the newest segments, none before `first`, until there are few enough.
    fn merge_tail(&mut self, first: usize, above: usize) -> Result<(), WriteError> {
        while self.segments.len() - first > above {
            let sizes: Vec<u64> = self.manifest.segments[first..]
                .iter()
                .map(|entry| entry.bytes)
                .collect();
            if sizes.len() < 2 {
                break;
            }
            self.merge_range(first + merge_from(&sizes), self.segments.len())?;
        }
        Ok(())
    }

    fn merge_range(&mut self, from: usize, to: usize) -> Result<(), WriteError> {
        let inputs: Vec<Arc<Segment>> = self.segments[from..to].to_vec();
        let inputs: Vec<&Segment> = inputs.iter().map(Arc::as_ref).collect();
        let entry = self.write_segment(|out| merge(&inputs, out))?;
        let segment = self.open_segment(&entry)?;
        self.manifest.segments.splice(from..to, [entry]);
        self.segments.splice(from..to, [segment]);
        Ok(())
    }

    fn push(&mut self, entry: SegmentEntry) -> Result<(), WriteError> {
        let segment = self.open_segment(&entry)?;
        self.segments.push(segment);
        self.manifest.segments.push(entry);
        Ok(())
    }

    fn open_segment(&self, entry: &SegmentEntry) -> Result<Arc<Segment>, WriteError> {
        let dead = entry.dead.as_ref().map(|dead| dead.file.as_str());
        let segment = Segment::open(&self.directory, &entry.file, dead);
        segment.map(Arc::new).map_err(|error| self.broken(error))
    }

    /// Writes a segment and gives it the name of its content.
    fn write_segment(
        &self,
        write: impl FnOnce(&mut File) -> Result<Written, MergeError>,
    ) -> Result<SegmentEntry, WriteError> {
        let temporary = self.directory.join(format!("{TEMPORARY_PREFIX}segment"));
        let mut file = create(&temporary).map_err(|source| self.failed(source))?;
        let written = write(&mut file).map_err(|error| match error {
            MergeError::Read(error) => self.broken(error),
            MergeError::Write(source) => {
                let source =
                    io::Error::new(source.kind(), format!("{}: {source}", temporary.display()));
                self.failed(source)
            }
            MergeError::TooManyObjects => WriteError::TooManyObjects(self.directory.clone()),
        })?;
        let name = manifest::file_name(&written.checksum, SEGMENT_SUFFIX);
        self.install(&file, &temporary, &name)
            .map_err(|source| self.failed(source))?;
        Ok(SegmentEntry {
            file: name,
            bytes: written.header.file_len,
            checksum: hex::encode(written.checksum),
            links: written.header.links,
            files: written.header.files,
            items: written.header.items,
            dead: None,
        })
    }

    fn put_file(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        let temporary = self.directory.join(format!("{TEMPORARY_PREFIX}{name}"));
        let put = || {
            let mut file = create(&temporary)?;
            write(&mut file)?;
            self.install(&file, &temporary, name)
        };
        put().map_err(|source| self.failed(source))
    }

    fn install(&self, file: &File, temporary: &Path, name: &str) -> io::Result<()> {
        file.sync_data()?;
        fs_err::rename(temporary, self.directory.join(name))
    }

    /// Replaces the manifest if it has changed, then removes what it no longer names.
    fn publish(&mut self) -> Result<(), WriteError> {
        let bytes = self.manifest.encode();
        if bytes == self.published {
            return Ok(());
        }
        self.put_file(manifest::FILE_NAME, |out| out.write_all(&bytes))?;
        let synced = fs_err::File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| self.failed(source))?;
        self.published = bytes;
        self.sweep(|name| self.is_left_over(name));
        Ok(())
    }

    /// Returns true for a file that no reader of the published manifest can want.
    fn is_left_over(&self, name: &str) -> bool {
        let ours = manifest::is_file_name(name, SEGMENT_SUFFIX)
            || manifest::is_file_name(name, DEAD_SUFFIX);
        let named = self.manifest.segments.iter().any(|entry| {
            entry.file == name || entry.dead.as_ref().is_some_and(|dead| dead.file == name)
        });
        name.starts_with(TEMPORARY_PREFIX) || (ours && !named)
    }

    /// Removes files from the index directory. What cannot be removed does no harm.
    fn sweep(&self, is_left_over: impl Fn(&str) -> bool) {
        let Ok(listing) = fs_err::read_dir(&self.directory) else {
            return;
        };
        for entry in listing.flatten() {
            if entry.file_name().to_str().is_some_and(&is_left_over) {
                fs_err::remove_file(entry.path()).ok();
            }
        }
    }

    fn failed(&self, source: io::Error) -> WriteError {
        WriteError::Io {
            directory: self.directory.clone(),
            source,
        }
    }

    fn broken(&self, error: SegmentError) -> WriteError {
        WriteError::Segment {
            directory: self.directory.clone(),
            error,
        }
    }
}

/// Removes an index while no update of it runs. The manifest goes first, so that it is whole or none to readers. What
/// the directory holds besides stays, and with it the directory.
pub fn forget(directory: &Path) -> io::Result<()> {
    let lock = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .open(directory.join(LOCK_NAME))?
        .into_file();
    lock.try_lock().map_err(io::Error::from)?;
    fs_err::remove_file(directory.join(manifest::FILE_NAME))?;
    for entry in fs_err::read_dir(directory)?.flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| {
            manifest::is_file_name(name, SEGMENT_SUFFIX)
                || manifest::is_file_name(name, DEAD_SUFFIX)
                || name.starts_with(TEMPORARY_PREFIX)
                || [LOCK_NAME, crate::media::NOTE_NAME].contains(&name)
        });
        // An update that waits for the lock meanwhile finds its directory gone, and says so.
        if ours {
            fs_err::remove_file(entry.path())?;
        }
    }
    match fs_err::remove_dir_all(directory.join(crate::directory_links::DIRECTORY)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs_err::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

/// Returns from which position on segments of these sizes, oldest first, are merged; there are at least two.
fn merge_from(sizes: &[u64]) -> usize {
    let mut from = sizes.len().saturating_sub(2);
    let mut taken: u64 = sizes[from..].iter().sum();
    while from > 0 && sizes[from - 1] <= taken.saturating_mul(MERGE_RATIO) {
        from -= 1;
        taken = taken.saturating_add(sizes[from]);
    }
    from
}

/// Makes the index directory readable by all. Parents that are missing are made with it; the user's cache folder is
/// theirs alone, as the XDG specification wants it.
fn create_directory(directory: &Path) -> io::Result<()> {
    if fs_err::metadata(directory).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    if let Some(parent) = directory
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        create_directory(parent)?;
    }
    match fs_err::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        answer => answer?,
    }
    let mode = if directory.file_name().is_some_and(|name| name == ".cache") {
        0o700
    } else {
        0o755
    };
    fs_err::set_permissions(directory, std::fs::Permissions::from_mode(mode))
}

/// Makes a temporary file, readable by all whatever the umask; sweeps one that a killed writer left.
fn create(path: &Path) -> io::Result<File> {
    fs_err::remove_file(path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let file = fs_err::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?
        .into_file();
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    Ok(file)
}

/// Takes the lock. The file has mode 0600, because any open descriptor can take it, and is never removed, because a
/// second writer may be about to lock it.
fn lock(directory: &Path, watch: Watch<'_>) -> Result<File, WriteError> {
    let failed = |source| WriteError::Io {
        directory: directory.to_owned(),
        source,
    };
    let path = directory.join(LOCK_NAME);
    let mut options = fs_err::OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    let file = options.open(&path).map_err(failed)?.into_file();
    let (begun, mut noted) = (Instant::now(), false);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(failed(io::Error::new(
                    source.kind(),
                    format!("cannot lock {}: {source}", path.display()),
                )));
            }
            Err(std::fs::TryLockError::WouldBlock) => {}
        }
        if watch.interrupted() {
            return Err(WriteError::Interrupted);
        }
        if !noted && begun.elapsed() >= LOCK_NOTE_AFTER {
            watch.progress.note(&format!(
                "waiting for another update of the index in {}",
                directory.display()
            ));
            noted = true;
        }
        std::thread::sleep(LOCK_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_segments_are_merged_and_big_ones_left_alone() {
        assert_eq!(merge_from(&[1_000_000, 10, 10, 10]), 1);
        assert_eq!(merge_from(&[100, 100]), 0);
        // Each more than four times the sum of the newer ones: two are merged all the same.
        assert_eq!(merge_from(&[100_000, 10_000, 1_000, 100]), 2);
        assert_eq!(merge_from(&[20, 12, 2, 1]), 0);
    }
}
