//! What an index can be asked for: key kinds, sets of them, and the digests of one file under each.

use std::fmt;

use crate::address::{ContentAddress, Framing, Method};
use crate::digest::{Algorithm, Digest, MAX_DIGEST_LEN};

/// What a digest in the index was taken of and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// MD5 of the bytes.
    FlatMd5,
    /// SHA-1 of the bytes.
    FlatSha1,
    /// SHA-256 of the bytes; always kept.
    FlatSha256,
    /// SHA-512 of the bytes.
    FlatSha512,
    /// BLAKE3 of the bytes.
    FlatBlake3,
    /// The git blob id.
    GitSha1,
    /// SHA-256 of the NAR without the executable bit.
    NarPlain,
    /// SHA-256 of the NAR with the executable bit.
    NarExecutable,
}

impl KeyKind {
    /// Every kind, in the order of the enum and of the sections in a segment.
    pub const ALL: [Self; 8] = [
        Self::FlatMd5,
        Self::FlatSha1,
        Self::FlatSha256,
        Self::FlatSha512,
        Self::FlatBlake3,
        Self::GitSha1,
        Self::NarPlain,
        Self::NarExecutable,
    ];

    /// Returns how content is framed and with what it is hashed.
    pub const fn recipe(self) -> (Framing, Algorithm) {
        match self {
            Self::FlatMd5 => (Framing::Flat, Algorithm::Md5),
            Self::FlatSha1 => (Framing::Flat, Algorithm::Sha1),
            Self::FlatSha256 => (Framing::Flat, Algorithm::Sha256),
            Self::FlatSha512 => (Framing::Flat, Algorithm::Sha512),
            Self::FlatBlake3 => (Framing::Flat, Algorithm::Blake3),
            Self::GitSha1 => (Framing::GitBlob, Algorithm::Sha1),
            Self::NarPlain => (Framing::NarPlain, Algorithm::Sha256),
            Self::NarExecutable => (Framing::NarExecutable, Algorithm::Sha256),
        }
    }

    /// Returns the length of a digest in bytes.
    pub const fn digest_len(self) -> usize {
        self.recipe().1.digest_len()
    }

    /// Returns the kinds under which an address may be found; none if the index never keeps such digests.
    pub fn of_address(address: &ContentAddress) -> &'static [Self] {
        match (address.method(), address.algorithm()) {
            (Method::Flat, Algorithm::Md5) => &[Self::FlatMd5],
            (Method::Flat, Algorithm::Sha1) => &[Self::FlatSha1],
            (Method::Flat, Algorithm::Sha256) => &[Self::FlatSha256],
            (Method::Flat, Algorithm::Sha512) => &[Self::FlatSha512],
            (Method::Flat, Algorithm::Blake3) => &[Self::FlatBlake3],
            (Method::Git, Algorithm::Sha1) => &[Self::GitSha1],
            (Method::Nar, Algorithm::Sha256) => &[Self::NarPlain, Self::NarExecutable],
            (Method::Git | Method::Nar, _) => &[],
        }
    }

    /// Returns the name in `--algorithms` and in the manifest that stands for this kind.
    pub const fn algorithm_name(self) -> &'static str {
        match self {
            Self::GitSha1 => "git",
            Self::NarPlain | Self::NarExecutable => "nar",
            flat => flat.recipe().1.name(),
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FlatMd5 => "flat md5",
            Self::FlatSha1 => "flat sha1",
            Self::FlatSha256 => "flat sha256",
            Self::FlatSha512 => "flat sha512",
            Self::FlatBlake3 => "flat blake3",
            Self::GitSha1 => "git blob sha1",
            Self::NarPlain => "NAR sha256 (plain)",
            Self::NarExecutable => "NAR sha256 (executable)",
        })
    }
}

/// A set of key kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeySet(u8);

impl KeySet {
    /// Returns the empty set.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Returns what every index keeps.
    pub const fn always() -> Self {
        Self::empty().with(KeyKind::FlatSha256)
    }

    /// Returns the set with one more kind.
    #[must_use]
    pub const fn with(self, kind: KeyKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Returns what is in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns what is in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns true if the kind is in the set.
    pub const fn has(self, kind: KeyKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Returns true if every kind of `other` is in the set.
    pub const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the kinds in order.
    pub fn iter(self) -> impl Iterator<Item = KeyKind> {
        KeyKind::ALL.into_iter().filter(move |&kind| self.has(kind))
    }

    /// Adds what a name in `--algorithms` stands for; `None` if it stands for nothing.
    pub fn with_named(self, name: &str) -> Option<Self> {
        let mut named = KeyKind::ALL
            .into_iter()
            .filter(|kind| kind.algorithm_name() == name)
            .peekable();
        named.peek()?;
        Some(named.fold(self, Self::with))
    }

    /// Returns the names for `--algorithms` and the manifest, sorted.
    pub fn names(self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.iter().map(KeyKind::algorithm_name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The digests of one file, by key kind; a kind may be missing.
#[derive(Clone, Copy)]
pub struct Digests {
    present: KeySet,
    bytes: [[u8; MAX_DIGEST_LEN]; KeyKind::ALL.len()],
}

impl Default for Digests {
    fn default() -> Self {
        Self {
            present: KeySet::empty(),
            bytes: [[0; MAX_DIGEST_LEN]; KeyKind::ALL.len()],
        }
    }
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(kind, bytes)| (kind, hex::encode(bytes))))
            .finish()
    }
}

impl Digests {
    /// Sets the digest of a kind. Returns false, and sets nothing, if the digest is of another algorithm.
    pub fn set(&mut self, kind: KeyKind, digest: &Digest) -> bool {
        let fits = digest.algorithm() == kind.recipe().1;
        if fits {
            self.bytes[kind as usize][..kind.digest_len()].copy_from_slice(digest.as_bytes());
            self.present = self.present.with(kind);
        }
        fits
    }

    /// Returns the digest of a kind.
    pub fn get(&self, kind: KeyKind) -> Option<&[u8]> {
        self.present
            .has(kind)
            .then(|| &self.bytes[kind as usize][..kind.digest_len()])
    }

    /// Returns which kinds are set.
    pub const fn present(&self) -> KeySet {
        self.present
    }

    /// Returns what is set, in the order of the kinds.
    pub fn iter(&self) -> impl Iterator<Item = (KeyKind, &[u8])> {
        KeyKind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, self.get(kind)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sets_go_both_ways() {
        let set = ["nar", "git", "sha512"]
            .iter()
            .fold(KeySet::always(), |set, name| set.with_named(name).unwrap());
        assert_eq!(set.names(), ["git", "nar", "sha256", "sha512"]);
        assert!(set.has(KeyKind::NarPlain) && set.has(KeyKind::NarExecutable));
        assert!(set.includes(KeySet::always()) && !KeySet::always().includes(set));
        assert_eq!(KeySet::empty().with_named("sha3"), None);
    }

    #[test]
    fn a_digest_of_another_algorithm_is_not_taken() {
        let mut digests = Digests::default();
        assert!(!digests.set(KeyKind::GitSha1, &Digest::sha256([1; 32])));
        assert!(digests.set(KeyKind::NarPlain, &Digest::sha256([1; 32])));
        assert_eq!(digests.iter().count(), 1);
    }
}
