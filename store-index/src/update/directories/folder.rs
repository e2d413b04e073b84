//! The directories of a folder or medium: one walk over names and metadata, in which git tree ids are put together
//! from the blob ids that the index has, and those trees are noted whose NAR hash is wanted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::blob_ids::BlobIds;
use super::fingerprint::Fingerprinter;
use super::nar_trees::{self, Target};
use super::no_links;
use crate::digest::Algorithm;
use crate::directory_links::Links;
use crate::git_tree::GitHasher;
use crate::hash_file::mtime_ns;
use crate::index_writer::IndexWriter;
use crate::key::KeyKind;
use crate::segment::SegmentError;
use crate::tree::{MAX_DEPTH, Skip, Visitor as _};
use crate::update::folder::has_steady_inodes;
use crate::update::walk::{Entry, Kind, Walk};
use crate::update::{Summary, Update, UpdateError, index_error, root_error};
use crate::watch::Watch;

/// Returns the links wanted.
pub(super) fn wanted(
    update: &Update,
    writer: &IndexWriter,
    summary: &mut Summary,
    watch: Watch<'_>,
) -> Result<[Links; 2], UpdateError> {
    let kinds = writer.kinds();
    let (with_git, with_nar) = (kinds.has(KeyKind::GitSha1), kinds.has(KeyKind::NarPlain));
    let [mut nar, mut git] = no_links();
    if !with_git && !with_nar {
        return Ok([nar, git]);
    }
    let segments = writer.current_segments();
    let ids = with_git.then(|| BlobIds::new(&segments)).transpose();
    let root =
        fs_err::canonicalize(&update.real).map_err(|error| root_error(&update.real, error))?;
    let mut scan = Scan {
        ids: ids.map_err(|error| index_error(update, error))?,
        git: with_git.then(|| GitHasher::new(Algorithm::Sha1)),
        steady: has_steady_inodes(&root),
        index_dir: fs_err::canonicalize(&update.index_dir).ok(),
        open: Vec::new(),
        links: &mut git,
        targets: Vec::new(),
        root,
    };
    scan.run(watch).map_err(|stop| match stop {
        Stop::Interrupted => UpdateError::Interrupted,
        Stop::Index(error) => index_error(update, error),
    })?;
    if with_nar {
        let (targets, root) = (scan.targets, scan.root);
        nar_trees::hash(targets, &root, update, summary, &mut nar, watch)?;
    }
    Ok([nar, git])
}

/// Why the walk ends early.
enum Stop {
    Interrupted,
    Index(SegmentError),
}

impl From<SegmentError> for Stop {
    fn from(error: SegmentError) -> Self {
        Self::Index(error)
    }
}

struct Scan<'s> {
    root: PathBuf,
    index_dir: Option<PathBuf>,
    steady: bool,
    ids: Option<BlobIds<'s>>,
    git: Option<GitHasher>,
    /// The directories around the entry that is looked at, the root first.
    open: Vec<Open>,
    links: &'s mut Links,
    targets: Vec<Target>,
}

/// A directory that is being walked.
#[derive(Default)]
struct Open {
    path: PathBuf,
    /// Something in it cannot be part of a digest.
    spoilt: bool,
    /// It is a checkout.
    has_git: bool,
    /// Levels of directories, itself included.
    height: usize,
    fingerprint: Fingerprinter,
}

