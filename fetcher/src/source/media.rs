//! Folders and media, through their indexes.

use std::rc::Rc;

use store_index::index::Location;
use store_index::watch::Watch;

use super::{Candidate, KnownNames, Lookup, MAX_CANDIDATES, Source, SourceKind, printable_path};
use crate::places::MediumPlace;
use crate::request::Request;

#[derive(Debug)]
pub(super) struct Media {
    medium: Rc<MediumPlace>,
}

impl Media {
    pub(super) fn new(medium: &Rc<MediumPlace>) -> Self {
        Self {
            medium: Rc::clone(medium),
        }
    }
}

impl Source for Media {
    fn kind(&self) -> SourceKind {
        SourceKind::Media
    }

    fn location(&self) -> String {
        printable_path(self.medium.root.path())
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        if self.medium.indexes.is_empty() {
            return Lookup::Unavailable(format!(
                "it has no index; store-index update {} makes one",
                self.location()
            ));
        }
        let mut candidates = Vec::new();
        let mut trouble = None;
        for index in &self.medium.indexes {
            match index.look_up(&request.address, MAX_CANDIDATES) {
                Ok(entries) => {
                    candidates.extend(entries.iter().filter_map(|entry| match &entry.location {
                        Location::File(path) => {
                            let own = path
                                .file_name()
                                .map(|name| name.to_string_lossy().into_owned());
                            let names = KnownNames::Known(own.into_iter().collect());
                            let root = &self.medium.root;
                            Some(Candidate::local(
                                SourceKind::Media,
                                root,
                                path.clone(),
                                Some(entry.size),
                                names,
                            ))
                        }
                        Location::Link(_) => None,
                    }))
                }
                Err(error) => trouble = Some(format!("the index is damaged: {error}")),
            }
        }
        match (candidates.is_empty(), trouble) {
            (false, _) => Lookup::Found(candidates),
            (true, Some(trouble)) => Lookup::Unavailable(trouble),
            (true, None) => Lookup::Absent(None),
        }
    }
}
