//! The stores, folders and media of this machine that may be asked, with their indexes.

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use store_index::address::NarHash;
use store_index::beneath::Beneath;
use store_index::index::{self, Index, OpenError};
use store_index::media::Medium;
use store_index::mounts::{MountPattern, warning_of_hanging};
use store_index::places::is_in_place;
use store_index::root::{Root, RootKind};
use store_index::store_option::StoreOption;
use store_index::store_path;
use store_index::store_state::StoreState;

use crate::archives::Archive;
use crate::discs::Discs;
use crate::error::FetchError;
use crate::mirror_layout::Layouts;
use crate::source::{ItemNames, SourceKind};
use crate::source_url::SourceUrl;
use crate::state::{GIT_FOLDER, State};
use store_index::path_text::printable;

/// Where stores lie when nobody says otherwise.
pub(crate) const DEFAULT_STORES: [&str; 2] = ["/gnu/store", "/nix/store"];

/// What was named on the command line or in the environment.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Stores; none means the default ones.
    pub stores: Vec<StoreOption>,
    /// Indexes, or folders of indexes.
    pub indexes: Vec<PathBuf>,
    /// Folders and media.
    pub media: Vec<PathBuf>,
    /// The stores and media come from a configuration file, which speaks of what is often there, not of what must be
    /// there now.
    pub may_be_absent: MayBeAbsent,
    /// Which mounted file systems are media beside those that are anyway.
    pub media_globs: Vec<MountPattern>,
    /// No store that was not named.
    pub no_store: bool,
    /// No folder or medium that was not named.
    pub no_media: bool,
    /// No local source at all.
    pub no_local: bool,
    /// Servers that name files by their hashes.
    pub mirrors: Vec<SourceUrl>,
    /// Public archives.
    pub archives: Vec<Archive>,
    /// The folder of what is kept between runs; `None` keeps nothing.
    pub state: Option<PathBuf>,
    /// For a daemon: only what everybody may read, no index of a user, and what was named may be missing.
    pub builtin: bool,
}

/// What need not be there although it was named.
#[derive(Clone, Copy, Debug, Default)]
pub struct MayBeAbsent {
    /// The stores.
    pub stores: bool,
    /// The folders and media.
    pub media: bool,
}

/// A place that was named in a configuration file and cannot be used now.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// What it would be reported as.
    pub kind: SourceKind,
    /// Where it would be.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// A store that may be asked.
pub struct StorePlace {
    /// What its store paths begin with.
    pub logical: String,
    /// Where its files are, held open.
    pub root: Rc<Beneath>,
    /// What is known of its files.
    pub indexes: Vec<Index>,
    /// Its own database, not opened.
    pub state: StoreState,
    /// The names of its items, for many requests; `None` inside if they are too many.
    pub(crate) names: OnceCell<Option<ItemNames>>,
}

impl StorePlace {
    /// Returns the modification time of the store directory, in nanoseconds since 1970.
    pub(crate) fn modified_ns(&self) -> Option<i64> {
        let metadata = fs_err::metadata(self.root.path()).ok()?;
        let seconds_ns = metadata.mtime().saturating_mul(1_000_000_000);
        Some(seconds_ns.saturating_add(metadata.mtime_nsec()))
    }

    /// Returns the names of the items that have a NAR hash, as far as the database knows.
    pub(crate) fn names_with_nar_hash(&self, hash: &NarHash) -> Vec<String> {
        let items = self.state.items_with_nar_hash(hash).ok().flatten();
        let name = |item: String| Some(store_path::split_base_name(&item)?.1.to_owned());
        items
            .unwrap_or_default()
            .into_iter()
            .filter_map(name)
            .collect()
    }
}

impl fmt::Debug for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorePlace")
            .field("logical", &self.logical)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// A folder or medium that may be asked.
pub struct MediumPlace {
    /// The directory, held open.
    pub root: Rc<Beneath>,
    /// What is known of its files.
    pub indexes: Vec<Index>,
    /// Why one of its indexes is left out.
    pub trouble: Option<String>,
}

