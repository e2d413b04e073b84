//! The single root of an archive: what is in it is the content, as with `fetchzip`.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use store_index::address::ContentAddress;
use store_index::beneath::Node;
use store_index::tree::TreeError;
use store_index::watch::Watch;

use crate::tree_copy;
use crate::verify::Verdict;

/// How many names are read before they are moved: a listing may get confused by what is moved meanwhile, and all names
/// of a huge directory would fill memory.
const MOVED_AT_ONCE: usize = 10_000;

/// Hashes an unpacked tree: without a single root that is a directory, which is then taken away, else with it. What is
/// said of a wrong tree is said of the first.
pub(crate) fn judge(
    address: &ContentAddress,
    staged: &OwnedFd,
    may_strip: bool,
    watch: Watch<'_>,
) -> Result<Verdict, TreeError> {
    let failed = |source: io::Error| TreeError::Visit {
        path: PathBuf::new(),
        source,
    };
    let whole = || staged.try_clone().map_err(failed);
    let root = if may_strip {
        single_root(staged).map_err(failed)?
    } else {
        None
    };
    let Some((name, root)) = root else {
        return tree_copy::hash(address, Node::Directory(whole()?), watch);
    };
    let inner = root.try_clone().map_err(failed)?;
    let stripped = tree_copy::hash(address, Node::Directory(inner), watch)?;
    if matches!(stripped, Verdict::Right(_)) {
        strip(staged, &name, &root).map_err(failed)?;
        return Ok(stripped);
    }
    match tree_copy::hash(address, Node::Directory(whole()?), watch)? {
        right @ Verdict::Right(_) => Ok(right),
        Verdict::Wrong { .. } => Ok(stripped),
    }
}

fn open_directory(at: &OwnedFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Returns the first names of a directory.
fn names(directory: &OwnedFd, at_most: usize) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    // Opens it anew, so that the listing begins at the beginning.
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
            if names.len() == at_most {
                break;
            }
        }
    }
    Ok(names)
}

/// Returns the only entry, if it is the only one and a directory.
fn single_root(staged: &OwnedFd) -> io::Result<Option<(CString, OwnedFd)>> {
    let Ok([name]) = <[CString; 1]>::try_from(names(staged, 2)?) else {
        return Ok(None);
    };
    match open_directory(staged, &name) {
        Ok(root) => Ok(Some((name, root))),
        Err(Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn exists(directory: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes a single root away, if there is one.
pub(crate) fn strip_single_root(staged: &OwnedFd) -> io::Result<()> {
    match single_root(staged)? {
        Some((name, root)) => strip(staged, &name, &root),
        None => Ok(()),
    }
}

/// Moves what is in the root up, in place of the root.
fn strip(staged: &OwnedFd, name: &CString, root: &OwnedFd) -> io::Result<()> {
    // An entry of the root may have the root's own name.
    let mut hidden = OsString::from(".root");
    while exists(root, &hidden)? {
        hidden.push("_");
    }
    rustix::fs::renameat(staged, name, staged, &hidden)?;
    loop {
        let names = names(root, MOVED_AT_ONCE)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            rustix::fs::renameat(root, &name, staged, &name)?;
        }
    }
    Ok(rustix::fs::unlinkat(staged, &hidden, AtFlags::REMOVEDIR)?)
}
