//! In which order URLs are asked, and how long is waited before one is asked again.
//!
//! Every URL is asked once before any is asked again: another mirror is quicker than waiting. What may be different
//! in a moment is asked again, up to [`Limits::tries`](crate::net::Limits::tries) times in all, after a pause that doubles and is cut by chance, so
//! that many processes do not come back together. A server's own wish (`Retry-After`) is the least. All pauses of a
//! fetch come out of one budget; what would take longer is given up, and said to be.

use std::time::{Duration, Instant};

use crate::net::{PAUSE_OF_OVERLOAD, Retry};
use crate::source::Candidate;

/// The first pause: most resets and failed lookups are over by then.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A pause that no clock can count is taken for this one, which no budget has room for either.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// No pause of our own choice is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A URL to ask.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) candidate: Candidate,
    /// How often it was asked.
    pub(super) tries: u32,
    due: Instant,
    rank: usize,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Next {
    /// Ask this.
    Ask(Entry),
    /// Nothing is due before that; the location of what then is.
    Wait(Duration, String),
    /// The budget is too small for the pause that this needs.
    TooLate(Entry, Duration),
    /// Nothing is left.
    Over,
}

/// URLs to ask.
#[derive(Debug)]
pub(super) struct Queue {
    entries: Vec<Entry>,
    max_tries: u32,
    budget: Duration,
}

impl Queue {
    pub(super) fn new(
        candidates: Vec<Candidate>,
        max_tries: u32,
        budget: Duration,
        now: Instant,
    ) -> Self {
        let entry = |(rank, candidate)| Entry {
            candidate,
            tries: 0,
            due: now,
            rank,
        };
        Self {
            entries: candidates.into_iter().enumerate().map(entry).collect(),
            max_tries,
            budget,
        }
    }

    /// What is left of the time for pauses.
    pub(super) const fn budget(&self) -> Duration {
        self.budget
    }

    /// Says what is to be done. The caller does wait when told to.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let due = |entry: &Entry| entry.due <= now;
        let first = self
            .entries
            .iter()
            .enumerate()
            .min_by_key(|(_, entry)| match due(entry) {
                true => (0, entry.tries, now, entry.rank),
                false => (1, 0, entry.due, entry.rank),
            })
            .map(|(index, _)| index);
        let Some(first) = first else {
            return Next::Over;
        };
        if due(&self.entries[first]) {
            return Next::Ask(self.entries.remove(first));
        }
        let pause = self.entries[first].due - now;
        match self.budget.checked_sub(pause) {
            Some(left) => {
                self.budget = left;
                Next::Wait(pause, self.entries[first].candidate.location.clone())
            }
            None => Next::TooLate(self.entries.remove(first), pause),
        }
    }

    /// Returns what could be asked as well, in order: nothing that has failed, or has to wait.
    pub(super) fn others(&self, now: Instant) -> Vec<&Candidate> {
        let is_fresh = |entry: &&Entry| entry.tries == 0 && entry.due <= now;
        let mut others: Vec<_> = self.entries.iter().filter(is_fresh).collect();
        others.sort_by_key(|entry| entry.rank);
        others.into_iter().map(|entry| &entry.candidate).collect()
    }

    /// Puts what one entry has led to in its place.
    pub(super) fn instead_of(&mut self, entry: &Entry, candidates: Vec<Candidate>, now: Instant) {
        let entries = candidates.into_iter().map(|candidate| Entry {
            candidate,
            tries: 0,
            due: now,
            rank: entry.rank,
        });
        self.entries.extend(entries);
    }

    /// Puts an entry back, to be asked when its host may be asked again.
    pub(super) fn put_off(&mut self, entry: Entry, pause: Duration, now: Instant) {
        let due = now.checked_add(pause).unwrap_or_else(|| now + NEVER);
        self.entries.push(Entry { due, ..entry });
    }

    /// Puts an entry back that was asked, unless that was often enough. `chance` is between 0 and 1.
    pub(super) fn again(&mut self, entry: Entry, retry: Retry, now: Instant, chance: f64) {
        if entry.tries < self.max_tries {
            let pause = pause(entry.tries, retry, chance);
            self.put_off(entry, pause, now);
        }
    }
}

