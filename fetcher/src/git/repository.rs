//! A repository's folders: those that it names itself count only beneath the roots that the user named.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use gix::objs::Kind;
use gix::{ObjectId, oid};
use store_index::beneath::Beneath;
use store_index::path_text::printable;

use super::folder::Folder;
use super::objects::{self, Database, Here};
use super::revision::Revision;
use super::{corrupt, references};

/// The longest file that holds one path, in bytes: a path is at most 4096, and a word stands before it.
const MAX_PATH_FILE_BYTES: u64 = 8192;

/// The longest list of alternates, in bytes.
const MAX_ALTERNATES_BYTES: u64 = 64 * 1024;

/// The most folders of objects that one repository draws on.
const MAX_STORES: usize = 32;

/// The folders that repositories may refer to: all that were named.
#[derive(Clone, Debug)]
pub(crate) struct Roots(Vec<NamedRoot>);

#[derive(Clone, Debug)]
struct NamedRoot {
    root: Rc<Beneath>,
    /// Its path as it was named, absolute, and without symbolic links: repositories may refer to either.
    paths: [PathBuf; 2],
}

impl Roots {
    pub(crate) fn new<'a>(roots: impl IntoIterator<Item = &'a Rc<Beneath>>) -> Self {
        let named = |root: &Rc<Beneath>| {
            let paths = [
                std::path::absolute(root.path()).ok()?,
                fs_err::canonicalize(root.path()).ok()?,
            ];
            let root = Rc::clone(root);
            Some(NamedRoot { root, paths })
        };
        Self(roots.into_iter().filter_map(named).collect())
    }

    /// Finds a folder by a path that stands in a file of another; `None` if it leads out of every root.
    fn resolve(&self, from: &Folder, path: &[u8]) -> Option<Folder> {
        let own = |named: &&NamedRoot| Rc::ptr_eq(&named.root, from.root());
        let [_, real] = &self.0.iter().find(own)?.paths;
        let path = real.join(from.path()).join(OsStr::from_bytes(path));
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::ParentDir => {
                    plain.pop();
                }
                part => plain.push(part),
            }
        }
        self.0.iter().find_map(|NamedRoot { root, paths }| {
            let inside = |root_path| plain.strip_prefix(root_path).ok();
            Some(Folder::new(root, paths.iter().find_map(inside)?))
        })
    }
}

/// A repository, opened.
#[derive(Debug)]
pub struct Repository {
    /// Where `HEAD` is.
    git_dir: Folder,
    /// Where `refs` and `objects` are; another folder only for a linked worktree.
    common_dir: Folder,
    pub(super) database: Database,
    /// Keeps others from removing it.
    lock: Option<File>,
}

impl Repository {
    /// Opens what was discovered: a git directory, or a file `.git` that names one.
    pub(crate) fn open(found: &Folder, roots: &Roots) -> io::Result<Self> {
        let git_dir = match found.read("", MAX_PATH_FILE_BYTES) {
            Ok(Some(text)) => {
                let path = text
                    .strip_prefix(b"gitdir:")
                    .ok_or_else(|| corrupt("the file .git names no directory"))?;
                let parent = found.path().parent().unwrap_or(Path::new(""));
                let parent = Folder::new(found.root(), parent);
                let leads_out =
                    || corrupt("its directory lies outside the folders that were named");
                roots
                    .resolve(&parent, path.trim_ascii())
                    .ok_or_else(leads_out)?
            }
            // A directory is no file.
            _ => found.clone(),
        };
        let common_dir = match git_dir.read("commondir", MAX_PATH_FILE_BYTES)? {
            Some(path) => roots.resolve(&git_dir, path.trim_ascii()).ok_or_else(|| {
                corrupt("its main repository lies outside the folders that were named")
            })?,
            None => git_dir.clone(),
        };
        let (stores, left_out) = stores(common_dir.join("objects"), roots)?;
        let left_out = (!left_out.is_empty()).then(|| {
            format!(
                "its alternates outside the folders that were named are not read: {}",
                left_out.join(", ")
            )
        });
        Ok(Self {
            git_dir,
            common_dir,
            database: Database::new(stores, left_out),
            lock: None,
        })
    }

    /// Says where blobs are that are not here.
    pub(super) fn lean_on(&mut self, here: Rc<dyn Here>) {
        self.database.lean_on(here);
    }

    /// Keeps a lock for as long as it is open.
    pub(super) fn hold(&mut self, lock: File) {
        self.lock = Some(lock);
    }

    /// Returns where it lies.
    pub(crate) fn location(&self) -> PathBuf {
        self.git_dir.location()
    }

    /// Closes all files, so that many repositories can be remembered.
    pub(crate) fn close(&mut self) {
        self.database.close();
    }

    /// Returns why an object may be missing, if that is known.
    pub(crate) fn left_out(&self) -> Option<&str> {
        self.database.left_out()
    }

    /// Returns true if it holds a tree of this id.
    pub(crate) fn has_tree(&self, id: &oid) -> io::Result<bool> {
        Ok(self.database.kind(id)? == Some(Kind::Tree))
    }

    /// Returns true if it seems to hold an object of this id.
    pub(crate) fn has_object(&self, id: &oid) -> io::Result<bool> {
        self.database.has(id)
    }

    /// Reads a blob, of which nothing says yet that it is the one.
    pub(crate) fn read_blob(&self, id: &oid) -> io::Result<Vec<u8>> {
        let blob = self.database.get(id, Kind::Blob)?;
        Ok(Rc::try_unwrap(blob).map_or_else(|shared| shared.data.clone(), |own| own.data))
    }

    /// Returns the trees that a revision may mean, the likeliest first: a name may stand for a tag and a branch.
    pub(crate) fn trees_of(&self, revision: &Revision) -> io::Result<Vec<ObjectId>> {
        let ids = match revision {
            Revision::Id(id) => vec![*id],
            Revision::Name(name) => references::resolve(&self.git_dir, &self.common_dir, name)?,
        };
        let mut trees = Vec::new();
        for id in ids {
            if let Some(meant) = objects::meant_by(&self.database, &id)?
                && !trees.contains(&meant.tree)
            {
                trees.push(meant.tree);
            }
        }
        Ok(trees)
    }

    /// Returns the commit that an id is, or is a tag of.
    pub(crate) fn commit_of(&self, id: &ObjectId) -> io::Result<Option<ObjectId>> {
        Ok(objects::meant_by(&self.database, id)?.and_then(|meant| meant.commit))
    }
}

/// A folder of objects and its alternates, theirs included; and the paths of those that lead out of the roots.
fn stores(own: Folder, roots: &Roots) -> io::Result<(Vec<Folder>, Vec<String>)> {
    let (mut stores, mut left_out) = (vec![own], Vec::new());
    let mut next = 0;
    while let Some(store) = stores.get(next).cloned() {
        next += 1;
        let Some(list) = store.read("info/alternates", MAX_ALTERNATES_BYTES)? else {
            continue;
        };
        for line in list.split(|&byte| byte == b'\n') {
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            match roots.resolve(&store, line) {
                Some(alternate) => {
                    let known = stores
                        .iter()
                        .any(|known| known.location() == alternate.location());
                    if !known && stores.len() < MAX_STORES {
                        stores.push(alternate);
                    }
                }
                None => left_out.push(printable(Path::new(OsStr::from_bytes(line)))),
            }
        }
    }
    Ok((stores, left_out))
}
