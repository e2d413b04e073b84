//! A derivation of guix-daemon becomes a request, or is refused before anything is asked for it.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use store_index::address::ContentAddress;
use store_index::beneath::Beneath;
use store_index::hash_text::{Base, HashForm};
use store_index::store_path::{ItemName, split_base_name};

use super::content_addressed;
use super::datum::{self, Datum};
use super::mirrors::{MAX_URLS, MirrorError, Mirrors};
use crate::derivation::{Derivation, OutputError};
use crate::git::Revision;
use crate::mirrors::MirrorSites;
use crate::request::{GitSource, Request, Target};
use crate::source_url::SourceUrl;

/// How the files that hold derivations end.
pub const DERIVATION_SUFFIX: &str = ".drv";

/// Why a derivation is not served here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is wrong, and nobody else shall try it.
    Wrong(String),
    /// It is beyond us; the real guix may do better.
    Beyond(String),
}

/// What of a download only the real guix can do, once all that is asked for here has failed.
#[derive(Debug)]
pub struct Work {
    /// What is asked for here.
    pub request: Request,
    /// What is worth a line in the log.
    pub warnings: Vec<String>,
    /// Whether the derivation's own servers are asked; otherwise whatever is not here is the real guix's.
    pub upstream: bool,
}

/// The store of the daemon, as far as a derivation may name files in it.
#[derive(Debug)]
pub struct Store<'a> {
    /// Its directory, as store paths have it.
    pub directory: &'a str,
    /// The same, for reading what everybody may read.
    pub files: &'a Beneath,
}

impl Store<'_> {
    /// Returns the base name of a path directly in the store.
    pub fn base_name<'p>(&self, path: &'p str) -> Option<&'p str> {
        let base_name = path.strip_prefix(self.directory)?.strip_prefix('/')?;
        let (_, name) = split_base_name(base_name)?;
        ItemName::new(name).is_ok().then_some(base_name)
    }

    /// Returns the name of an item, without the digest.
    pub fn item_name<'p>(&self, path: &'p str) -> Option<&'p str> {
        split_base_name(self.base_name(path)?).map(|(_, name)| name)
    }

    /// Reads a file that a derivation names. Symbolic links lead nowhere, and what is not in the store is not read.
    fn read(&self, key: &str, path: &[u8]) -> Result<Vec<u8>, Refusal> {
        let shown = path.escape_ascii();
        let wrong = |reason: String| Refusal::Wrong(format!("{key} names '{shown}': {reason}"));
        let base_name = std::str::from_utf8(path)
            .ok()
            .and_then(|path| self.base_name(path))
            .ok_or_else(|| wrong(format!("that is no item of the store {}", self.directory)))?;
        let file = self
            .files
            .open_file(Path::new(base_name))
            .map_err(|error| wrong(error.to_string()))?;
        let mut bytes = Vec::new();
        // One byte more than is allowed, so that too much is seen to be too much.
        let limit = datum::MAX_BYTES as u64 + 1;
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(bytes)
    }
}

/// Reads a derivation as far as it concerns us. `output` is where the daemon wants it.
pub fn of(derivation: &Derivation, output: &str, store: &Store<'_>) -> Result<Work, Refusal> {
    match derivation.builder.as_slice() {
        b"builtin:download" => download(derivation, output, store),
        b"builtin:git-download" => checkout(derivation, output, store),
        other => Err(Refusal::Beyond(format!(
            "the builder '{}' is not known here",
            other.escape_ascii()
        ))),
    }
}

/// Returns what the output is to contain.
fn address(derivation: &Derivation) -> Result<ContentAddress, Refusal> {
    match derivation.fixed_output() {
        None => Err(Refusal::Wrong(
            "the derivation has no output whose hash is known".to_owned(),
        )),
        Some(Ok(output)) => Ok(output.address),
        Some(Err(error @ OutputError::UnknownKind(_))) => Err(Refusal::Beyond(error.to_string())),
        Some(Err(error)) => Err(Refusal::Wrong(error.to_string())),
    }
}

