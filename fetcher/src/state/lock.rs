//! One download of a content at a time, among all processes of the user.
//!
//! The lock is `flock` on an open, writable descriptor: the kernel drops it with its holder, however that ends. What
//! stands in the file is for those who wait, and proves nothing. A lock file stays when its lock is given back; old
//! ones are removed by whoever holds them, so whoever gets a lock looks whether the file is still the one of that name.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FlockOperation, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use store_index::address::ContentAddress;

use super::{State, key, open_file, read_record};
use crate::verify::FileCheck;

/// How often a lock file may vanish while it is opened, before something is wrong.
const MAX_VANISHED: usize = 100;

/// The exclusive right to download a content, and to what lies in the spool of it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(super) key: String,
    pub(super) spool: Arc<OwnedFd>,
    pub(super) locks: Arc<OwnedFd>,
    lock: Locked,
    /// Set when nobody had the content.
    failed: AtomicBool,
    /// Has seen what lay in the spool when somebody was last asked for the rest.
    hashed: Mutex<Option<Box<FileCheck>>>,
}

/// An attempt to get a claim.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// It is ours.
    Ours(Claim),
    /// Somebody else has it.
    Theirs(Holder),
    /// Nothing is kept, or can be: there is nothing to claim.
    Unkept,
}

/// Who holds a lock, as far as they say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The machine: the folder may lie on a network file system.
    host: String,
    pid: u32,
    /// Seconds since 1970.
    since: u64,
    /// It is done, and nobody that it asked had the content.
    #[serde(default)]
    failed: bool,
}

impl Holder {
    fn this_process() -> Self {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            host,
            pid: std::process::id(),
            since: since.as_secs(),
            failed: false,
        }
    }

    /// Says who it is, since when.
    pub(crate) fn describe(&self) -> String {
        if self.pid == 0 {
            return "another process".to_owned();
        }
        let since = UNIX_EPOCH + Duration::from_secs(self.since);
        let seconds = since.elapsed().unwrap_or_default().as_secs();
        let host = self.host.escape_debug();
        format!("process {} on {host} (for {seconds} s)", self.pid)
    }
}

impl State {
    /// Tries to get the claim on a content, without waiting.
    pub(crate) fn claim(&self, address: &ContentAddress) -> Claimed {
        let (Some(locks), Some(spool)) = (self.make_folder("locks"), self.make_folder("spool"))
        else {
            return Claimed::Unkept;
        };
        let key = key(address);
        match lock(&locks, &key) {
            Ok(Ok(lock)) => Claimed::Ours(Claim {
                key,
                spool,
                locks,
                lock,
                failed: AtomicBool::default(),
                hashed: Mutex::default(),
            }),
            Ok(Err(holder)) => Claimed::Theirs(holder),
            Err(error) => {
                self.warn(&error);
                Claimed::Unkept
            }
        }
    }
}

/// The ending of a file beside a lock, which those who wait for what is downloaded share a lock on.
pub(super) const WANTED: &str = ".wanted";

impl State {
    /// Tells whoever downloads a content that somebody waits for it, as long as the file is open.
    pub(crate) fn want(&self, address: &ContentAddress) -> Option<File> {
        let locks = self.make_folder("locks")?;
        let name = format!("{}{WANTED}", key(address));
        // Without it, the content is downloaded once more.
        let file = open_file(&locks, &name, OFlags::CREATE).ok()?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
        Some(file)
    }
}

impl Claim {
    /// Returns true if somebody waits for the content. If nobody does, the file that would say so goes.
    pub(crate) fn is_wanted(&self) -> bool {
        let name = format!("{}{WANTED}", self.key);
        let Ok(file) = open_file(&self.locks, &name, OFlags::empty()) else {
            return false;
        };
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        if locked.is_ok() {
            let _ = rustix::fs::unlinkat(&*self.locks, name, AtFlags::empty());
        }
        locked == Err(Errno::WOULDBLOCK)
    }

    /// Returns true if whoever had it before failed.
    pub(crate) const fn is_after_failure(&self) -> bool {
        self.lock.after_failure
    }

    /// Tells the next that nobody had the content.
    pub(crate) fn note_failure(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Returns what has seen the beginning of what lies in the spool.
    pub(crate) fn hashed(&self) -> Option<FileCheck> {
        self.hashed_then().as_deref().cloned()
    }

    /// Keeps what has seen the beginning of what lies in the spool, for the next who is asked for the rest.
    pub(crate) fn set_hashed(&self, check: Option<FileCheck>) {
        *self.hashed_then() = check.map(Box::new);
    }

    fn hashed_then(&self) -> MutexGuard<'_, Option<Box<FileCheck>>> {
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock file that is locked.
#[derive(Debug)]
pub(super) struct Locked {
    file: File,
    /// Whoever had it before left word that it failed.
    after_failure: bool,
}

/// Locks a lock file, or tells who has done so.
pub(super) fn lock(locks: &OwnedFd, key: &str) -> io::Result<Result<Locked, Holder>> {
    let name = format!("{key}.lock");
    for _ in 0..MAX_VANISHED {
        let lock = open_file(locks, &name, OFlags::CREATE)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let text = read_record(&lock).unwrap_or_default();
                return Ok(Err(serde_json::from_str(&text).unwrap_or_default()));
            }
            Err(error) => return Err(error.into()),
        }
        let opened = rustix::fs::fstat(&lock)?;
        let named = rustix::fs::statat(locks, &name, AtFlags::SYMLINK_NOFOLLOW);
        if !named.is_ok_and(|named| (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino))
        {
            continue;
        }
        let before = read_record(&lock).unwrap_or_default();
        let before: Holder = serde_json::from_str(&before).unwrap_or_default();
        tell(&lock, &Holder::this_process());
        return Ok(Ok(Locked {
            file: lock,
            after_failure: before.failed,
        }));
    }
    Err(io::Error::other(format!("the lock {name} keeps vanishing")))
}

/// Writes for those who wait. A disk that is full hinders nobody from locking.
fn tell(mut lock: &File, holder: &Holder) {
    if let Ok(text) = serde_json::to_string(holder) {
        drop(
            lock.set_len(0)
                .and_then(|()| lock.rewind())
                .and_then(|()| lock.write_all(text.as_bytes())),
        );
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Said aloud, since a descriptor that a child process inherited would go on holding it.
        let lock = &self.lock.file;
        if self.failed.load(Ordering::Relaxed) {
            let failed = true;
            let this_process = Holder::this_process();
            tell(
                lock,
                &Holder {
                    failed,
                    ..this_process
                },
            );
        } else {
            drop(lock.set_len(0));
        }
        let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
    }
}
