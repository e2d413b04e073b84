//! Brings the directory links of an index up to date, once its files are.

mod blob_ids;
mod fingerprint;
mod folder;
mod nar_trees;
mod store;

use super::{Reading, Update, UpdateError};
use crate::directory_links::{self, Base, Links, TreeKind};
use crate::index_writer::IndexWriter;
use crate::path_text;
use crate::places::IN_PLACE_DIR;
use crate::root::RootKind;
use crate::watch::Watch;

use super::Summary;

/// The links of an update that wants none.
const fn no_links() -> [Links; 2] {
    [Links::new(TreeKind::ALL[0]), Links::new(TreeKind::ALL[1])]
}

/// Finds out which directories are to be linked, and links them. What goes wrong with a link is a warning: the index
/// serves without.
pub(super) fn update(
    update: &Update,
    writer: &IndexWriter,
    summary: &mut Summary,
    watch: Watch<'_>,
) -> Result<(), UpdateError> {
    let wanted = match update.root.kind() {
        RootKind::Store => store::wanted(update, summary),
        // Without reading nothing is known of folders.
        RootKind::Folder | RootKind::Medium if update.reading == Reading::Nothing => None,
        RootKind::Folder | RootKind::Medium => {
            Some(folder::wanted(update, writer, summary, watch)?)
        }
    };
    let Some(wanted) = wanted else {
        summary.directories = directory_links::count(&update.index_dir);
        return Ok(());
    };
    let base = base(update);
    match directory_links::replace(&update.index_dir, &base, wanted, update.rebuild, watch) {
        Ok(written) => {
            summary.directories = written.links;
            if written.left_out > 0 {
                summary.warnings.push(format!(
                    "{} directories have no link: their paths are too long, or there are too many",
                    written.left_out
                ));
            }
        }
        Err(_) if watch.interrupted() => return Err(UpdateError::Interrupted),
        Err(error) => summary.warnings.push(format!(
            "the directory links cannot be written: {}",
            path_text::printable(std::path::Path::new(&error.to_string()))
        )),
    }
    Ok(())
}

fn base(update: &Update) -> Base {
    let in_place = update.root.kind() != RootKind::Store
        && fs_err::canonicalize(&update.index_dir).is_ok_and(|index| {
            index.file_name().is_some_and(|name| name == IN_PLACE_DIR)
                && index.parent() == fs_err::canonicalize(&update.real).ok().as_deref()
        });
    if in_place {
        Base::InPlace
    } else if update.root.kind() == RootKind::Medium {
        // Wherever it is mounted now; the note beside the index says where that was.
        Base::Root(update.real.clone())
    } else {
        Base::Root(update.root.path().to_owned())
    }
}