fn download(derivation: &Derivation, output: &str, store: &Store<'_>) -> Result<Work, Refusal> {
    let address = address(derivation)?;
    let datum = variable_datum(derivation, "url")?
        .ok_or_else(|| Refusal::Wrong("the derivation has no url".to_owned()))?;
    let given = datum.strings().ok_or_else(|| {
        Refusal::Wrong("url is neither a string nor a list of strings".to_owned())
    })?;
    if given.len() > MAX_URLS {
        return Err(Refusal::Wrong(MirrorError::TooMany.to_string()));
    }
    let own = given
        .iter()
        .map(|url| parse_url(url))
        .collect::<Result<Vec<_>, _>>()?;
    let methods = Methods::of(derivation)?;
    let mut warnings = Vec::new();
    let mut urls = Vec::new();
    if methods.allow("upstream") {
        let mirrors = match derivation.variable("mirrors") {
            Some(path) if own.iter().any(|url| url.mirror().is_some()) => {
                Mirrors::parse(&store.read("mirrors", path)?)
                    .map_err(|error| Refusal::Wrong(format!("the list of mirrors: {error}")))?
            }
            _ => Mirrors::default(),
        };
        let expanded = mirrors
            .expand(&given)
            .map_err(|error| Refusal::Wrong(error.to_string()))?;
        for url in expanded {
            // The derivation's own have been parsed before; those of the list are Guix's.
            match SourceUrl::parse(&url) {
                Ok(url) => urls.push(url),
                Err(error) => warnings.push(format!("a mirror's URL is left out: {error}")),
            }
        }
    }
    // Their servers know files by flat hashes only.
    let asks_by_hash =
        methods.allow("content-addressed-mirrors") && matches!(address, ContentAddress::Flat(_));
    let mut request = request(address, output, store, &own)?;
    if let Some(path) = derivation.variable("content-addressed-mirrors")
        && asks_by_hash
    {
        let expression = store.read("content-addressed-mirrors", path)?;
        let name = request.name.as_deref().unwrap_or_default();
        match content_addressed::urls(&expression, name, address.digest()) {
            Ok(texts) => {
                for text in texts {
                    match SourceUrl::parse(&text) {
                        Ok(url) => request.hashed_urls.push(url),
                        Err(error) => warnings
                            .push(format!("a content-addressed mirror is left out: {error}")),
                    }
                }
            }
            Err(error) => {
                warnings.push(format!("content-addressed mirrors are left out: {error}"));
            }
        }
    }
    request.urls = urls;
    request.executable = matches!(address, ContentAddress::Nar(_))
        && derivation.variable("executable") == Some(b"1");
    Ok(Work {
        request,
        warnings,
        upstream: true,
    })
}

fn checkout(derivation: &Derivation, output: &str, store: &Store<'_>) -> Result<Work, Refusal> {
    let address = address(derivation)?;
    let datum = variable_datum(derivation, "url")?
        .ok_or_else(|| Refusal::Wrong("the derivation has no url".to_owned()))?;
    let url = datum
        .as_string()
        .ok_or_else(|| Refusal::Wrong("url is not a string".to_owned()))?;
    let url = parse_repository_url(url)?;
    let commit = derivation
        .variable("commit")
        .ok_or_else(|| Refusal::Wrong("the derivation has no commit".to_owned()))?;
    if commit.starts_with(b"-") {
        return Err(Refusal::Wrong(format!(
            "the commit '{}' begins with '-'",
            commit.escape_ascii()
        )));
    }
    let recursive = match variable_datum(derivation, "recursive?")? {
        None => false,
        Some(Datum::Boolean(recursive)) => recursive,
        Some(_) => return Err(Refusal::Wrong("recursive? is neither #t nor #f".to_owned())),
    };
    let methods = Methods::of(derivation)?;
    // With whose keys and configuration ssh is run is the administrator's affair, and guix's.
    let upstream = methods.allow("upstream") && url.url().scheme() != "ssh";
    let mut request = request(address, output, store, &[])?;
    // What is neither an id nor a name, git itself may understand.
    let revision = std::str::from_utf8(commit)
        .ok()
        .and_then(|commit| Revision::parse(commit).ok());
    request.git = revision.map(|revision| GitSource {
        url,
        revision,
        submodules: recursive,
        may_run_ssh: false,
    });
    Ok(Work {
        request,
        warnings: Vec::new(),
        upstream,
    })
}

