//! `store-index completions` and `store-index man`.

use std::path::Path;

use clap::CommandFactory as _;
use store_index::manual::{self, Shell};

use super::{DONE, Failure, print_bytes};
use crate::cli::Cli;

pub(crate) fn completions(shell: Shell) -> Result<u8, Failure> {
    print_bytes(&manual::completions(Cli::command(), shell))?;
    Ok(DONE)
}

pub(crate) fn man(directory: &Path) -> Result<u8, Failure> {
    manual::write_pages(Cli::command(), directory).map_err(|error| Failure::Local {
        message: format!("cannot write the manual pages: {error}"),
        hint: Some("the directory must be there and writable".to_owned()),
    })?;
    Ok(DONE)
}
