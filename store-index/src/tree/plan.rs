//! The listing end of a walk: which entries there are, in order, and who reads the files.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::read_ahead::{FilePart, Job};
use super::{MAX_DEPTH, MAX_ENTRIES, Obstacle, Skip};
use crate::beneath::Reach;
use crate::watch::Watch;

/// What comes next in a walk.
#[derive(Debug)]
pub(super) enum Step {
    /// A directory; the root has no name.
    Enter(Option<CString>),
    /// The innermost directory is over.
    Leave,
    /// A symbolic link and its target.
    Symlink(CString, CString),
    /// A regular file and where its bytes come from.
    File(CString, Receiver<FilePart>),
    /// The walk ends here, at an entry of the innermost directory or in it.
    Stop(Option<CString>, Obstacle),
    /// The root is over, and so many entries are metadata.
    End(u64),
}

/// Lists a tree.
pub(super) struct Planner<'a> {
    pub(super) skip: Skip,
    pub(super) reach: Reach,
    pub(super) watch: Watch<'a>,
    pub(super) steps: Sender<Step>,
    pub(super) jobs: Sender<Job>,
    /// Takes a token for each file that is being read ahead.
    pub(super) tokens: Sender<()>,
    pub(super) entries: u64,
    /// Entries that some form of a tree leaves out.
    pub(super) metadata: u64,
}

/// Nobody waits for the rest.
pub(super) struct Unwanted;

type Planned = Result<(), Unwanted>;

impl Planner<'_> {
    pub(super) fn run(mut self, root: OwnedFd) {
        // Whoever stopped listening needs no answer.
        if self.directory(None, root, 0).is_ok() {
            let end = Step::End(self.metadata);
            self.send(end).ok();
        }
    }

    fn send(&self, step: Step) -> Planned {
        let stops = matches!(step, Step::Stop(..));
        self.steps.send(step).map_err(|_| Unwanted)?;
        if stops { Err(Unwanted) } else { Ok(()) }
    }

    fn stop(&self, name: &CStr, obstacle: impl Into<Obstacle>) -> Planned {
        self.send(Step::Stop(Some(name.to_owned()), obstacle.into()))
    }

    fn directory(&mut self, name: Option<CString>, directory: OwnedFd, depth: usize) -> Planned {
        self.send(Step::Enter(name))?;
        let stop = |obstacle| Step::Stop(None, obstacle);
        if depth >= MAX_DEPTH {
            return self.send(stop(Obstacle::TooDeep));
        }
        let names = match self.list(&directory) {
            Ok(names) => names,
            Err(obstacle) => return self.send(stop(obstacle)),
        };
        let directory = Arc::new(directory);
        for (name, file_type) in names {
            if self.watch.interrupted() {
                return self.send(stop(Obstacle::Interrupted));
            }
            self.entry(&directory, name, file_type, depth)?;
        }
        self.send(Step::Leave)
    }

    fn list(&mut self, directory: &OwnedFd) -> Result<Vec<(CString, FileType)>, Obstacle> {
        let mut names = Vec::new();
        if self.reach == Reach::Public {
            self.reach.check(&rustix::fs::fstat(directory)?)?;
        }
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if Skip::Metadata.passes_over(name.to_bytes()) {
                self.metadata += 1;
                if self.skip == Skip::Metadata {
                    continue;
                }
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Obstacle::TooManyEntries);
            }
            names.push((name.to_owned(), entry.file_type()));
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    fn entry(
        &mut self,
        directory: &Arc<OwnedFd>,
        name: CString,
        file_type: FileType,
        depth: usize,
    ) -> Planned {
        let file_type = match file_type {
            // Some file systems do not tell the type in the listing.
            FileType::Unknown => {
                match rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(error) => return self.stop(&name, error),
                }
            }
            known => known,
        };
        match file_type {
            FileType::RegularFile => self.file(directory, name),
            FileType::Directory => match open(directory, &name, OFlags::DIRECTORY) {
                Ok(child) => self.directory(Some(name), child, depth + 1),
                Err(error) => self.stop(&name, error),
            },
            FileType::Symlink => match rustix::fs::readlinkat(directory, &name, Vec::new()) {
                Ok(target) => self.send(Step::Symlink(name, target)),
                Err(error) => self.stop(&name, error),
            },
            _ => self.stop(&name, Obstacle::Special),
        }
    }

    fn file(&self, directory: &Arc<OwnedFd>, name: CString) -> Planned {
        self.tokens.send(()).map_err(|_| Unwanted)?;
        let (job, parts) = Job::new(directory, &name);
        self.jobs.send(job).map_err(|_| Unwanted)?;
        self.send(Step::File(name, parts))
    }
}

/// Opens an entry of a directory without following it.
pub(super) fn open(
    directory: &OwnedFd,
    name: &CStr,
    flags: OFlags,
) -> Result<OwnedFd, rustix::io::Errno> {
    // NONBLOCK and NOCTTY: the name may have become a pipe or terminal since it was listed.
    let flags = flags
        | OFlags::RDONLY
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}
