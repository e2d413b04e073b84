//! Media that are remembered and not mounted: they deliver nothing, and it helps to know which one would.

use store_index::index::Location;
use store_index::watch::Watch;

use super::{Disc, Lookup, MAX_CANDIDATES, Source, SourceKind};
use crate::discs::{Absent, Discs};
use crate::request::Request;

/// All of them together.
#[derive(Debug)]
pub(crate) struct AbsentMedia<'a> {
    media: &'a [Absent],
}

impl<'a> AbsentMedia<'a> {
    /// Finds them; `None` if none is remembered.
    pub(crate) fn new(discs: &'a Discs) -> Option<Self> {
        let media = discs.absent();
        (!media.is_empty()).then_some(Self { media })
    }
}

impl Source for AbsentMedia<'_> {
    fn kind(&self) -> SourceKind {
        SourceKind::Media
    }

    fn location(&self) -> String {
        "media that are not mounted".to_owned()
    }

    fn look_up(&mut self, request: &Request, watch: Watch<'_>) -> Lookup {
        let mut discs: Vec<Disc> = Vec::new();
        for medium in self.media {
            if watch.interrupted() {
                break;
            }
            // A damaged index of a disc that is not there is no news to anybody.
            let entries = medium.index.look_up(&request.address, MAX_CANDIDATES);
            let names: Vec<String> = entries
                .unwrap_or_default()
                .iter()
                .filter_map(|entry| match &entry.location {
                    Location::File(path) => Some(path.file_name()?.to_string_lossy().into_owned()),
                    Location::Link(_) => None,
                })
                .collect();
            let told = |disc: &Disc| disc.label == medium.label && disc.place == medium.place;
            if !names.is_empty() && !discs.iter().any(told) {
                discs.push(Disc {
                    label: medium.label.clone(),
                    place: medium.place.clone(),
                    names,
                });
            }
        }
        if discs.is_empty() {
            Lookup::Absent(None)
        } else {
            Lookup::Elsewhere(discs)
        }
    }
}
