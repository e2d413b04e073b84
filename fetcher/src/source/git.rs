//! The repository that was given with `--git`.

use store_index::watch::Watch;

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

    fn look_up(&mut self, _request: &Request, _watch: Watch<'_>) -> Lookup {
        if !remote::is_supported(&self.source.url) {
            let scheme = self.source.url.url().scheme();
            return Lookup::Skipped(format!(
                "repositories are not fetched from {scheme}:// URLs"
            ));
        }
        Lookup::Found(vec![Candidate {
            kind: SourceKind::Git,
            location: self.source.url.to_string(),
            place: CandidatePlace::Clone(self.source.clone()),
            names: KnownNames::NotGuarded,
            index: None,
        }])
    }

    fn is_network(&self) -> bool {
        true
    }
}
