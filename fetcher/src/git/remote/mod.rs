//! A commit from the network: fetched into a repository of our own, and checked out as any other.
//!
//! gix speaks the protocol and indexes packs; connections are ours, so that limits, redirects, trust and interruption
//! are those of downloads. First the commit alone is asked for; more only from servers that know no other way.

mod bundle;
mod connect;
mod http;
mod kept;
mod line;
mod missing;
mod offline;
mod receive;
mod room;
mod session;
mod submodules;
mod survey;
mod system;
mod talk;
mod wire;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::slice;

use gix::ObjectId;
use gix::bstr::BString;
use store_index::beneath::Beneath;
use store_index::watch::Watch;

pub(crate) use self::bundle::is_bundle;
pub(crate) use self::kept::{
    collect, folder as kept_folder, kept, like as kept_like, usage, verify,
};
use self::line::Line;
pub(crate) use self::offline::with_kept_submodules;
pub(crate) use self::room::{Hidden, Rooms};
use self::talk::fetch_into;
use super::{Checkout, Folder, Form, Here, Repository, Revision, Roots};
use crate::download::DownloadError;
use crate::net::Client;
use crate::request::GitSource;
use crate::source_url::SourceUrl;

/// How deep submodules may be nested: nobody is known to go beyond six.
pub(crate) const MAX_SUBMODULE_DEPTH: usize = 16;

/// The most different submodules of one request: each is a connection or two.
pub(crate) const MAX_SUBMODULES: usize = 1000;

/// The scheme of repositories on this machine, which only the command line may name.
const FILE: &str = "file";

/// What is said of a repository that lacks what was named.
pub(crate) const NO_SUCH: &str = "it has no such commit, tag or branch";

/// The scheme for which a program is run.
const SSH: &str = "ssh";

/// Returns true if the command line may name such a URL.
pub(crate) fn is_supported(url: &SourceUrl) -> bool {
    is_local(url) || connect::is_supported(url)
}

/// Returns true if it is the URL of a repository on this machine.
pub(crate) fn is_local(url: &SourceUrl) -> bool {
    url.url().scheme() == FILE
}

/// Returns the paths and commits of a tree's submodules that have a URL.
pub(crate) fn submodules_of(
    repository: &Repository,
    tree: ObjectId,
) -> io::Result<Vec<(BString, ObjectId)>> {
    let found = submodules::of(repository, tree)?;
    let pinned = |submodule: submodules::Submodule| (submodule.path, submodule.commit);
    Ok(found.into_iter().map(pinned).collect())
}

/// What came of a fetch.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The trees that the revision may mean, the likeliest first; or the one tree that is wanted by its id.
    pub(crate) checkouts: Vec<Checkout>,
    /// What the servers sent in all, in bytes.
    pub(crate) got_bytes: u64,
    /// How much of that were packs.
    pub(crate) pack_bytes: u64,
    /// Whether something of it was, or may have been, here before.
    pub(crate) leant_on_others: bool,
    /// Whether a commit of it is one of a repository of this machine, which says of it what it likes.
    pub(crate) has_own_commit: bool,
    /// Whether an earlier fetch kept something of it.
    was_kept: bool,
    /// What no server had to send.
    here: Option<Rc<dyn Here>>,
    /// Whence it all came.
    urls: Vec<SourceUrl>,
}

impl Fetched {
    /// Says what it cost.
    pub(crate) fn remark(&self) -> String {
        let mut remark = format!("{} bytes came", self.got_bytes);
        let read = self.here.as_ref().map_or(0, |here| here.blobs_read());
        if read > 0 {
            remark.push_str(&format!("; {read} files were here already"));
        }
        if self.was_kept {
            remark.push_str("; the rest was kept from an earlier fetch");
        }
        remark
    }

    /// Returns true if something of it is certainly not what a server sent for it. Whoever asks has checked it out.
    pub(crate) fn is_mixed(&self) -> bool {
        let read = self.here.as_ref().map_or(0, |here| here.blobs_read());
        self.was_kept || self.has_own_commit || read > 0
    }

    /// Throws away what is kept of the repositories that it came from.
    pub(crate) fn forget(self, cache: Option<&Path>) {
        let Self {
            checkouts, urls, ..
        } = self;
        // They hold the locks.
        drop(checkouts);
        for url in urls {
            if let Some(cache) = cache {
                kept::forget(cache, &url);
            }
        }
    }
}

/// Fetches a commit. What was kept may be damaged; then it is given up, and all is fetched anew.
pub(crate) fn fetch(
    source: &GitSource,
    wanted: Option<ObjectId>,
    rooms: &mut Rooms<'_>,
    client: &Client,
    watch: Watch<'_>,
) -> Result<Fetched, DownloadError> {
    let line = Line::new(*client.limits(), watch, rooms.is_build());
    let mut visit = Visit {
        rooms,
        client,
        line: &line,
        submodules: HashMap::new(),
        urls: Vec::new(),
        leant_on_others: false,
        was_kept: false,
        has_own_commit: false,
        is_anew: false,
        may_run_ssh: source.may_run_ssh,
    };
    let checkouts = match visit.all(source, wanted) {
        Err(_) if line.is_damaged() && line.is_well() && !watch.interrupted() => {
            visit.begin_anew();
            visit.all(source, wanted)?
        }
        answer => answer?,
    };
    if let Some(cache) = visit.rooms.cache() {
        kept::trim(cache);
    }
    Ok(Fetched {
        checkouts,
        got_bytes: line.got_bytes(),
        pack_bytes: line.pack_bytes(),
        leant_on_others: visit.leant_on_others,
        was_kept: visit.was_kept,
        has_own_commit: visit.has_own_commit,
        here: visit.rooms.here().cloned(),
        urls: visit.urls,
    })
}

