//! An index as its readers see it: opened, asked, never written.

use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::address::{ContentAddress, Method};
use crate::directory_links::{self, TreeKind};
use crate::key::{KeyKind, KeySet};
use crate::links::LinkName;
use crate::manifest::{self, Manifest, ManifestError};
use crate::media::Note;
use crate::places::IN_PLACE_DIR;
use crate::root::{Root, RootKind};
use crate::segment::SegmentError;
use crate::segment::reader::{Object, Segment};

pub use crate::places::{default_dirs, find_default, find_named, system_dirs};

/// How often the manifest is read again because a writer has merged meanwhile. Merges take longer than opening; that
/// several fall into one opening says that something else is wrong.
const OPEN_ATTEMPTS: u32 = 5;

/// An opened index. It stays as it was when it was opened, whatever writers do.
#[derive(Debug)]
pub struct Index {
    directory: PathBuf,
    manifest: Manifest,
    /// Newest first.
    segments: Vec<Segment>,
}

/// Where content may lie. A hint: it is to be hashed before it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub location: Location,
    /// The size in bytes when it was indexed.
    pub size: u64,
    /// True if a checksum list says so and nobody has read the file.
    pub hint: bool,
}

/// A place below a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// An entry of the store's `.links`.
    Link(LinkName),
    /// A path relative to the root, plain parts only.
    File(PathBuf),
}

impl Location {
    /// Returns the path relative to the root.
    pub fn relative_path(&self) -> PathBuf {
        match self {
            Self::Link(name) => name.relative_path(),
            Self::File(path) => path.clone(),
        }
    }
}

/// Why an index cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No manifest there.
    #[error("there is no index in {}", .0.display())]
    Absent(PathBuf),
    /// The manifest cannot be read.
    #[error("cannot read the index in {}: {source}", .directory.display())]
    Read {
        /// The index directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Written by a later program.
    #[error("the index in {} has format version {version}, which is newer than this program", .directory.display())]
    NewerVersion {
        /// The index directory.
        directory: PathBuf,
        /// Its version.
        version: u64,
    },
    /// The manifest is damaged.
    #[error("the index in {} is damaged: manifest: {error}", .directory.display())]
    Manifest {
        /// The index directory.
        directory: PathBuf,
        /// How.
        error: ManifestError,
    },
    /// A segment is damaged, missing or cannot be read.
    #[error("the index in {} cannot be used: {error}", .directory.display())]
    Segment {
        /// The index directory.
        directory: PathBuf,
        /// How.
        error: SegmentError,
    },
}

impl OpenError {
    /// Returns what to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Absent(_) => "make one with `store-index update`",
            Self::Read { .. } => {
                "see that it can be read, or make it again with `store-index update`"
            }
            Self::NewerVersion { .. } => {
                "use the program that wrote it, or make it again with `store-index update --rebuild`"
            }
            Self::Manifest { .. } | Self::Segment { .. } => {
                "it is left out; make it again with `store-index update --rebuild`"
            }
        }
    }

    /// Returns the index directory.
    pub fn directory(&self) -> &Path {
        match self {
            Self::Absent(directory)
            | Self::Read { directory, .. }
            | Self::NewerVersion { directory, .. }
            | Self::Manifest { directory, .. }
            | Self::Segment { directory, .. } => directory,
        }
    }

    /// Returns true if there is nothing, as opposed to something unusable.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent(_))
    }
}

/// Why a question could not be answered.
#[derive(Debug, thiserror::Error)]
#[error("the index in {} cannot be used: {error}", .directory.display())]
pub struct ReadError {
    directory: PathBuf,
    #[source]
    error: SegmentError,
}

