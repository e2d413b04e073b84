//! Where the database of a store is, and the questions that are put to it through all the places where it may be.

use std::path::{Path, PathBuf};

use crate::address::NarHash;
use crate::store_database::{DatabaseError, StoreDatabase, ValidItem, default_path};

/// How often a database is read again because somebody wrote meanwhile.
const READ_ATTEMPTS: u32 = 3;

/// What Nix and Guix take their state directory from, and what of theirs lies in it.
const STATE_VARIABLES: [(&str, &str); 4] = [
    ("NIX_STATE_DIR", ""),
    ("GUIX_STATE_DIRECTORY", ""),
    ("NIX_LOCALSTATE_DIR", "nix"),
    ("NIX_LOCALSTATE_DIR", "guix"),
];

/// A store whose database may be asked. Nothing is opened before the first question, and nothing stays open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreState {
    logical: String,
    paths: Vec<PathBuf>,
}

impl StoreState {
    /// Takes a store by its logical directory and the one where its files are. What the environment says of state
    /// directories holds for stores that are where they say; another system's, mounted elsewhere, has its own.
    pub fn of(logical: &str, real: &Path) -> Self {
        let logical = logical.trim_end_matches('/');
        let own = Path::new(logical) == real;
        let from_environment = STATE_VARIABLES.iter().filter_map(|(variable, below)| {
            let directory = std::env::var_os(variable).filter(|value| own && !value.is_empty())?;
            default_path(
                Path::new(logical),
                real,
                Some(&Path::new(&directory).join(below)),
            )
        });
        let mut paths: Vec<PathBuf> = from_environment.collect();
        paths.extend(default_path(Path::new(logical), real, None));
        paths.dedup();
        Self {
            logical: logical.to_owned(),
            paths,
        }
    }

    /// Returns whether a database is there, without opening it.
    pub fn is_there(&self) -> bool {
        self.paths
            .iter()
            .any(|path| fs_err::metadata(path).is_ok_and(|metadata| metadata.is_file()))
    }

    /// Returns the base names of the items that have a NAR hash, sorted; `None` without a database.
    pub fn items_with_nar_hash(
        &self,
        hash: &NarHash,
    ) -> Result<Option<Vec<String>>, DatabaseError> {
        let mut answer = None;
        for path in &self.paths {
            let Some(mut database) = StoreDatabase::open(&self.logical, path)? else {
                continue;
            };
            let mut names = database.items_with_nar_hash(hash)?;
            names.sort_unstable();
            if !names.is_empty() {
                return Ok(Some(names));
            }
            answer = Some(names);
        }
        Ok(answer)
    }

    /// Returns those of some items, given by base name, that are not valid; `None` without a database.
    pub fn missing<'a>(
        &self,
        base_names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<Vec<&'a str>>, DatabaseError> {
        for path in &self.paths {
            let Some(mut database) = StoreDatabase::open(&self.logical, path)? else {
                continue;
            };
            let mut missing = Vec::new();
            for base_name in base_names {
                if !database.is_valid(base_name)? {
                    missing.push(base_name);
                }
            }
            return Ok(Some(missing));
        }
        Ok(None)
    }

    /// Returns what `pick` makes of the valid items; `None` without a database.
    pub fn valid_items<T>(
        &self,
        mut pick: impl FnMut(ValidItem) -> Option<T>,
    ) -> Result<Option<Vec<T>>, DatabaseError> {
        let mut answer = None;
        for path in &self.paths {
            let Some(picked) = self.read(path, &mut pick)? else {
                continue;
            };
            if !picked.is_empty() {
                return Ok(Some(picked));
            }
            answer = Some(picked);
        }
        Ok(answer)
    }

    fn read<T>(
        &self,
        path: &Path,
        pick: &mut impl FnMut(ValidItem) -> Option<T>,
    ) -> Result<Option<Vec<T>>, DatabaseError> {
        let mut attempt = 1;
        loop {
            let Some(database) = StoreDatabase::open(&self.logical, path)? else {
                return Ok(None);
            };
            let mut picked = Vec::new();
            match database.for_each_valid(|item| picked.extend(pick(item))) {
                Ok(_) => return Ok(Some(picked)),
                Err(DatabaseError::Changed(_)) if attempt < READ_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}
