//! Folders and media: through their indexes, and by name where there is none.

use std::path::Path;
use std::rc::Rc;

use store_index::index::Location;
use store_index::path_text::printable;
use store_index::watch::Watch;

use super::{Candidate, KnownNames, Lookup, MAX_CANDIDATES, Source, SourceKind, by_name};
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

    fn candidate(&self, path: &Path, size: Option<u64>) -> Candidate {
        let own = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let names = KnownNames::Known(own.into_iter().collect());
        Candidate::local(
            SourceKind::Media,
            &self.medium.root,
            path.to_owned(),
            size,
            names,
        )
    }
}

impl Source for Media {
    fn kind(&self) -> SourceKind {
        SourceKind::Media
    }

    fn location(&self) -> String {
        printable(self.medium.root.path())
    }

    fn look_up(&mut self, request: &Request, watch: Watch<'_>) -> Lookup {
        let mut candidates = Vec::new();
        let mut trouble = self.medium.trouble.clone();
        for (number, index) in self.medium.indexes.iter().enumerate() {
            match index.look_up(&request.address, MAX_CANDIDATES) {
                Ok(entries) => {
                    candidates.extend(entries.iter().filter_map(|entry| match &entry.location {
                        Location::File(path) => {
                            Some(self.candidate(path, Some(entry.size)).named_by(number))
                        }
                        Location::Link(_) => None,
                    }))
                }
                Err(error) => trouble = Some(format!("the index is damaged: {error}")),
            }
        }
        // The expected names are tried even where an index is: it may be older than the file.
        let search = self.medium.indexes.is_empty();
        let by_name = by_name::candidates(&self.medium.root, request, search, watch);
        for path in by_name {
            let guess = self.candidate(&path, None);
            if candidates
                .iter()
                .all(|known: &Candidate| known.location != guess.location)
            {
                candidates.push(guess);
            }
        }
        match trouble {
            _ if !candidates.is_empty() => Lookup::Found(candidates),
            Some(trouble) => Lookup::Unavailable(trouble),
            None if self.medium.indexes.is_empty() => Lookup::Absent(Some(format!(
                "it has no index, and no file of the expected name was found; store-index update {} makes an index",
                self.location()
            ))),
            None => Lookup::Absent(None),
        }
    }
}
