//! What is kept between runs, for this user alone: partial downloads, locks, deliveries, copies, failures.
//!
//! All of it lies in one folder, `$XDG_CACHE_HOME/fetch` ([docs/network.md](../../docs/network.md) tells what is in
//! it). It must belong to the effective user and be closed to everybody else, since what is in it is written to and
//! becomes outputs; otherwise it is left alone, with a warning, and everything works as without it: nothing is resumed
//! or remembered. It is made at the first download, never for a local hit. Builtin modes keep none: a daemon's build
//! users have no home, and share nothing.
//!
//! Nothing here is believed. Partial downloads are hashed again, deliveries are verified as they are copied, and a
//! record that cannot be read counts as none.

mod copies;
mod failures;
mod ledger;
mod lock;
mod parts;
mod spool;
mod usage;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use store_index::address::{ContentAddress, Method};
use store_index::hash_text;
use store_index::path_text::printable;

pub use self::copies::CopyBounds;
pub(crate) use self::copies::{CONTENT as COPY_CONTENT, KeptCopy, NewCopy};
pub(crate) use self::failures::{Failures, Memory, Outcome};
pub(crate) use self::lock::{Claim, Claimed, Holder};
pub(crate) use self::parts::Parts;
pub(crate) use self::spool::{Partial, SPOOL_ABOVE_BYTES};
pub(crate) use self::usage::GIT_FOLDER;
pub use self::usage::{Checked, Collected, Usage};

/// Only the owner.
const PRIVATE_FOLDER: Mode = Mode::from_raw_mode(0o700);
const PRIVATE_FILE: Mode = Mode::from_raw_mode(0o600);

/// The longest record that is read, in bytes; ours are far shorter.
const MAX_RECORD_BYTES: u64 = 256 * 1024;

/// What most records have, in bytes: one read is enough for them.
const USUAL_RECORD_BYTES: usize = 8 * 1024;

/// How long a record's lock is waited for.
const MAX_RECORD_WAIT: Duration = Duration::from_secs(2);

/// How often it is tried meanwhile.
const RECORD_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The folder of what is kept, opened when it is first needed.
#[derive(Debug, Default)]
pub struct State {
    path: Option<PathBuf>,
    /// The folder, by an empty name, and those in it, held open once they were found: of many fetches each looks at them.
    opened: RefCell<HashMap<&'static str, Arc<OwnedFd>>>,
    /// A lock file that is not needed just now.
    spare: Arc<lock::Spare>,
    /// The folder could not be made.
    unusable: Cell<bool>,
    trouble: RefCell<Option<String>>,
}

/// The folder itself among those that are held open.
const WHOLE: &str = "";

/// The folder of the locks.
const LOCKS: &str = "locks";

/// The folder of downloads that have begun.
const SPOOL: &str = "spool";

impl State {
    /// Takes the folder's path; `None` keeps nothing. Touches nothing.
    pub fn at(path: Option<PathBuf>) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }

    /// Returns what makes one for each of many threads that download: the folders are made now, and open once for all.
    pub(crate) fn for_threads(&self) -> impl Fn() -> Self + Send + Sync + use<> {
        for name in [LOCKS, SPOOL, ledger::FOLDER] {
            let _folder = self.make_folder(name);
        }
        let (path, opened) = (self.path.clone(), self.opened.borrow().clone());
        move || Self {
            opened: RefCell::new(opened.clone()),
            ..Self::at(path.clone())
        }
    }

    /// Returns where the folder is.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns why the folder is not used, once.
    pub fn take_warning(&self) -> Option<String> {
        self.trouble.borrow_mut().take()
    }

    /// Returns why the folder is not used, if it is there and is not.
    pub fn why_unusable(&self) -> Option<String> {
        let path = self.path.as_deref()?;
        match open(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Some(format!("{} is not used: {error}", printable(path)))
            }
            _ => None,
        }
    }

    /// Remembers why something cannot be kept.
    fn warn(&self, error: &io::Error) {
        let path = self.path.as_deref().map(printable).unwrap_or_default();
        self.trouble.replace(Some(format!(
            "nothing can be kept in {path}, so that a download that breaks off starts from its beginning: {error}"
        )));
    }

    /// Opens the folder, and makes it if there is none.
    fn make(&self) -> Option<Arc<OwnedFd>> {
        if let Some(folder) = self.there() {
            return Some(folder);
        }
        let path = self.path.as_ref().filter(|_| !self.unusable.get())?;
        match make(path).and_then(|()| open(path)) {
            Ok(folder) => Some(self.hold(WHOLE, folder)),
            Err(error) => {
                self.unusable.set(true);
                self.warn(&error);
                None
            }
        }
    }

    /// Opens the folder if it is there. One that cannot be used is told of when something is to be kept.
    fn there(&self) -> Option<Arc<OwnedFd>> {
        self.held(WHOLE)
            .or_else(|| Some(self.hold(WHOLE, open(self.path.as_deref()?).ok()?)))
    }

    /// Opens a folder in it if it is there.
    fn folder(&self, name: &'static str) -> Option<Arc<OwnedFd>> {
        self.held(name)
            .or_else(|| Some(self.hold(name, open_folder(&*self.there()?, name).ok()?)))
    }

    /// Opens a folder in it, and makes both if need be. Trouble is remembered for a warning.
    fn make_folder(&self, name: &'static str) -> Option<Arc<OwnedFd>> {
        if let Some(folder) = self.held(name) {
            return Some(folder);
        }
        let folder = self.make()?;
        let made = match rustix::fs::mkdirat(&*folder, name, PRIVATE_FOLDER) {
            Ok(()) | Err(Errno::EXIST) => open_folder(&folder, name),
            Err(error) => Err(error.into()),
        };
        match made {
            Ok(made) => Some(self.hold(name, made)),
            Err(error) => {
                self.warn(&error);
                None
            }
        }
    }

    fn held(&self, name: &'static str) -> Option<Arc<OwnedFd>> {
        self.opened.borrow().get(name).cloned()
    }

    fn hold(&self, name: &'static str, folder: OwnedFd) -> Arc<OwnedFd> {
        let folder = Arc::new(folder);
        self.opened.borrow_mut().insert(name, Arc::clone(&folder));
        folder
    }
}