impl Index {
    /// Opens the index in a directory.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let mut attempt = 1;
        loop {
            let manifest = read_manifest(directory)?;
            match open_segments(directory, &manifest) {
                Ok(segments) => {
                    return Ok(Self {
                        directory: directory.to_owned(),
                        manifest,
                        segments,
                    });
                }
                Err(error) if attempt < OPEN_ATTEMPTS && is_missing(&error) => attempt += 1,
                Err(error) => {
                    return Err(OpenError::Segment {
                        directory: directory.to_owned(),
                        error,
                    });
                }
            }
        }
    }

    /// Returns the index directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns what the index is of: what the manifest says, except that an index in a folder's own `.store-index`
    /// is of that folder whatever it says, or a disc could send us anywhere.
    pub fn root(&self) -> Root {
        match self.folder_around() {
            Some(folder) if self.manifest.root.kind() == RootKind::Medium => {
                Root::recorded(RootKind::Medium, folder, self.manifest.root.id())
            }
            Some(folder) => Root::canonical_folder(folder),
            None => self.manifest.root.clone(),
        }
    }

    fn folder_around(&self) -> Option<PathBuf> {
        let directory = fs_err::canonicalize(&self.directory).ok()?;
        let in_place = directory
            .file_name()
            .is_some_and(|name| name == IN_PLACE_DIR);
        in_place
            .then(|| directory.parent().map(Path::to_owned))
            .flatten()
    }

    /// Returns true if what the manifest says about its root counts: the directory and the manifest belong to root or
    /// to us, and nobody else can write them; or the index lies in the folder that it is of.
    pub fn root_is_trusted(&self) -> bool {
        if self.folder_around().is_some() {
            return true;
        }
        let us = rustix::process::geteuid().as_raw();
        let safe = |metadata: io::Result<std::fs::Metadata>| {
            metadata.is_ok_and(|metadata| {
                [0, us].contains(&metadata.uid()) && metadata.mode() & 0o022 == 0
            })
        };
        // The directory may have been named by a symbolic link; the manifest was opened without following one.
        safe(fs_err::metadata(&self.directory))
            && safe(fs_err::symlink_metadata(
                self.directory.join(manifest::FILE_NAME),
            ))
    }

    /// Returns the manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the segments, newest first.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns up to `limit` places of content, from the newest segment on.
    pub fn look_up(&self, address: &ContentAddress, limit: usize) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::new();
        for segment in &self.segments {
            if entries.len() >= limit {
                break;
            }
            self.look_up_in(segment, address, limit, &mut entries)
                .map_err(|error| ReadError {
                    directory: self.directory.clone(),
                    error,
                })?;
        }
        Ok(entries)
    }

    /// Returns the place of a directory with this NAR hash or git tree id, relative to the root and empty for the root
    /// itself. As of [`Index::look_up`], it is to be hashed before it is used.
    pub fn look_up_tree(&self, address: &ContentAddress) -> Result<Option<PathBuf>, ReadError> {
        let linked_as = match self.manifest.root.kind() {
            RootKind::Medium => Note::read(&self.directory).linked_as(),
            RootKind::Store | RootKind::Folder => Some(self.manifest.root.path().to_owned()),
        };
        let root = linked_as.unwrap_or_default();
        directory_links::look_up(&self.directory, &root, address).map_err(|source| ReadError {
            directory: self.directory.clone(),
            error: SegmentError::Read {
                file: directory_links::DIRECTORY.to_owned(),
                source,
            },
        })
    }

    /// Returns true if there are links to directories of the kind that an address asks for.
    pub fn has_trees(&self, address: &ContentAddress) -> bool {
        TreeKind::of_address(address).is_some_and(|kind| {
            let folder = Path::new(directory_links::DIRECTORY).join(kind.directory());
            fs_err::symlink_metadata(self.directory.join(folder)).is_ok()
        })
    }

    fn look_up_in(
        &self,
        segment: &Segment,
        address: &ContentAddress,
        limit: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), SegmentError> {
        if let ContentAddress::Nar(hash) = address
            && let Some(name) = LinkName::of(hash)
            && let Some((object, size)) = segment.find_link(&name)?
            && segment.is_live(object)?
        {
            entries.push(Entry {
                location: Location::Link(name),
                size,
                hint: false,
            });
        }
        for &kind in KeyKind::of_address(address) {
            let wanted = limit.saturating_sub(entries.len());
            for object in segment.find(kind, address.digest().as_bytes(), wanted)? {
                entries.extend(entry(segment.object(object)?));
            }
        }
        Ok(())
    }

    /// Returns true if every file that a scan of the root can find is in the index under this address's method and
    /// algorithm, as of the time that [`Index::is_fresh_for`] compares. NAR hashes and git ids of directories are not
    /// kept, so these methods are never covered.
    pub fn covers(&self, address: &ContentAddress) -> bool {
        let kinds = KeyKind::of_address(address)
            .iter()
            .copied()
            .fold(KeySet::empty(), KeySet::with);
        address.method() == Method::Flat
            && self.manifest.finished
            && self.manifest.root.kind() == RootKind::Store
            && self.manifest.store_mtime_ns.is_some()
            && self.manifest.kinds.includes(kinds)
    }

    /// Returns true if the store directory has not changed since the index was made, given its modification time in
    /// nanoseconds since 1970.
    pub fn is_fresh_for(&self, store_mtime_ns: i64) -> bool {
        self.manifest.store_mtime_ns == Some(store_mtime_ns)
    }
}

fn entry(object: Object) -> Option<Entry> {
    match object {
        Object::Link { name, size } => Some(Entry {
            location: Location::Link(name),
            size,
            hint: false,
        }),
        Object::File(file) => {
            let path = PathBuf::from(std::ffi::OsString::from_vec(file.path));
            Some(Entry {
                location: Location::File(path),
                size: file.size,
                hint: file.hint,
            })
        }
        // No key leads to an item; a damaged one may.
        Object::Item { .. } => None,
    }
}

/// Reads and checks the manifest of an index directory.
pub fn read_manifest(directory: &Path) -> Result<Manifest, OpenError> {
    let bytes = manifest::read_file(directory).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            OpenError::Absent(directory.to_owned())
        }
        _ => OpenError::Read {
            directory: directory.to_owned(),
            source,
        },
    })?;
    Manifest::decode(&bytes).map_err(|error| match error {
        ManifestError::NewerVersion(version) => OpenError::NewerVersion {
            directory: directory.to_owned(),
            version,
        },
        error => OpenError::Manifest {
            directory: directory.to_owned(),
            error,
        },
    })
}

fn open_segments(directory: &Path, manifest: &Manifest) -> Result<Vec<Segment>, SegmentError> {
    let open = |entry: &manifest::SegmentEntry| {
        Segment::open(
            directory,
            &entry.file,
            entry.dead.as_ref().map(|dead| dead.file.as_str()),
        )
    };
    manifest.segments.iter().rev().map(open).collect()
}

fn is_missing(error: &SegmentError) -> bool {
    matches!(error, SegmentError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
}
