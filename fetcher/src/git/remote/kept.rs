//! Repositories that are kept, so that the next commit costs its difference.
//!
//! One bare repository a URL, `DIR/<hash of the URL>`, without references: `tips` lists the commits that are there
//! with everything that belongs to them, the oldest first. A lock beside it, never removed, is held exclusively while
//! a pack comes and shared while a tree is checked out. Nothing in here is believed: what is checked out is hashed,
//! and what turns out to be damaged is thrown away.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use gix::ObjectId;
use store_index::beneath::Beneath;
use store_index::digest::{Algorithm, Hasher};
use store_index::path_text::printable;
use store_index::watch::{Unit, Watch};

use super::missing;
use super::receive::INCOMING;
use super::room::{self, PARTIAL, own_folder};
use crate::git::{Folder, Here, Repository};
use crate::source_url::SourceUrl;

/// The most that all of them take on disk, in bytes; those not used for longest go first.
const MAX_BYTES: u64 = 10 << 30;

/// One that was not used for so long goes.
const MAX_AGE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The most packs of one: every fetch brings one, and our reader opens 200 at most. Then it begins anew.
const MAX_PACKS: usize = 100;

/// The most repositories that are kept.
const MAX_REPOSITORIES: usize = 1000;

/// How many of them are asked for blobs that another lacks: a fork is worked on when its origin is.
const MAX_LENDING: usize = 64;

/// The most commits of one that are remembered, and told to a server.
const MAX_TIPS: usize = 64;

/// The longest list of commits, in bytes.
const MAX_TIPS_BYTES: u64 = 64 * 1024;

/// How often it is looked whether another process is done.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// When it is said that another process is waited for.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// How long another process is waited for; then nothing is kept of this fetch.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// The length of a SHA-1, in bytes.
const CHECKSUM_LEN: usize = 20;

/// How much is read at a time, in bytes.
const BUFFER_LEN: usize = 256 * 1024;

/// The list of commits.
const TIPS: &str = "tips";

/// What people call it: forks have the same name.
const CALLED: &str = "called";

/// A repository that is kept, locked for one who adds to it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) tips: Vec<ObjectId>,
    lock: File,
}

impl Kept {
    /// Opens or makes the one of a URL. With a watch it waits while others use it.
    pub(super) fn open(
        cache: &Path,
        url: &SourceUrl,
        watch: Option<Watch<'_>>,
    ) -> io::Result<Self> {
        own_folder(cache)?;
        let path = cache.join(name_of(url));
        let lock = open_lock(&path)?;
        match watch {
            Some(watch) => wait_for(&lock, File::try_lock, MAX_WAIT, watch)?,
            None => lock.try_lock()?,
        }
        if packs_in(&path) >= MAX_PACKS {
            fs_err::remove_dir_all(&path)?;
        }
        room::make_bare(&path)?;
        sweep(&path);
        fs_err::write(path.join(CALLED), called_by(url))?;
        let tips = read_tips(&path)?;
        Ok(Self { path, tips, lock })
    }

    /// Remembers that commits are there, and lets others in who only read. `None` if another process threw all away
    /// meanwhile.
    pub(super) fn add(mut self, tips: &[ObjectId], watch: Watch<'_>) -> io::Result<Option<File>> {
        self.tips.retain(|tip| !tips.contains(tip));
        self.tips.extend(tips);
        let surplus = self.tips.len().saturating_sub(MAX_TIPS);
        let text: String = self.tips[surplus..]
            .iter()
            .map(|tip| format!("{tip}\n"))
            .collect();
        let new = self.path.join("tips.new");
        fs_err::write(&new, text)?;
        fs_err::rename(&new, self.path.join(TIPS))?;
        // Between the two kinds of lock there is a moment in which it is anybody's.
        wait_for(&self.lock, File::try_lock_shared, MAX_WAIT, watch)?;
        let kept = read_tips(&self.path)?;
        let is_whole = tips.iter().all(|tip| kept.contains(tip));
        Ok(is_whole.then_some(self.lock))
    }
}

