//! Writes entries beneath one directory and nowhere else: each path is walked component by component, and no symbolic
//! link is ever followed, least of all one that the archive itself has made.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use store_index::nar::read::{MAX_NAME_LEN, MAX_TARGET_LEN};
use store_index::tree::MAX_DEPTH;
use store_index::watch::Watch;

use super::stream::check_ratio;
use super::{MAX_ENTRIES, Stop, UnpackError, make_error, write_error};
use crate::{copy, tree_copy};

/// What the only file of an archive is called where it has no name of its own.
pub const ROOT_NAME: &str = "root";

/// How much is written at a time, in bytes.
const BUFFER_LEN: usize = 128 * 1024;

pub(super) struct Writer<'a> {
    root: OwnedFd,
    /// The directory of the last entry and those above it, below the root: archives go through a tree in order.
    open: Vec<(Vec<u8>, OwnedFd)>,
    entries: u64,
    bytes: u64,
    archive_len: u64,
    max_bytes: u64,
    buffer: Vec<u8>,
    watch: Watch<'a>,
}

/// A path's components, checked: `.` and empty ones are dropped.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, UnpackError> {
    let refused = |reason| Err(UnpackError::refused(path, reason));
    if path.starts_with(b"/") {
        return refused("is an absolute path");
    }
    if path.contains(&0) {
        return refused("has a NUL byte in its name");
    }
    let components: Vec<_> = path
        .split(|&byte| byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
        .collect();
    if components.iter().any(|part| part == b"..") {
        return refused("leads out of the archive");
    }
    if components.iter().any(|part| part.len() > MAX_NAME_LEN) {
        return refused("has a name that no file system takes");
    }
    // The last may be a directory too, and the root is one.
    if components.len() >= MAX_DEPTH {
        return refused("lies in too many directories");
    }
    Ok(components)
}

fn os(name: &[u8]) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(name)
}

fn open_directory(at: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, os(name), flags, Mode::empty())
}

impl<'a> Writer<'a> {
    pub(super) fn new(root: OwnedFd, archive_len: u64, max_bytes: u64, watch: Watch<'a>) -> Self {
        Self {
            root,
            open: Vec::new(),
            entries: 0,
            bytes: 0,
            archive_len,
            max_bytes,
            buffer: Vec::new(),
            watch,
        }
    }