/// Makes the folder, and the one it lies in; nobody's home is made up. Only in a folder of ours: root with another
/// user's `HOME` would else take the place of that user's own folder, and in /tmp everybody could have been first.
fn make(path: &Path) -> io::Result<()> {
    if open(path).is_ok() {
        return Ok(());
    }
    let mkdir = |path: &Path| {
        let Some(parent) = path.parent() else {
            return Err(Errno::INVAL);
        };
        if rustix::fs::stat(parent)?.st_uid != rustix::process::geteuid().as_raw() {
            return Err(Errno::PERM);
        }
        match rustix::fs::mkdir(path, PRIVATE_FOLDER) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    };
    match mkdir(path) {
        Err(Errno::NOENT) => {
            path.parent().map_or(Ok(()), mkdir)?;
            Ok(mkdir(path)?)
        }
        Err(Errno::PERM) => Err(io::Error::other(
            "the folder it would lie in belongs to somebody else",
        )),
        made => Ok(made?),
    }
}

/// Opens the folder if it is ours alone.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&folder)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to somebody else"));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
        return Err(io::Error::other(
            "it is open to others; `chmod 700` closes it",
        ));
    }
    Ok(folder)
}

fn open_folder(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Opens a file in one of the folders for reading and writing, never through a symbolic link.
fn open_file(folder: &OwnedFd, name: &str, more: OFlags) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    rustix::fs::openat(folder.as_fd(), name, flags, PRIVATE_FILE).map(File::from)
}

/// Reads a record; one that is too long cannot be ours. What is no text is passed on as none, so that it is written
/// over.
fn read_record(file: &File) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(USUAL_RECORD_BYTES);
    file.take(MAX_RECORD_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Locks a record that is rewritten in place. Its holders need it for a moment; one that was stopped must not stop us.
fn lock_record(file: &File, operation: FlockOperation) -> io::Result<()> {
    let started = Instant::now();
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::WOULDBLOCK) if started.elapsed() < MAX_RECORD_WAIT => {
                std::thread::sleep(RECORD_POLL_INTERVAL);
            }
            locked => return Ok(locked?),
        }
    }
}

/// Reads a record that others may be rewriting: half of one would count as none.
fn read_record_whole(file: &File) -> io::Result<String> {
    // Unlocked it is right nearly always, and nothing is lost if it is not.
    let locked = lock_record(file, FlockOperation::NonBlockingLockShared);
    let text = read_record(file);
    if locked.is_ok() {
        rustix::fs::flock(file, FlockOperation::Unlock)?;
    }
    text
}

/// Names the files of one content: the address without a character that would need quoting.
pub(crate) fn key(address: &ContentAddress) -> String {
    format!(
        "{}-{}-{}",
        address.algorithm(),
        address.method().name(),
        address.digest().to_hex()
    )
}

/// Reads the address from what [`key`] makes of it.
fn address(key: &str) -> Option<ContentAddress> {
    let (algorithm, rest) = key.split_once('-')?;
    let (method, hex) = rest.split_once('-')?;
    let hash = hash_text::parse(&format!("{algorithm}:{hex}"), None).ok()?;
    hash.into_address(Method::from_name(method)).ok()
}
