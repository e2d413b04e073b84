//! Copies that are kept of what was downloaded, for those who want them.

use std::rc::Rc;

use store_index::beneath::Beneath;
use store_index::path_text::printable;
use store_index::watch::Watch;

use super::{Candidate, KnownNames, Lookup, Source, SourceKind};
use crate::places::Places;
use crate::request::Request;
use crate::state::{COPY_CONTENT, KeptCopy, State};

#[derive(Debug)]
pub(crate) struct Copies<'a> {
    state: &'a State,
    /// What was found; it is not removed as long as it is held here.
    found: Option<KeptCopy>,
}

/// Makes the source, if there are copies and local sources are asked.
pub(crate) fn copies(places: &Places) -> Option<Copies<'_>> {
    let state = &places.state;
    (!places.no_local && state.has_copies()).then_some(Copies { state, found: None })
}

impl Source for Copies<'_> {
    fn kind(&self) -> SourceKind {
        SourceKind::Ledger
    }

    fn location(&self) -> String {
        "kept copies".to_owned()
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        self.found = self.state.copy_of(&request.address);
        let Some(copy) = &self.found else {
            return Lookup::Absent(None);
        };
        match Beneath::open(&copy.path) {
            Ok(root) => {
                let (root, content) = (Rc::new(root), COPY_CONTENT.into());
                let names = KnownNames::Known(copy.names.clone());
                let candidate = Candidate::local(self.kind(), &root, content, None, names);
                Lookup::Found(vec![candidate])
            }
            Err(error) => Lookup::Unavailable(error.to_string()),
        }
    }

    fn judged(
        &mut self,
        request: &Request,
        _candidate: &Candidate,
        is_right: bool,
    ) -> Option<String> {
        let copy = self.found.as_ref()?;
        if is_right {
            copy.touch();
            return None;
        }
        let path = printable(&copy.path);
        Some(match self.state.remove_copy(&request.address) {
            Ok(()) => format!("the kept copy {path} was damaged, and is removed"),
            Err(error) => {
                format!("the kept copy {path} is damaged, and cannot be removed: {error}")
            }
        })
    }
}
