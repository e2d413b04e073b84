//! Finds repositories in a folder, within a budget.

use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::FileType;
use store_index::beneath::Beneath;
use store_index::watch::Watch;

use super::folder::Folder;

/// How deep repositories are searched for, in directories: `host/owner/name/.git` is three.
const MAX_DEPTH: usize = 4;

/// The most entries of one directory: a folder of distfiles is within it.
const MAX_ENTRIES: usize = 100_000;

/// The most repositories that one folder is taken to have.
const MAX_REPOSITORIES: usize = 256;

/// Returns what looks like a repository, the upper ones first: git directories, and files `.git` that name one.
/// At most so many directories are listed, and nothing is opened.
pub(crate) fn discover(root: &Rc<Beneath>, max_listings: usize, watch: Watch<'_>) -> Vec<Folder> {
    search(Folder::new(root, ""), max_listings, watch)
}

/// Returns the repositories of submodules that a work tree's git directory holds.
pub(crate) fn discover_modules(
    git_dir: &Folder,
    max_listings: usize,
    watch: Watch<'_>,
) -> Vec<Folder> {
    search(git_dir.join("modules"), max_listings, watch)
}

fn search(top: Folder, max_listings: usize, watch: Watch<'_>) -> Vec<Folder> {
    let Ok(device) = top.device() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut folders = VecDeque::from([(top, 0)]);
    let mut listings = 0;
    while let Some((folder, depth)) = folders.pop_front() {
        listings += 1;
        if listings > max_listings || found.len() >= MAX_REPOSITORIES || watch.interrupted() {
            break;
        }
        // Nobody named another file system that is mounted below.
        if folder.device().ok() != Some(device) {
            continue;
        }
        let Ok(entries) = folder.list(MAX_ENTRIES) else {
            continue;
        };
        let has = |name: &str, wanted: FileType| {
            entries
                .binary_search_by(|(found, _)| found.as_os_str().cmp(name.as_ref()))
                .is_ok_and(|at| entries[at].1 == wanted)
        };
        let is_bare = has("HEAD", FileType::RegularFile)
            && has("objects", FileType::Directory)
            && has("refs", FileType::Directory);
        if is_bare {
            found.push(folder);
            continue;
        }
        if has(".git", FileType::Directory) || has(".git", FileType::RegularFile) {
            found.push(folder.join(".git"));
        }
        if depth < MAX_DEPTH {
            let below = entries
                .iter()
                .filter(|(name, file_type)| *file_type == FileType::Directory && name != ".git")
                .map(|(name, _)| (folder.join(Path::new(name)), depth + 1));
            folders.extend(below);
        }
    }
    found
}
