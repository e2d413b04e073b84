//! `perform-download DRV [OUTPUT]`, as guix-daemon runs it.

use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use store_index::beneath::Beneath;
use store_index::path_text::printable;
use store_index::watch::Watch;

use super::options::Options;
use super::request::{self, DERIVATION_SUFFIX, Refusal, Store, Work};
use super::trace::{Ear, Trace, Write, say};
use crate::builtin::{Log, Settings};
use crate::cli::Environment;
use crate::derivation::{self, Derivation};
use crate::error::ErrorKind;
use crate::fetch::{self, Policy};
use crate::report::Report;

/// The store of a daemon that names none.
const DEFAULT_STORE: &str = "/gnu/store";

/// What repairs a store of Guix.
const REPAIR: &str = "guix gc --verify=contents,repair";

/// After how long a silence we say that we are still at it, if the daemon does not kill the silent sooner.
const SILENCE: Duration = Duration::from_secs(60);

/// How we are called.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The derivation.
    pub derivation: &'a Path,
    /// Where the daemon wants its output; as the derivation says, if it does not say.
    pub output: Option<&'a Path>,
    /// The daemon's environment.
    pub environment: &'a Environment<'a>,
    /// Set when the work shall stop.
    pub interrupt: &'a AtomicBool,
    /// Writes a line to standard output.
    pub stdout: Write<'a>,
    /// Writes a line to standard error.
    pub stderr: Write<'a>,
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("derivation", &self.derivation)
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Something is at the output, for the daemon to judge.
    Left,
    /// There is nothing, and nobody else shall try.
    Failed,
    /// The real guix is to do it. Nothing is at the output.
    HandOver,
}

/// Downloads for the daemon.
pub fn run(call: Call<'_>) -> Outcome {
    let fail = |reason: &str| {
        say(call.stderr, &format!("error: {reason}"));
        Outcome::Failed
    };
    // Whoever may reach the daemon chooses what is read and written here.
    if rustix::process::getuid().is_root() || rustix::process::geteuid().is_root() {
        return fail(
            "refusing to run with elevated privileges: downloads are for the daemon's build users",
        );
    }
    let settings = match Settings::read(call.environment, DEFAULT_STORE) {
        Ok(settings) => settings,
        Err(error) => return fail(&error.message),
    };
    match prepare(&call, &settings) {
        Ok((work, output, is_check)) => fetch(&call, &settings, work, &output, is_check),
        Err(Refusal::Wrong(reason)) => fail(&reason),
        Err(Refusal::Beyond(reason)) if settings.offline => {
            fail(&format!("{reason}, and the network is off (FETCH_OFFLINE)"))
        }
        Err(Refusal::Beyond(reason)) => {
            say(
                call.stderr,
                &format!("{reason}; handing over to the real guix"),
            );
            Outcome::HandOver
        }
    }
}

/// Reads the derivation. Returns what is to be done, the output, and whether this is a check.
fn prepare(call: &Call<'_>, settings: &Settings) -> Result<(Work, String, bool), Refusal> {
    let wrong = |reason: String| Refusal::Wrong(reason);
    // A store in somebody's home, as developers have it, is not for everybody to read.
    let files = Beneath::open_public(Path::new(&settings.store))
        .map_err(|error| Refusal::Beyond(format!("the store cannot be read: {error}")))?;
    let store = Store {
        directory: &settings.store,
        files: &files,
    };
    let base_name = call
        .derivation
        .to_str()
        .and_then(|path| store.base_name(path))
        .filter(|name| name.ends_with(DERIVATION_SUFFIX))
        .ok_or_else(|| {
            wrong(format!(
                "'{}' is no derivation in the store {}",
                printable(call.derivation),
                settings.store
            ))
        })?;
    let derivation = read_derivation(&files, base_name)?;
    let own_output = derivation
        .outputs
        .iter()
        .find(|output| output.name == "out")
        .map(|output| output.path.clone())
        .ok_or_else(|| wrong("the derivation has no output 'out'".to_owned()))?;
    let output = match call.output {
        None => own_output.clone(),
        Some(output) => output
            .to_str()
            .map(str::to_owned)
            .ok_or_else(|| wrong(format!("'{}' is no store path", printable(output))))?,
    };
    if store.item_name(&output).is_none() {
        return Err(wrong(format!(
            "the output '{}' is not in the store {}",
            output.escape_debug(),
            settings.store
        )));
    }
    let is_check = output != own_output;
    let work = request::of(&derivation, &output, &store)?;
    if is_check && !work.upstream {
        return Err(Refusal::Beyond(
            "this is a check, which asks the network again".to_owned(),
        ));
    }
    Ok((work, output, is_check))
}

