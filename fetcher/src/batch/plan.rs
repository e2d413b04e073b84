//! From the entries of a list to what is to be done: each name once, each content once.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::path::{Path, PathBuf};

use store_index::address::ContentAddress;
use store_index::checksum_list::MAX_PART_LEN;
use store_index::digest::Algorithm;
use store_index::path_text::printable;

use super::entry::Entry;
use super::list::List;
use crate::error::FetchError;

/// How much of a digest stands before names that several contents have: 64 bits.
const DIGEST_PREFIX_LEN: usize = 16;

/// How many contradictions are shown.
const MAX_SHOWN: usize = 10;

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) entries: Vec<Entry>,
    /// The entries that want the same content.
    pub(super) groups: Vec<Vec<usize>>,
    /// How many entries were there already, with the same name and content.
    pub(super) twice: usize,
    /// How many outputs have their digests in their names, since other contents have the same one.
    pub(super) renamed: usize,
}

/// Makes a plan, or says why the list contradicts itself: before anything is fetched.
pub(super) fn make(list: List) -> Result<(Plan, List), FetchError> {
    let mut list = list;
    let mut entries = std::mem::take(&mut list.entries);
    let mut plan = Plan::default();
    if list.names_are_ours {
        plan.renamed = tell_apart(&mut entries);
    }
    let mut by_path: HashMap<PathBuf, usize> = HashMap::with_capacity(entries.len());
    let mut contradictions = Vec::new();
    for entry in entries {
        match by_path.entry(entry.path.clone()) {
            Slot::Vacant(slot) => {
                slot.insert(plan.entries.len());
                plan.entries.push(entry);
            }
            Slot::Occupied(slot) => {
                let known = &mut plan.entries[*slot.get()];
                if known.address == entry.address {
                    plan.twice += 1;
                } else if known.address.method() == entry.address.method()
                    && known.address.algorithm() != entry.address.algorithm()
                {
                    // The same file by another algorithm: one is enough, and the better one is taken.
                    plan.twice += 1;
                    if rank(&entry.address) > rank(&known.address) {
                        known.address = entry.address;
                    }
                } else {
                    contradictions.push(format!(
                        "{}: {} and {}",
                        printable(&entry.path),
                        known.address.digest().to_sri(),
                        entry.address.digest().to_sri()
                    ));
                }
            }
        }
    }
    if !contradictions.is_empty() {
        return Err(contradiction("names have two hashes", &contradictions));
    }
    let is_folder_too = |path: &Path| {
        let mut above = path.ancestors().skip(1);
        above.any(|folder| by_path.contains_key(folder))
    };
    let contradictions: Vec<_> = plan
        .entries
        .iter()
        .filter(|entry| is_folder_too(&entry.path))
        .map(|entry| printable(&entry.path))
        .collect();
    if !contradictions.is_empty() {
        return Err(contradiction(
            "names lie below that of a file",
            &contradictions,
        ));
    }
    plan.groups = groups(&plan.entries);
    Ok((plan, list))
}

fn contradiction(what: &str, found: &[String]) -> FetchError {
    let mut message = format!("the list contradicts itself: {} {what}", found.len());
    for line in found.iter().take(MAX_SHOWN) {
        message.push_str("\n  ");
        message.push_str(line);
    }
    FetchError::usage(message).with_hint("nothing was fetched; correct the list, or split it")
}

/// Which of two algorithms proves more. What every index has comes first among the strong ones.
fn rank(address: &ContentAddress) -> u8 {
    match address.algorithm() {
        Algorithm::Md5 => 0,
        Algorithm::Sha1 => 1,
        Algorithm::Blake3 => 2,
        Algorithm::Sha512 => 3,
        Algorithm::Sha256 => 4,
    }
}

/// Puts digests before the names that several contents have; returns how many. `v1.0.tar.gz` is the name of hundreds.
fn tell_apart(entries: &mut [Entry]) -> usize {
    let mut of_name: HashMap<&Path, Option<ContentAddress>> = HashMap::with_capacity(entries.len());
    for entry in entries.iter() {
        let known = of_name.entry(&entry.path).or_insert(Some(entry.address));
        if *known != Some(entry.address) {
            *known = None;
        }
    }
    let ambiguous: Vec<bool> = entries
        .iter()
        .map(|entry| of_name[entry.path.as_path()].is_none())
        .collect();
    let mut renamed = 0;
    for (entry, _) in entries.iter_mut().zip(ambiguous).filter(|(_, is)| *is) {
        let digest = entry.address.digest().to_hex();
        let prefix = &digest[..DIGEST_PREFIX_LEN];
        // The names are made of URLs, which are text.
        let mut name = entry.path.to_string_lossy().into_owned();
        while prefix.len() + 1 + name.len() > MAX_PART_LEN {
            name.remove(0);
        }
        entry.path = PathBuf::from(format!("{prefix}-{name}"));
        renamed += 1;
    }
    renamed
}

fn groups(entries: &[Entry]) -> Vec<Vec<usize>> {
    let mut of_content: HashMap<ContentAddress, usize> = HashMap::with_capacity(entries.len());
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        match of_content.entry(entry.address) {
            Slot::Occupied(slot) => groups[*slot.get()].push(number),
            Slot::Vacant(slot) => {
                slot.insert(groups.len());
                groups.push(vec![number]);
            }
        }
    }
    groups
}
