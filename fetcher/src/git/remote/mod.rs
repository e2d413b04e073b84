//! A commit from the network: fetched into a repository of our own, and checked out as any other.
//!
//! gix speaks the protocol and indexes packs; connections are ours, so that limits, redirects, trust and interruption
//! are those of downloads. First the commit alone is asked for; more only from servers that know no other way.

mod connect;
mod http;
mod line;
mod receive;
mod room;
mod session;
mod submodules;
mod wire;

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use gix::ObjectId;
use store_index::watch::Watch;

use self::connect::connect;
use self::line::Line;
pub(crate) use self::room::Room;
use self::session::{Depth, Destination, Failure, Session};
use super::{Checkout, Form, Repository, Revision, Submodules};
use crate::download::DownloadError;
use crate::net::{Client, NetClass};
use crate::request::GitSource;
use crate::source_url::SourceUrl;

/// How deep submodules may be nested: nobody is known to go beyond six.
const MAX_SUBMODULE_DEPTH: usize = 16;

/// The most different submodules of one request: each is a connection or two.
const MAX_SUBMODULES: usize = 1000;

/// Returns true if repositories can be fetched from such a URL.
pub(crate) fn is_supported(url: &SourceUrl) -> bool {
    connect::is_supported(url)
}

/// Fetches a commit, and returns the trees that its name may mean, the likeliest first; and how many bytes came.
pub(crate) fn fetch(
    source: &GitSource,
    room: &mut Room,
    client: &Client,
    watch: Watch<'_>,
) -> Result<(Vec<Checkout>, u64), DownloadError> {
    let line = Line::new(*client.limits(), watch);
    let mut visit = Visit {
        room,
        client,
        line: &line,
        submodules: HashMap::new(),
    };
    let (repository, trees) = visit.commit(&source.url, &source.revision)?;
    let mut checkouts = Vec::new();
    for tree in trees {
        checkouts.push(if source.submodules {
            visit.with_submodules(&source.url, &repository, tree, 0)?
        } else {
            plain(&repository, tree)
        });
    }
    Ok((checkouts, line.got_bytes()))
}

fn plain(repository: &Rc<Repository>, tree: ObjectId) -> Checkout {
    Checkout {
        repository: Rc::clone(repository),
        tree,
        form: Form::Converted,
        submodules: Submodules::new(),
    }
}

/// One request: all repositories that it leads to.
#[derive(Debug)]
struct Visit<'a> {
    room: &'a mut Room,
    client: &'a Client,
    line: &'a Line<'a>,
    /// Submodules that were fetched: the same one may be there several times.
    submodules: HashMap<(String, ObjectId), Checkout>,
}

impl Visit<'_> {
    fn commit(
        &mut self,
        url: &SourceUrl,
        revision: &Revision,
    ) -> Result<(Rc<Repository>, Vec<ObjectId>), DownloadError> {
        let folder = self.room.repository().map_err(DownloadError::Write)?;
        let ids = fetch_into(&folder, url, revision, self.client, self.line)?;
        let repository = room::open(&folder).map_err(local)?;
        let trees = trees_of(&repository, &ids)?;
        Ok((Rc::new(repository), trees))
    }

    /// Fetches the submodules of a tree, and theirs.
    fn with_submodules(
        &mut self,
        url: &SourceUrl,
        repository: &Rc<Repository>,
        tree: ObjectId,
        depth: usize,
    ) -> Result<Checkout, DownloadError> {
        let trouble = |what: String| DownloadError::Trouble(what);
        let mut checkout = plain(repository, tree);
        let found = submodules::of(repository, tree).map_err(|error| trouble(error.to_string()))?;
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
                checkout.submodules.insert(submodule.path, known.clone());
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
                .map_err(|error| match error {
                    DownloadError::Gone(what) => {
                        DownloadError::Gone(named(format!("{from}: {what}")))
                    }
                    DownloadError::Trouble(what) => trouble(named(format!("{from}: {what}"))),
                    other => other,
                })?;
            self.submodules.insert(key, fetched.clone());
            checkout.submodules.insert(submodule.path, fetched);
        }
        Ok(checkout)
    }
}

