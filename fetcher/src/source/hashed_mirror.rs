//! Servers that name files by their hashes, as far as they are configured.

use store_index::watch::Watch;

use super::{Candidate, CandidatePlace, KnownNames, Lookup, Source, SourceKind};
use crate::mirrors;
use crate::request::Request;
use crate::source_url::SourceUrl;

#[derive(Debug)]
pub(super) struct HashedMirror<'a> {
    mirror: &'a SourceUrl,
}

impl<'a> HashedMirror<'a> {
    pub(super) const fn new(mirror: &'a SourceUrl) -> Self {
        Self { mirror }
    }
}

impl Source for HashedMirror<'_> {
    fn kind(&self) -> SourceKind {
        SourceKind::HashedMirror
    }

    fn location(&self) -> String {
        self.mirror.to_string()
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        let urls = mirrors::hashed_urls(self.mirror, request);
        if urls.is_empty() {
            return Lookup::Absent(Some("files are named by their flat hashes there".into()));
        }
        let candidate = |url: SourceUrl| Candidate {
            kind: self.kind(),
            location: url.to_string(),
            place: CandidatePlace::Url(url),
            names: KnownNames::NotGuarded,
            index: None,
        };
        Lookup::Found(urls.into_iter().map(candidate).collect())
    }

    fn is_network(&self) -> bool {
        true
    }
}
