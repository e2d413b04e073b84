//! The command line and every environment variable: text becomes a request here, and nothing is touched.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum as _};
use store_index::address::Method;
use store_index::digest::Algorithm;
use store_index::hash_text;
use store_index::store_option::StoreOption;
use store_index::store_path::ItemName;
use store_index::terminal::ProgressMode;

use crate::error::FetchError;
use crate::fetch::Policy;
use crate::git::Revision;
use crate::net::Limits;
use crate::places::Named;
use crate::request::{GitSource, Request, Target};
use crate::source_url::{NameError, SourceUrl};
use crate::stale_hash::StaleHash;

/// The longest time that may be given for a timeout: more is a mistake in the unit.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest URL that an error message repeats, in bytes.
const MAX_SHOWN_URL: usize = 200;

const AFTER_HELP: &str = "\
Each option has an environment variable FETCH_<OPTION> (FETCH_STORE, FETCH_OFFLINE=1, ...); lists of paths are \
separated by ':', lists of URLs by blanks, and an empty variable counts as not set. Options win.

Exit codes:
  0    the output is there and verified
  2    usage: bad hash, bad option, no usable URL left
  3    not found: no local source has it, and every server asked said so
  4    mismatch: a server delivered something else, and nothing had the right content
  5    network: a server could not be asked, or broke off
  7    local trouble: permission, disk full, the output exists
  130  interrupted, cleaned up";

/// Fetches content by hash: copies what this machine already has, under whatever name, and downloads only the rest.
///
/// Asked in this order: the output itself, the store under the expected names, its .links, local git repositories, the
/// store under any name, indexed folders and media, and last the URLs. Whatever is found is hashed as it lands; only the right content
/// becomes the output. Standard output carries the output's path.
#[derive(Debug, Parser)]
#[command(name = "fetch", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    fetch: FetchArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what each local source says to a hash; opens no socket and reads no content
    Explain(Box<ExplainArgs>),
    /// Runs as the builder of a Nix derivation, which describes in the environment what is wanted
    Builder,
}

#[derive(Debug, Args)]
struct FetchArgs {
    /// What is wanted: SRI, algo:hex|nix-base32|base64, a bare digest or a SWHID
    #[arg(long, value_name = "HASH")]
    hash: Option<String>,
    #[command(flatten)]
    what: WhatArgs,
    /// Where it goes [default: ./NAME]; '-' is standard output, after verification
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Make the output executable
    #[arg(long)]
    executable: bool,
    /// Replace a file or symbolic link that stands at the output
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// What is wanted, as with --hash
    #[arg(value_name = "HASH")]
    hash: String,
    #[command(flatten)]
    what: WhatArgs,
    #[command(flatten)]
    places: PlaceArgs,
    /// Accepted, so that a command line of a fetch can be asked about; no socket is opened anyway
    #[arg(long, hide = true)]
    offline: bool,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Debug, Args)]
