//! What a list wants of us: one content, the name it gets, and where the network has it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use store_index::address::ContentAddress;
use store_index::checksum_list::{MAX_PART_LEN, MAX_PATH_LEN};
use store_index::hash_text::HashForm;
use store_index::store_path::ItemName;

use crate::git::Revision;
use crate::mirrors::MirrorSites;
use crate::request::{GitSource, Request, Target};
use crate::source_url::SourceUrl;
use crate::staging;

/// What nixpkgs calls the items of `fetchzip` and `fetchFromGitHub`.
const UNPACKED_ITEM_NAME: &str = "source";

/// One entry of a list. URLs are kept as text: parsed, those of a long list would take half a gigabyte.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where it goes, beneath the folder of outputs: made by [`safe_path`].
    pub(super) path: PathBuf,
    pub(super) address: ContentAddress,
    pub(super) form: HashForm,
    /// Each of them can be parsed.
    pub(super) urls: Vec<Box<str>>,
    pub(super) kind: Kind,
}

/// How it is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file as it comes.
    File,
    /// An archive whose tree is wanted.
    Archive,
    /// A commit of the repository that is the only URL.
    Git {
        revision: Box<str>,
        submodules: bool,
    },
    /// By nobody, because; local sources may have it.
    OnlyHere(&'static str),
}

/// What all requests of a batch have in common.
#[derive(Debug)]
pub(super) struct Common<'a> {
    /// Where outputs go, absolute.
    pub(super) folder: &'a Path,
    pub(super) mirror_sites: &'a MirrorSites,
}

impl Entry {
    /// Returns what is wanted as for a fetch of its own.
    pub(super) fn request(&self, common: &Common<'_>) -> Request {
        let urls: Vec<SourceUrl> = self.urls.iter().filter_map(|url| parse(url)).collect();
        let git = match &self.kind {
            Kind::Git {
                revision,
                submodules,
            } => urls
                .first()
                .zip(Revision::parse(revision).ok())
                .map(|(url, revision)| GitSource {
                    url: url.clone(),
                    revision,
                    submodules: *submodules,
                    may_run_ssh: true,
                }),
            _ => None,
        };
        let mut asked_names: Vec<String> = match &self.kind {
            Kind::File | Kind::Archive => urls
                .iter()
                .filter_map(|url| url.default_name().ok())
                .collect(),
            // A repository's own name says nothing of a version; the output's has the tag.
            Kind::Git { .. } | Kind::OnlyHere(_) => Vec::new(),
        };
        if asked_names.is_empty() {
            asked_names.extend(self.path.file_name().map(lossy));
        }
        asked_names.dedup();
        let unpacked = (self.kind == Kind::Archive).then(|| UNPACKED_ITEM_NAME.to_owned());
        let mut item_names: Vec<ItemName> = Vec::new();
        for name in asked_names.iter().chain(&unpacked) {
            if let Ok(name) = ItemName::new(name)
                && !item_names.contains(&name)
            {
                item_names.push(name);
            }
        }
        Request {
            address: self.address,
            form: self.form,
            name: asked_names.first().cloned(),
            item_names,
            asked_names,
            urls: if git.is_some() { Vec::new() } else { urls },
            hashed_urls: Vec::new(),
            mirror_sites: common.mirror_sites.clone(),
            git,
            executable: false,
            unpack: self.kind == Kind::Archive,
            target: Target::Path(common.folder.join(&self.path)),
        }
    }

    /// Returns whom the first URL burdens: a host, or a site of mirrors.
    pub(super) fn host(&self) -> Option<String> {
        let url = parse(self.urls.first()?)?;
        match url.mirror() {
            Some((site, _)) => Some(format!("mirror://{site}")),
            None => {
                let port = url.url().port_or_known_default().unwrap_or_default();
                Some(format!("{}:{port}", url.host()?))
            }
        }
    }
}

fn lossy(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

/// Reads a URL, of a file or of a repository.
pub(super) fn parse(url: &str) -> Option<SourceUrl> {
    SourceUrl::parse(url).ok()
}

/// Makes a path beneath the folder of outputs of one that a list names; the reason if it leads elsewhere or would
/// play tricks on a terminal.
pub(super) fn safe_path(path: &[u8]) -> Result<PathBuf, &'static str> {
    if path.len() >= MAX_PATH_LEN {
        return Err("the name is too long");
    }
    // What is no text may be in it; lists are older than UTF-8.
    if path.iter().any(u8::is_ascii_control) {
        return Err("the name has control characters");
    }
    if path.ends_with(b"/") {
        return Err("the name is that of a folder");
    }
    let mut safe = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) if part.len() > MAX_PART_LEN => {
                return Err("the name is too long");
            }
            Component::Normal(part) if staging::is_hidden_name(part) => {
                return Err("the name is one that is swept away as what a killed run left");
            }
            Component::Normal(part) => safe.push(part),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err("the name leads out of the folder");
            }
        }
    }
    if safe.as_os_str().is_empty() {
        return Err("the name is empty");
    }
    Ok(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_beneath_the_folder_pass() {
        for (path, safe) in [
            ("a", "a"),
            ("./a/b", "a/b"),
            ("a//b", "a/b"),
            ("...", "..."),
        ] {
            assert_eq!(safe_path(path.as_bytes()), Ok(PathBuf::from(safe)));
        }
        let long = "x".repeat(256);
        for path in [
            "",
            ".",
            "./",
            "a/",
            "/a",
            "..",
            "../a",
            "a/../b",
            "a\nb",
            "a\0",
            "\u{1b}[2J",
            &long,
            ".fetch-0123456789abcdef",
        ] {
            assert!(safe_path(path.as_bytes()).is_err(), "{path:?}");
        }
    }
}
