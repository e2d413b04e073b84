//! Where a repository lies while its tree is checked out: with those that are kept, or in a hidden folder that goes
//! when it is dropped.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gix::ObjectId;
use rustix::fs::Mode;
use store_index::beneath::Beneath;
use store_index::watch::Watch;

use super::kept::{self, Kept};
use super::line::Line;
use super::receive::{self, INCOMING};
use super::session::Destination;
use crate::git::{Folder, Here, Repository, Roots};
use crate::source_url::SourceUrl;
use crate::staging::{self, Place, StagedTree};

/// A file that says that blobs may be missing in a repository.
pub(super) const PARTIAL: &str = "partial";

/// A file of git's, with the commits whose parents are not there.
const SHALLOW: &str = "shallow";

/// Makes repositories for one request.
#[derive(Debug)]
pub(crate) struct Rooms<'a> {
    cache: Option<&'a Path>,
    output: &'a Place,
    here: Option<&'a Rc<dyn Here>>,
    hidden: Option<Hidden>,
    /// One is open, and locked.
    is_holding: bool,
}

/// A repository to fetch into.
#[derive(Debug)]
pub(super) enum Room {
    /// One that stays.
    Kept(Kept),
    /// One that does not.
    Passing(PathBuf),
}

impl<'a> Rooms<'a> {
    /// Repositories are kept in `cache`, if it is there and ours; else they lie beside an output, and never beside one
    /// that a daemon gave us.
    pub(crate) const fn new(
        cache: Option<&'a Path>,
        output: &'a Place,
        here: Option<&'a Rc<dyn Here>>,
    ) -> Self {
        Self {
            cache,
            output,
            here,
            hidden: None,
            is_holding: false,
        }
    }

    /// Returns a repository for what comes from a URL. Only the first is waited for: whoever waits holds nothing that
    /// another may wait for.
    pub(super) fn of(&mut self, url: &SourceUrl, watch: Watch<'_>) -> io::Result<Room> {
        if let Some(cache) = self.cache {
            if !self.is_holding {
                // What failed left something too.
                kept::trim(cache);
            }
            match Kept::open(cache, url, (!self.is_holding).then_some(watch)) {
                Ok(kept) => {
                    self.is_holding = true;
                    return Ok(Room::Kept(kept));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                // Nothing is kept then.
                Err(_) => {}
            }
        }
        self.passing()
    }

    /// Returns a repository that does not stay.
    pub(super) fn passing(&mut self) -> io::Result<Room> {
        let hidden = match &mut self.hidden {
            Some(hidden) => hidden,
            none => none.insert(Hidden::new(self.output)?),
        };
        Ok(Room::Passing(hidden.repository()?))
    }

    /// Returns true if it is for the build of a daemon.
    pub(super) const fn is_build(&self) -> bool {
        self.output.given
    }

    /// Gives out what goes with this, for repositories that are still needed.
    pub(crate) const fn take_hidden(&mut self) -> Option<Hidden> {
        self.hidden.take()
    }

    /// Nothing that was opened is open any more, and nothing else of this machine is used from now on.
    pub(super) const fn begin_anew(&mut self) {
        self.is_holding = false;
        self.here = None;
    }

    /// Nothing is kept from now on.
    pub(super) const fn keep_nothing(&mut self) {
        self.cache = None;
    }

    /// Returns what a server need not send.
    pub(super) const fn here(&self) -> Option<&'a Rc<dyn Here>> {
        self.here
    }

    /// Returns where repositories are kept.
    pub(super) const fn cache(&self) -> Option<&'a Path> {
        self.cache
    }
}

