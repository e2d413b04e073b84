//! Store paths of fixed outputs, computed as Nix and Guix do.
//!
//! The rules are those of Nix's `makeFixedOutputPath` and of the same code in Guix; the name is part of the digest,
//! which is why the same bytes under another name have another path.

use std::fmt;

use sha2::Digest as _;

use crate::address::{ContentAddress, Method};
use crate::digest::{Algorithm, sha256};
use crate::nix32;

/// The bytes of the digest in a store path.
pub const PATH_DIGEST_LEN: usize = 20;

/// The characters of the digest in a store path.
pub const PATH_DIGEST_CHARS: usize = nix32::encoded_len(PATH_DIGEST_LEN);

/// The longest name of a store item, in bytes: Nix's limit, so that `<digest>-<name>.lock` and the like fit 255.
pub const MAX_NAME_LEN: usize = 211;

/// A valid name of a store item.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ItemName(String);

/// Why a text is no name of a store item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Longer than [`MAX_NAME_LEN`].
    #[error("the name has {0} characters; a store item's name has at most {MAX_NAME_LEN}")]
    TooLong(usize),
    /// A character that store items cannot have.
    #[error("'{}' cannot be in the name of a store item (letters, digits and +-._?= can)", .0.escape_default())]
    Character(char),
    /// `.` or `..`, alone or before a dash.
    #[error("a store item's name cannot be '.' or '..', nor begin with '.-' or '..-'")]
    Dots,
}

