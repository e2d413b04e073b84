//! What stands at the output already: the right content, or a reason to stop.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use store_index::address::ContentAddress;
use store_index::beneath::Node;
use store_index::tree::TreeError;
use store_index::watch::{Unit, Watch};

use crate::error::FetchError;
use crate::publish::{self, Standing};
use crate::request::Request;
use crate::staging::Place;
use crate::tree_copy;
use crate::verify::{FileCheck, Verdict, Verified};
use store_index::path_text::printable;

/// The answer of a look at the output.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing is there.
    Nothing,
    /// The wanted content; its executable bit is now as wanted.
    Right(Verified),
    /// Something else, described.
    Wrong(&'static str),
    /// Something that is not replaced even on request: a directory with something in it, a device, a pipe, a socket.
    Irreplaceable(&'static str),
}

/// Looks at what stands at the output.
pub(crate) fn examine(
    request: &Request,
    place: &Place,
    watch: Watch<'_>,
) -> Result<Found, FetchError> {
    let unreadable = |error: &dyn std::fmt::Display| {
        FetchError::local(format!(
            "the output {} is there and cannot be read: {error}",
            printable(&place.path)
        ))
    };
    let standing = publish::look_at(place).map_err(|error| unreadable(&error))?;
    match standing {
        None => Ok(Found::Nothing),
        Some(Standing::Symlink) => Ok(Found::Wrong("a symbolic link, which is not followed")),
        Some(Standing::Special) => Ok(Found::Irreplaceable("a device, pipe or socket")),
        Some(Standing::Directory(directory)) => {
            let wrong = if publish::is_empty(&directory).map_err(|error| unreadable(&error))? {
                Found::Wrong
            } else {
                Found::Irreplaceable
            };
            if matches!(request.address, ContentAddress::Flat(_)) {
                return Ok(wrong("a directory"));
            }
            watch
                .progress
                .begin("checking the output that is there", None, Unit::Bytes);
            let verdict = tree_copy::hash(&request.address, Node::Directory(directory), watch);
            watch.progress.end();
            match verdict {
                Ok(Verdict::Right(verified)) => Ok(Found::Right(verified)),
                Ok(Verdict::Wrong { .. }) => Ok(wrong("a directory with other content")),
                Err(TreeError::Interrupted) => Err(FetchError::interrupted()),
                Err(error) => Err(unreadable(&error)),
            }
        }
        Some(Standing::File(file)) => {
            let metadata = file.metadata().map_err(|error| unreadable(&error))?;
            let executable = publish::is_executable(&metadata);
            let check = FileCheck::new(
                &request.address,
                request.executable,
                executable,
                Some(metadata.len()),
            );
            watch.progress.begin(
                "checking the output that is there",
                Some(metadata.len()),
                Unit::Bytes,
            );
            let verdict = crate::copy::hash(&file, metadata.len(), check, watch);
            watch.progress.end();
            match verdict {
                Ok(Verdict::Right(verified)) => {
                    // The mode belongs to every name of the file, and another may be a store's.
                    if executable != verified.executable() && metadata.nlink() > 1 {
                        return Ok(Found::Wrong(
                            "the right content, but the executable bit is wrong and the file has other names",
                        ));
                    }
                    publish::set_mode(&file, verified.executable())
                        .map_err(|error| mode_error(place, &error))?;
                    Ok(Found::Right(verified))
                }
                Ok(Verdict::Wrong { .. }) => Ok(Found::Wrong("a file with other content")),
                Err(crate::copy::CopyError::Interrupted) => Err(FetchError::interrupted()),
                Err(error) => Err(unreadable(&error)),
            }
        }
    }
}

fn mode_error(place: &Place, error: &io::Error) -> FetchError {
    FetchError::local(format!(
        "the output {} has the right content, but its executable bit cannot be set: {error}",
        printable(&place.path)
    ))
}
