//! Walks a file, symbolic link or directory tree in NAR order, never leaving it, and hands it to a visitor.
//!
//! A tree is read ahead by other threads and visited by the caller's, in one order whatever the disk does: see
//! [`read_ahead`].

mod plan;
mod read_ahead;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::beneath::{Node, Reach};
use crate::path_text::printable;
use crate::places::IN_PLACE_DIR;
use crate::watch::Watch;

use plan::{End, Step};
use read_ahead::{Ahead, CHUNK_LEN, FileReader};

/// The deepest tree that is read, in directories: one descriptor is held open for each. Nix itself restores no NAR
/// of more than 64 levels since CVE-2026-44028.
pub const MAX_DEPTH: usize = 256;

/// The most entries of one tree: far above any source tree, far below what exhausts memory or patience.
pub const MAX_ENTRIES: u64 = 20_000_000;

/// What a tree consists of, in the order of a NAR: entries of a directory sorted by the bytes of their names.
pub trait Visitor {
    /// A directory begins.
    fn directory_start(&mut self) -> io::Result<()>;
    /// An entry of the innermost directory begins; its node follows.
    fn entry_start(&mut self, name: &[u8]) -> io::Result<()>;
    /// The entry is over.
    fn entry_end(&mut self) -> io::Result<()>;
    /// The innermost directory is over.
    fn directory_end(&mut self) -> io::Result<()>;
    /// A symbolic link.
    fn symlink(&mut self, target: &[u8]) -> io::Result<()>;
    /// A regular file begins; exactly `size` bytes follow.
    fn file_start(&mut self, executable: bool, size: u64) -> io::Result<()>;
    /// Bytes of the file.
    fn file_bytes(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// The file is over.
    fn file_end(&mut self) -> io::Result<()>;
    /// A submodule of a git tree, at a commit: an empty directory to all but git ids.
    fn submodule(&mut self, _commit: &[u8]) -> io::Result<()> {
        self.directory_start()?;
        self.directory_end()
    }
}

/// Which entries a walk passes over, at every level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// None.
    Nothing,
    /// What a checkout or an indexed folder has beside its content: `.git`, be it a directory or the file of a
    /// submodule, and `.store-index`.
    Metadata,
}

impl Skip {
    /// Returns true if an entry of this name is passed over.
    pub fn passes_over(self, name: &[u8]) -> bool {
        self == Self::Metadata && (name == b".git" || name == IN_PLACE_DIR.as_bytes())
    }
}

/// Why a tree could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Reading failed.
    #[error("cannot read {}: {source}", printable(.path))]
    Read {
        /// Where, relative to the tree.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The visitor failed, such as a disk that is full.
    #[error("cannot write {}: {source}", printable(.path))]
    Visit {
        /// Where, relative to the tree.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A device, socket or named pipe.
    #[error("{} is neither file, directory nor symbolic link", printable(.0))]
    Special(PathBuf),
    /// A file that grew or shrank while it was read.
    #[error("{} changed while it was read", printable(.0))]
    Changed(PathBuf),
    /// More than [`MAX_DEPTH`] directories deep.
    #[error("{} is more than {MAX_DEPTH} directories deep", printable(.0))]
    TooDeep(PathBuf),
    /// More than [`MAX_ENTRIES`] entries.
    #[error("the tree has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// Told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What is in the way, before it is known where.
#[derive(Debug)]
enum Obstacle {
    Read(io::Error),
    Special,
    Changed,
    TooDeep,
    TooManyEntries,
    Interrupted,
}

impl Obstacle {
    fn at(self, path: &Path) -> TreeError {
        let path = path.to_owned();
        match self {
            Self::Read(source) => TreeError::Read { path, source },
            Self::Special => TreeError::Special(path),
            Self::Changed => TreeError::Changed(path),
            Self::TooDeep => TreeError::TooDeep(path),
            Self::TooManyEntries => TreeError::TooManyEntries,
            Self::Interrupted => TreeError::Interrupted,
        }
    }
}

impl From<rustix::io::Errno> for Obstacle {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Read(error.into())
    }
}

/// Walks a node and everything below it. Reports the bytes of files as progress.
pub fn walk(node: Node, visitor: &mut dyn Visitor, watch: Watch<'_>) -> Result<(), TreeError> {
    walk_without(Skip::Nothing, Reach::Own, node, visitor, watch).map(drop)
}

/// The same, passing over some entries, and refusing to read what is out of reach. Returns how many entries are metadata
/// in the sense of [`Skip::Metadata`],
/// passed over or not; what is in those that were is not counted.
pub fn walk_without(
    skip: Skip,
    reach: Reach,
    node: Node,
    visitor: &mut dyn Visitor,
    watch: Watch<'_>,
) -> Result<u64, TreeError> {
    let mut walk = Walk {
        visitor,
        watch,
        path: PathBuf::new(),
    };
    match node {
        Node::File(file) => walk.open_file(file).map(|()| 0),
        Node::Symlink(target) => walk.visit(|visitor| visitor.symlink(&target)).map(|()| 0),
        Node::Directory(directory) => {
            read_ahead::run(directory, (skip, reach), watch, |ahead| walk.follow(ahead))
        }
    }
}

/// The visiting end of a walk.
struct Walk<'a> {
    visitor: &'a mut dyn Visitor,
    watch: Watch<'a>,
    /// Where it is, relative to its root, for messages.
    path: PathBuf,
}

