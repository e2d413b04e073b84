//! Downloads that have begun: what has come lies here under the content's address, until the whole is verified.
//!
//! A body of some size lands in the spool, not in the room beside the output: a room without a name would go with its
//! process. What breaks off (a stall, a reset, Ctrl-C, `kill -9`) stays, and the next try goes on behind it, whichever
//! process and whichever URL that is. The whole is hashed: what was there before it goes on, and what comes, in the very
//! file that becomes the output. On one file system that file is renamed into place, so that nothing is written twice;
//! elsewhere it is copied, and hashed once more as it lands.
//!
//! All of this happens under the content's lock, and only a file with a single name is gone on with: one that somebody
//! has linked elsewhere is not ours to write to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use store_index::address::ContentAddress;
use store_index::digest::Digest;

use super::lock::{self, Claim, LOCK, WANTED};
use super::parts::{NEW_PARTS, PARTS};
use super::{key, open_file, read_record};
use crate::net::BodyStart;
use crate::source_url::SourceUrl;
use crate::staging::StagedFile;

/// Bodies below this size do not come into the spool: they are here again sooner than it takes to manage them.
pub(crate) const SPOOL_ABOVE_BYTES: u64 = 1024 * 1024;

/// What was not touched for so long is removed.
const MAX_AGE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// How often a process looks what is to be removed.
const TRIM_EVERY: Duration = Duration::from_secs(60);

/// How much may lie here, in bytes; the longest untouched goes first.
const MAX_SPOOL_BYTES: u64 = 10 << 30;

/// The most URLs whose validators are remembered; a file has a few mirrors.
const MAX_VALIDATORS: usize = 32;

/// The most names that are looked at when old ones are removed.
const MAX_TRIMMED_ENTRIES: usize = 100_000;

const PART: &str = ".part";
const RECORD: &str = ".json";

/// A download that has begun.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    /// How much is there from the beginning.
    pub(crate) bytes: u64,
    /// What is there behind that, in order.
    pub(crate) there: Vec<Range<u64>>,
}

impl Partial {
    /// Returns the file, to be read.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }
}

/// What is known of a download besides its bytes.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The length of the whole in bytes, as the last server announced it.
    length: Option<u64>,
    /// The last part of the URL that was asked, hashed like the others.
    name: Option<String>,
    /// Validators by URL; those may carry tokens, so their hashes stand here.
    validators: BTreeMap<String, String>,
}

const RECORD_VERSION: u32 = 1;

impl Claim {
    fn part_name(&self) -> String {
        format!("{}{PART}", self.key)
    }

    /// Opens what has come so far, if it is a file of ours alone.
    pub(crate) fn partial(&self) -> Option<Partial> {
        let opened = open_file(&self.spool, &self.part_name(), OFlags::empty());
        let is_bare = matches!(opened, Err(Errno::NOENT));
        self.is_bare.store(is_bare, Ordering::Relaxed);
        let file = opened.ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let is_ours = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_nlink == 1
            && stat.st_uid == rustix::process::geteuid().as_raw();
        let bytes = u64::try_from(stat.st_size).ok()?;
        if !is_ours || bytes == 0 {
            self.clear();
            return None;
        }
        let (bytes, mut parts) = match self.read_parts(bytes) {
            None => (bytes, Vec::new()),
            Some(mut parts) if parts.first().is_some_and(|first| first.start == 0) => {
                (parts.remove(0).end, parts)
            }
            Some(_) => {
                self.clear();
                return None;
            }
        };
        // Without the length of the whole nobody can be asked for what is missing at the end.
        if self.length().is_none() {
            parts.clear();
        }
        if parts.is_empty() {
            // From now on its length says how much is there.
            file.set_len(bytes).ok()?;
            self.forget_parts();
        }
        Some(Partial {
            file,
            bytes,
            there: parts,
        })
    }