fn request(
    address: ContentAddress,
    output: &str,
    store: &Store<'_>,
    urls: &[SourceUrl],
) -> Result<Request, Refusal> {
    let name = store.item_name(output).ok_or_else(|| {
        Refusal::Wrong(format!(
            "the output '{}' is no item of the store {}",
            output.escape_debug(),
            store.directory
        ))
    })?;
    let url_names = urls.iter().filter_map(|url| url.default_name().ok());
    let asked_names: Vec<_> = std::iter::once(name.to_owned()).chain(url_names).collect();
    let mut item_names: Vec<ItemName> = Vec::new();
    for name in &asked_names {
        if let Ok(name) = ItemName::new(name)
            && !item_names.contains(&name)
        {
            item_names.push(name);
        }
    }
    Ok(Request {
        address,
        form: HashForm::Named(Base::Nix32),
        name: Some(name.to_owned()),
        item_names,
        asked_names,
        urls: Vec::new(),
        mirror_sites: MirrorSites::default(),
        hashed_urls: Vec::new(),
        git: None,
        unpack: false,
        executable: false,
        target: Target::Given(PathBuf::from(OsStr::new(output))),
    })
}

/// Reads a variable that holds a datum.
fn variable_datum(derivation: &Derivation, key: &str) -> Result<Option<Datum>, Refusal> {
    let parse = |bytes| {
        Datum::parse(bytes)
            .map_err(|error| Refusal::Wrong(format!("{key} cannot be read: {error}")))
    };
    derivation.variable(key).map(parse).transpose()
}

/// Reads a URL of the derivation. One that names a file of this machine is an attempt to have it read for somebody
/// who may not.
fn parse_url(text: &str) -> Result<SourceUrl, Refusal> {
    let url = SourceUrl::parse(text)
        .map_err(|error| Refusal::Wrong(format!("a URL of the derivation is refused: {error}")))?;
    if url.is_file() {
        return Err(Refusal::Wrong(
            "a URL of the derivation is refused: it names a file of this machine".to_owned(),
        ));
    }
    Ok(url)
}

/// Reads the URL of a repository. What git would take for an option or for the name of a program is an attempt.
fn parse_repository_url(text: &str) -> Result<SourceUrl, Refusal> {
    let refused =
        |reason: &str| Refusal::Wrong(format!("a URL of the derivation is refused: {reason}"));
    // `ext::sh -c ...`: what stands in front is a program that git runs.
    if text
        .split_once("::")
        .is_some_and(|(front, _)| !front.contains(['/', '[', '@']))
    {
        return Err(refused("it names a program"));
    }
    let url = parse_url(text)?;
    let parts = [url.host(), Some(url.url().username())];
    let decoded = |part: &str| percent_decode_str(part).next() == Some(b'-');
    if parts.into_iter().flatten().any(decoded) {
        return Err(refused("its host or user begins with '-'"));
    }
    Ok(url)
}

/// Which ways of downloading the client allows; all, if it does not say.
struct Methods(Option<Vec<String>>);

impl Methods {
    fn of(derivation: &Derivation) -> Result<Self, Refusal> {
        let Some(datum) = variable_datum(derivation, "download-methods")? else {
            return Ok(Self(None));
        };
        let names = datum.as_list().and_then(|list| {
            let names = list.iter().map(|name| name.as_symbol().map(str::to_owned));
            names.collect::<Option<_>>()
        });
        match names {
            Some(names) => Ok(Self(Some(names))),
            None => Err(Refusal::Wrong(
                "download-methods is no list of symbols".to_owned(),
            )),
        }
    }

    fn allow(&self, method: &str) -> bool {
        self.0
            .as_ref()
            .is_none_or(|allowed| allowed.iter().any(|name| name == method))
    }
}
