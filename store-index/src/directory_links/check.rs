//! Checks the links of an index against themselves, and against the directories that they lead to.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use rustix::fs::Dir;

use super::write::{CHECKSUM_NAME, TEMPORARY_NAME, checksum, open_directory, recorded_checksum};
use super::{Base, DIRECTORY, Links, TreeKind, relative_path};
use crate::beneath::{Beneath, Node, Reach};
use crate::check::Report;
use crate::digest::{Algorithm, Digest};
use crate::git_tree::GitHasher;
use crate::nar::NarHasher;
use crate::path_text;
use crate::tree::{self, Skip, TreeError, Visitor};
use crate::watch::Watch;

/// What the links of an index are checked against.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    /// The index directory.
    pub(crate) index_dir: &'a Path,
    /// How targets begin.
    pub(crate) base: Base,
    /// Where the files of the root are; `None` if they are not there.
    pub(crate) root: Option<&'a Beneath>,
    /// What is left out of digests.
    pub(crate) skip: Skip,
    /// Whether digests are computed again.
    pub(crate) content: bool,
}

/// A link whose form is right.
#[derive(Debug)]
struct Link {
    kind: TreeKind,
    digest: Digest,
    /// Relative to the root, empty for the root itself.
    path: PathBuf,
}

impl Link {
    fn place(&self, expected: &Expected<'_>) -> PathBuf {
        expected
            .index_dir
            .join(relative_path(self.kind, self.digest.as_bytes()))
    }

    fn shown_path(&self) -> String {
        path_text::printable(&self.path)
    }
}

/// Checks all links.
pub(crate) fn check(expected: &Expected<'_>, report: &mut Report, watch: Watch<'_>) {
    let folder = expected.index_dir.join(DIRECTORY);
    if fs_err::symlink_metadata(&folder).is_err() {
        return;
    }
    let mut found = TreeKind::ALL.map(Links::new);
    let mut links = Vec::new();
    for found in &mut found {
        let path = folder.join(found.kind().directory());
        match read_links(&path, found, &expected.base, report) {
            Ok(read) => links.extend(read),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => report.add(path, error.to_string()),
        }
    }
    report.objects += links.len() as u64;
    for found in &mut found {
        found.sort();
    }
    if recorded_checksum(&folder).is_some_and(|recorded| recorded != checksum(&found)) {
        report.add(
            folder.join(CHECKSUM_NAME),
            "the links are not those that it was made of; `store-index update --rebuild` makes them again",
        );
    }
    let Some(root) = expected.root else { return };
    links.retain(|link| is_there(link, root, expected, report));
    if expected.content {
        compare_nar_hashes(&links, root, expected, report, watch);
        compare_git_ids(&links, root, expected, report, watch);
    }
    report.interrupted |= watch.interrupted();
}

/// Reads the links of a kind, into `found` with their targets as they are.
fn read_links(
    folder: &Path,
    found: &mut Links,
    base: &Base,
    report: &mut Report,
) -> io::Result<Vec<Link>> {
    let directory = open_directory(folder)?;
    let mut links = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || name == TEMPORARY_NAME.as_bytes() {
            continue;
        }
        let place = folder.join(OsStr::from_bytes(name));
        let Some(digest) = found.kind().parse_name(name) else {
            report.add(place, "its name is no digest");
            continue;
        };
        let Ok(target) = rustix::fs::readlinkat(&directory, entry.file_name(), Vec::new()) else {
            report.add(place, "it is no symbolic link");
            continue;
        };
        match base.strip(target.to_bytes()) {
            Some(path) => links.push(Link {
                kind: found.kind(),
                digest,
                path,
            }),
            None => report.add(place, "it does not lead to a place below the root"),
        }
        found.push(digest.as_bytes(), target.into_bytes());
    }
    // A listing has no order of its own.
    links.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(links)
}

fn is_there(link: &Link, root: &Beneath, expected: &Expected<'_>, report: &mut Report) -> bool {
    let wrong = match root.open_node_or_root(&link.path) {
        Ok(Node::Directory(_)) => return true,
        Ok(Node::File(_) | Node::Symlink(_)) => {
            format!("{} is no directory any more", link.shown_path())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            format!(
                "{} is gone; `store-index update` drops it",
                link.shown_path()
            )
        }
        Err(error) => error.to_string(),
    };
    report.add(link.place(expected), wrong);
    false
}

