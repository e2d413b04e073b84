//! A commit from the network lands: it is fetched into a repository of our own, and checked out.

use std::io;

use store_index::tree::TreeError;
use store_index::watch::Unit;

use super::wrong::Wrong;
use super::{Landed, Landing, NotIt, no_bytes_for_stdout};
use crate::download::DownloadError;
use crate::error::FetchError;
use crate::git::Checkout;
use crate::git::remote::{self, Fetched, Hidden, Rooms};
use crate::publish;
use crate::report::AttemptResult;
use crate::source::{Candidate, CloneOf, wanted_tree};
use crate::staging::StagedTree;
use crate::tree_copy;

/// A tree that is not the wanted one, and what it lies in as long as nothing else keeps that.
#[derive(Debug)]
pub(super) struct WrongTree {
    checkout: Checkout,
    _hidden: Option<Hidden>,
}

impl Landing<'_> {
    pub(super) fn land_clone(
        &mut self,
        candidate: &Candidate,
        clone: &CloneOf,
    ) -> Result<Landed, FetchError> {
        let Some(place) = self.place.clone() else {
            return Err(no_bytes_for_stdout());
        };
        // What was kept may be damaged, and is given up then.
        for may_be_damaged in [true, false] {
            // So may be what else is on this machine.
            let here = clone.here.as_ref().filter(|_| may_be_damaged);
            let mut rooms = Rooms::new(clone.cache.as_deref(), &place, here);
            let what = format!("fetching {}", candidate.location);
            self.watch.progress.begin(&what, None, Unit::Bytes);
            let (watch, wanted) = (self.watch, wanted_tree(self.request));
            let client = self.downloader.client();
            let mut fetched = client
                .and_then(|client| remote::fetch(&clone.source, wanted, &mut rooms, client, watch));
            let (url, mut is_of_anybody) = (&clone.source.url, false);
            if let Err(DownloadError::Trouble {
                reason,
                of_trust: true,
                ..
            }) = &fetched
                && self.downloader.may_trust_anybody(url)
            {
                is_of_anybody = true;
                let client = self.downloader.trusting_client(url, reason, watch);
                fetched = client.and_then(|client| {
                    remote::fetch(&clone.source, wanted, &mut rooms, client, watch)
                });
            }
            self.watch.progress.end();
            let fetched = match self.downloaded(fetched)? {
                Ok(fetched) => fetched,
                Err(not_it) => return Ok(Landed::NotIt(not_it)),
            };
            let landed = self.land_any(candidate, &fetched)?;
            let Landed::NotIt(wrong) = &landed else {
                self.remark = Some(fetched.remark());
                return Ok(landed);
            };
            // What is left to a daemon is what the server sent, and nothing else of this machine.
            let is_mixed = self.leave_wrong && fetched.is_mixed();
            let is_suspect = wrong.result == AttemptResult::Failed
                || fetched.pack_bytes == 0
                || fetched.has_own_commit
                || is_mixed;
            let is_suspect = is_suspect && wrong.no_room.is_none();
            if !(may_be_damaged && is_suspect && fetched.leant_on_others) {
                // What somebody sends of whom nothing is known is no answer to a packager.
                if wrong.result == AttemptResult::Mismatch && !is_mixed && !is_of_anybody {
                    self.set_tree_aside(candidate, fetched, &mut rooms);
                }
                return Ok(landed);
            }
            fetched.forget(clone.cache.as_deref());
        }
        let reason = "what was kept of it cannot be given up: another process uses it";
        Ok(Landed::NotIt(NotIt::new(AttemptResult::Failed, reason)))
    }

    /// Tries the trees that a name may mean. What is said of a wrong tree is said of the likeliest.
    fn land_any(&mut self, candidate: &Candidate, fetched: &Fetched) -> Result<Landed, FetchError> {
        let mut answer = None;
        for checkout in &fetched.checkouts {
            match self.land_checkout(candidate, checkout)? {
                Landed::NotIt(mut wrong) => {
                    wrong.bytes = fetched.got_bytes;
                    answer.get_or_insert(wrong);
                }
                delivered @ Landed::Delivered { .. } => return Ok(delivered),
            }
        }
        let none = || NotIt::new(AttemptResult::Absent, "it has no such commit");
        Ok(Landed::NotIt(answer.unwrap_or_else(none)))
    }

    pub(super) fn land_checkout(
        &mut self,
        candidate: &Candidate,
        checkout: &Checkout,
    ) -> Result<Landed, FetchError> {
        let (request, watch) = (self.request, self.watch);
        let (landed, _) = self.fill_tree(candidate, "checking out", |target| {
            tree_copy::check_out(&request.address, checkout, target, watch)
                .map(|verdict| (verdict, 0))
        })?;
        Ok(landed)
    }

    /// Keeps the likeliest tree of a commit for the daemon, if that is wanted.
    fn set_tree_aside(&mut self, candidate: &Candidate, fetched: Fetched, rooms: &mut Rooms<'_>) {
        let checkout = fetched.checkouts.into_iter().next();
        if let Some(checkout) = checkout.filter(|_| self.leave_wrong && self.wrong.is_none()) {
            let tree = WrongTree {
                checkout,
                _hidden: rooms.take_hidden(),
            };
            self.wrong = Some((Wrong::Tree(tree), candidate.location.clone()));
        }
    }

    /// Leaves a wrong tree to the daemon.
    pub(super) fn leave_checkout(&mut self, tree: &WrongTree) -> io::Result<()> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        // The output itself is the room.
        self.staged = None;
        let staged = StagedTree::beside(place)?;
        let (address, watch) = (&self.request.address, self.watch);
        tree_copy::check_out(address, &tree.checkout, staged.directory()?, watch).map_err(
            |error| match error {
                TreeError::Interrupted => io::ErrorKind::Interrupted.into(),
                error => io::Error::other(error),
            },
        )?;
        publish::leave_tree_to_daemon(staged)
    }

    /// Returns what is worth saying of what was delivered.
    pub(crate) fn take_remark(&mut self) -> Option<String> {
        self.remark.take()
    }
}
