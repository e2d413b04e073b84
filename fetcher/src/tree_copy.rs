//! Copies or checks out a whole tree into a staging directory and hashes what lands, in one walk.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Mode, OFlags};
use store_index::address::ContentAddress;
use store_index::beneath::{Node, Reach};
use store_index::digest::Digest;
use store_index::git_tree::GitHasher;
use store_index::nar::NarHasher;
use store_index::tree::{self, Skip, TreeError, Visitor};
use store_index::watch::Watch;

use crate::git::{Checkout, Form};
use crate::verify::{self, Verdict};

/// Copies the directory `source` into the existing, empty directory `staged`, without what is to be skipped, and only
/// if everything in it is within reach. Returns
/// also how many entries of that kind there are, skipped or not.
pub(crate) fn copy(
    address: &ContentAddress,
    source: OwnedFd,
    staged: OwnedFd,
    (skip, reach): (Skip, Reach),
    watch: Watch<'_>,
) -> Result<(Verdict, u64), TreeError> {
    let mut metadata = 0;
    let verdict = land(address, staged, |copier| {
        metadata = tree::walk_without(skip, reach, Node::Directory(source), copier, watch)?;
        Ok(())
    })?;
    Ok((verdict, metadata))
}

/// Checks a tree of a repository out into the existing, empty directory `staged`.
pub(crate) fn check_out(
    address: &ContentAddress,
    source: &Checkout,
    staged: OwnedFd,
    watch: Watch<'_>,
) -> Result<Verdict, TreeError> {
    let mut submodules = 0;
    let verdict = land(address, staged, |copier| {
        submodules = source.walk(copier, watch)?;
        Ok(())
    })?;
    if matches!(verdict, Verdict::Right(_)) && submodules > 0 && source.form == Form::Raw {
        watch.progress.note(&format!(
            "{submodules} submodules are empty directories; the id is that of the tree in the repository"
        ));
    }
    Ok(verdict)
}

fn land(
    address: &ContentAddress,
    staged: OwnedFd,
    walk: impl FnOnce(&mut dyn Visitor) -> Result<(), TreeError>,
) -> Result<Verdict, TreeError> {
    let mut copier = Copier {
        hasher: TreeHasher::new(address),
        open: Vec::new(),
        root: Some(staged),
        name: None,
        file: None,
        bytes: 0,
    };
    walk(&mut copier)?;
    let (got, bytes) = (copier.hasher.finish(), copier.bytes);
    Ok(verify::tree(address, got, bytes))
}

/// Hashes a node where it lies, without copying; the answer and the sum of its files' sizes in bytes.
pub(crate) fn hash(
    address: &ContentAddress,
    node: Node,
    watch: Watch<'_>,
) -> Result<Verdict, TreeError> {
    let mut counting = Counting {
        hasher: TreeHasher::new(address),
        bytes: 0,
    };
    tree::walk(node, &mut counting, watch)?;
    let (got, bytes) = (counting.hasher.finish(), counting.bytes);
    Ok(verify::tree(address, got, bytes))
}

/// The hash that an address wants of a tree.
#[derive(Debug)]
enum TreeHasher {
    Nar(NarHasher),
    Git(GitHasher),
}

impl TreeHasher {
    fn new(address: &ContentAddress) -> Self {
        match address {
            ContentAddress::Git(git) => Self::Git(GitHasher::new(git.digest().algorithm())),
            other => Self::Nar(NarHasher::hashing(other.algorithm())),
        }
    }

    fn visitor(&mut self) -> &mut dyn Visitor {
        match self {
            Self::Nar(hasher) => hasher,
            Self::Git(hasher) => hasher,
        }
    }

    fn finish(self) -> Option<Digest> {
        match self {
            Self::Nar(hasher) => Some(hasher.finish().0),
            Self::Git(hasher) => hasher.finish(),
        }
    }
}

struct Counting {
    hasher: TreeHasher,
    bytes: u64,
}

