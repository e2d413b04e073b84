//! Where what was downloaded lies: for each content the outputs it was delivered to, so that the next request copies
//! from there. No copy is kept here.
//!
//! Of a tree only its root is looked at: what has changed deeper down shows when it is copied, and is forgotten then.
//!
//! Lines of JSON, appended to one of 256 files by the first byte of the digest, so that a look reads a few kilobytes
//! whatever the number of deliveries. A line counts only while size, time and inode of the file are the recorded ones,
//! and even then the content is hashed as it is copied.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use serde::{Deserialize, Serialize};
use store_index::address::ContentAddress;
use store_index::path_text;

use super::{State, address, key, lock_record, open_file, read_record, read_record_whole};

/// Above this length in bytes a file loses its older half: 256 of them stay below 32 MiB.
const MAX_BUCKET_BYTES: u64 = 128 * 1024;

/// The most places of one content that are told.
const MAX_DELIVERIES: usize = 8;

pub(super) const FOLDER: &str = "ledger";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    content: String,
    /// Percent-escaped where it is not plain text.
    path: String,
    /// Under what names it was asked for.
    names: Vec<String>,
    size: u64,
    modified_ns: i64,
    inode: u64,
    /// It is a tree, whose root has this time and inode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tree: bool,
}

/// A file or tree that has a content, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) path: PathBuf,
    /// In bytes; `None` for a tree.
    pub(crate) size: Option<u64>,
    /// Under what names it was asked for.
    pub(crate) names: Vec<String>,
}

impl Line {
    fn of(address: &ContentAddress, path: &Path, names: &[String]) -> io::Result<Self> {
        let metadata = fs_err::symlink_metadata(path)?;
        if !metadata.is_file() && !metadata.is_dir() {
            return Err(io::Error::other("only files and trees are remembered"));
        }
        Ok(Self {
            content: key(address),
            path: path_text::encode(path),
            names: names.to_vec(),
            // What a directory has for a size is the file system's affair.
            size: if metadata.is_dir() { 0 } else { metadata.len() },
            modified_ns: modified_ns(&metadata),
            inode: metadata.ino(),
            tree: metadata.is_dir(),
        })
    }

    /// Returns the place if what lies there is what was delivered.
    fn delivery(&self) -> Option<Delivery> {
        let path = path_text::decode(&self.path)?;
        let metadata = fs_err::symlink_metadata(&path).ok()?;
        let is_same = match self.tree {
            true => metadata.is_dir(),
            false => metadata.is_file() && metadata.len() == self.size,
        };
        let is_same =
            is_same && metadata.ino() == self.inode && modified_ns(&metadata) == self.modified_ns;
        is_same.then(|| Delivery {
            path,
            size: (!self.tree).then_some(self.size),
            names: self.names.clone(),
        })
    }
}

fn modified_ns(metadata: &std::fs::Metadata) -> i64 {
    let seconds_ns = metadata.mtime().saturating_mul(1_000_000_000);
    seconds_ns.saturating_add(metadata.mtime_nsec())
}

impl State {
    /// Returns true if something may have been delivered.
    pub(crate) fn has_ledger(&self) -> bool {
        self.folder(FOLDER).is_some()
    }

    /// Returns where a content lies, the last delivery first.
    pub(crate) fn deliveries(&self, address: &ContentAddress) -> Vec<Delivery> {
        let mut found: Vec<Delivery> = Vec::new();
        let wanted = key(address);
        for line in self.lines(address).iter().rev() {
            if line.content == wanted
                && !found
                    .iter()
                    .any(|known| path_text::encode(&known.path) == line.path)
                && let Some(delivery) = line.delivery()
            {
                found.push(delivery);
                if found.len() == MAX_DELIVERIES {
                    break;
                }
            }
        }
        found
    }

    /// Forgets that a content lies somewhere: it does no more.
    pub(crate) fn not_delivered(&self, address: &ContentAddress, path: &Path) {
        let forget = || {
            let folder = self.folder(FOLDER)?;
            let mut bucket = open_file(&folder, &bucket(address), OFlags::empty()).ok()?;
            let is_other = |known: &ContentAddress, delivery: &Delivery| {
                (known, delivery.path.as_path()) != (address, path)
            };
            forget(&mut bucket, is_other).ok()
        };
        // It is found out again next time.
        let _ = forget();
    }

    /// Returns what is written down of a content. The other lines are not parsed: a batch looks thousands of times.
    fn lines(&self, address: &ContentAddress) -> Vec<Line> {
        let wanted = key(address);
        let read = || {
            let folder = self.folder(FOLDER)?;
            let bucket = open_file(&folder, &bucket(address), OFlags::empty()).ok()?;
            let text = read_record_whole(&bucket).ok()?;
            let lines = text.lines().filter(|line| line.contains(&wanted));
            Some(
                lines
                    .filter_map(|line| serde_json::from_str(line).ok())
                    .collect(),
            )
        };
        read().unwrap_or_default()
    }

