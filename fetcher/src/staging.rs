//! A private room beside the output: content lands here, and only verified content leaves it.
//!
//! A file has no name while it lands (`O_TMPFILE`), so that a killed run leaves nothing. Where the file system cannot
//! do that, and for trees, the room is called `.fetch-<16 hex digits>` and locked; the next run with such a room in
//! the same folder sweeps those whose holder died.
//!
//! An output that a daemon gave us is its own room: in the daemon's folder nothing else is ours to touch, and what a
//! failed run leaves there counts for nothing.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// What hidden names begin with.
const HIDDEN_PREFIX: &str = ".fetch-";

/// How many random digits follow, 64 bits.
const HIDDEN_DIGITS: usize = 16;

/// The most names of an output's folder that are looked at for leftovers: a few milliseconds.
const MAX_SWEPT_ENTRIES: usize = 20_000;

/// How often a random name may be taken before something is wrong.
const MAX_NAME_TRIES: usize = 16;

/// Files are made executable, so that the umask shows in every bit; publication takes the bits away again.
const STAGED_MODE: Mode = Mode::from_raw_mode(0o777);

/// The deepest leftover that is removed, in directories; staged trees are no deeper.
const MAX_SWEEP_DEPTH: usize = store_index::tree::MAX_DEPTH + 1;

/// An output's folder, held open, and its name there.
#[derive(Clone, Debug)]
pub struct Place {
    /// Whether a daemon gave us this name, and nothing else in the folder.
    pub given: bool,
    /// The folder.
    pub directory: Arc<OwnedFd>,
    /// The name in it.
    pub name: OsString,
    /// The whole path, for messages.
    pub path: PathBuf,
}

impl Place {
    /// Opens the folder of an output.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no name of a file",
            ));
        };
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let directory = open_directory(rustix::fs::CWD, parent.as_os_str(), OFlags::empty())?;
        Ok(Self {
            given: false,
            directory: Arc::new(directory),
            name: name.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Opens the folder of an output that a daemon gave us.
    pub fn open_given(path: &Path) -> io::Result<Self> {
        Ok(Self {
            given: true,
            ..Self::open(path)?
        })
    }
}

fn open_directory(at: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(at, name, flags, Mode::empty()) {
        // A folder that may be written but not listed serves too.
        Err(Errno::ACCESS) => Ok(rustix::fs::openat(
            at,
            name,
            flags.difference(OFlags::RDONLY) | OFlags::PATH,
            Mode::empty(),
        )?),
        answer => Ok(answer?),
    }
}

/// A name that only this run has; removed with everything below it when dropped.
#[derive(Debug)]
pub(crate) struct Hidden {
    directory: Arc<OwnedFd>,
    name: OsString,
    /// Holds the lock that tells other runs that this name is in use.
    _lock: OwnedFd,
    armed: bool,
    kind: HiddenKind,
}

/// Where a room with a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HiddenKind {
    /// Beside the output, under a random name.
    Beside,
    /// It is the output that a daemon gave us.
    Output,
    /// In the spool; it stays there when the run ends.
    Spool,
}

impl Hidden {
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Returns true if the room is the output itself.
    pub(crate) fn is_output(&self) -> bool {
        self.kind == HiddenKind::Output
    }

    /// Returns true if the room is in the spool.
    pub(crate) fn is_in_spool(&self) -> bool {
        self.kind == HiddenKind::Spool
    }

    /// Keeps what the name held: it has been renamed, or is the output.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if self.armed {
            // Nothing more can be done than to leave it to the next run's sweep.
            drop(remove(self.directory.as_fd(), &self.name, 0));
        }
    }
}

/// A file to land in.
#[derive(Debug)]
pub struct StagedFile {
    /// Open for reading and writing, empty at first.
    pub file: File,
    /// `None` for a file without a name.
    pub(crate) hidden: Option<Hidden>,
}

