//! How the network is asked.

use std::time::Duration;

use clap::Args;

use super::Environment;
use crate::error::FetchError;
use crate::fetch::LockPolicy;
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
    /// Longest wait between tries, all in all; 0 asks each URL once [default: 120]
    #[arg(long, value_name = "SECONDS")]
    retry_budget: Option<String>,
    /// While another process downloads the same content: wait, fail, or wait so many seconds [default: wait]
    #[arg(long, value_name = "WHAT")]
    lock: Option<String>,
}

/// Reads a number of seconds, which may be 0.
fn some_seconds(text: &str) -> Option<Duration> {
    let seconds = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
    (seconds <= MAX_TIMEOUT).then_some(seconds)
}

impl NetworkArgs {
    pub(super) fn lock(&self, environment: &Environment<'_>) -> Result<LockPolicy, FetchError> {
        let Some(text) = environment.or(self.lock.clone(), "FETCH_LOCK")? else {
            return Ok(LockPolicy::Wait);
        };
        match &*text {
            "wait" => Ok(LockPolicy::Wait),
            "fail" => Ok(LockPolicy::WaitFor(Duration::ZERO)),
            seconds => some_seconds(seconds)
                .map(LockPolicy::WaitFor)
                .ok_or_else(|| {
                    FetchError::usage(format!(
                        "--lock '{}' is unknown; known are wait, fail and a number of seconds up to 86400",
                        text.escape_debug()
                    ))
                }),
        }
    }

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
        if let Some(text) = environment.or(self.retry_budget.clone(), "FETCH_RETRY_BUDGET")? {
            limits.retry_budget = some_seconds(&text).ok_or_else(|| {
                FetchError::usage(format!(
                    "--retry-budget '{text}' is no number of seconds from 0 to 86400"
                ))
            })?;
        }
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
