//! Local git repositories in folders and on media: a tree by its id, or that of a commit, tag or branch.

use std::io;
use std::rc::Rc;

use gix::ObjectId;
use store_index::address::{ContentAddress, GitObject};
use store_index::digest::Algorithm;
use store_index::path_text::printable;
use store_index::watch::Watch;

use super::here::OnThisMachine;
use super::{Candidate, CandidatePlace, KnownNames, Lookup, MAX_CANDIDATES, Source, SourceKind};
use crate::git::{self, Checkout, Form, Repository, Revision, Roots};
use crate::places::{MediumPlace, Places};
use crate::request::{GitSource, Request};

/// The most directories that are listed of what was named: a disc seeks once for each.
pub(super) const MAX_LISTINGS: usize = 256;

/// The same of a medium that nobody named, so that a request does not wait half a minute for a disc that happens to be
/// in the drive. Upper directories come first, and repositories lie high on a disc that has any.
const MAX_LISTINGS_UNNAMED: usize = 64;

/// Makes a source for each folder and medium, if a repository can have what is wanted at all.
pub(super) fn of(places: &Places, request: &Request) -> Vec<Box<dyn Source>> {
    if request.git.is_none() && wanted_tree(request).is_none() {
        return Vec::new();
    }
    let roots = Roots::new(places.media.iter().map(|medium| &medium.root));
    let with_submodules = request.git.as_ref().is_some_and(|git| git.submodules);
    let here = with_submodules.then(|| OnThisMachine::of(places)).flatten();
    let here = here.map(Rc::new);
    let source = |medium: &Rc<MediumPlace>| {
        let repositories = Repositories {
            medium: Rc::clone(medium),
            roots: roots.clone(),
            here: here.clone(),
            max_listings: MAX_LISTINGS,
        };
        Box::new(repositories) as Box<dyn Source>
    };
    places.media.iter().map(source).collect()
}

/// Makes a source for a medium that nobody named, if the request names an id: then what is found is what was meant,
/// while a branch of that name may be in any repository. Nothing of it leads to anywhere else.
pub(super) fn on_mounted(medium: &Rc<MediumPlace>, request: &Request) -> Option<Box<dyn Source>> {
    let by_id = |git: &GitSource| matches!(git.revision, Revision::Id(_));
    if wanted_tree(request).is_none() && !request.git.as_ref().is_some_and(by_id) {
        return None;
    }
    Some(Box::new(Repositories {
        medium: Rc::clone(medium),
        roots: Roots::new([&medium.root]),
        here: None,
        max_listings: MAX_LISTINGS_UNNAMED,
    }))
}

/// The id of the tree that is wanted, if a tree is wanted by its id.
pub(crate) fn wanted_tree(request: &Request) -> Option<ObjectId> {
    match &request.address {
        ContentAddress::Git(git)
            if git.object() != GitObject::Blob && git.digest().algorithm() == Algorithm::Sha1 =>
        {
            ObjectId::try_from(git.digest().as_bytes()).ok()
        }
        _ => None,
    }
}

#[derive(Debug)]
struct Repositories {
    medium: Rc<MediumPlace>,
    /// Where repositories may lead.
    roots: Roots,
    /// Where submodules may be, if they are wanted.
    here: Option<Rc<OnThisMachine>>,
    max_listings: usize,
}

impl Repositories {
    /// Adds submodules, if they are wanted; a checkout that lacks one is none.
    fn with_submodules(
        &self,
        checkouts: Vec<Checkout>,
        watch: Watch<'_>,
    ) -> io::Result<Vec<Checkout>> {
        let Some(here) = &self.here else {
            return Ok(checkouts);
        };
        let mut whole = Vec::new();
        for checkout in checkouts {
            // What a tree's id says is the commit, not what is in it.
            match checkout.form {
                Form::Raw => whole.push(checkout),
                Form::Converted => whole.extend(here.complete(checkout, watch)?),
            }
        }
        Ok(whole)
    }
}

/// Returns what a repository has of a request, the likeliest first.
pub(super) fn checkouts_of(
    mut repository: Repository,
    request: &Request,
) -> io::Result<Vec<Checkout>> {
    let wanted = wanted_tree(request);
    let (trees, form) = match (wanted, &request.git) {
        (Some(tree), _) if repository.has_tree(&tree)? => (vec![tree], Form::Raw),
        (_, Some(git)) => (repository.trees_of(&git.revision)?, Form::Converted),
        (_, None) => (Vec::new(), Form::Raw),
    };
    if let (true, Some(reason)) = (trees.is_empty(), repository.left_out()) {
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    repository.close();
    let repository = Rc::new(repository);
    let checkout = |tree| Checkout::new(&repository, tree, form);
    Ok(trees.into_iter().map(checkout).collect())
}

impl Source for Repositories {
    fn kind(&self) -> SourceKind {
        SourceKind::Directories
    }

    fn location(&self) -> String {
        printable(self.medium.root.path())
    }

    fn look_up(&mut self, request: &Request, watch: Watch<'_>) -> Lookup {
        let found = git::discover(&self.medium.root, self.max_listings, watch);
        let (mut checkouts, mut trouble) = (Vec::new(), None);
        for folder in &found {
            if watch.interrupted() {
                break;
            }
            let asked = Repository::open(folder, &self.roots)
                .and_then(|repository| checkouts_of(repository, request))
                .and_then(|checkouts| self.with_submodules(checkouts, watch));
            match asked {
                Ok(some) => checkouts.extend(some),
                Err(error) => {
                    trouble = Some(format!("{}: {error}", printable(&folder.location())));
                }
            }
        }
        // The same tree again is a second chance for a damaged repository; first each tree once.
        let mut seen = Vec::new();
        let (mut first, again): (Vec<_>, Vec<_>) = checkouts.into_iter().partition(|checkout| {
            let is_new = !seen.contains(&checkout.tree);
            seen.push(checkout.tree);
            is_new
        });
        first.extend(again);
        first.truncate(MAX_CANDIDATES);
        match trouble {
            _ if !first.is_empty() => Lookup::Found(first.into_iter().map(candidate).collect()),
            Some(trouble) => Lookup::Unavailable(trouble),
            None => Lookup::Absent(Some(match found.len() {
                0 => "no repository was found in it".to_owned(),
                1 => "its repository does not have it".to_owned(),
                count => format!("none of its {count} repositories has it"),
            })),
        }
    }
}

fn candidate(checkout: Checkout) -> Candidate {
    Candidate {
        kind: SourceKind::Directories,
        location: printable(&checkout.repository.location()),
        place: CandidatePlace::Checkout(checkout),
        // The revision was named, and a tree's id has no name that could be stale.
        names: KnownNames::NotGuarded,
        index: None,
    }
}
