//! Where the roots of indexes are now.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use store_index::index::Index;
use store_index::media::{self, Medium, Note};
use store_index::mounts::{self, Mount, hanging_below};
use store_index::places::is_in_place;
use store_index::root::{Root, RootKind};
use store_index::terminal::say;

use super::{Failure, shown};
use crate::cli::{PlaceArgs, RootArg, Talk};

/// Where the roots of indexes are now.
pub(super) struct Locator {
    named: Vec<RootArg>,
    /// The media that are there, found out when the first index of a medium comes along.
    media: OnceCell<Vec<Medium>>,
    mounts: OnceCell<Vec<Mount>>,
}

/// Where the root of an index is, or was.
pub(super) struct Located {
    pub(super) real: PathBuf,
    pub(super) mounted: bool,
    /// What to call a medium.
    pub(super) label: Option<String>,
    /// It lies on a network or FUSE mount that was not named, and is not touched.
    pub(super) untouched: bool,
    /// Where others like that are mounted below it, relative to it.
    hanging: Vec<PathBuf>,
}

impl Located {
    /// Says whether what lies there may be looked at.
    pub(super) fn may_touch(&self, relative: &Path) -> bool {
        let mut hanging = self.hanging.iter();
        self.mounted && !self.untouched && !hanging.any(|mount| relative.starts_with(mount))
    }

    /// Says that a root was not looked at, if so.
    pub(super) fn warn_untouched(&self, talk: &Talk) {
        if self.untouched && !talk.quiet {
            say(&format!(
                "warning: {} is on a network or FUSE mount that was not named, which is not touched, since it hangs when its server is gone; --media names it",
                shown(&self.real)
            ));
        }
    }
}

impl Locator {
    pub(super) fn new(places: &PlaceArgs) -> Result<Self, Failure> {
        Ok(Self {
            named: places.roots()?,
            media: OnceCell::new(),
            mounts: OnceCell::new(),
        })
    }

    /// Says whether nobody wanted a root to be looked at that may hang.
    fn is_untouched(&self, index: &Index, real: &Path) -> bool {
        let mounts = self
            .mounts
            .get_or_init(|| mounts::mounted().unwrap_or_default());
        let directory = fs_err::canonicalize(index.directory()).unwrap_or_default();
        let mut named = self.named.iter().map(|root| match root {
            RootArg::Store(store) => &store.real,
            RootArg::Folder(path) | RootArg::Medium(path) => path,
        });
        mounts::may_hang_at(mounts, real, &[&directory])
            && !named.any(|named| {
                named == real || fs_err::canonicalize(named).is_ok_and(|named| named == real)
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
            let untouched = self.is_untouched(index, &real);
            let mounted = untouched || is_mounted(&real);
            return Located {
                hanging: match mounted && !untouched {
                    true => hanging_below(&real),
                    false => Vec::new(),
                },
                mounted,
                real,
                label: None,
                untouched,
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
            untouched: false,
            hanging: place.as_deref().map(hanging_below).unwrap_or_default(),
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