impl ItemName {
    /// Checks a name by Nix's rules.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(bad) = name
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || "+-._?=".contains(*c)))
        {
            return Err(NameError::Character(bad));
        }
        if name.len() > MAX_NAME_LEN {
            return Err(NameError::TooLong(name.len()));
        }
        if matches!(name.split('-').next(), Some("." | "..")) {
            return Err(NameError::Dots);
        }
        Ok(Self(name.to_owned()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ItemName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Splits `<digest>-<name>` as it stands in a store's listing. `None` for `.links`, lock files and other names.
pub fn split_base_name(base_name: &str) -> Option<([u8; PATH_DIGEST_LEN], &str)> {
    let (digest, rest) = base_name.as_bytes().split_at_checked(PATH_DIGEST_CHARS)?;
    let digest = nix32::decode(digest)?;
    let name = std::str::from_utf8(rest).ok()?.strip_prefix('-')?;
    (!name.is_empty()).then_some((digest, name))
}

/// Computes the paths that a content address has under various names: what does not depend on the name is
/// hashed once.
#[derive(Clone, Debug)]
pub struct FixedOutput {
    /// Ready but for the name.
    fingerprint: sha2::Sha256,
}

impl FixedOutput {
    /// Prepares for a store with this logical directory, such as `/nix/store`.
    pub fn new(store_dir: &str, address: &ContentAddress) -> Self {
        let digest = address.digest();
        let (kind, inner) = match (address.method(), address.algorithm()) {
            (Method::Nar, Algorithm::Sha256) => ("source", digest.to_hex()),
            (method, algorithm) => {
                let prefix = match method {
                    Method::Flat => "",
                    Method::Nar => "r:",
                    Method::Git => "git:",
                };
                let inner = format!("fixed:out:{prefix}{algorithm}:{}:", digest.to_hex());
                ("output:out", hex::encode(sha256(inner.as_bytes())))
            }
        };
        let mut fingerprint = sha2::Sha256::new();
        fingerprint.update(format!("{kind}:sha256:{inner}:{store_dir}:"));
        Self { fingerprint }
    }

    /// Returns the digest part of the path under a name.
    pub fn path_digest(&self, name: &str) -> [u8; PATH_DIGEST_LEN] {
        let mut fingerprint = self.fingerprint.clone();
        fingerprint.update(name.as_bytes());
        compress(&fingerprint.finalize().into())
    }

    /// Returns `<digest>-<name>`.
    pub fn base_name(&self, name: &ItemName) -> String {
        format!("{}-{name}", nix32::encode(&self.path_digest(name.as_str())))
    }
}

/// Folds a SHA-256 digest to the length of a path's digest by exclusive or, as Nix does.
pub fn compress(digest: &[u8; 32]) -> [u8; PATH_DIGEST_LEN] {
    let mut folded = [0; PATH_DIGEST_LEN];
    for (position, byte) in digest.iter().enumerate() {
        folded[position % PATH_DIGEST_LEN] ^= byte;
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::ContentAddress;
    use crate::digest::{Digest, Hasher};

    fn path(method: Method, algorithm: Algorithm, bytes: &[u8]) -> String {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        let address = ContentAddress::new(method, hasher.finish().unwrap()).unwrap();
        FixedOutput::new("/nix/store", &address).base_name(&ItemName::new("hello.txt").unwrap())
    }

    /// Made by `nix-store --print-fixed-path` for the contents "hello\n".
    #[test]
    fn agrees_with_nix() {
        let hello = b"hello\n";
        let mut nar = crate::nar::file_prefix(false, 6);
        nar.extend(hello);
        nar.extend(crate::nar::file_suffix(6));
        for (method, algorithm, bytes, expected) in [
            (
                Method::Flat,
                Algorithm::Sha256,
                &hello[..],
                "gy454w1cxaq731grqwylhzf4pp9r5izh",
            ),
            (
                Method::Flat,
                Algorithm::Sha1,
                hello,
                "svdva85yi507g9vncgsaxvnd1r808h4w",
            ),
            (
                Method::Flat,
                Algorithm::Md5,
                hello,
                "dra1cz5vbrhclpv4y1q0psnbkxz581bk",
            ),
            (
                Method::Flat,
                Algorithm::Sha512,
                hello,
                "9a8mxachqmcv8x2cfijdps9dyxgyyrzm",
            ),
            (
                Method::Nar,
                Algorithm::Sha256,
                &nar,
                "i9pmrzmpshapij2kin22pff6fc2adavx",
            ),
            (
                Method::Nar,
                Algorithm::Sha1,
                &nar,
                "hzq8n5jpi3g2d0xhlvqd8q1gx5c9s6i3",
            ),
            (
                Method::Nar,
                Algorithm::Md5,
                &nar,
                "l2ycihp9r6lnfifs72r40m62fwicg5iz",
            ),
            (
                Method::Nar,
                Algorithm::Sha512,
                &nar,
                "8xkszhbayigjg9vbrrxfa1hp9qflbh6b",
            ),
        ] {
            assert_eq!(
                path(method, algorithm, bytes),
                format!("{expected}-hello.txt"),
                "{method} {algorithm}"
            );
        }
    }

    /// As written by a Guix client into a real derivation.
    #[test]
    fn agrees_with_guix() {
        let hex = "31e066137a962676e89f69d1b65382de95a7ef7d914b8cb956f41ea72e0f516b";
        let digest = Digest::new(Algorithm::Sha256, &hex::decode(hex).unwrap()).unwrap();
        let flat = ContentAddress::new(Method::Flat, digest).unwrap();
        let name = ItemName::new("hello-2.10.tar.gz").unwrap();
        assert_eq!(
            FixedOutput::new("/gnu/store", &flat).base_name(&name),
            "hbdalsf5lpf01x4dcknwx6xbn6n5km6k-hello-2.10.tar.gz"
        );
        let tree = ContentAddress::new(Method::Nar, digest).unwrap();
        let name = ItemName::new("hello-git-1.0-checkout").unwrap();
        assert_eq!(
            FixedOutput::new("/gnu/store", &tree).base_name(&name),
            "4ynmcfg1xi0ah07pc2p8hz15jsqcj4ny-hello-git-1.0-checkout"
        );
    }

    #[test]
    fn names_follow_nix() {
        let long = "a".repeat(211);
        for good in [
            "hello-2.10.tar.gz",
            "a",
            ".gitignore",
            "..a",
            "x=?+_",
            &long,
        ] {
            assert!(ItemName::new(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(212);
        for bad in [
            "", ".", "..", ".-a", "..-a", "a/b", "a b", "ä", "a\0", &too_long,
        ] {
            assert!(ItemName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listing_names_split() {
        let (digest, name) = split_base_name("gy454w1cxaq731grqwylhzf4pp9r5izh-hello.txt").unwrap();
        assert_eq!(
            (nix32::encode(&digest).as_str(), name),
            ("gy454w1cxaq731grqwylhzf4pp9r5izh", "hello.txt")
        );
        for bad in [
            ".links",
            "gy454w1cxaq731grqwylhzf4pp9r5izh",
            "gy454w1cxaq731grqwylhzf4pp9r5izh-",
            "e-x",
        ] {
            assert_eq!(split_base_name(bad), None, "{bad}");
        }
    }
}