fn read_derivation(files: &Beneath, base_name: &str) -> Result<Derivation, Refusal> {
    let wrong = |reason: String| Refusal::Wrong(format!("the derivation {base_name}: {reason}"));
    let file = files
        .open_file(Path::new(base_name))
        .map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that too much is seen to be too much.
    file.take(derivation::MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(error.to_string()))?;
    Derivation::parse(&bytes).map_err(|error| wrong(error.to_string()))
}

fn fetch(
    call: &Call<'_>,
    settings: &Settings,
    work: Work,
    output: &str,
    is_check: bool,
) -> Outcome {
    let options = call
        .environment
        .text("_NIX_OPTIONS")
        .ok()
        .flatten()
        .map(|text| Options::parse(&text))
        .unwrap_or_default();
    let trace = Trace::new(output, options.trace, call.stdout, call.stderr);
    for warning in &work.warnings {
        trace.say(&format!("warning: {warning}"));
    }
    let places = match settings.places(is_check) {
        Ok(places) => places,
        Err(error) => {
            trace.say(&format!("error: {}", error.message));
            return Outcome::Failed;
        }
    };
    let policy = Policy {
        // Where the derivation's servers are not for us, the network is the real guix's.
        offline: !work.upstream || settings.offline,
        // Guix verifies no certificate here, and builds of old packages depend on that.
        trust_anybody: true,
        ..settings.policy()
    };
    let tell = |line: &str| trace.say(line);
    let ear = Ear {
        settings,
        log: Log::new(settings, REPAIR, &tell),
        trace: &trace,
    };
    let watch = Watch {
        interrupt: call.interrupt,
        progress: &trace,
    };
    let report = while_talking(&trace, options.max_silence, || {
        fetch::run(&work.request, &places, &policy, &ear, watch)
    });
    let outcome = judge(&trace, &work, &report, output, settings.offline);
    if outcome == Outcome::HandOver && settings.offline {
        trace.say("the network is off (FETCH_OFFLINE)");
        return Outcome::Failed;
    }
    outcome
}

/// Says how it ended. After a failure the real guix has its turn, which asks everything once more and then what we do
/// not: the Internet Archive, Disarchive and Software Heritage, ftp, servers whose certificates are not in order where
/// the hash is weak or a repository wanted, git for whatever only git can do. Not if a URL of the derivation sent
/// something else: that is the answer which a packager with a fake hash waits for, and guix would leave it too.
fn judge(trace: &Trace<'_>, work: &Work, report: &Report, output: &str, offline: bool) -> Outcome {
    let Err(error) = &report.result else {
        return Outcome::Left;
    };
    if let Some(location) = &report.left {
        trace.say(&format!(
            "nothing has the wanted hash; what {location} sent is left to the daemon, which tells its hash"
        ));
        return Outcome::Left;
    }
    match error.kind {
        // Only these speak of the output; the others name places that whoever asked may not know.
        ErrorKind::Local | ErrorKind::Interrupted => {
            trace.say(&format!("error: {}", error.message));
            match work.request.git {
                // The folder for temporary files may be too small; guix clones into the output itself.
                Some(_) if error.kind == ErrorKind::Local => Outcome::HandOver,
                _ => Outcome::Failed,
            }
        }
        _ if !work.upstream => {
            trace.say(if offline {
                "no local copy"
            } else {
                "no local copy; handing over to the real guix"
            });
            Outcome::HandOver
        }
        _ => {
            if error.kind == ErrorKind::Held {
                trace.say(&format!("waited long enough: {}", error.message));
            }
            let git = work.request.git.as_ref().map(|git| &git.url);
            let from = match work.request.urls.first().or(git) {
                Some(url) => format!(" from \"{url}\""),
                None => String::new(),
            };
            trace.say(&format!("failed to download \"{output}\"{from}"));
            Outcome::HandOver
        }
    }
}

/// Does `work` while another thread says now and then that it goes on.
fn while_talking<T>(
    trace: &Trace<'_>,
    max_silence: Option<Duration>,
    work: impl FnOnce() -> T,
) -> T {
    // A third leaves room for a machine that is busy with other things.
    let silence = max_silence.map_or(SILENCE, |max| SILENCE.min(max / 3));
    let (done, wait) = channel::<()>();
    std::thread::scope(|scope| {
        let talk = move || {
            while wait.recv_timeout(silence) == Err(RecvTimeoutError::Timeout) {
                trace.still_here(silence);
            }
        };
        // Without the thread the work is as good, and only a silent one may be killed.
        let talking = std::thread::Builder::new().spawn_scoped(scope, talk);
        drop(talking);
        let result = work();
        drop(done);
        result
    })
}
