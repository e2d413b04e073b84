//! `fetch builder`: we are the builder of a fixed-output derivation of Nix.
//!
//! What is wanted stands in the environment or in the structured attributes ([`attributes`]), and becomes a request
//! like any other ([`order`], [`mirrors`], [`repository`]). What happens goes into the build's log ([`log`]). See
//! `docs/nix.md`.

mod attributes;
mod log;
mod mirrors;
mod order;
mod repository;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use store_index::store_path::FixedOutput;
use store_index::watch::Watch;

use self::attributes::Attributes;
use self::log::{BuildLog, NixProgress};
use self::order::Order;
use crate::builtin::{Log, Settings};
use crate::cli::Environment;
use crate::error::FetchError;
use crate::fetch;

/// The store of a Nix that names none.
const DEFAULT_STORE: &str = "/nix/store";

/// What repairs a store with a corrupt file.
const REPAIR: &str = "nix-store --verify --check-contents --repair";

/// How the file is called by which Nix locks an output in its store for as long as it is built or compared.
const LOCK_SUFFIX: &str = ".lock";

/// The build failed. Nix knows success and failure only.
const FAILED: u8 = 1;

/// Builds what the environment describes, and returns the program's exit code.
pub fn build(environment: &Environment<'_>, interrupt: &AtomicBool) -> u8 {
    let log = BuildLog::new(environment);
    match deliver(environment, interrupt, &log) {
        Ok(()) => 0,
        Err(error) => {
            tell(&log, &error);
            FAILED
        }
    }
}

fn tell(log: &BuildLog, error: &FetchError) {
    log.line(&format!("error: {error}"));
    if let Some(hint) = &error.hint {
        log.line(&format!("hint: {hint}"));
    }
}

fn deliver(
    environment: &Environment<'_>,
    interrupt: &AtomicBool,
    log: &BuildLog,
) -> Result<(), FetchError> {
    let attributes = Attributes::read(environment)?;
    let variable = |name: &str| match (name, attributes.variable(name)) {
        ("FETCH_CONNECT_TIMEOUT", None) => attributes.variable("NIX_CONNECT_TIMEOUT"),
        (_, value) => value,
    };
    let settings = Settings::read(
        &Environment {
            variables: &variable,
            configuration: environment.configuration.clone(),
        },
        DEFAULT_STORE,
    )?;
    let sites = environment.configuration.mirror_sites.clone();
    let Order { request, warnings } = Order::read(&attributes, &sites.unwrap_or_default())?;
    let is_check = is_check(&settings, &request);
    let places = settings.places(is_check)?;
    for warning in &warnings {
        log.line(&format!("warning: {warning}"));
    }
    if is_check {
        log.line("the output is there already, so this is a check: only the network is asked");
    }
    let say = |line: &str| log.line(line);
    let listener = Log::new(&settings, REPAIR, &say);
    let progress = NixProgress::new(log, &settings);
    let watch = Watch {
        interrupt,
        progress: &progress,
    };
    let report = fetch::run(&request, &places, &settings.policy(), &listener, watch);
    match (report.result, report.left) {
        (Ok(_), _) => Ok(()),
        (Err(error), Some(from)) => {
            tell(log, &error);
            log.line(&format!(
                "what {from} sent is left to Nix, which says what its hash is"
            ));
            Ok(())
        }
        (Err(error), None) => Err(error),
    }
}

/// If the output is in the build's own store already, we were called to compare: what is here would only be compared
/// with itself. In the sandbox this shows where the whole store is mounted somewhere else, outside it where Nix chose
/// another name. A store of another machine may be mounted somewhere too, and whatever it has is no reason to go to the
/// network; but only in its own store has Nix locked the output for us.
fn is_check(settings: &Settings, request: &crate::request::Request) -> bool {
    let crate::request::Target::Given(out) = &request.target else {
        return false;
    };
    let fixed = FixedOutput::new(&settings.store, &request.address);
    let own = request
        .item_names
        .first()
        .map(|name| fixed.base_name(name).into());
    let names = out
        .file_name()
        .map(ToOwned::to_owned)
        .into_iter()
        .chain(own);
    let stores = &settings.named.stores;
    names.into_iter().any(|name: std::ffi::OsString| {
        let is_there = |path: &Path| path != out && fs_err::symlink_metadata(path).is_ok();
        let mut lock = name.clone();
        lock.push(LOCK_SUFFIX);
        let is_own = |store: &Path| {
            store == Path::new(&settings.store)
                || out.parent() == Some(store)
                || is_there(&store.join(&lock))
        };
        stores
            .iter()
            .any(|store| is_there(&store.real.join(&name)) && is_own(&store.real))
    })
}
