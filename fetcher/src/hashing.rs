//! Hashes what lands, on a thread of its own behind the one that writes it: each has about half of the work.

use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use crate::verify::FileCheck;

/// So much is hashed by the thread that writes it, in bytes: a second one costs more than it saves.
const BESIDE_ABOVE: u64 = 1024 * 1024;

/// Chunks that may wait. A chunk of plain HTTP is at most 408 KiB (the largest read of hyper), so this is 6.5 MiB at
/// most; more did not make a transfer faster.
const QUEUE_CHUNKS: usize = 16;

/// The hash of a body of which more is to come.
#[derive(Debug)]
pub(crate) enum Hashing {
    /// Hashed by whoever brings it; so many bytes were.
    Here(Box<FileCheck>, u64),
    /// Hashed by this thread, which takes what is queued.
    Beside(SyncSender<Bytes>, JoinHandle<FileCheck>),
}

impl Hashing {
    pub(crate) fn new(check: FileCheck) -> Self {
        Self::Here(Box::new(check), 0)
    }

    /// Adds the next bytes.
    pub(crate) fn update(&mut self, chunk: Bytes) {
        match self {
            Self::Here(check, came_bytes) => {
                *came_bytes += chunk.len() as u64;
                check.update(&chunk);
                if *came_bytes >= BESIDE_ABOVE {
                    *came_bytes = 0;
                    // Without a thread it goes on here.
                    if let Ok(beside) = Self::beside((**check).clone()) {
                        *self = beside;
                    }
                }
            }
            // The thread takes all; if it panicked, that is told at the end.
            Self::Beside(queue, _) => drop(queue.send(chunk)),
        }
    }

    fn beside(mut check: FileCheck) -> std::io::Result<Self> {
        let (queue, queued) = mpsc::sync_channel::<Bytes>(QUEUE_CHUNKS);
        let thread = thread::Builder::new().name("hash".into()).spawn(move || {
            for chunk in queued {
                check.update(&chunk);
            }
            check
        })?;
        Ok(Self::Beside(queue, thread))
    }

    /// Waits until all is hashed.
    pub(crate) fn finish(self) -> FileCheck {
        match self {
            Self::Here(check, _) => *check,
            Self::Beside(queue, thread) => {
                drop(queue);
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use store_index::address::{ContentAddress, FileHasher, FlatHash, Framing};
    use store_index::digest::Algorithm;

    use super::*;
    use crate::verify::Verdict;

    #[test]
    fn what_is_hashed_beside_has_the_same_hash() {
        for len in [0, 5, BESIDE_ABOVE - 1, BESIDE_ABOVE, 5 * BESIDE_ABOVE + 7] {
            let content: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let mut plain = FileHasher::new(Framing::Flat, Algorithm::Sha256, len);
            plain.update(&content);
            let address = ContentAddress::Flat(FlatHash(plain.finish().unwrap()));
            let mut hashing = Hashing::new(FileCheck::new(&address, false, false, None));
            for chunk in content.chunks(70_001) {
                hashing.update(Bytes::copy_from_slice(chunk));
            }
            let is_beside = matches!(hashing, Hashing::Beside(..));
            assert_eq!(is_beside, len >= BESIDE_ABOVE);
            let check = hashing.finish();
            assert_eq!(check.bytes(), len);
            let verdict = check.finish(&tempfile::tempfile().unwrap()).unwrap();
            assert!(matches!(verdict, Verdict::Right(_)), "{len}: {verdict:?}");
        }
    }
}
