//! Submodules: which a tree has, and where its `.gitmodules` says that they come from.
//!
//! The file belongs to whoever wrote the repository. Of it count the URLs of paths at which the tree has a commit;
//! they may name the network only, however the repository itself was come by.

use std::collections::{HashMap, HashSet};

use gix::ObjectId;
use gix::bstr::{BString, ByteSlice as _};
use gix::objs::tree::EntryKind;
use gix::objs::{Kind, TreeRefIter};
use store_index::tree::{MAX_DEPTH, MAX_ENTRIES};

use crate::git::{OBJECT_HASH, Repository, corrupt};
use crate::source_url::SourceUrl;

/// The longest `.gitmodules`, in bytes: some 10,000 submodules.
const MAX_FILE_BYTES: usize = 1 << 20;

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
        without: HashSet::new(),
        entries: 0,
        found: Vec::new(),
    };
    search.tree(tree, &BString::default(), 0)?;
    let submodule = |(path, commit): (BString, ObjectId)| {
        let url = urls.get(&path)?.clone();
        Some(Submodule { path, commit, url })
    };
    Ok(search.found.into_iter().filter_map(submodule).collect())
}

/// Returns the URLs in `.gitmodules` by path; `None` if there is no such file.
fn urls(
    repository: &Repository,
    tree: ObjectId,
) -> std::io::Result<Option<HashMap<BString, String>>> {
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
    let mut urls = HashMap::new();
    for name in file.names() {
        let value = |key| file.config().string_by("submodule", Some(name), key);
        let is_off = value("update").is_some_and(|update| update == "none");
        if let (Some(path), Some(url), false) = (value("path"), value("url"), is_off)
            && let Ok(url) = url.to_str()
        {
            urls.insert(path, url.to_owned());
        }
    }
    Ok(Some(urls))
}

/// Finds the commits in a tree.
struct Search<'a> {
    repository: &'a Repository,
    /// Trees in which there is none: they may be there many times.
    without: HashSet<ObjectId>,
    entries: u64,
    found: Vec<(BString, ObjectId)>,
}

impl Search<'_> {
    fn tree(&mut self, id: ObjectId, path: &BString, depth: usize) -> std::io::Result<()> {
        if depth >= MAX_DEPTH {
            return Err(corrupt("the tree is too deep"));
        }
        if self.without.contains(&id) {
            return Ok(());
        }
        let before = self.found.len();
        let tree = self.repository.database.get(&id, Kind::Tree)?;
        for entry in TreeRefIter::from_bytes(&tree.data, OBJECT_HASH) {
            let entry = entry.map_err(|error| corrupt(format!("the tree is damaged: {error}")))?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(corrupt("the tree has too many entries"));
            }
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(entry.filename);
            match entry.mode.kind() {
                EntryKind::Tree => self.tree(entry.oid.to_owned(), &below, depth + 1)?,
                EntryKind::Commit => self.found.push((below, entry.oid.to_owned())),
                _ => {}
            }
        }
        if self.found.len() == before {
            self.without.insert(id);
        }
        Ok(())
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