impl Scan<'_> {
    fn run(&mut self, watch: Watch<'_>) -> Result<(), Stop> {
        let mut walk = Walk::new(&self.root, |_| false);
        while let Some(entry) = walk.next() {
            if watch.interrupted() {
                return Err(Stop::Interrupted);
            }
            let Ok(entry) = entry else {
                // It does not say how far it came, so nothing around it is certain.
                self.spoil_all();
                continue;
            };
            self.close_to(entry.depth);
            if entry.depth > 0 && self.passes_over(&entry) {
                walk.skip_directory();
                continue;
            }
            match entry.kind {
                Kind::Directory => self.enter(&entry),
                // What is mounted there is another tree.
                Kind::Elsewhere => self.spoil_innermost(),
                _ if entry.depth > 0 => self.leaf(&entry)?,
                _ => {}
            }
        }
        self.close_to(0);
        Ok(())
    }

    fn spoil_all(&mut self) {
        for open in &mut self.open {
            open.spoilt = true;
        }
    }

    fn spoil_innermost(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.spoilt = true;
        }
    }

    /// Sees to entries that are no content: metadata of checkouts, and the index itself.
    fn passes_over(&mut self, entry: &Entry) -> bool {
        let name = entry.file_name().as_bytes();
        if Skip::Metadata.passes_over(name) {
            if let Some(open) = self.open.last_mut() {
                open.has_git |= name == b".git";
            }
            return true;
        }
        let is_index = self.index_dir.as_deref() == Some(entry.path());
        if is_index {
            // A copy of the directory would have it.
            self.spoil_innermost();
        }
        is_index
    }

    fn enter(&mut self, entry: &Entry) {
        if let Some(git) = &mut self.git {
            // The hasher keeps all in memory, where nothing can fail.
            if entry.depth > 0 {
                git.entry_start(entry.file_name().as_bytes()).ok();
            }
            git.directory_start().ok();
        }
        self.open.push(Open {
            path: entry.path().to_owned(),
            height: 1,
            ..Open::default()
        });
    }

    /// Ends the directories that an entry of this depth does not lie in.
    fn close_to(&mut self, depth: usize) {
        while self.open.len() > depth {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some(closed) = self.open.pop() else {
            return;
        };
        let depth = self.open.len();
        let spoilt = closed.spoilt || closed.height > MAX_DEPTH;
        let relative = self.relative(&closed.path).to_vec();
        if let Some(git) = &mut self.git {
            if spoilt {
                git.abandon_directory();
            } else if let Ok(id) = git.close_directory() {
                self.links.push(id.as_bytes(), relative.clone());
            }
            if depth > 0 {
                git.entry_end().ok();
            }
        }
        if !spoilt && (depth == 1 || closed.has_git) {
            self.targets.push(Target {
                path: relative,
                fingerprint: closed.fingerprint.finish(),
                newest_ns: closed.fingerprint.newest_ns(),
            });
        }
        if let Some(parent) = self.open.last_mut() {
            parent.spoilt |= spoilt;
            parent.height = parent.height.max(closed.height + 1);
            let name = closed.path.file_name().unwrap_or_default().as_bytes();
            parent.fingerprint.directory(name, &closed.fingerprint);
        }
    }

    /// A file, symbolic link, or what is neither.
    fn leaf(&mut self, entry: &Entry) -> Result<(), Stop> {
        let name = entry.file_name().as_bytes();
        let Some(open) = self.open.last_mut() else {
            return Ok(());
        };
        if entry.kind == Kind::Symlink {
            let Ok(target) = fs_err::read_link(entry.path()) else {
                open.spoilt = true;
                return Ok(());
            };
            let target = target.as_os_str().as_bytes();
            open.fingerprint.symlink(name, target);
            if let Some(git) = &mut self.git {
                git.entry_start(name).ok();
                open.spoilt |= git.symlink(target).is_err();
                git.entry_end().ok();
            }
            return Ok(());
        }
        let metadata = entry.metadata().ok().filter(std::fs::Metadata::is_file);
        let Some(metadata) = metadata else {
            open.spoilt = true;
            return Ok(());
        };
        open.fingerprint.file(name, &metadata, self.steady);
        self.file_id(entry, &metadata)
    }

    /// Adds the id that the index has of a file to the directory, if the file is as it was when that was taken.
    fn file_id(&mut self, entry: &Entry, metadata: &std::fs::Metadata) -> Result<(), Stop> {
        let relative = self.relative(entry.path()).to_vec();
        let (Some(ids), Some(git)) = (&mut self.ids, &mut self.git) else {
            return Ok(());
        };
        let inode = |inode| if self.steady { inode } else { 0 };
        let now = (metadata.len(), mtime_ns(metadata), inode(metadata.ino()));
        let same = ids
            .find(&relative)?
            .filter(|(file, _)| (file.size, file.mtime_ns, inode(file.inode)) == now);
        match same {
            Some((_, id)) => {
                git.entry_start(entry.file_name().as_bytes()).ok();
                git.known_file(metadata.mode() & 0o100 != 0, id);
                git.entry_end().ok();
            }
            None => self.spoil_innermost(),
        }
        Ok(())
    }

    fn relative<'p>(&self, path: &'p Path) -> &'p [u8] {
        let relative: &OsStr = path.strip_prefix(&self.root).unwrap_or(path).as_os_str();
        relative.as_bytes()
    }
}
