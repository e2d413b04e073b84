//! Where a setting comes from: an option, else its environment variable, else the configuration files.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::configuration::{Configuration, days_of};
use crate::error::FetchError;
use crate::state::CopyBounds;

/// What configures us beside the options.
pub struct Environment<'a> {
    /// The variables; a function, so that tests need not change the process's own.
    pub variables: &'a dyn Fn(&str) -> Option<OsString>,
    /// What the files say, which counts last.
    pub configuration: Configuration,
}

impl std::fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment")
    }
}

impl Environment<'_> {
    /// A variable; empty counts as not set.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, FetchError> {
        match (self.variables)(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value
                .into_string()
                .map(Some)
                .map_err(|_| FetchError::usage(format!("{name} is not UTF-8 text"))),
        }
    }

    /// An option's value, else its variable's.
    pub(super) fn or(
        &self,
        option: Option<String>,
        name: &str,
    ) -> Result<Option<String>, FetchError> {
        match option {
            Some(value) => Ok(Some(value)),
            None => self.text(name),
        }
    }

    /// An option's value, else its variable's, both read by `parse`, else what was configured.
    pub(super) fn value<T>(
        &self,
        option: Option<String>,
        name: &str,
        configured: Option<T>,
        parse: impl Fn(&str) -> Result<T, FetchError>,
    ) -> Result<Option<T>, FetchError> {
        if let Some(text) = option {
            return parse(&text).map(Some);
        }
        match self.text(name)? {
            Some(text) => {
                let parsed = parse(&text).map_err(|mut error| {
                    error.message = format!("{} (from {name})", error.message);
                    error
                });
                parsed.map(Some)
            }
            None => Ok(configured),
        }
    }

    /// A switch, on if it was given or its variable says so.
    pub(crate) fn switch(&self, given: bool, name: &str) -> Result<bool, FetchError> {
        self.switch_or(given, name, None)
    }

    /// A switch, on if it was given; else its variable decides, else what was configured.
    pub(crate) fn switch_or(
        &self,
        given: bool,
        name: &str,
        configured: Option<bool>,
    ) -> Result<bool, FetchError> {
        if given {
            return Ok(true);
        }
        Ok(self.said(name)?.or(configured).unwrap_or(false))
    }

    /// What the variable of a switch says.
    pub(super) fn said(&self, name: &str) -> Result<Option<bool>, FetchError> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("0" | "false" | "no" | "off") => Ok(Some(false)),
            Some("1" | "true" | "yes" | "on") => Ok(Some(true)),
            Some(other) => Err(FetchError::usage(format!(
                "{name} is '{other}'; 1 or 0 is wanted"
            ))),
        }
    }

    /// The real guix, where it was named.
    pub fn guix(&self) -> Result<Option<PathBuf>, FetchError> {
        let named = self.text("FETCH_GUIX")?.map(PathBuf::from);
        Ok(named.or_else(|| self.configuration.guix.clone()))
    }

    /// A path, else its variable's.
    pub(super) fn path(&self, given: Option<PathBuf>, name: &str) -> Option<PathBuf> {
        let variable = || (self.variables)(name).filter(|value| !value.is_empty());
        given.or_else(|| variable().map(PathBuf::from))
    }

    /// How many copies are kept of what was downloaded, and how long: by options of `fetch cache gc`, variables or the
    /// configuration.
    pub(super) fn copy_bounds(
        &self,
        bytes: Option<String>,
        days: Option<String>,
    ) -> Result<CopyBounds, FetchError> {
        let (configured, usual) = (&self.configuration.copies, CopyBounds::default());
        let bytes = self.value(bytes, "FETCH_COPIES_BYTES", configured.max_bytes, |text| {
            text.parse().map_err(|_| {
                let text = text.escape_debug();
                FetchError::usage(format!("--copies-bytes '{text}' is no number of bytes"))
            })
        })?;
        let age = self.value(days, "FETCH_COPIES_DAYS", configured.max_age, |text| {
            text.parse().ok().and_then(days_of).ok_or_else(|| {
                let text = text.escape_debug();
                FetchError::usage(format!("--copies-days '{text}' is no number of days"))
            })
        })?;
        Ok(CopyBounds {
            bytes: bytes.unwrap_or(usual.bytes),
            age: age.unwrap_or(usual.age),
        })
    }

    /// A list of paths, else its variable's. A variable that is empty is not set, one of colons alone is empty.
    pub(crate) fn paths(&self, given: Vec<PathBuf>, name: &str) -> Option<Vec<PathBuf>> {
        if !given.is_empty() {
            return Some(given);
        }
        let value = (self.variables)(name).filter(|value| !value.is_empty())?;
        let paths = value
            .as_bytes()
            .split(|&byte| byte == b':')
            .filter(|part| !part.is_empty())
            .map(|part| PathBuf::from(std::ffi::OsStr::from_bytes(part)))
            .collect();
        Some(paths)
    }

    /// Values of an option, else the words of its variable.
    pub(super) fn words(&self, given: Vec<String>, name: &str) -> Result<Vec<String>, FetchError> {
        if !given.is_empty() {
            return Ok(given);
        }
        let value = self.text(name)?.unwrap_or_default();
        Ok(value.split_whitespace().map(str::to_owned).collect())
    }

    /// Returns the folder of what is kept between runs. A relative path counts as not set, as the specification of
    /// these variables has it.
    pub(super) fn state_folder(&self) -> Option<PathBuf> {
        let absolute = |name: &str| {
            (self.variables)(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let cache =
            absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(cache.join("fetch"))
    }
}
