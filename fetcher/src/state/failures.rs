//! What failed lately: counts a host and a URL with the content it was asked for, for all processes of the user.
//!
//! A count decides only over the order: past a threshold a URL is asked after the others. Counts decay, so that nothing
//! is given up for ever after one bad day, and a success halves its host's and forgets its URL's. A pause that a server
//! asked for (`Retry-After`) is different: it is kept, by every process, but no longer than [`MAX_PAUSE`], so that no
//! server can lock us out. What would be waited for longer than the fetch's budget is said to be, and not asked.

use std::collections::BTreeMap;
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, OFlags};
use serde::{Deserialize, Serialize};
use store_index::address::ContentAddress;
use store_index::digest::{Digest, sha256};

use super::{State, key, lock_record, open_file, read_record, read_record_whole};
use crate::source_url::SourceUrl;

/// A count is half of what it was after so long.
const HALF_LIFE: Duration = Duration::from_secs(6 * 60 * 60);

/// From this count on a URL is asked last: the third failure within an hour or so.
const THRESHOLD: f64 = 2.5;

/// What a URL is counted that does not have the content, or has another: at once past the threshold.
const USELESS: f64 = 4.0;

/// Below this a count is forgotten: after a day and a half.
const NEGLIGIBLE: f64 = 0.02;

/// The longest pause that a server is granted.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(15 * 60);

/// How many hosts and how many URLs are remembered; the least counted go first.
const MAX_ENTRIES: usize = 500;

const NAME: &str = "failures.json";
const VERSION: u32 = 1;

/// What is remembered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Failures {
    version: u32,
    /// By host and port.
    hosts: BTreeMap<String, Count>,
    /// By a hash of URL and content: URLs carry tokens.
    urls: BTreeMap<String, Count>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Count {
    count: f64,
    /// When it was so, in seconds since 1970.
    at: u64,
    /// Not to be asked before, in seconds since 1970.
    #[serde(default)]
    not_before: u64,
}

/// How asking a URL ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    /// It brought the content.
    Good,
    /// It does not have it, or has something else.
    Useless,
    /// Something else.
    Failed {
        /// It is the first failure of this URL in this fetch.
        counts: bool,
        /// The host is the cause, whatever it is asked for.
        of_host: bool,
        /// Where a redirect had led, if the host is that one.
        redirected_to: Option<&'a SourceUrl>,
        /// How long the server wants to be left alone.
        pause: Option<Duration>,
    },
}

impl Count {
    fn now(self, now: u64) -> f64 {
        // A clock that was set back makes nothing older or younger; see `Failures::set_clock_back`.
        let age = now.saturating_sub(self.at);
        self.count * 0.5_f64.powf(age as f64 / HALF_LIFE.as_secs_f64())
    }

    /// How long the host is to be left alone. A pause that is longer than any we grant was noted by a clock that has
    /// been set back since, and is over, for all we know.
    fn pause(self, now: u64) -> Duration {
        let left = Duration::from_secs(self.not_before.saturating_sub(now));
        if left > MAX_PAUSE {
            Duration::ZERO
        } else {
            left
        }
    }

    fn add(&mut self, more: f64, now: u64) {
        *self = Self {
            count: self.now(now) + more,
            at: now,
            ..*self
        };
    }
}

impl Failures {
    /// Returns true if a URL is to be asked after others.
    pub(crate) fn is_bad(&self, url: &SourceUrl, address: &ContentAddress) -> bool {
        self.counts(url, address)
            .into_iter()
            .any(|count| count >= THRESHOLD)
    }

    /// Returns how often a URL and its host have failed, faded by time.
    fn counts(&self, url: &SourceUrl, address: &ContentAddress) -> [f64; 2] {
        let now = seconds_now();
        let of = |count: Option<&Count>| count.map_or(0.0, |count| count.now(now));
        [
            of(self.urls.get(&url_key(url, address))),
            of(self.hosts.get(&host_key(url))),
        ]
    }

