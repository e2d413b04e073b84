//! What the checksum lists of a medium say, gathered before its files are walked.
//!
//! The lists are as hostile as the medium. They are believed in nothing: a file is entered under what they say only
//! if it lies there with the size they say, and whoever uses it hashes it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::UpdateError;
use super::session::Session;
use super::walk::{Kind, Walk};
use crate::beneath::Beneath;
use crate::checksum_list::{self, ListKind, Listed};
use crate::digest::Digest;
use crate::key::{Digests, KeyKind, KeySet};
use crate::path_text;
use crate::watch::{Unit, Watch};

/// The most memory that what the lists say may take: some 700,000 files, six times what is on a full set of Debian
/// source discs. Files beyond it are read.
const MAX_MEMORY: usize = 96 * 1024 * 1024;

/// What an entry takes beside its path and its digests: a cell of the table, the pointers in it, the heap's own.
const ENTRY_OVERHEAD: usize = 96;

/// The most lists that are read; a Gentoo tree has one for each of 20,000 packages.
const MAX_LISTS: usize = 200_000;

/// The most files of one name that lists without places may mean.
const MAX_SAME_NAME: usize = 16;

/// How much of a list is read at a time, in bytes.
const BUFFER_LEN: usize = 64 * 1024;

/// What lists say of a medium's files.
#[derive(Debug)]
pub(super) struct Hints {
    kinds: KeySet,
    by_path: HashMap<Box<[u8]>, Claim>,
    /// By the last part of the path, for lists that do not say where their files lie.
    by_name: HashMap<Box<[u8]>, Vec<Placeless>>,
    memory: usize,
    /// Entries for which there was no room.
    left_out: u64,
}

/// What lists say of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    size: Option<u64>,
    /// Which digests there are, then their bytes in the order of the kinds. `None`: lists contradict each other.
    digests: Option<(KeySet, Box<[u8]>)>,
}

/// What lists say of a file without saying where it lies.
#[derive(Debug)]
struct Placeless {
    /// Its name, rarely with a directory.
    path: Box<[u8]>,
    claim: Claim,
}

/// A list on the medium. Lists that need not be read once others have been come last.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct List {
    last_resort: bool,
    path: Vec<u8>,
}

impl Hints {
    fn new(kinds: KeySet) -> Self {
        Self {
            kinds,
            by_path: HashMap::new(),
            by_name: HashMap::new(),
            memory: 0,
            left_out: 0,
        }
    }

    /// Finds the lists among the entries of a walk and reads them. A list that cannot be read is no trouble: its
    /// files are read instead.
    pub(super) fn gather(
        session: &mut Session<'_>,
        root: &Path,
        walk: Walk<'_>,
    ) -> Result<Self, UpdateError> {
        let mut hints = Self::new(session.kinds());
        let watch = session.watch;
        watch.progress.begin(
            &format!(
                "looking for checksum lists on {}",
                path_text::printable(root)
            ),
            None,
            Unit::Items,
        );
        let lists = find_lists(root, walk, watch)?;
        let beneath = Beneath::open(root).map_err(|error| session.root_error(error))?;
        watch.progress.begin(
            &format!("reading checksum lists on {}", path_text::printable(root)),
            Some(lists.len() as u64),
            Unit::Items,
        );
        for list in &lists {
            watch.progress.advance(1);
            // Debian's `Sources` name the `.dsc` files too, and reading thousands of them means a seek for each.
            if list.last_resort && hints.by_path.contains_key(&list.path[..]) {
                continue;
            }
            if let Err(error) = hints.read_list(&beneath, &list.path, watch) {
                session.warn(&format!(
                    "the checksum list {} is not used to its end: {error}",
                    path_text::printable(&root.join(OsStr::from_bytes(&list.path)))
                ));
            }
            if watch.interrupted() {
                return Err(UpdateError::Interrupted);
            }
        }
        if hints.left_out > 0 {
            session.warn(&format!(
                "the checksum lists name {} files more than are taken from lists",
                hints.left_out
            ));
        }
        Ok(hints)
    }

    fn read_list(
        &mut self,
        beneath: &Beneath,
        path: &[u8],
        watch: Watch<'_>,
    ) -> Result<(), String> {
        let (directory, name) = split(path);
        let Some(kind) = checksum_list::recognise(name) else {
            return Ok(());
        };
        let file = beneath
            .open_file(Path::new(OsStr::from_bytes(path)))
            .map_err(|error| error.to_string())?;
        let reader = BufReader::with_capacity(BUFFER_LEN, Interruptible { file, watch });
        self.read(&kind, directory, reader)
            .map_err(|error| error.to_string())
    }

