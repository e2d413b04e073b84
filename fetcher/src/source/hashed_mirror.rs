//! Servers that name files by their hashes, as far as they are configured; Gentoo's mirrors among them.

use store_index::address::ContentAddress;
use store_index::watch::Watch;

use super::url::by_url;
use super::{Candidate, CandidatePlace, KnownNames, Lookup, Source, SourceKind};
use crate::mirror_layout::{LAYOUT_FILE, Layouts};
use crate::mirrors;
use crate::request::Request;
use crate::source_url::SourceUrl;

#[derive(Debug)]
pub(super) struct HashedMirror<'a> {
    mirror: &'a SourceUrl,
    layouts: &'a Layouts,
}

impl<'a> HashedMirror<'a> {
    pub(super) const fn new(mirror: &'a SourceUrl, layouts: &'a Layouts) -> Self {
        Self { mirror, layouts }
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
        if !matches!(request.address, ContentAddress::Flat(_)) {
            return Lookup::Absent(Some("files are named by their flat hashes there".into()));
        }
        let layout = self.layouts.of(self.mirror);
        let mut urls = Vec::new();
        // One that tells its layout has nothing elsewhere.
        if !layout.as_ref().is_some_and(|layout| layout.is_told) {
            urls.extend(mirrors::hashed_urls(self.mirror, request));
        }
        if let Some(layout) = &layout {
            urls.extend(layout.urls(self.mirror, request));
        }
        let mut candidates: Vec<_> = urls
            .into_iter()
            .map(|url| by_url(SourceKind::HashedMirror, url))
            .collect();
        if layout.is_none()
            && let Some(told) = self.mirror.join(LAYOUT_FILE)
        {
            candidates.push(Candidate {
                kind: SourceKind::HashedMirror,
                location: told.to_string(),
                place: CandidatePlace::MirrorOf(self.mirror.clone()),
                names: KnownNames::NotGuarded,
                index: None,
            });
        }
        Lookup::Found(candidates)
    }

    fn is_network(&self) -> bool {
        true
    }
}
