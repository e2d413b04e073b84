//! Scans a medium: enters what its checksum lists say, then reads the rest in an order kind to the drive.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use super::folder::{Keep, KnownFiles, has_steady_inodes, is_index, unreadable};
use super::hints::Hints;
use super::session::Session;
use super::walk::{Entry, Kind, Walk};
use super::{Reading, UpdateError};
use crate::format::MAX_PATH_LEN;
use crate::hash_file::mtime_ns;
use crate::key::{Digests, KeySet};
use crate::path_text;
use crate::segment::SegmentError;
use crate::segment::reader::{IndexedFile, Segment};
use crate::watch::Unit;

/// How many files are brought into order at a time: a full DVD has fewer, and their names take some tens of megabytes.
const MAX_ORDERED: usize = 262_144;

/// File systems whose inode numbers grow with the place on the disc, by the magic numbers of `statfs`: ISO 9660,
/// where a number is the place of the directory record, and the data lie in the same order; UDF, where it is the
/// block of the file's own entry.
const NUMBERED_BY_PLACE: [u64; 2] = [0x9660, 0x1501_3346];

/// A file that is to be read.
struct Unread {
    place: u64,
    path: Vec<u8>,
    size: u64,
    /// The hint that goes once it has been read.
    hint: Option<(Arc<Segment>, u32)>,
}

/// A scan under way.
struct Scan<'k> {
    known: KnownFiles<'k>,
    hints: Option<Hints>,
    unread: Vec<Unread>,
    /// Inodes last from mount to mount.
    steady: bool,
    /// Inodes say where on the disc a file lies.
    by_place: bool,
}

/// Scans the medium.
pub(super) fn scan(session: &mut Session<'_>) -> Result<Option<i64>, UpdateError> {
    let root = fs_err::canonicalize(session.real()).map_err(|error| session.root_error(error))?;
    let index_dir = fs_err::canonicalize(session.index_dir()).ok();
    let walk = || Walk::new(&root, |entry| is_index(entry, index_dir.as_deref()));
    let hints = match session.update().reading {
        Reading::All => None,
        Reading::Unlisted | Reading::Nothing => Some(Hints::gather(session, &root, walk())?),
    };
    let steady = has_steady_inodes(&root);
    if !steady {
        session.ignore_inodes();
    }
    let segments = session.segments();
    let mut scan = Scan {
        known: KnownFiles::new(&segments).map_err(|error| session.index_error(error))?,
        hints,
        unread: Vec::new(),
        steady,
        by_place: rustix::fs::statfs(&root)
            .is_ok_and(|stat| NUMBERED_BY_PLACE.contains(&(stat.f_type as u64))),
    };
    begin_listing(session, &root);
    for entry in walk() {
        if session.watch.interrupted() {
            return Err(UpdateError::Interrupted);
        }
        session.watch.progress.advance(1);
        match entry {
            Ok(entry) if entry.kind == Kind::File => scan.visit(session, &root, &entry)?,
            Ok(_) => {}
            Err(error) if error.depth == 0 => return Err(session.root_error(error.source)),
            Err(error) => unreadable(session, &error),
        }
        if scan.unread.len() >= MAX_ORDERED {
            scan.read(session, &root)?;
            begin_listing(session, &root);
        }
    }
    scan.known.skip_to(session, None)?;
    scan.read(session, &root)?;
    Ok(None)
}

fn begin_listing(session: &Session<'_>, root: &Path) {
    let what = format!("listing {}", path_text::printable(root));
    session.watch.progress.begin(&what, None, Unit::Items);
}

impl Scan<'_> {
    fn visit(
        &mut self,
        session: &mut Session<'_>,
        root: &Path,
        entry: &Entry,
    ) -> Result<(), UpdateError> {
        use std::os::unix::ffi::OsStrExt as _;
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let path = relative.as_os_str().as_bytes();
        if path.len() > MAX_PATH_LEN {
            session.unreadable(&format!(
                "the path is too long: {}",
                path_text::printable(entry.path())
            ));
            return Ok(());
        }
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) => {
                unreadable(session, &error);
                return Ok(());
            }
        };
        let file = IndexedFile {
            path: path.to_vec(),
            size: metadata.len(),
            mtime_ns: mtime_ns(&metadata),
            inode: if self.steady { metadata.ino() } else { 0 },
            hint: true,
        };
        let reading = session.update().reading;
        let listed = self.hint_of(&file, reading);
        let met = self.known.meet(session, path, |segment, object, old| {
            if !is_same(old, &file, self.steady) {
                return Ok(Keep::No);
            }
            Ok(match &listed {
                _ if !old.hint => Keep::Unchanged,
                Some(digests) if has_keys(segment, object, digests)? => Keep::Unchanged,
                Some(_) => Keep::No,
                // It is not on a list any more, or shall be read all the same.
                None if reading == Reading::Nothing => Keep::No,
                None => Keep::UntilRead,
            })
        })?;
        match (met, listed) {
            (Some((Keep::Unchanged, ..)), _) => {}
            (Some((_, segment, object)), _) => {
                self.unread
                    .push(Unread::new(file, &metadata, Some((segment, object))));
            }
            (None, Some(digests)) => session.enter_unread(file, &digests)?,
            (None, None) if reading == Reading::Nothing => {}
            (None, None) => self.unread.push(Unread::new(file, &metadata, None)),
        }
        Ok(())
    }

    /// Returns what the lists say of a file, if that is enough not to read it: SHA-256, by which nearly everything is
    /// asked for, unless nothing shall be read.
    fn hint_of(&self, file: &IndexedFile, reading: Reading) -> Option<Digests> {
        let digests = self.hints.as_ref()?.of(&file.path, file.size)?;
        let enough = reading == Reading::Nothing || digests.present().includes(KeySet::always());
        enough.then_some(digests)
    }

    /// Reads what has been found to be read. What needs no reading is made known first.
    fn read(&mut self, session: &mut Session<'_>, root: &Path) -> Result<(), UpdateError> {
        session.checkpoint()?;
        if self.by_place {
            self.unread.sort_by_key(|file| file.place);
        }
        let bytes = self.unread.iter().map(|file| file.size).sum();
        let what = format!("reading {}", path_text::printable(root));
        session
            .watch
            .progress
            .begin(&what, Some(bytes), Unit::Bytes);
        for file in std::mem::take(&mut self.unread) {
            session.submit_file(file.path, file.hint)?;
        }
        session.checkpoint()
    }
}

impl Unread {
    fn new(
        file: IndexedFile,
        metadata: &std::fs::Metadata,
        hint: Option<(Arc<Segment>, u32)>,
    ) -> Self {
        Self {
            place: metadata.ino(),
            path: file.path,
            size: file.size,
            hint,
        }
    }
}

fn is_same(old: &IndexedFile, now: &IndexedFile, steady: bool) -> bool {
    (old.size, old.mtime_ns) == (now.size, now.mtime_ns) && (!steady || old.inode == now.inode)
}

/// Returns true if an object of a segment is found under all these digests.
fn has_keys(segment: &Segment, object: u32, digests: &Digests) -> Result<bool, SegmentError> {
    for (kind, digest) in digests.iter() {
        // Where thousands of files are equal this one may not be among the first; then it is entered anew.
        let found = segment.find(kind, digest, MAX_EQUAL_FILES)?;
        if !found.contains(&object) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many files with one digest are looked at to find one again.
const MAX_EQUAL_FILES: usize = 64;
