//! Many at once: every entry of a `sources.json` or of a list of checksums.
//!
//! The list is read and planned before anything is touched ([`list`], [`plan`]); then the local sources are asked for
//! all entries, one after the other, as a drive likes it; then the network for what is left, several at a time
//! ([`crew`]); and for what nobody had, which disc would help. Each entry is a fetch of its own in everything: its
//! output is verified and appears whole or not at all, and one that is there and right is done, so that a batch that
//! ended early goes on when it is run again.

mod crew;
mod display;
mod entry;
mod folder;
#[cfg(fuzzing)]
pub mod fuzzing;
mod list;
mod pace;
mod plan;
mod report;
mod sources_json;
mod sums;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use store_index::digest::Algorithm;
use store_index::path_text::printable;
use store_index::watch::Watch;

use self::crew::{Crew, Outcome, Patience};
pub use self::crew::{JOBS, MAX_JOBS};
use self::display::{Display, Ears, Said};
use self::entry::{Common, Entry, Kind};
use self::folder::Folder;
use self::plan::Plan;
pub use self::report::Report;
use self::report::{Fate, From, Row};
use crate::archives::Archive;
use crate::download::SharedClient;
use crate::error::{ErrorKind, FetchError};
use crate::fetch::{self, Here, LockPolicy, Policy};
use crate::metrics::{self, Metrics};
use crate::mirrors::MirrorSites;
use crate::places::{Brought, Places};
use crate::report::{self as fetch_report, Listener, Success};
use crate::request::Request;
use crate::source::{self, AbsentMedia, Lookup, Source as _, SourceKind};
use crate::source_url::SourceUrl;
use crate::stale_hash;
use crate::verdict;

/// With more entries, a store that has no index is worth a word: each is tried with all its names, which takes a
/// hundredth of a second where they are a hundred thousand.
const MANY: usize = 1000;

/// What is to be fetched, and where to.
#[derive(Debug)]
pub struct Wish {
    /// The list; `-` is standard input.
    pub list: PathBuf,
    /// Where outputs go, absolute.
    pub folder: PathBuf,
    /// Below which URL the network has the files of a list of checksums.
    pub base_url: Option<SourceUrl>,
    /// The most downloads at a time.
    pub jobs: usize,
    /// Only say what would be done.
    pub dry_run: bool,
    /// What the sites of `mirror://` URLs are, where they are not the built-in ones.
    pub mirror_sites: MirrorSites,
}

/// Fetches all that a list wants.
pub fn run(
    wish: &Wish,
    places: &mut Places,
    policy: &Policy,
    voice: &(dyn Listener + Sync),
    watch: Watch<'_>,
) -> Report {
    let started = Instant::now();
    let read = list::read(&wish.list, wish.base_url.as_ref()).and_then(plan::make);
    let (plan, list) = match read {
        Ok(read) => read,
        Err(error) => return Report::failed(error),
    };
    let folder = match wish.dry_run {
        true => None,
        false => match Folder::open(wish.folder.clone(), places) {
            Ok(folder) => Some(folder),
            Err(error) => return Report::failed(error),
        },
    };
    places.of_many = true;
    warn(&plan, places, voice);
    let policy = Policy {
        client: SharedClient::of_many(),
        of_many: true,
        ..policy.clone()
    };
    let common = Common {
        folder: &wish.folder,
        mirror_sites: &wish.mirror_sites,
    };
    let mut batch = Batch {
        plan: &plan,
        common: &common,
        policy: &policy,
        voice,
        said: Said::default(),
        display: Display::new(watch.progress, plan.entries.len()),
        watch,
        fates: Mutex::new(vec![Fate::NotDone; plan.entries.len()]),
        metrics: Mutex::default(),
        archives: places.archives.clone(),
    };
    let mut trouble = None;
    match folder {
        None => batch.look(places),
        Some(mut folder) => {
            let pending = batch.fetch_here(places, &mut folder);
            if !pending.is_empty() && !watch.interrupted() {
                trouble = batch.fetch_there(pending, places, wish.jobs).err();
            }
            folder.remove_empty();
        }
    }
    let discs = batch.find_discs(places);
    batch.tell_metrics();
    batch.into_report(list, discs, trouble, started.elapsed())
}

