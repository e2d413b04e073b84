//! Fills the store beforehand, so that a build finds its source there: with a hash a fetch like any other, without one
//! a download or clone that tells it.

mod download;
mod here;
mod report;

use std::time::Instant;

use store_index::address::ContentAddress;
use store_index::store_path::ItemName;
use store_index::watch::Watch;

use self::download::Downloads;
pub use self::report::Report;
use crate::error::FetchError;
use crate::fetch::{self, Policy};
use crate::own_folder::OwnFolder;
use crate::places::Places;
use crate::present_store::PresentStore;
use crate::report::{Added, Attempt, Listener, Success};
use crate::request::{Request, Target};

/// An item that the store has.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its path.
    pub path: String,
    /// What it is named by.
    pub address: ContentAddress,
    /// Whence it came; `None` if it was there before.
    pub source: Option<Success>,
}

/// What is wanted, for the store.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What; without a known hash, the digest in it is of nothing, and only method and algorithm count.
    pub request: Request,
    /// Whether the hash was given.
    pub hash_is_known: bool,
    /// The name that the build will use.
    pub name: ItemName,
}

/// Brings something into the store.
pub fn run(
    wish: &Wish,
    store: &PresentStore,
    places: &Places,
    policy: &Policy,
    listener: &dyn Listener,
    watch: Watch<'_>,
) -> Report {
    let started = Instant::now();
    let mut attempts = Vec::new();
    let result = if let Err(error) = store.accepts(&wish.request.address) {
        Err(error)
    } else if wish.hash_is_known {
        known(wish, store, places, policy, listener, watch, &mut attempts)
    } else {
        let mut downloads = Downloads {
            wish,
            listener,
            watch,
            attempts: &mut attempts,
            no_room: None,
        };
        downloads
            .first(policy)
            .and_then(|landed| landed.add(wish, store))
    };
    Report {
        name: wish.name.clone(),
        method: wish.request.address.method(),
        attempts,
        result: result.map_err(|error| unless_interrupted(error, watch)),
        took: started.elapsed(),
    }
}

/// With a hash: what is valid already is done, and the rest is fetched, from here first.
fn known(
    wish: &Wish,
    store: &PresentStore,
    places: &Places,
    policy: &Policy,
    listener: &dyn Listener,
    watch: Watch<'_>,
    attempts: &mut Vec<Attempt>,
) -> Result<Item, FetchError> {
    let address = wish.request.address;
    let path = store.path(&address, &wish.name);
    if store.missing(std::slice::from_ref(&path))?.is_empty() {
        return Ok(Item {
            path,
            address,
            source: None,
        });
    }
    let folder = OwnFolder::new()?;
    let landing = folder.path(&wish.name);
    let request = Request {
        target: Target::Path(landing.clone()),
        ..wish.request.clone()
    };
    let report = fetch::run(&request, places, policy, listener, watch);
    *attempts = report.attempts;
    let source = report.result.map_err(OwnFolder::explain)?;
    let path = store.add(&address, &wish.name, &landing)?;
    Ok(Item {
        path,
        address,
        source: Some(source),
    })
}

/// Adds the output of a fetch.
pub fn add_output(
    request: &Request,
    name: &ItemName,
    store: &PresentStore,
    watch: Watch<'_>,
) -> Result<Added, FetchError> {
    let Target::Path(output) = &request.target else {
        return Err(FetchError::usage(
            "only an output that is a file or directory can be added to the store",
        ));
    };
    let path = store.path(&request.address, name);
    let add = || {
        if store.missing(std::slice::from_ref(&path))?.is_empty() {
            return Ok(Added {
                path: path.clone(),
                present: true,
            });
        }
        let folder = OwnFolder::new()?;
        let content = folder.copy_output(request, output, name, watch)?;
        Ok(Added {
            path: store.add(&request.address, name, &content)?,
            present: false,
        })
    };
    add().map_err(|error| unless_interrupted(error, watch))
}

/// A signal of the terminal ends the store's tools too, which is no fault of theirs.
pub(crate) fn unless_interrupted(error: FetchError, watch: Watch<'_>) -> FetchError {
    if watch.interrupted() {
        FetchError::interrupted()
    } else {
        error
    }
}