    /// Remembers a delivery. One that cannot be written down is found by other means, or not.
    pub(crate) fn delivered(&self, address: &ContentAddress, path: &Path, names: &[String]) {
        let write = || -> io::Result<()> {
            let line = Line::of(address, path, names)?;
            let Some(folder) = self.make_folder(FOLDER) else {
                return Ok(());
            };
            let mut bucket = open_file(&folder, &bucket(address), OFlags::CREATE)?;
            lock_record(&bucket, FlockOperation::NonBlockingLockExclusive)?;
            let length = bucket.seek(SeekFrom::End(0))?;
            if length > MAX_BUCKET_BYTES {
                forget_older_half(&mut bucket)?;
            }
            // A line that a killed process left unended must not spoil the next.
            let mut text = serde_json::to_vec(&line)?;
            text.insert(0, b'\n');
            bucket.write_all(&text)?;
            Ok(rustix::fs::flock(&bucket, FlockOperation::Unlock)?)
        };
        drop(write());
    }
}

/// Rewrites a bucket in place, under its lock: what a killed process loses is found by other means, or not.
fn rewrite(bucket: &mut File, lines: &[Line]) -> io::Result<()> {
    let mut text = Vec::new();
    for line in lines {
        text.push(b'\n');
        serde_json::to_writer(&mut text, line)?;
    }
    bucket.set_len(0)?;
    bucket.rewind()?;
    bucket.write_all(&text)
}

fn forget_older_half(bucket: &mut File) -> io::Result<()> {
    bucket.rewind()?;
    let lines = parse(&read_record(bucket)?);
    rewrite(bucket, &lines[lines.len() / 2..])
}

/// Forgets the deliveries of a bucket that lie no more where they were, and those that `is_right` rejects. Returns how
/// many.
pub(super) fn forget(
    bucket: &mut File,
    mut is_right: impl FnMut(&ContentAddress, &Delivery) -> bool,
) -> io::Result<usize> {
    // To hash them takes long, and whoever delivers meanwhile must not wait for it.
    let wrong: Vec<Line> = parse(&read_record_whole(bucket)?)
        .into_iter()
        .filter(|line| {
            let address = address(&line.content);
            !address
                .zip(line.delivery())
                .is_some_and(|(address, delivery)| is_right(&address, &delivery))
        })
        .collect();
    if wrong.is_empty() {
        return Ok(0);
    }
    lock_record(bucket, FlockOperation::NonBlockingLockExclusive)?;
    bucket.rewind()?;
    let lines = parse(&read_record(bucket)?);
    let kept: Vec<Line> = lines
        .iter()
        .filter(|line| !wrong.contains(line))
        .cloned()
        .collect();
    rewrite(bucket, &kept)?;
    rustix::fs::flock(&*bucket, FlockOperation::Unlock)?;
    Ok(lines.len() - kept.len())
}

/// Counts the deliveries in a bucket.
pub(super) fn count(bucket: &File) -> usize {
    read_record_whole(bucket).map_or(0, |text| parse(&text).len())
}

fn parse(text: &str) -> Vec<Line> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn bucket(address: &ContentAddress) -> String {
    let first = address.digest().as_bytes().first().copied();
    format!("{:02x}", first.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_index::address::Method;
    use store_index::digest::Digest;

    fn address(byte: u8) -> ContentAddress {
        ContentAddress::new(Method::Flat, Digest::sha256([byte; 32])).unwrap()
    }

    #[test]
    fn what_changed_or_went_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(Some(folder.path().join("fetch")));
        let file = folder.path().join("file \n\u{e9}");
        fs_err::write(&file, "content").unwrap();
        state.delivered(&address(1), &file, &["file-1.0".to_owned()]);
        let found = state.deliveries(&address(1));
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].path, found[0].size), (&file, Some(7)));
        assert_eq!(state.deliveries(&address(2)), []);
        fs_err::write(&file, "changed").unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        File::open(&file).unwrap().set_modified(later).unwrap();
        assert_eq!(state.deliveries(&address(1)), []);
    }

    /// Hashing what was delivered takes long; whoever delivers meanwhile does not wait for it, and is not forgotten.
    #[test]
    fn deliveries_go_on_while_others_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(Some(folder.path().join("fetch")));
        let [old, new] = ["old", "new"].map(|name| {
            let file = folder.path().join(name);
            fs_err::write(&file, name).unwrap();
            file
        });
        state.delivered(&address(1), &old, &[]);
        let path = folder.path().join("fetch/ledger/01");
        let bucket = fs_err::OpenOptions::new().read(true).write(true).open(path);
        let forgotten = forget(&mut bucket.unwrap().into_file(), |_, _| {
            let started = std::time::Instant::now();
            state.delivered(&address(1), &new, &[]);
            assert!(started.elapsed() < super::super::MAX_RECORD_WAIT / 2);
            false
        });
        assert_eq!(forgotten.unwrap(), 1);
        let left = state.deliveries(&address(1));
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path, new);
    }

    #[test]
    fn a_bucket_stays_small_and_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(Some(folder.path().join("fetch")));
        let file = folder.path().join("file");
        fs_err::write(&file, "content").unwrap();
        for number in 0..1500 {
            state.delivered(
                &address(1),
                &file,
                &[format!("{number}-{}", "x".repeat(80))],
            );
        }
        let bucket = folder.path().join("fetch/ledger/01");
        assert!(fs_err::metadata(bucket).unwrap().len() < MAX_BUCKET_BYTES + 1000);
        assert!(state.deliveries(&address(1))[0].names[0].starts_with("1499-"));
    }
}
