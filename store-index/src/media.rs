//! Media as roots: what is mounted now, and what this machine remembers of discs that are not.
//!
//! A medium that cannot be written is known by its content, wherever and on whichever machine it is mounted. One that
//! can be written is known by the id in the index on it, else by its path. Beside the index of each the machine keeps
//! a note for people: what the disc is called and where it was last. The note is no part of the index, whose bytes
//! depend on the medium alone.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::sha256;
use crate::index::{Index, OpenError, find_default, read_manifest};
use crate::mounts::{
    self, Mount, MountPattern, is_default_medium, label_and_uuid, may_hang, medium_identity,
    mount_of,
};
use crate::path_text;
use crate::places::{IN_PLACE_DIR, is_in_place};
use crate::root::{Root, RootId, RootKind};

/// The note's name in the index directory.
pub const NOTE_NAME: &str = "medium.json";

/// The longest note that is read, in bytes: two paths and some words.
const MAX_NOTE_LEN: u64 = 64 * 1024;

/// The longest label, in bytes; what is longer does not fit on a disc's sleeve.
pub const MAX_LABEL_LEN: usize = 200;

/// File systems that nothing can be written to, whatever their mount says: fuseiso calls itself writable.
const NEVER_WRITABLE: [&str; 5] = ["iso9660", "fuse.fuseiso", "squashfs", "erofs", "cramfs"];

/// File systems of discs in drives, in which a second reader makes the head go back and forth.
const OPTICAL: [&str; 3] = ["iso9660", "udf", "fuse.fuseiso"];

/// A medium, or a folder treated as one, that is there.
#[derive(Clone, Debug)]
pub struct Medium {
    /// What it is to indexes.
    pub root: Root,
    /// Where it is.
    pub real: PathBuf,
    /// The mount that it lies in.
    mount: Option<Mount>,
}

/// What is remembered of a medium beside its index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// What its owner calls it.
    pub name: Option<String>,
    /// What it calls itself.
    pub label: Option<String>,
    /// The UUID of its file system, for showing.
    pub uuid: Option<String>,
    /// Where it was when it was indexed, as [`path_text::encode`] writes it.
    pub path: Option<String>,
    /// Where it was when the links to its directories were made.
    pub linked_as: Option<String>,
}

/// A medium that has an index on this machine.
#[derive(Debug)]
pub struct Remembered {
    /// Its index.
    pub index: Index,
    /// The note beside it.
    pub note: Note,
}

impl Medium {
    /// Takes a directory as a medium.
    pub fn at(path: &Path) -> io::Result<Self> {
        Self::among(path, &mounts::mounted().unwrap_or_default())
    }

    fn among(path: &Path, mounts: &[Mount]) -> io::Result<Self> {
        let real = fs_err::canonicalize(path)?;
        if !fs_err::metadata(&real)?.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is not a directory", real.display()),
            ));
        }
        let mount = mount_of(mounts, &real).cloned();
        Self::identify(real, mount)
    }

    fn identify(real: PathBuf, mount: Option<Mount>) -> io::Result<Self> {
        let root = if mount.as_ref().is_some_and(is_read_only) {
            Root::medium(medium_identity(&real, true)?, PathBuf::new())
        } else if let Some(id) = id_on(&real) {
            Root::medium(id_said(id), PathBuf::new())
        } else {
            Root::medium(medium_identity(&real, false)?, real.clone())
        };
        Ok(Self { root, real, mount })
    }

    /// Returns the root for an index on the medium itself. It keeps its id while the medium changes, and has the id of
    /// its content at first, so that it is the same before and after it is burnt.
    pub fn in_place_root(&self) -> io::Result<Root> {
        let id = match id_on(&self.real) {
            Some(id) => id.bytes(),
            None => medium_identity(&self.real, true)?,
        };
        Ok(Root::medium(id, PathBuf::new()))
    }

    /// Returns true if what lies on it cannot have changed since its id was taken.
    pub fn is_unchanging(&self) -> bool {
        self.mount.as_ref().is_some_and(is_never_writable)
    }

    /// Returns true if reading several files at once makes it slower.
    pub fn is_optical(&self) -> bool {
        let is = |mount: &Mount| OPTICAL.contains(&mount.fs_type.as_str());
        self.mount.as_ref().is_some_and(is)
    }

    /// Returns a note of it, with the name that its owner gave it before.
    pub fn note(&self, before: Note) -> Note {
        let is_mount_point = |mount: &&Mount| mount.mount_point == self.real;
        let (label, uuid) = self
            .mount
            .as_ref()
            .filter(is_mount_point)
            .map(label_and_uuid)
            .unwrap_or_default();
        Note {
            name: before.name,
            label: label.or(before.label),
            uuid: uuid.or(before.uuid),
            path: Some(path_text::encode(&self.real)),
            linked_as: before.linked_as,
        }
    }
}

fn is_never_writable(mount: &Mount) -> bool {
    NEVER_WRITABLE.contains(&mount.fs_type.as_str())
}

fn is_read_only(mount: &Mount) -> bool {
    mount.read_only || is_never_writable(mount)
}