    /// Returns how long a URL's host is to be left alone, if it is.
    pub(crate) fn pause(&self, url: &SourceUrl) -> Option<Duration> {
        let pause = self.hosts.get(&host_key(url))?.pause(seconds_now());
        (!pause.is_zero()).then_some(pause)
    }

    /// Says what is remembered against a URL, if that matters.
    pub(crate) fn describe(&self, url: &SourceUrl, address: &ContentAddress) -> Option<String> {
        let [of_url, of_host] = self.counts(url, address);
        let mut parts = Vec::new();
        if let Some(pause) = self.pause(url) {
            parts.push(format!(
                "its host wants to be left alone for another {} s",
                pause.as_secs()
            ));
        }
        if of_url >= THRESHOLD || of_host >= THRESHOLD {
            parts.push(format!(
                "asked after others: it has failed {of_url:.1} times lately, its host {of_host:.1} times"
            ));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Returns the hosts with their counts and pauses, and the number of URLs, for people.
    pub(crate) fn summary(&self) -> (Vec<(String, f64, u64)>, usize) {
        let now = seconds_now();
        let hosts = self
            .hosts
            .iter()
            .map(|(host, count)| (host.clone(), count.now(now), count.pause(now).as_secs()));
        (hosts.collect(), self.urls.len())
    }

    /// What was noted in the future happened now: it would not fade before that time.
    fn set_clock_back(&mut self, now: u64) {
        for count in self.hosts.values_mut().chain(self.urls.values_mut()) {
            count.at = count.at.min(now);
            if count.pause(now).is_zero() {
                count.not_before = 0;
            }
        }
    }

    fn apply(&mut self, url: &SourceUrl, address: &ContentAddress, outcome: &Outcome<'_>) {
        let now = seconds_now();
        self.set_clock_back(now);
        let (host, url) = (host_key(url), url_key(url, address));
        match *outcome {
            Outcome::Good => {
                self.urls.remove(&url);
                if let Some(count) = self.hosts.get_mut(&host) {
                    let half = count.now(now) / 2.0;
                    count.add(-half, now);
                }
            }
            Outcome::Useless => {
                let count = self.urls.entry(url).or_default();
                count.add((USELESS - count.now(now)).max(0.0), now);
            }
            Outcome::Failed {
                counts,
                of_host,
                redirected_to,
                pause,
            } => {
                let host = redirected_to.map_or(host, host_key);
                if counts {
                    self.urls.entry(url).or_default().add(1.0, now);
                }
                if counts && of_host || pause.is_some() {
                    let count = self.hosts.entry(host).or_default();
                    if counts && of_host {
                        count.add(1.0, now);
                    }
                    let pause = pause.unwrap_or_default().min(MAX_PAUSE);
                    count.not_before = count.not_before.max(now + pause.as_secs());
                }
            }
        }
        for counts in [&mut self.hosts, &mut self.urls] {
            counts.retain(|_, count| count.now(now) > NEGLIGIBLE || count.not_before > now);
            while counts.len() > MAX_ENTRIES {
                let least = counts
                    .iter()
                    .min_by(|(_, one), (_, other)| one.now(now).total_cmp(&other.now(now)))
                    .map(|(name, _)| name.clone());
                let Some(least) = least else { break };
                counts.remove(&least);
            }
        }
    }
}

/// What is remembered, for a download that goes on for long: others meet servers meanwhile, and so does it.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    failures: Failures,
    /// Where it is read again, and added to.
    folder: Option<PathBuf>,
    address: ContentAddress,
}

impl Memory {
    pub(crate) fn new(failures: Failures, folder: Option<&Path>, address: &ContentAddress) -> Self {
        Self {
            failures,
            folder: folder.map(Path::to_owned),
            address: *address,
        }
    }

    /// Returns what was known at the beginning.
    pub(crate) const fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Returns what is known now.
    pub(crate) fn read_again(&self) -> Failures {
        match &self.folder {
            Some(_) => self.state().failures(),
            None => self.failures.clone(),
        }
    }

