//! Checks a tree out of the object database into a visitor, as git would write it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::rc::Rc;

use gix::ObjectId;
use gix::bstr::{BStr, BString};
use gix::objs::tree::EntryKind;
use gix::objs::{Kind, TreeRefIter};
use gix::validate::path::component;
use store_index::tree::{MAX_DEPTH, MAX_ENTRIES, TreeError, Visitor};
use store_index::watch::Watch;

use super::attributes::Attributes;
use super::repository::Repository;
use super::{OBJECT_HASH, corrupt};

/// The longest symbolic link target, in bytes: Linux's own limit.
const MAX_SYMLINK_TARGET_LEN: usize = 4095;

/// The most that one checkout writes, in bytes: a few trees that contain each other describe any amount.
const MAX_BYTES: u64 = 64 << 30;

/// The longest name, in bytes: that of all file systems of Linux.
const MAX_NAME_LEN: usize = 255;

/// How much of a file is handed on at a time, in bytes: what runs between two looks at the interruption flag.
const CHUNK_LEN: usize = 1 << 20;

/// Names that git refuses where it protects all file systems from itself, Windows' own reserved names left out.
const NAMES: component::Options = component::Options {
    protect_windows: false,
    protect_hfs: true,
    protect_ntfs: true,
};

/// What a checkout writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The blobs as they are, which is what a tree's id says.
    Raw,
    /// What a fresh clone has, as its `.gitattributes` say.
    Converted,
}

/// A tree in a repository.
#[derive(Clone, Debug)]
pub struct Checkout {
    pub(crate) repository: Rc<Repository>,
    pub(crate) tree: ObjectId,
    pub(crate) form: Form,
    /// What lies at the paths of submodules; those that are not here become empty directories.
    pub(crate) submodules: Submodules,
}

/// Checkouts at paths in another. The same may be there many times, and hold others many times.
type Submodules = HashMap<BString, Rc<Checkout>>;

impl Checkout {
    /// A tree without its submodules.
    pub(crate) fn new(repository: &Rc<Repository>, tree: ObjectId, form: Form) -> Self {
        Self {
            repository: Rc::clone(repository),
            tree,
            form,
            submodules: Submodules::new(),
        }
    }

    /// Visits everything in the order of a NAR. Returns how many submodules there are, which become empty
    /// directories.
    pub(crate) fn walk(
        &self,
        visitor: &mut dyn Visitor,
        watch: Watch<'_>,
    ) -> Result<u64, TreeError> {
        let mut walker = Walker {
            repository: &self.repository,
            attributes: (self.form == Form::Converted).then(Attributes::new),
            submodules_here: &self.submodules,
            visitor,
            watch,
            path: PathBuf::new(),
            top: PathBuf::new(),
            entries: 0,
            bytes: 0,
            submodules: 0,
            empty: HashMap::new(),
        };
        let entries = walker.read(self.tree)?;
        walker.directory(entries, 0)?;
        Ok(walker.submodules)
    }
}

struct Entry {
    name: BString,
    kind: EntryKind,
    id: ObjectId,
}

struct Walker<'a> {
    repository: &'a Repository,
    attributes: Option<Attributes>,
    submodules_here: &'a Submodules,
    visitor: &'a mut dyn Visitor,
    watch: Watch<'a>,
    /// Where the walk is, relative to its root.
    path: PathBuf,
    /// Where the repository's own tree begins; below the root in a submodule.
    top: PathBuf,
    entries: u64,
    bytes: u64,
    submodules: u64,
    /// Trees known to hold no file at any depth, or to hold one.
    empty: HashMap<ObjectId, bool>,
}

impl<'a> Walker<'a> {
    fn visit(
        &mut self,
        step: impl FnOnce(&mut dyn Visitor) -> io::Result<()>,
    ) -> Result<(), TreeError> {
        step(self.visitor).map_err(|source| TreeError::Visit {
            path: self.path.clone(),
            source,
        })
    }

    fn read_error(&self, source: io::Error) -> TreeError {
        TreeError::Read {
            path: self.path.clone(),
            source,
        }
    }

    /// Reads a tree, in the order of a NAR, which is not git's.
    fn read(&self, tree: ObjectId) -> Result<Vec<Entry>, TreeError> {
        self.try_read(tree).map_err(|error| self.read_error(error))
    }

