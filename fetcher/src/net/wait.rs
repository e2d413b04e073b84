//! Waiting that ends: on an interrupt, at a deadline, when a body stalls.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the interrupt flag is looked at. People take 100 ms for "at once".
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why waiting ended without a result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    Interrupted,
    Deadline,
}

/// Waits for `future`, but not once `interrupt` is set.
pub(super) async fn interruptible<F: Future>(
    mut future: Pin<&mut F>,
    interrupt: &AtomicBool,
) -> Result<F::Output, GaveUp> {
    loop {
        if interrupt.load(Ordering::Relaxed) {
            return Err(GaveUp::Interrupted);
        }
        if let Ok(output) = tokio::time::timeout(POLL_INTERVAL, future.as_mut()).await {
            return Ok(output);
        }
    }
}

/// Waits for `future`, but not longer than `limit` and not once `interrupt` is set.
pub(super) async fn watched<F: Future>(
    mut future: Pin<&mut F>,
    limit: Duration,
    interrupt: &AtomicBool,
) -> Result<F::Output, GaveUp> {
    let started = Instant::now();
    loop {
        if interrupt.load(Ordering::Relaxed) {
            return Err(GaveUp::Interrupted);
        }
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(GaveUp::Deadline);
        }
        if let Ok(output) = tokio::time::timeout(left.min(POLL_INTERVAL), future.as_mut()).await {
            return Ok(output);
        }
    }
}

/// The window is cut into so many slots: a stall is noticed at most a tenth of the window late.
const SLOTS: usize = 10;

/// Notices a body that comes slower than a rate, over the last `window` spent waiting for the network.
///
/// It has no clock: whoever waits tells how long, so that a slow disk is not taken for a slow server.
#[derive(Debug)]
pub(crate) struct StallWatch {
    minimum_bytes: u64,
    slot_length: Duration,
    /// Bytes of the last slots, the unfinished one included, as a ring.
    slots: [u64; SLOTS + 1],
    current_slot: usize,
    finished_slots: usize,
    waited_in_slot: Duration,
}

impl StallWatch {
    pub(crate) fn new(bytes_per_second: u64, window: Duration) -> Self {
        let minimum_bytes = u128::from(bytes_per_second) * window.as_millis() / 1000;
        Self {
            minimum_bytes: u64::try_from(minimum_bytes).unwrap_or(u64::MAX),
            slot_length: (window / SLOTS as u32).max(SHORTEST_SLOT),
            slots: [0; SLOTS + 1],
            current_slot: 0,
            finished_slots: 0,
            waited_in_slot: Duration::ZERO,
        }
    }

    /// Adds what came after a wait; returns true if the body has stalled.
    #[must_use = "a stalled transfer must end"]
    pub(crate) fn stalled_after(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited_in_slot += waited;
        while self.waited_in_slot >= self.slot_length {
            self.waited_in_slot -= self.slot_length;
            self.finished_slots = (self.finished_slots + 1).min(SLOTS);
            self.current_slot = (self.current_slot + 1) % self.slots.len();
            self.slots[self.current_slot] = 0;
        }
        self.slots[self.current_slot] += bytes;
        self.finished_slots == SLOTS && self.slots.iter().sum::<u64>() < self.minimum_bytes
    }
}

/// Keeps the loop over slots finite and short for a window of zero.
const SHORTEST_SLOT: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);
    const STEP: Duration = Duration::from_millis(100);

    /// Feeds `bytes` each 100 ms and returns the second at which the watch gave up, within five minutes.
    fn gives_up_after(watch: &mut StallWatch, bytes: u64) -> Option<u32> {
        (1..3000)
            .find(|_| watch.stalled_after(STEP, bytes))
            .map(|step| step / 10)
    }

    #[test]
    fn silence_stalls_after_the_window() {
        assert_eq!(
            gives_up_after(&mut StallWatch::new(1024, WINDOW), 0),
            Some(30)
        );
    }

    #[test]
    fn the_rate_decides() {
        assert_eq!(
            gives_up_after(&mut StallWatch::new(1024, WINDOW), 103),
            None
        );
        assert_eq!(
            gives_up_after(&mut StallWatch::new(1024, WINDOW), 101),
            Some(30)
        );
    }

    #[test]
    fn a_fast_start_does_not_excuse_silence() {
        let mut watch = StallWatch::new(1024, WINDOW);
        assert!(!watch.stalled_after(STEP, 1 << 30));
        let seconds = gives_up_after(&mut watch, 0).unwrap();
        assert!((30..=33).contains(&seconds), "{seconds}");
    }

    #[test]
    fn no_rate_means_no_stall() {
        assert_eq!(gives_up_after(&mut StallWatch::new(0, WINDOW), 0), None);
    }
}
