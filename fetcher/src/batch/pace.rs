//! How much at a time: more as long as all is well, half after trouble, and then slowly more again.

use std::time::{Duration, Instant};

/// Begun with so many.
const START: f64 = 4.0;

/// With less free memory in bytes a machine begins to swap out what others need.
const MIN_FREE_BYTES: u64 = 256 << 20;

/// With so many programs that want to run for each core, ours are no help to anybody.
const MAX_LOAD_PER_CORE: f64 = 8.0;

/// How often memory and load are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A number that adapts: doubled every round until the first trouble, then one more a round, as TCP does.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    limit: f64,
    /// Below this it is doubled.
    threshold: f64,
    most: f64,
    halved: Option<Instant>,
}

impl Pace {
    pub(super) fn new(most: usize) -> Self {
        let most = most as f64;
        Self {
            limit: START.min(most),
            threshold: most,
            most,
            halved: None,
        }
    }

    /// Returns how many at a time, at least one.
    pub(super) fn limit(&self) -> usize {
        // It is between 1 and a few dozen.
        self.limit as usize
    }

    /// One went well.
    pub(super) fn faster(&mut self) {
        let more = if self.limit < self.threshold {
            1.0
        } else {
            1.0 / self.limit
        };
        self.limit = (self.limit + more).min(self.most);
    }

    /// One met trouble. Those that had begun before the last halving tell nothing new.
    pub(super) fn slower(&mut self, begun: Instant, now: Instant) {
        if self.halved.is_some_and(|halved| begun < halved) {
            return;
        }
        self.limit = (self.limit / 2.0).max(1.0);
        self.threshold = self.limit;
        self.halved = Some(now);
    }
}

/// Looks at memory and load now and then.
#[derive(Debug)]
pub(super) struct Pressure {
    looked: Option<Instant>,
    cores: f64,
}

impl Pressure {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            looked: None,
            cores: cores as f64,
        }
    }

    /// Finds no load too high.
    #[cfg(test)]
    pub(super) fn of_an_idle_machine() -> Self {
        Self {
            looked: None,
            cores: f64::INFINITY,
        }
    }

    /// Returns true if it is time for a look, which is then taken for done.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self
            .looked
            .is_none_or(|looked| now.duration_since(looked) >= LOOK_EVERY);
        if is_due {
            self.looked = Some(now);
        }
        is_due
    }

    /// Says what is short, if something is.
    pub(super) fn look(&self) -> Option<&'static str> {
        let read = |path: &str| fs_err::read_to_string(path).unwrap_or_default();
        self.judge(&read("/proc/meminfo"), &read("/proc/loadavg"))
    }

    /// Judges what the kernel says. What cannot be read is not short.
    fn judge(&self, memory: &str, load: &str) -> Option<&'static str> {
        let free_kib = memory.lines().find_map(|line| {
            let amount = line.strip_prefix("MemAvailable:")?;
            amount.split_whitespace().next()?.parse::<u64>().ok()
        });
        if free_kib.is_some_and(|kib| kib.saturating_mul(1024) < MIN_FREE_BYTES) {
            return Some("memory is short");
        }
        let load: Option<f64> = load
            .split_whitespace()
            .next()
            .and_then(|load| load.parse().ok());
        load.is_some_and(|load| load > MAX_LOAD_PER_CORE * self.cores)
            .then_some("the load is high")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_until_trouble_and_then_creeps() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut pace = Pace::new(16);
        assert_eq!(pace.limit(), 4);
        for _ in 0..4 {
            pace.faster();
        }
        assert_eq!(pace.limit(), 8, "after a round of four");
        for _ in 0..100 {
            pace.faster();
        }
        assert_eq!(pace.limit(), 16, "and no more");
        pace.slower(at(0), at(10));
        assert_eq!(pace.limit(), 8);
        // The others of the same round.
        for _ in 0..15 {
            pace.slower(at(5), at(11));
        }
        assert_eq!(pace.limit(), 8);
        for round in 2..9 {
            pace.slower(at(10 * round), at(10 * round + 1));
        }
        assert_eq!(pace.limit(), 1, "and no less");
        pace.faster();
        pace.faster();
        assert_eq!(pace.limit(), 2);
        for _ in 0..10 {
            pace.faster();
        }
        assert!((4..8).contains(&pace.limit()), "{pace:?}");
        for _ in 0..200 {
            pace.faster();
        }
        assert_eq!(pace.limit(), 16, "back up again");
    }

    #[test]
    fn what_is_short_is_told() {
        let pressure = Pressure {
            looked: None,
            cores: 2.0,
        };
        let plenty = "MemTotal: 1 kB\nMemAvailable:   8000000 kB\n";
        assert_eq!(pressure.judge(plenty, "0.5 0.4 0.3 1/1 1"), None);
        assert_eq!(pressure.judge("", ""), None, "no /proc");
        assert_eq!(
            pressure.judge("MemAvailable: 200000 kB\n", "0.5"),
            Some("memory is short")
        );
        assert_eq!(pressure.judge(plenty, "16.5 1 1"), Some("the load is high"));
    }

    #[test]
    fn it_does_not_look_all_the_time() {
        let mut pressure = Pressure::new();
        let now = Instant::now();
        assert!(pressure.is_due(now));
        assert!(!pressure.is_due(now + LOOK_EVERY / 2));
        assert!(pressure.is_due(now + LOOK_EVERY));
    }
}
