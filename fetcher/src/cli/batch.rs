//! `fetch batch`.

use std::path::PathBuf;

use clap::Args;

use super::network::NetworkArgs;
use super::places::PlaceArgs;
use super::report::ReportArgs;
use super::what::parse_url;
use super::{Environment, Invocation, Parsed};
use crate::batch::{JOBS, MAX_JOBS, Wish};
use crate::error::FetchError;
use crate::mirrors::MirrorSites;

/// Variables that give a site of `mirror://` other servers.
const SITE_PREFIX: &str = "NIX_MIRRORS_";

#[derive(Debug, Args)]
pub(super) struct BatchArgs {
    /// A sources.json of Guix or Nixpkgs, or a list as sha256sum writes it; '-' is standard input
    #[arg(value_name = "FILE")]
    list: PathBuf,
    /// Where outputs go, by the base names of their URLs or the paths in the list [default: .]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// For a list of checksums: the URL below which its paths are
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// The most downloads at a time, up to 64; fewer after errors, and when memory or load is short [default: 25]
    #[arg(long, value_name = "N")]
    jobs: Option<String>,
    /// Replace files and symbolic links that stand at outputs
    #[arg(long)]
    force: bool,
    /// Say where each entry would come from, and fetch nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    report: ReportArgs,
}

impl BatchArgs {
    pub(super) fn interpret(self, environment: &Environment<'_>) -> Result<Parsed, FetchError> {
        let into = self.into.or_else(|| {
            let variable = (environment.variables)("FETCH_INTO");
            variable.filter(|into| !into.is_empty()).map(PathBuf::from)
        });
        let into = into.unwrap_or_else(|| ".".into());
        let folder = std::path::absolute(&into).map_err(|error| {
            FetchError::local(format!("cannot find the working directory: {error}"))
        })?;
        let base_url = environment.or(self.base_url, "FETCH_BASE_URL")?;
        let base_url = base_url.map(|text| parse_url(&text)).transpose()?;
        let jobs = environment.value(self.jobs, "FETCH_JOBS", None, |text| {
            let jobs = text
                .parse()
                .ok()
                .filter(|jobs| (1..=MAX_JOBS).contains(jobs));
            jobs.ok_or_else(|| {
                FetchError::usage(format!(
                    "--jobs '{}' is no number from 1 to {MAX_JOBS}",
                    text.escape_debug()
                ))
            })
        })?;
        let wish = Wish {
            list: self.list,
            folder,
            base_url,
            jobs: jobs.unwrap_or(JOBS),
            dry_run: environment.switch(self.dry_run, "FETCH_DRY_RUN")?,
            mirror_sites: mirror_sites(environment)?,
        };
        let force = environment.switch(self.force, "FETCH_FORCE")?;
        let policy = self.network.policy(force, environment)?;
        let (places, env_store) = self.places.interpret(environment)?;
        Ok(Parsed {
            invocation: Invocation::Batch {
                wish: Box::new(wish),
                policy,
            },
            places,
            env_store,
            guix: environment.guix()?,
            speech: self.report.interpret(environment)?,
            warnings: Vec::new(),
        })
    }
}

/// Which sites the list has is not known yet: all that the environment names count.
fn mirror_sites(environment: &Environment<'_>) -> Result<MirrorSites, FetchError> {
    let mut sites = MirrorSites::default();
    for (name, _) in std::env::vars_os() {
        let Some(site) = name
            .to_str()
            .and_then(|name| name.strip_prefix(SITE_PREFIX))
        else {
            continue;
        };
        let own = environment.words(Vec::new(), &format!("{SITE_PREFIX}{site}"))?;
        if !own.is_empty() {
            sites.replace(site, own);
        }
    }
    Ok(sites)
}
