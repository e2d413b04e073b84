//! The deduplicated files of a store: by NAR digest directly, by anything else through the index.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{Dir, Mode, OFlags};
use store_index::address::ContentAddress;
use store_index::index::Location;
use store_index::links::{LINKS_DIR, LinkName};
use store_index::path_text::printable;
use store_index::store_path;
use store_index::watch::Watch;

use super::{Candidate, CandidatePlace, KnownNames, Lookup, MAX_CANDIDATES, Source, SourceKind};
use crate::places::StorePlace;
use crate::request::Request;

#[derive(Debug)]
pub(super) struct Links {
    store: Rc<StorePlace>,
}

impl Links {
    pub(super) fn new(store: &Rc<StorePlace>) -> Self {
        Self {
            store: Rc::clone(store),
        }
    }

    fn link(&self, name: LinkName, size: Option<u64>) -> Candidate {
        Candidate::local(
            SourceKind::Links,
            &self.store.root,
            name.relative_path(),
            size,
            KnownNames::AskSource,
        )
    }

    /// A file of an item that the store has not deduplicated, which only the index knows.
    fn file_of_item(&self, path: &Path, size: u64) -> Candidate {
        let names = KnownNames::Known(names_of_item_file(path));
        Candidate::local(
            SourceKind::Store,
            &self.store.root,
            path.to_owned(),
            Some(size),
            names,
        )
    }
}

/// Returns the names by which a file in an item is known: the item's, and below it also the file's own.
fn names_of_item_file(path: &Path) -> Vec<String> {
    let mut parts = path.iter().map(|part| part.to_string_lossy());
    let item = parts.next().unwrap_or_default();
    let item = store_path::split_base_name(&item)
        .map_or_else(|| item.to_string(), |(_, name)| name.to_owned());
    match parts.next_back() {
        Some(own) => vec![own.into_owned()],
        None => vec![item],
    }
}

impl Source for Links {
    fn kind(&self) -> SourceKind {
        SourceKind::Links
    }

    fn location(&self) -> String {
        printable(&self.store.root.path().join(LINKS_DIR))
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        let mut candidates = Vec::new();
        let by_name = match &request.address {
            ContentAddress::Nar(hash) => LinkName::of(hash),
            _ => None,
        };
        if let Some(name) = by_name {
            let path = self.store.root.path().join(name.relative_path());
            if fs_err::symlink_metadata(path).is_ok() {
                candidates.push(self.link(name, None));
            }
        }
        let mut trouble = None;
        for (number, index) in self.store.indexes.iter().enumerate() {
            match index.look_up(&request.address, MAX_CANDIDATES) {
                Ok(entries) => {
                    candidates.extend(entries.iter().map(|entry| match &entry.location {
                        Location::Link(name) => self.link(*name, Some(entry.size)).named_by(number),
                        Location::File(path) => {
                            self.file_of_item(path, entry.size).named_by(number)
                        }
                    }))
                }
                Err(error) => trouble = Some(format!("the index is damaged: {error}")),
            }
        }
        if !candidates.is_empty() {
            return Lookup::Found(candidates);
        }
        if let Some(trouble) = trouble {
            return Lookup::Unavailable(trouble);
        }
        if self.store.indexes.is_empty() && by_name.is_none() {
            return Lookup::Absent(Some(format!(
                "without an index only sha256 NAR hashes can be looked up; store-index update --store {} makes one",
                self.store.logical
            )));
        }
        Lookup::Absent(None)
    }

    /// A link has no name of its own; the items that are the same file have. The database knows them by their NAR
    /// hash, which is the link's name; without one they have the same inode.
    fn learn_names(&mut self, candidate: &Candidate) -> Vec<String> {
        let CandidatePlace::Local { root, path, .. } = &candidate.place else {
            return Vec::new();
        };
        if let KnownNames::Known(names) = &candidate.names {
            return names.clone();
        }
        let name = path.file_name().map(|name| name.as_encoded_bytes());
        if let Some(name) = name.and_then(LinkName::parse) {
            let names = self.store.names_with_nar_hash(&name.nar_hash());
            if !names.is_empty() {
                return names;
            }
        }
        let Ok(link) = fs_err::symlink_metadata(root.path().join(path)) else {
            return Vec::new();
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(listing) = rustix::fs::open(root.path(), flags, Mode::empty())
            .and_then(|directory| Dir::read_from(&directory))
        else {
            return Vec::new();
        };
        let mut names = Vec::new();
        for entry in listing.flatten() {
            // The inode stands in the listing: no item is stat'ed.
            if entry.ino() != link.ino() {
                continue;
            }
            if let Some((_, name)) = entry
                .file_name()
                .to_str()
                .ok()
                .and_then(store_path::split_base_name)
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        names
    }
}