/// Opens the repository of a URL if a commit is in it, without waiting for anybody: while another process adds to it,
/// what is there stays readable.
pub(crate) fn kept(
    cache: &Path,
    url: &SourceUrl,
    id: &ObjectId,
    here: Option<&Rc<dyn Here>>,
    watch: Watch<'_>,
) -> Option<Repository> {
    let path = cache.join(name_of(url));
    if !path.join(TIPS).exists() {
        return None;
    }
    own_folder(cache).ok()?;
    let lock = open_lock(&path).ok()?;
    let is_ours = lock.try_lock_shared().is_ok();
    if !read_tips(&path).ok()?.contains(id) {
        return None;
    }
    // Those that nobody used for longest go first.
    let tips = fs_err::File::open(path.join(TIPS)).ok()?;
    drop(tips.file().set_modified(SystemTime::now()));
    // What is not in it has to be somewhere else still.
    let is_whole = !room::is_partial(&path)
        || missing::of(&path, &[*id], (here, url), watch).is_ok_and(|ids| ids.is_empty());
    let mut repository = room::open(&path).ok().filter(|_| is_whole)?;
    if is_ours {
        repository.hold(lock);
    }
    if let Some(here) = here {
        repository.lean_on(Rc::clone(here));
    }
    Some(repository)
}

/// Opens the folder of those that are kept, if it is there and ours.
pub(crate) fn folder(cache: &Path) -> Option<Beneath> {
    let is_ours = cache.is_dir() && own_folder(cache).is_ok();
    is_ours.then(|| Beneath::open(cache).ok())?
}

/// Returns what is kept of other URLs that end alike, as those of forks and mirrors do; the last used first. What is
/// read in them may be gone the next moment.
pub(crate) fn like(cache: &Rc<Beneath>, url: &SourceUrl) -> Vec<Folder> {
    let own = name_of(url);
    let entries = fs_err::read_dir(cache.path());
    let mut found: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let (name, path) = (entry.file_name(), entry.path());
            let called = fs_err::read_to_string(path.join(CALLED)).ok()?;
            let used = fs_err::metadata(path.join(TIPS)).ok()?.modified().ok()?;
            (called == called_by(url) && name != own.as_str()).then_some((used, name))
        })
        .collect();
    found.sort_unstable();
    let newest = found.into_iter().rev().take(MAX_LENDING);
    newest.map(|(_, name)| Folder::new(cache, name)).collect()
}

/// What people call the repository of a URL.
fn called_by(url: &SourceUrl) -> String {
    let path = url.url().path().trim_end_matches('/');
    let name = path.rsplit('/').next().unwrap_or_default();
    name.trim_end_matches(".git").to_lowercase()
}

/// Throws away what is kept of a URL; returns false if somebody else uses it.
pub(crate) fn forget(cache: &Path, url: &SourceUrl) -> bool {
    remove(&cache.join(name_of(url))).is_ok()
}

/// Removes what a run left that was killed. The lock is held, so that it is nobody's.
fn sweep(path: &Path) {
    drop(fs_err::remove_file(path.join("shallow.lock")));
    let packs = fs_err::read_dir(path.join("objects/pack"));
    for entry in packs.into_iter().flatten().flatten() {
        let path = entry.path();
        if !is_pack_or_index(&path) && !path.ends_with(INCOMING) {
            drop(fs_err::remove_file(path));
        }
    }
}

fn is_pack_or_index(path: &Path) -> bool {
    path.extension()
        .is_some_and(|kind| kind == "pack" || kind == "idx")
}

/// Lists those that are kept, with when they were used and their lengths in bytes, the longest unused first.
fn list(cache: &Path) -> Vec<(SystemTime, u64, PathBuf)> {
    let mut all: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs_err::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // Without commits something broke off that can be gone on with, or it is of no use.
            let used = [TIPS, PARTIAL, INCOMING].map(|name| {
                fs_err::metadata(path.join(name))
                    .and_then(|file| file.modified())
                    .unwrap_or(SystemTime::UNIX_EPOCH)
            });
            all.push((
                used.into_iter().max().unwrap_or(SystemTime::UNIX_EPOCH),
                size_of(&path.join("objects")),
                path,
            ));
        }
    }
    all.sort_unstable();
    all
}

/// Returns how many are kept, and how many bytes they have.
pub(crate) fn usage(cache: &Path) -> (usize, u64) {
    let all = list(cache);
    (all.len(), all.iter().map(|(_, bytes, _)| bytes).sum())
}

