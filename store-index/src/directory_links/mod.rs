//! Directory links: digests of whole directories as symbolic links in the index directory, which any tool can
//! follow. See `docs/index-format.md`.
//!
//! We ourselves follow none: the target is text, what is recorded of the root is taken off it, and the rest is
//! opened beneath the root as it is mounted now.

mod check;
mod write;

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use crate::address::{ContentAddress, GitObject};
use crate::beneath::{Beneath, Node};
use crate::digest::{Algorithm, Digest};
use crate::format::{MAX_PATH_LEN, is_plain_path};
use crate::nix32;

pub(crate) use check::{Expected, check};
pub(crate) use write::{Links, replace, write_help};

/// The name of their folder in the index directory.
pub const DIRECTORY: &str = "dirlinks";

/// What leads from a link in a folder's own `.store-index` to the folder.
const UP: &[u8] = b"../../..";

/// The longest target, in bytes: what Linux takes.
const MAX_TARGET_LEN: usize = MAX_PATH_LEN;

/// What a link's name is a digest of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TreeKind {
    /// SHA-256 of the NAR serialisation.
    NarSha256,
    /// Git tree id.
    GitSha1,
}

impl TreeKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::NarSha256, Self::GitSha1];

    /// Returns the name of the folder of its links.
    pub const fn directory(self) -> &'static str {
        match self {
            Self::NarSha256 => "nar-sha256",
            Self::GitSha1 => "git-sha1",
        }
    }

    /// Returns the algorithm of its digests.
    pub const fn algorithm(self) -> Algorithm {
        match self {
            Self::NarSha256 => Algorithm::Sha256,
            Self::GitSha1 => Algorithm::Sha1,
        }
    }

    /// Returns the kind that an address may be found under; `None` if directories have no such address.
    pub const fn of_address(address: &ContentAddress) -> Option<Self> {
        match (address, address.algorithm()) {
            (ContentAddress::Nar(_), Algorithm::Sha256) => Some(Self::NarSha256),
            (ContentAddress::Git(git), Algorithm::Sha1) => match git.object() {
                GitObject::Any | GitObject::Tree => Some(Self::GitSha1),
                GitObject::Blob => None,
            },
            _ => None,
        }
    }

    /// Returns the name of a digest's link.
    fn name(self, digest: &[u8]) -> String {
        match self {
            Self::NarSha256 => nix32::encode(digest),
            Self::GitSha1 => hex::encode(digest),
        }
    }

    /// Reads a link's name.
    fn parse_name(self, name: &[u8]) -> Option<Digest> {
        match self {
            Self::NarSha256 => nix32::decode(name).map(Digest::sha256),
            Self::GitSha1 => {
                let mut bytes = [0; 20];
                hex::decode_to_slice(name, &mut bytes).ok()?;
                let digest = Digest::new(Algorithm::Sha1, &bytes)?;
                // Upper case would be a second name for the same digest.
                (name == self.name(&bytes).as_bytes()).then_some(digest)
            }
        }
    }
}

/// How the targets of an index begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The index lies in its own folder.
    InPlace,
    /// It lies elsewhere; the root as the manifest records it.
    Root(PathBuf),
}

impl Base {
    /// Returns the target that leads to a path below the root; `None` if it were too long.
    pub(crate) fn target(&self, relative: &[u8]) -> Option<Vec<u8>> {
        let mut target = match self {
            Self::InPlace => UP.to_vec(),
            Self::Root(root) => trim(root).to_vec(),
        };
        if !relative.is_empty() || target.is_empty() {
            target.push(b'/');
        }
        target.extend(relative);
        (target.len() <= MAX_TARGET_LEN).then_some(target)
    }

    /// Reads a target written with this base; `None` if it was not.
    pub(crate) fn strip(&self, target: &[u8]) -> Option<PathBuf> {
        let base = match self {
            Self::InPlace => UP,
            Self::Root(root) => trim(root),
        };
        let rest = target.strip_prefix(base)?;
        let relative = match rest.strip_prefix(b"/") {
            None if rest.is_empty() => rest,
            None => return None,
            // Only the root of all files ends in a slash.
            Some([]) if base.is_empty() => &[],
            Some(relative) if is_plain_path(relative) => relative,
            Some(_) => return None,
        };
        Some(PathBuf::from(OsString::from_vec(relative.to_vec())))
    }
}

