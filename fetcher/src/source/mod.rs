//! What a source of content is, and the order in which sources are asked.
//!
//! A source says where the content may be; it reads no content. Copying, hashing and publishing are the same for
//! all. Adding a source is a file here and a line in [`in_order`].

mod absent;
mod archive;
mod by_name;
mod copies;
mod directories;
mod git;
mod hashed_mirror;
mod here;
mod item_names;
mod ledger;
mod left_out;
mod lent;
mod links;
mod media;
mod repositories;
mod store;
mod url;

pub(crate) use self::absent::AbsentMedia;
pub(crate) use self::item_names::ItemNames;
pub(crate) use self::ledger::ledger;
pub(crate) use self::url::of_file;

use std::path::PathBuf;
use std::rc::Rc;

use store_index::beneath::Beneath;
use store_index::path_text::printable;
use store_index::tree::Skip;
use store_index::watch::Watch;

pub(crate) use self::repositories::wanted_tree;
use crate::git::{Checkout, Here};
use crate::places::Places;
use crate::request::{GitSource, Request};
use crate::source_url::SourceUrl;

/// The most candidates that one index is asked for.
pub const MAX_CANDIDATES: usize = 8;

/// The kinds of sources, as JSON names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// The output itself, already right.
    Output,
    /// An item of a store, or a file in one.
    Store,
    /// A deduplicated file in a store's `.links`.
    Links,
    /// A whole tree: a directory under any name, or a tree in a local repository.
    Directories,
    /// An earlier output.
    Ledger,
    /// A file in a folder or on a medium.
    Media,
    /// A URL that names the content by its hash.
    HashedMirror,
    /// A URL that the user gave.
    Url,
    /// The repository that the user gave.
    Git,
    /// A public archive.
    Archive,
}

impl SourceKind {
    /// Returns the name in JSON and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Store => "store",
            Self::Links => "links",
            Self::Directories => "directories",
            Self::Ledger => "ledger",
            Self::Media => "media",
            Self::HashedMirror => "hashed-mirror",
            Self::Url => "url",
            Self::Git => "git",
            Self::Archive => "archive",
        }
    }
}

/// What a source says to a request.
#[derive(Debug)]
pub enum Lookup {
    /// It may be here: places to try, the likeliest first.
    Found(Vec<Candidate>),
    /// It is not here; a reason where the answer is not obvious.
    Absent(Option<String>),
    /// It is not here, and would be if these media were.
    Elsewhere(Vec<Disc>),
    /// This source cannot be asked, because.
    Unavailable(String),
    /// This source is not for us, because.
    Skipped(String),
}

/// A medium that has the content and is not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disc {
    /// What it is called.
    pub label: String,
    /// Where it is, if it is there and was not to be asked.
    pub place: Option<PathBuf>,
    /// Under what names it has the content.
    pub names: Vec<String>,
}

impl Disc {
    /// Says where the content is.
    pub fn whereabouts(&self) -> String {
        match &self.place {
            Some(place) => format!(
                "it is on «{}» at {}, which was not to be asked",
                self.label,
                printable(place)
            ),
            None => format!("it is on «{}», which is not mounted", self.label),
        }
    }

    /// Says what to do.
    pub fn advice(&self) -> String {
        match &self.place {
            Some(place) => format!("name it with --media {}", printable(place)),
            None => format!("insert «{}»", self.label),
        }
    }
}

/// One place that may have the content.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The kind of source it is reported as.
    pub kind: SourceKind,
    /// Where it is, ready to print.
    pub location: String,
    /// How to get at it.
    pub place: CandidatePlace,
    /// Under what names the content is known there, for the stale-hash guard.
    pub names: KnownNames,
    /// Which of the source's indexes named it, if one did: a stale one is left out, not those beside it.
    pub index: Option<usize>,
}

/// A commit of a repository on the network.
#[derive(Clone, Debug)]
pub struct CloneOf {
    /// Which repository and commit.
    pub source: GitSource,
    /// Where repositories are kept, if they are.
    pub cache: Option<PathBuf>,
    /// What a server need not send.
    pub(crate) here: Option<Rc<dyn Here>>,
}

/// How to get at a candidate.
#[derive(Clone, Debug)]
pub enum CandidatePlace {
    /// A file or directory beneath a root.
    Local {
        /// The root.
        root: Rc<Beneath>,
        /// The path in it.
        path: PathBuf,
        /// Its size in bytes when it was indexed.
        size: Option<u64>,
    },
    /// A directory beneath a root, or the single file that a NAR hash may also be of.
    Tree {
        /// The root.
        root: Rc<Beneath>,
        /// The path in it, empty for the root itself.
        path: PathBuf,
        /// What is left out of it, to be tried in this order as long as it matters.
        forms: &'static [Skip],
    },
    /// A tree in a repository.
    Checkout(Checkout),
    /// A download.
    Url(SourceUrl),
    /// What a mirror of this URL, whose layout is not known yet, may have.
    MirrorOf(SourceUrl),
    /// A commit of a repository on the network.
    Clone(CloneOf),
}

/// The names of a candidate's content.
#[derive(Clone, Debug)]
pub enum KnownNames {
    /// These.
    Known(Vec<String>),
    /// [`Source::learn_names`] finds them out, at a cost.
    AskSource,
    /// The network's word is final.
    NotGuarded,
}

