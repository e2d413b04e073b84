//! What is wanted: hash, name, URLs, a commit.

use std::path::Path;

use clap::Args;
use store_index::address::{ContentAddress, Method};
use store_index::digest::Algorithm;
use store_index::hash_text;
use store_index::store_path::ItemName;

use super::Environment;
use crate::error::FetchError;
use crate::git::Revision;
use crate::request::{GitSource, Request, Target};
use crate::source_url::{NameError, SourceUrl};

/// The longest URL that an error message repeats, in bytes.
const MAX_SHOWN_URL: usize = 200;

/// What nixpkgs calls the items of `fetchzip` and `fetchFromGitHub`.
const UNPACKED_ITEM_NAME: &str = "source";

#[derive(Debug, Args)]
pub(super) struct WhatArgs {
    /// Where the network has it, tried in this order: http://, https:// and mirror://SITE/PATH
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// What is hashed: flat (a file's bytes), nar (file or tree; also "recursive") or git [default: flat; nar with --git or --unpack]
    #[arg(long, value_name = "METHOD")]
    pub(super) mode: Option<String>,
    /// Unpack what the URL has (tar, zip, NAR): the hash is the NAR hash of the tree in it, without a single top directory;
    /// the default NAME keeps its ending
    #[arg(long)]
    unpack: bool,
    /// The algorithm of a bare digest: md5, sha1, sha256, sha512 or blake3
    #[arg(long, value_name = "ALGORITHM")]
    pub(super) hash_algo: Option<String>,
    /// The name of the store item [default: the last part of the first URL]
    #[arg(long)]
    name: Option<String>,
    /// A git repository, by https, http, git, ssh or file: the tree of a commit is wanted
    #[arg(long, value_name = "URL")]
    git: Option<String>,
    /// With --git: the commit's full id, a tag or a branch
    #[arg(long, value_name = "REV", allow_hyphen_values = true)]
    rev: Option<String>,
    /// With --git: submodules too, which are empty directories otherwise
    #[arg(long)]
    submodules: bool,
}

impl WhatArgs {
    /// Reads what is wanted. The target is filled in by the caller.
    pub(super) fn interpret(
        self,
        hash: &str,
        output: Option<&Path>,
        executable: bool,
        environment: &Environment<'_>,
    ) -> Result<(Request, Vec<String>), FetchError> {
        let mut warnings = Vec::new();
        let method = environment.value(self.mode, "FETCH_MODE", None, |mode| {
            Method::from_name(mode).ok_or_else(|| {
                FetchError::usage(format!(
                    "unknown mode '{}'; known are flat, nar (recursive) and git",
                    mode.escape_debug()
                ))
            })
        })?;
        let algorithm = environment.value(self.hash_algo, "FETCH_HASH_ALGO", None, |name| {
            Algorithm::from_name(name)
                .ok_or_else(|| hash_error(&hash_text::HashError::UnknownAlgorithm(name.to_owned())))
        })?;
        let git = git_source(self.git, self.rev, self.submodules, &self.urls, environment)?;
        let unpack = environment.switch(self.unpack, "FETCH_UNPACK")?;
        let implied = (git.is_some() || unpack).then_some(Method::Nar);
        let method = method.or(implied);
        let parsed = hash_text::parse(hash, algorithm).map_err(|error| hash_error(&error))?;
        let address = parsed
            .into_address(method)
            .map_err(|error| hash_error(&error))?;
        if git.is_some() && address.method() == Method::Flat {
            return Err(
                FetchError::usage("--git delivers a directory, which has no flat hash")
                    .with_hint("--mode nar is meant with --git unless --mode says otherwise"),
            );
        }
        if unpack {
            check_unpack(&address, git.is_some(), executable, output)?;
        }
        if address.algorithm().is_weak() && address.method() != Method::Git {
            warnings.push(format!(
                "{} hashes can be forged: a match does not prove that the content is the right one",
                address.algorithm()
            ));
        }
        let urls = self
            .urls
            .iter()
            .map(|text| parse_url(text))
            .collect::<Result<Vec<_>, _>>()?;
        let configured = &environment.configuration.mirror_sites;
        let mut mirror_sites = configured.clone().unwrap_or_default();
        for (site, _) in urls.iter().filter_map(SourceUrl::mirror) {
            let own = environment.words(Vec::new(), &format!("NIX_MIRRORS_{site}"))?;
            if !own.is_empty() {
                mirror_sites.replace(site, own);
            }
        }
        let url_names: Vec<_> = match &git {
            Some(git) => vec![repository_name(&git.url)],
            None => urls.iter().map(SourceUrl::default_name).collect(),
        };
        let given = environment.or(self.name, "FETCH_NAME")?;
        let name = match (&given, output, url_names.first()) {
            (Some(given), _, _) => {
                ItemName::new(given).map_err(|error| {
                    FetchError::usage(format!(
                        "--name '{}' cannot be used: {error}",
                        given.escape_debug()
                    ))
                })?;
                Some(given.clone())
            }
            (None, _, Some(Ok(name))) => Some(name.clone()),
            (None, Some(output), _) => output
                .file_name()
                .map(|name| name.to_string_lossy().into_owned()),
            (None, None, Some(Err(error))) => {
                let url = git.as_ref().map_or_else(|| &urls[0], |git| &git.url);
                return Err(FetchError::usage(format!(
                    "no name for the output can be made of {url}: {error}"
                ))
                .with_hint("say where it goes with -o PATH"));
            }
            (None, None, None) => None,
        };
        let name = name.filter(|name| name != "-");
        let asked_names: Vec<String> = given
            .into_iter()
            .chain(url_names.into_iter().filter_map(Result::ok))
            .collect();
        // A name that no store item can have only skips the probe.
        let mut item_names: Vec<ItemName> = Vec::new();
        let unpacked = UNPACKED_ITEM_NAME.to_owned();
        let unpacked = unpack.then_some(&unpacked);
        for name in name.iter().chain(&asked_names).chain(unpacked) {
            if let Ok(name) = ItemName::new(name)
                && !item_names.contains(&name)
            {
                item_names.push(name);
            }
        }
        let request = Request {
            address,
            form: parsed.form,
            name,
            item_names,
            asked_names,
            urls,
            hashed_urls: Vec::new(),
            mirror_sites,
            git,
            executable,
            unpack,
            target: Target::Stdout,
        };
        Ok((request, warnings))
    }
}