struct WhatArgs {
    /// Where the network has it, tried in this order: http:// and https://
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// What is hashed: flat (a file's bytes), nar (file or tree; also "recursive") or git [default: flat; nar with --git]
    #[arg(long, value_name = "METHOD")]
    mode: Option<String>,
    /// The algorithm of a bare digest: md5, sha1, sha256, sha512 or blake3
    #[arg(long, value_name = "ALGORITHM")]
    hash_algo: Option<String>,
    /// The name of the store item [default: the last part of the first URL]
    #[arg(long)]
    name: Option<String>,
    /// A git repository: the tree of a commit is wanted; so far from repositories in folders and on media only
    #[arg(long, value_name = "URL")]
    git: Option<String>,
    /// With --git: the commit's full id, a tag or a branch
    #[arg(long, value_name = "REV", allow_hyphen_values = true)]
    rev: Option<String>,
    /// With --git: submodules too (not there yet)
    #[arg(long)]
    submodules: bool,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Where to look")]
pub(crate) struct PlaceArgs {
    /// A store; paths are computed with DIR, files read below REAL [default: $NIX_STORE_DIR, $NIX_STORE, /gnu/store, /nix/store]
    #[arg(long, value_name = "DIR[=REAL]")]
    store: Vec<String>,
    /// An index, or a folder of indexes; its root counts as named too
    #[arg(long, value_name = "DIR")]
    index: Vec<PathBuf>,
    /// A folder or medium [default: discs, images of discs and removable disks that are mounted]
    #[arg(long, value_name = "DIR")]
    media: Vec<PathBuf>,
    /// No store but those named
    #[arg(long)]
    no_store: bool,
    /// No medium but those named
    #[arg(long)]
    no_media: bool,
    /// No local source at all
    #[arg(long)]
    no_local: bool,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Open no socket
    #[arg(long)]
    offline: bool,
    /// Local content whose name has another version than asked for: auto (the network decides; used offline), refuse or ignore
    #[arg(long, value_name = "WHAT")]
    stale_hash: Option<String>,
    /// Longest time to connect [default: 15]
    #[arg(long, value_name = "SECONDS")]
    connect_timeout: Option<String>,
    /// Longest wait for the first byte [default: 120]
    #[arg(long, value_name = "SECONDS")]
    first_byte_timeout: Option<String>,
    /// Give up when less than 1 KiB/s came for so long [default: 30]
    #[arg(long, value_name = "SECONDS")]
    stall_timeout: Option<String>,
    /// Longest download [default: 68719476736, 64 GiB]
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
struct ReportArgs {
    /// Print one JSON object instead of the path
    #[arg(long)]
    json: bool,
    /// How progress is shown on standard error: auto, bar, plain, json or none
    #[arg(long, value_name = "HOW")]
    progress: Option<String>,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say what each source answered
    #[arg(short, long)]
    verbose: bool,
}

/// How much is said, and how.
#[derive(Clone, Copy, Debug)]
pub struct Speech {
    /// One JSON object on standard output.
    pub json: bool,
    /// How progress is shown.
    pub progress: ProgressMode,
    /// Nothing but errors.
    pub quiet: bool,
    /// Every attempt.
    pub verbose: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Fetch.
    Fetch {
        /// What, and where to.
        request: Box<Request>,
        /// How.
        policy: Policy,
    },
    /// Explain.
    Explain {
        /// What would be fetched.
        request: Box<Request>,
    },
}

/// The command line, read.
#[derive(Debug)]
pub struct Parsed {
    /// What to do.
    pub invocation: Invocation,
    /// Where to look.
    pub places: Named,
    /// The store of the environment.
    pub env_store: Option<String>,
    /// How to talk.
    pub speech: Speech,
    /// What the user should know about the request.
    pub warnings: Vec<String>,
}

/// The environment as far as it configures us; a function, so that tests need not change the process's own.
pub struct Environment<'a>(pub &'a dyn Fn(&str) -> Option<OsString>);

impl std::fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment")
    }
}

impl Environment<'_> {
    /// A variable; empty counts as not set.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, FetchError> {
        match (self.0)(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value
                .into_string()
                .map(Some)
                .map_err(|_| FetchError::usage(format!("{name} is not UTF-8 text"))),
        }
    }

    /// An option's value, else its variable's.
    fn or(&self, option: Option<String>, name: &str) -> Result<Option<String>, FetchError> {
        match option {
            Some(value) => Ok(Some(value)),
            None => self.text(name),
        }
    }

    /// A switch, on if it was given or its variable says so.
    pub(crate) fn switch(&self, given: bool, name: &str) -> Result<bool, FetchError> {
        if given {
            return Ok(true);
        }
        match self.text(name)?.as_deref() {
            None | Some("0" | "false" | "no" | "off") => Ok(false),
            Some("1" | "true" | "yes" | "on") => Ok(true),
            Some(other) => Err(FetchError::usage(format!(
                "{name} is '{other}'; 1 or 0 is wanted"
            ))),
        }
    }

    pub(crate) fn paths(&self, given: Vec<PathBuf>, name: &str) -> Vec<PathBuf> {
        if !given.is_empty() {
            return given;
        }
        let Some(value) = (self.0)(name) else {
            return Vec::new();
        };
        value
            .as_bytes()
            .split(|&byte| byte == b':')
            .filter(|part| !part.is_empty())
            .map(|part| PathBuf::from(std::ffi::OsStr::from_bytes(part)))
            .collect()
    }
}

impl Cli {
    /// Returns true for `fetch builder`, which is told by its environment what to do.
    pub const fn is_builder(&self) -> bool {
        matches!(self.command, Some(Command::Builder))
    }

    /// Makes sense of the arguments and the environment.
    pub fn interpret(self, environment: &Environment<'_>) -> Result<Parsed, FetchError> {
        match self.command {
            None => self.fetch.interpret(environment),
            Some(Command::Explain(explain)) => explain.interpret(environment),
            Some(Command::Builder) => Err(FetchError::usage("a builder has no request of its own")),
        }
    }
}

