//! What landed and is verified becomes the output, or goes to standard output.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};

use store_index::path_text::printable;

use super::Landing;
use crate::copy::{self, CopyError};
use crate::error::FetchError;
use crate::output::{self, Found};
use crate::publish::{self, Published};
use crate::staging::Place;
use crate::verify::{FileCheck, Verdict, Verified};

impl Landing<'_> {
    pub(super) fn publish_file(&mut self, verified: Verified) -> Result<(), FetchError> {
        let Some(place) = &self.place else {
            return write_to_stdout(&self.landed().file).map_err(|error| {
                FetchError::local(format!(
                    "the content is right, but standard output takes no more: {error}"
                ))
            });
        };
        let staged = self
            .staged
            .as_mut()
            .expect("room is made before a file lands");
        let executable = verified.executable();
        let in_spool = staged.is_in_spool();
        match publish::file(staged, verified, place, self.force) {
            Ok(Published::Done) => Ok(()),
            Ok(Published::Taken) => self.accept_what_appeared(place),
            // Another file system, or one that cannot rename so.
            Err(_) if in_spool => self.publish_from_spool(executable),
            Err(error) => Err(self.write_error(&error)),
        }
    }

    /// The file of the spool cannot be renamed to the output: it is copied, and hashed once more as it lands.
    fn publish_from_spool(&mut self, executable: bool) -> Result<(), FetchError> {
        let spooled = self.staged.take().expect("what is published has landed");
        let copied = self.copy_from_spool(&spooled.file, executable);
        match copied.map_err(|error| self.write_error(&error))? {
            Some(verified) => self.publish_file(verified),
            None => Err(FetchError::local(
                "what was downloaded has changed in the spool before it could be copied",
            )),
        }
    }

    fn copy_from_spool(
        &mut self,
        mut spooled: &File,
        executable: bool,
    ) -> io::Result<Option<Verified>> {
        spooled.rewind()?;
        let size = spooled.metadata()?.len();
        let (request, watch) = (self.request, self.watch);
        let check = FileCheck::new(&request.address, request.executable, executable, Some(size));
        let room = self.room()?;
        match copy::copy(spooled, size, &room.file, check, watch) {
            Ok(Verdict::Right(verified)) => Ok(Some(verified)),
            Ok(Verdict::Wrong { .. }) | Err(CopyError::Changed { .. }) => Ok(None),
            Err(CopyError::Interrupted) => Err(io::ErrorKind::Interrupted.into()),
            Err(CopyError::Read(error) | CopyError::Write(error)) => Err(error),
        }
    }

    /// Another process was faster. If it brought the same content, all is well.
    pub(super) fn accept_what_appeared(&self, place: &Place) -> Result<(), FetchError> {
        match output::examine(self.request, place, self.watch)? {
            Found::Right(_) => Ok(()),
            Found::Nothing | Found::Wrong(_) | Found::Irreplaceable(_) => {
                let path = printable(&place.path);
                Err(FetchError::local(format!(
                    "while this ran, something else appeared at the output {path}"
                ))
                .with_hint("nothing was replaced; --force replaces a file"))
            }
        }
    }
}

fn write_to_stdout(mut staged: &File) -> io::Result<()> {
    staged.rewind()?;
    let mut stdout = io::stdout().lock();
    io::copy(&mut staged, &mut stdout)?;
    stdout.flush()
}
