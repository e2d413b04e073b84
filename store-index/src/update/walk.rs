//! Walks a folder or medium in the order of its names, without leaving its file system.
//!
//! The crate walkdir, which walks the items of stores, looks at a directory before it can be told to pass it over. That
//! is too late for the mount point of a server that is gone: whoever looks at it hangs.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{FileType, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::mounts::hanging_below;

/// What a walk meets.
#[derive(Debug)]
pub(super) struct Entry {
    path: PathBuf,
    /// How many directories below the root it lies; 0 is the root itself.
    pub(super) depth: usize,
    pub(super) kind: Kind,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// What is in it follows.
    Directory,
    Symlink,
    /// A device, socket or named pipe.
    Special,
    /// The mount point of another file system, which is not entered, and not even touched if it may hang.
    Elsewhere,
}

/// What could not be listed or looked at.
#[derive(Debug)]
pub(super) struct WalkError {
    pub(super) depth: usize,
    pub(super) source: io::Error,
}

impl Entry {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file_name(&self) -> &OsStr {
        self.path.file_name().unwrap_or(self.path.as_os_str())
    }

    pub(super) fn metadata(&self) -> Result<Metadata, WalkError> {
        fs_err::symlink_metadata(&self.path).map_err(|source| WalkError {
            depth: self.depth,
            source,
        })
    }
}

/// A walk over what lies beneath a root, the root first. A directory comes before what is in it.
pub(super) struct Walk<'f> {
    /// Canonical.
    root: PathBuf,
    /// Relative to the root.
    hanging: Vec<PathBuf>,
    passes_over: Box<dyn FnMut(&Entry) -> bool + 'f>,
    device: Option<u64>,
    /// The listings of the directories around the next entry, the next name last.
    open: Vec<(PathBuf, Vec<(OsString, Kind)>)>,
    begun: bool,
    /// A directory that was handed out, and is listed when the walk goes on.
    next: Option<(PathBuf, usize)>,
    /// What went wrong in listing it; what could be listed is walked all the same.
    trouble: VecDeque<WalkError>,
}

impl<'f> Walk<'f> {
    /// Begins a walk. What `passes_over` says yes to is neither handed out nor entered; it is not asked about the root.
    pub(super) fn new(root: &Path, passes_over: impl FnMut(&Entry) -> bool + 'f) -> Self {
        Self {
            root: root.to_owned(),
            hanging: hanging_below(root),
            passes_over: Box::new(passes_over),
            device: None,
            open: Vec::new(),
            begun: false,
            next: None,
            trouble: VecDeque::new(),
        }
    }

    /// Passes over what is in the directory that was handed out last.
    pub(super) fn skip_directory(&mut self) {
        self.next = None;
    }

    fn begin(&mut self) -> Result<Entry, WalkError> {
        let metadata = fs_err::symlink_metadata(&self.root)
            .map_err(|source| WalkError { depth: 0, source })?;
        self.device = Some(metadata.dev());
        let kind = Kind::of(metadata.file_type());
        if kind == Kind::Directory {
            self.next = Some((self.root.clone(), 0));
        }
        Ok(Entry {
            path: self.root.clone(),
            depth: 0,
            kind,
        })
    }

    /// Lists a directory. What is mounted in it and may hang is known by its name.
    fn list(&mut self, directory: PathBuf, depth: usize) {
        let relative = directory.strip_prefix(&self.root).unwrap_or(&directory);
        let hanging: Vec<&OsStr> = self
            .hanging
            .iter()
            .filter(|mount_point| mount_point.parent() == Some(relative))
            .filter_map(|mount_point| mount_point.file_name())
            .collect();
        let mut names = Vec::new();
        let mut trouble = VecDeque::new();
        let mut note = |depth, source| trouble.push_back(WalkError { depth, source });
        match fs_err::read_dir(&directory) {
            Err(error) => note(depth, error),
            Ok(listing) => {
                for entry in listing {
                    let named = entry.and_then(|entry| {
                        let name = entry.file_name();
                        let kind = if hanging.contains(&name.as_os_str()) {
                            Kind::Elsewhere
                        } else {
                            Kind::of(entry.file_type()?)
                        };
                        Ok((name, kind))
                    });
                    match named {
                        Ok(named) => names.push(named),
                        Err(error) => note(depth + 1, error),
                    }
                }
            }
        }
        names.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        self.trouble = trouble;
        self.open.push((directory, names));
    }

    /// Sees whether a directory is on the root's file system.
    fn stays(&self, entry: &Entry) -> Result<bool, WalkError> {
        let metadata = entry.metadata()?;
        Ok(self.device.is_none_or(|device| device == metadata.dev()))
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Entry, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.begun {
            self.begun = true;
            return Some(self.begin());
        }
        if let Some((directory, depth)) = self.next.take() {
            self.list(directory, depth);
        }
        if let Some(error) = self.trouble.pop_front() {
            return Some(Err(error));
        }
        loop {
            let depth = self.open.len();
            let (directory, names) = self.open.last_mut()?;
            let Some((name, kind)) = names.pop() else {
                self.open.pop();
                continue;
            };
            let mut entry = Entry {
                path: directory.join(name),
                depth,
                kind,
            };
            if (self.passes_over)(&entry) {
                continue;
            }
            if kind == Kind::Directory {
                match self.stays(&entry) {
                    Ok(true) => self.next = Some((entry.path.clone(), depth)),
                    Ok(false) => entry.kind = Kind::Elsewhere,
                    Err(error) => return Some(Err(error)),
                }
            }
            return Some(Ok(entry));
        }
    }
}

impl Kind {
    fn of(file_type: FileType) -> Self {
        if file_type.is_file() {
            Self::File
        } else if file_type.is_dir() {
            Self::Directory
        } else if file_type.is_symlink() {
            Self::Symlink
        } else {
            Self::Special
        }
    }
}
