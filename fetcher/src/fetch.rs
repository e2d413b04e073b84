//! The walk: ask the sources in order, let a candidate land, verify, publish; on a mismatch the next candidate.

mod network;
mod queue;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use store_index::beneath::Reach;
use store_index::path_text::printable;
use store_index::watch::{Unit, Watch};

pub use self::network::LockPolicy;
use crate::download::SharedClient;
use crate::error::FetchError;
use crate::landing::{self, Landed, Landing, NotIt};
use crate::mirror_layout::Layouts;
use crate::net::{Access, Limits};
use crate::output::{self, Found};
use crate::places::{DEFAULT_STORES, Places};
use crate::report::{Attempt, AttemptResult, Listener, Report, Success};
use crate::request::{GitSource, Request, Target};
use crate::source::{
    self, Candidate, CandidatePlace, CloneOf, Disc, KnownNames, Lookup, Source, SourceKind,
};
use crate::staging::Place;
use crate::stale_hash::{self, StaleHash};
use crate::state::{CopyBounds, NewCopy, State};
use crate::verdict::{self, NetworkSummary, WrongBody};

/// After this many wrong candidates an index is left out for the run: it is stale or lies.
const MAX_WRONG_CANDIDATES: usize = 3;

/// How a fetch is to be done, apart from what is wanted.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Open no socket.
    pub offline: bool,
    /// Replace what stands at the output.
    pub force: bool,
    /// What to do about names of other versions.
    pub stale_hash: StaleHash,
    /// Bounds of downloads.
    pub limits: Limits,
    /// What to do while another process downloads the same content.
    pub lock: LockPolicy,
    /// If nothing is right, leave the first wrong body of the request's own URLs at the output that a daemon gave us.
    pub leave_wrong: bool,
    /// The network stack, which several fetches may share.
    pub client: SharedClient,
    /// Many are fetched into the same folders: those have been swept and are no store's, and room is made for what is
    /// found only.
    pub of_many: bool,
    /// Ask servers whose certificates are not in order too, if the hash is a strong one and nothing secret is told.
    pub trust_anybody: bool,
    /// Which URLs may be asked, and with which passwords.
    pub access: Arc<Access>,
    /// Keep complete wrong bodies in this folder.
    pub keep_wrong: Option<PathBuf>,
    /// Keep copies of what was downloaded, within these bounds.
    pub keep_copies: Option<CopyBounds>,
    /// The file to which is added what was done.
    pub metrics: Option<PathBuf>,
}

/// Fetches.
pub fn run<'a>(
    request: &'a Request,
    places: &'a Places,
    policy: &'a Policy,
    listener: &'a dyn Listener,
    watch: Watch<'a>,
) -> Report {
    let started = Instant::now();
    let mut walk = Walk::new(request, places, policy, listener, watch);
    let result = walk.run(places);
    walk.report(result, started)
}

/// What the first half of a walk came to.
#[derive(Debug)]
pub(crate) enum Here {
    /// The walk is over, one way or the other.
    Ended(Report),
    /// The network is to be asked.
    NotHere {
        /// The local places that the guard passed over.
        suspicious: Vec<String>,
        /// What was here and may have been it, had no room.
        no_room: Option<Box<FetchError>>,
    },
}

/// Asks the local sources alone, where those of many requests are asked before any socket is opened.
pub(crate) fn look_here<'a>(
    request: &'a Request,
    places: &'a Places,
    policy: &'a Policy,
    listener: &'a dyn Listener,
    watch: Watch<'a>,
) -> Here {
    let started = Instant::now();
    let mut walk = Walk::new(request, places, policy, listener, watch);
    let result = walk.begin(places).and_then(|begun| match begun {
        Begun::Done(done) => Ok(Some(done)),
        Begun::Landing(mut landing) => walk.ask_here(places, &mut landing),
    });
    match result.transpose() {
        Some(result) => Here::Ended(walk.report(result, started)),
        None => Here::NotHere {
            suspicious: walk.suspicious_locations(),
            no_room: walk.network.no_room.take(),
        },
    }
}

/// How a walk begins.
enum Begun<'a> {
    /// The right content stands at the output.
    Done(Success),
    /// There is room for candidates.
    Landing(Box<Landing<'a>>),
}

/// What became of a candidate.
enum Attempted {
    Delivered(Success),
    NotIt(NotIt),
}

