//! What guix-daemon's clients are told while a download goes on: text for people, and lines beginning with `@ ` for
//! programs, if the client asked for those. The client keeps a record for each `download-started` and looks it up at
//! `download-succeeded`, so that the second never comes without the first.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use store_index::watch::{Progress, Unit};

use crate::builtin::{Log, Settings};
use crate::report::{Attempt, AttemptResult, Listener};
use crate::source::{Candidate, CandidatePlace, SourceKind};

/// How often a line tells how far a download is; clients draw a bar of them.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Writes whole lines, each with one call.
pub type Write<'a> = &'a (dyn Fn(&str) + Sync);

/// Speaks to the daemon.
pub struct Trace<'a> {
    /// The output as the daemon named it.
    output: &'a str,
    /// Whether lines for programs are wanted.
    traced: bool,
    stdout: Write<'a>,
    stderr: Write<'a>,
    state: Mutex<State>,
}

struct State {
    /// When anything was last said.
    spoke: Instant,
    download: Option<Download>,
}

/// The running download.
struct Download {
    url: String,
    /// Its length in bytes, once and if it is known.
    size: Option<u64>,
    done: u64,
    started: bool,
    shown: Option<Instant>,
    /// All of it has come.
    ended: bool,
}

impl std::fmt::Debug for Trace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace")
            .field("output", &self.output)
            .field("traced", &self.traced)
            .finish_non_exhaustive()
    }
}

impl<'a> Trace<'a> {
    /// Makes one. `stdout` and `stderr` write a line, whose end they add.
    pub fn new(output: &'a str, traced: bool, stdout: Write<'a>, stderr: Write<'a>) -> Self {
        let state = Mutex::new(State {
            spoke: Instant::now(),
            download: None,
        });
        Self {
            output,
            traced,
            stdout,
            stderr,
            state,
        }
    }

    /// Says something to people.
    pub fn say(&self, text: &str) {
        self.state().spoke = Instant::now();
        say(self.stderr, text);
    }

    /// Says that the work goes on, if nothing has been said for so long: the daemon kills who is silent.
    pub fn still_here(&self, silence: Duration) {
        if self.state().spoke.elapsed() >= silence {
            self.say(&format!("still working on {}", self.output));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints to standard output, where the order of text and events counts.
    fn print(&self, state: &mut State, line: &str) {
        state.spoke = Instant::now();
        (self.stdout)(line);
    }

    fn event(&self, state: &mut State, what: &str, url: &str, rest: &str) {
        if self.traced {
            let line = format!("@ download-{what} {} {url} {rest}", self.output);
            self.print(state, &line);
        }
    }

    fn start(&self, state: &mut State, download: &mut Download) {
        if !download.started {
            download.started = true;
            self.event(state, "started", &download.url, &size(download.size));
        }
    }

    fn show(&self, state: &mut State, download: &mut Download) {
        download.shown = Some(Instant::now());
        let rest = format!("{} {}", size(download.size), download.done);
        self.event(state, "progress", &download.url, &rest);
    }

    /// A whole body has come, right or not.
    fn succeed(&self, state: &mut State, mut download: Download, bytes: u64) {
        self.start(state, &mut download);
        download.done = bytes;
        self.show(state, &mut download);
        self.event(state, "succeeded", &download.url, &size(Some(bytes)));
        self.print(state, "");
    }

    /// What a client is told about content that was here: with the name of the place and its size only if that is in a
    /// store, else with a URL that ends in the output's name, which is what clients show.
    fn hit(&self, attempt: &Attempt, in_store: bool) {
        let mut state = self.state();
        let path = if in_store {
            &attempt.location
        } else {
            self.output.rsplit('/').next().unwrap_or_default()
        };
        // Of nothing no size is told.
        let bytes = if in_store { attempt.bytes } else { 0 };
        let download = Download {
            url: format!("file:///{}", escaped(path.trim_start_matches('/'))),
            size: Some(bytes),
            done: 0,
            started: false,
            shown: None,
            ended: false,
        };
        if self.traced {
            self.succeed(&mut state, download, bytes);
        }
    }
}

/// Writes text for people, each line under our name: servers and derivations have a say in it, and the daemon takes a
/// line that begins with `@ ` for an event.
pub(crate) fn say(write: Write<'_>, text: &str) {
    for line in text.lines() {
        let line: String = line
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        write(&format!("fetch: {line}"));
    }
}

/// A size in an event. Clients divide by it, so that none is told of nothing.
fn size(bytes: Option<u64>) -> String {
    match bytes {
        None | Some(0) => "-".to_owned(),
        Some(bytes) => bytes.to_string(),
    }
}

/// Events are split at blanks.
fn escaped(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'%' => "%25".to_owned(),
            byte if byte.is_ascii_graphic() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

impl Progress for Trace<'_> {
    fn begin(&self, _what: &str, _total: Option<u64>, _unit: Unit) {
        // Downloads are announced by the listener; of local places nothing is told before they are found right.
    }

    fn set_total(&self, total: u64) {
        let mut state = self.state();
        if let Some(mut download) = state.download.take() {
            download.size = Some(total);
            self.start(&mut state, &mut download);
            state.download = Some(download);
        }
    }

    fn advance(&self, amount: u64) {
        let mut state = self.state();
        if let Some(mut download) = state.download.take() {
            if download.ended {
                state.download = Some(download);
                return;
            }
            self.start(&mut state, &mut download);
            download.done += amount;
            let is_due = download
                .shown
                .is_none_or(|shown| shown.elapsed() >= PROGRESS_EVERY);
            if is_due && Some(download.done) != download.size {
                self.show(&mut state, &mut download);
            }
            state.download = Some(download);
        }
    }

    fn end(&self) {
        // What is checked out of it, or hashed again, did not come over the network.
        if let Some(download) = &mut self.state().download {
            download.ended = true;
        }
    }

    fn note(&self, line: &str) {
        self.say(line);
    }
}

/// Hears what [`crate::fetch::run`] has to tell, and passes on what a build's log may hold.
#[derive(Debug)]
pub struct Ear<'a> {
    /// What counts as public.
    pub settings: &'a Settings,
    /// What people are told.
    pub log: Log<'a>,
    /// What programs are told.
    pub trace: &'a Trace<'a>,
}

impl Listener for Ear<'_> {
    fn warning(&self, message: &str) {
        self.log.warning(message);
    }

