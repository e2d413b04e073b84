//! The object database of a repository: loose objects and packs, its own and those of its alternates.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gix::objs::Kind;
use gix::odb::pack::data::entry::Header;
use gix::zlib::Decompress;
use gix::{ObjectId, oid};

use store_index::watch::Watch;

use super::folder::{Folder, is_absent};
use super::inflate::{self, MAX_OBJECT_BYTES};
use super::pack::Pack;
use super::repository::Repository;
use super::{OBJECT_HASH, corrupt};
use crate::source_url::SourceUrl;

/// The most packs of one folder of objects: each holds a descriptor open or two, of which processes have 1024.
const MAX_PACKS: usize = 200;

/// The most files in a folder of packs: an index, a pack, a bitmap and a few more for each.
const MAX_PACK_FILES: usize = 10_000;

/// The longest chain of deltas: git itself makes none above 4095.
pub(super) const MAX_DELTA_CHAIN: usize = 4095;

/// The header of a loose object is `commit <size>` at most, in bytes.
const MAX_LOOSE_HEADER_LEN: usize = 64;

/// How much of decompressed bases is kept for the next delta on them, in bytes.
const CACHE_BYTES: usize = 48 << 20;

/// Larger bases are not kept, in bytes.
const MAX_CACHED_BYTES: usize = CACHE_BYTES / 4;

/// An object, decompressed.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) data: Vec<u8>,
}

/// A path below one of the places that are known.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    pub(crate) place: usize,
    pub(crate) path: PathBuf,
}

impl Directory {
    /// Returns the path of something in it.
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        Self {
            place: self.place,
            path: self.path.join(OsStr::from_bytes(name)),
        }
    }
}

