//! Where a repository lies while its tree is checked out: a hidden folder of our own, gone when dropped.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::Mode;
use store_index::beneath::Beneath;

use crate::git::{Folder, Repository, Roots};
use crate::staging::{self, Place, StagedTree};

/// A hidden folder for repositories.
#[derive(Debug)]
pub(crate) struct Room {
    path: PathBuf,
    repositories: usize,
    _staged: StagedTree,
}

impl Room {
    /// Makes one: in our own cache if there is one, else beside an output, and never beside one that a daemon gave us.
    pub(crate) fn new(cache: Option<&Path>, output: &Place) -> io::Result<Self> {
        if let Some(room) = cache.and_then(|cache| Self::below(cache).ok()) {
            return Ok(room);
        }
        if output.given {
            return Self::in_folder(&std::env::temp_dir());
        }
        let staged = StagedTree::beside(output)?;
        let folder = output.path.parent().unwrap_or(Path::new("."));
        Self::of(folder, staged)
    }

    /// In a folder that is ours alone: what lies in it is believed for as long as it takes to index a pack.
    fn below(cache: &Path) -> io::Result<Self> {
        own_folder(cache)?;
        Self::in_folder(cache)
    }

    fn in_folder(folder: &Path) -> io::Result<Self> {
        let place = Place::open(&folder.join("room"))?;
        staging::sweep(&place);
        Self::of(folder, StagedTree::beside(&place)?)
    }

    fn of(folder: &Path, staged: StagedTree) -> io::Result<Self> {
        let path = folder.join(staged.hidden.name());
        rustix::fs::chmod(&path, Mode::RWXU)?;
        Ok(Self {
            path,
            repositories: 0,
            _staged: staged,
        })
    }

    /// Makes an empty bare repository.
    pub(super) fn repository(&mut self) -> io::Result<PathBuf> {
        let path = self.path.join(self.repositories.to_string());
        self.repositories += 1;
        make_bare(&path)?;
        Ok(path)
    }
}

/// Makes a folder that is ours alone, or sees that it is.
pub(super) fn own_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    let metadata = fs_err::symlink_metadata(path)?;
    let is_own = metadata.is_dir()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o077 == 0;
    if is_own {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the folder is not ours alone",
    ))
}

/// Makes what gix and our own reader want of a repository.
pub(super) fn make_bare(path: &Path) -> io::Result<()> {
    fs_err::create_dir_all(path.join("objects/pack"))?;
    fs_err::create_dir_all(path.join("refs"))?;
    fs_err::write(path.join("HEAD"), "ref: refs/heads/none\n")
}

/// Opens what [`make_bare`] made.
pub(super) fn open(path: &Path) -> io::Result<Repository> {
    let root = Rc::new(Beneath::open(path)?);
    Repository::open(&Folder::new(&root, ""), &Roots::new([&root]))
}