impl Room {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Kept(kept) => &kept.path,
            Self::Passing(path) => path,
        }
    }

    /// Returns true if it stays.
    pub(super) const fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }

    /// Returns the commits that are there already.
    pub(super) fn tips(&self) -> &[ObjectId] {
        match self {
            Self::Kept(kept) => &kept.tips,
            Self::Passing(_) => &[],
        }
    }

    /// Returns true if blobs may be missing in it.
    pub(super) fn is_partial(&self) -> bool {
        is_partial(self.path())
    }

    /// Remembers that blobs may be missing in it.
    pub(super) fn set_partial(&self) -> io::Result<()> {
        fs_err::write(self.path().join(PARTIAL), "")
    }

    /// Remembers that nothing is missing in it after all.
    pub(super) fn set_whole(&self) -> io::Result<()> {
        fs_err::remove_file(self.path().join(PARTIAL))
    }

    /// Remembers commits whose parents are not there, by their ids or by those of tags. Servers would take them to be,
    /// and answer nothing to whoever says so of an object that is no commit.
    pub(super) fn set_shallow(&self, ids: &[ObjectId]) -> io::Result<()> {
        let path = self.path().join(SHALLOW);
        let known = match fs_err::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            known => known?,
        };
        let repository = open(self.path())?;
        let commits = ids
            .iter()
            .filter_map(|id| repository.commit_of(id).transpose());
        let new = commits.map(|id| id.map(|id| id.to_string()));
        let new: Vec<_> = new.collect::<io::Result<_>>()?;
        let all: BTreeSet<_> = known.lines().map(str::to_owned).chain(new).collect();
        let text: String = all.iter().map(|id| format!("{id}\n")).collect();
        fs_err::write(&path, text)
    }

    /// Saves the objects of a pack that was cut off. Some of what belongs to its commits is missing.
    pub(super) fn salvage(&self, line: &Line<'_>) -> io::Result<()> {
        if !self.path().join(INCOMING).exists() {
            return Ok(());
        }
        let repository = open(self.path())?;
        let into = Destination {
            folder: self.path(),
            repository: &repository,
            haves: &[],
            is_kept: true,
        };
        if receive::salvage(into, line) {
            self.set_partial()?;
        }
        Ok(())
    }

    /// Remembers which commits came, and opens the repository. `None` if another process threw it away meanwhile.
    pub(super) fn open_with(
        self,
        tips: &[ObjectId],
        watch: Watch<'_>,
    ) -> io::Result<Option<Repository>> {
        let mut repository = open(self.path())?;
        if let Self::Kept(kept) = self {
            match kept.add(tips, watch)? {
                Some(lock) => repository.hold(lock),
                None => return Ok(None),
            }
        }
        Ok(Some(repository))
    }
}

/// A hidden folder for repositories; goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Hidden {
    path: PathBuf,
    repositories: usize,
    _staged: StagedTree,
}

impl Hidden {
    fn new(output: &Place) -> io::Result<Self> {
        let (place, folder) = if output.given {
            let folder = build_folder();
            let place = Place::open(&folder.join("repositories"))?;
            staging::sweep(&place);
            (place, folder)
        } else {
            let folder = output.path.parent().unwrap_or(Path::new("."));
            (output.clone(), folder.to_owned())
        };
        let staged = StagedTree::beside(&place)?;
        let path = folder.join(staged.hidden.name());
        rustix::fs::chmod(&path, Mode::RWXU)?;
        Ok(Self {
            path,
            repositories: 0,
            _staged: staged,
        })
    }

    fn repository(&mut self) -> io::Result<PathBuf> {
        let path = self.path.join(self.repositories.to_string());
        self.repositories += 1;
        make_bare(&path)?;
        Ok(path)
    }
}

/// The folder for a build's own files. guix-daemon names none, and runs a build in one that goes with it, however it
/// ends.
fn build_folder() -> PathBuf {
    let current = std::env::current_dir().ok();
    let own = current.filter(|folder| {
        std::env::var_os("TMPDIR").is_none() && is_own(folder).is_ok_and(|is_own| is_own)
    });
    own.unwrap_or_else(std::env::temp_dir)
}

/// Returns true for a folder that is ours alone.
fn is_own(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs_err::symlink_metadata(path)?;
    Ok(metadata.is_dir()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o077 == 0)
}

/// Makes a folder that is ours alone, or sees that it is. The one it lies in is there, or was refused to us.
pub(super) fn own_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
    if is_own(path)? {
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

/// Returns true if blobs may be missing in a repository.
pub(super) fn is_partial(path: &Path) -> bool {
    path.join(PARTIAL).exists()
}

/// Opens what [`make_bare`] made.
pub(super) fn open(path: &Path) -> io::Result<Repository> {
    let root = Rc::new(Beneath::open(path)?);
    Repository::open(&Folder::new(&root, ""), &Roots::new([&root]))
}