impl Walk<'_> {
    fn visit(
        &mut self,
        step: impl FnOnce(&mut dyn Visitor) -> io::Result<()>,
    ) -> Result<(), TreeError> {
        step(self.visitor).map_err(|source| TreeError::Visit {
            path: self.path.clone(),
            source,
        })
    }

    /// Visits what has been read ahead. Returns how many entries are metadata.
    fn follow(&mut self, ahead: &mut Ahead) -> Result<u64, TreeError> {
        while let Some(batch) = ahead.next() {
            for step in batch.steps() {
                if self.watch.interrupted() {
                    return Err(TreeError::Interrupted);
                }
                match step {
                    Step::Enter(name) => {
                        if let Some(name) = name {
                            self.entry_start(name)?;
                        }
                        self.visit(|visitor| visitor.directory_start())?;
                    }
                    Step::Leave => {
                        self.visit(|visitor| visitor.directory_end())?;
                        if !self.path.as_os_str().is_empty() {
                            self.entry_end()?;
                        }
                    }
                    Step::Symlink(name, target) => {
                        self.entry_start(name)?;
                        self.visit(|visitor| visitor.symlink(target.to_bytes()))?;
                        self.entry_end()?;
                    }
                    Step::File(_, name) => {
                        self.entry_start(name)?;
                        loop {
                            let (part, bytes) = ahead
                                .next_part(&batch)
                                .map_err(|obstacle| obstacle.at(&self.path))?;
                            self.part(part.start, bytes, part.is_last)?;
                            if part.is_last {
                                break;
                            }
                        }
                        self.entry_end()?;
                    }
                }
            }
            match batch.end {
                None => {}
                Some(End::Whole(metadata)) => return Ok(metadata),
                Some(End::Stop(name, obstacle)) => {
                    if let Some(name) = name {
                        self.path.push(OsStr::from_bytes(name.to_bytes()));
                    }
                    return Err(obstacle.at(&self.path));
                }
            }
        }
        // The planner says how it ended; were it gone without, nothing more would be known.
        Err(TreeError::Interrupted)
    }

    fn entry_start(&mut self, name: &CStr) -> Result<(), TreeError> {
        self.path.push(OsStr::from_bytes(name.to_bytes()));
        self.visit(|visitor| visitor.entry_start(name.to_bytes()))
    }

    fn entry_end(&mut self) -> Result<(), TreeError> {
        self.visit(|visitor| visitor.entry_end())?;
        self.path.pop();
        Ok(())
    }

    /// Visits an open file by itself.
    fn open_file(&mut self, file: File) -> Result<(), TreeError> {
        let mut reader =
            FileReader::new(file.into(), Reach::Own).map_err(|obstacle| obstacle.at(&self.path))?;
        let mut start = Some(reader.start());
        let mut buffer = vec![0; CHUNK_LEN];
        loop {
            let (len, is_last) = reader
                .read(&mut buffer)
                .map_err(|obstacle| obstacle.at(&self.path))?;
            self.part(start.take(), &buffer[..len], is_last)?;
            if is_last {
                return Ok(());
            }
        }
    }

    fn part(
        &mut self,
        start: Option<(bool, u64)>,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<(), TreeError> {
        if let Some((executable, size)) = start {
            self.visit(|visitor| visitor.file_start(executable, size))?;
        }
        if !bytes.is_empty() {
            if self.watch.interrupted() {
                return Err(TreeError::Interrupted);
            }
            self.visit(|visitor| visitor.file_bytes(bytes))?;
            self.watch.progress.advance(bytes.len() as u64);
        }
        if is_last {
            self.visit(|visitor| visitor.file_end())?;
        }
        Ok(())
    }
}
