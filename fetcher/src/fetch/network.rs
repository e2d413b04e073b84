//! The network's part of the walk: one process of the user downloads a content, every URL is asked once before any is
//! asked again, and what failed lately comes last.

use std::borrow::Cow;
use std::fs::File;
use std::time::{Duration, Instant};

use store_index::path_text::printable;
use store_index::watch::Unit;

use super::queue::{Entry, Next, Queue, spread};
use super::{Attempted, Walk};
use crate::error::{ErrorKind, FetchError};
use crate::landing::{Landing, NotIt};
use crate::mirror_layout::LAYOUT_FILE;
use crate::net::{PAUSE_OF_OVERLOAD, Retry};
use crate::places::Places;
use crate::report::{AttemptResult, Success};
use crate::source::{self, Candidate, CandidatePlace, SourceKind};
use crate::source_url::SourceUrl;
use crate::staging;
use crate::state::{Claimed, Failures, Holder, Memory, Outcome, State};

/// How often a lock that somebody else holds is tried, and how soon an interrupt ends a pause.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waiting for another process is told after so long: most are done by then.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// And told again after so long, so that a log shows that we live.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A pause that is longer is told.
const TELL_PAUSE_ABOVE: Duration = Duration::from_secs(1);

/// The most other URLs that bring parts of a large file: more than connections may be open.
const MAX_OTHERS: usize = 16;

/// What to do while another process downloads the same content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockPolicy {
    /// Wait for it: it brings what is wanted.
    #[default]
    Wait,
    /// Wait so long; zero is not at all.
    WaitFor(Duration),
}

impl LockPolicy {
    /// Reads `wait` and `fail`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "wait" => Some(Self::Wait),
            "fail" => Some(Self::WaitFor(Duration::ZERO)),
            _ => None,
        }
    }
}

