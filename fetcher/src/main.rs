//! `fetch`: parse, catch signals, run, print, exit. Nothing else prints or exits.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory as _, Parser as _};
use fetcher::add_fixed;
use fetcher::batch;
use fetcher::cli::{
    CacheTask, Cli, Environment, Invocation, Parsed, SelfDescription, Speech, Task,
};
use fetcher::configuration::Configuration;
use fetcher::error::{FetchError, exit_code};
use fetcher::explain;
use fetcher::fetch::{self, Policy};
use fetcher::guix::hand_over;
use fetcher::guix::perform::{self, Outcome};
use fetcher::metrics::{Metrics, Run};
use fetcher::nix;
use fetcher::places::Places;
use fetcher::prefetch;
use fetcher::present_store::PresentStore;
use fetcher::report::{self, Attempt, AttemptResult, Listener};
use fetcher::request::Request;
use store_index::manual;
use store_index::path_text::printable;
use store_index::store_path::ItemName;
use store_index::terminal::{Terminal, say};
use store_index::watch::{Watch, is_ignored};

/// What guix-daemon asks of us.
const PERFORM_DOWNLOAD: &str = "perform-download";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if hand_over::is_called_guix(args.first().map(OsString::as_os_str)) {
        return ExitCode::from(as_guix(args.get(1..).unwrap_or_default()));
    }
    // clap ends with 2 by itself on a bad command line, and with 0 after --help.
    let cli = Cli::parse();
    if let Some((derivation, output)) = cli.perform_download() {
        return ExitCode::from(perform_download(derivation, output));
    }
    if cli.is_builder() {
        return ExitCode::from(build());
    }
    let variables = |name: &str| std::env::var_os(name);
    let task = cli.interpret(|| {
        Ok(Environment {
            variables: &variables,
            configuration: Configuration::of_user(&variables)?,
        })
    });
    let code = match task {
        Ok(Task::Run(parsed)) => run(&parsed),
        Ok(Task::Describe(what)) => describe(&what).unwrap_or_else(|error| fail(&error)),
        Err(error) => fail(&error),
    };
    ExitCode::from(code)
}

/// Ends before there was anything to do.
fn fail(error: &FetchError) -> u8 {
    let terminal = Terminal::new(store_index::terminal::ProgressMode::None);
    print_error(&terminal, error);
    error.kind.exit_code()
}

/// Tells of the program itself.
fn describe(what: &SelfDescription) -> Result<u8, FetchError> {
    match what {
        SelfDescription::Completions(shell) => {
            let script = manual::completions(Cli::command(), *shell);
            match std::io::stdout().lock().write_all(&script) {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    return Err(FetchError::local(format!(
                        "cannot write to standard output: {error}"
                    )));
                }
                _ => {}
            }
        }
        SelfDescription::Manual(directory) => {
            manual::write_pages(Cli::command(), directory).map_err(|error| {
                FetchError::local(format!("cannot write the manual pages: {error}"))
                    .with_hint("the directory must be there and writable")
            })?;
        }
    }
    Ok(exit_code::OK)
}

/// What guix-daemon runs for all that it delegates; nothing is set up before it is known to be ours.
fn as_guix(args: &[OsString]) -> u8 {
    let is_option = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-");
    match args {
        [command, rest @ ..] if command == PERFORM_DOWNLOAD && !rest.iter().any(is_option) => {
            match rest {
                [derivation] => perform_download(Path::new(derivation), None),
                [derivation, output] => {
                    perform_download(Path::new(derivation), Some(Path::new(output)))
                }
                _ => {
                    say(
                        "fetch: error: perform-download wants a derivation, and where its output goes",
                    );
                    exit_code::DAEMON_FAILURE
                }
            }
        }
        _ => become_guix(args),
    }
}

