//! Which fixed outputs a build of some derivations needs: a walk over their inputs as far as something is to be built.
//!
//! Anybody may put a derivation into a store. Its inputs count only if they are items of the same store, opened
//! beneath it; none is read twice, and there is an end to how many are.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use store_index::address::ContentAddress;
use store_index::beneath::Beneath;
use store_index::path_text::printable;
use store_index::store_path::{ItemName, split_base_name};
use store_index::watch::Watch;

use crate::derivation::{Derivation, MAX_BYTES};
use crate::error::FetchError;
use crate::present_store::PresentStore;
use crate::source_url::SourceUrl;

/// The most derivations that are read. A whole system from its bootstrap on has some fifty thousand.
const MAX_DERIVATIONS: usize = 500_000;

/// The most bytes of derivations that are read, ten times those of a whole system: what is read of one level is held.
const MAX_READ_BYTES: u64 = 1 << 30;

/// The most URLs of a derivation that are looked at: they only give names.
const MAX_URLS: usize = 64;

/// A fixed output that is needed.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Its path as the derivation says it.
    pub(super) path: String,
    /// What it is to contain, or why that cannot be said.
    pub(super) address: Result<ContentAddress, String>,
    /// Where the network has it.
    pub(super) urls: Vec<SourceUrl>,
    /// Whether the store has it.
    pub(super) is_valid: bool,
}

/// A derivation as far as the walk needs it.
#[derive(Debug)]
struct Node {
    /// The outputs that are needed of it: all of those that were named, the ones asked for of an input.
    outputs: Vec<String>,
    fixed: Option<Wanted>,
    /// The length of its text.
    bytes: u64,
    inputs: BTreeMap<String, Vec<String>>,
}

/// Returns the fixed outputs that are needed to build the derivations.
pub(super) fn wanted(
    derivations: &[PathBuf],
    store: &PresentStore,
    watch: Watch<'_>,
) -> Result<Vec<Wanted>, FetchError> {
    let mut level = Vec::new();
    for path in derivations {
        let file = fs_err::File::open(path).map_err(|error| unreadable(path, &error))?;
        level.push(Node::read(path, file.into_file(), None)?);
    }
    let mut walk = Walk {
        store,
        root: None,
        seen: HashSet::new(),
        read_bytes: 0,
        wanted: Vec::new(),
        wanted_paths: HashSet::new(),
    };
    while !level.is_empty() {
        level = walk.step(level, watch)?;
    }
    Ok(walk.wanted)
}

struct Walk<'a> {
    store: &'a PresentStore,
    /// The store, opened at the first input.
    root: Option<Beneath>,
    /// The inputs that were met, each with the outputs that were asked for.
    seen: HashSet<(String, Vec<String>)>,
    read_bytes: u64,
    wanted: Vec<Wanted>,
    wanted_paths: HashSet<String>,
}

