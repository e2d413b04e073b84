//! How the network is asked.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::Environment;
use crate::configuration::{ConfiguredLimits, timeout, wait};
use crate::download::SharedClient;
use crate::error::FetchError;
use crate::fetch::{LockPolicy, Policy};
use crate::net::{Access, Limits};
use crate::stale_hash::StaleHash;
use crate::state::CopyBounds;

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Open no socket
    #[arg(long)]
    offline: bool,
    /// Local content whose name has another version than asked for: auto (the network decides; used offline), refuse or ignore
    #[arg(long, value_name = "WHAT")]
    stale_hash: Option<String>,
    /// Longest time to connect [default: 15]
    #[arg(long, value_name = "SECONDS")]
    connect_timeout: Option<String>,
    /// Longest wait for the first byte [default: 120]
    #[arg(long, value_name = "SECONDS")]
    first_byte_timeout: Option<String>,
    /// Give up when less than 1 KiB/s came for so long [default: 30]
    #[arg(long, value_name = "SECONDS")]
    stall_timeout: Option<String>,
    /// Longest download, and the most that is unpacked from one [default: 68719476736, 64 GiB]
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<String>,
    /// Longest wait between tries, all in all; 0 asks each URL once [default: 120]
    #[arg(long, value_name = "SECONDS")]
    retry_budget: Option<String>,
    /// Most connections to one host, for a large file that comes slowly by one [default: 8]
    #[arg(long, value_name = "NUMBER")]
    connections: Option<String>,
    /// While another process downloads the same content: wait, fail, or wait so many seconds [default: wait]
    #[arg(long, value_name = "WHAT")]
    lock: Option<String>,
    /// Add counts, bytes and times to a file for Prometheus
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    metrics: Option<PathBuf>,
    /// Keep complete bodies that turn out to be wrong in this folder, for a look; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    keep_wrong: Option<PathBuf>,
    /// Keep a copy of what is downloaded, which serves later requests wherever the output has gone (fetch cache)
    #[arg(long)]
    keep_copies: bool,
}

/// Reads a number of seconds, which may be 0.
fn some_seconds(text: &str) -> Option<Duration> {
    wait(text.parse().ok()?)
}

/// Returns which URLs may be asked, and with which passwords.
pub(crate) fn access(environment: &Environment<'_>) -> Arc<Access> {
    Arc::new(Access {
        rules: environment
            .configuration
            .url_rules
            .clone()
            .unwrap_or_default(),
        netrc: environment.configuration.netrc.clone(),
    })
}

impl NetworkArgs {
    pub(crate) fn lock(
        &self,
        environment: &Environment<'_>,
    ) -> Result<Option<LockPolicy>, FetchError> {
        let configured = environment.configuration.lock;
        environment.value(self.lock.clone(), "FETCH_LOCK", configured, |text| {
            LockPolicy::from_name(text)
                .or_else(|| some_seconds(text).map(LockPolicy::WaitFor))
                .ok_or_else(|| {
                    FetchError::usage(format!(
                        "--lock '{}' is unknown; known are wait, fail and a number of seconds up to 86400",
                        text.escape_debug()
                    ))
                })
        })
    }

    /// Returns how to fetch.
    pub(super) fn policy(
        self,
        force: bool,
        environment: &Environment<'_>,
    ) -> Result<Policy, FetchError> {
        let configured = &environment.configuration;
        let lock = self.lock(environment)?.unwrap_or_default();
        let metrics = environment.path(self.metrics.clone(), "FETCH_METRICS");
        let keep_copies = keep_copies(self.keep_copies, environment)?;
        let keep_wrong = environment.path(self.keep_wrong.clone(), "FETCH_KEEP_WRONG");
        let offline = environment.switch_or(self.offline, "FETCH_OFFLINE", configured.offline)?;
        Ok(Policy {
            offline,
            force,
            stale_hash: stale_hash(self.stale_hash.clone(), environment)?,
            limits: self.limits(environment)?,
            lock,
            leave_wrong: false,
            access: access(environment),
            metrics,
            client: SharedClient::default(),
            of_many: false,
            keep_wrong,
            keep_copies,
            trust_anybody: false,
        })
    }

    pub(crate) fn limits(self, environment: &Environment<'_>) -> Result<Limits, FetchError> {
        let configured = environment.configuration.limits;
        let seconds = |option: Option<String>, variable: &str, name: &str, configured| {
            environment.value(option, variable, configured, |text| {
                text.parse().ok().and_then(timeout).ok_or_else(|| {
                    FetchError::usage(format!(
                        "{name} '{text}' is no number of seconds from above 0 to 86400"
                    ))
                })
            })
        };
        let limits = ConfiguredLimits {
            connect_timeout: seconds(
                self.connect_timeout,
                "FETCH_CONNECT_TIMEOUT",
                "--connect-timeout",
                configured.connect_timeout,
            )?,
            first_byte_timeout: seconds(
                self.first_byte_timeout,
                "FETCH_FIRST_BYTE_TIMEOUT",
                "--first-byte-timeout",
                configured.first_byte_timeout,
            )?,
            stall_timeout: seconds(
                self.stall_timeout,
                "FETCH_STALL_TIMEOUT",
                "--stall-timeout",
                configured.stall_timeout,
            )?,
            max_bytes: environment.value(
                self.max_bytes,
                "FETCH_MAX_BYTES",
                configured.max_bytes,
                |text| {
                    text.parse().map_err(|_| {
                        FetchError::usage(format!("--max-bytes '{text}' is no number of bytes"))
                    })
                },
            )?,
            retry_budget: environment.value(
                self.retry_budget,
                "FETCH_RETRY_BUDGET",
                configured.retry_budget,
                |text| {
                    some_seconds(text).ok_or_else(|| {
                        FetchError::usage(format!(
                            "--retry-budget '{text}' is no number of seconds from 0 to 86400"
                        ))
                    })
                },
            )?,
            connections: environment.value(
                self.connections,
                "FETCH_CONNECTIONS",
                configured.connections,
                |text| {
                    let most: Option<NonZeroU32> = text.parse().ok();
                    most.map(NonZeroU32::get).ok_or_else(|| {
                        FetchError::usage(format!(
                            "--connections '{}' is no number from 1",
                            text.escape_debug()
                        ))
                    })
                },
            )?,
            ..configured
        };
        Ok(limits.or_default())
    }
}

/// Returns how many copies are kept, if they are.
fn keep_copies(
    given: bool,
    environment: &Environment<'_>,
) -> Result<Option<CopyBounds>, FetchError> {
    let configured = environment.configuration.copies.keep;
    match environment.switch_or(given, "FETCH_KEEP_COPIES", configured)? {
        true => environment.copy_bounds(None, None).map(Some),
        false => Ok(None),
    }
}

/// Reads `--stale-hash`.
pub(super) fn stale_hash(
    option: Option<String>,
    environment: &Environment<'_>,
) -> Result<StaleHash, FetchError> {
    let configured = environment.configuration.stale_hash;
    let known = |name: &str| {
        StaleHash::from_name(name).ok_or_else(|| {
            FetchError::usage(format!(
                "--stale-hash '{}' is unknown; known are auto, refuse and ignore",
                name.escape_debug()
            ))
        })
    };
    let chosen = environment.value(option, "FETCH_STALE_HASH", configured, known)?;
    Ok(chosen.unwrap_or_default())
}
