//! What a partial repository lacks for a checkout.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::rc::Rc;

use gix::ObjectId;
use gix::objs::tree::EntryKind;
use gix::objs::{Kind, TreeRefIter};
use store_index::tree::{MAX_DEPTH, MAX_ENTRIES};
use store_index::watch::Watch;

use super::room;
use crate::git::{Directory, Here, OBJECT_HASH, Repository, Revision, corrupt};
use crate::source_url::SourceUrl;

/// Returns the blobs of commits that are neither in a repository nor anywhere else on this machine.
pub(super) fn of(
    path: &Path,
    commits: &[ObjectId],
    (here, url): (Option<&Rc<dyn Here>>, &SourceUrl),
    watch: Watch<'_>,
) -> io::Result<Vec<ObjectId>> {
    let missing = search(path, commits, here, usize::MAX, watch)?;
    Ok(match here {
        Some(here) if !missing.is_empty() => here.not_lent(missing, url, watch),
        _ => missing,
    })
}

/// Returns true if a repository has all of some commits itself.
pub(super) fn is_none(path: &Path, commits: &[ObjectId], watch: Watch<'_>) -> bool {
    search(path, commits, None, 1, watch).is_ok_and(|missing| missing.is_empty())
}

fn search(
    path: &Path,
    commits: &[ObjectId],
    here: Option<&Rc<dyn Here>>,
    most: usize,
    watch: Watch<'_>,
) -> io::Result<Vec<ObjectId>> {
    let repository = room::open(path)?;
    let mut search = Search {
        repository: &repository,
        here,
        most,
        watch,
        seen: HashSet::new(),
        missing: Vec::new(),
    };
    for commit in commits {
        let trees = repository.trees_of(&Revision::Id(*commit))?;
        if trees.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        for tree in trees {
            search.tree(tree, None, 0)?;
        }
    }
    Ok(search.missing)
}

struct Search<'a> {
    repository: &'a Repository,
    here: Option<&'a Rc<dyn Here>>,
    /// More are not looked for.
    most: usize,
    watch: Watch<'a>,
    /// Trees and blobs; the same may be there many times.
    seen: HashSet<ObjectId>,
    missing: Vec<ObjectId>,
}

impl Search<'_> {
    /// `lies` is where the tree is a directory, if it is in one that is known.
    fn tree(&mut self, id: ObjectId, lies: Option<Directory>, depth: usize) -> io::Result<()> {
        if depth >= MAX_DEPTH {
            return Err(corrupt("the tree is too deep"));
        }
        if self.missing.len() >= self.most || !self.seen.insert(id) {
            return Ok(());
        }
        if self.seen.len() as u64 > MAX_ENTRIES {
            return Err(corrupt("the tree has too many entries"));
        }
        if self.watch.interrupted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let lies = lies.or_else(|| self.here?.directory(&id));
        let tree = self.repository.database.get(&id, Kind::Tree)?;
        for entry in TreeRefIter::from_bytes(&tree.data, OBJECT_HASH) {
            let entry = entry.map_err(|error| corrupt(format!("the tree is damaged: {error}")))?;
            let id = entry.oid.to_owned();
            let lies = lies.as_ref().map(|lies| lies.join(entry.filename));
            match entry.mode.kind() {
                EntryKind::Tree => self.tree(id, lies, depth + 1)?,
                EntryKind::Commit => {}
                _ if self.seen.insert(id) => {
                    let seems_here = |here: &Rc<dyn Here>| {
                        lies.is_some_and(|lies| here.has_blob_at(&id, &lies)) || here.has_blob(&id)
                    };
                    let is_here =
                        self.repository.database.has(&id)? || self.here.is_some_and(seems_here);
                    if !is_here {
                        self.missing.push(id);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
