//! Copies one local file into staging and hashes the bytes that land.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;

use rustix::fs::Advice;
use store_index::watch::Watch;

use crate::verify::{FileCheck, Verdict};

/// Below this size one thread reads, writes and hashes: a second one costs more than it saves.
const THREADED_ABOVE: u64 = 1024 * 1024;

/// Below this size a reflink is not tried: the call costs as much as the copy.
const REFLINK_ABOVE: u64 = 64 * 1024;

/// How much is copied at a time, in bytes: stays in the second-level cache until it is hashed.
const BUFFER_LEN: usize = 256 * 1024;

/// How many buffers go round between the copying and the hashing thread. Hashing takes longest: this many keep it busy
/// for the milliseconds that the scheduler of a busy machine may keep the other thread waiting.
const BUFFERS: usize = 32;

/// How much is copied without hashing before a look at the interrupt flag, in bytes.
const UNHASHED_LEN: u64 = 64 << 20;

/// How much is moved at a time, in bytes.
const MOVED_LEN: usize = 1024 * 1024;

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The source cannot be read.
    #[error("cannot read it: {0}")]
    Read(#[source] io::Error),
    /// The staging file cannot be written.
    #[error("cannot write: {0}")]
    Write(#[source] io::Error),
    /// The source grew or shrank meanwhile, or the medium reads short.
    #[error("it has {seen} bytes, but {size} were announced")]
    Changed {
        /// The size at opening, in bytes.
        size: u64,
        /// How many came, in bytes; one more than the size says that there were more.
        seen: u64,
    },
    /// Told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Copies `source`, of `size` bytes, into the empty file `staged`.
pub fn copy(
    source: &File,
    size: u64,
    staged: &File,
    check: FileCheck,
    watch: Watch<'_>,
) -> Result<Verdict, CopyError> {
    if size >= REFLINK_ABOVE && rustix::fs::ioctl_ficlone(staged, source).is_ok() {
        // The clone is hashed, not the source, which may change.
        return pass(staged, size, None, check, watch);
    }
    // A hint only: a file system that ignores it reads as well.
    let _ = rustix::fs::fadvise(source.as_fd(), 0, None, Advice::Sequential);
    pass(source, size, Some(staged), check, watch)
}

/// Hashes a file of `size` bytes where it lies.
pub(crate) fn hash(
    file: &File,
    size: u64,
    check: FileCheck,
    watch: Watch<'_>,
) -> Result<Verdict, CopyError> {
    pass(file, size, None, check, watch)
}

/// Copies a whole file into an empty one without hashing it: for what is known to be wrong, or is hashed later.
pub(crate) fn copy_unhashed(mut from: &File, mut to: &File, watch: Watch<'_>) -> io::Result<()> {
    from.rewind()?;
    loop {
        if watch.interrupted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if io::copy(&mut from.take(UNHASHED_LEN), &mut to)? == 0 {
            return Ok(());
        }
    }
}

/// Moves what is in a file into an empty one without hashing it: from its end, so that both together never take more
/// room than one and a little.
pub(crate) fn move_unhashed(from: &File, to: &File, watch: Watch<'_>) -> io::Result<()> {
    let mut left = from.metadata()?.len();
    let mut buffer = vec![0; MOVED_LEN];
    while left > 0 {
        if watch.interrupted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let start = (left - 1) / MOVED_LEN as u64 * MOVED_LEN as u64;
        let part = &mut buffer[..(left - start) as usize];
        from.read_exact_at(part, start)?;
        to.write_all_at(part, start)?;
        from.set_len(start)?;
        left = start;
    }
    Ok(())
}

/// Reads `from` once: hashes it and, if there is a file to write to, writes it.
fn pass(
    from: &File,
    size: u64,
    to: Option<&File>,
    mut check: FileCheck,
    watch: Watch<'_>,
) -> Result<Verdict, CopyError> {
    let staged = to.unwrap_or(from);
    if size < THREADED_ABOVE {
        let len = usize::try_from(size + 1).map_or(BUFFER_LEN, |len| len.clamp(4096, BUFFER_LEN));
        let mut buffer = vec![0; len];
        let mut seen = 0;
        while let Some(count) = step(from, to, &mut buffer, size, &mut seen, watch)? {
            check.update(&buffer[..count]);
        }
        return check.finish(staged).map_err(CopyError::Read);
    }
    let (filled, to_hash) = mpsc::sync_channel::<(Vec<u8>, usize)>(BUFFERS);
    let (emptied, to_fill) = mpsc::sync_channel::<Vec<u8>>(BUFFERS);
    for _ in 0..BUFFERS {
        emptied
            .send(vec![0; BUFFER_LEN])
            .expect("the receiver is held here");
    }
    let check = std::thread::scope(|scope| {
        let hashing = scope.spawn(move || {
            for (buffer, count) in to_hash {
                check.update(&buffer[..count]);
                // The other side may have given up.
                drop(emptied.send(buffer));
            }
            check
        });
        let mut seen = 0;
        let copied = loop {
            let Ok(mut buffer) = to_fill.recv() else {
                break Ok(());
            };
            match step(from, to, &mut buffer, size, &mut seen, watch) {
                Ok(Some(count)) => {
                    if filled.send((buffer, count)).is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(filled);
        let check = hashing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        copied.map(|()| check)
    })?;
    check.finish(staged).map_err(CopyError::Read)
}

/// Moves one buffer on; `None` at the end of a file that had the announced size.
fn step(
    mut from: &File,
    to: Option<&File>,
    buffer: &mut [u8],
    size: u64,
    seen: &mut u64,
    watch: Watch<'_>,
) -> Result<Option<usize>, CopyError> {
    if watch.interrupted() {
        return Err(CopyError::Interrupted);
    }
    let count = loop {
        match from.read(buffer) {
            Ok(count) => break count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
        }
    };
    *seen += count as u64;
    if *seen > size || (count == 0 && *seen < size) {
        return Err(CopyError::Changed { size, seen: *seen });
    }
    if count == 0 {
        return Ok(None);
    }
    if let Some(mut to) = to {
        to.write_all(&buffer[..count]).map_err(CopyError::Write)?;
    }
    watch.progress.advance(count as u64);
    Ok(Some(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use store_index::watch::NoProgress;

    fn with_interrupt(set: bool, run: impl FnOnce(Watch<'_>) -> io::Result<()>) -> io::Result<()> {
        let interrupt = AtomicBool::new(set);
        run(Watch {
            interrupt: &interrupt,
            progress: &NoProgress,
        })
    }

    #[test]
    fn what_is_not_hashed_is_whole_all_the_same() {
        for len in [0, 1, MOVED_LEN - 1, MOVED_LEN, 2 * MOVED_LEN + 7] {
            let content: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let files = || {
                let mut from = tempfile::tempfile().unwrap();
                from.write_all(&content).unwrap();
                (from, tempfile::tempfile().unwrap())
            };
            let is_there = |file: &File| {
                let mut there = Vec::new();
                let mut file = file;
                file.rewind().unwrap();
                file.read_to_end(&mut there).unwrap();
                there == content
            };
            let (from, to) = files();
            with_interrupt(false, |watch| copy_unhashed(&from, &to, watch)).unwrap();
            assert!(is_there(&to) && is_there(&from));
            let (from, to) = files();
            with_interrupt(false, |watch| move_unhashed(&from, &to, watch)).unwrap();
            assert!(is_there(&to));
            assert_eq!(from.metadata().unwrap().len(), 0);
        }
    }

    #[test]
    fn whoever_is_told_to_stop_copies_nothing() {
        let (mut from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all(b"content").unwrap();
        let copied = with_interrupt(true, |watch| copy_unhashed(&from, &to, watch));
        let moved = with_interrupt(true, |watch| move_unhashed(&from, &to, watch));
        for ended in [copied, moved] {
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::Interrupted);
        }
        assert_eq!(to.metadata().unwrap().len(), 0);
    }
}
