//! A commit instead of URLs: the attributes that Nixpkgs' `fetchgit` gives its builder.

use super::attributes::Attributes;
use crate::error::FetchError;
use crate::git::{Revision, remote};
use crate::request::GitSource;
use crate::source_url::SourceUrl;

/// What is not done here, and why.
const NOT_HERE: [(&str, &str); 9] = [
    (
        "leaveDotGit",
        "what git writes into .git differs from one version of it to the next",
    ),
    ("deepClone", "a history is of use in .git only"),
    ("fetchTags", "tags are of use in .git only"),
    (
        "fetchLFS",
        "the files of LFS lie on another server; without it the pointers to them stay, as with Nixpkgs' fetchgit",
    ),
    ("sparseCheckout", "the whole tree is checked out"),
    ("rootDir", "the whole tree is checked out"),
    ("preFetch", "no script is run"),
    ("postCheckout", "no script is run"),
    ("postFetch", "no script is run"),
];

/// Reads which commit is wanted; `None` if it is a download.
pub(super) fn of(attributes: &Attributes<'_>) -> Result<Option<GitSource>, FetchError> {
    let (rev, tag) = (attributes.text("rev")?, attributes.text("tag")?);
    let revision = match (rev, tag) {
        (None, None) => return Ok(None),
        (Some(rev), None) => rev,
        (None, Some(tag)) => format!("refs/tags/{tag}"),
        // What is passed on to git is `rev`, and `tag` tells people where it came from.
        (Some(rev), Some(tag)) if rev == format!("refs/tags/{tag}") => rev,
        (Some(_), Some(_)) => {
            return Err(FetchError::usage(
                "rev and tag name two commits, and one is wanted",
            ));
        }
    };
    for (name, why) in NOT_HERE {
        // A list, a switch or a text: whatever asks for something has a word in it.
        let words = attributes.words(name)?;
        if words
            .iter()
            .any(|word| !["0", "false"].contains(&word.as_str()))
        {
            return Err(
                FetchError::usage(format!("{name} is set, which is not done here: {why}"))
                    .with_hint("use Nixpkgs' own fetchgit for this one"),
            );
        }
    }
    if !attributes.words("urls")?.is_empty() {
        return Err(FetchError::usage(
            "`urls` are those of files; a repository has one `url`",
        ));
    }
    let url = attributes.text("url")?.ok_or_else(|| {
        FetchError::usage("a commit is named, and no repository: `url` is not set")
    })?;
    Ok(Some(GitSource {
        url: url_of(&url)?,
        revision: revision_of(revision)?,
        submodules: attributes.switch("fetchSubmodules")?,
        may_run_ssh: true,
    }))
}

fn url_of(text: &str) -> Result<SourceUrl, FetchError> {
    // The text may hold a password, so it is not repeated.
    let url = SourceUrl::parse_repository(text).map_err(|error| {
        FetchError::usage(format!("the repository's URL cannot be used: {error}"))
    })?;
    if remote::is_local(&url) || !remote::is_supported(&url) {
        return Err(FetchError::usage(format!(
            "{url} cannot be fetched: a derivation's repository has an https, http, git or ssh URL"
        )));
    }
    Ok(url)
}

/// A plain name is that of a tag, as to `fetchgit`.
fn revision_of(text: String) -> Result<Revision, FetchError> {
    let parse = |text: &str| {
        Revision::parse(text).map_err(|error| {
            FetchError::usage(format!(
                "rev '{}' cannot be used: {error}",
                text.escape_debug()
            ))
        })
    };
    match parse(&text)? {
        Revision::Name(name) if name != "HEAD" && !name.starts_with("refs/") => {
            parse(&format!("refs/tags/{name}"))
        }
        revision => Ok(revision),
    }
}
