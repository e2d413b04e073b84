//! Files and trees that were downloaded before and still lie where they were delivered.

use std::path::PathBuf;
use std::rc::Rc;

use store_index::beneath::Beneath;
use store_index::path_text::printable;
use store_index::watch::Watch;

use super::{Candidate, CandidatePlace, KnownNames, Lookup, Source, SourceKind};
use crate::places::{Brought, Places};
use crate::request::Request;
use crate::state::State;

#[derive(Debug)]
pub(crate) struct Ledger<'a> {
    state: &'a State,
}

/// Makes the source, if something was delivered before and local sources are asked.
pub(crate) fn ledger(places: &Places) -> Option<Ledger<'_>> {
    let state = &places.state;
    (!places.no_local && state.has_ledger()).then_some(Ledger { state })
}

impl Source for Ledger<'_> {
    fn kind(&self) -> SourceKind {
        SourceKind::Ledger
    }

    fn location(&self) -> String {
        "earlier downloads".to_owned()
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        let mut candidates = Vec::new();
        for delivery in self.state.deliveries(&request.address) {
            let (Some(parent), Some(name)) = (delivery.path.parent(), delivery.path.file_name())
            else {
                continue;
            };
            if let Ok(root) = Beneath::open(parent) {
                let names = KnownNames::Known(delivery.names);
                let (root, name) = (Rc::new(root), PathBuf::from(name));
                let size = delivery.size;
                candidates.push(Candidate::local(self.kind(), &root, name, size, names));
            }
        }
        if candidates.is_empty() {
            Lookup::Absent(None)
        } else {
            Lookup::Found(candidates)
        }
    }

    fn judged(
        &mut self,
        request: &Request,
        candidate: &Candidate,
        is_right: bool,
    ) -> Option<String> {
        if let CandidatePlace::Local { root, path, .. } = &candidate.place
            && !is_right
        {
            let path = root.path().join(path);
            self.state.not_delivered(&request.address, &path);
        }
        None
    }
}

/// What the run itself has delivered, to another place.
#[derive(Debug)]
pub(super) struct OfThisRun<'a> {
    brought: &'a Brought,
}

impl<'a> OfThisRun<'a> {
    pub(super) const fn new(brought: &'a Brought) -> Self {
        Self { brought }
    }
}

impl Source for OfThisRun<'_> {
    fn kind(&self) -> SourceKind {
        SourceKind::Ledger
    }

    fn location(&self) -> String {
        printable(&self.brought.path)
    }

    fn look_up(&mut self, _request: &Request, _watch: Watch<'_>) -> Lookup {
        let Brought { path, names } = self.brought;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Lookup::Absent(None);
        };
        let names = KnownNames::Known(names.clone());
        match Beneath::open(parent) {
            Ok(root) => Lookup::Found(vec![Candidate::local(
                self.kind(),
                &Rc::new(root),
                PathBuf::from(name),
                None,
                names,
            )]),
            Err(error) => Lookup::Unavailable(error.to_string()),
        }
    }
}