    /// Makes a room of a partial download: what comes is written behind what is there. It gets the mode and group of
    /// `like`, which was made beside the output.
    pub(crate) fn go_on(&self, partial: Partial, like: &File) -> io::Result<StagedFile> {
        let mut file = partial.file;
        file.seek(SeekFrom::Start(partial.bytes))?;
        // It may be that nothing is to come any more; the output is new all the same.
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        rustix::fs::futimens(
            &file,
            &Timestamps {
                last_access: now,
                last_modification: now,
            },
        )?;
        self.take_over(file, like)
    }

    /// Makes an empty room in the spool, like the one beside the output.
    pub(crate) fn begin(&self, like: &File) -> io::Result<StagedFile> {
        // Without its file there may still be a record of it.
        self.is_bare.store(false, Ordering::Relaxed);
        self.clear();
        if is_time_to_trim() {
            trim(&self.spool, &self.locks, Some(&self.key), false);
        }
        let flags = OFlags::CREATE | OFlags::EXCL;
        let file = open_file(&self.spool, &self.part_name(), flags)?;
        self.take_over(file, like)
    }

    fn take_over(&self, file: File, like: &File) -> io::Result<StagedFile> {
        let (ours, wanted) = (rustix::fs::fstat(&file)?, rustix::fs::fstat(like)?);
        if ours.st_gid != wanted.st_gid {
            // A folder may give its group to what is made in it. One that we are not in, we cannot give.
            let _ = rustix::fs::fchown(&file, None, Some(Gid::from_raw(wanted.st_gid)));
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(wanted.st_mode))?;
        StagedFile::in_spool(file, Arc::clone(&self.spool), self.part_name())
    }

    /// Forgets which parts are there: all is there up to the file's length.
    fn forget_parts(&self) {
        let name = format!("{}{PARTS}", self.key);
        let _ = rustix::fs::unlinkat(&*self.spool, name, AtFlags::empty());
    }

    /// Leaves the whole for those who wait, where nobody else can: what went to standard output lies nowhere.
    pub(crate) fn leave_whole(&self, bytes: u64) {
        let mut record = self.record();
        record.version = RECORD_VERSION;
        record.length = Some(bytes);
        self.write_record(&record);
    }

    /// Forgets what has come: the whole is delivered, or it is wrong.
    pub(crate) fn clear(&self) {
        self.set_hashed(None);
        if !self.is_bare.load(Ordering::Relaxed) {
            remove(&self.spool, &self.key);
        }
    }

