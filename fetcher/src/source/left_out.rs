//! What the configuration names and is not there: a disk that is not plugged in is no mistake, but worth a line to
//! those who ask.

use store_index::path_text::printable;
use store_index::watch::Watch;

use super::{Lookup, Source, SourceKind};
use crate::places::LeftOut;
use crate::request::Request;

/// A place that cannot be asked.
#[derive(Debug)]
pub(super) struct NotThere<'a>(pub(super) &'a LeftOut);

impl Source for NotThere<'_> {
    fn kind(&self) -> SourceKind {
        self.0.kind
    }

    fn location(&self) -> String {
        printable(&self.0.path)
    }

    fn look_up(&mut self, _request: &Request, _watch: Watch<'_>) -> Lookup {
        Lookup::Unavailable(self.0.reason.clone())
    }
}
