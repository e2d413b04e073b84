//! Guix's store, by `guix repl`. `guix download` adds flat files by sha256 alone, so the daemon is asked by a script
//! of a few lines, the same for every method and algorithm. Since Guix 1.2 `guix repl` runs scripts.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use store_index::address::{ContentAddress, Method};
use store_index::store_path::ItemName;

use super::{algorithm, run};
use crate::error::FetchError;

/// What Guile is told. Everything that varies is an argument, so nothing needs quoting.
const SCRIPT: &str = r#"(use-modules (guix store) (ice-9 match))
(with-store store
  (match (cdr (command-line))
    (("missing" . paths)
     (for-each (lambda (path)
                 (unless (valid-path? store path)
                   (display path)
                   (newline)))
               paths))
    (("add" name method algorithm file)
     (display (add-to-store store name (string=? method "nar") algorithm file))
     (newline))))
"#;

/// The most paths that are asked about at once: command lines have an end.
const MAX_ASKED: usize = 500;

pub(super) fn missing(guix: &Path, paths: &[String]) -> Result<Vec<String>, FetchError> {
    let mut missing = Vec::new();
    for some in paths.chunks(MAX_ASKED) {
        let printed = script(guix, |command| command.arg("missing").args(some))?;
        missing.extend(printed.lines().map(str::to_owned));
    }
    Ok(missing)
}

pub(super) fn add(
    guix: &Path,
    address: &ContentAddress,
    name: &ItemName,
    content: &Path,
) -> Result<String, FetchError> {
    let method = match address.method() {
        Method::Nar => "nar",
        Method::Flat | Method::Git => "flat",
    };
    script(guix, |command| {
        command
            .args(["add", name.as_str(), method])
            .arg(algorithm(address))
            .arg(content)
    })
}

fn script(
    guix: &Path,
    arguments: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<String, FetchError> {
    let trouble = |error: std::io::Error| {
        FetchError::local(format!("cannot write a script for guix: {error}"))
    };
    let mut file = tempfile::Builder::new()
        .prefix("fetch-")
        .suffix(".scm")
        .tempfile()
        .map_err(trouble)?;
    file.write_all(SCRIPT.as_bytes()).map_err(trouble)?;
    run(arguments(
        Command::new(guix)
            .args(["repl", "-q", "--"])
            .arg(file.path()),
    ))
}