impl Candidate {
    pub(crate) fn local(
        kind: SourceKind,
        root: &Rc<Beneath>,
        path: PathBuf,
        size: Option<u64>,
        names: KnownNames,
    ) -> Self {
        let location = printable(&root.path().join(&path));
        Self {
            kind,
            location,
            place: CandidatePlace::Local {
                root: Rc::clone(root),
                path,
                size,
            },
            names,
            index: None,
        }
    }

    /// Says which of the source's indexes named it.
    pub(crate) const fn named_by(mut self, index: usize) -> Self {
        self.index = Some(index);
        self
    }
}

/// A place that may hold the requested content. Blocking and offline but for the URLs.
pub trait Source: std::fmt::Debug {
    /// Returns the kind that its answers are reported as.
    fn kind(&self) -> SourceKind;

    /// Returns what is asked, ready to print.
    fn location(&self) -> String;

    /// Says where the content may be, without reading it and without a socket.
    fn look_up(&mut self, request: &Request, watch: Watch<'_>) -> Lookup;

    /// Finds out under what names the content of a candidate is known.
    fn learn_names(&mut self, candidate: &Candidate) -> Vec<String> {
        match &candidate.names {
            KnownNames::Known(names) => names.clone(),
            KnownNames::AskSource | KnownNames::NotGuarded => Vec::new(),
        }
    }

    /// Hears whether a candidate was right. Returns what the user should know of it.
    fn judged(
        &mut self,
        _request: &Request,
        _candidate: &Candidate,
        _is_right: bool,
    ) -> Option<String> {
        None
    }

    /// Returns true if asking further opens a socket.
    fn is_network(&self) -> bool {
        false
    }
}

/// The stores, asked for the names that one would expect.
pub(crate) fn exact_names<'a>(places: &'a Places) -> impl Iterator<Item = Box<dyn Source + 'a>> {
    let exact = |store| Box::new(store::ExactNames::new(store)) as Box<dyn Source + 'a>;
    places.stores.iter().map(exact)
}

/// Makes the sources for a request, cheapest first. This is the only place that knows the order. Media that nobody
/// named are looked for when their turn comes.
pub fn in_order<'a>(
    places: &'a Places,
    request: &'a Request,
) -> impl Iterator<Item = Box<dyn Source + 'a>> {
    let mut sources: Vec<Box<dyn Source + 'a>> = Vec::new();
    if let Some(brought) = &places.brought {
        sources.push(Box::new(ledger::OfThisRun::new(brought)));
    }
    if !places.asked_here {
        sources.extend(of_this_machine(places, request));
    }
    let mounted = std::iter::once_with(|| places.discs.mounted())
        .flatten()
        .flat_map(|medium| {
            let mut sources: Vec<Box<dyn Source + 'a>> = Vec::new();
            if directories::can_answer(request) && !medium.indexes.is_empty() {
                sources.push(Box::new(directories::InMedium::new(medium)));
            }
            sources.extend(repositories::on_mounted(medium, request));
            sources.push(Box::new(media::Media::new(medium)));
            sources
        });
    let mut last: Vec<Box<dyn Source + 'a>> = Vec::new();
    for store in places.stores.iter().filter(|_| !places.asked_here) {
        if directories::InDatabase::can_answer(request, store) {
            last.push(Box::new(directories::InDatabase::new(store)));
        }
    }
    for mirror in &places.mirrors {
        let layouts = &places.layouts;
        last.push(Box::new(hashed_mirror::HashedMirror::new(mirror, layouts)));
    }
    for url in &request.urls {
        last.push(Box::new(url::Url::new(url)));
    }
    for url in &request.hashed_urls {
        last.push(Box::new(url::Url::hashed(url)));
    }
    if let Some(git) = &request.git {
        if let Some(kept) = git::Kept::new(git, places) {
            sources.push(Box::new(kept));
        }
        last.push(Box::new(git::Git::new(git, places)));
    }
    for archive in &places.archives {
        last.push(Box::new(archive::Archived::new(archive)));
    }
    // Behind all, and no network source: it only says what would help when nothing else did.
    let absent = std::iter::once_with(|| absent::AbsentMedia::new(&places.discs))
        .flatten()
        .map(|source| Box::new(source) as Box<dyn Source + 'a>);
    sources.into_iter().chain(mounted).chain(last).chain(absent)
}

/// Makes the sources in what was named and in what is kept, cheapest first.
fn of_this_machine<'a>(places: &'a Places, request: &'a Request) -> Vec<Box<dyn Source + 'a>> {
    let mut sources: Vec<Box<dyn Source + 'a>> = Vec::new();
    for left_out in &places.left_out {
        sources.push(Box::new(left_out::NotThere(left_out)));
    }
    sources.extend(exact_names(places));
    for store in &places.stores {
        sources.push(Box::new(links::Links::new(store)));
    }
    if directories::can_answer(request) {
        for store in places
            .stores
            .iter()
            .filter(|store| !store.indexes.is_empty())
        {
            sources.push(Box::new(directories::InStore::new(store)));
        }
        for medium in places
            .media
            .iter()
            .filter(|medium| !medium.indexes.is_empty())
        {
            sources.push(Box::new(directories::InMedium::new(medium)));
        }
    }
    sources.extend(repositories::of(places, request));
    for store in &places.stores {
        sources.push(Box::new(store::AnyName::new(store, places.of_many)));
    }
    if let Some(ledger) = ledger(places) {
        sources.push(Box::new(ledger));
    }
    if let Some(copies) = copies::copies(places) {
        sources.push(Box::new(copies));
    }
    for medium in &places.media {
        sources.push(Box::new(media::Media::new(medium)));
    }
    sources
}
