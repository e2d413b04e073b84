//! Opens files beneath a root without ever leaving it.
//!
//! Names come from indexes and listings, which may be hostile: a candidate must be found beneath its root, and be a
//! regular file at the moment of opening, not a device, pipe or terminal that does something when opened.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::mounts::hanging_below;
use crate::path_text::printable;

/// The longest symbolic link target that is read, in bytes: Linux's own limit.
const MAX_SYMLINK_TARGET_LEN: usize = 4096;

/// A directory that everything opened through it lies beneath.
#[derive(Debug)]
pub struct Beneath {
    directory: OwnedFd,
    path: PathBuf,
    reach: Reach,
    /// Where something that may hang is mounted below, once that was asked for.
    hanging: OnceLock<Vec<PathBuf>>,
}

/// What may be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// What this process may read.
    #[default]
    Own,
    /// Only what everybody may read, below directories that everybody may enter: for those who read on behalf of
    /// somebody who may read less.
    Public,
}

impl Reach {
    /// Refuses what is not within reach. A directory is to be listed as well as entered.
    pub(crate) fn check(self, stat: &Stat) -> Result<(), Errno> {
        let others = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Mode::ROTH | Mode::XOTH,
            _ => Mode::ROTH,
        };
        self.require(stat, others)
    }

    fn check_way(self, stat: &Stat) -> Result<(), Errno> {
        self.require(stat, Mode::XOTH)
    }

    fn require(self, stat: &Stat, others: Mode) -> Result<(), Errno> {
        if self == Self::Own || Mode::from_raw_mode(stat.st_mode).contains(others) {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        }
    }
}

/// Something opened beneath a root.
#[derive(Debug)]
pub enum Node {
    /// A regular file, open for reading.
    File(File),
    /// A directory, open for listing.
    Directory(OwnedFd),
    /// A symbolic link's target.
    Symlink(Vec<u8>),
}