impl Visitor for Counting {
    fn directory_start(&mut self) -> io::Result<()> {
        self.hasher.visitor().directory_start()
    }
    fn entry_start(&mut self, name: &[u8]) -> io::Result<()> {
        self.hasher.visitor().entry_start(name)
    }
    fn entry_end(&mut self) -> io::Result<()> {
        self.hasher.visitor().entry_end()
    }
    fn directory_end(&mut self) -> io::Result<()> {
        self.hasher.visitor().directory_end()
    }
    fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        self.hasher.visitor().symlink(target)
    }
    fn file_start(&mut self, executable: bool, size: u64) -> io::Result<()> {
        self.bytes += size;
        self.hasher.visitor().file_start(executable, size)
    }
    fn file_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.visitor().file_bytes(bytes)
    }
    fn file_end(&mut self) -> io::Result<()> {
        self.hasher.visitor().file_end()
    }
}

struct Copier {
    hasher: TreeHasher,
    /// The staged directories that are open, the innermost last.
    open: Vec<OwnedFd>,
    /// The staging directory until the walk enters it.
    root: Option<OwnedFd>,
    /// The name of the entry being visited.
    name: Option<Vec<u8>>,
    file: Option<File>,
    bytes: u64,
}

impl Copier {
    fn place(&mut self) -> io::Result<(&OwnedFd, Vec<u8>)> {
        let name = self.name.take();
        match (self.open.last(), name) {
            (Some(directory), Some(name)) => Ok((directory, name)),
            _ => Err(io::Error::other("only a directory can be copied as a tree")),
        }
    }

    fn make_directory(&mut self) -> io::Result<(&OwnedFd, Vec<u8>)> {
        let (parent, name) = self.place()?;
        rustix::fs::mkdirat(parent, OsStr::from_bytes(&name), Mode::from_raw_mode(0o777))?;
        Ok((parent, name))
    }
}

impl Visitor for Copier {
    fn directory_start(&mut self) -> io::Result<()> {
        let directory = match self.root.take() {
            Some(root) => root,
            None => {
                let (parent, name) = self.make_directory()?;
                let name = OsStr::from_bytes(&name);
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(parent, name, flags, Mode::empty())?
            }
        };
        self.open.push(directory);
        self.hasher.visitor().directory_start()
    }

    fn entry_start(&mut self, name: &[u8]) -> io::Result<()> {
        self.name = Some(name.to_vec());
        self.hasher.visitor().entry_start(name)
    }

    fn entry_end(&mut self) -> io::Result<()> {
        self.hasher.visitor().entry_end()
    }

    fn directory_end(&mut self) -> io::Result<()> {
        self.open.pop();
        self.hasher.visitor().directory_end()
    }

    fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        let (directory, name) = self.place()?;
        rustix::fs::symlinkat(
            OsStr::from_bytes(target),
            directory,
            OsStr::from_bytes(&name),
        )?;
        self.hasher.visitor().symlink(target)
    }

    fn file_start(&mut self, executable: bool, size: u64) -> io::Result<()> {
        let (directory, name) = self.place()?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if executable { 0o777 } else { 0o666 });
        let file = rustix::fs::openat(directory.as_fd(), OsStr::from_bytes(&name), flags, mode)?;
        if executable
            && !Mode::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).contains(Mode::XUSR)
        {
            // The umask may take the owner's bit, which is part of the content.
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o700))?;
        }
        self.file = Some(File::from(file));
        self.bytes += size;
        self.hasher.visitor().file_start(executable, size)
    }

    fn file_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
        }
        self.hasher.visitor().file_bytes(bytes)
    }

    fn file_end(&mut self) -> io::Result<()> {
        self.file = None;
        self.hasher.visitor().file_end()
    }

    fn submodule(&mut self, commit: &[u8]) -> io::Result<()> {
        self.make_directory()?;
        self.hasher.visitor().submodule(commit)
    }
}
