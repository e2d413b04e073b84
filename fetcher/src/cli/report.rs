//! How much is said, and how.

use clap::{Args, ValueEnum as _};
use store_index::terminal::ProgressMode;

use super::Environment;
use crate::error::FetchError;

#[derive(Debug, Args)]
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
