//! Content addresses: a method, an algorithm and a digest.
//!
//! The three methods have types of their own, because the same file has a different digest under each and
//! looking one up where another is meant finds nothing, silently.

use std::fmt;

use crate::digest::{Algorithm, Digest, Hasher};

/// What is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// The bytes of one file.
    Flat,
    /// The NAR serialisation of a file or tree; Nix says "recursive".
    Nar,
    /// The id of a git blob or tree.
    Git,
}

impl Method {
    /// Returns the name used on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Nar => "nar",
            Self::Git => "git",
        }
    }

    /// Finds a method by name; `recursive` means `nar`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "flat" => Some(Self::Flat),
            "nar" | "recursive" => Some(Self::Nar),
            "git" => Some(Self::Git),
            _ => None,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The digest of a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlatHash(pub Digest);

/// The digest of a NAR serialisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NarHash(pub Digest);

/// A git object id; sha1 or sha256 only, see [`GitHash::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GitHash {
    digest: Digest,
    object: GitObject,
}

/// Which git objects an id may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GitObject {
    /// Not said: a blob or a tree.
    Any,
    /// `swh:1:cnt:`, a file.
    Blob,
    /// `swh:1:dir:`, a directory.
    Tree,
}

impl GitHash {
    /// Takes an id; `None` for an algorithm that git does not know.
    pub fn new(digest: Digest, object: GitObject) -> Option<Self> {
        matches!(digest.algorithm(), Algorithm::Sha1 | Algorithm::Sha256)
            .then_some(Self { digest, object })
    }

    /// Returns the id.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns which objects are meant.
    pub const fn object(&self) -> GitObject {
        self.object
    }
}

/// What is wanted: the content that has this digest under this method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentAddress {
    /// One file by its bytes.
    Flat(FlatHash),
    /// A file or tree by its NAR serialisation.
    Nar(NarHash),
    /// A file or tree by its git id.
    Git(GitHash),
}

impl ContentAddress {
    /// Takes an address apart from the text forms; `None` if the method cannot have the algorithm.
    pub fn new(method: Method, digest: Digest) -> Option<Self> {
        Some(match method {
            Method::Flat => Self::Flat(FlatHash(digest)),
            Method::Nar => Self::Nar(NarHash(digest)),
            Method::Git => Self::Git(GitHash::new(digest, GitObject::Any)?),
        })
    }

    /// Returns the method.
    pub const fn method(&self) -> Method {
        match self {
            Self::Flat(_) => Method::Flat,
            Self::Nar(_) => Method::Nar,
            Self::Git(_) => Method::Git,
        }
    }

    /// Returns the digest.
    pub const fn digest(&self) -> &Digest {
        match self {
            Self::Flat(FlatHash(digest)) | Self::Nar(NarHash(digest)) => digest,
            Self::Git(git) => git.digest(),
        }
    }

    /// Returns the algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.digest().algorithm()
    }
}

/// How the bytes of one file are framed before they are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Framing {
    /// The bytes alone.
    Flat,
    /// The NAR of a regular file without the executable bit.
    NarPlain,
    /// The NAR of a regular file with the executable bit.
    NarExecutable,
    /// A git blob.
    GitBlob,
}

impl Framing {
    /// Returns the NAR framing of a file.
    pub const fn nar(executable: bool) -> Self {
        if executable {
            Self::NarExecutable
        } else {
            Self::NarPlain
        }
    }
}

/// A running digest of one file's content under a framing.
#[derive(Clone, Debug)]
pub struct FileHasher {
    hasher: Hasher,
    framing: Framing,
    /// What the framing was started with, in bytes.
    size: u64,
    /// How much has come, in bytes.
    seen: u64,
}

impl FileHasher {
    /// Starts with a file of `size` bytes, which only the flat framing can do without.
    pub fn new(framing: Framing, algorithm: Algorithm, size: u64) -> Self {
        Self::with(Hasher::new(algorithm), framing, size)
    }

    /// The same with SHA-1 collision detection.
    pub fn new_collision_detecting(framing: Framing, algorithm: Algorithm, size: u64) -> Self {
        Self::with(Hasher::new_collision_detecting(algorithm), framing, size)
    }

    fn with(mut hasher: Hasher, framing: Framing, size: u64) -> Self {
        match framing {
            Framing::Flat => {}
            Framing::NarPlain => hasher.update(&crate::nar::file_prefix(false, size)),
            Framing::NarExecutable => hasher.update(&crate::nar::file_prefix(true, size)),
            Framing::GitBlob => hasher.update(format!("blob {size}\0").as_bytes()),
        }
        Self {
            hasher,
            framing,
            size,
            seen: 0,
        }
    }

    /// Adds bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.seen += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    /// Ends the digest. `None` if the content had another size than the framing announced, or a SHA-1 collision
    /// attack was detected.
    pub fn finish(mut self) -> Option<Digest> {
        match self.framing {
            Framing::Flat => {}
            Framing::GitBlob if self.seen != self.size => return None,
            Framing::GitBlob => {}
            Framing::NarPlain | Framing::NarExecutable if self.seen != self.size => return None,
            Framing::NarPlain | Framing::NarExecutable => {
                self.hasher.update(&crate::nar::file_suffix(self.size))
            }
        }
        self.hasher.finish()
    }
}