/// What cannot be meant together with `--unpack`.
fn check_unpack(
    address: &ContentAddress,
    git: bool,
    executable: bool,
    output: Option<&Path>,
) -> Result<(), FetchError> {
    if address.method() != Method::Nar {
        let method = address.method().name();
        let error = FetchError::usage(format!(
            "--unpack delivers a tree, and the method is {method}"
        ));
        return Err(error.with_hint("the hash must be the NAR hash of what is in the archive"));
    }
    if git {
        return Err(FetchError::usage("--unpack and --git exclude each other"));
    }
    if executable {
        return Err(FetchError::usage(
            "--unpack and --executable exclude each other: the archive says what is executable",
        ));
    }
    if output == Some(Path::new("-")) {
        return Err(FetchError::usage(
            "--unpack delivers a tree, which cannot go to standard output",
        )
        .with_hint("say where it goes with -o PATH"));
    }
    Ok(())
}

/// Reads `--git`, `--rev` and `--submodules`.
fn git_source(
    git: Option<String>,
    rev: Option<String>,
    submodules: bool,
    urls: &[String],
    environment: &Environment<'_>,
) -> Result<Option<GitSource>, FetchError> {
    let (git, rev) = (
        environment.or(git, "FETCH_GIT")?,
        environment.or(rev, "FETCH_REV")?,
    );
    let submodules = environment.switch(submodules, "FETCH_SUBMODULES")?;
    let (git, rev) = match (git, rev) {
        (Some(git), Some(rev)) => (git, rev),
        (Some(_), None) => {
            return Err(FetchError::usage(
                "--git needs --rev: which commit, tag or branch is wanted?",
            ));
        }
        (None, Some(_)) => return Err(FetchError::usage("--rev is of no use without --git")),
        (None, None) if submodules => {
            return Err(FetchError::usage("--submodules is of no use without --git"));
        }
        (None, None) => return Ok(None),
    };
    if !urls.is_empty() {
        return Err(FetchError::usage(
            "--git and the URL of a file exclude each other",
        ));
    }
    let revision = Revision::parse(&rev).map_err(|error| {
        FetchError::usage(format!(
            "--rev '{}' cannot be used: {error}",
            rev.escape_debug()
        ))
    })?;
    let url = SourceUrl::parse_repository(&git).map_err(|error| {
        FetchError::usage(format!("the URL of --git cannot be used: {error}")).with_hint(
            "a repository on this machine is found in a folder named with --media; the URL says where it came from",
        )
    })?;
    Ok(Some(GitSource {
        url,
        revision,
        submodules,
        may_run_ssh: true,
    }))
}

/// Returns the base name of a repository, without `.git`.
fn repository_name(url: &SourceUrl) -> Result<String, NameError> {
    let name = url.default_name()?;
    match name.strip_suffix(".git") {
        Some("") => Err(NameError::Missing),
        Some(stripped) => Ok(stripped.to_owned()),
        None => Ok(name),
    }
}

fn hash_error(error: &hash_text::HashError) -> FetchError {
    let usage = FetchError::usage(error.to_string());
    match error.hint() {
        Some(hint) => usage.with_hint(hint),
        None => usage,
    }
}

/// Reads a URL. The message repeats the text only where it cannot hold a password or a token.
pub(super) fn parse_url(text: &str) -> Result<SourceUrl, FetchError> {
    SourceUrl::parse(text).map_err(|error| {
        let shown = if text.contains(['@', '?']) || text.len() > MAX_SHOWN_URL {
            "a URL".to_owned()
        } else {
            format!("'{}'", text.escape_debug())
        };
        FetchError::usage(format!("{shown} cannot be used: {error}"))
    })
}
