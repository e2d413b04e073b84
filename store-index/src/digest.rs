//! Hash algorithms, digests and running hashers.

use std::fmt;

use sha2::Digest as _;

/// A hash algorithm that a content address may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// MD5, 16 bytes. Broken; works, with a warning.
    Md5,
    /// SHA-1, 20 bytes. Broken; works, with a warning.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
    /// BLAKE3 with its default output of 32 bytes.
    Blake3,
}

impl Algorithm {
    /// Every algorithm, in the order of the enum.
    pub const ALL: [Self; 5] = [
        Self::Md5,
        Self::Sha1,
        Self::Sha256,
        Self::Sha512,
        Self::Blake3,
    ];

    /// Returns the name used in `algo:…`, SRI and store path fingerprints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        }
    }

    /// Finds an algorithm by its lower-case name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// Returns the length of a digest in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Returns true if collisions can be made at will, so that a match proves little.
    pub const fn is_weak(self) -> bool {
        matches!(self, Self::Md5 | Self::Sha1)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The longest digest, that of SHA-512, in bytes.
pub const MAX_DIGEST_LEN: usize = 64;

/// A digest together with the algorithm that made it.
///
/// The bytes behind the algorithm's length are always zero, so that derived equality and order hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; MAX_DIGEST_LEN],
}

impl Digest {
    /// Takes a digest from its bytes; `None` if the length is not the algorithm's.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != algorithm.digest_len() {
            return None;
        }
        let mut array = [0; MAX_DIGEST_LEN];
        array[..bytes.len()].copy_from_slice(bytes);
        Some(Self {
            algorithm,
            bytes: array,
        })
    }

    /// Takes a SHA-256 digest.
    pub fn sha256(bytes: [u8; 32]) -> Self {
        let mut array = [0; MAX_DIGEST_LEN];
        array[..32].copy_from_slice(&bytes);
        Self {
            algorithm: Algorithm::Sha256,
            bytes: array,
        }
    }

    /// Returns the algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the bytes, as many as the algorithm makes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_len()]
    }

    /// Returns the digest in lower-case hexadecimal.
    pub fn to_hex(&self) -> String {
        hex::encode(self.as_bytes())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.to_hex())
    }
}

/// A digest in the making.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    CheckedSha1(Box<sha1_checked::Sha1>),
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
    Blake3(Box<blake3::Hasher>),
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5(_) => "md5",
            Self::Sha1(_) => "sha1",
            Self::CheckedSha1(_) => "sha1 with collision detection",
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
            Self::Blake3(_) => "blake3",
        })
    }
}

impl Hasher {
    /// Starts a digest.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Md5 => State::Md5(md5::Md5::new()),
            Algorithm::Sha1 => State::Sha1(sha1::Sha1::new()),
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
            Algorithm::Blake3 => State::Blake3(Box::default()),
        })
    }

    /// Starts a digest that notices SHA-1 collision attacks, at a quarter of the speed.
    ///
    /// Meant for git ids that are the only proof of the content; other algorithms are as with [`Hasher::new`].
    pub fn new_collision_detecting(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha1 => Self(State::CheckedSha1(Box::new(
                sha1_checked::Sha1::builder().safe_hash(false).build(),
            ))),
            other => Self::new(other),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Md5(hasher) => hasher.update(bytes),
            State::Sha1(hasher) => hasher.update(bytes),
            State::CheckedSha1(hasher) => sha1_checked::Digest::update(hasher.as_mut(), bytes),
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    /// Ends the digest. `None` if a SHA-1 collision attack was detected: such content proves nothing.
    pub fn finish(self) -> Option<Digest> {
        match self.0 {
            State::Md5(hasher) => Digest::new(Algorithm::Md5, &hasher.finalize()),
            State::Sha1(hasher) => Digest::new(Algorithm::Sha1, &hasher.finalize()),
            State::CheckedSha1(hasher) => {
                let result = hasher.try_finalize();
                if result.has_collision() {
                    None
                } else {
                    Digest::new(Algorithm::Sha1, result.hash())
                }
            }
            State::Sha256(hasher) => Digest::new(Algorithm::Sha256, &hasher.finalize()),
            State::Sha512(hasher) => Digest::new(Algorithm::Sha512, &hasher.finalize()),
            State::Blake3(hasher) => Digest::new(Algorithm::Blake3, hasher.finalize().as_bytes()),
        }
    }
}

/// Returns the SHA-256 digest of some bytes in memory.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_hashes_the_empty_string_as_published() {
        let expected = [
            "d41d8cd98f00b204e9800998ecf8427e",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
             47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        ];
        for (algorithm, hex) in Algorithm::ALL.into_iter().zip(expected) {
            assert_eq!(
                Hasher::new(algorithm).finish().unwrap().to_hex(),
                hex,
                "{algorithm}"
            );
            assert_eq!(
                Hasher::new_collision_detecting(algorithm)
                    .finish()
                    .unwrap()
                    .to_hex(),
                hex,
                "{algorithm}"
            );
        }
    }

    #[test]
    fn a_digest_of_the_wrong_length_cannot_exist() {
        assert!(Digest::new(Algorithm::Sha256, &[0; 31]).is_none());
        assert!(Digest::new(Algorithm::Sha1, &[0; 32]).is_none());
        assert!(Digest::new(Algorithm::Sha512, &[0; 64]).is_some());
    }
}
