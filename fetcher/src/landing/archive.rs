//! A download that is to be unpacked: it lands as it is, and what was in it is hashed where it was unpacked.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use store_index::beneath::{Beneath, Node};
use store_index::path_text::printable;
use store_index::tree::Skip;
use store_index::watch::Unit;

use super::wrong::Wrong;
use super::{Landed, Landing, NotIt, no_bytes_for_stdout};
use crate::diagnosis;
use crate::download::Origin;
use crate::error::FetchError;
use crate::publish;
use crate::report::AttemptResult;
use crate::source::Candidate;
use crate::source_url::SourceUrl;
use crate::staging::{Place, StagedFile, StagedTree};
use crate::unpack::{self, ROOT_NAME, UnpackError, Unpacked};

impl Landing<'_> {
    pub(super) fn land_archive(
        &mut self,
        candidate: &Candidate,
        url: &SourceUrl,
    ) -> Result<Landed, FetchError> {
        let (mut landed, origin) = self.land_archive_once(candidate, url)?;
        let mut remark = self.downloader.take_remark();
        if matches!(landed, Landed::NotIt(_)) && origin.is_spliced() {
            let wrong = self.downloader.doubt(url, &origin);
            self.watch
                .progress
                .note(&format!("{wrong}: {url} is asked for the whole"));
            remark = self.downloader.take_remark();
            landed = self.land_archive_once(candidate, url)?.0;
        }
        self.add_remark(&mut landed, remark);
        Ok(landed)
    }

    /// Unpacks a file of this machine that was named as an archive. What is no file lands as it is.
    pub(super) fn land_archive_here(
        &mut self,
        candidate: &Candidate,
        root: &Beneath,
        path: &Path,
    ) -> Result<Landed, FetchError> {
        let Ok(Node::File(file)) = root.open_node_or_root(path) else {
            return self.land_local(candidate, root, path, None, &[Skip::Nothing]);
        };
        let Some(place) = self.place.clone() else {
            return Err(no_bytes_for_stdout());
        };
        let bytes = match file.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) => {
                let failed = NotIt::new(AttemptResult::Failed, error.to_string());
                return Ok(Landed::NotIt(failed));
            }
        };
        if place.given {
            // The output itself becomes the room for what is unpacked.
            self.staged = None;
        }
        let landed = match self.land_unpacked(candidate, &place, &file, bytes)? {
            Ok(landed) => landed,
            Err(reason) => return Ok(Landed::NotIt(reason)),
        };
        if matches!(landed, Landed::NotIt(_)) && self.may_leave(candidate) {
            let archive = StagedFile { file, hidden: None };
            self.wrong = Some((Wrong::Body(archive), candidate.location.clone()));
        }
        Ok(landed)
    }

    /// Returns also how the archive came together.
    fn land_archive_once(
        &mut self,
        candidate: &Candidate,
        url: &SourceUrl,
    ) -> Result<(Landed, Origin), FetchError> {
        let Some(place) = self.place.clone() else {
            return Err(no_bytes_for_stdout());
        };
        let mut archive = self
            .room_for_archive(&place)
            .map_err(|error| self.write_error(&error))?;
        let what = format!("downloading {}", candidate.location);
        self.watch.progress.begin(&what, None, Unit::Bytes);
        let claim = self.claim.as_ref();
        let downloaded = self
            .downloader
            .land_archive(url, &mut archive, claim, self.watch);
        self.watch.progress.end();
        let (bytes, origin) = match self.downloaded(downloaded)? {
            Ok(downloaded) => downloaded,
            Err(not_it) => return Ok((Landed::NotIt(not_it), Origin::default())),
        };
        let landed = self.judge_archive(candidate, url, &place, archive, (bytes, &origin))?;
        // Right or wrong, nothing is to be gone on with.
        if let Some(claim) = &self.claim {
            claim.clear();
        }
        Ok((landed, origin))
    }

    /// Unpacks what has come whole, and publishes it if it is right.
    fn judge_archive(
        &mut self,
        candidate: &Candidate,
        url: &SourceUrl,
        place: &Place,
        archive: StagedFile,
        (bytes, origin): (u64, &Origin),
    ) -> Result<Landed, FetchError> {
        let (unpacked, mut landed) =
            match self.land_unpacked(candidate, place, &archive.file, bytes)? {
                Ok(landed) => (true, landed),
                Err(reason) => (false, Landed::NotIt(reason)),
            };
        let Landed::NotIt(wrong) = &mut landed else {
            return Ok(landed);
        };
        if origin.is_spliced() {
            // Nobody may ever have had that.
            return Ok(landed);
        }
        let seems = diagnosis::of_body(&archive.file, bytes, url, self.request, self.watch);
        if let Some(seems) = seems {
            wrong.reason = format!("{}; it is {seems}", wrong.reason);
            wrong.seems = Some(seems);
        }
        if wrong.result == AttemptResult::Mismatch {
            let size = std::mem::replace(&mut wrong.bytes, bytes);
            self.keep_wrong(wrong, &archive.file, url);
            wrong.bytes = size;
        }
        // What cannot be unpacked has no hash that would help the packager.
        if unpacked && self.may_leave(candidate) {
            self.wrong = Some((Wrong::Body(archive), candidate.location.clone()));
        }
        Ok(landed)
    }

    /// The room for an archive: beside the output, but in a build with the build's own temporary files.
    fn room_for_archive(&mut self, place: &Place) -> io::Result<StagedFile> {
        if !place.given {
            return StagedFile::beside(place);
        }
        // The output itself becomes the room for what is unpacked.
        self.staged = None;
        StagedFile::temporary()
    }

    /// Unpacks, and publishes what is right. The inner error is an archive that cannot be unpacked.
    fn land_unpacked(
        &mut self,
        candidate: &Candidate,
        place: &Place,
        archive: &File,
        bytes: u64,
    ) -> Result<Result<Landed, NotIt>, FetchError> {
        let (staged, directory) = self.staged_tree(place)?;
        let unpacked = self.unpack(archive, &candidate.location, bytes, &directory);
        let landed = match unpacked {
            Ok(unpacked @ (Unpacked::Tree | Unpacked::NarTree)) => {
                let may_strip = matches!(unpacked, Unpacked::Tree);
                let what = format!("checking what was in {}", candidate.location);
                self.watch.progress.begin(&what, None, Unit::Bytes);
                let judged =
                    unpack::judge(&self.request.address, &directory, may_strip, self.watch);
                self.watch.progress.end();
                self.judge_tree(staged, place, judged.map(|verdict| (verdict, 0)))?
                    .0
            }
            Ok(Unpacked::File) => {
                let file = open_root(&directory);
                let file = file.map_err(|error| self.write_error(&error))?;
                // The room for files is the output, too, where a daemon gave it.
                drop(staged);
                if let Err(error) = self.room() {
                    return Err(self.write_error(&error));
                }
                self.land_file(candidate, &file, None)?
            }
            Ok(Unpacked::Symlink(target)) => {
                drop(staged);
                self.land_symlink(&target)?
            }
            Err(UnpackError::Interrupted) => return Err(FetchError::interrupted()),
            Err(UnpackError::Write { path, source }) => {
                let text = format!("{}: {source}", printable(&path));
                let mut not_it = self.not_written(&io::Error::new(source.kind(), text))?;
                not_it.bytes = bytes;
                return Ok(Err(not_it));
            }
            Err(error @ UnpackError::Limit(_)) => {
                // What is in it nobody knows: it is too much, not wrong.
                let mut not_it = NotIt::new(AttemptResult::Failed, error.to_string());
                not_it.bytes = bytes;
                return Ok(Err(not_it));
            }
            Err(error) => {
                let mut not_it = NotIt::new(AttemptResult::Mismatch, error.to_string());
                not_it.bytes = bytes;
                not_it.seems = Some(not_it.reason.clone());
                return Ok(Err(not_it));
            }
        };
        Ok(Ok(landed))
    }

    fn staged_tree(&self, place: &Place) -> Result<(StagedTree, OwnedFd), FetchError> {
        let staged = StagedTree::beside(place).map_err(|error| self.write_error(&error))?;
        let directory = staged.directory();
        Ok((staged, directory.map_err(|error| self.write_error(&error))?))
    }

    fn unpack(
        &self,
        archive: &File,
        location: &str,
        bytes: u64,
        directory: &OwnedFd,
    ) -> Result<Unpacked, UnpackError> {
        let target = directory.try_clone();
        let target = target.map_err(|source| UnpackError::Write {
            path: ROOT_NAME.into(),
            source,
        })?;
        let what = format!("unpacking {location}");
        self.watch.progress.begin(&what, Some(bytes), Unit::Bytes);
        let max_bytes = self.downloader.max_bytes();
        let unpacked = unpack::unpack(archive, location, target, max_bytes, self.watch);
        self.watch.progress.end();
        unpacked
    }

    /// Leaves what was in a wrong archive to the daemon, unpacked once more, as it would have been published.
    pub(super) fn leave_unpacked(&mut self, archive: &File, location: &str) -> io::Result<()> {
        let Some(place) = self.place.clone() else {
            return Ok(());
        };
        self.staged = None;
        let bytes = archive.metadata()?.len();
        let staged = StagedTree::beside(&place)?;
        let directory = staged.directory()?;
        match self.unpack(archive, location, bytes, &directory) {
            Ok(Unpacked::Tree) => {
                unpack::strip_single_root(&directory)?;
                publish::leave_tree_to_daemon(staged)
            }
            Ok(Unpacked::NarTree) => publish::leave_tree_to_daemon(staged),
            Ok(Unpacked::File) => {
                let file = open_root(&directory)?;
                drop(staged);
                self.copy_into_room(&file)?;
                let executable = publish::is_executable(&file.metadata()?);
                match self.staged.take() {
                    Some(staged) => publish::leave_to_daemon(staged, executable),
                    None => Ok(()),
                }
            }
            Ok(Unpacked::Symlink(target)) => {
                drop(staged);
                publish::leave_symlink_to_daemon(&target, &place)
            }
            Err(UnpackError::Interrupted) => Err(io::ErrorKind::Interrupted.into()),
            // It was unpacked before, so this is the disk.
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }
}

fn open_root(directory: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, ROOT_NAME, flags, Mode::empty())?.into())
}
