//! Measures whether more connections pay.

use std::time::Instant;

use crate::net::Limits;

/// A greater number of connections must make the whole so much faster, or it is taken back.
const PAYS_ABOVE: f64 = 1.2;

/// The rate of no connection: it is yet to be measured what one brings.
pub(super) const UNKNOWN: f64 = 0.0;

/// A connection that has brought nothing after so many times the time of a measurement, 5 seconds, will not help: a
/// redirect and TLS around the world take half of it.
const SILENT_AFTER: u32 = 10;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet, or it is decided.
    Wait,
    /// Some have brought nothing for so long that others are to be tried.
    Silent,
    /// It was worth it: so many are tried next.
    More(u32),
    /// No more than so many are worth it.
    Vain(u32),
}

#[derive(Debug)]
pub(super) struct Gauge {
    limits: Limits,
    /// The rate of fewer connections, and how many they were; `None` once it is decided.
    before: Option<(f64, u32)>,
    since: Instant,
    bytes: u64,
    /// Connections that have just begun say nothing.
    warming_up: bool,
}

impl Gauge {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            before: None,
            since: Instant::now(),
            bytes: 0,
            warming_up: false,
        }
    }

    /// One connection was slow; returns how many are tried.
    pub(super) fn began_slow(&mut self, bytes_per_second: f64) -> u32 {
        self.begin(bytes_per_second, 1);
        self.most().min(2)
    }

    fn most(&self) -> u32 {
        self.limits.widening.connections
    }

    pub(super) fn begin(&mut self, bytes_per_second: f64, connections: u32) {
        self.before = Some((bytes_per_second, connections));
        self.again();
    }

    /// Measures anew against the same.
    pub(super) fn again(&mut self) {
        self.since = Instant::now();
        self.bytes = 0;
        self.warming_up = true;
    }

    pub(super) fn got(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Leaves the number as it is.
    pub(super) fn settle(&mut self) {
        self.before = None;
    }

    /// Says how many connections there are to be from now on, when that is known.
    pub(super) fn verdict(
        &mut self,
        connections: u32,
        left_bytes: u64,
        all_bring: bool,
    ) -> Verdict {
        let Some((before, fewer)) = self.before else {
            return Verdict::Wait;
        };
        let took = self.since.elapsed();
        let measure_for = self.limits.widening.measure_for;
        if self.warming_up {
            let is_warm = all_bring && took >= measure_for / 4;
            if !is_warm && took < measure_for * SILENT_AFTER {
                return Verdict::Wait;
            }
            self.since = Instant::now();
            self.bytes = 0;
            self.warming_up = false;
            return match all_bring {
                true => Verdict::Wait,
                false => Verdict::Silent,
            };
        }
        if took < measure_for {
            return Verdict::Wait;
        }
        let now = self.bytes as f64 / took.as_secs_f64();
        if before == UNKNOWN && !self.limits.widening.is_slow(now, left_bytes) {
            self.begin(UNKNOWN, connections);
            return Verdict::Wait;
        }
        if now <= before * PAYS_ABOVE {
            return Verdict::Vain(fewer);
        }
        let more = connections.saturating_mul(2).min(self.most());
        if more == connections {
            self.settle();
            return Verdict::Wait;
        }
        self.begin(now, connections);
        Verdict::More(more)
    }
}
