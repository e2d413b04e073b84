//! The URLs that were given, in their order, and those that name the content by its hash.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use store_index::address::{ContentAddress, GitObject};
use store_index::beneath::Beneath;
use store_index::watch::Watch;

use super::{Candidate, CandidatePlace, KnownNames, Lookup, Source, SourceKind};
use crate::request::{Request, Target};
use crate::source_url::{Scheme, SourceUrl};

#[derive(Debug)]
pub(super) struct Url {
    url: SourceUrl,
    kind: SourceKind,
}

impl Url {
    pub(super) fn new(url: &SourceUrl) -> Self {
        Self {
            url: url.clone(),
            kind: SourceKind::Url,
        }
    }

    pub(super) fn hashed(url: &SourceUrl) -> Self {
        Self {
            url: url.clone(),
            kind: SourceKind::HashedMirror,
        }
    }
}

/// A download that is reported as one of a kind.
pub(super) fn by_url(kind: SourceKind, url: SourceUrl) -> Candidate {
    Candidate {
        kind,
        location: url.to_string(),
        place: CandidatePlace::Url(url),
        names: KnownNames::NotGuarded,
        index: None,
    }
}

/// Returns the file of this machine that a `file://` URL names.
pub(crate) fn of_file(kind: SourceKind, url: &SourceUrl) -> io::Result<Candidate> {
    // The path was named, so that links on it lead where they lead.
    let path = fs_err::canonicalize(url.file_path()?)?;
    let (folder, name) = match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => (folder.to_owned(), PathBuf::from(name)),
        _ => (path, PathBuf::new()),
    };
    let root = Rc::new(Beneath::open(&folder)?);
    let names = KnownNames::NotGuarded;
    Ok(Candidate::local(kind, &root, name, None, names))
}

impl Source for Url {
    fn kind(&self) -> SourceKind {
        self.kind
    }

    fn location(&self) -> String {
        self.url.to_string()
    }

    fn look_up(&mut self, request: &Request, _watch: Watch<'_>) -> Lookup {
        if self.url.is_file() {
            return self.look_up_here(request);
        }
        let urls = match self.url.scheme() {
            Scheme::Http | Scheme::Https => vec![self.url.clone()],
            Scheme::Mirror => request.mirror_sites.expand(&self.url),
            Scheme::Other(scheme) => {
                return Lookup::Skipped(format!("the scheme {scheme}:// is not supported"));
            }
        };
        if urls.is_empty() {
            let site = self.url.mirror().map_or("", |(site, _)| site);
            return Lookup::Skipped(format!(
                "no mirrors are known for this site; NIX_MIRRORS_{} may name some",
                site.escape_debug()
            ));
        }
        if matches!(request.address, ContentAddress::Git(git) if git.object() == GitObject::Tree) {
            return Lookup::Skipped("a URL delivers one file, and a directory is wanted".into());
        }
        let candidate = |url| by_url(self.kind, url);
        Lookup::Found(urls.into_iter().map(candidate).collect())
    }

    fn is_network(&self) -> bool {
        !self.url.is_file()
    }
}

impl Url {
    /// A file of this machine, which the user's own command line alone may name.
    fn look_up_here(&self, request: &Request) -> Lookup {
        if matches!(request.target, Target::Given(_)) {
            return Lookup::Skipped("only a command line may name a file:// URL".into());
        }
        match of_file(self.kind, &self.url) {
            Ok(candidate) => Lookup::Found(vec![candidate]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Lookup::Absent(None),
            Err(error) => Lookup::Unavailable(error.to_string()),
        }
    }
}
