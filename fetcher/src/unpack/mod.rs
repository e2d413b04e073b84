//! Unpacks an archive of a hostile sender into an empty directory: what lands there is hashed afterwards, as any tree.
//!
//! Nothing is written outside of the directory or through a symbolic link ([`writer`]); memory, entries, bytes and the
//! ratio of what comes out to what went in are bounded. Only names, contents, targets and the owner's executable bit
//! are kept, since nothing else is in a NAR.

mod input;
mod lzip;
mod nar;
mod stream;
mod strip;
mod tar;
mod writer;
mod zip;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::io::Errno;
use store_index::path_text::printable;
use store_index::watch::Watch;

use input::Input;
use stream::Codec;
use writer::Writer;

pub(crate) use strip::{judge, strip_single_root};
pub use writer::ROOT_NAME;

/// How much of what comes out is looked at to tell what it is, in bytes: a tar header.
const HEAD_LEN: usize = 512;

/// The most entries, with the directories that they imply: three times the largest source trees, a minute of work.
const MAX_ENTRIES: u64 = 1_000_000;

/// How many times its packed size an archive may have. Source archives reach 20; deflate cannot exceed 1032.
const MAX_RATIO: u64 = 1000;

/// Up to this many bytes the ratio says nothing: a short archive of zeroes packs well.
const RATIO_GRACE_LEN: u64 = 64 << 20;

/// What an archive turned out to hold.
#[derive(Debug)]
pub enum Unpacked {
    /// The directory has been filled.
    Tree,
    /// A NAR of a directory, which has no root of its own to be stripped.
    NarTree,
    /// A NAR of one file, which lies in the directory as [`ROOT_NAME`].
    File,
    /// A NAR of one symbolic link, with this target.
    Symlink(Vec<u8>),
}

