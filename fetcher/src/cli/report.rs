//! How much is said, and how.

use clap::{Args, ValueEnum as _};
use store_index::terminal::ProgressMode;

use super::Environment;
use crate::error::FetchError;

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct ReportArgs {
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

impl ReportArgs {
    pub(super) fn interpret(self, environment: &Environment<'_>) -> Result<Speech, FetchError> {
        let configured = &environment.configuration;
        // What a file says must not contradict an option.
        let quiet = configured.quiet.filter(|_| !self.verbose);
        let verbose = configured.verbose.filter(|_| !self.quiet);
        let quiet = environment.switch_or(self.quiet, "FETCH_QUIET", quiet)?;
        let known = |name: &str| {
            ProgressMode::from_str(name, false).map_err(|_| {
                FetchError::usage(format!(
                    "--progress '{}' is unknown; known are auto, bar, plain, json and none",
                    name.escape_debug()
                ))
            })
        };
        let usual = if quiet {
            ProgressMode::None
        } else {
            configured.progress.unwrap_or(ProgressMode::Auto)
        };
        let progress = environment.value(self.progress, "FETCH_PROGRESS", None, known)?;
        Ok(Speech {
            json: environment.switch(self.json, "FETCH_JSON")?,
            progress: progress.unwrap_or(usual),
            quiet,
            verbose: environment.switch_or(self.verbose, "FETCH_VERBOSE", verbose)?,
        })
    }
}
