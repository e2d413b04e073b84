//! `store-index update`.

use std::path::{Path, PathBuf};

use store_index::manifest;
use store_index::media::{Medium, Note};
use store_index::path_text;
use store_index::places::{IN_PLACE_DIR, default_write_dir};
use store_index::root::Root;
use store_index::update::{self, Reading, Summary, Update, UpdateError};
use store_index::watch::Watch;

use super::{DONE, Failure, LOCAL, print, print_json, shown};
use crate::cli::{RootArg, Talk, UpdateArgs};
use store_index::terminal::say;

/// What an index directory may hold before its first manifest.
const BEFORE_THE_FIRST_MANIFEST: &str = "lock";

/// A root and where to read it.
struct Place {
    root: Root,
    real: PathBuf,
    medium: Option<Medium>,
}

pub(crate) fn update(args: &UpdateArgs, talk: &Talk, watch: Watch<'_>) -> Result<u8, Failure> {
    let (kinds, jobs) = (args.kinds()?, args.jobs()?);
    let mut places: Vec<Place> = Vec::new();
    let mut failed = false;
    for root in args.roots()? {
        match place(&root, args.in_place) {
            Ok(place)
                if places
                    .iter()
                    .any(|known| known.root.id() == place.root.id()) => {}
            Ok(place) => places.push(place),
            Err(error) => {
                failed = true;
                say(&format!("error: {error}"));
            }
        }
    }
    let named = args.index();
    let several = places.len() > 1;
    let mut done = Vec::new();
    for place in &places {
        let index_dir = index_dir(args, place, named.as_deref(), several)?;
        let update = Update {
            real: place.real.clone(),
            kinds,
            jobs: jobs.unwrap_or_else(|| place.default_jobs()),
            rebuild: args.rebuild,
            reading: match (args.hash_all, args.hints_only) {
                (true, _) => Reading::All,
                (_, true) => Reading::Nothing,
                _ => Reading::Unlisted,
            },
            unchanging: place.medium.as_ref().is_some_and(Medium::is_unchanging),
            ..Update::new(place.root.clone(), index_dir.clone())
        };
        match update::run(&update, watch) {
            Ok(summary) => {
                place.remember(args, &index_dir, summary.walked)?;
                report(place, &index_dir, &summary, args, talk)?;
                done.push(json(place, &index_dir, &summary));
            }
            Err(UpdateError::Interrupted) => {
                place.remember(args, &index_dir, false)?;
                return Err(Failure::Interrupted);
            }
            Err(error) => {
                failed = true;
                say(&format!("error: {error}"));
                if let Some(hint) = error.hint() {
                    say(&format!("hint: {hint}"));
                }
            }
        }
    }
    if args.json {
        print_json(&serde_json::json!({ "version": 1, "roots": done }))?;
    }
    Ok(if failed { LOCAL } else { DONE })
}

impl Place {
    /// Returns how many threads read when nothing is said: one where several would make a drive's head jump.
    fn default_jobs(&self) -> usize {
        match &self.medium {
            Some(medium) if medium.is_optical() => 1,
            _ => update::default_jobs(),
        }
    }

    /// Notes what a medium is called and where it is, beside its index unless that goes with the medium.
    fn remember(&self, args: &UpdateArgs, index_dir: &Path, walked: bool) -> Result<(), Failure> {
        let Some(medium) = self.medium.as_ref().filter(|_| !args.in_place) else {
            return Ok(());
        };
        let mut note = medium.note(Note::read(index_dir));
        if walked {
            note.linked_as.clone_from(&note.path);
        }
        note.write(index_dir).map_err(|error| Failure::Local {
            message: format!("cannot note what the medium is called: {error}"),
            hint: None,
        })
    }
}

fn place(root: &RootArg, in_place: bool) -> Result<Place, String> {
    match root {
        RootArg::Store(store) => Ok(Place {
            root: Root::store(&store.logical),
            real: store.real.clone(),
            medium: None,
        }),
        RootArg::Folder(folder) => {
            let root = Root::folder(folder)
                .map_err(|error| format!("cannot index {}: {error}", shown(folder)))?;
            Ok(Place {
                real: root.path().to_owned(),
                root,
                medium: None,
            })
        }
        RootArg::Medium(path) => {
            let failed = |error| format!("cannot index {}: {error}", shown(path));
            let medium = Medium::at(path).map_err(failed)?;
            let root = if in_place {
                medium.in_place_root().map_err(failed)?
            } else {
                medium.root.clone()
            };
            Ok(Place {
                root,
                real: medium.real.clone(),
                medium: Some(medium),
            })
        }
    }
}

