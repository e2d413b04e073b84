//! Brings the links on disk in line with what is wanted. Called under the writer's lock.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::{Base, DIRECTORY, TreeKind};
use crate::format::compare_paths;
use crate::watch::Watch;

/// The file in the folder that holds the checksum of all links.
pub(super) const CHECKSUM_NAME: &str = "checksum";

/// The name of a link or file that is about to be renamed.
pub(super) const TEMPORARY_NAME: &str = ".tmp-link";

/// The most links of one kind: each is an inode of the file system that holds the index.
const MAX_LINKS: usize = 4_000_000;

/// The digest of a tree, filled up with zeroes.
type DigestBytes = [u8; 32];

/// The links of one kind that are wanted.
#[derive(Debug)]
pub(crate) struct Links {
    kind: TreeKind,
    /// Digests, and paths relative to the root.
    entries: Vec<(DigestBytes, Vec<u8>)>,
}

impl Links {
    pub(crate) const fn new(kind: TreeKind) -> Self {
        Self {
            kind,
            entries: Vec::new(),
        }
    }

    pub(crate) const fn kind(&self) -> TreeKind {
        self.kind
    }

    /// Adds a directory, empty for the root.
    pub(crate) fn push(&mut self, digest: &[u8], relative: Vec<u8>) {
        let mut bytes = DigestBytes::default();
        bytes[..digest.len()].copy_from_slice(digest);
        self.entries.push((bytes, relative));
    }

    fn digest<'a>(&self, bytes: &'a DigestBytes) -> &'a [u8] {
        &bytes[..self.kind.algorithm().digest_len()]
    }

    pub(super) fn sort(&mut self) {
        self.entries
            .sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| compare_paths(&a.1, &b.1)));
    }

    /// Turns paths into targets, one for each digest. Returns how many had to be left out.
    fn settle(&mut self, base: &Base) -> u64 {
        self.sort();
        self.entries.dedup_by(|later, first| later.0 == first.0);
        let before = self.entries.len();
        self.entries.retain_mut(|(_, path)| {
            let target = base.target(path);
            target.is_some_and(|target| {
                *path = target;
                true
            })
        });
        self.entries.truncate(MAX_LINKS);
        (before - self.entries.len()) as u64
    }
}

/// What became of the links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// How many there are now.
    pub(crate) links: u64,
    /// How many directories have none because the target would be too long, or there are too many.
    pub(crate) left_out: u64,
}

/// Replaces all links of an index by those wanted, each kind once. If nothing has changed, this costs a listing.
/// With `afresh` nothing that is there is believed.
pub(crate) fn replace(
    index_dir: &Path,
    base: &Base,
    mut wanted: [Links; 2],
    afresh: bool,
    watch: Watch<'_>,
) -> io::Result<Written> {
    let left_out = wanted.iter_mut().map(|links| links.settle(base)).sum();
    let links = wanted.iter().map(|links| links.entries.len() as u64).sum();
    let written = Written { links, left_out };
    let folder = index_dir.join(DIRECTORY);
    let parent = match (open_directory(&folder), links) {
        (Err(error), 0) if error.kind() == io::ErrorKind::NotFound => return Ok(written),
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(&folder)?;
            open_directory(&folder)?
        }
        (opened, _) => opened?,
    };
    let checksum = checksum(&wanted);
    if !afresh && recorded_checksum(&folder).as_deref() == Some(&checksum) {
        let mut same = true;
        for links in &wanted {
            same = same && has_exactly(&folder, links)?;
        }
        if same {
            return Ok(written);
        }
    }
    remove(&parent, CHECKSUM_NAME)?;
    for links in &wanted {
        let kind_folder = folder.join(links.kind.directory());
        if links.entries.is_empty() && fs_err::symlink_metadata(&kind_folder).is_err() {
            continue;
        }
        make_directory(&kind_folder)?;
        bring_in_line(&kind_folder, links, watch)?;
        if links.entries.is_empty() {
            // Something that is not ours may lie in it.
            fs_err::remove_dir(&kind_folder).ok();
        }
    }
    if links == 0 {
        fs_err::remove_dir(&folder).ok();
        return Ok(written);
    }
    write_file(&folder, CHECKSUM_NAME, format!("{checksum}\n").as_bytes())?;
    Ok(written)
}

/// Returns the checksum of all links together, as documented.
pub(super) fn checksum(wanted: &[Links; 2]) -> String {
    let mut hasher = blake3::Hasher::new();
    for links in wanted {
        hasher.update(links.kind.directory().as_bytes());
        hasher.update(&[0]);
        hasher.update(&(links.entries.len() as u64).to_le_bytes());
        for (digest, target) in &links.entries {
            hasher.update(links.digest(digest));
            hasher.update(&(target.len() as u64).to_le_bytes());
            hasher.update(target);
        }
    }
    hasher.finalize().to_hex().to_string()
}