impl StagedFile {
    /// Makes one beside an output.
    pub fn beside(place: &Place) -> io::Result<Self> {
        if place.given {
            return Self::named(place);
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(place.directory.as_fd(), ".", flags, STAGED_MODE) {
            Ok(fd) => Ok(Self {
                file: File::from(fd),
                hidden: None,
            }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                Self::named(place)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes one in the folder for temporary files, for content that goes to standard output.
    pub fn temporary() -> io::Result<Self> {
        let place = Place::open(&std::env::temp_dir().join("fetch"))?;
        let mut staged = Self::beside(&place)?;
        staged.hidden = None;
        Ok(staged)
    }

    fn named(place: &Place) -> io::Result<Self> {
        let (fd, hidden) = hidden(place, |directory, name| {
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name, flags, STAGED_MODE)
        })?;
        Ok(Self {
            file: File::from(fd),
            hidden: Some(hidden),
        })
    }

    /// Makes a file in the spool the room.
    pub(crate) fn in_spool(file: File, folder: Arc<OwnedFd>, name: String) -> io::Result<Self> {
        let hidden = Hidden {
            directory: folder,
            name: name.into(),
            _lock: file.try_clone()?.into(),
            armed: false,
            kind: HiddenKind::Spool,
        };
        Ok(Self {
            file,
            hidden: Some(hidden),
        })
    }

    /// Returns true if it is the output that a daemon gave us.
    pub(crate) fn is_output(&self) -> bool {
        self.hidden.as_ref().is_some_and(Hidden::is_output)
    }

    /// Returns true if it is in the spool.
    pub(crate) fn is_in_spool(&self) -> bool {
        self.hidden.as_ref().is_some_and(Hidden::is_in_spool)
    }

    /// Throws away what landed, for the next candidate.
    pub fn empty(&mut self) -> io::Result<()> {
        // ext4 writes back a file that was ever truncated to nothing, even from nothing, before its close returns.
        if self.file.metadata()?.len() > 0 {
            self.file.set_len(0)?;
        }
        self.file.rewind()
    }
}

/// A directory to land in.
#[derive(Debug)]
pub struct StagedTree {
    pub(crate) hidden: Hidden,
    directory: OwnedFd,
}

impl StagedTree {
    /// Makes one beside an output.
    pub fn beside(place: &Place) -> io::Result<Self> {
        let (directory, hidden) = hidden(place, |directory, name| {
            rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o777))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name, flags, Mode::empty())
        })?;
        Ok(Self { hidden, directory })
    }

    /// Returns the directory, to be filled.
    pub fn directory(&self) -> io::Result<OwnedFd> {
        self.directory.try_clone()
    }
}

/// Makes something under a hidden name that nobody has, and locks it; or under the output's name if that was given.
pub(crate) fn hidden(
    place: &Place,
    make: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<OwnedFd, Errno>,
) -> io::Result<(OwnedFd, Hidden)> {
    if place.given {
        let fd = make(place.directory.as_fd(), &place.name)?;
        let hidden = Hidden {
            directory: Arc::clone(&place.directory),
            name: place.name.clone(),
            _lock: fd.try_clone()?,
            armed: true,
            kind: HiddenKind::Output,
        };
        return Ok((fd, hidden));
    }
    for _ in 0..MAX_NAME_TRIES {
        let name = OsString::from(format!("{HIDDEN_PREFIX}{:016x}", random()));
        let fd = match make(place.directory.as_fd(), &name) {
            Ok(fd) => fd,
            Err(Errno::EXIST) => continue,
            Err(error) => return Err(error.into()),
        };
        let lock = fd.try_clone()?;
        // A sweeper that met the name before it was locked holds the lock, and will remove it. A file system without
        // locks has no sweep either.
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            == Err(Errno::WOULDBLOCK)
        {
            continue;
        }
        if !is_still(place, &name, &lock)? {
            continue;
        }
        let hidden = Hidden {
            directory: Arc::clone(&place.directory),
            name,
            _lock: lock,
            armed: true,
            kind: HiddenKind::Beside,
        };
        return Ok((fd, hidden));
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "every random name is taken",
    ))
}

