//! Items of a store: under the names one would expect, then under any name.

use std::rc::Rc;

use store_index::nix32;
use store_index::path_text::printable;
use store_index::store_path::FixedOutput;
use store_index::watch::Watch;

use super::item_names::{self, ItemNames};
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
    /// The listing serves other requests too.
    of_many: bool,
}

impl AnyName {
    pub(super) fn new(store: &Rc<StorePlace>, of_many: bool) -> Self {
        Self {
            store: Rc::clone(store),
            of_many,
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

    /// Returns the items, with their names, whose paths say that they have the content.
    fn matches(
        &self,
        paths: &FixedOutput,
        watch: Watch<'_>,
    ) -> std::io::Result<Vec<(String, String)>> {
        let store = self.store.root.path();
        if self.of_many {
            let names = match self.store.names.get() {
                Some(names) => names,
                None => {
                    let listed = ItemNames::list(store, watch)?;
                    self.store.names.get_or_init(|| listed)
                }
            };
            if let Some(names) = names {
                return Ok(names.find(paths));
            }
        }
        let mut matches = Vec::new();
        item_names::for_each(store, watch, &mut |digest, name| {
            if paths.path_digest(name) == digest {
                let base_name = format!("{}-{name}", nix32::encode(&digest));
                matches.push((base_name, name.to_owned()));
            }
            true
        })?;
        Ok(matches)
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
        let mut matches = match self.matches(&paths, watch) {
            Ok(matches) => matches,
            Err(error) => return Lookup::Unavailable(format!("cannot list it: {error}")),
        };
        let store = self.store.root.path();
        matches.retain(|(base_name, _)| !request.is_given_output(&store.join(base_name)));
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
