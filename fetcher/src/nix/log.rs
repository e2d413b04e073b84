//! The log of a build: lines that people read, and lines that Nix turns into its progress bar.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use store_index::watch::{Progress, Unit};

use crate::builtin::Settings;
use crate::cli::Environment;

/// How often Nix hears how far a transfer is: its bar is redrawn no faster than a person reads.
const UPDATE_EVERY: Duration = Duration::from_millis(100);

/// A file transfer: the only activity that Nix takes from a builder.
const FILE_TRANSFER: u32 = 101;

/// A result that says how far an activity is.
const PROGRESS: u32 = 105;

/// Below what Nix prints by itself: the line that people read is ours.
const LEVEL_TALKATIVE: u32 = 4;

/// Where the log goes. Each line is one write, so that lines of several threads do not mix.
#[derive(Debug)]
pub(super) struct BuildLog {
    /// For Nix's own lines, if that is not standard error.
    structured: Option<Mutex<File>>,
}

impl BuildLog {
    /// Finds out where it goes.
    pub(super) fn new(environment: &Environment<'_>) -> Self {
        let fd: Option<u32> = (environment.variables)("NIX_LOG_FD")
            .and_then(|fd| fd.into_string().ok()?.parse().ok())
            .filter(|&fd| fd != 2);
        let open = |fd| {
            File::options()
                .append(true)
                .open(format!("/proc/self/fd/{fd}"))
        };
        Self {
            structured: fd.and_then(|fd| open(fd).ok()).map(Mutex::new),
        }
    }

    /// Writes a line for people, or several. Errors of the system repeat paths as they are, and those come from the
    /// derivation.
    pub(super) fn line(&self, line: &str) {
        let mut shown = String::with_capacity(line.len());
        for character in line.chars() {
            match character {
                '\n' => shown.push('\n'),
                control if control.is_control() => shown.extend(control.escape_default()),
                other => shown.push(other),
            }
        }
        write(&mut std::io::stderr(), &format!("fetch: {shown}\n"));
    }

    fn structured(&self, event: &serde_json::Value) {
        let line = format!("@nix {event}\n");
        match &self.structured {
            None => write(&mut std::io::stderr(), &line),
            Some(file) => write(
                &mut *file.lock().unwrap_or_else(PoisonError::into_inner),
                &line,
            ),
        }
    }
}

/// Nobody can be told that the log cannot be written.
fn write(to: &mut impl Write, line: &str) {
    drop(to.write_all(line.as_bytes()));
}

/// Turns progress into lines for Nix. All numbers in them are whole and none is negative: others make a build fail.
#[derive(Debug)]
pub(super) struct NixProgress<'a> {
    log: &'a BuildLog,
    settings: &'a Settings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Ids that were given away.
    ids: u64,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    id: u64,
    done: u64,
    /// 0 as long as it is not known.
    total: u64,
    told: Instant,
}

impl<'a> NixProgress<'a> {
    /// Makes one. Of local places outside the stores nothing is told.
    pub(super) fn new(log: &'a BuildLog, settings: &'a Settings) -> Self {
        Self {
            log,
            settings,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, running: &Running) {
        self.log.structured(&json!({
            "action": "result", "id": running.id, "type": PROGRESS,
            "fields": [running.done, running.total, 0, 0],
        }));
    }
}

impl Progress for NixProgress<'_> {
    fn begin(&self, what: &str, total: Option<u64>, unit: Unit) {
        self.end();
        let url = ["downloading ", "fetching "]
            .into_iter()
            .find_map(|verb| what.strip_prefix(verb));
        if let Some(url) = url {
            self.log.line(&format!("trying {url}"));
        } else {
            let place = what.strip_prefix("copying ");
            if unit != Unit::Bytes || !place.is_some_and(|place| self.settings.in_store(place)) {
                return;
            }
        }
        let mut state = self.state();
        state.ids += 1;
        let id = state.ids;
        self.log.structured(&json!({
            "action": "start", "id": id, "level": LEVEL_TALKATIVE, "type": FILE_TRANSFER,
            "text": what, "parent": 0, "fields": [url.unwrap_or_default()],
        }));
        state.running = Some(Running {
            id,
            done: 0,
            total: total.unwrap_or(0),
            told: Instant::now(),
        });
    }

    fn set_total(&self, total: u64) {
        if let Some(running) = self.state().running.as_mut() {
            running.total = total;
        }
    }

    fn advance(&self, amount: u64) {
        let mut state = self.state();
        let Some(running) = state.running.as_mut() else {
            return;
        };
        running.done += amount;
        if running.told.elapsed() >= UPDATE_EVERY {
            running.told = Instant::now();
            self.tell(running);
        }
    }

    fn end(&self) {
        if let Some(running) = self.state().running.take() {
            self.tell(&running);
            self.log
                .structured(&json!({"action": "stop", "id": running.id}));
        }
    }

    fn note(&self, line: &str) {
        self.log.line(line);
    }
}
