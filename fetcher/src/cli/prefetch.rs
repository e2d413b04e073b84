//! `fetch prefetch`.

use clap::Args;
use store_index::digest::Algorithm;
use store_index::store_path::ItemName;

use super::network::NetworkArgs;
use super::places::PlaceArgs;
use super::report::ReportArgs;
use super::what::WhatArgs;
use super::{Environment, Invocation, Parsed};
use crate::error::FetchError;
use crate::prefetch::Wish;

#[derive(Debug, Args)]
pub(super) struct PrefetchArgs {
    /// What is wanted, if that is known; else it is downloaded and its hash told
    #[arg(long, value_name = "HASH")]
    hash: Option<String>,
    #[command(flatten)]
    what: WhatArgs,
    /// The file is executable, so that its hash is that of its NAR (implies --mode nar)
    #[arg(long)]
    executable: bool,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    report: ReportArgs,
}

impl PrefetchArgs {
    pub(super) fn interpret(mut self, environment: &Environment<'_>) -> Result<Parsed, FetchError> {
        let hash = environment.or(self.hash, "FETCH_HASH")?;
        let executable = environment.switch(self.executable, "FETCH_EXECUTABLE")?;
        if executable && self.what.mode.is_none() {
            self.what.mode = Some("nar".to_owned());
        }
        let hash_is_known = hash.is_some();
        let hash = match hash {
            Some(hash) => hash,
            None => unknown_hash(&self.what, environment)?,
        };
        let (request, warnings) = self.what.interpret(&hash, None, executable, environment)?;
        let name = item_name(request.name.as_deref())?;
        let (places, env_store) = self.places.interpret(environment)?;
        let wish = Wish {
            request,
            hash_is_known,
            name,
        };
        Ok(Parsed {
            invocation: Invocation::Prefetch {
                wish: Box::new(wish),
                policy: self.network.policy(false, environment)?,
            },
            places,
            env_store,
            guix: environment.guix()?,
            speech: self.report.interpret(environment)?,
            warnings,
        })
    }
}

/// Returns a digest of nothing, which says how what comes is to be hashed.
fn unknown_hash(what: &WhatArgs, environment: &Environment<'_>) -> Result<String, FetchError> {
    let named = environment.or(what.hash_algo.clone(), "FETCH_HASH_ALGO")?;
    // An unknown name is told where hashes are read.
    let algorithm = named.and_then(|name| Algorithm::from_name(&name));
    let algorithm = algorithm.unwrap_or(Algorithm::Sha256);
    Ok(format!(
        "{algorithm}:{}",
        "0".repeat(2 * algorithm.digest_len())
    ))
}

/// Returns the name in the store, which a build must know.
pub(super) fn item_name(name: Option<&str>) -> Result<ItemName, FetchError> {
    let Some(name) = name else {
        return Err(FetchError::usage(
            "what shall it be called in the store? Neither a URL nor --name says so",
        ));
    };
    ItemName::new(name).map_err(|error| {
        FetchError::usage(format!(
            "'{}' is no name for the store: {error}",
            name.escape_debug()
        ))
        .with_hint("say with --name what the build calls it")
    })
}
