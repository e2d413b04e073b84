//! Git ids of files and directories on disk, the same as Nix's `git` method and the SWHIDs of contents and
//! directories.
//!
//! An empty directory gets the id of git's empty tree, as Nix and Software Heritage have it; git itself cannot
//! record one.

use std::io;

use crate::address::{FileHasher, Framing};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::tree::Visitor;

/// Computes the id of the tree it visits, with SHA-1 collision detection.
#[derive(Debug)]
pub struct GitHasher {
    algorithm: Algorithm,
    /// Open directories, the innermost last.
    open: Vec<Vec<Entry>>,
    /// Names of the entries being visited, one for each open directory but the last.
    names: Vec<Vec<u8>>,
    file: Option<(FileHasher, bool)>,
    root: Option<(Mode, Digest)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    File,
    Executable,
    Symlink,
    Directory,
    Submodule,
}

impl Mode {
    const fn octal(self) -> &'static str {
        match self {
            Self::File => "100644",
            Self::Executable => "100755",
            Self::Symlink => "120000",
            Self::Directory => "40000",
            Self::Submodule => "160000",
        }
    }
}

#[derive(Debug)]
struct Entry {
    name: Vec<u8>,
    mode: Mode,
    id: Digest,
}

impl Entry {
    /// Git sorts directories as if their names ended in a slash.
    fn sort_key(&self) -> impl Iterator<Item = u8> + '_ {
        self.name
            .iter()
            .copied()
            .chain((self.mode == Mode::Directory).then_some(b'/'))
    }
}

impl GitHasher {
    /// Starts an id; `algorithm` is sha1 or sha256.
    pub const fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            open: Vec::new(),
            names: Vec::new(),
            file: None,
            root: None,
        }
    }

    /// Ends the id. `None` if nothing was visited, or the root is a symbolic link or an executable file, which
    /// have no id of their own under the `git` method.
    pub fn finish(self) -> Option<Digest> {
        match self.root? {
            (Mode::File | Mode::Directory, id) => Some(id),
            (Mode::Executable | Mode::Symlink | Mode::Submodule, _) => None,
        }
    }

    /// Adds a file whose blob id is known, in place of its bytes.
    pub(crate) fn known_file(&mut self, executable: bool, id: Digest) {
        self.add(
            if executable {
                Mode::Executable
            } else {
                Mode::File
            },
            id,
        );
    }

    /// Ends the innermost directory and returns its id.
    pub(crate) fn close_directory(&mut self) -> io::Result<Digest> {
        let mut entries = self.open.pop().unwrap_or_default();
        entries.sort_by(|a, b| a.sort_key().cmp(b.sort_key()));
        let mut body = Vec::new();
        for entry in &entries {
            body.extend(entry.mode.octal().bytes());
            body.push(b' ');
            body.extend(&entry.name);
            body.push(0);
            body.extend(entry.id.as_bytes());
        }
        let mut hasher = Hasher::new_collision_detecting(self.algorithm);
        hasher.update(format!("tree {}\0", body.len()).as_bytes());
        hasher.update(&body);
        let id = hasher.finish().ok_or_else(collision)?;
        self.add(Mode::Directory, id);
        Ok(id)
    }

    /// Ends the innermost directory without an id; those around it can have none either.
    pub(crate) fn abandon_directory(&mut self) {
        self.open.pop();
    }

    fn add(&mut self, mode: Mode, id: Digest) {
        match (self.open.last_mut(), self.names.last()) {
            (Some(directory), Some(name)) => directory.push(Entry {
                name: name.clone(),
                mode,
                id,
            }),
            _ => self.root = Some((mode, id)),
        }
    }
}

fn collision() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the content is part of a SHA-1 collision attack, or changed while read",
    )
}

impl Visitor for GitHasher {
    fn directory_start(&mut self) -> io::Result<()> {
        self.open.push(Vec::new());
        Ok(())
    }

    fn entry_start(&mut self, name: &[u8]) -> io::Result<()> {
        self.names.push(name.to_vec());
        Ok(())
    }

    fn entry_end(&mut self) -> io::Result<()> {
        self.names.pop();
        Ok(())
    }

    fn directory_end(&mut self) -> io::Result<()> {
        self.close_directory().map(drop)
    }

    fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        let size = target.len() as u64;
        let mut hasher =
            FileHasher::new_collision_detecting(Framing::GitBlob, self.algorithm, size);
        hasher.update(target);
        let id = hasher.finish().ok_or_else(collision)?;
        self.add(Mode::Symlink, id);
        Ok(())
    }

    fn file_start(&mut self, executable: bool, size: u64) -> io::Result<()> {
        let hasher = FileHasher::new_collision_detecting(Framing::GitBlob, self.algorithm, size);
        self.file = Some((hasher, executable));
        Ok(())
    }

    fn file_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some((hasher, _)) = &mut self.file {
            hasher.update(bytes);
        }
        Ok(())
    }

    fn file_end(&mut self) -> io::Result<()> {
        if let Some((hasher, executable)) = self.file.take() {
            let id = hasher.finish().ok_or_else(collision)?;
            self.known_file(executable, id);
        }
        Ok(())
    }

    fn submodule(&mut self, commit: &[u8]) -> io::Result<()> {
        let id = Digest::new(self.algorithm, commit).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the ids are of another algorithm",
            )
        })?;
        self.add(Mode::Submodule, id);
        Ok(())
    }
}
