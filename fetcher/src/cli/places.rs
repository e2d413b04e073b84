//! Where to look.

use std::path::PathBuf;

use clap::Args;
use store_index::store_option::StoreOption;

use super::Environment;
use crate::error::FetchError;
use crate::places::Named;

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Where to look")]
pub(crate) struct PlaceArgs {
    /// A store; paths are computed with DIR, files read below REAL [default: $NIX_STORE_DIR, $NIX_STORE, /gnu/store, /nix/store]
    #[arg(long, value_name = "DIR[=REAL]")]
    store: Vec<String>,
    /// An index, or a folder of indexes; its root counts as named too
    #[arg(long, value_name = "DIR")]
    index: Vec<PathBuf>,
    /// A folder or medium [default: discs, images of discs and removable disks that are mounted]
    #[arg(long, value_name = "DIR")]
    media: Vec<PathBuf>,
    /// No store but those named
    #[arg(long)]
    no_store: bool,
    /// No medium but those named
    #[arg(long)]
    no_media: bool,
    /// No local source at all
    #[arg(long)]
    no_local: bool,
}

impl PlaceArgs {
    pub(crate) fn interpret(
        self,
        environment: &Environment<'_>,
    ) -> Result<(Named, Option<String>), FetchError> {
        let env_store = match environment.text("NIX_STORE_DIR")? {
            Some(store) => Some(store),
            None => environment.text("NIX_STORE")?,
        };
        let texts = if self.store.is_empty() {
            let variable = environment.text("FETCH_STORE")?.unwrap_or_default();
            variable
                .split(':')
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .collect()
        } else {
            self.store
        };
        let stores: Vec<StoreOption> = texts
            .iter()
            .map(|text| {
                StoreOption::parse(text, env_store.as_deref()).map_err(|error| {
                    FetchError::usage(format!("--store '{}': {error}", text.escape_debug()))
                })
            })
            .collect::<Result<_, _>>()?;
        let named = Named {
            stores,
            indexes: environment.paths(self.index, "FETCH_INDEX"),
            media: environment.paths(self.media, "FETCH_MEDIA"),
            no_store: environment.switch(self.no_store, "FETCH_NO_STORE")?,
            no_media: environment.switch(self.no_media, "FETCH_NO_MEDIA")?,
            no_local: environment.switch(self.no_local, "FETCH_NO_LOCAL")?,
            builtin: false,
        };
        Ok((named, env_store))
    }
}