impl Walk<'_> {
    /// Downloads from the URLs that are to be asked.
    pub(super) fn download(
        &mut self,
        places: &Places,
        landing: &mut Landing<'_>,
    ) -> Result<Option<Success>, FetchError> {
        let candidates = std::mem::take(&mut self.urls);
        if candidates.is_empty() {
            return Ok(None);
        }
        let mut patience = Patience {
            tries: self.policy.limits.tries,
            budget: self.policy.limits.retry_budget,
        };
        let done = match self.claim(places, &mut patience, landing)? {
            Some(done) => Some(done),
            None => {
                let done = self.ask_all(candidates, patience, landing)?;
                if done.is_none() {
                    landing.note_failure();
                }
                done
            }
        };
        landing.set_claim(None);
        Ok(done)
    }

    /// Waits for the right to download. Whoever had it before may have brought what is wanted.
    fn claim(
        &mut self,
        places: &Places,
        patience: &mut Patience,
        landing: &mut Landing<'_>,
    ) -> Result<Option<Success>, FetchError> {
        let state = &places.state;
        let mut wait: Option<Wait> = None;
        let claim = loop {
            match state.claim(&self.request.address) {
                Claimed::Ours(claim) => break Some(claim),
                Claimed::Unkept => break None,
                Claimed::Theirs(holder) => wait
                    .get_or_insert_with(|| Wait::new(self))
                    .go_on(self, state, &holder)?,
            }
        };
        if let Some(warning) = state.take_warning() {
            self.listener.warning(&warning);
        }
        if let Some(wait) = &mut wait {
            self.watch.progress.end();
            wait.wanted = None;
        }
        if let (Some(wait), Some(claim)) = (&wait, &claim)
            && claim.is_after_failure()
        {
            // Those who wait would else fail one after the other, each with all tries and pauses.
            patience.tries = 1;
            patience.budget = patience.budget.saturating_sub(wait.started.elapsed());
        }
        // It may have been brought since the ledger was asked, whether that was waited for or not.
        if claim.is_some()
            && self.has_news(state)
            && let Some(mut ledger) = source::ledger(places)
            && let Some(done) = self.ask(&mut ledger, landing)?
        {
            return Ok(Some(done));
        }
        // Or gone into the store from a place of its own, as what is prefetched does.
        if wait.is_some() {
            for mut store in source::exact_names(places) {
                if let Some(done) = self.ask(store.as_mut(), landing)? {
                    return Ok(Some(done));
                }
            }
        }
        landing.set_claim(claim);
        Ok(None)
    }

    /// Returns true if the ledger names a place that was not looked at.
    fn has_news(&self, state: &State) -> bool {
        let deliveries = state.deliveries(&self.request.address);
        deliveries.iter().any(|delivery| {
            let location = printable(&delivery.path);
            let mut suspicious = self.suspicious.iter();
            !self.tried.contains(&delivery.path)
                && !suspicious.any(|candidate| candidate.location == location)
        })
    }

    fn ask_all(
        &mut self,
        mut candidates: Vec<Candidate>,
        mut patience: Patience,
        landing: &mut Landing<'_>,
    ) -> Result<Option<Success>, FetchError> {
        if candidates.len() > 1 {
            let failures = self.state.failures();
            candidates.sort_by_key(|candidate| {
                url_of(candidate).is_some_and(|url| failures.is_bad(&url, &self.request.address))
            });
        }
        // An archive learns the hash by being asked: that comes when everybody else has had all tries.
        let is_archive = |candidate: &Candidate| candidate.kind == SourceKind::Archive;
        let (archives, candidates) = candidates.into_iter().partition(is_archive);
        match self.ask_some(candidates, &mut patience, landing)? {
            Some(done) => Ok(Some(done)),
            None => self.ask_some(archives, &mut patience, landing),
        }
    }

    fn ask_some(
        &mut self,
        candidates: Vec<Candidate>,
        patience: &mut Patience,
        landing: &mut Landing<'_>,
    ) -> Result<Option<Success>, FetchError> {
        let (tries, budget) = (patience.tries, patience.budget);
        let mut queue = Queue::new(candidates, tries, budget, Instant::now());
        loop {
            patience.budget = queue.budget();
            match queue.next(Instant::now()) {
                Next::Over => return Ok(None),
                Next::Wait(pause, location) => self.pause(pause, &location)?,
                Next::TooLate(entry, pause) => {
                    self.give_up(&entry, pause, queue.budget());
                }
                Next::Ask(mut entry) => {
                    // Another process may have been asked for a pause meanwhile.
                    let failures = self.state.failures();
                    if let Some(pause) = pause_of_host(&failures, &entry.candidate)
                        && !may_be_asked_at_once(&entry, pause, patience.budget)
                    {
                        queue.put_off(entry, spread(pause, chance()), Instant::now());
                        continue;
                    }
                    entry.tries += 1;
                    let address = &self.request.address;
                    let memory = Memory::new(failures.clone(), self.state.path(), address);
                    landing.set_memory(memory);
                    let others = self.others(&entry.candidate, &queue, &failures);
                    landing.set_others(others);
                    if let CandidatePlace::MirrorOf(mirror) = &entry.candidate.place
                        && let Some(candidates) = self.learn_layout(mirror, &entry, landing)?
                    {
                        queue.instead_of(&entry, candidates, Instant::now());
                        continue;
                    }
                    let not_it = match self.attempt(&entry.candidate, entry.tries, landing)? {
                        Attempted::Delivered(done) => {
                            self.remember(&failures, &entry.candidate, &Outcome::Good);
                            return Ok(Some(done));
                        }
                        Attempted::NotIt(not_it) => not_it,
                    };
                    let outcome = outcome(&entry, &not_it);
                    self.remember(&failures, &entry.candidate, &outcome);
                    if let Some(retry) = not_it.retry {
                        queue.again(entry, retry, Instant::now(), chance());
                    }
                }
            }
        }
    }

    /// Returns the URLs that may have parts of what a candidate brings, in the order in which they would be asked. A hash
    /// that can be forged would let one of them choose what fits to what the others bring.
    fn others(&self, candidate: &Candidate, queue: &Queue, failures: &Failures) -> Vec<SourceUrl> {
        let CandidatePlace::Url(own) = &candidate.place else {
            return Vec::new();
        };
        if self.request.address.algorithm().is_weak() {
            return Vec::new();
        }
        let mut others: Vec<SourceUrl> = Vec::new();
        for other in queue.others(Instant::now()) {
            let CandidatePlace::Url(url) = &other.place else {
                continue;
            };
            let is_one_of_us = match other.kind {
                // It has the content in one of its layouts, which is the one that answers.
                SourceKind::HashedMirror => url.host() != own.host(),
                SourceKind::Url => url != own,
                // Asked when nobody else has it.
                _ => false,
            };
            if is_one_of_us
                && url.is_http()
                && !others.contains(url)
                && !failures.is_bad(url, &self.request.address)
                && others.len() < MAX_OTHERS
            {
                others.push(url.clone());
            }
        }
        others
    }

    /// Asks a mirror how it names files. `None` if it could not be asked, which is told as any other failure.
    fn learn_layout(
        &mut self,
        mirror: &SourceUrl,
        entry: &Entry,
        landing: &mut Landing<'_>,
    ) -> Result<Option<Vec<Candidate>>, FetchError> {
        let started = Instant::now();
        let location = entry.candidate.location.clone();
        let Some(layout) = landing.layout_of(mirror)? else {
            return Ok(None);
        };
        self.network.asked = true;
        let kind = SourceKind::HashedMirror;
        if !layout.is_told {
            let reason = Some("the mirror is taken for a flat one".to_owned());
            self.record(kind, location, AttemptResult::Absent, reason, 0, started);
        }
        let candidate = |url: SourceUrl| Candidate {
            location: url.to_string(),
            place: CandidatePlace::Url(url),
            ..entry.candidate.clone()
        };
        let urls = layout.urls(mirror, self.request);
        self.layouts.learn(mirror, layout);
        let candidates = urls.into_iter().map(candidate);
        let asked = candidates.filter_map(|candidate| self.by_rules(candidate, started));
        Ok(Some(asked.collect()))
    }

    /// Waits, unless the user does not want to any more.
    fn pause(&self, pause: Duration, location: &str) -> Result<(), FetchError> {
        if pause > TELL_PAUSE_ABOVE {
            let seconds = pause.as_secs_f64().ceil();
            self.watch
                .progress
                .note(&format!("waiting {seconds} s before {location} is asked"));
        }
        let started = Instant::now();
        loop {
            if self.watch.interrupted() {
                return Err(FetchError::interrupted());
            }
            let left = pause.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(POLL_INTERVAL));
        }
    }

    /// Says why a URL is not asked any more. One that was not asked at all is trouble.
    fn give_up(&mut self, entry: &Entry, pause: Duration, budget: Duration) {
        let Candidate { kind, location, .. } = &entry.candidate;
        let (pause, left) = (pause.as_secs_f64().ceil(), budget.as_secs_f64().ceil());
        let allowed = format!("and {left} s are left for waiting (--retry-budget)");
        if entry.tries == 0 {
            let reason = format!("its host is to be left alone for {pause} s, {allowed}");
            self.network.asked = true;
            self.network.trouble = Some(format!("{location}: {reason}"));
            self.network.advice = None;
            let unavailable = AttemptResult::Unavailable;
            let now = Instant::now();
            self.record(*kind, location.clone(), unavailable, Some(reason), 0, now);
        } else if !self.policy.limits.retry_budget.is_zero() {
            self.watch.progress.note(&format!(
                "{location} is not asked again: that would be in {pause} s, {allowed}"
            ));
        }
    }

    fn remember(&self, failures: &Failures, candidate: &Candidate, outcome: &Outcome<'_>) {
        if let Some(url) = url_of(candidate) {
            self.state
                .remember(failures, &url, &self.request.address, outcome);
        }
    }

    fn held(&self, holder: &Holder) -> FetchError {
        FetchError::new(
            ErrorKind::Held,
            format!(
                "{} downloads the same content, {}",
                holder.describe(),
                self.request.wanted()
            ),
        )
        .with_hint("run this again when it is done, or wait for it with --lock wait")
    }
}

