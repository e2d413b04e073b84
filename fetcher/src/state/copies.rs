//! Copies of what was downloaded, for those who want them: content by its address, wherever its outputs have gone.
//!
//! Each lies in a folder `copies/CONTENT` of its own, which appears by a rename when it is complete: `content`, a file or
//! a tree, and `about.json`, whose modification time is that of the last use. Whoever uses a copy holds a shared lock on
//! its folder, so that it is not removed under his hands. A copy is verified as it lands like any other source; one that
//! is damaged is removed.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FlockOperation, OFlags, Timespec, Timestamps, UTIME_NOW};
use serde::{Deserialize, Serialize};
use store_index::address::ContentAddress;
use store_index::watch::Watch;

use super::{State, address, key, open_file, open_folder, read_record};
use crate::disk;
use crate::own_folder;
use crate::publish;
use crate::request::Request;
use crate::staging::{self, Place, StagedTree};
use crate::verify::Verdict;

pub(super) const FOLDER: &str = "copies";

/// The content in the folder of a copy.
pub(crate) const CONTENT: &str = "content";

const ABOUT: &str = "about.json";
const ABOUT_VERSION: u32 = 1;

/// How much the copies may be in all, where nothing is configured, in bytes: what a machine that builds needs in weeks.
const DEFAULT_BYTES: u64 = 20 << 30;

/// How long a copy stays that nobody uses, where nothing is configured.
const DEFAULT_AGE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The most copies that are looked at when some are to go.
const MAX_LISTED: usize = 1_000_000;

/// How much is kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyBounds {
    /// How much all of them may be, in bytes.
    pub bytes: u64,
    /// How long one stays that is not used.
    pub age: Duration,
}

impl Default for CopyBounds {
    fn default() -> Self {
        Self {
            bytes: DEFAULT_BYTES,
            age: DEFAULT_AGE,
        }
    }
}

/// What is known of a copy.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    version: u32,
    /// The sum of the sizes of its files.
    bytes: u64,
    /// Under what names it was asked for.
    names: Vec<String>,
}

/// A copy that is in use as long as this lives.
#[derive(Debug)]
pub(crate) struct KeptCopy {
    /// Its folder.
    pub(crate) path: PathBuf,
    /// Under what names it was asked for.
    pub(crate) names: Vec<String>,
    folder: OwnedFd,
}

impl KeptCopy {
    /// Remembers that it was of use now.
    pub(crate) fn touch(&self) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        // It is removed a little earlier then.
        let _ = rustix::fs::utimensat(&self.folder, ABOUT, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
}

/// An output that is to be kept.
#[derive(Debug)]
pub(crate) struct NewCopy<'a> {
    pub(crate) request: &'a Request,
    pub(crate) output: &'a Path,
    /// Under what names it was asked for.
    pub(crate) names: &'a [String],
    /// The sum of the sizes of its files, in bytes.
    pub(crate) bytes: u64,
    /// What stays free on the disk, if that was configured.
    pub(crate) reserve: Option<u64>,
}

impl State {
    /// Returns true if copies may be there.
    pub(crate) fn has_copies(&self) -> bool {
        self.folder(FOLDER).is_some()
    }

    /// Returns the copy of a content, and holds it.
    pub(crate) fn copy_of(&self, address: &ContentAddress) -> Option<KeptCopy> {
        let key = key(address);
        let folder = open_folder(&*self.folder(FOLDER)?, &key).ok()?;
        // One that is being removed is none.
        rustix::fs::flock(&folder, FlockOperation::NonBlockingLockShared).ok()?;
        let about = read_about(&folder)?;
        Some(KeptCopy {
            path: self.path.as_ref()?.join(FOLDER).join(key),
            names: about.names,
            folder,
        })
    }

