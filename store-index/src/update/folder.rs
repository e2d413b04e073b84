//! Scans a folder: a sorted walk beside the sorted files of the index, so that memory does not grow with either.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use super::UpdateError;
use super::pool::Job;
use super::session::Session;
use super::walk::{Entry, Kind, Walk, WalkError};
use crate::format::{MAX_PATH_LEN, compare_paths};
use crate::hash_file::mtime_ns;
use crate::path_text;
use crate::places::IN_PLACE_DIR;
use crate::segment::SegmentError;
use crate::segment::reader::{Files, IndexedFile, Segment};

/// File systems whose inode numbers may change from mount to mount, by the magic numbers of `statfs`: NFS, SMB, SMB2,
/// CIFS, AFS, Ceph, 9P, Coda, FUSE.
const UNSTEADY_INODES: [u64; 9] = [
    0x6969,
    0x517b,
    0xfe53_4d42,
    0xff53_4d42,
    0x5346_414f,
    0x00c3_6400,
    0x0102_1997,
    0x7375_7245,
    0x6573_5546,
];

/// Scans the folder. Folders have no time that would say that nothing has changed.
pub(super) fn scan(session: &mut Session<'_>) -> Result<Option<i64>, UpdateError> {
    let steady = has_steady_inodes(session.real());
    if !steady {
        session.ignore_inodes();
    }
    let segments = session.segments();
    let mut known = KnownFiles::new(&segments).map_err(|error| session.index_error(error))?;
    let index_dir = fs_err::canonicalize(session.index_dir()).ok();
    let root = fs_err::canonicalize(session.real()).map_err(|error| session.root_error(error))?;
    for entry in Walk::new(&root, |entry| is_index(entry, index_dir.as_deref())) {
        if session.watch.interrupted() {
            return Err(UpdateError::Interrupted);
        }
        match entry {
            Ok(entry) if entry.kind == Kind::File => {
                visit(session, &mut known, &root, &entry, steady)?
            }
            Ok(_) => {}
            Err(error) if error.depth == 0 => return Err(session.root_error(error.source)),
            Err(error) => unreadable(session, &error),
        }
    }
    known.skip_to(session, None)?;
    Ok(None)
}

/// Returns true for an index that lies in the tree.
pub(super) fn is_index(entry: &Entry, index_dir: Option<&Path>) -> bool {
    entry.kind == Kind::Directory
        && (entry.file_name() == OsStr::new(IN_PLACE_DIR) || index_dir == Some(entry.path()))
}

fn visit(
    session: &mut Session<'_>,
    known: &mut KnownFiles<'_>,
    root: &Path,
    entry: &Entry,
    steady: bool,
) -> Result<(), UpdateError> {
    let path = entry
        .path()
        .strip_prefix(root)
        .unwrap_or(entry.path())
        .as_os_str()
        .as_bytes();
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
    let now = (
        metadata.len(),
        mtime_ns(&metadata),
        if steady { metadata.ino() } else { 0 },
    );
    let unchanged =
        |old: &IndexedFile| (old.size, old.mtime_ns, if steady { old.inode } else { 0 }) == now;
    if known.take(session, path, unchanged)? {
        return Ok(());
    }
    session.submit(Job::FolderFile(path.to_vec()))
}

pub(super) fn unreadable(session: &mut Session<'_>, error: &WalkError) {
    if error.source.kind() != std::io::ErrorKind::NotFound {
        session.unreadable(&path_text::printable(Path::new(&error.source.to_string())));
    }
}

/// Returns whether a file keeps its inode.
pub(super) fn has_steady_inodes(root: &Path) -> bool {
    rustix::fs::statfs(root).is_ok_and(|stat| !UNSTEADY_INODES.contains(&(stat.f_type as u64)))
}

/// The live files of the index, in the order in which the walk meets them.
pub(super) struct KnownFiles<'s> {
    /// Oldest first.
    heads: Vec<Head<'s>>,
}

/// What becomes of an entry that the walk has met again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It stays.
    Unchanged,
    /// It stays until the file has been read.
    UntilRead,
    /// It goes.
    No,
}

struct Head<'s> {
    segment: &'s Arc<Segment>,
    files: Files<'s>,
    next: Option<(u64, IndexedFile)>,
    dead: Vec<u32>,
}

impl<'s> KnownFiles<'s> {
    pub(super) fn new(segments: &'s [Arc<Segment>]) -> Result<Self, SegmentError> {
        let heads = segments.iter().map(|segment| {
            let (files, dead) = (segment.files()?, segment.dead_objects()?);
            let mut head = Head {
                segment,
                files,
                next: None,
                dead,
            };
            head.advance()?;
            Ok(head)
        });
        Ok(Self {
            heads: heads.collect::<Result<_, SegmentError>>()?,
        })
    }

    /// Goes on to a path that the walk has met, and drops what lies before it: it is gone. Returns true if the index
    /// has the file unchanged; otherwise what it has under this path is dropped too.
    fn take(
        &mut self,
        session: &mut Session<'_>,
        path: &[u8],
        unchanged: impl Fn(&IndexedFile) -> bool,
    ) -> Result<bool, UpdateError> {
        let found = self.meet(session, path, |_, _, file| {
            Ok(if unchanged(file) {
                Keep::Unchanged
            } else {
                Keep::No
            })
        })?;
        Ok(found.is_some())
    }

    /// The same with a judgement on the newest entry that gets its segment and number. Returns what is kept.
    pub(super) fn meet(
        &mut self,
        session: &mut Session<'_>,
        path: &[u8],
        judge: impl Fn(&Segment, u32, &IndexedFile) -> Result<Keep, SegmentError>,
    ) -> Result<Option<(Keep, Arc<Segment>, u32)>, UpdateError> {
        self.skip_to(session, Some(path))?;
        let mut found = None;
        // The newest segment decides; should an older one have the path too, that entry is a left-over.
        for head in self.heads.iter_mut().rev() {
            let Some((position, file)) = head.next.as_ref().filter(|(_, file)| file.path == path)
            else {
                continue;
            };
            let object = head.object(*position);
            let kept = match &found {
                None => {
                    judge(head.segment, object, file).map_err(|error| session.index_error(error))?
                }
                Some(_) => Keep::No,
            };
            match kept {
                Keep::No => head.drop_next(session),
                kept => found = Some((kept, Arc::clone(head.segment), object)),
            }
            head.advance().map_err(|error| session.index_error(error))?;
        }
        Ok(found)
    }

    /// Drops all that lies before a path, or everything.
    pub(super) fn skip_to(
        &mut self,
        session: &mut Session<'_>,
        path: Option<&[u8]>,
    ) -> Result<(), UpdateError> {
        for head in &mut self.heads {
            let before = |file: &IndexedFile| {
                path.is_none_or(|path| compare_paths(&file.path, path).is_lt())
            };
            while head.next.as_ref().is_some_and(|(_, file)| before(file)) {
                head.drop_next(session);
                head.advance().map_err(|error| session.index_error(error))?;
            }
        }
        Ok(())
    }
}

impl Head<'_> {
    fn object(&self, position: u64) -> u32 {
        (self.segment.header().links + position) as u32
    }

    fn drop_next(&self, session: &mut Session<'_>) {
        if let Some((position, _)) = self.next {
            session.declare_dead(self.segment, vec![self.object(position)]);
        }
    }

    fn advance(&mut self) -> Result<(), SegmentError> {
        loop {
            self.next = self.files.next_file()?;
            match self.next {
                Some((position, _)) if self.dead.binary_search(&self.object(position)).is_ok() => {}
                _ => return Ok(()),
            }
        }
    }
}
