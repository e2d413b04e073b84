//! One download of a content at a time, among all processes of the user.
//!
//! The lock is `flock` on an open, writable descriptor: the kernel drops it with its holder, however that ends. What
//! stands in the file is for those who wait, and proves nothing.
//!
//! A file whose content has come is renamed, still locked, and serves for the next: many small downloads would else make
//! a file each for this alone. One that tells of a failure stays, as does that of a process that was killed; old ones
//! are removed by whoever holds them. So whoever gets a lock looks whether the file is still the one of that name.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use store_index::address::ContentAddress;

use super::{LOCKS, SPOOL, State, key, open_file, read_record};
use crate::staging;
use crate::verify::FileCheck;

/// What the names of lock files end with.
pub(super) const LOCK: &str = ".lock";

/// How often a lock file may vanish while it is opened, before something is wrong.
const MAX_VANISHED: usize = 100;

/// The exclusive right to download a content, and to what lies in the spool of it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(super) key: String,
    pub(super) spool: Arc<OwnedFd>,
    pub(super) locks: Arc<OwnedFd>,
    /// Taken by `drop` only.
    lock: Option<Locked>,
    spare: Arc<Spare>,
    /// Nothing of the content is in the spool, as far as was looked: others leave it alone as long as this is held.
    pub(super) is_bare: AtomicBool,
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
        static HOST: LazyLock<String> = LazyLock::new(|| {
            let name = rustix::system::uname();
            name.nodename().to_string_lossy().into_owned()
        });
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            host: HOST.clone(),
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
        let (Some(locks), Some(spool)) = (self.make_folder(LOCKS), self.make_folder(SPOOL)) else {
            return Claimed::Unkept;
        };
        let key = key(address);
        let spare = Arc::clone(&self.spare);
        let locked = match spare.lock(&locks, &key) {
            Some(locked) => Ok(Ok(locked)),
            None => lock(&locks, &key),
        };
        match locked {
            Ok(Ok(lock)) => Claimed::Ours(Claim {
                key,
                spool,
                locks,
                lock: Some(lock),
                spare,
                is_bare: AtomicBool::default(),
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
        let locks = self.make_folder(LOCKS)?;
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
    pub(crate) fn is_after_failure(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| lock.after_failure)
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

/// A lock file that is locked and of no content, under a name of its own. A killed process leaves it to be removed as any
/// old lock file.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Option<Unused>>);

#[derive(Debug)]
struct Unused {
    file: File,
    name: String,
    locks: Arc<OwnedFd>,
}

impl Spare {
    fn unused(&self) -> MutexGuard<'_, Option<Unused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it the lock file of a content, if there is none.
    fn lock(&self, locks: &OwnedFd, key: &str) -> Option<Locked> {
        let mut unused = self.unused();
        let name = &unused.as_ref()?.name;
        let flags = RenameFlags::NOREPLACE;
        // If it is gone, or renamed, or cannot be, another one is made.
        rustix::fs::renameat_with(locks, name, locks, lock_name(key), flags).ok()?;
        let file = unused.take()?.file;
        tell(&file, &Holder::this_process());
        Some(Locked {
            file,
            after_failure: false,
        })
    }

    /// Takes back the lock file of a content; gives it back if it cannot be kept.
    fn keep(&self, locks: &Arc<OwnedFd>, key: &str, file: File) -> Result<(), File> {
        let mut unused = self.unused();
        let name = lock_name(&format!("spare-{:016x}", staging::random()));
        let flags = RenameFlags::NOREPLACE;
        if unused.is_some()
            || rustix::fs::renameat_with(locks, lock_name(key), locks, &name, flags).is_err()
        {
            return Err(file);
        }
        let locks = Arc::clone(locks);
        *unused = Some(Unused { file, name, locks });
        Ok(())
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(Unused { name, locks, .. }) = self.unused().take() {
            let _ = rustix::fs::unlinkat(&*locks, name, AtFlags::empty());
        }
    }
}

fn lock_name(key: &str) -> String {
    format!("{key}{LOCK}")
}

/// Locks a lock file, or tells who has done so.
pub(super) fn lock(locks: &OwnedFd, key: &str) -> io::Result<Result<Locked, Holder>> {
    let name = lock_name(key);
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
        let mut before = Holder::default();
        if opened.st_size > 0 {
            let text = read_record(&lock).unwrap_or_default();
            before = serde_json::from_str(&text).unwrap_or_default();
            drop(lock.set_len(0));
        }
        tell(&lock, &Holder::this_process());
        return Ok(Ok(Locked {
            file: lock,
            after_failure: before.failed,
        }));
    }
    Err(io::Error::other(format!("the lock {name} keeps vanishing")))
}

/// Writes for those who wait, into a file that is empty. A disk that is full hinders nobody from locking.
fn tell(lock: &File, holder: &Holder) {
    if let Ok(text) = serde_json::to_string(holder) {
        drop(lock.write_all_at(text.as_bytes(), 0));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(Locked { file, .. }) = self.lock.take() else {
            return;
        };
        let failed = self.failed.load(Ordering::Relaxed);
        let file = match failed {
            true => file,
            false => match self.spare.keep(&self.locks, &self.key, file) {
                Ok(()) => return,
                Err(file) => file,
            },
        };
        drop(file.set_len(0));
        if failed {
            let this_process = Holder::this_process();
            let holder = Holder {
                failed,
                ..this_process
            };
            tell(&file, &holder);
        }
        // Said aloud, since a descriptor that a child process inherited would go on holding it.
        let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_index::address::Method;
    use store_index::digest::Digest;

    fn address(byte: u8) -> ContentAddress {
        ContentAddress::new(Method::Flat, Digest::sha256([byte; 32])).unwrap()
    }

    /// One file serves for many contents, and who has it for one does not have it for another.
    #[test]
    fn a_lock_file_serves_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = || State::at(Some(folder.path().join("fetch")));
        let (ours, theirs) = (state(), state());
        let locks = || fs_err::read_dir(folder.path().join("fetch/locks")).unwrap();
        let claim = |state: &State, byte| match state.claim(&address(byte)) {
            Claimed::Ours(claim) => claim,
            other => panic!("{other:?}"),
        };
        for byte in 0..5 {
            let held = claim(&ours, byte);
            assert!(!held.is_after_failure());
            match theirs.claim(&address(byte)) {
                Claimed::Theirs(holder) => assert_eq!(holder.pid, std::process::id()),
                other => panic!("{other:?}"),
            }
            drop(claim(&theirs, byte + 100));
            drop(held);
            drop(claim(&theirs, byte));
            assert_eq!(locks().count(), 2, "one for each");
        }
        // Whoever comes after a failure is told, and a file that is there is not replaced.
        let failing = claim(&ours, 1);
        failing.note_failure();
        drop(failing);
        drop(claim(&ours, 2));
        assert!(claim(&ours, 1).is_after_failure());
        drop((ours, theirs));
        assert_eq!(locks().count(), 1, "that of the failure");
    }
}
