//! The repository that was given with `--git`: on this machine, as earlier fetches kept it, or on the network.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use gix::ObjectId;
use store_index::path_text::printable;
use store_index::watch::Watch;

use super::here::OnThisMachine;
use super::repositories::checkouts_of;
use super::{Candidate, CandidatePlace, CloneOf, KnownNames, Lookup, Source, SourceKind};
use crate::git::{Checkout, Here, Revision, remote};
use crate::places::Places;
use crate::request::{GitSource, Request, Target};

#[derive(Debug)]
pub(super) struct Git {
    source: GitSource,
    cache: Option<PathBuf>,
    here: Option<Rc<dyn Here>>,
}

impl Git {
    pub(super) fn new(source: &GitSource, places: &Places) -> Self {
        Self {
            source: source.clone(),
            cache: places.git_cache.clone(),
            here: here(places),
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
        if self.is_local() && !remote::is_bundle(url) {
            return self.look_up_here(request);
        }
        if !remote::is_supported(url) {
            let scheme = url.url().scheme();
            return Lookup::Skipped(format!(
                "repositories are not fetched from {scheme}:// URLs"
            ));
        }
        let clone = CandidatePlace::Clone(CloneOf {
            source: self.source.clone(),
            cache: self.cache.clone(),
            here: self.here.clone(),
        });
        Lookup::Found(vec![candidate(&self.source, clone)])
    }

    fn is_network(&self) -> bool {
        !self.is_local()
    }
}

impl Git {
    /// A repository on this machine, unless its submodules may be elsewhere.
    fn is_local(&self) -> bool {
        remote::is_local(&self.source.url) && !self.source.submodules
    }

    fn look_up_here(&self, request: &Request) -> Lookup {
        let found = remote::open_file_url(&self.source.url)
            .and_then(|repository| checkouts_of(repository, request));
        match found_in(&self.source, found) {
            Lookup::Absent(_) => Lookup::Absent(Some(remote::NO_SUCH.into())),
            other => other,
        }
    }
}

/// What earlier fetches kept of that repository. Only a commit's own id says that nothing has changed since.
#[derive(Debug)]
pub(super) struct Kept {
    source: GitSource,
    id: ObjectId,
    cache: PathBuf,
    here: Option<Rc<dyn Here>>,
}

impl Kept {
    /// `None` if nothing of it can be kept.
    pub(super) fn new(source: &GitSource, places: &Places) -> Option<Self> {
        let (Revision::Id(id), Some(cache)) = (&source.revision, &places.git_cache) else {
            return None;
        };
        let can_be = !remote::is_local(&source.url) && cache.is_dir();
        can_be.then(|| Self {
            source: source.clone(),
            id: *id,
            cache: cache.clone(),
            here: here(places),
        })
    }
}

impl Source for Kept {
    fn kind(&self) -> SourceKind {
        SourceKind::Git
    }

    fn location(&self) -> String {
        printable(&self.cache)
    }

    fn look_up(&mut self, request: &Request, watch: Watch<'_>) -> Lookup {
        let (url, here) = (&self.source.url, self.here.as_ref());
        let Some(repository) = remote::kept(&self.cache, url, &self.id, here, watch) else {
            return Lookup::Absent(None);
        };
        let mut found = checkouts_of(repository, request);
        if self.source.submodules {
            let place = (self.cache.as_path(), here);
            found = found
                .and_then(|checkouts| remote::with_kept_submodules(url, checkouts, place, watch));
        }
        found_in(&self.source, found)
    }
}

fn here(places: &Places) -> Option<Rc<dyn Here>> {
    OnThisMachine::of(places).map(|here| Rc::new(here) as Rc<dyn Here>)
}

fn found_in(source: &GitSource, found: io::Result<Vec<Checkout>>) -> Lookup {
    match found {
        Ok(checkouts) if checkouts.is_empty() => Lookup::Absent(None),
        Ok(checkouts) => {
            let places = checkouts.into_iter().map(CandidatePlace::Checkout);
            Lookup::Found(places.map(|place| candidate(source, place)).collect())
        }
        Err(error) => Lookup::Unavailable(error.to_string()),
    }
}

fn candidate(source: &GitSource, place: CandidatePlace) -> Candidate {
    Candidate {
        kind: SourceKind::Git,
        location: source.url.to_string(),
        place,
        names: KnownNames::NotGuarded,
        index: None,
    }
}
