//! The store that builds here use, and how content gets into it: only through its own tools, which register what they
//! add. Nothing here writes into a store.

mod guix;
mod nix;

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use store_index::address::{ContentAddress, Method};
use store_index::path_text::{printable, printable_text};
use store_index::store_option::StoreOption;
use store_index::store_path::{FixedOutput, ItemName};
use store_index::store_state::StoreState;

use crate::error::FetchError;
use crate::places::Named;

/// Nix's store, and the program that adds to it.
const NIX_STORE: (&str, &str) = ("/nix/store", "nix-store");

/// Guix's store, and the program that adds to it.
const GUIX_STORE: (&str, &str) = ("/gnu/store", "guix");

/// How the directory of a Guix store ends, wherever it is.
const GUIX_STORE_END: &str = "gnu/store";

/// The most of what a tool says that is repeated, in bytes.
const MAX_SAID: usize = 2000;

/// The store of this machine's builds.
#[derive(Clone, Debug)]
pub struct PresentStore {
    /// What its paths begin with.
    logical: String,
    tool: Tool,
}

/// What adds to the store.
#[derive(Clone, Debug)]
enum Tool {
    /// `nix-store`.
    Nix,
    /// This `guix`.
    Guix(PathBuf),
}

impl PresentStore {
    /// Finds it: the first store that an option or variable names, else that of the environment, else the first of the
    /// configuration that is here, else the usual one whose program is here.
    pub fn find(
        named: &Named,
        env_store: Option<&str>,
        guix: Option<&Path>,
    ) -> Result<Self, FetchError> {
        let belongs_there = |store: &&StoreOption| store.real == Path::new(&store.logical);
        let mut at_home = named.stores.iter().filter(belongs_there);
        // A configuration speaks of what is often there.
        let is_configured = named.may_be_absent.stores;
        let logical = match (named.stores.first(), env_store) {
            (Some(first), _) if !is_configured => match at_home.next() {
                Some(store) => store.logical.clone(),
                None => {
                    return Err(FetchError::usage(format!(
                        "nothing can be added to the store {} at {}: only where it belongs does its daemon know it",
                        first.logical,
                        printable(&first.real)
                    )));
                }
            },
            (_, Some(store)) => {
                let option = StoreOption::parse(store, None).map_err(|error| {
                    FetchError::usage(format!("the store '{}': {error}", store.escape_debug()))
                })?;
                option.logical
            }
            _ => match at_home.find(|store| store.real.is_dir()) {
                Some(store) => store.logical.clone(),
                None => usual(guix)?,
            },
        };
        if logical.ends_with(GUIX_STORE_END) {
            let guix = guix.map_or_else(|| PathBuf::from(GUIX_STORE.1), Path::to_owned);
            let tool = Tool::Guix(guix);
            Ok(Self { logical, tool })
        } else {
            let tool = Tool::Nix;
            Ok(Self { logical, tool })
        }
    }

    /// Returns what its paths begin with.
    pub fn directory(&self) -> &str {
        &self.logical
    }

    /// Returns the path of a fixed output.
    pub fn path(&self, address: &ContentAddress, name: &ItemName) -> String {
        let base_name = FixedOutput::new(&self.logical, address).base_name(name);
        format!("{}/{base_name}", self.logical)
    }

    /// Says whether the store's tools can add what has such a hash: they know flat and NAR hashes.
    pub fn accepts(&self, address: &ContentAddress) -> Result<(), FetchError> {
        if address.method() == Method::Git {
            return Err(FetchError::usage(
                "what is named by a git id cannot be added to the store, whose tools know flat and nar hashes",
            )
            .with_hint("--mode nar, with the hash that the package states"));
        }
        Ok(())
    }

    /// Returns those of some paths that are not valid: what merely lies in the store may be the rest of a build that
    /// failed.
    pub fn missing(&self, paths: &[String]) -> Result<Vec<String>, FetchError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        match &self.tool {
            Tool::Nix => nix::missing(paths),
            Tool::Guix(guix) => guix::missing(guix, paths),
        }
    }

    /// The same for many: asks the store's database where everybody may read it, which is a thousand times faster.
    pub fn missing_of_many(&self, paths: &[String]) -> Result<Vec<String>, FetchError> {
        let directory = Path::new(&self.logical);
        let base_names = paths.iter().filter_map(|path| {
            let base_name = Path::new(path).strip_prefix(directory).ok()?;
            base_name.to_str()
        });
        match StoreState::of(&self.logical, directory).missing(base_names) {
            Ok(Some(missing)) => Ok(missing
                .into_iter()
                .map(|base_name| format!("{}/{base_name}", self.logical))
                .collect()),
            Ok(None) | Err(_) => self.missing(paths),
        }
    }

    /// Adds content that lies at `content`, whose last part is its name in the store. Returns its path there, which
    /// is the one that was computed, or an error.
    pub fn add(
        &self,
        address: &ContentAddress,
        name: &ItemName,
        content: &Path,
    ) -> Result<String, FetchError> {
        let expected = self.path(address, name);
        let printed = match &self.tool {
            Tool::Nix => nix::add(address, content)?,
            Tool::Guix(guix) => guix::add(guix, address, name, content)?,
        };
        if printed == expected {
            return Ok(expected);
        }
        Err(FetchError::local(format!(
            "the store made {} of {name}, and builds look for {expected}",
            printed.escape_debug()
        ))
        .with_hint("is it another store than the one that was named?"))
    }
}

/// Returns the usual store whose program is here.
fn usual(guix: Option<&Path>) -> Result<String, FetchError> {
    let has_guix = guix.is_some() || is_in_path(GUIX_STORE.1);
    let has_nix = is_in_path(NIX_STORE.1);
    for (store, has_program) in [(NIX_STORE.0, has_nix), (GUIX_STORE.0, has_guix)] {
        if has_program && Path::new(store).is_dir() {
            return Ok(store.to_owned());
        }
    }
    Err(FetchError::local(
        "there is no store to add to: neither /nix/store with nix-store nor /gnu/store with guix is here",
    )
    .with_hint("name the store with --store, and the real guix with FETCH_GUIX or in the configuration"))
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| {
        fs_err::metadata(folder.join(program))
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

/// Runs a tool and returns what it printed, without the end of the last line.
fn run(command: &mut Command) -> Result<String, FetchError> {
    let program = printable(Path::new(command.get_program()));
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        FetchError::local(format!("cannot run {program}: {error}"))
            .with_hint("is it installed, and in PATH?")
    })?;
    if !output.status.success() {
        let said = &output.stderr[output.stderr.len().saturating_sub(MAX_SAID)..];
        let said = String::from_utf8_lossy(said);
        let said: Vec<_> = said.lines().map(printable_text).collect();
        return Err(FetchError::local(format!(
            "{program} could not do it ({})\n  {}",
            output.status,
            said.join("\n  ")
        )));
    }
    let text = String::from_utf8(output.stdout)
        .map_err(|_| FetchError::local(format!("{program} printed something that is no text")))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Returns the name of an algorithm as both tools know it.
fn algorithm(address: &ContentAddress) -> &'static OsStr {
    OsStr::new(address.algorithm().name())
}
