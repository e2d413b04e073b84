//! The command line and every environment variable: text becomes a request here, and nothing is touched.

mod environment;
mod explain;
mod fetch;
mod network;
mod places;
mod report;
mod what;

use clap::{Parser, Subcommand};

pub use self::environment::Environment;
use self::explain::ExplainArgs;
use self::fetch::FetchArgs;
pub use self::report::Speech;
use crate::error::FetchError;
use crate::fetch::Policy;
use crate::places::Named;
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
    Explain(ExplainArgs),
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

impl Cli {
    /// Makes sense of the arguments and the environment.
    pub fn interpret(self, environment: &Environment<'_>) -> Result<Parsed, FetchError> {
        match self.command {
            None => self.fetch.interpret(environment),
            Some(Command::Explain(explain)) => explain.interpret(environment),
        }
    }
}
