//! The repository that was given with `--git`.

use store_index::watch::Watch;

use super::{Lookup, Source, SourceKind};
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
        Lookup::Skipped(
            "repositories cannot be cloned yet; one in a folder named with --media is used".into(),
        )
    }

    fn is_network(&self) -> bool {
        true
    }
}
