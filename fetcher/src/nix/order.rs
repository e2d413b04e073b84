//! From attributes to a request: Nix's own spellings, and those of Nixpkgs' `fetchurl` and `fetchgit`.

use store_index::address::{ContentAddress, Method};
use store_index::digest::{Algorithm, Digest, MAX_DIGEST_LEN};
use store_index::hash_text::{self, HashForm, ParsedHash};
use store_index::store_path::{self, ItemName};

use super::attributes::Attributes;
use super::mirrors::{MAX_URLS, Urls};
use super::repository;
use crate::error::FetchError;
use crate::mirrors::MirrorSites;
use crate::request::{Request, Target};
use crate::source_url::SourceUrl;

/// How Nixpkgs' functions call a hash that they pass on as `outputHash`.
const SPELLINGS: [(&str, Option<Algorithm>); 5] = [
    ("hash", None),
    ("sha512", Some(Algorithm::Sha512)),
    ("sha256", Some(Algorithm::Sha256)),
    ("sha1", Some(Algorithm::Sha1)),
    ("md5", Some(Algorithm::Md5)),
];

/// What a derivation orders.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) request: Request,
    pub(super) warnings: Vec<String>,
}

impl Order {
    /// Reads it. `sites` are those of `mirror://` that were configured.
    pub(super) fn read(
        attributes: &Attributes<'_>,
        sites: &MirrorSites,
    ) -> Result<Self, FetchError> {
        let output = attributes.output()?;
        let (address, form) = address(attributes)?;
        let executable = attributes.switch("executable")?;
        let unpack = attributes.switch("unpack")?;
        if unpack && (executable || address.method() != Method::Nar) {
            return Err(FetchError::usage(
                "unpack delivers a tree: outputHashMode must be recursive, and executable must not be set",
            ));
        }
        let mut warnings = Vec::new();
        if address.algorithm().is_weak() && address.method() != Method::Git {
            warnings.push(format!(
                "{} hashes can be forged: a match does not prove that the content is the right one",
                address.algorithm()
            ));
        }
        let git = repository::of(attributes)?;
        if git.is_some() && (executable || unpack || address.method() == Method::Flat) {
            return Err(FetchError::usage(
                "rev delivers a tree: outputHashMode must be recursive, and neither executable nor unpack set",
            ));
        }
        let mut texts = match git {
            Some(_) => Vec::new(),
            None => urls(attributes)?,
        };
        if texts.len() > MAX_URLS {
            warnings.push(format!("URLs are skipped: there are more than {MAX_URLS}"));
            texts.truncate(MAX_URLS);
        }
        let url_names: Vec<String> = texts
            .iter()
            .filter_map(|text| SourceUrl::parse(text).ok()?.default_name().ok())
            .collect();
        let plain = Urls::expand(&texts, attributes, sites)?;
        let hashed = Urls::hashed(&address, attributes)?;
        warnings.extend(plain.warnings);
        warnings.extend(hashed.warnings);
        let name = match attributes.text("name")? {
            Some(name) => Some(name),
            None => output
                .file_name()
                .and_then(|name| store_path::split_base_name(name.to_str()?))
                .map(|(_, name)| name.to_owned()),
        };
        let asked_names: Vec<String> = name.iter().cloned().chain(url_names).collect();
        // What no store item can be called only skips the probe for it.
        let mut item_names: Vec<ItemName> = Vec::new();
        for name in asked_names
            .iter()
            .filter_map(|name| ItemName::new(name).ok())
        {
            if !item_names.contains(&name) {
                item_names.push(name);
            }
        }
        let request = Request {
            address,
            form,
            name,
            item_names,
            asked_names,
            urls: plain.urls,
            // Sites are known when URLs are read: a derivation may name its own.
            mirror_sites: MirrorSites::default(),
            hashed_urls: hashed.urls,
            git,
            executable,
            unpack,
            target: Target::Given(output),
        };
        Ok(Self { request, warnings })
    }
}

/// Reads `urls` and `url`, whichever are there.
fn urls(attributes: &Attributes<'_>) -> Result<Vec<String>, FetchError> {
    let mut urls = attributes.words("urls")?;
    if let Some(url) = attributes.text("url")?
        && !urls.contains(&url)
    {
        urls.push(url);
    }
    Ok(urls)
}

fn address(attributes: &Attributes<'_>) -> Result<(ContentAddress, HashForm), FetchError> {
    let mode = attributes.text("outputHashMode")?;
    let method = match mode.as_deref() {
        None => Method::Flat,
        Some(mode) => Method::from_name(mode).ok_or_else(|| {
            FetchError::usage(format!(
                "unknown outputHashMode '{}'; known are flat, recursive (nar) and git",
                mode.escape_debug()
            ))
        })?,
    };
    let hash = hash(attributes)?;
    let form = hash.form;
    let address = hash
        .into_address(Some(method))
        .map_err(|error| unusable(&error))?;
    Ok((address, form))
}

fn hash(attributes: &Attributes<'_>) -> Result<ParsedHash, FetchError> {
    let algorithm = match attributes.text("outputHashAlgo")? {
        None => None,
        Some(name) => Some(Algorithm::from_name(&name).ok_or_else(|| {
            unusable(&hash_text::HashError::UnknownAlgorithm(
                name.escape_debug().to_string(),
            ))
        })?),
    };
    if let Some(text) = attributes.text("outputHash")? {
        return hash_text::parse(&text, algorithm).map_err(|error| unusable(&error));
    }
    for (name, algorithm) in SPELLINGS {
        if let Some(text) = attributes.text(name)? {
            return hash_text::parse(&text, algorithm).map_err(|error| unusable(&error));
        }
    }
    // Nix takes an empty hash for one of zeros, which nothing has: its message then tells the right one.
    let algorithm = algorithm.ok_or_else(|| {
        FetchError::usage("no hash was given: outputHash is not set").with_hint(
            "a fixed-output derivation has outputHash, and outputHashAlgo unless the hash names its algorithm",
        )
    })?;
    let zeros = [0; MAX_DIGEST_LEN];
    let digest = Digest::new(algorithm, &zeros[..algorithm.digest_len()])
        .expect("a digest can have any bytes of the right number");
    Ok(ParsedHash {
        digest,
        form: HashForm::Sri,
    })
}

fn unusable(error: &hash_text::HashError) -> FetchError {
    let usage = FetchError::usage(format!("outputHash cannot be used: {error}"));
    match error.hint() {
        Some(hint) => usage.with_hint(hint),
        None => usage,
    }
}
