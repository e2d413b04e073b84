//! Compares what landed with what was wanted. Only this file can say that something is verified.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use store_index::address::{ContentAddress, FileHasher, Framing, GitObject};
use store_index::digest::Digest;
use store_index::watch::Watch;

/// How much is read at a time, in bytes.
const BUFFER_LEN: usize = 256 * 1024;

/// The proof that staged content has the wanted hash. Nothing else can be published.
///
/// ```compile_fail
/// let forged = fetcher::verify::Verified { executable: false, bytes: 0, seal: () };
/// ```
#[derive(Debug)]
#[must_use = "verified content that is not published is lost"]
pub struct Verified {
    executable: bool,
    bytes: u64,
    #[expect(dead_code, reason = "private, so that nobody else can make one")]
    seal: (),
}

impl Verified {
    /// Returns whether the owner's executable bit belongs to the content; of no meaning for a tree.
    pub const fn executable(&self) -> bool {
        self.executable
    }

    /// Returns the sum of the sizes of its regular files, in bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The answer of a comparison.
#[derive(Debug)]
pub enum Verdict {
    /// It is what was wanted.
    Right(Verified),
    /// It is something else.
    Wrong {
        /// The digest it has; `None` where it can have none: a SHA-1 collision attack, or a file where a directory
        /// was named.
        got: Option<Digest>,
        /// How large it is, in bytes.
        bytes: u64,
    },
}

/// Hashes one file as it lands.
#[derive(Clone, Debug)]
pub struct FileCheck {
    address: ContentAddress,
    executable: bool,
    /// The form hashed as the bytes land, and whether that form is executable.
    landing: Option<(FileHasher, bool)>,
    bytes: u64,
}

impl FileCheck {
    /// Starts. `size` in bytes may be unknown; `executable_at_source` says which of the two NAR forms is hashed
    /// first. `executable` is what the user asked for.
    pub fn new(
        address: &ContentAddress,
        executable: bool,
        executable_at_source: bool,
        size: Option<u64>,
    ) -> Self {
        let algorithm = address.algorithm();
        let landing = match (address, size) {
            (ContentAddress::Flat(_), size) => Some((
                FileHasher::new(Framing::Flat, algorithm, size.unwrap_or(0)),
                executable,
            )),
            (ContentAddress::Nar(_), Some(size)) => {
                let form = executable || executable_at_source;
                Some((FileHasher::new(Framing::nar(form), algorithm, size), form))
            }
            (ContentAddress::Git(_), Some(size)) => Some((
                FileHasher::new_collision_detecting(Framing::GitBlob, algorithm, size),
                executable,
            )),
            (ContentAddress::Nar(_) | ContentAddress::Git(_), None) => None,
        };
        Self {
            address: *address,
            executable,
            landing,
            bytes: 0,
        }
    }

    /// Adds bytes that landed.
    pub fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some((hasher, _)) = &mut self.landing {
            hasher.update(bytes);
        }
    }

    /// How much has come, in bytes.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds bytes that landed in an earlier run, which lie in the staged file. Where the hash begins with the size, which
    /// the first server may not have told, all is read at the end.
    pub(crate) fn go_on_behind(
        &mut self,
        staged: &File,
        bytes: u64,
        watch: Watch<'_>,
    ) -> io::Result<()> {
        if self.landing.is_none() {
            self.bytes = bytes;
            watch.progress.advance(bytes);
            return Ok(());
        }
        watch.progress.advance(self.bytes);
        let mut buffer = vec![0; BUFFER_LEN];
        while self.bytes < bytes {
            if watch.interrupted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let wanted =
                usize::try_from(bytes - self.bytes).map_or(BUFFER_LEN, |left| left.min(BUFFER_LEN));
            match staged.read_at(&mut buffer[..wanted], self.bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.update(&buffer[..count]);
                    watch.progress.advance(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Compares. Reads the staged file again where the size was not known before, or for the other NAR form.
    pub fn finish(self, staged: &File) -> io::Result<Verdict> {
        let (algorithm, bytes) = (self.address.algorithm(), self.bytes);
        if matches!(self.address, ContentAddress::Git(git) if git.object() == GitObject::Tree) {
            return Ok(Verdict::Wrong { got: None, bytes });
        }
        let (first, tried) = match self.landing {
            Some((hasher, form)) => (hasher.finish(), form),
            None => {
                let hasher = match self.address {
                    ContentAddress::Git(_) => {
                        FileHasher::new_collision_detecting(Framing::GitBlob, algorithm, bytes)
                    }
                    _ => FileHasher::new(Framing::nar(self.executable), algorithm, bytes),
                };
                (hash_again(staged, hasher)?, self.executable)
            }
        };
        let wanted = self.address.digest();
        if first.as_ref() == Some(wanted) {
            return Ok(Verdict::Right(Verified {
                executable: tried,
                bytes,
                seal: (),
            }));
        }
        // Asked for an executable file, the plain form would be another content.
        if matches!(self.address, ContentAddress::Nar(_)) && !self.executable {
            let other = !tried;
            let second = hash_again(
                staged,
                FileHasher::new(Framing::nar(other), algorithm, bytes),
            )?;
            if second.as_ref() == Some(wanted) {
                return Ok(Verdict::Right(Verified {
                    executable: other,
                    bytes,
                    seal: (),
                }));
            }
        }
        Ok(Verdict::Wrong { got: first, bytes })
    }
}

/// Hashes what lies in the staged file.
pub(crate) fn hash_again(staged: &File, mut hasher: FileHasher) -> io::Result<Option<Digest>> {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut offset = 0;
    loop {
        match staged.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Compares the digest of a tree that was hashed as it landed.
pub(crate) fn tree(address: &ContentAddress, got: Option<Digest>, bytes: u64) -> Verdict {
    if got.as_ref() == Some(address.digest()) {
        Verdict::Right(Verified {
            executable: false,
            bytes,
            seal: (),
        })
    } else {
        Verdict::Wrong { got, bytes }
    }
}
