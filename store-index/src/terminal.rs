//! Draws progress on standard error, for the two binaries: a bar on a terminal, plain lines now and then elsewhere,
//! JSON lines for programs.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::watch::{Progress, Unit};

/// Nothing is drawn for work that is over sooner.
const SILENT_FOR: Duration = Duration::from_millis(300);

/// How often a plain line appears.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// How often a JSON line appears.
const JSON_EVERY: Duration = Duration::from_millis(200);

/// How often a bar is redrawn, a second.
const BAR_HZ: u8 = 10;

/// How progress is shown: `--progress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressMode {
    /// A bar on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// A bar.
    Bar,
    /// A line now and then.
    Plain,
    /// JSON objects, one a line.
    Json,
    /// Nothing.
    None,
}

/// Shows the progress of one task after another.
#[derive(Debug)]
pub struct Terminal {
    mode: ProgressMode,
    done: AtomicU64,
    task: Mutex<Option<Task>>,
}

#[derive(Debug)]
struct Task {
    what: String,
    unit: Unit,
    total: Option<u64>,
    started: Instant,
    shown: Instant,
    bar: Option<ProgressBar>,
}

impl Terminal {
    /// Makes one; nothing is drawn yet.
    pub fn new(mode: ProgressMode) -> Self {
        let mode = match mode {
            ProgressMode::Auto if std::io::stderr().is_terminal() => ProgressMode::Bar,
            ProgressMode::Auto => ProgressMode::Plain,
            other => other,
        };
        Self {
            mode,
            done: AtomicU64::new(0),
            task: Mutex::new(None),
        }
    }

    /// Writes a line to standard error, above a bar that may be there.
    pub fn line(&self, line: &str) {
        let task = self.task();
        match task.as_ref().and_then(|task| task.bar.as_ref()) {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    fn task(&self) -> MutexGuard<'_, Option<Task>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, task: &mut Task, done: u64) {
        task.shown = Instant::now();
        match self.mode {
            ProgressMode::Bar => {
                let bar = task
                    .bar
                    .get_or_insert_with(|| new_bar(&task.what, task.unit, task.total));
                bar.set_position(done);
            }
            ProgressMode::Plain => say(&format!(
                "{}: {}",
                task.what,
                amount(done, task.total, task.unit)
            )),
            ProgressMode::Json => write_event(task, "progress", done),
            ProgressMode::Auto | ProgressMode::None => {}
        }
    }
}

impl Progress for Terminal {
    fn begin(&self, what: &str, total: Option<u64>, unit: Unit) {
        if self.mode == ProgressMode::None {
            return;
        }
        self.end();
        self.done.store(0, Ordering::Relaxed);
        let now = Instant::now();
        let task = Task {
            what: what.to_owned(),
            unit,
            total,
            started: now,
            shown: now,
            bar: None,
        };
        if self.mode == ProgressMode::Json {
            write_event(&task, "begin", 0);
        }
        *self.task() = Some(task);
    }

    fn set_total(&self, total: u64) {
        if let Some(task) = self.task().as_mut() {
            task.total = Some(total);
            if let Some(bar) = task.bar.take() {
                bar.finish_and_clear();
            }
        }
    }

    fn set_what(&self, what: &str) {
        if let Some(task) = self.task().as_mut() {
            what.clone_into(&mut task.what);
            if let Some(bar) = &task.bar {
                bar.set_message(task.what.clone());
            }
        }
    }

    fn advance(&self, amount: u64) {
        if self.mode == ProgressMode::None {
            return;
        }
        let done = self.done.fetch_add(amount, Ordering::Relaxed) + amount;
        // Whoever finds it busy leaves the drawing to the other thread.
        let Ok(mut guard) = self.task.try_lock() else {
            return;
        };
        let Some(task) = guard.as_mut() else { return };
        let due = match self.mode {
            ProgressMode::Plain => task.shown.elapsed() >= PLAIN_EVERY,
            ProgressMode::Json => task.shown.elapsed() >= JSON_EVERY,
            _ => task.started.elapsed() >= SILENT_FOR,
        };
        if due {
            self.show(task, done);
        }
    }

    fn end(&self) {
        let Some(task) = self.task().take() else {
            return;
        };
        if let Some(bar) = task.bar {
            bar.finish_and_clear();
        } else if self.mode == ProgressMode::Json {
            write_event(&task, "end", self.done.load(Ordering::Relaxed));
        }
    }

    fn note(&self, line: &str) {
        match self.mode {
            ProgressMode::None => {}
            ProgressMode::Json => {
                say(&serde_json::json!({ "event": "note", "text": line }).to_string());
            }
            _ => self.line(line),
        }
    }
}

fn new_bar(what: &str, unit: Unit, total: Option<u64>) -> ProgressBar {
    let template = match (unit, total) {
        (Unit::Bytes, Some(_)) => "{msg} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (Unit::Bytes, None) => "{spinner} {msg} {bytes} {bytes_per_sec}",
        (Unit::Items, Some(_)) => "{msg} [{bar:24}] {human_pos}/{human_len} {eta}",
        (Unit::Items, None) => "{spinner} {msg} {human_pos}",
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(BAR_HZ));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// Shows an amount for people.
pub fn amount(done: u64, total: Option<u64>, unit: Unit) -> String {
    let show = |count| match unit {
        Unit::Bytes => HumanBytes(count).to_string(),
        Unit::Items => HumanCount(count).to_string(),
    };
    match total {
        Some(total) => format!("{} of {}", show(done), show(total)),
        None => show(done),
    }
}

fn write_event(task: &Task, event: &str, done: u64) {
    let unit = match task.unit {
        Unit::Bytes => "bytes",
        Unit::Items => "items",
    };
    let event = serde_json::json!({
        "event": event, "what": task.what, "unit": unit, "done": done, "total": task.total,
    });
    say(&event.to_string());
}

/// Writes a line to standard error, at once, so that lines of several processes do not mix. A closed standard error is
/// nobody's loss.
pub fn say(line: &str) {
    drop(std::io::stderr().write_all(format!("{line}\n").as_bytes()));
}
