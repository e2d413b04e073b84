//! `fetch add-fixed`.

use std::path::PathBuf;

use clap::Args;

use super::network::stale_hash;
use super::places::PlaceArgs;
use super::report::ReportArgs;
use super::{Environment, Invocation, Parsed};
use crate::add_fixed::Wish;
use crate::error::FetchError;

#[derive(Debug, Args)]
pub(super) struct AddFixedArgs {
    /// Derivations to be built; their inputs are looked at too
    #[arg(value_name = "DRV", required = true)]
    derivations: Vec<PathBuf>,
    /// Say what would be added, and add nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    places: PlaceArgs,
    /// Content whose name has another version than the output: ignore uses it, auto and refuse do not
    #[arg(long, value_name = "WHAT")]
    stale_hash: Option<String>,
    /// Accepted, so that command lines can be shared; no socket is opened anyway
    #[arg(long, hide = true)]
    offline: bool,
    #[command(flatten)]
    report: ReportArgs,
}

impl AddFixedArgs {
    pub(super) fn interpret(self, environment: &Environment<'_>) -> Result<Parsed, FetchError> {
        let wish = Wish {
            derivations: self.derivations,
            dry_run: environment.switch(self.dry_run, "FETCH_DRY_RUN")?,
            stale_hash: stale_hash(self.stale_hash, environment)?,
        };
        let (places, env_store) = self.places.interpret(environment)?;
        Ok(Parsed {
            invocation: Invocation::AddFixed { wish },
            places,
            env_store,
            guix: environment.guix()?,
            speech: self.report.interpret(environment)?,
            warnings: Vec::new(),
        })
    }
}
