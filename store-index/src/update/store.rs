//! Scans a store: the names in `.links`, which are their content, then items whose files are not there.

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};

use walkdir::DirEntryExt as _;

use super::UpdateError;
use super::known::{Known, KnownSet};
use super::pool::Job;
use super::session::Session;
use crate::format::{MAX_PATH_LEN, SectionKind};
use crate::hash_file::{let_settle, mtime_ns};
use crate::links::{self, LinkName};
use crate::mounts::hanging_below;
use crate::path_text;
use crate::segment::SegmentError;
use crate::segment::reader::Segment;
use crate::store_path::{PATH_DIGEST_CHARS, PATH_DIGEST_LEN, split_base_name};

/// The modification time, in seconds, that Nix and Guix give to all that is valid.
const CANONICAL_MTIME: i64 = 1;

/// How many names are handed from the listing thread to the looking one together.
const LISTED_TOGETHER: usize = 4096;

/// How many such portions may wait, 160 KiB each.
const LISTED_AHEAD: usize = 64;

/// A name of the store's listing whose files are to be looked at.
struct Item {
    name: Vec<u8>,
    digest: [u8; PATH_DIGEST_LEN],
    inode: u64,
    /// The index has it; only files that were links and are none any more can be missing.
    known: bool,
}

/// Scans the store. Returns the time that the store directory had before.
pub(super) fn scan(session: &mut Session<'_>) -> Result<Option<i64>, UpdateError> {
    let store_mtime_ns = store_mtime(session)?;
    let links = scan_links(session)?;
    scan_items(session, links)?;
    Ok(store_mtime_ns)
}

/// Returns the directory's modification time, once a later change would give it another; `None` if it lies in the
/// future, where that cannot be known.
fn store_mtime(session: &Session<'_>) -> Result<Option<i64>, UpdateError> {
    let mtime = || {
        let metadata =
            fs_err::metadata(session.real()).map_err(|error| session.root_error(error))?;
        Ok::<_, UpdateError>(mtime_ns(&metadata))
    };
    let settled = let_settle(mtime()?);
    Ok(Some(mtime()?).filter(|_| settled))
}

/// What `.links` has.
struct LinksSeen {
    /// The inodes of all links, not sorted.
    inodes: Vec<u64>,
    /// A link that the index has is gone. Its file may still be there in an item, under no other object.
    some_gone: bool,
}

/// Reads the links that are new and drops those that are gone.
fn scan_links(session: &mut Session<'_>) -> Result<LinksSeen, UpdateError> {
    let segments = session.segments();
    let real = session.real();
    let (mut inodes, mut new) = (Vec::new(), Vec::new());
    let (sender, listed) = mpsc::sync_channel(LISTED_AHEAD);
    // Listing takes longest, so nothing else is done in its thread.
    let (known, listing) = std::thread::scope(|scope| {
        let lister = scope.spawn(move || list_links(real, &sender));
        let known = KnownSet::read(&segments, SectionKind::Links).map(|mut known| {
            for (name, inode) in listed.into_iter().flatten() {
                inodes.push(inode);
                if known.see(&name.0) == Known::No {
                    new.push(name);
                }
            }
            known
        });
        let listing = lister
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (known, listing)
    });
    listing.map_err(|error| session.root_error(error))?;
    let known = known.map_err(|error| session.index_error(error))?;
    let mut some_gone = false;
    for (segment, gone) in known.unseen() {
        some_gone |= !gone.is_empty();
        session.declare_dead(segment, gone);
    }
    for name in new {
        session.submit(Job::Link(name))?;
    }
    Ok(LinksSeen { inodes, some_gone })
}

/// Lists the links in portions. A receiver that is gone wants no more; the rest is listed in vain.
fn list_links(real: &Path, listed: &SyncSender<Vec<(LinkName, u64)>>) -> io::Result<()> {
    let mut portion = Vec::with_capacity(LISTED_TOGETHER);
    links::for_each(real, |name, inode| {
        portion.push((name, inode));
        if portion.len() == LISTED_TOGETHER {
            let full = std::mem::replace(&mut portion, Vec::with_capacity(LISTED_TOGETHER));
            listed.send(full).ok();
        }
    })?;
    listed.send(portion).ok();
    Ok(())
}