fn trees_of(repository: &Repository, ids: &[ObjectId]) -> Result<Vec<ObjectId>, DownloadError> {
    let mut trees = Vec::new();
    for id in ids {
        let found = repository
            .trees_of(&Revision::Id(*id))
            .map_err(|error| DownloadError::Trouble(error.to_string()))?;
        trees.extend(found);
    }
    if trees.is_empty() {
        return Err(DownloadError::Gone("it has no such commit".into()));
    }
    Ok(trees)
}

/// Fetches what a revision stands for.
fn fetch_into(
    folder: &Path,
    url: &SourceUrl,
    revision: &Revision,
    client: &Client,
    line: &Line<'_>,
) -> Result<Vec<ObjectId>, DownloadError> {
    let mut depth = None;
    loop {
        let connected = connect(url, client, line);
        let (transport, program) = connected.map_err(|failure| sorted(failure, line, None))?;
        let answer = converse(transport, folder, revision, depth, line);
        let failure = match answer {
            Ok(ids) => return Ok(ids),
            Err((failure, tried)) => match (failure, tried) {
                // Once more, since the server hung up; all that it shows is all that is left to ask for.
                (Failure::Refused, Some(Depth::One | Depth::Full)) => {
                    depth = Some(Depth::Everything);
                    continue;
                }
                (failure, _) => failure,
            },
        };
        let said = program.map(wire::Program::last_words);
        return Err(sorted(failure, line, said));
    }
}

/// Holds one conversation. A failure comes with what was asked for.
fn converse<'a>(
    transport: Box<dyn gix_transport::client::blocking_io::Transport + 'a>,
    folder: &Path,
    revision: &Revision,
    depth: Option<Depth>,
    line: &'a Line<'a>,
) -> Result<Vec<ObjectId>, (Failure, Option<Depth>)> {
    let mut session = Session::begin(transport, line).map_err(|failure| (failure, None))?;
    let ids = session
        .resolve(revision)
        .map_err(|failure| (failure, None))?;
    let depth = depth.unwrap_or_else(|| match revision {
        Revision::Id(id) => session.depth_for(id),
        Revision::Name(_) if session.knows_shallow() => Depth::One,
        Revision::Name(_) => Depth::Full,
    });
    let repository =
        room::open(folder).map_err(|error| (Failure::Other(error.to_string()), None))?;
    let into = Destination {
        folder,
        repository: &repository,
        haves: &[],
    };
    session
        .fetch(&ids, depth, into)
        .map_err(|failure| (failure, Some(depth)))?;
    Ok(ids)
}

/// Gives a failure the kind that exit codes are made of.
fn sorted(failure: Failure, line: &Line<'_>, said: Option<String>) -> DownloadError {
    if line.watch.interrupted() {
        return DownloadError::Interrupted;
    }
    let said = said.filter(|said| !said.is_empty());
    if let Some(trouble) = line.take_trouble() {
        return match (trouble.class(), said) {
            (NetClass::Trouble, Some(said)) => told(said),
            _ => trouble.into(),
        };
    }
    match failure {
        Failure::Absent(what) => DownloadError::Gone(what),
        Failure::Refused => DownloadError::Gone("it gives out no such commit".into()),
        Failure::Dumb => {
            DownloadError::Trouble("the server does not speak git's smart protocol".into())
        }
        Failure::Other(what) => match said {
            Some(said) => told(said),
            None => DownloadError::Trouble(what),
        },
    }
}

/// What ssh or the program behind it said.
fn told(said: String) -> DownloadError {
    if said.contains("does not appear to be a git repository") {
        return DownloadError::Gone(said);
    }
    DownloadError::Trouble(said)
}

fn local(error: std::io::Error) -> DownloadError {
    DownloadError::Local(error.to_string())
}
