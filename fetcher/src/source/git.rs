//! The repository that was given with `--git`.

use store_index::watch::Watch;

use super::repositories::checkouts_of;
use super::{Candidate, CandidatePlace, KnownNames, Lookup, Source, SourceKind};
use crate::git::remote;
use crate::request::{GitSource, Request};

#[derive(Debug)]
pub(super) struct Git {
    source: GitSource,
}

impl Git {
    pub(super) fn new(source: &GitSource) -> Self {
        Self {
            source: source.clone(),
        }
    }
}

impl Source for Git {
    fn kind(&self) -> SourceKind {
        SourceKind::Git
    }

    fn location(&self) -> String {
        self.source.url.to_string()
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        if self.is_here() {
            return self.look_up_here(request);
        }
        let scheme = self.source.url.url().scheme();
        if !remote::is_supported(&self.source.url) {
            return Lookup::Skipped(format!(
                "repositories are not fetched from {scheme}:// URLs"
            ));
        }
        Lookup::Found(vec![
            self.candidate(CandidatePlace::Clone(self.source.clone())),
        ])
    }

    fn is_network(&self) -> bool {
        !self.is_here()
    }
}

impl Git {
    /// A repository on this machine, unless its submodules may be elsewhere.
    fn is_here(&self) -> bool {
        remote::is_local(&self.source.url) && !self.source.submodules
    }

    fn look_up_here(&self, request: &Request) -> Lookup {
        let found = remote::open_file_url(&self.source.url)
            .and_then(|repository| checkouts_of(repository, request));
        match found {
            Ok(checkouts) if checkouts.is_empty() => Lookup::Absent(None),
            Ok(checkouts) => {
                let places = checkouts.into_iter().map(CandidatePlace::Checkout);
                Lookup::Found(places.map(|place| self.candidate(place)).collect())
            }
            Err(error) => Lookup::Unavailable(error.to_string()),
        }
    }

    fn candidate(&self, place: CandidatePlace) -> Candidate {
        Candidate {
            kind: SourceKind::Git,
            location: self.source.url.to_string(),
            place,
            names: KnownNames::NotGuarded,
            index: None,
        }
    }
}
