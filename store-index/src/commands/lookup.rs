//! `store-index lookup`.

use std::path::{Path, PathBuf};

use store_index::address::ContentAddress;
use store_index::index::{Entry, Index, Location};
use store_index::key::KeyKind;
use store_index::path_text;
use store_index::root::{Root, RootKind};

use super::{
    DONE, Failure, Located, Locator, NOT_FOUND, open_indexes, print, print_json, shown,
    warn_unusable,
};
use crate::cli::{LookupArgs, Talk};
use store_index::terminal::say;

/// The most places that are named for one index: a folder may hold a million empty files.
const MAX_PLACES: usize = 100;

pub(crate) fn lookup(args: &LookupArgs, talk: &Talk) -> Result<u8, Failure> {
    let address = args.address()?;
    let locator = Locator::new(&args.places)?;
    let (mut found, mut asked) = (Vec::new(), 0);
    for index in open_indexes(&args.places)? {
        let index = match index {
            Ok(index) => index,
            Err(error) => {
                warn_unusable(&error, talk.quiet);
                continue;
            }
        };
        asked += 1;
        if !keeps(&index, &address) && talk.verbose {
            say(&format!(
                "the index of {} does not keep {} {}",
                index.root(),
                address.method(),
                address.algorithm()
            ));
        }
        match index.look_up(&address, MAX_PLACES) {
            Ok(entries) if entries.is_empty() => {}
            Ok(entries) => {
                let located = locator.locate(&index);
                located.warn_untouched(talk);
                for place in entries
                    .iter()
                    .filter_map(|entry| place(&index, entry, &located))
                {
                    // A medium may have an index on it and another one here.
                    if !found.iter().any(|known: &Place| known.text == place.text) {
                        found.push(place);
                    }
                }
            }
            Err(error) if !talk.quiet => say(&format!("warning: {error}")),
            Err(_) => {}
        }
        match index.look_up_tree(&address) {
            Ok(None) => {}
            Ok(Some(path)) => found.extend(tree_place(&index, &path, &locator.locate(&index))),
            Err(error) if !talk.quiet => say(&format!("warning: {error}")),
            Err(_) => {}
        }
    }
    if args.json {
        print_json(&found.iter().map(|place| place.json.clone()).collect())?;
    } else {
        for place in &found {
            print(&format!("{}\n", place.text))?;
        }
    }
    if found.is_empty() && !talk.quiet {
        let hash = args.hash();
        say(&match asked {
            0 => format!(
                "{hash} was not looked for: there is no index; make one with `store-index update`"
            ),
            1 => format!("{hash} is not in the index"),
            asked => format!("{hash} is in none of {asked} indexes"),
        });
    }
    Ok(if found.is_empty() { NOT_FOUND } else { DONE })
}

fn keeps(index: &Index, address: &ContentAddress) -> bool {
    KeyKind::of_address(address)
        .iter()
        .any(|&kind| index.manifest().kinds.has(kind))
}

struct Place {
    text: String,
    json: serde_json::Value,
}

/// Returns where an entry is; `None` if it is not there any more, though its root is.
fn place(index: &Index, entry: &Entry, located: &Located) -> Option<Place> {
    let relative = entry.location.relative_path();
    if located.may_touch(&relative) && !is_still_there(&located.real.join(&relative), entry.size) {
        return None;
    }
    let kind = match (&entry.location, index.root().kind()) {
        (Location::Link(_), _) => "links",
        (Location::File(_), RootKind::Store) => "store",
        (Location::File(_), RootKind::Folder | RootKind::Medium) => "media",
    };
    Some(shown_place(
        &index.root(),
        kind,
        &relative,
        entry.hint,
        located,
    ))
}

/// Returns where a directory is, in the same way.
fn tree_place(index: &Index, relative: &Path, located: &Located) -> Option<Place> {
    let path: PathBuf = located.real.iter().chain(relative.iter()).collect();
    let is_there = || match fs_err::symlink_metadata(&path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if located.may_touch(relative) && !is_there() {
        return None;
    }
    Some(shown_place(
        &index.root(),
        "directories",
        relative,
        false,
        located,
    ))
}

/// `kind` is the source of `fetch` that would answer from there.
fn shown_place(root: &Root, kind: &str, relative: &Path, hint: bool, located: &Located) -> Place {
    let Located {
        real,
        mounted,
        label,
        ..
    } = located;
    // The root itself has an empty path, which `join` would give a slash.
    let path: PathBuf = real.iter().chain(relative.iter()).collect();
    let shown_root = match root.kind() {
        RootKind::Medium => real,
        RootKind::Store | RootKind::Folder => root.path(),
    };
    let json = serde_json::json!({
        "root": path_text::printable(shown_root),
        "kind": kind,
        "path": path_text::printable(&path),
        "hint": hint,
        "mounted": mounted,
        "label": label,
    });
    let text = match label {
        _ if *mounted => shown(&path),
        Some(label) => format!("{} (on «{label}», which is not mounted)", shown(relative)),
        None => format!("{} (not mounted)", shown(&path)),
    };
    Place { text, json }
}

fn is_still_there(path: &Path, size: u64) -> bool {
    match fs_err::symlink_metadata(path) {
        Ok(metadata) => metadata.is_file() && metadata.len() == size,
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}