    /// Keeps a copy of an output, verified as it is copied, and removes what is too old or too much.
    pub(crate) fn keep_copy(
        &self,
        new: &NewCopy<'_>,
        bounds: &CopyBounds,
        watch: Watch<'_>,
    ) -> io::Result<()> {
        let address = &new.request.address;
        if fs_err::symlink_metadata(new.output)?.is_symlink() {
            // It costs nothing to get again.
            return Ok(());
        }
        if let Some(copy) = self.copy_of(address) {
            copy.touch();
            return Ok(());
        }
        let (Some(folder), Some(path)) = (self.make_folder(FOLDER), &self.path) else {
            return Ok(());
        };
        // The rest of one that was being removed when its remover was killed.
        remove(&folder, &key(address))?;
        let place = Place {
            given: false,
            directory: Arc::clone(&folder),
            name: key(address).into(),
            path: path.join(FOLDER).join(key(address)),
        };
        staging::sweep(&place);
        let staged = StagedTree::beside(&place)?;
        let room = path.join(FOLDER).join(staged.hidden.name());
        disk::leave_reserve(
            &fs_err::File::open(&room)?.into_file(),
            new.bytes,
            new.reserve,
        )?;
        let content = room.join(CONTENT);
        let copied = own_folder::copy_standing(new.request, new.output, &content, watch)?;
        let Verdict::Right(verified) = copied else {
            return Err(io::Error::other("it has changed meanwhile"));
        };
        let about = About {
            version: ABOUT_VERSION,
            bytes: verified.bytes(),
            names: new.names.to_vec(),
        };
        let directory = staged.directory()?;
        open_file(&directory, ABOUT, OFlags::CREATE | OFlags::EXCL)?
            .write_all(&serde_json::to_vec(&about)?)?;
        // If another process was faster, ours goes.
        publish::tree(staged, verified, &place, false)?;
        trim(&folder, bounds);
        Ok(())
    }

    /// Removes a copy that turned out to be damaged. Others may be reading it: what they read is hashed, too.
    pub(crate) fn remove_copy(&self, address: &ContentAddress) -> io::Result<()> {
        match self.folder(FOLDER) {
            Some(folder) => remove(&folder, &key(address)),
            None => Ok(()),
        }
    }
}

fn read_about(folder: &OwnedFd) -> Option<About> {
    let file = open_file(folder, ABOUT, OFlags::empty()).ok()?;
    let about: About = serde_json::from_str(&read_record(&file).ok()?).ok()?;
    (about.version == ABOUT_VERSION).then_some(about)
}

/// A copy in a list.
#[derive(Debug)]
pub(super) struct Listed {
    key: String,
    pub(super) address: ContentAddress,
    pub(super) bytes: u64,
    unused: Duration,
}

/// Lists the copies, the last used first.
pub(super) fn list(folder: &OwnedFd) -> Vec<Listed> {
    let now = SystemTime::now();
    let listed = |key: &str| {
        let address = address(key)?;
        let copy = open_folder(folder, key).ok()?;
        // What has no record is as good as unused since ever.
        let bytes = read_about(&copy).map_or(0, |about| about.bytes);
        let used = rustix::fs::statat(&copy, ABOUT, AtFlags::SYMLINK_NOFOLLOW);
        let used = used.map_or(0, |stat| u64::try_from(stat.st_mtime).unwrap_or_default());
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(used);
        Some(Listed {
            key: key.to_owned(),
            address,
            bytes,
            unused: now.duration_since(used).unwrap_or_default(),
        })
    };
    let Ok(names) = Dir::read_from(folder) else {
        return Vec::new();
    };
    let mut all: Vec<_> = names
        .take(MAX_LISTED)
        .flatten()
        .filter_map(|entry| listed(entry.file_name().to_str().ok()?))
        .collect();
    all.sort_by_key(|copy| copy.unused);
    all
}

/// Removes what was not used for too long, and the longest unused of what is too much; not what somebody uses.
pub(super) fn trim(folder: &OwnedFd, bounds: &CopyBounds) {
    let mut kept_bytes: u64 = 0;
    for copy in list(folder) {
        let with_it = kept_bytes.saturating_add(copy.bytes);
        let is_surplus = copy.unused > bounds.age || with_it > bounds.bytes;
        if !(is_surplus && remove_unused(folder, &copy.key).is_ok()) {
            kept_bytes = with_it;
        }
    }
}

fn remove_unused(folder: &OwnedFd, key: &str) -> io::Result<()> {
    let copy = open_folder(folder, key)?;
    rustix::fs::flock(&copy, FlockOperation::NonBlockingLockExclusive)?;
    remove(folder, key)
}

/// Removes the record first, so that what is half removed counts for nothing.
fn remove(folder: &OwnedFd, key: &str) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    match open_folder(folder, key) {
        Ok(copy) => {
            let _ = rustix::fs::unlinkat(&copy, ABOUT, AtFlags::empty());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    staging::remove(folder.as_fd(), key.as_ref(), 0)
}
