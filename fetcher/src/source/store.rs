//! Items of a store: under the names one would expect, then under any name.

use std::rc::Rc;

use rustix::fs::{Mode, OFlags, RawDir};
use store_index::links::LISTING_BUFFER_LEN;
use store_index::path_text::printable;
use store_index::store_path::{self, FixedOutput};
use store_index::watch::Watch;

use super::{Candidate, KnownNames, Lookup, Source, SourceKind};
use crate::places::StorePlace;
use crate::request::Request;

/// The fixed-output path under the requested name and the URLs' names: one `lstat` each.
#[derive(Debug)]
pub(super) struct ExactNames {
    store: Rc<StorePlace>,
}

impl ExactNames {
    pub(super) fn new(store: &Rc<StorePlace>) -> Self {
        Self {
            store: Rc::clone(store),
        }
    }
}

impl Source for ExactNames {
    fn kind(&self) -> SourceKind {
        SourceKind::Store
    }

    fn location(&self) -> String {
        printable(self.store.root.path())
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        let paths = FixedOutput::new(&self.store.logical, &request.address);
        let candidates: Vec<_> = request
            .item_names
            .iter()
            .filter_map(|name| {
                let base_name = paths.base_name(name);
                let item = self.store.root.path().join(&base_name);
                if request.is_given_output(&item) {
                    return None;
                }
                // An item that is there may still be half built: what lands is hashed.
                fs_err::symlink_metadata(item).ok()?;
                let names = KnownNames::Known(vec![name.to_string()]);
                Some(Candidate::local(
                    SourceKind::Store,
                    &self.store.root,
                    base_name.into(),
                    None,
                    names,
                ))
            })
            .collect();
        if candidates.is_empty() {
            Lookup::Absent(None)
        } else {
            Lookup::Found(candidates)
        }
    }
}

/// Every item of the listing whose name, put into the fixed-output rule, gives its own path: files and whole trees
/// under any name and with any algorithm, and no file is read.
#[derive(Debug)]
pub(super) struct AnyName {
    store: Rc<StorePlace>,
}

impl AnyName {
    pub(super) fn new(store: &Rc<StorePlace>) -> Self {
        Self {
            store: Rc::clone(store),
        }
    }

    /// Returns true if an index already answered for every item, and the store has not changed since.
    fn index_answered(&self, request: &Request) -> bool {
        let Some(modified_ns) = self.store.modified_ns() else {
            return false;
        };
        self.store.indexes.iter().any(|index| {
            index.covers(&request.address)
                && index.is_fresh_for(modified_ns)
                // What it named has been tried by now and was not it: links come and go without the directory's time.
                && index.look_up(&request.address, 1).is_ok_and(|entries| entries.is_empty())
        })
    }
}

impl Source for AnyName {
    fn kind(&self) -> SourceKind {
        SourceKind::Store
    }

    fn location(&self) -> String {
        printable(self.store.root.path())
    }

    fn look_up(&mut self, request: &Request, watch: Watch<'_>) -> Lookup {
        if self.index_answered(request) {
            return Lookup::Absent(Some(
                "the index covers every item, and nothing was added since".into(),
            ));
        }
        let paths = FixedOutput::new(&self.store.logical, &request.address);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let unavailable = |error: rustix::io::Errno| {
            Lookup::Unavailable(format!("cannot list it: {}", std::io::Error::from(error)))
        };
        let directory = match rustix::fs::open(self.store.root.path(), flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(error) => return unavailable(error),
        };
        // Borrowed entries: one allocation a name would cost as much as hashing it.
        let mut buffer = Vec::with_capacity(LISTING_BUFFER_LEN);
        let mut listing = RawDir::new(directory, buffer.spare_capacity_mut());
        let mut matches = Vec::new();
        while let Some(entry) = listing.next() {
            if watch.interrupted() {
                break;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return unavailable(error),
            };
            let Ok(base_name) = entry.file_name().to_str() else {
                continue;
            };
            let Some((digest, name)) = store_path::split_base_name(base_name) else {
                continue;
            };
            if paths.path_digest(name) == digest
                && !request.is_given_output(&self.store.root.path().join(base_name))
            {
                matches.push((base_name.to_owned(), name.to_owned()));
            }
        }
        if matches.is_empty() {
            return Lookup::Absent(None);
        }
        // The order of a listing is the file system's whim.
        matches.sort_unstable();
        let names: Vec<String> = matches.iter().map(|(_, name)| name.clone()).collect();
        let candidate = |(base_name, _): (String, String)| {
            let names = KnownNames::Known(names.clone());
            Candidate::local(
                SourceKind::Store,
                &self.store.root,
                base_name.into(),
                None,
                names,
            )
        };
        Lookup::Found(
            matches
                .into_iter()
                .take(super::MAX_CANDIDATES)
                .map(candidate)
                .collect(),
        )
    }
}