impl Beneath {
    /// Opens a root. The path itself comes from the user or the configuration and may contain symbolic links.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| name(path, error))?;
        Ok(Self {
            directory,
            path: path.to_owned(),
            reach: Reach::Own,
            hanging: OnceLock::new(),
        })
    }

    /// Opens a root through which only [`Reach::Public`] files are opened. Everybody must be able to enter it.
    pub fn open_public(path: &Path) -> io::Result<Self> {
        let root = Self::open(path)?;
        let real = fs_err::canonicalize(path)?;
        // All but `/`: whoever runs is in it, and that of Nix's sandbox has no bits for others.
        let ancestors = real.ancestors().filter(|way| way.parent().is_some());
        for directory in ancestors {
            let stat = rustix::fs::stat(directory).map_err(|error| name(directory, error))?;
            Reach::Public
                .check_way(&stat)
                .map_err(|error| name(directory, error))?;
        }
        // What was looked at must be what was opened.
        let (opened, looked_at) = (
            rustix::fs::fstat(&root.directory).map_err(|error| name(path, error))?,
            rustix::fs::stat(&real).map_err(|error| name(path, error))?,
        );
        root.same(Path::new(""), &opened, &looked_at)?;
        Ok(Self {
            reach: Reach::Public,
            ..root
        })
    }

    /// Returns what may be opened through it.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Returns the root's path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where network file systems and the like are mounted below the root, relative to it. They were not named,
    /// hang when their server is gone, and nothing is opened there.
    pub fn hanging(&self) -> &[PathBuf] {
        self.hanging.get_or_init(|| hanging_below(&self.path))
    }

    /// Returns true for what lies where something that may hang is mounted.
    pub fn may_hang(&self, relative: &Path) -> bool {
        let mut hanging = self.hanging().iter();
        hanging.any(|mount_point| relative.starts_with(mount_point))
    }

    /// Opens the root itself for listing.
    pub fn open_root(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(&self.directory, ".", flags, Mode::empty());
        root.and_then(|root| {
            self.reach.check(&rustix::fs::fstat(&root)?)?;
            Ok(root)
        })
        .map_err(|error| name(&self.path, error))
    }

    /// Opens what is read as a whole: a file, symbolic link or directory as [`Beneath::open_node`] does, or the root for
    /// an empty path. A directory in which something that may hang is mounted is an error.
    pub fn open_node_or_root(&self, relative: &Path) -> io::Result<Node> {
        let mut hanging = self.hanging().iter();
        if hanging.any(|mount_point| mount_point.starts_with(relative)) {
            return Err(self.unfit(relative, "has a network or FUSE mount in it"));
        }
        if relative.as_os_str().is_empty() {
            self.open_root().map(Node::Directory)
        } else {
            self.open_node(relative)
        }
    }

    /// Opens a regular file for reading; anything else is an error of kind `InvalidInput`.
    pub fn open_file(&self, relative: &Path) -> io::Result<File> {
        match self.open_node(relative)? {
            Node::File(file) => Ok(file),
            Node::Directory(_) => Err(self.unfit(relative, "is a directory, not a file")),
            Node::Symlink(_) => Err(self.unfit(relative, "is a symbolic link, not a file")),
        }
    }

    /// Looks for a file of this length, or of any. Nothing is opened for reading.
    pub fn has_file(&self, relative: &Path, len: Option<u64>) -> bool {
        let found = self
            .check(relative)
            .ok()
            .and_then(|()| self.resolve(relative, OFlags::PATH | OFlags::NOFOLLOW).ok());
        let stat = found.and_then(|found| rustix::fs::fstat(&found).ok());
        stat.is_some_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                // What may not be read must not be seen to be there either.
                && self.reach.check(&stat).is_ok()
                && len.is_none_or(|len| u64::try_from(stat.st_size) == Ok(len))
        })
    }

    /// Opens a file, directory or symbolic link, itself not followed.
    pub fn open_node(&self, relative: &Path) -> io::Result<Node> {
        self.check(relative)?;
        let named = |error: Errno| name(&self.path.join(relative), error);
        // Without touching it, see what it is; only then open it for reading, and see that it is still the same.
        let found = self
            .resolve(relative, OFlags::PATH | OFlags::NOFOLLOW)
            .map_err(named)?;
        let before = rustix::fs::fstat(&found).map_err(named)?;
        if !matches!(FileType::from_raw_mode(before.st_mode), FileType::Symlink) {
            self.reach.check(&before).map_err(named)?;
        }
        match FileType::from_raw_mode(before.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
                let opened = self.resolve(relative, flags).map_err(named)?;
                self.same(
                    relative,
                    &before,
                    &rustix::fs::fstat(&opened).map_err(named)?,
                )?;
                Ok(Node::File(File::from(opened)))
            }
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY;
                let opened = self.resolve(relative, flags).map_err(named)?;
                self.same(
                    relative,
                    &before,
                    &rustix::fs::fstat(&opened).map_err(named)?,
                )?;
                Ok(Node::Directory(opened))
            }
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(&found, "", Vec::with_capacity(256)).map_err(named)?;
                if target.as_bytes().len() > MAX_SYMLINK_TARGET_LEN {
                    return Err(self.unfit(relative, "has a target that is too long"));
                }
                Ok(Node::Symlink(target.into_bytes()))
            }
            _ => Err(self.unfit(relative, "is neither file, directory nor symbolic link")),
        }
    }

    fn resolve(&self, relative: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let root = self.directory.as_fd();
        if self.may_hang(relative) {
            return Err(Errno::XDEV);
        }
        match self.reach {
            Reach::Own if self.hanging().is_empty() => resolve(root, relative, flags),
            // Every directory on the way is looked at, which the kernel would not do for us; and a symbolic link on
            // the way could lead to what hangs.
            _ => resolve_by_component(root, relative, flags | OFlags::CLOEXEC, self.reach),
        }
    }

    fn check(&self, relative: &Path) -> io::Result<()> {
        let plain = relative
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if plain
            && !relative.as_os_str().is_empty()
            && !relative.as_os_str().as_bytes().contains(&0)
        {
            Ok(())
        } else {
            Err(self.unfit(relative, "is not a plain relative path"))
        }
    }

    fn same(&self, relative: &Path, before: &Stat, after: &Stat) -> io::Result<()> {
        if (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino) {
            Ok(())
        } else {
            Err(self.unfit(relative, "was replaced while it was opened"))
        }
    }

    fn unfit(&self, relative: &Path, what: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} {what}", printable(&self.path.join(relative))),
        )
    }
}