/// How long is tried.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// How often a URL is asked.
    tries: u32,
    /// What is left of the time for pauses.
    budget: Duration,
}

/// Waiting for another process.
struct Wait {
    started: Instant,
    /// When it is told next.
    tell_at: Duration,
    shown_bytes: u64,
    /// Says that we wait.
    wanted: Option<File>,
}

impl Wait {
    fn new(walk: &Walk<'_>) -> Self {
        let what = "waiting for another process that downloads the same content";
        walk.watch.progress.begin(what, None, Unit::Bytes);
        Self {
            started: Instant::now(),
            tell_at: TELL_AFTER,
            shown_bytes: 0,
            wanted: None,
        }
    }

    /// Returns true when it is time to say that we wait.
    fn is_to_be_told(&mut self, waited: Duration) -> bool {
        let is_time = waited >= self.tell_at;
        if is_time {
            self.tell_at = waited + TELL_AGAIN_AFTER;
        }
        is_time
    }

    /// Waits a moment.
    fn go_on(&mut self, walk: &Walk<'_>, state: &State, holder: &Holder) -> Result<(), FetchError> {
        let waited = self.started.elapsed();
        if let LockPolicy::WaitFor(limit) = walk.policy.lock
            && waited >= limit
        {
            walk.watch.progress.end();
            return Err(walk.held(holder));
        }
        if walk.watch.interrupted() {
            return Err(FetchError::interrupted());
        }
        if self.wanted.is_none() {
            self.wanted = state.want(&walk.request.address);
        }
        let bytes = state.so_far(&walk.request.address).unwrap_or_default();
        if self.is_to_be_told(waited) {
            let so_far = store_index::terminal::amount(bytes, None, Unit::Bytes);
            walk.watch.progress.note(&format!(
                "waiting for {}, which downloads the same content, {so_far} so far",
                holder.describe()
            ));
        }
        // Whoever takes over may begin again.
        walk.watch
            .progress
            .advance(bytes.saturating_sub(self.shown_bytes));
        self.shown_bytes = self.shown_bytes.max(bytes);
        std::thread::sleep(POLL_INTERVAL);
        Ok(())
    }
}

