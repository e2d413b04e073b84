//! How a disc is known again: by what is on it, since users cannot read devices and squashfs has no label.

use std::ffi::{CString, OsStr};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::Digest as _;

use crate::beneath::Beneath;

/// The most entries that are looked at. A directory that would go beyond counts by its name alone, so that the id
/// does not depend on the order in which a file system lists.
pub const MAX_IDENTITY_ENTRIES: usize = 100_000;

/// How much of `.disk/info` counts, in bytes. Debian's has a line.
const MAX_INFO_LEN: u64 = 64 * 1024;

/// Our own index, which may come later; the same disc with it is the same disc.
const INDEX_DIR: &[u8] = b".store-index";

/// The length of an id in bytes.
const ID_LEN: usize = 20;

/// Returns the id of a medium. A read-only one is known by `.disk/info` and the names, types and sizes of what lies
/// in its two topmost levels; a writable one changes, and is known by its canonical path.
pub fn medium_identity(root: &Path, read_only: bool) -> io::Result<[u8; ID_LEN]> {
    let mut hasher = sha2::Sha256::new();
    hasher.update(b"medium:");
    if read_only {
        content(root, &mut hasher)?;
    } else {
        hasher.update(fs_err::canonicalize(root)?.as_os_str().as_bytes());
    }
    let digest: [u8; 32] = hasher.finalize().into();
    let mut id = [0; ID_LEN];
    id.copy_from_slice(&digest[..ID_LEN]);
    Ok(id)
}

/// Hashes, each number eight bytes little-endian: the length of `.disk/info` and its bytes; the number of entries of
/// the root; for each, sorted by name, a letter for its type, the length of the name, the name and the size of a
/// file; after a directory, the number of its entries and the same of each of them.
fn content(root: &Path, hasher: &mut sha2::Sha256) -> io::Result<()> {
    let named = |error: Errno| {
        let error = io::Error::from(error);
        io::Error::new(
            error.kind(),
            format!("cannot read {}: {error}", root.display()),
        )
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags, Mode::empty()).map_err(named)?;
    let device = rustix::fs::fstat(&top).map_err(named)?.st_dev;
    // A directory that hangs counts as the directory that it is mounted on, as any other file system does.
    let hanging = super::hanging_below(root);
    let is_hanging = |path: &Path| hanging.iter().any(|mount_point| mount_point == path);
    let info = if is_hanging(Path::new(".disk")) {
        Vec::new()
    } else {
        disk_info(root, top.as_fd())?
    };
    number(hasher, info.len() as u64);
    hasher.update(&info);

    let mut room = MAX_IDENTITY_ENTRIES;
    let Some(mut names) = list(top.as_fd(), &mut room).map_err(named)? else {
        return Ok(());
    };
    names.retain(|name| name.as_bytes() != INDEX_DIR);
    number(hasher, names.len() as u64);
    for name in names {
        let path = Path::new(OsStr::from_bytes(name.as_bytes()));
        if is_hanging(path) {
            hash_entry(hasher, b"d", &name, 0);
            continue;
        }
        let is_directory = entry(hasher, top.as_fd(), &name).map_err(named)?;
        if !is_directory {
            continue;
        }
        let Some(directory) = open_below(&top, &name, device).map_err(named)? else {
            continue;
        };
        let Some(names) = list(directory.as_fd(), &mut room).map_err(named)? else {
            continue;
        };
        number(hasher, names.len() as u64);
        for name in names {
            if is_hanging(&path.join(OsStr::from_bytes(name.as_bytes()))) {
                hash_entry(hasher, b"d", &name, 0);
            } else {
                entry(hasher, directory.as_fd(), &name).map_err(named)?;
            }
        }
    }
    Ok(())
}