/// One request: all repositories that it leads to.
#[derive(Debug)]
struct Visit<'a, 'rooms> {
    rooms: &'a mut Rooms<'rooms>,
    client: &'a Client,
    line: &'a Line<'a>,
    /// Submodules that were fetched: the same one may be there several times.
    submodules: HashMap<(String, ObjectId), Rc<Checkout>>,
    urls: Vec<SourceUrl>,
    leant_on_others: bool,
    was_kept: bool,
    has_own_commit: bool,
    /// Something that was here was damaged, so that nothing is believed that was here.
    is_anew: bool,
    may_run_ssh: bool,
}

impl Visit<'_, '_> {
    fn all(
        &mut self,
        source: &GitSource,
        wanted: Option<ObjectId>,
    ) -> Result<Vec<Checkout>, DownloadError> {
        let (repository, trees) = self.commit(&source.url, &source.revision)?;
        if let Some(tree) = wanted.filter(|tree| repository.has_tree(tree).unwrap_or(false)) {
            return Ok(vec![Checkout::new(&repository, tree, Form::Raw)]);
        }
        let checkout = |tree| {
            if source.submodules {
                return self.with_submodules(&source.url, &repository, tree, 0);
            }
            Ok(Checkout::new(&repository, tree, Form::Converted))
        };
        trees.into_iter().map(checkout).collect()
    }

    fn begin_anew(&mut self) {
        // They hold the locks.
        self.submodules.clear();
        self.rooms.begin_anew();
        for url in std::mem::take(&mut self.urls) {
            self.forget(&url);
        }
        self.is_anew = true;
        self.leant_on_others = false;
        self.was_kept = false;
        self.has_own_commit = false;
        self.line.set_damaged(false);
    }

    fn forget(&mut self, url: &SourceUrl) {
        if let Some(cache) = self.rooms.cache()
            && !kept::forget(cache, url)
        {
            self.rooms.keep_nothing();
        }
    }

    /// Reads something that may have been here before. If it cannot be read, that is no answer yet.
    fn read<T, E>(&self, read: Result<T, E>) -> Result<T, E> {
        if read.is_err() && self.leant_on_others {
            self.line.set_damaged(true);
        }
        read
    }

