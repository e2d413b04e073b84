//! Files of this machine by their git ids, so that a server need not send them.

use std::cell::Cell;
use std::io::Read as _;
use std::rc::Rc;

use gix::{ObjectId, oid};
use store_index::address::{ContentAddress, FileHasher, Framing, GitHash, GitObject};
use store_index::beneath::Beneath;
use store_index::digest::{Algorithm, Digest};
use store_index::index::{Entry, Index};
use store_index::key::{KeyKind, KeySet};

use crate::git::Blobs;
use crate::places::{MediumPlace, Places, StorePlace};

/// The most places that are tried for one file: what none of them has is fetched.
const MAX_TRIED: usize = 3;

/// The largest file that is taken into memory, in bytes; larger ones are fetched.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A place whose indexes know git ids.
#[derive(Debug)]
enum Place {
    Store(Rc<StorePlace>),
    Medium(Rc<MediumPlace>),
}

impl Place {
    fn root(&self) -> &Beneath {
        match self {
            Self::Store(store) => &store.root,
            Self::Medium(medium) => &medium.root,
        }
    }

    fn indexes(&self) -> &[Index] {
        match self {
            Self::Store(store) => &store.indexes,
            Self::Medium(medium) => &medium.indexes,
        }
    }

    fn knows_git_ids(&self) -> bool {
        let git = KeySet::empty().with(KeyKind::GitSha1);
        let mut indexes = self.indexes().iter();
        indexes.any(|index| index.manifest().kinds.includes(git))
    }
}

/// Places whose indexes know git ids.
#[derive(Debug)]
pub(super) struct LocalBlobs {
    places: Vec<Place>,
    taken: Cell<u64>,
}

impl LocalBlobs {
    /// `None` if no index knows git ids.
    pub(super) fn of(places: &Places) -> Option<Self> {
        let stores = places.stores.iter().cloned().map(Place::Store);
        let media = places.media.iter().cloned().map(Place::Medium);
        let places: Vec<_> = stores.chain(media).filter(Place::knows_git_ids).collect();
        (!places.is_empty()).then(|| Self {
            places,
            taken: Cell::new(0),
        })
    }

    /// Returns where a blob may be. A damaged index knows nothing.
    fn places_of(&self, id: &oid) -> impl Iterator<Item = (&Place, Entry)> {
        let address = Digest::new(Algorithm::Sha1, id.as_bytes())
            .and_then(|digest| GitHash::new(digest, GitObject::Blob))
            .map(ContentAddress::Git);
        let entries = move |place: &Place, index: &Index| {
            let entries = index.look_up(&address?, MAX_TRIED).ok()?;
            let usable = |entry: &Entry| entry.size <= MAX_FILE_BYTES && is_there(place, entry);
            Some(entries.into_iter().filter(usable).collect::<Vec<_>>())
        };
        self.places.iter().flat_map(move |place| {
            let found = place
                .indexes()
                .iter()
                .filter_map(|index| entries(place, index));
            let found: Vec<_> = found.flatten().collect();
            found.into_iter().map(move |entry| (place, entry))
        })
    }
}

/// Looks, without reading, whether a file is still what it was when it was indexed.
fn is_there(place: &Place, entry: &Entry) -> bool {
    let path = place.root().path().join(entry.location.relative_path());
    fs_err::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == entry.size)
}

impl Blobs for LocalBlobs {
    fn has(&self, id: &oid) -> bool {
        self.places_of(id).next().is_some()
    }

    fn read(&self, id: &oid) -> Option<Vec<u8>> {
        for (place, entry) in self.places_of(id) {
            let path = entry.location.relative_path();
            let Ok(file) = place.root().open_file(&path) else {
                continue;
            };
            let mut bytes = Vec::new();
            if file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).is_err() {
                continue;
            }
            let len = bytes.len() as u64;
            let mut hasher =
                FileHasher::new_collision_detecting(Framing::GitBlob, Algorithm::Sha1, len);
            hasher.update(&bytes);
            let got = hasher.finish();
            if got.is_some_and(|got| ObjectId::try_from(got.as_bytes()).is_ok_and(|got| got == id))
            {
                self.taken.set(self.taken.get() + 1);
                return Some(bytes);
            }
        }
        None
    }

    fn taken(&self) -> u64 {
        self.taken.get()
    }
}
