//! The URLs that were given, in their order, and those that name the content by its hash.

use store_index::address::{ContentAddress, GitObject};
use store_index::watch::Watch;

use super::{Candidate, CandidatePlace, KnownNames, Lookup, Source, SourceKind};
use crate::request::Request;
use crate::source_url::{Scheme, SourceUrl};
use crate::state::State;

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
        let urls = match self.url.scheme() {
            Scheme::Http | Scheme::Https => vec![self.url.clone()],
            Scheme::Mirror => request.mirror_sites.expand(&self.url),
            Scheme::Other(scheme) => {
                return Lookup::Skipped(format!("the scheme {scheme}:// is not supported"));
            }
        };
        if urls.is_empty() {
            let site = self.url.mirror().map_or("", |(site, _)| site);
            return Lookup::Skipped(format!(
                "no mirrors are known for this site; NIX_MIRRORS_{} may name some",
                site.escape_debug()
            ));
        }
        if matches!(request.address, ContentAddress::Git(git) if git.object() == GitObject::Tree) {
            return Lookup::Skipped("a URL delivers one file, and a directory is wanted".into());
        }
        let candidate = |url: SourceUrl| Candidate {
            kind: self.kind,
            location: url.to_string(),
            place: CandidatePlace::Url(url),
            names: KnownNames::NotGuarded,
            index: None,
        };
        Lookup::Found(urls.into_iter().map(candidate).collect())
    }

    fn reservation(&self, request: &Request, state: &State) -> Option<String> {
        let failures = state.failures();
        if *self.url.scheme() != Scheme::Mirror {
            return failures.describe(&self.url, &request.address);
        }
        let urls = request.mirror_sites.expand(&self.url);
        let described = urls
            .iter()
            .map(|url| match failures.describe(url, &request.address) {
                Some(reservation) => format!("{url} ({reservation})"),
                None => url.to_string(),
            });
        Some(described.collect::<Vec<_>>().join(", "))
    }

    fn is_network(&self) -> bool {
        true
    }
}