fn perform_download(derivation: &Path, output: Option<&Path>) -> u8 {
    let interrupt = Arc::new(AtomicBool::new(false));
    if let Err(error) = catch_signals(&interrupt) {
        say(&format!(
            "fetch: warning: signals cannot be caught: {error}"
        ));
    }
    let variables = |name: &str| std::env::var_os(name);
    let outcome = perform::run(perform::Call {
        derivation,
        output,
        environment: &for_daemon(&variables),
        interrupt: &interrupt,
        // A daemon that no longer listens has killed us, or is about to.
        stdout: &|line| drop(print(&format!("{line}\n"))),
        stderr: &say,
    });
    match outcome {
        Outcome::Left => exit_code::OK,
        Outcome::Failed => exit_code::DAEMON_FAILURE,
        Outcome::HandOver => {
            let args = [OsStr::new(PERFORM_DOWNLOAD), derivation.as_os_str()];
            let args = args.into_iter().chain(output.map(Path::as_os_str));
            become_guix(&args.map(OsStr::to_owned).collect::<Vec<_>>())
        }
    }
}

/// The real guix takes over, and if it cannot, that is the end.
fn become_guix(args: &[OsString]) -> u8 {
    let named = match std::env::var_os(hand_over::VARIABLE).filter(|path| !path.is_empty()) {
        Some(named) => Some(named.into()),
        // What was named and cannot be read must not become another guix.
        None => {
            let system = Configuration::system();
            match (system.configuration.guix, system.mistake) {
                (None, Some(error)) => {
                    say(&format!("fetch: error: {error}"));
                    return exit_code::DAEMON_FAILURE;
                }
                (guix, _) => guix,
            }
        }
    };
    let error = hand_over::exec(named.as_deref(), args);
    say(&format!("fetch: error: {error}"));
    exit_code::DAEMON_FAILURE
}

/// What configures us when a daemon runs us: its environment and the system's file, no user's.
fn for_daemon<'a>(variables: &'a dyn Fn(&str) -> Option<OsString>) -> Environment<'a> {
    let system = Configuration::system();
    for warning in system.warnings {
        say(&format!("fetch: warning: {warning}"));
    }
    Environment {
        variables,
        configuration: system.configuration,
    }
}

fn build() -> u8 {
    let interrupt = Arc::new(AtomicBool::new(false));
    // Without, an interrupted build leaves its output behind, which Nix removes.
    drop(catch_signals(&interrupt));
    let variables = |name: &str| std::env::var_os(name);
    nix::build(&for_daemon(&variables), &interrupt)
}

fn run(parsed: &Parsed) -> u8 {
    let terminal = Terminal::new(parsed.speech.progress);
    let voice = Voice {
        terminal: &terminal,
        speech: parsed.speech,
    };
    let interrupt = Arc::new(AtomicBool::new(false));
    if let Err(error) = catch_signals(&interrupt) {
        voice.warning(&format!(
            "signals cannot be caught, so an interrupted run may leave files: {error}"
        ));
    }
    for warning in &parsed.warnings {
        voice.warning(warning);
    }
    let watch = Watch {
        interrupt: &interrupt,
        progress: &terminal,
    };
    match &parsed.invocation {
        Invocation::Fetch {
            request,
            policy,
            add,
        } => {
            let store = add.as_ref().map(|name| (parsed, name));
            let report = match open(parsed, &voice) {
                Ok(places) => fetch_and_add(request, store, &places, policy, &voice, watch),
                Err(error) => report::Report::failed(error),
            };
            if let Err(error) = &report.result {
                print_error(&terminal, error);
            }
            let end = report.result.as_ref().map_err(|error| error.kind);
            let run = Run {
                attempts: &report.attempts,
                end: end.map(|done| Some((done.kind, done.bytes))),
                took: report.took,
            };
            measure(policy, &run, &voice);
            let printed = print_result(request, &report, parsed.speech.json);
            finish(&terminal, printed, report.exit_code())
        }
        Invocation::Prefetch { wish, policy } => {
            let opened = open(parsed, &voice).and_then(|places| Ok((places, store(parsed)?)));
            let report = match opened {
                Ok((places, store)) => prefetch::run(wish, &store, &places, policy, &voice, watch),
                Err(error) => prefetch::Report::failed(wish, error),
            };
            let end = report.result.as_ref().map_err(|error| error.kind);
            let delivered = |item: &prefetch::Item| {
                let source = item.source.as_ref();
                source.map(|source| (source.kind, source.bytes))
            };
            let run = Run {
                attempts: &report.attempts,
                end: end.map(delivered),
                took: report.took,
            };
            measure(policy, &run, &voice);
            if let Err(error) = &report.result {
                print_error(&terminal, error);
            }
            let text = if parsed.speech.json {
                report.to_json() + "\n"
            } else {
                report.to_text()
            };
            finish(&terminal, print(&text), report.exit_code())
        }
        Invocation::AddFixed { wish } => {
            let opened = open(parsed, &voice).and_then(|places| Ok((places, store(parsed)?)));
            let report = match opened {
                Ok((places, store)) => add_fixed::run(wish, &store, &places, &voice, watch),
                Err(error) => add_fixed::Report::failed(error),
            };
            if let Some(error) = &report.error {
                print_error(&terminal, error);
            }
            let text = if parsed.speech.json {
                report.to_json() + "\n"
            } else {
                report.to_text()
            };
            finish(&terminal, print(&text), report.exit_code())
        }
        Invocation::Batch { wish, policy } => {
            let report = match open(parsed, &voice) {
                Ok(mut places) => batch::run(wish, &mut places, policy, &voice, watch),
                Err(error) => batch::Report::failed(error),
            };
            if let Some(error) = report.error() {
                print_error(&terminal, error);
            }
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            let printed = if parsed.speech.json {
                report.write_json(&mut out)
            } else {
                report.write_text(&mut out).and_then(|()| out.flush())
            };
            finish(&terminal, printed, report.exit_code())
        }
        Invocation::Explain { request, access } => {
            let places = match open(parsed, &voice) {
                Ok(places) => places,
                Err(error) => {
                    print_error(&terminal, &error);
                    return error.kind.exit_code();
                }
            };
            let explanation = explain::explain(request, &places, &access.rules, watch);
            let text = if parsed.speech.json {
                explanation.to_json() + "\n"
            } else {
                explanation.to_text()
            };
            let found = if explanation.found() {
                exit_code::OK
            } else {
                exit_code::NOT_FOUND
            };
            finish(&terminal, print(&text), found)
        }
        Invocation::Cache { task } => match open(parsed, &voice) {
            Ok(places) => see_to_cache(*task, &places, &voice, watch),
            Err(error) => {
                print_error(&terminal, &error);
                error.kind.exit_code()
            }
        },
    }
}

