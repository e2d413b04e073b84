//! A folder that only this run knows, where content gets the name that it will have in the store: the stores' tools
//! take the name of a file for the name of the item.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use store_index::beneath::{Node, Reach};
use store_index::path_text::printable;
use store_index::store_path::ItemName;
use store_index::tree::{Skip, TreeError};
use store_index::watch::{Unit, Watch};

use crate::copy::{self, CopyError};
use crate::error::FetchError;
use crate::publish::{self, Standing};
use crate::request::Request;
use crate::staging::Place;
use crate::tree_copy;
use crate::verify::{FileCheck, Verdict};

/// The folder; it goes with everything in it.
#[derive(Debug)]
pub(crate) struct OwnFolder(tempfile::TempDir);

impl OwnFolder {
    /// Makes one that nobody else can enter, in the folder for temporary files.
    pub(crate) fn new() -> Result<Self, FetchError> {
        let folder = tempfile::Builder::new().prefix("fetch-").tempdir();
        folder.map(Self).map_err(|error| {
            FetchError::local(format!(
                "cannot make a folder in {}: {error}",
                printable(&std::env::temp_dir())
            ))
            .with_hint("name another folder for temporary files with TMPDIR")
        })
    }

    /// Returns where it is.
    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    /// Returns where content of that name lies in it.
    pub(crate) fn path(&self, name: &ItemName) -> PathBuf {
        self.0.path().join(name.as_str())
    }

    /// Says of an error that concerns a path in the folder what can be done about it.
    pub(crate) fn explain(error: FetchError) -> FetchError {
        match error.kind {
            crate::error::ErrorKind::Local => error.with_hint(
                "content lands in the folder for temporary files first; name another with TMPDIR",
            ),
            _ => error,
        }
    }

    /// Copies an output, verifying once more, under a name.
    pub(crate) fn copy_output(
        &self,
        request: &Request,
        output: &Path,
        name: &ItemName,
        watch: Watch<'_>,
    ) -> Result<PathBuf, FetchError> {
        let path = self.path(name);
        watch
            .progress
            .begin(&format!("copying {}", printable(output)), None, Unit::Bytes);
        let verdict = copy_standing(request, output, &path, watch);
        watch.progress.end();
        match verdict {
            Ok(Verdict::Right(_)) => Ok(path),
            Ok(Verdict::Wrong { .. }) => Err(FetchError::local(format!(
                "the output {} was changed by somebody else while this ran",
                printable(output)
            ))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Err(FetchError::interrupted())
            }
            Err(error) => Err(Self::explain(FetchError::local(format!(
                "cannot copy the output {} for the store: {error}",
                printable(output)
            )))),
        }
    }
}

/// Copies whatever stands at an output, hashing the copy.
pub(crate) fn copy_standing(
    request: &Request,
    output: &Path,
    copied: &Path,
    watch: Watch<'_>,
) -> io::Result<Verdict> {
    let place = Place::open(output)?;
    match publish::look_at(&place)? {
        Some(Standing::File(file)) => copy_file(request, &file, copied, watch),
        Some(Standing::Directory(directory)) => {
            fs_err::create_dir(copied)?;
            let target = OwnedFd::from(fs_err::File::open(copied)?.into_file());
            let form = (Skip::Nothing, Reach::Own);
            tree_copy::copy(&request.address, directory, target, form, watch)
                .map(|(verdict, _)| verdict)
                .map_err(tree_error)
        }
        Some(Standing::Symlink) => {
            let target = fs_err::read_link(output)?;
            fs_err::os::unix::fs::symlink(&target, copied)?;
            let node = Node::Symlink(target.into_os_string().into_vec());
            tree_copy::hash(&request.address, node, watch).map_err(tree_error)
        }
        Some(Standing::Special) | None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn copy_file(
    request: &Request,
    file: &File,
    copied: &Path,
    watch: Watch<'_>,
) -> io::Result<Verdict> {
    let metadata = file.metadata()?;
    let executable = publish::is_executable(&metadata);
    let size = metadata.len();
    let check = FileCheck::new(&request.address, executable, executable, Some(size));
    let target = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(copied)?
        .into_file();
    let verdict = copy::copy(file, size, &target, check, watch).map_err(|error| match error {
        CopyError::Interrupted => io::ErrorKind::Interrupted.into(),
        CopyError::Write(error) | CopyError::Read(error) => error,
        error @ CopyError::Changed { .. } => io::Error::other(error.to_string()),
    })?;
    publish::set_mode(&target, executable)?;
    Ok(verdict)
}

fn tree_error(error: TreeError) -> io::Error {
    match error {
        TreeError::Interrupted => io::ErrorKind::Interrupted.into(),
        error => io::Error::other(error.to_string()),
    }
}