/// How long to wait after so many tries.
fn pause(tries: u32, retry: Retry, chance: f64) -> Duration {
    let first = if retry.is_overload {
        PAUSE_OF_OVERLOAD
    } else {
        FIRST_PAUSE
    };
    let doubled = first.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1)));
    let ours = doubled.min(LONGEST_PAUSE).mul_f64(1.0 - chance / 2.0);
    ours.max(spread(retry.at_least.unwrap_or_default(), chance))
}

/// A pause that a server asks for is kept, and a little more, so that not everybody comes back at once.
pub(super) fn spread(at_least: Duration, chance: f64) -> Duration {
    let more = at_least.min(LONGEST_PAUSE).mul_f64(chance / 10.0);
    at_least.saturating_add(more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{CandidatePlace, KnownNames, SourceKind};
    use crate::source_url::SourceUrl;

    const TRIES: u32 = 4;

    const TROUBLE: Retry = Retry {
        is_overload: false,
        at_least: None,
    };

    fn queue(urls: &[&str], budget_seconds: u64, now: Instant) -> Queue {
        let candidate = |url: &&str| Candidate {
            kind: SourceKind::Url,
            location: (*url).to_owned(),
            place: CandidatePlace::Url(SourceUrl::parse(url).unwrap()),
            names: KnownNames::NotGuarded,
            index: None,
        };
        let urls = urls.iter().map(candidate).collect();
        Queue::new(urls, TRIES, Duration::from_secs(budget_seconds), now)
    }

    /// Runs a queue of which everything fails so; returns what was asked and how long was waited.
    fn run(mut queue: Queue, retry: Retry, start: Instant) -> (Vec<String>, Duration) {
        let (mut now, mut asked) = (start, Vec::new());
        loop {
            match queue.next(now) {
                Next::Ask(mut entry) => {
                    asked.push(entry.candidate.location.clone());
                    entry.tries += 1;
                    queue.again(entry, retry, now, 0.5);
                }
                Next::Wait(pause, _) => now += pause,
                Next::TooLate(..) => {}
                Next::Over => return (asked, now - start),
            }
        }
    }

    #[test]
    fn every_url_once_before_any_again() {
        let now = Instant::now();
        let (asked, waited) = run(queue(&["http://a/", "http://b/"], 120, now), TROUBLE, now);
        let expected = ["http://a/", "http://b/"].repeat(TRIES as usize);
        assert_eq!(asked, expected);
        // 0.5, 1 and 2 seconds, less a quarter.
        assert_eq!(waited, Duration::from_millis(2625));
    }

    #[test]
    fn the_budget_ends_it() {
        let now = Instant::now();
        assert_eq!(run(queue(&["http://a/"], 0, now), TROUBLE, now).0.len(), 1);
        let (asked, waited) = run(queue(&["http://a/"], 1, now), TROUBLE, now);
        assert_eq!((asked.len(), waited), (2, Duration::from_millis(375)));
        let long = Retry {
            is_overload: true,
            at_least: Some(Duration::from_secs(3600)),
        };
        let (asked, waited) = run(queue(&["http://a/", "http://b/"], 120, now), long, now);
        assert_eq!((asked.len(), waited), (2, Duration::ZERO));
    }

    #[test]
    fn a_wish_of_the_server_is_the_least() {
        let wish = |seconds| Retry {
            is_overload: true,
            at_least: Some(Duration::from_secs(seconds)),
        };
        for chance in [0.0, 0.3, 1.0] {
            assert!(pause(1, wish(20), chance) >= Duration::from_secs(20));
            assert!(pause(1, wish(20), chance) <= Duration::from_secs(22));
            assert!(
                pause(1, wish(0), chance) >= Duration::from_millis(2500),
                "a wish for none is not taken at its word"
            );
            assert!(pause(30, TROUBLE, chance) <= LONGEST_PAUSE);
        }
        assert!(pause(1, wish(u64::MAX), 1.0) >= Duration::from_secs(u64::MAX));
    }

    #[test]
    fn a_wish_beyond_all_clocks_is_given_up() {
        let now = Instant::now();
        for budget in [0, 120] {
            let for_ever = Retry {
                is_overload: true,
                at_least: Some(Duration::MAX),
            };
            let (asked, waited) = run(queue(&["http://a/"], budget, now), for_ever, now);
            assert_eq!((asked.len(), waited), (1, Duration::ZERO));
        }
    }
}
