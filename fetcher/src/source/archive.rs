//! Public archives, as far as they are configured: the last that are asked.

use store_index::watch::Watch;

use super::url::by_url;
use super::{Lookup, Source, SourceKind};
use crate::archives::Archive;
use crate::request::Request;

#[derive(Debug)]
pub(super) struct Archived<'a> {
    archive: &'a Archive,
}

impl<'a> Archived<'a> {
    pub(super) const fn new(archive: &'a Archive) -> Self {
        Self { archive }
    }
}

impl Source for Archived<'_> {
    fn kind(&self) -> SourceKind {
        SourceKind::Archive
    }

    fn location(&self) -> String {
        self.archive.base().to_string()
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        match self.archive.urls(request) {
            Ok(urls) => Lookup::Found(
                urls.into_iter()
                    .map(|url| by_url(SourceKind::Archive, url))
                    .collect(),
            ),
            Err(reason) => Lookup::Absent(Some(reason.to_owned())),
        }
    }

    fn is_network(&self) -> bool {
        true
    }
}