/// Reads `.disk/info`; empty if there is none, or something that is no file, or this user may not.
fn disk_info(root: &Path, top: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let is = |path: &str, file_type| {
        rustix::fs::statat(top, path, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == file_type)
    };
    let mut info = Vec::new();
    if is(".disk", FileType::Directory) && is(".disk/info", FileType::RegularFile) {
        match Beneath::open(root)?.open_file(Path::new(".disk/info")) {
            Ok(file) => {
                file.take(MAX_INFO_LEN).read_to_end(&mut info)?;
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(info)
}

/// Opens a directory of the second level. `None` if this user may not, or something else is mounted there.
fn open_below(top: &OwnedFd, name: &CString, device: u64) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(top, name, flags, Mode::empty()) {
        Ok(directory) => {
            let same = rustix::fs::fstat(&directory)?.st_dev == device;
            Ok(same.then_some(directory))
        }
        Err(Errno::ACCESS | Errno::PERM) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists a directory, sorted by name; `None` if it has more entries than there is room for.
fn list(directory: BorrowedFd<'_>, room: &mut usize) -> Result<Option<Vec<CString>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if names.len() == *room {
            return Ok(None);
        }
        names.push(entry.file_name().to_owned());
    }
    *room -= names.len();
    names.sort_unstable();
    Ok(Some(names))
}

/// Hashes one entry, and says whether it is a directory.
fn entry(
    hasher: &mut sha2::Sha256,
    directory: BorrowedFd<'_>,
    name: &CString,
) -> Result<bool, Errno> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let (letter, size) = match FileType::from_raw_mode(stat.st_mode) {
        // Only files have a size that every file system agrees on.
        FileType::RegularFile => (b"f", u64::try_from(stat.st_size).unwrap_or(0)),
        FileType::Directory => (b"d", 0),
        FileType::Symlink => (b"l", 0),
        _ => (b"o", 0),
    };
    hash_entry(hasher, letter, name, size);
    Ok(letter == b"d")
}

fn hash_entry(hasher: &mut sha2::Sha256, letter: &[u8; 1], name: &CString, size: u64) {
    hasher.update(letter);
    number(hasher, name.as_bytes().len() as u64);
    hasher.update(name.as_bytes());
    number(hasher, size);
}

fn number(hasher: &mut sha2::Sha256, number: u64) {
    hasher.update(number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("disc");
        fs_err::create_dir_all(root.join("pool/main")).unwrap();
        fs_err::create_dir_all(root.join(".disk")).unwrap();
        fs_err::write(root.join(".disk/info"), "Disc 1\n").unwrap();
        fs_err::write(root.join("README"), "read me").unwrap();
        fs_err::write(root.join("pool/file"), "file").unwrap();
        fs_err::write(root.join("pool/main/deep"), "deep").unwrap();
        (dir, root)
    }

    #[test]
    fn two_levels_count_and_nothing_below() {
        type Change = (&'static str, fn(&Path), bool);
        let (_dir, root) = tree();
        let original = medium_identity(&root, true).unwrap();
        let changes: [Change; 8] = [
            (
                "deep file",
                |root| fs_err::write(root.join("pool/main/deep"), "other").unwrap(),
                true,
            ),
            (
                "index",
                |root| {
                    fs_err::create_dir(root.join(".store-index")).unwrap();
                    fs_err::write(root.join(".store-index/manifest"), "{}").unwrap();
                },
                true,
            ),
            (
                "the same size",
                |root| fs_err::write(root.join("README"), "READ ME").unwrap(),
                true,
            ),
            (
                "size",
                |root| fs_err::write(root.join("README"), "longer than it was").unwrap(),
                false,
            ),
            (
                "size below",
                |root| fs_err::write(root.join("pool/file"), "longer").unwrap(),
                false,
            ),
            (
                "name",
                |root| fs_err::rename(root.join("README"), root.join("README2")).unwrap(),
                false,
            ),
            (
                "type",
                |root| {
                    fs_err::remove_file(root.join("pool/file")).unwrap();
                    std::os::unix::fs::symlink("x", root.join("pool/file")).unwrap();
                },
                false,
            ),
            (
                "disk info",
                |root| fs_err::write(root.join(".disk/info"), "Disc 2\n").unwrap(),
                false,
            ),
        ];
        for (what, change, same) in changes {
            let (_dir, root) = tree();
            assert_eq!(
                medium_identity(&root, true).unwrap(),
                original,
                "wherever it is mounted"
            );
            change(&root);
            assert_eq!(
                medium_identity(&root, true).unwrap() == original,
                same,
                "{what}"
            );
        }
    }

    #[test]
    fn a_writable_medium_is_its_path() {
        let (_dir, root) = tree();
        let id = medium_identity(&root, false).unwrap();
        assert_ne!(id, medium_identity(&root, true).unwrap());
        fs_err::write(root.join("new"), "new").unwrap();
        assert_eq!(medium_identity(&root, false).unwrap(), id);
        assert_eq!(medium_identity(&root.join("pool/.."), false).unwrap(), id);
    }

    #[test]
    fn a_medium_that_is_gone_is_an_error() {
        let (_dir, root) = tree();
        assert!(medium_identity(&root.join("absent"), true).is_err());
        assert!(medium_identity(&root.join("README"), true).is_err());
    }

    #[test]
    fn a_disc_that_leads_elsewhere_has_an_id_too() {
        for target in ["/etc", ".disk", "../.."] {
            let (_dir, root) = tree();
            fs_err::remove_dir_all(root.join(".disk")).unwrap();
            std::os::unix::fs::symlink(target, root.join(".disk")).unwrap();
            assert!(medium_identity(&root, true).is_ok(), "{target}");
        }
    }

    #[test]
    fn what_is_too_large_counts_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..30 {
            fs_err::write(dir.path().join(format!("{number}")), "").unwrap();
        }
        let directory = std::fs::File::open(dir.path()).unwrap();
        let mut room = 29;
        assert_eq!(list(directory.as_fd(), &mut room).unwrap(), None);
        assert_eq!(room, 29);
        room = 30;
        assert_eq!(
            list(directory.as_fd(), &mut room).unwrap().unwrap().len(),
            30
        );
        assert_eq!(room, 0);
    }
}