pub(super) fn recorded_checksum(folder: &Path) -> Option<String> {
    use std::io::Read as _;
    let file = crate::read_at::open_regular(&folder.join(CHECKSUM_NAME)).ok()?;
    let mut text = String::new();
    // One byte more than it has, so that a longer one is not taken for it.
    file.take(2 * 32 + 2).read_to_string(&mut text).ok()?;
    text.strip_suffix('\n').map(str::to_owned)
}

/// Returns true if the names in the folder are those of the wanted links, whatever they lead to.
fn has_exactly(folder: &Path, links: &Links) -> io::Result<bool> {
    let directory = match open_directory(&folder.join(links.kind.directory())) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(links.entries.is_empty());
        }
        Err(error) => return Err(error),
    };
    let mut found = 0;
    for entry in Dir::read_from(&directory)? {
        match known_name(links, entry?.file_name()) {
            Name::Dots => {}
            Name::Wanted => found += 1,
            Name::Foreign => {}
            Name::Stale => return Ok(false),
        }
    }
    Ok(found == links.entries.len())
}

/// What a name in the folder of a kind is.
enum Name {
    Dots,
    Wanted,
    /// Ours, and wanted no more.
    Stale,
    /// Not ours.
    Foreign,
}

fn known_name(links: &Links, name: &CStr) -> Name {
    let name = name.to_bytes();
    if matches!(name, b"." | b"..") {
        return Name::Dots;
    }
    if name == TEMPORARY_NAME.as_bytes() {
        return Name::Stale;
    }
    match links.kind.parse_name(name) {
        None => Name::Foreign,
        Some(digest) => {
            let position = links
                .entries
                .binary_search_by(|entry| links.digest(&entry.0).cmp(digest.as_bytes()));
            position.map_or(Name::Stale, |_| Name::Wanted)
        }
    }
}

fn bring_in_line(folder: &Path, links: &Links, watch: Watch<'_>) -> io::Result<()> {
    let directory = open_directory(folder)?;
    let named = |error: Errno| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
    };
    let (mut there, mut stale) = (HashSet::new(), Vec::new());
    for entry in Dir::read_from(&directory).map_err(named)? {
        let entry = entry.map_err(named)?;
        match known_name(links, entry.file_name()) {
            Name::Dots | Name::Foreign => {}
            Name::Wanted => {
                there.insert(entry.file_name().to_bytes().to_vec());
            }
            Name::Stale => stale.push(entry.file_name().to_owned()),
        }
    }
    for name in stale {
        rustix::fs::unlinkat(&directory, &name, AtFlags::empty()).map_err(named)?;
    }
    for (digest, target) in &links.entries {
        if watch.interrupted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let name = links.kind.name(links.digest(digest));
        if !there.contains(name.as_bytes()) {
            rustix::fs::symlinkat(&target[..], &directory, &name).map_err(named)?;
            continue;
        }
        let found = rustix::fs::readlinkat(&directory, &name, Vec::with_capacity(target.len() + 1));
        if found.is_ok_and(|found| found.to_bytes() == target) {
            continue;
        }
        rustix::fs::symlinkat(&target[..], &directory, TEMPORARY_NAME).map_err(named)?;
        rustix::fs::renameat(&directory, TEMPORARY_NAME, &directory, &name).map_err(named)?;
    }
    Ok(())
}

pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(
            error.kind(),
            format!("cannot open {}: {error}", path.display()),
        )
    })
}

/// Makes a folder that all can read, whatever the umask.
fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    match fs_err::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        answer => answer?,
    }
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

fn remove(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Replaces a file in the folder in one step; it is only ever a help, so it is not synced.
fn write_file(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let temporary = folder.join(TEMPORARY_NAME);
    match fs_err::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs_err::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)?;
    file.write_all(content)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    fs_err::rename(&temporary, folder.join(name))
}

/// Writes a file that only spares work into the folder, or removes it if it is empty. That it cannot be written is no
/// trouble.
pub(crate) fn write_help(folder: &Path, name: &str, content: &[u8]) {
    let path = folder.join(name);
    if fs_err::read(&path).is_ok_and(|old| old == content) {
        return;
    }
    if content.is_empty() {
        fs_err::remove_file(&path).ok();
        return;
    }
    if make_directory(folder).is_ok() {
        write_file(folder, name, content).ok();
    }
}