    /// Remembers that the host of a URL wants to be left alone. What came of the URL is not told yet.
    pub(crate) fn note_pause(&self, url: &SourceUrl, pause: Duration) {
        let outcome = Outcome::Failed {
            counts: false,
            of_host: true,
            redirected_to: None,
            pause: Some(pause),
        };
        let state = self.state();
        state.remember(&self.failures, url, &self.address, &outcome);
    }

    fn state(&self) -> State {
        State::at(self.folder.clone())
    }
}

impl State {
    /// Reads what failed lately. What cannot be read is forgotten.
    pub(crate) fn failures(&self) -> Failures {
        let read = || {
            let file = open_file(&*self.there()?, NAME, OFlags::empty()).ok()?;
            let failures: Failures = serde_json::from_str(&read_record_whole(&file).ok()?).ok()?;
            (failures.version == VERSION).then_some(failures)
        };
        read().unwrap_or_default()
    }

    /// Remembers how asking a URL ended. `known` is what was read before: a success that changes nothing is not
    /// written.
    pub(crate) fn remember(
        &self,
        known: &Failures,
        url: &SourceUrl,
        address: &ContentAddress,
        outcome: &Outcome<'_>,
    ) {
        let is_news = match outcome {
            Outcome::Good => {
                known.urls.contains_key(&url_key(url, address))
                    || known.hosts.contains_key(&host_key(url))
            }
            Outcome::Useless => true,
            Outcome::Failed { counts, pause, .. } => *counts || pause.is_some(),
        };
        if is_news {
            // Without it, URLs come in the order that was given.
            drop(self.change_failures(|failures| failures.apply(url, address, outcome)));
        }
    }

    /// Forgets all failures.
    pub(crate) fn forget_failures(&self) -> io::Result<()> {
        match self.there() {
            Some(_) => self.change_failures(|failures| *failures = Failures::default()),
            None => Ok(()),
        }
    }

    /// Reads, changes and writes under a lock. Written in place: what a killed process leaves is no JSON, and counts
    /// for nothing.
    fn change_failures(&self, change: impl FnOnce(&mut Failures)) -> io::Result<()> {
        let Some(folder) = self.make() else {
            return Ok(());
        };
        let mut file = open_file(&folder, NAME, OFlags::CREATE)?;
        lock_record(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut failures: Failures = serde_json::from_str(&read_record(&file)?).unwrap_or_default();
        if failures.version != VERSION {
            failures = Failures::default();
        }
        failures.version = VERSION;
        change(&mut failures);
        let text = serde_json::to_vec(&failures)?;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&text)?;
        Ok(rustix::fs::flock(&file, FlockOperation::Unlock)?)
    }
}

fn host_key(url: &SourceUrl) -> String {
    let url = url.url();
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn url_key(url: &SourceUrl, address: &ContentAddress) -> String {
    let text = format!("{} {}", key(address), url.url());
    Digest::sha256(sha256(text.as_bytes())).to_hex()
}

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_index::address::Method;

    fn address() -> ContentAddress {
        ContentAddress::new(Method::Flat, Digest::sha256([7; 32])).unwrap()
    }

    fn url(text: &str) -> SourceUrl {
        SourceUrl::parse(text).unwrap()
    }

    const FAILED: Outcome<'_> = Outcome::Failed {
        counts: true,
        of_host: false,
        redirected_to: None,
        pause: None,
    };

    fn age(failures: &mut Failures, by: Duration) {
        for count in failures
            .hosts
            .values_mut()
            .chain(failures.urls.values_mut())
        {
            count.at = count.at.saturating_sub(by.as_secs());
            count.not_before = count.not_before.saturating_sub(by.as_secs());
        }
    }

