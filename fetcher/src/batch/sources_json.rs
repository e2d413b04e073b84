//! `sources.json` as Guix publishes it, and as it is made of Nixpkgs: every source of a distribution, with its hash.
//!
//! Read as a stream, an entry at a time. An entry that makes no sense is one refused entry; the rest is fetched.

use std::fmt;
use std::io::BufRead;
use std::path::PathBuf;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;
use serde_json::value::RawValue;
use store_index::address::{ContentAddress, Method};
use store_index::digest::Algorithm;
use store_index::hash_text::{self, HashForm};

use super::entry::{Entry, Kind, parse, safe_path};
use super::list::{List, MAX_ENTRIES, too_many};
use crate::error::FetchError;
use crate::git::Revision;
use crate::source_url::{Scheme, SourceUrl};

/// The longest entry, in bytes. Real ones have a few hundred, or some thousands with many mirrors.
const MAX_ENTRY_LEN: usize = 64 * 1024;

/// The most URLs of an entry that are kept.
const MAX_URLS: usize = 64;

/// How much of a text of the list is shown, in characters.
const MAX_SHOWN_LEN: usize = 120;

/// How much of a commit's id is in the name of its output.
const SHOWN_COMMIT_LEN: usize = 12;

/// What ends the names of the archives that can be unpacked.
const ARCHIVES: [&str; 10] = [
    ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst", ".taz", ".zip", ".crate",
];

/// Reads the file.
pub(super) fn read(reader: impl BufRead, shown: &str) -> Result<List, FetchError> {
    let mut list = List {
        names_are_ours: true,
        ..List::default()
    };
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let has_sources = Top(&mut list)
        .deserialize(&mut deserializer)
        .and_then(|has_sources| deserializer.end().map(|()| has_sources));
    if list.is_full() {
        return Err(too_many());
    }
    match has_sources {
        Ok(true) => Ok(list),
        Ok(false) => Err(FetchError::usage(format!("{shown} has no \"sources\""))
            .with_hint("a sources.json is an object with a list under that key")),
        Err(error) if error.is_io() => {
            Err(FetchError::local(format!("cannot read {shown}: {error}")))
        }
        Err(error) => Err(FetchError::usage(format!(
            "{shown} cannot be read as a sources.json: {error}"
        ))),
    }
}

/// The object around the list: true if the list is there.
struct Top<'l>(&'l mut List);

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"sources\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut has_sources = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "sources" {
                map.next_value_seed(Sources(&mut *self.0))?;
                has_sources = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(has_sources)
    }
}

/// The list.
struct Sources<'l>(&'l mut List);

impl<'de> DeserializeSeed<'de> for Sources<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Sources<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sources")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sources: A) -> Result<(), A::Error> {
        let mut number = 0_u64;
        while let Some(source) = sources.next_element::<Box<RawValue>>()? {
            if self.0.is_full() {
                return Err(A::Error::custom(format_args!(
                    "more than {MAX_ENTRIES} sources"
                )));
            }
            number += 1;
            match read_source(source.get()) {
                Ok(Some(entry)) => self.0.entries.push(entry),
                Ok(None) => self.0.left_out += 1,
                Err((what, reason)) => self.0.refuse(format!("source {number}{what}"), reason),
            }
        }
        Ok(())
    }
}

/// Reads one source; `None` if it is none. The error is what to call it, and the reason.
fn read_source(text: &str) -> Result<Option<Entry>, (String, String)> {
    if text.len() > MAX_ENTRY_LEN {
        let reason = format!("it is longer than {MAX_ENTRY_LEN} bytes");
        return Err((String::new(), reason));
    }
    let source: Value =
        serde_json::from_str(text).map_err(|error| (String::new(), error.to_string()))?;
    if !source.is_object() {
        return Err((String::new(), "it is no object".to_owned()));
    }
    let source = Source(&source);
    let read = match source.0.get("type") {
        None | Some(Value::Null | Value::Bool(_)) => return Ok(None),
        Some(Value::String(kind)) => match kind.as_str() {
            "no-origin" => return Ok(None),
            "url" => file(source),
            "git" => repository(source),
            "hg" => only_here(source, "hg", "Mercurial repositories are not fetched from"),
            "svn" => only_here(
                source,
                "svn",
                "Subversion repositories are not fetched from",
            ),
            other => Err(format!("the type \"{}\" is unknown", shown(other))),
        },
        Some(_) => Err("its type is no text".to_owned()),
    };
    read.map(Some).map_err(|reason| (source.what(), reason))
}

#[derive(Clone, Copy)]
struct Source<'v>(&'v Value);

