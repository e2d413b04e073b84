//! Verified content becomes the output, in one step: whole or not at all.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::staging::{self, Place, StagedFile, StagedTree};
use crate::verify::Verified;

/// What became of a publication.
#[derive(Debug, PartialEq, Eq)]
pub enum Published {
    /// The output is there.
    Done,
    /// Something appeared at the output meanwhile; nothing was touched.
    Taken,
}

/// Gives a staged file the output's name. `force` replaces a file or symbolic link that stands there.
pub fn file(
    staged: &mut StagedFile,
    verified: Verified,
    place: &Place,
    force: bool,
) -> io::Result<Published> {
    set_mode(&staged.file, verified.executable())?;
    if let Some(room) = staged.hidden.as_mut().filter(|room| room.is_output()) {
        room.disarm();
        return Ok(Published::Done);
    }
    if staged.is_in_spool() {
        // It must never have two names: the next run would go on writing to the output.
        if force {
            clear_empty_directory(place)?;
        }
        return rename(staged, place, force);
    }
    if !force {
        let linked = match &staged.hidden {
            None => link(&staged.file, place, &place.name),
            Some(hidden) => rustix::fs::linkat(
                hidden.directory(),
                hidden.name(),
                &*place.directory,
                &place.name,
                AtFlags::empty(),
            ),
        };
        return match linked {
            Ok(()) => Ok(Published::Done),
            Err(Errno::EXIST) => Ok(Published::Taken),
            // A file system without hard links: the room's own name becomes the output's.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) if staged.hidden.is_some() => {
                rename(staged, place, false)
            }
            Err(error) => Err(error.into()),
        };
    }
    clear_empty_directory(place)?;
    rename(staged, place, true)
}

/// Gives a staged tree the output's name.
pub fn tree(
    mut staged: StagedTree,
    _verified: Verified,
    place: &Place,
    force: bool,
) -> io::Result<Published> {
    let hidden = &mut staged.hidden;
    if hidden.is_output() {
        hidden.disarm();
        return Ok(Published::Done);
    }
    let moved = |flags| {
        rustix::fs::renameat_with(
            hidden.directory(),
            hidden.name(),
            &*place.directory,
            &place.name,
            flags,
        )
    };
    match moved(RenameFlags::NOREPLACE) {
        Ok(()) => {
            hidden.disarm();
            Ok(Published::Done)
        }
        Err(Errno::EXIST) if force => {
            clear_empty_directory(place)?;
            // The old file takes the hidden name and goes with it.
            match moved(RenameFlags::EXCHANGE) {
                Ok(()) if is_directory(hidden)? => {
                    // It appeared since it was looked at, and directories are never replaced.
                    moved(RenameFlags::EXCHANGE)?;
                    return Ok(Published::Taken);
                }
                Ok(()) => {}
                Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => {
                    // Gone meanwhile, or a file system that cannot exchange: then there is a moment without either.
                    staging::unlink_file(place)?;
                    moved(RenameFlags::NOREPLACE)?;
                    hidden.disarm();
                }
                Err(error) => return Err(error.into()),
            }
            Ok(Published::Done)
        }
        Err(Errno::EXIST) => Ok(Published::Taken),
        Err(error) => Err(error.into()),
    }
}

/// Leaves a wrong content at an output that a daemon gave us, for the daemon to judge: it prints the hash that the
/// packager needs. Never at an output of our own choice.
pub(crate) fn leave_to_daemon(mut staged: StagedFile, executable: bool) -> io::Result<()> {
    let Some(room) = staged.hidden.as_mut().filter(|room| room.is_output()) else {
        return Err(io::Error::other("no daemon will judge this output"));
    };
    set_mode(&staged.file, executable)?;
    room.disarm();
    Ok(())
}

/// The same for a tree.
pub(crate) fn leave_tree_to_daemon(mut staged: StagedTree) -> io::Result<()> {
    if !staged.hidden.is_output() {
        return Err(io::Error::other("no daemon will judge this output"));
    }
    staged.hidden.disarm();
    Ok(())
}

/// The same for a symbolic link.
pub(crate) fn leave_symlink_to_daemon(target: &[u8], place: &Place) -> io::Result<()> {
    if !place.given {
        return Err(io::Error::other("no daemon will judge this output"));
    }
    let target = std::ffi::OsStr::from_bytes(target);
    Ok(rustix::fs::symlinkat(
        target,
        &*place.directory,
        &place.name,
    )?)
}