    fn count_entry(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(UnpackError::Limit(format!(
                "it has more than {MAX_ENTRIES} entries"
            )));
        }
        Ok(())
    }

    fn count_bytes(&mut self, count: u64) -> Result<(), UnpackError> {
        self.bytes = self.bytes.saturating_add(count);
        if self.bytes > self.max_bytes {
            return Err(UnpackError::Limit(format!(
                "its files have more than {} bytes (--max-bytes)",
                self.max_bytes
            )));
        }
        check_ratio(self.bytes, self.archive_len)
    }

    pub(super) fn interrupted(&self) -> bool {
        self.watch.interrupted()
    }

    fn innermost(&self) -> BorrowedFd<'_> {
        self.open
            .last()
            .map_or_else(|| self.root.as_fd(), |(_, directory)| directory.as_fd())
    }

    /// Enters the directory of these components, made where it is missing.
    fn enter(&mut self, path: &[u8], components: &[&[u8]]) -> Result<(), UnpackError> {
        let common = self
            .open
            .iter()
            .zip(components)
            .take_while(|((open, _), wanted)| open == *wanted)
            .count();
        self.open.truncate(common);
        for &name in &components[common..] {
            let made = rustix::fs::mkdirat(self.innermost(), os(name), Mode::from_raw_mode(0o777));
            match made {
                Ok(()) => self.count_entry()?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(make_error(path, error)),
            }
            let directory = match open_directory(self.innermost(), name) {
                Ok(directory) => directory,
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    let reason = "lies beneath an entry that is no directory";
                    return Err(UnpackError::refused(path, reason));
                }
                Err(error) => return Err(write_error(path, error)),
            };
            self.open.push((name.to_owned(), directory));
        }
        Ok(())
    }

    /// Enters the directory of an entry and returns its name there; `None` for the root itself.
    fn place<'p>(&mut self, path: &'p [u8]) -> Result<Option<&'p [u8]>, UnpackError> {
        self.count_entry()?;
        let components = components(path)?;
        let Some((&name, parents)) = components.split_last() else {
            return Ok(None);
        };
        self.enter(path, parents)?;
        Ok(Some(name))
    }

    /// The same for what is no directory.
    fn place_of_leaf<'p>(&mut self, path: &'p [u8]) -> Result<&'p [u8], UnpackError> {
        let reason = "has no name, and is no directory";
        self.place(path)?
            .ok_or_else(|| UnpackError::refused(path, reason))
    }

    /// Does what fails while another entry has the name, and again once that is gone: the later one counts, as with tar.
    fn replacing<T>(
        &self,
        path: &[u8],
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        let directory = self.innermost();
        match make(directory) {
            Err(Errno::EXIST) => {}
            made => return made.map_err(|error| make_error(path, error)),
        }
        let removed = match rustix::fs::unlinkat(directory, os(name), AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                rustix::fs::unlinkat(directory, os(name), AtFlags::REMOVEDIR)
            }
            removed => removed,
        };
        match removed {
            Ok(()) => make(directory).map_err(|error| make_error(path, error)),
            Err(Errno::NOTEMPTY) => {
                let reason = "would replace a directory that has entries";
                Err(UnpackError::refused(path, reason))
            }
            Err(error) => Err(write_error(path, error)),
        }
    }

    /// Makes a directory; one that is there stays as it is.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        let Some(name) = self.place(path)? else {
            return Ok(());
        };
        let is_there =
            match rustix::fs::statat(self.innermost(), os(name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                Err(_) => false,
            };
        if is_there {
            return Ok(());
        }
        self.replacing(path, name, |directory| {
            rustix::fs::mkdirat(directory, os(name), Mode::from_raw_mode(0o777))
        })
    }

    pub(super) fn symlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        if target.is_empty() || target.contains(&0) || target.len() > MAX_TARGET_LEN {
            let reason = "is a symbolic link to what is no path";
            return Err(UnpackError::refused(path, reason));
        }
        let name = self.place_of_leaf(path)?;
        self.replacing(path, name, |directory| {
            rustix::fs::symlinkat(os(target), directory, os(name))
        })
    }

    /// Makes an empty file, to be filled by [`Self::write`].
    pub(super) fn create(&mut self, path: &[u8], executable: bool) -> Result<File, UnpackError> {
        let name = self.place_of_leaf(path)?;
        self.create_here(path, name, executable)
    }

    fn create_here(&self, path: &[u8], name: &[u8], executable: bool) -> Result<File, UnpackError> {
        self.replacing(path, name, |directory| {
            tree_copy::create_file(directory, os(name), executable)
        })
    }

    pub(super) fn write(
        &mut self,
        path: &[u8],
        mut file: &File,
        bytes: &[u8],
    ) -> Result<(), UnpackError> {
        self.count_bytes(bytes.len() as u64)?;
        file.write_all(bytes)
            .map_err(|error| write_error(path, error))
    }

    /// Makes a file of all that a reader gives. Returns how much that was, in bytes.
    pub(super) fn file(
        &mut self,
        path: &[u8],
        executable: bool,
        content: &mut dyn Read,
        stop: &Stop,
    ) -> Result<u64, UnpackError> {
        let file = self.create(path, executable)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BUFFER_LEN, 0);
        let mut len = 0;
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    len += count as u64;
                    self.write(path, &file, &buffer[..count])?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(stop.explain(&error)),
            }
        }
        self.buffer = buffer;
        Ok(len)
    }

    /// Makes a copy of a file that the archive has brought before, under another name. A link would be cheaper, but
    /// who changes one of the two later would change both.
    pub(super) fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        const REASON: &str = "is a hard link to what the archive has not brought before";
        let refused = || UnpackError::refused(path, REASON);
        let wanted = components(target).map_err(|_| refused())?;
        let (&target_name, parents) = wanted.split_last().ok_or_else(refused)?;
        let mut directory = self
            .root
            .try_clone()
            .map_err(|error| write_error(path, error))?;
        for parent in parents {
            directory = open_directory(directory.as_fd(), parent).map_err(|_| refused())?;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = match rustix::fs::openat(&directory, os(target_name), flags, Mode::empty()) {
            Ok(source) => File::from(source),
            Err(Errno::LOOP) => {
                let link = rustix::fs::readlinkat(&directory, os(target_name), Vec::new())
                    .map_err(|error| write_error(path, error))?;
                return self.symlink(path, link.to_bytes());
            }
            Err(_) => return Err(refused()),
        };
        let metadata = source
            .metadata()
            .map_err(|error| write_error(path, error))?;
        if !metadata.is_file() {
            return Err(refused());
        }
        let name = self.place_of_leaf(path)?;
        if components(path)? == wanted {
            return Ok(());
        }
        self.count_bytes(metadata.len())?;
        let linked = self.create_here(path, name, crate::publish::is_executable(&metadata))?;
        match copy::copy_unhashed(&source, &linked, self.watch) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Err(UnpackError::Interrupted)
            }
            copied => copied.map_err(|error| write_error(path, error)),
        }
    }
}