/// Returns the id in the index on a medium.
fn id_on(real: &Path) -> Option<RootId> {
    let manifest = read_manifest(&real.join(IN_PLACE_DIR)).ok()?;
    (manifest.root.kind() == RootKind::Medium).then(|| manifest.root.id())
}

/// Makes a root id of what a writable medium says of itself. It may say the id of any disc, and must not take the
/// place of that disc's index.
fn id_said(id: RootId) -> [u8; 20] {
    let digest = sha256(&[&b"medium-says:"[..], &id.bytes()].concat());
    let mut said = [0; 20];
    said.copy_from_slice(&digest[..20]);
    said
}

/// Returns the media that are mounted now and looked at without being named. Network file systems are not touched,
/// since a dead one hangs. A medium that cannot be read is none.
pub fn mounted() -> Vec<Medium> {
    mounted_and_matching(&[])
}

/// The same, and whatever is mounted where a pattern says.
pub fn mounted_and_matching(patterns: &[MountPattern]) -> Vec<Medium> {
    let mounts = mounts::mounted().unwrap_or_default();
    let is_wanted = |mount: &Mount| {
        is_default_medium(mount) || patterns.iter().any(|pattern| pattern.matches(mount))
    };
    mounts
        .into_iter()
        .filter(is_wanted)
        .filter_map(|mount| Medium::identify(mount.mount_point.clone(), Some(mount)).ok())
        .collect()
}

/// Returns every medium that has an index in the default places.
pub fn remembered() -> impl Iterator<Item = Result<Remembered, OpenError>> {
    find_default().into_iter().filter_map(|index| match index {
        Ok(index) if index.root().kind() == RootKind::Medium => Some(Ok(Remembered::of(index))),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// Returns true if a directory that is a medium's only name is there, so that it need not be put in. What lies on a
/// network is not touched.
fn is_at_its_path(path: &Path) -> bool {
    let mounts = mounts::mounted().unwrap_or_default();
    let local = mount_of(&mounts, path).is_some_and(|mount| !may_hang(mount));
    local && fs_err::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

impl Remembered {
    /// Takes an index with the note beside it.
    pub fn of(index: Index) -> Self {
        let note = Note::of(&index);
        Self { index, note }
    }

    /// Returns what to call it.
    pub fn label(&self) -> String {
        self.note.label_or_id(&self.index.root())
    }

    /// Returns where it is now, given what is mounted.
    pub fn place(&self, mounted: &[Medium]) -> Option<PathBuf> {
        place_of(&self.index.root(), mounted)
    }
}

/// Returns where a medium is now, given what is mounted.
pub fn place_of(root: &Root, mounted: &[Medium]) -> Option<PathBuf> {
    let found = mounted.iter().find(|medium| medium.root.id() == root.id());
    match found {
        Some(medium) => Some(medium.real.clone()),
        None if root.path().is_absolute() && is_at_its_path(root.path()) => {
            Some(root.path().to_owned())
        }
        None => None,
    }
}

impl Note {
    /// Returns the note beside an index; of one that lies on its medium, what the medium says now.
    pub fn of(index: &Index) -> Self {
        if is_in_place(index.directory()) {
            let medium = Medium::at(index.root().path());
            medium.map_or_else(|_| Self::default(), |medium| medium.note(Self::default()))
        } else {
            Self::read(index.directory())
        }
    }

    /// Reads the note in an index directory; one that is missing or damaged says nothing.
    pub fn read(directory: &Path) -> Self {
        let read = || {
            let file = crate::read_at::open_regular(&directory.join(NOTE_NAME)).ok()?;
            let mut bytes = Vec::new();
            file.take(MAX_NOTE_LEN).read_to_end(&mut bytes).ok()?;
            serde_json::from_slice(&bytes).ok()
        };
        read().unwrap_or_default()
    }

    /// Returns what to call the medium: its owner's name for it, its own, where it was, its id.
    pub fn label_or_id(&self, root: &Root) -> String {
        let named = self.name.clone().or_else(|| self.label.clone());
        let label = named.unwrap_or_else(|| match self.last_path() {
            Some(path) => path_text::printable(&path),
            None => root.id().to_string(),
        });
        path_text::printable(Path::new(&label))
    }

    /// Returns where the medium was when it was indexed.
    pub fn last_path(&self) -> Option<PathBuf> {
        path_text::decode(self.path.as_deref()?)
    }

    /// Returns what the targets of the links to directories begin with.
    pub fn linked_as(&self) -> Option<PathBuf> {
        path_text::decode(self.linked_as.as_deref()?)
    }

    /// Replaces the note in an index directory.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        use fs_err::os::unix::fs::OpenOptionsExt as _;
        use std::os::unix::fs::PermissionsExt as _;
        let path = directory.join(NOTE_NAME);
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        if fs_err::read(&path).is_ok_and(|old| old == json) {
            return Ok(());
        }
        // A prefix that a writer of the index sweeps.
        let temporary = directory.join(format!(".tmp-{NOTE_NAME}-{}", std::process::id()));
        let mut file = fs_err::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&temporary)?;
        // Readable by all whatever the umask.
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.write_all(&json)?;
        fs_err::rename(&temporary, &path)
    }
}
