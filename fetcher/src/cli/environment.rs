//! The environment variables that configure us.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::error::FetchError;

/// The environment as far as it configures us; a function, so that tests need not change the process's own.
pub struct Environment<'a>(pub &'a dyn Fn(&str) -> Option<OsString>);

impl std::fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment")
    }
}

impl Environment<'_> {
    /// A variable; empty counts as not set.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, FetchError> {
        match (self.0)(name).filter(|value| !value.is_empty()) {
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

    /// A switch, on if it was given or its variable says so.
    pub(crate) fn switch(&self, given: bool, name: &str) -> Result<bool, FetchError> {
        if given {
            return Ok(true);
        }
        match self.text(name)?.as_deref() {
            None | Some("0" | "false" | "no" | "off") => Ok(false),
            Some("1" | "true" | "yes" | "on") => Ok(true),
            Some(other) => Err(FetchError::usage(format!(
                "{name} is '{other}'; 1 or 0 is wanted"
            ))),
        }
    }

    pub(super) fn paths(&self, given: Vec<PathBuf>, name: &str) -> Vec<PathBuf> {
        if !given.is_empty() {
            return given;
        }
        let Some(value) = (self.0)(name) else {
            return Vec::new();
        };
        value
            .as_bytes()
            .split(|&byte| byte == b':')
            .filter(|part| !part.is_empty())
            .map(|part| PathBuf::from(std::ffi::OsStr::from_bytes(part)))
            .collect()
    }
}