    fn loud_warning(&self, message: &str) {
        self.log.loud_warning(message);
    }

    fn trying(&self, candidate: &Candidate) {
        if matches!(
            candidate.place,
            CandidatePlace::Url(_) | CandidatePlace::Clone(_)
        ) {
            let mut state = self.trace.state();
            let text = format!(
                "\nStarting download of {}\nFrom {}...",
                self.trace.output, candidate.location
            );
            self.trace.print(&mut state, &text);
            state.download = Some(Download {
                url: candidate.location.clone(),
                size: None,
                done: 0,
                started: false,
                shown: None,
                ended: false,
            });
        }
    }

    fn attempt(&self, attempt: &Attempt) {
        // That a repository is left to the real guix is said when it is.
        if attempt.kind == SourceKind::Git && attempt.result == AttemptResult::Skipped {
            return;
        }
        let download = self.trace.state().download.take();
        match (attempt.result, download) {
            (AttemptResult::Ok | AttemptResult::Mismatch, Some(download)) => {
                let mut state = self.trace.state();
                self.trace.succeed(&mut state, download, attempt.bytes);
            }
            (AttemptResult::Ok, None) => self
                .trace
                .hit(attempt, self.settings.in_store(&attempt.location)),
            _ => {}
        }
        self.log.attempt(attempt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(traced: bool, play: impl FnOnce(&Trace<'_>)) -> (String, String) {
        let (out, err) = (Mutex::new(String::new()), Mutex::new(String::new()));
        let into = |text: &Mutex<String>, line: &str| {
            let mut text = text.lock().unwrap();
            text.push_str(line);
            text.push('\n');
        };
        let stdout = |line: &str| into(&out, line);
        let stderr = |line: &str| into(&err, line);
        play(&Trace::new("/gnu/store/x-a", traced, &stdout, &stderr));
        (out.into_inner().unwrap(), err.into_inner().unwrap())
    }

    fn download(trace: &Trace<'_>, url: &str) {
        trace.state().download = Some(Download {
            url: url.to_owned(),
            size: None,
            done: 0,
            started: false,
            shown: None,
            ended: false,
        });
    }

    #[test]
    fn events_are_those_of_guix() {
        let (out, _) = recorded(true, |trace| {
            download(trace, "http://h/a");
            trace.set_total(300_000);
            trace.advance(65_536);
            trace.advance(1);
            trace.advance(234_463);
            let download = trace.state().download.take().unwrap();
            trace.succeed(&mut trace.state(), download, 300_000);
        });
        assert_eq!(
            out,
            "@ download-started /gnu/store/x-a http://h/a 300000\n\
             @ download-progress /gnu/store/x-a http://h/a 300000 65536\n\
             @ download-progress /gnu/store/x-a http://h/a 300000 300000\n\
             @ download-succeeded /gnu/store/x-a http://h/a 300000\n\n"
        );
    }

    #[test]
    fn what_is_written_of_it_did_not_come_over_the_network() {
        let (out, _) = recorded(true, |trace| {
            download(trace, "git://h/a");
            trace.advance(1000);
            trace.end();
            trace.begin("checking out", None, Unit::Bytes);
            std::thread::sleep(2 * PROGRESS_EVERY);
            trace.advance(5000);
        });
        assert_eq!(
            out,
            "@ download-started /gnu/store/x-a git://h/a -\n\
             @ download-progress /gnu/store/x-a git://h/a - 1000\n"
        );
    }

    #[test]
    fn nothing_ends_that_has_not_begun() {
        let (out, _) = recorded(true, |trace| {
            download(trace, "http://h/empty");
            let download = trace.state().download.take().unwrap();
            trace.succeed(&mut trace.state(), download, 0);
        });
        assert_eq!(
            out,
            "@ download-started /gnu/store/x-a http://h/empty -\n\
             @ download-progress /gnu/store/x-a http://h/empty - 0\n\
             @ download-succeeded /gnu/store/x-a http://h/empty -\n\n"
        );
    }

    #[test]
    fn no_text_is_taken_for_an_event() {
        let (_, err) = recorded(true, |trace| {
            trace.say("http://h/a: failed: \x1b[2J\r\n@ build-succeeded /gnu/store/x.drv -\r@ x");
        });
        assert_eq!(
            err,
            "fetch: http://h/a: failed: \u{fffd}[2J\nfetch: @ build-succeeded /gnu/store/x.drv -\u{fffd}@ x\n"
        );
    }

    #[test]
    fn no_event_goes_to_whom_has_not_asked() {
        let (out, err) = recorded(false, |trace| {
            download(trace, "http://h/a");
            trace.set_total(1);
            trace.advance(1);
            let download = trace.state().download.take().unwrap();
            trace.succeed(&mut trace.state(), download, 1);
            trace.still_here(Duration::from_secs(60));
            trace.still_here(Duration::ZERO);
        });
        assert_eq!(out, "\n");
        assert_eq!(err, "fetch: still working on /gnu/store/x-a\n");
    }
}