impl FetchArgs {
    fn interpret(self, environment: &Environment<'_>) -> Result<Parsed, FetchError> {
        let hash = environment.or(self.hash, "FETCH_HASH")?.ok_or_else(|| {
            FetchError::usage("no hash was given: what is wanted stands behind --hash")
                .with_hint("fetch --help shows all options")
        })?;
        let output = match self.output {
            Some(output) => Some(output),
            None => (environment.0)("FETCH_OUTPUT")
                .filter(|value| !value.is_empty())
                .map(PathBuf::from),
        };
        let executable = environment.switch(self.executable, "FETCH_EXECUTABLE")?;
        let (mut request, warnings) =
            self.what
                .interpret(&hash, output.as_deref(), executable, environment)?;
        request.target = target(output, request.name.as_deref())?;
        let speech = self.report.interpret(environment)?;
        if request.target == Target::Stdout && speech.json {
            return Err(
                FetchError::usage("-o - and --json both want standard output")
                    .with_hint("write the content to a file with -o PATH"),
            );
        }
        let policy = Policy {
            offline: environment.switch(self.network.offline, "FETCH_OFFLINE")?,
            force: environment.switch(self.force, "FETCH_FORCE")?,
            stale_hash: self.network.stale_hash(environment)?,
            limits: self.network.limits(environment)?,
            leave_wrong: false,
        };
        let (places, env_store) = self.places.interpret(environment)?;
        let invocation = Invocation::Fetch {
            request: Box::new(request),
            policy,
        };
        Ok(Parsed {
            invocation,
            places,
            env_store,
            speech,
            warnings,
        })
    }
}

impl ExplainArgs {
    fn interpret(self, environment: &Environment<'_>) -> Result<Parsed, FetchError> {
        let (request, warnings) = self.what.interpret(&self.hash, None, false, environment)?;
        let (places, env_store) = self.places.interpret(environment)?;
        let speech = self.report.interpret(environment)?;
        let invocation = Invocation::Explain {
            request: Box::new(request),
        };
        Ok(Parsed {
            invocation,
            places,
            env_store,
            speech,
            warnings,
        })
    }
}

/// Where the content goes.
fn target(output: Option<PathBuf>, name: Option<&str>) -> Result<Target, FetchError> {
    let path = match (output, name) {
        (Some(output), _) if output == Path::new("-") => return Ok(Target::Stdout),
        (Some(output), _) => output,
        (None, Some(name)) => PathBuf::from(name),
        (None, None) => {
            return Err(FetchError::usage(
                "where shall it go? Neither a URL, nor --name, nor -o says so",
            ));
        }
    };
    let absolute = std::path::absolute(&path).map_err(|error| {
        FetchError::local(format!("cannot find the working directory: {error}"))
    })?;
    Ok(Target::Path(absolute))
}

