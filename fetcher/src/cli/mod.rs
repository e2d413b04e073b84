//! The command line and every environment variable: text becomes a request here, and nothing is touched.

mod add_fixed;
mod batch;
mod cache;
mod environment;
mod explain;
mod fetch;
mod network;
mod perform_download;
mod places;
mod prefetch;
mod report;
mod what;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Parser, Subcommand};
use store_index::manual::Shell;
use store_index::store_path::ItemName;

use self::add_fixed::AddFixedArgs;
use self::batch::BatchArgs;
use self::cache::CacheArgs;
pub use self::cache::CacheTask;
pub use self::environment::Environment;
use self::explain::ExplainArgs;
use self::fetch::FetchArgs;
pub(crate) use self::network::{NetworkArgs, access};
use self::perform_download::PerformDownloadArgs;
pub(crate) use self::places::PlaceArgs;
use self::prefetch::PrefetchArgs;
pub use self::report::Speech;
use crate::add_fixed as add_fixed_task;
use crate::batch as batch_task;
use crate::error::FetchError;
use crate::fetch::Policy;
use crate::net::Access;
use crate::places::Named;
use crate::prefetch as prefetch_task;
use crate::request::Request;

const AFTER_HELP: &str = "\
Each option has an environment variable FETCH_<OPTION> (FETCH_STORE, FETCH_OFFLINE=1, ...); lists of paths are \
separated by ':', lists of URLs by blanks, and an empty variable counts as not set. Options win, then variables, \
then ~/.config/fetch/fetch.toml, then /etc/fetch/fetch.toml.

Exit codes:
  0    the output is there and verified
  2    usage: bad hash, bad option, no usable URL left
  3    not found: no local source has it, and every server asked said so
  4    mismatch: a server delivered something else, and nothing had the right content
  5    network: a server could not be asked, or broke off
  6    another process downloads the same content (--lock)
  7    local trouble: permission, disk full, the output exists
  130  interrupted, cleaned up";

/// Fetches content by hash: copies what this machine already has, under whatever name, and downloads only the rest.
///
/// Asked in this order: the output itself, the store under the expected names, its .links, local git repositories, the
/// store under any name, earlier downloads, indexed folders and media, and last the mirrors and the URLs. Whatever is
/// found is hashed as it lands; only the right content becomes the output. Standard output carries the output's path.
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
    /// Puts a source into the store under the name that a build will use; tells its path and hash
    Prefetch(Box<PrefetchArgs>),
    /// Gives derivations the fixed outputs whose content is here under other names
    AddFixed(Box<AddFixedArgs>),
    /// Fetches everything that a sources.json or a list of checksums names
    Batch(Box<BatchArgs>),
    /// Shows what each local source says to a hash; opens no socket and reads no content
    Explain(Box<ExplainArgs>),
    /// Says what is kept between runs, and removes it
    Cache(CacheArgs),
    /// Downloads what a derivation wants, for guix-daemon, which calls us guix ($GUIX)
    PerformDownload(PerformDownloadArgs),
    /// Runs as the builder of a Nix derivation, whose attributes say what is wanted
    Builder,
    /// Prints a script that completes the command line
    Completions {
        /// Which shell is to read it
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Writes the manual pages into a directory
    Man {
        /// Where; it must be there
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
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
        /// Under which name the output is also to be added to the store.
        add: Option<ItemName>,
    },
    /// Fill the store with one source.
    Prefetch {
        /// With what.
        wish: Box<prefetch_task::Wish>,
        /// How.
        policy: Policy,
    },
    /// Fill the store with what derivations lack.
    AddFixed {
        /// Which, and how.
        wish: add_fixed_task::Wish,
    },
    /// Fetch many.
    Batch {
        /// Which.
        wish: Box<batch_task::Wish>,
        /// How.
        policy: Policy,
    },
    /// Explain.
    Explain {
        /// What would be fetched.
        request: Box<Request>,
        /// Which URLs would be asked.
        access: Arc<Access>,
    },
    /// See to what is kept.
    Cache {
        /// What to do with it.
        task: CacheTask,
    },
}

/// What needs neither an environment nor a configuration, and must not be kept from it by a mistake in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelfDescription {
    /// The completions for a shell.
    Completions(Shell),
    /// The manual pages, into a directory.
    Manual(PathBuf),
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
    /// The real guix, where it was named.
    pub guix: Option<PathBuf>,
    /// How to talk.
    pub speech: Speech,
    /// What the user should know about the request.
    pub warnings: Vec<String>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Task {
    /// Tell of the program itself.
    Describe(SelfDescription),
    /// Anything else.
    Run(Box<Parsed>),
}

impl Cli {
    /// Returns derivation and output, if we are to download for guix-daemon.
    pub fn perform_download(&self) -> Option<(&Path, Option<&Path>)> {
        match &self.command {
            Some(Command::PerformDownload(args)) => {
                Some((&args.derivation, args.output.as_deref()))
            }
            _ => None,
        }
    }

    /// Returns true for `fetch builder`, which is told by its environment what to do.
    pub const fn is_builder(&self) -> bool {
        matches!(self.command, Some(Command::Builder))
    }

    /// Makes sense of the arguments and, where they count, of the environment and the configuration.
    pub fn interpret<'a>(
        self,
        environment: impl FnOnce() -> Result<Environment<'a>, FetchError>,
    ) -> Result<Task, FetchError> {
        let parsed = match self.command {
            None => self.fetch.interpret(&environment()?),
            Some(Command::Prefetch(prefetch)) => prefetch.interpret(&environment()?),
            Some(Command::AddFixed(add_fixed)) => add_fixed.interpret(&environment()?),
            Some(Command::Batch(batch)) => batch.interpret(&environment()?),
            Some(Command::Explain(explain)) => explain.interpret(&environment()?),
            Some(Command::Cache(cache)) => cache.interpret(&environment()?),
            // Neither is configured by the user's own file and variables alone.
            Some(Command::PerformDownload(_) | Command::Builder) => {
                return Err(FetchError::usage(
                    "a daemon runs this, and says what is wanted",
                ));
            }
            Some(Command::Completions { shell }) => {
                return Ok(Task::Describe(SelfDescription::Completions(shell)));
            }
            Some(Command::Man { directory }) => {
                return Ok(Task::Describe(SelfDescription::Manual(directory)));
            }
        };
        parsed.map(|parsed| Task::Run(Box::new(parsed)))
    }
}
