//! Where to look.

use std::path::PathBuf;

use clap::Args;
use store_index::store_option::StoreOption;

use super::Environment;
use super::what::parse_url;
use crate::archives::Archive;
use crate::error::FetchError;
use crate::places::{MayBeAbsent, Named};
use crate::source_url::SourceUrl;

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Where to look")]
pub(crate) struct PlaceArgs {
    /// A store; paths are computed with DIR, files read below REAL [default: $NIX_STORE_DIR, $NIX_STORE, /gnu/store, /nix/store]
    #[arg(long, value_name = "DIR[=REAL]")]
    store: Vec<String>,
    /// An index, or a folder of indexes; its root counts as named too
    #[arg(long, value_name = "DIR")]
    index: Vec<PathBuf>,
    /// A folder or medium; a network or FUSE mount below it must be named itself [default: discs, images of discs and removable disks that are mounted]
    #[arg(long, value_name = "DIR")]
    media: Vec<PathBuf>,
    /// A server that names files by their hashes: ALGORITHM/HEX, ALGORITHM/NIX32 or as `guix publish` does; asked before the URLs
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// A public archive, asked last, which tells it the hash: software-heritage or internet-archive (a copy of the first URL)
    #[arg(long, value_name = "NAME[=URL]")]
    archive: Vec<String>,
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
        let texts = match environment.text("FETCH_STORE")? {
            Some(variable) if self.store.is_empty() => {
                let texts = variable.split(':').filter(|text| !text.is_empty());
                Some(texts.map(str::to_owned).collect())
            }
            _ => (!self.store.is_empty()).then_some(self.store),
        };
        let parse = |text: &String| {
            StoreOption::parse(text, env_store.as_deref()).map_err(|error| {
                FetchError::usage(format!("--store '{}': {error}", text.escape_debug()))
            })
        };
        let stores = texts
            .map(|texts: Vec<String>| texts.iter().map(parse).collect::<Result<Vec<_>, _>>())
            .transpose()?;
        let media = environment.paths(self.media, "FETCH_MEDIA");
        let indexes = environment.paths(self.index, "FETCH_INDEX");
        let mirrors = environment.words(self.mirror, "FETCH_MIRROR")?;
        let archives = environment.words(self.archive, "FETCH_ARCHIVE")?;
        let configured = environment.configuration.clone();
        let switch = |given, name, configured| environment.switch_or(given, name, configured);
        let named = Named {
            may_be_absent: MayBeAbsent {
                stores: stores.is_none(),
                media: media.is_none(),
            },
            stores: stores.or(configured.stores).unwrap_or_default(),
            indexes: indexes.or(configured.indexes).unwrap_or_default(),
            media: media.or(configured.media).unwrap_or_default(),
            media_globs: configured.media_globs.unwrap_or_default(),
            no_store: switch(self.no_store, "FETCH_NO_STORE", configured.no_store)?,
            no_media: switch(self.no_media, "FETCH_NO_MEDIA", configured.no_media)?,
            no_local: switch(self.no_local, "FETCH_NO_LOCAL", configured.no_local)?,
            mirrors: if mirrors.is_empty() {
                configured.mirrors.unwrap_or_default()
            } else {
                mirrors
                    .iter()
                    .map(|text| mirror(text))
                    .collect::<Result<_, _>>()?
            },
            archives: if archives.is_empty() {
                configured.archives.unwrap_or_default()
            } else {
                archives
                    .iter()
                    .map(|text| archive(text))
                    .collect::<Result<_, _>>()?
            },
            state: environment.state_folder(),
            builtin: false,
        };
        Ok((named, env_store))
    }
}

fn archive(text: &str) -> Result<Archive, FetchError> {
    Archive::parse(text)
        .map_err(|why| FetchError::usage(format!("--archive '{}': {why}", text.escape_debug())))
}

fn mirror(text: &str) -> Result<SourceUrl, FetchError> {
    let url = parse_url(text)?;
    if !url.is_http() {
        return Err(FetchError::usage(format!(
            "the mirror {url} cannot be asked: http:// or https:// is wanted"
        )));
    }
    Ok(url)
}