    /// Returns how much space would be free for a file if what has come were forgotten, in bytes.
    pub(crate) fn taken_beside(&self, file: &File) -> u64 {
        if self.is_bare.load(Ordering::Relaxed) {
            return 0;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let part = rustix::fs::statat(&*self.spool, self.part_name(), flags);
        match (part, rustix::fs::fstat(file)) {
            (Ok(part), Ok(file)) if part.st_dev == file.st_dev => {
                u64::try_from(part.st_blocks).map_or(0, |blocks| blocks.saturating_mul(512))
            }
            _ => 0,
        }
    }

    /// Remembers what a server says of the file it begins to send.
    pub(crate) fn note(&self, asked: &SourceUrl, start: &BodyStart) {
        let mut record = self.record();
        record.version = RECORD_VERSION;
        record.length = start.length_bytes;
        record.name = name_key(asked);
        record.validators.remove(&url_key(&start.url));
        if let Some(validator) = start.validator.clone()
            && record.validators.len() < MAX_VALIDATORS
        {
            record.validators.insert(url_key(&start.url), validator);
        }
        self.write_record(&record);
    }

    fn write_record(&self, record: &Record) {
        let name = format!("{}{RECORD}", self.key);
        let written = open_file(&self.spool, &name, OFlags::CREATE | OFlags::TRUNC)
            .map_err(io::Error::from)
            .and_then(|mut file| file.write_all(&serde_json::to_vec(record)?));
        // Without it, the rest is asked for without a validator.
        drop(written);
    }

    /// Returns whether what has come is a file of the same name.
    pub(crate) fn is_of(&self, url: &SourceUrl) -> bool {
        let name = name_key(url);
        name.is_some() && self.record().name == name
    }

    /// Returns what a URL gave to tell this version of its file from others.
    pub(crate) fn validator(&self, url: &SourceUrl) -> Option<String> {
        self.record().validators.remove(&url_key(url))
    }

    /// Returns how long the whole is, as far as a server has said so.
    pub(crate) fn length(&self) -> Option<u64> {
        self.record().length
    }

    fn record(&self) -> Record {
        let name = format!("{}{RECORD}", self.key);
        open_file(&self.spool, &name, OFlags::empty())
            .map_err(io::Error::from)
            .and_then(|file| Ok(serde_json::from_str(&read_record(&file)?)?))
            .ok()
            .filter(|record: &Record| record.version == RECORD_VERSION)
            .unwrap_or_default()
    }
}

impl super::State {
    /// Returns how much of a content has come, for those who wait for it.
    pub(crate) fn so_far(&self, address: &ContentAddress) -> Option<u64> {
        let spool = self.folder(super::SPOOL)?;
        let name = format!("{}{PART}", key(address));
        let stat = rustix::fs::statat(&spool, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(taken_bytes(&stat))
    }
}

/// Returns how much of a file is there: several connections leave holes, which have a length and no blocks.
fn taken_bytes(stat: &Stat) -> u64 {
    let taken = u64::try_from(stat.st_blocks).unwrap_or_default();
    let length = u64::try_from(stat.st_size).unwrap_or_default();
    taken.saturating_mul(512).min(length)
}

fn name_key(url: &SourceUrl) -> Option<String> {
    let name = url.default_name().ok()?;
    Some(Digest::sha256(store_index::digest::sha256(name.as_bytes())).to_hex())
}

/// Names a URL, which may carry a token, by its hash.
pub(super) fn url_key(url: &SourceUrl) -> String {
    let hash = store_index::digest::sha256(url.url().as_str().as_bytes());
    Digest::sha256(hash).to_hex()
}

/// Lists partial downloads with their lengths in bytes.
pub(super) fn parts(spool: &OwnedFd) -> Vec<(String, u64)> {
    let parts = old_first(spool, PART).into_iter();
    parts.map(|entry| (entry.key, entry.taken_bytes)).collect()
}

/// Returns true if it has not been looked for some time, by any thread: the more downloads there are, the longer the lists.
fn is_time_to_trim() -> bool {
    static TRIMMED: Mutex<Option<Instant>> = Mutex::new(None);
    let mut trimmed = TRIMMED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_time = trimmed.is_none_or(|trimmed| trimmed.elapsed() >= TRIM_EVERY);
    if is_time {
        *trimmed = Some(Instant::now());
    }
    is_time
}

/// Removes what is too old, and the oldest of what is too much, or all; and lock files that nobody has used for long.
/// What somebody works at is locked, and stays; so does what the caller itself has locked.
pub(super) fn trim(spool: &OwnedFd, locks: &OwnedFd, own: Option<&str>, all: bool) {
    let is_own = |entry: &Entry| own == Some(&entry.key);
    let mut kept_bytes = 0;
    for entry in old_first(spool, PART).into_iter().rev() {
        kept_bytes += entry.bytes;
        let is_surplus = all || entry.age > MAX_AGE || kept_bytes > MAX_SPOOL_BYTES;
        if is_surplus
            && !is_own(&entry)
            && let Ok(Ok(_lock)) = lock::lock(locks, &entry.key)
        {
            kept_bytes -= entry.bytes;
            remove(spool, &entry.key);
        }
    }
    // What is known of downloads that are long done.
    for entry in old_first(spool, RECORD) {
        let part = format!("{}{PART}", entry.key);
        if (all || entry.age > MAX_AGE)
            && rustix::fs::statat(spool, part, AtFlags::SYMLINK_NOFOLLOW).is_err()
            && !is_own(&entry)
            && let Ok(Ok(_lock)) = lock::lock(locks, &entry.key)
        {
            remove(spool, &entry.key);
        }
    }
    for entry in old_first(locks, WANTED) {
        if entry.age > MAX_AGE {
            let name = format!("{}{WANTED}", entry.key);
            let _ = rustix::fs::unlinkat(locks, name, AtFlags::empty());
        }
    }
    for entry in old_first(locks, LOCK) {
        if entry.age > MAX_AGE
            && !is_own(&entry)
            && let Ok(Ok(_lock)) = lock::lock(locks, &entry.key)
        {
            let name = format!("{}{LOCK}", entry.key);
            let _ = rustix::fs::unlinkat(locks, name, AtFlags::empty());
        }
    }
}

/// Removes what has come of a content.
fn remove(spool: &OwnedFd, key: &str) {
    // The parts last: without them the file would count as whole up to its length.
    for suffix in [PART, RECORD, NEW_PARTS, PARTS] {
        let _ = rustix::fs::unlinkat(spool, format!("{key}{suffix}"), AtFlags::empty());
    }
}

struct Entry {
    key: String,
    age: Duration,
    bytes: u64,
    /// Less than its length, where it has holes.
    taken_bytes: u64,
}

/// Lists the files with a suffix, the longest untouched first.
fn old_first(folder: &OwnedFd, suffix: &str) -> Vec<Entry> {
    let list = || -> Result<Vec<Entry>, Errno> {
        let mut entries = Vec::new();
        let now = SystemTime::now();
        for entry in Dir::read_from(folder)?.take(MAX_TRIMMED_ENTRIES) {
            let Ok(entry) = entry else {
                break;
            };
            let Some(key) = entry
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| name.strip_suffix(suffix))
            else {
                continue;
            };
            // Somebody's download may end at this very moment.
            let named = rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
            let Ok(stat) = named else {
                continue;
            };
            let touched = SystemTime::UNIX_EPOCH
                + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default());
            entries.push(Entry {
                key: key.to_owned(),
                age: now.duration_since(touched).unwrap_or_default(),
                bytes: u64::try_from(stat.st_size).unwrap_or_default(),
                taken_bytes: taken_bytes(&stat),
            });
        }
        Ok(entries)
    };
    let mut entries = list().unwrap_or_default();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.age));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Claimed, State};
    use store_index::address::Method;

    fn claim(state: &State, byte: u8) -> Claim {
        let digest = Digest::sha256([byte; 32]);
        let address = ContentAddress::new(Method::Flat, digest).unwrap();
        match state.claim(&address) {
            Claimed::Ours(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    /// Files with holes, as large as wanted.
    #[test]
    fn the_oldest_above_the_limit_go_and_what_is_locked_stays() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(Some(folder.path().join("fetch")));
        let like = tempfile::tempfile().unwrap();
        let mut held = None;
        // Days since it was touched, and whether somebody works at it.
        for (byte, days, is_held) in [(1, 3, false), (2, 13, true), (3, 2, false), (4, 1, false)] {
            let claim = claim(&state, byte);
            let room = claim.begin(&like).unwrap();
            room.file.set_len(4 << 30).unwrap();
            let touched = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
            room.file.set_modified(touched).unwrap();
            if is_held {
                held = Some(claim);
            }
        }
        let ours = claim(&state, 5);
        trim(&ours.spool, &ours.locks, Some(&ours.key), false);
        let mut left: Vec<_> = parts(&ours.spool)
            .into_iter()
            .map(|(key, _)| key[12..14].to_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["02", "03", "04"]);
        drop(held);
        trim(&ours.spool, &ours.locks, Some(&ours.key), true);
        assert_eq!(parts(&ours.spool), []);
    }
}
