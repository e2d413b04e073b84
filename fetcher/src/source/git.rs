//! The repository that was given with `--git`.

use std::path::PathBuf;
use std::rc::Rc;

use store_index::watch::Watch;

use super::blobs::LocalBlobs;
use super::repositories::checkouts_of;
use super::{Candidate, CandidatePlace, CloneOf, KnownNames, Lookup, Source, SourceKind};
use crate::git::{Blobs, Repository, Revision, remote};
use crate::places::Places;
use crate::request::{GitSource, Request, Target};

#[derive(Debug)]
pub(super) struct Git {
    source: GitSource,
    cache: Option<PathBuf>,
    blobs: Option<Rc<dyn Blobs>>,
}

impl Git {
    pub(super) fn new(source: &GitSource, places: &Places) -> Self {
        let blobs = LocalBlobs::of(places);
        Self {
            source: source.clone(),
            cache: places.git_cache.clone(),
            blobs: blobs.map(|blobs| Rc::new(blobs) as Rc<dyn Blobs>),
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
        let url = &self.source.url;
        if remote::is_local(url) && matches!(request.target, Target::Given(_)) {
            // Whoever wrote a derivation has no business with files of this machine.
            return Lookup::Skipped("only a command line may name a file:// URL".into());
        }
        if self.is_local() {
            return self.look_up_here(request);
        }
        if !remote::is_supported(url) {
            let scheme = url.url().scheme();
            return Lookup::Skipped(format!(
                "repositories are not fetched from {scheme}:// URLs"
            ));
        }
        // What was kept is tried without asking the server; if it is damaged, the server is asked after all.
        let kept = self.kept().and_then(|repository| {
            let checkouts = checkouts_of(repository, request).ok()?;
            Some(checkouts.into_iter().map(CandidatePlace::Checkout))
        });
        let clone = CandidatePlace::Clone(CloneOf {
            source: self.source.clone(),
            cache: self.cache.clone(),
            blobs: self.blobs.clone(),
        });
        let places = kept.into_iter().flatten().chain([clone]);
        Lookup::Found(places.map(|place| self.candidate(place)).collect())
    }

    fn is_network(&self) -> bool {
        !self.is_local() && self.kept().is_none()
    }
}

impl Git {
    /// A repository on this machine, unless its submodules may be elsewhere.
    fn is_local(&self) -> bool {
        remote::is_local(&self.source.url) && !self.source.submodules
    }

    /// What an earlier fetch kept, if the commit is in it.
    fn kept(&self) -> Option<Repository> {
        let Revision::Id(id) = &self.source.revision else {
            return None;
        };
        if self.source.submodules {
            return None;
        }
        let cache = self.cache.as_deref()?;
        remote::kept(cache, &self.source.url, id, self.blobs.as_ref())
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
