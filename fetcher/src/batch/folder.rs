//! The folder of outputs, and those in it that the paths of a list name.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use store_index::path_text::printable;

use crate::error::FetchError;
use crate::fetch;
use crate::places::Places;
use crate::staging::{self, Place};

/// The folder of outputs.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The folders that are there, by their paths beneath it, and whether we made them.
    known: HashMap<PathBuf, bool>,
}

impl Folder {
    /// Takes the folder, and makes it if its parent is there. It must not be a store's.
    pub(super) fn open(path: PathBuf, places: &Places) -> Result<Self, FetchError> {
        let made = match fs_err::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        let is_folder = made.and_then(|()| fs_err::metadata(&path).map(|meta| meta.is_dir()));
        match is_folder {
            Ok(true) => {}
            Ok(false) => {
                return Err(FetchError::local(format!(
                    "{} is no folder, and outputs are to go into it",
                    printable(&path)
                ))
                .with_hint("choose another one with --into DIR"));
            }
            Err(error) => {
                return Err(FetchError::local(format!(
                    "outputs cannot go into {}: {error}",
                    printable(&path)
                ))
                .with_hint("make its parent, or choose another folder with --into DIR"));
            }
        }
        fetch::refuse_store(&path, places)
            .map_err(|error| error.with_hint("choose another folder with --into DIR"))?;
        let mut folder = Self {
            path,
            known: HashMap::new(),
        };
        folder.sweep(Path::new(""));
        folder.known.insert(PathBuf::new(), false);
        Ok(folder)
    }

    /// Makes the folders of an output. None of them may be a symbolic link: it could lead anywhere.
    pub(super) fn make_way(&mut self, path: &Path, places: &Places) -> Result<(), FetchError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if self.known.contains_key(parent) {
            return Ok(());
        }
        let above: Vec<&Path> = parent.ancestors().collect();
        for folder in above.into_iter().rev() {
            if self.known.contains_key(folder) {
                continue;
            }
            let whole = self.path.join(folder);
            let made = match fs_err::create_dir(&whole) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    fs_err::symlink_metadata(&whole).and_then(|meta| match meta.is_dir() {
                        true => Ok(false),
                        false => Err(io::Error::other("it is there and no folder")),
                    })
                }
                Err(error) => Err(error),
            };
            let made = made.map_err(|error| {
                FetchError::local(format!(
                    "the output's folder {} cannot be made: {error}",
                    printable(&whole)
                ))
            })?;
            fetch::refuse_store(&whole, places)?;
            if !made {
                self.sweep(folder);
            }
            self.known.insert(folder.to_owned(), made);
        }
        Ok(())
    }

    /// Removes what killed runs left, once for all outputs.
    fn sweep(&self, folder: &Path) {
        if let Ok(place) = Place::open(&self.path.join(folder).join("any")) {
            staging::sweep(&place);
        }
    }

    /// Removes the folders that were made for nothing.
    pub(super) fn remove_empty(&self) {
        let mut made: Vec<&PathBuf> = self
            .known
            .iter()
            .filter_map(|(folder, made)| made.then_some(folder))
            .collect();
        made.sort_by_key(|folder| std::cmp::Reverse(folder.as_os_str().len()));
        for folder in made {
            // One with something in it stays.
            drop(fs_err::remove_dir(self.path.join(folder)));
        }
    }
}
