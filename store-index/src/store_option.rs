//! `--store DIR[=REAL]`, read the same by both programs.

use std::path::{Path, PathBuf};

/// A store as it was named: paths are computed with one directory, files read below another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOption {
    /// What store paths begin with, such as `/nix/store`: absolute, without doubled or trailing slashes.
    pub logical: String,
    /// Where its files are.
    pub real: PathBuf,
}

/// Why a text names no store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreOptionError {
    /// An empty DIR, and the environment has none.
    #[error("no directory is given, and neither NIX_STORE_DIR nor NIX_STORE is set")]
    NoDirectory,
    /// An empty REAL.
    #[error("nothing stands behind the '='")]
    NoReal,
    /// The working directory cannot be found, or the path is not UTF-8.
    #[error("no absolute path can be made of it: {0}")]
    NotAbsolute(String),
}

impl StoreOption {
    /// Reads `DIR[=REAL]`; an empty DIR is the `present` store, which the environment names.
    pub fn parse(text: &str, present: Option<&str>) -> Result<Self, StoreOptionError> {
        let (logical, real) = match text.split_once('=') {
            Some((logical, real)) => (logical, Some(real)),
            None => (text, None),
        };
        let logical = match logical {
            "" => present.ok_or(StoreOptionError::NoDirectory)?,
            logical => logical,
        };
        let logical = normal(logical)?;
        let real = match real {
            Some("") => return Err(StoreOptionError::NoReal),
            Some(real) => PathBuf::from(real),
            None => PathBuf::from(&logical),
        };
        Ok(Self { logical, real })
    }
}

/// Store paths are hashed with the directory's spelling, so another spelling would be another store.
fn normal(logical: &str) -> Result<String, StoreOptionError> {
    let absolute = std::path::absolute(logical)
        .map_err(|error| StoreOptionError::NotAbsolute(error.to_string()))?;
    let parts: PathBuf = absolute.components().collect();
    let text = Path::new("/").join(parts.strip_prefix("/").unwrap_or(&parts));
    text.to_str()
        .map(str::to_owned)
        .ok_or_else(|| StoreOptionError::NotAbsolute("it is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_store_is_the_same_store() {
        for text in [
            "/nix/store",
            "/nix/store/",
            "/nix//store",
            "//nix/store",
            "/nix/./store/.",
        ] {
            let store = StoreOption::parse(text, None).unwrap();
            assert_eq!(
                (store.logical.as_str(), store.real.to_str()),
                ("/nix/store", Some("/nix/store")),
                "{text}"
            );
        }
    }

    #[test]
    fn stores_may_lie_elsewhere() {
        let store = StoreOption::parse("/nix/store/=/mnt/a=b", None).unwrap();
        assert_eq!(
            (store.logical.as_str(), store.real.to_str()),
            ("/nix/store", Some("/mnt/a=b"))
        );
        let store = StoreOption::parse("=/host/store", Some("/gnu/store/")).unwrap();
        assert_eq!(
            (store.logical.as_str(), store.real.to_str()),
            ("/gnu/store", Some("/host/store"))
        );
        assert_eq!(
            StoreOption::parse("/nix/store=", None),
            Err(StoreOptionError::NoReal)
        );
        assert_eq!(
            StoreOption::parse("", None),
            Err(StoreOptionError::NoDirectory)
        );
    }
}
