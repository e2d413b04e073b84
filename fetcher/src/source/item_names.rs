//! The names of a store's items, listed once for many requests.
//!
//! A name and a content make a path's digest together, so each request has to try each name; but not to list the store,
//! nor to try a name twice that several items have.

use std::io;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{Mode, OFlags, RawDir};
use store_index::links::LISTING_BUFFER_LEN;
use store_index::nix32;
use store_index::store_path::{self, FixedOutput, PATH_DIGEST_LEN};
use store_index::watch::Watch;

/// The most that is kept of a store's names, in bytes: of two million items. A larger store is listed again and again.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;

/// How many names a thread takes at a time: a tenth of a millisecond's work.
const NAMES_AT_ONCE: usize = 1024;

type PathDigest = [u8; PATH_DIGEST_LEN];

/// The items of a store, by their names.
#[derive(Debug, Default)]
pub(crate) struct ItemNames {
    text: String,
    /// Each name once.
    names: Vec<Name>,
    /// In the order of the names.
    digests: Vec<PathDigest>,
}

#[derive(Debug)]
struct Name {
    /// Its place in the text.
    text: Range<u32>,
    /// The items that have it.
    items: Range<u32>,
}

impl ItemNames {
    /// Lists a store; `None` if it has too many items for that, or the user does not want to wait.
    pub(super) fn list(store: &Path, watch: Watch<'_>) -> io::Result<Option<Self>> {
        let mut text = String::new();
        let mut items: Vec<(Range<u32>, PathDigest)> = Vec::new();
        let mut is_too_much = false;
        for_each(store, watch, &mut |digest, name| {
            let start = text.len() as u32;
            text.push_str(name);
            items.push((start..text.len() as u32, digest));
            is_too_much = text.len() + items.len() * size_of_val(&items[0]) > MAX_KEPT_BYTES;
            !is_too_much
        })?;
        if is_too_much || watch.interrupted() {
            return Ok(None);
        }
        let name_of = |range: &Range<u32>| &text[range.start as usize..range.end as usize];
        items.par_sort_unstable_by(|(one, _), (other, _)| name_of(one).cmp(name_of(other)));
        let mut kept = Self::default();
        for same in items.chunk_by(|(one, _), (other, _)| name_of(one) == name_of(other)) {
            let start = kept.text.len() as u32;
            kept.text.push_str(name_of(&same[0].0));
            let first = kept.digests.len() as u32;
            kept.digests.extend(same.iter().map(|(_, digest)| digest));
            kept.names.push(Name {
                text: start..kept.text.len() as u32,
                items: first..kept.digests.len() as u32,
            });
        }
        Ok(Some(kept))
    }

    /// Returns the items, with their names, whose paths say that they have a content.
    pub(super) fn find(&self, paths: &FixedOutput) -> Vec<(String, String)> {
        let found = self.names.par_chunks(NAMES_AT_ONCE).flat_map_iter(|names| {
            names.iter().filter_map(|name| {
                let text = &self.text[name.text.start as usize..name.text.end as usize];
                let digest = paths.path_digest(text);
                let items = &self.digests[name.items.start as usize..name.items.end as usize];
                let base_name = || format!("{}-{text}", nix32::encode(&digest));
                items
                    .contains(&digest)
                    .then(|| (base_name(), text.to_owned()))
            })
        });
        found.collect()
    }
}

/// Lists the items of a store until `each` returns false.
pub(super) fn for_each(
    store: &Path,
    watch: Watch<'_>,
    each: &mut dyn FnMut(PathDigest, &str) -> bool,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(store, flags, Mode::empty())?;
    // Borrowed entries: one allocation a name would cost as much as hashing it.
    let mut buffer = Vec::with_capacity(LISTING_BUFFER_LEN);
    let mut listing = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let base_name = entry.file_name().to_str().ok();
        if let Some((digest, name)) = base_name.and_then(store_path::split_base_name)
            && (watch.interrupted() || !each(digest, name))
        {
            break;
        }
    }
    Ok(())
}
