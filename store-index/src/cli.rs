//! The command line, and every environment variable that is read: text in, checked values out.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use store_index::address::{ContentAddress, Method};
use store_index::digest::Algorithm;
use store_index::hash_text;
use store_index::key::{KeyKind, KeySet};
use store_index::manual::Shell;
use store_index::store_option::StoreOption;
use store_index::update::MAX_JOBS;

use store_index::terminal::ProgressMode;

/// The environment variables that stand for options. Lists of paths are separated by colons.
mod variable {
    pub(super) const STORE: &str = "FETCH_STORE";
    pub(super) const INDEX: &str = "FETCH_INDEX";
    pub(super) const MEDIA: &str = "FETCH_MEDIA";
    pub(super) const ALGORITHMS: &str = "FETCH_ALGORITHMS";
    pub(super) const JOBS: &str = "FETCH_JOBS";
    pub(super) const PROGRESS: &str = "FETCH_PROGRESS";
    pub(super) const HASH_ALGO: &str = "FETCH_HASH_ALGO";
    pub(super) const MODE: &str = "FETCH_MODE";
    /// Set by Nix, first choice for the present store.
    pub(super) const NIX_STORE_DIR: &str = "NIX_STORE_DIR";
    /// Set by Nix and by Guix.
    pub(super) const NIX_STORE: &str = "NIX_STORE";
}

/// The stores that are there on most machines that have one.
const USUAL_STORES: [&str; 2] = ["/gnu/store", "/nix/store"];

/// Finds content by hash in Nix and Guix stores, folders and media
#[derive(Debug, Parser)]
#[command(name = "store-index", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How much to say
    #[command(flatten)]
    pub(crate) talk: Talk,
}

const AFTER_HELP: &str = "\
Each option can be given as an environment variable, FETCH_STORE for --store and so on; lists of paths are separated by colons.

Exit codes: 0 done, 1 `check` found something wrong, 2 usage, 3 `lookup` found nothing, 7 local trouble, 130 interrupted.";

/// Reads the variable of a switch: empty, 0, no, off and false say no.
fn switch() -> clap::builder::FalseyValueParser {
    clap::builder::FalseyValueParser::new()
}

/// How much to say.
#[derive(Debug, Args)]
pub(crate) struct Talk {
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", env = "FETCH_QUIET", hide_env = true, value_parser = switch())]
    pub(crate) quiet: bool,
    /// Say more
    #[arg(short, long, global = true, env = "FETCH_VERBOSE", hide_env = true, value_parser = switch())]
    pub(crate) verbose: bool,
    /// How to show progress on standard error
    #[arg(long, global = true, value_name = "STYLE", value_enum)]
    progress: Option<ProgressMode>,
}

