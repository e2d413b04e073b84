//! Files of a medium that has no index, by the names one would expect: the path of a mirror, the URL's base name, or
//! Debian's spelling of it.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use store_index::beneath::Beneath;
use store_index::watch::Watch;

use super::MAX_CANDIDATES;
use crate::request::Request;

/// The most directories that are listed in search of a name: a disc seeks once for each.
const MAX_LISTINGS: usize = 64;

/// The most entries looked at: one flat distfiles folder is within it.
const MAX_ENTRIES: usize = 200_000;

/// Folders in which mirrors keep files flat.
const FLAT_FOLDERS: [&str; 2] = ["", "distfiles"];

/// Returns paths on the medium that may be the wanted file, the likeliest first. Nothing is opened; directories are
/// listed only if `may_search`.
pub(super) fn candidates(
    root: &Beneath,
    request: &Request,
    may_search: bool,
    watch: Watch<'_>,
) -> Vec<PathBuf> {
    let names = expected_names(request);
    let mut found: Vec<PathBuf> = Vec::new();
    let mut guesses: Vec<PathBuf> = request
        .urls
        .iter()
        .filter_map(|url| url.mirror())
        .flat_map(mirror_paths)
        .collect();
    for name in &names {
        guesses.extend(
            FLAT_FOLDERS
                .iter()
                .map(|folder| Path::new(folder).join(name)),
        );
        guesses.extend(pool_path(name));
    }
    for guess in guesses {
        if !found.contains(&guess) && root.has_file(&guess, None) {
            found.push(guess);
        }
    }
    if may_search && found.is_empty() && !names.is_empty() {
        search(root, &names, watch, &mut found);
    }
    found.truncate(MAX_CANDIDATES);
    found
}

/// Names that the content may have: those of the URLs, then Debian's spelling of each.
fn expected_names(request: &Request) -> Vec<String> {
    let plain = request
        .asked_names
        .iter()
        .filter(|name| !name.contains('/'));
    let debian = request
        .asked_names
        .iter()
        .filter_map(|name| debian_spelling(name));
    let mut names: Vec<String> = Vec::new();
    for name in plain.cloned().chain(debian) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// `hello-2.10.tar.gz` is `hello_2.10.orig.tar.gz` in a Debian source package.
fn debian_spelling(name: &str) -> Option<String> {
    let (stem, suffix) = name.split_at(name.find(".tar.")?);
    let at = stem
        .match_indices('-')
        .map(|(at, _)| at)
        .rfind(|&at| stem.as_bytes().get(at + 1).is_some_and(u8::is_ascii_digit))?;
    let (package, version) = (&stem[..at], &stem[at + 1..]);
    (!package.is_empty())
        .then(|| format!("{}_{version}.orig{suffix}", package.to_ascii_lowercase()))
}

/// Where Debian's pool keeps a source package's file, `main` only: the rest is found by searching.
fn pool_path(name: &str) -> Option<PathBuf> {
    let (package, _) = name.split_once('_')?;
    let initial = match package.strip_prefix("lib") {
        Some(_) => package.get(..4)?,
        None => package.get(..1)?,
    };
    Some(
        Path::new("pool/main")
            .join(initial)
            .join(package)
            .join(name),
    )
}

/// A mirror tree has the same paths as `mirror://SITE/PATH`, in a folder of the site's name or at the top.
fn mirror_paths((site, path): (&str, &str)) -> Vec<PathBuf> {
    let Ok(path) = percent_encoding::percent_decode_str(path).decode_utf8() else {
        return Vec::new();
    };
    let path = Path::new(path.as_ref());
    let plain = |path: &Path| {
        path.components()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
    };
    let mut paths = vec![Path::new(site).join(path), path.to_owned()];
    if let Some(name) = path.file_name() {
        paths.push(Path::new("distfiles").join(name));
    }
    paths.retain(|path| plain(path) && !path.as_os_str().is_empty());
    paths
}

/// Lists directories, the upper ones first, until the budget is used up.
fn search(root: &Beneath, names: &[String], watch: Watch<'_>, found: &mut Vec<PathBuf>) {
    let Ok(top) = fs_err::metadata(root.path()) else {
        return;
    };
    let mut directories = VecDeque::from([PathBuf::new()]);
    let (mut listings, mut entries) = (0, 0);
    while let Some(directory) = directories.pop_front() {
        let whole = root.path().join(&directory);
        // Another file system that is mounted below was not named, and one that may hang is not even touched.
        if root.may_hang(&directory) {
            continue;
        }
        if !fs_err::symlink_metadata(&whole).is_ok_and(|metadata| metadata.dev() == top.dev()) {
            continue;
        }
        listings += 1;
        if listings > MAX_LISTINGS || watch.interrupted() {
            return;
        }
        let Ok(listing) = fs_err::read_dir(&whole) else {
            continue;
        };
        let mut below = Vec::new();
        for entry in listing.flatten() {
            entries += 1;
            if entries > MAX_ENTRIES || found.len() >= MAX_CANDIDATES {
                return;
            }
            let Ok(file_type) = entry.file_type() else {
                continue;
            };
            let name = entry.file_name();
            if file_type.is_dir() {
                below.push(directory.join(name));
            } else if file_type.is_file() && names.iter().any(|wanted| name == wanted.as_str()) {
                found.push(directory.join(name));
            }
        }
        below.sort_unstable();
        directories.extend(below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_spells_tarballs_its_own_way() {
        for (name, debian) in [
            ("hello-2.10.tar.gz", Some("hello_2.10.orig.tar.gz")),
            (
                "XML-Parser-2.46.tar.gz",
                Some("xml-parser_2.46.orig.tar.gz"),
            ),
            ("gcc-12-fix.patch", None),
            ("v1.2.tar.gz", None),
        ] {
            assert_eq!(debian_spelling(name).as_deref(), debian, "{name}");
        }
        assert_eq!(
            pool_path("hello_2.10.orig.tar.gz").unwrap(),
            Path::new("pool/main/h/hello/hello_2.10.orig.tar.gz")
        );
        assert_eq!(
            pool_path("libpng_1.6.orig.tar.gz").unwrap(),
            Path::new("pool/main/libp/libpng/libpng_1.6.orig.tar.gz")
        );
    }

    #[test]
    fn mirror_paths_never_leave_the_medium() {
        assert_eq!(
            mirror_paths(("gnu", "hello/hello-2.10.tar.gz"))[0],
            Path::new("gnu/hello/hello-2.10.tar.gz")
        );
        assert!(
            mirror_paths(("gnu", "..%2f..%2fetc/passwd"))
                .iter()
                .all(|path| !path.starts_with(".."))
        );
        assert_eq!(
            mirror_paths(("gnu", "%2e%2e/x")),
            [Path::new("distfiles/x")]
        );
    }
}