impl WhatArgs {
    /// Reads what is wanted. The target is filled in by the caller.
    fn interpret(
        self,
        hash: &str,
        output: Option<&Path>,
        executable: bool,
        environment: &Environment<'_>,
    ) -> Result<(Request, Vec<String>), FetchError> {
        let mut warnings = Vec::new();
        let method = environment.or(self.mode, "FETCH_MODE")?.map(|mode| {
            Method::from_name(&mode).ok_or_else(|| {
                FetchError::usage(format!(
                    "unknown mode '{mode}'; known are flat, nar (recursive) and git"
                ))
            })
        });
        let algorithm = environment
            .or(self.hash_algo, "FETCH_HASH_ALGO")?
            .map(|name| {
                Algorithm::from_name(&name).ok_or_else(|| {
                    let error = hash_text::HashError::UnknownAlgorithm(name);
                    hash_error(&error)
                })
            });
        let git = git_source(self.git, self.rev, self.submodules, &self.urls, environment)?;
        let method = method.transpose()?.or(git.as_ref().map(|_| Method::Nar));
        let parsed =
            hash_text::parse(hash, algorithm.transpose()?).map_err(|error| hash_error(&error))?;
        let address = parsed
            .into_address(method)
            .map_err(|error| hash_error(&error))?;
        if git.is_some() && address.method() == Method::Flat {
            return Err(
                FetchError::usage("--git delivers a directory, which has no flat hash")
                    .with_hint("--mode nar is meant with --git unless --mode says otherwise"),
            );
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
        for name in name.iter().chain(&asked_names) {
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
            git,
            executable,
            target: Target::Stdout,
        };
        Ok((request, warnings))
    }
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
    if submodules {
        return Err(FetchError::usage("--submodules is not there yet")
            .with_hint("without it, submodules become empty directories"));
    }
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
    Ok(Some(GitSource { url, revision }))
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
fn parse_url(text: &str) -> Result<SourceUrl, FetchError> {
    SourceUrl::parse(text).map_err(|error| {
        let shown = if text.contains(['@', '?']) || text.len() > MAX_SHOWN_URL {
            "a URL".to_owned()
        } else {
            format!("'{}'", text.escape_debug())
        };
        FetchError::usage(format!("{shown} cannot be used: {error}"))
    })
}

impl PlaceArgs {
    pub(crate) fn interpret(
        self,
        environment: &Environment<'_>,
    ) -> Result<(Named, Option<String>), FetchError> {
        let env_store = match environment.text("NIX_STORE_DIR")? {
            Some(store) => Some(store),
            None => environment.text("NIX_STORE")?,
        };
        let texts = if self.store.is_empty() {
            let variable = environment.text("FETCH_STORE")?.unwrap_or_default();
            variable
                .split(':')
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .collect()
        } else {
            self.store
        };
        let stores: Vec<StoreOption> = texts
            .iter()
            .map(|text| {
                StoreOption::parse(text, env_store.as_deref()).map_err(|error| {
                    FetchError::usage(format!("--store '{}': {error}", text.escape_debug()))
                })
            })
            .collect::<Result<_, _>>()?;
        let named = Named {
            stores,
            indexes: environment.paths(self.index, "FETCH_INDEX"),
            media: environment.paths(self.media, "FETCH_MEDIA"),
            no_store: environment.switch(self.no_store, "FETCH_NO_STORE")?,
            no_media: environment.switch(self.no_media, "FETCH_NO_MEDIA")?,
            no_local: environment.switch(self.no_local, "FETCH_NO_LOCAL")?,
            builtin: false,
        };
        Ok((named, env_store))
    }
}

impl NetworkArgs {
    fn stale_hash(&self, environment: &Environment<'_>) -> Result<StaleHash, FetchError> {
        match environment
            .or(self.stale_hash.clone(), "FETCH_STALE_HASH")?
            .as_deref()
        {
            None | Some("auto") => Ok(StaleHash::Auto),
            Some("refuse") => Ok(StaleHash::Refuse),
            Some("ignore") => Ok(StaleHash::Ignore),
            Some(other) => Err(FetchError::usage(format!(
                "--stale-hash '{other}' is unknown; known are auto, refuse and ignore"
            ))),
        }
    }

    pub(crate) fn limits(&self, environment: &Environment<'_>) -> Result<Limits, FetchError> {
        let mut limits = Limits::default();
        let seconds = |option: &Option<String>,
                       variable: &str,
                       name: &str|
         -> Result<Option<Duration>, FetchError> {
            let Some(text) = environment.or(option.clone(), variable)? else {
                return Ok(None);
            };
            let duration = text
                .parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            match duration {
                Some(duration) if !duration.is_zero() && duration <= MAX_TIMEOUT => {
                    Ok(Some(duration))
                }
                _ => Err(FetchError::usage(format!(
                    "{name} '{text}' is no number of seconds from above 0 to 86400"
                ))),
            }
        };
        let connect = seconds(
            &self.connect_timeout,
            "FETCH_CONNECT_TIMEOUT",
            "--connect-timeout",
        )?;
        let first_byte = seconds(
            &self.first_byte_timeout,
            "FETCH_FIRST_BYTE_TIMEOUT",
            "--first-byte-timeout",
        )?;
        let stall = seconds(
            &self.stall_timeout,
            "FETCH_STALL_TIMEOUT",
            "--stall-timeout",
        )?;
        limits.connect_timeout = connect.unwrap_or(limits.connect_timeout);
        limits.first_byte_timeout = first_byte.unwrap_or(limits.first_byte_timeout);
        limits.stall_window = stall.unwrap_or(limits.stall_window);
        if let Some(text) = environment.or(self.max_bytes.clone(), "FETCH_MAX_BYTES")? {
            limits.max_bytes = text.parse().map_err(|_| {
                FetchError::usage(format!("--max-bytes '{text}' is no number of bytes"))
            })?;
        }
        Ok(limits)
    }
}

impl ReportArgs {
    fn interpret(self, environment: &Environment<'_>) -> Result<Speech, FetchError> {
        let quiet = environment.switch(self.quiet, "FETCH_QUIET")?;
        let progress = match environment.or(self.progress, "FETCH_PROGRESS")?.as_deref() {
            None if quiet => ProgressMode::None,
            None => ProgressMode::Auto,
            Some(name) => ProgressMode::from_str(name, false).map_err(|_| {
                FetchError::usage(format!(
                    "--progress '{name}' is unknown; known are auto, bar, plain, json and none"
                ))
            })?,
        };
        Ok(Speech {
            json: environment.switch(self.json, "FETCH_JSON")?,
            progress,
            quiet,
            verbose: environment.switch(self.verbose, "FETCH_VERBOSE")?,
        })
    }
}