    #[test]
    fn the_third_failure_puts_a_url_last_and_time_heals() {
        let (mut failures, a) = (Failures::default(), url("http://h/a"));
        for failure in 1..=3 {
            assert!(!failures.is_bad(&a, &address()));
            failures.apply(&a, &address(), &FAILED);
            assert_eq!(failures.is_bad(&a, &address()), failure == 3);
        }
        assert!(!failures.is_bad(&url("http://h/b"), &address()), "one URL");
        age(&mut failures, HALF_LIFE);
        assert!(!failures.is_bad(&a, &address()));
        for _ in 0..3 {
            failures.apply(&a, &address(), &FAILED);
        }
        failures.apply(&a, &address(), &Outcome::Good);
        assert!(!failures.is_bad(&a, &address()));
    }

    #[test]
    fn what_cannot_succeed_is_last_at_once_and_a_bad_host_with_all_of_its_urls() {
        let mut failures = Failures::default();
        failures.apply(&url("http://h/a"), &address(), &Outcome::Useless);
        assert!(failures.is_bad(&url("http://h/a"), &address()));
        for path in 0..3 {
            let of_host = Outcome::Failed {
                counts: true,
                of_host: true,
                redirected_to: None,
                pause: None,
            };
            failures.apply(&url(&format!("http://bad/{path}")), &address(), &of_host);
        }
        assert!(failures.is_bad(&url("http://bad/other"), &address()));
        assert!(!failures.is_bad(&url("http://bad:8080/other"), &address()));
    }

    #[test]
    fn a_pause_is_bounded_and_ends() {
        let (mut failures, a) = (Failures::default(), url("http://h/a"));
        let pause = |seconds| Outcome::Failed {
            counts: false,
            of_host: true,
            redirected_to: None,
            pause: Some(Duration::from_secs(seconds)),
        };
        failures.apply(&a, &address(), &pause(1 << 40));
        let left = failures.pause(&url("http://h/other")).unwrap();
        assert!(left <= MAX_PAUSE && left > MAX_PAUSE / 2, "{left:?}");
        assert_eq!(failures.pause(&url("http://i/a")), None);
        assert!(!failures.is_bad(&a, &address()), "a pause is no failure");
        age(&mut failures, MAX_PAUSE);
        assert_eq!(failures.pause(&a), None);
    }

    /// What was noted while the clock was wrong neither locks a host out nor stays for ever.
    #[test]
    fn a_clock_that_was_set_back() {
        let (mut failures, a) = (Failures::default(), url("http://h/a"));
        let pause = Outcome::Failed {
            counts: true,
            of_host: true,
            redirected_to: None,
            pause: Some(Duration::from_secs(60)),
        };
        for _ in 0..3 {
            failures.apply(&a, &address(), &pause);
        }
        let year = 365 * 24 * 60 * 60;
        for count in failures.hosts.values_mut() {
            count.at += year;
            count.not_before += year;
        }
        assert_eq!(failures.pause(&a), None);
        assert!(failures.describe(&url("http://h/b"), &address()).is_some());
        failures.apply(&url("http://other/"), &address(), &FAILED);
        age(&mut failures, HALF_LIFE);
        assert!(!failures.is_bad(&url("http://h/b"), &address()), "it fades");
    }

    /// Nobody reads what another process is just writing.
    #[test]
    fn a_record_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(Some(folder.path().join("fetch")));
        let a = url("http://h/a");
        state.remember(&Failures::default(), &a, &address(), &Outcome::Useless);
        assert!(state.failures().is_bad(&a, &address()));
        let path = folder.path().join("fetch").join(NAME);
        let text = fs_err::read(&path).unwrap();
        let file = fs_err::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .into_file();
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        file.set_len(0).unwrap();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            (&file).write_all(&text).unwrap();
        });
        assert!(state.failures().is_bad(&a, &address()));
        writer.join().unwrap();
    }

    #[test]
    fn it_stays_small() {
        let mut failures = Failures::default();
        for number in 0..MAX_ENTRIES + 50 {
            failures.apply(&url(&format!("http://h/{number}")), &address(), &FAILED);
        }
        assert_eq!(failures.urls.len(), MAX_ENTRIES);
    }
}
