//! What this machine has of a repository, so that a server need not send it: commits in local repositories, files that
//! an index knows by their git ids, and blobs in repositories that lack the commit.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::io::{self, Read as _};
use std::rc::Rc;

use gix::{ObjectId, oid};
use store_index::address::{ContentAddress, FileHasher, Framing, GitHash, GitObject};
use store_index::beneath::{Beneath, Node};
use store_index::digest::{Algorithm, Digest};
use store_index::index::{Entry, Index};
use store_index::key::{KeyKind, KeySet};
use store_index::watch::Watch;

use super::lent::Lent;
use super::repositories::MAX_LISTINGS;
use crate::git::{
    self, Checkout, Directory, Folder, Form, Here, Repository, Revision, Roots, remote,
};
use crate::places::{MediumPlace, Places, StorePlace};
use crate::source_url::SourceUrl;

/// The most places that are tried for one file: what none of them has is fetched.
const MAX_TRIED: usize = 3;

/// The largest file that is taken into memory, in bytes; larger ones are fetched.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The most repositories that are looked into, those of submodules included.
const MAX_REPOSITORIES: usize = 1000;

/// A place whose indexes know git ids.
#[derive(Debug)]
enum Place {
    Store(Rc<StorePlace>),
    Medium(Rc<MediumPlace>),
}

impl Place {
    fn root(&self) -> &Beneath {
        match self {
            Self::Store(store) => &store.root,
            Self::Medium(medium) => &medium.root,
        }
    }

    fn indexes(&self) -> &[Index] {
        match self {
            Self::Store(store) => &store.indexes,
            Self::Medium(medium) => &medium.indexes,
        }
    }

    fn knows_git_ids(&self) -> bool {
        let git = KeySet::empty().with(KeyKind::GitSha1);
        let mut indexes = self.indexes().iter();
        indexes.any(|index| index.manifest().kinds.includes(git))
    }
}

/// What is known of this machine.
#[derive(Debug)]
pub(super) struct OnThisMachine {
    /// Whose indexes know git ids.
    places: Vec<Place>,
    /// Where repositories may be.
    media: Vec<Rc<MediumPlace>>,
    roots: Roots,
    /// What earlier fetches kept.
    cache: Option<Rc<Beneath>>,
    /// Where they are, once it has been looked.
    found: OnceCell<Vec<Folder>>,
    lent: Lent,
    /// Blobs that are said to lie in directories.
    noted: RefCell<HashMap<ObjectId, Directory>>,
    blobs_read: Cell<u64>,
}

impl OnThisMachine {
    /// `None` if there is neither an index that knows git ids nor a folder or medium, nor anything that was kept.
    pub(super) fn of(places: &Places) -> Option<Self> {
        let stores = places.stores.iter().cloned().map(Place::Store);
        let media = places.media.iter().cloned().map(Place::Medium);
        let known: Vec<_> = stores.chain(media).filter(Place::knows_git_ids).collect();
        let cache = places.git_cache.as_deref().and_then(remote::kept_folder);
        let cache = cache.map(Rc::new);
        let is_any = !(known.is_empty() && places.media.is_empty() && cache.is_none());
        let roots = places.media.iter().map(|medium| &medium.root);
        is_any.then(|| Self {
            places: known,
            media: places.media.clone(),
            roots: Roots::new(roots.chain(&cache)),
            cache: cache.clone(),
            found: OnceCell::new(),
            lent: Lent::default(),
            noted: RefCell::default(),
            blobs_read: Cell::new(0),
        })
    }

    /// Returns the repositories, and those of submodules in them.
    fn repositories(&self, watch: Watch<'_>) -> &[Folder] {
        self.found.get_or_init(|| {
            let mut all: Vec<Folder> = Vec::new();
            for medium in &self.media {
                all.extend(git::discover(&medium.root, MAX_LISTINGS, watch));
            }
            let mut next = 0;
            while let Some(folder) = all.get(next).filter(|_| all.len() < MAX_REPOSITORIES) {
                let modules = git::discover_modules(folder, MAX_LISTINGS, watch);
                all.extend(modules);
                next += 1;
            }
            all
        })
    }

    /// Returns repositories that may have something of another: all that were named, and what is kept of those that are
    /// called alike.
    fn lenders(&self, url: &SourceUrl, watch: Watch<'_>) -> Vec<Folder> {
        let like = |cache| remote::kept_like(cache, url);
        let kept = self.cache.iter().flat_map(like);
        let named = self.repositories(watch).iter().cloned();
        named.chain(kept).collect()
    }

    /// Returns where a blob may be. A damaged index knows nothing.
    fn places_of(&self, id: &oid) -> impl Iterator<Item = (&Place, Entry)> {
        let address = Digest::new(Algorithm::Sha1, id.as_bytes())
            .and_then(|digest| GitHash::new(digest, GitObject::Blob))
            .map(ContentAddress::Git);
        let entries = move |place: &Place, index: &Index| {
            let entries = index.look_up(&address?, MAX_TRIED).ok()?;
            let usable = |entry: &Entry| entry.size <= MAX_FILE_BYTES && is_there(place, entry);
            Some(entries.into_iter().filter(usable).collect::<Vec<_>>())
        };
        self.places.iter().flat_map(move |place| {
            let found = place
                .indexes()
                .iter()
                .filter_map(|index| entries(place, index));
            let found: Vec<_> = found.flatten().collect();
            found.into_iter().map(move |entry| (place, entry))
        })
    }
}

/// Looks, without reading, whether a file is still what it was when it was indexed. What nobody may read does not count:
/// a server would see, by what it is not asked for, that it is here.
fn is_there(place: &Place, entry: &Entry) -> bool {
    let path = entry.location.relative_path();
    place.root().has_file(&path, Some(entry.size))
}

