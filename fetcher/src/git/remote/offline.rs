//! Submodules without a server: as earlier fetches kept them, or as local repositories have them.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

use gix::ObjectId;
use store_index::watch::Watch;

use super::{MAX_SUBMODULE_DEPTH, MAX_SUBMODULES, kept, submodules};
use crate::git::{Checkout, Form, Here, Repository, Revision};
use crate::source_url::SourceUrl;

/// Adds submodules to checkouts of a repository; one that lacks any is left out.
pub(crate) fn with_kept_submodules(
    url: &SourceUrl,
    checkouts: Vec<Checkout>,
    (cache, here): (&Path, Option<&Rc<dyn Here>>),
    watch: Watch<'_>,
) -> io::Result<Vec<Checkout>> {
    let mut search = Search {
        cache,
        here,
        watch,
        known: HashMap::new(),
    };
    let mut whole = Vec::new();
    for checkout in checkouts {
        match checkout.form {
            Form::Raw => whole.push(checkout),
            Form::Converted => whole.extend(search.complete(url, checkout, 0)?),
        }
    }
    Ok(whole)
}

struct Search<'a> {
    cache: &'a Path,
    here: Option<&'a Rc<dyn Here>>,
    watch: Watch<'a>,
    /// The same submodule may be there many times.
    known: HashMap<(String, ObjectId), Rc<Checkout>>,
}

impl Search<'_> {
    fn complete(
        &mut self,
        url: &SourceUrl,
        mut checkout: Checkout,
        depth: usize,
    ) -> io::Result<Option<Checkout>> {
        for submodule in submodules::of(&checkout.repository, checkout.tree)? {
            let Ok(from) = submodules::resolve(url, &submodule.url) else {
                return Ok(None);
            };
            let Some(below) = self.submodule(&from, submodule.commit, depth)? else {
                return Ok(None);
            };
            checkout.submodules.insert(submodule.path, below);
        }
        Ok(Some(checkout))
    }

    fn submodule(
        &mut self,
        url: &SourceUrl,
        commit: ObjectId,
        depth: usize,
    ) -> io::Result<Option<Rc<Checkout>>> {
        let key = (url.url().to_string(), commit);
        if let Some(known) = self.known.get(&key) {
            return Ok(Some(Rc::clone(known)));
        }
        let is_too_much = depth >= MAX_SUBMODULE_DEPTH || self.known.len() >= MAX_SUBMODULES;
        if is_too_much || self.watch.interrupted() {
            return Ok(None);
        }
        let Some((repository, tree)) = self.find(url, commit)? else {
            return Ok(None);
        };
        let checkout = Checkout::new(&Rc::new(repository), tree, Form::Converted);
        let whole = self.complete(url, checkout, depth + 1)?.map(Rc::new);
        if let Some(whole) = &whole {
            self.known.insert(key, Rc::clone(whole));
        }
        Ok(whole)
    }

    fn find(&self, url: &SourceUrl, id: ObjectId) -> io::Result<Option<(Repository, ObjectId)>> {
        let own = self.here.and_then(|here| here.commit(&id, self.watch));
        let (mut repository, trees) = match own {
            Some(own) => own,
            None => match kept(self.cache, url, &id, self.here, self.watch) {
                Some(repository) => {
                    let trees = repository.trees_of(&Revision::Id(id))?;
                    (repository, trees)
                }
                None => return Ok(None),
            },
        };
        // There may be many, and each has files open.
        repository.close();
        Ok(trees.first().map(|tree| (repository, *tree)))
    }
}