/// Returns whether a name still stands for what was opened under it.
fn is_still(place: &Place, name: &OsStr, opened: &OwnedFd) -> io::Result<bool> {
    let opened = rustix::fs::fstat(opened)?;
    let named = rustix::fs::statat(place.directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW);
    Ok(named.is_ok_and(|named| (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)))
}

/// A number that differs from run to run and call to call; nothing secret hangs on it.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// Removes the hidden rooms of runs that died. Rooms of living runs are locked; failures are no matter.
pub(crate) fn sweep(place: &Place) {
    let Ok(listing) = open_directory(place.directory.as_fd(), OsStr::new("."), OFlags::empty())
        .and_then(|directory| Ok(Dir::read_from(directory)?))
    else {
        return;
    };
    let own = rustix::process::geteuid().as_raw();
    for entry in listing.flatten().take(MAX_SWEPT_ENTRIES) {
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if !is_hidden_name(name) {
            continue;
        }
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::openat(place.directory.as_fd(), name, flags, Mode::empty()) else {
            continue;
        };
        let Ok(stat) = rustix::fs::fstat(&fd) else {
            continue;
        };
        if stat.st_uid == own
            && rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            drop(remove(place.directory.as_fd(), name, 0));
        }
    }
}

/// Returns true for the names of rooms, which the next run sweeps away.
pub(crate) fn is_hidden_name(name: &OsStr) -> bool {
    name.as_bytes()
        .strip_prefix(HIDDEN_PREFIX.as_bytes())
        .is_some_and(|digits| {
            digits.len() == HIDDEN_DIGITS
                && digits
                    .iter()
                    .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        })
}

/// Removes a file or symbolic link at the output, if there is one.
pub(crate) fn unlink_file(place: &Place) -> io::Result<()> {
    match rustix::fs::unlinkat(&*place.directory, &place.name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes a file or a whole directory, following nothing.
pub(crate) fn remove(at: BorrowedFd<'_>, name: &OsStr, depth: usize) -> io::Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) if depth < MAX_SWEEP_DEPTH => {}
        Err(error) => return Err(error.into()),
    }
    let directory = open_directory(at, name, OFlags::NOFOLLOW)?;
    // A tree of a hostile source may have had its own modes; what is ours can be made removable.
    let _ = rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o700));
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let child = OsStr::from_bytes(entry.file_name().to_bytes());
        if entry.file_type() == FileType::Directory {
            remove(directory.as_fd(), child, depth + 1)?;
        } else {
            rustix::fs::unlinkat(&directory, child, AtFlags::empty())?;
        }
    }
    Ok(rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dead_rooms_of_the_exact_form_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs_err::create_dir_all(path(".fetch-0123456789abcdef/sub/deep")).unwrap();
        fs_err::write(path(".fetch-0123456789abcdef/sub/file"), "x").unwrap();
        fs_err::write(path(".fetch-fedcba9876543210"), "x").unwrap();
        fs_err::write(path(".fetch-notes"), "mine").unwrap();
        fs_err::write(path(".fetch-0123456789ABCDEF"), "mine").unwrap();
        let place = Place::open(&path("output")).unwrap();
        let alive = StagedTree::beside(&place).unwrap();
        sweep(&place);
        let mut left: Vec<_> = fs_err::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        let mut expected = vec![
            OsString::from(".fetch-0123456789ABCDEF"),
            OsString::from(".fetch-notes"),
            alive.hidden.name.clone(),
        ];
        expected.sort();
        assert_eq!(left, expected);
        drop(alive);
        assert_eq!(
            fs_err::read_dir(folder.path()).unwrap().count(),
            2,
            "dropping removes the living one"
        );
    }
}
