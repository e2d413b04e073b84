//! The URLs that were given, in their order, and those that name the content by its hash.

use store_index::address::{ContentAddress, GitObject};
use store_index::watch::Watch;

use super::{Candidate, CandidatePlace, KnownNames, Lookup, Source, SourceKind};
use crate::request::Request;
use crate::source_url::{Scheme, SourceUrl};

#[derive(Debug)]
pub(super) struct Url {
    url: SourceUrl,
    kind: SourceKind,
}

impl Url {
    pub(super) fn new(url: &SourceUrl) -> Self {
        Self {
            url: url.clone(),
            kind: SourceKind::Url,
        }
    }

    pub(super) fn hashed(url: &SourceUrl) -> Self {
        Self {
            url: url.clone(),
            kind: SourceKind::HashedMirror,
        }
    }
}

impl Source for Url {
    fn kind(&self) -> SourceKind {
        self.kind
    }

    fn location(&self) -> String {
        self.url.to_string()
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        match self.url.scheme() {
            Scheme::Http | Scheme::Https => {}
            Scheme::Mirror => {
                return Lookup::Skipped("no mirrors are known for mirror:// URLs yet".into());
            }
            Scheme::Other(scheme) => {
                return Lookup::Skipped(format!("the scheme {scheme}:// is not supported"));
            }
        }
        if matches!(request.address, ContentAddress::Git(git) if git.object() == GitObject::Tree) {
            return Lookup::Skipped("a URL delivers one file, and a directory is wanted".into());
        }
        Lookup::Found(vec![Candidate {
            kind: self.kind,
            location: self.url.to_string(),
            place: CandidatePlace::Url(self.url.clone()),
            names: KnownNames::NotGuarded,
            index: None,
        }])
    }

    fn is_network(&self) -> bool {
        true
    }
}