impl<'v> Source<'v> {
    /// Returns a text that is not empty.
    fn text(self, key: &str) -> Option<&'v str> {
        self.0.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    /// Returns the URLs as they stand there: one, or several.
    fn urls(self) -> Vec<&'v str> {
        match self.0.get("urls").or_else(|| self.0.get("url")) {
            Some(Value::String(url)) => vec![url],
            Some(Value::Array(urls)) => urls
                .iter()
                .filter_map(Value::as_str)
                .take(MAX_URLS)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Says which it is.
    fn what(self) -> String {
        let first = self.urls().first().copied();
        let url = first
            .or_else(|| self.text("git_url"))
            .or_else(|| self.text("hg_url"))
            .or_else(|| self.text("svn_url"));
        // A parsed URL shows no password.
        match url.map(SourceUrl::parse) {
            Some(Ok(url)) => format!(", {}", shown(&url.to_string())),
            _ => String::new(),
        }
    }

    fn address(self, usual: Method) -> Result<(ContentAddress, HashForm), String> {
        let Some(hash) = self.text("integrity") else {
            return Err("it has no hash (\"integrity\"), without which nothing is fetched".into());
        };
        let method = match self.text("outputHashMode") {
            None => usual,
            Some(name) => Method::from_name(name)
                .ok_or_else(|| format!("the outputHashMode \"{}\" is unknown", shown(name)))?,
        };
        let algorithm = match self.text("outputHashAlgo") {
            None => None,
            Some(name) => Some(
                Algorithm::from_name(name)
                    .ok_or_else(|| format!("the outputHashAlgo \"{}\" is unknown", shown(name)))?,
            ),
        };
        // An SRI text may have several; the first will do.
        let first = hash.split_ascii_whitespace().next().unwrap_or_default();
        let parsed = hash_text::parse(first, algorithm).map_err(|error| error.to_string())?;
        let address = parsed
            .into_address(Some(method))
            .map_err(|error| error.to_string())?;
        Ok((address, parsed.form))
    }
}

fn file(source: Source<'_>) -> Result<Entry, String> {
    let (address, form) = source.address(Method::Flat)?;
    // A repository without a commit is nothing that a hash can be of.
    let urls: Vec<SourceUrl> = source
        .urls()
        .into_iter()
        .filter_map(parse)
        .filter(|url| !url.url().path().ends_with(".git"))
        .collect();
    let name = urls.iter().find_map(|url| url.default_name().ok());
    let is_archive = name.as_deref().is_some_and(|name| {
        let name = name.to_ascii_lowercase();
        name.contains(".tar.") || ARCHIVES.iter().any(|suffix| name.ends_with(suffix))
    });
    let kind = match address.method() {
        Method::Nar if is_archive => Kind::Archive,
        _ => Kind::File,
    };
    Ok(Entry {
        path: named(name, &address)?,
        address,
        form,
        urls: urls.iter().map(|url| url.url().as_str().into()).collect(),
        kind,
    })
}

fn repository(source: Source<'_>) -> Result<Entry, String> {
    let (address, form) = source.address(Method::Nar)?;
    let url = source.text("git_url").ok_or("it has no git_url")?;
    let url = SourceUrl::parse(url).map_err(|error| error.to_string())?;
    // What a list names must lead neither into this machine nor to where the user's keys open.
    let is_public = match url.scheme() {
        Scheme::Http | Scheme::Https => true,
        Scheme::Other(scheme) => scheme == "git",
        Scheme::Mirror => false,
    };
    if !is_public {
        return Err("only https://, http:// and git:// repositories are fetched for a list".into());
    }
    let revision = source.text("git_ref").ok_or("it has no git_ref")?;
    let parsed = Revision::parse(revision)
        .map_err(|error| format!("the git_ref \"{}\": {error}", shown(revision)))?;
    let short = match &parsed {
        Revision::Id(_) => revision.get(..SHOWN_COMMIT_LEN).unwrap_or(revision),
        Revision::Name(name) => name,
    };
    let submodules = ["submodule", "submodules"]
        .iter()
        .any(|key| source.0.get(key).and_then(Value::as_bool) == Some(true));
    Ok(Entry {
        path: named(checkout_name(&url, short), &address)?,
        address,
        form,
        urls: vec![url.url().as_str().into()],
        kind: Kind::Git {
            revision: revision.into(),
            submodules,
        },
    })
}

/// What we cannot fetch may be on this machine, if it has a hash.
fn only_here(source: Source<'_>, kind: &str, reason: &'static str) -> Result<Entry, String> {
    let (address, form) = source.address(Method::Nar).map_err(|_| reason.to_owned())?;
    let url = source.text(&format!("{kind}_url")).and_then(parse);
    let revision = match source
        .0
        .get(format!("{kind}_changeset"))
        .or_else(|| source.0.get(format!("{kind}_revision")))
    {
        Some(Value::String(text)) => text.get(..SHOWN_COMMIT_LEN).unwrap_or(text).to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let name = url.and_then(|url| checkout_name(&url, &revision));
    Ok(Entry {
        path: named(name, &address)?,
        address,
        form,
        urls: Vec::new(),
        kind: Kind::OnlyHere(reason),
    })
}

/// What a checkout is called: the repository, and which state of it.
fn checkout_name(url: &SourceUrl, revision: &str) -> Option<String> {
    let name = url.default_name().ok()?;
    let name = name.strip_suffix(".git").unwrap_or(&name);
    let revision = revision.replace('/', "-");
    match (name, revision.as_str()) {
        ("", _) => None,
        (name, "") => Some(name.to_owned()),
        (name, revision) => Some(format!("{name}-{revision}")),
    }
}

/// Makes the output's path. What has no name is called by its hash.
fn named(name: Option<String>, address: &ContentAddress) -> Result<PathBuf, String> {
    let name =
        name.unwrap_or_else(|| format!("{}-{}", address.algorithm(), address.digest().to_hex()));
    safe_path(name.as_bytes()).map_err(str::to_owned)
}

fn shown(text: &str) -> String {
    let short: String = text.chars().take(MAX_SHOWN_LEN).collect();
    short.escape_debug().to_string()
}
