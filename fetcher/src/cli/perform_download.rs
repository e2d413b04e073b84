//! `fetch perform-download`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(super) struct PerformDownloadArgs {
    /// The derivation, in the store
    #[arg(value_name = "DRV")]
    pub(super) derivation: PathBuf,
    /// Where the daemon wants the output [default: as the derivation says]
    #[arg(value_name = "OUTPUT")]
    pub(super) output: Option<PathBuf>,
}