/// Returns where the index of a root goes.
fn index_dir(
    args: &UpdateArgs,
    place: &Place,
    named: Option<&Path>,
    several: bool,
) -> Result<PathBuf, Failure> {
    if args.in_place {
        return Ok(place.real.join(IN_PLACE_DIR));
    }
    let below = |folder: &Path| folder.join(place.root.id().to_string());
    match named {
        Some(folder) if several && fs_err::metadata(folder.join(manifest::FILE_NAME)).is_ok() => {
            Err(Failure::Local {
                message: format!(
                    "{} is itself an index; several roots need a folder of indexes",
                    shown(folder)
                ),
                hint: Some("name another folder with --index, or one root at a time".to_owned()),
            })
        }
        Some(folder) if several => Ok(below(folder)),
        Some(folder) if is_index_or_empty(folder) => Ok(folder.to_owned()),
        Some(folder) => Ok(below(folder)),
        None => default_write_dir(&place.root).ok_or_else(|| Failure::Local {
            message: "there is no place for the index: HOME is not set".to_owned(),
            hint: Some("name one with --index".to_owned()),
        }),
    }
}

/// Returns true for a directory that is an index, is none yet, or can become one.
fn is_index_or_empty(folder: &Path) -> bool {
    if fs_err::metadata(folder.join(manifest::FILE_NAME)).is_ok() {
        return true;
    }
    match fs_err::read_dir(folder) {
        Ok(mut listing) => listing.all(|entry| {
            entry.is_ok_and(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name == BEFORE_THE_FIRST_MANIFEST
                    || name.starts_with(".tmp-")
                    || manifest::is_file_name(&name, manifest::SEGMENT_SUFFIX)
            })
        }),
        // Not there, or the update will say what is wrong with it.
        Err(_) => true,
    }
}

fn report(
    place: &Place,
    index_dir: &Path,
    summary: &Summary,
    args: &UpdateArgs,
    talk: &Talk,
) -> Result<(), Failure> {
    if !talk.quiet {
        for warning in &summary.warnings {
            say(&format!("warning: {warning}"));
        }
        let named = summary.warnings.len() as u64;
        if summary.unreadable > named {
            say(&format!(
                "warning: {} more could not be read",
                summary.unreadable - named
            ));
        }
        if summary.changing > 0 {
            say(&format!(
                "warning: {} files changed while they were read; the next update reads them",
                summary.changing
            ));
        }
        for note in summary.notes.iter().filter(|_| talk.verbose) {
            say(note);
        }
        if summary.unfinished_items > 0 && talk.verbose {
            say(&format!(
                "{} store items are not valid yet; the next update looks again",
                summary.unfinished_items
            ));
        }
    }
    if args.json || talk.quiet {
        return Ok(());
    }
    let bytes = indicatif::HumanBytes(summary.hashed_bytes);
    let hints = match summary.hints {
        0 => String::new(),
        hints => format!(" ({hints} by checksum lists alone)"),
    };
    print(&format!(
        "{}: {} files{hints}, {} new ({bytes} hashed), {} dropped, index {} ({})\n",
        shown(&place.real),
        summary.links + summary.files,
        summary.added,
        summary.removed,
        shown(index_dir),
        indicatif::HumanBytes(summary.index_bytes),
    ))
}

fn json(place: &Place, index_dir: &Path, summary: &Summary) -> serde_json::Value {
    serde_json::json!({
        "root": path_text::printable(place.medium.as_ref().map_or(place.root.path(), |_| &place.real)),
        "kind": place.root.kind().name(),
        "id": place.root.id().to_string(),
        "index": path_text::printable(index_dir),
        "links": summary.links,
        "files": summary.files,
        "hints": summary.hints,
        "directories": summary.directories,
        "added": summary.added,
        "removed": summary.removed,
        "unchanged": summary.unchanged,
        "hashed_bytes": summary.hashed_bytes,
        "unreadable": summary.unreadable,
        "changing": summary.changing,
        "unfinished_items": summary.unfinished_items,
        "warnings": summary.warnings,
        "notes": summary.notes,
        "segments": summary.segments,
        "index_bytes": summary.index_bytes,
        "complete": summary.finished && summary.unreadable == 0 && summary.changing == 0,
        "ms": summary.milliseconds,
    })
}
