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
        // An option goes before a variable and a variable before a file, be it for the one or for the other.
        let said = (
            environment.said("FETCH_QUIET")?,
            environment.said("FETCH_VERBOSE")?,
        );
        let decide = |given, other_given, said: Option<bool>, other_said, configured| match said {
            _ if given || other_given => given,
            Some(said) => said,
            None => other_said != Some(true) && configured == Some(true),
        };
        let quiet = decide(self.quiet, self.verbose, said.0, said.1, configured.quiet);
        let verbose = decide(self.verbose, self.quiet, said.1, said.0, configured.verbose);
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
            verbose,
        })
    }
}