impl Talk {
    pub(crate) fn style(&self) -> Result<ProgressMode, Usage> {
        if self.quiet {
            return Ok(ProgressMode::None);
        }
        match (self.progress, text_variable(variable::PROGRESS)?) {
            (Some(style), _) => Ok(style),
            (None, Some(name)) => <ProgressMode as clap::ValueEnum>::from_str(&name, false)
                .map_err(|_| {
                    Usage::new(format!(
                        "{}='{name}' is not auto, bar, plain, json or none",
                        variable::PROGRESS
                    ))
                }),
            (None, None) => Ok(ProgressMode::Auto),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read what is new, drop what is gone
    Update(UpdateArgs),
    /// Say where content is
    Lookup(LookupArgs),
    /// List the indexes and how fresh they are
    Status(StatusArgs),
    /// Check indexes against themselves, with --content against the files
    Check(CheckArgs),
    /// List the media that are remembered, name them, forget them
    Media(MediaArgs),
    /// Print a script that completes the command line
    Completions {
        /// Which shell is to read it
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// Where; it must be there
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MediaArgs {
    #[command(subcommand)]
    pub(crate) command: Option<MediaCommand>,
    /// An index or a folder of indexes to use instead of the usual ones
    #[arg(long, value_name = "DIR", global = true)]
    index: Vec<PathBuf>,
    /// Print JSON
    #[arg(long, global = true, env = "FETCH_JSON", hide_env = true, value_parser = switch())]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum MediaCommand {
    /// List them
    List,
    /// Say what a medium is called, for `insert «LABEL»`
    Rename {
        /// Its id, as `media list` shows it, or the first characters of it
        #[arg(value_name = "ID")]
        id: String,
        /// What to call it; empty for what it calls itself
        #[arg(value_name = "LABEL")]
        label: String,
    },
    /// Remove a medium's index from this machine
    Forget {
        /// Its id, as `media list` shows it, or the first characters of it
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Folders to index; a network or FUSE mount below one must be named itself. Without any root: /gnu/store, /nix/store and $NIX_STORE as far as they exist
    #[arg(value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// A store to index; paths in it are computed with DIR, files read below REAL
    #[arg(long, value_name = "DIR[=REAL]")]
    store: Vec<OsString>,
    /// A medium to index: a mounted disc or image, a USB disk, any mirror folder. What checksum lists on it name is
    /// entered without being read
    #[arg(long, value_name = "DIR")]
    media: Vec<PathBuf>,
    /// Where the index lies, or a folder of indexes
    #[arg(long, value_name = "DIR")]
    index: Option<PathBuf>,
    /// Digests to keep beside sha256: md5, sha1, sha512, blake3, git, nar
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    algorithms: Vec<String>,
    /// How many threads read
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Read every file of media, listed in a checksum list or not, in the order of the disc; can be broken off and
    /// goes on where it was
    #[arg(long, conflicts_with = "hints_only", env = "FETCH_HASH_ALL", hide_env = true, value_parser = switch())]
    pub(crate) hash_all: bool,
    /// Read no file of media, enter only what checksum lists name
    #[arg(long, env = "FETCH_HINTS_ONLY", hide_env = true, value_parser = switch())]
    pub(crate) hints_only: bool,
    /// Start from nothing
    #[arg(long, env = "FETCH_REBUILD", hide_env = true, value_parser = switch())]
    pub(crate) rebuild: bool,
    /// Write the index into DIR/.store-index, to go with the tree
    #[arg(long, conflicts_with_all = ["index", "store"], env = "FETCH_IN_PLACE", hide_env = true, value_parser = switch())]
    pub(crate) in_place: bool,
    /// Print what was done as JSON
    #[arg(long, env = "FETCH_JSON", hide_env = true, value_parser = switch())]
    pub(crate) json: bool,
}

/// Where readers look.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// An index or a folder of indexes to use instead of the usual ones
    #[arg(long, value_name = "DIR")]
    index: Vec<PathBuf>,
    /// Where the files of a store are
    #[arg(long, value_name = "DIR[=REAL]")]
    store: Vec<OsString>,
    /// A folder or medium that may have its index on it
    #[arg(long, value_name = "DIR")]
    media: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct LookupArgs {
    /// What to look for: SRI, algorithm:digest, a bare digest or a SWHID
    #[arg(value_name = "HASH")]
    hash: String,
    /// What the hash is of: flat, nar (also: recursive) or git
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// The algorithm of a bare digest
    #[arg(long, value_name = "A")]
    hash_algo: Option<String>,
    #[command(flatten)]
    pub(crate) places: PlaceArgs,
    /// Print JSON
    #[arg(long, env = "FETCH_JSON", hide_env = true, value_parser = switch())]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) places: PlaceArgs,
    /// Print JSON
    #[arg(long, env = "FETCH_JSON", hide_env = true, value_parser = switch())]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) places: PlaceArgs,
    /// Read every indexed file and compare its digests
    #[arg(long, env = "FETCH_CONTENT", hide_env = true, value_parser = switch())]
    pub(crate) content: bool,
    /// Print JSON
    #[arg(long, env = "FETCH_JSON", hide_env = true, value_parser = switch())]
    pub(crate) json: bool,
}

/// A mistake on the command line or in the environment.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Usage {
    message: String,
    pub(crate) hint: Option<String>,
}

impl Usage {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

/// What an update is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RootArg {
    Store(StoreOption),
    Folder(PathBuf),
    Medium(PathBuf),
}

impl UpdateArgs {
    /// Returns the roots. What the environment names counts only if the command line names none.
    pub(crate) fn roots(&self) -> Result<Vec<RootArg>, Usage> {
        let mut roots = roots(&self.store, &self.media)?;
        roots.extend(self.folders.iter().cloned().map(RootArg::Folder));
        if roots.is_empty() {
            roots = from_environment()?;
        }
        if roots.is_empty() && !self.in_place {
            roots = usual_stores()?.into_iter().map(RootArg::Store).collect();
        }
        if self.in_place && roots.iter().any(|root| matches!(root, RootArg::Store(_))) {
            return Err(Usage::new(
                "--in-place does not go with a store: collectors delete what they do not know there",
            ));
        }
        let reads_all = |root: &RootArg| !matches!(root, RootArg::Medium(_));
        if self.hints_only && roots.iter().any(reads_all) {
            return Err(Usage::new(
                "--hints-only is for media: checksum lists are read on them alone",
            )
            .with_hint("name the folder with --media DIR"));
        }
        if roots.is_empty() {
            return Err(
                Usage::new("nothing to index: no store was found and no folder named")
                    .with_hint("name a folder, or a store with --store DIR"),
            );
        }
        Ok(roots)
    }

    pub(crate) fn index(&self) -> Option<PathBuf> {
        let named = || path_variable(variable::INDEX).into_iter().next();
        if self.in_place {
            None
        } else {
            self.index.clone().or_else(named)
        }
    }

    /// Returns the kinds that were asked for; `None` if none were.
    pub(crate) fn kinds(&self) -> Result<Option<KeySet>, Usage> {
        let named = match text_variable(variable::ALGORITHMS)? {
            Some(list) if self.algorithms.is_empty() => {
                list.split(',').map(str::to_owned).collect()
            }
            _ => self.algorithms.clone(),
        };
        if named.is_empty() {
            return Ok(None);
        }
        let add = |kinds: KeySet, name: &String| {
            let all = KeyKind::ALL
                .into_iter()
                .fold(KeySet::empty(), KeySet::with)
                .names()
                .join(", ");
            kinds.with_named(name.trim()).ok_or_else(|| {
                Usage::new(format!(
                    "'{}' is nothing that an index keeps",
                    name.escape_debug()
                ))
                .with_hint(format!("there are {all}"))
            })
        };
        named.iter().try_fold(KeySet::always(), add).map(Some)
    }

    pub(crate) fn jobs(&self) -> Result<Option<usize>, Usage> {
        let from_variable = || {
            let Some(text) = text_variable(variable::JOBS)? else {
                return Ok(None);
            };
            let wrong = || {
                Usage::new(format!(
                    "{}='{}' is no number",
                    variable::JOBS,
                    text.escape_debug()
                ))
            };
            text.parse().map(Some).map_err(|_| wrong())
        };
        match self
            .jobs
            .map_or_else(from_variable, |jobs| Ok(Some(jobs)))?
        {
            Some(jobs) if !(1..=MAX_JOBS).contains(&jobs) => Err(Usage::new(format!(
                "--jobs {jobs}: there can be 1 to {MAX_JOBS} threads"
            ))),
            jobs => Ok(jobs),
        }
    }
}

impl MediaArgs {
    /// Returns the indexes and folders of indexes that were named.
    pub(crate) fn indexes(&self) -> Vec<PathBuf> {
        named_indexes(&self.index)
    }
}

impl PlaceArgs {
    /// Returns the indexes and folders of indexes that were named.
    pub(crate) fn indexes(&self) -> Vec<PathBuf> {
        named_indexes(&self.index)
    }

    /// Returns where the files of stores are, and which folders and media were named.
    pub(crate) fn roots(&self) -> Result<Vec<RootArg>, Usage> {
        let named = roots(&self.store, &self.media)?;
        if named.is_empty() {
            from_environment()
        } else {
            Ok(named)
        }
    }
}

impl LookupArgs {
    /// Returns the hash as it was given.
    pub(crate) fn hash(&self) -> String {
        self.hash.escape_debug().to_string()
    }

    pub(crate) fn address(&self) -> Result<ContentAddress, Usage> {
        let algorithm = match self
            .hash_algo
            .clone()
            .map_or_else(|| text_variable(variable::HASH_ALGO), |name| Ok(Some(name)))?
        {
            None => None,
            Some(name) => Some(Algorithm::from_name(&name).ok_or_else(|| {
                Usage::new(format!("unknown hash algorithm '{}'", name.escape_debug()))
                    .with_hint("there are md5, sha1, sha256, sha512 and blake3")
            })?),
        };
        let mode = self.mode.clone();
        let mode = mode.map_or_else(|| text_variable(variable::MODE), |name| Ok(Some(name)))?;
        let method = match mode {
            None => None,
            Some(name) => Some(Method::from_name(&name).ok_or_else(|| {
                Usage::new(format!("unknown mode '{}'", name.escape_debug()))
                    .with_hint("there are flat, nar and git")
            })?),
        };
        let usage = |error: hash_text::HashError| {
            let usage = Usage::new(error.to_string());
            match error.hint() {
                Some(hint) => usage.with_hint(hint),
                None => usage,
            }
        };
        hash_text::parse(&self.hash, algorithm)
            .and_then(|parsed| parsed.into_address(method))
            .map_err(usage)
    }
}

fn named_indexes(given: &[PathBuf]) -> Vec<PathBuf> {
    if given.is_empty() {
        path_variable(variable::INDEX)
    } else {
        given.to_vec()
    }
}

fn roots(stores: &[OsString], media: &[PathBuf]) -> Result<Vec<RootArg>, Usage> {
    let mut roots = Vec::new();
    for text in stores {
        roots.push(RootArg::Store(parse_store(text)?));
    }
    roots.extend(media.iter().cloned().map(RootArg::Medium));
    Ok(roots)
}

fn from_environment() -> Result<Vec<RootArg>, Usage> {
    let stores: Vec<OsString> = path_variable(variable::STORE)
        .into_iter()
        .map(PathBuf::into_os_string)
        .collect();
    roots(&stores, &path_variable(variable::MEDIA))
}

/// Reads `DIR[=REAL]`; an empty DIR is the present store.
fn parse_store(text: &OsStr) -> Result<StoreOption, Usage> {
    let wrong = |why: &str| {
        let text = text.to_string_lossy();
        Usage::new(format!("--store '{}': {why}", text.escape_debug()))
    };
    let store = text
        .to_str()
        .ok_or_else(|| wrong("the path is not UTF-8"))?;
    StoreOption::parse(store, present_store()?.as_deref())
        .map_err(|error| wrong(&error.to_string()))
}

fn present_store() -> Result<Option<String>, Usage> {
    Ok(match text_variable(variable::NIX_STORE_DIR)? {
        Some(store) => Some(store),
        None => text_variable(variable::NIX_STORE)?,
    })
}

/// Returns the present store and the usual ones, as far as they exist.
fn usual_stores() -> Result<Vec<StoreOption>, Usage> {
    let mut stores: Vec<StoreOption> = Vec::new();
    for name in present_store()?
        .into_iter()
        .chain(USUAL_STORES.map(str::to_owned))
    {
        let store = parse_store(OsStr::new(&name))?;
        if store.real.is_dir() && !stores.contains(&store) {
            stores.push(store);
        }
    }
    Ok(stores)
}

/// Returns the paths in a variable; empty ones are left out.
fn path_variable(name: &str) -> Vec<PathBuf> {
    let value = std::env::var_os(name).unwrap_or_default();
    std::env::split_paths(&value)
        .filter(|path| path != Path::new(""))
        .collect()
}

/// Returns a variable's text; an empty one counts as absent.
fn text_variable(name: &str) -> Result<Option<String>, Usage> {
    match std::env::var(name) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Usage::new(format!("{name} is not UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