    fn read(
        &mut self,
        kind: &ListKind,
        directory: &[u8],
        reader: impl io::BufRead,
    ) -> Result<(), checksum_list::ListError> {
        checksum_list::read(kind, directory, reader, &mut |listed| self.add(&listed)).map(drop)
    }

    fn add(&mut self, listed: &Listed) {
        let mut digests = Digests::default();
        for digest in &listed.digests {
            if let Some(kind) = flat_kind(digest).filter(|&kind| self.kinds.has(kind)) {
                digests.set(kind, digest);
            }
        }
        if digests.present() == KeySet::empty() {
            return;
        }
        let claim = Claim::new(listed.size, &digests);
        let memory = listed.path.len() + claim.memory() + ENTRY_OVERHEAD;
        if self.memory + memory > MAX_MEMORY {
            self.left_out += 1;
            return;
        }
        if listed.name_only {
            let (_, name) = split(&listed.path);
            let same_name = self.by_name.entry(name.into()).or_default();
            let same =
                |known: &Placeless| *known.path == *listed.path && known.claim.size == claim.size;
            if let Some(at) = same_name.iter().position(same) {
                same_name[at].claim.agree(&claim);
            } else if same_name.len() < MAX_SAME_NAME {
                same_name.push(Placeless {
                    path: listed.path.as_slice().into(),
                    claim,
                });
                self.memory += memory + name.len();
            }
        } else if let Some(known) = self.by_path.get_mut(&listed.path[..]) {
            known.agree(&claim);
        } else {
            self.by_path.insert(listed.path.as_slice().into(), claim);
            self.memory += memory;
        }
    }

    /// Returns what the lists say of a file that lies at `path` and has this size; nothing if they contradict each
    /// other or the size.
    pub(super) fn of(&self, path: &[u8], size: u64) -> Option<Digests> {
        if let Some(claim) = self.by_path.get(path) {
            return claim.digests_of(size, None);
        }
        let (_, name) = split(path);
        let mut found: Option<Digests> = None;
        for Placeless { path: named, claim } in self.by_name.get(name)? {
            // A bare name says too little to go without the size.
            if claim.size != Some(size) || !ends_with_parts(path, named) {
                continue;
            }
            let digests = claim.digests_of(size, found.as_ref())?;
            found = Some(digests);
        }
        found
    }
}

impl Claim {
    fn new(size: Option<u64>, digests: &Digests) -> Self {
        let bytes: Vec<u8> = digests
            .iter()
            .flat_map(|(_, bytes)| bytes.to_vec())
            .collect();
        Self {
            size,
            digests: Some((digests.present(), bytes.into())),
        }
    }

    fn memory(&self) -> usize {
        self.digests.as_ref().map_or(0, |(_, bytes)| bytes.len())
    }

    /// Adds what another list says of the same file.
    fn agree(&mut self, other: &Self) {
        let contradicts = self.size.is_some() && other.size.is_some() && self.size != other.size;
        self.size = self.size.or(other.size);
        let merged = self.unpack().zip(other.unpack()).filter(|_| !contradicts);
        self.digests = merged
            .and_then(|(ours, theirs)| union(ours, &theirs))
            .and_then(|digests| Self::new(None, &digests).digests);
    }

    fn unpack(&self) -> Option<Digests> {
        let (present, mut bytes) = self
            .digests
            .as_ref()
            .map(|(kinds, bytes)| (kinds, &bytes[..]))?;
        let mut digests = Digests::default();
        for kind in present.iter() {
            let (digest, rest) = bytes.split_at_checked(kind.digest_len())?;
            digests.set(kind, &Digest::new(kind.recipe().1, digest)?);
            bytes = rest;
        }
        Some(digests)
    }

    /// Returns the digests together with `more`, if the size fits and nothing contradicts.
    fn digests_of(&self, size: u64, more: Option<&Digests>) -> Option<Digests> {
        if self.size.is_some_and(|said| said != size) {
            return None;
        }
        let digests = self.unpack()?;
        more.map_or(Some(digests), |more| union(digests, more))
    }
}

/// Puts two lists' digests of one file together; `None` if they contradict each other.
fn union(mut ours: Digests, theirs: &Digests) -> Option<Digests> {
    for (kind, bytes) in theirs.iter() {
        match ours.get(kind) {
            Some(known) if known != bytes => return None,
            Some(_) => {}
            None => {
                ours.set(kind, &Digest::new(kind.recipe().1, bytes)?);
            }
        }
    }
    Some(ours)
}

