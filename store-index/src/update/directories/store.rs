//! The directories of a store: its own database knows their NAR hashes, and no item is read.

use std::collections::HashSet;
use std::io;

use super::no_links;
use crate::digest::Algorithm;
use crate::directory_links::{Links, TreeKind};
use crate::store_state::StoreState;
use crate::update::{Summary, Update};

/// Returns the links wanted; `None` if nothing is known and what there is shall stay.
pub(super) fn wanted(update: &Update, summary: &mut Summary) -> Option<[Links; 2]> {
    let without = |summary: &mut Summary, why: String| {
        summary
            .notes
            .push(format!("whole directories are not indexed: {why}"));
        update.rebuild.then(no_links)
    };
    let directories = match directories(update) {
        Ok(directories) => directories,
        Err(error) => return without(summary, error.to_string()),
    };
    let logical = update.root.path().to_string_lossy();
    let state = StoreState::of(&logical, &update.real);
    let items = state.valid_items(|item| {
        let digest = item.nar_hash.0;
        (digest.algorithm() == Algorithm::Sha256 && directories.contains(&item.base_name))
            .then_some((digest, item.base_name))
    });
    match items {
        Ok(Some(items)) => {
            let [mut nar, git] = no_links();
            debug_assert_eq!(nar.kind(), TreeKind::NarSha256);
            for (digest, base_name) in items {
                nar.push(digest.as_bytes(), base_name.into_bytes());
            }
            Some([nar, git])
        }
        Ok(None) => without(
            summary,
            format!("the store {logical} has no database that can be read"),
        ),
        Err(error) => without(summary, error.to_string()),
    }
}

/// Lists the items that are directories; the listing says so, and none is looked at.
fn directories(update: &Update) -> io::Result<HashSet<String>> {
    let mut directories = HashSet::new();
    for entry in fs_err::read_dir(&update.real)? {
        let entry = entry?;
        if entry.file_type().is_ok_and(|file_type| file_type.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            directories.insert(name);
        }
    }
    Ok(directories)
}
