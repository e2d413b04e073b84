//! Whole trees land: copied or checked out into a hidden directory beside the output, hashed on the way.

use std::io;
use std::os::fd::OwnedFd;

use store_index::address::ContentAddress;
use store_index::beneath::{Node, Reach};
use store_index::path_text::printable;
use store_index::tree::{Skip, TreeError};
use store_index::watch::Unit;

use super::{Landed, Landing, NotIt, no_bytes_for_stdout};
use crate::error::FetchError;
use crate::publish::{self, Published};
use crate::report::AttemptResult;
use crate::source::Candidate;
use crate::staging::{Place, StagedTree};
use crate::tree_copy;
use crate::verify::{Verdict, Verified};

impl Landing<'_> {
    /// Tries a tree in one form after the other, as long as there is something that a form leaves out.
    pub(super) fn land_tree(
        &mut self,
        candidate: &Candidate,
        source: &OwnedFd,
        reach: Reach,
        forms: &[Skip],
    ) -> Result<Landed, FetchError> {
        let mut landed = None;
        for &form in forms {
            let (tried, metadata) = self.land_tree_without((form, reach), candidate, source)?;
            let is_over = metadata == 0 || matches!(tried, Landed::Delivered { .. });
            // What is said of a wrong tree is said of its first form.
            let answer = match (landed.take(), tried) {
                (Some(first @ Landed::NotIt(_)), Landed::NotIt(_)) => first,
                (_, tried) => tried,
            };
            if is_over {
                return Ok(answer);
            }
            landed = Some(answer);
        }
        let reason = "there is no form in which it could be tried";
        Ok(landed.unwrap_or_else(|| Landed::NotIt(NotIt::new(AttemptResult::Failed, reason))))
    }

    /// Lands one form of a tree; with the number of entries that some form leaves out.
    fn land_tree_without(
        &mut self,
        (skip, reach): (Skip, Reach),
        candidate: &Candidate,
        source: &OwnedFd,
    ) -> Result<(Landed, u64), FetchError> {
        let no = |not_it| Ok((Landed::NotIt(not_it), 0));
        let source = match source.try_clone() {
            Ok(source) => source,
            Err(error) => return no(NotIt::new(AttemptResult::Failed, error.to_string())),
        };
        if self.place.is_none() {
            return Ok((self.refuse_for_stdout(Node::Directory(source))?, 0));
        }
        let (request, watch) = (self.request, self.watch);
        self.fill_tree(candidate, "copying", |target| {
            tree_copy::copy(&request.address, source, target, (skip, reach), watch)
        })
    }

    /// Has a staged directory filled, and publishes it if it is right. The number is passed on.
    pub(super) fn fill_tree(
        &mut self,
        candidate: &Candidate,
        verb: &str,
        fill: impl FnOnce(OwnedFd) -> Result<(Verdict, u64), TreeError>,
    ) -> Result<(Landed, u64), FetchError> {
        let no = |not_it| Ok((Landed::NotIt(not_it), 0));
        if matches!(self.request.address, ContentAddress::Flat(_)) {
            let reason = "it is a directory, and a file is wanted";
            return no(NotIt::new(AttemptResult::Mismatch, reason));
        }
        let Some(place) = &self.place else {
            let reason = "it is a directory, which cannot go to standard output";
            return no(NotIt::new(AttemptResult::Skipped, reason));
        };
        if place.given {
            // The output itself is the room, and there is one only.
            self.staged = None;
        }
        let staged = StagedTree::beside(place).map_err(|error| self.write_error(&error))?;
        let target = staged
            .directory()
            .map_err(|error| self.write_error(&error))?;
        self.watch
            .progress
            .begin(&format!("{verb} {}", candidate.location), None, Unit::Bytes);
        let filled = fill(target);
        self.watch.progress.end();
        self.judge_tree(staged, place, filled)
    }

    /// Publishes a staged tree if it is right. The number is passed on.
    pub(super) fn judge_tree(
        &self,
        staged: StagedTree,
        place: &Place,
        filled: Result<(Verdict, u64), TreeError>,
    ) -> Result<(Landed, u64), FetchError> {
        let reason = match filled {
            Ok((Verdict::Right(verified), metadata)) => {
                let bytes = verified.bytes();
                match publish::tree(staged, verified, place, self.force) {
                    Ok(Published::Done) => {}
                    Ok(Published::Taken) => self.accept_what_appeared(place)?,
                    Err(error) => return Err(self.write_error(&error)),
                }
                let delivered = Landed::Delivered {
                    bytes,
                    executable: false,
                };
                return Ok((delivered, metadata));
            }
            Ok((Verdict::Wrong { got, bytes }, metadata)) => {
                let wrong = NotIt::wrong(self.request, got, bytes);
                return Ok((Landed::NotIt(wrong), metadata));
            }
            Err(TreeError::Interrupted) => return Err(FetchError::interrupted()),
            // The hashes of git refuse content that was made to collide.
            Err(TreeError::Visit { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
                NotIt::new(AttemptResult::Mismatch, source.to_string())
            }
            // A name or the target of a link that this file system has no room for: another candidate may be kinder.
            Err(error @ TreeError::Visit { .. }) if is_refused_name(&error) => {
                NotIt::new(AttemptResult::Failed, error.to_string())
            }
            Err(TreeError::Visit { path, source }) => {
                let place = format!("{}: {source}", printable(&path));
                self.without_room(&io::Error::new(source.kind(), place))?
            }
            Err(error) => NotIt::new(AttemptResult::Failed, error.to_string()),
        };
        Ok((Landed::NotIt(reason), 0))
    }

    /// A symbolic link has a NAR hash of its own; it is never followed.
    pub(super) fn land_symlink(&mut self, target: &[u8]) -> Result<Landed, FetchError> {
        if !matches!(self.request.address, ContentAddress::Nar(_)) {
            let reason = "it is a symbolic link, which is not followed";
            return Ok(Landed::NotIt(NotIt::new(AttemptResult::Failed, reason)));
        }
        let Some(place) = &self.place else {
            return self.refuse_for_stdout(Node::Symlink(target.to_vec()));
        };
        match self.judge_in_place(Node::Symlink(target.to_vec()))? {
            Err(not_it) => Ok(Landed::NotIt(not_it)),
            Ok(verified) => {
                if place.given {
                    self.staged = None;
                }
                match publish::symlink(target, verified, place, self.force) {
                    Ok(Published::Done) => {}
                    Ok(Published::Taken) => self.accept_what_appeared(place)?,
                    Err(error) => return Err(self.write_error(&error)),
                }
                Ok(Landed::Delivered {
                    bytes: 0,
                    executable: false,
                })
            }
        }
    }

    /// Only bytes can go to standard output. The right content that has none is worth its own words.
    fn refuse_for_stdout(&self, node: Node) -> Result<Landed, FetchError> {
        match self.judge_in_place(node)? {
            Err(not_it) => Ok(Landed::NotIt(not_it)),
            Ok(_) => Err(no_bytes_for_stdout()),
        }
    }

    /// Hashes a node where it lies.
    fn judge_in_place(&self, node: Node) -> Result<Result<Verified, NotIt>, FetchError> {
        match tree_copy::hash(&self.request.address, node, self.watch) {
            Ok(Verdict::Right(verified)) => Ok(Ok(verified)),
            Ok(Verdict::Wrong { got, bytes }) => Ok(Err(NotIt::wrong(self.request, got, bytes))),
            Err(TreeError::Interrupted) => Err(FetchError::interrupted()),
            Err(error) => Ok(Err(NotIt::new(AttemptResult::Failed, error.to_string()))),
        }
    }
}

/// Returns true for a name that a file system refuses.
fn is_refused_name(error: &TreeError) -> bool {
    let TreeError::Visit { source, .. } = error else {
        return false;
    };
    source.kind() == io::ErrorKind::InvalidFilename
}
