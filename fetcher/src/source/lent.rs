//! Blobs in repositories of this machine that lack the wanted commit: forks, older clones, those that were kept of other
//! URLs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use gix::{ObjectId, oid};
use store_index::watch::Watch;

use crate::git::{Folder, Repository, Roots};

/// How many blobs of many are looked for at first: a repository that has none of them has little to lend, and is left
/// alone. A thousand repositories cost a second so.
const PROBES: usize = 500;

/// How many repositories are open at a time: each has up to 200 packs, with two descriptors each.
const MAX_OPEN: usize = 2;

/// Where blobs were seen.
#[derive(Debug, Default)]
pub(super) struct Lent {
    seen: RefCell<HashMap<ObjectId, Rc<Folder>>>,
    /// The last one used is last.
    open: RefCell<Vec<(Rc<Folder>, Rc<Repository>)>>,
}

impl Lent {
    /// Looks for blobs, remembers where they are, and returns those that are nowhere.
    pub(super) fn look_for(
        &self,
        mut blobs: Vec<ObjectId>,
        lenders: impl IntoIterator<Item = Folder>,
        roots: &Roots,
        watch: Watch<'_>,
    ) -> Vec<ObjectId> {
        for folder in lenders {
            if blobs.is_empty() || watch.interrupted() {
                break;
            }
            let Ok(repository) = Repository::open(&folder, roots) else {
                continue;
            };
            // One that is damaged has nothing.
            let has = |id: &ObjectId| repository.has_object(id).unwrap_or(false);
            let step = blobs.len().div_ceil(PROBES);
            if !blobs.iter().step_by(step).any(has) {
                continue;
            }
            let (here, missing): (Vec<_>, Vec<_>) = blobs.into_iter().partition(has);
            let folder = Rc::new(folder);
            let mut seen = self.seen.borrow_mut();
            seen.extend(here.into_iter().map(|id| (id, Rc::clone(&folder))));
            blobs = missing;
        }
        blobs
    }

    /// Reads a blob that was seen; whoever asks sees whether it is the one.
    pub(super) fn read(&self, id: &oid, roots: &Roots) -> Option<Vec<u8>> {
        let folder = self.seen.borrow().get(id).map(Rc::clone)?;
        let mut open = self.open.borrow_mut();
        let known = open
            .iter()
            .position(|(known, _)| Rc::ptr_eq(known, &folder));
        let used = match known {
            Some(at) => open.remove(at),
            None => {
                let repository = Repository::open(&folder, roots).ok()?;
                if open.len() >= MAX_OPEN {
                    open.remove(0);
                }
                (folder, Rc::new(repository))
            }
        };
        let repository = Rc::clone(&used.1);
        open.push(used);
        repository.read_blob(id).ok()
    }
}
