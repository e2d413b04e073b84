//! Reads one file and takes all digests of it at once.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Advice;

use crate::address::FileHasher;
use crate::key::{Digests, KeyKind, KeySet};
use crate::watch::Watch;

/// How much is read at a time, in bytes: large enough for disks, small enough to stay in the second-level cache
/// while several algorithms go over it.
pub(crate) const BUFFER_LEN: usize = 256 * 1024;

/// From this size on the kernel is asked to read ahead further than it would.
const SEQUENTIAL_FROM: u64 = 1024 * 1024;

/// The granularity of modification times, with room: a kernel tick is 10 ms at most.
pub(crate) const CLOCK_GRANULARITY: Duration = Duration::from_millis(20);

/// What a file was when it was read, and its digests.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) inode: u64,
    pub(crate) digests: Digests,
}

/// Why there are no digests of a file.
#[derive(Debug)]
pub(crate) enum NotHashed {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It grew, shrank or was written while it was read.
    Changed,
    /// Told to stop.
    Interrupted,
}

/// Which digests a file gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// All kinds; the file may change while it is read, and has a modification time to be remembered.
    Mutable,
    /// All kinds; store files do not change.
    Immutable,
    /// All kinds but the NAR form that is the link's name.
    Link,
}

/// Reads an open file to its end.
pub(crate) fn hash(
    mut file: File,
    purpose: Purpose,
    kinds: KeySet,
    buffer: &mut [u8],
    watch: Watch<'_>,
) -> Result<Hashed, NotHashed> {
    let metadata = file.metadata().map_err(NotHashed::Unreadable)?;
    let (size, mtime_ns) = (metadata.len(), mtime_ns(&metadata));
    if purpose == Purpose::Mutable {
        let_settle(mtime_ns);
    }
    if size >= SEQUENTIAL_FROM {
        // Advice only.
        rustix::fs::fadvise(&file, 0, None, Advice::Sequential).ok();
    }
    let own_form = if metadata.mode() & 0o100 == 0 {
        KeyKind::NarPlain
    } else {
        KeyKind::NarExecutable
    };
    let wanted = kinds
        .iter()
        .filter(|&kind| purpose != Purpose::Link || kind != own_form);
    let mut hashers: Vec<(KeyKind, FileHasher)> = wanted
        .map(|kind| {
            let (framing, algorithm) = kind.recipe();
            (kind, FileHasher::new(framing, algorithm, size))
        })
        .collect();
    let mut seen = 0;
    loop {
        let count = match file.read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(NotHashed::Unreadable(error)),
        };
        if watch.interrupted() {
            return Err(NotHashed::Interrupted);
        }
        seen += count as u64;
        // A file that grows for ever must not be read for ever.
        if seen > size {
            break;
        }
        for (_, hasher) in &mut hashers {
            hasher.update(&buffer[..count]);
        }
        watch.progress.advance(count as u64);
    }
    if seen < size && !has_changed(&file, size, mtime_ns) {
        // A disc image that was cut off reads short, and some drivers say nothing.
        return Err(NotHashed::Unreadable(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("it ends after {seen} of {size} bytes"),
        )));
    }
    if seen != size || (purpose == Purpose::Mutable && has_changed(&file, size, mtime_ns)) {
        return Err(NotHashed::Changed);
    }
    let mut digests = Digests::default();
    for (kind, hasher) in hashers {
        let digest = hasher.finish().ok_or(NotHashed::Changed)?;
        digests.set(kind, &digest);
    }
    Ok(Hashed {
        size,
        mtime_ns,
        inode: metadata.ino(),
        digests,
    })
}

fn has_changed(file: &File, size: u64, before_ns: i64) -> bool {
    file.metadata()
        .map_or(true, |now| now.len() != size || mtime_ns(&now) != before_ns)
}

/// Returns the modification time in nanoseconds since 1970, clamped to the range.
pub(crate) fn mtime_ns(metadata: &std::fs::Metadata) -> i64 {
    metadata
        .mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(metadata.mtime_nsec())
}

/// Waits until a change would get another modification time than the one given, if that takes no longer than the
/// granularity of the kernel's clock. Returns false if the time lies in the future.
pub(crate) fn let_settle(mtime_ns: i64) -> bool {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_nanos() as i64);
    let granularity = CLOCK_GRANULARITY.as_nanos() as i64;
    let age = now.saturating_sub(mtime_ns);
    if (0..granularity).contains(&age) {
        std::thread::sleep(Duration::from_nanos((granularity - age) as u64));
    }
    age >= 0
}