impl fmt::Debug for MediumPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MediumPlace")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// Everything local that may be asked, in the order of naming.
#[derive(Debug, Default)]
pub struct Places {
    /// Stores.
    pub stores: Vec<Rc<StorePlace>>,
    /// Folders and media.
    pub media: Vec<Rc<MediumPlace>>,
    /// Media that nobody named.
    pub discs: Discs,
    /// Servers that name files by their hashes.
    pub mirrors: Vec<SourceUrl>,
    /// How mirrors lay out their files, as far as they were asked.
    pub layouts: Layouts,
    /// Public archives.
    pub archives: Vec<Archive>,
    /// What is kept between runs.
    pub state: State,
    /// No local source at all.
    pub no_local: bool,
    /// They are asked for many requests, each of which would list a store.
    pub(crate) of_many: bool,
    /// All that is local has been asked, and says no more than what a server need not send. What others have brought
    /// since is looked for under a content's lock.
    pub(crate) asked_here: bool,
    /// The stores and media of another thread, to be opened when they are needed.
    elsewhere: Option<Arc<Elsewhere>>,
    /// Where repositories are kept; it need not be there.
    pub git_cache: Option<PathBuf>,
    /// What the configuration names and is not there.
    pub left_out: Vec<LeftOut>,
    /// What was left out and why, for the user.
    pub warnings: Vec<String>,
    /// Where this run has brought the content already, for a request that wants it too.
    pub(crate) brought: Option<Brought>,
}

/// An output of this run.
#[derive(Clone, Debug)]
pub(crate) struct Brought {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Under what names it was asked for.
    pub(crate) names: Vec<String>,
}

/// Where stores and media are, with the folders of their indexes.
#[derive(Debug)]
struct Elsewhere {
    /// What their store paths begin with, and where their files are.
    stores: Vec<(String, PathBuf, Vec<PathBuf>)>,
    media: Vec<(PathBuf, Vec<PathBuf>)>,
}

impl Elsewhere {
    fn of(places: &Places) -> Self {
        let folders = |indexes: &[Index]| -> Vec<PathBuf> {
            let folders = indexes.iter().map(Index::directory);
            folders.map(Path::to_owned).collect()
        };
        let stores = places.stores.iter().map(|store| {
            let path = store.root.path().to_owned();
            (store.logical.clone(), path, folders(&store.indexes))
        });
        let media = places.media.iter().map(|medium| {
            let path = medium.root.path().to_owned();
            (path, folders(&medium.indexes))
        });
        Self {
            stores: stores.collect(),
            media: media.collect(),
        }
    }
}

fn open_indexes(folders: &[PathBuf]) -> Vec<Index> {
    let opened = folders.iter().map(|folder| Index::open(folder));
    opened.filter_map(Result::ok).collect()
}

impl Places {
    /// Returns what opens the places of a thread that asks the network alone, when all local ones have been asked.
    pub(crate) fn of_network(&self) -> impl Fn() -> Self + Send + Sync + use<> {
        let (mirrors, no_local) = (self.mirrors.clone(), self.no_local);
        let elsewhere = Arc::new(Elsewhere::of(self));
        let (git_cache, state) = (self.git_cache.clone(), self.state.for_threads());
        move || Self {
            mirrors: mirrors.clone(),
            state: state(),
            no_local,
            asked_here: true,
            elsewhere: Some(Arc::clone(&elsewhere)),
            git_cache: git_cache.clone(),
            ..Self::default()
        }
    }

