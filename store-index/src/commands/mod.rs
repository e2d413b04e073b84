//! What the subcommands do: thin over the library, and the only place that prints results.

mod check;
mod locate;
mod lookup;
mod manual;
mod media;
mod status;
mod update;

pub(crate) use check::check;
use locate::{Located, Locator};
pub(crate) use lookup::lookup;
pub(crate) use manual::{completions, man};
pub(crate) use media::media;
pub(crate) use status::status;
pub(crate) use update::update;

use std::io::{self, Write as _};
use std::path::Path;

use store_index::index::{Index, OpenError, find_default, find_named};
use store_index::mounts::{self, is_default_medium};
use store_index::path_text;
use store_index::places::IN_PLACE_DIR;

use crate::cli::{PlaceArgs, RootArg, Usage};
use store_index::terminal::say;

/// Done.
pub(crate) const DONE: u8 = 0;
/// `check` found something wrong.
pub(crate) const WRONG: u8 = 1;
/// A mistake on the command line.
pub(crate) const USAGE: u8 = 2;
/// `lookup` found nothing.
pub(crate) const NOT_FOUND: u8 = 3;
/// Permission, disk full, something in the way.
pub(crate) const LOCAL: u8 = 7;
/// Told to stop.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command did not come to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    Usage(Usage),
    Local {
        message: String,
        hint: Option<String>,
    },
    Interrupted,
    BrokenPipe,
}

impl Failure {
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Local { .. } => LOCAL,
            Self::Interrupted => INTERRUPTED,
            Self::BrokenPipe => DONE,
        }
    }
}

impl From<Usage> for Failure {
    fn from(usage: Usage) -> Self {
        Self::Usage(usage)
    }
}

/// Prints results.
fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::Local {
                message: format!("cannot write the result: {error}"),
                hint: None,
            },
        })
}

fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}

/// Opens the indexes that were named, else those in the usual places and on the folders named.
fn open_indexes(places: &PlaceArgs) -> Result<Vec<Result<Index, OpenError>>, Failure> {
    let named = places.indexes();
    if !named.is_empty() {
        return Ok(named.iter().flat_map(|path| find_named(path)).collect());
    }
    let mut folders = Vec::new();
    for root in places.roots()? {
        if let RootArg::Folder(folder) | RootArg::Medium(folder) = root {
            folders.push(folder);
        }
    }
    let media = mounts::mounted().unwrap_or_default();
    folders.extend(
        media
            .into_iter()
            .filter(is_default_medium)
            .map(|mount| mount.mount_point),
    );
    folders.dedup();
    let in_place = folders
        .iter()
        .map(|folder| Index::open(&folder.join(IN_PLACE_DIR)))
        .filter(|opened| !matches!(opened, Err(OpenError::Absent(_))));
    Ok(in_place.chain(find_default()).collect())
}

/// Says which index is left out and why.
fn warn_unusable(error: &OpenError, quiet: bool) {
    if !quiet {
        say(&format!("warning: {error}"));
        say(&format!("hint: {}", error.hint()));
    }
}

fn shown(path: &Path) -> String {
    path_text::printable(path)
}
