//! Submodules: which a tree has, and where its `.gitmodules` says that they come from.
//!
//! The file belongs to whoever wrote the repository. Of it count the URLs of paths at which the tree has a commit;
//! they may name the network only, however the repository itself was come by.

use std::collections::BTreeMap;

use gix::ObjectId;
use gix::bstr::{BString, ByteSlice as _};
use gix::objs::tree::EntryKind;
use gix::objs::{Kind, TreeRefIter};
use store_index::tree::{MAX_DEPTH, MAX_ENTRIES};

use crate::git::{OBJECT_HASH, Repository, corrupt};
use crate::source_url::SourceUrl;

/// The longest `.gitmodules`, in bytes: some 10,000 submodules.
const MAX_FILE_BYTES: usize = 1 << 20;

/// The longest path of a submodule, in bytes: Linux's own limit.
const MAX_PATH_LEN: usize = 4095;

/// A submodule that is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Submodule {
    /// Where it lies in the tree.
    pub(super) path: BString,
    /// The commit that is pinned.
    pub(super) commit: ObjectId,
    /// What stands in the file.
    pub(super) url: String,
}

/// Returns the submodules of a tree that have a URL and are not switched off.
pub(super) fn of(repository: &Repository, tree: ObjectId) -> std::io::Result<Vec<Submodule>> {
    let Some(urls) = urls(repository, tree)? else {
        return Ok(Vec::new());
    };
    let mut search = Search {
        repository,
        urls: &urls,
        entries: 0,
        found: Vec::new(),
    };
    search.tree(tree, &BString::default(), 0)?;
    Ok(search.found)
}

/// Returns the URLs in `.gitmodules` by path; `None` if there is no such file.
fn urls(
    repository: &Repository,
    tree: ObjectId,
) -> std::io::Result<Option<BTreeMap<BString, String>>> {
    let tree = repository.database.get(&tree, Kind::Tree)?;
    let mut entries = TreeRefIter::from_bytes(&tree.data, OBJECT_HASH).filter_map(Result::ok);
    let Some(entry) = entries.find(|entry| {
        let kind = entry.mode.kind();
        let is_file = matches!(kind, EntryKind::Blob | EntryKind::BlobExecutable);
        is_file && entry.filename == ".gitmodules"
    }) else {
        return Ok(None);
    };
    let blob = repository.database.get(entry.oid, Kind::Blob)?;
    if blob.data.len() > MAX_FILE_BYTES {
        return Err(corrupt(format!(
            ".gitmodules is longer than {MAX_FILE_BYTES} bytes"
        )));
    }
    let nothing = gix::config::File::default();
    let file = gix::submodule::File::from_bytes(&blob.data, None, &nothing)
        .map_err(|error| corrupt(format!(".gitmodules: {error}")))?;
    let mut urls = BTreeMap::new();
    for name in file.names() {
        let value = |key| file.config().string_by("submodule", Some(name), key);
        let is_off = value("update").is_some_and(|update| update == "none");
        if let (Some(path), Some(url), false) = (value("path"), value("url"), is_off)
            && let Ok(url) = url.to_str()
            && path.len() <= MAX_PATH_LEN
        {
            urls.insert(path, url.to_owned());
        }
    }
    Ok(Some(urls))
}

/// Finds the commits in a tree that have a URL, and looks nowhere else: small trees may describe any number of paths.
struct Search<'a> {
    repository: &'a Repository,
    urls: &'a BTreeMap<BString, String>,
    entries: u64,
    found: Vec<Submodule>,
}

impl Search<'_> {
    fn tree(&mut self, id: ObjectId, path: &BString, depth: usize) -> std::io::Result<()> {
        if depth >= MAX_DEPTH {
            return Err(corrupt("the tree is too deep"));
        }
        let tree = self.repository.database.get(&id, Kind::Tree)?;
        for entry in TreeRefIter::from_bytes(&tree.data, OBJECT_HASH) {
            let entry = entry.map_err(|error| corrupt(format!("the tree is damaged: {error}")))?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(corrupt("the tree has too many entries"));
            }
            let kind = entry.mode.kind();
            if !matches!(kind, EntryKind::Tree | EntryKind::Commit) {
                continue;
            }
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(entry.filename);
            if kind == EntryKind::Commit {
                if let Some(url) = self.urls.get(&below) {
                    self.found.push(Submodule {
                        path: below,
                        commit: entry.oid.to_owned(),
                        url: url.clone(),
                    });
                }
            } else if self.has_below(&below) {
                self.tree(entry.oid.to_owned(), &below, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Returns true if something with a URL may lie in a directory.
    fn has_below(&self, directory: &BString) -> bool {
        let mut start = directory.clone();
        start.push(b'/');
        let mut urls = self.urls.range(start.clone()..);
        urls.next()
            .is_some_and(|(path, _)| path.starts_with(&start))
    }
}

/// Returns where a submodule comes from: `./` and `../` are relative to the repository that it is in, as in git.
pub(super) fn resolve(base: &SourceUrl, url: &str) -> Result<SourceUrl, &'static str> {
    if !(url.starts_with("./") || url.starts_with("../")) {
        let url = SourceUrl::parse_repository(url).map_err(|_| "it is no URL of the network")?;
        if !super::connect::is_supported(&url) {
            return Err("it leads to no https://, http://, git:// or ssh:// repository");
        }
        return Ok(url);
    }
    let mut path: Vec<&str> = base.url().path().trim_end_matches('/').split('/').collect();
    let mut rest = url;
    loop {
        if let Some(below) = rest.strip_prefix("./") {
            rest = below;
        } else if let Some(above) = rest.strip_prefix("../") {
            // The first part is what stands before the first slash: nothing.
            if path.len() <= 1 {
                return Err("it leads above the server's top");
            }
            path.pop();
            rest = above;
        } else {
            break;
        }
    }
    path.extend(rest.trim_end_matches('/').split('/'));
    let mut resolved = base.url().clone();
    resolved.set_path(&path.join("/"));
    resolved.set_query(None);
    resolved.set_fragment(None);
    base.with_path_of(resolved).map_err(|_| "it is no URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_relative_to_the_repository() {
        let resolved = |base: &str, url: &str| {
            let base = SourceUrl::parse_repository(base).unwrap();
            resolve(&base, url).map(|url| url.url().to_string())
        };
        for (base, url, expected) in [
            ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
            ("https://h/a/b.git/", "../c.git/", "https://h/a/c.git"),
            ("https://h/a/b", "./c", "https://h/a/b/c"),
            (
                "https://me:x@h:8/a/b?t=1",
                "../../c/d",
                "https://me:x@h:8/c/d",
            ),
            ("git@h:a/b.git", "../c", "ssh://git@h/a/c"),
            ("https://h/a", "https://i/b", "https://i/b"),
            ("https://h/a", "git@i:b", "ssh://git@i/b"),
        ] {
            assert_eq!(resolved(base, url), Ok(expected.to_owned()), "{base} {url}");
        }
        for url in [
            "../../../x",
            "/etc/passwd",
            "file:///etc/passwd",
            "ext::sh -c x",
            "-uhttps://h/a",
            "--upload-pack=x",
            "x",
            "",
            "data:text/plain,x",
        ] {
            assert!(resolved("https://h/a/b", url).is_err(), "{url}");
        }
    }
}