/// What this machine has of what a server would send.
pub(crate) trait Here: std::fmt::Debug {
    /// Returns a repository that has a commit, and the trees that it may mean.
    fn commit(&self, id: &oid, watch: Watch<'_>) -> Option<(Repository, Vec<ObjectId>)>;
    /// Says whether there may be blobs of a repository at all.
    fn may_have_blobs(&self, url: &SourceUrl, watch: Watch<'_>) -> bool;
    /// Says whether a blob seems to be there, without reading it.
    fn has_blob(&self, id: &oid) -> bool;
    /// Says where a tree lies as a directory, if a directory link knows it.
    fn directory(&self, id: &oid) -> Option<Directory>;
    /// Says whether there is something at a path that may be a blob, and remembers it for when that is read.
    fn has_blob_at(&self, id: &oid, at: &Directory) -> bool;
    /// Returns those of a repository's blobs that no other seems to have, and remembers where the others are.
    fn not_lent(&self, blobs: Vec<ObjectId>, url: &SourceUrl, watch: Watch<'_>) -> Vec<ObjectId>;
    /// Reads a blob, and sees that it is the one.
    fn read_blob(&self, id: &oid) -> Option<Vec<u8>>;
    /// Returns how many were read.
    fn blobs_read(&self) -> u64;
}

/// All folders of objects that a repository has.
#[derive(Debug)]
pub(super) struct Database {
    stores: Vec<Store>,
    /// Why objects may be missing.
    left_out: Option<String>,
    /// Where blobs are that are not here.
    elsewhere: Option<Rc<dyn Here>>,
    cache: RefCell<Cache>,
}

#[derive(Debug)]
struct Store {
    objects: Folder,
    packs: OnceCell<Packs>,
}

#[derive(Debug, Default)]
struct Packs {
    usable: Vec<Pack>,
    /// Why another cannot be used.
    trouble: Option<String>,
}

/// Bases of deltas, by store, pack and offset.
#[derive(Debug, Default)]
struct Cache {
    objects: HashMap<(usize, usize, u64), Rc<Object>>,
    bytes: usize,
}

impl Cache {
    fn insert(&mut self, key: (usize, usize, u64), object: &Rc<Object>) {
        let len = object.data.len();
        if len > MAX_CACHED_BYTES {
            return;
        }
        if self.bytes + len > CACHE_BYTES {
            *self = Self::default();
        }
        if self.objects.insert(key, Rc::clone(object)).is_none() {
            self.bytes += len;
        }
    }
}

/// Where an object lies in a pack.
#[derive(Clone, Copy)]
struct Packed<'a> {
    store: usize,
    number: usize,
    pack: &'a Pack,
    offset: u64,
}

impl Database {
    /// Takes folders of objects; nothing is opened yet.
    pub(super) fn new(folders: Vec<Folder>, left_out: Option<String>) -> Self {
        let stores = folders.into_iter().map(|objects| Store {
            objects,
            packs: OnceCell::new(),
        });
        Self {
            stores: stores.collect(),
            left_out,
            elsewhere: None,
            cache: RefCell::default(),
        }
    }

    /// Closes all files; they are opened again when they are needed.
    pub(super) fn close(&mut self) {
        for store in &mut self.stores {
            store.packs = OnceCell::new();
        }
    }

    /// Says where blobs are that are not here.
    pub(super) fn lean_on(&mut self, here: Rc<dyn Here>) {
        self.elsewhere = Some(here);
    }

    pub(super) fn left_out(&self) -> Option<&str> {
        self.left_out.as_deref()
    }

    /// Returns true if an object seems to be there, without reading anything of it.
    pub(super) fn has(&self, id: &oid) -> io::Result<bool> {
        let loose = |folder: &Folder, path: &Path| match folder.open_file(path) {
            Ok(_) => Ok(Some(())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        };
        Ok(self.first(id, |_| Ok(()), loose)?.is_some())
    }

    /// Returns the kind of an object without reading it; `None` if it is not there.
    pub(super) fn kind(&self, id: &oid) -> io::Result<Option<Kind>> {
        self.first(id, |packed| self.packed_kind(packed), loose_kind)
    }

    /// Reads an object; `None` if it is not there. A damaged copy does not hide a good one.
    pub(super) fn find(&self, id: &oid) -> io::Result<Option<Rc<Object>>> {
        self.first(
            id,
            |packed| self.packed(packed),
            |folder, path| Ok(loose(folder, path)?.map(Rc::new)),
        )
    }

    /// Reads an object that must be there and of a kind.
    pub(super) fn get(&self, id: &oid, kind: Kind) -> io::Result<Rc<Object>> {
        let found = match (self.find(id)?, &self.elsewhere) {
            (None, Some(here)) if kind == Kind::Blob => here
                .read_blob(id)
                .map(|data| Rc::new(Object { kind, data })),
            (found, _) => found,
        };
        match found {
            Some(object) if object.kind == kind => Ok(object),
            Some(object) => Err(corrupt(format!(
                "{id} is a {}, and a {kind} is wanted",
                object.kind
            ))),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                match &self.left_out {
                    Some(reason) => format!("the {kind} {id} is missing ({reason})"),
                    None => format!("the {kind} {id} is missing"),
                },
            )),
        }
    }

    /// Asks each place until one answers; trouble counts only if none does.
    fn first<T>(
        &self,
        id: &oid,
        packed: impl Fn(Packed<'_>) -> io::Result<T>,
        loose: impl Fn(&Folder, &Path) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let mut trouble = None;
        for (store, place) in self.stores.iter().enumerate() {
            match place.packs() {
                Ok(Packs {
                    usable,
                    trouble: unusable,
                }) => {
                    let damaged = unusable.as_deref().map(corrupt);
                    trouble = damaged.or(trouble);
                    for (number, pack) in usable.iter().enumerate() {
                        let answer = match pack.offset_of(id) {
                            Ok(None) => continue,
                            Ok(Some(offset)) => packed(Packed {
                                store,
                                number,
                                pack,
                                offset,
                            }),
                            Err(error) => Err(error),
                        };
                        match answer {
                            Ok(answer) => return Ok(Some(answer)),
                            Err(error) => trouble = Some(error),
                        }
                    }
                }
                Err(error) => trouble = Some(error),
            }
            let hex = id.to_hex().to_string();
            let (folder, file) = hex.split_at(2);
            match loose(&place.objects, &Path::new(folder).join(file)) {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    /// The kind of a packed object is that of the base of its chain.
    fn packed_kind(&self, mut at: Packed<'_>) -> io::Result<Kind> {
        for _ in 0..=MAX_DELTA_CHAIN {
            let entry = at.pack.entry(at.offset)?;
            match entry.header.as_kind() {
                Some(kind) => return Ok(kind),
                None => at.offset = base_of(at, entry.header)?,
            }
        }
        Err(too_long())
    }

    fn packed(&self, mut at: Packed<'_>) -> io::Result<Rc<Object>> {
        let mut deltas: Vec<(Packed<'_>, Vec<u8>)> = Vec::new();
        let mut delta_bytes = 0;
        let mut object = loop {
            let cached = {
                let cache = self.cache.borrow();
                cache.objects.get(&at.key()).map(Rc::clone)
            };
            if let Some(cached) = cached {
                break cached;
            }
            let entry = at.pack.entry(at.offset)?;
            let data = at.pack.inflate(&entry)?;
            if let Some(kind) = entry.header.as_kind() {
                let object = Rc::new(Object { kind, data });
                if !deltas.is_empty() {
                    self.cache.borrow_mut().insert(at.key(), &object);
                }
                break object;
            }
            delta_bytes += data.len() as u64;
            if deltas.len() >= MAX_DELTA_CHAIN || delta_bytes > MAX_OBJECT_BYTES {
                return Err(too_long());
            }
            deltas.push((at, data));
            at.offset = base_of(at, entry.header)?;
        };
        while let Some((at, delta)) = deltas.pop() {
            let data = inflate::apply_delta(&object.data, &delta)?;
            object = Rc::new(Object {
                kind: object.kind,
                data,
            });
            self.cache.borrow_mut().insert(at.key(), &object);
        }
        Ok(object)
    }
}

impl Packed<'_> {
    const fn key(&self) -> (usize, usize, u64) {
        (self.store, self.number, self.offset)
    }
}

/// The offset of what a delta is applied to. In a repository both are in the same pack.
fn base_of(at: Packed<'_>, header: Header) -> io::Result<u64> {
    let base = match header {
        Header::OfsDelta { base_distance } => at.offset.checked_sub(base_distance),
        Header::RefDelta { base_id } => at.pack.offset_of(&base_id)?,
        _ => None,
    };
    base.filter(|&base| base != at.offset)
        .ok_or_else(|| corrupt("the base of a delta is not in its pack"))
}

fn too_long() -> io::Error {
    corrupt(format!(
        "a chain of more than {MAX_DELTA_CHAIN} deltas, or a larger one than {MAX_OBJECT_BYTES} bytes"
    ))
}

impl Store {
    fn packs(&self) -> io::Result<&Packs> {
        if let Some(packs) = self.packs.get() {
            return Ok(packs);
        }
        let folder = self.objects.join("pack");
        let entries = match folder.list(MAX_PACK_FILES) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut packs = Packs::default();
        for (name, _) in &entries {
            let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".idx")) else {
                continue;
            };
            if packs.usable.len() >= MAX_PACKS {
                return Err(corrupt(format!(
                    "{} has more than {MAX_PACKS} packs; git gc makes them fewer",
                    folder.location().display()
                )));
            }
            // One bad index must not hide the others.
            match Pack::open(&folder, stem) {
                Ok(pack) => packs.usable.push(pack),
                Err(error) => packs.trouble = Some(error.to_string()),
            }
        }
        Ok(self.packs.get_or_init(|| packs))
    }
}

struct Loose {
    reader: BufReader<std::fs::File>,
    state: Decompress,
    kind: Kind,
    size: u64,
    /// What was decompressed along with the header.
    start: Vec<u8>,
}

fn open_loose(folder: &Folder, path: &Path) -> io::Result<Option<Loose>> {
    let file = match folder.open_file(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::new(file);
    let mut state = Decompress::new();
    let mut head = [0; MAX_LOOSE_HEADER_LEN];
    let len = inflate::some(&mut reader, &mut state, &mut head)?;
    let (kind, size, header_len) = gix::objs::decode::loose_header(&head[..len])
        .map_err(|error| corrupt(format!("{}: {error}", path.display())))?;
    Ok(Some(Loose {
        reader,
        state,
        kind,
        size,
        start: head[header_len..len].to_vec(),
    }))
}

fn loose_kind(folder: &Folder, path: &Path) -> io::Result<Option<Kind>> {
    Ok(open_loose(folder, path)?.map(|loose| loose.kind))
}

fn loose(folder: &Folder, path: &Path) -> io::Result<Option<Object>> {
    let Some(mut loose) = open_loose(folder, path)? else {
        return Ok(None);
    };
    let mut data = loose.start;
    let rest = loose
        .size
        .checked_sub(data.len() as u64)
        .ok_or_else(|| corrupt("a loose object is longer than it says"))?;
    let rest = inflate::rest(&mut loose.reader, &mut loose.state, rest)?;
    if data.is_empty() {
        data = rest;
    } else {
        data.extend(rest);
    }
    Ok(Some(Object {
        kind: loose.kind,
        data,
    }))
}

/// What an id stands for, tags followed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meant {
    /// `None` if it is a tree's.
    pub(super) commit: Option<ObjectId>,
    pub(super) tree: ObjectId,
}

/// Returns what a commit, or a tag of one, has as its tree; a tree is its own.
pub(super) fn meant_by(database: &Database, id: &oid) -> io::Result<Option<Meant>> {
    /// Tags of tags are rare, and three of them a joke.
    const MAX_TAGS: usize = 16;
    let mut id = id.to_owned();
    for _ in 0..MAX_TAGS {
        let Some(kind) = database.kind(&id)? else {
            return Ok(None);
        };
        let damaged = |error| corrupt(format!("the {kind} {id} is damaged: {error}"));
        let read = || database.get(&id, kind);
        match kind {
            Kind::Tree => {
                return Ok(Some(Meant {
                    commit: None,
                    tree: id,
                }));
            }
            Kind::Blob => return Ok(None),
            Kind::Commit => {
                let commit = read()?;
                let mut commit = gix::objs::CommitRefIter::from_bytes(&commit.data, OBJECT_HASH);
                let tree = commit.tree_id().map_err(damaged)?;
                let commit = Some(id);
                return Ok(Some(Meant { commit, tree }));
            }
            Kind::Tag => {
                let tag = read()?;
                let tag = gix::objs::TagRefIter::from_bytes(&tag.data, OBJECT_HASH);
                id = tag.target_id().map_err(damaged)?;
            }
        }
    }
    Err(corrupt(format!("more than {MAX_TAGS} tags of tags")))
}