/// Says what is worth knowing before it begins.
fn warn(plan: &Plan, places: &Places, voice: &dyn Listener) {
    for weak in [Algorithm::Md5, Algorithm::Sha1] {
        let mut entries = plan.entries.iter();
        if entries.any(|entry| entry.address.algorithm() == weak) {
            voice.warning(&format!(
                "{weak} hashes can be forged: a match does not prove that the content is the right one"
            ));
        }
    }
    if plan.renamed > 0 {
        voice.warning(&format!(
            "{} entries have names that other contents have too: their outputs begin with their hashes",
            plan.renamed
        ));
    }
    let without = places.stores.iter().find(|store| store.indexes.is_empty());
    if plan.entries.len() > MANY
        && let Some(store) = without
    {
        let store = printable(store.root.path());
        voice.warning(&format!(
            "{store} has no index, so that each of {} entries is tried with every name in it: store-index update makes one",
            plan.entries.len()
        ));
    }
}

/// Entries of one content that this machine does not have. Those that the network can be asked for come first.
type Pending = Vec<Missing>;

/// One of them.
#[derive(Debug)]
struct Missing {
    number: usize,
    /// The local places that the guard passed over.
    suspicious: Vec<String>,
    /// What was here and may have been it, had no room.
    no_room: Option<Box<FetchError>>,
    /// Why it is not to be had, unless one of the others comes.
    error: Option<FetchError>,
}

/// A batch that goes on.
struct Batch<'a> {
    plan: &'a Plan,
    common: &'a Common<'a>,
    policy: &'a Policy,
    voice: &'a (dyn Listener + Sync),
    said: Said,
    display: Display<'a>,
    watch: Watch<'a>,
    fates: Mutex<Vec<Fate>>,
    metrics: Mutex<Metrics>,
    /// Asked when everybody else has had all tries.
    archives: Vec<Archive>,
}