impl OnThisMachine {
    /// Adds the submodules to a checkout; `None` if one of them is not here.
    pub(super) fn complete(
        &self,
        checkout: Checkout,
        watch: Watch<'_>,
    ) -> io::Result<Option<Checkout>> {
        let mut completion = Completion {
            here: self,
            watch,
            known: HashMap::new(),
        };
        completion.of(checkout, 0)
    }
}

/// Submodules that were found: the same may be there many times.
struct Completion<'a> {
    here: &'a OnThisMachine,
    watch: Watch<'a>,
    known: HashMap<ObjectId, Rc<Checkout>>,
}

impl Completion<'_> {
    fn of(&mut self, mut checkout: Checkout, depth: usize) -> io::Result<Option<Checkout>> {
        for (path, commit) in remote::submodules_of(&checkout.repository, checkout.tree)? {
            let Some(below) = self.submodule(commit, depth)? else {
                return Ok(None);
            };
            checkout.submodules.insert(path, below);
        }
        Ok(Some(checkout))
    }

    fn submodule(&mut self, commit: ObjectId, depth: usize) -> io::Result<Option<Rc<Checkout>>> {
        if let Some(known) = self.known.get(&commit) {
            return Ok(Some(Rc::clone(known)));
        }
        if depth >= remote::MAX_SUBMODULE_DEPTH || self.known.len() >= remote::MAX_SUBMODULES {
            return Ok(None);
        }
        let Some((mut repository, trees)) = self.here.commit(&commit, self.watch) else {
            return Ok(None);
        };
        let Some(&tree) = trees.first() else {
            return Ok(None);
        };
        repository.close();
        let checkout = Checkout::new(&Rc::new(repository), tree, Form::Converted);
        let whole = self.of(checkout, depth + 1)?.map(Rc::new);
        if let Some(whole) = &whole {
            self.known.insert(commit, Rc::clone(whole));
        }
        Ok(whole)
    }
}

impl Here for OnThisMachine {
    fn commit(&self, id: &oid, watch: Watch<'_>) -> Option<(Repository, Vec<ObjectId>)> {
        let revision = Revision::Id(id.to_owned());
        self.repositories(watch).iter().find_map(|folder| {
            let repository = Repository::open(folder, &self.roots).ok()?;
            let trees = repository.trees_of(&revision).ok()?;
            (!trees.is_empty()).then_some((repository, trees))
        })
    }

    fn may_have_blobs(&self, url: &SourceUrl, watch: Watch<'_>) -> bool {
        !(self.places.is_empty() && self.lenders(url, watch).is_empty())
    }

    fn has_blob(&self, id: &oid) -> bool {
        self.places_of(id).next().is_some()
    }

    fn directory(&self, id: &oid) -> Option<Directory> {
        let digest = Digest::new(Algorithm::Sha1, id.as_bytes())?;
        let address = ContentAddress::Git(GitHash::new(digest, GitObject::Tree)?);
        let mut places = self.places.iter().enumerate();
        places.find_map(|(number, place)| {
            let mut indexes = place.indexes().iter();
            let path = indexes.find_map(|index| index.look_up_tree(&address).ok()?)?;
            Some(Directory {
                place: number,
                path,
            })
        })
    }

    fn has_blob_at(&self, id: &oid, at: &Directory) -> bool {
        let is_there =
            self.places
                .get(at.place)
                .is_some_and(|place| match place.root().open_node(&at.path) {
                    Ok(Node::File(file)) => file
                        .metadata()
                        .is_ok_and(|metadata| metadata.len() <= MAX_FILE_BYTES),
                    Ok(Node::Symlink(_)) => true,
                    Ok(Node::Directory(_)) | Err(_) => false,
                });
        if is_there {
            self.noted.borrow_mut().insert(id.to_owned(), at.clone());
        }
        is_there
    }

    fn not_lent(&self, blobs: Vec<ObjectId>, url: &SourceUrl, watch: Watch<'_>) -> Vec<ObjectId> {
        let lenders = self.lenders(url, watch);
        self.lent.look_for(blobs, lenders, &self.roots, watch)
    }

    fn read_blob(&self, id: &oid) -> Option<Vec<u8>> {
        let noted = self.noted.borrow().get(id).cloned();
        let noted = noted.and_then(|at| Some((self.places.get(at.place)?, at.path)));
        let indexed = self.places_of(id);
        let indexed = indexed.map(|(place, entry)| (place, entry.location.relative_path()));
        for (place, path) in noted.into_iter().chain(indexed) {
            let mut bytes = Vec::new();
            match place.root().open_node(&path) {
                Ok(Node::File(file)) => {
                    if file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).is_err() {
                        continue;
                    }
                }
                Ok(Node::Symlink(target)) => bytes = target,
                Ok(Node::Directory(_)) | Err(_) => continue,
            }
            if is_blob(id, &bytes) {
                self.blobs_read.set(self.blobs_read.get() + 1);
                return Some(bytes);
            }
        }
        let lent = self.lent.read(id, &self.roots);
        let lent = lent.filter(|bytes| is_blob(id, bytes))?;
        self.blobs_read.set(self.blobs_read.get() + 1);
        Some(lent)
    }

    fn blobs_read(&self) -> u64 {
        self.blobs_read.get()
    }
}

fn is_blob(id: &oid, bytes: &[u8]) -> bool {
    let len = bytes.len() as u64;
    let mut hasher = FileHasher::new_collision_detecting(Framing::GitBlob, Algorithm::Sha1, len);
    hasher.update(bytes);
    let got = hasher.finish();
    got.is_some_and(|got| ObjectId::try_from(got.as_bytes()).is_ok_and(|got| got == id))
}
