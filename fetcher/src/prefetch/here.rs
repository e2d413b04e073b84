//! Files of this machine that a `file://` URL names, where no hash says what is wanted.

use std::io;

use store_index::watch::Unit;

use super::download::{Download, Downloads, cannot_write, no_such_hash};
use crate::copy::{self, CopyError};
use crate::error::FetchError;
use crate::fetch::Policy;
use crate::landing::{self, Landed, Landing};
use crate::own_folder::OwnFolder;
use crate::publish;
use crate::report::AttemptResult;
use crate::request::{Request, Target};
use crate::source::{self, CandidatePlace, SourceKind};
use crate::source_url::SourceUrl;
use crate::staging::Place;
use crate::verify::FileCheck;

impl Downloads<'_> {
    /// Copies a file of this machine.
    pub(super) fn copy_here(
        &mut self,
        url: &SourceUrl,
        folder: &OwnFolder,
    ) -> Result<Download, FetchError> {
        let opened = source::of_file(SourceKind::Url, url).and_then(|candidate| {
            let CandidatePlace::Local { root, path, .. } = &candidate.place else {
                return Err(io::ErrorKind::NotFound.into());
            };
            let file = root.open_file(path)?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        });
        let (file, bytes) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(unreadable(&error))),
        };
        let (target, executable) = (self.room(folder)?, self.wish.request.executable);
        let check = FileCheck::new(
            &self.wish.request.address,
            executable,
            executable,
            Some(bytes),
        );
        let what = format!("copying {url}");
        self.watch.progress.begin(&what, Some(bytes), Unit::Bytes);
        let copied = copy::copy(&file, bytes, &target, check, self.watch);
        self.watch.progress.end();
        if let Err(CopyError::Write(error)) = copied {
            let path = folder.path(&self.wish.name);
            return self
                .no_room_or(cannot_write(&path, &error), &error)
                .map(Err);
        }
        publish::set_mode(&target, executable)
            .map_err(|error| cannot_write(&folder.path(&self.wish.name), &error))?;
        Ok(Ok((self.address_of(copied)?, bytes)))
    }

    /// Unpacks a file of this machine, and leaves it as a daemon would be left it. Returns where it is.
    pub(super) fn unpack_here(
        &self,
        url: &SourceUrl,
        policy: &Policy,
        folder: &OwnFolder,
    ) -> Result<Result<String, (AttemptResult, String)>, FetchError> {
        let candidate = match source::of_file(SourceKind::Url, url) {
            Ok(candidate) => candidate,
            Err(error) => return Ok(Err(unreadable(&error))),
        };
        let path = folder.path(&self.wish.name);
        let request = Request {
            target: Target::Given(path.clone()),
            ..self.wish.request.clone()
        };
        let place = Place::open_given(&path)
            .map_err(|error| OwnFolder::explain(landing::folder_error(&request, &error)))?;
        let mut landing = Landing::prepare(&request, Some(place), policy, self.watch)?;
        match landing.land(&candidate)? {
            Landed::Delivered { .. } => Err(no_such_hash()),
            Landed::NotIt(not_it) => {
                let left = landing.leave_wrong()?;
                Ok(left.ok_or((not_it.result, not_it.reason)))
            }
        }
    }
}

/// What became of a file of this machine that cannot be opened.
fn unreadable(error: &io::Error) -> (AttemptResult, String) {
    match error.kind() {
        io::ErrorKind::NotFound => (AttemptResult::Absent, "no such file".to_owned()),
        _ => (AttemptResult::Unavailable, error.to_string()),
    }
}