    /// Opens the stores and media that another thread has open, which cannot be passed on. What is not there any more is
    /// left out: all that it costs is that a server sends more.
    pub(crate) fn open_elsewhere(&mut self) {
        let Some(elsewhere) = self.elsewhere.take() else {
            return;
        };
        for (logical, path, indexes) in &elsewhere.stores {
            if let Ok(root) = Beneath::open(path) {
                self.stores.push(Rc::new(StorePlace {
                    state: StoreState::of(logical, root.path()),
                    logical: logical.clone(),
                    root: Rc::new(root),
                    indexes: open_indexes(indexes),
                    names: OnceCell::new(),
                }));
            }
        }
        for (path, indexes) in &elsewhere.media {
            if let Ok(root) = Beneath::open(path) {
                self.media.push(Rc::new(MediumPlace {
                    root: Rc::new(root),
                    indexes: open_indexes(indexes),
                    trouble: None,
                }));
            }
        }
    }

    /// Opens what was named and finds what was not. A store or medium that was named must be there; an index need
    /// not: it only makes things faster.
    pub fn open(named: &Named, env_store: Option<&str>) -> Result<Self, FetchError> {
        let mut places = Self {
            state: State::at(named.state.clone()),
            no_local: named.no_local,
            mirrors: named.mirrors.clone(),
            archives: named.archives.clone(),
            ..Self::default()
        };
        if named.no_local {
            return Ok(places);
        }
        // What one build fetched with a password is not for the next that knows its hash.
        let state = named.state.as_ref().filter(|_| !named.builtin);
        places.git_cache = state.map(|state| state.join(GIT_FOLDER));
        places.discs = Discs::new(!named.no_media, named.media_globs.clone(), named.builtin);
        let open = if named.builtin {
            Beneath::open_public
        } else {
            Beneath::open
        };
        let mut stores = Vec::new();
        for option in &named.stores {
            let root =
                open(&option.real).and_then(|root| fs_err::read_dir(&option.real).map(|_| root));
            if let Some(root) = places.take(named, SourceKind::Store, &option.real, root)? {
                stores.push((option.logical.clone(), root));
            }
        }
        if named.stores.is_empty() && !named.no_store {
            let mut defaults: Vec<StoreOption> = Vec::new();
            for logical in env_store.into_iter().chain(DEFAULT_STORES) {
                let store = StoreOption::parse(logical, None).map_err(|error| {
                    FetchError::usage(format!("the store '{}': {error}", logical.escape_debug()))
                })?;
                if !defaults.contains(&store) {
                    defaults.push(store);
                }
            }
            for StoreOption { logical, real } in defaults {
                if let Ok(root) = open(&real) {
                    stores.push((logical, root));
                }
            }
        }
        let mut media = Vec::new();
        for path in &named.media {
            let opened = Root::folder(path).and_then(|root| Ok((root, open(path)?)));
            media.extend(places.take(named, SourceKind::Media, path, opened)?);
        }
        let indexes = places.named_indexes(&named.indexes);
        // Of a disc the index says which, and not where: it is looked for when all else has been asked.
        let (discs, mut indexes): (Vec<_>, Vec<_>) = indexes.into_iter().partition(|index| {
            index.root().kind() == RootKind::Medium && !is_in_place(index.directory())
        });
        places.discs.name(discs);
        // The root of an index that was named counts as named itself.
        for index in &indexes {
            let root = index.root();
            let known = match root.kind() {
                RootKind::Store => stores
                    .iter()
                    .any(|(logical, _)| Path::new(logical) == root.path()),
                _ => media.iter().any(|(medium, _)| medium.path() == root.path()),
            };
            if known {
                continue;
            }
            if !index.root_is_trusted() {
                places.warnings.push(format!(
                    "the index of {} is left out: it belongs to somebody else or others can write it, so the root that it names does not count; name it with --store or --media",
                    printable(root.path())
                ));
                continue;
            }
            // Of a store, where its files were read.
            let real = index.manifest().real.as_deref();
            let real = real.filter(|_| root.kind() == RootKind::Store);
            match open(real.unwrap_or_else(|| root.path())) {
                Ok(beneath) if root.kind() == RootKind::Store => {
                    stores.push((root.path().to_string_lossy().into_owned(), beneath));
                }
                Ok(beneath) => media.push((root.clone(), beneath)),
                Err(error) => places.warnings.push(format!(
                    "an index is left out, its root is not there: {error}"
                )),
            }
        }
        for (logical, root) in stores {
            let identity = Root::store(&logical);
            let indexes = places.indexes_of(&identity, &mut indexes, named.builtin);
            places.stores.push(Rc::new(StorePlace {
                state: StoreState::of(&logical, root.path()),
                logical,
                root: Rc::new(root),
                indexes,
                names: OnceCell::new(),
            }));
        }
        for (identity, root) in media {
            let warning = warning_of_hanging(root.path(), root.hanging());
            places.warnings.extend(warning);
            let mut indexes = places.indexes_of(&identity, &mut indexes, named.builtin);
            if let Ok(medium) = Medium::at(root.path()) {
                indexes.extend(places.discs.indexes_of(&medium, &mut places.warnings));
            }
            places.media.push(Rc::new(MediumPlace {
                root: Rc::new(root),
                indexes,
                trouble: None,
            }));
        }
        Ok(places)
    }

