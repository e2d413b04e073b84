//! `store-index`: keeps indexes of stores, folders and media, and asks them.

mod cli;
mod commands;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use store_index::watch::{Watch, is_ignored};

use commands::Failure;
use store_index::terminal::{Terminal, say};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let failure = match run(&cli) {
        Ok(code) => return ExitCode::from(code),
        Err(failure) => failure,
    };
    match &failure {
        Failure::Usage(usage) => {
            say(&format!("error: {usage}"));
            if let Some(hint) = &usage.hint {
                say(&format!("hint: {hint}"));
            }
        }
        Failure::Interrupted => say("interrupted; what had been hashed is kept"),
        Failure::Local { message, hint } => {
            say(&format!("error: {message}"));
            if let Some(hint) = hint {
                say(&format!("hint: {hint}"));
            }
        }
        // Whoever read our output has gone, and has had enough of it.
        Failure::BrokenPipe => {}
    }
    ExitCode::from(failure.exit_code())
}

fn run(cli: &cli::Cli) -> Result<u8, Failure> {
    let interrupt = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        if is_ignored(signal) {
            continue;
        }
        // A second signal ends at once: a disc that does not answer must not hold the program.
        let second = signal_hook::flag::register_conditional_shutdown(
            signal,
            commands::INTERRUPTED.into(),
            Arc::clone(&interrupt),
        );
        let first = signal_hook::flag::register(signal, Arc::clone(&interrupt));
        if let Err(error) = second.and(first) {
            return Err(Failure::Local {
                message: format!("cannot catch signals: {error}"),
                hint: None,
            });
        }
    }
    let terminal = Terminal::new(cli.talk.style()?);
    let watch = Watch {
        interrupt: &interrupt,
        progress: &terminal,
    };
    match &cli.command {
        cli::Command::Update(args) => commands::update(args, &cli.talk, watch),
        cli::Command::Lookup(args) => commands::lookup(args, &cli.talk),
        cli::Command::Status(args) => commands::status(args, &cli.talk),
        cli::Command::Check(args) => commands::check(args, &cli.talk, watch),
        cli::Command::Media(args) => commands::media(args, &cli.talk),
        cli::Command::Completions { shell } => commands::completions(*shell),
        cli::Command::Man { directory } => commands::man(directory),
    }
}