/// Removes what was not used for too long, and what was not used for longest until the rest is within bounds; or all.
/// What somebody uses stays.
pub(crate) fn collect(cache: &Path, all: bool) {
    if all {
        trim_to(cache, 0, 0);
    } else {
        trim(cache);
    }
}

pub(super) fn trim(cache: &Path) {
    let now = SystemTime::now();
    for (used, _, path) in list(cache) {
        if now.duration_since(used).unwrap_or_default() > MAX_AGE {
            // In use, it has been used.
            drop(remove(&path));
        }
    }
    trim_to(cache, MAX_BYTES, MAX_REPOSITORIES);
}

fn trim_to(cache: &Path, most_bytes: u64, most: usize) {
    let all = list(cache);
    let mut bytes: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
    let mut count = all.len();
    for (_, size, path) in all {
        if bytes <= most_bytes && count <= most {
            break;
        }
        if remove(&path).is_ok() {
            bytes -= size;
            count -= 1;
        }
    }
}

/// Compares every pack and its index with the checksum at its end, and removes the repositories in which one is wrong.
/// Returns how many are sound, and those that are not.
pub(crate) fn verify(cache: &Path, watch: Watch<'_>) -> io::Result<(usize, Vec<PathBuf>)> {
    let (mut sound, mut damaged) = (0, Vec::new());
    for (_, bytes, path) in list(cache) {
        let lock = open_lock(&path)?;
        // One to which somebody adds is not looked at.
        if lock.try_lock_shared().is_err() {
            continue;
        }
        let what = format!("checking {}", printable(&path));
        watch.progress.begin(&what, Some(bytes), Unit::Bytes);
        let checked = are_packs_sound(&path, watch);
        watch.progress.end();
        match checked {
            Ok(true) => sound += 1,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Ok(false) | Err(_) => {
                drop(lock);
                // Whoever uses it meanwhile finds out by himself.
                drop(remove(&path));
                damaged.push(path);
            }
        }
    }
    Ok((sound, damaged))
}

fn are_packs_sound(path: &Path, watch: Watch<'_>) -> io::Result<bool> {
    for entry in fs_err::read_dir(path.join("objects/pack"))? {
        let path = entry?.path();
        if is_pack_or_index(&path) && !ends_with_its_checksum(&path, watch)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Packs and their indexes end with the SHA-1 of what stands before.
fn ends_with_its_checksum(path: &Path, watch: Watch<'_>) -> io::Result<bool> {
    let mut file = fs_err::File::open(path)?;
    let Some(mut left) = file.metadata()?.len().checked_sub(CHECKSUM_LEN as u64) else {
        return Ok(false);
    };
    let mut hasher = Hasher::new(Algorithm::Sha1);
    let mut buffer = vec![0; BUFFER_LEN];
    while left > 0 {
        if watch.interrupted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = usize::try_from(left).map_or(BUFFER_LEN, |left| left.min(BUFFER_LEN));
        file.read_exact(&mut buffer[..len])?;
        hasher.update(&buffer[..len]);
        watch.progress.advance(len as u64);
        left -= len as u64;
    }
    let mut wanted = [0; CHECKSUM_LEN];
    file.read_exact(&mut wanted)?;
    Ok(hasher.finish().is_some_and(|got| got.as_bytes() == wanted))
}

/// Two URLs that differ in their credentials only are one repository.
fn name_of(url: &SourceUrl) -> String {
    let mut bare = url.url().clone();
    // Both fail only for URLs without a host, which have no credentials.
    let _same = bare.set_password(None).and_then(|()| bare.set_username(""));
    bare.set_fragment(None);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(bare.as_str().as_bytes());
    let digest = hasher.finish().expect("SHA-256 has an answer to anything");
    let hex = |byte: &u8| format!("{byte:02x}");
    digest.as_bytes().iter().map(hex).collect()
}

fn open_lock(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.with_extension("lock"))
}

fn wait_for(
    lock: &File,
    try_lock: impl Fn(&File) -> Result<(), TryLockError>,
    limit: Duration,
    watch: Watch<'_>,
) -> io::Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        match try_lock(lock) {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {}
        }
        if watch.interrupted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if waited >= limit {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if waited == SAY_AFTER {
            let note = "waiting for another process that fetches from the same repository";
            watch.progress.note(note);
        }
        std::thread::sleep(POLL_INTERVAL);
        waited += POLL_INTERVAL;
    }
}

