//! What an index is of: a store, a folder or a medium, and its id.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::digest::sha256;
use crate::nix32;

/// The length of a root id in bytes; as many as in a store path, which is enough to tell roots apart.
const ID_LEN: usize = 20;

/// What kind of place a root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RootKind {
    /// A Nix or Guix store.
    Store,
    /// A folder.
    Folder,
    /// A medium that may be taken out.
    Medium,
}

impl RootKind {
    /// Returns the name in manifests and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Folder => "folder",
            Self::Medium => "medium",
        }
    }

    /// Finds a kind by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Store, Self::Folder, Self::Medium]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

impl fmt::Display for RootKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a root's index directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId([u8; ID_LEN]);

impl RootId {
    /// Returns the bytes.
    pub const fn bytes(&self) -> [u8; ID_LEN] {
        self.0
    }

    fn of(kind: &str, path: &[u8]) -> Self {
        let digest = sha256(&[kind.as_bytes(), b":", path].concat());
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&digest[..ID_LEN]);
        Self(id)
    }

    /// Reads an id as it is printed.
    pub fn parse(text: &str) -> Option<Self> {
        nix32::decode(text.as_bytes()).map(Self)
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&nix32::encode(&self.0))
    }
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootId({self})")
    }
}

/// A place whose content is indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    kind: RootKind,
    path: PathBuf,
    id: RootId,
}

impl Root {
    /// Takes a store by its logical directory, such as `/nix/store`, wherever its files are.
    pub fn store(logical: &str) -> Self {
        let logical = match logical.trim_end_matches('/') {
            "" => "/",
            trimmed => trimmed,
        };
        Self {
            kind: RootKind::Store,
            path: PathBuf::from(logical),
            id: RootId::of("store", logical.as_bytes()),
        }
    }

    /// Takes a folder, which must exist.
    pub fn folder(path: &Path) -> io::Result<Self> {
        let path = fs_err::canonicalize(path)?;
        if !fs_err::metadata(&path)?.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is not a directory", path.display()),
            ));
        }
        Ok(Self::canonical_folder(path))
    }

    /// Takes a folder by its canonical path, there or not.
    pub(crate) fn canonical_folder(path: PathBuf) -> Self {
        let id = RootId::of("folder", path.as_os_str().as_bytes());
        Self {
            kind: RootKind::Folder,
            path,
            id,
        }
    }

    /// Takes a medium by its id. The path is empty for one that is known by its content, wherever it is mounted.
    pub fn medium(id: [u8; ID_LEN], path: PathBuf) -> Self {
        Self {
            kind: RootKind::Medium,
            path,
            id: RootId(id),
        }
    }

    /// Takes a root as a manifest has it.
    pub(crate) const fn recorded(kind: RootKind, path: PathBuf, id: RootId) -> Self {
        Self { kind, path, id }
    }

    /// Returns the kind.
    pub const fn kind(&self) -> RootKind {
        self.kind
    }

    /// Returns the logical directory of a store, the canonical path of a folder or of a medium that is known by it;
    /// empty for a medium that is known by its content.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the id.
    pub const fn id(&self) -> RootId {
        self.id
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            self.kind,
            self.path.display().to_string().escape_debug()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_by_kind_and_path_and_are_as_documented() {
        let store = Root::store("/nix/store/");
        assert_eq!(store.path(), Path::new("/nix/store"));
        assert_eq!(
            store.id(),
            RootId(sha256(b"store:/nix/store")[..20].try_into().unwrap())
        );
        assert_eq!(RootId::parse(&store.id().to_string()), Some(store.id()));
        assert_ne!(store.id(), Root::store("/gnu/store").id());
        assert_ne!(store.id(), Root::canonical_folder("/nix/store".into()).id());
    }
}
