//! Whole trees under any name: through the directory links of the indexes, and for a store through its own database.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use store_index::address::{ContentAddress, NarHash};
use store_index::beneath::Beneath;
use store_index::digest::Algorithm;
use store_index::directory_links::TreeKind;
use store_index::index::Index;
use store_index::path_text::printable;
use store_index::store_path;
use store_index::tree::Skip;
use store_index::watch::Watch;

use super::{Candidate, CandidatePlace, KnownNames, Lookup, MAX_CANDIDATES, Source, SourceKind};
use crate::places::{MediumPlace, StorePlace};
use crate::request::Request;
use crate::stale_hash;

/// The forms in which an item of a store is tried: its hash was taken of it as it is; git tree ids never are.
const STORE_FORMS: &[Skip] = &[Skip::Nothing, Skip::Metadata];

/// The form that a folder's digests are taken of.
const FOLDER_FORMS: &[Skip] = &[Skip::Metadata];

/// Returns whether the request may be for a directory of which an index has links.
pub(super) fn can_answer(request: &Request) -> bool {
    TreeKind::of_address(&request.address).is_some()
}

fn nar_hash(request: &Request) -> Option<NarHash> {
    match request.address {
        ContentAddress::Nar(hash) if hash.0.algorithm() == Algorithm::Sha256 => Some(hash),
        _ => None,
    }
}

/// Asks the indexes of a root. Says what is wrong with one that cannot be read.
fn ask(indexes: &[Index], request: &Request) -> (Vec<PathBuf>, Option<String>) {
    let (mut paths, mut trouble) = (Vec::new(), None);
    for index in indexes {
        match index.look_up_tree(&request.address) {
            Ok(path) => paths.extend(path),
            Err(error) => trouble = Some(format!("the index is damaged: {error}")),
        }
    }
    (paths, trouble)
}

fn answer(candidates: Vec<Candidate>, trouble: Option<String>) -> Lookup {
    match trouble {
        _ if !candidates.is_empty() => Lookup::Found(candidates),
        Some(trouble) => Lookup::Unavailable(trouble),
        None => Lookup::Absent(None),
    }
}

fn candidate(
    root: &Rc<Beneath>,
    path: PathBuf,
    forms: &'static [Skip],
    names: KnownNames,
) -> Candidate {
    let whole = if path.as_os_str().is_empty() {
        root.path().to_owned()
    } else {
        root.path().join(&path)
    };
    Candidate {
        kind: SourceKind::Directories,
        location: printable(&whole),
        place: CandidatePlace::Tree {
            root: Rc::clone(root),
            path,
            forms,
        },
        names,
        index: None,
    }
}

/// Returns the name of the item that a path in a store leads to or into.
fn item_name(path: &Path) -> Option<String> {
    let item = path.iter().next()?.to_str()?;
    store_path::split_base_name(item).map(|(_, name)| name.to_owned())
}

/// The directories of a folder or medium.
#[derive(Debug)]
pub(super) struct InMedium {
    medium: Rc<MediumPlace>,
}

impl InMedium {
    pub(super) fn new(medium: &Rc<MediumPlace>) -> Self {
        Self {
            medium: Rc::clone(medium),
        }
    }
}

impl Source for InMedium {
    fn kind(&self) -> SourceKind {
        SourceKind::Directories
    }

    fn location(&self) -> String {
        printable(self.medium.root.path())
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        let root = &self.medium.root;
        let (paths, trouble) = ask(&self.medium.indexes, request);
        let found = paths.into_iter().map(|path| {
            let own = path.file_name().or_else(|| root.path().file_name());
            let names = own.map(|name| name.to_string_lossy().into_owned());
            let names = KnownNames::Known(names.into_iter().collect());
            candidate(root, path, FOLDER_FORMS, names)
        });
        answer(found.collect(), trouble)
    }
}

/// The items of a store of which its index has links.
#[derive(Debug)]
pub(super) struct InStore {
    store: Rc<StorePlace>,
    asked: Option<NarHash>,
}

impl InStore {
    pub(super) fn new(store: &Rc<StorePlace>) -> Self {
        Self {
            store: Rc::clone(store),
            asked: None,
        }
    }
}

impl Source for InStore {
    fn kind(&self) -> SourceKind {
        SourceKind::Directories
    }

    fn location(&self) -> String {
        printable(self.store.root.path())
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        self.asked = nar_hash(request);
        let (paths, trouble) = ask(&self.store.indexes, request);
        let found = paths
            .into_iter()
            .map(|path| candidate(&self.store.root, path, STORE_FORMS, KnownNames::AskSource));
        answer(found.collect(), trouble)
    }

    /// The link knows one item; others may be the same tree under another version's name, which only the database
    /// knows. It is asked only if the name it has could be held against the match.
    fn learn_names(&mut self, candidate: &Candidate) -> Vec<String> {
        let CandidatePlace::Tree { path, .. } = &candidate.place else {
            return Vec::new();
        };
        let mut names: Vec<String> = item_name(path).into_iter().collect();
        if let Some(hash) = self
            .asked
            .filter(|_| names.iter().any(|name| stale_hash::has_version(name)))
        {
            names.extend(self.store.names_with_nar_hash(&hash));
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The database of a store whose index is missing or not up to date: a pass over a table without an index, so it is
/// asked after everything cheaper.
#[derive(Debug)]
pub(super) struct InDatabase {
    store: Rc<StorePlace>,
}

impl InDatabase {
    pub(super) fn new(store: &Rc<StorePlace>) -> Self {
        Self {
            store: Rc::clone(store),
        }
    }

    /// Returns whether the request is one for a store's database, and the store has one.
    pub(super) fn can_answer(request: &Request, store: &StorePlace) -> bool {
        nar_hash(request).is_some() && store.state.is_there()
    }
}

impl Source for InDatabase {
    fn kind(&self) -> SourceKind {
        SourceKind::Directories
    }

    fn location(&self) -> String {
        printable(self.store.root.path())
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        let Some(hash) = nar_hash(request) else {
            return Lookup::Absent(None);
        };
        let modified_ns = self.store.modified_ns();
        let answered = self.store.indexes.iter().any(|index| {
            index.has_trees(&request.address)
                && modified_ns.is_some_and(|modified_ns| index.is_fresh_for(modified_ns))
        });
        if answered {
            return Lookup::Absent(Some(
                "the index has every item of the database, and nothing was added since".into(),
            ));
        }
        let items = match self.store.state.items_with_nar_hash(&hash) {
            Ok(items) => items.unwrap_or_default(),
            Err(error) => return Lookup::Unavailable(error.to_string()),
        };
        let names: Vec<String> = items
            .iter()
            .filter_map(|item| item_name(Path::new(item)))
            .collect();
        let found = items.into_iter().take(MAX_CANDIDATES).map(|item| {
            let names = KnownNames::Known(names.clone());
            candidate(&self.store.root, item.into(), STORE_FORMS, names)
        });
        answer(found.collect(), None)
    }
}
