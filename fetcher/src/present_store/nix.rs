//! Nix's store, by `nix-store`, which asks the daemon where there is one. `NIX_*` variables are the caller's.

use std::path::Path;
use std::process::Command;

use store_index::address::{ContentAddress, Method};

use super::{NIX_STORE, algorithm, run};
use crate::error::FetchError;

/// The most paths that are asked about at once: command lines have an end.
const MAX_ASKED: usize = 500;

pub(super) fn missing(paths: &[String]) -> Result<Vec<String>, FetchError> {
    let mut missing = Vec::new();
    for some in paths.chunks(MAX_ASKED) {
        // Ends well unless a path is of another store than Nix's.
        let printed = run(Command::new(NIX_STORE.1)
            .args(["--check-validity", "--print-invalid"])
            .args(some))?;
        missing.extend(printed.lines().map(str::to_owned));
    }
    Ok(missing)
}

pub(super) fn add(address: &ContentAddress, content: &Path) -> Result<String, FetchError> {
    let mut command = Command::new(NIX_STORE.1);
    command.arg("--add-fixed");
    if address.method() == Method::Nar {
        command.arg("--recursive");
    }
    run(command.arg(algorithm(address)).arg(content))
}
