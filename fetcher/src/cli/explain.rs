//! `fetch explain`.

use clap::Args;

use super::places::PlaceArgs;
use super::report::ReportArgs;
use super::what::WhatArgs;
use super::{Environment, Invocation, Parsed, access};
use crate::error::FetchError;

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
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

impl ExplainArgs {
    pub(super) fn interpret(self, environment: &Environment<'_>) -> Result<Parsed, FetchError> {
        let (request, warnings) = self.what.interpret(&self.hash, None, false, environment)?;
        let (places, env_store) = self.places.interpret(environment)?;
        let speech = self.report.interpret(environment)?;
        let invocation = Invocation::Explain {
            request: Box::new(request),
            access: access(environment),
        };
        Ok(Parsed {
            invocation,
            places,
            env_store,
            guix: None,
            speech,
            warnings,
        })
    }
}
