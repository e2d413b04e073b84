//! One progress display for everything that goes on at the same time.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use store_index::terminal;
use store_index::watch::{Progress, Unit};

use crate::report::{Attempt, AttemptResult, Listener};
use crate::source::{Candidate, SourceKind};

/// How often the line changes: more often nobody can read it.
const REFRESH_EVERY: Duration = Duration::from_millis(200);

/// Over what time the speed is measured.
const RATE_OVER: Duration = Duration::from_secs(2);

/// How many names are shown.
const SHOWN_NAMES: usize = 3;

/// The longest name that is shown whole, in characters.
const SHOWN_NAME_LEN: usize = 32;

/// How many warnings are remembered, so that each is said once.
const MAX_REMEMBERED: usize = 1000;

/// Shows the batch, whatever its fetches say of themselves.
pub(super) struct Display<'a> {
    inner: &'a dyn Progress,
    handled_bytes: AtomicU64,
    failed: AtomicUsize,
    shown: Mutex<Shown>,
}

struct Shown {
    phase: &'static str,
    /// What is being done, by its number.
    current: Vec<(usize, String)>,
    refreshed: Instant,
    measured: Instant,
    measured_bytes: u64,
    bytes_per_second: f64,
}

impl<'a> Display<'a> {
    /// Begins to show.
    pub(super) fn new(inner: &'a dyn Progress, entries: usize) -> Self {
        inner.begin(
            "fetching what a list names",
            Some(entries as u64),
            Unit::Items,
        );
        let now = Instant::now();
        Self {
            inner,
            handled_bytes: AtomicU64::new(0),
            failed: AtomicUsize::new(0),
            shown: Mutex::new(Shown {
                phase: "",
                current: Vec::new(),
                refreshed: now,
                measured: now,
                measured_bytes: 0,
                bytes_per_second: 0.0,
            }),
        }
    }

    /// Says what is done from now on.
    pub(super) fn phase(&self, phase: &'static str) {
        self.change(|shown| shown.phase = phase);
        self.refresh();
    }

    /// An entry is begun.
    pub(super) fn begins(&self, number: usize, name: &str) {
        let mut name: String = name.to_owned();
        if name.chars().count() > SHOWN_NAME_LEN {
            name = name.chars().take(SHOWN_NAME_LEN - 1).collect();
            name.push('…');
        }
        self.change(|shown| shown.current.push((number, name)));
        self.refresh();
    }

    /// It is put aside, or over.
    pub(super) fn pauses(&self, number: usize) {
        self.change(|shown| shown.current.retain(|(known, _)| *known != number));
    }

    /// One more has its result.
    pub(super) fn is_done(&self, failed: bool) {
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.advance(1);
    }

    fn change(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Shows how things are, if that is due.
    pub(super) fn refresh(&self) {
        // Whoever finds it busy leaves it to the other thread.
        let Ok(mut shown) = self.shown.try_lock() else {
            return;
        };
        if shown.refreshed.elapsed() < REFRESH_EVERY {
            return;
        }
        shown.refreshed = Instant::now();
        let bytes = self.handled_bytes.load(Ordering::Relaxed);
        let since = shown.measured.elapsed();
        if since >= RATE_OVER {
            let more = bytes.saturating_sub(shown.measured_bytes);
            shown.bytes_per_second = more as f64 / since.as_secs_f64();
            (shown.measured, shown.measured_bytes) = (Instant::now(), bytes);
        }
        let mut line = format!(
            "{} {}",
            shown.phase,
            terminal::amount(bytes, None, Unit::Bytes)
        );
        if shown.bytes_per_second >= 1.0 {
            let rate = terminal::amount(shown.bytes_per_second as u64, None, Unit::Bytes);
            line.push_str(&format!(", {rate}/s"));
        }
        match self.failed.load(Ordering::Relaxed) {
            0 => {}
            failed => line.push_str(&format!(", {failed} failed")),
        }
        for (number, (_, name)) in shown.current.iter().take(SHOWN_NAMES).enumerate() {
            line.push_str(if number == 0 { ": " } else { ", " });
            line.push_str(name);
        }
        match shown.current.len().saturating_sub(SHOWN_NAMES) {
            0 => {}
            more => line.push_str(&format!(" and {more} more")),
        }
        self.inner.set_what(&line);
        self.inner.advance(0);
    }
}

impl Drop for Display<'_> {
    fn drop(&mut self) {
        self.inner.end();
    }
}

/// What one fetch says of itself is a part of the whole.
impl Progress for Display<'_> {
    fn begin(&self, _what: &str, _total: Option<u64>, _unit: Unit) {}

    fn set_total(&self, _total: u64) {}

    fn advance(&self, amount: u64) {
        self.handled_bytes.fetch_add(amount, Ordering::Relaxed);
        self.refresh();
    }

    fn end(&self) {}

    fn note(&self, line: &str) {
        self.inner.note(line);
    }
}

/// Warnings that many fetches would repeat.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<HashSet<String>>);

impl Said {
    fn is_news(&self, message: &str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() >= MAX_REMEMBERED || said.insert(message.to_owned())
    }
}

/// Listens to one fetch: passes on what people should hear, and notices how the network is.
pub(super) struct Ears<'a> {
    voice: &'a (dyn Listener + Sync),
    said: &'a Said,
    trouble: Cell<bool>,
}

impl<'a> Ears<'a> {
    pub(super) const fn new(voice: &'a (dyn Listener + Sync), said: &'a Said) -> Self {
        Self {
            voice,
            said,
            trouble: Cell::new(false),
        }
    }

    /// Returns true if a server, or the way to it, was in trouble.
    pub(super) const fn heard_trouble(&self) -> bool {
        self.trouble.get()
    }
}

impl Listener for Ears<'_> {
    fn warning(&self, message: &str) {
        if self.said.is_news(message) {
            self.voice.warning(message);
        }
    }

    fn loud_warning(&self, message: &str) {
        self.voice.loud_warning(message);
    }

    fn trying(&self, candidate: &Candidate) {
        self.voice.trying(candidate);
    }

    fn attempt(&self, attempt: &Attempt) {
        let is_network = matches!(
            attempt.kind,
            SourceKind::Url | SourceKind::HashedMirror | SourceKind::Git
        );
        let is_trouble = matches!(
            attempt.result,
            AttemptResult::Failed | AttemptResult::Unavailable
        );
        if is_network && is_trouble {
            self.trouble.set(true);
        }
        self.voice.attempt(attempt);
    }
}