fn scan_items(session: &mut Session<'_>, links: LinksSeen) -> Result<(), UpdateError> {
    let segments = session.segments();
    let mut known = KnownSet::read(&segments, SectionKind::Items)
        .map_err(|error| session.index_error(error))?;
    let hanging = hanging_below(session.real());
    let mut items = Vec::new();
    for entry in fs_err::read_dir(session.real()).map_err(|error| session.root_error(error))? {
        let entry = entry.map_err(|error| session.root_error(error))?;
        let name = entry.file_name();
        let Some((digest, _)) = name.to_str().and_then(split_base_name) else {
            continue;
        };
        if hanging.iter().any(|mount_point| *mount_point == *name) {
            continue;
        }
        let is_known = match known.see(&digest) {
            Known::Yes(inode) if inode == entry.ino() => true,
            // The name came back with something else behind it.
            Known::Yes(_) => {
                known.forget(&digest);
                false
            }
            Known::No => false,
        };
        if is_known && !links.some_gone {
            continue;
        }
        items.push(Item {
            name: name.as_bytes().to_vec(),
            digest,
            inode: entry.ino(),
            known: is_known,
        });
    }
    drop_gone(session, &known)?;
    items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    // Built only if something is to be walked: the refresh of an unchanged store shall cost no more than listing it.
    let link_inodes: HashSet<u64> = if items.is_empty() {
        HashSet::new()
    } else {
        links.inodes.into_iter().collect()
    };
    for item in items {
        walk_item(session, &segments, &item, &link_inodes)?;
    }
    Ok(())
}

/// Drops the items that are no longer listed, with their files.
fn drop_gone(session: &mut Session<'_>, known: &KnownSet) -> Result<(), UpdateError> {
    for (segment, gone) in known.unseen() {
        let mut dead = Vec::new();
        for item in gone {
            let object = segment
                .object(item)
                .map_err(|error| session.index_error(error))?;
            if let crate::segment::reader::Object::Item { digest, .. } = object {
                let name = crate::nix32::encode(&digest);
                for segment in session.segments() {
                    let files = files_of_item(&segment, name.as_bytes())
                        .map_err(|error| session.index_error(error))?;
                    let objects = files.into_iter().map(|(object, _)| object).collect();
                    session.declare_dead(&segment, objects);
                }
            }
            dead.push(item);
        }
        session.forget_items(segment, dead);
    }
    Ok(())
}

/// Returns object numbers and paths of the live files of the item whose name begins with this digest.
fn files_of_item(segment: &Segment, digest: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, SegmentError> {
    let mut objects = Vec::new();
    let mut position = segment.first_file_from(digest)?;
    while position < segment.header().files {
        let file = segment.file(position)?;
        if file.path.get(..PATH_DIGEST_CHARS) != Some(digest) {
            break;
        }
        let object = (segment.header().links + position) as u32;
        if segment.is_live(object)? {
            objects.push((object, file.path));
        }
        position += 1;
    }
    Ok(objects)
}

fn walk_item(
    session: &mut Session<'_>,
    segments: &[Arc<Segment>],
    item: &Item,
    link_inodes: &HashSet<u64>,
) -> Result<(), UpdateError> {
    let path = session.real().join(std::ffi::OsStr::from_bytes(&item.name));
    let metadata = match fs_err::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            session.unreadable(&error.to_string());
            return Ok(());
        }
    };
    if metadata.mtime() != CANONICAL_MTIME {
        // Daemons leave empty lock files beside what they build; these are no items.
        if !(metadata.is_file() && metadata.len() == 0 && item.name.ends_with(b".lock")) {
            session.complete = false;
            session.summary.unfinished_items += 1;
        }
        return Ok(());
    }
    let mut indexed = HashSet::new();
    for segment in segments {
        let old = files_of_item(segment, &item.name[..PATH_DIGEST_CHARS])
            .map_err(|error| session.index_error(error))?;
        if item.known {
            indexed.extend(old.into_iter().map(|(_, path)| path));
        } else {
            // Left by an update that was broken off in this item, or of something else under this name.
            session.declare_dead(segment, old.into_iter().map(|(object, _)| object).collect());
        }
    }
    for entry in walkdir::WalkDir::new(&path)
        .follow_links(false)
        .follow_root_links(false)
        .sort_by_file_name()
    {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                session.item_broken(&item.name);
                let gone = error
                    .io_error()
                    .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
                if !gone {
                    session.unreadable(&path_text::printable(std::path::Path::new(
                        &error.to_string(),
                    )));
                }
                continue;
            }
        };
        if !entry.file_type().is_file() || link_inodes.contains(&entry.ino()) {
            continue;
        }
        let below = entry
            .path()
            .strip_prefix(session.real())
            .unwrap_or(entry.path())
            .as_os_str()
            .as_bytes();
        if indexed.contains(below) {
            continue;
        }
        if below.len() > MAX_PATH_LEN {
            session.item_broken(&item.name);
            session.unreadable(&format!(
                "the path is too long: {}",
                path_text::printable(entry.path())
            ));
            continue;
        }
        session.submit(Job::StoreFile(below.to_vec()))?;
    }
    if !item.known {
        session.item_walked(item.name.clone(), item.digest, item.inode);
    }
    Ok(())
}