impl Walk<'_> {
    /// Settles one level of the graph, and returns the next.
    fn step(&mut self, level: Vec<Node>, watch: Watch<'_>) -> Result<Vec<Node>, FetchError> {
        let ours = |path: &&String| is_item(self.store.directory(), path);
        let all: Vec<String> = level
            .iter()
            .flat_map(|node| &node.outputs)
            .filter(ours)
            .cloned()
            .collect();
        let missing: HashSet<String> = self.store.missing_of_many(&all)?.into_iter().collect();
        let is_valid =
            |path: &String| is_item(self.store.directory(), path) && !missing.contains(path);
        let mut next = Vec::new();
        for node in level {
            // What a fixed output is made with is of no use if its content is here, nor without a network if not.
            if let Some(mut wanted) = node.fixed {
                wanted.is_valid = is_valid(&wanted.path);
                if self.wanted_paths.insert(wanted.path.clone()) {
                    self.wanted.push(wanted);
                }
                continue;
            }
            let is_built = !node.outputs.is_empty() && node.outputs.iter().all(is_valid);
            if is_built {
                continue;
            }
            for input in node.inputs {
                if watch.interrupted() {
                    return Err(FetchError::interrupted());
                }
                if !self.seen.insert(input.clone()) {
                    continue;
                }
                if self.seen.len() > MAX_DERIVATIONS {
                    return Err(FetchError::local(format!(
                        "the derivations have more than {MAX_DERIVATIONS} others as inputs, which no build has"
                    )));
                }
                next.push(self.read_input(&input.0, &input.1)?);
            }
        }
        Ok(next)
    }

    fn read_input(&mut self, path: &str, outputs: &[String]) -> Result<Node, FetchError> {
        let store = self.store.directory();
        let shown = Path::new(path);
        if !is_item(store, path) || !path.ends_with(".drv") {
            return Err(FetchError::local(format!(
                "a derivation has an input {} that is no derivation in the store {store}",
                printable(shown)
            ))
            .with_hint("is it another store's? --store says which one is meant"));
        }
        let root = match &mut self.root {
            Some(root) => root,
            none => {
                let root = Beneath::open(Path::new(store));
                none.insert(root.map_err(|error| unreadable(Path::new(store), &error))?)
            }
        };
        let base_name = &path[store.len() + 1..];
        let file = root
            .open_file(Path::new(base_name))
            .map_err(|error| unreadable(shown, &error))?;
        let node = Node::read(shown, file, Some(outputs))?;
        self.read_bytes += node.bytes;
        if self.read_bytes > MAX_READ_BYTES {
            return Err(FetchError::local(format!(
                "the derivations are larger than {MAX_READ_BYTES} bytes together, which no build's are"
            )));
        }
        Ok(node)
    }
}

impl Node {
    fn read(path: &Path, file: File, needed: Option<&[String]>) -> Result<Self, FetchError> {
        let mut bytes = Vec::new();
        let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
        if !metadata.is_file() {
            return Err(unreadable(path, &"it is no file"));
        }
        file.take(MAX_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error: io::Error| unreadable(path, &error))?;
        let derivation = Derivation::parse(&bytes).map_err(|error| unreadable(path, &error))?;
        let is_needed = |name: &String| needed.is_none_or(|needed| needed.contains(name));
        let outputs = derivation
            .outputs
            .iter()
            .filter(|output| is_needed(&output.name))
            .map(|output| output.path.clone());
        let mut outputs: Vec<String> = outputs.collect();
        if derivation.fixed_output().is_some() {
            // Its only output, by whatever name it is asked for: what nobody looked at would pass for present.
            outputs = vec![derivation.outputs[0].path.clone()];
        }
        let fixed = derivation.fixed_output().map(|output| Wanted {
            path: derivation.outputs[0].path.clone(),
            address: output
                .map(|output| output.address)
                .map_err(|error| error.to_string()),
            urls: urls(&derivation),
            is_valid: false,
        });
        Ok(Self {
            outputs,
            bytes: bytes.len() as u64,
            fixed,
            inputs: derivation.input_derivations,
        })
    }
}

/// Returns the URLs of a derivation: words as Nix has them, quoted strings as Guix writes them. What cannot be read
/// costs a name to look for, no more.
fn urls(derivation: &Derivation) -> Vec<SourceUrl> {
    ["url", "urls"]
        .iter()
        .filter_map(|name| derivation.variable(name))
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(|c: char| c.is_ascii_whitespace() || "()\"".contains(c)))
        .filter(|word| !word.is_empty())
        .take(MAX_URLS)
        .filter_map(|word| SourceUrl::parse(word).ok())
        .collect()
}

/// Returns whether a path is one directly in a store, which its tools would take for one too.
fn is_item(store: &str, path: &str) -> bool {
    path.strip_prefix(store)
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(split_base_name)
        .is_some_and(|(_, name)| ItemName::new(name).is_ok())
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> FetchError {
    FetchError::local(format!(
        "cannot read the derivation {}: {error}",
        printable(path)
    ))
}