fn flat_kind(digest: &Digest) -> Option<KeyKind> {
    use crate::digest::Algorithm;
    Some(match digest.algorithm() {
        Algorithm::Md5 => KeyKind::FlatMd5,
        Algorithm::Sha1 => KeyKind::FlatSha1,
        Algorithm::Sha256 => KeyKind::FlatSha256,
        Algorithm::Sha512 => KeyKind::FlatSha512,
        Algorithm::Blake3 => KeyKind::FlatBlake3,
    })
}

fn find_lists(root: &Path, walk: Walk<'_>, watch: Watch<'_>) -> Result<Vec<List>, UpdateError> {
    let mut lists = Vec::new();
    // What cannot be listed is told by the walk that follows.
    for entry in walk.flatten() {
        if watch.interrupted() {
            return Err(UpdateError::Interrupted);
        }
        watch.progress.advance(1);
        let name = entry.file_name().as_bytes();
        if entry.kind != Kind::File || checksum_list::recognise(name).is_none() {
            continue;
        }
        if let Ok(path) = entry.path().strip_prefix(root) {
            lists.push(List {
                last_resort: name.ends_with(b".dsc"),
                path: path.as_os_str().as_bytes().to_vec(),
            });
        }
        if lists.len() >= MAX_LISTS {
            break;
        }
    }
    lists.sort_unstable();
    Ok(lists)
}

/// Splits a path into its directory and its last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

fn ends_with_parts(path: &[u8], end: &[u8]) -> bool {
    path.strip_suffix(end)
        .is_some_and(|before| before.is_empty() || before.ends_with(b"/"))
}

/// A file that ends with an error when the work shall stop: a list may unpack to gigabytes.
struct Interruptible<'w> {
    file: std::fs::File,
    watch: Watch<'w>,
}

impl Read for Interruptible<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.watch.interrupted() {
            return Err(io::Error::other("interrupted"));
        }
        self.file.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(kinds: KeySet, lists: &[(&str, &str, &str)]) -> Hints {
        let mut hints = Hints::new(kinds);
        for (directory, name, text) in lists {
            let kind = checksum_list::recognise(name.as_bytes()).unwrap();
            hints
                .read(&kind, directory.as_bytes(), text.as_bytes())
                .unwrap();
        }
        hints
    }

    fn sums(digit: char, len: usize, path: &str) -> String {
        format!("{}  {path}\n", digit.to_string().repeat(len))
    }

    #[test]
    fn lists_complement_each_other_and_contradictions_void_both() {
        let kinds = KeySet::always().with(KeyKind::FlatSha512);
        let (sha256, sha512) = (sums('a', 64, "x"), sums('b', 128, "x"));
        let both = hints(
            kinds,
            &[("d", "SHA256SUMS", &sha256), ("d", "SHA512SUMS", &sha512)],
        );
        assert_eq!(both.of(b"d/x", 7).unwrap().present(), kinds);
        assert!(both.of(b"x", 7).is_none());
        let other = sums('c', 64, "d/x");
        let contradicted = hints(
            kinds,
            &[("d", "SHA256SUMS", &sha256), ("", "SHA256SUMS", &other)],
        );
        assert!(contradicted.of(b"d/x", 7).is_none());
    }

    #[test]
    fn digests_that_are_not_kept_are_no_hints() {
        let md5 = sums('a', 32, "x");
        assert!(
            hints(KeySet::always(), &[("", "MD5SUMS", &md5)])
                .of(b"x", 1)
                .is_none()
        );
    }

    #[test]
    fn names_without_a_place_need_their_size() {
        let text = format!(
            "SHA256 (python/x.tar.gz) = {}\nSIZE (python/x.tar.gz) = 9\n",
            "a".repeat(64)
        );
        let hints = hints(KeySet::always(), &[("ports/x", "distinfo", &text)]);
        assert!(hints.of(b"distfiles/python/x.tar.gz", 9).is_some());
        assert!(hints.of(b"distfiles/python/x.tar.gz", 8).is_none());
        assert!(hints.of(b"distfiles/x.tar.gz", 9).is_none());
    }

    #[test]
    fn memory_is_bounded_whatever_the_lists_say() {
        let mut hints = Hints::new(KeySet::always());
        hints.memory = MAX_MEMORY;
        hints.add(&Listed {
            path: b"x".to_vec(),
            name_only: false,
            size: None,
            digests: vec![Digest::sha256([1; 32])],
        });
        assert_eq!((hints.left_out, hints.by_path.len()), (1, 0));
    }
}
