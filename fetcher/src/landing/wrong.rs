//! Wrong content that is of use all the same: the first is left to a daemon where nothing was right, which then tells
//! the packager its hash.
//!
//! A body stays where it landed until that room is needed. Then it loses its name, not its bytes: they lie in the output's
//! own file system until the end, whatever room there is for temporary files.

use std::fs::File;
use std::io;

use super::Landing;
use super::clone::WrongTree;
use crate::copy;
use crate::disk;
use crate::error::FetchError;
use crate::publish;
use crate::source::{Candidate, SourceKind};
use crate::staging::StagedFile;

/// What a server sent that is not what is wanted.
#[derive(Debug)]
pub(super) enum Wrong {
    /// A file or archive, where it landed.
    Body(StagedFile),
    /// A commit, to be checked out once more.
    Tree(WrongTree),
}

impl Wrong {
    /// Gives up its name, so that another candidate can land there. Open as it is, it can still be read.
    pub(super) fn make_room(&mut self) {
        if let Self::Body(staged) = self {
            staged.hidden = None;
        }
    }
}

impl Landing<'_> {
    /// Says whether wrong bytes are the answer to whoever asks for the hash: the first ones that a URL of the request
    /// sends, if somebody vouches for the server.
    pub(super) fn may_leave(&self, candidate: &Candidate) -> bool {
        self.leave_wrong
            && self.wrong.is_none()
            && candidate.kind == SourceKind::Url
            && !self.downloader.came_from_anybody()
    }

    /// Keeps the wrong body in the room for the daemon, if it is the first of the request's own URLs.
    pub(super) fn remember_wrong(&mut self, candidate: &Candidate) {
        if self.may_leave(candidate)
            && let Some(staged) = self.staged.take()
        {
            let location = candidate.location.clone();
            self.wrong = Some((Wrong::Body(staged), location));
        }
    }

    /// Gives what is wrong up where the disk is full: what comes may be right.
    pub(super) fn give_up_wrong(&mut self, error: &io::Error) -> bool {
        if !disk::is_full(error) {
            return false;
        }
        let wrong = self.wrong.take();
        if let Some((_, location)) = &wrong {
            self.watch.progress.note(&format!(
                "the wrong content of {location} is given up: the disk is full"
            ));
        }
        wrong.is_some()
    }

    /// Nothing was right: leaves the first wrong content to the daemon, if there was one and that is wanted. Returns
    /// whence it came.
    pub(crate) fn leave_wrong(&mut self) -> Result<Option<String>, FetchError> {
        let Some((wrong, location)) = self.wrong.take() else {
            return Ok(None);
        };
        let left = match wrong {
            Wrong::Tree(tree) => self.leave_checkout(&tree),
            Wrong::Body(staged) if self.request.unpack => {
                self.leave_unpacked(&staged.file, &location)
            }
            Wrong::Body(staged) => self.leave_body(staged),
        };
        match left {
            Ok(()) => Ok(Some(location)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Err(FetchError::interrupted())
            }
            // The mismatch is what matters; without the body the packager reads it in our words.
            Err(error) => {
                self.watch.progress.note(&format!(
                    "the wrong content of {location} cannot be left to the daemon: {error}"
                ));
                Ok(None)
            }
        }
    }

    fn leave_body(&mut self, wrong: StagedFile) -> io::Result<()> {
        let executable = self.request.executable;
        if wrong.is_output() {
            return publish::leave_to_daemon(wrong, executable);
        }
        let watch = self.watch;
        copy::move_unhashed(&wrong.file, &self.room()?.file, watch)?;
        match self.staged.take() {
            Some(staged) => publish::leave_to_daemon(staged, executable),
            None => Ok(()),
        }
    }

    /// Copies a file into the room for files.
    pub(super) fn copy_into_room(&mut self, file: &File) -> io::Result<()> {
        let watch = self.watch;
        copy::copy_unhashed(file, &self.room()?.file, watch)
    }
}