fn read_tips(path: &Path) -> io::Result<Vec<ObjectId>> {
    let mut text = String::new();
    match fs_err::File::open(path.join(TIPS)) {
        Ok(file) => file.take(MAX_TIPS_BYTES).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let id = |line: &str| ObjectId::from_hex(line.as_bytes()).ok();
    Ok(text.lines().filter_map(id).collect())
}

fn packs_in(path: &Path) -> usize {
    let packs = fs_err::read_dir(path.join("objects/pack"));
    let is_pack = |name: &Path| name.extension().is_some_and(|kind| kind == "pack");
    let names = packs.into_iter().flatten().flatten();
    names.filter(|entry| is_pack(&entry.path())).count()
}

/// Returns how much lies in a folder of objects: they lie one folder down.
pub(super) fn size_of(objects: &Path) -> u64 {
    let mut bytes = 0;
    for folder in fs_err::read_dir(objects).into_iter().flatten().flatten() {
        for file in fs_err::read_dir(folder.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            bytes += file.metadata().map_or(0, |metadata| metadata.len());
        }
    }
    bytes
}

fn remove(path: &Path) -> io::Result<()> {
    let lock = open_lock(path)?;
    lock.try_lock()?;
    if !path.exists() {
        return Ok(());
    }
    fs_err::remove_dir_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::OBJECT_HASH;

    #[test]
    fn the_oldest_go_first_and_those_in_use_stay() {
        let cache = tempfile::tempdir().unwrap();
        let path = |name: &str| cache.path().join(name);
        for (name, age) in [("a", 3), ("b", 2), ("c", 1), ("d", 0)] {
            room::make_bare(&path(name)).unwrap();
            fs_err::write(path(name).join("objects/pack/x.pack"), [0; 1000]).unwrap();
            let tips = fs_err::File::create(path(name).join(TIPS)).unwrap();
            let used = SystemTime::now() - Duration::from_secs(age * 100);
            tips.set_modified(used).unwrap();
        }
        let names = || {
            let mut names: Vec<_> = fs_err::read_dir(cache.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| !name.ends_with(".lock"))
                .collect();
            names.sort();
            names.concat()
        };
        trim_to(cache.path(), 4000, 4);
        assert_eq!(names(), "abcd");
        // Whoever reads a commit uses it.
        let url = SourceUrl::parse("https://h/a").unwrap();
        let id = ObjectId::null(OBJECT_HASH);
        let folder = cache.path().join("git");
        let own = folder.join(name_of(&url));
        own_folder(&folder).unwrap();
        room::make_bare(&own).unwrap();
        let (interrupt, limit) = (std::sync::atomic::AtomicBool::new(false), POLL_INTERVAL * 2);
        let watch = Watch {
            interrupt: &interrupt,
            progress: &store_index::watch::NoProgress,
        };
        assert!(kept(&folder, &url, &id, None, watch).is_none());
        fs_err::write(own.join(TIPS), format!("{id}\n")).unwrap();
        let used = || {
            fs_err::metadata(own.join(TIPS))
                .unwrap()
                .modified()
                .unwrap()
        };
        let tips = fs_err::File::open(own.join(TIPS)).unwrap();
        tips.file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let held = kept(&folder, &url, &id, None, watch).unwrap();
        assert!(used() > SystemTime::UNIX_EPOCH);
        // Others wait for those who read, and not for ever.
        let lock = open_lock(&own).unwrap();
        let waited = wait_for(&lock, File::try_lock, limit, watch);
        assert_eq!(waited.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(held);
        wait_for(&lock, File::try_lock, limit, watch).unwrap();
        drop(lock);
        fs_err::remove_dir_all(&folder).unwrap();
        let used = open_lock(&path("a")).unwrap();
        used.lock_shared().unwrap();
        trim_to(cache.path(), 3999, 4);
        assert_eq!(names(), "acd");
        trim_to(cache.path(), 4000, 2);
        assert_eq!(names(), "ad");
    }
}
