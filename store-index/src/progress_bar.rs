//! Draws progress: a bar on a terminal, plain lines now and then elsewhere, or JSON for other programs.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use store_index::watch::{Progress, Unit};

/// How often a plain line is printed at most.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How often a JSON line is printed at most.
const JSON_EVERY: Duration = Duration::from_millis(500);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Style {
    /// A bar on a terminal, else plain lines
    Auto,
    /// A bar
    Bar,
    /// A line now and then
    Plain,
    /// A JSON object a line
    Json,
    /// Nothing
    None,
}

/// Progress on standard error.
pub(crate) struct Display {
    style: Style,
    task: Mutex<Option<Task>>,
}

struct Task {
    what: String,
    total: Option<u64>,
    unit: Unit,
    done: u64,
    begun: Instant,
    printed: Instant,
    bar: Option<ProgressBar>,
}

impl Display {
    pub(crate) fn new(style: Style) -> Self {
        let style = match style {
            Style::Auto if std::io::stderr().is_terminal() => Style::Bar,
            Style::Auto => Style::Plain,
            style => style,
        };
        Self {
            style,
            task: Mutex::new(None),
        }
    }

    fn with_task(&self, change: impl FnOnce(&mut Option<Task>)) {
        // A thread that panicked while it drew leaves nothing that a drawing could break.
        change(
            &mut self
                .task
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
    }
}

impl Progress for Display {
    fn begin(&self, what: &str, total: Option<u64>, unit: Unit) {
        self.end();
        let bar = (self.style == Style::Bar).then(|| bar(what, total, unit));
        let now = Instant::now();
        let task = Task {
            what: what.to_owned(),
            total,
            unit,
            done: 0,
            begun: now,
            printed: now,
            bar,
        };
        self.with_task(|slot| *slot = Some(task));
    }

    fn advance(&self, amount: u64) {
        self.with_task(|slot| {
            let Some(task) = slot else { return };
            task.done += amount;
            match self.style {
                Style::Bar => {
                    if let Some(bar) = &task.bar {
                        bar.inc(amount);
                    }
                }
                Style::Plain if task.printed.elapsed() >= LINE_EVERY => task.print_plain(),
                Style::Json if task.printed.elapsed() >= JSON_EVERY => task.print_json(),
                _ => {}
            }
        });
    }

    fn end(&self) {
        self.with_task(|slot| {
            if let Some(bar) = slot.take().and_then(|task| task.bar) {
                bar.finish_and_clear();
            }
        });
    }

    fn note(&self, line: &str) {
        self.with_task(|slot| match (self.style, slot) {
            (Style::None, _) => {}
            (Style::Json, _) => say(&serde_json::json!({ "note": line }).to_string()),
            (_, Some(Task { bar: Some(bar), .. })) => bar.suspend(|| say(line)),
            _ => say(line),
        });
    }
}

impl Task {
    fn print_plain(&mut self) {
        self.printed = Instant::now();
        let seconds = self.begun.elapsed().as_secs_f64();
        let done = match self.unit {
            Unit::Bytes => indicatif::HumanBytes(self.done).to_string(),
            Unit::Items => self.done.to_string(),
        };
        let of = self.total.map_or(String::new(), |total| {
            format!(" ({} %)", self.done * 100 / total.max(1))
        });
        say(&format!("{}: {done}{of} in {seconds:.0} s", self.what));
    }

    fn print_json(&mut self) {
        self.printed = Instant::now();
        let unit = match self.unit {
            Unit::Bytes => "bytes",
            Unit::Items => "items",
        };
        let line = serde_json::json!({ "what": self.what, "done": self.done, "total": self.total, "unit": unit });
        say(&line.to_string());
    }
}

fn bar(what: &str, total: Option<u64>, unit: Unit) -> ProgressBar {
    let template = match (total, unit) {
        (Some(_), Unit::Bytes) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (Some(_), Unit::Items) => "{msg} {wide_bar} {pos}/{len} {eta}",
        (None, Unit::Bytes) => "{spinner} {msg}: {bytes} {bytes_per_sec}",
        (None, Unit::Items) => "{spinner} {msg}: {pos} {per_sec}",
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(what.to_owned());
    bar
}

/// Prints a line on standard error. There is nobody left to tell if that fails.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}