    fn try_read(&self, tree: ObjectId) -> io::Result<Vec<Entry>> {
        let tree = self.repository.database.get(&tree, Kind::Tree)?;
        let mut entries = Vec::new();
        for entry in TreeRefIter::from_bytes(&tree.data, OBJECT_HASH) {
            let entry = entry.map_err(|error| corrupt(format!("the tree is damaged: {error}")))?;
            let kind = entry.mode.kind();
            let mode = (kind == EntryKind::Link).then_some(component::Mode::Symlink);
            gix::validate::path::component(entry.filename, mode, NAMES).map_err(|error| {
                let name = entry.filename.to_string();
                corrupt(format!("the name '{}': {error}", name.escape_debug()))
            })?;
            if entry.filename.contains(&0) {
                return Err(corrupt("a name holds a zero byte"));
            }
            if entry.filename.len() > MAX_NAME_LEN {
                let what = format!("a name is longer than {MAX_NAME_LEN} bytes");
                return Err(corrupt(what));
            }
            entries.push(Entry {
                name: entry.filename.to_owned(),
                kind,
                id: entry.oid.to_owned(),
            });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        match entries.array_windows().find(|[a, b]| a.name == b.name) {
            Some([twice, _]) => {
                let name = twice.name.to_string();
                Err(corrupt(format!("'{}' is there twice", name.escape_debug())))
            }
            None => Ok(entries),
        }
    }

    fn directory(&mut self, entries: Vec<Entry>, depth: usize) -> Result<(), TreeError> {
        if depth >= MAX_DEPTH {
            return Err(TreeError::TooDeep(self.path.clone()));
        }
        let has_attributes = self.enter(&entries)?;
        self.visit(|visitor| visitor.directory_start())?;
        for entry in entries {
            if self.watch.interrupted() {
                return Err(TreeError::Interrupted);
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(TreeError::TooManyEntries);
            }
            self.path.push(OsStr::from_bytes(&entry.name));
            self.entry(&entry, depth)?;
            self.path.pop();
        }
        if let Some(attributes) = self.attributes.as_mut().filter(|_| has_attributes) {
            attributes.leave();
        }
        self.visit(|visitor| visitor.directory_end())
    }

    /// Reads the attributes of a directory before any of its files.
    fn enter(&mut self, entries: &[Entry]) -> Result<bool, TreeError> {
        let found = entries.iter().find(|entry| {
            let is_file = matches!(entry.kind, EntryKind::Blob | EntryKind::BlobExecutable);
            is_file && entry.name == ".gitattributes"
        });
        let (Some(attributes), Some(entry)) = (&mut self.attributes, found) else {
            return Ok(false);
        };
        match self.repository.database.get(&entry.id, Kind::Blob) {
            Ok(blob) => {
                let directory = self.path.strip_prefix(&self.top).unwrap_or(&self.path);
                attributes.enter(directory, &blob.data);
                Ok(true)
            }
            Err(error) => Err(self.read_error(error)),
        }
    }

    fn entry(&mut self, entry: &Entry, depth: usize) -> Result<(), TreeError> {
        let below = match entry.kind {
            EntryKind::Tree => {
                if self.attributes.is_some() && self.empty.get(&entry.id) == Some(&true) {
                    return Ok(());
                }
                let below = self.read(entry.id)?;
                // Git's index has files only, so that no directory comes of an empty tree.
                if self.attributes.is_some() && self.is_empty(entry.id, &below, depth)? {
                    return Ok(());
                }
                below
            }
            _ => Vec::new(),
        };
        self.visit(|visitor| visitor.entry_start(&entry.name))?;
        match entry.kind {
            EntryKind::Tree => self.directory(below, depth + 1)?,
            EntryKind::Commit => self.submodule(entry, depth)?,
            EntryKind::Link => self.symlink(entry)?,
            EntryKind::Blob => self.file(entry, false)?,
            EntryKind::BlobExecutable => self.file(entry, true)?,
        }
        self.visit(|visitor| visitor.entry_end())
    }

    fn is_empty(
        &mut self,
        tree: ObjectId,
        entries: &[Entry],
        depth: usize,
    ) -> Result<bool, TreeError> {
        if entries.iter().any(|entry| entry.kind != EntryKind::Tree) {
            return Ok(false);
        }
        if let Some(known) = self.empty.get(&tree) {
            return Ok(*known);
        }
        if depth >= MAX_DEPTH {
            return Err(TreeError::TooDeep(self.path.clone()));
        }
        let mut is_empty = true;
        for entry in entries {
            if self.watch.interrupted() {
                return Err(TreeError::Interrupted);
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(TreeError::TooManyEntries);
            }
            let is_known = self.empty.get(&entry.id).copied();
            let is_below_empty = match is_known {
                Some(known) => known,
                None => {
                    let below = self.read(entry.id)?;
                    self.is_empty(entry.id, &below, depth + 1)?
                }
            };
            if !is_below_empty {
                is_empty = false;
                break;
            }
        }
        self.empty.insert(tree, is_empty);
        Ok(is_empty)
    }

    fn submodule(&mut self, entry: &Entry, depth: usize) -> Result<(), TreeError> {
        let path = self.path.strip_prefix(&self.top).unwrap_or(&self.path);
        let path: &BStr = path.as_os_str().as_bytes().into();
        if let Some(checkout) = self.submodules_here.get(path) {
            return self.other_repository(checkout, depth);
        }
        self.submodules += 1;
        let is_raw = self.attributes.is_none();
        self.visit(|visitor| {
            if is_raw {
                return visitor.submodule(entry.id.as_bytes());
            }
            visitor.directory_start()?;
            visitor.directory_end()
        })
    }

    /// Walks a tree of another repository, in which nothing of this one's attributes counts.
    fn other_repository(&mut self, checkout: &'a Checkout, depth: usize) -> Result<(), TreeError> {
        let attributes = (checkout.form == Form::Converted).then(Attributes::new);
        let repository = std::mem::replace(&mut self.repository, &checkout.repository);
        let attributes = std::mem::replace(&mut self.attributes, attributes);
        let submodules = std::mem::replace(&mut self.submodules_here, &checkout.submodules);
        let top = std::mem::replace(&mut self.top, self.path.clone());
        let empty = std::mem::take(&mut self.empty);
        let entries = self.read(checkout.tree)?;
        self.directory(entries, depth + 1)?;
        self.repository = repository;
        self.attributes = attributes;
        self.submodules_here = submodules;
        self.top = top;
        self.empty = empty;
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry) -> Result<(), TreeError> {
        let blob = self.blob(entry)?;
        let target = blob.data.as_slice();
        if target.is_empty() || target.len() > MAX_SYMLINK_TARGET_LEN || target.contains(&0) {
            return Err(self.read_error(corrupt("the target of a symbolic link is impossible")));
        }
        self.visit(|visitor| visitor.symlink(target))
    }

    fn file(&mut self, entry: &Entry, executable: bool) -> Result<(), TreeError> {
        let blob = self.blob(entry)?;
        let content = match &mut self.attributes {
            Some(attributes) => {
                let path = self.path.strip_prefix(&self.top).unwrap_or(&self.path);
                let path: &BStr = path.as_os_str().as_bytes().into();
                attributes.of(path).apply(&entry.id, &blob.data)
            }
            None => Ok(blob.data.as_slice().into()),
        };
        let content = content.map_err(|error| self.read_error(error))?;
        let size = content.len() as u64;
        self.bytes += size;
        if self.bytes > MAX_BYTES {
            let what = format!("the tree has more than {MAX_BYTES} bytes");
            return Err(self.read_error(corrupt(what)));
        }
        self.visit(|visitor| visitor.file_start(executable, size))?;
        for chunk in content.chunks(CHUNK_LEN) {
            if self.watch.interrupted() {
                return Err(TreeError::Interrupted);
            }
            self.visit(|visitor| visitor.file_bytes(chunk))?;
            self.watch.progress.advance(chunk.len() as u64);
        }
        self.visit(|visitor| visitor.file_end())
    }

    fn blob(&self, entry: &Entry) -> Result<Rc<super::objects::Object>, TreeError> {
        self.repository
            .database
            .get(&entry.id, Kind::Blob)
            .map_err(|error| self.read_error(error))
    }
}
