//! What long work is handed: where to report progress, and the flag that tells it to stop.

use std::sync::atomic::{AtomicBool, Ordering};

/// What a progress count counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes read, written or received.
    Bytes,
    /// Files, links or entries.
    Items,
}

/// Receives progress. The library reports; only the binaries draw.
pub trait Progress: Sync {
    /// A task begins. `total` is `None` when it is not known yet. A task that runs already ends.
    fn begin(&self, what: &str, total: Option<u64>, unit: Unit);
    /// The running task's total has become known.
    fn set_total(&self, total: u64);
    /// What the running task is doing now.
    fn set_what(&self, _what: &str) {}
    /// The running task has done `amount` more.
    fn advance(&self, amount: u64);
    /// The running task is over, done or not.
    fn end(&self);
    /// A line worth showing while the work goes on, such as what is being waited for.
    fn note(&self, line: &str);
}

/// Reports nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _what: &str, _total: Option<u64>, _unit: Unit) {}
    fn set_total(&self, _total: u64) {}
    fn advance(&self, _amount: u64) {}
    fn end(&self) {}
    fn note(&self, _line: &str) {}
}

/// Progress and interruption, handed together to all long work.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Set when the work shall stop, by a signal handler or another thread.
    pub interrupt: &'a AtomicBool,
    /// Where progress goes.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("interrupt", self.interrupt)
            .finish_non_exhaustive()
    }
}

impl Watch<'_> {
    /// Returns true once the work shall stop.
    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}