impl Batch<'_> {
    fn settle(&self, number: usize, fate: Fate) {
        self.display.is_done(fate.error().is_some());
        let mut fates = self.fates.lock().unwrap_or_else(PoisonError::into_inner);
        fates[number] = fate;
    }

    /// Counts what a fetch did, if that is wanted.
    fn count(&self, report: &fetch_report::Report) {
        if self.policy.metrics.is_none() {
            return;
        }
        let end = report.result.as_ref().map_err(|error| error.kind);
        let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.add(&metrics::Run {
            attempts: &report.attempts,
            end: end.map(|done| Some((done.kind, done.bytes))),
            took: report.took,
        });
    }

    /// Adds what was counted to the file for it, if one was named.
    fn tell_metrics(&mut self) {
        let Some(file) = &self.policy.metrics else {
            return;
        };
        let metrics = self
            .metrics
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = metrics.add_to(file) {
            self.voice.warning(&format!(
                "the metrics cannot be added to {}: {error}",
                printable(file)
            ));
        }
    }

    /// A fetch reports to the one display.
    fn watch(&self) -> Watch<'_> {
        Watch {
            interrupt: self.watch.interrupt,
            progress: &self.display,
        }
    }

    /// Asks the local sources for all entries. Returns what is not here, by content.
    fn fetch_here(&self, places: &mut Places, folder: &mut Folder) -> Vec<Pending> {
        self.display.phase("looking on this machine,");
        let mut pending = Vec::new();
        for group in &self.plan.groups {
            if self.watch.interrupted() {
                break;
            }
            places.brought = None;
            let mut missing: Pending = Vec::new();
            for &number in group {
                missing.extend(self.fetch_one_here(number, places, folder));
            }
            // One that comes later may have been there, or have another name.
            if places.brought.is_some() {
                missing = missing
                    .iter()
                    .filter_map(|missing| self.fetch_one_here(missing.number, places, folder))
                    .collect();
            }
            missing.sort_by_key(|missing| missing.error.is_some());
            match missing.first() {
                Some(Missing { error: None, .. }) => pending.push(missing),
                _ => {
                    for Missing { number, error, .. } in missing {
                        self.settle(number, error.map_or(Fate::NotDone, failed));
                    }
                }
            }
        }
        places.brought = None;
        pending
    }

    /// Returns what is left to do of it, if something is.
    fn fetch_one_here(
        &self,
        number: usize,
        places: &mut Places,
        folder: &mut Folder,
    ) -> Option<Missing> {
        let entry = &self.plan.entries[number];
        if let Err(error) = folder.make_way(&entry.path, places) {
            self.settle(number, failed(error));
            return None;
        }
        let request = entry.request(self.common);
        let ears = Ears::new(self.voice, &self.said);
        self.display.begins(number, &printable(&entry.path));
        let here = if self.policy.offline {
            let report = fetch::run(&request, places, self.policy, &ears, self.watch());
            Here::Ended(report)
        } else {
            fetch::look_here(&request, places, self.policy, &ears, self.watch())
        };
        self.display.pauses(number);
        let missing = |suspicious, no_room, error| {
            Some(Missing {
                number,
                suspicious,
                no_room,
                error,
            })
        };
        if let Here::Ended(report) = &here {
            self.count(report);
        }
        match here {
            Here::NotHere {
                suspicious,
                no_room,
            } => return missing(suspicious, no_room, None),
            Here::Ended(report) => match report.result {
                Ok(success) => {
                    places.brought = Some(brought(&request, self.common, entry));
                    self.settle(number, came(success, true));
                }
                Err(error) if error.kind == ErrorKind::Interrupted => {}
                Err(error) if error.kind == ErrorKind::Local => self.settle(number, failed(error)),
                Err(error) => {
                    return missing(Vec::new(), None, Some(explained(error, entry)));
                }
            },
        }
        None
    }

    /// Asks the network for what is not here, several at a time.
    fn fetch_there(
        &self,
        pending: Vec<Pending>,
        places: &Places,
        jobs: usize,
    ) -> Result<(), FetchError> {
        self.display.phase("downloading,");
        let at_once = Policy {
            limits: crate::net::Limits {
                retry_budget: Duration::ZERO,
                ..self.policy.limits
            },
            lock: LockPolicy::WaitFor(Duration::ZERO),
            ..self.policy.clone()
        };
        let without_patience = Policy {
            lock: self.policy.lock,
            ..at_once.clone()
        };
        let tasks = pending.into_iter().map(|group| {
            let first = group.first();
            let host = first.and_then(|first| self.plan.entries[first.number].host());
            (group, host)
        });
        let crew = Crew::new(tasks, jobs);
        let work = |places: &mut Places, group: &Pending, patience: Patience| {
            let policy = match patience {
                Patience::Once => &at_once,
                Patience::Full => self.policy,
                Patience::None => &without_patience,
            };
            self.fetch_group(group, places, policy, patience)
        };
        crew.work(self.watch, places.of_network(), work, || {
            self.display.refresh()
        })
        .map_err(|error| FetchError::local(format!("no thread for downloads: {error}")))
    }

    /// Fetches one content to all its outputs.
    fn fetch_group(
        &self,
        group: &Pending,
        places: &mut Places,
        policy: &Policy,
        patience: Patience,
    ) -> Outcome {
        let ears = Ears::new(self.voice, &self.said);
        let mut settled: Vec<(usize, Fate)> = Vec::new();
        let mut network_error: Option<FetchError> = None;
        places.brought = None;
        let is_first = patience == Patience::Once;
        places.archives = match is_first {
            true => Vec::new(),
            false => self.archives.clone(),
        };
        for missing in group {
            let number = missing.number;
            let entry = &self.plan.entries[number];
            let given_up = match places.brought {
                None => missing.error.as_ref().or(network_error.as_ref()),
                Some(_) => None,
            };
            if let Some(error) = given_up {
                settled.push((number, failed(error.clone())));
                continue;
            }
            let request = entry.request(self.common);
            if request.git.is_some() {
                places.open_elsewhere();
            }
            self.display.begins(number, &printable(&entry.path));
            let report = fetch::run(&request, places, policy, &ears, self.watch());
            self.display.pauses(number);
            self.count(&report);
            match report.result {
                Ok(success) => {
                    places.brought = Some(brought(&request, self.common, entry));
                    settled.push((number, came(success, false)));
                }
                Err(error) if error.kind == ErrorKind::Interrupted => break,
                Err(error) => {
                    let may_pass = matches!(error.kind, ErrorKind::Network | ErrorKind::Held)
                        || !(self.archives.is_empty() || error.kind == ErrorKind::Local);
                    if is_first && may_pass {
                        return Outcome {
                            again: true,
                            trouble: ears.heard_trouble(),
                            delivered: false,
                        };
                    }
                    let error = match &missing.no_room {
                        Some(no_room) => (**no_room).clone(),
                        None => {
                            explained(verdict::with_suspicious(error, &missing.suspicious), entry)
                        }
                    };
                    // Trouble on this machine is that of one output.
                    if error.kind != ErrorKind::Local {
                        network_error = Some(error.clone());
                    }
                    settled.push((number, failed(error)));
                }
            }
        }
        for (number, fate) in settled {
            self.settle(number, fate);
        }
        Outcome {
            again: false,
            trouble: ears.heard_trouble(),
            delivered: places.brought.is_some(),
        }
    }

    /// Finds out which discs would help with what failed.
    fn find_discs(&mut self, places: &Places) -> BTreeMap<String, Vec<usize>> {
        let mut discs: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let Some(mut absent) = AbsentMedia::new(&places.discs) else {
            return discs;
        };
        let fates = self.fates.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (number, fate) in fates.iter_mut().enumerate() {
            let Fate::Failed(error) = fate else { continue };
            if matches!(error.kind, ErrorKind::Local | ErrorKind::Interrupted) {
                continue;
            }
            let request = self.plan.entries[number].request(self.common);
            let Lookup::Elsewhere(mut found) = absent.look_up(&request, self.watch) else {
                continue;
            };
            if self.policy.stale_hash != stale_hash::StaleHash::Ignore {
                found.retain(|disc| !stale_hash::is_suspicious(&request.asked_names, &disc.names));
            }
            for disc in &found {
                discs.entry(disc.advice()).or_default().push(number);
            }
            found.retain(|disc| !error.message.contains(&disc.whereabouts()));
            **error = verdict::with_discs((**error).clone(), &found);
        }
        discs
    }

    /// Says where everything would come from.
    fn look(&self, places: &Places) {
        self.display.phase("looking on this machine,");
        for (number, entry) in self.plan.entries.iter().enumerate() {
            if self.watch.interrupted() {
                return;
            }
            self.display.begins(number, &printable(&entry.path));
            let fate = self.look_for(entry, places);
            self.display.pauses(number);
            self.settle(number, fate);
        }
    }

    fn look_for(&self, entry: &Entry, places: &Places) -> Fate {
        if fs_err::symlink_metadata(self.common.folder.join(&entry.path)).is_ok() {
            return Fate::IsThere;
        }
        let request = entry.request(self.common);
        let from = |kind: SourceKind, location: String| From {
            kind,
            location: location.into(),
        };
        for mut source in source::in_order(places, &request) {
            let Lookup::Found(candidates) = source.look_up(&request, self.watch()) else {
                continue;
            };
            if source.is_network() {
                if self.policy.offline {
                    continue;
                }
                let from = from(source.kind(), source.location());
                return Fate::WouldAsk { from };
            }
            let guarded = self.policy.stale_hash != stale_hash::StaleHash::Ignore;
            let mut candidates = candidates.into_iter();
            let usable = candidates.find(|candidate| {
                let known = source.learn_names(candidate);
                !(guarded && stale_hash::is_suspicious(&request.asked_names, &known))
            });
            if let Some(candidate) = usable {
                let from = from(candidate.kind, candidate.location);
                return Fate::WouldCopy { from };
            }
        }
        let error = FetchError::new(
            ErrorKind::NotFound,
            format!(
                "not found: {}\n  no local source has it, and there is no URL to ask",
                request.wanted()
            ),
        );
        failed(explained(error, entry))
    }

    fn into_report(
        self,
        list: list::List,
        discs: BTreeMap<String, Vec<usize>>,
        trouble: Option<FetchError>,
        took: Duration,
    ) -> Report {
        let fates = self
            .fates
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let done = |fate: &&Fate| !matches!(fate, Fate::NotDone);
        let error = self
            .watch
            .interrupted()
            .then(|| report::interrupted(fates.iter().filter(done).count(), fates.len()));
        let rows = self
            .plan
            .entries
            .iter()
            .zip(fates)
            .map(|(entry, fate)| Row {
                path: entry.path.clone(),
                address: entry.address,
                fate,
            });
        Report {
            folder: self.common.folder.to_owned(),
            rows: rows.collect(),
            refused: list.refused,
            left_out: list.left_out,
            twice: self.plan.twice,
            discs,
            error: error.or(trouble),
            took,
        }
    }
}

fn failed(error: FetchError) -> Fate {
    Fate::Failed(Box::new(error))
}

/// Where what a fetch delivered came from.
fn came(success: Success, is_here: bool) -> Fate {
    let bytes = success.bytes;
    let from = From {
        kind: success.kind,
        location: success.location.into(),
    };
    match success.kind {
        SourceKind::Output => Fate::Present { bytes },
        SourceKind::Ledger => Fate::Local { from, bytes },
        _ if is_here => Fate::Local { from, bytes },
        _ => Fate::Downloaded { from, bytes },
    }
}

fn brought(request: &Request, common: &Common<'_>, entry: &Entry) -> Brought {
    Brought {
        path: common.folder.join(&entry.path),
        names: request.asked_names.clone(),
    }
}

/// Says why nobody could be asked, where that is so.
fn explained(error: FetchError, entry: &Entry) -> FetchError {
    match entry.kind {
        Kind::OnlyHere(reason) if error.kind == ErrorKind::NotFound => FetchError {
            kind: ErrorKind::Usage,
            message: format!("{}\n  {reason}", error.message),
            ..error
        },
        _ => error,
    }
}