/// Adds what a fetch did to the file for it, if one was named.
fn measure(policy: &Policy, run: &Run<'_>, voice: &Voice<'_>) {
    let Some(file) = &policy.metrics else {
        return;
    };
    let mut metrics = Metrics::default();
    metrics.add(run);
    if let Err(error) = metrics.add_to(file) {
        voice.warning(&format!(
            "the metrics cannot be added to {}: {error}",
            printable(file)
        ));
    }
}

/// `fetch cache`.
fn see_to_cache(task: CacheTask, places: &Places, voice: &Voice<'_>, watch: Watch<'_>) -> u8 {
    if let Some(why) = places.state.why_unusable() {
        voice.warning(&why);
    }
    let mut code = exit_code::OK;
    let or_json = |json: &dyn Fn() -> String, text: &dyn Fn() -> String| match voice.speech.json {
        true => json() + "\n",
        false => text(),
    };
    let text = match task {
        CacheTask::Status => {
            let usage = places.state.usage();
            or_json(&|| usage.to_json(), &|| usage.to_text())
        }
        CacheTask::Gc { all, copies } => {
            let collected = places.state.collect(all, &copies);
            or_json(&|| collected.to_json(), &|| collected.to_text())
        }
        CacheTask::Verify => {
            let checked = places.state.check(watch);
            if watch.interrupted() {
                code = exit_code::INTERRUPTED;
            } else if !checked.is_sound() {
                code = exit_code::CHANGED;
            }
            or_json(&|| checked.to_json(), &|| checked.to_text())
        }
        CacheTask::Forget => match places.state.forget() {
            Ok(()) => or_json(&|| r#"{"version":1}"#.to_owned(), &String::new),
            Err(error) => {
                let error = FetchError::local(format!("what failed cannot be forgotten: {error}"));
                print_error(voice.terminal, &error);
                return error.kind.exit_code();
            }
        },
    };
    // Whoever closed the pipe has seen enough.
    print(&text).map_or(code, |()| code)
}

/// Opens the places that may be asked, and says what was left out.
fn open(parsed: &Parsed, voice: &Voice<'_>) -> Result<Places, FetchError> {
    let places = Places::open(&parsed.places, parsed.env_store.as_deref())?;
    for warning in &places.warnings {
        voice.warning(warning);
    }
    Ok(places)
}

/// Finds the store that is added to.
fn store(parsed: &Parsed) -> Result<PresentStore, FetchError> {
    PresentStore::find(
        &parsed.places,
        parsed.env_store.as_deref(),
        parsed.guix.as_deref(),
    )
}

/// Fetches and, if that is wanted, adds the output to the store under a name.
fn fetch_and_add(
    request: &Request,
    add: Option<(&Parsed, &ItemName)>,
    places: &Places,
    policy: &Policy,
    voice: &Voice<'_>,
    watch: Watch<'_>,
) -> report::Report {
    // That there is no store is better known before a download.
    let add = add.map(|(parsed, name)| {
        let store = store(parsed)?;
        store.accepts(&request.address)?;
        Ok((store, name))
    });
    let add = match add.transpose() {
        Ok(add) => add,
        Err(error) => return report::Report::failed(error),
    };
    let mut report = fetch::run(request, places, policy, voice, watch);
    if let (Ok(_), Some((store, name))) = (&report.result, add) {
        match prefetch::add_output(request, name, &store, watch) {
            Ok(added) => {
                report.added = Some(added);
                for line in report.added_text(request) {
                    voice.note(&line);
                }
            }
            Err(mut error) => {
                error
                    .message
                    .push_str("\n  the output is there and verified, and was not added");
                report.result = Err(error);
            }
        }
    }
    report
}

/// Ends with a code, unless what was to be printed found no place. Whoever closed the pipe has seen enough.
fn finish(terminal: &Terminal, printed: std::io::Result<()>, code: u8) -> u8 {
    match printed {
        Ok(()) => code,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => code,
        Err(error) => {
            let error = FetchError::local(format!("cannot write to standard output: {error}"));
            print_error(terminal, &error);
            error.kind.exit_code()
        }
    }
}

/// The first signal sets the flag, which ends the run in good order; the second ends it at once. What whoever started us
/// wants to be ignored is.
fn catch_signals(interrupt: &Arc<AtomicBool>) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if is_ignored(signal) {
            continue;
        }
        let at_once = i32::from(exit_code::INTERRUPTED);
        signal_hook::flag::register_conditional_shutdown(signal, at_once, Arc::clone(interrupt))?;
        signal_hook::flag::register(signal, Arc::clone(interrupt))?;
    }
    Ok(())
}

