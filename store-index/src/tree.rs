//! Walks a file, symbolic link or directory tree in NAR order, never leaving it, and hands it to a visitor.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::beneath::Node;
use crate::watch::Watch;

/// The deepest tree that is read, in directories: one descriptor is held open for each. Nix itself restores no NAR
/// of more than 64 levels since CVE-2026-44028.
pub const MAX_DEPTH: usize = 256;

/// The most entries of one tree: far above any source tree, far below what exhausts memory or patience.
pub const MAX_ENTRIES: u64 = 20_000_000;

/// How much is read at a time, in bytes.
const BUFFER_LEN: usize = 256 * 1024;

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

/// Why a tree could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Reading failed.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// Where, relative to the tree.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The visitor failed, such as a disk that is full.
    #[error("cannot write {}: {source}", .path.display())]
    Visit {
        /// Where, relative to the tree.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A device, socket or named pipe.
    #[error("{} is neither file, directory nor symbolic link", .0.display())]
    Special(PathBuf),
    /// A file that grew or shrank while it was read.
    #[error("{} changed while it was read", .0.display())]
    Changed(PathBuf),
    /// More than [`MAX_DEPTH`] directories deep.
    #[error("{} is more than {MAX_DEPTH} directories deep", .0.display())]
    TooDeep(PathBuf),
    /// More than [`MAX_ENTRIES`] entries.
    #[error("the tree has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// Told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Walks a node and everything below it. Reports the bytes of files as progress.
pub fn walk(node: Node, visitor: &mut dyn Visitor, watch: Watch<'_>) -> Result<(), TreeError> {
    let mut walker = Walker {
        visitor,
        watch,
        path: PathBuf::new(),
        entries: 0,
        buffer: vec![0; BUFFER_LEN],
    };
    match node {
        Node::File(file) => walker.file(file),
        Node::Symlink(target) => walker.visit(|visitor| visitor.symlink(&target)),
        Node::Directory(directory) => walker.directory(directory, 0),
    }
}

struct Walker<'a> {
    visitor: &'a mut dyn Visitor,
    watch: Watch<'a>,
    /// Where the walk is, relative to its root, for messages.
    path: PathBuf,
    entries: u64,
    buffer: Vec<u8>,
}

impl Walker<'_> {
    fn visit(
        &mut self,
        step: impl FnOnce(&mut dyn Visitor) -> io::Result<()>,
    ) -> Result<(), TreeError> {
        step(self.visitor).map_err(|source| TreeError::Visit {
            path: self.path.clone(),
            source,
        })
    }

    fn read_error(&self, error: impl Into<io::Error>) -> TreeError {
        TreeError::Read {
            path: self.path.clone(),
            source: error.into(),
        }
    }

    fn directory(&mut self, directory: OwnedFd, depth: usize) -> Result<(), TreeError> {
        if depth >= MAX_DEPTH {
            return Err(TreeError::TooDeep(self.path.clone()));
        }
        let mut names = self.list(&directory)?;
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        self.visit(|visitor| visitor.directory_start())?;
        for (name, file_type) in names {
            if self.watch.interrupted() {
                return Err(TreeError::Interrupted);
            }
            self.path
                .push(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())));
            self.visit(|visitor| visitor.entry_start(name.to_bytes()))?;
            self.entry(&directory, &name, file_type, depth)?;
            self.visit(|visitor| visitor.entry_end())?;
            self.path.pop();
        }
        self.visit(|visitor| visitor.directory_end())
    }

    fn list(&mut self, directory: &OwnedFd) -> Result<Vec<(CString, FileType)>, TreeError> {
        let mut names = Vec::new();
        let listing = Dir::read_from(directory).map_err(|error| self.read_error(error))?;
        for entry in listing {
            let entry = entry.map_err(|error| self.read_error(error))?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(TreeError::TooManyEntries);
            }
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
        Ok(names)
    }

    fn entry(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        file_type: FileType,
        depth: usize,
    ) -> Result<(), TreeError> {
        let file_type = match file_type {
            // Some file systems do not tell the type in the listing.
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| self.read_error(error))?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        let open = |flags: OFlags| {
            // NONBLOCK and NOCTTY: the name may have become a pipe or terminal since it was listed.
            let flags = flags
                | OFlags::RDONLY
                | OFlags::NOFOLLOW
                | OFlags::CLOEXEC
                | OFlags::NONBLOCK
                | OFlags::NOCTTY;
            rustix::fs::openat(directory, name, flags, Mode::empty())
        };
        match file_type {
            FileType::RegularFile => {
                let file = open(OFlags::empty()).map_err(|error| self.read_error(error))?;
                self.file(File::from(file))
            }
            FileType::Directory => {
                let child = open(OFlags::DIRECTORY).map_err(|error| self.read_error(error))?;
                self.directory(child, depth + 1)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())
                    .map_err(|error| self.read_error(error))?;
                self.visit(|visitor| visitor.symlink(target.to_bytes()))
            }
            _ => Err(TreeError::Special(self.path.clone())),
        }
    }

    fn file(&mut self, mut file: File) -> Result<(), TreeError> {
        let stat = rustix::fs::fstat(file.as_fd()).map_err(|error| self.read_error(error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(TreeError::Special(self.path.clone()));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let executable = stat.st_mode & 0o100 != 0;
        self.visit(|visitor| visitor.file_start(executable, size))?;
        let mut seen = 0;
        loop {
            let count = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.read_error(error)),
            };
            if self.watch.interrupted() {
                return Err(TreeError::Interrupted);
            }
            seen += count as u64;
            if seen > size {
                break;
            }
            self.visitor
                .file_bytes(&self.buffer[..count])
                .map_err(|source| TreeError::Visit {
                    path: self.path.clone(),
                    source,
                })?;
            self.watch.progress.advance(count as u64);
        }
        if seen != size {
            return Err(TreeError::Changed(self.path.clone()));
        }
        self.visit(|visitor| visitor.file_end())
    }
}
