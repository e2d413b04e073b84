//! A directory beneath a root, and its entries: nothing is opened that leads out of the root.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use store_index::beneath::{Beneath, Node};

/// A directory beneath a root; it need not be there.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: Rc<Beneath>,
    /// Relative to the root; empty for the root itself.
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new(root: &Rc<Beneath>, path: impl Into<PathBuf>) -> Self {
        Self {
            root: Rc::clone(root),
            path: path.into(),
        }
    }

    /// Returns a directory in it.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> Self {
        Self::new(&self.root, self.path.join(path))
    }

    pub(crate) fn root(&self) -> &Rc<Beneath> {
        &self.root
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where it lies, as its root was named.
    pub(crate) fn location(&self) -> PathBuf {
        if self.path.as_os_str().is_empty() {
            return self.root.path().to_owned();
        }
        self.root.path().join(&self.path)
    }

    /// Opens a regular file in it; with an empty path itself, if it is one after all.
    pub(super) fn open_file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        if path.as_ref().as_os_str().is_empty() {
            return self.root.open_file(&self.path);
        }
        self.root.open_file(&self.path.join(path))
    }

    /// Reads a small file in it; `None` if it is not there.
    pub(super) fn read(&self, path: impl AsRef<Path>, most: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_file(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            let path = self.location().join(path);
            return Err(super::corrupt(format!(
                "{} is longer than {most} bytes",
                path.display()
            )));
        }
        Ok(Some(bytes))
    }

    fn open(&self) -> io::Result<OwnedFd> {
        if self.path.as_os_str().is_empty() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            return Ok(rustix::fs::open(self.root.path(), flags, Mode::empty())?);
        }
        match self.root.open_node(&self.path)? {
            Node::Directory(directory) => Ok(directory),
            Node::File(_) | Node::Symlink(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Lists it in the order of the names, up to a number of entries; more is an error.
    pub(super) fn list(&self, most: usize) -> io::Result<Vec<(OsString, FileType)>> {
        let directory = self.open()?;
        let some_hang = !self.root.hanging().is_empty();
        let mut entries = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            // Without a type in the listing it would be asked for, and might hang.
            if some_hang && self.root.may_hang(&self.path.join(name)) {
                continue;
            }
            if entries.len() >= most {
                return Err(super::corrupt(format!(
                    "{} has more than {most} entries",
                    self.location().display()
                )));
            }
            let file_type = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            entries.push((name.to_owned(), file_type));
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    /// Returns the device that it lies on.
    pub(super) fn device(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(self.open()?)?.st_dev)
    }
}

/// Returns true if the file is simply not there.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
