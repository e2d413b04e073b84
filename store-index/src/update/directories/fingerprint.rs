//! What tells that a tree is as it was: everything of it but the bytes of its files.

use std::os::unix::fs::MetadataExt as _;

use crate::hash_file::mtime_ns;

/// The fingerprint of a tree.
pub(super) type Fingerprint = [u8; 32];

/// Takes the fingerprint of a directory from its entries, in the order of their names.
#[derive(Debug, Default)]
pub(super) struct Fingerprinter {
    hasher: blake3::Hasher,
    /// The latest modification of a file below, in nanoseconds since 1970.
    newest_ns: i64,
}

impl Fingerprinter {
    fn entry(&mut self, name: &[u8], kind: u8) {
        self.hasher.update(&[kind]);
        self.bytes(name);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    /// Adds a file; its inode only where inodes last.
    pub(super) fn file(&mut self, name: &[u8], metadata: &std::fs::Metadata, steady: bool) {
        self.entry(name, b'f');
        let inode = if steady { metadata.ino() } else { 0 };
        let modified_ns = mtime_ns(metadata);
        self.newest_ns = self.newest_ns.max(modified_ns);
        self.hasher.update(&metadata.len().to_le_bytes());
        self.hasher.update(&modified_ns.to_le_bytes());
        self.hasher.update(&inode.to_le_bytes());
        self.hasher
            .update(&[u8::from(metadata.mode() & 0o100 != 0)]);
    }

    /// Adds a symbolic link.
    pub(super) fn symlink(&mut self, name: &[u8], target: &[u8]) {
        self.entry(name, b'l');
        self.bytes(target);
    }

    /// Adds a directory.
    pub(super) fn directory(&mut self, name: &[u8], inner: &Self) {
        self.entry(name, b'd');
        self.hasher.update(&inner.finish());
        self.newest_ns = self.newest_ns.max(inner.newest_ns);
    }

    pub(super) fn finish(&self) -> Fingerprint {
        *self.hasher.finalize().as_bytes()
    }

    pub(super) const fn newest_ns(&self) -> i64 {
        self.newest_ns
    }
}