    fn commit(
        &mut self,
        url: &SourceUrl,
        revision: &Revision,
    ) -> Result<(Rc<Repository>, Vec<ObjectId>), DownloadError> {
        if let Some(path) = bundle::path_of(url) {
            return self.bundle(&path, revision);
        }
        if is_local(url) {
            let repository = open_file_url(url).map_err(gone)?;
            let trees = trees_of(&repository, slice::from_ref(revision))?;
            return Ok((Rc::new(repository), trees));
        }
        if let (Revision::Id(id), Some(here)) = (revision, self.rooms.here())
            && let Some((repository, trees)) = here.commit(id, self.line.watch)
        {
            self.leant_on_others = true;
            self.has_own_commit = true;
            return Ok((Rc::new(repository), trees));
        }
        if url.url().scheme() == SSH && !self.may_run_ssh {
            let what = "ssh is not run for a daemon, with whose keys it would be";
            return Err(DownloadError::trouble(what));
        }
        if self.is_anew && !self.urls.contains(url) {
            self.forget(url);
        }
        let room = self.rooms.of(url, self.line.watch);
        let room = room.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => DownloadError::Interrupted,
            _ => DownloadError::Write(error),
        })?;
        self.urls.push(url.clone());
        room.salvage(self.line).map_err(local)?;
        let was_kept = !room.tips().is_empty() || room.is_partial();
        let here = self.rooms.here();
        self.was_kept |= was_kept;
        self.leant_on_others |= was_kept || here.is_some();
        let is_whole = match revision {
            Revision::Id(id) if room.tips().contains(id) => {
                !room.is_partial()
                    || missing::of(room.path(), &[*id], (here, url), self.line.watch)
                        .is_ok_and(|ids| ids.is_empty())
            }
            _ => false,
        };
        let (revisions, tips) = match revision {
            Revision::Id(id) if is_whole => (vec![revision.clone()], vec![*id]),
            _ => fetch_into(
                &room,
                &self.asked(url)?,
                revision,
                self.client,
                (self.line, here),
            )
            .inspect_err(|_| {
                // The pack may need something that is there no more.
                if was_kept && self.line.is_pack() {
                    self.line.set_damaged(true);
                }
            })
            .map_err(|error| bundle::explained(error, url))?,
        };
        let opened = room.open_with(&tips, self.line.watch).map_err(local)?;
        let Some(mut repository) = opened else {
            self.rooms.keep_nothing();
            return self.commit(url, revision);
        };
        if let Some(here) = here {
            repository.lean_on(Rc::clone(here));
        }
        let trees = self.read(trees_of(&repository, &revisions))?;
        Ok((Rc::new(repository), trees))
    }

    /// Takes a bundle apart, which only git does.
    fn bundle(
        &mut self,
        path: &Path,
        revision: &Revision,
    ) -> Result<(Rc<Repository>, Vec<ObjectId>), DownloadError> {
        let room = self.rooms.passing().map_err(DownloadError::Write)?;
        let revision = bundle::unpack(path, &room, revision, self.line);
        // No network is to blame.
        let revision = revision.map_err(|error| match error {
            DownloadError::Trouble { reason, .. } => DownloadError::Gone(reason),
            other => other,
        })?;
        let opened = room.open_with(&[], self.line.watch).map_err(local)?;
        let repository = opened.ok_or_else(|| DownloadError::trouble("it is gone"))?;
        let trees = trees_of(&repository, slice::from_ref(&revision))?;
        Ok((Rc::new(repository), trees))
    }

    /// Returns what is to be asked for a repository, by the rules of the configuration.
    fn asked(&self, url: &SourceUrl) -> Result<SourceUrl, DownloadError> {
        let asked = self.client.access().rules.apply(url);
        asked.map_err(|blocked| DownloadError::trouble(blocked.to_string()))
    }

    /// Fetches the submodules of a tree, and theirs.
    fn with_submodules(
        &mut self,
        url: &SourceUrl,
        repository: &Rc<Repository>,
        tree: ObjectId,
        depth: usize,
    ) -> Result<Checkout, DownloadError> {
        let trouble = |what: String| DownloadError::trouble(what);
        let mut checkout = Checkout::new(repository, tree, Form::Converted);
        let found = self
            .read(submodules::of(repository, tree))
            .map_err(|error| trouble(error.to_string()))?;
        if !found.is_empty() && depth >= MAX_SUBMODULE_DEPTH {
            return Err(trouble(format!(
                "its submodules are nested deeper than {MAX_SUBMODULE_DEPTH}"
            )));
        }
        for submodule in found {
            let path = submodule.path.to_string().escape_debug().to_string();
            let named = |what: String| format!("the submodule '{path}': {what}");
            let from = submodules::resolve(url, &submodule.url)
                .map_err(|reason| trouble(named(format!("its URL is not used: {reason}"))))?;
            let key = (from.url().to_string(), submodule.commit);
            if let Some(known) = self.submodules.get(&key) {
                checkout.submodules.insert(submodule.path, Rc::clone(known));
                continue;
            }
            if self.submodules.len() >= MAX_SUBMODULES {
                return Err(trouble(format!(
                    "it has more than {MAX_SUBMODULES} submodules"
                )));
            }
            let fetched = self
                .commit(&from, &Revision::Id(submodule.commit))
                .and_then(|(repository, trees)| match trees.first() {
                    Some(tree) => self.with_submodules(&from, &repository, *tree, depth + 1),
                    None => Err(DownloadError::Gone("it has no such commit".into())),
                })
                .map_err(|error| error.explained(|what| named(format!("{from}: {what}"))))?;
            let fetched = Rc::new(fetched);
            self.submodules.insert(key, Rc::clone(&fetched));
            checkout.submodules.insert(submodule.path, fetched);
        }
        Ok(checkout)
    }
}

fn trees_of(
    repository: &Repository,
    revisions: &[Revision],
) -> Result<Vec<ObjectId>, DownloadError> {
    let mut trees = Vec::new();
    for revision in revisions {
        let found = repository.trees_of(revision);
        trees.extend(found.map_err(|error| DownloadError::trouble(error.to_string()))?);
    }
    if trees.is_empty() {
        return Err(DownloadError::Gone(NO_SUCH.into()));
    }
    Ok(trees)
}

/// Opens a repository that the user's own command line names: it may lead anywhere on this machine.
pub(crate) fn open_file_url(url: &SourceUrl) -> io::Result<Repository> {
    let path = fs_err::canonicalize(url.file_path()?)?;
    let path = match path.join(".git") {
        inner if inner.exists() => fs_err::canonicalize(inner)?,
        _ => path,
    };
    let root = Rc::new(Beneath::open(Path::new("/"))?);
    let roots = Roots::new([&root]);
    let below = path.strip_prefix("/").unwrap_or(&path);
    Repository::open(&Folder::new(&root, below), &roots)
}

fn gone(error: io::Error) -> DownloadError {
    match error.kind() {
        io::ErrorKind::NotFound => DownloadError::Gone(error.to_string()),
        _ => DownloadError::trouble(error.to_string()),
    }
}

fn local(error: io::Error) -> DownloadError {
    if error.kind() == io::ErrorKind::Interrupted {
        return DownloadError::Interrupted;
    }
    DownloadError::Local(error.to_string())
}