/// Why an archive was not unpacked, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Something else, as a page of a server.
    #[error("not an archive: {0}")]
    NotAnArchive(&'static str),
    /// It contradicts its own format, or ends too early.
    #[error("the archive is broken: {0}")]
    Broken(String),
    /// An entry that is not unpacked.
    #[error("the archive is refused: '{}' {reason}", printable(.path))]
    Refused {
        /// Its path in the archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit was reached.
    #[error("the archive is refused: {0}")]
    Limit(String),
    /// The disk does not take it.
    #[error("cannot write {}: {source}", printable(.path))]
    Write {
        /// The entry.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Told to stop.
    #[error("interrupted")]
    Interrupted,
}

impl UnpackError {
    fn refused(path: &[u8], reason: &'static str) -> Self {
        Self::Refused {
            path: as_path(path),
            reason,
        }
    }
}

fn as_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// Where a reader below a decoder leaves the reason why it gave up: decoders keep no more than the text of an error.
#[derive(Clone, Debug, Default)]
struct Stop(Rc<RefCell<Option<UnpackError>>>);

impl Stop {
    fn with(&self, why: UnpackError) -> io::Error {
        let error = io::Error::other(why.to_string());
        self.0.borrow_mut().get_or_insert(why);
        error
    }

    /// Tells a limit and an interruption from an archive that is broken.
    fn explain(&self, error: &dyn std::fmt::Display) -> UnpackError {
        let stopped = self.0.borrow_mut().take();
        stopped.unwrap_or_else(|| UnpackError::Broken(error.to_string()))
    }
}

/// Unpacks the file `archive`, whose name or URL without query is `name`, into the empty directory `target`: tar, plain or packed by
/// gzip, xz, bzip2, zstd or lzip; zip; NAR, plain or packed. What it begins with decides; the name only where that says
/// nothing. At most `max_bytes` come out.
pub fn unpack(
    archive: &File,
    name: &str,
    target: OwnedFd,
    max_bytes: u64,
    watch: Watch<'_>,
) -> Result<Unpacked, UnpackError> {
    let stop = Stop::default();
    let broken = |error: io::Error| UnpackError::Broken(error.to_string());
    let archive_len = archive.metadata().map_err(broken)?.len();
    let input = || Input::new(archive, stop.clone(), watch);
    let mut head = Vec::new();
    input()
        .take(HEAD_LEN as u64)
        .read_to_end(&mut head)
        .map_err(|error| stop.explain(&error))?;
    let mut writer = Writer::new(target, archive_len, max_bytes, watch);
    if zip::is_zip(&head) {
        return zip::unpack(&input, &stop, &mut writer).map(|()| Unpacked::Tree);
    }
    let codec = Codec::of(&head);
    let mut stream = stream::open(codec, input(), max_bytes, &stop)?;
    let mut first = Vec::new();
    (&mut stream)
        .take(HEAD_LEN as u64)
        .read_to_end(&mut first)
        .map_err(|error| stop.explain(&error))?;
    let is_nar = first.starts_with(store_index::nar::read::MAGIC);
    let is_tar = tar::is_header(&first) || (tar::is_end(&first) && tar::is_name(name));
    let mut whole = Cursor::new(first).chain(stream);
    match (is_nar, is_tar) {
        (true, _) => nar::unpack(&mut whole, &stop, &mut writer),
        (_, true) => tar::unpack(&mut whole, &stop, &mut writer).map(|()| Unpacked::Tree),
        // A zip file may have a program before it.
        _ if codec == Codec::None && zip::is_name(name) => {
            zip::unpack(&input, &stop, &mut writer).map(|()| Unpacked::Tree)
        }
        _ if codec == Codec::None => Err(UnpackError::NotAnArchive(
            "it begins like neither tar, zip nor NAR, nor like what gzip, xz, bzip2, zstd or lzip pack",
        )),
        _ => Err(UnpackError::NotAnArchive(
            "what is packed in it is neither tar nor NAR",
        )),
    }
}

/// Returns true if what a file is packed with ends before its end: it was cut off. At most `max_bytes` of what is in it
/// are looked at.
pub(crate) fn ends_early(file: &File, max_bytes: u64, watch: Watch<'_>) -> bool {
    let stop = Stop::default();
    let input = || Input::new(file, stop.clone(), watch);
    let mut head = Vec::new();
    if input()
        .take(HEAD_LEN as u64)
        .read_to_end(&mut head)
        .is_err()
    {
        return false;
    }
    if zip::is_zip(&head) {
        return zip::lacks_end(file);
    }
    let codec = Codec::of(&head);
    if codec == Codec::None {
        return false;
    }
    let Ok(stream) = stream::open(codec, input(), max_bytes, &stop) else {
        return false;
    };
    io::copy(&mut stream.take(max_bytes), &mut io::sink())
        .is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

/// Returns whether the name ends so, whatever the case.
fn has_suffix(name: &str, suffixes: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    suffixes.iter().any(|suffix| name.ends_with(suffix))
}

/// The disk does not take what is in an entry.
fn write_error(path: &[u8], source: impl Into<io::Error>) -> UnpackError {
    UnpackError::Write {
        path: as_path(path),
        source: source.into(),
    }
}

/// An entry cannot be made. What its name or its kind is the reason of is the archive's affair: another one may have it
/// in a way that this file system takes.
fn make_error(path: &[u8], error: Errno) -> UnpackError {
    UnpackError::refused(
        path,
        match error {
            Errno::NAMETOOLONG => "has a name or target that is too long for the file system here",
            Errno::INVAL | Errno::ILSEQ => "has a name that the file system here does not take",
            Errno::MLINK => "is one directory more than the file system here takes in one",
            Errno::PERM => "is of a kind that the file system here does not take",
            error => return write_error(path, error),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_disks_own_trouble_ends_a_fetch() {
        for errno in [
            Errno::NAMETOOLONG,
            Errno::INVAL,
            Errno::ILSEQ,
            Errno::MLINK,
            Errno::PERM,
        ] {
            let error = make_error(b"a/b", errno);
            assert!(matches!(error, UnpackError::Refused { .. }), "{error:?}");
            assert!(error.to_string().contains("'a/b'"), "{error}");
        }
        for errno in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::ACCESS,
            Errno::IO,
            Errno::ROFS,
        ] {
            let error = make_error(b"a/b", errno);
            assert!(matches!(error, UnpackError::Write { .. }), "{error:?}");
        }
    }
}