/// Makes a symbolic link that is the output.
pub fn symlink(
    target: &[u8],
    _verified: Verified,
    place: &Place,
    force: bool,
) -> io::Result<Published> {
    const NAME: &str = "link";
    if place.given {
        let target = std::ffi::OsStr::from_bytes(target);
        rustix::fs::symlinkat(target, &*place.directory, &place.name)?;
        return Ok(Published::Done);
    }
    let staged = StagedTree::beside(place)?;
    let room = staged.directory()?;
    rustix::fs::symlinkat(std::ffi::OsStr::from_bytes(target), &room, NAME)?;
    if force {
        clear_empty_directory(place)?;
    }
    let flags = if force {
        RenameFlags::empty()
    } else {
        RenameFlags::NOREPLACE
    };
    match rustix::fs::renameat_with(&room, NAME, &*place.directory, &place.name, flags) {
        Ok(()) => Ok(Published::Done),
        Err(Errno::EXIST) => Ok(Published::Taken),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether the name stands for what was hashed.
fn is_same(hidden: &staging::Hidden, file: &File) -> io::Result<bool> {
    let named = rustix::fs::statat(hidden.directory(), hidden.name(), AtFlags::SYMLINK_NOFOLLOW);
    let hashed = rustix::fs::fstat(file)?;
    Ok(named.is_ok_and(|named| (named.st_dev, named.st_ino) == (hashed.st_dev, hashed.st_ino)))
}

fn is_directory(hidden: &staging::Hidden) -> io::Result<bool> {
    let stat = rustix::fs::statat(hidden.directory(), hidden.name(), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Replaces what stands at the output by a staged file, through a hidden name where it has none.
fn rename(staged: &mut StagedFile, place: &Place, replace: bool) -> io::Result<Published> {
    let in_spool = staged.is_in_spool();
    let mut hidden = match staged.hidden.take() {
        Some(hidden) => hidden,
        None => {
            let file = &staged.file;
            staging::hidden(place, |_, name| {
                link(file, place, name)?;
                file.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)
            })?
            .1
        }
    };
    if in_spool && !is_same(&hidden, &staged.file)? {
        return Err(io::Error::other("it has vanished from the spool"));
    }
    let flags = if replace {
        RenameFlags::empty()
    } else {
        RenameFlags::NOREPLACE
    };
    match rustix::fs::renameat_with(
        hidden.directory(),
        hidden.name(),
        &*place.directory,
        &place.name,
        flags,
    ) {
        Ok(()) => {
            hidden.disarm();
            Ok(Published::Done)
        }
        Err(Errno::EXIST) => Ok(Published::Taken),
        Err(error) => Err(error.into()),
    }
}

/// Gives a file without a name one.
fn link(file: &File, place: &Place, name: &std::ffi::OsStr) -> Result<(), Errno> {
    // Through /proc any process may link what it has open; the direct way wants a privilege on older kernels.
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(
        rustix::fs::CWD,
        &*itself,
        &*place.directory,
        name,
        AtFlags::SYMLINK_FOLLOW,
    ) {
        Err(Errno::NOENT | Errno::ACCESS) => {
            rustix::fs::linkat(file, "", &*place.directory, name, AtFlags::EMPTY_PATH)
        }
        answer => answer,
    }
}

/// An empty directory may be replaced; one with content stops the rename by itself.
fn clear_empty_directory(place: &Place) -> io::Result<()> {
    match rustix::fs::unlinkat(&*place.directory, &place.name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sets the mode of an output: 0666 or 0777 less umask, the owner's executable bit always as said.
pub(crate) fn set_mode(file: &File, executable: bool) -> io::Result<()> {
    let executable_bits = Mode::XUSR | Mode::XGRP | Mode::XOTH;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(file)?.st_mode & 0o7777);
    let wanted = if !executable {
        mode.difference(executable_bits)
    } else if mode.intersects(executable_bits) {
        mode | Mode::XUSR
    } else {
        // A file that was there before: who may read may execute.
        mode | Mode::XUSR | Mode::from_raw_mode((mode.as_raw_mode() & 0o044) >> 2)
    };
    if wanted != mode {
        rustix::fs::fchmod(file, wanted)?;
    }
    Ok(())
}

/// Returns whether nothing is in a directory.
pub(crate) fn is_empty(directory: &OwnedFd) -> io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether the owner may execute a file.
pub(crate) fn is_executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o100 != 0
}

/// Opens what stands at the output, if anything: a file, a directory, a symbolic link, or something else.
pub(crate) fn look_at(place: &Place) -> io::Result<Option<Standing>> {
    let stat = match rustix::fs::statat(&*place.directory, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let open = |flags: OFlags| -> io::Result<OwnedFd> {
        let flags = flags
            | OFlags::RDONLY
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(
            &*place.directory,
            &place.name,
            flags,
            Mode::empty(),
        )?)
    };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Standing::File(File::from(open(OFlags::empty())?)),
        FileType::Directory => Standing::Directory(open(OFlags::DIRECTORY)?),
        FileType::Symlink => Standing::Symlink,
        _ => Standing::Special,
    }))
}

/// What stands at an output's path.
#[derive(Debug)]
pub(crate) enum Standing {
    File(File),
    Directory(OwnedFd),
    Symlink,
    Special,
}