fn print_result(request: &Request, report: &report::Report, json: bool) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    if json {
        return print(&(report.to_json(request) + "\n"));
    }
    match (report::output_path(request), &report.result) {
        (Some(path), Ok(_)) => {
            let mut line = path.as_os_str().as_bytes().to_vec();
            line.push(b'\n');
            std::io::stdout().lock().write_all(&line)
        }
        _ => Ok(()),
    }
}

fn print(text: &str) -> std::io::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes())
}

fn print_error(terminal: &Terminal, error: &FetchError) {
    terminal.line(&format!("fetch: error: {error}"));
    if let Some(hint) = &error.hint {
        terminal.line(&format!("fetch: hint: {hint}"));
    }
}

struct Voice<'a> {
    terminal: &'a Terminal,
    speech: Speech,
}

impl Voice<'_> {
    /// Says what is worth knowing and no trouble.
    fn note(&self, message: &str) {
        if !self.speech.quiet {
            self.terminal.line(&format!("fetch: {message}"));
        }
    }
}

impl Listener for Voice<'_> {
    fn warning(&self, message: &str) {
        if !self.speech.quiet {
            self.terminal.line(&format!("fetch: warning: {message}"));
        }
    }

    fn loud_warning(&self, message: &str) {
        self.terminal.line(&format!("fetch: warning: {message}"));
    }

    fn attempt(&self, attempt: &Attempt) {
        // What went wrong is worth a line by itself; the rest on request.
        let trouble = matches!(
            attempt.result,
            AttemptResult::Mismatch | AttemptResult::Failed
        );
        if self.speech.quiet || !(trouble || self.speech.verbose) {
            return;
        }
        let reason = attempt
            .reason
            .as_ref()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        self.terminal.line(&format!(
            "fetch: {} {}: {}{reason}",
            attempt.kind.name(),
            attempt.location,
            attempt.result.name()
        ));
    }
}
