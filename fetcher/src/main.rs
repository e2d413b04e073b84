//! `fetch`: parse, catch signals, run, print, exit. Nothing else prints or exits.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser as _;
use fetcher::cli::{Cli, Environment, Invocation, Parsed, Speech};
use fetcher::error::{FetchError, exit_code};
use fetcher::explain;
use fetcher::fetch;
use fetcher::guix::hand_over;
use fetcher::guix::perform::{self, Outcome};
use fetcher::nix;
use fetcher::places::Places;
use fetcher::report::{self, Attempt, AttemptResult, Listener};
use fetcher::request::Request;
use store_index::terminal::{Terminal, say};
use store_index::watch::Watch;

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
    let environment = |name: &str| std::env::var_os(name);
    if cli.is_builder() {
        return ExitCode::from(build(&Environment(&environment)));
    }
    let parsed = match cli.interpret(&Environment(&environment)) {
        Ok(parsed) => parsed,
        Err(error) => {
            print_error(
                &Terminal::new(store_index::terminal::ProgressMode::None),
                &error,
            );
            return ExitCode::from(error.kind.exit_code());
        }
    };
    ExitCode::from(run(&parsed))
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
    let environment = |name: &str| std::env::var_os(name);
    let outcome = perform::run(perform::Call {
        derivation,
        output,
        environment: &Environment(&environment),
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
    let named = std::env::var_os(hand_over::VARIABLE).filter(|path| !path.is_empty());
    let error = hand_over::exec(named.as_deref().map(Path::new), args);
    say(&format!("fetch: error: {error}"));
    exit_code::DAEMON_FAILURE
}

fn build(environment: &Environment<'_>) -> u8 {
    let interrupt = Arc::new(AtomicBool::new(false));
    // Without, an interrupted build leaves its output behind, which Nix removes.
    drop(catch_signals(&interrupt));
    nix::build(environment, &interrupt)
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
    let places = Places::open(&parsed.places, parsed.env_store.as_deref());
    match (&parsed.invocation, places) {
        (Invocation::Fetch { request, policy }, places) => {
            let report = match places {
                Ok(places) => {
                    for warning in &places.warnings {
                        voice.warning(warning);
                    }
                    fetch::run(request, &places, policy, &voice, watch)
                }
                Err(error) => report::Report {
                    attempts: Vec::new(),
                    result: Err(error),
                    left: None,
                    took: std::time::Duration::ZERO,
                },
            };
            if let Err(error) = &report.result {
                print_error(&terminal, error);
            }
            match print_result(request, &report, parsed.speech.json) {
                Ok(()) => report.exit_code(),
                // Whoever closed the pipe has seen enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => report.exit_code(),
                Err(error) => {
                    let error =
                        FetchError::local(format!("cannot write to standard output: {error}"));
                    print_error(&terminal, &error);
                    error.kind.exit_code()
                }
            }
        }
        (Invocation::Explain { request }, Ok(places)) => {
            for warning in &places.warnings {
                voice.warning(warning);
            }
            let explanation = explain::explain(request, &places, watch);
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
            // Whoever closed the pipe has seen enough.
            print(&text).map_or(found, |()| found)
        }
        (Invocation::Explain { .. }, Err(error)) => {
            print_error(&terminal, &error);
            error.kind.exit_code()
        }
    }
}

/// The first signal sets the flag, which ends the run in good order; the second ends it at once.
fn catch_signals(interrupt: &Arc<AtomicBool>) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM, SIGHUP] {
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
