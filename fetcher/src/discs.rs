//! Media that nobody named: those that are mounted, and those that are remembered.
//!
//! Looking for them costs a listing of each, so it is done when every store has been asked, and for the remembered
//! ones when nothing has delivered.

use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;
use std::path::PathBuf;
use std::rc::Rc;

use store_index::beneath::Beneath;
use store_index::index::Index;
use store_index::media::{self, Medium, Remembered};
use store_index::mounts::MountPattern;
use store_index::places::is_in_place;
use store_index::root::RootId;

use crate::places::{MediumPlace, usual_dirs};

/// Media that nobody named.
#[derive(Debug, Default)]
pub struct Discs {
    /// Whether mounted and remembered media are looked for at all.
    discover: bool,
    /// What is a medium beside what is one anyway.
    patterns: Vec<MountPattern>,
    /// Whether no index of a user counts.
    system_only: bool,
    /// Indexes of media that were named, until the medium is found.
    named: RefCell<Vec<Index>>,
    /// The media that were named themselves.
    known: RefCell<HashSet<RootId>>,
    mounted: OnceCell<Mounted>,
    absent: OnceCell<Vec<Absent>>,
}

#[derive(Debug, Default)]
struct Mounted {
    places: Vec<Rc<MediumPlace>>,
    media: Vec<Medium>,
}

/// A remembered medium that is not asked.
#[derive(Debug)]
pub struct Absent {
    /// What it is called.
    pub label: String,
    /// What is known of its files.
    pub index: Index,
    /// Where it is, if it is there but was not to be asked.
    pub place: Option<PathBuf>,
}

impl Discs {
    pub(crate) fn new(discover: bool, patterns: Vec<MountPattern>, system_only: bool) -> Self {
        Self {
            discover,
            patterns,
            system_only,
            ..Self::default()
        }
    }

    /// Takes indexes of media that were named.
    pub(crate) fn name(&self, indexes: Vec<Index>) {
        self.named.borrow_mut().extend(indexes);
    }

    /// Returns the indexes of a medium that was named, which is then no more looked for.
    pub(crate) fn indexes_of(&self, medium: &Medium, warnings: &mut Vec<String>) -> Vec<Index> {
        self.known.borrow_mut().insert(medium.root.id());
        let mut indexes = self.take_named(medium.root.id());
        for directory in usual_dirs(&medium.root, self.system_only) {
            // The index on the medium was found by its path.
            if is_in_place(&directory) {
                continue;
            }
            match Index::open(&directory) {
                Ok(index) if index.root().id() == medium.root.id() => indexes.push(index),
                Ok(_) => {}
                Err(error) if error.is_absent() => {}
                Err(error) => {
                    let warning = format!("{error}; {}", error.hint());
                    if !warnings.contains(&warning) {
                        warnings.push(warning);
                    }
                }
            }
        }
        indexes
    }

    fn take_named(&self, id: RootId) -> Vec<Index> {
        let mut named = self.named.borrow_mut();
        let (found, others) = named.drain(..).partition(|index| index.root().id() == id);
        *named = others;
        found
    }

    /// Returns the media that are mounted and may be asked.
    pub fn mounted(&self) -> &[Rc<MediumPlace>] {
        &self.look().places
    }

    fn look(&self) -> &Mounted {
        self.mounted.get_or_init(|| {
            if !self.discover && self.named.borrow().is_empty() {
                return Mounted::default();
            }
            let media = media::mounted_and_matching(&self.patterns);
            let places = media.iter().filter_map(|medium| self.place(medium));
            Mounted {
                places: places.map(Rc::new).collect(),
                media,
            }
        })
    }

    fn place(&self, medium: &Medium) -> Option<MediumPlace> {
        let id = medium.root.id();
        if self.known.borrow().contains(&id) {
            return None;
        }
        let mut indexes = self.take_named(id);
        if !self.discover && indexes.is_empty() {
            return None;
        }
        let root = if self.system_only {
            Beneath::open_public(&medium.real)
        } else {
            Beneath::open(&medium.real)
        };
        let root = root.ok()?;
        let mut trouble = None;
        let on_it = medium.real.join(store_index::places::IN_PLACE_DIR);
        let usual = usual_dirs(&medium.root, self.system_only).into_iter();
        for directory in [on_it]
            .into_iter()
            .chain(usual.filter(|dir| !is_in_place(dir)))
        {
            match Index::open(&directory) {
                Ok(index) if is_in_place(&directory) || index.root().id() == id => {
                    indexes.push(index);
                }
                Ok(_) => {}
                Err(error) if error.is_absent() => {}
                Err(error) => trouble = Some(format!("{error}; {}", error.hint())),
            }
        }
        Some(MediumPlace {
            root: Rc::new(root),
            indexes,
            trouble,
        })
    }

    /// Returns the media that are remembered and have not been asked. Damaged indexes are nobody's loss here.
    pub fn absent(&self) -> &[Absent] {
        self.absent.get_or_init(|| self.look_for_absent())
    }

    fn look_for_absent(&self) -> Vec<Absent> {
        let mut asked: HashSet<RootId> = self.known.borrow().clone();
        let mounted = &self.look().media;
        if self.discover {
            asked.extend(mounted.iter().map(|medium| medium.root.id()));
        }
        let named = self.named.borrow_mut().drain(..).collect::<Vec<_>>();
        let remembered = self.discover.then(media::remembered).into_iter().flatten();
        let all = named
            .into_iter()
            .map(Remembered::of)
            .chain(remembered.flatten());
        let mut absent = Vec::new();
        for medium in all {
            // The user's index and the system's may be of the same disc.
            if asked.contains(&medium.index.root().id()) {
                continue;
            }
            absent.push(Absent {
                label: medium.label(),
                place: medium.place(mounted),
                index: medium.index,
            });
        }
        absent
    }
}
