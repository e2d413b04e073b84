//! Local git repositories, read without running or believing anything in them.
//!
//! A repository may lie on a hostile medium, so its configuration, hooks and filters are never looked at: an id or a
//! name, `objects` and `refs` are all that it takes. gix parses the formats; files are opened beneath the folders
//! that were named and read at offsets rather than mapped, because a disc that is pulled out must cost one candidate
//! and not the process.

mod attributes;
mod checkout;
mod conversion;
mod discover;
mod folder;
#[cfg(fuzzing)]
pub mod fuzzing;
mod inflate;
mod objects;
mod pack;
mod references;
pub(crate) mod remote;
mod repository;
mod revision;

pub use checkout::{Checkout, Form};
pub(crate) use discover::{discover, discover_modules};
pub(crate) use folder::Folder;
pub(crate) use objects::{Directory, Here};
pub use repository::Repository;
pub(crate) use repository::Roots;
pub use revision::{Revision, RevisionError};

use std::io;

/// The hash of the repositories that are read; those with SHA-256 ids are told by the size of their pack indexes.
const OBJECT_HASH: gix::hash::Kind = gix::hash::Kind::Sha1;

fn corrupt(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
