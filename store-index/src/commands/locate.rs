//! Where the roots of indexes are now.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use store_index::index::Index;
use store_index::media::{self, Medium, Note};
use store_index::places::is_in_place;
use store_index::root::{Root, RootKind};

use super::Failure;
use crate::cli::{PlaceArgs, RootArg};

/// Where the roots of indexes are now.
pub(super) struct Locator {
    named: Vec<RootArg>,
    /// The media that are there, found out when the first index of a medium comes along.
    media: OnceCell<Vec<Medium>>,
}

/// Where the root of an index is, or was.
pub(super) struct Located {
    pub(super) real: PathBuf,
    pub(super) mounted: bool,
    /// What to call a medium.
    pub(super) label: Option<String>,
}

impl Locator {
    pub(super) fn new(places: &PlaceArgs) -> Result<Self, Failure> {
        Ok(Self {
            named: places.roots()?,
            media: OnceCell::new(),
        })
    }

    fn media(&self) -> &[Medium] {
        self.media.get_or_init(|| {
            let named = self.named.iter().filter_map(|root| match root {
                RootArg::Medium(path) => Medium::at(path).ok(),
                RootArg::Store(_) | RootArg::Folder(_) => None,
            });
            named.chain(media::mounted()).collect()
        })
    }

    pub(super) fn locate(&self, index: &Index) -> Located {
        let root = index.root();
        if root.kind() != RootKind::Medium {
            let real = real_path(index, &root, &self.named);
            return Located {
                mounted: is_mounted(&real),
                real,
                label: None,
            };
        }
        let note = Note::of(index);
        let place = if is_in_place(index.directory()) {
            Some(root.path().to_owned())
        } else {
            media::place_of(&root, self.media())
        };
        Located {
            label: Some(note.label_or_id(&root)),
            mounted: place.is_some(),
            real: place.or_else(|| note.last_path()).unwrap_or_default(),
        }
    }
}

/// Returns where the files of an index's root are: as a store was named on the command line, else as recorded by
/// someone whom we trust, else the root's own path.
fn real_path(index: &Index, root: &Root, named: &[RootArg]) -> PathBuf {
    let mut stores = named.iter().filter_map(|named| match named {
        RootArg::Store(store) if Root::store(&store.logical).id() == root.id() => {
            Some(store.real.clone())
        }
        _ => None,
    });
    let recorded = || {
        let real = index.manifest().real.clone();
        real.filter(|_| root.kind() == RootKind::Store && index.root_is_trusted())
    };
    stores
        .next_back()
        .or_else(recorded)
        .unwrap_or_else(|| root.path().to_owned())
}

/// Returns whether the root is there.
fn is_mounted(real: &Path) -> bool {
    fs_err::metadata(real).is_ok_and(|metadata| metadata.is_dir())
}
