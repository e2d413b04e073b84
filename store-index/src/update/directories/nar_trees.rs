//! NAR hashes of trees. They do not compose, so that a tree in which anything has changed is read as a whole; those
//! that have not changed are remembered.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::fingerprint::Fingerprint;
use crate::beneath::{Beneath, Reach};
use crate::digest::Algorithm;
use crate::directory_links::{self, Links};
use crate::hash_file::let_settle;
use crate::nar::NarHasher;
use crate::nix32;
use crate::path_text;
use crate::tree::{self, Skip, TreeError};
use crate::update::{MAX_NAMED_PROBLEMS, Summary, Update, UpdateError, root_error};
use crate::watch::{Unit, Watch};

/// The file in the folder of links that remembers.
const FILE_NAME: &str = "trees";

/// The longest such file that is read, in bytes: room for half a million trees.
const MAX_FILE_LEN: u64 = 64 * 1024 * 1024;

/// What has been hashed is written down at least so often, so that a killed update loses little.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// A tree whose hash is wanted.
#[derive(Debug)]
pub(super) struct Target {
    /// Relative to the root, empty for the root itself.
    pub(super) path: Vec<u8>,
    pub(super) fingerprint: Fingerprint,
    /// The latest modification of a file in it, in nanoseconds since 1970.
    pub(super) newest_ns: i64,
}

type NarDigest = [u8; 32];

/// The trees that were hashed, by path.
type Known = BTreeMap<Vec<u8>, (Fingerprint, NarDigest)>;

/// Hashes the trees that have changed and adds links for all.
pub(super) fn hash(
    targets: Vec<Target>,
    root: &Path,
    update: &Update,
    summary: &mut Summary,
    links: &mut Links,
    watch: Watch<'_>,
) -> Result<(), UpdateError> {
    let folder = update.index_dir.join(directory_links::DIRECTORY);
    let mut old = read(&folder);
    let known = if update.rebuild {
        Known::new()
    } else {
        old.clone()
    };
    let beneath = Beneath::open(root).map_err(|error| root_error(root, error))?;
    let mut new = Known::new();
    watch
        .progress
        .begin("hashing directories", None, Unit::Bytes);
    let (mut saved, mut interrupted) = (Instant::now(), false);
    for target in targets {
        let digest = match known.get(&target.path) {
            Some((fingerprint, digest)) if *fingerprint == target.fingerprint => *digest,
            _ => match hash_one(&target, &beneath, watch) {
                Ok(digest) => digest,
                Err(TreeError::Interrupted) => {
                    interrupted = true;
                    break;
                }
                Err(error) => {
                    let named = summary.warnings.len() < MAX_NAMED_PROBLEMS;
                    summary.warnings.extend(named.then(|| {
                        let path = root.join(OsStr::from_bytes(&target.path));
                        format!(
                            "the directory {} is not indexed as a whole: {}",
                            path_text::printable(&path),
                            path_text::printable(Path::new(&error.to_string()))
                        )
                    }));
                    continue;
                }
            },
        };
        links.push(&digest, target.path.clone());
        old.insert(target.path.clone(), (target.fingerprint, digest));
        new.insert(target.path, (target.fingerprint, digest));
        if saved.elapsed() >= SAVE_EVERY {
            write(&folder, &old);
            saved = Instant::now();
        }
    }
    watch.progress.end();
    if interrupted {
        write(&folder, &old);
        return Err(UpdateError::Interrupted);
    }
    write(&folder, &new);
    Ok(())
}

fn hash_one(target: &Target, beneath: &Beneath, watch: Watch<'_>) -> Result<NarDigest, TreeError> {
    // A change after this gives a file another time, and the tree another fingerprint.
    let_settle(target.newest_ns);
    let path = Path::new(OsStr::from_bytes(&target.path));
    let node = beneath
        .open_node_or_root(path)
        .map_err(|source| TreeError::Read {
            path: path.to_owned(),
            source,
        })?;
    let mut hasher = NarHasher::hashing(Algorithm::Sha256);
    tree::walk_without(Skip::Metadata, Reach::Own, node, &mut hasher, watch)?;
    let mut digest = NarDigest::default();
    digest.copy_from_slice(hasher.finish().0.as_bytes());
    Ok(digest)
}

/// Reads what is remembered. Whatever is not as it should be is forgotten.
fn read(folder: &Path) -> Known {
    let mut bytes = Vec::new();
    let read = crate::read_at::open_regular(&folder.join(FILE_NAME))
        .and_then(|file| file.take(MAX_FILE_LEN).read_to_end(&mut bytes));
    if read.is_err() {
        return Known::new();
    }
    let text = String::from_utf8(bytes).unwrap_or_default();
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<(Vec<u8>, (Fingerprint, NarDigest))> {
    let (fingerprint, rest) = line.split_once(' ')?;
    let (digest, path) = rest.split_once(' ')?;
    let mut bytes = Fingerprint::default();
    hex::decode_to_slice(fingerprint, &mut bytes).ok()?;
    let path = path_text::decode(path)?;
    Some((
        path.as_os_str().as_bytes().to_vec(),
        (bytes, nix32::decode(digest.as_bytes())?),
    ))
}

/// Writes down what is known. If that fails, trees are read again next time.
fn write(folder: &Path, known: &Known) {
    let mut text = String::new();
    for (path, (fingerprint, digest)) in known {
        let path = path_text::encode(Path::new(OsStr::from_bytes(path)));
        let (fingerprint, digest) = (hex::encode(fingerprint), nix32::encode(digest));
        writeln!(text, "{fingerprint} {digest} {path}").expect("writing to a string cannot fail");
    }
    directory_links::write_help(folder, FILE_NAME, text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_the_rest_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("dirlinks");
        assert!(read(&folder).is_empty());
        let known = Known::from([
            (b"".to_vec(), ([1; 32], [2; 32])),
            (b"a b\n\xff/c".to_vec(), ([3; 32], [4; 32])),
        ]);
        write(&folder, &known);
        assert_eq!(read(&folder), known);
        let path = folder.join(FILE_NAME);
        let damaged = fs_err::read_to_string(&path)
            .unwrap()
            .replacen("01", "x", 1);
        fs_err::write(&path, damaged).unwrap();
        assert_eq!(read(&folder).len(), 1);
    }
}