struct Walk<'a> {
    request: &'a Request,
    policy: &'a Policy,
    listener: &'a dyn Listener,
    watch: Watch<'a>,
    attempts: Vec<Attempt>,
    /// Local places that were tried, since several sources may lead to one.
    tried: HashSet<PathBuf>,
    /// Candidates that the guard passed over.
    suspicious: Vec<Candidate>,
    /// Media that are not here and have the content.
    discs: Vec<Disc>,
    /// What is to be downloaded, once all network sources have named theirs.
    urls: Vec<Candidate>,
    state: &'a State,
    layouts: &'a Layouts,
    network: NetworkSummary,
    /// Whence the content came that was left to the daemon.
    left: Option<String>,
}

impl<'a> Walk<'a> {
    fn new(
        request: &'a Request,
        places: &'a Places,
        policy: &'a Policy,
        listener: &'a dyn Listener,
        watch: Watch<'a>,
    ) -> Self {
        Self {
            request,
            policy,
            listener,
            watch,
            attempts: Vec::new(),
            tried: HashSet::new(),
            suspicious: Vec::new(),
            discs: Vec::new(),
            urls: Vec::new(),
            state: &places.state,
            layouts: &places.layouts,
            network: NetworkSummary::default(),
            left: None,
        }
    }

    fn report(self, result: Result<Success, FetchError>, started: Instant) -> Report {
        Report {
            attempts: self.attempts,
            result,
            left: self.left,
            added: None,
            took: started.elapsed(),
        }
    }