    /// Passes on what was opened. What a configuration names may be missing for a while, and so may what a daemon's
    /// administrator named: a disc that is not in its drive must not fail builds.
    fn take<T>(
        &mut self,
        named: &Named,
        kind: SourceKind,
        path: &Path,
        opened: io::Result<T>,
    ) -> Result<Option<T>, FetchError> {
        let (what, may_be_absent) = match kind {
            SourceKind::Store => ("store", named.may_be_absent.stores),
            _ => ("medium", named.may_be_absent.media),
        };
        match opened {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) if may_be_absent => self.left_out.push(LeftOut {
                kind,
                path: path.to_owned(),
                reason: format!("the configuration names it, and it cannot be used: {error}"),
            }),
            Err(error) if named.builtin => {
                self.warnings.push(unusable(what, path, &error).message);
            }
            Err(error) => return Err(unusable(what, path, &error)),
        }
        Ok(None)
    }

    fn named_indexes(&mut self, paths: &[PathBuf]) -> Vec<Index> {
        let mut indexes = Vec::new();
        for path in paths {
            for opened in index::find_named(path) {
                match opened {
                    Ok(index) => indexes.push(index),
                    Err(error) => self.warn_of(&error),
                }
            }
        }
        indexes
    }

    /// Takes the named indexes of a root, then opens those at the usual places.
    fn indexes_of(&mut self, root: &Root, named: &mut Vec<Index>, builtin: bool) -> Vec<Index> {
        let (mut own, others): (Vec<_>, Vec<_>) = named.drain(..).partition(|index| {
            let of = index.root();
            of.id() == root.id() || (of.kind() == RootKind::Medium && of.path() == root.path())
        });
        *named = others;
        for directory in usual_dirs(root, builtin) {
            match Index::open(&directory) {
                // What lies on a medium is of that medium, whatever it says.
                Ok(index) if is_in_place(&directory) || index.root().id() == root.id() => {
                    own.push(index);
                }
                Ok(index) => self.warnings.push(format!(
                    "the index {} is left out: it is of {}, not of {}",
                    printable(&directory),
                    printable(index.root().path()),
                    printable(root.path())
                )),
                Err(error) if error.is_absent() => {}
                Err(error) => self.warn_of(&error),
            }
        }
        own
    }

    fn warn_of(&mut self, error: &OpenError) {
        let warning = format!("{error}; {}", error.hint());
        // One on a medium is looked for by its place and by the medium.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// Returns where the indexes of a root lie when nobody says otherwise; without those of a user for a daemon.
pub(crate) fn usual_dirs(root: &Root, system_only: bool) -> Vec<PathBuf> {
    if system_only {
        index::system_dirs(root)
    } else {
        index::default_dirs(root)
    }
}

fn unusable(what: &str, path: &Path, error: &io::Error) -> FetchError {
    FetchError::local(format!(
        "the {what} {} cannot be used: {error}",
        printable(path)
    ))
    .with_hint(
        "it was named, so going on without it would hide a mistake; correct or remove the option",
    )
}
