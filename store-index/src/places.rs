//! Where indexes lie.

use std::path::{Path, PathBuf};

use crate::index::{Index, OpenError};
use crate::manifest;
use crate::root::{Root, RootKind};

/// The directory of an index on the tree that it is of.
pub const IN_PLACE_DIR: &str = ".store-index";

/// Where root's indexes lie.
pub const SYSTEM_DIR: &str = "/var/lib/store-index";

/// The most indexes that a folder of them is searched for: a machine has a few stores and some shelves of discs.
const MAX_INDEXES: usize = 4096;

/// The most names in a folder that are looked at on the way.
const MAX_NAMES: usize = 65_536;

/// Returns the folder of the user's own indexes; `None` without a home.
pub fn cache_dir() -> Option<PathBuf> {
    // The XDG specification has relative paths ignored.
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("store-index"))
}

/// Returns true for the directory of an index that lies on the tree that it is of.
pub fn is_in_place(directory: &Path) -> bool {
    fs_err::canonicalize(directory)
        .is_ok_and(|directory| directory.file_name() == Some(IN_PLACE_DIR.as_ref()))
}

/// Returns where a root's index is looked for when none is named, first choice first.
pub fn default_dirs(root: &Root) -> Vec<PathBuf> {
    let cache = cache_dir().map(|dir| dir.join(root.id().to_string()));
    dirs(root, cache)
}

/// The same without the user's own.
pub fn system_dirs(root: &Root) -> Vec<PathBuf> {
    dirs(root, None)
}

fn dirs(root: &Root, cache: Option<PathBuf>) -> Vec<PathBuf> {
    let on_the_tree = root.kind() != RootKind::Store && root.path().is_absolute();
    let in_place = on_the_tree.then(|| root.path().join(IN_PLACE_DIR));
    let system = Path::new(SYSTEM_DIR).join(root.id().to_string());
    in_place.into_iter().chain(cache).chain([system]).collect()
}

/// Returns where an update writes a root's index when no place is named: root for everybody, others for themselves.
/// `None` without a home.
pub fn default_write_dir(root: &Root) -> Option<PathBuf> {
    let parent = if rustix::process::geteuid().is_root() {
        PathBuf::from(SYSTEM_DIR)
    } else {
        cache_dir()?
    };
    Some(parent.join(root.id().to_string()))
}

/// Opens what was named: an index, or every index in a folder of them, by name. The answer for a place with neither
/// is one error.
pub fn find_named(path: &Path) -> Vec<Result<Index, OpenError>> {
    match Index::open(path) {
        Err(OpenError::Absent(_)) => {}
        answer => return vec![answer],
    }
    let directories = index_dirs(path);
    if directories.is_empty() {
        return vec![Err(OpenError::Absent(path.to_owned()))];
    }
    directories
        .iter()
        .map(|directory| Index::open(directory))
        .collect()
}

/// Opens every index in the default places of this user and of the system.
pub fn find_default() -> Vec<Result<Index, OpenError>> {
    let places = cache_dir().into_iter().chain([PathBuf::from(SYSTEM_DIR)]);
    places
        .flat_map(|place| index_dirs(&place))
        .map(|directory| Index::open(&directory))
        .collect()
}

/// Lists the indexes in a folder, by name.
fn index_dirs(folder: &Path) -> Vec<PathBuf> {
    let Ok(listing) = fs_err::read_dir(folder) else {
        return Vec::new();
    };
    let mut directories: Vec<PathBuf> = listing
        .take(MAX_NAMES)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| fs_err::symlink_metadata(path.join(manifest::FILE_NAME)).is_ok())
        .take(MAX_INDEXES)
        .collect();
    directories.sort();
    directories
}
