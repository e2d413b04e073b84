//! How the network is asked.

use std::time::Duration;

use clap::Args;

use super::Environment;
use crate::error::FetchError;
use crate::net::Limits;
use crate::stale_hash::StaleHash;

/// The longest time that may be given for a timeout: more is a mistake in the unit.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Open no socket
    #[arg(long)]
    pub(super) offline: bool,
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
    pub(super) fn stale_hash(
        &self,
        environment: &Environment<'_>,
    ) -> Result<StaleHash, FetchError> {
        match environment
            .or(self.stale_hash.clone(), "FETCH_STALE_HASH")?
            .as_deref()
        {
            None | Some("auto") => Ok(StaleHash::Auto),
            Some("refuse") => Ok(StaleHash::Refuse),
            Some("ignore") => Ok(StaleHash::Ignore),
            Some(other) => Err(FetchError::usage(format!(
                "--stale-hash '{other}' is unknown; known are auto, refuse and ignore"
            ))),
        }
    }

    pub(crate) fn limits(&self, environment: &Environment<'_>) -> Result<Limits, FetchError> {
        let mut limits = Limits::default();
        let seconds = |option: &Option<String>,
                       variable: &str,
                       name: &str|
         -> Result<Option<Duration>, FetchError> {
            let Some(text) = environment.or(option.clone(), variable)? else {
                return Ok(None);
            };
            let duration = text
                .parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            match duration {
                Some(duration) if !duration.is_zero() && duration <= MAX_TIMEOUT => {
                    Ok(Some(duration))
                }
                _ => Err(FetchError::usage(format!(
                    "{name} '{text}' is no number of seconds from above 0 to 86400"
                ))),
            }
        };
        let connect = seconds(
            &self.connect_timeout,
            "FETCH_CONNECT_TIMEOUT",
            "--connect-timeout",
        )?;
        let first_byte = seconds(
            &self.first_byte_timeout,
            "FETCH_FIRST_BYTE_TIMEOUT",
            "--first-byte-timeout",
        )?;
        let stall = seconds(
            &self.stall_timeout,
            "FETCH_STALL_TIMEOUT",
            "--stall-timeout",
        )?;
        limits.connect_timeout = connect.unwrap_or(limits.connect_timeout);
        limits.first_byte_timeout = first_byte.unwrap_or(limits.first_byte_timeout);
        limits.stall_window = stall.unwrap_or(limits.stall_window);
        if let Some(text) = environment.or(self.max_bytes.clone(), "FETCH_MAX_BYTES")? {
            limits.max_bytes = text.parse().map_err(|_| {
                FetchError::usage(format!("--max-bytes '{text}' is no number of bytes"))
            })?;
        }
        Ok(limits)
    }
}
