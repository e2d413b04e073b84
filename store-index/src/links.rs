//! The dedup directory of a store: the one place that knows how `.links` is laid out.
//!
//! Each entry is a hard link named by the nix-base32 SHA-256 of the file's NAR form, executable bit included. Nix
//! links symbolic links too; other names may lie there. Upstream discusses sharding and BLAKE3 names: when that
//! comes, it comes here.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, RawDir};

use crate::address::NarHash;
use crate::digest::{Algorithm, Digest};
use crate::nix32;

/// The name of the directory in a store.
pub const LINKS_DIR: &str = ".links";

/// How much of a directory is read at a time, in bytes: as much as the C library does; more gains nothing.
pub const LISTING_BUFFER_LEN: usize = 32 * 1024;

/// The name of an entry: the SHA-256 of the NAR serialisation of one file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName(pub [u8; 32]);

impl LinkName {
    /// Reads a name as it stands in the directory.
    pub fn parse(name: &[u8]) -> Option<Self> {
        nix32::decode(name).map(Self)
    }

    /// Returns the name that a file with this NAR hash has; `None` under another algorithm than SHA-256.
    pub fn of(hash: &NarHash) -> Option<Self> {
        match hash.0.algorithm() {
            Algorithm::Sha256 => hash.0.as_bytes().try_into().ok().map(Self),
            _ => None,
        }
    }

    /// Returns the NAR hash that the name states.
    pub fn nar_hash(&self) -> NarHash {
        NarHash(Digest::sha256(self.0))
    }

    /// Returns the entry's path relative to the store directory.
    pub fn relative_path(&self) -> PathBuf {
        Path::new(LINKS_DIR).join(self.to_string())
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&nix32::encode(&self.0))
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkName({self})")
    }
}

/// Lists the links of a store: name and inode of every regular file with a well-formed name, in directory order.
/// A store without the directory has none. Nothing is opened and nothing is stat'ed unless the file system hides
/// the types of entries.
pub fn for_each(store_dir: &Path, mut each: impl FnMut(LinkName, u64)) -> io::Result<()> {
    let path = store_dir.join(LINKS_DIR);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let named = |error: rustix::io::Errno| {
        let error = io::Error::from(error);
        io::Error::new(
            error.kind(),
            format!("cannot list {}: {error}", path.display()),
        )
    };
    let directory = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(named(error)),
    };
    // Borrowed entries: one allocation a name would cost as much as the kernel's part.
    let mut buffer = Vec::with_capacity(LISTING_BUFFER_LEN);
    let mut listing = RawDir::new(&directory, buffer.spare_capacity_mut());
    while let Some(entry) = listing.next() {
        let entry = entry.map_err(named)?;
        let Some(name) = LinkName::parse(entry.file_name().to_bytes()) else {
            continue;
        };
        let regular = match entry.file_type() {
            FileType::RegularFile => true,
            FileType::Unknown => rustix::fs::statat(
                &directory,
                entry.file_name(),
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile),
            _ => false,
        };
        if regular {
            each(name, entry.ino());
        }
    }
    Ok(())
}
