//! What is wanted: parsed once, true ever after.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use store_index::address::ContentAddress;
use store_index::hash_text::HashForm;
use store_index::store_path::ItemName;

use crate::git::Revision;
use crate::mirrors::MirrorSites;
use crate::source_url::SourceUrl;

/// One content, where it goes and where the network has it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method, algorithm and digest.
    pub address: ContentAddress,
    /// How the user spelt the hash, so that answers use the same.
    pub form: HashForm,
    /// The name, for the store and for people; `None` if none was given and the output is not a file.
    pub name: Option<String>,
    /// Names under which an item of a store may have the content: the requested one, then those of the URLs.
    pub item_names: Vec<ItemName>,
    /// Names whose version the content is expected to have: the given one and those of the URLs.
    pub asked_names: Vec<String>,
    /// Where the network has it, in the order to be tried.
    pub urls: Vec<SourceUrl>,
    /// URLs that name the content by its hash, as a derivation gives them: asked when `urls` have been.
    pub hashed_urls: Vec<SourceUrl>,
    /// What the sites of `mirror://` URLs are, where they are not the built-in ones.
    pub mirror_sites: MirrorSites,
    /// The repository and the commit whose tree is wanted.
    pub git: Option<GitSource>,
    /// Whether the owner's executable bit is asked for. A NAR hash decides by itself.
    pub executable: bool,
    /// Whether what the network sends is an archive, and the NAR hash that of the tree in it.
    pub unpack: bool,
    /// Where it goes.
    pub target: Target,
}

/// A commit of a repository.
#[derive(Clone, Debug)]
pub struct GitSource {
    /// Where the network has the repository.
    pub url: SourceUrl,
    /// Which commit.
    pub revision: Revision,
    /// Whether its submodules are wanted too.
    pub submodules: bool,
    /// Whether `ssh` may be run, with the keys of whoever it is run for.
    pub may_run_ssh: bool,
}

/// Where the content goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A path, absolute.
    Path(PathBuf),
    /// The output that a daemon gave us, absolute: content lands there at once, and nothing beside it is touched.
    Given(PathBuf),
    /// Standard output, after verification.
    Stdout,
}

impl Request {
    /// Returns true for the output that a daemon gave us, also where its store is mounted somewhere else. It is there
    /// while it is being made, where an item with its name would be, and says nothing about what is known. The item of
    /// that name in the store of another machine is an item.
    pub fn is_given_output(&self, item: &Path) -> bool {
        let Target::Given(output) = &self.target else {
            return false;
        };
        let file = |path: &Path| {
            let metadata = fs_err::symlink_metadata(path).ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        output.file_name() == item.file_name()
            && file(output).is_some_and(|own| file(item) == Some(own))
    }

    /// Returns the wanted hash as the user wrote it.
    pub fn wanted(&self) -> String {
        self.address.digest().in_form(self.form).to_string()
    }
}