fn url_of(candidate: &Candidate) -> Option<Cow<'_, SourceUrl>> {
    match &candidate.place {
        CandidatePlace::Url(url) => Some(Cow::Borrowed(url)),
        CandidatePlace::Clone(clone) => Some(Cow::Borrowed(&clone.source.url)),
        CandidatePlace::MirrorOf(mirror) => mirror.join(LAYOUT_FILE).map(Cow::Owned),
        _ => None,
    }
}

fn pause_of_host(failures: &Failures, candidate: &Candidate) -> Option<Duration> {
    failures.pause(&*url_of(candidate)?)
}

/// What is remembered of an attempt that did not bring the content. A URL's failures count once a fetch.
fn outcome<'a>(entry: &Entry, not_it: &'a NotIt) -> Outcome<'a> {
    match not_it.result {
        // It may have another file tomorrow, and misses are the rule there.
        AttemptResult::Absent
            if matches!(
                entry.candidate.kind,
                SourceKind::HashedMirror | SourceKind::Archive
            ) =>
        {
            Outcome::Failed {
                counts: false,
                of_host: false,
                redirected_to: None,
                pause: None,
            }
        }
        AttemptResult::Absent | AttemptResult::Mismatch => Outcome::Useless,
        _ => Outcome::Failed {
            counts: entry.tries == 1,
            of_host: not_it.of_host,
            redirected_to: not_it.redirected_to.as_deref(),
            pause: not_it.retry.and_then(Retry::pause_for_all),
        },
    }
}

/// A short pause for which there is no time keeps no URL from being asked once.
fn may_be_asked_at_once(entry: &Entry, pause: Duration, budget: Duration) -> bool {
    entry.tries == 0 && pause > budget && pause <= PAUSE_OF_OVERLOAD
}

/// A number between 0 and 1.
fn chance() -> f64 {
    // 32 bits are exact in a float.
    f64::from((staging::random() >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a build's log each minute has its line.
    #[test]
    fn waiting_is_told_every_minute() {
        let mut wait = Wait {
            started: Instant::now(),
            tell_at: TELL_AFTER,
            shown_bytes: 0,
            wanted: None,
        };
        let polls = (0..12_000).map(|poll| POLL_INTERVAL * poll);
        let told: Vec<u64> = polls
            .filter(|&waited| wait.is_to_be_told(waited))
            .map(|waited| waited.as_secs())
            .collect();
        assert_eq!(told, [1, 61, 121, 181, 241, 301, 361, 421, 481, 541]);
    }
}
