//! `fetch cache`.

use clap::{Args, Subcommand};

use super::report::ReportArgs;
use super::{Environment, Invocation, Parsed};
use crate::error::FetchError;
use crate::places::Named;
use crate::state::CopyBounds;

#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Says what is kept: partial and earlier downloads, copies, repositories, hosts and URLs that failed lately
    Status {
        #[command(flatten)]
        report: ReportArgs,
    },
    /// Removes partial downloads that are 14 days old or above 10 GiB, repositories unused for 90 days or above 10 GiB,
    /// and copies; and forgets earlier downloads that are gone
    Gc {
        /// Remove every partial download, copy and repository that nobody uses
        #[arg(long)]
        all: bool,
        /// The most that copies may have; the longest unused go first [default: 21474836480, 20 GiB]
        #[arg(long, value_name = "BYTES")]
        copies_bytes: Option<String>,
        /// How long a copy stays that is not used [default: 90]
        #[arg(long, value_name = "DAYS")]
        copies_days: Option<String>,
        #[command(flatten)]
        report: ReportArgs,
    },
    /// Hashes what was downloaded and still lies where it was put, copies and repositories; ends with 1 if some of it has
    /// changed
    Verify {
        #[command(flatten)]
        report: ReportArgs,
    },
    /// Forgets what failed lately, and the pauses that servers asked for
    Forget {
        #[command(flatten)]
        report: ReportArgs,
    },
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
        /// What remains of copies.
        copies: CopyBounds,
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
            CacheCommand::Gc {
                all,
                copies_bytes,
                copies_days,
                report,
            } => {
                let copies = environment.copy_bounds(copies_bytes, copies_days)?;
                let all = environment.switch(all, "FETCH_ALL")?;
                (CacheTask::Gc { all, copies }, report)
            }
            CacheCommand::Verify { report } => (CacheTask::Verify, report),
            CacheCommand::Forget { report } => (CacheTask::Forget, report),
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