fn compare_nar_hashes(
    links: &[Link],
    root: &Beneath,
    expected: &Expected<'_>,
    report: &mut Report,
    watch: Watch<'_>,
) {
    let links: Vec<&Link> = links
        .iter()
        .filter(|link| link.kind == TreeKind::NarSha256)
        .collect();
    let hash = |link: &&Link| {
        let node = open(root, &link.path)?;
        let mut hasher = NarHasher::hashing(Algorithm::Sha256);
        tree::walk_without(expected.skip, Reach::Own, node, &mut hasher, watch)?;
        Ok(hasher.finish().0)
    };
    let digests: Vec<Result<Digest, TreeError>> = links.par_iter().map(hash).collect();
    for (link, digest) in links.iter().zip(digests) {
        report.files_read += 1;
        compare(link, digest, expected, report);
    }
}

/// Reads each outermost linked directory once, for its own id and those of all directories in it.
fn compare_git_ids(
    links: &[Link],
    root: &Beneath,
    expected: &Expected<'_>,
    report: &mut Report,
    watch: Watch<'_>,
) {
    let mut outermost: Option<(&Path, Result<AllIds, TreeError>)> = None;
    for link in links.iter().filter(|link| link.kind == TreeKind::GitSha1) {
        let covered = |(outer, _): &(&Path, _)| link.path.starts_with(outer);
        if !outermost.as_ref().is_some_and(covered) {
            outermost = Some((&link.path, all_ids(root, link, expected, watch)));
        }
        report.files_read += 1;
        let wrong = match &outermost {
            Some((_, Ok(all))) if all.ids.get(&link.path) == Some(&link.digest) => continue,
            Some((_, Ok(_))) => format!("{} has another git id", link.shown_path()),
            Some((outer, Err(error))) if *outer == link.path => error.to_string(),
            // Said already, for the directory around this one.
            _ => continue,
        };
        report.add(link.place(expected), wrong);
    }
}

fn all_ids(
    root: &Beneath,
    link: &Link,
    expected: &Expected<'_>,
    watch: Watch<'_>,
) -> Result<AllIds, TreeError> {
    let node = open(root, &link.path)?;
    let mut visitor = AllIds::new(&link.path);
    tree::walk_without(expected.skip, Reach::Own, node, &mut visitor, watch)?;
    Ok(visitor)
}

fn compare(
    link: &Link,
    digest: Result<Digest, TreeError>,
    expected: &Expected<'_>,
    report: &mut Report,
) {
    let wrong = match digest {
        Ok(digest) if digest == link.digest => return,
        Ok(digest) => format!(
            "{} has the digest {}",
            link.shown_path(),
            link.kind.name(digest.as_bytes())
        ),
        Err(TreeError::Interrupted) => return,
        Err(error) => format!("{}: {error}", link.shown_path()),
    };
    report.add(link.place(expected), wrong);
}

fn open(root: &Beneath, path: &Path) -> Result<Node, TreeError> {
    root.open_node_or_root(path)
        .map_err(|source| TreeError::Read {
            path: path.to_owned(),
            source,
        })
}

/// Takes the git ids of all directories that it visits.
struct AllIds {
    hasher: GitHasher,
    path: PathBuf,
    /// By path relative to the root of the index.
    ids: HashMap<PathBuf, Digest>,
}

impl AllIds {
    fn new(path: &Path) -> Self {
        Self {
            hasher: GitHasher::new(Algorithm::Sha1),
            path: path.to_owned(),
            ids: HashMap::new(),
        }
    }
}

impl Visitor for AllIds {
    fn directory_start(&mut self) -> io::Result<()> {
        self.hasher.directory_start()
    }
    fn entry_start(&mut self, name: &[u8]) -> io::Result<()> {
        self.path.push(OsStr::from_bytes(name));
        self.hasher.entry_start(name)
    }
    fn entry_end(&mut self) -> io::Result<()> {
        self.path.pop();
        self.hasher.entry_end()
    }
    fn directory_end(&mut self) -> io::Result<()> {
        let id = self.hasher.close_directory()?;
        self.ids.insert(self.path.clone(), id);
        Ok(())
    }
    fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        self.hasher.symlink(target)
    }
    fn file_start(&mut self, executable: bool, size: u64) -> io::Result<()> {
        self.hasher.file_start(executable, size)
    }
    fn file_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.file_bytes(bytes)
    }
    fn file_end(&mut self) -> io::Result<()> {
        self.hasher.file_end()
    }
}
