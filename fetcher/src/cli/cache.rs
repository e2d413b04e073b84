//! `fetch cache`.

use clap::{Args, Subcommand};

use super::report::ReportArgs;
use super::{Environment, Invocation, Parsed};
use crate::error::FetchError;
use crate::places::Named;

#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Says what is kept: partial downloads, earlier downloads, hosts and URLs that failed lately
    Status {
        #[command(flatten)]
        report: ReportArgs,
    },
    /// Removes partial downloads that are 14 days old or above 10 GiB, and forgets earlier downloads that are gone
    Gc {
        /// Remove every partial download that nobody works at
        #[arg(long)]
        all: bool,
    },
    /// Hashes what was downloaded and still lies where it was put; ends with 1 if some of it has changed
    Verify,
    /// Forgets what failed lately, and the pauses that servers asked for
    Forget,
}

/// What is to be done with what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheTask {
    /// Say how much it is.
    Status,
    /// Remove what is old.
    Gc {
        /// And what is not.
        all: bool,
    },
    /// Hash what was delivered.
    Verify,
    /// Forget failures.
    Forget,
}

impl CacheArgs {
    pub(super) fn interpret(self, environment: &Environment<'_>) -> Result<Parsed, FetchError> {
        let (task, report) = match self.command {
            CacheCommand::Status { report } => (CacheTask::Status, report),
            CacheCommand::Gc { all } => (CacheTask::Gc { all }, ReportArgs::default()),
            CacheCommand::Verify => (CacheTask::Verify, ReportArgs::default()),
            CacheCommand::Forget => (CacheTask::Forget, ReportArgs::default()),
        };
        Ok(Parsed {
            invocation: Invocation::Cache { task },
            places: Named {
                no_local: true,
                state: environment.state_folder(),
                ..Named::default()
            },
            env_store: None,
            guix: None,
            speech: report.interpret(environment)?,
            warnings: Vec::new(),
        })
    }
}
