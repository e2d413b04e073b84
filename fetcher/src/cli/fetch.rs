//! `fetch --hash`: the main job.

use std::path::{Path, PathBuf};

use clap::Args;

use super::network::NetworkArgs;
use super::places::PlaceArgs;
use super::prefetch::item_name;
use super::report::ReportArgs;
use super::what::WhatArgs;
use super::{Environment, Invocation, Parsed};
use crate::error::FetchError;
use crate::request::Target;

#[derive(Debug, Args)]
pub(super) struct FetchArgs {
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
    /// Also add the output to the store, under NAME
    #[arg(long)]
    add: bool,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    report: ReportArgs,
}

impl FetchArgs {
    pub(super) fn interpret(self, environment: &Environment<'_>) -> Result<Parsed, FetchError> {
        let hash = environment.or(self.hash, "FETCH_HASH")?.ok_or_else(|| {
            FetchError::usage("no hash was given: what is wanted stands behind --hash")
                .with_hint("fetch --help shows all options; fetch prefetch URL downloads without a hash, and tells it")
        })?;
        let output = environment.path(self.output, "FETCH_OUTPUT");
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
        let add = match environment.switch(self.add, "FETCH_ADD")? {
            true if request.target == Target::Stdout => {
                return Err(
                    FetchError::usage("--add wants an output that stays, not -o -")
                        .with_hint("fetch prefetch adds without an output"),
                );
            }
            true => Some(item_name(request.name.as_deref())?),
            false => None,
        };
        let force = environment.switch(self.force, "FETCH_FORCE")?;
        let policy = self.network.policy(force, environment)?;
        let (places, env_store) = self.places.interpret(environment)?;
        let invocation = Invocation::Fetch {
            request: Box::new(request),
            policy,
            add,
        };
        Ok(Parsed {
            invocation,
            places,
            env_store,
            guix: environment.guix()?,
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
    // Without a slash at its end, which would make a file's path one that cannot be opened.
    Ok(Target::Path(absolute.components().collect()))
}