    /// Looks at the output, and makes room beside it.
    fn begin(&mut self, places: &Places) -> Result<Begun<'a>, FetchError> {
        let place = match &self.request.target {
            Target::Stdout => None,
            Target::Given(path) => Some(
                Place::open_given(path)
                    .map_err(|error| landing::folder_error(self.request, &error))?,
            ),
            Target::Path(path) => {
                let place = Place::open(path)
                    .map_err(|error| landing::folder_error(self.request, &error))?;
                if !self.policy.of_many {
                    refuse_store(path.parent().unwrap_or(path), places)?;
                }
                if let Some(done) = self.output_already_there(&place)? {
                    return Ok(Begun::Done(done));
                }
                Some(place)
            }
        };
        let landing = Landing::prepare(self.request, place, self.policy, self.watch)?;
        Ok(Begun::Landing(Box::new(landing)))
    }

    /// Asks the sources before the first of the network; `None` if they do not have it, and there is one.
    fn ask_here(
        &mut self,
        places: &Places,
        landing: &mut Landing<'_>,
    ) -> Result<Option<Success>, FetchError> {
        for mut source in source::in_order(places, self.request) {
            if source.is_network() {
                return Ok(None);
            }
            if let Some(done) = self.ask(source.as_mut(), landing)? {
                return Ok(Some(done));
            }
        }
        self.no_room_for_any()?;
        Err(self.nothing_delivered())
    }

    /// Fails if there was no room for something that may have been it.
    fn no_room_for_any(&mut self) -> Result<(), FetchError> {
        self.network
            .no_room
            .take()
            .map_or(Ok(()), |error| Err(*error))
    }

    fn run(&mut self, places: &Places) -> Result<Success, FetchError> {
        let mut landing = match self.begin(places)? {
            Begun::Done(done) => return Ok(done),
            Begun::Landing(landing) => landing,
        };
        for mut source in source::in_order(places, self.request) {
            if source.is_network() && self.policy.offline {
                let reason = Some("the network is off (--offline)".to_owned());
                let (kind, location) = (source.kind(), source.location());
                self.record(
                    kind,
                    location,
                    AttemptResult::Skipped,
                    reason,
                    0,
                    Instant::now(),
                );
                continue;
            }
            if !source.is_network()
                && let Some(done) = self.download(places, &mut landing)?
            {
                return Ok(done);
            }
            if let Some(done) = self.ask(source.as_mut(), &mut landing)? {
                return Ok(done);
            }
        }
        if let Some(done) = self.download(places, &mut landing)? {
            return Ok(done);
        }
        if let Some(done) = self.use_suspicious_offline(&mut landing)? {
            return Ok(done);
        }
        self.left = landing.leave_wrong()?;
        self.no_room_for_any()?;
        Err(self.nothing_delivered())
    }

    fn suspicious_locations(&self) -> Vec<String> {
        let candidates = self.suspicious.iter();
        candidates
            .map(|candidate| candidate.location.clone())
            .collect()
    }

    fn nothing_delivered(&self) -> FetchError {
        let (mut suspicious, mut discs) = (self.suspicious_locations(), &self.discs[..]);
        if matches!(self.request.target, Target::Given(_)) {
            // A build's log is read by those who may not know what is on this machine.
            suspicious.clear();
            discs = &[];
        }
        verdict::nothing_delivered(
            self.request,
            self.policy.offline,
            &self.network,
            &suspicious,
            discs,
        )
    }

    fn output_already_there(&mut self, place: &Place) -> Result<Option<Success>, FetchError> {
        let started = Instant::now();
        let location = printable(&place.path);
        let taken =
            |what| FetchError::local(format!("the output {location} is already there: {what}"));
        match output::examine(self.request, place, self.watch)? {
            Found::Nothing => Ok(None),
            Found::Right(verified) => {
                let (kind, bytes, executable) =
                    (SourceKind::Output, verified.bytes(), verified.executable());
                Ok(Some(self.delivered(
                    kind,
                    location,
                    (bytes, executable),
                    None,
                    started,
                )))
            }
            Found::Wrong(_) if self.policy.force => Ok(None),
            Found::Wrong(what) => Err(taken(what)
                .with_hint("remove it, choose another path with -o, or replace it with --force")),
            Found::Irreplaceable(what) => Err(taken(what).with_hint(
                "remove it or choose another path with -o; --force replaces files and symbolic links only",
            )),
        }
    }

    /// Remembers which media would have helped, but for those that have it under the name of another version.
    fn note_discs(&mut self, kind: SourceKind, discs: Vec<Disc>, started: Instant) {
        for disc in discs {
            let reason = Some(disc.whereabouts());
            let unavailable = AttemptResult::Unavailable;
            self.record(kind, disc.label.clone(), unavailable, reason, 0, started);
            let guarded = self.policy.stale_hash != StaleHash::Ignore;
            if !(guarded && stale_hash::is_suspicious(&self.request.asked_names, &disc.names)) {
                self.discs.push(disc);
            }
        }
    }

    /// Asks one source and tries what it names.
    fn ask(
        &mut self,
        source: &mut dyn Source,
        landing: &mut Landing<'_>,
    ) -> Result<Option<Success>, FetchError> {
        let started = Instant::now();
        let lookup = source.look_up(self.request, self.watch);
        if self.watch.interrupted() {
            return Err(FetchError::interrupted());
        }
        let (result, reason) = match lookup {
            Lookup::Found(candidates) if source.is_network() => {
                for candidate in candidates {
                    let asked = self.by_rules(candidate, started);
                    self.urls.extend(asked);
                }
                return Ok(None);
            }
            Lookup::Found(candidates) => return self.try_all(source, candidates, landing),
            Lookup::Absent(reason) => (AttemptResult::Absent, reason),
            Lookup::Elsewhere(discs) => {
                self.note_discs(source.kind(), discs, started);
                return Ok(None);
            }
            Lookup::Unavailable(reason) => (AttemptResult::Unavailable, Some(reason)),
            Lookup::Skipped(reason) => {
                self.listener
                    .warning(&format!("{} is skipped: {reason}", source.location()));
                (AttemptResult::Skipped, Some(reason))
            }
        };
        let named = |git: &GitSource| git.url.to_string() == source.location();
        if let (true, Some(reason)) = (self.request.git.as_ref().is_some_and(named), &reason) {
            self.network.lacking = Some(format!("{}: {reason}", source.location()));
        }
        self.record(source.kind(), source.location(), result, reason, 0, started);
        Ok(None)
    }

    /// Returns what is asked for a candidate by the rules of the configuration, if anything is.
    fn by_rules(&mut self, mut candidate: Candidate, started: Instant) -> Option<Candidate> {
        let (CandidatePlace::Url(url)
        | CandidatePlace::MirrorOf(url)
        | CandidatePlace::Clone(CloneOf {
            source: GitSource { url, .. },
            ..
        })) = &candidate.place
        else {
            return Some(candidate);
        };
        match self.policy.access.rules.apply(url) {
            Ok(asked) => {
                // What is kept of a repository goes by the URL that was named; it is rewritten where it is fetched.
                if let CandidatePlace::Url(url) = &mut candidate.place
                    && *url != asked
                {
                    candidate.location = asked.to_string();
                    *url = asked;
                }
                Some(candidate)
            }
            Err(blocked) => {
                let reason = blocked.to_string();
                let Candidate { kind, location, .. } = candidate;
                self.listener
                    .warning(&format!("{location} is not asked: {reason}"));
                self.network.blocked = Some(format!("{location}: {reason}"));
                let skipped = AttemptResult::Skipped;
                self.record(kind, location, skipped, Some(reason), 0, started);
                None
            }
        }
    }

    fn try_all(
        &mut self,
        source: &mut dyn Source,
        candidates: Vec<Candidate>,
        landing: &mut Landing<'_>,
    ) -> Result<Option<Success>, FetchError> {
        // For each index by itself, and for what the source found without one.
        let mut wrong: HashMap<Option<usize>, usize> = HashMap::new();
        for candidate in candidates {
            if wrong
                .get(&candidate.index)
                .is_some_and(|&wrong| wrong >= MAX_WRONG_CANDIDATES)
            {
                continue;
            }
            if let CandidatePlace::Local { root, path, .. }
            | CandidatePlace::Tree { root, path, .. } = &candidate.place
                && !self.tried.insert(root.path().join(path))
            {
                continue;
            }
            if self.is_out_of_reach(&candidate) || self.pass_over(source, &candidate) {
                continue;
            }
            let not_it = match self.attempt(&candidate, 1, landing)? {
                Attempted::Delivered(done) => {
                    source.judged(self.request, &candidate, true);
                    return Ok(Some(done));
                }
                Attempted::NotIt(not_it) => not_it,
            };
            if not_it.result == AttemptResult::Mismatch {
                if let Some(warning) = source.judged(self.request, &candidate, false) {
                    self.listener.warning(&warning);
                }
                let wrong = wrong.entry(candidate.index).or_default();
                *wrong += 1;
                if *wrong == MAX_WRONG_CANDIDATES {
                    self.listener.warning(&format!(
                        "{} named {wrong} places with other content and is left out: is its index out of date?",
                        source.location()
                    ));
                }
            }
        }
        Ok(None)
    }

    /// What a daemon's clients may not read is not even there for them: the guard, which speaks of what it passes over
    /// before anything is opened, must not tell them otherwise.
    fn is_out_of_reach(&self, candidate: &Candidate) -> bool {
        match &candidate.place {
            CandidatePlace::Local { root, path, .. } | CandidatePlace::Tree { root, path, .. } => {
                root.reach() == Reach::Public && root.open_node_or_root(path).is_err()
            }
            _ => false,
        }
    }

    /// The stale-hash guard: true if the candidate is not to be used now.
    fn pass_over(&mut self, source: &mut dyn Source, candidate: &Candidate) -> bool {
        let guarded = !matches!(candidate.names, KnownNames::NotGuarded)
            && self.policy.stale_hash != StaleHash::Ignore
            && self
                .request
                .asked_names
                .iter()
                .any(|name| stale_hash::has_version(name));
        if !guarded {
            return false;
        }
        let started = Instant::now();
        let known = source.learn_names(candidate);
        if !stale_hash::is_suspicious(&self.request.asked_names, &known) {
            return false;
        }
        let list = |names: &[String]| names.join(", ").escape_debug().to_string();
        let reason = format!(
            "known as {}, asked for as {}",
            list(&known),
            list(&self.request.asked_names)
        );
        let location = candidate.location.clone();
        self.listener.warning(&format!(
            "{location} is said to have the wanted hash, but is {reason}: is the hash stale?"
        ));
        self.record(
            candidate.kind,
            location,
            AttemptResult::Suspicious,
            Some(reason),
            0,
            started,
        );
        self.suspicious.push(candidate.clone());
        true
    }

    /// Without a network nobody else can decide.
    fn use_suspicious_offline(
        &mut self,
        landing: &mut Landing<'_>,
    ) -> Result<Option<Success>, FetchError> {
        if !self.policy.offline || self.policy.stale_hash != StaleHash::Auto {
            return Ok(None);
        }
        for candidate in self.suspicious.clone() {
            self.listener.loud_warning(&format!(
                "using {} although its version is not the one asked for: is the hash stale? (--stale-hash refuse prevents this)",
                candidate.location
            ));
            if let Attempted::Delivered(done) = self.attempt(&candidate, 1, landing)? {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }

    /// Lets one candidate land, for the first or another time, and records what became of it.
    fn attempt(
        &mut self,
        candidate: &Candidate,
        tries: u32,
        landing: &mut Landing<'_>,
    ) -> Result<Attempted, FetchError> {
        let started = Instant::now();
        // A repository that was named by its URL counts as one even if it is on this machine.
        let is_url = matches!(
            candidate.place,
            CandidatePlace::Url(_) | CandidatePlace::MirrorOf(_)
        );
        let is_remote = is_url || candidate.kind == SourceKind::Git;
        self.network.asked |= is_remote;
        let (kind, location) = (candidate.kind, candidate.location.clone());
        self.listener.trying(candidate);
        match landing.land(candidate)? {
            Landed::Delivered { bytes, executable } => {
                if is_remote || kind == SourceKind::Ledger {
                    self.note_delivery(is_remote.then_some(bytes));
                }
                let remark = landing.take_remark();
                let done = self.delivered(kind, location, (bytes, executable), remark, started);
                Ok(Attempted::Delivered(done))
            }
            Landed::NotIt(mut not_it) => {
                self.network.no_room = not_it.no_room.take().or(self.network.no_room.take());
                match not_it.result {
                    AttemptResult::Mismatch if is_remote => {
                        let wrong = WrongBody {
                            location: location.clone(),
                            got: not_it.got,
                            bytes: not_it.bytes,
                            seems: not_it.seems.clone(),
                            kept: not_it.kept.clone(),
                        };
                        self.network.wrong.get_or_insert(wrong);
                    }
                    AttemptResult::Absent if kind == SourceKind::Git => {
                        self.network.lacking = Some(format!("{location}: {}", not_it.reason));
                    }
                    AttemptResult::Failed if is_remote => {
                        self.network.trouble = Some(format!("{location}: {}", not_it.reason));
                        self.network.advice = not_it.advice;
                    }
                    _ => {}
                }
                let reason = match tries {
                    1 => not_it.reason.clone(),
                    _ => format!("try {tries}: {}", not_it.reason),
                };
                self.record(
                    kind,
                    location,
                    not_it.result,
                    Some(reason),
                    not_it.bytes,
                    started,
                );
                Ok(Attempted::NotIt(not_it))
            }
        }
    }

    /// Remembers where the content lies now, for whoever wants it next, and keeps a copy of what was downloaded if
    /// that is wanted. `downloaded` is its size in bytes, if it was.
    fn note_delivery(&self, downloaded: Option<u64>) {
        let Target::Path(path) = &self.request.target else {
            return;
        };
        let mut names = self.request.asked_names.clone();
        if names.is_empty() {
            names.extend(self.request.name.clone());
        }
        self.state.delivered(&self.request.address, path, &names);
        let (Some(bounds), Some(bytes)) = (&self.policy.keep_copies, downloaded) else {
            return;
        };
        let copy = NewCopy {
            request: self.request,
            output: path,
            names: &names,
            bytes,
            reserve: self.policy.limits.disk_reserve,
        };
        let what = format!("keeping a copy of {}", printable(path));
        self.watch.progress.begin(&what, None, Unit::Bytes);
        let kept = self.state.keep_copy(&copy, bounds, self.watch);
        self.watch.progress.end();
        match kept {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let warning = format!("no copy of {} is kept: {error}", printable(path));
                self.listener.warning(&warning);
            }
            _ => {}
        }
    }

    fn delivered(
        &mut self,
        kind: SourceKind,
        location: String,
        (bytes, executable): (u64, bool),
        remark: Option<String>,
        started: Instant,
    ) -> Success {
        self.record(
            kind,
            location.clone(),
            AttemptResult::Ok,
            remark,
            bytes,
            started,
        );
        Success {
            kind,
            location,
            bytes,
            executable,
        }
    }

    fn record(
        &mut self,
        kind: SourceKind,
        location: String,
        result: AttemptResult,
        reason: Option<String>,
        bytes: u64,
        started: Instant,
    ) {
        let attempt = Attempt {
            kind,
            location,
            result,
            reason,
            bytes,
            took: started.elapsed(),
        };
        self.listener.attempt(&attempt);
        self.attempts.push(attempt);
    }
}

/// Only a daemon writes into a store: whatever else appears there is taken for damage, or collected.
/// `folder` is that of an output.
pub(crate) fn refuse_store(folder: &Path, places: &Places) -> Result<(), FetchError> {
    let Ok(folder) = fs_err::canonicalize(folder) else {
        return Ok(());
    };
    let asked = places.stores.iter().map(|store| store.root.path());
    let stores = asked.chain(DEFAULT_STORES.map(Path::new));
    for store in stores.filter_map(|store| fs_err::canonicalize(store).ok()) {
        if folder.starts_with(&store) {
            let store = printable(&store);
            return Err(FetchError::local(format!(
                "the output lies in the store {store}, which only its daemon may write"
            ))
            .with_hint("choose another path with -o"));
        }
    }
    Ok(())
}