/// Puts the path into an error, which the kernel's number does not carry.
fn name(path: &Path, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(
        error.kind(),
        format!("cannot open {}: {error}", printable(path)),
    )
}

fn resolve(root: BorrowedFd<'_>, relative: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, relative, flags, Mode::empty(), beneath) {
        // Old kernels, and seccomp filters that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => resolve_by_component(root, relative, flags, Reach::Own),
        answer => answer,
    }
}

/// The same without `openat2`, stricter: no symbolic link on the way is followed.
fn resolve_by_component(
    root: BorrowedFd<'_>,
    relative: &Path,
    flags: OFlags,
    reach: Reach,
) -> Result<OwnedFd, Errno> {
    let mut directory: Option<OwnedFd> = None;
    let mut parts = relative.components().peekable();
    while let Some(part) = parts.next() {
        let at = directory.as_ref().map_or(root, |fd| fd.as_fd());
        if reach == Reach::Public {
            reach.check_way(&rustix::fs::fstat(at)?)?;
        }
        let part_flags = if parts.peek().is_some() {
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
        } else {
            flags
        };
        directory = Some(rustix::fs::openat(
            at,
            part.as_os_str(),
            part_flags,
            Mode::empty(),
        )?);
    }
    directory.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn fixture() -> (tempfile::TempDir, Beneath) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs_err::create_dir_all(root.join("sub")).unwrap();
        fs_err::write(root.join("sub/file"), "inside").unwrap();
        fs_err::write(dir.path().join("secret"), "outside").unwrap();
        symlink("../../secret", root.join("sub/out")).unwrap();
        symlink("..", root.join("up")).unwrap();
        let beneath = Beneath::open(&root).unwrap();
        (dir, beneath)
    }

    #[test]
    fn files_inside_open_and_nothing_leads_out() {
        let (_dir, beneath) = fixture();
        assert_eq!(
            std::io::read_to_string(beneath.open_file(Path::new("sub/file")).unwrap()).unwrap(),
            "inside"
        );
        for path in [
            "sub/out",
            "up/secret",
            "../secret",
            "/etc/passwd",
            "sub/../../secret",
            "",
            ".",
            "sub",
        ] {
            assert!(beneath.open_file(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn without_openat2_nothing_leads_out_either() {
        let (_dir, beneath) = fixture();
        let open = |path: &str| {
            resolve_by_component(
                beneath.directory.as_fd(),
                Path::new(path),
                OFlags::RDONLY | OFlags::NOFOLLOW,
                Reach::Own,
            )
        };
        assert!(open("sub/file").is_ok());
        assert!(open("sub/out").is_err());
        assert!(open("up/secret").is_err());
    }

    #[test]
    fn pipes_are_refused_without_blocking() {
        let (dir, beneath) = fixture();
        let pipe = dir.path().join("root/pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            FileType::Fifo,
            Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        assert_eq!(
            beneath.open_node(Path::new("pipe")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn public_reach_ends_at_what_others_may_not_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path, mode| {
            fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let (dir, own) = fixture();
        let root = dir.path().join("root");
        mode(dir.path(), 0o700);
        let refused = Beneath::open_public(&root).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        mode(dir.path(), 0o711);
        let public = Beneath::open_public(&root).unwrap();
        let file = Path::new("sub/file");
        assert!(public.open_file(file).is_ok());
        mode(&root.join(file), 0o640);
        assert!(own.open_file(file).is_ok());
        assert_eq!(
            public.open_file(file).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        mode(&root.join(file), 0o644);
        mode(&root.join("sub"), 0o750);
        assert!(own.open_node(Path::new("sub")).is_ok());
        assert!(public.open_file(file).is_err());
        assert!(public.open_node(Path::new("sub")).is_err());
    }
}