/// Returns the root's path without a slash at its end, so that nothing is left of the root of all files.
fn trim(root: &Path) -> &[u8] {
    let bytes = root.as_os_str().as_bytes();
    bytes.strip_suffix(b"/").unwrap_or(bytes)
}

/// Returns how many links an index has; what is no link's name does not count.
pub(crate) fn count(index_dir: &Path) -> u64 {
    let links = TreeKind::ALL.into_iter().flat_map(|kind| {
        let folder = index_dir.join(DIRECTORY).join(kind.directory());
        let names = fs_err::read_dir(folder).into_iter().flatten().flatten();
        names.filter(move |entry| {
            kind.parse_name(entry.file_name().as_encoded_bytes())
                .is_some()
        })
    });
    links.count() as u64
}

/// Looks an address up in an index directory. Returns a path relative to the root, empty for the root itself.
pub(crate) fn look_up(
    index_dir: &Path,
    recorded_root: &Path,
    address: &ContentAddress,
) -> io::Result<Option<PathBuf>> {
    let Some(kind) = TreeKind::of_address(address) else {
        return Ok(None);
    };
    let link = relative_path(kind, address.digest().as_bytes());
    match Beneath::open(index_dir)?.open_node(&link) {
        Ok(Node::Symlink(target)) => {
            // An index may have been moved from its folder or onto it, together with its links.
            let bases = [Base::InPlace, Base::Root(recorded_root.to_owned())];
            Ok(bases.iter().find_map(|base| base.strip(&target)))
        }
        Ok(Node::File(_) | Node::Directory(_)) => Ok(None),
        Err(error) => match error.kind() {
            // The last is something that is no link.
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidInput => Ok(None),
            _ => Err(error),
        },
    }
}

/// Returns where in the index directory a digest's link is.
pub(crate) fn relative_path(kind: TreeKind, digest: &[u8]) -> PathBuf {
    Path::new(DIRECTORY)
        .join(kind.directory())
        .join(kind.name(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_go_both_ways() {
        for base in ["/nix/store", "/", "/media/a b\n"] {
            let base = Base::Root(base.into());
            for relative in [&b""[..], b"a", b"a/b\n\xff/c"] {
                let target = base.target(relative).unwrap();
                let stripped = base.strip(&target).unwrap();
                assert_eq!(stripped.as_os_str().as_bytes(), relative);
            }
        }
        assert_eq!(Base::InPlace.target(b"a/b").unwrap(), b"../../../a/b");
        assert_eq!(Base::InPlace.target(b"").unwrap(), b"../../..");
        assert_eq!(Base::Root("/".into()).target(b"").unwrap(), b"/");
        let store = Base::Root("/nix/store".into());
        assert_eq!(store.target(b"x").unwrap(), b"/nix/store/x");
        assert_eq!(store.target(&[b'x'; MAX_TARGET_LEN]), None);
    }

    #[test]
    fn nothing_leads_out_of_the_root_or_into_another() {
        let store = Base::Root("/nix/store".into());
        for target in [
            "/gnu/store/x",
            "/nix/store2/x",
            "/nix/storex",
            "/nix/store/",
            "/nix/store/../x",
            "/nix/store//x",
            "/nix/store/x/",
            "/nix/store/./x",
            "nix/store/x",
            "",
        ] {
            assert_eq!(store.strip(target.as_bytes()), None, "{target}");
        }
        for target in ["../../../..", "../../../../x", "../../..x", "../x", "/x"] {
            assert_eq!(Base::InPlace.strip(target.as_bytes()), None, "{target}");
        }
    }

    #[test]
    fn names_are_the_only_key_and_have_one_spelling() {
        for kind in TreeKind::ALL {
            let digest = vec![7; kind.algorithm().digest_len()];
            let name = kind.name(&digest);
            assert_eq!(kind.parse_name(name.as_bytes()).unwrap().as_bytes(), digest);
            assert_eq!(kind.parse_name(&name.as_bytes()[1..]), None);
        }
        let upper = "ABCDEF0123".repeat(4);
        assert_eq!(TreeKind::GitSha1.parse_name(upper.as_bytes()), None);
    }
}
