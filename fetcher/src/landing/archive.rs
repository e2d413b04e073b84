//! A download that is to be unpacked: it lands as it is, and what was in it is hashed where it was unpacked.

use std::os::fd::AsFd as _;

use rustix::fs::{Mode, OFlags};
use store_index::watch::Unit;

use super::{Landed, Landing, NotIt, no_bytes_for_stdout};
use crate::diagnosis;
use crate::error::FetchError;
use crate::report::AttemptResult;
use crate::source::Candidate;
use crate::source_url::SourceUrl;
use crate::staging::StagedTree;
use crate::unpack::{self, ROOT_NAME, UnpackError, Unpacked};

impl Landing<'_> {
    pub(super) fn land_archive(
        &mut self,
        candidate: &Candidate,
        url: &SourceUrl,
    ) -> Result<Landed, FetchError> {
        let downloaded = self.download(candidate, |downloader, staged, _, watch| {
            downloader.land_archive(url, staged, watch)
        })?;
        let bytes = match downloaded {
            Ok(bytes) => bytes,
            Err(not_it) => return Ok(Landed::NotIt(not_it)),
        };
        let Some(place) = &self.place else {
            return Err(no_bytes_for_stdout());
        };
        let staged = StagedTree::beside(place).map_err(|error| self.write_error(&error))?;
        let directory = || {
            let directory = staged.directory();
            directory.map_err(|error| self.write_error(&error))
        };
        let what = format!("unpacking {}", candidate.location);
        self.watch.progress.begin(&what, Some(bytes), Unit::Bytes);
        let unpacked = unpack::unpack(
            &self.staged.file,
            &url.default_name().unwrap_or_default(),
            directory()?,
            self.downloader.max_bytes(),
            self.watch,
        );
        self.watch.progress.end();
        let mut landed = match unpacked {
            Ok(unpacked @ (Unpacked::Tree | Unpacked::NarTree)) => {
                let may_strip = matches!(unpacked, Unpacked::Tree);
                let what = format!("checking what was in {}", candidate.location);
                self.watch.progress.begin(&what, None, Unit::Bytes);
                let address = &self.request.address;
                let judged = unpack::judge(address, &directory()?, may_strip, self.watch);
                self.watch.progress.end();
                let judged = judged.map(|verdict| (verdict, 0));
                self.judge_tree(staged, place, judged)?.0
            }
            Ok(Unpacked::File) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = directory()?;
                let file = rustix::fs::openat(directory.as_fd(), ROOT_NAME, flags, Mode::empty())
                    .map_err(|error| self.write_error(&error.into()))?;
                let emptied = self.staged.empty();
                emptied.map_err(|error| self.write_error(&error))?;
                // What was downloaded is gone, so nothing more is said of it.
                return self.land_file(candidate, &file.into(), None);
            }
            Ok(Unpacked::Symlink(target)) => self.land_symlink(&target)?,
            Err(UnpackError::Interrupted) => return Err(FetchError::interrupted()),
            Err(UnpackError::Write { path, source }) => {
                let path = store_index::path_text::printable(&path);
                let error = std::io::Error::new(source.kind(), format!("{path}: {source}"));
                return Err(self.write_error(&error));
            }
            Err(error) => {
                let mut not_it = NotIt::new(AttemptResult::Mismatch, error.to_string());
                not_it.bytes = bytes;
                not_it.seems = Some(not_it.reason.clone());
                Landed::NotIt(not_it)
            }
        };
        if let Landed::NotIt(wrong) = &mut landed {
            let seems = diagnosis::of_body(&self.staged.file, bytes, url, self.request);
            if let Some(seems) = seems {
                wrong.reason = format!("{}; it is {seems}", wrong.reason);
                wrong.seems = Some(seems);
            }
        }
        Ok(landed)
    }
}
