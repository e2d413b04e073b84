//! How the network is asked.

use clap::Args;

use super::Environment;
use crate::configuration::{ConfiguredLimits, timeout};
use crate::error::FetchError;
use crate::fetch::Policy;
use crate::net::Limits;
use crate::stale_hash::StaleHash;

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
}

impl NetworkArgs {
    /// Returns how to fetch.
    pub(super) fn policy(
        self,
        force: bool,
        environment: &Environment<'_>,
    ) -> Result<Policy, FetchError> {
        let configured = &environment.configuration;
        let offline = environment.switch_or(self.offline, "FETCH_OFFLINE", configured.offline)?;
        Ok(Policy {
            offline,
            force,
            stale_hash: stale_hash(self.stale_hash.clone(), environment)?,
            limits: self.limits(environment)?,
            leave_wrong: false,
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
        };
        Ok(limits.or_default())
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
